"""Tables that list images, and indexes of many records."""

import csv
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

from mae_jax.core.errors import UserError
from mae_jax.data.sources import make_source
from mae_jax.data.sources import names as names_module
from mae_jax.data.sources.base import held_out
from mae_jax.data.sources.folder import Files, image_files
from mae_jax.data.sources.names import Names


def write(path, rows):
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def files(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())


def listed(source):
    return {source.name(i): source.classes[source[i]["label"]] for i in range(len(source))}


def test_names_are_a_list_of_bytes():
    given = [b"a", b"", b"caf\xc3\xa9/1.jpg", b"x" * 300]
    names = Names.of(iter(given))
    assert list(names) == given and [names[i] for i in range(4)] == given and names[-1] == given[-1]
    assert list(names.take(np.array([2, 0]))) == [given[2], given[0]]
    assert list(names.take(np.array([False, False, False, True]))) == [given[3]]
    with pytest.raises(IndexError):
        names[4]


def test_walk_is_in_the_order_of_bytes(tmp_path):
    given = ["a/1.png", "a-b/1.png", "a.png", "a.d/x.png", "b/c/1.png", "b/c.png", "B.PNG"]
    files(tmp_path, *given)
    assert list(image_files(tmp_path)) == sorted(n.encode() for n in given)


def test_splits_and_class_names(tmp_path):
    files(tmp_path / "d", *[f"{i}, ü.jpg" for i in range(6)])
    rows = [(f"{i}, ü.jpg", ["dog", "cat", "ant"][i % 3], ["train", "val"][i % 2]) for i in range(6)]
    write(tmp_path / "m.csv", [("label", "path", "split", "note")] + [(r[1], r[0], r[2], "x") for r in rows])
    for split, word in (("train", "train"), ("test", "val")):
        source = make_source("folder", split, {"path": str(tmp_path / "d"), "manifest": str(tmp_path / "m.csv")})
        assert source.classes == ("ant", "cat", "dog")
        assert listed(source) == {name: label for name, label, part in rows if part == word}
        assert source[0]["image"] == source.name(0).encode()


def test_parquet_and_csv_say_the_same(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    paths, labels = [f"{i:02}.png" for i in range(50)], [i % 12 for i in range(50)]
    files(tmp_path, *paths)
    write(tmp_path / "m.csv", [("path", "label"), *zip(paths, labels)])
    pq.write_table(pa.table({"path": paths, "label": labels}), tmp_path / "m.parquet", row_group_size=7)
    for split in ("train", "test"):
        a, b = (make_source("folder", split, {"path": str(tmp_path), "manifest": str(tmp_path / m), "holdout": 0.3})
                for m in ("m.csv", "m.parquet"))  # fmt: skip
        assert listed(a) == listed(b) and a.classes == tuple(map(str, range(12)))
        held = held_out([p.encode() for p in paths], 0.3) == (split == "test")
        assert list(listed(a)) == [p for p, h in zip(paths, held) if h]
        assert all(int(label) == int(name[:2]) % 12 for name, label in listed(a).items())


def test_a_row_without_label_leaves_all_unlabelled(tmp_path):
    files(tmp_path, "1.png", "2.png")
    write(tmp_path / "m.csv", [("path", "label"), ("1.png", "a"), ("2.png", "")])
    source = make_source(
        "folder", "train", {"path": str(tmp_path), "manifest": str(tmp_path / "m.csv"), "holdout": 0.0}
    )
    assert source.classes == () and list(source.labels) == [-1, -1]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "no column 'path'"),
        ([("file", "label"), ("1.png", "a")], "no column 'path'.*file, label"),
        ([("path",)], "lists no image"),
        ([("path",), ("1.png",), ("../1.png",)], "Line 3 of .*column 'path'.*leaves data.path"),
        ([("path",), ("/1.png",)], "Line 2 of .*leaves data.path"),
        ([("path",), ("1.png",), (), ("2.png",), ("1.png",)], "Line 5 of .*twice, first in line 2"),
        ([("path", "split"), ("1.png", "tain")], "Line 2 of .*column 'split': 'tain'.*'train'"),
        ([("path", "split"), ("1.png",)], "Line 2 of .*has 1 fields.*2"),
        ([("path",), ("1.png",), ("9.png",)], "Line 3 of .*no file .*9.png"),
        ([("path", "label"), ("1.png", 10**8)], "label 100000000"),
    ],
)
def test_mistakes_name_line_and_column(tmp_path, rows, words):
    files(tmp_path, "1.png", "2.png")
    write(tmp_path / "m.csv", rows)
    with pytest.raises(UserError, match=f"(?s){words}"):
        make_source("folder", "train", {"path": str(tmp_path), "manifest": str(tmp_path / "m.csv")})


def test_bytes_per_entry_of_a_hundred_thousand(tmp_path):
    names = Names.of(b"%05d/%08d.jpg" % (i // 1000, i) for i in range(100_000))
    source = Files(tmp_path, names, (np.arange(100_000) // 1000).astype(np.int32), ("a",) * 100, "train")
    assert names.block.nbytes == 18 * 100_000
    assert len(pickle.dumps(source)) < (18 + 12 + 4 + 1) * 100_000


def test_large_index_is_mapped_by_all_and_removed_at_the_end(tmp_path, monkeypatch):
    code = (
        "import os, pickle, sys, subprocess, numpy as np\n"
        "from pathlib import Path\n"
        "from mae_jax.data.sources import names as m\n"
        "from mae_jax.data.sources.folder import Files\n"
        "m.SHARED_BYTES = 1 << 16\n"
        "names = m.Names.of(b'%09d.jpg' % i for i in range(50000))\n"
        "source = Files(Path('/d'), names, np.arange(50000, dtype=np.int32), ('x',), 'train')\n"
        "blob, again = pickle.dumps(source), pickle.dumps(source)\n"
        "assert blob == again and len(blob) < 2000, len(blob)\n"
        "assert source.names.block.base is not None and not source.names.block.flags.writeable\n"
        "check = 'import pickle, sys; s = pickle.load(sys.stdin.buffer); t = pickle.loads(pickle.dumps(s)); '\\\n"
        "    'assert s.name(49999) == t.name(49999) == \"000049999.jpg\" and s.labels[7] == 7; '\\\n"
        "    'assert len(pickle.dumps(s)) < 2000'\n"
        "subprocess.run([sys.executable, '-c', check], input=blob, check=True)\n"
        "assert source.name(123) == '000000123.jpg'\n"
        "print(len(os.listdir(os.environ['TMPDIR'])))\n"
    )
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    out = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    assert out.stdout.strip() == "4" and os.listdir(tmp_path) == []  # block, starts, lengths, labels
    assert names_module.SHARED_BYTES == 16 << 20


@pytest.mark.slow
def test_ten_million_names_stay_under_a_gigabyte():
    """Built, split and labelled as `Folder.open` does it; peak of the resident memory of a process of its own."""
    code = (
        "import resource, numpy as np\n"
        "from pathlib import Path\n"
        "from mae_jax.data.sources.base import held_out\n"
        "from mae_jax.data.sources.folder import Files, class_labels, class_names\n"
        "from mae_jax.data.sources.names import Names\n"
        "names = Names.of(b'n%08d/n%08d_%08d.JPEG' % (i // 1000, i // 1000, i) for i in range(10_000_000))\n"
        "classes = class_names(names)\n"
        "names = names.take(~held_out(names, 0.1))\n"
        "source = Files(Path('/d'), names, class_labels(names, classes, Path('/d')), classes, 'train')\n"
        "assert len(source.classes) == 10_000 and 8_990_000 < len(source) < 9_010_000\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert int(out.stdout) * 1024 < 1e9
