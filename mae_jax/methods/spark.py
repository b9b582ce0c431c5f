"""Designing BERT for Convolutional Networks: Sparse and Hierarchical Masked Modeling (Tian et al., 2022; ICLR 2023).
arXiv 2301.03580.

SparK. Against MAE: the encoder is a convolutional network, so that hidden patches cannot be left out of a sequence.
They are left out of every layer instead: after each convolution, pooling and norm the hidden places are set to zero
again, and norms take their statistics from visible places alone (Sec. 3.1). The decoder is a UNet that reads the whole
pyramid of feature maps, each with a mask token of its own in the holes (Sec. 3.2). A patch is as large as the
network's total stride, and the dense network has the same parameters.

Quirks of the authors' code that are kept here: the count of visible patches is rounded, where MAE truncates; no
projection of the coarsest map where its width is the decoder's; no activation after the last norm of a decoder block.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mae_jax.core.errors import UserError
from mae_jax.core.keys import Context
from mae_jax.core.types import Aux, Batch, Features, Params, Stats
from mae_jax.losses.masked import masked_mean, squared_error
from mae_jax.masking import scores
from mae_jax.masking.select import select
from mae_jax.methods.base import Cost, Leaf, Method, Rest
from mae_jax.nets.block import drop_path, drop_paths
from mae_jax.nets.convnet import ConvNet, only
from mae_jax.nets.convnext import ConvNeXt
from mae_jax.nets.layers import apply_stats
from mae_jax.nets.resnet import ResNet
from mae_jax.nets.unet import Densify, UNet, decoder_flops
from mae_jax.nets.vit import sizes
from mae_jax.targets import pixels
from mae_jax.tokens.grid import grid_shape, patchify, unpatchify


@dataclasses.dataclass(frozen=True, kw_only=True)
class SparK(Method):
    """Sparse masked modeling. The defaults are ResNet-50 at 224 px.

    Attributes:
      image_size: pixels, one number or (rows, columns); the encoder's total stride must divide it.
      channels: of the input.
      arch: "resnet" or "convnext".
      dims, depths: channels of the output and number of blocks of each stage; every stage but the first halves the
        resolution.
      block: of a ResNet, "bottleneck" or "basic".
      stem_stride: total stride of what comes before the first stage: 4 as published, 2 for small images.
      stem_dim: channels of a ResNet's stem.
      drop_path: rate at the last block of the encoder, from 0 at the first.
      layer_scale: what the factors of ConvNeXt's branches start from.
      decoder_dim: channels of the decoder's first block, halved by each of its blocks.
      mask_ratio: share of hidden patches.
    """

    name: ClassVar[str] = "spark"

    image_size: int | tuple[int, int] = 224
    channels: int = 3
    arch: Literal["resnet", "convnext"] = "resnet"
    dims: tuple[int, ...] = (256, 512, 1024, 2048)
    depths: tuple[int, ...] = (3, 4, 6, 3)
    block: Literal["bottleneck", "basic"] = "bottleneck"
    stem_stride: int = 4
    stem_dim: int = 64
    drop_path: float = 0.05
    layer_scale: float = 1e-6
    decoder_dim: int = 768
    mask_ratio: float = 0.6

    @property
    def batch_spec(self) -> Mapping[str, Leaf]:
        return {"image": Leaf((*sizes(self.image_size), self.channels))}

    @property
    def couples(self) -> tuple[str, ...]:
        return ("bn",)

    @property
    def shape(self) -> ConvNet:
        return ConvNet(
            self.arch, self.dims, self.depths, self.stem_stride, self.stem_dim, self.block, self.layer_scale,
            self.compute,
        )  # fmt: skip

    @property
    def patch(self) -> tuple[int, int]:
        return (self.shape.stride, self.shape.stride)

    @property
    def grid(self) -> tuple[int, ...]:
        return grid_shape(sizes(self.image_size), self.patch)

    @property
    def keep(self) -> int:
        """Number of visible patches: rounded (spark.py: len_keep), where MAE truncates."""
        return round(math.prod(self.grid) * (1 - self.mask_ratio))

    @property
    def encoder(self) -> ConvNeXt | ResNet:
        return ConvNeXt(self.shape) if self.arch == "convnext" else ResNet(self.shape)

    @property
    def densify(self) -> Densify:
        """With the norm of the encoder."""
        return Densify("layer" if self.arch == "convnext" else "batch", self.decoder_dim, self.compute.dtype)

    @property
    def decoder(self) -> UNet:
        return UNet(self.decoder_dim, self.shape.stride.bit_length() - 1, self.channels, self.compute.dtype)

    def check(self) -> None:
        if len(self.dims) != len(self.depths):
            raise UserError(
                f"method.dims={self.dims} and method.depths={self.depths} must have one entry per stage, equally many."
            )
        allowed = (2, 4) if self.arch == "resnet" else (2, 4, 8, 16)
        if self.stem_stride not in allowed:
            raise UserError(f"method.stem_stride={self.stem_stride} of a {self.arch} must be one of {allowed}.")
        if self.arch == "resnet" and self.block == "bottleneck" and any(dim % 4 for dim in self.dims):
            raise UserError(f"method.dims={self.dims} of bottleneck blocks must be multiples of 4.")
        if self.decoder_dim < self.shape.stride:
            raise UserError(
                f"method.decoder_dim={self.decoder_dim} is halved by every decoder block: it must be at least the "
                f"encoder's total stride {self.shape.stride}."
            )
        if not 0 < self.keep < math.prod(self.grid):
            raise UserError(
                f"method.mask_ratio={self.mask_ratio} leaves {self.keep} of {math.prod(self.grid)} patches visible; at "
                f"least one must be visible and one hidden."
            )

    def cost(self) -> Cost:
        """As dense: what is hidden is computed and then set to zero."""
        n, depth = math.prod(sizes(self.image_size)), self.decoder.depth
        forward = self.shape.flops(n, self.channels)
        forward += decoder_flops(self.shape, self.decoder_dim, depth, n, self.channels)
        return Cost(forward=forward, tokens=math.prod(self.grid), visible=self.keep)

    def init(self, key: Array, batch: Batch) -> tuple[Params, Stats]:
        image = batch["image"]
        active = jnp.ones((image.shape[0], *self.grid, 1), bool)
        keys = jax.random.split(key, 3)
        levels, encoder = self.encoder.init_with_output(keys[0], image)
        maps, densify = self.densify.init_with_output(keys[1], levels, active)
        parts = {"encoder": encoder, "densify": densify, "decoder": self.decoder.init(keys[2], maps)}
        stats = {name: part["stats"] for name, part in parts.items() if "stats" in part}
        return {name: part["params"] for name, part in parts.items()}, stats

    def loss(self, params: Params, rest: Rest, batch: Batch, ctx: Context) -> tuple[Float[Array, ""], Aux]:
        image = batch["image"]
        b, n, depth = image.shape[0], math.prod(self.grid), sum(self.depths)
        stats: Stats = {}

        def run(part: str, *args: Any) -> Any:
            own = rest["stats"].get(part, {})
            out, new = apply_stats(getattr(self, part), params[part], own, *args, train=ctx.train)
            stats.update({part: new} if new else {})
            return out

        hidden = select(scores.random(ctx, b, n), self.keep).hidden
        active = ~hidden.reshape(b, *self.grid, 1)
        drop = None
        if ctx.train and self.drop_path:
            drop = drop_path(ctx.uniform("drop_path", (b, depth, 1)), self.drop_path)[..., 0]
        levels = run("encoder", only(image, active), active, drop)
        maps = run("densify", levels, active)
        pred = patchify(run("decoder", maps), self.patch)
        target = pixels.normalise(patchify(image, self.patch))
        loss, weight = masked_mean(squared_error(pred, target), hidden)
        seen = {"hidden": hidden, "latent": _tokens(levels[0]), "pred": pred, "target": target}
        seen |= {f"level{i}": x for i, x in enumerate(levels)} | {f"dense{i}": x for i, x in enumerate(maps)}
        return loss, Aux(stats=stats, metrics={"loss": loss}, weight=weight, seen=seen)

    def encode(
        self, params: Params, rest: Rest, batch: Batch, *, ctx: Context | None = None, train: bool = False
    ) -> Features:
        """The dense network; its tokens are the coarsest map. No norm follows it, so that they are `normed` as well."""
        stats = rest["stats"].get("encoder", {})
        drop = drop_paths(ctx, self.compute, sum(self.depths), len(batch["image"]), train, branches=1)
        drop = None if drop is None else drop[:, :, 0]
        levels, new = apply_stats(self.encoder, params["encoder"], stats, batch["image"], None, drop, train=train)
        tokens = _tokens(levels[0])
        return Features(
            tokens, tokens, tokens[:, :0], levels[0].shape[1:3], levels=levels,
            stats=dict(rest["stats"]) | ({"encoder": new} if new else {}),
        )  # fmt: skip

    def pictures(self, seen: Mapping[str, Array], batch: Batch) -> dict[str, Float[Array, "b h w c"]]:
        tokens = patchify(batch["image"], self.patch)
        painted = pixels.paint(tokens, seen["pred"], seen["hidden"], normalised=True)
        return {name: unpatchify(t, self.grid, self.patch) for name, t in painted.items()}


def _tokens(x: Float[Array, "b h w d"]) -> Float[Array, "b n d"]:
    """A map in raster order."""
    return x.reshape(x.shape[0], -1, x.shape[-1])
