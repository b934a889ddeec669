"""Batch normalisation: give every channel mean 0 and variance 1, then a learned scale and shift.

    x_hat = (x - mean) / sqrt(var + eps)        y = gamma * x_hat + beta

mean and var are taken for each channel over all other axes: N for (N, C), N*H*W for (N, H, W, C). They depend on x, so
in training dy reaches x by three paths: directly, through the mean, and through the variance:

    dgamma = sum of dy * x_hat      dbeta = sum of dy
    dx = gamma / sqrt(var + eps) * (dy - mean of dy - x_hat * mean of (dy * x_hat))

S. Ioffe, C. Szegedy, "Batch Normalization" (2015), section 3. Reference implementations:
`reference.batchnorm_forward` and so on.

All loops here walk over cache-sized tiles of "wide" rows: an image row of W pixels and C channels is one row of W*C
numbers, and each coefficient is repeated W times. Long rows are what NumPy is fast at.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from minicnn.backend import Array, scratch, tiles, xp_of
from minicnn.kernels import cuda
from minicnn.kernels.sums import column_sums, column_sums_of_products

AllReduce: TypeAlias = Callable[[Array], Array]  # the sum of an array over all shards of the batch


def batchnorm_moments(x: Array, all_reduce: AllReduce | None = None) -> tuple[Array, Array, int]:
    """(mean (C,), biased variance (C,), rows) of x (N, C) or (N, H, W, C), rows = N or N*H*W.

    With `all_reduce`, x is one shard and the result is that of the whole batch. Where the mean is large, the sums are
    those of x minus a first guess of it, which costs no precision: T. Chan, G. Golub, R. LeVeque, "Algorithms for
    Computing the Sample Variance" (1983).
    """
    xp, c = xp_of(x), x.shape[-1]
    count = x.size // c
    mean, var = _moments(x)
    if all_reduce is not None:  # of the shards' moments: each varies about its own mean, and the means vary too
        share = count
        totals = all_reduce(xp.stack([xp.full(c, float(share)), share * mean]))
        count, own_mean = int(totals[0, 0]), mean
        mean = totals[1] / count
        var = all_reduce(share * (var + (own_mean - mean) ** 2)) / count
    return mean.astype(x.dtype, copy=False), var.astype(x.dtype, copy=False), count


def batchnorm_statistics(
    x: Array, moving_mean: Array, moving_variance: Array, momentum: float, all_reduce: AllReduce | None = None
) -> tuple[Array, Array, Array, Array]:
    """(mean, variance, new moving_mean, new moving_variance), (C,) each: what a training step needs of x.

    The running means follow the batch's moments: new = momentum * old + (1 - momentum) * batch.
    """
    if all_reduce is None:
        return _statistics_of_all(x, moving_mean, moving_variance, momentum)
    mean, var, _ = batchnorm_moments(x, all_reduce)
    return mean, var, *_moved(moving_mean, moving_variance, mean, var, momentum)


@cuda.on_gpu(cuda.statistics)
def _statistics_of_all(
    x: Array, moving_mean: Array, moving_variance: Array, momentum: float
) -> tuple[Array, Array, Array, Array]:
    mean, var, _ = batchnorm_moments(x)
    return mean, var, *_moved(moving_mean, moving_variance, mean, var, momentum)


def _moved(moving_mean: Array, moving_variance: Array, mean: Array, var: Array, momentum: float) -> tuple[Array, Array]:
    share = 1 - momentum
    return momentum * moving_mean + share * mean, momentum * moving_variance + share * var


@cuda.on_gpu(cuda.moments)
def _moments(x: Array) -> tuple[Array, Array]:
    """(mean, biased variance) of this x alone, in float64."""
    xp, c = xp_of(x), x.shape[-1]
    wide, repeat = _wide(x)
    count = x.size // c
    sample = x.reshape(count, c)[:: max(1, count // 256)].astype(np.float64)
    guess = sample.mean(axis=0)
    shift = _shift(guess, sample.var(axis=0), repeat, x.dtype)
    sums = xp.zeros((2, c), np.float64)
    for part in tiles(wide):
        d = _minus(wide[part], shift)
        sums[0] += _channels(column_sums(d), c)
        sums[1] += _channels(column_sums_of_products(d, d), c)
    offset, guess = sums[0] / count, 0 if shift is None else shift[:c].astype(np.float64)
    return guess + offset, xp.maximum(sums[1] / count - offset**2, 0)


@cuda.on_gpu(cuda.batchnorm_forward)
def batchnorm_forward(
    x: Array, gamma: Array, beta: Array, mean: Array, var: Array, eps: float, out: Array | None = None
) -> Array:
    """y of x's shape (N, C) or (N, H, W, C); gamma, beta, mean, var are (C,). For training and for evaluation.

    out: where to write y; x itself is allowed, if it is contiguous. None: into a new array.
    """
    xp, (wide, repeat) = xp_of(x), _wide(x)
    scale, shift = (_repeated(v, repeat) for v in batchnorm_scale_and_shift(gamma, beta, mean, var, eps))
    y = xp.empty_like(wide) if out is None else out.reshape(wide.shape)
    for part in tiles(wide):
        xp.multiply(wide[part], scale, out=y[part])
        y[part] += shift
    return y.reshape(x.shape)


def batchnorm_scale_and_shift(gamma: Array, beta: Array, mean: Array, var: Array, eps: float) -> tuple[Array, Array]:
    """(scale, shift), both (C,): batch normalisation with known mean and variance is y = x * scale + shift."""
    scale = gamma / xp_of(mean).sqrt(var + mean.dtype.type(eps))
    return scale, beta - mean * scale


def batchnorm_backward(
    dy: Array,
    x: Array,
    gamma: Array,
    mean: Array,
    var: Array,
    eps: float,
    all_reduce: AllReduce | None = None,
    need_dx: bool = True,
) -> tuple[Array | None, Array, Array]:
    """(dx, dgamma, dbeta) in training mode: mean and var are those of x (of the whole batch, where x is a shard).

    dgamma and dbeta are this shard's own share; dx needs the sums over the whole batch, and asks `all_reduce` for them.
    """
    dgamma, dbeta = _parameter_gradients(dy, x, mean, var, eps)
    rows, sums = x.size // x.shape[-1], (dgamma, dbeta)
    if all_reduce is not None:  # every shard must take part, whether it needs dx or not
        xp = xp_of(x)
        totals = all_reduce(xp.stack([xp.full_like(dgamma, rows), dgamma, dbeta]))
        rows, sums = int(totals[0, 0]), (totals[1], totals[2])
    dx = _input_gradient(dy, x, gamma, mean, var, sums, eps, rows) if need_dx else None
    return dx, dgamma, dbeta


@cuda.on_gpu(cuda.input_gradient)
def _input_gradient(
    dy: Array, x: Array, gamma: Array, mean: Array, var: Array, sums: tuple[Array, Array], eps: float, n: int
) -> Array:
    """dx. sums: dgamma and dbeta of the whole batch, which has n rows.

    The rule above, sorted by what varies: dx = a * dy + b * x + constant.
    """
    xp = xp_of(x)
    mean_dy_xhat, mean_dy = (sum_ / n for sum_ in sums)
    inv_std = 1 / xp.sqrt(var + x.dtype.type(eps))
    a = gamma * inv_std
    b = -a * inv_std * mean_dy_xhat
    constant = -a * mean_dy - b * mean
    (wide, repeat), (wide_dy, _) = _wide(x), _wide(dy)
    a, b, constant = (_repeated(v, repeat) for v in (a, b, constant))
    dx = xp.empty_like(wide)
    for part in tiles(wide):
        bx = xp.multiply(wide[part], b, out=scratch(xp, "d", wide[part].shape, x.dtype))
        bx += constant
        xp.multiply(wide_dy[part], a, out=dx[part])
        dx[part] += bx
    return dx.reshape(x.shape)


def batchnorm_eval_backward(
    dy: Array, x: Array, gamma: Array, mean: Array, var: Array, eps: float, need_dx: bool = True
) -> tuple[Array | None, Array, Array]:
    """(dx, dgamma, dbeta) where mean and var are constants (running statistics): dx = dy * gamma / sqrt(var + eps)."""
    dgamma, dbeta = _parameter_gradients(dy, x, mean, var, eps)
    dx = dy * (gamma / xp_of(x).sqrt(var + x.dtype.type(eps))) if need_dx else None
    return dx, dgamma, dbeta


@cuda.on_gpu(cuda.parameter_gradients)
def _parameter_gradients(
    dy: Array, x: Array, mean: Array, var: Array, eps: float
) -> tuple[Array, Array]:
    """(dgamma, dbeta): the sums of dy * x_hat and of dy over all rows of this x."""
    xp, c = xp_of(x), x.shape[-1]
    (wide, repeat), (wide_dy, _) = _wide(x), _wide(dy)
    shift = _shift(mean, var, repeat, x.dtype)
    sums = xp.zeros((2, c), np.float64)
    for part in tiles(wide):
        sums[0] += _channels(column_sums_of_products(_minus(wide[part], shift), wide_dy[part]), c)
        sums[1] += _channels(column_sums(wide_dy[part]), c)
    if shift is None:
        sums[0] -= mean * sums[1]
    dgamma = sums[0] / xp.sqrt(var.astype(np.float64) + eps)
    return dgamma.astype(x.dtype), sums[1].astype(x.dtype)


def _wide(x: Array) -> tuple[Array, int]:
    """x as rows of W*C numbers, and W: how often the channels repeat in a row. (N, C) stays as it is."""
    xp = xp_of(x)
    if x.ndim == 2:
        return xp.ascontiguousarray(x), 1
    w, c = x.shape[-2:]
    return xp.ascontiguousarray(x).reshape(-1, w * c), w


def _repeated(v: Array, repeat: int) -> Array:
    return xp_of(v).tile(v, repeat)


def _shift(mean: Array, var: Array, repeat: int, dtype: np.dtype) -> Array | None:
    """What to take off a wide row before products are summed: the mean, or nothing.

    Sums about 0 cancel later, which costs digits where the mean is many standard deviations away from 0. Up to 4 it is
    hardly more than one, and a pass over the memory is saved.
    """
    if bool((mean * mean <= 16 * var).all()):
        return None
    return _repeated(mean.astype(dtype), repeat)


def _minus(rows: Array, shift: Array | None) -> Array:
    """rows - shift, in scratch memory; the rows themselves where there is nothing to take off."""
    if shift is None:
        return rows
    xp = xp_of(rows)
    return xp.subtract(rows, shift, out=scratch(xp, "d", rows.shape, rows.dtype))


def _channels(sums: Array, c: int) -> Array:
    """(C,) from the sums over wide rows (W*C,): those of a channel's W columns together."""
    return sums.reshape(-1, c).sum(axis=0)
