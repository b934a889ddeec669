"""The gradient checks of the page: losses at w + h and at w - h, of which the page makes a quotient.

They are computed here, by the layers themselves in float64 and in float32; the page only subtracts and divides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from minicnn import losses
from minicnn.gradcheck import is_kink, moved
from minicnn.inspect.explanation import base_key, uses
from minicnn.inspect.record import LayerTrace
from minicnn.inspect.rules import activation_of
from minicnn.layers.base import Layer
from minicnn.layers.context import Context
from minicnn.layers.walk import Node, backward, forward, new_contexts
from minicnn.objective import loss_gradient, sample_losses

if TYPE_CHECKING:
    from minicnn.inspect.trace import Trace

# Multiply-accumulates that all differences together may take, and those of the weight that the walk follows; the steps.
MAX_MACS, MAX_STORY_MACS = 2_000_000_000, 8_000_000_000
STEPS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10)

Place = tuple[int, str, int]  # a parameter: the layer's number, the array's name, the place in the flat array


def costs(t: Trace) -> list[int | None]:
    """For each layer, the multiply-accumulates of one check of one of its weights; None where none can be made.

    A check runs this layer and all after it, so it ends at a layer, an activation or a loss that is not minicnn's. A
    layer that is used twice is not checked: its weight would have to be moved in both places.
    """
    found: list[int | None] = [None] * len(t.layers)
    if t.loss_function is None or not hasattr(losses, t.loss_function["class_name"]):
        return found
    starts, macs, done = cuts(t), 0, len(t.layers)
    for i in range(len(t.layers) - 1, -1, -1):
        for k in range(starts[i], done):
            record = t.layers[k]
            if record.made() is None or not activation_of(record).known:
                return found
            w = record.params.get("w")
            macs += record.y.size * (1 if w is None else w.size // w.shape[-1])
        done = min(done, starts[i])
        if len(uses(t, t.layers[i])) == 1:
            found[i] = 3 * len(STEPS) * macs  # a float32 run counts half
    return found


def cuts(t: Trace) -> list[int]:
    """For each layer, the last one at or before it from which on nothing is read but what that one reads itself."""
    found, reads = [0] * len(t.layers), len(t.layers)
    clean = []
    for i in range(len(t.layers) - 1, -1, -1):
        inputs = t.layers[i].inputs
        if len(inputs) == 1 and reads >= i - 1 and inputs[0] == i - 1:
            clean.append(i)
        reads = min(reads, *inputs)
    for i in range(len(t.layers)):
        found[i] = max((c for c in clean if c <= i), default=0)
    return found


def gradient_checks(t: Trace, story: Place | None = None) -> list[dict[str, Any]]:
    """For some weights of each parameter array: the loss at w ± h in float64 and float32, and the exact gradient.

    First the weight `story`; then from the last layer to the first, until MAX_MACS is used up.
    """
    checks = [] if story is None else [_check(t, *story)]  # the walk's own weight is shown in any case
    left, cost = MAX_MACS, costs(t)
    for i in reversed(range(len(t.layers))):
        for name, grad in t.layers[i].grads.items():
            for flat in _weights_to_check(grad):
                price = cost[i]
                if price is None or (i, name, flat) == story:
                    continue
                left -= price
                if left >= 0:
                    check = _check(t, i, name, flat)
                    checks += [] if check["kink"] else [check]
    return checks


def _weights_to_check(grad: np.ndarray) -> list[int]:
    """The weight of the largest gradient, and one in the middle."""
    order = np.argsort(-np.abs(grad).reshape(-1), kind="stable")
    return list(dict.fromkeys((int(order[0]), int(order[len(order) // 3]))))


def _check(t: Trace, i: int, name: str, flat: int) -> dict[str, Any]:
    record = t.layers[i]
    at = tuple(int(v) for v in np.unravel_index(flat, record.params[name].shape))
    result: dict[str, Any] = {"layer": i, "param": name, "index": at, "recorded": record.grads[name][at]}
    # Added: what the difference of two losses, each near 1 in float64, cannot tell from 0.
    result["noise"] = _noise(record, name, at, 1e-6 + _lost_digits(t)) + 2.0**-39
    for kind in ("float64", "float32"):
        tail = _Tail(t, cuts(t)[i], kind)
        w = tail.nodes[i - tail.first].layer.params[name]
        result[kind] = [[float(moved(tail.loss, w, at, sign * h)) for sign in (1, -1)] for h in STEPS]
        if kind == "float64":
            exact = tail.gradient(i, name, at)
            error = min(abs((a - b) / (2 * h) - exact) for (a, b), h in zip(result[kind], STEPS, strict=True))
            # A weight that stands on a kink (a bias of 0 under a ReLU, where all it adds to is 0) has no derivative.
            far = error > 1e-3 * abs(exact) + result["noise"]
            result |= {"exact": exact, "kink": far and is_kink(error, tail.loss, np.ones(()), w, at, 1.0, STEPS[5])}
    return result


def _lost_digits(t: Trace) -> float:
    """The relative error of p - t, where the backward pass begins: of a p close to t, float32 keeps few digits."""
    dz = t.layers[-1].kept.get("dz")
    if not t.fused or dz is None:
        return 0.0
    largest = len(dz) * np.abs(dz.reshape(len(dz), -1)).max(axis=1)  # of each sample; the most certain one counts
    return 2.0**-22 / max(float(largest.min()), 2.0**-24)


def _noise(record: LayerTrace, name: str, at: tuple[int, ...], share: float) -> float:
    """What the float32 gradient of a parameter may be off by: this share of all that was added up for it.

    In front of a batch normalisation a bias has gradient 0: there the recorded number is nothing but this.
    """
    kept = record.kept
    dz = kept["dh"] if name == "depthwise" else kept.get("dz", record.dy)
    assert dz is not None
    factors = {"w": record.x, "depthwise": record.x, "pointwise": kept.get("h"), "gamma": kept.get("x_hat")}
    factor = factors.get(name)
    largest = 1.0 if factor is None else float(np.abs(factor).max())
    sums = np.abs(dz, dtype=np.float64).reshape(-1, dz.shape[-1]).sum(axis=0)
    mine = record.kind in ("Conv2D", "Dense", "BatchNormalization") or len(at) == 1
    return share * largest * float(sums[at[-1]] if mine else sums.max())  # another kernel's last axis is not dz's


class _Tail:
    """The layers from one on, in another precision, on what this one read: a function of their parameters."""

    def __init__(self, t: Trace, first: int, kind: str):
        self.t, self.first, self.dtype = t, first, np.dtype(kind)
        made: dict[str, Layer] = {}  # a layer that is used twice is one layer
        self.nodes = []
        for record in t.layers[first:]:
            name = base_key(record)
            made.setdefault(name, _in(kind, record))
            self.nodes.append(Node(made[name], tuple(j - first for j in record.inputs), name))
        self.x = (t.x if first == 0 else t.layers[first].x).astype(kind)
        assert t.loss_function is not None and t.y_true is not None
        self.cost = losses.get(t.loss_function)
        self.target = t.y_true if t.y_true.dtype.kind in "iu" else t.y_true.astype(kind)

    def _forward(self) -> tuple[np.ndarray, list[Context]]:
        assert self.t.optimizer is not None
        count, seed = self.t.optimizer["iterations"], self.t.seed + self.first
        # The gradient with respect to the input is asked for: so frozen layers, too, pass on what is checked.
        contexts = new_contexts(self.nodes, self.t.training, True, count, seed, input_gradient=True)
        return forward(self.nodes, contexts, self.x), contexts

    def loss(self) -> np.ndarray:
        y, contexts = self._forward()
        return sample_losses(self.cost, self.target, y, contexts[-1]).mean(dtype=self.dtype)

    def gradient(self, i: int, name: str, at: tuple[int, ...]) -> float:
        """The gradient with respect to a number of a parameter of layer i of the trace."""
        y, contexts = self._forward()
        backward(self.nodes, contexts, loss_gradient(self.cost, self.target, y, contexts[-1]))
        return float(contexts[i - self.first].grads[name][at])


def _in(kind: str, record: LayerTrace) -> Layer:
    layer = record.made()
    assert layer is not None  # `costs` ends at a layer that is unknown
    layer.params = {name: p.astype(kind) for name, p in record.params.items()}
    layer.state = {name: s.astype(kind) for name, s in record.state.items()}
    return layer
