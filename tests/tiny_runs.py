"""Runs small enough for every test: a 16-d MAE on scikit-learn's digits, by config, as a file, or as a process."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from mae_jax.config import resolve
from mae_jax.schema import Config

TINY: dict[str, dict[str, Any]] = {
    "method": dict(
        name="mae", image_size=8, patch=2, channels=1, dim=16, depth=2, heads=2, decoder_dim=8, decoder_depth=1,
        decoder_heads=2, mask_ratio=0.625,
    ),
    "data": dict(source="digits"),
    "augment": dict(crop_scale=(0.6, 1.0), flip=False, mean=(0.3,), std=(0.37,)),
    "optim": dict(learning_rate=1e-2, warmup=2),
    "train": dict(steps=12, batch=16),
    "checkpoint": dict(every=5),
    "eval": dict(batch=64, limit=192),
    "log": dict(every=3, pictures=3),
}  # fmt: skip


def tiny(*overrides: str, **sections: dict[str, Any]) -> Config:
    """The tiny config; `train=dict(steps=3)` or "train.steps=3" changes it."""
    names = {*TINY, *sections}
    return resolve({name: TINY.get(name, {}) | sections.get(name, {}) for name in names}, overrides)


def unlabelled(path: Path, seed: int = 0, n: int = 32) -> dict[str, Any]:
    """Write an .npz of images without labels -> the `data` section that reads it."""
    images = np.random.default_rng(seed).integers(0, 255, (n, 8, 8, 1), np.uint8)
    np.savez(path, images=images, test_images=images[:8])
    return dict(source="npz", path=str(path))


def config_file(path: Path, config: Config) -> Path:
    """`config` as a file that --config reads."""
    values = repr(config.to_dict())
    path.write_text(f'"""Tiny."""\n\n\ndef get_config(arg=""):\n    """The config."""\n    return {values}\n')
    return path


def start(*argv: str | Path, log: Path, devices: int = 1, before: str = "") -> subprocess.Popen:
    """`mae_jax ARGV...` as a process of its own on so many CPU devices; what it says goes to `log`.

    Args:
      before: Python that the process runs first.
    """
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}",
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    # As a user starts it; only what needs something done before is started in another way.
    code = f"{before}\nfrom mae_jax.commands.main import main\nraise SystemExit(main())"
    command = [sys.executable, *(("-c", code) if before else ("-m", "mae_jax.commands.main")), *map(str, argv)]
    with open(log, "a") as file:
        return subprocess.Popen(command, stdout=file, stderr=file, env=environment)


def free_port() -> int:
    """A port of this machine on which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def together(*argv: str | Path, count: int, log: Path, devices: int = 1, before: str = "") -> list[subprocess.Popen]:
    """`start` of `count` processes as one run, with so many devices each; process I says what it says in LOG.I.log."""
    address = f"127.0.0.1:{free_port()}"
    own = lambda i: ("--coordinator", address, "--processes", str(count), "--process-id", str(i)) if count > 1 else ()
    return [
        start(*argv, *own(i), log=log.with_name(f"{log.name}.{i}.log"), devices=devices, before=before)
        for i in range(count)
    ]


def metrics(workdir: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without what depends on the clock."""
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if k not in ("images_per_second", "mfu", "data/wait")} for line in lines]


def flip_bits(checkpoint: Path) -> None:
    """Flip one bit in every data file of a checkpoint (some hold nothing that is read any more)."""
    for file in (p for p in (checkpoint / "state").rglob("*") if p.is_file() and p.parent.name == "d"):
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 4
        file.write_bytes(data)
