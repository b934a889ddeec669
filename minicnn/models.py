"""Sequential: a stack of layers that can be trained.

    model = Sequential([Input((28, 28, 1)), Flatten(), Dense(128, activation="relu"), Dense(10, activation="softmax")])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    history = model.fit(x_train, y_train, epochs=5)

To follow a batch: fit is in `minicnn/training/loop.py`, one step of it in `minicnn/training/step.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

import minicnn.metrics
from minicnn import losses, optimizers, random
from minicnn.backend import Array, Device, current_device, explained_memory, move
from minicnn.backend import device as device_of
from minicnn.errors import InputError, unknown_name
from minicnn.layers.base import Context, Layer, Shape, checked_shape
from minicnn.layers.conv import Conv2D
from minicnn.layers.core import Input
from minicnn.layers.network import Network
from minicnn.reading import shortened
from minicnn.training.data import check_array, check_input
from minicnn.training.finite import quiet

if TYPE_CHECKING:
    from minicnn.callbacks import Callback, History
    from minicnn.inspect.diagnose import Diagnosis
    from minicnn.inspect.trace import Trace
    from minicnn.preprocessing.image_input import ImageInput


MOST_NAME = 200  # characters of a layer's name


class Sequential(Network):
    """Layers, each taking the output of the one before. A Sequential may be a layer of another one.

    layers: the layers, or add them one by one. The first may be Input(shape), or carry input_shape=; without either the
    model is built when it first sees data.

    class_names, image_input: what the outputs stand for, and how an image file becomes an input (a
    minicnn.preprocessing.image.ImageInput). The user may set both; they are saved with the model.
    device: where the arrays are and the work is done, "cpu", "gpu" or "gpu:1"; changed by `to`.
    """

    def __init__(self, layers: Iterable[Layer] | None = None, name: str | None = None, trainable: bool = True):
        self.layers: list[Layer] = []
        super().__init__(name=name)
        self.class_names: list[str] | None = None
        self.image_input: ImageInput | None = None
        self.optimizer: Any = None
        self.loss: Any = None
        self.metric_names: list[Any] = []
        self.metrics: list[minicnn.metrics.Metric] = []
        self.stop_training = False
        self.history: History | None = None
        self.rng = random.new_generator()
        self.device: Device = current_device()
        if isinstance(layers, Layer):
            raise InputError(
                self.name, "the layers are not in a list.", "a list of layers.", f"{layers!r}.",
                "write Sequential([...]), with brackets.",
            )  # fmt: skip
        for layer in layers or ():
            self.add(layer)
        if not trainable:
            self.trainable = False

    # ---- building -------------------------------------------------------------------------------------------------

    def add(self, layer: Layer) -> None:
        """Put a layer on top. Raises InputError where it cannot take the shape that reaches it."""
        if not isinstance(layer, Layer):
            raise InputError(
                self.name, "this is not a layer.", "an instance of a layer, such as Dense(10).", f"{layer!r}.",
                "write the parentheses: Flatten(), not Flatten." if isinstance(layer, type) else "add layers only.",
            )  # fmt: skip
        if layer is self or any(layer is other for other in self.layers):
            raise InputError(
                layer.name, "this layer is in the model already.", "a new layer for each place.",
                "the same object twice.", "make a second instance.",
            )  # fmt: skip
        if isinstance(layer, Input):
            if self.layers:
                raise InputError(
                    self.name, "Input is not the first layer.", "Input before all other layers.",
                    f"Input after {self.layers[-1].name}.", "move it to the front, or leave it out.",
                )  # fmt: skip
            self.input_shape = layer.input_shape
            return
        if not isinstance(layer.name, str) or not _can_name_a_layer(layer.name):
            raise InputError(
                self.name, "a layer cannot have this name.",
                f"a text of at most {MOST_NAME} characters, without slashes and control characters.",
                f"name={shortened(repr(layer.name))}.",
                'for example name="features"; "inner/dense_1" is dense_1 of the model inner.',
            )  # fmt: skip
        if not layer.named:
            # From now on it is the layer's own: a second model that shares the layer must not rename it in the first.
            layer.name, layer.named = self._free_name(layer.name), True
        elif any(layer.name == other.name for other in self.layers):
            raise InputError(
                layer.name, "two layers of this name.", "a name of its own for each layer.",
                f"name={layer.name!r} twice.", "rename one of them.",
            )  # fmt: skip
        input_shape = self.input_shape
        if not self.layers and input_shape is None:
            input_shape = layer.input_shape
        self.layers.append(layer)
        if input_shape is not None:
            try:
                self._build(input_shape)
            except InputError:
                self.layers.pop()
                raise

    def pop(self) -> Layer:
        """Take the last layer off, and return it. The optimizer forgets it."""
        if not self.layers:
            raise InputError(
                self.name, "there is no layer to take off.", "a model with layers.", "an empty Sequential.",
                "look at model.layers first.",
            )  # fmt: skip
        keys = set(self.layer_keys)
        layer = self.layers.pop()
        if self.optimizer is not None:
            gone = keys - set(self.layer_keys)
            self.optimizer.state = {key: slots for key, slots in self.optimizer.state.items() if key[0] not in gone}
        if self.built:
            self._shapes.pop()
            self._renew_metrics()
        return layer

    def build(self, input_shape: Shape, rng: np.random.Generator | None = None) -> None:
        """Create all parameters for samples of `input_shape` (no batch axis). Does nothing on a built model."""
        if rng is not None and not self.built:
            self.rng = rng
        if self.built:
            if checked_shape(self.name, input_shape) != self.input_shape:
                raise InputError(
                    self.name, "the model was built for another shape.", f"samples of shape {self.input_shape}.",
                    f"samples of shape {tuple(input_shape)}.", "build a new model.",
                )  # fmt: skip
            return
        self._build(checked_shape(self.name, input_shape))

    def _build(self, input_shape: Shape) -> None:
        shapes = self._infer(input_shape)  # of all layers first: where one does not fit, none is built
        for layer, shape in zip(self.layers, shapes, strict=False):
            if not layer.built:
                layer.build(shape, self.rng)
                layer.built, layer.built_for = True, shape
        self._move_arrays(self.layers)
        self._shapes, self.input_shape, self.built = shapes, input_shape, True
        self._renew_metrics()

    def _infer(self, input_shape: Shape) -> list[Shape]:
        """The shape of a sample before the first layer and after each one."""
        shapes = [tuple(input_shape)]
        for layer in self.layers:
            try:
                _check_built(layer, shapes[-1])
                shapes.append(layer.output_shape(shapes[-1]))
            except InputError as error:
                raise self._with_chain(error, shapes) from None
        return shapes

    def _with_chain(self, error: InputError, shapes: list[Shape]) -> InputError:
        """The error, with the chain of shapes that led to it."""
        names = ["input", *(layer.name for layer in self.layers)]
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

    def _free_name(self, name: str) -> str:
        taken = {layer.name for layer in self.layers}
        return next(f"{name}_{i}" for i in range(1, len(taken) + 2) if f"{name}_{i}" not in taken)

    def output_shape(self, input_shape: Shape) -> Shape:
        if self.built:
            self.build(input_shape)  # only compares: its layers were made for one shape
        return self._infer(input_shape)[-1]

    @property
    def shapes(self) -> list[Shape]:
        """The shape of a sample before the first layer and after each one."""
        self.require_built("its shapes are not known yet")
        return list(self._shapes)

    @property
    def trainable(self) -> bool:
        """Whether any layer inside may learn. Set it to freeze or free all of them; each keeps a flag of its own.

        It holds from the next step on. Unlike in Keras, no new compile is needed, and a layer that is freed inside a
        frozen model learns.
        """
        return not self.layers or any(layer.trainable for layer in self.layers)

    @trainable.setter
    def trainable(self, value: bool) -> None:
        for layer in self.layers:
            layer.trainable = value

    @property
    def flat_layers(self) -> list[Layer]:
        """The layers that compute, in order, those of inner models in their places."""
        return [
            leaf
            for layer in self.layers
            for leaf in (layer.flat_layers if isinstance(layer, Sequential) else [layer])
        ]

    @property
    def layer_keys(self) -> list[str]:
        """A name for each of flat_layers that is unique in the whole model: "conv2d_1", "vgg16/block1_conv1"."""
        return [
            key
            for layer in self.layers
            for key in (
                [f"{layer.name}/{inner}" for inner in layer.layer_keys]
                if isinstance(layer, Sequential)
                else [layer.name]
            )
        ]

    def get_layer(self, name: str | None = None, index: int | None = None) -> Layer:
        """The layer of this name or index. Raises UnknownNameError."""
        if index is not None:
            return self.layers[index]
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise unknown_name("layer", name, [layer.name for layer in self.layers])

    # ---- as a layer of another model ------------------------------------------------------------------------------

    def forward(self, x: Array, ctx: Context) -> Array:
        """All layers in turn, each on a page of its own (ctx.pages). Training runs over `flat_layers` instead."""
        layers = self.flat_layers
        ctx.pages = [Context(ctx.training, ctx.need_backward, True, ctx.step, ctx.seed + i, ctx.first, ctx.all_reduce)
                     for i in range(len(layers))]  # fmt: skip
        for layer, page in zip(layers, ctx.pages, strict=True):
            x = layer.forward(x, page)
        return x

    def backward(self, dy: Array, ctx: Context) -> Array | None:
        for layer, page in zip(reversed(self.flat_layers), reversed(ctx.pages), strict=True):
            dy = layer.backward(dy, page)
        return dy

    def macs(self, input_shape: Shape) -> int:
        total = 0
        for layer in self.layers:
            total += layer.macs(input_shape)
            input_shape = layer.output_shape(input_shape)
        return total

    # ---- weights --------------------------------------------------------------------------------------------------

    def count_params(self) -> int:
        self.require_built("its parameters do not exist yet")
        return sum(layer.count_params() for layer in self.layers)

    def get_weights(self) -> list[np.ndarray]:
        """Copies of all arrays on the host, layer by layer: parameters, then state."""
        return [array for layer in self.flat_layers for array in layer.get_weights()]

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

    def penalty(self) -> float:
        """What the regularizers add to the loss (on the GPU a 0-d array: nothing waits for it)."""
        return sum(
            regularizer.penalty(layer.params[name])
            for layer in self.flat_layers
            for name, regularizer in layer.regularizers.items()
            if regularizer is not None and name in layer.params
        )

    def new_seed(self) -> int:
        """A fresh seed for one step's random layers, from the model's generator."""
        return self.rng.bit_generator.random_raw() >> 1

    def to(self, device: str) -> Sequential:
        """Move all arrays to "cpu", "gpu" or "gpu:1", and compute there from now on. Returns the model itself.

        "auto": the GPU where there is one. Raises InputError where the GPU cannot be had, with the cause.
        """
        self.device = device_of(device)
        self._move_arrays(self.layers)
        if self.optimizer is not None:
            for key, slots in self.optimizer.state.items():
                self.optimizer.state[key] = [move(slot, self.device) for slot in slots]
        return self

    def _move_arrays(self, layers: Iterable[Layer]) -> None:
        """Bring what the layers hold to the model's device."""
        with explained_memory("the weights of the model", f"use smaller layers, or {_ELSEWHERE}"):
            for layer in layers:
                if isinstance(layer, Sequential):
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
        """A batch as the first layer takes it: in the parameters' dtype, on the model's device."""
        return self.device.xp.asarray(x, dtype=self.dtype)

    @property
    def dtype(self) -> np.dtype:
        """float32, or what the parameters were converted to."""
        for layer in self.flat_layers:
            for array in layer.params.values():
                return array.dtype
        return np.dtype(np.float32)

    # ---- training -------------------------------------------------------------------------------------------------

    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        metrics: Sequence[Any] | None = None,
    ) -> None:
        """Choose how the model learns, by name or object. `metrics` such as ["accuracy"]. Raises UnknownNameError."""
        if loss is None:
            raise InputError(
                "compile", "no loss was given.", "a loss, by name or object.", "None.",
                'for class numbers "sparse_categorical_crossentropy", for one-hot rows "categorical_crossentropy", '
                'for regression "mse".',
            )  # fmt: skip
        for argument, value in (("optimizer", optimizer), ("loss", loss)):
            if isinstance(value, type):
                raise InputError(
                    argument, "this is a class, not an object.", "a name or an object.", f"{value!r}.",
                    f"write the parentheses: {value.__name__}().",
                )  # fmt: skip
        names = list(metrics) if isinstance(metrics, (list, tuple)) else [] if metrics is None else [metrics]
        chosen = optimizers.get(optimizer), losses.get(loss)
        made = self._make_metrics(names, chosen[1])
        chosen[0].attach(self)
        self.optimizer, self.loss = chosen
        self.metric_names, self.metrics = names, made

    def _make_metrics(self, names: Sequence[Any], loss: Any) -> list[minicnn.metrics.Metric]:
        output = self._shapes[-1] if self.built else (None,)
        metrics = [minicnn.metrics.get(name, loss, output) for name in names]
        for metric in metrics:
            kind, wanted = type(metric).__name__, "class numbers" if loss.sparse else "one-hot rows"
            sparse = kind.startswith("Sparse")
            if isinstance(metric, _OF_CLASSES) and sparse != loss.sparse:
                raise InputError(
                    "metrics", f"{kind} and {type(loss).__name__} take different targets.",
                    f"a metric that takes {wanted}, as the loss does.", f"{metric.name!r}.",
                    f"use {kind.removeprefix('Sparse') if sparse else 'Sparse' + kind}, "
                    'or "accuracy", which stands for the one that fits.',
                )  # fmt: skip
        return metrics

    def _renew_metrics(self) -> None:
        """Which accuracy "accuracy" means depends on the output's shape, so again when that changes."""
        if self.loss is not None:
            self.metrics = self._make_metrics(self.metric_names, self.loss)

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: str | int = "auto",
        callbacks: Sequence[Callback] | Callback | None = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool = True,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        device: str | None = None,
        check_finite: bool = False,
    ) -> History:
        """Train. Returns History: history.history["loss"], ["accuracy"], ["val_loss"], … by epoch.

        x: (N, ...) array of samples and y the targets, or x a generator of batches (x, y) with steps_per_epoch, or an
        object with `len(x)` batches `x[i]` = (x, y), such as ImageDataGenerator.flow gives; so may validation_data be.
        Those of the latter are made while a step runs, in a thread of their own. steps_per_epoch: batches in an epoch;
        the next epoch goes on where it stopped.
        batch_size: 32 if None. epochs: train until this epoch, from initial_epoch (both counted from 0).
        verbose: 0 silent, 1 a bar for each epoch, 2 a line for each; "auto": 1 on a terminal and in notebooks, else 2.
        validation_split: this share of the samples, the last ones, is held back. validation_data: (x, y).
        shuffle: in a new order in every epoch. device: as `model.to(device)` before it; None: where the model is.
        check_finite: look at every number of every step. At the first NaN or infinity a NotFiniteError names layer,
        direction and batch, and the model is as it was before that step.
        Raises InputError before training where something does not fit.
        """
        from minicnn.training.loop import fit

        with self._computing(batch_size, device):
            return fit(
                self, x, y, batch_size, epochs, verbose, callbacks, validation_split, validation_data, shuffle,
                initial_epoch, steps_per_epoch, validation_steps, validation_batch_size, check_finite,
            )  # fmt: skip

    def evaluate(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        verbose: str | int = "auto",
        steps: int | None = None,
        callbacks: Sequence[Callback] | Callback | None = None,
        return_dict: bool = False,
        device: str | None = None,
    ) -> Any:
        """The loss, or [loss, metric, …], or a dict of them, on x and y, in evaluation mode. device: as in `fit`."""
        from minicnn.training.loop import evaluate

        with self._computing(batch_size, device):
            logs = evaluate(self, x, y, batch_size, verbose, steps, callbacks)
        if return_dict:
            return logs
        return list(logs.values()) if len(logs) > 1 else logs["loss"]

    def predict(
        self,
        x: Any,
        batch_size: int | None = None,
        verbose: str | int = "auto",
        steps: int | None = None,
        callbacks: Sequence[Callback] | Callback | None = None,
        device: str | None = None,
    ) -> np.ndarray:
        """The outputs (N, …) for x (N, …), in evaluation mode, on the host. No bar for a single batch.

        device: as in `fit`.
        """
        from minicnn.training.loop import predict

        with self._computing(batch_size, device):
            return predict(self, x, batch_size, verbose, steps, callbacks)

    @quiet
    def __call__(self, x: Any, training: bool = False) -> Array:
        """The outputs for one batch, in one piece and without a bar."""
        x = check_input(self, check_array("x", x), "x")
        seed = self.new_seed() if training else 0
        with self.device:
            return self.forward(self.as_input(x), Context(training, seed=seed))

    @contextmanager
    def _computing(self, batch_size: int | None, device: str | None) -> Iterator[None]:
        """Inside: on the model's device, after a move to `device` if that is given."""
        if device is not None:
            self.to(device)
        what = f"the arrays of a step of batch_size={32 if batch_size is None else batch_size}"
        with self.device, explained_memory(what, f"halve batch_size, or {_ELSEWHERE}"):
            yield

    def trace(self, x: Any, y: Any = None, training: bool = True) -> Trace:
        """The record of one training step on the batch x, y, which changes nothing: see minicnn.inspect.trace."""
        from minicnn.inspect.trace import trace

        return trace(self, x, y, training)

    def diagnose(self, x: Any, y: Any, validation_data: Any = None) -> Diagnosis:
        """The usual faults, as far as this training data shows them: see minicnn.inspect.diagnose."""
        from minicnn.inspect.diagnose import diagnose

        return diagnose(self, x, y, validation_data)

    def sanity_check(self, x: Any, y: Any) -> Diagnosis:
        """Do fresh copies begin as unsure as they should, and can they learn 20 images: minicnn.inspect.diagnose."""
        from minicnn.inspect.diagnose import sanity_check

        return sanity_check(self, x, y)

    # ---- what the model says of itself ----------------------------------------------------------------------------

    def summary(self, details: bool = False, print_fn: Any = None) -> None:
        """Print Keras' table of layers. details: multiply-accumulates, and the bytes of activations and im2col, too."""
        from minicnn.summary import summary

        summary(self, details, print_fn)

    def _repr_html_(self) -> str:
        """The summary as a table, which notebooks show."""
        from minicnn.summary import summary_html

        return summary_html(self)

    def get_config(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "input_shape": None if self.input_shape is None else list(self.input_shape),
            "layers": [{"class_name": type(layer).__name__, "config": layer.get_config(),
                        "trainable": layer.trainable} for layer in self.layers],
        }  # fmt: skip

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Sequential:
        """A new model of this architecture, without the weights. custom_objects: your own layer classes by name."""
        from minicnn.saving import model_from_config

        return model_from_config(config, _CLASSES, custom_objects)

    @classmethod
    def _restored(cls, config: dict[str, Any], custom_objects: Any) -> Sequential:
        """Inside of another configuration, nothing is built yet: a file's sizes are checked before they take memory."""
        from minicnn.saving.model_file import unbuilt

        return unbuilt(config, _CLASSES, custom_objects)

    def save(self, filepath: Any, overwrite: bool = True) -> None:
        """Write the whole model into one file: see minicnn.saving.save_model."""
        from minicnn.saving import save_model

        save_model(self, filepath, overwrite)

    def save_weights(self, filepath: Any, overwrite: bool = True) -> None:
        """Write parameters and state into one file: see minicnn.saving.save_weights."""
        from minicnn.saving import save_weights

        save_weights(self, filepath, overwrite)

    def load_weights(self, filepath: Any, skip_mismatch: bool = False, by_name: bool = False) -> None:
        """Read what save_weights or save wrote, or Keras: .h5, .weights.h5, .keras. See minicnn.saving.load_weights.

        by_name: only the layers of the same names. skip_mismatch: leave out, with a warning, what does not fit.
        Raises InputError, and changes nothing, where it does not fit.
        """
        from minicnn.saving import load_weights

        load_weights(self, filepath, skip_mismatch, by_name)

    def require_built(self, problem: str) -> None:
        if not self.built:
            raise InputError(
                self.name, problem + ": the model has not been built.", "a model that knows its input shape.",
                "a first layer without input_shape.", "begin with Input((28, 28, 1)), or call build((28, 28, 1)).",
            )  # fmt: skip


def load_model(filepath: Any, custom_objects: dict[str, type[Layer]] | None = None) -> Sequential:
    """The model that `save` wrote: see minicnn.saving.load_model."""
    from minicnn.saving import load_model as load

    return load(filepath, _CLASSES, custom_objects)


_CLASSES = {"Sequential": Sequential}  # which the room of files, further down, does not know

_ELSEWHERE = 'end what else uses the GPU (`nvidia-smi` lists it), or use device="cpu".'

_OF_CLASSES = (
    minicnn.metrics.CategoricalAccuracy,
    minicnn.metrics.SparseCategoricalAccuracy,
    minicnn.metrics.SparseTopKCategoricalAccuracy,
)


def _check_built(layer: Layer, shape: Shape) -> None:
    """InputError where a layer has its parameters already, and they are for samples with another last axis."""
    made_for = layer.built_for
    if made_for is not None and (layer.params or layer.state) and made_for[-1:] != shape[-1:]:
        raise InputError(
            layer.name, "the layer was built for another shape.", f"samples with {made_for[-1]} in the last axis.",
            f"samples of shape {shape}.", f"make a new {type(layer).__name__} for this place.",
        )  # fmt: skip


def _can_name_a_layer(name: str) -> bool:
    """Names of layers are parts of names in files, and are printed."""
    return 0 < len(name) <= MOST_NAME and not re.search(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff/]", name)


def _size(shape: Shape) -> str:
    return "×".join(map(str, shape))
