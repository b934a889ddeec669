"""Faults that were reported, each as the short program that showed it, with the right value.

About layers of one's own, penalties, and lists of layers. Others stand beside what they are about: a schedule with
decay in test_optimizers.py, networks that branch in test_branches.py.
"""

from __future__ import annotations

import numpy as np
import pytest
from helpers import random

import minicnn
from minicnn.errors import InputError
from minicnn.layers import Activation, BatchNormalization, Dense, Dropout, Input, Layer, ReLU
from minicnn.models import Model, Sequential, load_model
from minicnn.optimizers import SGD
from minicnn.regularizers import L2


@pytest.fixture(autouse=True)
def seeded():
    minicnn.utils.set_random_seed(0)


class Same(Layer):
    """y = x; keeps what it is given, and what it has seen."""

    def __init__(self, layers=None, inner=None, **layer):
        super().__init__(**layer)
        self.layers, self.inner = layers, inner

    def forward(self, x, ctx):
        vars(self)["seen"] = x
        return x

    def backward(self, dy, ctx):
        return dy


def test_one_loss_of_a_model_with_a_frozen_penalised_layer():
    """On the same data, at rate 0: fit, validation, evaluate, trace. Keras counts what learns in all of them."""
    model = Sequential(
        [
            Input((4,)),
            Dense(3, kernel_regularizer=L2(1.0), name="a"),
            Dense(2, kernel_regularizer=L2(0.1)),
            Activation("softmax"),
        ]
    )
    model.compile(SGD(0.0), "sparse_categorical_crossentropy")
    model.get_layer("a").trainable = False
    x, y = random((8, 4), dtype=np.float32), np.arange(8) % 2
    history = model.fit(x, y, batch_size=8, validation_data=(x, y), verbose=0).history
    p = model.predict(x, verbose=0)[np.arange(8), y]
    right = -np.log(p).mean() + 0.1 * (model.layers[1].params["w"] ** 2).sum()
    losses = [history["loss"][0], history["val_loss"][0], model.evaluate(x, y, verbose=0), model.trace(x, y).loss]
    np.testing.assert_allclose(losses, right, rtol=1e-5)


def test_dropout_in_a_layer_and_behind_it_draw_two_masks():
    class Block(Layer):
        def __init__(self, **layer):
            super().__init__(**layer)
            self.inner = Sequential([Activation("linear"), Dropout(0.5)])

        def build(self, input_shape, rng):
            self.inner.build(input_shape, rng)

        def forward(self, x, ctx):
            return self.inner.forward(x, ctx)

        def backward(self, dy, ctx):
            return self.inner.backward(dy, ctx)

    model = Sequential([Input((1000,)), Block(), Dropout(0.5)])
    kept = (model(np.ones((8, 1000)), training=True) != 0).mean()
    assert abs(kept - 0.25) < 0.02


@pytest.mark.parametrize("free", [True, False])
def test_weights_inside_a_layer_of_ones_own_are_not_forgotten_in_silence(free, recwarn):
    """Training sees the parameters of the layers of a network, not those that one of them holds."""

    class Block(Same):
        def build(self, input_shape, rng):
            self.inner.build(input_shape, rng)

    model = Sequential([Input((4,)), Block(inner=Sequential([Dense(4, name="hidden", trainable=free)])), Dense(2)])
    model.compile("sgd", "mse")
    model.fit(np.ones((4, 4)), np.ones((4, 2)), verbose=0)
    said = [str(warning.message) for warning in recwarn]
    assert (len(said) == 1 and "block_1 holds layers" in said[0] and "hidden" in said[0]) if free else not said


def test_the_last_layer_is_the_one_that_computes_last(recwarn):
    """Also where it was used before: its activation is what the loss takes."""
    dense, x = Dense(3, activation="softmax"), Input((3,))
    model = Model(x, dense(Dense(3)(dense(x))))
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(np.ones((4, 3)), np.arange(4) % 3, verbose=0)
    assert not [str(warning.message) for warning in recwarn]


@pytest.mark.parametrize("layers", [None, [], [Dense(2)]])
def test_an_attribute_called_layers_is_the_users_own(layers):
    model = Sequential([Input((4,)), Same(layers), Dense(2, activation="softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    x, y = np.ones((8, 4)), np.arange(8) % 2
    model.fit(x, y, verbose=0)
    assert model.predict(x, verbose=0).shape == (8, 2)
    model.summary(print_fn=str)


def test_a_layer_as_an_argument_is_saved_and_loaded(tmp_path):
    model = Sequential([Input((4,)), Same(inner=ReLU(max_value=2.0)), Same(layers=[ReLU(), Dense(3)]), Dense(2)])
    model.save(tmp_path / "m.zip")
    again = load_model(tmp_path / "m.zip", custom_objects={"Same": Same})
    assert type(again.layers[0].inner) is ReLU and again.layers[0].inner.max_value == 2.0
    assert [type(layer) for layer in again.layers[1].layers] == [ReLU, Dense]
    x = random((3, 4), dtype=np.float32)
    np.testing.assert_array_equal(model.predict(x, verbose=0), again.predict(x, verbose=0))


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, InputError("bad", "no.", "a.", "b.", "c.")])
def test_a_layer_that_cannot_be_added_leaves_the_model_as_it_was(error):
    class Bad(Layer):
        def output_shape(self, input_shape):
            raise error

    model, bad = Sequential([Input((4,)), Dense(3)]), Bad()
    with pytest.raises(type(error) if isinstance(error, Exception) else error):
        model.add(bad)
    assert len(model.layers) == 1 and model.shapes == [(4,), (3,)] and bad.name == "bad"
    assert model.predict(np.ones((1, 4)), verbose=0).shape == (1, 3)


@pytest.mark.parametrize("as_model", [True, False])
def test_calling_in_training_mode_moves_the_running_statistics(as_model):
    """As in Keras 3; with momentum 0 they are those of the batch."""
    norm = BatchNormalization(momentum=0.0)
    called = Sequential([Input((4,)), norm]) if as_model else norm
    x = random((8, 4), dtype=np.float32)
    called(x)
    if not as_model:
        np.testing.assert_array_equal(norm.get_weights()[2], np.zeros(4))
    called(x, training=True)
    _, _, mean, variance = norm.get_weights()
    np.testing.assert_allclose(mean, x.mean(0), atol=1e-6)
    np.testing.assert_allclose(variance, x.var(0), rtol=1e-5)


def test_what_a_layer_of_ones_own_has_seen_stays():
    """The ReLU behind it may write over its input, but not over one that somebody else holds."""
    probe = Same()
    model = Sequential([Input((6,)), Dense(8), probe, Activation("relu"), Dense(2)])
    x = random((5, 6), dtype=np.float32)
    model.predict(x, verbose=0)
    w, b = model.layers[0].get_weights()
    np.testing.assert_allclose(probe.seen, x @ w + b, rtol=1e-5, atol=1e-6)
    assert probe.seen.min() < 0


def test_popping_from_the_list_of_layers_changes_nothing():
    model = Sequential([Input((4,)), Dense(6, activation="relu"), Dense(3, activation="softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    x, y = random((9, 4), dtype=np.float32), np.arange(9) % 3
    before = model.evaluate(x, y, verbose=0)
    model.layers.pop()
    assert model.predict(x, verbose=0).shape == (9, 3) and model.shapes == [(4,), (6,), (3,)]
    assert model.evaluate(x, y, verbose=0) == before
