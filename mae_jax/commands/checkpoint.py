"""`mae_jax checkpoint`."""

import argparse
import time
from pathlib import Path

from mae_jax.core.exits import DONE, FAILED

HELP = "list, verify and prune the checkpoints of a run"

DESCRIPTION = """\
Look after the checkpoints of a run.

  mae_jax checkpoint list WORKDIR     steps, sizes, times and metrics; reads no arrays
  mae_jax checkpoint verify WORKDIR   read every array and compare its hash; status 1 if any checkpoint is damaged
  mae_jax checkpoint prune WORKDIR    what could go; with --yes it goes

`list` calls a checkpoint good when `verify` found it so and no file has changed since, damaged when its metadata are,
else unknown. `prune` takes leftovers of killed saves, STEP.damaged and damaged checkpoints, with --keep N also good
ones beyond the newest N (the best by checkpoint.best stays). It never takes the last good one, verifies before it
decides, and refuses while a run is writing there.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments to its parser."""
    parser.description = DESCRIPTION
    parser.add_argument("action", choices=("list", "verify", "prune"), help="what to do")
    parser.add_argument("workdir", type=Path, metavar="WORKDIR", help="directory of the run")
    parser.add_argument("--step", type=int, metavar="N", help="verify: only this checkpoint")
    parser.add_argument("--keep", type=int, metavar="N", help="prune: how many of the newest good ones stay (all)")
    parser.add_argument("--yes", action="store_true", help="prune: do it")


def run(args: argparse.Namespace) -> int:
    """Run the verb; returns the exit status."""
    return {"list": list_, "verify": verify, "prune": prune}[args.action](args)


def list_(args: argparse.Namespace) -> int:
    """A line per checkpoint."""
    from mae_jax.train.checkpoint_care import looks
    from mae_jax.train.checkpoint_meta import candidates

    candidates(args.workdir, None)  # says so where there are none
    found = looks(args.workdir)
    print(f"{'step':>10}  {'size':>9}  {'written':<19}  {'state':<8}  metrics")
    for look in found:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(look.time))
        scores = "  ".join(f"{name} {value:.4g}" for name, value in look.metrics.items())
        print(f"{look.step:>10}  {_bytes(look.bytes):>9}  {when:<19}  {look.state:<8}  {scores or look.why or '-'}")
    print(f"{len(found)} checkpoint(s), {_bytes(sum(look.bytes for look in found))}")
    return DONE


def verify(args: argparse.Namespace) -> int:
    """Read and compare everything."""
    from mae_jax.train.checkpoint_care import verified

    damaged = []
    for step, why, seconds in verified(args.workdir, args.step):
        print(f"step {step}: {f'DAMAGED: {why}' if why else 'good'} ({seconds:.1f} s)", flush=True)
        damaged += [step] if why else []
    if damaged:
        print(f"damaged: {', '.join(map(str, damaged))}. Training goes on from the newest good one.")
    return FAILED if damaged else DONE


def prune(args: argparse.Namespace) -> int:
    """Say what may go; let it go where --yes is given."""
    from mae_jax.train.checkpoint_care import prune as prune_

    found = prune_(args.workdir, args.keep, really=args.yes)
    for step, why in found.stay.items():
        print(f"stays  {step}: {why}")
    for path, why in found.go.items():
        print(f"{'gone ' if args.yes else 'may go'}  {path.name} ({_bytes(found.bytes[path])}): {why}")
    total = _bytes(sum(found.bytes.values()))
    if not found.go:
        print("nothing may go")
    elif not args.yes:
        print(f"{total} would be free again; add --yes to delete")
    return DONE


def _bytes(number: float) -> str:
    from mae_jax.train.progress import si

    return f"{si(number)}B"
