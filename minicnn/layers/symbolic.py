"""Symbolic values: what Keras' functional API passes from layer to layer while a network is being described.

    x = Input((32, 32, 3))                 a symbolic value of shape (None, 32, 32, 3)
    y = Conv2D(16, 3, padding="same")(x)   another one: it knows its layer and what that reads
    model = Model(x, Add()([y, Conv2D(16, 3, padding="same")(y)]))

They hold shapes, no numbers. Going back from the output over `inputs` finds the whole network.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count
from typing import TYPE_CHECKING, Any

from minicnn.errors import InputError

if TYPE_CHECKING:
    from minicnn.layers.base import Layer

_numbers = count()


class SymbolicTensor:
    """The output of `layer` for the symbolic values `inputs` (none for an input of a network).

    shape: with the batch axis, as in Keras: (None, height, width, channels). sample_shape: without. number: grows with
    each new one, so that what a value is made of always has smaller numbers than the value itself.
    """

    __slots__ = ("layer", "inputs", "sample_shape", "number")

    def __init__(self, layer: Layer, inputs: tuple[SymbolicTensor, ...], sample_shape: tuple[int, ...]):
        self.layer, self.inputs, self.sample_shape = layer, inputs, tuple(sample_shape)
        self.number = next(_numbers)

    @property
    def shape(self) -> tuple[int | None, ...]:
        return (None, *self.sample_shape)

    def __repr__(self) -> str:
        return f"<symbolic value of {self.layer.name}, shape={self.shape}>"

    def _refuse(self, *_: Any) -> Any:
        raise InputError(
            self.layer.name, "a symbolic value has no numbers yet.", "layers called on it.",
            f"an operation of Python or NumPy on {self!r}.",
            "write Add()([x, y]), Multiply()([x, y]), Rescaling(2)(x), …; for numbers call model.predict(array).",
        )  # fmt: skip

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = __matmul__ = _refuse
    __pow__ = __neg__ = __abs__ = __lt__ = __le__ = __gt__ = __ge__ = _refuse
    __array__ = __iter__ = __len__ = __getitem__ = __bool__ = __float__ = __int__ = _refuse


def ancestors(output: SymbolicTensor, stop: SymbolicTensor | None = None) -> list[SymbolicTensor]:
    """`output` and all values that it is made of, in topological order; not behind `stop`."""
    found: dict[int, SymbolicTensor] = {}
    waiting = [output]
    while waiting:
        value = waiting.pop()
        if value.number not in found:
            found[value.number] = value
            if value is not stop:
                waiting += value.inputs
    return [found[number] for number in sorted(found)]


def is_symbolic(x: Any) -> bool:
    """Whether x is a symbolic value, or a list with one in it."""
    return isinstance(x, SymbolicTensor) or (
        isinstance(x, (list, tuple)) and any(isinstance(item, SymbolicTensor) for item in x)
    )


def symbolic_inputs(layer: Layer, x: Any) -> tuple[SymbolicTensor, ...]:
    """The symbolic values on which `layer` is called: one; a list of them for a merging layer. Else InputError."""
    values = tuple(x) if isinstance(x, (list, tuple)) else (x,)
    for value in values:
        if not isinstance(value, SymbolicTensor):
            raise InputError(
                layer.name, "arrays and symbolic values do not mix.", "symbolic values only, or arrays only.",
                f"a {type(value).__name__} beside symbolic values.", "begin with Input(shape) instead of the array.",
            )  # fmt: skip
    if layer.merges and not isinstance(x, (list, tuple)):
        raise InputError(
            layer.name, f"{type(layer).__name__} joins several values.", "a list: layer([x, y]).", f"{x!r}.",
            "put the values into brackets.",
        )  # fmt: skip
    if not layer.merges and len(values) != 1:
        raise InputError(
            layer.name, f"{type(layer).__name__} takes one value.", "one symbolic value.",
            f"a list of {len(values)}: {described(values)}.", "join them first, with Add() or Concatenate().",
        )  # fmt: skip
    return values


def described(values: Iterable[SymbolicTensor]) -> str:
    """ "conv2d_1 32×32×16, add 16×16×8": the layers that made them, and their shapes."""
    return ", ".join(f"{v.layer.name} {'×'.join(map(str, v.sample_shape))}" for v in values)
