"""Train for 10,000 steps, validated and augmented, with callbacks: do memory, threads and open files stay the same?

    python benchmarks/soak.py [--steps 10000]

Exits with an error where, after the first tenth, memory grew by more than 5 % or 4 MiB, or threads or files at all.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from record import write_record

import minicnn
from minicnn.callbacks import (
    BackupAndRestore,
    Callback,
    CSVLogger,
    EarlyStopping,
    ModelCheckpoint,
    ReduceLROnPlateau,
    TerminateOnNaN,
)
from minicnn.datasets import toy
from minicnn.layers import BatchNormalization, Conv2D, Dense, Dropout, Flatten, Input, MaxPooling2D
from minicnn.preprocessing.image import ImageDataGenerator

STEPS_PER_EPOCH, BATCH, ROWS = 100, 16, 20


def usage() -> dict[str, float]:
    """What this process holds at the moment: resident memory in MiB, threads of the system, open file handles."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "memory_mb": round(pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20), 1),
        "threads": len(os.listdir("/proc/self/task")),
        "files": len(os.listdir("/proc/self/fd")),
    }


class Watch(Callback):
    """Notes the usage every so many steps."""

    def __init__(self, every: int):
        super().__init__()
        self.every, self.rows = every, list[dict[str, float]]()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        step = self.model.optimizer.iterations
        if step % self.every == 0:
            self.rows.append({"step": step, **usage()})


def soak(steps: int, folder: Path) -> list[dict[str, float]]:
    """Train a small network for so many steps. Returns the usage at ROWS moments."""
    minicnn.utils.set_random_seed(0)
    (x, y), (x_test, y_test) = toy.load_data()
    x, x_test = (images[..., None].astype("float32") / 255 for images in (x, x_test))
    model = minicnn.Sequential([
        Input((28, 28, 1)), Conv2D(16, 3, padding="same", activation="relu"), MaxPooling2D(2), BatchNormalization(),
        Conv2D(32, 3, activation="relu"), MaxPooling2D(2), Flatten(), Dropout(0.3), Dense(10, activation="softmax"),
    ])  # fmt: skip
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    generator = ImageDataGenerator(rotation_range=15, width_shift_range=2, zoom_range=0.1, horizontal_flip=True)
    watch = Watch(steps // ROWS)
    model.fit(
        generator.flow(x, y, batch_size=BATCH, seed=1), epochs=steps // STEPS_PER_EPOCH,
        steps_per_epoch=STEPS_PER_EPOCH, validation_data=(x_test[:200], y_test[:200]), verbose=0,
        callbacks=[
            BackupAndRestore(folder / "backup", save_freq=250), CSVLogger(folder / "log.csv"), TerminateOnNaN(),
            EarlyStopping(patience=10**9, restore_best_weights=True), ReduceLROnPlateau(patience=10),
            ModelCheckpoint(folder / "best.zip", save_best_only=True), watch,
        ],
    )  # fmt: skip
    return watch.rows


def is_flat(rows: list[dict[str, float]]) -> bool:
    """Whether nothing grew after the first tenth of the steps."""
    settled, last = rows[len(rows) // 10 - 1], rows[-1]
    growth = last["memory_mb"] - settled["memory_mb"]
    return (growth <= max(4, 0.05 * settled["memory_mb"])
            and last["threads"] <= settled["threads"] and last["files"] <= settled["files"])  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10_000)
    args = parser.parse_args()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        rows = soak(args.steps, Path(folder))
    print(f"{'step':>8} {'memory, MiB':>12} {'threads':>8} {'files':>6}")
    for row in rows:
        print(f"{row['step']:8} {row['memory_mb']:12.1f} {row['threads']:8} {row['files']:6}")
    results = {"steps": args.steps, "batch_size": BATCH, "seconds": round(time.perf_counter() - start),
               "flat": is_flat(rows), "usage": rows}  # fmt: skip
    write_record(Path(__file__).parent / "results" / "soak.json", results)
    sys.exit(0 if results["flat"] else 1)


if __name__ == "__main__":
    main()
