"""What each stage of the host's input path costs: read, decode, augment, batch."""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from mae_jax.data.decode import BadImage
from mae_jax.data.order import draws
from mae_jax.data.plan import open_record
from mae_jax.data.sources.base import Source
from mae_jax.data.views import Views

STAGES = ("read", "decode", "augment", "batch", "transfer")

ADVICE = {
    "read": "Files are slow to come: copy the data to a local disk, or put them into large shards with "
    "`mae_jax prepare` (many small files cost a seek each; what fits into memory is read from disk only once).",
    "decode": "Decoding costs most: store the images smaller, as `mae_jax prepare SRC DST --short-side 256` does, or "
    "as raw pixels (`--format raw`), or give it more cores (data.workers). Videos: re-encode them at short side 256 or "
    "320, and let `data.repeats` views share what is decoded.",
    "augment": "Cropping and resizing cost most: augment.where=device moves them into the train step. "
    "augment.randaugment is the dearest of the host's operations.",
    "batch": "Copying samples into batches costs most: lower augment.canvas, or the image size.",
    "transfer": "Moving batches to the device costs most: lower augment.canvas, or crop on the host "
    "(augment.where=host).",
}


def measure(
    source: Source, views: Views, records: Sequence[int], seconds: float, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Seconds per sample of "read", "decode", "augment" and "batch", in this thread.

    Args:
        records: what to read, in this order, again from the start until `seconds` are over.

    The same draws run twice over one opened record: the second time without decoding, which gives both stages.
    """
    spent = dict.fromkeys(("read", "decode", "augment", "batch"), 0.0)
    done, begin = 0, clock()
    for place, i in _rounds(records):
        if done and clock() - begin > seconds:
            break
        draw = partial(draws, 0, place)
        try:
            t0 = clock()
            record = open_record(source, i)
            t1 = clock()
            views(record, draw)
            t2 = clock()
            sample = views(record, draw)
            t3 = clock()
        except (BadImage, OSError):
            continue
        spent["read"] += t1 - t0
        spent["decode"] += max(0.0, (t2 - t1) - (t3 - t2))
        spent["augment"] += t3 - t2
        spent["batch"] += _copy(sample, clock)
        done += 1
    return {stage: total / max(done, 1) for stage, total in spent.items()}


def _rounds(records: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(place, record) for up to a thousand rounds."""
    for place in range(1000 * len(records)):
        yield place, records[place % len(records)]


def _copy(sample: dict[str, Any], clock: Callable[[], float]) -> float:
    """Seconds to copy a sample into a batch: once into its part, once into the whole."""
    begin = clock()
    for _ in range(2):
        for array in sample.values():
            np.array(array)
    return clock() - begin


def table(seconds: dict[str, float]) -> str:
    """The stages as lines of text, the slowest marked."""
    whole = sum(seconds.values())
    slowest = max(seconds, key=lambda stage: seconds[stage])
    lines = [f"{'stage':10}{'ms per sample':>15}{'samples/s, one core':>22}{'share':>8}"]
    for stage in STAGES:
        if stage in seconds:
            s = seconds[stage]
            mark = "  <- slowest" if stage == slowest else ""
            lines.append(f"{stage:10}{s * 1e3:15.3f}{1 / max(s, 1e-9):22,.0f}{s / whole:8.0%}{mark}")
    return "\n".join(lines)
