"""A GPU computation captured once, to be replayed: a CUDA graph, or several with what cannot be captured between them.

A CUDA graph replays launches exactly as they were captured, with the same addresses and the same arguments. So while
something is captured, two things are different:

    matmul(a, b)         calls cuBLAS directly, since CuPy refuses to while a stream captures. Where that cannot be
                         (three axes, no such library) it becomes a host call between two graphs. This is the one hook
                         that the kernels see, `minicnn.backend.capture`
    StepVariable         a number that is another one at each step (the dropout seed): nobody may look at it now; it
                         waits in the GPU's memory, where a kernel reads it
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

from minicnn import backend
from minicnn.backend import Array, xp_of
from minicnn.kernels import cuda
from minicnn.kernels.cuda.products import Products

MAX_WORDS = 4096  # that differ from step to step: four for each dropout layer


class StepVariable:
    """A whole number that is known only when a step begins. Adding one to it makes another such number."""

    def __init__(self, capture: Capture, now: Callable[[], int]):
        self.capture, self.now = capture, now

    def __add__(self, other: int) -> StepVariable:
        now = self.now  # and not self: what the capture holds may not hold the capture, or its memory would stay
        return StepVariable(self.capture, lambda: now() + other)

    __radd__ = __add__

    def words(self, f: Callable[[int], Sequence[int]], count: int) -> Array:
        """(count,) of uint64 on the GPU: what f makes of the number, at each step."""
        now = self.now
        return self.capture.words(lambda: f(now()), count)

    def _refuse(self, *_: Any) -> Any:
        raise TypeError("a number that differs from step to step (ctx.seed or ctx.step) was used in Python")

    __int__ = __index__ = __float__ = __bool__ = __eq__ = __lt__ = __le__ = __gt__ = __ge__ = _refuse
    __mul__ = __rmul__ = __sub__ = __rsub__ = __mod__ = __floordiv__ = __xor__ = __str__ = __repr__ = _refuse
    __hash__ = None  # type: ignore[assignment]


_mine = threading.local()  # the streams of this thread, and what belongs to them


def own_stream(cupy: Any, purpose: str) -> Any:
    """This thread's stream for a purpose on the current device: one for all times. CUDA captures no blocking one."""
    streams = vars(_mine).setdefault("streams", {})
    key = cupy, cupy.cuda.Device().id, purpose
    if key not in streams:
        streams[key] = cupy.cuda.Stream(non_blocking=True)
    return streams[key]


def products_for(cupy: Any) -> Products | None:
    """cuBLAS for this thread's captures on the current device; None where a small product, tried out, goes wrong."""
    known = vars(_mine).setdefault("products", {})
    key = cupy, cupy.cuda.Device().id
    if key not in known:
        try:
            known[key] = _tried(cupy)
        except Exception:  # no such library, or one that takes memory while it is captured
            known[key] = None
    return known[key]


def _tried(cupy: Any) -> Products | None:
    a, y = cupy.asarray(np.arange(6, dtype=np.float32).reshape(2, 3)), cupy.zeros((2, 2), np.float32)
    capture = Capture(cupy, Products(cupy, own_stream(cupy, "capture")))
    with capture:
        capture.matmul(a, a.T, y)
    capture.replay()
    y.get()  # waits: what went wrong on the way is raised here
    return capture.products if len(capture.parts) == 1 else None


class Capture:
    """The parts of a step, in turn; `with` begins and ends capturing, `replay` does what was captured.

    Nothing is computed while it captures. All memory that is taken meanwhile comes from a pool of the capture's own,
    which lives as long as the capture: what is free there is free between the parts of this step only.

    products: cuBLAS, from `products_for`; None where it cannot be captured.
    """

    def __init__(self, cupy: Any, products: Products | None = None):
        self.cupy, self.products = cupy, products
        self.stream = own_stream(cupy, "capture")
        self.pool = cupy.cuda.MemoryPool()
        # What is free in a pool when it ends, CuPy would not give back.
        weakref.finalize(self, self.pool.free_all_blocks).atexit = False
        with self.stream:
            cuda.workspace(cupy)  # is made once for each stream, so not by what is captured
            self.words_there = cupy.zeros(MAX_WORDS, np.uint64)
        self.parts: list[Callable[[], Any]] = []
        self._words: list[Callable[[], Sequence[int]]] = []
        self._used = 0
        self._capturing = ExitStack()

    def __enter__(self) -> Capture:
        self._begin()
        backend.capture.matmul = self.matmul
        return self

    def __exit__(self, *exception: object) -> None:
        backend.capture.matmul = None
        try:
            self._end()
        except Exception:
            if exception[0] is None:  # else that is the cause, and this its consequence
                raise

    def matmul(self, a: Array, b: Array, out: Array | None) -> Array:
        """a @ b at this place of each step: what `minicnn.backend.matmul` is meanwhile."""
        xp = xp_of(a)
        y = xp.empty(_product_shape(a.shape, b.shape), np.result_type(a.dtype, b.dtype)) if out is None else out
        if self.products is not None and self.products.matmul(a, b, y):
            return y
        rows, y_rows = (a, y) if a.ndim > 1 else (a[None], y[..., None, :])
        self.host_call(lambda: xp.matmul(rows, b, out=y_rows))
        return y

    def host_call(self, call: Callable[[], Any]) -> None:
        """`call` is called at this place of each step, and is not a part of a graph."""
        self._end()
        self.parts.append(call)
        self._begin()

    def words(self, now: Callable[[], Sequence[int]], count: int) -> Array:
        """(count,) of uint64 on the GPU, which hold at each step what now() gives when the step begins."""
        first, self._used = self._used, self._used + count
        if self._used > MAX_WORDS:
            raise RuntimeError(f"more than {MAX_WORDS} numbers differ from step to step")
        self._words.append(now)
        return self.words_there[first : self._used]

    def replay(self) -> None:
        """Do the step again, on the current stream. Does not wait for it."""
        if self._words:
            words = np.array([word for now in self._words for word in now()], np.uint64)
            there = self.words_there[: len(words)]
            there.set(words, self.cupy.cuda.get_current_stream())  # with a stream it is asynchronous
        for part in self.parts:
            part()

    def _begin(self) -> None:
        with ExitStack() as stack:
            stack.enter_context(self.stream)
            stack.enter_context(self.cupy.cuda.using_allocator(self.pool.malloc))
            stack.enter_context(_nothing_from_the_host(self.cupy))
            self.stream.begin_capture()
            self._capturing = stack.pop_all()

    def _end(self) -> None:
        with self._capturing:
            self.parts.append(self.stream.end_capture().launch)


def _product_shape(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    if len(a) == 1:
        return (*b[:-2], b[-1])
    return (*np.broadcast_shapes(a[:-2], b[:-2]), a[-2], b[-1])


@contextmanager
def _nothing_from_the_host(cupy: Any) -> Iterator[None]:
    """Inside, this thread cannot copy arrays to the device.

    CuPy copies by way of pinned memory, which goes to the next copy afterwards. A graph would copy from it all the
    same, at each step, whatever it holds by then. Afterwards CuPy's own pool of such memory is in use
    again: CuPy does not tell which other one a program may have set.
    """
    thread, malloc = threading.get_ident(), cupy.get_default_pinned_memory_pool().malloc

    def refuse(size: int) -> Any:
        if threading.get_ident() != thread:
            return malloc(size)
        raise RuntimeError("an array was copied from the host to the GPU, which a CUDA graph cannot repeat")

    cupy.cuda.set_pinned_memory_allocator(refuse)
    try:
        yield
    finally:
        cupy.cuda.set_pinned_memory_allocator(malloc)
