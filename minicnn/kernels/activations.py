"""Activations: one function for every number, and its derivative.

    y = f(x)      dx = dy * f'(x)

Where f' can be had from y, the backward kernel takes y: then x need not be kept. Any shape. GELU has a file of its own.
Reference implementations: `reference.relu_forward` and so on.
"""

from __future__ import annotations

from minicnn.backend import Array, blank, tiles, xp_of
from minicnn.kernels import cuda


@cuda.on_gpu(cuda.relu_forward)
def relu_forward(x: Array, out: Array | None = None) -> Array:
    """max(x, 0), written to `out`, which may be x; into a new array where `out` is None."""
    zeros = xp_of(x).zeros(x.shape[1:], x.dtype)  # NumPy is three times as fast with an array as with a scalar here
    return xp_of(x).maximum(x, zeros, out=blank(x) if out is None else out)


@cuda.on_gpu(cuda.bias_relu)
def bias_relu(z: Array, b: Array) -> Array:
    """max(z + b, 0) for z (..., C) and b (C,). Overwrites z: on the GPU one pass over the memory instead of two."""
    z += b
    return relu_forward(z, out=z)


@cuda.on_gpu(cuda.relu_backward)
def relu_backward(dy: Array, y: Array) -> Array:
    """dy where y > 0, else 0. At the kink (y = 0) the derivative is taken as 0."""
    xp, dx = xp_of(dy), xp_of(dy).empty(dy.shape, dy.dtype)
    for part in tiles(dy):
        xp.copyto(dx[part], y[part] > 0)  # 0 or 1, then the product: faster than a product of floats and booleans
        dx[part] *= dy[part]
    return dx


def leaky_relu_forward(x: Array, negative_slope: float) -> Array:
    """x where x > 0, else negative_slope * x."""
    return xp_of(x).multiply(x, _slopes(x, negative_slope), out=blank(x))


def leaky_relu_backward(dy: Array, y: Array, negative_slope: float) -> Array:
    """dy where y > 0, else negative_slope * dy (for slopes >= 0, where x and y have the same sign)."""
    return xp_of(dy).multiply(dy, _slopes(y, negative_slope), out=blank(dy))


def _slopes(x: Array, negative_slope: float) -> Array:
    one, slope = x.dtype.type(1), x.dtype.type(negative_slope)
    return (x > 0) * (one - slope) + slope


def elu_forward(x: Array, alpha: float = 1.0) -> Array:
    """x where x > 0, else alpha * (exp(x) - 1). D. Clevert, T. Unterthiner, S. Hochreiter, "ELUs" (2015)."""
    xp = xp_of(x)
    y = xp.minimum(x, 0, out=blank(x))
    xp.expm1(y, out=y)
    y *= x.dtype.type(alpha)
    y += xp.maximum(x, 0)
    return y


def elu_backward(dy: Array, y: Array, alpha: float = 1.0) -> Array:
    """dy where y > 0, else dy * (y + alpha), because alpha * exp(x) = y + alpha."""
    xp = xp_of(dy)
    return xp.multiply(dy, xp.where(y > 0, y.dtype.type(1), y + y.dtype.type(alpha)), out=blank(dy))


def sigmoid_forward(x: Array) -> Array:
    """1 / (1 + exp(-x)), as (1 + tanh(x/2)) / 2, which cannot overflow."""
    y = xp_of(x).multiply(x, x.dtype.type(0.5), out=blank(x))
    xp_of(x).tanh(y, out=y)
    y += 1
    y *= x.dtype.type(0.5)
    return y


def sigmoid_backward(dy: Array, y: Array) -> Array:
    """dy * y * (1 - y)."""
    return xp_of(dy).multiply(dy, y * (1 - y), out=blank(dy))


def tanh_forward(x: Array) -> Array:
    """tanh(x)."""
    return xp_of(x).tanh(x, out=blank(x))


def tanh_backward(dy: Array, y: Array) -> Array:
    """dy * (1 - y²)."""
    return xp_of(dy).multiply(dy, 1 - y * y, out=blank(dy))
