"""When training ends before its time."""

from __future__ import annotations

import math
from typing import Any

from minicnn.errors import visible
from minicnn.training.callbacks.base import Callback, Logs
from minicnn.training.callbacks.monitor import MonitorCallback


class EarlyStopping(MonitorCallback):
    """Stop when a number has not improved for `patience` epochs.

    baseline: epochs that do not beat it count as no improvement. restore_best_weights: at the end of
    training, stopped early or not, the model gets back the weights of its best epoch. start_from_epoch:
    epochs before it (from 0) are not looked at. The other arguments: see MonitorCallback.
    Afterwards: stopped_epoch (0 if not stopped early), best_epoch, best, wait; epochs count from 0.
    """

    state_keys = ("wait", "stopped_epoch", "best_epoch", "best", "best_weights")

    def __init__(
        self,
        monitor: str = "val_loss",
        min_delta: float = 0,
        patience: int = 0,
        verbose: int = 0,
        mode: str = "auto",
        baseline: float | None = None,
        restore_best_weights: bool = False,
        start_from_epoch: int = 0,
    ):
        super().__init__(monitor, mode, min_delta)
        self.patience, self.verbose, self.baseline = patience, verbose, baseline
        self.restore_best_weights, self.start_from_epoch = restore_best_weights, start_from_epoch
        self.on_train_begin()

    def on_train_begin(self, logs: Logs = None) -> None:
        self.wait = self.stopped_epoch = self.best_epoch = 0
        self.best = None
        self.best_weights: list[Any] | None = None

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        value = self.monitored(logs)
        if epoch < self.start_from_epoch:
            return
        self.wait += 1
        better = self.improves(value, self.best)
        if better:
            self.best = value
            self.best_epoch = epoch
        if self.restore_best_weights and (better or self.best_weights is None):
            self.best_weights = self.model.get_weights()
        if better:
            if self.baseline is None or self.improves(value, self.baseline):
                self.wait = 0
        elif self.wait >= self.patience and epoch > 0:
            self.stopped_epoch = epoch
            self.model.stop_training = True

    def on_train_end(self, logs: Logs = None) -> None:
        if self.stopped_epoch and self.verbose:
            print(f"Epoch {self.stopped_epoch + 1}: early stopping")
        if self.best_weights is not None:
            if self.verbose:
                print(f"Restoring the weights of the best epoch: {self.best_epoch + 1}.")
            self.model.set_weights(self.best_weights)


class TerminateOnNaN(Callback):
    """Stop training as soon as a batch's loss, a gradient or a parameter is NaN or infinite, and say where it began.

    A batch whose loss or gradients are not finite is not learned from: the model keeps what it had learned before it.
    raise_error: raise the NotFiniteError instead of stopping quietly; where its place is not known, a RuntimeError.
    """

    needs_nan_check = True

    def __init__(self, raise_error: bool = False):
        super().__init__()
        self.raise_error = bool(raise_error)

    def on_batch_end(self, batch: int, logs: Logs = None) -> None:
        loss = (logs or {}).get("loss")
        error = None if self.place is None else self.place.not_finite
        if self.raise_error and error is not None:
            raise error
        if self.raise_error and loss is not None and not math.isfinite(loss):
            raise RuntimeError(f"batch {batch}: the loss is {float(loss)}")
        if error is not None:
            print(visible(f"Training stops. {error}"))
            self.model.stop_training = True
        elif loss is not None and not math.isfinite(loss):
            print(f"Batch {batch}: the loss is {float(loss)}, training stops")
            self.model.stop_training = True
