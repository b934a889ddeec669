"""Activations as objects: options, what they refuse, and that they and the models around them can be pickled."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from helpers import random

from minicnn import activations
from minicnn.activations import _KNOWN, Function
from minicnn.errors import InputError, UnknownNameError
from minicnn.gradcheck import check_layer
from minicnn.initializers import Constant
from minicnn.kernels import log_softmax, log_softmax_backward, prelu_backward, prelu_forward, reference
from minicnn.layers import ELU, Activation, Conv2D, Dense, Dropout, Flatten, Input, LeakyReLU, PReLU, ReLU, Softmax
from minicnn.models import Sequential, load_model

LAYERS = {
    "ReLU": ReLU, "ReLU, options": lambda: ReLU(1.5, 0.2, 0.3), "LeakyReLU": LeakyReLU, "ELU": ELU,
    "ELU, negative": lambda: ELU(-0.5), "Softmax": Softmax, "Softmax, axis": lambda: Softmax(1),
    "Softmax, axes": lambda: Softmax((1, 2)), "Softmax, axes apart": lambda: Softmax([-1, 1]),
    **{name: (lambda name=name: Activation(name)) for name in sorted(_KNOWN)},
    "PReLU": lambda: PReLU(Constant(0.25)), "PReLU, shared": lambda: PReLU(Constant(0.25), shared_axes=[1]),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_the_gradient_of_every_activation(name):
    check_layer(LAYERS[name](), random((3, 4, 5), 1) * 2).assert_ok()


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_can_be_pickled(name):
    layer, x = LAYERS[name](), random((3, 4, 5), 1)
    again = pickle.loads(pickle.dumps(layer))
    if not isinstance(layer, PReLU):
        np.testing.assert_array_equal(again.activation(x), layer.activation(x))
    assert again.get_config() == layer.get_config()


@pytest.mark.parametrize("axis", [(1, 2), (2, 1), [-1], (0, 1, 2), (-1, 0)])
def test_softmax_over_several_axes(axis):
    x = random((3, 4, 5), 1) * 3
    e = np.exp(x)
    expected = e / e.sum(axis=tuple(axis), keepdims=True)
    np.testing.assert_allclose(activations.softmax(x, axis=axis), expected, rtol=1e-12)
    np.testing.assert_allclose(np.exp(activations.log_softmax(x, axis=axis)), expected, rtol=1e-12)


@pytest.mark.parametrize("axis", [3, -4, (1, 1), (1, -2), (0, 3)])
def test_axes_that_are_not_there(axis):
    with pytest.raises(InputError, match="axis does not fit the array"):
        activations.softmax(random((3, 4, 5), 1), axis=axis)
    with pytest.raises(InputError, match="axis does not fit the array"):  # before any data has come
        Softmax(axis)(Input((4, 5)))


def test_a_model_can_be_pickled():
    """It could not: functions without a name were in it. README promises processes that are spawned."""
    layers = [Conv2D(3, 3, activation="relu"), LeakyReLU(0.1), Flatten(), Dropout(0.2, seed=1), Dense(4, "gelu"), ELU()]
    model = Sequential([Input((6, 6, 1)), *layers, Dense(3, activation="softmax")])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    x, y = random((8, 6, 6, 1), 1, np.float32), np.arange(8) % 3
    model.fit(x, y, verbose=0)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(x, verbose=0), model.predict(x, verbose=0))
    for one in (model, again):
        one.fit(x, y, verbose=0, shuffle=False)
    for a, b in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert again.layers[0].activation is activations.relu


def test_an_activation_can_be_changed_after_construction():
    layer = Dense(3, activation="relu")
    layer.activation = None
    assert layer.activation is activations.linear
    layer.activation = "tanh"
    assert layer.activation is activations.tanh
    with pytest.raises(UnknownNameError):
        layer.activation = "tahn"
    slope = LeakyReLU(0.5)
    slope.negative_slope = 0.1  # it was read once, when the layer was made
    assert slope.activation(np.array([-1.0])) == -0.1


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_negative_alpha_has_the_gradient_of_keras(sign):
    """The sign of y was taken for that of x."""
    activation = ELU(sign * 0.5).activation
    x = np.array([-2.0, -1.0, 1.0])
    saved = x if activation.keeps == "x" else activation(x)
    slopes = [sign * 0.0676676, sign * 0.1839397, 1]
    np.testing.assert_allclose(activation.backward(np.ones(3), saved), slopes, rtol=1e-5)


@pytest.mark.parametrize(
    "make",
    [
        lambda: LeakyReLU(-0.5), lambda: LeakyReLU(None), lambda: LeakyReLU("0.1"), lambda: LeakyReLU([0.1]),
        lambda: ReLU(negative_slope=-1.0), lambda: ReLU(negative_slope=None), lambda: ReLU(max_value=-10),
        lambda: ReLU(threshold=-1), lambda: ReLU(6, "a"), lambda: ELU(None), lambda: ELU("1"), lambda: ELU(np.nan),
        lambda: Softmax("last"), lambda: Softmax(None), lambda: Softmax(0.5), lambda: Activation(3),
        lambda: Activation(np.tanh), lambda: activations.relu(random((2,)), max_value=-1),
        lambda: activations.relu(random((2,)), top=6), lambda: activations.relu("a"), lambda: activations.relu(None),
        lambda: activations.tanh(random((2,)), 0.5), lambda: activations.elu(random((2,)), 1.0, 2.0),
        lambda: activations.gelu(random((2,)), "yes"), lambda: activations.softmax(random((2, 2)), axis="last"),
    ],
)  # fmt: skip
def test_what_is_refused(make):
    with pytest.raises(InputError):
        make()


def test_a_call_takes_what_people_have():
    np.testing.assert_array_equal(activations.relu([-1, 0, 2]), [0, 0, 2])
    assert activations.sigmoid([1, 2]).dtype == np.float32
    np.testing.assert_array_equal(activations.relu(np.array([5.0, 7.0]), max_value=6), [5, 6])
    assert activations.relu.variant() is activations.relu
    assert activations.relu.variant(0.0, None, 0.0) is activations.relu  # the kernel that works in place


def test_an_own_function_can_be_pickled_if_its_parts_can():
    own = Function("own", np.tanh, np.multiply)
    assert pickle.loads(pickle.dumps(own)) == own


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_log_softmax_backward_is_its_reference(dtype):
    dy, y = random((2, 3, 4), 1, dtype), log_softmax(random((2, 3, 4), 2, dtype))
    found = log_softmax_backward(dy, y)
    assert found.dtype == dtype and found.flags.c_contiguous
    np.testing.assert_allclose(found, reference.log_softmax_backward(dy, y), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("shape", [(4, 5), (1, 5), (4, 1), (1, 1)])
def test_prelu_is_its_reference(shape, dtype):
    x, dy, alpha = random((3, 4, 5), 1, dtype), random((3, 4, 5), 2, dtype), random(shape, 3, dtype)
    tolerance = 1e-12 if dtype == np.float64 else 1e-5
    y = prelu_forward(x, alpha)
    assert y.dtype == dtype and y.flags.c_contiguous
    np.testing.assert_allclose(y, reference.prelu_forward(x, alpha), atol=tolerance)
    expected = reference.prelu_backward(dy, x, alpha)
    for found, right in zip(prelu_backward(dy, x, alpha), expected, strict=True):
        assert found.dtype == dtype
        np.testing.assert_allclose(found, right, atol=tolerance)


def test_the_slopes_of_prelu_are_learned_and_saved(tmp_path):
    layer = PReLU("zeros", alpha_regularizer="l2", alpha_constraint="non_neg", shared_axes=(1, 2))
    model = Sequential([Input((4, 4, 3)), layer, Flatten(), Dense(1, kernel_initializer="ones")])
    model.compile("sgd", "mse")
    x = random((8, 4, 4, 3), 1, np.float32)
    model.fit(x, np.minimum(x, 0).sum(axis=(1, 2, 3)) * 0.5 + np.maximum(x, 0).sum(axis=(1, 2, 3)), verbose=0, epochs=3)
    alpha = layer.get_weights()[0]
    assert alpha.shape == (1, 1, 3) and (alpha > 0).all()
    model.save(tmp_path / "m.zip")
    again = load_model(tmp_path / "m.zip")
    np.testing.assert_array_equal(again.predict(x, verbose=0), model.predict(x, verbose=0))
    with pytest.raises(InputError, match="shared_axes is not there"):
        Sequential([Input((4, 4, 3)), PReLU(shared_axes=4)])


def test_relu_at_its_threshold_is_as_in_keras():
    """Keras 3.15: what is exactly the threshold is not above it."""
    np.testing.assert_allclose(activations.relu(np.array([-10, -5, 0, 5, 10.0]), threshold=5.0), [0, 0, 0, 0, 10])
