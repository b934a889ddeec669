"""Neighbouring layers as one kernel: [batch norm -> [ReLU] ->] convolution -> [max pooling ->] [ReLU -> [dropout]].

Each layer by itself reads the whole batch from memory and writes it back. What a few images need stays in the cache,
so the chain takes a few images through all of its layers, then the next ones:

    n = x * scale + shift, or max(that, 0)    batch norm, whose mean and variance are known (norm.py)
    z = conv(n, s w, s b)                     s = 1 / (1 - rate): dropout's factor, which all that follows lets through
    y = mask * max(pool(z), 0)                pooling first: max(max(z1, 0), max(z2, 0), …) = max(max(z1, z2, …), 0)

Of all these only x and y are kept. y > 0 just where ReLU let z through and dropout kept it, so

    dz = dy where y > 0, else 0; with pooling at the winner of each window, else 0
    dn, dw, db from dz as in any convolution, dw and db times s; dn is 0 where ReLU had cut n
    dgamma = sum of dn * x_hat, dbeta = sum of dn

A batch norm needs sums over the whole batch, so a chain ends where one begins. The chain before it gives the moments of
y; the chain behind it begins with it, and gives dgamma and dbeta. Then dy, which the chain before receives, is
a * dn + b * y + constant (norm.py, `gradient_terms`), computed as it is read.

x (N, H, W, C_in), w and b as in conv.py, y (N, OH, OW, C_out). Reference implementation: the layers, one by one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from minicnn.backend import Array, blank, scratch
from minicnn.kernels.activations import relu_backward, relu_forward
from minicnn.kernels.conv_choice import algorithm_for
from minicnn.kernels.geometry import IntPair, Padding, Windows
from minicnn.kernels.norm import (
    centre,
    gradients_of_sums,
    joined_moments,
    moments_of,
    product_sums,
    put_input_gradient,
    put_scaled,
)
from minicnn.kernels.pool import maxpool2d_backward, maxpool2d_forward
from minicnn.kernels.sums import column_sums

# A piece is so many times what the convolution takes at a time. Each layer of a piece is a call, and between calls the
# threads pass Python's lock to and fro.
STEPS = 4


class Norm(NamedTuple):
    """The batch norm before the convolution. relu: whether ReLU stands between them.

    scale, shift: norm.batchnorm_scale_and_shift, `repeated` for x. centre: norm.centre.
    """

    scale: Array
    shift: Array
    relu: bool
    mean: Array
    var: Array
    eps: float

    def forward(self, x: Array) -> Array:
        """n of a few images, in scratch memory."""
        n = put_scaled(x, self.scale, self.shift, scratch(np, "n", x.shape, x.dtype))
        return relu_forward(n, out=n) if self.relu else n


class Links(NamedTuple):
    """What stands between x and y. geometry, algorithm: of the convolution. pool: (pool_size, strides, padding).

    mask: (some images of y, the number of the first) -> a boolean for each number, False where dropout drops it.
    factor: 1 / (1 - rate), in the dtype of w.
    """

    geometry: tuple[IntPair, Padding, IntPair]
    algorithm: str
    pool: tuple[IntPair, IntPair | None, Padding] | None = None
    relu: bool = False
    mask: Callable[[Array, int], Array] | None = None
    factor: Any = 1


def convolution(x: Array, w: Array, b: Array | None, links: Links, keep: bool = False) -> Any:
    """The convolution with s w and s b, by the algorithm that the layer would choose for this batch.

    keep: to be used again, for other batches of this size. Then what is made of w counts for nothing in the choice.
    """
    if links.mask is not None:
        w, b = w * links.factor, None if b is None else b * links.factor
    windows = Windows.of(x.shape, w.shape[:2], *links.geometry)
    return algorithm_for(links.algorithm, x, w.shape[3], windows, keep).in_pieces(w, b, windows, keep)


def chain_forward(
    x: Array, conv: Any, links: Links, norm: Norm | None = None, winners: bool = True, moments: bool = True
) -> tuple[Array, Array | None, tuple[Array, Array] | None]:
    """(y, the winner of each window, (mean, variance) of y): the latter two where they are asked for, else None.

    conv: what `convolution` gave.
    """
    parts, shape = [], (len(x), *conv.windows.out, conv.w.shape[3])
    pooled = Windows.of(shape, *links.pool) if links.pool else conv.windows
    y = np.empty((len(x), *pooled.out, shape[3]), x.dtype)
    winner = np.empty(y.shape, np.min_scalar_type(math.prod(pooled.kernel))) if links.pool and winners else None
    in_tiles = links.pool is not None and conv.can_pool(pooled)
    for images in _pieces(x, STEPS * conv.step):
        n, part = x[images] if norm is None else norm.forward(x[images]), y[images]
        if in_tiles:
            z = conv.forward(n, part, True, None if winner is None else winner[images])
        elif links.pool:
            z = conv.forward(n, scratch(np, "z", (len(n), *shape[1:]), x.dtype))
            z, won = maxpool2d_forward(z, *links.pool, winners)
            if winner is not None:
                winner[images] = won
        else:
            z = conv.forward(n, part)
        if links.relu:
            relu_forward(z, out=part)
        elif z is not part:
            part[...] = z
        if links.mask is not None:
            mask = scratch(np, "mask", part.shape, x.dtype)
            np.copyto(mask, links.mask(part, images.start))  # 0 or 1: faster than a product of floats and booleans
            part *= mask
        if moments:
            parts.append((part.size // part.shape[3], *moments_of(part)))
    return y, winner, joined_moments(parts) if moments else None


def chain_backward(
    dy: Array, x: Array, y: Array, winner: Array | None, w: Array, links: Links, norm: Norm | None = None,
    of_norm: Sequence[Array] | None = None, need_dx: bool = True,
) -> tuple[Array | None, Array, Array, tuple[Array, Array] | None]:  # fmt: skip
    """(dn, dw, db, (dgamma, dbeta) of the norm). dn is dx where there is no norm, None unless need_dx.

    of_norm: a, b and constant of the batch norm behind the chain, `repeated` for y; dy is then that one's own.
    """
    conv = convolution(x, w, None, links)
    dn, db, sums = blank(x) if need_dx else None, np.zeros(w.shape[3]), np.zeros((2, w.shape[2]))
    shift = None if norm is None else centre(norm.mean, norm.var, x)
    pool = Windows.of((len(x), *conv.windows.out, w.shape[3]), *links.pool) if links.pool else None
    in_tiles = pool is not None and conv.can_pool(pool)
    for images in _pieces(x, STEPS * conv.step):
        d, part = dy[images], None if dn is None else dn[images]
        if of_norm is not None:
            d = put_input_gradient(d, y[images], of_norm, scratch(np, "dy", d.shape, d.dtype))
        if links.relu:
            d = relu_backward(d, y[images])
        db += column_sums(d.reshape(-1, w.shape[3]))
        n = x[images] if norm is None else norm.forward(x[images])
        won = None if winner is None else winner[images]
        if in_tiles:
            conv.backward(d, n, part, won)
        else:
            if links.pool:
                d = maxpool2d_backward(d, won, (len(d), *conv.windows.out, w.shape[3]), *links.pool)
            conv.backward(d, n, part)
        if norm is not None and part is not None:
            if norm.relu:
                part *= n > 0
            sums += product_sums(part, x[images], shift)
    dw, db = conv.gradient() * links.factor, db.astype(w.dtype) * links.factor
    return dn, dw, db, None if norm is None else gradients_of_sums(sums, shift, norm.mean, norm.var, norm.eps)


def _pieces(x: Array, step: int) -> Iterator[slice]:
    return (slice(start, min(start + step, len(x))) for start in range(0, len(x), step))
