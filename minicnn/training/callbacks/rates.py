"""Callbacks that change the learning rate."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from numbers import Real

from minicnn.errors import InputError
from minicnn.training.callbacks.base import Callback, Logs
from minicnn.training.callbacks.monitor import MonitorCallback


class LearningRateScheduler(Callback):
    """Set the learning rate at the beginning of every epoch, and record it in the logs as "learning_rate".

    schedule: a function of the epoch (from 0) and the current rate, or of the epoch; returns the new one.
    """

    def __init__(self, schedule: Callable[..., float], verbose: int = 0):
        super().__init__()
        self.schedule, self.verbose = schedule, verbose

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        arguments = (epoch, float(self.model.optimizer.learning_rate))
        rate = self.schedule(*arguments[: _arguments_taken(self.schedule)])
        if not isinstance(rate, Real) or isinstance(rate, bool) or not math.isfinite(rate):
            raise InputError(
                "LearningRateScheduler",
                problem="the schedule did not return a learning rate.",
                expected="a finite number.",
                received=f"{rate!r} for epoch {epoch}.",
                fix="return a number from the schedule for every epoch; a missing return gives None.",
            )
        self.model.optimizer.learning_rate = float(rate)
        if self.verbose:
            print(f"Epoch {epoch + 1}: learning rate {rate}")

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        if logs is not None:
            logs["learning_rate"] = float(self.model.optimizer.learning_rate)


def _arguments_taken(schedule: Callable[..., float]) -> int:
    """2 if schedule(epoch, lr) is a possible call, else 1. To try it would hide a TypeError from inside."""
    try:
        inspect.signature(schedule).bind(0, 0.0)
    except TypeError:
        return 1
    except ValueError:  # of Python's own, such as max, which tell no signature
        return 2
    return 2


class ReduceLROnPlateau(MonitorCallback):
    """Multiply the learning rate by `factor` when a number has not improved for `patience` epochs.

    cooldown: epochs after a reduction in which nothing is counted. min_lr: the rate never goes below. The
    current rate is recorded in the logs as "learning_rate". The other arguments: see MonitorCallback.
    """

    state_keys = ("best", "wait", "cooldown_counter")

    def __init__(
        self,
        monitor: str = "val_loss",
        factor: float = 0.1,
        patience: int = 10,
        verbose: int = 0,
        mode: str = "auto",
        min_delta: float = 1e-4,
        cooldown: int = 0,
        min_lr: float = 0.0,
    ):
        super().__init__(monitor, mode, min_delta)
        if not 0 <= factor < 1:
            raise InputError(
                "ReduceLROnPlateau factor",
                problem="this factor does not reduce the learning rate.",
                expected="0 <= factor < 1.",
                received=f"factor={factor}.",
                fix="pass a number such as 0.1 or 0.5.",
            )
        self.factor, self.patience, self.verbose = factor, patience, verbose
        self.cooldown, self.min_lr = cooldown, min_lr
        self.on_train_begin()

    def on_train_begin(self, logs: Logs = None) -> None:
        self.best = None
        self.wait = self.cooldown_counter = 0

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        rate = float(self.model.optimizer.learning_rate)
        if logs is not None:
            logs["learning_rate"] = rate
        value = self.monitored(logs)
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.wait = 0
        if self.improves(value, self.best):
            self.best = value
            self.wait = 0
        elif self.cooldown_counter == 0:
            self.wait += 1
            if self.wait >= self.patience and rate > self.min_lr:
                self.model.optimizer.learning_rate = new_rate = max(rate * self.factor, self.min_lr)
                self.cooldown_counter = self.cooldown
                self.wait = 0
                if self.verbose:
                    print(f"Epoch {epoch + 1}: learning rate reduced to {new_rate}")
