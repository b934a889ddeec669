"""Muon: momentum whose matrix is made orthogonal before the step, so that all directions are learned equally fast."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, ClassVar

from minicnn.backend import Array, xp_of
from minicnn.errors import checked
from minicnn.optimizers.base import Key, Optimizer, names_of_parameter, sum_of_squares
from minicnn.optimizers.rules import Adam, adam_numbers, adam_step
from minicnn.schedules import LearningRateSchedule


def orthogonal(
    g: Array, steps: int = 5, a: float = 3.4445, b: float = -4.775, c: float = 2.0315
) -> Array:
    """U Vᵀ of the matrix g = U S Vᵀ, nearly.

    Each step X <- a X + b (X Xᵀ) X + c (X Xᵀ)² X takes all singular values s to a s + b s³ + c s⁵; five of them bring
    what lies between 0.01 and 1 to about 1 (0.7 to 1.2).

    Newton and Schulz' iteration; the numbers are those of K. Jordan, "Muon" (2024). Matrix products only: no SVD.
    """
    norm = xp_of(g).sqrt(sum_of_squares(g)).astype(g.dtype)
    x = g / (norm + 1e-12)  # the largest singular value is at most the norm
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(steps):
        square = x @ x.T
        x = a * x + (b * square + c * (square @ square)) @ x
    return x.T if tall else x


def _patterns(value: Any) -> list[str]:
    patterns = [] if value is None else list(value) if isinstance(value, (list, tuple)) else [value]
    for pattern in patterns:
        checked("Muon", "exclude_layers", pattern, str, ["head"])
    return patterns


class Muon(Optimizer):
    """m = momentum * m + g, then p -= lr * orthogonal(m), for kernels; other parameters go by AdamW.

    A convolution kernel (KH, KW, C_in, C_out) is taken as the matrix (KH*KW*C_in, C_out) that im2col multiplies by;
    Keras gives such kernels to AdamW. nesterov: orthogonal(g + momentum * m). ns_steps, muon_a, _b, _c: see orthogonal.
    rms_rate: the step is rms_rate * sqrt(the longer side) times as large, about that of AdamW; None leaves it.
    exclude_layers: patterns of "layer/kernel" that go by AdamW, too; its rate is adam_lr_ratio times as large.
    normalize: first bring each kernel to the norm sqrt(C_out): for where batch normalisation follows, which takes the
    size away again. K. Jordan, "Muon: An optimizer for hidden layers" (2024).
    """

    slots = ("m_sum", "v_sum")
    whole = True
    ranges: ClassVar[dict[str, Any]] = {
        **Optimizer.ranges,
        "adam_beta_1": Adam.ranges["beta_1"],
        "adam_beta_2": Adam.ranges["beta_2"],
        "adam_weight_decay": (["of 0 or more"], 0.004),
        "epsilon": ("of 0 or more", 1e-7),
        "adam_lr_ratio": ("of 0 or more", 1.0),
        "momentum": ("from 0 to 1", 0.95),
        "ns_steps": (1, 5),
        "nesterov": (bool, True),
        "rms_rate": (["above 0"], 0.2),
        "normalize": (bool, True),
        "muon_a": ("that is finite", 3.4445),
        "muon_b": ("that is finite", -4.775),
        "muon_c": ("that is finite", 2.0315),
    }

    def __init__(
        self,
        learning_rate: float | LearningRateSchedule = 0.001,
        adam_beta_1: float = 0.9,
        adam_beta_2: float = 0.999,
        adam_weight_decay: float | None = 0.004,
        epsilon: float = 1e-7,
        weight_decay: float | None = 0.004,
        *common,
        exclude_layers: Sequence[str] = (),
        muon_a: float = 3.4445,
        muon_b: float = -4.775,
        muon_c: float = 2.0315,
        adam_lr_ratio: float = 1.0,
        momentum: float = 0.95,
        ns_steps: int = 5,
        nesterov: bool = True,
        rms_rate: float | None = 0.2,
        normalize: bool = False,
        **named,
    ):
        super().__init__(learning_rate, weight_decay, *common, **named)
        self.adam_beta_1, self.adam_beta_2, self.epsilon = adam_beta_1, adam_beta_2, epsilon
        self.adam_weight_decay, self.adam_lr_ratio = adam_weight_decay, adam_lr_ratio
        self.exclude_layers = _patterns(exclude_layers)
        self.muon_a, self.muon_b, self.muon_c = muon_a, muon_b, muon_c
        self.momentum, self.ns_steps, self.nesterov, self.rms_rate = momentum, ns_steps, nesterov, rms_rate
        self.normalize = normalize

    def update_parameter(self, key: Key, p: Array, g: Array, slots: list[Array], lr: float) -> None:
        m, v = slots
        if not self._is_matrix(key, p):
            rate, beta_1, beta_2 = lr * self.adam_lr_ratio, self.adam_beta_1, self.adam_beta_2
            alpha, epsilon = adam_numbers(rate, self.updates, beta_1, beta_2, self.epsilon)
            adam_step(p, g, [m, v], alpha, beta_1, beta_2, epsilon)
            return
        if self.normalize:
            p *= math.sqrt(p.shape[-1]) / float(xp_of(p).sqrt((p * p).sum()) + 1e-12)
        m *= self.momentum
        m += g
        ahead = g + self.momentum * m if self.nesterov else m
        matrix = ahead.reshape(-1, p.shape[-1])
        size = 1.0 if self.rms_rate is None else self.rms_rate * math.sqrt(max(matrix.shape))
        step = orthogonal(matrix, self.ns_steps, self.muon_a, self.muon_b, self.muon_c)
        p -= (lr * size) * step.reshape(p.shape)

    def decay_of(self, key: Key, p: Array) -> float:
        if self._is_matrix(key, p) or self._is_undecayed(key):
            return super().decay_of(key, p)
        return self.adam_weight_decay or 0.0

    def _is_matrix(self, key: Key, p: Array) -> bool:
        path = "/".join(names_of_parameter(key))
        return p.ndim > 1 and not any(re.search(pattern, path) for pattern in self.exclude_layers)
