"""Activations as layers of their own. Kernels: `minicnn/kernels/activations.py` and `softmax.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from minicnn import activations, constraints, initializers, regularizers
from minicnn.activations import Function
from minicnn.backend import Array
from minicnn.errors import InputError
from minicnn.kernels import prelu_backward, prelu_forward
from minicnn.layers.base import Context, Layer, Shape, weight
from minicnn.layers.weighted import ActivatedLayer


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
    """Probabilities over an axis, the last one as a rule, or over several: (1, 2, 3) for one distribution an image.

    axis: of the batch's array, whose axis 0 is the samples. Raises InputError for that, and for one that is not there.
    """

    ranges: ClassVar[dict[str, Any]] = {"axis": ("axes", -1)}

    def __init__(self, axis: int | Sequence[int] = -1, **layer):
        super().__init__(**layer)
        self.axis = axis

    def output_shape(self, input_shape: Shape) -> Shape:
        axes = [self.axis] if isinstance(self.axis, int) else self.axis
        if 0 in activations.axes_of(self.name, axes, 1 + len(input_shape)):
            raise InputError(
                self.name, "the samples of a batch do not depend on each other.",
                f"axes from 1 to {len(input_shape)}, or -1.", f"axis={self.axis!r}.",
                "leave it out for the last axis; activations.softmax(array, axis=0) takes any.",
            )  # fmt: skip
        return input_shape

    @property
    def activation(self) -> Function:  # type: ignore[override]
        return activations.softmax.variant(self.axis)


class PReLU(Layer):
    """x where x > 0, else alpha * x, for slopes alpha that are learned: one for each number of a sample.

    shared_axes: the axes along which all numbers have one slope, (1, 2) for one for each channel of images (the batch
    is axis 0). Kernel: `minicnn.kernels.prelu_forward`; reference implementation: `reference.prelu_forward`.
    K. He et al., "Delving Deep into Rectifiers" (2015), section 2.1, where alpha begins at 0.25.
    """

    ranges: ClassVar[dict[str, Any]] = {"shared_axes": (["axes"], (1, 2))}
    alpha = weight("alpha")

    def __init__(
        self,
        alpha_initializer: Any = "Zeros",
        alpha_regularizer: Any = None,
        alpha_constraint: Any = None,
        shared_axes: int | Sequence[int] | None = None,
        **layer,
    ):
        super().__init__(**layer)
        self.alpha_initializer: Any = initializers.get(alpha_initializer) or initializers.GlorotUniform()
        self.alpha_regularizer = regularizers.get(alpha_regularizer)
        self.alpha_constraint = constraints.get(alpha_constraint)
        self.shared_axes = shared_axes
        self.regularizers = {"alpha": self.alpha_regularizer}
        self.constraints = {"alpha": self.alpha_constraint}

    def array_shapes(self, input_shape: Shape) -> dict[str, Shape]:
        axes: Any = self.shared_axes
        shared = [] if axes is None else [axes] if isinstance(axes, int) else list(axes)
        for axis in shared:
            if not 1 <= axis <= len(input_shape):
                raise InputError(
                    self.name, "an axis of shared_axes is not there.", f"axes from 1 to {len(input_shape)}.",
                    f"shared_axes={axes}.", "axis 0 is the batch's; (1, 2) are the height and width of images.",
                )  # fmt: skip
        return {"alpha": tuple(1 if axis in shared else size for axis, size in enumerate(input_shape, start=1))}

    def build(self, input_shape: Shape, rng: np.random.Generator) -> None:
        self.params = {"alpha": self.alpha_initializer(self.array_shapes(input_shape)["alpha"], rng)}

    def output_shape(self, input_shape: Shape) -> Shape:
        self.array_shapes(input_shape)  # only checks
        return input_shape

    def forward(self, x: Array, ctx: Context) -> Array:
        ctx.x = x
        return prelu_forward(x, self.params["alpha"])

    def backward(self, dy: Array, ctx: Context) -> Array | None:
        dx, ctx.grads["alpha"] = prelu_backward(dy, ctx.x, self.params["alpha"])
        return dx
