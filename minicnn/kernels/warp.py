"""Turning, shifting, shearing and zooming images: one matrix an image says where each pixel comes from.

An output pixel is looked up in the input, never the other way round, so that no pixel is left out:

    (row, column) of the source = matrix @ (i, j, 1)          for every output pixel (i, j)

The source lies between four pixels. With its distances from the upper left one, f down and g to the right, the value is
the bilinear mean (1-f)(1-g) a + (1-f) g b + f (1-g) c + f g d. What lies outside the image is made up by `fill_mode`.
In the backward pass each of the four pixels receives dy times its share.

`affine_warp` is for images that are being loaded; `warp2d_forward` and `warp2d_backward` are for layers: also on a GPU.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minicnn.backend import Array, xp_of

FILL_MODES = ("nearest", "constant", "reflect", "wrap")
TILE_PIXELS = 1 << 15  # coordinates and results of so many pixels stay in the processor's cache
ROUNDING = 1e-6  # of a pixel: what is outside by less than that is on the edge


def affine_matrices(
    size: tuple[int, int], theta: Any = 0, tx: Any = 0, ty: Any = 0, shear: Any = 0, zx: Any = 1, zy: Any = 1,
    flip_horizontal: Any = False, flip_vertical: Any = False,
) -> Array:  # fmt: skip
    """The matrices (N, 2, 3) float64 for images of `size` (height, width); every other argument is a number or (N,).

    theta, shear: degrees. tx, ty: pixels to the left and up. zx, zy: how much of the width and height is seen: 0.5
    makes things twice as large. The flips come last. The same numbers do the same to a square image in Keras; to
    others, too, but around their middle.
    """
    parameters = (theta, tx, ty, shear, zx, zy, flip_horizontal, flip_vertical)
    xp = next((xp_of(p) for p in parameters if xp_of(p) is not np), np)
    # `full` and not `asarray`: a number that is copied to the device could not be captured in a graph.
    given = [xp.full(1, p) if np.isscalar(p) else xp.asarray(p).reshape(-1) for p in parameters]
    n = max(p.size for p in given)
    theta, tx, ty, shear, zx, zy, mirror, upend = (xp.broadcast_to(p, (n,)) for p in given)
    angle, slant = xp.deg2rad(theta), xp.deg2rad(shear)
    cos, sin = xp.cos(angle), xp.sin(angle)
    # Around the middle, in coordinates x to the right, y down: rotation @ shift @ shear @ zoom @ flips.
    flip_x, flip_y = xp.where(mirror, -1.0, 1.0), xp.where(upend, -1.0, 1.0)
    xx, xy = cos * zx * flip_x, (-cos * xp.sin(slant) - sin * xp.cos(slant)) * zy * flip_y
    yx, yy = sin * zx * flip_x, (-sin * xp.sin(slant) + cos * xp.cos(slant)) * zy * flip_y
    x0, y0 = cos * tx - sin * ty, sin * tx + cos * ty
    i, j = (size[0] - 1) / 2, (size[1] - 1) / 2  # the middle
    rows = xp.stack([yy, yx, y0 + i - yy * i - yx * j], axis=-1)
    columns = xp.stack([xy, xx, x0 + j - xy * i - xx * j], axis=-1)
    return xp.stack([rows, columns], axis=1)


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


def _coordinates(m: Array, h: int, w: int) -> Array:
    """m (N, 3) times (i, j, 1) for all pixels: (N, H, W)."""
    xp = xp_of(m)
    along_rows = m[:, 0, None] * xp.arange(h) + m[:, 2, None]
    return along_rows[:, :, None] + (m[:, 1, None] * xp.arange(w))[:, None, :]


def _beyond(at: np.ndarray, size: int) -> np.ndarray:
    return (at < -ROUNDING) | (at > size - 1 + ROUNDING)


def _inside(at: Array, size: int, fill_mode: str) -> Array:
    """Coordinates between 0 and size - 1 that stand for `at`. Overwrites `at`."""
    xp = xp_of(at)
    if fill_mode == "reflect":  # to the mirrored image beside it and back: a period of two images
        at -= 2 * size * xp.floor(at / (2 * size))
        xp.minimum(at, 2 * size - 1 - at, out=at)
    elif fill_mode == "wrap" and size > 1:
        last = size - 1
        turns = xp.where(at < 0, xp.floor(-at / last) + 1, xp.where(at > last, -xp.floor(at / last), 0))
        at += last * turns
    return at.clip(0, size - 1, out=at)


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
                row, column = inside_naive(row, h, fill_mode), inside_naive(column, w, fill_mode)
                top, left = math.floor(row), math.floor(column)
                f, g = row - top, column - left
                for r, down in ((top, 1 - f), (min(top + 1, h - 1), f)):
                    for c, right in ((left, 1 - g), (min(left + 1, w - 1), g)):
                        y[k, i, j] += down * right * x[k, r, c]
    return y


def inside_naive(at: float, size: int, fill_mode: str) -> float:
    """The coordinate between 0 and size - 1 that stands for `at`."""
    if fill_mode == "wrap" and size > 1:
        while at < 0:
            at = at + size - 1 or size - 1
        while at > size - 1:
            at -= size - 1
    while fill_mode == "reflect" and not -0.5 <= at <= size - 0.5:
        at = -1 - at if at < 0 else 2 * size - 1 - at
    return min(max(at, 0), size - 1)


# ---- in layers -------------------------------------------------------------------------------------------------------


def warp2d_forward(
    x: Array, matrices: Array, fill_mode: str = "reflect", fill_value: float = 0.0, interpolation: str = "bilinear"
) -> Array:
    """y, of the shape and dtype of x (N, H, W, C): each image looked up through its matrix (2, 3).

    fill_mode: "nearest" and "reflect" as for `affine_warp`. "wrap": a b c d|a b c d|a b c d; what lies between d and a
    is the one that was passed last. "constant": the image lies in an endless plane of fill_value, and a place between
    its border and the plane gets of both. interpolation: "bilinear", or "nearest", the pixel that is nearest.
    Reference implementation: `reference.warp2d_forward`.
    """
    xp, (n, h, w, c) = xp_of(x), x.shape
    seen = xp.full((n, h + 2, w + 2, c), fill_value, x.dtype)
    seen[:, 1:-1, 1:-1] = x
    image, y = xp.arange(n)[:, None, None], xp.zeros(x.shape, x.dtype)
    for rows, columns, shares in taps_of(xp.asarray(matrices), (h, w), fill_mode, interpolation):
        y += seen[image, rows + 1, columns + 1] * shares[..., None].astype(x.dtype)
    return y


def warp2d_backward(
    dy: Array, matrices: Array, fill_mode: str = "reflect", interpolation: str = "bilinear"
) -> Array:
    """dx, of the shape and dtype of dy (N, H, W, C): each pixel that was looked up receives dy times its share."""
    xp, (n, h, w, c) = xp_of(dy), dy.shape
    image, dx = xp.arange(n)[:, None, None], xp.zeros((n, h + 2, w + 2, c), dy.dtype)
    for rows, columns, shares in taps_of(xp.asarray(matrices), (h, w), fill_mode, interpolation):
        xp.add.at(dx, (image, rows + 1, columns + 1), dy * shares[..., None].astype(dy.dtype))
    return xp.ascontiguousarray(dx[:, 1:-1, 1:-1])


def taps_of(
    matrices: Array, size: tuple[int, int], fill_mode: str, interpolation: str
) -> list[tuple[Array, Array, Array]]:
    """The pixels of which each pixel of y is made: [(rows, columns, shares), …], (N, H, W) each; one, or four of them.

    With fill_mode="constant", rows and columns can be one pixel outside of the image, where fill_value is.
    """
    xp, (h, w) = xp_of(matrices), size
    places: list[list[tuple[Array, Array]]] = []
    for k, length in enumerate(size):
        at = _coordinates(matrices[:, k], h, w)
        if fill_mode == "constant":
            at = at.clip(-1, length)
        elif fill_mode == "wrap":
            turns = xp.where(at < 0, -xp.floor(at / length), -xp.ceil((at - (length - 1)) / length).clip(0, None))
            at = (at + turns * length).clip(0, length - 1)
        else:
            at = _inside(at, length, fill_mode)
        if interpolation == "nearest":
            at = xp.trunc(at + xp.copysign(0.5, at))
        least = xp.floor(at).astype(int)
        share = at - least
        last = length if fill_mode == "constant" else length - 1  # beyond it the share is 0
        places.append([(least, 1 - share), (xp.minimum(least + 1, last), share)])
    if interpolation == "nearest":
        places = [place[:1] for place in places]
    return [(i, j, f * g) for i, f in places[0] for j, g in places[1]]
