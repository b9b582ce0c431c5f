"""Fine-tuned from a pretrained encoder against the same network from scratch, on a few labels per class.

    python benchmarks/finetune_labels.py --labels 5 10 50 --seeds 5 --json runs/finetune_labels.json WORKDIR ...

Seed s takes the encoder of the s-th workdir (from the start again where there are fewer), the s-th draw of labels and
the s-th order of batches; both sides see the same. From scratch there is no layer decay, and its learning rate is the
best of --rates by the mean test accuracy of the first --tuning seeds: chosen on the test split, in favour of the
baseline. Prints top-1 on the whole test split: mean and 95 % interval (Student's t) over the seeds, and of the paired
difference.
"""

import argparse
import dataclasses
import functools
import json
from pathlib import Path

import jax
import numpy as np

from mae_jax.core.mesh import use_mesh
from mae_jax.data.pipeline import train_batches
from mae_jax.train.build import open_split
from mae_jax.train.state import rest_of
from mae_jax.transfer.classify import Validation
from mae_jax.transfer.plan import finetune_config
from mae_jax.transfer.start import start
from mae_jax.transfer.task import build_finetune
from mae_jax.weights.store import Weights, open_weights

T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 8: 2.365, 10: 2.262}  # Student's t, n - 1 degrees of freedom


class Trainer:
    """One recipe, compiled once: fine-tunes any weights on any draw of labels."""

    def __init__(self, weights: Weights, overrides: list[str]):
        self.run = build_finetune(finetune_config(weights.config, overrides=overrides))
        self.init = jax.jit(self.run._init, out_shardings=jax.tree.map(lambda s: s.sharding, self.run.shapes))
        self.validation = Validation(self.run, self.run.open("train"), self.run.open("test"))

    def accuracy(self, weights: Weights | None, labels: int, seed: int) -> float:
        """Top-1 in percent on the test split after the last step."""
        run = self.run
        transfer = dataclasses.replace(run.config.transfer, labels_per_class=labels, labels_seed=seed)
        source = open_split(dataclasses.replace(run.config, transfer=transfer), "train")
        with use_mesh(run.mesh):
            state = start(run, weights, self.init(jax.random.key(seed)))
        batch, steps = run.config.train.batch, run.config.train.steps
        with train_batches(source, run.views(True), batch=batch, seed=seed) as batches:
            for _ in range(steps):
                state, metrics = run.step(state, run.frozen, run.put(next(batches)))
                jax.block_until_ready(metrics)
        return self.validation.scores(state["params"], rest_of(state, run.frozen))["top1"]


def interval(values: list[float]) -> tuple[float, float]:
    """(mean, half width of its 95 % interval)."""
    n = len(values)
    return float(np.mean(values)), float(T95[n] * np.std(values, ddof=1) / n**0.5) if n > 1 else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("workdirs", nargs="+", type=Path)
    parser.add_argument("--labels", type=int, nargs="+", default=[5, 10, 50])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tuning", type=int, default=2)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=8e-3, help="of fine-tuning, per 256")
    parser.add_argument("--rates", type=float, nargs="+", default=[4e-3, 8e-3, 1.6e-2], help="tried from scratch")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    weights = [open_weights(workdir) for workdir in args.workdirs]
    recipe = [f"transfer.steps={args.steps}", f"transfer.batch={args.batch}"]
    trainer = Trainer(weights[0], [*recipe, f"transfer.learning_rate={args.rate}"])

    @functools.cache
    def scratch(rate: float) -> Trainer:
        return Trainer(weights[0], [*recipe, f"transfer.learning_rate={rate}", "transfer.layer_decay=1.0"])

    out: dict[str, dict] = {}
    for labels in args.labels:
        tuned = {rate: [scratch(rate).accuracy(None, labels, s) for s in range(args.tuning)] for rate in args.rates}
        print(f"{labels} per class, from scratch by rate: {tuned}", flush=True)
        best = max(tuned, key=lambda rate: np.mean(tuned[rate]))
        alone = tuned[best] + [scratch(best).accuracy(None, labels, s) for s in range(args.tuning, args.seeds)]
        found = [trainer.accuracy(weights[s % len(weights)], labels, s) for s in range(args.seeds)]
        gain = [f - a for f, a in zip(found, alone, strict=True)]
        row = {"fine-tuned": found, "scratch": alone, "difference": gain}
        out[str(labels)] = {"rate from scratch": best, **row}
        print(f"{labels} per class  " + "  ".join("{} {:.1f} +- {:.1f}".format(k, *interval(v)) for k, v in row.items())
              + f"  (rate from scratch {best:g})", flush=True)  # fmt: skip
        if args.json:
            args.json.write_text(json.dumps({"runs": [str(w) for w in args.workdirs], "top1": out}, indent=2) + "\n")


if __name__ == "__main__":
    main()
