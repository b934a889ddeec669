"""The convolution layer.

Where to read on: the arithmetic is in `minicnn/kernels/conv.py` (conv2d_forward, conv2d_backward), which picks one of
several algorithms: read `conv_im2col.py` first. The same in plain loops is in `minicnn/kernels/reference.py`.
"""

from __future__ import annotations

import math
from typing import Any

from minicnn.backend import Array
from minicnn.errors import InputError
from minicnn.kernels import conv2d_backward, conv2d_forward, grouped_conv2d_backward, grouped_conv2d_forward
from minicnn.kernels.conv_choice import ALGORITHMS, check_algorithm, check_can, choose
from minicnn.kernels.geometry import IntPair, Padding, Windows, pair
from minicnn.layers.base import Context, Shape
from minicnn.layers.checks import checked_format, checked_padding, count, image_shape, positive, window_output
from minicnn.layers.weighted import WeightedLayer


class Conv2D(WeightedLayer):
    """Slides `filters` small kernels over the image: (N, H, W, C_in) -> (N, OH, OW, filters).

    Every output is the sum of a window of the input times a kernel, plus a bias, then the activation. Parameters:
    w (KH, KW, C_in, filters) and b (filters,). Kernel: `minicnn.kernels.conv2d_forward` and `conv2d_backward`;
    reference implementation: `minicnn.kernels.reference.conv2d_forward`.

    Further arguments (kernel_initializer, kernel_constraint, …): see WeightedLayer.
    groups: the channels and the filters are shared out over so many groups, and a filter sees the channels of its own
    group only: w is (KH, KW, C_in / groups, filters). Raises InputError where it does not divide both.
    padding: "valid", "same", or numbers: p, (p_h, p_w), ((top, bottom), (left, right)). Raises InputError where the
    image is smaller than the kernel.
    algorithm: how it is computed, see minicnn/kernels/conv.py: "im2col", "winograd", … or "auto", the fastest for the
    shape; the numbers are the same up to rounding. Raises InputError where it cannot compute this convolution.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: IntPair,
        strides: IntPair = (1, 1),
        padding: Padding = "valid",
        data_format: str | None = None,
        dilation_rate: IntPair = (1, 1),
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
            activation, use_bias, kernel_initializer, bias_initializer, kernel_regularizer, bias_regularizer,
            activity_regularizer, kernel_constraint, bias_constraint, **layer,
        )  # fmt: skip
        self.filters = count(self, "filters", filters)
        self.kernel_size = self.sizes("kernel_size", kernel_size)
        self.strides = self.sizes("strides", strides)
        self.padding = self.checked_padding(padding)
        self.data_format = checked_format(self.name, data_format)
        self.dilation_rate = self.sizes("dilation_rate", dilation_rate)
        self.groups = count(self, "groups", groups)
        if self.filters % self.groups:
            raise self._indivisible("filters", self.filters)
        self.algorithm = check_algorithm(algorithm)

    def sizes(self, argument: str, value: Any) -> IntPair:
        """`value`, as many whole numbers above 0 as there are axes; else InputError."""
        return positive(self, argument, value)

    def checked_padding(self, padding: Any) -> Padding:
        """`padding`, a name in small letters; InputError for an unknown rule."""
        return checked_padding(self, padding)

    def array_shapes(self, input_shape: Shape) -> dict[str, Shape]:
        return self.with_bias(self.filters, w=(*pair(self.kernel_size), input_shape[-1] // self.groups, self.filters))

    def output_shape(self, input_shape: Shape) -> Shape:
        image_shape(self, input_shape)
        if input_shape[-1] % self.groups:
            raise self._indivisible("channels", input_shape[-1])
        out = window_output(self, input_shape, self.window, *self.geometry())
        check_can(self.algorithm, self._windows(1, input_shape), self.name)
        return (*out, self.filters)

    def forward(self, x: Array, ctx: Context) -> Array:
        ctx.x = x
        return self.activated(lambda b: self.convolved(x, self.params["w"], b), ctx)

    def convolved(self, x: Array, w: Array, b: Array | None) -> Array:
        """The sums over all windows, before the activation."""
        if self.groups > 1:
            return grouped_conv2d_forward(x, w, b, self.groups, *self.geometry(), self.algorithm)
        return conv2d_forward(x, w, b, *self.geometry(), self.algorithm)

    def backward(self, dy: Array, ctx: Context) -> Array | None:
        dz = self.deactivate(dy, ctx)
        dx, dw, db = self.gradients(dz, ctx.x, self.params["w"], ctx.need_dx)
        self.graded(ctx, db, w=dw)
        return dx

    def gradients(self, dz: Array, x: Array, w: Array, need_dx: bool) -> tuple[Array | None, Array, Array]:
        """(dx, dw, db) of `convolved`; dx None unless `need_dx`."""
        if self.groups > 1:
            return grouped_conv2d_backward(dz, x, w, self.groups, *self.geometry(), need_dx, self.algorithm)
        return conv2d_backward(dz, x, w, *self.geometry(), need_dx, self.algorithm)

    def macs(self, input_shape: Shape) -> int:
        *places, _ = self.output_shape(input_shape)
        return math.prod(places) * math.prod(self.array_shapes(input_shape)["w"])

    def im2col_size(self, input_shape: Shape) -> int:
        """How many numbers im2col makes of one sample: OH * OW * KH * KW * C_in."""
        return self.macs(input_shape) // self.filters * self.groups

    def set_algorithm(self, algorithm: str) -> None:
        """Compute by this algorithm from now on; by "auto" where it cannot compute this layer."""
        check_algorithm(algorithm)
        if algorithm != "auto" and self.built_for is not None:
            able = ALGORITHMS[algorithm].can(self._windows(1, self.built_for))
            algorithm = algorithm if able else "auto"
        self.algorithm = algorithm

    def choice(self, input_shape: Shape, samples: int = 32) -> tuple[str, str]:
        """(algorithm, reason): what "auto" picks on a CPU for a batch of so many samples, and why."""
        c_in, c_out = input_shape[-1] // self.groups, self.filters // self.groups
        return choose(samples, c_in, c_out, self._windows(samples, input_shape))

    def _indivisible(self, what: str, count: int) -> InputError:
        return InputError(
            self.name, f"the groups do not divide the {what}.", f"groups that divide {count}, such as 1.",
            f"groups={self.groups}.", f"choose groups so that each gets as many {what}.",
        )  # fmt: skip

    def _windows(self, samples: int, input_shape: Shape) -> Windows:
        return Windows.of((samples, *input_shape), self.window, *self.geometry())

    @property
    def window(self) -> IntPair:
        """The kernel's size, as the kernels take it."""
        return self.kernel_size

    def geometry(self) -> tuple[IntPair, Padding, IntPair]:
        """(strides, padding, dilation_rate), as the kernels take them."""
        return self.strides, self.padding, self.dilation_rate
