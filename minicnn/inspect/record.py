"""What a trace holds: the numbers of one training step, layer by layer. `minicnn/inspect/trace.py` makes it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from minicnn import layers
from minicnn.errors import unknown_name, visible
from minicnn.layers.base import Layer
from minicnn.layers.weighted import BiasedLayer

Arrays = dict[str, np.ndarray]
Values = Any  # an array; of a merging layer the list of its inputs
MAX_ROWS = 24  # layers that repr shows


@dataclass(repr=False)
class LayerTrace:
    """What one layer read and wrote. Arrays of samples have the batch axis first; without y there is no backward pass.

    key: its name in the model ("conv2d_1", "vgg16/block1_conv1"). kind: its class. config: its constructor's arguments.
    A layer that is used twice has two: "dense_1", "dense_1 (2)". inputs: which layers of the trace it reads; -1 is the
    trace's x. x, y: input and output. dy, dx: the gradients of the loss with respect to them (for dy of the last layer
    see Trace.fused). Of a merging layer (Add, Concatenate) x and dx are the lists of its inputs and their gradients.
    kept: what is between x and y. Of a SeparableConv2D h, between its two kernels, and dh. Of an activation z (its
    input) and dz; mask where ReLU's derivative is 1; max, exp,
    sum of a softmax. Of max pooling winner, kh * KW + kw in its window. Of dropout in training the mask, True: kept;
    of GaussianNoise the noise, of RandomFlip flipped (N, 2): whether rows, and columns, are in reverse; of
    RandomRotation, RandomTranslation and RandomZoom the matrices (N, 2, 3): where each pixel comes from.
    Of batch normalisation mean, var, x_hat, and of_batch: whether those are the batch's statistics or the running ones.
    params, grads, updated: the parameters before the step, the loss's derivatives by them, and the parameters after it.
    applied: the gradients as the optimizer took them, with regularizer and clipping; empty for a frozen layer.
    slots, slots_after: the optimizer's arrays, "w/m"; of Adam the means. state, state_after: running statistics.
    """

    key: str
    kind: str
    config: dict[str, Any]
    x: Values
    y: np.ndarray
    dy: np.ndarray | None = None
    dx: Values | None = None
    inputs: tuple[int, ...] = ()
    kept: Arrays = field(default_factory=dict)
    params: Arrays = field(default_factory=dict)
    grads: Arrays = field(default_factory=dict)
    applied: Arrays = field(default_factory=dict)
    updated: Arrays = field(default_factory=dict)
    slots: Arrays = field(default_factory=dict)
    slots_after: Arrays = field(default_factory=dict)
    state: Arrays = field(default_factory=dict)
    state_after: Arrays = field(default_factory=dict)

    def __repr__(self) -> str:
        """One line: the shapes, and the names of the parameters."""
        names = f", {', '.join(self.params)}" if self.params else ""
        return visible(f"LayerTrace({self.key!r}, {self.kind}: x {_shape(self.x)} -> y {_shape(self.y)}{names})")

    @property
    def weighted(self) -> bool:
        """Whether it is a sum of products with learned kernels, z, and its activation: convolutions and Dense."""
        return issubclass(layers.named(self.kind) or Layer, BiasedLayer)

    def option(self, name: str, what: str) -> Any:
        """The argument of a parameter, such as kernel_regularizer for w, as {"class_name", "config"}; None without."""
        prefix = {"w": "kernel", "b": "bias"}.get(name, name)
        if name == "w" and f"kernel_{what}" not in self.config:
            prefix = "depthwise"
        value = self.config.get(f"{prefix}_{what}")
        return value if value is None or isinstance(value, dict) else {"class_name": str(value), "config": {}}

    def made(self) -> Layer | None:
        """A new layer of this class and configuration, without weights; None for a class of the user's own.

        Initializers, regularizers and constraints are left out: they may be functions, of which only a name is here.
        """
        cls, left_out = layers.named(self.kind), ("_initializer", "_regularizer", "_constraint")
        config = {name: value for name, value in self.config.items() if not name.endswith(left_out)}
        return None if cls is None else cls.from_config(config)


@dataclass(repr=False)
class StepTrace:
    """One step. Layers by position or name: t.layers[0], t["conv2d_1"].

    y_true as the loss takes it. losses: of each sample. loss: their mean plus the regularizers' penalty, before the
    step; loss_after: the same batch again with the updated parameters (same dropout masks). optimizer: class, config,
    `iterations` before the step, the learning_rate that it used, and the weight decay of each parameter ("dense_1/w").
    seed: that of the step's random layers.
    fused: a cross-entropy and the softmax or sigmoid of the last layer were differentiated as one; then dy of the last
    layer is not the derivative by its output y but already dz, the one by the logits: (p - target) / N.
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
    fused: bool = False

    def __getitem__(self, key: str) -> LayerTrace:
        for layer in self.layers:
            if layer.key == key:
                return layer
        raise unknown_name("layer", key, [layer.key for layer in self.layers])

    @property
    def dx(self) -> np.ndarray | None:
        """The gradient with respect to x: what all layers that read it give back, added. None without backward pass."""
        total = None
        for layer in self.layers:
            parts = layer.dx if isinstance(layer.dx, list) else [layer.dx] * len(layer.inputs)
            for j, part in zip(layer.inputs, parts, strict=True):
                if j == -1 and part is not None:
                    total = part if total is None else total + part
        return total

    def __repr__(self) -> str:
        """A line for each layer; of more than 24 layers, the first and the last."""
        mode = "training" if self.training else "evaluation"
        title = f"Trace of {self.model_name}: {len(self.x)} sample{'s' * (len(self.x) != 1)}, {mode} mode"
        if self.loss is not None and self.loss_after is not None:
            title += f", loss {self.loss:.4g}, after the step {self.loss_after:.4g}"
        rows: list[tuple[str, ...]] = [("layer", "input -> output", "zeros in y", "rms of y", "rms of dx", "rms of dw")]
        rows += [_row(layer) for layer in self.layers]
        if len(rows) > MAX_ROWS + 1:
            half = MAX_ROWS // 2
            left_out = (f"… {len(rows) - 1 - 2 * half} more", *[""] * (len(rows[0]) - 1))
            rows = [*rows[: half + 1], left_out, *rows[-half:]]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        end = 't["NAME"].y, .dx, .grads["w"] … are the arrays; t.explain(name, what, index); t.to_html("step.html")'
        return visible("\n".join([title, *(f"  {line}" for line in lines), end]))


def _row(layer: LayerTrace) -> tuple[str, ...]:
    numbers = (layer.y, layer.dx, layer.grads.get("w"))
    zeros = f"{np.mean(layer.y == 0):.0%}" if layer.y.size else ""
    return f"{layer.key} ({layer.kind})", f"{_shape(layer.x)} -> {_shape(layer.y)}", zeros, *map(_rms, numbers)


def _shape(value: Any) -> str:
    return " and ".join(map(_shape, value)) if isinstance(value, list) else str(tuple(value.shape))


def _rms(value: Any) -> str:
    """Root mean square, "" where there is no number."""
    arrays = value if isinstance(value, list) else [value]
    if any(array is None or array.size == 0 for array in arrays):
        return ""
    with np.errstate(all="ignore"):
        squares = np.concatenate([np.square(array, dtype=np.float64).ravel() for array in arrays])
        return f"{np.sqrt(squares.mean()):.2g}"
