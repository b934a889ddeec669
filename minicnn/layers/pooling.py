"""Pooling layers. Kernels: `minicnn/kernels/pool.py`; reference implementations: `minicnn/kernels/reference.py`."""

from __future__ import annotations

from typing import Any

from minicnn.backend import Array
from minicnn.errors import checked
from minicnn.kernels import (
    avgpool2d_backward,
    avgpool2d_forward,
    global_avgpool2d_backward,
    global_avgpool2d_forward,
    global_maxpool2d_backward,
    global_maxpool2d_forward,
    maxpool2d_backward,
    maxpool2d_forward,
)
from minicnn.kernels.geometry import IntPair, Padding
from minicnn.layers.base import Context, Layer, Shape
from minicnn.layers.checks import checked_format, checked_padding, image_shape, positive, window_output


class _Pooling2D(Layer):
    def __init__(
        self, pool_size: IntPair = (2, 2), strides: IntPair | None = None, padding: Padding = "valid",
        data_format: str | None = None, name: str | None = None, **layer,
    ):  # fmt: skip
        super().__init__(name=name, **layer)
        self.pool_size = self.sizes("pool_size", pool_size)
        self.strides = None if strides is None else self.sizes("strides", strides)
        self.padding = checked_padding(self, padding)
        self.data_format = checked_format(self.name, data_format)

    def sizes(self, argument: str, value: Any) -> IntPair:
        """`value`, as many whole numbers above 0 as there are axes; else InputError."""
        return positive(self, argument, value)

    def output_shape(self, input_shape: Shape) -> Shape:
        image_shape(self, input_shape)
        window, strides, padding = self.geometry()
        return (*window_output(self, input_shape, window, strides or window, padding), input_shape[-1])

    def geometry(self) -> tuple[IntPair, IntPair | None, Padding]:
        """(pool_size, strides, padding), as the kernels take them."""
        return self.pool_size, self.strides, self.padding


class MaxPooling2D(_Pooling2D):
    """The largest number of each window of each channel: (N, H, W, C) -> (N, OH, OW, C).

    `strides` None means pool_size. Of equal maxima the first one wins, and alone receives the gradient.
    """

    def forward(self, x: Array, ctx: Context) -> Array:
        ctx.shape = x.shape
        y, ctx.winner = maxpool2d_forward(x, *self.geometry(), winners=ctx.need_backward)
        return y

    def backward(self, dy: Array, ctx: Context) -> Array | None:
        return maxpool2d_backward(dy, ctx.winner, ctx.shape, *self.geometry()) if ctx.need_dx else None


class AveragePooling2D(_Pooling2D):
    """The mean of each window of each channel; pixels of the padding are not counted."""

    def forward(self, x: Array, ctx: Context) -> Array:
        ctx.shape = x.shape
        return avgpool2d_forward(x, *self.geometry())

    def backward(self, dy: Array, ctx: Context) -> Array | None:
        return avgpool2d_backward(dy, ctx.shape, *self.geometry()) if ctx.need_dx else None


class _GlobalPooling2D(Layer):
    """One number for each channel. keepdims: as an image of one pixel, (N, 1, 1, C), instead of (N, C)."""

    def __init__(self, data_format: str | None = None, keepdims: bool = False, **layer):
        super().__init__(**layer)
        self.data_format = checked_format(self.name, data_format)
        self.keepdims = checked(self.name, "keepdims", keepdims, bool, True)

    def output_shape(self, input_shape: Shape) -> Shape:
        image_shape(self, input_shape)
        return (1, 1, input_shape[-1]) if self.keepdims else (input_shape[-1],)

    def kept(self, y: Array) -> Array:
        """y (N, C) in the shape of the output."""
        return y[:, None, None] if self.keepdims else y


class GlobalAveragePooling2D(_GlobalPooling2D):
    """The mean of each channel over the whole image: (N, H, W, C) -> (N, C)."""

    def forward(self, x: Array, ctx: Context) -> Array:
        ctx.shape = x.shape
        return self.kept(global_avgpool2d_forward(x))

    def backward(self, dy: Array, ctx: Context) -> Array | None:
        return global_avgpool2d_backward(dy.reshape(len(dy), -1), ctx.shape) if ctx.need_dx else None


class GlobalMaxPooling2D(_GlobalPooling2D):
    """The largest number of each channel of the whole image: (N, H, W, C) -> (N, C). Equal ones share the gradient."""

    def forward(self, x: Array, ctx: Context) -> Array:
        ctx.x, ctx.largest = x, global_maxpool2d_forward(x)
        return self.kept(ctx.largest)

    def backward(self, dy: Array, ctx: Context) -> Array | None:
        return global_maxpool2d_backward(dy.reshape(len(dy), -1), ctx.x, ctx.largest) if ctx.need_dx else None
