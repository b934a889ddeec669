"""One side of benchmarks/models.py: minicnn. See protocol.py.

Training goes through `fit`, with shuffling, checks and the accuracy; forward through `predict`: what a user calls. On a
CPU a round of training is an epoch of one long fit (long_fit.py).
variant: tf32, which only a GPU knows, or nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import long_fit
import numpy as np
import workloads
from protocol import CHECKED_STEPS, Rounds, arguments, work
from workloads import Op, Workload

import minicnn
from minicnn.backend import module_for
from minicnn.constraints import MaxNorm
from minicnn.layers import (
    Activation,
    Add,
    BatchNormalization,
    Concatenate,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    GlobalAveragePooling2D,
    Input,
    Layer,
    MaxPooling2D,
    Rescaling,
)
from minicnn.layers.symbolic import SymbolicTensor
from minicnn.models import Model


def layer(op: Op) -> Layer:
    """The layer that an Op stands for."""
    if op.kind == "conv":
        return Conv2D(op.width, op.kernel, op.stride, op.padding, activation=op.activation, use_bias=op.bias)
    if op.kind == "dense":
        constraint = None if op.max_norm is None else MaxNorm(op.max_norm)
        return Dense(op.width, op.activation, op.bias, kernel_constraint=constraint)
    if op.kind == "act":
        return Activation(op.activation)
    if op.kind == "drop":
        return Dropout(op.size)
    if op.kind == "pool":
        return MaxPooling2D(op.width)
    return {"norm": BatchNormalization, "flatten": Flatten, "average": GlobalAveragePooling2D}[op.kind]()


def after(x: SymbolicTensor, ops: Iterable[Op]) -> SymbolicTensor:
    """The value x after these ops."""
    for op in ops:
        if op.kind == "residual":
            y, shortcut = after(x, op.inner), x
            if op.stride > 1:
                shortcut = MaxPooling2D(1, op.stride)(shortcut)
                shortcut = Concatenate()([shortcut, Rescaling(0.0)(shortcut)])
            x = Add()([shortcut, y])
        else:
            x = layer(op)(x)
    return x


def build(workload: Workload, dropout: bool = True) -> Model:
    """The compiled model, with the workload's first weights."""
    x = Input(workload.shape)
    y = after(x, [op for op in workload.ops if dropout or op.kind != "drop"])
    model = Model(x, y if workload.classes is None else Activation("softmax")(y))
    kernels = workloads.weights(workload)
    for leaf in model.flat_layers:
        if "w" in leaf.params:
            leaf.params["w"][...] = next(kernels)
    if workload.mode == "train":
        model.compile(workload.optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


class Side:
    """minicnn's side of a workload."""

    def __init__(self, workload: Workload, variant: str, device: str, dropout: bool):
        self.workload, self.xp = workload, module_for(device)
        if variant == "tf32":
            minicnn.set_tf32(True)
        self.model = build(workload, dropout).to(device)
        self.x, self.y = workloads.data(workload)

    def all_rounds(self, rounds: Rounds) -> bool:
        if self.xp is not np or self.workload.mode != "train":
            return False
        long_fit.run(self.model, self.x, self.y, self.workload.batch, rounds)
        return True

    def round(self) -> dict[str, float]:
        if self.xp is not np:
            return self._round_on_gpu()
        self._steps()
        return {}

    def _steps(self) -> None:
        batch = self.workload.batch
        if self.workload.mode == "train":
            self.model.fit(self.x, self.y, batch_size=batch, epochs=1, verbose=0)
        elif batch == 1:
            for i in range(len(self.x)):  # a call for each image: how long one has to wait for one answer
                self.model.predict(self.x[i : i + 1], verbose=0)
        else:
            self.model.predict(self.x, batch_size=batch, verbose=0)

    def _round_on_gpu(self) -> dict[str, float]:
        """The steps, between two events on the device's own clock; and the transfers once more, alone."""
        cuda, n = self.xp.cuda, self.workload.batches
        begin, end = cuda.Event(), cuda.Event()
        start = time.perf_counter()
        begin.record()
        self._steps()
        end.record()
        launched = time.perf_counter()
        end.synchronize()
        batch = self.x[: self.workload.batch]
        cuda.get_current_stream().synchronize()
        sent = time.perf_counter()
        self.xp.asarray(batch)
        cuda.get_current_stream().synchronize()
        return {
            "launch_ms": (launched - start) / n * 1e3,
            "device_ms": cuda.get_elapsed_time(begin, end) / n,
            "transfer_ms": (time.perf_counter() - sent) * 1e3,
        }

    def check(self) -> list[float]:
        batch = self.workload.batch
        if self.workload.mode == "forward":
            return self.model.predict(self.x[:batch], verbose=0).ravel()[:20].tolist()
        losses: list[Any] = []
        for step in range(CHECKED_STEPS):
            part = slice(batch * (step % self.workload.batches), batch * (step % self.workload.batches + 1))
            history = self.model.fit(self.x[part], self.y[part], batch_size=batch, shuffle=False, verbose=0)
            losses.append(history.history["loss"][0])
        return losses

    def versions(self) -> dict[str, str]:
        return {"numpy": np.__version__, "minicnn": minicnn.__version__}


if __name__ == "__main__":
    args = arguments()
    minicnn.set_num_threads(args.threads)
    work(Side, args)
