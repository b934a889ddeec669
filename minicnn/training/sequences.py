"""Batches from an object that is asked for batch i: a PyDataset (Sequence), the iterators of ImageDataGenerator."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from copy import deepcopy
from typing import Any

import numpy as np

from minicnn.batches import Epochs, PyDataset
from minicnn.errors import InputError
from minicnn.training.data import Batch, Check, Cut, all_empty, checked_pair, is_empty, length_of
from minicnn.training.prefetch import prefetched


def is_sequence(x: Any) -> bool:
    """Whether x gives batches by their number. Arrays and lists have a length and items, too; those are samples."""
    if isinstance(x, PyDataset):
        return True
    by_number = hasattr(x, "__len__") and hasattr(x, "__getitem__")
    return by_number and not isinstance(x, (list, tuple, dict, str, bytes)) and not hasattr(x, "__array__")


def _copied(batch: Any) -> Any:
    """A batch whose arrays are nobody else's."""
    if isinstance(batch, (tuple, list)):
        return tuple(_copied(part) for part in batch) if any(hasattr(part, "__array__") for part in batch) else batch
    return np.array(batch) if hasattr(batch, "__array__") else batch


class SequenceBatches:
    """The batches source[0], source[1], … that a thread makes ahead; after each pass, source.on_epoch_end() is called.

    steps: batches in an epoch of `fit`; default a whole pass. With fewer or more, training goes on in the next epoch
    where it was, and passes end where they end. training: `evaluate` and `predict` begin at batch 0 instead, each time.
    An empty batch, of files that cannot be read for example, is left out. A source that has no length has one pass that
    never ends, and needs steps. With source.workers == 0 (a PyDataset's) the batches are made in the caller's thread.
    """

    def __init__(
        self, source: Any, steps: int | None, name: str, check: Check, training: bool = False,
        pair: Callable[[Any], Any] | None = None,
    ):  # fmt: skip
        self.source, self.name, self.check, self.training, self.pair = source, name, check, training, pair
        self.cut = Cut()
        self.passes = 0  # how often on_epoch_end was called
        self._at = 0  # the next batch of this pass, where the source does not say it
        self._drawn = 0  # batches of this epoch that training has had; empty ones, which it leaves out, count as well
        # for each batch under way: its pass, which one follows it, and how many of this epoch were drawn with it
        self._coming: deque[tuple[int, int, int]] = deque()
        self._start: dict[str, Any] | None = None  # the place where the running epoch began
        self.length = length_of(source)  # batches in a pass
        if self.length is None and steps is None:
            raise InputError(
                name, "it does not say how many batches it has.", "the number of batches in an epoch.", "None.",
                "define __len__; or pass steps_per_epoch (or validation_steps) to fit, steps to evaluate and predict.",
            )  # fmt: skip
        if self.length == 0:
            raise InputError(
                name, "there are no batches in it.", "at least one batch (x, y).", f"an empty {type(source).__name__}.",
                "check how it was made.",
            )  # fmt: skip
        self.steps: int = self.length if steps is None else steps  # type: ignore[assignment]
        self.n = self.batch_size = self.samples = None
        if isinstance(source, Epochs):
            self.n, self.batch_size = source.n, source.batch_size
            if self.steps <= len(source):
                self.samples = min(source.n, self.steps * source.batch_size)

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Batch]:
        return self.epoch()

    @property
    def at(self) -> int:
        """The next batch of this pass. The iterators of this library know it themselves."""
        return self.source.index if self.training and isinstance(self.source, Epochs) else self._at

    @at.setter
    def at(self, i: int) -> None:
        self._at = i
        if self.training and isinstance(self.source, Epochs):
            self.source.index = i

    def epoch(self, first: int = 0) -> Iterator[Batch]:
        """The batches of one epoch, from batch `first` on: above 0 after load_state_dict, in the middle of one."""
        if not self.training:
            self._at = 0
        if first == 0:
            self._start, self._drawn = self._place(), 0
        self._coming.clear()
        self.cut.lengths.clear()
        self.at += self._drawn
        start, drawn, self._given = self.at, self._drawn, first
        while True:
            while self.length is not None and start >= self.length:  # in here, not in the thread, which is at its end
                start -= self.length
                self._end_pass(start)
            if drawn >= self.steps:
                if self._given == 0:
                    raise all_empty(self.name, self.steps)
                return
            stop = start + self.steps - drawn
            stop = stop if self.length is None else min(self.length, stop)
            with closing(self._made(start, stop)) as batches:
                for i, batch in enumerate(batches, start):
                    drawn += 1
                    batch = batch if self.pair is None else self.pair(batch)
                    empty = is_empty(batch)
                    if not empty or self._by_runs:
                        self._given += 1
                        self._coming.append((self.passes, i + 1, drawn))
                        batch = batch[:2] if empty else checked_pair(self.name, batch, self.check)
                        yield self.cut.of(batch, self.source.length_of(i) if self._by_runs else None)
            start = stop

    def _made(self, start: int, stop: int) -> Generator[Any, None, None]:
        """Batches start to stop - 1: ahead, by a thread, unless the source asks for none."""
        if getattr(self.source, "workers", 1) == 0:
            return (self.source[i] for i in range(start, stop))
        if self._by_runs:
            return prefetched(self.source.run(i, self.cut.run(self.source.length_of(i))) for i in range(start, stop))
        if isinstance(self.source, Epochs):
            return prefetched(self.source[i] for i in range(start, stop))
        return prefetched(_copied(self.source[i]) for i in range(start, stop))  # which may refill its arrays

    @property
    def _by_runs(self) -> bool:
        """Whether this rank makes only its own run of each batch, because there are others and the source can do it."""
        return self.cut.group.size > 1 and isinstance(self.source, Epochs) and hasattr(self.source, "run")

    def leave_out(self) -> None:
        """The batch that came last has no sample on any rank."""
        self._coming.popleft()
        self._given -= 1

    def advance(self) -> None:
        """Training has learned from one more batch. Others may be under way: they do not count yet."""
        passes, i, self._drawn = self._coming.popleft()
        if passes == self.passes:
            self.at = i

    def _end_pass(self, at: int) -> None:
        self.passes += 1
        if hasattr(self.source, "on_epoch_end"):
            self.source.on_epoch_end()
        self.at = at

    def end_epoch(self) -> None:
        self._start = None

    # ---- the place, for a backup ----------------------------------------------------------------------------------

    def _place(self) -> dict[str, Any]:
        own = deepcopy(self.source.state_dict()) if hasattr(self.source, "state_dict") else None
        return {"at": self.at, "passes": self.passes, "source": own}

    def state_dict(self) -> dict[str, Any]:
        """Where the running epoch began, and how many of its batches were drawn."""
        return {**(self._start or self._place()), "drawn": self._drawn}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The source goes to its place itself where it can; else its passes are ended as often as they were before."""
        if state["source"] is not None:
            self.source.load_state_dict(state["source"])
            self.passes = state["passes"]
        while self.passes < state["passes"]:
            self._end_pass(0)
        self.at, self._start, self._drawn = state["at"], state, state["drawn"]
