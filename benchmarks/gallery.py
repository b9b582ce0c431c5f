"""The gallery: trains tiny runs on bundled data, draws every kind of picture, writes docs/gallery.md and its images.

    python benchmarks/gallery.py                          everything, runs below runs/gallery (kept, and used again)
    python benchmarks/gallery.py --runs DIR               use and train runs there
    python benchmarks/gallery.py --use digits=runs/mine   a run that exists, instead of training that one
    python benchmarks/gallery.py --steps 2 --docs /tmp/x  quick check of the whole way, written elsewhere

A run that has finished is used as it is; one that was stopped goes on. Nothing is downloaded.
"""

import argparse
import dataclasses
import io
import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[1]
LARGEST = 150_000  # bytes of one picture
NO_TABLE = "--config.eval.protocols=()"
CURVE = ("--config.eval.every=20", "--config.log.every=5", NO_TABLE)
MASKS = ("0.1", "0.5", "0.9")


@dataclasses.dataclass(frozen=True)
class Run:
    """A config file, and what is changed in it."""

    config: str
    changes: tuple[str, ...] = ()


RUNS: dict[str, Run] = {
    "digits": Run("mae/tiny_digits"),
    "photos": Run(
        "mae/tiny_photos", ("--config.train.steps=600", "--config.checkpoint.every=100", "--config.checkpoint.keep=8")
    ),
    "spark": Run("spark/tiny_digits", ("--config.checkpoint.every=50", "--config.checkpoint.keep=8")),
    "hiendmae": Run("hiendmae/tiny_volumes", ("--config.checkpoint.every=100", "--config.checkpoint.keep=8")),
    "graphmae": Run("graphmae/tiny_blocks", ("--config.train.steps=200", NO_TABLE)),
    "cae": Run("cae/tiny_digits", ("--config.train.steps=300", NO_TABLE)),
    "lut": Run("lut/tiny_digits", ("--config.train.steps=300", NO_TABLE)),
    "maskalign": Run("maskalign/tiny_digits", ("--config.train.steps=300", NO_TABLE)),
    "croma": Run("croma/tiny_sensors", ("--config.train.steps=300", NO_TABLE)),
    **{f"graph_{r}": Run("graphmae/tiny_blocks", (f"--config.method.mask_ratio={r}", *CURVE)) for r in MASKS},
}


@dataclasses.dataclass(frozen=True)
class Picture:
    """One picture: its file, the command that draws it ("runs/NAME" stands for a run), and what to see in it."""

    file: str
    command: str
    text: str


@dataclasses.dataclass(frozen=True)
class Part:
    title: str
    text: str
    pictures: tuple[Picture, ...]


PARTS: tuple[Part, ...] = (
    Part(
        "Reconstructions over mask ratios",
        "One set of weights, the same images, more and more hidden. The masks are nested: what is hidden at a ratio "
        "stays hidden at every larger one. Where a small grid cannot give the ratio exactly, the caption says what is "
        "hidden.",
        (
            Picture("ratios_digits.png", "draw reconstructions --workdir runs/digits --count 4",
                    "MAE on 8 x 8 digits, trained at a ratio of 0.625."),
            Picture("ratios_photos.png", "draw reconstructions --workdir runs/photos --count 3 --ratios 0.5,0.75,0.9",
                    "MAE on crops of two photographs; these are of the half that was held out."),
            Picture("ratios_volumes.png", "draw reconstructions --workdir runs/hiendmae --count 3",
                    "Hi-End-MAE on volumes, their middle slice. It predicts patches normalised by their own mean and "
                    "deviation; these are taken from the original."),
        ),
    ),
    Part(
        "Reconstructions over training steps",
        "The same images under the same masks, by the weights of the checkpoints that were kept. Training draws such a "
        "sheet by itself (WORKDIR/pictures/steps.png) when log.pictures_every is set.",
        (
            Picture("steps_spark.png", "draw steps --workdir runs/spark --count 3",
                    "SparK on digits at 32 px: a ResNet that reads masked pictures by sparse convolution."),
            Picture("steps_photos.png", "draw steps --workdir runs/photos --count 3 --steps 100,200,400,600",
                    "MAE on photographs."),
        ),
    ),
    Part(
        "What each method predicts",
        "Pixels are not all that can be predicted; a method names its own pictures.",
        (
            Picture("lut.png", "reconstruct --workdir runs/lut --count 3", "LUT: pixels of one of its two views."),
            Picture("cae.png", "reconstruct --workdir runs/cae --count 3",
                    "CAE: codes of hidden patches, each drawn as its k-means centroid."),
            Picture("maskalign.png", "reconstruct --workdir runs/maskalign --count 3",
                    "MaskAlign reconstructs nothing: how well each visible patch agrees with the teacher, and how much "
                    "the teacher attends to each."),
            Picture("croma.png", "reconstruct --workdir runs/croma --count 3",
                    "CROMA: two sensors with a mask each; of 12 optical channels three are drawn, and one of radar."),
            Picture("graphmae.png", "reconstruct --workdir runs/graphmae",
                    "GraphMAE: a column per node, a row per feature."),
        ),
    ),
    Part(
        "Attention",
        "How much a query attends to each patch, in colour over the grey image; each map is scaled to its own maximum. "
        "The query is the class token, or the mean over patches where there is none, or the framed patch.",
        (
            Picture("attention_heads.png", "draw attention --workdir runs/digits --count 4",
                    "The class token's attention in the last block, by head."),
            Picture("attention_blocks.png", "draw attention --workdir runs/photos --count 3 --blocks all",
                    "Block by block, the mean over heads."),
            Picture("attention_query.png", "draw attention --workdir runs/photos --count 3 --query 2,3",
                    "Of one patch, framed, in the last block."),
            Picture("attention_volume.png", "draw attention --workdir runs/hiendmae --count 3 --blocks 0,5,11",
                    "In volumes, the middle slice."),
        ),
    ),
    Part(
        "Patch features",
        "The first three principal components of all patch features drawn, as red, green and blue and each by "
        "itself, with the share of the variance it has. Equal colours are similar features.",
        (
            Picture("features_photos.png", "draw features --workdir runs/photos --count 3",
                    "After the last norm, on photographs."),
            Picture("features_within.png", "draw features --workdir runs/digits --count 4 --within",
                    "Digits; each image's mean is taken out first, since it would fill the first components."),
            Picture("features_spark.png", "draw features --workdir runs/spark --count 3 --block 1",
                    "A level of a convolutional pyramid."),
        ),
    ),
    Part(
        "Embeddings",
        "Pooled features on their first two principal components. It is a linear view: distances mean what they say, "
        "and what is not in these two components is not seen.",
        (
            Picture("embedding_digits.png", "draw embedding --workdir runs/digits", "Held-out digits; labels were not "
                    "used in training."),
            Picture("embedding_graph.png", "draw embedding --workdir runs/graphmae",
                    "Nodes of a stochastic block model."),
        ),
    ),
    Part(
        "Learning curves",
        "A curve per run, named by what differs between the configs.",
        (
            Picture("curves.png", "plot " + " ".join(f"runs/graph_{r}" for r in MASKS)
                    + " --metric loss --metric probe/linear --log x", "GraphMAE at three mask ratios. Losses at "
                    "different ratios are means over different nodes and do not compare; the probe's percent do."),
        ),
    ),
)  # fmt: skip

HEAD = """\
# Gallery

Written by `python benchmarks/gallery.py`; do not edit. It trains the runs at the end of this page on data that
come with the package, and draws every picture by the command above it. [Pictures](pictures.md) explains the options.
"""

TAIL = """\

## The runs

The pictures on this page come from these runs, on a 2-core AMD EPYC virtual machine, shared.

| run | command | steps |
|---|---|---|
"""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "gallery", metavar="DIR", help="where runs lie")
    parser.add_argument("--use", action="append", default=[], metavar="NAME=DIR", help="another workdir for a run")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", metavar="DIR", help="where the page is written")
    parser.add_argument("--steps", type=int, metavar="N", help="train so many steps only: a check, no gallery")
    parser.add_argument("--only", metavar="RUN,RUN", help="only the pictures of these runs; the page is not written")
    args = parser.parse_args(argv)
    where = {name: args.runs / name for name in RUNS}
    for text in args.use:
        name, equals, path = text.partition("=")
        if name not in RUNS or not equals:
            parser.error(f"--use {text}: NAME=DIR expected, NAME one of {', '.join(RUNS)}")
        where[name] = Path(path)
    chosen = set(args.only.split(",")) if args.only else set(RUNS)
    if chosen - set(RUNS):
        parser.error(f"--only {args.only}: there are {', '.join(RUNS)}")
    used = {text.partition("=")[0] for text in args.use}
    for name in RUNS:
        if name in chosen and name not in used:
            train(name, where[name], args.steps)
    images = args.docs / "images" / "gallery"
    images.mkdir(parents=True, exist_ok=True)
    said = {}
    for picture in (picture for part in PARTS for picture in part.pictures):
        if runs_of(picture) <= chosen:
            said[picture.file] = draw(picture, where, images / picture.file, args.steps)
    if not args.only:
        (args.docs / "gallery.md").write_text(page(where, said))
    total = sum(path.stat().st_size for path in images.glob("*.png"))
    print(f"{len(said)} picture(s) in {images}, {total / 1e6:.2f} MB altogether")
    return 0


def train_command(name: str) -> list[str]:
    run = RUNS[name]
    return ["mae_jax", "train", "--config", f"configs/{run.config}.py", "--workdir", f"runs/{name}", *run.changes]


def train(name: str, workdir: Path, steps: int | None) -> None:
    """Train a run to its end, unless it is there."""
    command = [sys.executable, "-m", *train_command(name)]
    command[2], command[command.index(f"runs/{name}")] = "mae_jax.commands.main", str(workdir)
    if steps is not None:
        curve = name.startswith("graph_")
        quick = {
            "train.steps": steps, "train.batch": 1 if name.startswith("graph") else 8, "optim.warmup": 1,
            "log.every": 1, "checkpoint.every": 1, "checkpoint.keep": 8, "eval.every": int(curve), "eval.limit": 64,
            "eval.protocols": "()",
        }  # fmt: skip
        command += [f"--config.{key}={value}" for key, value in quick.items()]
    if finished(workdir, steps):
        print(f"{name}: {workdir} is there", flush=True)
        return
    print(f"{name}: training in {workdir}", flush=True)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"training of {name} failed:\n{done.stderr[-2000:]}")


def finished(workdir: Path, steps: int | None) -> bool:
    """Whether the checkpoint of the last step is there."""
    config = workdir / "config.json"
    if not config.is_file():
        return False
    last = json.loads(config.read_text())["train"]["steps"]
    return last == (steps or last) and (workdir / "checkpoints" / str(last)).is_dir()


def runs_of(picture: Picture) -> set[str]:
    return {word.removeprefix("runs/") for word in shlex.split(picture.command) if word.startswith("runs/")}


def draw(picture: Picture, where: dict[str, Path], path: Path, steps: int | None) -> str:
    """Draw it -> what the command said."""
    from mae_jax.commands.main import main as mae_jax

    words = [str(where[w.removeprefix("runs/")]) if w.startswith("runs/") else w for w in shlex.split(picture.command)]
    if steps is not None and "--steps" in words:
        words[words.index("--steps") + 1] = ",".join(str(i + 1) for i in range(steps))
    print(f"{path.name}: mae_jax {picture.command}", flush=True)
    with redirect_stdout(io.StringIO()) as out:
        status = mae_jax([*words, "--output", str(path)])
    if status:
        sys.exit(f"{path.name} failed: mae_jax {shlex.join(words)}")
    shrink(path)
    return out.getvalue().strip().rsplit(", written to", 1)[0]


def shrink(path: Path) -> None:
    """The same picture in fewer bytes; with a palette where that loses nothing, or else it would be too large."""
    with Image.open(path) as picture:
        whole = picture.convert("RGB")
    few = whole.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    if few.convert("RGB").tobytes() == whole.tobytes() or len(_png(whole)) > LARGEST:
        whole = few
    data = _png(whole)
    if len(data) > LARGEST:
        sys.exit(f"{path} has {len(data)} bytes, more than {LARGEST}: draw fewer images")
    path.write_bytes(data)


def _png(image: Image.Image) -> bytes:
    image.save(file := io.BytesIO(), format="PNG", optimize=True)
    return file.getvalue()


def page(where: dict[str, Path], said: dict[str, str]) -> str:
    """docs/gallery.md."""
    lines = [HEAD]
    for part in PARTS:
        lines.append(f"\n## {part.title}\n\n{part.text}\n")
        for p in part.pictures:
            lines.append(f"\n{p.text}\n\n```\nmae_jax {p.command}\n```\n\n![{said[p.file]}](images/gallery/{p.file})\n")
    lines.append(TAIL)
    for name in RUNS:
        steps = json.loads((where[name] / "config.json").read_text())["train"]["steps"]
        lines.append(f"| {name} | `{shlex.join(train_command(name))}` | {steps} |\n")
    return "".join(lines)


if __name__ == "__main__":
    sys.exit(main())
