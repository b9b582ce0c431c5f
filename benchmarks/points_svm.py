"""What an encoder of point clouds has learned: runs of configs/pointmae and configs/pointcmae/tiny_shapes3d.py.

    python benchmarks/points_svm.py WORKDIR...

For each run, on its test split: a linear SVM on max-pooled tokens with 20 labels per class, of the run and of an
encoder at random initialisation; the Chamfer distance of rebuilt groups, and of the training split's mean group
(neighbour by neighbour) in their place; of Point-CMAE the mean cosine between what the two decoders say of a group that
both passes hid, at the end and with the weights of the start.
"""

import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mae_jax.commands import options
from mae_jax.core.keys import Context
from mae_jax.eval import svm
from mae_jax.eval.features import extract, pool
from mae_jax.losses.chamfer import chamfer
from mae_jax.train.build import build
from mae_jax.train.feed import eval_batches
from mae_jax.train.warm_start import load_weights

SHOTS = 20


def measure(workdir: Path) -> dict[str, float]:
    """{what: number} of one run."""
    run = build(options.from_workdir(workdir, []))
    method: Any = run.method
    states = {"trained": load_weights(run, workdir), "random": run.init()}
    rest = {name: {"stats": state["stats"], "ema": {}, "frozen": {}} for name, state in states.items()}

    def encoder(name):
        def encode(batch):
            return pool(method.encode(states[name]["params"], rest[name], run.augment(batch)), "max")

        return jax.jit(encode)

    encoders = {name: encoder(name) for name in states}
    train, test = (extract(encoders, eval_batches(run, run.open(split))) for split in ("train", "test"))
    found = {f"svm {name}": svm.linear(train[name], test[name], shots=SHOTS)[0] for name in states}

    @jax.jit
    def seen(params, stats, batch):
        ctx = Context(jax.random.key(0), train=False)
        rest = {"stats": stats, "ema": {}, "frozen": {}}
        aux = method.loss(params, rest, run.augment(batch), ctx)[1]
        return aux.seen["groups"], aux.metrics

    def over(split, name):
        """(groups of all clouds, mean of every metric)."""
        state, groups, metrics = states[name], [], []
        for batch in eval_batches(run, run.open(split)):
            g, m = seen(state["params"], state["stats"], {"points": batch["points"]})
            groups.append(np.asarray(g))
            metrics.append({k: float(v) for k, v in m.items()})
        return np.concatenate(groups), {k: np.mean([m[k] for m in metrics]) for k in metrics[0]}

    mean = over("train", "random")[0].mean(axis=(0, 1))
    groups, metrics = over("test", "trained")
    found["chamfer"] = metrics["loss"] if "reconstruction" not in metrics else metrics["reconstruction"] / 2
    found["chamfer mean group"] = float(chamfer(jnp.broadcast_to(mean, groups.shape), jnp.asarray(groups)))
    if "agreement" in metrics:
        found |= {"cosine": metrics["agreement"], "cosine at the start": over("test", "random")[1]["agreement"]}
    return found


def main() -> None:
    """Print a line per run."""
    for workdir in map(Path, sys.argv[1:]):
        found = measure(workdir)
        print(
            workdir.name, ", ".join(f"{k} {v:.4f}" if v <= 1 else f"{k} {v:.1f}" for k, v in found.items()), flush=True
        )


if __name__ == "__main__":
    main()
