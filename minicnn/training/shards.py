"""Threads: a batch is cut into shards, one for each thread, and layers cannot tell the difference.

NumPy and BLAS let go of Python's global lock while they compute, so plain threads run side by side. Each runs ordinary
layer code over its shard. Where a layer needs the whole batch (batch normalisation), it calls `all_reduce(part)`:
a barrier and a sum. BLAS itself is held to one thread meanwhile, or the two would fight for the processor.
A small batch for many weights stays in one piece; then the threads share each product, cut along the weights.

Where several processes train together (`minicnn/ranks.py`), each has its own run of the batch, which its threads cut
again. What all shards of a process have summed, one of its threads sums with the other processes.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from numbers import Integral
from typing import Any

import numpy as np

from minicnn.arguments import in_words
from minicnn.backend import Array, quiet, shared, to_host, xp_of
from minicnn.errors import InputError
from minicnn.ranks import Group, get_group, known
from minicnn.training.profiling import POOL_NAME, carried, stage

# A shard is worth a thread when its forward pass has about this many multiply-accumulates (0.1 ms or more).
MIN_MACS_PER_SHARD = 4_000_000
# From this many parameters on, the optimizer's work on them is shared by the threads.
MIN_PARAMS_TO_SHARE = 400_000
# A network of dense layers uses each of its many weights once a sample. If a small batch of it were cut, every thread
# would read all weights for a few rows, and have gradients of all of them, to be summed: up to so many samples, the
# weights are cut instead.
MAX_BATCH_OF_WEIGHTS = 256

_num_threads: int | None = None
_matmul: Callable[..., Array] = quiet(np.matmul)


def usable_cores() -> int:
    """How many cores this process may use: at most OMP_NUM_THREADS, which joblib sets for its processes."""
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):  # Linux; containers and taskset set it
        cores = len(os.sched_getaffinity(0))
    told = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(cores, int(told))) if told.isdecimal() else cores


@in_words
def set_num_threads(n: int | None) -> None:
    """How many threads training and prediction may use. None: as many as there are usable cores (the default).

    Where several ranks share a machine, its cores are divided by them.
    """
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
    if _num_threads is not None:
        return _num_threads
    return min(usable_cores(), get_group().cores or usable_cores())


def shards_for(samples: int, macs_per_sample: int) -> int:
    """Into how many shards a batch is cut: 1 for small work, where starting threads would cost more than they save."""
    return max(1, min(get_num_threads(), samples, samples * macs_per_sample // MIN_MACS_PER_SHARD))


def split(samples: int, shards: int) -> list[slice]:
    """`samples` cut into at most `shards` runs whose lengths differ by one at most; none is empty."""
    shards = max(1, min(shards, samples))
    return [slice(k * samples // shards, (k + 1) * samples // shards) for k in range(shards)]


def is_dense(model: Any) -> bool:
    """Whether a sample meets most weights once, as in dense layers; a convolution uses each of its own many times."""
    return model.macs(model.sample_shape) <= 2 * model.count_params()


def in_order(parts: Sequence[Any]) -> Any:
    """The sum of the shards' parts: always in the same order, so always the same bits.

    Nothing is added to a single one: on a GPU that would be a kernel.
    """
    return sum(parts[1:], start=parts[0])


class AllReduce:
    """The sum of an array over n threads: each brings its part, all receive the same total.

    beyond: what sums that with the totals of other processes; one thread alone calls it.
    """

    def __init__(self, n: int, beyond: Callable[[Array], Array] | None = None):
        self.barrier = threading.Barrier(n, self._sum)
        self.parts: list[Array] = [None] * n
        self.beyond = beyond

    def _sum(self) -> None:
        """What the last one to arrive does, while the others wait."""
        total: Array = in_order(self.parts)
        self.total = total if self.beyond is None else self.beyond(total)

    def of_worker(self, k: int) -> Callable[[Array], Array]:
        """The function that worker k calls."""

        def all_reduce(part: Array) -> Array:
            self.parts[k] = part
            with stage("waiting for threads"):
                self.barrier.wait()
            return self.total.copy()  # of one's own: a layer may go on with it in place

        return all_reduce


class Workers:
    """Threads for the length of a `with` block; the calling thread is the first. BLAS is held to one meanwhile.

    threads: how many. shards: into how many pieces a batch is to be cut, at most `threads`; where it is one, the
    threads share the large products of matrices. group: the processes that share each batch; a group of one unless
    given.
    """

    def __init__(self, threads: int, shards: int | None = None, blas_threads: int = 1, group: Group | None = None):
        self.threads, self.shards = threads, threads if shards is None else shards
        self.blas_threads = blas_threads
        self.pool: Any = None
        self.processes: Any = None  # those of a fit, which run its shards instead of the threads: see processes.py
        self.group = Group() if group is None else group
        self.counts: list[int] = []  # how many samples of the present batch each rank has

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
        many = model.count_params() >= MIN_PARAMS_TO_SHARE
        if many and shards > 1 and batch_size <= MAX_BATCH_OF_WEIGHTS and is_dense(model):
            return cls(threads, 1)
        return cls(threads if shards > 1 or many else 1, shards)

    def __enter__(self) -> Workers:
        _blas.hold(self.blas_threads)
        limit = partial(_blas.limit_here, self.blas_threads)
        if self.threads > 1:
            self.pool = ThreadPoolExecutor(self.threads - 1, POOL_NAME, limit)
        return self

    def __exit__(self, *exception: object) -> None:
        if self.processes is not None:
            self.processes.close()
        _blas.release()
        if self.pool is not None:
            self.pool.shutdown()

    def run(self, f: Callable[[int, Callable[[Array], Array] | None], Any], n: int) -> list[Any]:
        """[f(0, all_reduce), …, f(n-1, all_reduce)], side by side; n is at most `threads`.

        all_reduce is None where the whole batch is one shard.

        An exception in one reaches the caller with its own traceback, and the others do not wait for it.
        """
        assert n <= self.threads, "shards without a thread would be forgotten"
        beyond = None if self.group.size == 1 else self._all_reduce
        if n == 1:
            before, shared.matmul = shared.matmul, self._product if self.pool and self.shards == 1 else None
            try:
                return [f(0, beyond)]
            finally:
                shared.matmul = before
        meeting = AllReduce(n, beyond)

        @quiet
        def work(k: int) -> Any:
            try:
                return f(k, meeting.of_worker(k))
            except BaseException:
                meeting.barrier.abort()  # whoever waits at the barrier is let go with BrokenBarrierError
                raise

        elsewhere = carried(work)
        futures: list[Future] = []
        try:
            for k in range(1, n):
                futures.append(self.pool.submit(elsewhere, k))
        except BaseException:  # an interrupt, or the interpreter is ending: those that were sent off must not wait
            meeting.barrier.abort()
            raise
        results, errors = [], []
        for get in (partial(work, 0), *(partial(_result, future) for future in futures)):
            try:
                results.append(get())
            except BaseException as error:
                errors.append(error)
        if errors:
            broken = threading.BrokenBarrierError
            raise next((e for e in errors if not isinstance(e, broken)), errors[0])
        return results

    def _product(self, a: Array, b: Array, out: Array | None = None) -> Array:
        """a @ b. One of large matrices is cut along the longer side of the result, in a part for each thread."""
        if a.ndim != 2 or b.ndim != 2 or a.size * b.shape[1] < self.threads * MIN_MACS_PER_SHARD:
            return np.matmul(a, b, out=out)
        rows, columns = len(a), b.shape[1]
        y = np.empty((rows, columns), np.result_type(a, b)) if out is None else out
        if rows > columns:
            (own, *others) = [(a[part], b, y[part]) for part in split(rows, self.threads)]
        else:
            (own, *others) = [(a, b[:, part], y[:, part]) for part in split(columns, self.threads)]
        futures = [self.pool.submit(_matmul, *part) for part in others]
        try:
            np.matmul(*own)
        finally:  # nobody writes into y any more once it is given back
            for future in futures:
                _result(future)
        return y

    # ---- the other processes ---------------------------------------------------------------------------------------

    def meet(self, what: str, lengths: Any, x: Array, *others: Array) -> tuple[Array, ...]:
        """All ranks have their runs of a batch: x, y and the like. Returns those of this one, to work on.

        lengths: of the whole batches, which the ranks must agree about; the first is taken away. `counts` then tells
        how many samples each rank has. Where it is none, a rank works on a sample of zeros, and brings zeros to all
        sums.
        """
        if self.group.size == 1:
            self.counts = [len(x)]
            return x, *others
        with stage("waiting for ranks"):
            met = self.group.meet(what, [len(x), lengths.popleft()]).astype(int)
        self.counts = met[:, 0].tolist()
        if (met[:, 1] != met[0, 1]).any():
            raise known(
                InputError(
                    "ranks", "they have different batches.", "the same data on every rank, in the same order.",
                    ", ".join(f"rank {k}: {n} samples" for k, n in enumerate(met[:, 1])) + f" at {what}.",
                    "give what draws or shuffles them a seed, the same on all ranks.",
                )
            )  # fmt: skip
        if len(x) or not self.samples:
            return x, *others
        return tuple(xp_of(array).zeros((1, *array.shape[1:]), array.dtype) for array in (x, *others))

    @property
    def samples(self) -> int:
        """How many samples the present batch has on all ranks together."""
        return sum(self.counts)

    def place(self, n: int) -> tuple[int, int]:
        """(number of the first sample in the whole batch, samples of the whole batch), where this rank has n."""
        return (0, n) if self.group.size == 1 else (sum(self.counts[: self.group.rank]), self.samples)

    @property
    def idle(self) -> bool:
        """Whether this rank has no sample of the present batch."""
        return self.group.size > 1 and self.counts[self.group.rank] == 0

    def rows(self, array: np.ndarray) -> np.ndarray:
        """The rows of all ranks, in their order."""
        if self.group.size == 1:
            return array
        with stage("waiting for ranks"):
            return np.concatenate(self.group.gather_rows(array[:0] if self.idle else array))

    def any(self, flag: Any) -> bool:
        """Whether it is true on any rank that has samples."""
        return bool(self.totals(float(bool(flag)))[0])

    def one_thread(self) -> Workers:
        """The same batch, in one shard on each rank."""
        alone = Workers(1, group=self.group)
        alone.counts = self.counts
        return alone

    def _all_reduce(self, part: Array) -> Array:
        with stage("waiting for ranks"):
            return self.group.all_reduce(xp_of(part).zeros_like(part) if self.idle else part)

    def totals(self, *values: Any) -> tuple[Any, ...]:
        """Numbers, and arrays of numbers, of this process: each summed over all, in float64."""
        if self.group.size == 1:
            return values
        arrays = [np.asarray(to_host(value), np.float64) for value in values]
        flat = self._all_reduce(np.concatenate([array.reshape(-1) for array in arrays]))
        parts = np.split(flat, np.cumsum([array.size for array in arrays])[:-1])
        return tuple(part.reshape(array.shape)[()] for part, array in zip(parts, arrays, strict=True))

    def gradients(self, grads: dict[Any, list[Array]]) -> dict[Any, list[Array]]:
        """The shards' gradients of each parameter, summed over all processes: packed in one array, one all-reduce."""
        if self.group.size == 1 or not grads:
            return grads
        first = next(iter(grads.values()))[0]
        flat = xp_of(first).empty(sum(shares[0].size for shares in grads.values()), first.dtype)
        for (total, *shares), place in zip(grads.values(), _places(flat, grads), strict=True):
            place[...] = total
            for share in shares:
                place += share
        flat = self._all_reduce(flat)
        return {key: [place] for key, place in zip(grads, _places(flat, grads), strict=True)}


def _result(future: Future) -> Any:
    with stage("waiting for threads"):
        return future.result()


def _places(flat: Array, grads: dict[Any, list[Array]]) -> list[Array]:
    """The parts of a packed array that belong to each parameter, in its shape."""
    places, start = [], 0
    for shares in grads.values():
        places.append(flat[start : start + shares[0].size].reshape(shares[0].shape))
        start += shares[0].size
    return places


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
