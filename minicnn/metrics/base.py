"""What a model is judged by, over all samples seen since the last reset.

A metric splits into a pure part and a running one. `metric.sum(y_true, y_pred)` looks at some samples and
changes nothing, so several threads may call it at once, each for its shard; `metric.add(total, count)` then
counts what they found. Nothing waits for a GPU before `result()`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from minicnn.arguments import in_words
from minicnn.backend import Array, to_host, xp_of
from minicnn.errors import InputError, check_callable
from minicnn.objective import numbers, one_for_each
from minicnn.registry import Configured, snake_case

NAME = {"name": ([str], "my_metric"), "dtype": ((None, "float32", "float64"), "float32")}


class Metric(Configured):
    """Base class: implement `values(y_true, y_pred)`, whose mean is the result.

    direction: "max" if larger is better, "min" if smaller is: how EarlyStopping reads it. weighted: whether a model's
    samples count by their weights, as those of compile(weighted_metrics=…) do. dtype: accepted as in Keras; sums are
    float64 in any case.
    """

    direction: str | None = "max"
    weighted = False
    one_number = True  # whether the result is a number, and not an array of them
    ranges: ClassVar[dict[str, Any]] = {**NAME}
    name: Any = None
    dtype: str | None = None

    def __init__(self, name: str | None = None, dtype: str | None = None):
        self.name, self.dtype = name, dtype
        self.name = self.name or snake_case(type(self).__name__)
        self.total: Any = 0.0
        self.count = 0

    def values(self, y_true: Array, y_pred: Array) -> Array:
        """One value for each sample, shape (N,), or several, shape (N, ...), which are averaged."""
        raise NotImplementedError(f"{type(self).__name__} must implement values(y_true, y_pred)")

    def sum(self, y_true: Array, y_pred: Array, weights: Array | None = None) -> Any:
        """The sum over the N samples of each sample's mean value: a float64 scalar (GPU: a 0-d array).

        With weights, (N,) or (N, positions): two numbers, the weighted sum and the sum of the weights.
        """
        values = self.values(y_true, y_pred)
        if weights is None:
            total = values.sum(dtype="float64")
            return total if values.ndim == 1 else total * (len(values) / max(values.size, 1))
        weights = xp_of(values).asarray(weights, "float64")
        _check_weights(self.name, weights, values.shape)
        weights = weights[..., 0] if weights.ndim > values.ndim else weights
        values = values.astype("float64")
        while values.ndim > weights.ndim:
            values = values.mean(axis=-1)
        values, weights = ((a.reshape(len(a), -1).mean(axis=1)) for a in (values * weights, weights))
        return xp_of(values).stack([values.sum(), weights.sum()])

    def add(self, total: Any, count: int) -> None:
        """Count `count` more samples, whose values sum up to `total`."""
        self.total = self.total + total
        self.count += count

    @in_words
    def update(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Count the samples of a batch. Raises InputError."""
        y_true, y_pred = numbers("y_true", y_true), numbers("y_pred", y_pred)
        if len(y_true) != len(y_pred):
            raise other_shapes(self.name, y_true, y_pred)
        sample_weight = one_for_each(sample_weight, len(y_pred))
        weights = None if sample_weight is None else numbers("sample_weight", sample_weight)
        if weights is not None and len(weights) != len(y_pred):
            raise InputError(
                "sample_weight", "there is not one for each sample.", f"shape ({len(y_pred)},).",
                f"shape {weights.shape}.", "one weight for each sample.",
            )  # fmt: skip
        self.add(self.sum(y_true, y_pred, weights), len(y_true))

    @in_words
    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Count the samples of a batch, and say the result."""
        self.update(y_true, y_pred, sample_weight)
        return self.result()

    def result(self) -> Any:
        """The mean over all samples counted since the last reset; 0 before the first one."""
        if getattr(self.total, "ndim", 0):
            total, weight = to_host(self.total)
            return float(total) / float(weight) if weight else 0.0
        return float(self.total) / self.count if self.count else 0.0

    def reset(self) -> None:
        """Forget all samples."""
        self.total, self.count = 0.0, 0

    @in_words
    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Keras' name for update."""
        self.update(y_true, y_pred, sample_weight)

    def reset_state(self) -> None:
        """Keras' name for reset."""
        self.reset()


class FunctionMetric(Metric):
    """A function of the user's, f(y_true, y_pred), as a metric of its name.

    It gives a value for each sample, or several; a single number counts as the mean of the samples that it was given,
    which are a part of a batch where several threads work.
    """

    direction = None  # nobody knows

    def __init__(self, function: Callable[..., Any], name: str | None = None):
        check_callable("metrics", function, "f(y_true, y_pred)", None, None)
        super().__init__(getattr(function, "__name__", snake_case(type(function).__name__)) if name is None else name)
        self.function = function

    def values(self, y_true: Array, y_pred: Array) -> Array:
        xp, n = xp_of(y_pred), len(y_pred)
        values = self.function(y_true, y_pred)
        values = values if hasattr(values, "dtype") else np.asarray(values)
        if values.ndim and len(values) != n or values.dtype.kind not in "buif":
            raise InputError(
                self.name, "the function does not give a number for each sample.", f"a number, or an array ({n}, …).",
                f"an array of shape {values.shape}, {values.dtype}.", "take the mean over the other axes only.",
            )  # fmt: skip
        return xp.asarray(values) if values.ndim else xp.zeros(n) + xp.asarray(values)


def sums(metrics: Sequence[Metric], y_true: Array, y_pred: Array, weights: Array | None) -> list[Any]:
    """The sum of each metric over some samples; weights: how much each of them counts, None where all count the same.

    The sums of a metric that is weighted have one form in all batches, whether they bring weights or not.
    """
    given = xp_of(y_pred).ones(len(y_pred)) if weights is None else weights
    return [metric.sum(y_true, y_pred, given if metric.weighted else None) for metric in metrics]


# ---- shapes ----------------------------------------------------------------------------------------------------------


def _check_weights(name: str, weights: Array, shape: tuple[int, ...]) -> None:
    """InputError unless the weights are of the first axes of this shape, or of all of it and one axis of length 1."""
    sizes = weights.shape[:-1] if weights.ndim == len(shape) + 1 and weights.shape[-1] == 1 else weights.shape
    if len(sizes) > len(shape) or any(n not in (1, m) for n, m in zip(sizes, shape, strict=False)):
        raise InputError(
            "sample_weight", f"the weights do not fit what {name} looks at.",
            f"shape {' or '.join(str(shape[:n]) for n in range(1, len(shape) + 1))}.", f"shape {weights.shape}.",
            "one weight for each sample, or one for each of its positions.",
        )  # fmt: skip


def over(name: str, weights: Array, a: Array) -> Array:
    """The weights with axes of length 1 at their end, so that they spread over `a`; InputError where they do not."""
    _check_weights(name, weights, a.shape)
    weights = weights[..., 0] if weights.ndim > a.ndim else weights
    return weights.reshape(weights.shape + (1,) * (a.ndim - weights.ndim))


def same_shape(name: str, y_true: Array, y_pred: Array) -> Array:
    """y_true in the shape of y_pred; InputError where it has another number of values."""
    if y_true.size != y_pred.size:
        raise other_shapes(name, y_true, y_pred)
    return y_true.reshape(y_pred.shape)


def other_shapes(name: str, y_true: Array, y_pred: Array) -> InputError:
    return InputError(
        name, "targets and predictions do not fit together.", "a target for each prediction: (N, K) and (N, K).",
        f"shapes {y_true.shape} and {y_pred.shape}.",
        "for class numbers, minicnn.utils.to_categorical(y) makes one-hot rows.",
    )  # fmt: skip


def in_shape_of(y_true: Array, y_pred: Array) -> Array:
    """y_true in the shape of y_pred where they differ by a last axis of length 1: (N,) - (N, 1) is (N, N)."""
    if y_true.size == y_pred.size:
        return y_true.reshape(y_pred.shape)
    if y_true.shape != y_pred.shape[: y_true.ndim]:
        raise other_shapes("metric", y_true, y_pred)
    return y_true


def labels_of(y_true: Array, y_pred: Array) -> Array:
    """Integer labels without the last axis of length 1 that they may come with."""
    return y_true[..., 0] if y_true.ndim == y_pred.ndim else y_true
