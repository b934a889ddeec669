"""Which array module an array belongs to, the way to and from the host, and scratch memory.

The array decides: a kernel asks `xp = xp_of(x)` and computes with whatever it was given. There is no global
switch, so a CPU run and a GPU run live in one process and can be compared.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np

from minicnn.errors import InputError

Array: TypeAlias = Any  # numpy.ndarray or cupy.ndarray


def xp_of(x: Array) -> Any:
    """The array module of x: `cupy` for a CuPy array, `numpy` for everything else."""
    if type(x) is np.ndarray:
        return np
    cupy = sys.modules.get("cupy")  # whoever holds a CuPy array has imported CuPy already
    return cupy if cupy is not None and isinstance(x, cupy.ndarray) else np


def module_for(device: str) -> Any:
    """The array module for "cpu" or "gpu". Raises InputError where the GPU cannot be used, with the cause."""
    if device == "cpu":
        return np
    if device != "gpu":
        raise InputError("device", "unknown device.", '"cpu" or "gpu".', f"{device!r}.", "pass one of these.")
    try:
        import cupy
    except ImportError as error:
        raise InputError(
            "device",
            "the GPU was asked for, but CuPy is not installed.",
            "CuPy for the installed CUDA version.",
            f"ImportError: {error}",
            'python -m pip install "minicnn[gpu]" (CUDA 13) or "minicnn[gpu12]" (CUDA 12), or use device="cpu".',
        ) from error
    try:
        cupy.cuda.runtime.getDeviceCount()
    except Exception as error:  # CuPy raises its own CUDARuntimeError here
        raise InputError(
            "device",
            "CuPy is installed, but finds no usable GPU.",
            "an NVIDIA GPU with a working driver.",
            f"{type(error).__name__}: {error}",
            'check `nvidia-smi`, or use device="cpu".',
        ) from error
    return cupy


def best_device() -> str:
    """"gpu" where there is one that CuPy can use, else "cpu"."""
    try:
        module_for("gpu")
    except InputError:
        return "cpu"
    return "gpu"


def to_host(x: Array) -> np.ndarray:
    """x as a NumPy array: itself when it is one already."""
    return x if isinstance(x, np.ndarray) else np.asarray(x.get() if hasattr(x, "get") else x)


# The cost of a kernel in NumPy is memory, not arithmetic. What one image needs fits into the processor's cache,
# what a batch needs does not. So the CPU kernels walk over the batch in tiles and reuse scratch memory between them.

TILE_BYTES = 1 << 20
_scratch = threading.local()


def scratch(xp: Any, name: str, shape: tuple[int, ...], dtype: Any) -> Array:
    """Uninitialised memory that this thread reuses: valid until the same thread asks for `name` again.

    For use inside one kernel; it never reaches a caller. CuPy has a memory pool of its own.
    """
    if xp is not np:
        return xp.empty(shape, dtype)
    dtype = np.dtype(dtype)
    count = 1
    for size in shape:
        count *= size
    key = f"{name} {dtype}"
    buffer = getattr(_scratch, key, None)
    if buffer is None or buffer.size < count:
        buffer = np.empty(count, dtype)
        setattr(_scratch, key, buffer)
    return buffer[:count].reshape(shape)


def tiles(x: Array, tile_bytes: int = TILE_BYTES) -> Iterator[slice]:
    """Cut the first axis of x into slices of about `tile_bytes`: cache-sized on the CPU, all at once on a GPU."""
    count = len(x)
    step = count if xp_of(x) is not np else max(1, tile_bytes * count // max(1, x.nbytes))
    for start in range(0, count, max(1, step)):
        yield slice(start, min(start + step, count))
