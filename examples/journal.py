"""What the longer examples share: a training that can be stopped and continued, and the record of it.

After every epoch the folder holds the model, its optimizer and its random generator included, and what was measured so
far. A run that was killed goes on from there, and ends with the same numbers as one that was not.
"""

import hashlib
import json
import sys
import time
from pathlib import Path

import minicnn
from minicnn.callbacks import Callback
from minicnn.errors import InputError
from minicnn.saving import atomic_write

sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "benchmarks"))
from protocol import peak_memory_mb  # noqa: E402
from record import write_record  # noqa: E402


def add_flags(parser, output, resume=True):
    """The flags of every example that uses a journal. resume: whether its runs are long enough to be continued."""
    parser.add_argument("--output", type=Path, default=Path(output), help="folder for what is written")
    if resume:
        parser.add_argument("--resume", action="store_true", help="go on where the run in the output folder stopped")
    parser.add_argument("--record", type=Path, metavar="FILE", help="write what was measured to a JSON file")
    parser.add_argument("--threads", type=int, help="default: all cores")
    parser.add_argument("--device", choices=["cpu", "gpu", "auto"], default="cpu", help="auto: gpu where there is one")


class Journal(Callback):
    """Writes down every epoch of a run in a folder.

    settings: what must be the same when the run goes on, a dict. history: the losses and metrics of all epochs, those
    before an interruption too. seconds: what each epoch took. Raises InputError where other settings are resumed.
    """

    def __init__(self, folder, settings, resume=False):
        super().__init__()
        self.folder, self.path = Path(folder), Path(folder) / "journal.json"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.notes = {"settings": settings, "resumes": 0, "peak_memory_mb": 0, "seconds": [], "history": {}}
        if resume and self.path.exists():
            self.notes = json.loads(self.path.read_text(encoding="utf-8"))
            if self.notes["settings"] != settings:
                raise InputError(
                    "--resume", "the run in this folder has other settings.", f"{self.notes['settings']}.",
                    f"{settings}.", "give the flags that the run began with, or another --output.",
                )  # fmt: skip
            self.notes["resumes"] += 1
            print(f"Resumed: {self.epochs} epochs are done already.")

    @property
    def epochs(self):
        return len(self.notes["seconds"])

    @property
    def history(self):
        return self.notes["history"]

    def restored(self, model):
        """The model as it was after the last whole epoch: `model` itself at the beginning of a run."""
        return minicnn.load_model(self._checkpoint()) if self.epochs else model

    def on_epoch_begin(self, epoch, logs=None):
        self._start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.notes["seconds"].append(round(time.perf_counter() - self._start, 2))
        for name, value in logs.items():
            self.history.setdefault(name, []).append(float(value))
        self.notes["peak_memory_mb"] = max(self.notes["peak_memory_mb"], round(peak_memory_mb()))
        # The model first, under a name of its own: killed in between, the journal still speaks of the older one.
        self.model.save(self._checkpoint())
        with atomic_write(self.path) as file:
            file.write(json.dumps(self.notes, indent=1).encode())
        for old in self.folder.glob("checkpoint-*.zip"):
            if old != self._checkpoint():
                old.unlink()

    def _checkpoint(self):
        return self.folder / f"checkpoint-{self.epochs}.zip"

    def record(self, file, **about):
        """Write what was measured, with versions, hardware and the command, as one JSON file."""
        notes, peak = self.notes, max(self.notes["peak_memory_mb"], round(peak_memory_mb()))
        write_record(file, {
            **notes["settings"], "epochs": self.epochs, **about, "threads": minicnn.get_num_threads(),
            "resumes": notes["resumes"], "peak_memory_mb": peak,
            "seconds": round(sum(notes["seconds"])), "seconds_per_epoch": notes["seconds"],
            **{name: [round(value, 4) for value in values] for name, values in notes["history"].items()},
        })  # fmt: skip


def data_md5(*arrays):
    """One checksum for all the data of a run."""
    digest = hashlib.md5(usedforsecurity=False)
    for array in arrays:
        digest.update(f"{array.shape} {array.dtype}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
