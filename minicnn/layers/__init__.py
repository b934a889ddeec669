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


# Layers of Keras that someone who learns about convolutional networks would hardly meet, and what to do without them.
_STAY_OUT = {
    "layers for texts and series in time stay out; Conv1D reads sequences.": """
        AdditiveAttention Attention Bidirectional CategoryEncoding ConvLSTM1D ConvLSTM2D ConvLSTM3D Discretization
        Embedding GRU GRUCell GroupQueryAttention HashedCrossing Hashing IntegerLookup LSTM LSTMCell Masking
        MelSpectrogram MultiHeadAttention RNN RepeatVector ReversibleEmbedding STFTSpectrogram SimpleRNN SimpleRNNCell
        StackedRNNCells StringLookup TextVectorization TimeDistributed""",
    "layers for volumes stay out: an image has two axes here.": """
        AdaptiveAveragePooling3D AdaptiveMaxPooling3D AveragePooling3D AvgPool3D Conv3D Conv3DTranspose Convolution3D
        Convolution3DTranspose Cropping3D GlobalAveragePooling3D GlobalAvgPool3D GlobalMaxPool3D GlobalMaxPooling3D
        MaxPool3D MaxPooling3D SpatialDropout3D UpSampling3D ZeroPadding3D""",
    "for sequences take the 2-D layer on images of height 1: Reshape((1, length, channels)) before it.": """
        Conv1DTranspose Convolution1DTranspose Cropping1D DepthwiseConv1D SeparableConv1D SeparableConvolution1D
        SpatialDropout1D UpSampling1D ZeroPadding1D""",
    "write a Layer with forward and backward: docs/keras.md shows one.": """
        ActivityRegularization AdaptiveAveragePooling1D AdaptiveAveragePooling2D AdaptiveMaxPooling1D
        AdaptiveMaxPooling2D AlphaDropout Dot EinsumDense FlaxLayer GaussianDropout Identity JaxLayer Lambda Minimum
        RMSNormalization SpectralNormalization TFSMLayer TorchModuleWrapper UnitNormalization Wrapper""",
    "ImageDataGenerator changes images before they reach the network.": """
        AugMix AutoContrast ContrastLimitedAdaptiveHistogramEqualization CutMix Equalization MaxNumBoundingBoxes MixUp
        Pipeline RandAugment RandomBrightness RandomColorDegeneration RandomColorJitter RandomContrast RandomCrop
        RandomElasticTransform RandomErasing RandomGaussianBlur RandomGrayscale RandomHeight RandomHue RandomInvert
        RandomPerspective RandomPosterization RandomSaturation RandomSharpness RandomShear RandomWidth Solarization""",
}


def __getattr__(name: str) -> type[Layer]:
    for advice, names in _STAY_OUT.items():
        if name in names.split():
            raise AttributeError(f"minicnn has no layer {name}; {advice}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def named(name: str) -> type[Layer] | None:
    """The layer class of this name, or None: a name in a file reaches these classes and nothing else."""
    found = globals()[name] if name in __all__ else None
    return found if isinstance(found, type) and issubclass(found, Layer) else None
