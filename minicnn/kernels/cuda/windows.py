"""im2col, col2im and max pooling on the GPU: windows.cu. The formulas are in `kernels/im2col.py` and `pool.py`."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from minicnn.backend import Array, xp_of
from minicnn.kernels.cuda.launch import kernel_for, width_of
from minicnn.kernels.geometry import IntPair, Padding, Windows

# What one tile of cols may take. There is no cache to fit into: the fewer launches, the better; but a GPU's memory is
# not endless.
COLS_BYTES = 1 << 28


def im2col(
    x: Array, kernel_size: IntPair, stride: IntPair = 1, padding: Padding = "valid", dilation: IntPair = 1
) -> Array:
    """cols (N*OH*OW, KH*KW*C) from x (N, H, W, C)."""
    return _rows(x, Windows.of(x.shape, kernel_size, stride, padding, dilation))


def im2col_tiles(
    x: Array, windows: Windows, kernel_bytes: int = 0, ones: bool = False
) -> Iterator[tuple[tuple[slice, slice], Array]]:
    """im2col in pieces of whole images; see `minicnn.kernels.im2col.im2col_tiles`."""
    (oh, ow), (kh, kw), (n, _, _, c) = windows.out, windows.kernel, x.shape
    if windows.pointwise:
        yield (slice(0, n), slice(0, oh)), xp_of(x).ascontiguousarray(x).reshape(n * oh * ow, c)
        return
    step = max(1, COLS_BYTES // max(1, oh * ow * kh * kw * c * x.itemsize))
    for first in range(0, n, step):
        images = slice(first, min(first + step, n))
        yield (images, slice(0, oh)), _rows(x if step >= n else x[images], windows)


def _rows(x: Array, windows: Windows) -> Array:
    xp, n, c = xp_of(x), len(x), x.shape[3]
    x = xp.ascontiguousarray(x)
    rows = n * windows.out[0] * windows.out[1]
    cols = xp.empty((rows, windows.kernel[0] * windows.kernel[1] * c), x.dtype)
    width = width_of(c, x)
    kernel = kernel_for(xp, "windows", "im2col", x.dtype, max(x.size, cols.size), width > 1)
    kernel.for_each(rows * c // width, cols, x, after=window_arguments(windows, c // width))
    return cols


def col2im(
    cols: Array,
    input_shape: tuple[int, ...],
    kernel_size: IntPair,
    stride: IntPair = 1,
    padding: Padding = "valid",
    dilation: IntPair = 1,
) -> Array:
    """dx (N, H, W, C) = input_shape from cols (N*OH*OW, KH*KW*C): each pixel gathers the sum of its copies."""
    xp, c = xp_of(cols), input_shape[3]
    windows = Windows.of(input_shape, kernel_size, stride, padding, dilation)
    cols = xp.ascontiguousarray(cols)
    dx = xp.empty(input_shape, cols.dtype)
    width = width_of(c, cols)
    kernel = kernel_for(xp, "windows", "col2im", cols.dtype, max(dx.size, cols.size), width > 1)
    kernel.for_each(dx.size // width, dx, cols, after=window_arguments(windows, c // width))
    return dx


def maxpool2d_forward(
    x: Array, pool_size: IntPair, stride: IntPair | None = None, padding: Padding = "valid", winners: bool = True
) -> tuple[Array, Array | None]:
    """(y, winner) (N, OH, OW, C) from x (N, H, W, C); winner is None unless `winners`."""
    xp, windows = xp_of(x), Windows.of(x.shape, pool_size, stride, padding)
    x = xp.ascontiguousarray(x)
    y = xp.empty((len(x), *windows.out, x.shape[3]), x.dtype)
    dtype = np.min_scalar_type(windows.kernel[0] * windows.kernel[1])
    winner = xp.empty(y.shape, dtype) if winners else None
    c, width = x.shape[3], width_of(x.shape[3], x)
    kernel = kernel_for(xp, "windows", "maxpool_forward", x.dtype, max(x.size, y.size), width > 1, dtype)
    kernel.for_each(y.size // width, y, winner, x, after=(*window_arguments(windows, c // width), float("inf")))
    return y, winner


def maxpool2d_backward(
    dy: Array,
    winner: Array,
    input_shape: tuple[int, ...],
    pool_size: IntPair,
    stride: IntPair | None = None,
    padding: Padding = "valid",
) -> Array:
    """dx (N, H, W, C) = input_shape from dy and winner (N, OH, OW, C)."""
    xp, windows = xp_of(dy), Windows.of(input_shape, pool_size, stride, padding)
    dy, winner = xp.ascontiguousarray(dy), xp.ascontiguousarray(winner)
    axes = tuple(zip(windows.kernel, windows.stride, windows.out, windows.image, windows.pads, strict=True))
    apart = all(k <= s for k, s, *_ in axes)
    covered = all(k == s and n * k - lo >= size for k, s, n, size, (lo, _) in axes)
    dx = (xp.empty if covered or not apart else xp.zeros)(input_shape, dy.dtype)
    name = "maxpool_backward_apart" if apart else "maxpool_backward"
    c, width = input_shape[3], width_of(input_shape[3], dy, winner)
    kernel = kernel_for(xp, "windows", name, dy.dtype, max(dx.size, dy.size), width > 1, winner.dtype)
    count = (dy if apart else dx).size // width
    kernel.for_each(count, dx, dy, winner, after=window_arguments(windows, c // width))
    return dx


def global_avgpool2d_forward(x: Array) -> Array:
    """The mean of each channel: (N, C) from x (N, H, W, C); summed in float64."""
    return x.mean(axis=(1, 2), dtype=np.float64).astype(x.dtype)


def window_arguments(windows: Windows, channels: int) -> tuple[int, ...]:
    """GEOMETRY of windows.cu."""
    (top, _), (left, _) = windows.pads
    return (*windows.image, channels, *windows.out, *windows.kernel, *windows.stride, *windows.dilation, top, left)
