"""Softmax and cross-entropy on the GPU: softmax.cu. The formulas are in `minicnn/kernels/softmax.py`."""

from __future__ import annotations

import math

import numpy as np

from minicnn.backend import Array, xp_of
from minicnn.kernels.cuda.launch import kernel_for

THREADS = 128  # of a block, see softmax.cu


def softmax_forward(x: Array) -> Array:
    """Probabilities over the last axis."""
    xp = xp_of(x)
    x, p = xp.ascontiguousarray(x), xp.empty(x.shape, x.dtype)
    kernel = kernel_for(xp, "softmax", "softmax_forward", x.dtype, x.size)
    if x.size:
        kernel((x.size // x.shape[-1],), (THREADS,), p, x, math.inf, x.shape[-1])
    return p


def softmax_cross_entropy_forward(logits: Array, target: Array) -> Array:
    """The loss of each sample (N,); see `minicnn.kernels.softmax_cross_entropy_forward`."""
    loss = xp_of(logits).empty(len(logits), logits.dtype)
    _start(loss, None, logits, target, 1.0)
    return loss


def softmax_cross_entropy_backward(
    logits: Array, target: Array, batch_size: int | None = None, p: Array | None = None
) -> Array:
    """dlogits (N, K) of the mean loss; see `minicnn.kernels.softmax_cross_entropy_backward`. p is not needed."""
    dz = xp_of(logits).empty(logits.shape, logits.dtype)
    _start(None, dz, logits, target, len(logits) if batch_size is None else batch_size)
    return dz


def _start(loss: Array | None, dz: Array | None, logits: Array, target: Array, batch: float) -> None:
    xp = xp_of(logits)
    kernel = kernel_for(xp, "softmax", "softmax_cross_entropy", logits.dtype, logits.size)
    label = xp.ascontiguousarray(target, np.int64) if target.ndim == 1 else None
    t = xp.ascontiguousarray(target, logits.dtype) if target.ndim == 2 else None
    arguments = loss, dz, xp.ascontiguousarray(logits), label, t, math.inf, batch, logits.shape[1]
    kernel((len(logits),), (THREADS,), *arguments)
