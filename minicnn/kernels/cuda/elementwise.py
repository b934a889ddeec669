"""ReLU, bias with ReLU, GELU and dropout on the GPU: elementwise.cu."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from minicnn.backend import Array, xp_of
from minicnn.kernels.cuda.launch import BLOCK, Kernel, kernel_for, width_of

# A dropout thread's first number costs as much as twenty more, so the threads are few, and take several words each.
WORDS_A_THREAD, MAX_DROPOUT_BLOCKS = 4, 1024


def relu_forward(x: Array, out: Array | None = None) -> Array:
    """max(x, 0), of any shape; written to `out`, C-contiguous, which may be x."""
    xp = xp_of(x)
    x, y = xp.ascontiguousarray(x), xp.empty(x.shape, x.dtype) if out is None else out
    width = width_of(x.size, y, x)
    _kernel("relu_forward", x, width).for_each(x.size // width, y, x)
    return y


def relu_backward(dy: Array, y: Array) -> Array:
    """dy where y > 0, else 0."""
    xp = xp_of(dy)
    dy, y, dx = xp.ascontiguousarray(dy), xp.ascontiguousarray(y, dy.dtype), xp.empty(dy.shape, dy.dtype)
    width = width_of(dy.size, dx, dy, y)
    _kernel("relu_backward", dy, width).for_each(dy.size // width, dx, dy, y)
    return dx


def bias_relu(z: Array, b: Array) -> Array:
    """max(z + b, 0) for z (..., C), C-contiguous, and b (C,). Overwrites z, and returns it."""
    b, c = xp_of(z).ascontiguousarray(b, z.dtype), z.shape[-1]
    width = width_of(c, z, b)
    _kernel("bias_relu", z, width).for_each(z.size // width, z, b, after=(c // width,))
    return z


def gelu_forward(x: Array, approximate: bool = False) -> Array:
    """x * Phi(x); see `minicnn.kernels.gelu`."""
    return _gelu(x, approximate, True, False)[0]


def gelu_backward(dy: Array, x: Array, approximate: bool = False) -> Array:
    """dy * (Phi(x) + x * Phi'(x))."""
    return dy * _gelu(x, approximate, False, True)[1]


def gelu_with_slope(x: Array, approximate: bool = False) -> tuple[Array, Array]:
    """(y, slope) of x's shape."""
    return _gelu(x, approximate, True, True)


def _gelu(x: Array, approximate: bool, need_y: bool, need_slope: bool) -> tuple[Array, Array]:
    xp = xp_of(x)
    x = xp.ascontiguousarray(x)
    y, slope = (xp.empty(x.shape, x.dtype) if need else None for need in (need_y, need_slope))
    width = width_of(x.size, x, y, slope)
    _kernel("gelu", x, width).for_each(x.size // width, y, slope, x, after=(approximate,))
    return y, slope


@dataclass(frozen=True)
class Mask:
    """A dropout mask as the recipe for making it: the state of NumPy's PCG64 before the batch's first sample.

    An array would be written once and read twice. Instead both passes draw the same random numbers.
    """

    start: Any  # four words: the state's high and low half, those of the increment; or an array of them on the device
    threshold: int  # of 65536


def mask_for(x: Array, rate: float, seed: Any, first: int = 0) -> Mask:
    """The same mask as `minicnn.kernels.dropout_mask` for the same arguments.

    seed: a whole number; or one that is known only when a step begins, which then keeps its words on the device.
    """
    skip = int(first) * _words(x.shape)
    known = isinstance(seed, (int, np.integer))
    start = _start(seed, skip) if known else seed.words(lambda now: _start(now, skip), 4)
    return Mask(start, min(round(float(rate) * 65536), 65535))


def dropout_forward(x: Array, mask: Mask | Array, rate: float) -> Array:
    """y = x * mask / (1 - rate) for x (N, ...). The backward pass is the same function of dy."""
    xp = xp_of(x)
    if not isinstance(mask, Mask):
        return xp.ascontiguousarray(x) * mask * x.dtype.type(1 / (1 - float(rate)))
    x, y = xp.ascontiguousarray(x), xp.empty(x.shape, x.dtype)
    _start_dropout("dropout", math.prod(x.shape[1:]), (y, x), mask, rate)
    return y


def bias_relu_dropout(z: Array, b: Array | None, mask: Mask | None, rate: float) -> Array:
    """max(z + b, 0) * mask / (1 - rate) for z (..., C), C-contiguous. Overwrites z, and returns it. None: without."""
    if mask is not None:
        b = None if b is None else xp_of(z).ascontiguousarray(b, z.dtype)
        _start_dropout("bias_relu_dropout", z.shape[-1], (z, b), mask, rate, z.shape[-1])
        return z
    return relu_forward(z, out=z) if b is None else bias_relu(z, b)


def _start_dropout(
    name: str, row: int, arrays: tuple[Array | None, ...], mask: Mask, rate: float, *channels: int
) -> None:
    """Start a kernel that draws random numbers for the first of the arrays, which have `row` numbers in a row."""
    x: Array = arrays[0]
    start = (None, *mask.start) if isinstance(mask.start, tuple) else (mask.start, 0, 0, 0, 0)
    words, width = _words(x.shape), width_of(row, *arrays)
    count = len(x) * words
    blocks = (min(-(-count // (WORDS_A_THREAD * BLOCK)), MAX_DROPOUT_BLOCKS),)
    sizes = [size // width for size in (*channels, math.prod(x.shape[1:]))]
    if count:
        numbers = 1 / (1 - float(rate)), mask.threshold, *sizes, words, count
        _kernel(name, x, width)(blocks, (BLOCK,), *arrays, *start, *numbers)


def _start(seed: int, skip: int) -> tuple[int, ...]:
    """The words of a Mask: where the generator of this seed is after `skip` of its own."""
    generator = np.random.PCG64(seed)
    if skip:
        generator.advance(skip)
    state = generator.state["state"]
    return tuple(part for n in (state["state"], state["inc"]) for part in (n >> 64, n % 2**64))


def _words(shape: tuple[int, ...]) -> int:
    """How many words of 64 random bits a sample takes: one for four numbers."""
    return -(-math.prod(shape[1:]) // 4)


def _kernel(name: str, x: Array, width: int) -> Kernel:
    return kernel_for(xp_of(x), "elementwise", name, x.dtype, x.size, width > 1)
