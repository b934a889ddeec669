"""The rules: how a gradient changes a parameter. Each is a few lines in `update`; who calls it is in base.py."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from minicnn.backend import Array, xp_of
from minicnn.errors import InputError
from minicnn.optimizers.base import Optimizer
from minicnn.schedules import InverseTimeDecay, LearningRateSchedule

_FADING = "from 0 up to, but not including, 1"  # of running means: at 1 they would never move


class SGD(Optimizer):
    """Stochastic gradient descent: p -= lr * g.

    momentum: m = momentum * m - lr * g, p += m. nesterov: p += momentum * m - lr * g, a look ahead.
    common: weight_decay, clipnorm, … in the order of Optimizer. decay: the old Keras argument; the rate is
    learning_rate / (1 + decay * step).
    """

    ranges: ClassVar[dict[str, Any]] = {
        **Optimizer.ranges,
        "momentum": ("from 0 to 1", 0.9),
        "nesterov": (bool, True),
        "decay": ("of 0 or more", 1e-4),
    }

    def __init__(
        self,
        learning_rate: float | LearningRateSchedule = 0.01,
        momentum: float = 0.0,
        nesterov: bool = False,
        *common,
        decay: float = 0.0,
        **named,
    ):
        super().__init__(learning_rate, *common, **named)
        self.momentum, self.nesterov, self.decay = momentum, nesterov, decay
        if self.decay:
            if self.schedule is not None:
                raise InputError(
                    "SGD", "the learning rate follows two rules.", "a schedule, or a number and decay.",
                    f"{type(self.schedule).__name__} and decay={decay}.", "leave decay out.",
                )  # fmt: skip
            self.schedule = InverseTimeDecay(self._rate, 1, self.decay)

    @property
    def slots(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("momentum",) if self.momentum else ()

    def update(self, p: Array, g: Array, slots: list[Array], lr: float) -> None:
        if not self.momentum:
            p -= lr * g
            return
        (m,) = slots
        step = lr * g
        m *= self.momentum
        m -= step
        if self.nesterov:
            p -= step
            p += self.momentum * m
        else:
            p += m

    def gpu_rule(self, lr: float) -> tuple[str, tuple[float, ...]] | None:
        if type(self).update is not SGD.update:  # somebody's own rule
            return None
        return "sgd", (lr, (self.weight_decay or 0.0) * lr, self.momentum, self.nesterov)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **({"learning_rate": self._rate} if self.decay else {})}


def adam_numbers(lr: float, step: int, beta_1: float, beta_2: float, epsilon: float) -> tuple[float, float]:
    """(alpha, epsilon) of step 1, 2, … as they are for the sums m_sum and v_sum: see Adam."""
    alpha = lr * math.sqrt(1 - beta_2**step) / (1 - beta_1**step)
    root = math.sqrt(1 - beta_2)
    return alpha * (1 - beta_1) / root, epsilon / root


def adam_step(
    p: Array, g: Array, slots: list[Array], alpha: float, beta_1: float, beta_2: float, epsilon: float
) -> None:
    """The formulas of Adam, in ten passes over memory. slots: the sums of m and v, and with AMSGrad the largest v's.

    alpha, epsilon: from adam_numbers.
    """
    m, v = slots[:2]
    xp = xp_of(p)
    m *= beta_1
    m += g
    v *= beta_2
    t = g * g
    v += t
    if len(slots) > 2:
        v = xp.maximum(v, slots[2], out=slots[2])
    xp.sqrt(v, out=t)
    t += epsilon
    xp.divide(m, t, out=t)
    t *= alpha
    p -= t


class Adam(Optimizer):
    """Adam: the gradient's running mean m, divided by the square root of its running square v.

    m = beta_1 m + (1 - beta_1) g      v = beta_2 v + (1 - beta_2) g²      p -= alpha * m / (sqrt(v) + epsilon)
    alpha = lr * sqrt(1 - beta_2^t) / (1 - beta_1^t), t = 1, 2, …

    m and v start at 0 and are too small at first: alpha corrects that, and m and v themselves stay as they are.
    D. Kingma, J. Ba, "Adam" (2015), algorithm 1 in the form at the end of section 2 (epsilon is "epsilon hat" there).
    amsgrad: divide by the largest v so far, so that steps never grow again. S. Reddi et al. (2018), algorithm 2.

    `state` holds sums, m_sum = m / (1 - beta_1) and v_sum = v / (1 - beta_2), for then two factors are left out:

    m_sum = beta_1 m_sum + g      v_sum = beta_2 v_sum + g²
    m / (sqrt(v) + epsilon) = (1 - beta_1) / r * m_sum / (sqrt(v_sum) + epsilon / r),   r = sqrt(1 - beta_2)
    """

    ranges: ClassVar[dict[str, Any]] = {
        **Optimizer.ranges,
        "beta_1": (_FADING, 0.9),
        "beta_2": (_FADING, 0.999),
        "epsilon": ("of 0 or more", 1e-7),
        "amsgrad": (bool, True),
    }

    def __init__(
        self,
        learning_rate: float | LearningRateSchedule = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        amsgrad: bool = False,
        *common,
        **named,
    ):
        super().__init__(learning_rate, *common, **named)
        self.beta_1, self.beta_2, self.epsilon, self.amsgrad = beta_1, beta_2, epsilon, amsgrad

    sums: ClassVar[dict[str, tuple[str, str]]] = {
        "m_sum": ("m", "beta_1"), "v_sum": ("v", "beta_2"), "v_max_sum": ("v_max", "beta_2")
    }  # fmt: skip

    @property
    def slots(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("m_sum", "v_sum", "v_max_sum") if self.amsgrad else ("m_sum", "v_sum")

    def update(self, p: Array, g: Array, slots: list[Array], lr: float) -> None:
        alpha, epsilon = self._numbers(lr)
        adam_step(p, g, slots, alpha, self.beta_1, self.beta_2, epsilon)

    def _numbers(self, lr: float) -> tuple[float, float]:
        return adam_numbers(lr, self.updates, self.beta_1, self.beta_2, self.epsilon)

    def gpu_rule(self, lr: float) -> tuple[str, tuple[float, ...]] | None:
        if type(self).update is not Adam.update or self.amsgrad:  # somebody's own rule
            return None
        alpha, epsilon = self._numbers(lr)
        return "adam", (alpha, (self.weight_decay or 0.0) * lr, self.beta_1, self.beta_2, epsilon)


class AdamW(Adam):
    """Adam with decoupled weight decay. I. Loshchilov, F. Hutter, "Decoupled Weight Decay Regularization" (2019)."""

    ranges: ClassVar[dict[str, Any]] = {**Adam.ranges, "weight_decay": ("of 0 or more", 0.004)}

    def __init__(
        self,
        learning_rate: float | LearningRateSchedule = 0.001,
        weight_decay: float = 0.004,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        amsgrad: bool = False,
        *common,
        **named,
    ):
        super().__init__(learning_rate, beta_1, beta_2, epsilon, amsgrad, weight_decay, *common, **named)


class Nadam(Adam):
    """Adam with a look ahead, as Nesterov's momentum has one. T. Dozat, "Incorporating Nesterov Momentum" (2016).

    u_t = beta_1 (1 - 0.96^t / 2) grows to beta_1; U_t is the product of all so far.
    p -= lr (u_{t+1} m / (1 - U_{t+1}) + (1 - u_t) g / (1 - U_t)) / (sqrt(v / (1 - beta_2^t)) + epsilon)
    """

    _product = (0, 0.0, 1.0)  # t, beta_1 and U_t of the last step

    def __init__(
        self,
        learning_rate: float | LearningRateSchedule = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        *common,
        **named,
    ):
        Optimizer.__init__(self, learning_rate, *common, **named)
        self.beta_1, self.beta_2, self.epsilon, self.amsgrad = beta_1, beta_2, epsilon, False

    @classmethod
    def _arguments(cls) -> list[str]:
        return [name for name in super()._arguments() if name != "amsgrad"]

    def update(self, p: Array, g: Array, slots: list[Array], lr: float) -> None:
        m, v = slots
        m *= self.beta_1
        m += g
        v *= self.beta_2
        v += g * g
        t = self.updates
        now, next_, product = self._weight(t), self._weight(t + 1), self._weights(t)
        of_m, of_v = (1 - self.beta_1) * next_ / (1 - product * next_), (1 - self.beta_2) / (1 - self.beta_2**t)
        ahead = m * (lr * of_m) + g * (lr * (1 - now) / (1 - product))
        p -= ahead / (xp_of(p).sqrt(v * of_v) + self.epsilon)

    def _weight(self, step: int) -> float:
        return self.beta_1 * (1 - 0.5 * 0.96**step)

    def _weights(self, step: int) -> float:
        """The product of the weights up to this step; threads that come at once find the same."""
        last, beta_1, product = self._product
        if step < last or beta_1 != self.beta_1:
            last, product = 0, 1.0
        for k in range(last + 1, step + 1):
            product *= self._weight(k)
        self._product = step, self.beta_1, product
        return product


class RMSprop(Optimizer):
    """p -= lr * g / sqrt(v + epsilon), v being the gradient's running square.

    T. Tieleman, G. Hinton, "Neural Networks for Machine Learning", lecture 6.5 (2012).
    centered: v less the square of the running mean. momentum: of the steps.
    """

    ranges: ClassVar[dict[str, Any]] = {
        **Optimizer.ranges,
        "rho": (_FADING, 0.9),
        "momentum": ("from 0 to 1", 0.9),
        "epsilon": ("of 0 or more", 1e-7),
        "centered": (bool, True),
    }

    def __init__(
        self,
        learning_rate: float | LearningRateSchedule = 0.001,
        rho: float = 0.9,
        momentum: float = 0.0,
        epsilon: float = 1e-7,
        centered: bool = False,
        *common,
        **named,
    ):
        super().__init__(learning_rate, *common, **named)
        self.rho, self.momentum, self.epsilon, self.centered = rho, momentum, epsilon, centered

    @property
    def slots(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("v", *(["mean"] if self.centered else []), *(["momentum"] if self.momentum else []))

    def update(self, p: Array, g: Array, slots: list[Array], lr: float) -> None:
        named = dict(zip(self.slots, slots, strict=True))
        v, xp = named["v"], xp_of(p)
        step = g * g
        step -= v
        step *= 1 - self.rho
        v += step
        spread = v
        if self.centered:
            mean = named["mean"]
            mean += (g - mean) * (1 - self.rho)
            spread = v - mean * mean
        xp.add(spread, self.epsilon, out=step)
        xp.sqrt(step, out=step)
        xp.divide(g, step, out=step)
        step *= lr
        if self.momentum:
            m = named["momentum"]
            m *= self.momentum
            m += step
            step = m
        p -= step

    def gpu_rule(self, lr: float) -> tuple[str, tuple[float, ...]] | None:
        if type(self).update is not RMSprop.update or self.centered:  # somebody's own rule
            return None
        return "rmsprop", (lr, (self.weight_decay or 0.0) * lr, 1 - self.rho, self.momentum, self.epsilon)


class Adagrad(Optimizer):
    """p -= lr * g / sqrt(sum of all g² so far + epsilon): what moved much before, moves less.

    J. Duchi et al., "Adaptive Subgradient Methods" (2011). initial_accumulator_value: where the sum begins.
    """

    slots = ("sum",)
    ranges: ClassVar[dict[str, Any]] = {
        **Optimizer.ranges,
        "initial_accumulator_value": ("of 0 or more", 0.1),
        "epsilon": ("of 0 or more", 1e-7),
    }

    def __init__(
        self,
        learning_rate: float | LearningRateSchedule = 0.001,
        initial_accumulator_value: float = 0.1,
        epsilon: float = 1e-7,
        *common,
        **named,
    ):
        super().__init__(learning_rate, *common, **named)
        self.initial_accumulator_value, self.epsilon = initial_accumulator_value, epsilon

    def new_slots(self, p: Array) -> list[Array]:
        return [xp_of(p).full_like(p, self.initial_accumulator_value)]

    def update(self, p: Array, g: Array, slots: list[Array], lr: float) -> None:
        (total,) = slots
        total += g * g
        p -= lr * g / xp_of(p).sqrt(total + self.epsilon)

    def gpu_rule(self, lr: float) -> tuple[str, tuple[float, ...]] | None:
        if type(self).update is not Adagrad.update:  # somebody's own rule
            return None
        return "adagrad", (lr, (self.weight_decay or 0.0) * lr, self.epsilon)


class Lion(Optimizer):
    """p -= lr * sign(beta_1 m + (1 - beta_1) g), then m = beta_2 m + (1 - beta_2) g: every number moves by the rate.

    X. Chen et al., "Symbolic Discovery of Optimization Algorithms" (2023), program 1. Take a tenth of Adam's rate.
    """

    slots = ("m",)
    ranges: ClassVar[dict[str, Any]] = {
        **Optimizer.ranges,
        "beta_1": ("above 0, up to 1", 0.9),
        "beta_2": ("from 0 to 1", 0.99),
    }

    def __init__(
        self,
        learning_rate: float | LearningRateSchedule = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.99,
        *common,
        **named,
    ):
        super().__init__(learning_rate, *common, **named)
        self.beta_1, self.beta_2 = beta_1, beta_2

    def update(self, p: Array, g: Array, slots: list[Array], lr: float) -> None:
        (m,) = slots
        p -= lr * xp_of(p).sign(self.beta_1 * m + (1 - self.beta_1) * g)
        m *= self.beta_2
        m += (1 - self.beta_2) * g

    def gpu_rule(self, lr: float) -> tuple[str, tuple[float, ...]] | None:
        if type(self).update is not Lion.update:  # somebody's own rule
            return None
        decay = (self.weight_decay or 0.0) * lr
        return "lion", (lr, decay, self.beta_1, 1 - self.beta_1, self.beta_2, 1 - self.beta_2)
