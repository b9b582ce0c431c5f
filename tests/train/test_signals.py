"""A signal becomes a flag; the second one ends the process; the old handlers come back."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from mae_jax.train.signals import Preemption, agree


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
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


@pytest.mark.parametrize("signals,status", [((2, 2), 130), ((15, 2), 130), ((2, 15), 143), ((10, 10), 143), ((15,), 0)])
def test_a_second_signal_of_any_kind_ends_the_process(signals, status):
    assert ended("for number in NUMBERS: os.kill(os.getpid(), number)", signals) == status


def test_a_second_signal_ends_it_while_the_main_thread_is_in_c_code():
    """The main thread sits in a call that Python's own handlers wait for (they run between bytecodes)."""
    body = """
    threading.Timer(1, lambda: [os.kill(os.getpid(), n) or time.sleep(0.2) for n in NUMBERS]).start()
    libc = ctypes.CDLL(None)  # lets go of the interpreter's lock, as a collective does
    until = time.monotonic() + 20
    while time.monotonic() < until:
        libc.pause() if not preemption.requested else libc.sleep(20)
    """
    assert ended(textwrap.dedent(body), (15, 15)) == 143


def ended(body, signals):
    """The exit status of a process that runs `body` under a Preemption."""
    script = "import ctypes, os, threading, time\nfrom mae_jax.train.signals import Preemption\n"
    script += f"NUMBERS = {signals}\nwith Preemption() as preemption:\n{textwrap.indent(body, '    ')}\n"
    script += "assert preemption.requested\n"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "JAX_PLATFORMS": "cpu"},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert "received" in done.stderr, done.stderr
    return done.returncode
