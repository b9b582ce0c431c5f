"""VideoMAE's network: an encoder of the visible tubes, and a decoder of those that are asked for.

What masked autoencoders of clips share (videomae, videomaev2): they differ in what they hide and in what they ask.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mae_jax.core.types import Features, Mask, Params
from mae_jax.masking.select import select
from mae_jax.nets import flops
from mae_jax.nets.layers import apply
from mae_jax.nets.tail_decoder import TailDecoder
from mae_jax.nets.vit import Encoder
from mae_jax.targets import pixels
from mae_jax.tokens.film import film_strip
from mae_jax.tokens.gather import gather
from mae_jax.tokens.grid import grid_shape, patchify, unpatchify


@dataclasses.dataclass(frozen=True)
class ClipAutoencoder:
    """Encoder, decoder and what they are asked for. Parameters: {"encoder", "decoder"}.

    Attributes:
      encoder: its `patch` is what a token spans: frames, rows, columns.
      decoder: its `out` is a token's values.
      size, channels: of a clip: frames, rows, columns.
      norm_pix: predict pixels normalised per token and channel; else as they are in [0, 1].
      mean, std: what clips were normalised by: the way back to [0, 1].
    """

    encoder: Encoder
    decoder: TailDecoder
    size: tuple[int, ...]
    channels: int
    norm_pix: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def grid(self) -> tuple[int, ...]:
        return grid_shape(self.size, self.encoder.patch)

    def init(self, key: Array, keep: int) -> Params:
        """Fresh parameters; `keep` is a number of visible tokens, which none of them depends on."""
        mask = select(jnp.zeros((1, math.prod(self.grid))), keep)
        encoder_key, decoder_key = jax.random.split(key)
        clip = jnp.zeros((1, *self.size, self.channels))
        visible, encoder = self.encoder.init_with_output(encoder_key, clip, mask)
        ids = mask.keep_ids, mask.drop_ids
        decoder = self.decoder.init(decoder_key, visible.normed, *ids, math.prod(self.grid))
        return {"encoder": encoder["params"], "decoder": decoder["params"]}

    def encode(self, params: Params, video: Float[Array, "b t h w c"], mask: Mask) -> Features:
        """Features of the visible tokens, in the mask's order."""
        return apply(self.encoder, params["encoder"], video, mask)

    def decode(self, params: Params, visible: Features, mask: Mask, ask: Int[Array, "b m"]) -> Float[Array, "b m p"]:
        """The predicted values of the tokens `ask`."""
        n = math.prod(self.grid)
        return apply(self.decoder, params["decoder"], visible.normed, mask.keep_ids, ask, n)

    def target(self, video: Float[Array, "b t h w c"]) -> Float[Array, "b n p"]:
        """What `decode` may be asked for of each token."""
        tokens = patchify(pixels.unit(video, self.mean, self.std), self.encoder.patch)
        return pixels.normalise_channels(tokens, self.channels) if self.norm_pix else tokens

    def flops(self, keep: int, asked: int) -> float:
        """FLOPs of one sample's forward pass with `keep` visible tokens and `asked` predicted ones."""
        s, values = self.encoder.shape, math.prod(self.encoder.patch) * self.channels
        encoder = flops.dense(keep, values, s.dim) + s.depth * flops.block(keep, s.dim, s.mlp_ratio)
        return encoder + self.decoder.flops(s.dim, keep, asked)

    def pictures(
        self,
        video: Float[Array, "b t h w c"],
        pred: Float[Array, "b m p"],
        place: Int[Array, "b n"],
        hidden: Bool[Array, "b n"],
        asked: Bool[Array, "b n"] | None = None,
    ) -> dict[str, Float[Array, "b h strip c"]]:
        """Film strips. Predictions are coloured by their patch's true moments; grey where nothing was `asked`.

        Args:
          place: which row of `pred` is each token's; negative ones are taken for the first.
          asked: None: `pred` has every token that is hidden.
        """
        tokens = patchify(video, self.encoder.patch)
        each = gather(pred, jnp.maximum(place, 0))
        each = pixels.unit_prediction(tokens, each, self.mean, self.std, self.channels, normalised=self.norm_pix)
        each = each if asked is None else jnp.where(asked[:, :, None], each, 0.0)
        painted = pixels.paint(tokens, each, hidden)
        return {name: film_strip(unpatchify(t, self.grid, self.encoder.patch)) for name, t in painted.items()}
