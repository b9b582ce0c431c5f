"""`mae_jax plot`."""

import argparse
from pathlib import Path

from mae_jax.commands import options
from mae_jax.core.errors import UserError

HELP = "draw the learning curves of several runs in one figure"

DESCRIPTION = """\
Draw what runs logged in metrics.jsonl, running ones too: a panel per metric, a curve per run. A curve is labelled with
what differs between the runs' configs (mask_ratio 0.5, seed 1), or with the run's name.
"""

EPILOG = """\
examples:
  mae_jax plot runs/a runs/b
  mae_jax plot runs/* --metric loss --metric probe/knn --x hours --output compared.png
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments to its parser."""
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="workdirs of `mae_jax train`")
    parser.add_argument(
        "--metric", action="append", metavar="NAME", help="as in metrics.jsonl; repeat for more (default: loss)"
    )
    parser.add_argument("--x", default="step", metavar="X", help="step, samples or hours (default: %(default)s)")
    parser.add_argument(
        "--smooth", type=int, metavar="N", help="running median over N points, 1: none (default: long curves alone)"
    )
    parser.add_argument("--log", default="", metavar="AXES", help="logarithmic axes: x, y or xy")
    parser.add_argument("--labels", metavar="A,B", help="names of the curves, one per run")
    parser.add_argument(
        "--output", type=Path, default=Path("curves.png"), metavar="FILE.png", help="default: %(default)s"
    )


def run(args: argparse.Namespace) -> int:
    """Run the verb; returns the exit status."""
    if set(args.log) - set("xy"):
        raise UserError(f"--log {args.log}: x, y or xy expected.")
    if args.smooth is not None and args.smooth < 1:
        raise UserError(f"--smooth {args.smooth}: a number of points of at least 1 expected.")
    options.check_png(args.output)
    from mae_jax.eval.figures import save
    from mae_jax.train.compare import compare, read_run

    runs = [read_run(path) for path in args.runs]
    names = args.labels.split(",") if args.labels else ()
    metrics = args.metric or ["loss"]
    figure = compare(runs, metrics, x=args.x, smooth=args.smooth, log=args.log, names=names)
    options.write_picture(args.output, lambda path: save(figure, path))
    print(f"{', '.join(metrics)} of {len(runs)} run(s), written to {args.output}")
    return 0
