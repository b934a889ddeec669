"""What `explain` says of the activations that are one formula for every number: y, and its slope.

Each entry: formula and worked example of y (with {s} for the name of its source and {z} for the number), y(z), the rule
of the slope, and slope(z, y). The kernels are in kernels/activations.py and activations_more.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from minicnn.kernels.activations_more import SELU_ALPHA, SELU_SCALE


class Rule(NamedTuple):
    formula: str
    worked: str
    y: Callable[[float], float]
    slope_rule: str
    slope: Callable[[float, float], float]


def sigmoid(z: float) -> float:
    return 0.5 * (1 + math.tanh(z / 2))


def softplus(z: float) -> float:
    return max(z, 0.0) + math.log1p(math.exp(-abs(z)))


def _mish_slope(z: float) -> float:
    t = math.tanh(softplus(z))
    return t + z * (1 - t * t) * sigmoid(z)


POINTWISE = {
    "silu": Rule(
        "{s} · sigmoid({s})", "{z} · sigmoid({z})", lambda z: z * sigmoid(z),
        "σ · (1 + {s} · (1 − σ)), σ being sigmoid({s})", lambda z, y: sigmoid(z) * (1 + z * (1 - sigmoid(z))),
    ),
    "mish": Rule(
        "{s} · tanh(log(1 + exp({s})))", "{z} · tanh(log(1 + exp({z})))", lambda z: z * math.tanh(softplus(z)),
        "t + {s} · (1 − t²) · sigmoid({s}), t being tanh(log(1 + exp({s})))", lambda z, y: _mish_slope(z),
    ),
    "softplus": Rule(
        "log(1 + exp({s}))", "log(1 + exp({z}))", softplus, "1 − exp(−y), which is sigmoid({s})",
        lambda z, y: -math.expm1(-y),
    ),
    "softsign": Rule(
        "{s} / (1 + |{s}|)", "{z} / (1 + |{z}|)", lambda z: z / (1 + abs(z)), "(1 − |y|)²",
        lambda z, y: (1 - abs(y)) ** 2,
    ),
    "selu": Rule(
        f"{SELU_SCALE:.4f} · {{s}} where {{s}} is above 0, else {SELU_SCALE:.4f} · {SELU_ALPHA:.4f} · (exp({{s}}) − 1)",
        "selu({z})", lambda z: SELU_SCALE * (z if z > 0 else SELU_ALPHA * math.expm1(z)),
        f"{SELU_SCALE:.4f} where y > 0, else y + {SELU_SCALE * SELU_ALPHA:.4f}",
        lambda z, y: SELU_SCALE if y > 0 else y + SELU_SCALE * SELU_ALPHA,
    ),
    "hard_sigmoid": Rule(
        "{s} / 6 + 1/2, but not below 0 and not above 1", "{z} / 6 + 1/2, from 0 to 1",
        lambda z: min(max(z / 6 + 0.5, 0.0), 1.0), "1/6 where 0 < y < 1, else 0",
        lambda z, y: 1 / 6 if 0 < y < 1 else 0.0,
    ),
    "exponential": Rule("exp({s})", "exp({z})", math.exp, "y", lambda z, y: y),
}  # fmt: skip
