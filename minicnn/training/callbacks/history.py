"""What `fit` returns: the losses and metrics of every epoch."""

from __future__ import annotations

from typing import Any

from minicnn.training.callbacks.base import Callback, Logs


class History(Callback):
    """Records every epoch's logs.

    epoch: the epochs' numbers, from 0. history: {"loss": [one value an epoch], "val_loss": [...], ...}.
    params: {"verbose", "epochs", "steps"} of the call of fit.
    """

    state_keys = ("epoch", "history")

    def __init__(self) -> None:
        super().__init__()
        self.epoch: list[int] = []
        self.history: dict[str, list[Any]] = {}

    def on_train_begin(self, logs: Logs = None) -> None:
        self.epoch = []

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        self.epoch.append(epoch)
        for name, value in (logs or {}).items():
            self.history.setdefault(name, []).append(value)
        self.model.history = self

    def _repr_html_(self) -> str:
        """Curves and a table of the epochs, which notebooks show."""
        from minicnn.inspect.notebook import history_html

        return history_html(self)
