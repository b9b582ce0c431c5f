"""`mae_jax evaluate`."""

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from mae_jax.commands import options
from mae_jax.core.errors import UserError, nearest

HELP = "judge the encoder of a workdir or a weights file: linear, kNN, few-shot, attentive, fine-tuning, health"

DESCRIPTION = """\
Judge an encoder by one or more protocols, on the data of its run or on others by overrides. Protocols on cached
features compare the pretrained encoder with the same one at random initialisation and, where the input is small, with
the raw input; those that train something judge the pretrained one. docs/evaluation.md defines each.

on cached features:
  linear          logistic regression, strength chosen on held-out training samples
  knn             weighted k nearest neighbours by cosine; eval.knn_k
  few_shot        ridge regression on a few samples per class; eval.shots, eval.draws
  five_shot       the same with 5
  svm             cross-validated support vector machine (graphs)
  health          RankMe, LiDAR, spread, attention distance; needs no labels
"""

EPILOG = """\
Results go to DIR/results.json (one number per protocol) and DIR/results_full.json (intervals, details, settings);
with --weights only where --output says. Features are kept in DIR/features and taken again.

"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments to its parser."""
    from mae_jax.transfer.protocols import TRAINED

    trained = "".join(f"  {name:<15} {title}\n" for name, (title, _) in TRAINED.items())
    parser.description = f"{DESCRIPTION}\nthat train something; transfer.*:\n{trained}"
    parser.epilog = EPILOG + options.OVERRIDES_HELP
    options.add_weights(parser)
    parser.add_argument(
        "--protocol", "--protocols", dest="protocols", default="linear,knn,five_shot", metavar="P[,P...]",
        help="which protocols (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="where the results go")
    cache = parser.add_mutually_exclusive_group()
    cache.add_argument(
        "--cache", type=Path, metavar="DIR",
        help="where features are kept (default: features/ of --workdir; none with --weights)",
    )  # fmt: skip
    cache.add_argument("--no-cache", action="store_true", help="compute the features anew and keep nothing")
    options.add_processes(parser)


def run(args: argparse.Namespace) -> int:
    """Run the verb; returns the exit status."""
    from mae_jax.transfer.protocols import PIXELS, TRAINED

    protocols = _protocols(args.protocols, TRAINED)
    cached = tuple(name for name in protocols if name not in TRAINED)
    args.overrides = [*args.overrides, f"eval.protocols={cached!r}", "eval.every=0"]
    output = args.output or (args.workdir / "results.json" if args.workdir else None)
    if args.output is not None and (args.output.suffix != ".json" or not args.output.parent.is_dir()):
        raise UserError(f"--output {args.output}: a file that ends in .json, in a folder that exists, expected.")
    options.start_processes(args)
    opened = options.opened(args)
    import jax

    from mae_jax.eval.probes import Result
    from mae_jax.eval.report import full_json, results_json
    from mae_jax.train.probing import Outcome, Probes, check_labels

    run = _without_large_raw(opened.run)
    train, test = run.open("train"), run.open("test")
    folder = None if args.no_cache else args.cache or (args.workdir / "features" if args.workdir else None)
    probes = Probes(run, train, test, folder)
    if (set(protocols) & set(TRAINED)) - PIXELS:
        for split, source in (("train", train), ("test", test)):
            check_labels(run, split, source)
    found = Outcome({}, {})
    if cached:
        Probes.check(run, train, test)
        found = probes.final(opened.state)
    configs = probes.configs()
    for name in protocols:
        if name in TRAINED:
            result: Result = TRAINED[name][1](opened, train, test)
            found.results.setdefault("pretrained", {})[name] = result
            configs[name] = run.config.to_dict()["transfer"]
    identity = _identity(args, opened)  # of all processes: it reads every shard of the weights
    if jax.process_index():
        return 0
    titles = {name: title for name, (title, _) in TRAINED.items()}
    print(f"{args.workdir or args.weights}, step {int(opened.state['step'])}\n\n{probes.table(found, titles)}")
    if output is None:
        print("\nnot written: name a file with --output FILE.json")
        return 0
    full: dict[str, Any] = full_json(found.results, found.health, configs=configs, weights=identity, **probes.facts())
    beside = output.with_name(f"{output.stem}_full.json")
    for path, content in ((output, results_json(found.results, found.health)), (beside, full)):
        path.write_text(json.dumps(content, indent=2, default=str) + "\n")
    print(f"\nwritten to {output} and {beside}")
    return 0


def _protocols(text: str, trained: Any) -> list[str]:
    """The protocols by name, each once. Raises UserError, with the nearest name, on one that there is not."""
    from mae_jax.eval.probes import HEALTH, PROTOCOLS

    names = [name.strip() for name in text.split(",") if name.strip()]
    known = [*PROTOCOLS, HEALTH, *trained]
    for name in names:
        if name not in known:
            raise UserError(f"--protocol: there is no protocol '{name}'. {nearest(name, known)}")
    if not names:
        raise UserError(f"--protocol names none: choose of {', '.join(known)}.")
    return list(dict.fromkeys(names))


def _identity(args: argparse.Namespace, opened: Any) -> dict[str, Any]:
    """Which weights were judged: where they lie, what they are, and their content's hash."""
    from mae_jax.train.probing import weights_digest

    info = {key: value for key, value in opened.weights.info.items() if value is not None}
    content = weights_digest(opened.state["params"], opened.rest)
    return {"path": str(args.workdir or args.weights), "step": int(opened.state["step"]), "content": content} | info


def _without_large_raw(run: Any) -> Any:
    """The run, without the comparison with raw input where that is too large for it."""
    from mae_jax.eval.run import fits_raw

    if not run.config.eval.raw or fits_raw(run.method):
        return run
    print("mae_jax: no comparison with raw pixels: the images are too large (eval.raw).", file=sys.stderr)
    config = dataclasses.replace(run.config, eval=dataclasses.replace(run.config.eval, raw=False))
    return dataclasses.replace(run, config=config)
