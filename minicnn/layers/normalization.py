"""Batch normalisation as a layer. Kernels: `minicnn/kernels/norm.py`, and in loops `minicnn/kernels/reference.py`."""

from __future__ import annotations

from typing import Any

import numpy as np

from minicnn import constraints, initializers, regularizers
from minicnn.backend import Array
from minicnn.errors import InputError, checked, checked_number
from minicnn.kernels import (
    batchnorm_backward,
    batchnorm_eval_backward,
    batchnorm_forward,
    batchnorm_statistics,
)
from minicnn.kernels.norm import batchnorm_scale_and_shift
from minicnn.layers.base import Context, Layer, Shape, not_built, weight


class BatchNormalization(Layer):
    """Gives each channel mean 0 and variance 1 over the batch, then the learned scale gamma and shift beta.

    (N, C), (N, T, C) or (N, H, W, C), of the same shape. Parameters: gamma (C,), beta (C,). State: moving_mean and
    moving_variance (C,), running means `m = momentum * m + (1 - momentum) * batch`, which take the place of the
    batch's statistics in evaluation, and in training where `trainable` is False. The variance is the biased one
    (division by the number of rows), also in the running mean, as in Keras. axis: that of the channels, the last one.
    synchronized: changes nothing, since the shards of a batch always share their statistics.
    """

    gamma, beta = weight("gamma"), weight("beta")
    moving_mean, moving_variance = weight("moving_mean"), weight("moving_variance")

    def __init__(
        self,
        axis: int = -1,
        momentum: float = 0.99,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        beta_initializer: Any = "zeros",
        gamma_initializer: Any = "ones",
        moving_mean_initializer: Any = "zeros",
        moving_variance_initializer: Any = "ones",
        beta_regularizer: Any = None,
        gamma_regularizer: Any = None,
        beta_constraint: Any = None,
        gamma_constraint: Any = None,
        renorm: bool = False,
        renorm_clipping: None = None,
        renorm_momentum: float = 0.99,
        synchronized: bool = False,
        **layer,
    ):
        super().__init__(**layer)
        self.axis = checked(self.name, "axis", axis, int, -1)
        self.momentum = checked_number(self.name, "momentum", momentum, "from 0 to 1", 0.99)
        self.epsilon = checked_number(self.name, "epsilon", epsilon, "of 0 or more", 1e-3)
        self.center = checked(self.name, "center", center, bool, True)
        self.scale = checked(self.name, "scale", scale, bool, True)
        self.beta_initializer: Any = initializers.get(beta_initializer) or initializers.Zeros()
        self.gamma_initializer: Any = initializers.get(gamma_initializer) or initializers.Ones()
        self.moving_mean_initializer: Any = initializers.get(moving_mean_initializer) or initializers.Zeros()
        self.moving_variance_initializer: Any = initializers.get(moving_variance_initializer) or initializers.Ones()
        self.beta_regularizer, self.gamma_regularizer = map(regularizers.get, (beta_regularizer, gamma_regularizer))
        self.beta_constraint, self.gamma_constraint = map(constraints.get, (beta_constraint, gamma_constraint))
        self.regularizers = {"gamma": self.gamma_regularizer, "beta": self.beta_regularizer}
        self.constraints = {"gamma": self.gamma_constraint, "beta": self.beta_constraint}
        self.renorm = not_built(self, "renorm", renorm, (False,))
        self.renorm_clipping = not_built(self, "renorm_clipping", renorm_clipping, (None,))
        self.renorm_momentum = checked_number(self.name, "renorm_momentum", renorm_momentum, "from 0 to 1", 0.99)
        self.synchronized = checked(self.name, "synchronized", synchronized, bool, True)

    def build(self, input_shape: Shape, rng: np.random.Generator) -> None:
        c = (input_shape[-1],)
        if self.scale:
            self.params["gamma"] = self.gamma_initializer(c, rng)
        if self.center:
            self.params["beta"] = self.beta_initializer(c, rng)
        self.state["moving_mean"] = self.moving_mean_initializer(c, rng)
        self.state["moving_variance"] = self.moving_variance_initializer(c, rng)

    def array_shapes(self, input_shape: Shape) -> dict[str, Shape]:
        learned = [name for name, used in (("gamma", self.scale), ("beta", self.center)) if used]
        return dict.fromkeys([*learned, "moving_mean", "moving_variance"], input_shape[-1:])

    def output_shape(self, input_shape: Shape) -> Shape:
        if len(input_shape) not in (1, 2, 3):
            raise InputError(
                self.name,
                "BatchNormalization needs features, sequences or images.",
                "samples of shape (features,), (steps, channels) or (height, width, channels).",
                f"samples of shape {input_shape}.",
                "put Flatten before it, or give images as (N, height, width, channels).",
            )
        if self.axis not in (-1, len(input_shape)):
            raise InputError(
                self.name, "the channels are the last axis.", f"axis=-1, or {len(input_shape)}, which is the same.",
                f"axis={self.axis!r}.", "leave it out; x.transpose(0, 2, 3, 1) brings the channels to the end.",
            )  # fmt: skip
        return input_shape

    def forward(self, x: Array, ctx: Context) -> Array:
        self.measure(x, ctx)
        gamma, beta = self.gamma_beta()
        out = x if ctx.overwrite else None
        return batchnorm_forward(x, gamma, beta, ctx.mean, ctx.var, self.epsilon, out)

    def measure(self, x: Array, ctx: Context, moments: tuple[Array, Array] | None = None) -> None:
        """Write into ctx what normalises x, and what the running means will be. moments: of x, where they are known."""
        ctx.x, ctx.of_batch = x, ctx.training and self.trainable
        ctx.mean, ctx.var = self.state["moving_mean"], self.state["moving_variance"]
        if ctx.of_batch:
            before = {**self.state, **ctx.state}  # ctx.state: where the layer was used in this pass already
            moving = before["moving_mean"], before["moving_variance"]
            ctx.mean, ctx.var, *moved = batchnorm_statistics(x, *moving, self.momentum, ctx.all_reduce, moments)
            ctx.state["moving_mean"], ctx.state["moving_variance"] = moved

    def backward(self, dy: Array, ctx: Context) -> Array | None:
        gamma, _ = self.gamma_beta()
        arguments = (dy, ctx.x, gamma, ctx.mean, ctx.var, self.epsilon)
        if ctx.of_batch:
            dx, dgamma, dbeta = batchnorm_backward(*arguments, ctx.all_reduce, ctx.need_dx)
        else:
            dx, dgamma, dbeta = batchnorm_eval_backward(*arguments, ctx.need_dx)
        self.keep_gradients(dgamma, dbeta, ctx)
        return dx

    def keep_gradients(self, dgamma: Array, dbeta: Array, ctx: Context) -> None:
        """Write into ctx those that the layer has parameters for."""
        ctx.grads = {k: v for k, v in (("gamma", dgamma), ("beta", dbeta)) if k in self.params}

    def scale_and_shift(self) -> tuple[Array, Array]:
        """(scale, shift), both (C,), of evaluation mode: y = x * scale + shift."""
        gamma, beta = self.gamma_beta()
        mean, var = self.state["moving_mean"], self.state["moving_variance"]
        return batchnorm_scale_and_shift(gamma, beta, mean, var, self.epsilon)

    def gamma_beta(self) -> tuple[Array, Array]:
        """(gamma, beta); ones and zeros for those that the layer does without."""
        mean = self.state["moving_mean"]
        gamma, beta = self.params.get("gamma"), self.params.get("beta")
        return mean * 0 + 1 if gamma is None else gamma, mean * 0 if beta is None else beta
