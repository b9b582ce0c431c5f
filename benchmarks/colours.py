"""How hard each colour of noise is to fill in: ColorMAE on digits under five noises, everything else the same.

    python benchmarks/colours.py [--seeds 0,1,2] [--steps N] [--colours red,green,white,blue]

The model and the recipe are those of configs/colormae/tiny_digits.py, in a loop of its own: the bank of patterns is an
argument of one compiled step, so that all colours and seeds share it. White is a bank of white noise. Prints, for each
seed and colour, the loss over the last quarter of training, the loss on the test split under the same noise (mean
of ten masks of each image), and the distance from a hidden patch to the nearest visible one, in patches.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mae_jax.config import load, make_method, resolve
from mae_jax.core.keys import Context
from mae_jax.data.sources import make_source
from mae_jax.masking.colour import FILTERS, Bank
from mae_jax.train.schedules import warmup_cosine

CONFIG = Path(__file__).parents[1] / "configs" / "colormae" / "tiny_digits.py"


def pixels(split: str, mean: float, std: float) -> jax.Array:
    source = make_source("digits", split, {})
    images = np.stack([np.asarray(source[i]["image"]) for i in range(len(source))]).astype(np.float32)
    return jnp.asarray((images / 255 - mean) / std)


def main(argv: list[str] | None = None) -> list[dict[str, Any]]:
    """Print a line of JSON per run, and return them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--colours", default=",".join(FILTERS))
    args = parser.parse_args(argv)
    config = resolve(load(str(CONFIG))[0])
    method: Any = make_method(config)
    steps, b = args.steps or config.train.steps, config.train.batch
    train, test = (pixels(split, config.augment.mean[0], config.augment.std[0]) for split in ("train", "test"))
    rate = warmup_cosine(config.optim.learning_rate * b / 256, config.optim.warmup, steps)
    optimizer = optax.adamw(1.0, config.optim.b1, config.optim.b2, weight_decay=config.optim.weight_decay)

    def loss(params, patterns, image, key, step):
        rest = {"stats": {}, "ema": {}, "frozen": {method.colour: {"patterns": patterns}}}
        value, aux = method.loss(params, rest, {"image": image}, Context(key, step))
        return value, aux.seen["hidden"]

    @jax.jit
    def fit(params, patterns, key):
        """(the trained parameters, the loss of every step)"""

        def update(state, now):
            params, opt = state
            step, lr = now
            rows = jax.random.randint(jax.random.fold_in(key, step), (b,), 0, len(train))
            (value, _), grads = jax.value_and_grad(loss, has_aux=True)(params, patterns, train[rows], key, step)
            moved, opt = optimizer.update(grads, opt, params)
            return (jax.tree.map(lambda p, m: p + lr * m, params, moved), opt), value

        rates = jnp.asarray([rate(step) for step in range(steps)])
        (params, _), values = jax.lax.scan(update, (params, optimizer.init(params)), (jnp.arange(steps), rates))
        return params, values

    held_out = jax.jit(lambda params, patterns, key, step: loss(params, patterns, test, key, step))
    runs = []
    for seed in map(int, args.seeds.split(",")):
        for colour in args.colours.split(","):
            bank = Bank(colour, method.patterns, (method.pattern_size,) * 2, method.blur, method.bank_seed)
            patterns, key = jnp.asarray(bank.generate()), jax.random.key(seed)
            params, _ = jax.jit(method.init)(key, {"image": train[:1]})
            params, values = fit(params, patterns, key)
            draws = [held_out(params, patterns, jax.random.key(seed + 1000), draw) for draw in range(10)]
            found, hidden = np.mean([float(value) for value, _ in draws]), draws[0][1]
            last = float(values[-steps // 4 :].mean())
            run = {"seed": seed, "colour": colour, "train_loss": round(last, 4), "test_loss": round(float(found), 4),
                   "distance": round(distance(np.asarray(hidden), method.grid), 3)}  # fmt: skip
            runs.append(run)
            print(json.dumps(run), flush=True)
    return runs


def distance(hidden: np.ndarray, grid: tuple[int, ...]) -> float:
    """Mean over hidden patches of the distance to the nearest visible one."""
    at = np.stack(np.unravel_index(np.arange(hidden.shape[1]), grid), axis=1)
    apart = np.linalg.norm(at[:, None] - at[None], axis=2)
    return float(np.mean([apart[h][:, ~h].min(axis=1).mean() for h in hidden]))


if __name__ == "__main__":
    main()
