"""Optimizers and schedules against optax, closed forms and the sheet."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mae_jax.core import tree
from mae_jax.core.errors import UserError
from mae_jax.nets.block import Transformer
from mae_jax.nets.vit import Classifier
from mae_jax.schema import Optim
from mae_jax.train import optimizers as o
from mae_jax.train.schedules import scaled, warmup_cosine

PARAMS = {"a": {"kernel": jnp.arange(12.0).reshape(3, 4) / 5 - 1, "bias": jnp.ones(4)}}


def run(transform, rates):
    """Parameters after some steps of p - lr * direction, on gradients that change."""
    params, state = PARAMS, transform.init(PARAMS)
    for i, lr in enumerate(rates):
        grads = jax.tree.map(lambda p, i=i: jnp.sin(p * (i + 1)) + 0.1, params)
        direction, state = transform.update(grads, state, params)
        params = jax.tree.map(lambda p, d, lr=lr: p - lr * d, params, direction)
    return params


def close(a, b, **kwargs):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **({"rtol": 1e-5, "atol": 1e-6} | kwargs)), a, b)


def test_adamw_is_optax_adamw():
    ours = run(o.adamw(0.9, 0.95, 1e-8, 0.05, o.decay_multipliers(PARAMS)), [0.1] * 5)
    mask = {"a": {"kernel": True, "bias": False}}
    theirs = optax.adamw(0.1, 0.9, 0.95, 1e-8, weight_decay=0.05, mask=mask)
    close(ours, run(optax.chain(theirs, optax.scale(-1.0)), [1.0] * 5))


def test_lars_is_optax_lars_at_a_constant_rate_only():
    matrix = {"a": {"kernel": True, "bias": False}}
    settings = dict(
        weight_decay=0.1, weight_decay_mask=matrix, trust_coefficient=0.01, trust_ratio_mask=matrix, momentum=0.9
    )
    theirs = optax.chain(optax.lars(1.0, **settings), optax.scale(-1.0))
    ours = o.lars(0.9, 0.01, 0.1)
    close(run(ours, [0.5] * 4), run(theirs, [0.5] * 4))
    # Where the rate changes, facebookresearch/mae multiplies the whole momentum by the new rate; so do we. optax.lars
    # given a schedule would have put each gradient into the buffer at the rate of its own step.
    rates = jnp.array([0.5, 0.1, 0.02])
    scheduled = optax.lars(lambda i: rates[i], **settings)
    a, b = run(ours, rates), run(optax.chain(scheduled, optax.scale(-1.0)), [1.0] * 3)
    assert np.abs(a["a"]["bias"] - b["a"]["bias"]).max() > 0.05


def test_lars_takes_ratio_1_where_a_norm_is_zero():
    params = {"kernel": jnp.zeros((2, 2))}
    direction, _ = o.lars().update({"kernel": jnp.ones((2, 2))}, o.lars().init(params), params)
    np.testing.assert_array_equal(direction["kernel"], 1.0)


def test_lars_decays_by_the_rules_and_along_the_schedule():
    """The first direction in closed form: g + wd(step) m p, and of what is no vector trust |p| / |.| times that."""
    settings = dict(name="lars", trust=0.5, weight_decay=0.2, weight_decay_end=0.6)
    grads = jax.tree.map(jnp.cos, PARAMS)
    for kernel, bias in ((0.0, 1.0), (2.0, 0.0)):
        optimizer = o.make_optimizer(Optim(**settings, decay_rules=(("kernel", kernel), ("bias", bias))), PARAMS, 11)
        for step, decay in ((0, 0.2), (5, 0.4), (10, 0.6)):
            found, _ = optimizer.update(grads, optimizer.init(PARAMS), PARAMS, step=step)
            g = {
                name: grads["a"][name] + decay * m * PARAMS["a"][name]
                for name, m in (("kernel", kernel), ("bias", bias))
            }
            g["kernel"] *= 0.5 * np.linalg.norm(PARAMS["a"]["kernel"]) / np.linalg.norm(g["kernel"])
            close(found, {"a": g})


def test_decay_groups_are_those_of_the_sheet(tiny):
    """Vectors do not decay, class and mask tokens do."""
    params, _ = jax.eval_shape(tiny.init, jax.random.key(0), {"image": jnp.zeros((1, 16, 16, 3))})
    found = o.decay_multipliers(params)
    assert {p for p, m in found.items() if m == 0} == {p for p, leaf in tree.flatten(params).items() if leaf.ndim == 1}
    assert found["encoder/class_token"] == found["decoder/mask_token"] == 1
    with pytest.raises(UserError, match="no weight-decay rule covers 1"):
        o.decay_multipliers({"odd": jnp.zeros(2)})


def test_layer_scales_of_a_classifier():
    net = Classifier(Transformer(dim=8, depth=2, heads=2), classes=3, size=(8, 8), patch=(4, 4))
    params = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]
    found = o.layer_scales(params, decay=0.5)
    assert found["encoder/pos_embed"] == found["encoder/class_token"] == found["encoder/patch_embed/bias"] == 1 / 8
    assert found["encoder/blocks/0/attn/qkv/kernel"] == 1 / 4 and found["encoder/blocks/1/norm1/scale"] == 1 / 2
    assert found["fc_norm/scale"] == found["head/kernel"] == 1
    scaled_updates, _ = o.scale_by_path(found).update(
        jax.tree.map(lambda s: jnp.ones(s.shape), params), optax.EmptyState()
    )
    assert (scaled_updates["encoder"]["blocks"]["0"]["attn"]["qkv"]["kernel"] == 1 / 4).all()


def test_unknown_optimizer():
    with pytest.raises(UserError, match="unknown optim.name 'adamm'. Did you mean 'adam'"):
        o.make_optimizer(Optim(name="adamm"), PARAMS)


def test_warmup_cosine_closed_form():
    rate = warmup_cosine(2.4e-3, 40.0, 800.0, 1e-5)
    np.testing.assert_allclose([rate(0), rate(20), rate(40), rate(420), rate(800), rate(900)],
                               [0, 1.2e-3, 2.4e-3, (2.4e-3 + 1e-5) / 2, 1e-5, 1e-5], rtol=1e-5, atol=1e-9)  # fmt: skip
    assert scaled(1.5e-4, 4096) == pytest.approx(2.4e-3)
