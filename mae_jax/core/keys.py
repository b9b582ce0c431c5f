"""Named random streams: every draw is a function of (seed, step, stream name, the sample's row in the global batch).

Nothing random is stored, resuming is exact, and neither the number of devices nor of microbatches changes a draw.
"""

import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class Context:
    """The randomness and circumstances of one call of a method. Made anew for each trace; not a pytree.

    Args:
      key: base key of the run (`jax.random.key(seed)`), the same at every step.
      step: number of the optimizer step, may be traced.
      rows: the row in the global batch of each sample in hand.
      plan: the static choices that `Method.plan` made for this step.
      train: whether this call is a training step (drop path and the like are on).
      steps: length of the schedule, for what changes along it (a teacher's momentum); None where there is none.
      given: replaces any named draw or decision: a test's mask, a picture's order, an author's noise.
    """

    def __init__(
        self,
        key: Array,
        step: Int[Array, ""] | int = 0,
        rows: Int[Array, " b"] | None = None,
        *,
        plan: Any = None,
        train: bool = True,
        steps: int | None = None,
        given: Mapping[str, Array] | None = None,
        _path: str = "",
        _drawn: set[str] | None = None,
    ):
        self.step, self.rows, self.plan, self.train = step, rows, plan, train
        self.steps = steps
        self._base = key
        self._given = dict(given or {})
        self._path = _path
        self._drawn: set[str] = set() if _drawn is None else _drawn

    def fork(self, name: str) -> "Context":
        """A context of independent streams, for a second call of the same network."""
        path = self._claim(name)
        return Context(
            self._base, self.step, self.rows, plan=self.plan, train=self.train, steps=self.steps, given=self._given,
            _path=path + "/", _drawn=self._drawn,
        )  # fmt: skip

    def given(self, name: str, make: Callable[[], Array]) -> Array:
        """The replacement given for `name`, or else `make()`: how a decision can be injected."""
        path = self._path + name
        return self._given[path] if path in self._given else make()

    def uniform(self, name: str, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Float[Array, "..."]:
        """U[0, 1) per sample; `shape[0]` is the batch."""
        return self._per_row(name, shape, lambda k, s: jax.random.uniform(k, s, dtype))

    def normal(self, name: str, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Float[Array, "..."]:
        """N(0, 1) per sample; `shape[0]` is the batch."""
        return self._per_row(name, shape, lambda k, s: jax.random.normal(k, s, dtype))

    def key(self, name: str) -> Array:
        """A key for one decision that the whole batch shares (a crop per pass, a mixup coefficient)."""
        return self._stream(self._claim(name))

    def _per_row(self, name: str, shape: tuple[int, ...], draw: Callable) -> Array:
        path = self._claim(name)
        if path in self._given:
            value = jnp.asarray(self._given[path])
            if value.shape != tuple(shape):
                raise ValueError(f"given '{path}' has shape {value.shape}, the method draws {tuple(shape)}")
            return value
        rows = jnp.arange(shape[0]) if self.rows is None else self.rows
        stream = self._stream(path)
        return jax.vmap(lambda row: draw(jax.random.fold_in(stream, row), tuple(shape[1:])))(rows)

    def _stream(self, path: str) -> Array:
        return jax.random.fold_in(jax.random.fold_in(self._base, self.step), zlib.crc32(path.encode()))

    def _claim(self, name: str) -> str:
        path = self._path + name
        if path in self._drawn:
            raise ValueError(
                f"random stream '{path}' was drawn twice in one call and would repeat its values; "
                f"give the second draw another name, or take ctx.fork(name) for a second network call"
            )
        self._drawn.add(path)
        return path
