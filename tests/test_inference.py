"""Evaluation and prediction leave out what only training needs; the numbers are those of the layers one by one."""

import numpy as np
import pytest
from helpers import random

from minicnn.kernels import batchnorm_forward, relu_forward
from minicnn.layers import (
    Activation,
    BatchNormalization,
    Context,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    Input,
    MaxPooling2D,
)
from minicnn.models import Sequential
from minicnn.training import inference
from minicnn.training.plan import plan


def model_of(*layers, shape=(8, 8, 3)):
    model = Sequential([Input(shape), *layers])
    for k, layer in enumerate(model.flat_layers):
        for i, (name, array) in enumerate((*layer.params.items(), *layer.state.items())):
            array[...] = random(array.shape, 10 * k + i, np.float32)
            if name == "moving_variance":
                array[...] = array**2 + 0.1
    return model


def one_by_one(model, x):
    for layer in model.flat_layers:
        x = layer.forward(x, Context())
    return x


def network():
    return model_of(
        Conv2D(4, 3), BatchNormalization(), Activation("relu"), Dropout(0.5), MaxPooling2D(2), Conv2D(5, 2),
        Activation("relu"), BatchNormalization(), Conv2D(3, 2, use_bias=False), BatchNormalization(scale=False),
        Flatten(), Dense(6, activation="relu"), BatchNormalization(), Dense(4), BatchNormalization(center=False),
    )  # fmt: skip


@pytest.mark.parametrize("use_bias", [False, True])
@pytest.mark.parametrize("norms", [1, 2, 3])
def test_several_batch_norms_in_a_row_are_all_folded(norms, use_bias):
    model = model_of(
        Conv2D(4, 3, use_bias=use_bias), *(BatchNormalization() for _ in range(norms)), Flatten(),
        Dense(3, use_bias=use_bias), *(BatchNormalization() for _ in range(norms)),
    )  # fmt: skip
    assert [type(node.layer) for node in plan(model.nodes)] == [Conv2D, Flatten, Dense]
    x = random((4, 8, 8, 3), 1, np.float32)
    np.testing.assert_allclose(model.predict(x, verbose=0), one_by_one(model, x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("piece_bytes", "group_bytes"), [(1, 1), (1, 3000), (3000, 1 << 26), (1 << 22, 1 << 26)])
def test_predictions_are_those_of_the_layers_one_by_one(piece_bytes, group_bytes, monkeypatch):
    monkeypatch.setattr(inference, "PIECE_BYTES", piece_bytes)
    monkeypatch.setattr(inference, "GROUP_BYTES", group_bytes)
    model, x = network(), random((7, 8, 8, 3), 1, np.float32)
    before = x.copy()
    np.testing.assert_allclose(model.predict(x, verbose=0), one_by_one(model, x), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(x, before)


def test_a_network_without_a_dense_layer_goes_through_in_pieces_to_its_end(monkeypatch):
    sizes, infer = [], inference.infer
    monkeypatch.setattr(inference, "infer", lambda nodes, x: (sizes.append(len(x)), infer(nodes, x))[1])
    monkeypatch.setattr(inference, "PIECE_BYTES", 3 * 8 * 8 * 4 * 4)  # three samples of the largest activation
    model, x = model_of(Conv2D(4, 3, padding="same"), Flatten()), random((7, 8, 8, 3), 1, np.float32)
    predictions = model.predict(x, verbose=0)
    assert sizes == [3, 3, 1]
    np.testing.assert_allclose(predictions, one_by_one(model, x), rtol=1e-4, atol=1e-5)


def test_dense_layers_meet_groups_of_pieces(monkeypatch):
    sizes, forward = [], Dense.forward
    monkeypatch.setattr(Dense, "forward", lambda self, x, ctx: (sizes.append(len(x)), forward(self, x, ctx))[1])
    monkeypatch.setattr(inference, "PIECE_BYTES", 2 * 8 * 8 * 4 * 4)
    monkeypatch.setattr(inference, "GROUP_BYTES", 5 * 8 * 8 * 4 * 4)
    model, x = model_of(Conv2D(4, 3, padding="same"), Flatten(), Dense(2)), random((12, 8, 8, 3), 1, np.float32)
    predictions = model.predict(x, verbose=0)
    assert sizes == [5, 5, 2]
    np.testing.assert_allclose(predictions, one_by_one(model, x), rtol=1e-4, atol=1e-5)


def test_evaluation_is_the_same_in_pieces(monkeypatch):
    model, x, y = network(), random((7, 8, 8, 3), 1, np.float32), random((7, 4), 2, np.float32)
    model.compile("sgd", "mse", metrics=["mae"])
    whole = model.evaluate(x, y, verbose=0)
    monkeypatch.setattr(inference, "PIECE_BYTES", 1)
    np.testing.assert_allclose(model.evaluate(x, y, verbose=0), whole, rtol=1e-5)


def test_the_plan_folds_and_skips():
    model = network()
    before = model.get_weights()
    kinds = [type(node.layer).__name__ for node in plan(model.nodes)]
    assert kinds == ["Conv2D", "Activation", "MaxPooling2D", "Conv2D", "Activation", "BatchNormalization",
                     "Conv2D", "Flatten", "Dense", "BatchNormalization", "Dense"]  # fmt: skip
    for array, same in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(array, same)


def test_a_layer_of_the_users_own_is_not_folded():
    class Doubled(Conv2D):
        def forward(self, x, ctx):
            return 2 * super().forward(x, ctx)

    model, x = model_of(Doubled(2, 3), BatchNormalization()), random((2, 8, 8, 3), 1, np.float32)
    assert len(plan(model.nodes)) == 2
    np.testing.assert_allclose(model.predict(x, verbose=0), one_by_one(model, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layers", [
    (Activation("relu"),),
    (Flatten(), Activation("relu")),
    (BatchNormalization(),),
    (Dropout(0.5), BatchNormalization(), Activation("relu")),
])  # fmt: skip
def test_the_users_images_are_never_overwritten(layers):
    """The first layers see the user's own array, or a view of it."""
    model, x = model_of(*layers), random((4, 8, 8, 3), 1, np.float32)
    before, expected = x.copy(), one_by_one(model, x)
    np.testing.assert_allclose(model.predict(x, verbose=0), expected, rtol=1e-6)
    np.testing.assert_array_equal(x, before)


def test_in_place_the_numbers_are_the_same():
    x, (gamma, beta, mean, var) = random((3, 4, 5, 2), 1), random((4, 2), 2) ** 2
    expected = batchnorm_forward(x, gamma, beta, mean, var, 1e-3), relu_forward(x)
    for kernel, y in zip((lambda x, out: batchnorm_forward(x, gamma, beta, mean, var, 1e-3, out), relu_forward),
                         expected, strict=True):  # fmt: skip
        own = x.copy()
        result = kernel(own, out=own)
        assert np.shares_memory(result, own)
        np.testing.assert_array_equal(result, y)


def test_training_overwrites_nothing():
    ctx = Context(training=True)
    layer, x = Activation("relu"), random((3, 4), 1)
    before = x.copy()
    layer.forward(x, ctx)
    assert not ctx.overwrite
    np.testing.assert_array_equal(x, before)
