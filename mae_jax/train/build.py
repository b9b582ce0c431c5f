"""From a checked config to everything that a run needs: method, mesh, optimizer, step, data. Shared by all commands."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from mae_jax.augment.normalise import normalise
from mae_jax.config import Config, make_method
from mae_jax.core import tree
from mae_jax.core.errors import UserError
from mae_jax.core.mesh import batch_sharding, make_mesh, replicated, state_shardings, use_mesh
from mae_jax.core.types import Batch
from mae_jax.data.sources import Source, make_source
from mae_jax.data.transforms import HostAugment
from mae_jax.methods.base import Method
from mae_jax.train.optimizers import make_optimizer
from mae_jax.train.schedules import Schedule, scaled, warmup_cosine
from mae_jax.train.state import State, init_state
from mae_jax.train.step import make_step


@dataclasses.dataclass(frozen=True)
class Run:
    """What a config becomes on given devices. Nothing here holds weights.

    Attributes:
      shapes: the train state as ShapeDtypeStructs with shardings: how a checkpoint is restored.
    """

    config: Config
    method: Method
    mesh: Mesh
    optimizer: optax.GradientTransformation
    rate: Schedule
    shapes: State

    def init(self, parts: Sequence[str] | None = None) -> State:
        """A fresh state from train.seed, made where it will lie; only some `parts` of it where no more is needed."""
        wanted = {name: self.shapes[name] for name in parts or self.shapes}
        out = jax.tree.map(lambda s: s.sharding, wanted)

        def make(key: jax.Array) -> State:
            state = self._init(key)
            return {name: state[name] for name in wanted}

        with use_mesh(self.mesh):
            return jax.jit(make, out_shardings=out)(jax.random.key(self.config.train.seed))

    def _init(self, key: jax.Array) -> State:
        return init_state(self.method, self.optimizer, key, sample_batch(self.method), average=self.averaging)

    @property
    def averaging(self) -> bool:
        return self.config.optim.average > 0

    @functools.cached_property
    def step(self):
        """The jitted train step: (state, frozen, batch, plan) -> (state, metrics). Donates the state."""
        train = self.config.train
        step = make_step(
            self.method, self.optimizer, self.rate, self.augment, seed=train.seed,
            microbatches=train.microbatches, average=self.config.optim.average,
        )  # fmt: skip
        states = jax.tree.map(lambda s: s.sharding, self.shapes)
        jitted = jax.jit(
            step,
            in_shardings=(states, None, batch_sharding(self.mesh)),
            out_shardings=(states, replicated(self.mesh)),
            static_argnums=3,
            donate_argnums=0,
        )

        def run(state: State, frozen: Any, batch: Batch, plan: Any = None):
            with use_mesh(self.mesh):
                return jitted(state, frozen, batch, plan)

        run.lower = jitted.lower  # type: ignore[attr-defined]
        return run

    def augment(self, batch: Batch, ctx: Any = None) -> Batch:
        """The device's share of the augmentation: uint8 -> normalised float32."""
        return {**batch, "image": normalise(batch["image"], self.config.augment.mean, self.config.augment.std)}

    def put(self, batch: Mapping[str, np.ndarray]) -> Batch:
        """This process's rows of a batch as global arrays; only what the method reads travels."""
        sharding = batch_sharding(self.mesh)
        wanted = {*self.method.batch_spec, "valid"}
        return {
            name: jax.make_array_from_process_local_data(sharding, array)
            for name, array in batch.items()
            if name in wanted
        }

    def open(self, split: str) -> Source:
        """A split of the configured data."""
        return make_source(self.config.data.source, split, self.config.data.options)

    def host_augment(self, train: bool) -> HostAugment:
        """The host's share of the augmentation."""
        height, width, channels = self.method.batch_spec["image"].shape
        a = self.config.augment
        return HostAugment(
            size=(height, width), channels=channels, crop_scale=a.crop_scale if train else None,
            crop_ratio=a.crop_ratio, flip=a.flip and train,
        )  # fmt: skip


def build(config: Config, devices: list[jax.Device] | None = None) -> Run:
    """Check everything that can be checked without running, then lay the run out on the devices.

    Raises:
      UserError: what does not fit, before any long work.
    """
    method = make_method(config)
    if method.frozen():
        raise UserError(f"method '{method.name}' needs frozen networks, and no teacher family is available yet.")
    params, _ = jax.eval_shape(method.init, jax.random.key(0), sample_batch(method))
    optimizer = make_optimizer(config.optim, params)
    peak = scaled(config.optim.learning_rate, config.train.batch)
    rate = warmup_cosine(peak, config.optim.warmup, config.train.steps, config.optim.end_rate)
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp, devices)
    for key, n in (("train.batch", config.train.batch // config.train.microbatches), ("eval.batch", config.eval.batch)):
        if n % mesh.size:
            raise UserError(
                f"{key} gives {n} samples at a time, which {mesh.size} devices cannot share equally: choose a "
                f"multiple of {mesh.size} (times train.microbatches={config.train.microbatches} for train.batch)."
            )
    init = functools.partial(
        init_state, method, optimizer, batch=sample_batch(method), average=config.optim.average > 0
    )
    shapes = jax.eval_shape(init, jax.random.key(0))
    shapes = jax.tree.map(
        lambda s, sharding: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding),
        shapes,
        state_shardings(shapes, mesh),
    )
    return Run(config, method, mesh, optimizer, rate, shapes)


def sample_batch(method: Method, batch: int = 1) -> Batch:
    """A batch of zeros of the shapes that the method reads."""
    return {
        name: jnp.zeros((batch, *leaf.shape) if leaf.batched else leaf.shape, leaf.dtype)
        for name, leaf in method.batch_spec.items()
    }


def part_sizes(params: Any) -> dict[str, int]:
    """Number of parameters of each top-level part."""
    return {name: tree.size(part) for name, part in params.items()}
