"""Where batches come from: arrays, shuffled anew each epoch, or the user's own generator."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np

from minicnn.errors import InputError
from minicnn.ranks import Group
from minicnn.training.checks import check_array
from minicnn.training.shards import split

Batch = tuple[np.ndarray, ...]  # (x, y), or (x, y, how much each sample counts)
Check = Callable[..., Batch]  # looks at x, y and the weights, raises, returns them as the model takes them


class Cut:
    """Which run of each batch this rank has: rank r the r-th of as many as there are ranks; all where it is alone.

    in_one_piece: rank 0 has all of it: the batch cannot be cut. lengths: those of the whole batches that were cut and
    have not been met over yet.
    """

    def __init__(self, group: Group | None = None, in_one_piece: bool = False):
        self.group, self.in_one_piece = Group() if group is None else group, in_one_piece
        self.lengths: deque[int] = deque()

    def run(self, samples: int) -> slice:
        """This rank's run of so many samples. It may be empty."""
        if self.group.size == 1 or (self.in_one_piece and self.group.rank == 0):
            return slice(0, samples)
        runs = [] if self.in_one_piece else split(samples, self.group.size)
        return runs[self.group.rank] if self.group.rank < min(len(runs), samples) else slice(samples, samples)

    def of(self, batch: Batch, whole: int | None = None) -> Batch:
        """This rank's run of a batch; with `whole`, its length, the batch is that run already."""
        if self.group.size == 1:
            return batch
        self.lengths.append(len(batch[0]) if whole is None else whole)
        run = self.run(len(batch[0])) if whole is None else slice(None)
        return tuple(array[run] for array in batch)


class ArrayBatches:
    """Batches of arrays x and y of equal length. Iterating is one epoch.

    steps: batches in an epoch; default a whole pass over the samples. training: an epoch goes on where the one before
    stopped, and passes end where they end, as with generators and sequences; else each begins at sample 0, and steps
    above a pass are left out. shuffle: in each pass the samples are in a new order, drawn from rng. n: the samples.
    weights: how much each sample counts; batches then have three parts.
    """

    def __init__(
        self,
        x: np.ndarray,
        y: np.ndarray,
        batch_size: int,
        steps: int | None = None,
        shuffle: bool = False,
        rng: np.random.Generator | None = None,
        training: bool = False,
        weights: np.ndarray | None = None,
    ):
        self.arrays: Batch = (x, y) if weights is None else (x, y, weights)
        self.batch_size, self.training = batch_size, training
        self.rng = rng if shuffle else None
        self.cut = Cut()
        self.n, self._batches_of_a_pass = len(x), -(-len(x) // batch_size)
        self._steps = self._batches_of_a_pass if steps is None else steps
        if not training:
            self._steps = min(self._steps, self._batches_of_a_pass)
        self._begin()

    def _begin(self) -> None:
        self._pass, self._at = 0, 0  # where training stands: pass and batch
        self._orders: dict[int, np.ndarray | None] = {}  # of the samples, in the passes that are under way

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Iterator[Batch]:
        return self.epoch()

    @property
    def samples(self) -> int:
        """How many the epoch has that begins where training stands."""
        numbers = range(self._at, self._at + self._steps)
        short = sum(1 for i in numbers if i % self._batches_of_a_pass == self._batches_of_a_pass - 1)
        missing = self._batches_of_a_pass * self.batch_size - self.n  # in the last batch of a pass
        return self._steps * self.batch_size - short * missing

    def epoch(self, first: int = 0) -> Iterator[Batch]:
        """The batches of one epoch, from batch `first` on: above 0 after load_state_dict, in the middle of one."""
        if not self.training:
            self._begin()
        self.cut.lengths.clear()
        number, i = self._pass, self._at
        for _ in range(first, self._steps):
            if number not in self._orders:
                # What is shuffled is the samples, not the batches: those would stay the same ones for ever.
                self._orders[number] = None if self.rng is None else self.rng.permutation(self.n)
            start = i * self.batch_size
            length = min(self.batch_size, self.n - start)
            run, order = self.cut.run(length), self._orders[number]
            own = slice(start + run.start, start + run.stop)
            if order is None:
                batch = tuple([array[own] for array in self.arrays])
            else:
                batch = tuple([_rows(array, order[own]) for array in self.arrays])
            yield self.cut.of(batch, length)
            number, i = divmod(number * self._batches_of_a_pass + i + 1, self._batches_of_a_pass)

    def advance(self) -> None:
        """Training has learned from one more batch."""
        self._at += 1
        if self._at == self._batches_of_a_pass:
            self._orders.pop(self._pass, None)
            self._pass, self._at = self._pass + 1, 0

    def end_epoch(self) -> None: ...

    def state_dict(self) -> dict[str, Any]:
        """The place in the pass, and the orders of the samples: of this one, and of the next if it was begun."""
        return {"at": self._at, "orders": [self._orders[number] for number in sorted(self._orders)]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._begin()
        self._at, self._orders = state["at"], dict(enumerate(state["orders"]))


def _rows(array: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """The rows of these numbers, copied. `take` is the quickest, but would first copy an array that has gaps whole."""
    return array.take(numbers, axis=0) if array.flags.c_contiguous else array[numbers]


class GeneratorBatches:
    """Batches (x, y) from an iterable that the user gives: a generator, or anything that can be iterated again.

    `steps`: batches in an epoch; needed for what never ends, else the iterable's own length, or as many as come.
    epochs: how many are wanted; without steps a generator, which can be run through once, is good for one only.
    Each batch is made when it is asked for, by the caller's thread: it may refill a buffer, draw from a global random
    generator, or hold a connection that only its own thread may use. Data that is better made ahead comes by number: a
    PyDataset. pair: what makes (x, y) of a batch; predict has no targets.
    """

    n = samples = batch_size = None
    state = None  # the source's own, after the last batch that was used

    def __init__(
        self, source: Any, steps: int | None, name: str, check: Check, pair: Callable[[Any], Any] | None = None,
        epochs: int = 1,
    ):  # fmt: skip
        self.source, self.name, self.check, self.pair = source, name, check, pair
        self.cut = Cut()
        self.steps = length_of(source) if steps is None else steps
        if self.steps == 0:
            raise InputError(
                name, "there are no batches in it.", "at least one batch (x, y).", f"an empty {type(source).__name__}.",
                "check how it was made.",
            )  # fmt: skip
        if self.steps is None and epochs > 1 and iter(source) is source:
            raise InputError(
                name, "a generator does not say how long an epoch is, and can be run through once only.",
                "the number of batches in an epoch.", f"None, for {epochs} epochs.",
                "let it go on for ever (while True), and pass steps_per_epoch (or validation_steps); or pass an object "
                "that can be iterated again.",
            )  # fmt: skip
        self.iterator: Iterator[Any] | None = None
        self.used = self.skipped = 0  # batches of the iterator: that training has had, and that an earlier run had
        self.drawn = 0  # batches of this epoch that training has had; empty ones, which it leaves out, count as well
        # Of each batch that was drawn but not used yet (on a GPU, one is under way while a step computes): how many
        # were drawn with it, the source's own state after it.
        self.coming: deque[tuple[int, Any]] = deque()

    def __len__(self) -> int:
        return 0 if self.steps is None else self.steps

    def __iter__(self) -> Iterator[Batch]:
        return self.epoch()

    def epoch(self, first: int = 0) -> Iterator[Batch]:
        """The batches of one epoch, from batch `first` on: above 0 after load_state_dict, in the middle of one.

        A batch without samples, which a source may give as its last, is left out.
        """
        if self.iterator is None or not self._goes_on():
            self.iterator = iter(self.source)
        for _ in range(self.skipped):
            next(self.iterator, None)
        if first == 0:
            self.drawn = 0
        self.skipped, count, given, state = 0, self.drawn, first, self.state
        self.coming.clear()
        self.cut.lengths.clear()
        # No more than this epoch's: what follows belongs to whoever takes the generator on.
        for batch in self.iterator if self.steps is None else islice(self.iterator, self.steps - count):
            state = self.source.state_dict() if hasattr(self.source, "state_dict") else None
            count += 1
            batch = batch if self.pair is None else self.pair(batch)
            if is_empty(batch):
                continue
            given += 1
            self.coming.append((count, state))
            yield self.cut.of(checked_pair(self.name, batch, self.check))
        if given == 0 and count > 0:
            raise all_empty(self.name, count)
        if self.coming:  # on a GPU the last batch is still under way
            self.coming[-1] = count, state
        else:
            self._reach(count, state)
        if count < (self.steps or 1):
            raise InputError(
                self.name, "the batches ended too early.",
                f"{'at least one batch' if self.steps is None else f'{self.steps} batches'} in every epoch.",
                f"{count} batches.", "let the generator run on for ever (while True), or pass fewer steps.",
            )  # fmt: skip

    def _goes_on(self) -> bool:
        """Whether an epoch goes on where the one before ended, as with a generator, or begins the source anew."""
        return hasattr(self.source, "__next__")

    def advance(self) -> None:
        """Training has learned from one more batch. Others may have been drawn ahead: they do not count yet."""
        self._reach(*self.coming.popleft())

    def _reach(self, count: int, state: Any) -> None:
        self.used += count - self.drawn
        self.drawn, self.state = count, state

    def end_epoch(self) -> None:
        self.coming.clear()
        if not self._goes_on():
            self.used = 0

    def state_dict(self) -> dict[str, Any]:
        return {"used": self.used, "drawn": self.drawn, "source": self.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The source goes to its place itself where it can; else what the earlier run had is drawn and dropped."""
        self.used, self.drawn, self.state = state["used"], state["drawn"], state["source"]
        if self.state is not None:
            self.source.load_state_dict(self.state)
        else:
            self.skipped = self.used


def is_iterable_of_batches(x: Any) -> bool:
    """Whether x gives batches one after the other: a generator, a DataLoader, a tf.data.Dataset. Lists are samples."""
    samples = (list, tuple, dict, set, str, bytes)
    return hasattr(x, "__iter__") and not isinstance(x, samples) and not hasattr(x, "__array__")


def length_of(source: Any) -> int | None:
    """How many batches there are in a user's object; None where it does not say so, or never ends."""
    try:
        return len(source)
    except (TypeError, NotImplementedError):
        return getattr(source, "num_batches", None)  # Keras' name for it, which a PyDataset may have instead


def is_empty(batch: Any) -> bool:
    """Whether a batch (x, y) or (x, y, weights) has no sample in it."""
    pair = isinstance(batch, (tuple, list)) and len(batch) in (2, 3)
    return pair and hasattr(batch[0], "__len__") and len(batch[0]) == 0


def all_empty(name: str, batches: int) -> InputError:
    return InputError(
        name, "there is no sample in any batch of the epoch.", "at least one batch (x, y) with samples.",
        f"{batches} empty batches.", "check how it makes them, and from what.",
    )  # fmt: skip


def checked_pair(name: str, batch: Any, check: Check) -> Batch:
    """The batch (x, y) or (x, y, weights) that a user's object gave, as the model takes it. Raises InputError."""
    if not isinstance(batch, (tuple, list)) or len(batch) not in (2, 3):
        found = f"a {type(batch).__name__}" + (f" of length {len(batch)}" if hasattr(batch, "__len__") else "")
        raise InputError(
            name, "a batch is not a pair.", "batches (x, y), or (x, y, sample_weight).", f"{found}.",
            "let the generator yield x, y. Arrays are passed as two arguments, x and y.",
        )  # fmt: skip
    return check(check_array(name, batch[0]), check_array(f"{name} (its targets)", batch[1]), *batch[2:])
