"""Convolutions that do not mix channels, and what mixes them. Kernels: `minicnn/kernels/conv_depthwise.py`."""

from __future__ import annotations

from typing import Any

from minicnn.backend import Array
from minicnn.errors import NotBuiltError
from minicnn.kernels import (
    conv2d_backward,
    conv2d_forward,
    depthwise_conv2d_backward,
    depthwise_conv2d_forward,
)
from minicnn.kernels.geometry import IntPair, Padding, pair
from minicnn.layers.base import Context, Shape, weight
from minicnn.layers.checks import checked_format, checked_padding, count, image_shape, positive, window_output
from minicnn.layers.weighted import BiasedLayer


class _Depthwise(BiasedLayer):
    """What both have: a window that slides over each channel by itself."""

    kernel_size: IntPair
    strides: IntPair
    padding: Padding
    dilation_rate: IntPair
    depth_multiplier: int

    def _take(
        self, kernel_size: Any, strides: Any, padding: Any, depth_multiplier: Any, data_format: Any, dilation_rate: Any
    ) -> None:
        self.kernel_size = positive(self, "kernel_size", kernel_size)
        self.strides = positive(self, "strides", strides)
        self.padding = checked_padding(self, padding)
        self.depth_multiplier = count(self, "depth_multiplier", depth_multiplier)
        self.data_format = checked_format(self.name, data_format)
        self.dilation_rate = positive(self, "dilation_rate", dilation_rate)

    def _depthwise_shape(self, input_shape: Shape) -> Shape:
        """Of the depthwise kernel, (KH, KW, C, M)."""
        return (*pair(self.kernel_size), input_shape[-1], self.depth_multiplier)

    def output_shape(self, input_shape: Shape) -> Shape:
        image_shape(self, input_shape)
        out = window_output(self, input_shape, self.kernel_size, self.strides, self.padding, self.dilation_rate)
        return (*out, input_shape[-1] * self.depth_multiplier)

    def geometry(self) -> tuple[IntPair, Padding, IntPair]:
        """(strides, padding, dilation_rate), as the kernels take them."""
        return self.strides, self.padding, self.dilation_rate


class DepthwiseConv2D(_Depthwise):
    """Each channel has `depth_multiplier` kernels of its own: (N, H, W, C) -> (N, OH, OW, C * depth_multiplier).

    A Conv2D sums over all channels of a window; here channels are not mixed. That takes C times fewer products; a
    Conv2D of 1×1 behind it can mix the channels (MobileNet), which together is SeparableConv2D. Parameters:
    w (KH, KW, C, depth_multiplier) and b (C * depth_multiplier,). Kernel: `minicnn.kernels.depthwise_conv2d_forward`;
    reference implementation: `minicnn.kernels.reference.depthwise_conv2d_forward`.
    padding: as of Conv2D. depthwise_initializer and so on: of the kernel; see WeightedLayer. Raises InputError where
    the image is smaller than the kernel.
    """

    def __init__(
        self,
        kernel_size: IntPair,
        strides: IntPair = (1, 1),
        padding: Padding = "valid",
        depth_multiplier: int = 1,
        data_format: str | None = None,
        dilation_rate: IntPair = (1, 1),
        activation: Any = None,
        use_bias: bool = True,
        depthwise_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        depthwise_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: None = None,
        depthwise_constraint: Any = None,
        bias_constraint: Any = None,
        **layer,
    ):
        super().__init__(
            activation, use_bias, bias_initializer, bias_regularizer, activity_regularizer, bias_constraint, **layer
        )
        self.learn("w", "depthwise", depthwise_initializer, depthwise_regularizer, depthwise_constraint)
        self._take(kernel_size, strides, padding, depth_multiplier, data_format, dilation_rate)

    @property
    def kernel(self) -> Array:
        """The kernel w, as Keras names it: the array itself. Raises NotBuiltError where there is none yet."""
        if not self.built:
            raise NotBuiltError(self.name, "kernel")
        return self.params["w"]

    def array_shapes(self, input_shape: Shape) -> dict[str, Shape]:
        return self.with_bias(input_shape[-1] * self.depth_multiplier, w=self._depthwise_shape(input_shape))

    def forward(self, x: Array, ctx: Context) -> Array:
        ctx.x = x
        return self.activated(lambda b: depthwise_conv2d_forward(x, self.params["w"], b, *self.geometry()), ctx)

    def backward(self, dy: Array, ctx: Context) -> Array | None:
        dz = self.deactivate(dy, ctx)
        dx, dw, db = depthwise_conv2d_backward(dz, ctx.x, self.params["w"], *self.geometry(), need_dx=ctx.need_dx)
        self.graded(ctx, db, w=dw)
        return dx

    def macs(self, input_shape: Shape) -> int:
        (kh, kw), (oh, ow, channels) = pair(self.kernel_size), self.output_shape(input_shape)
        return oh * ow * channels * kh * kw


class SeparableConv2D(_Depthwise):
    """A depthwise convolution, then one of 1×1: first over the places, then over the channels.

    (N, H, W, C) -> (N, OH, OW, filters). It has the inputs and outputs of Conv2D and, for K×K windows, about K² times
    fewer products; it can do less: each pair of channels shares the windows of the first one (Xception). Parameters:
    depthwise (KH, KW, C, depth_multiplier), pointwise (1, 1, C * depth_multiplier, filters), b (filters,). Kernels:
    `minicnn.kernels.depthwise_conv2d_forward` and `conv2d_forward`, one after the other.
    padding: as of Conv2D. depthwise_initializer, pointwise_initializer and so on: see WeightedLayer. Raises InputError
    where the image is smaller than the kernel.
    """

    depthwise_kernel, pointwise_kernel = weight("depthwise"), weight("pointwise")

    def __init__(
        self,
        filters: int,
        kernel_size: IntPair,
        strides: IntPair = (1, 1),
        padding: Padding = "valid",
        data_format: str | None = None,
        dilation_rate: IntPair = (1, 1),
        depth_multiplier: int = 1,
        activation: Any = None,
        use_bias: bool = True,
        depthwise_initializer: Any = "glorot_uniform",
        pointwise_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        depthwise_regularizer: Any = None,
        pointwise_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: None = None,
        depthwise_constraint: Any = None,
        pointwise_constraint: Any = None,
        bias_constraint: Any = None,
        **layer,
    ):
        super().__init__(
            activation, use_bias, bias_initializer, bias_regularizer, activity_regularizer, bias_constraint, **layer
        )
        self.learn("depthwise", "depthwise", depthwise_initializer, depthwise_regularizer, depthwise_constraint)
        self.learn("pointwise", "pointwise", pointwise_initializer, pointwise_regularizer, pointwise_constraint)
        self.filters = count(self, "filters", filters)
        self._take(kernel_size, strides, padding, depth_multiplier, data_format, dilation_rate)

    def array_shapes(self, input_shape: Shape) -> dict[str, Shape]:
        between = input_shape[-1] * self.depth_multiplier
        return self.with_bias(
            self.filters, depthwise=self._depthwise_shape(input_shape), pointwise=(1, 1, between, self.filters)
        )

    def output_shape(self, input_shape: Shape) -> Shape:
        return (*super().output_shape(input_shape)[:2], self.filters)

    def forward(self, x: Array, ctx: Context) -> Array:
        ctx.x = x
        ctx.h = depthwise_conv2d_forward(x, self.params["depthwise"], None, *self.geometry())
        return self.activated(lambda b: conv2d_forward(ctx.h, self.params["pointwise"], b), ctx)

    def backward(self, dy: Array, ctx: Context) -> Array | None:
        dz = self.deactivate(dy, ctx)
        dh, dpointwise, db = conv2d_backward(dz, ctx.h, self.params["pointwise"])
        if ctx.trace:
            ctx.dh = dh
        dx, ddepthwise, _ = depthwise_conv2d_backward(
            dh, ctx.x, self.params["depthwise"], *self.geometry(), need_dx=ctx.need_dx
        )
        self.graded(ctx, db, depthwise=ddepthwise, pointwise=dpointwise)
        return dx

    def macs(self, input_shape: Shape) -> int:
        kh, kw = pair(self.kernel_size)
        oh, ow, between = super().output_shape(input_shape)
        return oh * ow * between * (kh * kw + self.filters)
