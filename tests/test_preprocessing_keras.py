"""The same numbers do the same to an image as in Keras: values recorded by fixtures/make_keras_images.py."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from minicnn.kernels.warp import affine_matrices
from minicnn.preprocessing.image import ImageDataGenerator
from minicnn.preprocessing.transforms import NOTHING

KERAS = np.load(Path(__file__).parent / "fixtures" / "keras_images.npz")
CASES = json.loads(str(KERAS["cases"]))
IMAGE = KERAS["image"]


@pytest.mark.parametrize("k", range(len(CASES["transforms"])))
def test_matrices(k):
    parameters = {name: value for name, value in CASES["transforms"][k].items() if name in NOTHING}
    ours = {name: value for name, value in parameters.items() if "flip" not in name}
    np.testing.assert_allclose(affine_matrices(IMAGE.shape[:2], **ours)[0], KERAS[f"matrix_{k}"], atol=1e-12)


@pytest.mark.parametrize("fill", CASES["fills"], ids=lambda fill: fill[0])
@pytest.mark.parametrize("k", range(len(CASES["transforms"])))
def test_images(k, fill):
    generator = ImageDataGenerator(fill_mode=fill[0], cval=fill[1])
    y = generator.apply_transform(IMAGE, CASES["transforms"][k])
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, KERAS[f"transform_{k}_{fill[0]}"], atol=2e-4)


@pytest.mark.parametrize("k", range(len(CASES["brightness"])))
def test_brightness_but_for_the_rounding(k):
    y = ImageDataGenerator().apply_transform(IMAGE, {"brightness": CASES["brightness"][k]})
    np.testing.assert_allclose(y, KERAS[f"brightness_{k}"], atol=1.001)


class Highest:
    """A random generator whose numbers are the largest that they can be; of the coin, the smallest."""

    def uniform(self, low, high, size):
        return np.full(size, high, float)

    def random(self, size):
        return np.zeros(size)

    def choice(self, values, size):
        return np.full(size, np.asarray(values)[-1])


@pytest.mark.parametrize(("arguments", "keras"), CASES["ranges"], ids=lambda value: "")
def test_ranges(arguments, keras):
    draw = ImageDataGenerator(**arguments).draw(4, (20, 10, 3), Highest())
    if next(iter(arguments)).endswith("_shift_range") and "channel" not in next(iter(arguments)):
        # Keras gives the shift along the height to tx, which moves images sideways. Ours go where their names say.
        keras["tx"], keras["ty"] = keras["ty"], keras["tx"]
    assert set(draw) == set(keras)
    for name, value in keras.items():
        if value is None:
            assert draw[name] is None
        else:
            np.testing.assert_allclose(draw[name], np.full(4, value), err_msg=name)


@pytest.mark.parametrize("k", range(len(CASES["normalisations"])))
def test_normalisation(k):
    generator = ImageDataGenerator(**CASES["normalisations"][k])
    generator.fit(KERAS["images"])
    keras = KERAS[f"normalised_{k}"]
    y = generator.standardize(KERAS["images"][: len(keras)])
    np.testing.assert_allclose(y, keras, atol=1e-3 * np.abs(keras).max(), rtol=1e-4)
    np.testing.assert_allclose(generator.standardize(KERAS["images"][0]), y[0], atol=1e-5 * np.abs(keras).max())
