"""Parity with VideoMAE and VideoMAE V2 on their golden files, and their name maps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_files import GOLDEN

from mae_jax.core.errors import UserError
from mae_jax.interop import parity, videomae, videomaev2
from mae_jax.interop.golden import read
from mae_jax.interop.names import export_weights, import_weights

FILES = sorted((GOLDEN / "videomae").glob("*.npz")) + sorted((GOLDEN / "videomaev2").glob("*.npz"))


@pytest.mark.parametrize("file", FILES, ids=lambda f: f"{f.parent.name}_{f.stem}")
def test_golden_file(file):
    lines = parity.compare(read(file))
    assert len(lines) >= 5
    for line in lines:
        assert line.ok and line.max_rel < 5e-6, line


@pytest.mark.parametrize("file", [f for f in FILES if f.stem in ("pretrain_rawpix_layerscale", "classifier_cosattn")])
def test_weights_go_there_and_back(file):
    golden = read(file)
    prepared = parity.case(golden.system, golden.name)(golden)
    params, report = import_weights(prepared.rules, golden.weights, prepared.template)
    assert not report.unused
    back = export_weights(prepared.rules, params)
    assert back.keys() == golden.weights.keys()
    for name, weight in golden.weights.items():
        np.testing.assert_array_equal(back[name], weight, err_msg=name)


def test_arguments():
    method = videomae.pretraining_method({"decoder_embed_dim": 384, "decoder_depth": 4, "decoder_num_heads": 6})
    assert method.grid == (8, 14, 14) and method.qkv_bias is False and method.layer_scale == 0
    second = videomaev2.pretraining_method({"decoder_mask_ratio": 0.5, "all_frames": 8, "qkv_bias": True})
    assert second.asked == 392 and second.qkv_bias == "qv"
    for arguments, message in (
        ({"decoder_num_classes": 768}, "decoder_num_classes=768"),
        ({"use_learnable_pos_emb": True}, "use_learnable_pos_emb=True"),
        ({"encoder_depths": 3}, "'encoder_depths'"),
    ):
        with pytest.raises(UserError, match=message):
            videomae.pretraining_method(arguments)


def test_classifiers_read_the_first_token_without_mean_pooling():
    """Sheet: norm, then token 0; learned positions have a row per token; without biases there are no names for them."""
    config = {"use_mean_pooling": False, "use_learnable_pos_emb": True, "all_frames": 4, "img_size": 8, "patch_size": 4}
    net, channels = videomae.classifier_net(config | {"embed_dim": 8, "num_heads": 2, "depth": 1, "num_classes": 3})

    video = jnp.asarray(np.random.default_rng(0).standard_normal((2, 4, 8, 8, 3)), jnp.float32)
    params = jax.jit(net.init)(jax.random.key(0), video)["params"]
    names = set(export_weights(videomae.classifier_rules(channels, net.patch), params))
    assert {"norm.weight", "pos_embed", "head.bias"} <= names and not {"fc_norm.weight", "blocks.0.attn.q_bias"} & names
    _, pooled = jax.jit(lambda p: net.apply({"params": p}, video))(params)
    np.testing.assert_allclose(np.asarray(pooled).mean(axis=1), 0, atol=1e-5)  # normed
    assert params["encoder"]["pos_embed"].shape == (1, 8, 8)


def test_a_mask_of_another_size_is_refused():
    golden = read(GOLDEN / "videomae" / "pretrain_tube90.npz")
    golden.config["mask_ratio"] = 0.75
    with pytest.raises(UserError, match="does not leave 40 of 160"):
        videomae.prepare_pretraining(golden)
