"""The `mae_jax` command. A verb is a module here with HELP, add_arguments(parser) and run(args) -> exit status."""

import argparse
import importlib
import sys

import mae_jax
from mae_jax.commands.options import Help, split_overrides
from mae_jax.core.errors import UserError, nearest
from mae_jax.core.exits import BAD_INPUT

VERBS = (  # in the order of a user's day
    "doctor", "prepare", "data", "compile", "train", "checkpoint", "replay", "finetune", "segment", "evaluate",
    "embed", "reconstruct", "draw", "plot", "convert", "list", "parity", "new",
)  # fmt: skip

DESCRIPTION = "Self-supervised pretraining by masking, on JAX."

EPILOG = """\
start here:
  mae_jax train --config configs/mae/tiny_digits.py --workdir runs/digits
  mae_jax reconstruct --workdir runs/digits
  mae_jax train --config configs/mae/vit_s16_imagenet.py --workdir runs/mine --config.data.path=/my/images

`mae_jax VERB --help` explains a verb.
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status (core/exits.py)."""
    argv = sys.argv[1:] if argv is None else argv
    verb = next((a for a in argv if not a.startswith("-")), None)
    try:
        if verb is not None and verb not in VERBS:
            raise UserError(f"there is no verb '{verb}'. {nearest(verb, VERBS)}")
        argv, overrides = split_overrides(argv)
        args = make_parser().parse_args(argv)
        if args.verb is None:
            make_parser().print_help()
            return 0
        if overrides and not hasattr(args, "config"):
            raise UserError(f"'{verb}' reads no config, so --config.{overrides[0]} means nothing to it.")
        args.overrides = overrides
        return module(args.verb).run(args) or 0
    except UserError as error:
        print(f"mae_jax{f' {verb}' if verb in VERBS else ''}: {error}", file=sys.stderr)
        return BAD_INPUT
    except BrokenPipeError:  # `mae_jax list | head`
        return 0


def make_parser() -> argparse.ArgumentParser:
    """The parser of all verbs. Verb modules import nothing heavy at their top."""
    parser = argparse.ArgumentParser("mae_jax", description=DESCRIPTION, epilog=EPILOG, formatter_class=Help)
    parser.add_argument("--version", action="version", version=f"mae_jax {mae_jax.__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", title="verbs")
    for verb in VERBS:
        own = verbs.add_parser(verb, help=module(verb).HELP, formatter_class=Help, allow_abbrev=False)
        module(verb).add_arguments(own)
    return parser


def module(verb: str):
    """The module behind a verb."""
    return importlib.import_module(f"mae_jax.commands.{verb}")


if __name__ == "__main__":
    sys.exit(main())
