"""CUDA graphs on the stand-in for CuPy: what is launched while a stream captures is written down, and done at `launch`.

As on a GPU, and where a GPU would be silent, an error:

- while it captures, nothing is computed; to wait for the device, to copy from the host and to call cuBLAS are errors;
- numbers are repeated as they were, arrays are read and written at their place;
- what a graph has allocated holds NaN whenever it is launched, until it writes there;
- a graph that reads or writes memory which was freed since, to a pool that others may take it from, is an error.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from typing import Any

import numpy as np

CUBLAS = ("matmul", "dot", "tensordot", "vdot", "einsum")
_here = threading.local()  # the allocator of this thread
_memories: dict[int, weakref.ref[Memory]] = {}
pinned_allocator: Any = None


class CaptureError(RuntimeError):
    """A misuse of graphs. (cupy.cuda.runtime.CUDARuntimeError is derived from RuntimeError, too.)"""


class Memory:
    """A piece of device memory, as long as an array uses it. pool: whose it is then; None: everybody's."""

    def __init__(self, root: Any):
        self.root, self.pool = root, getattr(_here, "pool", None)

    @staticmethod
    def of(host: np.ndarray) -> Memory:
        root: Any = host
        while getattr(root, "base", None) is not None:
            root = root.base
        known = _memories.get(id(root), lambda: None)()
        if known is None:
            known = Memory(root)
            _memories[id(root)] = weakref.ref(known)
        return known


class MemoryPool:
    def malloc(self, size):
        raise AssertionError("only to be given to using_allocator")

    def free_all_blocks(self):
        pass


class using_allocator:  # noqa: N801
    def __init__(self, allocator=None):
        self.pool = None if allocator is None else weakref.ref(allocator.__self__)

    def __enter__(self):
        self.outer, _here.pool = getattr(_here, "pool", None), self.pool

    def __exit__(self, *exception):
        _here.pool = self.outer


class PinnedMemoryPool:
    def malloc(self, size):
        return None


_pinned = PinnedMemoryPool()


def get_default_pinned_memory_pool():
    return _pinned


def set_pinned_memory_allocator(allocator=None):
    global pinned_allocator
    pinned_allocator = allocator


class Graph:
    def __init__(self) -> None:
        self.operations: list[Any] = []
        self.memories: list[tuple[weakref.ref[Memory], Any]] = []
        self.own: list[np.ndarray] = []
        self.broken = False

    def launch(self, stream=None):
        for memory, pool in self.memories:
            if memory() is None and (pool is None or pool() is None):
                raise CaptureError("a graph was launched whose memory was freed and may be anybody's")
        for array in self.own:
            poison(array)
        for operation in self.operations:
            operation()

    # ---- while it is being captured ----

    def refuse(self, what: str) -> None:
        self.broken = True
        raise CaptureError(f"cudaErrorStreamCaptureUnsupported: {what} while the stream is capturing")

    def use(self, *values: Any) -> None:
        """An operation reads or writes these arrays of the device."""
        for value in values:
            if isinstance(value, (list, tuple)):
                self.use(*value)
            elif hasattr(value, "_memory"):
                self.memories.append((weakref.ref(value._memory), value._memory.pool))

    def compute(self, name: str, function: Any, args: Any, kwargs: dict[str, Any], out: np.ndarray | None) -> Any:
        """Arrays for the result of function(*args, **kwargs), NumPy's; computed at launch. Views are views at once."""
        if name in CUBLAS:
            self.broken = True
            raise NotImplementedError("calling cuBLAS API during stream capture is currently unsupported")
        if out is not None or name == "copyto":
            self.operations.append(lambda: function(*args, **kwargs))
            return out
        with np.errstate(all="ignore"):  # of whatever is there: for its shape
            try:
                result = function(*args, **kwargs)
            except IndexError:  # whatever is there is no index
                result = function(*map(_zero_indices, args), **{k: _zero_indices(v) for k, v in kwargs.items()})
        inputs = [a for a in _flat((args, tuple(kwargs.values()))) if isinstance(a, np.ndarray)]
        several = isinstance(result, (list, tuple))
        arrays = [np.asarray(part) for part in (result if several else (result,))]
        if any(np.may_share_memory(array, a) for array, a in itertools.product(arrays, inputs)):
            return result
        self.own += arrays

        def again() -> None:
            parts = function(*args, **kwargs)
            for array, part in zip(arrays, parts if several else (parts,), strict=True):
                array[...] = part

        self.operations.append(again)
        return type(result)(arrays) if several else arrays[0]


def poison(array: np.ndarray) -> None:
    """What is in memory that nobody has written to: NaN, or the largest number."""
    array.fill(np.nan if array.dtype.kind in "fc" else array.dtype.kind == "b" or np.iinfo(array.dtype).max)


def _zero_indices(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(map(_zero_indices, value))
    whole = isinstance(value, np.ndarray) and value.dtype.kind in "iu"
    return np.zeros_like(value) if whole else value


def _flat(values: Any) -> Any:
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from _flat(value)
        else:
            yield value
