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
WIDTH, PACK_BYTES = 4, 16  # of a Pack of float32, see common.cu
MAX_CAST = 100  # sets of numbers that a kernel remembers
MAX_BLOCKS = 8192  # enough to fill the largest GPU several times; each thread then takes several numbers

_C_NAMES = {np.dtype(np.float32): "float", np.dtype(np.float64): "double", np.dtype(np.uint8): "unsigned char",
            np.dtype(np.uint16): "unsigned short", np.dtype(np.uint32): "unsigned int",
            np.dtype(np.int64): "long long"}  # fmt: skip


class Kernel:
    """A compiled kernel. read_head: gives how many arrays it takes, and the types of the numbers that follow."""

    def __init__(self, raw: Any, read_head: Callable[[], tuple[int, list[Any]]]):
        self.raw, self._read_head = raw, read_head
        self._cast: dict[tuple[Any, ...], tuple[Any, ...]] = {}  # numbers as they come -> as the kernel reads them

    @functools.cached_property
    def head(self) -> tuple[int, list[Any]]:
        return self._read_head()

    def __call__(self, grid: tuple[int, ...], block: tuple[int, ...], *args: Any) -> None:
        """Start gridDim × blockDim threads. Does not wait for them.

        args: the arrays, where None is a null pointer, and the numbers, which may be Python's or NumPy's of any type.
        Most of these are sizes, the same in every step: they are cast once.
        """
        arrays = self.head[0]
        numbers = args[arrays:]
        try:
            cast = self._cast.get(numbers)
        except TypeError:  # a NumPy array without axes is a number, too, but cannot be looked up
            cast = self._as_read(numbers)
        else:
            if cast is None:
                if len(self._cast) >= MAX_CAST:
                    self._cast.clear()
                cast = self._cast[numbers] = self._as_read(numbers)
        self.raw(grid, block, args[:arrays] + cast)

    def _as_read(self, numbers: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple([cast(number) for cast, number in zip(self.head[1], numbers, strict=True)])

    def for_each(self, count: int, *args: Any, after: tuple[Any, ...] = (), max_blocks: int = MAX_BLOCKS) -> None:
        """Start a kernel that loops by FOR_EACH: args, the count, and what comes after it."""
        if count:
            blocks = min(-(-count // BLOCK), max_blocks)
            self((blocks,), (BLOCK,), *args, count, *after)


def kernel_for(
    xp: Any, file: str, name: str, dtype: Any, largest: int, pack: bool = False, winner: Any = np.uint8
) -> Kernel:
    """The kernel `name` of `file`.cu for numbers of `dtype`; see common.cu for the types.

    xp: the module `cupy`. largest: the number of elements of the largest array. pack: four numbers to a Pack, not one.
    """
    return _built(xp, file, name, np.dtype(dtype), largest < 2**30, pack, np.dtype(winner))


@functools.cache
def _built(xp: Any, file: str, name: str, dtype: np.dtype, small: bool, pack: bool, winner: np.dtype) -> Kernel:
    raw = _module(xp, file, dtype, small, pack, winner).get_function(name)
    return Kernel(raw, lambda: _head(source(file, dtype, small, pack, winner), name, dtype, small))


def _head(text: str, name: str, dtype: np.dtype, small: bool) -> tuple[int, list[Any]]:
    """What the kernel's own head says: how many arrays it takes, and the types of the numbers that follow."""
    types = {"Real": dtype.type, "Index": np.int32 if small else np.int64, "int": np.int32, "double": np.float64,
             "u32": np.uint32, "u64": np.uint64}  # fmt: skip
    head = re.search(rf"__global__ void {name}\((.*?)\)", text, re.DOTALL)
    assert head, f"there is no kernel {name}"
    arguments = head[1]
    for macro, meaning in re.findall(r"#define (\w+) (\w+ .*,.*)\n", text):
        arguments = arguments.replace(macro, meaning)
    is_array = ["*" in argument for argument in arguments.split(",")]
    assert is_array == sorted(is_array, reverse=True), f"{name}: a number stands before an array"
    return sum(is_array), [types[number.split()[0]] for number in arguments.split(",")[sum(is_array) :]]


@functools.cache
def _module(xp: Any, file: str, dtype: np.dtype, small: bool, pack: bool, winner: np.dtype) -> Any:
    return xp.RawModule(code=source(file, dtype, small, pack, winner), options=("-std=c++17",))


def source(file: str, dtype: Any, small: bool = True, pack: bool = False, winner: Any = np.uint8) -> str:
    """The full text of `file`.cu for these types, as it is compiled."""
    real = _C_NAMES[np.dtype(dtype)]
    types = {"Real": real, "Index": "int" if small else "long long", "Winner": _C_NAMES[np.dtype(winner)]}
    head = "".join(f"typedef {c_name} {name};\n" for name, c_name in types.items())
    head += f"#define WIDTH {WIDTH if pack else 1}\n"
    return head + "".join((HERE / f"{part}.cu").read_text(encoding="ascii") for part in ("common", file))


def width_of(row: int, *arrays: Array | None) -> int:
    """How many numbers a Pack of these arrays can have, which are of one dtype, with `row` numbers in a row."""
    first: Array = arrays[0]
    if row % WIDTH or first.dtype != np.float32:
        return 1
    for a in arrays:
        if a is not None and a.data.ptr % PACK_BYTES:
            return 1
    return WIDTH
