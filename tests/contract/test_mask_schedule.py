"""A toy for the contract: a mask ratio that changes by step, by `Method.plan` or under a fixed budget."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mae_jax.core.types import Aux
from mae_jax.masking import scores
from mae_jax.masking.select import keep_count, select
from mae_jax.methods.base import Leaf, Method
from mae_jax.tokens.gather import take
from mae_jax.train.state import init_state
from mae_jax.train.step import make_step


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curriculum(Method):
    """The mean of the visible tokens predicts the hidden ones; fewer and fewer are visible.

    Attributes:
      ratios: of hidden tokens, each for `stage` steps.
      budget: False: the counts are static and each compiles once; True: one program gathers the largest count, and
        what exceeds the step's own is not valid.
    """

    name: ClassVar[str] = "curriculum"
    tokens: int = 8
    dim: int = 4
    ratios: tuple[float, ...] = (0.25, 0.5, 0.75)
    stage: int = 2
    budget: bool = False

    @property
    def batch_spec(self):
        return {"tokens": Leaf((self.tokens, self.dim))}

    @property
    def counts(self):
        return tuple(keep_count(self.tokens, ratio) for ratio in self.ratios)

    def plan(self, step):
        return None if self.budget else self.counts[min(step // self.stage, len(self.counts) - 1)]

    def init(self, key, batch):
        kernel = 0.1 * jax.random.normal(key, (self.dim, self.dim))
        return {"kernel": kernel, "pos_embed": jnp.zeros((1, self.tokens, self.dim))}, {}

    def loss(self, params, rest, batch, ctx):
        x = batch["tokens"]
        if self.budget:
            keep = jnp.asarray(self.counts)[jnp.minimum(ctx.step // self.stage, len(self.counts) - 1)]
            mask = select(scores.random(ctx, *x.shape[:2]), max(self.counts))
        else:
            keep, mask = ctx.plan, select(scores.random(ctx, *x.shape[:2]), ctx.plan)
        visible = take(x, mask)
        valid = (jnp.arange(visible.shape[1]) < keep)[None, :, None]
        mean = jnp.where(valid, visible, 0.0).sum(axis=1, keepdims=True) / keep
        error = jnp.square(mean @ params["kernel"] + params["pos_embed"] - x).mean(axis=2)
        hidden = mask.restore_ids >= keep
        count = hidden.sum()
        return jnp.where(hidden, error, 0.0).sum() / count, Aux(stats={}, metrics={"hidden": count / len(x)})


X = jnp.asarray(np.random.default_rng(0).normal(size=(16, 1, 4)) + np.linspace(-1, 1, 8)[None, :, None], jnp.float32)


def train(method, steps=40):
    """(the jitted step, [metrics of each step])."""
    step = make_step(method, optax.scale_by_adam(), lambda step: 0.1, lambda batch, ctx: batch, seed=0)
    jitted = jax.jit(step, static_argnums=3)  # as Run.step
    state = init_state(method, optax.scale_by_adam(), jax.random.key(0), {"tokens": X})
    metrics = []
    for i in range(steps):
        state, found = jitted(state, {}, {"tokens": X}, method.plan(i))
        metrics.append(jax.device_get(found))
    return jitted, metrics


@pytest.fixture(scope="module")
def planned():
    return train(Curriculum())


def test_every_count_compiles_once_and_is_what_the_step_hides(planned):
    jitted, metrics = planned
    assert jitted._cache_size() == 3
    assert [m["hidden"] for m in metrics[:7]] == [2, 2, 4, 4, 6, 6, 6]


def test_it_learns(planned):
    losses = [m["loss"] for m in planned[1]]
    assert losses[-1] < 0.5 * losses[4]  # among the steps of one ratio


def test_a_fixed_budget_gives_the_same_losses_from_one_program(planned):
    jitted, metrics = train(Curriculum(budget=True), steps=7)
    assert jitted._cache_size() == 1
    for ours, theirs in zip(metrics, planned[1]):
        np.testing.assert_allclose(ours["loss"], theirs["loss"], rtol=1e-5)
        np.testing.assert_allclose(ours["grad_norm"], theirs["grad_norm"], rtol=1e-5)
