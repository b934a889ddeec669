"""The transposed convolution layer, which makes images larger. Its kernel: `minicnn/kernels/conv_transpose.py`."""

from __future__ import annotations

from typing import Any

from minicnn.backend import Array
from minicnn.errors import InputError, checked
from minicnn.kernels import conv2d_transpose_backward, conv2d_transpose_forward
from minicnn.kernels.geometry import IntPair, Padding, Windows, pair
from minicnn.layers.base import Context, Shape
from minicnn.layers.checks import checked_format, count, image_shape, positive
from minicnn.layers.weighted import WeightedLayer


class Conv2DTranspose(WeightedLayer):
    """Every pixel stamps the kernel into a larger image: (N, H, W, C_in) -> (N, OH, OW, filters).

    It is Conv2D the other way round: its forward pass is what Conv2D's backward pass computes for dx, and its backward
    pass is a convolution. So a decoder undoes the sizes that an encoder of Conv2D with the same arguments has made.
    Parameters: w (KH, KW, filters, C_in) and b (filters,). Kernel: `minicnn.kernels.conv2d_transpose_forward`;
    reference implementation: `minicnn.kernels.reference.conv2d_transpose_forward`.

    padding: "valid": (H - 1) * stride + KH pixels, and never fewer than H * stride; "same": H * stride. output_padding:
    with strides s, s sizes become H in a Conv2D; this tells which one of them, by a number below the stride: (H - 1) *
    stride + KH + output_padding for "valid", + KH % 2 for "same". Raises InputError where it does not fit.
    Further arguments (kernel_initializer, kernel_constraint, …): see WeightedLayer.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: IntPair,
        strides: IntPair = (1, 1),
        padding: str = "valid",
        output_padding: IntPair | None = None,
        data_format: str | None = None,
        dilation_rate: IntPair = (1, 1),
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: None = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        **layer,
    ):
        super().__init__(
            activation, use_bias, kernel_initializer, bias_initializer, kernel_regularizer, bias_regularizer,
            activity_regularizer, kernel_constraint, bias_constraint, **layer,
        )  # fmt: skip
        self.filters = count(self, "filters", filters)
        self.kernel_size = positive(self, "kernel_size", kernel_size)
        self.strides = positive(self, "strides", strides)
        padding = padding.lower() if isinstance(padding, str) else padding
        self.padding = checked(self.name, "padding", padding, ("valid", "same"), '"same"')
        self.output_padding = None if output_padding is None else positive(self, "output_padding", output_padding, 0)
        self.data_format = checked_format(self.name, data_format)
        self.dilation_rate = positive(self, "dilation_rate", dilation_rate)
        extra, strides, dilation = pair(self.output_padding or 0), pair(self.strides), pair(self.dilation_rate)
        if extra[0] >= strides[0] or extra[1] >= strides[1]:
            raise InputError(
                self.name, "output_padding does not fit.", f"less than the strides {strides}.",
                f"output_padding={output_padding!r}.", "leave it out, or give larger strides.",
            )  # fmt: skip
        if max(strides) > 1 and max(dilation) > 1:
            raise InputError(
                self.name, "strides and dilation_rate do not go together.", "one of them 1, as in Keras.",
                f"strides={strides}, dilation_rate={dilation}.", "leave one of them out.",
            )  # fmt: skip

    def array_shapes(self, input_shape: Shape) -> dict[str, Shape]:
        return self.with_bias(self.filters, w=(*pair(self.kernel_size), self.filters, input_shape[-1]))

    def output_shape(self, input_shape: Shape) -> Shape:
        image_shape(self, input_shape)
        windows = Windows.transposed((1, *input_shape), self.kernel_size, *self.geometry())
        if windows.out != input_shape[:2]:
            raise InputError(
                self.name, "output_padding does not fit the kernel.",
                f"a size from which a convolution comes back to {input_shape[:2]}.",
                f"output_padding={self.output_padding}, which gives {windows.image}.",
                'with an even kernel and padding="same" output_padding is at least 1; or leave it out.',
            )  # fmt: skip
        return (*windows.image, self.filters)

    def forward(self, x: Array, ctx: Context) -> Array:
        ctx.x = x
        return self.activated(lambda b: conv2d_transpose_forward(x, self.params["w"], b, *self.geometry()), ctx)

    def backward(self, dy: Array, ctx: Context) -> Array | None:
        dz = self.deactivate(dy, ctx)
        dx, dw, db = conv2d_transpose_backward(dz, ctx.x, self.params["w"], *self.geometry(), need_dx=ctx.need_dx)
        self.graded(ctx, db, w=dw)
        return dx

    def macs(self, input_shape: Shape) -> int:
        (kh, kw), (h, w, c) = pair(self.kernel_size), input_shape
        return h * w * c * kh * kw * self.filters

    def geometry(self) -> tuple[IntPair, Padding, IntPair, IntPair | None]:
        """(strides, padding, dilation_rate, output_padding), as the kernels take them."""
        return self.strides, self.padding, self.dilation_rate, self.output_padding
