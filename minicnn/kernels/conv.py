"""Convolution in two dimensions (in the sense of neural networks: the kernel is not flipped).

    y[n, oh, ow, o] = b[o] + sum over kh, kw, c of  xpad[n, oh*s + kh*d, ow*s + kw*d, c] * w[kh, kw, c, o]

With im2col (cols: one row for each output pixel) and the kernel as a matrix this is one matrix product, and the rules
of the backward pass are those of any matrix product:

    y = cols @ w + b      dw = cols.T @ dy      db = sum of the rows of dy      dx = col2im(dy @ w.T)

x (N, H, W, C_in), w (KH, KW, C_in, C_out), b (C_out,), y and dy (N, OH, OW, C_out).
Naive twins: `reference.conv2d_forward`, `reference.conv2d_backward`.
"""

from __future__ import annotations

from minicnn.backend import Array, scratch, xp_of
from minicnn.kernels.geometry import IntPair, Padding
from minicnn.kernels.im2col import Windows, im2col_tiles


def conv2d_forward(
    x: Array,
    w: Array,
    b: Array | None = None,
    stride: IntPair = 1,
    padding: Padding = "valid",
    dilation: IntPair = 1,
) -> Array:
    """y (N, OH, OW, C_out) from x (N, H, W, C_in), w (KH, KW, C_in, C_out) and b (C_out,) or None."""
    windows = Windows.of(x.shape, w.shape[:2], stride, padding, dilation)
    c_out = w.shape[3]
    matrix = w.reshape(-1, c_out)
    y = xp_of(x).empty((len(x), *windows.out, c_out), x.dtype)
    for tile, cols in im2col_tiles(x, windows):
        rows = y[tile].reshape(-1, c_out)  # a view: a tile of y is contiguous
        xp_of(x).matmul(cols, matrix, out=rows)
        if b is not None:
            rows += b
    return y


def conv2d_backward(
    dy: Array,
    x: Array,
    w: Array,
    stride: IntPair = 1,
    padding: Padding = "valid",
    dilation: IntPair = 1,
    need_dx: bool = True,
) -> tuple[Array | None, Array, Array]:
    """(dx, dw, db) from dy (N, OH, OW, C_out): the shapes of x, w and b. dx is None unless `need_dx`.

    The windows are computed again from x: that is cheaper than keeping them since the forward pass.
    """
    xp = xp_of(x)
    windows = Windows.of(x.shape, w.shape[:2], stride, padding, dilation)
    dy = xp.ascontiguousarray(dy)
    c_out = w.shape[3]
    dw = xp.zeros((w.size // c_out, c_out), w.dtype)
    db = xp.zeros(c_out, w.dtype)
    ones = xp.ones(0, w.dtype)
    for tile, cols in im2col_tiles(x, windows):
        rows = dy[tile].reshape(-1, c_out)
        dw += xp.matmul(cols.T, rows, out=scratch(xp, "dw", dw.shape, dw.dtype))
        if len(ones) != len(rows):
            ones = xp.ones(len(rows), rows.dtype)
        db += ones @ rows  # the column sums, faster than rows.sum(axis=0)
    dx = _input_gradient(dy, w, windows) if need_dx else None
    return dx, dw.reshape(w.shape), db


def _input_gradient(dy: Array, w: Array, windows: Windows) -> Array:
    """dx (N, H, W, C_in): every output pixel gives dy * w back to the window that it saw.

    With stride 1 a pixel x[i] is seen by the outputs y[i + top - kh*d], so dx is itself a convolution: of dy, with
    the kernel turned by 180 degrees and C_in and C_out exchanged. With other strides: col2im, tap by tap.
    """
    xp = xp_of(dy)
    (kh, kw), (dh, dw) = windows.kernel, windows.dilation
    (top, bottom), (left, right) = windows.pads
    span_h, span_w = (kh - 1) * dh, (kw - 1) * dw
    if windows.stride == (1, 1) and max(top, bottom) <= span_h and max(left, right) <= span_w:
        turned = xp.ascontiguousarray(w[::-1, ::-1].transpose(0, 1, 3, 2))
        pads = ((span_h - top, span_h - bottom), (span_w - left, span_w - right))
        return conv2d_forward(dy, turned, None, 1, pads, (dh, dw))
    padded = xp.zeros((len(dy), *windows.padded, w.shape[2]), dy.dtype)
    for i in range(kh):
        for j in range(kw):
            padded[windows.tap(i, j)] += dy @ w[i, j].T
    return xp.ascontiguousarray(padded[windows.inside])
