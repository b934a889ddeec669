"""What is checked before any work is done, and the sentences that are said then: do targets, loss and output fit?"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import numpy as np

from minicnn.errors import InputError
from minicnn.layers.base import ActivatedLayer, Layer
from minicnn.losses import BinaryCrossentropy, CategoricalCrossentropy
from minicnn.objective import Loss

_NO_PROBABILITIES = ("linear", "relu", "leaky_relu", "elu", "gelu", "tanh")


def check_targets(loss: Loss, y: np.ndarray, output_shape: tuple[int, ...], name: str = "y") -> None:
    """Before training: do these targets fit this loss and this output? Raises InputError, and says what was found."""
    if loss.reduction in ("none", None):
        raise InputError(
            "loss", "its values are not reduced to one number.", 'a reduction, such as "sum_over_batch_size".',
            f"{type(loss).__name__}(reduction={loss.reduction!r}).", "leave reduction out for training.",
        )  # fmt: skip
    if loss.sparse:
        _check_class_numbers(loss, y, output_shape, name)
    else:
        _check_arrays(loss, y, output_shape, name)


def warn_unless_probabilities(loss: Loss, layers: Sequence[Layer], stacklevel: int) -> None:
    """A UserWarning where a cross-entropy takes for probabilities what the last activation does not make."""
    last, kind, wanted = layers[-1] if layers else None, type(loss).__name__, getattr(loss, "activation", None)
    name = last.activation.name if isinstance(last, ActivatedLayer) else None
    if last is None or wanted is None or getattr(loss, "from_logits", False):
        return
    if name in _NO_PROBABILITIES:
        warnings.warn(
            f"{kind} takes probabilities, but the outputs of {last.name} are none: its activation is {name!r}. Give it "
            f'activation="{wanted}", or compile with loss=minicnn.losses.{kind}(from_logits=True).',
            stacklevel=stacklevel,
        )
    elif name == "softmax" and isinstance(loss, BinaryCrossentropy):
        warnings.warn(
            f"{kind} judges each output of {last.name} alone, but its softmax makes one choice of all of them: "
            '"accuracy" then counts outputs, and is high where most are 0. For one class among several use '
            'loss="categorical_crossentropy"; for several at once activation="sigmoid".',
            stacklevel=stacklevel,
        )


def _check_class_numbers(loss: Loss, y: np.ndarray, output_shape: tuple[int, ...], name: str) -> None:
    positions, outputs, kind = loss.positions(output_shape), _classes(loss, output_shape), type(loss).__name__
    if positions and y.size == len(y):
        raise InputError(
            "the model's output", f"{kind} needs one row of classes for each sample.", "shape (N, classes).",
            f"shape {_batch_of(output_shape)}.", "put Flatten() or GlobalAveragePooling2D() before the last Dense; "
            f"or give a class for each position, targets of shape {_batch_of(positions)}.",
        )  # fmt: skip
    wanted = f"integers 0…{outputs - 1} of shape {_batch_of(positions)}."
    fits = _without_ones(y.shape[1:]) == _without_ones(positions)
    if _is_one_hot(y) if not positions else (not fits and y.shape[1:] == (*positions, outputs)):
        use_other = 'use loss="categorical_crossentropy", or ' if y.shape[-1] == outputs else ""
        raise InputError(
            name, f"{kind} takes class numbers.", wanted,
            f"one-hot rows of shape {y.shape}.",
            f"{use_other}pass {name}.argmax(axis={-1 if positions else 1}) as the targets.",
        )  # fmt: skip
    if not fits or (y.dtype.kind == "f" and not np.all(np.mod(y, 1) == 0)):
        fix = "number the classes from 0."
        if y.size == len(y):
            fix += ' For numbers that are measured, not counted, use loss="mse".'
        raise InputError(
            name, f"{kind} takes class numbers.", wanted,
            f"an array of shape {y.shape} and dtype {y.dtype}{_example(y)}.", fix,
        )  # fmt: skip
    ignored = getattr(loss, "ignore_class", None)
    y = y if ignored is None else y[y != ignored]
    if y.size == 0:
        return
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= outputs:
        raise InputError(
            name, "labels are out of range.", f"class numbers 0…{outputs - 1}, for {outputs} outputs.",
            f"labels from {low} to {high}.",
            f"number the classes from 0, or give the last layer {high + 1} units."
            if low >= 0 else "number the classes from 0.",
        )  # fmt: skip


def _check_arrays(loss: Loss, y: np.ndarray, output_shape: tuple[int, ...], name: str) -> None:
    outputs, kind = _classes(loss, output_shape), type(loss).__name__
    categorical, of_probabilities = isinstance(loss, CategoricalCrossentropy), hasattr(loss, "from_logits")
    if _without_ones(y.shape[1:]) != _without_ones(output_shape):
        classes = y.size == len(y) and y.dtype.kind in "bui"
        fix = f"pass targets of shape {_batch_of(output_shape)}, or change the model's last layer."
        if len(output_shape) > len(y.shape[1:]) + (y.ndim == 1):
            fix = "put Flatten() or GlobalAveragePooling2D() before the last Dense."
        elif of_probabilities and classes:
            fix = (
                'use loss="sparse_categorical_crossentropy", or minicnn.utils.to_categorical('
                f"{name}, {outputs}) for the targets."
            )
        elif _is_one_hot(y) and outputs == 1:
            fix = (
                f'for {y.shape[1]} classes use Dense({y.shape[1]}, activation="softmax") and '
                f'loss="categorical_crossentropy"; for two classes and one output, {name}.argmax(axis=1).'
            )
        elif y.ndim == 2 and len(output_shape) == 1:
            fix = f"give the last layer {y.shape[1]} units, or change the targets."
        raise InputError(
            name,
            f"{kind} takes one-hot rows." if categorical and classes
            else "the targets' shape is not that of the model's output.",
            f"an array of shape {_batch_of(output_shape)}.", f"{_found(y)} of shape {y.shape}.", fix,
        )  # fmt: skip
    if categorical and outputs == 1:
        raise InputError(
            name, "a softmax over a single output is always 1: nothing can be learned.",
            "two or more classes.", "1 output.",
            'use Dense(1, activation="sigmoid") with loss="binary_crossentropy".',
        )  # fmt: skip
    low, high = y.min(), y.max()
    if of_probabilities and (low < 0 or high > 1):
        raise InputError(
            name, f"{kind} takes targets between 0 and 1.", "0 for no, 1 for yes, or a probability.",
            f"numbers from {low} to {high}.",
            "turn class numbers into 0 and 1; for measured quantities use loss=\"mse\".",
        )  # fmt: skip


def _classes(loss: Loss, output_shape: tuple[int, ...]) -> int:
    """How many outputs there are for each position."""
    return math.prod(output_shape) // max(1, math.prod(loss.positions(output_shape)))


def _batch_of(shape: tuple[int, ...]) -> str:
    return f"(N, {', '.join(map(str, shape))})" if shape else "(N,)"


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)


def _found(y: np.ndarray) -> str:
    if _is_one_hot(y):
        return "one-hot rows"
    return "class numbers" if y.size == len(y) and y.dtype.kind in "bui" else "an array"


def _is_one_hot(y: np.ndarray) -> bool:
    head = y[:1000]
    return y.ndim == 2 and y.shape[1] > 1 and bool(np.all((head == 0) | (head == 1)) and np.all(head.sum(axis=1) == 1))


def _example(y: np.ndarray) -> str:
    return f", for example {y.reshape(-1)[:3].tolist()}" if y.size else ""
