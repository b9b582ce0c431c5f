"""`mae_jax compile`."""

import argparse
import json
import sys
from pathlib import Path

from mae_jax.commands import options
from mae_jax.core import exits
from mae_jax.core.errors import UserError

HELP = "say whether a config's train step fits a TPU slice, and what it costs there, before anything runs"

DESCRIPTION = """\
Compile the real train step of a config ahead of time for a slice that need not be there, and say: bytes per chip
against the chip's memory, FLOPs, every collective, a roofline of the step's time, and whether it fits.

  mae_jax compile --config configs/mae/vit_l16_imagenet.py --topology v5e:4x8 --config.mesh.remat=dots
  mae_jax compile --config configs/mae/vit_h14_imagenet.py --topology v5e:8x8 --fit

No data and no weights are read. --topology is a slice (v5e:16x16, v4:4x4x4, v5p:2x2x4, v6e:8x8, v3:4x4; a family alone
is one host of it), which needs `pip install 'mae_jax[compile]'` and no TPU, or `local`: this machine's own devices.
Configs of `finetune` and `segment` are compiled as what those verbs train. docs/compile.md explains every number.

Exit status: 0 it fits, 3 it does not, 2 the config itself is wrong.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments to its parser."""
    parser.description, parser.epilog = DESCRIPTION, options.OVERRIDES_HELP
    parser.add_argument("--config", required=True, metavar="FILE[:ARG]", help="config file: .py (code) or .json (data)")
    parser.add_argument("--topology", default="local", metavar="NAME", help="v5e:16x16, v4:2x2x1, ... (default: local)")
    parser.add_argument("--shardings", action="store_true", help="only print how every array lies; compiles nothing")
    parser.add_argument(
        "--fit", action="store_true", help="search microbatches, remat, scan and fsdp for the fastest that fits"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")


def run(args: argparse.Namespace) -> int:
    """Run the verb; returns the exit status."""
    if args.json is not None and not args.json.parent.is_dir():
        raise UserError(f"--json {args.json}: there is no directory {args.json.parent}.")
    from mae_jax.ahead import fit, program, report, step
    from mae_jax.ahead.topology import topology

    asked = step.ask(args.config, args.overrides)
    options.compile_cache()
    place = topology(args.topology, max(1, asked.config.mesh.slices))
    if args.shardings:
        print(step.shardings(step.make_run(asked, place.devices)))
        return exits.DONE
    title = " ".join([args.config, *(f"--config.{o}" for o in args.overrides)])
    if args.fit:
        found, changed = fit.fit(asked, place, say=lambda line: print(line, flush=True))
        if changed:
            title = f"{title} {report.settings(changed)}"
        print()
    else:
        found = program.compiled(asked, place)
    print(report.text(title, found, asked.notes), end="", flush=True)
    print(f"compiled in {found.seconds:.0f} s", file=sys.stderr)
    if args.json is not None:
        args.json.write_text(json.dumps(report.to_json(title, found, asked.notes), indent=1) + "\n")
    return exits.DONE if found.fits else exits.TOO_LARGE
