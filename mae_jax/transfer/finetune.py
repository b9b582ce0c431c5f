"""Fine-tuning as a method: any method's encoder with a head on its features, trained on labels.

A `FineTune` stands in the place of the pretraining method, so that loop, step, guard, checkpoints, microbatches and
averages serve as they are. It knows the encoder through `Method.encode` alone; its parameters are those that reach the
head, under their own names (`Method.encode` gets zeros for the others, which nothing reads), and the head's.
"""

import dataclasses
import functools
import re
from collections.abc import Mapping
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from mae_jax.augment.mixup import mixed_labels, soft_targets
from mae_jax.core import tree
from mae_jax.core.errors import UserError
from mae_jax.core.keys import Context
from mae_jax.core.types import Aux, Batch, Features, Params, Stats
from mae_jax.eval import features as pooling
from mae_jax.losses.cross_entropy import soft_cross_entropy
from mae_jax.methods.base import FrozenSpec, Leaf, Method, Rest, Rule
from mae_jax.nets.heads import ClassHead
from mae_jax.nets.layers import apply, apply_stats
from mae_jax.nets.point import Projector
from mae_jax.train.build import sample_batch
from mae_jax.transfer.reach import Reach, pruned, reach, whole

Pool = Literal["mean", "class", "normed_mean", "class_max"]
HeadKind = Literal["linear", "mlp3"]
MLP3 = (256, 256)  # hidden widths of the head "mlp3"
HEAD = ("fc_norm", "head")  # parts of the parameters that are not the encoder's


@dataclasses.dataclass(frozen=True, kw_only=True)
class FineTune(Method):
    """The classifier that is fine-tuned.

    Attributes:
      inner: the method whose encoder it is; its `compute` holds the drop-path rate.
      classes: of the labels.
      multilabel: whether a label is a row of 0 and 1, one for each class, each with a sigmoid of its own.
      pool: what the head reads. "mean": the patch tokens' mean before the last norm, then a norm of its own, `fc_norm`
        (MAE, BEiT; the encoder's last norm is left out); "class": the class token after the last norm; "normed_mean":
        the mean after the last norm, without another one; "class_max": beside the class token the largest value of
        every channel over the patch tokens, after the last norm (Point-MAE).
      head_kind: "linear"; "mlp3": three linear layers with batch norms, ReLUs and dropout between them (Point-MAE).
      trained: regular expressions: which of the encoder's parameters are trained; None: all. Batch norms of what is
        not still take the batch's statistics (Point-CMAE).
      smoothing: of the labels, before mixing.
      head_std: of the truncated normal that initialises the head.
      dropout: of what the linear head reads, or of what lies between the three layers, in training.
    """

    name: ClassVar[str] = "finetune"

    inner: Method
    classes: int
    multilabel: bool = False
    pool: Pool = "mean"
    head_kind: HeadKind = "linear"
    trained: tuple[str, ...] | None = None
    smoothing: float = 0.0
    head_std: float = 2e-5
    dropout: float = 0.0

    @property
    def reach(self) -> Reach:
        """What the head depends on."""
        return reach(self.inner, READ[self.pool])

    @property
    def head(self) -> ClassHead | Projector:
        if self.head_kind == "mlp3":
            return Projector(MLP3, self.classes)
        return ClassHead(self.classes, self.pool == "mean", getattr(self.inner, "norm_eps", 1e-6), self.head_std)

    @property
    def batch_spec(self) -> Mapping[str, Leaf]:
        own = {name: leaf for name, leaf in self.inner.batch_spec.items() if name in self.reach.leaves}
        return own | {"label": Leaf((self.classes,) if self.multilabel else (), "int32")}

    @property
    def couples(self) -> tuple[str, ...]:
        return ("bn",) if self.reach.stats or self.head_kind == "mlp3" else ()

    @property
    def dead(self) -> Mapping[str, str]:
        return {} if self.trained is None else {frozen_rule(self.trained): "transfer.trained leaves it as it is"}

    @property
    def rules(self) -> Mapping[str, Rule]:
        return self.inner.rules

    def check(self) -> None:
        self.inner.check()
        if not all(leaf.batched for leaf in self.inner.batch_spec.values()):
            raise UserError(f"fine-tuning needs a label per sample, but '{self.inner.name}' reads one large graph.")
        if self.reach.ema:
            raise UserError(
                f"'{self.inner.name}' encodes with its teacher ({', '.join(sorted(self.reach.ema)[:3])}), which "
                f"fine-tuning does not train."
            )
        for path in self.reach.params:
            if path.split("/")[0] in HEAD:
                raise ValueError(f"the encoder's parameter '{path}' has the name of the classifier's own head")
        drop_path = self.inner.compute.drop_path
        if not all(0 <= share < 1 for share in (self.smoothing, drop_path, self.dropout)):
            raise UserError(
                f"transfer.smoothing={self.smoothing}, drop_path={drop_path}, dropout={self.dropout}: 0 <= x < 1 "
                f"expected."
            )
        if self.classes < 2:
            raise UserError(f"fine-tuning on {self.classes} class(es): at least 2 expected. Are the data labelled?")

    def frozen(self) -> Mapping[str, FrozenSpec]:
        return {name: spec for name, spec in self.inner.frozen().items() if name in self.reach.frozen}

    def init(self, key: Array, batch: Batch) -> tuple[Params, Stats]:
        encoder_key, head_key = jax.random.split(key)
        params, stats = self.inner.init(encoder_key, sample_batch(self.inner))
        head = self.head.init(head_key, jnp.zeros((1, self.reach.out.shape[-1])))
        own, stats = head["params"], pruned(stats, self.reach.stats)
        if self.head_kind == "mlp3":
            own, stats = {"head": own}, stats | {"head": head["stats"]}
        return self._encoders(params) | own, stats

    def encode(
        self, params: Params, rest: Rest, batch: Batch, *, ctx: Context | None = None, train: bool = False
    ) -> Features:
        zeros = lambda s: jnp.zeros(s.shape, s.dtype)
        found = self.reach
        stats = whole(pruned(rest["stats"], found.stats), found.all_stats, zeros)
        own = self._encoders(params)
        if self.trained is not None:
            still = lambda path: re.search(frozen_rule(self.trained or ()), path)
            own = tree.map_with_path(lambda path, x: jax.lax.stop_gradient(x) if still(path) else x, own)
        features = self.inner.encode(
            whole(own, found.all_params, zeros),
            {**rest, "stats": stats, "ema": {}},
            {name: x for name, x in batch.items() if not name.startswith("label")},
            ctx=ctx, train=train,
        )  # fmt: skip
        after = stats if features.stats is None else features.stats
        return dataclasses.replace(features, stats=pruned(after, found.stats))

    def logits(
        self, params: Params, rest: Rest, batch: Batch, *, ctx: Context | None = None, train: bool = False
    ) -> tuple[Float[Array, "b classes"], Float[Array, "b d"], Stats]:
        """(logits, the features that the linear layer reads, statistics after the call)."""
        features = self.encode(params, rest, batch, ctx=ctx, train=train)
        stats, x = dict(features.stats or {}), read(features, self.pool)
        if self.head_kind == "mlp3":
            drop = []
            if ctx is not None and train:
                noise = [ctx.uniform(f"head/dropout{i}", (len(x), w)) for i, w in enumerate(MLP3)]
                drop = [dropout(u, self.dropout) for u in noise]
            logits, stats["head"] = apply_stats(
                self.head, params["head"], rest["stats"]["head"], x.astype(jnp.float32), drop, train=train
            )
            return logits, x, stats
        own = {name: params[name] for name in HEAD if name in params}
        kept = None
        if train and ctx is not None and self.dropout:
            kept = dropout(ctx.uniform("dropout", (len(x), x.shape[-1])), self.dropout)
        logits, pooled = apply(self.head, own, x, kept)
        return logits, pooled, stats

    def loss(self, params: Params, rest: Rest, batch: Batch, ctx: Context) -> tuple[Float[Array, ""], Aux]:
        """Cross entropy with smoothed labels, or the mean over classes of binary ones; where images were mixed, with
        the labels of both."""
        logits, pooled, stats = self.logits(params, rest, batch, ctx=ctx, train=ctx.train)
        label = batch["label"]
        share, partner = batch.get("label_share", 1.0), batch.get("label_partner", label)
        if self.multilabel:
            loss = optax.sigmoid_binary_cross_entropy(
                logits, mixed_labels(label, self.smoothing, share, partner)
            ).mean()
        else:
            targets = soft_targets(label, self.classes, self.smoothing, share, partner)
            loss = soft_cross_entropy(logits, targets).mean()
        metrics = {"loss": loss}
        if "label_share" not in batch and not self.multilabel:
            metrics["train_top1"] = 100 * (logits.argmax(axis=1) == label).mean(dtype=jnp.float32)
        return loss, Aux(stats=stats, metrics=metrics, seen={"logits": logits, "features": pooled})

    def _encoders(self, params: Params) -> Params:
        return pruned(params, self.reach.params)


def read(features: Features, how: Pool = "mean") -> Float[Array, "b d"]:
    """The vector per sample that goes to the head."""
    if how == "class" and not features.prefix.shape[1]:
        raise UserError(
            "transfer.pool='class' (or class_max) reads the class token, but this encoder has none: set "
            "transfer.pool=mean, or method.class_token=True where the method has such a field."
        )
    if how == "class_max":
        return jnp.concatenate([read(features, "class"), pooling.pool(features, "max")], axis=1)
    return pooling.pool(features, {"mean": "raw_mean", "normed_mean": "mean"}.get(how, how))


# One function per pooling, so that what is traced for it is remembered.
READ = {how: functools.partial(read, how=how) for how in ("mean", "class", "normed_mean", "class_max")}


def frozen_rule(trained: tuple[str, ...]) -> str:
    """A regular expression of the paths that are not trained: all but the head and what `trained` matches."""
    return rf"^(?!(?:{'|'.join(HEAD)})/)" + "".join(f"(?!.*(?:{pattern}))" for pattern in trained)


def dropout(noise: Float[Array, "*b w"], rate: float) -> Float[Array, "*b w"]:
    """Multipliers from U[0, 1): 0 with probability `rate`, else 1 / (1 - rate)."""
    return jnp.where(noise < rate, 0.0, 1 / (1 - rate))


def encoder_size(method: FineTune) -> tuple[int, list[str]]:
    """(number of the encoder's parameters, top-level parts of the pretraining that are left out)."""
    shapes = tree.flatten(method.reach.all_params)
    kept = {path.split("/")[0] for path in method.reach.params}
    return sum(shapes[p].size for p in method.reach.params), sorted({p.split("/")[0] for p in shapes} - kept)
