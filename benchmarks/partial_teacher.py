"""DMAE's teacher up to the aligned block against all of it, decoder included: FLOPs, time of a step, and the losses.

    python benchmarks/partial_teacher.py [--steps 5] [--batch 4] [KEY=VALUE ...]

FLOPs of a step per image by formula, at the published sizes (ViT-B taught by ViT-L). Then both steps (loss, gradient;
jitted, random weights) are timed alternately in one run, on a smaller model by default; KEY=VALUE sets fields of
that method, as image_size=224. The losses must be the same.
"""

import argparse
import ast
import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from mae_jax.core import tree
from mae_jax.core.keys import Context
from mae_jax.methods.dmae import DMAE

# The published depths and pair at a quarter of the widths, on images of 8 x 8 patches.
SMALL = DMAE(
    image_size=64, patch=8, dim=192, heads=3, decoder_dim=128, decoder_heads=4, teacher_dim=256, teacher_heads=4,
    teacher_decoder_dim=128, teacher_decoder_heads=4,
)  # fmt: skip


def both(method: DMAE) -> dict[str, DMAE]:
    return {"partial": dataclasses.replace(method, full_teacher=False),
            "full": dataclasses.replace(method, full_teacher=True)}  # fmt: skip


def gflop(method: DMAE) -> float:
    """Of a step, per image."""
    cost = method.cost()
    assert cost is not None
    return cost.step / 1e9


def prepare(method: DMAE, params: Any, weights: dict[str, Any], batch: Any) -> Callable[[], dict[str, float]]:
    """A step of a method: call it for its metrics, the gradient having been computed."""
    frozen = tree.unflatten({path: weights[path] for path in tree.flatten(method.teacher.shapes())})

    @jax.jit
    def step(params, frozen):
        def loss(params):
            rest = {"stats": {}, "ema": {}, "frozen": {"teacher": frozen}}
            value, aux = method.loss(params, rest, batch, Context(jax.random.key(1)))
            return value, aux.metrics

        return jax.grad(loss, has_aux=True)(params)

    def run() -> dict[str, float]:
        _, metrics = jax.block_until_ready(step(params, frozen))
        return {name: float(x) for name, x in metrics.items()}

    return run


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Print, and return what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("fields", nargs="*", metavar="KEY=VALUE")
    args = parser.parse_args(argv)
    fields = {key: ast.literal_eval(value) for key, _, value in (text.partition("=") for text in args.fields)}
    method = dataclasses.replace(SMALL, **fields)
    method.check()
    for title, sizes in (("published, ViT-B taught by ViT-L", DMAE()), ("timed here", method)):
        cost = {name: gflop(m) for name, m in both(sizes).items()}
        print(f"{title}: {cost['partial']:.2f} of {cost['full']:.2f} GFLOP per image and step, "
              f"{cost['partial'] / cost['full']:.3f} of all")  # fmt: skip
    pair = both(method)
    batch = {"image": jax.random.normal(jax.random.key(2), (args.batch, *method.batch_spec["image"].shape))}
    params, _ = jax.jit(method.init)(jax.random.key(0), batch)
    weights = tree.flatten(jax.jit(lambda key: pair["full"].teacher.init(key, method.keep))(jax.random.key(3)))
    steps = {name: prepare(m, params, weights, batch) for name, m in pair.items()}
    losses = {name: run() for name, run in steps.items()}  # compiles
    for name in ("loss", "reconstruction", "alignment"):
        np.testing.assert_allclose(losses["partial"][name], losses["full"][name], rtol=1e-5)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(args.steps):
        for name, run in steps.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    best = {name: min(times) for name, times in seconds.items()}
    ratio = best["partial"] / best["full"]
    print(f"loss {losses['partial']['loss']:.6f}, alignment {losses['partial']['alignment']:.6f}: the same with both")
    print(f"step: {1e3 * best['partial']:.0f} ms partial, {1e3 * best['full']:.0f} ms full, ratio {ratio:.3f} "
          f"(fastest of {args.steps}, {args.batch} images, {jax.devices()[0].device_kind})")  # fmt: skip
    return {"losses": losses, "ratio": ratio, "gflop": {name: gflop(m) for name, m in pair.items()}}


if __name__ == "__main__":
    main()
