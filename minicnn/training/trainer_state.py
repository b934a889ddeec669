"""Where a call of `fit` stands, to the batch: what a backup writes down, and what a resumed run takes up again.

Whatever changes while a model learns can say its state: `state_dict()` gives a dict of numbers, texts, lists, dicts and
arrays; `load_state_dict(state)` goes back to it. Callbacks have the two, batches have them, and so may the user's own
object that yields the batches: its place and its random generator.
"""

from __future__ import annotations

import json
from copy import copy
from typing import Any

import numpy as np

from minicnn.backend import to_host
from minicnn.errors import NotFiniteError

State = dict[str, Any]


class RunningMeans:
    """The mean of the loss and of the metrics over the samples seen so far.

    Counts with metrics of its own: a callback may call evaluate in the middle of an epoch.
    """

    def __init__(self, model: Any):
        self.metrics, self.loss, self.samples = [copy(metric) for metric in model.metrics], 0.0, 0
        for metric in self.metrics:
            metric.reset()

    def add(self, loss: Any, values: list[Any], samples: int) -> None:
        self.loss += loss
        self.samples += samples
        for metric, value in zip(self.metrics, values, strict=True):
            metric.add(value, samples)

    def logs(self) -> dict[str, float]:
        means = {metric.name: metric.result() for metric in self.metrics}
        return {"loss": float(self.loss) / max(1, self.samples), **means}

    def state_dict(self) -> State:
        sums = [[metric.total, metric.count] for metric in self.metrics]
        return {"loss": self.loss, "samples": self.samples, "metrics": sums}

    def load_state_dict(self, state: State) -> None:
        self.loss, self.samples = state["loss"], state["samples"]
        for metric, (total, count) in zip(self.metrics, state["metrics"], strict=True):
            metric.total, metric.count = total, count


class TrainerState:
    """epoch: the one that is running, or the next one, from 0. step: how many of its batches have been learned from.

    running: the sums over those batches. logs: those of the last finished epoch.
    batches, validation: ArrayBatches or GeneratorBatches; the latter may be None. callbacks: all of this call.
    """

    def __init__(self, model: Any, batches: Any, validation: Any, callbacks: list[Any], epoch: int):
        self.model, self.batches, self.validation, self.callbacks = model, batches, validation, callbacks
        self.epoch, self.step, self.running = epoch, 0, RunningMeans(model)
        self.logs: dict[str, Any] = {}
        self.warned = False  # of a batch of one sample
        self.restored = False  # whether it was taken from a backup
        self.not_finite: NotFiniteError | None = None  # where NaN or infinity began, if a callback wants to know

    def done(self) -> tuple[int, int]:
        """Samples and batches of the running epoch that an earlier run has had."""
        return (self.running.samples, self.step) if self.step else (0, 0)

    def advance(self, loss: Any, values: list[Any], samples: int) -> None:
        """The model has learned from one more batch."""
        self.running.add(loss, values, samples)
        self.batches.advance()
        self.step += 1

    def end_epoch(self, logs: dict[str, Any]) -> None:
        self.epoch, self.step, self.logs = self.epoch + 1, 0, logs
        self.batches.end_epoch()

    def state_dict(self) -> State:
        return {
            "epoch": self.epoch,
            "step": self.step,
            "logs": self.logs,
            "stop_training": self.model.stop_training,
            "running": self.running.state_dict(),
            "batches": self.batches.state_dict(),
            "validation": None if self.validation is None else self.validation.state_dict(),
            "callbacks": {name: callback.state_dict() for name, callback in self._named_callbacks()},
        }

    def load_state_dict(self, state: State) -> None:
        self.epoch, self.step, self.logs = state["epoch"], state["step"], state["logs"]
        self.model.stop_training = state["stop_training"]
        self.running = RunningMeans(self.model)
        self.running.load_state_dict(state["running"])
        self.batches.load_state_dict(state["batches"])
        if self.validation is not None and state["validation"] is not None:
            self.validation.load_state_dict(state["validation"])
        for name, callback in self._named_callbacks():
            if name in state["callbacks"]:  # a callback that was not there before starts afresh
                callback.load_state_dict(state["callbacks"][name])

    def _named_callbacks(self) -> list[tuple[str, Any]]:
        """"EarlyStopping 1", "CSVLogger 1", "CSVLogger 2": the same names in every run of the same script."""
        counts: dict[str, int] = {}
        named = []
        for callback in self.callbacks:
            kind = type(callback).__name__
            counts[kind] = counts.get(kind, 0) + 1
            named.append((f"{kind} {counts[kind]}", callback))
        return named


# ---- as JSON, and compared -------------------------------------------------------------------------------------------


def identity(model: Any, batches: Any) -> State:
    """What must be the same for a backup to be that of this training, and for ranks to train together."""
    optimizer = model.optimizer.get_config()
    if model.optimizer.schedule is None:
        del optimizer["learning_rate"]  # other callbacks change it
    layers = [
        [key, type(layer).__name__, {name: array.shape for name, array in (layer.params | layer.state).items()}]
        for key, layer in model.layers_by_key.items()
    ]
    identity = {
        "the layers": layers,
        "the optimizer": [type(model.optimizer).__name__, optimizer],
        "the loss": type(model.loss).__name__,
        "the metrics": [metric.name for metric in model.metrics],
        "the number of training samples": batches.n,
        "the batch size": batches.batch_size,
        "the batches of an epoch": len(batches),
    }
    return json.loads(json.dumps(identity, default=lambda value: type(value).__name__))


def difference(a: Any, b: Any) -> tuple[str, str]:
    """Two unequal values as text; of lists and dicts the innermost entry that differs."""
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        name = next(name for name in a if a[name] != b[name])
        return tuple(f"{name}={text}" for text in difference(a[name], b[name]))  # type: ignore[return-value]
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        one, other = next(pair for pair in zip(a, b, strict=True) if pair[0] != pair[1])
        if isinstance(one, (dict, list)):
            return difference(one, other)
    return repr(a), repr(b)


def put_aside(state: Any, arrays: dict[str, np.ndarray]) -> Any:
    """The state as JSON takes it: each array goes into `arrays`, and its name into its place."""
    if isinstance(state, dict):
        return {name: put_aside(value, arrays) for name, value in state.items()}
    if isinstance(state, (list, tuple)):
        return [put_aside(value, arrays) for value in state]
    if hasattr(state, "dtype"):
        array = np.asarray(to_host(state))
        if array.ndim == 0 and (array.dtype.kind in "biu" or array.dtype == np.float64):  # which JSON holds exactly
            return array.item()
        name = f"place/{len(arrays)}"
        arrays[name] = array
        return {"__array__": name, "shape": array.shape}
    return state


def put_back(state: Any, arrays: dict[str, np.ndarray]) -> Any:
    """The reverse of put_aside. What was an array without axes becomes a number."""
    if isinstance(state, dict):
        if "__array__" in state:
            return arrays[state["__array__"]].reshape(state["shape"])[()]
        return {name: put_back(value, arrays) for name, value in state.items()}
    return [put_back(value, arrays) for value in state] if isinstance(state, list) else state
