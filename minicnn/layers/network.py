"""A network of layers, which is a layer itself: what it is made of, its shapes, its weights, and its two passes.

Network   layers joined in any way that has no cycle, described by symbolic values (Keras' functional API)
Chain     layers that follow one another, added one by one
Both are a list of nodes; `minicnn/layers/walk.py` goes over it. How a network learns is in `minicnn/models.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from minicnn import random
from minicnn.arguments import in_words
from minicnn.backend import Array, Device, current_device, explained_memory, move
from minicnn.errors import InputError, shortened, unknown_name
from minicnn.layers import walk
from minicnn.layers.base import Layer, Shape, checked_shape
from minicnn.layers.context import Context
from minicnn.layers.conv import Conv2D
from minicnn.layers.core import Input, InputLayer
from minicnn.layers.symbolic import SymbolicTensor, ancestors
from minicnn.layers.walk import Node, input_shape_of
from minicnn.registry import restored

MAX_NAME = 200  # characters of a layer's name
MAX_LAYERS = 1000  # of a network that is read from a file
ELSEWHERE = 'end what else uses the GPU (`nvidia-smi` lists it), or use device="cpu".'


class OutputShape(tuple):
    """A shape that can be called: Keras has model.output_shape as a tuple, a layer here has it as a method."""

    def __new__(cls, shape: tuple[int | None, ...], infer: Callable[[Shape], Shape]) -> OutputShape:
        made = super().__new__(cls, shape)
        made.infer = infer
        return made

    infer: Callable[[Shape], Shape]

    def __call__(self, input_shape: Shape) -> Shape:
        """The shape of one output sample for samples of this shape, both without batch axis."""
        return self.infer(input_shape)


class Network(Layer):
    """All that lies between the symbolic values `inputs` and `outputs`: layers, each reading values of earlier ones.

        x = Input((32, 32, 3))
        y = Conv2D(16, 3, padding="same", activation="relu")(x)
        y = Add()([y, Conv2D(16, 3, padding="same")(y)])

    One input and one output. A layer that was called twice is there once and used twice, with the same weights; a
    network may be a layer of another one. Raises InputError where the output cannot be computed from the input.
    device: where the arrays are and the work is done. sample_shape: of one sample of the input, without batch axis.
    input_name: that of its Input, where one was given.
    """

    _plans_know = False
    # The layers in topological order, each with the places of what it reads; -1 is the network's input.
    _uses: list[tuple[Layer, tuple[int, ...]]]
    _values: list[SymbolicTensor]  # of the input and of each use, once the shapes are known
    _shapes: list[Shape]
    sample_shape: Shape | None
    input_name: str | None
    _cached: tuple[int, tuple[Node, ...], tuple[Shape, ...]] = (-1, (), ())
    _counted: tuple[int, int] = (-1, 0)

    def __init__(self, inputs: Any, outputs: Any, name: str | None = None, trainable: bool = True):
        self._begin(name)
        first, last = self._single("inputs", inputs), self._single("outputs", outputs)
        values = ancestors(last, stop=first)
        self._check_reach(first, last, values)
        values.remove(first)
        place = {value.number: i for i, value in enumerate(values)} | {first.number: -1}
        self._uses = [(v.layer, tuple(place[source.number] for source in v.inputs)) for v in values]
        self._name_layers()
        self._values = [first, *values]
        self._take_input(first.layer)
        self.sample_shape, self.built = first.sample_shape, True
        self._shapes = [value.sample_shape for value in self._values]
        self._move_arrays(self.layers)
        if not trainable:
            self.trainable = False

    def _begin(self, name: str | None) -> None:
        self._uses, self._values, self._shapes = [], [], []
        self.sample_shape = self.input_name = None
        super().__init__(name=name)
        self.rng = random.new_generator()
        self.device: Device = current_device()

    # ---- what it is made of ---------------------------------------------------------------------------------------

    def _single(self, what: str, values: Any) -> SymbolicTensor:
        """The one symbolic value; InputError for several, and for anything else."""
        values = list(values.values()) if isinstance(values, dict) else values
        values = list(values) if isinstance(values, (list, tuple)) else [values]
        if len(values) != 1:
            raise InputError(
                self.name, "a model has one input and one output.", f"one symbolic value as {what}.",
                f"{len(values)} of them.",
                "join several with Concatenate(); build a model for each where they cannot be joined."
                if values else "pass what Input(shape) returned, and what the last layer returned.",
            )  # fmt: skip
        if not isinstance(values[0], SymbolicTensor):
            is_layer = isinstance(values[0], Layer)
            fix = "call the layer: y = Dense(10)(x)." if is_layer else "begin with x = Input(shape)."
            raise InputError(
                self.name, f"{what} is no symbolic value.", "what Input(shape) or a layer that was called returned.",
                f"{type(values[0]).__name__}.", fix,
            )  # fmt: skip
        return values[0]

    def _check_reach(self, first: SymbolicTensor, last: SymbolicTensor, values: list[SymbolicTensor]) -> None:
        if first not in values:
            raise InputError(
                self.name, "the output does not depend on the input.", f"a way from {first.layer.name} to the output.",
                f"an output of {last.layer.name}, which is made of {', '.join(v.layer.name for v in values[:5])}.",
                "use the value that Input returned where the network begins; for what an inner model gives, take the "
                "input of the layer behind it.",
            )  # fmt: skip
        if first is last:
            raise InputError(
                self.name, "there is no layer between the input and the output.", "at least one layer.",
                f"the same value, of {first.layer.name}, as both.", "pass what the last layer returned as outputs.",
            )  # fmt: skip
        for value in values:
            if not value.inputs and value is not first:
                readers = [v.layer.name for v in values if value in v.inputs]
                raise InputError(
                    self.name, "the output needs another input, too.",
                    f"a network that can be computed from {first.layer.name} alone.",
                    f"{', '.join(readers)} reads {value.layer.name}, another Input, of shape {value.shape}.",
                    "begin both ways with the same Input; a model has one.",
                )  # fmt: skip

    def _name_layers(self) -> None:
        """A name of its own for each layer; those without one are numbered, around the names that others have."""
        layers = sorted(self.layers, key=lambda layer: not layer.named)
        for k, layer in enumerate(layers):
            self._take(layer, layers[:k])

    def _take_input(self, layer: Layer) -> None:
        """Note the name of the Input, where the network begins with one that has a name."""
        if isinstance(layer, InputLayer) and layer.named:
            self.input_name = self._checked_name(layer.name)

    def _checked_name(self, name: Any) -> str:
        if not isinstance(name, str) or not _can_name_a_layer(name):
            raise InputError(
                self.name, "a layer cannot have this name.",
                f"a text of at most {MAX_NAME} characters, without slashes and control characters.",
                f"name={shortened(repr(name))}.",
                'for example name="features"; "inner/dense_1" is dense_1 of the model inner.',
            )  # fmt: skip
        return name

    def _take(self, layer: Layer, others: Sequence[Layer]) -> None:
        """Give the layer a name that none of the others has, or check the one that it was given."""
        self._checked_name(layer.name)
        taken = {other.name for other in others}
        if not layer.named:
            # From now on it is the layer's own: a second model that shares the layer must not rename it in the first.
            name = next(f"{layer.name}_{i}" for i in range(1, len(taken) + 2) if f"{layer.name}_{i}" not in taken)
            layer.name, layer.named = name, True
        elif layer.name in taken:
            raise InputError(
                layer.name, "two layers of this name.", "a name of its own for each layer.",
                f"name={layer.name!r} twice.", "rename one of them.",
            )  # fmt: skip

    @property
    def layers(self) -> list[Layer]:
        """The layers in topological order, each once. A new list: only `add` and `pop` change a Sequential."""
        return list({id(layer): layer for layer, _ in self._uses}.values())

    @property
    def uses(self) -> list[tuple[Layer, tuple[int, ...]]]:
        """(layer, the uses that it reads; -1: the input), in topological order. An inner network is one layer."""
        return list(self._uses)

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The layers that compute, for a walk: those of inner networks in their places.

        All uses of a layer have one key, its first name: an inner network may be used twice.
        """
        return self._flat()[0]

    @property
    def node_shapes(self) -> tuple[Shape, ...]:
        """The shape of a sample at the input and after each of `nodes`: that of node i is at i + 1."""
        self.require_built("its shapes are not known yet")
        return self._flat()[1]

    def _flat(self) -> tuple[tuple[Node, ...], tuple[Shape, ...]]:
        """(nodes, shapes at the input and after each), put together once, until a network or a layer's name changes."""
        stamp, nodes, shapes = self._cached
        if stamp == Layer._changes:
            return nodes, shapes
        found: list[Node] = []
        sizes: list[Shape] = [self.sample_shape or ()]
        keys: dict[int, str] = {}

        def place(network: Network, entry: int, prefix: str) -> int:
            values = [entry]
            for i, (layer, inputs) in enumerate(network._uses):
                read = tuple([values[j + 1] for j in inputs])
                if isinstance(layer, Network):
                    values.append(place(layer, read[0], f"{prefix}{layer.name}/"))
                else:
                    found.append(Node(layer, read, keys.setdefault(id(layer), prefix + layer.name)))
                    sizes.append(network._shapes[i + 1] if network.built else ())
                    values.append(len(found) - 1)
            return values[-1]

        place(self, -1, "")
        self._cached = Layer._changes, tuple(found), tuple(sizes)
        return self._cached[1:]

    @property
    def layers_by_key(self) -> dict[str, Layer]:
        """All layers that compute, each once, under names unique in the whole model: "vgg16/block1_conv1"."""
        return {node.key: node.layer for node in self.nodes}

    @property
    def flat_layers(self) -> list[Layer]:
        """The layers that compute, each once, in order, those of inner networks in their places."""
        return list(self.layers_by_key.values())

    @in_words
    def get_layer(self, name: str | None = None, index: int | None = None) -> Layer:
        """The layer of this name or index. Raises UnknownNameError."""
        if index is not None:
            return self.layers[index]
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise unknown_name("layer", name, [layer.name for layer in self.layers])

    # ---- shapes ---------------------------------------------------------------------------------------------------

    @property
    def shapes(self) -> list[Shape]:
        """The shape of a sample at the input and after each of `uses`: that of use i is at i + 1."""
        self.require_built("its shapes are not known yet")
        return list(self._shapes)

    @property
    def input_shape(self) -> tuple[int | None, ...] | None:  # type: ignore[override]
        """As in Keras, with the batch axis: (None, height, width, channels). None: not known yet."""
        return None if self.sample_shape is None else (None, *self.sample_shape)

    @property
    def output_shape(self) -> OutputShape:  # type: ignore[override]
        """As in Keras, with the batch axis: (None, classes); and as in every layer a method of a sample's shape."""
        return OutputShape((None, *self._shapes[-1]) if self.built else (), self._output_shape)

    def _output_shape(self, input_shape: Shape) -> Shape:
        self.check_built(input_shape)
        return self._infer(input_shape)[-1]

    def _infer(self, sample_shape: Shape) -> list[Shape]:
        """The shape of a sample at the input and after each use."""
        shapes = [tuple(sample_shape)]
        for layer, inputs in self._uses:
            shape = input_shape_of(layer, inputs, shapes)
            try:
                layer.check_built(shape)
                shapes.append(tuple(layer.output_shape(shape)))
            except InputError as error:
                raise self._with_chain(error, shapes) from None
        return shapes

    def _with_chain(self, error: InputError, shapes: list[Shape]) -> InputError:
        """The error, with the chain of shapes that led to it."""
        names = ["input", *(layer.name for layer, _ in self._uses)]
        chain = " -> ".join(f"{name} {_size(shape)}" for name, shape in zip(names, shapes, strict=False))
        fix, first = error.fix, shapes[0]
        if len(first) == 3 and first[0] in (1, 3) and first[1] == first[2] > first[0]:
            fix += (
                f" Or do the channels come first in these images? {_size(first)} is read as height×width×channels; "
                "x.transpose(0, 2, 3, 1), not reshape, puts the channels last."
            )
        return type(error)(
            error.where, error.problem, error.expected, f"{error.received} The sizes in {self.name}: {chain}.", fix
        )

    def _symbolic_call(self, inputs: tuple[SymbolicTensor, ...]) -> SymbolicTensor:
        if not self._uses:
            raise InputError(
                self.name, "there are no layers in it.", "a network with layers.", "an empty one, which was called.",
                "add its layers before you call it.",
            )  # fmt: skip
        return super()._symbolic_call(inputs)

    def check_built(self, shape: Any) -> None:
        if self.sample_shape is not None and tuple(shape) != self.sample_shape:
            raise InputError(
                self.name, "the model was built for another shape.", f"samples of shape {self.sample_shape}.",
                f"samples of shape {tuple(shape)}.", "build a new model.",
            )  # fmt: skip

    @in_words
    def build(self, input_shape: Any, rng: np.random.Generator | None = None) -> None:
        """Create all parameters for inputs of this shape, with the batch axis: (None, 28, 28, 1), as in Keras.

        With rng, as in every layer: for samples of `input_shape`, without a batch axis. Does nothing on a built model,
        unless the shape is another one: InputError.
        """
        if rng is None:
            if not isinstance(input_shape, Sequence) or len(input_shape) < 2 or input_shape[0] is not None:
                images = "for images of 28×28 grey pixels: model.build((None, 28, 28, 1))."
                samples = f"for samples of {input_shape} numbers: model.build((None, {input_shape}))."
                raise InputError(
                    self.name, "build takes the shape of a batch.", "None, then the sizes of one sample.",
                    f"{input_shape!r}.", samples if isinstance(input_shape, int) else images,
                )  # fmt: skip
            input_shape = input_shape[1:]
        self.build_once(checked_shape(self.name, input_shape), rng)

    def build_once(self, shape: Shape, rng: np.random.Generator | None = None) -> None:
        self.check_built(shape)
        if not self.built:
            self.rng = self.rng if rng is None else rng
            self._build(shape)

    def _build(self, sample_shape: Shape) -> None:
        shapes = self._infer(sample_shape)  # of all layers first: where one does not fit, none is built
        for layer, inputs in self._uses:
            layer.build_once(input_shape_of(layer, inputs, shapes), self.rng)
        self._move_arrays(self.layers)
        self._shapes, self.sample_shape, self.built = shapes, shapes[0], True
        Layer._changes += 1
        self._link()
        self.built_hook()

    def built_hook(self) -> None:
        """Called when the layers and their shapes have changed. A model chooses its metrics anew."""

    def _link(self) -> None:
        """Symbolic values for the input and each use, where there are none yet: `layer.output` is one of them."""
        if not self._values:
            self._values = [Input(self._shapes[0], name=self.input_name)]
        for i in range(len(self._values) - 1, len(self._uses)):
            layer, inputs = self._uses[i]
            value = SymbolicTensor(layer, tuple(self._values[j + 1] for j in inputs), self._shapes[i + 1])
            layer._outputs.append(value)
            self._values.append(value)

    @property
    def input(self) -> SymbolicTensor:
        """The symbolic value with which the network begins: Model(model.input, model.get_layer("…").output)."""
        self.require_built("its input has no shape yet")
        return self._values[0]

    @property
    def output(self) -> SymbolicTensor:
        """The symbolic value with which the network ends."""
        self.require_built("its output has no shape yet")
        return self._values[-1]

    @property
    def inputs(self) -> list[SymbolicTensor]:
        """[input], as in Keras, where there may be several."""
        return [self.input]

    @property
    def outputs(self) -> list[SymbolicTensor]:
        """[output], as in Keras, where there may be several."""
        return [self.output]

    def require_built(self, problem: str) -> None:
        if not self.built:
            raise InputError(
                self.name, problem + ": the model has not been built.", "a model that knows its input shape.",
                "a first layer without input_shape.",
                "begin with Input((28, 28, 1)), or call build((None, 28, 28, 1)).",
            )  # fmt: skip

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_values": [], "_cached": (-1, (), ()), "_counted": (-1, 0)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if self.built:
            self._link()

    @property
    def augments(self) -> bool | None:  # type: ignore[override]
        """None where one of its layers draws new images: then each decides for itself."""
        return None if any(node.layer.augments is not False for node in self.nodes) else False

    # ---- the two passes, where it is computed as a layer ----------------------------------------------------------

    def forward(self, x: Array, ctx: Context) -> Array:
        """Through all layers, with contexts of their own (ctx.contexts). Training walks over `nodes` instead."""
        ctx.nodes = self.nodes
        ctx.contexts = walk.new_contexts(
            ctx.nodes, ctx.training, ctx.need_backward, ctx.step, _mixed(ctx.seed), ctx.first, ctx.all_reduce,
            ctx.need_dx,
        )  # fmt: skip
        return walk.forward(ctx.nodes, ctx.contexts, x)

    def backward(self, dy: Array, ctx: Context) -> Array | None:
        return walk.backward(ctx.nodes, ctx.contexts, dy)

    def macs(self, input_shape: Shape) -> int:
        own = self.built and tuple(input_shape) == self.sample_shape
        if own and self._counted[0] == Layer._changes:
            return self._counted[1]
        shapes = self._shapes if own else self._infer(input_shape)
        total = sum(layer.macs(input_shape_of(layer, inputs, shapes)) for layer, inputs in self._uses)
        if own:  # every fit and predict asks for it
            self._counted = Layer._changes, total
        return total

    # ---- weights --------------------------------------------------------------------------------------------------

    @property
    def trainable(self) -> bool:
        """Whether any layer inside may learn. Set it to freeze or free all of them; each keeps a flag of its own.

        It holds from the next step on. Unlike in Keras, no new compile is needed, and a layer that is freed inside a
        frozen model learns.
        """
        return not self._uses or any(layer.trainable for layer in self.layers)

    @trainable.setter
    def trainable(self, value: bool) -> None:
        for layer in self.layers:
            layer.trainable = value

    def count_params(self) -> int:
        self.require_built("its parameters do not exist yet")
        return sum(layer.count_params() for layer in self.flat_layers)

    @property
    def weights(self) -> list[Array]:
        """The arrays themselves, layer by layer: parameters, then state."""
        return [array for layer in self.flat_layers for array in layer.weights]

    @property
    def trainable_weights(self) -> list[Array]:
        """The parameters that training changes."""
        return [array for layer in self.flat_layers for array in layer.trainable_weights]

    @property
    def non_trainable_weights(self) -> list[Array]:
        """Running statistics, and the parameters of frozen layers."""
        return [array for layer in self.flat_layers for array in layer.non_trainable_weights]

    def get_weights(self) -> list[np.ndarray]:
        """Copies of all arrays on the host, layer by layer: parameters, then state."""
        return [array for layer in self.flat_layers for array in layer.get_weights()]

    @in_words
    def set_weights(self, weights: Sequence[np.ndarray]) -> None:
        """Copy arrays in, in the order of get_weights. Raises InputError before anything is changed."""
        counts = [len(layer.params) + len(layer.state) for layer in self.flat_layers]
        if len(weights) != sum(counts):
            raise InputError(
                self.name, "wrong number of arrays.", f"{sum(counts)} arrays.", f"{len(weights)}.",
                "pass what get_weights() of the same architecture returned.",
            )  # fmt: skip
        rest, parts = list(weights), []
        for layer, count in zip(self.flat_layers, counts, strict=True):
            parts.append(rest[:count])
            layer.check_weights(rest[:count])
            rest = rest[count:]
        for layer, part in zip(self.flat_layers, parts, strict=True):
            layer.set_weights(part)

    def penalty(self) -> Any:
        """What the regularizers of the layers that learn add to the loss; on the GPU an array that nobody waits for."""
        return sum(
            regularizer.penalty(layer.params[name])
            for layer in self.flat_layers
            if layer.trainable
            for name, regularizer in layer.regularizers.items()
            if regularizer is not None and name in layer.params
        )

    def new_seed(self) -> int:
        """A fresh seed for one step's random layers, from the network's generator."""
        return self.rng.bit_generator.random_raw() >> 1

    def _move_arrays(self, layers: Iterable[Layer]) -> None:
        """Bring what the layers hold to the network's device."""
        with explained_memory("the weights of the model", f"use smaller layers, or {ELSEWHERE}"):
            for layer in layers:
                if isinstance(layer, Network):
                    layer.device = self.device
                    layer._move_arrays(layer.layers)
                for arrays in (layer.params, layer.state):
                    arrays.update({name: move(array, self.device) for name, array in arrays.items()})

    def set_algorithm(self, algorithm: str) -> None:
        """Tell all convolutions at once how to compute: "auto", "im2col", "winograd", … (minicnn/kernels/conv.py).

        A layer that cannot be computed so takes "auto". Raises UnknownNameError, and InputError on an unbuilt model.
        """
        self.require_built("the shapes that its convolutions see are not known yet")
        for layer in self.flat_layers:
            if isinstance(layer, Conv2D):
                layer.set_algorithm(algorithm)

    def as_input(self, x: Array) -> Array:
        """A batch as the first layer takes it: in the parameters' dtype, on the network's device."""
        return self.device.xp.asarray(x, dtype=self.dtype)

    @property
    def dtype(self) -> np.dtype:
        """float32, or what the parameters were converted to."""
        for layer, _ in self._uses:
            if isinstance(layer, Network):
                return layer.dtype
            for array in layer.params.values():
                return array.dtype
        return np.dtype(np.float32)

    # ---- as text --------------------------------------------------------------------------------------------------

    def get_config(self) -> dict[str, Any]:
        """Layers with their arguments, and for each use the places of layer and inputs: what from_config takes."""
        layers = self.layers
        places = {id(layer): k for k, layer in enumerate(layers)}
        return self._layers_config(layers) | {
            "uses": [[places[id(layer)], list(inputs)] for layer, inputs in self._uses]
        }

    def _layers_config(self, layers: Sequence[Layer]) -> dict[str, Any]:
        named = {} if self.input_name is None else {"input_name": self.input_name}
        return named | {
            "name": self.name,
            "input_shape": None if self.sample_shape is None else list(self.sample_shape),
            "layers": [{"class_name": type(layer).__name__, "config": layer.get_config(),
                        "trainable": layer.trainable} for layer in layers],
        }  # fmt: skip

    @classmethod
    def _restored_layers(cls, config: dict[str, Any], custom_objects: Any) -> list[Layer]:
        """The layers of a config, without parameters."""
        entries = typed(config, "layers", list)
        if len(entries) > MAX_LAYERS:
            raise ValueError(f"{len(entries):,} layers; at most {MAX_LAYERS:,} are read")
        layers = []
        for entry in entries:
            layer = restored({"class_name": entry["class_name"], "config": entry["config"]}, custom_objects)
            if not isinstance(layer, Layer):
                own = [kind.__name__ for kind in Layer.__subclasses__()]
                raise unknown_name("layer class (pass your own as custom_objects)", entry["class_name"], own)
            trainable = typed(entry, "trainable", bool)
            if not isinstance(layer, Network):  # an inner network's layers have had their own flags already
                layer.trainable = trainable
            layers.append(layer)
        return layers

    @classmethod
    def _restored(cls, config: dict[str, Any], custom_objects: Any) -> Network:
        """Inside of another configuration, nothing is built yet: a file's sizes are checked before they take memory."""
        return cls.unbuilt(config, custom_objects)

    @classmethod
    def unbuilt(cls, config: dict[str, Any], custom_objects: Any = None) -> Network:
        """The network of a config, without parameters; what its input shape is, is noted in `sample_shape`.

        Raises ValueError, TypeError or KeyError for what get_config never returns: cycles, layers that are not there.
        """
        layers = cls._restored_layers(config, custom_objects)
        network = cls.__new__(cls)
        network._begin(typed(config, "name", str))
        for place, inputs in typed(config, "uses", list):
            if type(place) is not int or not 0 <= place < len(layers):
                raise ValueError(f"there is no layer {place!r}")
            if not inputs or not all(type(j) is int and -1 <= j < len(network._uses) for j in inputs):
                raise ValueError(f"{layers[place].name} reads {inputs!r}, which is not among the values before it")
            if not layers[place].merges and len(inputs) != 1:
                raise ValueError(f"{layers[place].name} reads {len(inputs)} values")
            network._uses.append((layers[place], tuple(inputs)))
        if not network._uses:
            raise ValueError("a network without layers")
        read = {j for _, inputs in network._uses for j in inputs}
        for i, (layer, _) in enumerate(network._uses[:-1]):
            if i not in read:
                raise ValueError(f"nothing reads the output of {layer.name}")
        network._name_layers()
        network._restore_input(config)
        return network

    def _restore_input(self, config: dict[str, Any]) -> None:
        shape, name = config["input_shape"], config.get("input_name")
        self.sample_shape = None if shape is None else checked_shape(self.name, shape)
        self.input_name = None if name is None else self._checked_name(name)

    def build_known(self) -> None:
        """Build what is known to fit: the network, or those of its inner networks that know their input."""
        if self.sample_shape is not None:
            self._build(self.sample_shape)
        else:
            for layer in self.layers:
                if isinstance(layer, Network):
                    layer.build_known()


class Chain(Network):
    """Layers, each taking the output of the one before.

    The first may be Input(shape), or carry input_shape=; without either the chain is built when it first sees data.
    """

    def __init__(self, layers: Iterable[Any] | None = None, trainable: bool = True, name: str | None = None):
        self._begin(name)
        if isinstance(layers, (Layer, SymbolicTensor)):
            raise InputError(
                self.name, "the layers are not in a list.", "a list of layers.", f"{layers!r}.",
                "write Sequential([...]), with brackets.",
            )  # fmt: skip
        for layer in layers or ():
            self.add(layer)
        if not trainable:
            self.trainable = False

    @in_words
    def add(self, layer: Any) -> None:
        """Put a layer on top. Where it cannot take the shape that reaches it: InputError, and nothing has changed."""
        layer = self._checked(layer)
        if isinstance(layer, InputLayer):
            if self._uses or self.sample_shape is not None:
                before = self.layers[-1].name if self._uses else "another Input"
                raise InputError(
                    self.name, "Input is not the first layer.", "one Input, before all other layers.",
                    f"Input after {before}.", "move it to the front, or leave it out.",
                )  # fmt: skip
            self._take_input(layer)
            self.sample_shape = layer.input_shape
            return
        name, named, sample_shape = layer.name, layer.named, self.sample_shape
        if not self._uses and sample_shape is None:
            sample_shape = layer.sample_shape if isinstance(layer, Network) else layer.input_shape
        self._append(layer)
        if sample_shape is not None:
            try:
                self._build(sample_shape)
            except BaseException:
                self._uses.pop()
                Layer._changes += 1
                layer.name, layer.named = name, named
                raise

    def _append(self, layer: Layer) -> None:
        self._take(layer, self.layers)
        self._uses.append((layer, (len(self._uses) - 1,)))
        Layer._changes += 1

    def _checked(self, layer: Any) -> Layer:
        """The layer that was given; InputError for anything else, and for one that is in the chain already."""
        if isinstance(layer, SymbolicTensor) and isinstance(layer.layer, InputLayer):
            return layer.layer
        if not isinstance(layer, Layer):
            raise InputError(
                self.name, "this is not a layer.", "an instance of a layer, such as Dense(10).", f"{layer!r}.",
                "write the parentheses: Flatten(), not Flatten." if isinstance(layer, type) else "add layers only.",
            )  # fmt: skip
        if layer is self or any(layer is other for other in self.layers):
            raise InputError(
                layer.name, "this layer is in the model already.", "a new layer for each place.",
                "the same object twice.",
                "make a second instance; to use one layer twice, call it twice and make a Model.",
            )  # fmt: skip
        if layer.merges:
            raise InputError(
                layer.name, f"{type(layer).__name__} joins several values, which a chain does not have.",
                "a layer that takes the output of the one before.", f"{layer!r} in a Sequential.",
                "describe a network that branches with Input, layers that are called, and Model(inputs, outputs).",
            )  # fmt: skip
        return layer

    def pop(self) -> Layer:
        """Take the last layer off, and return it."""
        if not self._uses:
            raise InputError(
                self.name, "there is no layer to take off.", "a model with layers.", "an empty Sequential.",
                "look at model.layers first.",
            )  # fmt: skip
        layer, _ = self._uses.pop()
        Layer._changes += 1
        if self.built:
            self._shapes.pop()
            layer._outputs.remove(self._values.pop())
            self.built_hook()
        return layer

    def get_config(self) -> dict[str, Any]:
        return self._layers_config(self.layers)

    @classmethod
    def unbuilt(cls, config: dict[str, Any], custom_objects: Any = None) -> Network:
        network = cls(name=typed(config, "name", str))
        for layer in cls._restored_layers(config, custom_objects):
            network._append(network._checked(layer))  # nothing is built, also where a layer knows its shape
        network._restore_input(config)
        return network


def typed(config: dict[str, Any], name: str, kind: type) -> Any:
    """config[name], which must be of this very type; else TypeError."""
    if type(config[name]) is not kind:
        raise TypeError(f"{name} is of type {type(config[name]).__name__}, not {kind.__name__}")
    return config[name]


def _mixed(seed: int) -> int:
    """Another seed, far from this one: the layers inside must not draw what the layers behind the network draw."""
    z = (seed + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF  # the finalizer of splitmix64 (Steele et al., 2014)
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
    return (z ^ (z >> 31)) >> 2


def _can_name_a_layer(name: str) -> bool:
    """Names of layers are parts of names in files, and are printed."""
    return 0 < len(name) <= MAX_NAME and not re.search(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff/]", name)


def _size(shape: Shape) -> str:
    return "×".join(map(str, shape))
