"""The record of one training step: every number that it computed, by name.

    t = model.trace(x, y)
    t["conv2d_1"].y        t["conv2d_1"].grads["w"]        t["dense_2"].updated["w"]        t.loss, t.loss_after

The step runs on a copy of the model, in one piece, with the contexts that training itself uses: so a trace shows
what a step of `fit` does with this batch, and the model, its optimizer and its random generator stay as they were.
Every view (explain, the page) reads a Trace alone, never the model: a loaded one serves as well.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from minicnn.backend import Array, quiet, to_host
from minicnn.errors import InputError
from minicnn.inspect.record import Arrays, LayerTrace, StepTrace
from minicnn.layers.base import Layer
from minicnn.layers.context import Context
from minicnn.layers.normalization import BatchNormalization
from minicnn.layers.walk import Node, Observer, backward, forward, new_contexts, unique_keys
from minicnn.layers.weighted import ActivatedLayer
from minicnn.objective import loss_gradient, prepare_targets, sample_losses
from minicnn.training.checks import as_samples, check_array, check_targets
from minicnn.training.shards import Workers
from minicnn.training.step import update

if TYPE_CHECKING:
    from minicnn.inspect.explain import Explanation
    from minicnn.inspect.notebook import Frame

class Trace(StepTrace):
    """A StepTrace with the views of it."""

    def explain(self, layer: str, what: str, index: Any) -> Explanation:
        """Which numbers made this one: see minicnn.inspect.explain. t.explain("conv2d_1", "dw", (0, 1, 2, 3))."""
        from minicnn.inspect.explain import explain

        return explain(self, layer, what, index)

    def to_html(self, path: Any, image: int | None = None) -> None:
        """Write the whole step as one page for the browser, which needs nothing else: see minicnn.inspect.page.

        image: which one of the batch the page is about; None: that of the largest loss. Raises InputError, OSError.
        """
        from minicnn.inspect.page.build import write_page

        write_page(self, path, image)

    def show(self, height: int = 720, image: int | None = None) -> Frame:
        """The page in a notebook, in a frame of so many pixels that can reach nothing outside it. image: as to_html."""
        from minicnn.inspect.notebook import show

        return show(self, height, image)

    def _repr_html_(self) -> str:
        """The step in two tables, which notebooks show."""
        from minicnn.inspect.notebook import trace_html

        return trace_html(self)

    def save(self, filepath: Any) -> None:
        """Write the trace into one .npz file, without pickle."""
        from minicnn.inspect import trace_file

        trace_file.save(self, filepath)

    @classmethod
    def load(cls, filepath: Any) -> Trace:
        """The trace that save wrote, bit for bit. Raises OSError where it cannot be read, else BrokenFileError."""
        from minicnn.inspect import trace_file

        return trace_file.load(filepath, cls)

# What is kept of a context; see LayerTrace.
BETWEEN = ("h", "dh", "z", "dz", "mask", "noise", "flipped", "matrices", "winner")


@quiet
def trace(model: Any, x: Any, y: Any = None, training: bool = True) -> Trace:
    """Record one step of `model` on the batch x, y. See Trace; nothing about the model changes.

    x: (N, …) as for fit. y: targets; None records the forward pass alone. training: True as in fit; False as in
    evaluate (running statistics, no dropout), with the same backward pass. Raises InputError where x or y does not fit.
    """
    x, copied = check_array("x", x), copy_of(model)
    x = as_samples(copied, x)
    if y is not None:
        y = _checked_targets(copied, x, y)
    seed = copied.new_seed()
    step = 0 if copied.optimizer is None else copied.optimizer.iterations
    names = None if model.class_names is None else [str(name) for name in model.class_names]
    with Workers(1) as workers:  # BLAS in one thread, as in a step of fit: the same bits
        records = _Records(copied.nodes)
        contexts = _contexts(copied, training, True, step, seed)
        y_pred = forward(copied.nodes, contexts, copied.as_input(x), records)
        result = Trace(records.layers, training, _copy(copied.as_input(x)), _copy(y_pred), seed, model.name, names)
        if y is not None:
            _backward_pass(copied, result, records, contexts, y, workers)
    for record, node, ctx in zip(records.layers, copied.nodes, contexts, strict=True):
        record.kept = _copies(_kept(record, node.layer, ctx))
    return result


class _Records(Observer):
    """Writes down what every layer reads and returns."""

    def __init__(self, nodes: Sequence[Node]):
        super().__init__()
        self.layers: list[LayerTrace] = []
        self.keys = unique_keys(nodes)
        self.applied: dict[tuple[str, str], list[Array]] = {}

    def forward(self, i: int, node: Node, x: Any, ctx: Context) -> Array:
        layer = node.layer
        record = LayerTrace(
            self.keys[i], type(layer).__name__, layer.get_config(), _copy(x), np.empty(0), inputs=node.inputs,
            params=_copies(layer.params), state=_copies(layer.state),
        )  # fmt: skip
        self.layers.append(record)
        y = super().forward(i, node, x, ctx)
        record.y = _copy(y)
        return y

    def backward(self, i: int, node: Node, dy: Array, ctx: Context) -> Any:
        record = self.layers[i]
        record.dy = _copy(dy)
        dx = super().backward(i, node, dy, ctx)
        record.dx, record.grads = _copy(dx), _copies(ctx.grads)
        return dx

    def update(self, grads: dict[tuple[str, str], list[Array]], compute: Callable[[], Any]) -> Any:
        self.applied = grads
        return super().update(grads, compute)


def _checked_targets(model: Any, x: np.ndarray, y: Any) -> np.ndarray:
    """y as an array; InputError where the loss cannot take it."""
    if model.loss is None:
        raise InputError(
            model.name, "the backward pass was asked for, but the model has no loss.", "a compiled model.",
            "one that was not compiled.", "call model.compile(...) first, or leave y out.",
        )  # fmt: skip
    y = check_array("y", y)
    if len(y) != len(x):
        raise InputError(
            "y", "x and y have different lengths.", f"one target for each of the {len(x)} samples.",
            f"{len(y)} targets.", "for one image and its class: model.trace(x[:1], y[:1]).",
        )  # fmt: skip
    check_targets(model.loss, y, model.shapes[-1])
    return y


def _backward_pass(
    copied: Any, t: Trace, records: _Records, contexts: list[Context], y: np.ndarray, workers: Workers
) -> None:
    """Fill in loss, gradients, and what the optimizer makes of them. Changes the parameters of `copied`."""
    nodes, loss, optimizer, y_pred = copied.nodes, copied.loss, copied.optimizer, t.y_pred
    y_true = prepare_targets(loss, y, y_pred)
    t.y_true, t.losses = _copy(y_true), _copy(sample_losses(loss, y_true, y_pred, contexts[-1]))
    t.loss_function = {"class_name": type(loss).__name__, "config": loss.get_config()}
    dy = loss_gradient(loss, y_true, y_pred, contexts[-1])
    t.fused = "dlogits" in vars(contexts[-1])
    backward(nodes, contexts, dy, records)
    before = {key: [_copy(s) for s in slots] for key, slots in optimizer.state.items()}
    t.optimizer = {
        "class_name": type(optimizer).__name__, "config": optimizer.get_config(),
        "iterations": optimizer.iterations, "learning_rate": optimizer.learning_rate,
        "decay": {f"{node.key}/{name}": optimizer.decay_of((node.key, name), p)
                  for node in nodes for name, p in node.layer.params.items()},
    }  # fmt: skip
    t.penalty = float(update(copied, [contexts], workers, records))
    t.loss = float(np.mean(t.losses, dtype=np.float64)) + t.penalty
    for record, node in zip(t.layers, nodes, strict=True):
        layer = node.layer
        record.state_after, record.updated = _copies(layer.state), _copies(layer.params)
        for name in layer.params if layer.trainable else ():
            record.applied[name] = _copy(records.applied[node.key, name][0])
        for name in layer.params:
            key = node.key, name
            if key not in optimizer.state:
                continue
            first, after = before.get(key) or optimizer.new_state(key, record.params[name]), optimizer.state[key]
            new = optimizer.means_of(key, after)
            for slot, old in optimizer.means_of(key, first).items():
                record.slots[f"{name}/{slot}"], record.slots_after[f"{name}/{slot}"] = _copy(old), _copy(new[slot])
    again = _contexts(copied, t.training, False, t.optimizer["iterations"], t.seed)
    y_pred = forward(nodes, again, copied.as_input(t.x))
    losses = sample_losses(loss, y_true, y_pred, again[-1])
    t.loss_after = float(np.mean(losses, dtype=np.float64)) + float(copied.penalty())


def _contexts(model: Any, training: bool, need_backward: bool, step: int, seed: int) -> list[Context]:
    """The contexts of a step; each layer is asked for dx, which training spares the first one, and for z and dz."""
    contexts = new_contexts(model.nodes, training, need_backward, step, seed, input_gradient=True)
    for ctx in contexts:
        ctx.trace = True
    return contexts


def _kept(record: LayerTrace, layer: Layer, ctx: Context) -> Arrays:
    """What lies between x and y: from the context, or computed as the kernel does."""
    kept: Arrays = {name: vars(ctx)[name] for name in BETWEEN if name in vars(ctx)}
    if "winner" in kept:
        kept["winner"] = kept["winner"].reshape(record.y.shape)  # a sequence was pooled as an image of height 1
    if isinstance(layer, ActivatedLayer) and "z" in kept:
        name, z = layer.activation.name, kept["z"]
        if name == "relu":
            top = vars(layer).get("max_value")
            kept["mask"] = record.y > 0 if top is None else (record.y > 0) & (record.y < top)
        if name == "softmax":
            kept["max"] = z.max(axis=-1, keepdims=True)
            kept["exp"] = np.exp(z - kept["max"])
            kept["sum"] = kept["exp"].sum(axis=-1, keepdims=True)
    if isinstance(layer, BatchNormalization):
        kept["mean"], kept["var"] = ctx.mean, ctx.var
        kept["x_hat"] = (record.x - ctx.mean) / np.sqrt(ctx.var + ctx.var.dtype.type(layer.epsilon))
        kept["of_batch"] = np.asarray(ctx.of_batch)
    return kept


def copy_of(model: Any) -> Any:
    """A copy of the model on the host that shares no array with it."""
    return copy.deepcopy(model, {id(model.history): None}).to("cpu")


def _copies(arrays: dict[str, Array]) -> Arrays:
    return {name: _copy(array) for name, array in arrays.items()}


def _copy(array: Any) -> Any:
    """On the host; of a merging layer's list, the list."""
    return [np.array(to_host(item)) for item in array] if isinstance(array, list) else np.array(to_host(array))
