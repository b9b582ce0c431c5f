"""Bringing Masked Autoencoders Explicit Contrastive Properties for Point Cloud Self-supervised Learning (Ren et al.,
2024; ACCV 2024). arXiv 2407.05862.

Point-CMAE: Point-MAE under two masks of one cloud. The groups become tokens once; each of two passes hides its own
share of them, has its own class token and its own decoder, and rebuilds what it hid. Besides, what the two decoders
say of the groups that both hid is drawn together. No second augmentation, no negatives, no momentum.

Quirks of the authors' code (Amazingren/Point-CMAE; the paper's text was not at hand) that are kept here, besides those
of Point-MAE: every group that both hid is drawn to ALL groups of the other pass, not to itself (`pairing`); decoder
features are taken before the last norm; the reconstruction is the passes' sum, times 1000; class tokens do not reach
the decoders; a projection of them is computed that no loss reads.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mae_jax.core.errors import UserError
from mae_jax.core.keys import Context
from mae_jax.core.types import Aux, Batch, Features, Mask, Params, Stats
from mae_jax.losses.chamfer import chamfer
from mae_jax.losses.similarity import unit
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
    Projector,
    place_flops,
    point_init,
    tokenizer_flops,
)
from mae_jax.tokens.gather import unshuffle
from mae_jax.tokens.points import group
from mae_jax.tokens.scatter import draw_groups

PASSES = (1, 2)
PROJECTION = 256  # widths of the unused head


@dataclasses.dataclass(frozen=True, kw_only=True)
class PointCMAE(Method):
    """Contrastive masked autoencoder of point clouds. The defaults are the authors' (ShapeNet-55, 1024 points).

    Attributes:
      points: in a cloud.
      groups, group_points: number of groups, and points in each.
      dim, depth, heads, mlp_ratio: the encoder.
      decoder_depth, decoder_heads: of each decoder, which have the encoder's width.
      drop_path: rate at the last block of encoder and decoders while pretraining, from 0 at their first.
      mask_ratio: share of hidden groups in each pass.
      mask: "random"; "block", the groups nearest to a random one (an option that the authors' code lists).
      chamfer: "l2", of squared distances; "l1", of distances.
      reconstruction_weight, contrast_weight: of the two terms.
      pairing: what a group that both passes hid is drawn to: "all", every group of the other pass, as coded; "same",
        the group itself, as described.
      norm_eps: of every layer norm.
    """

    name: ClassVar[str] = "pointcmae"

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
    mask_ratio: float = 0.6
    mask: Literal["random", "block"] = "random"
    chamfer: Literal["l2", "l1"] = "l2"
    reconstruction_weight: float = 1000.0
    contrast_weight: float = 1.0
    pairing: Literal["all", "same"] = "all"
    norm_eps: float = 1e-5

    @property
    def batch_spec(self) -> Mapping[str, Leaf]:
        return {"points": Leaf((self.points, 3))}

    @property
    def couples(self) -> tuple[str, ...]:
        return ("bn",)

    @property
    def dead(self) -> Mapping[str, str]:
        return {"^projector/": "the projection of the class tokens is read by no loss (authors' code)"}

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
        return PointEncoder(shape, tuple(f"class{i}" for i in PASSES))

    @property
    def decoder(self) -> PointDecoder:
        shape = Transformer(
            self.dim, self.decoder_depth, self.decoder_heads, self.mlp_ratio, qkv_bias=False, norm_eps=self.norm_eps,
            kernel_init=xavier, compute=self.compute,
        )  # fmt: skip
        return PointDecoder(shape, self.group_points)

    @property
    def projector(self) -> Projector:
        return Projector((PROJECTION,), PROJECTION, self.compute.dtype)

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
        n, d, r = self.groups, self.dim, self.mlp_ratio
        k = n - hide_count(n, self.mask_ratio)
        each = (
            place_flops(k, d)
            + self.depth * flops.block(k + 1, d, r)
            + place_flops(n, d)
            + self.decoder_depth * flops.block(n, d, r)
            + flops.dense(n - k, d, 3 * self.group_points)
            + flops.dense(1, d, PROJECTION) + flops.dense(1, PROJECTION, PROJECTION)
        )  # fmt: skip
        return Cost(forward=tokenizer_flops(n, self.group_points, d) + len(PASSES) * each, tokens=n, visible=k)

    def init(self, key: Array, batch: Batch) -> tuple[Params, Stats]:
        groups, centres = group(batch["points"], self.groups, self.group_points)
        keys = jax.random.split(key, 5)
        tokens, tokenizer = self.tokenizer.init_with_output(keys[0], groups)
        mask = self._mask(jnp.zeros((len(tokens), self.groups)))
        visible, encoder = self.encoder.init_with_output(keys[1], tokens, centres, mask)
        parts = {"tokenizer": tokenizer, "encoder": encoder}
        parts["projector"] = self.projector.init(keys[2], visible.prefix[:, 0])
        for i in PASSES:
            parts[f"decoder{i}"] = self.decoder.init(keys[2 + i], visible.normed, centres, mask)
        stats = {name: part["stats"] for name, part in parts.items() if "stats" in part}
        return {name: part["params"] for name, part in parts.items()}, stats

    def _mask(self, field: Float[Array, "b g"]) -> Mask:
        """Visible and hidden groups each in their own order."""
        return select(field, self.groups - hide_count(self.groups, self.mask_ratio), "raster")

    def loss(self, params: Params, rest: Rest, batch: Batch, ctx: Context) -> tuple[Float[Array, ""], Aux]:
        groups, centres = group(batch["points"], self.groups, self.group_points)
        stats = dict(rest["stats"])
        tokens, stats["tokenizer"] = apply_stats(  # once: both passes share the tokens, the statistics move once
            self.tokenizer, params["tokenizer"], stats["tokenizer"], groups, train=ctx.train
        )
        seen: dict[str, Array] = {"groups": groups, "centres": centres, "tokens": tokens}
        masks, errors, features = {}, {}, {}
        for i in PASSES:
            masks[i] = mask = self._mask(self._scores(ctx, centres, i))
            drop = [self._drop(ctx, f"{part}{i}", len(groups)) for part in ("encoder", "decoder")]
            visible = apply(self.encoder, params["encoder"], tokens, centres, mask, drop[0], i - 1)
            pred, after = apply(self.decoder, params[f"decoder{i}"], visible.normed, centres, mask, drop[1])
            target = jnp.take_along_axis(groups, mask.drop_ids[:, :, None, None], axis=1, mode="clip")
            errors[i], features[i] = chamfer(pred, target, self.chamfer), unshuffle(after, mask)
            projected, stats["projector"] = apply_stats(
                self.projector, params["projector"], stats["projector"], visible.prefix[:, 0], train=ctx.train
            )
            seen |= {
                f"latent{i}": visible.normed, f"hidden{i}": mask.hidden, f"pred{i}": pred, f"features{i}": after,
                f"keep_ids{i}": mask.keep_ids, f"drop_ids{i}": mask.drop_ids, f"projected{i}": projected,
            }  # fmt: skip
        both = masks[1].hidden & masks[2].hidden
        contrast, agreement = contrasted(unit(features[1]), unit(features[2]), both, self.pairing)
        reconstruction = errors[1] + errors[2]
        loss = self.reconstruction_weight * reconstruction + self.contrast_weight * contrast
        metrics = {"loss": loss, "reconstruction": reconstruction, "contrast": contrast, "agreement": agreement}
        seen |= {"hidden": both, "latent": seen["latent1"]}
        return loss, Aux(stats=stats, metrics=metrics, seen=seen)

    def _scores(self, ctx: Context, centres: Float[Array, "b g 3"], i: int) -> Float[Array, "b g"]:
        if self.mask == "random":
            return scores.random(ctx, len(centres), self.groups, f"mask{i}")
        return scores.around(ctx, centres, f"mask{i}")

    def _drop(self, ctx: Context, part: str, b: int) -> Float[Array, "b depth 2"] | None:
        if not ctx.train or not self.drop_path:
            return None
        depth = self.depth if part.startswith("encoder") else self.decoder_depth
        return drop_path(ctx.uniform(f"drop_path_{part}", (b, depth, 2)), self.drop_path)

    def encode(
        self, params: Params, rest: Rest, batch: Batch, *, ctx: Context | None = None, train: bool = False
    ) -> Features:
        """With the first pass's class token in front."""
        groups, centres = group(batch["points"], self.groups, self.group_points)
        tokens, stats = apply_stats(
            self.tokenizer, params["tokenizer"], rest["stats"]["tokenizer"], groups, train=train
        )
        drop = drop_paths(ctx, self.compute, self.depth, len(groups), train)
        features = apply(self.encoder, params["encoder"], tokens, centres, None, drop)
        return dataclasses.replace(features, stats=dict(rest["stats"]) | {"tokenizer": stats})

    def pictures(self, seen: Mapping[str, Array], batch: Batch) -> dict[str, Float[Array, "b h w c"]]:
        """The cloud; and of each pass the visible groups, and these with the rebuilt ones in another colour."""
        drawn: dict[str, Any] = {}
        for i, suffix in zip(PASSES, ("", "_2")):
            ids, rebuilt = (seen[f"keep_ids{i}"], seen[f"drop_ids{i}"]), {"reconstruction": seen[f"pred{i}"]}
            new = draw_groups(batch["points"], seen["groups"], seen["centres"], *ids, rebuilt)
            drawn |= {name if name == "original" else name + suffix: x for name, x in new.items()}
        return drawn


def contrasted(
    first: Float[Array, "b g d"], second: Float[Array, "b g d"], both: Bool[Array, "b g"], pairing: str
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """(mean of 1 - cos over the groups that both passes hid, paired by `pairing`; their mean cosine to themselves).

    Args: first, second: unit vectors, at the groups' own places.
    """
    count = jnp.maximum(both.sum(dtype=jnp.float32), 1.0)  # 0 / 0 in the authors' code where nothing is hidden twice
    own = jnp.where(both, (first * second).sum(axis=-1), 0.0).sum() / count
    if pairing == "same":
        return 1 - own, own
    drawn = jnp.where(both[:, :, None], first, 0.0).sum(axis=1)
    return 1 - (drawn * second.mean(axis=1)).sum() / count, own
