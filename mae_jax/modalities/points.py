"""Point clouds [n, 3]: the host takes points of stored ones and scales them, the device moves and deforms them."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar, Literal

import jax
from jaxtyping import Array

from mae_jax.augment import cloud
from mae_jax.core.errors import UserError
from mae_jax.core.keys import Context
from mae_jax.data.point_sampling import PointSample, Sample
from mae_jax.data.views import HostLeaf
from mae_jax.methods.base import Leaf
from mae_jax.modalities.base import Modality
from mae_jax.tokens.gather import gather
from mae_jax.tokens.points import farthest
from mae_jax.tokens.scatter import draw_points


@dataclasses.dataclass(frozen=True, kw_only=True)
class Points(Modality):
    """Clouds. The defaults are Point-MAE's: random points of a stored cloud, the unit sphere, scale and translation.

    Attributes:
      sample: which points of a stored cloud train: "random", "first", "farthest" (on the host, from point 0).
      test_sample: the same in evaluation.
      unit_sphere: centre the points that were taken, and divide by the largest norm.
      stored: so many points travel (taken by `sample`), and the device takes the method's from them by farthest-point
        sampling; 0: the host takes them.
      candidates: of `stored`: so many farthest points, of which training takes a random part, the same for the whole
        batch (Point-MAE's fine-tuning: 1200 for 1024, 2400 for 2048); 0: none.
      scale: bounds of the three factors that a cloud is stretched by. translate: half width of the three offsets.
      rotate: probability of a turn by any angle about the axis `up`.
      up: "x", "y" or "z".
      tilt: deviation of three small turns, radians. jitter: of noise on the points.
      dropout: largest share of points that are replaced by the first one.
      votes: over how many views an evaluation of classifiers votes: the cloud, and scaled and moved copies of it.
    """

    kind: ClassVar[str] = "points"
    kept: ClassVar[tuple[str, ...]] = (
        "sample", "test_sample", "unit_sphere", "stored", "candidates", "up", "scale", "translate", "votes",
    )  # fmt: skip

    sample: Sample = "random"
    test_sample: Sample = "farthest"
    unit_sphere: bool = True
    stored: int = 0
    candidates: int = 0
    scale: tuple[float, float] = (2 / 3, 3 / 2)
    translate: float = 0.2
    rotate: float = 0.0
    up: Literal["x", "y", "z"] = "y"
    tilt: float = 0.0
    jitter: float = 0.0
    dropout: float = 0.0
    votes: int = 1

    def check(self, name: str, leaf: Leaf) -> None:
        self.probability("rotate", "dropout")
        if len(leaf.shape) != 2 or leaf.shape[-1] != 3:
            raise UserError(f"clouds are '{name}' [points, 3], not {leaf.shape}.")
        if not 0 < self.scale[0] <= self.scale[1]:
            raise self.wrong("scale", "two factors, 0 < smallest <= largest, expected")
        for key in ("translate", "tilt", "jitter"):
            if getattr(self, key) < 0:
                raise self.wrong(key, "at least 0 expected")
        if self.votes < 1:
            raise self.wrong("votes", "at least 1 view expected")
        if self.up not in cloud.AXES:
            raise self.wrong("up", "x, y or z expected")
        n = leaf.shape[0]
        if self.stored and self.stored < n:
            raise self.wrong("stored", f"at least the method's {n} points expected, or 0")
        if self.candidates and not n <= self.candidates <= self.stored:
            raise self.wrong(
                "candidates", f"from the method's {n} points to augment.points_stored={self.stored} expected, or 0"
            )

    def views(self, name: str, leaf: Leaf) -> int:
        return self.votes

    def host(self, name: str, leaf: Leaf, train: bool, stream: int, view: int = 0) -> HostLeaf:
        count = self.stored or leaf.shape[0]
        how: Sample = self.sample if train else "first" if self.stored else self.test_sample
        moved = None if train or not view else self.scale
        return PointSample(count, how, self.unit_sphere, moved, self.translate, view, stream)

    def travels(self, name: str, leaf: Leaf) -> Mapping[str, Leaf]:
        return {name: dataclasses.replace(leaf, shape=(self.stored or leaf.shape[0], 3))}

    def picture(self, leaf: Leaf, x: Array) -> Array:
        return draw_points(x)

    def device(self, name: str, leaf: Leaf, batch: Mapping[str, Array], ctx: Context | None) -> Array:
        x, n = batch[name], leaf.shape[0]
        if self.stored:
            some = self.candidates if ctx is not None and self.candidates else n
            ids = farthest(x, some)
            if some > n and ctx is not None:
                ids = ids[:, jax.random.permutation(ctx.key(f"augment/points_candidates/{name}"), some)[:n]]
            x = gather(x, ids)
        if ctx is None:
            return x
        changes = cloud.Changes(self.rotate, self.up, self.tilt, self.scale, self.translate, self.jitter, self.dropout)
        return cloud.change(x, ctx, name, changes)
