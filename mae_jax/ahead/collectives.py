"""Every collective of a compiled program: kind, how often, bytes, over which mesh axis, caused by what."""

import dataclasses
import itertools
import math
import re
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from mae_jax.ahead.hlo import Instruction, Program, executed

KINDS = (
    "all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast",
    "ragged-all-to-all",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective of the program.

    Attributes:
      kind: as in KINDS.
      count: executions per run of the program.
      bytes: per device and run, over all executions, of the whole array: what is reduced, what an all-gather makes,
        what a reduce-scatter takes. A tuple's arrays are summed.
      axis: mesh axes over which it goes, as "fsdp" or "data+fsdp"; "" within no group, "?" where no axes fit.
      source: the operation of the traced program from which it comes; "" where XLA made it up.
      dtype: of what travels, as "bf16" or "bf16+f32".
      members: its first group, as positions in the mesh's order; the others are as large.
      known: whether every loop around it says how often it runs; where not, the loop is counted once.
    """

    kind: str
    count: int
    bytes: int
    axis: str
    source: str
    dtype: str
    members: tuple[int, ...]
    known: bool = True

    def __iter__(self) -> Iterator[Any]:
        """So that `for kind, count, size, axis, source in collectives(compiled)` works."""
        return iter((self.kind, self.count, self.bytes, self.axis, self.source))

    @property
    def group(self) -> int:
        """Devices of each group."""
        return len(self.members)

    @property
    def wire(self) -> float:
        """Bytes that each device sends, by the ring algorithms."""
        share = (self.group - 1) / self.group
        return self.bytes * {"all-reduce": 2 * share, "collective-permute": 1.0}.get(self.kind, share)


def collectives(compiled: Any, mesh: Mesh | None = None) -> list[Collective]:
    """The collectives of a compiled function (`jit(f).lower(...).compile()`), largest first.

    Args:
      mesh: whose axes are named; None: that of the function's arguments.
    """
    mesh = mesh or mesh_of(compiled)
    return from_text(compiled.as_text(), {} if mesh is None else dict(mesh.shape))


def from_text(text: str, axes: dict[str, int]) -> list[Collective]:
    """The same from the program's text and the mesh's {axis: size}, in the order of its devices."""
    return from_program(Program(text), axes)


def from_program(program: Program, axes: dict[str, int]) -> list[Collective]:
    """The same from the parsed text."""
    seen: set[tuple[Any, ...]] = set()
    found = []
    for where, holder, i, times, known, fused in executed(program):
        kind = i.opcode.removesuffix("-start")
        if kind not in KINDS or not times:
            continue
        one = _collective(kind, i, times, known, axes)
        # An asynchronous collective that is fused with computation stands in the start, every piece and the end. Its
        # chain tells it from others: what a shard_map says itself has one channel for all.
        chain = re.search(r'chain_id="(\d+)"', i.rest)
        key = (where, chain[1] if chain else i.attribute("channel_id"), kind, one.bytes, one.axis)
        if fused and key in seen:
            continue
        seen.add(key)
        if kind == "all-reduce" and fused and _scattered(program.instructions(holder), i):
            one = dataclasses.replace(one, kind="reduce-scatter")
        found.append(one)
    return sorted(found, key=lambda c: -c.bytes)


def totals(found: Iterable[Collective]) -> dict[tuple[str, str], tuple[int, int]]:
    """{(kind, axis): (count, bytes)}, largest first."""
    sums: dict[tuple[str, str], tuple[int, int]] = {}
    for c in found:
        count, size = sums.get((c.kind, c.axis), (0, 0))
        sums[c.kind, c.axis] = (count + c.count, size + c.bytes)
    return dict(sorted(sums.items(), key=lambda item: -item[1][1]))


def by_masking(found: Iterable[Collective]) -> list[Collective]:
    """Those that choosing, taking or restoring tokens caused (the scope of masking/select.py and tokens/gather.py)."""
    return [c for c in found if "masking" in re.split(r"[/()]", c.source)]


def mesh_of(compiled: Any) -> Mesh | None:
    """The mesh on which the arguments of a compiled function lie; None where they lie on none."""
    shardings = jax.tree.leaves(compiled.input_shardings)
    meshes = [s.mesh for s in shardings if isinstance(s, NamedSharding) and isinstance(s.mesh, Mesh)]
    return meshes[0] if meshes else None


def _collective(kind: str, i: Instruction, times: int, known: bool, axes: dict[str, int]) -> Collective:
    groups = pairs(i.rest) if kind == "collective-permute" else replica_groups(i.rest, math.prod(axes.values()))
    members = max(groups, key=len, default=(0,))
    shapes = [(dtype, size) for dtype, size in i.shapes if size]
    if i.opcode.endswith("-start"):
        # (operands, results, contexts...), operands and results as tuples or not; an all-reduce has its results alone.
        arrays = [s for s in shapes if not (s[0] in ("u32", "s32") and s[1] == 4)] or shapes
        if len(arrays) > len(i.operands):
            shapes = arrays[len(i.operands) :]
    size = sum(n for _, n in shapes)
    if kind == "reduce-scatter" and i.opcode.startswith("reduce-scatter"):
        size *= len(members)  # the result is a part
    dtype = "+".join(dict.fromkeys(dtype for dtype, _ in shapes))
    return Collective(kind, times, size * times, axis_of(groups, axes), i.source, dtype, members, known)


def _scattered(fusion: dict[str, Instruction], i: Instruction) -> bool:
    """Whether a fusion keeps only this device's part of its all-reduce: how a TPU says reduce-scatter."""
    parts = any(j.opcode == "dynamic-slice" and i.name in j.operands for j in fusion.values())
    return parts and any(j.opcode == "partition-id" for j in fusion.values())


# Groups ----------------------------------------------------------------------------------------------------------


def replica_groups(text: str, devices: int) -> list[tuple[int, ...]]:
    """The groups of an instruction's attributes, in any of the ways in which HLO writes them; {}: one of all.

    {{0,1},{2,3}}; [2,8]<=[8,2]T(1,0); mesh['a'=2,'b'=8] {'b'}, an axis or a part of it as 'b':(2)4.
    """
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\](.*?)\{([^}]*)\}", text):
        return _mesh_groups(found[1], found[2], found[3])
    if found := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text):
        ids = np.arange(math.prod(_ints(found[2]))).reshape(_ints(found[2]))
        ids = ids.transpose(_ints(found[3])) if found[3] else ids
        return [tuple(map(int, row)) for row in ids.reshape(_ints(found[1]))]
    if found := re.search(r"replica_groups=\{(\{[\d,]*\}(?:,\{[\d,]*\})*)\}", text):
        return [_ints(group) for group in re.findall(r"\{([\d,]*)\}", found[1])]
    return [tuple(range(devices))]


def _mesh_groups(mesh: str, order: str, over: str) -> list[tuple[int, ...]]:
    sizes = {name: int(n) for name, n in re.findall(r"'([^']+)'=(\d+)", mesh)}
    ids = np.arange(math.prod(sizes.values()))
    if found := re.search(r"device_ids=\(?\[([\d,]+)\](?:T\(([\d,]+)\))?", order):
        shape = _ints(found[1])
        ids = ids.reshape(shape).transpose(_ints(found[2])).reshape(-1) if found[2] else ids
    elif found := re.search(r"device_ids=\(([\d,]+)\)", order):
        ids = np.array(_ints(found[1]))
    parts: list[tuple[str, int]] = []  # the axes, each cut where a part of it is named
    wanted: list[int] = []
    named = {name: (pre, size) for name, pre, size in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", over)}
    for name, n in sizes.items():
        if name not in named:
            parts.append((name, n))
            continue
        pre, size = named[name]
        cut = (int(pre), int(size), n // int(pre) // int(size)) if size else (1, n, 1)
        wanted.append(len(parts) + 1)
        parts += [(name, k) for k in cut]
    grid = ids.reshape([n for _, n in parts])
    rest = [k for k in range(len(parts)) if k not in wanted]
    rows = grid.transpose(*rest, *wanted).reshape(-1, math.prod(parts[k][1] for k in wanted))
    return [tuple(map(int, row)) for row in rows]


def pairs(text: str) -> list[tuple[int, ...]]:
    """Who a collective-permute connects: the groups of devices that send to each other."""
    found = re.search(r"source_target_pairs=\{(.*?)\}\}", text)
    group: dict[int, set[int]] = {}
    for a, b in re.findall(r"\{(\d+),(\d+)", found[0] if found else ""):
        merged = group.get(int(a), {int(a)}) | group.get(int(b), {int(b)})
        group |= dict.fromkeys(merged, merged)
    return sorted({tuple(sorted(g)) for g in group.values()})


def axis_of(groups: Iterable[tuple[int, ...]], axes: dict[str, int]) -> str:
    """The mesh axes along which exactly these groups run, joined by "+"; "" for single devices, "?" for none.

    Groups that are part of one along an axis are named after it where nothing smaller holds them: a permutation
    between neighbours, one of a shorter ring.
    """
    sets = {frozenset(g) for g in groups if len(g) > 1}
    if not sets:
        return ""
    long = [name for name, n in axes.items() if n > 1]
    ids = np.arange(math.prod(axes.values())).reshape(tuple(axes.values()))
    within = ""
    for k in range(1, len(long) + 1):
        for names in itertools.combinations(long, k):
            inside = [i for i, name in enumerate(axes) if name in names]
            rows = np.moveaxis(ids, inside, range(-len(inside), 0)).reshape(-1, math.prod(axes[n] for n in names))
            along = {frozenset(map(int, row)) for row in rows}
            if sets == along:
                return "+".join(names)
            if not within and all(any(g <= row for row in along) for g in sets):
                within = "+".join(names)
    return within or "?"


def _ints(text: str) -> tuple[int, ...]:
    return tuple(int(n) for n in text.split(",") if n)
