"""Reads the traces that jax's profiler writes (XSpace protocol buffers), without TensorFlow.

Events come from `jax.profiler.ProfileData`. Which layer an operation came from is not among them: it lies in the HLO
module that the profiler puts beside them, of which the few fields that matter are read here by number
(tsl/profiler/protobuf/xplane.proto, xla/service/hlo.proto, xla/xla_data.proto).
"""

import dataclasses
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where an HLO instruction came from: the path of its scopes in the traced program, and a line of source."""

    op_name: str = ""
    source: str = ""


@dataclasses.dataclass
class Op:
    """One HLO instruction over a whole trace.

    Attributes:
      program: the HLO module it belongs to, as "jit_step".
      name: of the instruction, as "multiply_fusion.3"; of the kernel where no instruction is known.
      ns: nanoseconds spent in it and in nothing inside it, summed over devices and calls.
    """

    program: str
    name: str
    origin: Origin
    ns: float = 0.0
    calls: int = 0


def fields(data: memoryview) -> Iterator[tuple[int, Any]]:
    """(number, value) of each field of an encoded message: int for varints, memoryview for all else.

    Raises: ValueError: `data` is no protocol buffer message.
    """
    at, end = 0, len(data)
    try:
        while at < end:
            tag, at = _varint(data, at)
            number, kind = tag >> 3, tag & 7
            if kind == 0:
                value, at = _varint(data, at)
                yield number, value
                continue
            if kind == 2:
                size, at = _varint(data, at)
            else:
                size = {1: 8, 5: 4}.get(kind, end)
            if at + size > end:
                raise ValueError(f"field {number} of a message is broken (wire type {kind}).")
            yield number, data[at : at + size]
            at += size
    except IndexError:
        raise ValueError("a message ends in the middle of a number.") from None


def _varint(data, at):  # without annotations: tests check those at every call, and this one is called a million times
    byte = data[at]
    at += 1
    if byte < 128:
        return byte, at
    value, shift = byte & 127, 7
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7


def every(data: memoryview, number: int) -> list[Any]:
    """All values of one field."""
    return [value for n, value in fields(data) if n == number]


def first(data: memoryview, number: int, default: Any = b"") -> Any:
    """The first value of one field; a message's is a memoryview."""
    return next((value for n, value in fields(data) if n == number), default)


def text(data: Any) -> str:
    return bytes(data).decode(errors="replace")


def origins(data: bytes, programs: Collection[str]) -> dict[str, dict[str, Origin]]:
    """{program: {instruction: origin}} of these HLO modules of an XSpace, which holds all that the process compiled."""
    found: dict[str, dict[str, Origin]] = {}
    for plane in every(memoryview(data), 1):
        if text(first(plane, 2)) != "/host:metadata":
            continue
        for entry in every(plane, 4):  # a map: key 1, value 2 = XEventMetadata
            for stat in every(first(entry, 2), 5):
                if (hlo := first(stat, 6)) and (module := first(hlo, 1)) and text(first(module, 1)) in programs:
                    found.setdefault(text(first(module, 1)), {}).update(_instructions(module))
    return found


def _instructions(module: memoryview) -> dict[str, Origin]:
    source = _Sources(first(module, 17))
    found = {}
    for computation in every(module, 3):
        for instruction in every(computation, 2):
            if metadata := first(instruction, 7):
                op_name = text(first(metadata, 2))
                if file := text(first(metadata, 3)):  # written out in older versions, a frame in newer ones
                    line = f"{_short(file)}:{first(metadata, 4, 0)}"
                else:
                    line = source.of(first(metadata, 15, 0))
                found[text(first(instruction, 1))] = Origin(op_name, line)
    return found


class _Sources:
    """Lines of source of a module's stack frames; ids count from 1."""

    def __init__(self, index: memoryview | bytes):
        index = memoryview(index)
        self._files = [text(name) for name in every(index, 1)]
        self._places = [dict(fields(place)) for place in every(index, 3)]  # 1 file, 2 function, 3 line
        self._frames = [dict(fields(frame)) for frame in every(index, 4)]  # 1 place, 2 frame of the caller
        self._known: dict[int, str] = {0: ""}

    def of(self, frame: int) -> str:
        """The innermost line of the frame and its callers that is ours; else the innermost of all; "" for none."""
        if frame in self._known:
            return self._known[frame]
        lines: list[tuple[str, int]] = []
        at = frame
        while 0 < at <= len(self._frames) and len(lines) < 100:
            place = self._places[self._frames[at - 1].get(1, 0) - 1]
            lines.append((self._files[place.get(1, 0) - 1], place.get(3, 0)))
            at = self._frames[at - 1].get(2, 0)
        ours = [line for line in lines if "mae_jax" in line[0]] or lines
        self._known[frame] = f"{_short(ours[0][0])}:{ours[0][1]}" if ours else ""
        return self._known[frame]


def _short(file: str) -> str:
    """A path from its package on."""
    parts = Path(file).parts
    start = max((i for i, part in enumerate(parts) if part in ("mae_jax", "site-packages")), default=len(parts) - 2)
    return "/".join(parts[start + (parts[start : start + 1] == ("site-packages",)) :])


def read_ops(path: Path) -> list[Op]:
    """Every operation that ran on this process's devices in a trace (an .xplane.pb), longest first.

    On a CPU they are events of the host's threads; on a GPU those of the streams; on a TPU those of the line
    "XLA Ops". An operation that holds others (a loop) counts without them.
    """
    from jax.profiler import ProfileData

    data = path.read_bytes()
    times: list[tuple[tuple[str, str, str], float, int]] = []
    for plane in ProfileData.from_serialized_xspace(data).planes:
        device = plane.name.startswith("/device:") and "CUSTOM" not in plane.name
        for line in plane.lines:
            if device and not (line.name == "XLA Ops" or line.name.startswith("Stream")):
                continue
            if not device and plane.name != "/host:CPU":
                continue
            times += _self_times(line, whole=device)
    known = origins(data, {program for (program, _, _), _, _ in times})
    ops: dict[tuple[str, str], Op] = {}
    for (program, name, op_name), ns, calls in times:
        if (program, name) not in ops:
            ops[program, name] = Op(program, name, known.get(program, {}).get(name) or Origin(op_name))
        ops[program, name].ns += ns
        ops[program, name].calls += calls
    return sorted(ops.values(), key=lambda op: -op.ns)


def _self_times(line: Any, whole: bool) -> Iterator[tuple[tuple[str, str, str], float, int]]:
    """((program, instruction, scopes), ns, calls) of one thread or stream; `whole`: events without an instruction
    count too, by their own name."""
    spent: dict[tuple[str, str, str], list[float]] = {}
    open_: list[tuple[float, tuple[str, str, str]]] = []  # (end, key) of the events that hold the current one
    events = ((event, dict(event.stats)) for event in line.events)
    kept = [(e.start_ns, e.duration_ns, _key(e.name, s)) for e, s in events if whole or "hlo_op" in s]
    for start, ns, key in sorted(kept, key=lambda event: (event[0], -event[1])):
        while open_ and open_[-1][0] <= start:
            open_.pop()
        if open_:
            spent[open_[-1][1]][0] -= min(ns, open_[-1][0] - start)
        total = spent.setdefault(key, [0.0, 0])
        total[0] += ns
        total[1] += 1
        open_.append((start + ns, key))
    for key, (ns, calls) in spent.items():
        yield key, ns, int(calls)


def _key(name: str, stats: dict[str, Any]) -> tuple[str, str, str]:
    if "hlo_op" not in stats and (hlo := re.match(r"%?([\w.\-]+) = ", name)):  # a TPU names events by their HLO text
        name = hlo[1]
    op = str(stats.get("hlo_op", name))
    if op.startswith("command_buffer"):  # a CUDA graph of many kernels, each named after its instruction: fusion_12
        op = re.sub(r"_(\d+)$", r".\1", name)
    return str(stats.get("hlo_module", "")), op, str(stats.get("tf_op", ""))
