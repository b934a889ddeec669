"""The activations by name, as layers take them: `Dense(10, activation="relu")` or `activation=activations.relu`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from minicnn import kernels
from minicnn.arguments import in_words
from minicnn.backend import Array, xp_of
from minicnn.errors import InputError, checked, unknown_name


@in_words
@dataclass(frozen=True)
class Function:
    """An activation: y = forward(x), and dx = backward(dy, kept), where `keeps` says what is kept: "x" or "y".

    in_place: the same as forward, but the result takes the place of x; None where there is no such way.
    with_slope: (y, dy/dx) of x at once, where that is cheaper; a layer then saves dy/dx, and backward is one product.
    options: makes the same function with Keras' options. Calling it applies it: `relu(x)`, `relu(x, max_value=6)`.
    Write your own with the first four fields and pass it as `activation=`.
    """

    name: str
    forward: Callable[[Array], Array]
    backward: Callable[[Array, Array], Array]
    keeps: str = "y"
    in_place: Callable[[Array], Array] | None = None
    with_slope: Callable[[Array], tuple[Array, Array]] | None = None
    options: Callable[..., Function] | None = None

    @in_words
    def __call__(self, x: Any, *arguments: Any, **options: Any) -> Array:
        """f(x) for an array of numbers. Raises InputError."""
        array = xp_of(x).asarray(x)
        if array.dtype.kind not in "buif":
            raise InputError(self.name, "these are no numbers.", "an array of numbers.", f"{x!r}.", "convert them.")
        array = array if array.dtype.kind == "f" else array.astype(np.float32)
        return self.variant(*arguments, **options).forward(array)

    def variant(self, *arguments: Any, **options: Any) -> Function:
        """The function with options, such as relu.variant(max_value=6). Raises InputError."""
        if not arguments and not options:
            return self
        known = list(inspect.signature(self.options).parameters) if self.options else []
        for option in options:
            if option not in known:
                raise unknown_name(f"argument of {self.name}", option, known or ["x"])
        if self.options is None or len(arguments) > len(known):
            raise InputError(
                self.name, "too many arguments.", f"{self.name}({', '.join(['x', *known])}).",
                f"{1 + len(arguments)} arguments.", "leave the last ones out.",
            )  # fmt: skip
        return self.options(*arguments, **options)

    def __reduce__(self) -> str | tuple[Any, ...]:
        """For pickle and copy: one that is known by name is the same object everywhere; another is its fields."""
        fields = (self.name, self.forward, self.backward, self.keeps, self.in_place, self.with_slope, self.options)
        return (get, (self.name,)) if _KNOWN.get(self.name) is self else (Function, fields)


def _linear_forward(x: Array) -> Array:
    return x


def _linear_backward(dy: Array, y: Array) -> Array:
    return dy


def _relu_in_place(x: Array) -> Array:
    return kernels.relu_forward(x, out=x)


def _relu(negative_slope: float = 0.0, max_value: float | None = None, threshold: float = 0.0) -> Function:
    """ReLU with Keras' options; numbers up to threshold become negative_slope * (x - threshold)."""
    numbers = {"negative_slope": negative_slope, "threshold": threshold}
    slope, start = (checked("relu", name, value, "of 0 or more", 0) for name, value in numbers.items())
    top = checked("relu", "max_value", max_value, ["of 0 or more"], 6)
    if (slope, top, start) == (0, None, 0):
        return relu
    if top is None and start == 0:
        return _leaky_relu(slope)
    options = {"slope": slope, "top": top, "start": start}
    return Function("relu", partial(_cut_forward, **options), partial(_cut_backward, slope=slope, top=top))


def _cut_forward(x: Array, slope: float, top: float | None, start: float) -> Array:
    y = kernels.leaky_relu_forward(x, slope)
    if start > 0:
        y = xp_of(x).where(x > start, x, (x - x.dtype.type(start)) * x.dtype.type(slope))
    return y if top is None else y.clip(max=top)


def _cut_backward(dy: Array, y: Array, slope: float, top: float | None) -> Array:
    dx = kernels.leaky_relu_backward(dy, y, slope)
    return dx if top is None else dx * (y < top)


def _leaky_relu(negative_slope: float = 0.2) -> Function:
    slope = checked("leaky_relu", "negative_slope", negative_slope, "of 0 or more", 0.2)
    return Function(
        "leaky_relu", partial(kernels.leaky_relu_forward, negative_slope=slope),
        partial(kernels.leaky_relu_backward, negative_slope=slope),
    )  # fmt: skip


def _elu(alpha: float = 1.0) -> Function:
    alpha = checked("elu", "alpha", alpha, "that is finite", 1.0)
    forward = partial(kernels.elu_forward, alpha=alpha)
    if alpha < 0:  # y no longer says where x was negative
        return Function("elu", forward, partial(_elu_backward_from_x, alpha=alpha), keeps="x")
    return Function("elu", forward, partial(kernels.elu_backward, alpha=alpha))


def _elu_backward_from_x(dy: Array, x: Array, alpha: float) -> Array:
    return dy * xp_of(x).where(x > 0, x.dtype.type(1), kernels.elu_forward(x, alpha) + x.dtype.type(alpha))


def _gelu(approximate: bool = False) -> Function:
    if not checked("gelu", "approximate", approximate, bool, True):
        return gelu
    functions = (kernels.gelu_forward, kernels.gelu_backward, kernels.gelu_with_slope)
    forward, backward, with_slope = (partial(f, approximate=True) for f in functions)
    return Function("gelu", forward, backward, keeps="x", with_slope=with_slope)


def _softmax(axis: int | Sequence[int] = -1) -> Function:
    return _over(softmax, checked("softmax", "axis", axis, "axes", -1))


def _log_softmax(axis: int | Sequence[int] = -1) -> Function:
    return _over(log_softmax, checked("log_softmax", "axis", axis, "axes", -1))


def _over(rows: Function, axis: int | Sequence[int]) -> Function:
    """A function of the last axis, made one of this axis (the batch's is 0), or of several as if they were one."""
    if axis == -1:
        return rows
    axes = (axis,) if isinstance(axis, int) else tuple(axis)
    named = f"axis {axis}" if isinstance(axis, int) else f"axes {axes}"
    forward, backward = (partial(_turned, rows.name, f, axis=axes) for f in (rows.forward, rows.backward))
    return Function(f"{rows.name} over {named}", forward, backward)


def axes_of(where: str, axes: Sequence[int], ndim: int) -> list[int]:
    """These axes counted from 0; InputError unless they are different ones of an array of ndim axes."""
    counted = [axis + ndim if axis < 0 else axis for axis in axes]
    if len(set(counted)) < len(counted) or not all(0 <= axis < ndim for axis in counted):
        raise InputError(
            where, "axis does not fit the array.", f"different axes from {-ndim} to {ndim - 1}, the batch's being 0.",
            f"axis={axes[0] if len(axes) == 1 else tuple(axes)}.", "leave it out for the last axis.",
        )  # fmt: skip
    return counted


def _turned(name: str, function: Callable[..., Array], *arrays: Array, axis: tuple[int, ...]) -> Array:
    xp, last = xp_of(arrays[0]), tuple(range(-len(axis), 0))
    axes = axes_of(name, axis, arrays[0].ndim)
    moved = [xp.moveaxis(a, axes, last) for a in arrays]
    shape = moved[0].shape
    rows = [xp.ascontiguousarray(a.reshape(*shape[: -len(axes)], -1)) for a in moved]
    return xp.ascontiguousarray(xp.moveaxis(function(*rows).reshape(shape), last, axes))


linear = Function("linear", _linear_forward, _linear_backward)
relu = Function("relu", kernels.relu_forward, kernels.relu_backward, in_place=_relu_in_place, options=_relu)
leaky_relu = replace(_leaky_relu(), options=_leaky_relu)
relu6 = Function("relu6", kernels.relu6_forward, kernels.relu6_backward)
elu = Function("elu", kernels.elu_forward, kernels.elu_backward, options=_elu)
selu = Function("selu", kernels.selu_forward, kernels.selu_backward)
gelu = Function(
    "gelu", kernels.gelu_forward, kernels.gelu_backward, keeps="x", with_slope=kernels.gelu_with_slope, options=_gelu
)
silu = Function("silu", kernels.silu_forward, kernels.silu_backward, keeps="x")
swish = silu
mish = Function("mish", kernels.mish_forward, kernels.mish_backward, keeps="x")
sigmoid = Function("sigmoid", kernels.sigmoid_forward, kernels.sigmoid_backward)
hard_sigmoid = Function("hard_sigmoid", kernels.hard_sigmoid_forward, kernels.hard_sigmoid_backward)
tanh = Function("tanh", kernels.tanh_forward, kernels.tanh_backward)
softsign = Function("softsign", kernels.softsign_forward, kernels.softsign_backward)
softplus = Function("softplus", kernels.softplus_forward, kernels.softplus_backward)
exponential = Function("exponential", kernels.exponential_forward, kernels.exponential_backward)
softmax = Function("softmax", kernels.softmax_forward, kernels.softmax_backward, options=_softmax)
log_softmax = Function("log_softmax", kernels.log_softmax, kernels.log_softmax_backward, options=_log_softmax)

_KNOWN = {
    f.name: f
    for f in (
        linear, relu, leaky_relu, relu6, elu, selu, gelu, silu, mish, sigmoid, hard_sigmoid, tanh, softsign, softplus,
        exponential, softmax, log_softmax,
    )
} | {"swish": silu}  # fmt: skip


def is_known(function: Function) -> bool:
    """Whether it is the one that its name stands for, so that a file needs to hold no more than that."""
    return _KNOWN.get(function.name) is function


def get(identifier: str | Function | None) -> Function:
    """The activation for a name, itself for a Function, `linear` for None.

    Raises UnknownNameError for an unknown name, and InputError for a callable that has no derivative.
    """
    if identifier is None:
        return linear
    if isinstance(identifier, str):
        if identifier not in _KNOWN:
            raise unknown_name("activation", identifier, _KNOWN)
        return _KNOWN[identifier]
    if isinstance(identifier, Function):
        return identifier
    if hasattr(identifier, "forward"):
        kind = identifier if isinstance(identifier, type) else type(identifier)
        name = {known.replace("_", ""): known for known in _KNOWN}.get(kind.__name__.lower(), "relu")
        raise InputError(
            "activation", "this is a layer, not an activation.", "a name, or a minicnn.activations.Function.",
            f"{identifier!r}.",
            f'write its name, as in activation="{name}", or put {kind.__name__}() after this layer.',
        )  # fmt: skip
    raise InputError(
        "activation",
        "this object cannot be differentiated.",
        "a name, or a minicnn.activations.Function.",
        f"{identifier!r}.",
        "wrap it: minicnn.activations.Function(name, forward, backward, keeps).",
    )
