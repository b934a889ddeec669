"""flow_from_dataframe: images that a table lists. A table here is a dict of lists, or looks like pandas' DataFrame."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import minicnn
from minicnn.errors import InputError
from minicnn.layers import Dense, Flatten, Input
from minicnn.preprocessing.image import ImageDataGenerator

NAMES = [f"{k}.png" for k in range(6)]
KINDS = ["cat", "dog", "cat", "bird", "dog", "cat"]


class Frame:
    """What of pandas.DataFrame is used."""

    def __init__(self, columns):
        self._columns = columns

    @property
    def columns(self):
        return list(self._columns)

    def __getitem__(self, name):
        return self._columns[name]


@pytest.fixture
def folder(tmp_path):
    for k, name in enumerate(NAMES):
        Image.fromarray(np.full((5, 4, 3), 10 * k, np.uint8)).save(tmp_path / name)
    return tmp_path


def table(**more):
    return {"filename": NAMES, "class": KINDS, "age": [0.5, 1, 2, 3, 4, 5], **more}


OPTIONS = {"target_size": (5, 4), "batch_size": 6, "shuffle": False}


def batch(source, folder, **options):
    return next(ImageDataGenerator().flow_from_dataframe(source, folder, **{**OPTIONS, **options}))


@pytest.mark.parametrize("kind", [dict, Frame])
def test_categorical(folder, kind):
    source = table() if kind is dict else Frame(table())
    flow = ImageDataGenerator(rescale=0.1).flow_from_dataframe(source, folder, **OPTIONS)
    x, y = next(flow)
    np.testing.assert_allclose(x[:, 0, 0, 0], range(6), atol=1e-5)
    assert flow.class_indices == {"bird": 0, "cat": 1, "dog": 2}
    np.testing.assert_array_equal(y.argmax(axis=1), [1, 2, 1, 0, 2, 1])
    assert (flow.samples, len(flow), flow.filenames) == (6, 1, NAMES)


def test_other_modes(folder):
    np.testing.assert_array_equal(batch(table(), folder, class_mode="sparse")[1], [1, 2, 1, 0, 2, 1])
    x, y = batch(table(), folder, class_mode="raw", y_col="age")
    np.testing.assert_allclose(y, [0.5, 1, 2, 3, 4, 5])
    two = batch(table(size=[1] * 6), folder, class_mode="raw", y_col=["age", "size"])[1]
    assert two.shape == (6, 2) and two.dtype == np.float32
    x, y = batch(table(), folder, class_mode="input")
    np.testing.assert_array_equal(x, y)
    assert batch(table(), folder, class_mode=None).shape == (6, 5, 4, 3)
    binary = batch(table(), folder, class_mode="binary", classes=["dog", "cat"])
    np.testing.assert_array_equal(binary[1], [1, 0, 1, 0, 1])  # birds are left out


def test_weights_and_training(folder):
    x, y, weights = batch(table(), folder, weight_col="age")
    np.testing.assert_allclose(weights, table()["age"])
    model = minicnn.Sequential([Input((5, 4, 3)), Flatten(), Dense(3, activation="softmax")])
    model.compile("sgd", "categorical_crossentropy")
    flow = ImageDataGenerator(rescale=1 / 255).flow_from_dataframe(table(), folder, weight_col="age", **OPTIONS)
    history = model.fit(flow, epochs=2, verbose=0)
    assert len(history.history["loss"]) == 2


def test_whole_paths_and_subsets(folder):
    whole = table(filename=[folder / name for name in NAMES])
    generator = ImageDataGenerator(validation_split=0.34)
    held_back = generator.flow_from_dataframe(whole, subset="validation", **OPTIONS)
    rest = generator.flow_from_dataframe(whole, subset="training", **OPTIONS)
    assert (held_back.samples, rest.samples) == (2, 4)
    assert set(held_back.filepaths) | set(rest.filepaths) == {str(folder / name) for name in NAMES}


def test_files_that_are_not_there_are_left_out(folder):
    (folder / "2.png").unlink()
    with pytest.warns(UserWarning, match="1 of 6 files .*2.png"):
        x, y = batch(table(), folder)
    assert len(x) == 5


@pytest.mark.parametrize(("more", "options", "part"), [
    ({}, {"x_col": "filenam"}, "did you mean 'filename'"), ({}, {"y_col": "klass"}, "did you mean 'class'"),
    ({"class": [0] * 6}, {}, "astype"), ({}, {"class_mode": "raw"}, "no numbers"),
    ({}, {"class_mode": "multi_output"}, "one output"), ({}, {"class_mode": "other"}, "class_mode"),
    ({}, {"class_mode": "binary"}, "two classes"), ({"age": [float("nan")] * 6}, {"weight_col": "age"}, "finite"),
    ({"filename": []}, {}, "no names"), ({}, {"classes": ["fish"]}, "would be empty"),
    ({"class": ["cat"]}, {}, "different lengths"),
    ({}, {"color_mode": "red"}, "color_mode"), ({}, {"validate_filenames": "a"}, "validate_filenames"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(folder, more, options, part):
    with pytest.raises(InputError, match=part):
        batch(table(**more), folder, **options)
