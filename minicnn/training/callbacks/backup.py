"""BackupAndRestore: a training that was killed goes on where it was, and ends as if nothing had happened.

One file holds all that a run changes as it goes on: parameters and state, the optimizer's arrays and its count of
steps, the random generator, and the place in the run (`minicnn/training/trainer_state.py`): epoch, batch, the order of
the samples, the sums of loss and metrics, what the other callbacks remember.
"""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path
from typing import Any

from minicnn.errors import BrokenFileError, InputError, visible
from minicnn.files import checked_path, make_folder
from minicnn.ranks import first_rank_does
from minicnn.reading import checked
from minicnn.saving.model_file import (
    FORMAT,
    generator_from,
    opened_archive,
    set_slots_by_name,
    set_weights_by_name,
    slots_by_name,
    weights_by_name,
    write_archive,
)
from minicnn.training.callbacks.base import Callback, Logs
from minicnn.training.callbacks.checkpoint import check_save_freq
from minicnn.training.trainer_state import difference, identity, put_aside, put_back


class BackupAndRestore(Callback):
    """Write down where training stands, and go on from there when the same script is run again.

    After a crash or a kill at any moment the second run ends with the same weights, bit for bit, as one that was never
    killed, if it has as many threads and ranks; so do History, the other callbacks and what they write. With another
    number of them it goes on as well, and differs by rounding. The data must be the same again. A generator is run
    forward over the batches that it gave before; an object with `state_dict()` and `load_state_dict(state)` goes to its
    place by itself.

    backup_dir: a folder of this run's own. save_freq: "epoch", or after how many batches. double_checkpoint: keep the
    backup before the last one, too, in case the last cannot be read. delete_checkpoint: remove the backup when training
    has ended well. Once the loss is NaN or infinite no backup is written any more, and the last one stays. Raises
    InputError at the beginning of fit where the backup is that of another model, optimizer or amount of data,
    WriteError (an OSError) where the disk refuses. The learning rate may be changed in the script: the new one then
    holds from the place where training goes on.
    """

    priority = 1  # it writes down what the others have come to

    def __init__(
        self,
        backup_dir: str | os.PathLike[str],
        save_freq: str | int = "epoch",
        double_checkpoint: bool = False,
        delete_checkpoint: bool = True,
    ):
        super().__init__()
        self.backup_dir = Path(checked_path("BackupAndRestore backup_dir", backup_dir))
        self.save_freq = check_save_freq("BackupAndRestore", save_freq)
        self.double_checkpoint, self.delete_checkpoint = double_checkpoint, delete_checkpoint
        self.path, self.previous = self.backup_dir / "backup.zip", self.backup_dir / "previous.zip"

    def on_train_begin(self, logs: Logs = None) -> None:
        self.script_rate = self._rate()
        first_rank_does("the return to a backup", self._begin)

    def _begin(self) -> None:
        make_folder(self.backup_dir)
        for part in self.backup_dir.glob(f".{self.path.name}.*.part"):  # of a process that was killed while it wrote
            part.unlink()
        for path in (self.path, self.previous):
            if path.exists():
                try:
                    self._restore(path)
                    return
                except BrokenFileError as error:
                    if path == self.previous or not self.previous.exists():
                        raise
                    print(visible(f"{error}\nThe backup before it is taken instead."))

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        if self.save_freq != "epoch" and self.model.optimizer.iterations % int(self.save_freq) == 0:
            self._save_if_finite(logs)

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        if self.save_freq == "epoch":
            self._save_if_finite(logs)

    def on_train_end(self, logs: Logs = None) -> None:
        if self.delete_checkpoint and self._is_finite(logs):
            self.delete()

    def delete(self) -> None:
        """Remove the backup, if there is one: the next run begins anew."""
        first_rank_does("the removal of the backup", self._delete)

    def _delete(self) -> None:
        for path in (self.path, self.previous):
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # it may not be there, or hold something else
            self.backup_dir.rmdir()

    def _save_if_finite(self, logs: Logs) -> None:
        if self._is_finite(logs):
            first_rank_does("the backup", self._save)

    def _is_finite(self, logs: Logs) -> bool:
        return self.place.not_finite is None and math.isfinite((logs or {}).get("loss", 0.0))

    def _save(self) -> None:
        model, optimizer = self.model, self.model.optimizer
        arrays = weights_by_name(model) | slots_by_name(model)
        config = {
            "format": FORMAT,
            "belongs_to": identity(self.model, self.place.batches),
            "input_shape": model.sample_shape,
            "iterations": optimizer.iterations,
            "learning_rate": self._rate(),
            "script_rate": self.script_rate,
            "rng": model.rng.bit_generator.state,
            "place": put_aside(self.place.state_dict(), arrays),
        }
        if self.double_checkpoint and self.path.exists():
            os.replace(self.path, self.previous)
        write_archive(self.path, config, arrays, overwrite=True)

    def _restore(self, path: Path) -> None:
        model, optimizer = self.model, self.model.optimizer
        fix = "delete the file, and train from the beginning."
        problem, expected = "its config.json is not that of a backup.", "what BackupAndRestore wrote."
        with opened_archive(path) as (config, archive), checked(path, problem, expected, fix):
            if not model.built:
                model.build_once(tuple(config["input_shape"]))
            self._check(path, config["belongs_to"])
            places = {name: archive.read(name) for name in archive.arrays if name.startswith("place/")}
            set_weights_by_name(model, archive, path)
            set_slots_by_name(model, archive, path)
            optimizer.iterations = int(config["iterations"])
            changed = config.get("script_rate", self.script_rate) != self.script_rate
            if config["learning_rate"] is not None and not changed:
                optimizer.learning_rate = config["learning_rate"]
            model.rng.bit_generator.state = generator_from(config["rng"]).bit_generator.state
            self.place.load_state_dict(put_back(config["place"], places))
            self.place.restored = True
        if self.params.get("verbose"):
            batches = f", after {self.place.step} batches of it" if self.place.step else ""
            rate = f", with the new learning rate {self.script_rate:g}" if changed else ""
            print(visible(f"{path}: resuming at epoch {self.place.epoch + 1}{batches}{rate}"))

    def _rate(self) -> float | None:
        """The learning rate as it is now; None where a schedule gives it, which is a part of the optimizer."""
        optimizer = self.model.optimizer
        return None if optimizer.schedule else float(optimizer.learning_rate)

    def _check(self, path: Path, belongs_to: dict[str, Any]) -> None:
        for what, ours in identity(self.model, self.place.batches).items():
            if belongs_to[what] != ours:
                theirs, ours = difference(belongs_to[what], ours)
                raise InputError(
                    path, f"this backup is of another training; what differs: {what}.",
                    f"{theirs}.", f"{ours}.",
                    "run the script as it was when the backup was written; or delete this file to train anew.",
                )  # fmt: skip
