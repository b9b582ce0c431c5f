"""What checking costs: a checkpoint of a ViT-B restored with and without its hashes, and saved.

    python benchmarks/restore.py --rounds 5 --json benchmarks/results/restore.json

The state is the one that `mae_jax train --config ...` would restore (weights and AdamW's moments, random numbers here).
Each round restores with and without verification, in turns that change places, after one of both that does not count;
then it saves: how long `save` holds the step, with the hashes and with nothing in their place, and how long it takes
until all is on disk. Ratios are round by round; compare only within a run. The file lies in the page cache.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import jax
import numpy as np

from mae_jax.config import load, resolve
from mae_jax.core import tree
from mae_jax.core.hashing import tree_hash, tree_hash_later
from mae_jax.train import checkpoint
from mae_jax.train.build import build
from mae_jax.train.checkpoint import Checkpoints
from mae_jax.train.checkpoint_meta import read_step
from mae_jax.train.checkpoint_read import read, target


def timed(do):
    """(seconds, CPU seconds of this process) of a call."""
    began, cpu = time.perf_counter(), time.process_time()
    do()
    return time.perf_counter() - began, time.process_time() - cpu


def make_state(shapes, seed: int = 0):
    """Random numbers of the size of weights in the place of a state."""
    rng = np.random.default_rng(seed)

    def leaf(s):
        if np.issubdtype(s.dtype, np.integer):
            return jax.device_put(np.zeros(s.shape, s.dtype), s.sharding)
        return jax.device_put((0.02 * rng.standard_normal(s.shape, np.float32)).astype(s.dtype), s.sharding)

    return jax.block_until_ready(jax.tree.map(leaf, shapes))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/mae/vit_b16_imagenet.py")
    parser.add_argument("--set", nargs="*", default=["data.path=/none", "train.batch=8", "eval.batch=8"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dir", type=Path, help="where to write (default: a temporary directory)")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    run = build(resolve(load(args.config)[0], args.set))
    state = make_state(run.shapes)
    folder = Path(tempfile.mkdtemp(dir=args.dir))
    rounds: list[dict[str, float]] = []
    no_hashes = lambda arrays: lambda: dict.fromkeys(arrays, (0, 0))
    try:
        with Checkpoints(folder / "run", keep=1) as checkpoints:
            checkpoints.save(1, state, data={}, config={})
            checkpoints.settle()
            size = sum(p.stat().st_size for p in (folder / "run").rglob("*") if p.is_file())
            where = checkpoints.directory
            targets = {path: target(path, leaf) for path, leaf in tree.flatten(run.shapes).items()}

            def plain():
                read_step(where, 1)
                jax.block_until_ready(read(where / "1" / "state", targets))

            def checked():
                jax.block_until_ready(checkpoints.restore(run.shapes, 1).state)

            for number in range(args.rounds + 1):
                found: dict[str, float] = {}
                turns = [("restore", plain), ("restore_verified", checked)]
                for name, do in turns if number % 2 else turns[::-1]:
                    found[name], found[f"{name}_cpu"] = timed(do)
                rounds += [found] if number else []
        with Checkpoints(folder / "saves", keep=1) as saves:
            for number in range(args.rounds + 1):
                found = {}
                for step, hashes in ((2 * number, True), (2 * number + 1, False)):
                    with mock.patch.object(checkpoint, "tree_hash_later", tree_hash_later if hashes else no_hashes):
                        began = time.perf_counter()
                        assert saves.save(step, state, data={}, config={})
                        found["save_holds" if hashes else "save_holds_without"] = time.perf_counter() - began
                        saves.settle()
                        found["save" if hashes else "save_without"] = time.perf_counter() - began
                found["hash"], _ = timed(lambda: tree_hash(state))
                if number:
                    rounds[number - 1] |= found
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    median = {name: statistics.median(r[name] for r in rounds) for name in rounds[0]}
    ratio = lambda a, b: statistics.median(r[a] / r[b] for r in rounds)
    report = {
        "config": args.config, "settings": args.set, "arrays": len(targets), "checkpoint_bytes": size,
        "verified_over_unverified": round(ratio("restore_verified", "restore"), 3),
        "verified_over_unverified_cpu": round(ratio("restore_verified_cpu", "restore_cpu"), 3),
        "ratios": [round(r["restore_verified"] / r["restore"], 3) for r in rounds],
        "hashing_holds_the_step_share_of_save": round(
            statistics.median((r["save_holds"] - r["save_holds_without"]) / r["save"] for r in rounds), 4
        ),
        "seconds_median": {name: round(value, 3) for name, value in median.items()}, "rounds": rounds,
        "devices": jax.device_count(), "device": jax.devices()[0].device_kind, "cores": os.cpu_count(),
        "machine": platform.processor() or platform.machine(), "jax": jax.__version__, "command": " ".join(sys.argv),
    }  # fmt: skip
    print(json.dumps(report))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
