"""Our GPU kernels by themselves against what they replace: layer norm against XLA's, attention against cuDNN's.

    python benchmarks/gpu_kernels.py --json kernels.json

Microseconds of one call (forward, and forward with backward), bfloat16, in the shapes of MAE's ViT-B and ViT-L at
batch 512: the median of rounds taken in alternation. What a step gains by them: train_step.py --variant mesh.norm=xla.
"""

import argparse
import functools
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from train_step import add_turns, check_turns, hardware, versions, write_record

from mae_jax.core.errors import UserError
from mae_jax.core.exits import BAD_INPUT, DONE

NORMS = ((512, 50, 768), (512, 50, 1024), (512, 197, 512))
ATTENTION = ((512, 50, 12, 64), (512, 50, 16, 64), (512, 197, 16, 32))  # samples, tokens, heads, numbers of a head


def both(f: Callable[..., Any], *args: Any) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """(forward, forward and backward) of `f`, compiled, on these arguments."""
    import jax

    outs = jax.eval_shape(f, *args)
    grads = jax.tree.map(lambda out: jax.numpy.full(out.shape, 0.5, out.dtype), outs)
    forward, backward = jax.jit(f), jax.jit(lambda *a: jax.vjp(f, *a)[1](grads))
    return functools.partial(forward, *args), functools.partial(backward, *args)


def contestants() -> dict[str, dict[str, tuple[Callable[[], Any], Callable[[], Any]]]]:
    """{what: {who: (forward, forward and backward)}}."""
    import jax.numpy as jnp
    import numpy as np

    from mae_jax.nets.attention_kinds import FUNCTIONS
    from mae_jax.nets.attention_triton import triton
    from mae_jax.nets.layer_norm import layer_norm
    from mae_jax.nets.norm_kernel import norm_fork

    rng, found = np.random.default_rng(0), {}
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.bfloat16)
    for b, n, d in NORMS:
        plain = lambda x, s: (x, layer_norm(x, s[None, None], s[None, None], 1e-6).astype(x.dtype))
        kernel = lambda x, s: norm_fork(x, s, s, 1e-6, x.dtype)
        x, scale = draw(b, n, d), jnp.ones(d)
        found[f"layer norm, {b} x {n} x {d}"] = {"xla": both(plain, x, scale), "triton": both(kernel, x, scale)}
    for b, n, h, c in ATTENTION:

        def cudnn(qkv: Any, bias: Any, h: int = h, c: int = c) -> Any:
            q, k, v = (
                (qkv + bias[None, None].astype(qkv.dtype)).reshape(*qkv.shape[:2], 3, h, c).transpose(2, 0, 3, 1, 4)
            )
            return FUNCTIONS["cudnn"](q, k, v, c**-0.5).swapaxes(1, 2).reshape(*qkv.shape[:2], h * c)

        kernel = lambda qkv, bias, h=h, c=c: triton(qkv, bias, h, c**-0.5)
        args = draw(b, n, 3 * h * c), jnp.zeros(3 * h * c)
        found[f"attention, {b} x {n}, {h} heads of {c}"] = {"cudnn": both(cudnn, *args), "triton": both(kernel, *args)}
    return found


def microseconds(f: Callable[[], Any], steps: int) -> float:
    import jax

    begin, out = time.perf_counter(), None
    for _ in range(steps):
        out = f()
    jax.block_until_ready(out)
    return (time.perf_counter() - begin) / max(1, steps) * 1e6


def main(argv: list[str] | None = None) -> int:
    argv, raw = sys.argv[1:] if argv is None else argv, argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    add_turns(parser, rounds=5, steps=20)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything here, with versions")
    args = parser.parse_args(argv)
    import jax

    from mae_jax.core.chips import family_of

    try:
        check_turns(args)
        if family_of(jax.devices()[0]) != "gpu":
            raise UserError(f"these kernels are a GPU's, and jax is on {jax.devices()[0].device_kind}.")
    except UserError as error:
        print(f"gpu_kernels.py: {error}", file=sys.stderr)
        return BAD_INPUT
    rows: dict[str, dict[str, dict[str, float]]] = {}
    for what, who in contestants().items():
        times: dict[tuple[str, str], list[float]] = {}
        for f in (f for pair in who.values() for f in pair):
            microseconds(f, 1 + args.warmup)  # the first compiles
        for _ in range(args.rounds):
            for name, pair in who.items():
                for direction, f in zip(("forward", "both"), pair):
                    microseconds(f, args.settle)
                    times.setdefault((name, direction), []).append(microseconds(f, args.steps))
        rows[what] = {name: {d: statistics.median(times[name, d]) for d in ("forward", "both")} for name in who}
        for name, row in rows[what].items():
            print(
                f"{what:34} {name:8} forward {row['forward']:7.0f} us, with backward {row['both']:7.0f} us", flush=True
            )
    if args.json:
        report = {"results": rows, "hardware": hardware(jax.devices()[:1]), "versions": versions()}
        write_record(args.json, ["benchmarks/gpu_kernels.py", *argv], report)
    return DONE


if __name__ == "__main__":
    sys.exit(main())
