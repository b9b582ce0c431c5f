"""Where the first NaN or infinity of a loss or its gradient appears: which block, which layer of it, which array.

Every call of a Linen module is watched from outside (`nn.intercept_methods`), so that no method and no network knows of
it: what goes in and what comes out, forward, and the gradients of both, backward.
"""

import contextlib
import dataclasses
import functools
import re
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from mae_jax.core import tree
from mae_jax.core.types import Batch, Params
from mae_jax.nets.compute import Compute

Loss = Callable[[Any, Params, Any, Batch], tuple[Any, Any]]


@dataclasses.dataclass(frozen=True)
class Place:
    """One array that passed the border of a module.

    Attributes:
      path: of the module among the parameters, as "encoder/blocks/7/attn".
      side: "input" or "output".
    """

    path: str
    side: str

    def __str__(self) -> str:
        return f"{self.side} of {readable(self.path)}"


@dataclasses.dataclass
class Watch:
    """Places in the order of the forward pass, and what was seen there: (all finite, largest finite magnitude)."""

    places: list[Place] = dataclasses.field(default_factory=list)
    forward: dict[int, tuple[bool, float]] = dataclasses.field(default_factory=dict)
    backward: dict[int, tuple[bool, float]] = dataclasses.field(default_factory=dict)

    def tap(self, value: Any, place: Place) -> Any:
        """`value` itself; its floating-point arrays are looked at when the program runs."""

        def one(x: Any) -> Any:
            if not isinstance(x, jax.Array) or not jnp.issubdtype(x.dtype, jnp.inexact):
                return x
            self.places.append(place)
            return _tap(_Tap(self, len(self.places) - 1), x)

        return jax.tree.map(one, value)

    def note(self, seen: dict[int, tuple[bool, float]], index: int, finite: Any, largest: Any) -> None:
        ok, most = seen.get(index, (True, 0.0))  # once per device, or per element under vmap
        seen[index] = ok and bool(np.all(finite)), max(most, float(np.max(largest)))

    def first(self) -> str:
        """The first place of the forward pass that is not finite, in words; "" where all are."""
        broken = [i for i, (ok, _) in sorted(self.forward.items()) if not ok]
        if not broken:
            return ""
        return f"forward, at the {self.places[broken[0]]}{self._before(self.forward, range(broken[0] - 1, -1, -1))}"

    def first_backward(self) -> str:
        """The same for the backward pass, which meets the places in the reverse order."""
        broken = [i for i, (ok, _) in sorted(self.backward.items(), reverse=True) if not ok]
        if not broken:
            return ""
        at = range(broken[0] + 1, len(self.places))
        return f"backward, in the gradient of the {self.places[broken[0]]}{self._before(self.backward, at)}"

    def _before(self, seen: dict[int, tuple[bool, float]], order: range) -> str:
        for i in order:
            if i in seen:
                return f"; the last one that was finite, the {self.places[i]}, reached {seen[i][1]:.3g}"
        return ""


@dataclasses.dataclass(frozen=True, eq=False)
class _Tap:
    watch: Watch
    index: int


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _tap(tap: _Tap, x: Array) -> Array:
    _look(tap, tap.watch.forward, x)
    return x


def _forward(tap: _Tap, x: Array) -> tuple[Array, None]:
    return _tap(tap, x), None


def _backward(tap: _Tap, _: None, g: Array) -> tuple[Array]:
    _look(tap, tap.watch.backward, g)
    return (g,)


_tap.defvjp(_forward, _backward)


def _look(tap: _Tap, seen: dict[int, tuple[bool, float]], x: Array) -> None:
    finite = jnp.isfinite(x)
    largest = jnp.where(finite, jnp.abs(x), 0).max(initial=0).astype(jnp.float32)
    jax.debug.callback(functools.partial(tap.watch.note, seen, tap.index), finite.all(), largest)


@contextlib.contextmanager
def watching(watch: Watch, params: Params) -> Iterator[None]:
    """Watch every call of a module that is traced inside; `params`, the traced ones, give the modules their paths."""
    owner = {id(leaf): path for path, leaf in tree.flatten(params).items()}
    frames: list[tuple[str, list[int]]] = []  # (path, [how many nameless children so far]) of the modules being called

    def path_of(module: nn.Module) -> str:
        for sub, leaf in tree.flatten(module.variables.get("params", {})).items():
            if owner.get(id(leaf), "").endswith(f"/{sub}"):
                return owner[id(leaf)].removesuffix(f"/{sub}")
        if module.name:
            return f"{frames[-1][0]}/{module.name}" if frames else module.name
        if not frames:
            return type(module).__name__
        frames[-1][1][0] += 1  # a block that its stack applies by itself
        return f"{frames[-1][0]}/{frames[-1][1][0] - 1}"

    def intercept(call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        if context.method_name != "__call__":
            return call(*args, **kwargs)
        path = path_of(context.module)
        frames.append((path, [0]))
        try:
            out = call(*watch.tap(args, Place(path, "input")), **kwargs)
        finally:
            frames.pop()
        return watch.tap(out, Place(path, "output"))

    with nn.intercept_methods(intercept):
        yield


@dataclasses.dataclass(frozen=True)
class Finding:
    """What one loss and its gradient hold.

    Attributes:
      loss: its value.
      broken: what is not finite, in words, in the order in which it is worth looking at; [] where all is well.
      first: where it begins, in words; "" where all is well or where it cannot be said.
      gradients: {path: norm}.
    """

    loss: float
    broken: list[str]
    first: str
    gradients: dict[str, float]


def find(method: Any, loss: Loss, params: Params, rest: Any, batch: Batch) -> Finding:
    """Run loss(method, params, rest, batch) -> (value, Aux) and its gradient once, and look at everything.

    The blocks run unrolled and without rematerialisation, since what happens inside a loop has no name.
    """
    watch = Watch()
    compute: Compute = dataclasses.replace(method.compute, scan=False, remat="none")
    plain = dataclasses.replace(method, compute=compute)

    @jax.jit
    def run(params: Params, rest: Any, batch: Batch) -> dict[str, Any]:
        def watched(params):
            with watching(watch, params):
                return loss(plain, params, rest, batch)

        (value, aux), grads = jax.value_and_grad(watched, has_aux=True)(params)
        look = {"batch": batch, "weights": params, "statistics": aux.stats, "seen": aux.seen, "metrics": aux.metrics,
                "gradients": grads}  # fmt: skip
        bad = {
            f"{part} {path}": (~jnp.isfinite(x)).sum()
            for part, inside in look.items()
            for path, x in tree.flatten(inside).items()
            if jnp.issubdtype(jnp.asarray(x).dtype, jnp.inexact)
        }
        norms = {path: jnp.linalg.norm(g.astype(jnp.float32).ravel()) for path, g in tree.flatten(grads).items()}
        return {"loss": value, "bad": bad, "norms": norms}

    out = jax.device_get(run(params, rest, batch))
    jax.effects_barrier()
    order = ("batch", "weights", "metrics", "seen", "statistics", "gradients")
    bad = sorted(((k, int(v)) for k, v in out["bad"].items() if v), key=lambda item: order.index(item[0].split()[0]))
    value = float(out["loss"])
    broken = ([] if np.isfinite(value) else [f"the loss is {value}"]) + [
        f"{name}: {count} value(s) of {_size(name, batch, params)} not finite".replace(" of  ", " ")
        for name, count in bad
    ]
    return Finding(
        value, broken, watch.first() or watch.first_backward(), {k: float(v) for k, v in out["norms"].items()}
    )


def _size(name: str, batch: Batch, params: Params) -> str:
    part, path = name.split(" ", 1)
    known = {"batch": batch, "weights": params, "gradients": params}.get(part, {})
    leaf = tree.flatten(known).get(path)
    return "" if leaf is None else str(leaf.size)


def readable(path: str) -> str:
    """ "encoder/blocks/7/attn/qkv" -> "block 7 attn qkv (encoder/blocks/7/attn/qkv)"."""
    found = re.search(r"(?:^|/)\w*blocks/(\d+)(?:/(.+))?$", path)
    if not found:
        return path
    return f"block {found[1]}{' ' + found[2].replace('/', ' ') if found[2] else ''} ({path})"
