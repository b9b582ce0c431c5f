"""How often a classifier is right: top-1, top-5 and loss over a labelled split."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mae_jax.core.errors import UserError
from mae_jax.core.mesh import replicated, use_mesh
from mae_jax.data.sources import Source
from mae_jax.eval.average_precision import mean_average_precision
from mae_jax.eval.features import fetch
from mae_jax.eval.probes import Result
from mae_jax.eval.ranks import rank
from mae_jax.losses.cross_entropy import cross_entropy
from mae_jax.train.build import Run
from mae_jax.train.feed import eval_batches
from mae_jax.train.state import State, rest_of
from mae_jax.transfer.finetune import FineTune
from mae_jax.transfer.plan import check_labels

TOP = 5
TINY = 1e-30  # a probability of 0 costs as much as this one


class Validation:
    """Scores of a fine-tuning run's states on its test split: what `train/probing.py: Probes` is to pretraining.

    Attributes:
      main: the score by which runs are compared: "top1", or "map" where a record may be of several classes.
    """

    def __init__(self, run: Run, train: Source, test: Source):
        self.run, self._train, self.test = run, train, test
        self._counts = jax.jit(self._count, out_shardings=replicated(run.mesh))
        self._probabilities = jax.jit(self._probability, out_shardings=replicated(run.mesh))

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
        """The `scores` of the weights as "val/...", and of their average as "val/average_..."."""
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
        """{"top1", "top5" in percent, "loss"} over the labelled records of the test split; {"map", "loss"} where a
        record may be of several classes. Where the data give several views of a record, these vote."""
        if self.run.vote_views > 1 or self._several:
            return self._voted(params, rest)
        with eval_batches(self.run, self.test) as batches, use_mesh(self.run.mesh):
            totals = [self._counts(params, rest, self.run.put(batch)) for batch in batches]
        n, top1, top5, loss = np.sum([np.asarray(t, np.float64) for t in totals], axis=0)
        if n < 1:
            raise self._empty()
        return {"top1": 100 * top1 / n, "top5": 100 * top5 / n, "loss": loss / n}

    @property
    def main(self) -> str:
        return "map" if self._several else "top1"

    @property
    def _several(self) -> bool:
        method = self.run.method
        assert isinstance(method, FineTune)
        return method.multilabel

    def _empty(self) -> UserError:
        return UserError(f"the test split has no labelled record that can be read: {self.test.describe()}.")

    def _voted(self, params: Any, rest: Mapping[str, Any]) -> dict[str, float]:
        """The scores of the probabilities' mean over all views of each record, held on the host."""
        views = self.run.vote_views
        total, labels, read = np.zeros(()), np.zeros(()), np.ones((), bool)
        for view in range(views):
            rows: list[tuple[np.ndarray, ...]] = []
            with eval_batches(self.run, self.test, view=view) as batches, use_mesh(self.run.mesh):
                for batch in batches:
                    placed = self.run.put(batch)
                    found = [self._probabilities(params, rest, placed), placed["label"], placed["valid"]]
                    rows.append(tuple(fetch(x) for x in found))
            p, label, valid = (np.concatenate(x) for x in zip(*rows, strict=True))
            total, labels = total + p.astype(np.float64) / views, label
            read = read & valid  # a record that one view could not read does not count
        known = read & (labels.min(axis=1) >= 0 if labels.ndim == 2 else labels >= 0)
        if not known.any():
            raise self._empty()
        return several(total[known], labels[known]) if self._several else single(total[known], labels[known])

    def _probability(self, params: Any, rest: Mapping[str, Any], batch: Mapping[str, Any]) -> jax.Array:
        """[b, classes]: of the classes that exclude each other, or of each by itself."""
        logits = self._logits(params, rest, batch)
        return jax.nn.sigmoid(logits) if self._several else jax.nn.softmax(logits, axis=-1)

    def _logits(self, params: Any, rest: Mapping[str, Any], batch: Mapping[str, Any]) -> jax.Array:
        method = self.run.method
        assert isinstance(method, FineTune)
        return method.logits(params, rest, self.run.augment({k: x for k, x in batch.items() if k != "valid"}))[0]

    def _count(self, params: Any, rest: Mapping[str, Any], batch: Mapping[str, Any]) -> jax.Array:
        """[samples, right at first, right among the first 5, summed loss] of a batch."""
        label = batch["label"]
        counted = (batch["valid"] & (label >= 0)).astype(jnp.float32)
        logits = self._logits(params, rest, batch)
        better = rank(logits, label)
        loss = cross_entropy(logits, label)
        each = [jnp.ones_like(counted), better < 1, better < TOP, jnp.where(counted > 0, loss, 0.0)]
        return jnp.stack([(x * counted).sum() for x in each])


def single(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """{"top1", "top5" in percent, "loss"} of probabilities [n, c] for labels [n]."""
    better = np.asarray(rank(jnp.asarray(probabilities, jnp.float32), jnp.asarray(labels)))
    top = {f"top{k}": 100 * float((better < k).mean()) for k in (1, TOP)}
    own = np.take_along_axis(probabilities, labels[:, None], axis=1)
    return top | {"loss": float(-np.log(np.maximum(own, TINY)).mean())}


def several(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """{"map" in percent, "loss": mean binary cross entropy} of probabilities [n, c] for labels [n, c] of 0 and 1."""
    right = np.where(labels > 0, probabilities, 1 - probabilities)
    loss = float(-np.log(np.maximum(right, TINY)).mean())
    return {"map": 100 * mean_average_precision(probabilities, labels)[0], "loss": loss}


def result(scores: Mapping[str, float]) -> Result:
    """The scores as a protocol's outcome."""
    main = "map" if "map" in scores else "top1"
    return Result(scores[main], details={name: value for name, value in scores.items() if name != main})
