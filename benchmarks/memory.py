"""The peak memory of a train step: as the compiler predicts it, and as it is measured while steps run.

    python benchmarks/memory.py --config configs/mae/tiny_photos.py --config.train.batch=64 --json memory.json

Predicted is what `mae_jax compile --topology local` says: arguments, temporaries, outputs. Measured is, on an
accelerator, the allocator's own peak (`Device.memory_stats`); on a CPU, which keeps no such count, by how much the
process' largest resident set grew over the steps, train state and batch included: the program is compiled before, and
what compiling took is given back to the system first. Pages that a step never touches are predicted and not measured.
"""

import argparse
import ctypes
import gc
import sys
from pathlib import Path
from typing import Any

from train_step import hardware, versions, write_record

from mae_jax.ahead import program, step
from mae_jax.ahead.topology import topology
from mae_jax.commands.options import OVERRIDES_HELP, split_overrides
from mae_jax.core.errors import UserError
from mae_jax.core.exits import BAD_INPUT, DONE

MIB = 2**20


def main(argv: list[str] | None = None) -> int:
    """Print both peaks and their ratio, and write them as JSON if asked."""
    argv, raw = sys.argv[1:] if argv is None else argv, argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, epilog=OVERRIDES_HELP, formatter_class=raw)
    parser.add_argument("--config", required=True, metavar="FILE[:ARG]", help="a config file of mae_jax train")
    parser.add_argument("--steps", type=int, default=3, help="default 3")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything here, with versions")
    try:
        rest, overrides = split_overrides(argv)
        args = parser.parse_args(rest)
        if args.steps < 1:
            raise UserError("--steps counts from 1.")
        found = measure(step.ask(args.config, overrides), args.steps)
    except UserError as error:
        print(f"memory.py: {error}", file=sys.stderr)
        return BAD_INPUT
    for name in ("predicted", "measured"):
        print(f"{name:10} {found[name] / MIB:10.1f} MiB per device")
    print(f"predicted over measured: {found['predicted'] / found['measured']:.3f}   ({found['by']})")
    if args.json:
        write_record(args.json, ["benchmarks/memory.py", *argv], found)
    return DONE


def measure(asked: step.Asked, steps: int) -> dict[str, Any]:
    """Compile, then run `steps` steps on zeros."""
    import jax
    import jax.numpy as jnp

    here = topology("local")
    run = step.make_run(asked, here.devices)
    compiled = step.trace(run).lower().compile()
    predicted = program.memory_of(compiled)
    cpu = here.devices[0].platform == "cpu"
    give_back()
    before = resident() if cpu else 0
    zeros = lambda s: jax.device_put(jnp.zeros(s.shape, s.dtype), s.sharding)
    state, batch = jax.tree.map(zeros, run.shapes), jax.tree.map(zeros, step.batch_shapes(run))
    frozen = jax.tree.map(zeros, run.frozen_shapes)
    if cpu:
        give_back()
        forget_peak()
    for _ in range(steps):
        state, _ = compiled(state, frozen, batch, None)
        jax.block_until_ready(state)
    if cpu:
        measured, by = (peak() - before) / len(here.devices), "growth of the peak resident set"
    else:
        measured, by = here.devices[0].memory_stats()["peak_bytes_in_use"], "the allocator's peak"
    return {
        "predicted": predicted.peak, "measured": measured, "by": by, "arguments": predicted.arguments,
        "temporaries": predicted.temporaries, "settings": {"steps": steps},
        "hardware": hardware(list(here.devices)), "versions": versions(), "config": run.config.to_dict(),
    }  # fmt: skip


def give_back() -> None:
    """Free memory goes back to the system (glibc)."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def forget_peak() -> None:
    """The largest resident set starts anew (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")


def resident() -> int:
    """Bytes of this process in memory now."""
    return _status("VmRSS")


def peak() -> int:
    """The largest that was since `forget_peak`."""
    return _status("VmHWM")


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(key))) * 1024


if __name__ == "__main__":
    sys.exit(main())
