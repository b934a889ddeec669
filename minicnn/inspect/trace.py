"""The record of one training step: every number that it computed, by name.

    t = model.trace(x, y)
    t["conv2d_1"].y        t["conv2d_1"].grads["w"]        t["dense_2"].updated["w"]        t.loss, t.loss_after

The step runs on a copy of the model, in one piece, with the pages (Context) that training itself uses: so a trace shows
what a step of `fit` does with this batch, and the model, its optimizer and its random generator stay as they were.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from minicnn import kernels
from minicnn.backend import Array, to_host
from minicnn.errors import BrokenFileError, InputError, unknown_name
from minicnn.layers.base import ActivatedLayer, Context, Layer
from minicnn.layers.conv import Conv2D
from minicnn.layers.core import Dense
from minicnn.layers.normalization import BatchNormalization
from minicnn.losses import check_targets, prepare_targets
from minicnn.saving import atomic_write
from minicnn.training.data import check_array, check_samples
from minicnn.training.step import new_pages, update

Arrays = dict[str, np.ndarray]


@dataclass
class LayerTrace:
    """What one layer read and wrote. Arrays of samples have the batch axis first; without y there is no way back.

    key: its name in the model ("conv2d_1", "vgg16/block1_conv1"). kind: its class. config: its constructor's arguments.
    x, y: input and output. dy, dx: the loss's derivatives by them. kept: what is between x and y: z (before the
    activation), dz, mask, winner, mean, var, x_hat, logits, max, exp, sum.
    params, grads, updated: the parameters before the step, the loss's derivatives by them, and the parameters after it.
    applied: the gradients as the optimizer took them, with regularizer and clipping.
    slots, slots_after: the optimizer's arrays, "w/m". state, state_after: running statistics.
    """

    key: str
    kind: str
    config: dict[str, Any]
    x: np.ndarray
    y: np.ndarray
    dy: np.ndarray | None = None
    dx: np.ndarray | None = None
    kept: Arrays = field(default_factory=dict)
    params: Arrays = field(default_factory=dict)
    grads: Arrays = field(default_factory=dict)
    applied: Arrays = field(default_factory=dict)
    updated: Arrays = field(default_factory=dict)
    slots: Arrays = field(default_factory=dict)
    slots_after: Arrays = field(default_factory=dict)
    state: Arrays = field(default_factory=dict)
    state_after: Arrays = field(default_factory=dict)


@dataclass
class Trace:
    """One step. Layers by position or name: t.layers[0], t["conv2d_1"].

    y_true as the loss takes it. losses: of each sample. loss: their mean plus the regularizers' penalty, before the step;
    loss_after: the same batch again with the updated parameters (same dropout masks). optimizer: class, config,
    `iterations` before the step and the learning_rate that it used. seed: that of the step's random layers.
    """

    layers: list[LayerTrace]
    training: bool
    x: np.ndarray
    y_pred: np.ndarray
    seed: int
    model_name: str
    class_names: list[str] | None = None
    y_true: np.ndarray | None = None
    losses: np.ndarray | None = None
    loss: float | None = None
    penalty: float = 0.0
    loss_after: float | None = None
    loss_function: dict[str, Any] | None = None
    optimizer: dict[str, Any] | None = None

    def __getitem__(self, key: str) -> LayerTrace:
        for layer in self.layers:
            if layer.key == key:
                return layer
        raise unknown_name("layer", key, [layer.key for layer in self.layers])

    def save(self, filepath: Any) -> None:
        """Write the trace into one .npz file, without pickle."""
        arrays, header = _flatten(self)
        with atomic_write(filepath) as file:
            np.savez_compressed(file, **{"trace.json": np.frombuffer(header.encode(), np.uint8)}, **arrays)

    @classmethod
    def load(cls, filepath: Any) -> Trace:
        """The trace that save wrote. Raises FileNotFoundError, and BrokenFileError for a file of another kind."""
        try:
            with np.load(filepath, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            return _unflatten(arrays.pop("trace.json").tobytes().decode(), arrays)
        except FileNotFoundError:
            raise
        except Exception as error:
            raise BrokenFileError(
                filepath, "this is not a trace.", "a file that Trace.save() wrote.", f"{type(error).__name__}: {error}",
                "trace the model again.",
            ) from error  # fmt: skip


def trace(model: Any, x: Any, y: Any = None, training: bool = True) -> Trace:
    """Record one step of `model` on the batch x, y. See Trace; nothing about the model changes.

    x: (N, …) as for fit. y: targets; None records the way forward alone. training: True as in fit; False as in evaluate
    (running statistics, no dropout), with the same way back. Raises InputError where x or y does not fit.
    """
    x = check_array("x", x)
    model.build(x.shape[1:])
    check_samples("x", x, model.input_shape, model.layers[0].name)
    if y is not None:
        if model.loss is None:
            raise InputError(
                model.name, "the way back was asked for, but the model has no loss.", "a compiled model.",
                "one that was not compiled.", "call model.compile(...) first, or leave y out.",
            )  # fmt: skip
        y = check_array("y", y)
        check_targets(model.loss, y, model.shapes[-1])
    twin = _twin(model)
    seed = twin.new_seed()
    layers, keys = twin.flat_layers, twin.layer_keys
    step = 0 if twin.optimizer is None else twin.optimizer.iterations
    pages = new_pages(layers, training, True, step, seed)
    for page in pages:
        page.need_dx = True
    records = []
    value = twin.as_input(x)
    for key, layer, page in zip(keys, layers, pages, strict=True):
        out = layer.forward(value, page)
        record = LayerTrace(key, type(layer).__name__, layer.get_config(), _copy(value), _copy(out))
        record.params = {name: _copy(p) for name, p in layer.params.items()}
        record.state = {name: _copy(s) for name, s in layer.state.items()}
        records.append(record)
        value = out
    result = Trace(records, training, records[0].x, _copy(value), seed, model.name, model.class_names)
    if y is not None:
        _way_back(twin, result, pages, y)
    for record, layer, page in zip(records, layers, pages, strict=True):
        record.kept = {name: _copy(array) for name, array in _kept(record, layer, page).items()}
    return result


def _way_back(twin: Any, t: Trace, pages: list[Context], y: np.ndarray) -> None:
    """Fill in loss, gradients, and what the optimizer makes of them. Changes the parameters of `twin`."""
    layers, loss, y_pred = twin.flat_layers, twin.loss, twin.as_input(t.y_pred)
    y_true = prepare_targets(loss, y, y_pred)
    t.y_true, t.losses = _copy(y_true), _copy(loss.per_sample(y_true, y_pred, pages[-1]))
    t.loss_function = {"class_name": type(loss).__name__, "config": loss.get_config()}
    dy = loss.gradient(y_true, y_pred, pages[-1])
    for record, layer, page in reversed(list(zip(t.layers, layers, pages, strict=True))):
        record.dy = _copy(dy)
        dy = layer.backward(dy, page)
        record.dx = _copy(dy)
        record.grads = {name: _copy(g) for name, g in page.grads.items()}
    before = {key: [_copy(s) for s in slots] for key, slots in twin.optimizer.state.items()}
    t.optimizer = {
        "class_name": type(twin.optimizer).__name__, "config": twin.optimizer.get_config(),
        "iterations": twin.optimizer.iterations, "learning_rate": twin.optimizer.learning_rate,
    }  # fmt: skip
    t.penalty = update(twin, [pages], None)
    t.loss = float(np.mean(t.losses)) + t.penalty
    for record, layer, page in zip(t.layers, layers, pages, strict=True):
        record.state_after = {name: _copy(s) for name, s in layer.state.items()}
        record.updated = {name: _copy(p) for name, p in layer.params.items()}
        record.applied = {name: _copy(g) for name, g in page.grads.items()} if layer.trainable else {}
        for name, p in layer.params.items():
            after = twin.optimizer.state.get((record.key, name), [])
            first = before.get((record.key, name), [np.zeros_like(to_host(p)) for _ in after])
            for slot, old, new in zip(twin.optimizer.slots, first, after, strict=True):
                record.slots[f"{name}/{slot}"], record.slots_after[f"{name}/{slot}"] = old, _copy(new)
    again = new_pages(layers, t.training, False, t.optimizer["iterations"], t.seed)
    value = twin.as_input(t.x)
    for layer, page in zip(layers, again, strict=True):
        value = layer.forward(value, page)
    t.loss_after = float(loss.per_sample(y_true, value, again[-1]).mean()) + twin.penalty()


def _kept(record: LayerTrace, layer: Layer, page: Context) -> dict[str, Array]:
    """What lies between x and y: copied from the page, or computed as the kernel does."""
    kept: dict[str, Array] = {}
    if isinstance(layer, ActivatedLayer):
        # The pages keep z or y, whichever the way back needs; so z is computed once more, by the same kernel.
        z, w, b = record.x, record.params.get("w"), record.params.get("b")
        if isinstance(layer, Dense):
            z = kernels.dense_forward(z, w, b)
        elif isinstance(layer, Conv2D):
            z = kernels.conv2d_forward(z, w, b, layer.strides, layer.padding, layer.dilation_rate)
        kept["z"] = z
        if record.dy is not None:
            kept["dz"] = layer.deactivate(record.dy, page)
        if layer.activation.name == "relu":
            kept["mask"] = record.y > 0
        if layer.activation.name == "softmax":
            kept["max"] = z.max(axis=-1, keepdims=True)
            kept["exp"] = np.exp(z - kept["max"])
            kept["sum"] = kept["exp"].sum(axis=-1, keepdims=True)
    if isinstance(layer, BatchNormalization):
        kept["mean"], kept["var"] = page.mean, page.var
        kept["x_hat"] = (record.x - page.mean) / np.sqrt(page.var + page.var.dtype.type(layer.epsilon))
        kept["of_batch"] = np.asarray(page.of_batch)
    for name in ("mask", "winner"):
        if name in vars(page):
            kept[name] = vars(page)[name]
    return kept


def _twin(model: Any) -> Any:
    """A copy of the model on the host that shares no array with it."""
    memo = {id(model.history): None}
    return copy.deepcopy(model, memo).to("cpu")


def _copy(array: Array) -> np.ndarray:
    return np.array(to_host(array))


def _flatten(t: Trace) -> tuple[Arrays, str]:
    """The trace as arrays by name, "2/grads/w" for a layer's, and the rest as JSON."""
    arrays: Arrays = {}

    def strip(obj: Any, prefix: str) -> dict[str, Any]:
        rest: dict[str, Any] = {}
        for f in fields(obj):
            value = getattr(obj, f.name)
            if isinstance(value, np.ndarray):
                arrays[prefix + f.name] = value
            elif f.name in _ARRAY_DICTS:
                arrays.update({f"{prefix}{f.name}/{name}": array for name, array in value.items()})
            elif f.name != "layers":
                rest[f.name] = value
        return rest

    header = strip(t, "")
    header["layers"] = [strip(layer, f"{i}/") for i, layer in enumerate(t.layers)]
    return arrays, json.dumps(header, ensure_ascii=False)


def _unflatten(header: str, arrays: Arrays) -> Trace:
    parsed = json.loads(header)
    layers = parsed.pop("layers")
    for i, layer in enumerate(layers):
        for name, array in arrays.items():
            place, _, rest = name.partition("/")
            if place == str(i):
                group, _, inner = rest.partition("/")
                if inner:
                    layer.setdefault(group, {})[inner] = array
                else:
                    layer[group] = array
    own = {name: array for name, array in arrays.items() if "/" not in name}
    return Trace(layers=[LayerTrace(**layer) for layer in layers], **parsed, **own)


_ARRAY_DICTS = {f.name for f in fields(LayerTrace) if f.type == "Arrays"}
