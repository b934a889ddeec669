"""The arguments of every layer: those of Keras 3.15 in its order, and what is said where a value does not fit."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

from minicnn import layers
from minicnn.errors import InputError
from minicnn.layers import Conv2D, Dense, Input
from minicnn.models import Sequential

INITIALIZED = "kernel_initializer, bias_initializer, kernel_regularizer, bias_regularizer, activity_regularizer"
CONSTRAINED = "kernel_constraint, bias_constraint"
SPREAD = "depthwise_constraint, bias_constraint"
NORM = "beta_regularizer, gamma_regularizer, beta_constraint, gamma_constraint"
# Keras 3.15's order, from inspect.signature; layers without arguments of their own have an empty text.
KERAS = {
    "Activation": "activation",
    "Add": "", "Average": "", "Maximum": "", "Multiply": "", "Subtract": "",
    "AveragePooling1D": "pool_size, strides, padding, data_format, name",
    "AveragePooling2D": "pool_size, strides, padding, data_format, name",
    "BatchNormalization": "axis, momentum, epsilon, center, scale, beta_initializer, gamma_initializer, "
                          f"moving_mean_initializer, moving_variance_initializer, {NORM}, renorm, renorm_clipping, "
                          "renorm_momentum, synchronized",
    "CenterCrop": "height, width, data_format",
    "Concatenate": "axis",
    "Conv1D": "filters, kernel_size, strides, padding, data_format, dilation_rate, groups, activation, use_bias, "
              f"{INITIALIZED}, {CONSTRAINED}",
    "Conv2D": "filters, kernel_size, strides, padding, data_format, dilation_rate, groups, activation, use_bias, "
              f"{INITIALIZED}, {CONSTRAINED}",
    "Conv2DTranspose": "filters, kernel_size, strides, padding, output_padding, data_format, dilation_rate, "
                       f"activation, use_bias, {INITIALIZED}, {CONSTRAINED}",
    "Cropping2D": "cropping, data_format",
    "Dense": f"units, activation, use_bias, {INITIALIZED}, {CONSTRAINED}",
    "DepthwiseConv2D": "kernel_size, strides, padding, depth_multiplier, data_format, dilation_rate, activation, "
                       f"use_bias, {INITIALIZED.replace('kernel', 'depthwise')}, {SPREAD}",
    "Dropout": "rate, noise_shape, seed",
    "ELU": "alpha",
    "Flatten": "data_format",
    "GaussianNoise": "stddev, seed",
    "GlobalAveragePooling1D": "data_format, keepdims",
    "GlobalAveragePooling2D": "data_format, keepdims",
    "GlobalMaxPooling1D": "data_format, keepdims",
    "GlobalMaxPooling2D": "data_format, keepdims",
    "GroupNormalization": f"groups, axis, epsilon, center, scale, beta_initializer, gamma_initializer, {NORM}",
    "LayerNormalization": f"axis, epsilon, center, scale, beta_initializer, gamma_initializer, {NORM}",
    "LeakyReLU": "negative_slope",
    "MaxPooling1D": "pool_size, strides, padding, data_format, name",
    "MaxPooling2D": "pool_size, strides, padding, data_format, name",
    "Normalization": "axis, mean, variance, invert",
    "RandomFlip": "mode, seed, data_format",
    "RandomRotation": "factor, fill_mode, interpolation, seed, fill_value, data_format",
    "RandomTranslation": "height_factor, width_factor, fill_mode, interpolation, seed, fill_value, data_format",
    "RandomZoom": "height_factor, width_factor, fill_mode, interpolation, seed, fill_value, data_format",
    "Resizing": "height, width, interpolation, crop_to_aspect_ratio, pad_to_aspect_ratio, fill_mode, fill_value, "
                "antialias, data_format",
    "PReLU": "alpha_initializer, alpha_regularizer, alpha_constraint, shared_axes",
    "Permute": "dims",
    "ReLU": "max_value, negative_slope, threshold",
    "Rescaling": "scale, offset",
    "Reshape": "target_shape",
    "SeparableConv2D": "filters, kernel_size, strides, padding, data_format, dilation_rate, depth_multiplier, "
                       "activation, use_bias, depthwise_initializer, pointwise_initializer, bias_initializer, "
                       "depthwise_regularizer, pointwise_regularizer, bias_regularizer, activity_regularizer, "
                       "depthwise_constraint, pointwise_constraint, bias_constraint",
    "Softmax": "axis",
    "SpatialDropout2D": "rate, data_format, seed, name",
    "UpSampling2D": "size, data_format, interpolation",
    "ZeroPadding2D": "padding, data_format",
}  # fmt: skip
NEEDED = {
    "Activation": ["relu"], "Conv1D": [2, 3], "Conv2D": [2, 3], "GaussianNoise": [0.1], "CenterCrop": [3, 3],
    "Resizing": [3, 3], "RandomRotation": [0.1], "RandomTranslation": [0.1, 0.2], "RandomZoom": [0.1],
    "Conv2DTranspose": [2, 3], "Dense": [2], "DepthwiseConv2D": [3],
    "Dropout": [0.5],     "Permute": [(1, 2, 3)], "Rescaling": [2], "Reshape": [(12, 12)],
    "SeparableConv2D": [2, 3], "SpatialDropout2D": [0.5],
}  # fmt: skip
IMAGES = (6, 6, 4)
# Values that fit nothing, or only a few arguments: then they must do what they say.
WRONG = [
    None, -1, -1.5, 0, "nothing", "", (1, 2, 3), [], {}, float("nan"), float("inf"), True, object(), np.ones((2, 2)),
]  # fmt: skip


def test_every_layer_is_here():
    assert set(KERAS) == {name for name in layers.__all__ if layers.named(name)} - {"Layer", "InputLayer"}


@pytest.mark.parametrize("name", KERAS)
def test_arguments_have_the_order_of_keras(name):
    """Beyond them there is `algorithm`, our own, at the end."""
    own = [p for p in inspect.signature(getattr(layers, name)).parameters.values() if p.kind != p.VAR_KEYWORD]
    ours = [p.name for p in own if p.name not in ("algorithm", "trainable", "input_shape")]
    wanted = KERAS[name].split(", ") if KERAS[name] else []
    assert ours[: len(wanted)] == wanted and set(ours[len(wanted) :]) <= {"name"}


def test_the_table_is_that_of_keras():
    keras = pytest.importorskip("keras")
    for name, ours in KERAS.items():
        parameters = inspect.signature(getattr(keras.layers, name)).parameters.values()
        theirs = [p.name for p in parameters if p.kind != p.VAR_KEYWORD]
        theirs = [argument for argument in theirs if not argument.startswith(("lora", "quantization", "dtype"))]
        assert ours == ", ".join(theirs), name


def raw_error(make) -> str:
    """What make() ends in, unless it works or says what it expected, what came and what to do."""
    try:
        make()
    except InputError as error:
        parts = (error.where, error.problem, error.expected, error.received, error.fix)
        return "" if all(parts) else f"an empty part: {parts}"
    except Exception as error:
        return repr(error)
    return ""


@pytest.mark.parametrize(("name", "argument"), [(n, a) for n in KERAS for a in KERAS[n].split(", ") if a])
def test_no_argument_ends_in_a_raw_error(name, argument):
    """Each argument by its position and by its name, up to a prediction."""
    position = KERAS[name].split(", ").index(argument)
    cls, needed = getattr(layers, name), NEEDED.get(name, [])
    usual = {p.name: p.default for p in inspect.signature(cls).parameters.values()}
    before = [*needed, *(usual[each] for each in KERAS[name].split(", ")[len(needed) :])]

    def used(make):
        samples = IMAGES[1:] if name.endswith("1D") else IMAGES
        layer, shape = make(), [samples, samples] if cls.merges else samples
        layer.output_shape(shape)
        if not cls.merges:
            Sequential([Input(samples), layer]).predict(np.ones((2, *samples), np.float32), verbose=0)

    by_name = dict(zip(KERAS[name].split(", "), needed, strict=False))
    raw = {}
    for wrong in WRONG:
        given = {**by_name, argument: wrong}
        placed = [*before[:position], wrong, *needed[position + 1 :]]
        raw[f"{wrong!r} by position"] = raw_error(lambda: used(lambda: cls(*placed)))  # noqa: B023
        raw[f"{wrong!r} by name"] = raw_error(lambda: used(lambda: cls(**given)))  # noqa: B023
    assert not {how: error for how, error in raw.items() if error}


@pytest.mark.parametrize("argument", ["name", "trainable", "input_shape", "dtype", "activity_regularizer", "autocast"])
@pytest.mark.parametrize("wrong", [-1, "", (0,), "float64", "l2", np.ones(2)])
def test_arguments_of_every_layer(argument, wrong):
    assert not raw_error(lambda: Dense(3, **{argument: wrong}))


def test_what_keras_takes_everywhere_is_taken_at_its_neutral_value():
    assert Dense(3, dtype="float32", autocast=True, lora_rank=None).units == 3
    with pytest.raises(InputError, match="minicnn has no dtype here"):
        Dense(3, dtype="float16")
    with pytest.raises(InputError, match="the groups do not divide the filters"):
        Conv2D(4, 3, groups=3)
    with pytest.raises(InputError, match="use kernel_regularizer"):
        Conv2D(4, 3, activity_regularizer="l2")


@pytest.mark.parametrize("name", [name for name in KERAS if "data_format" in KERAS[name]])
def test_the_channels_come_last(name):
    cls, needed = getattr(layers, name), NEEDED.get(name, [])
    for data_format in (None, "channels_last", "Channels_Last"):
        layer = cls(*needed, data_format=data_format)
        assert layer.data_format in (None, "channels_last")
        assert cls.from_config(layer.get_config()).data_format == layer.data_format
    with pytest.raises(InputError, match=r"x\.transpose\(0, 2, 3, 1\)"):
        cls(*needed, data_format="channels_first")


def test_padding_is_known_in_capitals():
    assert Conv2D(4, 3, padding="SAME").padding == "same"
    assert layers.MaxPooling2D(2, padding="Valid").padding == "valid"


def test_the_penalties_and_constraints_of_a_batch_normalisation():
    """One step against the rule: dgamma of the penalty is 2 * 0.1 * gamma, and beta stays at 0 or above."""
    norm = layers.BatchNormalization(gamma_regularizer="l2", beta_constraint="non_neg")
    model = Sequential([Input((4,)), norm])
    norm.gamma_regularizer.l2 = 0.1
    model.compile("sgd", "mse")
    x = np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32)
    model.fit(x, x - 5, verbose=0)
    assert model.penalty() == pytest.approx(0.1 * (norm.params["gamma"] ** 2).sum(), rel=1e-5)
    np.testing.assert_array_equal(norm.params["beta"], 0)
    again = layers.BatchNormalization.from_config(norm.get_config())
    assert again.gamma_regularizer.l2 == 0.1 and type(again.beta_constraint).__name__ == "NonNeg"
