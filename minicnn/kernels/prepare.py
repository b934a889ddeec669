"""What prepares images: another size, another scale, mirrored.

    resize        every new row is a mean of old rows, every new column of old columns: y = R x Cᵗ, for each channel,
                  and dx = Rᵗ dy C. R (OH, H) and C (OW, W) hold the shares.
    standardize   y = (x - mean) / deviation        dx = dy / deviation
    flip          y = x with its rows or columns in reverse; the same again undoes it, so dx = flip of dy

Bilinear: the centre of the new pixel i lies at (i + 1/2) · H / OH − 1/2, counted in old pixels from the centre of the
first one; the two old pixels beside it have shares by their nearness. Nearest: the old pixel in which it lies.
Reference implementations: the same names in `minicnn.kernels.reference`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minicnn.backend import Array, matmul, xp_of


def resize2d_forward(x: Array, size: tuple[int, int], interpolation: str = "bilinear") -> Array:
    """y (N, OH, OW, C) from x (N, H, W, C). size: (OH, OW). interpolation: "bilinear" or "nearest"."""
    rows, columns = (shares_of(*axis, interpolation, xp_of(x)) for axis in zip(x.shape[1:3], size, strict=True))
    return _both_ways(x, rows, columns)


def resize2d_backward(dy: Array, size: tuple[int, int], interpolation: str = "bilinear") -> Array:
    """dx (N, H, W, C) from dy (N, OH, OW, C). size: that of x, (H, W)."""
    rows, columns = (shares_of(*axis, interpolation, xp_of(dy)) for axis in zip(size, dy.shape[1:3], strict=True))
    return _both_ways(dy, rows.T, columns.T)


def shares_of(old: int, new: int, interpolation: str, xp: Any = np) -> Array:
    """(new, old): how much of each old pixel is in each new one, along one axis; in float64, by the array module xp.

    Bilinear: 1 at the place itself, and less by the distance. Beyond the border there is nothing: a place there is
    moved to the border.
    """
    place, pixels = (xp.arange(new) + 0.5) * (old / new) - 0.5, xp.arange(old)
    if interpolation == "nearest":
        return (xp.floor(place + 0.5).clip(0, old - 1)[:, None] == pixels).astype(np.float64)
    return (1 - abs(place.clip(0, old - 1)[:, None] - pixels)).clip(0, None)


def _both_ways(x: Array, rows: Array, columns: Array) -> Array:
    """rows @ x @ columns.T for the images of x: two matrix products."""
    xp, (n, h, w, c) = xp_of(x), x.shape
    r, s = (xp.ascontiguousarray(shares).astype(x.dtype) for shares in (rows, columns))
    tall = matmul(r, xp.ascontiguousarray(x).reshape(n, h, w * c)).reshape(n * len(r), w, c)
    return matmul(s, tall).reshape(n, len(r), len(s), c)


def standardize_forward(x: Array, mean: Array, deviation: Array) -> Array:
    """y = (x - mean) / deviation, of x's shape and dtype. mean and deviation spread over x."""
    return (x - mean) / deviation


def standardize_backward(dy: Array, deviation: Array) -> Array:
    """dx = dy / deviation."""
    return dy / deviation


def flip2d(x: Array, flipped: Array) -> Array:
    """x (N, H, W, C) with, for each image, its rows in reverse where flipped[n, 0], its columns where flipped[n, 1]."""
    xp = xp_of(x)
    upright = xp.where(flipped[:, 0, None, None, None], x[:, ::-1], x)
    return xp.where(flipped[:, 1, None, None, None], upright[:, :, ::-1], upright)
