"""MAE's network: an encoder of the visible patches and a decoder of all.

What masked autoencoders of images share (mae, colormae, dmae): they differ in what they hide and in what they add.
"""

import dataclasses
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mae_jax.core.types import Features, Mask, Params
from mae_jax.masking.select import select
from mae_jax.nets import flops
from mae_jax.nets.layers import apply
from mae_jax.nets.vit import Decoder, Encoder
from mae_jax.targets import pixels
from mae_jax.tokens.grid import grid_shape, patchify, unpatchify


@dataclasses.dataclass(frozen=True)
class Autoencoder:
    """Encoder, decoder and what they are asked for. Parameters: {"encoder", "decoder"}.

    Attributes:
      encoder: its `patch` is that of the grid.
      size, channels: of the image.
      decoder: its `out` is a patch's values; None: the network only encodes.
      norm_pix: whether each patch's target is normalised by its own mean and deviation (MAE, Table 1d).
    """

    encoder: Encoder
    size: tuple[int, ...]
    channels: int
    decoder: Decoder | None = None
    norm_pix: bool = False

    @property
    def grid(self) -> tuple[int, ...]:
        return grid_shape(self.size, self.encoder.patch)

    def init(self, key: Array, keep: int) -> Params:
        """Fresh parameters; `keep` is a number of visible patches, which none of them depends on."""
        image = jnp.zeros((1, *self.size, self.channels))
        mask = select(jnp.zeros((1, math.prod(self.grid))), keep)
        encoder_key, decoder_key = jax.random.split(key)
        visible, encoder = self.encoder.init_with_output(encoder_key, image, mask)
        if self.decoder is None:
            return {"encoder": encoder["params"]}
        decoder = self.decoder.init(decoder_key, visible.normed, mask, self.grid, visible.prefix)
        return {"encoder": encoder["params"], "decoder": decoder["params"]}

    def shapes(self) -> Params:
        """The parameters' shapes, of `jax.ShapeDtypeStruct`s."""
        return jax.eval_shape(lambda key: self.init(key, 1), jax.random.key(0))

    def encode(
        self, params: Params, image: Float[Array, "b *size c"], mask: Mask, valid: Bool[Array, "b n"] | None = None
    ) -> Features:
        """Features of the visible patches, in the mask's order; `valid`: which patches are real (None: all)."""
        return apply(self.encoder, params["encoder"], image, mask, valid)

    def decode(
        self, params: Params, visible: Features, mask: Mask, valid: Bool[Array, "b n"] | None = None
    ) -> Float[Array, "b n p"]:
        """The predicted values of every patch."""
        assert self.decoder is not None
        return apply(self.decoder, params["decoder"], visible.normed, mask, self.grid, visible.prefix, valid)

    def target(self, image: Float[Array, "b *size c"]) -> Float[Array, "b n p"]:
        """What `decode` is asked for: each patch's pixels, normalised with `norm_pix`."""
        tokens = patchify(image, self.encoder.patch)
        return pixels.normalise(tokens) if self.norm_pix else tokens

    def seen(
        self, visible: Features, mask: Mask, pred: Float[Array, "b n p"], target: Float[Array, "b n p"]
    ) -> dict[str, Array]:
        """For `Aux.seen`: what pictures and parity read."""
        latent = jnp.concatenate([visible.prefix, visible.normed], axis=1)
        return {
            "latent": latent, "hidden": mask.hidden, "restore_ids": mask.restore_ids, "pred": pred, "target": target,
        }  # fmt: skip

    def flops(self, keep: int) -> float:
        """FLOPs of one sample's forward pass with `keep` visible patches, as published: all patches are embedded (ours
        embeds the visible ones alone)."""
        n, values = math.prod(self.grid), math.prod(self.encoder.patch) * self.channels
        s, tokens = self.encoder.shape, keep + int(self.encoder.class_token)
        total = flops.dense(n, values, s.dim) + s.depth * flops.block(tokens, s.dim, s.mlp_ratio)
        if self.decoder is None:
            return total
        d = self.decoder.shape
        return (
            total
            + flops.dense(tokens, s.dim, d.dim)
            + d.depth * flops.block(n + int(self.encoder.class_token), d.dim, d.mlp_ratio)
            + flops.dense(n, d.dim, values)
        )

    def pictures(self, seen: Mapping[str, Array], image: Float[Array, "b *size c"]) -> dict[str, Array]:
        """Original, masked, reconstruction and pasted, from `Autoencoder.seen`."""
        patch = self.encoder.patch
        painted = pixels.paint(patchify(image, patch), seen["pred"], seen["hidden"], normalised=self.norm_pix)
        return {name: unpatchify(tokens, self.grid, patch) for name, tokens in painted.items()}
