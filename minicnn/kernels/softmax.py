"""Softmax and cross-entropy, apart and as one.

    p_i = exp(z_i) / sum over j of exp(z_j)        loss = - sum over i of t_i * log p_i

Softmax alone has a full Jacobian, dp_i/dz_j = p_i * (1[i = j] - p_j). Together the two collapse to the simplest
gradient there is, dz = p - t (for targets that sum to 1). z are called logits. The largest logit is subtracted first:
that changes no p, and exp cannot overflow. C. Bishop, "Pattern Recognition and Machine Learning" (2006), section 4.3.4.
Reference implementations: `reference.softmax_forward` and so on.
"""

from __future__ import annotations

from minicnn.backend import Array, blank, xp_of
from minicnn.kernels import cuda


@cuda.on_gpu(cuda.softmax_forward)
def softmax_forward(x: Array) -> Array:
    """Probabilities over the last axis, of x's shape."""
    xp = xp_of(x)
    y = xp.subtract(x, x.max(axis=-1, keepdims=True), out=blank(x))
    xp.exp(y, out=y)
    y /= y.sum(axis=-1, keepdims=True)
    return y


def softmax_backward(dy: Array, y: Array) -> Array:
    """dx = y * (dy - sum of dy * y): dy times the Jacobian, without writing the Jacobian down."""
    return xp_of(dy).multiply(y, dy - (dy * y).sum(axis=-1, keepdims=True), out=blank(y))


def log_softmax(x: Array) -> Array:
    """log of softmax over the last axis: finite also where softmax itself rounds to 0."""
    xp = xp_of(x)
    y = xp.subtract(x, x.max(axis=-1, keepdims=True), out=blank(x))
    y -= xp.log(xp.exp(y).sum(axis=-1, keepdims=True))
    return y


def log_softmax_backward(dy: Array, y: Array) -> Array:
    """dx = dy - p * sum of dy, p = exp(y) being the softmax."""
    return xp_of(dy).subtract(dy, xp_of(y).exp(y) * dy.sum(axis=-1, keepdims=True), out=blank(y))


@cuda.on_gpu(cuda.softmax_cross_entropy_forward)
def softmax_cross_entropy_forward(logits: Array, target: Array) -> Array:
    """The loss of each sample (N,) from logits (N, K) and target: class numbers (N,) or probabilities (N, K)."""
    log_p = log_softmax(logits)
    if target.ndim == 1:
        return -log_p[xp_of(logits).arange(len(target)), target]
    return -(target.astype(logits.dtype, copy=False) * log_p).sum(axis=-1)


@cuda.on_gpu(cuda.softmax_cross_entropy_backward)
def softmax_cross_entropy_backward(
    logits: Array, target: Array, batch_size: int | None = None, p: Array | None = None
) -> Array:
    """dlogits (N, K) of the mean loss: (p * sum of t - t) / batch_size.

    batch_size: what the mean is taken over, N if None; a shard passes the size of the whole batch. p: softmax of the
    logits, where the forward pass has it already.
    """
    count = len(logits) if batch_size is None else batch_size
    dz = softmax_forward(logits) if p is None else p.copy()
    if target.ndim == 1:
        dz[xp_of(logits).arange(len(target)), target] -= 1
    else:
        dz *= target.sum(axis=-1, keepdims=True)
        dz -= target
    dz /= count
    return dz
