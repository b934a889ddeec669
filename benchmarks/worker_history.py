"""One side of benchmarks/history.py: minicnn as it was at some commit, whose folder comes first in PYTHONPATH.

So it uses only what every version has: layers in a row, compile, fit and predict. See protocol.py.
"""

from __future__ import annotations

import long_fit
import numpy as np
import workloads
from protocol import Rounds, arguments, work
from workloads import Op, Workload

import minicnn
from minicnn import layers
from minicnn.constraints import MaxNorm
from minicnn.models import Sequential


def layer(op: Op) -> layers.Layer:
    """The layer that an Op stands for."""
    if op.kind == "conv":
        return layers.Conv2D(op.width, op.kernel, padding=op.padding, activation=op.activation, use_bias=op.bias)
    if op.kind == "dense":
        constraint = None if op.max_norm is None else MaxNorm(op.max_norm)
        return layers.Dense(op.width, op.activation, op.bias, kernel_constraint=constraint)
    if op.kind == "act":
        return layers.Activation(op.activation)
    if op.kind == "drop":
        return layers.Dropout(op.size)
    if op.kind == "pool":
        return layers.MaxPooling2D(op.width)
    return {"norm": layers.BatchNormalization, "flatten": layers.Flatten}[op.kind]()


class Side:
    """What worker_minicnn.py does, without its checks."""

    def __init__(self, workload: Workload, variant: str, device: str, dropout: bool):
        self.workload = workload
        self.x, self.y = workloads.data(workload)
        self.model = Sequential([layers.Input(workload.shape), *map(layer, workload.ops)])
        if workload.classes is not None:
            self.model.add(layers.Activation("softmax"))
        if workload.mode == "train":
            self.model.compile(workload.optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])

    def all_rounds(self, rounds: Rounds) -> bool:
        if self.workload.mode == "train":
            long_fit.run(self.model, self.x, self.y, self.workload.batch, rounds)
        return self.workload.mode == "train"

    def round(self) -> dict[str, float]:
        batch = self.workload.batch
        if batch == 1:
            for i in range(len(self.x)):
                self.model.predict(self.x[i : i + 1], verbose=0)
        else:
            self.model.predict(self.x, batch_size=batch, verbose=0)
        return {}

    def versions(self) -> dict[str, str]:
        return {"numpy": np.__version__}


if __name__ == "__main__":
    args = arguments()
    minicnn.set_num_threads(args.threads)
    work(Side, args)
