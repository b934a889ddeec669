"""Losses: how wrong a prediction is, as one number, and its derivative.

The loss of a batch is the mean over its samples, so the gradient carries 1/N, once. A batch that is cut into shards
passes the size of the whole batch. The cross-entropies take the logits from the page (ctx) of a model's last layer when
that ends in softmax or sigmoid: the two derivatives together are p - t, exact and finite also where p is rounded to 0.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from minicnn import kernels
from minicnn.backend import Array, xp_of
from minicnn.errors import InputError, checked_number
from minicnn.layers.base import ActivatedLayer, Context, Layer
from minicnn.registry import Configured, names_of, resolve

# Keras' guard against log(0) where only probabilities are known.
EPSILON = 1e-7

_NO_PROBABILITIES = ("linear", "relu", "leaky_relu", "elu", "gelu", "tanh")


class Loss(Configured):
    """Base class: a loss of each sample, and the gradient of their mean.

    sparse: whether targets are class numbers (N,) instead of arrays of the prediction's shape.
    """

    sparse = False

    def per_sample(self, y_true: Array, y_pred: Array, ctx: Context | None = None) -> Array:
        """The loss of each sample: (N,)."""
        raise NotImplementedError(f"{type(self).__name__} must define per_sample(y_true, y_pred, ctx)")

    def gradient(
        self, y_true: Array, y_pred: Array, ctx: Context | None = None, batch_size: int | None = None
    ) -> Array:
        """d(mean loss)/d(y_pred), the mean being over `batch_size` samples (N if None).

        Where ctx carries logits, a cross-entropy differentiates by those instead, and says so by ctx.dlogits.
        """
        raise NotImplementedError(f"{type(self).__name__} must define gradient(y_true, y_pred, ctx, batch_size)")

    def __call__(self, y_true: Array, y_pred: Array) -> float:
        """The mean loss of a batch."""
        y_true, y_pred = (xp_of(y).asarray(y) for y in (y_true, y_pred))
        return float(self.per_sample(prepare_targets(self, y_true, y_pred), y_pred).mean())


class MeanSquaredError(Loss):
    """The mean over the outputs of (y_pred - y_true)²."""

    def per_sample(self, y_true, y_pred, ctx=None):
        return ((y_pred - y_true) ** 2).reshape(len(y_pred), -1).mean(axis=1)

    def gradient(self, y_true, y_pred, ctx=None, batch_size=None):
        return (y_pred - y_true) * (2 / _outputs(y_pred, batch_size))


class MeanAbsoluteError(Loss):
    """The mean over the outputs of |y_pred - y_true|. The gradient is +1 where the prediction is too large."""

    def per_sample(self, y_true, y_pred, ctx=None):
        return xp_of(y_pred).abs(y_pred - y_true).reshape(len(y_pred), -1).mean(axis=1)

    def gradient(self, y_true, y_pred, ctx=None, batch_size=None):
        return xp_of(y_pred).sign(y_pred - y_true) * (1 / _outputs(y_pred, batch_size))


class _CrossEntropy(Loss):
    activation = "softmax"  # whose logits this loss understands

    def __init__(self, from_logits: bool = False, label_smoothing: float = 0.0):
        wanted = "from 0 up to, but not including, 1"
        self.label_smoothing = checked_number(type(self).__name__, "label_smoothing", label_smoothing, wanted, 0.1)
        self.from_logits = from_logits

    def _logits(self, y_pred: Array, ctx: Context | None) -> Array | None:
        if self.from_logits:
            return y_pred
        page = {} if ctx is None else vars(ctx)
        return page.get("logits") if page.get("squashed_by") == self.activation else None

    def _probabilities(self, y_pred: Array) -> Array | None:
        """What the softmax of the logits is, if the last layer has computed it already."""
        return None if self.from_logits else y_pred

    def _hand_over(self, dlogits: Array, ctx: Context | None) -> Array:
        if not self.from_logits and ctx is not None:
            ctx.dlogits = dlogits
        return dlogits


class CategoricalCrossentropy(_CrossEntropy):
    """- sum over the classes of t * log p, for one-hot (or soft) targets (N, K).

    label_smoothing: the share of each target that is spread evenly over all classes.
    """

    def per_sample(self, y_true, y_pred, ctx=None):
        target, logits = self._smooth(y_true, y_pred), self._logits(y_pred, ctx)
        if logits is not None:
            return kernels.softmax_cross_entropy_forward(logits, target)
        total = _sum_of_row(y_pred)
        p = xp_of(y_pred).clip(y_pred / total, EPSILON, 1 - EPSILON)
        return -(target * xp_of(p).log(p)).sum(axis=-1)

    def gradient(self, y_true, y_pred, ctx=None, batch_size=None):
        target, logits = self._smooth(y_true, y_pred), self._logits(y_pred, ctx)
        if logits is not None:
            p = self._probabilities(y_pred)
            return self._hand_over(kernels.softmax_cross_entropy_backward(logits, target, batch_size, p), ctx)
        total = _sum_of_row(y_pred)
        p = xp_of(y_pred).clip(y_pred / total, EPSILON, 1 - EPSILON)
        inside = p == y_pred / total
        mass = (target * inside).sum(axis=-1, keepdims=True)
        return (mass - target * inside / p) / (total * (batch_size or len(y_pred)))

    def _smooth(self, target: Array, y_pred: Array) -> Array:
        s = self.label_smoothing
        return target if s == 0 else target * (1 - s) + s / y_pred.shape[-1]


class SparseCategoricalCrossentropy(_CrossEntropy):
    """- log p of the true class, for class numbers (N,)."""

    sparse = True

    def __init__(self, from_logits: bool = False):
        super().__init__(from_logits)

    def per_sample(self, y_true, y_pred, ctx=None):
        logits = self._logits(y_pred, ctx)
        if logits is not None:
            return kernels.softmax_cross_entropy_forward(logits, y_true)
        return CategoricalCrossentropy().per_sample(_one_hot(y_true, y_pred), y_pred)

    def gradient(self, y_true, y_pred, ctx=None, batch_size=None):
        logits = self._logits(y_pred, ctx)
        if logits is not None:
            p = self._probabilities(y_pred)
            return self._hand_over(kernels.softmax_cross_entropy_backward(logits, y_true, batch_size, p), ctx)
        return CategoricalCrossentropy().gradient(_one_hot(y_true, y_pred), y_pred, None, batch_size)


class BinaryCrossentropy(_CrossEntropy):
    """The mean over the outputs of -(t log p + (1 - t) log(1 - p)), for targets of 0 and 1.

    From logits z: max(z, 0) - z t + log(1 + exp(-|z|)), which cannot overflow.
    """

    activation = "sigmoid"

    def per_sample(self, y_true, y_pred, ctx=None):
        xp, target, logits = xp_of(y_pred), self._smooth(y_true), self._logits(y_pred, ctx)
        if logits is not None:
            loss = xp.maximum(logits, 0) - logits * target + xp.log1p(xp.exp(-xp.abs(logits)))
        else:
            p = xp.clip(y_pred, EPSILON, 1 - EPSILON)
            loss = -(target * xp.log(p) + (1 - target) * xp.log1p(-p))
        return loss.reshape(len(y_pred), -1).mean(axis=1)

    def gradient(self, y_true, y_pred, ctx=None, batch_size=None):
        target, logits, outputs = self._smooth(y_true), self._logits(y_pred, ctx), _outputs(y_pred, batch_size)
        if logits is not None:
            return self._hand_over((kernels.sigmoid_forward(logits) - target) * (1 / outputs), ctx)
        p = xp_of(y_pred).clip(y_pred, EPSILON, 1 - EPSILON)
        return (p == y_pred) * (p - target) / (p * (1 - p)) * (1 / outputs)

    def _smooth(self, target: Array) -> Array:
        return target if self.label_smoothing == 0 else target * (1 - self.label_smoothing) + self.label_smoothing / 2


def _sum_of_row(y_pred: Array) -> Array:
    """What probabilities are divided by to sum to 1. A row of zeros stays one."""
    total = y_pred.sum(axis=-1, keepdims=True)
    return total + (total == 0)


def _outputs(y_pred: Array, batch_size: int | None) -> int:
    """How many numbers the mean of a batch is taken over."""
    return (batch_size or len(y_pred)) * (y_pred.size // len(y_pred))


def _one_hot(labels: Array, y_pred: Array) -> Array:
    xp = xp_of(y_pred)
    return xp.eye(y_pred.shape[-1], dtype=y_pred.dtype)[labels]


_KNOWN = names_of(
    MeanSquaredError,
    MeanAbsoluteError,
    CategoricalCrossentropy,
    SparseCategoricalCrossentropy,
    BinaryCrossentropy,
    mse=MeanSquaredError,
    mae=MeanAbsoluteError,
)


def get(identifier: str | dict | Loss) -> Loss:
    """The loss for a name, a config or an instance. Raises UnknownNameError."""
    if isinstance(identifier, Loss):
        return identifier
    return resolve("loss", identifier if isinstance(identifier, (str, dict)) else repr(identifier), _KNOWN, Loss)


def loss_gradient(
    loss: Loss, y_true: Array, y_pred: Array, ctx: Context | None = None, batch_size: int | None = None
) -> Array:
    """Where the way back begins: loss.gradient. If that is by the logits, the last layer finds it as ctx.dlogits."""
    dy = loss.gradient(y_true, y_pred, ctx, batch_size)
    if ctx is not None and "dlogits" in vars(ctx):
        ctx.dlogits = dy  # a subclass may have changed what the cross-entropy put there
    return dy


def prepare_targets(loss: Loss, y_true: np.ndarray, y_pred: Array) -> Array:
    """Targets as the loss computes with them: integers (N,), or of y_pred's shape and dtype; where y_pred is."""
    asarray = xp_of(y_pred).asarray
    if loss.sparse:
        return asarray(y_true.reshape(len(y_true)), dtype=np.intp)
    return asarray(y_true.reshape(y_pred.shape), dtype=y_pred.dtype)


def check_targets(loss: Loss, y: np.ndarray, output_shape: tuple[int, ...], name: str = "y") -> None:
    """Before training: do these targets fit this loss and this output? Raises InputError, and says what was found."""
    if loss.sparse:
        _check_class_numbers(loss, y, output_shape, name)
    else:
        _check_arrays(loss, y, output_shape, name)


def warn_unless_probabilities(loss: Loss, layers: Sequence[Layer], stacklevel: int) -> None:
    """A UserWarning where a cross-entropy will take for probabilities what the last activation does not make."""
    last, kind = layers[-1] if layers else None, type(loss).__name__
    name = last.activation.name if isinstance(last, ActivatedLayer) else None
    if not isinstance(loss, _CrossEntropy) or loss.from_logits or last is None or name not in _NO_PROBABILITIES:
        return
    warnings.warn(
        f"{kind} takes probabilities, but the outputs of {last.name} are none: its activation is {name!r}. Give it "
        f'activation="{loss.activation}", or compile with loss=minicnn.losses.{kind}(from_logits=True).',
        stacklevel=stacklevel,
    )


def _check_class_numbers(loss: Loss, y: np.ndarray, output_shape: tuple[int, ...], name: str) -> None:
    outputs, kind = output_shape[-1], type(loss).__name__
    if len(output_shape) > 1:
        raise InputError(
            "the model's output", f"{kind} needs one row of classes for each sample.", "shape (N, classes).",
            f"shape {_batch_of(output_shape)}.", "put Flatten() or GlobalAveragePooling2D() before the last Dense.",
        )  # fmt: skip
    if _is_one_hot(y):
        use_other = 'use loss="categorical_crossentropy", or ' if y.shape[1] == outputs else ""
        raise InputError(
            name, f"{kind} takes class numbers.", f"integers 0…{outputs - 1} of shape (N,).",
            f"one-hot rows of shape {y.shape}.", f"{use_other}pass {name}.argmax(axis=1) as the targets.",
        )  # fmt: skip
    if y.size != len(y) or (y.dtype.kind == "f" and not np.all(np.mod(y, 1) == 0)):
        fix = "number the classes from 0."
        if y.size == len(y):
            fix += ' For numbers that are measured, not counted, use loss="mse".'
        raise InputError(
            name, f"{kind} takes class numbers.", f"integers 0…{outputs - 1} of shape (N,).",
            f"an array of shape {y.shape} and dtype {y.dtype}{_example(y)}.", fix,
        )  # fmt: skip
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= outputs:
        raise InputError(
            name, "labels are out of range.", f"class numbers 0…{outputs - 1}, for {outputs} outputs.",
            f"labels from {low} to {high}.",
            f"number the classes from 0, or give the last layer {high + 1} units."
            if low >= 0 else "number the classes from 0.",
        )  # fmt: skip


def _check_arrays(loss: Loss, y: np.ndarray, output_shape: tuple[int, ...], name: str) -> None:
    outputs, kind = output_shape[-1], type(loss).__name__
    categorical, of_probabilities = isinstance(loss, CategoricalCrossentropy), isinstance(loss, _CrossEntropy)
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


def _batch_of(shape: tuple[int, ...]) -> str:
    return f"(N, {', '.join(map(str, shape))})"


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
