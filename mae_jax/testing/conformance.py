"""What every method must satisfy, as a table of named checks. Our own tests run it, and so can those of any method.

    from mae_jax.testing import conformance

    def test_my_method():
        print(conformance.check(MyMethod(image_size=8, patch=2, dim=16, depth=2, heads=2)))

One test per check: `@pytest.mark.parametrize("name", conformance.CHECKS)` and `conformance.run(name, case)`.
"""

import dataclasses
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mae_jax.core import tree
from mae_jax.core.errors import UserError, nearest
from mae_jax.core.keys import Context
from mae_jax.core.mesh import RULES
from mae_jax.core.types import Aux, Batch, Params
from mae_jax.methods.base import Leaf, Method, Rest, own_rules
from mae_jax.nets.compute import Compute
from mae_jax.testing.flops import dot_flops
from mae_jax.tokens.grid import patchify, unpatchify
from mae_jax.train.build import frozen_shapes, sample_batch
from mae_jax.train.optimizers import PRETRAIN_DECAY, decay_multipliers

Given = Mapping[str, Any] | Callable[[Any, Batch], Mapping[str, Any]]


class Skip(Exception):
    """A check that says nothing of this method, with the reason."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A method with weights and a batch to check it on.

    Attributes:
      params: moved a little off their zeros and ones, so that nothing is right by accident.
      given: draws or decisions for the leak check, of a method whose mask depends on what it hides.
    """

    method: Any
    params: Params
    rest: Rest
    batch: Batch
    given: Given | None = None

    def loss(
        self, params: Params | None = None, batch: Batch | None = None, given: Mapping[str, Any] | None = None
    ) -> tuple[Any, Aux]:
        """(loss, Aux) of step 5 of 10, jitted."""

        def loss(params, batch, given):
            return self.method.loss(params, self.rest, batch, _context(5, given))

        return jax.jit(loss)(self.params if params is None else params, batch or self.batch, given)


@dataclasses.dataclass(frozen=True)
class Table:
    """What was found: {check: "" where it passed, "skipped: ..." or what is wrong}."""

    title: str
    results: Mapping[str, str]

    @property
    def failed(self) -> dict[str, str]:
        return {name: text for name, text in self.results.items() if text and not text.startswith("skipped")}

    def __str__(self) -> str:
        width = max(map(len, self.results))
        lines = [f"{name:<{width}}  {text or 'passed'}" for name, text in self.results.items()]
        return "\n".join([self.title, *lines])


def case(method: Method, batch: Batch | None = None, *, samples: int = 4, given: Given | None = None) -> Case:
    """A case of a small instance of a method; its batch is drawn (`random_batch`) where none is given."""
    method.check()
    params, stats = jax.jit(method.init)(jax.random.key(0), sample_batch(method))
    params = jax.tree.map(lambda p: jnp.asarray(p + 0.02 * _normal(p.size, p.shape)), jax.device_get(params))
    frozen = jax.tree.map(lambda s: jnp.asarray(0.1 * _normal(s.size, s.shape)), frozen_shapes(method))
    rest = {"stats": stats, "ema": method.start_ema(params, stats), "frozen": frozen}
    return Case(method, params, rest, random_batch(method, samples) if batch is None else batch, given)


def random_batch(method: Method, samples: int = 4) -> Batch:
    """Normal numbers, small integers, True: as the loss gets them."""
    return {k: random_leaf(i, leaf, samples) for i, (k, leaf) in enumerate(method.batch_spec.items())}


def random_leaf(seed: int, leaf: Leaf, samples: int) -> Any:
    """Values of one leaf of a batch."""
    shape = (samples if leaf.batched else 1, *leaf.shape)
    if leaf.dtype == "bool":
        return jnp.ones(shape, bool)
    if leaf.dtype.startswith(("int", "uint")):
        return jnp.asarray(np.random.default_rng(1 + seed).integers(0, 3, shape).astype(leaf.dtype))
    return jnp.asarray(_normal(1 + seed, shape), leaf.dtype)


def _normal(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """On the host: a shape that jax has not met costs a compilation."""
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def check(
    method: Method,
    batch: Batch | None = None,
    *,
    given: Given | None = None,
    exempt: Collection[str] | Mapping[str, str] = (),
) -> Table:
    """Hold a method to every check.

    Args:
      method: a small instance: a few thousand parameters, not the published size.
      batch: what its loss reads; drawn from a normal distribution by default.
      given: draws or decisions to inject in the leak check (core/keys.py), or a function (method, batch) -> these.
      exempt: names of checks to pass over, or {name: why}.

    Returns: the table, if nothing failed.

    Raises:
      AssertionError: the whole table, where a check failed.
      UserError: the method's own fields do not fit each other, or `exempt` names no check.
    """
    _check_names(exempt)
    held = case(method, batch, given=given)
    results = {}
    for name in CHECKS:
        try:
            if name in exempt:
                raise Skip(exempt[name] if isinstance(exempt, Mapping) else "exempt")
            run(name, held)
            results[name] = ""
        except Skip as why:
            results[name] = f"skipped: {why}"
        except Exception as error:  # a check that cannot run is a finding like any other
            kind = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
            results[name] = f"FAILED: {kind}{' '.join(str(error).split())}"
    table = Table(f"{type(method).__name__} held to {len(CHECKS)} checks", results)
    if table.failed:
        raise AssertionError(f"{table}\n{len(table.failed)} of {len(CHECKS)} checks failed")
    return table


def run(name: str, case: Case) -> None:
    """One check by name.

    Raises:
      AssertionError: it failed. Skip: it says nothing of this method.
    """
    _check_names([name])
    CHECKS[name](case)


def _check_names(names: Collection[str]) -> None:
    for name in names:
        if name not in CHECKS:
            raise UserError(f"there is no check '{name}'. {nearest(name, CHECKS)}")


def _context(step: Any, given: Mapping[str, Any] | None = None) -> Context:
    return Context(jax.random.key(3), step, steps=10, given=given)


def _expect(holds: Any, what: str) -> None:
    """An assertion that `python -O` does not remove."""
    if not holds:
        raise AssertionError(what)


def _same(found: Any, expected: Any, what: str) -> None:
    """Equal to the bit, in a line where it is not."""
    a, b = np.asarray(found), np.asarray(expected)
    _expect(a.shape == b.shape, f"{what}: shapes {a.shape} and {b.shape}")
    differ = int(((a != b) & ~((a != a) & (b != b))).sum())
    _expect(not differ, f"{what}: {differ} of {a.size} values differ")


# The checks -----------------------------------------------------------------------------------------------------------


def fields_are_config_keys_with_docs(case: Case) -> None:
    cls = type(case.method)
    frozen = dataclasses.is_dataclass(cls) and cls.__dataclass_params__.frozen  # type: ignore[attr-defined]
    _expect(frozen, f"{cls.__name__} is no frozen dataclass")
    _expect(isinstance(getattr(cls, "name", None), str) and cls.name, "it has no `name: ClassVar[str]`")
    for field in dataclasses.fields(cls):
        if field.metadata.get("config", True):
            documented = re.search(rf"\b{field.name}\b", cls.__doc__ or "")
            _expect(documented, f"{cls.name}.{field.name} is not in the docstring")


def initialises_under_eval_shape(case: Case) -> None:
    shapes, _ = jax.eval_shape(case.method.init, jax.random.key(0), sample_batch(case.method))
    wrong = [path for path, s in tree.flatten(shapes).items() if s.dtype != jnp.float32]
    _expect(not wrong, f"parameters that are not float32: {wrong}")


def every_parameter_is_covered_by_every_rule(case: Case) -> None:
    lies, decay = (own_rules(case.method, what) for what in ("lies", "decay"))
    tree.match((*RULES, *lies), tree.flatten(case.params), "sharding rule")
    decay_multipliers(case.params, (*PRETRAIN_DECAY, *decay))


def loss_is_finite_and_every_parameter_gets_gradient(case: Case) -> None:
    def loss(params):
        value, aux = case.method.loss(params, case.rest, case.batch, _context(5))
        return value, aux.metrics  # the rest of Aux is left to the compiler to drop

    grads, metrics = jax.jit(jax.grad(loss, has_aux=True))(case.params)
    for path, g in tree.flatten(grads).items():
        dead = any(re.search(pattern, path) for pattern in case.method.dead)
        _expect(jnp.isfinite(g).all(), f"{path}: gradient is not finite")
        _expect((jnp.abs(g).max() > 0) != dead, f"{path}: gradient {'but listed as dead' if dead else 'is zero'}")
    for name, value in metrics.items():
        _expect(not jnp.shape(value), f"metric '{name}' has the shape {jnp.shape(value)}; a scalar expected")
        _expect(jnp.isfinite(value).all(), f"metric '{name}' is {value}")


def same_call_same_loss_other_step_other_loss(case: Case) -> None:
    loss = jax.jit(lambda s: case.method.loss(case.params, case.rest, case.batch, _context(s))[0])
    first, again, other = (loss(s) for s in (5, 5, 6))
    _expect(first == again, f"the same call twice gave {first} and {again}")
    _expect(again != other, f"steps 5 and 6 gave the same loss {other}: is the mask drawn by `ctx`?")


def no_recompile_on_the_second_call(case: Case) -> None:
    traces = 0

    @jax.jit
    def loss(params, batch, step):
        nonlocal traces
        traces += 1
        return case.method.loss(params, case.rest, batch, Context(jax.random.key(0), step, steps=10))[0]

    for step in range(2):
        loss(case.params, jax.tree.map(jnp.copy, case.batch), step)
    _expect(traces == 1, f"two calls compiled {traces} times")


def hidden_tokens_do_not_influence_visible_encodings(case: Case) -> None:
    """Change only hidden values; what the encoder says of the visible ones ("latent" of `Aux.seen`) must stay."""
    method, batch, given = case.method, case.batch, case.given
    given = given(method, batch) if callable(given) else given
    _, aux = case.loss(given=given)
    for name in ("hidden", "latent"):
        _expect(name in aux.seen, f"Aux.seen has no '{name}' (else exempt this check, and test it yourself)")
    grid: Any = getattr(method, "grid", None)
    _expect(grid is not None, "the method has no `grid` of tokens (exempt this check, and test it yourself)")
    name = next(name for name, x in batch.items() if x.ndim == len(grid) + 2)  # the first that lies on the grid
    patch = tuple(s // g for s, g in zip(batch[name].shape[1:], grid))
    hidden = aux.seen["hidden"][:, :, None]
    tokens = patchify(batch[name], patch)

    def seen(tokens):
        return case.loss(batch=batch | {name: unpatchify(tokens, grid, patch)}, given=given)[1].seen

    other = seen(jnp.where(hidden, 9.0, tokens))
    _same(other["hidden"], aux.seen["hidden"], "the mask depends on hidden pixels")
    _same(other["latent"], aux.seen["latent"], "hidden pixels reach the encoder")
    visible = seen(jnp.where(hidden, tokens, 9.0))  # the check can fail: change what is seen
    _expect(not np.allclose(visible["latent"], aux.seen["latent"]), "visible pixels do not reach 'latent' either")


def encode_gives_the_declared_features(case: Case) -> None:
    features = jax.jit(case.method.encode)(case.params, case.rest, case.batch)
    b, n, d = features.tokens.shape
    samples = len(next(iter(case.batch.values())))
    _expect(b == samples, f"{b} rows of tokens for {samples} samples")
    _expect(features.normed.shape == (b, n, d), f"normed {features.normed.shape} beside tokens {(b, n, d)}")
    _expect(features.prefix.shape[::2] == (b, d), f"prefix {features.prefix.shape} beside tokens {(b, n, d)}")
    _expect(n == np.prod(features.grid), f"{n} tokens on a grid {features.grid}")
    _expect(all(jnp.isfinite(x).all() for x in jax.tree.leaves(features)), "features that are not finite")


def pictures_are_of_one_size_and_show_the_input(case: Case) -> None:
    drawn = case.method.pictures(case.loss()[1].seen, case.batch)
    shapes = {name: p.shape for name, p in drawn.items()}
    _expect(len({s[:3] for s in shapes.values()}) <= 1 and all(len(s) == 4 for s in shapes.values()), f"{shapes}")
    _expect(all(jnp.isfinite(p).all() for p in drawn.values()), "pictures that are not finite")
    if "image" in case.batch:
        _expect("original" in drawn, "`pictures` has no 'original'")
        _same(drawn["original"], case.batch["image"], "'original' is not the input")


def bfloat16_is_close_and_keeps_float32_weights(case: Case) -> None:
    half = dataclasses.replace(case.method, compute=Compute(dtype=jnp.bfloat16))
    loss = lambda p: half.loss(p, case.rest, case.batch, _context(5))[0]
    loss, grads = jax.jit(jax.value_and_grad(loss))(case.params)
    np.testing.assert_allclose(loss, case.loss()[0], rtol=0.02)
    _expect(loss.dtype == jnp.float32, f"the loss is {loss.dtype}")
    _expect(all(g.dtype == jnp.float32 for g in jax.tree.leaves(grads)), "gradients that are not float32")


def cost_is_what_the_matmuls_count(case: Case) -> None:
    """The closed formula against a count of every dot product in the traced loss."""
    cost = case.method.cost()
    if cost is None:
        raise Skip("no formula")
    loss = lambda p, b: case.method.loss(p, case.rest, b, Context(jax.random.key(0), steps=10))[0]
    jaxpr = jax.make_jaxpr(loss)(case.params, case.batch)
    counted = dot_flops(jaxpr.jaxpr) / len(next(iter(case.batch.values())))
    # MAE's formula counts the embedding of all patches, as published; we embed the visible ones alone.
    ratio = (cost.forward + cost.once) / counted
    _expect(1.0 <= ratio < 1.05, f"cost() says {ratio:.3f} times the {counted:.6g} FLOPs that a sample takes")


CHECKS: dict[str, Callable[[Case], None]] = {
    "fields": fields_are_config_keys_with_docs,
    "init": initialises_under_eval_shape,
    "rules": every_parameter_is_covered_by_every_rule,
    "gradients": loss_is_finite_and_every_parameter_gets_gradient,
    "draws": same_call_same_loss_other_step_other_loss,
    "recompile": no_recompile_on_the_second_call,
    "leak": hidden_tokens_do_not_influence_visible_encodings,
    "encode": encode_gives_the_declared_features,
    "pictures": pictures_are_of_one_size_and_show_the_input,
    "bfloat16": bfloat16_is_close_and_keeps_float32_weights,
    "cost": cost_is_what_the_matmuls_count,
}
