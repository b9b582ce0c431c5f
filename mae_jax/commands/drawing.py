"""The pictures of `mae_jax draw`, of opened weights; apart from draw.py, which imports nothing heavy."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import UInt8

from mae_jax.core.errors import UserError
from mae_jax.core.mesh import use_mesh
from mae_jax.data.sources import Source
from mae_jax.eval import attention_maps, feature_maps
from mae_jax.eval.embedding import embedding_plot
from mae_jax.eval.features import extract
from mae_jax.eval.planes import drawn_input
from mae_jax.eval.progress_sheets import RATIOS, at_ratio, hidden_share, possible, ratio_sheet, step_sheet
from mae_jax.eval.reconstruct import reconstructor
from mae_jax.eval.run import encoder
from mae_jax.train.build import Run
from mae_jax.train.checkpoint import saved_steps
from mae_jax.train.feed import eval_batches
from mae_jax.train.pictures import image_files, spread
from mae_jax.train.state import rest_of
from mae_jax.train.warm_start import load_weights
from mae_jax.weights.opened import Opened
from mae_jax.weights.uses import check_use

Drawn = tuple[UInt8[np.ndarray, "H W 3"], str]  # the picture, and a line that says what it is
COUNT, EMBEDDED, STEPS = 6, 2000, 6  # images in a sheet, samples in an embedding, checkpoints in a row


class Drawer:
    """Draws what weights do.

    Args:
      images: files; none: `count` images (by default `COUNT`) of the test split.
    """

    def __init__(self, opened: Opened, images: Sequence[Path] = (), count: int | None = None):
        self.opened, self.run, self.images, self.count = opened, opened.run, images, count

    def reconstructions(self, ratios: Sequence[float] | None, draw: int = 0, show: str | None = None) -> Drawn:
        """The same images under several mask ratios (None: those of `RATIOS` that the method can have)."""
        run, steps = self.run, self.opened.config.train.steps
        ratios = possible(run.method, RATIOS) if ratios is None else ratios
        methods = {ratio: at_ratio(run.method, ratio) for ratio in ratios}
        check_use(self.opened.weights, "reconstruct")
        batch, drawn = self._batch(), {}
        for ratio, method in methods.items():
            pictures = reconstructor(method, run.augment, steps=steps)
            drawn[ratio] = self._drawable(pictures(self.opened.state["params"], self.opened.rest, batch, draw))
        hidden = {ratio: share for ratio, m in methods.items() if (share := hidden_share(m)) is not None}
        sheet = ratio_sheet(drawn, run.colours, most=_rows(batch), show=show, hidden=hidden)
        return sheet, f"{_rows(batch)} sample(s) at mask ratios {', '.join(f'{r:g}' for r in ratios)}"

    def steps(self, workdir: Path, steps: Sequence[int] | None, draw: int = 0, show: str | None = None) -> Drawn:
        """The same images and masks by the weights of several checkpoints (None: at most `STEPS` of those kept)."""
        run, saved = self.run, saved_steps(workdir)
        if steps is None and len(saved) < 2:
            kept = f"only that of step {saved[0]}" if saved else "none"
            raise UserError(
                f"{workdir} keeps {kept} of its checkpoints, and at least two are needed to compare. Train with "
                f"--config.checkpoint.every=N and --config.checkpoint.keep=8 to have more; with log.pictures_every, "
                f"training itself draws {workdir / 'pictures' / 'steps.png'}."
            )
        missing = [step for step in steps or () if step not in saved]
        if missing:
            raise UserError(
                f"{workdir} has no checkpoint of step {', '.join(map(str, missing))}. There are: "
                f"{', '.join(map(str, saved))}."
            )
        chosen = sorted(set(steps)) if steps else [saved[i] for i in _evenly(len(saved), STEPS)]
        pictures = reconstructor(run.method, run.augment, steps=self.opened.config.train.steps)
        batch, drawn = self._batch(), {}
        for step in chosen:
            state = load_weights(run, workdir, step)
            drawn[step] = self._drawable(pictures(state["params"], rest_of(state, run.frozen), batch, draw))
        sheet = step_sheet(drawn, run.colours, most=_rows(batch), show=show)
        return sheet, f"{_rows(batch)} sample(s) by the checkpoints of steps {', '.join(map(str, chosen))}"

    def attention(
        self,
        blocks: Sequence[int] | Literal["all"] | None,
        heads: Sequence[int] | Literal["all", "mean"] | None,
        query: attention_maps.Query | None,
    ) -> Drawn:
        """Attention maps: by default all heads of the last block, or the mean over heads of several blocks."""
        run = self.run
        with use_mesh(run.mesh):
            found = attention_maps.attended(
                run.method, run.augment, self.opened.state["params"], self.opened.rest, self._batch()
            )
        images, caption = drawn_input(run.method, found.batch, run.colours)
        query = query or ("class" if found.prefix else "mean")
        chosen = list(range(len(found.maps))) if blocks == "all" else list(blocks or (-1,))
        if heads is None:
            heads = "all" if len(chosen) == 1 else "mean"
        named = [] if heads == "mean" else None if heads == "all" else list(heads)
        sheet = attention_maps.attention_sheet(
            found, images, caption, blocks=chosen, heads=named, mean=heads in ("all", "mean"), query=query
        )
        if isinstance(query, tuple):
            who = f"the patch at row {query[0]}, column {query[1]}"
        else:
            who = {"class": "the class token", "mean": "the patches (mean)"}[query]
        names = ", ".join(str(b % len(found.maps)) for b in chosen)
        return sheet, f"attention of {who} in block(s) {names} of {len(found.maps)}, {len(images)} sample(s)"

    def features(self, block: int | None, foreground: float | None = None, within: bool = False) -> Drawn:
        """Principal components of patch features; see `feature_maps`."""
        run = self.run
        with use_mesh(run.mesh):
            tokens, grid, prepared = feature_maps.patch_features(
                run.method, run.augment, self.opened.state["params"], self.opened.rest, self._batch(), block
            )
        images, caption = drawn_input(run.method, prepared, run.colours)
        found = feature_maps.colour(tokens, foreground, within)
        sheet = feature_maps.feature_sheet(found, grid, images, caption)
        share = 100 * float(found.share.sum())
        inside = " within images" if within else ""
        front = "" if foreground is None else f", {100 * found.front.mean():.0f} % of the patches in front"
        return sheet, f"{len(images)} sample(s), three components with {share:.0f} % of the variance{inside}{front}"

    def embedding(self, split: str) -> Drawn:
        """Pooled features of a split in the plane."""
        run = self.run
        source = self._split(split)
        encode = encoder(run.method, run.config.eval.pool, run.augment)
        params, rest = self.opened.state["params"], self.opened.rest
        limited = _limited(run, self.count or EMBEDDED)
        with use_mesh(run.mesh):
            found = extract(
                {"features": lambda batch: encode(params, rest, batch)}, eval_batches(limited, source), place=run.place
            )["features"]
        title = f"{run.method.name}, step {int(self.opened.state['step'])}: {len(found.labels)} of the {split} split"
        sheet, _ = embedding_plot(found, source.classes, title)
        return sheet, f"{len(found.labels)} sample(s) of {source.describe()}"

    def _batch(self) -> Mapping[str, Any]:
        if self.images:
            return image_files(self.run, self.images)
        return spread(self.run, self._split("test"), self.count or COUNT)

    def _split(self, split: str) -> Source:
        data = self.run.config.data
        if "data" not in self.opened.weights.config and data.source == "folder" and not data.options.get("path"):
            raise UserError(
                "these weights name no data: name a source by --config.data.source=... and its options, or, for other "
                "pictures than an embedding, give image files."
            )
        return self.run.open(split)

    def _drawable(self, pictures: Mapping[str, Any]) -> Mapping[str, Any]:
        if not pictures:
            raise UserError(f"the method '{self.run.method.name}' predicts nothing that can be drawn as an image.")
        return jax.device_get(dict(pictures))


def _limited(run: Run, limit: int) -> Run:
    config = run.config
    changed = dataclasses.replace(config.eval, limit=min(limit, config.eval.limit or limit))
    return dataclasses.replace(run, config=dataclasses.replace(config, eval=changed))


def _rows(batch: Mapping[str, Any]) -> int:
    return len(next(iter(batch.values())))


def _evenly(count: int, most: int) -> list[int]:
    return list(range(count)) if count <= most else [round(i * (count - 1) / (most - 1)) for i in range(most)]
