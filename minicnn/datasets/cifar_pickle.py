"""A batch of CIFAR-10's Python version, read without pickle: a pickle can run any program, this reader cannot.

A pickle is a list of instructions for a machine with a stack: push a number, push a text, make a list of what lies
above the mark. Two of them, "find this function" and "call it", make pickles dangerous. Here a function is only a name,
of those that an array needs, and a call only a note of name and arguments: nothing is imported, nothing is called.
What is left over must be the one structure of such a file: {"data": uint8 (N, 3072), "labels": [N numbers], …}.
"""

from __future__ import annotations

from typing import Any

import numpy as np

MAX_BYTES = 64 << 20
MAX_OBJECTS = 200_000  # a batch has 10,000 labels and 10,000 file names
PIXELS = 3 * 32 * 32

_TEXTS = {b"U": 1, b"T": 4, b"C": 1, b"B": 4, b"\x8e": 8, b"\x96": 8, b"X": 4, b"\x8c": 1, b"\x8d": 8}  # size's bytes
_NUMBERS = {b"K": 1, b"M": 2, b"J": 4}
_SINGLES: dict[bytes, Any] = {b"N": None, b"\x88": True, b"\x89": False, b")": ()}
_TUPLES = {b"\x85": 1, b"\x86": 2, b"\x87": 3}
_NAMES = {
    "numpy ndarray", "numpy dtype", "_codecs encode", "builtins bytearray", "__builtin__ bytearray",
    *(f"numpy.{core}.{name}" for core in ("core", "_core")
      for name in ("multiarray _reconstruct", "numeric _frombuffer")),
}  # fmt: skip


class _Name(str):
    """A function's name, where a pickle wants the function."""


class _Noted:
    """What a call of name(*args) would have made, and the state that it would have been given."""

    def __init__(self, name: str, args: tuple):
        self.name, self.args = name, args
        self.state: Any = ()


def read_batch(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """(pixels (N, 3072) uint8, labels (N,) uint8) of a file's bytes. Raises ValueError for anything else."""
    if len(data) > MAX_BYTES:
        raise ValueError(f"{len(data):,} bytes; at most {MAX_BYTES:,} are read")
    try:
        whole = _Machine(data).run()
    except (IndexError, KeyError, TypeError, AttributeError) as error:  # not what an instruction needs
        raise ValueError(f"no batch of CIFAR-10: {type(error).__name__}") from None
    if not isinstance(whole, dict):
        raise ValueError("no dict of data and labels")
    named = {key.decode("latin1") if isinstance(key, bytes) else key: value for key, value in whole.items()}
    pixels, labels = _array(named.get("data")), named.get("labels")
    if not isinstance(labels, list) or not all(type(k) is int and 0 <= k < 256 for k in labels):
        raise ValueError("its labels are no list of small whole numbers")
    if len(labels) != len(pixels):
        raise ValueError(f"{len(pixels)} images and {len(labels)} labels")
    return pixels, np.array(labels, np.uint8)


def _array(noted: Any) -> np.ndarray:
    """The pixels of the array that was noted: uint8 (N, 3072), rows one after another."""
    if not isinstance(noted, _Noted):
        raise ValueError("its data are no array")
    if noted.name.endswith("_reconstruct"):
        _, shape, dtype, fortran, content = noted.state
    else:
        content, dtype, shape, order = noted.args[:4]
        fortran = order != "C"
    kind = dtype.args[0] if isinstance(dtype, _Noted) and dtype.name == "numpy dtype" else None
    content = content.args[0] if isinstance(content, _Noted) else content
    right = isinstance(shape, tuple) and len(shape) == 2 and shape[1] == PIXELS and not fortran
    if not right or kind not in (b"u1", "u1") or not isinstance(content, bytes):
        raise ValueError(f"its data are no uint8 (N, {PIXELS})")
    if len(content) != shape[0] * PIXELS:
        raise ValueError(f"{len(content):,} bytes for {shape[0]} images of {PIXELS:,}")
    return np.frombuffer(content, np.uint8).reshape(-1, PIXELS)


class _Machine:
    """The stack machine. Source of the instructions: Python's module pickletools, protocols 2 to 5."""

    def __init__(self, data: bytes):
        self.data, self.at = data, 0
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def take(self, count: int) -> bytes:
        part = self.data[self.at : self.at + count]
        if len(part) < count:
            raise ValueError("it is cut short")
        self.at += count
        return part

    def number(self, count: int, signed: bool = False) -> int:
        return int.from_bytes(self.take(count), "little", signed=signed)

    def line(self) -> str:
        end = self.data.find(b"\n", self.at, self.at + 100)
        return self.take(end + 1 - self.at)[:-1].decode("ascii", "replace")

    def above_mark(self) -> list[Any]:
        mark = self.marks.pop()
        items = self.stack[mark:]
        del self.stack[mark:]
        return items

    def run(self) -> Any:
        pushed = 0
        while (op := self.take(1)) != b".":
            before = len(self.stack)
            self.step(op)
            pushed += max(0, len(self.stack) - before)
            if pushed > MAX_OBJECTS:
                raise ValueError(f"more than {MAX_OBJECTS:,} objects")
        return self.stack.pop()

    def step(self, op: bytes) -> None:
        stack, memo = self.stack, self.memo
        if op == b"\x80":  # the protocol
            self.take(1)
        elif op == b"\x95":  # a frame: only its length
            self.take(8)
        elif op in _TEXTS:
            text = self.take(self.number(_TEXTS[op]))
            stack.append(text.decode() if op in (b"X", b"\x8c", b"\x8d") else text)
        elif op in _NUMBERS:
            stack.append(self.number(_NUMBERS[op], signed=op == b"J"))
        elif op in _SINGLES:
            stack.append(_SINGLES[op])
        elif op in (b"}", b"]"):
            stack.append({} if op == b"}" else [])
        elif op == b"(":
            self.marks.append(len(stack))
        elif op in _TUPLES:
            stack[-_TUPLES[op] :] = [tuple(stack[-_TUPLES[op] :])]
        elif op == b"t":
            stack.append(tuple(self.above_mark()))
        elif op in (b"e", b"a"):
            items = self.above_mark() if op == b"e" else [stack.pop()]
            stack[-1].extend(items) if type(stack[-1]) is list else self.refuse(op)
        elif op in (b"u", b"s"):
            items = self.above_mark() if op == b"u" else [stack.pop(-2), stack.pop()]
            stack[-1].update(zip(items[::2], items[1::2], strict=True)) if type(stack[-1]) is dict else self.refuse(op)
        elif op in (b"q", b"r"):  # remember the top of the stack
            memo[self.number(1 if op == b"q" else 4)] = stack[-1]
        elif op == b"\x94":
            memo[len(memo)] = stack[-1]
        elif op in (b"h", b"j"):
            stack.append(memo[self.number(1 if op == b"h" else 4)])
        elif op == b"c":  # a function
            stack.append(self.name(f"{self.line()} {self.line()}"))
        elif op == b"\x93":
            name = stack.pop()
            stack.append(self.name(f"{stack.pop()} {name}"))
        elif op == b"R":  # a call
            args, name = stack.pop(), stack.pop()
            stack.append(self.noted(name, args))
        elif op == b"b":
            state = stack.pop()
            stack[-1].state = state
        else:
            self.refuse(op)

    def name(self, name: str) -> _Name:
        if name not in _NAMES:
            raise ValueError(f"it wants {name!r:.80}, which no batch of CIFAR-10 needs")
        return _Name(name)

    def noted(self, name: Any, args: Any) -> Any:
        if not isinstance(name, _Name) or not isinstance(args, tuple):
            self.refuse(b"R")
        if name == "_codecs encode":  # how Python 3 writes bytes for Python 2
            return args[0].encode("latin1")
        return _Noted(name, args)

    def refuse(self, op: bytes) -> None:
        raise ValueError(f"the instruction {op!r} at byte {self.at - 1:,}, which no batch of CIFAR-10 needs")
