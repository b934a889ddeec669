"""Sums over the rows of a matrix, as the gradient of a bias or a mean needs them.

In float32 every addition rounds. Thousands of them, one after another, cost some of its seven digits: 2^24 ones and one
more are 2^24. So the rows are added up in runs of RUN, in their own dtype, and the sums of the runs in float64.
N. Higham, "The Accuracy of Floating Point Summation" (1993). There may be no row at all.
"""

from __future__ import annotations

import numpy as np

from minicnn.backend import Array, matmul, xp_of
from minicnn.kernels import cuda

RUN = 256


@cuda.on_gpu(cuda.column_sums)
def column_sums(rows: Array) -> Array:
    """(..., M) sums of the columns of (..., R, M); of float64, or where that gains nothing of the rows' dtype.

    A product with ones is faster than rows.sum(axis=-2).
    """
    xp = xp_of(rows)
    if rows.shape[-2] <= RUN:
        return matmul(xp.ones(rows.shape[-2], rows.dtype), rows)
    runs, rest = _in_runs(rows)
    return matmul(xp.ones(RUN, rows.dtype), runs).sum(axis=-2, dtype=np.float64) + column_sums(rest)


def column_sums_of_products(a: Array, b: Array) -> Array:
    """(M,) sums of the columns of a * b, both (R, M), without an array of the products; of a dtype as `column_sums`."""
    xp = xp_of(a)
    if len(a) <= RUN:
        return xp.einsum("ij,ij->j", a, b)
    (p, a), (q, b) = _in_runs(a), _in_runs(b)
    return xp.einsum("kij,kij->kj", p, q).sum(axis=0, dtype=np.float64) + column_sums_of_products(a, b)


def _in_runs(rows: Array) -> tuple[Array, Array]:
    """(..., K, RUN, M), and the rows that are left over."""
    *images, count, m = rows.shape
    whole = count - count % RUN
    return rows[..., :whole, :].reshape(*images, -1, RUN, m), rows[..., whole:, :]
