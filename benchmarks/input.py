"""How fast the input path is.

    python benchmarks/input.py --versus --json input.json              # per core, against PyTorch's usual ways
    python benchmarks/input.py --source folder --path ~/images --size 224 --workers 4    # one pipeline, as it trains
    python benchmarks/input.py --decode                                # JPEG decoders compared

--versus makes a set of JPEGs (500 x 375, quality 90, out of scikit-learn's photographs), the same prepared at short
side 256 and as raw pixels, and lets all contestants take turns on one core with one thread each: from files (in the
page cache) to a batch of random-resized crops with flips. Ours ends in uint8, which is normalised on the device;
PyTorch's end in normalised float32, as its users write it. Rates are per second of CPU time, so
that what other programs take of the core does not count; still compare ratios of rounds, not rates of runs.

Prints a line for each measurement, and all of them as JSON (--json, or the last line).
"""

import argparse
import io
import itertools
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from mae_jax.core.errors import UserError
from mae_jax.data.canvas import Canvas
from mae_jax.data.decode import codec, decode
from mae_jax.data.order import Shuffled
from mae_jax.data.pipeline import make_plan, train_batches
from mae_jax.data.resize import resize
from mae_jax.data.sources import SOURCES, Arrays, Source, make_source
from mae_jax.data.transforms import HostAugment, cover
from mae_jax.data.views import View, Views

BATCH = 64
QUALITY = 90
SMALL = (256, 344)  # canvas that holds what was prepared at short side 256
GRAIN = 5.0  # grey levels: files of about 65 kB, as ImageNet's at this size and quality


def versus(args: argparse.Namespace) -> list[dict]:
    """Every contestant in turn, `repeats` times for `seconds`; ratios to PIL's way from the original files."""
    _one_core()
    with tempfile.TemporaryDirectory() as folder:
        sets = make_sets(Path(folder), args.images)
        sizes = {kind: round(sum(f.stat().st_size for f in files) / args.images) for kind, files in sets.items()}
        contestants, notes = line_up(sets, args)
        rates: dict[str, list[float]] = {name: [] for name in contestants}
        for batches in contestants.values():
            next(batches)  # imports and first touches do not count
        for turn in range(args.repeats):
            names = list(contestants)
            for name in names[turn % len(names) :] + names[: turn % len(names)]:  # nobody always follows the same one
                time.sleep(0.1)  # for what the one before may still have under way
                rates[name].append(stretch(partial(next, contestants[name]), args.seconds, time.process_time))
    base = next(name for name in rates if name.endswith("/ original, pil"))
    out = []
    for name, found in rates.items():
        ratio = statistics.median(r / b for r, b in zip(found, rates[base], strict=True))
        out.append({"what": "versus", "title": name, **spread(found), "ratio": round(ratio, 2), "to": base})
    for note in notes:
        print(f"left out: {note}", file=sys.stderr)
    return [*out, {"what": "sets", "files": args.images, "mean_bytes": sizes}]


def line_up(sets: dict[str, list[Path]], args: argparse.Namespace) -> tuple[dict[str, Iterator[int]], list[str]]:
    """(name -> endless batches, what could not take part and why)."""
    import input_peers as peers

    size, out, notes = args.size, {}, []
    views = Views({"image": View(HostAugment((size, size), 3))})
    sources = {kind: open_set(kind, files) for kind, files in sets.items()}
    for kind, source in sources.items():
        out[f"mae_jax host path / {kind}"] = our_batches(source, views)
    for kind, source in sources.items():
        canvas = (args.canvas, args.canvas) if kind == "original" else SMALL
        views = Views({"image": Canvas(canvas, 3)})
        out[f"mae_jax device path, host's share, canvas {canvas[0]}x{canvas[1]} / {kind}"] = our_batches(source, views)
    try:
        import torch

        torch.set_num_threads(1)
        name, load = peers.pil_transform(size, args.torchvision)
        for kind in ("original", "prepared 256"):
            files = [str(file) for file in sets[kind]]
            out[f"{name} / {kind}, pil"] = peers.torch_batches(files, load, BATCH)
    except ImportError as error:
        raise UserError(f"--versus compares with PyTorch: {error.name} is missing (pip install torch).") from error
    try:
        name, load = peers.opencv_transform(size)
        out[f"{name} / original"] = peers.torch_batches([str(file) for file in sets["original"]], load, BATCH)
    except ImportError as error:
        notes.append(f"opencv ({error})")
    try:
        import tensorflow  # noqa: F401

        files = [str(file) for file in sets["original"]]
        out["tf.data decode_and_crop_jpeg / original"] = peers.tensorflow_batches(files, size, BATCH)
    except ImportError as error:
        notes.append(f"tf.data ({error})")
    return out, notes


def our_batches(source: Source, views: Views) -> Iterator[int]:
    """Endless batches as a worker computes them; yields the sizes of their parts."""
    plan = make_plan(source, [(0, views)], BATCH, 0, range(BATCH), Shuffled(0, source.parts))
    for number in itertools.count():
        yield len(plan(number)["index"])


def make_sets(folder: Path, count: int) -> dict[str, list[Path]]:
    """Files "original", "prepared 256" (JPEG) and "raw 256" (one memory-mapped array), made from two photographs."""
    photos = [make_source("photos", split, {})[0]["image"] for split in ("train", "test")]
    rng, size = np.random.default_rng(0), (375, 500)
    short = cover(size, (256, 256))
    sets: dict[str, list[Path]] = {"original": [], "prepared 256": []}
    raw = np.lib.format.open_memmap(folder / "raw.npy", "w+", np.uint8, (count, *short, 3))
    for i in range(count):
        image = mixed(photos, size, rng)
        for kind, pixels in {"original": image, "prepared 256": resize(image, short)}.items():
            file = folder / kind / f"class{i % 4}" / f"{i:05}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(file, "jpeg", quality=QUALITY)
            sets[kind].append(file)
        raw[i] = pixels
    raw.flush()
    return sets | {"raw 256": [folder / "raw.npy"]}


def jpeg_folder(folder: Path, count: int) -> None:
    """The "original" set alone, in `folder`."""
    photos = [make_source("photos", split, {})[0]["image"] for split in ("train", "test")]
    rng = np.random.default_rng(0)
    for i in range(count):
        file = folder / f"class{i % 4}" / f"{i:05}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mixed(photos, (375, 500), rng)).save(file, "jpeg", quality=QUALITY)


def mixed(photos: list[np.ndarray], size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A crop of one photograph, flipped or not, some of the other laid over it, and a camera's grain."""
    a, b = (HostAugment(size, 3, crop_scale=(0.5, 1.0))({"image": photos[i]}, rng) for i in rng.permutation(2)[:2])
    weight = rng.uniform(0, 0.3)
    grain = rng.normal(0, GRAIN, (*size, 1))
    return np.clip(np.round((1 - weight) * a + weight * b + grain), 0, 255).astype(np.uint8)


def open_set(kind: str, files: list[Path]) -> Source:
    if kind.startswith("raw"):
        images = np.load(files[0], mmap_mode="r")
        return Arrays(images, np.full(len(images), -1), kind)
    return make_source("folder", "train", {"path": str(files[0].parent.parent), "holdout": 0.0})


def pipeline_rate(args: argparse.Namespace) -> dict:
    """Median, slowest and fastest images/s over `repeats` stretches of `seconds` each, after one batch of warm-up."""
    fields = {"path": args.path} if args.path else {}
    source = make_source(args.source, "train", fields)
    scale = (0.2, 1.0) if args.crop else None
    views = Views({"image": View(HostAugment((args.size, args.size), args.channels, crop_scale=scale))})
    rates = []
    with train_batches(source, views, batch=args.batch, seed=0, workers=args.workers) as batches:
        begin = time.perf_counter()
        next(batches)
        first = time.perf_counter() - begin
        for _ in range(2 * max(1, args.workers) + 4):  # what was computed ahead does not count
            next(batches)
        for _ in range(args.repeats):
            rates.append(stretch(lambda: len(next(batches)["label"]), args.seconds))
    return {"what": "pipeline", "title": f"{source.describe()}, {args.size} px, {args.workers} workers",
            "batch": args.batch, "first_batch_s": round(first, 2), **spread(rates)}  # fmt: skip


def decode_rates(args: argparse.Namespace) -> list[dict]:
    """Whole-image decoding of a 500 x 375 JPEG of quality 90 (ImageNet's typical size), one core."""
    _one_core()
    picture = Image.fromarray(make_source("photos", "train", {})[0]["image"]).resize((500, 375))
    buffer = io.BytesIO()
    picture.save(buffer, "jpeg", quality=QUALITY)
    data = buffer.getvalue()
    decoders: dict[str, Callable] = {
        "mae_jax": lambda: decode(data, 3),
        "Pillow": lambda: np.asarray(Image.open(io.BytesIO(data))),
    }
    try:
        import simplejpeg

        decoders["simplejpeg"] = lambda: simplejpeg.decode_jpeg(data)
        decoders["simplejpeg, fast DCT"] = lambda: simplejpeg.decode_jpeg(data, fastdct=True)
        decoders["simplejpeg, fast DCT and upsampling"] = lambda: simplejpeg.decode_jpeg(
            data, fastdct=True, fastupsample=True
        )
    except ImportError:
        print("left out: simplejpeg (not installed)", file=sys.stderr)
    try:
        import cv2

        cv2.setNumThreads(1)
        decoders["opencv"] = lambda: cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except ImportError:
        print("left out: opencv (not installed)", file=sys.stderr)
    exact = decoders["Pillow"]().astype(np.float64)
    rates: dict[str, list[float]] = {name: [] for name in decoders}
    for _ in range(args.repeats):  # in turn, so that a busy moment of the machine hits all alike
        for name, run in decoders.items():
            rates[name].append(stretch(partial(one, run), args.seconds / 4, time.process_time))
    return [{"what": "decode", "title": name, "psnr_to_pillow_db": psnr(decoders[name](), exact), **spread(r)}
            for name, r in rates.items()]  # fmt: skip


def psnr(image: np.ndarray, exact: np.ndarray) -> float | None:
    """dB on 8 bits; None where they are equal (or where opencv gives another order of channels: take the better)."""
    error = min(np.mean((image[..., order] - exact) ** 2) for order in ([0, 1, 2], [2, 1, 0]))
    return None if error == 0 else round(10 * np.log10(255**2 / error), 1)


def one(run: Callable[[], object]) -> int:
    """Run once; one image done."""
    run()
    return 1


def stretch(step: Callable[[], int], seconds: float, clock: Callable[[], float] = time.perf_counter) -> float:
    """Images/s of `step` (which returns how many it did) repeated for about `seconds` of `clock`."""
    done, begin, took = 0, clock(), 0.0
    while took < seconds:
        done += step()
        took = clock() - begin
    return done / took


def spread(rates: list[float]) -> dict:
    return {
        "images_per_s": round(statistics.median(rates)),
        "low": round(min(rates)),
        "high": round(max(rates)),
    }


def _one_core() -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--versus", action="store_true", help="against PyTorch's usual ways, per core")
    parser.add_argument("--torchvision", metavar="PATH", help="an unzipped torchvision wheel")
    parser.add_argument("--images", type=int, default=256, help="of the set that --versus makes")
    parser.add_argument("--canvas", type=int, default=512, help="side of the device path's canvas")
    parser.add_argument("--decode", action="store_true", help="compare JPEG decoders")
    parser.add_argument("--source", default="photos", choices=sorted(SOURCES))
    parser.add_argument("--path", help="for the sources that read files")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--channels", type=int, default=3)
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each stretch")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--no-crop", dest="crop", action="store_false", help="resize and cut the centre instead")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    if args.images < BATCH:
        parser.error(f"--images {args.images}: at least one batch, {BATCH}")
    try:
        results = versus(args) if args.versus else decode_rates(args) if args.decode else [pipeline_rate(args)]
    except UserError as error:
        parser.error(str(error))
    for r in results:
        if "images_per_s" in r:
            more = f", {r['ratio']} x" if "ratio" in r else ""
            if "psnr_to_pillow_db" in r:
                more = f", {r['psnr_to_pillow_db']} dB" if r["psnr_to_pillow_db"] else ", Pillow's pixels"
            print(f"{r['what']}: {r['title']}: {r['images_per_s']} images/s ({r['low']}..{r['high']}){more}")
    report = json.dumps({"argv": sys.argv, "results": results, **machine()})
    if args.json:
        Path(args.json).write_text(report + "\n")
    else:
        print(report)


def machine() -> dict:
    cpu = platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), cpu)
    versions = {}
    for module in ("torch", "torchvision", "cv2", "tensorflow"):
        if module in sys.modules:
            versions[module] = str(getattr(sys.modules[module], "__version__", "transforms of an unpacked wheel"))
    return {"cpu": cpu, "cores": os.cpu_count(), "load": os.getloadavg(), "python": platform.python_version(),
            "numpy": np.__version__, "codec": codec(), "peers": versions}  # fmt: skip


if __name__ == "__main__":
    main()
