"""Learning rates that change from step to step: callables `step -> learning rate`, step counted from 0."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from minicnn.errors import InputError
from minicnn.registry import Configured, names_of, resolve


class LearningRateSchedule(Configured):
    """Base class: implement `__call__(step)`."""

    def __call__(self, step: int) -> float:
        raise NotImplementedError(f"{type(self).__name__} must implement __call__(step)")


_RATE = ("of 0 or more", 0.1)


class ExponentialDecay(LearningRateSchedule):
    """initial_learning_rate * decay_rate ** (step / decay_steps); with staircase, whole multiples only."""

    ranges: ClassVar[dict[str, Any]] = {
        "initial_learning_rate": _RATE,
        "decay_steps": ("above 0", 1000),
        "decay_rate": ("of 0 or more", 0.96),
        "staircase": (bool, True),
    }

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: int,
        decay_rate: float,
        staircase: bool = False,
        name: str = "ExponentialDecay",
    ):
        self.initial_learning_rate, self.decay_steps = initial_learning_rate, decay_steps
        self.decay_rate, self.staircase, self.name = decay_rate, staircase, name

    def __call__(self, step: int) -> float:
        p = step // self.decay_steps if self.staircase else step / self.decay_steps
        return self.initial_learning_rate * self.decay_rate**p


class InverseTimeDecay(ExponentialDecay):
    """initial_learning_rate / (1 + decay_rate * step / decay_steps); with staircase, whole multiples only."""

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: int,
        decay_rate: float,
        staircase: bool = False,
        name: str = "InverseTimeDecay",
    ):
        super().__init__(initial_learning_rate, decay_steps, decay_rate, staircase, name)

    def __call__(self, step: int) -> float:
        p = step // self.decay_steps if self.staircase else step / self.decay_steps
        return self.initial_learning_rate / (1 + self.decay_rate * p)


class PiecewiseConstantDecay(LearningRateSchedule):
    """values[0] up to and including step boundaries[0], then values[1] up to boundaries[1], and so on."""

    def __init__(self, boundaries: Sequence[int], values: Sequence[float], name: str = "PiecewiseConstant"):
        self.boundaries, self.values, self.name = _list(boundaries), _list(values), name
        fit = len(self.boundaries) == len(self.values) - 1 and self.boundaries == sorted(set(self.boundaries))
        if not fit or not all(0 <= value < math.inf for value in self.values):
            raise InputError(
                name,
                problem="boundaries and values do not fit together.",
                expected="increasing boundaries, and one value more than boundaries.",
                received=f"boundaries={boundaries!r}, values={values!r}.",
                fix="give one value before the first boundary and one after each.",
            )

    def __call__(self, step: int) -> float:
        return float(self.values[bisect_left(self.boundaries, step)])


class PolynomialDecay(LearningRateSchedule):
    """From initial_learning_rate to end_learning_rate along (1 - step / decay_steps) ** power.

    With cycle, decay_steps grows to its first multiple not below step: the rate rises and decays anew.
    """

    ranges: ClassVar[dict[str, Any]] = {
        "initial_learning_rate": _RATE,
        "decay_steps": ("above 0", 1000),
        "end_learning_rate": ("of 0 or more", 0.0001),
        "power": ("of 0 or more", 1.0),
        "cycle": (bool, True),
    }

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: int,
        end_learning_rate: float = 0.0001,
        power: float = 1.0,
        cycle: bool = False,
        name: str = "PolynomialDecay",
    ):
        self.initial_learning_rate, self.decay_steps = initial_learning_rate, decay_steps
        self.end_learning_rate, self.power, self.cycle, self.name = end_learning_rate, power, cycle, name

    def __call__(self, step: int) -> float:
        cycles = max(1, math.ceil(step / self.decay_steps)) if self.cycle else 1
        p = min(1.0, step / (self.decay_steps * cycles))
        drop = self.initial_learning_rate - self.end_learning_rate
        return drop * (1 - p) ** self.power + self.end_learning_rate


class CosineDecay(LearningRateSchedule):
    """Half a cosine wave, in decay_steps, down to alpha * (the rate it starts from).

    With warmup_target, the rate first rises in a line from initial_learning_rate to warmup_target in
    warmup_steps, and the cosine starts there. Loshchilov and Hutter 2017, section 3.
    """

    ranges: ClassVar[dict[str, Any]] = {
        "initial_learning_rate": _RATE,
        "decay_steps": ("above 0", 1000),
        "alpha": ("from 0 to 1", 0.1),
        "warmup_target": (["of 0 or more"], 0.1),
        "warmup_steps": ("of 0 or more", 100),
    }

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: int,
        alpha: float = 0.0,
        name: str = "CosineDecay",
        warmup_target: float | None = None,
        warmup_steps: int = 0,
    ):
        self.initial_learning_rate, self.decay_steps = initial_learning_rate, decay_steps
        self.alpha, self.name = alpha, name
        self.warmup_target, self.warmup_steps = warmup_target, warmup_steps

    def __call__(self, step: int) -> float:
        top: float = self.initial_learning_rate
        if self.warmup_target is not None:
            if step < self.warmup_steps:
                return top + (self.warmup_target - top) * step / self.warmup_steps
            top, step = self.warmup_target, step - int(self.warmup_steps)
        return _cosine(top, self.alpha, step / self.decay_steps)


class CosineDecayRestarts(LearningRateSchedule):
    """CosineDecay again and again: each period is t_mul times as long, and begins m_mul times as high, as the last.

    The first one has first_decay_steps. Loshchilov and Hutter, "SGDR" (2017), section 3.
    """

    ranges: ClassVar[dict[str, Any]] = {
        "initial_learning_rate": _RATE,
        "first_decay_steps": ("above 0", 1000),
        "t_mul": ("of 1 or more", 2.0),
        "m_mul": ("of 0 or more", 1.0),
        "alpha": ("from 0 to 1", 0.1),
    }

    def __init__(
        self,
        initial_learning_rate: float,
        first_decay_steps: int,
        t_mul: float = 2.0,
        m_mul: float = 1.0,
        alpha: float = 0.0,
        name: str = "SGDRDecay",
    ):
        self.initial_learning_rate, self.first_decay_steps = initial_learning_rate, first_decay_steps
        self.t_mul, self.m_mul, self.alpha, self.name = t_mul, m_mul, alpha, name

    def __call__(self, step: int) -> float:
        t, part = self.t_mul, step / self.first_decay_steps
        if t == 1:
            periods = math.floor(part)
            part -= periods
        else:  # the first k periods take (t^k - 1) / (t - 1) of the first one
            periods = math.floor(math.log(1 + part * (t - 1)) / math.log(t) + 1e-12)
            part = (part - (t**periods - 1) / (t - 1)) / t**periods
        return _cosine(self.initial_learning_rate, self.alpha, part, self.m_mul**periods)


def _cosine(top: float, alpha: float, part: float, height: float = 1.0) -> float:
    """Half a cosine wave of this height from top down to alpha * top; part: how much of it is over."""
    return top * ((1 - alpha) * height * 0.5 * (1 + math.cos(math.pi * min(1.0, part))) + alpha)


def _list(numbers: Any) -> list[Any]:
    """Its items as Python's numbers; empty where it is no list of numbers."""
    items = list(numbers) if isinstance(numbers, (list, tuple, np.ndarray)) else []
    items = [item.item() if isinstance(item, np.generic) else item for item in items]
    return items if all(type(item) in (int, float) for item in items) else []


_KNOWN = names_of(
    ExponentialDecay, InverseTimeDecay, PiecewiseConstantDecay, PolynomialDecay, CosineDecay, CosineDecayRestarts
)


def get(identifier: Any) -> LearningRateSchedule:
    """The schedule for a config dict {"class_name": ..., "config": {...}}; an instance stays as it is."""
    return resolve("learning-rate schedule", identifier, _KNOWN, LearningRateSchedule)
