"""Weak scaling of the train step: N devices with the same batch each, for N = 1, 2, 4, 8.

    python benchmarks/scaling.py --config configs/mae/tiny_digits.py --config.train.batch=64 --json scaling.json
    python benchmarks/scaling.py --config configs/mae/vit_b16_imagenet.py --config.train.batch=128 --real

train.batch is the batch of ONE device. What is measured depends on the devices.

Simulated (the default: N devices that XLA makes of one CPU): they share its cores, so N devices take N times as long as
one even if nothing is lost. Each count therefore takes turns with ONE device that does the same total work (batch N x
train.batch), and the difference is what the division costs: launching N programs, collectives through memory, smaller
matrix products. It says how the compiled program behaves when it is divided; nothing about a network, about the overlap
of collectives with compute, or about how fast N real devices are. That needs --real.

Real: the same step on the first 1, 2, 4, ... devices in turn; efficiency is the time of one device over that of N.
"""

import argparse
import dataclasses
import os
import statistics
import sys
from pathlib import Path
from typing import Any

from train_step import QUIET, SWITCHES, Ours, add_turns, answer, hardware, measure, synthetic, turns, versions

from mae_jax.commands.options import OVERRIDES_HELP
from mae_jax.core.errors import UserError
from mae_jax.schema import Config


def runner(config: Config, count: int, batch: int, devices: list, fsdp: bool) -> Ours:
    """The step of so many devices with a global batch of `batch`."""
    from mae_jax.train.build import build

    mesh = dataclasses.replace(config.mesh, data=1 if fsdp else count, fsdp=count if fsdp else 1)
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, batch=batch), mesh=mesh)
    run = build(config, devices[:count])
    ours = Ours(run, synthetic(run.method, batch))
    ours.name = f"{count} x {batch // count}"
    return ours


def benchmark(config: Config, args: argparse.Namespace) -> dict[str, Any]:
    """The whole JSON but for the command line."""
    counts = sorted(set(args.devices))
    if not args.real:
        os.environ["JAX_PLATFORMS"] = "cpu"
        flag = f"--xla_force_host_platform_device_count={counts[-1]}"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
    import jax

    devices = jax.devices()
    if args.real and devices[0].platform == "cpu":
        raise UserError("--real needs GPUs or TPUs, and jax sees a CPU only; leave it out for simulated devices.")
    if len(devices) < counts[-1]:
        raise UserError(f"--devices goes up to {counts[-1]}, and there are {len(devices)}.")
    batch = config.train.batch
    rows = real(config, counts, batch, devices, args) if args.real else simulated(config, counts, batch, devices, args)
    return {
        "kind": "real devices" if args.real else "simulated devices of one CPU",
        "batch_per_device": batch, "split": "fsdp" if args.fsdp else "data", "rows": rows,
        "settings": turns(args),
        "hardware": hardware(devices[: counts[-1]]), "versions": versions(),
        "environment": {k: v for k, v in sorted(os.environ.items()) if k.startswith(SWITCHES)},
        "config": config.to_dict(),
    }  # fmt: skip


def simulated(config: Config, counts: list[int], batch: int, devices: list, args: argparse.Namespace) -> list[dict]:
    """For each count: N devices and one device with the same total work, in turn."""
    rows = []
    for count in counts:
        divided = runner(config, count, count * batch, devices, args.fsdp)
        whole = runner(config, 1, count * batch, devices, False)
        if count == 1:
            whole.name += " again"  # the noise of this measurement
        results = measure([divided, whole], **turns(args))
        ours, one = results[divided.name], results[whole.name]
        rows.append(row(count, batch, ours, args.steps) | overhead(ours["rounds_s"], one["rounds_s"], args.steps))
        rows[-1]["one_device_ms"] = statistics.median(one["rounds_s"]) / args.steps * 1e3
        rows[-1]["others"] = statistics.mean(ours["others"] + one["others"])
    return rows


def overhead(divided: list[float], whole: list[float], steps: int) -> dict[str, Any]:
    """What division costs, from the seconds of rounds that took turns: medians over the rounds' pairs.

    Returns: {"overhead_ms": of a step, "overhead": share of the undivided step, "overhead_rounds": of each round}.
    """
    pairs = list(zip(divided, whole, strict=True))
    shares = [d / w - 1 for d, w in pairs]
    return {
        "overhead_ms": statistics.median(d - w for d, w in pairs) / steps * 1e3,
        "overhead": statistics.median(shares), "overhead_rounds": shares,
    }  # fmt: skip


def real(config: Config, counts: list[int], batch: int, devices: list, args: argparse.Namespace) -> list[dict]:
    """All counts in turn; the efficiency of N is the time of the fewest over that of N, by rounds."""
    runners = [runner(config, count, count * batch, devices, args.fsdp) for count in counts]
    results = measure(runners, **turns(args))
    base, rows = results[runners[0].name]["rounds_s"], []
    for count, each in zip(counts, runners, strict=True):
        took = results[each.name]
        ratios = [b / t for b, t in zip(base, took["rounds_s"], strict=True)]
        found = {"efficiency": statistics.median(ratios), "efficiency_rounds": ratios}
        rows.append(row(count, batch, took, args.steps) | found | {"others": statistics.mean(took["others"])})
    return rows


def row(count: int, batch: int, result: dict[str, Any], steps: int) -> dict[str, Any]:
    seconds = statistics.median(result["rounds_s"])
    return {
        "devices": count, "batch": count * batch, "ms_per_step": seconds / steps * 1e3,
        "images_per_s": steps * count * batch / seconds, "rounds_s": result["rounds_s"], "loss": result["loss"],
    }  # fmt: skip


def table(report: dict[str, Any]) -> str:
    lines = [f"{report['kind']}, {report['batch_per_device']} images each, split over {report['split']}"]
    if "overhead" in report["rows"][0]:
        lines.append(
            f"{'devices':>8} {'ms/step':>9} {'1 device, same work':>20} {'overhead':>12} {'(low .. high)':>20}"
        )
        for r in report["rows"]:
            low, high = min(r["overhead_rounds"]), max(r["overhead_rounds"])
            over = f"{r['overhead_ms']:.1f} ms {r['overhead']:+.1%}"
            lines.append(f"{r['devices']:>8} {r['ms_per_step']:>9.1f} {r['one_device_ms']:>20.1f} {over:>12} "
                         f"{f'({low:+.1%} .. {high:+.1%})':>20}")  # fmt: skip
        lines.append("Devices of one CPU share its cores: this is what dividing the program costs, and no speed-up.")
    else:
        lines.append(f"{'devices':>8} {'ms/step':>9} {'images/s':>10} {'efficiency':>11}")
        for r in report["rows"]:
            lines.append(
                f"{r['devices']:>8} {r['ms_per_step']:>9.1f} {r['images_per_s']:>10.1f} {r['efficiency']:>11.1%}"
            )
    if (others := statistics.mean(r["others"] for r in report["rows"])) > QUIET:
        lines.append(f"Do not quote these figures: other processes took {others:.0%} of the machine's cores meanwhile.")
    return "\n".join(lines)


def counts(text: str) -> list[int]:
    found = [int(part) for part in text.split(",")]
    if min(found) < 1:
        raise ValueError
    return found


def main(argv: list[str] | None = None) -> int:
    argv, raw = sys.argv[1:] if argv is None else argv, argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, epilog=OVERRIDES_HELP, formatter_class=raw)
    parser.add_argument("--config", required=True, metavar="FILE[:ARG]", help="a config file of mae_jax train")
    parser.add_argument("--devices", type=counts, default=[1, 2, 4, 8], metavar="N,...", help="default 1,2,4,8")
    parser.add_argument("--fsdp", action="store_true", help="split parameters as well (mesh.fsdp=N, not mesh.data=N)")
    parser.add_argument("--real", action="store_true", help="GPUs or TPUs, and not devices simulated on the CPU")
    add_turns(parser, rounds=5, steps=10)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything here, with versions")
    return answer("scaling.py", parser, argv, benchmark, table)


if __name__ == "__main__":
    sys.exit(main())
