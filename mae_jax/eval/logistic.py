"""Logistic regression on the devices, of all classes or each: L-BFGS whose line search costs no matrix product.

The logits of a step are linear in its length, so a search along a direction needs X @ direction once; every
trial after that is elementwise. An iteration therefore reads the features twice, whatever the search does.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from mae_jax.core.mesh import batch_sharding

MEMORY = 10  # pairs that L-BFGS remembers, as in SciPy and scikit-learn
HIGHEST = lax.Precision.HIGHEST  # a TPU would multiply in bfloat16


class Problem(NamedTuple):
    """Samples on the devices, rows split over all of them.

    Attributes:
      x: standardised features; rows of zeros fill up the last device.
      y: numbers of classes [n]; or [n, c] of 0 and 1, every class against its absence.
      fit: weight of each sample in the fit: 1, or 0 where it is held out or filled up.
      held: the same for the held-out loss.
    """

    x: Float[Array, "n d"]
    y: Int[Array, "n *c"]
    fit: Float[Array, " n"]
    held: Float[Array, " n"]


class Solution(NamedTuple):
    """w [d + 1, c], the last row is the offset; largest entry of the gradient; iterations; held-out log loss."""

    w: Float[Array, "e c"]
    gradient: Float[Array, ""]
    iterations: Int[Array, ""]
    held_loss: Float[Array, ""]


def place(
    x: Float[np.ndarray, "n d"], y: Int[np.ndarray, "n *c"], held: Any = None, mesh: Mesh | None = None
) -> Problem:
    """A problem on the mesh (None: the default device) from arrays that every process holds whole."""
    n = len(y)
    rows = -(-n // (mesh.size if mesh else 1)) * (mesh.size if mesh else 1)
    out = np.zeros(n, bool) if held is None else np.asarray(held, bool)

    def put(array: np.ndarray) -> Array:
        array = np.pad(array, [(0, rows - n)] + [(0, 0)] * (array.ndim - 1))
        if mesh is None:
            return jnp.asarray(array)
        return jax.make_array_from_callback(array.shape, batch_sharding(mesh), lambda index: array[index])

    weight = np.ones(n, np.float32)
    return Problem(put(x.astype(np.float32)), put(y.astype(np.int32)), put(weight * ~out), put(weight * out))


def solve(
    problem: Problem, strength: float, start: Any = None, *, classes: int,
    tolerance: float = 1e-5, iterations: int = 1000,
) -> Solution:  # fmt: skip
    """argmin of mean cross entropy + |W|^2 / (2 strength n), n = sum of `fit`: scikit-learn's objective over n.

    Of labels [n, c] the cross entropies of all classes are added up: scikit-learn's one-vs-rest, every class at one
    strength. The offset is free. Ends where no entry of the gradient exceeds `tolerance`, where float32 finds nothing
    lower, or after `iterations`.

    Args:
      strength: inverse ridge strength (scikit-learn's C).
      start: [e, c] a solution nearby, along a path of strengths; None: zeros.
    """
    if start is None:
        start = np.zeros((problem.x.shape[1] + 1, classes), np.float32)
    # NumPy's scalars are on every process; jax's would lie on a device of this one alone.
    return _solve(problem, np.float32(strength), start, np.float32(tolerance), np.int32(iterations))


class _State(NamedTuple):
    w: Array
    logits: Array
    value: Array
    gradient: Array
    s: Array  # [MEMORY, e, c] the last steps, a ring
    t: Array  # [MEMORY, e, c] the changes of the gradient
    rho: Array  # [MEMORY] 1 / (s . t); 0: empty
    steps: Array
    done: Array


@jax.jit
def _solve(problem: Problem, strength: Array, start: Array, tolerance: Array, iterations: Array) -> Solution:
    n = problem.fit.sum()
    ridge = 1.0 / (strength * n)

    def logits_of(w: Array) -> Array:
        return jnp.matmul(problem.x, w[:-1], precision=HIGHEST) + w[-1:]

    def entropy(logits: Array, weight: Array) -> Array:
        return (_nll(logits, problem.y) * weight).sum() / jnp.maximum(weight.sum(), 1.0)

    def value_of(logits: Array, w: Array) -> Array:
        return entropy(logits, problem.fit) + 0.5 * ridge * jnp.square(w[:-1]).sum()

    def gradient_of(logits: Array, w: Array) -> Array:
        error = _residual(logits, problem.y) * (problem.fit / n)[:, None]
        weights = jnp.matmul(problem.x.T, error, precision=HIGHEST) + ridge * w[:-1]
        return jnp.concatenate([weights, error.sum(axis=0, keepdims=True)])

    def search(state: _State, direction: Array) -> tuple[Array, Array, Array, Array, Array]:
        """A length that satisfies the Wolfe conditions (by bisection and doubling); (w, logits, value, slope, ok)."""
        along = logits_of(direction)
        slope = (state.gradient * direction).sum()
        first = jnp.where(state.steps == 0, 1.0 / jnp.maximum(jnp.abs(state.gradient).sum(), 1e-12), 1.0)
        w2, wd, dd = (
            jnp.square(state.w[:-1]).sum(),
            (state.w[:-1] * direction[:-1]).sum(),
            jnp.square(direction[:-1]).sum(),
        )

        def look(a: Array) -> tuple[Array, Array]:
            logits = state.logits + a * along
            error = _residual(logits, problem.y) * (problem.fit / n)[:, None]
            value = entropy(logits, problem.fit) + 0.5 * ridge * (w2 + 2 * a * wd + a * a * dd)
            return value, (error * along).sum() + ridge * (wd + a * dd)

        def body(carry):
            low, high, a, _, _, tries = carry
            value, now = look(a)
            # Near the end the value moves by less than float32 can tell; the slope, computed directly, still can.
            noise = 4e-7 * jnp.abs(state.value)
            steep = value > state.value + 1e-4 * a * slope + noise
            short = now < 0.9 * slope
            low, high = jnp.where(~steep & short, a, low), jnp.where(steep, a, high)
            ok = ~steep & ~short
            after = jnp.where(jnp.isinf(high), 2 * a, 0.5 * (low + high))
            return low, high, jnp.where(ok, a, after), value, ok, tries + 1

        carry = (jnp.float32(0), jnp.float32(jnp.inf), first, state.value, jnp.bool_(False), jnp.int32(0))
        *_, a, value, ok, _ = lax.while_loop(lambda c: ~c[4] & (c[5] < 25), body, carry)
        return state.w + a * direction, a * direction, value, slope, ok

    def step(state: _State) -> _State:
        direction = -_two_loops(state)
        w, moved, _, slope, ok = search(state, direction)
        logits = logits_of(w)  # anew: sums of steps would drift
        value, gradient = value_of(logits, w), gradient_of(logits, w)
        change = gradient - state.gradient
        product = (moved * change).sum()
        good = ok & (product > 1e-12 * jnp.square(change).sum())
        at = state.steps % MEMORY
        put = lambda ring, new: ring.at[at].set(jnp.where(good, new, ring[at]))
        keep = lambda new, old: jnp.where(ok & (slope < 0), new, old)
        gradient = keep(gradient, state.gradient)
        done = (jnp.abs(gradient).max() <= tolerance) | ~ok
        return _State(
            keep(w, state.w), keep(logits, state.logits), keep(value, state.value), gradient,
            put(state.s, moved), put(state.t, change), put(state.rho, 1.0 / jnp.where(good, product, 1.0)),
            state.steps + 1, done,
        )  # fmt: skip

    logits = logits_of(start)
    gradient = gradient_of(logits, start)
    ring = jnp.zeros((MEMORY, *start.shape), jnp.float32)
    state = _State(
        start, logits, value_of(logits, start), gradient, ring, ring, jnp.zeros(MEMORY), jnp.int32(0),
        jnp.abs(gradient).max() <= tolerance,
    )  # fmt: skip
    state = lax.while_loop(lambda s: ~s.done & (s.steps < iterations), step, state)
    return Solution(state.w, jnp.abs(state.gradient).max(), state.steps, entropy(state.logits, problem.held))


def _nll(logits: Float[Array, "n c"], y: Int[Array, "n *c"]) -> Float[Array, " n"]:
    """-log p(y) of each sample."""
    if y.ndim == 2:
        return (jax.nn.softplus(logits) - y * logits).sum(axis=1)
    return jax.nn.logsumexp(logits, axis=1) - jnp.take_along_axis(logits, y[:, None], axis=1)[:, 0]


def _residual(logits: Float[Array, "n c"], y: Int[Array, "n *c"]) -> Float[Array, "n c"]:
    """The gradient of `_nll` by the logits."""
    if y.ndim == 2:
        return jax.nn.sigmoid(logits) - y
    return jax.nn.softmax(logits) - jax.nn.one_hot(y, logits.shape[1])


def _two_loops(state: _State) -> Array:
    """The inverse Hessian's estimate times the gradient (Nocedal and Wright, 2006, Algorithm 7.4)."""
    order = (state.steps - 1 - jnp.arange(MEMORY)) % MEMORY  # newest first; empty places have rho = 0

    def back(q: Array, i: Array) -> tuple[Array, Array]:
        alpha = state.rho[i] * (state.s[i] * q).sum()
        return q - alpha * state.t[i], alpha

    q, alphas = lax.scan(back, state.gradient, order)
    newest = order[0]
    yy = jnp.square(state.t[newest]).sum()
    q = q * jnp.where(state.rho[newest] > 0, 1.0 / jnp.maximum(state.rho[newest] * yy, 1e-30), 1.0)

    def forth(r: Array, pair: tuple[Array, Array]) -> tuple[Array, None]:
        i, alpha = pair
        return r + state.s[i] * (alpha - state.rho[i] * (state.t[i] * r).sum()), None

    r, _ = lax.scan(forth, q, (order, alphas), reverse=True)
    return r
