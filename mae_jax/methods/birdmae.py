"""Bird-MAE (Rauch et al., 2025; arXiv 2504.12880) and what it adapts, Masked Autoencoders that Listen (Audio-MAE, Huang
et al., 2022; NeurIPS 2022; arXiv 2207.06405): MAE on log-mel spectrograms as images of one channel, (time, mel).

Quirks of the authors' code that are kept here: the table of positions is made for a grid of (mel, time), but added to
tokens in order of (time, mel), so that token n gets the position (n // T, n % T) (`transposed`; published weights need
it, overlapped patches have it right); the windowed decoder has no class token; its positions drop a tenth of their
values in training; `drop_time` and `drop_mel` keep floors.
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
from mae_jax.core.types import Aux, Batch, Features, Mask, Params, Stats
from mae_jax.losses.masked import masked_mean, squared_error
from mae_jax.masking import scores
from mae_jax.masking.select import check_hides, keep_count, select
from mae_jax.methods.base import Cost, Leaf, Method, Rest
from mae_jax.nets import flops
from mae_jax.nets.block import Transformer, check_width, drop_paths
from mae_jax.nets.layers import apply, constant
from mae_jax.nets.vit import Decoder, Encoder, sizes
from mae_jax.nets.window import WindowDecoder, Windows
from mae_jax.targets import pixels
from mae_jax.targets.colours import upright
from mae_jax.tokens import positions
from mae_jax.tokens.grid import (
    grid_shape,
    overlapped_shape,
    patchify,
    patchify_overlapped,
    unpatchify,
    unpatchify_overlapped,
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class BirdMAE(Method):
    """Masked autoencoder of spectrograms. The defaults are Bird-MAE large (5 s at 32 kHz).

    Attributes:
      spectrogram_size: (frames, mel bins).
      patch: one number or (frames, bins), which divides the size.
      stride: from patch to patch where they overlap (Audio-MAE: 10); None: they do not.
      channels: of the input.
      dim, depth, heads, mlp_ratio: the encoder.
      decoder_blocks: "plain", MAE's; "window", attention in windows (Audio-MAE's published decoder); "window_v2", the
        same with Swin v2's blocks (an ablation of Bird-MAE).
      decoder_dim, decoder_depth, decoder_heads, decoder_mlp_ratio: the decoder.
      window, shift: of the windowed decoders, in tokens along (time, mel); every other block is shifted.
      mask: "random" patches, or "lines", whole columns of time and whole rows of mel bins (Audio-MAE, Fig. 2).
      mask_ratio: share of hidden patches ("random").
      mask_time, mask_mel: shares of hidden columns and rows ("lines").
      drop_time, drop_mel: shares of columns and rows that `encode` leaves out in training (fine-tuning).
      norm_pix: predict each patch normalised by its own mean and deviation.
      norm_eps: of every layer norm.
      transposed: whether position tables are made for (mel, time), as published.
      learned_positions, decoder_learned_positions: whether the tables are parameters, which start as the fixed ones.
    """

    name: ClassVar[str] = "birdmae"

    spectrogram_size: tuple[int, int] = (512, 128)
    patch: int | tuple[int, int] = 16
    stride: int | tuple[int, int] | None = None
    channels: int = 1
    dim: int = 1024
    depth: int = 24
    heads: int = 16
    mlp_ratio: float = 4.0
    decoder_blocks: Literal["plain", "window", "window_v2"] = "plain"
    decoder_dim: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16
    decoder_mlp_ratio: float = 4.0
    window: tuple[int, int] = (4, 4)
    shift: tuple[int, int] = (2, 0)
    mask: Literal["random", "lines"] = "random"
    mask_ratio: float = 0.75
    mask_time: float = 0.6
    mask_mel: float = 0.5
    drop_time: float = 0.0
    drop_mel: float = 0.0
    norm_pix: bool = True
    norm_eps: float = 1e-6
    transposed: bool = True
    learned_positions: bool = False
    decoder_learned_positions: bool = False

    @property
    def batch_spec(self) -> Mapping[str, Leaf]:
        return {"spectrogram": Leaf((*self.spectrogram_size, self.channels))}

    @property
    def grid(self) -> tuple[int, int]:
        """Patches along (time, mel)."""
        patch = sizes(self.patch)
        if self.stride is None:
            time, mel = grid_shape(self.spectrogram_size, patch)
        else:
            time, mel = overlapped_shape(self.spectrogram_size, patch, sizes(self.stride))
        return time, mel

    @property
    def encoder(self) -> Encoder:
        shape = Transformer(
            self.dim, self.depth, self.heads, self.mlp_ratio, norm_eps=self.norm_eps, compute=self.compute
        )
        table = positions.with_prefix(positions.sincos(self.dim, self.grid, transposed=self.transposed), 1)
        return Encoder(
            shape, sizes(self.patch), grid=self.grid, transposed=self.transposed, position_init=constant(table[None]),
            positions="learned" if self.learned_positions else "sincos",
            stride=() if self.stride is None else sizes(self.stride),
        )  # fmt: skip

    @property
    def decoder(self) -> Decoder | WindowDecoder:
        shape = Transformer(
            self.decoder_dim, self.decoder_depth, self.decoder_heads, self.decoder_mlp_ratio, norm_eps=self.norm_eps,
            compute=self.compute,
        )  # fmt: skip
        out = math.prod(sizes(self.patch)) * self.channels
        kind: Literal["sincos", "learned"] = "learned" if self.decoder_learned_positions else "sincos"
        if self.decoder_blocks == "plain":
            return Decoder(shape, out, positions=kind, transposed=self.transposed)
        blocks: Literal["early", "v2"] = "early" if self.decoder_blocks == "window" else "v2"
        return WindowDecoder(shape, out, self.window, self.shift, blocks, kind, self.transposed)

    def check(self) -> None:
        n = math.prod(self.grid)
        if self.mask == "random":
            check_hides(self.mask_ratio, n)
        elif math.prod(self._kept(self.mask_time, self.mask_mel)) == n:
            raise UserError(
                f"method.mask_time={self.mask_time} and method.mask_mel={self.mask_mel} hide none of {self.grid} "
                f"columns and rows: raise one of them."
            )
        self._kept(self.drop_time, self.drop_mel)
        check_width(self.dim, self.heads, axes=2)
        check_width(self.decoder_dim, self.decoder_heads, axes=2, part="decoder_")
        if self.decoder_blocks != "plain" and self.grid[1] % min(self.grid[1], self.window[1]):
            raise UserError(
                f"method.window={self.window} does not divide the {self.grid[1]} mel rows of patches (grid "
                f"{self.grid}): take a divisor of {self.grid[1]} as its second number."
            )

    def _kept(self, time: float, mel: float) -> tuple[int, int]:
        return keep_count(self.grid[0], time), keep_count(self.grid[1], mel)

    @property
    def visible(self) -> int:
        """Patches that the encoder sees in pretraining."""
        if self.mask == "random":
            return keep_count(math.prod(self.grid), self.mask_ratio)
        return math.prod(self._kept(self.mask_time, self.mask_mel))

    def cost(self) -> Cost:
        """Of the windowed decoder without the network of positions, which runs once per batch."""
        n, d, e = math.prod(self.grid), self.dim, self.decoder_dim
        k, values = self.visible, math.prod(sizes(self.patch)) * self.channels
        if self.decoder_blocks == "plain":
            blocks, t = flops.block(n + 1, e, self.decoder_mlp_ratio), k + 1
        else:
            windows = Windows(self.grid, self.window, self.shift)
            blocks, t = windows.count * flops.block(windows.area, e, self.decoder_mlp_ratio), k
        forward = (
            flops.dense(n, values, d)  # as published: we embed only the k visible ones
            + self.depth * flops.block(k + 1, d, self.mlp_ratio)
            + flops.dense(t, d, e)
            + self.decoder_depth * blocks
            + flops.dense(n, e, values)
        )
        return Cost(forward=forward, tokens=n, visible=k)

    def init(self, key: Array, batch: Batch) -> tuple[Params, Stats]:
        x = batch["spectrogram"]
        mask = select(jnp.zeros((x.shape[0], math.prod(self.grid))), self.visible)
        encoder_key, decoder_key = jax.random.split(key)
        seen, encoder = self.encoder.init_with_output(encoder_key, x, mask)
        net = self.decoder
        prefix = (seen.prefix,) if isinstance(net, Decoder) else ()
        decoder = net.init(decoder_key, seen.normed, mask, self.grid, *prefix)
        return {"encoder": encoder["params"], "decoder": decoder["params"]}, {}

    def tokens(self, x: Float[Array, "b t f c"]) -> Float[Array, "b n p"]:
        """The patches' values."""
        if self.stride is None:
            return patchify(x, sizes(self.patch))
        return patchify_overlapped(x, sizes(self.patch), sizes(self.stride))

    def hide(self, ctx: Context, b: int) -> Mask:
        """Which patches are hidden."""
        if self.mask == "random":
            return select(scores.random(ctx, b, math.prod(self.grid)), self.visible)
        return select(scores.lines(ctx, b, self.grid, self._kept(self.mask_time, self.mask_mel)), self.visible)

    def loss(self, params: Params, rest: Rest, batch: Batch, ctx: Context) -> tuple[Float[Array, ""], Aux]:
        x = batch["spectrogram"]
        mask = self.hide(ctx, len(x))
        visible = apply(self.encoder, params["encoder"], x, mask)
        net = self.decoder
        if isinstance(net, Decoder):
            pred = apply(net, params["decoder"], visible.normed, mask, self.grid, visible.prefix)
        else:
            dropout = ctx.key("decoder/positions") if ctx.train and self.decoder_blocks == "window" else None
            pred = apply(net, params["decoder"], visible.normed, mask, self.grid, dropout)
        target = self.tokens(x)
        if self.norm_pix:
            target = pixels.normalise(target)
        loss, weight = masked_mean(squared_error(pred, target), mask.hidden)
        seen = {
            "latent": jnp.concatenate([visible.prefix, visible.normed], axis=1), "hidden": mask.hidden,
            "restore_ids": mask.restore_ids, "pred": pred, "target": target,
        }  # fmt: skip
        return loss, Aux(stats=dict(rest["stats"]), metrics={"loss": loss}, weight=weight, seen=seen)

    def encode(
        self, params: Params, rest: Rest, batch: Batch, *, ctx: Context | None = None, train: bool = False
    ) -> Features:
        """In training with drop_time or drop_mel: features of the patches that are left, in the order of their draw."""
        x, mask = batch["spectrogram"], None
        if train and ctx is not None and (self.drop_time or self.drop_mel):
            keep = self._kept(self.drop_time, self.drop_mel)
            mask = select(scores.lines(ctx, len(x), self.grid, keep, "drawn", "drop"), math.prod(keep))
        drop = drop_paths(ctx, self.compute, self.depth, len(x), train)
        return apply(self.encoder, params["encoder"], x, mask, None, drop)

    def pictures(self, seen: Mapping[str, Array], batch: Batch) -> dict[str, Float[Array, "b h w c"]]:
        """Time to the right, low frequencies below, from dark to bright; hidden patches grey. The first channel."""
        x = batch["spectrogram"]
        painted = pixels.paint(self.tokens(x), seen["pred"], seen["hidden"], normalised=self.norm_pix)
        whole = {name: self._whole(t) for name, t in painted.items()} | {"original": x}
        shown = {name: upright(y, x) for name, y in whole.items()}
        grey = self._whole(jnp.broadcast_to(seen["hidden"][:, :, None].astype(x.dtype), seen["pred"].shape))[..., :1]
        grey = grey.swapaxes(1, 2)[:, ::-1]
        return shown | {"masked": (1 - grey) * shown["masked"] + 0.5 * grey}

    def _whole(self, tokens: Float[Array, "b n p"]) -> Float[Array, "b t f c"]:
        if self.stride is None:
            return unpatchify(tokens, self.grid, sizes(self.patch))
        return unpatchify_overlapped(tokens, self.spectrogram_size, sizes(self.patch), sizes(self.stride))
