"""VideoMAE: Masked Autoencoders are Data-Efficient Learners for Self-Supervised Video Pre-Training (Tong et al., 2022;
NeurIPS 2022). arXiv 2203.12602.

MAE on clips: a token is a tube of 2 x 16 x 16 pixels, and 90 % are hidden, at the same places at all times, since
neighbouring frames would otherwise give away what is hidden. `loss` is Sec. 3 of the paper, line by line.

Quirks of the authors' code that are kept: positions number the tokens through, one axis for time, row and column; keys
have no bias; the encoder sees the visible tokens in their order; the decoder's sequence is [visible ; hidden] and only
its end is predicted; the map between the two has no bias and torch's default initialisation; targets are pixels in
[0, 1], normalised channel by channel, the epsilon outside the root; counts are truncated where tokens are hidden (MAE:
kept).
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar, Literal

from jaxtyping import Array, Float

from mae_jax.core.keys import Context
from mae_jax.core.types import Aux, Batch, Features, Mask, Params, Stats
from mae_jax.losses.masked import squared_error
from mae_jax.masking.select import select
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
class VideoMAE(Method):
    """Masked autoencoder of clips. The defaults are ViT-B/16 on 16 frames of 224 px (paper, Sec. 4).

    Attributes:
      frames, image_size: of a clip; pixels, one number or (rows, columns).
      tubelet, patch: what a token spans; the patch is one number or (rows, columns). They must divide the clip.
      channels: of the input.
      dim, depth, heads, mlp_ratio: the encoder.
      decoder_dim, decoder_depth, decoder_heads: the decoder.
      mask_ratio: share of hidden places (0.9; 0.75 on UCF101).
      masking: "tube", the same places at all times; "slot", others at each; "random", any tokens; "frame", whole times
        (Table 1b; masking/tube.py).
      norm_pix: predict pixels normalised per token and channel; else as they are in [0, 1].
      mean, std: what clips were normalised by (augment.mean, augment.std): the way back to [0, 1].
      norm_eps: of every layer norm.
      qkv_bias: "qv": of queries and values alone; False: none.
      qk_scale: of the logits; None: (dim / heads)^-0.5.
      layer_scale: start of the factors of the residual branches; 0: there are none.
      positions: of the encoder: "flat", the fixed table; "learned", a parameter (in the classifier's code).
    """

    name: ClassVar[str] = "videomae"

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
            self.layer_scale or None, compute=self.compute,
        )  # fmt: skip
        return Encoder(
            shape, self.cut, class_token=False, positions=self.positions, grid=self.grid, patch_init=torch_linear
        )

    @property
    def decoder(self) -> TailDecoder:
        shape = Transformer(
            self.decoder_dim, self.decoder_depth, self.decoder_heads, self.mlp_ratio, self.qkv_bias, self.qk_scale,
            self.norm_eps, self.layer_scale or None, compute=self.compute,
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

    def check(self) -> None:
        assert self.counts
        check_width(self.dim, self.heads, axes=1)
        check_width(self.decoder_dim, self.decoder_heads, axes=1, part="decoder_")

    def cost(self) -> Cost:
        n, k = self.counts
        return Cost(forward=self.net.flops(k, n - k), tokens=n, visible=k)

    def init(self, key: Array, batch: Batch) -> tuple[Params, Stats]:
        return self.net.init(key, self.counts[1]), {}

    def mask(self, ctx: Context, batch: int) -> Mask:
        """Which tokens are hidden (Sec. 3.3)."""
        slots, *places = self.grid
        scores = ctx.given("scores", lambda: tube_scores(ctx, self.masking, batch, slots, math.prod(places)))
        return select(scores, self.counts[1], order="raster")

    def loss(self, params: Params, rest: Rest, batch: Batch, ctx: Context) -> tuple[Float[Array, ""], Aux]:
        video = batch["video"]
        mask = self.mask(ctx, len(video))
        visible = self.net.encode(params, video, mask)
        pred = self.net.decode(params, visible, mask, mask.drop_ids)
        target = gather(self.net.target(video), mask.drop_ids)
        loss = squared_error(pred, target).mean()
        seen = {
            "latent": visible.normed, "hidden": mask.hidden, "restore_ids": mask.restore_ids, "pred": pred,
            "target": target,
        }  # fmt: skip
        return loss, Aux(stats=dict(rest["stats"]), metrics={"loss": loss}, seen=seen)

    def encode(
        self, params: Params, rest: Rest, batch: Batch, *, ctx: Context | None = None, train: bool = False
    ) -> Features:
        drop = drop_paths(ctx, self.compute, self.depth, len(batch["video"]), train)
        return apply(self.encoder, params["encoder"], batch["video"], drop=drop)

    def pictures(self, seen: Mapping[str, Array], batch: Batch) -> dict[str, Float[Array, "b h w c"]]:
        """Film strips. Predictions are coloured by their patch's true moments."""
        place = seen["restore_ids"] - self.counts[1]
        return self.net.pictures(batch["video"], seen["pred"], place, seen["hidden"])
