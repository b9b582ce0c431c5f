"""VideoMAE V2: Scaling Video Masked Autoencoders with Dual Masking (Wang et al., 2023; CVPR 2023). arXiv 2303.16727.

VideoMAE whose decoder is masked too: it is asked for a part of the clip alone, by running cells that differ from one
time to the next, which halves its tokens and lets the encoder grow to a billion parameters. What was hidden from the
encoder and asked of the decoder counts.

Quirks of the authors' code that are kept: all visible latents go to the decoder, whether a cell keeps their position
or not, and mask tokens stand at ALL kept positions, those of visible tokens too, so that a position may occur twice;
such tokens are predicted but not scored; the loss is a mean over the scored tokens of the batch, whose number differs
between samples; with decoder_ratio 0 the decoder is asked for what is hidden, nothing else: VideoMAE. A clip's views
(data.repeats=4) share frames and differ in crop and both masks. The rest is VideoMAE's (methods/videomae.py).
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar, Literal

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mae_jax.core.keys import Context
from mae_jax.core.types import Aux, Batch, Features, Mask, Params, Stats
from mae_jax.losses.masked import masked_mean, squared_error
from mae_jax.masking import scores
from mae_jax.masking.running_cell import cell_ids, cell_maps
from mae_jax.masking.select import keep_count, select
from mae_jax.masking.tube import Tube, tube_keep, tube_scores
from mae_jax.methods.base import Cost, Leaf, Method, Rest
from mae_jax.nets.attention import Bias
from mae_jax.nets.block import Transformer, check_width, drop_paths
from mae_jax.nets.clip_autoencoder import ClipAutoencoder
from mae_jax.nets.layers import apply, torch_linear
from mae_jax.nets.tail_decoder import TailDecoder
from mae_jax.nets.vit import Encoder, sizes
from mae_jax.tokens.gather import gather
from mae_jax.tokens.grid import grid_shape


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoMAEv2(Method):
    """Masked autoencoder of clips with dual masking. The defaults are ViT-B/16 on 16 frames of 224 px.

    Attributes:
      frames, image_size: of a clip; pixels, one number or (rows, columns).
      tubelet, patch: what a token spans; the patch is one number or (rows, columns). They must divide the clip.
      channels: of the input.
      dim, depth, heads, mlp_ratio: the encoder.
      decoder_dim, decoder_depth, decoder_heads: the decoder.
      mask_ratio: share of hidden places (0.9; 0.75 on UCF101).
      masking: of the encoder: "tube", the same places at all times; "slot", "random", "frame" (masking/tube.py).
      decoder_ratio: share of all positions of which the decoder is not asked, in quarters; 0: it is asked for what is
        hidden.
      decoder_masking: "cell", running cells (masking/running_cell.py); "random", any positions (Table 2's control).
      cosine: whether attention goes by cosines with a learned scale (the authors' cos_attn).
      norm_pix: predict pixels normalised per token and channel; else as they are in [0, 1].
      mean, std: what clips were normalised by (augment.mean, augment.std): the way back to [0, 1].
      norm_eps: of every layer norm.
      qkv_bias: "qv": of queries and values alone; False: none.
      qk_scale: of the logits; None: (dim / heads)^-0.5.
      layer_scale: start of the factors of the residual branches; 0: there are none.
      positions: of the encoder: "flat", the fixed table; "learned", a parameter (in the classifier's code).
    """

    name: ClassVar[str] = "videomaev2"

    frames: int = 16
    image_size: int | tuple[int, int] = 224
    tubelet: int = 2
    patch: int | tuple[int, int] = 16
    channels: int = 3
    dim: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0
    decoder_dim: int = 384
    decoder_depth: int = 4
    decoder_heads: int = 6
    mask_ratio: float = 0.9
    masking: Tube = "tube"
    decoder_ratio: float = 0.5
    decoder_masking: Literal["cell", "random"] = "cell"
    cosine: bool = False
    norm_pix: bool = True
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    norm_eps: float = 1e-6
    qkv_bias: Bias = "qv"
    qk_scale: float | None = None
    layer_scale: float = 0.0
    positions: Literal["flat", "learned"] = "flat"

    @property
    def batch_spec(self) -> Mapping[str, Leaf]:
        return {"video": Leaf((self.frames, *sizes(self.image_size), self.channels))}

    @property
    def cut(self) -> tuple[int, int, int]:
        """What a token spans: frames, rows, columns."""
        return (self.tubelet, *sizes(self.patch))  # type: ignore[return-value]

    @property
    def grid(self) -> tuple[int, ...]:
        return grid_shape((self.frames, *sizes(self.image_size)), self.cut)

    @property
    def encoder(self) -> Encoder:
        shape = Transformer(
            self.dim, self.depth, self.heads, self.mlp_ratio, self.qkv_bias, self.qk_scale, self.norm_eps,
            self.layer_scale or None, cosine=self.cosine, compute=self.compute,
        )  # fmt: skip
        return Encoder(
            shape, self.cut, class_token=False, positions=self.positions, grid=self.grid, patch_init=torch_linear
        )

    @property
    def decoder(self) -> TailDecoder:
        shape = Transformer(
            self.decoder_dim, self.decoder_depth, self.decoder_heads, self.mlp_ratio, self.qkv_bias, self.qk_scale,
            self.norm_eps, self.layer_scale or None, cosine=self.cosine, compute=self.compute,
        )  # fmt: skip
        return TailDecoder(shape, out=math.prod(self.cut) * self.channels)

    @property
    def net(self) -> ClipAutoencoder:
        return ClipAutoencoder(
            self.encoder, self.decoder, (self.frames, *sizes(self.image_size)), self.channels, self.norm_pix, self.mean,
            self.std,
        )  # fmt: skip

    @property
    def counts(self) -> tuple[int, int]:
        """(tokens, how many of them are visible)."""
        slots, *places = self.grid
        return math.prod(self.grid), tube_keep(self.masking, self.mask_ratio, slots, math.prod(places))

    @property
    def asked(self) -> int:
        """Of how many tokens the decoder is asked."""
        n, k = self.counts
        if self.decoder_ratio == 0:
            return n - k
        if self.decoder_masking == "random":
            return keep_count(n, self.decoder_ratio)
        return int((~cell_maps(self.grid, self.decoder_ratio)[0]).sum())

    def check(self) -> None:
        assert self.asked
        check_width(self.dim, self.heads, axes=1)
        check_width(self.decoder_dim, self.decoder_heads, axes=1, part="decoder_")

    def cost(self) -> Cost:
        n, k = self.counts
        return Cost(forward=self.net.flops(k, self.asked), tokens=n, visible=k)

    def init(self, key: Array, batch: Batch) -> tuple[Params, Stats]:
        return self.net.init(key, self.counts[1]), {}

    def mask(self, ctx: Context, batch: int) -> Mask:
        """Which tokens are hidden from the encoder."""
        slots, *places = self.grid
        noise = ctx.given("scores", lambda: tube_scores(ctx, self.masking, batch, slots, math.prod(places)))
        return select(noise, self.counts[1], order="raster")

    def ask(self, ctx: Context, mask: Mask) -> Int[Array, "b m"]:
        """The positions that the decoder is asked for, ascending (Sec. 3.2)."""
        b, n = mask.hidden.shape
        if self.decoder_ratio == 0:
            return mask.drop_ids
        if self.decoder_masking == "random":
            return select(scores.random(ctx, b, n, "cell"), self.asked, order="raster").keep_ids
        return cell_ids(ctx, b, cell_maps(self.grid, self.decoder_ratio))

    def loss(self, params: Params, rest: Rest, batch: Batch, ctx: Context) -> tuple[Float[Array, ""], Aux]:
        video = batch["video"]
        mask = self.mask(ctx, len(video))
        visible = self.net.encode(params, video, mask)
        ask = ctx.given("ask", lambda: self.ask(ctx, mask))
        pred = self.net.decode(params, visible, mask, ask)
        target = gather(self.net.target(video), ask)
        scored = jnp.take_along_axis(mask.hidden, ask, axis=1, mode="clip")
        per_token = squared_error(pred, target)
        loss, weight = masked_mean(per_token, scored)
        seen = {
            "latent": visible.normed, "hidden": mask.hidden, "ask": ask, "pred": pred, "target": target,
            "per_token": per_token, "scored": scored,
        }  # fmt: skip
        return loss, Aux(stats=dict(rest["stats"]), metrics={"loss": loss}, weight=weight, seen=seen)

    def encode(
        self, params: Params, rest: Rest, batch: Batch, *, ctx: Context | None = None, train: bool = False
    ) -> Features:
        drop = drop_paths(ctx, self.compute, self.depth, len(batch["video"]), train)
        return apply(self.encoder, params["encoder"], batch["video"], drop=drop)

    def pictures(self, seen: Mapping[str, Array], batch: Batch) -> dict[str, Float[Array, "b h w c"]]:
        """Film strips; grey where the decoder was not asked. Predictions are coloured by their patch's true moments."""
        tokens = jnp.arange(self.counts[0])[None, None]
        asked = (seen["ask"][:, :, None] == tokens).any(axis=1)
        return self.net.pictures(batch["video"], seen["pred"], jnp.cumsum(asked, axis=1) - 1, seen["hidden"], asked)
