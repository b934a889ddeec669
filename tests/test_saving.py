"""Models on disk: the same bits after loading, training that goes on, whole files or none, and errors that help."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile

import numpy as np
import pytest
from helpers import random
from PIL import Image

from minicnn import activations, layers, losses, optimizers, schedules, utils
from minicnn.backend import to_host
from minicnn.errors import BrokenFileError, InputError, UnknownNameError
from minicnn.files import atomic_write
from minicnn.layers import BatchNormalization, Conv2D, Dense, Dropout, Flatten, Input, Layer, LeakyReLU, MaxPooling2D
from minicnn.models import Sequential, load_model
from minicnn.preprocessing.image import ImageInput


@pytest.fixture(autouse=True)
def seeded():
    utils.set_random_seed(0)


def network(optimizer="adam") -> Sequential:
    model = Sequential(
        [
            Input((8, 8, 2)),
            Conv2D(4, (3, 3), strides=(1, 2), padding="same", kernel_regularizer="l2", activation="relu"),
            MaxPooling2D(),
            BatchNormalization(),
            LeakyReLU(0.1),
            Flatten(),
            Dropout(0.3),
            Dense(6, kernel_constraint="max_norm", kernel_initializer="he_normal"),
            Dense(3, activation="softmax"),
        ],
        name="net",
    )
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def batch(n: int = 20) -> tuple[np.ndarray, np.ndarray]:
    return random((n, 8, 8, 2), seed=5, dtype=np.float32), np.arange(n) % 3


def assert_same_weights(a: Sequential, b: Sequential) -> None:
    assert len(a.get_weights()) == len(b.get_weights()) > 0
    for p, q in zip(a.get_weights(), b.get_weights(), strict=True):
        np.testing.assert_array_equal(p, q)


# ---- what comes back -------------------------------------------------------------------------------------------------


def test_a_loaded_model_predicts_the_same_bits(tmp_path):
    model = network()
    x, y = batch()
    model.fit(x, y, verbose=0)
    model.class_names = ("cat", "dog", "panda")
    model.save(tmp_path / "net.minicnn")
    loaded = load_model(tmp_path / "net.minicnn")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))
    assert loaded.evaluate(x, y, verbose=0) == model.evaluate(x, y, verbose=0)
    assert loaded.class_names == ["cat", "dog", "panda"] and loaded.name == "net"
    assert [layer.name for layer in loaded.layers] == [layer.name for layer in model.layers]
    assert loaded.get_config() == model.get_config()


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: "adam",
        lambda: optimizers.SGD(0.1, momentum=0.9, nesterov=True),
        lambda: optimizers.SGD(0.1, decay=0.1),
        lambda: optimizers.RMSprop(0.01, centered=True, momentum=0.5),
        lambda: optimizers.AdamW(schedules.ExponentialDecay(0.01, 2, 0.5), clipnorm=1.0),
    ],
    ids=["adam", "nesterov", "decay", "rmsprop", "adamw with a schedule"],
)
def test_training_goes_on_where_it_stopped_bit_for_bit(tmp_path, optimizer):
    x, y = batch()

    def fresh() -> Sequential:
        utils.set_random_seed(3)
        return network(optimizer())

    at_once = fresh()
    whole = at_once.fit(x, y, batch_size=8, epochs=4, verbose=0).history["loss"]
    model = fresh()
    losses_seen = model.fit(x, y, batch_size=8, epochs=2, verbose=0).history["loss"]
    model.save(tmp_path / "half.minicnn")
    utils.set_random_seed(99)
    loaded = load_model(tmp_path / "half.minicnn")
    assert loaded.optimizer.iterations == model.optimizer.iterations == 6
    losses_seen += loaded.fit(x, y, batch_size=8, epochs=4, initial_epoch=2, verbose=0).history["loss"]
    assert losses_seen == whole
    assert_same_weights(loaded, at_once)


def test_saving_changes_nothing(tmp_path):
    a, b = (utils.set_random_seed(1), network())[1], (utils.set_random_seed(1), network())[1]
    x, y = batch()
    for model in (a, b):
        model.fit(x, y, verbose=0)
    a.save(tmp_path / "a.minicnn")
    for model in (a, b):
        model.fit(x, y, verbose=0)
    assert_same_weights(a, b)


def test_a_rate_that_was_changed_is_kept(tmp_path):
    model = network()
    model.optimizer.learning_rate = 0.123
    model.save(tmp_path / "m")
    assert load_model(tmp_path / "m").optimizer.learning_rate == 0.123


def test_nested_models_and_frozen_layers_come_back(tmp_path):
    inner = Sequential([Dense(4, activation="relu"), BatchNormalization(), Dense(4)], name="inner")
    model = Sequential([Input((8, 8, 2)), Flatten(), inner, Dense(3, activation="softmax")])
    model.compile("adam", "sparse_categorical_crossentropy")
    inner.layers[0].trainable = False
    x, y = batch()
    model.fit(x, y, verbose=0)
    model.save(tmp_path / "m")
    loaded = load_model(tmp_path / "m")
    assert [layer.trainable for layer in loaded.flat_layers] == [True, False, True, True, True]
    assert list(loaded.layers_by_key) == list(model.layers_by_key)
    for m in (model, loaded):
        m.fit(x, y, verbose=0)
    assert_same_weights(model, loaded)


def test_a_model_that_was_not_compiled(tmp_path):
    model = Sequential([Input((4,)), Dense(2)])
    model.save(tmp_path / "m")
    loaded = load_model(tmp_path / "m")
    assert loaded.optimizer is None
    assert_same_weights(model, loaded)


class Scaled(Layer):
    """y = x * factor * s, s being learned."""

    def __init__(self, factor, **layer):
        super().__init__(**layer)
        self.factor = factor

    def build(self, input_shape, rng):
        self.params = {"s": np.full(input_shape, 0.5, np.float32)}

    def forward(self, x, ctx):
        ctx.x = x
        return x * self.params["s"] * self.factor

    def backward(self, dy, ctx):
        ctx.grads = {"s": (dy * ctx.x * self.factor).sum(axis=0)}
        return dy * self.params["s"] * self.factor


class HalfSquared(losses.MeanSquaredError):
    """A loss of the user's own."""

    def per_sample(self, y_true, y_pred, ctx=None):
        return super().per_sample(y_true, y_pred) / 2

    def gradient(self, y_true, y_pred, ctx=None, batch_size=None):
        return super().gradient(y_true, y_pred, ctx, batch_size) / 2


def test_classes_of_the_users_own(tmp_path):
    model = Sequential([Input((4,)), Scaled(2.0), Dense(2)])
    model.compile("sgd", HalfSquared())
    x, y = random((6, 4)), random((6, 2))
    model.fit(x, y, verbose=0)
    model.save(tmp_path / "m")
    with pytest.raises(UnknownNameError, match="custom_objects") as caught:
        load_model(tmp_path / "m")
    assert "'Scaled'" in caught.value.received
    with pytest.raises(UnknownNameError, match="HalfSquared"):
        load_model(tmp_path / "m", custom_objects={"Scaled": Scaled})
    loaded = load_model(tmp_path / "m", custom_objects={"Scaled": Scaled, "HalfSquared": HalfSquared})
    assert loaded.layers[0].factor == 2.0
    for m in (model, loaded):
        m.fit(x, y, verbose=0)
    assert_same_weights(model, loaded)


def test_an_unknown_class_gets_a_suggestion(tmp_path):
    model = Sequential([Input((4,)), Dense(2)])
    config = model.get_config()
    config["layers"][0]["class_name"] = "Dens"
    with pytest.raises(UnknownNameError, match="did you mean 'Dense'"):
        Sequential.from_config(config)


# ---- the file --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_files_of_before_adam_held_sums(tmp_path, optimizer):
    """They hold its means m and v; training goes on from them as if nothing had been, to rounding."""
    optimizer = optimizers.Adam(0.01, amsgrad=True) if optimizer == "adam" else optimizers.SGD(0.01, momentum=0.9)
    model = network()
    model.compile(optimizer, "sparse_categorical_crossentropy")
    model.fit(*batch(), verbose=0, shuffle=False)
    model.save(tmp_path / "new")
    with zipfile.ZipFile(tmp_path / "new") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with np.load(tmp_path / "new") as file, zipfile.ZipFile(tmp_path / "old", "w") as archive:
        for name, part in parts.items():
            *key, slot = name.removesuffix(".npy").split("/")
            if slot.endswith("_sum"):
                mean, beta = optimizer.sums[slot]
                buffer = io.BytesIO()
                np.save(buffer, file["/".join([*key, slot])] * (1 - getattr(optimizer, beta)))
                name, part = "/".join([*key, mean]) + ".npy", buffer.getvalue()
            archive.writestr(name, part)
    old, new = load_model(tmp_path / "old"), load_model(tmp_path / "new")
    for loaded in (old, new):
        loaded.fit(*batch(), verbose=0, shuffle=False)
    for one, other in zip(old.get_weights(), new.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


def test_numpy_alone_can_read_the_file(tmp_path):
    model = network()
    model.fit(*batch(), verbose=0)
    model.save(tmp_path / "m.minicnn")
    with np.load(tmp_path / "m.minicnn", allow_pickle=False) as file:
        np.testing.assert_array_equal(file["params/dense_1/w"], to_host(model.get_layer("dense_1").params["w"]))
        np.testing.assert_array_equal(
            file["state/batch_normalization_1/moving_mean"], to_host(model.layers[2].state["moving_mean"])
        )
        assert file["optimizer/dense_1/w/m_sum"].shape == file["params/dense_1/w"].shape
    with zipfile.ZipFile(tmp_path / "m.minicnn") as archive:
        assert archive.testzip() is None
        assert (
            json.loads(archive.read("config.json"))["compile"]["loss"]["class_name"] == "SparseCategoricalCrossentropy"
        )


def test_equal_models_give_equal_files(tmp_path):
    model = network()
    for name in "ab":
        model.save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_failing_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "m.minicnn"
    network().save(path)
    old = path.read_bytes()
    write_array, calls = np.lib.format.write_array, []

    def disk_full(*arguments, **options):
        calls.append(1)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        write_array(*arguments, **options)

    monkeypatch.setattr(np.lib.format, "write_array", disk_full)
    with pytest.raises(OSError, match="No space left"):
        network().save(path)
    assert path.read_bytes() == old and os.listdir(tmp_path) == ["m.minicnn"]


def test_an_interrupt_while_writing_leaves_nothing(tmp_path):
    def interrupted():
        with atomic_write(tmp_path / "m") as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
def test_a_file_is_as_readable_as_any_other(tmp_path):
    network().save(tmp_path / "m")
    (tmp_path / "ordinary").touch()
    assert (tmp_path / "m").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_overwrite(tmp_path):
    model = Sequential([Input((4,)), Dense(2)])
    path = tmp_path / "m"
    model.save(path)
    old = path.read_bytes()
    for save in (model.save, model.save_weights):
        with pytest.raises(FileExistsError, match="overwrite=True"):
            save(path, overwrite=False)
    assert path.read_bytes() == old
    model.set_weights([w + 1 for w in model.get_weights()])
    model.save(path)
    assert_same_weights(load_model(path), model)


# ---- weights only ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("save", ["save", "save_weights"])
def test_weights_go_into_a_model_of_the_same_architecture(tmp_path, save):
    a, b = network(), network()
    getattr(a, save)(tmp_path / "w")
    b.load_weights(tmp_path / "w")
    assert_same_weights(a, b)


def test_weights_alone_are_no_model(tmp_path):
    network().save_weights(tmp_path / "w")
    with pytest.raises(BrokenFileError, match="no model") as caught:
        load_model(tmp_path / "w")
    assert "load_weights" in caught.value.fix


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Sequential([Input((4,)), Dense(3), Dense(3)]), "params/dense_1/w"),
        (lambda: Sequential([Input((4,)), Dense(5)]), "params/dense_2/w"),
        (lambda: Sequential([Input((4,)), Dense(5), Dense(2), Dense(2)]), "params/dense_3/w"),
        (lambda: Sequential([Input((4,)), Dense(5), Dense(2, use_bias=False)]), "params/dense_2/b"),
    ],
    ids=["another shape", "fewer layers", "more layers", "no bias"],
)
def test_weights_of_another_architecture_change_nothing(tmp_path, make, named):
    Sequential([Input((4,)), Dense(5), Dense(2)]).save_weights(tmp_path / "w")
    model = make()
    before = model.get_weights()
    with pytest.raises(BrokenFileError, match=named):
        model.load_weights(tmp_path / "w")
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_model_without_shape_takes_and_gives_no_weights(tmp_path):
    model = Sequential([Dense(3)])
    for use in (model.save, model.save_weights, model.load_weights):
        with pytest.raises(InputError, match="has not been built"):
            use(tmp_path / "m")
    assert os.listdir(tmp_path) == []


# ---- files that are not what they should be --------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_file(tmp_path, share):
    path = tmp_path / "m"
    network().save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(BrokenFileError, match="not a whole model file|no model file") as caught:
        load_model(path)
    assert caught.value.where == str(path)


def test_a_flipped_bit(tmp_path):
    path = tmp_path / "m"
    network().save(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(BrokenFileError):
        load_model(path)


def zipped(path, **members) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in members.items():
            archive.writestr(name.replace("_json", ".json"), text)


def npz(path) -> None:
    with path.open("wb") as file:
        np.savez(file, a=np.ones(2))


@pytest.mark.parametrize(
    ("write", "problem"),
    [
        (lambda path: path.write_text("Dear diary,\n" * 100), "not a whole model file"),
        (lambda path: zipped(path, other_json="{}"), "not a whole model file"),
        (lambda path: zipped(path, config_json="{not json"), "not a whole model file"),
        (lambda path: zipped(path, config_json="[1, 2]"), "another format"),
        (lambda path: zipped(path, config_json='{"module": "keras"}'), "another format"),
        (lambda path: zipped(path, config_json='{"format": 1, "model": {}}'), "not that of a model"),
        (npz, "not a whole model file"),
    ],
    ids=["text", "zip without config", "broken JSON", "a list", "of Keras", "no layers", "npz"],
)
def test_files_of_another_kind(tmp_path, write, problem):
    write(tmp_path / "m")
    with pytest.raises(BrokenFileError, match=problem):
        load_model(tmp_path / "m")


def test_an_array_that_hides_a_pickle_is_not_opened(tmp_path):
    path = tmp_path / "m"
    Sequential([Input((4,)), Dense(2)]).save(path)
    with zipfile.ZipFile(path, "a") as archive, archive.open("params/dense_1/evil.npy", "w") as member:
        np.lib.format.write_array(member, np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(BrokenFileError, match="holds no plain numbers.*|O"):
        load_model(path)


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist") as missing:
        load_model(tmp_path / "nowhere")
    error = missing.value
    assert isinstance(error, InputError) and error.filename == error.where == str(tmp_path / "nowhere")
    assert str(pickle.loads(pickle.dumps(error))) == str(error) and os.getcwd() in error.fix
    with pytest.raises(InputError, match="folder does not exist") as caught:
        network().save(tmp_path / "no" / "such" / "m")
    assert "mkdir" in caught.value.fix
    assert os.listdir(tmp_path) == []


# ---- what cannot be written ------------------------------------------------------------------------------------------


class Forgetful(layers.Flatten):
    def __init__(self, secret, **layer):
        super().__init__(**layer)


def swish(x):
    return x / (1 + np.exp(-x))


@pytest.mark.parametrize(
    ("layer", "problem"),
    [
        (lambda: Forgetful(3), "configuration cannot be read"),
        (lambda: Dense(2, activation=activations.Function("swish", swish, swish)), "could not be loaded again"),
        (lambda: Dense(2, activation=activations.Function("relu", swish, swish)), "could not be loaded again"),
        (lambda: Dense(2, kernel_constraint=lambda w: w), "configuration cannot be written"),
    ],
    ids=["argument not stored", "own activation", "own activation with a known name", "a function"],
)
def test_a_layer_that_could_not_be_loaded_is_refused(tmp_path, layer, problem):
    model = Sequential([Input((4,)), layer()])
    with pytest.raises(InputError, match=problem):
        model.save(tmp_path / "m")
    assert os.listdir(tmp_path) == []
    model.save_weights(tmp_path / "w")


# ---- how images are prepared -----------------------------------------------------------------------------------------


def small_classifier(**image_input):
    model = Sequential([Input((4, 6, 1)), Flatten(), Dense(2, activation="softmax")])
    model.image_input = ImageInput(**{"height": 4, "width": 6, "color_mode": "grayscale", **image_input})
    return model


@pytest.mark.parametrize(
    ("name", "content", "is_what", "fix"),
    [
        ("m.h5", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 123\n", "git-LFS", "git lfs pull"),
        ("m.h5", b"<!DOCTYPE html><html><body>Sign in</body></html>", "HTML page", "browser"),
        ("m.zip", b"", "an empty file", "fetch or save it again"),
        ("m.pt", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "a pickle", "only if you trust it"),
        ("m.pt", b"PK\3\4" + bytes(26) + b"archive/data.pkl" + bytes(90), "a PyTorch file", "in PyTorch"),
        ("m.tflite", b"\x1c\0\0\0TFL3" + bytes(50), "TensorFlow Lite", "the Keras model"),
        ("m.onnx", b"\x08\x08\x12\x07pytorch\x1a\x052.1.0", "an ONNX model", "made from"),
        ("m.npy", b"\x93NUMPY\x01\0v\0", "a NumPy array", "np.load"),
        ("m.json", b'{"class_name": "Sequential"}', "JSON text", ""),
    ],
)
def test_files_that_are_no_models_are_called_by_name(tmp_path, name, content, is_what, fix):
    path = tmp_path / name
    path.write_bytes(content)
    for load in (load_model, Sequential([layers.Input((4,)), layers.Dense(1)]).load_weights):
        with pytest.raises(BrokenFileError) as caught:
            load(path)
        assert is_what in caught.value.received and fix in caught.value.fix


def test_a_folder_is_no_model(tmp_path):
    (tmp_path / "saved_model.pb").write_bytes(b"")
    with pytest.raises(BrokenFileError, match="a TensorFlow SavedModel folder") as caught:
        load_model(tmp_path)
    assert "model.save('model.keras')" in caught.value.fix


@pytest.mark.parametrize("protocol", [2, 5])
def test_a_model_can_be_pickled(protocol):
    """For processes that are spawned, and for joblib. It trains on as the model itself would."""
    x, y = np.random.default_rng(0).random((12, 4)), np.arange(12) % 3
    model = Sequential([layers.Input((4,)), layers.Dense(5, activation="relu"), layers.Dropout(0.5),
                        layers.BatchNormalization(), layers.Dense(3, activation="softmax")])  # fmt: skip
    model.compile(optimizers.Adam(0.1), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.class_names = ["a", "b", "c"]
    model.fit(x, y, verbose=0)
    again = pickle.loads(pickle.dumps(model, protocol))
    assert again.class_names == model.class_names and again.layers[0].activation is activations.relu
    for trained in (model, again):
        trained.fit(x, y, epochs=2, verbose=0)
    for one, other in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    own = activations.Function("own", np.tanh, np.multiply)
    assert pickle.loads(pickle.dumps(own)) == own


def test_a_model_remembers_how_its_images_are_prepared(tmp_path):
    model = small_classifier(rescale=0.5, interpolation="nearest")
    model.save(tmp_path / "m.zip")
    again = load_model(tmp_path / "m.zip")
    assert again.image_input == model.image_input
    pixels = np.arange(24, dtype=np.uint8).reshape(4, 6)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    x = again.image_input.load(tmp_path / "image.png")
    assert (x.shape, x.dtype) == ((4, 6, 1), np.float32)
    np.testing.assert_array_equal(x[..., 0], pixels / 2)
    assert load_model_of(Sequential([Input((3,)), Dense(1)]), tmp_path).image_input is None


def load_model_of(model, tmp_path):
    model.save(tmp_path / "other.zip")
    return load_model(tmp_path / "other.zip")


@pytest.mark.parametrize(
    ("image_input", "part"),
    [
        ({"height": 0}, "image_size"),
        ({"width": 5}, "does not fit the model"),
        ({"color_mode": "rgb"}, "does not fit the model"),
        ({"color_mode": "gray"}, "grayscale"),
        ({"rescale": 0}, "rescale"),
        ({"rescale": float("nan")}, "rescale"),
        ({"rescale": "1/255"}, "rescale"),
        ({"interpolation": "linear"}, "bilinear"),
    ],
)
def test_an_image_input_that_cannot_be(tmp_path, image_input, part):
    with pytest.raises(InputError, match=part):
        small_classifier(**image_input).save(tmp_path / "m.zip")
    small_classifier().save(tmp_path / "m.zip")
    with zipfile.ZipFile(tmp_path / "m.zip") as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(content["config.json"])
    config["image_input"].update(image_input)
    content["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    with pytest.raises(InputError, match="bad.zip"):
        load_model(tmp_path / "bad.zip")


def test_an_image_input_must_be_one(tmp_path):
    model = small_classifier()
    model.image_input = (4, 6)
    with pytest.raises(InputError, match="image_input"):
        model.save(tmp_path / "m.zip")
