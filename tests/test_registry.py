"""Configurations: every object makes itself again from them, and a file's names reach nothing but what they may."""

from __future__ import annotations

import inspect
import json

import numpy as np
import pytest

from minicnn import constraints, initializers, layers, losses, metrics, optimizers, regularizers, schedules
from minicnn.errors import InputError, UnknownNameError
from minicnn.layers import Dense, Dropout, Input, Layer, ReLU
from minicnn.models import Model, Sequential, load_model
from minicnn.registry import Configured, restored, serialize

OBJECTS = [
    losses.CategoricalCrossentropy(label_smoothing=0.1), losses.MeanSquaredError(),
    metrics.BinaryAccuracy(threshold=0.3),
    metrics.TopKCategoricalAccuracy(2, name="top2"), optimizers.AdamW(0.02, clipnorm=1.0),
    optimizers.SGD(schedules.CosineDecay(0.1, 100), 0.9, True), initializers.HeNormal(seed=1), initializers.Zeros(),
    regularizers.L1L2(0.1, 0.2), constraints.MaxNorm(2.0, [0, 1]),
    schedules.PiecewiseConstantDecay([1, 2], [3.0, 2.0, 1.0]),
    Dense(3, "relu", kernel_regularizer="l2", bias_constraint=constraints.NonNeg(), name="d", trainable=False),
]  # fmt: skip


class Wrapped(Layer):
    """A layer of one's own that holds others."""

    def __init__(self, inner, more=(), **layer):
        super().__init__(**layer)
        self.inner, self.more = inner, more

    def forward(self, x, ctx):
        return self.inner.forward(x, ctx)

    def backward(self, dy, ctx):
        return self.inner.backward(dy, ctx)


@pytest.mark.parametrize("obj", OBJECTS, ids=lambda obj: type(obj).__name__)
def test_every_object_makes_itself_again(obj):
    config = json.loads(json.dumps(obj.get_config()))
    again = type(obj).from_config(config)
    assert type(again) is type(obj) and again.get_config() == obj.get_config()


def test_a_layer_that_holds_layers_comes_back_from_a_file(tmp_path):
    inner = Sequential([Input((4,)), Dense(2)])
    layer = Wrapped(ReLU(max_value=6), [Dropout(0.3), Dense(2, kernel_initializer=initializers.HeNormal(3)), inner])
    model = Sequential([Input((4,)), layer, Dense(2)])
    model.save(tmp_path / "m.zip")
    found = load_model(tmp_path / "m.zip", custom_objects={"Wrapped": Wrapped})
    again = found.layers[0]
    assert isinstance(again.inner, ReLU) and again.inner.max_value == 6
    assert [type(part) for part in again.more] == [Dropout, Dense, Sequential]
    assert again.more[0].rate == 0.3 and again.more[1].kernel_initializer.seed == 3
    assert not again.more[2].built  # a file's sizes are not believed before its arrays were looked at
    x = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)
    np.testing.assert_array_equal(found.predict(x, verbose=0), model.predict(x, verbose=0))


def test_a_class_with_a_from_config_of_its_own_gets_what_stood_in_the_file():
    class Own(Wrapped):
        @classmethod
        def from_config(cls, config):
            assert config["inner"]["class_name"] == "ReLU"
            return cls(restored(config["inner"]))

    again = restored(serialize(Own(ReLU())), {"Own": Own})
    assert isinstance(again.inner, ReLU)


def test_custom_objects_reach_what_is_inside():
    class Own(ReLU):
        pass

    again = restored(serialize(Wrapped(Own(), [Wrapped(Own())])), {"Wrapped": Wrapped, "Own": Own})
    assert isinstance(again.inner, Own) and isinstance(again.more[0].inner, Own)
    with pytest.raises(UnknownNameError, match="custom_objects"):
        restored(serialize(Wrapped(Own())), {"Wrapped": Wrapped})


@pytest.mark.parametrize("name", ["Path", "Popen", "InputError", "Context", "Wrapped", "Function", "_FromFunction"])
def test_a_name_reaches_no_other_class(name):
    with pytest.raises(UnknownNameError):
        restored({"class_name": name.lstrip("_"), "config": {}})
    assert restored({"class_name": "_FromFunction", "config": {}}) == {"class_name": "_FromFunction", "config": {}}


def test_a_name_that_is_a_loss_and_a_metric_stays_for_its_get():
    entry = {"class_name": "MeanSquaredError", "config": {}}
    assert restored(entry) == entry
    assert isinstance(losses.get(entry), losses.MeanSquaredError)
    assert isinstance(metrics.get(entry), metrics.MeanSquaredError)


@pytest.mark.parametrize(
    ("get", "other"),
    [
        (initializers.get, regularizers.L2()), (initializers.get, regularizers.L2),
        (regularizers.get, constraints.NonNeg()),
        (constraints.get, initializers.Zeros()), (optimizers.get, losses.MeanSquaredError()),
        (losses.get, metrics.MeanSquaredError()), (metrics.get, losses.MeanAbsoluteError()),
        (schedules.get, optimizers.SGD()),
    ],
)  # fmt: skip
def test_an_object_of_another_kind_is_refused(get, other):
    """A regularizer can be called with one argument, too, and was taken for an initializer."""
    with pytest.raises(InputError):
        get(other)


MODULES = (layers, losses, metrics, optimizers, initializers, regularizers, constraints, schedules)
CLASSES = {
    f"{module.__name__.rpartition('.')[2]}.{name}": found
    for module in MODULES for name, found in vars(module).items()
    if inspect.isclass(found) and issubclass(found, Configured) and found is not Configured
}  # fmt: skip


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("config", [None, 3, [], "a", {3: 4}, [("a", 1)], {"zzz": 1}], ids=repr)
def test_what_is_no_configuration_is_refused(name, config):
    with pytest.raises(InputError, match=r"Expected: (.|\n)*Received: (.|\n)*What to do: "):
        CLASSES[name].from_config(config)


@pytest.mark.parametrize("cls", [Sequential, Model])
@pytest.mark.parametrize(
    "config",
    [None, 3, [], {}, {"zzz": 1}, {"layers": 3}, {"layers": [3]}, {"layers": [{"class_name": "Dense"}]},
     {"name": "net", "layers": [{"class_name": "Nope", "config": {}}]}],
    ids=repr,
)  # fmt: skip
def test_what_is_no_configuration_of_a_network_is_refused(cls, config):
    with pytest.raises(InputError, match=r"Expected: (.|\n)*Received: (.|\n)*What to do: "):
        cls.from_config(config)


@pytest.mark.parametrize(
    "module", [module for module in MODULES if hasattr(module, "get")],
    ids=lambda module: module.__name__.rpartition(".")[2],
)  # fmt: skip
@pytest.mark.parametrize(
    "identifier",
    [3.5, [], {"class_name": "Nope", "config": {}}, {"class_name": 3}, {"class_name": "Adam", "config": [1]}, {"a": 1},
     object(), "nope", b"adam", np.ones(3)],
    ids=lambda identifier: type(identifier).__name__,
)  # fmt: skip
def test_what_names_nothing_is_refused(module, identifier):
    with pytest.raises(InputError):
        module.get(identifier)


@pytest.mark.parametrize("module", [m for m in MODULES if hasattr(m, "_KNOWN")], ids=lambda m: m.__name__[8:])
def test_a_name_with_what_is_no_configuration_is_refused(module):
    """Also of the names that are functions, such as "l1_l2"."""
    for name in module._KNOWN:
        for config in (3, None, [], {3: 1}, {"nothing_such": 1}):
            with pytest.raises(InputError, match=r"Expected: (.|\n)*Received: (.|\n)*What to do: "):
                module.get({"class_name": name, "config": config})
