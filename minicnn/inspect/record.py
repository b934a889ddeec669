"""What a trace holds: the numbers of one training step, layer by layer. `minicnn/inspect/trace.py` makes it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from minicnn import layers
from minicnn.errors import unknown_name
from minicnn.layers.base import Layer

Arrays = dict[str, np.ndarray]


@dataclass
class LayerTrace:
    """What one layer read and wrote. Arrays of samples have the batch axis first; without y there is no way back.

    key: its name in the model ("conv2d_1", "vgg16/block1_conv1"). kind: its class. config: its constructor's arguments.
    x, y: input and output. dy, dx: the loss's derivatives by them (for dy of the last layer see Trace.fused).
    kept: what is between x and y. Of an activation z (its input) and dz; mask where ReLU's derivative is 1; max, exp,
    sum of a softmax. Of max pooling winner, kh * KW + kw in its window. Of dropout in training the mask, True: kept.
    Of batch normalisation mean, var, x_hat, and of_batch: whether those are the batch's statistics or the running ones.
    params, grads, updated: the parameters before the step, the loss's derivatives by them, and the parameters after it.
    applied: the gradients as the optimizer took them, with regularizer and clipping; empty for a frozen layer.
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

    def made(self) -> Layer | None:
        """A new layer of this class and configuration, without weights; None for a class of the user's own.

        Initializers, regularizers and constraints are left out: they may be functions, of which only a name is here.
        """
        cls, left_out = layers.named(self.kind), ("_initializer", "_regularizer", "_constraint")
        config = {name: value for name, value in self.config.items() if not name.endswith(left_out)}
        return None if cls is None else cls.from_config(config)


@dataclass
class StepTrace:
    """One step. Layers by position or name: t.layers[0], t["conv2d_1"].

    y_true as the loss takes it. losses: of each sample. loss: their mean plus the regularizers' penalty, before the
    step; loss_after: the same batch again with the updated parameters (same dropout masks). optimizer: class, config,
    `iterations` before the step and the learning_rate that it used. seed: that of the step's random layers.
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
