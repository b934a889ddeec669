"""The trace: it records a real step, all of it, changes nothing, and survives saving bit for bit."""

from __future__ import annotations

import copy
import pickle
import re
from dataclasses import fields

import numpy as np
import pytest

from minicnn import kernels, random
from minicnn.errors import BrokenFileError, InputError, UnknownNameError
from minicnn.inspect.trace import LayerTrace, Trace
from minicnn.layers import (
    ELU,
    Activation,
    AveragePooling1D,
    AveragePooling2D,
    BatchNormalization,
    CenterCrop,
    Conv1D,
    Conv2D,
    Conv2DTranspose,
    Cropping2D,
    Dense,
    DepthwiseConv2D,
    Dropout,
    Flatten,
    GaussianNoise,
    GlobalAveragePooling1D,
    GlobalAveragePooling2D,
    GlobalMaxPooling1D,
    GlobalMaxPooling2D,
    GroupNormalization,
    Input,
    Layer,
    LayerNormalization,
    LeakyReLU,
    MaxPooling1D,
    MaxPooling2D,
    Normalization,
    Permute,
    PReLU,
    RandomFlip,
    RandomRotation,
    RandomTranslation,
    RandomZoom,
    ReLU,
    Rescaling,
    Reshape,
    Resizing,
    SeparableConv2D,
    Softmax,
    SpatialDropout2D,
    UpSampling2D,
    ZeroPadding2D,
)
from minicnn.models import Sequential

N, SHAPE, K = 5, (8, 7, 2), 4
LAYERS = {
    "Conv2D": lambda: Conv2D(3, 3, activation="relu"),
    "Conv1D": lambda: Conv1D(3, 3, activation="relu"),
    "MaxPooling1D": lambda: MaxPooling1D(2),
    "AveragePooling1D": lambda: AveragePooling1D(2),
    "GlobalAveragePooling1D": lambda: GlobalAveragePooling1D(),
    "GlobalMaxPooling1D": lambda: GlobalMaxPooling1D(),
    "CenterCrop": lambda: CenterCrop(3, 4),
    "Normalization": lambda: Normalization(),
    "RandomFlip": lambda: RandomFlip(),
    "RandomRotation": lambda: RandomRotation(0.1),
    "RandomTranslation": lambda: RandomTranslation(0.2, 0.3),
    "RandomZoom": lambda: RandomZoom(0.3),
    "Resizing": lambda: Resizing(5, 4),
    "GaussianNoise": lambda: GaussianNoise(0.4),
    "Conv2DTranspose": lambda: Conv2DTranspose(3, 3, strides=2, activation="relu"),
    "DepthwiseConv2D": lambda: DepthwiseConv2D(3, activation="relu"),
    "SeparableConv2D": lambda: SeparableConv2D(3, 3),
    "Dense": lambda: Dense(3, activation="gelu"),
    "MaxPooling2D": lambda: MaxPooling2D(2),
    "AveragePooling2D": lambda: AveragePooling2D(2),
    "GlobalAveragePooling2D": lambda: GlobalAveragePooling2D(),
    "Flatten": lambda: Flatten(),
    "Activation": lambda: Activation("tanh"),
    "ReLU": lambda: ReLU(max_value=0.5),
    "LeakyReLU": lambda: LeakyReLU(),
    "ELU": lambda: ELU(),
    "PReLU": lambda: PReLU("ones"),
    "Softmax": lambda: Softmax(),
    "BatchNormalization": lambda: BatchNormalization(),
    "Dropout": lambda: Dropout(0.4),
    "Rescaling": lambda: Rescaling(2.0, 1.0),
    "ZeroPadding2D": lambda: ZeroPadding2D(1),
    "Cropping2D": lambda: Cropping2D(1),
    "GlobalMaxPooling2D": lambda: GlobalMaxPooling2D(),
    "GroupNormalization": lambda: GroupNormalization(2),
    "LayerNormalization": lambda: LayerNormalization(),
    "Permute": lambda: Permute((2, 1, 3)),
    "Reshape": lambda: Reshape((4, -1)),
    "SpatialDropout2D": lambda: SpatialDropout2D(0.4),
    "UpSampling2D": lambda: UpSampling2D(2),
}
MERGING = {"Add", "Average", "Concatenate", "Maximum", "Multiply", "Subtract"}  # in test_branches.py


@pytest.fixture(autouse=True)
def _same_weights_in_every_run():
    random.seed(0)


def data(dtype=np.float32):
    x = np.random.default_rng(1).normal(size=(N, *SHAPE)).astype(dtype)
    return x, np.arange(N) % K


def compiled(layers=None, optimizer="adam", loss="sparse_categorical_crossentropy", seed=0):
    model = Sequential([Input(SHAPE), *(rich() if layers is None else [*layers, *end()])], name="model")
    model.compile(optimizer, loss)
    model.rng = np.random.default_rng(seed)
    return model


def rich():
    return [
        Conv2D(3, 3, activation="relu", kernel_regularizer="l2"), BatchNormalization(),
        Sequential([MaxPooling2D(), Sequential([Dropout(0.3), Conv2D(2, 2)], name="inner")], name="outer"),
        *end(),
    ]  # fmt: skip


def end():
    return [Flatten(), Dense(K, activation="softmax")]


def everything(model) -> bytes:
    """All that a step could change, as bytes."""
    optimizer = model.optimizer
    return pickle.dumps(
        [
            [(a.tobytes(), a.dtype.str, a.shape) for layer in model.flat_layers
             for a in (*layer.params.values(), *layer.state.values())],
            [(key, [a.tobytes() for a in slots]) for key, slots in optimizer.state.items()],
            optimizer.iterations, optimizer.learning_rate, optimizer.get_config(),
            model.rng.bit_generator.state, model.get_config(), model.built, model.class_names, model.stop_training,
            [sorted(vars(layer)) for layer in model.flat_layers],
        ]
    )  # fmt: skip


# ---- it changes nothing ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("with_y", [True, False])
def test_tracing_changes_nothing(training, with_y):
    model, (x, y) = compiled(), data()
    model.fit(x, y, verbose=0)
    x_before, y_before, global_before = x.tobytes(), y.tobytes(), pickle.dumps(np.random.get_state())
    before, history = everything(model), model.history
    t = model.trace(x, y if with_y else None, training=training)
    assert everything(model) == before
    assert model.history is history
    assert (x.tobytes(), y.tobytes(), pickle.dumps(np.random.get_state())) == (x_before, y_before, global_before)
    for layer in t.layers:
        for owned in arrays_of(layer).values():
            assert not any(np.shares_memory(owned, a) for flat in model.flat_layers
                           for a in (*flat.params.values(), *flat.state.values()))  # fmt: skip
            assert not np.shares_memory(owned, x)


class Breaks(Layer):
    """Fails in the forward or backward pass, after having written to what it can reach."""

    def __init__(self, where, **layer):
        super().__init__(**layer)
        self.where = where

    def build(self, input_shape, rng):
        self.params = {"w": np.ones(1, np.float32)}

    def forward(self, x, ctx):
        self.params["w"] += 1
        if self.where == "forward":
            raise RuntimeError("forward")
        return x

    def backward(self, dy, ctx):
        self.params["w"] += 1
        raise RuntimeError("backward")


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_nothing_has_changed_after_an_exception(where):
    model, (x, y) = compiled([Dropout(0.5), Breaks(where)]), data()
    before = everything(model)
    with pytest.raises(RuntimeError, match=where):
        model.trace(x, y)
    assert everything(model) == before


def test_a_model_without_an_input_shape_stays_unbuilt():
    model, (x, y) = Sequential([Flatten(), Dense(K, activation="softmax")]), data()
    model.compile("sgd", "sparse_categorical_crossentropy")
    state = copy.deepcopy(model.rng.bit_generator.state)
    t = model.trace(x, y)
    assert not model.built and model.rng.bit_generator.state == state
    model.fit(x, y, verbose=0, shuffle=False)
    np.testing.assert_array_equal(t["dense_1"].updated["w"], model.layers[1].params["w"])


# ---- it is a real step ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "rmsprop"])
def test_the_traced_step_is_that_of_fit(optimizer, dtype):
    model, (x, y) = compiled(optimizer=optimizer), data(dtype)
    for layer in model.flat_layers:
        for group in (layer.params, layer.state):
            group.update({name: a.astype(dtype) for name, a in group.items()})
    model.fit(x, y, verbose=0)
    before = {key: layer.get_weights() for key, layer in model.layers_by_key.items()}
    iterations = model.optimizer.iterations
    t = model.trace(x, y)
    loss = model.fit(x, y, batch_size=N, shuffle=False, verbose=0).history["loss"][0]
    assert t.loss == pytest.approx(loss, rel=1e-12)
    assert (t.optimizer["iterations"], t.optimizer["class_name"].lower()) == (iterations, optimizer)
    for key, layer in model.layers_by_key.items():
        record = t[key]
        first = list((record.params | record.state).values())
        after = list((record.updated | record.state_after).values())
        assert len(first) == len(after) == len(before[key])
        for recorded, expected in zip([*first, *after], [*before[key], *layer.get_weights()], strict=True):
            assert recorded.dtype == dtype
            np.testing.assert_array_equal(recorded, expected)
        for name in record.params:
            slots = model.optimizer.state[key, name]
            assert list(record.slots) == list(record.slots_after)
            for slot, expected in model.optimizer.means_of((key, name), slots).items():
                np.testing.assert_array_equal(record.slots_after[f"{name}/{slot}"], expected)
                assert record.slots[f"{name}/{slot}"].shape == expected.shape


def test_loss_after_is_the_same_batch_with_the_same_masks():
    model, (x, y) = compiled([Dropout(0.5)], "sgd"), data()
    t = model.trace(x, y)
    mask = t["dropout_1"].kept["mask"]
    after = t["dense_1"].updated
    logits = kernels.dense_forward(kernels.dropout_forward(x, mask, 0.5).reshape(N, -1), after["w"], after["b"])
    assert t.loss_after == pytest.approx(kernels.softmax_cross_entropy_forward(logits, y).mean(), rel=1e-6)
    assert t.loss_after < t.loss


def test_the_penalty_is_part_of_both_losses():
    model, (x, y) = compiled([Conv2D(2, 3, kernel_regularizer="l2")], "sgd"), data()
    t = model.trace(x, y)
    w, after = t["conv2d_1"].params["w"], t["conv2d_1"].updated["w"]
    assert t.penalty == pytest.approx(0.01 * (w.astype(float) ** 2).sum())
    assert t.loss == pytest.approx(t.losses.mean() + t.penalty)
    np.testing.assert_array_equal(t["conv2d_1"].applied["w"], t["conv2d_1"].grads["w"] + 2 * np.float32(0.01) * w)
    model.fit(x, y, batch_size=N, shuffle=False, verbose=0)
    assert t.loss_after == pytest.approx(model.evaluate(x, y, verbose=0), rel=1e-6)
    np.testing.assert_array_equal(after, model.layers[0].params["w"])


def test_evaluation_mode():
    model, (x, y) = compiled(), data()
    t = model.trace(x, y, training=False)
    np.testing.assert_array_equal(t.y_pred, model.predict(x))
    assert t.loss == pytest.approx(model.evaluate(x, y, verbose=0), rel=1e-6)
    assert "mask" not in t["outer/inner/dropout_1"].kept
    norm = t["batch_normalization_1"]
    assert not norm.kept["of_batch"]
    np.testing.assert_array_equal(norm.kept["mean"], norm.state["moving_mean"])
    np.testing.assert_array_equal(norm.state_after["moving_mean"], norm.state["moving_mean"])
    assert norm.grads["gamma"].any()


# ---- it is complete -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", LAYERS)
def test_every_layer_kind(kind, training):
    images = not kind.startswith("Global") and kind != "Flatten"
    layers = [LAYERS[kind](), *([Flatten()] if images else []), Dense(K, activation="softmax")]
    x, y = data()
    x = x.reshape(N, -1, SHAPE[-1]) if kind.endswith("1D") else x
    model = Sequential([Input(x.shape[1:]), *layers])
    model.compile("adam", "sparse_categorical_crossentropy")
    t = model.trace(x, y, training=training)
    assert [layer.key for layer in t.layers] == list(model.layers_by_key)
    record = t.layers[0]
    assert record.kind == kind and record.config == model.layers[0].get_config()
    np.testing.assert_array_equal(record.x, x)
    for before, after in zip(t.layers, t.layers[1:], strict=False):
        np.testing.assert_array_equal(before.y, after.x)
        np.testing.assert_array_equal(before.dy, after.dx)
    for layer in t.layers:
        assert layer.dy.shape == layer.y.shape and layer.dx.shape == layer.x.shape
        assert {k: v.shape for k, v in layer.grads.items()} == {k: v.shape for k, v in layer.params.items()}
        assert list(layer.updated) == list(layer.params) == list(layer.applied)
        assert sorted(layer.slots_after) == sorted(f"{p}/{slot}" for p in layer.params for slot in ("m", "v"))
        assert {a.dtype for a in (layer.x, layer.y, layer.dy, layer.dx)} == {np.dtype(np.float32)}
    assert record.dx.any()
    assert set(record.kept) == {
        **dict.fromkeys(("Conv1D", "Conv2D", "Conv2DTranspose", "DepthwiseConv2D"), {"z", "dz", "mask"}),
        "Dense": {"z", "dz"}, "MaxPooling1D": {"winner"}, "GaussianNoise": {"noise"} if training else set(),
        "RandomFlip": {"flipped"} if training else set(),
        **dict.fromkeys(
            ("RandomRotation", "RandomTranslation", "RandomZoom"), {"matrices"} if training else set()
        ),
        "SeparableConv2D": {"h", "dh", "z", "dz"}, "MaxPooling2D": {"winner"},
        "Activation": {"z", "dz"}, "ReLU": {"z", "dz", "mask"}, "LeakyReLU": {"z", "dz"}, "ELU": {"z", "dz"},
        "Softmax": {"z", "dz", "max", "exp", "sum"}, "BatchNormalization": {"mean", "var", "x_hat", "of_batch"},
        **dict.fromkeys(("Dropout", "SpatialDropout2D"), {"mask"} if training else set()),
    }.get(kind, set())  # fmt: skip


def test_the_kinds_are_all_there_are():
    from minicnn import layers

    assert set(LAYERS) == set(layers.__all__) - {"Context", "Layer", "Input", "InputLayer"} - MERGING


def test_what_is_kept_is_what_the_kernels_compute():
    model, (x, y) = compiled(), data()
    t = model.trace(x, y)
    conv, norm = t["conv2d_1"], t["batch_normalization_1"]
    np.testing.assert_array_equal(conv.kept["z"], kernels.conv2d_forward(x, conv.params["w"], conv.params["b"]))
    np.testing.assert_array_equal(conv.kept["mask"], conv.kept["z"] > 0)
    np.testing.assert_array_equal(conv.kept["dz"], conv.dy * conv.kept["mask"])
    mean, var, _ = kernels.batchnorm_moments(norm.x)
    np.testing.assert_array_equal(norm.kept["mean"], mean)
    np.testing.assert_array_equal(norm.kept["var"], var)
    np.testing.assert_allclose(norm.kept["x_hat"] * norm.params["gamma"] + norm.params["beta"], norm.y, atol=1e-5)
    running = 0.99 * norm.state["moving_mean"] + 0.01 * mean
    np.testing.assert_allclose(norm.state_after["moving_mean"], running, rtol=1e-6)
    pool, dropout, last = t["outer/max_pooling2d_1"], t["outer/inner/dropout_1"], t["dense_1"]
    np.testing.assert_array_equal(pool.kept["winner"], kernels.maxpool2d_forward(pool.x, 2)[1])
    assert dropout.kept["mask"].dtype == bool
    np.testing.assert_array_equal(dropout.y, kernels.dropout_forward(dropout.x, dropout.kept["mask"], 0.3))
    kept = last.kept
    np.testing.assert_array_equal(kept["exp"] / kept["sum"], last.y)
    np.testing.assert_array_equal(kept["max"][:, 0], kept["z"].max(axis=1))
    target = np.eye(K, dtype=np.float32)[y]
    np.testing.assert_array_equal(last.dy, (last.y - target) / N)
    np.testing.assert_array_equal(last.kept["dz"], last.dy)
    assert t.fused
    np.testing.assert_array_equal(t.losses, kernels.softmax_cross_entropy_forward(kept["z"], y))


def test_the_mask_of_a_capped_relu_is_where_its_slope_is_1():
    model, (x, y) = compiled([ReLU(max_value=0.5, negative_slope=0.1)]), data()
    record = model.trace(x, y).layers[0]
    np.testing.assert_array_equal(record.kept["mask"], (x > 0) & (x < 0.5))
    np.testing.assert_array_equal(record.dx[record.kept["mask"]], record.dy[record.kept["mask"]])


def test_without_targets_there_is_no_way_back():
    model, (x, _) = Sequential([Input(SHAPE), *rich()]), data()
    t = model.trace(x)
    np.testing.assert_array_equal(t.y_pred, t.layers[-1].y)
    assert (t.loss, t.loss_after, t.y_true, t.optimizer, t.losses, t.fused) == (None, None, None, None, None, False)
    for layer in t.layers:
        assert layer.dy is None and layer.dx is None and not (layer.grads or layer.updated or layer.state_after)
        assert layer.params.keys() == model.flat_layers[t.layers.index(layer)].params.keys()


def test_a_frozen_layer_has_gradients_that_nobody_applies():
    model, (x, y) = compiled(), data()
    model.layers[0].trainable = False
    conv = model.trace(x, y)["conv2d_1"]
    assert conv.grads["w"].any() and conv.applied == {} and conv.slots == {}
    np.testing.assert_array_equal(conv.updated["w"], conv.params["w"])


def test_class_names_and_a_layer_by_its_name():
    model, (x, _) = compiled(), data()
    model.class_names = np.array(["a", "b", "c", "d"])
    t = model.trace(x[..., :2])
    assert t.class_names == ["a", "b", "c", "d"] and t.model_name == "model"
    with pytest.raises(UnknownNameError, match="did you mean 'conv2d_1'"):
        t["conv2d1"]


def test_a_missing_channel_axis_is_added_as_in_fit():
    model = Sequential([Input((4, 4, 1)), Flatten(), Dense(2)])
    assert model.trace(np.ones((3, 4, 4))).x.shape == (3, 4, 4, 1)


# ---- bad input ------------------------------------------------------------------------------------------------------


def test_bad_input_is_refused_in_three_parts():
    model, (x, y) = compiled(), data()
    for bad_x, bad_y, part in ((x[:, :4], y, "shape (N, 8, 7, 2)"), (x, y[:2], "2 targets"), (x, y + 9, "out of range"),
                               (x[:0], y, "nothing in it"), ("x", y, "not")):  # fmt: skip
        with pytest.raises(InputError) as caught:
            model.trace(bad_x, bad_y)
        assert part in str(caught.value)
    with pytest.raises(InputError, match="has no loss"):
        Sequential([Input(SHAPE), *end()]).trace(x, y)
    with pytest.raises(InputError, match="has no layers"):
        Sequential().trace(x)


def test_numbers_that_are_not_finite_can_be_traced():
    """Where a NaN comes from is what a trace is for."""
    model, (x, y) = compiled([ReLU()]), data()
    x[0, 0, 0, 0] = np.nan
    t = model.trace(x, y)
    assert np.isnan(t.loss) and np.isnan(t.layers[0].y[0, 0, 0, 0])


# ---- save and load --------------------------------------------------------------------------------------------------


def arrays_of(obj) -> dict[str, np.ndarray]:
    found = {}
    for f in fields(obj):
        value = getattr(obj, f.name)
        if isinstance(value, np.ndarray):
            found[f.name] = value
        elif isinstance(value, dict):
            found |= {f"{f.name}/{name}": a for name, a in value.items() if isinstance(a, np.ndarray)}
    return found


def assert_equal(a, b):
    left, right = arrays_of(a), arrays_of(b)
    assert list(left) == list(right)
    for name, array in left.items():
        assert (array.dtype, array.shape) == (right[name].dtype, right[name].shape)
        assert array.tobytes() == right[name].tobytes()
    for f in fields(a):
        value = getattr(a, f.name)
        if not isinstance(value, np.ndarray) and f.name != "layers" and f"{f.name}/" not in "".join(left):
            assert value == getattr(b, f.name), f.name


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("with_y", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_save_and_load_give_the_same_bits(tmp_path, dtype, with_y, training):
    model, (x, y) = compiled(), data(dtype)
    model.class_names = ["a", "b", "ü", "<d>"]
    for layer in model.flat_layers:
        for group in (layer.params, layer.state):
            group.update({name: a.astype(dtype) for name, a in group.items()})
    t = model.trace(x, y if with_y else None, training=training)
    t.save(tmp_path / "step.npz")
    loaded = Trace.load(tmp_path / "step.npz")
    assert_equal(t, loaded)
    assert len(t.layers) == len(loaded.layers)
    for a, b in zip(t.layers, loaded.layers, strict=True):
        assert isinstance(b, LayerTrace)
        assert_equal(a, b)
    loaded.save(tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == (tmp_path / "step.npz").read_bytes()


def test_numpy_numbers_and_objects_in_a_configuration_can_be_saved(tmp_path):
    model, (x, y) = compiled([Dense(2, kernel_constraint=abs)]), data()
    model.optimizer.clipnorm = np.float32(0.5)
    model.trace(x, y).save(tmp_path / "t.npz")
    loaded = Trace.load(tmp_path / "t.npz")
    assert loaded.optimizer["config"]["clipnorm"] == 0.5
    assert loaded.layers[0].config["kernel_constraint"] == "<built-in function abs>"


def test_broken_files(tmp_path):
    model, (x, y) = compiled(), data()
    path = tmp_path / "t.npz"
    model.trace(x, y).save(path)
    whole = path.read_bytes()
    model.save(tmp_path / "model.minicnn")
    np.save(tmp_path / "array.npy", x)
    np.savez(tmp_path / "other.npz", x=x)
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(tmp_path / "lost.npz", **{name: a for name, a in arrays.items() if name != "1/x"})
    arrays["trace.json"] = np.frombuffer(b'{"layers": [], "unheard_of": 1}', np.uint8)
    np.savez(tmp_path / "header.npz", **arrays)
    for name, content in (("cut.npz", whole[: len(whole) // 2]), ("text.npz", b"hello"), ("empty.npz", b"")):
        (tmp_path / name).write_bytes(content)
    broken = bytearray(whole)
    for place in range(len(whole) // 3, len(whole) // 3 + 300):  # more than any header is long
        broken[place] ^= 0xFF
    (tmp_path / "flipped.npz").write_bytes(broken)
    for name in ("cut.npz", "text.npz", "empty.npz", "flipped.npz", "model.minicnn", "array.npy", "other.npz",
                 "lost.npz", "header.npz"):  # fmt: skip
        with pytest.raises(BrokenFileError, match=r"not a whole trace|this is no trace"):
            Trace.load(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        Trace.load(tmp_path / "nowhere.npz")
    with pytest.raises(BrokenFileError, match="a folder"):
        Trace.load(tmp_path)


def test_the_page_gets_the_trace_and_the_path(monkeypatch, tmp_path):
    build = pytest.importorskip("minicnn.inspect.page.build")
    calls = []
    monkeypatch.setattr(build, "write_page", lambda *arguments: calls.append(arguments))
    t = compiled().trace(data()[0])
    t.to_html(tmp_path / "step.html")
    t.to_html(tmp_path / "other.html", image=2)
    assert calls == [(t, tmp_path / "step.html", None), (t, tmp_path / "other.html", 2)]


def test_a_trace_is_shown_in_few_lines():
    """`t` alone, at a prompt, used to print every number of the step."""
    model = Sequential([Input((6, 6, 1)), Conv2D(2, 3, activation="relu"), Flatten(), *(Dense(4) for _ in range(30))])
    model.compile("sgd", "sparse_categorical_crossentropy")
    x = np.random.default_rng(0).normal(size=(5, 6, 6, 1)).astype(np.float32)
    t = model.trace(x, np.arange(5) % 4)
    lines = repr(t).splitlines()
    assert len(lines) <= 30 and max(map(len, lines)) < 120
    assert lines[0].startswith("Trace of sequential: 5 samples, training mode, loss ")
    first = next(line for line in lines if "conv2d_1" in line)
    zeros, *sizes = re.findall(r"[\d.e-]+%?", first.split("(5, 4, 4, 2)")[1])
    assert zeros == f"{np.mean(t.layers[0].y == 0):.0%}"
    for size, array in zip(sizes, (t.layers[0].y, t.layers[0].dx, t.layers[0].grads["w"]), strict=True):
        assert float(size) == pytest.approx(np.sqrt(np.mean(np.square(array))), rel=0.06)
    assert "… 8 more" in repr(t) and "dense_30 (Dense)" in repr(t)
    assert repr(t.layers[0]) == "LayerTrace('conv2d_1', Conv2D: x (5, 6, 6, 1) -> y (5, 4, 4, 2), w, b)"
    forward = model.trace(x[:1], training=False)
    assert "1 sample, evaluation mode\n" in repr(forward) and "more" in str(forward)
