"""GELU: each number is weighted by how likely a normally distributed one is to be smaller.

    y = x * Phi(x)      dx = dy * slope      slope = Phi(x) + x * Phi'(x)      Phi'(x) = exp(-x²/2) / sqrt(2 pi)

Phi is the normal distribution function, (1 + erf(x / sqrt 2)) / 2. D. Hendrycks, K. Gimpel, "GELUs" (2016). Any shape.
`approximate` is the paper's cheaper form: Phi(x) = (1 + tanh(sqrt(2/pi) * (x + 0.044715 x³))) / 2.

NumPy has no erf. float64 is computed by the approximations of Cephes, good to about 1e-16; float32 by one that is good
to 4e-7. y and its slope are made of the same exponential: whoever needs both asks for both, `gelu_with_slope`.
Reference implementations: `reference.gelu_forward` and so on.
"""

from __future__ import annotations

import math

import numpy as np

from minicnn.backend import Array, blank, scratch, tiles, xp_of
from minicnn.kernels import cuda


@cuda.on_gpu(cuda.gelu_forward)
def gelu_forward(x: Array, approximate: bool = False) -> Array:
    """x * Phi(x)."""
    return _gelu(x, approximate, False)[0]


@cuda.on_gpu(cuda.gelu_backward)
def gelu_backward(dy: Array, x: Array, approximate: bool = False) -> Array:
    """dy * (Phi(x) + x * Phi'(x))."""
    return xp_of(dy).multiply(dy, _gelu(x, approximate, True)[1], out=blank(dy))


@cuda.on_gpu(cuda.gelu_with_slope)
def gelu_with_slope(x: Array, approximate: bool = False) -> tuple[Array, Array]:
    """(y, slope) of x's shape: the backward pass is then one product, dx = dy * slope."""
    y, slope = _gelu(x, approximate, True)
    return y, slope


def _gelu(x: Array, approximate: bool, need_slope: bool) -> tuple[Array, Array | None]:
    """(y, slope), slope None unless `need_slope`."""
    xp = xp_of(x)
    if x.dtype == np.float32 and not approximate:
        return _in_float32(x, need_slope)
    phi = _tanh_phi(x) if approximate else 0.5 * (1 + _erf(x * math.sqrt(0.5)))
    y = xp.multiply(x, phi, out=blank(x))
    if not need_slope:
        return y, None
    if approximate:  # Phi is (1 + tanh u) / 2, and tanh' = 1 - tanh²
        density = 2 * phi * (1 - phi) * (math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x * x))
    else:
        density = xp.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    return y, xp.add(phi, x * density, out=blank(x))


def _tanh_phi(x: Array) -> Array:
    return 0.5 * (1 + xp_of(x).tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


# M. Abramowitz, I. Stegun, "Handbook of Mathematical Functions" (1964), 7.1.26: erf(z) = 1 - exp(-z²)(a1 t + … + a5 t⁵)
# with t = 1 / (1 + p z), for z >= 0; wrong by 1.5e-7 at most. Highest power first.
_A, _P_OF_T = (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592), 0.3275911
# Beyond, the tail of Phi is less than 1e-32, and its square would come near to what float32 cannot hold.
_FAR = 12.0
# A tile and its scratch memory fit into the cache.
_TILE_BYTES = 1 << 17


def _in_float32(x: Array, need_slope: bool) -> tuple[Array, Array | None]:
    """By the tail Q(a) = 1 - Phi(a) = exp(-a²/2) * polynomial(t) / 2 for a = |x|, as Phi(-a) = Q(a):

    y = max(x, 0) - a Q(a)        slope = Q(a) - a Phi'(a) where x < 0, and 1 minus that elsewhere.
    """
    xp, y = xp_of(x), xp_of(x).empty(x.shape, x.dtype)
    slope = xp.empty(x.shape, x.dtype) if need_slope else None
    flat_x, flat_y = xp.ascontiguousarray(x).reshape(-1), y.reshape(-1)
    for part in tiles(flat_x, _TILE_BYTES):
        v, q = flat_x[part], flat_y[part]
        a, t, e = (scratch(xp, name, v.shape, v.dtype) for name in ("a", "t", "e"))
        xp.minimum(xp.abs(v, out=a), _FAR, out=a)
        xp.multiply(a, _P_OF_T * math.sqrt(0.5), out=t)
        t += 1
        xp.divide(1, t, out=t)
        xp.multiply(a, a, out=e)
        e *= -0.5
        xp.exp(e, out=e)
        xp.multiply(t, 0.5 * _A[0], out=q)
        for coefficient in _A[1:]:
            q += 0.5 * coefficient
            q *= t
        q *= e
        if slope is not None:
            r = slope.reshape(-1)[part]
            e *= a
            e *= 1 / math.sqrt(2 * math.pi)
            xp.subtract(q, e, out=r)
            xp.subtract(0.5, r, out=r)  # r or 1 - r by the sign of x: both are 1/2 -+ (1/2 - r)
            xp.copysign(r, v, out=r)
            r += 0.5
        q *= a
        t.fill(0)
        xp.subtract(xp.maximum(v, t, out=t), q, out=q)
    return y, slope


# S. Moshier's Cephes library (ndtr.c): erf(x) = x T(x²)/U(x²) for |x| < 1, and 1 - exp(-x²) P(|x|)/Q(|x|) beyond.
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


def _erf(x: Array) -> Array:
    xp = xp_of(x)
    z = xp.abs(x).astype(np.float64)
    small, large = xp.minimum(z, 1), xp.minimum(xp.maximum(z, 1), 8)
    near = small * _polynomial(_T, small**2) / _polynomial(_U, small**2)
    far = 1 - xp.exp(-(large**2)) * _polynomial(_P, large) / _polynomial(_Q, large)
    return (xp.sign(x) * xp.where(z < 1, near, far)).astype(x.dtype)


def _polynomial(coefficients: tuple[float, ...], x: Array) -> Array:
    """W. Horner's way: one product and one sum a coefficient, the highest power first."""
    y = x * coefficients[0] + coefficients[1]
    for coefficient in coefficients[2:]:
        y *= x
        y += coefficient
    return y
