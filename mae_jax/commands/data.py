"""`mae_jax data`."""

import argparse
import json
import time
from pathlib import Path
from typing import Any

from mae_jax.commands import options

HELP = "show what the model will see, and how fast it comes"

DESCRIPTION = """\
Show what a config feeds to the model: a PNG of augmented training samples with their labels, shape and range of every
array, the cost of each stage of the input path (read, decode, augment, batch, transfer) with advice about the slowest,
the rate of the whole pipeline as it is configured, and the data's mean and standard deviation per channel.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments to its parser."""
    parser.description, parser.epilog = DESCRIPTION, options.OVERRIDES_HELP
    parser.add_argument("--config", required=True, metavar="FILE[:ARG]", help="config file: .py (code) or .json (data)")
    parser.add_argument("--output", type=Path, default=Path("data.png"), metavar="FILE.png", help="default: data.png")
    parser.add_argument("--count", type=int, default=32, metavar="N", help="samples in the picture (default: 32)")
    parser.add_argument("--moments", type=int, default=1000, metavar="N", help="images for mean and std; default: 1000")
    parser.add_argument("--seconds", type=float, default=3.0, metavar="S", help="of each measurement (default: 3)")
    parser.add_argument("--json", type=Path, metavar="FILE.json", help="write the figures there as well")


def run(args: argparse.Namespace) -> int:
    """Run the verb; returns the exit status."""
    config = options.from_file(args.config, args.overrides)
    from mae_jax.core.errors import UserError
    from mae_jax.data import stages
    from mae_jax.data.decode import codec
    from mae_jax.data.workers import cores
    from mae_jax.eval.pictures import save_png
    from mae_jax.train.build import build
    from mae_jax.train.feed import train_batches

    if args.count < 1:
        raise UserError(f"--count is {args.count}: at least 1 sample expected.")
    run = build(config)
    source = run.open("train")
    now = run.at(0)
    print(f"{source.describe()}\n")
    with train_batches(run, source, 0) as batches:
        first = next(batches)
        rate = _rate(batches, config.train.batch, args.seconds)
    seen = _on_device(now, first)
    print(_leaves(now, first, seen), end="\n\n")
    if sheet := _sheet(now, source, first, seen, args.count):
        save_png(args.output, sheet[0])
        print(f"{sheet[1]} samples as the model gets them: {args.output}\n")
    order = [int(i) for i in first["index"]]
    seconds = stages.measure(source, now.views(True), order, args.seconds) | {"transfer": _transfer(now, first)}
    slowest = max(seconds, key=lambda stage: seconds[stage])
    print(f"{stages.table(seconds)}\n\n{stages.ADVICE[slowest]}\n")
    print("\n".join(f"{task + ':':27}{name}" for task, name in codec().items()), end="\n\n")
    how = f"{config.data.workers} worker processes" if config.data.workers else "threads of one process"
    print(f"all together, as configured ({how}, {cores()} cores): {rate:,.0f} samples/s")
    figures = {"seconds_per_sample": seconds, "slowest": slowest, "samples_per_second": rate, "cores": cores(),
               "records": len(source), "workers": config.data.workers, "codec": codec()}  # fmt: skip
    if moments := _moments(now, source, args.moments):
        figures |= moments
        print(
            f"mean {_tuple(moments['mean'])}, std {_tuple(moments['std'])} per channel of {moments['images']} records "
            f"(white is 1); the config has mean {config.augment.mean}, std {config.augment.std}"
        )
    if batches.problems.found:
        print(f"{len(batches.problems.found)} records could not be read and were replaced (named above)")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


def _rate(batches: Any, batch: int, seconds: float) -> float:
    """Samples/s of the running pipeline, without what it had ready."""
    for _ in range(2):
        next(batches)
    done, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < seconds:
        next(batches)
        done += 1
    return done * batch / (time.perf_counter() - begin)


def _on_device(run: Any, batch: dict[str, Any]) -> dict[str, Any]:
    """The batch after the device's share of the augmentation, as float arrays on the host."""
    import jax
    import jax.numpy as jnp

    from mae_jax.core.keys import Context

    def augment(leaves: Any) -> Any:
        rows = jnp.arange(len(jax.tree.leaves(leaves)[0]))
        return run.augment(leaves, Context(jax.random.key(run.config.train.seed), 0, rows))

    placed = {name: x for name, x in run.put(batch).items() if name != "valid"}
    return jax.device_get(jax.jit(augment)(placed))


def _leaves(run: Any, batch: dict[str, Any], seen: dict[str, Any]) -> str:
    """What travels and what arrives, a line per array."""
    import numpy as np

    lines = [f"{'array':16}{'from the host':28}{'in the model':28}{'lowest':>9}{'highest':>9}{'mean':>9}{'std':>9}"]
    for name in seen:
        sent, got = batch[name], np.asarray(seen[name], np.float32)
        shapes = (f"{x.dtype} {'x'.join(map(str, x.shape))}" for x in (sent, seen[name]))
        values = "".join(f"{v:9.3f}" for v in (got.min(), got.max(), got.mean(), got.std()))
        lines.append(f"{name:16}" + "".join(f"{s:28}" for s in shapes) + values)
    return "\n".join(lines)


def _sheet(run: Any, source: Any, batch: dict[str, Any], seen: dict[str, Any], count: int) -> Any:
    """(picture, number of samples), or None where no leaf can be shown."""
    import jax.numpy as jnp
    import numpy as np

    from mae_jax import modalities
    from mae_jax.eval.samples import sample_sheet
    from mae_jax.train.inputs import is_image

    augment, fixed = run.config.augment, run.config.augment.normalise == "fixed"
    shown, colours = [], []
    for name, leaf in run.method.batch_spec.items():
        kind, x = modalities.find(name, augment), jnp.asarray(seen[name])
        picture = x if is_image(name) else kind.picture(leaf, x) if kind else None
        if picture is None:
            continue
        mean, std = kind.colours(leaf) if kind else (augment.mean, augment.std) if fixed and not leaf.unit else ((), ())
        shown.append(np.asarray(picture, np.float32)[:count])
        colours.append((mean or (0.0,), std or (1.0,)))
    if not shown:
        return None
    labels = [_label(source, label) for label in batch["label"][: len(shown[0])]]
    columns = max(1, min(8, 24 * shown[0].shape[1] // shown[0].shape[2]))  # of strips fewer
    return sample_sheet(shown, labels, colours, columns=columns), len(shown[0])


def _label(source: Any, label: Any) -> str:
    if getattr(label, "ndim", 0) or label < 0:
        return ""
    return source.classes[label] if label < len(source.classes) else str(label)


def _transfer(run: Any, batch: dict[str, Any], times: int = 5) -> float:
    """Seconds per sample to bring a batch to the devices."""
    import jax

    jax.block_until_ready(run.put(batch))
    begin = time.perf_counter()
    for _ in range(times):
        jax.block_until_ready(run.put(batch))
    return (time.perf_counter() - begin) / times / len(batch["index"])


def _moments(run: Any, source: Any, most: int) -> dict[str, Any]:
    """Mean and std of up to `most` records, spread over the data: of their whole images, or of what an evaluation sends
    of leaves of another kind; nothing where none has colours to normalise."""
    import numpy as np

    from mae_jax import modalities
    from mae_jax.data.decode import BadImage
    from mae_jax.data.moments import Moments
    from mae_jax.data.order import Draws
    from mae_jax.data.plan import open_record

    spec, views = run.method.batch_spec, run.views(False)
    kinds = {name: kind for name in spec if (kind := modalities.find(name, run.config.augment))}
    normalised = [name for name, kind in kinds.items() if "mean" in kind.heeds]
    if most < 1 or not ("image" in spec or normalised):
        return {}

    def pixels(record: dict[str, Any]) -> Any:
        if "image" in spec:
            return record["image"].pixels(spec["image"].shape[-1])
        sent = views(record, Draws(0, 0))[normalised[0]]
        return sent.reshape(-1, *sent.shape[-2:])

    total, count = Moments(), 0
    for i in np.unique(np.linspace(0, len(source) - 1, min(most, len(source))).astype(int)):
        try:
            total = total + Moments.of(pixels(open_record(source, int(i))))
            count += 1
        except (BadImage, OSError):
            continue
    if not count:
        return {}
    return {"mean": total.mean.tolist(), "std": total.std.tolist(), "images": count}


def _tuple(values: Any) -> str:
    return "(" + ", ".join(f"{v:.3f}" for v in values) + ("," if len(values) == 1 else "") + ")"
