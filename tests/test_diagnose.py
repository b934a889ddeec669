"""Diagnosis: every finding with a model or data that has the fault, and silence about those that have none."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from helpers import random

from minicnn.constraints import maxnorm
from minicnn.datasets import toy
from minicnn.errors import InputError
from minicnn.initializers import RandomNormal
from minicnn.inspect.diagnose import Diagnosis, Finding
from minicnn.layers import (
    Activation,
    BatchNormalization,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    Input,
    LeakyReLU,
    MaxPooling2D,
    ReLU,
    Rescaling,
    Softmax,
)
from minicnn.losses import BinaryCrossentropy, CategoricalCrossentropy, SparseCategoricalCrossentropy
from minicnn.models import Sequential
from minicnn.optimizers import SGD, Adam
from minicnn.utils import set_random_seed, to_categorical

SPARSE = "sparse_categorical_crossentropy"
CHECKS = {
    "input scale", "order of the labels", "class balance", "last layer", "train/validation overlap", "initial loss",
    "loss", "one class only", "batch normalisation", "dead ReLUs", "NaN", "update:weight ratio",
    "gradient flow", "vanishing gradients", "exploding gradients",
}  # fmt: skip


@pytest.fixture(scope="module")
def clothes():
    """Small grey images of ten kinds of clothes: ((x, y), (x_test, y_test))."""
    return tuple((x[..., None].astype(np.float32) / 255, y) for x, y in toy.load_data(n_train=400, n_test=100))


def made(*layers, shape=(28, 28, 1), loss=SPARSE, optimizer="adam", seed=0) -> Sequential:
    set_random_seed(seed)
    model = Sequential([Input(shape), *layers])
    model.compile(optimizer, loss, metrics=["accuracy"])
    return model


def cnn(**config) -> Sequential:
    return made(
        Conv2D(6, 3, activation="relu"), MaxPooling2D(), Conv2D(8, 3, activation="relu"), MaxPooling2D(), Flatten(),
        Dense(10, activation="softmax"), **config,
    )  # fmt: skip


def dense(**config) -> Sequential:
    return made(Flatten(), Dense(32, activation="relu"), Dense(10, activation="softmax"), **config)


def problems(diagnosis: Diagnosis) -> list[str]:
    """The checks that found something."""
    return sorted({finding.check for finding in diagnosis if finding.severity != "ok"})


def only(diagnosis: Diagnosis, check: str) -> Finding:
    (finding,) = (f for f in diagnosis[check] if f.severity != "ok")
    assert finding.text and finding.reason and finding.fix
    return finding


# --- Healthy ------------------------------------------------------------------------------------------------


def documents_cifar_network(scale: int) -> Sequential:
    """The order of its layers is that of the documents; with scale 1, so are the sizes."""
    blocks: list = []
    for filters, pool in ((32, False), (64, True), (64, True), (128, False)):
        blocks += [Conv2D(filters // scale, 3, padding="same"), Activation("relu")]
        blocks += [*([MaxPooling2D(2)] if pool else []), Dropout(0.2), BatchNormalization()]
    blocks += [Flatten(), Dropout(0.2)]
    for units in (256, 128):
        blocks += [Dense(units // scale, kernel_constraint=maxnorm(3)), Activation("relu")]
        blocks += [Dropout(0.2), BatchNormalization()]
    return made(*blocks, Dense(10, activation="softmax"), shape=(32, 32, 3), loss="categorical_crossentropy", seed=21)


@pytest.mark.parametrize("epochs", [0, 3])
@pytest.mark.parametrize("make", [cnn, dense])
def test_no_false_alarm_on_clothes(make, epochs, clothes):
    (x, y), validation = clothes
    model = make()
    model.fit(x, y, epochs=epochs, verbose=0)
    diagnosis = model.diagnose(x, y, validation_data=validation)
    assert diagnosis.ok and problems(diagnosis) == []
    assert {finding.check for finding in diagnosis} >= {"input scale", "dead ReLUs", "NaN", "train/validation overlap"}
    assert model.sanity_check(x, y).ok


@pytest.mark.parametrize("epochs", [0, 3])
def test_no_false_alarm_on_the_documents_network(epochs):
    (x, y), (x_test, y_test) = toy.load_data(color=True, n_train=160, n_test=20)
    x, x_test, y, y_test = x / 255, x_test / 255, to_categorical(y, 10), to_categorical(y_test, 10)
    model = documents_cifar_network(scale=8)
    model.fit(x, y, batch_size=64, epochs=epochs, verbose=0)
    diagnosis = model.diagnose(x, y, validation_data=(x_test, y_test))
    # After a few steps the running statistics are indeed not yet those of the data: that is said, as a note.
    assert diagnosis.ok and set(problems(diagnosis)) <= {"batch normalisation", "one class only"}
    assert model.sanity_check(x, y).ok


@pytest.mark.parametrize(
    ("layer", "loss", "y"),
    [
        (Dense(1), "mse", np.linspace(-40, 100, 40)),
        (Dense(1, activation="sigmoid"), "binary_crossentropy", np.arange(40) * 7 % 3 % 2),
        (Dense(3), CategoricalCrossentropy(from_logits=True), np.eye(3)[np.arange(40) * 7 % 3]),
        (Dense(3, activation="sigmoid"), "binary_crossentropy", np.eye(3)[np.arange(40) * 7 % 3]),
    ],
)
def test_no_false_alarm_on_other_outputs(layer, loss, y):
    x = random((40, 5), 1)
    model = made(copy.deepcopy(layer), shape=(5,), loss=loss, optimizer=Adam(0.01))
    assert problems(model.diagnose(x, y)) == []


# --- It only looks ------------------------------------------------------------------------------------------


def everything(model):
    slots = {key: [slot.tobytes() for slot in slots] for key, slots in model.optimizer.state.items()}
    weights = [array.tobytes() for array in model.get_weights()]
    return weights, slots, model.optimizer.iterations, copy.deepcopy(model.rng.bit_generator.state), vars(model).keys()


@pytest.mark.parametrize("check", ["diagnose", "sanity_check"])
def test_the_model_does_not_change(check, clothes):
    (x, y), _ = clothes
    model = made(Conv2D(4, 3), BatchNormalization(), ReLU(), Dropout(0.3), Flatten(), Dense(10, activation="softmax"))
    model.fit(x[:64], y[:64], epochs=1, verbose=0)
    before, history, kept = everything(model), model.history, x.tobytes()
    first, second = (getattr(model, check)(x, y) for _ in range(2))
    assert everything(model) == before and model.history is history and x.tobytes() == kept
    assert first == second


def test_an_unbuilt_model_stays_unbuilt():
    model = Sequential([Dense(3, activation="softmax")])
    model.compile("sgd", SPARSE)
    state = copy.deepcopy(model.rng.bit_generator.state)
    assert model.diagnose(random((30, 4)), np.arange(30) * 7 % 3).ok
    assert not model.built and model.rng.bit_generator.state == state


def test_what_it_needs(clothes):
    (x, y), _ = clothes
    with pytest.raises(InputError, match="compile"):
        Sequential([Input((28, 28, 1)), Flatten(), Dense(10)]).diagnose(x, y)
    with pytest.raises(InputError, match="different lengths"):
        dense().diagnose(x, y[:-1])
    with pytest.raises(InputError, match="do not fit"):
        dense().diagnose(x[:, :20], y)
    with pytest.raises(InputError, match="cannot be compared"):
        dense().diagnose(x, y, validation_data=x)


def test_it_reads_well(clothes):
    (x, y), _ = clothes
    diagnosis = dense().diagnose(x * 255, y)
    lines = str(diagnosis).splitlines()
    assert lines[0].startswith("Diagnosis of sequential") and "warning" in lines[0] and not diagnosis.ok
    worst = next(line for line in lines if line.startswith("WARNING"))
    assert lines[lines.index(worst) + 1].strip().startswith("Why: ")
    assert lines[lines.index(worst) + 2].strip().startswith("Fix: ")
    order = [finding.severity for finding in diagnosis.findings]
    assert order == sorted(order, key=["error", "warning", "note", "ok"].index)
    assert all(line.startswith("ok ") for line in lines[-3:])
    assert {finding.check for finding in diagnosis} <= CHECKS


# --- The data -----------------------------------------------------------------------------------------------


def test_pixels_up_to_255(clothes):
    (x, y), _ = clothes
    finding = only(dense().diagnose(x * 255, y), "input scale")
    assert finding.measured > 200 and "pixels" in finding.text and "/ 255" in finding.fix


def test_large_features():
    finding = only(made(Dense(1), shape=(3,), loss="mse").diagnose(random((50, 3)) * 1000, np.ones(50)), "input scale")
    assert "pixels" not in finding.text and "x_train.mean" in finding.fix


@pytest.mark.parametrize("first", [Rescaling(1 / 255), BatchNormalization()])
def test_pixels_that_the_model_scales_itself(first, clothes):
    (x, y), _ = clothes
    model = made(first, Flatten(), Dense(10, activation="softmax"))
    assert "input scale" not in problems(model.diagnose(x * 255, y))


def test_sorted_labels(clothes):
    (x, y), _ = clothes
    order = np.argsort(y, kind="stable")
    finding = only(dense().diagnose(x[order], y[order]), "order of the labels")
    assert finding.measured == 10 and "10 runs" in finding.text


def test_an_unbalanced_class(clothes):
    (x, y), _ = clothes
    chosen = np.r_[np.flatnonzero(y == 3), np.flatnonzero(y != 3)[:5]]
    chosen = np.random.default_rng(0).permutation(chosen)
    finding = only(dense().diagnose(x[chosen], y[chosen]), "class balance")
    assert finding.measured == pytest.approx(40 / 45) and "class 3" in finding.text


def test_validation_samples_that_were_trained_on(clothes):
    (x, y), (x_test, y_test) = clothes
    leaked = np.concatenate([x_test, x[5:12]]), np.concatenate([y_test, y[5:12]])
    finding = only(dense().diagnose(x, y, validation_data=leaked), "train/validation overlap")
    assert finding.measured == 7 and finding.severity == "warning" and "7 of its 107" in finding.text


def test_an_overlap_is_seen_in_another_dtype():
    x = np.arange(40, dtype=np.uint8).reshape(20, 2)
    model = made(Dense(2, activation="softmax"), shape=(2,))
    diagnosis = model.diagnose(x, np.arange(20) % 2, validation_data=(x[:3].astype(np.float64), np.zeros(3)))
    assert only(diagnosis, "train/validation overlap").measured == 3


@pytest.mark.parametrize("check", ["diagnose", "sanity_check"])
def test_nan_in_the_data(check, clothes):
    (x, y), _ = clothes
    x = x.copy()
    x[7, 1, 2, 0], x[9] = np.nan, np.inf
    finding = only(getattr(dense(), check)(x, y), "NaN")
    assert finding.where == "x" and finding.measured == 785 and "(7, 1, 2, 0)" in finding.text


# --- The last layer -----------------------------------------------------------------------------------------

LOGITS = SparseCategoricalCrossentropy(from_logits=True)


@pytest.mark.parametrize(
    ("layers", "loss"),
    [
        ([Dense(10, activation="softmax"), Softmax()], SPARSE),
        ([Dense(10), Softmax(), Dropout(0.2), Activation("softmax")], SPARSE),
        ([Dense(10, activation="softmax")], LOGITS),
    ],
)
def test_softmax_twice(layers, loss, clothes):
    (x, y), _ = clothes
    finding = only(made(Flatten(), *layers, loss=loss).diagnose(x, y), "softmax twice")
    assert finding.severity == "error" and finding.measured == pytest.approx(-np.log(np.e / (np.e + 9)))
    assert "1.461" in finding.reason
    assert ("from_logits" in finding.text) == (loss is LOGITS)


def test_sigmoid_twice():
    model = made(Dense(1, activation="sigmoid"), shape=(4,), loss=BinaryCrossentropy(from_logits=True))
    finding = only(model.diagnose(random((30, 4)), np.arange(30) * 7 % 2), "sigmoid twice")
    assert finding.measured == pytest.approx(0.3133, abs=1e-4)


def test_no_softmax(clothes):
    (x, y), _ = clothes
    finding = only(made(Flatten(), Dense(10)).diagnose(x, y), "last layer")
    assert finding.severity == "error" and "from_logits=True" in finding.fix and finding.measured < 0
    assert problems(made(Flatten(), Dense(10)).diagnose(x, y)) == ["last layer"]  # nothing that follows from it


# --- What the model does ------------------------------------------------------------------------------------


def test_an_initial_loss_that_is_too_large(clothes):
    (x, y), _ = clothes
    model = dense()
    model.layers[-1].params["w"] *= 30
    finding = only(model.diagnose(x, y), "initial loss")
    assert finding.measured > 5 and "ln 10 = 2.303" in finding.text
    wide = made(Flatten(), Dense(10, activation="softmax", kernel_initializer=RandomNormal(stddev=3.0)))
    assert only(wide.sanity_check(x, y), "initial loss").severity == "warning"


def test_dead_relus(clothes):
    (x, y), _ = clothes
    model = made(Conv2D(8, 3), ReLU(), Flatten(), Dense(10, activation="relu"), Dense(10, activation="softmax"))
    model.layers[0].params["b"][:6] = -100
    finding = only(model.diagnose(x, y), "dead ReLUs")
    assert finding.where == "re_lu_1" and finding.measured == 0.75 and finding.severity == "warning"
    model.layers[0].params["b"][:] = -100
    errors = [f for f in model.diagnose(x, y)["dead ReLUs"] if f.severity == "error"]
    assert errors[0].where == "re_lu_1" and errors[0].measured == 1


def sigmoids(count, optimizer="adam", **config) -> Sequential:
    hidden = [Dense(32, activation="sigmoid", **config) for _ in range(count)]
    return made(Flatten(), *hidden, Dense(10, activation="softmax"), optimizer=optimizer)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_vanishing_gradients(optimizer, clothes):
    """Measured before the optimizer: Adam's steps are of the usual size, and hid it."""
    (x, y), _ = clothes
    model = sigmoids(6, optimizer)
    finding = only(model.diagnose(x, y), "vanishing gradients")
    t = model.trace(x[:32], y[:32])
    first, last = (np.sqrt(np.mean(np.square(t[name].grads["w"]))) for name in ("dense_1", "dense_7"))
    assert finding.measured == pytest.approx(first / last, rel=0.5) and finding.measured < 1e-3
    assert finding.where == "dense_1" and "relu" in finding.fix and finding.severity == "warning"
    assert problems(model.diagnose(x, y)) == ["vanishing gradients"]  # and no advice to take a larger learning rate
    assert "gradient flow" not in problems(sigmoids(1).diagnose(x, y))


def test_exploding_gradients(clothes):
    (x, y), _ = clothes
    hidden = [Dense(32, activation="tanh", kernel_initializer=RandomNormal(stddev=0.02)) for _ in range(2)]
    model = made(Flatten(), *hidden, Dense(10, activation="softmax", kernel_initializer=RandomNormal(stddev=300.0)))
    finding = only(model.diagnose(x, y), "exploding gradients")
    assert finding.measured > 1e3 and "clipnorm" in finding.fix


def test_sanity_check_names_what_diagnose_finds(clothes):
    """It used to send the reader to diagnose, which said that all was well."""
    (x, y), _ = clothes
    model = sigmoids(8)
    diagnosis = model.sanity_check(x, y)
    assert only(diagnosis, "vanishing gradients").measured < 1e-3
    finding = by_heart(diagnosis)
    assert finding.severity == "error" and "vanishing gradients" in finding.fix and "diagnose" not in finding.fix


def test_a_leaky_relu_is_never_dead(clothes):
    (x, y), _ = clothes
    model = made(Flatten(), Dense(8), LeakyReLU(), Dense(10, activation="softmax"))
    model.layers[1].params["b"][:] = -100
    assert "dead ReLUs" not in problems(model.diagnose(x, y))


@pytest.mark.parametrize(
    ("rate", "said"), [(3.0, "Steps that large"), (1e-6, "as good as frozen"), (0.0, "Nothing moves")]
)
def test_the_size_of_the_steps(rate, said, clothes):
    (x, y), _ = clothes
    model = made(Flatten(), Dense(10, activation="softmax"), optimizer=SGD(rate, momentum=0.0))
    finding = only(model.diagnose(x, y), "update:weight ratio")
    assert finding.severity == "warning" and finding.where == "dense_1" and said in finding.reason
    assert finding.measured == 0 if rate == 0 else not 1e-4 < finding.measured < 1e-2


def test_a_model_that_has_learned_all_needs_no_steps(clothes):
    (x, y), _ = clothes
    model = dense()
    model.fit(x[:60], y[:60], epochs=60, verbose=0)
    assert problems(model.diagnose(x[:60], y[:60])) == []


def test_all_predictions_one_class(clothes):
    (x, y), _ = clothes
    model = dense()
    model.layers[-1].params["b"][4] = 50
    assert "one class only" not in problems(model.diagnose(x, y))  # nothing was learned yet
    model.optimizer.iterations = 50
    assert only(model.diagnose(x, y), "one class only").severity == "note"
    model.optimizer.iterations = 500
    diagnosis = model.diagnose(x, y)
    finding = only(diagnosis, "one class only")
    assert finding.severity == "warning" and finding.measured == 1 and finding.text.startswith("class 4")
    assert only(diagnosis, "loss").measured > 2.3


def normalised(momentum, epochs):
    """Features far from 0, which a running mean that has hardly moved does not take away."""
    x = (random((60, 8), 3) * 4 + 30).astype(np.float32)
    y = (x[:, 0] > x[:, 1]).astype(int)
    model = made(
        BatchNormalization(momentum=momentum), Dense(16, activation="relu"), Dense(2, activation="softmax"),
        shape=(8,), optimizer=Adam(0.01),
    )  # fmt: skip
    model.fit(x, y, batch_size=20, epochs=epochs, verbose=0)
    return model, x, y


def test_batch_normalisation_with_statistics_of_long_ago():
    model, x, y = normalised(0.9999, 80)
    finding = only(model.diagnose(x, y), "batch normalisation")
    assert finding.severity == "warning" and finding.measured > 0.25
    assert "momentum 0.9999 has left 98%" in finding.reason and "momentum=0.9" in finding.fix
    model, x, y = normalised(0.99, 6)
    assert only(model.diagnose(x, y), "batch normalisation").severity == "note"
    model, x, y = normalised(0.9, 80)
    assert problems(model.diagnose(x, y)) == []


# --- NaN ----------------------------------------------------------------------------------------------------


class Bursting(Dense):
    """Its backward pass divides by 0."""

    def backward(self, dy, ctx):
        dx = super().backward(dy, ctx)
        ctx.grads["w"][0, 0] = np.inf
        return dx


def test_nan_in_the_weights(clothes):
    (x, y), _ = clothes
    model = cnn()
    model.layers[2].params["b"][3] = np.nan
    finding = only(model.diagnose(x, y), "NaN")
    assert (finding.where, finding.measured) == ("conv2d_2", 0) and "conv2d_2: b" in finding.text


def test_nan_on_the_way_forward(clothes):
    (x, y), _ = clothes
    model = made(Flatten(), Dense(6, activation="relu"), Dense(10, activation="softmax"), optimizer=SGD(1e30))
    finding = only(model.diagnose(x, y), "NaN")
    assert finding.measured == 2 and finding.where == "dense_2" and "forward" in finding.text


def test_nan_on_the_way_back(clothes):
    (x, y), _ = clothes
    model = made(Flatten(), Bursting(6, activation="relu"), Dense(10, activation="softmax"))
    finding = only(model.diagnose(x, y), "NaN")
    assert (finding.where, finding.measured) == ("bursting_1", 1) and "the gradient of w is the first" in finding.text
    assert "step 1, backward" in finding.text


def test_nan_in_the_update(clothes):
    (x, y), _ = clothes
    model = made(Flatten(), Dense(10, activation="softmax"), optimizer=SGD(1e39))
    finding = only(model.diagnose(x, y), "NaN")
    assert (finding.where, finding.measured) == ("dense_1", 1) and "step 1, update" in finding.text


# --- Copies that are trained --------------------------------------------------------------------------------


class Deaf(Dense):
    """Nothing that it did wrong reaches it."""

    def backward(self, dy, ctx):
        return super().backward(dy * 0, ctx)


def by_heart(diagnosis: Diagnosis) -> Finding:
    (finding,) = diagnosis["learning 20 images by heart"]
    return finding


def test_a_model_that_cannot_learn_by_heart(clothes):
    (x, y), _ = clothes
    model = made(Flatten(), Deaf(10), Softmax())
    finding = by_heart(model.sanity_check(x, y))
    assert finding.severity == "error" and finding.measured > 1.5 and finding.reason and finding.fix


def test_softmax_twice_cannot_learn_by_heart(clothes):
    (x, y), _ = clothes
    finding = by_heart(made(Flatten(), Dense(10, activation="softmax"), Softmax()).sanity_check(x, y))
    assert finding.severity == "error" and finding.measured >= 1.461


def test_only_the_optimizer_is_too_slow(clothes):
    (x, y), _ = clothes
    finding = by_heart(dense(optimizer=SGD(1e-7)).sanity_check(x, y))
    assert finding.severity == "warning" and finding.where == "optimizer" and "steps are too small" in finding.reason
    finding = by_heart(dense(optimizer=SGD(1e-3)).sanity_check(x, y))
    assert finding.severity == "note"
    finding = by_heart(dense(optimizer=SGD(1e4)).sanity_check(x, y))
    assert finding.severity == "warning" and "too large" in finding.reason


def test_frozen_layers_keep_their_weights(clothes):
    """Fresh weights for the rest; a model of frozen layers alone learns nothing."""
    (x, y), _ = clothes
    frozen = Dense(10, activation="softmax", trainable=False)
    model = made(Flatten(), frozen)
    frozen.params["w"] *= 30
    diagnosis = model.sanity_check(x, y)
    assert only(diagnosis, "initial loss").measured > 5
    assert by_heart(diagnosis).severity == "error"


def test_dropout_does_not_stand_in_the_way(clothes):
    (x, y), _ = clothes
    model = made(Flatten(), Dense(32, activation="relu"), Dropout(0.9), Dense(10, activation="softmax"))
    assert by_heart(model.sanity_check(x, y)).severity == "ok"


def test_regression_by_heart():
    celsius = np.linspace(-40, 40, 20)
    model = made(Dense(1), shape=(1,), loss="mse", optimizer=Adam(0.1))
    diagnosis = model.sanity_check(celsius[:, None], celsius * 1.8 + 32)
    assert diagnosis.ok and [finding.check for finding in diagnosis] == ["learning 20 images by heart"]


def test_a_softmax_whose_outputs_are_judged_alone():
    x, y = np.random.default_rng(0).normal(size=(64, 4)), np.eye(10)[np.arange(64) % 10]
    model = Sequential([Input((4,)), Dense(10, activation="softmax")])
    model.compile("sgd", "binary_crossentropy", metrics=["accuracy"])
    (finding,) = model.diagnose(x, y)["last layer"]
    assert finding.severity == "warning" and "categorical_crossentropy" in finding.fix
    model.compile("sgd", "categorical_crossentropy")
    assert model.diagnose(x, y)["last layer"][0].severity == "ok"
