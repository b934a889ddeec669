"""Dense, and the layers that only move or scale numbers: Input, Flatten, Dropout, Rescaling."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minicnn.backend import Array
from minicnn.kernels import dense_backward, dense_forward, dropout_backward, dropout_forward, mask_for
from minicnn.layers.base import Layer, Shape
from minicnn.layers.checks import count, fraction
from minicnn.layers.context import Context
from minicnn.layers.symbolic import SymbolicTensor
from minicnn.layers.weighted import WeightedLayer


class InputLayer(Layer):
    """Where a network begins: says which shape one sample has, and computes nothing. Made by `Input`."""

    def __init__(self, shape: Shape, name: str | None = None):
        super().__init__(name=name, input_shape=shape)
        self.shape = self.input_shape

    def forward(self, x: Array, ctx: Context) -> Array:
        return x

    def backward(self, dy: Array, ctx: Context) -> Array | None:
        return dy


def Input(shape: Shape, name: str | None = None) -> SymbolicTensor:  # noqa: N802 - Keras' name
    """The symbolic value with which a network begins: samples of this shape, without the batch axis.

    `Sequential([Input((28, 28, 1)), …])`, or `x = Input((28, 28, 1)); y = Flatten()(x); …; Model(x, y)`. Raises
    InputError for anything but whole numbers above 0.
    """
    layer = InputLayer(shape, name=name)
    return SymbolicTensor(layer, (), layer.input_shape or ())


class Dense(WeightedLayer):
    """Every output is a weighted sum of all inputs, plus a bias: (N, in) -> (N, units).

    Parameters: w (in, units) and b (units,). Kernel: `minicnn.kernels.dense_forward` and `dense_backward`; reference
    implementation: `minicnn.kernels.reference.dense_forward`. Further axes are kept, as in Keras: put Flatten before
    for images. Further arguments (kernel_initializer, kernel_constraint, …): see WeightedLayer.
    """

    def __init__(
        self,
        units: int,
        activation: Any = None,
        use_bias: bool = True,
        **weights,
    ):
        super().__init__(activation, use_bias, **weights)
        self.units = count(self, "units", units)

    def build(self, input_shape: Shape, rng: np.random.Generator) -> None:
        self.create(self.array_shapes(input_shape)["w"], rng)

    def array_shapes(self, input_shape: Shape) -> dict[str, Shape]:
        return self.with_bias((input_shape[-1], self.units))

    def output_shape(self, input_shape: Shape) -> Shape:
        return (*input_shape[:-1], self.units)

    def forward(self, x: Array, ctx: Context) -> Array:
        ctx.x = x
        return self.activated(lambda b: dense_forward(x, self.params["w"], b), ctx)

    def backward(self, dy: Array, ctx: Context) -> Array | None:
        dz = self.deactivate(dy, ctx)
        dx, dw, db = dense_backward(dz, ctx.x, self.params["w"], need_dx=ctx.need_dx)
        ctx.grads = {"w": dw, "b": db} if self.use_bias else {"w": dw}
        return dx

    def macs(self, input_shape: Shape) -> int:
        return math.prod(input_shape) * self.units


class Flatten(Layer):
    """(N, H, W, C) -> (N, H*W*C): the same numbers in the same order, in one row a sample."""

    def output_shape(self, input_shape: Shape) -> Shape:
        return (math.prod(input_shape),)

    def forward(self, x: Array, ctx: Context) -> Array:
        ctx.shape = x.shape
        return x.reshape(len(x), -1)

    def backward(self, dy: Array, ctx: Context) -> Array | None:
        return dy.reshape(ctx.shape)


class Dropout(Layer):
    """In training, sets each number to 0 with probability `rate` and scales the others by 1 / (1 - rate).

    Does nothing in evaluation. `seed`: fixes the masks; None draws them from the model's generator.
    Kernel: `minicnn.kernels.dropout_forward`; reference implementation: `minicnn.kernels.reference.dropout_forward`.
    """

    def __init__(self, rate: float, seed: int | None = None, **layer):
        super().__init__(**layer)
        self.rate, self.seed = fraction(self, "rate", rate), seed

    def forward(self, x: Array, ctx: Context) -> Array:
        if not ctx.training or self.rate == 0:
            return x
        # A seed of the layer's own is mixed with the step's: with it alone, every step would drop the same numbers.
        seed = ctx.seed if self.seed is None else self.seed + ctx.step
        ctx.mask = mask_for(x, self.rate, seed, ctx.first)
        return dropout_forward(x, ctx.mask, self.rate)

    def backward(self, dy: Array, ctx: Context) -> Array | None:
        return dropout_backward(dy, ctx.mask, self.rate) if "mask" in vars(ctx) else dy


class Rescaling(Layer):
    """y = x * scale + offset: `Rescaling(1/255)` turns pixels 0…255 into 0…1 inside the model."""

    def __init__(self, scale: float, offset: float = 0.0, **layer):
        super().__init__(**layer)
        self.scale, self.offset = float(scale), float(offset)

    def forward(self, x: Array, ctx: Context) -> Array:
        return x * self.scale + self.offset

    def backward(self, dy: Array, ctx: Context) -> Array | None:
        return dy * self.scale
