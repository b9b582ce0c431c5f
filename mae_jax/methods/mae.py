"""Masked Autoencoders Are Scalable Vision Learners (He et al., 2021; CVPR 2022). arXiv 2111.06377.

Hide 75 % of an image's patches, encode the visible ones with a plain ViT, and let a small decoder regress the hidden
pixels. Section 3 of the paper is `loss`, line by line; the network is nets/autoencoder.py.

Quirks of the authors' code that are kept here: the variance of normalised targets is unbiased and its epsilon lies
inside the root; the first half of the position table encodes the column; the class token runs through encoder and
decoder but is never predicted; the encoder sees the visible tokens in shuffled order.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar, Literal

from jaxtyping import Array, Float

from mae_jax.core.keys import Context
from mae_jax.core.types import Aux, Batch, Features, Mask, Params, Stats
from mae_jax.losses.masked import masked_mean, squared_error
from mae_jax.masking import scores
from mae_jax.masking.select import check_hides, keep_count, select
from mae_jax.methods.base import Cost, Leaf, Method, Rest
from mae_jax.nets.autoencoder import Autoencoder
from mae_jax.nets.block import Transformer, check_width, drop_paths
from mae_jax.nets.layers import apply
from mae_jax.nets.vit import Decoder, Encoder, sizes
from mae_jax.tokens.grid import grid_shape


@dataclasses.dataclass(frozen=True, kw_only=True)
class MAE(Method):
    """Masked autoencoder. The defaults are ViT-L/16 at 224 px (paper, Sec. 4).

    Attributes:
      image_size, patch: pixels, one number or (rows, columns); the patch must divide the image.
      channels: of the input.
      dim, depth, heads, mlp_ratio: the encoder.
      decoder_dim, decoder_depth, decoder_heads: the decoder (Table 1a, 1b).
      class_token: whether a class token runs along (Sec. 3: works as well without).
      mask_ratio: share of hidden patches (Fig. 5).
      norm_pix: predict each patch's pixels normalised by its own mean and deviation (Table 1d).
      norm_eps: of every layer norm.
      positions: of the encoder: "sincos", the paper's fixed table; "learned", a parameter of `image_size`'s grid,
        which other sizes interpolate (published classifiers; fine-tuning). The decoder's are always fixed.
      activation: of the MLPs: "gelu", exact; "gelu_tanh", approximated, as in big_vision's and JAX's own ViTs.
    """

    name: ClassVar[str] = "mae"

    image_size: int | tuple[int, int] = 224
    patch: int | tuple[int, int] = 16
    channels: int = 3
    dim: int = 1024
    depth: int = 24
    heads: int = 16
    mlp_ratio: float = 4.0
    decoder_dim: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16
    class_token: bool = True
    mask_ratio: float = 0.75
    norm_pix: bool = False
    norm_eps: float = 1e-6
    positions: Literal["sincos", "learned"] = "sincos"
    activation: Literal["gelu", "gelu_tanh", "quick_gelu"] = "gelu"

    @property
    def batch_spec(self) -> Mapping[str, Leaf]:
        return {"image": Leaf((*sizes(self.image_size), self.channels))}

    @property
    def grid(self) -> tuple[int, ...]:
        return grid_shape(sizes(self.image_size), sizes(self.patch))

    @property
    def encoder(self) -> Encoder:
        shape = Transformer(
            self.dim, self.depth, self.heads, self.mlp_ratio, norm_eps=self.norm_eps, activation=self.activation,
            compute=self.compute,
        )  # fmt: skip
        return Encoder(shape, sizes(self.patch), self.class_token, positions=self.positions, grid=self.grid)

    @property
    def decoder(self) -> Decoder:
        shape = Transformer(
            self.decoder_dim, self.decoder_depth, self.decoder_heads, self.mlp_ratio, norm_eps=self.norm_eps,
            activation=self.activation, compute=self.compute,
        )  # fmt: skip
        return Decoder(shape, out=math.prod(sizes(self.patch)) * self.channels)

    @property
    def net(self) -> Autoencoder:
        return Autoencoder(self.encoder, sizes(self.image_size), self.channels, self.decoder, self.norm_pix)

    def check(self) -> None:
        check_hides(self.mask_ratio, math.prod(self.grid))
        check_width(self.dim, self.heads, axes=2)
        check_width(self.decoder_dim, self.decoder_heads, axes=2, part="decoder_")

    def cost(self) -> Cost:
        n = math.prod(self.grid)
        k = keep_count(n, self.mask_ratio)
        return Cost(forward=self.net.flops(k), tokens=n, visible=k)

    def init(self, key: Array, batch: Batch) -> tuple[Params, Stats]:
        return self.net.init(key, keep_count(math.prod(self.grid), self.mask_ratio)), {}

    def mask(self, ctx: Context, image: Float[Array, "b h w c"]) -> Mask:
        """Which patches are hidden: uniformly drawn ones (Sec. 3). A variation that hides others overrides this."""
        n = math.prod(self.grid)
        return select(scores.random(ctx, image.shape[0], n), keep_count(n, self.mask_ratio))

    def loss(self, params: Params, rest: Rest, batch: Batch, ctx: Context) -> tuple[Float[Array, ""], Aux]:
        image, valid = batch["image"], batch.get("valid_tokens")
        mask = self.mask(ctx, image)
        visible = self.net.encode(params, image, mask, valid)
        pred = self.net.decode(params, visible, mask, valid)
        target = self.net.target(image)
        loss, weight = masked_mean(squared_error(pred, target), mask.hidden, valid)
        seen = self.net.seen(visible, mask, pred, target)
        return loss, Aux(stats=dict(rest["stats"]), metrics={"loss": loss}, weight=weight, seen=seen)

    def encode(
        self, params: Params, rest: Rest, batch: Batch, *, ctx: Context | None = None, train: bool = False
    ) -> Features:
        drop = drop_paths(ctx, self.compute, self.depth, len(batch["image"]), train)
        return apply(self.encoder, params["encoder"], batch["image"], None, batch.get("valid_tokens"), drop)

    def pictures(self, seen: Mapping[str, Array], batch: Batch) -> dict[str, Float[Array, "b h w c"]]:
        return self.net.pictures(seen, batch["image"])
