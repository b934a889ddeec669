"""Pooling: each window of each channel becomes one number, its maximum or its mean.

    max:   y = the largest of the window's elements     dx: dy goes to the winner, the first one where several are equal
    mean:  y = sum of the window / count                dx: every element receives dy / count

x (N, H, W, C), y and dy (N, OH, OW, C). Padding never wins (-inf) and never counts. Windows may overlap: then a pixel
receives the sum of what its windows send. Pixels that no window reaches receive 0.
Reference implementations: `reference.maxpool2d_forward` and so on.
"""

from __future__ import annotations

import numpy as np

from minicnn.backend import Array, tiles, xp_of
from minicnn.kernels import cuda
from minicnn.kernels.geometry import IntPair, Padding, Windows
from minicnn.kernels.sums import column_sums

# A window of more numbers than this is summed in float64: in float32 every addition rounds.
MAX_TERMS = 256


@cuda.on_gpu(cuda.maxpool2d_forward)
def maxpool2d_forward(
    x: Array,
    pool_size: IntPair,
    stride: IntPair | None = None,
    padding: Padding = "valid",
    winners: bool = True,
) -> tuple[Array, Array | None]:
    """(y, winner): the maxima (N, OH, OW, C) and where in its window each was found, as kh*KW + kw.

    `stride` None means pool_size. winner is of the smallest unsigned type that holds it, None unless `winners`.
    """
    xp, windows = xp_of(x), Windows.of(x.shape, pool_size, stride, padding)
    taps = windows.taps
    y = xp.empty((len(x), *windows.out, x.shape[3]), x.dtype)
    winner = xp.zeros(y.shape, np.min_scalar_type(len(taps))) if winners else None
    for images in tiles(x):
        padded, best = windows.pad(x[images], fill=-np.inf), y[images]
        best[...] = padded[taps[0]]
        for k, tap in enumerate(taps[1:], start=1):
            if winner is not None:
                # `>` lets the first of equal maxima win. A product and a maximum instead of a masked assignment:
                # processors do these without a branch, which they would guess wrong half of the time.
                larger = (padded[tap] > best).view(np.uint8).astype(winner.dtype, copy=False)
                xp.maximum(winner[images], larger * winner.dtype.type(k), out=winner[images])
            xp.maximum(best, padded[tap], out=best)
    return y, winner


@cuda.on_gpu(cuda.maxpool2d_backward)
def maxpool2d_backward(
    dy: Array,
    winner: Array,
    input_shape: tuple[int, ...],
    pool_size: IntPair,
    stride: IntPair | None = None,
    padding: Padding = "valid",
) -> Array:
    """dx (N, H, W, C) = input_shape from dy (N, OH, OW, C) and the winners of the forward pass."""
    xp, windows = xp_of(dy), Windows.of(input_shape, pool_size, stride, padding)
    padded = _gradient_canvas(dy, windows, input_shape)
    for images in tiles(dy):
        for k, tap in enumerate(windows.taps):
            share = (winner[images] == k).astype(dy.dtype)
            share *= dy[images]
            if windows.overlap:
                padded[images][tap] += share
            else:
                padded[images][tap] = share
    return xp.ascontiguousarray(padded[windows.inside])


def avgpool2d_forward(
    x: Array, pool_size: IntPair, stride: IntPair | None = None, padding: Padding = "valid"
) -> Array:
    """The means (N, OH, OW, C) of the windows of x (N, H, W, C). `stride` None means pool_size."""
    xp, windows = xp_of(x), Windows.of(x.shape, pool_size, stride, padding)
    taps = windows.taps
    y = xp.zeros((len(x), *windows.out, x.shape[3]), x.dtype if len(taps) <= MAX_TERMS else np.float64)
    for images in tiles(x):
        padded = windows.pad(x[images])
        for tap in taps:
            y[images] += padded[tap]
    y /= _counts(xp, windows, y.dtype)
    return y.astype(x.dtype, copy=False)


def avgpool2d_backward(
    dy: Array,
    input_shape: tuple[int, ...],
    pool_size: IntPair,
    stride: IntPair | None = None,
    padding: Padding = "valid",
) -> Array:
    """dx (N, H, W, C) = input_shape from dy (N, OH, OW, C): the adjoint of the forward pass."""
    xp, windows = xp_of(dy), Windows.of(input_shape, pool_size, stride, padding)
    padded = xp.zeros((len(dy), *windows.padded, input_shape[3]), dy.dtype)
    share = dy / _counts(xp, windows, dy.dtype)
    for tap in windows.taps:
        padded[tap] += share
    return xp.ascontiguousarray(padded[windows.inside])


@cuda.on_gpu(cuda.global_avgpool2d_forward)
def global_avgpool2d_forward(x: Array) -> Array:
    """The mean of each channel: (N, C) from x (N, H, W, C). The sums of the columns are added up in float64."""
    xp, (n, h, w, c) = xp_of(x), x.shape
    columns = column_sums(xp.ascontiguousarray(x).reshape(n, h, w * c))
    return (columns.reshape(n, w, c).sum(axis=1, dtype=np.float64) / (h * w)).astype(x.dtype)


def global_avgpool2d_backward(dy: Array, input_shape: tuple[int, ...]) -> Array:
    """dx (N, H, W, C) = input_shape: each pixel receives dy (N, C) / (H*W)."""
    xp = xp_of(dy)
    _, h, w, _ = input_shape
    return xp.ascontiguousarray(xp.broadcast_to((dy / (h * w))[:, None, None, :], input_shape))


def global_maxpool2d_forward(x: Array) -> Array:
    """The largest number of each channel: (N, C) from x (N, H, W, C)."""
    n, h, w, c = x.shape
    return x.reshape(n, h * w, c).max(axis=1)


def global_maxpool2d_backward(dy: Array, x: Array, y: Array) -> Array:
    """dx, of x's shape: dy (N, C) for the pixel that was y; several equal ones share it, as in Keras."""
    largest = x == y[:, None, None, :]
    count = largest.sum(axis=(1, 2)).clip(1, None)  # NaN equals nothing
    return largest * (dy / count.astype(dy.dtype))[:, None, None, :]


def _gradient_canvas(dy: Array, windows: Windows, input_shape: tuple[int, ...]) -> Array:
    """Where the gradients of the padded images are gathered: zeros, unless every pixel is written exactly once."""
    xp = xp_of(dy)
    shape = (len(dy), *windows.padded, input_shape[3])
    return xp.empty(shape, dy.dtype) if windows.partition else xp.zeros(shape, dy.dtype)


def _counts(xp, windows: Windows, dtype) -> Array:
    """(OH, OW, 1): how many pixels of the image, padding left out, each window holds."""
    ones = xp.ones((1, *windows.image, 1), dtype)
    padded = windows.pad(ones)
    return sum(padded[tap] for tap in windows.taps)[0]
