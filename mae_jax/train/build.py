"""From a checked config to everything that a run needs: method, mesh, optimizer, step, data. Shared by all commands."""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding

from mae_jax.config import make_method
from mae_jax.core import tree
from mae_jax.core.errors import UserError
from mae_jax.core.mesh import (
    RULES,
    batch_sharding,
    batch_shards,
    frozen_shardings,
    make_mesh,
    replicated,
    share,
    state_shardings,
    use_mesh,
    with_shardings,
)
from mae_jax.core.types import Batch, Params
from mae_jax.data.sources import Source, make_source
from mae_jax.data.sources.subset import few_per_class
from mae_jax.data.views import Views
from mae_jax.methods.base import Leaf, Method, own_rules
from mae_jax.schema import Config
from mae_jax.train import inputs
from mae_jax.train.apart import independent
from mae_jax.train.check_chip import check_chip
from mae_jax.train.optimizers import make_optimizer
from mae_jax.train.schedules import Schedule, learning_rate
from mae_jax.train.state import State, init_state
from mae_jax.train.step import make_step

MAX_SAMPLE = 4 << 30  # bytes of one sample


@dataclasses.dataclass(frozen=True)
class Run:
    """What a config becomes on given devices. Nothing here holds weights.

    Attributes:
      shapes: the train state as ShapeDtypeStructs with shardings: how a checkpoint is restored.
      frozen_shapes: the frozen networks in the same way; no file has been read.
    """

    config: Config
    method: Method
    mesh: Mesh
    optimizer: optax.GradientTransformation
    rate: Schedule
    shapes: State
    frozen_shapes: dict[str, Params]

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
        """The jitted train step: (state, frozen, batch, plan, limit) -> (state, metrics). Donates the state."""
        train = self.config.train
        step = make_step(
            self.method, self.optimizer, self.rate, self.augment, seed=train.seed,
            microbatches=train.microbatches, average=self.config.optim.average, steps=train.steps,
            norms=self.config.log.norms == "parts", whole=inputs.together(self.method.batch_spec, self.config.augment),
            mesh=self.mesh, by_step=BY_STEP[self.config.mesh.gather], wire=self.config.mesh.reduce,
        )  # fmt: skip
        states, frozen = (jax.tree.map(lambda s: s.sharding, tree) for tree in (self.shapes, self.frozen_shapes))
        jitted = jax.jit(
            step,
            in_shardings=(
                states, frozen, {name: self.sharding(name) for name in self.leaves}, replicated(self.mesh)
            ),
            out_shardings=(states, replicated(self.mesh)),
            static_argnums=3,
            donate_argnums=0,
        )  # fmt: skip

        def run(state: State, frozen: Any, batch: Batch, plan: Any = None, limit: Any = None):
            with use_mesh(self.mesh):
                return jitted(state, frozen, {name: batch[name] for name in self.leaves}, plan, limit)

        def trace(state: Any, frozen: Any, batch: Any, plan: Any = None, limit: Any = None):
            with use_mesh(self.mesh):
                return jitted.trace(state, frozen, batch, plan, limit)

        run.trace = trace  # type: ignore[attr-defined]
        run.lower = lambda *arguments: trace(*arguments).lower()  # type: ignore[attr-defined]
        return run

    @functools.cached_property
    def frozen(self) -> dict[str, Params]:
        """The frozen networks on the devices, read from their files when first asked for.

        Raises:
          UserError: a file that is missing, has another hash, or does not fit the network.
        """
        return {name: self._put_frozen(name, params) for name, (params, _) in self._loaded.items()}

    @functools.cached_property
    def frozen_hashes(self) -> dict[str, str]:
        """{name: sha256 of the file} of the frozen networks: what a checkpoint records of them."""
        return {name: sha256 for name, (_, sha256) in self._loaded.items()}

    @functools.cached_property
    def _loaded(self) -> dict[str, tuple[Params, str]]:
        if not self.method.frozen():
            return {}
        from mae_jax import teachers  # brings the readers of published weights along

        return {name: teachers.load(spec) for name, spec in self.method.frozen().items()}

    def _put_frozen(self, name: str, params: Params) -> Params:
        return jax.tree.map(lambda x, s: jax.device_put(x, s.sharding), params, self.frozen_shapes[name])

    def augment(self, batch: Batch, ctx: Any = None) -> Batch:
        """The device's share of the augmentation; without a context nothing random happens."""
        return inputs.on_device(self.method.batch_spec, self.config.augment, batch, ctx)

    def views(self, train: bool, view: int = 0) -> Views:
        """The host's share of the augmentation; in evaluation of one of `vote_views` of each record."""
        return inputs.views(self.method.batch_spec, self.config.augment, train, view)

    @property
    def vote_views(self) -> int:
        """Views of a record over which an evaluation of classifiers votes."""
        return inputs.vote_views(self.method.batch_spec, self.config.augment)

    @functools.cached_property
    def leaves(self) -> dict[str, Leaf]:
        """What travels to the devices in training: the method's leaves, or canvases in the place of images."""
        return inputs.batch_leaves(self.method.batch_spec, self.config.augment)

    @property
    def colours(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """(mean, std) that bring an image of the method's input back to [0, 1]; empty where it lies there."""
        return inputs.colours(self.method.batch_spec, self.config.augment)

    def sharding(self, name: str) -> NamedSharding:
        """How a leaf of a batch lies on the devices."""
        spec = {**self.method.batch_spec, **self.leaves}
        split = spec[name].batched if name in spec else any(leaf.batched for leaf in spec.values())
        return batch_sharding(self.mesh) if split else replicated(self.mesh)

    def place(self, name: str, array: np.ndarray) -> jax.Array:
        """This process's rows of a leaf as a global array."""
        return jax.make_array_from_process_local_data(self.sharding(name), np.asarray(array))

    def put(self, batch: Mapping[str, np.ndarray]) -> Batch:
        """This process's rows of a batch as global arrays; only what the method reads travels."""
        wanted = {*self.method.batch_spec, *self.leaves, "valid"}
        return {name: self.place(name, array) for name, array in batch.items() if name in wanted}

    def open(self, split: str) -> Source:
        """The split "train" or "test" of the configured data, as data.train_split and data.test_split say."""
        return open_split(self.config, split)

    @property
    def changes(self) -> tuple[int, ...]:
        """The steps at which the size of the images changes; the first is 0."""
        return tuple(first for first, _ in self.config.train.sizes) or (0,)

    def at(self, step: int) -> "Run":
        """The run at the image size of a step (progressive resolution); itself where train.sizes is empty."""
        sizes = [size for first, size in self.config.train.sizes if first <= step]
        if not sizes:
            return self
        if sizes[-1] not in self._stages:
            self._stages[sizes[-1]] = dataclasses.replace(self, method=resized(self.method, sizes[-1]))
        return self._stages[sizes[-1]]

    @functools.cached_property
    def _stages(self) -> dict[int, "Run"]:
        return {}


def build(config: Config, devices: list[jax.Device] | None = None, method: Method | None = None) -> Run:
    """Check everything that can be checked without running, then lay the run out on the devices.

    Args:
      method: what to train; None: the method that the config names (transfer/ trains something built on it).

    Raises:
      UserError: what does not fit, before any long work.
    """
    method = make_method(config) if method is None else method
    inputs.check(method, config.augment)
    params, _ = jax.eval_shape(method.init, jax.random.key(0), sample_batch(method))
    _check_sizes(config, method, params)
    optimizer = make_optimizer(config.optim, params, config.train.steps, own_rules(method, "decay"))
    rate = learning_rate(config.optim, config.train.batch, config.train.steps)
    mesh = mesh_of(config, devices)  # the first that touches a device
    check_chip(config, mesh.devices.flat[0])
    _check_batch(config, method, mesh)
    init = functools.partial(
        init_state, method, optimizer, batch=sample_batch(method), average=config.optim.average > 0
    )
    shapes = jax.eval_shape(init, jax.random.key(0))
    own = own_rules(method, "lies")
    shapes = with_shardings(shapes, state_shardings(shapes, mesh, (*RULES, *own)))
    _check_mesh(config, method, mesh, shapes)
    return Run(config, method, mesh, optimizer, rate, shapes, frozen_shardings(frozen_shapes(method), mesh, own))


BY_STEP = {"auto": None, "step": True, "layer": False}  # mesh.gather


def mesh_of(config: Config, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh that a config asks for."""
    m = config.mesh
    return make_mesh(m.data, m.fsdp, devices, tensor=m.tensor, slices=m.slices, across=m.across)


def open_split(config: Config, split: str) -> Source:
    """The split "train" or "test" of the configured data; of "train" transfer.labels_per_class where set."""
    data, transfer = config.data, config.transfer
    expression = {"train": data.train_split, "test": data.test_split}[split]
    source = make_source(data.source, expression, data.options)
    if split == "train" and transfer.labels_per_class is not None:
        return few_per_class(source, transfer.labels_per_class, transfer.labels_seed)
    return source


def frozen_shapes(method: Method) -> dict[str, Params]:
    """The shapes of a method's frozen networks; no file is read."""
    if not method.frozen():
        return {}
    from mae_jax import teachers

    return {name: teachers.shapes(spec) for name, spec in method.frozen().items()}


def resized(method: Method, size: int) -> Method:
    """The method for images of another size. Raises UserError where it has none."""
    if "image_size" not in {field.name for field in dataclasses.fields(method)}:
        raise UserError(f"train.sizes: '{method.name}' has no image_size that could change; leave train.sizes empty.")
    changing: Any = method
    other: Method = dataclasses.replace(changing, image_size=size)
    other.check()
    return other


def _check_sizes(config: Config, method: Method, params: Params) -> None:
    """Raise UserError where train.sizes is no schedule, or where the weights depend on the size."""
    firsts = [first for first, _ in config.train.sizes]
    if firsts and (firsts[0] != 0 or sorted(set(firsts)) != firsts):
        raise UserError(f"train.sizes={config.train.sizes}: pairs (from step, size) expected, steps rising from 0.")
    shapes = lambda tree: jax.tree.map(lambda x: x.shape, tree)
    for _, size in config.train.sizes:
        other = resized(method, size)
        if shapes(jax.eval_shape(other.init, jax.random.key(0), sample_batch(other))[0]) != shapes(params):
            raise UserError(
                f"train.sizes: the weights of '{method.name}' have other shapes at size {size} than at "
                f"{getattr(method, 'image_size', None)} (a learned table of positions, say), so the size cannot change "
                f"during a run."
            )


def _check_batch(config: Config, method: Method, mesh: Mesh) -> None:
    """Raise UserError where the batch cannot be laid out over devices and microbatches."""
    train = config.train
    if not all(leaf.batched for leaf in method.batch_spec.values()):
        for key, n in (("train.batch", train.batch), ("train.microbatches", train.microbatches),
                       ("eval.batch", config.eval.batch)):  # fmt: skip
            if n != 1:
                raise UserError(
                    f"{key}={n}, but '{method.name}' reads one sample at a time here (a large graph), whole on every "
                    f"device: set --config.{key}=1."
                )
        return
    if train.microbatches > 1 and "contrast" in method.couples:
        raise UserError(
            f"train.microbatches={train.microbatches}: '{method.name}' contrasts every sample with the whole batch, "
            f"and a microbatch would see only its own. Set train.microbatches=1; for memory use mesh.remat, mesh.fsdp "
            f"or a smaller train.batch."
        )
    parts = batch_shards(mesh)
    for key, n in (("train.batch", train.batch // train.microbatches), ("eval.batch", config.eval.batch)):
        if n % parts:
            raise UserError(
                f"{key} gives {n} samples at a time, which {parts} devices (mesh.data x mesh.fsdp) cannot share "
                f"equally: choose a multiple of {parts} (train.batch: times train.microbatches={train.microbatches})."
            )


def _check_mesh(config: Config, method: Method, mesh: Mesh, shapes: State) -> None:
    """Raise UserError where an axis has nothing to split, or where a key of the mesh could not be kept."""
    used = {name for leaf in jax.tree.leaves(shapes["params"]) for name in leaf.sharding.spec}
    for axis in ("fsdp", "tensor"):
        if mesh.shape[axis] > 1 and axis not in used:
            raise UserError(
                f"mesh.{axis}={mesh.shape[axis]} divides no array of '{method.name}', so that every device along it "
                f"would hold everything: choose a divisor of its widths, or mesh.{axis}=1 and more mesh.data."
            )
    if config.mesh.reduce != "float32" and not independent(method, shapes["stats"]):
        raise UserError(
            f"mesh.reduce={config.mesh.reduce}: '{method.name}' computes every gradient over the whole batch at once "
            f"(its samples hang together), where XLA chooses the precision: leave mesh.reduce at float32."
        )
    share(mesh)  # of several processes each must hold one run of rows


def sample_batch(method: Method, batch: int = 1) -> Batch:
    """A batch of zeros of the shapes that the method reads. Raises UserError where a sample could not be held."""
    for name, leaf in method.batch_spec.items():
        room = math.prod(leaf.shape) * jnp.dtype(leaf.dtype).itemsize
        if room > MAX_SAMPLE:
            raise UserError(
                f"'{method.name}' reads '{name}' of shape {leaf.shape} here, {room / 1e9:.0f} GB for one sample: are "
                f"the sizes in config.method right?"
            )
    return {
        name: jnp.zeros((batch if leaf.batched else 1, *leaf.shape), leaf.dtype)
        for name, leaf in method.batch_spec.items()
    }


def part_sizes(params: Any) -> dict[str, int]:
    """Number of parameters of each top-level part."""
    return {name: tree.size(part) for name, part in params.items()}
