"""Stare at What You See: Masked Image Modeling without Reconstruction (Xue et al., 2022; CVPR 2023). arXiv 2211.08887.

MaskAlign against MAE: nothing is reconstructed. The student encodes the visible patches only; a frozen teacher (CLIP,
DINO) sees the whole image, and the student's features are aligned with the teacher's at the visible positions, over
several layers. There is no decoder and no mask token. Which patches are visible follows the teacher's attention
(attentive masking, Sec. 3.2), and a trained matrix mixes the student's layers for each of the teacher's (Dynamic
Alignment, Sec. 3.3).

Quirks of the authors' code that are kept here: the mixing matrix starts as the identity plus 0.01 in every entry; the
class token is aligned and counts like a patch; smooth L1 is doubled; the student's last norm exists but gets no
gradient, since the raw output of every block is aligned; "bn" normalises by one mean and variance of everything; heads
exist for every teacher layer, also for those of weight 0.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mae_jax.core.errors import UserError
from mae_jax.core.keys import Context
from mae_jax.core.types import Aux, Batch, Features, Mask, Params, Stats
from mae_jax.losses.layers import layer_weights
from mae_jax.losses.regression import DISTANCES
from mae_jax.masking import scores
from mae_jax.masking.select import keep_count, select
from mae_jax.methods.base import Cost, FrozenSpec, Leaf, Method, Rest
from mae_jax.nets import flops
from mae_jax.nets.adaptor import Adaptor
from mae_jax.nets.block import Transformer, check_width, drop_path, drop_paths
from mae_jax.nets.layers import apply
from mae_jax.nets.tower import KINDS, Tower, attention
from mae_jax.nets.vit import Encoder, sizes
from mae_jax.targets.features import NORMS
from mae_jax.tokens.gather import restore, take
from mae_jax.tokens.grid import grid_shape, patchify, unpatchify
from mae_jax.tokens.positions import interpolate


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskAlign(Method):
    """Alignment with a frozen teacher. The defaults are ViT-B/16 with CLIP-B/16 (Sec. 4.1).

    Attributes:
      image_size, patch: pixels, one number or (rows, columns); the patch must divide the image.
      channels: of the input.
      dim, depth, heads, mlp_ratio: the student, an encoder as MAE's.
      norm_eps: of the student's layer norms and the heads'.
      drop_path: rate of stochastic depth in the student's last block; it grows from 0 at the first.
      mask_ratio: share of hidden patches; 0 hides none (Table 6).
      masking: "attention": draw visible patches by the teacher's attention of the class token; "random".
      teacher: family of the frozen network: "clip", "dino", "mae", "workdir" (mae_jax/teachers).
      teacher_file: its weights, or a workdir; "bundled/NAME" comes with the package.
      teacher_sha256: of that file; "" takes any.
      teacher_dim, teacher_depth, teacher_heads, teacher_mlp_ratio, teacher_norm_eps: its sizes.
      teacher_patch: its patch; on `teacher_input` pixels it must give the student's grid.
      teacher_size: of the image, in pixels, for which its positions were learned.
      teacher_input: of the image as it sees it here, resized as torch's bicubic does; 0: as the student.
      teacher_mean, teacher_std: the normalisation that it was trained with; (): the input's.
      mean, std: the input's normalisation (that of the augment section), from which images go to the teacher's.
      target_norm: of the teacher's features: "whiten" (a layer norm without weights), "l2", "bn", "none".
      distance: "smoothl1" (doubled), "l2" (squared), "l1".
      layer_weights: "top<k>": the last k layers; "mid<k>": layer k alone; "mean"; "out": the last; "linear_decay".
      fusion: how student layers meet teacher layers: "linear", a trained square matrix, starting near the identity;
        "sum", one for any two depths, starting at their mean; "simple", one by one.
      head: from the student's width to the teacher's: "linear", "norm_linear", "mlp", "mlp2" (nets/adaptor.py).
    """

    name: ClassVar[str] = "maskalign"

    image_size: int | tuple[int, int] = 224
    patch: int | tuple[int, int] = 16
    channels: int = 3
    dim: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0
    norm_eps: float = 1e-6
    drop_path: float = 0.1
    mask_ratio: float = 0.7
    masking: Literal["attention", "random"] = "attention"
    teacher: Literal["clip", "dino", "mae", "workdir"] = "clip"
    teacher_file: str = ""
    teacher_sha256: str = ""
    teacher_dim: int = 768
    teacher_depth: int = 12
    teacher_heads: int = 12
    teacher_mlp_ratio: float = 4.0
    teacher_norm_eps: float = 1e-5
    teacher_patch: int | tuple[int, int] = 16
    teacher_size: int | tuple[int, int] = 224
    teacher_input: int | tuple[int, int] = 0
    teacher_mean: tuple[float, ...] = ()
    teacher_std: tuple[float, ...] = ()
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    target_norm: Literal["whiten", "l2", "bn", "none"] = "whiten"
    distance: Literal["smoothl1", "l2", "l1"] = "smoothl1"
    layer_weights: str = "top5"
    fusion: Literal["linear", "sum", "simple"] = "linear"
    head: Literal["linear", "norm_linear", "mlp", "mlp2"] = "linear"

    @property
    def batch_spec(self) -> Mapping[str, Leaf]:
        return {"image": Leaf((*sizes(self.image_size), self.channels))}

    @property
    def grid(self) -> tuple[int, ...]:
        return grid_shape(sizes(self.image_size), sizes(self.patch))

    @property
    def keep(self) -> int:
        return keep_count(math.prod(self.grid), self.mask_ratio)

    @property
    def encoder(self) -> Encoder:
        shape = Transformer(
            self.dim, self.depth, self.heads, self.mlp_ratio, norm_eps=self.norm_eps, compute=self.compute
        )
        return Encoder(shape, sizes(self.patch))

    @property
    def adaptor(self) -> Adaptor:
        return Adaptor(self.teacher_dim, self.head, self.norm_eps, self.compute.dtype)

    @property
    def tower(self) -> Tower:
        shape = Transformer(
            self.teacher_dim, self.teacher_depth, self.teacher_heads, self.teacher_mlp_ratio,
            norm_eps=self.teacher_norm_eps, compute=self.compute,
        )  # fmt: skip
        return KINDS[self.teacher](shape, sizes(self.teacher_size), sizes(self.teacher_patch), self.channels)

    def frozen(self) -> Mapping[str, FrozenSpec]:
        return {"teacher": FrozenSpec(self.teacher, self.teacher_file, self.teacher_sha256, self.tower)}

    @property
    def weights(self) -> tuple[float, ...]:
        """The weight of every aligned layer: of the teacher's, or with "linear" and "simple" of the student's."""
        return layer_weights(self.layer_weights, self.teacher_depth if self.fusion == "sum" else self.depth)

    @property
    def used(self) -> tuple[int, ...]:
        """The layers whose features are computed: those that count, and the last for pictures."""
        return tuple(i for i, w in enumerate(self.weights) if w > 0 or i == len(self.weights) - 1)

    @property
    def couples(self) -> tuple[str, ...]:
        return ("bn",) if self.target_norm == "bn" else ()

    @property
    def dead(self) -> Mapping[str, str]:
        idle = [i for i in range(self.teacher_depth) if i >= len(self.weights) or not self.weights[i]]
        reasons = {r"^encoder/norm/": "the blocks' raw outputs are aligned, before the last norm"}
        if idle:
            reasons[rf"^heads/({'|'.join(map(str, idle))})/"] = f"weight 0 under layer_weights='{self.layer_weights}'"
        unread = range(max(i for i, w in enumerate(self.weights) if w > 0) + 1, self.depth)
        if self.fusion == "simple" and unread:
            reasons[rf"^encoder/blocks/({'|'.join(map(str, unread))})/"] = "above the last layer that is aligned"
        return reasons

    def check(self) -> None:
        _, weights = self.keep, self.weights
        check_width(self.dim, self.heads, axes=2)
        check_width(self.teacher_dim, self.teacher_heads, part="teacher_")
        seen = grid_shape(sizes(self.teacher_input or self.image_size), sizes(self.teacher_patch))
        if seen != self.grid:
            raise UserError(
                f"method.teacher_patch={self.teacher_patch} gives the teacher a grid of {seen} patches, the student "
                f"has {self.grid}: features are aligned place by place. Set method.teacher_input to "
                f"{tuple(g * p for g, p in zip(self.grid, sizes(self.teacher_patch)))} pixels."
            )
        if len(weights) > self.teacher_depth:
            raise UserError(
                f"method.fusion='{self.fusion}' aligns student layers one by one, but the student has {self.depth} and "
                f"the teacher {self.teacher_depth}: method.fusion='sum' takes any depths."
            )
        if len(self.teacher_mean) != len(self.teacher_std) or len(self.teacher_mean) not in (0, self.channels):
            raise UserError(
                f"method.teacher_mean and method.teacher_std need a number for each of {self.channels} channels, or "
                f"none where the teacher takes the input as it is; they have {len(self.teacher_mean)} and "
                f"{len(self.teacher_std)}."
            )
        if self.teacher_mean and not len(self.mean) == len(self.std) == self.channels:
            raise UserError(
                f"method.mean and method.std need a number for each of {self.channels} channels: those of the augment "
                f"section."
            )

    def cost(self) -> Cost:
        n, k, d = math.prod(self.grid), self.keep, self.dim
        tokens, teacher_tokens, rows = k + 1, n + 1, len(self.used)
        hidden = d if self.head.startswith("mlp") else 0
        c, layer_in = self.teacher_dim, math.prod(sizes(self.teacher_patch)) * self.channels
        forward = (
            flops.dense(n, math.prod(sizes(self.patch)) * self.channels, d)
            + self.depth * flops.block(tokens, d, self.mlp_ratio)
            + (0 if self.fusion == "simple" else flops.dense(tokens * d, self.depth, rows))
            + rows * (flops.dense(tokens, d, hidden) + flops.dense(tokens, d, c))
        )
        once = flops.dense(n, layer_in, c)
        once += self.teacher_depth * flops.block(teacher_tokens, c, self.teacher_mlp_ratio)
        if self.masking == "attention":  # the last block's, once more
            once += flops.dense(teacher_tokens, c, 3 * c) + flops.dense(teacher_tokens, c, teacher_tokens)
        return Cost(forward=forward, tokens=n, visible=k, once=once)

    def init(self, key: Array, batch: Batch) -> tuple[Params, Stats]:
        encoder_key, *head_keys = jax.random.split(key, 1 + self.teacher_depth)
        mask = select(jnp.zeros((len(batch["image"]), math.prod(self.grid))), self.keep)
        visible, encoder = self.encoder.init_with_output(encoder_key, batch["image"], mask)
        heads = {str(i): self.adaptor.init(k, visible.tokens)["params"] for i, k in enumerate(head_keys)}
        params = {"encoder": encoder["params"], "heads": heads}
        if self.fusion == "linear":
            params["mix"] = jnp.eye(self.depth) + 0.01  # to every entry, not the diagonal alone
        elif self.fusion == "sum":
            params["mix"] = jnp.full((self.teacher_depth, self.depth), 1 / self.depth)
        return params, {}

    def loss(self, params: Params, rest: Rest, batch: Batch, ctx: Context) -> tuple[Float[Array, ""], Aux]:
        image, b, n = batch["image"], len(batch["image"]), math.prod(self.grid)
        frozen = rest["frozen"].get("teacher", {})
        teacher = functools.cache(lambda: apply(self.tower, frozen, self.teachers_view(image)).hidden)
        layers = jax.lax.stop_gradient(ctx.given("teacher_hidden", lambda: jnp.stack(teacher())))
        seen = {}
        if self.masking == "attention":
            last = ctx.given("teacher_attention", lambda: attention(self.tower, frozen, teacher()))
            seen["importance"] = jax.lax.stop_gradient(last[:, :, 0, 1:].mean(axis=1))  # of the class token to patches
            order = ctx.given("order", lambda: scores.weighted(ctx, seen["importance"]))
        else:
            order = scores.random(ctx, b, n)
        mask = select(order, self.keep)
        drop = None
        if ctx.train and self.drop_path:
            drop = drop_path(ctx.uniform("drop_path", (b, self.depth, 2)), self.drop_path)
        visible = apply(self.encoder, params["encoder"], image, mask, None, drop)
        students, targets = self._students(params, visible), self._targets(layers, mask)
        distance = DISTANCES[self.distance]
        parts = [w * distance(students[i], targets[i]).mean() for i, w in enumerate(self.weights) if w > 0]
        loss, top = jnp.sum(jnp.stack(parts)), self.used[-1]
        cosine = (NORMS["l2"](students[top]) * NORMS["l2"](targets[top])).sum(axis=-1)
        seen |= {
            "latent": jnp.concatenate([visible.prefix, visible.normed], axis=1), "hidden": mask.hidden,
            "keep_ids": mask.keep_ids, "blocks": jnp.stack(visible.hidden), "student_last": students[top],
            "teacher_last": targets[self.teacher_depth - 1],
            "alignment": restore(cosine[:, 1:, None], mask, jnp.zeros((1, 1)))[..., 0],
        }  # fmt: skip
        metrics = {"loss": loss, "cosine": cosine.mean()}
        return loss, Aux(stats=dict(rest["stats"]), metrics=metrics, seen=seen)

    def encode(
        self, params: Params, rest: Rest, batch: Batch, *, ctx: Context | None = None, train: bool = False
    ) -> Features:
        drop = drop_paths(ctx, self.compute, self.depth, len(batch["image"]), train)
        return apply(self.encoder, params["encoder"], batch["image"], drop=drop)

    def pictures(self, seen: Mapping[str, Array], batch: Batch) -> dict[str, Float[Array, "b h w c"]]:
        image, patch = batch["image"], sizes(self.patch)
        tokens = patchify(image, patch)
        masked = jnp.where(seen["hidden"][:, :, None], 0.0, tokens)
        drawn = {"original": image, "masked": unpatchify(masked, self.grid, patch)}
        maps = {"alignment": jnp.maximum(seen["alignment"], 0.0)}
        if "importance" in seen:
            maps["importance"] = seen["importance"] / seen["importance"].max(axis=1, keepdims=True)
        shape = (*tokens.shape[:2], math.prod(patch) * (3 if self.channels == 1 else 1))  # maps are no pixels of ours
        for name, values in maps.items():
            drawn[name] = unpatchify(jnp.broadcast_to(values[:, :, None], shape), self.grid, patch)
        return drawn

    def teachers_view(self, image: Float[Array, "b h w c"]) -> Float[Array, "b i j c"]:
        """The same crop at the teacher's size and in its normalisation."""
        size, new = image.shape[1:3], sizes(self.teacher_input or self.image_size)
        if size != new:
            image = interpolate(image.reshape(len(image), -1, self.channels), size, new).reshape(
                -1, *new, self.channels
            )
        if self.teacher_mean:
            pixels = image * _channels(self.std) + _channels(self.mean)
            image = (pixels - _channels(self.teacher_mean)) / _channels(self.teacher_std)
        return image

    def _students(self, params: Params, visible: Features) -> dict[int, Float[Array, "b t c"]]:
        """{layer: the student's features in the teacher's space}, float32, for the layers in use."""
        if self.fusion == "simple":
            features = {i: visible.hidden[i] for i in self.used}
        else:  # Dynamic Alignment (Sec. 3.3): every teacher layer meets its own mixture of the student's
            hidden = jnp.stack(visible.hidden)
            mix = params["mix"][np.array(self.used)].astype(hidden.dtype)
            features = dict(zip(self.used, jnp.einsum("as,sbtd->abtd", mix, hidden)))
        return {i: apply(self.adaptor, params["heads"][str(i)], x).astype(jnp.float32) for i, x in features.items()}

    def _targets(self, layers: Float[Array, "l b m c"], mask: Mask) -> dict[int, Float[Array, "b t c"]]:
        """{layer: the teacher's normalised features of the class token and the visible patches}, its last layer too.

        `layers` starts with what enters the first block, which is no target.
        """
        wanted = {*self.used, self.teacher_depth - 1}
        whole = {i: NORMS[self.target_norm](layers[i + 1].astype(jnp.float32)) for i in sorted(wanted)}
        return {i: jnp.concatenate([y[:, :1], take(y[:, 1:], mask)], axis=1) for i, y in whole.items()}


def _channels(values: tuple[float, ...]) -> Float[Array, "1 1 1 c"]:
    return jnp.asarray(values, jnp.float32)[None, None, None]
