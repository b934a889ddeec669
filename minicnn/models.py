"""Model and Sequential: networks that learn.

    model = Sequential([Input((28, 28, 1)), Flatten(), Dense(128, activation="relu"), Dense(10, activation="softmax")])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    history = model.fit(x_train, y_train, epochs=5)

What a network is made of is in `minicnn/layers/network.py`. To follow a batch: fit is in `minicnn/training/loop.py`,
one step of it in `minicnn/training/step.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

import minicnn.metrics
from minicnn import losses, optimizers
from minicnn.arguments import in_words
from minicnn.backend import device as device_of
from minicnn.backend import explained_memory, move, quiet
from minicnn.errors import InputError, shortened
from minicnn.layers import walk
from minicnn.layers.base import Layer
from minicnn.layers.cloning import clone_model
from minicnn.layers.network import ELSEWHERE, Chain, Network
from minicnn.layers.symbolic import is_symbolic
from minicnn.ranks import together
from minicnn.registry import check_config
from minicnn.training.checks import check_array, check_input, whole

__all__ = ["Model", "Sequential", "clone_model", "load_model"]

if TYPE_CHECKING:
    from minicnn.callbacks import Callback, History
    from minicnn.inspect.diagnose import Diagnosis
    from minicnn.inspect.trace import Trace
    from minicnn.preprocessing.image_input import ImageInput


@in_words
class Model(Network):
    """A network that branches and learns: Keras' functional API.

        x = Input((32, 32, 3))
        y = Conv2D(16, 3, padding="same", activation="relu")(x)
        y = Add()([y, Conv2D(16, 3, padding="same")(y)])
        model = Model(x, Dense(10, activation="softmax")(Flatten()(y)))

    inputs, outputs: one symbolic value each. Everything between them belongs to the model; so it can be cut at any
    layer: Model(model.input, model.get_layer("conv2d_2").output). A Model or Sequential may be called like a layer.

    class_names, image_input: what the outputs stand for, and how an image file becomes an input (a
    minicnn.preprocessing.image.ImageInput). The user may set both; they are saved with the model.
    device: where the arrays are and the work is done, "cpu", "gpu" or "gpu:1"; changed by `to`.
    """

    def _begin(self, name: str | None) -> None:
        super()._begin(name)
        self.class_names: list[str] | None = None
        self.image_input: ImageInput | None = None
        self.optimizer: Any = None
        self.loss: Any = None
        self.metric_names: list[Any] = []
        self.weighted_metric_names: list[Any] = []
        self.metrics: list[minicnn.metrics.Metric] = []
        self.stop_training = False
        self.history: History | None = None
        self.stop_evaluating = self.stop_predicting = False
        self._calls = 0  # in training mode

    def to(self, device: str) -> Model:
        """Move all arrays to "cpu", "gpu" or "gpu:1", and compute there from now on. Returns the model itself.

        "auto": the GPU where there is one. Raises InputError where the GPU cannot be had, with the cause.
        """
        self.device = device_of(device)
        self._move_arrays(self.layers)
        if self.optimizer is not None:
            for key, slots in self.optimizer.state.items():
                self.optimizer.state[key] = [move(slot, self.device) for slot in slots]
        return self

    # ---- training -------------------------------------------------------------------------------------------------

    @property
    def compiled(self) -> bool:
        """Whether compile was called: it can be trained."""
        return self.loss is not None

    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        loss_weights: Any = None,
        metrics: Sequence[Any] | None = None,
        weighted_metrics: Any = None,
        run_eagerly: bool = False,
        steps_per_execution: int = 1,
        jit_compile: Any = "auto",
        auto_scale_loss: bool = True,
    ) -> None:
        """Choose how the model learns, by name or object. `metrics` such as ["accuracy"]. Raises UnknownNameError.

        weighted_metrics: metrics in which sample_weight and class_weight count, as they do in the loss.
        The arguments after these, and loss_weights, are Keras': they are taken where they ask for nothing that is not
        there (every layer runs by itself, one step at a time), and refused with an InputError otherwise.
        """
        if metrics is None and isinstance(loss_weights, (list, tuple)) and not any(map(_is_number, loss_weights)):
            metrics, loss_weights = loss_weights, None  # metrics in the third place: they can be nothing else
        _refuse_compile_options(
            loss_weights=loss_weights, steps_per_execution=steps_per_execution, jit_compile=jit_compile
        )
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
        names, weighted = _as_list(metrics), _as_list(weighted_metrics)
        chosen = optimizers.get(optimizer), losses.get(loss)
        made = self._make_metrics(names, weighted, chosen[1])
        chosen[0].attach(self)
        self.optimizer, self.loss = chosen
        self.metric_names, self.weighted_metric_names, self.metrics = names, weighted, made

    def _make_metrics(
        self, names: Sequence[Any], weighted: Sequence[Any], loss: Any
    ) -> list[minicnn.metrics.Metric]:
        output = self._shapes[-1] if self.built else (None,)
        metrics = [minicnn.metrics.get(name, loss, output) for name in (*names, *weighted)]
        taken = {metric.name for metric in metrics[: len(names)]}
        for i, metric in enumerate(metrics):
            metric.weighted = i >= len(names)
            if metric.weighted and metric.name in taken:
                metric.name = f"weighted_{metric.name}"
        for metric in metrics:
            kind, wanted = type(metric).__name__, "class numbers" if loss.sparse else "one-hot rows"
            sparse = any(base.__name__.startswith("Sparse") for base in type(metric).__mro__)
            if isinstance(metric, _OF_CLASSES) and sparse != loss.sparse:
                raise InputError(
                    "metrics", f"{kind} and {type(loss).__name__} take different targets.",
                    f"a metric that takes {wanted}, as the loss does.", f"{metric.name!r}.",
                    f"use {kind.removeprefix('Sparse') if kind.startswith('Sparse') else 'Sparse' + kind}, "
                    'or "accuracy", which stands for the one that fits.',
                )  # fmt: skip
        return minicnn.metrics.checked_for_training(metrics)

    def built_hook(self) -> None:
        """Which accuracy "accuracy" means depends on the output's shape, so again when that changes."""
        if self.loss is not None:
            self.metrics = self._make_metrics(self.metric_names, self.weighted_metric_names, self.loss)

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
        class_weight: dict[int, float] | None = None,
        sample_weight: Any = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        validation_freq: int | Sequence[int] = 1,
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
        validation_split: this share of the samples, the last ones, is held back. validation_data: (x, y), or (x, y,
        sample_weight). validation_freq: after every so many epochs, or a list of those (from 1).
        sample_weight: (N,), how much each sample counts in the loss, or one for each position of the output; a
        generator yields (x, y, sample_weight). class_weight: class number -> weight of its samples; 1 if left out.
        shuffle: in a new order in every epoch. device: as `model.to(device)` before it; None: where the model is.
        check_finite: look at every number of every step. At the first NaN or infinity a NotFiniteError names layer,
        direction and batch, and the model is as it was before that step.
        Raises InputError before training where something does not fit.
        """
        from minicnn.training.loop import fit

        with self._computing("fit", batch_size, device):
            return fit(
                self, x, y, batch_size, epochs, verbose, callbacks, validation_split, validation_data, shuffle,
                class_weight, sample_weight, initial_epoch, steps_per_epoch, validation_steps, validation_batch_size,
                validation_freq, check_finite,
            )  # fmt: skip

    def evaluate(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        verbose: str | int = "auto",
        sample_weight: Any = None,
        steps: int | None = None,
        callbacks: Sequence[Callback] | Callback | None = None,
        return_dict: bool = False,
        device: str | None = None,
    ) -> Any:
        """The loss, or [loss, metric, …], or a dict of them, on x and y, in evaluation mode.

        sample_weight, device: as in `fit`.
        """
        from minicnn.training.loop import evaluate

        with self._computing("evaluate", batch_size, device):
            logs = evaluate(self, x, y, batch_size, verbose, sample_weight, steps, callbacks)
        return _as_asked(logs, return_dict)

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

        with self._computing("predict", batch_size, device):
            return predict(self, x, batch_size, verbose, steps, callbacks)

    def train_on_batch(
        self, x: Any, y: Any = None, sample_weight: Any = None, class_weight: Any = None, return_dict: bool = False
    ) -> Any:
        """One training step on one batch. Its loss and metrics before the step, as `evaluate` returns them.

        Arguments as in `fit`; y and weights may come in x, a tuple. Raises InputError.
        """
        from minicnn.training.loop import train_on_batch

        return _as_asked(train_on_batch(self, x, y, sample_weight, class_weight), return_dict)

    def test_on_batch(self, x: Any, y: Any = None, sample_weight: Any = None, return_dict: bool = False) -> Any:
        """Judge one batch: its loss and metrics, as `evaluate` returns them."""
        from minicnn.training.loop import test_on_batch

        return _as_asked(test_on_batch(self, x, y, sample_weight), return_dict)

    def predict_on_batch(self, x: Any) -> np.ndarray:
        """The outputs for one batch, on the host."""
        return self.predict(x, batch_size=max(1, len(x)), verbose=0)

    @in_words
    @quiet
    def __call__(self, x: Any, training: bool | None = None) -> Any:
        """The outputs for one batch, in one piece and without a bar; a symbolic value for a symbolic value.

        training: with dropout, whose masks differ from call to call, and with the batch's statistics; the running ones
        of batch normalisation move, as in Keras. None: not so, but the layers that draw new images (RandomFlip, …) do
        it; `predict` leaves images as they are.
        """
        if is_symbolic(x):
            return super().__call__(x)
        x = check_input(self, check_array("x", x), "x")
        nodes = self.nodes
        draws = training or (training is None and self.augments is None)
        self._calls += bool(draws)
        with self.device:
            contexts = walk.new_contexts(nodes, training, step=self._calls, seed=self.new_seed() if draws else 0)
            y = walk.forward(nodes, contexts, self.as_input(x))
            walk.apply_state(nodes, contexts)
        return y

    @contextmanager
    def _computing(self, name: str, batch_size: int | None, device: str | None) -> Iterator[None]:
        """Inside: on all ranks, on the model's device, after a move to `device` if that is given."""
        what = f"the arrays of a step of batch_size={32 if batch_size is None else batch_size}"
        with together(f"the end of {name}"):
            if device is not None:
                self.to(device)
            with self.device, explained_memory(what, f"halve batch_size, or {ELSEWHERE}"):
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

    def summary(
        self, line_length: int | None = None, positions: Any = None, print_fn: Any = None, *, details: bool = False
    ) -> None:
        """Print Keras' table of layers. details: multiply-accumulates, and the bytes of activations and im2col, too.

        line_length: how wide the table is at least. positions: Keras' places of columns; they find their own here, so
        it is refused with an InputError unless None. print_fn: takes each line instead of print.
        """
        from minicnn.summary import summary

        if positions is not None:
            raise InputError(
                "summary", "the columns find their own places.", "positions left out.", f"{positions!r}.",
                "use line_length for a wider table.",
            )  # fmt: skip
        summary(self, details, print_fn, 0 if line_length is None else whole("line_length", line_length))

    @property
    def metrics_names(self) -> list[str]:
        """The names of what `evaluate` returns, in its order."""
        return ["loss", *(metric.name for metric in self.metrics)]

    def to_json(self) -> str:
        """The architecture as JSON, without the weights: `Model.from_config(json.loads(text))` makes it again."""
        return json.dumps(self.get_config())

    def _repr_html_(self) -> str:
        """The summary as a table, which notebooks show."""
        from minicnn.summary import summary_html

        return summary_html(self)

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        """A new model of this architecture, without the weights. custom_objects: your own layer classes by name.

        Raises InputError where config is not what get_config of such a model returns.
        """
        check_config(cls.__name__, config)
        try:
            network = cls.unbuilt(config, custom_objects)
        except (KeyError, TypeError, IndexError, AttributeError) as error:  # parts that are missing, or another thing
            raise InputError(
                cls.__name__, "this is no configuration of a network.", "what model.get_config() returns.",
                f"{shortened(repr(config))} ({type(error).__name__}: {error}).",
                "make it from a model; a saved one is read by minicnn.load_model.",
            ) from error  # fmt: skip
        network.build_known()
        return network

    def save(self, filepath: Any, overwrite: bool = True) -> None:
        """Write the whole model into one file: see minicnn.saving.save_model. Keras 3 opens one named "….keras"."""
        from minicnn.saving import save_model

        save_model(self, filepath, overwrite)

    def to_onnx(
        self, filepath: Any, layout: str = "nhwc", fold_batch_norm: bool = True, overwrite: bool = True
    ) -> None:
        """Write a network for onnxruntime and the like, which computes what `predict` does: see docs/onnx.md.

        layout: of the images that it takes: "nhwc", channels last as here, or "nchw", which saves it a transposition.
        fold_batch_norm: a batch normalisation becomes part of the convolution or dense layer before it. Dropout is left
        out. class_names and image_input ride along as metadata, JSON texts.
        Raises InputError for a layer or an activation that ONNX has no rule for, and where the package onnx is missing;
        FileExistsError unless `overwrite`, WriteError.
        """
        from minicnn.saving.onnx_file import save_onnx
        from minicnn.training.plan import plan

        self.require_built("it cannot be written as ONNX")
        save_onnx(self, plan(self.nodes) if fold_batch_norm else self.nodes, filepath, layout, overwrite)

    def save_weights(self, filepath: Any, overwrite: bool = True) -> None:
        """Write parameters and state into one file, of the safetensors library where its name ends so.

        See minicnn.saving.save_weights.
        """
        from minicnn.saving import save_weights

        save_weights(self, filepath, overwrite)

    def load_weights(self, filepath: Any, skip_mismatch: bool = False, by_name: bool = False) -> None:
        """Read what save_weights or save wrote, or Keras (.h5, .weights.h5, .keras), or a safetensors file.

        See minicnn.saving.load_weights.

        by_name: only the layers of the same names (of Keras' files, those that were given by hand). skip_mismatch:
        leave out, with a warning, what does not fit.
        Raises InputError, and changes nothing, where it does not fit.
        """
        from minicnn.saving import load_weights

        load_weights(self, filepath, skip_mismatch, by_name)


class Sequential(Chain, Model):
    """Layers, each taking the output of the one before, that learn. A Sequential may be a layer of another model.

    layers: the layers, or add them one by one. The first may be Input(shape), or carry input_shape=; without either the
    model is built when it first sees data. trainable: False freezes all of them. name: "sequential" if None. The rest
    as in Model.
    """

    def __init__(self, layers: Iterable[Any] | None = None, trainable: bool = True, name: str | None = None):
        super().__init__(layers, trainable, name)

    def pop(self) -> Layer:
        """Take the last layer off, and return it. The optimizer forgets it."""
        keys = set(self.layers_by_key)
        layer = super().pop()
        if self.optimizer is not None:
            gone = keys - set(self.layers_by_key)
            self.optimizer.state = {key: slots for key, slots in self.optimizer.state.items() if key[0] not in gone}
        return layer


@in_words
def load_model(filepath: Any, custom_objects: dict[str, type[Layer]] | None = None) -> Any:
    """The model that `save` wrote, or Keras (.keras, .h5): see minicnn.saving.load_model."""
    from minicnn.saving import load_model as load

    return load(filepath, _CLASSES, custom_objects)


def _as_list(metrics: Any) -> list[Any]:
    return list(metrics) if isinstance(metrics, (list, tuple)) else [] if metrics is None else [metrics]


def _is_number(value: Any) -> bool:
    return isinstance(value, Real)


def _as_asked(logs: dict[str, float], return_dict: bool) -> Any:
    """The loss, or [loss, metric, …], or a dict of them."""
    if return_dict:
        return logs
    return list(logs.values()) if len(logs) > 1 else logs["loss"]


def _refuse_compile_options(**options: Any) -> None:
    """InputError for an argument of Keras' compile that asks for what there is not."""
    fine: dict[str, tuple[Any, ...]] = {
        "loss_weights": (None,), "steps_per_execution": (1,), "jit_compile": ("auto", False, None),
    }
    instead = {
        "loss_weights": "a model has one loss. For metrics write metrics=[...]: here, as in Keras, they come fourth.",
        "steps_per_execution": "leave it out: every step is one call.",
        "jit_compile": "leave it out: there is no compiler, NumPy does the work.",
    }
    for name, value in options.items():
        if value not in fine[name]:
            wanted = f"{name}={fine[name][0]!r}, or nothing."
            raise InputError("compile", f"{name} cannot be had.", wanted, f"{value!r}.", instead[name])


_CLASSES = {"Sequential": Sequential, "Model": Model}  # which the room of files, further down, does not know

_OF_CLASSES = (
    minicnn.metrics.CategoricalAccuracy,
    minicnn.metrics.SparseCategoricalAccuracy,
    minicnn.metrics.SparseTopKCategoricalAccuracy,
)
