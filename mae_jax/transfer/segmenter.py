"""Segmentation as a method: any method's encoder with a head that gives every pixel a class.

As `FineTune`, a `Segmenter` stands in the place of the pretraining method, so that step, guard, microbatches and loop
serve as they are. It knows the encoder through `Method.encode` alone. A trained encoder's parameters are the
segmenter's, under their own names; a frozen one's are found at `rest["frozen"]["encoder"]`.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mae_jax.core.errors import UserError
from mae_jax.core.keys import Context
from mae_jax.core.types import Aux, Batch, Features, Params, Stats
from mae_jax.eval.iou import IGNORE
from mae_jax.losses.cross_entropy import cross_entropy
from mae_jax.methods.base import FrozenSpec, Leaf, Method, Rest, Rule
from mae_jax.nets.convnet import Map
from mae_jax.nets.layers import apply_stats
from mae_jax.nets.segment import FCN, LinearSegmenter, Simple, UperNet, resized
from mae_jax.train.build import sample_batch
from mae_jax.transfer.reach import Reach, pruned, reach, whole

HEAD = ("head", "neck", "auxiliary")  # parts of the parameters that are not the encoder's
AUXILIARY_CHANNELS = 256


@dataclasses.dataclass(frozen=True, kw_only=True)
class Segmenter(Method):
    """What is trained on scenes.

    Attributes:
      inner: the method whose encoder it is; its `compute` holds the drop-path rate.
      classes: of pixels.
      size: (rows, columns) of a training sample.
      head: "linear": batch norm and a linear layer on the last norm's tokens; "upernet": UperNet on four maps.
      trained: whether the encoder is trained too.
      channels: of UperNet's maps.
      auxiliary: weight of the auxiliary FCN head's loss; 0: there is none.
      blocks: after which of the encoder's blocks UperNet's four maps are taken; (): at each quarter of the depth.
    """

    name: ClassVar[str] = "segment"

    inner: Method
    classes: int
    size: tuple[int, int]
    head: Literal["linear", "upernet"] = "linear"
    trained: bool = False
    channels: int = 512
    auxiliary: float = 0.4
    blocks: tuple[int, ...] = ()

    @property
    def reach(self) -> Reach:
        """What the head depends on."""
        return reach(self.inner, reader(self.head, self.blocks))

    @property
    def batch_spec(self) -> Mapping[str, Leaf]:
        channels = self.inner.batch_spec["image"].shape[-1]
        return {"image": Leaf((*self.size, channels)), "segmentation": Leaf(self.size, "uint8")}

    @property
    def couples(self) -> tuple[str, ...]:
        return ("bn",)

    @property
    def rules(self) -> Mapping[str, Rule]:
        return self.inner.rules

    def check(self) -> None:
        self.inner.check()
        leaves = {*self.inner.batch_spec} if "image" not in self.inner.batch_spec else self.reach.leaves
        if leaves != {"image"}:
            raise UserError(
                f"segmentation gives the pixels of an image a class, but '{self.inner.name}' encodes "
                f"{', '.join(sorted(leaves))}."
            )
        if self.reach.ema or self.reach.frozen:
            raise UserError(f"'{self.inner.name}' encodes with a teacher, which segmentation does not know.")
        if self.blocks and len(self.blocks) != 4:
            raise UserError(f"transfer.segment_blocks={self.blocks}: four numbers of blocks, or () for quarters.")
        if self.auxiliary < 0 or self.channels < 1:
            raise UserError(
                f"transfer.segment_auxiliary={self.auxiliary} and segment_channels={self.channels}: at least 0 and 1."
            )
        for path in self.reach.params:
            if path.split("/")[0] in HEAD:
                raise ValueError(f"the encoder's parameter '{path}' has the name of the segmenter's own head")
        jax.eval_shape(self.init, jax.random.key(0), jax.eval_shape(lambda: sample_batch(self)))  # sizes that fit

    def frozen(self) -> Mapping[str, FrozenSpec]:
        return {}  # a frozen encoder is put there by transfer/segment.py

    # The heads ------------------------------------------------------------------------------------------------------

    def _modules(self) -> dict[str, Any]:
        dtype = self.inner.compute.dtype
        if self.head == "linear":
            return {"head": LinearSegmenter(self.classes)}
        found: dict[str, Any] = {"neck": Simple(dtype), "head": UperNet(self.classes, self.channels, dtype=dtype)}
        if self.auxiliary:
            found["auxiliary"] = FCN(self.classes, AUXILIARY_CHANNELS, dtype=dtype)
        return found

    def _heads(self, run: Callable[..., Any], maps: tuple[Map, ...], noise: Mapping[str, Array]) -> tuple[Array, Any]:
        """(logits, the auxiliary head's or None) by `run(name of the part, *arguments)`."""
        if self.head == "linear":
            return run("head", maps[0]), None
        if len({x.shape[1:3] for x in maps}) == 1:
            maps = run("neck", maps)  # a plain ViT's: all of one resolution
        logits = run("head", maps, noise.get("head"))
        return logits, run("auxiliary", maps[-2], noise.get("auxiliary")) if self.auxiliary else None

    def init(self, key: Array, batch: Batch) -> tuple[Params, Stats]:
        keys = dict(zip(("encoder", *HEAD), jax.random.split(key, 4)))
        params, stats = self.inner.init(keys["encoder"], sample_batch(self.inner))
        features = self.inner.encode(
            params, {"stats": stats, "ema": {}, "frozen": {}}, {"image": batch["image"].astype(jnp.float32)}
        )
        made: dict[str, Any] = {}

        def run(name: str, *args: Any) -> Any:
            out, made[name] = self._modules()[name].init_with_output(keys[name], *args)
            return out

        self._heads(run, reader(self.head, self.blocks)(features), {})
        own = {name: made[name].get("params", {}) for name in made}
        statistics = {name: made[name].get("stats", {}) for name in made}
        if not self.trained:
            return own, statistics
        return pruned(params, self.reach.params) | own, pruned(stats, self.reach.stats) | statistics

    # The method -----------------------------------------------------------------------------------------------------

    def encode(
        self, params: Params, rest: Rest, batch: Batch, *, ctx: Context | None = None, train: bool = False
    ) -> Features:
        found = self.reach
        own = {"params": params, "stats": rest["stats"]} if self.trained else rest["frozen"]["encoder"]
        train = train and self.trained
        zeros = lambda s: jnp.zeros(s.shape, s.dtype)
        stats = whole(pruned(own["stats"], found.stats), found.all_stats, zeros)
        features = self.inner.encode(
            whole(pruned(own["params"], found.params), found.all_params, zeros),
            {"stats": stats, "ema": {}, "frozen": {}}, {"image": batch["image"]}, ctx=ctx, train=train,
        )  # fmt: skip
        after = stats if features.stats is None else features.stats
        return dataclasses.replace(features, stats=pruned(after, found.stats) if self.trained else {})

    def logits(
        self, params: Params, rest: Rest, batch: Batch, *, ctx: Context | None = None, train: bool = False
    ) -> tuple[Float[Array, "b r c classes"], Float[Array, "b r2 c2 classes"] | None, Stats]:
        """(logits at the head's resolution, the auxiliary head's, statistics after the call)."""
        features = self.encode(params, rest, batch, ctx=ctx, train=train)
        maps = reader(self.head, self.blocks)(features)
        modules, stats = self._modules(), dict(features.stats or {})
        noise = {}
        if ctx is not None and train and self.head == "upernet":
            widths = {"head": self.channels} | ({"auxiliary": AUXILIARY_CHANNELS} if self.auxiliary else {})
            b = len(batch["image"])
            noise = {name: ctx.uniform(f"segment/{name}", (b, width)) for name, width in widths.items()}

        def run(name: str, *args: Any) -> Any:
            before = rest["stats"].get(name, {})
            out, stats[name] = apply_stats(modules[name], params.get(name, {}), before, *args, train=train)
            return out

        logits, auxiliary = self._heads(run, maps, noise)
        return logits, auxiliary, {**rest["stats"], **stats}

    def loss(self, params: Params, rest: Rest, batch: Batch, ctx: Context) -> tuple[Float[Array, ""], Aux]:
        """Cross entropy at the image's resolution, the mean over labelled pixels.

        mmseg divides by the number of all pixels, labelled or not; here a sample that is mostly padding counts no less.
        """
        logits, auxiliary, stats = self.logits(params, rest, batch, ctx=ctx, train=ctx.train)
        truth = batch["segmentation"]
        counted = truth != IGNORE
        n = counted.sum(dtype=jnp.float32)
        labels = jnp.where(counted, truth, 0).astype(jnp.int32)

        def mean(x: Float[Array, "b r c classes"]) -> tuple[Float[Array, ""], Float[Array, "b h w classes"]]:
            x = resized(x, truth.shape[1:])
            each = jnp.where(counted, cross_entropy(x, labels), 0.0)
            return each.sum() / jnp.maximum(n, 1.0), x

        loss, full = mean(logits)
        hits = jnp.where(counted, full.argmax(axis=-1) == labels, False)
        metrics = {"loss": loss, "pixel_accuracy": 100 * hits.sum(dtype=jnp.float32) / jnp.maximum(n, 1.0)}
        if auxiliary is not None:
            metrics["loss_auxiliary"], _ = mean(auxiliary)
            metrics["loss"] = loss = loss + self.auxiliary * metrics["loss_auxiliary"]
        return loss, Aux(stats=stats, metrics=metrics, weight=n, seen={"logits": logits})


@functools.cache
def reader(head: str, blocks: tuple[int, ...]) -> Callable[[Features], tuple[Map, ...]]:
    """What of `Features` a head reads, one function per kind: `reach` remembers by it."""
    return token_map if head == "linear" else functools.partial(pyramid, blocks=blocks)


def token_map(features: Features) -> tuple[Map]:
    """The patch tokens after the last norm as a map."""
    return (_as_map(features.normed, features.grid),)


def pyramid(features: Features, blocks: Sequence[int] = ()) -> tuple[Map, ...]:
    """Maps, fine to coarse: `Features.levels`, or four of `Features.hidden`, shallow to deep, all of one resolution."""
    if features.levels:
        return tuple(reversed(features.levels))
    hidden = features.hidden or (features.tokens,)
    chosen = blocks or quarters(len(hidden))
    if max(chosen) >= len(hidden) or min(chosen) < 0:
        raise UserError(f"transfer.segment_blocks={tuple(blocks)}: this encoder has blocks 0..{len(hidden) - 1}.")
    n = math.prod(features.grid)
    return tuple(_as_map(hidden[i][:, -n:], features.grid) for i in chosen)


def quarters(depth: int) -> tuple[int, ...]:
    """The last block of each quarter of `depth` blocks: (2, 5, 8, 11) of 12."""
    return tuple(max(0, (i + 1) * depth // 4 - 1) for i in range(4))


def _as_map(tokens: Float[Array, "b n d"], grid: tuple[int, ...]) -> Map:
    if len(grid) != 2:
        raise UserError(f"segmentation needs tokens on a plane, and this encoder's lie on {grid or 'no grid'}.")
    return tokens.reshape(len(tokens), *grid, -1)
