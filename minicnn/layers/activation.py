"""Activations as layers of their own. Kernels: `minicnn/kernels/activations.py` and `softmax.py`."""

from __future__ import annotations

from typing import Any, ClassVar

from minicnn import activations
from minicnn.activations import Function
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
    """max(x, 0); with `negative_slope`, that times x below 0; with `max_value`, never more than it.

    threshold: where it begins; x below it becomes negative_slope * (x - threshold).
    """

    ranges: ClassVar[dict[str, Any]] = {
        "max_value": (["of 0 or more"], 6),
        "negative_slope": ("of 0 or more", 0.1),
        "threshold": ("of 0 or more", 1),
    }

    def __init__(
        self, max_value: float | None = None, negative_slope: float = 0.0, threshold: float = 0.0, **layer
    ):
        super().__init__(**layer)
        self.max_value, self.negative_slope, self.threshold = max_value, negative_slope, threshold

    @property
    def activation(self) -> Function:  # type: ignore[override]
        return activations.relu.variant(self.negative_slope, self.max_value, self.threshold)


class LeakyReLU(_Elementwise):
    """x where x > 0, else negative_slope * x."""

    ranges: ClassVar[dict[str, Any]] = {"negative_slope": ("of 0 or more", 0.3)}

    def __init__(self, negative_slope: float = 0.3, **layer):
        super().__init__(**layer)
        self.negative_slope = negative_slope

    @property
    def activation(self) -> Function:  # type: ignore[override]
        return activations.relu.variant(self.negative_slope)


class ELU(_Elementwise):
    """x where x > 0, else alpha * (exp(x) - 1)."""

    ranges: ClassVar[dict[str, Any]] = {"alpha": ("that is finite", 1.0)}

    def __init__(self, alpha: float = 1.0, **layer):
        super().__init__(**layer)
        self.alpha = alpha

    @property
    def activation(self) -> Function:  # type: ignore[override]
        return activations.elu.variant(self.alpha)


class Softmax(_Elementwise):
    """Probabilities over an axis, the last one as a rule. axis: of the batch's array, whose axis 0 is the samples."""

    ranges: ClassVar[dict[str, Any]] = {"axis": (int, -1)}

    def __init__(self, axis: int = -1, **layer):
        super().__init__(**layer)
        self.axis = axis

    @property
    def activation(self) -> Function:  # type: ignore[override]
        return activations.softmax.variant(self.axis)
