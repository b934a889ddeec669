"""Ranks: the processes of one run, started together by mpiexec or srun, which train one model together.

Every rank runs the same script, from its first line to its last. They share a group, through which they talk; a process
that was started alone is a group of one. Here is what every room needs to know: which group this is, and how something
is done once for all. How the messages travel: `minicnn/training/distributed.py`.

Before a step, at the end of one's data, around a file that is written, the ranks *meet*. Whoever has met with an error
brings it to the next meeting, wherever the others are then, and it is raised on all: so nobody waits for a rank that
will not come.
"""

from __future__ import annotations

import builtins
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import numpy as np

from minicnn import errors
from minicnn.arguments import in_words
from minicnn.errors import InputError

Array = Any
T = TypeVar("T")

MAX_NUMBERS = 6  # that a rank can bring to a meeting


class Group:
    """The ranks of a run. This one is alone: a group of one, whose calls return what they are given.

    rank: this process's number, from 0. size: how many there are. cores: how many threads this rank may use; None: as
    many as there are usable cores. All ranks make the same calls in the same order, with arrays of the same shape.
    """

    rank, size = 0, 1
    cores: int | None = None
    models: Any = ()  # those that are the same on all ranks
    speaker: int | None = None  # the lowest rank of those whose error was told at a meeting

    def all_reduce(self, array: Array) -> Array:
        """The sum of the ranks' arrays, added in the order of the ranks: everywhere the same bits."""
        return array

    def broadcast(self, array: Array) -> Array:
        """The array of rank 0. The others bring one of its shape and dtype, whose numbers do not count."""
        return array

    def gather(self, array: Array) -> list[Array]:
        """The array of each rank, in their order."""
        return [array]

    def barrier(self) -> None:
        """Returns when all ranks have come here."""

    def abort(self, error: BaseException) -> None:
        """End all ranks: this one has left the common way, and cannot come back to it."""

    def leave(self) -> None:
        """This process goes on alone."""

    # ---- made of these --------------------------------------------------------------------------------------------

    def gather_rows(self, array: np.ndarray) -> list[np.ndarray]:
        """The array of each rank, where their first axes may differ in length."""
        if self.size == 1:
            return [array]
        counts = [int(count[0]) for count in self.gather(np.array([len(array)], np.int64))]
        padded = np.zeros((max(counts), *array.shape[1:]), array.dtype)
        padded[: len(array)] = array
        return [rows[:count] for rows, count in zip(self.gather(padded), counts, strict=True)]

    def texts(self, text: str) -> list[str]:
        """The text of each rank."""
        return [bytes(rows).decode() for rows in self.gather_rows(np.frombuffer(text.encode(), np.uint8))]

    def first_text(self, text: str) -> str:
        """The text of rank 0."""
        if self.size == 1:
            return text
        own = np.frombuffer(text.encode(), np.uint8)
        length = int(self.broadcast(np.array([len(own)], np.int64))[0])
        return bytes(self.broadcast(np.resize(own, length) if len(own) else np.zeros(length, np.uint8))).decode()

    def meet(self, what: str, numbers: Sequence[float] = (), error: BaseException | None = None) -> np.ndarray:
        """Meet all ranks, who must have come for the same thing: `what`. (size, MAX_NUMBERS): what they have brought.

        error: what went wrong here. It is raised, on all ranks; where the class is unknown, as a RankError. Raises
        InputError where the ranks have come for different things.
        """
        told = "" if error is None else _as_text(error)
        row = np.zeros(2 + MAX_NUMBERS)
        row[0], row[1], row[2 : 2 + len(numbers)] = zlib.crc32(what.encode()), len(told), numbers
        rows = np.stack(self.gather(row))
        if rows[:, 1].any():
            self.speaker = int(np.flatnonzero(rows[:, 1])[0])
            text = self.texts(told)[self.speaker]
            raise _known(_from_text(text, self.speaker) if error is None else error)
        if (rows[:, 0] != row[0]).any():
            self.speaker = 0
            places = ", ".join(f"rank {k}: {place}" for k, place in enumerate(self.texts(what)))
            raise _known(
                InputError(
                    "ranks", "they have come apart: they do not all run the same lines.",
                    "every rank calls fit, evaluate, predict, save, … in the same order.", f"{places}.",
                    "leave out `if rank == 0` around them: what is to be done once, minicnn does once.",
                )
            )  # fmt: skip
        return rows[:, 2:]


class RankError(RuntimeError):
    """Something went wrong on another rank. The text says on which, and what."""

    def __init__(self, text: str):
        self.args = (text,)

    def __str__(self) -> str:
        return str(self.args[0])


def _as_text(error: BaseException) -> str:
    return json.dumps([[kind.__name__ for kind in type(error).__mro__], str(error)[:4000]])


def _from_text(text: str, rank: int) -> BaseException:
    """The error of another rank: of its own class, or the nearest one that is known here; a RankError, too."""
    names, said = json.loads(text)
    classes = [getattr(errors, name, None) or getattr(builtins, name, None) for name in names]
    kind = next(kind for kind in classes if isinstance(kind, type) and issubclass(kind, BaseException))
    if kind is SystemExit:
        return SystemExit(int(said) if said.isdecimal() else said)
    if not issubclass(kind, Exception):
        return kind()
    own = type(kind.__name__, (RankError, *((kind,) if kind is not Exception else ())), {})
    return own(f"rank {rank}: {said}")


def _known(error: BaseException) -> BaseException:
    """The error, marked as one that all ranks know of."""
    error.told = True  # type: ignore[attr-defined]
    return error


def is_told(error: BaseException) -> bool:
    """Whether all ranks know of this error."""
    return getattr(error, "told", False)


def known(error: T) -> T:
    """The error, which every rank raises by itself, at the same place."""
    return _known(error)  # type: ignore[arg-type, return-value]


# ---- the group of this process ---------------------------------------------------------------------------------------

_of_process: Group | InputError = Group()
_here: ContextVar[Group | None] = ContextVar("minicnn.group", default=None)


@in_words
def get_group() -> Group:
    """The ranks that train together with this process: `get_group().rank` is its own number, from 0, of `.size`.

    A group of one where the program was not started by mpiexec or srun. Raises InputError where it was, but the ranks
    cannot talk to each other.
    """
    group = _here.get() or _of_process
    if isinstance(group, InputError):
        raise group
    return group


@in_words
def set_group(group: Group | InputError | None) -> None:
    """The group of this process from now on. None: each rank goes on alone, with a model and a task of its own."""
    global _of_process
    if group is not None and not isinstance(group, (Group, InputError)):
        raise InputError("set_group", "this is no group.", "a group, or None.", f"{group!r}.", "pass None.")
    if group is None and isinstance(_of_process, Group):
        _of_process.leave()
    _of_process = Group() if group is None else group


@contextmanager
def within(group: Group) -> Iterator[Group]:
    """Inside, this thread belongs to that group."""
    before = _here.set(group)
    try:
        yield group
    finally:
        _here.reset(before)


def apart(rank: int) -> Group:
    """A group of one that keeps its number: rank 0 works by itself, the others do as if."""
    group = Group()
    group.rank = rank
    return group


# ---- once for all ----------------------------------------------------------------------------------------------------


@contextmanager
def together(what: str) -> Iterator[Group]:
    """A block that all ranks run. They meet at its end; an error in it, on any of them, is raised on all."""
    group = get_group()
    try:
        yield group
    except BaseException as error:
        if group.size > 1 and not is_told(error):
            group.meet(what, error=error)
        raise
    if group.size > 1:
        group.meet(what)


def first_rank_does(what: str, do: Callable[[], T]) -> T | None:
    """What do() returns, on rank 0, which alone calls it; None on the others, who wait. Its error is raised on all."""
    group = get_group()
    if group.size == 1:
        return do() if group.rank == 0 else None
    with together(what):
        if group.rank == 0:
            with within(apart(0)):
                return do()
    return None


def first_rank_first(what: str, do: Callable[[], T]) -> T:
    """What do() returns. Rank 0 calls it first, and the others once that went well."""
    group = get_group()
    if group.size == 1:
        return do()
    result = first_rank_does(what, do)
    return result if group.rank == 0 else do()  # type: ignore[return-value]


@contextmanager
def in_step(group: Group) -> Iterator[None]:
    """A block in which the ranks depend on each other at many places: an error in it ends them all."""
    try:
        yield
    except BaseException as error:
        if group.size > 1 and not is_told(error):
            group.abort(error)
        raise
