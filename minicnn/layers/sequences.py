"""Layers of sequences (N, T, C), such as sound or a measurement over time: T steps of C channels.

A sequence is an image of height 1. So each of these layers is the one of images, which sees its input with one more
axis, x[:, None], and whose output loses it again: there is no kernel of their own.
"""

from __future__ import annotations

from typing import Any

from minicnn.backend import Array
from minicnn.errors import InputError
from minicnn.kernels.geometry import IntPair, Padding
from minicnn.layers.base import Context, Layer, Shape
from minicnn.layers.checks import sequence_shape, single
from minicnn.layers.conv import Conv2D
from minicnn.layers.pooling import AveragePooling2D, GlobalAveragePooling2D, GlobalMaxPooling2D, MaxPooling2D


class Conv1D(Conv2D):
    """Slides `filters` kernels along a sequence: (N, T, C_in) -> (N, OT, filters).

    A Conv2D on images of height 1: its kernels and its arguments, with numbers in the place of pairs. Parameters:
    w (K, C_in / groups, filters) and b (filters,). padding: "valid", "same", or "causal", zeros in front of the
    sequence alone, so that no step sees a later one. Raises InputError where the sequence is shorter than the kernel.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int,
        strides: int = 1,
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: int = 1,
        groups: int = 1,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: None = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        algorithm: str = "auto",
        **layer,
    ):
        super().__init__(
            filters, kernel_size, strides, padding, data_format, dilation_rate, groups, activation, use_bias,
            kernel_initializer, bias_initializer, kernel_regularizer, bias_regularizer, activity_regularizer,
            kernel_constraint, bias_constraint, algorithm, **layer,
        )  # fmt: skip

    def sizes(self, argument: str, value: Any) -> int:
        return single(self, argument, value)

    def checked_padding(self, padding: Any) -> Padding:
        if isinstance(padding, str) and padding.lower() in ("valid", "same", "causal"):
            return padding.lower()
        raise InputError(
            self.name, "padding does not fit.", '"valid", "same" or "causal".', f"{padding!r}.",
            'for example padding="same".',
        )  # fmt: skip

    @property
    def window(self) -> IntPair:
        return 1, self.kernel_size  # type: ignore[return-value]

    def geometry(self) -> tuple[IntPair, Padding, IntPair]:
        k, s, d, padding = self.kernel_size, self.strides, self.dilation_rate, self.padding
        if padding == "causal":
            padding = ((0, 0), ((k - 1) * d, 0))  # type: ignore[operator]
        return (1, s), padding, (1, d)  # type: ignore[return-value]

    def array_shapes(self, input_shape: Shape) -> dict[str, Shape]:
        w = (self.kernel_size, input_shape[-1] // self.groups, self.filters)
        return self.with_bias(self.filters, w=w)  # type: ignore[arg-type]

    def output_shape(self, input_shape: Shape) -> Shape:
        sequence_shape(self, input_shape)
        return super().output_shape((1, *input_shape))[1:]

    def macs(self, input_shape: Shape) -> int:
        w = self.array_shapes(input_shape)["w"]
        return self.output_shape(input_shape)[0] * w[0] * w[1] * w[2]

    def convolved(self, x: Array, w: Array, b: Array | None) -> Array:
        return super().convolved(x[:, None], w[None], b)[:, 0]

    def gradients(self, dz: Array, x: Array, w: Array, need_dx: bool) -> tuple[Array | None, Array, Array]:
        dx, dw, db = super().gradients(dz[:, None], x[:, None], w[None], need_dx)
        return None if dx is None else dx[:, 0], dw[0], db

    def choice(self, input_shape: Shape, samples: int = 32) -> tuple[str, str]:
        return super().choice((1, *input_shape)[-3:], samples)


class _OnSequences(Layer):
    """Runs the layer of images that comes next among the base classes."""

    def output_shape(self, input_shape: Shape) -> Shape:
        sequence_shape(self, input_shape)
        out = super().output_shape((1, *input_shape))
        return out[1:] if len(out) == 3 else out

    def forward(self, x: Array, ctx: Context) -> Array:
        y = super().forward(x[:, None], ctx)
        return y[:, 0] if y.ndim == 4 else y

    def backward(self, dy: Array, ctx: Context) -> Array | None:
        dx = super().backward(dy[:, None] if dy.ndim == 3 else dy, ctx)
        return None if dx is None else dx[:, 0]


class _Pooling1D(_OnSequences):
    pool_size: int
    strides: int | None
    padding: Padding

    def sizes(self, argument: str, value: Any) -> int:
        """`value`, a whole number above 0; else InputError."""
        return single(self, argument, value)

    def geometry(self) -> tuple[IntPair, IntPair | None, Padding]:
        """(pool_size, strides, padding), as the kernels take them."""
        return (1, self.pool_size), None if self.strides is None else (1, self.strides), self.padding


class MaxPooling1D(_Pooling1D, MaxPooling2D):  # type: ignore[misc]
    """The largest number of each window of each channel: (N, T, C) -> (N, OT, C). MaxPooling2D on images of height 1.

    `strides` None means pool_size. Of equal maxima the first one wins, and alone receives the gradient.
    """

    def __init__(
        self, pool_size: int = 2, strides: int | None = None, padding: Padding = "valid",
        data_format: str | None = None, name: str | None = None, **layer,
    ):  # fmt: skip
        super().__init__(pool_size, strides, padding, data_format, name, **layer)


class AveragePooling1D(_Pooling1D, AveragePooling2D):  # type: ignore[misc]
    """The mean of each window of each channel: (N, T, C) -> (N, OT, C). AveragePooling2D on images of height 1."""

    def __init__(
        self, pool_size: int = 2, strides: int | None = None, padding: Padding = "valid",
        data_format: str | None = None, name: str | None = None, **layer,
    ):  # fmt: skip
        super().__init__(pool_size, strides, padding, data_format, name, **layer)


class GlobalAveragePooling1D(_OnSequences, GlobalAveragePooling2D):
    """The mean of each channel over all steps: (N, T, C) -> (N, C), or (N, 1, C) with keepdims."""


class GlobalMaxPooling1D(_OnSequences, GlobalMaxPooling2D):
    """The largest number of each channel of all steps: (N, T, C) -> (N, C), or (N, 1, C) with keepdims."""
