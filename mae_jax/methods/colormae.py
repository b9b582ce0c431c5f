"""ColorMAE: Exploring data-independent masking strategies in Masked AutoEncoders (Hinojosa et al., 2024; ECCV 2024).

arXiv 2407.13036. Plain MAE whose masks come from filtered noise instead of white noise: the colour of the noise says
of what size the holes are (masking/colour.py). No parameters, and nothing of the image is looked at. The strongest
quarter of an image's window of noise stays visible (Sec. 3), so the score that is selected by is the noise, negated.

Quirks of the authors' code that are kept here: image k of a pass over the bank of patterns always has pattern k, and
all images of a pass share one crop and one flip of each kind (`draw="pass"`); a window is divided by its own maximum;
the first half of the position tables encodes the row (mmpretrain), not the column as in MAE. Their passes are those of
one GPU's batch, ours those of the global batch, so that the number of devices changes nothing.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar, Literal

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mae_jax.core.errors import UserError
from mae_jax.core.keys import Context
from mae_jax.core.types import Aux, Batch, Features, Mask, Params, Stats
from mae_jax.losses.masked import masked_mean, squared_error
from mae_jax.masking import colour, scores
from mae_jax.masking.colour import Bank, Colour
from mae_jax.masking.select import check_hides, keep_count, select
from mae_jax.methods.base import Cost, FrozenSpec, Leaf, Method, Rest
from mae_jax.nets.autoencoder import Autoencoder
from mae_jax.nets.block import Transformer, check_width, drop_paths
from mae_jax.nets.layers import apply
from mae_jax.nets.vit import Decoder, Encoder, sizes
from mae_jax.tokens.grid import grid_shape
from mae_jax.tokens.positions import Order


@dataclasses.dataclass(frozen=True, kw_only=True)
class ColorMAE(Method):
    """Masked autoencoder under coloured noise. The defaults are the released ViT-B/16 under green noise.

    Attributes:
      image_size, patch: pixels, one number or (rows, columns); the patch must divide the image.
      channels: of the input.
      dim, depth, heads, mlp_ratio: the encoder.
      decoder_dim, decoder_depth, decoder_heads: the decoder.
      mask_ratio: share of hidden patches.
      norm_pix: predict each patch's pixels normalised by its own mean and deviation.
      norm_eps: of every layer norm.
      positions: of the encoder: "sincos", fixed; "learned", for fine-tuning.
      first: which axis has the first channels of the fixed tables: "row", as mmpretrain; "column", as MAE.
      colour: of the noise; "white" is MAE's random masking.
      schedule: ((step, colour), ...): from that step on that colour. Nothing is compiled anew.
      draw: where an image's window comes from. "pass": a bank of patterns, crop and flips shared by a pass, as
        published; "sample": the bank, with pattern, crop and flips drawn for each image; "fresh": noise drawn and
        filtered on the device at every step, without a bank.
      bank: the file of the bank, "{colour}" standing for the colour's name (published:
        "{colour}_noise_data_3072.npz"); "": made from bank_seed.
      patterns, pattern_size: how many patterns a bank has, and the size of each: one number or (rows, columns).
      blur: widths s1 < s2 of the filters' Gaussians, in patches.
      bank_seed: of a bank that is made.
    """

    name: ClassVar[str] = "colormae"

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
    positions: Literal["sincos", "learned"] = "sincos"
    first: Order = "row"
    colour: Colour = "green"
    schedule: tuple[tuple[int, Colour], ...] = ()
    draw: Literal["pass", "sample", "fresh"] = "pass"
    bank: str = ""
    patterns: int = 1024
    pattern_size: int | tuple[int, int] = 64
    blur: tuple[float, float] = (0.8, 2.0)
    bank_seed: int = 0

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
        return Encoder(shape, sizes(self.patch), positions=self.positions, grid=self.grid, first=self.first)

    @property
    def net(self) -> Autoencoder:
        shape = Transformer(
            self.decoder_dim, self.decoder_depth, self.decoder_heads, self.mlp_ratio, norm_eps=self.norm_eps,
            compute=self.compute,
        )  # fmt: skip
        decoder = Decoder(shape, out=math.prod(sizes(self.patch)) * self.channels, first=self.first)
        return Autoencoder(self.encoder, sizes(self.image_size), self.channels, decoder, self.norm_pix)

    @property
    def palette(self) -> tuple[Colour, ...]:
        """Every colour that the run has, once."""
        return tuple(dict.fromkeys((self.colour, *(c for _, c in self.schedule))))

    def frozen(self) -> Mapping[str, FrozenSpec]:
        if self.draw == "fresh":
            return {}
        size: tuple[int, int] = sizes(self.pattern_size)  # type: ignore[assignment]
        bank = lambda c: Bank(c, self.patterns, size, self.blur, self.bank_seed)
        file = lambda c: self.bank.replace("{colour}", c) or "generated"
        return {c: FrozenSpec("noise_bank", file(c), network=bank(c)) for c in self.palette if c != "white"}

    def check(self) -> None:
        check_hides(self.mask_ratio, math.prod(self.grid))
        check_width(self.dim, self.heads, axes=2)
        check_width(self.decoder_dim, self.decoder_heads, axes=2, part="decoder_")
        colour.check_blur(self.blur)
        size = sizes(self.pattern_size)
        if self.draw != "fresh" and (self.patterns < 1 or any(m < g for m, g in zip(size, self.grid))):
            raise UserError(
                f"method.pattern_size={self.pattern_size} cannot hold a window of the {self.grid[0]} x {self.grid[1]} "
                f"patches of an image, or method.patterns={self.patterns} is no bank: each pattern needs a pixel for "
                f"every patch, and better several times as many."
            )
        starts = [step for step, _ in self.schedule]
        if starts != sorted(set(starts)) or any(step < 1 for step in starts):
            raise UserError(
                f"method.schedule={self.schedule} must name rising steps above 0, as ((1000, 'blue'), (2000, 'red')); "
                f"before the first the colour is method.colour."
            )
        if self.bank and len(set(self.palette) - {"white"}) > 1 and "{colour}" not in self.bank:
            raise UserError(
                f"method.bank='{self.bank}' names one file, and the run has the colours {', '.join(self.palette)}: "
                f"write {{colour}} where their names differ."
            )

    def cost(self) -> Cost:
        fresh = self.draw == "fresh" and self.palette != ("white",)
        once = colour.fresh_flops(self.blur, self._window) if fresh else 0.0
        return Cost(forward=self.net.flops(self.keep), tokens=math.prod(self.grid), visible=self.keep, once=once)

    def init(self, key: Array, batch: Batch) -> tuple[Params, Stats]:
        return self.net.init(key, self.keep), {}

    def loss(self, params: Params, rest: Rest, batch: Batch, ctx: Context) -> tuple[Float[Array, ""], Aux]:
        image, valid = batch["image"], batch.get("valid_tokens")
        mask = self.mask(rest, ctx, len(image))
        visible = self.net.encode(params, image, mask, valid)
        pred = self.net.decode(params, visible, mask, valid)
        target = self.net.target(image)
        loss, weight = masked_mean(squared_error(pred, target), mask.hidden, valid)
        seen = self.net.seen(visible, mask, pred, target) | {"keep_ids": mask.keep_ids}
        return loss, Aux(stats=dict(rest["stats"]), metrics={"loss": loss}, weight=weight, seen=seen)

    def mask(self, rest: Rest, ctx: Context, b: int) -> Mask:
        """Which patches are hidden: those where the noise is low (Sec. 3)."""
        if self.palette == ("white",):
            return select(scores.random(ctx, b, math.prod(self.grid)), self.keep)
        noise = lambda: self.noise(rest, ctx, b).reshape(b, -1)
        return select(ctx.given("mask", lambda: -noise()), self.keep)

    def noise(self, rest: Rest, ctx: Context, b: int) -> Float[Array, "b h w"]:
        """Each image's window of noise."""
        if self.draw == "fresh":
            k = colour.margin(self.blur)
            white = ctx.normal("white", (b, *(g + 2 * k for g in self.grid)))
            weights = jnp.asarray([colour.FILTERS[c] for c in self.palette], jnp.float32)
            return colour.fresh_windows(white, weights[self._now(ctx.step)], self.blur, self._window)
        draw = {"pass": colour.draw_pass, "sample": colour.draw_sample}[self.draw]
        (m, n), (h, w) = sizes(self.pattern_size), self._window
        chosen = draw(ctx, b, self.patterns, (m - h, n - w))
        fields = [
            ctx.uniform("white", (b, h, w)) if c == "white"
            else colour.crop_windows(rest["frozen"][c]["patterns"], *chosen, self._window)
            for c in self.palette
        ]  # fmt: skip
        return fields[0] if len(fields) == 1 else jnp.stack(fields)[self._now(ctx.step)]

    def encode(
        self, params: Params, rest: Rest, batch: Batch, *, ctx: Context | None = None, train: bool = False
    ) -> Features:
        drop = drop_paths(ctx, self.compute, self.depth, len(batch["image"]), train)
        return apply(self.encoder, params["encoder"], batch["image"], None, batch.get("valid_tokens"), drop)

    def pictures(self, seen: Mapping[str, Array], batch: Batch) -> dict[str, Float[Array, "b h w c"]]:
        return self.net.pictures(seen, batch["image"])

    @property
    def _window(self) -> tuple[int, int]:
        return self.grid[0], self.grid[1]

    def _now(self, step: Int[Array, ""] | int) -> Int[Array, ""]:
        """The number in the palette of a step's colour: traced, so that a new colour compiles nothing."""
        colours = jnp.asarray([self.palette.index(c) for c in (self.colour, *(c for _, c in self.schedule))])
        starts = jnp.asarray([start for start, _ in self.schedule], jnp.int32)
        return colours[jnp.sum(step >= starts)]
