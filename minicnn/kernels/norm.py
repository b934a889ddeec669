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

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from minicnn.backend import Array, blank, scratch, tiles, xp_of
from minicnn.kernels import cuda
from minicnn.kernels.sums import column_sums, column_sums_of_products

AllReduce: TypeAlias = Callable[[Array], Array]  # the sum of an array over all shards of the batch


def batchnorm_moments(x: Array, all_reduce: AllReduce | None = None) -> tuple[Array, Array, int]:
    """(mean (C,), biased variance (C,), rows) of x (N, C) or (N, H, W, C), rows = N or N*H*W.

    With `all_reduce`, x is one shard and the result is that of the whole batch. How parts are joined, and why sums are
    taken about a large mean: T. Chan, G. Golub, R. LeVeque, "Algorithms for Computing the Sample Variance" (1983).
    """
    count = x.size // x.shape[-1]
    return moments_of_batch(moments_of(x), count, x.dtype, all_reduce)


def moments_of_batch(
    own: tuple[Array, Array], count: int, dtype: np.dtype, all_reduce: AllReduce | None = None
) -> tuple[Array, Array, int]:
    """(mean, variance, rows) of the whole batch, in this dtype. own: mean and variance of one shard, of count rows."""
    mean, var = own
    if all_reduce is not None:
        xp, share, own_mean = xp_of(mean), count, mean
        totals = all_reduce(xp.stack([xp.full(len(mean), float(share)), share * mean]))
        count = int(totals[0, 0])
        mean = totals[1] / count
        var = all_reduce(share * (var + (own_mean - mean) ** 2)) / count
    return mean.astype(dtype, copy=False), var.astype(dtype, copy=False), count


def joined_moments(parts: Sequence[tuple[int, Array, Array]]) -> tuple[Array, Array]:
    """(mean, variance) of all rows, from (rows, mean, variance) of each part.

    A part varies about its own mean, and the means vary, too: that is var + (own mean - mean)² for each of its rows.
    """
    if len(parts) == 1:
        return parts[0][1:]
    count = sum(rows for rows, _, _ in parts)
    mean = sum(rows * own for rows, own, _ in parts) / count
    return mean, sum(rows * (var + (own - mean) ** 2) for rows, own, var in parts) / count


def batchnorm_statistics(
    x: Array, moving_mean: Array, moving_variance: Array, momentum: float, all_reduce: AllReduce | None = None,
    moments: tuple[Array, Array] | None = None,
) -> tuple[Array, Array, Array, Array]:  # fmt: skip
    """(mean, variance, new moving_mean, new moving_variance), (C,) each: what a training step needs of x.

    The running means follow the batch's moments: new = momentum * old + (1 - momentum) * batch.
    moments: (mean, variance) of this x in float64, where somebody knows them.
    """
    if all_reduce is None and moments is None:
        return _statistics_of_all(x, moving_mean, moving_variance, momentum)
    own = moments_of(x) if moments is None else moments
    mean, var, _ = moments_of_batch(own, x.size // x.shape[-1], x.dtype, all_reduce)
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
def moments_of(x: Array) -> tuple[Array, Array]:
    """(mean, biased variance) of this x alone, in float64."""
    parts = [x[part] for part in tiles(x)]
    return joined_moments([(part.size // x.shape[-1], *_moments_of_tile(part)) for part in parts])


def _moments_of_tile(x: Array) -> tuple[Array, Array]:
    """var = mean of x² - mean²; of x - shift where that would cancel too many digits."""
    xp, rows, c = xp_of(x), _wide(x), x.shape[-1]
    count = x.size // c
    mean = _channels(column_sums(rows), c) / count
    var = xp.maximum(_channels(column_sums_of_products(rows, rows), c) / count - mean**2, 0)
    shift = centre(mean, var, x)
    if shift is None:
        return mean, var
    d = _minus(rows, shift)
    offset = _channels(column_sums(d), c) / count
    var = _channels(column_sums_of_products(d, d), c) / count - offset**2
    return shift[:c].astype(np.float64) + offset, xp.maximum(var, 0)


@cuda.on_gpu(cuda.batchnorm_forward)
def batchnorm_forward(
    x: Array, gamma: Array, beta: Array, mean: Array, var: Array, eps: float, out: Array | None = None
) -> Array:
    """y of x's shape (N, C) or (N, H, W, C); gamma, beta, mean, var are (C,). For training and for evaluation.

    out: where to write y; x itself is allowed, if it is contiguous. None: into a new array.
    """
    scale, shift = (repeated(v, x) for v in batchnorm_scale_and_shift(gamma, beta, mean, var, eps))
    return put_scaled(x, scale, shift, blank(x) if out is None else out)


def put_scaled(x: Array, scale: Array, shift: Array, out: Array) -> Array:
    """Write x * scale + shift to `out`, which is contiguous, and return it. scale, shift: as `repeated` makes them."""
    xp, wide = xp_of(x), _wide(x)
    y = out.reshape(wide.shape)
    for part in tiles(wide):
        xp.multiply(wide[part], scale, out=y[part])
        y[part] += shift
    return out


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
    dgamma, dbeta = parameter_gradients(dy, x, mean, var, eps)
    sums, rows = sums_of_batch(dgamma, dbeta, x.size // x.shape[-1], all_reduce)
    dx = _input_gradient(dy, x, gamma, mean, var, sums, eps, rows) if need_dx else None
    return dx, dgamma, dbeta


def sums_of_batch(
    dgamma: Array, dbeta: Array, rows: int, all_reduce: AllReduce | None
) -> tuple[tuple[Array, Array], int]:
    """((dgamma, dbeta), rows) of the whole batch. Every shard must take part, whether it needs dx or not."""
    if all_reduce is None:
        return (dgamma, dbeta), rows
    xp = xp_of(dgamma)
    totals = all_reduce(xp.stack([xp.full_like(dgamma, rows), dgamma, dbeta]))
    return (totals[1], totals[2]), int(totals[0, 0])


@cuda.on_gpu(cuda.input_gradient)
def _input_gradient(
    dy: Array, x: Array, gamma: Array, mean: Array, var: Array, sums: tuple[Array, Array], eps: float, n: int
) -> Array:
    """dx. sums: dgamma and dbeta of the whole batch, which has n rows."""
    terms = gradient_terms(gamma, mean, var, sums, eps, n)
    return put_input_gradient(dy, x, [repeated(v, x) for v in terms], blank(x))


def gradient_terms(
    gamma: Array, mean: Array, var: Array, sums: tuple[Array, Array], eps: float, n: int
) -> tuple[Array, Array, Array]:
    """(a, b, constant), (C,) each: the rule above, sorted by what varies: dx = a * dy + b * x + constant."""
    mean_dy_xhat, mean_dy = (sum_ / n for sum_ in sums)
    inv_std = 1 / xp_of(mean).sqrt(var + var.dtype.type(eps))
    a = gamma * inv_std
    b = -a * inv_std * mean_dy_xhat
    return a, b, -a * mean_dy - b * mean


def put_input_gradient(dy: Array, x: Array, terms: Sequence[Array], out: Array) -> Array:
    """Write a * dy + b * x + constant to `out`, which is contiguous, and return it. terms: these three, `repeated`."""
    xp, wide, wide_dy, (a, b, constant) = xp_of(x), _wide(x), _wide(dy), terms
    dx = out.reshape(wide.shape)
    for part in tiles(wide):
        bx = xp.multiply(wide[part], b, out=scratch(xp, "d", wide[part].shape, x.dtype))
        bx += constant
        xp.multiply(wide_dy[part], a, out=dx[part])
        dx[part] += bx
    return out


def batchnorm_eval_backward(
    dy: Array, x: Array, gamma: Array, mean: Array, var: Array, eps: float, need_dx: bool = True
) -> tuple[Array | None, Array, Array]:
    """(dx, dgamma, dbeta) where mean and var are constants (running statistics): dx = dy * gamma / sqrt(var + eps)."""
    dgamma, dbeta = parameter_gradients(dy, x, mean, var, eps)
    dx = dy * (gamma / xp_of(x).sqrt(var + x.dtype.type(eps))) if need_dx else None
    return dx, dgamma, dbeta


@cuda.on_gpu(cuda.parameter_gradients)
def parameter_gradients(
    dy: Array, x: Array, mean: Array, var: Array, eps: float
) -> tuple[Array, Array]:
    """(dgamma, dbeta): the sums of dy * x_hat and of dy over all rows of this x."""
    shift = centre(mean, var, x)
    return gradients_of_sums(product_sums(dy, x, shift), shift, mean, var, eps)


def product_sums(dy: Array, x: Array, shift: Array | None) -> Array:
    """(2, C) of float64: the sums of dy * (x - shift) and of dy over all rows."""
    wide, wide_dy, c = _wide(x), _wide(dy), x.shape[-1]
    sums = xp_of(x).zeros((2, wide.shape[1]), np.float64)
    for part in tiles(wide):
        sums[0] += column_sums_of_products(_minus(wide[part], shift), wide_dy[part])
        sums[1] += column_sums(wide_dy[part])
    return sums.reshape(2, -1, c).sum(axis=1)


def gradients_of_sums(
    sums: Array, shift: Array | None, mean: Array, var: Array, eps: float
) -> tuple[Array, Array]:
    """(dgamma, dbeta) from what `product_sums` gave with this shift, which was that of `centre`."""
    from_mean = sums[0] - mean * sums[1] if shift is None else sums[0]
    dgamma = from_mean / xp_of(mean).sqrt(var.astype(np.float64) + eps)
    return dgamma.astype(mean.dtype), sums[1].astype(mean.dtype)


def _wide(x: Array) -> Array:
    """x as rows of W*C numbers, in which each channel stands W times. (N, C) stays as it is."""
    xp = xp_of(x)
    return xp.ascontiguousarray(x) if x.ndim == 2 else xp.ascontiguousarray(x).reshape(-1, x.shape[-2] * x.shape[-1])


def repeated(v: Array, x: Array) -> Array:
    """v (C,) as often as the channels of x stand in a row that is W*C numbers wide."""
    return v if x.ndim == 2 else xp_of(v).tile(v, x.shape[-2])


def centre(mean: Array, var: Array, x: Array) -> Array | None:
    """What to take off the rows of x before products are summed: the mean, or nothing.

    Sums about 0 cancel later, which costs digits where the mean is many standard deviations away from 0. Up to 4 it is
    hardly more than one, and a pass over the memory is saved.
    """
    if bool((mean * mean <= 16 * var).all()):
        return None
    return repeated(mean.astype(x.dtype), x)


def _minus(rows: Array, shift: Array | None) -> Array:
    """rows - shift, in scratch memory; the rows themselves where there is nothing to take off."""
    if shift is None:
        return rows
    xp = xp_of(rows)
    return xp.subtract(rows, shift, out=scratch(xp, "d", rows.shape, rows.dtype))


def _channels(sums: Array, c: int) -> Array:
    """(C,) of float64 from the sums over wide rows (W*C,): those of a channel's W columns together."""
    return sums.reshape(-1, c).sum(axis=0, dtype=np.float64)
