"""A step that hangs: the stacks are written, and the process ends; what is no step does not count."""

import threading
import time

from mae_jax.core.exits import RESTART
from mae_jax.train.watchdog import Watchdog


def made(tmp_path, floor=0.3, limit=0.0):
    ended = []
    dog = Watchdog(3.0, floor, limit, tmp_path / "guard", leave=lambda status, why: ended.append((status, why)))
    return dog, ended


def beats(dog, count, start=0):
    for step in range(start, start + count):
        time.sleep(0.002)
        dog.beat(step + 1)


def wait_for(happened, limit=30):
    until = time.monotonic() + limit
    while not happened():
        assert time.monotonic() < until
        time.sleep(0.01)


def a_place_to_hang(event):
    event.wait(30)


def test_the_stacks_are_written_and_then_it_ends(tmp_path, capfd):
    dog, ended = made(tmp_path, limit=0.3)
    dog.start()
    event = threading.Event()
    hanging = threading.Thread(target=a_place_to_hang, args=(event,))
    try:
        beats(dog, 6)
        hanging.start()
        wait_for(lambda: ended)
    finally:
        event.set()
        dog.close()
    status, why = ended[0]
    assert status == RESTART and "the step after 6" in why and "hangs" in why
    (path,) = (tmp_path / "guard").iterdir()
    assert path.name == "hang_step_6.txt" and "a_place_to_hang" in path.read_text()
    assert "a_place_to_hang" in capfd.readouterr().err


def test_pauses_and_compilations_are_no_hang(tmp_path):
    dog, _ = made(tmp_path)
    dog.start()
    try:
        beats(dog, 6)
        with dog.paused():
            time.sleep(0.8)
        beats(dog, 3, 6)
        dog.compiles()
        time.sleep(0.8)
        beats(dog, 3, 9)
        assert dog.patience == 0.3  # neither made the median longer
    finally:
        dog.close()
    assert not (tmp_path / "guard").exists()


def test_it_needs_to_know_the_usual_time_first(tmp_path):
    dog, _ = made(tmp_path)
    dog.start()
    try:
        beats(dog, 2)
        assert dog.patience is None
        time.sleep(0.6)
    finally:
        dog.close()
    assert not (tmp_path / "guard").exists()
