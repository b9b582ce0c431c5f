"""Linear probes of finished runs on a few labels: where all labels leave no room above a random encoder.

    python benchmarks/few_labels.py --labels 200 --draws 10 WORKDIR ...

Prints, per workdir, percent correct on the whole test split: mean over `draws` class-balanced draws of the labels, of
the pretrained encoder, the same encoder at random initialisation, and raw pixels.
"""

import argparse
from pathlib import Path

import numpy as np

from mae_jax.commands.options import from_workdir
from mae_jax.core.mesh import use_mesh
from mae_jax.eval import linear
from mae_jax.eval.features import Labelled
from mae_jax.eval.run import Evaluator
from mae_jax.train.build import build
from mae_jax.train.feed import eval_batches
from mae_jax.train.state import rest_of
from mae_jax.train.warm_start import load_weights


def draw(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """`count` of the samples, as many of each class."""
    rng = np.random.default_rng(seed)
    classes = np.unique(labels)
    return np.concatenate([rng.permutation(np.flatnonzero(labels == c))[: count // len(classes)] for c in classes])


def features(workdir: Path) -> tuple[dict[str, Labelled], dict[str, Labelled]]:
    """({set of features: training split}, {...: test split})."""
    run = build(from_workdir(workdir, []))
    evaluator = Evaluator(run.method, run.augment, how=run.config.eval.pool, protocols=("linear",), place=run.place)
    states = {"pretrained": load_weights(run, workdir), "random": run.init(("params", "stats", "ema"))}
    weights = {name: (state["params"], rest_of(state, run.frozen)) for name, state in states.items()}
    with use_mesh(run.mesh):
        train, test = (evaluator.features(weights, eval_batches(run, run.open(split))) for split in ("train", "test"))
    return train, test


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("workdirs", nargs="+", type=Path)
    parser.add_argument("--labels", type=int, default=200)
    parser.add_argument("--draws", type=int, default=10)
    args = parser.parse_args()
    for workdir in args.workdirs:
        train, test = features(workdir)
        for name, (x, y) in train.items():
            found = []
            for seed in range(args.draws):
                ids = draw(y, args.labels, seed)
                found.append(linear.accuracy(Labelled(x[ids], y[ids]), test[name], seed=seed).accuracy)
            print(f"{workdir}  {name:<10}  {np.mean(found):.1f} +- {np.std(found):.1f}", flush=True)


if __name__ == "__main__":
    main()
