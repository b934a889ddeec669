"""Layers that move numbers to other places: Reshape, Permute, Cropping2D, UpSampling2D.

Kernels: `minicnn/kernels/resize.py`; cropping is the backward pass of zero padding, and the other way round.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral
from typing import Any

from minicnn import kernels
from minicnn.backend import Array, xp_of
from minicnn.errors import InputError, checked
from minicnn.kernels.geometry import IntPair, pair
from minicnn.layers.base import Context, Layer, Shape
from minicnn.layers.checks import checked_format, four_sides, image_shape, positive


class Reshape(Layer):
    """The same numbers in the same order, in another shape: (N, …) -> (N, *target_shape).

    target_shape: without the batch axis; one size may be -1, which is what is left. Raises InputError where the shape
    holds another count of numbers than the samples.
    """

    def __init__(self, target_shape: Sequence[int], **layer):
        super().__init__(**layer)
        sizes = _whole_numbers(target_shape)
        if sizes is None or sizes.count(-1) > 1 or not all(n > 0 or n == -1 for n in sizes):
            raise InputError(
                self.name, "target_shape does not fit.",
                "the sizes of a sample, whole numbers above 0, without the batch axis; one of them may be -1.",
                f"{target_shape!r}.", "for example target_shape=(7, 7, 16).",
            )  # fmt: skip
        self.target_shape = sizes

    def output_shape(self, input_shape: Shape) -> Shape:
        count = math.prod(input_shape)
        rest, over = divmod(count, math.prod(n for n in self.target_shape if n != -1))
        if over or (-1 not in self.target_shape and rest != 1):
            raise InputError(
                self.name, "target_shape does not fit the samples.",
                f"a shape of {count} numbers, as {input_shape} has.", f"{self.target_shape}.",
                "write -1 for one of the sizes: it becomes what is left.",
            )  # fmt: skip
        return tuple(rest if n == -1 else n for n in self.target_shape)

    def forward(self, x: Array, ctx: Context) -> Array:
        ctx.shape = x.shape
        return x.reshape(len(x), *self.output_shape(x.shape[1:]))

    def backward(self, dy: Array, ctx: Context) -> Array | None:
        return dy.reshape(ctx.shape)


class Permute(Layer):
    """Exchanges axes: dims=(2, 1) makes (N, W, H) of (N, H, W).

    dims: for each axis of a sample of the output, which axis of the input it is, counted from 1 as in Keras. Raises
    InputError unless each axis occurs once.
    """

    def __init__(self, dims: Sequence[int], **layer):
        super().__init__(**layer)
        axes = _whole_numbers(dims)
        if axes is None or sorted(axes) != list(range(1, len(axes) + 1)):
            raise InputError(
                self.name, "dims does not fit.", "each axis of a sample once, counted from 1.", f"{dims!r}.",
                "for example dims=(2, 1, 3), which exchanges height and width.",
            )  # fmt: skip
        self.dims = axes

    def output_shape(self, input_shape: Shape) -> Shape:
        if len(input_shape) != len(self.dims):
            raise InputError(
                self.name, "dims does not fit the samples.", f"{len(input_shape)} axes, as {input_shape} has.",
                f"dims={self.dims}.", "name every axis of a sample once, counted from 1.",
            )  # fmt: skip
        return tuple(input_shape[axis - 1] for axis in self.dims)

    def forward(self, x: Array, ctx: Context) -> Array:
        return xp_of(x).ascontiguousarray(x.transpose(0, *self.dims))

    def backward(self, dy: Array, ctx: Context) -> Array | None:
        back = [self.dims.index(axis) + 1 for axis in range(1, len(self.dims) + 1)]
        return xp_of(dy).ascontiguousarray(dy.transpose(0, *back))


class Cropping2D(Layer):
    """Cuts pixels off the borders: (N, H, W, C) -> (N, H - top - bottom, W - left - right, C).

    cropping: p from all sides, (p_height, p_width), or ((top, bottom), (left, right)). Raises InputError where nothing
    would be left.
    """

    def __init__(self, cropping: Any = ((0, 0), (0, 0)), data_format: str | None = None, **layer):
        super().__init__(**layer)
        self.cropping, self.data_format = cropping, checked_format(self.name, data_format)
        self.sides  # noqa: B018 - refused here, not in the middle of training

    @property
    def sides(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """((top, bottom), (left, right)). Raises InputError where `cropping` is none of the three."""
        return four_sides(self, "cropping", self.cropping)

    def output_shape(self, input_shape: Shape) -> Shape:
        image_shape(self, input_shape)
        (top, bottom), (left, right) = self.sides
        h, w, c = input_shape
        if top + bottom >= h or left + right >= w:
            raise InputError(
                self.name, "nothing is left of the image.", f"less cropping than the {h}×{w} pixels of the image.",
                f"cropping={self.cropping!r}.", "use larger images, or crop less.",
            )  # fmt: skip
        return h - top - bottom, w - left - right, c

    def forward(self, x: Array, ctx: Context) -> Array:
        return kernels.zero_padding2d_backward(x, self.sides)

    def backward(self, dy: Array, ctx: Context) -> Array | None:
        return kernels.zero_padding2d_forward(dy, self.sides)


class UpSampling2D(Layer):
    """Larger images: (N, H, W, C) -> (N, H * size[0], W * size[1], C).

    size: a whole number, or one for each axis. interpolation: "nearest" repeats every pixel; "bilinear" draws straight
    lines between the pixels' centres. Kernel: `minicnn.kernels.upsampling2d_forward`; reference implementation:
    `minicnn.kernels.reference.upsampling2d_forward`.
    """

    def __init__(
        self, size: IntPair = (2, 2), data_format: str | None = None, interpolation: str = "nearest", **layer
    ):
        super().__init__(**layer)
        self.size, self.data_format = positive(self, "size", size), checked_format(self.name, data_format)
        self.interpolation = checked(self.name, "interpolation", interpolation, ("nearest", "bilinear"), '"nearest"')

    def output_shape(self, input_shape: Shape) -> Shape:
        image_shape(self, input_shape)
        (h, w, c), (sh, sw) = input_shape, pair(self.size)
        return h * sh, w * sw, c

    def forward(self, x: Array, ctx: Context) -> Array:
        return kernels.upsampling2d_forward(x, pair(self.size), self.interpolation)

    def backward(self, dy: Array, ctx: Context) -> Array | None:
        return kernels.upsampling2d_backward(dy, pair(self.size), self.interpolation) if ctx.need_dx else None


def _whole_numbers(value: Any) -> tuple[int, ...] | None:
    """A list of whole numbers as a tuple, None where it is none."""
    known = isinstance(value, (list, tuple)) and len(value)
    if not known or not all(isinstance(n, Integral) and not isinstance(n, bool) for n in value):
        return None
    return tuple(int(n) for n in value)
