"""big_vision's ViT and the first release's, rebuilt from Flax's own layers: names, and equal features and logits."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mae_jax.core import tree
from mae_jax.core.errors import UserError
from mae_jax.interop.names import export_weights
from mae_jax.weights.families import understand
from mae_jax.weights.heads import logits
from mae_jax.weights.hints import Hints
from mae_jax.weights.opened import opened
from mae_jax.weights.store import open_weights

D, HEADS, DEPTH, PATCH, SIZE = 16, 2, 2, 4, 12
IMAGE = np.random.default_rng(0).standard_normal((2, SIZE, SIZE, 3)).astype(np.float32)
ATTENTION = functools.partial(nn.MultiHeadDotProductAttention, num_heads=HEADS)


class MlpBlock(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.gelu(nn.Dense(3 * D)(x))
        return nn.Dense(D)(x)


class Block(nn.Module):
    """Auto-named as there: LayerNorm_0, MultiHeadDotProductAttention_0, LayerNorm_1, MlpBlock_0."""

    @nn.compact
    def __call__(self, x, _=None):
        y = nn.LayerNorm()(x)
        x = x + ATTENTION()(y, y)
        return x + MlpBlock()(nn.LayerNorm()(x)), None


class Transformer(nn.Module):
    scan: bool

    @nn.compact
    def __call__(self, x):
        if self.scan:
            stack = nn.scan(Block, {"params": 0}, split_rngs={"params": True}, length=DEPTH)
            x, _ = stack(name="encoderblock")(x, None)
        else:
            for i in range(DEPTH):
                x, _ = Block(name=f"encoderblock_{i}")(x)
        return nn.LayerNorm(name="encoder_norm")(x)


class ViT(nn.Module):
    """`pool`: "tok", "gap"; `positions`: "learn", "sincos2d"; `old`: the table has a row for the class token."""

    pool: str = "gap"
    positions: str = "learn"
    scan: bool = False
    old: bool = False
    representation: bool = False

    @nn.compact
    def __call__(self, image):
        x = nn.Conv(D, (PATCH, PATCH), (PATCH, PATCH), "VALID", name="embedding")(image)
        n, h, w, _ = x.shape
        x = x.reshape(n, h * w, D)
        if self.positions == "learn" and not self.old:
            x = x + self.param("pos_embedding", nn.initializers.normal(1.0), (1, h * w, D))
        elif self.positions == "sincos2d":
            x = x + sincos2d(h, w)[None]
        if self.pool == "tok":
            token = self.param("cls", nn.initializers.normal(1.0), (1, 1, D))
            x = jnp.concatenate([jnp.tile(token, [n, 1, 1]), x], axis=1)
        if self.old:
            x = AddPositions(name="Transformer_posembed_input")(x)
        x = Transformer(self.scan, name="Transformer")(x)
        y = x[:, 0] if self.pool == "tok" else x.mean(axis=1)
        if self.representation:
            y = jnp.tanh(nn.Dense(D, name="pre_logits")(y))
        return nn.Dense(5, name="head")(y), x


class AddPositions(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x + self.param("pos_embedding", nn.initializers.normal(1.0), (1, *x.shape[1:]))


def sincos2d(h, w):
    """The published formula, token by token."""
    rows = []
    for y in range(h):
        for x in range(w):
            omega = [10_000.0 ** -(k / (D // 4 - 1)) for k in range(D // 4)]
            rows.append([f(p * o) for p in (x, y) for f in (np.sin, np.cos) for o in omega])
    return np.array(rows, np.float32)


def made(path, prefix="params/", rename=lambda name: name, **kwargs):
    """(the model's logits and tokens on IMAGE, its file)."""
    model = ViT(**kwargs)
    params = jax.eval_shape(model.init, jax.random.key(0), IMAGE)["params"]
    rng = np.random.default_rng(1)
    flat = {p: 0.3 * rng.standard_normal(s.shape).astype(np.float32) for p, s in tree.flatten(params).items()}
    np.savez(path, **{prefix + rename(p): x for p, x in flat.items()})
    with jax.numpy_rank_promotion("allow"):  # theirs
        return jax.jit(model.apply)({"params": tree.unflatten(flat)}, IMAGE), flat


def first_release(name):
    """The numbers of google-research/vision_transformer's modules, counted together."""
    name = name.replace("Transformer_posembed_input", "Transformer/posembed_input")
    for new, old in {"MlpBlock_0": "MlpBlock_3", "LayerNorm_1": "LayerNorm_2",
                     "MultiHeadDotProductAttention_0": "MultiHeadDotProductAttention_1"}.items():  # fmt: skip
        name = name.replace(new, old)
    return name


CASES = {
    "gap": dict(),
    "tok": dict(pool="tok"),
    "scanned": dict(scan=True),
    "sincos2d": dict(positions="sincos2d"),
    "first release": dict(pool="tok", old=True, prefix="", rename=first_release),
}


@pytest.mark.parametrize("case", CASES)
def test_features_and_logits(case, tmp_path):
    kwargs = CASES[case]
    (expected, tokens), _ = made(tmp_path / "a.npz", **kwargs)
    computed = kwargs.get("positions") == "sincos2d"
    if computed:
        with pytest.raises(UserError, match="--image-size 224"):
            open_weights(tmp_path / "a.npz")
    o = opened(tmp_path / "a.npz", hints=Hints(image_size=(SIZE, SIZE) if computed else None))
    assert o.weights.info["positions"] == ("moco" if computed else "none") and o.run.method.activation == "gelu_tanh"
    assert o.weights.config["augment"]["mean"] == (0.5,) * 3 and o.run.method.heads == HEADS
    features = jax.jit(o.run.method.encode)(o.state["params"], o.rest, {"image": jnp.asarray(IMAGE)})
    ours = jnp.concatenate([features.prefix, features.normed], axis=1)
    np.testing.assert_allclose(ours, tokens, atol=1e-5, rtol=1e-5)
    head = o.weights.info["head"]
    assert head["pool"] == ("class" if kwargs.get("pool") == "tok" else "normed_mean") and head["count"] == 5
    np.testing.assert_allclose(logits(features, o.weights.head, head["pool"]), expected, atol=1e-5, rtol=1e-5)


def test_the_map_is_its_own_inverse(tmp_path):
    _, flat = made(tmp_path / "a.npz", pool="tok")
    found = understand({f"params/{name}": x for name, x in flat.items()}, {}, Hints(), "a.npz")
    w = open_weights(tmp_path / "a.npz")
    back = export_weights(found.rules, {"params": w.params, "head": w.head})
    assert back.keys() == flat.keys()
    for name in flat:
        np.testing.assert_array_equal(back[name], flat[name])


def test_heads_that_ours_has_not_are_left_out_and_said(tmp_path):
    made(tmp_path / "a.npz", representation=True)
    w = open_weights(tmp_path / "a.npz")
    assert w.kind == "encoder" and set(w.info["left_out"]) == {"pre_logits", "head"}
    with np.load(tmp_path / "a.npz") as file:
        tensors = {name: file[name] for name in file.files if "pre_logits" not in name}
    tensors |= {"params/MAPHead_0/probe": np.zeros((1, 1, D)), "opt/step": np.zeros(())}
    np.savez(tmp_path / "b.npz", **tensors)
    w = open_weights(tmp_path / "b.npz")
    assert w.kind == "encoder" and set(w.info["left_out"]) == {"MAPHead_0", "head", "opt"}
    tensors["params/stem/kernel"] = np.zeros(3)
    np.savez(tmp_path / "c.npz", **tensors)
    with pytest.raises(UserError, match="stem/kernel .* is known to no rule"):
        open_weights(tmp_path / "c.npz")
