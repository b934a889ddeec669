"""Kill trainings at random moments, and look whether they end as if nothing had happened.

    python benchmarks/faults.py [--kills 100] [--seed 0]

Each training is a process of its own, killed with SIGKILL one to three times and begun again, with BackupAndRestore.
It must end with the same model file (weights, optimizer, random generator), History, CSV and checkpoints, byte for
byte, as one that was never killed. It is killed by the clock, after a step, or in a save: in the middle of a write,
before the flush to the disk, before or after the renaming.
"""

from __future__ import annotations

import argparse
import functools
import io
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np
from record import write_record

import minicnn
from minicnn.callbacks import (
    BackupAndRestore,
    CSVLogger,
    EarlyStopping,
    LambdaCallback,
    ModelCheckpoint,
    ReduceLROnPlateau,
)
from minicnn.datasets import toy
from minicnn.layers import BatchNormalization, Conv2D, Dense, Dropout, Flatten, Input, MaxPooling2D
from minicnn.preprocessing.image import ImageDataGenerator

EPOCHS, BATCH = 4, 32
MOMENTS = ("time", "step", "write", "flush", "rename", "renamed")
CASES = {  # where the batches come from, and how often a backup is written
    "arrays, every epoch": ("arrays", "epoch"),
    "arrays, every 2 batches": ("arrays", 2),
    "augmented, every epoch": ("augmented", "epoch"),
    "augmented, every 3 batches": ("augmented", 3),
}


# ---- the training that is killed -------------------------------------------------------------------------------------


@functools.cache
def data() -> tuple[np.ndarray, np.ndarray]:
    (x, y), _ = toy.load_data()
    return x[:200, ..., None].astype("float32") / 255, y[:200]


def train(case: str, folder: Path, moments: Moments) -> None:
    """Train in `folder`, which at the end holds final.zip, history.json, log.csv and checkpoints."""
    source, save_freq = CASES[case]
    minicnn.set_num_threads(2)
    minicnn.utils.set_random_seed(3)
    x, y = data()
    model = minicnn.Sequential([
        Input((28, 28, 1)), Conv2D(8, 3, padding="same", activation="relu"), MaxPooling2D(2), BatchNormalization(),
        Conv2D(16, 3, activation="relu"), MaxPooling2D(2), Flatten(), Dropout(0.3), Dense(10, activation="softmax"),
    ])  # fmt: skip
    model.compile(minicnn.optimizers.Adam(0.002), "sparse_categorical_crossentropy", metrics=["accuracy"])
    callbacks = [
        BackupAndRestore(folder / "backup", save_freq),
        EarlyStopping(patience=3, restore_best_weights=True),
        ReduceLROnPlateau(factor=0.5, patience=1, min_delta=0.3),
        CSVLogger(folder / "log.csv"),
        ModelCheckpoint(folder / "best.zip", save_best_only=True),
        ModelCheckpoint(folder / "weights-{epoch}.zip", save_weights_only=True),
        LambdaCallback(on_train_batch_end=lambda *_: moments.come("step")),
    ]
    options: dict[str, Any] = {"validation_data": (x[160:], y[160:])}
    if source == "arrays":
        options |= {"x": x[:160], "y": y[:160], "batch_size": BATCH}
    else:
        generator = ImageDataGenerator(rotation_range=15, width_shift_range=2, horizontal_flip=True)
        options["x"] = generator.flow(x[:160], y[:160], batch_size=BATCH, seed=5)
    history = model.fit(epochs=EPOCHS, verbose=0, callbacks=callbacks, **options)
    (folder / "history.json").write_text(json.dumps([history.epoch, history.history]))
    model.save(folder / "final.zip")


class Moments:
    """Counts the moments of a process at which it may be killed, and kills it at the n-th one of a kind."""

    def __init__(self, kind: str | None = None, n: int = 0):
        self.kind, self.n = kind, n
        self.counts = dict.fromkeys(MOMENTS, 0)

    def come(self, kind: str) -> None:
        if self._is_last(kind):
            os.kill(os.getpid(), signal.SIGKILL)

    def _is_last(self, kind: str) -> bool:
        self.counts[kind] += 1
        return kind == self.kind and self.counts[kind] == self.n

    def watch_writing(self) -> None:
        """From now on the writes, flushes and renamings of this process count."""
        moments, fsync, replace = self, os.fsync, os.replace

        class File(io.FileIO):
            def write(self, data: Any) -> int:
                if moments._is_last("write"):
                    super().write(bytes(data)[: len(data) // 2])
                    os.kill(os.getpid(), signal.SIGKILL)
                return super().write(data)

        def watched_fsync(handle: int) -> None:
            moments.come("flush")
            fsync(handle)

        def watched_replace(source: Any, target: Any) -> None:
            moments.come("rename")
            replace(source, target)
            moments.come("renamed")

        os.fdopen = lambda handle, mode: io.BufferedWriter(File(handle, mode))  # type: ignore[assignment,arg-type]
        os.fsync, os.replace = watched_fsync, watched_replace  # type: ignore[assignment]


# ---- the one that kills ----------------------------------------------------------------------------------------------


def run(case: str, folder: Path, kind: str | None = None, n: float = 0) -> bool:
    """Train in a process of its own. Returns whether it was killed: at the n-th moment of a kind, or after n seconds.

    Raises RuntimeError where it ended in any other way than well or killed.
    """
    pid = os.fork()  # a copy of this process has imported everything already
    if pid == 0:
        code = 1
        try:
            moments = Moments(kind, int(n))
            moments.watch_writing()
            train(case, folder, moments)
            (folder / "moments.json").write_text(json.dumps(moments.counts))
            code = 0
        except BaseException:
            (folder / "error.txt").write_text(traceback.format_exc())
        finally:
            os._exit(code)
    if kind == "time":
        time.sleep(n)
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise RuntimeError((folder / "error.txt").read_text())
    return os.WIFSIGNALED(status)


def results_of(folder: Path) -> dict[str, bytes]:
    """Every file that a run leaves; hidden ones are what a killed process had written half."""
    files = [path for path in folder.iterdir() if path.name != "moments.json" and not path.name.startswith(".")]
    return {path.name: path.read_bytes() if path.is_file() else b"folder" for path in files}


def faults(kills: int, seed: int, folder: Path) -> dict[str, Any]:
    """What became of so many kills: counts by moment and by case, and the names of files that differed."""
    data()  # once, for all processes
    rng = np.random.default_rng(seed)
    expected, moments, seconds = {}, {}, {}
    for case in CASES:
        whole = folder / "whole"
        shutil.rmtree(whole, ignore_errors=True)
        whole.mkdir()
        start = time.perf_counter()
        if run(case, whole):
            raise RuntimeError("the uninterrupted run was killed")
        seconds[case] = time.perf_counter() - start
        expected[case], moments[case] = results_of(whole), json.loads((whole / "moments.json").read_text())

    by_moment, by_case = dict.fromkeys(MOMENTS, 0), dict.fromkeys(CASES, 0)
    runs, different = 0, []
    while sum(by_moment.values()) < kills:
        case = list(CASES)[runs % len(CASES)]
        killed = folder / "killed"
        shutil.rmtree(killed, ignore_errors=True)
        killed.mkdir()
        for _ in range(rng.integers(1, 4)):
            left = kills - sum(by_moment.values())
            kind = MOMENTS[rng.integers(len(MOMENTS))]
            n = rng.random() * seconds[case] if kind == "time" else rng.integers(1, moments[case][kind] + 1)
            if not left or not run(case, killed, kind, n):
                break  # a run that goes on late may be at its end before its n-th moment
            by_moment[kind] += 1
            by_case[case] += 1
        if not (killed / "final.zip").exists():
            run(case, killed)
        found = results_of(killed)
        different += [f"{case}: {name}" for name in sorted(found.keys() | expected[case].keys())
                      if found.get(name) != expected[case].get(name)]  # fmt: skip
        runs += 1
    return {"kills": kills, "seed": seed, "trainings": runs, "files_compared": len(expected[case]),
            "kills_by_moment": by_moment, "kills_by_case": by_case, "different": different}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-record", action="store_true", help="print the results as JSON instead")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = faults(args.kills, args.seed, Path(folder))
    if args.no_record:
        print(json.dumps(results))
    else:
        for moment, count in results["kills_by_moment"].items():
            print(f"killed at a {moment:8} {count:4} times")
        print(f"{results['trainings']} trainings, {len(results['different'])} files differ")
        write_record(Path(__file__).parent / "results" / "faults.json", results)
    sys.exit(1 if results["different"] else 0)


if __name__ == "__main__":
    main()
