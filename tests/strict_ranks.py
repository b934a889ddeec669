"""Ranks as threads of one process, on a communicator that stands in for mpi4py's, and is stricter than any MPI.

- It has the calls that send memory as it lies, and no others: `comm.allreduce(x)`, which pickles, is an error.
- All ranks must make the same collective calls in the same order, with arrays of the same shape and dtype: anything
  else is an error on all of them, at once, where MPI would hang or mix up numbers.
- Whoever waits for a rank that does not come gets an error after TIMEOUT seconds.

Each rank is a thread with a group of its own, so a test sees what every rank returned.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from minicnn.ranks import is_told, within
from minicnn.training.distributed import RankGroup

TIMEOUT = 60.0


class BrokenError(AssertionError):
    """The ranks have done what MPI would not survive."""


class AbortedError(RuntimeError):
    """A rank has ended all of them."""


class World:
    """What the ranks of one run share. journal: (name of the call, dtype, bytes that each rank sends) of rank 0."""

    def __init__(self, size: int):
        self.size, self.lock = size, threading.Condition()
        self.wrong: BaseException | None = None
        self.calls: dict[Any, list[Any]] = {}
        self.messages: list[tuple[int, int, int, int, np.ndarray]] = []  # communicator, source, target, tag, memory
        self.journal: list[tuple[str, str, int]] = []

    def fail(self, error: BaseException) -> None:
        with self.lock:
            self.wrong = self.wrong or error
            self.lock.notify_all()


class Request:
    def __init__(self, communicator: Communicator, key: Any = None):
        self.communicator, self.key, self.start = communicator, key, time.monotonic()

    def Test(self) -> bool:  # noqa: N802
        world = self.communicator.world
        with world.lock:
            if world.wrong is not None:
                raise type(world.wrong)(*world.wrong.args)
            if self.key is None:
                return True
            calls = world.calls[self.key]
            if None in calls:
                if time.monotonic() - self.start > TIMEOUT:
                    missing = [rank for rank, call in enumerate(calls) if call is None]
                    raise BrokenError(f"call {self.key}: rank {missing} did not come")
                world.lock.wait(0.01)  # nobody spins: the other ranks need the processor
                return False
            if self.key in self.communicator.pending:
                self.communicator.pending.remove(self.key)
                name, send, receive, root = calls[self.communicator.rank]
                rank = self.communicator.rank
                if name == "allgather":
                    receive[...] = np.stack([call[1] for call in calls]).reshape(receive.shape)
                elif name == "alltoall":
                    receive[...] = np.stack([call[1][rank] for call in calls])
                elif name == "bcast" and rank != root:
                    receive[...] = calls[root][1]
            return True


class Communicator:
    """One rank's end. Numbers are copied when a call begins: what a rank writes there afterwards, nobody gets."""

    def __init__(self, world: World, rank: int, number: int = 0):
        self.world, self.rank, self.number, self.count, self.copies = world, rank, number, 0, 0
        self.pending: set[Any] = set()

    def __getattr__(self, name: str) -> Any:
        raise BrokenError(f"mpi4py's {name} is not a call that group code may use (lower case: it pickles)")

    def Get_rank(self) -> int:  # noqa: N802
        return self.rank

    def Get_size(self) -> int:  # noqa: N802
        return self.world.size

    def Dup(self) -> Communicator:  # noqa: N802
        self.copies += 1
        return Communicator(self.world, self.rank, 10 * self.number + self.copies)

    def Split_type(self, kind: int) -> Communicator:  # noqa: N802
        return self.Dup()

    def Abort(self, code: int) -> None:  # noqa: N802
        self.world.fail(AbortedError(f"rank {self.rank} has aborted"))
        raise AbortedError(f"rank {self.rank} has aborted")

    def Iallgather(self, send: np.ndarray, receive: np.ndarray) -> Request:  # noqa: N802
        assert receive.shape == (self.world.size, *send.shape) and receive.dtype == send.dtype
        return self._begin("allgather", send, receive)

    def Ialltoall(self, send: np.ndarray, receive: np.ndarray) -> Request:  # noqa: N802
        assert send.shape == receive.shape and len(send) == self.world.size and receive.dtype == send.dtype
        return self._begin("alltoall", send, receive)

    def Ibcast(self, array: np.ndarray, root: int) -> Request:  # noqa: N802
        return self._begin("bcast", array, array, root)

    def _begin(self, name: str, send: np.ndarray, receive: np.ndarray, root: int = 0) -> Request:
        for array in (send, receive):
            assert type(array) is np.ndarray and array.flags.c_contiguous and array.dtype.kind in "iuf", name
        key = self.number, self.count
        self.count += 1
        with self.world.lock:
            calls = self.world.calls.setdefault(key, [None] * self.world.size)
            calls[self.rank] = name, send.copy(), receive, root
            self.pending.add(key)
            kinds = {(c[0], c[1].shape, c[1].dtype, c[3]): k for k, c in enumerate(calls) if c is not None}
            if len(kinds) > 1:
                said = "; ".join(f"rank {k}: {kind[0]} {kind[1]} {kind[2]}" for kind, k in kinds.items())
                self.world.wrong = self.world.wrong or BrokenError(f"the ranks make different calls. {said}")
            if self.rank == 0:
                self.world.journal.append((name, str(send.dtype), send.nbytes))
            self.world.lock.notify_all()
        return Request(self, key)

    # ---- messages between two ranks ---------------------------------------------------------------------------------

    def Isend(self, array: np.ndarray, target: int, tag: int) -> Request:  # noqa: N802
        with self.world.lock:
            self.world.messages.append((self.number, self.rank, target, tag, array.copy()))
        return Request(self)

    def Iprobe(self, source: int, tag: int) -> bool:  # noqa: N802
        with self.world.lock:
            return any(m[:4] == (self.number, source, self.rank, tag) for m in self.world.messages)

    def Recv(self, array: np.ndarray, source: int, tag: int) -> None:  # noqa: N802
        with self.world.lock:
            found = next(m for m in self.world.messages if m[:4] == (self.number, source, self.rank, tag))
            self.world.messages.remove(found)
            array[...] = found[4]


def run(
    size: int, script: Callable[[], Any], world: World | None = None, say: Callable[[str], None] | None = None
) -> list[Any]:
    """What script() returns on each of `size` ranks; of a rank on which it raises, the exception."""
    world = world or World(size)
    results: list[Any] = [None] * size

    def rank(k: int) -> None:
        try:
            with within(RankGroup(Communicator(world, k), say=say or (lambda text: None))):
                results[k] = script()
        except BaseException as error:
            results[k] = error
            if not is_told(error):
                world.fail(AbortedError(f"rank {k} has ended: {type(error).__name__}: {error}"))

    threads = [threading.Thread(target=rank, args=(k,), daemon=True) for k in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * TIMEOUT)
        assert not thread.is_alive(), "a rank hangs"
    return results


def all_well(results: list[Any]) -> list[Any]:
    """The results, none of which is an exception."""
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results
