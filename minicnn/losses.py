"""Losses: how wrong a prediction is, as one number, and its gradient with respect to the prediction.

A loss is a value for each sample (for images of classes: for each pixel of it); the loss of a batch is their mean, so
the gradient carries 1/N, once. A batch that is cut into shards passes the size of the whole batch. The cross-entropies
take the logits from the context of a model's last layer when that ends in softmax or sigmoid: the two derivatives
together are p - t, exact and finite also where p is rounded to 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from minicnn import kernels
from minicnn.arguments import in_words
from minicnn.backend import Array, xp_of
from minicnn.errors import InputError, UnknownNameError, checked
from minicnn.layers.base import Context
from minicnn.objective import Loss
from minicnn.registry import Configured, names_of, resolve, snake_case

__all__ = [
    "BinaryCrossentropy", "BinaryFocalCrossentropy", "CategoricalCrossentropy", "CategoricalFocalCrossentropy", "Dice",
    "Huber", "KLDivergence", "Loss", "MeanAbsoluteError", "MeanSquaredError", "SparseCategoricalCrossentropy",
    "binary_crossentropy", "binary_focal_crossentropy", "categorical_crossentropy", "categorical_focal_crossentropy",
    "dice", "get", "huber", "kl_divergence", "mean_absolute_error", "mean_squared_error",
    "sparse_categorical_crossentropy",
]  # fmt: skip

# Keras' guard against log(0) where only probabilities are known.
EPSILON = 1e-7


class MeanSquaredError(Loss):
    """The mean over the outputs of (y_pred - y_true)²."""

    def values(self, y_true, y_pred, ctx=None):
        return _mean_of_outputs((y_pred - y_true) ** 2)

    def gradient(self, y_true, y_pred, ctx=None, batch_size=None):
        return (y_pred - y_true) * (2 / _outputs(y_pred, batch_size))


class MeanAbsoluteError(Loss):
    """The mean over the outputs of |y_pred - y_true|. The gradient is +1 where the prediction is too large."""

    def values(self, y_true, y_pred, ctx=None):
        return _mean_of_outputs(abs(y_pred - y_true))

    def gradient(self, y_true, y_pred, ctx=None, batch_size=None):
        return xp_of(y_pred).sign(y_pred - y_true) * (1 / _outputs(y_pred, batch_size))


class Huber(Loss):
    """The mean of e²/2 for errors |e| up to delta, of delta |e| - delta²/2 beyond: one bad target cannot pull for ever.

    P. Huber, "Robust Estimation of a Location Parameter" (1964).
    """

    ranges: ClassVar[dict[str, Any]] = {**Loss.ranges, "delta": ("above 0", 1.0)}

    def __init__(
        self,
        delta: float = 1.0,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = None,
        dtype: str | None = None,
    ):
        super().__init__(reduction, name, dtype)
        self.delta = delta

    def values(self, y_true, y_pred, ctx=None):
        size = abs(y_pred - y_true)
        inside = xp_of(y_pred).minimum(size, self.delta)  # e²/2, and delta times what lies beyond
        return _mean_of_outputs(inside * (size - inside / 2))

    def gradient(self, y_true, y_pred, ctx=None, batch_size=None):
        return (y_pred - y_true).clip(-self.delta, self.delta) * (1 / _outputs(y_pred, batch_size))


class KLDivergence(Loss):
    """sum over the classes of t * log(t / p): how far the distribution p is from t. Both are cut off at 1e-7 and 1."""

    def values(self, y_true, y_pred, ctx=None):
        t, p = y_true.clip(EPSILON, 1), y_pred.clip(EPSILON, 1)
        return (t * xp_of(p).log(t / p)).sum(axis=-1)

    def gradient(self, y_true, y_pred, ctx=None, batch_size=None):
        t, p = y_true.clip(EPSILON, 1), y_pred.clip(EPSILON, 1)
        return (p == y_pred) * -t / p * (1 / self.count(y_pred, batch_size))


class Dice(Loss):
    """1 - 2 |overlap| / (|true| + |predicted|), for masks: the same for a small object as for a large one.

    axis: the axes that are summed over: (1, 2, 3) gives a value for each image; None, Keras' default, sums over the
    whole batch, which then cannot be weighted by samples. F. Milletari et al., "V-Net" (2016), section 3, there with
    squares.
    """

    def __init__(
        self,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = None,
        axis: int | Sequence[int] | None = None,
        dtype: str | None = None,
    ):
        super().__init__(reduction, name, dtype)
        axis = checked("Dice", "axis", axis, ["axes"], (1, 2, 3))
        self.axis = tuple(axis) if isinstance(axis, list) else axis

    @property
    def whole_batch(self) -> bool:  # type: ignore[override]
        return self.axis is None or 0 in (self.axis if isinstance(self.axis, tuple) else (self.axis,))

    def values(self, y_true, y_pred, ctx=None):
        values = 1 - 2 * self._sum(y_true * y_pred) / (self._sum(y_true) + self._sum(y_pred) + EPSILON)
        if self.whole_batch:  # one for all samples: each has a part in it
            return xp_of(y_pred).full(len(y_pred), values.mean(), y_pred.dtype)
        return values.squeeze(self.axis)

    def gradient(self, y_true, y_pred, ctx=None, batch_size=None):
        overlap, total = self._sum(y_true * y_pred), self._sum(y_true) + self._sum(y_pred) + EPSILON
        return 2 * (overlap / total - y_true) / total * (1 / self.count(y_pred, batch_size))

    def positions(self, output_shape):
        return self._sum(np.empty((1, *output_shape), bool)).squeeze(self.axis).shape[0 if self.whole_batch else 1 :]

    def count(self, y_pred, batch_size=None):
        return math.prod(self.positions(y_pred.shape[1:])) if self.whole_batch else super().count(y_pred, batch_size)

    def _sum(self, a: Array) -> Array:
        return a.sum(axis=self.axis, keepdims=True)


class _CrossEntropy(Loss):
    """What the cross-entropies share: from_logits, smoothed targets, and the axis of the classes."""

    activation = "softmax"  # whose logits this loss understands
    ranges: ClassVar[dict[str, Any]] = {
        **Loss.ranges,
        "from_logits": (bool, True),
        "label_smoothing": ("from 0 up to, but not including, 1", 0.1),
        "axis": (int, -1),
    }

    def __init__(
        self,
        from_logits: bool = False,
        label_smoothing: float = 0.0,
        axis: int = -1,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = None,
        dtype: str | None = None,
    ):
        super().__init__(reduction, name, dtype)
        self.from_logits, self.label_smoothing = from_logits, label_smoothing
        self.axis = axis

    def values(self, y_true, y_pred, ctx=None):
        if self.axis in (-1, y_pred.ndim - 1):
            return self._values(self._smooth(y_true, y_pred), y_pred, ctx)
        y_true, y_pred = self._classes_last(y_true, y_pred)
        return self._values(self._smooth(y_true, y_pred), y_pred, None)

    def gradient(self, y_true, y_pred, ctx=None, batch_size=None):
        count = self.count(y_pred, batch_size)
        if self.axis in (-1, y_pred.ndim - 1):
            return self._gradient(self._smooth(y_true, y_pred), y_pred, ctx, count)
        y_true, y_pred = self._classes_last(y_true, y_pred)
        dy = self._gradient(self._smooth(y_true, y_pred), y_pred, None, count)
        return xp_of(dy).ascontiguousarray(xp_of(dy).moveaxis(dy, -1, self.axis))

    def positions(self, output_shape):
        if not output_shape:
            return ()
        axis = self.axis % (len(output_shape) + 1) - 1  # there is no batch axis here
        return (*output_shape[:axis], *output_shape[axis + 1 :])

    def _values(self, target: Array, y_pred: Array, ctx: Context | None) -> Array:
        """The losses of all positions, the classes being the last axis."""
        raise NotImplementedError

    def _gradient(self, target: Array, y_pred: Array, ctx: Context | None, count: int) -> Array:
        """The derivative of their sum / count."""
        raise NotImplementedError

    def _classes_last(self, *arrays: Array) -> list[Array]:
        return [xp_of(a).moveaxis(a, self.axis, -1) for a in arrays]

    def _smooth(self, target: Array, y_pred: Array) -> Array:
        s = self.label_smoothing
        return target if s == 0 else target * (1 - s) + s / y_pred.shape[-1]

    def _logits(self, y_pred: Array, ctx: Context | None) -> Array | None:
        if self.from_logits:
            return y_pred
        written = {} if ctx is None else vars(ctx)
        return written.get("logits") if written.get("from_activation") == self.activation else None

    def _hand_over(self, dlogits: Array, ctx: Context | None) -> Array:
        if not self.from_logits and ctx is not None:
            ctx.dlogits = dlogits
        return dlogits


class CategoricalCrossentropy(_CrossEntropy):
    """- sum over the classes of t * log p, for one-hot (or soft) targets (N, K), or (N, H, W, K) for pixels.

    label_smoothing: the share of each target that is spread evenly over all classes.
    """

    def _values(self, target, y_pred, ctx):
        logits = self._logits(y_pred, ctx)
        if logits is not None:
            return kernels.softmax_cross_entropy_forward(*_rows(logits, target)).reshape(y_pred.shape[:-1])
        p = xp_of(y_pred).clip(y_pred / _sum_of_row(y_pred), EPSILON, 1 - EPSILON)
        target = _one_hot(target, y_pred) if self.sparse else target
        return -(target * xp_of(p).log(p)).sum(axis=-1)

    def _gradient(self, target, y_pred, ctx, count):
        logits = self._logits(y_pred, ctx)
        if logits is not None:
            p = None if self.from_logits else y_pred.reshape(-1, y_pred.shape[-1])  # softmax is computed already
            dlogits = kernels.softmax_cross_entropy_backward(*_rows(logits, target), count, p)
            return self._hand_over(dlogits.reshape(y_pred.shape), ctx)
        total = _sum_of_row(y_pred)
        p = xp_of(y_pred).clip(y_pred / total, EPSILON, 1 - EPSILON)
        inside = p == y_pred / total
        target = _one_hot(target, y_pred) if self.sparse else target
        mass = (target * inside).sum(axis=-1, keepdims=True)
        return (mass - target * inside / p) / (total * count)


class SparseCategoricalCrossentropy(CategoricalCrossentropy):
    """- log p of the true class, for class numbers (N,), or (N, H, W) for pixels.

    ignore_class: a number (as 255 for the seam between two objects) that is no class: such positions count for nothing.
    """

    sparse = True
    ranges: ClassVar[dict[str, Any]] = {**_CrossEntropy.ranges, "ignore_class": ([int], 255)}

    def __init__(
        self,
        from_logits: bool = False,
        ignore_class: int | None = None,
        reduction: str | None = "sum_over_batch_size",
        axis: int = -1,
        name: str | None = None,
        dtype: str | None = None,
    ):
        super().__init__(from_logits, 0.0, axis, reduction, name, dtype)
        self.ignore_class = ignore_class

    def _values(self, target, y_pred, ctx):
        return self._known(target, super()._values(self._known(target, target), y_pred, ctx))

    def _gradient(self, target, y_pred, ctx, count):
        dy = super()._gradient(self._known(target, target), y_pred, ctx, count)
        return self._known(target[..., None], dy)

    def _known(self, target: Array, array: Array) -> Array:
        """The array, with zeros where the target is the class that is ignored."""
        return array if self.ignore_class is None else xp_of(array).where(target == self.ignore_class, 0, array)

    def _smooth(self, target: Array, y_pred: Array) -> Array:
        return target

    def _classes_last(self, *arrays: Array) -> list[Array]:
        return [arrays[0], *super()._classes_last(*arrays[1:])]


class BinaryCrossentropy(_CrossEntropy):
    """The mean over the outputs of -(t log p + (1 - t) log(1 - p)), for targets of 0 and 1.

    From logits z: max(z, 0) - z t + log(1 + exp(-|z|)), which cannot overflow.
    label_smoothing: the share of each target that is replaced by 1/2.
    """

    activation = "sigmoid"

    def _values(self, target, y_pred, ctx):
        xp, logits = xp_of(y_pred), self._logits(y_pred, ctx)
        if logits is not None:
            loss = xp.maximum(logits, 0) - logits * target + xp.log1p(xp.exp(-xp.abs(logits)))
        else:
            p = xp.clip(y_pred, EPSILON, 1 - EPSILON)
            loss = -(target * xp.log(p) + (1 - target) * xp.log1p(-p))
        return _mean_of_outputs(loss)

    def _gradient(self, target, y_pred, ctx, count):
        logits, outputs = self._logits(y_pred, ctx), count * _width(y_pred)
        if logits is not None:
            return self._hand_over((kernels.sigmoid_forward(logits) - target) * (1 / outputs), ctx)
        p = xp_of(y_pred).clip(y_pred, EPSILON, 1 - EPSILON)
        return (p == y_pred) * (p - target) / (p * (1 - p)) * (1 / outputs)

    def _smooth(self, target: Array, y_pred: Array) -> Array:
        return target if self.label_smoothing == 0 else target * (1 - self.label_smoothing) + self.label_smoothing / 2


class BinaryFocalCrossentropy(_CrossEntropy):
    """Binary cross-entropy, times (1 - q)^gamma, q being the probability given to what is true.

    What is right already counts little, so that many easy samples cannot drown the few hard ones.
    apply_class_balancing: ones count alpha, zeros 1 - alpha. T. Lin et al., "Focal Loss" (2017), section 3.
    """

    activation = "sigmoid"
    ranges: ClassVar[dict[str, Any]] = {
        **_CrossEntropy.ranges,
        "apply_class_balancing": (bool, True),
        "alpha": ("from 0 to 1", 0.25),
        "gamma": ("of 0 or more", 2.0),
    }

    def __init__(
        self,
        apply_class_balancing: bool = False,
        alpha: float = 0.25,
        gamma: float = 2.0,
        from_logits: bool = False,
        label_smoothing: float = 0.0,
        axis: int = -1,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = None,
        dtype: str | None = None,
    ):
        super().__init__(from_logits, label_smoothing, axis, reduction, name, dtype)
        self.apply_class_balancing, self.alpha, self.gamma = apply_class_balancing, alpha, gamma

    def _values(self, target, y_pred, ctx):
        y, p, hard, weight = self._parts(target, y_pred)
        return _mean_of_outputs(weight * hard**self.gamma * _binary(target, p))

    def _gradient(self, target, y_pred, ctx, count):
        y, p, hard, weight = self._parts(target, y_pred)
        slope = (p == y) * (p - target) / (p * (1 - p))
        steeper = self.gamma * hard.clip(EPSILON) ** (self.gamma - 1) * (1 - 2 * target) * _binary(target, p)
        dy = weight * (hard**self.gamma * slope + steeper) * (1 / (count * _width(y_pred)))
        return dy * y * (1 - y) if self.from_logits else dy

    def _parts(self, target: Array, y_pred: Array) -> tuple[Array, Array, Array, Any]:
        """The probability, the same kept from 0 and 1, 1 - q, and what each number counts."""
        y = kernels.sigmoid_forward(y_pred) if self.from_logits else y_pred
        hard = target * (1 - y) + (1 - target) * y
        weight = target * self.alpha + (1 - target) * (1 - self.alpha) if self.apply_class_balancing else 1.0
        return y, xp_of(y).clip(y, EPSILON, 1 - EPSILON), hard, weight

    _smooth = BinaryCrossentropy._smooth


class CategoricalFocalCrossentropy(_CrossEntropy):
    """- sum over the classes of alpha * (1 - p)^gamma * t * log p: see BinaryFocalCrossentropy.

    alpha: a number, or one for each class.
    """

    ranges: ClassVar[dict[str, Any]] = {**_CrossEntropy.ranges, "gamma": ("of 0 or more", 2.0)}

    def __init__(
        self,
        alpha: float | Sequence[float] = 0.25,
        gamma: float = 2.0,
        from_logits: bool = False,
        label_smoothing: float = 0.0,
        axis: int = -1,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = None,
        dtype: str | None = None,
    ):
        super().__init__(from_logits, label_smoothing, axis, reduction, name, dtype)
        classes = list(alpha) if isinstance(alpha, (list, tuple)) else []
        each = [checked(type(self).__name__, "alpha", a, "of 0 or more", 0.25) for a in classes or [alpha]]
        self.alpha, self.gamma = each if classes else each[0], gamma

    def _values(self, target, y_pred, ctx):
        y, total, p = self._parts(y_pred)
        alpha = xp_of(p).asarray(self.alpha, p.dtype)
        return -(alpha * (1 - p) ** self.gamma * target * xp_of(p).log(p)).sum(axis=-1)

    def _gradient(self, target, y_pred, ctx, count):
        y, total, p = self._parts(y_pred)
        xp, hard = xp_of(p), (1 - p).clip(EPSILON)
        dp = hard**self.gamma / p - self.gamma * hard ** (self.gamma - 1) * xp.log(p)
        dp *= (p == y / total) * target * xp.asarray(self.alpha, p.dtype) * (-1 / count)
        dy = (dp - (dp * y / total).sum(axis=-1, keepdims=True)) / total
        return kernels.softmax_backward(dy, y) if self.from_logits else dy

    def _parts(self, y_pred: Array) -> tuple[Array, Array, Array]:
        """Probabilities, what they are divided by, and the result kept from 0 and 1."""
        if isinstance(self.alpha, list) and len(self.alpha) not in (1, y_pred.shape[-1]):
            raise InputError(
                type(self).__name__, "alpha does not fit.", f"a number, or {y_pred.shape[-1]}, one for each class.",
                f"{len(self.alpha)} numbers.", "leave it at 0.25.",
            )  # fmt: skip
        y = kernels.softmax_forward(y_pred) if self.from_logits else y_pred
        total = _sum_of_row(y)
        return y, total, xp_of(y).clip(y / total, EPSILON, 1 - EPSILON)


def _mean_of_outputs(a: Array) -> Array:
    """The mean over the last axis, where there is one beside the batch's."""
    return a.mean(axis=-1) if a.ndim > 1 else a


def _width(y_pred: Array) -> int:
    return y_pred.shape[-1] if y_pred.ndim > 1 else 1


def _outputs(y_pred: Array, batch_size: int | None) -> int:
    """How many numbers there are in the predictions of the batch."""
    return (batch_size or len(y_pred)) * (y_pred.size // len(y_pred))


def _rows(logits: Array, target: Array) -> tuple[Array, Array]:
    """All positions as rows of one matrix (positions, K), and their targets."""
    k = logits.shape[-1]
    return logits.reshape(-1, k), target.reshape(-1) if target.ndim < logits.ndim else target.reshape(-1, k)


def _sum_of_row(y_pred: Array) -> Array:
    """What probabilities are divided by to sum to 1. A row of zeros stays one."""
    total = y_pred.sum(axis=-1, keepdims=True)
    return total + (total == 0)


def _binary(target: Array, p: Array) -> Array:
    return -(target * xp_of(p).log(p) + (1 - target) * xp_of(p).log1p(-p))


def _one_hot(labels: Array, y_pred: Array) -> Array:
    xp = xp_of(y_pred)
    return xp.eye(y_pred.shape[-1], dtype=y_pred.dtype)[labels]


_CLASSES = (
    MeanSquaredError, MeanAbsoluteError, Huber, KLDivergence, Dice, CategoricalCrossentropy,
    SparseCategoricalCrossentropy, BinaryCrossentropy, BinaryFocalCrossentropy, CategoricalFocalCrossentropy,
)  # fmt: skip
_KNOWN = names_of(
    *_CLASSES,
    mse=MeanSquaredError, MSE=MeanSquaredError, mae=MeanAbsoluteError, MAE=MeanAbsoluteError, bce=BinaryCrossentropy,
    BCE=BinaryCrossentropy, kld=KLDivergence, KLD=KLDivergence, kl_divergence=KLDivergence,
)  # fmt: skip


_LETTERS = str.maketrans("", "", " _-")
_ANY_CROSSENTROPY = ("crossentropy", "crossentropyloss", "ce", "logloss", "nll", "nllloss", "softmaxcrossentropy")


class _Values:
    """A loss as a function: mean_squared_error(y_true, y_pred) -> the values of all samples, before any mean."""

    def __init__(self, loss: type[Loss]):
        self.loss, self.__name__ = loss, snake_case(loss.__name__)
        self.__doc__ = f"The values of {loss.__name__}, one for each sample or position; options as its own."

    @in_words
    def __call__(self, y_true: Any, y_pred: Any, **options: Any) -> Array:
        loss = self.loss(**{"reduction": None, **options})
        values = loss(y_true, y_pred)
        return values.mean() if loss.whole_batch else values


mean_squared_error, mean_absolute_error = _Values(MeanSquaredError), _Values(MeanAbsoluteError)
huber, kl_divergence, dice = _Values(Huber), _Values(KLDivergence), _Values(Dice)
categorical_crossentropy = _Values(CategoricalCrossentropy)
sparse_categorical_crossentropy = _Values(SparseCategoricalCrossentropy)
binary_crossentropy = _Values(BinaryCrossentropy)
binary_focal_crossentropy = _Values(BinaryFocalCrossentropy)
categorical_focal_crossentropy = _Values(CategoricalFocalCrossentropy)


def get(identifier: Any) -> Loss:
    """The loss for a name, a config, an instance or one of the functions above.

    Raises UnknownNameError, and InputError for a function of your own: it has no gradient.
    """
    if isinstance(identifier, Loss):
        return identifier
    if isinstance(identifier, _Values):
        return identifier.loss()
    if callable(identifier) and not isinstance(identifier, (type, Configured)):
        name = getattr(identifier, "__name__", type(identifier).__name__)
        own = name.title().replace("_", "") if name.isidentifier() else "Own"
        raise InputError(
            "loss", "a plain function has no gradient.", "a name, or a Loss that defines values and gradient.",
            f"the function {name}.", f"write class {own}(minicnn.losses.Loss) with "
            "values(self, y_true, y_pred, ctx=None) and gradient(self, y_true, y_pred, ctx=None, batch_size=None),\n"
            "    and compare the two: minicnn.gradcheck.check_loss(loss, y_true, y_pred).assert_ok().",
        )  # fmt: skip
    name = identifier if isinstance(identifier, (str, dict)) else repr(identifier)
    if isinstance(name, str) and name.lower().translate(_LETTERS) in _ANY_CROSSENTROPY:
        raise UnknownNameError(
            "loss", "there is more than one cross-entropy.", "the one that fits the targets.", f"{name!r}.",
            'for class numbers "sparse_categorical_crossentropy", for one-hot rows "categorical_crossentropy", for yes '
            'or no "binary_crossentropy".',
        )  # fmt: skip
    return resolve("loss", name, _KNOWN, Loss)
