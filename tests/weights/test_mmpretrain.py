"""mmpretrain's MAE and ColorMAE: names as its necks/mae_neck.py and backbones/vision_transformer.py have."""

import numpy as np
import pytest

from mae_jax.core import tree
from mae_jax.core.errors import UserError
from mae_jax.interop.names import export_weights
from mae_jax.interop.vit_layouts import Sizes, mmpretrain
from mae_jax.methods.colormae import ColorMAE
from mae_jax.weights.hints import Hints
from mae_jax.weights.published import read_published

METHOD = ColorMAE(image_size=8, patch=2, dim=128, depth=1, heads=2, mlp_ratio=2.0, decoder_dim=64, decoder_depth=1,
                  decoder_heads=1)  # fmt: skip
HINTS = Hints(heads=2, decoder_heads=1)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    params = tree.map_with_path(
        lambda path, s: np.random.default_rng(len(path)).normal(size=s.shape).astype(np.float32), METHOD.net.shapes()
    )
    sizes = Sizes(3, (2, 2), (4, 4), 128, 64)
    tensors = export_weights(mmpretrain(sizes), {"params": params}, constants=True)
    path = tmp_path_factory.mktemp("mm") / "epoch_300.npz"
    np.savez(path, **tensors, **{"data_preprocessor.mean": np.zeros(3)})
    return path, params, tensors


def test_names_are_mmpretrains(file):
    names = set(file[2])
    assert {
        "backbone.cls_token", "backbone.pos_embed", "backbone.patch_embed.projection.weight",
        "backbone.layers.0.ln1.weight", "backbone.layers.0.attn.qkv.bias", "backbone.layers.0.ffn.layers.0.0.weight",
        "backbone.layers.0.ffn.layers.1.bias", "backbone.ln1.weight", "neck.mask_token", "neck.decoder_pos_embed",
        "neck.decoder_embed.weight", "neck.decoder_blocks.0.attn.proj.weight", "neck.ln1.bias",
        "neck.decoder_pred.weight",
    } <= names  # fmt: skip


def test_a_file_is_read_as_colormae(file):
    found = read_published(file[0], HINTS)
    assert found.kind == "pretraining" and found.info["family"] == "mmpretrain" and found.info["positions"] == "row"
    method = {key: found.config["method"][key] for key in ("name", "dim", "depth", "heads", "mlp_ratio", "first")}
    assert method == {"name": "colormae", "dim": 128, "depth": 1, "heads": 2, "mlp_ratio": 2.0, "first": "row"}
    assert found.config["method"]["norm_pix"] and found.config["method"]["image_size"] == 8
    wanted = tree.flatten(file[1])
    assert set(tree.flatten(found.params)) == set(wanted)
    for path, x in tree.flatten(found.params).items():
        np.testing.assert_array_equal(x, wanted[path], err_msg=path)


def test_a_decoder_with_another_table_is_refused(file, tmp_path):
    tensors = file[2] | {"neck.decoder_pos_embed": file[2]["neck.decoder_pos_embed"][..., ::-1]}
    np.savez(tmp_path / "other.npz", **tensors)
    with pytest.raises(UserError, match="neck.decoder_pos_embed is another one"):
        read_published(tmp_path / "other.npz", HINTS)
