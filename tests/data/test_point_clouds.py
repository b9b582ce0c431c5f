"""Files of point clouds in every format, malformed ones, the layouts of the public sets, made-up solids."""

import json
import struct
from functools import partial

import h5py
import numpy as np
import pytest

from mae_jax.core.errors import UserError
from mae_jax.data.limits import BadImage
from mae_jax.data.order import draws
from mae_jax.data.point_files import Mesh, on_surface, read_cloud
from mae_jax.data.point_sampling import PointLabels, PointSample, farthest
from mae_jax.data.sources import make_source
from mae_jax.data.sources.made_points import PARTS, SHAPES
from mae_jax.data.sources.points import PART_COUNTS

CLOUD = np.random.default_rng(0).standard_normal((20, 3)).astype(np.float32)
CUBE = "8 6 0\n0 0 0\n0 0 1\n0 1 0\n0 1 1\n1 0 0\n1 0 1\n1 1 0\n1 1 1\n" \
       "4 0 1 3 2\n4 4 5 7 6\n4 0 1 5 4\n4 2 3 7 6\n4 0 2 6 4\n4 1 3 7 5\n"  # fmt: skip


def header(form, properties=("x", "y", "z"), count=20):
    lines = ["ply", f"format {form} 1.0", "comment made", f"element vertex {count}"]
    return "\n".join([*lines, *(f"property float {p}" for p in properties), "end_header", ""]).encode()


WRITTEN = {
    "a.ply": header("ascii") + "\n".join(" ".join(map(repr, map(float, row))) for row in CLOUD).encode(),
    "l.ply": header("binary_little_endian") + CLOUD.astype("<f4").tobytes(),
    "b.ply": header("binary_big_endian") + CLOUD.astype(">f4").tobytes(),
    "c.txt": "\n".join(",".join(map(repr, map(float, row))) for row in CLOUD).encode(),
    "s.xyz": "\n".join(" ".join(map(repr, map(float, row))) for row in CLOUD).encode(),
}


def test_every_format_gives_the_same_points(tmp_path):
    for name, raw in WRITTEN.items():
        (tmp_path / name).write_bytes(raw)
    np.save(tmp_path / "n.npy", CLOUD)
    np.savez(tmp_path / "z.npz", points=CLOUD, other=np.zeros(3))
    for name in (*WRITTEN, "n.npy", "z.npz"):
        found = read_cloud(tmp_path / name)
        assert found.dtype == np.float32, name
        np.testing.assert_array_equal(found, CLOUD, err_msg=name)


@pytest.mark.parametrize("first", ["OFF\n", "OFF"])  # ModelNet40 has both
def test_meshes_give_points_of_their_surface(tmp_path, first):
    (tmp_path / "cube.off").write_text(first + CUBE)
    points = read_cloud(tmp_path / "cube.off", surface=6000)
    on = np.isclose(points, 0, atol=1e-6) | np.isclose(points, 1, atol=1e-6)
    assert points.shape == (6000, 3) and on.any(axis=1).all() and (points >= -1e-6).all() and (points <= 1 + 1e-6).all()
    share = on.sum(0) / 6000  # a third of a cube's surface is perpendicular to each axis
    np.testing.assert_allclose(share, 1 / 3, atol=0.03)
    np.testing.assert_array_equal(points, read_cloud(tmp_path / "cube.off", surface=6000))


def test_a_binary_mesh_is_the_text_one(tmp_path):
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], "<f4")
    faces = "element face 1\nproperty list uchar int vertex_indices\nend_header"
    head = header("{}", count=3).decode().replace("end_header", faces)
    (tmp_path / "m.ply").write_bytes(head.format("binary_little_endian").encode() + corners.tobytes()
                                     + struct.pack("<Biii", 3, 0, 1, 2))  # fmt: skip
    binary = read_cloud(tmp_path / "m.ply", 50)
    (tmp_path / "m.ply").write_text(head.format("ascii") + "0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n")
    np.testing.assert_array_equal(read_cloud(tmp_path / "m.ply", 50), binary)
    assert (binary[:, 2] == 0).all() and (binary[:, :2].sum(1) <= 1 + 1e-6).all()


@pytest.mark.parametrize(("name", "raw", "message"), [
    ("a.ply", header("ascii") + b"1 2 3\n", "no readable .ply"),
    ("b.ply", header("binary_little_endian") + b"12", "no readable .ply"),
    ("c.ply", header("binary_middle_endian"), "binary_middle_endian"),
    ("d.ply", header("ascii", ("x", "y"), 0), "x, y and z"),
    ("e.off", b"OFF 3 1 0 0 0 0 1 0 0", "no readable .off"),
    ("f.off", b"OFF 3 1 0 0 0 0 1 0 0 0 1 0 3 0 1 9", "outside 0..2"),
    ("g.off", b"COFF 1 1 0", "OFF expected"),
    ("h.off", b"OFF 99999999999 1 0", "claims"),
    ("i.txt", b"1 2 3\n4 5", "2 to 3 numbers"),
    ("j.txt", b"1 2 nan", "not finite"),
    ("k.txt", b"1 2\n3 4", "3 or more"),
    ("l.npy", b"\x93NUMPY", "no readable .npy"),
    ("m.obj", b"", "no format"),
])  # fmt: skip
def test_a_malformed_file_is_a_bad_record(tmp_path, name, raw, message):
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(BadImage, match=message):
        read_cloud(tmp_path / name)


def test_a_flat_mesh_without_area_is_bad():
    with pytest.raises(BadImage, match="no area"):
        on_surface(Mesh(np.zeros((3, 3)), np.array([[0, 1, 2]])), 5, np.random.default_rng(0))


def opened(path, split="train", **fields):
    return make_source("points", split, dict(path=str(path), **fields))


def test_shapenet55(tmp_path):
    (tmp_path / "ShapeNet-55").mkdir()
    (tmp_path / "shapenet_pc").mkdir()
    lists = {"train": ["0001-a.npy", "0002-b.npy"], "test": ["0002-c.npy"]}
    for split, names in lists.items():
        (tmp_path / "ShapeNet-55" / f"{split}.txt").write_text("\n".join(names))
        for name in names:
            np.save(tmp_path / "shapenet_pc" / name, CLOUD)
    train, test = (opened(tmp_path / "ShapeNet-55", s) for s in ("train", "test"))
    assert train.classes == test.classes == ("0001", "0002") and test.labels.tolist() == [1]
    np.testing.assert_array_equal(train[1]["points"], CLOUD)


def test_modelnet40_as_text_and_as_meshes(tmp_path):
    text = tmp_path / "text"
    for name in ("night_stand_0001", "bed_0001", "bed_0002"):
        folder = text / name.rsplit("_", 1)[0]
        folder.mkdir(parents=True, exist_ok=True)
        np.savetxt(folder / f"{name}.txt", np.tile(CLOUD, 2), delimiter=",")
    (text / "modelnet40_train.txt").write_text("night_stand_0001\nbed_0001\n")
    (text / "modelnet40_test.txt").write_text("bed_0002\n")
    train = opened(text)
    assert (
        train.classes == ("bed", "night_stand")
        and train.labels.tolist() == [1, 0]
        and train[0]["points"].shape == (20, 6)
    )
    meshes = tmp_path / "meshes"
    for folder in ("bed/train", "bed/test", "chair/train", "chair/test"):
        (meshes / folder).mkdir(parents=True)
        (meshes / folder / "x_1.off").write_text("OFF\n" + CUBE)
    test = opened(meshes, "test", surface=30)
    assert (
        test.labels.tolist() == [0, 1] and test[0]["points"].shape == (30, 3) and test.name(1) == "chair/test/x_1.off"
    )


def test_scanobjectnn_and_one_file_of_arrays(tmp_path):
    clouds, labels = np.tile(CLOUD, (4, 1, 1)), np.array([0, 2, 1, 0])
    for name in ("training_objectdataset", "test_objectdataset_augmentedrot_scale75"):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["data"], file["label"] = clouds, labels[:, None]
    train = opened(tmp_path)
    assert len(train) == 4 and train.labels.tolist() == labels.tolist() and train.classes == ("0", "1", "2")
    assert len(opened(tmp_path, "test", variant="hardest")) == 4
    with pytest.raises(UserError, match="test_objectdataset.h5"):
        opened(tmp_path, "test")
    np.savez(tmp_path / "own.npz", points=clouds, labels=labels)
    both = [opened(tmp_path / "own.npz", s, holdout=0.5) for s in ("train", "test")]
    assert sum(map(len, both)) == 4
    np.savez(tmp_path / "bad.npz", points=clouds, labels=labels[:2])
    with pytest.raises(UserError, match="4 clouds and 2 labels"):
        opened(tmp_path / "bad.npz")


def test_shapenetpart(tmp_path):
    names = [f"Category{i:02}" for i in range(16)]
    lines = [f"{name}\t{i:04}" for i, name in enumerate(names)]
    (tmp_path / "synsetoffset2category.txt").write_text("\n".join(lines))
    (tmp_path / "train_test_split").mkdir()
    (tmp_path / "0001").mkdir()
    for split, name in (("train", "a"), ("val", "b"), ("test", "c")):
        path = tmp_path / "train_test_split" / f"shuffled_{split}_file_list.json"
        path.write_text(json.dumps([f"shape_data/0001/{name}"]))
        np.savetxt(tmp_path / "0001" / f"{name}.txt", np.column_stack([CLOUD, CLOUD, np.arange(20) % 2 + 4]))
    train = opened(tmp_path)
    assert len(train) == 2 and train.labels.tolist() == [1, 1] and sum(train.part_counts) == 50
    assert train.part_counts == PART_COUNTS and set(train[0]["part"].tolist()) == {4, 5}
    assert train[0]["points"].shape == (20, 6)
    np.savetxt(tmp_path / "0001" / "a.txt", np.column_stack([CLOUD, CLOUD, np.full(20, 50)]))
    with pytest.raises(BadImage, match=r"parts 0\.\.49"):
        train[0]


def test_folders(tmp_path):
    for folder in ("ball", "cup"):
        (tmp_path / folder).mkdir()
        for i in range(4):
            np.save(tmp_path / folder / f"{i}.npy", CLOUD)
    train, test = (opened(tmp_path, s, holdout=0.4) for s in ("train", "test"))
    assert len(train) + len(test) == 8 and train.classes == ("ball", "cup")
    with pytest.raises(UserError, match="no such directory or file"):
        opened(tmp_path / "none")


def test_made_solids_lie_where_their_family_says():
    source = make_source("made_points", "test", dict(count=400, length=10, noise=0.0))
    again = make_source("made_points", "test", dict(count=400, length=10, noise=0.0))
    for i in range(10):
        record = source[i]
        points, shape = record["points"].astype(np.float64), SHAPES[record["label"]]
        np.testing.assert_array_equal(points, again[i]["points"])
        assert set(record["part"] // 2) == {record["label"]} and len(set(record["part"])) == len(PARTS[shape])
        radius, height = np.hypot(points[:, 0], points[:, 2]), points[:, 1]
        first = record["part"] % 2 == 0
        if shape == "cylinder":
            np.testing.assert_allclose(radius[~first], radius[~first].max(), rtol=1e-5)
            np.testing.assert_allclose(np.abs(height[first]), height.max(), rtol=1e-5)
        if shape == "cone":
            np.testing.assert_allclose(height[first], height.min(), rtol=1e-5)
            slope = np.polyfit(radius[~first], height[~first], 1)
            np.testing.assert_allclose(np.polyval(slope, radius[~first]), height[~first], atol=1e-4)
        if shape == "sphere":  # an ellipsoid about the origin: a quadratic form is 1 everywhere
            x, y, z = points.T
            terms = np.stack([x * x, y * y, z * z, x * z], axis=1)
            np.testing.assert_allclose(terms @ np.linalg.lstsq(terms, np.ones(400), rcond=None)[0], 1, atol=1e-4)
    assert (
        source[0]["points"] != make_source("made_points", "train", dict(count=400, length=10, noise=0.0))[0]["points"]
    ).any()


def test_points_are_sampled_with_their_labels():
    record = {"points": np.column_stack([CLOUD + 5, CLOUD]), "part": np.arange(20)}
    draw = partial(draws, 0, 3)
    for how in ("random", "first", "farthest"):
        sample = PointSample(8, how, unit_sphere=False)
        points, part = sample("points", record, draw), PointLabels(sample)("part", record, draw)
        np.testing.assert_array_equal(points, record["points"][part, :3])
        assert len(set(part.tolist())) == 8
    assert (part == farthest(CLOUD + 5, 8)).all()
    ball = PointSample(8, "random", unit_sphere=True)("points", record, draw)
    np.testing.assert_allclose(ball.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(ball, axis=1).max(), 1, rtol=1e-6)
    more = PointSample(50, "random", unit_sphere=False).indices(CLOUD, draw)
    assert set(more.tolist()) == set(range(20))
    votes = [PointSample(8, "first", True, (0.5, 2.0), 0.2, view)("points", record, draw) for view in (1, 2, 1)]
    np.testing.assert_array_equal(votes[0], votes[2])
    assert (votes[0] != votes[1]).any()
    with pytest.raises(BadImage, match="one point"):
        PointSample(4, "first", True)("points", {"points": np.ones((9, 3))}, draw)
    with pytest.raises(UserError, match="one each"):
        PointLabels(sample)("part", record | {"part": np.arange(3)}, draw)


def test_an_episode_has_few_records_of_few_classes():
    of = dict(source="made_points", count=20, length=100)
    train, test = (make_source("episode", s, dict(of=of, way=3, shot=4, queries=6, fold=1)) for s in ("train", "test"))
    assert len(train) == 12 and len(test) == 18 and train.classes == test.classes and len(set(train.classes)) == 3
    for source in (train, test):
        for i in range(len(source)):
            assert SHAPES[source.source.labels[source.picks[i]]] == source.classes[source.labels[i]]
            assert source[i]["label"] == source.labels[i]
    assert len(set(train.picks.tolist())) == 12
    drawn = {tuple(make_source("episode", "train", dict(of=of, fold=f, way=3)).picks.tolist()) for f in range(5)}
    assert len(drawn) == 5
    with pytest.raises(UserError, match="cannot be drawn"):
        make_source("episode", "train", dict(of=of, way=6))
