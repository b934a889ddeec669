"""Layers that join several values, and ZeroPadding2D. Kernels: `minicnn/kernels/merge.py`.

    y = Add()([x, y])        a skip connection, of a residual network
    y = Concatenate()([x, y])    channels side by side, of a U-Net or an Inception cell
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minicnn import kernels
from minicnn.backend import Array
from minicnn.errors import InputError
from minicnn.layers.base import Layer, Shape
from minicnn.layers.checks import checked_format, four_sides, image_shape
from minicnn.layers.context import Context


class _Merge(Layer):
    """x is the list of the arrays to join, `ctx.shapes` their shapes."""

    merges = True
    number: int | None = None  # of values that it joins; None: one or more

    def output_shape(self, input_shape: Any) -> Shape:
        """The shape that the inputs have together: equal sizes, or 1, which is repeated."""
        shapes = self._counted(input_shape)
        equal_ranks = len({len(shape) for shape in shapes}) == 1
        if not equal_ranks or any(len({n for n in sizes if n != 1}) > 1 for sizes in zip(*shapes, strict=True)):
            raise InputError(
                self.name, "the shapes of its inputs do not fit together.",
                "inputs of one shape (a size of 1 is repeated).", f"{_listed(shapes)}.",
                'bring them to one shape first: padding="same" keeps height and width, strides and pooling must be the '
                "same on both ways, and a Conv2D(filters, 1) changes the number of channels.",
            )  # fmt: skip
        return tuple(max(sizes) for sizes in zip(*shapes, strict=True))

    def _counted(self, shapes: Any) -> list[Shape]:
        several = isinstance(shapes, (list, tuple)) and all(isinstance(shape, (list, tuple)) for shape in shapes)
        if not several or not shapes or (self.number is not None and len(shapes) != self.number):
            what = "two values" if self.number == 2 else "a list of values"
            raise InputError(
                self.name, f"{type(self).__name__} joins {what}.", f"{what}: layer([x, y]).",
                f"{_listed(shapes) if several else shapes}.", f"write {type(self).__name__}()([x, y]).",
            )  # fmt: skip
        return [tuple(shape) for shape in shapes]


class Add(_Merge):
    """y = the sum of all inputs, element by element: the skip connection of a residual network (He et al. 2015).

    Called on a list: Add()([x, y]). Of several inputs, a size of 1 is repeated.
    """

    def forward(self, x: Sequence[Array], ctx: Context) -> Array:
        ctx.shapes = [item.shape for item in x]
        return kernels.add_forward(x)

    def backward(self, dy: Array, ctx: Context) -> list[Array]:
        return kernels.add_backward(dy, ctx.shapes)


class Subtract(_Merge):
    """y = the first input minus the second, element by element. Called on a list of two."""

    number = 2

    def forward(self, x: Sequence[Array], ctx: Context) -> Array:
        ctx.shapes = [item.shape for item in x]
        return kernels.subtract_forward(x)

    def backward(self, dy: Array, ctx: Context) -> list[Array]:
        return kernels.subtract_backward(dy, ctx.shapes)


class Multiply(_Merge):
    """y = the product of all inputs, element by element. (H, W, C) times (1, 1, C) scales whole channels."""

    def forward(self, x: Sequence[Array], ctx: Context) -> Array:
        ctx.xs = list(x)
        return kernels.multiply_forward(x)

    def backward(self, dy: Array, ctx: Context) -> list[Array]:
        return kernels.multiply_backward(dy, ctx.xs)


class Average(_Merge):
    """y = the mean of all inputs, element by element."""

    def forward(self, x: Sequence[Array], ctx: Context) -> Array:
        ctx.shapes = [item.shape for item in x]
        return kernels.average_forward(x)

    def backward(self, dy: Array, ctx: Context) -> list[Array]:
        return kernels.average_backward(dy, ctx.shapes)


class Maximum(_Merge):
    """y = the largest of all inputs, element by element; the first of equal ones alone receives the gradient."""

    def forward(self, x: Sequence[Array], ctx: Context) -> Array:
        ctx.shapes = [item.shape for item in x]
        y, ctx.winner = kernels.maximum_forward(x)
        return y

    def backward(self, dy: Array, ctx: Context) -> list[Array]:
        return kernels.maximum_backward(dy, ctx.winner, ctx.shapes)


class Concatenate(_Merge):
    """All inputs one behind the other along `axis`: -1, the channels. The other sizes must be equal.

    axis: counted with the batch axis, as in Keras: 1 is the height of images, -1 or 3 their channels. Raises InputError
    for 0: samples of a batch are not joined.
    """

    def __init__(self, axis: int = -1, **layer):
        super().__init__(**layer)
        if isinstance(axis, bool) or not isinstance(axis, (int, np.integer)) or axis == 0:
            raise InputError(
                self.name, "axis does not fit.",
                "the number of an axis of the samples: -1 for the last, 1 for the first.",
                f"{axis!r}.", "leave it out to join channels.",
            )  # fmt: skip
        self.axis = int(axis)

    def output_shape(self, input_shape: Any) -> Shape:
        shapes = self._counted(input_shape)
        rank = len(shapes[0])
        axis = self.axis - 1 if self.axis > 0 else self.axis + rank
        if not 0 <= axis < rank:
            raise InputError(
                self.name, "there is no such axis.", f"an axis from 1 to {rank}, or from -{rank} to -1.",
                f"axis={self.axis}, and {_listed(shapes)}.", "leave it out to join channels.",
            )  # fmt: skip
        rests = {(len(shape), *shape[:axis], *shape[axis + 1 :]) for shape in shapes}
        if len(rests) > 1:
            raise InputError(
                self.name, "the shapes of its inputs do not fit together.",
                f"inputs that differ in axis {self.axis} alone.", f"{_listed(shapes)}.",
                'bring them to one height and width first: padding="same" keeps them; strides and pooling must be the '
                "same on both ways.",
            )  # fmt: skip
        return (*shapes[0][:axis], sum(shape[axis] for shape in shapes), *shapes[0][axis + 1 :])

    def forward(self, x: Sequence[Array], ctx: Context) -> Array:
        ctx.shapes = [item.shape for item in x]
        return kernels.concatenate_forward(x, self.axis)

    def backward(self, dy: Array, ctx: Context) -> list[Array]:
        return kernels.concatenate_backward(dy, ctx.shapes, self.axis)


ELEMENTWISE = (Add, Subtract, Multiply, Average, Maximum)


class ZeroPadding2D(Layer):
    """Zeros around each image: (N, H, W, C) -> (N, top + H + bottom, left + W + right, C).

    padding: p on all sides, (p_height, p_width), or ((top, bottom), (left, right)); whole numbers of 0 or more.
    """

    def __init__(self, padding: Any = (1, 1), data_format: str | None = None, **layer):
        super().__init__(**layer)
        self.padding, self.data_format = padding, checked_format(self.name, data_format)
        self.pads  # noqa: B018 - refused here, not in the middle of training

    @property
    def pads(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """((top, bottom), (left, right)). Raises InputError where `padding` is none of the three."""
        return four_sides(self, "padding", self.padding)

    def output_shape(self, input_shape: Shape) -> Shape:
        image_shape(self, input_shape)
        (top, bottom), (left, right) = self.pads
        h, w, c = input_shape
        return top + h + bottom, left + w + right, c

    def forward(self, x: Array, ctx: Context) -> Array:
        return kernels.zero_padding2d_forward(x, self.pads)

    def backward(self, dy: Array, ctx: Context) -> Array | None:
        return kernels.zero_padding2d_backward(dy, self.pads)


def _listed(shapes: Sequence[Shape]) -> str:
    return "inputs of shapes " + ", ".join(str(tuple(shape)) for shape in shapes)
