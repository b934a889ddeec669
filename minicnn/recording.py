"""A GPU step written down once, to be repeated: what `minicnn/training/graph.py` makes and the kernels take part in.

A CUDA graph repeats launches exactly as they were recorded, with the same addresses and the same arguments. So while a
step is being recorded, three things differ for whoever computes:

    matmul(a, b)         is left out of the graph: CuPy refuses to record a call of cuBLAS, which stays an ordinary call
    plainly(f, ...)      the same for what Python has to do anew at each step, such as the optimizer's step
    EachStep             a number that is another one at each step (the dropout seed): nobody may look at it now; it
                         waits in the GPU's memory, where a kernel reads it (Recording.numbers)

A recording is thus a list of parts in turn: a graph, a matrix product, a graph, … Nobody but this file knows of it:
outside of a recording, `matmul` and `plainly` simply call.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

from minicnn.backend import Array, capture, xp_of

_here = threading.local()


def recording() -> Recording | None:
    """What this thread is recording, if it is."""
    return getattr(_here, "recording", None)


def plainly(f: Callable[..., Any], *args: Any) -> None:
    """f(*args), now; in a recording at each step, and not as a part of a graph. What it returns is lost."""
    ours = recording()
    if ours is None:
        f(*args)
    else:
        ours.add(lambda: f(*args))


def _product_shape(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    if len(a) == 1:
        return (*b[:-2], b[-1])
    return (*np.broadcast_shapes(a[:-2], b[:-2]), a[-2], b[-1])


class EachStep:
    """A whole number that is known only when a step begins. Adding one to it makes another such number."""

    def __init__(self, now: Callable[[], int]):
        self.now = now

    def __add__(self, other: int) -> EachStep:
        return EachStep(lambda: self.now() + other)

    __radd__ = __add__

    def _refuse(self, *_: Any) -> Any:
        raise TypeError("a number that differs from step to step (ctx.seed or ctx.step) was used in Python")

    __int__ = __index__ = __float__ = __bool__ = __eq__ = __lt__ = __le__ = __gt__ = __ge__ = _refuse
    __mul__ = __rmul__ = __sub__ = __rsub__ = __mod__ = __floordiv__ = __xor__ = __str__ = __repr__ = _refuse
    __hash__ = None  # type: ignore[assignment]

    def words(self, f: Callable[[int], Sequence[Any]], count: int) -> Array:
        """(count,) of uint64 on the GPU: what f makes of the number, at each step."""
        ours = recording()
        assert ours is not None, "only a recording has numbers of later"
        return ours.numbers(lambda: f(self.now()), count)


class Recording:
    """The parts of a step, in turn; `with` begins and ends recording, `run` repeats what was recorded.

    Nothing is computed while it records. All memory that is taken meanwhile comes from a pool of the recording's own,
    which lives as long as the recording: what is free there is free between the parts of this step only.
    """

    def __init__(self, cupy: Any):
        self.cupy = cupy
        self.stream = cupy.cuda.Stream(non_blocking=True)  # CUDA records no other kind
        self.pool = cupy.cuda.MemoryPool()
        self.parts: list[Callable[[], Any]] = []
        self._numbers: list[tuple[Array, Callable[[], Sequence[Any]]]] = []
        self._recording = ExitStack()

    def __enter__(self) -> Recording:
        self._begin()
        _here.recording, capture.matmul = self, self.matmul
        return self

    def __exit__(self, *exception: object) -> None:
        _here.recording = capture.matmul = None
        try:
            self._end()
        except Exception:
            if exception[0] is None:  # else that is the cause, and this its consequence
                raise

    def matmul(self, a: Array, b: Array, out: Array | None) -> Array:
        """a @ b at this place of each step: what `minicnn.backend.matmul` is meanwhile."""
        xp = xp_of(a)
        y = xp.empty(_product_shape(a.shape, b.shape), np.result_type(a.dtype, b.dtype)) if out is None else out
        rows, y_rows = (a, y) if a.ndim > 1 else (a[None], y[..., None, :])
        self.add(lambda: xp.matmul(rows, b, out=y_rows))
        return y

    def add(self, part: Callable[[], Any]) -> None:
        """`part` is called at this place of each step."""
        self._end()
        self.parts.append(part)
        self._begin()

    def numbers(self, now: Callable[[], Sequence[Any]], count: int) -> Array:
        """(count,) of uint64 on the GPU, which hold at each step what now() gives when the step begins."""
        self._end()  # this memory is filled outside of the graphs
        there = self.cupy.zeros(count, np.uint64)
        self._begin()
        self._numbers.append((there, now))
        return there

    def run(self) -> None:
        """Do the step again, on the current stream. Does not wait for it."""
        stream = self.cupy.cuda.get_current_stream()
        for there, now in self._numbers:
            there.set(np.array(now(), np.uint64), stream)  # with a stream it is asynchronous
        for part in self.parts:
            part()

    def _begin(self) -> None:
        with ExitStack() as stack:
            stack.enter_context(self.stream)
            stack.enter_context(self.cupy.cuda.using_allocator(self.pool.malloc))
            stack.enter_context(_nothing_from_the_host(self.cupy))
            self.stream.begin_capture()
            self._recording = stack.pop_all()

    def _end(self) -> None:
        with self._recording:
            self.parts.append(self.stream.end_capture().launch)


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
