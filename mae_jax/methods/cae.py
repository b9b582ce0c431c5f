"""Context Autoencoder for Self-Supervised Representation Learning (Chen et al., 2022; IJCV 2023). arXiv 2202.03026.

As in MAE the encoder sees the visible patches alone. New: it is relieved of the pretext task. A regressor predicts the
latents of the hidden patches by attending to the visible ones (Sec. 3.1, "latent contextual regressor"), and is held
to what the encoder itself says of the hidden patches (alignment); a decoder reads visual tokens off the predicted
latents and never sees a visible one. The loss is cross entropy + 2 x squared distance (Eqs. 1 to 3).

Quirks of the authors' code that are kept here: the alignment encoder is the current encoder, in training mode with
drop-path draws of its own; the second residual of a regressor block starts from the normalised tensor; the positions'
first half encodes the row; attention has q and v biases only; the class token is encoded and then dropped; the
regressor and the decoder have 12 heads whatever their width (CAE-L: 12 heads of 85 in 1024).

CAE v2 (CLIP latents as targets, no alignment) is another method and not covered.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mae_jax.core.errors import UserError
from mae_jax.core.keys import Context
from mae_jax.core.types import Aux, Batch, Features, Mask, Params, Stats
from mae_jax.losses.cross_entropy import cross_entropy
from mae_jax.masking import scores
from mae_jax.masking.blocks import blocks
from mae_jax.masking.select import complement, select
from mae_jax.methods.base import Cost, FrozenSpec, Leaf, Method, Rest
from mae_jax.nets import flops
from mae_jax.nets.block import Transformer, drop_path, drop_paths
from mae_jax.nets.layers import apply
from mae_jax.nets.regressor import CodeDecoder, Projection, Regressor, cut_normal
from mae_jax.nets.tokenizers import DalleEncoder, KMeans
from mae_jax.nets.vit import Encoder, sizes
from mae_jax.tokens.gather import restore
from mae_jax.tokens.grid import grid_shape, patchify, unpatchify


@dataclasses.dataclass(frozen=True, kw_only=True)
class CAE(Method):
    """Context autoencoder. The defaults are CAE-B/16 at 224 px.

    Attributes:
      image_size, patch: pixels, one number or (rows, columns); the patch must divide the image.
      channels: of the input.
      dim, depth, heads, mlp_ratio: the encoder; the ratio is that of all parts.
      layer_scale: where the factors of the encoder's branches start; 0: there are none.
      decoder_dim, decoder_heads, decoder_layer_scale: of regressor and decoder.
      regressor_depth, decoder_depth: their blocks.
      qkv_bias: whether queries and values have a bias; keys have none.
      norm_eps: of every layer norm.
      drop_path: rate at the last block of each part, from 0 at its first.
      tokenizer: what gives the codes: "dalle", DALL-E's dVAE at 8 pixels per patch; "kmeans", the nearest centroid of
        each raw patch.
      tokenizer_file: its weights.
      vocab: number of codes.
      masking: "block", rectangles (BEiT); "random", uniform.
      masked: number of hidden patches.
      block_min, block_aspect: smallest area of a rectangle in patches, smallest height / width.
      align_weight: of the alignment (lambda in Eq. 3).
    """

    name: ClassVar[str] = "cae"

    image_size: int | tuple[int, int] = 224
    patch: int | tuple[int, int] = 16
    channels: int = 3
    dim: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0
    layer_scale: float = 0.1
    decoder_dim: int = 768
    decoder_heads: int = 12
    decoder_layer_scale: float = 0.1
    regressor_depth: int = 4
    decoder_depth: int = 4
    qkv_bias: bool = True
    norm_eps: float = 1e-6
    drop_path: float = 0.1
    tokenizer: Literal["dalle", "kmeans"] = "dalle"
    tokenizer_file: str = ""
    vocab: int = 8192
    masking: Literal["block", "random"] = "block"
    masked: int = 98
    block_min: int = 16
    block_aspect: float = 0.3
    align_weight: float = 2.0

    @property
    def batch_spec(self) -> Mapping[str, Leaf]:
        """`image_2` is the tokenizer's view of the same crop, in [0, 1]."""
        size = sizes(self.image_size)
        view = tuple(8 * g for g in self.grid) if self.tokenizer == "dalle" else size
        return {
            "image": Leaf((*size, self.channels)),
            "image_2": Leaf((*view, self.channels), crop_of="image", resample="lanczos", unit=True),
        }

    @property
    def grid(self) -> tuple[int, int]:
        rows, columns = grid_shape(sizes(self.image_size), sizes(self.patch))
        return rows, columns

    @property
    def encoder(self) -> Encoder:
        return Encoder(
            self._transformer(self.dim, self.depth, self.heads, self.layer_scale), sizes(self.patch), first="row",
            patch_init=cut_normal, patch_bias_init=jax.nn.initializers.zeros, class_init=cut_normal,
        )  # fmt: skip

    @property
    def projection(self) -> Projection | None:
        """Between encoder and regressor, where their widths differ."""
        return None if self.dim == self.decoder_dim else Projection(self.regressor.shape)

    @property
    def regressor(self) -> Regressor:
        return Regressor(self._decoder_part(self.regressor_depth))

    @property
    def decoder(self) -> CodeDecoder:
        return CodeDecoder(self._decoder_part(self.decoder_depth), self.vocab)

    @property
    def codebook(self) -> DalleEncoder | KMeans:
        """The frozen tokenizer."""
        if self.tokenizer == "dalle":
            return DalleEncoder(self.vocab, dtype=self.compute.dtype)
        return KMeans(self.vocab, sizes(self.patch), self.channels)

    def _decoder_part(self, depth: int) -> Transformer:
        return self._transformer(self.decoder_dim, depth, self.decoder_heads, self.decoder_layer_scale)

    def _transformer(self, dim: int, depth: int, heads: int, layer_scale: float) -> Transformer:
        return Transformer(
            dim, depth, heads, self.mlp_ratio, qkv_bias="qv" if self.qkv_bias else False, norm_eps=self.norm_eps,
            layer_scale=layer_scale or None, compute=self.compute,
        )  # fmt: skip

    def check(self) -> None:
        n = math.prod(self.grid)
        if not 0 < self.masked < n:
            raise UserError(f"method.masked={self.masked} of {n} patches: at least one must be hidden and one visible.")
        if self.masking == "block" and not 0 < self.block_min <= self.masked:
            raise UserError(
                f"method.block_min={self.block_min}: a rectangle of so many patches must fit into the "
                f"method.masked={self.masked} that are hidden; choose 1 to {self.masked}."
            )
        if not 0 < self.block_aspect <= 1:
            raise UserError(
                f"method.block_aspect={self.block_aspect} must be in (0, 1]: height / width of a rectangle."
            )
        if self.tokenizer == "dalle" and self.channels != 3:
            raise UserError(
                f"method.channels={self.channels}: DALL-E's tokenizer reads three. Set method.tokenizer=kmeans."
            )
        for what, dim, heads in (("", self.dim, self.heads), ("decoder_", self.decoder_dim, self.decoder_heads)):
            if dim % 4 or heads > dim:
                raise UserError(
                    f"method.{what}dim={dim} must be a multiple of 4, for the sin-cos positions, and at least "
                    f"method.{what}heads={heads}."
                )

    def cost(self) -> Cost:
        """The encoder's second run, on the hidden patches, and the tokenizer have no backward pass."""
        n, h, d, e = math.prod(self.grid), self.masked, self.decoder_dim, self.dim
        k, patch = n - h, math.prod(sizes(self.patch)) * self.channels
        mlp = 4 * self.mlp_ratio * h * d * d
        forward = (
            flops.dense(k, patch, e)
            + self.depth * flops.block(k + 1, e, self.mlp_ratio)
            + (flops.dense(k, e, d) if self.projection else 0)
            + self.regressor_depth * (flops.cross_attention(h, n, d) + mlp)
            + self.decoder_depth * flops.block(h, d, self.mlp_ratio)
            + flops.dense(h, d, self.vocab)
        )
        once = (
            flops.dense(h, patch, e)
            + self.depth * flops.block(h + 1, e, self.mlp_ratio)
            + (flops.dense(h, e, d) if self.projection else 0)
            + self.codebook.flops(math.prod(self.batch_spec["image_2"].shape[:2]))
        )
        return Cost(forward=forward, tokens=n, visible=k, once=once)

    def frozen(self) -> Mapping[str, FrozenSpec]:
        return {"tokenizer": FrozenSpec(self.tokenizer, self.tokenizer_file, network=self.codebook)}

    def init(self, key: Array, batch: Batch) -> tuple[Params, Stats]:
        image, keys = batch["image"], jax.random.split(key, 4)
        n = math.prod(self.grid)
        mask = select(jnp.zeros((image.shape[0], n)), n - self.masked, order="raster")
        visible, encoder = self.encoder.init_with_output(keys[0], image, mask)
        parts, context = {"encoder": encoder}, visible.normed
        if self.projection is not None:
            context, parts["projection"] = self.projection.init_with_output(keys[1], context)
        latent, parts["regressor"] = self.regressor.init_with_output(keys[2], context, mask, self.grid)
        parts["decoder"] = self.decoder.init(keys[3], latent, mask, self.grid)
        return {name: part["params"] for name, part in parts.items()}, {}

    def mask(self, ctx: Context, b: int) -> Mask:
        """Exactly `masked` hidden patches per image; visible and hidden ones in raster order."""
        n = math.prod(self.grid)

        def draw() -> Float[Array, "b n"]:
            if self.masking == "random":
                return scores.random(ctx, b, n)
            return blocks(ctx, b, self.grid, self.masked, least=self.block_min, aspect=self.block_aspect)

        return select(ctx.given("mask", draw), n - self.masked, order="raster")

    def loss(self, params: Params, rest: Rest, batch: Batch, ctx: Context) -> tuple[Float[Array, ""], Aux]:
        image, tokenizer = batch["image"], rest["frozen"]["tokenizer"]
        mask = self.mask(ctx, image.shape[0])
        codes = ctx.given("codes", lambda: apply(self.codebook, tokenizer, batch["image_2"]).argmax(axis=2))
        labels = jnp.take_along_axis(codes, mask.drop_ids, axis=1)

        def encode(mask: Mask, ctx: Context) -> tuple[Features, Float[Array, "b l d"]]:
            found = apply(
                self.encoder, params["encoder"], image, mask, drop=self._drop(ctx, mask, "encoder", self.depth)
            )
            latent = found.normed
            return found, latent if self.projection is None else apply(self.projection, params["projection"], latent)

        visible, context = encode(mask, ctx)
        target = jax.lax.stop_gradient(encode(complement(mask), ctx.fork("align"))[1]).astype(jnp.float32)
        drop = self._drop(ctx, mask, "regressor", self.regressor_depth)
        latent = apply(self.regressor, params["regressor"], context, mask, self.grid, drop)
        drop = self._drop(ctx, mask, "decoder", self.decoder_depth)
        logits = apply(self.decoder, params["decoder"], latent, mask, self.grid, drop)
        ce = cross_entropy(logits, labels).mean()
        align = jnp.square(latent.astype(jnp.float32) - target).mean()
        loss = ce + self.align_weight * align
        found = logits.argmax(axis=2)
        metrics = {
            "loss": loss, "ce": ce, "align": align, "accuracy": (found == labels).mean(dtype=jnp.float32),
            "latent_std": target.std(axis=1).mean(),  # of a channel over an image's hidden patches: 0 in a collapse
        }  # fmt: skip
        seen = {
            "latent": jnp.concatenate([visible.prefix, visible.normed], axis=1), "hidden": mask.hidden,
            "logits": logits, "latent_predict": latent, "latent_target": target, "codes": codes, "labels": labels,
            "codes_predict": _among(codes, found, mask), "palette": self._palette(tokenizer),
        }  # fmt: skip
        return loss, Aux(stats=dict(rest["stats"]), metrics=metrics, seen=seen)

    def encode(
        self, params: Params, rest: Rest, batch: Batch, *, ctx: Context | None = None, train: bool = False
    ) -> Features:
        drop = drop_paths(ctx, self.compute, self.depth, len(batch["image"]), train)
        return apply(self.encoder, params["encoder"], batch["image"], drop=drop)

    def pictures(self, seen: Mapping[str, Array], batch: Batch) -> dict[str, Float[Array, "b h w c"]]:
        patch, palette = sizes(self.patch), seen["palette"]
        tokens = patchify(batch["image"], patch)
        # Codes are not colours of the input: another number of channels keeps them out of its normalisation.
        palette = jnp.repeat(palette[:, :, None], 3 if self.channels == 1 else 1, axis=2).reshape(len(palette), -1)
        drawn = {
            "original": tokens, "masked": jnp.where(seen["hidden"][:, :, None], 0.0, tokens),
            "codes": palette[seen["codes"]], "codes_predicted": palette[seen["codes_predict"]],
        }  # fmt: skip
        return {name: unpatchify(t, self.grid, patch) for name, t in drawn.items()}

    def _drop(self, ctx: Context, mask: Mask, part: str, depth: int) -> Float[Array, "b depth 2"] | None:
        if not (ctx.train and self.drop_path):
            return None
        return drop_path(ctx.uniform(f"{part}/drop_path", (len(mask.hidden), depth, 2)), self.drop_path)

    def _palette(self, tokenizer: Params) -> Float[Array, "vocab pixels"]:
        """How each code is drawn, in [0, 1]: its centroid in grey, or a grey level of its own."""
        pixels = math.prod(sizes(self.patch))
        if self.tokenizer == "kmeans":
            return tokenizer["centroids"].reshape(self.vocab, pixels, self.channels).mean(axis=2)
        grey = jnp.arange(self.vocab, dtype=jnp.uint32) * jnp.uint32(2654435761)  # neighbouring codes far apart (Knuth)
        return jnp.broadcast_to((grey / 2.0**32)[:, None], (self.vocab, pixels))


def _among(codes: Int[Array, "b n"], found: Int[Array, "b h"], mask: Mask) -> Int[Array, "b n"]:
    """The codes, those of the hidden patches replaced by what was found for them."""
    placed = restore(found[:, :, None].astype(jnp.float32), complement(mask), jnp.zeros((1, 1, 1)))[:, :, 0]
    return jnp.where(mask.hidden, placed.astype(codes.dtype), codes)
