"""Numbers, gradients and configurations of layers of Keras 3.15, recorded by tests/fixtures/make_keras_layers.py."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from keras_layer_cases import CASES, SAMPLES, numbers, weights

from minicnn import layers
from minicnn.layers import Context, Input
from minicnn.models import Sequential, load_model
from minicnn.saving.keras_config import Description, translated
from minicnn.saving.keras_weights import KERAS_NAMES

KERAS = np.load(Path(__file__).parent / "fixtures" / "keras_layers.npz")


def layer_of(name):
    case = CASES[name]
    layer = getattr(layers, case.kind)(**case.arguments)
    layer.build(case.shape, np.random.default_rng(0))
    layer.set_weights(weights([array.shape for array in layer.weights]))
    return layer


def same(found, name, what):
    expected = KERAS[f"{name}/{what}"]
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5 * max(1e-3, np.abs(expected).max()), err_msg=what)


@pytest.mark.parametrize("name", CASES)
def test_numbers_and_gradients(name):
    case, layer = CASES[name], layer_of(name)
    ctx = Context(case.training)
    y = layer.forward(numbers((SAMPLES, *case.shape), 1), ctx)
    assert y.shape[1:] == layer.output_shape(case.shape)
    same(y, name, "y")
    dx = layer.backward(numbers(y.shape, 2), ctx)
    if not (case.training and case.kind in ("RandomRotation", "RandomTranslation", "RandomZoom")):
        same(dx, name, "dx")  # TensorFlow looks dy up through the inverse matrix, which is not the derivative
    for i, parameter in enumerate(layer.params):
        same(ctx.grads[parameter], name, i)
    for i, state in enumerate(layer.state):
        same(ctx.state.get(state, layer.state[state]), name, f"state {i}")


@pytest.mark.parametrize("name", CASES)
def test_its_configuration_makes_the_layer(name):
    """As a file of Keras has it; and the names of its arrays, in their order."""
    case = CASES[name]
    config = json.loads(str(KERAS[f"{name}/config"]))
    network = {"class_name": "Sequential", "config": {"layers": [{"class_name": case.kind, "config": config}]}}
    made = translated(Description("a file", network), case.kind, config, case.shape)
    wanted = getattr(layers, case.kind)(name="layer", **case.arguments).get_config()
    plain = {key: value for key, value in made.get_config().items() if key != "data_format"}
    for key, value in plain.items():
        other = wanted["pool_size"] if key == "strides" and wanted[key] is None else wanted[key]
        if isinstance(value, list) and not isinstance(other, list):
            other = [other] * len(value)
        assert value == other or key.endswith("_initializer"), key
    names = [KERAS_NAMES.get(n, n) for n in (*layer_of(name).params, *layer_of(name).state)]
    assert names == str(KERAS[f"{name}/names"]).split(",") or not names


@pytest.mark.parametrize("name", CASES)
def test_a_file_of_keras_that_we_write_comes_back(name, tmp_path):
    """Keras itself reads such a file: its numbers were compared when the layer was written."""
    layer = layer_of(name)
    model = Sequential([Input(CASES[name].shape), layer])
    model.save(tmp_path / "model.keras")
    again = load_model(tmp_path / "model.keras")
    x = numbers((SAMPLES, *CASES[name].shape), 1)
    np.testing.assert_array_equal(again.predict(x, verbose=0), model.predict(x, verbose=0))
