"""Group normalisation: mean 0 and variance 1 over parts of each sample, then a learned scale and shift.

    x_hat = (x - mean) / sqrt(var + eps)        y = gamma * x_hat + beta

The channels of a sample are cut into groups; mean and var are taken over all positions and the channels of a group, and
so no sample depends on another one, in training as in evaluation. Layer normalisation is the case of a single group and
position: x of one row for each mean. The backward pass is that of batch normalisation, with the group in the place of
the batch: with g = dy * gamma,

    dx = (g - mean of g - x_hat * mean of (g * x_hat)) / sqrt(var + eps)

x (N, …, C), gamma and beta (C,). Y. Wu, K. He, "Group Normalization" (2018), section 3; J. Ba, J. Kiros, G. Hinton,
"Layer Normalization" (2016). Reference implementations: the same names in `minicnn.kernels.reference`.
"""

from __future__ import annotations

import math

import numpy as np

from minicnn.backend import Array, xp_of


def groupnorm_forward(x: Array, gamma: Array, beta: Array, groups: int, eps: float) -> Array:
    """y, of x's shape and dtype. groups: divides C."""
    x_hat, _ = _normalized(x, groups, eps)
    return x_hat.reshape(x.shape) * gamma + beta


def groupnorm_backward(
    dy: Array, x: Array, gamma: Array, groups: int, eps: float, need_dx: bool = True
) -> tuple[Array | None, Array, Array]:
    """(dx, dgamma, dbeta), of the shapes of x, gamma and gamma. dx is None unless `need_dx`."""
    x_hat, inverse = _normalized(x, groups, eps)
    rows = dy.reshape(math.prod(dy.shape[:-1]), dy.shape[-1])
    dbeta = rows.sum(axis=0, dtype=np.float64).astype(dy.dtype)
    dgamma = (rows * x_hat.reshape(rows.shape)).sum(axis=0, dtype=np.float64).astype(dy.dtype)
    if not need_dx:
        return None, dgamma, dbeta
    g = (dy * gamma).reshape(x_hat.shape)
    dx = (g - _mean(g) - x_hat * _mean(g * x_hat)) * inverse
    return dx.reshape(x.shape), dgamma, dbeta


def _normalized(x: Array, groups: int, eps: float) -> tuple[Array, Array]:
    """(x_hat (N, positions, groups, C / groups), 1 / sqrt(var + eps), to be repeated along two of these axes)."""
    parts = x.reshape(len(x), math.prod(x.shape[1:-1]), groups, x.shape[-1] // groups)
    away = parts - _mean(parts)
    away -= _mean(away)  # what the rounding of the mean has left
    inverse = 1 / xp_of(x).sqrt(_mean(away * away) + x.dtype.type(eps))
    return away * inverse, inverse


def _mean(parts: Array) -> Array:
    """Of each sample's groups; the sums in float64."""
    count = parts.shape[1] * parts.shape[3]
    return (parts.sum(axis=(1, 3), dtype=np.float64, keepdims=True) / count).astype(parts.dtype)
