"""Convolution in two dimensions (in the sense of neural networks: the kernel is not flipped).

    y[n, oh, ow, o] = b[o] + sum over kh, kw, c of  xpad[n, oh*s + kh*d, ow*s + kw*d, c] * w[kh, kw, c, o]

It is linear in x and in w, and so its backward pass consists of two more maps of the same kind, and a sum:

    dx from dy and w        dw from dy and x        db = the sum of dy over all pixels

x (N, H, W, C_in), w (KH, KW, C_in, C_out), b (C_out,), y and dy (N, OH, OW, C_out).

There are several ways to compute the three maps: the argument `algorithm`. All give the same numbers up to
rounding.

    "im2col"    one matrix product (conv_im2col.py): works for every shape; read this one first
    "shifted"   a matrix product for each element of the kernel (conv_shifted.py): the fewest lines
    "winograd"  3×3 kernels with a quarter of the multiplications (conv_winograd.py)
    "fft"       large kernels by way of the frequencies (conv_fft.py)
    "implicit"  im2col's product without its columns, on a GPU (conv_implicit.py)
    "loops"     the definition, number by number (reference.py): slow
    "auto"      the fastest for this shape, as measured (conv_choice.py)

Reference implementation: `reference.conv2d_forward`, `reference.conv2d_backward`.
"""

from __future__ import annotations

from minicnn.backend import Array, xp_of
from minicnn.kernels.conv_choice import algorithm_for
from minicnn.kernels.geometry import IntPair, Padding, Windows
from minicnn.kernels.sums import column_sums


def conv2d_forward(
    x: Array,
    w: Array,
    b: Array | None = None,
    stride: IntPair = 1,
    padding: Padding = "valid",
    dilation: IntPair = 1,
    algorithm: str = "im2col",
) -> Array:
    """y (N, OH, OW, C_out) from x (N, H, W, C_in), w (KH, KW, C_in, C_out) and b (C_out,) or None.

    Raises InputError where `algorithm` cannot compute this convolution.
    """
    windows = Windows.of(x.shape, w.shape[:2], stride, padding, dilation)
    return algorithm_for(algorithm, x, w.shape[3], windows).forward(x, w, b, windows)


def conv2d_backward(
    dy: Array,
    x: Array,
    w: Array,
    stride: IntPair = 1,
    padding: Padding = "valid",
    dilation: IntPair = 1,
    need_dx: bool = True,
    algorithm: str = "im2col",
) -> tuple[Array | None, Array, Array]:
    """(dx, dw, db) from dy (N, OH, OW, C_out): the shapes of x, w and b. dx is None unless `need_dx`."""
    dy = xp_of(dy).ascontiguousarray(dy)
    dx, dw = conv2d_gradients(dy, x, w, stride, padding, dilation, need_dx, algorithm)
    return dx, dw, column_sums(dy.reshape(-1, w.shape[3])).astype(dy.dtype, copy=False)


def conv2d_gradients(
    dy: Array,
    x: Array,
    w: Array,
    stride: IntPair = 1,
    padding: Padding = "valid",
    dilation: IntPair = 1,
    need_dx: bool = True,
    algorithm: str = "im2col",
) -> tuple[Array | None, Array]:
    """(dx, dw) of conv2d_backward, for dy that is C-contiguous: where db is known already."""
    windows = Windows.of(x.shape, w.shape[:2], stride, padding, dilation)
    return algorithm_for(algorithm, x, w.shape[3], windows).backward(dy, x, w, windows, need_dx)
