"""How much of the whole image a quarter of its patches tells: runs of configs/lut/tiny_digits.py compared.

    python benchmarks/lut_context.py WORKDIR...

For each run, on its test split: the cosine between the pooled feature of a random quarter of the patches (as the run
masks) and that of all, as it is and with the mean feature subtracted; the spread of the pooled features (1 over the
whole sphere, 0 collapsed); the probes of the student's and of the teacher's pooled features. Features are the mean of
the patch tokens after the last norm.
"""

import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mae_jax.commands import options
from mae_jax.eval.features import extract
from mae_jax.eval.health import spread
from mae_jax.eval.knn import unit
from mae_jax.eval.probes import probe
from mae_jax.masking.select import keep_count, select
from mae_jax.nets.layers import apply
from mae_jax.train.build import build
from mae_jax.train.feed import eval_batches
from mae_jax.train.warm_start import load_weights


def measure(workdir: Path) -> dict[str, float]:
    """{what: number} of one run."""
    run = build(options.from_workdir(workdir, []))
    method: Any = run.method
    state = load_weights(run, workdir)
    n = int(np.prod(method.grid))

    def encoder(params, masked):
        @jax.jit
        def encode(batch):
            image = run.augment(batch)["image"]
            scores = jax.random.uniform(jax.random.key(0), (image.shape[0], n))
            mask = select(scores, keep_count(n, method.mask_ratio)) if masked else None
            return apply(method.encoder, params["encoder"], image, mask).normed.mean(axis=1)

        return encode

    student, teacher = state["params"], state["ema"]["teacher"]["params"]
    encoders = {"part": encoder(student, True), "student": encoder(student, False), "teacher": encoder(teacher, False)}
    train, test = (extract(encoders, eval_batches(run, run.open(split))) for split in ("train", "test"))
    part, whole = test["part"].features, test["student"].features
    cosine = lambda a, b: float((unit(a) * unit(b)).sum(axis=1).mean())
    found = {
        "cosine": cosine(part, whole),
        "centred cosine": cosine(part - whole.mean(axis=0), whole - whole.mean(axis=0)),
        "spread": spread(whole),
    }
    for name in ("student", "teacher"):
        results = probe(train[name], test[name])
        found |= {f"{name} {protocol}": result.accuracy for protocol, result in results.items()}
    return found


def main() -> None:
    """Print a line per run."""
    for workdir in map(Path, sys.argv[1:]):
        found = measure(workdir)
        print(
            workdir.name, ", ".join(f"{k} {v:.3f}" if v <= 1 else f"{k} {v:.1f}" for k, v in found.items()), flush=True
        )


if __name__ == "__main__":
    main()
