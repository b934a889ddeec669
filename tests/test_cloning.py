"""clone_model: the same architecture, other weights."""

from __future__ import annotations

import numpy as np
import pytest

from minicnn.errors import InputError
from minicnn.layers import Add, BatchNormalization, Conv2D, Dense, Dropout, Flatten, Input, Layer
from minicnn.models import Model, Sequential, clone_model
from minicnn.optimizers import SGD

X = np.random.default_rng(0).random((4, 6, 6, 2)).astype("f")


class Doubled(Layer):
    def __init__(self, by=2.0, **layer):
        super().__init__(**layer)
        self.by = by

    def forward(self, x, ctx):
        return x * self.by

    def backward(self, dy, ctx):
        return dy * self.by


def chain() -> Sequential:
    return Sequential([
        Input((6, 6, 2)), Conv2D(3, 3, activation="relu", name="first"), BatchNormalization(), Dropout(0.5),
        Doubled(3.0), Flatten(), Dense(2, trainable=False),
    ])  # fmt: skip


def branched() -> Model:
    x = Input((6, 6, 2))
    shared = Conv2D(2, 3, padding="same", name="shared")
    inner = Sequential([Input((6, 6, 2)), Conv2D(2, 1), Dropout(0.5)], name="inner")
    y = Add()([shared(shared(x)), inner(x)])
    return Model(x, Dense(2)(Flatten()(y)), name="whole")


@pytest.mark.parametrize("make", [chain, branched])
def test_a_clone_computes_the_same_with_the_same_weights_and_shares_none(make):
    model = make()
    model.class_names = ["a", "b"]
    clone = clone_model(model)
    assert type(clone) is type(model)
    assert clone.name == model.name and clone.class_names == ["a", "b"] and clone.optimizer is None
    assert list(clone.layers_by_key) == list(model.layers_by_key)
    assert [layer.trainable for layer in clone.flat_layers] == [layer.trainable for layer in model.flat_layers]
    assert not np.array_equal(clone.get_weights()[0], model.get_weights()[0])
    before = model.get_weights()
    clone.set_weights(before)
    np.testing.assert_array_equal(clone.predict(X), model.predict(X))
    clone.compile("sgd", "mse")
    clone.fit(X, np.zeros((4, 2)), verbose=0)
    for old, now in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, now)


def test_the_clone_of_a_compiled_model_is_compiled_alike_and_has_an_optimizer_of_its_own():
    """As in Keras 3.15; it had to be compiled again."""
    model = chain()
    model.compile(SGD(0.25, momentum=0.5), "mse", metrics=["mae"], weighted_metrics=["mse"])
    model.fit(X, np.zeros((4, 2)), verbose=0)
    clone = clone_model(model)
    assert clone.compiled and clone.optimizer is not model.optimizer and clone.optimizer.iterations == 0
    assert clone.optimizer.get_config() == model.optimizer.get_config() and not clone.optimizer.state
    assert clone.metrics_names == model.metrics_names == ["loss", "mae", "mse"]
    assert all(new is not old for new, old in zip(clone.metrics, model.metrics, strict=True))
    assert set(clone.fit(X, np.zeros((4, 2)), verbose=0).history) == {"loss", "mae", "mse"}
    assert not clone_model(chain()).compiled


def test_a_layer_that_is_used_twice_stays_one():
    assert len(clone_model(branched()).flat_layers) == len(branched().flat_layers)


def test_clone_function_and_call_function():
    model = chain()
    wider = clone_model(model, clone_function=lambda layer: Dense(7) if isinstance(layer, Dense) else layer)
    assert wider.output_shape == (None, 7)
    assert wider.layers[0] is model.layers[0]

    x = Input((3,))
    model = Model(x, Dense(2)(Dense(4)(x)))

    def with_dropout(layer, x):
        return Dropout(0.5)(layer(x)) if isinstance(layer, Dense) else layer(x)

    found = clone_model(model, clone_function=lambda layer: layer, call_function=with_dropout)
    assert [type(layer).__name__ for layer in found.layers] == ["Dense", "Dropout", "Dense", "Dropout"]
    rows = np.random.default_rng(0).random((5, 3))
    np.testing.assert_array_equal(found.predict(rows), model.predict(rows))


def test_recursive_reaches_the_layers_of_inner_models():
    seen: list[str] = []

    def note(layer):
        seen.append(layer.name)
        return type(layer).from_config(layer.get_config())

    clone_model(branched(), clone_function=note)
    assert "inner" in seen and "dropout_1" not in seen
    seen.clear()
    clone_model(branched(), clone_function=note, recursive=True)
    assert "inner" not in seen and "dropout_1" in seen


def test_on_another_input():
    assert clone_model(Sequential([Dense(3)])).sample_shape is None
    assert clone_model(Sequential([Dense(3)]), input_tensors=Input((4,))).output_shape == (None, 3)
    x, y = Input((3,)), Input((3,))
    model = Model(x, Dense(4)(x))
    bigger = Model(y, Dense(1)(clone_model(model, input_tensors=[y]).output))
    assert bigger.output_shape == (None, 1)


@pytest.mark.parametrize(("call", "part"), [
    (lambda: clone_model(Dense(3)), "this is no model"),
    (lambda: clone_model(chain(), clone_function=lambda layer: None), "gave no layer"),
    (lambda: clone_model(chain(), clone_function=lambda: None), "cannot be called"),
    (lambda: clone_model(chain(), call_function=lambda layer, x: layer(x)), "one by one"),
    (lambda: clone_model(branched(), call_function=lambda layer, x: None), "no symbolic value"),
    (lambda: clone_model(chain(), input_tensors=np.zeros(3)), "one input"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(call, part):
    with pytest.raises(InputError, match=part):
        call()
