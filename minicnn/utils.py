"""Small helpers with the names that they have in Keras."""

from __future__ import annotations

import random as python_random
from numbers import Integral, Real
from typing import Any

import numpy as np

from minicnn import random
from minicnn.arguments import in_words
from minicnn.batches import PyDataset, check_seed, to_categorical
from minicnn.errors import InputError, checked
from minicnn.objective import numbers

__all__ = ["PyDataset", "Sequence", "normalize", "set_random_seed", "split_dataset", "to_categorical"]

_OF_IMAGES = ("array_to_img", "image_dataset_from_directory", "img_to_array", "load_img", "save_img")


def __getattr__(name: str) -> Any:
    if name in _OF_IMAGES:
        from minicnn.preprocessing import image

        return getattr(image, name)
    if name == "get_file":
        from minicnn.datasets.get_file import get_file

        return get_file
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


@in_words
def normalize(x: Any, axis: int = -1, order: float = 2) -> np.ndarray:
    """x divided by its norm along an axis: rows of length 1. Rows of zeros stay as they are.

    order: 2 for the root of the sum of squares, 1 for the sum of absolute values, np.inf for the largest one. Whole
    numbers become float64. Raises InputError.
    """
    x, axis = numbers("x", x), checked("normalize", "axis", axis, int, -1)
    if not -x.ndim <= axis < x.ndim:
        raise InputError("normalize", "there is no such axis.", f"-{x.ndim} to {x.ndim - 1}.", f"{axis}.", "use -1.")
    if isinstance(order, bool) or not isinstance(order, Real) or not order > 0:
        raise InputError("normalize", "order does not fit.", "a number above 0, or np.inf.", f"{order!r}.", "use 2.")
    size = abs(x) if x.dtype.kind == "f" else abs(x.astype(np.float64))
    largest = size.max(axis=axis, keepdims=True, initial=0)
    scale = np.where(largest > 0, largest, 1)
    if np.isinf(order):
        return x / scale
    norm = ((size / scale) ** order).sum(axis=axis, keepdims=True) ** (1 / order)  # no square overflows
    return x / scale / np.where(norm > 0, norm, 1).astype(scale.dtype)


@in_words
def split_dataset(
    dataset: Any,
    left_size: float | int | None = None,
    right_size: float | int | None = None,
    shuffle: bool = False,
    seed: int | None = None,
    preferred_backend: None = None,
) -> tuple[Any, Any]:
    """An array, or arrays (x, y, …) of equally many samples, cut into two parts: what was given, twice.

    left_size, right_size: a share between 0 and 1, or a number of samples; one left out is what the other leaves.
    shuffle: before the cut, in an order drawn from seed. preferred_backend: Keras', None. For what gives batches of its
    own (a generator, a tf.data.Dataset) split the arrays it is made of. Raises InputError.
    """
    if preferred_backend is not None:
        raise InputError(
            "split_dataset", "the parts are arrays.", "preferred_backend=None.", f"{preferred_backend!r}.",
            "leave it out.",
        )  # fmt: skip
    several = isinstance(dataset, (list, tuple)) and len(dataset) > 0 and all(np.ndim(part) for part in dataset)
    arrays = [numbers("dataset", part) for part in (dataset if several else [dataset])]
    n = len(arrays[0])
    if any(len(array) != n for array in arrays):
        raise InputError(
            "split_dataset", "the arrays have different lengths.", f"{n} samples in each.",
            f"{', '.join(str(len(array)) for array in arrays)}.", "check that all were sliced alike.",
        )  # fmt: skip
    left, right = (_samples(name, size, n) for name, size in (("left_size", left_size), ("right_size", right_size)))
    if left is None and right is None:
        raise InputError(
            "split_dataset", "nothing says where to cut.", "left_size or right_size.", "None for both.",
            "for example left_size=0.8.",
        )  # fmt: skip
    left = n - (right or 0) if left is None else left
    right = n - left if right is None else right
    if left + right > n or not left or not right:
        raise InputError(
            "split_dataset", "the two parts do not fit.", f"at least one sample in each, {n} together at most.",
            f"{left} and {right}.", "for example left_size=0.8 alone.",
        )  # fmt: skip
    check_seed(seed)
    shuffle = checked("split_dataset", "shuffle", shuffle, bool, True)
    rng = random.new_generator() if seed is None else np.random.default_rng(seed)
    order, parts = (rng.permutation(n) if shuffle else None), []
    for chosen in (slice(0, left), slice(left, left + right)):
        cut = [array[chosen if order is None else order[chosen]] for array in arrays]
        parts.append(type(dataset)(cut) if several else cut[0])
    return parts[0], parts[1]


def _samples(name: str, size: Any, n: int) -> int | None:
    """How many samples a size means, of n; rounded as Keras does."""
    if size is None:
        return None
    if isinstance(size, Integral) and not isinstance(size, bool):
        return checked("split_dataset", name, size, 0, 100)
    return round(checked("split_dataset", name, size, "from 0 to 1", 0.8) * n)
