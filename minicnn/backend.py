"""Which array module an array belongs to, the way to and from the host, matrix products, and scratch memory.

The array decides: a kernel asks `xp = xp_of(x)` and computes with whatever it was given. There is no global
switch, so a CPU run and a GPU run live in one process and can be compared.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from inspect import signature
from typing import Any, TypeAlias

import numpy as np

from minicnn.arguments import in_words
from minicnn.errors import InputError

Array: TypeAlias = Any  # numpy.ndarray or cupy.ndarray

# What the layers' code shall not do in their users' name: NumPy warns where numbers overflow or become NaN, once for
# each line of a kernel, without a word of the cause. In here that is left to minicnn/training/finite.py.
quiet = np.errstate(all="ignore")


def xp_of(x: Array) -> Any:
    """The array module of x: `cupy` for a CuPy array, `numpy` for everything else."""
    if type(x) is np.ndarray:
        return np
    cupy = sys.modules.get("cupy")  # whoever holds a CuPy array has imported CuPy already
    return cupy if cupy is not None and isinstance(x, cupy.ndarray) else np


class Device(str):
    """Where to compute: "cpu", "gpu" (the first one) or "gpu:1". Made by `device(name)`.

    It is the text itself, and can be entered: inside `with device("gpu"):` new models live there.
    """

    @property
    def number(self) -> int:
        """The number of the GPU, from 0."""
        return int(self.partition(":")[2] or 0)

    @property
    def xp(self) -> Any:
        """The array module: `numpy` or `cupy`."""
        return np if self == "cpu" else sys.modules["cupy"]

    def __enter__(self) -> Device:
        gpu = None if self == "cpu" else self.xp.cuda.Device(self.number)
        if gpu is not None:
            gpu.__enter__()  # CuPy makes new arrays on this one
        _entered.set((*_entered.get(), (self, gpu)))
        return self

    def __exit__(self, *exception: object) -> None:
        *outer, (_, gpu) = _entered.get()
        _entered.set(tuple(outer))
        if gpu is not None:
            gpu.__exit__(*exception)


# The devices that were entered, innermost last. A context variable: each thread has its own.
_entered: ContextVar[tuple[tuple[Device, Any], ...]] = ContextVar("minicnn.device", default=())


@in_words
def device(name: str) -> Device:
    """The device "cpu", "gpu" (the first one), "gpu:1", or "auto": the GPU where there is one.

    Use it in a `with` statement, or give the name to `model.to`, `fit`, `evaluate` and `predict`. Raises InputError for
    an unknown name, and where the GPU cannot be used, with the cause.
    """
    if name == "auto":
        return best_device()
    kind, colon, index = str(name).partition(":")
    if kind not in ("cpu", "gpu") or (colon and (kind == "cpu" or not index.isdecimal())):
        raise InputError(
            "device", "unknown device.", '"cpu", "gpu", "gpu:1" for the second GPU, or "auto".', f"{name!r}.",
            "pass one of these.",
        )  # fmt: skip
    if kind == "cpu":
        return Device("cpu")
    count = _count_gpus()
    number = int(index) if colon else _default_gpu % count
    if number >= count:
        raise InputError(
            "device", "there is no GPU of this number.", f"a number from 0 to {count - 1}: CuPy finds {count}.",
            f"{name!r}.", 'count from 0: "gpu" is the first one, "gpu:1" the second.',
        )  # fmt: skip
    return Device(f"gpu:{number}" if number else "gpu")


_default_gpu = 0


def set_default_gpu(number: int) -> None:
    """Which GPU "gpu" is from now on, counted round where there are fewer: each rank of a machine takes its own."""
    global _default_gpu
    _default_gpu = number


def _count_gpus() -> int:
    """How many GPUs CuPy can use. Raises InputError where there is no CuPy, or no GPU."""
    try:
        import cupy
    except Exception as error:  # ImportError, or what goes wrong inside an installation that does not fit
        missing = isinstance(error, ModuleNotFoundError)
        raise InputError(
            "device",
            f"the GPU was asked for, but CuPy {'is not installed' if missing else 'cannot be imported'}.",
            "CuPy for the installed CUDA version.",
            f"{type(error).__name__}: {error}",
            'python -m pip install "minicnn[gpu]" (CUDA 13) or "minicnn[gpu12]" (CUDA 12), or use device="cpu".',
        ) from error
    cause: Exception | None = None
    try:
        count, problem = cupy.cuda.runtime.getDeviceCount(), "no error, and 0 GPUs."
    except Exception as error:  # CuPy raises its own CUDARuntimeError here
        count, problem, cause = 0, f"{type(error).__name__}: {error}", error
    if count:
        return count
    raise InputError(
        "device",
        "CuPy is installed, but finds no usable GPU.",
        "an NVIDIA GPU with a driver that is as new as CuPy's CUDA.",
        problem,
        'see what `nvidia-smi` says: it names the GPU and its driver, or use device="cpu".',
    ) from cause


def module_for(name: str) -> Any:
    """The array module of a device. Raises InputError as `device` does."""
    return device(name).xp


def best_device() -> Device:
    """"gpu" where there is one that CuPy can use, else "cpu"."""
    try:
        return device("gpu")
    except InputError:
        return Device("cpu")


@in_words
def set_tf32(allow: bool) -> None:
    """Whether the GPU may round the inputs of float32 matrix products to TF32; it may not, unless you say so.

    TF32 keeps 10 of the 23 binary digits behind the point, about three decimal digits instead of seven; sums stay
    float32. In return the GPU's matrix units do them several times as fast. For the whole process, all GPUs.
    set_tf32(True) raises InputError where there is no GPU, or one before NVIDIA's Ampere generation, which has no TF32.
    """
    if not allow and ("cupy" not in sys.modules or best_device() == "cpu"):
        return  # without a GPU it is off
    cupy = module_for("gpu")
    if allow:
        capability = int(cupy.cuda.Device().compute_capability)
        if capability < 80:
            raise InputError(
                "set_tf32", "this GPU has no TF32.",
                "compute capability 8.0 or higher (NVIDIA Ampere, 2020, and later).",
                f"{capability // 10}.{capability % 10}.", "leave it off: float32 products work on every GPU.",
            )  # fmt: skip
    products = cupy._core._routines_linalg  # what the environment variable CUPY_TF32 would set, once and for all
    products.set_compute_type(np.float32, products.COMPUTE_TYPE_TF32 if allow else products.COMPUTE_TYPE_DEFAULT)


def current_device() -> Device:
    """That of the innermost `with device(...)`, else the CPU."""
    entered = _entered.get()
    return entered[-1][0] if entered else Device("cpu")


def move(array: Array, where: Device) -> Array:
    """The array on that device: itself where it is there already."""
    if where == "cpu":
        return to_host(array)
    if xp_of(array) is not np and array.device.id != where.number:
        array = to_host(array)
    with where:
        return where.xp.asarray(array)


@contextmanager
def explained_memory(what: str, fix: str) -> Iterator[None]:
    """Where the GPU's memory does not suffice inside, an InputError that says what for, and what would help."""
    try:
        yield
    except MemoryError as error:
        cupy = sys.modules.get("cupy")
        if cupy is None or not isinstance(error, cupy.cuda.memory.OutOfMemoryError):
            raise
        free, total = cupy.cuda.runtime.memGetInfo()
        raise InputError(
            "device", "the memory of the GPU is full.", f"room for {what}.",
            f"{error} Free: {free / 1e6:.0f} MB of {total / 1e6:.0f} MB.", fix,
        ) from error  # fmt: skip


def to_host(x: Array) -> np.ndarray:
    """x as a NumPy array: itself when it is one already."""
    return x if isinstance(x, np.ndarray) else np.asarray(x.get() if hasattr(x, "get") else x)


def blank(x: Array) -> Array:
    """New memory of x's shape and dtype, C-contiguous whatever x is; its content is to be overwritten.

    To be given as `out=`: CuPy's element-wise functions do not have NumPy's `order="C"`.
    """
    return xp_of(x).empty(x.shape, x.dtype)


def serves(x: Array) -> bool:
    """Whether our kernels can compute with x: a CuPy array of float32 or float64, on an NVIDIA GPU (not on AMD's)."""
    xp = xp_of(x)
    return xp is not np and x.dtype in (np.float32, np.float64) and not xp.cuda.runtime.is_hip


def on_gpu(variant: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator of a kernel: `variant`, of the same arguments, computes instead if our kernels can serve the first."""

    def decorate(kernel: Callable[..., Any]) -> Callable[..., Any]:
        first = next(iter(signature(kernel).parameters))

        @wraps(kernel)
        def chosen(*args: Any, **kwargs: Any) -> Any:
            array = args[0] if args else kwargs.get(first)  # None: the kernel itself says what is missing
            on_host = type(array) is np.ndarray
            return (kernel if on_host or not serves(array) else variant)(*args, **kwargs)

        chosen.variant = variant  # type: ignore[attr-defined]
        return chosen

    return decorate


Product = Callable[[Array, Array, Array | None], Array]  # (a, b, out) -> a @ b


class _Capture(threading.local):
    """What this thread's products on a GPU go to instead, while a step is captured (minicnn/training/capture.py)."""

    matmul: Product | None = None


class _Shared(threading.local):
    """What this thread's products on the CPU go to, where other threads take a share (minicnn/training/shards.py)."""

    matmul: Product | None = None


capture, shared = _Capture(), _Shared()


def matmul(a: Array, b: Array, out: Array | None = None) -> Array:
    """a @ b, by the library of the array's own module (BLAS, cuBLAS); written to `out` where it is given."""
    xp = xp_of(a)
    elsewhere = shared.matmul if xp is np else capture.matmul
    return xp.matmul(a, b, out=out) if elsewhere is None else elsewhere(a, b, out)


# The cost of a kernel in NumPy is memory, not arithmetic. What one image needs fits into the processor's cache,
# what a batch needs does not. So the CPU kernels walk over the batch in tiles and reuse scratch memory between them.

TILE_BYTES = 1 << 21


class _Scratch(threading.local):
    """Each thread's own buffers, by name and dtype."""

    def __init__(self) -> None:
        self.buffers: dict[tuple[str, np.dtype], np.ndarray] = {}


_scratch = _Scratch()


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
    buffers, key = _scratch.buffers, (name, dtype)
    buffer = buffers.get(key)
    if buffer is None or buffer.size < count:
        buffer = buffers[key] = np.empty(count, dtype)
    return buffer[:count].reshape(shape)


def tiles(x: Array, tile_bytes: int = TILE_BYTES) -> Iterator[slice]:
    """Cut the first axis of x into slices of about `tile_bytes`: cache-sized on the CPU, all at once on a GPU."""
    count = len(x)
    step = count if xp_of(x) is not np else max(1, tile_bytes * count // max(1, x.nbytes))
    for start in range(0, count, max(1, step)):
        yield slice(start, min(start + step, count))
