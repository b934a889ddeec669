"""What fit, evaluate and predict were given, as batches, after all that can be checked beforehand was checked."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np

from minicnn.batches import PyDataset
from minicnn.errors import InputError
from minicnn.ranks import get_group
from minicnn.training.checks import (
    check_array,
    check_finite,
    check_input,
    check_targets,
    checked_weights,
    same_length,
    warn_of_another_order,
    whole,
)
from minicnn.training.data import ArrayBatches, Cut, GeneratorBatches, is_iterable_of_batches
from minicnn.training.sequences import SequenceBatches, is_sequence

Batches = Any  # ArrayBatches, GeneratorBatches or SequenceBatches


def training_batches(model: Any, *given: Any, **named: Any) -> Batches:
    """Batches of (x, y) or (x, y, weights), after everything about them that can be checked beforehand was checked.

    Where there are several ranks, of each the run that this one has. Arguments: as `_training_batches`.
    """
    batches = _training_batches(model, *given, **named)
    batches.cut = Cut(get_group(), in_one_piece=model.loss.whole_batch)
    return batches


def _training_batches(
    model: Any, x: Any, y: Any, size: int, steps: Any, shuffle: bool, names: tuple[str, str, str],
    sample_weight: Any = None, class_weight: Any = None, epochs: int = 1,
) -> Batches:  # fmt: skip
    """Batches of (x, y) or (x, y, weights), after everything about them that can be checked beforehand was checked.

    names: of x, y and steps, for errors. sample_weight, class_weight: as in `Model.fit`. epochs: how often they will be
    gone through.
    """
    x_name, y_name, steps_name = names
    steps, training = None if steps is None else whole(steps_name, steps), steps_name == "steps_per_epoch"

    def check(x: np.ndarray, y: np.ndarray, weights: Any = None) -> tuple[np.ndarray, ...]:
        same_length(x, y, x_name, y_name)
        check_finite(y_name, y, model.dtype)
        x = check_input(model, x, x_name)
        check_targets(model.loss, y, model.shapes[-1], y_name)
        weights = checked_weights(model, y, weights, class_weight)
        return (x, y) if weights is None else (x, y, weights)

    if y is None:
        if x is None or not (is_sequence(x) or hasattr(x, "__iter__")) or isinstance(x, np.ndarray):
            raise InputError(
                y_name, "there are no targets.", "arrays x and y, or a generator of (x, y).",
                f"{x_name} of type {type(x).__name__}, {y_name} None.", f"pass {y_name}, too.",
            )  # fmt: skip
        if sample_weight is not None:
            raise InputError(
                "sample_weight", "a generator brings its own weights.", "sample_weight with arrays only.",
                f"sample_weight, and {x_name} of type {type(x).__name__}.", "let it yield x, y, sample_weight.",
            )  # fmt: skip
        if is_sequence(x):
            return SequenceBatches(x, steps, x_name, check, training=training)
        return GeneratorBatches(x, steps, x_name, check, epochs=epochs)
    if hasattr(x, "__next__") or isinstance(x, PyDataset):
        raise InputError(
            y_name, "a generator brings its own targets.", f"{y_name} left out where {x_name} is a generator.",
            f"both, {x_name} of type {type(x).__name__}.", f"let the generator yield x, y; leave {y_name} out.",
        )  # fmt: skip
    refuse_several(x_name, "input", x, len(y) if hasattr(y, "__len__") else None)
    refuse_several(y_name, "output", y, len(x) if hasattr(x, "__len__") else None)
    x, y, *weights = check(check_array(x_name, x), check_array(y_name, y), sample_weight)
    return ArrayBatches(x, y, size, steps, shuffle, model.rng, training, weights[0] if weights else None)


def prediction_batches(model: Any, x: Any, size: int, steps: int | None) -> Batches:
    """Batches for predict, whose targets nobody looks at. Where there are several ranks, this one's run of each."""
    batches = _prediction_batches(model, x, size, steps)
    batches.cut = Cut(get_group())
    return batches


def _prediction_batches(model: Any, x: Any, size: int, steps: int | None) -> Batches:
    steps = None if steps is None else whole("steps", steps)

    def pair(batch: Any) -> Any:
        """x twice: of x alone, of (x,), of (x, y), …"""
        x = batch[0] if isinstance(batch, (tuple, list)) and 1 <= len(batch) <= 3 else batch
        return x, x

    def check(x: np.ndarray, *_: Any) -> tuple[np.ndarray, ...]:
        return check_input(model, x, "x"), x

    if is_sequence(x):
        warn_of_another_order(x)
        return SequenceBatches(x, steps, "x", check, pair=pair)
    if is_iterable_of_batches(x):
        return GeneratorBatches(x, steps, "x", check, pair)
    if model.built and isinstance(x, (list, tuple)) and np.ndim(x[0] if len(x) else 0) > len(model.sample_shape):
        refuse_several("x", "input", x, None)
    x = check_input(model, check_array("x", x), "x")
    return ArrayBatches(x, x, size, steps)


def refuse_several(name: str, role: str, arrays: Any, samples: int | None) -> None:
    """InputError where a list or dict of arrays was given, as Keras takes it for models of several inputs or outputs.

    samples: how many there are, so that a list of so many samples is none of whole arrays; None where it is known not
    to be one.
    """
    if not isinstance(arrays, (list, tuple, dict)) or not arrays:
        return
    parts = list(arrays.values()) if isinstance(arrays, dict) else list(arrays)
    several = all(hasattr(part, "shape") and np.ndim(part) for part in parts)
    if several and (isinstance(arrays, dict) or samples is None or len(arrays) != samples == len(parts[0])):
        shapes = ", ".join(str(np.shape(part)) for part in parts)
        fix = f"pass that one: {name}[0]."
        if len(parts) > 1:
            fix = (
                f"np.concatenate({name}, axis=-1) joins them, for example to images of more channels."
                if role == "input" else "train a model for each; Concatenate joins outputs of one loss."
            )
        raise InputError(
            name, f"a model has one {role}, and this is a {type(arrays).__name__} of arrays.", "one array of samples.",
            f"{len(parts)} array{'s' * (len(parts) > 1)} of shape {shapes}.", fix,
        )  # fmt: skip


def parts_of(validation_data: Any) -> tuple[Any, Any, Any]:
    """validation_data as (x, y, weights); y is None where it is a generator."""
    if not isinstance(validation_data, (tuple, list)):
        return validation_data, None, None
    if len(validation_data) not in (2, 3):
        raise InputError(
            "validation_data", "it is not a pair.", "(x, y), (x, y, sample_weight), or a generator of such batches.",
            f"a {type(validation_data).__name__} of {len(validation_data)}.", "pass validation_data=(x_test, y_test).",
        )  # fmt: skip
    return (*validation_data, None)[:3]  # type: ignore[return-value]


def hold_back(x: Any, y: Any, share: float, sample_weight: Any = None) -> tuple[Any, Any, Any, tuple[Any, ...]]:
    """(x, y, weights, validation data): the last `share` of the samples becomes the latter, as in Keras."""
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
    if sample_weight is None:
        return x[:keep], y[:keep], None, (x[keep:], y[keep:])
    weights = check_array("sample_weight", sample_weight)
    same_length(x, weights, "x", "sample_weight")
    return x[:keep], y[:keep], weights[:keep], (x[keep:], y[keep:], weights[keep:])
