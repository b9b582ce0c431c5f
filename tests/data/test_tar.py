"""WebDataset shards: what is read equals what the standard library extracts."""

import gzip
import io
import json
import os
import pickle
import re
import tarfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from mae_jax.core.errors import UserError
from mae_jax.data.sources import make_source, tar, tar_index
from mae_jax.data.sources.open_files import OpenFiles
from mae_jax.data.sources.shards import expand_braces
from mae_jax.data.sources.tar_index import split_key


def pack(path, members, format=tarfile.PAX_FORMAT):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=format) as file:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))


def samples(numbers, label=lambda i: i % 3):
    for i in numbers:
        yield f"{i:04}.cls", str(label(i)).encode()
        yield f"{i:04}.jpg", b"image %d " % i * (i % 50 + 1)


def unpacked(*paths):
    found = {}
    for path in paths:
        with tarfile.open(path) as file:
            found |= {f"{path.name}/{m.name[:-4]}": file.extractfile(m).read() for m in file if m.name.endswith(".jpg")}
    return found


def whole(source):
    return {source.name(i): source[i]["image"] for i in range(len(source))}


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_reads_what_tarfile_extracts(tmp_path, format):
    long = "" if format == tarfile.USTAR_FORMAT else "d" * 180 + "/"
    for s in range(3):
        members = [(long + n, d) for n, d in samples(range(s * 40, s * 40 + 40))]
        pack(tmp_path / f"x-{s:03}.tar", members, format)
    splits = [make_source("tar", s, {"path": str(tmp_path), "holdout": 0.2}) for s in ("train", "test")]
    assert len(splits[0]) + len(splits[1]) == 120 and len(splits[1]) > 8
    assert whole(splits[0]) | whole(splits[1]) == unpacked(*sorted(tmp_path.glob("*.tar")))
    for source in splits:
        assert source.classes == ("0", "1", "2")
        assert all(source[i]["label"] == int(source.name(i)[-4:]) % 3 for i in range(len(source)))


def test_keys_are_webdatasets():
    """The pattern that webdataset documents: the base is all up to the first dot of the last component."""
    published = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")
    for name in ("a.jpg", "d.x/a.seg.PNG", "d/e/b.input.jpg", "a b.cls", "noext", "d/noext", "x.tar/noext"):
        match = published.match(name)
        assert split_key(name) == (match and (match[1], match[2].lower()))
    assert split_key("./a.jpg") == ("a", "jpg") and split_key("d/.hidden.jpg") is None


def test_words_in_names_are_the_splits(tmp_path):
    pack(tmp_path / "train" / "0.tar", samples(range(5)))
    pack(tmp_path / "val" / "0.tar", samples(range(5, 7)))
    pack(tmp_path / "test" / "0.tar", samples(range(7, 10)))
    train, test = (make_source("tar", s, {"path": str(tmp_path)}) for s in ("train", "test"))
    assert [train.name(i) for i in range(5)] == [f"train/0.tar/{i:04}" for i in range(5)]
    assert [test.name(i) for i in range(2)] == ["val/0.tar/0005", "val/0.tar/0006"] and len(test) == 2
    assert test.classes == train.classes == ("0", "1", "2")
    pack(tmp_path / "extra.tar", samples(range(3)))
    with pytest.raises(UserError, match="extra.tar has none of the words"):
        make_source("tar", "train", {"path": str(tmp_path)})


def test_patterns(tmp_path):
    assert expand_braces("a{08..11}b{x,y}") == [f"a{n}b{c}" for n in ("08", "09", "10", "11") for c in "xy"]
    for s in range(4):
        pack(tmp_path / f"in-{s:03}.tar", samples(range(s * 5, s * 5 + 5)))
    for pattern, n in (("in-{000..002}.tar", 15), ("in-00[12].tar", 10), ("in-*.tar", 20), ("in-003.tar", 5)):
        assert len(make_source("tar", "train", {"path": str(tmp_path / pattern), "holdout": 0.0})) == n
    with pytest.raises(UserError, match="no file .*in-004.tar"):
        make_source("tar", "train", {"path": str(tmp_path / "in-{000..146}.tar")})


def test_index_is_kept_and_only_changed_shards_are_read_anew(tmp_path, monkeypatch):
    read = []
    original = tar_index._read
    monkeypatch.setattr(tar_index, "_read", lambda path, key: read.append(path.name) or original(path, key))
    for s in range(3):
        pack(tmp_path / f"{s}.tar", samples(range(s * 5, s * 5 + 5)))
    fields = {"path": str(tmp_path), "holdout": 0.0}
    first = whole(make_source("tar", "train", fields))
    assert read == ["0.tar", "1.tar", "2.tar"] and (tmp_path / ".mae_jax-index.npz").exists()
    assert whole(make_source("tar", "train", fields)) == first and len(read) == 3
    stale = make_source("tar", "train", fields)
    pack(tmp_path / "1.tar", samples(range(50, 57)))
    assert len(make_source("tar", "train", fields)) == 17 and read[3:] == ["1.tar"]
    with pytest.raises(OSError, match="changed after it was indexed"):
        stale.image(7)
    (tmp_path / ".mae_jax-index.npz").write_bytes(b"PK broken")
    assert len(make_source("tar", "train", fields)) == 17 and len(read) == 7


def test_index_goes_where_it_can_be_written(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    pack(tmp_path / "d" / "0.tar", samples(range(5)))
    (tmp_path / "d" / ".mae_jax-index.npz").mkdir()  # root may write anywhere, but not over a directory
    make_source("tar", "train", {"path": str(tmp_path / "d"), "holdout": 0.0})
    assert len(list((tmp_path / "home" / "mae_jax").iterdir())) == 1
    make_source("tar", "train", {"path": str(tmp_path / "d"), "holdout": 0.0, "cache": str(tmp_path / "own")})
    assert len(list((tmp_path / "own").iterdir())) == 1


def test_json_labels_and_chosen_members(tmp_path):
    members = []
    for i in range(6):
        members += [(f"{i}.left.png", b"L%d" % i), (f"{i}.png", b"P%d" % i)]
        members += [(f"{i}.json", json.dumps({"label": i % 2, "kind": 5 - i, "text": "x"}).encode())]
    pack(tmp_path / "0.tar", [*members, ("6.txt", b"no image")])
    base = {"path": str(tmp_path), "holdout": 0.0}
    source = make_source("tar", "train", base)
    assert [source[i] for i in range(6)] == [{"image": b"P%d" % i, "label": i % 2} for i in range(6)]
    assert "1 samples without an image" in source.describe()
    source = make_source("tar", "train", base | {"label_key": "kind", "image_key": "left.png"})
    assert [source[i] for i in range(6)] == [{"image": b"L%d" % i, "label": 5 - i} for i in range(6)]
    assert make_source("tar", "train", base | {"label_key": ""}).classes == ()
    with pytest.raises(UserError, match=r"(?s)5.json|0.json.*whole number.*label_key"):
        make_source("tar", "train", base | {"label_key": "text"})
    with pytest.raises(UserError, match=r"(?s)ending in .rigth.png.*data.image_key"):
        make_source("tar", "train", base | {"image_key": "rigth.png"})


@pytest.mark.parametrize("cut", [1, 512, 700, 5000])
def test_a_truncated_shard_is_named(tmp_path, cut):
    members = [("0.jpg", bytes(range(256)) * 20), ("1.jpg", b"x" * 5120)]
    pack(tmp_path / "t.tar", members)
    end = 2 * 512 + 5120 * 2  # of the last member; the zero blocks follow
    data = (tmp_path / "t.tar").read_bytes()
    (tmp_path / "t.tar").write_bytes(data[: end - cut])
    with pytest.raises(UserError, match="t.tar is no whole .tar"):
        make_source("tar", "train", {"path": str(tmp_path)})
    (tmp_path / "t.tar").write_bytes(data[:end])  # between two members: no header shows it
    with pytest.raises(UserError, match=f"(?s)t.tar does not end.*truncate -s {end + 1024} "):
        make_source("tar", "train", {"path": str(tmp_path)})
    os.truncate(tmp_path / "t.tar", end + 1024)  # the advice
    assert len(make_source("tar", "train", {"path": str(tmp_path), "holdout": 0.0})) == 2


def test_gzipped_and_doubled(tmp_path):
    pack(tmp_path / "a" / "0.tar", samples(range(2)))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "0.tar.gz").write_bytes(gzip.compress((tmp_path / "a" / "0.tar").read_bytes()))
    with pytest.raises(UserError, match="gzipped.*gunzip .*0.tar.gz"):
        make_source("tar", "train", {"path": str(tmp_path / "b")})
    pack(tmp_path / "c" / "0.tar", [("0.jpg", b"a"), ("0.jpg", b"b")])
    with pytest.raises(UserError, match="holds 0.jpg twice"):
        make_source("tar", "train", {"path": str(tmp_path / "c")})


def test_threads_share_few_descriptors(tmp_path, monkeypatch):
    monkeypatch.setattr(tar, "_open_files", OpenFiles(2))
    for s in range(8):
        pack(tmp_path / f"{s}.tar", samples(range(s * 10, s * 10 + 10)))
    source = pickle.loads(pickle.dumps(make_source("tar", "train", {"path": str(tmp_path), "holdout": 0.0})))
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    order = np.random.default_rng(0).integers(0, 80, 3000).tolist()
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(source.image, order))
    assert read == [b"image %d " % i * (i % 50 + 1) for i in order]
    if before:
        assert len(os.listdir("/proc/self/fd")) <= before + 2
