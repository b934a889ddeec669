"""Small helpers with the names that they have in Keras."""

from __future__ import annotations

import random as python_random
from typing import Any

import numpy as np

from minicnn import random
from minicnn.arguments import in_words
from minicnn.batches import PyDataset, to_categorical
from minicnn.errors import InputError

__all__ = ["PyDataset", "Sequence", "set_random_seed", "to_categorical"]

_OF_IMAGES = ("array_to_img", "image_dataset_from_directory", "img_to_array", "load_img", "save_img")


def __getattr__(name: str) -> Any:
    if name in _OF_IMAGES:
        from minicnn.preprocessing import image

        return getattr(image, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


Sequence = PyDataset  # its name in Keras 2


@in_words
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
