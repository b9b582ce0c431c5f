"""The text of a compiled program (HLO): its computations, instructions and how often loops run."""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

BITS = {"pred": 8, "s2": 2, "u2": 2, "s4": 4, "u4": 4, "token": 0, "opaque": 0}  # others end in their number of bits
_SHAPE = re.compile(r"([a-z]\w*)\[([\d,<=]*)\](\{[^{}]*\})?")
_HEADER = re.compile(r"^(ENTRY )?%?([^\s(]+) \(.*\{\s*$")
_NAMED = re.compile(r"%([\w.\-]+)")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
      shapes: (dtype, number of bytes) of each array of the result; a tuple has several.
      near: of each of these, whether it lies in the chip's own fast memory (VMEM) instead of HBM.
      rest: everything after the operands.
    """

    name: str
    opcode: str
    shapes: tuple[tuple[str, int], ...]
    near: tuple[bool, ...]
    operands: tuple[str, ...]
    literal: str  # what stands in the brackets: a constant's value
    rest: str
    root: bool

    @property
    def far(self) -> int:
        """Bytes of the result in HBM."""
        return sum(size for (_, size), near in zip(self.shapes, self.near) if not near)

    def attribute(self, name: str) -> str | None:
        """The computation, number or word that an attribute names: `attribute("body")`."""
        found = re.search(rf"[ ,{{]{name}=%?([\w.\-\"]+)", self.rest)
        return found[1] if found else None

    @property
    def source(self) -> str:
        """The operation of the traced program from which this one comes (`op_name`); "" where XLA made it up."""
        found = re.search(r'op_name="([^"]*)"', self.rest)
        return found[1] if found else ""

    @property
    def called(self) -> tuple[str, ...]:
        """The computations that run where this instruction does, but for loops."""
        names = [self.attribute("calls"), self.attribute("to_apply") if self.opcode == "call" else None]
        names += [self.attribute(key) for key in ("true_computation", "false_computation")]
        branches = re.search(r"branch_computations=\{([^}]*)\}", self.rest)
        names += _NAMED.findall(branches[1]) if branches else []
        return tuple(name for name in names if name)


class Program:
    """The computations of a module, parsed when they are first asked for."""

    def __init__(self, text: str):
        self.entry = ""
        self._lines: dict[str, list[str]] = {}
        self._parsed: dict[str, dict[str, Instruction]] = {}
        lines: list[str] = []
        for line in text.splitlines():
            if not line.startswith((" ", "}")) and (header := _HEADER.match(line)):
                lines = self._lines.setdefault(header[2], [])
                self.entry = header[2] if header[1] else self.entry
            elif line.startswith("  "):
                lines.append(line)

    def instructions(self, computation: str) -> dict[str, Instruction]:
        """{name: instruction} of a computation."""
        if computation not in self._parsed:
            found = (parse(line) for line in self._lines.get(computation, ()))
            self._parsed[computation] = {i.name: i for i in found if i is not None}
        return self._parsed[computation]

    def trips(self, loop: Instruction, outer: str) -> int | None:
        """How often the body of a `while` runs: as XLA notes it, or by its counter; None where it is not known.

        Args:
          outer: the computation that holds the loop: its counter starts there.
        """
        noted = re.search(r'"?known_trip_count"?\s*[:=]\s*\{\s*"?n"?\s*[:=]\s*"?(\d+)', loop.rest)
        if noted:
            return int(noted[1])
        condition, body = (self.instructions(loop.attribute(key) or "") for key in ("condition", "body"))
        start = self._start(self.instructions(outer), loop.operands[0]) if loop.operands else ()
        compare = self._compare(condition)
        if compare is None or not start:
            return None
        direction, counter, bound = compare
        if direction not in ("LT", "LE", "GT", "GE"):
            return None
        first, last = _constant(start.get(counter)), bound
        if isinstance(bound, _Element):
            last = _constant(start.get(bound.index))
        step = self._step(body, counter)
        if first is None or not isinstance(last, int) or not step:
            return None
        last += {"LE": 1, "GE": -1}.get(direction, 0)
        return max(0, math.ceil((last - first) / step))

    def _compare(self, condition: dict[str, Instruction]) -> "tuple[str, int, int | _Element | None] | None":
        """(direction, index of the counter in the loop's state, bound) of a loop's condition."""
        root = next((i for i in condition.values() if i.root), None)
        values: dict[str, Instruction] = dict(condition)
        if root is not None and root.opcode in ("fusion", "call"):  # the comparison alone in a computation of its own
            inner = self.instructions(root.called[0])
            for i in inner.values():
                number = int(i.literal) if i.opcode == "parameter" else None
                values[i.name] = i if number is None else condition[root.operands[number]]
            root = next((i for i in inner.values() if i.root), None)
        if root is None or root.opcode != "compare":
            return None
        direction = root.attribute("direction") or ""
        left, right = (_resolve(values, name) for name in root.operands)
        if left is None or left.opcode != "get-tuple-element":
            left, right = right, left
            direction = {"GT": "LT", "GE": "LE", "LT": "GT", "LE": "GE"}.get(direction, direction)
        if left is None or left.opcode != "get-tuple-element":
            return None
        bound = _constant(right)
        if bound is None and right is not None and right.opcode == "get-tuple-element":
            return direction, int(left.attribute("index") or 0), _Element(int(right.attribute("index") or 0))
        return direction, int(left.attribute("index") or 0), bound

    def _start(self, outer: dict[str, Instruction], name: str) -> dict[int, Instruction | None]:
        """{index: instruction} of the tuple with which a loop starts."""
        made = _resolve(outer, name)
        if made is None or made.opcode != "tuple":
            return {}
        return {k: _resolve(outer, operand) for k, operand in enumerate(made.operands)}

    def _step(self, body: dict[str, Instruction], counter: int) -> int | None:
        """By how much the body moves the loop's counter."""
        root = next((i for i in body.values() if i.root), None)
        if root is None or root.opcode != "tuple" or counter >= len(root.operands):
            return None
        values, moved = dict(body), _resolve(body, root.operands[counter])
        if moved is not None and moved.opcode == "fusion":
            inner = self.instructions(moved.called[0])
            for i in inner.values():
                values[i.name] = body[moved.operands[int(i.literal)]] if i.opcode == "parameter" else i
            moved = next((i for i in inner.values() if i.root), None)
        if moved is None or moved.opcode != "add":
            return None
        steps = [_constant(_resolve(values, name)) for name in moved.operands]
        return next((s for s in steps if s is not None), None)


@dataclasses.dataclass(frozen=True)
class _Element:
    """An element of a loop's state that bounds its counter."""

    index: int


def parse(line: str) -> Instruction | None:
    """A line `[ROOT] %name = shape opcode(operands), attributes`."""
    name, equals, rest = line.strip().partition(" = ")
    if not equals:
        return None
    root = name.startswith("ROOT ")
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.find(" ")
    shape, rest = rest[:end], rest[end:].lstrip()
    opcode, _, _ = rest.partition("(")
    close = _closing(rest, len(opcode))
    inside = rest[len(opcode) + 1 : close]
    arrays = _SHAPE.findall(shape)
    return Instruction(
        name.removeprefix("ROOT ").lstrip("%"),
        opcode,
        tuple((dtype, array_bytes(dtype, dims)) for dtype, dims, _ in arrays),
        tuple("S(1)" in layout for _, _, layout in arrays),
        tuple(_NAMED.findall(inside)),
        inside,
        rest[close + 1 :],
        root,
    )


@functools.cache
def array_bytes(dtype: str, dims: str) -> int:
    """Bytes of an array, `dims` as "8,128"."""
    count = math.prod(int(n.lstrip("<=")) for n in dims.split(",") if n)
    digits = re.search(r"^[a-z]+(\d+)", dtype)
    bits = BITS.get(dtype, int(digits[1]) if digits else 0)
    return math.ceil(count * bits / 8)


class Executed(NamedTuple):
    """An instruction as it runs.

    Attributes:
      where: the loops and calls around it; a fusion's inside counts as part of what calls it.
      holder: the computation in which it stands.
      times: how often it runs. known: whether every loop around it says how often it does; else that one counts once.
    """

    where: str
    holder: str
    instruction: Instruction
    times: int
    known: bool
    fused: bool


def executed(program: Program) -> Iterator[Executed]:
    """Every instruction of the program as it runs, into loops, calls and all branches of conditionals."""
    yield from _executed(program, program.entry, program.entry, 1, True, False)


def _executed(program: Program, name: str, where: str, times: int, known: bool, fused: bool) -> Iterator[Executed]:
    for i in program.instructions(name).values():
        yield Executed(where, name, i, times, known, fused)
        if i.opcode == "while":
            trips, body = program.trips(i, name), i.attribute("body") or ""
            often = times * (1 if trips is None else trips)
            yield from _executed(program, body, f"{where}/{body}", often, known and trips is not None, fused)
        elif i.opcode == "fusion":
            yield from _executed(program, i.called[0], where, times, known, True)
        elif i.opcode in ("call", "conditional", "async-start"):
            for k, inner in enumerate(i.called):
                yield from _executed(program, inner, f"{where}/{i.name}.{k}", times, known, fused)


def _resolve(values: dict[str, Instruction], name: str) -> Instruction | None:
    """The instruction behind copies and bitcasts."""
    found = values.get(name)
    while found is not None and found.opcode in ("copy", "bitcast", "convert") and found.operands:
        found = values.get(found.operands[0])
    return found


def _constant(instruction: Instruction | None) -> int | None:
    if instruction is None or instruction.opcode != "constant":
        return None
    return int(instruction.literal) if re.fullmatch(r"-?\d+", instruction.literal) else None


def _closing(text: str, start: int) -> int:
    """Index of the bracket that closes the one at `start`."""
    depth = 0
    for k in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[k], 0)
        if depth == 0:
            return k
    return len(text)
