"""Batch normalisation and sums of columns on the GPU: norm.cu. The formulas are in `kernels/norm.py` and `sums.py`."""

from __future__ import annotations

from typing import Any

import numpy as np

from minicnn.backend import Array, xp_of
from minicnn.kernels.cuda.launch import Kernel, kernel_for

LINES = 8  # of a block, see norm.cu
ROWS_A_THREAD = 32  # in a column; fewer would make more parts to add up, more would leave processors idle
MAX_PARTS = 512


def moments(x: Array) -> tuple[Array, Array]:
    """(mean (C,), biased variance (C,)) of x (..., C) over all axes but the last, of float64."""
    exact = xp_of(x).empty((2, x.shape[-1]), np.float64)
    _moments(x, (None, None, exact, None, None, None, None, 0, 0))
    return exact[0], exact[1]


def statistics(x: Array, moving_mean: Array, moving_variance: Array, momentum: float) -> tuple[Array, ...]:
    """(mean, variance, new moving_mean, new moving_variance), (C,) each and of x's dtype; in two launches."""
    xp, moving = xp_of(x), _like(x, moving_mean, moving_variance)
    results = [xp.empty(x.shape[-1], x.dtype) for _ in range(4)]
    _moments(x, (*results[:2], None, *results[2:], *moving, momentum, 1 - momentum))
    return tuple(results)


def _moments(x: Array, arguments: tuple[Any, ...]) -> None:
    """Start moments_total of norm.cu with its first nine arguments."""
    xp = xp_of(x)
    x = xp.ascontiguousarray(x)
    rows, c = x.size // x.shape[-1], x.shape[-1]
    grid = _grid(rows, c)
    partial = xp.empty((3, grid[1], c), np.float64)
    _kernel("moments_partial", x)(grid, (32, LINES), partial, x, rows, c)
    _kernel("moments_total", x)((-(-c // 32),), (32,), *arguments, partial, grid[1], c)


def batchnorm_forward(
    x: Array, gamma: Array, beta: Array, mean: Array, var: Array, eps: float, out: Array | None = None
) -> Array:
    """y of x's shape (..., C), written to `out`, C-contiguous, which may be x; gamma, beta, mean, var are (C,)."""
    xp = xp_of(x)
    x, y = xp.ascontiguousarray(x), xp.empty(x.shape, x.dtype) if out is None else out
    rows, c = x.size // x.shape[-1], x.shape[-1]
    kernel = _kernel("batchnorm_forward", x)
    kernel(_grid(rows, c), (32, LINES), y, x, *_like(x, gamma, beta, mean, var), eps, rows, c)
    return y


def parameter_gradients(dy: Array, x: Array, mean: Array, var: Array, eps: float) -> tuple[Array, Array]:
    """(dgamma (C,), dbeta (C,)): the sums of dy * x_hat and of dy over all rows of x."""
    xp = xp_of(x)
    (dy,), x = _like(x, dy), xp.ascontiguousarray(x)
    rows, c = x.size // x.shape[-1], x.shape[-1]
    grid = _grid(rows, c)
    partial = xp.empty((2, grid[1], c), np.float64)
    dgamma, dbeta = xp.empty(c, x.dtype), xp.empty(c, x.dtype)
    kernel = _kernel("gradients_partial", x)
    kernel(grid, (32, LINES), partial, dy, x, *_like(x, mean), rows, c)
    total = _kernel("gradients_total", x)
    total((-(-c // 32),), (32,), dgamma, dbeta, partial, *_like(x, var), eps, grid[1], c)
    return dgamma, dbeta


def input_gradient(
    dy: Array,
    x: Array,
    gamma: Array,
    mean: Array,
    var: Array,
    sums: tuple[Array, Array],
    eps: float,
    n: int,
) -> Array:
    """dx. sums: dgamma and dbeta of the whole batch of n rows."""
    xp = xp_of(x)
    (dy,), x, dx = _like(x, dy), xp.ascontiguousarray(x), xp.empty(x.shape, x.dtype)
    rows, c = x.size // x.shape[-1], x.shape[-1]
    kernel = _kernel("batchnorm_backward", x)
    vectors = _like(x, gamma, mean, var, *sums)
    kernel(_grid(rows, c), (32, LINES), dx, dy, x, *vectors, eps, n, rows, c)
    return dx


def column_sums(rows: Array) -> Array:
    """(C,): the sum of each column of rows (R, C), added up in float64."""
    xp, (count, c) = xp_of(rows), rows.shape
    rows, grid = xp.ascontiguousarray(rows), _grid(count, c)
    partial, sums = xp.empty((grid[1], c), np.float64), xp.empty(c, rows.dtype)
    kernel = _kernel("column_sums_partial", rows)
    kernel(grid, (32, LINES), partial, rows, count, c)
    _kernel("column_sums_total", rows)((-(-c // 32),), (32,), sums, partial, grid[1], c)
    return sums


def _grid(rows: int, c: int) -> tuple[int, int]:
    """Blocks of 32 channels, and of some rows."""
    return -(-c // 32), max(1, min(MAX_PARTS, -(-rows // (LINES * ROWS_A_THREAD))))


def _like(x: Array, *others: Array) -> list[Array]:
    """The other arrays as a kernel for x must have them: in one row in memory, and of its dtype."""
    return [xp_of(x).ascontiguousarray(other, x.dtype) for other in others]


def _kernel(name: str, x: Array) -> Kernel:
    return kernel_for(xp_of(x), "norm", name, x.dtype, x.size)
