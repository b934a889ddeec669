"""fit: what one step and one epoch do, what they call, and that they can be repeated."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from helpers import random

import minicnn
from minicnn import callbacks, optimizers, regularizers, utils
from minicnn.backend import to_host
from minicnn.constraints import maxnorm
from minicnn.errors import InputError
from minicnn.layers import (
    Activation,
    BatchNormalization,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    Input,
    MaxPooling2D,
    Rescaling,
)
from minicnn.models import Sequential


@pytest.fixture(autouse=True)
def seeded():
    utils.set_random_seed(0)


def dense_net(loss="sparse_categorical_crossentropy", optimizer="sgd", **last) -> Sequential:
    model = Sequential([Input((5,)), Dense(4, activation="relu"), Dense(3, activation="softmax", **last)])
    model.compile(optimizer, loss, metrics=["accuracy"])
    return model


def rows(n: int = 20) -> tuple[np.ndarray, np.ndarray]:
    return random((n, 5), seed=3, dtype=np.float32), np.arange(n) % 3


def in_float64(model: Sequential) -> Sequential:
    """The same model with float64 parameters: then it computes in float64."""
    for layer in model.flat_layers:
        for arrays in (layer.params, layer.state):
            arrays.update({name: array.astype(np.float64) for name, array in arrays.items()})
    return model


class Recorder(callbacks.Callback):
    """Writes down which hook was called with what."""

    def __init__(self):
        super().__init__()
        self.calls: list[tuple] = []

    def on_train_begin(self, logs=None):
        self.calls.append(("train_begin",))

    def on_train_end(self, logs=None):
        self.calls.append(("train_end", *sorted(logs)))

    def on_epoch_begin(self, epoch, logs=None):
        self.calls.append(("epoch_begin", epoch))

    def on_epoch_end(self, epoch, logs=None):
        self.calls.append(("epoch_end", epoch, *sorted(logs)))

    def on_train_batch_begin(self, batch, logs=None):
        self.calls.append(("batch_begin", batch))

    def on_train_batch_end(self, batch, logs=None):
        self.calls.append(("batch_end", batch, *sorted(logs)))

    def on_test_begin(self, logs=None):
        self.calls.append(("test_begin",))

    def on_test_end(self, logs=None):
        self.calls.append(("test_end",))


# ---- one step --------------------------------------------------------------------------------------------------------


def test_one_step_is_the_one_written_out_by_hand():
    model = in_float64(dense_net(optimizer=optimizers.SGD(0.1)))
    x, y = random((6, 5)), np.arange(6) % 3
    w1, b1, w2, b2 = model.get_weights()
    hidden = np.maximum(x @ w1 + b1, 0)
    z = hidden @ w2 + b2
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    loss = -np.log(p[np.arange(6), y]).mean()
    dz = (p - np.eye(3)[y]) / 6
    dhidden = (dz @ w2.T) * (hidden > 0)
    expected = [
        w1 - 0.1 * x.T @ dhidden,
        b1 - 0.1 * dhidden.sum(axis=0),
        w2 - 0.1 * hidden.T @ dz,
        b2 - 0.1 * dz.sum(axis=0),
    ]

    history = model.fit(x, y, batch_size=6, verbose=0).history
    for actual, wanted, before in zip(model.get_weights(), expected, (w1, b1, w2, b2), strict=True):
        assert actual.dtype == np.float64 and np.abs(wanted - before).max() > 1e-4
        np.testing.assert_allclose(actual, wanted, rtol=1e-12, atol=1e-14)
    assert history["loss"] == [pytest.approx(loss, rel=1e-12)]
    assert history["accuracy"] == [(p.argmax(axis=1) == y).mean()]


def test_the_mean_loss_of_an_epoch_weighs_every_sample_the_same():
    model = dense_net(optimizer=optimizers.SGD(0.0))
    x, y = rows(10)
    history = model.fit(x, y, batch_size=4, verbose=0).history  # batches of 4, 4 and 2
    loss, accuracy = model.evaluate(x, y, verbose=0)
    assert history["loss"][0] == pytest.approx(loss, rel=1e-6)
    assert history["accuracy"][0] == pytest.approx(accuracy, rel=1e-12)


def test_the_gradient_of_a_last_small_batch_is_its_own_mean():
    a, b = dense_net(), dense_net()
    b.set_weights(a.get_weights())
    x, y = rows(6)
    a.fit(x, y, batch_size=4, shuffle=False, verbose=0)
    b.fit(x[:4], y[:4], batch_size=4, shuffle=False, verbose=0)
    b.fit(x[4:], y[4:], batch_size=2, shuffle=False, verbose=0)
    for p, q in zip(a.get_weights(), b.get_weights(), strict=True):
        np.testing.assert_array_equal(p, q)


def test_a_regularizer_is_in_the_loss_and_in_the_gradient():
    penalised = in_float64(dense_net(kernel_regularizer=regularizers.L2(0.3), optimizer=optimizers.SGD(0.1)))
    plain = in_float64(dense_net(optimizer=optimizers.SGD(0.1)))
    plain.set_weights(penalised.get_weights())
    x, y = rows(8)
    w = penalised.get_weights()[2]
    penalty = 0.3 * (w**2).sum()
    assert penalised.evaluate(x, y, verbose=0)[0] == pytest.approx(
        plain.evaluate(x, y, verbose=0)[0] + penalty, rel=1e-9
    )
    losses = [
        model.fit(x, y, batch_size=8, shuffle=False, verbose=0).history["loss"][0] for model in (penalised, plain)
    ]
    assert losses[0] == pytest.approx(losses[1] + penalty, rel=1e-9)
    np.testing.assert_allclose(penalised.get_weights()[2], plain.get_weights()[2] - 0.1 * 0.6 * w, rtol=1e-9)
    np.testing.assert_array_equal(penalised.get_weights()[0], plain.get_weights()[0])


def test_a_constraint_holds_after_every_step():
    model = dense_net(kernel_constraint=maxnorm(0.1), optimizer=optimizers.SGD(1.0))
    lengths = []
    step_end = callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: lengths.append(np.linalg.norm(model.get_weights()[2], axis=0).max())
    )
    model.fit(*rows(), batch_size=5, callbacks=[step_end], verbose=0)
    assert len(lengths) == 4 and max(lengths) <= 0.1 + 1e-6
    assert np.linalg.norm(model.get_weights()[0], axis=0).max() > 0.1


def test_frozen_layers_do_not_change():
    model = Sequential([Input((5,)), Dense(4), BatchNormalization(), Dense(4), Dense(3, activation="softmax")])
    model.compile("adam", "sparse_categorical_crossentropy")
    for layer in (*model.layers[:2], model.layers[3]):
        layer.trainable = False
    before = model.get_weights()
    model.fit(*rows(), epochs=2, verbose=0)
    changed = [not np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True)]
    assert changed == [False] * 6 + [True] * 2 + [False] * 2  # w, b; gamma, beta, mean, variance; w, b; w, b


def test_batch_norm_statistics_move_once_a_step():
    model = Sequential([Input((5,)), BatchNormalization(momentum=0.9), Dense(3, activation="softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    x, y = rows(8)
    model.fit(x, y, batch_size=8, verbose=0)
    _, _, mean, variance, *_ = model.get_weights()
    np.testing.assert_allclose(mean, 0.1 * x.mean(axis=0), rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(variance, 0.9 + 0.1 * x.var(axis=0), rtol=1e-5)


def test_everything_stays_float32():
    model = Sequential(
        [
            Input((8, 8, 1)),
            Rescaling(1 / 255),
            Conv2D(3, 3, kernel_regularizer="l2"),
            Activation("relu"),
            MaxPooling2D(),
            Dropout(0.2),
            BatchNormalization(),
            Flatten(),
            Dense(3, activation="softmax", kernel_constraint=maxnorm(3)),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    x = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 1), dtype=np.uint8)
    model.fit(x.astype(np.float64), np.arange(20) % 3, epochs=2, verbose=0)
    arrays = [array for layer in model.layers for array in (*layer.params.values(), *layer.state.values())]
    arrays += [slot for slots in model.optimizer.state.values() for slot in slots]
    assert len(arrays) == 8 + 12 and {array.dtype for array in arrays} == {np.dtype(np.float32)}


# ---- data ------------------------------------------------------------------------------------------------------------


def seen_batches(model: Sequential, *arguments, **options) -> list[np.ndarray]:
    """The inputs of the training batches, in their order."""
    seen: list[np.ndarray] = []
    as_input = model.as_input
    model.as_input = lambda x: (seen.append(to_host(x).copy()), as_input(x))[1]
    model.fit(*arguments, verbose=0, **options)
    return seen


def numbered(n: int) -> tuple[np.ndarray, np.ndarray]:
    return np.arange(n, dtype=np.float32).reshape(n, 1) / n, np.arange(n) / n


def line() -> Sequential:
    model = Sequential([Input((1,)), Dense(1)])
    model.compile("sgd", "mse")
    return model


def test_shuffling_is_of_samples_and_anew_in_every_epoch():
    x, y = numbered(12)
    batches = seen_batches(line(), x, y, batch_size=4, epochs=2)
    first, second = np.concatenate(batches[:3]), np.concatenate(batches[3:])
    np.testing.assert_array_equal(np.sort(first, axis=0), x)
    np.testing.assert_array_equal(np.sort(second, axis=0), x)
    assert not np.array_equal(first, x) and not np.array_equal(first, second)
    assert {frozenset(b.ravel()) for b in batches[:3]} != {frozenset(b.ravel()) for b in np.split(x, 3)}


def test_shuffled_samples_keep_their_targets():
    x, y = numbered(50)
    model = line()
    model.compile(optimizers.SGD(0.5), "mse")
    assert model.fit(x, y, epochs=300, verbose=0).history["loss"][-1] < 1e-8


def test_without_shuffle_the_order_stays():
    x, y = numbered(10)
    batches = seen_batches(line(), x, y, batch_size=4, shuffle=False)
    np.testing.assert_array_equal(np.concatenate(batches), x)
    assert [len(batch) for batch in batches] == [4, 4, 2]


def test_validation_split_holds_back_the_last_samples():
    x, y = numbered(10)
    batches = seen_batches(line(), x, y, batch_size=10, validation_split=0.2)
    np.testing.assert_array_equal(np.sort(batches[0], axis=0), x[:8])
    np.testing.assert_array_equal(batches[1], x[8:])


def test_validation_data_wins_over_validation_split():
    x, y = numbered(10)
    batches = seen_batches(line(), x, y, batch_size=10, validation_split=0.2, validation_data=(x[:3], y[:3]))
    assert [len(batch) for batch in batches] == [10, 3]


def test_validation_is_what_evaluate_says():
    model = dense_net()
    x, y = rows(30)
    history = model.fit(x[:20], y[:20], epochs=2, validation_data=(x[20:], y[20:]), verbose=0).history
    assert list(history) == ["loss", "accuracy", "val_loss", "val_accuracy"]
    assert [len(values) for values in history.values()] == [2] * 4
    assert [history["val_loss"][-1], history["val_accuracy"][-1]] == model.evaluate(x[20:], y[20:], verbose=0)


def test_lists_and_integers_and_bytes_are_taken():
    model = line()
    model.fit([0, 1, 2, 3], [1.0, 3.0, 5.0, 7.0], epochs=2, validation_split=0.5, verbose=0)
    images = Sequential([Input((4, 4, 1)), Flatten(), Dense(2, activation="softmax")])
    images.compile("sgd", "sparse_categorical_crossentropy")
    images.fit(np.full((6, 4, 4, 1), 255, np.uint8), np.arange(6, dtype=np.uint8)[:, None] % 2, verbose=0)
    assert np.isfinite(images.get_weights()[0]).all()


def test_a_generator_gives_the_same_as_arrays():
    x, y = rows(12)
    a, b, c = dense_net(), dense_net(), dense_net()
    for model in (b, c):
        model.set_weights(a.get_weights())

    def for_ever():
        while True:
            for start in range(0, 12, 4):
                yield x[start : start + 4], y[start : start + 4]

    class Batches:  # can be iterated again, and says how many there are
        def __len__(self):
            return 3

        def __iter__(self):
            return ((x[start : start + 4], y[start : start + 4]) for start in range(0, 12, 4))

    history = a.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0).history
    assert b.fit(for_ever(), steps_per_epoch=3, epochs=2, verbose=0).history == history
    assert c.fit(Batches(), epochs=2, validation_data=Batches(), verbose=0).history["loss"] == history["loss"]
    for p, q, r in zip(a.get_weights(), b.get_weights(), c.get_weights(), strict=True):
        np.testing.assert_array_equal(p, q)
        np.testing.assert_array_equal(p, r)


def test_a_generator_builds_a_model_that_knows_no_shape():
    model = Sequential([Dense(3, activation="softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    history = model.fit(((*rows(7),) for _ in range(4)), steps_per_epoch=4, verbose=0)
    assert model.sample_shape == (5,) and "accuracy" in history.history


def test_steps_per_epoch_ends_an_epoch_of_arrays_early():
    x, y = numbered(20)
    batches = seen_batches(line(), x, y, batch_size=4, steps_per_epoch=2, epochs=2)
    assert [len(batch) for batch in batches] == [4] * 4


# ---- epochs and callbacks --------------------------------------------------------------------------------------------


def test_fewer_steps_than_batches_go_on_in_the_next_epoch():
    """As with generators and sequences, and in Keras: no part of the data is left out for ever."""
    x, y = numbered(10)
    seen = seen_batches(line(), x, y, batch_size=4, steps_per_epoch=2, epochs=3, shuffle=False)
    for batch, expected in zip(seen, [x[:4], x[4:8], x[8:]] * 2, strict=True):
        np.testing.assert_array_equal(batch, expected)
    shuffled = seen_batches(line(), x, y, batch_size=4, steps_per_epoch=2, epochs=3)
    for whole in (shuffled[:3], shuffled[3:]):  # each pass shows each sample once
        np.testing.assert_array_equal(np.sort(np.concatenate(whole), axis=0), x)
    assert not np.array_equal(np.concatenate(shuffled[:3]), np.concatenate(shuffled[3:]))


def test_more_steps_than_batches_are_more_than_a_pass():
    seen = seen_batches(line(), *numbered(10), batch_size=4, steps_per_epoch=5, shuffle=False)
    assert [len(batch) for batch in seen] == [4, 4, 2, 4, 4]


def test_steps_per_epoch_give_the_weights_that_keras_gives():
    """Keras 3.15: two whole epochs in four of five steps out of ten."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(80, 4)).astype("f"), rng.normal(size=(80, 1)).astype("f")
    model = Sequential([Input((4,)), Dense(1, use_bias=False, kernel_initializer="ones")])
    model.compile(optimizers.SGD(0.05), "mse")
    model.fit(x, y, batch_size=8, steps_per_epoch=5, epochs=4, shuffle=False, verbose=0)
    np.testing.assert_allclose(model.get_weights()[0].ravel(), [0.118, 0.263, -0.003, -0.064], atol=5e-4)


@pytest.mark.parametrize("what", ["evaluate", "predict"])
def test_a_callback_can_end_evaluate_and_predict(what):
    class Stop(callbacks.Callback):
        batches = 0

        def on_test_batch_end(self, batch, logs=None):
            self.batches += 1
            self.model.stop_evaluating = batch == 4

        def on_predict_batch_end(self, batch, logs=None):
            self.batches += 1
            self.model.stop_predicting = batch == 4

    model, stop = dense_net(), Stop()
    for _ in range(2):  # the second call begins anew
        stop.batches = 0
        data = rows(60) if what == "evaluate" else rows(60)[:1]
        result = getattr(model, what)(*data, batch_size=3, verbose=0, callbacks=[stop])
        assert stop.batches == 5
    if what == "predict":
        assert len(result) == 15


def test_callbacks_are_called_in_order():
    recorder = Recorder()
    model = dense_net()
    model.fit(*rows(10), batch_size=5, epochs=2, validation_split=0.5, callbacks=[recorder], verbose=0)
    epoch_logs = ("accuracy", "loss", "val_accuracy", "val_loss")
    assert recorder.calls == [
        ("train_begin",),
        *(
            call
            for epoch in (0, 1)
            for call in (
                ("epoch_begin", epoch),
                ("batch_begin", 0),
                ("batch_end", 0, "accuracy", "loss"),
                ("test_begin",),
                ("test_end",),
                ("epoch_end", epoch, *epoch_logs),
            )
        ),
        ("train_end", *epoch_logs),
    ]
    assert recorder.model is model
    assert recorder.params == {"verbose": 0, "epochs": 2, "steps": 1}


def test_initial_epoch_counts_on():
    recorder = Recorder()
    history = dense_net().fit(*rows(), epochs=5, initial_epoch=3, callbacks=recorder, verbose=0)
    assert history.epoch == [3, 4] and len(history.history["loss"]) == 2
    assert dense_net().fit(*rows(), epochs=2, initial_epoch=2, verbose=0).epoch == []


def test_stop_training_ends_the_epoch_and_the_training():
    model = dense_net()
    seen = []

    def stop(batch, logs):
        seen.append(batch)
        model.stop_training = batch == 1

    history = model.fit(
        *rows(), batch_size=5, epochs=3, callbacks=[callbacks.LambdaCallback(on_train_batch_end=stop)], verbose=0
    )
    assert seen == [0, 1] and history.epoch == [0]
    assert model.fit(*rows(), epochs=2, verbose=0).epoch == [0, 1]  # a new call starts anew


def test_callbacks_of_evaluate_and_predict():
    seen = []
    spy = callbacks.LambdaCallback(
        on_test_begin=lambda logs: seen.append("test"),
        on_test_batch_end=lambda step, logs: seen.append((step, logs["loss"])),
        on_test_end=lambda logs: seen.append(logs["loss"]),
        on_predict_begin=lambda logs: seen.append("predict"),
        on_predict_batch_begin=lambda step, logs: seen.append(step),
        on_predict_batch_end=lambda step, logs: seen.append((step, len(logs["outputs"]))),
        on_predict_end=lambda logs: seen.append("done"),
    )
    model = dense_net()
    x, y = random((5, 5)), np.arange(5) % 3
    loss, _ = model.evaluate(x, y, batch_size=3, verbose=0, callbacks=spy)
    first, _ = model.evaluate(x[:3], y[:3], verbose=0)
    assert seen == ["test", (0, first), (1, loss), loss]
    seen.clear()
    model.predict(x, batch_size=3, verbose=0, callbacks=[spy])
    assert seen == ["predict", 0, (0, 3), 1, (1, 2), "done"]


def test_a_callback_that_evaluates_does_not_disturb_the_metrics():
    a, b = dense_net(), dense_net()
    b.set_weights(a.get_weights())
    x, y = rows(12)
    look = callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: b.evaluate(x[:3], y[:3], verbose=0))
    undisturbed = a.fit(x, y, batch_size=4, shuffle=False, verbose=0).history
    assert b.fit(x, y, batch_size=4, shuffle=False, callbacks=[look], verbose=0).history == undisturbed


def test_history_is_returned_and_kept():
    model = dense_net()
    history = model.fit(*rows(), epochs=2, verbose=0)
    assert model.history is history and history.epoch == [0, 1]
    assert all(type(value) is float for values in history.history.values() for value in values)


def test_the_learning_rate_can_be_set_between_epochs():
    model = dense_net(optimizer=optimizers.SGD(0.1))
    before = []

    def set_rate(epoch, logs=None):
        model.optimizer.learning_rate = 0.0
        before.append(model.get_weights())

    model.fit(*rows(), callbacks=[callbacks.LambdaCallback(on_epoch_begin=set_rate)], verbose=0)
    for old, new in zip(before[0], model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


# ---- repeatable ------------------------------------------------------------------------------------------------------

TRAIN = """
import numpy as np, minicnn, hashlib
from minicnn.layers import *
from minicnn.models import Sequential
from minicnn.training import shards
shards.MIN_MACS_PER_SHARD = 10
minicnn.set_num_threads(2)
minicnn.utils.set_random_seed(7)
model = Sequential([Input((6, 6, 1)), Conv2D(3, 3, activation="relu"), Dropout(.3), BatchNormalization(), Flatten(),
                    Dense(3, activation="softmax")])
model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
x = np.random.default_rng(0).random((21, 6, 6, 1), dtype=np.float32)
model.fit(x, np.arange(21) % 3, batch_size=8, epochs=2, verbose=0)
digest = hashlib.sha256(b"".join(w.tobytes() for w in model.get_weights())).hexdigest()
"""


@pytest.mark.cpu
def test_the_same_seed_gives_the_same_weights_bit_for_bit(monkeypatch):
    from minicnn.training import shards

    monkeypatch.setattr(shards, "MIN_MACS_PER_SHARD", shards.MIN_MACS_PER_SHARD)
    digests = []
    try:
        for _ in range(2):
            names: dict = {}
            exec(TRAIN, names)
            digests.append(names["digest"])
    finally:
        minicnn.set_num_threads(None)
    other = subprocess.run(
        [sys.executable, "-c", TRAIN + "print(digest)"],
        env={**os.environ, "PYTHONHASHSEED": "12345", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert digests[0] == digests[1] == other.stdout.strip()


def test_another_seed_gives_other_weights():
    models = []
    for seed in (1, 2):
        utils.set_random_seed(seed)
        models.append(dense_net())
    assert not np.array_equal(models[0].get_weights()[0], models[1].get_weights()[0])


# ---- it learns -------------------------------------------------------------------------------------------------------


@pytest.mark.cpu
def test_celsius_to_fahrenheit():
    utils.set_random_seed(0)
    model = Sequential([Dense(units=1, input_shape=[1])])
    model.compile(loss="mean_squared_error", optimizer=optimizers.Adam(0.1))
    celsius = np.array([-40, -10, 0, 8, 15, 22, 38], dtype=float)
    fahrenheit = np.array([-40, 14, 32, 46.4, 59, 71.6, 100.4], dtype=float)
    history = model.fit(celsius, fahrenheit, epochs=1500, verbose=0)
    w, b = model.get_weights()
    assert w[0, 0] == pytest.approx(1.8, abs=0.02) and b[0] == pytest.approx(32, abs=0.5)
    assert history.history["loss"][-1] < 0.1 < history.history["loss"][0]
    assert model.predict([100.0], verbose=0)[0, 0] == pytest.approx(212, abs=1.5)


def test_a_small_cnn_learns_twenty_images_by_heart():
    from minicnn.datasets import toy

    utils.set_random_seed(1)
    (x, y), _ = toy.load_data()
    x, y = x[:20, ..., None].astype(np.float32) / 255, y[:20]
    model = Sequential(
        [
            Input((28, 28, 1)),
            Conv2D(8, 3, activation="relu"),
            MaxPooling2D(),
            Conv2D(8, 3, activation="relu"),
            MaxPooling2D(),
            Flatten(),
            Dense(10, activation="softmax"),
        ]
    )
    model.compile(optimizers.Adam(0.01), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x, y, batch_size=10, epochs=40, verbose=0)
    loss, accuracy = model.evaluate(x, y, verbose=0)
    assert accuracy == 1 and loss < 0.05


def finite(parts=3):
    x, y = rows()
    return ((x[k::parts], y[k::parts]) for k in range(parts))


def test_a_generator_without_steps_runs_to_its_end():
    model, (x, y) = dense_net(), rows()
    assert model.evaluate(finite(), verbose=0) == pytest.approx(model.evaluate(x, y, verbose=0), rel=1e-5)
    parts = np.concatenate([x[k::3] for k in range(3)])
    np.testing.assert_allclose(model.predict(finite(), verbose=0), model.predict(parts, verbose=0), rtol=1e-5)
    model.fit(finite(), validation_data=finite(), verbose=0)
    assert model.optimizer.iterations == 3
    history = model.fit(lists := list(finite()), epochs=2, validation_data=finite(), validation_freq=2, verbose=0)
    assert len(history.history["loss"]) == 2 and len(lists) == 3
    assert len(history.history["val_loss"]) == 1


def test_a_generator_without_steps_is_good_for_one_epoch():
    """What would be found out after the first epoch is said before it."""
    for arguments in ({"x": finite()}, {"x": list(finite()), "validation_data": finite()}):
        model = dense_net()
        with pytest.raises(InputError, match="how long an epoch is"):
            model.fit(**arguments, epochs=2, verbose=0)
        assert model.optimizer.iterations == 0
    with pytest.raises(InputError, match="ended too early"):
        dense_net().evaluate(iter([]), verbose=0)
