"""Metrics, with Keras' names: `metrics=["accuracy", metrics.AUC()]` in compile.

What all have in common is in base.py; means over samples are in means.py, what is made of counts is in counts.py.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from minicnn.errors import InputError, unknown_name
from minicnn.metrics.base import FunctionMetric, Metric
from minicnn.metrics.counts import AUC, F1Score, MeanIoU, Precision, Recall
from minicnn.metrics.means import (
    BinaryAccuracy,
    BinaryCrossentropy,
    CategoricalAccuracy,
    CategoricalCrossentropy,
    KLDivergence,
    MeanAbsoluteError,
    MeanSquaredError,
    RootMeanSquaredError,
    SparseCategoricalAccuracy,
    SparseCategoricalCrossentropy,
    SparseTopKCategoricalAccuracy,
    TopKCategoricalAccuracy,
)
from minicnn.registry import names_of, resolve, snake_case

__all__ = [
    "AUC", "BinaryAccuracy", "BinaryCrossentropy", "CategoricalAccuracy", "CategoricalCrossentropy", "F1Score",
    "FunctionMetric", "KLDivergence", "MeanAbsoluteError", "MeanIoU", "MeanSquaredError", "Metric", "Precision",
    "Recall", "RootMeanSquaredError", "SparseCategoricalAccuracy", "SparseCategoricalCrossentropy",
    "SparseTopKCategoricalAccuracy", "TopKCategoricalAccuracy", "get",
]  # fmt: skip

_KNOWN = names_of(
    BinaryAccuracy, CategoricalAccuracy, SparseCategoricalAccuracy, TopKCategoricalAccuracy,
    SparseTopKCategoricalAccuracy, MeanSquaredError, RootMeanSquaredError, MeanAbsoluteError, KLDivergence,
    BinaryCrossentropy, CategoricalCrossentropy, SparseCategoricalCrossentropy, Precision, Recall, AUC, F1Score,
    MeanIoU, mse=MeanSquaredError, MSE=MeanSquaredError, mae=MeanAbsoluteError, MAE=MeanAbsoluteError,
    bce=BinaryCrossentropy, BCE=BinaryCrossentropy, auc=AUC, f1_score=F1Score, mean_io_u=MeanIoU,
    kl_divergence=KLDivergence,
)  # fmt: skip


def get(identifier: Any, loss: Any = None, output_shape: Sequence[int | None] = (None,)) -> Metric:
    """The metric for a name, config dict, class, instance or function; a name stays the metric's name in the history.

    "accuracy" and "acc" stand for the accuracy that fits: binary if the model has one output (the last number
    of output_shape) or the loss is binary cross-entropy, sparse categorical if the loss takes integer labels,
    else categorical. Where the loss takes logits, 0 is the threshold. loss: its name, class, instance or function.
    Keras looks at the labels instead, and takes the largest of K binary outputs as the class.
    Raises UnknownNameError.
    """
    if isinstance(identifier, str) and identifier.lower() in ("accuracy", "acc"):
        metric = _accuracy_for(loss, output_shape)(name=identifier)
        if isinstance(metric, BinaryAccuracy) and getattr(loss, "from_logits", False):
            metric.threshold = 0.0
        return metric
    if isinstance(identifier, Metric):
        return identifier
    metric = resolve("metric", identifier, _KNOWN | {"accuracy": CategoricalAccuracy}, Metric)
    if metric is None:
        raise unknown_name("metric", identifier, [*_KNOWN, "accuracy"])
    if not isinstance(metric, Metric):
        return FunctionMetric(metric)
    if isinstance(identifier, str):
        metric.name = identifier
    return metric


def _accuracy_for(loss: Any, output_shape: Sequence[int | None]) -> type[Metric]:
    named = loss if inspect.isclass(loss) or inspect.isfunction(loss) else type(loss)
    loss_name = snake_case(loss if isinstance(loss, str) else named.__name__)
    if output_shape[-1] == 1 or loss_name in ("binary_crossentropy", "bce", "binary_focal_crossentropy"):
        return BinaryAccuracy
    return SparseCategoricalAccuracy if loss_name.startswith("sparse") else CategoricalAccuracy


def checked_for_training(metrics: Sequence[Metric]) -> list[Metric]:
    """The metrics of a model, each with a name of its own: accuracy, accuracy_1, …, as in Keras. Raises InputError."""
    taken = {"loss"}
    for i, metric in enumerate(metrics):
        if any(metric is other for other in metrics[:i]) or metric.name == "loss":
            raise InputError(
                "metrics", "two results would have one name.", "a metric for each name, and none called loss.",
                f"{metric.name!r}.", "leave it out, or make a second object with name=….",
            )  # fmt: skip
        if not metric.one_number:
            raise InputError(
                "metrics", f"{metric.name} gives several numbers.", "one number for each metric.",
                f"{type(metric).__name__}({metric.get_config()}).",
                'give F1Score average="macro", Precision and Recall a single threshold.',
            )  # fmt: skip
        name, k = metric.name, 0
        while metric.name in taken:
            k += 1
            metric.name = f"{name}_{k}"
        taken.add(metric.name)
    return list(metrics)
