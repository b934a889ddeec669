"""One side of benchmarks/models.py: minicnn. `python worker_minicnn.py WORKLOAD THREADS`, driven through stdin."""

from __future__ import annotations

import sys

import numpy as np
import workloads
from protocol import serve

import minicnn
from minicnn.constraints import MaxNorm
from minicnn.layers import (
    Activation,
    BatchNormalization,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    MaxPooling2D,
)
from minicnn.models import Sequential


def dense() -> Sequential:
    """documents.md A: the first network."""
    return Sequential(
        [Flatten(input_shape=(28, 28, 1)), Dense(128, activation="relu"), Dense(10, activation="softmax")]
    )


def cifar() -> Sequential:
    """documents.md B: the CIFAR-10 network."""
    model = Sequential([Conv2D(32, 3, padding="same", input_shape=(32, 32, 3))])
    model.add(Activation("relu"))
    for filters, pool in ((64, True), (64, True), (128, False)):
        _drop_and_norm(model)
        model.add(Conv2D(filters, 3, padding="same"))
        model.add(Activation("relu"))
        if pool:
            model.add(MaxPooling2D(2))
    _drop_and_norm(model)
    model.add(Flatten())
    model.add(Dropout(0.2))
    for units in (256, 128):
        model.add(Dense(units, kernel_constraint=MaxNorm(3)))
        model.add(Activation("relu"))
        _drop_and_norm(model)
    model.add(Dense(10))
    model.add(Activation("softmax"))
    return model


def _drop_and_norm(model: Sequential) -> None:
    model.add(Dropout(0.2))
    model.add(BatchNormalization())


def main(workload: str, threads: int) -> None:
    minicnn.set_num_threads(threads)
    spec = workloads.WORKLOADS[workload]
    model = {"dense": dense, "cifar": cifar}[workload]()
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    x, y = workloads.data(spec)

    def round_of_steps() -> int:
        model.fit(x, y, batch_size=spec.batch, epochs=1, verbose=0)
        return len(x) // spec.batch

    serve(round_of_steps, {"numpy": np.__version__, "minicnn": minicnn.__version__})


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
