"""Explanations: the terms of every number of every layer kind add up to what the trace recorded, and only to that."""

from __future__ import annotations

import copy
import functools
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from minicnn import activations, random
from minicnn.activations import Function
from minicnn.constraints import MaxNorm, NonNeg, UnitNorm
from minicnn.errors import InputError, UnknownNameError
from minicnn.initializers import Constant
from minicnn.inspect.explain import parse
from minicnn.inspect.trace import Trace
from minicnn.layers import (
    ELU,
    Activation,
    Add,
    Average,
    AveragePooling1D,
    AveragePooling2D,
    BatchNormalization,
    CenterCrop,
    Concatenate,
    Conv1D,
    Conv2D,
    Conv2DTranspose,
    Cropping2D,
    Dense,
    DepthwiseConv2D,
    Dropout,
    Flatten,
    GaussianNoise,
    GlobalAveragePooling1D,
    GlobalAveragePooling2D,
    GlobalMaxPooling1D,
    GlobalMaxPooling2D,
    GroupNormalization,
    Input,
    Layer,
    LayerNormalization,
    LeakyReLU,
    Maximum,
    MaxPooling1D,
    MaxPooling2D,
    Multiply,
    Normalization,
    Permute,
    PReLU,
    RandomFlip,
    RandomRotation,
    RandomTranslation,
    RandomZoom,
    ReLU,
    Rescaling,
    Reshape,
    Resizing,
    SeparableConv2D,
    Softmax,
    SpatialDropout2D,
    Subtract,
    UpSampling2D,
    ZeroPadding2D,
)
from minicnn.losses import (
    BinaryCrossentropy,
    CategoricalCrossentropy,
    MeanSquaredError,
    SparseCategoricalCrossentropy,
)
from minicnn.models import Model, Sequential
from minicnn.optimizers import SGD, Adagrad, Adam, AdamW, Lion, Muon, Nadam, RMSprop
from minicnn.regularizers import L1, L1L2, L2

N, K = 6, 4


@pytest.fixture(autouse=True)
def _same_weights_in_every_run():
    random.seed(0)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def traced(layers, optimizer="sgd", loss="sparse_categorical_crossentropy", shape=(9, 8, 2), steps=0, training=True,
           dtype=np.float32, frozen=(), y=None):  # fmt: skip
    """The trace of one step, after `steps` others, of a model whose biases, too, are random."""
    model = branching(layers, shape) if callable(layers) else Sequential([Input(shape), *layers], name="model")
    model.rng = rng(1)
    for layer in model.flat_layers:
        for name, array in (layer.params | layer.state).items():
            group = layer.params if name in layer.params else layer.state
            draw = rng(len(name)).normal(size=array.shape) * 0.3 + (name == "gamma" or name.endswith("variance"))
            group[name] = np.asarray(np.abs(draw) if name.endswith("variance") else draw, dtype)
        layer.trainable = layer.name not in frozen
    model.compile(optimizer, loss)
    x = rng(2).normal(size=(N, *shape)).astype(dtype)
    if y is None:
        y = np.arange(N) % K if model.loss.sparse else rng(3).random((N, *model.shapes[-1]))
    for _ in range(steps):
        model.fit(x, y, verbose=0)
    return model.trace(x, y, training=training)


def branching(build, shape):
    """A network that branches: build makes of the symbolic input what the last layers read."""
    x = Input(shape)
    y = build(x)
    for layer in ends():
        y = layer(y)
    return Model(x, y, name="model")


def merged(layer, number=2):
    """`number` convolutions of the input, and what a merging layer makes of them."""
    return lambda x: layer([Conv2D(3, 3, activation="tanh")(x) for _ in range(number)])


def residual(x):
    y = Conv2D(2, 3, padding="same", activation="relu")(x)
    return Concatenate()([MaxPooling2D(3)(Add()([x, y])), Conv2D(3, 3, strides=3)(y)])


def gated(x):
    """A channel's numbers times one number of it: the axes of length 1 are repeated."""
    y = Conv2D(3, 3)(x)
    return Multiply()([y, AveragePooling2D((7, 6))(y)])


def shared(x):
    """One layer, called three times."""
    layer = Conv2D(2, 3, padding="same", activation="relu", kernel_regularizer="l2", name="shared")
    return layer(layer(layer(x)))


# Every layer kind, with every option that changes the arithmetic.
MODELS = {
    "add": lambda: merged(Add(), 3),
    "subtract": lambda: merged(Subtract()),
    "multiply": lambda: merged(Multiply(), 3),
    "average": lambda: merged(Average(), 3),
    "maximum": lambda: merged(Maximum(), 3),
    "concatenate": lambda: merged(Concatenate(), 3),
    "concatenate rows": lambda: merged(Concatenate(axis=1)),
    "padding": lambda: lambda x: ZeroPadding2D(((1, 0), (2, 3)))(x),
    "residual": lambda: residual,
    "repeated along axes": lambda: gated,
    "one layer, three uses": lambda: shared,
    "conv valid": lambda: [Conv2D(3, 3, activation="relu"), *ends()],
    "conv same, stride 2": lambda: [Conv2D(3, (3, 2), strides=2, padding="same"), *ends()],
    "conv dilated": lambda: [Conv2D(3, 2, dilation_rate=(2, 3), padding=((1, 2), (0, 1)), activation="tanh"), *ends()],
    "conv stride (2, 3), no bias": lambda: [Conv2D(2, 3, strides=(2, 3), padding=1, use_bias=False), *ends()],
    "conv softmax": lambda: [Conv2D(3, 2, activation="softmax"), *ends()],
    "conv of groups": lambda: [Conv2D(4, 2), Conv2D(6, (3, 2), padding="same", groups=2, activation="relu"), *ends()],
    "conv depthwise": lambda: [
        DepthwiseConv2D(3, 2, "same", 3, activation="tanh"), DepthwiseConv2D(2, padding=1, dilation_rate=2), *ends()
    ],
    "conv separable": lambda: [
        SeparableConv2D(3, 3, activation="relu"), SeparableConv2D(2, 2, 2, "same", depth_multiplier=2), *ends()
    ],
    "conv of sequences": lambda: [
        Reshape((-1, 4)), Conv1D(4, 3, 2, "same", activation="relu"),
        Conv1D(4, 2, padding="causal", dilation_rate=2, groups=2), BatchNormalization(), *ends(),
    ],
    "pools of sequences": lambda: [
        Reshape((-1, 2)), MaxPooling1D(3, 2, "same"), AveragePooling1D(2, 1, "same"), MaxPooling1D(5), *ends()
    ],
    "one number a channel": lambda: [Reshape((-1, 3)), GlobalAveragePooling1D(keepdims=True), *ends()],
    "the largest of a channel": lambda: [Reshape((-1, 3)), GlobalMaxPooling1D(), *ends()],
    "prepared": lambda: [
        RandomFlip(), Normalization(), Resizing(7, 12), Normalization(None, 0.5, 2.0, invert=True),
        Resizing(5, 7, "nearest", True), CenterCrop(4, 6), RandomFlip("vertical", 3), *ends(),
    ],
    "turned": lambda: [RandomRotation(0.2), RandomZoom(0.4, fill_mode="constant", fill_value=0.5), *ends()],
    "shifted": lambda: [
        RandomTranslation(0.4, 0.4, "wrap"), RandomRotation((0.1, 0.3), "nearest", "nearest"), *ends()
    ],
    "cropped to the middle": lambda: [CenterCrop(12, 5), *ends()],
    "noise": lambda: [GaussianNoise(0.5), *ends()],
    "conv transposed": lambda: [Conv2DTranspose(3, (3, 2), strides=2, activation="relu"), *ends()],
    "conv transposed, same": lambda: [
        Conv2DTranspose(2, 3, padding="same", dilation_rate=2, use_bias=False),
        Conv2DTranspose(3, 3, (3, 2), "same", (2, 0), activation="tanh"), *ends(),
    ],
    "dense": lambda: [Flatten(), Dense(7, activation="elu"), Dense(5, activation="gelu"), *ends()],
    "dense on images": lambda: [Dense(5, activation="leaky_relu"), *ends()],
    "dense, softmax in between": lambda: [Flatten(), Dense(5, activation="softmax"), *ends()],
    "max": lambda: [MaxPooling2D(2), *ends()],
    "max, overlapping": lambda: [MaxPooling2D((3, 2), strides=2, padding="same"), *ends()],
    "average pooling": lambda: [AveragePooling2D(3, strides=2, padding="same"), *ends()],
    "average, dropped rows": lambda: [AveragePooling2D((2, 3)), *ends()],
    "global average": lambda: [GlobalAveragePooling2D(), *ends()],
    "activations": lambda: [ReLU(), Activation("sigmoid"), LeakyReLU(0.1), ELU(0.7), Activation("tanh"), *ends()],
    "silu, mish": lambda: [Conv2D(3, 3, activation="silu"), Activation("mish"), *ends()],
    "softplus, softsign": lambda: [Conv2D(3, 3, activation="softplus"), Activation("softsign"), *ends()],
    "selu, relu6": lambda: [Conv2D(3, 3, activation="selu"), Activation("relu6"), *ends()],
    "hard_sigmoid, exponential": lambda: [Activation("hard_sigmoid"), Conv2D(3, 3, activation="exponential"), *ends()],
    "relu with options": lambda: [ReLU(max_value=0.8, negative_slope=0.2), Activation("gelu"), *ends()],
    "linear, softmax layers": lambda: [Activation("linear"), Softmax(), Flatten(), Dense(K), Softmax()],
    "norm of images": lambda: [BatchNormalization(), *ends()],
    "norm of features": lambda: [Flatten(), BatchNormalization(center=False, momentum=0.8), *ends()],
    "norm without scale": lambda: [BatchNormalization(scale=False), *ends()],
    "dropout": lambda: [Dropout(0.4), Rescaling(0.5, -0.2), *ends()],
    "dropout of channels": lambda: [SpatialDropout2D(0.4), Dropout(0.4, (None, None, 1, 1)), *ends()],
    "one scale a channel": lambda: [Rescaling([2, -3], [0.5, 1]), *ends()],
    "global average, as images": lambda: [GlobalAveragePooling2D(keepdims=True), *ends()],
    "global maximum": lambda: [GlobalMaxPooling2D(), *ends()],
    "global maximum, as images": lambda: [ReLU(), GlobalMaxPooling2D(keepdims=True), *ends()],
    "norm of layers": lambda: [LayerNormalization(), LayerNormalization([1, 2, 3], 0.01, center=False), *ends()],
    "norm of groups": lambda: [Conv2D(4, 2), GroupNormalization(2), GroupNormalization(-1, scale=False), *ends()],
    "moved": lambda: [Permute((3, 1, 2)), Reshape((4, -1)), Permute((2, 1)), *ends()],
    "cropped": lambda: [Cropping2D(((1, 0), (2, 1))), *ends()],
    "larger": lambda: [UpSampling2D((2, 1)), UpSampling2D((2, 3), interpolation="bilinear"), *ends()],
    "prelu": lambda: [PReLU(Constant(0.25)), PReLU(Constant(-0.5), shared_axes=(1, 2)), *ends()],
    "nested": lambda: [Sequential([Conv2D(2, 3), Sequential([MaxPooling2D()])]), *ends()],
}


def ends():
    return [Flatten(), Dense(K, activation="softmax")]


def whats(layer):
    """All questions that can be asked about a layer, with the arrays that hold the answers."""
    parts = {f"dx{k}": part for k, part in enumerate(layer.dx)} if isinstance(layer.dx, list) else {"dx": layer.dx}
    asked = {"y": layer.y, "dy": layer.dy, **parts}
    for name in ("h", "dh", "z", "dz"):
        if name in layer.kept and (name in ("h", "dh", "dz") or layer.weighted):
            asked[name] = layer.kept[name]
    asked |= {f"d{name}": g for name, g in layer.grads.items()}
    return asked | {f"update:{name}": p for name, p in (layer.updated | layer.state_after).items()}


def assert_explained(t, count=3, seed=0, tolerance=None):
    """Random elements of everything: the terms add up to each step, and the last step is the recorded number."""
    draw = rng(seed)
    for layer in t.layers:
        for what, array in whats(layer).items():
            for _ in range(count):
                index = tuple(int(draw.integers(size)) for size in array.shape)
                e = t.explain(layer.key, what, index)
                where = f"{e.title} of a {layer.kind}\n{e}"
                assert e.recorded == float(array[index]), where
                assert e.ok, where
                assert np.isfinite(e.total) and np.isfinite(e.allowed), where
                for step in e.steps:
                    if step.products:
                        total = sum(term.product for term in step.terms)
                        assert step.value == pytest.approx(total, rel=1e-9, abs=1e-12), where
                    else:
                        assert step.worked, where
                if tolerance is not None:
                    assert abs(e.difference) <= tolerance * max(e.scale, 1e-3), where
    return t


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("name", MODELS)
def test_every_layer_kind(name, training):
    assert_explained(traced(MODELS[name](), training=training))


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("name", MODELS)
def test_in_float64_to_1e_12(name, training):
    assert_explained(traced(MODELS[name](), training=training, dtype=np.float64), seed=1, tolerance=1e-12)


def test_the_models_hold_every_layer_kind():
    from minicnn import layers

    kinds = {layer.kind for make in MODELS.values() for layer in traced(make()).layers}
    assert kinds == set(layers.__all__) - {"Context", "Layer", "Input", "InputLayer"}


def test_gradients_meet_where_a_value_is_read_twice():
    t = traced(residual)
    e = t.explain("conv2d_1", "dy", (0, 1, 2, 1))
    assert [term.source for term in e.terms] == ["add_1.dx1", "conv2d_2.dx"] and "gradients meet" in e.formula
    at = np.unravel_index(np.abs(t["add_1"].dx[1]).argmax(), t["conv2d_1"].dy.shape)
    assert t.explain("conv2d_1", "dy", at).ok
    t["conv2d_1"].dy = t["conv2d_2"].dx  # = in place of +=: one of the two is lost
    assert not t.explain("conv2d_1", "dy", at).ok


def test_a_concatenation_says_which_input_a_number_is_from():
    e = traced(residual).explain("concatenate_1", "y", (0, 1, 1, 3))
    assert e.terms[0].source == "x1" and e.terms[0].index == (0, 1, 1, 1)
    assert "place 3 of axis 3 is place 1 of input 1" in e.note.lower() and "x1 is conv2d_2" in e.note


@pytest.mark.parametrize(
    ("loss", "last"),
    [
        (MeanSquaredError(), Dense(3, activation="tanh")),
        ("mae", Dense(3)),
        (CategoricalCrossentropy(label_smoothing=0.2), Dense(K, activation="softmax")),
        (CategoricalCrossentropy(), Dense(K, activation="sigmoid")),
        (CategoricalCrossentropy(from_logits=True), Dense(K)),
        (SparseCategoricalCrossentropy(from_logits=True), Dense(K)),
        (SparseCategoricalCrossentropy(), Softmax()),
        (BinaryCrossentropy(label_smoothing=0.1), Dense(3, activation="sigmoid")),
        (BinaryCrossentropy(from_logits=True), Dense(3)),
        (BinaryCrossentropy(), Softmax()),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else value,
)
def test_every_loss(loss, last):
    t = traced([Flatten(), Dense(K, activation="relu"), last], loss=loss)
    assert_explained(t, count=8)


def test_dy_of_a_fused_last_layer_says_what_it_is():
    t = traced([Flatten(), Dense(K, activation="softmax")])
    e = t.explain("dense_1", "dy", (1, 2))
    assert t.fused
    assert "with respect to the logits, not to y" in e.note
    p, one = e.terms
    assert (p.value, p.factor) == (float(t.y_pred[1, 2]), pytest.approx(1 / N))
    assert (one.value, one.factor) == (float(t.y_true[1] == 2), pytest.approx(-1 / N))
    assert not traced([Flatten(), Dense(K)], loss="mse").fused


OPTIMIZERS = {
    "SGD": lambda: SGD(0.1),
    "SGD with weight decay": lambda: SGD(0.1, weight_decay=0.05),
    "momentum": lambda: SGD(0.1, momentum=0.9),
    "nesterov": lambda: SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "old decay": lambda: SGD(0.1, decay=0.5),
    "Adam": lambda: Adam(0.01),
    "AdamW": lambda: AdamW(0.01, weight_decay=0.1),
    "Adam amsgrad": lambda: Adam(0.01, amsgrad=True),
    "AdamW amsgrad": lambda: AdamW(0.01, amsgrad=True),
    "Muon": lambda: Muon(0.01, weight_decay=0.1),
    "Muon, other arguments": lambda: Muon(
        0.1, nesterov=False, normalize=True, rms_rate=None, ns_steps=2, adam_lr_ratio=0.5, adam_weight_decay=0.1
    ),
    "Muon, one round": lambda: Muon(0.1, ns_steps=1, exclude_layers=["conv.*/kernel"]),
    "Muon, no AdamW": lambda: Muon(0.1, adam_lr_ratio=0.0),
    "Nadam": lambda: Nadam(0.01, weight_decay=0.1),
    "Adagrad": lambda: Adagrad(0.01),
    "Lion": lambda: Lion(0.01),
    "RMSprop": lambda: RMSprop(0.01),
    "RMSprop centered": lambda: RMSprop(0.01, centered=True, momentum=0.5),
    "clipvalue": lambda: SGD(0.1, clipvalue=0.01),
    "clipnorm": lambda: Adam(0.01, clipnorm=0.05),
    "global_clipnorm": lambda: SGD(0.1, global_clipnorm=0.1),
    "no clipping, being short": lambda: SGD(0.1, clipnorm=1e6, global_clipnorm=1e6),
    "all three": lambda: SGD(0.1, clipvalue=0.02, clipnorm=0.05, global_clipnorm=0.06),
}


@pytest.mark.parametrize(("steps", "dtype"), [(0, np.float64), (2, np.float32)], ids=["first step", "third step"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer(name, steps, dtype):
    layers = [Conv2D(2, 3, activation="relu"), BatchNormalization(), Flatten(), Dense(K, activation="softmax")]
    t = traced(layers, OPTIMIZERS[name](), steps=steps, dtype=dtype, shape=(5, 5, 1))
    for layer in t.layers:
        for parameter, p in layer.updated.items():
            for index in [(0,) * p.ndim, tuple(n - 1 for n in p.shape)]:
                e = t.explain(layer.key, f"update:{parameter}", index)
                assert e.ok, e
                assert not np.array_equal(p, layer.params[parameter])
                for step in e.steps:  # the optimizer's arrays, where a step has their name
                    slot = {"m": "m" if "Adam" in name or name == "clipnorm" else "momentum"}.get(step.name, step.name)
                    if f"{parameter}/{slot}" in layer.slots_after:
                        recorded = layer.slots_after[f"{parameter}/{slot}"][index]
                        assert step.value == pytest.approx(recorded, rel=1e-5, abs=1e-10)


@pytest.mark.parametrize("make", [SGD, Adam, Lion, Muon], ids=lambda make: make.__name__)
def test_what_weight_decay_leaves_alone_is_explained_without_it(make):
    optimizer = make(0.1, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_names=["dense_1/bias", "kernel"])
    t = traced([Conv2D(2, 3, activation="relu"), Flatten(), Dense(K, activation="softmax")], optimizer, shape=(5, 5, 1))
    assert_explained(t)
    of_parameter = {f"{layer.key}/{name}": str(t.explain(layer.key, f"update:{name}", (0,) * p.ndim))
                    for layer in t.layers for name, p in layer.params.items()}  # fmt: skip
    shrunk = {key: "weight_decay" in text for key, text in of_parameter.items()}
    assert shrunk == {"conv2d_1/w": False, "conv2d_1/b": True, "dense_1/w": False, "dense_1/b": False}


def test_muon_is_shown_as_sums_of_products_of_its_matrix():
    t = traced([Flatten(), Dense(3), Dense(K, activation="softmax")], Muon(0.1), shape=(2, 2, 1), steps=1)
    e = t.explain("dense_1", "update:w", (1, 2))  # 4 x 3: higher than wide
    assert [step.name for step in e.steps] == ["m", "ahead", "norm²", "norm", "o", "w"]
    assert e.steps[0].value == pytest.approx(t["dense_1"].slots_after["w/m_sum"][1, 2], rel=1e-5)
    first, *others = e.steps[4].terms
    assert (first.index, first.partner) == ((2, 1), "a")
    assert [(term.index, term.partner_index) for term in others] == [((k, 1), (2, k)) for k in range(3)]
    t["dense_1"].slots["w/m_sum"][3, 0] += 1  # another number of the matrix: the step is not of it alone
    assert not t.explain("dense_1", "update:w", (1, 2)).ok
    assert "goes by AdamW" in t.explain("dense_1", "update:b", 0).note


@pytest.mark.parametrize("regularizer", [L1(0.02), L2(0.03), L1L2(0.02, 0.03)], ids=lambda r: type(r).__name__)
@pytest.mark.parametrize(
    "constraint",
    [None, MaxNorm(0.5, axis=(0, 1, 2)), MaxNorm(1e6, axis=(0, 1, 2)), UnitNorm(axis=-1), NonNeg()],
    ids=["none", "MaxNorm", "MaxNorm, short", "UnitNorm", "NonNeg"],
)
@pytest.mark.parametrize("make", [Adam, Muon], ids=["Adam", "Muon"])
def test_regularizers_and_constraints(make, regularizer, constraint):
    optimizer = make(0.05, clipnorm=0.5, weight_decay=0.01)
    conv = Conv2D(2, 2, kernel_regularizer=regularizer, kernel_constraint=constraint, bias_constraint="nonneg")
    t = traced([conv, *ends()], optimizer, shape=(4, 4, 2), steps=1)
    assert_explained(t, count=6)
    e = t.explain("conv2d_1", "update", (0, 1, 1, 1))
    assert "regularizer" in str(e) and "clipnorm" in str(e)


def test_a_frozen_layer_stays():
    t = traced([Flatten(), Dense(3), BatchNormalization(), Dense(K, activation="softmax")],
               frozen=("dense_1", "batch_normalization_1"))  # fmt: skip
    assert_explained(t)
    for layer, what in (("dense_1", "update:w"), ("batch_normalization_1", "update:moving_mean")):
        e = t.explain(layer, what, (0,) * t[layer].params.get("w", np.empty(1)).ndim)
        assert "stays" in e.formula and e.difference == 0 and len(e.terms) == 1


# ---- what an explanation says ---------------------------------------------------------------------------------------


def test_the_terms_name_their_tensors():
    t = traced([Conv2D(3, 3, padding="same", activation="relu"), *ends()])
    conv = t["conv2d_1"]
    e = t.explain("conv2d_1", "y", (1, 0, 4, 2))  # at the upper edge: 3 of the 9 pixels are padding
    z = e.steps[0]
    assert (z.name, len(z.terms)) == ("z", 6 * 2 + 1)
    assert "3 of the window's 9 pixels lie in the padding" in e.note
    for term in z.terms[:-1]:
        assert (term.source, term.partner) == ("x", "w")
        assert term.value == conv.x[term.index] and term.factor == conv.params["w"][term.partner_index]
        assert term.index == (1, term.partner_index[0] - 1, 4 + term.partner_index[1] - 1, term.partner_index[2])
    assert (z.terms[-1].source, z.terms[-1].index, z.terms[-1].product) == ("b", (2,), conv.params["b"][2])
    assert len({(term.source, term.index) for term in z.terms}) == len(z.terms)
    assert e.terms == [term for step in e.steps for term in step.terms]


def test_every_contribution_to_a_pixel_and_to_a_weight():
    t = traced([Conv2D(3, 3), *ends()])
    dx, dw = t.explain("conv2d_1", "dx", (0, 4, 4, 1)), t.explain("conv2d_1", "dw", (1, 1, 0, 2))
    assert len(dx.terms) == 3 * 3 * 3 and "9 windows saw this pixel" in dx.note
    assert len(dw.terms) == N * 7 * 6
    for term in dw.terms:
        assert term.index == (term.partner_index[0], term.partner_index[1] + 1, term.partner_index[2] + 1, 0)


def test_max_pooling_names_winner_ties_and_dropped_pixels():
    model = Sequential([Input((5, 4, 1)), MaxPooling2D(2), Flatten(), Dense(2)])
    model.compile("sgd", "mse")
    t = model.trace(np.ones((1, 5, 4, 1)), np.ones((1, 2)))
    e = t.explain("max_pooling2d_1", "y", (0, 1, 1, 0))
    assert [term.factor for term in e.terms] == [1, 0, 0, 0]
    assert "4 are equally large: the first one wins" in e.note
    dropped = t.explain("max_pooling2d_1", "dx", (0, 4, 2, 0))
    assert (dropped.terms, dropped.total, dropped.ok) == ([], 0, True)
    assert "No window reaches this pixel" in dropped.note and "there are no terms" in str(dropped)
    dropped._repr_html_()


def test_the_softmax_of_the_last_layer_names_the_class():
    model = Sequential([Input((3,)), Dense(2, activation="softmax")])
    model.class_names = ["cat", "<dog>"]
    e = model.trace(np.ones((1, 3))).explain("dense_1", "y", (0, 1))
    assert "'<dog>'" in e.note and "&lt;dog&gt;" in e._repr_html_()


def test_an_index_may_be_a_number_and_count_from_the_end():
    t = traced([Flatten(), Dense(K, activation="softmax")])
    assert t.explain("dense_1", "db", 2).title == "dense_1.db[2]"
    assert t.explain("dense_1", "y", (-1, np.int64(-1))).title == f"dense_1.y[{N - 1}, {K - 1}]"


def test_printed_sums_are_aligned_and_short():
    text = str(traced([Conv2D(3, 3, activation="relu"), *ends()]).explain("conv2d_1", "dw", (0, 1, 1, 2)))
    lines = text.splitlines()
    rows = [line for line in lines if line.startswith("      ")]
    assert len(rows) == 12 + 2
    assert len({line.rindex("=") for line in rows}) == 1 and len({len(line) for line in rows}) == 1
    products = [abs(float(line.split("=")[-1])) for line in rows[:12]]
    assert products == sorted(products, reverse=True)
    assert f"and {N * 7 * 6 - 12} smaller terms" in text
    assert lines[0].startswith("conv2d_1.dw[0, 1, 1, 2] = ") and "recorded (float32)" in text
    shown = sum(float(line.split("=")[-1]) for line in rows[:-1])
    assert shown == pytest.approx(float(rows[-1].split("=")[-1]), rel=1e-4, abs=1e-5)


class Tags(HTMLParser):
    """The tags of a piece of HTML, and whether each is closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.seen = [], set()
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.seen.add(tag)
        assert {name for name, _ in attrs} <= {"style", "colspan"}

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_html_is_a_table_without_script_and_inert():
    hostile = "<script>alert(1)</script>"
    t = traced([Conv2D(3, 3, activation="relu", name=hostile.replace("/", "")), *ends()], "adam")
    for what in ("y", "dw", "update"):
        text = t.explain(hostile.replace("/", ""), what, (0, 1, 1, 0))._repr_html_()
        assert Tags(text).seen <= {"div", "p", "b", "table", "tr", "td"}
        assert "script&gt;alert" in text and "<script" not in text


# ---- a wrong trace is found ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "what", "index"),
    [
        ("conv2d_1", "y", (0, 1, 2, 0)),
        ("conv2d_1", "dx", (0, 1, 2, 0)),
        ("conv2d_1", "dw", (0, 1, 1, 2)),
        ("conv2d_1", "db", (1,)),
        ("conv2d_1", "dz", (0, 1, 2, 0)),
        ("batch_normalization_1", "y", (2, 1, 2, 0)),
        ("batch_normalization_1", "dx", (2, 1, 2, 0)),
        ("batch_normalization_1", "dgamma", (2,)),
        ("batch_normalization_1", "update:moving_mean", (2,)),
        ("max_pooling2d_1", "y", (0, 1, 1, 1)),
        ("max_pooling2d_1", "dx", (0, 1, 1, 1)),
        ("dense_1", "y", (0, 1)),
        ("dense_1", "dw", (3, 1)),
        ("dense_1", "dy", (3, 1)),
        ("dense_1", "update:b", (3,)),
    ],
)
def test_a_changed_result_is_detected(layer, what, index):
    t = sample_trace()
    good = t.explain(layer, what, index)
    assert good.ok
    bad = copy.deepcopy(t)
    array = whats(bad[layer])[what]
    array[index] += 0.01 * (1 + abs(array[index]))
    wrong = bad.explain(layer, what, index)
    assert not wrong.ok
    assert abs(wrong.difference) > 0.009
    assert "NOT rounding" in str(wrong) and "✗" in wrong._repr_html_()


def test_a_changed_operand_is_detected():
    """One number of x: the outputs that it is in are no longer explained, the others are."""
    t = copy.deepcopy(sample_trace())
    t["conv2d_1"].x[0, 2, 3, 1] += 0.5
    assert not t.explain("conv2d_1", "z", (0, 1, 2, 0)).ok
    assert t.explain("conv2d_1", "z", (0, 4, 4, 0)).ok
    assert t.explain("conv2d_1", "z", (1, 1, 2, 0)).ok
    assert not all(t.explain("conv2d_1", "dw", (i, j, 1, 0)).ok for i in range(3) for j in range(3))


def test_a_wrong_winner_is_detected():
    t = copy.deepcopy(sample_trace())
    winner = t["max_pooling2d_1"].kept["winner"]
    winner[0, 0, 0, 0] = (winner[0, 0, 0, 0] + 1) % 4
    e = t.explain("max_pooling2d_1", "y", (0, 0, 0, 0))
    assert "This is not the largest" in e.note


@functools.cache
def sample_trace():
    return traced([Conv2D(3, 3, activation="relu"), BatchNormalization(), MaxPooling2D(), *ends()], "adam")


def test_a_loaded_trace_explains_the_same(tmp_path):
    t = sample_trace()
    t.save(tmp_path / "t.npz")
    loaded = Trace.load(tmp_path / "t.npz")
    for layer, what, index in [("conv2d_1", "y", (0, 1, 2, 0)), ("batch_normalization_1", "dx", (0, 1, 2, 0)),
                               ("dense_1", "update", (1, 2))]:  # fmt: skip
        assert str(loaded.explain(layer, what, index)) == str(t.explain(layer, what, index))


# ---- questions that cannot be answered ------------------------------------------------------------------------------


def test_unknown_names_offer_the_nearest():
    t = sample_trace()
    with pytest.raises(UnknownNameError, match="did you mean 'conv2d_1'"):
        t.explain("conv2d1", "y", (0, 0, 0, 0))
    with pytest.raises(UnknownNameError, match="did you mean 'dgamma'"):
        t.explain("batch_normalization_1", "gamma", (0,))
    with pytest.raises(UnknownNameError, match="what to explain of max_pooling2d_1"):
        t.explain("max_pooling2d_1", "dw", (0,))


@pytest.mark.parametrize(
    ("index", "parts"),
    [
        ((0, 1, 2), ("3 numbers", "4 axes", "(6, 7, 6, 3)")),
        ((0, 7, 0, 0), ("out of range on axis 1", "(6, 7, 6, 3)", "from 0 to 6")),
        ((0, 0, 0, -4), ("out of range on axis 3", "from 0 to 2")),
        ((0, 0, 0.5, 0), ("not an index",)),
        ("0123", ("not an index", "'0123'")),
        (None, ("not an index", "None")),
        (slice(None), ("not an index",)),
    ],
)
def test_an_index_that_does_not_fit(index, parts):
    with pytest.raises(InputError) as caught:
        sample_trace().explain("conv2d_1", "y", index)
    assert all(part in str(caught.value) for part in parts), str(caught.value)


def test_a_trace_without_targets_has_no_way_back():
    model = Sequential([Input((4,)), Dense(2, activation="softmax")])
    t = model.trace(np.ones((1, 4)))
    assert t.explain("dense_1", "y", (0, 1)).ok and t.explain("dense_1", "z", (0, 1)).ok
    for what in ("dw", "dx", "update", "update:b"):
        with pytest.raises(InputError, match="no backward pass"):
            t.explain("dense_1", what, (0, 0))


def test_what_belongs_to_the_user_is_refused_by_name():
    class Doubled(Layer):
        def forward(self, x, ctx):
            return 2 * x

        def backward(self, dy, ctx):
            return 2 * dy

    class OwnSquaredError(MeanSquaredError):
        pass

    class OwnOptimizer(SGD):
        pass

    t = traced([Doubled(), Flatten(), Dense(2)], OwnOptimizer(), OwnSquaredError(), shape=(2, 2, 1))
    for layer, what, named in [
        ("doubled_1", "y", "Doubled"),
        ("doubled_1", "dx", "Doubled"),
        ("dense_1", "dy", "OwnSquaredError"),
        ("dense_1", "update", "OwnOptimizer"),
    ]:
        axes = whats(t[layer])["update:w" if what == "update" else what].ndim
        with pytest.raises(InputError, match=named):
            t.explain(layer, what, (0,) * axes)
    assert t.explain("dense_1", "dw", (1, 1)).ok


def test_an_activation_of_the_users_own_is_refused_and_what_does_not_need_it_is_not():
    gate = activations.sigmoid
    swish = Function("swish", lambda x: x * gate(x), lambda dy, x: dy * gate(x) * (1 + x * (1 - gate(x))), keeps="x")
    t = traced([Conv2D(2, 3, activation=swish), *ends()])
    for what in ("y", "dz"):
        with pytest.raises(InputError, match="'swish'"):
            t.explain("conv2d_1", what, (0, 1, 1, 1))
    for what in ("z", "dx", "dw", "update"):
        assert t.explain("conv2d_1", what, (0, 1, 1, 1)).ok
    assert "through the derivative of swish" in t.explain("conv2d_1", "db", 1).note


def test_parse():
    t = sample_trace()
    assert parse(t, "conv2d_1[0, 4, 5, 3]") == ("conv2d_1", "y", (0, 4, 5, 3))
    assert parse(t, " conv2d_1:dw[0,1,2,-3] ") == ("conv2d_1", "dw", (0, 1, 2, -3))
    assert parse(t, "dense_1:update:b[3]") == ("dense_1", "update:b", (3,))
    assert parse(t, "dense_1:update:b[3,]") == ("dense_1", "update:b", (3,))
    for text in ("", "conv2d_1", "conv2d_1[0", "conv2d_1[a]", "[0]", "conv2d_1[]", "conv2d_1[0,,1]", "conv2d_1[--1]"):
        with pytest.raises(InputError, match="not the place of a number"):
            parse(t, text)
    with pytest.raises(UnknownNameError, match="did you mean 'conv2d_1'"):
        parse(t, "conv2d_2:dw[0]")


# ---- the command ----------------------------------------------------------------------------------------------------


def command(*arguments: object, check: int = 0) -> tuple[str, str]:
    """(stdout, stderr) of `python -m minicnn …`, whose exit code must be `check`."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONIOENCODING": "utf-8"}
    line = [sys.executable, "-m", "minicnn", *map(str, arguments)]
    result = subprocess.run(line, env=environment, capture_output=True, text=True, encoding="utf-8")
    assert result.returncode == check, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    return result.stdout, result.stderr


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """A folder with model files and images."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("command")
    random.seed(0)
    small = [Conv2D(4, 3, activation="relu"), MaxPooling2D(4), Dropout(0.5), Flatten()]
    model = Sequential([Input((28, 28, 1)), *small, Dense(10, activation="softmax")])
    model.compile("adam", "sparse_categorical_crossentropy")
    model.class_names = [f"thing {k}" for k in range(10)]
    model.save(folder / "model.minicnn")
    colour = Sequential([Input((12, 10, 3)), Rescaling(1 / 255), Flatten(), Dense(1, activation="sigmoid")])
    colour.compile("sgd", "binary_crossentropy")
    colour.save(folder / "colour.minicnn")
    bare = Sequential([Input((28, 28)), Flatten(), Dense(3, activation="softmax")])
    bare.save(folder / "bare.minicnn")
    flat = Sequential([Input((5,)), Dense(2)])
    flat.save(folder / "flat.minicnn")
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "image.png")
    Image.fromarray(pixels[:28, :28, 0]).save(folder / "grey.png")
    (folder / "text.png").write_text("no image")
    return folder


def test_the_command_alone_prints_help():
    out, _ = command()
    assert "usage: python -m minicnn" in out and "explain" in out


def test_an_output_of_an_image(files):
    out, _ = command("explain", files / "model.minicnn", "--image", files / "image.png", "--at", "conv2d_1[0, 4, 5, 3]")
    assert "40×30 pixels, as 28×28 pixels in grey; pixels scaled to 0…1" in out
    assert "prediction: class" in out and "the predicted class, since no --label was given" in out
    assert "evaluation mode" in out
    assert "conv2d_1.y[0, 4, 5, 3] = " in out and "rounding of float32" in out or "exactly equal" in out


def test_the_numbers_are_those_of_the_image(files):
    """Grey, of the model's size: nothing but the division by 255 lies between the file and x."""
    from PIL import Image

    from minicnn.models import load_model

    place = "conv2d_1:z[0, 4, 5, 3]"
    out, _ = command("explain", files / "model.minicnn", "--image", files / "grey.png", "--at", place)
    x = np.asarray(Image.open(files / "grey.png"))[None, ..., None] / 255
    expected = load_model(files / "model.minicnn").trace(x, np.array([0]), training=False)
    assert str(expected.explain("conv2d_1", "z", (0, 4, 5, 3))) in out


def test_gradient_update_and_page_of_a_picture_of_a_data_set(files, tmp_path):
    pytest.importorskip("minicnn.inspect.page.build")
    page = tmp_path / "step.html"
    places = ["--at", "conv2d_1:dw[0,1,0,3]", "--at", "dense_1:update:b[3]"]
    out, _ = command("explain", files / "model.minicnn", "--dataset", "toy", "--index", 7, *places,
                     "--label", "thing 2", "--training", "--html", page)  # fmt: skip
    assert "test image 7 of toy" in out and "target: class 2 (thing 2), as given" in out
    assert "training mode" in out
    assert "conv2d_1.dw[0, 1, 0, 3] = " in out and "dense_1.update:b[3] = " in out
    assert page.read_text(encoding="utf-8").lstrip().lower().startswith("<!doctype html")


@pytest.fixture
def main(capsys):
    """The command in this process: (exit code, stdout, stderr)."""
    from minicnn.__main__ import main as run

    def call(*arguments):
        code = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_a_model_that_scales_by_itself_gets_0_to_255(files, main):
    places = ["--at", "rescaling_1[0,0,0,2]", "--at", "dense_1:dy[0,0]"]
    code, out, _ = main("explain", files / "colour.minicnn", "--image", files / "image.png", *places, "--label", 1)
    assert code == 0
    assert "12×10 pixels in colour; pixels 0 to 255, since rescaling_1 scales them" in out
    assert "target: class 1, as given" in out


def test_a_model_that_was_not_compiled_has_outputs_only(files, main):
    code, out, _ = main("explain", files / "bare.minicnn", "--image", files / "grey.png", "--at", "dense_1[0,1]")
    assert code == 0 and "not compiled" in out
    code, _, error = main("explain", files / "bare.minicnn", "--image", files / "grey.png", "--at", "dense_1:dw[0,1]")
    assert code == 2 and "no backward pass" in error


def test_the_label_of_a_data_set_is_the_target(files, main):
    code, out, _ = main("explain", files / "model.minicnn", "--dataset", "toy", "--at", "dense_1:dy[0,1]")
    assert code == 0 and "the image's label" in out


def test_the_image_in_a_batch_of_those_after_it(files, main, tmp_path):
    page = tmp_path / "step.html"
    arguments = ["--dataset", "toy", "--index", 998, "--batch", 4, "--training", "--html", page]
    code, out, _ = main("explain", files / "model.minicnn", *arguments, "--at", "dense_1:dy[3,1]")
    assert code == 0 and "with the 3 after it" in out and "these 4 images" in out and "dense_1.dy[3, 1]" in out
    data = json.loads(re.search(r'id="data">(.*?)</script>', page.read_text(encoding="utf-8"), re.S)[1])
    assert (data["image"], data["batch"], data["training"]) == (0, 4, True)


@pytest.mark.parametrize(
    ("model", "arguments", "parts"),
    [
        ("model", ["--image", "grey.png", "--at", "dense_1[0,0]", "--batch", "2"], ["--batch", "not so many images"]),
        ("model", ["--dataset", "toy", "--at", "dense_1[0,0]", "--batch", "0"], ["--batch", "not so many images"]),
        ("model", ["--image", "nowhere.png", "--at", "conv2d_1[0,0,0,0]"], ["nowhere.png"]),
        ("model", ["--image", "text.png", "--at", "conv2d_1[0,0,0,0]"], ["cannot be read as an image"]),
        ("model", ["--image", "grey.png", "--at", "conv2d[0,0,0,0]"], ["did you mean 'conv2d_1'"]),
        ("model", ["--image", "grey.png", "--at", "conv2d_1:updat:w[0,0,0,0]"], ["did you mean 'update:w'"]),
        ("model", ["--image", "grey.png", "--at", "conv2d_1[0,26,0,0]"], ["out of range on axis 1", "(1, 26, 26, 4)"]),
        ("model", ["--image", "grey.png", "--at", "conv2d_1"], ["not the place of a number"]),
        ("model", ["--image", "grey.png"], ["nothing to do"]),
        ("model", ["--image", "grey.png", "--at", "dense_1[0,0]", "--label", "thing2"], ["did you mean 'thing 2'"]),
        ("model", ["--image", "grey.png", "--at", "dense_1[0,0]", "--label", "10"], ["'10'"]),
        ("model", ["--dataset", "toi", "--at", "dense_1[0,0]"], ["did you mean 'toy'"]),
        ("model", ["--dataset", "toy", "--index", "1000", "--at", "dense_1[0,0]"], ["from 0 to 999"]),
        ("colour", ["--dataset", "toy", "--at", "dense_1[0,0]"], ["do not fit the model"]),
        ("flat", ["--image", "grey.png", "--at", "dense_1[0,0]"], ["does not take images"]),
        ("missing", ["--image", "grey.png", "--at", "dense_1[0,0]"], ["missing.minicnn"]),
    ],
)
def test_what_does_not_fit_is_said_with_exit_code_2(files, main, monkeypatch, model, arguments, parts):
    monkeypatch.chdir(files)
    code, _, error = main("explain", f"{model}.minicnn", *arguments)
    assert code == 2
    assert error.startswith("minicnn: ") and all(part in error for part in parts), error


def test_errors_leave_no_traceback(files):
    _, error = command("explain", files / "text.png", "--image", files / "grey.png", "--at", "a[0]", check=2)
    assert "not a whole model file" in error and "What to do" in error
    command("explain", files / "model.minicnn", check=2)
    command("explane", check=2)
