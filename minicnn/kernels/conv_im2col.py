"""Convolution as one matrix product: the way to read first.

im2col writes the window that each output pixel sees into one row of `cols` (see im2col.py). With the kernel as a
matrix, of one row for each (kh, kw, c), the convolution is a matrix product, and the rules of its way back are those
of any matrix product:

    y = cols @ w + b      dw = cols.T @ dy      dx = col2im(dy @ w.T)

`cols` is made for a few images at a time, in scratch memory, and made again on the way back: that is cheaper than to
keep it. x (N, H, W, C_in), w (KH, KW, C_in, C_out), y and dy (N, OH, OW, C_out).
"""

from __future__ import annotations

from minicnn.backend import Array, scratch, xp_of
from minicnn.kernels import cuda
from minicnn.kernels.im2col import Windows, im2col_tiles
from minicnn.recording import matmul


def forward(x: Array, w: Array, b: Array | None, windows: Windows) -> Array:
    """y (N, OH, OW, C_out)."""
    c_out = w.shape[3]
    matrix = w.reshape(-1, c_out)
    y = xp_of(x).empty((len(x), *windows.out, c_out), x.dtype)
    for tile, cols in im2col_tiles(x, windows, w.nbytes):
        rows = y[tile].reshape(-1, c_out)  # a view: a tile of y is contiguous
        matmul(cols, matrix, out=rows)
        if b is not None:
            rows += b
    return y


def backward(dy: Array, x: Array, w: Array, windows: Windows, need_dx: bool) -> tuple[Array | None, Array]:
    """(dx (N, H, W, C_in), dw (KH, KW, C_in, C_out)), dx None unless `need_dx`."""
    xp, c_out = xp_of(x), w.shape[3]
    dw = xp.zeros((w.size // c_out, c_out), x.dtype)
    for tile, cols in im2col_tiles(x, windows, w.nbytes):
        dw += matmul(cols.T, dy[tile].reshape(-1, c_out), out=scratch(xp, "dw", dw.shape, dw.dtype))
    return _input_gradient(dy, w, windows) if need_dx else None, dw.reshape(w.shape)


def _input_gradient(dy: Array, w: Array, windows: Windows) -> Array:
    """dx (N, H, W, C_in): every output pixel gives dy * w back to the window that it saw.

    With stride 1 a pixel x[i] is seen by the outputs y[i + top - kh*d], so dx is itself a convolution: of dy, with
    the kernel turned by 180 degrees and C_in and C_out exchanged. With other strides: col2im, tap by tap.
    """
    xp, (kh, kw), back = xp_of(dy), windows.kernel, windows.reverse()
    if back is not None:
        return forward(dy, xp.ascontiguousarray(w[::-1, ::-1].transpose(0, 1, 3, 2)), None, back)
    c_in, c_out = w.shape[2:]
    if cuda.serves(dy):
        cols = matmul(dy.reshape(-1, c_out), w.reshape(-1, c_out).T)
        return cuda.col2im(cols, (len(dy), *windows.image, c_in), windows)
    padded = xp.zeros((len(dy), *windows.padded, c_in), dy.dtype)
    for i in range(kh):
        for j in range(kw):
            padded[windows.tap(i, j)] += matmul(dy, w[i, j].T)
    return xp.ascontiguousarray(padded[windows.inside])
