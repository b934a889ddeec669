"""The logs of every epoch, as a table that any program reads."""

from __future__ import annotations

import csv
import io
import os
from typing import Any

from minicnn.files import atomic_write
from minicnn.training.callbacks.base import Callback, Logs


class CSVLogger(Callback):
    """Write every epoch's logs to a CSV file: a column "epoch" (from 0), then the logs' names in order.

    append: go on in an existing file instead of writing a new one; its heading is not repeated. The file is replaced as
    a whole after every epoch: whatever happens to the run, it holds the rows of all finished epochs.
    """

    state_keys = ("_text", "_columns")

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
