"""What every method must satisfy. A new file in methods/ adds a line to tests/tiny_methods.py and is held to it all."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_methods import DECLARED, GIVEN, TINY, make, make_batch

from mae_jax import methods
from mae_jax.core import tree
from mae_jax.core.keys import Context
from mae_jax.core.mesh import RULES
from mae_jax.train.build import sample_batch
from mae_jax.train.optimizers import decay_multipliers


def run(name, given=None, batch=None, params=None):
    method, own, rest, own_batch = make(name)

    def loss(params, batch, given):
        return method.loss(params, rest, batch, Context(jax.random.key(3), 5, steps=10, given=given))

    return jax.jit(loss)(own if params is None else params, own_batch if batch is None else batch, given)


def exempt(name, test):
    """Skip a test from which a method is exempt, with its reason."""
    if (name, test) in DECLARED:
        pytest.skip(DECLARED[name, test])


@pytest.fixture(params=methods.names())
def name(request):
    return request.param


def test_every_method_has_a_tiny_instance():
    assert set(TINY) == set(methods.names())


def test_fields_are_config_keys_with_docs(name):
    cls = methods.get(name)
    assert dataclasses.is_dataclass(cls) and cls.__dataclass_params__.frozen and cls.name == name
    for field in dataclasses.fields(cls):
        if field.metadata.get("config", True):
            assert re.search(rf"\b{field.name}\b", cls.__doc__ or ""), f"{name}.{field.name} is not in the docstring"


def test_initialises_under_eval_shape(name):
    method = make(name)[0]
    shapes, _ = jax.eval_shape(method.init, jax.random.key(0), sample_batch(method))
    assert all(s.dtype == jnp.float32 for s in jax.tree.leaves(shapes))


def test_every_parameter_is_covered_by_every_rule(name):
    _, params, _, _ = make(name)
    tree.match(RULES, tree.flatten(params), "sharding rule")
    decay_multipliers(params)


def test_loss_is_finite_and_every_parameter_gets_gradient(name):
    method, params, _, _ = make(name)
    grads, aux = jax.grad(lambda p: run(name, params=p), has_aux=True)(params)
    for path, g in tree.flatten(grads).items():
        dead = any(re.search(pattern, path) for pattern in method.dead)
        assert jnp.isfinite(g).all(), path
        assert (jnp.abs(g).max() > 0) != dead, f"{path}: gradient {'but listed as dead' if dead else 'is zero'}"
    assert all(jnp.isfinite(m) for m in aux.metrics.values())


def test_same_call_same_loss_other_step_other_loss(name):
    method, params, rest, batch = make(name)
    loss = jax.jit(lambda s: method.loss(params, rest, batch, Context(jax.random.key(3), s, steps=10))[0])
    losses = [loss(s) for s in (5, 5, 6)]
    assert losses[0] == losses[1] != losses[2]


def test_no_recompile_on_the_second_call(name):
    method, params, rest, batch = make(name)
    traces = 0

    @jax.jit
    def loss(params, batch, step):
        nonlocal traces
        traces += 1
        return method.loss(params, rest, batch, Context(jax.random.key(0), step, steps=10))[0]

    for step in range(2):
        loss(params, make_batch(name), step)
    assert traces == 1


def test_hidden_tokens_do_not_influence_visible_encodings(name):
    """Change only hidden pixels; what the encoder says of the visible ones must stay."""
    method, params, rest, batch = make(name)
    exempt(name, "leak")
    from mae_jax.tokens.grid import patchify, unpatchify

    given = GIVEN[name](method, batch) if name in GIVEN else None
    _, aux = run(name, given)
    patch = tuple(s // g for s, g in zip(batch["image"].shape[1:], method.grid))
    hidden = aux.seen["hidden"][:, :, None]
    tokens = patchify(batch["image"], patch)
    changed = unpatchify(jnp.where(hidden, 9.0, tokens), method.grid, patch)
    loss, other = run(name, given, batch | {"image": changed})
    np.testing.assert_array_equal(other.seen["hidden"], aux.seen["hidden"])
    np.testing.assert_array_equal(other.seen["latent"], aux.seen["latent"])
    visible = unpatchify(jnp.where(hidden, tokens, 9.0), method.grid, patch)  # the test can fail: change what is seen
    assert not np.allclose(run(name, given, batch | {"image": visible})[1].seen["latent"], aux.seen["latent"])


def test_encode_gives_the_declared_features(name):
    method, params, rest, batch = make(name)
    features = method.encode(params, rest, batch)
    b, n, d = features.tokens.shape
    assert (
        b == len(next(iter(batch.values())))
        and features.normed.shape == (b, n, d)
        and features.prefix.shape[::2] == (b, d)
    )
    assert n == np.prod(features.grid) and all(jnp.isfinite(x).all() for x in jax.tree.leaves(features))


def test_pictures_are_of_one_size_and_show_the_input(name):
    method, _, _, batch = make(name)
    drawn = method.pictures(run(name)[1].seen, batch)
    assert len({p.shape[:3] for p in drawn.values()}) <= 1 and all(p.ndim == 4 for p in drawn.values())
    assert all(jnp.isfinite(p).all() for p in drawn.values())
    if "image" in batch:
        np.testing.assert_array_equal(drawn["original"], batch["image"])


def test_bfloat16_is_close_and_keeps_float32_weights(name):
    from mae_jax.nets.compute import Compute

    method, params, rest, batch = make(name)
    half = dataclasses.replace(method, compute=Compute(dtype=jnp.bfloat16))
    (loss, _), grads = jax.value_and_grad(
        lambda p: half.loss(p, rest, batch, Context(jax.random.key(3), 5, steps=10)), has_aux=True
    )(params)
    np.testing.assert_allclose(loss, run(name)[0], rtol=0.02)
    assert loss.dtype == jnp.float32 and all(g.dtype == jnp.float32 for g in jax.tree.leaves(grads))


def test_cost_is_what_the_matmuls_count(name):
    """The closed formula against a count of every dot product in the traced loss."""
    method, params, rest, batch = make(name)
    if method.cost() is None:
        pytest.skip("no formula")
    jaxpr = jax.make_jaxpr(lambda p, b: method.loss(p, rest, b, Context(jax.random.key(0), steps=10))[0])(params, batch)
    counted = dot_flops(jaxpr.jaxpr) / len(next(iter(batch.values())))
    # MAE's formula counts the embedding of all patches, as published; we embed the visible ones alone.
    assert 1.0 <= (method.cost().forward + method.cost().once) / counted < 1.05


def dot_flops(jaxpr) -> float:
    """2 x the multiply-adds of all dot products and convolutions, inner jaxprs included."""
    total = 0.0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            inner = np.prod([eqn.invars[0].aval.shape[i] for i in contracted])
            total += 2.0 * inner * np.prod(eqn.outvars[0].aval.shape)
        if eqn.primitive.name == "conv_general_dilated":
            kernel, spread = eqn.invars[1].aval.shape, np.prod(eqn.params["lhs_dilation"])  # spread: with zeros between
            inner = np.prod(kernel) / kernel[eqn.params["dimension_numbers"].rhs_spec[0]]
            total += 2.0 * inner * np.prod(eqn.outvars[0].aval.shape) / spread
        for value in eqn.params.values():
            inner_jaxpr = getattr(value, "jaxpr", value)
            if hasattr(inner_jaxpr, "eqns"):
                total += dot_flops(inner_jaxpr)
    return total
