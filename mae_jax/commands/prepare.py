"""`mae_jax prepare`."""

import argparse
import ast
import signal
import threading
from pathlib import Path
from typing import Any

from mae_jax.commands import options
from mae_jax.core.errors import UserError
from mae_jax.core.exits import INTERRUPTED

HELP = "write any source of images once as array_record shards, resized if asked"

DESCRIPTION = """\
Write the images of a data source as array_record shards into the directory DST: random access is fast, and TFDS
(tfds.builder_from_directory) and data.source='tfds' with data.path=DST read them. SRC is a directory of images, or
SOURCE:PATH for any other source:

  mae_jax prepare /data/imagenet /fast/imagenet256 --short-side 256 --format jpeg
  mae_jax prepare npz:/data/cells.npz /fast/cells --format raw --splits train --config.data.holdout=0.0

The same command goes on where a run was broken off, and checks by hash what is there. DST/manifest.json says what was
written: settings, hashes, mean and std per channel, and every record that could not be read, with the reason.
Exit status 1: more than --max-bad of the records were rejected, so there is no dataset_info.json.
"""

EPILOG = """\
overrides:
  --config.data.KEY=VALUE sets a field of the source (`mae_jax list` shows them), as often as you like.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments to its parser."""
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    parser.add_argument("source", metavar="SRC", help="directory of images, or SOURCE:PATH (SOURCE: for no path)")
    parser.add_argument("target", metavar="DST", type=Path, help="directory to write, new or begun by this command")
    parser.add_argument("--format", default="keep", metavar="F",
                        help="keep: files as they are; jpeg; raw: pixels (default: %(default)s)")  # fmt: skip
    parser.add_argument(
        "--short-side", type=int, default=0, metavar="N", help="shrink to this short side; never enlarge"
    )
    parser.add_argument("--quality", type=int, default=90, metavar="Q", help="of JPEGs (default: %(default)s)")
    parser.add_argument("--channels", type=int, metavar="C", help="default: 3 for files, an array's own")
    parser.add_argument("--splits", default="train,test", metavar="A,B", help="default: %(default)s")
    parser.add_argument("--name", default="", metavar="NAME", help="of the data set (default: DST's)")
    parser.add_argument(
        "--shard-mb", type=float, default=256, metavar="MB", help="size of a file (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the order of records (default: 0)")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: one per core; 0: in this one)")
    parser.add_argument("--max-bad", type=float, default=0.01, metavar="SHARE",
                        help="share of records that may be rejected (default: %(default)s)")  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="estimate size and time from a sample, write nothing")
    parser.set_defaults(config=None)


def run(args: argparse.Namespace) -> int:
    """Run the verb; returns the exit status."""
    from mae_jax.data.prepare.plan import Settings
    from mae_jax.data.prepare.run import prepare, print_say
    from mae_jax.data.workers import cores

    source, fields = _source(args.source, args.overrides)
    settings = Settings(
        source, fields, args.target, tuple(s.strip() for s in args.splits.split(",") if s.strip()), args.name,
        args.format, args.short_side, args.quality, args.channels, args.shard_mb, args.seed,
    )  # fmt: skip
    workers = cores() if args.workers is None else args.workers
    if args.dry_run:
        return _dry_run(settings, workers)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        manifest = prepare(settings, workers, args.max_bad, print_say)
    except KeyboardInterrupt:
        print_say("stopped. Finished shards are kept: the same command goes on from there.")
        return INTERRUPTED
    return _report(args.target, manifest, args.max_bad)


def _dry_run(settings: Any, workers: int) -> int:
    from mae_jax.data.prepare.plan import free_space, make_plan
    from mae_jax.data.prepare.progress import duration

    sources = settings.open()
    plan, estimate = make_plan(settings, sources, {})
    for split, source in sources.items():
        print(f"{split:<8}{source.describe()}; {plan.shards[split]} shards")
    print(f"size    about {_size(estimate.size)}; {_size(free_space(settings.target))} free at {settings.target}")
    print(f"time    about {duration(estimate.seconds / max(workers, 1))} with {max(workers, 1)} processes")
    print(f"sample  {estimate.sampled} records, {len(estimate.failed)} of them rejected")
    for reason in estimate.failed[:5]:
        print(f"        {reason}")
    return 0


def _report(target: Path, manifest: dict[str, Any], max_bad: float) -> int:
    for split, held in manifest["splits"].items():
        mean, std = (", ".join(f"{v:.4f}" for v in held[k]) for k in ("mean", "std"))
        print(f"{split:<8}{held['count']} images, {len(held['shards'])} shards, {_size(held['bytes'])}; "
              f"mean ({mean}), std ({std})")  # fmt: skip
    rejected = manifest["rejected"]
    for bad in rejected[:5]:
        print(f"rejected  {bad['split']}/{bad['name']}: {bad['reason']}")
    if rejected[5:]:
        print(f"rejected  {len(rejected) - 5} more, all named in {target / 'manifest.json'}")
    if not manifest["complete"]:
        records = sum(manifest["plan"]["records"].values())
        print(f"FAILED: {len(rejected)} of {records} records were rejected, more than --max-bad {max_bad:g}. To accept "
              "them, give the same command with a larger --max-bad.")  # fmt: skip
        return 1
    print(f"written to {target}. Read it with data.source='tfds', data.path='{target}'")
    return 0


def _source(text: str, overrides: list[str]) -> tuple[str, dict[str, Any]]:
    """(name of the source, its fields) of SRC and the overrides."""
    from typing import get_type_hints

    from mae_jax.data.sources import SOURCES

    name, path = options.source_name(text)
    fields: dict[str, Any] = {"path": path} if path else {}
    hints = get_type_hints(SOURCES[name])
    for override in overrides:
        key, _, value = override.partition("=")
        if not key.startswith("data.") or key == "data.source":
            raise UserError(f"--config.{key} means nothing to `prepare`, which reads the source's fields "
                            "(--config.data.KEY=VALUE).")  # fmt: skip
        key = key.removeprefix("data.")
        fields[key] = value if hints.get(key) is str else _literal(value)
    return name, fields


def _literal(value: str) -> Any:
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value


def _size(size: float) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
