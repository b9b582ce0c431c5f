"""How fast a train step is: images/s, ms, GFLOP/s and MFU of any config, on synthetic images that lie on the device.

    python benchmarks/train_step.py --config configs/mae/vit_b16_imagenet.py --config.train.batch=256
    python benchmarks/train_step.py --config configs/mae/tiny_photos.py --peer hf --json photos.json
    python benchmarks/train_step.py --config configs/mae/vit_l16_imagenet.py --config.train.batch=256 --peer hf \
        --variant "mesh.attention=cudnn" --variant "mesh.scan=True mesh.remat=dots"

What is timed is the step that `mae_jax train` runs, and nothing else: no input pipeline, no logging. Each round is
--steps steps, blocked at its end; compilation and warm-up come before and are told apart. With --peer hf the rounds
of ours and of Hugging Face's ViTMAE (same size, batch, precision, AdamW) alternate in one process: A B A B. Every
--variant is one more of ours in the same rotation, the config with some keys changed; XLA's flags hold for a whole
process, so a set of them (--xla=--xla_gpu_...) is a run of its own. S, B, L, H: configs/mae/vit_{s,b,l,h}1[46]_*.py.

GFLOP per image is the closed formula of a step (three forward passes, what has no backward pass once; a multiply-add
counts 2); MFU is against the chip's peak in dense bfloat16, where it is known. Figures are comparable only within one
run, because machines, their load and library versions differ: compare ratios of rounds that ran in turn. On a CPU not
even those hold while other processes compute (PyTorch's OpenMP threads wait for each other, XLA's do not), so what
others took is measured too.
"""

import argparse
import ctypes
import gc
import importlib.metadata
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mae_jax.commands.options import OVERRIDES_HELP, from_file, split_overrides
from mae_jax.core import huge_pages
from mae_jax.core.errors import UserError
from mae_jax.core.exits import BAD_INPUT, DONE
from mae_jax.schema import Config

LIBRARIES = ("mae_jax", "jax", "jaxlib", "flax", "optax", "numpy", "torch", "transformers")
SWITCHES = ("XLA_", "JAX_", "CUDA_VISIBLE_DEVICES", "NVIDIA_TF32_", "OMP_NUM_", "TORCHINDUCTOR_", "GLIBC_", "MALLOC_")
QUIET = 0.05  # share of the cores that others may take before the figures are called unfit to quote


class Ours:
    """Our run, with the methods of peer_hf.Peer."""

    def __init__(self, run: Any, images: np.ndarray, name: str = "mae_jax"):
        import jax

        from mae_jax.core import tree

        self.run, self._jax, self.name = run, jax, name
        self._state: Any = run.init()
        self._metrics: dict[str, Any] = {}
        self._batch = run.put({"image": images})
        self._plan = run.method.plan(0)
        self.parameters = tree.size(self._state["params"])
        self.settings = {"default_matmul_precision": jax.config.jax_default_matmul_precision}

    def advance(self) -> None:
        state = self.run.init() if self._state is None else self._state
        self._state = None  # the step is given the state, and nothing else holds it
        self._state, self._metrics = self.run.step(state, {}, self._batch, self._plan)

    def wait(self) -> float:
        self._jax.block_until_ready((self._state, self._metrics))
        return float(self._metrics["loss"])

    def release(self) -> None:
        """Give back the state; the next step starts from the first again."""
        self._state = None

    def memory_gb(self) -> float | None:
        """Most memory that arrays have taken on the first device, in 1e9 bytes, where the backend counts it."""
        stats = self.run.mesh.devices.flat[0].memory_stats()
        return stats["peak_bytes_in_use"] / 1e9 if stats else None


def measure(
    runners: list[Any], *, rounds: int, steps: int, warmup: int, settle: int = 1, release: bool = False
) -> dict[str, dict[str, Any]]:
    """{name: {"compile_s": first step's seconds, "rounds_s": seconds of each round, "loss": at the end, ...}}.

    The runners take turns within each round, each after `settle` steps that are not timed: the first pays for memory
    that the last one had. With `release` only the one whose turn it is holds its state. "others" is the share of all
    cores that other processes, or other guests of the same host, took in each round (0 but on Linux); "rounds_cpu_s" is
    what we took. A runner whose first step fails is left out, but for the first, to which the others are compared.
    """
    results: dict[str, dict[str, Any]] = {}
    settle = settle if len(runners) > 1 else 0
    for runner in list(runners):
        try:
            first = stretch(runner, 1)
        except Exception as error:  # whatever a backend raises; the others' figures are not lost with it
            if runner is runners[0]:
                raise
            print(f"{runner.name}: left out, it cannot run: {type(error).__name__}: {str(error)[:300]}", flush=True)
            runners.remove(runner)
            continue
        stretch(runner, warmup)
        if release:
            give_back(runner)
        results[runner.name] = {"compile_s": round(first, 2), "rounds_s": [], "rounds_cpu_s": [], "others": []}
        print(f"{runner.name}: first step, compilation and all, {first:.1f} s", flush=True)
    for number in range(rounds):
        for runner in runners:
            if settle:
                stretch(runner, settle)
            cpu, machine = time.process_time(), busy()
            took = stretch(runner, steps)
            cpu, machine = time.process_time() - cpu, busy() - machine
            others = max(0.0, machine - cpu) / took / (os.cpu_count() or 1)
            for key, value in (("rounds_s", took), ("rounds_cpu_s", cpu), ("others", others)):
                results[runner.name][key].append(value)
            results[runner.name]["loss"] = runner.wait()
            if release:
                give_back(runner)
            print(f"round {number + 1}: {runner.name}: {took / steps * 1e3:.1f} ms per step", flush=True)
    for runner in runners:
        results[runner.name] |= {"parameters": runner.parameters,
                                 "peak_memory_gb": runner.memory_gb(), "settings": runner.settings}  # fmt: skip
    return results


def give_back(runner: Any) -> None:
    """Let go of a runner's state, and have the C library return to the system what lay in it."""
    runner.release()
    gc.collect()
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):  # glibc
        libc.malloc_trim(0)


def add_turns(parser: argparse.ArgumentParser, *, rounds: int, steps: int) -> None:
    """The options of the rounds, with these defaults."""
    parser.add_argument("--rounds", type=int, default=rounds, help=f"timed stretches per runner (default {rounds})")
    parser.add_argument("--steps", type=int, default=steps, help=f"steps in a round (default {steps})")
    parser.add_argument("--warmup", type=int, default=2, help="untimed steps after the first (default 2)")
    parser.add_argument("--settle", type=int, default=1, help="untimed steps at each change of turn (default 1)")


def check_turns(args: argparse.Namespace) -> None:
    """Raise UserError unless rounds can be run so."""
    if min(args.rounds, args.steps, args.warmup) < 1 or args.settle < 0:
        raise UserError("--rounds, --steps and --warmup count from 1, --settle from 0.")


def turns(args: argparse.Namespace) -> dict[str, int]:
    """What the command line says of the rounds."""
    return {name: getattr(args, name) for name in ("rounds", "steps", "warmup", "settle")}


def stretch(runner: Any, steps: int) -> float:
    """Seconds of so many steps, from an idle device to an idle device."""
    begin = time.perf_counter()
    for _ in range(steps):
        runner.advance()
    runner.wait()
    return time.perf_counter() - begin


def busy() -> float:
    """CPU seconds that this machine has spent on anything since it started, stolen ones included; 0 but on Linux."""
    if sys.platform != "linux":
        return 0.0
    user, nice, system, _, _, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split(maxsplit=9)[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def rates(rounds_s: Sequence[float], images: int, steps: int, flops: float | None, devices: list) -> dict[str, Any]:
    """What the seconds of rounds of so many images and steps mean. `flops`: of a step per image, None if unknown."""
    from mae_jax.core.chips import mfu

    per_s, ms = spread([images / s for s in rounds_s]), spread([s / steps * 1e3 for s in rounds_s])
    gflops = None if flops is None else per_s["median"] * flops / 1e9
    used = None if flops is None else mfu(per_s["median"], flops, devices[0].device_kind, len(devices))
    return {"images_per_s": per_s, "ms_per_step": ms, "gflop_per_s": gflops, "mfu": used}


def benchmark(config: Config, args: argparse.Namespace) -> dict[str, Any]:
    """The whole JSON but for the command line."""
    if args.xla:
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {args.xla}".strip()
    import peer_hf

    if args.peer:
        peer_hf.check(config)
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # leave the peer its share of the GPU
    import jax

    from mae_jax.train.build import build

    run = build(config, jax.devices()[:1] if args.peer else None)  # the peer runs on one device
    devices = list(run.mesh.devices.flat)
    images = synthetic(run.method, config.train.batch)
    flops = None if (cost := run.method.cost()) is None else cost.step
    print(headline(config, devices, flops), flush=True)
    runners: list[Any] = [Ours(run, images)]
    for text in args.variant:
        other = from_file(args.config, [*args.overrides, *text.split()])
        runners.append(Ours(build(other, devices), images, text))
    if args.peer:
        runners += peer_hf.peers(run, images, args.peer_mode)
    results = measure(runners, **turns(args), release=args.release)
    for result in results.values():
        result |= rates(result["rounds_s"], args.steps * config.train.batch, args.steps, flops, devices)
    ratios = peer_hf.ratios(results, "mae_jax") if len(results) > 1 else {}
    return {
        "results": results, "ratios": ratios,
        "gflop_per_image": None if flops is None else flops / 1e9,
        "settings": turns(args), "hardware": hardware(devices), "versions": versions(),
        "environment": {k: v for k, v in sorted(os.environ.items()) if k.startswith(SWITCHES)},
        "config": config.to_dict(),
    }  # fmt: skip


def synthetic(method: Any, batch: int) -> np.ndarray:
    """uint8 noise in the shape of the method's images. Methods that read more than images need a case here."""
    spec = method.batch_spec
    if set(spec) != {"image"}:
        raise UserError(f"method '{method.name}' reads {sorted(spec)}; this benchmark makes up images only.")
    return np.random.default_rng(0).integers(0, 256, (batch, *spec["image"].shape), np.uint8)


def hardware(devices: list) -> dict[str, Any]:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"platform": devices[0].platform, "device": devices[0].device_kind, "devices": len(devices),
            "cpu": cpu_model(), "cores": usable, "machine": platform.platform()}  # fmt: skip


def cpu_model() -> str:
    text = Path("/proc/cpuinfo").read_text() if sys.platform == "linux" else ""
    found = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    return found[1] if found else platform.machine()


def versions() -> dict[str, str]:
    """Of Python and of every library that matters and is installed."""
    installed = {d.name.replace("-", "_").lower(): d.version for d in importlib.metadata.distributions()}
    return {"python": platform.python_version()} | {name: installed[name] for name in LIBRARIES if name in installed}


def commit() -> str | None:
    """The checkout's commit, "-dirty" where tracked files differ from it; None outside a checkout."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def headline(config: Config, devices: list, flops: float | None) -> str:
    train, kind = config.train, devices[0].device_kind
    cost = "no cost formula" if flops is None else f"{flops / 1e9:.4g} GFLOP per image"
    parts = f" in {train.microbatches} microbatches" if train.microbatches > 1 else ""
    what = f"method {config.method['name']}, batch {train.batch}{parts}, {train.precision}"
    return f"{what}, {len(devices)} x {kind}, {cost}"


def table(report: dict[str, Any]) -> str:
    lines = [f"{'':12} {'images/s':>10} {'(low .. high)':>22} {'ms/step':>10} {'GFLOP/s':>10} {'MFU':>7}"]
    for name, r in report["results"].items():
        images, ms = r["images_per_s"], r["ms_per_step"]["median"]
        flops = "-" if r["gflop_per_s"] is None else f"{r['gflop_per_s']:.1f}"
        used = "-" if r["mfu"] is None else f"{r['mfu']:.1%}"
        between = f"({images['min']:.2f} .. {images['max']:.2f})"
        lines.append(f"{name:12} {images['median']:10.2f} {between:>22} {ms:10.1f} {flops:>10} {used:>7}")
    for name, r in report["ratios"].items():
        each = " ".join(f"{x:.3f}" for x in r["rounds"])
        lines.append(f"mae_jax / {name}: {each}; median {r['median']:.3f} (above 1: we are faster)")
    others = statistics.mean(x for r in report["results"].values() for x in r["others"])
    if others > QUIET:
        lines.append(f"Do not quote these figures: other processes took {others:.0%} of the machine's cores meanwhile.")
    return "\n".join(lines)


def write_record(path: Path, argv: list[str], report: dict[str, Any]) -> None:
    """Write what was measured, with the command, the commit and the time."""
    stamp = {"argv": argv, "commit": commit(), "time": time.strftime("%F %T %Z")}
    path.write_text(json.dumps(stamp | report, indent=2) + "\n")
    print(f"written to {path}")


def answer(
    script: str, parser: argparse.ArgumentParser, argv: list[str],
    measure: Callable[[Any, argparse.Namespace], dict[str, Any]], say: Callable[[dict[str, Any]], str],
) -> int:  # fmt: skip
    """Parse, measure, print, write the record -> the exit status, of any benchmark that runs rounds of steps."""
    try:
        rest, overrides = split_overrides(argv)
        args = parser.parse_args(rest)
        check_turns(args)
        args.overrides = overrides
        report = measure(from_file(args.config, overrides), args)
    except UserError as error:
        print(f"{script}: {error}", file=sys.stderr)
        return BAD_INPUT
    print(say(report))
    if args.json:
        write_record(args.json, [f"benchmarks/{script}", *argv], report)
    return DONE


def main(argv: list[str] | None = None) -> int:
    argv, raw = sys.argv[1:] if argv is None else argv, argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, epilog=OVERRIDES_HELP, formatter_class=raw)
    parser.add_argument("--config", required=True, metavar="FILE[:ARG]", help="a config file of mae_jax train")
    add_turns(parser, rounds=5, steps=20)
    parser.add_argument("--release", action="store_true", help="a state is held only in its turn: both do not fit")
    parser.add_argument("--variant", action="append", default=[], metavar="KEYS", help="ours again, so changed")
    parser.add_argument("--xla", default="", metavar="FLAGS", help="added to XLA_FLAGS before jax starts")
    parser.add_argument("--peer", choices=("hf",), help="run Hugging Face's ViTMAE in turn; one device")
    parser.add_argument("--peer-mode", choices=("eager", "compile", "both"), default="both", help="default both")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything here, with versions")
    return answer("train_step.py", parser, argv, benchmark, table)


if __name__ == "__main__":
    huge_pages.start_again()  # as `mae_jax train` does
    sys.exit(main())
