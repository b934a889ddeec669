"""Bad input: an error in three parts that names the place and the remedy, before training has changed anything."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from helpers import random

from minicnn import callbacks, datasets, losses, metrics, optimizers, utils
from minicnn.activations import Function, softmax
from minicnn.errors import InputError, UnknownNameError
from minicnn.layers import (
    AveragePooling2D,
    BatchNormalization,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    Input,
    LeakyReLU,
    MaxPooling2D,
    ReLU,
)
from minicnn.models import Sequential

X = random((12, 8, 8, 1), seed=1, dtype=np.float32)
LABELS = np.arange(12) % 3
ONE_HOT = np.eye(3)[LABELS]


@pytest.fixture(autouse=True)
def seeded():
    utils.set_random_seed(0)


def network(
    loss="sparse_categorical_crossentropy", outputs=3, activation="softmax", shape=(8, 8, 1), flatten=True
) -> Sequential:
    model = Sequential([Input(shape), *([Flatten()] if flatten else []), Dense(outputs, activation=activation)])
    model.compile("adam", loss, metrics=["accuracy"])
    return model


def refused(work: Callable[[], object], where: str, *parts: str) -> InputError:
    """The error of work(): all three parts are there, and all of `parts` are in its text."""
    with pytest.raises(InputError) as caught:
        work()
    error = caught.value
    text = str(error)
    assert error.where == where, text
    for part in (error.problem, error.expected, error.received, error.fix):
        assert len(part) >= 2 and part.rstrip()[-1] in ".?):`\"'", text
    for part in parts:
        assert part in text, text
    return error


def refused_by_fit(model: Sequential, arguments: tuple, where: str, *parts: str, **options) -> None:
    """fit raises before it changes a weight, a generator's state or the optimizer, and before a callback is called."""
    before, state = model.get_weights(), model.rng.bit_generator.state
    began = []
    watch = callbacks.LambdaCallback(on_train_begin=lambda logs=None: began.append(1))
    refused(lambda: model.fit(*arguments, **{"verbose": 0, "callbacks": [watch], **options}), where, *parts)
    assert began == [] and model.optimizer.iterations == 0 and model.rng.bit_generator.state == state
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


# ---- samples ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "parts"),
    [
        (random((12, 9, 9, 1)), ["flatten_1", "(N, 8, 8, 1)", "(12, 9, 9, 1)", "resize the images to 8×8"]),
        (random((12, 8, 8, 3)), ["(12, 8, 8, 3)", "grey", "x.mean(axis=3, keepdims=True)"]),
        (random((12, 64)), ["(12, 64)", "x.reshape(-1, 8, 8, 1)"]),
        (random((12, 1, 8, 8)), ["x.transpose(0, 2, 3, 1)", "not reshape"]),
        (random((12, 7)), ["(12, 7)", "input_shape"]),
    ],
    ids=["another size", "colour", "flat", "channels first", "something else"],
)
def test_samples_that_do_not_fit_the_model(x, parts):
    refused_by_fit(network(), (x, LABELS), "x", *parts)
    refused(lambda: network().predict(x, verbose=0), "x", *parts)
    refused(lambda: network().evaluate(x, LABELS, verbose=0), "x", *parts)


def test_channels_first_colour_images():
    model = network(shape=(8, 6, 3))
    refused_by_fit(model, (random((12, 3, 8, 6)), LABELS), "x", "x.transpose(0, 2, 3, 1)", "not reshape")
    model.fit(random((12, 3, 8, 6)).transpose(0, 2, 3, 1), LABELS, verbose=0)


def test_images_where_rows_are_meant():
    refused_by_fit(network(shape=(64,)), (X, LABELS), "x", "x.reshape(len(x), -1)", "Flatten")


@pytest.mark.parametrize("x", [X[0], X[0, ..., 0]], ids=["(8, 8, 1)", "(8, 8)"])
def test_one_image_without_its_batch(x):
    refused(lambda: network().predict(x, verbose=0), "x", "batch of one", "x[None, ...]")


def test_one_number():
    refused(lambda: network(shape=(1,)).predict(5.0, verbose=0), "x", "single number", "[5.0]")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite(value):
    x = X.copy()
    x[7, 2, 3, 0] = value
    refused_by_fit(network(), (x, LABELS), "x", "finite", f"{value} at index (7, 2, 3, 0)")
    refused_by_fit(network(), (X, LABELS), "val_x", "finite", validation_data=(x, LABELS))
    refused(lambda: network().predict(x, verbose=0), "x", "finite")
    y = np.ones((12, 1))
    y[3] = value
    refused_by_fit(network("mse", 1, None), (X, y), "y", "finite", f"{value} at index (3, 0)")


def test_numbers_too_large_for_the_model():
    x, y = X.astype(np.float64), np.ones((12, 1))
    x[7, 2, 3, 0], y[3] = -1e39, 1e300
    refused_by_fit(network(), (x, LABELS), "x", "too large for float32", "-1e+39 at index (7, 2, 3, 0)", "scale")
    refused_by_fit(network("mse", 1, None), (X, y), "y", "too large for float32", "1e+300 at index (3, 0)")
    x[7, 2, 3, 0] = np.nan
    refused_by_fit(network(), (x, LABELS), "x", "not every number is finite", "nan at index (7, 2, 3, 0)")


@pytest.mark.parametrize(
    ("x", "y", "where"), [(X[:0], LABELS[:0], "x"), ([], [], "x"), (X, [], "y")], ids=["x and y", "lists", "y"]
)
def test_nothing(x, y, where):
    refused_by_fit(network(), (x, y), where, "nothing in it", "sliced")


def test_lengths_that_differ():
    refused_by_fit(network(), (X, LABELS[:5]), "y", "different lengths", "12 samples", "5 targets")
    refused_by_fit(network(), (X, LABELS[:5]), "y", "different lengths", validation_split=0.5)
    refused_by_fit(network(), (X, LABELS), "val_y", "val_x and val_y", validation_data=(X[:4], LABELS))


@pytest.mark.parametrize(
    "x",
    [[[1, 2], [3]], np.array([np.zeros(2), np.zeros(3)], dtype=object), [np.zeros((2, 2)), np.zeros((3, 3))]],
    ids=["lists", "object array", "list of images"],
)
def test_items_of_different_sizes(x):
    refused_by_fit(network(), (x, LABELS[:2]), "x", "one shape", "np.stack")


@pytest.mark.parametrize("x", [None, {"a": 1}, "images/"], ids=["None", "dict", "path"])
def test_what_is_no_array(x):
    refused_by_fit(network(), (x, LABELS), "x", "not numbers")


# ---- targets ---------------------------------------------------------------------------------------------------------


def test_labels_out_of_range():
    refused_by_fit(network(), (X, LABELS + 1), "y", "0…2", "from 1 to 3", "give the last layer 4 units")
    refused_by_fit(network(), (X, LABELS - 1), "y", "0…2", "from -1 to 1", "number the classes from 0")
    refused(lambda: network().evaluate(X, LABELS + 1, verbose=0), "y", "from 1 to 3")


def test_one_hot_rows_where_class_numbers_are_meant():
    refused_by_fit(network(), (X, ONE_HOT), "y", "takes class numbers", "one-hot rows of shape (12, 3)",
                   '"categorical_crossentropy"', "y.argmax(axis=1)")  # fmt: skip
    error = refused(lambda: network().fit(X, np.eye(5)[LABELS], verbose=0), "y", "one-hot rows of shape (12, 5)")
    assert "categorical_crossentropy" not in error.fix


@pytest.mark.parametrize("y", [LABELS, LABELS[:, None], LABELS.astype(np.uint8)], ids=["(N,)", "(N, 1)", "uint8"])
def test_class_numbers_where_one_hot_rows_are_meant(y):
    refused_by_fit(network("categorical_crossentropy"), (X, y), "y", "takes one-hot rows", "(N, 3)",
                   f"class numbers of shape {y.shape}", '"sparse_categorical_crossentropy"',
                   "to_categorical(y, 3)")  # fmt: skip


def test_class_numbers_that_are_not_whole():
    refused_by_fit(network(), (X, LABELS + 0.5), "y", "float64", "for example [0.5, 1.5, 2.5]", '"mse"')
    network().fit(X, LABELS.astype(float), verbose=0)  # whole numbers in floats are class numbers


def test_class_names_instead_of_numbers():
    names = np.array(["cat", "dog", "panda"])[LABELS]
    refused_by_fit(network(), (X, names), "y", "not numbers", "np.unique(y, return_inverse=True)")


@pytest.mark.parametrize("y", [LABELS, ONE_HOT], ids=["class numbers", "one-hot"])
def test_a_model_whose_flatten_was_forgotten(y):
    loss = "sparse_categorical_crossentropy" if y is LABELS else "categorical_crossentropy"
    where = "the model's output" if y is LABELS else "y"
    refused_by_fit(network(loss, flatten=False), (X, y), where, "(N, 8, 8, 3)", "put Flatten()")


def test_binary_targets():
    model = network("binary_crossentropy", 1, "sigmoid")
    refused_by_fit(model, (X, LABELS), "y", "between 0 and 1", "from 0 to 2")
    refused_by_fit(model, (X, 2 * (LABELS % 2) - 1), "y", "between 0 and 1", "from -1 to 1")
    refused_by_fit(model, (X, np.eye(2)[LABELS % 2]), "y", "one-hot rows of shape (12, 2)", "argmax")
    model.fit(X, LABELS % 2, verbose=0)


def test_binary_targets_may_be_truth_values():
    yes = LABELS % 2 == 1
    results = []
    for y in (yes, yes * 1.0):
        utils.set_random_seed(0)
        results.append(network("binary_crossentropy", 1, "sigmoid").fit(X, y, verbose=0).history)
    assert results[0] == results[1]


@pytest.mark.parametrize(
    ("loss", "y", "fix"),
    [
        ("sparse_categorical_crossentropy", LABELS, 'activation="softmax"'),
        ("categorical_crossentropy", ONE_HOT, "minicnn.losses.CategoricalCrossentropy(from_logits=True)"),
        ("binary_crossentropy", ONE_HOT, 'activation="sigmoid"'),
    ],
)
@pytest.mark.parametrize("activation", [None, "tanh"])
def test_a_cross_entropy_of_what_are_no_probabilities_warns_the_caller(loss, y, fix, activation):
    model = network(loss, 3, activation)
    with pytest.warns(UserWarning, match="takes probabilities, but the outputs of dense_1 are none") as caught:
        model.fit(X, y, verbose=0)
    assert len(caught) == 1 and fix in str(caught[0].message) and caught[0].filename == __file__


def test_a_cross_entropy_of_logits_or_of_an_activation_of_ones_own_does_not_warn():
    network(losses.SparseCategoricalCrossentropy(from_logits=True), 3, None).fit(X, LABELS, verbose=0)
    own = Function("sparsemax", softmax.forward, softmax.backward)
    network("sparse_categorical_crossentropy", 3, own).fit(X, LABELS, verbose=0)


def test_a_softmax_over_one_output():
    refused_by_fit(network("categorical_crossentropy", 1), (X, LABELS % 2), "y", "sigmoid", "binary_crossentropy")


@pytest.mark.parametrize(
    "y", [random((12, 3)), random((12, 2, 1, 2)), random((12,))], ids=["(N, 3)", "(N, 2, 1, 2)", "(N,)"]
)
def test_targets_of_another_shape(y):
    refused_by_fit(network("mse", 2, None), (X, y), "y", "(N, 2)", str(y.shape))


def test_targets_of_one_column_may_be_flat():
    for y in (random((12,)), random((12, 1))):
        network("mse", 1, None).fit(X, y, verbose=0)


def test_a_metric_of_the_other_kind_of_targets():
    model = network()
    for loss, metric, better in (
        ("sparse_categorical_crossentropy", "categorical_accuracy", "SparseCategoricalAccuracy"),
        ("categorical_crossentropy", metrics.SparseTopKCategoricalAccuracy(2), "TopKCategoricalAccuracy"),
    ):
        compiled = partial(model.compile, "sgd", loss, metrics=[metric])
        refused(compiled, "metrics", better, '"accuracy"')


# ---- validation, generators ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("validation", "where", "part"),
    [
        ((X[:, :4], LABELS), "val_x", "resize"),
        ((X, ONE_HOT), "val_y", "one-hot rows"),
        ((X, LABELS + 5), "val_y", "out of range"),
        ((X, LABELS, LABELS, LABELS), "validation_data", "(x_test, y_test)"),
        ((X, LABELS, LABELS[:2]), "sample_weight", "different lengths"),
        ((X,), "validation_data", "a tuple of 1"),
        (X, "val_y", "no targets"),
    ],
)
def test_validation_data_that_does_not_fit(validation, where, part):
    refused_by_fit(network(), (X, LABELS), where, part, validation_data=validation)


@pytest.mark.parametrize("share", [1.0, -0.2, 2, "0.2"])
def test_validation_splits_that_cannot_be(share):
    refused_by_fit(network(), (X, LABELS), "validation_split", "between 0 and 1", repr(share), validation_split=share)


def test_a_validation_split_that_leaves_nothing():
    refused_by_fit(network(), (X[:1], LABELS[:1]), "validation_split", "would be empty", validation_split=0.2)
    refused_by_fit(
        network(), ((b for b in [(X, LABELS)]),), "validation_split", "validation_data", validation_split=0.2
    )


def test_generators():
    model = network()
    refused_by_fit(model, ((b for b in [(X, LABELS)]),), "x", "how long an epoch is", "steps_per_epoch", epochs=2)
    refused_by_fit(model, ((b for b in [(X, LABELS)]), LABELS), "y", "brings its own targets", "leave y out")
    refused_by_fit(model, ([],), "x", "no batches")
    refused_by_fit(model, (X,), "y", "no targets", "pass y")
    refused(lambda: model.fit(iter([(X, LABELS)]), steps_per_epoch=3, verbose=0), "x", "ended too early", "3 batches")
    four = (X, LABELS, LABELS, LABELS)
    refused(lambda: model.fit(iter([four]), steps_per_epoch=1, verbose=0), "x", "a tuple of length 4")
    refused(lambda: model.fit((X, LABELS), verbose=0), "x", "not a pair", "two arguments")
    refused(lambda: model.fit(iter([(X, ONE_HOT)]), steps_per_epoch=1, verbose=0), "y", "one-hot rows")


# ---- arguments -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("batch_size", 0),
        ("batch_size", -1),
        ("batch_size", 32.0),
        ("epochs", "5"),
        ("epochs", -1),
        ("epochs", True),
        ("initial_epoch", -1),
        ("steps_per_epoch", 0),
    ],
)
def test_numbers_that_cannot_be(argument, value):
    refused_by_fit(network(), (X, LABELS), argument, "whole number", repr(value), f"{argument}=", **{argument: value})


@pytest.mark.parametrize(("argument", "value"), [("validation_batch_size", 0), ("validation_steps", "all")])
def test_numbers_of_validation_that_cannot_be(argument, value):
    options = {argument: value, "validation_data": (X, LABELS)}
    refused_by_fit(network(), (X, LABELS), argument, "whole number", **options)


@pytest.mark.parametrize(
    ("make", "suggestion"),
    [
        (lambda: network().compile("adm", "mse"), "'adam'"),
        (lambda: network().compile("adam", "sparse_categorical_crossentrpy"), "'sparse_categorical_crossentropy'"),
        (lambda: network().compile("adam", "mse", metrics=["acuracy"]), "'accuracy'"),
        (lambda: Dense(3, activation="rleu"), "'relu'"),
        (lambda: Dense(3, kernel_initializer="glorot_unifrom"), "'glorot_uniform'"),
        (lambda: Dense(3, kernel_regularizer="l3"), "'l2'"),
        (lambda: Dense(3, kernel_constraint="maxnrm"), "'maxnorm'"),
        (lambda: Conv2D(3, 3, stride=2), "'strides'"),
        (lambda: Dense(3, kernel_initialiser="zeros"), "'kernel_initializer'"),
        (lambda: optimizers.Adam(learnin_rate=0.1), "'learning_rate'"),
        (lambda: datasets.load("fashon_mnist"), "'fashion_mnist'"),
        (lambda: optimizers.Adam(lr=0.1), "'learning_rate'"),
        (lambda: optimizers.SGD(wd=0.1), "'weight_decay'"),
        (lambda: optimizers.get("ADAM"), "'adam'"),
        (lambda: losses.get("sparse_cat"), "'sparse_categorical_crossentropy'"),
        (lambda: Conv2D(8, 3, filter=3), "'filters'"),
        (lambda: Dense(3, kernel_regulariser="l2"), "'kernel_regularizer'"),
    ],
    ids=["optimizer", "loss", "metric", "activation", "initializer", "regularizer", "constraint", "stride",
         "British spelling", "optimizer argument", "data set", "lr", "wd", "capitals",
         "beginning", "filter", "regulariser"],
)  # fmt: skip
def test_unknown_names_offer_the_nearest(make, suggestion):
    with pytest.raises(UnknownNameError, match=f"did you mean {suggestion}"):
        make()


@pytest.mark.parametrize("verbose", ["loud", 3, None])
def test_verbosities_that_cannot_be(verbose):
    refused_by_fit(network(), (X, LABELS), "verbose", "no verbosity", repr(verbose), verbose=verbose)
    refused_by_fit(network(), (X, LABELS), "verbose", "no verbosity", verbose=verbose, epochs=0)
    refused(lambda: network().predict(X, verbose=verbose), "verbose", "no verbosity")


def test_before_compile():
    model = Sequential([Input((8, 8, 1)), Flatten(), Dense(3)])
    for name in ("fit", "evaluate"):
        work = getattr(model, name)
        refused(lambda work=work: work(X, LABELS, verbose=0), "sequential", f"{name} was called before compile",
                "model.compile(")  # fmt: skip


def test_compile_without_a_loss():
    refused(lambda: network().compile("adam"), "compile", "sparse_categorical_crossentropy", "mse")


@pytest.mark.parametrize("argument", ["optimizer", "loss"])
def test_compile_with_a_class(argument):
    given = {"optimizer": "adam", "loss": "mse"} | {
        argument: {"optimizer": optimizers.Adam, "loss": losses.MeanSquaredError}[argument]
    }
    refused(lambda: network().compile(**given), argument, "a class", "parentheses", f"{given[argument].__name__}()")


def test_a_model_without_layers():
    model = Sequential()
    model.compile("adam", "mse")
    for work in (lambda: model.fit(X, LABELS, verbose=0), lambda: model.predict(X, verbose=0), lambda: model(X)):
        refused(work, "sequential", "no layers")


def test_layers_that_are_none():
    refused(lambda: Sequential([Flatten]), "sequential", "not a layer", "Flatten()")
    refused(lambda: Sequential(["relu"]), "sequential", "not a layer", "'relu'")
    refused(lambda: Sequential(Dense(3)), "sequential", "brackets")
    refused(lambda: Sequential([Dense(3), Input((2,))]), "sequential", "Input", "front")


def test_callbacks_that_are_none():
    refused_by_fit(network(), (X, LABELS), "callbacks", "EarlyStopping(...)", callbacks=[callbacks.EarlyStopping])
    refused_by_fit(network(), (X, LABELS), "callbacks", "LambdaCallback", callbacks=[print])


@pytest.mark.parametrize(
    ("make", "where", "part"),
    [
        (lambda: Dense("3"), "dense", "units"),
        (lambda: Dense(0), "dense", "units"),
        (lambda: Conv2D(8, (3, 3, 3)), "conv2d", "kernel_size"),
        (lambda: Conv2D(8, (3,)), "conv2d", "kernel_size"),
        (lambda: Conv2D(8, 3, strides=0), "conv2d", "strides"),
        (lambda: MaxPooling2D([]), "max_pooling2d", "pool_size"),
        (lambda: Conv2D(8, 3, padding="smae"), "conv2d", '"same"'),
        (lambda: Dropout(20), "dropout", "20 %"),
        (lambda: Dropout(1.0), "dropout", "rate"),
        (lambda: Dense((2, 3)), "dense", "units does not fit"),
        (lambda: Dense(2.0), "dense", "units does not fit"),
        (lambda: Conv2D((8, 8), 3), "conv2d", "filters does not fit"),
        (lambda: Conv2D(8, np.array([3, 3])), "conv2d", "or a pair"),
        (lambda: Conv2D(8, 3, padding=(1, 2, 3)), "conv2d", "(1, 2, 3)"),
        (lambda: Conv2D(8, 3, padding=((1, 2), 3.0)), "conv2d", "((1, 2), 3.0)"),
        (lambda: Conv2D(8, 3, padding=1.5), "conv2d", "1.5"),
        (lambda: MaxPooling2D(padding=-1), "max_pooling2d", "0 or more"),
        (lambda: Conv2D(8, 3, padding=None), "conv2d", "None"),
        (lambda: BatchNormalization(momentum="a"), "batch_normalization", "momentum"),
        (lambda: Sequential([Input((4, 4, 3)), BatchNormalization(axis=1)]), "batch_normalization_1", "last axis"),
        (lambda: BatchNormalization(epsilon=-1), "batch_normalization", "epsilon"),
        (lambda: Input(4), "input_layer", "(4,), with the comma"),
        (lambda: Input("28"), "input_layer", "'28'"),
        (lambda: Input(28.0), "input_layer", "28.0"),
        (lambda: Input((28, 28.0)), "input_layer", "(28, 28.0)"),
        (lambda: Dense(3, input_shape=4), "dense", "(4,), with the comma"),
        (lambda: Sequential([Dense(3)]).build(4), "sequential", "model.build((None, 4))"),
        (lambda: Sequential([Dense(3)]).build((3, 4)), "sequential", "None, then the sizes of one sample"),
        (lambda: Dense(3, activation=ReLU), "activation", 'activation="relu"'),
        (lambda: Dense(3, activation=LeakyReLU()), "activation", 'activation="leaky_relu"'),
        (lambda: Dense(3, activation=Dense(2)), "activation", "put Dense() after this layer"),
        (lambda: Dense(3, activation=np.tanh), "activation", "Function(name"),
        (lambda: losses.BinaryCrossentropy(label_smoothing=1), "BinaryCrossentropy", "label_smoothing"),
        (lambda: losses.CategoricalCrossentropy(label_smoothing=-0.1), "CategoricalCrossentropy", "label_smoothing"),
    ],
)
def test_layer_arguments_that_cannot_be(make, where, part):
    refused(make, where, part)


def test_a_dropout_rate_may_be_any_number():
    assert Dropout(np.float32(0.25)).rate == 0.25


def test_numbers_of_numpy_and_pairs_are_welcome():
    layer = Conv2D(np.int64(2), [3, np.int32(2)], padding=(np.int64(1), (0, 2)))
    assert layer.output_shape((5, 5, 1)) == (5, 6, 2)


@pytest.mark.parametrize(
    "make",
    [lambda: Dense(2, use_bias=False), lambda: Conv2D(2, 1), BatchNormalization],
    ids=["Dense", "Conv2D", "BatchNormalization"],
)
def test_a_built_layer_where_another_width_reaches_it(make):
    layer = make()
    Sequential([Input((6, 6, 4)), layer])
    before = layer.get_weights()
    name = layer.name
    refused(lambda: Sequential([Input((6, 6, 5)), layer]), name, "4 in the last axis", "(6, 6, 5)", "make a new")
    late = Sequential([Conv2D(5, 1, name="early"), layer])
    refused(lambda: late.build((None, 6, 6, 1)), name, "4 in the last axis", "early 6×6×5")
    assert not late.layers[0].built
    Sequential([Input((3, 3, 4)), layer])  # other sizes of the image are welcome
    for old, new in zip(before, layer.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_layer_without_parameters_takes_every_width():
    layer = ReLU()
    for width in (4, 5):
        Sequential([Input((width,)), layer])


# ---- sizes -----------------------------------------------------------------------------------------------------------


def test_too_small_an_image_for_its_pools_shows_the_chain_of_sizes():
    error = refused(
        lambda: Sequential([Input((8, 8, 1)), Conv2D(4, 3), MaxPooling2D(), MaxPooling2D(), AveragePooling2D()]),
        "average_pooling2d_1", "too small", "at least 2×2", "1×1 pixels",
        "input 8×8×1 -> conv2d_1 6×6×4 -> max_pooling2d_1 3×3×4 -> max_pooling2d_2 1×1×4",
    )  # fmt: skip
    for fix in ("larger images", "fewer pooling layers", 'padding="same"'):
        assert fix in error.fix


def test_too_small_an_image_that_only_the_data_shows():
    model = Sequential([Conv2D(4, 3), MaxPooling2D(4), Flatten(), Dense(3, activation="softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    refused(lambda: model.fit(X[:, :5], LABELS, verbose=0), "max_pooling2d_1", "3×6 pixels", "conv2d_1 3×6×4")
    assert not model.built
    model.fit(X, LABELS, verbose=0)


def test_a_dilated_window_says_how_large_it_is():
    refused(lambda: Sequential([Input((5, 5, 1)), Conv2D(1, 3, dilation_rate=3)]), "conv2d_1", "at least 7×7")


def test_channels_first_shapes_that_end_too_small():
    refused(lambda: Sequential([Input((3, 32, 32)), Conv2D(4, 3), MaxPooling2D()]), "max_pooling2d_1",
            "do the channels come first", "transpose(0, 2, 3, 1), not reshape")  # fmt: skip


def test_layers_of_images_on_other_shapes():
    refused(lambda: Sequential([Input((28, 28)), Conv2D(4, 3)]), "conv2d_1", "x[..., None]")
    refused(
        lambda: Sequential([Input((8, 8, 1)), Flatten(), Conv2D(4, 3)]), "conv2d_1", "before Flatten", "flatten_1 64"
    )


def test_the_softmax_of_a_single_output_warns():
    """It spoke of a choice among several. (The other cross-entropies refuse such targets.)"""
    model = Sequential([Input((3,)), Dense(1, activation="softmax")])
    model.compile("sgd", "binary_crossentropy")
    with pytest.warns(UserWarning, match="one output, which is always 1"):
        model.fit(np.ones((2, 3)), np.ones((2, 1)), verbose=0)


def test_the_path_of_a_picture_in_the_place_of_its_pixels():
    """The error spoke of class numbers."""
    model = Sequential([Input((3,)), Dense(2)])
    with pytest.raises(InputError, match=r"(?s)x: these are not numbers.*img_to_array"):
        model.predict("cat.jpg")
    with pytest.raises(InputError, match="Received: None"):
        model.predict(None)
