"""Data larger than memory is not copied; a step that cannot fit is refused before it starts."""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import minicnn
from minicnn import backend
from minicnn.errors import InputError
from minicnn.layers import (
    Activation,
    AveragePooling2D,
    BatchNormalization,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    Input,
    Layer,
    MaxPooling2D,
)
from minicnn.training import memory
from minicnn.training.shards import Workers
from minicnn.training.step import train_step

ROOT = Path(__file__).resolve().parents[1]

# ---- the estimate ----------------------------------------------------------------------------------------------------


def cifar():
    return [
        Input((32, 32, 3)), Conv2D(32, 3, padding="same"), Activation("relu"), Dropout(0.2), BatchNormalization(),
        Conv2D(64, 3, padding="same"), Activation("relu"), MaxPooling2D(2), Dropout(0.2), BatchNormalization(),
        Flatten(), Dense(128, activation="relu"), Dense(10, activation="softmax"),
    ]  # fmt: skip


def plain():
    return [
        Input((48, 48, 3)), Conv2D(32, 3, padding="same", activation="relu"), AveragePooling2D(2),
        Conv2D(64, 3, activation="relu"), MaxPooling2D(2), Flatten(), Dense(10, activation="softmax"),
    ]  # fmt: skip


def wide():
    return [Input((1500,)), Dense(1500, activation="relu"), Dense(10, activation="softmax")]


def compiled(layers, optimizer="adam"):
    model = minicnn.Sequential(layers)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize(
    ("layers", "samples", "optimizer"),
    [(cifar, 32, "adam"), (plain, 32, "rmsprop"), (wide, 32, "adam"), (wide, 64, "sgd")],
)
def test_the_estimate_is_near_what_a_step_takes(layers, samples, optimizer, shards, monkeypatch):
    monkeypatch.setattr(backend, "_scratch", backend._Scratch())  # what earlier tests have left there would not count
    model = compiled(layers(), optimizer)
    rng = np.random.default_rng(0)
    x, y = rng.random((samples, *model.sample_shape), np.float32), rng.integers(0, 10, samples)
    need = memory.estimate(model, shards)
    with Workers(shards, shards) as workers:
        train_step(model, x[:2], y[:2], workers)  # scratch memory is there already
        model.optimizer.state = {}
        tracemalloc.start()
        train_step(model, x, y, workers)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert need.parameters == sum(w.nbytes for w in model.get_weights())
    assert peak > 8 << 20, "too small a case to say anything"
    assert 0.75 * peak < need.new(samples) < 1.35 * peak + memory.SCRATCH * shards


def test_an_estimate_changes_nothing():
    model = compiled(cifar())
    before, state = model.get_weights(), model.rng.bit_generator.state
    memory.estimate(model)
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert model.rng.bit_generator.state == state and not model.optimizer.state


def test_frozen_layers_have_no_gradients():
    model = compiled(wide())
    whole = memory.estimate(model)
    model.layers[0].trainable = False
    frozen = memory.estimate(model)
    assert frozen.gradients < whole.gradients / 50 and frozen.slots < whole.slots / 50
    assert frozen.parameters == whole.parameters


# ---- what is refused -------------------------------------------------------------------------------------------------


def test_a_step_that_cannot_fit_is_refused_before_it_starts(monkeypatch):
    model = compiled(plain())
    need = memory.estimate(model)
    free = need.new(10) + 1000  # enough for ten samples
    monkeypatch.setattr(memory, "available", lambda: free)
    monkeypatch.setattr(memory, "SCRATCH", 0)
    minicnn.set_num_threads(1)
    x, y = np.zeros((64, 48, 48, 3), np.float32), np.zeros(64, int)
    before = model.get_weights()
    try:
        with pytest.raises(InputError, match="does not fit into memory") as caught:
            model.fit(x, y, batch_size=64, verbose=0)
        text = str(caught.value)
        assert "of 64 samples" in text and "are free" in text and "for the optimizer" in text
        fits = int(caught.value.fix.split("=")[1].split(" ")[0])
        assert 10 <= fits < 64
        for one, other in zip(before, model.get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)
        model.fit(x, y, batch_size=fits, steps_per_epoch=1, verbose=0)
    finally:
        minicnn.set_num_threads(None)


@pytest.mark.parametrize(
    ("free", "optimizer", "fix"),
    [(200_000, "adam", "SGD"), (200_000, "sgd", "a smaller model."), (20_000, "adam", "smaller images")],
)
def test_where_not_even_one_sample_fits(monkeypatch, free, optimizer, fix):
    monkeypatch.setattr(memory, "available", lambda: free)
    model = compiled([Input((30, 30, 1)), Conv2D(4, 3), Flatten(), Dense(10, activation="softmax")], optimizer)
    with pytest.raises(InputError, match="does not fit into memory") as caught:
        model.fit(np.zeros((4, 30, 30, 1)), np.zeros(4, int), verbose=0)
    assert fix in caught.value.fix


def test_the_algorithm_is_named_where_it_costs_memory(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 100_000)
    model = compiled([Input((16, 16, 1)), Conv2D(4, 3, algorithm="fft"), Flatten(), Dense(10, activation="softmax")])
    with pytest.raises(InputError) as caught:
        model.fit(np.zeros((4, 16, 16, 1)), np.zeros(4, int), verbose=0)
    assert 'algorithm="im2col"' in caught.value.fix


def test_an_unknown_amount_refuses_nothing(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: None)
    compiled(wide()).fit(np.zeros((4, 1500), np.float32), np.zeros(4, int), verbose=0)


def test_layers_of_ones_own_are_measured_too():
    class Hoard(Layer):
        def forward(self, x, ctx):
            ctx.copies = [x + i for i in range(10)]
            return x

        def backward(self, dy, ctx):
            return dy

    without, with_it = (memory.estimate(compiled([Input((400,)), *more, Dense(10, activation="softmax")])).activations
                        for more in ([], [Hoard()]))  # fmt: skip
    assert with_it - without >= 10 * 400 * 4


# ---- what is free ----------------------------------------------------------------------------------------------------


def group(folder: Path, **files: object) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_of_", ".")
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{text}\n")
    return folder


def test_the_limit_of_a_container(tmp_path):
    new = group(tmp_path / "a" if (tmp_path / "a").mkdir() is None else tmp_path,
                memory_of_max=1000, memory_of_current=700, memory_of_stat="anon 1\ninactive_file 50")  # fmt: skip
    assert memory._of_the_group(new) == 350
    group(new, memory_of_max="max")
    assert memory._of_the_group(new) is None
    (tmp_path / "b").mkdir()
    old = group(tmp_path / "b", **{"memory__memory_of_limit_in_bytes": 5000, "memory__memory_of_usage_in_bytes": 6000,
                                   "memory__memory_of_stat": "total_inactive_file 10"})  # fmt: skip
    assert memory._of_the_group(old) == 0
    group(old, memory__memory_of_limit_in_bytes=9223372036854771712)
    assert memory._of_the_group(old) is None
    assert memory._of_the_group(tmp_path / "none") is None


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="Linux tells there how much memory is free")
def test_the_system_says_how_much_is_free():
    assert 1 << 20 < memory.available() < 1 << 50


# ---- data larger than memory -----------------------------------------------------------------------------------------

LARGE = """
import resource, sys
import numpy as np
import minicnn
from minicnn.layers import Conv2D, Dense, Flatten, Input, MaxPooling2D

N, shape, dtype = 8_000, (64, 64, 3), {dtype!r}  # of these 98 MB to 786 MB the disk holds nothing
x = np.memmap("x.bin", dtype=dtype, mode="w+", shape=(N, *shape))
x[:8] = 1
x.flush()
x = np.memmap("x.bin", dtype=dtype, mode="r", shape=(N, *shape))
y = np.arange(N) % 10
model = minicnn.Sequential([Input(shape), Conv2D(4, 3, activation="relu"), MaxPooling2D(4), Flatten(),
                            Dense(10, activation="softmax")])
model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
model.fit(np.zeros((16, *shape), dtype), y[:16], batch_size=16, verbose=0)  # what is needed anyway is there now
model.diagnose(np.zeros((256, *shape), dtype), y[:256])
held = int(next(line for line in open("/proc/self/status") if line.startswith("VmData")).split()[1]) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (held + {room}, -1))
{work}
print("trained", model.optimizer.iterations)
"""

WORK = """
model.fit(x, y, batch_size=16, steps_per_epoch=4, validation_split=0.1, validation_steps=2, verbose=0)
model.evaluate(x, y, batch_size=16, steps=3, verbose=0)
model.predict(x, batch_size=16, steps=3, verbose=0)
model.diagnose(x, y)
model.fit(((x[i : i + 16], y[i : i + 16]) for i in range(0, N, 16)), steps_per_epoch=4, verbose=0)
"""


def run_large(folder, work, dtype="float32", room=60 << 20):
    code = LARGE.format(dtype=dtype, work=work, room=room)
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit on a process's own data is Linux's")
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_data_larger_than_memory_is_not_copied(tmp_path, dtype):
    """The process may take 60 MiB more; the data, a file mapped into memory, has 98 or 393 MB."""
    done = run_large(tmp_path, WORK, dtype)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("trained")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit on a process's own data is Linux's")
def test_the_limit_would_catch_a_copy(tmp_path):
    done = run_large(tmp_path, "model.fit(np.array(x), y, batch_size=16, steps_per_epoch=4, verbose=0)", "uint8")
    assert done.returncode != 0 and "MemoryError" in done.stderr
