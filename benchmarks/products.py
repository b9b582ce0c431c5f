"""How fast the matrix products of a ViT step run by themselves: XLA's against PyTorch's, in turn, float32, on a CPU.

    python benchmarks/products.py --config configs/mae/vit_b16_imagenet.py --config.train.batch=16

A train step cannot be faster than its products: where XLA's are slower than PyTorch's, this ratio bounds what
train_step.py can reach on that machine. Taken are the linear layers of the blocks, forward (x w), and the gradients
of their input (g w^T) and of their weights (x^T g), as often as a step needs them; attention's own are left out. Each
is the shortest of --rounds runs, in which the two take turns.
"""

import argparse
import importlib.util
import math
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from train_step import answer, hardware, versions

from mae_jax.commands.options import OVERRIDES_HELP
from mae_jax.config import make_method
from mae_jax.core.errors import UserError
from mae_jax.masking.select import keep_count
from mae_jax.methods.mae import MAE

PASSES: dict[str, Callable[[Any, Any, Any], Any]] = {
    "x w": lambda x, w, g: x @ w, "g w^T": lambda x, w, g: g @ w.T, "x^T g": lambda x, w, g: x.T @ g,
}  # fmt: skip


def layers(method: MAE, batch: int) -> Iterator[tuple[str, int, int, int, int]]:
    """(name, rows, inputs, outputs, how many there are) of the linear layers of encoder and decoder."""
    patches = math.prod(method.grid)
    for part, tokens, dim, depth in (
        ("encoder", keep_count(patches, method.mask_ratio), method.dim, method.depth),
        ("decoder", patches, method.decoder_dim, method.decoder_depth),
    ):
        rows, hidden = batch * (tokens + method.class_token), int(dim * method.mlp_ratio)
        for name, k, n in (("qkv", dim, 3 * dim), ("proj", dim, dim), ("fc1", dim, hidden), ("fc2", hidden, dim)):
            yield f"{part} {name}", rows, k, n, depth


def shortest(rounds: int, *runs: Callable[[], Any]) -> list[float]:
    """The shortest seconds of each, taking turns."""
    best = [float("inf")] * len(runs)
    for run in runs:
        run()
    for _ in range(rounds):
        for i, run in enumerate(runs):
            begin = time.perf_counter()
            run()
            best[i] = min(best[i], time.perf_counter() - begin)
    return best


def benchmark(config: Any, args: argparse.Namespace) -> dict[str, Any]:
    """Rows of {"layer", "pass", "shape", "count", "xla_s", "torch_s"}, and the sums over a step."""
    method = make_method(config)
    if not isinstance(method, MAE):
        raise UserError(f"the products are those of method 'mae', and this config's is '{method.name}'.")
    if importlib.util.find_spec("torch") is None:
        raise UserError("there is no torch to compare with: pip install 'mae_jax[compare]'.")
    import jax
    import torch

    rng, rows = np.random.default_rng(0), []
    for name, m, k, n, count in layers(method, config.train.batch):
        host = [rng.standard_normal(shape, np.float32) for shape in ((m, k), (k, n), (m, n))]
        ours, theirs = [jax.device_put(x) for x in host], [torch.from_numpy(x) for x in host]
        for what, f in PASSES.items():
            ready = lambda f, x: f(*x).block_until_ready()
            a, b = shortest(args.rounds, partial(ready, jax.jit(f), ours), partial(f, *theirs))
            rows.append({"layer": name, "pass": what, "shape": (m, k, n), "count": count, "xla_s": a, "torch_s": b})
    sums = {key: sum(row["count"] * row[key] for row in rows) for key in ("xla_s", "torch_s")}
    return {"rows": rows, "step": sums | {"ratio": sums["torch_s"] / sums["xla_s"]},
            "hardware": hardware(jax.devices()), "versions": versions(), "config": config.to_dict()}  # fmt: skip


def table(found: dict[str, Any]) -> str:
    lines = [f"{'':14} {'':6} {'rows x in x out':>18} {'XLA':>6} {'torch':>6} GFLOP/s   ratio"]
    for row in found["rows"]:
        m, k, n = row["shape"]
        flop = 2e-9 * m * k * n
        lines.append(
            f"{row['layer']:14} {row['pass']:6} {f'{m} x {k} x {n}':>18} {flop / row['xla_s']:6.0f} "
            f"{flop / row['torch_s']:6.0f}           {row['torch_s'] / row['xla_s']:.2f}"
        )
    step = found["step"]
    lines.append(
        f"all of a step: XLA {step['xla_s']:.2f} s, torch {step['torch_s']:.2f} s, ratio {step['ratio']:.2f} "
        f"(above 1: XLA is faster)"
    )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    argv, raw = sys.argv[1:] if argv is None else argv, argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, epilog=OVERRIDES_HELP, formatter_class=raw)
    parser.add_argument("--config", required=True, metavar="FILE[:ARG]", help="a config of method 'mae'")
    parser.add_argument("--rounds", type=int, default=10, help="runs of each product (default 10)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.set_defaults(steps=1, warmup=1, settle=0)  # `answer` checks them; a round here is one product
    return answer("products.py", parser, argv, benchmark, table)


if __name__ == "__main__":
    sys.exit(main())
