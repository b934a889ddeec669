"""How the ranks of a run talk to each other: over MPI, and between GPUs by NCCL. What they say: `minicnn/ranks.py`.

Sums are made in the order of the ranks, so that all hold the same bits, whatever MPI's own reduction would do:

    small arrays     every rank gets all of them (Allgather), and adds them up
    large ones       are cut into a piece for each rank. A rank gets its piece from all others (Alltoall), adds them up,
                     and all get its sums (Allgather): of k ranks each sends and receives 2 (k - 1) / k of the array,
                     which is the least that any all-reduce can do

Only calls of mpi4py that send memory as it lies are used: nothing is pickled. They do not block, so that a rank which
waits can say for whom.
"""

from __future__ import annotations

import atexit
import importlib.util
import os
import socket
import sys
import threading
import time
import traceback
import weakref
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from minicnn import backend, random
from minicnn.backend import Array, to_host, xp_of
from minicnn.errors import InputError, visible
from minicnn.ranks import Group, get_group, is_told, set_group
from minicnn.training.interrupts import interrupts_wait

# Up to so many bytes for all ranks together, one message more costs more than the bytes that it saves.
SMALL = 1 << 16
# A rank that waits looks for what it waits for all the time, then every so many seconds.
SPIN, PAUSE = 0.002, 5e-5
PATIENCE = 60.0  # seconds, after which it says for whom it waits
ANSWER = 2.0  # seconds that the others have to say that they are waiting, too; or to end, once one of them has
LISTEN = 0.05  # seconds between two looks at what waiting ranks say
ASK, HERE, BYE = 1, 2, 3  # the tags of the messages between ranks that wait

LAUNCHERS = {  # variables in which a launcher says how many processes it has started together
    "OMPI_COMM_WORLD_SIZE": "mpiexec", "PMI_SIZE": "mpiexec", "MV2_COMM_WORLD_SIZE": "mpiexec",
    "SLURM_STEP_NUM_TASKS": "srun",
}  # fmt: skip
JOINED = "MINICNN_JOINED"  # the process that has joined; what it starts itself inherits the variables, but is no rank


class RankGroup(Group):
    """A group over a communicator of mpi4py, or what stands in for it in tests.

    shared: MPI's word for the ranks of one machine. say: where a rank writes what it waits for; default: stderr.
    """

    def __init__(self, communicator: Any, shared: int = 0, say: Callable[[str], None] | None = None):
        self.data, self.talk = communicator.Dup(), communicator.Dup()
        self.rank, self.size = self.data.Get_rank(), self.data.Get_size()
        self.thread = threading.get_ident()
        self.say = say or (lambda text: print(visible(text), file=sys.stderr, flush=True))
        self.place = "the beginning"  # where this rank is, in words
        self.sent: list[tuple[Any, Any]] = []  # requests under way, and the memory that they send
        self.here: set[int] = set()  # ranks that have answered
        self.gone: set[int] = set()  # ranks whose script has ended
        self.nccl: Any = None
        self.models = weakref.WeakSet()
        local = self.data.Split_type(shared)
        self.local_rank = local.Get_rank()
        self.cores = _cores(local, self._wait)

    def __reduce__(self) -> Any:
        """A copy of what holds a group belongs to the group of where it is made, or loaded."""
        return get_group, ()

    # ---- what a Group can do ---------------------------------------------------------------------------------------

    def meet(self, what: str, numbers: Any = (), error: BaseException | None = None) -> np.ndarray:
        if threading.get_ident() != self.thread:
            raise InputError(
                "ranks", "only one thread of a rank may speak to the others.", "fit, evaluate, predict, save, … in the "
                "thread that imported minicnn.", f"a call in the thread {threading.current_thread().name!r}.",
                "train in the main thread; or minicnn.set_group(None), where each rank trains a model of its own.",
            )  # fmt: skip
        self.place = what
        with interrupts_wait():  # the others count on it that who has come also stays to the end
            return super().meet(what, numbers, error)

    def gather(self, array: Array) -> list[Array]:
        own = np.ascontiguousarray(to_host(array)).reshape(-1)
        rows = np.empty((self.size, own.size), own.dtype)
        self._wait(self.data.Iallgather(own, rows))
        return [row.reshape(array.shape) for row in rows]

    def broadcast(self, array: Array) -> Array:
        own = np.array(to_host(array), order="C").reshape(-1)
        self._wait(self.data.Ibcast(own, 0))
        return xp_of(array).asarray(own.reshape(array.shape))

    def barrier(self) -> None:
        self.gather(np.zeros(1))

    def all_reduce(self, array: Array) -> Array:
        if xp_of(array) is not np:
            return self._all_reduce_on_gpu(array)
        if array.nbytes * self.size <= SMALL:
            return _sum_in_order(self.gather(array))
        pieces = np.empty((self.size, -(-array.size // self.size)), array.dtype)
        flat = pieces.reshape(-1)
        flat[: array.size], flat[array.size :] = array.reshape(-1), 0
        received = np.empty_like(pieces)
        self._wait(self.data.Ialltoall(pieces, received))
        self._wait(self.data.Iallgather(_sum_in_order(received), pieces))
        return flat[: array.size].reshape(array.shape)

    def _all_reduce_on_gpu(self, array: Array) -> Array:
        """By NCCL where every rank has a GPU of its own, else by way of the host."""
        if self.nccl is None:
            self.nccl = _Nccl.of(self) or False
        if self.nccl is False:
            return xp_of(array).asarray(self.all_reduce(to_host(array)))
        return self.nccl.all_reduce(array)

    def abort(self, error: BaseException) -> None:
        if isinstance(error, KeyboardInterrupt):
            self.say(f"rank {self.rank} of {self.size} was interrupted at {self.place}; all ranks end")
        else:
            lines = "".join(traceback.format_exception(error))
            self.say(f"rank {self.rank} of {self.size}, at {self.place}:\n{lines}rank {self.rank}: all ranks end")
        self.data.Abort(1)

    # ---- waiting ---------------------------------------------------------------------------------------------------

    def _wait(self, request: Any) -> None:
        """Until the others have done their part. Says which rank has not come, where that takes long."""
        try:
            self._wait_for(request, _Wait(time.monotonic()))
        except KeyboardInterrupt as error:  # the second one, or one outside of a meeting
            self.abort(error)
            raise

    def _wait_for(self, request: Any, wait: _Wait) -> None:
        while not request.Test():
            now = time.monotonic()
            if now - wait.start < SPIN:
                time.sleep(0)
                continue
            time.sleep(PAUSE)
            if now > wait.listen:
                wait.listen = now + LISTEN
                self._listen()
                self._look_out(wait, now)

    def _look_out(self, wait: _Wait, now: float) -> None:
        if self.gone and wait.left is None:
            wait.left = now + ANSWER
        if wait.left is not None and now > wait.left:
            ended = ", ".join(map(str, sorted(self.gone)))
            self.say(f"rank {self.rank} waits at {self.place}, but rank {ended} has come to its end; all ranks end")
            self.data.Abort(1)
        if wait.asked is None and now > wait.ask:
            self.here, wait.asked = set(), now
            self._tell(ASK)
        elif wait.asked is not None and now > wait.asked + ANSWER:
            missing = sorted(set(range(self.size)) - self.here - {self.rank})
            if missing and self.rank < min(self.here, default=self.size):
                who = ", ".join(f"rank {k}" for k in missing) + (" has" if len(missing) == 1 else " have")
                self.say(f"rank {self.rank} has waited {now - wait.start:.0f} s: {who} not arrived at {self.place}")
            wait.ask, wait.asked = now + PATIENCE, None

    def _tell(self, tag: int, *ranks: int) -> None:
        """A word to these ranks, or to all others."""
        word = np.zeros(1, np.int64)
        for rank in ranks or [k for k in range(self.size) if k != self.rank]:
            self.sent.append((self.talk.Isend(word, rank, tag), word))
        self.sent = [(request, word) for request, word in self.sent if not request.Test()]

    def _listen(self) -> None:
        """Hear what the others have to say: they wait, or have ended."""
        while (found := _waiting_message(self.talk)) is not None:
            source, tag = found
            self.talk.Recv(np.zeros(1, np.int64), source, tag)
            if tag == ASK:
                self._tell(HERE, source)
            elif tag == HERE:
                self.here.add(source)
            else:
                self.gone.add(source)


class _Wait:
    """listen: when to hear what the others say. ask: when to ask who is there; asked: when that was.

    left: until when those must have come who have ended.
    """

    def __init__(self, start: float):
        self.start, self.listen, self.ask = start, start + LISTEN, start + PATIENCE
        self.asked: float | None = None
        self.left: float | None = None


def _waiting_message(communicator: Any) -> tuple[int, int] | None:
    """(source, tag) of a message that is there."""
    for source in range(communicator.Get_size()):
        for tag in (ASK, HERE, BYE):
            if source != communicator.Get_rank() and communicator.Iprobe(source, tag):
                return source, tag
    return None


def _sum_in_order(parts: Any) -> Array:
    """The sum of the parts; it takes the place of the first."""
    total = parts[0]
    for part in parts[1:]:
        total += part
    return total


def _cores(local: Any, wait: Callable[[Any], None]) -> int:
    """This rank's share of the cores: each core is divided by the ranks of this machine that may use it."""
    count = os.cpu_count() or 1
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(count)
    own = np.zeros(max(count, *(core + 1 for core in usable)), np.int64)
    own[list(usable)] = 1
    rows = np.empty((local.Get_size(), own.size), np.int64)
    wait(local.Iallgather(own, rows))
    return max(1, int((own / np.maximum(rows.sum(axis=0), 1)).sum() + 1e-9))


class _Nccl:
    """NVIDIA's library for sums between GPUs. Its sums are the same bits on all of them."""

    def __init__(self, nccl: Any, size: int, number: tuple[int, ...], rank: int):
        self.types = {"float32": nccl.NCCL_FLOAT32, "float64": nccl.NCCL_FLOAT64}
        self.sum, self.communicator = nccl.NCCL_SUM, nccl.NcclCommunicator(size, number, rank)

    @classmethod
    def of(cls, group: RankGroup) -> _Nccl | None:
        """That of these ranks; None where one of them has no GPU of its own, or no NCCL."""
        try:
            from cupy.cuda import nccl
        except ImportError:
            nccl = None
        able = nccl is not None and bool(getattr(nccl, "available", True))
        host, gpu = zlib.crc32(socket.gethostname().encode()), sys.modules["cupy"].cuda.Device().id
        places = [tuple(row) for row in group.gather(np.array([host, gpu, able], np.int64))]
        if len(set(places)) < group.size or not all(able for *_, able in places):
            return None
        number = np.zeros(128, np.int64)  # by which the ranks find each other: rank 0 makes it, MPI brings it
        if group.rank == 0:
            number[:] = nccl.get_unique_id()
        return cls(nccl, group.size, tuple(group.broadcast(number).tolist()), group.rank)

    def all_reduce(self, array: Array) -> Array:
        cupy = xp_of(array)
        own, total = cupy.ascontiguousarray(array), cupy.empty(array.shape, array.dtype)
        stream = cupy.cuda.get_current_stream().ptr  # what was launched there before has written the array by then
        kind = self.types[str(own.dtype)]
        self.communicator.allReduce(own.data.ptr, total.data.ptr, own.size, kind, self.sum, stream)
        return total


# ---- joining the others ----------------------------------------------------------------------------------------------


def launcher() -> tuple[str, int]:
    """(who has started this process, how many it has started together); ("", 1) where it was started alone."""
    if os.environ.get(JOINED, str(os.getpid())) != str(os.getpid()):
        return "", 1
    for name, who in LAUNCHERS.items():
        size = os.environ.get(name, "")
        if size.isdecimal() and int(size) > 1:
            return who, int(size)
    return "", 1


def join() -> None:
    """Become one of the ranks that were started together. `import minicnn` calls it where there are several.

    From here on rank 0 alone prints to stdout, and a rank that ends by an exception ends all of them. Where they cannot
    talk to each other, get_group, and with it fit, raises an InputError that says why.
    """
    who, size = launcher()
    if size == 1:
        return
    os.environ[JOINED] = str(os.getpid())
    try:
        set_group(_MPI(*_communicator(who, size)))
    except InputError as error:
        set_group(error)


def _communicator(who: str, size: int) -> tuple[Any, int]:
    """That of all ranks, and MPI's word for the ranks of one machine. Raises InputError where mpi4py sees others."""
    fix = 'python -m pip install "minicnn[mpi]" brings both; or minicnn.set_group(None), where each is to train alone.'
    if importlib.util.find_spec("mpi4py") is None:
        raise InputError(
            "ranks", f"{who} has started {size} processes, but mpi4py is not installed: each would train alone.",
            "mpi4py, through which they talk to each other.", "no module named mpi4py.", fix,
        )  # fmt: skip
    import mpi4py

    mpi4py.rc.thread_level = "serialized"  # one thread at a time speaks: enough, and quicker than "multiple"
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise InputError(
            "ranks", f"{who} has started {size} processes, but mpi4py finds no MPI library.", "an MPI library.",
            f"{error}", fix,
        ) from error  # fmt: skip
    if MPI.COMM_WORLD.Get_size() != size:
        raise InputError(
            "ranks", f"{who} has started {size} processes, but each sees {MPI.COMM_WORLD.Get_size()}.",
            f"an mpi4py of the same MPI library as {who}.", MPI.Get_library_version().split(",")[0] + ".",
            "call the mpiexec that lies beside this python: python -m pip install \"minicnn[mpi]\" brings one.",
        )  # fmt: skip
    return MPI.COMM_WORLD, MPI.COMM_TYPE_SHARED


class _MPI(RankGroup):
    """The ranks of this run; also what they do to the process: who prints, and what an uncaught exception does."""

    def __init__(self, communicator: Any, shared: int):
        super().__init__(communicator, shared)
        # Where the user gives no seed, it is the same one everywhere: first weights, orders and changes of images.
        random.seed(int(self.broadcast(np.random.SeedSequence().generate_state(1, np.uint32))[0]))
        backend.set_default_gpu(self.local_rank)
        self.hook, self.stdout = sys.excepthook, sys.stdout
        sys.excepthook = self._uncaught
        if self.rank > 0:
            sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        atexit.register(self._say_goodbye)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forked)

    def leave(self) -> None:
        sys.excepthook, sys.stdout = self.hook, self.stdout

    def _forked(self) -> None:
        """A process that this one has forked off is no rank."""
        if get_group() is self:
            self.leave()
            atexit.unregister(self._say_goodbye)
            set_group(None)

    def _say_goodbye(self) -> None:
        self._tell(BYE)

    def _uncaught(self, kind: Any, error: BaseException, trace: Any) -> None:
        """Who has caused it speaks first. The others hold back, and mostly are ended before their turn."""
        sys.stdout.flush()
        if is_told(error) and self.speaker not in (None, self.rank):
            time.sleep(ANSWER)
        elif self.rank > 0:
            time.sleep(ANSWER / 4)
        self.abort(error)
