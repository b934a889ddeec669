"""The fully connected layer: every output is a weighted sum of all inputs.

    y = x @ w + b      dw = x.T @ dy      db = sum of the rows of dy      dx = dy @ w.T

x (N, in), w (in, out), b (out,), y and dy (N, out); further axes between N and `in` are kept, as in Keras.
Reference implementations: `reference.dense_forward`, `reference.dense_backward`.
"""

from __future__ import annotations

from minicnn.backend import Array, matmul
from minicnn.kernels.sums import column_sums


def dense_forward(x: Array, w: Array, b: Array | None = None) -> Array:
    """y (N, out) from x (N, in), w (in, out) and b (out,) or None."""
    y = matmul(x, w)
    if b is not None:
        y += b
    return y


def dense_backward(
    dy: Array, x: Array, w: Array, need_dx: bool = True
) -> tuple[Array | None, Array, Array]:
    """(dx, dw, db) from dy (N, out): the shapes of x, w and b. dx is None unless `need_dx`."""
    db = column_sums(dy.reshape(-1, w.shape[1])).astype(dy.dtype, copy=False)
    return *dense_gradients(dy, x, w, need_dx), db


def dense_gradients(dy: Array, x: Array, w: Array, need_dx: bool = True) -> tuple[Array | None, Array]:
    """(dx, dw) of dense_backward: where db is known already."""
    rows, x_rows = dy.reshape(-1, w.shape[1]), x.reshape(-1, w.shape[0])
    dx = matmul(rows, w.T).reshape(x.shape) if need_dx else None
    return dx, matmul(x_rows.T, rows)
