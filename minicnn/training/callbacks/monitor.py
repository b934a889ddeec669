"""A callback that watches one number of the logs: base of those that stop, save or slow down."""

from __future__ import annotations

import math
from typing import Any

from minicnn.errors import InputError, unknown_name
from minicnn.reading import shortened
from minicnn.training.callbacks.base import Callback, Logs


def unpacked(value: Any) -> Any:
    """The number in an array of one, which a callback may have put into the logs; else value itself."""
    return value.item() if getattr(value, "size", None) == 1 else value


class MonitorCallback(Callback):
    """Base class of callbacks that watch one number of the logs.

    monitor: its name. mode: "min" if smaller is better, "max" if larger is, "auto" to tell from the name.
    min_delta: changes up to this size do not count as an improvement; nor does NaN, ever.
    best: the best value so far, or None.
    Raises InputError at the end of the first epoch if the logs have no such name.
    """

    def __init__(self, monitor: str = "val_loss", mode: str = "auto", min_delta: float = 0.0):
        super().__init__()
        if mode not in ("auto", "min", "max"):
            raise unknown_name(f"{type(self).__name__} mode", mode, ("auto", "min", "max"))
        self.monitor, self.mode, self.min_delta = monitor, mode, abs(min_delta)
        self.best: float | None = None

    def monitored(self, logs: Logs) -> float:
        """The watched number."""
        logs = logs or {}
        if self.monitor in logs:
            return self._number(logs[self.monitor])
        where = f"{type(self).__name__} monitor"
        if self.monitor.startswith("val_") and not any(name.startswith("val_") for name in logs):
            raise InputError(
                where,
                problem="nothing was validated.",
                expected=f"one of {', '.join(sorted(logs))}.",
                received=f"{self.monitor!r}.",
                fix="pass validation_data or validation_split to fit, or monitor a name from above.",
            )
        raise unknown_name(where, self.monitor, logs)

    def _number(self, value: Any) -> float:
        try:
            return float(unpacked(value))
        except (TypeError, ValueError) as error:
            raise InputError(
                f"{type(self).__name__} monitor",
                problem=f"what the logs hold as {self.monitor!r} is not one number.",
                expected="a number, or an array of one.",
                received=f"{shortened(repr(value), 60)}.",
                fix="let the callback that writes it into the logs write one number, such as a mean.",
            ) from error

    def improves(self, value: float, reference: float | None) -> bool:
        """Whether value is better than reference by more than min_delta. All but NaN is better than None."""
        if reference is None:
            return not math.isnan(value)
        if self._direction() == "min":
            return value + self.min_delta < reference
        return value - self.min_delta > reference

    def _direction(self) -> str:
        if self.mode != "auto":
            return self.mode
        name = self.monitor.removeprefix("val_")
        for metric in getattr(self.model, "metrics", None) or []:
            if getattr(metric, "name", None) == name and metric.direction is not None:
                return metric.direction
        if name in ("loss", "mse", "mae") or name.endswith("_error"):
            return "min"
        if name == "acc" or name.endswith("accuracy"):
            return "max"
        raise InputError(
            f"{type(self).__name__} mode",
            problem=f"it is unknown whether a larger {self.monitor!r} is better.",
            expected='mode="min" or mode="max".',
            received='mode="auto".',
            fix='pass mode="max" if larger is better, else mode="min".',
        )
