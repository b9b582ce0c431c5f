"""The one train step: accumulation, guard, clipping, averages, rates, decay, precision, donation, scanned blocks."""

import dataclasses
import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_runs import tiny

from mae_jax.core import tree
from mae_jax.core.errors import UserError
from mae_jax.core.types import Aux
from mae_jax.methods.base import Leaf, Method
from mae_jax.train.build import build
from mae_jax.train.optimizers import decay_multipliers
from mae_jax.train.state import init_state
from mae_jax.train.step import make_step
from mae_jax.train.sums import accumulate


@dataclasses.dataclass(frozen=True, kw_only=True)
class Toy(Method):
    """mean (x k + b)^2, with a running mean of x as statistics and a teacher: all four kinds of arrays."""

    name: ClassVar[str] = "toy"

    @property
    def batch_spec(self):
        return {"x": Leaf((3,))}

    def init(self, key, batch):
        kernel = jax.random.normal(key, (3, 2))
        return {"linear": {"kernel": kernel, "bias": jnp.ones(2)}}, {"mean": jnp.zeros(3)}

    def loss(self, params, rest, batch, ctx):
        y = batch["x"] @ params["linear"]["kernel"] + params["linear"]["bias"][None]
        return jnp.mean(y**2), Aux(stats={"mean": 0.9 * rest["stats"]["mean"] + 0.1 * batch["x"].mean(0)})

    def start_ema(self, params, stats):
        return jax.tree.map(jnp.copy, params)

    def evolve(self, ema, params, stats, ctx):
        return jax.tree.map(lambda old, new: 0.5 * old + 0.5 * new, ema, params)


AVERAGE = 0.75
X = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)


def rate(step):
    return 0.1 / (1.0 + step)


def toy(optimizer=None, method=None, **arguments):
    """(a jitted step of Toy, its fresh state)."""
    optimizer, method = optimizer or optax.scale_by_adam(), method or Toy()
    step = make_step(method, optimizer, rate, lambda batch, ctx: batch, seed=0, average=AVERAGE, **arguments)
    state = init_state(method, optimizer, jax.random.key(0), {"x": jnp.asarray(X)}, average=True)
    return jax.jit(step, static_argnums=3), state


def equal(a: Any, b: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, a, b)


@functools.cache
def digits():
    return np.random.default_rng(1).integers(0, 255, (16, 8, 8, 1), np.uint8)


@functools.cache
def one_step(*overrides: str):
    """(state before, state after, metrics) of the tiny MAE on one device, at a step whose rate is not 0."""
    run = build(tiny("optim.warmup=0", *overrides), jax.devices()[:1])
    with jax.default_matmul_precision("highest"):
        before = jax.device_get(run.init())
        after, metrics = run.step(jax.device_put(before), {}, run.put({"image": digits()}))
    return before, jax.device_get(after), jax.device_get(metrics)


# Accumulation ---------------------------------------------------------------------------------------------------------


def test_microbatches_do_not_change_a_step():
    sgd = ("optim.name=sgd", "optim.momentum=0.0", "optim.learning_rate=16.0")
    _, whole, metrics = one_step(*sgd)
    before, parts, others = one_step(*sgd, "train.microbatches=4")
    assert metrics.keys() == others.keys() >= {"loss", "grad_norm", "lr", "skipped"}
    for name in metrics:
        np.testing.assert_allclose(others[name], metrics[name], rtol=1e-5, err_msg=name)
    for path, leaf in tree.flatten(whole["params"]).items():
        np.testing.assert_allclose(tree.flatten(parts["params"])[path], leaf, atol=2e-6, err_msg=path)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), whole["params"], before["params"])
    assert max(jax.tree.leaves(moved)) > 1e-2  # a whole gradient's worth: the agreement above says something


@pytest.mark.parametrize("microbatches", [1, 2, 4])
def test_unequal_weights_give_the_weighted_mean(microbatches):
    """loss = weighted mean of (p - x)^2, so the gradient is 2 (p - sum(w x) / sum(w)), however it is cut."""
    x, w = jnp.arange(8.0) ** 2, jnp.array([1.0, 0, 3, 0, 2, 5, 0, 1])

    def loss(p, stats, held, part, rows):
        weight = part["w"].sum()
        value = jnp.sum(part["w"] * (p["p"] - part["x"]) ** 2) / jnp.maximum(weight, 1e-9)
        return value * weight, ({"seen": stats["seen"] * 10 + rows[0]}, {"loss": value}, weight)

    stats = {"seen": jnp.zeros((), jnp.int32)}
    grad, stats, metrics = accumulate(loss, {"p": jnp.float32(3.0)}, stats, {}, {"x": x, "w": w}, microbatches).means()
    mean = (w * x).sum() / w.sum()
    np.testing.assert_allclose(grad["p"], 2 * (3 - mean), rtol=1e-6)
    np.testing.assert_allclose(metrics["loss"], (w * (3 - x) ** 2).sum() / w.sum(), rtol=1e-6)
    assert int(stats["seen"]) == {1: 0, 2: 1, 4: 123}[microbatches]  # part m begins at row m; statistics go through


# Guard ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_broken_batch_changes_nothing_but_the_counters(bad):
    step, state = toy()
    state, _ = step(state, {}, {"x": X}, None)
    broken = X.copy()
    broken[5, 1] = bad
    after, metrics = step(state, {}, {"x": broken}, None)
    assert not np.isfinite(metrics["loss"])
    for name in ("params", "stats", "ema", "opt"):
        equal(after[name], state[name])
    assert int(after["step"]) == 2 and int(after["guard"]["skipped"]) == int(metrics["skipped"]) == 1
    healed, metrics = step(after, {}, {"x": X}, None)
    assert np.isfinite(metrics["loss"]) and int(healed["step"]) == 3 and int(healed["guard"]["skipped"]) == 1
    for name in ("params", "stats", "ema", "opt"):
        assert all((a != b).any() for a, b in zip(jax.tree.leaves(healed[name]), jax.tree.leaves(after[name]))), name


def test_the_loss_that_is_returned_is_the_one_that_is_logged_and_guarded():
    """Not a metric of that name: here the metric is finite, and the loss a NaN whose gradient is finite."""

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Hides(Toy):
        def loss(self, params, rest, batch, ctx):
            loss, aux = super().loss(params, rest, batch, ctx)
            return loss + jnp.nan, dataclasses.replace(aux, metrics={"loss": loss, "error": loss})

    step, state = toy(method=Hides())
    after, metrics = step(state, {}, {"x": X}, None)
    assert np.isnan(metrics["loss"]) and np.isfinite(metrics["error"]) and np.isfinite(metrics["grad_norm"])
    assert after["guard"]["skipped"] == 1
    equal(after["params"], state["params"])


@pytest.mark.parametrize("microbatches", [1, 2])
def test_a_metric_that_is_no_scalar_is_named_before_anything_is_compiled(microbatches):
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class PerChannel(Toy):
        def loss(self, params, rest, batch, ctx):
            loss, aux = super().loss(params, rest, batch, ctx)
            return loss, dataclasses.replace(aux, metrics={"per": jnp.ones(3)})

    step, state = toy(method=PerChannel(), microbatches=microbatches)
    with pytest.raises(UserError, match=r"the loss of 'toy' returns the metric 'per' of shape \(3,\)"):
        jax.eval_shape(step, state, {}, {"x": X})


def test_the_rate_is_that_of_the_step_also_after_a_skipped_one():
    step, state = toy(optax.identity())
    state, metrics = step(state, {}, {"x": np.full_like(X, np.nan)}, None)
    np.testing.assert_allclose(metrics["lr"], rate(0), rtol=1e-6)
    after, metrics = step(state, {}, {"x": X}, None)
    np.testing.assert_allclose(metrics["lr"], rate(1), rtol=1e-6)
    gradient = jax.grad(lambda p: Toy().loss(p, {"stats": state["stats"]}, {"x": X}, None)[0])(state["params"])
    expected = jax.tree.map(lambda p, g: p - rate(1) * g, state["params"], gradient)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), after["params"], expected)


def test_averages():
    step, state = toy()
    after, _ = step(state, {}, {"x": X}, None)
    old, new = state["ema"]["average"], after["params"]
    for name, share in (("average", AVERAGE), ("teacher", 0.5)):
        expected = jax.tree.map(lambda o, n, s=share: s * o + (1 - s) * n, old, new)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), after["ema"][name], expected)
    np.testing.assert_allclose(after["stats"]["mean"], 0.1 * X.mean(0), rtol=1e-5)


# Optimizer ------------------------------------------------------------------------------------------------------------


def norm(a, b):
    return float(optax.tree.norm(jax.tree.map(lambda x, y: x - y, a, b)))


@pytest.mark.parametrize("clip", [0.01, 100.0])
def test_clipping(clip):
    sgd = ("optim.name=sgd", "optim.momentum=0.0", "optim.weight_decay=0.0", "optim.learning_rate=16.0")
    before, after, metrics = one_step(*sgd, f"optim.clip={clip}")
    assert metrics["lr"] == 1.0 and 0.01 < metrics["grad_norm"] < 100  # the norm that is logged is the unclipped one
    np.testing.assert_allclose(norm(before["params"], after["params"]), min(clip, metrics["grad_norm"]), rtol=1e-4)


def test_only_what_the_rules_name_decays():
    """AdamW's decay is decoupled: at one step it moves a parameter by exactly lr * decay * parameter."""
    before, without, metrics = one_step("optim.weight_decay=0.0")
    _, decayed, _ = one_step("optim.weight_decay=0.5")
    start, a, b = (tree.flatten(state["params"]) for state in (before, without, decayed))
    multipliers = decay_multipliers(before["params"])
    assert set(multipliers.values()) == {0.0, 1.0}
    for path, m in multipliers.items():
        expected = a[path] - metrics["lr"] * 0.5 * m * start[path]
        np.testing.assert_allclose(b[path], expected, atol=1e-8 if m else 0.0, rtol=1e-6 if m else 0.0, err_msg=path)


@pytest.mark.parametrize(
    "optimizer, layout",
    [
        ("adamw", ("mesh.scan=True",)), ("adamw", ("mesh.scan=True", "mesh.remat=dots")),
        ("adamw", ("mesh.remat=full",)), ("lars", ("mesh.scan=True",)),
    ],
)  # fmt: skip
def test_layout_of_the_blocks_changes_no_optimizer_step(optimizer, layout):
    """eps = 1e-3: the gradient of a bias of the keys is 0 up to rounding, which Adam would blow up to a full step."""
    recipe = (f"optim.name={optimizer}", "optim.learning_rate=1.6", "optim.eps=1e-3")
    _, plain, metrics = one_step(*recipe)
    _, other, others = one_step(*recipe, *layout)
    np.testing.assert_allclose(others["loss"], metrics["loss"], rtol=1e-6)
    plain, other = (tree.flatten({"params": s["params"], "opt": s["opt"]}) for s in (plain, other))
    assert plain.keys() == other.keys() and any("/blocks/1/" in path for path in plain)
    for path, leaf in plain.items():
        np.testing.assert_allclose(other[path], leaf, atol=2e-5, rtol=1e-5, err_msg=path)


@pytest.mark.parametrize("scan", [False, True])
def test_lars_scales_every_layer_by_its_own_norms(scan):
    """Without decay a kernel moves by lr * trust * |its own norm|: the ratio of one layer never meets another's."""
    before, after, metrics = one_step(
        "optim.name=lars", "optim.weight_decay=0.0", "optim.learning_rate=160.0", f"mesh.scan={scan}"
    )
    start, moved = tree.flatten(before["params"]), tree.flatten(after["params"])
    for path in (p for p in start if p.endswith("kernel")):
        step = np.linalg.norm(moved[path].astype(np.float64) - start[path])
        np.testing.assert_allclose(step, metrics["lr"] * 1e-3 * np.linalg.norm(start[path]), rtol=1e-3, err_msg=path)


# Numbers and memory ---------------------------------------------------------------------------------------------------


def test_bfloat16_computes_and_float32_stays():
    before, after, metrics = one_step("train.precision=bfloat16", "optim.average=0.9")
    _, exact, true = one_step("optim.average=0.9")
    for path, leaf in tree.flatten(after).items():
        assert leaf.dtype in (np.float32, np.int32), f"{path} is {leaf.dtype}"
    for name in ("loss", "grad_norm"):
        np.testing.assert_allclose(metrics[name], true[name], rtol=3e-2)
    assert metrics["loss"] != true["loss"]  # it did compute in bfloat16


def test_the_state_is_donated():
    run = build(tiny(), jax.devices()[:1])
    state = run.init()
    leaves = jax.tree.leaves(state)
    after, _ = run.step(state, {}, run.put({"image": digits()}))
    assert all(leaf.is_deleted() for leaf in leaves)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(after))


# Norms by part --------------------------------------------------------------------------------------------------------


def test_norms_by_part_are_those_of_the_gradient_and_of_what_was_added():
    before, after, metrics = one_step()
    moved = tree.flatten(jax.tree.map(lambda a, b: a - b, after["params"], before["params"]))
    names = {"/".join(path.split("/")[:2]) for path in moved}
    assert {"encoder/blocks", "encoder/class_token", "decoder/pred"} < names
    assert {n.partition("/")[2] for n in metrics if n.startswith("grad_norm/")} == names
    total = sum(metrics[f"grad_norm/{name}"] ** 2 for name in names)
    np.testing.assert_allclose(np.sqrt(total), metrics["grad_norm"], rtol=1e-5)
    for name in names:
        own = [x.ravel() for path, x in moved.items() if f"{path}/".startswith(f"{name}/")]
        np.testing.assert_allclose(metrics[f"update_norm/{name}"], np.linalg.norm(np.concatenate(own)), rtol=1e-3)


def test_norms_change_no_bit_of_a_step():
    _, with_norms, _ = one_step()
    _, without, metrics = one_step("log.norms=none")
    equal(with_norms, without)
    assert not [name for name in metrics if name.startswith(("grad_norm/", "update_norm/"))]
