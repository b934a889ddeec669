"""Further activations, less often met than those of activations.py: one function for every number, and its derivative.

    y = f(x)      dx = dy * f'(x)

Where f' can be had from y, the backward kernel takes y; SiLU and Mish, which fall and rise again, need x. Any shape.
Reference implementations: `reference.silu_forward` and so on.
"""

from __future__ import annotations

from minicnn.backend import Array, blank, xp_of
from minicnn.kernels.activations import elu_forward, sigmoid_forward

# With these, numbers of mean 0 and variance 1 keep them from layer to layer. Klambauer et al. (2017), equation 14.
SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805


def silu_forward(x: Array) -> Array:
    """x * sigmoid(x), also called swish. S. Elfwing et al. (2017), P. Ramachandran et al. (2017)."""
    return xp_of(x).multiply(x, sigmoid_forward(x), out=blank(x))


def silu_backward(dy: Array, x: Array) -> Array:
    """dy * s * (1 + x * (1 - s)), s being sigmoid(x)."""
    s = sigmoid_forward(x)
    return xp_of(x).multiply(dy, s * (1 + x * (1 - s)), out=blank(x))


def mish_forward(x: Array) -> Array:
    """x * tanh(log(1 + exp(x))). D. Misra (2019)."""
    return xp_of(x).multiply(x, xp_of(x).tanh(softplus_forward(x)), out=blank(x))


def mish_backward(dy: Array, x: Array) -> Array:
    """dy * (t + x * (1 - t²) * sigmoid(x)), t being tanh(log(1 + exp(x)))."""
    t = xp_of(x).tanh(softplus_forward(x))
    return xp_of(x).multiply(dy, t + x * (1 - t * t) * sigmoid_forward(x), out=blank(x))


def softplus_forward(x: Array) -> Array:
    """log(1 + exp(x)), as max(x, 0) + log(1 + exp(-|x|)), which cannot overflow."""
    xp = xp_of(x)
    return xp.add(xp.maximum(x, 0), xp.log1p(xp.exp(-abs(x))), out=blank(x))


def softplus_backward(dy: Array, y: Array) -> Array:
    """dy * sigmoid(x), which is 1 - exp(-y)."""
    return xp_of(y).multiply(dy, -xp_of(y).expm1(-y), out=blank(y))


def softsign_forward(x: Array) -> Array:
    """x / (1 + |x|)."""
    return xp_of(x).divide(x, 1 + abs(x), out=blank(x))


def softsign_backward(dy: Array, y: Array) -> Array:
    """dy / (1 + |x|)², which is dy * (1 - |y|)²."""
    rest = 1 - abs(y)
    return xp_of(y).multiply(dy, rest * rest, out=blank(y))


def selu_forward(x: Array) -> Array:
    """ELU with the alpha and the scale that keep mean and variance. G. Klambauer et al. (2017)."""
    return elu_forward(x, SELU_ALPHA) * x.dtype.type(SELU_SCALE)


def selu_backward(dy: Array, y: Array) -> Array:
    """dy * scale where y > 0, else dy * scale * alpha * exp(x), which is dy * (y + scale * alpha)."""
    scale, product = y.dtype.type(SELU_SCALE), y.dtype.type(SELU_SCALE * SELU_ALPHA)
    return xp_of(y).multiply(dy, xp_of(y).where(y > 0, scale, y + product), out=blank(y))


def relu6_forward(x: Array) -> Array:
    """max(x, 0), but never more than 6. A. Krizhevsky (2010)."""
    return xp_of(x).clip(x, 0, 6, out=blank(x))


def relu6_backward(dy: Array, y: Array) -> Array:
    """dy where 0 < y < 6, else 0."""
    return xp_of(y).multiply(dy, (y > 0) & (y < 6), out=blank(y))


def hard_sigmoid_forward(x: Array) -> Array:
    """x / 6 + 1/2 between -3 and 3, beyond 0 and 1. A. Howard et al., "MobileNetV3" (2019)."""
    return xp_of(x).clip(x / 6 + x.dtype.type(0.5), 0, 1, out=blank(x))


def hard_sigmoid_backward(dy: Array, y: Array) -> Array:
    """dy / 6 where 0 < y < 1, else 0."""
    return xp_of(y).multiply(dy, ((y > 0) & (y < 1)) / y.dtype.type(6), out=blank(y))


def exponential_forward(x: Array) -> Array:
    """exp(x)."""
    return xp_of(x).exp(x, out=blank(x))


def exponential_backward(dy: Array, y: Array) -> Array:
    """dy * y."""
    return xp_of(y).multiply(dy, y, out=blank(y))


def prelu_forward(x: Array, alpha: Array) -> Array:
    """x where x > 0, else alpha * x, for slopes alpha that spread over a sample. K. He et al. (2015), section 2.1."""
    xp = xp_of(x)
    return xp.multiply(x, xp.where(x > 0, x.dtype.type(1), alpha), out=blank(x))


def prelu_backward(dy: Array, x: Array, alpha: Array) -> tuple[Array, Array]:
    """(dx, dalpha): dalpha is the sum of dy * x over all places of one slope at which x is below 0."""
    xp = xp_of(x)
    dx = xp.multiply(dy, xp.where(x > 0, x.dtype.type(1), alpha), out=blank(x))
    shared = tuple(axis + 1 for axis, size in enumerate(alpha.shape) if size == 1)
    return dx, (dy * xp.minimum(x, 0)).sum(axis=(0, *shared)).reshape(alpha.shape)
