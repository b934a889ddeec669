"""Nothing grows from step to step: memory, threads, open files. The long run is benchmarks/soak.py."""

from __future__ import annotations

import gc
import os
import sys
import threading
import tracemalloc

import numpy as np
import pytest

import minicnn
from minicnn.callbacks import BackupAndRestore, Callback, CSVLogger, EarlyStopping, ModelCheckpoint
from minicnn.layers import BatchNormalization, Conv2D, Dense, Dropout, Flatten, Input
from minicnn.preprocessing.image import ImageDataGenerator
from minicnn.training.shards import Workers

STEPS_PER_EPOCH = 10


class Usage(Callback):
    """Python's memory, threads and open files at the end of every epoch."""

    def __init__(self):
        super().__init__()
        self.memory, self.threads, self.files = [], [], []

    def on_epoch_end(self, epoch, logs=None):
        gc.collect()
        self.memory.append(tracemalloc.get_traced_memory()[0])
        self.threads.append(threading.active_count())
        self.files.append(len(os.listdir("/proc/self/fd")))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux lists the open files of a process")
def test_200_steps_leave_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(Workers, "for_model", classmethod(lambda cls, model, size: cls(2)))  # small as it is
    rng = np.random.default_rng(0)
    x, y = rng.random((80, 8, 8, 1), np.float32), np.arange(80) % 3
    minicnn.utils.set_random_seed(0)
    model = minicnn.Sequential([
        Input((8, 8, 1)), Conv2D(4, 3, activation="relu"), BatchNormalization(), Dropout(0.2), Flatten(),
        Dense(3, activation="softmax"),
    ])  # fmt: skip
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    flow = ImageDataGenerator(rotation_range=20, horizontal_flip=True).flow(x, y, batch_size=8, seed=1)
    usage, before = Usage(), threading.active_count()
    callbacks = [
        BackupAndRestore(tmp_path / "backup", save_freq=7), CSVLogger(tmp_path / "log.csv"), usage,
        ModelCheckpoint(tmp_path / "best.zip", save_best_only=True),
        EarlyStopping(patience=99, restore_best_weights=True),
    ]  # fmt: skip
    tracemalloc.start()
    try:
        model.fit(flow, epochs=20, validation_data=(x, y), verbose=0, callbacks=callbacks)
    finally:
        tracemalloc.stop()
    assert model.optimizer.iterations == 20 * STEPS_PER_EPOCH
    # History and the CSV file's text grow by some numbers an epoch; a lost array of a step would be 1 kB to 10 kB each.
    assert usage.memory[-1] - usage.memory[9] < 10 * 1500
    assert set(usage.threads[1:]) == {usage.threads[0]} and threading.active_count() == before
    assert max(usage.files[10:]) <= max(usage.files[:10])
