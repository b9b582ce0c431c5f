"""A small instance of every method, and inputs for it: what the tests that hold for all methods run on."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mae_jax import methods
from mae_jax.core.types import Batch
from mae_jax.methods.base import Leaf
from mae_jax.train.build import frozen_shapes, sample_batch

# A small instance per method: {name: fields}.
TINY: dict[str, dict[str, Any]] = {
    "mae": dict(
        image_size=(8, 16), patch=(2, 4), channels=2, dim=16, depth=2, heads=2, decoder_dim=12, decoder_depth=1,
        decoder_heads=3,
    ),
}  # fmt: skip

# Where random numbers make no sense as a batch: {name: (method, samples) -> batch}.
BATCHES: dict[str, Callable[[Any, int], Batch]] = {}

# A decision given in the leak test, because this method's mask depends on what it hides: {name: batch -> given}.
GIVEN: dict[str, Callable[[Any, Batch], Mapping[str, Any]]] = {}

# Exemptions: {(name, test): why}.
DECLARED: dict[tuple[str, str], str] = {}


def make_batch(name: str, samples: int = 4) -> Batch:
    """Normal numbers, small integers, True: as the loss gets them."""
    method = methods.get(name)(**TINY[name])
    if name in BATCHES:
        return BATCHES[name](method, samples)
    return {k: _values(i, leaf, samples) for i, (k, leaf) in enumerate(method.batch_spec.items())}


def _values(seed: int, leaf: Leaf, samples: int):
    shape = (samples if leaf.batched else 1, *leaf.shape)
    if leaf.dtype == "bool":
        return jnp.ones(shape, bool)
    if leaf.dtype.startswith(("int", "uint")):
        return jax.random.randint(jax.random.key(1 + seed), shape, 0, 3, leaf.dtype)
    return jax.random.normal(jax.random.key(1 + seed), shape, leaf.dtype)


@functools.cache
def make(name: str, samples: int = 4):
    """(method, params, rest, batch) of the tiny instance; parameters are moved off their zeros and ones."""
    method = methods.get(name)(**TINY[name])
    method.check()
    params, stats = jax.jit(method.init)(jax.random.key(0), sample_batch(method))
    params = jax.tree.map(lambda p: p + 0.02 * jax.random.normal(jax.random.key(p.size), p.shape), params)
    frozen = jax.tree.map(lambda s: 0.1 * jax.random.normal(jax.random.key(s.size), s.shape), frozen_shapes(method))
    rest = {"stats": stats, "ema": method.start_ema(params, stats), "frozen": frozen}
    return method, params, rest, make_batch(name, samples)
