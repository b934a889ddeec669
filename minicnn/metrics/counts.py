"""Metrics that count, and make their result of the counts: precision, recall, areas under curves, F1, IoU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from minicnn import losses
from minicnn.backend import Array, to_host, xp_of
from minicnn.errors import InputError, checked
from minicnn.kernels import sigmoid_forward
from minicnn.metrics.base import NAME, Metric, other_shapes, over, same_shape


class _Counts(Metric):
    """Base of metrics whose sums are arrays of counts; `counted` makes the result of them."""

    def sum(self, y_true: Array, y_pred: Array, weights: Array | None = None) -> Any:
        raise NotImplementedError

    def counted(self, counts: np.ndarray) -> Any:
        raise NotImplementedError

    def result(self) -> Any:
        return self.counted(np.asarray(to_host(self.total), np.float64)) if getattr(self.total, "ndim", 0) else 0.0


def _each(where: str, argument: str, value: Any, wanted: str) -> list[float]:
    """The numbers of a list, or a single one, as a list; InputError unless each is as wanted. None: []."""
    if value is None:
        return []
    many = isinstance(value, (list, tuple)) and len(value) > 0
    return [checked(where, argument, number, wanted, 0.5) for number in (value if many else [value])]


class _OfThresholds(_Counts):
    """Precision and Recall. Counts: those right, and those wrong, for each threshold."""

    missed = False  # whether the wrong ones are those that were overlooked, or those that were taken for right
    ranges: ClassVar[dict[str, Any]] = {**NAME, "top_k": ([1], 1), "class_id": ([0], 1)}

    def __init__(
        self,
        thresholds: float | Sequence[float] | None = None,
        top_k: int | None = None,
        class_id: int | None = None,
        name: str | None = None,
        dtype: str | None = None,
    ):
        super().__init__(name, dtype)
        given = _each(type(self).__name__, "thresholds", thresholds, "from 0 to 1")
        self.thresholds, self.top_k, self.class_id = thresholds, top_k, class_id
        self.one_number = len(given) < 2

    def sum(self, y_true: Array, y_pred: Array, weights: Array | None = None) -> Any:
        xp, y_true = xp_of(y_pred), same_shape(self.name, y_true, y_pred)
        weights = xp.ones(()) if weights is None else over(self.name, xp.asarray(weights, "float64"), y_pred)
        if self.top_k is not None:
            rank = xp.argsort(xp.argsort(-y_pred, kind="stable"), kind="stable")  # along the last axis
            y_pred = xp.where(rank < self.top_k, y_pred, -np.inf)
        weights = xp.broadcast_to(weights, y_pred.shape)
        if self.class_id is not None:
            classes = y_pred.shape[-1] if y_pred.ndim > 1 else 0
            if self.class_id >= classes:
                raise InputError(
                    self.name, "class_id is no class of the predictions.",
                    f"outputs (N, K) with K above {self.class_id}.", f"predictions of shape {y_pred.shape}.",
                    "leave class_id out, or count from 0.",
                )  # fmt: skip
            y_true, y_pred, weights = (a[..., self.class_id] for a in (y_true, y_pred, weights))
        default = 0.5 if self.top_k is None else -1e10
        thresholds = default if self.thresholds is None else self.thresholds
        counts = []
        for threshold in thresholds if isinstance(thresholds, (list, tuple)) else [thresholds]:
            yes, true = y_pred > threshold, y_true.astype(bool)
            wrong = ~yes & true if self.missed else yes & ~true
            counts.append(xp.stack([(weights * found).sum() for found in (yes & true, wrong)]))
        return xp.stack(counts)

    def counted(self, counts):
        found = _ratio(counts[:, 0], counts.sum(axis=1))
        return float(found[0]) if self.one_number else found


class Precision(_OfThresholds):
    """What share of what was taken for 1 (y_pred > thresholds, 0.5 if None) is 1.

    top_k: only a sample's k largest outputs can be taken for 1, whatever their size. class_id: look at this class only.
    Several thresholds: an array, a number for each.
    """


class Recall(_OfThresholds):
    """What share of what is 1 was found (y_pred > thresholds). Arguments as in Precision."""

    missed = True


class AUC(_Counts):
    """The area under a curve that one threshold after the other draws: 1 for a perfect order, 1/2 for a random one.

    curve: "ROC", true positives against false ones, or "PR", precision against recall. num_thresholds: how many, evenly
    spread over 0 to 1; or thresholds: those, and one at either end. summation_method: "interpolation" (trapezoids; for
    PR by J. Davis, M. Goadrich 2006), "minoring" or "majoring". multi_label: an area for each output, and their mean,
    by label_weights.
    """

    ranges: ClassVar[dict[str, Any]] = {
        **NAME,
        "num_thresholds": (2, 200),
        "curve": (("ROC", "PR"), "ROC"),
        "summation_method": (("interpolation", "minoring", "majoring"), "interpolation"),
        "multi_label": (bool, True),
        "num_labels": ([1], 3),
        "from_logits": (bool, True),
    }

    def __init__(
        self,
        num_thresholds: int | None = 200,
        curve: str = "ROC",
        summation_method: str = "interpolation",
        name: str | None = None,
        dtype: str | None = None,
        thresholds: Sequence[float] | None = None,
        multi_label: bool = False,
        num_labels: int | None = None,
        label_weights: Sequence[float] | None = None,
        from_logits: bool = False,
    ):
        super().__init__(name, dtype)
        self.curve, self.summation_method = curve, summation_method
        self.multi_label, self.num_labels, self.from_logits = multi_label, num_labels, from_logits
        self.thresholds = sorted(_each("AUC", "thresholds", thresholds, "from 0 to 1")) or None
        self.num_thresholds = num_thresholds if self.thresholds is None else len(self.thresholds) + 2
        self.label_weights = _each("AUC", "label_weights", label_weights, "of 0 or more") or None

    def sum(self, y_true: Array, y_pred: Array, weights: Array | None = None) -> Any:
        xp, y_true = xp_of(y_pred), same_shape(self.name, y_true, y_pred)
        y_pred = sigmoid_forward(y_pred) if self.from_logits else y_pred
        weights = xp.ones(()) if weights is None else over(self.name, xp.asarray(weights, "float64"), y_pred)
        weights = xp.broadcast_to(weights, y_pred.shape)
        own = self.label_weights
        if own is not None and (len(own) != y_pred.shape[-1] or not any(own)):
            raise InputError(
                self.name, "label_weights do not fit.", f"{y_pred.shape[-1]} numbers, not all 0.",
                f"{self.label_weights}.", "one for each output.",
            )  # fmt: skip
        if self.label_weights is not None and not self.multi_label:
            weights = weights * xp.asarray(self.label_weights)
        labels = y_pred.shape[-1] if self.multi_label else 1
        t, p, w = (a.reshape(-1, labels) for a in (y_true.astype(bool), y_pred, weights))
        spaces = (self.num_thresholds or 200) - 1
        inner = self.thresholds or [i / spaces for i in range(1, spaces)]
        thresholds = xp.asarray([-losses.EPSILON, *inner, 1 + losses.EPSILON])
        counts = []
        for k in range(labels):
            above = xp.searchsorted(thresholds, p[:, k].astype("float64").clip(0, 1))  # how many thresholds lie below
            for which in (t[:, k], ~t[:, k]):
                found = xp.bincount(above, w[:, k] * which, len(thresholds) + 1)
                yes = xp.cumsum(found[::-1])[::-1][1:]
                counts += [yes, found.sum() - yes]
        return xp.stack(counts).reshape(labels, 4, -1)

    def counted(self, counts):
        areas = np.array([self._area(*label) for label in counts])
        return float(np.average(areas, weights=self.label_weights if self.multi_label else None))

    def _area(self, tp: np.ndarray, fn: np.ndarray, fp: np.ndarray, tn: np.ndarray) -> float:
        recall = _ratio(tp, tp + fn)
        if self.curve == "ROC":
            x, y = _ratio(fp, fp + tn), recall
        elif self.summation_method != "interpolation":
            x, y = recall, _ratio(tp, tp + fp)
        else:  # true positives grow in a line between two thresholds, and precision then does not
            taken, dtp = tp + fp, tp[:-1] - tp[1:]
            slope = _ratio(dtp, np.maximum(taken[:-1] - taken[1:], 0))
            start = tp[1:] - slope * taken[1:]
            both = (taken[:-1] > 0) & (taken[1:] > 0)
            growth = np.where(both, _ratio(taken[:-1], np.maximum(taken[1:], 0)), 1.0)
            return float(_ratio(slope * (dtp + start * np.log(growth)), tp[1:] + fn[1:]).sum())
        heights = {"interpolation": (y[:-1] + y[1:]) / 2, "minoring": np.minimum(y[:-1], y[1:])}
        height = heights.get(self.summation_method, np.maximum(y[:-1], y[1:]))
        return float(((x[:-1] - x[1:]) * height).sum())


class F1Score(_Counts):
    """2 precision * recall / (precision + recall) of each class, for one-hot targets (N, K).

    average: None gives an array, a number for each class; "macro" their mean, "weighted" that by the classes' sizes,
    "micro" the score of all classes as one. threshold: what counts as found; None: the largest output of a sample.
    """

    ranges: ClassVar[dict[str, Any]] = {
        **NAME,
        "average": ((None, "micro", "macro", "weighted"), "macro"),
        "threshold": (["above 0, up to 1"], 0.5),
    }

    def __init__(
        self,
        average: str | None = None,
        threshold: float | None = None,
        name: str | None = None,
        dtype: str | None = None,
    ):
        super().__init__("f1_score" if name is None else name, dtype)
        self.average, self.threshold = average, threshold

    @property
    def one_number(self) -> bool:  # type: ignore[override]
        return self.average is not None

    def sum(self, y_true: Array, y_pred: Array, weights: Array | None = None) -> Any:
        y_true = same_shape(self.name, y_true, y_pred)
        if y_pred.ndim != 2:
            raise other_shapes(self.name, y_true, y_pred)
        xp, true = xp_of(y_pred), y_true.astype("float64")
        if self.threshold is None:
            found = (y_pred >= y_pred.max(axis=-1, keepdims=True)) & (abs(y_pred) > 1e-9)
        else:
            found = y_pred > self.threshold
        w = xp.ones(()) if weights is None else over(self.name, xp.asarray(weights, "float64"), y_pred)
        parts = found * true, found * (1 - true), ~found * true, true
        return xp.stack([(w * part).sum(axis=0) for part in parts])

    def counted(self, counts):
        tp, fp, fn, sizes = counts.sum(axis=1, keepdims=True) if self.average == "micro" else counts
        precision, recall = tp / (tp + fp + losses.EPSILON), tp / (tp + fn + losses.EPSILON)
        scores = 2 * precision * recall / (precision + recall + losses.EPSILON)
        if self.average == "weighted":
            return float((scores * sizes).sum() / (sizes.sum() + losses.EPSILON))
        return scores if self.average is None else float(scores.mean())


class MeanIoU(_Counts):
    """Of each class, the positions that are and were taken for it, over those that are or were: their mean.

    sparse_y_true, sparse_y_pred: whether they are class numbers; False: one-hot rows or probabilities along axis.
    ignore_class: true class numbers that do not count.
    """

    ranges: ClassVar[dict[str, Any]] = {
        **NAME,
        "num_classes": (1, 10),
        "ignore_class": ([int], 255),
        "sparse_y_true": (bool, True),
        "sparse_y_pred": (bool, False),
        "axis": (int, -1),
    }

    def __init__(
        self,
        num_classes: int,
        name: str | None = None,
        dtype: str | None = None,
        ignore_class: int | None = None,
        sparse_y_true: bool = True,
        sparse_y_pred: bool = True,
        axis: int = -1,
    ):
        super().__init__("mean_io_u" if name is None else name, dtype)
        self.num_classes, self.ignore_class, self.axis = num_classes, ignore_class, axis
        self.sparse_y_true, self.sparse_y_pred = sparse_y_true, sparse_y_pred

    def sum(self, y_true: Array, y_pred: Array, weights: Array | None = None) -> Any:
        xp, k = xp_of(y_pred), self.num_classes
        true = y_true if self.sparse_y_true else y_true.argmax(axis=self.axis)
        found = y_pred if self.sparse_y_pred else y_pred.argmax(axis=self.axis)
        if true.size != found.size:
            raise InputError(
                self.name, "there is not one class for each position.",
                f"as many class numbers as the {true.size} targets.", f"predictions of shape {y_pred.shape}.",
                "for a softmax write MeanIoU(…, sparse_y_pred=False), for one-hot targets sparse_y_true=False.",
            )  # fmt: skip
        w = xp.ones(()) if weights is None else over(self.name, xp.asarray(weights, "float64"), found)
        w = xp.broadcast_to(w, found.shape).reshape(-1)
        true, found = true.reshape(-1).astype("int64"), found.reshape(-1).astype("int64")
        counts = (true >= 0) & (true < k) & (found >= 0) & (found < k)
        if self.ignore_class is not None:
            counts &= true != self.ignore_class
        place = xp.where(counts, true * k + found, 0)
        return xp.bincount(place, w * counts, k * k).reshape(k, k)

    def counted(self, counts):
        both = np.diag(counts)
        either = counts.sum(axis=0) + counts.sum(axis=1) - both
        present = either > 1e-9
        return float(_ratio(both, either)[present].sum() / (present.sum() + losses.EPSILON))


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a / b, and 0 where b is 0."""
    return np.divide(a, b, out=np.zeros(np.shape(a)), where=b != 0)
