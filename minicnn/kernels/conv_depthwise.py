"""Convolutions that do not mix all channels: depthwise and grouped ones.

    depthwise   each channel has M kernels of its own: y[c*M + m] = b + sum over kh, kw of xpad[c] * w[kh, kw, c, m]
    grouped     the channels are shared out over groups, and each group has a convolution of its own

A depthwise convolution is the grouped one of a channel each. It adds up KH*KW products where a convolution adds up
KH*KW*C: so there is no matrix product in it, but a multiplication, number by number, for each tap of the window. As in
conv_shifted.py the tap (i, j) sees the whole image, shifted:

    y += x[tap i, j] * w[i, j]
    dw[i, j] = sum of x[tap i, j] * dy            dx[tap i, j] += sum over m of dy * w[i, j]

Followed by a convolution of 1×1, which mixes the channels, it takes the place of a convolution at a fraction of its
cost: F. Chollet, "Xception" (2017); A. Howard et al., "MobileNets" (2017), section 3.1. Groups: A. Krizhevsky et al.,
"ImageNet Classification" (2012), section 3.5.

x (N, H, W, C); depthwise: w (KH, KW, C, M), b (C*M,), y and dy (N, OH, OW, C*M); grouped: w (KH, KW, C/groups, F),
b (F,), y and dy (N, OH, OW, F). Reference implementations: the same names in `minicnn.kernels.reference`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from minicnn.backend import Array, tiles, xp_of
from minicnn.kernels.conv import conv2d_backward, conv2d_forward
from minicnn.kernels.geometry import IntPair, Padding, Windows
from minicnn.kernels.sums import column_sums


def depthwise_conv2d_forward(
    x: Array,
    w: Array,
    b: Array | None = None,
    stride: IntPair = 1,
    padding: Padding = "valid",
    dilation: IntPair = 1,
) -> Array:
    """y (N, OH, OW, C*M) from x (N, H, W, C), w (KH, KW, C, M) and b (C*M,) or None."""
    windows = Windows.of(x.shape, w.shape[:2], stride, padding, dilation)
    kh, kw, c, m = w.shape
    y = xp_of(x).zeros((len(x), *windows.out, c, m), x.dtype)
    for part in tiles(y):
        padded = windows.pad(x[part])
        for i in range(kh):
            for j in range(kw):
                y[part] += padded[windows.tap(i, j)][..., None] * w[i, j]
    y = y.reshape(len(x), *windows.out, c * m)
    if b is not None:
        y += b
    return y


def depthwise_conv2d_backward(
    dy: Array,
    x: Array,
    w: Array,
    stride: IntPair = 1,
    padding: Padding = "valid",
    dilation: IntPair = 1,
    need_dx: bool = True,
) -> tuple[Array | None, Array, Array]:
    """(dx, dw, db) from dy (N, OH, OW, C*M): the shapes of x, w and b. dx is None unless `need_dx`."""
    windows = Windows.of(x.shape, w.shape[:2], stride, padding, dilation)
    xp, (kh, kw, c, m) = xp_of(x), w.shape
    dy = xp.ascontiguousarray(dy)
    dw = xp.zeros((kh, kw, c * m), np.float64)
    dx = xp.empty(x.shape, x.dtype) if need_dx else None
    for part in tiles(dy):
        padded, g = windows.pad(x[part]), dy[part].reshape(-1, *windows.out, c, m)
        for i in range(kh):
            for j in range(kw):
                products = padded[windows.tap(i, j)][..., None] * g
                dw[i, j] += column_sums(products.reshape(-1, c * m))
        if dx is not None:
            padded = xp.zeros((len(g), *windows.padded, c), dy.dtype)
            for i in range(kh):
                for j in range(kw):
                    padded[windows.tap(i, j)] += (g * w[i, j]).sum(axis=-1)
            dx[part] = padded[windows.inside]
    db = column_sums(dy.reshape(-1, c * m)).astype(dy.dtype, copy=False)
    return dx, dw.reshape(w.shape).astype(w.dtype), db


def grouped_conv2d_forward(
    x: Array,
    w: Array,
    b: Array | None = None,
    groups: int = 1,
    stride: IntPair = 1,
    padding: Padding = "valid",
    dilation: IntPair = 1,
    algorithm: str = "im2col",
) -> Array:
    """y (N, OH, OW, F) from x (N, H, W, C), w (KH, KW, C/groups, F) and b (F,) or None: one group after another.

    groups: divides C and F. Raises InputError where `algorithm` cannot compute this convolution.
    """
    windows = Windows.of(x.shape, w.shape[:2], stride, padding, dilation)
    xp = xp_of(x)
    y = xp.empty((len(x), *windows.out, w.shape[3]), x.dtype)
    for ins, outs in _groups(w, groups):
        kernel, bias = xp.ascontiguousarray(w[..., outs]), None if b is None else b[outs]
        y[..., outs] = conv2d_forward(x[..., ins], kernel, bias, stride, padding, dilation, algorithm)
    return y


def grouped_conv2d_backward(
    dy: Array,
    x: Array,
    w: Array,
    groups: int = 1,
    stride: IntPair = 1,
    padding: Padding = "valid",
    dilation: IntPair = 1,
    need_dx: bool = True,
    algorithm: str = "im2col",
) -> tuple[Array | None, Array, Array]:
    """(dx, dw, db) from dy (N, OH, OW, F): the shapes of x, w and b. dx is None unless `need_dx`."""
    xp = xp_of(x)
    dx = xp.empty(x.shape, x.dtype) if need_dx else None
    dw, db = xp.empty(w.shape, w.dtype), xp.empty(w.shape[3], w.dtype)
    for ins, outs in _groups(w, groups):
        kernel = xp.ascontiguousarray(w[..., outs])
        part, dw[..., outs], db[outs] = conv2d_backward(
            dy[..., outs], x[..., ins], kernel, stride, padding, dilation, need_dx, algorithm
        )
        if dx is not None:
            dx[..., ins] = part
    return dx, dw, db


def _groups(w: Array, groups: int) -> Iterator[tuple[slice, slice]]:
    """(channels of x, channels of y) of each group."""
    c, f = w.shape[2], w.shape[3] // groups
    for g in range(groups):
        yield slice(g * c, (g + 1) * c), slice(g * f, (g + 1) * f)
