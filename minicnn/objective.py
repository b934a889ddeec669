"""What a training step asks of a loss: its values and gradient, with targets, weights and reduction as Keras has them.

The losses themselves are in minicnn/losses.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real
from typing import Any, ClassVar

import numpy as np

from minicnn.arguments import in_words
from minicnn.backend import Array, xp_of
from minicnn.errors import InputError
from minicnn.layers.base import Context
from minicnn.registry import Configured

REDUCTIONS = ("sum_over_batch_size", "sum", "mean", "mean_with_sample_weight", "none", None)


class Loss(Configured):
    """Base class. A subclass defines values (or per_sample) and gradient; gradcheck.check_loss compares the two.

    reduction: how the values become one number. "sum_over_batch_size" and "mean": their mean. "sum": their sum.
    "mean_with_sample_weight": the mean by weights. "none" or None: a call returns all of them; fit refuses it.
    dtype: accepted as in Keras; a loss is computed in that of the predictions in any case.
    sparse: whether targets are class numbers instead of arrays of the prediction's shape. whole_batch: whether the loss
    is not a mean over samples, but a value of the batch, which then cannot be cut into shards.
    """

    sparse = False
    whole_batch = False
    reduction: str | None = "sum_over_batch_size"
    name: str | None = None
    dtype: str | None = None
    ranges: ClassVar[dict[str, Any]] = {
        "reduction": (REDUCTIONS, "sum"),
        "name": ([str], "my_loss"),
        "dtype": ((None, "float32", "float64"), "float32"),
    }

    def __init__(
        self,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = None,
        dtype: str | None = None,
    ):
        self.reduction, self.name, self.dtype = reduction, name, dtype

    def values(self, y_true: Array, y_pred: Array, ctx: Context | None = None) -> Array:
        """The loss of each sample, (N,), or of each of its positions: (N, H, W) for outputs (N, H, W, K)."""
        raise NotImplementedError(f"{type(self).__name__} must define values(y_true, y_pred, ctx)")

    def per_sample(self, y_true: Array, y_pred: Array, ctx: Context | None = None) -> Array:
        """The loss of each sample, (N,): the mean over its positions."""
        return mean_of_positions(self.values(y_true, y_pred, ctx))

    def gradient(
        self, y_true: Array, y_pred: Array, ctx: Context | None = None, batch_size: int | None = None
    ) -> Array:
        """d(mean loss)/d(y_pred), the mean being over `batch_size` samples (N if None), and over their positions.

        Where ctx carries logits, a cross-entropy differentiates by those instead, and says so by ctx.dlogits.
        """
        raise NotImplementedError(f"{type(self).__name__} must define gradient(y_true, y_pred, ctx, batch_size)")

    def positions(self, output_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the values of one sample, for predictions of this shape."""
        return tuple(output_shape[:-1])

    def count(self, y_pred: Array, batch_size: int | None = None) -> int:
        """How many values the mean of a batch is taken over: samples (N of y_pred if None) times positions."""
        return (batch_size or len(y_pred)) * math.prod(self.positions(y_pred.shape[1:]))

    @in_words
    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """The loss of a batch, or an array of values where reduction is None.

        sample_weight: (N,), one for each position, or one for all: what each value is multiplied by. Raises InputError.
        """
        y_pred = numbers("y_pred", y_pred)
        y_pred = y_pred if y_pred.dtype.kind == "f" else y_pred.astype(np.float32)
        y = prepare_targets(self, numbers("y_true", y_true), y_pred)
        weights = weights_of_batch(self, y, one_for_each(sample_weight, len(y_pred)), y_pred.shape[1:])
        if self.reduction in ("none", None):
            values = self.values(y, y_pred)
            return values if weights is None else values * _over(weights, values)
        return float(sample_losses(self, y, y_pred, None, len(y_pred), weights).mean())


# ---- how a training step uses a loss ---------------------------------------------------------------------------------


def prepare_targets(loss: Loss, y_true: np.ndarray, y_pred: Array) -> Array:
    """Targets as the loss computes with them: class numbers, or of y_pred's shape and dtype; where y_pred is."""
    shape, dtype = y_pred.shape, y_pred.dtype
    if loss.sparse:
        shape, dtype = (len(y_pred), *loss.positions(y_pred.shape[1:])), np.dtype(np.intp)
    if y_true.size != math.prod(shape):
        raise InputError(
            "y_true", f"the targets of {type(loss).__name__} do not fit the predictions.", f"shape {shape}.",
            f"shape {y_true.shape}, for predictions of shape {y_pred.shape}.", "give a target for each prediction.",
        )  # fmt: skip
    return xp_of(y_pred).asarray(y_true.reshape(shape), dtype=dtype)


def weights_of_batch(
    loss: Loss, y_true: Array, sample_weight: Any = None, output_shape: tuple[int, ...] = (),
    totals: Callable[..., tuple[Any, ...]] | None = None,
) -> Array | None:  # fmt: skip
    """What each value of a whole batch is multiplied by: (N,), or (N, positions); None where that is 1 everywhere.

    y_true, sample_weight: of the whole batch, before it is cut into shards. output_shape: of one prediction.
    Weights as Keras takes them: class numbers that are ignored leave the mean over the others.
    totals: sums numbers over all processes, where y_true is the run of the batch that one of them has.
    """

    def mean(a: Array) -> Any:
        total, count = (a.sum(), a.size) if totals is None else totals(a.sum(), a.size)
        return total / count or 1.0

    weights, ignored, n = None, getattr(loss, "ignore_class", None), len(y_true)
    if sample_weight is None and ignored is None:
        return None
    positions = loss.positions(output_shape)
    if sample_weight is not None:
        weights = xp_of(y_true).asarray(numbers("sample_weight", sample_weight), np.float64)
        weights = weights[..., 0] if weights.ndim > 1 and weights.shape[-1] == 1 else weights
        if weights.shape[0] != n or weights.shape[1:] not in ((), positions) or loss.whole_batch:
            raise InputError(
                "sample_weight", "there is not one for each sample.", f"shape {(n,)}, or one a position.",
                f"shape {np.shape(sample_weight)} for {type(loss).__name__}.",
                "give the loss axis=(1, 2, 3)." if loss.whole_batch else "one weight for each sample.",
            )  # fmt: skip
    if ignored is not None:
        valid = (y_true.reshape(n, *positions) != ignored).astype(np.float64)
        if loss.reduction in ("sum_over_batch_size", "mean"):
            valid = valid / mean(valid)
        weights = valid if weights is None else valid * _over(weights, valid)
    if weights is not None and loss.reduction == "mean_with_sample_weight":
        weights = weights / mean(weights)
    return weights


def sample_losses(
    loss: Loss, y_true: Array, y_pred: Array, ctx: Context | None = None, batch_size: int | None = None,
    weights: Array | None = None,
) -> Array:  # fmt: skip
    """A number for each sample, (N,), whose mean over the batch is the batch's loss: weighted, and by the reduction.

    batch_size: how many samples the whole batch has, and weights: of these samples, from weights_of_batch; both None
    where they are the whole batch.
    """
    if weights is None and batch_size is None:
        weights = weights_of_batch(loss, y_true, None, y_pred.shape[1:])
    if weights is None or weights.ndim == 1:
        losses = loss.per_sample(y_true, y_pred, ctx)
        losses = losses if weights is None else losses * weights.astype(losses.dtype)
    elif type(loss).per_sample is not Loss.per_sample:
        raise InputError(
            type(loss).__name__, "each position has a weight, but the loss is known for whole samples only.",
            "a loss that defines values(y_true, y_pred, ctx).", "one that defines per_sample.",
            "define values instead: the loss of each position.",
        )  # fmt: skip
    else:
        values = loss.values(y_true, y_pred, ctx)
        losses = mean_of_positions(values * weights.astype(values.dtype))
    return losses if loss.reduction != "sum" or loss.whole_batch else losses * loss.count(y_pred, batch_size)


def loss_gradient(
    loss: Loss, y_true: Array, y_pred: Array, ctx: Context | None = None, batch_size: int | None = None,
    weights: Array | None = None,
) -> Array:  # fmt: skip
    """Where the backward pass begins: loss.gradient, weighted, and by the reduction. Arguments as in sample_losses.

    If that is with respect to the logits, the last layer finds it as ctx.dlogits.
    """
    dy = loss.gradient(y_true, y_pred, ctx, batch_size)
    if weights is None and batch_size is None:
        weights = weights_of_batch(loss, y_true, None, y_pred.shape[1:])
    if weights is not None:
        dy = dy * _spread(loss, weights, dy).astype(dy.dtype)
    if loss.reduction == "sum" and not loss.whole_batch:
        dy = dy * loss.count(y_pred, batch_size)
    if ctx is not None and "dlogits" in vars(ctx):
        ctx.dlogits = dy  # a subclass may have changed what the cross-entropy put there
    return dy


def part(weights: Array | None, samples: slice) -> Array | None:
    """The weights of some of the samples."""
    return None if weights is None else weights[samples]


def _spread(loss: Loss, weights: Array, dy: Array) -> Array:
    """The weights of positions, each for all numbers of its position."""
    axis = getattr(loss, "axis", -1)
    if weights.ndim == dy.ndim - 1 and isinstance(axis, int):
        return xp_of(weights).expand_dims(weights, axis)
    return _over(weights, dy)


# ---- shapes ----------------------------------------------------------------------------------------------------------


def numbers(name: str, value: Any) -> Array:
    """`value` as an array of numbers with a batch axis; else InputError."""
    try:
        array = xp_of(value).asarray(value)
    except ValueError:
        array = np.empty(0, object)
    if array.dtype.kind not in "buif" or array.ndim == 0:
        what = f"an array of dtype {array.dtype} and shape {array.shape}" if array.ndim else f"{value!r}"
        raise InputError(name, "these are no numbers.", "an array of numbers.", f"{what}.", "pass one for each sample.")
    return array


def one_for_each(sample_weight: Any, n: int) -> Any:
    """A single number as n of them, for n samples; anything else as it is."""
    if getattr(sample_weight, "ndim", None) == 0 and sample_weight.dtype.kind in "uif":
        sample_weight = sample_weight.item()
    single = isinstance(sample_weight, Real) and not isinstance(sample_weight, bool)
    return np.full(n, float(sample_weight)) if single else sample_weight


def mean_of_positions(values: Array) -> Array:
    return values if values.ndim == 1 else values.reshape(len(values), -1).mean(axis=1)


def _over(weights: Array, a: Array) -> Array:
    """The weights with axes of length 1 at their end, so that they spread over `a`."""
    return weights.reshape(weights.shape + (1,) * (a.ndim - weights.ndim))
