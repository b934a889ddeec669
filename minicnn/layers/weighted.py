"""What Dense and the convolutions share: an activation, kernels, a bias, and the arguments that go with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minicnn import activations, constraints, initializers, kernels, regularizers
from minicnn.activations import Function
from minicnn.backend import Array, xp_of
from minicnn.errors import NotBuiltError, checked
from minicnn.layers.base import Context, Layer, Shape, not_built


class ActivatedLayer(Layer):
    """A layer whose last act is an activation: `self.activation`, a minicnn.activations.Function."""

    activation: Function

    def __setattr__(self, name: str, value: Any) -> None:
        """An activation may also be given by name, or as None, after construction."""
        super().__setattr__(name, activations.get(value) if name == "activation" else value)

    def activate(self, z: Array, ctx: Context, overwrite: bool = False) -> Array:
        """y = activation(z). Saves for the backward pass z or y, whichever dz is made of, or the slope itself.

        overwrite: y may take the place of z in memory.
        """
        if ctx.trace:
            ctx.z, overwrite = z, False
        if ctx.need_backward and self.activation.with_slope:
            y, ctx.slope = self.activation.with_slope(z)
            return y
        y = self.activation.in_place(z) if overwrite and self.activation.in_place else self.activation.forward(z)
        ctx.saved = z if self.activation.keeps == "x" else y
        if self.activation.name in ("softmax", "sigmoid"):
            # The cross-entropy that belongs to it takes these, and is exact where y is rounded to 0 or 1.
            ctx.logits, ctx.from_activation = z, self.activation.name
        return y

    def deactivate(self, dy: Array, ctx: Context) -> Array:
        """dz from dy. A loss that took the logits has left dz in the context already."""
        dz, slope = vars(ctx).get("dlogits"), vars(ctx).get("slope")
        if dz is None:
            dz = self.activation.backward(dy, ctx.saved) if slope is None else dy * slope
        if ctx.trace:
            ctx.dz = dz
        return dz


class BiasedLayer(ActivatedLayer):
    """A layer of kernels of any names, b (one bias for each output), and an activation.

    activation: a name or a minicnn.activations.Function. use_bias: False leaves b out. The initializers draw the first
    values, the regularizers add to the loss, the constraints are applied after every step; names or objects. A subclass
    says by `learn` how its kernels begin, and by `array_shapes` which shapes they have.
    """

    def __init__(
        self,
        activation: Any,
        use_bias: bool,
        bias_initializer: Any,
        bias_regularizer: Any,
        activity_regularizer: None,
        bias_constraint: Any,
        **layer,
    ):
        super().__init__(**layer)
        self.initializers: dict[str, initializers.Initializer] = {}
        self.activation: Any = activations.get(activation)
        self.use_bias = checked(self.name, "use_bias", use_bias, bool, False)
        fix = "use kernel_regularizer, a penalty on the weights."
        self.activity_regularizer = not_built(self, "activity_regularizer", activity_regularizer, (None,), fix)
        self.learn("b", "bias", bias_initializer, bias_regularizer, bias_constraint)

    def learn(self, name: str, argument: str, initializer: Any, regularizer: Any, constraint: Any) -> None:
        """Take the three arguments of the parameter `name`, which are called <argument>_initializer and so on."""
        self.initializers[name] = initializers.get(initializer) or initializers.GlorotUniform()
        self.regularizers[name] = regularizers.get(regularizer)
        self.constraints[name] = constraints.get(constraint)
        setattr(self, f"{argument}_initializer", self.initializers[name])
        setattr(self, f"{argument}_regularizer", self.regularizers[name])
        setattr(self, f"{argument}_constraint", self.constraints[name])

    def build(self, input_shape: Shape, rng: np.random.Generator) -> None:
        shapes = self.array_shapes(input_shape)
        self.params = {name: self.initializers[name](shape, rng) for name, shape in shapes.items()}

    @property
    def bias(self) -> Array | None:
        """The bias b; None without one."""
        return self.params.get("b")

    def with_bias(self, outputs: int, **kernels: Shape) -> dict[str, Shape]:
        """The shapes of the parameters: those of the kernels, and of one bias for each output."""
        return {**kernels, "b": (outputs,)} if self.use_bias else kernels

    def activated(self, product: Callable[[Array | None], Array], ctx: Context) -> Array:
        """y = activation(product(b)), where `product` is the layer's own sum, which adds the bias that it is given.

        On the CPU a bias is best added there, to numbers that are in the cache; on the GPU together with ReLU.
        """
        b = self.params.get("b")
        if b is None or self.activation is not activations.relu or xp_of(b) is np:
            # Nobody else reads the sum: ReLU, whose derivative is had from y, takes its place in training, too.
            return self.activate(product(b), ctx, overwrite=not ctx.need_backward or self.activation.keeps == "y")
        ctx.saved = kernels.bias_relu(product(None), b)
        return ctx.saved

    def graded(self, ctx: Context, b: Array, **kernels: Array) -> None:
        """Write the gradients of the parameters into the context: that of the bias where there is one."""
        ctx.grads = {**kernels, "b": b} if self.use_bias else kernels


class WeightedLayer(BiasedLayer):
    """A layer of a single kernel w, whose arguments are kernel_initializer, kernel_regularizer, kernel_constraint."""

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
        super().__init__(
            activation, use_bias, bias_initializer, bias_regularizer, activity_regularizer, bias_constraint, **layer
        )
        self.learn("w", "kernel", kernel_initializer, kernel_regularizer, kernel_constraint)

    @property
    def kernel(self) -> Array:
        """The kernel w, as Keras names it: the array itself. Raises NotBuiltError where there is none yet."""
        if not self.built:
            raise NotBuiltError(self.name, "kernel")
        return self.params["w"]
