"""Data in batches: the base class of one's own, and which samples stand in which batch; and class numbers as rows.

Which samples stand in which batch, epoch after epoch, is a function of (seed, epoch, batch), and of nothing else. So a
batch can be made by any thread, early or twice, and is always the same; and the place in the data is three numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minicnn import random
from minicnn.arguments import in_words
from minicnn.errors import InputError


@in_words
class PyDataset:
    """Base class of your own data: define `__len__`, how many batches, and `__getitem__(i)`, batch i as (x, y).

    `fit` takes it as x, and prepares the next batch while a step runs, so `__getitem__` is called in another thread.
    workers: 0 makes the batches in your own thread, where a step waits for them: for a database connection that no
    other thread may use, or random numbers from a generator that your layers or callbacks draw from, too. Above 0 one
    thread does the work, whatever `workers`, `use_multiprocessing` and `max_queue_size`, Keras' arguments, say.
    """

    def __init__(self, workers: int = 1, use_multiprocessing: bool = False, max_queue_size: int = 10):
        self.workers, self.use_multiprocessing, self.max_queue_size = workers, use_multiprocessing, max_queue_size

    def __len__(self) -> int:
        raise NotImplementedError(f"{type(self).__name__} must define __len__()")

    def __getitem__(self, index: int) -> Any:
        raise NotImplementedError(f"{type(self).__name__} must define __getitem__(index)")

    def on_epoch_end(self) -> None:
        """Called after each whole pass, to shuffle for example."""


class Epochs(PyDataset):
    """n samples in batches, shuffled anew in every epoch. Base of everything here that gives batches.

    seed: None draws one. epoch, index: the place; `index` batches of this epoch are consumed. `self[i]` is batch i of
    this epoch and moves nothing; `on_epoch_end()` goes on to the next epoch. Training moves `index`.
    """

    def __init__(self, n: int, batch_size: int, shuffle: bool, seed: int | None):
        super().__init__()
        if not hasattr(batch_size, "__index__") or isinstance(batch_size, bool) or batch_size < 1:
            raise InputError(
                "batch_size", "it does not fit.", "a whole number of 1 or more.", f"{batch_size!r}.",
                "for example batch_size=32.",
            )  # fmt: skip
        check_seed(seed)
        self.n, self.batch_size, self.shuffle = n, int(batch_size), shuffle
        self.seed = int(random.new_generator().integers(2**32) if seed is None else seed)
        self.epoch = self.index = 0
        self._order: tuple[int, np.ndarray] | None = None  # of the epoch it was made for

    def __len__(self) -> int:
        return -(-self.n // self.batch_size)

    def on_epoch_end(self) -> None:
        self.epoch, self.index = self.epoch + 1, 0

    def samples_of(self, i: int) -> np.ndarray:
        """The numbers of the samples in batch i of this epoch. Raises IndexError past the last one."""
        if not -len(self) <= i < len(self):
            raise IndexError(f"batch {i} of {len(self)}")
        start = i % len(self) * self.batch_size
        if not self.shuffle:
            return np.arange(start, min(start + self.batch_size, self.n))
        if self._order is None or self._order[0] != self.epoch:
            self._order = self.epoch, np.random.default_rng([self.seed, self.epoch]).permutation(self.n)
        return self._order[1][start : start + self.batch_size]

    def length_of(self, i: int) -> int:
        """How many samples batch i has."""
        return min(self.batch_size, self.n - i % len(self) * self.batch_size)

    def random_of(self, i: int) -> np.random.Generator:
        """The random numbers of batch i of this epoch."""
        return np.random.default_rng([self.seed, self.epoch, i % len(self)])

    def state_dict(self) -> dict[str, Any]:
        """The place in the data, as plain numbers for JSON: what training has consumed, not what was prepared ahead."""
        return {"n": self.n, "batch_size": self.batch_size, "seed": self.seed, "epoch": self.epoch, "index": self.index}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken. Raises InputError where that was of other data or batches."""
        here = self.state_dict()
        if set(state) != set(here) or any(state[name] != here[name] for name in ("n", "batch_size")):
            raise InputError(
                type(self).__name__, "this place belongs to other data.",
                f"a state_dict of {self.n} samples in batches of {self.batch_size}.", f"{state!r}.",
                "load the same data with the same batch_size as then.",
            )  # fmt: skip
        self.seed, self.epoch, self.index = (int(state[name]) for name in ("seed", "epoch", "index"))
        self._order = None


def check_seed(seed: Any) -> None:
    """InputError unless it is None or a seed as NumPy takes them."""
    if seed is not None and (not hasattr(seed, "__index__") or not 0 <= seed < 2**32):
        raise InputError(
            "seed", "it does not fit.", "a whole number from 0 to 2**32 - 1, or None.", f"{seed!r}.", "for example 0."
        )  # fmt: skip


@in_words
def to_categorical(x: Any, num_classes: int | None = None) -> np.ndarray:
    """One-hot vectors from class numbers.

    x: whole numbers from 0 to num_classes - 1, any shape; a last axis of length 1 is dropped. num_classes:
    default max(x) + 1. Returns float32 of shape x.shape + (num_classes,); Keras returns float64, here it is
    what the models train in.
    Raises InputError for labels that are not whole numbers, negative, or too large for num_classes.
    """
    labels = np.asarray(x)
    if labels.dtype.kind not in "biuf" or not np.array_equal(labels, np.trunc(labels)):
        raise _bad_labels(labels, "labels are not whole numbers.", "class numbers such as 0, 1, 2.",
                          "number the classes first: np.unique(names, return_inverse=True)[1].")  # fmt: skip
    if labels.ndim > 1 and labels.shape[-1] == 1:
        labels = labels[..., 0]
    if num_classes is None:
        if labels.size == 0:
            raise _bad_labels(labels, "there are no labels.", "at least one label, or num_classes.",
                              "pass num_classes, or check why the labels are empty.")  # fmt: skip
        num_classes = int(labels.max()) + 1
    if labels.size and not 0 <= labels.min() <= labels.max() < num_classes:
        raise _bad_labels(labels, "labels out of range.", f"labels from 0 to {num_classes - 1}.",
                          "count classes from 0, and pass the right num_classes.")  # fmt: skip
    one_hot = np.zeros((labels.size, num_classes), np.float32)
    one_hot[np.arange(labels.size), labels.reshape(-1).astype(np.intp)] = 1
    return one_hot.reshape(*labels.shape, num_classes)


def _bad_labels(labels: np.ndarray, problem: str, expected: str, fix: str) -> InputError:
    received = f"{labels.dtype} labels of shape {labels.shape}"
    if labels.size and labels.dtype.kind in "biuf":
        received += f", from {labels.min()} to {labels.max()}"
    return InputError("to_categorical", problem, expected, received + ".", fix)
