"""The logs of every epoch, as a table that any program reads."""

from __future__ import annotations

import csv
import io
import os
from typing import Any

from minicnn.errors import InputError
from minicnn.files import atomic_write, checked_path
from minicnn.reading import shortened
from minicnn.training.callbacks.base import Callback, Logs


class CSVLogger(Callback):
    """Write every epoch's logs to a CSV file: a column "epoch" (from 0), then the logs' names in order.

    append: go on in an existing file instead of writing a new one. A name that the file does not have yet gets a column
    of its own, with NA in the rows above; a name that an epoch lacks is NA there. The file is replaced as a whole after
    every epoch: whatever happens to the run, it holds the rows of all finished epochs. Raises InputError at the
    beginning of fit where `append` meets a file that is no such table.
    """

    state_keys = ("_rows",)

    def __init__(self, filename: str | os.PathLike[str], separator: str = ",", append: bool = False):
        super().__init__()
        if not isinstance(separator, str) or len(separator) != 1:
            raise InputError(
                "CSVLogger separator", "this cannot separate columns.", "a single character.", f"{separator!r}.",
                'leave it at ",".',
            )  # fmt: skip
        self.filename, self.separator, self.append = checked_path("CSVLogger filename", filename), separator, append
        self._rows: list[list[str]] = []  # the heading first

    def on_train_begin(self, logs: Logs = None) -> None:
        self._rows = self._existing() if self.append and os.path.isfile(self.filename) else []
        self._write()

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        logs = logs or {}
        if not self._rows:
            self._rows = [["epoch"]]
        heading, *rows = self._rows
        new = sorted(name for name in logs if name not in heading)
        heading += new
        for row in rows:
            row += ["NA"] * (len(heading) - len(row))
        values = {"epoch": epoch, **logs}
        self._rows.append([str(values.get(name, "NA")) for name in heading])
        self._write()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._write()  # without the rows of epochs that will be run again

    def _existing(self) -> list[list[str]]:
        try:
            with open(self.filename, newline="", encoding="utf-8-sig") as file:
                rows = [row for row in csv.reader(file, delimiter=self.separator) if row]
        except (UnicodeDecodeError, csv.Error):
            rows = [["bytes that are no text"]]
        if rows and rows[0][0] != "epoch":
            raise InputError(
                "CSVLogger", f"{self.filename} is no table of epochs, to which rows could be appended.",
                f"a heading that begins with epoch{self.separator}.",
                f"{shortened(self.separator.join(rows[0]), 60)!r}.",
                "choose another filename, the separator that the file has, or append=False.",
            )  # fmt: skip
        return rows

    def _write(self) -> None:
        text = io.StringIO(newline="")
        csv.writer(text, delimiter=self.separator).writerows(self._rows)
        with atomic_write(self.filename) as file:
            file.write(text.getvalue().encode("utf-8"))
