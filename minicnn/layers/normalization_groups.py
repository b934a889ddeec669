"""Normalisations in which no sample depends on another: LayerNormalization and GroupNormalization.

Kernel: `minicnn/kernels/norm_groups.py`; reference implementation: `reference.groupnorm_forward` and `_backward`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from minicnn import constraints, initializers, regularizers
from minicnn.backend import Array, xp_of
from minicnn.errors import InputError, checked, checked_number
from minicnn.kernels import groupnorm_backward, groupnorm_forward
from minicnn.layers.base import Context, Layer, Shape, weight
from minicnn.layers.checks import count


class _SampleNormalization(Layer):
    """What both share: gamma where `scale`, beta where `center`, and two kernels on x, seen as (rows, …, channels)."""

    gamma, beta = weight("gamma"), weight("beta")
    center: bool
    scale: bool
    epsilon: float

    def learned(
        self, epsilon: Any, center: Any, scale: Any, beta_initializer: Any, gamma_initializer: Any,
        beta_regularizer: Any, gamma_regularizer: Any, beta_constraint: Any, gamma_constraint: Any,
    ) -> None:  # fmt: skip
        """Take these arguments of the constructor."""
        self.epsilon = checked_number(self.name, "epsilon", epsilon, "of 0 or more", 1e-3)
        self.center = checked(self.name, "center", center, bool, True)
        self.scale = checked(self.name, "scale", scale, bool, True)
        self.beta_initializer: Any = initializers.get(beta_initializer) or initializers.Zeros()
        self.gamma_initializer: Any = initializers.get(gamma_initializer) or initializers.Ones()
        self.beta_regularizer, self.gamma_regularizer = map(regularizers.get, (beta_regularizer, gamma_regularizer))
        self.beta_constraint, self.gamma_constraint = map(constraints.get, (beta_constraint, gamma_constraint))
        self.regularizers = {"gamma": self.gamma_regularizer, "beta": self.beta_regularizer}
        self.constraints = {"gamma": self.gamma_constraint, "beta": self.beta_constraint}

    def seen_as(self, shape: Shape) -> tuple[Shape, int]:
        """(the shape, with the batch axis, in which the kernel takes samples of `shape`; the number of groups)."""
        raise NotImplementedError

    def parameter_shape(self, shape: Shape) -> Shape:
        """The shape of gamma and beta for samples of `shape`."""
        return shape[-1:]

    def build(self, input_shape: Shape, rng: np.random.Generator) -> None:
        made = {"gamma": self.gamma_initializer, "beta": self.beta_initializer}
        self.params = {name: made[name](shape, rng) for name, shape in self.array_shapes(input_shape).items()}

    def array_shapes(self, input_shape: Shape) -> dict[str, Shape]:
        learned = [name for name, used in (("gamma", self.scale), ("beta", self.center)) if used]
        return dict.fromkeys(learned, self.parameter_shape(input_shape))

    def output_shape(self, input_shape: Shape) -> Shape:
        self.seen_as(input_shape)  # only checks
        return input_shape

    def forward(self, x: Array, ctx: Context) -> Array:
        ctx.x = x
        shape, groups = self.seen_as(x.shape[1:])
        xp, c = xp_of(x), shape[-1]
        gamma, beta = self.params.get("gamma"), self.params.get("beta")
        gamma = xp.ones(c, x.dtype) if gamma is None else gamma.reshape(c)
        beta = xp.zeros(c, x.dtype) if beta is None else beta.reshape(c)
        rows = x.size // math.prod(shape[1:])
        return groupnorm_forward(x.reshape(rows, *shape[1:]), gamma, beta, groups, self.epsilon).reshape(x.shape)

    def backward(self, dy: Array, ctx: Context) -> Array | None:
        x = ctx.x
        shape, groups = self.seen_as(x.shape[1:])
        gamma = self.params.get("gamma")
        gamma = xp_of(x).ones(shape[-1], x.dtype) if gamma is None else gamma.reshape(shape[-1])
        shape = (x.size // math.prod(shape[1:]), *shape[1:])
        dx, *found = groupnorm_backward(
            dy.reshape(shape), x.reshape(shape), gamma, groups, self.epsilon, ctx.need_dx
        )
        named = zip(("gamma", "beta"), found, strict=True)
        ctx.grads = {name: d.reshape(self.params[name].shape) for name, d in named if name in self.params}
        return None if dx is None else dx.reshape(x.shape)


class LayerNormalization(_SampleNormalization):
    """Mean 0 and variance 1 along the last axes of each sample, then the learned gamma and beta (Ba et al. 2016).

    axis: -1, for each position by itself over its channels; or several, the last ones: [1, 2, 3] is the whole image.
    gamma and beta have the sizes of these axes. Raises InputError for axes that are not the last ones.
    """

    def __init__(
        self,
        axis: int | Sequence[int] = -1,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        beta_initializer: Any = "zeros",
        gamma_initializer: Any = "ones",
        beta_regularizer: Any = None,
        gamma_regularizer: Any = None,
        beta_constraint: Any = None,
        gamma_constraint: Any = None,
        **layer,
    ):
        super().__init__(**layer)
        self.axis = checked(self.name, "axis", axis, "axes", -1)
        self.learned(epsilon, center, scale, beta_initializer, gamma_initializer,
                     beta_regularizer, gamma_regularizer, beta_constraint, gamma_constraint)  # fmt: skip

    def normalized(self, shape: Shape) -> int:
        """How many of the last axes are normalized over, for samples of `shape`."""
        axes = self.axis if isinstance(self.axis, (list, tuple)) else [self.axis]
        rank = len(shape) + 1
        last = list(range(rank - len(axes), rank))
        if len(axes) >= rank or sorted(axis + rank if axis < 0 else axis for axis in axes) != last:
            raise InputError(
                self.name, "axis does not fit.", f"the last axes of the samples {shape}, the batch's being 0.",
                f"axis={self.axis!r}.", "leave it out for the channels; [1, 2, 3] are all axes of images.",
            )  # fmt: skip
        return len(axes)

    def parameter_shape(self, shape: Shape) -> Shape:
        return shape[len(shape) - self.normalized(shape) :]

    def seen_as(self, shape: Shape) -> tuple[Shape, int]:
        return (-1, math.prod(self.parameter_shape(shape))), 1


class GroupNormalization(_SampleNormalization):
    """Mean 0 and variance 1 over groups of channels of each sample, then gamma and beta (C,) (Wu, He 2018).

    groups: into how many the channels are cut; -1: as many as there are channels (instance normalisation). axis: that
    of the channels, the last one. Raises InputError where the groups do not divide the channels.
    """

    def __init__(
        self,
        groups: int = 32,
        axis: int = -1,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        beta_initializer: Any = "zeros",
        gamma_initializer: Any = "ones",
        beta_regularizer: Any = None,
        gamma_regularizer: Any = None,
        beta_constraint: Any = None,
        gamma_constraint: Any = None,
        **layer,
    ):
        super().__init__(**layer)
        self.groups = -1 if type(groups) is int and groups == -1 else count(self, "groups", groups)
        self.axis = checked(self.name, "axis", axis, int, -1)
        self.learned(epsilon, center, scale, beta_initializer, gamma_initializer,
                     beta_regularizer, gamma_regularizer, beta_constraint, gamma_constraint)  # fmt: skip

    def seen_as(self, shape: Shape) -> tuple[Shape, int]:
        if not shape or self.axis not in (-1, len(shape)):
            raise InputError(
                self.name, "the channels are the last axis.", f"axis=-1, or {len(shape)}, which is the same.",
                f"axis={self.axis!r} of samples of shape {shape}.",
                "leave it out; x.transpose(0, 2, 3, 1) brings the channels to the end.",
            )  # fmt: skip
        groups = shape[-1] if self.groups == -1 else self.groups
        if shape[-1] % groups:
            raise InputError(
                self.name, "groups does not fit the samples.", f"a divisor of the {shape[-1]} channels of {shape}.",
                f"groups={groups}.", f"for example groups={math.gcd(groups, shape[-1])}.",
            )  # fmt: skip
        return (-1, *shape), groups
