"""Features on disk: taken again, gone on with, never half used, damage named."""

import json

import numpy as np
import pytest

from mae_jax.core.devices import Share
from mae_jax.core.errors import UserError
from mae_jax.eval import cache
from mae_jax.eval.features import extract

N, BATCH = 53, 8


def batches(start=0, stop=None, opened=None):
    """Batches of numbers; the last one is filled up, and record 5 cannot be read."""
    if opened is not None:
        opened.append(start)
    for first in range(start * BATCH, N if stop is None else stop * BATCH, BATCH):
        rows = np.arange(first, first + BATCH)
        yield {
            "x": np.minimum(rows, N - 1)[:, None].astype(np.float32), "label": np.minimum(rows, N - 1) % 7,
            "valid": (rows < N) & (rows != 5),
        }  # fmt: skip


ENCODERS = {"a": lambda batch: batch["x"] * np.array([[1.0, 2.0]]), "b": lambda batch: -batch["x"]}


ALL = Share(0, 1)  # one process


def split(opened=None, stop=None, share=ALL):
    return cache.Pass(lambda start: batches(start, stop, opened), -(-N // BATCH), BATCH, share)


def entries(tmp_path):
    return {name: cache.Entry.of(tmp_path, {"weights": name}) for name in ENCODERS}


def features(tmp_path, opened=None, stop=None, encoders=ENCODERS):
    return cache.features(entries(tmp_path), encoders, split(opened, stop), rows=2 * BATCH)


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name in expected:
        np.testing.assert_array_equal(found[name].features, expected[name].features)
        np.testing.assert_array_equal(found[name].labels, expected[name].labels)


def test_first_and_second_time_are_the_extraction_without_a_cache(tmp_path):
    expected, opened = extract(ENCODERS, batches()), []
    assert len(expected["a"].labels) == N - 1
    assert_same(features(tmp_path, opened), expected)
    assert_same(features(tmp_path, opened), expected)
    assert opened == [0]


def test_an_interrupted_extraction_goes_on(tmp_path):
    with pytest.raises(StopIteration):
        features(tmp_path, stop=5)  # the source ends in the midst of the third of four shards
    assert not any(entry.done for entry in entries(tmp_path).values())
    opened = []
    assert_same(features(tmp_path, opened), extract(ENCODERS, batches()))
    assert opened == [4]


def test_shards_cut_in_another_way_are_not_mixed(tmp_path):
    with pytest.raises(StopIteration):
        features(tmp_path, stop=5)
    opened = []
    found = cache.features(entries(tmp_path), ENCODERS, split(opened), rows=BATCH)
    assert opened == [0]
    assert_same(found, extract(ENCODERS, batches()))


@pytest.mark.parametrize("damage", ["bit", "cut", "gone"])
def test_a_damaged_shard_is_named_and_alone_computed_again(tmp_path, damage):
    features(tmp_path)
    entry = entries(tmp_path)["b"]
    shard = entry.shard(1, 0)
    data = bytearray(shard.read_bytes())
    if damage == "gone":
        shard.unlink()
    elif damage == "cut":
        shard.write_bytes(data[: len(data) // 2])
    else:
        at = data.index(np.float32(-20).tobytes())
        data[at + 1] ^= 4
        shard.write_bytes(data)
    with pytest.raises(UserError, match=f"{shard.name} of cached features is (damaged|missing).*done.json"):
        features(tmp_path)
    shard.unlink(missing_ok=True)
    (entry.folder / "done.json").unlink()
    opened = []
    assert_same(features(tmp_path, opened), extract(ENCODERS, batches()))
    assert opened == [2]


def test_another_key_is_another_place_and_says_what_it_is(tmp_path):
    features(tmp_path)
    a, b = entries(tmp_path).values()
    assert a.folder != b.folder != cache.Entry.of(tmp_path, {"weights": "c"}).folder
    assert json.loads((a.folder / "key.json").read_text())["key"] == {"weights": "a"}


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--cache DIR"):
        features(tmp_path / "file")


def test_what_extraction_refuses_the_cache_refuses(tmp_path):
    with pytest.raises(UserError, match="not finite"):
        features(tmp_path, encoders={"a": lambda b: b["x"] * np.nan, "b": lambda b: b["x"]})


def test_shards_of_several_processes_are_put_in_the_order_of_the_source(tmp_path):
    """Two processes, half of the rows of each batch, as they would write them."""
    entry = entries(tmp_path)["a"]
    entry.begin({"batch": BATCH, "batches": -(-N // BATCH)})
    expected = extract({"a": ENCODERS["a"]}, batches())
    for part in (0, 1):
        rows = slice(4 * part, 4 * part + 4)
        made = [cache._encoded({k: v[rows] for k, v in b.items()}, {"a": ENCODERS["a"]}, None) for b in batches()]
        cache._save(entry.shard(0, part), "a", made[:3], 0, BATCH, part)
        cache._save(entry.shard(1, part), "a", made[3:], 3, BATCH, part)
    names = [entry.shard(s, p).name for s in (0, 1) for p in (0, 1)]
    (entry.folder / "done.json").write_text(json.dumps({"shards": names}))
    assert_same({"a": entry.read()}, expected)


def test_processes_that_hold_the_same_rows_write_them_once(tmp_path, monkeypatch):
    """Process 1 of two between which tensor splits: all rows are its own, and process 0 wrote them."""
    features(tmp_path)
    for entry in entries(tmp_path).values():
        (entry.folder / "done.json").unlink()
    saved = []
    monkeypatch.setattr(cache, "_save", lambda path, *_: saved.append(path.name))
    opened = []
    cache.features(entries(tmp_path), ENCODERS, split(opened, share=Share(0, 1, leads=False)), rows=2 * BATCH)
    entries(tmp_path)["a"].shard(1, 0).unlink()
    (entries(tmp_path)["a"].folder / "done.json").unlink()
    with pytest.raises(UserError, match=r"lacks 1 shard\(s\).*00000001-0000"):  # it computed along, and wrote nothing
        cache.features(entries(tmp_path), ENCODERS, split(opened, share=Share(0, 1, leads=False)), rows=2 * BATCH)
    assert opened == [2] and not saved


@pytest.mark.parametrize("count", [1, -(-N // BATCH)])
def test_samples_that_are_there_twice_are_refused(tmp_path, count):
    """As two processes that held the same rows once wrote them, also where they fill one batch only."""
    entry = entries(tmp_path)["a"]
    entry.begin({"batch": BATCH, "batches": count})
    made = [cache._encoded(b, {"a": ENCODERS["a"]}, None) for b in batches()][:count]
    for part in (0, 1):
        cache._save(entry.shard(0, part), "a", made, 0, BATCH, part)
    (entry.folder / "done.json").write_text(json.dumps({"shards": [entry.shard(0, p).name for p in (0, 1)]}))
    with pytest.raises(UserError, match="hold samples twice.*remove that folder"):
        entry.read()
