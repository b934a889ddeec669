"""ReLU, bias with ReLU, and dropout on the GPU: elementwise.cu."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from minicnn.backend import Array, xp_of
from minicnn.kernels.cuda.launch import Kernel, kernel_for
from minicnn.recording import EachStep, recording


def relu_forward(x: Array, out: Array | None = None) -> Array:
    """max(x, 0), of any shape; written to `out`, C-contiguous, which may be x."""
    xp = xp_of(x)
    x, y = xp.ascontiguousarray(x), xp.empty(x.shape, x.dtype) if out is None else out
    _kernel("relu_forward", x).for_each(x.size, y, x)
    return y


def relu_backward(dy: Array, y: Array) -> Array:
    """dy where y > 0, else 0."""
    xp = xp_of(dy)
    dy, y, dx = xp.ascontiguousarray(dy), xp.ascontiguousarray(y, dy.dtype), xp.empty(dy.shape, dy.dtype)
    _kernel("relu_backward", dy).for_each(dy.size, dx, dy, y)
    return dx


def bias_relu(z: Array, b: Array) -> Array:
    """max(z + b, 0) for z (..., C), C-contiguous, and b (C,). Overwrites z, and returns it."""
    kernel = _kernel("bias_relu", z)
    if z.size:
        blocks = (min(-(-z.size // 256), 8192),)
        kernel(blocks, (256,), z, xp_of(z).ascontiguousarray(b, z.dtype), z.shape[-1], kernel.index(z.size))
    return z


@dataclass(frozen=True)
class Mask:
    """A dropout mask as the recipe for making it: the state of NumPy's PCG64 before the batch's first sample.

    An array would be written once and read twice. Instead both passes draw the same random numbers.
    """

    numbers: Any  # four words: the state's high and low half, those of the increment; in a CUDA graph an array
    threshold: int  # of 65536

    @classmethod
    def of(cls, shape: tuple[int, ...], rate: float, seed: int | EachStep, first: int) -> Mask:
        """The same mask as `minicnn.kernels.dropout_mask` for the same arguments."""
        skip = first * _words(shape)
        if isinstance(seed, EachStep):
            later, ours = seed, recording()
            assert ours is not None, "only a recording has numbers of later"
            numbers: Any = ours.numbers(lambda: _start(later.now(), skip), 4)
        else:
            numbers = _start(seed, skip)
        return cls(numbers, min(round(rate * 65536), 65535))


def dropout(x: Array, mask: Mask, rate: float) -> Array:
    """y = x * mask / (1 - rate) for x (N, ...). The way back is the same function of dy."""
    xp = xp_of(x)
    x, y = xp.ascontiguousarray(x), xp.empty(x.shape, x.dtype)
    each_step = not isinstance(mask.numbers, tuple)
    kernel, words = _kernel("dropout_each_step" if each_step else "dropout", x), _words(x.shape)
    numbers = (mask.numbers,) if each_step else mask.numbers
    sizes = kernel.index(x.size // len(x)), kernel.index(words)
    # A thread's first number costs as much as twenty more, so the threads are few, and take several words each.
    count = len(x) * words
    blocks = (min(-(-count // 1024), 1024),)
    kernel(blocks, (256,), y, x, 1 / (1 - rate), np.uint32(mask.threshold), *numbers, *sizes, kernel.index(count))
    return y


def _start(seed: int, skip: int) -> tuple[np.uint64, ...]:
    """The numbers of a Mask: where the generator of this seed is after `skip` words."""
    generator = np.random.PCG64(seed)
    generator.advance(skip)
    state = generator.state["state"]
    return tuple(np.uint64(part) for n in (state["state"], state["inc"]) for part in (n >> 64, n % 2**64))


def _words(shape: tuple[int, ...]) -> int:
    """How many words of 64 random bits a sample takes: one for four numbers."""
    return -(-math.prod(shape[1:]) // 4)


def _kernel(name: str, x: Array) -> Kernel:
    return kernel_for(xp_of(x), "elementwise", name, x.dtype, x.size)
