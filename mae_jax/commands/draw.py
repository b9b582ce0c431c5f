"""`mae_jax draw`."""

import argparse
from pathlib import Path

from mae_jax.commands import options
from mae_jax.core.errors import UserError, nearest

HELP = "draw what weights do: mask ratios, training steps, attention, features, an embedding"

KINDS = {
    "reconstructions": "the same images under several mask ratios (--ratios)",
    "steps": "the same images and masks, by the weights of every checkpoint that the run kept (--steps)",
    "attention": "what blocks and heads attend to, laid over the images (--blocks, --heads, --query)",
    "features": "patch features by their first three principal components, as red, green and blue",
    "embedding": "pooled features of a split on two principal components, coloured by label",
}

DESCRIPTION = """\
Draw a picture of what weights do, as a PNG. KIND is one of

{}

Images come from files (any size; resized and cropped as for evaluation) or from the test split of the data, spread
evenly over it. docs/pictures.md shows each kind.
""".format("\n".join(f"  {kind:<16}{text}" for kind, text in KINDS.items()))

OWN = {  # options that some kinds alone read
    "ratios": ("reconstructions",), "show": ("reconstructions", "steps"), "draw": ("reconstructions", "steps"),
    "steps": ("steps",), "blocks": ("attention",), "heads": ("attention",), "query": ("attention",),
    "block": ("features",), "foreground": ("features",), "within": ("features",),
    "split": ("embedding",),
}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments to its parser."""
    parser.description, parser.epilog = DESCRIPTION, options.OVERRIDES_HELP
    parser.add_argument("kind", metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("images", nargs="*", type=Path, metavar="IMAGE", help="files (default: the test split)")
    options.add_weights(parser)
    parser.add_argument("--output", type=Path, metavar="FILE.png", help="default: KIND.png in the workdir, or here")
    parser.add_argument(
        "--count", type=int, metavar="N", help="images of the split (default: 6; an embedding takes 2000 samples)"
    )
    group = parser.add_argument_group("reconstructions, steps")
    group.add_argument("--ratios", metavar="R,R", help="mask ratios (default: of 0.25,0.5,0.75,0.9 what fits)")
    group.add_argument("--steps", metavar="N,N", help="checkpoints (default: all that were kept, at most 6)")
    group.add_argument("--show", metavar="NAME", help="which of the method's pictures (default: pasted)")
    group.add_argument("--draw", type=int, metavar="I", help="which random masks (default: 0)")
    group = parser.add_argument_group("attention, features")
    group.add_argument(
        "--blocks", metavar="B,B", help="blocks whose attention is drawn, from 0, or 'all' (default: last)"
    )
    group.add_argument(
        "--heads", metavar="H,H", help="heads from 0, 'all' or 'mean' (default: all; the mean where there are --blocks)"
    )
    group.add_argument(
        "--query", metavar="Q", help="who asks: class, mean (over patches) or ROW,COLUMN (default: class, else mean)"
    )
    group.add_argument(
        "--block", type=int, metavar="B", help="features after this block or pyramid level (default: end)"
    )
    group.add_argument(
        "--foreground", type=float, metavar="T",
        help="only patches whose first component, scaled to 0..1, is above T (-T: below)",
    )  # fmt: skip
    group.add_argument(
        "--within",
        action="store_true",
        default=None,
        help="take each image's mean out first: differences inside images",
    )
    group = parser.add_argument_group("embedding")
    group.add_argument("--split", choices=("train", "test"), help="default: test")


def run(args: argparse.Namespace) -> int:
    """Run the verb; returns the exit status."""
    _check(args)
    ratios = _numbers(args.ratios, "--ratios", float)
    steps, query = _numbers(args.steps, "--steps", int), _query(args.query)
    blocks, heads = (
        value if value in (None, "all", "mean") else _numbers(value, name, int)
        for value, name in ((args.blocks, "--blocks"), (args.heads, "--heads"))
    )
    if blocks == "mean":
        raise UserError("--blocks takes numbers from 0, or 'all'; the mean is over heads: --heads mean.")
    opened = options.opened(args)
    from mae_jax.commands import drawing
    from mae_jax.eval.pictures import save_png

    drawer = drawing.Drawer(opened, args.images, args.count)
    if args.kind == "reconstructions":
        picture, said = drawer.reconstructions(ratios, args.draw or 0, args.show)
    elif args.kind == "steps":
        picture, said = drawer.steps(args.workdir, steps, args.draw or 0, args.show)
    elif args.kind == "attention":
        picture, said = drawer.attention(blocks, heads, query)
    elif args.kind == "features":
        picture, said = drawer.features(args.block, args.foreground, bool(args.within))
    else:
        picture, said = drawer.embedding(args.split or "test")
    path = args.output or (args.workdir or Path()) / f"{args.kind}.png"
    options.write_picture(path, lambda path: save_png(path, picture))
    print(f"{said}, written to {path}")
    return 0


def _check(args: argparse.Namespace) -> None:
    """Raise UserError on what does not belong together, before anything is loaded."""
    if args.kind not in KINDS:
        raise UserError(f"there is no picture '{args.kind}'. {nearest(args.kind, KINDS)}")
    for name, kinds in OWN.items():
        if getattr(args, name) is not None and args.kind not in kinds:
            raise UserError(
                f"--{name} belongs to `mae_jax draw {' and '.join(kinds)}`; '{args.kind}' has no use for it."
            )
    if args.count is not None and args.count < 1:
        raise UserError(f"--count {args.count}: at least 1 expected.")
    if args.kind == "embedding" and args.images:
        raise UserError("an embedding is drawn of a split of the data (--split, --config.data...), not of image files.")
    if args.kind == "steps" and args.workdir is None:
        raise UserError("a file of weights is of one step; give the --workdir of a run whose checkpoints to compare.")
    if args.kind == "steps" and args.step is not None:
        raise UserError("`draw steps` compares checkpoints: choose them by --steps N,N instead of --step.")
    options.check_png(args.output)


def _numbers(text: str | None, option: str, kind: type) -> list | None:
    if text is None:
        return None
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"{option} {text}: numbers with commas between them expected.") from None


def _query(text: str | None) -> str | tuple[int, int] | None:
    if text in (None, "class", "mean"):
        return text
    numbers = _numbers(text, "--query", int) if text.replace(",", "").isdigit() else []
    if numbers is None or len(numbers) != 2:
        raise UserError(f"--query {text}: 'class', 'mean' or a patch as ROW,COLUMN expected.")
    return numbers[0], numbers[1]
