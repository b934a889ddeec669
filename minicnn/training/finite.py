"""Where NaN and infinity first appear in a training step.

`fit(check_finite=True)` looks at every output of the forward pass, every gradient of the backward pass, and every
parameter after the update. TerminateOnNaN costs less: it looks at the loss, the gradients and the parameters alone.
Only where one of those is not finite, both passes are run again, with all eyes open, to see in which layer it began.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from minicnn.backend import Array, quiet, to_host, xp_of
from minicnn.errors import NotFiniteError
from minicnn.layers.context import Context
from minicnn.layers.walk import Node, Observer
from minicnn.ranks import known
from minicnn.training.shards import Workers
from minicnn.training.step import gradients, update

LARGE_INPUT = 100.0  # inputs that reach further than this are likely to be the cause


class Found(NamedTuple):
    """An array that is not finite. order: the first of a step has the smallest. source: what it was made of."""

    order: int
    layer: str
    direction: str
    name: str
    array: Array
    source: tuple[str, Array] | None


class Guard(Observer):
    """Looks at the numbers of every training step of one call of `fit`; its `step` takes the place of train_step.

    thorough: at all of them, and raises NotFiniteError before the step has changed the model. Else only at loss,
    gradients and parameters; a step that is not finite is left out, and `place.not_finite` tells where it began.
    """

    def __init__(self, model: Any, place: Any, thorough: bool):
        super().__init__()
        self.model, self.place, self.thorough = model, place, thorough
        self.nodes: list[Node] = model.nodes
        self.found: list[Found] = []
        self.lock = threading.Lock()  # the shards' threads all report here
        self.here = threading.local()  # of each shard: the prediction

    @quiet
    def step(
        self, model: Any, x: Array, y: Array, workers: Workers, sample_weight: Array | None = None
    ) -> tuple[Any, list[Any]]:
        """As train_step, unless something is not finite."""
        self.nodes = model.nodes
        numbers = model.optimizer.iterations, model.new_seed(), sample_weight
        shards, loss, metrics = gradients(model, x, y, workers, *numbers, self if self.thorough else None)
        samples = workers.place(len(x))[1]
        if not self.thorough and workers.any(not (math.isfinite(float(loss)) and _all_finite(_gradients(shards)))):
            gradients(model, x, y, workers.one_thread(), *numbers, self)
            self.look(3 * len(self.nodes), "the loss", "forward", [("the sum of the losses", np.asarray(float(loss)))])
        if workers.any(self.found):
            self._report(x, workers)
            return loss + self.model.penalty() * samples, metrics
        undo = _memory_of(model) if self.thorough else None
        penalty = update(model, shards, workers)
        self._look_after_update(penalty)
        if workers.any(self.found):
            self._report(x, workers, undo)
        return loss + penalty * samples, metrics

    def look(
        self, order: int, layer: str, direction: str, arrays: Iterable[tuple[str, Array | None]], source: Any = None
    ) -> None:
        """Note the first of these arrays (name, array) that holds NaN or infinity."""
        for name, array in arrays:
            if array is not None and not is_finite(array):
                with self.lock:
                    self.found.append(Found(order, layer, direction, name, array, source))
                return

    def forward(self, i: int, node: Node, x: Any, ctx: Context) -> Array:
        y = self.here.prediction = super().forward(i, node, x, ctx)
        self.look(i, node.key, "forward", [("its output y", y), *ctx.state.items()], ("x", x))
        return y

    def loss(self, compute: Callable[[], Any]) -> Any:
        losses, metrics, dy = super().loss(compute)
        source, n = ("the prediction", self.here.prediction), len(self.nodes)
        self.look(n, "the loss", "forward", [("the losses of the samples", losses)], source)
        self.look(n + 1, "the loss", "backward", [("its derivative", dy)], source)
        return losses, metrics, dy

    def backward(self, i: int, node: Node, dy: Array, ctx: Context) -> Any:
        dx = super().backward(i, node, dy, ctx)
        grads = [(f"the gradient of {name}", g) for name, g in ctx.grads.items()]
        dxs = [("dx", part) for part in (dx if node.layer.merges else (dx,))]
        self.look(2 * len(self.nodes) + 1 - i, node.key, "backward", [*grads, *dxs], ("dy", dy))
        return dx

    def _look_after_update(self, penalty: Any) -> None:
        optimizer, layers = self.model.optimizer, self.model.layers_by_key
        if not self.thorough and _all_finite(p for layer in layers.values() for p in layer.params.values()):
            return
        self.look(0, "the regularizers", "forward", [("the penalty", np.asarray(float(penalty)))])
        for i, (key, layer) in enumerate(layers.items()):
            arrays = list(layer.params.items())
            for name in layer.params:
                slots = zip(optimizer.slots_of((key, name)), optimizer.state.get((key, name), ()), strict=False)
                arrays += [(f"{name}/{slot} of the optimizer", array) for slot, array in slots]
            self.look(1 + i, key, "update", [*arrays, *layer.state.items()])

    def _report(self, x: Array, workers: Workers, undo: Callable[[], None] | None = None) -> None:
        first = min(self.found, key=lambda found: found.order, default=None)
        error = None if first is None or workers.idle else _error(first, self.model, self.place, x)
        error = _of_all_ranks(workers, math.inf if first is None else first.order, error)
        self.found = []
        if undo is not None:
            undo()
        if self.thorough:
            raise error
        self.place.not_finite = error


def is_finite(array: Array) -> bool:
    """Whether no number is NaN or infinite. On a GPU this waits for it."""
    return array.dtype.kind not in "fc" or bool(xp_of(array).isfinite(array).all())


def _all_finite(arrays: Iterable[Array]) -> bool:
    """The same for many arrays. Their sum of squares, which is quickly had, mostly tells."""
    rows = [array.reshape(-1) for array in arrays]
    return math.isfinite(float(sum(row @ row for row in rows))) or all(is_finite(row) for row in rows)


def _gradients(shards: Sequence[Sequence[Context]]) -> list[Array]:
    return [g for contexts in shards for ctx in contexts for g in ctx.grads.values()]


def _memory_of(model: Any) -> Callable[[], None]:
    """Keeps what an update changes; returns the function that brings it back."""
    optimizer, layers = model.optimizer, model.flat_layers
    arrays = [a for layer in layers for a in (*layer.params.values(), *layer.state.values())]
    arrays += [slot for slots in optimizer.state.values() for slot in slots]
    copies = [array.copy() for array in arrays]
    slots, iterations = dict(optimizer.state), optimizer.iterations

    def undo() -> None:
        for array, copy in zip(arrays, copies, strict=True):
            array[...] = copy
        optimizer.state, optimizer.iterations = slots, iterations

    return undo


# ---- what is said ----------------------------------------------------------------------------------------------------


def _of_all_ranks(workers: Workers, order: float, error: NotFiniteError | None) -> NotFiniteError:
    """The error of that rank in whose part of the batch it began. order: how early that was here."""
    told = (order, *error.__reduce__()[1]) if error is not None else (math.inf,)
    texts = workers.group.texts(json.dumps(told)) if workers.group.size > 1 else [json.dumps(told)]
    ranks = [json.loads(text) for text in texts]
    first = min(range(len(ranks)), key=lambda k: ranks[k][0])
    if error is None or first != workers.group.rank:
        error = NotFiniteError(*ranks[first][1:])
    return known(error)


def _error(found: Found, model: Any, place: Any, x: Array) -> NotFiniteError:
    values = to_host(found.array)
    bad = np.argwhere(~np.isfinite(values))
    first = tuple(int(i) for i in bad[0])
    where = f"in batch {place.step + 1} of epoch {place.epoch + 1}"
    passes = {"forward": "in the forward pass", "backward": "in the backward pass", "update": "by the update"}
    received = f"{values[first]} in {found.name}"
    if values.ndim:
        received += f" at index {first}; of its {values.size} numbers {len(bad)} are not finite"
    if found.source is not None:
        received += f". It was made of {found.source[0]}, {_range(found.source[1])}"
    return NotFiniteError(
        found.layer, f"{values[first]} appeared {passes[found.direction]}, {where}.", "finite numbers everywhere.",
        f"{received}. The inputs: {_range(x)}; the learning rate: {model.optimizer.learning_rate:g}.",
        _remedy(found, model, x), array=found.name, direction=found.direction, epoch=place.epoch, batch=place.step,
    )  # fmt: skip


def _remedy(found: Found, model: Any, x: Array) -> str:
    """The likely causes, the likeliest first."""
    layer = model.layers_by_key.get(found.layer)
    if layer is not None and found.direction != "update":
        for name, p in (*layer.params.items(), *layer.state.items()):
            if not is_finite(p):
                return f"its {name} was not finite before this step: look at what set it, a file or a callback."
    causes, rate = [], model.optimizer.learning_rate
    largest = float(abs(to_host(x).astype(np.float64)).max())
    if largest > LARGE_INPUT:
        causes.append(f"scale the inputs to about -1 to 1: their largest is {largest:.3g}")
    if found.direction == "update" or model.optimizer.iterations > 0:
        causes.append(f"use a smaller learning rate, for example {rate / 10:g}")
        causes.append("let the optimizer cut large gradients, with clipnorm=1")
    if layer is not None and not type(layer).__module__.startswith("minicnn."):
        causes.insert(0, f"look for a division by 0 or an overflow in {type(layer).__name__}")
    causes.append("look for extreme targets, and begin with smaller weights")
    return "; or ".join(causes[:3]) + "."


def _range(array: Any) -> str:
    parts = array if isinstance(array, list) else [array]  # of a merging layer: all that it joins
    values = np.concatenate([to_host(part).reshape(-1) for part in parts])
    finite = values[np.isfinite(values)] if values.dtype.kind in "fc" else values
    if not finite.size:
        return "nowhere finite"
    beside = "" if finite.size == values.size else ", beside numbers that are not finite"
    return f"from {float(finite.min()):.3g} to {float(finite.max()):.3g}{beside}"
