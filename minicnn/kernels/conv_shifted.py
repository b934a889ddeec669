"""Convolution as a sum of shifted images: the fewest lines, and no cols.

Element (i, j) of the kernel sees the whole image, shifted by (i, j). Each of these KH*KW images goes through a matrix
product over the channels, and the results are added:

    y = sum over i, j of  x[tap i, j] @ w[i, j] + b
    dw[i, j] = x[tap i, j].T @ dy            dx[tap i, j] += dy @ w[i, j].T

It adds KH*KW times where im2col copies KH*KW times.
x (N, H, W, C_in), w (KH, KW, C_in, C_out), y and dy (N, OH, OW, C_out).
"""

from __future__ import annotations

from minicnn.backend import Array, matmul, tiles, xp_of
from minicnn.kernels.geometry import Windows


def forward(x: Array, w: Array, b: Array | None, windows: Windows) -> Array:
    """y (N, OH, OW, C_out)."""
    xp, (kh, kw) = xp_of(x), windows.kernel
    y = xp.zeros((len(x), *windows.out, w.shape[3]), x.dtype)
    for part in tiles(y):
        padded = windows.pad(x[part])
        for i in range(kh):
            for j in range(kw):
                y[part] += matmul(padded[windows.tap(i, j)], w[i, j])
        if b is not None:
            y[part] += b
    return y


def backward(dy: Array, x: Array, w: Array, windows: Windows, need_dx: bool) -> tuple[Array | None, Array]:
    """(dx (N, H, W, C_in), dw (KH, KW, C_in, C_out)), dx None unless `need_dx`."""
    xp, (kh, kw), (c_in, c_out) = xp_of(x), windows.kernel, w.shape[2:]
    dw = xp.zeros(w.shape, x.dtype)
    dx = xp.empty(x.shape, x.dtype) if need_dx else None
    for part in tiles(dy):
        padded, rows = windows.pad(x[part]), dy[part].reshape(-1, c_out)
        for i in range(kh):
            for j in range(kw):
                dw[i, j] += matmul(padded[windows.tap(i, j)].reshape(-1, c_in).T, rows)
        if dx is not None:
            padded = xp.zeros(padded.shape, x.dtype)
            for i in range(kh):
                for j in range(kw):
                    padded[windows.tap(i, j)] += matmul(dy[part], w[i, j].T)
            dx[part] = padded[windows.inside]
    return dx, dw
