"""A masked autoencoder as teacher: from a published file, a native one, a run; whole or up to a block."""

import dataclasses

import numpy as np
import pytest

from mae_jax import teachers
from mae_jax.core import tree
from mae_jax.core.errors import UserError
from mae_jax.interop.mae import pretraining_rules
from mae_jax.interop.names import export_weights
from mae_jax.methods.dmae import DMAE
from mae_jax.methods.mae import MAE
from mae_jax.train.checkpoint import Checkpoints
from mae_jax.weights.store import Weights, write

SIZES = dict(image_size=8, patch=4, channels=1, dim=16, depth=3, heads=2, decoder_dim=8, decoder_depth=1,
             decoder_heads=2)  # fmt: skip
MAKER = MAE(**SIZES)
PARAMS = tree.map_with_path(
    lambda path, s: np.random.default_rng(len(path)).normal(size=s.shape).astype(np.float32), MAKER.net.shapes()
)
PART = DMAE(
    image_size=8, patch=4, channels=1, dim=8, depth=1, heads=2, decoder_dim=8, decoder_depth=1, decoder_heads=2,
    pairs=((0, 1),), teacher_dim=16, teacher_depth=3, teacher_heads=2, teacher_decoder_dim=8, teacher_decoder_depth=1,
    teacher_decoder_heads=2,
)  # fmt: skip


@pytest.fixture(scope="module", params=["published", "native", "workdir", "npz"])
def file(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    if request.param == "published":
        np.savez(folder / "mae.npz", **export_weights(pretraining_rules(MAKER), PARAMS, constants=True))
        return folder / "mae.npz"
    if request.param == "native":
        config = {"method": {"name": "mae"} | SIZES, "augment": {"mean": (0.5,), "std": (0.5,)}}
        return write(folder / "teacher.safetensors", Weights(config, PARAMS, info={"kind": "pretraining"}))
    if request.param == "npz":
        np.savez(folder / "own.npz", **tree.flatten(PARAMS))
        return folder / "own.npz"
    (folder / "config.json").write_text('{"method": {"heads": 2, "decoder_heads": 2}}')
    with Checkpoints(folder, asynchronous=False) as saved:
        saved.save(1, {"params": PARAMS}, data={}, config={})
    return folder


@pytest.mark.parametrize("whole", [False, True])
def test_every_file_gives_what_the_network_has(file, whole):
    method = dataclasses.replace(PART, full_teacher=whole, teacher_file=str(file))
    params, _ = teachers.load(method.frozen()["teacher"])
    flat, every = tree.flatten(params), tree.flatten(PARAMS)
    assert set(flat) == set(tree.flatten(method.teacher.shapes()))
    assert whole == (set(flat) == set(every)) and whole == ("encoder/blocks/2/mlp/fc1/kernel" in flat)
    for path, x in flat.items():
        np.testing.assert_array_equal(x, every[path], err_msg=path)


def test_a_teacher_of_other_sizes_is_refused(file):
    spec = dataclasses.replace(PART, teacher_file=str(file), teacher_dim=20).frozen()["teacher"]
    with pytest.raises(UserError, match="sizes"):
        teachers.load(spec)
    hashed = dataclasses.replace(PART, teacher_file=str(file), teacher_sha256="0").frozen()["teacher"]
    with pytest.raises(UserError, match="not the file that the config means"):
        teachers.load(hashed)
    if file.is_dir() or file.suffix == ".safetensors":
        heads = dataclasses.replace(PART, teacher_file=str(file), teacher_heads=4).frozen()["teacher"]
        with pytest.raises(UserError, match="set method.teacher_heads=2"):
            teachers.load(heads)
