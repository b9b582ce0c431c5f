"""Parameters that fsdp splits, made whole where they are used: an all-gather, whose transpose is a reduce-scatter.

Written out, because XLA left alone goes by its own lights: on a CPU it all-reduces whole gradients, and it may gather
in float32 what is used in bfloat16. Only for code that runs apart (`core.mesh.Use.apart`); in one global program XLA
still decides.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
from jax.experimental.layout import Layout, with_layout_constraint
from jax.sharding import PartitionSpec

from mae_jax.core import tree
from mae_jax.core.mesh import Use, active
from mae_jax.core.rings import Rings, rings

_SPLIT: list[dict[int, PartitionSpec]] = []  # {id of an array: how it lies} of what its layer will gather
_ASKED: list[set[int]] = []  # ids of what `parts` was asked for


@contextmanager
def waiting(arrays: Mapping[str, jax.Array], specs: Mapping[str, PartitionSpec]) -> Iterator[None]:
    """While this holds, `parts` knows that the arrays of these paths are parts, and of what."""
    _SPLIT.append({id(arrays[path]): spec for path, spec in specs.items()})
    try:
        yield
    finally:
        _SPLIT.pop()


@contextmanager
def asked_for(arrays: Mapping[str, jax.Array], found: set[str]) -> Iterator[None]:
    """Add to `found` the paths of those arrays that `parts` is asked for while this holds."""
    ids: set[int] = set()
    _ASKED.append(ids)
    try:
        yield
    finally:
        _ASKED.pop()
        found |= {path for path, array in arrays.items() if id(array) in ids}


def parts(layer: Any) -> dict[str, PartitionSpec]:
    """{path: how it lies} of those parameters of a layer that are only parts yet.

    Ask with a layer's arrays as the method got them: they are known by identity.
    """
    flat = tree.flatten(layer)
    if _ASKED:
        _ASKED[-1].update(map(id, flat.values()))
    split = _SPLIT[-1] if _SPLIT else {}
    return {path: split[id(x)] for path, x in flat.items() if id(x) in split}


def whole(layer: Any, parts: Mapping[str, PartitionSpec], dtype: Any) -> Any:
    """A layer with its `parts` gathered, matrices in `dtype`.

    Called inside a loop or jax.checkpoint, so that only one layer is whole at a time.
    """
    if not parts:
        return layer
    precision = lambda x: dtype if x.ndim > 1 else x.dtype
    bring = lambda path, x: gather(x, parts[path], precision(x)) if path in parts else x
    return tree.map_with_path(bring, layer)


def fsdp_axis(spec: PartitionSpec) -> int:
    """The axis of an array that fsdp splits; -1 where none is."""
    return next((i for i, name in enumerate(spec) if name == "fsdp"), -1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def gather(x: jax.Array, spec: PartitionSpec, dtype: Any) -> jax.Array:
    """The whole array, in `dtype`, of which each device along fsdp holds a part; its gradient is `scatter`."""
    axis, by = fsdp_axis(spec), rings(_use().mesh).gather
    return _along_tensor(lambda x: _gather_by(by, x, axis), spec)(x.astype(dtype))


gather.defvjp(lambda x, spec, dtype: (gather(x, spec, dtype), None), lambda spec, dtype, _, g: (scatter(g, spec),))


def scatter(g: jax.Array, spec: PartitionSpec) -> jax.Array:
    """The sum of float32 `g` over the devices along fsdp, split over them; it travels in `Use.wire`."""
    axis, by = fsdp_axis(spec), rings(_use().mesh).scatter
    return _along_tensor(lambda g: _scatter_by(by, g, axis), spec)(g.astype(_use().wire)).astype("float32")


def _use() -> Use:
    """The mesh in use: only traced where there is one."""
    now = active()
    assert now is not None
    return now


def _scatter_by(by: Rings, g: jax.Array, axis: int) -> jax.Array:
    """A reduce-scatter over one ring after the other.

    The devices' parts lie along an axis of their own, which is kept the outermost in memory: where it shares the tiles
    of a TPU with rows that do not fill them (20 of ViT-H's 1280 on 64 devices), XLA makes all-reduces of it.
    """
    shape = list(g.shape)
    shape[axis : axis + 1] = [by.devices, shape[axis] // by.devices]
    g = jax.numpy.moveaxis(g.reshape(shape), axis, 0)
    rest = g.shape[1:]
    g = g.reshape(*by.digits, *rest).transpose(*by.to_torus, *range(len(by.digits), len(by.digits) + len(rest)))
    for size, groups in zip(by.sizes, by.groups):
        g = g.reshape(size, -1, *rest)
        g = with_layout_constraint(g, Layout(major_to_minor=tuple(range(g.ndim))))
        g = jax.lax.psum_scatter(g, "fsdp", scatter_dimension=0, axis_index_groups=groups, tiled=False)
    return g.reshape(rest)


def _gather_by(by: Rings, x: jax.Array, axis: int) -> jax.Array:
    """An all-gather over one ring after the other, the last one first: `_scatter_by` backwards."""
    if len(by.sizes) == 1:
        return jax.lax.all_gather(x, "fsdp", axis=axis, tiled=True)
    rest = x.shape
    for groups in reversed(by.groups):
        x = jax.lax.all_gather(x, "fsdp", axis=0, axis_index_groups=groups, tiled=False).reshape(-1, *rest)
    at_torus = [by.digits[i] for i in by.to_torus]
    x = x.reshape(*at_torus, *rest)
    back = sorted(range(len(by.digits)), key=lambda i: by.to_torus[i])
    x = x.transpose(*back, *range(len(back), len(back) + len(rest))).reshape(by.devices, *rest)
    x = jax.numpy.moveaxis(x, 0, axis)
    return x.reshape(*rest[:axis], by.devices * rest[axis], *rest[axis + 1 :])


def _along_tensor(function: Callable[[jax.Array], jax.Array], spec: PartitionSpec) -> Callable[[jax.Array], jax.Array]:
    """`function` on each device's own part along tensor; XLA would bring these together first."""
    if _use().mesh.shape["tensor"] == 1:
        return function
    own = PartitionSpec(*("tensor" if name == "tensor" else None for name in spec))
    mesh = jax.sharding.get_abstract_mesh()
    return jax.shard_map(function, mesh=mesh, in_specs=own, out_specs=own, axis_names={"tensor"}, check_vma=False)
