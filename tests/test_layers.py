"""Layers: every gradient against central differences, the contract of base.py, and values recorded from Keras 3.15.

The recorded values come from the same layers of Keras with the same weights, the sine numbers of `grid` below.
"""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest
from helpers import distinct, random, unchanged

from minicnn import layers
from minicnn.activations import Function
from minicnn.backend import to_host
from minicnn.batches import PyDataset
from minicnn.constraints import MaxNorm
from minicnn.errors import InputError, NotBuiltError
from minicnn.gradcheck import check_layer
from minicnn.initializers import Constant
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
    Context,
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
    InputLayer,
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
from minicnn.layers.weighted import BiasedLayer
from minicnn.models import Sequential
from minicnn.optimizers import SGD
from minicnn.preprocessing.image import ImageDataGenerator
from minicnn.regularizers import L2

ACTIVATIONS = ("linear", "relu", "leaky_relu", "elu", "gelu", "sigmoid", "tanh", "softmax")


def square_activation() -> Function:
    return Function("square", lambda x: x * x, lambda dy, x: dy * 2 * x, keeps="x")


# A new layer for each test, and the shape of one sample.
CASES = {
    "InputLayer": (lambda: InputLayer((4, 3)), (4, 3)),
    "Flatten": (Flatten, (2, 3, 2)),
    "PReLU": (lambda: PReLU(Constant(0.25)), (3, 2, 4)),
    "PReLU shared": (lambda: PReLU(Constant(0.25), shared_axes=(1, 2)), (3, 2, 4)),
    "Rescaling": (lambda: Rescaling(1 / 4, -0.5), (3, 2, 1)),
    "Rescaling channels": (lambda: Rescaling([0.5, -2, 3], (1, 0, -1)), (2, 4, 3)),
    "Rescaling one for all": (lambda: Rescaling([0.5], 0.25), (2, 3)),
    "Dropout": (lambda: Dropout(0.3), (5, 3)),
    "Dropout images": (lambda: Dropout(0.5, seed=7), (3, 2, 5)),
    "Dropout of nothing": (lambda: Dropout(0), (4,)),
    "Dropout of channels": (lambda: Dropout(0.5, (None, 1, 1, None)), (3, 2, 6)),
    "Dropout alike in the batch": (lambda: Dropout(0.5, [1, None, 4]), (3, 4)),
    "Dense": (lambda: Dense(3), (5,)),
    "Dense without bias": (lambda: Dense(3, use_bias=False, activation="tanh"), (5,)),
    "Dense on more axes": (lambda: Dense(2, activation="relu"), (3, 4)),
    "Dense to one": (lambda: Dense(1), (1,)),
    "Dense frozen": (lambda: Dense(3, trainable=False), (4,)),
    "Dense own activation": (lambda: Dense(3, activation=square_activation()), (4,)),
    **{f"Dense {name}": ((lambda a: lambda: Dense(4, activation=a))(name), (3,)) for name in ACTIVATIONS},
    "Conv2D": (lambda: Conv2D(3, 3), (5, 6, 2)),
    "Conv2D without bias": (lambda: Conv2D(2, (2, 3), use_bias=False), (4, 5, 3)),
    "Conv2D same": (lambda: Conv2D(2, 3, padding="same"), (3, 4, 2)),
    "Conv2D same stride": (lambda: Conv2D(2, 3, strides=2, padding="same"), (5, 4, 2)),
    "Conv2D same even kernel": (lambda: Conv2D(2, (4, 2), strides=(3, 2), padding="same"), (7, 5, 1)),
    "Conv2D stride leaves pixels over": (lambda: Conv2D(2, 2, strides=3), (6, 7, 1)),
    "Conv2D dilated": (lambda: Conv2D(2, (2, 3), dilation_rate=(3, 2)), (5, 7, 2)),
    "Conv2D dilated same": (lambda: Conv2D(2, 3, dilation_rate=2, padding="same"), (4, 3, 2)),
    "Conv2D padded by numbers": (lambda: Conv2D(2, 3, padding=((2, 0), (1, 3)), strides=(2, 1)), (4, 3, 2)),
    "Conv2D 1x1": (lambda: Conv2D(4, 1), (3, 2, 3)),
    "Conv2D one pixel": (lambda: Conv2D(2, 3, padding="same"), (1, 1, 1)),
    "Conv2D frozen": (lambda: Conv2D(2, 2, trainable=False), (3, 3, 2)),
    **{f"Conv2D {name}": ((lambda a: lambda: Conv2D(3, 2, activation=a))(name), (3, 4, 2)) for name in ACTIVATIONS},
    "Conv2D groups": (lambda: Conv2D(4, 3, groups=2, activation="tanh"), (4, 5, 4)),
    "Conv2D groups of one": (lambda: Conv2D(6, 2, strides=2, padding="same", groups=3, use_bias=False), (4, 3, 3)),
    "DepthwiseConv2D": (lambda: DepthwiseConv2D(3), (5, 4, 3)),
    "DepthwiseConv2D multiplied": (lambda: DepthwiseConv2D((2, 3), 2, "same", 3, activation="relu"), (4, 5, 2)),
    "DepthwiseConv2D dilated": (lambda: DepthwiseConv2D(2, padding=1, dilation_rate=2, use_bias=False), (4, 3, 2)),
    "SeparableConv2D": (lambda: SeparableConv2D(4, 3, activation="tanh"), (4, 5, 2)),
    "SeparableConv2D multiplied": (
        lambda: SeparableConv2D(3, 2, 2, "same", depth_multiplier=2, use_bias=False), (4, 3, 2)
    ),
    "Conv2DTranspose": (lambda: Conv2DTranspose(3, 3), (3, 4, 2)),
    "Conv2DTranspose stride": (lambda: Conv2DTranspose(2, (3, 2), strides=(2, 3), activation="tanh"), (2, 3, 3)),
    "Conv2DTranspose same": (lambda: Conv2DTranspose(2, 3, 2, "same", use_bias=False), (3, 2, 2)),
    "Conv2DTranspose same even": (lambda: Conv2DTranspose(2, (4, 2), 3, "same", (2, 1)), (2, 3, 1)),
    "Conv2DTranspose dilated": (lambda: Conv2DTranspose(2, 3, padding="same", dilation_rate=2), (3, 4, 2)),
    "Conv2DTranspose apart": (lambda: Conv2DTranspose(2, 2, strides=3, activation="relu"), (2, 2, 2)),
    "Conv1D": (lambda: Conv1D(3, 3, activation="tanh"), (6, 2)),
    "Conv1D causal": (lambda: Conv1D(2, 2, padding="causal", dilation_rate=3, use_bias=False), (5, 2)),
    "Conv1D groups": (lambda: Conv1D(4, 3, 2, "same", groups=2), (6, 4)),
    "MaxPooling1D": (MaxPooling1D, (5, 3)),
    "MaxPooling1D same": (lambda: MaxPooling1D(3, 2, "same"), (6, 2)),
    "AveragePooling1D": (lambda: AveragePooling1D(3, 2, "same"), (6, 2)),
    "GlobalAveragePooling1D": (GlobalAveragePooling1D, (5, 3)),
    "GlobalMaxPooling1D": (lambda: GlobalMaxPooling1D(keepdims=True), (5, 3)),
    "BatchNormalization sequences": (BatchNormalization, (4, 3)),
    "Resizing": (lambda: Resizing(5, 3), (3, 4, 2)),
    "Resizing nearest": (lambda: Resizing(2, 7, "nearest", crop_to_aspect_ratio=True), (4, 5, 2)),
    "CenterCrop": (lambda: CenterCrop(2, 3), (5, 4, 2)),
    "CenterCrop of small images": (lambda: CenterCrop(5, 2), (3, 4, 2)),
    "Normalization": (Normalization, (3, 2, 4)),
    "Normalization inverted": (lambda: Normalization(None, invert=True), (5,)),
    "Normalization given": (lambda: Normalization([1, 2], [[0.5], [1.0]], [[1.0], [4.0]]), (2, 3, 2)),
    "RandomFlip": (RandomFlip, (3, 2, 2)),
    "RandomFlip one way": (lambda: RandomFlip("horizontal", seed=2), (2, 3, 1)),
    "RandomRotation": (lambda: RandomRotation(0.2), (4, 5, 2)),
    "RandomRotation nearest": (lambda: RandomRotation((0.1, 0.4), "constant", "nearest", 2, 0.5), (3, 3, 2)),
    "RandomTranslation": (lambda: RandomTranslation(0.3, (-0.1, 0.4), "wrap"), (4, 5, 2)),
    "RandomZoom": (lambda: RandomZoom(0.4), (5, 4, 2)),
    "RandomZoom both ways": (lambda: RandomZoom((-0.5, -0.2), 0.3, "nearest", seed=3), (3, 4, 1)),
    "GaussianNoise": (lambda: GaussianNoise(0.5), (4, 3)),
    "GaussianNoise seed": (lambda: GaussianNoise(0.2, seed=3), (2, 3, 2)),
    "MaxPooling2D": (MaxPooling2D, (4, 6, 2)),
    "MaxPooling2D leaves pixels over": (lambda: MaxPooling2D((2, 3)), (5, 7, 3)),
    "MaxPooling2D overlapping": (lambda: MaxPooling2D(3, strides=2, padding="same"), (5, 4, 2)),
    "MaxPooling2D apart": (lambda: MaxPooling2D(2, strides=(3, 4)), (6, 6, 1)),
    "AveragePooling2D": (AveragePooling2D, (5, 4, 2)),
    "AveragePooling2D same": (lambda: AveragePooling2D(3, strides=2, padding="same"), (5, 4, 2)),
    "AveragePooling2D odd": (lambda: AveragePooling2D((3, 1), strides=(1, 2)), (4, 5, 3)),
    "GlobalAveragePooling2D": (GlobalAveragePooling2D, (3, 5, 4)),
    "GlobalAveragePooling2D keepdims": (lambda: GlobalAveragePooling2D(keepdims=True), (3, 5, 4)),
    "BatchNormalization": (BatchNormalization, (4,)),
    "BatchNormalization images": (lambda: BatchNormalization(momentum=0.9), (3, 2, 4)),
    "BatchNormalization without shift": (lambda: BatchNormalization(center=False), (3, 2, 2)),
    "BatchNormalization without scale": (lambda: BatchNormalization(scale=False), (4,)),
    "BatchNormalization plain": (lambda: BatchNormalization(center=False, scale=False, epsilon=1e-5), (3,)),
    "BatchNormalization frozen": (lambda: BatchNormalization(trainable=False), (2, 3, 3)),
    **{f"Activation {name}": ((lambda a: lambda: Activation(a))(name), (3, 4)) for name in ACTIVATIONS},
    "ReLU": (ReLU, (3, 4)),
    "ReLU with limits": (lambda: ReLU(max_value=0.8, negative_slope=0.1), (5, 4)),
    "LeakyReLU": (LeakyReLU, (2, 3, 4)),
    "LeakyReLU slope": (lambda: LeakyReLU(negative_slope=0.05), (6,)),
    "ELU": (ELU, (7,)),
    "ELU alpha": (lambda: ELU(alpha=0.4), (7,)),
    "Softmax": (Softmax, (5,)),
    "Softmax images": (Softmax, (2, 3, 4)),
    "GlobalMaxPooling2D": (GlobalMaxPooling2D, (3, 5, 4)),
    "GlobalMaxPooling2D keepdims": (lambda: GlobalMaxPooling2D(keepdims=True), (2, 2, 3)),
    "LayerNormalization": (LayerNormalization, (5,)),
    "LayerNormalization images": (lambda: LayerNormalization(epsilon=1e-2), (2, 3, 4)),
    "LayerNormalization of all": (lambda: LayerNormalization([1, -1, 2], center=False), (2, 3, 2)),
    "LayerNormalization plain": (lambda: LayerNormalization(center=False, scale=False), (3, 4)),
    "GroupNormalization": (lambda: GroupNormalization(2), (2, 3, 4)),
    "GroupNormalization features": (lambda: GroupNormalization(3, scale=False), (6,)),
    "GroupNormalization each": (lambda: GroupNormalization(-1, axis=3), (2, 3, 2)),
    "Reshape": (lambda: Reshape((4, 3)), (2, 3, 2)),
    "Reshape rest": (lambda: Reshape([3, -1, 2]), (12,)),
    "Permute": (lambda: Permute((2, 3, 1)), (2, 3, 4)),
    "Permute features": (lambda: Permute([2, 1]), (2, 5)),
    "Cropping2D": (lambda: Cropping2D(1), (4, 3, 2)),
    "Cropping2D sides": (lambda: Cropping2D(((0, 2), (1, 0))), (5, 3, 2)),
    "UpSampling2D": (UpSampling2D, (2, 3, 2)),
    "UpSampling2D sizes": (lambda: UpSampling2D((3, 1)), (2, 3, 2)),
    "UpSampling2D bilinear": (lambda: UpSampling2D((2, 3), interpolation="bilinear"), (3, 4, 2)),
    "UpSampling2D bilinear one pixel": (lambda: UpSampling2D((4, 2), interpolation="bilinear"), (1, 2, 1)),
    "SpatialDropout2D": (lambda: SpatialDropout2D(0.4), (3, 2, 6)),
    "Add": (Add, [(3, 4), (3, 4), (3, 4)]),
    "Add repeats": (Add, [(3, 4, 2), (1, 1, 2)]),
    "Subtract": (Subtract, [(3, 4), (3, 1)]),
    "Multiply": (Multiply, [(2, 3, 2), (1, 1, 2), (2, 3, 2)]),
    "Average": (Average, [(4,), (4,), (4,)]),
    "Maximum": (Maximum, [(3, 4), (3, 4), (1, 4)]),
    "Concatenate": (Concatenate, [(3, 2, 2), (3, 2, 1), (3, 2, 4)]),
    "Concatenate rows": (lambda: Concatenate(axis=1), [(3, 2), (1, 2)]),
    "ZeroPadding2D": (ZeroPadding2D, (3, 2, 2)),
    "ZeroPadding2D sides": (lambda: ZeroPadding2D(((0, 2), (1, 0))), (2, 3, 1)),
    "Sequential": (
        lambda: Sequential(
            [
                Conv2D(3, 3, padding="same", activation="gelu"),
                BatchNormalization(),
                Sequential([Dropout(0.2), MaxPooling2D(), ReLU()], name="inner"),
                Flatten(),
                Dense(4, activation="softmax"),
            ]
        ),
        (4, 5, 2),
    ),
}
ids = pytest.mark.parametrize("case", CASES)


def made(case: str, dtype=np.float32) -> tuple[Layer, np.ndarray]:
    """The case's layer, built, and a batch of three. No parameter has one value throughout."""
    make, shape = CASES[case]
    layer, draw = make(), np.random.default_rng(5)
    layer.build(shape, draw)
    for leaf in getattr(layer, "flat_layers", [layer]):
        for arrays in (leaf.params, leaf.state):
            for name, array in arrays.items():
                arrays[name] = np.asarray(to_host(array) + draw.uniform(0.1, 0.5, array.shape), dtype)
    if layer.merges:
        return layer, [random((3, *one), k, dtype) for k, one in enumerate(shape)]
    return layer, random((3, *shape), 1, dtype)


def listed(x):
    """The arrays of an input: one, or those of a merging layer."""
    return x if isinstance(x, list) else [x]


def sample_shape(x):
    return [one.shape[1:] for one in x] if isinstance(x, list) else x.shape[1:]


def test_every_layer_has_a_case():
    tested = {type(make()).__name__ for make, _ in CASES.values()}
    assert set(layers.__all__) - {"Layer", "Context", "Input"} <= tested


# --- Gradients ----------------------------------------------------------------------------------------------


@ids
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_gradients(case, training):
    make, shape = CASES[case]
    layer = make()
    report = check_layer(layer, shape, training=training, max_elements=40)
    report.assert_ok()
    if case != "Sequential":
        layer.build(shape, np.random.default_rng(0))
        dx = [f"dx[{k}]" for k in range(len(shape))] if layer.merges else ["dx"]
        assert list(report.arrays) == [*dx, *(f"d{name}" for name in layer.params)]


@pytest.mark.parametrize("layer", [MaxPooling2D(2), MaxPooling2D(3, strides=1, padding="same"), ReLU()])
def test_gradients_of_numbers_that_are_well_apart(layer):
    report = check_layer(layer, distinct((2, 4, 5, 2)))
    report.assert_ok()
    assert report.arrays["dx"].kinks == 0


# --- The contract -------------------------------------------------------------------------------------------


@ids
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_alone_in_float32(case, training):
    """Shapes as announced, float32 throughout, inputs untouched, nothing about the batch left on the layer."""
    layer, x = made(case)
    leaves = getattr(layer, "flat_layers", [layer])
    attributes = [dict(vars(leaf)) for leaf in (layer, *leaves)]
    arrays = [array for leaf in leaves for array in (*leaf.params.values(), *leaf.state.values())]
    ctx = Context(training, seed=3)
    with unchanged(*listed(x), *arrays):
        y = layer.forward(x, ctx)
    assert y.shape == (3, *layer.output_shape(sample_shape(x)))
    assert y.dtype == np.float32
    dy = random(y.shape, 2, np.float32)
    with unchanged(*listed(x), y, dy, *arrays):
        dx = layer.backward(dy, ctx)
    for one, of in zip(listed(dx), listed(x), strict=True):
        assert one.shape == of.shape and one.dtype == np.float32
    for leaf, page in zip(leaves, vars(ctx).get("contexts", [ctx]), strict=True):
        assert page.grads.keys() == leaf.params.keys()
        for name, gradient in page.grads.items():
            assert gradient.shape == leaf.params[name].shape and gradient.dtype == np.float32
        for name, array in page.state.items():
            assert array.shape == leaf.state[name].shape and array.dtype == np.float32
    for leaf, before in zip((layer, *leaves), attributes, strict=True):
        assert vars(leaf).keys() == before.keys()
        assert all(vars(leaf)[name] is before[name] for name in before)


@ids
def test_two_contexts_of_one_layer_do_not_mix(case):
    """Two shards in flight: forward, forward, backward, backward gives what each gives alone."""
    layer, x = made(case)
    other = [random(one.shape, 8, np.float32) for one in listed(x)]
    other = other if layer.merges else other[0]
    pages, alone = [], []
    for batch in (x, other):
        ctx = Context(True, seed=3)
        y = layer.forward(batch, ctx)
        alone.append(layer.backward(random(y.shape, 2, np.float32), ctx))
    for batch in (x, other):
        pages.append(Context(True, seed=3))
        y = layer.forward(batch, pages[-1])
    for ctx, expected in reversed(list(zip(pages, alone, strict=True))):
        again = layer.backward(random(y.shape, 2, np.float32), ctx)
        for one, before in zip(listed(again), listed(expected), strict=True):
            np.testing.assert_array_equal(one, before)


@pytest.mark.parametrize("case", [case for case in CASES if case != "Sequential"])
def test_without_dx_the_other_gradients_stay_the_same(case):
    """Not for a Sequential: training runs over its layers, each with a page of its own."""
    layer, x = made(case)
    grads = []
    for need_dx in (True, False):
        ctx = Context(True, need_dx=need_dx, seed=3)
        y = layer.forward(x, ctx)
        dx = layer.backward(random(y.shape, 2, np.float32), ctx)
        grads.append(ctx.grads)
    if isinstance(layer, (BiasedLayer, BatchNormalization, MaxPooling2D, AveragePooling2D, GlobalAveragePooling2D)):
        assert dx is None, "dx was computed although nobody needs it"
    for name in grads[0]:
        np.testing.assert_array_equal(grads[0][name], grads[1][name])


@pytest.mark.parametrize("case", [case for case in CASES if case != "Dense own activation"])
def test_config_round_trip(case):
    """Through JSON, an equal layer: the same config, the same shapes, the same numbers with the same weights."""
    layer, x = made(case)
    config = layer.get_config()
    twin = type(layer).from_config(json.loads(json.dumps(config)))
    assert type(twin) is type(layer)
    assert twin.get_config() == config
    assert twin.trainable == layer.trainable and twin.name == layer.name
    if not twin.built:
        twin.build(sample_shape(x), np.random.default_rng(9))
    twin.set_weights(layer.get_weights())
    for training in (True, False):
        y, again = (one.forward(x, Context(training, seed=4)) for one in (layer, twin))
        np.testing.assert_array_equal(y, again)


@ids
def test_weights_go_out_and_in(case):
    layer, _ = made(case)
    weights = layer.get_weights()
    assert sum(array.size for array in weights) == sum(
        leaf.count_params() for leaf in getattr(layer, "flat_layers", [layer])
    )
    layer.set_weights([array * 2 for array in weights])
    for array, before in zip(layer.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(array, before * 2)
    with pytest.raises(InputError, match="number of arrays"):
        layer.set_weights([*weights, np.zeros(1)])


def test_an_unknown_argument_is_refused_with_the_nearest():
    with pytest.raises(InputError, match="did you mean 'kernel_regularizer'"):
        Dense(3, kernel_regulariser="l2")


def test_a_context_says_what_nobody_wrote():
    with pytest.raises(AttributeError, match="nobody has written 'mask'"):
        Context().mask  # noqa: B018


# --- Dropout ------------------------------------------------------------------------------------------------


def test_dropout_masks_depend_on_seed_and_place_only():
    layer, x = Dropout(0.5), np.ones((6, 40), np.float32)
    whole = layer.forward(x, Context(True, seed=11))
    np.testing.assert_array_equal(layer.forward(x[2:], Context(True, seed=11, first=2)), whole[2:])
    assert (layer.forward(x, Context(True, seed=12)) != whole).any()
    assert set(np.unique(whole)) == {0.0, 2.0}
    np.testing.assert_array_equal(layer.forward(x, Context(False, seed=11)), x)


def test_dropout_with_its_own_seed_changes_from_step_to_step():
    layer, x = Dropout(0.5, seed=1), np.ones((6, 40), np.float32)
    first = layer.forward(x, Context(True, seed=11))
    np.testing.assert_array_equal(layer.forward(x, Context(True, seed=99)), first)
    assert (layer.forward(x, Context(True, seed=11, step=1)) != first).any()


@pytest.mark.parametrize("seed", [None, 3])
def test_dropout_of_whole_channels(seed):
    layer, x = Dropout(0.5, (None, 1, 1, None), seed), np.ones((6, 4, 3, 40), np.float32)
    layer.output_shape(x.shape[1:])
    whole = layer.forward(x, Context(True, seed=11))
    np.testing.assert_array_equal(whole, np.broadcast_to(whole[:, :1, :1], whole.shape))
    assert set(np.unique(whole)) == {0.0, 2.0} and (whole[0] != whole[1]).any()
    np.testing.assert_array_equal(layer.forward(x[2:], Context(True, seed=11, first=2)), whole[2:])


def test_spatial_dropout_is_dropout_of_whole_channels():
    x = np.ones((6, 4, 3, 40), np.float32)
    one, other = SpatialDropout2D(0.3, seed=4), Dropout(0.3, (None, 1, 1, None), seed=4)
    np.testing.assert_array_equal(one.forward(x, Context(True)), other.forward(x, Context(True)))


def test_equal_largest_pixels_share_the_gradient():
    layer, ctx, x = GlobalMaxPooling2D(), Context(), np.zeros((1, 2, 2, 1))
    x[0, 1] = 3
    dy = np.ones_like(layer.forward(x, ctx))
    np.testing.assert_array_equal(layer.backward(dy, ctx).ravel(), [0, 0, 0.5, 0.5])


@pytest.mark.parametrize(
    ("layer", "shape", "problem"),
    [
        (Reshape((4, 3)), (5, 2), "target_shape does not fit the samples"),
        (Reshape((-1, 3)), (5, 2), "target_shape does not fit the samples"),
        (Permute((2, 1)), (5, 2, 3), "dims does not fit the samples"),
        (Cropping2D(2), (4, 9, 1), "nothing is left of the image"),
        (UpSampling2D(), (4, 9), "UpSampling2D needs images"),
        (Conv1D(2, 3), (4, 4, 1), "Conv1D needs sequences"),
        (Conv1D(2, 3), (2, 4), "(?s)at least 3 steps.*2 steps"),
        (MaxPooling1D(4), (3, 1), "(?s)at least 4 steps.*3 steps"),
        (MaxPooling1D(), (4,), "MaxPooling1D needs sequences"),
        (GlobalMaxPooling1D(), (4, 4, 2), "GlobalMaxPooling1D needs sequences"),
        (BatchNormalization(), (2, 2, 2, 2), "BatchNormalization needs features, sequences or images"),
        (Resizing(3, 3), (4, 4), "Resizing needs images"),
        (CenterCrop(3, 3), (4,), "CenterCrop needs images"),
        (RandomFlip(), (4,), "RandomFlip needs images"),
        (RandomRotation(0.1), (4,), "RandomRotation needs images"),
        (RandomTranslation(0.1, 0.1), (4, 4), "RandomTranslation needs images"),
        (RandomZoom(0.1), (4,), "RandomZoom needs images"),
        (Normalization([0]), (4,), "axis does not fit the samples"),
        (Normalization(mean=[1, 2], variance=[1, 2]), (4, 3), "mean does not fit the samples"),
        (DepthwiseConv2D(3), (2, 2, 1), "the image has become too small"),
        (SeparableConv2D(2, 3), (9,), "SeparableConv2D needs images"),
        (Conv2D(4, 3, groups=2), (4, 4, 3), "the groups do not divide the channels"),
        (Conv2DTranspose(2, 3), (4, 9), "Conv2DTranspose needs images"),
        (Conv2DTranspose(2, 2, 2, "same", 0), (4, 9, 1), "output_padding does not fit the kernel"),
        (SpatialDropout2D(0.5), (9,), "SpatialDropout2D needs images"),
        (GlobalMaxPooling2D(), (9,), "GlobalMaxPooling2D needs images"),
        (LayerNormalization([1, 2]), (4, 5, 6), "axis does not fit"),
        (LayerNormalization([0, 1]), (4,), "axis does not fit"),
        (LayerNormalization(3), (4,), "axis does not fit"),
        (GroupNormalization(3), (4, 4, 8), "groups does not fit the samples"),
        (GroupNormalization(2, axis=1), (4, 4, 8), "the channels are the last axis"),
    ],
)
def test_samples_that_do_not_fit(layer, shape, problem):
    with pytest.raises(InputError, match=problem):
        layer.output_shape(shape)


@pytest.mark.parametrize("seed", [None, 3])
def test_noise_depends_on_the_sample_and_the_step_and_not_on_the_shard(seed):
    layer, x = GaussianNoise(0.5, seed=seed), np.ones((64, 5, 4), np.float32)
    whole = layer.forward(x, Context(True, seed=11))
    np.testing.assert_array_equal(layer.forward(x[20:], Context(True, seed=11, first=20)), whole[20:])
    assert abs(whole.mean() - 1) < 0.06 and abs(whole.std() - 0.5) < 0.04
    assert (layer.forward(x, Context(True, seed=12, step=1)) != whole).mean() > 0.99
    np.testing.assert_array_equal(layer.forward(x, Context(False, seed=11)), x)


@pytest.mark.cpu
@pytest.mark.parametrize("axis", [-1, None, [1, 2, 3]])
def test_normalization_adapts_to_the_data(axis):
    x = 3 + 2 * random((20, 3, 4, 2), 1, np.float32)
    kept = () if axis is None else (3,) if axis == -1 else (1, 2, 3)
    reduced = tuple(n for n in range(4) if n not in kept)
    for data in (x, [x[:7], x[7:]], ((part, 0) for part in (x[:1], x[1:13], x[13:]))):
        layer = Normalization(axis)
        layer.adapt(data)
        np.testing.assert_allclose(layer.state["mean"], x.mean(axis=reduced), rtol=1e-5)
        np.testing.assert_allclose(layer.state["variance"], x.var(axis=reduced), rtol=1e-5)
    model = Sequential([Input((3, 4, 2)), layer, Flatten(), Dense(2)])
    y = model.layers[0].forward(x, Context())
    assert abs(y.mean()) < 1e-5 and abs(y.std() - 1) < 1e-3
    model.compile("sgd", "mse")
    before = layer.state["mean"].copy()
    model.fit(x, np.zeros((20, 2)), verbose=0)
    np.testing.assert_array_equal(layer.state["mean"], before)
    back = Normalization(axis, invert=True)
    back.adapt(x)
    np.testing.assert_allclose(back.forward(y, Context()), x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("data", "problem"),
    [([], "nothing to adapt to"), (3, "cannot be adapted to"), (np.full((2, 3), np.nan), "cannot be adapted to")],
)
def test_what_normalization_cannot_adapt_to(data, problem):
    with pytest.raises(InputError, match=problem):
        Normalization().adapt(data)
    with pytest.raises(InputError, match="mean and a variance already"):
        Normalization(mean=0.0, variance=1.0).adapt(np.ones((2, 2)))
    with pytest.raises(InputError, match="do not belong together"):
        Normalization(mean=0.0)


@pytest.mark.cpu
@pytest.mark.parametrize("shape", [(), (2,), (2, 3), (2, 3, 4), (2, 3, 4, 5)])
@pytest.mark.parametrize("name", CASES)
def test_samples_of_any_number_of_axes_fit_or_are_refused_in_words(name, shape):
    """GroupNormalization and Rescaling by channels raised IndexError for samples of single numbers."""
    layer, x = CASES[name][0](), np.ones((4, *shape), "f")
    given, shapes = ([x, x], [x.shape] * 2) if layer.merges else (x, x.shape)
    try:
        promised = layer.compute_output_shape(shapes)
    except InputError:
        with pytest.raises(InputError):
            layer(given, training=True)
    else:
        assert layer(given, training=True).shape == promised


def test_what_adapt_has_found_can_be_read_as_in_keras():
    x = random((20, 3, 4, 2), 1, np.float32)
    layer = Normalization([1, 3])
    assert layer.mean is None and not layer.built
    layer.adapt(x)
    assert layer.built and layer.mean.shape == layer.variance.shape == (1, 3, 1, 2)
    np.testing.assert_allclose(layer.mean[0, :, 0], x.mean(axis=(0, 2)), rtol=1e-5)
    given = Normalization([1, 3], [5.0, 6.0], [1.0, 4.0])
    given(x)
    np.testing.assert_array_equal(given.mean, np.broadcast_to(np.float32([[[[5, 6]]]]), (1, 3, 1, 2)))
    for normalization in (layer, given):  # the configuration holds what was given, not what was found
        config = normalization.get_config()
        assert config == Normalization.from_config(config).get_config()
    assert layer.get_config()["mean"] is None and given.get_config()["variance"] == [1.0, 4.0]


class Batches(PyDataset):
    def __len__(self):
        return 3

    def __getitem__(self, i):
        return np.float32([[i, 2 * i]] * 4), np.zeros(4)


def test_normalization_adapts_to_one_pass_of_a_dataset():
    layer = Normalization()
    layer.adapt(Batches())
    np.testing.assert_allclose(layer.state["mean"], [1, 2])
    endless = ImageDataGenerator().flow(random((5, 2, 2, 1), 1), batch_size=2)
    layer = Normalization()
    layer.adapt(endless)
    assert layer.state["count"] == 5 * 4


@pytest.mark.parametrize(
    "batches", [[np.ones((2, 3)), other] for other in (np.ones((2, 4)), np.ones((2, 2, 3)), np.ones(3))]
)
def test_batches_to_adapt_to_must_be_alike_and_nothing_is_left_half_done(batches):
    layer = Normalization()
    with pytest.raises(InputError):
        layer.adapt(batches)
    assert not layer.built and not layer.state
    layer.adapt(batches[:1])
    state = {name: array.copy() for name, array in layer.state.items()}
    with pytest.raises(InputError, match="built for another shape"):
        layer.adapt(np.ones((2, 5)))
    with pytest.raises(InputError, match="built for another shape"):
        Sequential([Input((5,)), layer])
    for name, array in state.items():
        np.testing.assert_array_equal(layer.state[name], array)


DRAWING = {
    "RandomFlip": lambda: RandomFlip(),
    "RandomRotation": lambda: RandomRotation((0.1, 0.2)),
    "RandomTranslation": lambda: RandomTranslation((0.2, 0.3), 0.3),
    "RandomZoom": lambda: RandomZoom((0.2, 0.3)),
}


@pytest.mark.parametrize("make", DRAWING.values(), ids=DRAWING)
def test_layers_that_draw_new_images_do_it_where_they_are_called(make):
    x = random((8, 6, 6, 1), 1, np.float32)
    assert not np.array_equal(make()(x), x)
    np.testing.assert_array_equal(make()(x, training=False), x)
    inner = Sequential([Input((6, 6, 1)), make()])
    model = Sequential([Input((6, 6, 1)), inner, Dropout(0.9), BatchNormalization()])
    before = model.get_weights()
    y = to_host(model(x))
    assert not np.allclose(y, x / np.sqrt(1.001)) and (y != 0).any(axis=(1, 2, 3)).all()  # Dropout has not dropped
    for old, new in zip(before, model.get_weights(), strict=True):  # and the running means have not moved
        np.testing.assert_array_equal(old, new)
    np.testing.assert_allclose(model.predict(x, verbose=0), x / np.sqrt(1.001), rtol=1e-5)
    np.testing.assert_allclose(to_host(model(x, training=False)), x / np.sqrt(1.001), rtol=1e-5)


def test_other_layers_called_without_training_leave_the_generator_alone():
    x, model = np.ones((2, 3), "f"), Sequential([Input((3,)), Sequential([Input((3,)), Dropout(0.5)])])
    first = copy.deepcopy(model)
    model(x)
    np.testing.assert_array_equal(to_host(model(x, training=True)), to_host(first(x, training=True)))


@pytest.mark.parametrize(
    ("layer", "names", "shape"),
    [
        (lambda: Conv2D(3, 2), {"kernel": "w", "bias": "b"}, (4, 4, 2)),
        (lambda: DepthwiseConv2D(2), {"kernel": "w", "bias": "b"}, (4, 4, 2)),
        (lambda: SeparableConv2D(3, 2), {"depthwise_kernel": "depthwise", "pointwise_kernel": "pointwise"}, (4, 4, 2)),
        (lambda: BatchNormalization(), dict.fromkeys(("gamma", "beta", "moving_mean", "moving_variance")), (4,)),
        (lambda: LayerNormalization(), dict.fromkeys(("gamma", "beta")), (4,)),
        (lambda: GroupNormalization(2), dict.fromkeys(("gamma", "beta")), (4,)),
        (lambda: PReLU(), {"alpha": None}, (4,)),
    ],
)
def test_arrays_by_their_names_in_keras(layer, names, shape):
    layer = layer()
    for name in names:
        if name != "bias":
            assert not hasattr(layer, name)
            with pytest.raises(NotBuiltError, match="call it on a batch"):
                getattr(layer, name)
    layer.build(shape, np.random.default_rng(0))
    layer.built = True
    for name, own in names.items():
        assert getattr(layer, name) is (layer.params | layer.state)[own or name]


def test_arrays_that_a_layer_does_without_are_none():
    layer = BatchNormalization(center=False)
    layer(np.ones((2, 3)))
    assert layer.beta is None and layer.gamma is layer.params["gamma"]
    assert pickle.loads(pickle.dumps(NotBuiltError("dense", "kernel"))).array == "kernel"


def test_build_that_is_called_or_defined_as_in_keras():
    class Mine(Layer):
        def build(self, input_shape):
            pass

    layer = Dense(3)
    for work in (lambda: layer.build((None, 4)), lambda: layer.build(), lambda: Sequential([Input((3,)), Mine()])):
        with pytest.raises(InputError, match=r"build\(input_shape, rng\)"):
            work()

    class Wrong(Layer):
        def build(self, input_shape, rng):
            len(3)

    with pytest.raises(TypeError, match="has no len"):  # a fault inside stays what it is
        Wrong().build((3,), None)


def test_input_takes_the_batch_axis_where_it_is_said():
    assert Input(batch_shape=(None, 4, 3)).shape == Input((4, 3), batch_size=8).shape == (None, 4, 3)
    assert Input((3,), dtype="float32", sparse=False, name="x").layer.name == "x"
    model = Sequential([Input((3,), 8), Dense(2)])
    assert model.predict(np.ones((5, 3)), verbose=0).shape == (5, 2)
    again = InputLayer(batch_shape=(8, 4, 3))
    assert again.get_config() == InputLayer.from_config(again.get_config()).get_config()
    assert again.batch_shape == InputLayer((4, 3), 8).batch_shape == (8, 4, 3)
    sample = {"shape": (3,)}
    for wrong in ({}, sample | {"batch_shape": (None, 3)}, {"batch_shape": (3,)}, {"batch_shape": 3},
                  sample | {"batch_size": 0}, sample | {"batch_size": "x"}, sample | {"dtype": "int32"},
                  sample | {"sparse": True}, {"batch_shape": (None, None, 3)},
                  {"batch_shape": (None, 3), "batch_size": 4}):  # fmt: skip
        with pytest.raises(InputError):
            Input(**wrong)


def test_rescaling_takes_a_number_in_an_array():
    np.testing.assert_array_equal(Rescaling(np.array(0.5), np.float32(1))(np.ones((2, 3))), np.full((2, 3), 1.5))
    with pytest.raises(InputError, match="scale does not fit"):
        Rescaling(np.array("a"))


@pytest.mark.parametrize("mode", RandomFlip.modes)
def test_flips_are_tosses_of_a_coin_for_each_image(mode):
    layer, x = RandomFlip(mode), random((200, 2, 3, 1), 1, np.float32)
    ctx = Context(True, seed=4)
    y = layer.forward(x, ctx)
    mirrored = {"vertical": [x[:, ::-1]], "horizontal": [x[:, :, ::-1]]}
    mirrored["horizontal_and_vertical"] = [x[:, ::-1], x[:, :, ::-1], x[:, ::-1, ::-1]]
    kinds = np.array([[(a == b).all() for a in (one, *(m[i] for m in mirrored[mode]))] for i, (b, one) in
                      enumerate(zip(y, x, strict=True))])  # fmt: skip
    assert (kinds.sum(axis=1) == 1).all()
    share = 1 / kinds.shape[1]
    assert (abs(kinds.mean(axis=0) - share) < 5 * np.sqrt(share * (1 - share) / 200)).all()
    np.testing.assert_array_equal(layer.backward(y, ctx), x)
    np.testing.assert_array_equal(layer.forward(x[50:], Context(True, seed=4, first=50)), y[50:])
    np.testing.assert_array_equal(layer.forward(x, Context(False)), x)


@pytest.mark.parametrize("make", [RandomRotation, RandomZoom, lambda *a, **k: RandomTranslation(a[0], a[0], **k)])
def test_warps_are_drawn_for_each_image_and_step(make):
    layer, x = make(0.3), random((40, 6, 5, 2), 1, np.float32)
    ctx = Context(True, seed=4)
    y = layer.forward(x, ctx)
    assert len({image.tobytes() for image in ctx.matrices}) == 40
    np.testing.assert_array_equal(layer.forward(x[10:], Context(True, seed=4, first=10)), y[10:])
    assert not np.array_equal(layer.forward(x, Context(True, seed=5)), y)
    np.testing.assert_array_equal(layer.forward(x, Context(False)), x)
    fixed = make(0.3, seed=7)
    first, again = (fixed.forward(x, Context(True, seed=seed, step=2)) for seed in (1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(fixed.forward(x, Context(True, seed=1, step=3)), first)


def test_the_bounds_of_warps():
    """What is drawn fills the range between the bounds, evenly, and a single number means both directions."""
    x = np.zeros((2000, 3, 5, 1), np.float32)

    def drawn(layer):
        ctx = Context(True, seed=1)
        layer.forward(x, ctx)
        return ctx.matrices

    def even(values, least, most):
        assert least <= values.min() and values.max() <= most
        shares = np.histogram(values, 4, (least, most))[0] / len(values)
        np.testing.assert_allclose(shares, 0.25, atol=0.05)

    turned = drawn(RandomRotation(0.1))
    even(np.degrees(np.arctan2(turned[:, 0, 1], turned[:, 0, 0])), -36, 36)
    moved = drawn(RandomTranslation((0.4, -0.1), 0.2))
    even(-moved[:, 0, 2], -0.1 * 3, 0.4 * 3)
    even(-moved[:, 1, 2], -0.2 * 5, 0.2 * 5)
    zoomed = drawn(RandomZoom(0.5))
    even(zoomed[:, 0, 0], 0.5, 1.5)
    np.testing.assert_array_equal(zoomed[:, 0, 0], zoomed[:, 1, 1])
    zoomed = drawn(RandomZoom(-0.5, (0.1, 0.2)))
    even(zoomed[:, 1, 1], 1.1, 1.2)
    assert abs(np.corrcoef(zoomed[:, 0, 0], zoomed[:, 1, 1])[0, 1]) < 0.1


@pytest.mark.parametrize("factor", [1.5, (0.1,), (0.1, 0.2, 0.3), "0.1", None, True, (0.1, "a"), float("nan")])
def test_what_cannot_be_a_factor(factor):
    with pytest.raises(InputError, match="factor does not fit"):
        RandomRotation(factor)
    with pytest.raises(InputError, match="width_factor does not fit"):
        RandomTranslation(0.1, factor)
    with pytest.raises(InputError, match="height_factor does not fit"):
        RandomZoom(factor)
    with pytest.raises(InputError, match="above -1"):
        RandomZoom((-1, 0))


def test_a_sequence_is_an_image_of_height_1():
    x, w, b = random((2, 7, 3), 1), random((3, 3, 4), 2), random((4,), 3)
    one, other = Conv1D(4, 3, padding="same"), Conv2D(4, (1, 3), padding="same")
    for layer, kernel in ((one, w), (other, w[None])):
        layer.params = {"w": kernel, "b": b}
    np.testing.assert_array_equal(one.forward(x, Context()), other.forward(x[:, None], Context())[:, 0])


def test_a_causal_convolution_sees_nothing_later():
    layer, x = Conv1D(2, 3, padding="causal"), random((1, 6, 2), 1, np.float32)
    layer.build((6, 2), np.random.default_rng(0))
    before = layer.forward(x, Context())
    x[:, 3:] = 9
    after = layer.forward(x, Context())
    np.testing.assert_array_equal(after[:, :3], before[:, :3])
    assert (after[:, 3:] != before[:, 3:]).any()


def test_other_names():
    assert layers.Convolution1D is Conv1D and layers.MaxPool1D is MaxPooling1D
    assert layers.AvgPool1D is AveragePooling1D and layers.GlobalAvgPool1D is GlobalAveragePooling1D
    assert layers.MaxPool2D is MaxPooling2D and layers.AvgPool2D is AveragePooling2D
    assert layers.GlobalMaxPool2D is GlobalMaxPooling2D and layers.GlobalAvgPool2D is GlobalAveragePooling2D
    assert layers.SeparableConvolution2D is SeparableConv2D and layers.Convolution2D is Conv2D
    assert layers.Convolution2DTranspose is Conv2DTranspose


def test_dropout_that_is_alike_in_the_whole_batch():
    layer, x = Dropout(0.5, (1, None)), np.ones((6, 40), np.float32)
    whole = layer.forward(x, Context(True, seed=11))
    np.testing.assert_array_equal(whole, np.broadcast_to(whole[:1], whole.shape))
    np.testing.assert_array_equal(layer.forward(x[2:], Context(True, seed=11, first=2)), whole[2:])


@pytest.mark.parametrize("noise_shape", [(None, 1), (None, 1, 2, 1), (None, *[1] * 4), (3, 1, 1, 1), (0,), (), 4, "a"])
def test_a_noise_shape_that_does_not_fit(noise_shape):
    with pytest.raises(InputError, match="noise_shape does not fit"):
        Dropout(0.5, noise_shape).output_shape((4, 3, 5))


@pytest.mark.parametrize("numbers", [{"scale": [1, 2]}, {"scale": 1, "offset": [1, 2, 3, 4]}])
def test_rescaling_of_another_number_of_channels(numbers):
    with pytest.raises(InputError, match="does not fit the samples"):
        Rescaling(**numbers).output_shape((4, 3, 3))


# --- Batch normalisation ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(6, 3), (4, 3, 5, 3)])
def test_running_statistics(shape):
    """m = momentum * m + (1 - momentum) * batch, with the biased variance; on the page until the step applies it."""
    layer = BatchNormalization(momentum=0.7)
    layer.build(shape[1:], np.random.default_rng(0))
    layer.set_weights([np.ones(3), np.zeros(3), np.array([1.0, 2, 3]), np.array([4.0, 5, 6])])
    x, ctx = 2 + 3 * random(shape, 3), Context(True)
    layer.forward(x, ctx)
    rows = x.reshape(-1, 3)
    expected = 0.7 * np.array([1, 2, 3]) + 0.3 * rows.mean(axis=0)
    np.testing.assert_allclose(ctx.state["moving_mean"], expected, rtol=1e-6)
    expected = 0.7 * np.array([4, 5, 6]) + 0.3 * ((rows - rows.mean(axis=0)) ** 2).sum(axis=0) / len(rows)
    np.testing.assert_allclose(ctx.state["moving_variance"], expected, rtol=1e-6)
    np.testing.assert_array_equal(layer.state["moving_mean"], [1, 2, 3])


@pytest.mark.parametrize(("training", "trainable"), [(False, True), (True, False), (False, False)])
def test_in_evaluation_and_frozen_the_running_statistics_are_used_and_kept(training, trainable):
    layer, x = made("BatchNormalization images")
    layer.trainable = trainable
    ctx = Context(training)
    y = layer.forward(x, ctx)
    assert not ctx.state
    p, s = layer.params, layer.state
    expected = p["gamma"] * (x - s["moving_mean"]) / np.sqrt(s["moving_variance"] + 1e-3) + p["beta"]
    np.testing.assert_allclose(y, expected, rtol=2e-5, atol=1e-6)


# --- Values of Keras ----------------------------------------------------------------------------------------


def grid(shape, scale=1.0):
    i = np.arange(int(np.prod(shape)))
    return (np.sin(1.7 * i + 0.3) * scale).reshape(shape).astype(np.float32)


IMAGE, SMALL = grid((1, 5, 4, 2)), grid((1, 2, 3, 2))
ROWS, SCALES = grid((2, 1, 2, 4), 2.0), [[1, 2, 0.5, -1], [0, 0.1, -0.3, 1]]
ROW = np.array([[-2.0, -0.5, 0.0, 0.25, 3.0]], np.float32)

# layer, weights, x, y of Keras. fmt: skip keeps one case a line.
KERAS = {
    "Conv2D same stride 2": (
        Conv2D(2, 3, strides=2, padding="same"), [grid((3, 3, 2, 2), 0.5), [0.1, -0.2]], IMAGE,
        [-0.3941625, -0.3129522, 0.3251486, -0.1941311, 0.7624219, -0.6349275, -0.1277846, 0.02073282, -0.04064973,
         0.3142088, 0.1296923, -0.4175835],
    ),
    "Conv2D dilation 2, relu": (
        Conv2D(1, 2, dilation_rate=2, activation="relu"), [grid((2, 2, 2, 1), 0.5), [0.1]], IMAGE,
        [0.2247604, 0.0, 0.2461875, 0.0, 0.124849, 0.1156747],
    ),
    "AveragePooling2D same": (
        AveragePooling2D(3, 2, padding="same"), [], IMAGE,
        [0.2380065, 0.09692087, -0.01207025, 0.1119918, 0.1035493, -0.1943934, 0.08618722, -7.717808e-05, -0.2325738,
         -0.1071197, 0.01659206, -0.1119959],
    ),
    "MaxPooling2D same": (
        MaxPooling2D(3, 2, padding="same"), [], IMAGE,
        [0.9720075, 0.9092974, 0.9611527, 0.618835, 0.9720075, 0.92615, 0.9611527, 0.99155, 0.9998106, 0.7979521,
         0.8788497, 0.3959252],
    ),
    "GlobalAveragePooling2D": (GlobalAveragePooling2D(), [], IMAGE, [0.02470643, 0.006794029]),
    "LayerNormalization": (
        LayerNormalization(), SCALES, ROWS,
        [0.4782201, 2.891139, -0.6776775, 2.118435, 1.065719, 1.798977, -0.9744897, 1.566228, 1.304422, 0.2434519,
         -1.053978, 0.8681927, 1.193144, -1.197182, -0.9368417, 0.2708694],
    ),
    "LayerNormalization of images": (
        LayerNormalization([1, 2, 3]), [grid((1, 2, 4)), grid((1, 2, 4), 0.5)], ROWS,
        [0.2797053, 1.696135, 0.1531726, 0.504433, 1.162974, 0.8070214, 0.7150545, 0.01153307, 0.5184423, 0.5033573,
         0.5219954, -0.4730034, 1.267864, -0.08685763, 0.6942617, -0.4526763],
    ),
    "GroupNormalization": (
        GroupNormalization(2), SCALES, ROWS,
        [-1.484365, 2.584232, -0.04273546, 1.672549, 0.4410732, -0.2976494, -0.8975365, -0.3530922, 0.9609416,
         -0.9380057, -0.8352593, 0.3784119, 0.9423538, -2.668584, -0.7314448, -0.3118204],
    ),
    "GroupNormalization each": (
        GroupNormalization(-1, epsilon=1e-2, center=False), SCALES[:1], ROWS,
        [-0.9744043, 1.911242, 0.4807473, 0.9721143, 0.9744043, -1.911242, -0.4807476, -0.9721147, 0.107914, 1.96195,
         -0.4079075, 0.9780116, -0.107914, -1.96195, 0.4079065, -0.9780117],
    ),
    "PReLU": (
        PReLU(shared_axes=[1, 2]), [np.array([0.1, 0.2, -0.3, 0.5]).reshape(1, 1, 4)], ROWS,
        [0.5910404, 1.818595, 0.3179017, -0.7727645, 1.457938, 1.169834, 0.5278175, -0.3582293, 1.944015, 0.2155073,
         0.5998647, 0.2997544, 1.922305, -0.1590223, 0.5152242, 1.23767],
    ),
    "GlobalMaxPooling2D": (GlobalMaxPooling2D(), [], IMAGE, [0.9998106, 0.99155]),
    "UpSampling2D": (
        UpSampling2D((2, 1)), [], SMALL,
        [0.2955202, 0.9092974, -0.5298361, -0.7727645, 0.728969, 0.5849172, 0.2955202, 0.9092974, -0.5298361,
         -0.7727645, 0.728969, 0.5849172, -0.8796958, -0.3582293, 0.9720075, 0.1077536, -0.9997745, 0.1498772,
         -0.8796958, -0.3582293, 0.9720075, 0.1077536, -0.9997745, 0.1498772],
    ),
    "UpSampling2D bilinear": (
        UpSampling2D((2, 3), interpolation="bilinear"), [], SMALL[..., :1],
        [0.2955202, 0.2955202, 0.02040139, -0.2547174, -0.5298361, -0.1102343, 0.3093674, 0.728969, 0.728969,
         0.001716226, 0.001716226, -0.05031427, -0.1023448, -0.1543752, -0.003989063, 0.1463971, 0.2967831, 0.2967831,
         -0.5858917, -0.5858917, -0.1917456, 0.2024006, 0.5965467, 0.2085015, -0.1795436, -0.5675886, -0.5675886,
         -0.8796958, -0.8796958, -0.2624612, 0.3547733, 0.9720075, 0.3147468, -0.3425139, -0.9997745, -0.9997745],
    ),
    "Permute": (
        Permute((3, 1, 2)), [], SMALL,
        [0.2955202, -0.5298361, 0.728969, -0.8796958, 0.9720075, -0.9997745, 0.9092974, -0.7727645, 0.5849172,
         -0.3582293, 0.1077536, 0.1498772],
    ),
    "Reshape": (
        Reshape((3, -1)), [], SMALL,
        [0.2955202, 0.9092974, -0.5298361, -0.7727645, 0.728969, 0.5849172, -0.8796958, -0.3582293, 0.9720075,
         0.1077536, -0.9997745, 0.1498772],
    ),
    "Cropping2D": (
        Cropping2D(((1, 2), (0, 1))), [], IMAGE,
        [0.9720075, 0.1077536, -0.9997745, 0.1498772, 0.9611527, -0.3975557, 0.69924, -0.7990215, -0.493341, 0.92615,
         0.2546823, -0.9917789],
    ),
    "Dense tanh": (
        Dense(3, activation="tanh"), [grid((4, 3)), [0.1, 0.2, -0.3]], grid((2, 4)),
        [-0.1317439, 0.9700981, -0.5046594, 0.5361139, 0.9612814, -0.8490857],
    ),
    "LeakyReLU": (LeakyReLU(), [], ROW, [-0.6, -0.15, 0.0, 0.25, 3.0]),
    "Activation leaky_relu": (Activation("leaky_relu"), [], ROW, [-0.4, -0.1, 0.0, 0.25, 3.0]),
    "ELU": (ELU(), [], ROW, [-0.8646647, -0.3934693, 0.0, 0.25, 3.0]),
    "ELU alpha": (ELU(alpha=0.5), [], ROW, [-0.4323324, -0.1967347, 0.0, 0.25, 3.0]),
    "ReLU": (ReLU(max_value=2.0, negative_slope=0.1), [], ROW, [-0.2, -0.05, 0.0, 0.25, 2.0]),
    "gelu": (Activation("gelu"), [], ROW, [-0.04550026, -0.1542688, 0.0, 0.1496766, 2.99595]),
    "sigmoid": (Activation("sigmoid"), [], ROW, [0.1192029, 0.3775407, 0.5, 0.5621765, 0.9525741]),
    "tanh": (Activation("tanh"), [], ROW, [-0.9640276, -0.4621171, 0.0, 0.2449187, 0.9950547]),
    "Softmax": (Softmax(), [], ROW, [0.005855773, 0.02624376, 0.04326864, 0.05555803, 0.8690738]),
    "Rescaling": (Rescaling(1 / 4, -0.5), [], ROW, [-1.0, -0.625, -0.5, -0.4375, 0.25]),
    "Flatten": (
        Flatten(), [], grid((1, 2, 2, 2)),
        [0.2955202, 0.9092974, -0.5298361, -0.7727645, 0.728969, 0.5849172, -0.8796958, -0.3582293],
    ),
    "BatchNormalization in evaluation": (
        BatchNormalization(), [[1, 2, 0.5], [0, 0.1, -0.3], [0.2, 0, 1], [1, 0.5, 2]], grid((4, 3), 2.0),
        [0.3908451, 5.238627, -1.028022, -1.744657, 4.219554, -0.2399695, -1.958413, -1.924427, 0.03367633, 0.01549955,
         -5.549932, -0.5475123],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", KERAS)
def test_values_of_keras(case):
    layer, weights, x, expected = KERAS[case]
    layer.build(x.shape[1:], np.random.default_rng(0))
    layer.set_weights([np.asarray(array) for array in weights])
    y = layer.forward(x, Context())
    np.testing.assert_allclose(y.ravel(), expected, rtol=2e-6, atol=3e-7)


BATCH_NORM = {
    "features": (
        BatchNormalization(momentum=0.8), [[1, 2, 0.5], [0, 0.1, -0.3], [0.2, 0, 1], [1, 0.5, 2]], grid((4, 3), 2.0),
        [1.169281, 2.237061, -1.038614, -0.8858199, 1.777864, -0.03946972, -1.091528, -0.9906316, 0.3074762, 0.8080668,
         -2.624294, -0.4293926],
        [0.03508137, 0.02802627, 0.9176966], [1.015971, 0.8932917, 1.848761],
    ),
    "images, defaults": (
        BatchNormalization(), [[1, 1], [0, 0], [0, 0], [1, 1]], grid((2, 2, 1, 2), 3.0),
        [0.6124758, 1.199681, -0.6778137, -1.265752, 1.290092, 0.7242302, -1.224753, -0.6581592],
        [-0.00288782, 0.002724157], [1.026816, 1.031883],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BATCH_NORM)
def test_a_training_step_of_batch_normalisation_in_keras(case):
    layer, weights, x, expected, mean, variance = BATCH_NORM[case]
    layer.build(x.shape[1:], np.random.default_rng(0))
    layer.set_weights([np.asarray(array) for array in weights])
    ctx = Context(True)
    y = layer.forward(x, ctx)
    np.testing.assert_allclose(y.ravel(), expected, rtol=3e-6, atol=3e-7)
    np.testing.assert_allclose(ctx.state["moving_mean"], mean, rtol=3e-6, atol=3e-8)
    np.testing.assert_allclose(ctx.state["moving_variance"], variance, rtol=1e-6)


def test_one_step_with_constraint_and_regularizer_in_keras():
    """SGD(0.1), MSE, MaxNorm(1), L2(0.1): the penalty is in the loss and the gradient, the constraint comes after."""
    dense = Dense(3, kernel_constraint=MaxNorm(1.0), kernel_regularizer=L2(0.1))
    model = Sequential([Input((4,)), dense])
    dense.set_weights([grid((4, 3)), np.array([0.1, 0.2, -0.3])])
    model.compile(SGD(0.1), "mse")
    history = model.fit(grid((2, 4)), grid((2, 3), 0.5), batch_size=2, shuffle=False, verbose=0)
    assert history.history["loss"][0] == pytest.approx(2.015027, rel=1e-6)
    w, b = model.get_weights()
    expected = [0.2287915, 0.5883228, -0.400071, -0.654597, 0.4457774, 0.5114717, -0.7143839, -0.1936746, 0.7537432,
                0.09387571, -0.6462575, 0.101049]  # fmt: skip
    np.testing.assert_allclose(w.ravel(), expected, rtol=3e-6, atol=1e-7)
    np.testing.assert_allclose(b, [0.07650687, 0.09208858, -0.2388018], rtol=3e-6)


def test_sizes_may_be_numbers_of_numpy():
    """Class counts come from labels: uint8 must not make 256 of 255 + 1, or 0."""
    x = random((2, 40, 40, 3), dtype=np.float32)
    model = Sequential([Input(x.shape[1:]), Conv2D(np.uint8(90), np.uint8(20)), Flatten(), Dense(np.uint8(200))])
    assert model.predict(x, verbose=0).shape == (2, 200)
    assert model.layers[0].macs((40, 40, 3)) == 21 * 21 * 90 * 20 * 20 * 3
    assert Conv2D(1, (np.int64(2), np.uint8(3))).kernel_size == (2, 3)


def test_what_cannot_stand_in_an_arrays_place_is_refused_at_once():
    """Whole numbers were a raw ValueError of NumPy, in the next training step."""
    model = Sequential([Input((6, 6, 1)), Conv2D(16, 3), BatchNormalization(), Flatten(), Dense(2)])
    model.compile("sgd", "mse")
    conv, norm = model.layers[:2]
    conv.params["w"] = np.ones((3, 3, 1, 16), int)
    conv.params.update(b=[1] * 16)
    norm.state |= {"moving_mean": np.full(16, True)}
    assert {array.dtype for array in model.weights} == {np.dtype("float32")}
    assert conv.params["w"].sum() == 144 and norm.state["moving_mean"].sum() == 16
    conv.params["w"] = doubled = 2 * conv.params["w"].astype(float)  # another precision is the user's choice
    assert conv.params["w"] is doubled
    model.fit(np.ones((2, 6, 6, 1)), np.ones((2, 2)), verbose=0)
    for wrong in (None, 0.5, "a", [[1], [1, 2]], np.ones((1, 3, 1, 16)), np.full((3, 3, 1, 16), "a"), np.ones(16) * 1j):
        with pytest.raises(InputError, match="the array w: this cannot take its place"):
            conv.params["w"] = wrong
    assert conv.params["w"] is doubled
    copied = copy.deepcopy(conv)
    assert type(copied.params) is type(conv.params) and (copied.params["w"] == 2).all()
    assert type(pickle.loads(pickle.dumps(conv)).params) is type(conv.params)
