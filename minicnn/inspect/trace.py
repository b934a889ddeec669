"""The record of one training step: every number that it computed, by name.

    t = model.trace(x, y)
    t["conv2d_1"].y        t["conv2d_1"].grads["w"]        t["dense_2"].updated["w"]        t.loss, t.loss_after

The step runs on a copy of the model, in one piece, with the pages (Context) that training itself uses: so a trace shows
what a step of `fit` does with this batch, and the model, its optimizer and its random generator stay as they were.
Every view (explain, the page) reads a Trace alone, never the model: a loaded one serves as well.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np

from minicnn.backend import Array, to_host
from minicnn.errors import InputError
from minicnn.inspect.record import Arrays, LayerTrace, StepTrace
from minicnn.layers.base import ActivatedLayer, Context, Layer
from minicnn.layers.normalization import BatchNormalization
from minicnn.objective import loss_gradient, prepare_targets, sample_losses
from minicnn.training.checks import check_targets
from minicnn.training.data import check_array, check_samples
from minicnn.training.finite import quiet
from minicnn.training.shards import Workers
from minicnn.training.step import forward, new_pages, update

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


@quiet
def trace(model: Any, x: Any, y: Any = None, training: bool = True) -> Trace:
    """Record one step of `model` on the batch x, y. See Trace; nothing about the model changes.

    x: (N, …) as for fit. y: targets; None records the way forward alone. training: True as in fit; False as in evaluate
    (running statistics, no dropout), with the same way back. Raises InputError where x or y does not fit.
    """
    x, twin = check_array("x", x), twin_of(model)
    if not twin.layers:
        raise InputError(
            model.name, "the model has no layers.", "at least one layer.", "an empty Sequential.", "add layers first."
        )
    if not twin.built:
        twin.build(x.shape[1:])
    if (*x.shape[1:], 1) == twin.input_shape:  # as fit takes it: the axis of a single channel may be missing
        x = x[..., None]
    check_samples("x", x, twin.input_shape, twin.layers[0].name)
    if y is not None:
        y = _checked_targets(twin, x, y)
    seed = twin.new_seed()
    layers = twin.flat_layers
    pages = _pages(twin, training, True, 0 if twin.optimizer is None else twin.optimizer.iterations, seed)
    records = []
    with Workers(1) as workers:  # BLAS in one thread, as in a step of fit: the same bits
        value = twin.as_input(x)
        for key, layer, page in zip(twin.layer_keys, layers, pages, strict=True):
            if isinstance(layer, ActivatedLayer):
                _listen(layer)
            record = LayerTrace(key, type(layer).__name__, layer.get_config(), _copy(value), np.empty(0))
            record.params, record.state = _copies(layer.params), _copies(layer.state)
            value = layer.forward(value, page)
            record.y = _copy(value)
            records.append(record)
        names = None if model.class_names is None else [str(name) for name in model.class_names]
        result = Trace(records, training, records[0].x, _copy(value), seed, model.name, names)
        if y is not None:
            _way_back(twin, result, pages, y, workers)
    for record, layer, page in zip(records, layers, pages, strict=True):
        record.kept = _copies(_kept(record, layer, page))
    return result


def _checked_targets(model: Any, x: np.ndarray, y: Any) -> np.ndarray:
    """y as an array; InputError where the loss cannot take it."""
    if model.loss is None:
        raise InputError(
            model.name, "the way back was asked for, but the model has no loss.", "a compiled model.",
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


def _way_back(twin: Any, t: Trace, pages: list[Context], y: np.ndarray, workers: Workers) -> None:
    """Fill in loss, gradients, and what the optimizer makes of them. Changes the parameters of `twin`."""
    layers, loss, optimizer, y_pred = twin.flat_layers, twin.loss, twin.optimizer, t.y_pred
    y_true = prepare_targets(loss, y, y_pred)
    t.y_true, t.losses = _copy(y_true), _copy(sample_losses(loss, y_true, y_pred, pages[-1]))
    t.loss_function = {"class_name": type(loss).__name__, "config": loss.get_config()}
    dy = loss_gradient(loss, y_true, y_pred, pages[-1])
    t.fused = "dlogits" in vars(pages[-1])
    for record, layer, page in reversed(list(zip(t.layers, layers, pages, strict=True))):
        record.dy = _copy(dy)
        dy = layer.backward(dy, page)
        record.dx, record.grads = _copy(dy), _copies(page.grads)
    before = {key: [_copy(s) for s in slots] for key, slots in optimizer.state.items()}
    t.optimizer = {
        "class_name": type(optimizer).__name__, "config": optimizer.get_config(),
        "iterations": optimizer.iterations, "learning_rate": optimizer.learning_rate,
    }  # fmt: skip
    t.penalty = float(update(twin, [pages], workers))
    t.loss = float(np.mean(t.losses, dtype=np.float64)) + t.penalty
    for record, layer, page in zip(t.layers, layers, pages, strict=True):
        record.state_after, record.updated = _copies(layer.state), _copies(layer.params)
        record.applied = _copies(page.grads) if layer.trainable else {}
        for name in layer.params:
            key = record.key, name
            if key not in optimizer.state:
                continue
            first, after = before.get(key) or optimizer.new_state(key, record.params[name]), optimizer.state[key]
            for slot, old, new in zip(optimizer.slots_of(key), first, after, strict=True):
                record.slots[f"{name}/{slot}"], record.slots_after[f"{name}/{slot}"] = _copy(old), _copy(new)
    again = _pages(twin, t.training, False, t.optimizer["iterations"], t.seed)
    y_pred = forward(layers, again, twin.as_input(t.x))
    t.loss_after = float(np.mean(sample_losses(loss, y_true, y_pred, again[-1]), dtype=np.float64)) + _penalty(twin)


def _pages(model: Any, training: bool, need_backward: bool, step: int, seed: int) -> list[Context]:
    """The pages of a step; each layer is asked for dx, which training spares the first one."""
    pages = new_pages(model.flat_layers, training, need_backward, step, seed)
    for page in pages:
        page.need_dx = True
    return pages


def _penalty(model: Any) -> float:
    """What the regularizers add to the loss of a step: those of the layers that learn."""
    return sum(
        float(regularizer.penalty(layer.params[name]))
        for layer in model.flat_layers
        for name, regularizer in layer.regularizers.items()
        if regularizer is not None and name in layer.params and layer.trainable
    )


def _listen(layer: ActivatedLayer) -> None:
    """Let a layer (of the copy) write z and dz on its page too, which only pass through it."""
    activate, deactivate = layer.activate, layer.deactivate

    def heard_activate(z: Array, ctx: Context, overwrite: bool = False) -> Array:
        ctx.z = z  # so y must have memory of its own
        return activate(z, ctx)

    def heard_deactivate(dy: Array, ctx: Context) -> Array:
        ctx.dz = deactivate(dy, ctx)
        return ctx.dz

    vars(layer).update(activate=heard_activate, deactivate=heard_deactivate)


def _kept(record: LayerTrace, layer: Layer, page: Context) -> Arrays:
    """What lies between x and y: from the page, or computed as the kernel does."""
    kept: Arrays = {name: vars(page)[name] for name in ("z", "dz", "mask", "winner") if name in vars(page)}
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
        kept["mean"], kept["var"] = page.mean, page.var
        kept["x_hat"] = (record.x - page.mean) / np.sqrt(page.var + page.var.dtype.type(layer.epsilon))
        kept["of_batch"] = np.asarray(page.of_batch)
    return kept


def twin_of(model: Any) -> Any:
    """A copy of the model on the host that shares no array with it."""
    return copy.deepcopy(model, {id(model.history): None}).to("cpu")


def _copies(arrays: dict[str, Array]) -> Arrays:
    return {name: _copy(array) for name, array in arrays.items()}


def _copy(array: Array) -> np.ndarray:
    return np.array(to_host(array))
