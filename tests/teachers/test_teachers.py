"""Frozen networks: found, checked, and what they were said to be."""

import dataclasses
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mae_jax import teachers
from mae_jax.core import tree
from mae_jax.core.errors import UserError
from mae_jax.data.sources.digits import Digits
from mae_jax.interop import clip_vision_teacher, dino_vit_teacher
from mae_jax.interop.golden import read
from mae_jax.interop.names import export_weights, import_weights
from mae_jax.methods.base import FrozenSpec
from mae_jax.nets.block import Transformer
from mae_jax.nets.layers import apply
from mae_jax.nets.tower import KINDS, attention, shapes
from mae_jax.tokens.positions import sincos, with_prefix
from mae_jax.train.checkpoint import Checkpoints

GOLDEN = Path(__file__).parent.parent / "golden" / "maskalign"
CLIP, DINO = (read(GOLDEN / f"{name}_teacher.npz") for name in ("clip", "dino"))
BUNDLED = FrozenSpec(
    "workdir", "bundled/digits_vit.npz", network=KINDS["workdir"](Transformer(48, 4, 4), (8, 8), (2, 2), 1)
)
run = jax.jit(apply, static_argnums=0)


def save(path, tensors):
    np.savez(path, **tensors)
    return str(path)


def clip_spec(tmp_path, prefix=""):
    tensors = {prefix + name: tensor for name, tensor in CLIP.weights.items()}
    extra = {"text_model.encoder.x": np.zeros(2), "logit_scale": np.zeros(())} if prefix else {}
    file = save(tmp_path / "clip.npz", tensors | extra)
    return FrozenSpec("clip", file, network=clip_vision_teacher.tower_of(CLIP.config))


def test_every_family_loads_what_its_shapes_say(tmp_path):
    assert set(KINDS) <= set(teachers.families())
    for spec in (clip_spec(tmp_path), BUNDLED):
        params, _ = teachers.load(spec)
        shapes = tree.flatten(teachers.shapes(spec))
        assert {path: x.shape for path, x in tree.flatten(params).items()} == {p: s.shape for p, s in shapes.items()}
        assert all(x.dtype == np.float32 for x in jax.tree.leaves(params))


def test_a_whole_clip_model_gives_its_image_tower(tmp_path):
    spec = clip_spec(tmp_path, prefix="vision_model.")
    params, _ = teachers.load(spec)
    image = jnp.asarray(CLIP.inputs["pixel_values"]).transpose(0, 2, 3, 1)
    out = run(spec.network, params, image)
    np.testing.assert_allclose(out.hidden[3], CLIP.outputs["hidden_3"], atol=1e-4)
    np.testing.assert_allclose(attention(spec.network, params, out.hidden), CLIP.outputs["attn_last"], atol=1e-5)


def test_three_dialects_of_one_vit(tmp_path):
    tower = dino_vit_teacher.tower_of(DINO.config)
    spec = FrozenSpec("dino", save(tmp_path / "new.npz", DINO.weights), network=tower)
    params, _ = teachers.load(spec)
    dialects = {
        "published": dino_vit_teacher.transformers_rules(tower, published=True),
        "timm": dino_vit_teacher.timm_rules(tower),
    }
    for name, rules in dialects.items():
        tensors = export_weights(rules, params)
        assert not set(tensors) & set(DINO.weights) - {n for n in tensors if n.startswith(("embeddings", "layernorm"))}
        again, _ = teachers.load(dataclasses.replace(spec, file=save(tmp_path / f"{name}.npz", tensors)))
        jax.tree.map(np.testing.assert_array_equal, again, params)
    published = export_weights(dialects["published"], params)
    assert "encoder.layer.1.attention.attention.query.weight" in published  # as facebook/dino-vitb16 has it
    assert "encoder.layer.1.attention.output.dense.bias" in published
    assert "blocks.0.attn.qkv.weight" in export_weights(dialects["timm"], params)


def test_a_published_mae_without_its_decoder(tmp_path):
    tower = KINDS["mae"](Transformer(16, 1, 2), (8, 8), (4, 4), 3)
    params = tower.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]
    tensors = export_weights(dino_vit_teacher.timm_rules(tower), params, constants=True)
    spec = FrozenSpec("mae", save(tmp_path / "m.npz", tensors | {"decoder_pos_embed": np.zeros(3)}), network=tower)
    jax.tree.map(np.testing.assert_array_equal, teachers.load(spec)[0], params)
    np.testing.assert_array_equal(tensors["pos_embed"], with_prefix(sincos(16, (2, 2)), 1)[None])
    spec = dataclasses.replace(spec, file=save(tmp_path / "x.npz", tensors | {"pos_embed": tensors["pos_embed"] + 1}))
    with pytest.raises(UserError, match="pos_embed differs"):
        teachers.load(spec)


def test_a_workdir_of_ours(tmp_path):
    tower = KINDS["workdir"](Transformer(16, 1, 2), (8, 8), (4, 4), 3)
    params = tower.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]
    with Checkpoints(tmp_path, asynchronous=False) as checkpoints:
        state = {"params": {"encoder": params, "decoder": {"kernel": jnp.ones((2, 2))}}, "step": jnp.array(3)}
        checkpoints.save(3, state, data={}, config={})
    spec = FrozenSpec("workdir", str(tmp_path), network=tower)
    found, sha256 = teachers.load(spec)
    jax.tree.map(np.testing.assert_array_equal, found, params)
    assert teachers.load(dataclasses.replace(spec, sha256=sha256))[1] == sha256
    wider = KINDS["workdir"](Transformer(24, 1, 2), (8, 8), (4, 4), 3)
    with pytest.raises(UserError, match="does not fit the frozen network in 17 array"):
        teachers.load(dataclasses.replace(spec, network=wider))


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(file=""), "no file is named"),
        (dict(file="nowhere.npz"), "are not at 'nowhere.npz'"),
        (dict(sha256="0" * 64), "is not the file that the config means: its sha256 is"),
        (dict(family="clipp"), "Did you mean 'clip'?"),
        (dict(network=clip_vision_teacher.tower_of(CLIP.config | {"hidden_size": 16})), "do not fit the network"),
        (dict(family="dino"), "is known to no rule"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, change, message):
    spec = clip_spec(tmp_path)
    with pytest.raises(UserError, match=re.escape(message)):
        teachers.load(dataclasses.replace(spec, **change))


def test_weights_that_are_not_finite(tmp_path):
    weights = CLIP.weights | {"post_layernorm.bias": np.full(32, np.nan, np.float32)}
    spec = dataclasses.replace(clip_spec(tmp_path), file=save(tmp_path / "nan.npz", weights))
    with pytest.raises(UserError, match="not finite in norm/bias"):
        teachers.load(spec)


def test_positions_are_resampled_at_another_size():
    """A tower of 4 x 4 places reads 3 x 3 patches: as if its table had been resampled first (CLIP-L/14 at 196 px)."""
    tower = clip_vision_teacher.tower_of(CLIP.config)
    params, _ = import_weights(clip_vision_teacher.rules(tower), CLIP.weights, shapes(tower))
    image = jax.random.normal(jax.random.key(0), (1, 24, 24, 3))
    torch = pytest.importorskip("torch")
    table = params["pos_embed"]
    body = torch.from_numpy(table[:, 1:]).reshape(1, 4, 4, 32).permute(0, 3, 1, 2)
    body = torch.nn.functional.interpolate(body, (3, 3), mode="bicubic", align_corners=False)
    small = np.concatenate([table[:, :1], body.permute(0, 2, 3, 1).reshape(1, 9, 32).numpy()], axis=1)
    expected = run(tower.copy(size=(24, 24)), params | {"pos_embed": small}, image)
    np.testing.assert_allclose(run(tower, params, image).normed, expected.normed, atol=1e-4)


def test_the_bundled_teacher_knows_digits_it_has_not_seen():
    """Nearest class mean of its features; benchmarks/digits_teacher.py trained it on the training split alone."""
    params, sha256 = teachers.load(BUNDLED)
    features, labels = {}, {}
    for split in ("train", "test"):
        source = Digits().open(split)
        images = np.stack([source[i]["image"] for i in range(len(source))]) / 255.0
        normed = run(BUNDLED.network, params, jnp.asarray((images - 0.3) / 0.37, jnp.float32)).normed
        features[split], labels[split] = np.asarray(normed.mean(axis=1)), source.labels
    means = np.stack([features["train"][labels["train"] == c].mean(axis=0) for c in range(10)])
    found = ((features["test"][:, None] - means[None]) ** 2).sum(-1).argmin(axis=1)
    assert (found == labels["test"]).mean() > 0.93
