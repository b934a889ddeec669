"""Activations as layers of their own. Kernels: `minicnn/kernels/activations.py` and `softmax.py`."""

from __future__ import annotations

from typing import Any

from minicnn import activations, kernels
from minicnn.backend import Array
from minicnn.layers.base import ActivatedLayer, Context


class _Elementwise(ActivatedLayer):
    def forward(self, x: Array, ctx: Context) -> Array:
        return self.activate(x, ctx, ctx.overwrite)

    def backward(self, dy: Array, ctx: Context) -> Array | None:
        return self.deactivate(dy, ctx)


class Activation(_Elementwise):
    """y = activation(x), for a name ("relu", "softmax", …) or a minicnn.activations.Function. Any shape."""

    def __init__(self, activation: Any, **layer):
        super().__init__(**layer)
        self.activation = activations.get(activation)


class ReLU(_Elementwise):
    """max(x, 0); with `negative_slope`, that times x below 0; with `max_value`, never more than it."""

    def __init__(self, max_value: float | None = None, negative_slope: float = 0.0, **layer):
        super().__init__(**layer)
        self.max_value, self.negative_slope = max_value, negative_slope
        self.activation = _relu(max_value, negative_slope)


class LeakyReLU(_Elementwise):
    """x where x > 0, else negative_slope * x."""

    def __init__(self, negative_slope: float = 0.3, **layer):
        super().__init__(**layer)
        self.negative_slope = negative_slope
        self.activation = _relu(None, negative_slope)


class ELU(_Elementwise):
    """x where x > 0, else alpha * (exp(x) - 1)."""

    def __init__(self, alpha: float = 1.0, **layer):
        super().__init__(**layer)
        self.alpha = alpha
        self.activation = activations.Function(
            "elu", lambda x: kernels.elu_forward(x, alpha), lambda dy, y: kernels.elu_backward(dy, y, alpha)
        )


class Softmax(_Elementwise):
    """Probabilities over the last axis."""

    def __init__(self, **layer):
        super().__init__(**layer)
        self.activation = activations.softmax


def _relu(max_value: float | None, slope: float) -> activations.Function:
    """ReLU with its two options: the kernel's result cut off at max_value, beyond which the derivative is 0."""
    if max_value is None and slope == 0:
        return activations.relu

    def forward(x: Array) -> Array:
        y = kernels.leaky_relu_forward(x, slope)
        return y if max_value is None else y.clip(max=max_value)

    def backward(dy: Array, y: Array) -> Array:
        dx = kernels.leaky_relu_backward(dy, y, slope)
        return dx if max_value is None else dx * (y < max_value)

    return activations.Function("relu", forward, backward)
