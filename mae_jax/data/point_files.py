"""Point clouds out of files: .npy, .npz, .ply, .off, .txt (.xyz, .pts, .csv), and arrays of clouds in .h5.

A reader gives float32 [n, 3 or more], or raises BadImage with the reason, so that a bad file is replaced and counted
like a picture that does not decode. Meshes give points of their surface.
"""

import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mae_jax.core import npy
from mae_jax.core.errors import UserError
from mae_jax.data.limits import MAX_DECODED, BadImage, read_file

EXTENSIONS = ("npy", "npz", "ply", "off", "txt", "xyz", "pts", "csv")
MOST = 50_000_000  # numbers in one file: what claims more is not read
MOST_BYTES = 256 << 20  # of one file: text is held as words, which take ten times the room
MOST_CORNERS = 255  # of one face
CORNERS = ("vertex_indices", "vertex_index")  # what files call a face's list
H5_FREE, H5_RATIO = 256 << 20, 100  # an HDF5 array may unpack to that many bytes, and to so many times its packed ones
MOST_HEADER = 1 << 16  # bytes of a PLY's
NPZ_NAMES = ("points", "data", "pos", "xyz", "pc")
PLY_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2",
    "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4",
    "double": "f8", "float64": "f8",
}  # fmt: skip


class Mesh(NamedTuple):
    """Corners [v, 3], and triangles [t, 3] of their numbers."""

    corners: np.ndarray
    triangles: np.ndarray


def read_cloud(path: Path, surface: int = 8192) -> np.ndarray:
    """The cloud of one file, float32 [n, 3 or more].

    Args: surface: points drawn on a mesh, the same ones each time.

    Raises: BadImage: no such format, or a malformed file. OSError: it cannot be read.
    """
    kind = path.suffix.lower().removeprefix(".")
    if kind not in EXTENSIONS:
        raise BadImage(f"'{path.suffix}' is no format of point clouds: {', '.join(EXTENSIONS)} expected")
    raw = read_file(path, MOST_BYTES)
    try:
        if kind in ("npy", "npz"):
            found: Any = _numpy(raw, kind)
        elif kind == "ply":
            found = ply(raw)
        elif kind == "off":
            found = off(raw)
        else:
            found = numbers(raw)
    except BadImage:
        raise
    except (ValueError, IndexError, KeyError, OverflowError, EOFError, zlib.error) as error:
        raise BadImage(f"it is no readable .{kind} file ({type(error).__name__}: {error})") from error
    if isinstance(found, Mesh):
        found = on_surface(found, surface, np.random.default_rng(zlib.crc32(path.name.encode())))
    return checked(found)


def checked(cloud: np.ndarray) -> np.ndarray:
    """`cloud` as float32 [n, 3 or more]. Raises BadImage: another shape, no point, coordinates that are not finite."""
    if cloud.ndim != 2 or cloud.shape[1] < 3 or not len(cloud) or cloud.dtype.kind not in "fiu":
        raise BadImage(f"it holds {cloud.dtype} of shape {cloud.shape}: numbers [points, 3 or more] expected")
    cloud = cloud.astype(np.float32)
    if not np.isfinite(cloud[:, :3]).all():
        raise BadImage(f"{int((~np.isfinite(cloud[:, :3]).all(1)).sum())} of its {len(cloud)} points are not finite")
    return cloud


def on_surface(mesh: Mesh, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` points [n, 3], uniform over the mesh's surface. Raises BadImage: a surface of no area."""
    corners = mesh.corners[mesh.triangles].astype(np.float64)  # [t, 3, 3]
    a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    if not area.sum() > 0:
        raise BadImage(f"its {len(area)} triangles have no area to draw points from")
    chosen = rng.choice(len(area), count, p=area / area.sum())
    u, v = np.sqrt(rng.random(count))[:, None], rng.random(count)[:, None]
    return (1 - u) * a[chosen] + u * (1 - v) * b[chosen] + u * v * c[chosen]


def _numpy(raw: bytes, kind: str) -> np.ndarray:
    if kind == "npy":
        return npy.array(raw)
    file = npy.Npz(raw)
    name = next((n for n in NPZ_NAMES if n in file), next(iter(file)) if len(file) == 1 else None)
    if name is None:
        raise BadImage(f"its arrays are {', '.join(file) or 'none'}: one named {' or '.join(NPZ_NAMES)} expected")
    return file[name]


def _check_words(raw: bytes) -> None:
    """Raises BadImage where text holds more words than are read: as words it takes ten times its room."""
    if sum(raw.count(blank) for blank in (b" ", b",", b"\n", b"\t")) > MOST:
        raise BadImage(f"it holds more than {MOST:,} words")


def numbers(raw: bytes) -> np.ndarray:
    """Lines of numbers between blanks or commas, equally many in each."""
    _check_words(raw)
    text = raw.decode("ascii", errors="strict").replace(",", " ")
    rows = [line.split() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if not rows:
        raise BadImage("it has no line of numbers")
    if len({len(row) for row in rows}) > 1:
        raise BadImage(f"its lines have {min(map(len, rows))} to {max(map(len, rows))} numbers: equally many expected")
    return np.array(rows, np.float64)


def off(raw: bytes) -> Mesh:
    """Object File Format, text. ModelNet's files have the counts on the line of the word OFF ("OFF490 518 0")."""
    _check_words(raw)
    words = raw.decode("ascii").split()
    if not words or not words[0].startswith("OFF"):
        raise BadImage(f"it begins with {words[0][:12] if words else 'nothing'!r}: OFF expected")
    words = ([words[0][3:]] if len(words[0]) > 3 else []) + words[1:]
    corners, faces = int(words[0]), int(words[1])
    if not 0 < corners * 3 <= MOST or not 0 <= faces * 4 <= MOST:
        raise BadImage(f"it claims {corners} corners and {faces} faces")
    end = 3 + 3 * corners
    points = np.array(words[3:end], np.float64).reshape(corners, 3)
    triangles, at = [], end
    for _ in range(faces):
        n = _length(words[at])
        face = [int(i) for i in words[at + 1 : at + 1 + n]]
        if len(face) < n:
            raise BadImage(f"it ends within its {faces} faces")
        triangles += [(face[0], face[i], face[i + 1]) for i in range(1, n - 1)]  # a fan
        at += 1 + n
    return _mesh(points, triangles)


def _length(said: Any) -> int:
    """How many corners a face says it has: with a negative number a reader would go back, and never come to an end."""
    n = int(said)
    if not 0 <= n <= MOST_CORNERS:
        raise BadImage(f"it has a face of {n} corners: at most {MOST_CORNERS} are read")
    return n


def _mesh(points: np.ndarray, triangles: list[tuple[int, int, int]]) -> Mesh:
    index = np.array(triangles, np.int64).reshape(-1, 3)
    if not len(index) or index.min() < 0 or index.max() >= len(points):
        raise BadImage(f"its {len(index)} triangles name corners outside 0..{len(points) - 1}, or there are none")
    return Mesh(points, index)


def ply(raw: bytes) -> np.ndarray | Mesh:
    """PLY, ascii or binary of either byte order. A mesh if it has faces, else the vertices' x y z (nx ny nz)."""
    end = raw.find(b"end_header")
    if not raw.startswith(b"ply") or end < 0:
        raise BadImage("it begins without 'ply', or its header has no end")
    header = raw[:end].decode("ascii").split("\n")
    body = raw[raw.index(b"\n", end) + 1 :]
    if end > MOST_HEADER:
        raise BadImage(f"its header has {end:,} bytes; at most {MOST_HEADER:,} are read")
    form = ""
    elements: list[tuple[str, int, list[list[str]]]] = []
    for line in header:
        words = line.split()
        if words[:1] == ["format"]:
            form = words[1]
        elif words[:1] == ["element"]:
            elements.append((words[1], int(words[2]), []))
        elif words[:1] == ["property"]:
            elements[-1][2].append(words[1:])
    if form not in ("ascii", "binary_little_endian", "binary_big_endian"):
        raise BadImage(f"its format is '{form}': ascii, binary_little_endian or binary_big_endian expected")
    if any(count < 0 for _, count, _ in elements):
        raise BadImage("it claims a negative number of elements")
    if sum(count * max(1, len(properties)) for _, count, properties in elements) > MOST:
        raise BadImage("it claims more numbers than are read of one file")
    reader = _PlyText(body) if form == "ascii" else _PlyBytes(body, ">" if form.endswith("big_endian") else "<")
    points, triangles = None, []
    for name, count, properties in elements:
        rows = reader.element(count, properties)
        if name == "vertex":
            columns = [c for c in ("x", "y", "z", "nx", "ny", "nz") if c in rows]
            if columns[:3] != ["x", "y", "z"]:
                raise BadImage(f"its vertices have {', '.join(rows) or 'nothing'}: x, y and z expected")
            points = np.stack([rows[c] for c in columns], axis=1).astype(np.float64)
        elif name == "face":
            faces: list[list[int]] = next((rows[k] for k in CORNERS if k in rows), [])
            if any(p[0] != "list" and p[-1] in CORNERS for p in properties):
                raise BadImage("its faces have one number where a list of vertices is expected")
            triangles = [(f[0], f[i], f[i + 1]) for f in faces for i in range(1, len(f) - 1)]
    if points is None:
        raise BadImage("it has no element 'vertex'")
    return _mesh(points[:, :3], triangles) if triangles else points


class _PlyText:
    """The elements of a body of text, one after the other."""

    def __init__(self, body: bytes):
        _check_words(body)
        self.words, self.at = body.decode("ascii").split(), 0

    def element(self, count: int, properties: list[list[str]]) -> dict[str, Any]:
        if all(p[0] != "list" for p in properties):
            width = len(properties)
            words = self.words[self.at : self.at + count * width]
            self.at += count * width
            table = np.array(words, np.float64).reshape(count, width)
            return {p[1]: table[:, i] for i, p in enumerate(properties)}
        rows: dict[str, list[Any]] = {p[-1]: [] for p in properties}
        for _ in range(count):
            for p in properties:
                n = _length(self.words[self.at]) if p[0] == "list" else 1
                self.at += p[0] == "list"
                values = [float(x) for x in self.words[self.at : self.at + n]]
                if len(values) < n:
                    raise BadImage("it ends within an element")
                self.at += n
                rows[p[-1]].append([int(x) for x in values] if p[0] == "list" else values[0])
        return rows


class _PlyBytes:
    """The same of a binary body."""

    def __init__(self, body: bytes, order: str):
        self.body, self.order, self.at = body, order, 0

    def element(self, count: int, properties: list[list[str]]) -> dict[str, Any]:
        if all(p[0] != "list" for p in properties):
            dtype = np.dtype([(p[1], self.order + PLY_TYPES[p[0]]) for p in properties])
            rows = np.frombuffer(self.body, dtype, count, self.at)
            self.at += count * dtype.itemsize
            return {p[1]: rows[p[1]] for p in properties}
        made: dict[str, list[Any]] = {p[-1]: [] for p in properties}
        for _ in range(count):
            for p in properties:
                n = _length(self._take(p[1], 1)[0]) if p[0] == "list" else 1
                values = self._take(p[2] if p[0] == "list" else p[0], n)
                made[p[-1]].append(values.tolist() if p[0] == "list" else values[0])
        return made

    def _take(self, kind: str, n: int) -> np.ndarray:
        dtype = np.dtype(self.order + PLY_TYPES[kind])
        values = np.frombuffer(self.body, dtype, n, self.at)
        self.at += n * dtype.itemsize
        return values


def read_h5(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """The arrays of these names that an HDF5 file has.

    Links are refused, as are data sets whose numbers lie in other files, and more than MAX_DECODED bytes.

    Raises: UserError: no h5py, no such file, or no HDF5; an array that is refused.
    """
    try:
        import h5py
    except ImportError:
        raise UserError(f"{path} is HDF5, and Python finds no h5py: pip install 'mae_jax[points]'.") from None
    try:
        with h5py.File(path, "r") as file:
            return {name: _h5_array(h5py, file, name) for name in names if file.get(name, getlink=True) is not None}
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read as HDF5: {error}.") from error


def _h5_array(h5py: Any, file: Any, name: str) -> np.ndarray:
    """One data set. Raises ValueError for what lies elsewhere, or is too large."""
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise ValueError(f"'{name}' is a link, which may lead to another file; copy the data set into this one")
    stored = file[name]
    if not isinstance(stored, h5py.Dataset) or stored.dtype.kind not in "biuf":
        raise ValueError(f"'{name}' is no array of numbers")
    if stored.external or stored.is_virtual:
        raise ValueError(f"the numbers of '{name}' lie in other files; copy the data set into this one")
    packed, full = stored.id.get_storage_size(), stored.size * stored.dtype.itemsize
    if full > MAX_DECODED or full > H5_FREE + H5_RATIO * packed:
        raise ValueError(f"'{name}' claims {full:,} bytes, of which the file holds {packed:,}: not read")
    return np.asarray(stored)
