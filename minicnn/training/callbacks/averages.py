"""Judging a model by the running average of its weights, while it trains on with the weights themselves."""

from __future__ import annotations

from typing import Any

from minicnn.errors import InputError, checked
from minicnn.training.callbacks.base import Callback, Logs
from minicnn.training.step import learned


class SwapEMAWeights(Callback):
    """Validate with the averages of an optimizer that has use_ema=True: they take the weights' places meanwhile.

    swap_on_epoch: also at the end of each epoch, until the next one begins, so that a ModelCheckpoint behind this
    callback in the list saves the averages. Raises InputError where the optimizer has no averages. B. Polyak, A.
    Juditsky, "Acceleration of Stochastic Approximation by Averaging" (1992).
    """

    def __init__(self, swap_on_epoch: bool = False):
        super().__init__()
        self.swap_on_epoch = checked("SwapEMAWeights", "swap_on_epoch", swap_on_epoch, bool, True)

    def state_dict(self) -> dict[str, Any]:
        return {"swapped": self.model.optimizer.swapped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.optimizer.swapped = state["swapped"]

    def on_train_begin(self, logs: Logs = None) -> None:
        self._check()

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        self._swap(False)

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        self._swap(self.swap_on_epoch)

    def on_test_begin(self, logs: Logs = None) -> None:
        self._swap(True)

    def on_test_end(self, logs: Logs = None) -> None:
        self._swap(False)

    def on_predict_begin(self, logs: Logs = None) -> None:
        self._swap(True)

    def on_predict_end(self, logs: Logs = None) -> None:
        self._swap(False)

    def _swap(self, averages: bool) -> None:
        """Bring the averages, or the weights, into the model."""
        self._check()
        if self.model.optimizer.swapped != averages:
            self.model.optimizer.swap_averages(learned(self.model))

    def _check(self) -> None:
        optimizer = self.model.optimizer
        inner = getattr(optimizer, "optimizers", [optimizer])
        if not any(getattr(one, "use_ema", False) for one in inner):
            name = "no optimizer" if optimizer is None else type(optimizer).__name__
            raise InputError(
                "SwapEMAWeights", "there are no averages of the weights.", "an optimizer with use_ema=True.",
                f"{name}.", "for example model.compile(minicnn.optimizers.Adam(use_ema=True), …).",
            )  # fmt: skip
