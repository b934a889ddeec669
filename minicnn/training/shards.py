"""Threads: a batch is cut into shards, one for each thread, and layers cannot tell the difference.

NumPy and BLAS let go of Python's global lock while they compute, so plain threads run side by side. Each runs ordinary
layer code over its shard. Where a layer needs the whole batch (batch normalisation), it calls `all_reduce(part)`:
a barrier and a sum. BLAS itself is held to one thread meanwhile, or the two would fight for the processor.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from numbers import Integral
from typing import Any

from minicnn.arguments import in_words
from minicnn.backend import Array, quiet
from minicnn.errors import InputError
from minicnn.training.profiling import POOL_NAME, carried, stage

# A shard is worth a thread when its forward pass has about this many multiply-accumulates (0.1 ms or more).
MIN_MACS_PER_SHARD = 4_000_000
# From this many parameters on, the optimizer's work on them is shared by the threads.
MIN_PARAMS_TO_SHARE = 400_000
# A network of dense layers uses each of its many weights once a sample. If a small batch of it were cut, every thread
# would read all weights for a few rows: up to so many samples, BLAS shall cut the weights instead.
MAX_BATCH_OF_WEIGHTS = 64

_num_threads: int | None = None


def usable_cores() -> int:
    """How many cores this process may use: at most OMP_NUM_THREADS, which joblib sets for its processes."""
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):  # Linux; containers and taskset set it
        cores = len(os.sched_getaffinity(0))
    told = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(cores, int(told))) if told.isdecimal() else cores


@in_words
def set_num_threads(n: int | None) -> None:
    """How many threads training and prediction may use. None: as many as there are usable cores (the default)."""
    global _num_threads
    if n is not None and (not isinstance(n, Integral) or isinstance(n, bool) or int(n) < 1):
        raise InputError(
            "set_num_threads", "this number of threads cannot be.", "a whole number of 1 or more, or None.",
            f"{n!r}.", "for example set_num_threads(2).",
        )  # fmt: skip
    _num_threads = None if n is None else int(n)


@in_words
def get_num_threads() -> int:
    """How many threads training and prediction may use."""
    return usable_cores() if _num_threads is None else _num_threads


def shards_for(samples: int, macs_per_sample: int) -> int:
    """Into how many shards a batch is cut: 1 for small work, where starting threads would cost more than they save."""
    return max(1, min(get_num_threads(), samples, samples * macs_per_sample // MIN_MACS_PER_SHARD))


def split(samples: int, shards: int) -> list[slice]:
    """`samples` cut into at most `shards` runs whose lengths differ by one at most; none is empty."""
    shards = max(1, min(shards, samples))
    return [slice(k * samples // shards, (k + 1) * samples // shards) for k in range(shards)]


class AllReduce:
    """The sum of an array over n threads: each brings its part, all receive the same total."""

    def __init__(self, n: int):
        self.barrier = threading.Barrier(n)
        # Two rounds in turn: a thread that is already in the next one cannot overwrite what others still read.
        self.rounds: list[list[Array]] = [[None] * n, [None] * n]

    def of_worker(self, k: int) -> Callable[[Array], Array]:
        """The function that worker k calls."""
        calls = 0

        def all_reduce(part: Array) -> Array:
            nonlocal calls
            parts = self.rounds[calls % 2]
            calls += 1
            parts[k] = part
            with stage("waiting for threads"):
                self.barrier.wait()
            return sum(parts[1:], start=parts[0])  # everywhere in the same order: everywhere the same bits

        return all_reduce


class Workers:
    """Threads for the length of a `with` block; the calling thread is the first. BLAS is held to one meanwhile.

    threads: how many. shards: into how many pieces a batch is to be cut, at most `threads`.
    """

    def __init__(self, threads: int, shards: int | None = None, blas_threads: int = 1):
        self.threads, self.shards = threads, threads if shards is None else shards
        self.blas_threads = blas_threads

    @classmethod
    def for_model(cls, model: Any, batch_size: int) -> Workers:
        """As many as batches of this size, and the optimizer's work on the parameters, deserve.

        A single large sample cannot be cut: there BLAS itself may use the threads. On a GPU it is always one.
        """
        if model.device != "cpu":  # a GPU takes the batch in one piece
            return cls(1)
        threads = get_num_threads()
        if not model.built:  # a generator has not shown yet what a sample is
            return cls(threads)
        macs = model.macs(model.sample_shape)
        shards = shards_for(batch_size, macs)
        if batch_size == 1 and macs >= MIN_MACS_PER_SHARD:
            return cls(1, 1, threads)
        params = model.count_params()
        many = params >= MIN_PARAMS_TO_SHARE
        if many and shards > 1 and batch_size <= MAX_BATCH_OF_WEIGHTS and macs <= 2 * params:
            return cls(threads, 1, threads)
        return cls(threads if shards > 1 or many else 1, shards)

    def __enter__(self) -> Workers:
        _blas.hold(self.blas_threads)
        limit = partial(_blas.limit_here, self.blas_threads)
        self.pool = ThreadPoolExecutor(self.threads - 1, POOL_NAME, limit) if self.threads > 1 else None
        return self

    def __exit__(self, *exception: object) -> None:
        _blas.release()
        if self.pool is not None:
            self.pool.shutdown()

    def run(self, f: Callable[[int, Callable[[Array], Array] | None], Any], n: int) -> list[Any]:
        """[f(0, all_reduce), …, f(n-1, all_reduce)], side by side; n is at most `threads`, all_reduce None for n = 1.

        An exception in one reaches the caller with its own traceback, and the others do not wait for it.
        """
        assert n <= self.threads, "shards without a thread would be forgotten"
        if n == 1 or self.pool is None:
            return [f(0, None)]
        meeting = AllReduce(n)

        @quiet
        def work(k: int) -> Any:
            try:
                return f(k, meeting.of_worker(k))
            except BaseException:
                meeting.barrier.abort()  # whoever waits at the barrier is let go with BrokenBarrierError
                raise

        def result(future: Future) -> Any:
            with stage("waiting for threads"):
                return future.result()

        elsewhere = carried(work)
        futures: list[Future] = []
        try:
            for k in range(1, n):
                futures.append(self.pool.submit(elsewhere, k))
        except BaseException:  # an interrupt, or the interpreter is ending: those that were sent off must not wait
            meeting.barrier.abort()
            raise
        results, errors = [], []
        for get in (partial(work, 0), *(partial(result, future) for future in futures)):
            try:
                results.append(get())
            except BaseException as error:
                errors.append(error)
        if errors:
            broken = threading.BrokenBarrierError
            raise next((e for e in errors if not isinstance(e, broken)), errors[0])
        return results


class _Blas:
    """Holds BLAS to one thread while a `with Workers` block is open.

    Every thread sets the limit for itself, and takes back its own: some BLAS libraries have one number for the process,
    in others that of the main thread bounds those of the rest. All go back to what was there before the first block.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.holders = 0
        self.controller: Any = None
        self.before: Any = None  # the limit that the first of the holders set: it knows how to undo it

    def hold(self, threads: int) -> None:
        with self.lock:
            if self.controller is None:
                from threadpoolctl import ThreadpoolController

                self.controller = ThreadpoolController().select(user_api="blas")
            limit = self.controller.limit(limits=threads)
            if self.holders == 0:
                self.before = limit
            self.holders += 1  # only now: whoever did not get hold of it does not let go of it

    def limit_here(self, threads: int) -> None:
        """The same for a thread that works for a holder, and ends with it."""
        with self.lock:
            self.controller.limit(limits=threads)

    def release(self) -> None:
        with self.lock:
            self.holders -= 1
            self.before.restore_original_limits()

    def forget_holders(self) -> None:
        """In a process that was forked off: the holders are threads of the parent, and so is who took the lock."""
        self.lock, self.holders = threading.Lock(), 0


_blas = _Blas()
if hasattr(os, "register_at_fork"):  # no fork while BLAS is told something: its own locks would stay closed for ever
    os.register_at_fork(
        before=lambda: _blas.lock.acquire(), after_in_parent=lambda: _blas.lock.release(),
        after_in_child=_blas.forget_holders,
    )  # fmt: skip
