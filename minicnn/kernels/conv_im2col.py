"""Convolution as one matrix product: the algorithm to read first.

im2col writes the window that each output pixel sees into one row of `cols` (see im2col.py). With the kernel as a
matrix, of one row for each (kh, kw, c), the convolution is a matrix product, and the rules of its backward pass are
those of any matrix product:

    y = cols @ w + b      dw = cols.T @ dy      dx = col2im(dy @ w.T)

`cols` is made for a few images at a time, in scratch memory, and made again in the backward pass: that is cheaper than
to keep it. x (N, H, W, C_in), w (KH, KW, C_in, C_out), y and dy (N, OH, OW, C_out).
"""

from __future__ import annotations

from minicnn.backend import Array, matmul, scratch, tiles, xp_of
from minicnn.kernels import cuda
from minicnn.kernels.geometry import Windows
from minicnn.kernels.im2col import im2col_tiles, tap_major


def forward(x: Array, w: Array, b: Array | None, windows: Windows) -> Array:
    """y (N, OH, OW, C_out)."""
    xp, c_out = xp_of(x), w.shape[3]
    matrix, ones = w.reshape(-1, c_out), False
    if b is not None and tap_major(x, windows):  # then the bias is a weight, too: of an input that is always 1
        matrix, ones = xp.concatenate([matrix, b[None]]), True
    y = xp.empty((len(x), *windows.out, c_out), x.dtype)
    for tile, cols in im2col_tiles(x, windows, w.nbytes, ones):
        rows = y[tile].reshape(-1, c_out)  # a view: a tile of y is contiguous
        matmul(cols, matrix, out=rows)
        if b is not None and not ones:
            rows += b
    return y


def backward(dy: Array, x: Array, w: Array, windows: Windows, need_dx: bool) -> tuple[Array | None, Array]:
    """(dx (N, H, W, C_in), dw (KH, KW, C_in, C_out)), dx None unless `need_dx`."""
    xp, c_out = xp_of(x), w.shape[3]
    dw = (xp.empty if len(x) else xp.zeros)((w.size // c_out, c_out), x.dtype)
    for k, (tile, cols) in enumerate(im2col_tiles(x, windows, w.nbytes)):
        share = dw if k == 0 else scratch(xp, "dw", dw.shape, dw.dtype)
        matmul(cols.T, dy[tile].reshape(-1, c_out), out=share)
        if k > 0:
            dw += share
    return input_gradient(dy, w, windows) if need_dx else None, dw.reshape(w.shape)


def input_gradient(dy: Array, w: Array, windows: Windows) -> Array:
    """dx (N, H, W, C_in): every output pixel gives dy * w back to the window that it saw.

    With stride 1 a pixel x[i] is seen by the outputs y[i + top - kh*d], so dx is itself a convolution: of dy, with
    the kernel turned by 180 degrees and C_in and C_out exchanged. With other strides: col2im, tap by tap.
    """
    back = windows.reverse()
    if back is not None:
        return forward(dy, xp_of(w).ascontiguousarray(w[::-1, ::-1].transpose(0, 1, 3, 2)), None, back)
    return _with_stride(dy, w, windows)


def _by_col2im(dy: Array, w: Array, windows: Windows) -> Array:
    c_in, c_out = w.shape[2:]
    cols = matmul(dy.reshape(-1, c_out), w.reshape(-1, c_out).T)
    shape = len(dy), *windows.image, c_in
    return cuda.col2im(cols, shape, windows.kernel, windows.stride, windows.pads, windows.dilation)


@cuda.on_gpu(_by_col2im)
def _with_stride(dy: Array, w: Array, windows: Windows) -> Array:
    """dx, tap by tap: the same sum as col2im's, without cols."""
    xp, (kh, kw), (c_in, c_out) = xp_of(dy), windows.kernel, w.shape[2:]
    dx = xp.empty((len(dy), *windows.image, c_in), dy.dtype)
    for part in tiles(dx):
        rows = dy[part].reshape(-1, c_out)
        padded = xp.zeros((len(dx[part]), *windows.padded, c_in), dy.dtype)
        for i in range(kh):
            for j in range(kw):
                tap = padded[windows.tap(i, j)]
                tap += matmul(rows, w[i, j].T).reshape(tap.shape)
        dx[part] = padded[windows.inside]
    return dx
