"""`mae_jax evaluate`."""

import argparse
import json

from mae_jax.commands import options

HELP = "probe the encoder of a finished or running workdir: linear, kNN, few-shot"

DESCRIPTION = """\
Probe the newest checkpoint of a run, finished or still running, on its own data (or on other data by overrides): linear
probe, kNN and 5-shot accuracy of the pretrained encoder, of the same encoder at random initialisation, and of raw
pixels. Prints the table and writes it to DIR/results.json (--output for elsewhere).
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments to its parser."""
    parser.description, parser.epilog = DESCRIPTION, options.OVERRIDES_HELP
    options.add_workdir(parser)
    parser.add_argument(
        "--protocols", default="linear,knn,five_shot", metavar="A,B", help="which probes (default: %(default)s)"
    )
    parser.add_argument("--output", metavar="FILE.json", help="where the table goes (default: DIR/results.json)")
    parser.set_defaults(config=None)


def run(args: argparse.Namespace) -> int:
    """Run the verb; returns the exit status."""
    protocols = repr(tuple(args.protocols.split(",")))
    config = options.from_workdir(args.workdir, [*args.overrides, f"eval.protocols={protocols}"])
    options.compile_cache()
    from mae_jax.eval.probes import results_json, table
    from mae_jax.train.build import build
    from mae_jax.train.probing import Probes
    from mae_jax.train.warm_start import load_weights

    run = build(config)
    train, test = run.open("train"), run.open("test")
    Probes.check(run, train, test)
    state = load_weights(run, args.workdir, args.step)
    results = Probes(run, train, test).final(state)
    path = args.output or args.workdir / "results.json"
    with open(path, "w") as file:
        json.dump(results_json(results), file, indent=2)
        file.write("\n")
    print(f"{args.workdir}, step {int(state['step'])}\n\n{table(results)}\n\nwritten to {path}")
    return 0
