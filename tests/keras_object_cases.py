"""Losses, metrics, optimizers … with arguments and inputs, in words that minicnn and Keras both understand.

tests/fixtures/make_keras_objects.py lets Keras compute them and records the numbers; test_keras_objects.py compares.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np


def rng(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def softmax(z):
    p = np.exp(z - z.max(axis=-1, keepdims=True))
    return (p / p.sum(axis=-1, keepdims=True)).astype(np.float32)


def logits(shape, seed=1):
    return (2 * rng(seed).standard_normal(shape)).astype(np.float32)


def probabilities(shape, seed=1):
    return softmax(logits(shape, seed))


def chances(shape, seed=2):
    return (1 / (1 + np.exp(-logits(shape, seed)))).astype(np.float32)


def labels(shape, classes, seed=3):
    return rng(seed).integers(0, classes, shape)


def one_hot(shape, seed=3):
    return np.eye(shape[-1], dtype=np.float32)[labels(shape[:-1], shape[-1], seed)]


def bits(shape, seed=4):
    return rng(seed).integers(0, 2, shape).astype(np.float32)


def weights(shape, seed=5):
    return rng(seed).random(shape).astype(np.float32)


class Loss(NamedTuple):
    name: str
    arguments: dict[str, Any]
    y_true: np.ndarray
    y_pred: np.ndarray
    sample_weight: np.ndarray | None = None


def _losses() -> dict[str, Loss]:
    flat, map_ = (5, 4), (3, 2, 4, 3)  # a row of outputs; a map of positions with three outputs each
    cases: dict[str, Loss] = {}
    for shape, kind in ((flat, "rows"), (map_, "positions")):
        positions = shape[:-1]
        seam = labels(positions, shape[-1], 7)
        seam[0] = 9
        cases |= {
            f"mse, {kind}": Loss("MeanSquaredError", {}, logits(shape, 8), logits(shape)),
            f"mae, {kind}": Loss("MeanAbsoluteError", {}, logits(shape, 8), logits(shape)),
            f"huber, {kind}": Loss("Huber", {"delta": 1.5}, logits(shape, 8), logits(shape)),
            f"kl, {kind}": Loss("KLDivergence", {}, probabilities(shape, 8), probabilities(shape)),
            f"cce, {kind}": Loss("CategoricalCrossentropy", {}, one_hot(shape), probabilities(shape)),
            f"cce smooth, {kind}": Loss(
                "CategoricalCrossentropy", {"label_smoothing": 0.2}, one_hot(shape), probabilities(shape)
            ),
            f"cce logits, {kind}": Loss(
                "CategoricalCrossentropy", {"from_logits": True}, one_hot(shape), logits(shape)
            ),
            f"scce, {kind}": Loss(
                "SparseCategoricalCrossentropy", {}, labels(positions, shape[-1]), probabilities(shape)
            ),
            f"scce logits, {kind}": Loss(
                "SparseCategoricalCrossentropy", {"from_logits": True}, labels(positions, shape[-1]), logits(shape)
            ),
            f"scce ignores, {kind}": Loss(
                "SparseCategoricalCrossentropy", {"ignore_class": 9}, seam, probabilities(shape)
            ),
            f"scce ignores, logits, {kind}": Loss(
                "SparseCategoricalCrossentropy", {"ignore_class": 9, "from_logits": True}, seam, logits(shape)
            ),
            f"scce ignores, weights, {kind}": Loss(
                "SparseCategoricalCrossentropy", {"ignore_class": 9}, seam, probabilities(shape), weights(positions)
            ),
            f"bce, {kind}": Loss("BinaryCrossentropy", {}, bits(shape), chances(shape)),
            f"bce smooth, {kind}": Loss("BinaryCrossentropy", {"label_smoothing": 0.2}, bits(shape), chances(shape)),
            f"bce logits, {kind}": Loss("BinaryCrossentropy", {"from_logits": True}, bits(shape), logits(shape)),
            f"binary focal, {kind}": Loss("BinaryFocalCrossentropy", {}, bits(shape), chances(shape)),
            f"binary focal, all, {kind}": Loss(
                "BinaryFocalCrossentropy",
                {"apply_class_balancing": True, "alpha": 0.4, "gamma": 1.5, "from_logits": True,
                 "label_smoothing": 0.1},
                bits(shape), logits(shape),
            ),
            f"categorical focal, {kind}": Loss(
                "CategoricalFocalCrossentropy", {}, one_hot(shape), probabilities(shape)
            ),
            f"categorical focal, all, {kind}": Loss(
                "CategoricalFocalCrossentropy",
                {"alpha": [0.1, 0.4, 0.3, 0.2][: shape[-1]], "gamma": 3.0, "from_logits": True, "label_smoothing": 0.1},
                one_hot(shape), logits(shape),
            ),
            f"dice, {kind}": Loss("Dice", {}, bits(shape), chances(shape)),
            f"weighted positions, {kind}": Loss(
                "CategoricalCrossentropy", {}, one_hot(shape), probabilities(shape), weights(positions)
            ),
        }  # fmt: skip
        for reduction in ("sum", "mean", "mean_with_sample_weight", "none"):
            for w in (None, weights(positions)):
                cases[f"cce {reduction}, {kind}, {'weights' if w is not None else ''}"] = Loss(
                    "CategoricalCrossentropy", {"reduction": reduction}, one_hot(shape), probabilities(shape), w
                )
                cases[f"scce ignores {reduction}, {kind}, {'weights' if w is not None else ''}"] = Loss(
                    "SparseCategoricalCrossentropy", {"reduction": reduction, "ignore_class": 9}, seam,
                    probabilities(shape), w,
                )  # fmt: skip
    turned = (3, 4, 2, 5)  # the classes are axis 1
    first = np.moveaxis(probabilities((3, 2, 5, 4)), -1, 1).copy()
    cases |= {
        "cce, classes first": Loss(
            "CategoricalCrossentropy", {"axis": 1}, np.moveaxis(one_hot((3, 2, 5, 4)), -1, 1).copy(), first
        ),
        "cce, classes first, weights": Loss(
            "CategoricalCrossentropy", {"axis": 1}, np.moveaxis(one_hot((3, 2, 5, 4)), -1, 1).copy(), first,
            weights((3, 2, 5)),
        ),
        "bce, mean over axis 1": Loss(
            "BinaryCrossentropy", {"axis": 1, "reduction": "sum"}, bits(turned), chances(turned)
        ),
        "dice of images": Loss("Dice", {"axis": (1, 2, 3)}, bits(map_), chances(map_)),
        "dice of images, sum": Loss("Dice", {"axis": (1, 2, 3), "reduction": "sum"}, bits(map_), chances(map_)),
        "dice of images, weights": Loss("Dice", {"axis": (1, 2, 3)}, bits(map_), chances(map_), weights((3,))),
        "dice of channels": Loss("Dice", {"axis": (1, 2)}, bits(map_), chances(map_)),
        "dice of channels over the batch": Loss("Dice", {"axis": (0, 1, 2)}, bits(map_), chances(map_)),
        "sigmoid of one output": Loss("BinaryCrossentropy", {}, bits((6, 1)), chances((6, 1)), weights((6,))),
    }  # fmt: skip
    return cases


LOSSES = _losses()


class Optimizer(NamedTuple):
    name: str
    arguments: dict[str, Any]
    only: str = ""  # which of the two parameters, where Keras' rule is another one for the other


OPTIMIZERS = {
    "sgd": Optimizer("SGD", {"learning_rate": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.05}),
    "amsgrad": Optimizer("Adam", {"learning_rate": 0.1, "amsgrad": True}),
    "adamw amsgrad": Optimizer("AdamW", {"learning_rate": 0.1, "amsgrad": True}),
    "adagrad": Optimizer("Adagrad", {"learning_rate": 0.1}),
    "adagrad arguments": Optimizer(
        "Adagrad", {"learning_rate": 0.3, "initial_accumulator_value": 0.5, "epsilon": 0.01, "weight_decay": 0.1}
    ),
    "nadam": Optimizer("Nadam", {"learning_rate": 0.1}),
    "nadam arguments": Optimizer(
        "Nadam", {"learning_rate": 0.1, "beta_1": 0.5, "beta_2": 0.9, "epsilon": 0.01, "clipnorm": 1.0}
    ),
    "lion": Optimizer("Lion", {"learning_rate": 0.1}),
    "lion arguments": Optimizer("Lion", {"learning_rate": 0.1, "beta_1": 0.5, "beta_2": 0.7, "weight_decay": 0.1}),
    "ema": Optimizer("SGD", {"learning_rate": 0.1, "use_ema": True, "ema_momentum": 0.8}),
    "ema overwrites": Optimizer(
        "Adam", {"learning_rate": 0.1, "use_ema": True, "ema_momentum": 0.6, "ema_overwrite_frequency": 3}
    ),
    "accumulation": Optimizer("SGD", {"learning_rate": 0.1, "momentum": 0.9, "gradient_accumulation_steps": 3}),
    "accumulation, adam": Optimizer(
        "Adam", {"learning_rate": 0.1, "gradient_accumulation_steps": 2, "clipnorm": 0.7, "weight_decay": 0.1}
    ),
    "muon": Optimizer("Muon", {"learning_rate": 0.1}),
    "muon arguments": Optimizer(
        "Muon",
        {"learning_rate": 0.1, "momentum": 0.6, "ns_steps": 3, "nesterov": False, "rms_rate": None, "weight_decay": 0.1,
         "adam_lr_ratio": 0.5, "adam_weight_decay": None, "adam_beta_1": 0.8},
    ),
}  # fmt: skip
# w and b of a layer with kernel and bias, and what they are moved by in step 0, 1, 2, …
PARAMETERS = {"kernel": logits((4, 3), 20), "bias": logits((3,), 21)}
STEPS = 8


def gradients(step: int) -> list[np.ndarray]:
    return [logits((4, 3), 100 + step), logits((3,), 200 + step)]


SCHEDULES = {
    "restarts": ("CosineDecayRestarts", {"initial_learning_rate": 0.1, "first_decay_steps": 7}),
    "restarts, arguments": (
        "CosineDecayRestarts",
        {"initial_learning_rate": 0.1, "first_decay_steps": 10, "t_mul": 1.5, "m_mul": 0.8, "alpha": 0.2},
    ),
    "restarts of one length": (
        "CosineDecayRestarts", {"initial_learning_rate": 0.1, "first_decay_steps": 5, "t_mul": 1.0, "m_mul": 0.9}
    ),
}  # fmt: skip
SCHEDULE_STEPS = [0, 1, 3, 5, 7, 8, 13, 20, 21, 22, 48, 49, 50, 100, 105, 500]


ACTIVATIONS = {
    **{name: (name, {}) for name in (
        "linear", "relu", "relu6", "leaky_relu", "elu", "selu", "gelu", "silu", "swish", "mish", "sigmoid",
        "hard_sigmoid", "tanh", "softsign", "softplus", "exponential", "softmax", "log_softmax",
    )},
    "relu, all": ("relu", {"negative_slope": 0.1, "max_value": 1.5, "threshold": 0.5}),
    "relu, top": ("relu", {"max_value": 2.0}),
    "leaky": ("leaky_relu", {"negative_slope": 0.3}),
    "elu, alpha": ("elu", {"alpha": 0.4}),
    "elu, negative": ("elu", {"alpha": -0.5}),
    "gelu, tanh": ("gelu", {"approximate": True}),
    "softmax, axis 1": ("softmax", {"axis": 1}),
    "log_softmax, axis 1": ("log_softmax", {"axis": 1}),
}  # fmt: skip
ACTIVATED, SLOPES = 1.5 * logits((3, 4, 5), 30), logits((3, 4, 5), 31)


class Metric(NamedTuple):
    name: str
    arguments: dict[str, Any]
    y_true: np.ndarray
    y_pred: np.ndarray
    sample_weight: np.ndarray | None = None


def _metrics() -> dict[str, Metric]:
    n, k = 40, 5
    p, t, y = probabilities((n, k), 40), one_hot((n, k), 41), labels((n,), k, 41)
    b, q, w = bits((n, k), 42), chances((n, k), 43), weights((n,), 44)
    pixels, classes = probabilities((3, 4, 5, k), 45), labels((3, 4, 5), k, 46)
    cases: dict[str, Metric] = {
        "curve of one": Metric("AUC", {}, bits((n,), 47), chances((n,), 48)),
        "mean iou": Metric("MeanIoU", {"num_classes": k + 1}, labels((n,), k, 49), labels((n,), k, 50)),
        "mean iou of pixels": Metric("MeanIoU", {"num_classes": k, "sparse_y_pred": False}, classes, pixels),
        "mean iou ignores": Metric(
            "MeanIoU", {"num_classes": k, "sparse_y_pred": False, "ignore_class": 1}, classes, pixels
        ),
        "mean iou of one-hot": Metric(
            "MeanIoU", {"num_classes": k, "sparse_y_pred": False, "sparse_y_true": False}, np.eye(k)[classes], pixels
        ),
    }  # fmt: skip
    cases["scce ignores"] = Metric("SparseCategoricalCrossentropy", {"ignore_class": 2}, y, p, w)
    for weighted in (None, w):
        more = {
            "accuracy": Metric("CategoricalAccuracy", {}, t, p),
            "sparse accuracy": Metric("SparseCategoricalAccuracy", {}, y, p),
            "binary accuracy": Metric("BinaryAccuracy", {"threshold": 0.4}, b, q),
            "top": Metric("TopKCategoricalAccuracy", {"k": 2}, t, p),
            "sparse top": Metric("SparseTopKCategoricalAccuracy", {"k": 3}, y, p),
            "mse": Metric("MeanSquaredError", {}, t, p),
            "rmse": Metric("RootMeanSquaredError", {}, t, p),
            "mae": Metric("MeanAbsoluteError", {}, t, p),
            "kl": Metric("KLDivergence", {}, probabilities((n, k), 51), p),
            "bce": Metric("BinaryCrossentropy", {"label_smoothing": 0.1}, b, q),
            "cce": Metric("CategoricalCrossentropy", {"from_logits": True}, t, logits((n, k), 52)),
            "scce": Metric("SparseCategoricalCrossentropy", {}, y, p),
            "precision": Metric("Precision", {}, b, q),
            "precision at several": Metric("Precision", {"thresholds": [0.2, 0.5, 0.8]}, b, q),
            "precision of the best": Metric("Precision", {"top_k": 2}, b, q),
            "precision of a class": Metric("Precision", {"class_id": 1, "thresholds": 0.3}, b, q),
            "recall": Metric("Recall", {"thresholds": 0.6}, b, q),
            "recall of the best of a class": Metric("Recall", {"top_k": 3, "class_id": 2}, b, q),
            "auc": Metric("AUC", {}, b, q),
            "auc pr": Metric("AUC", {"curve": "PR"}, b, q),
            "auc pr minoring": Metric("AUC", {"curve": "PR", "summation_method": "minoring"}, b, q),
            "auc majoring": Metric("AUC", {"num_thresholds": 7, "summation_method": "majoring"}, b, q),
            "auc thresholds": Metric("AUC", {"thresholds": [0.3, 0.1, 0.7]}, b, q),
            "auc of labels": Metric("AUC", {"multi_label": True}, b, q),
            "auc of weighted labels": Metric(
                "AUC", {"multi_label": True, "label_weights": [0.1, 2.0, 0.5, 1.0, 3.0]}, b, q
            ),
            "auc of logits": Metric("AUC", {"from_logits": True}, b, logits((n, k), 53)),
            "f1": Metric("F1Score", {}, t, p),
            "f1 macro": Metric("F1Score", {"average": "macro"}, t, p),
            "f1 micro": Metric("F1Score", {"average": "micro", "threshold": 0.3}, b, q),
            "f1 weighted": Metric("F1Score", {"average": "weighted", "threshold": 0.5}, b, q),
        }  # fmt: skip
        suffix = "" if weighted is None else ", weights"
        cases |= {f"{name}{suffix}": case._replace(sample_weight=weighted) for name, case in more.items()}
    return cases


METRICS = _metrics()


CONSTRAINTS = {
    "min max": ("MinMaxNorm", {"min_value": 0.5, "max_value": 2.0, "axis": (0, 1, 2)}),
    "min max, slowly": ("MinMaxNorm", {"min_value": 2.5, "max_value": 4.0, "rate": 0.3, "axis": [0, 1]}),
    "max": ("MaxNorm", {"max_value": 1.5, "axis": 3}),
    "unit": ("UnitNorm", {"axis": (0, 1, 2)}),
}
CONSTRAINED = logits((3, 3, 2, 4), 60)
