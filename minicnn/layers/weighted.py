"""What Dense and Conv2D share: a kernel, a bias, an activation, and the arguments that go with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minicnn import activations, constraints, initializers, kernels, regularizers
from minicnn.backend import Array, xp_of
from minicnn.errors import checked
from minicnn.layers.base import ActivatedLayer, Context, Shape, not_built


class WeightedLayer(ActivatedLayer):
    """A layer of parameters w (the kernel, outputs last) and b (one bias for each output), and an activation.

    activation: a name or a minicnn.activations.Function. use_bias: False leaves b out. The initializers draw the first
    values, the regularizers add to the loss, the constraints are applied after every step; names or objects.
    """

    def __init__(
        self,
        activation: Any,
        use_bias: bool,
        kernel_initializer: Any,
        bias_initializer: Any,
        kernel_regularizer: Any,
        bias_regularizer: Any,
        activity_regularizer: None,
        kernel_constraint: Any,
        bias_constraint: Any,
        **layer,
    ):
        super().__init__(**layer)
        self.activation: Any = activations.get(activation)
        self.use_bias = checked(self.name, "use_bias", use_bias, bool, False)
        self.kernel_initializer: Any = initializers.get(kernel_initializer) or initializers.GlorotUniform()
        self.bias_initializer: Any = initializers.get(bias_initializer) or initializers.GlorotUniform()
        fix = "use kernel_regularizer, a penalty on the weights."
        self.activity_regularizer = not_built(self, "activity_regularizer", activity_regularizer, (None,), fix)
        self.kernel_regularizer = regularizers.get(kernel_regularizer)
        self.bias_regularizer = regularizers.get(bias_regularizer)
        self.kernel_constraint = constraints.get(kernel_constraint)
        self.bias_constraint = constraints.get(bias_constraint)
        self.regularizers = {"w": self.kernel_regularizer, "b": self.bias_regularizer}
        self.constraints = {"w": self.kernel_constraint, "b": self.bias_constraint}

    @property
    def kernel(self) -> Array:
        """The kernel w, as Keras names it: the array itself."""
        return self.params["w"]

    @property
    def bias(self) -> Array | None:
        """The bias b; None without one."""
        return self.params.get("b")

    def with_bias(self, w: Shape) -> dict[str, Shape]:
        """The shapes of the parameters, where w has this one."""
        return {"w": w, "b": w[-1:]} if self.use_bias else {"w": w}

    def create(self, shape: tuple[int, ...], rng: np.random.Generator) -> None:
        """Draw w of `shape`, whose last axis is the outputs, and b."""
        self.params = {"w": self.kernel_initializer(shape, rng)}
        if self.use_bias:
            self.params["b"] = self.bias_initializer(shape[-1:], rng)

    def activated(self, product: Callable[[Array | None], Array], ctx: Context) -> Array:
        """y = activation(product(b)), where `product` is the layer's own sum, which adds the bias that it is given.

        On the CPU a bias is best added there, to numbers that are in the cache; on the GPU together with ReLU.
        """
        b = self.params.get("b")
        if b is None or self.activation is not activations.relu or xp_of(b) is np:
            return self.activate(product(b), ctx, overwrite=not ctx.need_backward)
        ctx.saved = kernels.bias_relu(product(None), b)
        return ctx.saved
