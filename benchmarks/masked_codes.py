"""How well CAE's runs predict the codes of hidden patches of images that training never saw.

    python benchmarks/masked_codes.py RUN...

For each workdir, over eight draws of masks of every test image, in percent: codes right; the commonest code's share
among the same hidden patches; the commonest code's at each position ("by position"), counted on the training split.
Besides them the alignment loss, and the deviation of the latents at one position over images ("latent_std"), which
is 0 where the encoder says the same of everything. Written to RUN/masked_codes.json.
"""

import argparse
import json
import sys
from pathlib import Path

import jax
import numpy as np

from mae_jax.commands import options
from mae_jax.core.keys import Context
from mae_jax.methods.cae import CAE
from mae_jax.nets.layers import apply
from mae_jax.train.build import Run, build
from mae_jax.train.pictures import spread
from mae_jax.train.state import rest_of
from mae_jax.train.warm_start import load_weights

DRAWS = 8
SEEN = ("hidden", "codes", "codes_predict")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    for workdir in parser.parse_args(argv).runs:
        result = measure(build(options.from_workdir(workdir, [])), workdir)
        (workdir / "masked_codes.json").write_text(json.dumps({"test": result}, indent=2) + "\n")
        print(f"{workdir}: " + ", ".join(f"{name} {value:.4g}" for name, value in result.items()))
    return 0


def measure(run: Run, workdir: Path) -> dict[str, float]:
    """The figures of one run."""
    method = run.method
    assert isinstance(method, CAE)
    weights = load_weights(run, workdir)
    params, rest = weights["params"], rest_of(weights, run.frozen)

    @jax.jit
    def look(batch, draw):
        _, aux = method.loss(params, rest, run.augment(batch), Context(jax.random.key(0), draw, train=False))
        return aux.metrics, {name: aux.seen[name] for name in SEEN}

    def whole(split):
        source = run.open(split)
        return spread(run, source, len(source))

    batch = whole("test")
    looks = [look(batch, draw) for draw in range(DRAWS)]
    hidden, codes, predicted = (np.stack([seen[name] for _, seen in looks]) for name in SEEN)
    train = np.asarray(jax.jit(lambda b: codes_of(run, b))(whole("train")))
    common = np.array([np.bincount(column).argmax() for column in train.T])
    features = method.encode(params, rest, run.augment(batch)).normed
    return {
        "accuracy": 100 * float((codes == predicted)[hidden].mean()),
        "majority": 100 * float(np.bincount(codes[hidden]).max() / hidden.sum()),
        "majority_by_position": 100 * float((codes == common)[hidden].mean()),
        "align": float(np.mean([metrics["align"] for metrics, _ in looks])),
        "latent_std": float(np.asarray(features).std(axis=0).mean()),
    }


def codes_of(run: Run, batch):
    """The code of every patch."""
    view = run.augment(batch)["image_2"]
    return apply(run.method.codebook, run.frozen["tokenizer"], view).argmax(axis=2)


if __name__ == "__main__":
    sys.exit(main())
