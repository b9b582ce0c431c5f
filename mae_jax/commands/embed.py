"""`mae_jax embed`."""

import argparse
from pathlib import Path

from mae_jax.commands import options
from mae_jax.core.errors import UserError

HELP = "write a feature vector per image of a folder or another source, as .npz or .parquet"

DESCRIPTION = """\
Encode every image of a data source and write a row for each: features, the file's name, and label and class where the
source has classes. SRC is a directory of images, or SOURCE:PATH for any other source:

  mae_jax embed --workdir runs/mine --source /my/images --out features.parquet
  mae_jax embed --weights mae.safetensors --source npz:/data/cells.npz --out features.npz --pool class

Without --source the run's own data are taken. Images are prepared as for evaluation. One that cannot be read has no
row; it is counted and named, and listed in FILE.bad.txt. The file appears when it is complete.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments to its parser."""
    parser.description, parser.epilog = DESCRIPTION, options.OVERRIDES_HELP
    options.add_weights(parser)
    parser.add_argument("--source", metavar="SRC", help="directory, or SOURCE:PATH (default: the run's own data)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="FILE.npz or FILE.parquet")
    parser.add_argument("--pool", default="mean", metavar="HOW",
                        help="mean, raw_mean, class, sum or max of the tokens (default: %(default)s)")  # fmt: skip
    parser.add_argument("--tokens", action="store_true", help="write every image's patch tokens besides")
    parser.add_argument("--split", choices=("all", "train", "test"), default="all", help="default: %(default)s")
    parser.add_argument("--batch", type=int, metavar="N", help="images at a time (default: eval.batch)")


def run(args: argparse.Namespace) -> int:
    """Run the verb; returns the exit status."""
    if args.batch is not None and args.batch < 1:
        raise UserError(f"--batch {args.batch}: at least 1 expected.")
    own = [] if args.source is None else source_overrides(args.source, args.split)
    if args.batch is not None:
        own.append(f"eval.batch={args.batch}")
    args.overrides = ["eval.limit=none", *own, *args.overrides]
    opened = options.opened(args)
    from mae_jax.library.embed import embed

    done = embed(opened, args.out, how=args.pool, tokens=args.tokens, split=args.split)
    print(f"{done.count} vectors of {done.dim} numbers written to {done.path}")
    if done.bad:
        listed = args.out.with_name(args.out.name + ".bad.txt")
        listed.write_text("".join(f"{' '.join(text.split())}\n" for text in done.bad))
        print(f"{len(done.bad)} image(s) could not be read and have no row; {listed} names them")
    return 0


def source_overrides(text: str, split: str) -> list[str]:
    """Config overrides for SOURCE:PATH; where all is wanted, nothing is held out for testing."""
    from mae_jax.data.sources import SOURCES
    from mae_jax.methods.base import config_fields

    name, path = options.source_name(text)
    fields = config_fields(SOURCES[name])
    if path and "path" not in fields:
        raise UserError(f"the data source '{name}' has no path; set its fields by --config.data.KEY=VALUE.")
    found = [f"data.source={name}", "data.train_split=train", "data.test_split=test"]
    found += [f"data.path={path}"] if path else []
    return found + (["data.holdout=0.0"] if split == "all" and "holdout" in fields else [])
