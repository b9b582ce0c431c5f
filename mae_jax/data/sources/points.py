"""Point clouds in files: the layouts of ShapeNet-55, ModelNet40, ScanObjectNN and ShapeNetPart, and plain folders."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mae_jax.core.errors import UserError, nearest
from mae_jax.core.plain import read_json
from mae_jax.data.limits import BadImage
from mae_jax.data.point_files import EXTENSIONS, checked, read_cloud, read_h5
from mae_jax.data.sources.base import Source, Spec, held_out, integer_classes, label_phrase, split_name
from mae_jax.data.sources.npz import member, members

LAYOUTS = ("auto", "folder", "modelnet40", "scanobjectnn", "shapenet55", "shapenetpart", "file")
SCANS = {  # variant: (training file, test file) of ScanObjectNN
    "objects": ("training_objectdataset.h5", "test_objectdataset.h5"),
    "hardest": ("training_objectdataset_augmentedrot_scale75.h5", "test_objectdataset_augmentedrot_scale75.h5"),
}
PART_FILES = "synsetoffset2category.txt"
PART_LISTS = {"train": ("train", "val"), "test": ("test",)}  # Point-MAE trains on both
# Of ShapeNetPart's 16 categories in the order of their names, Airplane to Table: 50 in all, numbered through.
PART_COUNTS = (4, 2, 2, 4, 4, 3, 3, 2, 4, 2, 6, 2, 3, 3, 3, 3)


@dataclass(frozen=True)
class Points(Spec):
    """Clouds as leaf "points", float32 [n, 3 or more]; of ShapeNetPart "part" int32 [n] besides.

    Layouts, found by what lies in PATH where `layout` is "auto":

    - shapenet55: train.txt and test.txt list "SYNSET-NAME.npy" below PATH, PATH/shapenet_pc or beside PATH in
      shapenet_pc; the synset is the class.
    - modelnet40: modelnet40_train.txt and _test.txt list "CLASS_NUMBER", which lies in CLASS/CLASS_NUMBER.txt (x,y,z,
      ...); or CLASS/train and CLASS/test with .off meshes.
    - scanobjectnn: the HDF5 files of one of its folders (main_split: with background; main_split_nobg: without).
    - shapenetpart: synsetoffset2category.txt, train_test_split/shuffled_train_file_list.json and so on; the records'
      category is their class, and each point has a part.
    - folder: train/CLASS and test/CLASS with files of any of the formats, or CLASS alone, of which a share is held out.
    - file: one .npz or .h5 with "points" (or "data") [m, n, 3] and perhaps "labels" (or "label") [m].

    Formats: .npy, .npz, .ply, .off, .txt (.xyz, .pts, .csv). A malformed file counts as an unreadable record.

    Args:
        path: the directory, or the file.
        layout: one of the above, or "auto".
        holdout: the share of clouds kept for testing where the layout has no test split.
        variant: of ScanObjectNN: "objects", or "hardest" (PB-T50-RS).
        surface: points drawn on a mesh.
    """

    path: str
    layout: str = "auto"
    holdout: float = 0.1
    variant: str = "objects"
    surface: int = 8192

    def open(self, split: str) -> Source:
        split = split_name(split)
        root = Path(self.path).expanduser().absolute()
        if not root.exists():
            beside = [p.name for p in root.parent.iterdir()] if root.parent.is_dir() else []
            raise UserError(f"data.path={self.path}: there is no such directory or file. {nearest(root.name, beside)}")
        if self.layout not in LAYOUTS:
            raise UserError(f"data.layout is '{self.layout}'. {nearest(self.layout, LAYOUTS)}")
        if self.surface < 1:
            raise UserError(f"data.surface={self.surface}: the number of points drawn on a mesh, at least 1, expected.")
        layout = _guess(root) if self.layout == "auto" else self.layout
        if layout in ("file", "scanobjectnn"):
            return self._arrays(root, layout, split)
        finders: dict[str, Callable[[Path, str], Found]] = {
            "shapenet55": _shapenet55, "modelnet40": _modelnet40, "shapenetpart": _shapenetpart,
            "folder": lambda root, split: _folder(root, split, self.holdout),
        }  # fmt: skip
        files, labels, classes, parts = finders[layout](root, split)
        if not files:
            raise UserError(f"The {split} split of {root} ({layout}) is empty: data.holdout={self.holdout}.")
        return PointFiles(root, files, labels, classes, parts, f"{layout} {split}", self.surface)

    def _arrays(self, root: Path, layout: str, split: str) -> Source:
        if layout == "scanobjectnn":
            if self.variant not in SCANS:
                raise UserError(f"data.variant is '{self.variant}'. {nearest(self.variant, SCANS)}")
            root = _there(root / SCANS[self.variant][split == "test"])
        clouds, labels = _stored(root)
        if layout == "file":
            keep = held_out([str(i).encode() for i in range(len(clouds))], self.holdout) == (split == "test")
            clouds, labels = clouds[keep], labels[keep]
        if not len(clouds):
            raise UserError(f"The {split} split of {root} is empty: data.holdout={self.holdout}.")
        classes = integer_classes(int(labels.max()), str(root)) if (labels >= 0).all() else ()
        return PointArrays(clouds, labels, classes, f"{root.name} {split}")


Found = tuple[list[str], np.ndarray, tuple[str, ...], tuple[int, ...]]  # files, labels, classes, parts of each


class PointFiles(Source):
    """A cloud per file. With `parts`, the last column of a file is the point's part."""

    def __init__(self, root: Path, files: list[str], labels: np.ndarray, classes: tuple[str, ...],
                 parts: tuple[int, ...], title: str, surface: int):  # fmt: skip
        self.root, self.files, self.classes, self.title, self.surface = root, files, classes, title, surface
        self.labels = labels.astype(np.int32)
        self.part_counts = parts

    def __getitem__(self, i: int) -> dict[str, Any]:
        cloud = read_cloud(self.root / self.files[i], self.surface)
        record: dict[str, Any] = {"points": cloud, "label": int(self.labels[i])}
        if self.part_counts:
            most = sum(self.part_counts)
            part = cloud[:, -1].astype(np.int32)
            if cloud.shape[1] not in (4, 7) or part.min() < 0 or part.max() >= most:
                raise BadImage(f"its last column should be parts 0..{most - 1}, after x y z (nx ny nz)")
            record |= {"points": cloud[:, :-1], "part": part}
        return record

    def name(self, i: int) -> str:
        return self.files[i]

    def where(self, i: int) -> str:
        return str(self.root / self.files[i])

    def describe(self) -> str:
        return f"points {self.root}: {len(self)} clouds ({self.title}), {label_phrase(self)}"


class PointArrays(Source):
    """Clouds [m, n, 3 or more] in memory."""

    def __init__(self, clouds: np.ndarray, labels: np.ndarray, classes: tuple[str, ...], title: str):
        self.clouds, self.labels, self.classes, self.title = clouds, labels.astype(np.int32), classes, title

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {"points": checked(np.asarray(self.clouds[i])), "label": int(self.labels[i])}

    def name(self, i: int) -> str:
        return f"{self.title} #{i}"

    def describe(self) -> str:
        return f"points: {len(self)} clouds of {self.clouds.shape[1]} points ({self.title}), {label_phrase(self)}"


def _guess(root: Path) -> str:
    if root.is_file():
        return "file"
    if (root / PART_FILES).is_file():
        return "shapenetpart"
    if (root / "modelnet40_train.txt").is_file():
        return "modelnet40"
    if (root / "train.txt").is_file() and (root / "test.txt").is_file():
        return "shapenet55"
    if any((root / file).is_file() for pair in SCANS.values() for file in pair):
        return "scanobjectnn"
    first = next((p for p in sorted(root.iterdir()) if p.is_dir() and p.name not in ("train", "test")), None)
    return "modelnet40" if first is not None and (first / "train").is_dir() else "folder"


def _there(path: Path) -> Path:
    if not path.is_file():
        beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise UserError(f"There is no file {path}. {nearest(path.name, beside)}")
    return path


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in _there(path).read_text().splitlines() if line.strip()]


def _numbered(names: Iterable[str], classes: tuple[str, ...], where: Path) -> np.ndarray:
    number = {name: i for i, name in enumerate(classes)}
    found = [number.get(name, -1) for name in names]
    if -1 in found:
        raise UserError(f"{where} has records of a class that its training list does not have.")
    return np.array(found, np.int32)


def _shapenet55(root: Path, split: str) -> Found:
    lists = {name: _lines(root / f"{name}.txt") for name in ("train", "test")}
    synset = lambda line: line.split("-")[0]
    classes = tuple(sorted({synset(line) for line in lists["train"]}))
    names = lists[split]
    places = [root, root / "shapenet_pc", root.parent / "shapenet_pc"]
    folder = next((p for p in places if names and (p / names[0]).is_file()), None)
    if folder is None:
        raise UserError(f"{names[0] if names else 'nothing'}, the first cloud of {root / split}.txt, lies in none of "
                        f"{', '.join(map(str, places))}.")  # fmt: skip
    return [str(folder / name) for name in names], _numbered(map(synset, names), classes, root), classes, ()


def _modelnet40(root: Path, split: str) -> Found:
    if not (root / "modelnet40_train.txt").is_file():
        classes = tuple(sorted(p.name for p in root.iterdir() if (p / "train").is_dir()))
        files = [f for c in classes for f in _clouds(root, root / c / split)]
        return files, _numbered((f.split("/")[0] for f in files), classes, root), classes, ()
    names, of = _lines(root / f"modelnet40_{split}.txt"), lambda name: name.rsplit("_", 1)[0]
    shapes = root / "modelnet40_shape_names.txt"
    classes = tuple(_lines(shapes)) if shapes.is_file() else tuple(
        sorted({of(name) for name in _lines(root / "modelnet40_train.txt")})
    )  # fmt: skip
    files = [f"{of(name)}/{name}.txt" for name in names]
    return files, _numbered(map(of, names), classes, root), classes, ()


def _shapenetpart(root: Path, split: str) -> Found:
    category = dict(line.split()[::-1] for line in _lines(root / PART_FILES))  # synset: name
    files = []
    for name in PART_LISTS[split]:
        listed = read_json(_there(root / "train_test_split" / f"shuffled_{name}_file_list.json"))
        files += ["/".join(entry.split("/")[-2:]) + ".txt" for entry in listed]
    classes = tuple(sorted(category.values()))
    labels = _numbered((category.get(f.split("/")[0], "") for f in files), classes, root)
    if len(classes) != len(PART_COUNTS):
        raise UserError(f"{root / PART_FILES} lists {len(classes)} categories: ShapeNetPart's 16 expected.")
    return files, labels, classes, PART_COUNTS


def _folder(root: Path, split: str, holdout: float) -> Found:
    both = (root / "train").is_dir() and (root / "test").is_dir()
    base = root / "train" if both else root
    classes = tuple(sorted(p.name for p in base.iterdir() if p.is_dir() and not p.name.startswith(".")))
    folder = root / split if both else root
    files = _clouds(root, folder)
    if not both:
        held = held_out([f.encode() for f in files], holdout)
        files = [f for f, h in zip(files, held) if h == (split == "test")]
    inner = [Path(f).relative_to(split) if both else Path(f) for f in files]
    if len(classes) < 2 or any(len(p.parts) < 2 for p in inner):
        return files, np.full(len(files), -1, np.int32), (), ()
    return files, _numbered((p.parts[0] for p in inner), classes, root), classes, ()


def _clouds(root: Path, folder: Path) -> list[str]:
    if not folder.is_dir():
        raise UserError(f"There is no directory {folder}.")
    found = sorted(
        p.relative_to(root).as_posix() for p in folder.rglob("*") if p.suffix.lower().removeprefix(".") in EXTENSIONS
    )
    if not found:
        raise UserError(f"There is no point cloud below {folder}: files ending in {', '.join(EXTENSIONS)} expected.")
    return found


def _stored(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(clouds [m, n, 3], labels [m]) of a .npz or .h5; -1 where there are none."""
    wanted = ("points", "data", "labels", "label")
    if path.suffix.lower() == ".npz":
        there = members(path)
        arrays = {name: np.asarray(member(path, name)) for name in wanted if name in there}
    elif path.suffix.lower() in (".h5", ".hdf5"):
        arrays = read_h5(path, wanted)
    else:
        raise UserError(f"data.path={path}: a directory, a .npz or a .h5 expected.")
    clouds = next((arrays[n] for n in ("points", "data") if n in arrays), None)
    if clouds is None or clouds.ndim != 3 or clouds.shape[2] < 3:
        has = "none" if clouds is None else f"of shape {clouds.shape}"
        raise UserError(f"{path} should hold 'points' or 'data' [clouds, points, 3]; it is {has}.")
    labels = next((arrays[n] for n in ("labels", "label") if n in arrays), np.full(len(clouds), -1))
    labels = np.asarray(labels).reshape(len(labels), -1)[:, 0]
    if len(labels) != len(clouds):
        raise UserError(f"{path} holds {len(clouds)} clouds and {len(labels)} labels: equally many expected.")
    return clouds, labels.astype(np.int32)
