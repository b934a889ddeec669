"""Where branches meet: element-wise sums, products and maxima of several arrays, their concatenation, and zero borders.

    y = a + b           dL/da = dy              dL/db = dy
    y = a * b           dL/da = dy * b          dL/db = dy * a
    y = max(a, b)       dy goes to the larger one; of equal numbers to the first
    y = [a, b]          dy is cut where a ends

An axis of length 1 is repeated, as NumPy does: (N, 1, 1, C) * (N, H, W, C) scales whole channels. Its gradient is the
sum over what it was repeated for. The lists `xs`, `shapes` and the lists that are returned go together; no array of
them shares memory with dy unless the function is the identity there. Reference implementations: the same names in
`minicnn.kernels.reference`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from minicnn.backend import Array, xp_of

Shapes = Sequence[tuple[int, ...]]
Pads = tuple[tuple[int, int], tuple[int, int]]


def add_forward(xs: Sequence[Array]) -> Array:
    """y = the sum of all xs, of the shape that they have together."""
    y = xs[0] + xs[1] if len(xs) > 1 else xs[0].copy()
    for x in xs[2:]:
        y = y + x
    return y


def add_backward(dy: Array, shapes: Shapes) -> list[Array]:
    """The gradient of each x is dy; dy itself where nothing was repeated."""
    return [_summed(dy, shape) for shape in shapes]


def subtract_forward(xs: Sequence[Array]) -> Array:
    """y = xs[0] - xs[1]."""
    return xs[0] - xs[1]


def subtract_backward(dy: Array, shapes: Shapes) -> list[Array]:
    """dy for the first, -dy for the second."""
    return [_summed(dy, shapes[0]), _summed(-dy, shapes[1])]


def multiply_forward(xs: Sequence[Array]) -> Array:
    """y = the product of all xs."""
    y = xs[0] * xs[1] if len(xs) > 1 else xs[0].copy()
    for x in xs[2:]:
        y = y * x
    return y


def multiply_backward(dy: Array, xs: Sequence[Array]) -> list[Array]:
    """The gradient of each x is dy times the product of the others."""
    dxs = []
    for k, x in enumerate(xs):
        dx = dy
        for other in (*xs[:k], *xs[k + 1 :]):
            dx = dx * other
        dxs.append(_summed(dx, x.shape))
    return dxs


def average_forward(xs: Sequence[Array]) -> Array:
    """y = the sum of all xs, divided by their number."""
    return add_forward(xs) / xs[0].dtype.type(len(xs))


def average_backward(dy: Array, shapes: Shapes) -> list[Array]:
    """dy divided by the number of xs, for each of them."""
    return add_backward(dy / dy.dtype.type(len(shapes)), shapes)


def maximum_forward(xs: Sequence[Array]) -> tuple[Array, Array]:
    """(y, winner): the largest of the xs at each place, and which one that is; of equal ones the first (an int)."""
    xp = xp_of(xs[0])
    y = xp.zeros(tuple(max(sizes) for sizes in zip(*(x.shape for x in xs), strict=True)), xs[0].dtype)
    y[...] = xs[0]
    kind = np.min_scalar_type(-len(xs)).type  # the smallest that counts them: dozens of arrays, a byte each
    winner = xp.zeros(y.shape, kind)
    for k, x in enumerate(xs[1:], start=1):
        larger = (x > y) | (x != x)  # as np.maximum: NaN is passed on
        y, winner = xp.where(larger, x, y), xp.where(larger, kind(k), winner)
    return y, winner


def maximum_backward(dy: Array, winner: Array, shapes: Shapes) -> list[Array]:
    """dy where this x was the largest, else 0."""
    return [_summed(dy * (winner == k), shape) for k, shape in enumerate(shapes)]


def concatenate_forward(xs: Sequence[Array], axis: int = -1) -> Array:
    """The xs one behind the other along `axis`; all other axes are equal."""
    return xp_of(xs[0]).concatenate(xs, axis=axis)


def concatenate_backward(dy: Array, shapes: Shapes, axis: int = -1) -> list[Array]:
    """dy cut into parts as long as the xs were."""
    xp, start, dxs = xp_of(dy), 0, []
    for shape in shapes:
        part = [slice(None)] * dy.ndim
        part[axis] = slice(start, start + shape[axis])
        dxs.append(xp.ascontiguousarray(dy[tuple(part)]))
        start += shape[axis]
    return dxs


def zero_padding2d_forward(x: Array, pads: Pads) -> Array:
    """(N, H, W, C) -> (N, top + H + bottom, left + W + right, C): zeros around each image.

    pads: ((top, bottom), (left, right)).
    """
    (top, bottom), (left, right) = pads
    n, h, w, c = x.shape
    y = xp_of(x).zeros((n, top + h + bottom, left + w + right, c), x.dtype)
    y[:, top : top + h, left : left + w] = x
    return y


def zero_padding2d_backward(dy: Array, pads: Pads) -> Array:
    """The inner part of dy: what the border does to the loss concerns no input."""
    (top, bottom), (left, right) = pads
    inside = dy[:, top : dy.shape[1] - bottom, left : dy.shape[2] - right]
    return xp_of(dy).ascontiguousarray(inside)


def _summed(dy: Array, shape: tuple[int, ...]) -> Array:
    """dy, summed over the axes that were repeated to bring `shape` to its own; dy itself where there are none."""
    repeated = tuple(i for i, (n, whole) in enumerate(zip(shape, dy.shape, strict=True)) if n == 1 < whole)
    return dy.sum(axis=repeated, keepdims=True) if repeated else dy
