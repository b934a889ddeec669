"""Whole models of Keras: the network of a file's configuration, in the spellings of three versions, and its layouts."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest

from minicnn import activations, kernels
from minicnn.constraints import MaxNorm
from minicnn.errors import BrokenFileError, InputError
from minicnn.layers import (
    Activation,
    Add,
    BatchNormalization,
    Concatenate,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    Input,
    LeakyReLU,
    MaxPooling2D,
    Multiply,
    Normalization,
    ReLU,
    Softmax,
)
from minicnn.losses import CategoricalCrossentropy
from minicnn.models import Model, Sequential, load_model
from minicnn.optimizers import SGD
from minicnn.preprocessing.image import ImageInput
from minicnn.regularizers import L2
from minicnn.schedules import ExponentialDecay

h5py = pytest.importorskip("h5py", reason='Keras\' files are read with h5py: python -m pip install ".[keras]"')

FIXTURES = Path(__file__).parent / "fixtures"
RNG = np.random.default_rng(0)


def numbers(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype("f") * 0.5


def whole(path: Path, config, weights: dict[str, dict[str, np.ndarray]], backend="tensorflow", told=None) -> Path:
    """A whole-model .h5 as Keras 2 wrote it. weights: of each layer its arrays by name."""
    with h5py.File(path, "w") as file:
        if config is not None:
            file.attrs["model_config"] = json.dumps(config).encode()
        if told is not None:
            file.attrs["training_config"] = json.dumps(told).encode()
        root = file if config is None else file.create_group("model_weights")
        root.attrs["layer_names"] = [name.encode() for name in weights]
        root.attrs["backend"], root.attrs["keras_version"] = backend.encode(), b"2.0.5"
        for name, arrays in weights.items():
            group = root.create_group(name)
            group.attrs["weight_names"] = np.array([f"{name}/{a}:0".encode() for a in arrays], dtype="S60")
            for array_name, array in arrays.items():
                group[f"{name}/{array_name}:0"] = np.asarray(array, "f")
    return path


def sequential(*entries, **config) -> dict:
    """Keras 2's configuration of (class, arguments) each. `config`: of the network."""
    layers = [{"class_name": kind, "config": {"name": f"l{i}", **c}} for i, (kind, c) in enumerate(entries)]
    return {"class_name": "Sequential", "config": {"name": "net", "layers": layers, **config}}


def dense(units: int, inputs: int, **config) -> tuple[dict, dict]:
    arrays = {"kernel": numbers(inputs, units), "bias": numbers(units)}
    return {"units": units, "activation": "linear", **config}, arrays


# ---- files of Keras itself -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["_whole.h5", ".keras"])
def test_a_whole_model_gives_keras_answers(suffix):
    model = load_model(FIXTURES / f"keras_net{suffix}")
    recorded = np.load(FIXTURES / "keras_net.npz")
    np.testing.assert_allclose(model.predict(recorded["x"], verbose=0), recorded["y"], atol=1e-6)
    assert [type(layer).__name__ for layer in model.layers][:2] == ["Conv2D", "BatchNormalization"]
    assert not model.get_layer("inner").layers[0].trainable  # it was saved so
    model.compile("sgd", "mse")
    model.fit(recorded["x"], recorded["y"], verbose=0)


@pytest.mark.parametrize("suffix", [".h5", ".weights.h5"])
def test_weights_alone_are_no_model(suffix):
    with pytest.raises(BrokenFileError, match="holds weights, but no network") as caught:
        load_model(FIXTURES / f"keras_net{suffix}")
    assert "model.load_weights" in caught.value.fix


# ---- the spellings of three versions ---------------------------------------------------------------------------------

KERNEL, BIAS, ROWS = numbers(3, 3, 2, 4), numbers(4), numbers(36, 3)
WEIGHTS = {"conv": {"kernel": KERNEL, "bias": BIAS}, "flat": {}, "dense": {"kernel": ROWS, "bias": numbers(3)}}

KERAS_1 = {
    "class_name": "Sequential",
    "config": [
        {"class_name": "Convolution2D", "config": {
            "name": "conv", "batch_input_shape": [None, 5, 5, 2], "input_dtype": "float32", "nb_filter": 4, "nb_row": 3,
            "nb_col": 3, "border_mode": "valid", "subsample": [1, 1], "dim_ordering": "tf", "init": "glorot_uniform",
            "activation": "relu", "bias": True, "trainable": True, "b_regularizer": None, "b_constraint": None,
            "W_regularizer": {"name": "WeightRegularizer", "l1": 0.0, "l2": 0.25},
            "W_constraint": {"name": "MaxNorm", "m": 2, "axis": 0}, "activity_regularizer": None}},
        {"class_name": "Flatten", "config": {"name": "flat", "trainable": True}},
        {"class_name": "Dropout", "config": {"name": "drop", "p": 0.5, "trainable": True}},
        {"class_name": "Dense", "config": {
            "name": "dense", "output_dim": 3, "input_dim": None, "init": "normal", "activation": "softmax",
            "bias": True, "trainable": False}},
    ],
}  # fmt: skip
KERAS_2 = {
    "class_name": "Sequential",
    "config": {"name": "net", "layers": [
        {"class_name": "InputLayer", "config": {"batch_input_shape": [None, 5, 5, 2], "dtype": "float32",
                                                "sparse": False, "ragged": False, "name": "conv_input"}},
        {"class_name": "Conv2D", "config": {
            "name": "conv", "trainable": True, "batch_input_shape": [None, 5, 5, 2], "dtype": "float32", "filters": 4,
            "kernel_size": [3, 3], "strides": [1, 1], "padding": "valid", "data_format": "channels_last",
            "dilation_rate": [1, 1], "groups": 1, "activation": "relu", "use_bias": True,
            "kernel_initializer": {"class_name": "VarianceScaling", "config": {
                "scale": 1.0, "mode": "fan_avg", "distribution": "uniform", "seed": None}},
            "bias_initializer": {"class_name": "Zeros", "config": {}},
            "kernel_regularizer": {"class_name": "L1L2", "config": {"l1": 0.0, "l2": 0.25}},
            "bias_regularizer": None, "activity_regularizer": None, "bias_constraint": None,
            "kernel_constraint": {"class_name": "MaxNorm", "config": {"max_value": 2, "axis": 0}}}},
        {"class_name": "Flatten", "config": {"name": "flat", "trainable": True, "dtype": "float32",
                                             "data_format": "channels_last"}},
        {"class_name": "Dropout", "config": {"name": "drop", "rate": 0.5, "noise_shape": None, "seed": None}},
        {"class_name": "Dense", "config": {"name": "dense", "trainable": False, "units": 3, "activation": "softmax",
                                           "use_bias": True, "kernel_regularizer": None, "kernel_constraint": None}},
    ]},
}  # fmt: skip


def functional(config: dict, spelling: int) -> dict:
    """The same layers as a functional network, in the spelling of Keras 2 or 3."""
    layers, before = [], None
    for entry in config["config"]["layers"]:
        name = entry["config"]["name"]
        if before is None:
            nodes: list = []
        elif spelling == 2:
            nodes = [[[before, 0, 0, {}]]]
        else:
            history = {"class_name": "__keras_tensor__", "config": {"shape": [], "keras_history": [before, 0, 0]}}
            nodes = [{"args": [history], "kwargs": {"mask": None}}]
        layers.append({**entry, "name": name, "inbound_nodes": nodes})
        before = name
    ends = [layers[0]["name"], 0, 0], [before, 0, 0]
    ends = ends if spelling == 3 else tuple([end] for end in ends)
    inside = {"name": "net", "layers": layers, "input_layers": ends[0], "output_layers": ends[1]}
    return {"class_name": "Functional" if spelling == 3 else "Model", "config": inside}


@pytest.mark.parametrize(
    "config", [KERAS_1, KERAS_2, functional(KERAS_2, 2), functional(KERAS_2, 3)], ids=["1", "2", "2 f", "3 f"]
)
def test_the_spellings_of_three_versions(tmp_path, config):
    told = {"loss": "categorical_crossentropy", "metrics": ["accuracy"], "sample_weight_mode": None,
            "optimizer_config": {"class_name": "SGD", "config": {
                "lr": 0.125, "momentum": 0.5, "decay": 0.0, "nesterov": False}}}  # fmt: skip
    model = load_model(whole(tmp_path / "m.h5", config, WEIGHTS, told=told))
    built = Sequential([Input((5, 5, 2)), Conv2D(4, 3, activation="relu"), Flatten(), Dropout(0.5),
                        Dense(3, activation="softmax")])  # fmt: skip
    built.set_weights([array for arrays in WEIGHTS.values() for array in arrays.values()])
    x = numbers(3, 5, 5, 2)
    np.testing.assert_array_equal(model.predict(x, verbose=0), built.predict(x, verbose=0))
    conv, last = model.get_layer("conv"), model.get_layer("dense")
    assert (conv.kernel_regularizer.l2, conv.kernel_constraint.max_value) == (0.25, 2)
    assert conv.trainable and not last.trainable
    assert (model.optimizer.learning_rate, model.optimizer.momentum) == (0.125, 0.5)
    assert [metric.name for metric in model.metrics] == ["accuracy"]


@pytest.mark.parametrize(
    ("optimizer", "loss", "compiled"),
    [
        ({"class_name": "Adam", "config": {"learning_rate": 0.5, "amsgrad": False, "use_ema": False}}, "mse", True),
        ({"class_name": "RMSprop", "config": {"learning_rate": {"class_name": "ExponentialDecay", "config": {
            "initial_learning_rate": 0.5, "decay_steps": 10, "decay_rate": 0.9, "staircase": False, "name": None}}}},
         {"class_name": "CategoricalCrossentropy", "config": {
             "reduction": "sum_over_batch_size", "name": "x", "from_logits": True, "label_smoothing": 0.0, "axis": -1}},
         True),
        ({"class_name": "Ftrl", "config": {"learning_rate": 0.5}}, "mse", False),
        ({"class_name": "SGD", "config": {"learning_rate": 0.5}}, "my_own_loss", False),
    ],
)  # fmt: skip
def test_what_compile_was_told_where_it_is_known(tmp_path, optimizer, loss, compiled):
    config, arrays = dense(2, 3, batch_input_shape=[None, 3])
    told = {"loss": loss, "metrics": [], "optimizer_config": optimizer}
    path = whole(tmp_path / "m.h5", sequential(("Dense", config)), {"l0": arrays}, told=told)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = load_model(path)
    assert (model.optimizer is not None) == compiled == (not caught)
    assert compiled or "is not compiled" in str(caught[0].message)
    assert not compiled or float(model.optimizer.learning_rate) == 0.5


# ---- layouts ---------------------------------------------------------------------------------------------------------


def first(kind: str, **config) -> tuple[str, dict]:
    return kind, {"data_format": "channels_first", **config}


CONV = {"filters": 4, "kernel_size": [2, 2], "strides": [1, 1], "padding": "valid", "activation": "relu"}
NORM = {name: np.abs(numbers(48)) + 0.5 for name in ("gamma", "beta", "moving_mean", "moving_variance")}


def test_channels_first_becomes_channels_last(tmp_path):
    """Also for what stands between Flatten and Dense. The answers are those of the network written out by hand."""
    kernel, bias, rows, last = numbers(2, 2, 3, 4), numbers(4), numbers(48, 2), numbers(2)
    config = sequential(
        first("Conv2D", **CONV, batch_input_shape=[None, 3, 4, 5]), ("Flatten", {}),
        ("BatchNormalization", {"axis": -1, "epsilon": 0.001}), ("Dropout", {"rate": 0.5}),
        ("Dense", {"units": 2, "activation": "linear"}),
    )  # fmt: skip
    weights = {"l0": {"kernel": kernel, "bias": bias}, "l2": NORM, "l4": {"kernel": rows, "bias": last}}
    path = whole(tmp_path / "m.h5", config, weights)
    with pytest.warns(UserWarning, match="this model takes them last"):
        model = load_model(path)
    x = numbers(2, 4, 5, 3)
    flat = np.maximum(
        sum(x[:, i : i + 3, j : j + 4] @ kernel[i, j] for i in (0, 1) for j in (0, 1)) + bias, 0
    ).transpose(0, 3, 1, 2).reshape(2, -1)  # fmt: skip
    normal = (flat - NORM["moving_mean"]) / np.sqrt(NORM["moving_variance"] + 0.001) * NORM["gamma"] + NORM["beta"]
    np.testing.assert_allclose(model.predict(x, verbose=0), normal @ rows + last, rtol=1e-4, atol=1e-5)
    built = Sequential([Input((4, 5, 3)), Conv2D(4, 2, activation="relu"), Flatten(), BatchNormalization(),
                        Dropout(0.5), Dense(2)])  # fmt: skip
    built.load_weights(path)
    np.testing.assert_array_equal(built.predict(x, verbose=0), model.predict(x, verbose=0))


def test_flatten_may_bring_the_channels_to_the_end_itself(tmp_path):
    config = sequential(
        first("Conv2D", **CONV, batch_input_shape=[None, 3, 4, 5]), first("Flatten"),
        ("Dense", {"units": 2, "activation": "linear"}),
    )  # fmt: skip
    rows = numbers(48, 2)
    weights = {"l0": {"kernel": numbers(2, 2, 3, 4), "bias": numbers(4)}, "l2": {"kernel": rows, "bias": numbers(2)}}
    with pytest.warns(UserWarning, match="takes them last"):
        model = load_model(whole(tmp_path / "m.h5", config, weights))
    np.testing.assert_array_equal(model.get_layer("l2").params["w"], rows)


def test_kernels_of_theano_are_turned(tmp_path):
    kernel = numbers(3, 3, 2, 4)
    config = sequential(("Conv2D", {**CONV, "kernel_size": [3, 3], "batch_input_shape": [None, 5, 5, 2]}))
    for with_config in (True, False):
        weights = {"l0": {"kernel": kernel, "bias": BIAS}}
        path = whole(tmp_path / "m.h5", config if with_config else None, weights, backend="theano")
        model = Sequential([Input((5, 5, 2)), Conv2D(4, 3, activation="relu")])
        model.load_weights(path)
        np.testing.assert_array_equal(model.layers[0].params["w"], kernel[::-1, ::-1])
    np.testing.assert_array_equal(
        load_model(whole(tmp_path / "n.h5", config, weights, backend="theano")).layers[0].params["w"],
        kernel[::-1, ::-1],
    )


@pytest.mark.parametrize(("separator", "inside"), [("/", False), ("\\", False), ("/", True), ("\\", True)])
def test_groups_of_keras_2_12(tmp_path, separator, inside):
    """Each number counted twice; on Windows the path is one name. Also in an inner model."""
    root = "_layer_checkpoint_dependencies" + separator
    with h5py.File(tmp_path / "m.weights.h5", "w") as file:
        for i, name in enumerate(("dense", "dense_2", "dense_10")):
            place = f"{root}sequential{separator}{root}{name}" if inside else root + name
            group = file.create_group(place).create_group("vars")
            group["0"], group["1"] = np.full((3, 3), i, "f"), np.zeros(3, "f")
    layers = [Dense(3), Dense(3), Dense(3)]
    model = Sequential([Input((3,)), Sequential(layers)] if inside else [Input((3,)), *layers])
    model.load_weights(tmp_path / "m.weights.h5")
    assert [array.mean() for array in model.get_weights()[::2]] == [0, 1, 2]


# ---- names that are given automatically ------------------------------------------------------------------------------


def test_by_name_never_takes_a_neighbours_weights(tmp_path):
    """Keras' dense_1 is its second Dense, ours the first."""
    weights = {name: {"kernel": numbers(4, 4), "bias": numbers(4)} for name in ("dense", "dense_1", "mine")}
    path = whole(tmp_path / "m.h5", None, weights)
    model = Sequential([Input((4,)), Dense(4), ReLU(), Dense(4)])
    with pytest.raises(BrokenFileError, match="given automatically"):
        model.load_weights(path, by_name=True)
    model.add(Dense(4, name="mine"))
    before = model.get_weights()
    with pytest.warns(UserWarning, match="Left out: dense_1. These names are given automatically"):
        model.load_weights(path, by_name=True)
    for old, new in zip(before[:4], model.get_weights()[:4], strict=True):
        np.testing.assert_array_equal(old, new)
    np.testing.assert_array_equal(model.get_layer("mine").params["w"], weights["mine"]["kernel"])


# ---- the configuration compared with the model -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("theirs", "ours", "says"),
    [
        (("Dense", {"activation": "relu"}), [Dense(3, activation="tanh")], ["relu (l0) where … activation tanh"]),
        (("Dense", {"activation": "softmax"}), [Dense(3)], ["says activation softmax … where the model has nothing"]),
        (("Dense", {"activation": "relu"}), [Dense(3), Activation("relu")], []),
        (("Dense", {"activation": "relu"}), [Dense(3), Dropout(0.5), ReLU()], []),
        (("Dense", {"activation": "relu"}), [Dense(3), LeakyReLU(0.1)], ["negative_slope=0.0, … has 0.1"]),
    ],
)  # fmt: skip
def test_what_the_file_says_and_the_model_has(tmp_path, theirs, ours, says):
    config, arrays = dense(3, 4, batch_input_shape=[None, 4])
    path = whole(tmp_path / "m.h5", sequential((theirs[0], {**config, **theirs[1]})), {"l0": arrays})
    check_notes(Sequential([Input((4,)), *ours]), path, says)


def test_differences_of_layers_without_weights(tmp_path):
    config = sequential(
        ("Conv2D", {**CONV, "dilation_rate": [1, 1], "batch_input_shape": [None, 8, 8, 2]}),
        ("BatchNormalization", {"axis": [3], "epsilon": 1e-5}), ("MaxPooling2D", {"pool_size": [2, 2]}),
        ("Flatten", {}), ("Dense", {"units": 2, "activation": "linear"}),
    )  # fmt: skip
    norm = {name: NORM[name][:4] for name in NORM}
    weights = {"l0": {"kernel": numbers(2, 2, 2, 4), "bias": BIAS}, "l1": norm,
               "l4": {"kernel": numbers(36, 2), "bias": numbers(2)}}  # fmt: skip
    path = whole(tmp_path / "m.h5", config, weights)

    def model(epsilon, pool, strides):
        return Sequential([Input((8, 8, 2)), Conv2D(4, 2, activation="relu"), BatchNormalization(epsilon=epsilon),
                           MaxPooling2D(pool, strides=strides), Flatten(), Dense(2)])  # fmt: skip

    check_notes(model(1e-5, 2, None), path, [])
    check_notes(model(1e-3, 3, 2), path, ["epsilon=1e-05, … has 0.001", "pool_size=[2, 2], … has 3"])


def check_notes(model, path, says):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.load_weights(path)
    assert len(caught) == len(says), [str(w.message) for w in caught]
    for warning, text in zip(caught, says, strict=True):
        assert all(part in str(warning.message) for part in text.split(" … ")) and warning.filename == __file__


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "more", "text"),
    [
        ("Lambda", {"function": ["4wEA", None, None]}, "no layer Lambda"),
        ("LSTM", {"units": 3}, "no layer LSTM"),
        ("Conv2D", {**CONV, "groups": 3}, "groups do not divide"),
        ("Conv2D", {**CONV, "activity_regularizer": {"class_name": "L2"}}, "no activity_regularizer here"),
        ("Conv2D", {**CONV, "activation": "hard_swish"}, "no activation 'hard_swish'"),
        ("Conv2D", {**CONV, "kernel_regularizer": {"class_name": "Mine", "config": {}}}, "no kernel_regularizer here"),
        ("Conv2D", {**CONV, "kernel_constraint": {"class_name": "MinMaxNorm", "config": {}}}, "no kernel_constraint"),
        ("Conv2D", {**CONV, "dtype": "float16"}, "no dtype here"),
        ("Conv2D", {**CONV, "dtype": {"class_name": "QuantizedDTypePolicy", "config": {"name": "int8_from_float32"}}},
         "no dtype here"),
        ("Conv2D", {**CONV, "a_new_option": 3}, "no a_new_option here"),
        ("Conv2D", {**CONV, "filters": -3}, "filters"),
        ("Conv2D", {**CONV, "filters": 10**9}, "more parameters than the file has bytes for"),
        ("Conv2D", {**CONV, "batch_input_shape": [None, None, None, 3]}, "its input has no fixed size"),
        ("BatchNormalization", {"axis": 1}, "no axis here"),
        ("BatchNormalization", {"axis": -1, "renorm": True}, "no renorm here"),
        ("Dropout", {"rate": 0.5, "noise_shape": [0, 2]}, "noise_shape does not fit"),
        ("Dropout", {"rate": 7}, "rate"),
        ("UpSampling2D", {"size": [2, 2], "interpolation": "bicubic"}, "bilinear"),
        ("Reshape", {"target_shape": [3, 0]}, "target_shape"),
    ],
)  # fmt: skip
def test_what_would_change_the_numbers_is_refused_by_name(tmp_path, kind, more, text):
    config = {"name": "the_one", "batch_input_shape": [None, 8, 8, 2], **more}
    path = whole(tmp_path / "m.h5", sequential((kind, config)), {})
    with pytest.raises(BrokenFileError, match=text) as caught:
        load_model(path)
    assert str(path) in caught.value.where
    assert "the_one" in str(caught.value) or "fixed size" in text


def test_layers_that_move_numbers(tmp_path):
    """As Keras 3.15 writes their configurations."""
    first = {"name": "a", "cropping": [[1, 0], [0, 1]], "data_format": "channels_last"}
    entries = [
        ("Cropping2D", {**first, "batch_input_shape": [None, 5, 4, 2]}),
        ("UpSampling2D", {"name": "b", "size": [2, 1], "interpolation": "bilinear", "data_format": "channels_last"}),
        ("SpatialDropout2D", {"name": "c", "rate": 0.5, "seed": None, "noise_shape": None}),
        ("Permute", {"name": "d", "dims": [3, 1, 2]}),
        ("Reshape", {"name": "e", "target_shape": [8, -1, 1]}),
        ("GlobalMaxPooling2D", {"name": "f", "data_format": "channels_last", "keepdims": True}),
    ]
    model = load_model(whole(tmp_path / "m.h5", sequential(*entries), {}))
    kinds = [type(layer).__name__ for layer in model.layers]
    assert kinds == [kind for kind, _ in entries]
    assert model.output_shape == (None, 1, 1, 1)
    x = numbers(2, 5, 4, 2)
    cut = kernels.upsampling2d_forward(np.ascontiguousarray(x[:, 1:, :-1]), (2, 1), "bilinear")
    np.testing.assert_allclose(model.predict(x, verbose=0).ravel(), cut.max(axis=(1, 2, 3)), rtol=1e-6)


def test_a_normalization_counts_in_whole_numbers(tmp_path):
    """The one array of Keras that does not hold floating-point numbers."""
    config = {"axis": [-1], "mean": None, "variance": None, "invert": False, "batch_input_shape": [None, 3]}
    weights = {"l0": {"mean": numbers(3), "variance": np.abs(numbers(3)) + 0.1, "count": 7}}
    path = whole(tmp_path / "m.h5", sequential(("Normalization", config)), weights)
    with h5py.File(path, "a") as file:
        del file["model_weights/l0/l0/count:0"]
        file["model_weights/l0/l0/count:0"] = np.int64(7)
    x = numbers(5, 3)
    y = (x - weights["l0"]["mean"]) / np.sqrt(weights["l0"]["variance"])
    np.testing.assert_allclose(load_model(path).predict(x, verbose=0), y, rtol=1e-5)


def test_softmax_over_several_axes_and_what_was_given_to_a_normalization_go_through_a_file(tmp_path):
    given = Normalization(mean=[0.5, 1.0], variance=[2.0, 3.0])
    model, x = Sequential([Input((3, 4, 2)), given, Softmax((1, 2)), Softmax([1, -1])]), numbers(5, 3, 4, 2)
    for name in ("m.keras", "m.zip"):
        model.save(tmp_path / name)
        again = load_model(tmp_path / name)
        np.testing.assert_array_equal(again.predict(x, verbose=0), model.predict(x, verbose=0))
        np.testing.assert_array_equal(again.layers[0].mean.ravel(), [0.5, 1])


def test_normalisations_of_groups(tmp_path):
    """groups=1 is a value like others for this layer, and not what a layer without groups has."""
    norm = {"axis": -1, "epsilon": 0.001, "center": True, "scale": True}
    entries = [
        ("GroupNormalization", {**norm, "groups": 1, "batch_input_shape": [None, 2, 3, 4]}),
        ("LayerNormalization", {**norm, "axis": [1, 2, 3], "rms_scaling": False}),
    ]
    weights = {
        "l0": {"gamma": numbers(4), "beta": numbers(4)},
        "l1": {"gamma": numbers(2, 3, 4), "beta": numbers(2, 3, 4)},
    }
    model = load_model(whole(tmp_path / "m.h5", sequential(*entries), weights))
    assert model.layers[0].groups == 1
    x = numbers(5, 2, 3, 4)
    y = x
    for arrays in weights.values():
        mean, var = y.mean(axis=(1, 2, 3), keepdims=True), y.var(axis=(1, 2, 3), keepdims=True)
        y = (y - mean) / np.sqrt(var + 0.001) * arrays["gamma"] + arrays["beta"]
    np.testing.assert_allclose(model.predict(x, verbose=0), y, rtol=1e-4, atol=1e-5)


def test_mixed_precision_is_computed_in_float32(tmp_path):
    config, arrays = dense(2, 3, batch_input_shape=[None, 3], dtype={"class_name": "DTypePolicy", "config": {
        "name": "mixed_float16"}})  # fmt: skip
    with pytest.warns(UserWarning, match="computed in mixed_float16"):
        load_model(whole(tmp_path / "m.h5", sequential(("Dense", config)), {"l0": arrays}))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda c: c["config"].update(input_layers=[["a", 0, 0], ["b", 0, 0]]), "several inputs or outputs"),
        (lambda c: c["config"]["layers"][3].update(inbound_nodes=[[["dense", 0, 0, {}]]]), "in a circle"),
        (lambda c: c["config"]["layers"][3].update(inbound_nodes=[[["nowhere", 0, 0, {}]]]), "nowhere"),
        (lambda c: c["config"]["layers"][3].update(inbound_nodes=[[["flat", 0, 0, {"training": True}]]]),
         "called with training"),
        (lambda c: c["config"].pop("layers"), "KeyError"),
        (lambda c: c["config"].update(layers="Dense"), "no list"),
        (lambda c: c["config"]["layers"].append(3), "without a class_name"),
    ],
)  # fmt: skip
def test_graphs_that_make_no_sense(tmp_path, change, text):
    config = json.loads(json.dumps(functional(KERAS_2, 2)))
    change(config)
    with pytest.raises(BrokenFileError, match=text):
        load_model(whole(tmp_path / "m.h5", config, WEIGHTS))


def test_mixed_data_formats_and_what_reads_the_width(tmp_path):
    last = "Conv2D", {**CONV, "data_format": "channels_last"}
    two = [first("Conv2D", **CONV, batch_input_shape=[None, 3, 8, 8]), last]
    softmax = [first("Conv2D", **{**CONV, "activation": "softmax"}, batch_input_shape=[None, 3, 8, 8])]
    for entries, text in ((two, "mixes channels_first and channels_last"), (softmax, "along the width")):
        with pytest.raises(BrokenFileError, match=text):
            load_model(whole(tmp_path / "m.h5", sequential(*entries), {}))


def test_theano_pads_otherwise(tmp_path):
    config = sequential(("Conv2D", {**CONV, "padding": "same", "batch_input_shape": [None, 8, 8, 2]}))
    with pytest.raises(BrokenFileError, match="another border"):
        load_model(whole(tmp_path / "m.h5", config, {}, backend="theano"))


def test_weights_that_are_missing(tmp_path):
    config, _ = dense(2, 3, batch_input_shape=[None, 3])
    with pytest.raises(BrokenFileError, match="l0 has no weights in it"):
        load_model(whole(tmp_path / "m.h5", sequential(("Dense", config)), {}))
    with zipfile.ZipFile(FIXTURES / "keras_net.keras") as source, zipfile.ZipFile(tmp_path / "m.keras", "w") as target:
        text = source.read("config.json").replace(b'"filters": 4', b'"filters": 5')
        target.writestr("config.json", text)
        target.writestr("model.weights.h5", source.read("model.weights.h5"))
    with pytest.raises(BrokenFileError, match="does not fit"):
        load_model(tmp_path / "m.keras")


# ---- networks that branch --------------------------------------------------------------------------------------------


def branches() -> Model:
    """That of fixtures/make_keras_files.py."""
    x = Input((5, 4, 3))
    short, shared = Conv2D(3, 3, padding="same", activation="tanh")(x), Conv2D(3, 3, padding="same")
    long = Conv2D(3, 3, padding="same")(Conv2D(3, 3, padding="same", activation="relu")(x))
    entry = Input((5, 4, 3))
    inner = Model(entry, Multiply()([Conv2D(3, 1)(entry), entry]), name="inner")
    y = Add()([long, short, shared(x)])
    y = Concatenate()([shared(y), inner(short), y])
    return Model(x, Dense(3, activation="softmax")(Flatten()(y)))


@pytest.mark.parametrize("suffix", [".keras", "_whole.h5"])
def test_a_network_that_branches_gives_keras_answers(suffix):
    recorded = np.load(FIXTURES / "keras_graph.npz")
    model = load_model(FIXTURES / f"keras_graph{suffix}")
    np.testing.assert_allclose(model.predict(recorded["x"], verbose=0), recorded["y"], atol=1e-6)


@pytest.mark.parametrize("suffix", [".h5", "_whole.h5", ".weights.h5", ".keras"])
def test_its_weights_go_where_keras_counts_them(suffix):
    """The layers of the two ways have equal shapes: only Keras' order tells which is which."""
    recorded = np.load(FIXTURES / "keras_graph.npz")
    model = branches()
    model.load_weights(FIXTURES / f"keras_graph{suffix}")
    np.testing.assert_allclose(model.predict(recorded["x"], verbose=0), recorded["y"], atol=1e-6)


# ---- files that Keras opens ------------------------------------------------------------------------------------------


def everything() -> Sequential:
    layers = [
        Conv2D(4, 3, padding=((1, 0), (2, 1)), activation="relu", kernel_regularizer=L2(0.25), name="borders"),
        BatchNormalization(epsilon=1e-4, scale=False), LeakyReLU(0.1), MaxPooling2D(2), Dropout(0.3),
        Sequential([Conv2D(3, 1, kernel_constraint=MaxNorm(2)), ReLU(max_value=6)], name="inner"), Flatten(),
        Dense(3, activation="softmax"),
    ]  # fmt: skip
    model = Sequential([Input((7, 6, 2)), *layers])
    model.set_weights([np.abs(numbers(*array.shape)) + 0.1 for array in model.get_weights()])
    return model


@pytest.mark.parametrize("name", ["m.keras", "m.h5"])
@pytest.mark.parametrize("make", [everything, branches])
def test_what_is_saved_for_keras_comes_back(tmp_path, make, name):
    model = make()
    x = numbers(3, *model.input_shape[1:])
    optimizer, loss = SGD(ExponentialDecay(0.5, 10, 0.5), momentum=0.5), CategoricalCrossentropy(label_smoothing=0.25)
    model.compile(optimizer, loss, ["accuracy"])
    model.class_names = ["a", "ü", "c"]
    model.image_input = ImageInput(5, 4, "rgb") if make is branches else None
    model.save(tmp_path / name)
    again = load_model(tmp_path / name)
    np.testing.assert_allclose(again.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-6)
    assert (again.class_names, again.image_input) == (model.class_names, model.image_input)
    assert again.optimizer.get_config() == model.optimizer.get_config()
    assert again.loss.get_config() == model.loss.get_config()
    assert [metric.name for metric in again.metrics] == ["accuracy"]
    built = make()
    built.load_weights(tmp_path / name)
    np.testing.assert_array_equal(built.predict(x, verbose=0), model.predict(x, verbose=0))
    for weights in ("w.weights.h5", "w.h5"):
        built = make()
        model.save_weights(tmp_path / weights)
        built.load_weights(tmp_path / weights)
        np.testing.assert_array_equal(built.predict(x, verbose=0), model.predict(x, verbose=0))


def test_equal_models_give_equal_files(tmp_path):
    model = branches()
    for name in ("a", "b"):
        model.save(tmp_path / f"{name}.keras")
    assert (tmp_path / "a.keras").read_bytes() == (tmp_path / "b.keras").read_bytes()
    with pytest.raises(FileExistsError):
        model.save(tmp_path / "a.keras", overwrite=False)


class Mine(Dense):
    pass


class MyRule(L2):
    pass


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (Mine(2), "Keras has no layer Mine"),
        (Dense(2, activation=activations.relu.variant(max_value=6)), "activation 'relu' has options"),
        (Dense(2, activation=activations.Function("own", np.tanh, np.multiply)), "activation"),
        (Dense(2, kernel_regularizer=MyRule(0.5)), "kernel_regularizer is none of minicnn's"),
    ],
)
def test_what_keras_does_not_have_is_not_written(tmp_path, layer, text):
    model = Sequential([Input((3,)), layer])
    with pytest.raises(InputError, match=text) as caught:
        model.save(tmp_path / "m.keras")
    assert "model.zip" in caught.value.fix and not list(tmp_path.iterdir())


def test_without_h5py_no_file_for_keras(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(InputError, match="pip install h5py"):
        everything().save(tmp_path / "m.keras")


def test_keras_itself_opens_it(tmp_path):
    if importlib.util.find_spec("keras") is None:
        pytest.skip("needs Keras 3")
    for make in (everything, branches):
        model = make()
        model.compile("adam", "mse")
        model.save(tmp_path / "m.keras")
        model.save(tmp_path / "m.h5")
        model.save_weights(tmp_path / "m.weights.h5")
        x = numbers(3, *model.input_shape[1:])
        np.save(tmp_path / "x.npy", x)
        script = "import keras, numpy as np, sys; f = sys.argv[1]; load = keras.models.load_model; "
        script += "x = np.load(f + '/x.npy'); one, two, three = "
        script += "(load(f + '/' + name) for name in ('m.keras', 'm.h5', 'm.h5')); "
        script += "three.set_weights([0 * w for w in three.get_weights()]); three.load_weights(f + '/m.weights.h5'); "
        script += "np.save(f + '/y.npy', [m.predict(x, verbose=0) for m in (one, two, three)])"
        subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, capture_output=True)
        for y in np.load(tmp_path / "y.npy"):
            np.testing.assert_allclose(y, model.predict(x, verbose=0), atol=1e-5)


def test_many_long_names_in_the_older_form(tmp_path):
    """HDF5 has a limit for an attribute: the list of names goes into several."""
    model = Sequential([Input((2,)), *(Dense(2, name=f"{i:0190}") for i in range(400))])
    model.save(tmp_path / "m.h5")
    again = load_model(tmp_path / "m.h5")
    for one, two in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("name", ["m.zip", "m.keras"])
def test_the_input_keeps_its_name(tmp_path, name):
    chain = Sequential([Input((4, 4, 1), name="pixels"), Flatten(), Dense(2, name="last")])
    x = Input((4, 4, 1), name="pixels")
    graph = Model(x, Add()([x, Conv2D(1, 1)(x)]))
    for model in (chain, graph):
        model.save(tmp_path / name)
        again = load_model(tmp_path / name)
        assert again.input.layer.name == "pixels" and again.input_name == "pixels"
        again.save(tmp_path / f"again_{name}")
        assert load_model(tmp_path / f"again_{name}").input_name == "pixels"
    unnamed = Sequential([Input((3,)), Dense(2)])
    unnamed.save(tmp_path / "m.zip")
    assert load_model(tmp_path / "m.zip").input_name is None and "input_name" not in unnamed.get_config()
    with pytest.raises(InputError, match="a layer cannot have this name"):
        Sequential([Input((3,), name="a/b"), Dense(2)])
