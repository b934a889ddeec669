"""Accuracies, errors and cross-entropies: means over the samples."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from minicnn import losses
from minicnn.backend import Array, xp_of
from minicnn.metrics.base import NAME, Metric, in_shape_of, labels_of, over
from minicnn.objective import prepare_targets


class BinaryAccuracy(Metric):
    """How often y_pred > threshold agrees with y_true, 0 or 1: (N,), (N, 1), or (N, K) for K questions."""

    ranges: ClassVar[dict[str, Any]] = {**NAME, "threshold": ("that is finite", 0.5)}

    def __init__(self, name: str | None = None, dtype: str | None = None, threshold: float = 0.5):
        super().__init__(name, dtype)
        self.threshold = threshold

    def values(self, y_true: Array, y_pred: Array) -> Array:
        return (y_pred > self.threshold) == in_shape_of(y_true, y_pred)


class CategoricalAccuracy(Metric):
    """How often the largest output is that of the true class. y_true: one-hot (N, K); y_pred: (N, K)."""

    def values(self, y_true: Array, y_pred: Array) -> Array:
        return y_pred.argmax(-1) == y_true.argmax(-1)


class SparseCategoricalAccuracy(Metric):
    """How often the largest output is that of the true class. y_true: integers (N,) or (N, 1)."""

    def values(self, y_true: Array, y_pred: Array) -> Array:
        return y_pred.argmax(-1) == labels_of(y_true, y_pred)


class SparseTopKCategoricalAccuracy(Metric):
    """How often the true class is among the k largest outputs. y_true: integers (N,) or (N, 1).

    As in Keras, a class that ties with the k-th largest output counts, and one whose output is not finite
    never does.
    """

    ranges: ClassVar[dict[str, Any]] = {**NAME, "k": (1, 5)}

    def __init__(self, k: int = 5, name: str | None = None, dtype: str | None = None):
        super().__init__(name, dtype)
        self.k = k

    def values(self, y_true: Array, y_pred: Array) -> Array:
        xp = xp_of(y_pred)
        labels = labels_of(y_true, y_pred)[..., None].astype("int64")
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
        return xp_of(y_pred).square(in_shape_of(y_true, y_pred) - y_pred)


class MeanAbsoluteError(Metric):
    """Mean of |y_true - y_pred|, in the units of y."""

    direction = "min"

    def values(self, y_true: Array, y_pred: Array) -> Array:
        return abs(in_shape_of(y_true, y_pred) - y_pred)


class RootMeanSquaredError(MeanSquaredError):
    """The root of the mean of (y_true - y_pred)²: an error in the units of y."""

    def result(self) -> float:
        return float(np.sqrt(super().result()))


class _OfLoss(Metric):
    """A loss as a metric: the mean of its values."""

    direction = "min"
    loss: type[losses.Loss]

    def values(self, y_true: Array, y_pred: Array) -> Array:
        own = ("name", "dtype")
        loss = self.loss(**{name: getattr(self, name) for name in self._arguments() if name not in own})
        return loss.values(prepare_targets(loss, y_true, y_pred), y_pred)


class KLDivergence(_OfLoss):
    """sum over the classes of t * log(t / p): see losses.KLDivergence."""

    loss = losses.KLDivergence


class BinaryCrossentropy(_OfLoss):
    """See losses.BinaryCrossentropy."""

    loss: type[losses.Loss] = losses.BinaryCrossentropy
    ranges: ClassVar[dict[str, Any]] = {**losses.BinaryCrossentropy.ranges, **NAME}

    def __init__(
        self,
        name: str | None = None,
        dtype: str | None = None,
        from_logits: bool = False,
        label_smoothing: float = 0.0,
    ):
        super().__init__(name, dtype)
        self.from_logits, self.label_smoothing = from_logits, label_smoothing


class CategoricalCrossentropy(BinaryCrossentropy):
    """See losses.CategoricalCrossentropy."""

    loss = losses.CategoricalCrossentropy

    def __init__(
        self,
        name: str | None = None,
        dtype: str | None = None,
        from_logits: bool = False,
        label_smoothing: float = 0.0,
        axis: int = -1,
    ):
        super().__init__(name, dtype, from_logits, label_smoothing)
        self.axis = axis


class SparseCategoricalCrossentropy(_OfLoss):
    """See losses.SparseCategoricalCrossentropy."""

    loss = losses.SparseCategoricalCrossentropy
    ranges: ClassVar[dict[str, Any]] = {**losses.SparseCategoricalCrossentropy.ranges, **NAME}

    def __init__(
        self,
        name: str | None = None,
        dtype: str | None = None,
        from_logits: bool = False,
        ignore_class: int | None = None,
        axis: int = -1,
    ):
        super().__init__(name, dtype)
        self.from_logits, self.ignore_class, self.axis = from_logits, ignore_class, axis

    def sum(self, y_true: Array, y_pred: Array, weights: Array | None = None) -> Any:
        if self.ignore_class is not None:
            known = (labels_of(y_true, y_pred) != self.ignore_class).astype("float64")
            weights = known if weights is None else known * over(self.name, weights, known)
        return super().sum(y_true, y_pred, weights)
