"""Learning rates that change from step to step: callables `step -> learning rate`, step counted from 0."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

from minicnn.errors import InputError
from minicnn.registry import Configured, names_of, resolve


class LearningRateSchedule(Configured):
    """Base class: implement `__call__(step)`."""

    def __call__(self, step: int) -> float:
        raise NotImplementedError(f"{type(self).__name__} must implement __call__(step)")


class ExponentialDecay(LearningRateSchedule):
    """initial_learning_rate * decay_rate ** (step / decay_steps); with staircase, whole multiples only."""

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: int,
        decay_rate: float,
        staircase: bool = False,
        name: str = "ExponentialDecay",
    ):
        self.initial_learning_rate = initial_learning_rate
        self.decay_steps = _positive(name, decay_steps)
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
        self.boundaries, self.values, self.name = list(boundaries), list(values), name
        if len(self.boundaries) != len(self.values) - 1 or self.boundaries != sorted(set(self.boundaries)):
            raise InputError(
                name,
                problem="boundaries and values do not fit together.",
                expected="increasing boundaries, and one value more than boundaries.",
                received=f"boundaries={self.boundaries}, values={self.values}.",
                fix="give one value before the first boundary and one after each.",
            )

    def __call__(self, step: int) -> float:
        return float(self.values[bisect_left(self.boundaries, step)])


class PolynomialDecay(LearningRateSchedule):
    """From initial_learning_rate to end_learning_rate along (1 - step / decay_steps) ** power.

    With cycle, decay_steps grows to its first multiple not below step: the rate rises and decays anew.
    """

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: int,
        end_learning_rate: float = 0.0001,
        power: float = 1.0,
        cycle: bool = False,
        name: str = "PolynomialDecay",
    ):
        self.initial_learning_rate = initial_learning_rate
        self.decay_steps = _positive(name, decay_steps)
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

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: int,
        alpha: float = 0.0,
        name: str = "CosineDecay",
        warmup_target: float | None = None,
        warmup_steps: int = 0,
    ):
        self.initial_learning_rate = initial_learning_rate
        self.decay_steps = _positive(name, decay_steps)
        self.alpha, self.name = alpha, name
        self.warmup_target, self.warmup_steps = warmup_target, warmup_steps

    def __call__(self, step: int) -> float:
        top = self.initial_learning_rate
        if self.warmup_target is not None:
            if step < self.warmup_steps:
                return top + (self.warmup_target - top) * step / self.warmup_steps
            top, step = self.warmup_target, step - self.warmup_steps
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / self.decay_steps)))
        return top * ((1 - self.alpha) * cosine + self.alpha)


def _positive(where: str, decay_steps: int) -> int:
    if not decay_steps > 0:
        raise InputError(
            where,
            problem="decay_steps is not positive.",
            expected="decay_steps > 0.",
            received=f"decay_steps={decay_steps}.",
            fix="give the number of steps over which the rate decays, such as epochs * steps per epoch.",
        )
    return decay_steps


_KNOWN = names_of(ExponentialDecay, InverseTimeDecay, PiecewiseConstantDecay, PolynomialDecay, CosineDecay)


def get(identifier: Any) -> LearningRateSchedule:
    """The schedule for a config dict {"class_name": ..., "config": {...}}; an instance stays as it is."""
    return resolve("learning-rate schedule", identifier, _KNOWN, LearningRateSchedule)
