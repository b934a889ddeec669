"""Networks that branch: all that a chain can do, they can; and what cannot be is refused in words.

The networks are those of tests/branching.py: residual blocks, an Inception cell, layers and inner models that are used
twice, every layer that joins.
"""

from __future__ import annotations

import copy
import pickle
import re
from collections import Counter
from xml.etree import ElementTree

import numpy as np
import pytest
from branching import NETWORKS, batch, made
from helpers import random

import minicnn
from minicnn.backend import to_host
from minicnn.callbacks import BackupAndRestore, LambdaCallback, TerminateOnNaN
from minicnn.errors import BrokenFileError, InputError, NotFiniteError
from minicnn.gradcheck import check_model
from minicnn.inspect.trace import Trace
from minicnn.layers import (
    Activation,
    Add,
    BatchNormalization,
    Concatenate,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    GlobalAveragePooling2D,
    Input,
    Layer,
    MaxPooling2D,
    Multiply,
    Subtract,
    ZeroPadding2D,
)
from minicnn.layers.walk import forward, new_contexts
from minicnn.models import Model, Sequential, load_model
from minicnn.regularizers import L2
from minicnn.training import inference, memory, shards
from minicnn.training.plan import plan

names = pytest.mark.parametrize("name", NETWORKS)


@pytest.fixture(autouse=True)
def seeded():
    minicnn.utils.set_random_seed(0)


def plainly(model: Model, x: np.ndarray) -> np.ndarray:
    """Layer by layer in evaluation mode: nothing folded, nothing in place, in one piece."""
    nodes = model.nodes
    return to_host(forward(nodes, new_contexts(nodes, need_backward=True), model.as_input(x)))


def same_weights(a: Model, b: Model, rtol: float = 0.0, atol: float = 0.0) -> None:
    for one, other in zip(a.get_weights(), b.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=rtol, atol=atol)


def refused(make, *parts: str, error=InputError) -> str:
    """An error in three parts, in which these words stand."""
    with pytest.raises(error) as caught:
        make()
    text = str(caught.value)
    for part in ("Expected: ", "Received: ", "What to do: ", *parts):
        assert part in text, f"{part!r} is not in\n{text}"
    return text


# ---- training, evaluation, prediction (also on the stand-in for the GPU) ---------------------------------------------


def two_steps(name: str) -> tuple[Model, np.ndarray, list[float]]:
    """Momentum, not Adam, which would make much of gradients that are nothing but rounding."""
    model, (x, y) = made(name, optimizer=minicnn.optimizers.SGD(0.1, momentum=0.9)), batch(6)
    model.fit(x, y, batch_size=3, verbose=0, shuffle=False)
    return model, model.predict(x, verbose=0), model.evaluate(x, y, verbose=0)


@pytest.fixture(scope="module")
def on_the_cpu() -> dict[str, tuple]:
    """Of the whole module: so it is there before the tests' layers are moved to a device."""
    return {name: two_steps(name) for name in NETWORKS}


@names
def test_two_steps_and_predictions_are_those_of_the_cpu(name, on_the_cpu):
    (right, *answers), (model, *others) = on_the_cpu[name], two_steps(name)
    same_weights(right, model, 1e-4, 1e-5)
    for one, other in zip(answers, others, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.cpu
@names
def test_predictions_are_those_of_the_layers_one_by_one(name, monkeypatch):
    model, (x, y) = made(name), batch()
    right = plainly(model, x)
    np.testing.assert_allclose(model.predict(x, verbose=0), right, atol=1e-6)
    np.testing.assert_allclose(model(x), right, atol=1e-6)
    whole = model.evaluate(x, y, verbose=0)
    for piece, group in ((1, 1), (3000, 1 << 26), (1, 20_000)):
        monkeypatch.setattr(inference, "PIECE_BYTES", piece)
        monkeypatch.setattr(inference, "GROUP_BYTES", group)
        np.testing.assert_allclose(model.predict(x, verbose=0), right, atol=1e-6)
        np.testing.assert_allclose(model.evaluate(x, y, verbose=0), whole, rtol=1e-5)
    np.testing.assert_allclose(whole[0] - float(model.penalty()), -np.log(right[np.arange(12), y]).mean(), rtol=1e-5)


@pytest.mark.cpu
@names
def test_it_learns(name):
    """12 images by heart: the loss falls by half."""
    model, (x, y) = made(name, optimizer=minicnn.optimizers.Adam(0.01)), batch()
    losses = model.fit(x, y, batch_size=6, epochs=25, verbose=0).history["loss"]
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.cpu
@names
def test_saved_and_loaded_it_trains_on_as_before(name, tmp_path):
    """Every bit: weights, what is shared, the optimizer's state, the random generator."""
    model, (x, y) = made(name), batch()
    model.fit(x, y, batch_size=6, verbose=0)
    model.save(tmp_path / "m.zip")
    again = load_model(tmp_path / "m.zip")
    assert [(n.key, n.inputs) for n in again.nodes] == [(n.key, n.inputs) for n in model.nodes]
    assert len(again.flat_layers) == len(model.flat_layers) and again.shapes == model.shapes
    same_weights(model, again)
    np.testing.assert_array_equal(model.predict(x, verbose=0), again.predict(x, verbose=0))
    for one in (model, again):
        one.fit(x, y, batch_size=6, epochs=2, verbose=0)
    same_weights(model, again)


# ---- the same numbers however the work is cut ------------------------------------------------------------------------


@pytest.mark.cpu
@names
def test_threads(name, monkeypatch):
    monkeypatch.setattr(shards, "MIN_MACS_PER_SHARD", 1)
    monkeypatch.setattr(shards, "MIN_PARAMS_TO_SHARE", 1 << 30)
    results = []
    for threads in (1, 2, 3):
        monkeypatch.setattr(shards, "_num_threads", threads)
        model, (x, y) = made(name, dtype=np.float64), batch(dtype=np.float64)
        losses = model.fit(x, y, batch_size=6, epochs=2, verbose=0).history["loss"]
        results.append((model, losses, model.predict(x, verbose=0), model.evaluate(x, y, verbose=0)))
    first = results[0]
    for other in results[1:]:
        same_weights(first[0], other[0], 1e-7, 1e-9)
        for one, two in zip(first[1:], other[1:], strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-7)


# ---- what prediction may leave out -----------------------------------------------------------------------------------


def shaken(model: Model) -> Model:
    """Running statistics and everything else as after a training."""
    for k, layer in enumerate(model.flat_layers):
        weights = enumerate(layer.get_weights())
        layer.set_weights([random(w.shape, 10 * k + i, np.float32) ** 2 + 0.1 for i, w in weights])
    return model


def planned(model: Model) -> list[str]:
    return [type(node.layer).__name__ for node in plan(model.nodes)]


def branch_before(*layers) -> Model:
    """x -> Conv2D -> layers, and their result is added to that of Conv2D."""
    x = Input((6, 6, 2))
    y = z = Conv2D(4, 3)(x)
    for layer in layers:
        z = layer(z)
    return shaken(Model(x, Add()([y, z])))


@pytest.mark.cpu
@pytest.mark.parametrize(
    ("model", "kinds"),
    [
        (lambda: branch_before(BatchNormalization()), ["Conv2D", "BatchNormalization", "Add"]),
        (lambda: branch_before(Dropout(0.5), BatchNormalization()), ["Conv2D", "BatchNormalization", "Add"]),
        (lambda: branch_before(Dropout(0.5)), ["Conv2D", "Add"]),
        (lambda: branch_before(Conv2D(4, 1), BatchNormalization()), ["Conv2D", "Conv2D", "Add"]),
        (lambda: branch_before(Conv2D(4, 1), Dropout(0.5), BatchNormalization()), ["Conv2D", "Conv2D", "Add"]),
        (lambda: branch_before(Activation("relu"), Activation("relu")), ["Conv2D", "Activation", "Activation", "Add"]),
    ],
    ids=["two readers", "two readers behind a dropout", "dropout", "one reader", "one behind a dropout", "in place"],
)
def test_folding_where_a_value_has_one_reader(model, kinds):
    model, x = model(), random((5, 6, 6, 2), dtype=np.float32)
    assert planned(model) == kinds
    before = x.copy()
    right = plainly(model, x)
    np.testing.assert_allclose(model.predict(x, verbose=0), right, rtol=1e-5, atol=1e-5 * np.abs(right).max())
    np.testing.assert_array_equal(x, before)


@pytest.mark.cpu
def test_a_shared_convolution_takes_in_another_batch_norm_each_time():
    conv, x = Conv2D(3, 3, padding="same"), Input((6, 6, 3))
    model = shaken(Model(x, BatchNormalization()(conv(BatchNormalization()(conv(x))))))
    assert planned(model) == ["Conv2D", "Conv2D"]
    values = random((5, 6, 6, 3), dtype=np.float32)
    right = plainly(model, values)
    np.testing.assert_allclose(model.predict(values, verbose=0), right, rtol=1e-4, atol=1e-5 * np.abs(right).max())


@pytest.mark.cpu
def test_pieces_end_where_one_value_goes_on():
    """A skip from before the dense layer to behind it: the batch cannot be cut there, but at the next one it can."""
    x = Input((4, 4, 2))
    y = Flatten()(Conv2D(3, 3, padding="same")(x))
    z = Dense(48)(y)
    model = shaken(Model(x, Dense(2)(Add()([y, z]))))
    front, rest = inference.cut_at_dense(plan(model.nodes))
    assert [type(n.layer).__name__ for n in front] == ["Conv2D", "Flatten"]
    assert rest[0].inputs == (-1,) and rest[1].inputs == (-1, 0) and rest[2].inputs == (1,)
    x = Input((4,))
    early = Model(x, Dense(2)(Add()([Dense(4)(Activation("tanh")(x)), x])))
    front, rest = inference.cut_at_dense(plan(early.nodes))
    assert [type(n.layer).__name__ for n in front] == ["Activation", "Dense", "Add"] and len(rest) == 1


@pytest.mark.cpu
def test_a_layer_of_ones_own_keeps_what_it_has_seen():
    """What a probe in one branch has kept is not overwritten by the ReLU behind it."""

    class Probe(Layer):
        def forward(self, x, ctx):
            self.seen = x
            return x

        def backward(self, dy, ctx):
            return dy

    probe, x = Probe(), Input((6,))
    y = Dense(8)(x)
    model = Model(x, Add()([Activation("relu")(probe(y)), y]))
    values = random((5, 6), dtype=np.float32)
    model.predict(values, verbose=0)
    w, b = model.layers[0].get_weights()
    np.testing.assert_allclose(probe.seen, values @ w + b, rtol=1e-5)


# ---- layers and models that are used twice ---------------------------------------------------------------------------


@pytest.mark.cpu
def test_penalty_and_constraint_of_a_shared_layer_come_once():
    conv, x = Dense(3, kernel_regularizer=L2(0.5), kernel_constraint="unit_norm", use_bias=False), Input((3,))
    model = Model(x, conv(conv(x)))
    w = model.get_weights()[0]
    np.testing.assert_allclose(float(model.penalty()), 0.5 * (w**2).sum(), rtol=1e-6)
    model.compile(minicnn.optimizers.SGD(0.1), "mse")
    zeros = np.zeros((4, 3), np.float32)  # the data pull nowhere: the regularizer alone does, by 2 * 0.5 * w
    model.fit(zeros, zeros, verbose=0)
    new = w - 0.1 * w
    np.testing.assert_allclose(model.get_weights()[0], new / np.linalg.norm(new, axis=0), rtol=1e-5)
    assert model.count_params() == 9 and len(model.get_weights()) == 1
    assert list(model.optimizer.state) in ([], [("dense_1", "w")])


@pytest.mark.cpu
def test_a_model_that_is_used_twice_learns_as_its_layers_would():
    """The gradients of an inner model are those of the same layers, called by hand."""
    results = []
    for as_model in (True, False):
        minicnn.utils.set_random_seed(3)
        layers = [Dense(4, activation="tanh"), Dense(4)]
        x = Input((4,))
        if as_model:
            inner = Sequential([Input((4,)), *layers])
            y = inner(inner(x))
        else:
            y = layers[1](layers[0](layers[1](layers[0](x))))
        model = Model(x, y)
        model.set_weights([random(w.shape, k, np.float32) for k, w in enumerate(model.get_weights())])
        model.compile("adam", "mse")
        losses = model.fit(random((8, 4)), random((8, 4), 1), epochs=3, batch_size=8, verbose=0).history["loss"]
        results.append((losses, model))
    assert results[0][0] == results[1][0]
    same_weights(results[0][1], results[1][1])


@pytest.mark.cpu
def test_a_layer_that_two_inner_models_share(tmp_path):
    """It has one name in the whole model, and one set of weights; only a model file cannot tell so."""
    dense, x = Dense(4, activation="tanh"), Input((4,))
    a, b = Sequential([Input((4,)), dense], name="a"), Sequential([Input((4,)), dense, Dense(4)], name="b")
    model = Model(x, Add()([a(x), b(x)]))
    assert [node.key for node in model.nodes] == ["a/dense_1", "a/dense_1", "b/dense_2", "add_1"]
    model.compile("adam", "mse")
    values, targets = random((6, 4), dtype=np.float32), random((6, 4), 1, np.float32)
    model.fit(values, targets, verbose=0)
    t = model.trace(values, targets)
    assert t.loss_after < t.loss
    model.save_weights(tmp_path / "w.zip")
    text = refused(lambda: model.save(tmp_path / "m.zip"), "it is in a and in b", "save_weights")
    assert text.startswith("dense_1") and not (tmp_path / "m.zip").exists()
    before = model.predict(values, verbose=0)
    model.fit(values, targets, verbose=0)
    model.load_weights(tmp_path / "w.zip")
    np.testing.assert_array_equal(model.predict(values, verbose=0), before)


@pytest.mark.cpu
def test_two_dropouts_of_one_layer_draw_two_masks():
    drop, x = Dropout(0.5), Input((1000,))
    y = Model(x, drop(drop(x)))(np.ones((4, 1000)), training=True)
    assert abs((y != 0).mean() - 0.25) < 0.03


# ---- cutting and naming ----------------------------------------------------------------------------------------------


@pytest.mark.cpu
@pytest.mark.parametrize("way", ["as made", "loaded", "deepcopy", "pickle"])
@names
def test_cut_at_a_layer(name, way, tmp_path):
    model, (x, _) = made(name), batch()
    layer = {"residual": "block_0", "inception": "cell", "unet": "up", "shared": "average_1"}.get(name, "rescaling_1")
    right = model.trace(x, training=False)[layer].y
    if way == "loaded":
        model.save(tmp_path / "m.zip")
        model = load_model(tmp_path / "m.zip")
    elif way != "as made":
        model = copy.deepcopy(model) if way == "deepcopy" else pickle.loads(pickle.dumps(model))
    part = Model(model.input, model.get_layer(layer).output)
    np.testing.assert_allclose(part.predict(x, verbose=0), right, atol=1e-5)
    assert part.get_layer(part.layers[0].name) is model.layers[0], "the layers are the same ones"


@pytest.mark.cpu
def test_the_output_of_an_inner_model_is_its_own():
    """As in Keras: what the outer model makes of it is what the layer behind it reads."""
    model, (x, _) = made("nested"), batch()
    refused(lambda: Model(model.input, model.get_layer("whole").output), "take the input of the layer behind it")
    part = Model(model.input, model.get_layer("flatten_1").input)
    right = model.trace(x, training=False)["whole/concatenate_1"].y
    np.testing.assert_allclose(part.predict(x, verbose=0), right, atol=1e-6)


@pytest.mark.cpu
def test_the_second_half_alone():
    model, (x, _) = made("residual"), batch()
    middle = Model(model.input, model.get_layer("block_0").output).predict(x, verbose=0)
    rest = Model(model.get_layer("block_0").output, model.output)
    assert rest.input_shape == (None, 8, 8, 4)
    np.testing.assert_allclose(rest.predict(middle, verbose=0), model.predict(x, verbose=0), atol=1e-6)
    refused(lambda: Model(model.get_layer("projection").output, model.output), "needs another input", "stem")


@pytest.mark.cpu
def test_a_cut_network_gets_a_new_end_and_only_that_learns():
    model, (x, y) = made("residual"), batch()
    body = Model(model.input, model.get_layer("block_1").output)
    body.trainable = False
    entry = Input((8, 8, 3))
    new = Model(entry, Dense(3, activation="softmax", name="end")(GlobalAveragePooling2D()(body(entry))))
    new.compile(minicnn.optimizers.Adam(0.05), "sparse_categorical_crossentropy")
    before = body.get_weights()
    losses = new.fit(x, y, epochs=20, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    for one, other in zip(before, body.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.cpu
def test_names_are_numbered_around_those_that_layers_have():
    old = Sequential([Input((4,)), Dense(4)])
    x = Input((4,))
    model = Model(x, old.get_layer("dense_1")(Dense(4)(x)))
    assert [layer.name for layer in model.layers] == ["dense_2", "dense_1"]
    assert [layer.name for layer in old.layers] == ["dense_1"]


# ---- freezing, backup, NaN -------------------------------------------------------------------------------------------


@pytest.mark.cpu
def test_a_frozen_branch_stays_as_it_is():
    model, (x, y) = made("inception"), batch()
    for name in ("three", "one"):
        model.get_layer(name).trainable = False
    before = {layer.name: layer.get_weights() for layer in model.layers}
    model.fit(x, y, verbose=0)
    for layer in model.layers:
        moved = [not np.array_equal(a, b) for a, b in zip(before[layer.name], layer.get_weights(), strict=True)]
        assert any(moved) == (layer.name not in ("three", "one") and bool(moved)), layer.name


@pytest.mark.cpu
def test_penalty_of_frozen_layers_counts_nowhere():
    model, (x, y) = made("shared", optimizer=minicnn.optimizers.SGD(0.0)), batch()
    with_all = float(model.penalty())
    model.get_layer("conv").trainable = False
    assert 0 < float(model.penalty()) < with_all
    history = model.fit(x, y, batch_size=12, validation_data=(x, y), verbose=0).history
    assert abs(model.trace(x, y, training=False).loss - history["val_loss"][0]) < 1e-5


class CrashError(Exception):
    pass


@pytest.mark.cpu
def test_backup_and_restore(tmp_path):
    """A run that dies in the second epoch and begins again ends with the weights of one that did not."""
    x, y = batch(24)

    def train(*callbacks):
        model = made("shared")
        model.fit(x, y, batch_size=6, epochs=3, verbose=0, callbacks=list(callbacks))
        return model

    whole, seen = train(), Counter()

    def crash(*_):
        seen["batches"] += 1
        if seen["batches"] == 6:
            raise CrashError

    with pytest.raises(CrashError):
        train(BackupAndRestore(tmp_path / "b"), LambdaCallback(on_train_batch_end=crash))
    same_weights(train(BackupAndRestore(tmp_path / "b")), whole)


@pytest.mark.cpu
@pytest.mark.parametrize("thorough", [True, False], ids=["check_finite", "TerminateOnNaN"])
def test_where_nan_begins_names_the_branch(thorough, capsys):
    class Broken(Layer):
        def forward(self, x, ctx):
            y = x.copy()
            y[0, 0] = np.nan
            return y

        def backward(self, dy, ctx):
            return dy

    x = Input((4,))
    y = Dense(4, name="before")(x)
    model = Model(x, Dense(2, name="end")(Add(name="sum")([Dense(4, name="good")(y), Broken(name="bad")(y)])))
    model.compile("sgd", "mse")
    values, targets = random((6, 4), dtype=np.float32), random((6, 2), 1, np.float32)
    before = model.get_weights()
    if thorough:
        with pytest.raises(NotFiniteError) as caught:
            model.fit(values, targets, verbose=0, check_finite=True)
        text = str(caught.value)
    else:
        model.fit(values, targets, verbose=0, callbacks=[TerminateOnNaN()], epochs=3)
        text = capsys.readouterr().out
    assert "bad" in text and "in the forward pass" in text and "sum" not in text.split("Expected")[0]
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


# ---- looking inside --------------------------------------------------------------------------------------------------


@pytest.mark.cpu
@names
def test_gradients_of_the_whole_model_with_its_loss(name):
    x, y = batch(4, np.float64)
    report = check_model(made(name), x, y, directions=2, elements=1)
    report.assert_ok()


@pytest.mark.cpu
@names
def test_a_trace_is_the_step_that_fit_does(name, tmp_path):
    x, y = batch()
    model, traced = made(name), made(name)
    t = traced.trace(x, y)
    same_weights(model, traced)
    history = model.fit(x, y, batch_size=12, verbose=0, shuffle=False).history
    assert abs(t.loss - history["loss"][0]) < 1e-6
    arrays = {(node.key, p): layer.params[p] for node in model.nodes for layer in [node.layer] for p in layer.params}
    for record, node in zip(t.layers, model.nodes, strict=True):
        assert record.inputs == node.inputs
        read = [t.x if j < 0 else t.layers[j].y for j in record.inputs]
        for one, other in zip(record.x if node.layer.merges else [record.x], read, strict=True):
            np.testing.assert_array_equal(one, other)
        for p in record.updated:
            np.testing.assert_array_equal(record.updated[p], to_host(arrays[node.key, p]), err_msg=f"{record.key} {p}")
    for i, record in enumerate(t.layers[:-1]):  # dy is the sum of what the readers give back
        parts = []
        for reader in t.layers[i + 1 :]:
            dxs = reader.dx if isinstance(reader.dx, list) else [reader.dx]
            parts += [dx for j, dx in zip(reader.inputs, dxs, strict=True) if j == i]
        np.testing.assert_allclose(sum(parts), record.dy, rtol=1e-5, atol=1e-8, err_msg=record.key)
    assert "loss" in repr(t) and all(record.key in repr(t) for record in t.layers[:12])
    assert "<table" in t._repr_html_()
    t.save(tmp_path / "t.npz")
    again = Trace.load(tmp_path / "t.npz")
    assert repr(again) == repr(t) and [r.inputs for r in again.layers] == [r.inputs for r in t.layers]


@pytest.mark.cpu
@names
def test_the_gradient_with_respect_to_the_input(name):
    """Of all layers that read it together, as the figures show it; against a central difference."""
    model, (x, y) = made(name, dtype=np.float64), batch(3, np.float64)
    direction = random(x.shape, 3)
    losses = [model.trace(x + step * direction, y).loss for step in (1e-6, -1e-6)]
    gradient = model.trace(x, y).dx
    np.testing.assert_allclose((gradient * direction).sum(), (losses[0] - losses[1]) / 2e-6, rtol=1e-6)
    assert model.trace(x).dx is None


@pytest.mark.cpu
@names
def test_the_estimate_of_memory_covers_a_step(name):
    import tracemalloc

    model, (x, y) = made(name), batch(64)
    estimate = memory.estimate(model)
    model.fit(x, y, batch_size=64, verbose=0)  # scratch memory and the optimizer's arrays exist from here on
    tracemalloc.start()
    model.fit(x, y, batch_size=64, verbose=0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 0.4 * peak < estimate.new(64) - memory.SCRATCH + x.nbytes < 3 * peak


@pytest.mark.cpu
def test_the_rows_of_a_profile_add_up():
    model, (x, y) = made("shared"), batch()
    with minicnn.profile() as p:
        model.fit(x, y, batch_size=6, epochs=2, verbose=0)
        model.predict(x, verbose=0)
    rows = {row.name: row for row in p.rows}
    assert abs(sum(row.seconds for row in p.rows) - p.thread_seconds) < 1e-9
    assert {layer.name for layer in model.layers if not hasattr(layer, "layers")} <= set(rows)
    assert rows["conv"].calls == 2 * (4 + 1) and rows["conv2d_1"].calls == 4 + 1  # in each of two places


@pytest.mark.cpu
@pytest.mark.parametrize("name", ["residual", "inception"])
def test_diagnosis(name):
    model, (x, y) = made(name, optimizer=minicnn.optimizers.Adam(0.003)), batch(24)
    before = model.get_weights()
    assert "NaN" in str(model.diagnose(x, y))
    assert "by heart" in str(model.sanity_check(x, y))
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.cpu
def test_figures():
    """Of layers that join, also; the values of the last two: see the tests above and below."""
    pytest.importorskip("matplotlib", reason="figures are drawn with matplotlib")
    from minicnn.inspect import figures

    model, (x, y) = made("inception"), batch(2)
    t = model.trace(x, y)
    names = [label.get_text() for label in figures.gradient_flow(t).axes[0].get_xticklabels()]
    assert "cell" in names
    figures.gradient_maps(t)
    figures.grad_cam(model, x[0], layer="cell")


@pytest.mark.cpu
@names
def test_the_gradient_of_a_logit(name):
    """What saliency shows, against central differences in float64."""
    pytest.importorskip("matplotlib", reason="figures are drawn with matplotlib")
    from minicnn.inspect.figures.attribution import logit_gradient

    model, (x, _) = made(name, dtype=np.float64), batch(1, np.float64)
    gradient = logit_gradient(model, x[0], 1)

    def difference(image):  # of two logits: what softmax keeps of them
        return np.subtract(*np.log(model(image[None])[0][[1, 0]]))

    direction = random((8, 8, 3), 3)
    numeric = (difference(x[0] + 1e-6 * direction) - difference(x[0] - 1e-6 * direction)) / 2e-6
    np.testing.assert_allclose(((gradient - logit_gradient(model, x[0], 0)) * direction).sum(), numeric, rtol=1e-5)


@pytest.mark.cpu
@names
def test_the_drawing_of_the_architecture(name):
    from minicnn.inspect.figures.svg import architecture

    model = made(name)
    svg = architecture(model)
    ElementTree.fromstring(svg)
    assert all(layer.name in svg for layer in model.layers)


# ---- summary ---------------------------------------------------------------------------------------------------------


def printed(model: Model, **how) -> list[list[str]]:
    """The rows of the table, cell by cell; of a row with several lines the texts joined."""
    lines: list[str] = []
    model.summary(print_fn=lines.append, **how)
    rows: list[list[str]] = []
    new = True
    for line in lines:
        if line[:1] in "│┃":
            cells = [cell.strip() for cell in re.split("[│┃]", line)[1:-1]]
            if not new:
                cells = [" ".join(pair).strip() for pair in zip(rows.pop(), cells, strict=True)]
            rows.append(cells)
        new = line[:1] != "│"
    return rows


@pytest.mark.cpu
def test_connected_to():
    """Row for row as Keras 3.15 prints it (which counts names from no number on)."""
    x = Input((8, 8, 3))
    a = Conv2D(4, 3, padding="same")(x)
    shared = Conv2D(4, 3, padding="same", name="shared")
    b = shared(a)
    d = Concatenate()([Add()([a, b, shared(b)]), x])
    inner = Sequential([Input((7,)), Dense(7)], name="inner")
    model = Model(x, Dense(2)(inner(inner(GlobalAveragePooling2D()(d)))))
    assert printed(model) == [
        ["Layer (type)", "Output Shape", "Param #", "Connected to"],
        ["input_layer (InputLayer)", "(None, 8, 8, 3)", "0", "-"],
        ["conv2d_1 (Conv2D)", "(None, 8, 8, 4)", "112", "input_layer[0][0]"],
        ["shared (Conv2D)", "(None, 8, 8, 4)", "148", "conv2d_1[0][0], shared[0][0]"],
        ["add_1 (Add)", "(None, 8, 8, 4)", "0", "conv2d_1[0][0], shared[0][0], shared[1][0]"],
        ["concatenate_1 (Concatenate)", "(None, 8, 8, 7)", "0", "add_1[0][0], input_layer[0][0]"],
        ["global_average_pooling2d_1 (GlobalAveragePooling2D)", "(None, 7)", "0", "concatenate_1[0][0]"],
        ["inner (Sequential)", "(None, 7)", "56", "global_average_pooling2d_1[0][0], inner[0][0]"],
        ["dense_1 (Dense)", "(None, 2)", "16", "inner[1][0]"],
    ]
    page = model._repr_html_()
    assert "Connected to" in page and "conv2d_1[0][0], shared[0][0], shared[1][0]" in page and "332" in page


@pytest.mark.cpu
def test_a_chain_has_no_such_column():
    x = Input((4,), name="pixels")
    model = Model(x, Dense(3)(Dense(2)(x)))
    _, *rows = printed(model)
    assert [row[0] for row in rows] == ["pixels (InputLayer)", "dense_1 (Dense)", "dense_2 (Dense)"]
    assert all(len(row) == 3 for row in rows) and "Connected" not in model._repr_html_()


@pytest.mark.cpu
def test_details_count_every_use():
    dense, x = Dense(4, use_bias=False), Input((4,))
    rows = printed(Model(x, dense(dense(x))), details=True)
    assert rows[2][:5] == ["dense_1 (Dense)", "(None, 4)", "16", "32", "32"]


# ---- what cannot be --------------------------------------------------------------------------------------------------

X, OTHER, PICTURE = Input((4,)), Input((4,), name="other"), Input((8, 8, 3))


def used_twice() -> Dense:
    layer = Dense(4, name="twice")
    layer(layer(X))
    return layer


WRONG = {
    "two inputs": (lambda: Model([X, OTHER], Add()([X, OTHER])), ["one input and one output", "2 of them"]),
    "two inputs by name": (lambda: Model({"a": X, "b": OTHER}, X), ["one input and one output"]),
    "two outputs": (lambda: Model(X, [Dense(2)(X), Dense(3)(X)]), ["one input and one output", "2 of them"]),
    "no output": (lambda: Model(X, []), ["0 of them"]),
    "another input, too": (lambda: Model(X, Add(name="a")([X, OTHER])), ["a reads other, another Input"]),
    "nothing joins them": (lambda: Model(OTHER, Dense(2, name="d")(X)), ["does not depend on the input", "d"]),
    "the input itself": (lambda: Model(X, X), ["no layer between the input and the output"]),
    "a layer for a value": (lambda: Model(X, Dense(3)), ["outputs is no symbolic value", "call the layer"]),
    "an array for a value": (lambda: Model(np.ones((2, 4)), Dense(2)(X)), ["inputs is no symbolic value"]),
    "a sum of two shapes": (lambda: Add(name="s")([X, Dense(3, name="d")(X)]), ["s: ", "(4,), (3,)", "d 3"]),
    "a product of two ranks": (lambda: Multiply()([X, PICTURE]), ["(4,), (8, 8, 3)"]),
    "two heights side by side": (
        lambda: Concatenate(name="c")([PICTURE, Conv2D(2, 3, name="v")(PICTURE)]), ["c: ", "(6, 6, 2)", "v 6×6×2"]
    ),
    "one array for a list": (lambda: Add(name="a")(np.ones((2, 4))), ["a: Add joins several", "of shape (2, 4)"]),
    "a number for a list": (lambda: Add(name="a")(5), ["a: Add joins several", "int"]),
    "two numbers of samples": (lambda: Add()([np.ones((2, 4)), np.ones((3, 4))]), ["numbers of samples", "2, 3"]),
    "no axis of samples": (lambda: Dense(3, name="d")(np.ones(4)), ["d: Dense needs features", "x[None, :]"]),
    "a shape for a value": (lambda: Dense(3, name="d")((8, 8, 3)), ["d: Dense needs features"]),
    "a layer for an array": (lambda: Dense(3, name="d")(Dense(4)), ["d: this is nothing", "x = Input(shape)"]),
    "images counted": (lambda: Conv2D(2, 3)(Input((32, 28, 28, 1))), ["needs images", "Input((28, 28, 1))"]),
    "an axis that is not there": (lambda: Concatenate(axis=4)([PICTURE, PICTURE]), ["axis=4, and inputs of shapes (8"]),
    "the axis of the batch": (lambda: Concatenate(axis=0), ["axis does not fit"]),
    "a difference of three": (lambda: Subtract()([X, X, X]), ["two values"]),
    "a sum without brackets": (lambda: Add()(X), ["put the values into brackets"]),
    "several for one": (lambda: Dense(3, name="d")([X, OTHER]), ["Dense takes one value", "other 4"]),
    "a sum in a chain": (lambda: Sequential([Input((4,)), Add(name="a")]), ["a: ", "a chain does not have"]),
    "an array beside a symbol": (lambda: Add(name="a")([np.ones((2, 4)), X]), ["a: ", "do not mix", "ndarray"]),
    "output of two places": (lambda: used_twice().output, ["twice: ", "in 2 places", "y = layer(x)"]),
    "output of no place": (lambda: Dense(3).output, ["nowhere yet"]),
    "input of no place": (lambda: Add().input, ["nowhere yet"]),
    "an empty Sequential": (lambda: Sequential(name="e")(X), ["e: ", "no layers in it"]),
    "output of an unbuilt Sequential": (lambda: Sequential([Dense(3)], name="u").output, ["u: ", "has not been built"]),
    "a name used twice": (
        lambda: Model(X, Dense(3, name="d")(Dense(4, name="d")(X))), ["d: two layers of this name"]
    ),
    "built for another": (lambda: used_twice()(Input((5,))), ["twice: ", "built for another shape", "5"]),
    "a model for another": (lambda: made("residual")(X), ["residual: ", "built for another shape"]),
    "x + y": (lambda: X + OTHER, ["no numbers yet", "Add()([x, y])"]),
    "2 * x": (lambda: 2 * X, ["no numbers yet"]),
    "-x": (lambda: -X, ["no numbers yet"]),
    "x > 0": (lambda: X > 0, ["no numbers yet"]),
    "NumPy": (lambda: np.add(X, OTHER), ["no numbers yet"]),
    "padding": (lambda: ZeroPadding2D((1, 2, 3)), ["padding does not fit"]),
    "padding of features": (lambda: ZeroPadding2D(1)(X), ["(4,)"]),
}  # fmt: skip


@pytest.mark.cpu
@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_is_refused_in_words(case):
    make, parts = WRONG[case]
    refused(make, *parts)


@pytest.mark.cpu
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda uses: uses.__setitem__(1, [1, [2]]), "not among the values before it"),  # a circle
        (lambda uses: uses.__setitem__(1, [1, [1]]), "not among the values before it"),  # a layer that reads itself
        (lambda uses: uses.__setitem__(0, [0, [-2]]), "not among the values before it"),
        (lambda uses: uses.__setitem__(0, [0, []]), "not among the values before it"),
        (lambda uses: uses.__setitem__(0, [0, [True]]), "not among the values before it"),
        (lambda uses: uses.__setitem__(0, [9, [-1]]), "there is no layer 9"),
        (lambda uses: uses.__setitem__(0, [0, [-1, -1]]), "reads 2 values"),
        (lambda uses: uses.__setitem__(2, [2, [0, 0]]), "nothing reads the output of dense_2"),
        (lambda uses: uses.clear(), "a network without layers"),
    ],
    ids=["circle", "itself", "before", "nothing", "a truth value", "no layer", "two values", "dead end", "empty"],
)
def test_files_with_networks_that_cannot_be(change, message, tmp_path):
    """get_config never gives these; a file that was changed might hold them."""
    x = Input((4,))
    y = Dense(4)(x)
    model = Model(x, Add()([y, Dense(4)(y)]))
    config = copy.deepcopy(model.get_config())
    assert Model.from_config(config).count_params() == model.count_params()
    change(config["uses"])
    with pytest.raises((ValueError, BrokenFileError), match=message):
        Model.from_config(config)


@pytest.mark.cpu
def test_a_second_input_and_emptied_layers_are_refused():
    model = Sequential([Input((2,))])
    refused(lambda: model.add(Input((5,))), "Input is not the first layer", "another Input")
    model.add(Dense(2))
    assert model.shapes == [(2,), (2,)]
    refused(lambda: Sequential([Input((2,)), Dense(2), Input((2,))]), "Input after dense_1")
    for one in (model, made("residual")):
        count = len(one.layers)
        one.layers.pop()  # of a list of their own, as in Keras
        assert len(one.layers) == count
        with pytest.raises(AttributeError):
            one.layers = []


@pytest.mark.cpu
def test_a_model_can_be_made_of_lists_of_one():
    x = Input((4,))
    y = Dense(2)(x)
    values = random((3, 4), dtype=np.float32)
    np.testing.assert_array_equal(Model([x], [y])(values), Model(x, y)(values))


@pytest.mark.cpu
def test_an_unbuilt_sequential_is_built_by_the_call():
    inner, x = Sequential([Conv2D(4, 3), MaxPooling2D(), Flatten(), Dense(5)]), Input((8, 8, 3))
    model = Model(x, Dense(2)(inner(x)))
    assert inner.built and model.shapes == [(8, 8, 3), (5,), (2,)]
