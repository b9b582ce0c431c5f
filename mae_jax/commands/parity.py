"""`mae_jax parity`: compare ours with what the authors' code computed."""

import argparse

HELP = "compare our networks with recorded outputs of the authors' code (golden files)"

DESCRIPTION = """\
Build our network from each golden file's official constructor arguments, fill it with the file's weights
through the same name map that converts real checkpoints, run it on the stored inputs and noise, and compare
every output and gradient norm with what the authors' code computed.

One line per output: its name, the largest absolute error, that error over the reference's largest entry, and
the verdict. An output passes where either error is within the tolerance.
"""

EPILOG = """\
exit status: 0 if every output of every file is within the tolerance; 1 if one is not, was not compared, or a
file cannot be read or fits nothing we have; 2 for a wrong command line.

example: mae_jax parity tests/golden/mae/*.npz
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments to its parser."""
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    parser.add_argument("files", nargs="+", metavar="FILE.npz", help="golden files")
    parser.add_argument(
        "--json",
        action="store_true",
        help="print one JSON object per output: file, output, max_abs, max_rel, ok",
    )
    parser.add_argument(
        "--tolerance",
        type=_tolerance,
        default=1e-4,
        metavar="T",
        help="largest accepted error (default: %(default)g)",
    )


def run(args: argparse.Namespace) -> int:
    """Run the verb; returns the exit status."""
    from mae_jax.interop import parity

    return parity.run(args.files, as_json=args.json, tolerance=args.tolerance)


def _tolerance(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0 up")
    return value
