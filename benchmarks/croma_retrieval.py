"""How often a sensor finds its partner: runs of configs/croma/tiny_sensors.py compared.

    python benchmarks/croma_retrieval.py WORKDIR...

For each run, on its test split in batches of 64 scenes: top-1 retrieval from
radar to optical and back by the vectors that the contrastive loss compares, nothing hidden, of the trained and of a
random network; and the linear probe of the pooled features of each sensor and of both (`Features.parts`).
"""

import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mae_jax.commands import options
from mae_jax.eval import linear
from mae_jax.eval.features import Labelled, extract
from mae_jax.nets.layers import apply
from mae_jax.train.build import Run, build
from mae_jax.train.feed import eval_batches
from mae_jax.train.warm_start import load_weights

BATCH = 64  # of scenes among which the partner is looked for; chance is 1 / 64
POOLED = ("radar_gap", "optical_gap", "joint_gap")


def features(run: Run, params: Any, split: str) -> dict[str, Labelled]:
    """Pooled features of a split, and both sensors' vectors on the sphere."""
    method: Any = run.method
    rest: dict[str, Any] = {"stats": {}, "ema": {}, "frozen": {}}

    @jax.jit
    def encode(batch):
        parts = method.encode(params, rest, run.augment(batch)).parts
        radar, optical, _ = apply(method.contrast, params["contrast"], parts["radar_gap"], parts["optical_gap"])
        return {name: parts[name] for name in POOLED} | {"radar": radar, "optical": optical}

    encoders = {name: (lambda batch, name=name: encode(batch)[name]) for name in (*POOLED, "radar", "optical")}
    return extract(encoders, eval_batches(run, run.open(split)))


def retrieval(test: dict[str, Labelled]) -> float:
    """Percent, both directions together."""
    radar, optical = (test[s].features for s in ("radar", "optical"))
    found = []
    for start in range(0, len(radar) - BATCH + 1, BATCH):
        logits = radar[start : start + BATCH] @ optical[start : start + BATCH].T
        found += [(logits.argmax(axis) == np.arange(BATCH)).mean() for axis in (0, 1)]
    return 100 * float(np.mean(found))


def main() -> None:
    """A line per set of weights."""
    print(f"{'run':<24} {'retrieval':>9} " + " ".join(f"{name:>11}" for name in POOLED))
    for workdir in map(Path, sys.argv[1:]):
        run = build(options.from_workdir(workdir, []))
        weights = {"trained": load_weights(run, workdir)["params"], "random": run.init(("params",))["params"]}
        for name, params in weights.items():
            train, test = (features(run, params, split) for split in ("train", "test"))
            probes = [linear.accuracy(train[pooled], test[pooled]).accuracy for pooled in POOLED]
            label = f"{workdir.name} {name}"
            print(f"{label:<24} {retrieval(test):>9.1f} " + " ".join(f"{accuracy:>11.1f}" for accuracy in probes))


if __name__ == "__main__":
    main()
