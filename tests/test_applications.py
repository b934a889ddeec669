"""VGG16 and SmallVGGNet: the published architectures, and what is said when their weights cannot be had."""

from __future__ import annotations

import hashlib
import json
import os

import numpy as np
import pytest
from helpers import random

from minicnn import applications
from minicnn.applications import VGG16, SmallVGGNet, vgg16
from minicnn.datasets import DownloadError, fetch
from minicnn.errors import BrokenFileError, InputError
from minicnn.layers import Conv2D, Dense

# ---- SmallVGGNet -----------------------------------------------------------------------------------------------------


def test_small_vggnet_is_the_published_one():
    model = SmallVGGNet(width=64, height=64, depth=3, classes=3)
    assert model.sample_shape == (64, 64, 3) and model.shapes[-1] == (3,)
    kinds = [type(layer).__name__ for layer in model.layers]
    conv, end = ["Conv2D", "Activation", "BatchNormalization"], ["MaxPooling2D", "Dropout"]
    top = ["Flatten", "Dense", "Activation", "BatchNormalization", "Dropout", "Dense", "Activation"]
    assert kinds == conv + end + 2 * conv + end + 3 * conv + end + top
    assert [layer.filters for layer in model.layers if isinstance(layer, Conv2D)] == [32, 64, 64, 128, 128, 128]
    assert [layer.rate for layer in model.layers if type(layer).__name__ == "Dropout"] == [0.25, 0.25, 0.25, 0.5]
    # Convolutions 27*32+32 = 896, 18,496, 36,928, 73,856 and twice 147,584; batch norm 4 a channel; 8*8*128 numbers
    # into Dense(512): 4,194,816; and 512*3+3.
    norms = 4 * (32 + 2 * 64 + 3 * 128 + 512)
    assert model.count_params() == 896 + 18496 + 36928 + 73856 + 2 * 147584 + 4194816 + 1539 + norms


def test_small_vggnet_takes_width_before_height_and_trains():
    model = SmallVGGNet(8, 16, 1, 2)
    assert model.sample_shape == (16, 8, 1)
    model.compile("sgd", "categorical_crossentropy", metrics=["accuracy"])
    x, y = random((8, 16, 8, 1), dtype=np.float32), np.eye(2, dtype=np.float32)[np.arange(8) % 2]
    history = model.fit(x, y, epochs=1, verbose=0)
    assert np.isfinite(history.history["loss"]).all()


def test_small_vggnet_refuses_tiny_images():
    with pytest.raises(InputError, match="too small"):
        SmallVGGNet(4, 4, 3, 2)


# ---- VGG16 -----------------------------------------------------------------------------------------------------------


def test_vgg16_without_its_top_has_keras_names_and_numbers():
    model = VGG16(include_top=False, weights=None, input_shape=(32, 32, 3))
    assert model.count_params() == 14_714_688  # as Keras' summary has it
    assert model.shapes[-1] == (1, 1, 512) and model.name == "vgg16"
    convs = ((1, 2), (2, 2), (3, 3), (4, 3), (5, 3))
    names = [[*(f"block{b}_conv{i + 1}" for i in range(n)), f"block{b}_pool"] for b, n in convs]
    assert [layer.name for layer in model.layers] == sum(names, [])


@pytest.mark.parametrize("pooling", ["avg", "max"])
def test_vgg16_can_end_in_one_number_a_feature(monkeypatch, pooling):
    monkeypatch.setattr(vgg16, "BLOCKS", tuple((8, n) for _, n in vgg16.BLOCKS))  # narrow, to be fast
    images = VGG16(include_top=False, weights=None, input_shape=(64, 96, 3))
    model = VGG16(include_top=False, weights=None, input_shape=(64, 96, 3), pooling=pooling)
    model.set_weights(images.get_weights())
    x = random((2, 64, 96, 3), dtype=np.float32)
    features = images.predict(x, verbose=0)
    assert features.shape == (2, 2, 3, 8) and features.std() > 0
    expected = features.mean(axis=(1, 2)) if pooling == "avg" else features.max(axis=(1, 2))
    np.testing.assert_allclose(model.predict(x, verbose=0), expected, rtol=1e-5, atol=1e-7)


def test_the_whole_vgg16(monkeypatch):
    """Its parameters are counted, not drawn: 138 million of them take seconds."""
    for layer in (Conv2D, Dense):
        monkeypatch.setattr(layer, "build", build_empty)
    model = VGG16(weights=None)
    assert model.sample_shape == (224, 224, 3)
    assert [layer.name for layer in model.layers[-4:]] == ["flatten", "fc1", "fc2", "predictions"]
    assert model.count_params() == 138_357_544
    assert VGG16(weights=None, classes=7, classifier_activation=None).layers[-1].activation.name == "linear"


def build_empty(layer, input_shape, rng):
    shapes = layer.array_shapes(input_shape)
    layer.params = {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}


def test_applications_can_be_imported_as_in_keras():
    from minicnn.applications.vgg16 import VGG16 as SAME
    from minicnn.applications.vgg16 import decode_predictions, preprocess_input

    assert SAME is VGG16 is applications.VGG16
    assert callable(decode_predictions) and callable(preprocess_input)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"input_shape": (31, 40, 3), "include_top": False}, "at least 32×32"),
        ({"input_shape": (32, 32), "include_top": False}, "height, width, channels"),
        ({"input_shape": (64, 64, 1), "include_top": False}, "weights for 3 channels"),
        ({"input_shape": (64, 64, 3)}, "include_top=False"),
        ({"classes": 10}, "1000 classes"),
        ({"pooling": "average", "include_top": False}, '"avg" or "max"'),
        ({"weights": "imagnet"}, "there are no such weights"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_before_any_download(arguments, text):
    with pytest.raises(InputError, match=text):
        VGG16(**arguments)


# ---- the files that are downloaded -----------------------------------------------------------------------------------


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No network, no data, an empty cache."""

    def refuse(address, size):
        raise fetch._MirrorError("no network", final=True)
        yield b""

    monkeypatch.setattr(fetch, "_blocks", refuse)
    monkeypatch.setattr(fetch, "cache_dir", lambda: tmp_path / "cache")
    monkeypatch.delenv("MINICNN_DATA", raising=False)
    return tmp_path / "cache"


def test_without_a_network_it_says_what_to_do(offline):
    with pytest.raises(DownloadError) as caught:
        VGG16(include_top=False, input_shape=(32, 32, 3))
    text = str(caught.value)
    assert "weights=PATH" in text and "weights=None" in text and "58,889,256 bytes" in text
    assert vgg16.NO_TOP.mirrors[0] in text and str(offline / "models" / vgg16.NO_TOP.name) in text
    assert "toy" not in text


def test_a_wrong_file_in_the_cache_is_refused(offline):
    (offline / "models").mkdir(parents=True)
    (offline / "models" / vgg16.NO_TOP.name).write_bytes(b"<html>sign in to the network</html>")
    with pytest.raises(BrokenFileError, match="an HTML page of 35 bytes"):
        VGG16(include_top=False, input_shape=(32, 32, 3))


def test_the_published_files_are_fetched_over_https():
    for file in (vgg16.WHOLE, vgg16.NO_TOP, vgg16.CLASS_INDEX):
        assert file.mirrors[0].startswith("https://") and file.mirrors[0].endswith("/" + file.name)
        assert len(file.md5) == 32 and file.size > 0


# ---- before and after it ---------------------------------------------------------------------------------------------


def test_preprocess_input_swaps_red_and_blue_and_subtracts_the_mean():
    x = np.array([[[[10, 20, 30]]]], np.uint8)
    y = vgg16.preprocess_input(x)
    assert y.dtype == np.float32 and x.tolist() == [[[[10, 20, 30]]]]
    np.testing.assert_allclose(y, [[[[30 - 103.939, 20 - 116.779, 10 - 123.68]]]], rtol=1e-6)
    assert vgg16.preprocess_input(x.astype(np.float64)).dtype == np.float64
    with pytest.raises(InputError, match="not colour images"):
        vgg16.preprocess_input(np.zeros((2, 8, 8, 1)))


def test_decode_predictions_names_the_likeliest(monkeypatch, tmp_path):
    text = json.dumps({str(i): [f"n{i:08}", f"thing {i}"] for i in range(1000)}).encode()
    file = vgg16.CLASS_INDEX._replace(size=len(text), md5=hashlib.md5(text, usedforsecurity=False).hexdigest())
    os.mkdir(tmp_path / "models")
    (tmp_path / "models" / file.name).write_bytes(text)
    monkeypatch.setattr(vgg16, "CLASS_INDEX", file)
    monkeypatch.setenv("MINICNN_DATA", str(tmp_path))
    probabilities = np.zeros((2, 1000), np.float32)
    probabilities[0, [7, 3, 999]] = 0.5, 0.25, 0.125
    probabilities[1, 42] = 1
    first, second = vgg16.decode_predictions(probabilities, top=3)
    assert first == [("n00000007", "thing 7", 0.5), ("n00000003", "thing 3", 0.25), ("n00000999", "thing 999", 0.125)]
    assert second[0] == ("n00000042", "thing 42", 1.0) and len(second) == 3
    with pytest.raises(InputError, match="1000 classes"):
        vgg16.decode_predictions(np.zeros((2, 10)))
