"""A signal becomes a flag; the second Ctrl-C kills; the old handlers come back."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from mae_jax.train.signals import Preemption, agree


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_sets_the_flag_and_the_old_handlers_return(number):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with Preemption() as preemption:
        assert preemption.active and not preemption.requested
        os.kill(os.getpid(), number)
        assert preemption.requested and preemption.received == number.name
        assert agree(preemption.requested)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_handlers_return_after_an_error_and_nested_ones_stack():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ValueError), Preemption(), Preemption() as inner:
        os.kill(os.getpid(), signal.SIGTERM)
        assert inner.requested
        raise ValueError
    assert signal.getsignal(signal.SIGINT) is before


def test_off_the_main_thread_it_does_nothing():
    seen = []
    before = signal.getsignal(signal.SIGTERM)

    def work():
        with Preemption() as preemption:
            seen.append((preemption.active, preemption.requested, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, False, before)]


def test_agree_of_one_process():
    assert agree(True) is True and agree(False) is False


@pytest.mark.parametrize("signals,status", [((2, 2), -2), ((2, 15, 2), -2), ((15, 2), 0), ((15, 15), 0)])
def test_only_a_second_interrupt_ends_the_process(tmp_path, signals, status):
    script = f"""
        import os
        from mae_jax.train.signals import Preemption
        with Preemption() as preemption:
            for number in {signals}:
                os.kill(os.getpid(), number)
        assert preemption.requested
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == status, done.stderr
    assert "received: stopping after this step" in done.stderr
