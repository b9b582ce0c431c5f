"""`mae_jax reconstruct`."""

import argparse
from pathlib import Path

from mae_jax.commands import options

HELP = "draw originals, masked inputs and reconstructions as a PNG"

DESCRIPTION = """\
Draw what a model makes of images: original, masked, reconstruction, and the reconstruction with the visible patches
pasted in. Takes image files (any size; they are resized and cropped as for evaluation), or else images of the run's own
test split. The model is a run's, or a weights file's, ours or a published one that has its decoder. A model of
normalised pixels is shown in true colours: each patch's mean and deviation are taken from the original.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments to its parser."""
    parser.description, parser.epilog = DESCRIPTION, options.OVERRIDES_HELP
    parser.add_argument("images", nargs="*", type=Path, metavar="IMAGE", help="files (default: the test split)")
    options.add_weights(parser)
    parser.add_argument("--output", type=Path, metavar="FILE.png",
                        help="default: DIR/reconstruction.png, or ./reconstruction.png of --weights")  # fmt: skip
    parser.add_argument("--count", type=int, default=8, metavar="N", help="images of the split (default: 8)")
    parser.add_argument("--draw", type=int, default=0, metavar="I", help="which random masks (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Run the verb; returns the exit status."""
    opened = options.opened(args)
    from mae_jax.core.errors import UserError
    from mae_jax.eval.pictures import save_png
    from mae_jax.eval.reconstruct import draw_grid, reconstructor
    from mae_jax.train.pictures import image_files, spread
    from mae_jax.weights.uses import check_use

    check_use(opened.weights, "reconstruct")
    run = opened.run
    if not args.images and args.workdir is None and "data" not in opened.weights.config and not args.overrides:
        raise UserError(f"{args.weights} names no data: give image files, or a source by --config.data...")
    batch = image_files(run, args.images) if args.images else spread(run, run.open("test"), args.count)
    draw = reconstructor(run.method, run.augment, steps=run.config.train.steps)
    drawn = draw(opened.state["params"], opened.rest, batch, args.draw)
    if not drawn:
        raise UserError(f"the method '{run.method.name}' predicts nothing that can be drawn as an image.")
    path = args.output or (args.workdir or Path()) / "reconstruction.png"
    count = len(next(iter(batch.values())))
    save_png(path, draw_grid(drawn, run.colours, count))
    of = f"at step {int(opened.state['step'])}" if args.workdir else f"by {args.weights}"
    print(f"{count} sample(s) {of}, written to {path}")
    return 0
