"""Larger images, by a whole factor: every pixel becomes a block of sh × sw pixels.

    nearest    the block holds the pixel's number       dx = the sum of dy over the block
    bilinear   the numbers between the pixels' centres lie on straight lines, first along one axis, then the other

Bilinear, along one axis: the new pixel p of the s that pixel i becomes lies d = (p + 1/2) / s − 1/2 pixels beside the
centre of i, and so it is (1 − |d|) of pixel i and |d| of its neighbour on that side; at the border, of i itself. A map
of such weights is linear, and its backward pass sends each share of dy back to where it came from.
x (N, H, W, C), y and dy (N, H·sh, W·sw, C). Reference implementations: the same names in `minicnn.kernels.reference`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from minicnn.backend import Array, xp_of


def upsampling2d_forward(x: Array, size: tuple[int, int], interpolation: str = "nearest") -> Array:
    """y (N, H·sh, W·sw, C). size: (sh, sw). interpolation: "nearest" or "bilinear"."""
    if interpolation == "bilinear":
        return _stretched(_stretched(x, size[0], 1), size[1], 2)
    (n, h, w, c), (sh, sw) = x.shape, size
    y = xp_of(x).empty((n, h, sh, w, sw, c), x.dtype)
    y[...] = x[:, :, None, :, None]
    return y.reshape(n, h * sh, w * sw, c)


def upsampling2d_backward(dy: Array, size: tuple[int, int], interpolation: str = "nearest") -> Array:
    """dx (N, H, W, C) from dy (N, H·sh, W·sw, C)."""
    if interpolation == "bilinear":
        return _gathered(_gathered(dy, size[1], 2), size[0], 1)
    (n, h, w, c), (sh, sw) = dy.shape, size
    return dy.reshape(n, h // sh, sh, w // sw, sw, c).sum(axis=(2, 4))


def _shares(s: int) -> Iterator[tuple[int, float, int]]:
    """(p, share of the neighbour, on which side it lies: -1 or 1) for each of the s new pixels of an old one."""
    for p in range(s):
        d = (p + 0.5) / s - 0.5
        yield p, abs(d), -1 if d < 0 else 1


def _stretched(x: Array, s: int, axis: int) -> Array:
    """x, s times as long along `axis`."""
    rows = x.reshape(math.prod(x.shape[:axis]), x.shape[axis], math.prod(x.shape[axis + 1 :]))
    y = xp_of(x).empty((rows.shape[0], rows.shape[1], s, rows.shape[2]), x.dtype)
    for p, share, side in _shares(s):
        new = y[:, :, p]
        new[...] = rows * (1 - share)
        near, far, edge = (new[:, 1:], rows[:, :-1], 0) if side < 0 else (new[:, :-1], rows[:, 1:], -1)
        near += far * share
        new[:, edge] += rows[:, edge] * share
    return y.reshape(*x.shape[:axis], x.shape[axis] * s, *x.shape[axis + 1 :])


def _gathered(dy: Array, s: int, axis: int) -> Array:
    """The gradient with respect to what `_stretched` took."""
    length = dy.shape[axis] // s
    parts = dy.reshape(math.prod(dy.shape[:axis]), length, s, math.prod(dy.shape[axis + 1 :]))
    dx = xp_of(dy).zeros((parts.shape[0], length, parts.shape[3]), dy.dtype)
    for p, share, side in _shares(s):
        dx += parts[:, :, p] * (1 - share)
        near, far, edge = (parts[:, 1:, p], dx[:, :-1], 0) if side < 0 else (parts[:, :-1, p], dx[:, 1:], -1)
        far += near * share
        dx[:, edge] += parts[:, edge, p] * share
    return dx.reshape(*dy.shape[:axis], length, *dy.shape[axis + 1 :])
