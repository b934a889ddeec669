"""What fit, evaluate and predict were given, as batches, after all that can be checked beforehand was checked."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np

from minicnn.batches import PyDataset
from minicnn.errors import InputError
from minicnn.training.checks import (
    check_array,
    check_finite,
    check_input,
    check_targets,
    same_length,
    warn_of_another_order,
    whole,
)
from minicnn.training.data import ArrayBatches, GeneratorBatches, is_iterable_of_batches
from minicnn.training.sequences import SequenceBatches, is_sequence

Batches = Any  # ArrayBatches, GeneratorBatches or SequenceBatches


def training_batches(
    model: Any, x: Any, y: Any, size: int, steps: Any, shuffle: bool, x_name: str, y_name: str, steps_name: str
) -> Batches:
    """Batches of (x, y), after everything about them that can be checked beforehand was checked."""
    steps = None if steps is None else whole(steps_name, steps)
    if y is None:
        if x is None or not (is_sequence(x) or hasattr(x, "__iter__")) or isinstance(x, np.ndarray):
            raise InputError(
                y_name, "there are no targets.", "arrays x and y, or a generator of (x, y).",
                f"{x_name} of type {type(x).__name__}, {y_name} None.", f"pass {y_name}, too.",
            )  # fmt: skip

        def check(x: np.ndarray, y: np.ndarray) -> np.ndarray:
            return _check(model, x, y, x_name, y_name)

        if is_sequence(x):
            return SequenceBatches(x, steps, x_name, check, training=steps_name == "steps_per_epoch")
        return GeneratorBatches(x, steps, x_name, check)
    if hasattr(x, "__next__") or isinstance(x, PyDataset):
        raise InputError(
            y_name, "a generator brings its own targets.", f"{y_name} left out where {x_name} is a generator.",
            f"both, {x_name} of type {type(x).__name__}.", f"let the generator yield x, y; leave {y_name} out.",
        )  # fmt: skip
    x, y = check_array(x_name, x), check_array(y_name, y)
    x = _check(model, x, y, x_name, y_name)
    return ArrayBatches(x, y, size, steps, shuffle, model.rng, training=steps_name == "steps_per_epoch")


def _check(model: Any, x: np.ndarray, y: np.ndarray, x_name: str, y_name: str) -> np.ndarray:
    same_length(x, y, x_name, y_name)
    check_finite(y_name, y, model.dtype)
    x = check_input(model, x, x_name)
    check_targets(model.loss, y, model.shapes[-1], y_name)
    return x


def prediction_batches(model: Any, x: Any, size: int, steps: int | None) -> Batches:
    """Batches for predict, whose targets nobody looks at."""
    steps = None if steps is None else whole("steps", steps)

    def pair(batch: Any) -> Any:
        """x twice: of x alone, of (x,), of (x, y), …"""
        x = batch[0] if isinstance(batch, (tuple, list)) and 1 <= len(batch) <= 3 else batch
        return x, x

    def check(x: np.ndarray, _: np.ndarray) -> np.ndarray:
        return check_input(model, x, "x")

    if is_sequence(x):
        warn_of_another_order(x)
        return SequenceBatches(x, steps, "x", check, pair=pair)
    if is_iterable_of_batches(x):
        return GeneratorBatches(x, steps, "x", check, pair)
    x = check_input(model, check_array("x", x), "x")
    return ArrayBatches(x, x, size, steps)


def pair_of(validation_data: Any) -> tuple[Any, Any]:
    """validation_data as (x, y); y is None where it is a generator."""
    if not isinstance(validation_data, (tuple, list)):
        return validation_data, None
    if len(validation_data) != 2:
        raise InputError(
            "validation_data", "it is not a pair.", "(x, y), or a generator of such batches.",
            f"a {type(validation_data).__name__} of {len(validation_data)}.", "pass validation_data=(x_test, y_test).",
        )  # fmt: skip
    return validation_data[0], validation_data[1]


def hold_back(x: Any, y: Any, share: float) -> tuple[Any, Any, tuple[Any, Any]]:
    """The last `share` of the samples becomes the validation data, as in Keras."""
    if not isinstance(share, Real) or not 0 < share < 1:
        raise InputError(
            "validation_split", "it does not fit.", "a share between 0 and 1.", f"{share!r}.", "for example 0.2."
        )
    if hasattr(x, "__next__") or y is None:
        raise InputError(
            "validation_split", "it needs arrays.", "x and y as arrays.", f"x of type {type(x).__name__}.",
            "pass validation_data instead.",
        )  # fmt: skip
    x, y = check_array("x", x), check_array("y", y)
    same_length(x, y, "x", "y")
    keep = int(len(x) * (1 - share))
    if keep == 0 or keep == len(x):
        raise InputError(
            "validation_split", "one of the two parts would be empty.", "at least one sample in each.",
            f"{len(x)} samples and validation_split={share}.", "use more samples, or another share.",
        )  # fmt: skip
    return x[:keep], y[:keep], (x[keep:], y[keep:])
