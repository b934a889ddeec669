"""Layer: the contract of every layer.

A layer is thin: it owns its parameters, knows which shape follows from which, and calls a kernel. It never stores
anything about a batch on itself. What the backward pass must know, the forward pass writes into the Context. There is
one context for each layer and shard of the batch; their list is the full record of a training step.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from numbers import Integral
from typing import Any, ClassVar

import numpy as np

from minicnn.arguments import in_words, misfit
from minicnn.backend import Array, to_host, xp_of
from minicnn.errors import InputError, NotBuiltError, checked
from minicnn.layers.calls import Calls
from minicnn.layers.context import Context
from minicnn.layers.symbolic import SymbolicTensor
from minicnn.registry import Configured, snake_case

Shape = tuple[int, ...]  # without the batch axis

# Arguments that every layer of Keras takes and that change nothing here: they may have one of these values.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "activity_regularizer": (None,), "autocast": (None, True), "dtype": (None, "float32"), "lora_alpha": (None,),
    "lora_rank": (None,), "quantization_config": (None,),
}  # fmt: skip


class Arrays(dict[str, Array]):
    """The arrays of a layer by name. One that takes another's place is of its shape, or InputError is raised.

    Whole numbers become numbers of its dtype, as in set_weights: training could not change them.
    """

    def __setitem__(self, name: str, array: Any) -> None:
        old = self.get(name)
        if old is not None and old is not array:
            array = _in_place_of(name, old, array)
        super().__setitem__(name, array)

    def update(self, *others: Any, **named: Any) -> None:
        for name, array in dict(*others, **named).items():
            self[name] = array

    def __ior__(self, others: Any) -> Arrays:  # type: ignore[override, misc]
        self.update(others)
        return self


def _in_place_of(name: str, old: Array, array: Any) -> Array:
    try:
        new = array if hasattr(array, "dtype") else np.asarray(array)
        fits = new.dtype.kind in "buif" and new.shape == old.shape
        received = f"shape {new.shape}, dtype {new.dtype}."
    except ValueError:  # a list of lists that differ in length
        fits, received = False, f"a {type(array).__name__} that is no array."
    if not fits:
        raise InputError(
            f"the array {name}", "this cannot take its place in the layer.", f"numbers of shape {old.shape}.", received,
            f"for example 0.5 * layer.params[{name!r}], or np.ones({old.shape}, np.float32).",
        )  # fmt: skip
    return array if new is array and new.dtype.kind == "f" else xp_of(old).asarray(new, old.dtype)


class Layer(Calls, Configured):
    """Base class. A subclass defines forward and backward, and where it has them, build and output_shape.

    name: unique in its model; numbered by the model where none is given. trainable: False freezes the parameters.
    input_shape: shape of one sample, for the first layer of a model. Of what else Keras knows (dtype, …) the neutral
    value is taken, and InputError raised for others.
    params: learned arrays by name. state: arrays that training changes without a gradient (running statistics).
    constraints, regularizers: by parameter name.

    Constructor arguments are stored under their own names, unchanged: get_config reads them there, and from_config
    makes an equal layer of them, without weights. They may be layers, or lists of layers. See registry.Configured.

    augments: whether layer(x) draws new images even without training=True, as Keras' random image layers do.
    merges: whether it joins several values (Add, Concatenate). Then x is the list of them in `forward`, backward
    returns the list of their gradients, and build, output_shape and macs take the list of their shapes.
    """

    merges = False
    augments: ClassVar[bool | None] = False  # whether a call without `training` is one in training; None: each layer's
    input_shape: Shape | None = None
    settings: ClassVar[int] = 0  # how often an attribute of any layer was set or deleted after it had been built
    _plans_know: ClassVar[bool] = True  # whether its attributes say how it computes; those of a network do not
    built = False
    _changes: ClassVar[int] = 0  # of names, and of what networks are made of: what was put together may be out of date

    def __init__(
        self, name: str | None = None, trainable: bool = True, input_shape: Shape | None = None, **unknown
    ):
        self.named = name is not None
        self.name = snake_case(type(self).__name__) if name is None else name
        if not isinstance(self.name, str):
            raise InputError(
                type(self).__name__, "it cannot have this name.", "a text.", f"name={name!r}.",
                'for example name="features".',
            )  # fmt: skip
        self._refuse({argument: value for argument, value in unknown.items() if argument not in _NEUTRAL})
        for argument, value in unknown.items():
            not_built(self, argument, value, _NEUTRAL[argument])
        self.trainable = checked(self.name, "trainable", trainable, bool, False)
        if input_shape is not None:
            self.input_shape = checked_shape(self.name, input_shape)
        self.built = False
        self.built_for: Any = None  # the samples' shape that it was built for; of a merging layer the list of them
        self.params: dict[str, Array] = {}  # both become Arrays
        self.state: dict[str, Array] = {}
        self.constraints: dict[str, Any] = {}
        self.regularizers: dict[str, Any] = {}
        self._outputs: list[SymbolicTensor] = []  # what its calls on symbolic values gave

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "build" in vars(cls):
            cls.build = _building(cls.build)  # type: ignore[method-assign]

    def __setattr__(self, name: str, value: Any) -> None:
        first = name not in vars(self)
        super().__setattr__(name, Arrays(value) if name in ("params", "state") else value)
        if name == "name" and not first:
            Layer._changes += 1
        elif self._plans_know and self.built:
            Layer.settings += 1

    def __delattr__(self, name: str) -> None:
        super().__delattr__(name)
        if self._plans_know and self.built:
            Layer.settings += 1

    def build(self, input_shape: Shape, rng: np.random.Generator) -> None:
        """Create the parameters for samples of `input_shape` (no batch axis); `rng` draws their first values."""

    def array_shapes(self, input_shape: Shape) -> dict[str, Shape]:
        """The shapes of what build would create, by name; empty where only build knows. Files are checked by it."""
        return {}

    def output_shape(self, input_shape: Shape) -> Shape:
        """The shape of one output sample. Raises InputError where the layer cannot take `input_shape`."""
        return input_shape

    @in_words
    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Keras' name for it, with the batch axis: (None, 28, 28, 1) -> (None, 26, 26, 8). Raises InputError.

        Of a layer that joins several values: the list of their shapes.
        """
        several = list(input_shape) if self.merges and isinstance(input_shape, (list, tuple)) else [input_shape]
        for shape in several:
            sizes = tuple(shape) if isinstance(shape, (list, tuple)) else ()
            if not sizes or not all(isinstance(size, Integral) for size in (sizes[0] or 1, *sizes[1:])):
                raise InputError(
                    self.name, "this is not the shape of a batch.", "None or a number of samples, then whole numbers.",
                    f"{shape!r}.", "for example (None, 28, 28, 1).",
                )  # fmt: skip
        shapes: Any = [tuple(shape[1:]) for shape in several]
        samples = next((shape[0] for shape in several if shape[0] is not None), None)
        return (samples, *self.output_shape(shapes if self.merges else shapes[0]))

    def forward(self, x: Array, ctx: Context) -> Array:
        """y from x, both with the batch axis first. Writes into ctx what backward needs."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(x, ctx)")

    def backward(self, dy: Array, ctx: Context) -> Array | None:
        """dx from dy, or None unless ctx.need_dx. Writes the parameters' gradients into ctx.grads."""
        raise NotImplementedError(f"{type(self).__name__} must define backward(dy, ctx)")

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_outputs": []}  # a copy of a layer is in no network yet

    def macs(self, input_shape: Shape) -> int:
        """Multiply-accumulate operations of the forward pass of one sample; counted for matrix products only."""
        return 0

    def count_params(self) -> int:
        """How many numbers the layer holds, learned and running."""
        return sum(array.size for array in (*self.params.values(), *self.state.values()))

    def get_weights(self) -> list[np.ndarray]:
        """Copies of all arrays on the host: parameters, then state."""
        return [np.array(to_host(array)) for array in (*self.params.values(), *self.state.values())]

    @property
    def weights(self) -> list[Array]:
        """The arrays themselves: parameters, then state."""
        return [*self.params.values(), *self.state.values()]

    @property
    def trainable_weights(self) -> list[Array]:
        """The parameters that training changes: none where the layer is frozen."""
        return list(self.params.values()) if self.trainable else []

    @property
    def non_trainable_weights(self) -> list[Array]:
        """The state, and the parameters of a frozen layer."""
        return [*(() if self.trainable else self.params.values()), *self.state.values()]

    # Keras' other names for the same lists.
    variables = property(lambda self: self.weights)
    trainable_variables = property(lambda self: self.trainable_weights)
    non_trainable_variables = property(lambda self: self.non_trainable_weights)

    def check_weights(self, weights: list[np.ndarray]) -> None:
        """InputError unless `weights` are as many arrays as get_weights returns, and of the same shapes."""
        slots = {**self.params, **self.state}
        fix = "pass what get_weights() of the same architecture returned."
        if len(weights) != len(slots):
            raise InputError(
                self.name, "wrong number of arrays.", f"{len(slots)}: {', '.join(slots)}.", f"{len(weights)}.", fix
            )
        for (name, slot), array in zip(slots.items(), weights, strict=True):
            if slot.shape != np.shape(array):
                raise InputError(
                    self.name, f"{name} has another shape.", f"{slot.shape}.", f"{np.shape(array)}.", fix
                )

    def set_weights(self, weights: list[np.ndarray]) -> None:
        """Copy arrays in, in the order of get_weights. Raises InputError, before anything is changed."""
        self.check_weights(weights)
        for slot, array in zip((*self.params.values(), *self.state.values()), weights, strict=True):
            slot[...] = xp_of(slot).asarray(array, slot.dtype)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"


def _building(build: Callable[..., None]) -> Callable[..., None]:
    """A layer's build that says in words where it is called, or defined, as in Keras."""

    @functools.wraps(build)
    def call(layer: Any, *given: Any, **named: Any) -> None:
        try:
            build(layer, *given, **named)
        except TypeError:
            if misfit(build, (layer, *given), named) is None:
                raise
        else:
            return
        own = ", ".join([*inspect.signature(build).parameters][1:])
        raise InputError(
            layer.name, "build takes the shape of one sample and a generator of random numbers.",
            "build(input_shape, rng), the shape without the batch axis.",
            f"{len(given) + len(named)} of them for {type(layer).__name__}.build({own}).",
            "call the layer on a batch, or put it into a model, which builds it; in a class of yours define "
            "build(self, input_shape, rng).",
        )  # fmt: skip

    return call


def weight(name: str) -> property:
    """An array of the layer by its name in Keras: layer.gamma is layer.params["gamma"]; None where it has no such.

    Raises NotBuiltError where the layer has no arrays yet.
    """

    def get(layer: Any) -> Array | None:
        if not layer.built:
            raise NotBuiltError(layer.name, name)
        return layer.params.get(name, layer.state.get(name))

    return property(get, doc=f"The array {name}, as Keras names it; None where the layer does without.")


def not_built(layer: Layer, argument: str, value: Any, neutral: tuple[Any, ...], fix: str = "leave it out.") -> Any:
    """`value`, one of those in which an argument of Keras does nothing; InputError for others: minicnn has no such."""
    for known in neutral:
        if value is known or (type(value) is type(known) and value == known):
            return value
    wanted = " or ".join(f"{argument}={known!r}" for known in neutral)
    raise InputError(layer.name, f"minicnn has no {argument} here.", f"{wanted}.", f"{argument}={value!r}.", fix)


def checked_shape(where: str, shape: Any) -> Shape:
    """A sample's shape as a tuple of ints; InputError unless it is a sequence of whole numbers above 0."""
    sizes = tuple(shape) if isinstance(shape, Iterable) and not isinstance(shape, str) else ()
    if sizes and all(isinstance(n, Integral) and not isinstance(n, bool) and int(n) > 0 for n in sizes):
        return tuple(int(n) for n in sizes)
    fix = "for example (28, 28, 1) for grey images of 28×28 pixels."
    if isinstance(shape, Integral):
        fix = f"for samples of {shape} numbers write ({shape},), with the comma; {fix}"
    raise InputError(
        where, "input_shape does not fit.", "the sizes of one sample, whole numbers above 0, without the batch axis.",
        f"{shape!r}.", fix,
    )  # fmt: skip
