"""Learning with Unmasked Tokens Drives Stronger Vision Learners (Kim et al., 2023; ECCV 2024). arXiv 2310.13593.

MAE on one view of an image, and besides: the mean of a sparse view's visible tokens must predict, in the manner of
BYOL, what an averaged teacher says of the whole other view ("broader contextualization"). The encoder so learns what
lies beyond the tokens that it sees. New against MAE: two views, disjoint visible sets from one shuffle, projector and
predictor, a teacher that averages weights and batch statistics.

Quirks of the authors' code that are kept: the teacher's batch norm uses running statistics, which are themselves
averages of the student's; the heads see the two views one after the other, so that the running statistics move twice
a step; only view 1 is reconstructed; only cross-view terms count.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mae_jax.core.averages import cosine_momentum, follow
from mae_jax.core.errors import UserError
from mae_jax.core.keys import Context
from mae_jax.core.types import Aux, Batch, Ema, Features, Params, Stats
from mae_jax.core.views import fold, unfold
from mae_jax.losses.masked import masked_mean, squared_error
from mae_jax.losses.similarity import cosine_distance
from mae_jax.masking import scores
from mae_jax.masking.select import keep_count, select
from mae_jax.methods.base import Cost, Leaf, Method, Rest
from mae_jax.nets import flops
from mae_jax.nets.block import Transformer, check_width, drop_paths
from mae_jax.nets.heads import Head, HeadActivation, HeadNorm
from mae_jax.nets.layers import apply, apply_stats
from mae_jax.nets.vit import Decoder, Encoder, sizes
from mae_jax.targets import pixels
from mae_jax.tokens.grid import grid_shape, patchify, unpatchify


@dataclasses.dataclass(frozen=True, kw_only=True)
class LUT(Method):
    """MAE with broader contextualization. The defaults are ViT-B/16 at 224 px as the authors recommend.

    Attributes:
      image_size, patch: pixels, one number or (rows, columns); the patch must divide the image.
      channels: of the input.
      dim, depth, heads, mlp_ratio: the encoder.
      decoder_dim, decoder_depth, decoder_heads: the decoder.
      mask_ratio: share of hidden patches of each view, at least one half: the visible sets are disjoint.
      norm_pix: predict each patch's pixels normalised by its own mean and deviation.
      norm_eps: of every layer norm of encoder and decoder.
      head_depth, predictor_depth: linear layers of projector and predictor; 0: there is none.
      head_hidden: width between them. head_norm: bn, ln or none. head_activation: relu or gelu.
      bc_weight: of the broader contextualization loss.
      momentum: of the teacher at the first step; it rises to 1 along half a cosine.
    """

    name: ClassVar[str] = "lut"

    image_size: int | tuple[int, int] = 224
    patch: int | tuple[int, int] = 16
    channels: int = 3
    dim: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0
    decoder_dim: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16
    mask_ratio: float = 0.75
    norm_pix: bool = True
    norm_eps: float = 1e-6
    head_depth: int = 2
    predictor_depth: int = 2
    head_hidden: int = 4096
    head_norm: HeadNorm = "bn"
    head_activation: HeadActivation = "relu"
    bc_weight: float = 0.25
    momentum: float = 0.996

    @property
    def batch_spec(self) -> Mapping[str, Leaf]:
        view = Leaf((*sizes(self.image_size), self.channels))
        return {"image": view, "image_2": view}

    @property
    def couples(self) -> tuple[str, ...]:
        return ("bn",) if self.head_norm == "bn" and max(self.head_depth, self.predictor_depth) > 1 else ()

    @property
    def grid(self) -> tuple[int, ...]:
        return grid_shape(sizes(self.image_size), sizes(self.patch))

    @property
    def encoder(self) -> Encoder:
        shape = Transformer(
            self.dim, self.depth, self.heads, self.mlp_ratio, norm_eps=self.norm_eps, compute=self.compute
        )
        return Encoder(shape, sizes(self.patch))

    @property
    def decoder(self) -> Decoder:
        shape = Transformer(
            self.decoder_dim, self.decoder_depth, self.decoder_heads, self.mlp_ratio, norm_eps=self.norm_eps,
            compute=self.compute,
        )  # fmt: skip
        return Decoder(shape, out=math.prod(sizes(self.patch)) * self.channels)

    def mlp(self, name: str) -> Head:
        """The projector, "head", or the predictor."""
        depth = self.head_depth if name == "head" else self.predictor_depth
        return Head(self.head_hidden, self.dim, depth, self.head_norm, self.head_activation, self.compute.dtype)

    def check(self) -> None:
        n, keep = math.prod(self.grid), keep_count(math.prod(self.grid), self.mask_ratio)
        if 2 * keep > n:
            raise UserError(
                f"method.mask_ratio={self.mask_ratio} leaves {keep} of {n} patches visible in each view, but the two "
                f"views show disjoint patches: at least {1 - (n // 2) / n:.4f} leaves room for both."
            )
        check_width(self.dim, self.heads, axes=2)
        check_width(self.decoder_dim, self.decoder_heads, axes=2, part="decoder_")
        for what in ("head_depth", "predictor_depth"):
            if getattr(self, what) < 0:
                raise UserError(f"method.{what}={getattr(self, what)} is a number of layers; 0 leaves them out.")

    def cost(self) -> Cost:
        n, d, pixels_per_token = math.prod(self.grid), self.dim, math.prod(sizes(self.patch)) * self.channels
        k = keep_count(n, self.mask_ratio)

        def encoder(tokens: int) -> float:
            return flops.dense(tokens, pixels_per_token, d) + self.depth * flops.block(tokens + 1, d, self.mlp_ratio)

        def head(depth: int) -> float:
            widths = [d] + [self.head_hidden] * (depth - 1) + [d]
            return sum(flops.dense(1, a, b) for a, b in zip(widths, widths[1:])) if depth else 0.0

        decoder = (
            flops.dense(k + 1, d, self.decoder_dim)
            + self.decoder_depth * flops.block(n + 1, self.decoder_dim, self.mlp_ratio)
            + flops.dense(n, self.decoder_dim, pixels_per_token)
        )
        student = 2 * (encoder(k) + head(self.head_depth) + head(self.predictor_depth)) + decoder
        return Cost(forward=student, tokens=n, visible=k, once=2 * (encoder(n) + head(self.head_depth)))

    def init(self, key: Array, batch: Batch) -> tuple[Params, Stats]:
        image, n = batch["image"], math.prod(self.grid)
        mask = select(jnp.zeros((image.shape[0], n)), keep_count(n, self.mask_ratio))
        keys = jax.random.split(key, 4)
        visible, encoder = self.encoder.init_with_output(keys[0], image, mask)
        decoder = self.decoder.init(keys[1], visible.normed, mask, self.grid, visible.prefix)
        pooled = jnp.zeros((image.shape[0], self.dim))
        parts = {
            "encoder": encoder, "decoder": decoder, "head": self.mlp("head").init(keys[2], pooled),
            "predictor": self.mlp("predictor").init(keys[3], pooled),
        }  # fmt: skip
        params, stats = ({k: v[kind] for k, v in parts.items() if kind in v} for kind in ("params", "stats"))
        return params, stats

    def loss(self, params: Params, rest: Rest, batch: Batch, ctx: Context) -> tuple[Float[Array, ""], Aux]:
        b, n = batch["image"].shape[0], math.prod(self.grid)
        keep, noise = keep_count(n, self.mask_ratio), scores.random(ctx, b, n)
        masks = select(noise, keep), select(noise, keep, start=keep)
        views, teacher, stats = fold(batch["image"], batch["image_2"]), rest["ema"], rest["stats"]

        visible = apply(self.encoder, params["encoder"], views, fold(*masks))
        latents, prefixes = unfold(visible.normed, 2), unfold(visible.prefix, 2)
        pred = apply(self.decoder, params["decoder"], latents[0], masks[0], self.grid, prefixes[0])
        target = patchify(batch["image"], sizes(self.patch))
        if self.norm_pix:
            target = pixels.normalise(target)
        mae, weight = masked_mean(squared_error(pred, target), masks[0].hidden)

        q = []  # predictions, view after view: batch norm takes the statistics of each by itself
        for latent in latents:
            projected, stats = self._head("head", params, stats, pool(latent), ctx.train)
            predicted, stats = self._head("predictor", params, stats, projected, ctx.train)
            q.append(predicted)
        whole = apply(self.encoder, teacher["params"]["encoder"], views)
        projected, _ = self._head("head", teacher["params"], teacher.get("stats", {}), pool(whole.normed), False)
        z = unfold(jax.lax.stop_gradient(projected), 2)
        bc = (cosine_distance(q[1], z[0]).mean() + cosine_distance(q[0], z[1]).mean()) / 2
        loss = mae + self.bc_weight * bc

        latent, latent_2 = (jnp.concatenate(parts, axis=1) for parts in zip(prefixes, latents))
        seen = {
            "latent": latent, "hidden": masks[0].hidden, "restore_ids": masks[0].restore_ids, "pred": pred,
            "target": target, "latent_2": latent_2, "hidden_2": masks[1].hidden, "q": q[0], "q_2": q[1], "z": z[0],
            "z_2": z[1],
        }  # fmt: skip
        return loss, Aux(stats=stats, metrics={"mae": mae, "bc": bc}, weight=weight, seen=seen)

    def encode(
        self, params: Params, rest: Rest, batch: Batch, *, ctx: Context | None = None, train: bool = False
    ) -> Features:
        drop = drop_paths(ctx, self.compute, self.depth, len(batch["image"]), train)
        return apply(self.encoder, params["encoder"], batch["image"], drop=drop)

    def pictures(self, seen: Mapping[str, Array], batch: Batch) -> dict[str, Float[Array, "b h w c"]]:
        tokens = patchify(batch["image"], sizes(self.patch))
        painted = pixels.paint(tokens, seen["pred"], seen["hidden"], normalised=self.norm_pix)
        return {name: unpatchify(t, self.grid, sizes(self.patch)) for name, t in painted.items()}

    def start_ema(self, params: Params, stats: Stats) -> Ema:
        return jax.tree.map(jnp.copy, self._teacher(params, stats))

    def evolve(self, ema: Ema, params: Params, stats: Stats, ctx: Context) -> Ema:
        momentum = self.momentum if ctx.steps is None else cosine_momentum(ctx.step, ctx.steps, self.momentum)
        return follow(ema, self._teacher(params, stats), momentum)

    def _teacher(self, params: Params, stats: Stats) -> Ema:
        """What the teacher needs of the student; the authors copy, and never use, decoder and predictor too."""
        kinds = {"params": params, "stats": stats}
        kept = {kind: {k: part[k] for k in ("encoder", "head") if k in part} for kind, part in kinds.items()}
        return {kind: part for kind, part in kept.items() if part}  # an empty dict would not outlive a checkpoint

    def _head(
        self, name: str, params: Params, stats: Stats, x: Float[Array, "b d"], train: bool
    ) -> tuple[Float[Array, "b d"], Stats]:
        """Projector or predictor -> (output, all statistics after it)."""
        y, new = apply_stats(self.mlp(name), params.get(name, {}), stats.get(name, {}), x, train=train)
        return y, stats | ({name: new} if new else {})


def pool(tokens: Float[Array, "b k d"]) -> Float[Array, "b d"]:
    """The mean of the patch tokens, without the class token."""
    return tokens.astype(jnp.float32).mean(axis=1)
