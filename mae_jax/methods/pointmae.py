"""Masked Autoencoders for Point Cloud Self-supervised Learning (Pang et al., 2022; ECCV 2022). arXiv 2203.06604.

Point-MAE. A cloud becomes groups: farthest-point centres, and the points nearest to each, relative to it. A small
PointNet makes a token of every group, a plain Transformer encodes the visible ones, and a decoder of the same width
rebuilds the points of the hidden ones as a set, under the Chamfer distance. Mask tokens wait for the decoder, so that
the encoder never sees where hidden groups lie.

Quirks of the authors' code (Pang-Yatian/Point-MAE; the paper's text was not at hand) that are kept here: the positions
are added to the input of every block; the count of hidden groups is truncated, where MAE truncates the visible ones;
the tokenizer's batch norms see hidden groups too; the decoder reads [visible, hidden] and nothing is unshuffled; its
last norm is that of the hidden tokens alone; groups overlap, so that a visible one may hold points of a hidden one.
"""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mae_jax.core.errors import UserError
from mae_jax.core.keys import Context
from mae_jax.core.types import Aux, Batch, Features, Mask, Params, Stats
from mae_jax.losses.chamfer import chamfer
from mae_jax.masking import scores
from mae_jax.masking.select import hide_count, select
from mae_jax.methods.base import Cost, Leaf, Method, Rest
from mae_jax.nets import flops
from mae_jax.nets.block import Transformer, check_width, drop_path, drop_paths
from mae_jax.nets.layers import apply, apply_stats, xavier
from mae_jax.nets.point import (
    PointDecoder,
    PointEncoder,
    PointTokenizer,
    place_flops,
    point_init,
    tokenizer_flops,
)
from mae_jax.tokens.points import group
from mae_jax.tokens.scatter import draw_groups


@dataclasses.dataclass(frozen=True, kw_only=True)
class PointMAE(Method):
    """Masked autoencoder of point clouds. The defaults are the released model (ShapeNet-55, 1024 points).

    Attributes:
      points: in a cloud.
      groups, group_points: number of groups, and points in each.
      dim, depth, heads, mlp_ratio: the encoder.
      decoder_depth, decoder_heads: the decoder, which has the encoder's width.
      drop_path: rate at the last block of encoder and decoder while pretraining, from 0 at their first.
      class_token: whether a class token with a learned position runs along; classifiers have one, pretraining none.
      mask_ratio: share of hidden groups.
      mask: "random"; "block", the groups nearest to a random one.
      chamfer: "l2", of squared distances; "l1", of distances.
      norm_eps: of every layer norm.
    """

    name: ClassVar[str] = "pointmae"

    points: int = 1024
    groups: int = 64
    group_points: int = 32
    dim: int = 384
    depth: int = 12
    heads: int = 6
    mlp_ratio: float = 4.0
    decoder_depth: int = 4
    decoder_heads: int = 6
    drop_path: float = 0.1
    class_token: bool = False
    mask_ratio: float = 0.6
    mask: Literal["random", "block"] = "random"
    chamfer: Literal["l2", "l1"] = "l2"
    norm_eps: float = 1e-5

    @property
    def batch_spec(self) -> Mapping[str, Leaf]:
        return {"points": Leaf((self.points, 3))}

    @property
    def couples(self) -> tuple[str, ...]:
        return ("bn",)

    @property
    def grid(self) -> tuple[int, ...]:
        return (self.groups,)

    @property
    def tokenizer(self) -> PointTokenizer:
        return PointTokenizer(self.dim, self.compute.dtype)

    @property
    def encoder(self) -> PointEncoder:
        shape = Transformer(
            self.dim, self.depth, self.heads, self.mlp_ratio, qkv_bias=False, norm_eps=self.norm_eps,
            kernel_init=point_init, compute=self.compute,
        )  # fmt: skip
        return PointEncoder(shape, ("class1",) if self.class_token else ())

    @property
    def decoder(self) -> PointDecoder:
        shape = Transformer(
            self.dim, self.decoder_depth, self.decoder_heads, self.mlp_ratio, qkv_bias=False, norm_eps=self.norm_eps,
            kernel_init=xavier, compute=self.compute,
        )  # fmt: skip
        return PointDecoder(shape, self.group_points)

    def check(self) -> None:
        hide_count(self.groups, self.mask_ratio)
        check_width(self.dim, self.heads)
        check_width(self.dim, self.decoder_heads)
        if not max(self.groups, self.group_points) <= self.points or min(self.groups, self.group_points) < 1:
            raise UserError(
                f"method.groups={self.groups} centres with method.group_points={self.group_points} neighbours each "
                f"cannot be chosen from method.points={self.points} points: at least 1 and at most all expected."
            )

    def cost(self) -> Cost:
        n, d, r, c = self.groups, self.dim, self.mlp_ratio, int(self.class_token)
        k = n - hide_count(n, self.mask_ratio)
        forward = (
            tokenizer_flops(n, self.group_points, d)
            + place_flops(k, d)
            + self.depth * flops.block(k + c, d, r)
            + place_flops(n, d)
            + self.decoder_depth * flops.block(n, d, r)
            + flops.dense(n - k, d, 3 * self.group_points)
        )
        return Cost(forward=forward, tokens=n, visible=k)

    def init(self, key: Array, batch: Batch) -> tuple[Params, Stats]:
        groups, centres = group(batch["points"], self.groups, self.group_points)
        keys = jax.random.split(key, 3)
        tokens, tokenizer = self.tokenizer.init_with_output(keys[0], groups)
        mask = self._mask(jnp.zeros((len(tokens), self.groups)))
        visible, encoder = self.encoder.init_with_output(keys[1], tokens, centres, mask)
        decoder = self.decoder.init(keys[2], visible.normed, centres, mask)
        parts = {"tokenizer": tokenizer, "encoder": encoder, "decoder": decoder}
        return {name: part["params"] for name, part in parts.items()}, {"tokenizer": tokenizer["stats"]}

    def _mask(self, field: Float[Array, "b g"]) -> Mask:
        """Visible and hidden groups each in their own order."""
        return select(field, self.groups - hide_count(self.groups, self.mask_ratio), "raster")

    def loss(self, params: Params, rest: Rest, batch: Batch, ctx: Context) -> tuple[Float[Array, ""], Aux]:
        groups, centres = group(batch["points"], self.groups, self.group_points)
        b, drops = len(groups), {"encoder": self.depth, "decoder": self.decoder_depth}
        tokens, stats = apply_stats(
            self.tokenizer, params["tokenizer"], rest["stats"]["tokenizer"], groups, train=ctx.train
        )
        field = scores.random(ctx, b, self.groups) if self.mask == "random" else scores.around(ctx, centres)
        mask = self._mask(field)
        drop = {
            part: drop_path(ctx.uniform(f"drop_path_{part}", (b, depth, 2)), self.drop_path)
            if ctx.train and self.drop_path
            else None
            for part, depth in drops.items()
        }
        visible = apply(self.encoder, params["encoder"], tokens, centres, mask, drop["encoder"])
        pred, _ = apply(self.decoder, params["decoder"], visible.normed, centres, mask, drop["decoder"])
        target = jnp.take_along_axis(groups, mask.drop_ids[:, :, None, None], axis=1, mode="clip")
        loss = chamfer(pred, target, self.chamfer)
        seen = {
            "groups": groups, "centres": centres, "tokens": tokens, "latent": visible.normed, "hidden": mask.hidden,
            "keep_ids": mask.keep_ids, "drop_ids": mask.drop_ids, "pred": pred, "target": target,
        }  # fmt: skip
        return loss, Aux(stats=dict(rest["stats"]) | {"tokenizer": stats}, metrics={"loss": loss}, seen=seen)

    def encode(
        self, params: Params, rest: Rest, batch: Batch, *, ctx: Context | None = None, train: bool = False
    ) -> Features:
        groups, centres = group(batch["points"], self.groups, self.group_points)
        tokens, stats = apply_stats(
            self.tokenizer, params["tokenizer"], rest["stats"]["tokenizer"], groups, train=train
        )
        drop = drop_paths(ctx, self.compute, self.depth, len(groups), train)
        features = apply(self.encoder, params["encoder"], tokens, centres, None, drop)
        return dataclasses.replace(features, stats=dict(rest["stats"]) | {"tokenizer": stats})

    def pictures(self, seen: Mapping[str, Array], batch: Batch) -> dict[str, Float[Array, "b h w c"]]:
        """The cloud, its visible groups, and these with the rebuilt ones in another colour."""
        return draw_groups(batch["points"], seen["groups"], seen["centres"], seen["keep_ids"], seen["drop_ids"],
                           {"reconstruction": seen["pred"]})  # fmt: skip
