from __future__ import annotations

import hashlib

import numpy as np
import pytest

from minicnn import datasets
from minicnn.datasets import fashion_mnist, toy
from minicnn.errors import InputError, UnknownNameError


@pytest.mark.parametrize(("color", "image", "label"), [(False, (28, 28), ()), (True, (32, 32, 3), (1,))])
def test_shapes_dtypes_and_balance(color, image, label):
    (x_train, y_train), (x_test, y_test) = toy.load_data(color=color, n_train=200, n_test=50)
    assert x_train.shape == (200, *image) and x_test.shape == (50, *image)
    assert y_train.shape == (200, *label) and y_test.shape == (50, *label)
    assert {a.dtype for a in (x_train, y_train, x_test, y_test)} == {np.dtype(np.uint8)}
    assert np.bincount(y_train.ravel()).tolist() == [20] * 10
    assert np.bincount(y_test.ravel()).tolist() == [5] * 10


def test_class_names_are_those_of_fashion_mnist():
    assert toy.CLASS_NAMES == fashion_mnist.CLASS_NAMES and len(toy.CLASS_NAMES) == 10


@pytest.mark.parametrize(
    ("color", "sha256"),
    [
        (False, "f3279e72d8cf6f08f80b25d1b8fec22e0c17e0007474a85e347292808adcaae9"),
        (True, "0c9867464cf8751ec33de018bece83875fd041977237e62a6df2038796d5b931"),
    ],
)
def test_same_bytes_on_every_machine(color, sha256):
    """Drawn with correctly rounded operations only, so the bytes depend on neither processor nor compiler."""
    (x, y), _ = toy.load_data(color=color, n_train=40, n_test=0, seed=7)
    assert hashlib.sha256(x.tobytes() + y.tobytes()).hexdigest() == sha256


def test_drawing_stays_in_float32():
    """A float64 creeping in would cost time, and is how a rounding difference would enter."""
    for garment in toy.GARMENTS:
        cover, tone = toy._paint(garment, 2, 28, np.random.default_rng(0))
        assert cover.dtype == tone.dtype == np.float32


def test_seeds_and_parts_differ():
    (x, _), (x_test, _) = toy.load_data(n_train=30, n_test=30)
    (other, _), _ = toy.load_data(n_train=30, n_test=30, seed=1)
    assert not np.array_equal(x, other) and not np.array_equal(x, x_test)
    assert len(np.unique(x.reshape(30, -1), axis=0)) == 30


def test_classes_look_different():
    """Every class is drawn, and its mean image is further from the others' than chance would put it."""
    (x, y), (x_test, y_test) = toy.load_data(n_train=600, n_test=300)
    means = np.stack([x[y == k].astype(float).mean(0) for k in range(10)])
    distance = ((x_test[:, None] - means) ** 2).sum((2, 3))
    accuracy = (distance.argmin(1) == y_test).mean()
    assert 0.35 < accuracy < 0.85  # a template finds much of it, and is not enough


@pytest.mark.parametrize("n", [0, 3])
def test_few_images(n):
    (x, y), _ = toy.load_data(n_train=n, n_test=0)
    assert x.shape == (n, 28, 28) and y.shape == (n,)


def test_negative_number_is_refused():
    with pytest.raises(InputError, match="n_test"):
        toy.load_data(n_test=-1)


def test_load_by_name():
    (x, y), (x_test, _), class_names = datasets.load("toy")
    assert x.shape == (6000, 28, 28) and y.shape == (6000,) and x_test.shape == (1000, 28, 28)
    assert class_names == toy.CLASS_NAMES
    (x, y), _, _ = datasets.load("toy_color")
    assert x.shape == (6000, 32, 32, 3) and y.shape == (6000, 1)


def test_unknown_name_offers_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean 'fashion_mnist'"):
        datasets.load("fashion-mnist")
