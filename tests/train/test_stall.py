"""What counts as waiting for input, on a clock of the test's own."""

import pytest

from mae_jax.train.stall import Stall


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def batches(self, *waits):
        for wait in waits:
            self.now += wait
            yield wait


class Running:
    def __init__(self, done):
        self.done = done

    def is_ready(self):
        return self.done


def test_only_what_the_devices_wait_counts():
    clock = Clock()
    stall, batches = Stall(clock), clock.batches(7.0, 1.0, 2.0, 1.0)
    stall.take(batches, None)  # nothing runs yet: what the first batch takes is the start of the run
    stall.take(batches, {"loss": Running(True)})  # 1 s, after which the step before had ended
    stall.take(batches, {"loss": Running(False)})  # 2 s that the step before was still busy
    assert stall.share() == pytest.approx(1 / 3)
    clock.now += 9.0
    stall.take(batches, {"loss": Running(True)})
    assert stall.share() == pytest.approx(1 / 10)


def test_a_starved_run_is_told_once(capsys):
    stall = Stall()
    for share in (0.01, 0.5, 0.5):
        stall.advise(share)
    said = capsys.readouterr().err
    assert said.count("wait for input 50%") == 1 and "mae_jax data" in said
