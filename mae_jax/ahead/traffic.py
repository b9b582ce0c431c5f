"""How many bytes a compiled program moves between a chip's cores and its memory, counted over every loop's turns."""

from mae_jax.ahead.collectives import KINDS
from mae_jax.ahead.hlo import Instruction, Program, executed

FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "call", "conditional", "after-all",
    "async-start", "async-update", "async-done", "partition-id", "replica-id", "copy-done", "opt-barrier",
    "add-dependency", "domain",
}  # fmt: skip
NAMES_ONLY = {'"AllocateBuffer"', '"ConcatBitcast"', '"AssumeGatherIndicesInBound"'}  # of custom calls of TPUs
WINDOWS = {"dynamic-slice", "slice", "gather"}  # read as much as they make of their first operand


def hbm_bytes(program: Program) -> int:
    """Bytes read and written in HBM by one run of the program on one device.

    Every instruction reads its operands and writes its result; what is fused stays in the core; a slice moves what it
    cuts, an update in place what it puts in; what lies in VMEM costs nothing.
    """
    total = 0
    for e in executed(program):
        if not e.fused and e.instruction.opcode not in FREE:
            total += e.times * _moved(program, program.instructions(e.holder), e.instruction)
    return total


def _moved(program: Program, around: dict[str, Instruction], i: Instruction) -> int:
    read = [around[name].far if name in around else 0 for name in i.operands]
    if i.opcode == "fusion":
        return _fusion(program.instructions(i.called[0]), i, read)
    if i.opcode == "custom-call":  # a kernel may see one array through several windows
        read = [around[name].far if name in around else 0 for name in dict.fromkeys(i.operands)]
    if i.opcode in WINDOWS:
        return min(i.shapes[0][1], read[0]) + sum(read[1:]) + i.far
    if i.opcode == "dynamic-update-slice":
        return 2 * _size(around, i.operands[1]) if not i.near[0] else 0
    if i.opcode == "custom-call" and i.attribute("custom_call_target") in NAMES_ONLY:
        return 0
    if i.opcode == "slice-start":  # ((from), to, context)
        return i.shapes[1][1] * (int(read[0] > 0) + int(not i.near[1]))
    if i.opcode == "copy-start":  # (to, from, context)
        return sum(read) + (0 if i.near[0] else i.shapes[0][1])
    if i.opcode.endswith("-done"):
        return 0
    if i.opcode.endswith("-start"):  # the result's tuple repeats the operands
        return 2 * sum(read)
    return sum(read) + i.far


def _fusion(inside: dict[str, Instruction], i: Instruction, read: list[int]) -> int:
    """Bytes of a fusion, whose operands `read` are used as a whole unless only slices of them are."""
    users: dict[str, list[Instruction]] = {}
    for j in inside.values():
        for name in set(j.operands):
            users.setdefault(name, []).append(j)
    total = 0
    for j in inside.values():
        if j.opcode == "parameter" and int(j.literal) < len(read) and read[int(j.literal)]:
            total += min(read[int(j.literal)], sum(_used(users, j, user) for user in users.get(j.name, ())))
    root = next(j for j in inside.values() if j.root)
    parts = [inside[name] for name in root.operands] if root.opcode == "tuple" else [root]
    for k, part in enumerate(parts):
        near = i.near[k] if k < len(i.near) else True
        total += 0 if near else _written(inside, part)
    return total


def _used(users: dict[str, list[Instruction]], value: Instruction, user: Instruction) -> int:
    """Bytes of `value` that `user` reads."""
    whole = value.shapes[0][1] if value.shapes else 0
    if user.opcode in ("bitcast", "get-tuple-element"):
        return sum(_used(users, user, next_) for next_ in users.get(user.name, ())) if not user.root else 0
    if user.opcode in WINDOWS and user.operands[0] == value.name:
        return user.shapes[0][1]
    if user.opcode == "dynamic-update-slice" and user.operands[0] == value.name:
        return 0
    if user.opcode == "tuple" or user.opcode.removesuffix("-start") in KINDS:
        return 0  # passed on, or on its way between chips
    return whole


def _written(inside: dict[str, Instruction], part: Instruction) -> int:
    while part.opcode == "bitcast" and part.operands and part.operands[0] in inside:
        part = inside[part.operands[0]]
    if part.opcode == "dynamic-update-slice":
        return _size(inside, part.operands[1])
    if part.opcode == "parameter" or part.opcode in KINDS:
        return 0
    return sum(size for _, size in part.shapes)


def _size(values: dict[str, Instruction], name: str) -> int:
    return sum(size for _, size in values[name].shapes) if name in values else 0
