"""Small files in the layouts of CIFAR-10, CIFAR-100, STL-10 and Imagenette, written byte by byte from their
descriptions (www.cs.toronto.edu/~kriz/cifar.html, cs.stanford.edu/~acoates/stl10), not by our readers' rules."""

import struct
from pathlib import Path

import numpy as np
from PIL import Image


def pictures(n: int, side: int, seed: int = 0) -> np.ndarray:
    """Random images uint8 [n, side, side, 3] with smooth parts, so that a transposed one is another."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(0, 100, side).astype(np.int64)
    image = ramp[:, None, None] + 0 * ramp[None, :, None] + np.arange(3) * 40
    return (image + rng.integers(0, 60, (n, side, side, 3))).astype(np.uint8)


def planes(image: np.ndarray, by_column: bool = False) -> bytes:
    """All red bytes, then all green, then all blue; each row by row, or column by column."""
    return b"".join((image[..., k].T if by_column else image[..., k]).tobytes() for k in range(3))


def cifar10_binary(root: Path, n: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """cifar-10-batches-bin with n images per file; (images, labels), the last n of which are the test batch."""
    images, labels = pictures(6 * n, 32), np.arange(6 * n) % 10
    folder = root / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for f, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        part = range(f * n, f * n + n)
        (folder / f"{name}.bin").write_bytes(b"".join(bytes([labels[i]]) + planes(images[i]) for i in part))
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    (folder / "batches.meta.txt").write_text("\n".join(names) + "\n\n")
    return images, labels


def cifar100_binary(root: Path, n: int = 10) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """cifar-100-binary with n images per file; (images, fine labels, coarse labels), first those of train.bin."""
    images, fine = pictures(2 * n, 32, 1), np.arange(2 * n) * 7 % 100
    coarse = fine // 5
    folder = root / "cifar-100-binary"
    folder.mkdir(parents=True)
    for f, name in enumerate(("train", "test")):
        part = range(f * n, f * n + n)
        data = b"".join(bytes([coarse[i], fine[i]]) + planes(images[i]) for i in part)
        (folder / f"{name}.bin").write_bytes(data)
    for kind, count in (("fine", 100), ("coarse", 20)):
        (folder / f"{kind}_label_names.txt").write_text("".join(f"{kind} {i}\n" for i in range(count)))
    return images, fine, coarse


def cifar10_python(root: Path, n: int = 4) -> None:
    """cifar-10-batches-py with the images of `cifar10_binary`, pickled as Python 2 did."""
    images, labels = pictures(6 * n, 32), np.arange(6 * n) % 10
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for f, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        part = slice(f * n, f * n + n)
        rows = [planes(image) for image in images[part]]
        batch = {"batch_label": name, "labels": labels[part].tolist(), "data": rows, "filenames": ["a.png"] * n}
        (folder / name).write_bytes(python2_pickle(batch))
    meta = {"num_cases_per_batch": n, "label_names": ["airplane", *"bcdefghij"], "num_vis": 3072}
    (folder / "batches.meta").write_bytes(python2_pickle(meta))


def cifar100_python(root: Path, n: int = 10) -> None:
    """cifar-100-python with the images of `cifar100_binary`."""
    images, fine = pictures(2 * n, 32, 1), np.arange(2 * n) * 7 % 100
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    for f, name in enumerate(("train", "test")):
        part = slice(f * n, f * n + n)
        batch = {"data": [planes(image) for image in images[part]], "fine_labels": fine[part].tolist(),
                 "coarse_labels": (fine[part] // 5).tolist()}  # fmt: skip
        (folder / name).write_bytes(python2_pickle(batch))
    names = {f"{kind}_label_names": [f"{kind} {i}" for i in range(c)] for kind, c in (("fine", 100), ("coarse", 20))}
    (folder / "meta").write_bytes(python2_pickle(names))


def python2_pickle(value: dict) -> bytes:
    """Protocol 2 with Python 2's byte strings; a list of bytes under "data" becomes an array uint8 [n, length]."""

    def text(s: str | bytes) -> bytes:
        raw = s.encode() if isinstance(s, str) else s
        return b"U" + bytes([len(raw)]) + raw if len(raw) < 256 else b"T" + struct.pack("<i", len(raw)) + raw

    def integer(i: int) -> bytes:
        return b"J" + struct.pack("<i", i)

    def item(v) -> bytes:
        if isinstance(v, int):
            return integer(v)
        if isinstance(v, str):
            return text(v)
        if v and isinstance(v[0], bytes):
            dtype = b"cnumpy\ndtype\n" + text("u1") + integer(0) + integer(1) + b"\x87R("
            dtype += integer(3) + text("|") + b"NNN" + integer(-1) + integer(-1) + integer(0) + b"tb"
            made = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + integer(0) + b"\x85" + text("b")
            shape = integer(len(v)) + integer(len(v[0])) + b"\x86"
            return made + b"\x87R(" + integer(1) + shape + dtype + b"\x89" + text(b"".join(v)) + b"tb"
        return b"](" + b"".join(map(item, v)) + b"e"

    return b"\x80\x02}(" + b"".join(text(k) + item(v) for k, v in value.items()) + b"u."


def stl10(root: Path, n: int = 10) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """stl10_binary with n, n + 2 and 2n images: {split: (images, labels from 0)}."""
    folder = root / "stl10_binary"
    folder.mkdir(parents=True)
    found = {}
    for s, (split, count) in enumerate((("train", n), ("test", n + 2), ("unlabeled", 2 * n))):
        images, labels = pictures(count, 96, s + 2), np.arange(count) % 10
        (folder / f"{split}_X.bin").write_bytes(b"".join(planes(image, by_column=True) for image in images))
        if split != "unlabeled":
            (folder / f"{split}_y.bin").write_bytes(bytes(int(c) + 1 for c in labels))
        found[split] = images, labels
    (folder / "class_names.txt").write_text("airplane\nbird\ncar\ncat\ndeer\ndog\nhorse\nmonkey\nship\ntruck\n")
    return found


def imagenette(root: Path, n: int = 2, side: int = 40) -> None:
    """imagenette2-160 with n JPEGs per class for training and one for testing."""
    wnids = "n01440764 n02102040 n02979186 n03000684 n03028079 n03394916 n03417042 n03425413 n03445777 n03888257"
    for c, wnid in enumerate(wnids.split()):
        for split, count in (("train", n), ("val", 1)):
            folder = root / "imagenette2-160" / split / wnid
            folder.mkdir(parents=True)
            for i, image in enumerate(pictures(count, side, c)):
                Image.fromarray(image).save(folder / f"{wnid}_{i}.JPEG", "jpeg")
