"""The gradient checker: it accepts what is right, names what is wrong, and refuses what would prove nothing."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import random

from minicnn import kernels
from minicnn.errors import InputError
from minicnn.gradcheck import GradientCheckError, check_function, check_layer, check_model
from minicnn.layers import (
    Activation,
    BatchNormalization,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    Input,
    MaxPooling2D,
    ReLU,
    Softmax,
)
from minicnn.models import Sequential
from minicnn.utils import set_random_seed

# --- Kernels ------------------------------------------------------------------------------------------------


def conv(x, w, b):
    return kernels.conv2d_forward(x, w, b, stride=2, padding="same")


def sine(x):
    return np.sin(x)


def conv_gradients(dy, x, w, b):
    return kernels.conv2d_backward(dy, x, w, stride=2, padding="same")


CONV = {"x": random((2, 5, 4, 3), 1), "w": random((3, 2, 3, 4), 2), "b": random((4,), 3)}


def test_a_right_kernel():
    report = check_function(conv, conv_gradients, CONV)
    report.assert_ok()
    assert list(report.arrays) == ["dx", "dw", "db"]
    for name, array in zip("xwb", report.arrays.values(), strict=True):
        assert array.shape == CONV[name].shape and array.compared == CONV[name].size and array.kinks == 0
        assert array.error < 1e-7 and array.numeric != 0
        assert array.analytic == pytest.approx(array.numeric, rel=1e-7)


def test_gradients_by_name_and_constants_without_one():
    """A gradient that is not returned is not checked; class numbers are no float array."""
    labels = np.array([0, 2, 1])
    report = check_function(
        lambda logits, target, weights: kernels.softmax_cross_entropy_forward(logits, target) * weights,
        lambda dy, logits, target, weights: {
            "logits": kernels.softmax_cross_entropy_backward(logits, target, 1) * (dy * weights)[:, None]
        },
        {"logits": random((3, 4)), "target": labels, "weights": np.array([1.0, 2.0, 3.0])},
    )
    report.assert_ok()
    assert list(report.arrays) == ["dlogits"]


def test_a_single_gradient_needs_no_tuple():
    check_function(kernels.tanh_forward, lambda dy, x: kernels.tanh_backward(dy, np.tanh(x)), {"x": random((2, 3))})


def test_float32_inputs_are_checked_in_float64_and_left_alone():
    inputs = {name: array.astype(np.float32) for name, array in CONV.items()}
    before = {name: array.copy() for name, array in inputs.items()}
    check_function(conv, conv_gradients, inputs).assert_ok()
    for name, array in inputs.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, before[name])


def test_the_wrong_array_is_named_with_index_and_both_values():
    def wrong(dy, x, w, b):
        dx, dw, db = conv_gradients(dy, x, w, b)
        dw[1, 0, 2, 3] *= 1.01
        return dx, dw, db

    report = check_function(conv, wrong, CONV)
    assert not report.ok
    assert [name for name, array in report.arrays.items() if not array.ok] == ["dw"]
    dw = report.arrays["dw"]
    assert dw.verdict == "WRONG" and dw.index == (1, 0, 2, 3)
    assert dw.error == pytest.approx(0.01 / 1.01, rel=1e-4)
    assert dw.analytic == pytest.approx(1.01 * dw.numeric, rel=1e-6)
    with pytest.raises(AssertionError, match=r"NOT OK: dw"):
        report.assert_ok()


def test_a_gradient_of_nan_is_wrong():
    report = check_function(sine, lambda dy, x: dy * np.nan, {"x": random((2, 3))})
    assert report.arrays["dx"].verdict == "WRONG" and report.arrays["dx"].error == np.inf


def test_one_wrong_element_among_many_small_ones():
    """The error is measured by the element itself, not by the largest of the array."""
    x = np.linspace(0.1, 5, 20)

    def wrong(dy, x):
        dx = 2 * x * dy
        dx[0] *= 1.001
        return dx

    report = check_function(lambda x: x * x, wrong, {"x": x})
    assert report.arrays["dx"].index == (0,)
    assert not report.ok


def test_large_arrays_are_sampled():
    report = check_function(sine, lambda dy, x: dy * np.cos(x), {"x": random((40, 50))}, max_elements=30)
    report.assert_ok()
    assert report.arrays["dx"].compared == 30


def test_as_many_gradients_as_arrays():
    with pytest.raises(GradientCheckError, match="another number of gradients"):
        check_function(conv, lambda dy, x, w, b: conv_gradients(dy, x, w, b)[:2], CONV)


# --- Kinks --------------------------------------------------------------------------------------------------


def relu_gradients(dy, x):
    return kernels.relu_backward(dy, kernels.relu_forward(x))


@pytest.mark.parametrize("distance", [0.0, 0.2, 1 / 4, 1 / 3, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("sign", [1, -1])
def test_kinks_are_counted_and_left_out(distance, sign):
    """At every place of the smallest step, on both sides: two of five ReLUs are that near to their kink."""
    x = np.array([-1.0, sign * distance * 1e-7, 0.5, 2.0, -sign * distance * 1e-7])
    report = check_function(kernels.relu_forward, relu_gradients, {"x": x})
    report.assert_ok()
    assert report.arrays["dx"].kinks == 2 and report.arrays["dx"].compared == 3
    assert "dx: 2 left out: a kink" in str(report)


@pytest.mark.parametrize("distance", [2e-7, 1e-6, 4e-6, 9e-6])
def test_a_smaller_step_ends_before_the_kink(distance):
    x = np.array([-1.0, distance, 0.5, 2.0, -distance])
    report = check_function(kernels.relu_forward, relu_gradients, {"x": x})
    report.assert_ok()
    assert report.arrays["dx"].kinks == 0 and report.arrays["dx"].compared == 5
    report = check_function(kernels.relu_forward, lambda dy, x: dy * (x > 0) * np.where(x == distance, 2, 1), {"x": x})
    assert report.arrays["dx"].verdict == "WRONG" and report.arrays["dx"].index == (1,)


def test_a_maximum_that_changes_hands():
    x = random((1, 4, 4, 1), 5)
    x[0, 0, 0, 0], x[0, 0, 1, 0] = 3.0, 3.0 + 4e-8

    def backward(dy, x):
        _, winner = kernels.maxpool2d_forward(x, 2)
        return kernels.maxpool2d_backward(dy, winner, x.shape, 2)

    report = check_function(lambda x: kernels.maxpool2d_forward(x, 2)[0], backward, {"x": x})
    report.assert_ok()
    assert report.arrays["dx"].kinks == 2


def test_a_wrong_gradient_is_not_excused_by_kinks_elsewhere():
    x = np.array([0.0, 1.0, -2.0, 3.0])
    report = check_function(kernels.relu_forward, lambda dy, x: 1.001 * relu_gradients(dy, x), {"x": x})
    assert report.arrays["dx"].verdict == "WRONG"
    assert report.arrays["dx"].kinks == 1


def test_mostly_kinks_prove_nothing():
    x = np.array([0.0, 0.0, 0.0, 1.0, 0.0])
    report = check_function(kernels.relu_forward, relu_gradients, {"x": x})
    assert not report.ok
    assert report.arrays["dx"].verdict == "kinks"


def test_steep_is_not_a_kink():
    """A smooth function, however curved, with a wrong derivative."""
    report = check_function(
        lambda x: np.tanh(50 * x), lambda dy, x: dy * 49 / np.cosh(50 * x) ** 2, {"x": random((6,), 6) * 0.01}
    )
    assert report.arrays["dx"].verdict == "WRONG" and report.arrays["dx"].kinks == 0


# --- What is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [BatchNormalization(), Softmax(), Dense(3, activation="softmax")])
def test_ones_are_refused_behind_a_fixed_sum(layer):
    check_layer(layer, (3,)).assert_ok()
    with pytest.raises(GradientCheckError, match="random dy") as error:
        check_layer(layer, (3,), dy=np.ones((4, 3)))
    assert isinstance(error.value, InputError)
    assert "numeric gradient dx is 0" in error.value.problem


def test_a_dead_relu_is_refused():
    with pytest.raises(GradientCheckError, match="dx is 0 everywhere"):
        check_layer(ReLU(), -1 - np.abs(random((3, 4))))


def test_a_bias_before_batch_normalisation_is_refused_in_a_layer():
    with pytest.raises(GradientCheckError, match="dense_1/db is 0 everywhere"):
        check_layer(Sequential([Input((3,)), Dense(4), BatchNormalization()]), (3,))


def test_a_forward_pass_that_changes_from_call_to_call_is_refused():
    draw = np.random.default_rng(0)
    with pytest.raises(GradientCheckError, match="two forward passes"):
        check_function(lambda x: x * draw.random(x.shape), lambda dy, x: dy, {"x": random((2, 3))})


@pytest.mark.parametrize(
    ("inputs", "problem"),
    [
        ({"x": np.array([1.0, np.inf])}, "not finite"),
        ({"x": np.ones(3), "wanted": False}, "nothing to compare"),
        ({"x": np.empty((0, 3))}, "0 everywhere"),
    ],
)
def test_nothing_to_check(inputs, problem):
    with pytest.raises(GradientCheckError, match=problem):
        check_function(lambda x, **_: 2 * x, lambda dy, x, wanted=True: {"x": 2 * dy if wanted else None}, inputs)


def test_dy_of_another_shape():
    with pytest.raises(GradientCheckError, match="dy does not fit"):
        check_layer(ReLU(), (3,), dy=np.ones((4, 2)))


# --- What else is found -------------------------------------------------------------------------------------


def in_place(dy, x):
    dy *= x > 0
    return dy


def through_the_input(dy, x):
    np.maximum(x, 0, out=x)
    return dy * (x > 0)


def wide(dy, x):
    return relu_gradients(dy, x).astype(np.float64)


def narrow(dy, x):
    return relu_gradients(dy, x).astype(np.float32)


@pytest.mark.parametrize(
    ("backward", "problem"),
    [
        (in_place, "backward writes to dy"),
        (through_the_input, "backward writes to x"),
        (wide, "dx is float64 where all inputs are float32"),
        (narrow, "dx is float32 where all inputs are float64"),
        (lambda dy, x: relu_gradients(dy, x).sum(axis=0), "dx has shape (4,), but x has (3, 4)"),
        (lambda dy, x: {"x": relu_gradients(dy, x), "w": dy}, "gradient dw, but no float array w"),
    ],
)
def test_problems_of_backward(backward, problem):
    report = check_function(kernels.relu_forward, backward, {"x": random((3, 4), 7)})
    assert [p for p in report.problems if problem in p], report.problems
    assert not report.ok
    assert "NOT OK" in str(report)


@pytest.mark.parametrize(
    ("forward", "problem"),
    [
        (lambda x: np.maximum(x, 0, out=x), "forward writes to x"),
        (lambda x: np.maximum(x, np.float64(0)).astype(np.float64), "y is float64 where all inputs are float32"),
        (lambda x: np.maximum(x, 0).astype(np.float32), "y is float32 where all inputs are float64"),
    ],
)
def test_problems_of_forward(forward, problem):
    report = check_function(forward, relu_gradients, {"x": random((3, 4), 7)})
    assert [p for p in report.problems if problem in p], report.problems
    assert not report.ok


def test_a_missing_gradient():
    class Forgetful(Dense):
        def backward(self, dy, ctx):
            dx = super().backward(dy, ctx)
            del ctx.grads["b"]
            return dx

    report = check_layer(Forgetful(3), (4,))
    assert report.problems == ["the gradient db is missing."]
    assert report.arrays["dw"].ok and "db" not in report.arrays


# --- Layers -------------------------------------------------------------------------------------------------


def test_a_layer_is_left_as_it_was():
    layer = Conv2D(4, 3, activation="relu")
    layer.build((5, 5, 2), np.random.default_rng(0))
    before = {name: array.copy() for name, array in layer.params.items()}
    attributes = dict(vars(layer))
    x = random((2, 5, 5, 2), 8, np.float32)
    kept = x.copy()
    check_layer(layer, x).assert_ok()
    np.testing.assert_array_equal(x, kept)
    assert vars(layer) == attributes
    for name, array in layer.params.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, before[name])


def test_an_unbuilt_layer_stays_unbuilt():
    layer = Dense(3)
    check_layer(layer, (5,)).assert_ok()
    assert not layer.built and not layer.params


def test_a_shape_that_does_not_fit():
    with pytest.raises(InputError, match="too small"):
        check_layer(Conv2D(2, 5), (3, 3, 1))


def test_gamma_of_ones_does_not_hide_a_forgotten_gamma():
    class Forgetful(BatchNormalization):
        def backward(self, dy, ctx):
            return super().backward(dy, ctx) / self.params["gamma"]

    assert check_layer(Forgetful(), (4, 3, 2)).arrays["dx"].verdict == "WRONG"


def test_dropout_draws_the_same_mask_each_time():
    report = check_layer(Dropout(0.4), (5, 3))
    report.assert_ok()
    assert "dx" in report.arrays and report.arrays["dx"].kinks == 0


def test_a_sequential_is_a_layer():
    inner = Sequential([BatchNormalization(), Dropout(0.2)], name="inner")
    report = check_layer(Sequential([Conv2D(3, 2, activation="tanh"), inner, Flatten(), Dense(2)]), (4, 4, 2))
    report.assert_ok()
    assert list(report.arrays) == [
        "dx", "conv2d_1/dw", "conv2d_1/db", "inner/batch_normalization_1/dgamma", "inner/batch_normalization_1/dbeta",
        "dense_1/dw", "dense_1/db",
    ]  # fmt: skip


# --- Models -------------------------------------------------------------------------------------------------


def small_model(*layers, loss="sparse_categorical_crossentropy") -> Sequential:
    set_random_seed(1)
    model = Sequential([Input((6, 6, 2)), *layers, Dense(3, activation="softmax", name="last")])
    model.compile("adam", loss)
    return model


def data(classes=3):
    return random((5, 6, 6, 2), 9, np.float32), np.arange(5) % classes


def test_a_model_with_every_kind_of_layer():
    model = small_model(
        Conv2D(4, 3, padding="same", use_bias=False, kernel_regularizer="l2", name="conv"),
        BatchNormalization(name="norm"),
        ReLU(),
        MaxPooling2D(),
        Dropout(0.3),
        Flatten(),
        Dense(6, activation="gelu", kernel_regularizer="l1", name="dense"),
    )
    before = model.get_weights()
    state = model.rng.bit_generator.state
    report = check_model(model, *data())
    report.assert_ok()
    assert list(report.arrays) == [
        "conv/dw", "norm/dgamma", "norm/dbeta", "dense/dw", "dense/db", "last/dw", "last/db",
    ]  # fmt: skip
    assert all(array.compared + array.kinks in (7, 8) for array in report.arrays.values())  # last/db has 3 elements
    assert model.rng.bit_generator.state == state
    for array, kept in zip(model.get_weights(), before, strict=True):
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, kept)


def test_a_model_in_evaluation_and_with_frozen_layers():
    first = Conv2D(3, 3, name="frozen", trainable=False)
    model = small_model(first, Conv2D(3, 3, name="conv"), BatchNormalization(trainable=False, name="norm"), Flatten())
    for training in (True, False):
        report = check_model(model, *data(), training=training)
        report.assert_ok()
        assert list(report.arrays) == ["conv/dw", "conv/db", "last/dw", "last/db"]


@pytest.mark.cpu
def test_kinks_in_a_model_with_many_relus():
    """Among thousands of ReLUs some change sides within a large step; smaller ones find the derivative all the same."""
    model = small_model(
        Conv2D(24, 3, padding="same", activation="relu"),
        Conv2D(24, 3, padding="same"),
        ReLU(),
        MaxPooling2D(),
        Flatten(),
    )
    report = check_model(model, random((16, 6, 6, 2), 11), np.arange(16) % 3, step=1e-3)
    report.assert_ok()
    assert all(array.kinks == 0 for array in report.arrays.values())


def test_a_bias_before_batch_normalisation_is_said_in_a_model():
    model = small_model(Conv2D(3, 3, name="conv"), BatchNormalization(name="norm"), Flatten())
    report = check_model(model, *data())
    report.assert_ok()
    assert report.arrays["conv/db"].verdict == "zero" and report.arrays["conv/db"].compared == 0
    assert "conv/db: 0 on both sides" in str(report)
    check_model(model, *data(), training=False).assert_ok()


class ScaledTanh(Activation):
    """Its dx is wrong by 1 %."""

    def backward(self, dy, ctx):
        return super().backward(dy, ctx) * 1.01


def test_a_wrong_layer_inside_a_model_shows_in_all_layers_before_it():
    model = small_model(Conv2D(3, 3, name="conv"), ScaledTanh("tanh"), Flatten())
    report = check_model(model, *data())
    assert [name for name, array in report.arrays.items() if not array.ok] == ["conv/dw", "conv/db"]
    assert report.arrays["conv/dw"].error == pytest.approx(0.01, rel=0.05)


def test_directions_reach_an_error_in_one_element():
    """One of 648 numbers is wrong: the few single elements miss it, a direction moves them all."""

    class OneWrong(Dense):
        def backward(self, dy, ctx):
            dx = super().backward(dy, ctx)
            ctx.grads["w"][17, 1] *= 3
            return dx

    model = small_model(Flatten(), OneWrong(9, name="dense"))
    report = check_model(model, *data(), elements=0)
    assert report.arrays["dense/dw"].verdict == "WRONG" and report.arrays["dense/dw"].index is None
    assert report.arrays["dense/db"].ok


def test_a_model_that_is_all_dead_is_refused():
    model = Sequential([Input((3,)), Dense(2, bias_initializer="zeros"), ReLU()])
    model.compile("sgd", "mse")
    model.layers[0].params["w"][...] = -1
    model.layers[0].params["w"][0] = -2
    model.layers[0].params["b"][...] = [-1, -2]
    with pytest.raises(GradientCheckError, match="0 everywhere"):
        check_model(model, np.abs(random((4, 3), 10)), np.zeros((4, 2)))


def test_what_a_model_needs():
    x, y = data()
    with pytest.raises(GradientCheckError, match="compile"):
        check_model(Sequential([Input((6, 6, 2)), Flatten(), Dense(3)]), x, y)
    with pytest.raises(InputError, match="out of range"):
        check_model(small_model(Flatten()), x, y + 1)
    with pytest.raises(InputError, match="do not fit layer flatten_1"):
        check_model(small_model(Flatten()), x[:, :5], y)


# --- The report ---------------------------------------------------------------------------------------------


def test_the_report_is_an_aligned_table():
    lines = str(check_layer(Conv2D(2, 3, name="c1"), (5, 5, 2))).splitlines()
    assert lines[0] == "Gradient check of c1 (Conv2D, in training): central differences in float64, random dy"
    head, *rows, verdict = lines[1:]
    assert [row.split()[0] for row in rows] == ["dx", "dw", "db"]
    column = head.index("verdict")
    assert all(row[column:] == "ok" for row in rows)
    assert verdict == "OK: every gradient agrees within 1e-05."


def test_the_same_seed_gives_the_same_report():
    one, two = (check_layer(Dense(3), (4,), seed=5) for _ in range(2))
    assert str(one) == str(two)
    assert str(one) != str(check_layer(Dense(3), (4,), seed=6))
