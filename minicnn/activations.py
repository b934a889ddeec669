"""The activations by name, as layers take them: `Dense(10, activation="relu")` or `activation=activations.relu`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from minicnn import kernels
from minicnn.backend import Array
from minicnn.errors import InputError, unknown_name


@dataclass(frozen=True)
class Function:
    """An activation: y = forward(x), and dx = backward(dy, kept), where `keeps` says what is kept: "x" or "y".

    in_place: the same as forward, but the result takes the place of x; None where there is no such way.
    with_slope: (y, dy/dx) of x at once, where that is cheaper; a layer then saves dy/dx, and backward is one product.
    Calling it applies it: `relu(x)`. Write your own with the first four fields and pass it as `activation=`.
    """

    name: str
    forward: Callable[[Array], Array]
    backward: Callable[[Array, Array], Array]
    keeps: str = "y"
    in_place: Callable[[Array], Array] | None = None
    with_slope: Callable[[Array], tuple[Array, Array]] | None = None

    def __call__(self, x: Array) -> Array:
        return self.forward(x)

    def __reduce__(self) -> str | tuple[Any, ...]:
        """For pickle and copy: one that is known by name is the same object everywhere; another is its fields."""
        fields = (self.name, self.forward, self.backward, self.keeps, self.in_place, self.with_slope)
        return (get, (self.name,)) if _KNOWN.get(self.name) is self else (Function, fields)


linear = Function("linear", lambda x: x, lambda dy, y: dy)
relu = Function(
    "relu", kernels.relu_forward, kernels.relu_backward, in_place=lambda x: kernels.relu_forward(x, out=x)
)
sigmoid = Function("sigmoid", kernels.sigmoid_forward, kernels.sigmoid_backward)
tanh = Function("tanh", kernels.tanh_forward, kernels.tanh_backward)
elu = Function("elu", kernels.elu_forward, kernels.elu_backward)
gelu = Function("gelu", kernels.gelu_forward, kernels.gelu_backward, keeps="x", with_slope=kernels.gelu_with_slope)
softmax = Function("softmax", kernels.softmax_forward, kernels.softmax_backward)


leaky_relu = Function(
    "leaky_relu",
    lambda x: kernels.leaky_relu_forward(x, 0.2),
    lambda dy, y: kernels.leaky_relu_backward(dy, y, 0.2),
)

_KNOWN = {f.name: f for f in (linear, relu, sigmoid, tanh, elu, gelu, softmax, leaky_relu)}


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
