"""Hi-End-MAE: Hierarchical Encoder-driven Masked Autoencoders Are Stronger Vision Learners for Medical Image
Segmentation (Tang et al., 2025; Medical Image Analysis). arXiv 2502.08347.

MAE on CT volumes, with a decoder that asks the encoder: after two plain blocks, each of its cross blocks attends to the
visible tokens as another encoder layer left them, from deep to shallow. Hidden voxels are thus rebuilt from every
level of the encoder, and its middle layers learn features that a segmentation head can use.

Quirks of the authors' code (FengheTan9/Hi-End-MAE; the paper's text was not at hand, so there are no equation numbers)
that are kept here: "layers 3, 6, 9" are positions in the list of block outputs, so the 4th, 7th and 10th block; these
memories get neither a norm nor positions; the decoder's sequence is never unshuffled; the target is normalised by the
biased variance (MAE: unbiased); class tokens carry no position; weight decay reaches every parameter (the recipe).
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mae_jax.core.errors import UserError
from mae_jax.core.keys import Context
from mae_jax.core.types import Aux, Batch, Features, Params, Stats
from mae_jax.losses.masked import squared_error
from mae_jax.masking import scores
from mae_jax.masking.select import check_hides, keep_count, select
from mae_jax.methods.base import Cost, Leaf, Method, Rest
from mae_jax.nets import flops
from mae_jax.nets.block import Transformer, check_width, drop_paths
from mae_jax.nets.cross import HierarchicalDecoder
from mae_jax.nets.layers import apply
from mae_jax.nets.vit import Encoder, sizes
from mae_jax.targets import pixels
from mae_jax.tokens.gather import gather
from mae_jax.tokens.grid import grid_shape, patchify, unpatchify


@dataclasses.dataclass(frozen=True, kw_only=True)
class HiEndMAE(Method):
    """Masked autoencoder of volumes with a hierarchical decoder. The defaults are the released model (large, patch 12).

    Attributes:
      volume_size, patch: voxels, one number or one per axis; the patch must divide the volume.
      channels: of the input.
      dim, depth, heads, mlp_ratio: the encoder.
      memory: which encoder blocks the decoder attends to, counted from 0, shallow to deep; a cross block for each.
      decoder_dim, decoder_depth, decoder_heads: the decoder, and its number of plain blocks.
      positions: of the encoder: "sincos", or "learned" (the authors' "perceptron"); the decoder's are fixed.
      mask_ratio: share of hidden patches.
      norm_eps: of every layer norm.
    """

    name: ClassVar[str] = "hiendmae"

    volume_size: int | tuple[int, int, int] = 96
    patch: int | tuple[int, int, int] = 12
    channels: int = 1
    dim: int = 1536
    depth: int = 12
    heads: int = 16
    mlp_ratio: float = 4.0
    memory: tuple[int, ...] = (3, 6, 9)
    decoder_dim: int = 528
    decoder_depth: int = 2
    decoder_heads: int = 16
    positions: Literal["sincos", "learned"] = "sincos"
    mask_ratio: float = 0.75
    norm_eps: float = 1e-6

    @property
    def batch_spec(self) -> Mapping[str, Leaf]:
        return {"volume": Leaf((*sizes(self.volume_size, 3), self.channels))}

    @property
    def grid(self) -> tuple[int, ...]:
        return grid_shape(sizes(self.volume_size, 3), sizes(self.patch, 3))

    @property
    def voxels(self) -> int:
        """Values in a patch."""
        return math.prod(sizes(self.patch, 3)) * self.channels

    @property
    def encoder(self) -> Encoder:
        shape = Transformer(
            self.dim, self.depth, self.heads, self.mlp_ratio, norm_eps=self.norm_eps, compute=self.compute
        )
        return Encoder(
            shape, sizes(self.patch, 3), positions=self.positions, grid=self.grid, first="row", class_position=False
        )

    @property
    def decoder(self) -> HierarchicalDecoder:
        shape = Transformer(
            self.decoder_dim, self.decoder_depth, self.decoder_heads, self.mlp_ratio, norm_eps=self.norm_eps,
            compute=self.compute,
        )  # fmt: skip
        return HierarchicalDecoder(shape, out=self.voxels)

    def check(self) -> None:
        n = math.prod(self.grid)
        check_hides(self.mask_ratio, n)
        if not self.memory or list(self.memory) != sorted({i for i in self.memory if 0 <= i < self.depth}):
            raise UserError(
                f"method.memory={self.memory} must name blocks of the encoder from shallow to deep, each once: numbers "
                f"from 0 to {self.depth - 1} (method.depth={self.depth}), at least one."
            )
        check_width(self.dim, self.heads, axes=3)
        check_width(self.decoder_dim, self.decoder_heads, axes=3, part="decoder_")

    def cost(self) -> Cost:
        n, d, dd, m = math.prod(self.grid), self.dim, self.decoder_dim, len(self.memory)
        k = keep_count(n, self.mask_ratio)
        forward = (
            flops.dense(k, self.voxels, d)
            + self.depth * flops.block(k + 1, d, self.mlp_ratio)
            + (m + 1) * flops.dense(k + 1, d, dd)
            + (self.decoder_depth + m) * flops.block(n + 1, dd, self.mlp_ratio)
            + m * flops.cross_attention(n + 1, k + 1, dd)
            + flops.dense(n + 1, dd, self.voxels)
        )
        return Cost(forward=forward, tokens=n, visible=k)

    def init(self, key: Array, batch: Batch) -> tuple[Params, Stats]:
        volume, n = batch["volume"], math.prod(self.grid)
        mask = select(jnp.zeros((volume.shape[0], n)), keep_count(n, self.mask_ratio))
        encoder_key, decoder_key = jax.random.split(key)
        visible, encoder = self.encoder.init_with_output(encoder_key, volume, mask)
        latent = jnp.concatenate([visible.prefix, visible.normed], axis=1)
        decoder = self.decoder.init(decoder_key, latent, self._levels(visible), mask, self.grid)
        return {"encoder": encoder["params"], "decoder": decoder["params"]}, {}

    def loss(self, params: Params, rest: Rest, batch: Batch, ctx: Context) -> tuple[Float[Array, ""], Aux]:
        volume, n = batch["volume"], math.prod(self.grid)
        mask = select(scores.random(ctx, volume.shape[0], n), keep_count(n, self.mask_ratio))
        visible = apply(self.encoder, params["encoder"], volume, mask)
        latent = jnp.concatenate([visible.prefix, visible.normed], axis=1)
        pred, queries, memories = apply(self.decoder, params["decoder"], latent, self._levels(visible), mask, self.grid)
        hidden = gather(patchify(volume, sizes(self.patch, 3)), mask.drop_ids)
        target = pixels.normalise(hidden, unbiased=False)  # a layer norm without parameters, where MAE's is unbiased
        loss = squared_error(pred[:, latent.shape[1] :], target).mean()  # the last tokens are the hidden ones
        seen = {
            "latent": latent, "hidden": mask.hidden, "restore_ids": mask.restore_ids, "pred": pred, "queries": queries,
            "target": target, "ids": jnp.concatenate([mask.keep_ids, mask.drop_ids], axis=1),
        }  # fmt: skip
        seen |= {f"hidden{i}": x for i, x in enumerate(visible.hidden)}
        seen |= {f"memory{i}": x for i, x in zip(self.memory, memories)}
        return loss, Aux(stats=dict(rest["stats"]), metrics={"loss": loss}, seen=seen)

    def _levels(self, features: Features) -> list[Float[Array, "b t d"]]:
        return [features.hidden[i] for i in self.memory]

    def encode(
        self, params: Params, rest: Rest, batch: Batch, *, ctx: Context | None = None, train: bool = False
    ) -> Features:
        drop = drop_paths(ctx, self.compute, self.depth, len(batch["volume"]), train)
        return apply(self.encoder, params["encoder"], batch["volume"], drop=drop)

    def pictures(self, seen: Mapping[str, Array], batch: Batch) -> dict[str, Float[Array, "b h w c"]]:
        """The middle slice along the last axis."""
        tokens, patch = patchify(batch["volume"], sizes(self.patch, 3)), sizes(self.patch, 3)
        pred = gather(seen["pred"][:, 1:], seen["restore_ids"])
        painted = pixels.paint(tokens, pred, seen["hidden"], normalised=True, unbiased=False)
        volumes = {name: unpatchify(t, self.grid, patch) for name, t in painted.items()}
        return {name: v[:, :, :, v.shape[3] // 2] for name, v in volumes.items()}
