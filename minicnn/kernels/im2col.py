"""im2col writes each window that a convolution looks at into one row; col2im is its adjoint.

    x (N, H, W, C)  --im2col-->  cols (N*OH*OW, KH*KW*C)      one row an output pixel, columns in order (kh, kw, c)
    x (N, H, W, C)  <--col2im--  cols                         each pixel receives the sum of all its copies

With the windows in rows, a convolution is one matrix product: y = cols @ w. See K. Chellapilla, S. Puri,
P. Simard, "High Performance Convolutional Neural Networks for Document Processing" (2006), section 3.
Naive twins: `reference.im2col`, `reference.col2im`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from minicnn.backend import Array, scratch, xp_of
from minicnn.kernels import cuda
from minicnn.kernels.geometry import IntPair, Padding, Pads, output_size, pair, resolve_padding


@dataclass(frozen=True)
class Windows:
    """The windows of one convolution or pooling: everything about it but the numbers."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    pads: Pads
    image: tuple[int, int]  # (H, W)
    out: tuple[int, int]  # (OH, OW)

    @classmethod
    def of(
        cls, shape: tuple[int, ...], kernel: IntPair, stride: IntPair, padding: Padding, dilation: IntPair = 1
    ) -> Windows:
        """The windows of `kernel` over images of `shape` (N, H, W, C)."""
        image = (shape[1], shape[2])
        pads = resolve_padding(image, kernel, stride, dilation, padding)
        out = output_size(image, kernel, stride, dilation, pads)
        return cls(pair(kernel), pair(stride), pair(dilation), pads, image, out)

    @property
    def padded(self) -> tuple[int, int]:
        """(H, W) of the image with its padding."""
        (h, w), ((top, bottom), (left, right)) = self.image, self.pads
        return h + top + bottom, w + left + right

    @property
    def inside(self) -> tuple[slice, slice, slice]:
        """Where in the padded images (N, H, W, C) the images themselves lie."""
        (h, w), ((top, _), (left, _)) = self.image, self.pads
        return slice(None), slice(top, top + h), slice(left, left + w)

    def tap(self, i: int, j: int) -> tuple[slice, slice, slice]:
        """Where in the padded images (N, H, W, C) the element (i, j) of every window lies."""
        (sh, sw), (dh, dw), (oh, ow) = self.stride, self.dilation, self.out
        i, j = i * dh, j * dw
        return slice(None), slice(i, i + (oh - 1) * sh + 1, sh), slice(j, j + (ow - 1) * sw + 1, sw)

    def reverse(self) -> Windows | None:
        """The windows of the way back, over dy: dx is the convolution of dy with the kernel turned by 180 degrees.

        None where it is not: with a stride, or with a border wider than the kernel reaches.
        """
        (kh, kw), (dh, dw), ((top, bottom), (left, right)) = self.kernel, self.dilation, self.pads
        span_h, span_w = (kh - 1) * dh, (kw - 1) * dw
        if self.stride != (1, 1) or max(top, bottom) > span_h or max(left, right) > span_w:
            return None
        pads = ((span_h - top, span_h - bottom), (span_w - left, span_w - right))
        return Windows(self.kernel, self.stride, self.dilation, pads, self.out, self.image)

    def pad(self, x: Array, fill: float = 0.0) -> Array:
        """x with its padding in scratch memory; x itself where there is none."""
        if self.padded == self.image:
            return x
        xp = xp_of(x)
        n, _, _, c = x.shape
        padded = scratch(xp, "padded", (n, *self.padded, c), x.dtype)
        padded.fill(fill)
        padded[self.inside] = x
        return padded

    def view(self, padded: Array) -> Array:
        """(N, OH, OW, KH, KW, C): all windows as a view, nothing copied; overlapping ones share memory."""
        n, _, _, c = padded.shape
        bn, bh, bw, bc = padded.strides
        (sh, sw), (dh, dw) = self.stride, self.dilation
        return xp_of(padded).lib.stride_tricks.as_strided(
            padded, (n, *self.out, *self.kernel, c), (bn, bh * sh, bw * sw, bh * dh, bw * dw, bc)
        )


def im2col(
    x: Array, kernel_size: IntPair, stride: IntPair = 1, padding: Padding = "valid", dilation: IntPair = 1
) -> Array:
    """The windows of x in rows.

    x: (N, H, W, C). Returns (N*OH*OW, KH*KW*C): row (n, oh, ow), column (kh, kw, c), of x's dtype; 0 in the padding.
    """
    windows = Windows.of(x.shape, kernel_size, stride, padding, dilation)
    if cuda.serves(x):
        return cuda.im2col(x, windows)
    view = windows.view(windows.pad(x))
    return xp_of(x).array(view, order="C").reshape(
        len(x) * windows.out[0] * windows.out[1], windows.kernel[0] * windows.kernel[1] * x.shape[3]
    )


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
    if cuda.serves(cols):
        return cuda.col2im(cols, input_shape, windows)
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
# On a GPU there is no such cache. The fewer launches, the better; but its memory is not endless.
GPU_COLS_BYTES = 1 << 28

Tile = tuple[slice, slice]  # which images, and which rows of their outputs


def im2col_tiles(x: Array, windows: Windows, kernel_bytes: int = 0) -> Iterator[tuple[Tile, Array]]:
    """im2col in pieces: yields (tile, cols), where cols holds the windows of y[tile] in rows.

    A tile is a few whole images, or a band of rows of a large one. `cols` is scratch memory that the next tile
    overwrites: COLS_BYTES, or as much as the kernel that it meets, however many images there are. A product of a few
    rows with a large matrix would take about as long as one of many.
    """
    xp, n, c = xp_of(x), len(x), x.shape[3]
    (kh, kw), (oh, ow) = windows.kernel, windows.out
    if (kh, kw) == windows.stride == (1, 1) and windows.padded == windows.image:
        yield (slice(0, n), slice(0, oh)), xp.ascontiguousarray(x).reshape(n * oh * ow, c)
        return
    if cuda.serves(x):
        step = max(1, GPU_COLS_BYTES // (oh * ow * kh * kw * c * x.itemsize))
        for images in (slice(first, min(first + step, n)) for first in range(0, n, step)):
            yield (images, slice(0, oh)), cuda.im2col(x[images], windows)
        return
    rows = max(1, max(COLS_BYTES, kernel_bytes) // (kh * kw * c * x.itemsize)) if xp is np else max(1, n * oh * ow)
    step = max(1, min(n, rows // (oh * ow)))  # images in a tile
    band = oh if step > 1 else max(1, min(oh, rows // ow))
    cols = scratch(xp, "cols", (step, band, ow, kh, kw, c), x.dtype)
    pads = windows.padded != windows.image
    if pads:  # one padded tile, whose border stays 0 while its inside is exchanged
        padded = scratch(xp, "padded", (step, *windows.padded, c), x.dtype)
        padded.fill(0)
        inside = padded[windows.inside]
    view = windows.view(padded if pads else x)
    for first in range(0, n, step):
        images = slice(first, min(first + step, n))
        count = images.stop - first
        if pads:
            inside[:count] = x[images]
        for top in range(0, oh, band):
            window_rows = view[:count, top : top + band] if pads else view[images, top : top + band]
            tile_cols = cols[:count, : window_rows.shape[1]]
            xp.copyto(tile_cols, window_rows)
            yield (images, slice(top, top + band)), tile_cols.reshape(-1, kh * kw * c)
