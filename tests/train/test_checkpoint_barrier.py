"""The wait for others' parts of a checkpoint, with jax's real key-value store and a thread for each process."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import jax
import pytest
from jax._src.lib import _jax
from tiny_runs import free_port

from mae_jax.train import checkpoint_barrier
from mae_jax.train.checkpoint_barrier import Barrier

COUNT = 3
here = threading.local()  # the number of the process that a thread plays


@pytest.fixture
def processes(monkeypatch):
    """run(work) -> [work(number) of every process], each with a client of its own."""
    address = f"127.0.0.1:{free_port()}"
    service = _jax.get_distributed_runtime_service(address, COUNT)
    clients = [_jax.get_distributed_runtime_client(address, i, use_compression=False) for i in range(COUNT)]
    monkeypatch.setattr(checkpoint_barrier, "store", lambda: clients[here.number])
    monkeypatch.setattr(jax, "process_count", lambda: COUNT)
    monkeypatch.setattr(jax, "process_index", lambda: here.number)

    def run(work):
        def one(number):
            here.number = number
            return work(number)

        with ThreadPoolExecutor(COUNT) as threads:
            return list(threads.map(one, range(COUNT)))

    run(lambda number: clients[number].connect())
    yield run
    run(lambda number: clients[number].shutdown())
    service.shutdown()


def opened():
    """A barrier of every process."""
    barriers = [Barrier() for _ in range(COUNT)]
    for barrier in barriers:
        barrier._number = 0  # each process counts its own
    return barriers


def test_nobody_passes_before_the_last_has_come_again_and_again(processes):
    barriers = opened()
    came, passed = [], []
    agreed = threading.Barrier(COUNT, timeout=60)  # as Checkpoints.settle, before another save

    def work(number):
        for _ in range(2):  # saves
            barriers[number].begin()
            for _ in range(3):  # the same key, as orbax uses it
                time.sleep(0.05 * number)
                came.append(number)
                barriers[number](key="written", timeout_ms=20_000)
                passed.append(len(came))
            agreed.wait()

    processes(work)
    assert [min(passed[i : i + COUNT]) >= i + COUNT for i in range(0, 6 * COUNT, COUNT)] == [True] * 6


def test_an_error_on_its_way_ends_everybodys_wait(processes):
    barriers = opened()
    agreed = threading.Barrier(COUNT, timeout=60)

    def fails():
        here.number = 2
        try:
            raise OSError(28, "No space left on device")
        finally:  # as orbax tidies up
            barriers[2](key="over", timeout_ms=20_000)

    def work(number):
        barriers[number].begin()
        begun = time.monotonic()
        try:
            if number == 2:
                with ThreadPoolExecutor(1) as background:
                    background.submit(fails).result()
            barriers[number](key="written", timeout_ms=20_000)
        except (OSError, RuntimeError) as error:
            assert time.monotonic() - begun < 10
            said = str(error)
        agreed.wait()
        barriers[number].begin()  # the next save knows nothing of it
        barriers[number](key="written", timeout_ms=20_000)
        return said

    said = processes(work)
    assert said[2] == "[Errno 28] No space left on device"
    assert all("process 2: OSError: [Errno 28]" in text for text in said[:2])


def test_who_never_comes_is_not_waited_for_beyond_the_time(processes):
    barriers = opened()

    def work(number):
        if number == 1:
            return
        with pytest.raises(RuntimeError, match="not all 3 processes wrote their parts"):
            barriers[number](key="written", timeout_ms=300)

    processes(work)
