"""Pickles from anywhere, read as data: a machine of our own for their opcodes that imports nothing and calls nothing.

A class, a function or an object becomes a `Name` or a `Record` that says what the pickle asked for. Python's own
Unpickler is not used, even restricted: it sets attributes of whatever lies on its stack, hashes and allocates what it
is told to, and numpy's own pickles (`numpy.ndarray` with a buffer of pointers) reach memory that is not theirs.

Opcodes: those of protocols 0 to 5, as the standard library's `pickletools` documents and parses them.
"""

import dataclasses
import pickletools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

MAX_BYTES = 64 << 20  # of a pickle without arrays' bytes
MAX_OPCODES = 4_000_000
KEY_BITS = 60  # of an integer that is a key: below 2^61 - 1 each has a hash of its own
MAX_KEY = 16  # elements of a tuple that is a key

_MARK = object()
_DICTS = ("OrderedDict", "defaultdict", "dict")


class Name(NamedTuple):
    """A class or function that a pickle names."""

    module: str
    name: str


@dataclasses.dataclass(eq=False)
class Record:
    """What a pickle would have made by calling `kind`; `state` is what it would have set."""

    kind: Any
    args: tuple = ()
    state: Any = None


def load(
    data: bytes | memoryview,
    call: Callable[[Name, tuple], Any] | None = None,
    persistent: Callable[[Any], Any] | None = None,
) -> Any:
    """The content of a pickle: plain values, lists, tuples, dicts, `Name`s and `Record`s (a set is a list).

    Args:
      call: (name, arguments) -> what stands for the call, or None for a Record.
      persistent: what stands for a persistent id (torch's storages).

    Raises:
      ValueError: broken, over MAX_OPCODES, or with an opcode that no pickle of weights or arrays needs.
    """
    machine = _Machine(call, persistent, len(data))
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(bytes(data))):
            if count > MAX_OPCODES:
                raise ValueError(f"its pickle has more than {MAX_OPCODES:,} opcodes")
            if opcode.name == "STOP":
                return machine.pop()
            machine.step(opcode.name, argument)
    except (IndexError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"its pickle is damaged ({type(error).__name__})") from None
    raise ValueError("its pickle has no end")


class _Machine:
    """The stack and the memo."""

    def __init__(self, call: Callable[[Name, tuple], Any] | None, persistent: Callable[[Any], Any] | None, room: int):
        self.room = 2 * room  # what calls may make of arguments that are there once and used often
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self._call, self._persistent = call, persistent

    def pop(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise ValueError("its pickle takes more from its stack than is there")
        return self.stack.pop()

    def marked(self) -> list[Any]:
        """What lies above the last mark."""
        items = []
        while (item := self.stack.pop()) is not _MARK:
            items.append(item)
        return items[::-1]

    def step(self, opcode: str, argument: Any) -> None:
        if opcode in _CONSTANTS:
            self.stack.append(argument)
        elif opcode in _MADE:
            self.stack.append(_MADE[opcode]())
        elif opcode in ("BINPUT", "LONG_BINPUT", "PUT"):
            self.memo[argument] = self.stack[-1]
        elif opcode == "MEMOIZE":
            self.memo[len(self.memo)] = self.stack[-1]
        elif opcode in ("BINGET", "LONG_BINGET", "GET"):
            self.stack.append(self.memo[argument])
        elif opcode in _STEPS:
            _STEPS[opcode](self, argument)
        else:
            raise ValueError(f"its pickle has the opcode {opcode}, which no array needs")

    def tuple_of(self, count: int) -> None:
        items = [self.pop() for _ in range(count)]
        self.stack.append(tuple(items[::-1]))

    def append(self, items: list[Any]) -> None:
        """Onto what lies on the stack; an object that is no list keeps nothing."""
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(items)

    def new_dict(self, items: list) -> None:
        self.stack.append({})
        self.set_items(items)

    def set_items(self, items: list[Any]) -> None:
        if isinstance(self.stack[-1], dict):
            self.stack[-1].update(zip(map(_key, items[::2]), items[1::2], strict=True))

    def names(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self.stack.append(Name(module, name))

    def stack_name(self) -> None:
        name, module = self.pop(), self.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise ValueError("its pickle names a class by something else than text")
        self.stack.append(Name(module, name))

    def call(self, kind: Any, args: Any) -> None:
        args = args if isinstance(args, tuple) else ()
        if kind == Name("copy_reg", "_reconstructor") or kind == Name("copyreg", "_reconstructor"):
            kind, args = args[0], ()
        made = None
        if isinstance(kind, Name):
            if kind.name in _DICTS and kind.module in ("collections", "builtins", "__builtin__"):
                made = {}
                if kind.name == "OrderedDict" and args and isinstance(args[0], list):  # of pairs, as Python 2 wrote it
                    self.take(len(args[0]))
                    made = {_key(pair[0]): pair[1] for pair in args[0]}
            elif kind == Name("_codecs", "encode"):  # how bytes travel in protocol 2
                self.take(len(args[0]))
                made = args[0].encode("latin1")
            elif self._call is not None:
                made = self._call(kind, args)
        self.stack.append(Record(kind, args) if made is None else made)

    def take(self, room: int) -> None:
        self.room -= room
        if self.room < 0:
            raise ValueError("its pickle makes more of its bytes than there are")

    def build(self) -> None:
        state = self.pop()
        if isinstance(self.stack[-1], Record):
            self.stack[-1].state = state

    def reduce(self, keywords: bool = False) -> None:
        if keywords:
            self.pop()
        args = self.pop()
        self.call(self.pop(), args)

    def obj(self) -> None:
        kind, *args = self.marked()
        self.call(kind, tuple(args))

    def inst(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self.call(Name(module, name), tuple(self.marked()))

    def persist(self, argument: Any) -> None:
        if self._persistent is None:
            raise ValueError("its pickle refers to something outside itself")
        self.stack.append(self._persistent(argument))

    def pop_any(self) -> None:
        self.stack.pop()


_CONSTANTS = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "STRING", "BINSTRING", "SHORT_BINSTRING",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE",
    "BINUNICODE8", "FLOAT", "BINFLOAT",
}  # fmt: skip
_MADE: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False, "EMPTY_LIST": list, "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple, "EMPTY_SET": list, "MARK": lambda: _MARK,
}  # fmt: skip
_STEPS: dict[str, Callable[[_Machine, Any], Any]] = {
    "PROTO": lambda m, _: None,
    "FRAME": lambda m, _: None,
    "POP": lambda m, _: m.pop_any(),
    "POP_MARK": lambda m, _: m.marked(),
    "DUP": lambda m, _: m.stack.append(m.stack[-1]),
    "LIST": lambda m, _: m.stack.append(m.marked()),
    "FROZENSET": lambda m, _: m.stack.append(m.marked()),
    "TUPLE": lambda m, _: m.stack.append(tuple(m.marked())),
    "TUPLE1": lambda m, _: m.tuple_of(1),
    "TUPLE2": lambda m, _: m.tuple_of(2),
    "TUPLE3": lambda m, _: m.tuple_of(3),
    "DICT": lambda m, _: m.new_dict(m.marked()),
    "APPEND": lambda m, _: m.append([m.pop()]),
    "APPENDS": lambda m, _: m.append(m.marked()),
    "ADDITEMS": lambda m, _: m.append(m.marked()),
    "SETITEM": lambda m, _: m.set_items([m.pop(), m.pop()][::-1]),
    "SETITEMS": lambda m, _: m.set_items(m.marked()),
    "GLOBAL": lambda m, argument: m.names(argument),
    "STACK_GLOBAL": lambda m, _: m.stack_name(),
    "REDUCE": lambda m, _: m.reduce(),
    "NEWOBJ": lambda m, _: m.reduce(),
    "NEWOBJ_EX": lambda m, _: m.reduce(keywords=True),
    "OBJ": lambda m, _: m.obj(),
    "INST": lambda m, argument: m.inst(argument),
    "BUILD": lambda m, _: m.build(),
    "PERSID": lambda m, argument: m.persist(argument),
    "BINPERSID": lambda m, _: m.persist(m.pop()),
}


def _key(key: Any) -> Any:
    """A key whose hash is quick and its own; anything else gives way to a key that nobody asks for."""
    if key is None or isinstance(key, str | bytes | bool | float | Name):
        return key
    if isinstance(key, int) and key.bit_length() <= KEY_BITS:
        return key
    # Tuples of tuples are hashed anew each time, at a cost that doubles with each level.
    if type(key) is tuple and len(key) <= MAX_KEY and all(type(p) is not tuple and _key(p) is p for p in key):
        return key
    return Record(key)


# what numpy and scipy wrote ------------------------------------------------------------------------------------------

_NUMBERS = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
_RECONSTRUCT = ("numpy.core.multiarray", "numpy._core.multiarray")


def is_array(value: Any) -> bool:
    """Whether a Record stands for a numpy array."""
    return isinstance(value, Record) and value.kind in {Name(module, "_reconstruct") for module in _RECONSTRUCT}


def as_array(value: Any) -> np.ndarray:
    """The array of a Record: numbers alone, and as many as its bytes hold. Raises ValueError."""
    if not is_array(value):
        raise ValueError(f"its pickle holds a {said(value)} where an array is expected")
    state = value.state
    if not isinstance(state, tuple) or len(state) != 5:
        raise ValueError("its pickle holds an array without its bytes")
    _, shape, dtype, fortran, raw = state
    kind, raw = _dtype(dtype), raw.encode("latin1") if isinstance(raw, str) else raw
    if not isinstance(shape, tuple) or any(type(n) is not int or n < 0 for n in shape) or not isinstance(raw, bytes):
        raise ValueError("its pickle holds an array of no shape, or of objects")
    count = 1
    for n in shape:
        count = min(count * n, 2**62)
    if len(shape) > 32 or count * kind.itemsize != len(raw):
        raise ValueError(f"its pickle holds an array of shape {str(shape)[:80]} and {len(raw):,} bytes")
    if not count:
        return np.zeros(shape, kind)
    return np.frombuffer(raw, kind).reshape(shape, order="F" if fortran is True or fortran == 1 else "C").copy("K")


def _dtype(value: Any) -> np.dtype:
    if isinstance(value, Record) and value.kind == Name("numpy", "dtype") and value.args:
        code = value.args[0]
        order = value.state[1] if isinstance(value.state, tuple) and len(value.state) > 1 else "="
        if isinstance(code, str) and code in _NUMBERS and order in ("<", ">", "|", "="):
            return np.dtype(code).newbyteorder("<" if order == "<" else ">" if order == ">" else "=")
    raise ValueError(f"its pickle holds an array of {said(value)}: numbers expected")


def as_matrix(value: Any) -> np.ndarray:
    """The dense array [n, d] of a Record of scipy's csr_matrix, its indices checked. Raises ValueError."""
    kind = value.kind if isinstance(value, Record) else None
    if not isinstance(kind, Name) or kind.name != "csr_matrix" or not isinstance(value.state, dict):
        raise ValueError(f"its pickle holds a {said(value)} where a sparse matrix is expected")
    state = value.state
    numbers, columns, starts = (as_array(state.get(name)) for name in ("data", "indices", "indptr"))
    shape = state.get("_shape")
    if not isinstance(shape, tuple) or len(shape) != 2 or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError("its pickle holds a sparse matrix without a shape")
    if numbers.ndim != 1 or columns.shape != numbers.shape or starts.shape != (shape[0] + 1,):
        raise ValueError("its pickle holds a sparse matrix whose parts do not fit")
    if starts.dtype.kind != "i" or columns.dtype.kind != "i" or starts[0] != 0 or starts[-1] != len(numbers):
        raise ValueError("its pickle holds a sparse matrix whose rows do not fit")
    inside = not len(columns) or 0 <= columns.min() <= columns.max() < shape[1]
    if (np.diff(starts) < 0).any() or not inside or shape[0] * shape[1] > 2**31:
        raise ValueError("its pickle holds a sparse matrix whose numbers lie outside it, or are too many")
    dense = np.zeros(shape, numbers.dtype)
    np.add.at(dense, (np.repeat(np.arange(shape[0]), np.diff(starts)), columns), numbers)
    return dense


def said(value: Any) -> str:
    """What a value is, for messages; never the value, which may have no end."""
    kind = value.kind if isinstance(value, Record) else value if isinstance(value, Name) else None
    return f"{kind.module}.{kind.name}"[:80] if isinstance(kind, Name) else type(value).__name__
