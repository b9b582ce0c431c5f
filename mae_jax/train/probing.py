"""Probes of the encoder while it trains and at the end: which weights, on which data, compared with what."""

from typing import Any

import jax

from mae_jax.core.errors import UserError
from mae_jax.core.mesh import use_mesh
from mae_jax.data.sources import Source
from mae_jax.eval.probes import Result
from mae_jax.eval.run import Evaluator
from mae_jax.train.build import Run, sample_batch
from mae_jax.train.feed import eval_batches
from mae_jax.train.state import State, rest_of


class Probes:
    """Probes of one run's encoder on its own data, compiled once.

    Attributes:
      protocols: of the table at the end.
    """

    def __init__(self, run: Run, train: Source, test: Source):
        self._run, self._train, self._test = run, train, test
        self.protocols = run.config.eval.protocols
        self._evaluators: dict[Any, Evaluator] = {}

    @staticmethod
    def check(run: Run, train: Source, test: Source) -> None:
        """Raise UserError where probes are asked for that the data or the encoder cannot give."""
        for split, source in (("train", train), ("test", test)):
            if not source.classes:
                raise UserError(
                    f"the config asks for probes (eval.every={run.config.eval.every}, eval.protocols="
                    f"{run.config.eval.protocols}), but the {split} split has no labels: {source.describe()}. Give "
                    f"labels (for a folder: one sub-folder per class), or set --config.eval.every=0 and "
                    f"--config.eval.protocols='()'."
                )
        protocols = (*run.config.eval.online, *run.config.eval.protocols)
        raw = run.config.eval.raw and bool(run.config.eval.protocols)  # the table alone compares with pixels
        evaluator = Probes(run, train, test)._evaluator(protocols, raw)
        rest = rest_of(run.shapes, run.frozen_shapes)
        evaluator.check(run.shapes["params"], rest, jax.eval_shape(lambda: sample_batch(run.method)))

    def online(self, state: State) -> dict[str, float]:
        """{"probe/<protocol>": accuracy} of the weights as they are."""
        found = self._evaluate(self.weights(state), self._run.config.eval.online, raw=False)
        return {
            f"probe/{protocol}" + ("" if name == "pretrained" else f"_{name}"): result.accuracy
            for name, results in found.items()
            for protocol, result in results.items()
        }

    def final(self, state: State) -> dict[str, dict[str, Result]]:
        """Results of the pretrained encoder (and its average), of a random one and of raw pixels."""
        weights = self.weights(state)
        fresh = self._run.init(("params", "stats", "ema"))
        weights["random"] = self.weights(fresh)["pretrained"]
        return self._evaluate(weights, self.protocols, raw=self._run.config.eval.raw)

    def weights(self, state: State) -> dict[str, tuple[Any, Any]]:
        """{name: (params, rest)} of the sets that a state holds."""
        rest = rest_of(state, self._run.frozen)
        found = {"pretrained": (state["params"], rest)}
        if "average" in state["ema"]:
            found["average"] = (state["ema"]["average"], rest)
        return found

    def _evaluate(self, weights: dict[str, tuple[Any, Any]], protocols: tuple[str, ...], raw: bool):
        with use_mesh(self._run.mesh):
            return self._evaluator(protocols, raw)(
                weights, eval_batches(self._run, self._train), eval_batches(self._run, self._test)
            )

    def _evaluator(self, protocols: tuple[str, ...], raw: bool) -> Evaluator:
        run = self._run
        if (protocols, raw) not in self._evaluators:
            self._evaluators[protocols, raw] = Evaluator(
                run.method, run.augment, how=run.config.eval.pool, protocols=protocols, raw=raw,
                place=run.place,
            )  # fmt: skip
        return self._evaluators[protocols, raw]
