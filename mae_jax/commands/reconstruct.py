"""`mae_jax reconstruct`."""

import argparse
from pathlib import Path

from mae_jax.commands import options

HELP = "draw originals, masked inputs and reconstructions as a PNG"

DESCRIPTION = """\
Draw what a run's model makes of images: original, masked, reconstruction, and the reconstruction with the visible
patches pasted in. Takes image files (any size; they are resized and cropped as for evaluation), or else images of the
run's own test split. A model of normalised pixels is shown in true colours: each patch's mean and deviation are taken
from the original.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments to its parser."""
    parser.description, parser.epilog = DESCRIPTION, options.OVERRIDES_HELP
    parser.add_argument("images", nargs="*", type=Path, metavar="IMAGE", help="files (default: the test split)")
    options.add_workdir(parser)
    parser.add_argument("--output", type=Path, metavar="FILE.png", help="default: DIR/reconstruction.png")
    parser.add_argument("--count", type=int, default=8, metavar="N", help="images of the split (default: 8)")
    parser.add_argument("--draw", type=int, default=0, metavar="I", help="which random masks (default: %(default)s)")
    parser.set_defaults(config=None)


def run(args: argparse.Namespace) -> int:
    """Run the verb; returns the exit status."""
    config = options.from_workdir(args.workdir, args.overrides)
    options.compile_cache()
    from mae_jax.core.errors import UserError
    from mae_jax.eval.pictures import save_png
    from mae_jax.eval.reconstruct import draw_grid, reconstructor
    from mae_jax.train.build import build
    from mae_jax.train.pictures import image_files, spread
    from mae_jax.train.state import rest_of
    from mae_jax.train.warm_start import load_weights

    run = build(config)
    batch = image_files(run, args.images) if args.images else spread(run, run.open("test"), args.count)
    weights = load_weights(run, args.workdir, args.step)
    draw = reconstructor(run.method, run.augment, steps=config.train.steps)
    drawn = draw(weights["params"], rest_of(weights, run.frozen), batch, args.draw)
    if not drawn:
        raise UserError(f"the method '{run.method.name}' predicts nothing that can be drawn as an image.")
    path = args.output or args.workdir / "reconstruction.png"
    count = len(next(iter(batch.values())))
    save_png(path, draw_grid(drawn, run.colours, count))
    print(f"{count} sample(s) at step {int(weights['step'])}, written to {path}")
    return 0
