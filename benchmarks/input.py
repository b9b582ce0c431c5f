"""How fast the input path is: images/s of the whole pipeline, and of JPEG decoding by each library that is installed.

    python benchmarks/input.py --source photos --size 224 --batch 64 --workers 2
    python benchmarks/input.py --source folder --path ~/images --size 224 --workers 4
    python benchmarks/input.py --decode

Prints a line for each measurement and, last, all of them as one JSON object.
"""

import argparse
import io
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np
from PIL import Image

from mae_jax.data.decode import decode
from mae_jax.data.pipeline import train_batches
from mae_jax.data.sources import SOURCES, make_source
from mae_jax.data.transforms import HostAugment


def pipeline_rate(args: argparse.Namespace) -> dict:
    """Median, slowest and fastest images/s over `repeats` stretches of `seconds` each, after one batch of warm-up."""
    fields = {"path": args.path} if args.path else {}
    source = make_source(args.source, "train", fields)
    scale = (0.2, 1.0) if args.crop else None
    augment = HostAugment((args.size, args.size), args.channels, crop_scale=scale)
    rates = []
    with train_batches(source, augment, batch=args.batch, seed=0, workers=args.workers) as batches:
        begin = time.perf_counter()
        next(batches)
        first = time.perf_counter() - begin
        for _ in range(2 * max(1, args.workers) + 4):  # what was computed ahead does not count
            next(batches)
        for _ in range(args.repeats):
            rates.append(stretch(lambda: len(next(batches)["label"]), args.seconds))
    return {"what": "pipeline", "source": source.describe(), "workers": args.workers, "size": args.size,
            "batch": args.batch, "first_batch_s": round(first, 2), **spread(rates)}  # fmt: skip


def decode_rates(args: argparse.Namespace) -> list[dict]:
    """Whole-image decoding of a 500 x 333 JPEG of quality 90 (ImageNet's typical size), one core."""
    picture = Image.fromarray(make_source("photos", "train", {})[0]["image"]).resize((500, 333))
    buffer = io.BytesIO()
    picture.save(buffer, "jpeg", quality=90)
    data = buffer.getvalue()
    decoders: dict[str, Callable] = {"mae_jax (Pillow)": lambda: decode(data, 3)}
    try:
        import simplejpeg

        decoders["simplejpeg"] = lambda: simplejpeg.decode_jpeg(data, fastdct=True, fastupsample=True)
    except ImportError:
        pass
    try:
        import cv2

        cv2.setNumThreads(1)
        decoders["cv2"] = lambda: cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except ImportError:
        pass
    rates: dict[str, list[float]] = {name: [] for name in decoders}
    for _ in range(args.repeats):  # in turn, so that a busy moment of the machine hits all alike
        for name, run in decoders.items():
            rates[name].append(stretch(partial(one, run), args.seconds / 4))
    return [{"what": "decode", "library": name, **spread(r)} for name, r in rates.items()]


def one(run: Callable[[], object]) -> int:
    """Run once; one image done."""
    run()
    return 1


def stretch(step: Callable[[], int], seconds: float) -> float:
    """Images/s of `step` (which returns how many it did) repeated for about `seconds`."""
    done, begin, took = 0, time.perf_counter(), 0.0
    while took < seconds:
        done += step()
        took = time.perf_counter() - begin
    return done / took


def spread(rates: list[float]) -> dict:
    return {
        "images_per_s": round(statistics.median(rates)),
        "low": round(min(rates)),
        "high": round(max(rates)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="photos", choices=sorted(SOURCES))
    parser.add_argument("--path", help="for the sources folder and npz")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--channels", type=int, default=3)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each stretch")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-crop", dest="crop", action="store_false", help="resize and cut the centre instead")
    parser.add_argument("--decode", action="store_true", help="compare JPEG decoders instead")
    args = parser.parse_args()
    results = decode_rates(args) if args.decode else [pipeline_rate(args)]
    for r in results:
        title = r.get("library") or f"{r['source']}, {r['size']} px, {r['workers']} workers"
        print(f"{r['what']}: {title}: {r['images_per_s']} images/s ({r['low']}..{r['high']})")
    machine = {"cores": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version(),
               "numpy": np.__version__, "pillow": Image.__version__}  # fmt: skip
    print(json.dumps({"results": results, **machine}))


if __name__ == "__main__":
    main()
