"""What a model is judged by: accuracies and errors, averaged over all samples seen since the last reset.

A metric splits into a pure part and a running one. `metric.sum(y_true, y_pred)` looks at some samples and
changes nothing, so several threads may call it at once, each for its shard; `metric.add(total, count)` then
counts what they found. Nothing waits for a GPU before `result()`.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from minicnn.backend import Array, xp_of
from minicnn.errors import unknown_name
from minicnn.registry import Configured, names_of, resolve, snake_case


class Metric(Configured):
    """Base class: implement `values(y_true, y_pred)`.

    direction: "max" if larger is better, "min" if smaller is: how EarlyStopping reads it.
    """

    direction = "max"

    def __init__(self, name: str | None = None):
        self.name = name or snake_case(type(self).__name__)
        self.total: Any = 0.0
        self.count = 0

    def values(self, y_true: Array, y_pred: Array) -> Array:
        """One value for each sample, shape (N,), or several, shape (N, ...), which are averaged."""
        raise NotImplementedError(f"{type(self).__name__} must implement values(y_true, y_pred)")

    def sum(self, y_true: Array, y_pred: Array) -> Any:
        """The sum over the N samples of each sample's mean value: a float64 scalar (GPU: a 0-d array)."""
        values = self.values(y_true, y_pred)
        return values.sum(dtype="float64") * (len(values) / max(values.size, 1))

    def add(self, total: Any, count: int) -> None:
        """Count `count` more samples, whose values sum up to `total`."""
        self.total = self.total + total
        self.count += count

    def update(self, y_true: Array, y_pred: Array) -> None:
        """Count the samples of a batch."""
        self.add(self.sum(y_true, y_pred), len(y_true))

    def result(self) -> float:
        """The mean over all samples counted since the last reset; 0 before the first one."""
        return float(self.total) / self.count if self.count else 0.0

    def reset(self) -> None:
        """Forget all samples."""
        self.total, self.count = 0.0, 0

    # Keras' names for the two
    update_state = update
    reset_state = reset


class BinaryAccuracy(Metric):
    """How often y_pred > threshold agrees with y_true, 0 or 1: (N,), (N, 1), or (N, K) for K questions."""

    def __init__(self, name: str | None = None, threshold: float = 0.5):
        super().__init__(name)
        self.threshold = threshold

    def values(self, y_true: Array, y_pred: Array) -> Array:
        return (y_pred > self.threshold) == _like(y_true, y_pred)


class CategoricalAccuracy(Metric):
    """How often the largest output is that of the true class. y_true: one-hot (N, K); y_pred: (N, K)."""

    def values(self, y_true: Array, y_pred: Array) -> Array:
        return y_pred.argmax(-1) == y_true.argmax(-1)


class SparseCategoricalAccuracy(Metric):
    """How often the largest output is that of the true class. y_true: integers (N,) or (N, 1)."""

    def values(self, y_true: Array, y_pred: Array) -> Array:
        return y_pred.argmax(-1) == _labels(y_true, y_pred)


class SparseTopKCategoricalAccuracy(Metric):
    """How often the true class is among the k largest outputs. y_true: integers (N,) or (N, 1).

    As in Keras, a class that ties with the k-th largest output counts, and one whose output is not finite
    never does.
    """

    def __init__(self, k: int = 5, name: str | None = None):
        super().__init__(name)
        self.k = k

    def values(self, y_true: Array, y_pred: Array) -> Array:
        xp = xp_of(y_pred)
        labels = _labels(y_true, y_pred)[..., None].astype("int64")
        own = xp.take_along_axis(y_pred, labels, axis=-1)
        larger = (y_pred > own).sum(-1)
        return (larger < self.k) & xp.isfinite(own[..., 0])


class TopKCategoricalAccuracy(SparseTopKCategoricalAccuracy):
    """How often the true class is among the k largest outputs. y_true: one-hot (N, K); y_pred: (N, K)."""

    def values(self, y_true: Array, y_pred: Array) -> Array:
        return super().values(y_true.argmax(-1), y_pred)


class MeanSquaredError(Metric):
    """Mean of (y_true - y_pred)²."""

    direction = "min"

    def values(self, y_true: Array, y_pred: Array) -> Array:
        return xp_of(y_pred).square(_like(y_true, y_pred) - y_pred)


class MeanAbsoluteError(Metric):
    """Mean of |y_true - y_pred|, in the units of y."""

    direction = "min"

    def values(self, y_true: Array, y_pred: Array) -> Array:
        return abs(_like(y_true, y_pred) - y_pred)


def _like(y_true: Array, y_pred: Array) -> Array:
    """y_true in the shape of y_pred where they differ by a last axis of length 1: (N,) - (N, 1) is (N, N)."""
    return y_true.reshape(y_pred.shape) if y_true.size == y_pred.size else y_true


def _labels(y_true: Array, y_pred: Array) -> Array:
    """Integer labels without the last axis of length 1 that they may come with."""
    return y_true[..., 0] if y_true.ndim == y_pred.ndim else y_true


_KNOWN = names_of(
    BinaryAccuracy, CategoricalAccuracy, SparseCategoricalAccuracy, TopKCategoricalAccuracy,
    SparseTopKCategoricalAccuracy, MeanSquaredError, MeanAbsoluteError,
    mse=MeanSquaredError, MSE=MeanSquaredError, mae=MeanAbsoluteError, MAE=MeanAbsoluteError,
)  # fmt: skip


def get(identifier: Any, loss: Any = None, output_shape: Sequence[int | None] = (None,)) -> Metric:
    """The metric for a name, config dict, class or instance; a name stays the metric's name in the history.

    "accuracy" and "acc" stand for the accuracy that fits: binary if the model has one output (the last number
    of output_shape) or the loss is binary cross-entropy, sparse categorical if the loss takes integer labels,
    else categorical. loss: its name, class, instance or function.
    Keras looks at the labels instead, and takes the largest of K binary outputs as the class.
    Raises UnknownNameError.
    """
    if isinstance(identifier, str) and identifier.lower() in ("accuracy", "acc"):
        return _accuracy_for(loss, output_shape)(name=identifier)
    if isinstance(identifier, Metric):
        return identifier
    metric = resolve("metric", identifier, _KNOWN | {"accuracy": CategoricalAccuracy}, Metric)
    if not isinstance(metric, Metric):
        raise unknown_name("metric", identifier, [*_KNOWN, "accuracy"])
    if isinstance(identifier, str):
        metric.name = identifier
    return metric


def _accuracy_for(loss: Any, output_shape: Sequence[int | None]) -> type[Metric]:
    named = loss if inspect.isclass(loss) or inspect.isfunction(loss) else type(loss)
    loss_name = snake_case(loss if isinstance(loss, str) else named.__name__)
    if output_shape[-1] == 1 or loss_name in ("binary_crossentropy", "bce"):
        return BinaryAccuracy
    return SparseCategoricalAccuracy if loss_name.startswith("sparse") else CategoricalAccuracy
