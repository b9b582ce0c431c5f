"""Folders and weights files that are whole and lie about what they are: settings, shards, shapes of known names."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file
from tiny_runs import tiny

from mae_jax.config import resolve
from mae_jax.core.errors import UserError
from mae_jax.train.build import build
from mae_jax.weights.store import FORMAT, open_weights

VIT = {"model_type": "vit_mae", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16}


def folder(path, config, tensors=None):
    path.mkdir(exist_ok=True)
    text = config if isinstance(config, str) else json.dumps(config)
    (path / "config.json").write_text(text)
    save_file(tensors or {"vit.embeddings.cls_token": np.zeros((1, 1, 32), np.float32)}, path / "model.safetensors")
    return path


@pytest.mark.parametrize(
    "config, says",
    [
        (VIT | {"image_size": 10**6}, "image_size"),
        (VIT | {"hidden_size": 2**40}, "hidden_size"),
        (VIT | {"num_hidden_layers": 10**9}, "hidden_layers"),
        (VIT | {"decoder_hidden_size": 10**9}, "hidden_size"),
        (VIT | {"image_size": -16}, "image_size"),
        (VIT | {"patch_size": 0}, "patch_size"),
        (VIT | {"hidden_size": "wide"}, "."),
        (VIT | {"hidden_size": None, "image_size": []}, "."),
        ({"model_type": ["vit_mae"]}, "."),
        ("[1]", "no object"),
        ("[" * 100_000, "deeply"),
        ('{"a": 1, "a": 2}', "twice"),
    ],
)
def test_settings_that_lie(tmp_path, config, says):
    with pytest.raises(UserError, match=says):
        open_weights(folder(tmp_path / "f", config))


def test_shards_lead_nowhere_else(tmp_path):
    secret = tmp_path / "secret.safetensors"
    save_file({"a": np.zeros(3, np.float32)}, secret)
    where = folder(tmp_path / "f", VIT)
    (where / "model.safetensors").rename(where / "other.safetensors")
    for shard in ("../secret.safetensors", str(secret), "", 7, ["x"], None):
        (where / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
        with pytest.raises(UserError):
            open_weights(where)


NAMES = (
    "patch_embed.proj.weight", "encoder.patch_embed.proj.weight", "cls_token", "pos_embed", "blocks.0.attn.qkv.weight",
    "blocks.0.mlp.fc1.weight", "mask_token", "decoder_embed.weight", "decoder_pos_embed", "norm.weight", "head.weight",
    "decoder_blocks.0.mlp.fc1.weight", "fc_norm.weight", "embedding/kernel",
    "Transformer/encoderblock_0/MlpBlock_0/Dense_0/kernel",
    "backbone.patch_embed.projection.weight", "MAE_encoder.pos_embed.0.weight", "blocks.blocks.0.attn.qkv.weight",
)  # fmt: skip


def test_known_names_with_shapes_that_nobody_has(tmp_path):
    """Names of every family, with arrays of any rank and size: always an error of ours."""
    rng = np.random.default_rng(0)
    path = tmp_path / "w.safetensors"
    for _ in range(150):
        chosen = rng.choice(len(NAMES), rng.integers(1, len(NAMES)), replace=False)
        shapes = {NAMES[i]: tuple(rng.integers(0, 5, rng.integers(0, 6))) for i in chosen}
        save_file({name: np.zeros(shape, np.float32) for name, shape in shapes.items()}, path)
        with pytest.raises(UserError):
            open_weights(path)


@pytest.mark.parametrize(
    "config, info",
    [
        ("{", "{}"),
        ("[]", '{"kind": "encoder"}'),
        ('{"method": {"name": ["mae"]}}', '{"kind": "encoder"}'),
        ('{"method": {"name": "mae"}}', '{"kind": "soup"}'),
        ('{"method": {"name": "mae"}}', "[" * 50_000),
    ],
)
def test_native_files_that_lie(tmp_path, config, info):
    path = tmp_path / "w.safetensors"
    save_file({"params/a": np.zeros(3, np.float32)}, path, {"format": FORMAT, "config": config, "info": info})
    with pytest.raises(UserError, match="does not say what it is"):
        open_weights(path)


def test_a_sample_that_nobody_could_hold_is_said():
    fields = tiny().to_dict()
    fields["method"] |= {"image_size": 1 << 20, "patch": 1 << 10}
    with pytest.raises(UserError, match="GB for one sample"):
        build(resolve(fields))


def test_a_workdir_without_a_method(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    for text in ("{}", "[]", '{"method": "mae"}'):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(UserError, match="names no method"):
            open_weights(tmp_path)
