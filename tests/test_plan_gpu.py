"""Layers that run as one on a GPU give the numbers of the layers, one by one.

Run on the strict stand-in for CuPy; with --device gpu on a real GPU.
"""

import numpy as np
import pytest
from cuda_on_cpu import COMPILER, NEEDS_COMPILER
from helpers import random

import minicnn
from minicnn.kernels import cuda
from minicnn.layers import (
    Activation,
    Add,
    BatchNormalization,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    Input,
    MaxPooling2D,
    ReLU,
    SpatialDropout2D,
    fused_gpu,
)
from minicnn.layers.fused_gpu import GpuChain
from minicnn.layers.walk import PLAIN, backward, forward, new_contexts
from minicnn.models import Model, Sequential
from minicnn.training.plan import plan_of_step, training_plan, without_plan


@pytest.fixture(autouse=True)
def gpu(device_of_test):
    if device_of_test == "strict" and COMPILER is None:
        pytest.skip(NEEDS_COMPILER)
    with minicnn.device("gpu") as device:
        yield device.xp


def one_pass(model, x, dy):
    """(y, dx, *gradients, *new running means) of a forward and a backward pass in training, on the host."""
    own = new_contexts(model.nodes, True, True, 2, 5, 0, input_gradient=True)
    plan = training_plan(model.nodes, PLAIN, "gpu")
    contexts = plan.contexts(own)
    y = forward(plan.nodes, contexts, x)
    dx = backward(plan.nodes, contexts, dy)
    arrays = [y, dx, *(a for ctx in own for a in (*ctx.grads.values(), *ctx.state.values()))]
    return [array.get() for array in arrays]


def compared(model, gpu, dtype, samples=3):
    """Both ways over the same numbers: as planned, and layer by layer."""
    for layer in model.flat_layers:
        for arrays in (layer.params, layer.state):
            for k, (name, array) in enumerate(arrays.items()):
                arrays[name] = gpu.asarray((array.get() + 0.3 * abs(random(array.shape, k))).astype(dtype))
    x, dy = (gpu.asarray(random((samples, *shape), 1, dtype)) for shape in (model.sample_shape, model.shapes[-1]))
    planned = one_pass(model, x, dy)
    with without_plan():
        return planned, one_pass(model, x, dy)


def close(planned, alone, tolerance):
    for a, b in zip(planned, alone, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * (1 + abs(b).max(initial=0)))


def chains(*layers):
    """The classes of what runs; those of a chain in one text."""
    plan = training_plan(Sequential([Input((9, 8, 4)), *layers]).nodes, PLAIN, "gpu")
    return [
        " ".join(type(layer).__name__ for layer in getattr(node.layer, "layers", [node.layer])) for node in plan.nodes
    ]


ORDERS = {
    "relu, dropout": [Conv2D(4, 3), ReLU(), Dropout(0.3)],
    "relu, pooling, dropout": [Conv2D(3, 3, padding="same"), Activation("relu"), MaxPooling2D(2), Dropout(0.5)],
    "pooling, relu": [Conv2D(5, (2, 3), strides=2), MaxPooling2D(2, 1, "same"), ReLU()],
    "the activation inside": [Conv2D(4, 3, activation="relu"), MaxPooling2D(3, 2), Dropout(0.25, seed=7)],
    "without cols": [Conv2D(4, 3, algorithm="implicit"), MaxPooling2D(2), ReLU(), Dropout(0.3)],
    "no bias": [Conv2D(4, 3, use_bias=False), ReLU(), Dropout(0.3)],
    "no bias, no dropout": [Conv2D(4, 3, use_bias=False, activation="relu")],
    "a rate of 0": [Conv2D(4, 3), ReLU(), Dropout(0)],
    "dense": [Flatten(), Dense(7), ReLU(), Dropout(0.4)],
    "dense over positions": [Dense(5, activation="relu"), Dropout(0.4)],
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("order", ORDERS)
def test_a_chain_is_its_layers(gpu, order, dtype):
    around = [Input((9, 8, 4)), BatchNormalization()], [BatchNormalization(), Flatten(), Dense(3)]
    model = Sequential([*around[0], *ORDERS[order], *around[1]])
    assert sum(isinstance(node.layer, GpuChain) for node in training_plan(model.nodes, PLAIN, "gpu").nodes) == 1
    close(*compared(model, gpu, dtype), 1e-11 if dtype == np.float64 else 2e-4)


def test_equal_maxima_are_won_by_the_first(gpu):
    """Whole numbers: rounding would otherwise decide."""
    model = Sequential([Input((6, 6, 2)), Conv2D(4, 3), ReLU(), MaxPooling2D(2)])
    conv = model.layers[0]
    for samples in (1, 2):
        compared(model, gpu, np.float64, samples)
        conv.params = {name: gpu.asarray(p.get().round()) for name, p in conv.params.items()}
        x, dy = (gpu.asarray((3 * random(shape, 3)).round()) for shape in ((samples, 6, 6, 2), (samples, 2, 2, 4)))
        planned = one_pass(model, x, dy)
        with without_plan():
            close(planned, one_pass(model, x, dy), 0)


def test_what_becomes_a_chain():
    assert chains(Conv2D(4, 3), ReLU(), MaxPooling2D(2), Dropout(0.5), BatchNormalization()) == [
        "Conv2D ReLU MaxPooling2D Dropout", "BatchNormalization",
    ]  # fmt: skip
    assert chains(Dense(4, activation="relu"), Dropout(0.5)) == ["Dense Dropout"]
    for alone in (
        [Conv2D(4, 3), Dropout(0.5), ReLU()], [Conv2D(4, 3, trainable=False), ReLU()], [ReLU(), Dropout(0.5)],
        [Conv2D(4, 3, activation="tanh"), ReLU()], [Conv2D(4, 3), MaxPooling2D(2)], [Conv2D(4, 3), Activation("elu")],
    ):  # fmt: skip
        assert chains(*alone) == [type(layer).__name__ for layer in alone]
    assert chains(Conv2D(4, 3), ReLU(), SpatialDropout2D(0.5)) == ["Conv2D ReLU", "SpatialDropout2D"]
    assert chains(Conv2D(4, 3), ReLU(), Dropout(0.5, noise_shape=(None, 1, 1, None))) == ["Conv2D ReLU", "Dropout"]


def test_a_value_that_is_read_twice_stays(gpu):
    x = Input((6, 6, 4))
    y = Conv2D(4, 3, padding="same")(x)
    model = Model(x, Dense(2)(Flatten()(Add()([y, ReLU()(y)]))))
    assert not any(isinstance(node.layer, GpuChain) for node in training_plan(model.nodes, PLAIN, "gpu").nodes)
    close(*compared(model, gpu, np.float64), 1e-11)


@pytest.mark.parametrize("fault", ["no factor", "the mask of another step", "no bias"])
def test_the_comparison_finds_faults(gpu, fault, monkeypatch):
    forward_of, backward_of = cuda.bias_relu_dropout, cuda.relu_backward_sums
    faults = {
        "no factor": ("relu_backward_sums", lambda dy, y, scale: backward_of(dy, y)),
        "the mask of another step": (
            "bias_relu_dropout", lambda z, b, mask, rate: forward_of(z, b, cuda.mask_for(z, rate, 99), rate)
        ),
        "no bias": ("bias_relu_dropout", lambda z, b, mask, rate: forward_of(z, None, mask, rate)),
    }  # fmt: skip
    monkeypatch.setattr(fused_gpu.cuda, *faults[fault])
    model = Sequential([Input((9, 8, 4)), *ORDERS["relu, dropout"], Flatten(), Dense(3)])
    with pytest.raises(AssertionError):
        close(*compared(model, gpu, np.float64), 1e-9)


def test_the_plan_is_kept_from_step_to_step_until_the_model_moves(gpu):
    model = Sequential([Input((8, 8, 3)), Conv2D(4, 3), ReLU(), Flatten(), Dense(3, activation="softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    first = plan_of_step(model, PLAIN)
    assert sum(isinstance(node.layer, GpuChain) for node in first.nodes) == 1
    model.fit(random((6, 8, 8, 3), 1), np.arange(6) % 3, batch_size=2, verbose=0)
    assert plan_of_step(model, PLAIN) is first
    model.to("cpu")
    assert not any(isinstance(node.layer, GpuChain) for node in plan_of_step(model, PLAIN).nodes)
    model.layers[0].trainable = False
    model.to("gpu")
    assert not any(isinstance(node.layer, GpuChain) for node in plan_of_step(model, PLAIN).nodes)
