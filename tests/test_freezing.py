"""Freezing: what does not learn does not change, costs no gradient, and comes back frozen from a file."""

from __future__ import annotations

import inspect
import re

import numpy as np
import pytest
from helpers import random

import minicnn.layers.conv
import minicnn.layers.core
import minicnn.layers.normalization
import minicnn.layers.pooling
from minicnn import optimizers, utils
from minicnn.layers import BatchNormalization, Conv2D, Dense, Flatten, Input, MaxPooling2D
from minicnn.models import Sequential, load_model
from minicnn.training.plan import without_plan

X, Y = random((12, 8, 8, 3), seed=1, dtype=np.float32), np.arange(12) % 3


@pytest.fixture(autouse=True)
def seeded():
    utils.set_random_seed(0)


def network(optimizer="adam") -> Sequential:
    """Convolutions as a model of their own, and a top: the form of transfer learning."""
    base = Sequential(
        [
            Input((8, 8, 3)),
            Conv2D(4, 3, activation="relu", name="conv1"),
            BatchNormalization(momentum=0.5, name="norm1"),
            MaxPooling2D(2, name="pool"),
            Conv2D(5, 2, activation="relu", name="conv2"),
            BatchNormalization(momentum=0.5, name="norm2"),
        ],
        name="base",
    )
    model = Sequential([base, Flatten(), Dense(6, activation="relu"), Dense(3, activation="softmax")])
    model.compile(optimizer, "sparse_categorical_crossentropy")
    return model


def changed(model: Sequential, epochs: int = 1) -> set[str]:
    """The arrays that training changes, such as "base/conv1/w"."""
    before = arrays(model)
    model.fit(X, Y, batch_size=6, epochs=epochs, verbose=0)
    return {name for name, array in arrays(model).items() if not np.array_equal(array, before[name])}


def arrays(model: Sequential) -> dict[str, np.ndarray]:
    return {
        f"{key}/{name}": array.copy()
        for key, layer in model.layers_by_key.items()
        for name, array in (layer.params | layer.state).items()
    }


def of(model: Sequential, *layers: str) -> set[str]:
    return {name for name in arrays(model) if name.rpartition("/")[0] in layers}


TOP = ("dense_1", "dense_2")


# ---- who learns ------------------------------------------------------------------------------------------------------


def test_without_freezing_everything_learns():
    model = network()
    assert changed(model) == set(arrays(model))


def test_a_frozen_inner_model_keeps_every_array_its_running_statistics_too():
    model = network()
    model.get_layer("base").trainable = False
    assert changed(model, epochs=3) == of(model, *TOP)


def test_layers_can_be_freed_one_by_one_after_nesting():
    model = network()
    base = model.get_layer("base")
    for layer in base.layers:
        layer.trainable = False
    assert changed(model) == of(model, *TOP)
    base.get_layer("conv2").trainable = True
    assert changed(model) == of(model, "base/conv2", *TOP)
    base.get_layer("norm1").trainable = True
    assert changed(model) == of(model, "base/norm1", "base/conv2", *TOP)


def test_it_takes_effect_at_once_without_compiling_again():
    model = network()
    base = model.get_layer("base")
    seen = []
    for flag in (True, False, True):
        base.trainable = flag
        seen.append(bool(changed(model) & of(model, "base/conv1", "base/norm2")))
    assert seen == [True, False, True]


def test_the_inner_model_tells_whether_any_of_it_learns():
    base = network().get_layer("base")
    assert base.trainable
    base.trainable = False
    assert not base.trainable and not any(layer.trainable for layer in base.layers)
    base.layers[3].trainable = True
    assert base.trainable
    assert not Sequential([Input((2,)), Dense(2)], trainable=False).layers[0].trainable
    assert Sequential().trainable


def test_a_frozen_layer_is_left_alone_by_its_constraint_and_regularizer():
    model = Sequential(
        [
            Input((4,)),
            Dense(4, kernel_constraint="max_norm", kernel_regularizer="l2", trainable=False),
            Dense(3, activation="softmax"),
        ]
    )
    model.layers[0].params["w"][...] *= 10
    model.compile("sgd", "sparse_categorical_crossentropy")
    before = model.layers[0].get_weights()
    model.fit(random((12, 4), dtype=np.float32), Y, verbose=0)
    np.testing.assert_array_equal(model.layers[0].params["w"], before[0])


# ---- batch norm ------------------------------------------------------------------------------------------------------


def test_frozen_batch_norm_computes_with_its_running_statistics_while_the_rest_trains():
    """With steps of size 0 the loss of fit is that of evaluate: fit sees the same numbers as evaluation."""
    losses = {}
    for frozen in (True, False):
        model = network(optimizers.SGD(0.0))
        for layer in model.get_layer("base").layers:
            layer.trainable = not (frozen and isinstance(layer, BatchNormalization))
            if layer.state:
                layer.state["moving_mean"][...] = 0.3
                layer.state["moving_variance"][...] = 4
        expected = model.evaluate(X, Y, verbose=0)
        losses[frozen] = model.fit(X, Y, batch_size=12, verbose=0).history["loss"][0] - expected
    assert abs(losses[True]) < 1e-6
    assert abs(losses[False]) > 1e-3, "the batch's own statistics should give another loss"


# ---- what it saves ---------------------------------------------------------------------------------------------------


@pytest.fixture
def calls(monkeypatch):
    """The backward kernels that are called: their names, with "+dx" where the derivative by the input is asked for."""
    seen: list[str] = []

    def spy(module, name):
        kernel = getattr(module, name)

        def noted(*args, **kwargs):
            call = inspect.signature(kernel).bind(*args, **kwargs)
            seen.append(name + ("+dx" if call.arguments.get("need_dx", True) else ""))
            return kernel(*args, **kwargs)

        def plain(*args, **kwargs):
            seen.append(name)
            return kernel(*args, **kwargs)

        monkeypatch.setattr(module, name, noted if name in ("conv2d_backward", "dense_backward") else plain)

    spy(minicnn.layers.conv, "conv2d_backward")
    spy(minicnn.layers.core, "dense_backward")
    spy(minicnn.layers.pooling, "maxpool2d_backward")
    for name in ("batchnorm_backward", "batchnorm_eval_backward"):
        spy(minicnn.layers.normalization, name)
    with without_plan():  # chains of layers have a kernel of their own
        yield seen


def one_step(model, calls):
    calls.clear()
    model.fit(X, Y, batch_size=12, verbose=0)
    return calls


def test_no_gradient_is_computed_below_the_lowest_layer_that_learns(calls):
    model = network()
    base = model.get_layer("base")
    everything = ["dense_backward+dx"] * 2 + ["batchnorm_backward", "conv2d_backward+dx", "maxpool2d_backward"]
    assert one_step(model, calls) == [*everything, "batchnorm_backward", "conv2d_backward"]
    base.trainable = False
    assert one_step(model, calls) == ["dense_backward+dx", "dense_backward"]
    base.get_layer("conv2").trainable = True  # its gradient comes through the frozen batch norm above it
    assert one_step(model, calls) == ["dense_backward+dx"] * 2 + ["batchnorm_eval_backward", "conv2d_backward"]
    model.trainable = False
    assert one_step(model, calls) == []


def test_features_computed_once_train_the_same_top():
    """predict, then fit the top: the same as fitting the whole with a frozen base, at a fraction of the work."""
    whole, parts = network(), network()
    parts.set_weights(whole.get_weights())
    for model in (whole, parts):
        model.get_layer("base").trainable = False
    whole.fit(X, Y, batch_size=6, epochs=3, shuffle=False, verbose=0)
    features = parts.get_layer("base").predict(X, verbose=0)
    top = Sequential([Input(features.shape[1:]), *parts.layers[1:]])
    top.compile("adam", "sparse_categorical_crossentropy")
    top.fit(features, Y, batch_size=6, epochs=3, shuffle=False, verbose=0)
    for p, q in zip(whole.get_weights(), parts.get_weights(), strict=True):
        np.testing.assert_allclose(p, q, rtol=1e-5, atol=1e-6)


# ---- what is said, and kept ------------------------------------------------------------------------------------------


def counts(model) -> tuple[int, ...]:
    lines: list[str] = []
    model.summary(print_fn=lines.append)
    return tuple(int(re.search(rf" {name} params: ([\d,]+)", "\n".join(lines))[1].replace(",", ""))
                 for name in ("Total", "Trainable", "Non-trainable"))  # fmt: skip


def test_the_summary_counts_what_learns():
    model = network()
    conv1, norm1, conv2, norm2 = 3 * 3 * 3 * 4 + 4, 16, 2 * 2 * 4 * 5 + 5, 20
    top = (2 * 2 * 5 * 6 + 6) + (6 * 3 + 3)
    total, running = conv1 + norm1 + conv2 + norm2 + top, (norm1 + norm2) // 2
    assert counts(model) == (total, total - running, running)
    model.get_layer("base").trainable = False
    assert counts(model) == (total, top, total - top)
    model.get_layer("base").get_layer("conv2").trainable = True
    assert counts(model) == (total, top + conv2, total - top - conv2)
    assert counts(model.get_layer("base")) == (total - top, conv2, total - top - conv2)


@pytest.mark.parametrize("free", [(), ("conv2",), ("conv1", "norm2")])
def test_every_flag_survives_saving(tmp_path, free):
    model = network()
    for layer in model.get_layer("base").layers:
        layer.trainable = layer.name in free
    model.layers[2].trainable = False
    model.fit(X, Y, verbose=0)
    model.save(tmp_path / "model.zip")
    loaded = load_model(tmp_path / "model.zip")
    flags = [layer.trainable for layer in model.flat_layers]
    assert [layer.trainable for layer in loaded.flat_layers] == flags
    assert loaded.get_layer("base").trainable == bool(free)
    assert counts(loaded) == counts(model)
    assert changed(loaded) == changed(model) == of(model, *(f"base/{name}" for name in free), "dense_2")
    for p, q in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(p, q)


def test_models_in_models_in_models(tmp_path):
    deep = Sequential([Dense(4, name="a"), Dense(4, name="b")], name="deep")
    outer = Sequential([Input((4,)), Sequential([deep, Dense(4, name="c")], name="middle"), Dense(3, name="d")])
    outer.get_layer("middle").trainable = False
    deep.layers[1].trainable = True
    outer.save(tmp_path / "model.zip")
    loaded = load_model(tmp_path / "model.zip")
    assert [layer.trainable for layer in loaded.flat_layers] == [False, True, False, True]
    assert loaded.get_config() == outer.get_config()
