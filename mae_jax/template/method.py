"""my_method: TITLE. (Replace by the paper's title, authors, year, arXiv number.)

A complete masked autoencoder in three functions: `init` makes the weights, `loss` is the paper's method section, and
`encode` is what evaluation and fine-tuning use. Change the three places that are marked, and what follows from them.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mae_jax.core.keys import Context
from mae_jax.core.types import Aux, Batch, Features, Mask, Params, Stats
from mae_jax.losses.masked import masked_mean, squared_error
from mae_jax.masking import scores
from mae_jax.masking.select import check_hides, keep_count, select
from mae_jax.methods.base import Leaf, Method, Rest
from mae_jax.nets.block import Transformer, check_width, drop_paths
from mae_jax.nets.layers import apply
from mae_jax.nets.vit import Decoder, Encoder, sizes
from mae_jax.targets import pixels
from mae_jax.tokens.grid import grid_shape, patchify, unpatchify


@dataclasses.dataclass(frozen=True, kw_only=True)
class MyMethod(Method):
    """Every field is a key of a config's `method` section and has its line here.

    Attributes:
      image_size, patch: pixels, one number or (rows, columns).
      channels: of the input.
      dim, depth, heads: the encoder.
      decoder_dim, decoder_depth, decoder_heads: the decoder.
      mask_ratio: share of hidden patches.
    """

    name: ClassVar[str] = "my_method"

    image_size: int | tuple[int, int] = 224
    patch: int | tuple[int, int] = 16
    channels: int = 3
    dim: int = 768
    depth: int = 12
    heads: int = 12
    decoder_dim: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16
    mask_ratio: float = 0.75

    @property
    def batch_spec(self) -> Mapping[str, Leaf]:
        return {"image": Leaf((*sizes(self.image_size), self.channels))}

    @property
    def grid(self) -> tuple[int, ...]:
        return grid_shape(sizes(self.image_size), sizes(self.patch))

    @property
    def encoder(self) -> Encoder:
        return Encoder(Transformer(self.dim, self.depth, self.heads, compute=self.compute), sizes(self.patch))

    @property
    def decoder(self) -> Decoder:
        shape = Transformer(self.decoder_dim, self.decoder_depth, self.decoder_heads, compute=self.compute)
        return Decoder(shape, out=math.prod(sizes(self.patch)) * self.channels)

    def check(self) -> None:
        check_hides(self.mask_ratio, math.prod(self.grid))
        check_width(self.dim, self.heads, axes=2)
        check_width(self.decoder_dim, self.decoder_heads, axes=2, part="decoder_")

    def mask(self, ctx: Context, image: Float[Array, "b h w c"]) -> Mask:
        # YOUR MASKING: any score per patch [b, n]; those of the lowest scores stay visible (mae_jax/masking/scores.py).
        n = math.prod(self.grid)
        return select(scores.random(ctx, image.shape[0], n), keep_count(n, self.mask_ratio))

    def init(self, key: Array, batch: Batch) -> tuple[Params, Stats]:
        image = batch["image"]
        mask = self.mask(Context(key), image)
        encoder_key, decoder_key = jax.random.split(key)
        visible, encoder = self.encoder.init_with_output(encoder_key, image, mask)
        decoder = self.decoder.init(decoder_key, visible.normed, mask, self.grid, visible.prefix)
        return {"encoder": encoder["params"], "decoder": decoder["params"]}, {}

    def loss(self, params: Params, rest: Rest, batch: Batch, ctx: Context) -> tuple[Float[Array, ""], Aux]:
        image = batch["image"]
        mask = self.mask(ctx, image)
        visible = apply(self.encoder, params["encoder"], image, mask)
        pred = apply(self.decoder, params["decoder"], visible.normed, mask, self.grid, visible.prefix)
        # YOUR TARGET: what is predicted of each patch [b, n, out] (mae_jax/targets/); `decoder` has its width `out`.
        target = pixels.normalise(patchify(image, sizes(self.patch)))
        # YOUR LOSS: a number per patch, averaged over the hidden ones (mae_jax/losses/).
        loss, weight = masked_mean(squared_error(pred, target), mask.hidden)
        latent = jnp.concatenate([visible.prefix, visible.normed], axis=1)
        seen = {"latent": latent, "hidden": mask.hidden, "pred": pred, "target": target}
        return loss, Aux(stats=dict(rest["stats"]), metrics={"loss": loss}, weight=weight, seen=seen)

    def encode(
        self, params: Params, rest: Rest, batch: Batch, *, ctx: Context | None = None, train: bool = False
    ) -> Features:
        drop = drop_paths(ctx, self.compute, self.depth, len(batch["image"]), train)  # transfer.drop_path
        return apply(self.encoder, params["encoder"], batch["image"], None, None, drop)

    def pictures(self, seen: Mapping[str, Array], batch: Batch) -> dict[str, Float[Array, "b h w c"]]:
        tokens = patchify(batch["image"], sizes(self.patch))
        painted = pixels.paint(tokens, seen["pred"], seen["hidden"], normalised=True)
        return {name: unpatchify(t, self.grid, sizes(self.patch)) for name, t in painted.items()}
