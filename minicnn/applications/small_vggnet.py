"""SmallVGGNet: VGG's idea, blocks of 3×3 convolutions between poolings, for a few thousand images of your own."""

from __future__ import annotations

from typing import Any

from minicnn.arguments import in_words
from minicnn.layers import (
    Activation,
    BatchNormalization,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    Input,
    MaxPooling2D,
)
from minicnn.models import Sequential


@in_words
def SmallVGGNet(width: int, height: int, depth: int, classes: int) -> Sequential:  # noqa: N802
    """A new network for images of (height, width, depth), with a probability for each of `classes` at the end.

    Three blocks of one, two and three convolutions (32, 64, 128 kernels), each followed by ReLU and batch
    normalisation; after each block pooling halves the image, and a quarter of the numbers is dropped. Then Dense(512).
    Raises InputError where the image is smaller than 8×8.
    """
    layers: list[Any] = [Input((height, width, depth))]
    for filters, convolutions in ((32, 1), (64, 2), (128, 3)):
        for _ in range(convolutions):
            layers += [Conv2D(filters, 3, padding="same"), Activation("relu"), BatchNormalization()]
        layers += [MaxPooling2D(2), Dropout(0.25)]
    layers += [Flatten(), Dense(512), Activation("relu"), BatchNormalization(), Dropout(0.5)]
    layers += [Dense(classes), Activation("softmax")]
    return Sequential(layers, name="small_vggnet")
