"""im2col, col2im and max pooling on the GPU: windows.cu. The formulas are in `kernels/im2col.py` and `pool.py`."""

from __future__ import annotations

from typing import Any

import numpy as np

from minicnn.backend import Array, xp_of
from minicnn.kernels.cuda.launch import kernel_for, packs


def im2col(x: Array, windows: Any) -> Array:
    """cols (N*OH*OW, KH*KW*C) from x (N, H, W, C); windows: a minicnn.kernels.im2col.Windows."""
    xp, n, c = xp_of(x), len(x), x.shape[3]
    x = xp.ascontiguousarray(x)
    rows = n * windows.out[0] * windows.out[1]
    cols = xp.empty((rows, windows.kernel[0] * windows.kernel[1] * c), x.dtype)
    pack = packs(x)
    channels = c // 4 if pack else c
    kernel = kernel_for(xp, "windows", "im2col", x.dtype, max(x.size, cols.size), pack)
    kernel.for_each(rows * channels, cols, x, after=_geometry(windows, channels))
    return cols


def col2im(cols: Array, shape: tuple[int, ...], windows: Any) -> Array:
    """dx of `shape` (N, H, W, C) from cols (N*OH*OW, KH*KW*C): each pixel gathers the sum of its copies."""
    xp, c = xp_of(cols), shape[3]
    cols = xp.ascontiguousarray(cols)
    dx = xp.empty(shape, cols.dtype)
    pack = packs(dx) and packs(cols)
    channels = c // 4 if pack else c
    kernel = kernel_for(xp, "windows", "col2im", cols.dtype, max(dx.size, cols.size), pack)
    kernel.for_each(dx.size // c * channels, dx, cols, after=_geometry(windows, channels))
    return dx


def maxpool2d_forward(x: Array, windows: Any, winners: bool) -> tuple[Array, Array | None]:
    """(y, winner) (N, OH, OW, C) from x (N, H, W, C); winner is None unless `winners`."""
    xp = xp_of(x)
    x = xp.ascontiguousarray(x)
    y = xp.empty((len(x), *windows.out, x.shape[3]), x.dtype)
    dtype = np.min_scalar_type(windows.kernel[0] * windows.kernel[1])
    winner = xp.empty(y.shape, dtype) if winners else None
    kernel = kernel_for(xp, "windows", "maxpool_forward", x.dtype, max(x.size, y.size), winner=dtype)
    kernel.for_each(y.size, y, winner, x, float("inf"), after=_geometry(windows, x.shape[3]))
    return y, winner


def maxpool2d_backward(dy: Array, winner: Array, shape: tuple[int, ...], windows: Any) -> Array:
    """dx of `shape` (N, H, W, C) from dy and winner (N, OH, OW, C)."""
    xp = xp_of(dy)
    dy, winner, dx = xp.ascontiguousarray(dy), xp.ascontiguousarray(winner), xp.empty(shape, dy.dtype)
    kernel = kernel_for(xp, "windows", "maxpool_backward", dy.dtype, max(dx.size, dy.size), winner=winner.dtype)
    kernel.for_each(dx.size, dx, dy, winner, after=_geometry(windows, shape[3]))
    return dx


def _geometry(windows: Any, channels: int) -> tuple[int, ...]:
    """GEOMETRY of windows.cu."""
    (top, _), (left, _) = windows.pads
    return (*windows.image, channels, *windows.out, *windows.kernel, *windows.stride, *windows.dilation, top, left)
