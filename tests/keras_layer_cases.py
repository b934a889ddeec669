"""Layers with arguments and inputs, which minicnn and Keras compute alike.

tests/fixtures/make_keras_layers.py lets Keras compute them and records numbers, gradients and configurations;
test_keras_layers.py compares.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np


class Case(NamedTuple):
    """kind, arguments: the layer. shape: of a sample. training: the mode."""

    kind: str
    arguments: dict[str, Any]
    shape: tuple[int, ...]
    training: bool = False


SAMPLES = 2
IMAGE, SEQUENCE = (4, 5, 2), (7, 4)
CASES = {
    "Conv1D": Case("Conv1D", {"filters": 3, "kernel_size": 3, "activation": "relu"}, SEQUENCE),
    "Conv1D, same, stride": Case("Conv1D", {"filters": 2, "kernel_size": 2, "strides": 3, "padding": "same"}, SEQUENCE),
    "Conv1D, causal": Case(
        "Conv1D", {"filters": 2, "kernel_size": 3, "padding": "causal", "dilation_rate": 2, "use_bias": False}, SEQUENCE
    ),
    "Conv1D, groups": Case("Conv1D", {"filters": 4, "kernel_size": 2, "groups": 2}, SEQUENCE),
    "MaxPooling1D": Case("MaxPooling1D", {}, SEQUENCE),
    "MaxPooling1D, same": Case("MaxPooling1D", {"pool_size": 3, "strides": 2, "padding": "same"}, SEQUENCE),
    "AveragePooling1D": Case("AveragePooling1D", {"pool_size": 3, "strides": 1, "padding": "same"}, SEQUENCE),
    "GlobalAveragePooling1D": Case("GlobalAveragePooling1D", {}, SEQUENCE),
    "GlobalMaxPooling1D": Case("GlobalMaxPooling1D", {"keepdims": True}, SEQUENCE),
    "norm of sequences": Case("BatchNormalization", {"momentum": 0.7}, SEQUENCE, training=True),
    "norm of sequences, evaluation": Case("BatchNormalization", {"epsilon": 0.01}, SEQUENCE),
    "resizing, larger": Case("Resizing", {"height": 7, "width": 9}, IMAGE),
    "resizing, smaller": Case("Resizing", {"height": 3, "width": 2}, (7, 6, 2)),
    "resizing, nearest": Case("Resizing", {"height": 6, "width": 3, "interpolation": "nearest"}, (4, 7, 2)),
    "resizing, cropped": Case("Resizing", {"height": 4, "width": 6, "crop_to_aspect_ratio": True}, (5, 5, 2)),
    "center crop": Case("CenterCrop", {"height": 2, "width": 3}, (5, 6, 2)),
    "center crop of small images": Case("CenterCrop", {"height": 6, "width": 3}, IMAGE),
    "normalization": Case("Normalization", {}, IMAGE),
    "normalization, one for all": Case("Normalization", {"axis": None, "invert": True}, SEQUENCE),
    "normalization, places": Case("Normalization", {"axis": [1, 2]}, IMAGE),
    "normalization, given": Case("Normalization", {"mean": [0.5, -1.0], "variance": [2.0, 0.25]}, IMAGE),
    "rotation": Case("RandomRotation", {"factor": [0.11, 0.11], "seed": 1}, (6, 5, 2), training=True),
    "rotation, nearest": Case(
        "RandomRotation",
        {"factor": [-0.2, -0.2], "fill_mode": "nearest", "interpolation": "nearest", "seed": 1},
        (5, 6, 2), training=True,
    ),
    "translation": Case(
        "RandomTranslation", {"height_factor": [0.21, 0.21], "width_factor": [-0.33, -0.33], "seed": 1}, (6, 5, 2),
        training=True,
    ),
    "translation, wrapped": Case(
        "RandomTranslation",
        {"height_factor": [0.3, 0.3], "width_factor": [-0.4, -0.4], "fill_mode": "wrap", "seed": 1}, (6, 5, 2),
        training=True,
    ),
    "zoom": Case("RandomZoom", {"height_factor": [0.3, 0.3], "seed": 1}, (6, 5, 2), training=True),
    "zoom, constant": Case(
        "RandomZoom",
        {"height_factor": [-0.4, -0.4], "width_factor": [0.25, 0.25], "fill_mode": "constant", "fill_value": 0.7,
         "seed": 1},
        (6, 5, 2), training=True,
    ),
    "zoom, evaluation": Case("RandomZoom", {"height_factor": 0.3}, IMAGE),
    "flip, evaluation": Case("RandomFlip", {"mode": "vertical"}, IMAGE),
    "noise, evaluation": Case("GaussianNoise", {"stddev": 0.5}, SEQUENCE),
    "groups": Case("Conv2D", {"filters": 4, "kernel_size": 3, "groups": 2, "activation": "relu"}, IMAGE),
    "groups, stride": Case(
        "Conv2D", {"filters": 6, "kernel_size": 2, "strides": 2, "groups": 3, "padding": "same"}, (4, 5, 3)
    ),
    "depthwise": Case("DepthwiseConv2D", {"kernel_size": 3, "activation": "relu"}, IMAGE),
    "depthwise, multiplied": Case(
        "DepthwiseConv2D", {"kernel_size": (3, 2), "depth_multiplier": 3, "padding": "same", "strides": 2}, IMAGE
    ),
    "depthwise, dilated": Case(
        "DepthwiseConv2D", {"kernel_size": 2, "dilation_rate": 2, "padding": "same", "use_bias": False}, IMAGE
    ),
    "separable": Case("SeparableConv2D", {"filters": 3, "kernel_size": 3, "activation": "tanh"}, IMAGE),
    "separable, multiplied": Case(
        "SeparableConv2D",
        {"filters": 3, "kernel_size": 2, "depth_multiplier": 2, "padding": "same", "strides": 2, "use_bias": False},
        IMAGE,
    ),
    "transposed": Case("Conv2DTranspose", {"filters": 3, "kernel_size": 3}, IMAGE),
    "transposed, stride, relu": Case(
        "Conv2DTranspose", {"filters": 2, "kernel_size": (3, 2), "strides": (2, 3), "activation": "relu"}, IMAGE
    ),
    "transposed, same": Case(
        "Conv2DTranspose", {"filters": 2, "kernel_size": 3, "strides": 2, "padding": "same"}, IMAGE
    ),
    "transposed, same, even, padded": Case(
        "Conv2DTranspose",
        {"filters": 2, "kernel_size": 4, "strides": 3, "padding": "same", "output_padding": (1, 2), "use_bias": False},
        IMAGE,
    ),
    "transposed, padded": Case(
        "Conv2DTranspose", {"filters": 1, "kernel_size": 2, "strides": 3, "output_padding": 1}, IMAGE
    ),
    "transposed, dilated": Case(
        "Conv2DTranspose", {"filters": 2, "kernel_size": 3, "padding": "same", "dilation_rate": 2}, IMAGE
    ),
}


def numbers(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return np.random.Generator(np.random.PCG64(seed)).standard_normal(shape).astype(np.float32)


def weights(shapes: list[tuple[int, ...]]) -> list[np.ndarray]:
    """What the layer's arrays are set to; none below 0.1, since some are variances."""
    return [0.1 + np.abs(numbers(shape, 10 + i)) / 2 if len(shape) else np.float32(3) for i, shape in enumerate(shapes)]
