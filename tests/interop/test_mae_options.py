"""MAE's name map and builders at sizes and options that no stored file has, against the plain torch
models.
"""

import sys
from pathlib import Path

import numpy as np
import pytest
from golden_files import write

from mae_jax.core.errors import UserError
from mae_jax.interop import parity
from mae_jax.interop.golden import read, rule_weight
from mae_jax.interop.mae import classifier_net, pretraining_method

torch = pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parent.parent / "reference"))
import mae_torch  # noqa: E402

BASE = {
    "img_size": 16,
    "patch_size": 4,
    "in_chans": 3,
    "embed_dim": 24,
    "depth": 1,
    "num_heads": 3,
    "mlp_ratio": 4.0,
    "norm_eps": 1e-6,
}
DECODER = {
    "decoder_embed_dim": 16,
    "decoder_depth": 1,
    "decoder_num_heads": 2,
    "mask_ratio": 0.75,
    "norm_pix_loss": False,
}
CLASSES = {"num_classes": 5, "qkv_bias": True, "global_pool": True}


def record(path, name, config, given, model):
    """Run a torch model on `given` under the weight rule and write what it computed as a golden file."""
    weights = {n: rule_weight(n, p.shape, 7) for n, p in model.named_parameters()}
    model.load_state_dict({n: torch.from_numpy(w) for n, w in weights.items()})
    loss, seen = model(*(torch.from_numpy(x) for x in given.values()))
    loss.backward()
    outputs = {n: x.detach().numpy() for n, x in seen.items()}
    outputs |= {f"grad_norm/{n}": p.grad.norm().numpy() for n, p in model.named_parameters()}
    meta = {
        "system": "mae",
        "class": name,
        "config": config,
        "seed": 7,
        "weights": {n: w.shape for n, w in weights.items()},
    }
    return write(path, meta, {f"in/{k}": v for k, v in given.items()} | {f"out/{k}": v for k, v in outputs.items()})


def images(config, rng):
    return rng.standard_normal((2, config["in_chans"], *mae_torch.pair(config["img_size"]))).astype(np.float32)


def assert_equal(path):
    for line in parity.compare(read(path)):
        assert line.ok and (line.max_rel < 1e-5 or line.max_abs < 1e-7), line


@pytest.mark.parametrize(
    "change",
    [
        {"img_size": [12, 20], "patch_size": [3, 5], "in_chans": 1, "norm_pix_loss": True},
        {"img_size": [8, 24], "patch_size": [4, 4], "in_chans": 5, "mask_ratio": 0.6, "decoder_num_heads": 4},
        {
            "embed_dim": 32,
            "num_heads": 8,
            "depth": 3,
            "decoder_depth": 2,
            "mlp_ratio": 2.5,
            "norm_eps": 1e-3,
            "patch_size": 8,
            "mask_ratio": 0.5,
        },
    ],
)
def test_pretraining(tmp_path, change):
    config = BASE | DECODER | change
    rng = np.random.default_rng(0)
    rows, columns = mae_torch.grid(config)
    given = {"imgs": images(config, rng), "noise": rng.random((2, rows * columns), dtype=np.float32)}
    assert_equal(record(tmp_path / "x.npz", "MaskedAutoencoderViT", config, given, mae_torch.MAE(config)))


@pytest.mark.parametrize(
    "change",
    [
        {"img_size": [12, 20], "patch_size": [3, 5], "in_chans": 1, "drop_path_rate": 0.1},
        {"global_pool": False, "qkv_bias": False, "num_heads": 4, "depth": 2, "norm_eps": 1e-5, "num_classes": 1},
    ],
)
def test_classifier(tmp_path, change):
    config = BASE | CLASSES | change
    rng = np.random.default_rng(1)
    given = {"imgs": images(config, rng), "labels": rng.integers(0, config["num_classes"], 2)}
    path = record(tmp_path / "x.npz", "models_vit.VisionTransformer", config, given, mae_torch.Classifier(config))
    assert_equal(path)


def test_bias_of_qkv_is_read_from_the_weights(tmp_path):
    config = BASE | CLASSES | {"qkv_bias": False}
    rng = np.random.default_rng(2)
    given = {"imgs": images(config, rng), "labels": rng.integers(0, 5, 2)}
    model = mae_torch.Classifier(config)
    del config["qkv_bias"]
    assert_equal(record(tmp_path / "x.npz", "models_vit.VisionTransformer", config, given, model))


@pytest.mark.parametrize("build", [pretraining_method, classifier_net])
def test_arguments_are_read_strictly(build):
    build({"drop_path_rate": 0.2, "drop_rate": 0.1})  # without effect in eval mode
    with pytest.raises(UserError, match=r"'embed_dims'.*Did you mean 'embed_dim'"):
        build({"embed_dims": 32})
    with pytest.raises(UserError, match=r"init_values.* 1e-05"):
        build({"init_values": 1e-5})


def test_arguments_of_the_pretraining_model():
    with pytest.raises(UserError, match=r"qkv_bias=False"):
        pretraining_method({"qkv_bias": False})
    with pytest.raises(UserError, match=r"does not divide"):
        pretraining_method({"img_size": 225})
    with pytest.raises(UserError, match=r"num_classes=0"):
        classifier_net({"num_classes": 0})
