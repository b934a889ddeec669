"""The model, or its weights, saved as training goes on."""

from __future__ import annotations

import os
from typing import Any

from minicnn.errors import InputError, visible
from minicnn.files import checked_path, make_folder
from minicnn.training.callbacks.base import Logs
from minicnn.training.callbacks.monitor import MonitorCallback, unpacked


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
    "model-{epoch:02d}-{val_loss:.2f}.zip". Missing folders are made. save_best_only: only when the
    monitored number improves, from initial_value_threshold if given. save_weights_only: model.save_weights
    instead of model.save. The other arguments: see MonitorCallback. In `fit` of another model it begins anew.
    """

    state_keys = ("best", "_epoch", "_batches")

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
        self.filepath, self.verbose = checked_path("ModelCheckpoint filepath", filepath), verbose
        self.save_best_only, self.save_weights_only = save_best_only, save_weights_only
        self.save_freq = check_save_freq("ModelCheckpoint", save_freq)
        if self.save_freq != "epoch" and ("{val_" in self.filepath or (save_best_only and monitor.startswith("val_"))):
            raise InputError(
                "ModelCheckpoint save_freq", "there are no val_ numbers in the middle of an epoch.",
                'save_freq="epoch", or a number of the training itself, such as monitor="loss".',
                f"save_freq={save_freq!r}, monitor={monitor!r}, filepath={self.filepath!r}.",
                'leave save_freq at "epoch", or pass monitor="loss" and a filepath without val_.',
            )  # fmt: skip
        self.initial_value_threshold = initial_value_threshold
        self._begin()

    def _begin(self) -> None:
        self.best = self.initial_value_threshold
        self._epoch = self._batches = 0

    def set_model(self, model: Any) -> None:
        if self.model is not None and model is not self.model:
            self._begin()  # the best of another model says nothing of this one
        super().set_model(model)

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
                    print(visible(message + f"{self.monitor} did not improve from {best}"))
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
            print(visible(message + f"saved {path}"))

    def _path(self, names: dict[str, Any]) -> str:
        try:
            return self.filepath.format(**{name: unpacked(value) for name, value in names.items()})
        except (TypeError, ValueError, AttributeError) as error:
            raise InputError(
                "ModelCheckpoint filepath",
                problem=f"{self.filepath!r} cannot be filled in.",
                expected="in braces a name and a format that its value has: {epoch:02d}, {val_loss:.2f}.",
                received=f"{error}.",
                fix="correct the braces, or leave that name out.",
            ) from None
        except (KeyError, IndexError) as error:
            raise InputError(
                "ModelCheckpoint filepath",
                problem=f"{self.filepath!r} holds a name that is not known.",
                expected=f"names among {', '.join(sorted(names))}.",
                received=str(error) + ".",
                fix="use those names in the braces, or pass the data and metrics that give the missing one.",
            ) from None
