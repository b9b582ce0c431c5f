"""`mae_jax convert`."""

import argparse
from pathlib import Path

from mae_jax.core.errors import UserError

HELP = "published weights in, weights out: MAE, Hugging Face, timm, big_vision"

DESCRIPTION = """\
Read weights of any kind and write them in another. SRC is the workdir of a run, a weights file of ours, a file of
facebookresearch/mae (.pth), of timm or big_vision (.safetensors, .pth, .npz), of mmpretrain, VideoMAE, Point-MAE,
Point-CMAE, Audio-MAE or Bird-MAE (.pth), or a folder of the Hugging Face hub.
Every tensor is accounted for; what does not fit is named. Says what the weights can be used for.
"""

EPILOG = """\
--to:
  native       DST.safetensors, which every verb reads as --weights (the default)
  safetensors  a folder: the same file with a model card (README.md)
  hf           a folder for transformers: ViTMAEForPreTraining, ViTForImageClassification or ViTModel.from_pretrained
  timm         a folder for timm: create_model("local-dir:DST", pretrained=True); the encoder, with its head if any
  mae          DST.safetensors with the names of facebookresearch/mae

examples:
  mae_jax convert --list
  mae_jax convert mae_pretrain_vit_base.pth mae_b16.safetensors
  mae_jax convert runs/mine exported --to hf
  mae_jax convert facebook/vit-mae-base/ vit_mae --to timm
docs/weights.md says which file is which.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments to its parser."""
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    parser.add_argument("src", nargs="?", metavar="SRC", help="workdir, file or folder")
    parser.add_argument(
        "dst", nargs="?", type=Path, metavar="DST", help="what is written (without: only say what SRC is)"
    )
    parser.add_argument("--list", action="store_true", help="show the published files that are known by name")
    parser.add_argument("--to", default="native", metavar="FORMAT", help="native (default), safetensors, hf, timm, mae")
    parser.add_argument("--as", dest="as_", choices=("whole", "encoder"), default="whole",
                        help="encoder: leave decoder and head aside")  # fmt: skip
    parser.add_argument("--step", type=int, metavar="N", help="checkpoint of a workdir (default: the newest good one)")
    parser.add_argument("--average", action="store_true", help="the averaged weights of a run with optim.average")
    parser.add_argument("--overwrite", action="store_true", help="replace DST if it exists")
    group = parser.add_argument_group("what a published file does not say of itself")
    group.add_argument("--name", default="", metavar="NAME", help="which published file it is (--list); none: of none")
    group.add_argument("--norm-pix", choices=("yes", "no"), help="whether its decoder predicts normalised pixels")
    group.add_argument("--heads", type=int, metavar="N", help="attention heads of the encoder")
    group.add_argument("--decoder-heads", type=int, metavar="N", help="attention heads of the decoder")
    group.add_argument(
        "--image-size",
        type=int,
        nargs="+",
        metavar="N",
        help="rows and columns, or one number; of spectrograms frames and mel bins",
    )
    group.add_argument("--norm-eps", type=float, metavar="E", help="of every layer norm, also against the file")
    group.add_argument("--pool", choices=("mean", "normed_mean", "class"), help="what a classifier's head reads")
    group.add_argument("--mean", type=float, nargs="+", metavar="M", help="of the input, per channel, in [0, 1]")
    group.add_argument("--std", type=float, nargs="+", metavar="S", help="of the input, per channel")


def run(args: argparse.Namespace) -> int:
    """Run the verb; returns the exit status."""
    from mae_jax.weights import catalog

    if args.list:
        print(catalog.table())
        return 0
    if args.src is None:
        raise UserError("name what to read, and what to write: `mae_jax convert SRC DST`; --list shows what is known.")
    from mae_jax.weights.export import export
    from mae_jax.weights.layout import averaged, encoder_alone
    from mae_jax.weights.store import is_run, open_weights
    from mae_jax.weights.uses import describe

    run = is_run(args.src)
    if args.step is not None and not run:
        raise UserError("--step chooses a checkpoint of a workdir, and SRC is none.")
    weights = open_weights(args.src, step=args.step, hints=_hints(args))
    if args.average:
        weights = averaged(weights)
    if args.as_ == "encoder":
        weights = encoder_alone(weights)
    print(f"{args.src}\n{describe(weights)}")
    if args.dst is None:
        return 0
    left_out = export(weights, args.dst, args.to, run=Path(args.src) if run else None, overwrite=args.overwrite)
    for part, why in left_out.items():
        print(f"not written  {part}: {why}")
    print(f"written to {args.dst} ({args.to})")
    return 0


def _hints(args: argparse.Namespace):
    from mae_jax.weights.hints import Hints

    size = args.image_size
    if size is not None and len(size) > 2:
        raise UserError("--image-size takes one number, or rows and columns.")
    pair = None if size is None else (size[0], size[-1])
    if (args.mean is None) != (args.std is None):
        raise UserError("--mean and --std belong together: give both.")
    return Hints(
        args.name, None if args.norm_pix is None else args.norm_pix == "yes", args.heads, args.decoder_heads, pair,
        args.norm_eps, args.pool, None if args.mean is None else tuple(args.mean),
        None if args.std is None else tuple(args.std), args.as_ == "encoder",
    )  # fmt: skip
