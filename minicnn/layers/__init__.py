"""Layers, with the names, arguments and defaults of Keras 3. Nothing here loops over pixels: kernels do."""

from minicnn.layers.activation import ELU, Activation, LeakyReLU, ReLU, Softmax
from minicnn.layers.base import Context, Layer
from minicnn.layers.conv import Conv2D
from minicnn.layers.core import Dense, Dropout, Flatten, Input, Rescaling
from minicnn.layers.normalization import BatchNormalization
from minicnn.layers.pooling import AveragePooling2D, GlobalAveragePooling2D, MaxPooling2D

__all__ = [
    "ELU",
    "Activation",
    "AveragePooling2D",
    "BatchNormalization",
    "Context",
    "Conv2D",
    "Dense",
    "Dropout",
    "Flatten",
    "GlobalAveragePooling2D",
    "Input",
    "Layer",
    "LeakyReLU",
    "MaxPooling2D",
    "ReLU",
    "Rescaling",
    "Softmax",
]


def named(name: str) -> type[Layer] | None:
    """The layer class of this name, or None: a name in a file reaches these classes and nothing else."""
    found = globals()[name] if name in __all__ else None
    return found if isinstance(found, type) and issubclass(found, Layer) else None
