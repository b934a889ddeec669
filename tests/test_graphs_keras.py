"""200 random networks that branch, and ResNet-20: predictions and steps of training are those of Keras 3.15.

Recorded by tests/fixtures/make_keras_graphs.py; other networks live where Keras is installed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from keras_graphs import (
    CLASSES,
    GRAPHS,
    RATE,
    SAMPLES,
    SHAPE,
    STEPS,
    Record,
    built,
    changes,
    data,
    random_graph,
    set_weights,
    weights_of,
)

import minicnn
from minicnn import layers
from minicnn.models import Model
from minicnn.optimizers import SGD

FIXTURES = Path(__file__).parent / "fixtures"
TOLERANCE = 1e-4


def recorded(path: Path) -> dict[str, np.ndarray]:
    """The numbers by the network's name."""
    file = np.load(path)
    return dict(zip(file["names"], np.split(file["numbers"], file["ends"][:-1]), strict=True))


def steps_of(
    model: Model, inner: list, seed: int, shape=SHAPE, samples=SAMPLES, classes=CLASSES, number=STEPS, rate=RATE
) -> tuple[Record, np.ndarray]:
    """What make_keras_graphs.py computes with Keras; and by how much each of the changes may differ."""
    x, y = data(seed, shape, samples, classes)
    model.compile(SGD(rate), "sparse_categorical_crossentropy")
    before, first = weights_of(inner), model.predict(x, verbose=0)
    losses = model.fit(x, y, batch_size=samples, epochs=number, shuffle=False, verbose=0).history["loss"]
    after = weights_of(inner)
    moved = [np.linalg.norm(new.astype(np.float64) - old) for old, new in zip(before, after, strict=True)]
    rounded = [1e-6 * np.linalg.norm(old) for old in before]  # float32 has seven digits
    record = Record(first, np.array(losses), model.predict(x, verbose=0), changes(before, after))
    return record, TOLERANCE * np.array(moved) + rounded


def check(record: Record, allowed: np.ndarray, keras: np.ndarray) -> None:
    """Predictions and losses within 1e-4 of the largest one; each array's change within 1e-4 of its length."""
    ends = np.cumsum([part.size for part in record])
    assert ends[-1] == keras.size
    *parts, moved = np.split(keras, ends[:-1])
    for name, part, right in zip(Record._fields, record, parts, strict=False):
        error = np.abs(np.ravel(part) - right).max() / np.abs(right).max()
        assert error <= TOLERANCE, f"{name}: off by {error:.1e}"
    error = np.abs(record.changes - moved) / allowed
    assert error.max() <= 1, f"array {error.argmax()} became another one: {error.max():.1f} times what is allowed"


def graph(seed: int) -> tuple[Model, list]:
    model, inner = built(random_graph(seed), SHAPE, layers, minicnn.Input, Model)
    set_weights(inner, seed)
    return model, inner


def compared(seed: int, keras: np.ndarray) -> None:
    check(*steps_of(*graph(seed), seed), keras)


@pytest.mark.parametrize("first", range(0, GRAPHS, 20))
def test_twenty_random_networks(first):
    keras = recorded(FIXTURES / "keras_graphs.npz")
    for seed in range(first, first + 20):
        try:
            compared(seed, keras[str(seed)])
        except AssertionError as error:
            raise AssertionError(f"network {seed}: {error}") from error
