"""im2col writes each window that a convolution looks at into one row; col2im is its adjoint.

    x (N, H, W, C)  --im2col-->  cols (N*OH*OW, KH*KW*C)      one row an output pixel, columns in order (kh, kw, c)
    x (N, H, W, C)  <--col2im--  cols                         each pixel receives the sum of all its copies

With the windows in rows, a convolution is one matrix product: y = cols @ w. See K. Chellapilla, S. Puri,
P. Simard, "High Performance Convolutional Neural Networks for Document Processing" (2006), section 3.
Reference implementation: `reference.im2col`, `reference.col2im`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from minicnn.backend import Array, scratch, xp_of
from minicnn.kernels import cuda
from minicnn.kernels.geometry import IntPair, Padding, Windows


@cuda.on_gpu(cuda.im2col)
def im2col(
    x: Array, kernel_size: IntPair, stride: IntPair = 1, padding: Padding = "valid", dilation: IntPair = 1
) -> Array:
    """The windows of x in rows.

    x: (N, H, W, C). Returns (N*OH*OW, KH*KW*C): row (n, oh, ow), column (kh, kw, c), of x's dtype; 0 in the padding.
    """
    windows = Windows.of(x.shape, kernel_size, stride, padding, dilation)
    view = windows.view(windows.pad(x))
    return xp_of(x).array(view, order="C").reshape(
        len(x) * windows.out[0] * windows.out[1], windows.kernel[0] * windows.kernel[1] * x.shape[3]
    )


@cuda.on_gpu(cuda.col2im)
def col2im(
    cols: Array,
    input_shape: tuple[int, ...],
    kernel_size: IntPair,
    stride: IntPair = 1,
    padding: Padding = "valid",
    dilation: IntPair = 1,
) -> Array:
    """Add each element of cols to the pixel that im2col copied it from.

    cols: (N*OH*OW, KH*KW*C). Returns (N, H, W, C) = input_shape, of cols' dtype. A pixel that several windows see
    receives several terms: `+=`, never `=`.
    """
    n, _, _, c = input_shape
    windows = Windows.of(input_shape, kernel_size, stride, padding, dilation)
    kh, kw = windows.kernel
    cols = cols.reshape(n, *windows.out, kh, kw, c)
    padded = xp_of(cols).zeros((n, *windows.padded, c), cols.dtype)
    for i in range(kh):
        for j in range(kw):
            padded[windows.tap(i, j)] += cols[:, :, :, i, j]
    return xp_of(cols).ascontiguousarray(padded[windows.inside])


# What one tile of cols may take, if the kernel takes less. Small enough to stay in the cache between im2col and the
# matrix product.
COLS_BYTES = 3 << 18

# Up to so many channels, a pixel's are too few numbers to be copied one pixel at a time.
FEW_CHANNELS = 4

Tile = tuple[slice, slice]  # which images, and which rows of their outputs


def tap_major(x: Array, windows: Windows) -> bool:
    """Whether `im2col_tiles` lays cols out by taps: in memory, each column is the whole image, shifted.

    So images of few channels are copied in runs of OW numbers, not of C.
    """
    return xp_of(x) is np and x.shape[3] <= FEW_CHANNELS and windows.stride[1] == 1 and not windows.pointwise


@cuda.on_gpu(cuda.im2col_tiles)
def im2col_tiles(
    x: Array, windows: Windows, kernel_bytes: int = 0, ones: bool = False
) -> Iterator[tuple[Tile, Array]]:
    """im2col in pieces: yields (tile, cols), where cols holds the windows of y[tile] in rows.

    A tile is a few whole images, or a band of rows of a large one. `cols` is scratch memory that the next tile
    overwrites: COLS_BYTES, or as much as the kernel that it meets, however many images there are. A product of a few
    rows with a large matrix would take about as long as one of many.
    ones: with one more column, of ones, for the bias; only where `tap_major` holds.
    """
    xp, n, c = xp_of(x), len(x), x.shape[3]
    (kh, kw), (oh, ow) = windows.kernel, windows.out
    if windows.pointwise:
        yield (slice(0, n), slice(0, oh)), xp.ascontiguousarray(x).reshape(n * oh * ow, c)
        return
    taps = kh * kw * c
    rows = max(1, max(COLS_BYTES, kernel_bytes) // (taps * x.itemsize)) if xp is np else max(1, n * oh * ow)
    step = max(1, min(n, rows // (oh * ow)))  # images in a tile
    band = oh if step > 1 else max(1, min(oh, rows // ow))
    few, pads = tap_major(x, windows), windows.padded != windows.image
    if few:
        cols = scratch(xp, "cols", (taps + ones, step * band * ow), x.dtype).T
        cols[:, taps:] = 1
    else:
        cols = scratch(xp, "cols", (step * band * ow, taps), x.dtype)
    if pads or few:  # one padded tile, whose border stays 0 while its inside is exchanged
        ph, pw = windows.padded
        padded = scratch(xp, "padded", (c, step, ph, pw) if few else (step, ph, pw, c), x.dtype)
        padded.fill(0)
        padded = padded.transpose(1, 2, 3, 0) if few else padded
        inside = padded[windows.inside]
    view = windows.view(padded if pads or few else x)
    for first in range(0, n, step):
        images = slice(first, min(first + step, n))
        count = images.stop - first
        if pads or few:
            inside[:count] = x[images]
        for top in range(0, oh, band):
            seen = view[:count, top : top + band] if pads or few else view[images, top : top + band]
            part = cols[: count * seen.shape[1] * ow]
            xp.copyto(part[:, :taps].reshape(seen.shape), seen)
            yield (images, slice(top, top + band)), part
