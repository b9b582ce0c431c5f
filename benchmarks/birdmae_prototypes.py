"""Prototypes against a linear probe where every clip holds two chirps: runs of configs/birdmae/tiny_chirps.py.

    python benchmarks/birdmae_prototypes.py WORKDIR... [--out FILE.json]

For each run, on clips with a second chirp of another kind (data.distractor=1, data.multilabel=True; both kinds count),
frozen encoder, mean average precision in percent on the test split: the prototypical probe with 3 prototypes per class
(protocol `prototypes`), and a logistic regression for each class on the mean of the patch tokens after the last norm,
standardised, its strength the best of five on the test split itself, which favours it. Both see the same clips.
"""

import argparse
import json
import warnings
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression

from mae_jax.eval.average_precision import mean_average_precision
from mae_jax.eval.features import pool
from mae_jax.transfer.head import FrozenEncoder
from mae_jax.transfer.prototypes import prototypical
from mae_jax.weights.opened import opened

DATA = ("data.distractor=1.0", "data.multilabel=True", "data.length=2048", "eval.limit=None")
# The last layer learns faster than published: its few steps would leave it at its start (70 instead of 79 by hand).
PROBE = (
    "transfer.probe_augment=False", "transfer.probe_prototypes=3", "transfer.probe_prototype_epochs=40",
    "transfer.probe_prototype_last_rate=0.03",
)  # fmt: skip


def measure(workdir: Path) -> dict[str, float]:
    """{what: number} of one run."""
    weights = opened(workdir, [*DATA, *PROBE])
    train, test = weights.run.open("train"), weights.run.open("test")
    found = prototypical(weights, train, test)
    encoder = FrozenEncoder(weights, lambda features: pool(features, "mean"))
    linear = _linear(*encoder.all(train), *encoder.all(test))
    out = {"prototypes": found.accuracy, "linear": linear, "gain": found.accuracy - linear}
    return {name: round(float(x), 2) for name, x in out.items()}


def _linear(x: np.ndarray, y: np.ndarray, x_test: np.ndarray, y_test: np.ndarray) -> float:
    """Mean average precision of a logistic regression for each class, percent."""
    mean, std = x.mean(0), x.std(0) + 1e-6
    x, x_test = (x - mean) / std, (x_test - mean) / std
    best = 0.0
    for strength in (0.01, 0.1, 1.0, 10.0, 100.0):
        scores = []
        for labels in y.T:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                scores.append(LogisticRegression(C=strength, max_iter=500).fit(x, labels).decision_function(x_test))
        best = max(best, mean_average_precision(np.stack(scores, axis=1), y_test)[0])
    return 100 * best


def main() -> None:
    """Print a line for each run; write them all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workdirs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows = {}
    for workdir in args.workdirs:
        rows[str(workdir)] = measure(workdir)
        print(workdir, rows[str(workdir)], flush=True)
    if args.out:
        args.out.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
