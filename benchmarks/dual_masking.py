"""What masking the decoder saves (VideoMAE V2): by closed formula for the published models, measured for a small one.

    python benchmarks/dual_masking.py                  # the formula alone
    python benchmarks/dual_masking.py --measure        # and the train step of a small model, ratios 0 and 0.5 in turn

GFLOP are of a training step per view (three forward passes; a multiply-add counts 2), at 16 frames of 224 px and tubes
of 90 %. Only ratios of rounds that ran in turn mean something: machines and their load differ.
"""

import argparse
import dataclasses
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

MODELS: dict[str, dict[str, Any]] = {
    "ViT-S/16": dict(dim=384, heads=6, decoder_dim=192, decoder_heads=3),
    "ViT-B/16": dict(),
    "ViT-L/16": dict(dim=1024, depth=24, heads=16, decoder_dim=512, decoder_heads=8),
    "ViT-H/16": dict(dim=1280, depth=32, heads=16, decoder_dim=512, decoder_heads=8),
    "ViT-g/14": dict(
        patch=14, dim=1408, depth=40, heads=16, mlp_ratio=48 / 11, decoder_dim=512, decoder_heads=8
    ),
}  # fmt: skip
SMALL: dict[str, Any] = dict(
    frames=16, image_size=64, patch=8, dim=96, depth=4, heads=4, decoder_dim=48, decoder_depth=4, decoder_heads=4
)  # 512 tokens, and a decoder half as wide as its encoder, as ViT-B has


def formula(fields: dict[str, Any]) -> dict[str, float]:
    """GFLOP of encoder and decoder with and without decoder masking, and how many times as many the latter has."""
    from mae_jax.methods.videomaev2 import VideoMAEv2

    half = VideoMAEv2(**fields)
    full = dataclasses.replace(half, decoder_ratio=0.0)
    k = half.counts[1]
    decoder = {name: 3e-9 * m.decoder.flops(m.dim, k, m.asked) for name, m in (("half", half), ("full", full))}
    return {
        "encoder": half.cost().step / 1e9 - decoder["half"], "decoder_masked": decoder["half"],
        "decoder_full": decoder["full"], "decoder_ratio": decoder["full"] / decoder["half"],
        "step_ratio": full.cost().step / half.cost().step,
    }  # fmt: skip


def measure(batch: int, rounds: int) -> dict[str, Any]:
    """Seconds of a train step of the small model with decoder ratios 0 and 0.5, one after the other in each round."""
    import jax
    import numpy as np

    from mae_jax.config import resolve
    from mae_jax.train.build import build

    runs: dict[str, Any] = {}
    for name, ratio in (("full", 0.0), ("half", 0.5)):
        config = resolve({
            "method": {"name": "videomaev2", "decoder_ratio": ratio} | SMALL, "data": {"source": "moving_digits"},
            "train": {"batch": batch, "steps": 10},
        })  # fmt: skip
        run = build(config)
        clips = np.random.default_rng(0).integers(0, 256, (batch, 16, 64, 64, 3), np.uint8)
        placed, state, plan = run.put({"video": clips}), run.init(), run.method.plan(0)
        compiled = run.step.lower(state, {}, placed, plan).compile()
        state, metrics = compiled(state, {}, placed, None)
        jax.block_until_ready(metrics)
        runs[name] = [compiled, state, placed, compiled.memory_analysis().temp_size_in_bytes]
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, (compiled, state, placed, _) in runs.items():
            start = time.perf_counter()
            state, metrics = compiled(state, {}, placed, None)
            jax.block_until_ready(metrics)
            seconds[name].append(time.perf_counter() - start)
            runs[name][1] = state
    ratios = [a / b for a, b in zip(seconds["full"], seconds["half"])]
    return {
        "batch": batch, "seconds": {name: statistics.median(s) for name, s in seconds.items()},
        "step_ratio": statistics.median(ratios), "step_ratio_range": [min(ratios), max(ratios)],
        "temporary_memory_ratio": runs["full"][3] / runs["half"][3], "formula": formula(SMALL),
        "device": str(jax.devices()[0]), "jax": jax.__version__,
    }  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Print the tables; with --json write them too."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="time the train step of a small model too")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    found: dict[str, Any] = {"formula": {name: formula(fields) for name, fields in MODELS.items()}}
    print(f"{'':10}{'encoder':>10}{'decoder':>10}{'unmasked':>10}{'ratio':>8}{'whole step':>12}")
    for name, f in found["formula"].items():
        print(
            f"{name:10}{f['encoder']:>10.1f}{f['decoder_masked']:>10.1f}{f['decoder_full']:>10.1f}"
            f"{f['decoder_ratio']:>8.2f}{f['step_ratio']:>12.2f}"
        )
    if args.measure:
        found["measured"] = m = measure(args.batch, args.rounds)
        low, high = m["step_ratio_range"]
        print(
            f"measured on {m['device']}, batch {m['batch']}: unmasked a step takes {m['step_ratio']:.2f} "
            f"times as long ({low:.2f} to {high:.2f} over {args.rounds} rounds; formula "
            f"{m['formula']['step_ratio']:.2f}), and {m['temporary_memory_ratio']:.2f} times the temporary memory"
        )
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
