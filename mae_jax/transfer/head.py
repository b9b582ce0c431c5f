"""A head trained on a frozen encoder: what the linear, the attentive and the prototypical probe share.

A step of the head takes a whole batch of features at once, however large. With augmentation the encoder makes them in
parts of eval.batch samples, anew at every step; without, all features are computed once and held on the host.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from mae_jax import modalities
from mae_jax.core.errors import UserError
from mae_jax.core.mesh import batch_sharding, replicated, use_mesh
from mae_jax.core.types import Batch, Features, Params, Stats
from mae_jax.data import pipeline
from mae_jax.data.order import permutation
from mae_jax.data.sources import Source
from mae_jax.eval.average_precision import mean_average_precision
from mae_jax.eval.features import extract, fetch
from mae_jax.eval.probes import Result
from mae_jax.eval.ranks import rank
from mae_jax.nets.layers import apply_stats
from mae_jax.schema import Augment
from mae_jax.train import inputs
from mae_jax.train.build import Run
from mae_jax.train.feed import eval_batches, share
from mae_jax.train.progress import Progress
from mae_jax.train.schedules import scaled, warmup_cosine

Pick = Callable[[Features], Float[Array, "b *rest"]]
Step = tuple[tuple[Array, ...], tuple[Array, ...]]  # features and labels of a batch, in parts
SHOWN = 20  # times that the progress is shown


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a head is trained.

    Attributes:
      epochs, warmup: in passes over the training samples.
      batch: samples per step; at most the training set, see `sized`.
      learning_rate: peak, per 256 samples.
      optimizer: of the head's parameters -> a transformation that gives a direction.
      loss: (logits [b c], labels [b], or [b c] of 0 and 1) -> mean over the batch.
      scaled: False: the learning rate is the peak itself, whatever the batch.
    """

    epochs: float
    warmup: float
    batch: int
    learning_rate: float
    optimizer: Callable[[Params], optax.GradientTransformation]
    loss: Callable[[Array, Array], Array] = lambda logits, labels: entropy(logits, labels)
    scaled: bool = True


def entropy(logits: Float[Array, "b c"], labels: Int[Array, "b *c"]) -> Float[Array, ""]:
    """Mean cross entropy; of labels of 0 and 1 for every class, the mean of their binary ones."""
    if labels.ndim == 2:
        return optax.sigmoid_binary_cross_entropy(logits, labels).mean()
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


class FrozenEncoder:
    """An opened encoder as a function of batches, and its data, with or without augmentation."""

    def __init__(self, opened: Any, pick: Pick):
        self.run: Run = opened.run
        self.options = self.run.config.transfer
        self._params, self._rest, self._pick = opened.state["params"], opened.rest, pick
        _check(self.run)

    def features(self, batch: Batch, *, train: bool) -> Float[Array, "b *rest"]:
        """Features of the rows of a batch of the source, laid out like it."""
        leaves = self.run.method.batch_spec
        return self._encode(self._params, self._rest, {k: x for k, x in batch.items() if k in leaves}, train)

    @functools.cached_property
    def _encode(self):
        method, run = self.run.method, self.run

        @functools.partial(jax.jit, static_argnums=3, out_shardings=batch_sharding(run.mesh))
        def encode(params: Params, rest: Any, batch: Batch, train: bool) -> Array:
            augment = self.augment if train else run.config.augment
            prepared = inputs.on_device(method.batch_spec, augment, batch, None)
            return self._pick(method.encode(params, rest, prepared)).astype(jnp.float32)

        return encode

    @functools.cached_property
    def shape(self) -> tuple[int, ...]:
        """Of one sample's features; nothing is computed."""
        rows = self.run.config.eval.batch
        batch = {
            name: jax.ShapeDtypeStruct((rows, *leaf.shape), leaf.dtype)
            for name, leaf in self.run.method.batch_spec.items()
        }
        return jax.eval_shape(lambda b: self.features(b, train=False), batch).shape[1:]

    @property
    def augment(self) -> Augment:
        """Crop and flip alone, on the host; nothing else of the pretraining's augmentation."""
        a, o = self.run.config.augment, self.options
        flip = a.flip if o.probe_flip is None else o.probe_flip
        kept = {key: getattr(a, key) for key in ("mean", "std", "normalise", "interpolation")}
        return Augment(crop_scale=o.probe_crop, flip=flip, options=modalities.kept(a), **kept)

    def anew(self, source: Source, batch: int, steps: int) -> Iterator[Step]:
        """Augmented batches, encoded in parts of eval.batch samples."""
        part, run = self.run.config.eval.batch, self.run
        views = inputs.views(run.method.batch_spec, self.augment, True).changed(single_draw=True)
        with pipeline.train_batches(source, views, batch=part, seed=self.options.probe_seed, **share(run)) as batches:
            for _ in range(steps):
                xs, ys = [], []
                for _ in range(batch // part):
                    host = next(batches)
                    placed = {name: run.place(name, x) for name, x in host.items() if name in run.method.batch_spec}
                    xs.append(settled(self.features(placed, train=True)))
                    ys.append(run.place("label", host["label"]))
                yield tuple(xs), tuple(ys)

    def held(self, source: Source, batch: int, steps: int) -> Iterator[Step]:
        """Batches of features that were computed once, without augmentation, in another order each epoch."""
        room = self.options.probe_memory_gb * 1e9
        size = 4.0 * len(source) * math.prod(self.shape)
        if size > room:
            raise UserError(
                f"the features of {len(source)} samples take {size / 1e9:.1f} GB, and transfer.probe_memory_gb="
                f"{room / 1e9:g}. Raise it, or set transfer.probe_augment=True, which encodes every batch anew."
            )
        features, labels = self.all(source)
        sharding, n, seed = batch_sharding(self.run.mesh), len(labels), self.options.probe_seed
        put = lambda rows: jax.make_array_from_callback(rows.shape, sharding, lambda index: rows[index])
        for step in range(steps):
            due = np.arange(step * batch, (step + 1) * batch)
            orders = {e: permutation(seed, e, n) for e in np.unique(due // n).tolist()}
            ids = np.array([orders[g // n][g % n] for g in due.tolist()])
            yield (put(features[ids].reshape(-1, *self.shape)),), (put(labels[ids].astype(np.int32)),)

    def all(self, source: Source) -> tuple[np.ndarray, np.ndarray]:
        """(features [n, ...] laid flat, labels) of a split, without augmentation, on the host."""
        flat = lambda placed: (x := self.features(placed, train=False)).reshape(x.shape[0], -1)
        batches = eval_batches(self.run, source)
        found = extract({"features": flat}, batches, place=self.run.place, multilabel=source.multilabel)["features"]
        return found.features, found.labels


def train_and_score(encoder: FrozenEncoder, head: nn.Module, recipe: Recipe, train: Source, test: Source) -> Result:
    """Train a head on the features of `train` and score it on those of `test`.

    Args:
      head: (features, train=) -> logits, with collections "params" and perhaps "stats".

    Raises:
      UserError: features that are not finite, or do not fit into memory.
    """
    run, options = encoder.run, encoder.options
    n = min(len(train), run.config.eval.limit or len(train)) if not options.probe_augment else len(train)
    batch = sized(recipe.batch, n, run.config.eval.batch if options.probe_augment else run.mesh.size)
    steps = max(1, round(recipe.epochs * n / batch))
    peak = scaled(recipe.learning_rate, batch) if recipe.scaled else recipe.learning_rate
    rate = warmup_cosine(peak, recipe.warmup / recipe.epochs * steps, steps)
    with use_mesh(run.mesh):
        params, stats = _init(head, encoder.shape, options.probe_seed, run)
        optimizer = recipe.optimizer(params)
        step = make_step(head, optimizer, rate, recipe.loss)
        state = {
            "params": params,
            "stats": stats,
            "opt": jax.jit(optimizer.init, out_shardings=replicated(run.mesh))(params),
        }
        feed = encoder.anew(train, batch, steps) if options.probe_augment else encoder.held(train, batch, steps)
        progress = Progress(steps, batch=batch, active=jax.process_index() == 0)
        loss = jnp.zeros(())
        try:
            for number, (xs, ys) in enumerate(feed):
                state, loss = step(state, xs, ys, np.int32(number))
                settled(loss)
                if (number + 1) % max(1, steps // SHOWN) == 0:
                    progress.update(number + 1, {"loss": float(loss), "lr": float(rate(number))})
        finally:
            progress.close()
        if not np.isfinite(float(loss)):
            raise UserError(
                f"the probe's loss is {float(loss)} after {steps} steps: the features are not finite, or the learning "
                f"rate is too high (transfer.probe_learning_rate, transfer.probe_attentive_learning_rate)."
            )
        details = {"loss": float(loss), "steps": float(steps), "batch": float(batch), "peak_rate": peak}
        if test.multilabel:
            found, each = mean_average_precision(*_all_logits(encoder, head, state, test))
            return Result(100 * found, details=details | {f"AP/{c}": 100 * x for c, x in zip(test.classes, each)})
        right, right5, count = _score(encoder, head, state, test)
    return Result(100 * right / count, details={"top5": 100 * right5 / count} | details)


def _all_logits(
    encoder: FrozenEncoder, head: nn.Module, state: dict[str, Any], test: Source
) -> tuple[np.ndarray, np.ndarray]:
    """(logits, labels) of a split, each [n, classes]."""
    features, labels = encoder.all(test)
    run = jax.jit(lambda state, x: apply_stats(head, state["params"], state["stats"], x, train=False)[0])
    part = encoder.run.config.eval.batch
    cuts = [features[i : i + part].reshape(-1, *encoder.shape) for i in range(0, len(features), part)]
    return np.concatenate([fetch(run(state, jnp.asarray(x))) for x in cuts]), labels


def sized(batch: int, n: int, part: int) -> int:
    """`batch`, but at most the n training samples, as a multiple of `part`; at least one part."""
    return max(1, min(batch, n) // part) * part


def make_step(
    head: nn.Module, optimizer: optax.GradientTransformation, rate: Callable, loss_of_batch: Callable = entropy
):
    """Jitted: (state, features, labels, step) -> (state, loss of the whole batch)."""

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state: dict[str, Any], xs: tuple[Array, ...], ys: tuple[Array, ...], number: Any):
        x, y = jnp.concatenate(xs), jnp.concatenate(ys)

        def loss_of(params: Params) -> tuple[Array, Stats]:
            logits, stats = apply_stats(head, params, state["stats"], x, train=True)
            return loss_of_batch(logits, y), stats

        (loss, stats), gradient = jax.value_and_grad(loss_of, has_aux=True)(state["params"])
        direction, opt = optimizer.update(gradient, state["opt"], state["params"])
        params = jax.tree.map(lambda p, u: p - rate(number) * u, state["params"], direction)
        return {"params": params, "stats": stats, "opt": opt}, loss

    return step


def settled(x: Any) -> Any:
    """On a CPU, waits: programs with collectives that are in flight together may wait for each other for ever."""
    return jax.block_until_ready(x) if jax.default_backend() == "cpu" else x


def _init(head: nn.Module, shape: tuple[int, ...], seed: int, run: Run) -> tuple[Params, Stats]:
    def make(key: Array) -> tuple[Params, Stats]:
        found = head.init(key, jnp.zeros((2, *shape)), train=True)
        return found["params"], found.get("stats", {})

    return jax.jit(make, out_shardings=replicated(run.mesh))(jax.random.key(seed))


def _score(encoder: FrozenEncoder, head: nn.Module, state: dict[str, Any], test: Source) -> tuple[int, int, int]:
    """(right, right among the five best, samples) of a split."""

    @jax.jit
    def count(state: dict[str, Any], x: Array, label: Array, valid: Array) -> Array:
        logits, _ = apply_stats(head, state["params"], state["stats"], x, train=False)
        better = rank(logits, label)
        return jnp.stack([((better < k) & valid).sum() for k in (1, 5)] + [valid.sum()])

    total = np.zeros(3, np.int64)
    run = encoder.run
    with eval_batches(run, test) as batches:
        for host in batches:
            placed = {name: run.place(name, x) for name, x in host.items()}
            x = settled(encoder.features(placed, train=False))
            total += fetch(count(state, x, placed["label"], placed["valid"]))
    return int(total[0]), int(total[1]), int(total[2])


def _check(run: Run) -> None:
    spec = run.method.batch_spec
    if not all(leaf.batched for leaf in spec.values()):
        raise UserError(
            f"the trained probes read samples one by one, and '{run.method.name}' reads one large graph here. Take "
            f"--protocol linear with eval.pool='tokens'."
        )
    if run.config.transfer.probe_augment and not any(inputs.is_image(name) for name in spec):
        raise UserError(
            f"'{run.method.name}' reads no images, so there is nothing to crop: set transfer.probe_augment=False."
        )
