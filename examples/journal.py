"""What the longer examples share: their flags, a backup to go on from, and the record of what was measured."""

import hashlib
import sys
import time
from pathlib import Path

from measurements import peak_memory_mb, write_record

import minicnn
from minicnn.callbacks import BackupAndRestore, Callback
from minicnn.errors import InputError


def add_flags(parser, output):
    """The flags of every example that uses a journal."""
    parser.add_argument("--output", type=Path, default=Path(output), help="folder for what is written")
    parser.add_argument("--resume", action="store_true", help="go on where a run that was killed had come to")
    parser.add_argument("--record", type=Path, metavar="FILE", help="write what was measured to a JSON file")
    parser.add_argument("--threads", type=int, help="default: all cores")
    parser.add_argument("--device", choices=["cpu", "gpu", "auto"], default="cpu", help="auto: gpu where there is one")


def say_everything():
    """Names of folders and classes may have letters that this terminal cannot show: then it shows others."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def backup(args):
    """The callback that lets a run that was killed go on with --resume."""
    callback = BackupAndRestore(args.output / "backup", delete_checkpoint=False)
    if not args.resume:
        callback.delete()
    return callback


class Journal(Callback):
    """Measures every epoch of a run; what was measured before an interruption comes back with the backup.

    settings: a dict of what must be the same when the run goes on. seconds: of each epoch, validation included.
    resumes: how often the run went on. Raises InputError where a run with other settings is resumed.
    """

    state_keys = ("settings", "seconds", "resumes", "peak_memory_mb")

    def __init__(self, settings):
        super().__init__()
        self.settings, self.seconds, self.resumes, self.peak_memory_mb = settings, [], 0, 0

    def load_state_dict(self, state):
        if state["settings"] != self.settings:
            raise InputError(
                "--resume", "the run in this folder has other settings.", f"{state['settings']}.", f"{self.settings}.",
                "give the flags that the run began with, or another --output.",
            )  # fmt: skip
        super().load_state_dict(state)
        self.resumes += 1

    def on_epoch_begin(self, epoch, logs=None):
        self._start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.seconds.append(round(time.perf_counter() - self._start, 2))
        self.peak_memory_mb = max(self.peak_memory_mb, round(peak_memory_mb()))

    def record(self, file, history=None, **about):
        """Write what was measured, with versions, hardware and the command, as one JSON file.

        history: what fit returned, if losses and metrics by epoch belong to it. about: what else does.
        """
        curves = {} if history is None else history.history
        write_record(file, {
            **self.settings, "epochs": len(self.seconds), **about, "threads": minicnn.get_num_threads(),
            "resumes": self.resumes, "peak_memory_mb": max(self.peak_memory_mb, round(peak_memory_mb())),
            "seconds": round(sum(self.seconds)), "seconds_per_epoch": self.seconds,
            **{name: [round(float(value), 4) for value in values] for name, values in curves.items()},
        })  # fmt: skip


def data_md5(*arrays):
    """One checksum for all the data of a run."""
    digest = hashlib.md5(usedforsecurity=False)
    for array in arrays:
        digest.update(f"{array.shape} {array.dtype}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
