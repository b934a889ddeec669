"""Random networks of all layers, for the files that other programs read: test_onnx.py."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minicnn import layers
from minicnn.activations import elu, gelu, leaky_relu, relu
from minicnn.errors import InputError
from minicnn.layers import Input
from minicnn.layers.symbolic import SymbolicTensor
from minicnn.models import Model, Sequential

ACTIVATIONS = (
    "linear", "relu", "leaky_relu", "relu6", "elu", "selu", "gelu", "silu", "mish", "sigmoid", "hard_sigmoid", "tanh",
    "softsign", "softplus", "softmax", "log_softmax", gelu.variant(approximate=True), elu.variant(0.5),
    leaky_relu.variant(0.1), relu.variant(0.1, 1.5), relu.variant(max_value=1.0, threshold=0.2),
)  # fmt: skip


class Drawing:
    """Draws one network. rng: decides everything about it."""

    def __init__(self, seed: int):
        self.rng = np.random.default_rng(seed)

    def pick(self, *items: Any) -> Any:
        return items[int(self.rng.integers(len(items)))]

    def whole(self, least: int, most: int) -> int:
        return int(self.rng.integers(least, most + 1))

    def pads(self) -> tuple[tuple[int, int], tuple[int, int]]:
        a, b, c, d = (self.whole(0, 2) for _ in range(4))
        return (a, b), (c, d)

    def convolution(self, c: int) -> layers.Layer:
        strides, dilation = self.pick((1, 1), (1, 1), (2, 1), (1, 2), (2, 2)), 1
        if strides == (1, 1):
            dilation = self.pick(1, 1, (1, 2), 2)
        kernel, padding = self.pick(1, 2, 3, (3, 1), (2, 3)), self.pick("valid", "same", self.pads())
        rest = {"dilation_rate": dilation, "use_bias": self.pick(True, True, False), "activation": self.activation()}
        same_strides = self.pick(1, 2) if dilation == 1 else 1  # TensorFlow has a depthwise kernel for these only
        return self.pick(
            lambda: layers.Conv2D(self.whole(1, 5), kernel, strides, padding, **rest),
            lambda: layers.Conv2D(self.whole(1, 5), kernel, strides, padding, **rest),
            lambda: layers.Conv2D(c * self.whole(1, 2), kernel, strides, padding, groups=c, **rest),
            lambda: layers.DepthwiseConv2D(kernel, same_strides, padding, self.whole(1, 2), **rest),
            lambda: layers.SeparableConv2D(self.whole(1, 5), kernel, same_strides, padding, **rest),
            lambda: layers.Conv2DTranspose(self.whole(1, 5), kernel, strides, self.pick("valid", "same"), **rest),
        )()  # fmt: skip

    def activation(self) -> Any:
        return self.pick("linear", "linear", "relu", self.pick(*ACTIVATIONS))

    def pooling(self, cls: Any) -> layers.Layer:
        return cls(self.pick(2, 3, (1, 2)), self.pick(None, 1, 2), self.pick("valid", "same"))

    def anywhere(self, shape: tuple[int, ...]) -> layers.Layer:
        """A layer that takes samples of any shape."""
        c = shape[-1]
        spread = tuple(range(1, len(shape)))
        return self.pick(
            lambda: layers.Dense(self.whole(1, 6), self.activation(), self.pick(True, False)),
            lambda: layers.Dense(self.whole(1, 6), self.activation(), self.pick(True, False)),
            lambda: layers.Activation(self.pick(*ACTIVATIONS)),
            lambda: layers.ReLU(self.pick(None, 2.0), self.pick(0.0, 0.2), self.pick(0.0, 0.3)),
            lambda: layers.LeakyReLU(0.2),
            lambda: layers.ELU(0.7),
            lambda: layers.Softmax(self.pick(-1, 1)),
            lambda: layers.PReLU("uniform", shared_axes=self.pick(None, spread or None)),
            lambda: layers.Rescaling(self.pick(0.5, self.rng.random(c).tolist()), self.pick(0.0, [0.1] * c)),
            lambda: layers.Dropout(0.3),
            lambda: layers.GaussianNoise(0.3),
            lambda: layers.Normalization(self.pick(-1, None, 1), invert=self.pick(True, False)),
            lambda: layers.LayerNormalization(self.pick(-1, [*range(1, len(shape) + 1)]), scale=self.pick(True, False)),
            lambda: layers.GroupNormalization(self.pick(-1, 1, math.gcd(2, c)), center=self.pick(True, False)),
            lambda: layers.Permute((self.rng.permutation(len(shape)) + 1).tolist()),
            lambda: layers.Reshape(self.rng.permutation(shape).tolist()),
            lambda: layers.Reshape(self.pick((-1,), (*shape, 1), (1, -1), (math.prod(shape), 1))),
            lambda: layers.Flatten(),
        )()  # fmt: skip

    def of_images(self, shape: tuple[int, ...]) -> layers.Layer:
        c = shape[-1]
        norm = lambda: layers.BatchNormalization(epsilon=self.pick(1e-3, 1e-5), scale=self.pick(True, True, False))  # noqa: E731
        return self.pick(
            lambda: self.convolution(c), lambda: self.convolution(c), lambda: self.convolution(c), norm, norm,
            lambda: self.pooling(layers.MaxPooling2D),
            lambda: self.pooling(layers.AveragePooling2D),
            lambda: layers.UpSampling2D(self.pick(2, (1, 3)), interpolation=self.pick("nearest", "bilinear")),
            lambda: layers.ZeroPadding2D(self.pads()),
            lambda: self.pick(
                layers.RandomFlip(), layers.RandomRotation(0.1), layers.RandomTranslation(0.1, 0.2),
                layers.RandomZoom(0.2),
            ),
            lambda: layers.Resizing(2 * shape[0], 2 * shape[1], self.pick("bilinear", "nearest")),
            lambda: layers.CenterCrop(self.whole(1, shape[0]), self.whole(1, shape[1])),
            lambda: layers.Cropping2D(((0, 1), (1, 0))),
            lambda: layers.SpatialDropout2D(0.3),
            lambda: layers.GlobalAveragePooling2D(keepdims=self.pick(True, False)),
            lambda: layers.GlobalMaxPooling2D(keepdims=self.pick(True, False)),
            lambda: self.anywhere(shape), lambda: self.anywhere(shape),
        )()  # fmt: skip

    def of_sequences(self, shape: tuple[int, ...]) -> layers.Layer:
        c, kernel, padding = shape[-1], self.pick(1, 2, 3), self.pick("valid", "same")
        bias, stride, act = self.pick(True, False), self.pick(1, 2), self.activation()
        return self.pick(
            lambda: layers.Conv1D(self.whole(1, 5), kernel, stride, padding, use_bias=bias, activation=act),
            lambda: layers.Conv1D(2 * c, kernel, padding="causal", dilation_rate=stride, groups=c, use_bias=bias),
            lambda: layers.MaxPooling1D(kernel, stride, padding),
            lambda: layers.AveragePooling1D(kernel, stride, padding),
            lambda: layers.GlobalAveragePooling1D(keepdims=bias),
            lambda: layers.GlobalMaxPooling1D(keepdims=bias),
            lambda: layers.BatchNormalization(epsilon=1e-3),
            lambda: self.anywhere(shape), lambda: self.anywhere(shape),
        )()  # fmt: skip

    def join(self, x: SymbolicTensor, others: list[SymbolicTensor]) -> SymbolicTensor | None:
        shape = x.sample_shape
        alike = [y for y in others if y.sample_shape == shape and y is not x]
        beside = [y for y in others if len(y.sample_shape) == len(shape) and y.sample_shape[:-1] == shape[:-1]]
        if alike and self.rng.random() < 0.7:
            kind = self.pick(layers.Add, layers.Subtract, layers.Multiply, layers.Average, layers.Maximum)
            count = 2 if kind is layers.Subtract else 3
            return kind()([x, *alike[: count - 1]])
        if len(shape) == 3 and self.rng.random() < 0.2:  # a gate: a size of 1 is repeated
            gate = layers.Dense(shape[-1], "sigmoid")(layers.GlobalAveragePooling2D(keepdims=True)(x))
            return layers.Multiply()([x, gate])
        return layers.Concatenate(self.pick(-1, len(shape)))([x, *beside[:2]]) if beside else None


def random_network(seed: int) -> Model:
    """A built network of some 4 to 14 layers: skips, joins, inner networks, and layers that are used twice."""
    draw = Drawing(seed)
    shape = draw.pick((6, 7, 3), (8, 8, 1), (5, 6, 2), (6, 7, 3), (8, 8, 1), (5, 6, 2), (12,), (4, 6))
    x = start = Input(shape)
    values, size = [x], draw.whole(4, 14)
    while len(values) < size:
        x = draw.pick(values[-1], values[-1], values[-1], draw.pick(*values))
        try:
            joined = draw.join(x, values) if draw.rng.random() < 0.3 else None
            if joined is None:
                kinds = {3: draw.of_images, 2: draw.of_sequences}
                layer = kinds.get(len(x.sample_shape), draw.anywhere)(x.sample_shape)
                if draw.rng.random() < 0.1:
                    layer = Sequential([layer, layers.Activation("tanh")])
                joined = layer(x)
                if joined.sample_shape == x.sample_shape and draw.rng.random() < 0.15:
                    joined = layer(joined)
        except InputError:  # the images have become too small
            continue
        if math.prod(joined.sample_shape) <= 3000:
            values.append(joined)
    x = values[-1]
    if draw.rng.random() < 0.6:
        x = layers.Flatten()(x)
        for _ in range(draw.whole(0, 2)):
            x = draw.pick(layers.BatchNormalization(), layers.PReLU(), draw.anywhere(x.sample_shape))(x)
        x = layers.Dense(3, draw.pick("softmax", "linear"))(x)
    return shaken(Model(start, x, name="net"), seed)


def shaken(model: Model, seed: int) -> Model:
    """The model with numbers in all its arrays that tell them apart: running variances above 0, biases beside 0."""
    rng = np.random.default_rng(seed)
    for layer in model.flat_layers:
        for arrays in (layer.params, layer.state):
            for name, array in arrays.items():
                if name == "moving_variance":
                    arrays[name] = (0.5 + rng.random(array.shape)).astype(np.float32)
                elif array.ndim == 1:
                    arrays[name] = array + (0.2 * rng.standard_normal(array.shape)).astype(np.float32)
    return model
