"""Sample weights, class weights, single steps: the numbers are those of Keras 3.15 (TensorFlow) on the same data."""

import numpy as np
import pytest
from helpers import unchanged

import minicnn
from minicnn.batches import PyDataset
from minicnn.errors import InputError
from minicnn.layers import Conv2D, Dense, Input
from minicnn.optimizers import SGD

RNG = np.random.default_rng(0)
X = RNG.random((20, 5)).astype("f4")
Y = RNG.integers(0, 3, 20)
W = RNG.random(20).astype("f4") * 3
W0 = RNG.standard_normal((5, 3)).astype("f4")
KERAS = {
    "sample_weight": [2.53583, 2.1923, 1.96521], "val_loss": [1.97794], "class_weight": [3.63483, 2.93585],
    "evaluate": [2.15932, 0.2], "train_on_batch": [[1.76344, 0.5], [3.00671, 0.25]], "test_on_batch": [0.9423, 0.5],
    "generator": [2.56752, 2.34556],
}  # fmt: skip


def net(loss="sparse_categorical_crossentropy", **options):
    model = minicnn.Sequential([Input((5,)), Dense(3, activation="softmax")])
    model.set_weights([W0, np.zeros(3, "f4")])
    model.compile(SGD(0.1), loss, metrics=["accuracy"], **options)
    return model


def test_sample_weights_and_validation_freq():
    history = net().fit(X, Y, 8, 3, 0, shuffle=False, sample_weight=W, validation_data=(X, Y, W), validation_freq=2)
    np.testing.assert_allclose(history.history["loss"], KERAS["sample_weight"], rtol=1e-5)
    np.testing.assert_allclose(history.history["val_loss"], KERAS["val_loss"], rtol=1e-5)
    listed = net().fit(X, Y, 8, 3, 0, validation_data=(X, Y), validation_freq=[1, 3]).history
    assert len(listed["val_loss"]) == 2


@pytest.mark.parametrize("one_hot", [False, True])
def test_class_weights(one_hot):
    y, loss = (np.eye(3)[Y], "categorical_crossentropy") if one_hot else (Y, "sparse_categorical_crossentropy")
    history = net(loss).fit(X, y, 8, 2, 0, shuffle=False, class_weight={0: 1.0, 1: 5.0})
    np.testing.assert_allclose(history.history["loss"], KERAS["class_weight"], rtol=1e-5)


def test_weights_are_the_same_in_shards(monkeypatch):
    from minicnn.training import shards

    losses = []
    for threads in (1, 2, 3):
        monkeypatch.setattr(shards, "MIN_MACS_PER_SHARD", 1)
        minicnn.set_num_threads(threads)
        with unchanged(W):
            losses.append(net().fit(X, Y, 7, 2, 0, shuffle=False, sample_weight=W).history["loss"])
    minicnn.set_num_threads(None)
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-6)
    np.testing.assert_allclose(losses[2], losses[0], rtol=1e-6)


def test_evaluate_and_single_steps():
    model = net()
    model.fit(X, Y, 8, 2, 0, shuffle=False, class_weight={0: 1.0, 1: 5.0})
    np.testing.assert_allclose(model.evaluate(X, Y, 8, 0, W), KERAS["evaluate"], rtol=1e-5)
    model = net()
    steps = [model.train_on_batch(X[:8], Y[:8]), model.train_on_batch(X[8:], Y[8:], sample_weight=W[8:])]
    np.testing.assert_allclose(steps, KERAS["train_on_batch"], rtol=1e-5)
    np.testing.assert_allclose(model.test_on_batch(X[:4], Y[:4]), KERAS["test_on_batch"], rtol=1e-4)
    assert set(model.test_on_batch((X[:4], Y[:4]), return_dict=True)) == {"loss", "accuracy"}
    np.testing.assert_array_equal(model.predict_on_batch(X[:4]), model.predict(X[:4], verbose=0))


class Weighted(PyDataset):
    def __len__(self):
        return 2

    def __getitem__(self, i):
        return X[10 * i : 10 * i + 10], Y[10 * i : 10 * i + 10], W[10 * i : 10 * i + 10]


def endless():
    while True:
        yield from (Weighted()[i] for i in range(2))


@pytest.mark.parametrize("source", [endless, Weighted])
def test_generators_of_three(source):
    history = net().fit(source(), steps_per_epoch=2, epochs=2, verbose=0)
    np.testing.assert_allclose(history.history["loss"], KERAS["generator"], rtol=1e-5)


def test_weights_of_positions():
    model = minicnn.Sequential([Input((2, 2, 1)), Conv2D(3, 1, activation="softmax")])
    model.compile(SGD(0.0), "sparse_categorical_crossentropy")
    x, y = RNG.random((4, 2, 2, 1)), RNG.integers(0, 3, (4, 2, 2))
    only_first = np.zeros((4, 2, 2))
    only_first[:, 0, 0] = 4
    loss = model.evaluate(x, y, sample_weight=only_first, verbose=0)
    p = model.predict(x, verbose=0)
    assert loss == pytest.approx(-np.log(p[np.arange(4), 0, 0, y[:, 0, 0]]).mean(), rel=1e-5)


def test_a_part_is_held_back_with_its_weights():
    history = net().fit(X, Y, 8, 1, 0, validation_split=0.25, sample_weight=np.where(np.arange(20) < 15, W, 0))
    assert history.history["val_loss"] == [0.0]


@pytest.mark.parametrize(("arguments", "part"), [
    ({"sample_weight": W, "class_weight": {0: 2.0}}, "both kinds"),
    ({"sample_weight": W[:3]}, "different lengths"),
    ({"sample_weight": "x"}, "sample_weight"),
    ({"sample_weight": np.full(20, np.nan)}, "finite"),
    ({"sample_weight": np.ones((20, 2))}, "sample_weight"),
    ({"class_weight": [1, 2]}, "a dict of class numbers"),
    ({"class_weight": {"a": 1.0}}, "a dict of class numbers"),
    ({"class_weight": "balanced"}, "a dict of class numbers"),
    ({"class_weight": {99: 2.0}}, "a weight for class 99"),
    ({"class_weight": {-1: 2.0}}, "a weight for class -1"),
    ({"validation_freq": 0}, "whole number"),
    ({"validation_freq": "x"}, "whole number"),
])  # fmt: skip
def test_weights_that_do_not_fit(arguments, part):
    with pytest.raises(InputError, match=part):
        net().fit(X, Y, verbose=0, **arguments)
    with pytest.raises(InputError, match="brings its own weights"):
        net().fit(endless(), steps_per_epoch=1, sample_weight=W, verbose=0)


@pytest.mark.parametrize("options", [
    {"run_eagerly": False}, {"jit_compile": "auto"}, {"steps_per_execution": 1}, {"weighted_metrics": None},
    {"weighted_metrics": []}, {"loss_weights": None}, {"auto_scale_loss": True},
])  # fmt: skip
def test_compile_takes_the_defaults_of_keras(options):
    net(**options).fit(X, Y, verbose=0)


@pytest.mark.parametrize("options", [
    {"jit_compile": True}, {"steps_per_execution": 10}, {"loss_weights": [1.0]},
])  # fmt: skip
def test_compile_refuses_the_rest_in_words(options):
    with pytest.raises(InputError, match=next(iter(options))):
        net(**options)


# ---- metrics in which the weights count ------------------------------------------------------------------------------

# Keras 3.15 on the same data: 2 epochs with sample_weight and validation_data of three; then evaluate without weights.
IN_KERAS = {
    "accuracy": [0.35, 0.3], "loss": [2.535835, 2.192304], "sparse_categorical_crossentropy": [1.903315, 1.645472],
    "top": [0.493885, 0.492085], "weighted_accuracy": [0.318629, 0.316828], "val_accuracy": [0.3, 0.2],
    "val_loss": [2.233049, 1.977937], "val_sparse_categorical_crossentropy": [1.676054, 1.484575],
    "val_top": [0.492085, 0.523506], "val_weighted_accuracy": [0.316828, 0.262254],
}  # fmt: skip
UNWEIGHTED = {
    "loss": 1.638581, "accuracy": 0.2, "weighted_accuracy": 0.2, "sparse_categorical_crossentropy": 1.638581,
    "top": 0.45,
}  # fmt: skip


def weighted(**options):
    model = minicnn.Sequential([Input((5,)), Dense(3, activation="softmax")])
    model.set_weights([W0, np.zeros(3, "f4")])
    model.compile(SGD(0.1), "sparse_categorical_crossentropy", **options)
    return model


def test_weighted_metrics():
    top = minicnn.metrics.SparseTopKCategoricalAccuracy(2, name="top")
    model = weighted(
        metrics=["accuracy"], weighted_metrics=["accuracy", "sparse_categorical_crossentropy", top]
    )
    history = model.fit(X, Y, 8, 2, 0, shuffle=False, sample_weight=W, validation_data=(X, Y, W)).history
    assert set(history) == set(IN_KERAS)
    for name, values in IN_KERAS.items():
        np.testing.assert_allclose(history[name], values, rtol=2e-5, err_msg=name)
    assert model.evaluate(X, Y, verbose=0, return_dict=True) == pytest.approx(UNWEIGHTED, rel=1e-5)
    assert model.metrics_names == list(UNWEIGHTED)


def test_weighted_metrics_of_class_weights_and_single_steps():
    model = weighted(weighted_metrics=["acc"])
    history = model.fit(X, Y, 8, 1, 0, shuffle=False, class_weight={0: 1.0, 1: 3.0}).history
    np.testing.assert_allclose([history["acc"][0], history["loss"][0]], [0.233333, 2.868635], rtol=1e-5)
    np.testing.assert_allclose(model.train_on_batch(X, Y, sample_weight=W), [2.279895, 0.287684], rtol=1e-5)


def test_weighted_metrics_in_shards_and_where_only_some_batches_have_weights(monkeypatch):
    from minicnn.training import shards

    def some():
        yield X[:8], Y[:8]
        yield X[8:], Y[8:], W[8:]

    full = np.concatenate([np.ones(8), W[8:]])
    monkeypatch.setattr(shards, "MIN_MACS_PER_SHARD", 1)
    for threads in (1, 3):
        minicnn.set_num_threads(threads)
        model = weighted(weighted_metrics=["accuracy"])
        expected = model.evaluate(X, Y, sample_weight=full, verbose=0)
        np.testing.assert_allclose(model.evaluate(some(), verbose=0), expected, rtol=1e-5)
    minicnn.set_num_threads(None)


def test_weighted_metrics_of_positions():
    """The weight of each pixel counts in the metric as in the loss."""
    model = minicnn.Sequential([Input((2, 2, 1)), Conv2D(3, 1, activation="softmax")])
    model.compile(SGD(0.0), "sparse_categorical_crossentropy", weighted_metrics=["accuracy"])
    x, y = RNG.random((4, 2, 2, 1)), RNG.integers(0, 3, (4, 2, 2))
    weights = RNG.random((4, 2, 2))
    right = model.predict(x, verbose=0).argmax(-1) == y
    found = model.evaluate(x, y, sample_weight=weights, verbose=0)[1]
    assert found == pytest.approx((right * weights).sum() / weights.sum(), rel=1e-6)


@pytest.mark.parametrize("name", ["model.zip", "model.keras"])
def test_weighted_metrics_are_saved(tmp_path, name):
    model = weighted(metrics=["accuracy"], weighted_metrics=["accuracy"])
    expected = model.evaluate(X, Y, sample_weight=W, verbose=0, return_dict=True)
    model.save(tmp_path / name)
    again = minicnn.load_model(tmp_path / name)
    assert again.evaluate(X, Y, sample_weight=W, verbose=0, return_dict=True) == pytest.approx(expected)
