"""CROMA: Remote Sensing Representations with Contrastive Radar-Optical Masked Autoencoders (Fuller, Millard and Green,
2023; NeurIPS 2023). arXiv 2311.00566.

Two sensors look at the same place. Each has its own random mask and its own encoder; a contrastive loss draws the two
pooled vectors of a place together, and an encoder across both, radar asking optical, feeds MAE's decoder, which
rebuilds both. No position embeddings: attention fades with the distance on the grid (2-D ALiBi within a sensor, X-ALiBi
across), so that a model runs at sizes it was not trained at.

Quirks of the authors' code (antofuller/CROMA; the paper's text was not at hand) that are kept here: one bias serves
both attentions of the encoder across, so that while training its self-attention fades with the distance to OPTICAL
tokens (`self_bias`); joint tokens lie at the radar mask's places in the decoder; a patch's target is normalised over
all channels together, then scored per sensor; each contrastive term has a gradient on its anchor's side only
(`contrast_gradient`); the temperature is not clipped.
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
from mae_jax.core.types import Aux, Batch, Features, Mask, Params, Stats
from mae_jax.losses.contrast import info_nce
from mae_jax.losses.masked import masked_mean, squared_error
from mae_jax.masking import scores
from mae_jax.masking.select import check_hides, keep_count, select
from mae_jax.methods.base import Cost, Leaf, Method, Rest
from mae_jax.nets import flops
from mae_jax.nets.block import Transformer, check_width, drop_paths
from mae_jax.nets.cross import ContrastHead, JointEncoder, PooledHead
from mae_jax.nets.layers import apply, torch_linear
from mae_jax.nets.vit import Decoder, Encoder, sizes
from mae_jax.targets import pixels
from mae_jax.tokens import alibi
from mae_jax.tokens.grid import grid_shape, patchify, unpatchify

SENSORS = ("optical", "radar")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CROMA(Method):
    """Contrastive radar-optical masked autoencoder. The defaults are CROMA-B.

    Attributes:
      image_size, patch: pixels, one number or (rows, columns); the patch must divide the image.
      optical, radar: channels of the two sensors, in this order in the input's stack.
      dim, heads, mlp_ratio: of all encoders.
      depth: blocks of the optical encoder; the radar encoder and the one across both have half as many.
      decoder_dim, decoder_depth, decoder_heads: the decoder.
      mask_ratio: share of hidden patches, drawn for each sensor by itself.
      temperature: of the contrastive loss, where it starts.
      contrast_gradient: "anchor": none through the other side (the authors' all-gather); "both".
      self_bias: in the encoder across both while training: "cross", the authors' radar-to-optical distances in
        its self-attention too; "radar", the right ones, as both are where nothing is hidden.
      norm_eps: of every layer norm.
    """

    name: ClassVar[str] = "croma"

    image_size: int | tuple[int, int] = 120
    patch: int | tuple[int, int] = 8
    optical: int = 12
    radar: int = 2
    dim: int = 768
    depth: int = 12
    heads: int = 16
    mlp_ratio: float = 4.0
    decoder_dim: int = 512
    decoder_depth: int = 1
    decoder_heads: int = 8
    mask_ratio: float = 0.75
    temperature: float = 0.07
    contrast_gradient: Literal["anchor", "both"] = "anchor"
    self_bias: Literal["cross", "radar"] = "cross"
    norm_eps: float = 1e-5

    @property
    def batch_spec(self) -> Mapping[str, Leaf]:
        return {"image": Leaf((*sizes(self.image_size), self.optical + self.radar))}

    @property
    def couples(self) -> tuple[str, ...]:
        return ("contrast",)

    @property
    def grid(self) -> tuple[int, ...]:
        return grid_shape(sizes(self.image_size), sizes(self.patch))

    def _shape(self, depth: int) -> Transformer:
        return Transformer(
            self.dim, depth, self.heads, self.mlp_ratio, qkv_bias=False, norm_eps=self.norm_eps,
            kernel_init=torch_linear, compute=self.compute,
        )  # fmt: skip

    def encoder(self, sensor: str) -> Encoder:
        """The encoder of one sensor."""
        shape = self._shape(self.depth if sensor == "optical" else self.depth // 2)
        return Encoder(shape, sizes(self.patch), class_token=False, positions="none", patch_init=torch_linear)

    @property
    def joint(self) -> JointEncoder:
        return JointEncoder(self._shape(self.depth // 2))

    @property
    def gap(self) -> PooledHead:
        return PooledHead(self._shape(0))

    @property
    def contrast(self) -> ContrastHead:
        return ContrastHead(self._shape(0), self.temperature)

    @property
    def decoder(self) -> Decoder:
        shape = dataclasses.replace(self._shape(self.decoder_depth), dim=self.decoder_dim, heads=self.decoder_heads)
        return Decoder(shape, out=math.prod(sizes(self.patch)) * (self.optical + self.radar))

    def check(self) -> None:
        n = math.prod(self.grid)
        check_hides(self.mask_ratio, n)
        check_width(self.dim, self.heads)
        check_width(self.decoder_dim, self.decoder_heads, axes=2, part="decoder_")
        if self.depth < 2 or min(self.optical, self.radar) < 1:
            raise UserError(
                f"method.depth={self.depth} must be at least 2, since the radar encoder has half of it, and each "
                f"sensor needs a channel: method.optical={self.optical}, method.radar={self.radar}."
            )

    def cost(self) -> Cost:
        n, d, dd, r = math.prod(self.grid), self.dim, self.decoder_dim, self.mlp_ratio
        k, area, half = keep_count(n, self.mask_ratio), math.prod(sizes(self.patch)), self.depth // 2
        channels = self.optical + self.radar
        forward = (
            flops.dense(n, area * channels, d)  # as published: we embed only the k visible ones of each sensor
            + (self.depth + 2 * half) * flops.block(k, d, r)
            + half * flops.cross_attention(k, k, d)
            + 2 * (2 * flops.dense(1, d, int(r * d)) + flops.dense(1, d, d))  # the batch's logits are left out
            + flops.dense(k, d, dd)
            + self.decoder_depth * flops.block(n, dd, r)
            + flops.dense(n, dd, area * channels)
        )
        return Cost(forward=forward, tokens=n, visible=k)

    def init(self, key: Array, batch: Batch) -> tuple[Params, Stats]:
        n, keys = math.prod(self.grid), iter(jax.random.split(key, 7))
        mask = select(jnp.zeros((batch["image"].shape[0], n)), keep_count(n, self.mask_ratio))
        bias = self._bias(mask, mask)
        tokens, params, gap = {}, {}, {}
        for s, image in self._sensors(batch).items():
            visible, variables = self.encoder(s).init_with_output(next(keys), image, mask, bias=bias)
            tokens[s], params[s] = visible.normed, variables["params"]
            gap[s], variables = self.gap.init_with_output(next(keys), tokens[s])
            params[f"{s}_gap"] = variables["params"]
        rest: dict[str, tuple[Any, tuple[Any, ...]]] = {
            "contrast": (self.contrast, (gap["radar"], gap["optical"])),
            "joint": (self.joint, (tokens["radar"], tokens["optical"], bias, bias)),
            "decoder": (self.decoder, (tokens["radar"], mask, self.grid)),
        }
        params |= {name: net.init(next(keys), *inputs)["params"] for name, (net, inputs) in rest.items()}
        return params, {}

    def loss(self, params: Params, rest: Rest, batch: Batch, ctx: Context) -> tuple[Float[Array, ""], Aux]:
        image, n = batch["image"], math.prod(self.grid)
        masks = {
            s: select(scores.random(ctx, image.shape[0], n, f"mask_{s}"), keep_count(n, self.mask_ratio))
            for s in SENSORS
        }
        tokens, gap = {}, {}
        for s, x in self._sensors(batch).items():
            bias = self._bias(masks[s], masks[s])
            tokens[s] = apply(self.encoder(s), params[s], x, masks[s], bias=bias).normed
            gap[s] = apply(self.gap, params[f"{s}_gap"], tokens[s])
        contrast, retrieval = self._contrast(params, gap)
        cross = self._bias(masks["radar"], masks["optical"])
        own = cross if self.self_bias == "cross" else self._bias(masks["radar"], masks["radar"])
        _, joint = apply(self.joint, params["joint"], tokens["radar"], tokens["optical"], own, cross)
        pred = apply(self.decoder, params["decoder"], joint, masks["radar"], self.grid)
        target = pixels.normalise(patchify(image, sizes(self.patch)))  # over all channels together
        ours, theirs = self._channels(pred), self._channels(target)
        errors = {s: masked_mean(squared_error(ours[s], theirs[s]), masks[s].hidden)[0] for s in SENSORS}
        loss = contrast + errors["optical"] + errors["radar"]
        metrics = {"loss": loss, "contrast": contrast, "retrieval": retrieval} | errors
        seen = {
            "latent": jnp.concatenate([tokens["optical"], tokens["radar"], joint], axis=1),
            "hidden": masks["optical"].hidden & masks["radar"].hidden, "pred": pred, "target": target, "joint": joint,
        }  # fmt: skip
        seen |= tokens | {f"{s}_gap": gap[s] for s in SENSORS} | {f"hidden_{s}": masks[s].hidden for s in SENSORS}
        return loss, Aux(stats=dict(rest["stats"]), metrics=metrics, seen=seen)

    def encode(
        self, params: Params, rest: Rest, batch: Batch, *, ctx: Context | None = None, train: bool = False
    ) -> Features:
        """Both sensors of "image", or of "optical" and "radar", of which one may be missing.

        `tokens` are those of the encoder across both, or of the one sensor; `parts` has all: "optical", "radar",
        "joint" [b n d], and one vector each under "optical_gap", "radar_gap", "joint_gap" [b d].
        """
        images = self._sensors(batch)
        bias = alibi.full_bias(self.heads, grid_shape(next(iter(images.values())).shape[1:3], sizes(self.patch)))
        b, half = len(next(iter(images.values()))), self.depth // 2
        depths = {"optical": self.depth, "radar": half}
        drop = {s: drop_paths(ctx, self.compute, depths[s], b, train, name=f"{s}/drop_path") for s in images}
        found = {s: apply(self.encoder(s), params[s], x, drop=drop[s], bias=bias) for s, x in images.items()}
        parts = {s: f.normed for s, f in found.items()}
        parts |= {f"{s}_gap": apply(self.gap, params[f"{s}_gap"], f.normed) for s, f in found.items()}
        features = next(iter(found.values()))
        if len(found) == len(SENSORS):
            both = drop_paths(ctx, self.compute, half, b, train, branches=3, name="joint/drop_path")
            tokens, normed = apply(self.joint, params["joint"], parts["radar"], parts["optical"], bias, bias, both)
            parts |= {"joint": normed, "joint_gap": normed.astype(jnp.float32).mean(axis=1)}
            features = dataclasses.replace(features, tokens=tokens, normed=normed, hidden=())
        return dataclasses.replace(features, parts=parts)

    def _sensors(self, batch: Batch) -> dict[str, Float[Array, "b h w c"]]:
        if "image" not in batch:
            return {s: batch[s] for s in SENSORS if s in batch}
        return {"optical": batch["image"][..., : self.optical], "radar": batch["image"][..., self.optical :]}

    def _channels(self, tokens: Float[Array, "b n p"]) -> dict[str, Float[Array, "b n _"]]:
        """Each sensor's values of every patch."""
        b, n, _ = tokens.shape
        x = tokens.reshape(b, n, -1, self.optical + self.radar)
        return {
            "optical": x[..., : self.optical].reshape(b, n, -1),
            "radar": x[..., self.optical :].reshape(b, n, -1),
        }

    def _bias(self, queries: Mask, keys: Mask) -> Float[Array, "b h k k"]:
        return alibi.bias(self.heads, self.grid, queries.keep_ids, keys.keep_ids)

    def _contrast(
        self, params: Params, gap: Mapping[str, Float[Array, "b d"]]
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Both directions' mean loss, and the share of samples whose partner is the nearest of the batch."""
        radar, optical, scale = apply(self.contrast, params["contrast"], gap["radar"], gap["optical"])
        stop = self.contrast_gradient == "anchor"
        terms = [info_nce(a, b, scale, stop_gradient=stop) for a, b in ((optical, radar), (radar, optical))]
        (to_radar, first), (to_optical, second) = terms
        return (to_radar + to_optical) / 2, (first + second) / 2

    def pictures(self, seen: Mapping[str, Array], batch: Batch) -> dict[str, Float[Array, "b h w c"]]:
        """The stack under the optical mask, and the first radar channel, stretched, under its own."""
        patch, tokens = sizes(self.patch), patchify(batch["image"], sizes(self.patch))
        mean, std = pixels.token_stats(tokens)
        pred = seen["pred"] * std + mean
        drawn = {
            name: unpatchify(t, self.grid, patch)
            for name, t in pixels.paint(tokens, pred, seen["hidden_optical"]).items()
        }
        first = batch["image"][..., self.optical]
        low, high = first.min(), first.max()

        def stretched(x: Float[Array, "b n p"]) -> Float[Array, "b h w 1"]:
            x = unpatchify(x, self.grid, patch)[..., self.optical : self.optical + 1]
            return (x - low) / jnp.maximum(high - low, 1e-6)

        grey = jnp.where(seen["hidden_radar"][:, :, None], (low + high) / 2, tokens)
        return drawn | {
            "radar": stretched(tokens), "radar_masked": stretched(grey), "radar_reconstruction": stretched(pred),
        }  # fmt: skip
