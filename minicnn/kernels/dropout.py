"""Inverted dropout: in training, each number is dropped with probability `rate` and the others are scaled up.

    y = x * mask / (1 - rate)      dx = dy * mask / (1 - rate)

The scale keeps the expected value, so evaluation needs no factor at all. N. Srivastava et al., "Dropout: A Simple Way
to Prevent Neural Networks from Overfitting" (2014), section 10. Reference implementations: `reference.dropout_forward`
and so on.
"""

from __future__ import annotations

import math

import numpy as np

from minicnn.backend import Array, tiles, xp_of
from minicnn.kernels import cuda


def dropout_mask(shape: tuple[int, ...], rate: float, seed: int, first: int = 0) -> np.ndarray:
    """The boolean mask for a batch of `shape` (N, ...), True = keep, on the host.

    Sample i's mask depends on `seed` and `first + i` alone: a batch that is cut into shards gets the same mask as one
    that is not. Each number is compared as 16 random bits, so the rate is exact to 1/65536.
    """
    per_sample = math.prod(shape[1:])
    words = -(-per_sample // 4)  # one 64-bit word serves four numbers; a sample begins with a fresh word
    bits = np.random.PCG64(seed)
    bits.advance(int(first) * words)
    drawn = bits.random_raw(shape[0] * words).view(np.uint16).reshape(shape[0], words * 4)
    threshold = min(round(float(rate) * 65536), 65535)
    return np.ascontiguousarray(drawn[:, :per_sample] >= np.uint16(threshold)).reshape(shape)


@cuda.on_gpu(cuda.mask_for)
def mask_for(x: Array, rate: float, seed: int, first: int = 0) -> Array:
    """The mask for a batch x. On the GPU it is a recipe (`cuda.Mask`), from which each pass makes it anew."""
    return xp_of(x).asarray(dropout_mask(x.shape, rate, seed, first))


def shared_mask_for(x: Array, rate: float, seed: int, first: int, axes: tuple[int, ...]) -> Array:
    """The boolean mask for a batch x in which all numbers along these axes are kept or dropped together.

    A view, in which one number stands for all that share it. Along axis 0 every shard of a batch draws the same.
    """
    xp = xp_of(x)
    ones = xp.ones(tuple(1 if axis in axes else size for axis, size in enumerate(x.shape)), x.dtype)
    mask = mask_for(ones, rate, seed, 0 if 0 in axes else first)
    return xp.broadcast_to(dropout_forward(ones, mask, rate) > 0, x.shape)


@cuda.on_gpu(cuda.dropout_forward)
def dropout_forward(x: Array, mask: Array, rate: float) -> Array:
    """y = x * mask / (1 - rate), of x's shape and dtype; mask is boolean, of that shape, or what `mask_for` made."""
    xp, y = xp_of(x), xp_of(x).empty(x.shape, x.dtype)
    scale = x.dtype.type(1 / (1 - float(rate)))
    for part in tiles(x):
        xp.copyto(y[part], mask[part])  # 0 or 1, then the product: faster than a product of floats and booleans
        y[part] *= x[part]
        y[part] *= scale
    return y


def dropout_backward(dy: Array, mask: Array, rate: float) -> Array:
    """dx = dy * mask / (1 - rate): the same linear map as the forward pass, which is its own adjoint."""
    return dropout_forward(dy, mask, rate)
