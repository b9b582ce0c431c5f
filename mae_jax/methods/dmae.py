"""Masked Autoencoders Enable Efficient Knowledge Distillers (Bai et al., 2022; CVPR 2023). arXiv 2208.12256.

Pretrain a small masked autoencoder beside a frozen large one: both encode the same visible patches, and besides
reconstructing, features of chosen blocks of the student are pulled towards those of chosen blocks of the teacher
(Sec. 3). The teacher need only run up to the highest of these: three quarters of its encoder, no decoder.

    L = L_mae + sum over pairs (i, j) of D(unit(h_j^teacher), unit(head(h_i^student)))

Quirks of the authors' code that are kept here: blocks are counted from 0 and their raw outputs aligned, before any
last norm, the class token like a patch; D is a mean over channels as well, so that L1 of unit vectors of width 1024
is a few hundredths and has weight 1 all the same; without a head features are compared as they are, not as unit
vectors. Their code runs the whole teacher and drops what it predicts (`full_teacher`); their log is the
reconstruction alone ("reconstruction" here). Of their two-MLP head the first layer refers to a name that is not
there; ours is the meant one.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mae_jax.core.errors import UserError
from mae_jax.core.keys import Context
from mae_jax.core.types import Aux, Batch, Features, Params, Stats
from mae_jax.losses.masked import masked_mean, squared_error
from mae_jax.losses.regression import DISTANCES
from mae_jax.masking import scores
from mae_jax.masking.select import check_hides, keep_count, select
from mae_jax.methods.base import Cost, FrozenSpec, Leaf, Method, Rest
from mae_jax.nets import flops
from mae_jax.nets.adaptor import Adaptor
from mae_jax.nets.autoencoder import Autoencoder
from mae_jax.nets.block import Transformer, check_width, drop_paths
from mae_jax.nets.layers import apply
from mae_jax.nets.vit import Decoder, Encoder, sizes
from mae_jax.targets.features import unit
from mae_jax.tokens.grid import grid_shape


@dataclasses.dataclass(frozen=True, kw_only=True)
class DMAE(Method):
    """Distilling masked autoencoder. The defaults are a ViT-B/16 taught by the released ViT-L/16.

    Attributes:
      image_size, patch: pixels, one number or (rows, columns); of student and teacher.
      channels: of the input.
      dim, depth, heads, mlp_ratio: the student's encoder.
      decoder_dim, decoder_depth, decoder_heads: its decoder.
      mask_ratio: share of hidden patches (paper: 0.75, up to 0.98).
      norm_pix: predict each patch's pixels normalised by its own mean and deviation; the released teacher does not.
      norm_eps: of every layer norm, the teacher's too.
      positions: of the student's encoder: "sincos", fixed; "learned", for fine-tuning.
      pairs: ((student's block, teacher's block), ...), counted from 0; (): no teacher, plain MAE.
      head: from student to teacher width, one per pair: "linear"; "mlp", linear, GELU, linear at the teacher's width;
        "double_mlp", two of these; "none", for equal widths.
      distance: "l1" or "l2".
      teacher_file: the teacher's weights: a published MAE, a native weights file or a workdir
        (teachers/autoencoder.py).
      teacher_sha256: of the file; "" takes any.
      teacher_dim, teacher_depth, teacher_heads, teacher_mlp_ratio: the teacher's encoder.
      full_teacher: run all of it, decoder included, as the authors' code does; its own error becomes a metric.
      teacher_decoder_dim, teacher_decoder_depth, teacher_decoder_heads: its decoder, for `full_teacher`.
    """

    name: ClassVar[str] = "dmae"

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
    norm_pix: bool = False
    norm_eps: float = 1e-6
    positions: Literal["sincos", "learned"] = "sincos"
    pairs: tuple[tuple[int, int], ...] = ((8, 17),)
    head: Literal["linear", "mlp", "double_mlp", "none"] = "linear"
    distance: Literal["l1", "l2"] = "l1"
    teacher_file: str = ""
    teacher_sha256: str = ""
    teacher_dim: int = 1024
    teacher_depth: int = 24
    teacher_heads: int = 16
    teacher_mlp_ratio: float = 4.0
    full_teacher: bool = False
    teacher_decoder_dim: int = 512
    teacher_decoder_depth: int = 8
    teacher_decoder_heads: int = 16

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
        shape = self._shape(self.dim, self.depth, self.heads, self.mlp_ratio)
        return Encoder(shape, sizes(self.patch), positions=self.positions, grid=self.grid)

    @property
    def net(self) -> Autoencoder:
        shape = self._shape(self.decoder_dim, self.decoder_depth, self.decoder_heads, self.mlp_ratio)
        return self._net(self.encoder, shape)

    @property
    def teacher(self) -> Autoencoder:
        """Its blocks up to the highest that is aligned; or all of it."""
        depth = self.teacher_depth if self.full_teacher else max(j for _, j in self.pairs) + 1
        shape = self._shape(self.teacher_dim, depth, self.teacher_heads, self.teacher_mlp_ratio)
        encoder = Encoder(shape, sizes(self.patch), final_norm=self.full_teacher)
        if not self.full_teacher:
            return self._net(encoder, None)
        widths = self.teacher_decoder_dim, self.teacher_decoder_depth, self.teacher_decoder_heads
        return self._net(encoder, self._shape(*widths, self.teacher_mlp_ratio))

    @property
    def adaptors(self) -> tuple[Adaptor, ...]:
        """The layers of a head, one after the other."""
        kind = "linear" if self.head == "linear" else "mlp"
        one = Adaptor(self.teacher_dim, kind, self.norm_eps, self.compute.dtype, self.teacher_dim)
        return (one,) * {"none": 0, "double_mlp": 2}.get(self.head, 1)

    def frozen(self) -> Mapping[str, FrozenSpec]:
        if not self.pairs:
            return {}
        return {"teacher": FrozenSpec("autoencoder", self.teacher_file, self.teacher_sha256, self.teacher)}

    def check(self) -> None:
        check_hides(self.mask_ratio, math.prod(self.grid))
        check_width(self.dim, self.heads, axes=2)
        check_width(self.decoder_dim, self.decoder_heads, axes=2, part="decoder_")
        if not self.pairs:
            return
        check_width(self.teacher_dim, self.teacher_heads, axes=2, part="teacher_")
        for i, j in self.pairs:
            if not (0 <= i < self.depth and 0 <= j < self.teacher_depth):
                raise UserError(
                    f"method.pairs aligns block {i} of the student with block {j} of the teacher, and blocks are "
                    f"counted from 0: the student has {self.depth} (method.depth), the teacher {self.teacher_depth} "
                    f"(method.teacher_depth)."
                )
        if self.head == "none" and self.dim != self.teacher_dim:
            raise UserError(
                f"method.head='none' compares features as they are, but method.dim={self.dim} and "
                f"method.teacher_dim={self.teacher_dim} differ: take method.head='linear'."
            )

    def cost(self) -> Cost:
        tokens, out = self.keep + 1, self.teacher_dim
        head, width = 0.0, self.dim
        for adaptor in self.adaptors:
            middle = out if adaptor.kind == "mlp" else 0
            head += flops.dense(tokens, width, middle) + flops.dense(tokens, middle or width, out)
            width = out
        forward = self.net.flops(self.keep) + len(self.pairs) * head
        once = self.teacher.flops(self.keep) if self.pairs else 0.0
        return Cost(forward=forward, tokens=math.prod(self.grid), visible=self.keep, once=once)

    def init(self, key: Array, batch: Batch) -> tuple[Params, Stats]:
        key, *head_keys = jax.random.split(key, 1 + len(self.pairs))
        params = self.net.init(key, self.keep)
        if self.pairs and self.adaptors:
            params["heads"] = {str(k): self._init_head(head_key) for k, head_key in enumerate(head_keys)}
        return params, {}

    def loss(self, params: Params, rest: Rest, batch: Batch, ctx: Context) -> tuple[Float[Array, ""], Aux]:
        image = batch["image"]
        mask = select(scores.random(ctx, len(image), math.prod(self.grid)), self.keep)  # for teacher and student
        visible = self.net.encode(params, image, mask)
        pred = self.net.decode(params, visible, mask)
        target = self.net.target(image)
        reconstruction, weight = masked_mean(squared_error(pred, target), mask.hidden)
        seen = self.net.seen(visible, mask, pred, target) | {"keep_ids": mask.keep_ids}
        metrics = {"reconstruction": reconstruction}
        loss = reconstruction
        if self.pairs:
            terms = self._alignment(params, rest["frozen"]["teacher"], image, visible, target, mask, metrics, seen)
            metrics["alignment"] = jnp.sum(jnp.stack(terms))
            loss = loss + metrics["alignment"]
        return loss, Aux(stats=dict(rest["stats"]), metrics={"loss": loss} | metrics, weight=weight, seen=seen)

    def encode(
        self, params: Params, rest: Rest, batch: Batch, *, ctx: Context | None = None, train: bool = False
    ) -> Features:
        drop = drop_paths(ctx, self.compute, self.depth, len(batch["image"]), train)
        return apply(self.encoder, params["encoder"], batch["image"], drop=drop)

    def pictures(self, seen: Mapping[str, Array], batch: Batch) -> dict[str, Float[Array, "b h w c"]]:
        return self.net.pictures(seen, batch["image"])

    def _alignment(self, params, frozen, image, visible, target, mask, metrics, seen) -> list[Float[Array, ""]]:
        """The distance of each pair's features; what else is known of the teacher goes into `metrics` and `seen`."""
        taught = jax.lax.stop_gradient(self.teacher.encode(frozen, image, mask))
        if self.full_teacher:
            predicted = jax.lax.stop_gradient(self.teacher.decode(frozen, taught, mask))
            metrics["teacher_reconstruction"], _ = masked_mean(squared_error(predicted, target), mask.hidden)
            seen["teacher_pred"] = predicted
        terms = []
        for k, (i, j) in enumerate(self.pairs):
            student, teacher = visible.hidden[i], taught.hidden[j].astype(jnp.float32)
            seen |= {f"student_block_{i}": student, f"teacher_block_{j}": teacher}
            for number, adaptor in enumerate(self.adaptors):
                student = apply(adaptor, params["heads"][str(k)][str(number)], student)
            student = student.astype(jnp.float32)
            if self.head != "none":
                student, teacher = unit(student), unit(teacher)
            terms.append(DISTANCES[self.distance](student, teacher).mean())
            seen[f"alignment_{k}"] = terms[-1]
        return terms

    def _init_head(self, key: Array) -> Params:
        layers, x = {}, jnp.zeros((1, 1, self.dim))
        for number, (adaptor, own) in enumerate(zip(self.adaptors, jax.random.split(key, len(self.adaptors)))):
            x, found = adaptor.init_with_output(own, x)
            layers[str(number)] = found["params"]
        return layers

    def _shape(self, dim: int, depth: int, heads: int, mlp_ratio: float) -> Transformer:
        return Transformer(dim, depth, heads, mlp_ratio, norm_eps=self.norm_eps, compute=self.compute)

    def _net(self, encoder: Encoder, decoder: Transformer | None) -> Autoencoder:
        decode = None if decoder is None else Decoder(decoder, math.prod(sizes(self.patch)) * self.channels)
        return Autoencoder(encoder, sizes(self.image_size), self.channels, decode, self.norm_pix)
