"""Batches by number: the same bits from any start, any number of workers, any number of processes."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image
from tiny_batches import assert_same, images, take

from mae_jax.core.errors import UserError
from mae_jax.data.order import draws, permutation
from mae_jax.data.pipeline import eval_batches, train_batches
from mae_jax.data.sources import Arrays, make_source
from mae_jax.data.transforms import HostAugment
from mae_jax.data.views import Raw, View, Views

KEYS = {"image", "label", "index", "replaced"}


PLAIN = images((4, 4), 1, crop_scale=None, flip=False)
CROPS = images((6, 5), 3)


def numbered(n):
    """n images 4 x 4 x 1 whose pixels are their number."""
    return Arrays(np.broadcast_to(np.arange(n, dtype=np.uint16)[:, None, None, None], (n, 4, 4, 1)), np.arange(n), "n")


def photos():
    return make_source("photos", "train", {"crops": 11})


def test_a_batch_holds_what_it_says():
    (batch,) = take(1, numbered(20), PLAIN, batch=8, seed=0)
    assert batch.keys() == KEYS
    assert batch["image"].shape == (8, 4, 4, 1) and batch["image"].dtype == np.uint16
    assert batch["label"].dtype == batch["index"].dtype == np.int32 and not batch["replaced"].any()
    np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], batch["index"])
    np.testing.assert_array_equal(batch["label"], batch["index"])


@pytest.mark.parametrize(("n", "batch"), [(13, 4), (4, 13), (1, 3), (12, 4)])
def test_every_record_once_per_epoch_across_borders_in_a_new_order(n, batch):
    epochs = 6
    order = np.concatenate([b["index"] for b in take(epochs * n // batch + 1, numbered(n), PLAIN, batch=batch, seed=3)])
    order = order[: epochs * n].reshape(epochs, n)
    assert (np.sort(order, axis=1) == np.arange(n)).all()
    if n > 10:
        assert len({tuple(o) for o in order}) == epochs


def test_the_order_is_uniform():
    """Chi-square of where each of 7 records lies, over 2000 epochs: 36 degrees of freedom."""
    counts = np.zeros((7, 7))
    for epoch in range(2000):
        counts[np.arange(7), permutation(0, epoch, 7)] += 1
    assert ((counts - 2000 / 7) ** 2 / (2000 / 7)).sum() < 80  # 36 expected, 5 sigma = 78


def test_the_order_of_record_is_this_one():
    """Written down, so that a changed numpy or a changed rule cannot pass for a resumed run."""
    assert permutation(0, 0, 8).tolist() == [0, 2, 1, 5, 4, 3, 6, 7]
    assert draws(1, 2, 0).integers(1000, size=4).tolist() == [603, 575, 269, 421]


def test_seeds_share_nothing():
    """Not even shifted by an epoch (grain's own shuffle uses seed + epoch)."""
    orders = {tuple(permutation(seed, epoch, 30)) for seed in range(4) for epoch in range(4)}
    assert len(orders) == 16


@pytest.mark.parametrize("start", [1, 5, 30])
def test_start_gives_the_same_bits(start):
    whole = take(start + 3, photos(), CROPS, batch=4, seed=7)
    assert_same(whole[start:], take(3, photos(), CROPS, batch=4, seed=7, start=start))


def test_position_counts_batches():
    with train_batches(numbered(9), PLAIN, batch=3, seed=0, start=4) as batches:
        assert batches.position == 4
        next(batches)
        assert batches.position == 5


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_do_not_change_a_bit(workers):
    alone = take(5, photos(), CROPS, batch=4, seed=7, start=2)
    assert_same(alone, take(5, photos(), CROPS, batch=4, seed=7, start=2, workers=workers))


def test_batches_from_workers_stay_as_they_are_when_later_ones_come():
    """Large arrays come through shared memory, which must not be given back while somebody holds the batch."""
    augment = images((64, 64), 3)
    held = take(6, photos(), augment, batch=16, seed=0, workers=1, memory_mb=64)
    assert held[0]["image"].nbytes > 100_000
    assert_same(held, take(6, photos(), augment, batch=16, seed=0))


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_hold_contiguous_rows_of_the_same_batch(processes):
    whole = take(4, photos(), CROPS, batch=8, seed=7)
    parts = [
        take(4, photos(), CROPS, batch=8, seed=7, process_index=p, process_count=processes) for p in range(processes)
    ]
    joined = [{k: np.concatenate([part[i][k] for part in parts]) for k in KEYS} for i in range(4)]
    assert_same(whole, joined)


def test_augmentation_differs_between_epochs_rows_and_seeds():
    one = numbered(1)
    one.images = np.random.default_rng(0).integers(0, 255, (1, 16, 16, 3), np.uint8)
    crops = [im.tobytes() for s in (0, 1) for b in take(4, one, CROPS, batch=4, seed=s) for im in b["image"]]
    assert len(set(crops)) == 32


def test_evaluation_is_in_order_once_with_a_marked_tail():
    batches = list(eval_batches(numbered(10), PLAIN, batch=4))
    assert [b["index"].tolist() for b in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 9, 9]]
    assert [b["valid"].tolist() for b in batches] == [[True] * 4, [True] * 4, [True, True, False, False]]
    assert batches[0].keys() == KEYS | {"valid"}


def test_evaluation_over_processes_and_workers():
    whole = list(eval_batches(numbered(10), PLAIN, batch=4))
    parts = [list(eval_batches(numbered(10), PLAIN, batch=4, process_index=p, process_count=2)) for p in (0, 1)]
    assert_same(whole, [{k: np.concatenate([a[k], b[k]]) for k in a} for a, b in zip(*parts, strict=True)])
    assert_same(whole, list(eval_batches(numbered(10), PLAIN, batch=4, workers=2)))


def test_evaluation_limit_spreads_over_the_source():
    index = np.concatenate([b["index"][b["valid"]] for b in eval_batches(numbered(1000), PLAIN, batch=64, limit=100)])
    assert len(index) == 100 and (np.diff(index) > 0).all()
    assert np.mean(index) == pytest.approx(500, abs=100) and np.mean(index % 2) == pytest.approx(0.5, abs=0.2)
    assert len(list(eval_batches(numbered(3), PLAIN, batch=2, limit=50))) == 2


@pytest.fixture
def broken(tmp_path):
    """Twelve JPEGs in two classes; number 3 is cut short and number 4 is text."""
    for i in range(12):
        path = tmp_path / "ab"[i // 6] / f"{i:02}.jpg"
        path.parent.mkdir(exist_ok=True)
        noise = np.random.default_rng(i).integers(0, 255, (40, 40, 3), np.uint8)
        Image.fromarray(noise).save(path)
        if i == 3:
            path.write_bytes(path.read_bytes()[:700])
        if i == 4:
            path.write_text("this is not a picture")
    return make_source("folder", "train", {"path": str(tmp_path), "holdout": 0.0})


def test_a_bad_image_is_replaced_by_the_next_good_one_and_said(broken, capfd):
    (batch,) = take(1, broken, CROPS, batch=12, seed=0, max_bad=0.2)
    due = permutation(0, 0, 12)
    np.testing.assert_array_equal(batch["replaced"], np.isin(due, [3, 4]))
    np.testing.assert_array_equal(batch["index"], np.where(np.isin(due, [3, 4]), 5, due))
    np.testing.assert_array_equal(batch["label"], batch["index"] // 6)
    said = capfd.readouterr().err
    assert "a/03.jpg: it cannot be decoded" in said and "a/04.jpg: its bytes are of no known image format" in said
    assert said.count("\n") == 2
    assert_same([batch], take(1, broken, CROPS, batch=12, seed=0, max_bad=0.2))


def test_a_bad_image_does_not_count_in_evaluation(broken):
    batches = list(eval_batches(broken, CROPS, batch=4, max_bad=0.2))
    index = np.concatenate([b["index"][b["valid"]] for b in batches])
    assert index.tolist() == [0, 1, 2, 5, 6, 7, 8, 9, 10, 11]


def test_a_deleted_file_is_a_bad_image(broken):
    os.remove(broken.where(7))
    (batch,) = take(1, broken, CROPS, batch=12, seed=0, max_bad=0.3)
    assert 7 not in batch["index"] and batch["replaced"].sum() == 3


@pytest.mark.parametrize("workers", [0, 1])
def test_when_everything_fails_it_is_an_error_with_the_reason(broken, workers):
    batches = train_batches(broken, CROPS, batch=4, seed=0, workers=workers, start=9)
    for i in range(12):
        os.remove(broken.where(i))
    with batches, pytest.raises(UserError, match=r"20 records one after the other(?s:.*)\.jpg"):
        for _ in range(10):
            next(batches)


def test_wrong_channels_are_found_before_the_first_batch():
    with pytest.raises(UserError, match="so 1 channels, and 3 are wanted"):
        train_batches(numbered(30), CROPS, batch=4, seed=0)


def test_mixed_depths_become_one(tmp_path):
    Image.fromarray(np.full((4, 4), 200, np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(np.full((4, 4), 200 * 257, np.uint16)).save(tmp_path / "b.png")
    source = make_source("folder", "train", {"path": str(tmp_path), "holdout": 0.0})
    (batch,) = take(1, source, PLAIN, batch=2, seed=0)
    assert batch["image"].dtype == np.uint8 and (batch["image"] == 200).all()


@pytest.mark.parametrize(
    ("change", "word"),
    [({"batch": 7, "process_count": 2}, "train.batch"), ({"batch": 0}, "train.batch"), ({"seed": -1}, "train.seed"),
     ({"workers": -1}, "data.workers")],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused(change, word):
    with pytest.raises(UserError, match=word):
        train_batches(numbered(9), PLAIN, **{"batch": 4, "seed": 0, **change})


@dataclass(frozen=True)
class Alive:
    """Whether a process is there and not a zombie."""

    pid: int

    def __bool__(self):
        try:
            with open(f"/proc/{self.pid}/stat") as f:
                return f.read().rpartition(")")[2].split()[0] != "Z"
        except (FileNotFoundError, ProcessLookupError):
            return False


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="reads /proc")
def test_workers_die_with_a_parent_that_is_killed(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(
        "import multiprocessing, time\n"
        "from mae_jax.data.pipeline import train_batches\n"
        "from mae_jax.data.sources import make_source\n"
        "from mae_jax.data.transforms import HostAugment\n"
        "from mae_jax.data.views import View, Views\n"
        "if __name__ == '__main__':\n"
        "    source = make_source('synthetic', 'train', {'size': 8})\n"
        "    views = Views({'image': View(HostAugment((8, 8), 3))})\n"
        "    batches = train_batches(source, views, batch=4, seed=0, workers=2)\n"
        "    for _ in range(4): next(batches)\n"
        "    print(*[p.pid for p in multiprocessing.active_children()], flush=True)\n"
        "    time.sleep(600)\n"
    )
    with open(tmp_path / "out", "w") as out:
        parent = subprocess.Popen([sys.executable, str(script)], stdout=out, stderr=out, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while not (text := (tmp_path / "out").read_text()).endswith("\n"):
            assert parent.poll() is None and time.monotonic() < deadline, text
            time.sleep(0.1)
        children = [Alive(int(pid)) for pid in text.split()]
        assert len(children) == 2 and all(children)
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        deadline = time.monotonic() + 60
        while any(children):
            assert time.monotonic() < deadline, "workers outlive their parent"
            time.sleep(0.1)
    finally:
        parent.kill()
        parent.wait()


def test_views_draw_each_for_itself_or_together():
    """Two crops of one record: another stream is another crop, the same stream the same crop at another size."""
    views = Views({
        "image": View(HostAugment((16, 16), 3), 0),
        "image_2": View(HostAugment((16, 16), 3), 1),
        "image_3": View(HostAugment((32, 32), 3), 0),
    })  # fmt: skip
    (batch,) = take(1, photos(), views, batch=6, seed=1)
    assert_same(
        [{"image": batch["image"]}], [{"image": take(1, photos(), images((16, 16), 3), batch=6, seed=1)[0]["image"]}]
    )
    small = batch["image_3"].reshape(6, 16, 2, 16, 2, 3).mean((2, 4))
    near, far = (np.abs(x - small).mean() for x in (batch["image"].astype(float), batch["image_2"].astype(float)))
    assert near < 0.2 * far


class Volumes(Arrays):
    def __getitem__(self, i):
        return {"volume": self.images[i], "label": int(self.labels[i])}


def test_other_leaves_come_as_they_are_and_wrong_ones_are_named():
    source = Volumes(np.arange(10 * 8, dtype=np.float64).reshape(10, 2, 2, 2), np.arange(10), "v")
    (batch,) = take(1, source, Views({"volume": Raw((2, 2, 2), "float32")}), batch=4, seed=0)
    assert batch["volume"].dtype == np.float32
    np.testing.assert_array_equal(batch["volume"][:, 0, 0, 0], 8 * batch["index"])
    with pytest.raises(UserError, match=r"'volume' of shape \(2, 2, 2\), the method reads \(4, 4, 4\)"):
        take(1, source, Views({"volume": Raw((4, 4, 4), "float32")}), batch=4, seed=0)
    with pytest.raises(UserError, match="reads 'image', but the data's records hold 'volume', 'label'"):
        take(1, source, PLAIN, batch=4, seed=0)
