"""The transfer learning example, on a few drawn clothes: every way of it, and where the knowledge comes from."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from test_examples import assert_pictures

import minicnn
from minicnn.applications import VGG16, vgg16
from minicnn.datasets import DownloadError, fetch
from minicnn.models import load_model

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

NAMES = minicnn.datasets.toy.CLASS_NAMES
WAYS = ("frozen", "fine_tuned", "from_scratch")


@pytest.fixture
def transfer(tmp_path, monkeypatch):
    """A function that runs the example with flags, and returns its record. VGG16 is narrow here, the network is off."""
    import transfer_cifar10

    x, y = np.random.default_rng(0).integers(0, 256, (400, 32, 32, 3)).astype(np.uint8), np.arange(400) % 10
    x[:, :16] = (y * 25)[:, None, None, None]  # a class is a shade
    data = ((x[:300], y[:300]), (x[300:], y[300:]), NAMES)
    monkeypatch.setattr(minicnn.datasets, "load", lambda name: data)
    monkeypatch.setattr(vgg16, "BLOCKS", tuple((4, n) for _, n in vgg16.BLOCKS))
    monkeypatch.setattr(fetch, "cache_dir", lambda: tmp_path / "cache")
    monkeypatch.setattr(fetch, "_blocks", offline)
    monkeypatch.delenv("MINICNN_DATA", raising=False)
    monkeypatch.setattr(transfer_cifar10, "EPOCHS", dict.fromkeys(WAYS, 2))
    monkeypatch.chdir(tmp_path)

    def run(*flags, pictures=False):
        if not pictures:  # drawing takes longer than all the rest
            monkeypatch.setattr(transfer_cifar10, "picture", lambda *args: None)
            monkeypatch.setattr(transfer_cifar10, "prediction_grid", lambda *args, **kwargs: None)
        command = ["--images", "2,3", "--epochs", "1", "--limit", "60", "--record", "run.json", *map(str, flags)]
        transfer_cifar10.main(transfer_cifar10.parser.parse_args(command))
        return json.loads((tmp_path / "run.json").read_text())

    return run


def offline(address, size):
    raise fetch._MirrorError("no network", final=True)
    yield b""


def check(folder, record, classes):
    assert record["new_classes"] == list(classes) == load_model(folder / "model.zip").class_names
    for way in WAYS:
        assert len(record[way]) == len(record["images_per_class"])
        assert all(0 <= accuracy <= 1 for accuracy in record[way])


def test_quick(transfer, tmp_path, capsys):
    record = transfer("--quick", pictures=True)
    check(tmp_path / "output" / "transfer", record, NAMES[5:])
    assert_pictures(tmp_path / "output" / "transfer", "accuracy_by_images.png", "predictions.png")
    assert (record["source"], record["source_images"]) == ("five other classes", 60)
    assert record["images_per_class"] == [4, 8]
    assert f"First training: {', '.join(NAMES[:5])}, 60 images" in capsys.readouterr().out


def test_the_saved_model_is_frozen_but_for_its_top_and_gives_the_recorded_accuracy(transfer, tmp_path):
    record = transfer("--weights", "none", "--output", "out")
    model = load_model(tmp_path / "out" / "model.zip")
    assert {layer.trainable for layer in model.layers[0].layers} == {False} and model.layers[1].trainable
    _, (x, y), _ = minicnn.datasets.load("")
    answers = model.predict(x[y >= 5] / np.float32(255), verbose=0).argmax(axis=1)
    assert round(float((answers == y[y >= 5] - 5).mean()), 4) == record["frozen"][-1]


def test_vgg16_from_a_file(transfer, tmp_path, capsys):
    VGG16(include_top=False, weights=None, input_shape=(32, 32, 3)).save_weights(tmp_path / "vgg.weights")
    record = transfer("--weights", tmp_path / "vgg.weights")
    check(tmp_path / "output" / "transfer", record, NAMES)
    assert record["source"] == "ImageNet" and "First training" not in capsys.readouterr().out


def test_without_vgg16_a_network_of_our_own_takes_its_place(transfer, capsys):
    assert transfer()["source"] == "five other classes"
    assert "No VGG16 (the file is not on this machine" in capsys.readouterr().out


def test_weights_that_were_asked_for_must_be_had(transfer, tmp_path):
    with pytest.raises(DownloadError, match="weights=PATH"):
        transfer("--weights", "imagenet")
    with pytest.raises(minicnn.errors.InputError, match="no such weights"):
        transfer("--weights", tmp_path / "missing.h5")


@pytest.mark.parametrize("flags", [("--images", "many"), ("--limit", "0")])
def test_bad_flags(transfer, flags, capsys):
    with pytest.raises(SystemExit):
        transfer(*flags)
    assert "--images takes numbers" in capsys.readouterr().err
