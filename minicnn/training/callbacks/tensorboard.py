"""What a training does, for TensorBoard: `tensorboard --logdir logs` draws its curves, histograms and filters."""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np

from minicnn.backend import to_host
from minicnn.errors import InputError, checked
from minicnn.files import checked_path
from minicnn.optimizers.base import names_of_parameter
from minicnn.training.callbacks.base import Callback, Logs
from minicnn.training.callbacks.event_file import EventFile, as_pixels, graph, histogram, image, scalar

MAX_IMAGES = 8  # of one kernel


class TensorBoard(Callback):
    """Write event files into log_dir/train and log_dir/validation, under the names that Keras gives.

    Every epoch: `epoch_loss`, `epoch_learning_rate` and all that is in the logs. update_freq: "epoch"; "batch" or after
    how many batches `batch_loss` and the other numbers of the training so far are written, too. An evaluation writes
    `evaluation_loss_vs_iterations`. histogram_freq: after how many epochs the weights are written as histograms; 0
    never. write_images: with them, kernels as pictures: for each filter one, of the first 8 (Keras: of a kernel of one
    input channel only). write_graph: the layers as a graph. write_steps_per_second: the speed, for every epoch
    and for the batches that are written.
    profile_batch, embeddings_freq, embeddings_metadata: refused with InputError unless 0 and None: `minicnn.profile()`
    shows where the time goes, and there are no embeddings. Raises WriteError where the disk refuses.
    """

    state_keys = ("_batches",)

    def __init__(
        self,
        log_dir: str | os.PathLike[str] = "logs",
        histogram_freq: int = 0,
        write_graph: bool = True,
        write_images: bool = False,
        write_steps_per_second: bool = False,
        update_freq: str | int = "epoch",
        profile_batch: int = 0,
        embeddings_freq: int = 0,
        embeddings_metadata: None = None,
    ):
        super().__init__()
        where = "TensorBoard"
        self.log_dir = checked_path(f"{where} log_dir", log_dir)
        self.histogram_freq = checked(where, "histogram_freq", histogram_freq, 0, 1)
        self.write_graph = checked(where, "write_graph", write_graph, bool, True)
        self.write_images = checked(where, "write_images", write_images, bool, True)
        self.write_steps_per_second = checked(where, "write_steps_per_second", write_steps_per_second, bool, True)
        if update_freq in ("epoch", "batch"):
            self.update_freq = 1 if update_freq == "batch" else 0
        else:
            self.update_freq = checked(where, "update_freq", update_freq, 1, '"epoch", "batch" or 100')
        instead = {
            "profile_batch": (profile_batch, "use minicnn.profile(): it shows where the time goes."),
            "embeddings_freq": (embeddings_freq, "leave it out: there are no embeddings."),
            "embeddings_metadata": (embeddings_metadata, "leave it out: there are no embeddings."),
        }
        for name, (value, fix) in instead.items():
            if value not in (0, None):
                raise InputError(where, f"{name} cannot be had.", f"{name} left out.", f"{value!r}.", fix)
        self._files: dict[str, EventFile] = {}  # new ones in each call of fit
        if self.update_freq:  # only then: for this hook a GPU has to say its numbers after every batch
            self.on_train_batch_end = self._after_batch  # type: ignore[method-assign]
        self._batches = self._first = 0  # of this call of fit; steps before the epoch
        self._begun = self._written = 0.0  # when the epoch began, and when a batch was written last

    # ---- when -------------------------------------------------------------------------------------------------------

    def on_train_begin(self, logs: Logs = None) -> None:
        self._batches, self._files = 0, {}
        if self.write_graph and self.model.built:
            self._file("train").write_graph(graph(_nodes(self.model)))

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        self._begun, self._first = time.perf_counter(), self.model.optimizer.iterations
        if not self._batches:
            self._written = self._begun

    def _after_batch(self, batch: int, logs: Logs = None) -> None:
        self._batches += 1
        if self._batches % self.update_freq == 0:
            logs, now = dict(logs or {}), time.perf_counter()
            if self.write_steps_per_second:
                logs["steps_per_second"] = self.update_freq / max(1e-9, now - self._written)
            self._scalars("train", self._batches, "batch_", logs)
            self._written = now

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        logs = dict(logs or {})
        held_back = {name.removeprefix("val_"): logs.pop(name) for name in list(logs) if name.startswith("val_")}
        logs["learning_rate"] = float(self.model.optimizer.learning_rate)
        if self.write_steps_per_second and self._begun:
            steps = self.model.optimizer.iterations - self._first
            logs["steps_per_second"] = steps / max(1e-9, time.perf_counter() - self._begun)
        self._scalars("train", epoch, "epoch_", logs)
        if held_back:
            self._scalars("validation", epoch, "epoch_", held_back)
        if self.histogram_freq and epoch % self.histogram_freq == 0:
            self._file("train").write(epoch, self._weights())

    def on_test_end(self, logs: Logs = None) -> None:
        named = {f"{name}_vs_iterations": value for name, value in (logs or {}).items()}
        self._scalars("validation", self.model.optimizer.iterations, "evaluation_", named)

    # ---- what -------------------------------------------------------------------------------------------------------

    def _file(self, name: str) -> EventFile:
        if name not in self._files:
            self._files[name] = EventFile(os.path.join(self.log_dir, name))
        return self._files[name]

    def _scalars(self, name: str, step: int, prefix: str, logs: dict[str, Any]) -> None:
        values = {key: value for key, value in logs.items() if isinstance(value, (int, float, np.number))}
        if values:
            self._file(name).write(step, [scalar(prefix + key, float(value)) for key, value in values.items()])

    def _weights(self) -> list[bytes]:
        found = []
        for key, layer in self.model.layers_by_key.items():
            for name, array in (layer.params | layer.state).items():
                tag, numbers = "/".join(names_of_parameter((key, name))), np.asarray(to_host(array))
                found.append(histogram(f"{tag}/histogram", numbers))
                if self.write_images:
                    found += [image(f"{tag}/image/{i}", pixels) for i, pixels in enumerate(_pictures(numbers))]
        return found


def _pictures(w: np.ndarray) -> list[np.ndarray]:
    """An array of weights as pictures: each filter of a convolution, a matrix, or a row of numbers."""
    if w.ndim == 4:
        channels = slice(0, 3) if w.shape[2] == 3 else slice(0, 1)
        return [as_pixels(w[:, :, channels, k]) for k in range(min(w.shape[3], MAX_IMAGES))]
    if w.ndim > 2:
        return []
    matrix = w.reshape(-1, w.shape[-1]) if w.ndim else w.reshape(1, 1)
    return [as_pixels(matrix[..., None])]


def _nodes(model: Any) -> list[tuple[str, str, list[str]]]:
    """The network for `graph`. A layer that is used twice is a node twice, its second name with an ending."""
    nodes: list[tuple[str, str, list[str]]] = [("input", "Input", [])]
    names = {-1: "input"}
    taken = {"input"}
    for i, node in enumerate(model.nodes):
        name, k = node.key, 1
        while name in taken:
            k += 1
            name = f"{node.key}_again{k}"
        taken.add(name)
        names[i] = name
        nodes.append((name, type(node.layer).__name__, [names[j] for j in node.inputs]))
    return nodes
