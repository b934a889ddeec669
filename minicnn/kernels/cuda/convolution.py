"""Convolution without cols on the GPU: convolution.cu."""

from __future__ import annotations

from minicnn.backend import Array, xp_of
from minicnn.kernels.cuda.launch import Kernel, kernel_for
from minicnn.kernels.cuda.norm import column_sums
from minicnn.kernels.cuda.windows import window_arguments
from minicnn.kernels.geometry import Windows

SIDE, DEPTH, THREADS = 64, 16, 256  # see convolution.cu
# Output pixels that a block adds up for dw, at least; how many blocks share the sum at most: each leaves its own dw.
PIXELS_A_SHARE, MAX_SHARES = 1024, 64


def conv_forward(x: Array, w: Array, b: Array | None, windows: Windows) -> Array:
    """y (N, OH, OW, C_out)."""
    y, c_out = xp_of(x).empty((len(x), *windows.out, w.shape[3]), x.dtype), w.shape[3]
    pixels = y.size // c_out
    _start("conv_forward", pixels, c_out, (y, x, w, b), (pixels, c_out), windows, x.shape[3])
    return y


def conv_input_gradient(dy: Array, w: Array, windows: Windows) -> Array:
    """dx (N, H, W, C_in)."""
    c_in, c_out = w.shape[2:]
    dx = xp_of(dy).empty((len(dy), *windows.image, c_in), dy.dtype)
    pixels = dx.size // c_in
    _start("conv_input_gradient", pixels, c_in, (dx, dy, w), (pixels, c_out), windows, c_in)
    return dx


def conv_kernel_gradient(dy: Array, x: Array, shape: tuple[int, ...], windows: Windows) -> Array:
    """dw of `shape` (KH, KW, C_in, C_out)."""
    c_in, c_out = shape[2:]
    rows, pixels = shape[0] * shape[1] * c_in, dy.size // c_out
    shares = max(1, min(MAX_SHARES, pixels // PIXELS_A_SHARE))
    share = -(-pixels // (shares * DEPTH)) * DEPTH
    shares = max(1, -(-pixels // max(1, share)))
    partial = xp_of(x).empty((shares, rows * c_out), x.dtype)
    _start("conv_kernel_gradient", rows, c_out, (partial, x, dy), (share, pixels, c_out), windows, c_in, shares)
    return column_sums(partial).reshape(shape)


def _start(
    name: str, rows: int, columns: int, arrays: tuple[Array, ...], numbers: tuple[int, ...], windows: Windows,
    c_in: int, shares: int = 1,
) -> None:  # fmt: skip
    """Start a block for each SIDE × SIDE numbers of the result (rows, columns), the first of the arrays.

    Any of the others may be None.
    """
    result, *inputs = arrays
    xp = xp_of(result)
    inputs = [None if a is None else xp.ascontiguousarray(a, result.dtype) for a in inputs]
    largest = max(a.size for a in (result, *inputs) if a is not None)
    kernel: Kernel = kernel_for(xp, "convolution", name, result.dtype, largest)
    grid = -(-rows // SIDE), -(-columns // SIDE), shares
    if rows:
        kernel(grid, (THREADS,), result, *inputs, *numbers, *window_arguments(windows, c_in))
