"""Parity of Audio-MAE and Bird-MAE with the authors' code, and how their arguments are read."""

import jax
import numpy as np
import pytest
from golden_files import GOLDEN

from mae_jax.core.errors import UserError
from mae_jax.interop import birdmae, parity
from mae_jax.interop.golden import read
from mae_jax.interop.names import export_weights, import_weights

FILES = sorted((GOLDEN / "birdmae").glob("*.npz"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_golden_file(path):
    golden = read(path)
    lines = parity.compare(golden, str(path))
    assert {line.output for line in lines} == set(golden.outputs) and len(FILES) == 6
    for line in lines:
        assert line.ok and line.max_rel < 5e-6, line


def test_export_is_the_inverse_of_import():
    for name in ("audiomae_swin", "protoprobe"):
        golden = read(GOLDEN / "birdmae" / f"{name}.npz")
        prepared = parity.case(golden.system, golden.name)(golden)
        tree, _ = import_weights(prepared.rules, golden.weights, prepared.template)
        back = export_weights(prepared.rules, tree, constants=True)
        assert set(back) == set(golden.weights)
        for key, tensor in back.items():
            np.testing.assert_allclose(tensor, golden.weights[key], atol=1e-6, err_msg=key)


AUDIO = {"img_size": [1024, 128], "in_chans": 1, "audio_exp": True, "embed_dim": 768, "depth": 12, "num_heads": 12}


def test_published_sizes_fill_the_names_of_the_released_files():
    """Audio-MAE's pretrained.pth and Bird-MAE's checkpoints; the shapes of some tensors that the papers' sizes fix."""
    method = birdmae.audiomae_method({**AUDIO, "decoder_mode": 1})
    shapes, _ = jax.eval_shape(method.init, jax.random.key(0), {"spectrogram": np.zeros((1, 1024, 128, 1), np.float32)})
    theirs = export_weights(birdmae.audiomae_rules(method), jax.tree.map(zeros, shapes), constants=True)
    assert theirs["pos_embed"].shape == (1, 513, 768) and theirs["decoder_pred.weight"].shape == (256, 512)
    assert theirs["decoder_blocks.15.attn.tau"].shape == (16,) and "decoder_blocks.16.attn.tau" not in theirs
    assert theirs["decoder_blocks.0.attn.meta_mlp.fc1.weight"].shape == (384, 2)
    assert theirs["patch_embed.proj.weight"].shape == (768, 1, 16, 16)
    config = {"encoder": {"depth": 2}, "decoder": {"mode": "swinv2", "depth": 1}}
    method = birdmae.birdmae_method(config)
    shapes, _ = jax.eval_shape(method.init, jax.random.key(0), {"spectrogram": np.zeros((1, 512, 128, 1), np.float32)})
    theirs = export_weights(birdmae.birdmae_rules(method), jax.tree.map(zeros, shapes), constants=True)
    assert theirs["decoder.blocks.0.attn.logit_scale"].shape == (16, 1, 1)
    assert theirs["decoder.blocks.0.attn.cpb_mlp.2.weight"].shape == (16, 512)
    assert theirs["encoder.pos_embed"].shape == (1, 257, 768)


def zeros(shape):
    return np.broadcast_to(np.float32(0), shape.shape)


def test_arguments_are_read_strictly():
    overlapped = birdmae.audiomae_method({**AUDIO, "use_custom_patch": True, "decoder_mode": 1, "no_shift": True})
    assert overlapped.grid == (101, 12) and overlapped.window == (6, 6) and overlapped.shift == (0, 0)
    assert not overlapped.transposed and overlapped.decoder_depth == 16
    image = birdmae.audiomae_method({"audio_exp": False, "img_size": 64, "mask_2d": True})
    assert image.channels == 3 and image.mask == "lines" and image.mask_time == 0.6
    proto = birdmae.prototype_nets({"num_classes": 3, "ppnet": {"incorrect_class_connection": -0.5, "topk_k": 2}})
    assert proto[1].other == -0.5 and proto[1].top == 2 and proto[1].per_class == 20 and proto[2]
    for build, config, message in (
        (birdmae.audiomae_method, {"decoder_mode": 4}, "decoder_mode=4"),
        (birdmae.audiomae_method, {"in_chans": 1}, "1 channel with audio_exp"),
        (birdmae.audiomae_method, {"maskratio": 0.5}, "maskratio"),
        (birdmae.birdmae_method, {"decoder": {}}, "needs the argument encoder"),
        (birdmae.birdmae_method, {"encoder": {}, "decoder": {"patch_size": 8}}, "patch_size=8"),
        (birdmae.classifier_method, {"global_pool": False}, "global_pool=False"),
        (birdmae.prototype_nets, {"num_classes": 3, "ppnet": {"add_on_layers_type": "bottleneck"}}, "bottleneck"),
    ):
        with pytest.raises(UserError, match=message):
            build(config)
