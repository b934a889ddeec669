"""The longer examples: the published networks, number by number, and runs that were interrupted."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from test_examples import accuracy_of, assert_pictures, run

import minicnn
from minicnn.errors import InputError
from minicnn.models import load_model

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

PICTURES = ("predictions.png", "misclassified.png", "confusion_matrix.png", "training_curves.png")


def test_the_cifar10_network_is_the_published_one():
    """The figures are those of Keras' summary()."""
    import train_cifar10

    model = train_cifar10.network()
    counts = [layer.count_params() for layer in model.layers if layer.count_params()]
    assert counts == [896, 128, 18496, 256, 36928, 256, 73856, 512, 2097408, 1024, 32896, 512, 1290]
    trainable = sum(p.size for layer in model.layers for p in layer.params.values())
    assert (model.count_params(), trainable, model.count_params() - trainable) == (2264458, 2263114, 1344)
    lines = []
    model.summary(print_fn=lines.append)
    for figure in ("2,264,458", "2,263,114", "1,344"):
        assert figure in "\n".join(lines)
    block = ["Conv2D", "Activation", "Dropout", "BatchNormalization"]
    pooled = ["Conv2D", "Activation", "MaxPooling2D", "Dropout", "BatchNormalization"]
    dense = ["Dense", "Activation", "Dropout", "BatchNormalization"]
    assert [type(layer).__name__ for layer in model.layers] == [
        *block, *pooled, *pooled, *block, "Flatten", "Dropout", *dense, *dense, "Dense", "Activation"
    ]  # fmt: skip
    assert [layer.name for layer in model.layers[:2]] == ["conv2d_1", "activation_1"]
    assert model.shapes[1] == (32, 32, 32)


def trained(monkeypatch, tmp_path, example, dataset):
    """A function that runs an example on a few drawn clothes and returns the record; everything is in tmp_path."""
    (x, y), (x_test, y_test), names = minicnn.datasets.load(dataset)
    monkeypatch.setattr(minicnn.datasets, "load", lambda name: ((x[:64], y[:64]), (x_test[:48], y_test[:48]), names))
    monkeypatch.chdir(tmp_path)

    def train(*flags):
        command = ["--dataset", dataset, "--batch-size", "32", "--record", "run.json", *map(str, flags)]
        example.main(example.parser.parse_args(command))
        return json.loads((tmp_path / "run.json").read_text())

    return train


@pytest.fixture
def cifar10(tmp_path, monkeypatch):
    import train_cifar10

    return trained(monkeypatch, tmp_path, train_cifar10, "toy_color")


@pytest.fixture
def mnist(tmp_path, monkeypatch):
    import train_mnist

    return trained(monkeypatch, tmp_path, train_mnist, "toy")


def test_cifar10_leaves_what_its_readers_wanted(cifar10, tmp_path, capsys):
    record = cifar10("--epochs", 1, "--limit", 40)
    folder = tmp_path / "output" / "cifar10"
    assert_pictures(folder, *PICTURES)
    assert accuracy_of(capsys.readouterr().out) == record["test_accuracy"]
    assert load_model(folder / "model.zip").class_names == list(minicnn.datasets.toy.CLASS_NAMES)
    assert (record["dataset"], record["train_images"], record["test_images"]) == ("toy_color", 40, 48)
    assert (record["seed"], record["resumes"], len(record["md5"])) == (21, 0, 32)
    assert record["peak_memory_mb"] > 10
    for name in ("seconds_per_epoch", "loss", "accuracy", "val_loss", "val_accuracy"):
        assert len(record[name]) == record["epochs"] == 1


def test_a_stopped_run_ends_as_one_that_was_not(cifar10, tmp_path, capsys):
    whole = cifar10("--epochs", 2, "--output", "whole")
    cifar10("--epochs", 1, "--output", "parts")
    parts = cifar10("--epochs", 2, "--output", "parts", "--resume")
    assert "1 epochs are done already" in capsys.readouterr().out
    assert parts["resumes"] == 1
    assert len(parts["seconds_per_epoch"]) == 2
    for name in ("loss", "accuracy", "val_loss", "val_accuracy", "test_accuracy", "md5"):
        assert parts[name] == whole[name], name
    ours, theirs = (load_model(tmp_path / name / "model.zip").get_weights() for name in ("whole", "parts"))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)


def test_another_run_cannot_be_resumed(cifar10):
    cifar10("--epochs", 1)
    with pytest.raises(InputError, match="other settings") as error:
        cifar10("--epochs", 2, "--seed", 22, "--resume")
    assert "'seed': 21" in str(error.value)


@pytest.mark.parametrize(("flags", "hint"), [(["--limit", "0"], "at least 1 image"), (["--seed", "-1"], "seed")])
def test_bad_flags_of_cifar10(tmp_path, flags, hint):
    assert hint in run(tmp_path, "train_cifar10.py", "--dataset", "toy_color", *flags, fails=True)


def test_mnist_stops_by_itself_and_says_why(mnist, tmp_path, capsys):
    record = mnist("--epochs", 40, "--patience", 1)
    out = capsys.readouterr().out
    epochs, best = record["epochs"], record["best_epoch"]
    assert best < epochs < 40
    assert f"Stopped after epoch {epochs} of 40" in out
    assert f"that of epoch {best}" in out
    assert record["val_accuracy_of_best"] == max(record["val_accuracy"])
    assert record["val_accuracy"][best - 1] == max(record["val_accuracy"])
    assert_pictures(tmp_path / "output" / "mnist", *PICTURES)
    model = load_model(tmp_path / "output" / "mnist" / "model.zip")
    assert model.shapes == [(784,), (800,), (10,)]


def test_mnist_restores_the_best_epoch(mnist, tmp_path):
    """The weights are those of a run that ended with the best epoch."""
    record = mnist("--epochs", 40, "--patience", 1)
    mnist("--epochs", record["best_epoch"], "--patience", 40, "--output", "short")
    stopped, short = (load_model(tmp_path / name / "model.zip") for name in ("output/mnist", "short"))
    for a, b in zip(stopped.get_weights(), short.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_mnist_that_does_not_stop_says_so(mnist, capsys):
    assert mnist("--epochs", 1)["epochs"] == 1
    assert "All 1 epochs are done" in capsys.readouterr().out


def test_mnist_on_real_digits(tmp_path, data_dir):
    out = run(tmp_path, "train_mnist.py", "--limit", 3000, "--epochs", 2, MINICNN_DATA=str(data_dir))
    assert accuracy_of(out) > 0.8  # it is about 0.88
