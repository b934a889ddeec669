"""Callbacks: what happens between the steps of `fit`, `evaluate` and `predict`.

A callback talks to the model through a few names only: get_weights, set_weights, save, save_weights,
stop_training and optimizer.learning_rate. All callbacks of a call see the same `logs`, in the order of the
list: what one adds to them (ReduceLROnPlateau: the learning rate), the next ones find.
"""

from __future__ import annotations

import csv
import inspect
import io
import math
import os
from collections.abc import Callable, Iterable
from numbers import Real
from typing import Any, TypeAlias

from minicnn.errors import InputError, unknown_name
from minicnn.files import atomic_write, make_folder
from minicnn.training.profiling import stage

Logs: TypeAlias = dict[str, Any] | None  # name -> number: "loss", the metrics' names, "val_loss", ...


class Callback:
    """Base class: override the hooks that are wanted; each is called with what Keras calls it with.

    model: the model in training. params: {"verbose", "epochs", "steps"}. Epochs and batches count from 0.
    A hook may set self.model.stop_training = True: training stops after the epoch's current batch.

    remembers: the names of the attributes that change as training goes on. With a BackupAndRestore beside it they are
    written down and come back when the run is resumed (after on_train_begin; in the middle of an epoch without a
    second on_epoch_begin). They may be numbers, texts, arrays, and lists and dicts of those.
    """

    remembers: tuple[str, ...] = ()
    comes_last = False  # whether its hooks are called after those of all others
    finds_nan = False  # whether fit shall look where NaN or infinity begins, and leave it in place.not_finite

    def __init__(self) -> None:
        self.model: Any = None
        self.params: dict[str, Any] = {}
        self.place: Any = None

    def set_model(self, model: Any) -> None:
        self.model = model

    def set_params(self, params: dict[str, Any]) -> None:
        self.params = params

    def set_place(self, place: Any) -> None:
        """place: a minicnn.training.place.Place: how far this call of fit has come."""
        self.place = place

    def state_dict(self) -> dict[str, Any]:
        """What has to be known to go on as if nothing had happened."""
        return {name: getattr(self, name) for name in self.remembers}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to what state_dict returned in an earlier run."""
        for name in self.remembers:
            setattr(self, name, state[name])

    def on_train_begin(self, logs: Logs = None) -> None: ...

    def on_train_end(self, logs: Logs = None) -> None: ...

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None: ...

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None: ...

    def on_batch_begin(self, batch: int, logs: Logs = None) -> None: ...

    def on_batch_end(self, batch: int, logs: Logs = None) -> None: ...

    def on_train_batch_begin(self, batch: int, logs: Logs = None) -> None:
        self.on_batch_begin(batch, logs)

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        self.on_batch_end(batch, logs)

    def on_test_begin(self, logs: Logs = None) -> None: ...

    def on_test_end(self, logs: Logs = None) -> None: ...

    def on_test_batch_begin(self, batch: int, logs: Logs = None) -> None: ...

    def on_test_batch_end(self, batch: int, logs: Logs = None) -> None: ...

    def on_predict_begin(self, logs: Logs = None) -> None: ...

    def on_predict_end(self, logs: Logs = None) -> None: ...

    def on_predict_batch_begin(self, batch: int, logs: Logs = None) -> None: ...

    def on_predict_batch_end(self, batch: int, logs: Logs = None) -> None: ...


HOOKS = [name for name in vars(Callback) if name.startswith("on_")]


class CallbackList:
    """Calls the same hook of several callbacks, in order.

    Only callbacks that override a hook are called: an unused hook costs nothing at every batch.
    """

    def __init__(self, callbacks: Iterable[Callback] | Callback | None = None, model: Any = None, **params: Any):
        self.callbacks = [callbacks] if isinstance(callbacks, Callback) else list(callbacks or ())
        for callback in self.callbacks:
            if not isinstance(callback, Callback):
                name = getattr(callback, "__name__", type(callback).__name__)
                raise InputError(
                    "callbacks",
                    problem="this is not a callback.",
                    expected="instances of minicnn.callbacks.Callback.",
                    received=f"{callback!r}.",
                    fix=f"create an instance, {name}(...)."
                    if inspect.isclass(callback)
                    else "derive it from minicnn.callbacks.Callback, or wrap functions in a LambdaCallback.",
                )
            callback.set_model(model)
            callback.set_params(params)
        self.callbacks.sort(key=lambda callback: callback.comes_last)
        self._listeners = {
            hook: [getattr(callback, hook) for callback in self.callbacks if _listens(callback, hook)] for hook in HOOKS
        }

    def listens(self, hook: str) -> bool:
        """Whether a callback overrides this hook. If not, nobody need compute the logs for it."""
        return bool(self._listeners[hook])

    def set_place(self, place: Any) -> None:
        for callback in self.callbacks:
            callback.set_place(place)

    def _call(self, hook: str, *args: Any) -> None:
        for listener in self._listeners[hook]:
            with stage("callbacks"):
                listener(*args)

    def on_train_begin(self, logs: Logs = None) -> None:
        self._call("on_train_begin", logs)

    def on_train_end(self, logs: Logs = None) -> None:
        self._call("on_train_end", logs)

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        self._call("on_epoch_begin", epoch, logs)

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        self._call("on_epoch_end", epoch, logs)

    def on_train_batch_begin(self, batch: int, logs: Logs = None) -> None:
        self._call("on_train_batch_begin", batch, logs)

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        self._call("on_train_batch_end", batch, logs)

    def on_test_begin(self, logs: Logs = None) -> None:
        self._call("on_test_begin", logs)

    def on_test_end(self, logs: Logs = None) -> None:
        self._call("on_test_end", logs)

    def on_test_batch_begin(self, batch: int, logs: Logs = None) -> None:
        self._call("on_test_batch_begin", batch, logs)

    def on_test_batch_end(self, batch: int, logs: Logs = None) -> None:
        self._call("on_test_batch_end", batch, logs)

    def on_predict_begin(self, logs: Logs = None) -> None:
        self._call("on_predict_begin", logs)

    def on_predict_end(self, logs: Logs = None) -> None:
        self._call("on_predict_end", logs)

    def on_predict_batch_begin(self, batch: int, logs: Logs = None) -> None:
        self._call("on_predict_batch_begin", batch, logs)

    def on_predict_batch_end(self, batch: int, logs: Logs = None) -> None:
        self._call("on_predict_batch_end", batch, logs)


def _listens(callback: Callback, hook: str) -> bool:
    """Whether a callback overrides a hook; those of training batches call the older on_batch_... ones."""
    names = (hook, hook.replace("train_", "")) if hook.startswith("on_train_batch") else (hook,)
    cls = type(callback)
    return any(name in vars(callback) or getattr(cls, name) is not getattr(Callback, name) for name in names)


class LambdaCallback(Callback):
    """A callback made of functions: LambdaCallback(on_epoch_end=lambda epoch, logs: print(logs["loss"]))."""

    def __init__(self, **hooks: Callable[..., Any] | None):
        super().__init__()
        for name, function in hooks.items():
            if name not in HOOKS:
                raise unknown_name("LambdaCallback hook", name, HOOKS)
            if function is not None:
                setattr(self, name, function)


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
            return float(logs[self.monitor])
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
            if getattr(metric, "name", None) == name:
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


class EarlyStopping(MonitorCallback):
    """Stop when a number has not improved for `patience` epochs.

    baseline: epochs that do not beat it count as no improvement. restore_best_weights: at the end of
    training, stopped early or not, the model gets back the weights of its best epoch. start_from_epoch:
    epochs before it (from 0) are not looked at. The other arguments: see MonitorCallback.
    Afterwards: stopped_epoch (0 if not stopped early), best_epoch, best, wait; epochs count from 0.
    """

    remembers = ("wait", "stopped_epoch", "best_epoch", "best", "best_weights")

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


def check_save_freq(where: str, save_freq: Any) -> str | int:
    """save_freq itself; InputError unless it is "epoch" or a number of batches."""
    if save_freq != "epoch" and not (isinstance(save_freq, int) and save_freq > 0):
        raise InputError(
            f"{where} save_freq",
            problem="this is no frequency.",
            expected='"epoch", or a whole number of batches from 1 on.',
            received=f"{save_freq!r}.",
            fix='leave it at "epoch" to save after every epoch.',
        )
    return save_freq


class ModelCheckpoint(MonitorCallback):
    """Save the model, or its weights, every epoch or every save_freq batches.

    filepath: may hold {epoch} (from 1), {batch} (from 1, if save_freq is a number) and any name of the logs:
    "model-{epoch:02d}-{val_loss:.2f}.keras". Missing folders are made. save_best_only: only when the
    monitored number improves, from initial_value_threshold if given. save_weights_only: model.save_weights
    instead of model.save. The other arguments: see MonitorCallback.
    """

    remembers = ("best", "_epoch", "_batches")

    def __init__(
        self,
        filepath: str | os.PathLike[str],
        monitor: str = "val_loss",
        verbose: int = 0,
        save_best_only: bool = False,
        save_weights_only: bool = False,
        mode: str = "auto",
        save_freq: str | int = "epoch",
        initial_value_threshold: float | None = None,
    ):
        super().__init__(monitor, mode)
        self.filepath, self.verbose = os.fspath(filepath), verbose
        self.save_best_only, self.save_weights_only = save_best_only, save_weights_only
        self.save_freq = check_save_freq("ModelCheckpoint", save_freq)
        self.best = initial_value_threshold
        self._epoch = self._batches = 0

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        self._batches += 1
        if self.save_freq != "epoch" and self._batches % int(self.save_freq) == 0:
            self._save({"epoch": self._epoch + 1, "batch": batch + 1, **(logs or {})}, logs)

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        if self.save_freq == "epoch":
            self._save({"epoch": epoch + 1, **(logs or {})}, logs)

    def _save(self, names: dict[str, Any], logs: Logs) -> None:
        message = f"Epoch {names['epoch']}: "
        if self.save_best_only:
            value, best = self.monitored(logs), self.best
            if not self.improves(value, best):
                if self.verbose:
                    print(message + f"{self.monitor} did not improve from {best}")
                return
            self.best = value
            message += f"{self.monitor} improved from {best} to {value:.5f}, "
        path = self._path(names)
        make_folder(os.path.dirname(path) or ".")
        if self.save_weights_only:
            self.model.save_weights(path)
        else:
            self.model.save(path)
        if self.verbose:
            print(message + f"saved {path}")

    def _path(self, names: dict[str, Any]) -> str:
        try:
            return self.filepath.format(**names)
        except (KeyError, IndexError) as error:
            raise InputError(
                "ModelCheckpoint filepath",
                problem=f"{self.filepath!r} holds a name that is not known.",
                expected=f"names among {', '.join(sorted(names))}.",
                received=str(error) + ".",
                fix="use those names in the braces, or pass the data and metrics that give the missing one.",
            ) from None


class CSVLogger(Callback):
    """Write every epoch's logs to a CSV file: a column "epoch" (from 0), then the logs' names in order.

    append: go on in an existing file instead of writing a new one; its heading is not repeated. The file is replaced as
    a whole after every epoch: whatever happens to the run, it holds the rows of all finished epochs.
    """

    remembers = ("_text", "_columns")

    def __init__(self, filename: str | os.PathLike[str], separator: str = ",", append: bool = False):
        super().__init__()
        self.filename, self.separator, self.append = os.fspath(filename), separator, append
        self._text, self._columns = "", list[str]()

    def on_train_begin(self, logs: Logs = None) -> None:
        self._text, self._columns = "", []
        if self.append and os.path.exists(self.filename):
            with open(self.filename, newline="", encoding="utf-8") as file:
                self._text = file.read()
        self._write()

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        logs = logs or {}
        rows = io.StringIO(newline="")
        writer = csv.writer(rows, delimiter=self.separator)
        if not self._columns:
            self._columns = sorted(logs)
            if not self._text:
                writer.writerow(["epoch", *self._columns])
        writer.writerow([epoch, *(logs.get(name, "NA") for name in self._columns)])
        self._text += rows.getvalue()
        self._write()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._write()  # without the rows of epochs that will be run again

    def _write(self) -> None:
        with atomic_write(self.filename) as file:
            file.write(self._text.encode("utf-8"))


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
    return 2


class ReduceLROnPlateau(MonitorCallback):
    """Multiply the learning rate by `factor` when a number has not improved for `patience` epochs.

    cooldown: epochs after a reduction in which nothing is counted. min_lr: the rate never goes below. The
    current rate is recorded in the logs as "learning_rate". The other arguments: see MonitorCallback.
    """

    remembers = ("best", "wait", "cooldown_counter")

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


class TerminateOnNaN(Callback):
    """Stop training as soon as a batch's loss, a gradient or a parameter is NaN or infinite, and say where it began.

    A batch whose loss or gradients are not finite is not learned from: the model keeps what it had learned before it.
    """

    finds_nan = True

    def on_batch_end(self, batch: int, logs: Logs = None) -> None:
        loss = (logs or {}).get("loss")
        error = None if self.place is None else self.place.not_finite
        if error is not None:
            print(f"Training stops. {error}")
            self.model.stop_training = True
        elif loss is not None and not math.isfinite(loss):
            print(f"Batch {batch}: the loss is {float(loss)}, training stops")
            self.model.stop_training = True
