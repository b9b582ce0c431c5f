"""How much of a training run's time goes into waiting for input: a real run from JPEG files.

    python benchmarks/stall.py --steps 12 --batch 16
    python benchmarks/stall.py --config configs/mae/vit_b16_imagenet.py --steps 200 --batch 1024 --workers 16

Trains by `mae_jax train` on photo-like JPEGs (500 x 375) made for the purpose, then on finished arrays, which cost next
to nothing, and prints the share of the time that the devices waited (`data/wait` of metrics.jsonl, an upper bound) and
the ratio of the two rates. One JSON object last.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np

from mae_jax.commands.main import main as mae_jax


def run(args: argparse.Namespace, workdir: Path, *overrides: str) -> dict[str, float]:
    """One training run -> medians of its logged steps after the first (which holds compilation)."""
    settings = {
        "train.steps": args.steps, "train.batch": args.batch, "optim.warmup": 0, "log.every": args.every,
        "log.tensorboard": False, "eval.every": 0, "eval.protocols": "()", "checkpoint.every": args.steps,
        "data.workers": args.workers,
    }  # fmt: skip
    argv = [f"--config.{key}={value}" for key, value in settings.items()]
    argv += [f"--config.{o}" for o in (*overrides, *args.override)]
    status = mae_jax(["train", "--config", args.config, "--workdir", str(workdir), *argv])
    if status:
        sys.exit(status)
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    logged = [line for line in lines if "data/wait" in line and line["step"] > args.every]
    return {key: statistics.median(line[key] for line in logged) for key in ("data/wait", "images_per_second")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/mae/vit_b16_imagenet.py")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--every", type=int, default=2, help="steps between logged ones")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--images", type=int, default=512, help="JPEGs to make")
    parser.add_argument("--size", type=int, default=224, help="the config's image size")
    parser.add_argument("override", nargs="*", help="further config values, as augment.where=device")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        from input import jpeg_folder  # benchmarks/input.py makes the same set

        jpeg_folder(Path(folder) / "jpegs", args.images)
        arrays = f"{folder}/arrays.npy"
        np.save(arrays, np.random.default_rng(0).integers(0, 256, (256, args.size, args.size, 3), np.uint8))
        ready = ("data.source=npz", f"data.path={arrays}", "augment.crop_scale=None")
        run(args, Path(folder) / "first", *ready)  # a process's first run is slower, whatever it reads
        jpeg = run(args, Path(folder) / "jpeg", "data.source=folder", f"data.path={folder}/jpegs")
        fast = run(args, Path(folder) / "fast", *ready)
    import jax

    result = {
        "config": args.config, "batch": args.batch, "workers": args.workers, "overrides": args.override,
        "wait_share": round(jpeg["data/wait"], 4), "wait_share_arrays": round(fast["data/wait"], 4),
        "rate_jpeg_over_arrays": round(jpeg["images_per_second"] / fast["images_per_second"], 3),
        "images_per_second": round(jpeg["images_per_second"], 2), "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(), "cores": os.cpu_count(), "machine": platform.processor() or platform.machine(),
        "jax": jax.__version__,
    }  # fmt: skip
    print(f"the devices waited for input {result['wait_share']:.2%} of the time (finished arrays: "
          f"{result['wait_share_arrays']:.2%})")  # fmt: skip
    print(json.dumps(result))


if __name__ == "__main__":
    main()
