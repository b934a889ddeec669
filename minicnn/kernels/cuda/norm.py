"""Batch normalisation and sums of columns on the GPU: norm.cu. The formulas are in `kernels/norm.py` and `sums.py`."""

from __future__ import annotations

from typing import Any

import numpy as np

from minicnn.backend import Array, xp_of
from minicnn.kernels.cuda.launch import MAX_BLOCKS, PACK_BYTES, WIDTH, Kernel, kernel_for, width_of

THREADS, COLUMNS = 256, 32  # of a block, see norm.cu
# Where blocks leave sums: rows of a block, at least, and blocks, at most. Fewer rows would make more parts to add up,
# more would leave processors idle. Where they leave none: rows of a thread.
ROWS_A_PART, MAX_PARTS, ROWS_A_THREAD = 256, 512, 4
MAX_PARTIAL, MAX_ARRIVALS = 1 << 19, 4096  # of the workspace: 4 MB, and enough for 131,072 columns

# (CuPy, device, stream) -> (partial, arrivals): kernels of one stream run one after another
_workspaces: dict[tuple[Any, int, int], tuple[Array, Array]] = {}


def moments(x: Array) -> tuple[Array, Array]:
    """(mean (C,), biased variance (C,)) of x (..., C) over all axes but the last, of float64."""
    exact = xp_of(x).empty((2, x.shape[-1]), np.float64)
    _sums("moments", 3, x, (None, None, exact, *[None] * 4), (x,), 0, 0)
    return exact[0], exact[1]


def statistics(x: Array, moving_mean: Array, moving_variance: Array, momentum: float) -> tuple[Array, ...]:
    """(mean, variance, new moving_mean, new moving_variance), (C,) each and of x's dtype; in one launch."""
    xp, moving = xp_of(x), _like(x, moving_mean, moving_variance)
    results = [xp.empty(x.shape[-1], x.dtype) for _ in range(4)]
    _sums("moments", 3, x, (*results[:2], None, *results[2:], *moving), (x,), momentum, 1 - momentum)
    return tuple(results)


def _sums(name: str, sums: int, x: Array, results: tuple[Any, ...], inputs: tuple[Array, ...], *numbers: float) -> None:
    """Start a kernel that adds up so many sums of x's columns: results, partial, arrivals, inputs, numbers, ROWS, C."""
    xp, c = xp_of(x), x.shape[-1]
    # Not where the arrays lie decides: the order of a sum may not depend on that.
    rows, width = x.size // c, WIDTH if c % WIDTH == 0 and x.dtype == np.float32 else 1
    blocks = -(-c // COLUMNS), max(1, min(MAX_PARTS, -(-rows // ROWS_A_PART)))
    work = workspace(xp, sums * blocks[1] * c, blocks[0])
    kernel = _kernel(name, x, width)
    kernel(blocks, (THREADS,), *results, *work, *_like(x, *inputs), *numbers, rows, c // width)


def _rows(name: str, y: Array, inputs: tuple[Array, ...], *numbers: float) -> None:
    """Start a kernel that computes the rows of y: y, inputs, numbers, ROWS, C."""
    c = y.shape[-1]
    rows, width = y.size // c, width_of(c, y, *inputs)
    lines = THREADS * width // COLUMNS
    blocks = -(-c // COLUMNS), max(1, min(MAX_BLOCKS, -(-rows // (lines * ROWS_A_THREAD))))
    _kernel(name, y, width)(blocks, (THREADS,), y, *inputs, *numbers, rows, c // width)


def workspace(xp: Any, numbers: int = 0, columns: int = 0) -> tuple[Array, Array]:
    """(partial, arrivals) of norm.cu for the current stream, at least so long; arrivals are 0.

    It is made once, since no kernel leaves other arrivals than 0, and what is in partial nobody needs afterwards.
    """
    if numbers > MAX_PARTIAL or columns > MAX_ARRIVALS:
        return xp.empty(numbers, np.float64), xp.zeros(columns, np.uint32)
    key = xp, xp.cuda.Device().id, xp.cuda.get_current_stream().ptr
    if key not in _workspaces:
        _workspaces[key] = xp.empty(MAX_PARTIAL, np.float64), xp.zeros(MAX_ARRIVALS, np.uint32)
    return _workspaces[key]


def batchnorm_forward(
    x: Array, gamma: Array, beta: Array, mean: Array, var: Array, eps: float, out: Array | None = None
) -> Array:
    """y of x's shape (..., C), written to `out`, C-contiguous, which may be x; gamma, beta, mean, var are (C,)."""
    y = xp_of(x).empty(x.shape, x.dtype) if out is None else out
    _rows("batchnorm_forward", y, _like(x, x, gamma, beta, mean, var), eps)
    return y


def parameter_gradients(dy: Array, x: Array, mean: Array, var: Array, eps: float) -> tuple[Array, Array]:
    """(dgamma (C,), dbeta (C,)): the sums of dy * x_hat and of dy over all rows of x."""
    xp, c = xp_of(x), x.shape[-1]
    dgamma, dbeta = xp.empty(c, x.dtype), xp.empty(c, x.dtype)
    _sums("gradients", 2, x, (dgamma, dbeta), (dy, x, mean, var), eps)
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
    dx = xp_of(x).empty(x.shape, x.dtype)
    _rows("batchnorm_backward", dx, _like(x, dy, x, gamma, mean, var, *sums), eps, n)
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
    _sums("relu_backward_sums", 1, dy, (dz, db), (dy, y), scale)
    return dz, db


def max_norm(w: Array, most: float, epsilon: float, out: Array | None = None) -> Array:
    """w (..., C), each column of which is shortened to the length `most` if it is longer.

    out: where to write it, C-contiguous; w itself is allowed.
    """
    xp = xp_of(w)
    lengths, y = xp.empty(w.shape[-1], w.dtype), xp.empty(w.shape, w.dtype) if out is None else out
    (w,) = _like(w, w)
    _sums("column_lengths", 1, w, (lengths,), (w,))
    _rows("shortened", y, (w, lengths), most, epsilon)
    return y


def _like(x: Array, *others: Array) -> tuple[Array, ...]:
    """Arrays as a kernel for x must have them: in one row in memory, of its dtype, and where Packs can begin."""
    xp, dtype, ready = xp_of(x), x.dtype, []
    for other in others:
        row = xp.ascontiguousarray(other, dtype)
        ready.append(row.copy() if row.data.ptr % PACK_BYTES else row)
    return tuple(ready)


def _kernel(name: str, x: Array, width: int) -> Kernel:
    return kernel_for(xp_of(x), "norm", name, x.dtype, x.size, width > 1)
