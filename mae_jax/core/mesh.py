"""Which array is split over what of a (data, fsdp, tensor) mesh (core/devices.py), and what traced code asks of it.

The batch is split over data and fsdp; parameters, gradients and optimizer state over fsdp; the matrices of a
Transformer's blocks also over tensor, as Megatron-LM does (Shoeybi et al., 2019, Section 3). docs/parallelism.md says
when to use which, and what each costs.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mae_jax.core import tree
from mae_jax.core.devices import AXES, BATCH, make_mesh, share
from mae_jax.core.errors import UserError

__all__ = [
    "AXES", "BATCH", "FROZEN_RULES", "RULES", "Use", "active", "batch_sharding", "batch_shards", "device_now",
    "each_alone",
    "format_table", "frozen_shardings", "make_mesh", "replicated", "shard", "share", "spec", "split_heads",
    "state_shardings", "table", "use_mesh", "with_shardings",
]  # fmt: skip

# First match wins. "whole": a copy on every device. "split": along an axis that fsdp divides. The others say
# what tensor splits: "column" the outputs (last axis), "row" the inputs (first axis), "vector" the bias of a "column".
# q, k and v lie side by side in the columns of a fused projection, and equal cuts would mix them: it lies by rows, and
# is dealt by heads when it is used (nets/heads_dense.py).
RULES: tuple[tuple[str, str], ...] = (
    (r"(^|/)(attn|cross)/(qkv|kv|proj)/kernel$", "row"),
    (r"(^|/)(attn|cross)/[qkv]/kernel$", "column"),
    (r"(^|/)mlp/fc1/kernel$", "column"),
    (r"(^|/)mlp/fc1/bias$", "vector"),
    (r"(^|/)mlp/fc2/kernel$", "row"),
    (r"(^|/)kernel$", "split"),
    (r"(^|/)(bias|q_bias|v_bias|scale|gamma|slope|temperature|mix|class_token|mask_token|pos_embed)$", "whole"),
    (r"(^|/)(mean|var)$", "whole"),  # statistics of batch norms
)
# What only networks that are read have besides: a table of codes, and noise of which every sample takes a piece.
FROZEN_RULES = (*RULES, (r"(^|/)centroids$", "split"), (r"(^|/)patterns$", "whole"))


def batch_shards(mesh: Mesh) -> int:
    """In how many parts a batch is cut."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def replicated(mesh: Mesh) -> NamedSharding:
    """A copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Leading axis split over data and fsdp; the devices along tensor hold the same."""
    return NamedSharding(mesh, PartitionSpec(BATCH))


def state_shardings(state: Any, mesh: Mesh, rules: Sequence[tuple[str, str]] = RULES) -> Any:
    """The sharding of every array of a train state.

    Optimizer moments and averages repeat the parameters' paths at the end of theirs, so the same rules serve them.
    Scalars (step, counters) are whole. Every other array must be covered by a rule.
    """
    flat = tree.flatten(state)
    rule = tree.match(rules, [path for path, leaf in flat.items() if leaf.ndim > 0], "sharding rule", "Method.rules")
    sizes = mesh.shape["fsdp"], mesh.shape["tensor"]
    return tree.map_with_path(
        lambda path, leaf: NamedSharding(mesh, spec(leaf.shape, rule.get(path, "whole"), *sizes)), state
    )


def frozen_shardings(shapes: Any, mesh: Mesh, own: Sequence[tuple[str, str]] = ()) -> Any:
    """`shapes` with the shardings of networks that are only read, by FROZEN_RULES and a method's `own`."""
    return with_shardings(shapes, state_shardings(shapes, mesh, (*FROZEN_RULES, *own)))


def with_shardings(shapes: Any, shardings: Any) -> Any:
    """ShapeDtypeStructs like `shapes` that carry `shardings`."""
    return jax.tree.map(lambda s, lies: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=lies), shapes, shardings)


def spec(shape: tuple[int, ...], rule: str, fsdp: int, tensor: int = 1) -> PartitionSpec:
    """The partition of one array.

    tensor takes the axis that the rule names, where it divides it; fsdp then the longest of the other axes that it
    divides, the last one only if it must: an array is tiled along its last axis, and parts of tiles are slow (a TPU
    makes an all-reduce of their reduce-scatter). What neither divides, and every array under "whole", is in one piece.
    """
    if rule not in ("whole", "split", "column", "row", "vector"):
        raise UserError(f"unknown sharding rule '{rule}'; expected whole, split, column, row or vector.")
    axes: list[str | None] = [None] * len(shape)
    at = {"column": len(shape) - 1, "vector": len(shape) - 1, "row": 0}.get(rule)
    if at is not None and tensor > 1 and shape[at] % tensor == 0:
        axes[at] = "tensor"
    free = [i for i, n in enumerate(shape) if axes[i] is None and fsdp > 1 and n % fsdp == 0 and n >= fsdp]
    if rule in ("split", "column", "row") and free:
        axes[max(free, key=lambda i: (i < len(shape) - 1, shape[i]))] = "fsdp"
    while axes and axes[-1] is None:
        axes.pop()
    return PartitionSpec(*axes)


class Row(NamedTuple):
    """One array of a table of shardings: `spec` as "fsdp, -" or "whole", `bytes` on each device."""

    path: str
    shape: tuple[int, ...]
    dtype: str
    spec: str
    bytes: int


def table(shapes: Any, mesh: Mesh) -> list[Row]:
    """How every array of a tree lies: of `Run.shapes`, `Run.frozen_shapes` or a state, whose mesh it is."""
    rows = []
    for path, leaf in tree.flatten(shapes).items():
        names = [*leaf.sharding.spec, *[None] * (leaf.ndim - len(leaf.sharding.spec))]
        part = NamedSharding(mesh, leaf.sharding.spec).shard_shape(leaf.shape)
        said = ", ".join("-" if name is None else str(name) for name in names) if any(names) else "whole"
        rows.append(Row(path, tuple(leaf.shape), str(leaf.dtype), said, math.prod(part) * leaf.dtype.itemsize))
    return rows


def format_table(rows: Sequence[Row]) -> str:
    """A table of shardings as text; the layers of a stack, where they lie alike, as one line ("blocks/0-11/")."""
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault((re.sub(r"(^|/)\d+(?=/)", r"\1#", row.path), *row[1:4]), []).append(row)
    lines = [("array", "shape", "dtype", "split over", "each", "bytes per device")]
    for (_, shape, dtype, said), same in groups.items():
        path, last = same[0].path, same[-1].path
        for a, b in zip(same[0].path.split("/"), last.split("/")):
            path = path.replace(f"/{a}/", f"/{a}-{b}/", 1) if a != b else path
        size = "x".join(map(str, shape)) or "scalar"
        lines.append((path, size, dtype, said, f"{len(same)} x", f"{sum(row.bytes for row in same):,}"))
    lines.append(("all", "", "", "", f"{len(rows)} x", f"{sum(row.bytes for row in rows):,}"))
    widths = [max(map(len, column)) for column in zip(*lines)]
    right = (False, False, False, False, True, True)
    pad = lambda line: [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, widths, right)]
    return "\n".join("  ".join(pad(line)).rstrip() for line in lines)


@dataclasses.dataclass(frozen=True)
class Use:
    """A mesh while something is traced for it.

    Attributes:
      apart: whether each part of the batch is traced by itself (train/apart.py): data and fsdp are then out of sight,
        and only tensor is left to XLA.
      wire: the precision in which gradients then travel.
    """

    mesh: Mesh
    apart: bool = False
    wire: Any = "float32"

    def constrain(self, x: jax.Array, *axes: str | None, rows: bool = True) -> jax.Array:
        """`x` laid out so: its leading axis by batch (`rows`), then `axes`; whole along what is not named."""
        if not self.apart:
            return jax.lax.with_sharding_constraint(
                x, NamedSharding(self.mesh, PartitionSpec(BATCH if rows else None, *axes))
            )
        if self.mesh.shape["tensor"] == 1:
            return x
        mesh = jax.sharding.get_abstract_mesh()
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(None, *axes)))


def shard(x: jax.Array) -> jax.Array:
    """Hint at a block's border: this activation is split by batch, whole otherwise. Nothing where no mesh is in use."""
    now = active()
    return x if now is None or now.mesh.size == 1 else now.constrain(x)


def split_heads(heads: int) -> bool:
    """Whether attention heads are dealt over tensor: where it is in use and divides them; else they stay together."""
    now = active()
    return now is not None and now.mesh.shape["tensor"] > 1 and heads % now.mesh.shape["tensor"] == 0


def each_alone(function: Callable[..., Any], x: jax.Array, *whole: jax.Array, kernel: bool = False) -> Any:
    """function(x, *whole), which treats every row of the batch x by itself, run by each device on its own rows.

    For what XLA does not split by itself: `lax.top_k` of a split batch is an all-gather on CPU. `kernel`: of Pallas,
    which does not say over which axes its results vary, so that it cannot be checked.
    """
    now = active()
    if now is None or now.mesh.size == 1 or now.apart or len(x) % batch_shards(now.mesh):
        return function(x, *whole)
    rows = PartitionSpec(BATCH)
    specs = (rows, *(PartitionSpec() for _ in whole))
    return jax.shard_map(function, mesh=now.mesh, in_specs=specs, out_specs=rows, check_vma=not kernel)(x, *whole)


_ACTIVE: list[Use] = []


class use_mesh:
    """Makes `shard` and its like see a mesh while a step is traced."""

    def __init__(self, mesh: Mesh, *, apart: bool = False, wire: Any = "float32"):
        self.use = Use(mesh, apart, wire)

    def __enter__(self) -> Mesh:
        _ACTIVE.append(self.use)
        return self.use.mesh

    def __exit__(self, *_: object) -> None:
        _ACTIVE.pop()


def active() -> Use | None:
    """The mesh in use, if any."""
    return _ACTIVE[-1] if _ACTIVE else None


def device_now() -> Any:
    """A device of those that what is being traced will run on; the first there is where no mesh is in use."""
    now = active()
    return jax.devices()[0] if now is None else now.mesh.devices.flat[0]
