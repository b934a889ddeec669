"""examples/cifar10_fast.py on a few drawn clothes: its rungs, its batches, its views, and the model that it leaves."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import minicnn
from minicnn.errors import InputError
from minicnn.layers import Conv2D, Input
from minicnn.preprocessing import patch_whitening

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
import cifar10_fast  # noqa: E402

RNG = np.random.default_rng(0)
PHOTOS = RNG.integers(0, 256, (40, 32, 32, 3)).astype(np.uint8)


@pytest.fixture
def fast(tmp_path, monkeypatch):
    """A function that runs the example with flags and returns the record; everything is in tmp_path."""
    (x, y), (x_test, y_test), names = minicnn.datasets.load("toy_color")
    monkeypatch.setattr(minicnn.datasets, "load", lambda name: ((x[:48], y[:48]), (x_test[:20], y_test[:20]), names))
    monkeypatch.chdir(tmp_path)

    def run(*flags):
        command = ["--batch-size", "16", "--record", "run.json", *map(str, flags)]
        cifar10_fast.main(cifar10_fast.parser.parse_args(command))
        return json.loads((tmp_path / "run.json").read_text())

    return run


def kernels(path="output/cifar10_fast/model.zip"):
    model = minicnn.load_model(path)
    return {layer.name: layer.get_weights()[0] for layer in model.layers if isinstance(layer, Conv2D)}


@pytest.mark.parametrize("rung", cifar10_fast.RUNGS)
def test_every_rung_learns_and_leaves_a_model(fast, rung, tmp_path):
    record = fast("--rung", rung, "--mirror")
    assert record["rung"] == rung and record["epochs"] == 1 and record["train_images"] == 48
    assert np.isfinite(record["loss"]).all() and record["test_accuracy"] == record["test_mirror"]
    whitening = patch_whitening(cifar10_fast.normalized(minicnn.datasets.load("")[0][0]))
    stays = np.allclose(kernels()["patches"] * cifar10_fast.STD[:, None], whitening, rtol=1e-4, atol=1e-4)
    assert stays == (rung != "plain")  # the kernel is not learned, its bias is


def test_the_saved_model_is_the_trained_one_and_takes_pictures(fast, tmp_path, monkeypatch):
    """The normalisation has gone into the first convolution: exact, because nothing is padded there."""
    trained = []
    save = cifar10_fast.save
    monkeypatch.setattr(cifar10_fast, "save", lambda model, *args: (trained.append(model), save(model, *args)))
    fast()
    logits = trained[0].predict(cifar10_fast.normalized(PHOTOS[:4]), verbose=0)
    expected = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected /= expected.sum(axis=1, keepdims=True)
    model = minicnn.load_model("output/cifar10_fast/model.zip")
    for photo, answer in zip(PHOTOS[:4], expected, strict=True):
        Image.fromarray(photo).save("photo.png")
        (p,) = model.predict(model.image_input.load("photo.png")[None], verbose=0)
        np.testing.assert_allclose(p, answer, atol=1e-5)
    import predict

    assert predict.main(predict.parser.parse_args(["output/cifar10_fast/model.zip", "photo.png"])) == 0


def test_a_run_that_was_stopped_goes_on(fast):
    whole = fast("--epochs", 2, "--output", "whole")
    stop = cifar10_fast.Journal.on_epoch_begin

    def stopped(self, epoch, logs=None):
        if epoch == 1:
            raise KeyboardInterrupt
        stop(self, epoch, logs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cifar10_fast.Journal, "on_epoch_begin", stopped)
        with pytest.raises(KeyboardInterrupt):
            fast("--epochs", 2, "--output", "parts")
    parts = fast("--epochs", 2, "--output", "parts", "--resume")
    assert (parts["resumes"], parts["loss"]) == (1, whole["loss"])


def test_dirac_hands_the_input_on():
    layer = cifar10_fast.network(10, "dirac").get_layer("block2_conv1")  # of 64 channels 256
    (kernel,) = layer.get_weights()
    assert (kernel[1, 1, :, :64] == np.eye(64)).all() and np.abs(kernel[..., :64]).sum() == 64
    assert np.abs(kernel[..., 64:]).max() <= 1 / (9 * 64) ** 0.5 and kernel[..., 64:].any(axis=(0, 1, 2)).all()
    plain = cifar10_fast.network(10, "whitening").get_layer("block2_conv1").get_weights()[0]
    assert plain[..., :64].any(axis=(0, 1, 2)).all() and not (plain[1, 1, :, :64] == np.eye(64)).any()


def test_the_batches_are_shifts_and_mirror_images_of_the_photos():
    y = np.arange(40)
    data = cifar10_fast.Varied(PHOTOS, y, 10, seed=1)
    assert len(data) == 4
    padded = np.pad(cifar10_fast.normalized(PHOTOS), ((0, 0), (2, 2), (2, 2), (0, 0)), mode="reflect")
    turned, shifts = [], set()
    for _ in range(3):
        sides, seen = np.zeros(40, bool), []
        for i in range(4):
            x, labels = data[i]
            assert x.shape == (10, 32, 32, 3) and x.dtype == np.float32
            np.testing.assert_array_equal(x, data[i][0])  # the same batch again
            seen += labels.tolist()
            for image, k in zip(x, labels, strict=True):
                found = [(flip, a, b) for flip in (False, True) for a in range(5) for b in range(5)
                         if np.array_equal(image[:, ::-1] if flip else image, padded[k, a : a + 32, b : b + 32])]
                (one,) = found
                sides[k], shifts = one[0], shifts | {one[1:]}
        assert sorted(seen) == list(range(40))
        turned.append(sides)
        data.on_epoch_end()
    assert 8 < turned[0].sum() < 32
    assert (turned[1] == ~turned[0]).all() and (turned[2] == turned[0]).all()
    assert len(shifts) > 20


def test_the_views_are_weighted_as_published():
    """A quarter each for the photo and its mirror image, an eighth for each of these shifted."""

    class Counts:
        def predict(self, x, batch_size, verbose):
            return x[:, 0, 0, :1].copy()

    x = RNG.normal(size=(3, 32, 32, 1))
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    shifted = [padded[:, 0, 0], padded[:, 0, 31], padded[:, 2, 2], padded[:, 2, 33]]
    for count in (1, 2, 6):
        p = cifar10_fast.judged(Counts(), x, count)
        np.testing.assert_array_equal(p, [x[:, 0, 0], x[:, 0, 31], *shifted][:count])
    # Three photos of class 1: the first view is right about two, with the mirror image about one, with the shifts all.
    right, wrong = [0.0, 1.0], [1.0, 0.0]
    views = np.array([[right, right, wrong], [right, [2.0, 0.0], wrong], *[[right, right, [0.0, 2.0]]] * 4])
    assert cifar10_fast.accuracies(views[:1], np.ones(3, int)) == {"plain": 0.6667}
    assert cifar10_fast.accuracies(views[:2], np.ones(3, int)) == {"plain": 0.6667, "mirror": 0.3333}
    assert cifar10_fast.accuracies(views, np.ones(3, int))["views"] == 1.0


def test_the_rates_are_those_of_the_recipe():
    """For batches of 2000 and 200 steps; the bias of the patches learns in the first three of eight epochs."""
    optimizer = cifar10_fast.optimizer("muon", 2000, 200, 8)
    of = optimizer.optimizer_map
    assert type(of["block1_conv1/kernel"]).__name__ == "Muon" and of["patches/kernel"].learning_rate == 0
    assert of["block1_conv1/kernel"].learning_rate == pytest.approx(0.24)
    assert of["batch_normalization_1/beta"].learning_rate == pytest.approx(106)
    assert of["head/kernel"].learning_rate == pytest.approx(0.02045, rel=1e-3)
    assert of["patches/bias"].schedule(75) == 0 < of["patches/bias"].schedule(74)
    assert of["head/kernel"].schedule(200) == 0 < of["head/kernel"].schedule(199)


# ---- patch_whitening -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "channels"), [(2, 3), (3, 1), (1, 3)])
def test_patch_whitening_whitens(size, channels):
    """The covariance of its outputs is the unit matrix; the second half of them is the negative of the first."""
    x = RNG.normal(size=(50, 10, 12, channels)) @ RNG.normal(size=(channels, channels))
    x = x + np.roll(x, 1, axis=1) + 0.3 * np.roll(x, 1, axis=2)  # neighbours are alike
    kernel = patch_whitening(x, size, epsilon=1e-9)
    d = size * size * channels
    assert kernel.shape == (size, size, channels, 2 * d) and kernel.dtype == np.float32
    np.testing.assert_array_equal(kernel[..., d:], -kernel[..., :d])
    model = minicnn.Sequential([Input(x.shape[1:]), Conv2D(2 * d, size, use_bias=False)])
    model.set_weights([kernel])
    y = model.predict(x, verbose=0).astype(np.float64)[..., :d].reshape(-1, d)
    np.testing.assert_allclose(y.T @ y / len(y), np.eye(d), atol=2e-3)


def test_the_first_patterns_are_the_strongest():
    x = np.ones((5, 4, 4, 1)) * RNG.normal(size=(5, 1, 1, 1))  # patches of one grey
    kernel = patch_whitening(x, 2)[..., 0].ravel()
    np.testing.assert_allclose(kernel, kernel[0], rtol=1e-4)


@pytest.mark.parametrize("arguments", [(np.zeros((4, 8, 8)),), (np.zeros((4, 8, 8, 3)), 9), (np.zeros((4, 8, 8, 3)), 0),
                                       (np.zeros((0, 8, 8, 3)),), (np.zeros((4, 8, 8, 3)), 2, -1)])  # fmt: skip
def test_patch_whitening_of_something_else(arguments):
    with pytest.raises(InputError, match="patch_whitening"):
        patch_whitening(*arguments)


def test_more_than_guessing_on_real_photos(data_dir, monkeypatch, tmp_path):
    """4,000 photos seen once; guessing is right once in ten times."""
    monkeypatch.setenv("MINICNN_DATA", str(data_dir))
    monkeypatch.chdir(tmp_path)
    (x, y), (x_test, y_test) = minicnn.datasets.cifar10.load_data()
    real = (x[:2000], y[:2000]), (x_test[:200], y_test[:200]), minicnn.datasets.cifar10.CLASS_NAMES
    monkeypatch.setattr(minicnn.datasets, "load", lambda name: real)
    command = ["--batch-size", "100", "--record", "run.json"]
    cifar10_fast.main(cifar10_fast.parser.parse_args(command))
    assert json.loads((tmp_path / "run.json").read_text())["test_accuracy"] > 0.3
