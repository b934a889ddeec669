"""From a CUDA source file to a kernel that can be called: written down, compiled once, started.

CuPy compiles the text with NVRTC, NVIDIA's compiler as a library: no compiler needs to be installed. What it made it
keeps on disk, so only the very first use of a kernel on a machine takes a moment.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from minicnn.backend import Array

HERE = Path(__file__).parent
BLOCK = 256  # threads in a block, where a kernel does not ask for another number
MAX_CAST = 100  # sets of numbers that a kernel remembers
MAX_BLOCKS = 8192  # enough to fill the largest GPU several times; each thread then takes several numbers

_C_NAMES = {np.dtype(np.float32): "float", np.dtype(np.float64): "double", np.dtype(np.uint8): "unsigned char",
            np.dtype(np.uint16): "unsigned short", np.dtype(np.uint32): "unsigned int",
            np.dtype(np.int64): "long long"}  # fmt: skip


class Kernel:
    """A compiled kernel. read_head: gives what makes of each argument that which the kernel reads."""

    def __init__(self, raw: Any, read_head: Callable[[], list[Callable[[Any], Any]]]):
        self.raw, self._read_head = raw, read_head
        self._cast: dict[tuple[Any, ...], tuple[Any, ...]] = {}  # numbers as they come -> as the kernel reads them

    @functools.cached_property
    def casts(self) -> list[Callable[[Any], Any]]:
        return self._read_head()

    @functools.cached_property
    def _first_number(self) -> int:
        """The place behind the last array: from there on all arguments are numbers."""
        return max((k + 1 for k, cast in enumerate(self.casts) if cast is _address), default=0)

    def __call__(self, grid: tuple[int, ...], block: tuple[int, ...], *args: Any) -> None:
        """Start gridDim × blockDim threads. Does not wait for them. Numbers may be Python's or NumPy's of any type.

        Most numbers are sizes, the same in every step: they are cast once.
        """
        behind = self._first_number
        self.raw(grid, block, _cast(self.casts[:behind], args[:behind]) + self._numbers(args[behind:]))

    def _numbers(self, numbers: tuple[Any, ...]) -> tuple[Any, ...]:
        try:
            cast = self._cast.get(numbers)
        except TypeError:  # a NumPy array without axes is a number, too, but cannot be looked up
            return _cast(self.casts[self._first_number :], numbers)
        if cast is None:
            if len(self._cast) >= MAX_CAST:
                self._cast.clear()
            cast = self._cast[numbers] = _cast(self.casts[self._first_number :], numbers)
        return cast

    def for_each(self, count: int, *args: Any, after: tuple[Any, ...] = (), max_blocks: int = MAX_BLOCKS) -> None:
        """Start a kernel that loops by FOR_EACH: args, the count, and what comes after it."""
        if count:
            blocks = min(-(-count // BLOCK), max_blocks)
            self((blocks,), (BLOCK,), *args, count, *after)


def kernel_for(
    xp: Any, file: str, name: str, dtype: Any, largest: int, pack: bool = False, winner: Any = np.uint8
) -> Kernel:
    """The kernel `name` of `file`.cu for numbers of `dtype`; see common.cu for the types.

    xp: the module `cupy`. largest: the number of elements of the largest array. pack: carry four numbers at once.
    """
    return _built(xp, file, name, np.dtype(dtype), largest < 2**30, pack, np.dtype(winner))


@functools.cache
def _built(xp: Any, file: str, name: str, dtype: np.dtype, small: bool, pack: bool, winner: np.dtype) -> Kernel:
    raw = _module(xp, file, dtype, small, pack, winner).get_function(name)
    return Kernel(raw, lambda: _casts(source(file, dtype, small, pack, winner), name, dtype, small))


def _casts(text: str, name: str, dtype: np.dtype, small: bool) -> list[Callable[[Any], Any]]:
    """Of each argument in the kernel's own head: its type, or for an array `_address`."""
    types = {"Real": dtype.type, "Index": np.int32 if small else np.int64, "int": np.int32, "double": np.float64,
             "u32": np.uint32, "u64": np.uint64}  # fmt: skip
    head = re.search(rf"__global__ void {name}\((.*?)\)", text, re.DOTALL)
    assert head, f"there is no kernel {name}"
    arguments = head[1]
    for macro, meaning in re.findall(r"#define (\w+) (\w+ .*,.*)\n", text):
        arguments = arguments.replace(macro, meaning)
    return [_address if "*" in argument else types[argument.split()[0]] for argument in arguments.split(",")]


def _cast(casts: list[Callable[[Any], Any]], args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple([cast(arg) for cast, arg in zip(casts, args, strict=True)])


def _address(array: Array | None) -> Any:
    """None is a null pointer."""
    return np.uintp(0) if array is None else array


@functools.cache
def _module(xp: Any, file: str, dtype: np.dtype, small: bool, pack: bool, winner: np.dtype) -> Any:
    return xp.RawModule(code=source(file, dtype, small, pack, winner), options=("-std=c++17",))


def source(file: str, dtype: Any, small: bool = True, pack: bool = False, winner: Any = np.uint8) -> str:
    """The full text of `file`.cu for these types, as it is compiled."""
    real = _C_NAMES[np.dtype(dtype)]
    types = {
        "Real": real,
        "Pack": "float4" if pack else real,
        "Index": "int" if small else "long long",
        "Winner": _C_NAMES[np.dtype(winner)],
    }
    typedefs = "".join(f"typedef {c_name} {name};\n" for name, c_name in types.items())
    return typedefs + "".join((HERE / f"{part}.cu").read_text(encoding="ascii") for part in ("common", file))


def packs(*arrays: Array) -> bool:
    """Whether four neighbouring channels of all these arrays can be carried at once, as one float4."""
    return all(a.dtype == np.float32 and a.shape[-1] % 4 == 0 and a.data.ptr % 16 == 0 for a in arrays)
