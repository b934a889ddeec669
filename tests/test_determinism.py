"""The same seed gives the same bytes: in another process, with another hash seed, from another folder. And how far
another number of threads, or another device, leads away from them."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import minicnn
from minicnn import utils
from minicnn.layers import BatchNormalization, Conv2D, Dense, Dropout, Flatten, Input, MaxPooling2D
from minicnn.models import Sequential
from minicnn.preprocessing.image import ImageDataGenerator
from minicnn.training import shards

# README.md, "Good to know", promises these: the largest difference of a weight, relative to its array's largest one.
AFTER_A_STEP, AFTER_THREE_EPOCHS = 2e-5, 1e-3


def network(augmented: bool = True, epochs: int = 3, steps: int | None = None) -> Sequential:
    """A small CNN with everything that draws random numbers or sums over the batch, after training."""
    utils.set_random_seed(5)
    model = Sequential([
        Input((12, 12, 1)), Conv2D(4, 3, padding="same", activation="relu"), BatchNormalization(), MaxPooling2D(),
        Conv2D(6, 3), Dropout(0.3), Flatten(), Dense(16, activation="relu"), BatchNormalization(), Dropout(0.3),
        Dense(4, activation="softmax"),
    ])  # fmt: skip
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    y = np.arange(64) % 4
    x = np.random.default_rng(0).random((64, 12, 12, 1), np.float32)
    x[np.arange(64), 3 * y] += 1  # a bright row says the class
    if augmented:
        flow = ImageDataGenerator(rotation_range=15, horizontal_flip=True, zoom_range=0.1).flow(x, y, batch_size=16)
        model.fit(flow, epochs=epochs, verbose=0, validation_split=0.0)
    else:
        model.fit(x, y, batch_size=16, epochs=epochs, steps_per_epoch=steps, verbose=0)
    return model


def digest(model: Sequential) -> str:
    return hashlib.sha256(b"".join(w.tobytes() for w in model.get_weights())).hexdigest()


SCRIPT = """
import json, sys
import minicnn
from minicnn.training import shards
shards.MIN_MACS_PER_SHARD = 1
from test_determinism import digest, network
digests = {}
for threads in (1, 2):
    minicnn.set_num_threads(threads)
    digests[threads] = digest(network())
print(json.dumps(digests))
"""


@pytest.fixture
def shards_of_any_size(monkeypatch):
    monkeypatch.setattr(shards, "MIN_MACS_PER_SHARD", 1)
    monkeypatch.setattr(shards, "_num_threads", None)


def test_the_same_bytes_in_other_processes(tmp_path, shards_of_any_size):
    """Each with another hash seed, two from another folder, one of them with other threads' settings of BLAS."""
    here = Path(__file__).parent
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here), *sys.path]), "PYTHONDONTWRITEBYTECODE": "1"}
    runs = []
    for hash_seed, folder, more in (
        ("0", here.parent, {}), ("1", tmp_path, {}), ("4242", tmp_path, {"OPENBLAS_NUM_THREADS": "1"}),
    ):  # fmt: skip
        environment = {**env, "PYTHONHASHSEED": hash_seed, **more}
        runs.append(subprocess.Popen([sys.executable, "-c", SCRIPT], cwd=folder, env=environment,
                                     stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))  # fmt: skip
    expected = {}
    for threads in (1, 2):
        minicnn.set_num_threads(threads)
        expected[str(threads)] = digest(network())
    minicnn.set_num_threads(None)
    for run in runs:
        out, err = run.communicate(timeout=60)
        assert run.returncode == 0, err
        assert json.loads(out) == expected


def test_another_seed_gives_other_bytes(shards_of_any_size):
    first = network(epochs=1)
    model = Sequential.from_config(first.get_config())
    assert digest(model) != digest(first)


def difference(a: Sequential, b: Sequential) -> float:
    """The largest difference of a weight, relative to the largest of its array."""
    pairs = zip(a.get_weights(), b.get_weights(), strict=True)
    return max(float(np.abs(p - q).max() / np.abs(p).max()) for p, q in pairs)


@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize(("steps", "epochs", "allowed"), [(1, 1, AFTER_A_STEP), (None, 3, AFTER_THREE_EPOCHS)])
def test_other_numbers_of_threads_differ_by_rounding_alone(threads, steps, epochs, allowed, shards_of_any_size):
    minicnn.set_num_threads(1)
    one = network(False, epochs, steps)
    minicnn.set_num_threads(threads)
    several = network(False, epochs, steps)
    assert 0 < difference(one, several) < allowed
    x = np.random.default_rng(3).random((30, 12, 12, 1), np.float32)
    np.testing.assert_allclose(one.predict(x, verbose=0), several.predict(x, verbose=0), rtol=100 * allowed)


def test_predictions_of_the_same_weights_do_not_depend_on_threads(shards_of_any_size):
    model, x = network(epochs=1), np.random.default_rng(3).random((30, 12, 12, 1), np.float32)
    predictions = []
    for threads in (1, 2, 3):
        minicnn.set_num_threads(threads)
        predictions.append(model.predict(x, verbose=0))
    for predicted in predictions[1:]:
        np.testing.assert_allclose(predicted, predictions[0], rtol=1e-6)


def test_another_device_differs_by_rounding_alone(monkeypatch, shards_of_any_size):
    """On the stand-in for CuPy, which takes the GPU's ways through the kernels."""
    import strict_cupy

    strict_cupy.install(monkeypatch)
    minicnn.set_num_threads(1)
    here = network(False, 1, 2)
    with minicnn.device("gpu"):
        there = network(False, 1, 2)
    assert there.device == "gpu"
    assert difference(here, there) < AFTER_A_STEP * 10
