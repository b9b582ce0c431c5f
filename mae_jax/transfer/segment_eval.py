"""Scores of a segmenter on whole images of any size: sliding windows or all at once, truth at its own resolution.

Images are put on canvases so that few programs serve all sizes: a program is compiled for a number of windows along
each axis (and a canvas of truths), while where the windows lie is data.
"""

import dataclasses
import functools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from mae_jax.core.errors import UserError
from mae_jax.core.mesh import replicated, share, use_mesh
from mae_jax.data.annotation import IGNORE
from mae_jax.data.limits import BadImage
from mae_jax.data.plan import open_record
from mae_jax.data.scene import brought, pair
from mae_jax.data.sources import Source
from mae_jax.data.workers import cores
from mae_jax.eval.iou import confusion
from mae_jax.nets.segment import resized
from mae_jax.train.build import Run
from mae_jax.transfer.segmenter import Segmenter

ROUND = 256  # truths of another size than their image lie on canvases of a multiple of so many pixels
ROWS = 64  # of a truth that are scored at a time: logits at full resolution are large


class Scene(NamedTuple):
    """A decoded test image and its classes; `number` is its place among the records."""

    number: int
    image: UInt8[np.ndarray, "h w c"]
    truth: UInt8[np.ndarray, "H W"]


class Layout(NamedTuple):
    """What a program is compiled for.

    Attributes:
      window: (rows, columns) that the network sees at a time.
      counts: windows along each axis.
      truth: canvas of truths; (): each is as large as its image.
    """

    window: tuple[int, int]
    counts: tuple[int, int]
    truth: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Inference:
    """How whole images are segmented.

    Attributes:
      mode: "slide": windows of `window`, each `stride` from the next, the last ones moved inside; their logits are
        averaged (mmseg). "whole": the image at once, filled up to a multiple of `multiple`.
      short: shorter side to which images are brought; None: as they are.
      fill: colour of the canvas beyond an image.
    """

    mode: Literal["slide", "whole"]
    window: tuple[int, int]
    stride: tuple[int, int]
    short: int | None = None
    multiple: tuple[int, int] = (32, 32)
    fill: tuple[int, ...] = (124, 116, 104)

    def layout(self, image: tuple[int, ...], truth: tuple[int, ...]) -> Layout:
        """The layout for an image of these sizes."""
        canvas = () if self.short is None else tuple(-(-n // ROUND) * ROUND for n in truth)
        if self.mode == "whole":
            h, w = (-(-n // m) * m for n, m in zip(image, self.multiple, strict=True))
            return Layout((h, w), (1, 1), canvas)
        rows, columns = (
            1 + max(0, -(-(n - size) // step)) for n, size, step in zip(image, self.window, self.stride, strict=True)
        )
        return Layout(self.window, (rows, columns), canvas)

    def canvas(self, layout: Layout) -> tuple[int, ...]:
        """Rows and columns that hold every image of a layout."""
        return tuple(size + (n - 1) * step for size, n, step in zip(layout.window, layout.counts, self.stride))


class SegmentationScores:
    """Segments a source's images and compares with their truth; compiled once per layout.

    Args:
      batch: images at a time, over all devices.
      limit: of images, the first; None: all.
    """

    def __init__(self, run: Run, inference: Inference, source: Source, *, batch: int, limit: int | None = None):
        assert isinstance(run.method, Segmenter)
        self.run, self.method, self.inference, self.source = run, run.method, inference, source
        self.batch = -(-batch // run.mesh.size) * run.mesh.size
        self.limit = len(source) if limit is None else min(limit, len(source))
        self.unreadable: list[str] = []

    def __call__(
        self, params: Any, rest: Any, examples: int = 0
    ) -> tuple[Int[np.ndarray, "classes classes"], list[tuple[Any, Any, Any]]]:
        """(confusion matrix [true, predicted] over all images, (image, truth, predicted) of the first `examples`).

        Raises:
          UserError: nothing to score.
        """
        total = np.zeros((self.method.classes,) * 2, np.int64)
        drawn: dict[int, tuple[Any, Any, Any]] = {}
        with use_mesh(self.run.mesh):
            for layout, scenes in self._batches():
                matrix, predicted = self._segment(params, rest, self._put(layout, scenes), layout)
                total += np.asarray(matrix, np.int64)
                wanted = [i for i, scene in enumerate(scenes) if scene.number < examples]
                if wanted and jax.process_count() == 1:
                    classes = np.asarray(predicted)
                    for i in wanted:
                        h, w = scenes[i].truth.shape
                        drawn[scenes[i].number] = (scenes[i].image, scenes[i].truth, classes[i, :h, :w])
        if not total.sum():
            raise UserError(f"no pixel of the test split has a class that could be scored: {self.source.describe()}.")
        return total, [drawn[i] for i in sorted(drawn)]

    def _batches(self) -> Iterator[tuple[Layout, list[Scene]]]:
        """Scenes of one layout at a time; every scene once, the last of each layout in batches that are not full."""
        waiting: dict[Layout, list[Scene]] = defaultdict(list)
        with ThreadPoolExecutor(cores()) as pool:
            for first in range(0, self.limit, self.batch):  # decoded ahead by one batch at most
                for scene in pool.map(self._open, range(first, min(first + self.batch, self.limit))):
                    if scene is None:
                        continue
                    layout = self.inference.layout(scene.image.shape[:2], scene.truth.shape)
                    waiting[layout].append(scene)
                    if len(waiting[layout]) == self.batch:
                        yield layout, waiting.pop(layout)
        for layout, scenes in waiting.items():
            yield layout, scenes

    def _open(self, i: int) -> Scene | None:
        channels = self.method.batch_spec["image"].shape[-1]
        try:
            image, truth = pair(open_record(self.source, i), channels)
        except (BadImage, OSError) as error:
            self.unreadable.append(f"{self.source.where(i)}: {error}")
            return None
        return Scene(i, brought(image, self.inference.short), truth)

    def _put(self, layout: Layout, scenes: Sequence[Scene]) -> dict[str, Array]:
        """This process's rows of a batch on the devices."""
        canvas = self.inference.canvas(layout)
        channels = scenes[0].image.shape[-1]
        images = np.empty((self.batch, *canvas, channels), np.uint8)
        images[...] = self.inference.fill
        truths = np.full((self.batch, *(layout.truth or canvas)), IGNORE, np.uint8)
        sizes = np.tile(np.array([*canvas, *truths.shape[1:]], np.int32), (self.batch, 1))
        for i, (_, image, truth) in enumerate(scenes):
            images[i, : image.shape[0], : image.shape[1]] = image
            truths[i, : truth.shape[0], : truth.shape[1]] = truth
            sizes[i] = *image.shape[:2], *truth.shape
        mine = share(self.run.mesh)  # processes among which tensor splits place the same rows
        b = self.batch // mine.parts
        own = slice(mine.part * b, (mine.part + 1) * b)
        arrays = {"images": images, "truths": truths, "sizes": sizes, "valid": np.arange(self.batch) < len(scenes)}
        return {name: self.run.place("image", array[own]) for name, array in arrays.items()}

    @functools.cached_property
    def _segment(self):
        return jax.jit(self._compute, static_argnums=3, out_shardings=(replicated(self.run.mesh), None))

    def _compute(
        self, params: Any, rest: Any, batch: dict[str, Array], layout: Layout
    ) -> tuple[Int[Array, "classes classes"], Int[Array, "b H W"]]:
        logits = self._slide(params, rest, batch["images"], batch["sizes"][:, :2], layout)
        predicted = (
            classes_at(logits, batch["sizes"], layout.truth) if layout.truth else logits.argmax(-1).astype(jnp.int32)
        )
        return confusion(batch["truths"], predicted, self.method.classes, batch["valid"]), predicted

    def _slide(
        self, params: Any, rest: Any, images: UInt8[Array, "b h w c"], sizes: Int[Array, "b 2"], layout: Layout
    ) -> Float[Array, "b h w classes"]:
        """Logits at the images' resolution, the mean over the windows that hold a pixel."""
        window = layout.window

        def look(starts: Int[Array, "b 2"]) -> Float[Array, "b rows columns classes"]:
            cut = jax.vmap(lambda x, s: jax.lax.dynamic_slice(x, (s[0], s[1], 0), (*window, x.shape[-1])))
            seen = self.run.augment({"image": cut(images, starts)})
            return resized(self.method.logits(params, rest, seen)[0], window)

        if layout.counts == (1, 1):
            return look(jnp.zeros_like(sizes))
        paste = jax.vmap(lambda x, y, s: jax.lax.dynamic_update_slice(
            x, y + jax.lax.dynamic_slice(x, (s[0], s[1], 0), y.shape), (s[0], s[1], 0)
        ))  # fmt: skip
        most = jnp.maximum(sizes - jnp.array(window, jnp.int32)[None], 0)

        def add(carry, place):
            total, count = carry
            starts = jnp.minimum(place[None], most)
            y = look(starts)
            return (paste(total, y, starts), paste(count, jnp.ones_like(y[..., :1]), starts)), None

        places = jnp.array([(i, j) for i in range(layout.counts[0]) for j in range(layout.counts[1])], jnp.int32)
        places = places * jnp.array(self.inference.stride, jnp.int32)[None]
        shape = images.shape[:3]
        zero = jnp.zeros((*shape, self.method.classes)), jnp.zeros((*shape, 1))
        (total, count), _ = jax.lax.scan(add, zero, places)
        return total / jnp.maximum(count, 1.0)


def classes_at(
    logits: Float[Array, "b h w classes"], sizes: Int[Array, "b 4"], canvas: tuple[int, ...]
) -> Int[Array, "b H W"]:
    """The best class of every pixel of images resized (bilinear) from sizes[:, :2] to sizes[:, 2:], on a canvas.

    Interpolation comes before the choice, as in mmseg. Computed by rows: logits at full resolution are large.
    """
    rows, columns = (
        jax.vmap(functools.partial(_weights, n=n, old=old))(sizes[:, axis], sizes[:, 2 + axis])
        for axis, (n, old) in enumerate(zip(canvas, logits.shape[1:3], strict=True))
    )

    def some(part: Float[Array, "b r h"]) -> Int[Array, "b r W"]:
        x = jnp.einsum("brh,bhwc->brwc", part, logits)
        return jnp.einsum("bvw,brwc->brvc", columns, x).argmax(-1).astype(jnp.int32)

    b, n, h = rows.shape
    parts = rows.reshape(b, n // ROWS, ROWS, h).swapaxes(0, 1)
    return jax.lax.map(some, parts).swapaxes(0, 1).reshape(b, n, -1)


def _weights(size: Int[Array, ""], target: Int[Array, ""], *, n: int, old: int) -> Float[Array, "n old"]:
    """The matrix that resizes `size` pixels (of `old`) to `target` (of `n`) bilinearly between pixels' centres."""
    at = (jnp.arange(n) + 0.5) * size / target - 0.5
    at = jnp.clip(at, 0, size - 1)
    return jnp.maximum(0.0, 1 - jnp.abs(at[:, None] - jnp.arange(old)[None]))
