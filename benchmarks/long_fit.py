"""An epoch of a long `fit` at a time: what fit does once, such as to fork processes, is no part of it."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from minicnn.callbacks import Callback

FOR_EVER = 10**6


class LongFit(Callback):
    """A fit in a thread of its own, which waits at the beginning of each epoch until somebody calls `epoch`."""

    def __init__(self, model: Any, x: np.ndarray, y: np.ndarray, batch: int):
        super().__init__()
        self.go, self.done = threading.Semaphore(0), threading.Semaphore(0)
        self.error: BaseException | None = None
        self.of = model, x, y, batch
        threading.Thread(target=self._fit, daemon=True).start()

    def epoch(self) -> None:
        """One pass over the data. Raises what fit raises."""
        self.go.release()
        self.done.acquire()
        if self.error is not None:
            raise self.error

    def _fit(self) -> None:
        model, x, y, batch = self.of
        try:
            model.fit(x, y, batch_size=batch, epochs=FOR_EVER, verbose=0, callbacks=[self])
        except BaseException as error:
            self.error = error
            self.done.release()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.go.acquire()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.done.release()
