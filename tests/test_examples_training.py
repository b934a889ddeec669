"""The longer examples: the published networks, number by number, and runs that were interrupted."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_examples import accuracy_of, assert_pictures, run

import minicnn
from minicnn.errors import InputError
from minicnn.layers import Dense, Flatten, Input
from minicnn.models import load_model
from minicnn.preprocessing.image import ImageInput

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


FIGURES = ("prediction_grid", "misclassified", "confusion_matrix", "training_curves")


@pytest.fixture
def no_figures(monkeypatch):
    """Several runs in one test: drawing would take most of the time."""
    import train_cifar10
    import train_images
    import train_mnist

    for example in (train_cifar10, train_images, train_mnist):
        for name in FIGURES:
            monkeypatch.setattr(example, name, lambda *args, **kwargs: None)


def killed(run):
    """The run, killed in the middle of its second epoch."""
    from journal import Journal

    def kill(self, batch, logs=None):
        if self.seconds:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "on_train_batch_end", kill)
        with pytest.raises(KeyboardInterrupt):
            run()


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


@pytest.mark.parametrize("flags", [(), ("--augment", "--limit", 40)])
def test_a_killed_run_ends_as_one_that_was_not(cifar10, no_figures, tmp_path, capsys, flags):
    whole = cifar10(*flags, "--epochs", 2, "--output", "whole")
    killed(lambda: cifar10(*flags, "--epochs", 2, "--output", "parts"))
    parts = cifar10(*flags, "--epochs", 2, "--output", "parts", "--resume")
    assert "resuming at epoch 2" in capsys.readouterr().out
    assert (whole["resumes"], parts["resumes"], len(parts["seconds_per_epoch"])) == (0, 1, 2)
    for name in ("loss", "accuracy", "val_loss", "val_accuracy", "test_accuracy", "md5"):
        assert parts[name] == whole[name], name
    ours, theirs = (load_model(tmp_path / name / "model.zip").get_weights() for name in ("whole", "parts"))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)


def test_another_run_cannot_be_resumed(cifar10, no_figures):
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
    Image.fromarray(minicnn.datasets.load("toy")[0][0][0]).save(tmp_path / "one.png")
    assert predict(tmp_path / "output" / "mnist" / "model.zip", tmp_path / "one.png") == 0  # flattened on the way
    assert capsys.readouterr().out.count(" %") == 3


def test_mnist_restores_the_best_epoch(mnist, no_figures, tmp_path):
    """The weights are those of a run that ended with the best epoch."""
    record = mnist("--epochs", 40, "--patience", 1)
    mnist("--epochs", record["best_epoch"], "--patience", 40, "--output", "short")
    stopped, short = (load_model(tmp_path / name / "model.zip") for name in ("output/mnist", "short"))
    for a, b in zip(stopped.get_weights(), short.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_mnist_that_does_not_stop_says_so(mnist, no_figures, capsys):
    assert mnist("--epochs", 1)["epochs"] == 1
    assert "All 1 epochs are done" in capsys.readouterr().out


def test_mnist_on_real_digits(tmp_path, data_dir):
    out = run(tmp_path, "train_mnist.py", "--limit", 3000, "--epochs", 2, MINICNN_DATA=str(data_dir))
    assert accuracy_of(out) > 0.8  # it is about 0.88


# ---- one's own images ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a folder of pictures for each of two classes, of several sizes and kinds; one file is broken."""
    root, rng = tmp_path_factory.mktemp("folder"), np.random.default_rng(0)
    for name, colour in (("Äpfel", (200, 40, 40)), ("pears", (60, 200, 60))):
        (root / name).mkdir()
        for i in range(24):
            pixels = np.clip(np.array(colour) + rng.integers(-40, 40, (30 + i, 40, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).convert("RGBA" if i % 3 else "RGB").save(root / name / f"{i}.png")
    (root / "pears" / "broken.jpg").write_text("no picture")
    return root


@pytest.fixture
def images(tmp_path, monkeypatch, folder):
    """A function that runs train_images.py on the folder and returns the record; everything is in tmp_path."""
    pytest.importorskip("sklearn", reason="the table of precision and recall needs scikit-learn")
    import train_images

    monkeypatch.chdir(tmp_path)

    def train(*flags):
        command = [str(folder), "--record", "run.json", "--batch-size", "8", *map(str, flags)]
        with pytest.warns(UserWarning, match="1 of .* files cannot be read"):
            train_images.main(train_images.parser.parse_args(command))
        return json.loads((tmp_path / "run.json").read_text())

    return train


def predict(*arguments):
    import predict

    return predict.main(predict.parser.parse_args([str(a) for a in arguments]))


def test_own_images_are_learned_and_named(images, folder, tmp_path, capsys):
    record = images("--model", "simple", "--size", 16, "--epochs", 10, "--learning-rate", 0.1)
    out, output = capsys.readouterr().out, tmp_path / "output" / "images"
    assert_pictures(output, *PICTURES)
    assert (record["train_images"] + record["test_images"], record["model"], record["size"]) == (48, "simple", 16)
    assert record["test_accuracy"] == accuracy_of(out) > 0.9
    assert set(record["report"]) == {"pears", "Äpfel", "macro avg", "weighted avg"}
    assert sum(record["report"][name]["support"] for name in ("pears", "Äpfel")) == record["test_images"]
    assert "precision" in out

    # Everything that is needed to name a picture is in the model's file.
    model = load_model(output / "model.zip")
    assert model.class_names == ["pears", "Äpfel"]
    assert model.image_input == ImageInput(16, 16)
    grey = tmp_path / "grey.png"
    Image.open(folder / "pears" / "3.png").convert("L").save(grey)
    broken = folder / "pears" / "broken.jpg"
    files = [folder / "pears" / "1.png", folder / "Äpfel" / "1.png", grey, broken, tmp_path / "missing.png"]
    assert predict(output / "model.zip", *files, "--output", "named") == 2
    told = capsys.readouterr()
    blocks = told.out.split(str(folder))
    assert re.search(r"pears: [5-9]\d\.\d\d %\n    Äpfel: \d+\.\d\d %\n    written", blocks[1])
    assert re.search(r"Äpfel: [5-9]\d\.\d\d %\n    pears: \d+\.\d\d %\n    written", blocks[2])
    assert "cannot be read as an image" in told.err
    assert "missing.png" in told.err
    assert_pictures(tmp_path / "named", "1.png", "1-2.png", "grey.png")


def test_small_vggnet_goes_on_where_it_was(images, no_figures, tmp_path):
    whole = images("--size", 8, "--epochs", 2, "--output", "whole")
    assert whole["decay"] == 0.01 / 2
    killed(lambda: images("--size", 8, "--epochs", 2, "--output", "parts"))
    parts = images("--size", 8, "--epochs", 2, "--output", "parts", "--resume")
    assert (whole["resumes"], parts["resumes"]) == (0, 1)
    for name in ("loss", "val_loss", "test_accuracy", "report"):
        assert parts[name] == whole[name], name
    assert_pictures(tmp_path / "parts", "varied.png")


def test_without_scikit_learn_nothing_is_begun(monkeypatch, folder, tmp_path):
    import train_images

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "sklearn.metrics", None)
    with pytest.raises(InputError, match="pip install scikit-learn"):
        train_images.main(train_images.parser.parse_args([str(folder)]))
    assert not (tmp_path / "output").exists()


def test_a_model_that_does_not_say_enough_cannot_name_pictures(tmp_path, folder):
    picture, file = folder / "pears" / "1.png", tmp_path / "model.zip"
    model = minicnn.Sequential([Input((8, 8, 3)), Flatten(), Dense(2, activation="softmax")])
    for change, missing in (({}, "no class_names"), ({"class_names": ["a", "b"]}, "no image_input")):
        for name, value in change.items():
            setattr(model, name, value)
        model.save(file)
        with pytest.raises(InputError, match=missing):
            predict(file, picture)
    model.class_names, model.image_input = ["a", "b", "c"], ImageInput(8, 8)
    model.save(file)
    with pytest.raises(InputError, match="a probability for each class"):
        predict(file, picture)
    with pytest.raises(InputError, match="this is no model file"):
        predict(picture, picture)


@pytest.mark.parametrize(("flags", "hint"), [
    (["predict.py", "no.zip", "no.png"], "no.zip"),
    (["train_images.py", "nowhere"], "does not exist"),
    (["train_images.py", "."], "no class folders"),
])  # fmt: skip
def test_what_is_not_there_is_told_readably(tmp_path, flags, hint):
    assert hint in run(tmp_path, *flags, fails=True)


# ---- real data -------------------------------------------------------------------------------------------------------


def test_cifar10_on_real_photos(cifar10, no_figures, data_dir, monkeypatch):
    """Guessing is right once in ten times. The test images need more steps: the running means are far off at first."""
    monkeypatch.setenv("MINICNN_DATA", str(data_dir))
    (x, y), (x_test, y_test) = minicnn.datasets.cifar10.load_data()
    real = (x[:800], y[:800]), (x_test[:100], y_test[:100]), minicnn.datasets.cifar10.CLASS_NAMES
    monkeypatch.setattr(minicnn.datasets, "load", lambda name: real)
    record = cifar10("--epochs", 2, "--batch-size", 16)
    assert record["accuracy"][1] > 0.2  # it is about 0.28
    assert record["loss"][1] < record["loss"][0]


def test_own_images_on_real_photos(tmp_path, data_dir):
    """Cats, dogs and pandas; guessing is right once in three times."""
    pytest.importorskip("sklearn", reason="the table of precision and recall needs scikit-learn")
    if not (data_dir / "animals").is_dir():
        pytest.skip("needs real data: a folder animals/ with cats/, dogs/ and panda/ in the folder MINICNN_DATA")
    flags = ("--model", "simple", "--size", 16, "--epochs", 5, "--learning-rate", 0.05)
    out = run(tmp_path, "train_images.py", data_dir / "animals", *flags)
    assert max(float(found) for found in re.findall(r"val_accuracy ([\d.]+)", out)) > 0.42  # it is about 0.5
    assert_pictures(tmp_path / "output" / "images", *PICTURES)
