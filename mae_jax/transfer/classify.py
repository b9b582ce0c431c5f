"""How often a classifier is right: top-1, top-5 and loss over a labelled split."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mae_jax.core.errors import UserError
from mae_jax.core.mesh import replicated, use_mesh
from mae_jax.data.sources import Source
from mae_jax.eval.probes import Result
from mae_jax.losses.cross_entropy import cross_entropy
from mae_jax.train.build import Run
from mae_jax.train.feed import eval_batches
from mae_jax.train.state import State, rest_of
from mae_jax.transfer.finetune import FineTune
from mae_jax.transfer.plan import check_labels

TOP = 5


class Validation:
    """Scores of a fine-tuning run's states on its test split: what `train/probing.py: Probes` is to pretraining."""

    def __init__(self, run: Run, train: Source, test: Source):
        self.run, self._train, self.test = run, train, test
        self._counts = jax.jit(self._count, out_shardings=replicated(run.mesh))

    @staticmethod
    def check(run: Run, train: Source, test: Source) -> None:
        """Raise UserError where the two splits have no labels, or others than each other."""
        check_labels(train, "training")
        check_labels(test, "test")
        if tuple(train.classes) != tuple(test.classes):
            odd = sorted({*train.classes} ^ {*test.classes})
            raise UserError(
                f"the training split has {len(train.classes)} classes and the test split {len(test.classes)}, and they "
                f"are not the same{f', as {odd[:3]}' if odd else ' in their order'}: a classifier needs one set."
            )

    def online(self, state: State) -> dict[str, float]:
        """{"val/top1", "val/top5", "val/loss"} of the weights, and of their average as "val/average_..."."""
        sets = {"": state["params"]}
        if "average" in state["ema"]:
            sets["average_"] = state["ema"]["average"]
        rest = rest_of(state, self.run.frozen)
        return {
            f"val/{prefix}{name}": value
            for prefix, params in sets.items()
            for name, value in self.scores(params, rest).items()
        }

    def scores(self, params: Any, rest: Mapping[str, Any]) -> dict[str, float]:
        """{"top1", "top5" in percent, "loss"} over the labelled records of the test split."""
        with eval_batches(self.run, self.test) as batches, use_mesh(self.run.mesh):
            totals = [self._counts(params, rest, self.run.put(batch)) for batch in batches]
        n, top1, top5, loss = np.sum([np.asarray(t, np.float64) for t in totals], axis=0)
        if n < 1:
            raise UserError(f"the test split has no labelled record that can be read: {self.test.describe()}.")
        return {"top1": 100 * top1 / n, "top5": 100 * top5 / n, "loss": loss / n}

    def _count(self, params: Any, rest: Mapping[str, Any], batch: Mapping[str, Any]) -> jax.Array:
        """[samples, right at first, right among the first 5, summed loss] of a batch."""
        label = batch["label"]
        counted = (batch["valid"] & (label >= 0)).astype(jnp.float32)
        method = self.run.method
        assert isinstance(method, FineTune)
        logits, _, _ = method.logits(params, rest, self.run.augment({k: x for k, x in batch.items() if k != "valid"}))
        own = jnp.take_along_axis(logits, jnp.maximum(label, 0)[:, None], axis=1)
        equal = (logits == own) & (jnp.arange(logits.shape[1])[None] >= label[:, None])
        better = (~((logits < own) | equal)).sum(axis=1)  # ranked before the right class; equals by number, NaN first
        loss = cross_entropy(logits, label)
        each = [jnp.ones_like(counted), better < 1, better < TOP, jnp.where(counted > 0, loss, 0.0)]
        return jnp.stack([(x * counted).sum() for x in each])


def result(scores: Mapping[str, float]) -> Result:
    """The scores as a protocol's outcome."""
    return Result(scores["top1"], details={"top5": scores["top5"], "loss": scores["loss"]})
