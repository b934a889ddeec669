"""Calls with a misspelt, missing or superfluous argument: three parts and a suggestion, never a bare TypeError."""

from __future__ import annotations

import copy
import importlib
import inspect
import pickle
import warnings

import numpy as np
import pytest

import minicnn
from minicnn import callbacks, losses, metrics, optimizers, regularizers, schedules, utils
from minicnn.arguments import in_words
from minicnn.errors import InputError, UnknownNameError
from minicnn.layers import Conv2D, Dense, Dropout, Input, Layer
from minicnn.models import Model, Sequential
from minicnn.preprocessing.image import ImageDataGenerator, load_img

X = np.random.default_rng(0).random((12, 4)).astype("f")
Y = np.arange(12) % 3


def net() -> Sequential:
    model = Sequential([Input((4,)), Dense(3, activation="softmax")])
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


MISSPELT = [
    (lambda: Conv2D(filter=3, kernel_size=3), "argument of Conv2D", "'filters'"),
    (lambda: Dense(unit=3), "argument of Dense", "'units'"),
    (lambda: Dense(3, activaton="relu"), "argument of Dense", "'activation'"),
    (lambda: net().fit(X, Y, epoch=3), "argument of Sequential.fit", "'epochs'"),
    (lambda: net().compile(optimiser="adam", loss="mse"), "argument of Sequential.compile", "'optimizer'"),
    (lambda: net().evaluate(X, Y, batchsize=3), "argument of Sequential.evaluate", "'batch_size'"),
    (lambda: net()(X, trainig=True), "argument of Sequential", "'training'"),
    (lambda: callbacks.EarlyStopping(patiance=3), "argument of EarlyStopping", "'patience'"),
    (lambda: ImageDataGenerator(rotation=3), "argument of ImageDataGenerator", "'rotation_range'"),
    (lambda: load_img("a.png", colour_mode="rgb"), "argument of load_img", "'color_mode'"),
    (lambda: Model(input=1, outputs=2), "argument of Model", "'inputs'"),
    (lambda: losses.Huber(detla=1), "argument of Huber", "'delta'"),
    (lambda: metrics.MeanIoU(num_class=1), "argument of MeanIoU", "'num_classes'"),
    (lambda: optimizers.SGD(lr=0.1), "argument of SGD", "'learning_rate'"),
    (lambda: schedules.ExponentialDecay(0.1, decay_step=3, decay_rate=0.1), "argument of ExponentialDecay",
     "'decay_steps'"),
    (lambda: regularizers.L2(l=3), "argument of L2", "'l2'"),
    (lambda: utils.to_categorical(Y, num_class=3), "argument of to_categorical", "'num_classes'"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "where", "suggestion"), MISSPELT, ids=[where for _, where, _ in MISSPELT])
def test_a_misspelt_argument(call, where, suggestion):
    with pytest.raises(UnknownNameError, match=f"did you mean {suggestion}") as caught:
        call()
    assert caught.value.where == where


OTHERS = [
    (lambda: Dense(), "Dense", "units is missing.", "units=…"),
    (lambda: Dropout(), "Dropout", "rate is missing.", "rate=…"),
    (lambda: Model(), "Model", "inputs and outputs are missing.", "Model(inputs=…, outputs=…)"),
    (lambda: minicnn.load_model(), "load_model", "filepath is missing.", "load_model(filepath=…)"),
    (lambda: net().save(), "Sequential.save", "filepath is missing.", "save(filepath=…)"),
    (lambda: Dense(3, units=4), "Dense", "units was given twice.", "leave out one"),
    (lambda: Dense(*range(1, 12)), "Dense", "there are too many arguments.", "by their names"),
    (lambda: callbacks.ModelCheckpoint(), "ModelCheckpoint", "filepath is missing.", "filepath=…"),
    (lambda: metrics.MeanSquaredError()(Y), "MeanSquaredError", "y_pred is missing.", "y_pred=…"),
    (lambda: net().save(3), "save", "this is no path.", "model.zip"),
    (lambda: net().save_weights(None), "save_weights", "this is no path.", "model.zip"),
    (lambda: net().load_weights(True), "load_weights", "this is no path.", "model.zip"),
    (lambda: minicnn.load_model(3), "load_model", "this is no path.", "model.zip"),
    (lambda: minicnn.load_model("a\0.keras"), "load_model", "this is no path.", "model.zip"),
    (lambda: net().save("a\0.zip"), "save", "this is no path.", "model.zip"),
    (lambda: net().load_weights("a\0.safetensors"), "load_weights", "this is no path.", "model.zip"),
    (lambda: callbacks.CSVLogger("a\0.csv"), "CSVLogger filename", "this is no path.", "model.zip"),
    (lambda: net().trace(X, Y).to_html("a\0.html"), "the path to write to", "this is no path.", "model.zip"),
    (lambda: net().trace(X, Y).save(None), "the path to write to", "this is no path.", "model.zip"),
    (lambda: type(net().trace(X)).load("a\0.npz"), "the path to read from", "this is no path.", "model.zip"),
    (lambda: minicnn.inspect.architecture(net(), save=3), "save", "this is no path.", "model.zip"),
    (lambda: minicnn.datasets.read_idx(3), "read_idx", "this is no path.", "model.zip"),
    (lambda: minicnn.datasets.read_csv("a\0.csv"), "the path to read from", "this is no path.", "model.zip"),
    (lambda: minicnn.inspect.confusion_matrix(None, Y), "labels", "these are no numbers.", "one for each sample"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "where", "problem", "fix"), OTHERS, ids=[f"{w}: {p}" for _, w, p, _ in OTHERS])
def test_a_call_that_does_not_fit(call, where, problem, fix):
    with pytest.raises(InputError) as caught:
        call()
    assert caught.value.where == where
    assert caught.value.problem == problem
    assert fix in caught.value.fix


PUBLIC = [
    "layers", "losses", "metrics", "optimizers", "schedules", "initializers", "regularizers", "constraints",
    "datasets.get_file", "layers.cloning",
    "callbacks", "utils", "preprocessing.image", "applications", "datasets", "datasets.mnist", "datasets.toy",
    "datasets.cifar10", "datasets.fashion_mnist", "gradcheck", "inspect",
]  # fmt: skip
NOT_CALLED = {
    "CallbackList", "LambdaCallback",  # any name may be a hook's
    "ArrayReport", "Report", "DataFile", "Context", "get", "compute_fans", "is_kink", "moved",  # what others call
}  # fmt: skip


def public() -> dict[str, object]:
    found = {f"minicnn.{name}": getattr(minicnn, name) for name in minicnn.__all__}
    for place in PUBLIC:
        module = importlib.import_module(f"minicnn.{place}")
        names = getattr(module, "__all__", None) or [n for n, o in vars(module).items() if is_own(o, module)]
        found |= {f"{place}.{name}": getattr(module, name) for name in names if name not in NOT_CALLED}
    return {
        name: thing for name, thing in found.items()
        if inspect.isfunction(thing) or inspect.isclass(thing) and not issubclass(thing, BaseException)
    }  # fmt: skip


def is_own(thing, module) -> bool:
    return getattr(thing, "__module__", "") == module.__name__ and not thing.__name__.startswith("_")


@pytest.mark.parametrize("name", public())
def test_every_public_function_and_class_names_an_argument_that_it_does_not_have(name):
    with pytest.raises(UnknownNameError, match="nonsense"):
        public()[name](nonsense=3)


def test_every_public_method_of_a_model_does():
    model = net()
    for name, method in inspect.getmembers(Model, inspect.isfunction):
        if name in vars(Model) and not name.startswith("_"):
            with pytest.raises(UnknownNameError, match=r"'nonsense'"):
                getattr(model, name)(nonsense=3)
            assert method.__name__ == name


def test_a_type_error_from_within_stays_what_it_is():
    """The control: only what is wrong with the call itself is said anew."""

    class Broken(callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            return len(3)

    with pytest.raises(TypeError, match="has no len") as caught:
        net().fit(X, Y, callbacks=Broken(), verbose=0)
    assert not isinstance(caught.value, InputError)

    @in_words
    def inner(a):
        return a + "a"

    with pytest.raises(TypeError, match="unsupported operand"):
        inner(3)


def test_own_classes_have_it_too():
    class Scale(Layer):
        def __init__(self, factor, **layer):
            super().__init__(**layer)
            self.factor = factor

    class Stop(callbacks.Callback):
        def __init__(self, after):
            super().__init__()

    with pytest.raises(InputError, match="did you mean 'factor'"):
        Scale(facter=3)
    with pytest.raises(InputError, match="did you mean 'after'"):
        Stop(aftr=3)
    assert Scale(3).get_config()["factor"] == 3


def test_signatures_copies_and_pickles_stay():
    assert list(inspect.signature(Dense).parameters)[:2] == ["units", "activation"]
    assert list(inspect.signature(Model.fit).parameters)[1:4] == ["x", "y", "batch_size"]
    layer = copy.deepcopy(Dense(3))
    assert pickle.loads(pickle.dumps(layer)).units == 3


def test_warnings_point_to_the_call():
    """Each call in words is one frame more: the line that is named is still the user's."""
    model = Sequential([Input((4,)), Dense(3)])
    model.compile("sgd", "sparse_categorical_crossentropy")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(X, Y, verbose=0)
    assert [w.filename for w in caught] == [__file__]


# ---- messages beside -------------------------------------------------------------------------------------------------


def test_several_inputs_or_outputs():
    model = net()
    for work in (lambda: model.fit([X, X], Y), lambda: model.evaluate((X, X), Y), lambda: model.predict([X, X]),
                 lambda: model.fit({"a": X}, Y)):  # fmt: skip
        with pytest.raises(InputError, match="a model has one input"):
            work()
    with pytest.raises(InputError, match="a model has one output"):
        model.fit(X, [Y, Y])
    assert model.optimizer.iterations == 0
    model.fit(list(X), list(Y), verbose=0)  # a list of samples
    assert model.predict(list(X), verbose=0).shape == (12, 3)


@pytest.mark.parametrize("name", ["crossentropy", "cross_entropy", "CrossEntropyLoss", "log_loss"])
def test_there_is_more_than_one_cross_entropy(name):
    with pytest.raises(UnknownNameError, match="sparse_categorical_crossentropy.*categorical_.*binary_"):
        net().compile("adam", name)


def test_a_class_weight_below_0():
    with pytest.raises(InputError, match="a weight is below 0"):
        net().fit(X, Y, class_weight={0: -1.0})
