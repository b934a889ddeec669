"""The convolution layer.

Where to read on: the arithmetic is in `minicnn/kernels/conv.py` (conv2d_forward, conv2d_backward) on top of
`minicnn/kernels/im2col.py`; the same in plain loops, to understand it first, is in `minicnn/kernels/reference.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minicnn.backend import Array
from minicnn.kernels import conv2d_backward, conv2d_forward
from minicnn.kernels.geometry import IntPair, Padding, pair, resolve_padding
from minicnn.layers.base import Context, Shape
from minicnn.layers.checks import count, image_shape, positive, window_output
from minicnn.layers.weighted import WeightedLayer


class Conv2D(WeightedLayer):
    """Slides `filters` small kernels over the image: (N, H, W, C_in) -> (N, OH, OW, filters).

    Every output is the sum of a window of the input times a kernel, plus a bias, then the activation. Parameters:
    w (KH, KW, C_in, filters) and b (filters,). Kernel: `minicnn.kernels.conv2d_forward` and `conv2d_backward`;
    naive twin: `minicnn.kernels.reference.conv2d_forward`.

    Further arguments (kernel_initializer, kernel_constraint, …): see WeightedLayer.
    padding: "valid", "same", or numbers: p, (p_h, p_w), ((top, bottom), (left, right)). Raises InputError where the
    image is smaller than the kernel.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: IntPair,
        strides: IntPair = 1,
        padding: Padding = "valid",
        dilation_rate: IntPair = 1,
        activation: Any = None,
        use_bias: bool = True,
        **weights,
    ):
        super().__init__(activation, use_bias, **weights)
        self.filters = count(self, "filters", filters)
        self.kernel_size = positive(self, "kernel_size", kernel_size)
        self.strides = positive(self, "strides", strides)
        self.padding, self.dilation_rate = padding, positive(self, "dilation_rate", dilation_rate)
        resolve_padding(1, 1, 1, 1, padding)  # an unknown rule is refused here, not in the middle of training

    def build(self, input_shape: Shape, rng: np.random.Generator) -> None:
        self.create((*pair(self.kernel_size), input_shape[-1], self.filters), rng)

    def output_shape(self, input_shape: Shape) -> Shape:
        image_shape(self, input_shape)
        out = window_output(
            self, input_shape, self.kernel_size, self.strides, self.padding, self.dilation_rate
        )
        return (*out, self.filters)

    def forward(self, x: Array, ctx: Context) -> Array:
        ctx.x = x
        z = conv2d_forward(x, self.params["w"], self.params.get("b"), *self._geometry())
        return self.activate(z, ctx)

    def backward(self, dy: Array, ctx: Context) -> Array | None:
        dz = self.deactivate(dy, ctx)
        dx, dw, db = conv2d_backward(dz, ctx.x, self.params["w"], *self._geometry(), need_dx=ctx.need_dx)
        ctx.grads = {"w": dw, "b": db} if self.use_bias else {"w": dw}
        return dx

    def macs(self, input_shape: Shape) -> int:
        kh, kw = pair(self.kernel_size)
        oh, ow, filters = self.output_shape(input_shape)
        return oh * ow * filters * kh * kw * input_shape[-1]

    def im2col_size(self, input_shape: Shape) -> int:
        """How many numbers im2col makes of one sample: OH * OW * KH * KW * C_in."""
        return self.macs(input_shape) // self.filters

    def _geometry(self) -> tuple[IntPair, Padding, IntPair]:
        return self.strides, self.padding, self.dilation_rate


