"""Where NaN and infinity first appear in a training step.

`fit(check_finite=True)` looks at every output on the way forward, every derivative on the way back, and every parameter
after the update. TerminateOnNaN costs less: it looks at the loss, the gradients and the parameters alone. Only where
one of those is not finite, the step is run again, with all eyes open, to see in which layer it began.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from minicnn.backend import Array, to_host, xp_of
from minicnn.errors import NotFiniteError
from minicnn.layers.base import Context, Layer

# What the layers' code shall not do in their users' name: NumPy warns where numbers overflow or become NaN, once for
# each line of a kernel, without a word of the cause. In here that is left to the messages below.
quiet = np.errstate(all="ignore")

LARGE_INPUT = 100.0  # inputs that reach further than this are likely to be the cause


class Found(NamedTuple):
    """An array that is not finite. order: the first of a step has the smallest. source: what it was made of."""

    order: int
    layer: str
    direction: str
    name: str
    array: Array
    source: tuple[str, Array] | None


class Guard:
    """Looks at the numbers of every training step of one call of `fit`.

    thorough: at all of them, and raises NotFiniteError before the step has changed the model. Else only at loss,
    gradients and parameters; a step that is not finite is left out, and `place.not_finite` tells where it began.
    """

    def __init__(self, model: Any, place: Any, thorough: bool):
        self.model, self.place, self.thorough = model, place, thorough
        self.found: list[Found] = []
        self.lock = threading.Lock()  # the shards' threads all report here

    def layers(self) -> list[Any]:
        """The model's layers, each behind somebody who looks at what it returns."""
        pairs = zip(self.model.layer_keys, self.model.flat_layers, strict=True)
        return [_Looked(layer, key, i, self) for i, (key, layer) in enumerate(pairs)]

    def look(
        self, order: int, layer: str, direction: str, arrays: Iterable[tuple[str, Array | None]], source: Any = None
    ) -> None:
        """Note the first of these arrays (name, array) that holds NaN or infinity."""
        for name, array in arrays:
            if array is not None and not is_finite(array):
                with self.lock:
                    self.found.append(Found(order, layer, direction, name, array, source))
                return

    def look_at_loss(self, losses: Array, dy: Array, y_pred: Array) -> None:
        """The losses of a shard's samples, and the derivative with which the way back begins."""
        source, n = ("the prediction", y_pred), len(self.model.flat_layers)
        self.look(n, "the loss", "forward", [("the losses of the samples", losses)], source)
        self.look(n + 1, "the loss", "backward", [("its derivative", dy)], source)

    def update(self, x: Array, loss: Any, pages: list[list[Context]], update: Any, again: Any) -> Any:
        """update(), which moves the parameters by the gradients on the pages, and returns the penalty.

        x: the batch. loss: the sum of its losses. again: a function that runs the step before the update once more,
        through the layers that it is given.
        """
        if not self.thorough and not (math.isfinite(float(loss)) and _all_finite(_gradients(pages))):
            again(self.layers())
            last = 3 * len(self.model.flat_layers)
            self.look(last, "the loss", "forward", [("the sum of the losses", np.asarray(float(loss)))])
        if self.found:
            self._report(x)
            return self.model.penalty()
        undo = _memory_of(self.model) if self.thorough else None
        penalty = update()
        self._look_after_update(penalty)
        if self.found:
            self._report(x, undo)
        return penalty

    def _look_after_update(self, penalty: Any) -> None:
        optimizer, layers = self.model.optimizer, self.model.flat_layers
        if not self.thorough and _all_finite(p for layer in layers for p in layer.params.values()):
            return
        self.look(0, "the regularizers", "forward", [("the penalty", np.asarray(float(penalty)))])
        for i, (key, layer) in enumerate(zip(self.model.layer_keys, layers, strict=True)):
            arrays = list(layer.params.items())
            for name in layer.params:
                slots = zip(optimizer.slots_of((key, name)), optimizer.state.get((key, name), ()), strict=False)
                arrays += [(f"{name}/{slot} of the optimizer", array) for slot, array in slots]
            self.look(1 + i, key, "update", [*arrays, *layer.state.items()])

    def _report(self, x: Array, undo: Callable[[], None] | None = None) -> None:
        first = min(self.found, key=lambda found: found.order)
        self.found = []
        error = _error(first, self.model, self.place, x)
        if undo is not None:
            undo()
        if self.thorough:
            raise error
        self.place.not_finite = error


class _Looked:
    """Stands before a layer and looks at what it returns. Everything else it asks of the layer itself."""

    def __init__(self, layer: Layer, key: str, index: int, guard: Guard):
        self.stands_for, self.key, self.index, self.guard = layer, key, index, guard
        self.way_back = 2 * len(guard.model.flat_layers) + 1 - index

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stands_for, name)

    def forward(self, x: Array, ctx: Context) -> Array:
        y = self.stands_for.forward(x, ctx)
        self.guard.look(self.index, self.key, "forward", [("its output y", y), *ctx.state.items()], ("x", x))
        return y

    def backward(self, dy: Array, ctx: Context) -> Array | None:
        dx = self.stands_for.backward(dy, ctx)
        grads = [(f"the gradient of {name}", g) for name, g in ctx.grads.items()]
        self.guard.look(self.way_back, self.key, "backward", [*grads, ("dx", dx)], ("dy", dy))
        return dx


def is_finite(array: Array) -> bool:
    """Whether no number is NaN or infinite. On a GPU this waits for it."""
    return array.dtype.kind not in "fc" or bool(xp_of(array).isfinite(array).all())


def _all_finite(arrays: Iterable[Array]) -> bool:
    """The same for many arrays. Their sum of squares, which is quickly had, mostly tells."""
    rows = [array.reshape(-1) for array in arrays]
    return math.isfinite(float(sum(row @ row for row in rows))) or all(is_finite(row) for row in rows)


def _gradients(pages: Sequence[Sequence[Context]]) -> list[Array]:
    return [g for shard in pages for ctx in shard for g in ctx.grads.values()]


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


def _error(found: Found, model: Any, place: Any, x: Array) -> NotFiniteError:
    values = to_host(found.array)
    bad = np.argwhere(~np.isfinite(values))
    first = tuple(int(i) for i in bad[0])
    where = f"in batch {place.step + 1} of epoch {place.epoch + 1}"
    passes = {"forward": "on the way forward", "backward": "on the way back (backward)", "update": "by the update"}
    received = f"{values[first]} in {found.name}"
    if values.ndim:
        received += f" at index {first}; of its {values.size} numbers {len(bad)} are not finite"
    if found.source is not None:
        received += f". It was made of {found.source[0]}, {_range(found.source[1])}"
    return NotFiniteError(
        found.layer, f"{values[first]} appeared {passes[found.direction]}, {where}.", "finite numbers everywhere.",
        f"{received}. The inputs: {_range(x)}; the learning rate: {model.optimizer.learning_rate:g}.",
        _remedy(found, model, x), direction=found.direction, epoch=place.epoch, batch=place.step,
    )  # fmt: skip


def _remedy(found: Found, model: Any, x: Array) -> str:
    """The likely causes, the likeliest first."""
    layer = dict(zip(model.layer_keys, model.flat_layers, strict=True)).get(found.layer)
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


def _range(array: Array) -> str:
    values = to_host(array)
    finite = values[np.isfinite(values)] if values.dtype.kind in "fc" else values
    if not finite.size:
        return "nowhere finite"
    beside = "" if finite.size == values.size else ", beside numbers that are not finite"
    return f"from {float(finite.min()):.3g} to {float(finite.max()):.3g}{beside}"
