"""Sequential: building, names, nesting, weights, and what a model answers."""

from __future__ import annotations

import json

import numpy as np
import pytest
from helpers import random

from minicnn import losses, metrics, optimizers, utils
from minicnn.backend import to_host
from minicnn.errors import InputError, UnknownNameError
from minicnn.layers import (
    Activation,
    BatchNormalization,
    Concatenate,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    Input,
    MaxPooling2D,
)
from minicnn.models import Sequential


@pytest.fixture(autouse=True)
def seeded():
    utils.set_random_seed(0)


def small_cnn() -> Sequential:
    return Sequential(
        [
            Input((8, 8, 1)),
            Conv2D(3, 3, activation="relu"),
            BatchNormalization(),
            MaxPooling2D(),
            Flatten(),
            Dense(4, activation="softmax"),
        ]
    )


# ---- building and names ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: Sequential([Input((6,)), Dense(4), Dense(2)]),
        lambda: Sequential([Dense(4, input_shape=(6,)), Dense(2)]),
        lambda: Sequential([Dense(4, input_shape=[6]), Dense(2)]),
    ],
    ids=["Input", "input_shape", "input_shape as a list"],
)
def test_a_model_that_knows_its_input_shape_is_built_at_once(make):
    model = make()
    assert model.built and model.sample_shape == (6,)
    assert model.shapes == [(6,), (4,), (2,)]
    assert [w.shape for w in model.get_weights()] == [(6, 4), (4,), (4, 2), (2,)]


def test_add_builds_one_layer_after_the_other():
    model = Sequential()
    model.add(Input((8, 8, 1)))
    assert model.layers == [] and not model.built
    model.add(Conv2D(3, 3))
    model.add(Flatten())
    model.add(Dense(2))
    assert model.shapes == [(8, 8, 1), (6, 6, 3), (108,), (2,)]


def test_a_model_without_input_shape_is_built_by_the_first_data():
    model = Sequential([Flatten(), Dense(3)])
    assert not model.built
    with pytest.raises(InputError, match="has not been built"):
        model.count_params()
    assert model.predict(random((5, 4, 2)), verbose=0).shape == (5, 3)
    assert model.sample_shape == (4, 2) and model.count_params() == 8 * 3 + 3


def test_accuracy_is_chosen_when_the_output_is_known():
    model = Sequential([Dense(1, activation="sigmoid")])
    model.compile("sgd", "binary_crossentropy", metrics=["accuracy"])
    model.build((None, 3,))
    assert isinstance(model.metrics[0], metrics.BinaryAccuracy)
    added_after_compile = Sequential()
    added_after_compile.compile("sgd", "mse", metrics=["accuracy"])
    added_after_compile.add(Dense(1, input_shape=(3,)))
    assert isinstance(added_after_compile.metrics[0], metrics.BinaryAccuracy)


def test_automatic_names_count_from_1_for_each_class():
    model = Sequential(
        [Input((8, 8, 1)), Conv2D(2, 3), Conv2D(2, 3), Flatten(), Dense(3), Dense(3, name="head"), Dense(2)]
    )
    names = [layer.name for layer in model.layers]
    assert names == ["conv2d_1", "conv2d_2", "flatten_1", "dense_1", "head", "dense_2"]


def test_an_automatic_name_leaves_out_one_that_the_user_has_taken():
    model = Sequential([Input((3,)), Dense(2, name="dense_1"), Dense(2)])
    assert [layer.name for layer in model.layers] == ["dense_1", "dense_2"]


def test_two_layers_of_one_name_and_one_layer_twice_are_refused():
    with pytest.raises(InputError, match="two layers of this name"):
        Sequential([Input((3,)), Dense(2, name="a"), Dense(2, name="a")])
    layer = Dense(2)
    with pytest.raises(InputError, match="in the model already"):
        Sequential([Input((3,)), layer, layer])
    model = Sequential([Input((3,))])
    with pytest.raises(InputError, match="in the model already"):
        model.add(model)


@pytest.mark.parametrize("name", ["inner/dense_1", "", 5])
def test_names_that_cannot_be(name):
    """A slash would make "inner/dense_1" two layers in one file: this one, and dense_1 of the model inner."""
    with pytest.raises(InputError, match="cannot have this name"):
        Sequential([Input((3,)), Dense(2, name=name)])


def test_a_layer_that_two_models_share_keeps_its_name():
    model = small_cnn()
    features = Sequential([Input((8, 8, 1)), *model.layers[:-1]])
    assert model.layers[0].name == features.layers[0].name == "conv2d_1"
    x = random((2, 8, 8, 1))
    w, b = model.layers[-1].get_weights()
    expected = features.predict(x, verbose=0) @ w + b
    z = np.exp(expected - expected.max(axis=1, keepdims=True))
    np.testing.assert_allclose(model.predict(x, verbose=0), z / z.sum(axis=1, keepdims=True), rtol=1e-5)


def test_a_layer_that_does_not_fit_is_not_added():
    model = Sequential([Input((4, 4, 1)), Flatten()])
    with pytest.raises(InputError, match="needs images"):
        model.add(Conv2D(2, 3))
    assert [layer.name for layer in model.layers] == ["flatten_1"]
    model.add(Dense(2))
    assert model.shapes[-1] == (2,)
    empty = Sequential()
    with pytest.raises(InputError, match="too small"):
        empty.add(Conv2D(2, 5, input_shape=(3, 3, 1)))
    assert empty.input_shape is None and not empty.built


def test_where_one_layer_does_not_fit_the_others_stay_unbuilt():
    model = Sequential([Conv2D(2, 3), MaxPooling2D(20)])
    with pytest.raises(InputError, match="too small"):
        model.build((None, 8, 8, 1))
    model.build((None, 40, 40, 3))
    assert model.layers[0].params["w"].shape == (3, 3, 3, 2)


def test_pop_takes_the_layer_and_its_optimizer_state_away():
    model = Sequential([Input((3,)), Dense(4), Dense(2)])
    model.compile("adam", "mse")
    x = random((8, 3))
    model.fit(x, random((8, 2)), verbose=0)
    assert model.pop().name == "dense_2"
    assert model.shapes == [(3,), (4,)]
    assert {layer for layer, _ in model.optimizer.state} == {"dense_1"}
    model.add(Dense(5))
    assert model.layers[-1].name == "dense_2"
    model.fit(x, random((8, 5)), verbose=0)
    with pytest.raises(InputError, match="no layer to take off"):
        Sequential().pop()


def test_a_built_model_refuses_another_input_shape():
    model = Sequential([Input((3,)), Dense(4)])
    model.build((None, 3,))
    with pytest.raises(InputError, match="built for another shape"):
        model.build((None, 5,))


@pytest.mark.parametrize("shape", [(None, 3), (0, 3), (2.5,), (), (28, 28, True)])
def test_input_shapes_that_cannot_be(shape):
    with pytest.raises(InputError, match="input_shape does not fit"):
        Sequential([Input(shape), Dense(3)])


def test_get_layer():
    model = small_cnn()
    assert model.get_layer("conv2d_1") is model.layers[0] is model.get_layer(index=0)
    with pytest.raises(UnknownNameError, match="did you mean 'conv2d_1'"):
        model.get_layer("conv2_1")


# ---- a model inside a model ------------------------------------------------------------------------------------------


def nested() -> tuple[Sequential, Sequential]:
    inner = Sequential([Dense(4, activation="relu"), BatchNormalization(), Dense(3)], name="inner")
    outer = Sequential([Input((2, 3)), Flatten(), inner, Dense(3), Activation("softmax")])
    return outer, inner


def test_nested_models_have_flat_layers_with_unique_keys():
    outer, inner = nested()
    assert [type(layer).__name__ for layer in outer.flat_layers] == [
        "Flatten", "Dense", "BatchNormalization", "Dense", "Dense", "Activation",
    ]  # fmt: skip
    assert list(outer.layers_by_key) == [
        "flatten_1", "inner/dense_1", "inner/batch_normalization_1", "inner/dense_2", "dense_1", "activation_1",
    ]  # fmt: skip
    assert inner.built and inner.sample_shape == (6,)
    assert outer.count_params() == inner.count_params() + 12 == (28 + 16 + 15) + 12


def test_a_nested_model_computes_what_its_layers_compute_in_a_row():
    outer, inner = nested()
    x = random((5, 2, 3), dtype=np.float32)
    middle = inner.predict(x.reshape(5, 6), verbose=0)
    last = Sequential([Input((3,)), *outer.layers[2:]])
    np.testing.assert_array_equal(outer.predict(x, verbose=0), last.predict(middle, verbose=0))
    np.testing.assert_array_equal(to_host(outer(x)), outer.predict(x, verbose=0))


def test_freezing_a_nested_model_freezes_all_its_layers():
    outer, inner = nested()
    outer.compile("adam", "sparse_categorical_crossentropy")
    inner.trainable = False
    before, head = inner.get_weights(), outer.layers[2].get_weights()
    outer.fit(random((12, 2, 3)), np.arange(12) % 3, verbose=0)
    for old, new in zip(before, inner.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)  # the moving statistics, too
    assert not np.array_equal(head[0], outer.layers[2].get_weights()[0])
    inner.trainable = True
    outer.fit(random((12, 2, 3)), np.arange(12) % 3, verbose=0)
    assert all(not np.array_equal(old, new) for old, new in zip(before, inner.get_weights(), strict=True))


def test_a_nested_model_in_training_learns_as_its_layers_in_a_row_do():
    outer, inner = nested()
    flat = Sequential([Input((2, 3)), Flatten(), Dense(4, activation="relu"), BatchNormalization(), Dense(3), Dense(3),
                       Activation("softmax")])  # fmt: skip
    flat.set_weights(outer.get_weights())
    for model in (outer, flat):
        model.compile("adam", "sparse_categorical_crossentropy")
        model.fit(random((12, 2, 3)), np.arange(12) % 3, epochs=3, shuffle=False, verbose=0)
    for a, b in zip(outer.get_weights(), flat.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_built_model_as_a_layer_takes_its_own_shape_only():
    inner = Sequential([Input((6,)), Dense(4)])
    with pytest.raises(InputError, match="built for another shape"):
        Sequential([Input((5,)), inner])


def test_the_chain_of_sizes_goes_through_nested_models():
    inner = Sequential([Conv2D(2, 3), Conv2D(2, 3)], name="inner")
    with pytest.raises(InputError) as caught:
        Sequential([Input((8, 8, 1)), MaxPooling2D(), inner], name="outer")
    assert caught.value.where == "conv2d_2"
    assert "The sizes in inner: input 4×4×1 -> conv2d_1 2×2×2." in caught.value.received
    assert "The sizes in outer: input 8×8×1 -> max_pooling2d_1 4×4×1." in caught.value.received


# ---- weights ---------------------------------------------------------------------------------------------------------


def test_get_and_set_weights_round_trip():
    a, b = small_cnn(), small_cnn()
    x = random((4, 8, 8, 1))
    assert not np.array_equal(a.predict(x, verbose=0), b.predict(x, verbose=0))
    b.set_weights(a.get_weights())
    np.testing.assert_array_equal(a.predict(x, verbose=0), b.predict(x, verbose=0))
    assert [w.shape for w in a.get_weights()] == [(3, 3, 1, 3), (3,), (3,), (3,), (3,), (3,), (27, 4), (4,)]


def test_get_weights_gives_copies():
    model = small_cnn()
    model.get_weights()[0][...] = 0
    assert np.abs(model.get_weights()[0]).max() > 0


@pytest.mark.parametrize("spoil", [lambda w: w[:-1], lambda w: [*w[:-1], w[-1][:2]], lambda w: [*w, w[0]]])
def test_weights_that_do_not_fit_change_nothing(spoil):
    model = small_cnn()
    before = model.get_weights()
    with pytest.raises(InputError):
        model.set_weights(spoil([w + 1 for w in before]))
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_count_params_counts_parameters_and_state():
    assert small_cnn().count_params() == (3 * 3 * 3 + 3) + 4 * 3 + (27 * 4 + 4)


def test_all_arrays_are_float32():
    model = small_cnn()
    assert {w.dtype for w in model.get_weights()} == {np.dtype(np.float32)}
    assert model.predict(random((2, 8, 8, 1)), verbose=0).dtype == np.float32


# ---- compile, evaluate, predict --------------------------------------------------------------------------------------


def test_compile_by_names_and_by_objects_is_the_same():
    by_name, by_object = small_cnn(), small_cnn()
    by_object.set_weights(by_name.get_weights())
    by_name.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    by_object.compile(
        optimizers.Adam(), losses.SparseCategoricalCrossentropy(), metrics=[metrics.SparseCategoricalAccuracy()]
    )
    x, y = random((20, 8, 8, 1)), np.arange(20) % 4
    for model in (by_name, by_object):
        model.fit(x, y, shuffle=False, verbose=0)
    for a, b in zip(by_name.get_weights(), by_object.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert list(by_name.evaluate(x, y, verbose=0)) == list(by_object.evaluate(x, y, verbose=0))


def test_compile_that_fails_changes_nothing():
    model = small_cnn()
    model.compile("adam", "sparse_categorical_crossentropy", metrics="accuracy")
    before = model.optimizer, model.loss, model.metrics
    with pytest.raises(UnknownNameError):
        model.compile("sgd", "mse", metrics=["acuracy"])
    assert (model.optimizer, model.loss, model.metrics) == before


def test_metrics_may_be_given_without_a_list():
    model = small_cnn()
    model.compile("sgd", "mse", metrics=metrics.MeanAbsoluteError())
    assert [metric.name for metric in model.metrics] == ["mean_absolute_error"]


def test_evaluate_is_the_mean_over_all_samples():
    model = small_cnn()
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    x, y = random((13, 8, 8, 1)), np.arange(13) % 4
    p = model.predict(x, verbose=0).astype(np.float64)
    loss, accuracy = -np.log(p[np.arange(13), y]).mean(), (p.argmax(axis=1) == y).mean()
    for batch_size in (4, 13, 64):
        np.testing.assert_allclose(model.evaluate(x, y, batch_size, verbose=0), [loss, accuracy], rtol=1e-5)
    logs = model.evaluate(x, y, verbose=0, return_dict=True)
    assert list(logs) == ["loss", "accuracy"]
    model.compile("sgd", "sparse_categorical_crossentropy")
    assert model.evaluate(x, y, verbose=0) == pytest.approx(loss, rel=1e-5)


def test_evaluate_and_predict_change_nothing():
    model = Sequential([Input((6,)), Dense(4), BatchNormalization(), Dropout(0.5), Dense(2)])
    model.compile("sgd", "mse")
    x, before, rng_state = random((9, 6)), model.get_weights(), model.rng.bit_generator.state
    first = model.predict(x, verbose=0)
    model.evaluate(x, random((9, 2)), verbose=0)
    np.testing.assert_array_equal(first, model.predict(x, verbose=0))
    assert model.rng.bit_generator.state == rng_state
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("batch_size", [1, 4, 32])
def test_predict_gives_one_row_a_sample(batch_size):
    model = small_cnn()
    x = random((10, 8, 8, 1))
    p = model.predict(x, batch_size=batch_size, verbose=0)
    assert p.shape == (10, 4)
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(p, np.concatenate([to_host(model(x[i : i + 1])) for i in range(10)]), rtol=1e-5)


def test_predict_takes_a_generator_of_batches():
    model = small_cnn()
    x = random((10, 8, 8, 1))
    p = model.predict((x[i : i + 5] for i in (0, 5)), steps=2, verbose=0)
    np.testing.assert_allclose(p, model.predict(x, verbose=0), rtol=1e-6)


def test_a_last_axis_of_length_1_may_be_left_out_or_be_too_many():
    model = small_cnn()
    x = random((3, 8, 8, 1))
    np.testing.assert_array_equal(model.predict(x[..., 0], verbose=0), model.predict(x, verbose=0))
    dense = Sequential([Input((6,)), Dense(2)])
    x = random((3, 6))
    np.testing.assert_array_equal(dense.predict(x[..., None], verbose=0), dense.predict(x, verbose=0))
    line = Sequential([Dense(1)])
    assert line.predict([1.0, 2.0, 3.0], verbose=0).shape == (3, 1)


def test_calling_a_model_in_training_mode_drops_numbers():
    model = Sequential([Input((1000,)), Dropout(0.5)])
    x = np.ones((1, 1000), np.float32)
    np.testing.assert_array_equal(to_host(model(x)), x)
    assert set(np.unique(to_host(model(x, training=True)))) == {0, 2}


# --- What users of Keras ask a model for ----------------------------------------------------------------------------


def test_shapes_weights_and_names_as_keras_has_them():
    model = Sequential([Input((4, 4, 1)), Conv2D(2, 3), BatchNormalization(), Flatten(), Dense(3)], True, "net")
    assert model.input_shape == (None, 4, 4, 1) and model.output_shape == (None, 3) and model.output_shape[-1] == 3
    assert model.output_shape((4, 4, 1)) == (3,), "as a layer of another model, it is asked for a sample's shape"
    assert model.name == "net" and not Sequential([Dense(3)], False).layers[0].trainable
    shapes = [w.shape for w in model.weights]
    assert shapes == [(3, 3, 1, 2), (2,), (2,), (2,), (2,), (2,), (8, 3), (3,)]
    assert len(model.trainable_weights) == 6 and len(model.non_trainable_weights) == 2
    model.layers[0].trainable = False
    assert len(model.trainable_weights) == 4 and len(model.non_trainable_weights) == 4
    for one in (model, model.layers[0]):
        for kind in ("", "trainable_", "non_trainable_"):
            pairs = zip(getattr(one, f"{kind}variables"), getattr(one, f"{kind}weights"), strict=True)
            assert all(a is b for a, b in pairs)
    assert model.layers[0].kernel is model.layers[0].params["w"] and model.layers[3].bias is model.weights[-1]
    assert Dense(3, use_bias=False).bias is None
    assert model.inputs == [model.input] and model.outputs == [model.output] and not model.compiled
    model.compile("sgd", "mse", metrics=["mae"])
    assert model.metrics_names == ["loss", "mae"] and model.compiled
    again = Sequential.from_config(json.loads(model.to_json()))
    assert again.to_json() == model.to_json()


def test_output_shapes_with_the_batch_axis():
    assert Conv2D(8, 3).compute_output_shape((None, 28, 28, 1)) == (None, 26, 26, 8)
    assert Concatenate().compute_output_shape([(2, 4, 4, 3), (2, 4, 4, 5)]) == (2, 4, 4, 8)
    assert Sequential([Dense(4), Dense(8)]).compute_output_shape((1, 2)) == (1, 8)
    assert Activation("relu").compute_output_shape((8,)) == (8,)
    for bad in (4, "a", (), (None, None, 4), [(2, 4, 4, 3)]):
        with pytest.raises(InputError, match="this is not the shape of a batch"):
            Dense(3).compute_output_shape(bad)
    with pytest.raises(InputError, match="this is not the shape of a batch"):
        Concatenate().compute_output_shape((None, 4))


def test_a_layer_refuses_a_list_of_arrays_that_differ_in_length():
    """ValueError: setting an array element with a sequence."""
    with pytest.raises(InputError, match="nothing that a layer can take"):
        Dense(3)([np.ones((3, 2)), np.ones((3, 3))])


def test_a_wider_summary(capsys):
    model = Sequential([Input((4,)), Dense(3)])
    model.summary(100)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines[1]) == 100
    with pytest.raises(InputError, match="their own places"):
        model.summary(positions=[0.3, 0.6])


def test_metrics_in_the_third_place_are_metrics():
    model = Sequential([Input((4,)), Dense(3)])
    model.compile("sgd", "mse", ["mae"])
    assert model.metrics_names == ["loss", "mae"]
    with pytest.raises(InputError, match="loss_weights"):
        model.compile("sgd", "mse", [0.5])
