"""The run: shards over processes, what is done is kept, and at the end the files by which TFDS knows a data set."""

import contextlib
import fcntl
import json
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from mae_jax.core.errors import UserError
from mae_jax.data.moments import Moments
from mae_jax.data.prepare.plan import Plan, Settings, check_target, difference, free_space, make_plan
from mae_jax.data.prepare.progress import Progress
from mae_jax.data.prepare.shard import NOTES, Stopped, finished, write_json, write_shard
from mae_jax.data.sources import Source
from mae_jax.data.workers import end_with

Job = tuple[str, int]  # split, number of the shard
LOOK = 0.2  # seconds between looks at how far the workers are
ROOM = 1.05  # a run needs this times what the sample says


def prepare(settings: Settings, workers: int, max_bad: float, say: Callable[[str], None]) -> dict[str, Any]:
    """Write the data set, or go on where a run was broken off.

    Args:
        workers: processes that write shards; 0 writes in this one.
        max_bad: the share of records that may be rejected.
        say: takes messages, one line each.

    Returns: the manifest; `complete` in it is False where more than `max_bad` of the records were rejected: the
        shards are there then, and dataset_info.json is not.

    Raises: UserError; KeyboardInterrupt, after which the same call goes on.
    """
    from mae_jax.data.pipeline import fingerprint

    if workers < 0 or not 0 <= max_bad <= 1:
        raise UserError(f"--workers {workers} and --max-bad {max_bad:g}: at least 0, and a share in [0, 1], expected.")
    sources, target = settings.open(), settings.target
    prints = {split: fingerprint(source) for split, source in sources.items()}
    check_target(target, (NOTES,))
    with _alone(target):
        path = target / "manifest.json"
        if path.is_file():
            plan = _known_plan(path, settings, prints)
        else:
            plan, estimate = make_plan(settings, sources, prints)
            if estimate.size * ROOM > free_space(target):
                raise UserError(f"About {estimate.size / 1e9:.2f} GB will be written to {target}, where "
                                f"{free_space(target) / 1e9:.2f} GB are free.")  # fmt: skip
            write_json(path, {"complete": False, "settings": settings.identity(), "plan": plan.to_json()})
        (target / NOTES).mkdir(exist_ok=True)
        notes = _write_all(target, plan, sources, workers, say)
        manifest = _manifest(settings, plan, notes, max_bad)
        if manifest["complete"]:
            _describe(target, plan, notes)
        write_json(path, manifest)
        return manifest


@contextlib.contextmanager
def _alone(target: Path) -> Iterator[None]:
    """No other run writes here at the same time."""
    number = os.open(target, os.O_RDONLY)
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise UserError(f"Another `mae_jax prepare` is writing to {target}.") from error
    finally:
        os.close(number)


def _known_plan(path: Path, settings: Settings, prints: dict[str, Any]) -> Plan:
    """The plan of the run that was broken off. Raises UserError where this one is another."""
    try:
        old = json.loads(path.read_text(encoding="utf-8"))
        plan, before = Plan.from_json(old["plan"]), old["settings"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no manifest of `mae_jax prepare` ({error!r}): remove the directory.") from error
    changed = difference(before, settings.identity()) or difference(dict(plan.fingerprints), prints, "source")
    if changed:
        raise UserError(f"{path.parent} was begun with other settings or other data ({changed}): give the same ones to "
                        "go on, or another directory.")  # fmt: skip
    return plan


def _write_all(
    target: Path, plan: Plan, sources: dict[str, Source], workers: int, say: Callable[[str], None]
) -> dict[Job, Any]:
    """The note of every shard, written now or before."""
    jobs = [(split, shard) for split, count in plan.shards.items() for shard in range(count)]
    progress = Progress(sum(plan.records.values()))
    notes: dict[Job, Any] = {}
    context = multiprocessing.get_context("spawn")
    # Without locks, which a killed worker could hold: each job counts in a place of its own.
    counts, stop = context.RawArray("q", len(jobs)), context.RawValue("b", 0)
    old = 0

    def take(job: Job, done: tuple[bool, dict[str, Any]]) -> None:
        nonlocal old
        kept, notes[job] = done
        if kept:
            old += 1
            progress.skip(done[1]["count"] + len(done[1]["rejected"]))

    try:
        if not workers:
            _start(target, plan, sources, counts, stop, None)
            for place, job in enumerate(jobs):
                take(job, _work(*job, place))
                progress(sum(counts))
        else:
            arguments = (target, plan, sources, counts, stop, os.getpid())
            with ProcessPoolExecutor(min(workers, len(jobs)), context, _start, arguments) as pool:
                try:
                    with _noted() as asked:
                        futures: dict[Future, Job] = {pool.submit(_work, *job, i): job for i, job in enumerate(jobs)}
                        left = set(futures)
                        while left and not asked:
                            done, left = wait(left, LOOK, FIRST_COMPLETED)
                            for future in done:
                                take(futures[future], future.result())
                            progress(sum(counts))
                    if left:
                        raise KeyboardInterrupt
                except BaseException:
                    stop.value = 1
                    pool.shutdown(cancel_futures=True)
                    raise
    except BrokenProcessPool as error:
        raise UserError("A worker process ended by itself (out of memory?). Finished shards are kept: give the same "
                        "command again, with fewer --workers.") from error  # fmt: skip
    finally:
        progress.close()
    if old:
        say(f"{old} of {len(jobs)} shards were there already, and whole")
    return {job: notes[job] for job in jobs}


@contextlib.contextmanager
def _noted() -> Iterator[list[int]]:
    """Signals that ask to stop are listed, not raised: in the middle of the pool's own code one would be lost."""
    asked: list[int] = []
    old = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            old[number] = signal.signal(number, lambda number, _: asked.append(number))
    try:
        yield asked
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


_state: tuple[Path, Plan, dict[str, Source], Any, Any] | None = None


def _start(target: Path, plan: Plan, sources: dict[str, Source], counts: Any, stop: Any, parent: int | None) -> None:
    """What a worker holds. One with a parent ends when that does, and leaves Ctrl-C to it."""
    global _state
    _state = (target, plan, sources, counts, stop)
    if parent is None:
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end_with(parent)


def _work(split: str, shard: int, place: int) -> tuple[bool, dict[str, Any]]:
    """(whether the shard was there already, its note); records done are counted at `place`."""
    assert _state is not None
    target, plan, sources, counts, stop = _state

    def tick() -> bool:
        counts[place] += 1
        return not stop.value

    if stop.value:
        raise Stopped
    note = finished(target, plan, split, shard)
    if note is not None:
        return True, note
    return False, write_shard(target, plan, split, shard, sources[split], tick)


def _manifest(settings: Settings, plan: Plan, notes: dict[Job, Any], max_bad: float) -> dict[str, Any]:
    import numpy
    import PIL

    import mae_jax

    rejected = [
        {"split": split, "name": name, "reason": reason}
        for (split, _), note in notes.items()
        for name, reason in note["rejected"]
    ]
    splits = {}
    for split in plan.shards:
        own = [(job, note) for job, note in notes.items() if job[0] == split]
        total = sum((Moments.from_json(note["moments"]) for _, note in own), Moments())
        splits[split] = {
            "count": sum(note["count"] for _, note in own),
            "bytes": sum(note["bytes"] for _, note in own),
            "mean": total.mean.tolist(),
            "std": total.std.tolist(),
            "pixels": total.pixels,
            "shards": [
                {"file": plan.file(*job)} | {k: note[k] for k in ("sha256", "count", "bytes")} for job, note in own
            ],
        }
    return {
        "complete": len(rejected) <= max_bad * sum(plan.records.values()),
        "versions": {"mae_jax": mae_jax.__version__, "pillow": PIL.__version__, "numpy": numpy.__version__},
        "settings": settings.identity(),
        "plan": plan.to_json(),
        "splits": splits,
        "rejected": rejected,
    }


def _describe(target: Path, plan: Plan, notes: dict[Job, Any]) -> None:
    """dataset_info.json, features.json and the classes' names, as TFDS writes them; the first comes last."""
    base = "tensorflow_datasets.core.features."
    features: dict[str, Any] = {"image": plan.format.feature()}
    if plan.classes:
        features["label"] = {
            "classLabel": {"numClasses": str(len(plan.classes))},
            "pythonClassName": base + "class_label_feature.ClassLabel",
        }
        (target / "label.labels.txt").write_bytes(b"".join(os.fsencode(c) + b"\n" for c in plan.classes))
    elif plan.labelled:
        tensor = {"dtype": "int64", "encoding": "none", "shape": {}}
        features["label"] = {"pythonClassName": base + "tensor_feature.Tensor", "tensor": tensor}
    every = {"featuresDict": {"features": features}, "pythonClassName": base + "features_dict.FeaturesDict"}
    write_json(target / "features.json", every)
    splits = []
    for split, count in plan.shards.items():
        own = [notes[split, i] for i in range(count)]
        splits.append({
            "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
            "name": split,
            "numBytes": str(sum(note["payload"] for note in own)),
            "shardLengths": [str(note["count"]) for note in own],
        })  # fmt: skip
    info = {"fileFormat": "array_record", "name": plan.name, "splits": splits, "version": "1.0.0"}
    write_json(target / "dataset_info.json", info)


def print_say(message: str) -> None:
    print(f"mae_jax prepare: {message}", file=sys.stderr, flush=True)
