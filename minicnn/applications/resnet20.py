"""ResNet-20, the residual network for small images.

K. He, X. Zhang, S. Ren, J. Sun, "Deep Residual Learning for Image Recognition" (2015), section 4.2: nine blocks of two
convolutions, with 16, 32 and 64 filters. Each block learns what to add to its input: y = relu(x + f(x)). So the
gradient of the loss reaches every block directly, through the sums.
"""

from __future__ import annotations

from minicnn.arguments import in_words
from minicnn.layers import (
    Activation,
    Add,
    BatchNormalization,
    Concatenate,
    Conv2D,
    Dense,
    GlobalAveragePooling2D,
    Input,
    MaxPooling2D,
    Rescaling,
)
from minicnn.layers.symbolic import SymbolicTensor
from minicnn.models import Model
from minicnn.regularizers import L2

BLOCKS = 3  # of each width
WIDTHS = (16, 32, 64)


@in_words
def ResNet20(  # noqa: N802 - the name that Keras would give it
    input_shape: tuple[int, int, int] = (32, 32, 3), classes: int = 10, weight_decay: float = 1e-4,
    name: str = "resnet20",
) -> Model:  # fmt: skip
    """A new network for images of `input_shape`, with a probability for each of `classes` at the end.

    0.27 million parameters. The shortcuts are identities; where a block halves the image and doubles the channels, they
    take every second pixel, and the new channels are zeros (the paper's option A). weight_decay: the paper's, the
    gradient of which is weight_decay * w for every kernel. Raises InputError where the image is smaller than one pixel
    at the end.
    """
    x = Input(input_shape)
    y = _normalised(_convolution(x, WIDTHS[0], 1, weight_decay), relu=True)
    for filters in WIDTHS:
        for block in range(BLOCKS):
            y = _block(y, filters, 2 if block == 0 and filters > WIDTHS[0] else 1, weight_decay)
    y = GlobalAveragePooling2D()(y)
    y = Dense(classes, "softmax", kernel_initializer="he_normal", kernel_regularizer=L2(weight_decay / 2))(y)
    return Model(x, y, name=name)


def _block(x: SymbolicTensor, filters: int, stride: int, weight_decay: float) -> SymbolicTensor:
    """relu(shortcut + f(x)), f being two convolutions."""
    y = _normalised(_convolution(x, filters, stride, weight_decay), relu=True)
    y = _normalised(_convolution(y, filters, 1, weight_decay))
    shortcut = x
    if stride > 1:
        shortcut = MaxPooling2D(1, strides=stride)(x)  # every second pixel of every second row
        shortcut = Concatenate()([shortcut, Rescaling(0.0)(shortcut)])  # as many channels again, all zeros
    return Activation("relu")(Add()([shortcut, y]))


def _convolution(x: SymbolicTensor, filters: int, stride: int, weight_decay: float) -> SymbolicTensor:
    return Conv2D(
        filters, 3, strides=stride, padding="same", use_bias=False, kernel_initializer="he_normal",
        kernel_regularizer=L2(weight_decay / 2),
    )(x)  # fmt: skip


def _normalised(x: SymbolicTensor, relu: bool = False) -> SymbolicTensor:
    y = BatchNormalization(momentum=0.9, epsilon=1e-5)(x)
    return Activation("relu")(y) if relu else y
