"""Layers, with the names, arguments and defaults of Keras 3. Nothing here loops over pixels: kernels do."""

from minicnn.layers.activation import ELU, Activation, LeakyReLU, PReLU, ReLU, Softmax
from minicnn.layers.base import Layer
from minicnn.layers.context import Context
from minicnn.layers.conv import Conv2D
from minicnn.layers.conv_depthwise import DepthwiseConv2D, SeparableConv2D
from minicnn.layers.conv_transpose import Conv2DTranspose
from minicnn.layers.core import Dense, Dropout, Flatten, GaussianNoise, Input, InputLayer, Rescaling, SpatialDropout2D
from minicnn.layers.merge import Add, Average, Concatenate, Maximum, Multiply, Subtract, ZeroPadding2D
from minicnn.layers.normalization import BatchNormalization
from minicnn.layers.normalization_groups import GroupNormalization, LayerNormalization
from minicnn.layers.pooling import AveragePooling2D, GlobalAveragePooling2D, GlobalMaxPooling2D, MaxPooling2D
from minicnn.layers.preparing import (
    CenterCrop,
    Normalization,
    RandomFlip,
    RandomRotation,
    RandomTranslation,
    RandomZoom,
    Resizing,
)
from minicnn.layers.reshaping import Cropping2D, Permute, Reshape, UpSampling2D
from minicnn.layers.sequences import (
    AveragePooling1D,
    Conv1D,
    GlobalAveragePooling1D,
    GlobalMaxPooling1D,
    MaxPooling1D,
)

__all__ = [
    "ELU",
    "Activation",
    "Add",
    "Average",
    "AveragePooling1D",
    "AveragePooling2D",
    "BatchNormalization",
    "CenterCrop",
    "Concatenate",
    "Context",
    "Conv1D",
    "Conv2D",
    "Conv2DTranspose",
    "Cropping2D",
    "Dense",
    "DepthwiseConv2D",
    "Dropout",
    "Flatten",
    "GaussianNoise",
    "GlobalAveragePooling1D",
    "GlobalAveragePooling2D",
    "GlobalMaxPooling1D",
    "GlobalMaxPooling2D",
    "GroupNormalization",
    "Input",
    "InputLayer",
    "Layer",
    "LayerNormalization",
    "LeakyReLU",
    "MaxPooling1D",
    "MaxPooling2D",
    "Maximum",
    "Multiply",
    "Normalization",
    "PReLU",
    "Permute",
    "RandomFlip",
    "RandomRotation",
    "RandomTranslation",
    "RandomZoom",
    "ReLU",
    "Rescaling",
    "Reshape",
    "Resizing",
    "SeparableConv2D",
    "Softmax",
    "SpatialDropout2D",
    "Subtract",
    "UpSampling2D",
    "ZeroPadding2D",
]

# Keras' other names for the same classes.
AvgPool1D = AveragePooling1D
AvgPool2D = AveragePooling2D
Convolution1D = Conv1D
Convolution2D = Conv2D
Convolution2DTranspose = Conv2DTranspose
GlobalAvgPool1D = GlobalAveragePooling1D
GlobalAvgPool2D = GlobalAveragePooling2D
GlobalMaxPool1D = GlobalMaxPooling1D
GlobalMaxPool2D = GlobalMaxPooling2D
MaxPool1D = MaxPooling1D
MaxPool2D = MaxPooling2D
SeparableConvolution2D = SeparableConv2D


def named(name: str) -> type[Layer] | None:
    """The layer class of this name, or None: a name in a file reaches these classes and nothing else."""
    found = globals()[name] if name in __all__ else None
    return found if isinstance(found, type) and issubclass(found, Layer) else None
