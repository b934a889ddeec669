"""What weights must fulfil after every step: callables `w -> new w` of the same dtype, or `w` itself as it was."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.lib.array_utils import normalize_axis_tuple

from minicnn.arguments import in_words
from minicnn.backend import Array, xp_of
from minicnn.errors import InputError
from minicnn.kernels import cuda
from minicnn.registry import Configured, names_of, resolve

EPSILON = 1e-7  # Keras' guard against a division by 0


class Constraint(Configured):
    """Base class: implement `__call__(w)`."""

    def __call__(self, w: Array) -> Array:
        raise NotImplementedError(f"{type(self).__name__} must implement __call__(w)")


@in_words
def constrain(w: Array, constraint: Callable[[Array], Array]) -> None:
    """Change w itself to what the constraint makes of it."""
    if type(constraint) is MaxNorm and w.flags.c_contiguous and constraint.has_kernel(w):
        cuda.max_norm(w, constraint.max_value, EPSILON, out=w)
        return
    new = constraint(w)
    if new is not w:
        w[...] = new


class MaxNorm(Constraint):
    """Weight vectors longer than max_value are shortened to it.

    axis: the axes along one weight vector. 0 suits a dense kernel (in, out): one vector for each output unit;
    (0, 1, 2) a convolution kernel (KH, KW, C_in, C_out): one vector for each filter.
    Srivastava et al. 2014, section 5.1. Where none is too long, `w` itself comes back.
    """

    ranges: ClassVar[dict[str, Any]] = {"max_value": ("of 0 or more", 2.0), "axis": ("axes", 0)}

    def __init__(self, max_value: float = 2, axis: int | Sequence[int] = 0):
        self.max_value, self.axis = max_value, axis

    def has_kernel(self, w: Array) -> bool:
        """Whether `cuda.max_norm` computes the same: on the GPU, along all axes but the last."""
        return cuda.serves(w) and set(_axes(w, self.axis)) == set(range(w.ndim - 1))

    def __call__(self, w: Array) -> Array:
        if self.has_kernel(w):
            return cuda.max_norm(w, self.max_value, EPSILON)
        norms = _norms(w, self.axis)
        if xp_of(w) is np and not (norms > self.max_value).any():  # a GPU would have to be waited for
            return w
        return w * (norms.clip(0, self.max_value) / (EPSILON + norms))


class NonNeg(Constraint):
    """Negative weights become 0."""

    def __call__(self, w: Array) -> Array:
        return xp_of(w).maximum(w, 0)


class MinMaxNorm(Constraint):
    """Weight vectors shorter than min_value or longer than max_value are brought nearer to it.

    rate: how much nearer, 1 all the way. axis: the axes along one weight vector, as in MaxNorm.
    """

    ranges: ClassVar[dict[str, Any]] = {
        "min_value": ("of 0 or more", 0.0),
        "max_value": ("of 0 or more", 1.0),
        "rate": ("from 0 to 1", 1.0),
        "axis": ("axes", 0),
    }

    def __init__(
        self, min_value: float = 0.0, max_value: float = 1.0, rate: float = 1.0, axis: int | Sequence[int] = 0
    ):
        self.min_value, self.max_value, self.rate, self.axis = min_value, max_value, rate, axis

    def __call__(self, w: Array) -> Array:
        norms = _norms(w, self.axis)
        wanted = self.rate * norms.clip(self.min_value, self.max_value) + (1 - self.rate) * norms
        return w * (wanted / (EPSILON + norms))


class UnitNorm(Constraint):
    """Every weight vector gets length 1. axis: the axes along one weight vector, as in MaxNorm."""

    ranges: ClassVar[dict[str, Any]] = {"axis": ("axes", 0)}

    def __init__(self, axis: int | Sequence[int] = 0):
        self.axis = axis

    def __call__(self, w: Array) -> Array:
        return w / (EPSILON + _norms(w, self.axis))


def _axes(w: Array, axis: int | Sequence[int]) -> tuple[int, ...]:
    """The axes, counted from the first. Raises InputError where w has no such."""
    try:
        return normalize_axis_tuple(axis, w.ndim)
    except ValueError:
        raise InputError(
            "constraint", "an axis is not there.", f"axes of weights of shape {w.shape}.", f"axis={axis!r}.",
            "for a dense kernel axis=0, for a convolution kernel axis=(0, 1, 2).",
        ) from None  # fmt: skip


def _norms(w: Array, axis: int | Sequence[int]) -> Array:
    """The lengths of the vectors along the axes, which stay with length 1."""
    axes = _axes(w, axis)
    if xp_of(w) is not np:
        return xp_of(w).sqrt((w * w).sum(axis=axes, keepdims=True))
    names = "abcdefgh"[: w.ndim]
    kept = "".join(name for i, name in enumerate(names) if i not in axes)
    squares = np.einsum(f"{names},{names}->{kept}", w, w)  # four times as fast: no array of all squares is made
    return np.sqrt(np.expand_dims(squares, axes))


max_norm = maxnorm = MaxNorm
min_max_norm = MinMaxNorm
non_neg = NonNeg
unit_norm = UnitNorm

_KNOWN = names_of(MaxNorm, MinMaxNorm, NonNeg, UnitNorm, maxnorm=MaxNorm, nonneg=NonNeg, unitnorm=UnitNorm)


def get(identifier: Any) -> Callable[[Array], Array] | None:
    """The constraint for a name ("max_norm", "MaxNorm"), config dict, class, instance or function."""
    return resolve("constraint", identifier, _KNOWN, Constraint)
