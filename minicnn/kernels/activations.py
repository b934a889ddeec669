"""Activations: one function for every number, and its derivative.

    y = f(x)      dx = dy * f'(x)

Where f' can be had from y, the backward kernel takes y: then x need not be kept. Any shape.
Reference implementations: `reference.relu_forward` and so on.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np

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


def gelu_forward(x: Array, approximate: bool = False) -> Array:
    """x * Phi(x), Phi being the normal distribution function. D. Hendrycks, K. Gimpel, "GELUs" (2016).

    `approximate`: 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x³))), the paper's cheaper form.
    """
    return xp_of(x).multiply(x, _tanh_phi(x) if approximate else _phi(x), out=blank(x))


def gelu_backward(dy: Array, x: Array, approximate: bool = False) -> Array:
    """dy * (Phi(x) + x * Phi'(x))."""
    xp = xp_of(x)
    if approximate:
        phi = _tanh_phi(x)
        inner = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x * x)
        slope = 2 * phi * (1 - phi) * inner  # Phi is (1 + tanh u)/2, and tanh' = 1 - tanh²
    else:
        phi = _phi(x)
        slope = xp.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    return xp.multiply(dy, phi + x * slope, out=blank(dy))


def _tanh_phi(x: Array) -> Array:
    return 0.5 * (1 + xp_of(x).tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


def _phi(x: Array) -> Array:
    """The normal distribution function, (1 + erf(x / sqrt 2)) / 2."""
    return 0.5 * (1 + _erf(x * math.sqrt(0.5)))


# NumPy has no erf. These are the rational approximations of S. Moshier's Cephes library (ndtr.c), good to about 1e-16:
# erf(x) = x T(x²)/U(x²) for |x| < 1, and 1 - exp(-x²) P(|x|)/Q(|x|) beyond. Highest power first.
_T = (9.60497373987051638749e0, 9.00260197203842689217e1, 2.23200534594684319226e3, 7.00332514112805075473e3,
      5.55923013010394962768e4)  # fmt: skip
_U = (1.0, 3.35617141647503099647e1, 5.21357949780152679795e2, 4.59432382970980127987e3, 2.26290000613890934246e4,
      4.92673942608635921086e4)  # fmt: skip
_P = (2.46196981473530512524e-10, 5.64189564831068821977e-1, 7.46321056442269912687e0, 4.86371970985681366614e1,
      1.96520832956077098242e2, 5.26445194995477358631e2, 9.34528527171957607540e2, 1.02755188689515710272e3,
      5.57535335369399327526e2)  # fmt: skip
_Q = (1.0, 1.32281951154744992508e1, 8.67072140885989742329e1, 3.54937778887819891062e2, 9.75708501743205489753e2,
      1.82390916687909736289e3, 2.24633760818710981792e3, 1.65666309194161350182e3,
      5.57535340817727675546e2)  # fmt: skip


@cache
def _coefficients(xp: Any, device: str) -> list[Array]:
    """Those of the four polynomials, once for each device."""
    return [xp.asarray(coefficients) for coefficients in (_T, _U, _P, _Q)]


def _erf(x: Array) -> Array:
    xp = xp_of(x)
    z = xp.abs(x).astype(np.float64)
    small, large = xp.minimum(z, 1), xp.minimum(xp.maximum(z, 1), 8)
    t, u, p, q = _coefficients(xp, str(x.device))
    near = small * xp.polyval(t, small**2) / xp.polyval(u, small**2)
    far = 1 - xp.exp(-(large**2)) * xp.polyval(p, large) / xp.polyval(q, large)
    return (xp.sign(x) * xp.where(z < 1, near, far)).astype(x.dtype)
