"""The progress line: numbers people can read, and a rate that leaves pauses and compilation out."""

import io

import pytest

from mae_jax.train.progress import Progress, duration, metric_text, si


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.mark.parametrize(
    "seconds,text",
    [
        (0, "0s"),
        (59.4, "59s"),
        (59.6, "1m00s"),
        (72, "1m12s"),
        (3599.6, "1h00m"),
        (11_100, "3h05m"),
        (86_400 * 2 + 3600 * 7 + 60, "2d07h"),
        (float("inf"), "?"),
        (float("nan"), "?"),
    ],
)
def test_duration(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    "value,text",
    [
        (0, "0"),
        (0.8123, "0.812"),
        (812, "812"),
        (999.7, "1k"),
        (8123, "8.12k"),
        (1.5e6, "1.5M"),
        (9.89e14, "989T"),
    ],
)
def test_si(value, text):
    assert si(value) == text


def test_metric_text():
    assert [metric_text("loss", v) for v in (0.41234, 12.3456, 0, float("nan"))] == [
        "0.412",
        "12.35",
        "0",
        "nan",
    ]
    assert metric_text("lr", 1e-3) == "1.0e-03"


def test_the_whole_line():
    clock, out = Clock(), io.StringIO()
    progress = Progress(1500, batch=256, start=100, stream=out, clock=clock)
    clock.now += 60  # compilation
    progress.update(101, {"loss": 0.5})
    clock.now += 20
    line = progress.update(300, {"loss": 0.41234, "lr": 1e-3}, mfu=0.4123)
    # 199 steps in 20 s: 9.95 steps/s, 2547 images/s, 1200 steps left: 121 s
    assert line == "step 300/1500  loss 0.412  lr 1.0e-03  2.55k img/s  ETA 2m01s  MFU 41.2%"
    assert out.getvalue().splitlines()[-1] == line


def test_pauses_do_not_count():
    clock = Clock()
    progress = Progress(100, stream=io.StringIO(), clock=clock)
    for step in range(1, 50):
        clock.now += 0.5
        with progress.paused():
            clock.now += 1000
        progress.update(step, {})
        assert progress.rate == pytest.approx(2)


def test_the_rate_follows_a_change():
    clock = Clock()
    progress = Progress(10_000, stream=io.StringIO(), clock=clock)
    for step in range(1, 400):
        clock.now += 0.1 if step < 200 else 1.0
        progress.update(step, {})
    assert progress.rate == pytest.approx(1, rel=0.02)


def test_the_same_step_twice_or_a_clock_that_stands_still_gives_no_rate():
    progress = Progress(10, stream=io.StringIO(), clock=Clock())
    assert progress.update(0, {"loss": 1.0}) == "step 0/10  loss 1"
    assert progress.update(5, {}) == "step 5/10"


def test_a_terminal_gets_one_line_and_a_file_many():
    live = "\rstep 1/100  loss 10.25\rstep 2/100  loss 1    \nhello\n"
    plain = "step 1/100  loss 10.25\nstep 2/100  loss 1\nhello\n"
    for stream, expected in ((Terminal(), live), (io.StringIO(), plain)):
        progress = Progress(100, stream=stream, clock=Clock())
        progress.update(1, {"loss": 10.25})
        progress.update(2, {"loss": 1.0})
        progress.say("hello")
        progress.close()
        assert stream.getvalue() == expected


def test_an_inactive_one_prints_nothing():
    stream = Terminal()
    progress = Progress(100, stream=stream, active=False)
    progress.update(1, {"loss": 1.0})
    progress.say("hello")
    progress.close()
    assert stream.getvalue() == ""
