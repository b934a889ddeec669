"""Transposed convolution: Conv2D the other way round. No arithmetic of its own: the kernels change places.

    forward     y = what Conv2D's backward pass calls dx, the gradient of its input, for dy = x
    backward    dx = Conv2D's forward pass over dy        dw = Conv2D's dw, with dy as its input and x as its dy

A convolution is a linear map A from large images to small ones. Its backward pass multiplies by the transpose of A,
from small images to large ones: that is what this layer does in its forward pass, whence its name. And the transpose of
the transpose is A again: so the backward pass here is a convolution. It is no inverse ("deconvolution"): it brings back
the size of the image, not its numbers. M. Zeiler et al., "Deconvolutional Networks" (2010); V. Dumoulin, F. Visin,
"A guide to convolution arithmetic for deep learning" (2016), chapter 4.

x (N, H, W, C), w (KH, KW, F, C): the kernel of a Conv2D from F channels to C; b (F,), y and dy (N, OH, OW, F).
Reference implementation: `reference.conv2d_transpose_forward`, `reference.conv2d_transpose_backward`.
"""

from __future__ import annotations

from minicnn.backend import Array, xp_of
from minicnn.kernels import conv_im2col
from minicnn.kernels.geometry import IntPair, Padding, Windows
from minicnn.kernels.sums import column_sums


def conv2d_transpose_forward(
    x: Array,
    w: Array,
    b: Array | None = None,
    stride: IntPair = 1,
    padding: Padding = "valid",
    dilation: IntPair = 1,
    output_padding: IntPair | None = None,
) -> Array:
    """y (N, OH, OW, F) from x (N, H, W, C), w (KH, KW, F, C) and b (F,) or None. Sizes: geometry.transposed_size."""
    windows = Windows.transposed(x.shape, w.shape[:2], stride, padding, dilation, output_padding)
    y = conv_im2col.input_gradient(xp_of(x).ascontiguousarray(x), w, windows)
    if b is not None:
        y += b
    return y


def conv2d_transpose_backward(
    dy: Array,
    x: Array,
    w: Array,
    stride: IntPair = 1,
    padding: Padding = "valid",
    dilation: IntPair = 1,
    output_padding: IntPair | None = None,
    need_dx: bool = True,
) -> tuple[Array | None, Array, Array]:
    """(dx, dw, db) from dy (N, OH, OW, F): the shapes of x, w and b. dx is None unless `need_dx`."""
    windows = Windows.transposed(x.shape, w.shape[:2], stride, padding, dilation, output_padding)
    x, dy = (xp_of(x).ascontiguousarray(array) for array in (x, dy))
    dx = conv_im2col.forward(dy, w, None, windows) if need_dx else None
    _, dw = conv_im2col.backward(x, dy, w, windows, need_dx=False)
    return dx, dw, column_sums(dy.reshape(-1, w.shape[2])).astype(dy.dtype, copy=False)
