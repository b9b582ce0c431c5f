"""Which samples are drawn, prepared as for evaluation, and where a run keeps its pictures."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from mae_jax import modalities
from mae_jax.core.errors import UserError
from mae_jax.data.decode import BadImage, convert
from mae_jax.data.sources import Source
from mae_jax.eval.pictures import save_png
from mae_jax.eval.progress_sheets import from_files, layout
from mae_jax.eval.reconstruct import draw_grid
from mae_jax.train.build import Run


def spread(run: Run, source: Source, count: int) -> dict[str, np.ndarray]:
    """`count` samples of a split, evenly spread over its records; fewer where a stretch holds none that can be read.

    Raises:
      UserError: there is none at all.
    """
    count = min(count, len(source))
    if count < 1:
        raise UserError("nothing to draw: --count must be at least 1, and the split must hold a record.")
    borders = [i * len(source) // count for i in range(count + 1)]
    views, found, reasons = run.views(train=False), [], []
    for stretch in (range(*pair) for pair in itertools.pairwise(borders)):
        for index in stretch:
            try:
                found.append(views(source[index], np.random.default_rng))  # nothing is drawn in evaluation
                break
            except (BadImage, OSError) as error:  # as in training, the next record takes its place
                reasons.append(f"record {index}: {error}")
    if not found:
        raise UserError(f"nothing to draw: no record of the split can be read ({'; '.join(reasons[:3])}).")
    return _batched(found)


def image_files(run: Run, paths: Sequence[Path]) -> dict[str, np.ndarray]:
    """Images, or what else the method reads, from files.

    Raises:
      UserError: a file that is missing or cannot be decoded, by name.
    """
    name, leaf = next(iter(run.method.batch_spec.items()))
    kind, records = modalities.find(name, run.config.augment), []
    for path in paths:
        try:
            record = {"image": path.read_bytes()} if kind is None else kind.given(name, leaf, path)
            records.append(record | {"label": -1})
        except BadImage as error:
            raise UserError(f"cannot use the {name} '{path}': {error}") from None
        except OSError as error:
            raise UserError(f"cannot read the image '{path}': {error.strerror}.") from None
    try:
        return _prepared(run, records)
    except BadImage:
        for path, record in zip(paths, records, strict=True):
            try:
                _prepared(run, [record])
            except BadImage as error:
                raise UserError(f"cannot use the {'image' if kind is None else name} '{path}': {error}") from None
        raise


def save_step(run: Run, workdir: Path, step: int, drawn: Mapping[str, Any]) -> UInt8[np.ndarray, "H W 3"]:
    """Write WORKDIR/pictures/step_STEP.png, and steps.png of this and the ones before; returns the first."""
    folder, most = workdir / "pictures", run.config.log.pictures
    picture = draw_grid(drawn, run.colours, most)
    save_png(folder / f"step_{step:08d}.png", picture, layout=layout(drawn, most))
    files = {int(path.stem.removeprefix("step_")): path for path in folder.glob("step_*.png")}
    sheet = from_files({earlier: path for earlier, path in files.items() if earlier <= step})
    if sheet is not None:
        save_png(folder / "steps.png", sheet)
    return picture


def _prepared(run: Run, records: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
    views = run.views(train=False)
    return _batched([views(record, np.random.default_rng) for record in records])


def _batched(samples: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: _stack([sample[name] for sample in samples]) for name in samples[0]}


def _stack(arrays: Sequence[np.ndarray]) -> np.ndarray:
    if len({array.dtype for array in arrays}) > 1:  # files of 8 and of 16 bits: white is 1 in all of them
        arrays = [convert(array, "float32") for array in arrays]
    return np.stack(arrays)
