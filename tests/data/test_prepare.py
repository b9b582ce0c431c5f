"""What `prepare` writes: the same bytes however it is run, read back by TFDS and by us, and accounted for."""

import hashlib
import io
import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from mae_jax.core.errors import UserError
from mae_jax.data.decode import BadImage, decode
from mae_jax.data.moments import Moments
from mae_jax.data.prepare.images import Format
from mae_jax.data.prepare.plan import Settings, stored_order
from mae_jax.data.prepare.run import prepare
from mae_jax.data.sources import make_source

pytest.importorskip("array_record")
SHARD_MB = 0.01


def smooth(seed, size):
    """A picture that JPEG changes little."""
    small = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), np.uint8)
    return np.array(Image.fromarray(small).resize((size[1], size[0]), Image.Resampling.BICUBIC))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes of 24 files, a train and a test directory; one file is cut off, one is empty."""
    root = tmp_path_factory.mktemp("prepare") / "photos"
    for split, count in (("train", 20), ("test", 4)):
        for c in ("cat", "dog"):
            (root / split / c).mkdir(parents=True)
            for i in range(count):
                image = Image.fromarray(smooth(i + 100 * (c == "dog"), (30 + i, 40)))
                image.save(root / split / c / f"{i:02d}.jpg", quality=95)
    whole = (root / "train/cat/00.jpg").read_bytes()
    (root / "train/cat/cut.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "train/dog/empty.png").write_bytes(b"")
    Image.fromarray(smooth(1, (50, 60))).convert("CMYK").save(root / "train/dog/cmyk.jpg")
    Image.fromarray(smooth(2, (50, 60))).convert("RGBA").save(root / "train/cat/alpha.png")
    return root


def settings(folder, target, **changes):
    return Settings("folder", {"path": str(folder)}, target, **({"shard_mb": SHARD_MB} | changes))


def make(folder, target, workers=0, max_bad=0.1, say=print, **changes):
    return prepare(settings(folder, target, **changes), workers, max_bad, say)


def shards(target):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in target.glob("*.array_record-*")}


@pytest.fixture(scope="module")
def kept(folder, tmp_path_factory):
    target = tmp_path_factory.mktemp("kept") / "pets"
    return target, make(folder, target)


def test_kept_files_are_the_originals_with_their_labels(folder, kept):
    target, manifest = kept
    assert len(manifest["splits"]["train"]["shards"]) > 2
    for split in ("train", "test"):
        ours, old = (
            make_source(*s, {"path": str(p)}) for s, p in ((("tfds", split), target), (("folder", split), folder))
        )
        stored = sorted((ours[i]["image"], ours.classes[ours[i]["label"]]) for i in range(len(ours)))
        names = [old.name(i) for i in range(len(old)) if not old.name(i).endswith(("cut.jpg", "empty.png"))]
        side = folder / split
        assert stored == sorted(((side / n).read_bytes(), n.split("/")[0]) for n in names)


@pytest.mark.filterwarnings("ignore")
def test_tfds_reads_it_back(folder, kept, tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")
    builder = tfds.builder_from_directory(kept[0])
    assert builder.info.features["label"].names == ["cat", "dog"] and builder.info.splits["train"].num_examples == 42
    theirs = builder.as_data_source("train", decoders={"image": tfds.decode.SkipDecoding()})
    ours = make_source("tfds", "train", {"path": str(kept[0])})
    assert [ours[i] for i in range(len(ours))] == list(theirs)

    make(folder, tmp_path / "raw", kind="raw", short_side=16)
    theirs = tfds.builder_from_directory(tmp_path / "raw").as_data_source("train")
    ours = make_source("tfds", "train", {"path": str(tmp_path / "raw")})
    assert len(theirs) == len(ours) == 42
    for i, record in enumerate(theirs):
        np.testing.assert_array_equal(ours[i]["image"], record["image"])
        assert ours[i]["label"] == record["label"] and min(record["image"].shape[:2]) == 16

    make(folder, tmp_path / "jpeg", kind="jpeg", short_side=16)
    first = next(iter(tfds.builder_from_directory(tmp_path / "jpeg").as_data_source("test")))
    ours = decode(make_source("tfds", "test", {"path": str(tmp_path / "jpeg")})[0]["image"], 3)
    assert np.abs(first["image"].astype(int) - ours).max() <= 3  # another decoder


def test_mean_and_deviation_are_those_of_what_was_written(kept):
    target, manifest = kept
    source = make_source("tfds", "train", {"path": str(target)})
    pixels = np.concatenate([decode(source[i]["image"], 3).reshape(-1, 3) for i in range(len(source))]) / 255
    held = manifest["splits"]["train"]
    np.testing.assert_allclose(held["mean"], pixels.mean(0), rtol=1e-12)
    np.testing.assert_allclose(held["std"], pixels.std(0), rtol=1e-12)
    assert held["pixels"] == len(pixels)


def test_rejected_records_are_named_and_everything_is_vouched_for(kept):
    target, manifest = kept
    assert manifest["complete"] and json.loads((target / "manifest.json").read_text()) == manifest
    assert sorted(r["name"] for r in manifest["rejected"]) == ["cat/cut.jpg", "dog/empty.png"]
    assert all(r["split"] == "train" and len(r["reason"]) > 10 for r in manifest["rejected"])
    listed = {s["file"]: s["sha256"] for held in manifest["splits"].values() for s in held["shards"]}
    assert listed == shards(target)
    assert not list(target.rglob("*.tmp"))


def test_workers_change_no_byte_and_the_seed_changes_the_order(folder, kept, tmp_path):
    with_workers = make(folder, tmp_path / "pets", workers=2)
    assert shards(tmp_path / "pets") == shards(kept[0])
    assert with_workers["splits"] == kept[1]["splits"]
    make(folder, tmp_path / "other" / "pets", seed=1)
    assert shards(tmp_path / "other" / "pets") != shards(kept[0])
    one, two = (make_source("tfds", "train", {"path": str(p)}) for p in (kept[0], tmp_path / "other" / "pets"))
    images = [[s[i]["image"] for i in range(len(s))] for s in (one, two)]
    assert images[0] != images[1] and sorted(images[0]) == sorted(images[1])


def test_the_order_is_a_shuffle():
    order = stored_order(3, 5000)
    assert sorted(order) == list(range(5000)) and abs(np.corrcoef(order, np.arange(5000))[0, 1]) < 0.05


def test_what_is_there_is_kept_and_what_is_damaged_is_written_again(folder, kept, tmp_path):
    target, said = tmp_path / "pets", []
    shutil.copytree(kept[0], target)
    files = sorted(target.glob("*train.array_record-*"))
    before = {f: f.stat().st_mtime_ns for f in files}
    damaged, gone = files[0], files[1]
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    gone.unlink()
    make(folder, target, say=said.append)
    assert shards(target) == shards(kept[0])
    assert all(f.stat().st_mtime_ns == t for f, t in before.items() if f not in (damaged, gone))
    assert said == [f"{len(shards(target)) - 2} of {len(shards(target))} shards were there already, and whole"]


@pytest.mark.parametrize(
    ("changes", "words"), [({"seed": 5}, "seed: 0, now 5"), ({"kind": "jpeg"}, "format: 'keep', now 'jpeg'")]
)
def test_a_restart_with_other_settings_is_refused(folder, kept, changes, words):
    with pytest.raises(UserError, match=words):
        make(folder, kept[0], **changes)


def test_a_restart_with_another_source_is_refused(folder, kept, tmp_path):
    shutil.copytree(folder, tmp_path / "photos")
    with pytest.raises(UserError, match="fields.path"):
        make(tmp_path / "photos", kept[0])
    target = tmp_path / "pets"
    make(tmp_path / "photos", target)
    os.rename(tmp_path / "photos/train/cat/03.jpg", tmp_path / "photos/train/cat/3.jpg")
    with pytest.raises(UserError, match="source.train.names_crc32"):
        make(tmp_path / "photos", target)


def test_too_many_rejected_leave_no_description_until_they_are_accepted(folder, tmp_path):
    target = tmp_path / "pets"
    assert not make(folder, target, max_bad=0.01)["complete"] and not (target / "dataset_info.json").exists()
    assert not json.loads((target / "manifest.json").read_text())["complete"]
    assert make(folder, target, max_bad=0.1)["complete"] and (target / "dataset_info.json").is_file()


def test_two_runs_at_once_are_refused(folder, tmp_path):
    import fcntl

    (tmp_path / "pets").mkdir()
    held = os.open(tmp_path / "pets", os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    try:
        with pytest.raises(UserError, match="Another `mae_jax prepare`"):
            make(folder, tmp_path / "pets")
    finally:
        os.close(held)


def test_arrays_keep_their_channels_and_depth(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 65536, (30, 6, 5, 7), np.uint16)
    np.savez(tmp_path / "x.npz", images=pixels)
    chosen = Settings(
        "npz", {"path": str(tmp_path / "x.npz"), "holdout": 0.0}, tmp_path / "out", ("train",), kind="raw"
    )
    manifest = prepare(chosen, 0, 0.0, print)
    source = make_source("tfds", "train", {"path": str(tmp_path / "out"), "holdout": 0.0})
    assert source.classes == () and set(source.labels) == {-1}
    np.testing.assert_array_equal(np.stack([source[i]["image"] for i in range(30)]), pixels[stored_order(0, 30)])
    assert "label" not in (tmp_path / "out" / "features.json").read_text()
    np.testing.assert_allclose(manifest["splits"]["train"]["mean"], pixels.mean((0, 1, 2)) / 65535, rtol=1e-12)


# One image ------------------------------------------------------------------------------------------------------------


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def stored(form, data):
    from mae_jax.data.examples import read_example

    example, moments = form({"image": data, "label": 3}, True)
    features = read_example(example)
    assert list(features["label"]) == [3]
    return features, moments


def test_only_what_is_too_large_is_encoded_anew():
    image = Image.fromarray(smooth(0, (60, 90)))
    jpeg, png = encoded(image, "jpeg", quality=95), encoded(image, "png")
    for data, short, size in ((jpeg, 60, None), (jpeg, 20, (20, 30)), (png, 61, None), (png, 40, (40, 60))):
        features, moments = stored(Format("keep", short), data)
        out = bytes(features["image"][0])
        if size is None:
            assert out == data
        else:
            assert decode(out, 3).shape[:2] == size and out[:2] == data[:2]
            expected = np.array(image.resize(size[::-1], Image.Resampling.BICUBIC)).astype(float)
            assert np.abs(decode(out, 3) - expected).mean() < 5  # what JPEG costs
        assert moments == Moments.of(decode(out, 3))


def test_jpegs_are_pillows_and_sixteen_bits_stay():
    image = smooth(3, (24, 24))
    features, _ = stored(Format("jpeg", quality=90), encoded(Image.fromarray(image), "png"))
    assert bytes(features["image"][0]) == encoded(Image.fromarray(image), "jpeg", quality=90, subsampling=2)
    deep = np.random.default_rng(0).integers(0, 65536, (24, 24), np.uint16)
    png = encoded(Image.fromarray(deep), "png")
    features, _ = stored(Format("keep", short_side=12, channels=1), png)
    assert decode(bytes(features["image"][0]), 1).dtype == np.uint16
    with pytest.raises(BadImage, match="uint16 pixels, which JPEG cannot"):
        stored(Format("jpeg", channels=1), png)
    with pytest.raises(BadImage, match="--format raw"):
        stored(Format("keep"), image)
    with pytest.raises(UserError, match="'image', 'label', 'volume'"):
        Format()({"image": image, "volume": image, "label": 0}, True)


def test_sixteen_bit_colours_are_not_narrowed_to_grey():
    cv2 = pytest.importorskip("cv2")
    deep = np.random.default_rng(0).integers(0, 65536, (24, 24, 3), np.uint16)
    png = cv2.imencode(".png", deep[..., ::-1])[1].tobytes()
    with pytest.raises(BadImage, match="16-bit colours.*--format raw"):
        stored(Format("keep", short_side=12), png)
    features, _ = stored(Format("raw", dtype="uint16"), png)
    assert bytes(features["image/value"][0]) == deep.tobytes()
    grey = encoded(Image.fromarray(deep[..., 0]), "png")
    kept = decode(bytes(stored(Format("keep", short_side=12), grey)[0]["image"][0]), 3)
    assert kept.dtype == np.uint16 and (kept == kept[..., :1]).all()


# What a user can get wrong --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "jpg"}, "Did you mean 'jpeg'"),
        ({"quality": 0}, "1 to 95"),
        ({"short_side": -1}, "pixels expected"),
        ({"channels": 4}, "--format raw alone"),
        ({"shard_mb": 0.0}, "positive size"),
        ({"splits": ("train", "train")}, "each once"),
        ({"splits": ()}, "each once"),
        ({"splits": ("trian",)}, "no split 'trian'"),
        ({"name": "My Pets"}, "my_pets"),
        ({"source": "flder"}, "Did you mean 'folder'"),
        ({"target": "inside"}, "lie in one another"),
        ({"target": "above"}, "lie in one another"),
        ({"target": "full"}, "holds something and is no directory"),
        ({"target": "file"}, "cannot be written to"),
        ({"source": "volumes", "fields": {}}, "'volume'"),
    ],
)
def test_mistakes_are_named_before_anything_is_written(folder, tmp_path, changes, words):
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "something").touch()
    places = {
        "inside": folder / "x",
        "above": folder.parent,
        "full": tmp_path / "full",
        "file": tmp_path / "file" / "x",
    }
    changes = dict(changes)
    target = places.get(changes.pop("target", ""), tmp_path / "new")
    base = {"source": "folder", "fields": {"path": str(folder)}, "target": target} | changes
    with pytest.raises(UserError, match=words):
        prepare(Settings(**base), 0, 0.01, print)
    assert not list(tmp_path.rglob("*.array_record*")) and not (folder / "x").exists()


def test_names_that_are_no_utf8_survive(tmp_path):
    for c in (b"caf\xe9", b"the"):
        os.makedirs(os.path.join(os.fsencode(tmp_path), b"in", c))
        for i in range(4):
            path = os.path.join(os.fsencode(tmp_path), b"in", c, b"%d.png" % i)
            Image.fromarray(smooth(i, (8, 8))).save(os.fsdecode(path))
        open(os.path.join(os.fsencode(tmp_path), b"in", c, b"bad\xff.jpg"), "wb").close()
    chosen = Settings("folder", {"path": str(tmp_path / "in"), "holdout": 0.0}, tmp_path / "out", ("train",))
    said: list[str] = []
    first, again = (prepare(chosen, 0, 0.5, said.append) for _ in range(2))
    assert first == again and said == ["1 of 1 shards were there already, and whole"]
    assert os.fsencode(first["rejected"][0]["name"]).endswith(b"bad\xff.jpg")
    source = make_source("tfds", "train", {"path": str(tmp_path / "out"), "holdout": 0.0})
    assert tuple(map(os.fsencode, source.classes)) == (b"caf\xe9", b"the")


def test_nothing_readable_is_said_at_once(tmp_path):
    for i in range(5):
        (tmp_path / f"{i}.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match="None of .* records .* can be used"):
        make(tmp_path, tmp_path.parent / "never")
