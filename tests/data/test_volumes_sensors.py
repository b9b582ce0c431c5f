"""The made-up volumes and sensor pairs: repeatable, learnable, apart; volumes from files."""

import pickle

import numpy as np
import pytest

from mae_jax.core.errors import UserError
from mae_jax.data.sources import make_source
from mae_jax.data.sources.sensors import mixes


def test_made_up_volumes():
    fields = {"size": (12, 10, 8), "length": 30}
    train, test = (make_source("volumes", s, fields) for s in ("train", "test"))
    volume = train[8]["volume"]
    assert volume.shape == (12, 10, 8, 1) and volume.dtype == np.float32 and 0 <= volume.min() < volume.max() <= 1
    np.testing.assert_array_equal(volume, make_source("volumes", "train", fields)[8]["volume"])
    assert not np.array_equal(volume, test[8]["volume"]) and train[8]["label"] == 2
    assert len(train.classes) == 6 and train.describe().endswith("6 classes")


def test_shape_of_the_bodies_is_the_class():
    """The spread of the bright voxels along each axis tells long bodies from flat ones, and their axis."""
    source = make_source("volumes", "train", {"size": 24, "length": 240})
    spread = np.zeros((6, 3))
    for i in range(240):
        at = np.argwhere(source[i]["volume"][..., 0] > 0.48)
        spread[source.labels[i]] += at.std(0) / 40
    assert (spread[:3].argmax(1) == [0, 1, 2]).all() and (spread[3:].argmin(1) == [0, 1, 2]).all()


@pytest.mark.parametrize("kind", ["npy", "npz", "unlabelled"])
def test_volumes_from_a_file(tmp_path, kind):
    volumes = np.random.default_rng(0).integers(0, 255, (20, 4, 5, 6), np.uint8)
    labels = np.arange(20) % 3
    path = tmp_path / ("v.npy" if kind == "npy" else "v.npz")
    if kind == "npy":
        np.save(path, volumes)
    else:
        np.savez(path, volumes=volumes, **({"labels": labels} if kind == "npz" else {}))
    parts = [make_source("volumes", s, {"path": str(path), "holdout": 0.3}) for s in ("train", "test")]
    assert sorted(n for p in parts for n in p.numbers) == list(range(20)) and all(len(p) for p in parts)
    for part in parts:
        part = pickle.loads(pickle.dumps(part))  # as a worker gets it
        record = part[1]
        np.testing.assert_allclose(record["volume"][..., 0], volumes[part.numbers[1]] / 255, rtol=1e-6)
        assert record["label"] == (labels[part.numbers[1]] if kind == "npz" else -1)
        assert bool(part.classes) == (kind == "npz")
        assert len(pickle.dumps(part)) < 4000


@pytest.mark.parametrize(
    "arrays, message",
    [
        (dict(images=np.zeros((2, 3, 3, 3))), "holds the arrays images"),
        (dict(volumes=np.zeros((2, 3, 3))), r"shape \(2, 3, 3\)"),
        (dict(volumes=np.zeros((2, 3, 3, 3)), labels=np.zeros(3, int)), r"labels .* shape \(3,\)"),
    ],
)
def test_files_that_are_no_volumes(tmp_path, arrays, message):
    np.savez(tmp_path / "v.npz", **arrays)
    with pytest.raises(UserError, match=message):
        make_source("volumes", "train", {"path": str(tmp_path / "v.npz")})


def test_messages_of_volumes(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        make_source("volumes", "train", {"path": str(tmp_path / "x.npy")})
    with pytest.raises(UserError, match="NIfTI"):
        make_source("volumes", "train", {"path": str(tmp_path / "x.nii.gz")})
    with pytest.raises(UserError, match="at least 1"):
        make_source("volumes", "train", {"size": (4, 4)})


def test_sensors_see_the_same_digits():
    train, digits = make_source("sensors", "train", {"optical": 5}), make_source("digits", "train", {})
    image = train[3]["image"]
    assert image.shape == (24, 24, 7) and image.dtype == np.uint8 and train.labels.tolist() == digits.labels.tolist()
    np.testing.assert_array_equal(image, make_source("sensors", "train", {"optical": 5})[3]["image"])
    gain, _ = mixes(5)
    digit = np.kron(digits[3]["image"][..., 0], np.ones((3, 3)))
    seen = [np.corrcoef(digit.ravel(), image[..., c].ravel())[0, 1] for c in range(7)]
    assert (np.sign(seen[:5]) == np.sign(gain)).all() and np.abs(seen[:5]).min() > 0.4
    edges = np.hypot(*np.gradient(digit))
    assert np.corrcoef(edges.ravel(), image[..., 5].ravel())[0, 1] > 0.4 and seen[6] > 0.4
    with pytest.raises(UserError, match="data.size"):
        make_source("sensors", "train", {"size": 1})
