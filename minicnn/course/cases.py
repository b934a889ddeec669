"""What the functions of the course are tried on: worked cases, random geometries, gradient checks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np

from minicnn.kernels import reference as r

Arguments = dict[str, Any]
Rng = np.random.Generator


# ---- arguments -------------------------------------------------------------------------------------------------------


def array(*rows: Any) -> np.ndarray:
    return np.array(rows, dtype=np.float64)


def image(*rows: Any) -> np.ndarray:
    """One image of one channel: (1, H, W, 1)."""
    return array(*rows)[None, :, :, None]


def kernel(*rows: Any) -> np.ndarray:
    """One filter for one channel: (KH, KW, 1, 1)."""
    return array(*rows)[:, :, None, None]


def numbers(rng: Rng, *shape: int) -> np.ndarray:
    """Random numbers with few digits, so that they can be read; some are equal, some are 0."""
    return np.round(rng.normal(size=shape) * 2, 1)


def apart(*shape: int) -> np.ndarray:
    """Random numbers of which no two are close, nor any to 0: for checks of what has kinks."""
    n = int(np.prod(shape))
    ladder = (np.arange(n) + 0.5) * np.where(np.arange(n) % 2, 1, -1) / n
    return np.random.default_rng(0).permutation(ladder).reshape(shape)


def _random(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def axis(rng: Rng) -> dict[str, int]:
    return {"length": int(rng.integers(1, 9)), "kernel": int(rng.integers(1, 5)), "stride": int(rng.integers(1, 4)),
            "dilation": int(rng.integers(1, 3))}  # fmt: skip


def draw_length(rng: Rng) -> Arguments:
    while True:  # until at least one window fits: what "how many" is where none does is a matter of taste
        drawn = {**axis(rng), "lo": int(rng.integers(0, 3)), "hi": int(rng.integers(0, 3))}
        if r.output_length(**drawn) > 0:
            return drawn


def _geometry(rng: Rng, dilation: bool = True) -> dict[str, Any]:
    """Images and a window of which at least one fits: x (N, H, W, C), kernel, stride, padding, dilation."""
    while True:
        n, h, w, c = (int(rng.integers(1, high)) for high in (3, 6, 6, 3))
        kernel = (int(rng.integers(1, 4)), int(rng.integers(1, 4)))
        stride: Any = (1, 2, (1, 2), (2, 1))[rng.choice(4, p=(0.4, 0.4, 0.1, 0.1))]
        spread = int(rng.integers(1, 3)) if dilation else 1
        padding = ("valid", "same")[rng.integers(2)]
        pads = r.resolve_padding((h, w), kernel, stride, spread, padding)
        out = r.output_size((h, w), kernel, stride, spread, pads)
        if min(out) > 0:
            return {"shape": (n, h, w, c), "kernel": kernel, "stride": stride, "padding": padding, "dilation": spread,
                    "out": (n, *out)}  # fmt: skip


def _windows(g: dict[str, Any]) -> Arguments:
    return {name: g[name] for name in ("stride", "padding", "dilation")}


def draw_conv(rng: Rng) -> Arguments:
    g, f = _geometry(rng), int(rng.integers(1, 3))
    b = numbers(rng, f) if rng.random() < 0.7 else None
    return {"x": numbers(rng, *g["shape"]), "w": numbers(rng, *g["kernel"], g["shape"][3], f), "b": b, **_windows(g)}


def draw_dw(rng: Rng) -> Arguments:
    g, f = _geometry(rng), int(rng.integers(1, 3))
    return {"dy": numbers(rng, *g["out"], f), "x": numbers(rng, *g["shape"]),
            "w": numbers(rng, *g["kernel"], g["shape"][3], f), **_windows(g)}  # fmt: skip


def draw_dx(rng: Rng) -> Arguments:
    drawn = draw_dw(rng)
    return {"dy": drawn.pop("dy"), "input_shape": drawn.pop("x").shape, **drawn}


def draw_dx_turned(rng: Rng) -> Arguments:
    while True:
        g, f = _geometry(rng, dilation=False), int(rng.integers(1, 3))
        if g["stride"] == 1:
            return {"dy": numbers(rng, *g["out"], f), "input_shape": g["shape"],
                    "w": numbers(rng, *g["kernel"], g["shape"][3], f), "padding": g["padding"]}  # fmt: skip


def draw_im2col(rng: Rng) -> Arguments:
    g = _geometry(rng)
    return {"x": numbers(rng, *g["shape"]), "kernel_size": g["kernel"], **_windows(g)}


def draw_col2im(rng: Rng) -> Arguments:
    g = _geometry(rng)
    n, oh, ow = g["out"]
    cols = numbers(rng, n * oh * ow, g["kernel"][0] * g["kernel"][1] * g["shape"][3])
    return {"cols": cols, "input_shape": g["shape"], "kernel_size": g["kernel"], **_windows(g)}


def draw_pool(rng: Rng) -> Arguments:
    g = _geometry(rng, dilation=False)
    stride = None if rng.random() < 0.3 and g["padding"] == "same" else g["stride"]
    x = rng.integers(-3, 0, g["shape"]).astype(np.float64) if rng.random() < 0.5 else numbers(rng, *g["shape"])
    return {"x": x, "pool_size": g["kernel"], "stride": stride, "padding": g["padding"]}


def draw_pool_backward(rng: Rng) -> Arguments:
    drawn = draw_pool(rng)
    x = drawn.pop("x")
    y, winner = r.maxpool2d_forward(x, **drawn)
    return {"dy": numbers(rng, *y.shape), "winner": winner, "input_shape": x.shape, **drawn}


def rows(rng: Rng) -> tuple[int, ...]:
    """(N, C) or (N, H, W, C), of at least two rows."""
    n, h, w, c = (int(rng.integers(1, 4)) for _ in range(4))
    return (n + 1, h, w, c) if rng.random() < 0.5 else (n + 1, c)


def draw_norm(rng: Rng) -> Arguments:
    x = numbers(rng, *rows(rng)) + 1
    c = x.shape[-1]
    mean, var, _ = r.batchnorm_moments(x)
    return {"x": x, "gamma": numbers(rng, c) + 3, "beta": numbers(rng, c), "mean": mean, "var": var, "eps": 0.001}


def draw_norm_backward(rng: Rng) -> Arguments:
    drawn = draw_norm(rng)
    del drawn["beta"]
    return {"dy": numbers(rng, *drawn["x"].shape), **drawn}


def draw_dense(rng: Rng) -> Arguments:
    n, inputs, outputs = (int(rng.integers(1, 4)) for _ in range(3))
    axes = (n, 2) if rng.random() < 0.3 else (n,)
    b = numbers(rng, outputs) if rng.random() < 0.7 else None
    return {"x": numbers(rng, *axes, inputs), "w": numbers(rng, inputs, outputs), "b": b}


def draw_dense_backward(rng: Rng) -> Arguments:
    drawn = draw_dense(rng)
    x, w = drawn["x"], drawn["w"]
    return {"dy": numbers(rng, *x.shape[:-1], w.shape[1]), "x": x, "w": w}


def draw_logits(rng: Rng) -> np.ndarray:
    """(N, K); every third time large ones, for which exp overflows."""
    return numbers(rng, int(rng.integers(1, 4)), int(rng.integers(2, 5))) + (1000 if rng.random() < 0.3 else 0)


def draw_softmax_backward(rng: Rng) -> Arguments:
    y = r.softmax_forward(draw_logits(rng))
    return {"dy": numbers(rng, *y.shape), "y": y}


def draw_cross_entropy(rng: Rng) -> Arguments:
    logits = draw_logits(rng)
    n, k = logits.shape
    target = rng.integers(0, k, n)
    return {"logits": logits, "target": target if rng.random() < 0.5 else np.eye(k)[target]}


def draw_relu_backward(rng: Rng) -> Arguments:
    y = r.relu_forward(numbers(rng, 2, int(rng.integers(1, 5))))
    return {"dy": numbers(rng, *y.shape), "y": y}


def draw_dropout(rng: Rng, name: str = "x") -> Arguments:
    rate = float(rng.choice([0.2, 0.5, 0.75]))
    shape = (int(rng.integers(1, 4)), int(rng.integers(1, 5)))
    return {name: numbers(rng, *shape), "mask": rng.random(shape) >= rate, "rate": rate}


def draw_step(rng: Rng, *slots: str) -> Arguments:
    n = int(rng.integers(1, 5))
    return {name: np.abs(numbers(rng, n)) if name == "v" else numbers(rng, n) for name in ("p", "g", *slots)}


# ---- gradient checks -------------------------------------------------------------------------------------------------
# Each returns (forward, backward, inputs). The learner's function f stands on one side, the reference on the other.

X, _W, _B = _random(1, 2, 4, 3, 2), _random(2, 3, 2, 2, 2), _random(3, 2)
_GEOMETRY: Arguments = {"stride": 1, "padding": "same"}


def check_conv_forward(f):
    return (
        lambda x, w, b: f(x, w, b, **_GEOMETRY),
        lambda dy, x, w, b: r.conv2d_backward(dy, x, w, **_GEOMETRY),
        {"x": X, "w": _W, "b": _B},
    )


def check_dw(f):
    return (
        lambda x, w: r.conv2d_forward(x, w, None, **_GEOMETRY),
        lambda dy, x, w: {"w": f(dy, x, w, **_GEOMETRY)},
        {"x": X, "w": _W},
    )


def check_dx(f):
    return (
        lambda x, w: r.conv2d_forward(x, w, None, **_GEOMETRY),
        lambda dy, x, w: {"x": f(dy, x.shape, w, **_GEOMETRY)},
        {"x": X, "w": _W},
    )


def check_dx_turned(f):
    return check_dx(lambda dy, shape, w, stride, padding: f(dy, shape, w, padding=padding))


def check_pool(f, g):
    how: Arguments = {"pool_size": 2, "stride": 1}
    return (
        lambda x: f(x, **how)[0],
        lambda dy, x: g(dy, r.maxpool2d_forward(x, **how)[1], x.shape, **how),
        {"x": apart(2, 3, 4, 2)},
    )


def check_norm(moments, forward, backward):
    """All of batch normalization in training: mean and variance depend on x, too."""

    def both(x, gamma, beta):
        mean, var = moments(x)[:2]
        return forward(x, gamma, beta, mean, var, 0.001)

    def gradients(dy, x, gamma, beta):
        return backward(dy, x, gamma, *r.batchnorm_moments(x)[:2], 0.001)

    return both, gradients, {"x": _random(1, 4, 2, 1, 2), "gamma": _random(2, 2) + 3, "beta": _random(3, 2)}


def check_relu(f, g):
    return f, lambda dy, x: g(dy, r.relu_forward(x)), {"x": apart(3, 4)}


def check_dense(f, g):
    return f, lambda dy, x, w, b: g(dy, x, w), {"x": _random(1, 4, 3), "w": _random(2, 3, 2), "b": _random(3, 2)}


def check_softmax(f, g):
    return f, lambda dy, x: g(dy, r.softmax_forward(x)), {"x": _random(1, 3, 4)}


def check_cross_entropy_forward(f):
    def backward(dy, logits, target):
        return r.softmax_cross_entropy_backward(logits, target, 1) * dy[:, None]

    return f, backward, {"logits": _random(1, 3, 4), "target": np.array([2, 0, 1])}


def check_cross_entropy_backward(f):
    def mean_loss(logits, target):
        return np.array([r.softmax_cross_entropy_forward(logits, target).mean()])

    inputs = {"logits": _random(1, 3, 4), "target": np.array([2, 0, 1])}
    return mean_loss, lambda dy, logits, target: f(logits, target) * dy, inputs


def check_dropout(f, g):
    inputs = {"x": _random(1, 3, 4), "mask": np.array([[1, 0, 1, 1], [0, 1, 1, 0], [1, 1, 0, 1]], bool), "rate": 0.25}
    return f, lambda dy, x, mask, rate: g(dy, mask, rate), inputs


def check_winograd(f):
    def backward(dy, d, g):
        dd, dg = np.zeros_like(d), np.zeros_like(g)
        for i, k in np.ndindex(2, 3):
            dd[i + k] += dy[i] * g[k]
            dg[k] += dy[i] * d[i + k]
        return dd, dg

    return f, backward, {"d": _random(1, 4, 2), "g": _random(2, 3, 2)}


class _Counted:
    """A number that knows where it comes from (data, weights, both) and counts the products of the two."""

    products = 0

    def __init__(self, origin: str):
        self.origin = origin

    def _with(self, other: Any) -> _Counted:
        both = {self.origin, getattr(other, "origin", self.origin)}
        return _Counted("".join(sorted(set("".join(both)))))

    def _times(self, other: Any) -> _Counted:
        _Counted.products += isinstance(other, _Counted)
        return self._with(other)

    __add__ = __radd__ = __sub__ = __rsub__ = __truediv__ = _with
    __mul__ = __rmul__ = _times

    def __neg__(self) -> _Counted:
        return self


def four_products(f: Callable[..., Any]) -> str:
    """F(2, 3) is about the number of multiplications: they are counted."""
    _Counted.products = 0
    with contextlib.suppress(Exception):  # np.einsum, for one, does not take such numbers: then nothing is counted
        f(np.array([_Counted("d") for _ in range(4)]), np.array([_Counted("g") for _ in range(3)]))
    count = _Counted.products
    if count in (0, 4):
        return ""
    return f"it multiplies data by weights {count} times; the point of F(2, 3) is to do it 4 times."
