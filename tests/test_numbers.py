"""Numbers at the edges: what users will feed a model, and what becomes of it; and where NaN is said to begin."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest
from helpers import random

from minicnn import callbacks, losses, optimizers, utils
from minicnn.errors import InputError, NotFiniteError
from minicnn.layers import (
    Activation,
    BatchNormalization,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    GlobalAveragePooling2D,
    Input,
    Layer,
    MaxPooling2D,
)
from minicnn.models import Sequential
from minicnn.training import shards

X = np.random.default_rng(1).random((20, 8, 8, 1), np.float32)
Y = np.arange(20) % 3
ROWS = X.reshape(20, 64)


@pytest.fixture(autouse=True)
def seeded():
    utils.set_random_seed(0)


@pytest.fixture
def two_shards(monkeypatch):
    monkeypatch.setattr(shards, "MIN_MACS_PER_SHARD", 1)
    monkeypatch.setattr(shards, "_num_threads", 2)


def network(shape=(8, 8, 1), outputs=3, activation="softmax") -> Sequential:
    return Sequential([
        Input(shape), Conv2D(4, 3, padding="same", activation="relu"), BatchNormalization(), Dropout(0.2),
        MaxPooling2D(2, padding="same"), Flatten(), Dense(outputs, activation=activation),
    ])  # fmt: skip


def dense(units=3, activation="softmax", loss="sparse_categorical_crossentropy", rate=0.01) -> Sequential:
    """Four inputs; the weights of the outputs go from -1 to 1, so that inputs of s make logits from -4s to 4s."""
    model = Sequential([Input((4,)), Dense(units, activation=activation, name="last")])
    model.set_weights([np.ones((4, 1), np.float32) * np.linspace(-1, 1, units, dtype=np.float32), np.zeros(units)])
    model.compile(optimizers.SGD(rate), loss, metrics=["accuracy"])
    return model


def all_ways(model: Sequential, x, y, **fit) -> dict[str, list[float]]:
    """Fit, evaluate, predict and trace, after which every number is finite. Returns the history."""
    history = model.fit(x, y, **{"batch_size": 8, "epochs": 2, "verbose": 0, **fit}).history
    assert all(np.isfinite(values).all() for values in history.values()), history
    assert np.isfinite(model.evaluate(x, y, verbose=0)).all()
    assert np.isfinite(model.predict(x, verbose=0)).all()
    assert all(np.isfinite(w).all() for w in model.get_weights())
    trace = model.trace(x[:5], y[:5])
    assert np.isfinite([trace.loss, trace.loss_after]).all()
    assert all(np.isfinite(g).all() for layer in trace.layers for g in (layer.y, *layer.grads.values()))
    return history


def compiled(model: Sequential, optimizer="adam", loss="sparse_categorical_crossentropy") -> Sequential:
    model.compile(optimizer, loss, metrics=["accuracy"])
    return model


# ---- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1e4, -1e4])
@pytest.mark.parametrize(
    ("units", "activation", "loss", "y"),
    [
        (3, "softmax", "sparse_categorical_crossentropy", Y),
        (3, None, losses.SparseCategoricalCrossentropy(from_logits=True), Y),
        (3, "softmax", "categorical_crossentropy", np.eye(3)[Y]),
        (3, None, losses.CategoricalCrossentropy(from_logits=True), np.eye(3)[Y]),
        (3, "sigmoid", "categorical_crossentropy", np.eye(3)[Y]),
        (3, "softmax", "binary_crossentropy", np.eye(3)[Y]),
        (2, "sigmoid", "binary_crossentropy", np.eye(2)[Y % 2]),
        (2, None, losses.BinaryCrossentropy(from_logits=True), np.eye(2)[Y % 2]),
        (2, "tanh", "mse", np.eye(2)[Y % 2]),
        (2, "tanh", "mae", np.eye(2)[Y % 2]),
    ],
)
@pytest.mark.filterwarnings("ignore:BinaryCrossentropy judges")
def test_logits_of_ten_thousand(size, units, activation, loss, y):
    history = all_ways(dense(units, activation, loss), np.full((20, 4), size, np.float32), y)
    if not isinstance(loss, str) or loss.startswith("sparse"):
        assert history["loss"][0] > 100, "a cross-entropy of logits says how wrong they are, and is not cut off"


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "elu", "gelu", "sigmoid", "tanh", "softmax"])
@pytest.mark.parametrize("size", [1e4, -1e4])
def test_activations_of_ten_thousand(activation, size):
    model = Sequential([Input((4,)), Dense(6, activation=activation), Activation(activation), Dense(2)])
    all_ways(compiled(model, optimizers.SGD(1e-9), "mse"), np.full((20, 4), size, np.float32), np.eye(2)[Y % 2])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "loss",
    [losses.CategoricalCrossentropy(), losses.SparseCategoricalCrossentropy(), losses.BinaryCrossentropy(),
     losses.CategoricalCrossentropy(label_smoothing=0.1), losses.BinaryCrossentropy(label_smoothing=0.1)],
)  # fmt: skip
@pytest.mark.parametrize("p", [[1, 0, 0], [0, 1, 0], [0, 0, 0], [1, 1, 1]])
def test_probabilities_of_exactly_0_and_1(loss, dtype, p):
    p = np.array([p, p], dtype)
    y = np.array([0, 1]) if loss.sparse else np.eye(3, dtype=dtype)[:2]
    values, gradient = loss.per_sample(y, p), loss.gradient(y, p)
    assert values.dtype == gradient.dtype == dtype
    assert np.isfinite(values).all() and np.isfinite(gradient).all()
    assert (values >= 0).all() and values.max() <= 17  # - log 1e-7 = 16.1


@pytest.mark.parametrize(
    "x",
    [X * 0, X * 0 + 7, X * 0 + 255, X * 1e4, X * 1e10, X * 1e-30, (X * 1e-42).astype(np.float32)],
    ids=["black", "one grey", "white", "1e4", "1e10", "1e-30", "denormal"],
)
def test_constant_large_and_tiny_images(x):
    all_ways(compiled(network()), x, Y)


def test_one_class_only():
    history = all_ways(compiled(network()), X, Y * 0, epochs=15)
    assert history["loss"][-1] < history["loss"][0]


def test_zero_variance_in_batch_normalisation():
    x = X.copy()
    x[:, 3, 3] = 5
    model = Sequential([Input((8, 8, 1)), Flatten(), BatchNormalization(), Dense(3, activation="softmax")])
    all_ways(compiled(model), x, Y)
    assert model.get_weights()[3].min() >= 0, "a running variance is not negative"


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 3), (1, 1000, 2), (1000, 1, 1)])
@pytest.mark.parametrize("algorithm", ["auto", "im2col", "winograd", "fft", "shifted"])
def test_images_of_one_pixel_and_of_one_row(shape, algorithm):
    model = Sequential([
        Input(shape), Conv2D(3, 3, padding="same", activation="relu"), Conv2D(3, 3, padding="same"),
        BatchNormalization(), MaxPooling2D(2, padding="same"), GlobalAveragePooling2D(), Dense(3, activation="softmax"),
    ])  # fmt: skip
    model.set_algorithm(algorithm)
    x = random((8, *shape), dtype=np.float32)
    all_ways(compiled(model), x, Y[:8], batch_size=4, epochs=1)
    same = Sequential.from_config(model.get_config())
    same.set_weights(model.get_weights())
    same.set_algorithm("im2col")
    np.testing.assert_allclose(model.predict(x, verbose=0), same.predict(x, verbose=0), rtol=1e-3, atol=1e-5)


# ---- arrays ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["f2", ">f2", ">f4", "f8", ">f8", "u1", "i1", "i2", ">i4", "i8", "?", np.longdouble])
def test_numbers_of_every_kind_are_taken_as_float32(dtype):
    x = (X * 100).astype(dtype)
    results = []
    for samples, labels in ((x, Y.astype(">i8")), (x.astype(np.float32), Y)):
        utils.set_random_seed(3)
        model = compiled(network())
        history = all_ways(model, samples, labels)
        results.append((history, model.get_weights(), model.predict(samples, verbose=0)))
    (history, weights, predicted), (other, same, also) = results
    assert history == other and all(w.dtype == np.float32 for w in weights)
    for a, b in zip([*weights, predicted], [*same, also], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", ["f2", ">f4", "f8", "i4", "u1", "?"])
def test_targets_of_every_kind(dtype):
    all_ways(compiled(network(outputs=1, activation=None), loss="mse"), X, (Y > 0).astype(dtype))
    all_ways(compiled(network(outputs=1, activation="sigmoid"), loss="binary_crossentropy"), X, (Y > 0).astype(dtype))
    all_ways(compiled(network()), X, (Y > 0).astype(dtype))


@pytest.mark.parametrize(
    "change",
    [np.asfortranarray, lambda a: a[::-1], lambda a: np.repeat(a, 2, axis=0)[::2]],
    ids=["Fortran order", "backwards", "every second"],
)
@pytest.mark.parametrize("writeable", [True, False])
def test_arrays_of_every_layout_are_read_only(change, writeable):
    x, y = change(X), change(Y)
    plain = np.ascontiguousarray(x), np.ascontiguousarray(y)
    if not writeable:
        x.flags.writeable = y.flags.writeable = False
    results = []
    for samples, labels in ((x, y), plain):
        utils.set_random_seed(3)
        model = compiled(network())
        all_ways(model, samples, labels)
        results.append(model.get_weights())
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(x, plain[0])


# ---- batches without samples -----------------------------------------------------------------------------------------


def batches(*sizes: int):
    start = 0
    for size in sizes:
        yield X[start : start + size], Y[start : start + size]
        start += size


class Data(utils.PyDataset):
    def __init__(self, *sizes: int):
        super().__init__()
        self.items = list(batches(*sizes))

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return self.items[i]


def endless(*sizes: int):
    while True:
        yield from batches(*sizes)


@pytest.mark.parametrize(
    "make", [lambda *sizes: list(batches(*sizes)), Data, lambda *sizes: endless(*sizes)],
    ids=["list", "PyDataset", "generator"],
)  # fmt: skip
@pytest.mark.parametrize("sizes", [(8, 8, 0), (8, 0, 8), (0, 8, 8), (8, 0, 0, 8, 0)])
def test_a_batch_without_samples_is_left_out(make, sizes):
    weights = []
    for given in (sizes, [size for size in sizes if size]):
        utils.set_random_seed(2)
        model, steps = compiled(network()), len(given)
        model.fit(make(*given), steps_per_epoch=steps, epochs=2, verbose=0,
                  validation_data=endless(*given), validation_steps=steps)  # fmt: skip
        weights.append([*model.get_weights(), model.evaluate(make(*given), steps=steps, verbose=0)])
        assert model.optimizer.iterations == 4
    for a, b in zip(*weights, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("make", [lambda *sizes: list(batches(*sizes)), Data], ids=["list", "PyDataset"])
def test_nothing_but_empty_batches(make):
    model = compiled(network())
    for work in (model.fit, model.evaluate):
        with pytest.raises(InputError, match="no sample in any batch"):
            work(make(0, 0), verbose=0)


@pytest.mark.parametrize("steps", [5, 3, 7])
@pytest.mark.parametrize("make", [endless, Data], ids=["generator", "PyDataset"])
def test_a_backup_counts_empty_batches(tmp_path, make, steps):
    """Stopped in the middle of an epoch with empty batches, and resumed: as if it had not been stopped."""

    class StopError(Exception):
        pass

    def stop(batch, logs):
        if backup.place.epoch == 1 and batch == 1:
            raise StopError

    def fit(*more):
        utils.set_random_seed(2)
        model = compiled(network())
        model.fit(make(4, 0, 4, 4, 0), steps_per_epoch=steps, epochs=3, verbose=0, callbacks=[*more])
        return model.get_weights()

    whole = fit()
    backup = callbacks.BackupAndRestore(tmp_path / "backup", save_freq=1)
    with pytest.raises(StopError):
        fit(backup, callbacks.LambdaCallback(on_train_batch_end=stop))
    for a, b in zip(whole, fit(callbacks.BackupAndRestore(tmp_path / "backup", save_freq=1)), strict=True):
        np.testing.assert_array_equal(a, b)


# ---- a batch of one sample -------------------------------------------------------------------------------------------


def normalised() -> Sequential:
    return compiled(Sequential([
        Input((64,)), Dense(4), BatchNormalization(), BatchNormalization(), Dense(3, activation="softmax"),
    ]))  # fmt: skip


@pytest.mark.parametrize(
    ("fit", "cause"),
    [
        (lambda model: model.fit(ROWS, Y, batch_size=1, epochs=2, verbose=0), "The batch_size is 1"),
        (lambda model: model.fit(ROWS[:17], Y[:17], batch_size=8, epochs=2, verbose=0),
         "one sample that is left of 17 in batches of 8: take another batch_size, or 16 samples"),
        (lambda model: model.fit(((x.reshape(-1, 64), y) for x, y in endless(1, 4)), steps_per_epoch=2, epochs=2,
                                 verbose=0), "What is x gave this batch"),
    ],
)  # fmt: skip
def test_batch_normalisation_of_one_sample_warns_once_a_fit_and_names_the_cause(fit, cause):
    model = normalised()
    for _ in range(2):
        with pytest.warns(UserWarning, match="a batch of a single sample") as caught:
            fit(model)
        (warning,) = caught
        assert str(warning.message).startswith("batch_normalization_1 normalises")
        assert cause in str(warning.message)
        assert warning.filename == __file__
    assert np.isfinite(model.predict(ROWS, verbose=0)).all()


def test_batch_normalisation_of_one_image_or_of_a_frozen_layer_does_not_warn():
    compiled(network()).fit(X, Y, batch_size=1, verbose=0)
    model = normalised()
    for layer in model.layers[1:3]:
        layer.trainable = False
    model.fit(ROWS, Y, batch_size=1, verbose=0)
    model.evaluate(ROWS, Y, batch_size=1, verbose=0)


# ---- NaN and infinity ------------------------------------------------------------------------------------------------


RULES = {
    "SGD": lambda: optimizers.SGD(1e3), "momentum": lambda: optimizers.SGD(1e3, momentum=0.9),
    "Adam": lambda: optimizers.Adam(1e3), "RMSprop": lambda: optimizers.RMSprop(1e3),
    "clipnorm": lambda: optimizers.SGD(1e3, clipnorm=1.0), "decay": lambda: optimizers.AdamW(1e3),
    "global_clipnorm": lambda: optimizers.SGD(1e3, global_clipnorm=1.0),
}  # fmt: skip


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("norm", [True, False])
def test_a_learning_rate_of_a_thousand_runs_to_its_end(rule, norm, two_shards):
    model = network()
    if not norm:
        conv = Conv2D(4, 3, kernel_regularizer="l2")
        model = Sequential([Input((8, 8, 1)), conv, Flatten(), Dense(3, activation="softmax")])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        history = compiled(model, RULES[rule]()).fit(X, Y, batch_size=8, epochs=12, verbose=0).history
        model.evaluate(X, Y, verbose=0)
        model.predict(X, verbose=0)
        model.trace(X[:2], Y[:2])
        model(X)
    assert len(history["loss"]) == 12
    diverged = not np.isfinite(history["loss"]).all()
    assert [w.category for w in caught] == [UserWarning] * diverged, [str(w.message) for w in caught]


def test_the_warning_of_a_diverged_training_comes_once_and_says_what_to_do():
    model = dense(1, None, "mse", rate=1e3)
    with pytest.warns(UserWarning, match="The loss is inf in epoch") as caught:
        model.fit(random((20, 4)), random((20, 1)), epochs=20, verbose=0)
    (warning,) = caught
    for part in ("training has diverged", "(it is 1000; try a tenth)", "check_finite=True"):
        assert part in str(warning.message)
    assert warning.filename == __file__


def test_the_users_own_settings_of_numpy_hold_outside_the_steps():
    seen = []
    look = callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(np.geterr()))
    before = np.geterr()
    with np.errstate(all="raise"):
        here = np.geterr()
        compiled(network()).fit(X * 1e-30, Y, verbose=0, callbacks=look)
    assert seen == [here] and np.geterr() == before


class Odd(Layer):
    """Puts `value` into one number of `sample`, in training step `step`, on one of the two ways."""

    def __init__(self, value: float, step: int = 0, direction: str = "forward", sample: int = 0, **layer):
        super().__init__(**layer)
        self.value, self.step, self.direction, self.sample = value, step, direction, sample

    def _put(self, x, ctx, direction):
        if ctx.step == self.step and ctx.training and direction == self.direction:
            at = self.sample - ctx.first
            if 0 <= at < len(x):
                x = x.copy()
                x[(at,) + (0,) * (x.ndim - 1)] = self.value
        return x

    def forward(self, x, ctx):
        return self._put(x, ctx, "forward")

    def backward(self, dy, ctx):
        return self._put(dy, ctx, "backward")


def odd_model(odd: Odd) -> Sequential:
    return compiled(Sequential([
        Input((8, 8, 1)), Conv2D(2, 3, name="conv"), odd, BatchNormalization(), Flatten(), Dropout(0.3),
        Dense(3, activation="softmax"),
    ]))  # fmt: skip


def state_of(model: Sequential) -> list:
    slots = [slot for slots in model.optimizer.state.values() for slot in slots]
    return [*model.get_weights(), *(slot.copy() for slot in slots), model.optimizer.iterations]


class Snapshots(callbacks.Callback):
    """The model before each batch."""

    def on_train_batch_begin(self, batch, logs=None):
        self.last = state_of(self.model)


def assert_equal(a: list, b: list) -> None:
    for p, q in zip(a, b, strict=True):
        np.testing.assert_array_equal(p, q)


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("sample", [0, 7], ids=["first shard", "second shard"])
def test_check_finite_names_layer_direction_and_batch(direction, value, sample, two_shards):
    model, before = odd_model(Odd(value, 4, direction, sample, name="odd")), Snapshots()
    with pytest.raises(NotFiniteError) as caught:
        model.fit(X, Y, batch_size=8, epochs=4, verbose=0, callbacks=before, check_finite=True)  # 3 batches an epoch
    error = caught.value
    assert (error.where, error.direction, error.epoch, error.batch) == ("odd", direction, 1, 1)
    assert f"{value} appeared in the {direction} pass" in error.problem
    assert "in batch 2 of epoch 2" in error.problem
    if direction == "forward":
        assert f"{value} in its output y at index ({sample % 4}, 0, 0, 0)" in error.received
    assert "look for a division by 0 or an overflow in Odd" in error.fix
    assert_equal(state_of(model), before.last)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.direction, again.epoch, again.batch) == (str(error), direction, 1, 1)


def test_check_finite_changes_no_bit(two_shards):
    weights = []
    for check in (False, True):
        utils.set_random_seed(3)
        model = odd_model(Odd(np.nan, step=-1))
        weights.append([model.fit(X, Y, batch_size=8, epochs=2, verbose=0, check_finite=check).history["loss"],
                        *state_of(model)])  # fmt: skip
    assert_equal(*weights)


@pytest.mark.parametrize(
    ("rate", "where", "direction"), [(1e30, "last", "update"), (1e20, "the loss", "forward")], ids=["update", "loss"]
)
def test_check_finite_with_a_learning_rate_that_is_too_large(rate, where, direction):
    model, before = dense(1, None, "mse", rate=rate), Snapshots()
    x, y = random((20, 4)) * 1e5, random((20, 1)) * 1e5
    with pytest.raises(NotFiniteError) as caught:
        model.fit(x, y, epochs=20, verbose=0, callbacks=before, check_finite=True)
    error = caught.value
    assert (error.where, error.direction) == (where, direction)
    assert "scale the inputs to about -1 to 1" in error.fix
    assert f"a smaller learning rate, for example {rate / 10:g}" in error.fix
    assert np.isfinite(model.get_weights()[0]).all()
    assert_equal(state_of(model), before.last)


def test_check_finite_with_weights_that_are_not():
    model = odd_model(Odd(0, step=-1))
    model.layers[0].params["w"][0, 0, 0, 0] = np.nan
    with pytest.raises(NotFiniteError) as caught:
        model.fit(X, Y, verbose=0, check_finite=True)
    assert (caught.value.where, caught.value.direction) == ("conv", "forward")
    assert "its w was not finite before this step" in caught.value.fix


def test_check_finite_sees_what_the_loss_does_not():
    """An infinity that a later layer hides: 1 / inf is 0."""

    class Inverse(Layer):
        def forward(self, x, ctx):
            return 1 / (1 + abs(x))

        def backward(self, dy, ctx):
            return dy * 0

    def model():
        odd = Odd(np.inf, name="odd")
        return compiled(Sequential([Input((8, 8, 1)), odd, Inverse(), Flatten(), Dense(3, "softmax")]))

    assert np.isfinite(model().fit(X, Y, verbose=0).history["loss"]).all()
    with pytest.raises(NotFiniteError) as caught:
        model().fit(X, Y, verbose=0, check_finite=True)
    assert caught.value.where == "odd"


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_terminate_on_nan_names_the_place_and_leaves_the_model_whole(direction, two_shards, capsys):
    model, before = odd_model(Odd(np.nan, 4, direction, 7, name="odd")), Snapshots()
    history = model.fit(X, Y, batch_size=8, epochs=4, verbose=0, callbacks=[before, callbacks.TerminateOnNaN()]).history
    said = capsys.readouterr().out
    assert said.startswith("Training stops. odd: nan appeared in the ") and "in batch 2 of epoch 2" in said
    assert "What to do: look for a division by 0 or an overflow in Odd" in said
    assert len(history["loss"]) == 2 and np.isnan(history["loss"][1]) == (direction == "forward")
    assert_equal(state_of(model), before.last)


def test_terminate_on_nan_after_an_update(capsys):
    model = dense(1, None, "mse", rate=1e38)
    model.fit(random((20, 4)) * 1e5, random((20, 1)) * 1e5, epochs=3, verbose=0, callbacks=callbacks.TerminateOnNaN())
    said = capsys.readouterr().out
    assert said.startswith("Training stops. last: ") and "appeared by the update, in batch 1 of epoch 1" in said
    assert model.optimizer.iterations == 1


def test_terminate_on_nan_may_raise():
    model = Sequential([Input((4,)), Dense(1)])
    model.compile(optimizers.SGD(1e30), "mse")
    stop = callbacks.TerminateOnNaN(raise_error=True)
    with pytest.raises(NotFiniteError, match="appeared"):
        model.fit(random((20, 4)) * 1e5, random((20, 1)) * 1e5, epochs=9, verbose=0, callbacks=stop)


def test_terminate_on_nan_changes_no_bit(two_shards):
    weights = []
    for watch in ([], [callbacks.TerminateOnNaN()]):
        utils.set_random_seed(3)
        model = odd_model(Odd(np.nan, step=-1))
        model.fit(X, Y, batch_size=8, epochs=2, verbose=0, callbacks=watch)
        weights.append(state_of(model))
    assert_equal(*weights)


@pytest.mark.parametrize("check", [True, False])
def test_where_it_begins_on_a_gpu(check, monkeypatch, capsys):
    import strict_cupy

    strict_cupy.install(monkeypatch)
    model = odd_model(Odd(np.inf, 1, "backward", name="odd")).to("gpu")
    fit = {"batch_size": 8, "verbose": 0, "callbacks": callbacks.TerminateOnNaN(), "check_finite": check}
    if check:
        with pytest.raises(NotFiniteError, match="odd: inf appeared in the backward pass"):
            model.fit(X, Y, **fit)
    else:
        model.fit(X, Y, **fit)
        assert "odd: inf appeared in the backward pass" in capsys.readouterr().out
    assert model.optimizer.iterations == 1 and all(np.isfinite(w).all() for w in model.get_weights())
