"""Batch normalisation and sums of columns on the GPU: norm.cu. The formulas are in `kernels/norm.py` and `sums.py`."""

from __future__ import annotations

from typing import Any

import numpy as np

from minicnn.backend import Array, xp_of
from minicnn.kernels.cuda.launch import Kernel, kernel_for

LINES = 8  # of a block, see norm.cu
ROWS_A_THREAD = 32  # in a column; fewer would make more parts to add up, more would leave processors idle
MAX_PARTS = 512
COUNTS = 4096  # of `arrivals`: enough for 131,072 columns

# (CuPy, device, stream) -> arrivals: kernels of one stream run one after another
_arrivals: dict[tuple[Any, int, int], Array] = {}


def moments(x: Array) -> tuple[Array, Array]:
    """(mean (C,), biased variance (C,)) of x (..., C) over all axes but the last, of float64."""
    exact = xp_of(x).empty((2, x.shape[-1]), np.float64)
    _sums("moments", 3, x, (None, None, exact, None, None, None, None, 0, 0), (x,))
    return exact[0], exact[1]


def statistics(x: Array, moving_mean: Array, moving_variance: Array, momentum: float) -> tuple[Array, ...]:
    """(mean, variance, new moving_mean, new moving_variance), (C,) each and of x's dtype; in one launch."""
    xp, moving = xp_of(x), _like(x, moving_mean, moving_variance)
    results = [xp.empty(x.shape[-1], x.dtype) for _ in range(4)]
    _sums("moments", 3, x, (*results[:2], None, *results[2:], *moving, momentum, 1 - momentum), (x,))
    return tuple(results)


def _sums(name: str, sums: int, x: Array, results: tuple[Any, ...], inputs: tuple[Any, ...]) -> None:
    """Start a kernel that adds up so many sums of x's columns: results, partial, arrivals, inputs, ROWS, C."""
    xp, c = xp_of(x), x.shape[-1]
    rows = x.size // c
    grid = _grid(rows, c)
    partial, counts = xp.empty((sums, grid[1], c), np.float64), arrivals(xp, grid[0])
    _kernel(name, x)(grid, (32, LINES), *results, partial, counts, *_like(x, *inputs), rows, c)


def arrivals(xp: Any, count: int = COUNTS) -> Array:
    """The counts of norm.cu for the current stream, 0 each: at least `count`. No kernel leaves them otherwise."""
    if count > COUNTS:
        return xp.zeros(count, np.uint32)
    key = xp, xp.cuda.Device().id, xp.cuda.get_current_stream().ptr
    if key not in _arrivals:
        _arrivals[key] = xp.zeros(COUNTS, np.uint32)
    return _arrivals[key]


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
    xp, c = xp_of(x), x.shape[-1]
    dgamma, dbeta = xp.empty(c, x.dtype), xp.empty(c, x.dtype)
    _sums("gradients", 2, x, (dgamma, dbeta), (dy, x, mean, var, eps))
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
    sums = xp_of(rows).empty(rows.shape[1], rows.dtype)
    _sums("column_sums", 1, rows, (sums,), (rows,))
    return sums


def relu_backward_sums(dy: Array, y: Array, scale: float = 1.0) -> tuple[Array, Array]:
    """(dz, db): dy (..., C) times scale where y > 0, else 0; and the sum of each of dz's columns, (C,)."""
    xp = xp_of(dy)
    dz, db = xp.empty(dy.shape, dy.dtype), xp.empty(dy.shape[-1], dy.dtype)
    _sums("relu_backward_sums", 1, dy, (dz, db), (dy, y, scale))
    return dz, db


def max_norm(w: Array, most: float, epsilon: float) -> Array:
    """w (..., C), each column of which is shortened to the length `most` if it is longer."""
    xp, c = xp_of(w), w.shape[-1]
    (w,), lengths, y = _like(w, w), xp.empty(c, w.dtype), xp.empty(w.shape, w.dtype)
    _sums("column_lengths", 1, w, (lengths,), (w,))
    rows = w.size // c
    _kernel("shortened", w)(_grid(rows, c), (32, LINES), y, w, lengths, most, epsilon, rows, c)
    return y


def _grid(rows: int, c: int) -> tuple[int, int]:
    """Blocks of 32 channels, and of some rows."""
    return -(-c // 32), max(1, min(MAX_PARTS, -(-rows // (LINES * ROWS_A_THREAD))))


def _like(x: Array, *others: Any) -> list[Any]:
    """Arrays as a kernel for x must have them: in one row in memory, and of its dtype. Numbers stay as they are."""
    xp = xp_of(x)
    return [xp.ascontiguousarray(o, x.dtype) if isinstance(o, xp.ndarray) else o for o in others]


def _kernel(name: str, x: Array) -> Kernel:
    return kernel_for(xp_of(x), "norm", name, x.dtype, x.size)
