"""Two real processes: one is asked to stop, killed, stopped or fails, and the other says so and ends, in time."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from tiny_runs import free_port

from mae_jax.core.exits import BAD_INPUT, INTERRUPTED, RESTART

LIMIT = 120  # seconds for any wait
HEARTBEAT = 4

WORKER = """
    import argparse, os, sys
    from mae_jax.commands.options import start_processes
    address, index, fault = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    start_processes(argparse.Namespace(coordinator=address, processes=2, process_id=index), HEARTBEAT)
    import jax, jax.numpy as jnp, numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec
    from mae_jax.core.errors import UserError
    from mae_jax.train.hosts import Hosts
    from mae_jax.train.signals import Preemption
    split = NamedSharding(Mesh(np.array(jax.devices()), ("d",)), PartitionSpec("d"))
    x = jax.make_array_from_process_local_data(split, np.ones(2, np.float32))
    step = jax.jit(lambda x: x + 0 * x.sum(), out_shardings=split)
    with Preemption() as preemption, Hosts(HEARTBEAT, lambda: preemption.requested) as hosts:
        try:
            for done in range(1, 1_000_000):
                x = jax.block_until_ready(step(x))
                if done == 20:
                    print("under way", flush=True)
                if done == 30 and index == 1 and fault == "error":
                    raise UserError("record 7 of this host cannot be read")
                if hosts.stops_at(done):
                    print("stopped after", done, flush=True)
                    break
        except Exception as error:
            hosts.tell(error)
            raise
    sys.exit(143)
""".replace("HEARTBEAT", str(HEARTBEAT))


class Pair:
    def __init__(self, folder: Path, fault: str = ""):
        address = f"127.0.0.1:{free_port()}"
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "--xla_force_host_platform_device_count=1",
            "PYTHONPATH": str(Path(__file__).parents[2]),
        }
        self.logs = [folder / f"{i}.log" for i in range(2)]
        self.processes = []
        for i, log in enumerate(self.logs):
            with open(log, "w") as file:
                command = [sys.executable, "-c", textwrap.dedent(WORKER), address, str(i), fault]
                self.processes.append(
                    subprocess.Popen(command, stdout=file, stderr=file, env=environment, start_new_session=True)
                )

    def __enter__(self):
        until = time.monotonic() + LIMIT
        while not all("under way" in self.said(i) for i in range(2)):
            assert time.monotonic() < until and all(p.poll() is None for p in self.processes), self.said(0)
            time.sleep(0.05)
        return self

    def __exit__(self, *_):
        for process in self.processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(LIMIT)

    def said(self, i):
        return self.logs[i].read_text()

    def status(self, i):
        return self.processes[i].wait(LIMIT)


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGUSR1, marks=pytest.mark.slow)])
def test_a_signal_to_one_stops_both_after_the_same_step(tmp_path, number):
    """jax.distributed is up, whose own notifier would have swallowed SIGTERM."""
    with Pair(tmp_path) as pair:
        pair.processes[1].send_signal(number)
        assert [pair.status(i) for i in range(2)] == [INTERRUPTED] * 2, pair.said(0) + pair.said(1)
        at = [pair.said(i).split("stopped after")[1].split()[0] for i in range(2)]
        assert at[0] == at[1] and int(at[0]) > 20
        assert f"{number.name} received" in pair.said(1)


@pytest.mark.parametrize("victim", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_the_survivor_of_a_killed_process_ends_to_be_restarted(tmp_path, victim):
    with Pair(tmp_path) as pair:
        pair.processes[victim].kill()
        begun = time.monotonic()
        assert pair.status(1 - victim) == RESTART, pair.said(1 - victim)
        assert time.monotonic() - begun < 60  # jax alone would take 100 s, or abort
        said = pair.said(1 - victim)
        assert "The same command resumes" in said and f"status {RESTART}" in said
        assert "another process of this run ended" in said or "another of its processes is lost" in said


@pytest.mark.parametrize("victim", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_a_stopped_process_counts_as_lost_after_the_heartbeat(tmp_path, victim):
    with Pair(tmp_path) as pair:
        pair.processes[victim].send_signal(signal.SIGSTOP)
        assert pair.status(1 - victim) == RESTART, pair.said(1 - victim)
        assert f"lost process {victim}" in pair.said(1 - victim)
        assert "The same command resumes" in pair.said(1 - victim)


@pytest.mark.slow
def test_what_one_process_refuses_ends_the_other_with_the_same_words(tmp_path):
    with Pair(tmp_path, "error") as pair:
        assert [pair.status(i) for i in range(2)] == [BAD_INPUT] * 2, pair.said(0)
        assert all("record 7 of this host cannot be read" in pair.said(i) for i in range(2))
