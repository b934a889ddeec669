"""Small helpers with the names that they have in Keras."""

from __future__ import annotations

import random as python_random
from typing import Any

import numpy as np

from minicnn import random
from minicnn.errors import InputError

_OF_IMAGES = ("array_to_img", "image_dataset_from_directory", "img_to_array", "load_img", "save_img")


def __getattr__(name: str) -> Any:
    if name in _OF_IMAGES:
        from minicnn.preprocessing import image

        return getattr(image, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class PyDataset:
    """Base class of your own data: define `__len__`, how many batches, and `__getitem__(i)`, batch i as (x, y).

    `fit` takes it as x, and prepares the next batch while a step runs, so `__getitem__` is called in another thread.
    Keras' arguments `workers`, `use_multiprocessing` and `max_queue_size` are accepted; one thread does the work.
    """

    def __init__(self, workers: int = 1, use_multiprocessing: bool = False, max_queue_size: int = 10):
        self.workers, self.use_multiprocessing, self.max_queue_size = workers, use_multiprocessing, max_queue_size

    def __len__(self) -> int:
        raise NotImplementedError(f"{type(self).__name__} must define __len__()")

    def __getitem__(self, index: int) -> Any:
        raise NotImplementedError(f"{type(self).__name__} must define __getitem__(index)")

    def on_epoch_end(self) -> None:
        """Called after each whole pass, to shuffle for example."""


Sequence = PyDataset  # its name in Keras 2


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


def set_random_seed(seed: int) -> None:
    """Make a run repeatable: seeds Python's `random`, NumPy's global generator and minicnn's own.

    seed: a whole number from 0 to 2**32 - 1. Call it before the model is built: its weights are drawn then.
    """
    if not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**32:
        raise InputError(
            "set_random_seed",
            problem="this cannot be a seed.",
            expected="a whole number from 0 to 2**32 - 1.",
            received=f"{seed!r}.",
            fix="pass a number such as 21.",
        )
    python_random.seed(int(seed))
    np.random.seed(seed)
    random.seed(int(seed))
