"""What the normalisations of single samples compute: one rule for each question.

The arithmetic is that of the kernels, written down once more for a single number: compare `minicnn/kernels`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from minicnn.inspect.explanation import Case, bare, grid, one, products


def _axes(case: Case) -> tuple[int, int]:
    """(how many of the last axes gamma has, how many channels a group has; 0 for layer normalisation)."""
    made: Any = case.layer.made()
    shape = case.layer.x.shape[1:]
    if case.layer.kind == "LayerNormalization":
        return made.normalized(shape), 0
    return 1, shape[-1] // made.seen_as(shape)[1]


def _members(case: Case) -> np.ndarray:
    """Where the numbers lie whose mean and variance this number has."""
    shape, (last, size) = case.layer.x.shape, _axes(case)
    if not size:
        cut = len(shape) - last
        return grid(*([n] for n in case.index[:cut]), *(range(n) for n in shape[cut:]))
    first = case.index[-1] // size * size
    return grid([case.index[0]], *(range(n) for n in shape[1:-1]), range(first, first + size))


def _x_hat(case: Case) -> np.ndarray:
    """x, normalized, in float64."""
    x, (last, size) = case.layer.x.astype(float), _axes(case)
    if size:
        parts, axes = x.reshape(len(x), -1, x.shape[-1] // size, size), (1, 3)
    else:
        parts, axes = x.reshape(*x.shape[: x.ndim - last], -1), (x.ndim - last,)  # type: ignore[assignment]
    spread = np.sqrt(parts.var(axis=axes, keepdims=True) + case.config["epsilon"])
    return ((parts - parts.mean(axis=axes, keepdims=True)) / spread).reshape(x.shape)


def _parameter(case: Case, name: str, otherwise: float) -> np.ndarray:
    """gamma or beta, one for each of the numbers along the last axes."""
    last = case.layer.x.shape[case.layer.x.ndim - _axes(case)[0] :]
    return case.layer.params[name].astype(float) if name in case.layer.params else np.full(last, otherwise)


def _normalized_y(case: Case) -> None:
    members, eps, last = _members(case), case.config["epsilon"], _axes(case)[0]
    at = case.index[len(case.index) - last :]
    gamma, beta = float(_parameter(case, "gamma", 1.0)[at]), float(_parameter(case, "beta", 0.0)[at])
    x = products("x", case.layer.x, members, "1 / count", 1 / len(members))
    mean = case.sum("mean", f"the mean of x over the {len(members)} numbers that are normalized together", x)
    spread = case.steps[-1].size
    squares = (x.value - mean) ** 2
    var = case.value("var", "the mean of (x − mean)²", float(squares.mean()), f"the mean of {len(members)} squares")
    a = gamma / math.sqrt(var + eps)
    case.value("scale", "gamma / √(var + epsilon)", a, f"{bare(gamma)} / √({bare(var)} + {eps:g})")
    case.formula = "y = gamma · (x − mean) / √(var + epsilon) + beta"
    x_term = one("x", case.index, case.layer.x[case.index], "scale", a)
    case.sum("y", "x · scale − mean · scale + beta", x_term, one("mean", (), mean, "−scale", -a), one("beta", at, beta))
    case.scale = case.steps[-1].size + abs(a) * spread


def _normalized_dx(case: Case) -> None:
    members, eps, x_hat = _members(case), case.config["epsilon"], _x_hat(case)
    gamma = np.broadcast_to(_parameter(case, "gamma", 1.0), case.dy.shape)
    there = tuple(members.T)
    case.formula = "dx = (g − mean of g − x_hat · mean of g · x_hat) / √(var + epsilon),  g = dy · gamma"
    share = gamma[there] / len(members)
    m1 = case.sum("m1", "the mean of g", products("dy", case.dy, members, "gamma / count", share))
    sizes = case.steps[-1].size
    share = share * x_hat[there]
    m2 = case.sum("m2", "the mean of g · x_hat", products("dy", case.dy, members, "gamma · x_hat / count", share))
    sizes += case.steps[-1].size * abs(x_hat[case.index])
    inverse = 1 / math.sqrt(float(case.layer.x[there].astype(float).var()) + eps)
    g = float(gamma[case.index])
    case.sum("dx", "directly, through the mean, through the variance",
             one("dy", case.index, case.dy[case.index], "gamma / √(var + epsilon)", g * inverse),
             one("m1", (), m1, "−1 / √(var + epsilon)", -inverse),
             one("x_hat", case.index, x_hat[case.index], "−m2 / √(var + epsilon)", -m2 * inverse))  # fmt: skip
    apart = float(np.abs(case.layer.x[there]).max()) * inverse  # x − mean, which the kernel rounds
    case.scale = case.steps[-1].size + inverse * (sizes + abs(m2) * apart)


def _over_samples(case: Case) -> np.ndarray:
    lead = case.dy.shape[: case.dy.ndim - len(case.index)]
    return grid(*(range(size) for size in lead), *([n] for n in case.index))


def _normalized_dgamma(case: Case) -> None:
    at = _over_samples(case)
    case.formula = "dgamma = the sum of dy · x_hat over all samples and positions"
    case.sum("dgamma", "the sum of dy · x_hat", products("dy", case.dy, at, "x_hat", _x_hat(case)[tuple(at.T)]))


def _normalized_dbeta(case: Case) -> None:
    case.formula = "dbeta = the sum of dy over all samples and positions"
    case.sum("dbeta", "the sum of dy", products("dy", case.dy, _over_samples(case), "", 1.0))


_NORMALIZED: dict[str, Callable[[Case], None]] = {
    "y": _normalized_y, "dx": _normalized_dx, "dgamma": _normalized_dgamma, "dbeta": _normalized_dbeta,
}  # fmt: skip
NORMS: dict[str, dict[str, Callable[[Case], None]]] = {
    "GroupNormalization": _NORMALIZED,
    "LayerNormalization": _NORMALIZED,
}
