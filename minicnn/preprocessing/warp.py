"""Turning, shifting, shearing and zooming images: one matrix an image says where each pixel comes from.

An output pixel is looked up in the input, never the other way round, so that no pixel is left out:

    (row, column) of the source = matrix @ (i, j, 1)          for every output pixel (i, j)

The source lies between four pixels. With its distances from the upper left one, f down and g to the right, the value is
the bilinear mean (1-f)(1-g) a + (1-f) g b + f (1-g) c + f g d. What lies outside the image is made up by `fill_mode`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

FILL_MODES = ("nearest", "constant", "reflect", "wrap")
TILE_PIXELS = 1 << 15  # coordinates and results of so many pixels stay in the processor's cache
ROUNDING = 1e-6  # of a pixel: what is outside by less than that is on the edge


def affine_matrices(
    size: tuple[int, int], theta: Any = 0, tx: Any = 0, ty: Any = 0, shear: Any = 0, zx: Any = 1, zy: Any = 1,
    flip_horizontal: Any = False, flip_vertical: Any = False,
) -> np.ndarray:  # fmt: skip
    """The matrices (N, 2, 3) float64 for images of `size` (height, width); every other argument is a number or (N,).

    theta, shear: degrees. tx, ty: pixels to the left and up. zx, zy: how much of the width and height is seen: 0.5
    makes things twice as large. The flips come last. The same numbers do the same to a square image in Keras; to
    others, too, but around their middle.
    """
    parameters = (theta, tx, ty, shear, zx, zy, flip_horizontal, flip_vertical)
    theta, tx, ty, shear, zx, zy, mirror, upend = np.broadcast_arrays(*(np.atleast_1d(p) for p in parameters))
    angle, slant = np.deg2rad(theta), np.deg2rad(shear)
    cos, sin = np.cos(angle), np.sin(angle)
    # Around the middle, in coordinates x to the right, y down: rotation @ shift @ shear @ zoom @ flips.
    flip_x, flip_y = np.where(mirror, -1.0, 1.0), np.where(upend, -1.0, 1.0)
    xx, xy = cos * zx * flip_x, (-cos * np.sin(slant) - sin * np.cos(slant)) * zy * flip_y
    yx, yy = sin * zx * flip_x, (-sin * np.sin(slant) + cos * np.cos(slant)) * zy * flip_y
    x0, y0 = cos * tx - sin * ty, sin * tx + cos * ty
    i, j = (size[0] - 1) / 2, (size[1] - 1) / 2  # the middle
    rows = np.stack([yy, yx, y0 + i - yy * i - yx * j], axis=-1)
    columns = np.stack([xy, xx, x0 + j - xy * i - xx * j], axis=-1)
    return np.stack([rows, columns], axis=1)


def affine_warp(x: np.ndarray, matrices: np.ndarray, fill_mode: str = "nearest", cval: float = 0.0) -> np.ndarray:
    """x (N, H, W, C), each image looked up through its matrix (2, 3). Returns floats: x's own kind, or float32.

    fill_mode, for what lies outside a row of pixels a b c d: "nearest" a a|a b c d|d d, "constant" cval, "reflect"
    b a|a b c d|d c, "wrap" c d|a b c d|a b, where d and a, as in SciPy and so in Keras, fall on the same place.
    Reference implementation: `affine_warp_naive`.
    """
    y = np.empty(x.shape, floats_of(x))
    _, h, w, c = x.shape
    images = max(1, TILE_PIXELS // (h * w))
    for start in range(0, len(x), images):
        tile = slice(start, start + images)
        _warp_tile(np.ascontiguousarray(x[tile], y.dtype), matrices[tile], fill_mode, cval, y[tile])
    return y


def floats_of(x: np.ndarray) -> np.dtype:
    """The dtype in which images are changed: float64 stays, all others become float32."""
    return np.dtype(np.float64 if x.dtype == np.float64 else np.float32)


def _warp_tile(x: np.ndarray, matrices: np.ndarray, fill_mode: str, cval: float, y: np.ndarray) -> None:
    n, h, w, c = x.shape
    rows, columns = (_coordinates(m, h, w) for m in (matrices[:, 0], matrices[:, 1]))
    outside = None
    if fill_mode == "constant":
        outside = _beyond(rows, h) | _beyond(columns, w)
    rows, columns = _inside(rows, h, fill_mode), _inside(columns, w, fill_mode)
    top, left = rows.astype(np.intp), columns.astype(np.intp)
    f, g = (rows - top).astype(x.dtype), (columns - left).astype(x.dtype)
    image = np.arange(n, dtype=np.intp)[:, None, None]
    at = ((image * h + top) * w + left) * c  # of a's first channel in x.ravel()

    # The other three pixels, and the other channels, are the same indices into x.ravel() from a later start on. On the
    # last row and column this runs over into other pixels, but these weigh f = 0 or g = 0.
    flat = x.ravel()

    def pixel(shift: int) -> np.ndarray:
        return flat[min(shift, flat.size - 1) :].take(at, mode="clip")

    for k in range(c):
        value = _between(pixel(k), pixel(k + c), g)
        below = _between(pixel(k + w * c), pixel(k + w * c + c), g)
        y[..., k] = _between(value, below, f)
        if outside is not None:
            y[..., k][outside] = cval


def _coordinates(m: np.ndarray, h: int, w: int) -> np.ndarray:
    """m (N, 3) times (i, j, 1) for all pixels: (N, H, W)."""
    along_rows = m[:, 0, None] * np.arange(h) + m[:, 2, None]
    return along_rows[:, :, None] + (m[:, 1, None] * np.arange(w))[:, None, :]


def _beyond(at: np.ndarray, size: int) -> np.ndarray:
    return (at < -ROUNDING) | (at > size - 1 + ROUNDING)


def _inside(at: np.ndarray, size: int, fill_mode: str) -> np.ndarray:
    """Coordinates between 0 and size - 1 that stand for `at`. Overwrites `at`."""
    if fill_mode == "reflect":  # to the mirrored image beside it and back: a period of two images
        at -= 2 * size * np.floor(at / (2 * size))
        np.minimum(at, 2 * size - 1 - at, out=at)
    elif fill_mode == "wrap" and size > 1:
        last = size - 1
        turns = np.where(at < 0, np.floor(-at / last) + 1, np.where(at > last, -np.floor(at / last), 0))
        at += last * turns
    return np.clip(at, 0, size - 1, out=at)


def _between(a: np.ndarray, b: np.ndarray, share: np.ndarray) -> np.ndarray:
    """a + share (b - a), which is a itself where share is 0. Overwrites both."""
    b -= a
    b *= share
    a += b
    return a


def affine_warp_naive(x: np.ndarray, matrices: np.ndarray, fill_mode: str = "nearest", cval: float = 0.0) -> np.ndarray:
    """`affine_warp`, pixel by pixel."""
    n, h, w, _ = x.shape
    y = np.zeros(x.shape, floats_of(x))
    for k in range(n):
        for i in range(h):
            for j in range(w):
                row, column = matrices[k] @ (i, j, 1)
                if fill_mode == "constant" and (_beyond(row, h) or _beyond(column, w)):
                    y[k, i, j] = cval
                    continue
                row, column = _inside_naive(row, h, fill_mode), _inside_naive(column, w, fill_mode)
                top, left = math.floor(row), math.floor(column)
                f, g = row - top, column - left
                for r, down in ((top, 1 - f), (min(top + 1, h - 1), f)):
                    for c, right in ((left, 1 - g), (min(left + 1, w - 1), g)):
                        y[k, i, j] += down * right * x[k, r, c]
    return y


def _inside_naive(at: float, size: int, fill_mode: str) -> float:
    if fill_mode == "wrap" and size > 1:
        while at < 0:
            at = at + size - 1 or size - 1
        while at > size - 1:
            at -= size - 1
    while fill_mode == "reflect" and not -0.5 <= at <= size - 0.5:
        at = -1 - at if at < 0 else 2 * size - 1 - at
    return min(max(at, 0), size - 1)
