"""Convolution as the matrix product of conv_im2col.py, but without cols: on a GPU alone ("implicit GEMM").

The product's threads look each number of cols up in x at the moment when they multiply it: kernels/cuda/convolution.cu,
which derives how a GPU multiplies matrices at all. A CPU does nearly the same in conv_im2col.py: there cols is made of
a few images at a time, and never leaves the cache.

Nothing takes this algorithm by itself: it has not been measured on a GPU yet.
x (N, H, W, C_in), w (KH, KW, C_in, C_out), y and dy (N, OH, OW, C_out). Reference implementation:
`reference.conv2d_forward`, `reference.conv2d_backward`.
"""

from __future__ import annotations

from minicnn.backend import Array
from minicnn.kernels import cuda
from minicnn.kernels.geometry import Windows


def forward(x: Array, w: Array, b: Array | None, windows: Windows) -> Array:
    """y (N, OH, OW, C_out)."""
    return cuda.conv_forward(x, w, b, windows)


def backward(dy: Array, x: Array, w: Array, windows: Windows, need_dx: bool) -> tuple[Array | None, Array]:
    """(dx (N, H, W, C_in), dw (KH, KW, C_in, C_out)), dx None unless `need_dx`."""
    dx = cuda.conv_input_gradient(dy, w, windows) if need_dx else None
    return dx, cuda.conv_kernel_gradient(dy, x, w.shape, windows)
