"""What public bug reports of other frameworks say, tried here: each test is one report, with the right value."""

from __future__ import annotations

import csv
import math
import os

import numpy as np
import pytest

from minicnn import losses, metrics, optimizers, utils
from minicnn.backend import to_host
from minicnn.callbacks import (
    BackupAndRestore,
    Callback,
    CSVLogger,
    EarlyStopping,
    ModelCheckpoint,
    ReduceLROnPlateau,
    TerminateOnNaN,
)
from minicnn.errors import InputError
from minicnn.layers import (
    Add,
    AveragePooling2D,
    BatchNormalization,
    Context,
    Dense,
    Flatten,
    GlobalMaxPooling2D,
    Input,
    MaxPooling2D,
    Permute,
    Reshape,
    UpSampling2D,
)
from minicnn.models import Model, Sequential, load_model
from minicnn.preprocessing import image_dataset_from_directory
from minicnn.preprocessing.image import ImageDataGenerator
from minicnn.regularizers import L1
from minicnn.schedules import ExponentialDecay

X = np.random.default_rng(0).standard_normal((12, 4)).astype(np.float32)
Y = np.arange(12) % 3


def classifier(optimizer=None, loss="sparse_categorical_crossentropy", **compiled) -> Sequential:
    utils.set_random_seed(0)
    model = Sequential([Input((4,)), Dense(3, activation="softmax")])
    model.compile(optimizer or optimizers.SGD(0.1), loss, **compiled)
    return model


def line(optimizer) -> Sequential:
    """y = w x, from w = 0, with the mean squared error."""
    model = Sequential([Input((1,)), Dense(1, use_bias=False, kernel_initializer="zeros")])
    model.compile(optimizer, "mse")
    return model


class Logs(Callback):
    """Puts a number of its own into the logs of each epoch, and keeps the weights that it saw there."""

    def __init__(self, *values):
        super().__init__()
        self.values, self.weights = values, []

    def on_epoch_end(self, epoch, logs=None):
        logs["mine"] = self.values[epoch]
        self.weights.append(self.model.get_weights()[0])


class Broken(Callback):
    """Makes the weights NaN at the beginning of an epoch."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            self.model.layers[-1].params["w"][...] = np.nan


# ---- optimizers and rates --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", [
    optimizers.SGD(1.0, clipnorm=1.0), optimizers.SGD(1.0, global_clipnorm=1.0), optimizers.SGD(1.0, clipvalue=1.0),
])  # fmt: skip
def test_clipping_a_gradient_whose_square_is_too_large_for_float32(optimizer):
    """keras#14075: the norm is infinite, and what is left of the gradient 0 or NaN. Its length is 1."""
    model = line(optimizer)
    model.fit(np.full((1, 1), 1e25), np.ones((1, 1)), verbose=0)
    np.testing.assert_allclose(model.get_weights()[0], 1.0, rtol=1e-6)


def test_muon_of_a_gradient_whose_square_is_too_large_for_float32():
    """keras#14075, its sibling: an orthogonal matrix is one whatever the size was."""
    g = np.random.default_rng(0).standard_normal((3, 2)).astype(np.float32)
    orthogonal = optimizers.muon.orthogonal
    np.testing.assert_allclose(orthogonal(g * np.float32(1e25)), orthogonal(g), rtol=1e-3)


def test_the_count_of_steps_is_saved_with_the_model(tmp_path):
    """tensorflow#48947: optimizer.iterations begins at 0 again, and a schedule with it."""
    model = classifier(optimizers.Adam(ExponentialDecay(1.0, 1, 0.5)))
    model.fit(X, Y, batch_size=4, epochs=2, verbose=0)
    model.save(tmp_path / "model.zip")
    again = load_model(tmp_path / "model.zip")
    assert again.optimizer.iterations == 6
    assert float(again.optimizer.learning_rate) == 0.5**6


@pytest.mark.parametrize(("cooldown", "rates"), [
    (0, [1, 1, 1, 0.1, 0.1, 0.01, 0.01]), (2, [1, 1, 1, 0.1, 0.1, 0.1, 0.01]),
])  # fmt: skip
def test_reduce_lr_without_cooldown_waits_again(cooldown, rates):
    """keras#3991: with cooldown=0 the rate falls in every epoch after the first reduction."""
    plateau = ReduceLROnPlateau("mine", patience=2, cooldown=cooldown, mode="min")
    history = classifier(optimizers.SGD(1.0)).fit(X, Y, epochs=7, verbose=0, callbacks=[Logs(*[1] * 7), plateau])
    np.testing.assert_allclose(history.history["learning_rate"], rates)


# ---- callbacks -------------------------------------------------------------------------------------------------------


def test_a_backup_outlives_training_that_ends_in_nan(tmp_path):
    """keras#21771: TerminateOnNaN ends training, and BackupAndRestore deletes the backup as if all were well."""
    folder = tmp_path / "backup"
    model = classifier()
    model.fit(X, Y, epochs=5, verbose=0, callbacks=[BackupAndRestore(folder), Broken(2), TerminateOnNaN()])
    assert (folder / "backup.zip").exists()

    history = classifier().fit(X, Y, epochs=5, verbose=0, callbacks=[BackupAndRestore(folder)])
    assert history.history == classifier().fit(X, Y, epochs=5, verbose=0).history  # as if it had never happened
    assert not folder.exists()


@pytest.mark.filterwarnings("ignore:The loss is nan")
@pytest.mark.parametrize("save_freq", ["epoch", 1])
def test_no_backup_of_weights_that_are_nan(tmp_path, save_freq):
    """keras#21771, its sibling: nobody stops training, and the last good backup is written over."""
    classifier().fit(X, Y, epochs=4, verbose=0, callbacks=[BackupAndRestore(tmp_path, save_freq), Broken(2)])
    history = classifier().fit(X, Y, epochs=4, verbose=0, callbacks=[BackupAndRestore(tmp_path, save_freq)])
    assert np.isfinite(history.history["loss"]).all()


@pytest.mark.parametrize("make", [
    lambda folder: EarlyStopping("mine", mode="min", patience=9),
    lambda folder: ReduceLROnPlateau("mine", mode="min"),
    lambda folder: ModelCheckpoint(folder / "{epoch}-{mine:.1f}.weights.h5", "mine", 0, True, True, "min"),
])  # fmt: skip
def test_a_number_that_the_logs_hold_as_an_array(tmp_path, make):
    """keras#21100: every epoch is saved, and whole models instead of weights, where the number is an array."""
    watcher = make(tmp_path)
    logs = Logs(np.array([3.0]), np.array(4.0), np.float32(1))
    classifier().fit(X, Y, epochs=3, verbose=0, callbacks=[logs, watcher])
    assert watcher.best == 1.0
    if isinstance(watcher, ModelCheckpoint):
        assert sorted(os.listdir(tmp_path)) == ["1-3.0.weights.h5", "3-1.0.weights.h5"]
    with pytest.raises(InputError, match="not one number"):
        classifier().fit(X, Y, verbose=0, callbacks=[Logs(np.arange(3.0)), make(tmp_path)])


@pytest.mark.parametrize("name", ["{epoch", "{epoch.a}", "{epoch:.2q}", "{mine:.2f}", "{val_acc:.2f}"])
def test_a_file_name_that_cannot_be_filled_in(tmp_path, name):
    """keras#6104: KeyError: 'val_acc', after the first epoch; and what else Python's format raises."""
    with pytest.raises(InputError, match="filepath"):
        classifier().fit(X, Y, verbose=0, callbacks=[Logs("text"), ModelCheckpoint(tmp_path / f"{name}.zip")])


def test_a_folder_for_a_checkpoint_that_is_not_saved(tmp_path):
    """keras#21100: a folder is made for each epoch, also for those that are not the best."""
    checkpoint = ModelCheckpoint(tmp_path / "{epoch}" / "model.zip", "mine", save_best_only=True, mode="min")
    classifier().fit(X, Y, epochs=3, verbose=0, callbacks=[Logs(1, 2, 3), checkpoint])
    assert os.listdir(tmp_path) == ["1"]


@pytest.mark.parametrize(("values", "best"), [
    ([3, 1, 2, 2], 1), ([math.nan, 3, 1, math.nan], 2), ([math.nan] * 4, 0),
])  # fmt: skip
def test_the_best_weights_come_back_when_training_was_not_stopped(values, best):
    """keras#12511: only a training that stops early gives them back. early-stopping-pytorch#16: NaN is the best."""
    logs, model = Logs(*values), classifier()
    stopper = EarlyStopping("mine", mode="min", patience=9, restore_best_weights=True)
    model.fit(X, Y, epochs=4, verbose=0, callbacks=[logs, stopper])
    np.testing.assert_array_equal(model.get_weights()[0], logs.weights[best])


def test_a_baseline_that_is_never_reached():
    """tensorflow#45187: no best weights were kept, and restoring them raises. Those of the best epoch come back."""
    logs, model = Logs(3, 2, 2, 2), classifier()
    stopper = EarlyStopping("mine", mode="min", patience=1, baseline=0.0, restore_best_weights=True)
    model.fit(X, Y, epochs=4, verbose=0, callbacks=[logs, stopper])
    np.testing.assert_array_equal(model.get_weights()[0], logs.weights[1])


@pytest.mark.parametrize(("fitted", "val_losses"), [
    ({}, None), ({"validation_data": (X, Y), "validation_freq": 2}, ["NA", "number", "NA", "number"]),
])  # fmt: skip
def test_columns_of_numbers_that_were_not_computed(tmp_path, fitted, val_losses):
    """keras#21173: val_ columns without validation. tensorflow#40114: none where it comes in later epochs."""
    classifier().fit(X, Y, epochs=4, verbose=0, callbacks=[CSVLogger(tmp_path / "log.csv")], **fitted)
    with open(tmp_path / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    found = [row["val_loss"] if row["val_loss"] == "NA" else "number" for row in rows if "val_loss" in row]
    assert (found or None) == val_losses


def test_loggers_beside_a_training_that_ends_in_nan(tmp_path):
    """keras#7470: CSVLogger and ModelCheckpoint look for val_loss in an epoch that was broken off, and raise."""
    callbacks = [CSVLogger(tmp_path / "log.csv"), ModelCheckpoint(tmp_path / "{epoch}-{val_loss:.2f}.zip")]
    callbacks += [Broken(1), TerminateOnNaN()]
    classifier().fit(X, Y, epochs=3, verbose=0, validation_data=(X, Y), callbacks=callbacks)
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 3


def test_epochs_in_the_history_of_a_run_that_goes_on():
    """mlflow#3575: the entries are counted from 0 where initial_epoch is 3."""
    history = classifier().fit(X, Y, epochs=5, initial_epoch=3, verbose=0)
    assert (history.epoch, len(history.history["loss"])) == ([3, 4], 2)


# ---- losses, metrics, weights ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("class_weight", [{7: 2.0}, {-1: 2.0}, {"invalid": 0.5}, {0.5: 1.0}])
@pytest.mark.parametrize("name", ["sparse_categorical_crossentropy", "categorical_crossentropy"])
def test_weights_for_classes_that_do_not_exist(class_weight, name):
    """tensorflow#98283, keras#23220: they are ignored without a word."""
    targets = Y if name.startswith("sparse") else np.eye(3)[Y]
    with pytest.raises(InputError, match="class_weight"):
        classifier(loss=name).fit(X, targets, class_weight=class_weight, verbose=0)


def test_class_weights_of_targets_that_are_no_classes():
    """tensorflow#98283, its siblings: 0.5 counts as class 0; a third class of a yes-or-no model."""
    model = line("sgd")
    with pytest.raises(InputError, match="whole class numbers"):
        model.fit(X[:, :1], Y * 0.5, class_weight={0: 2.0}, verbose=0)
    model.fit(X[:, :1], Y * 7, class_weight={7: 2.0}, verbose=0)  # here 7 may be a class

    model = Sequential([Input((4,)), Dense(1, activation="sigmoid")])
    model.compile("sgd", "binary_crossentropy")
    with pytest.raises(InputError, match="0 to 1"):
        model.fit(X, Y % 2, class_weight={0: 1.0, 2: 5.0}, verbose=0)

    ignoring = classifier(loss=losses.SparseCategoricalCrossentropy(ignore_class=255))
    ignoring.fit(X, np.where(Y == 2, 255, Y), class_weight={0: 2.0, 255: 0.0}, verbose=0)


def test_a_batch_in_which_every_label_is_ignored():
    """pytorch#70348: the mean over nothing is NaN. Keras and this: 0, and training goes on."""
    loss = losses.SparseCategoricalCrossentropy(ignore_class=255)
    p = np.array([[0.7, 0.2, 0.1]] * 3)
    np.testing.assert_allclose([loss([255] * 3, p), loss([0, 255, 255], p)], [0, -math.log(0.7)], rtol=1e-6)
    model, labels = classifier(loss=loss), np.where(np.arange(12) // 4 == 1, 255, Y)
    model.fit(X, labels, batch_size=4, shuffle=False, verbose=0)
    assert np.isfinite(model.get_weights()[0]).all()


@pytest.mark.parametrize("label", [-4, -1, 3, 256])
def test_a_label_that_is_neither_a_class_nor_ignored(label):
    """pytorch#12670: it is taken, and the loss is a number from anywhere in memory."""
    model = classifier(loss=losses.SparseCategoricalCrossentropy(ignore_class=255))
    for call in (model.train_on_batch, model.test_on_batch):
        with pytest.raises(InputError, match="out of range"):
            call(X, np.array([label, *Y[1:]]))


def test_the_loss_of_a_small_last_batch():
    """tensorflow#38596: the mean over batches instead of samples."""
    model = classifier(optimizers.SGD(0.0), metrics=["accuracy"])
    whole = model.evaluate(X[:7], Y[:7], batch_size=7, verbose=0)
    np.testing.assert_allclose(model.evaluate(X[:7], Y[:7], batch_size=4, verbose=0), whole)
    history = model.fit(X[:7], Y[:7], batch_size=4, verbose=0).history
    np.testing.assert_allclose([history["loss"][0], history["accuracy"][0]], whole, rtol=1e-6)


def test_smoothed_labels_of_three_axes():
    """tensorflow#32231: the second axis is taken for the classes."""
    p = np.tile([0.6, 0.1, 0.1, 0.1, 0.1], (2, 3, 1))
    target = np.eye(5)[np.zeros((2, 3), int)]
    right = -((0.9 * target + 0.02) * np.log(p)).sum(axis=-1).mean()
    np.testing.assert_allclose(losses.CategoricalCrossentropy(label_smoothing=0.1)(target, p), right, rtol=1e-6)


def test_smoothed_labels_that_are_whole_numbers():
    """keras#15341: the labels' dtype and that of the smoothing do not multiply."""
    right = -(0.75 * math.log(0.25) + 0.25 * math.log(0.75))
    for labels in (np.ones((5, 1), int), np.ones((5, 1), bool), np.ones((5, 1))):
        loss = losses.BinaryCrossentropy(label_smoothing=0.5)(labels, np.full((5, 1), 0.25, np.float32))
        np.testing.assert_allclose(loss, right, rtol=1e-6)


def test_counts_beyond_the_whole_numbers_of_float32():
    """keras#20574: MeanIoU counts in float32, where 16777216 + 1 is 16777216."""
    for metric in (metrics.MeanIoU(2), metrics.SparseCategoricalAccuracy()):
        wide = isinstance(metric, metrics.SparseCategoricalAccuracy)
        right = [[1.0, 0.0]] if wide else [0]
        metric.update_state([0], right)
        for name, value in vars(metric).items():
            if name in ("total", "count"):
                setattr(metric, name, value * 2.0**24)  # as if so many had been counted
        before = np.array(to_host(metric.total))
        metric.update_state([0], right)
        assert np.array(to_host(metric.total)).sum() == before.sum() + 1


def test_one_label_is_still_a_matrix():
    """keras#8519: to_categorical([3]) has the shape (4,)."""
    assert utils.to_categorical([3]).shape == (1, 4)
    assert utils.to_categorical(3, 6).shape == (6,)
    assert utils.to_categorical([[1], [2]], 3).shape == (2, 3)


def test_the_penalty_of_a_shared_layer():
    """keras#8807: it counts once for each use."""
    x = Input((1,))
    shared = Dense(1, use_bias=False, kernel_initializer="ones", kernel_regularizer=L1(1.0))
    model = Model(x, shared(shared(x)))
    model.compile(optimizers.SGD(0.0), "mse")
    nothing = np.zeros((1, 1), np.float32)
    assert model.fit(nothing, nothing, verbose=0).history["loss"] == [1.0]
    assert model.evaluate(nothing, nothing, verbose=0) == model.trace(nothing, nothing).loss == 1.0


def test_a_shared_layer_is_one_layer_after_loading(tmp_path):
    """keras#7116: the loaded model has its weights twice. Where the file cannot say it, saving is refused."""
    x, shared = Input((5,)), Dense(5, name="shared")
    model = Model(x, Add()([shared(shared(x)), x]))
    model.save(tmp_path / "model.zip")
    again = load_model(tmp_path / "model.zip")
    assert (again.count_params(), len(again.get_weights())) == (model.count_params(), 2) == (30, 2)
    batch = np.ones((2, 5), np.float32)
    np.testing.assert_array_equal(again.predict(batch, verbose=0), model.predict(batch, verbose=0))

    inner = Sequential([Input((5,)), shared])
    with pytest.raises(InputError, match="two networks share this layer"):
        Model(x, Add()([inner(x), shared(x)])).save(tmp_path / "two.zip")
    assert not (tmp_path / "two.zip").exists()


@pytest.mark.parametrize("name", ["w.weights.h5", "w.h5"])
def test_weights_that_do_not_fit_are_left_out(tmp_path, name):
    """keras#21404: skip_mismatch is not heard for .h5 files."""
    one = Sequential([Input((4,)), Dense(3), Dense(5)])
    other = Sequential([Input((4,)), Dense(3), Dense(7)])
    one.save_weights(tmp_path / name)
    with pytest.warns(UserWarning, match="dense_2 does not fit"):
        other.load_weights(tmp_path / name, skip_mismatch=True)
    np.testing.assert_array_equal(other.get_weights()[0], one.get_weights()[0])


# ---- layers ----------------------------------------------------------------------------------------------------------


def test_average_pooling_does_not_count_the_padding():
    """chainer#3391: padding counts as zeros."""
    model = Sequential([Input((1, 4, 1)), AveragePooling2D((1, 3), strides=(1, 3), padding="same")])
    y = model.predict(np.array([2.0, 1, 0, -1]).reshape(1, 1, 4, 1), verbose=0)
    np.testing.assert_allclose(y.ravel(), [1.5, -0.5])


@pytest.mark.parametrize("at", range(4))
def test_max_pooling_hands_nan_on(at):
    """Theano#3060: NaN is lost where it is not the first number of the window."""
    x = np.arange(4.0)
    x[at] = np.nan
    for layer in (MaxPooling2D(2), MaxPooling2D(2, padding="same"), GlobalMaxPooling2D()):
        assert np.isnan(layer.forward(x.reshape(1, 2, 2, 1), Context(training=False))).all()


def test_bilinear_upsampling_at_the_edges():
    """tensorflow#29856: the right and the lower edge are smeared. The numbers are those of tfjs#1729."""
    model = Sequential([Input((3, 3, 1)), UpSampling2D(2, interpolation="bilinear")])
    y = model.predict(np.arange(1, 10.0).reshape(1, 3, 3, 1), verbose=0)[0, :, :, 0]
    np.testing.assert_allclose(y[0], [1, 1.25, 1.75, 2.25, 2.75, 3])
    np.testing.assert_allclose(y[:, -1], [3, 3.75, 5.25, 6.75, 8.25, 9])


def test_reshape_after_permute():
    """nd4j#1128: the numbers are taken in the order in which they lie in memory."""
    x = np.arange(24.0).reshape(1, 2, 3, 4)
    model = Sequential([Input((2, 3, 4)), Permute((2, 3, 1)), Reshape((-1, 2)), Permute((2, 1)), Flatten()])
    right = x.transpose(0, 2, 3, 1).reshape(12, 2).T.ravel()
    np.testing.assert_array_equal(model.predict(x, verbose=0).ravel(), right)


def test_batch_normalisation_of_a_single_sample():
    """torch/nn#1271, Flux#1992: the running variance becomes NaN. Here a warning names the cause."""
    model = Sequential([Input((2,)), BatchNormalization()])
    model.compile("sgd", "mse")
    with pytest.warns(UserWarning, match="or 4 samples"):
        model.fit(X[:5, :2], X[:5, :2], batch_size=4, verbose=0)
    with pytest.warns(UserWarning, match="There is one sample only"):
        model.fit(X[:1, :2], X[:1, :2], batch_size=4, verbose=0)
    assert all(np.isfinite(w).all() for w in model.get_weights())


def test_a_frozen_batch_normalisation_is_the_same_in_training():
    """keras#9522: trainable=False leaves it in training mode: other losses in fit and evaluate."""
    model = Sequential([Input((4,)), BatchNormalization(), Dense(3, activation="softmax")])
    model.layers[0].trainable = False
    model.compile(optimizers.SGD(0.0), "sparse_categorical_crossentropy")
    before = model.get_weights()
    loss = model.fit(X, Y, batch_size=12, verbose=0).history["loss"][0]
    np.testing.assert_allclose(loss, model.evaluate(X, Y, verbose=0), rtol=1e-6)
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("momentum", [1.5, -0.1, None, "a"])
def test_a_momentum_outside_0_to_1(momentum):
    """keras#23623: it is taken, and the running statistics diverge."""
    with pytest.raises(InputError, match="momentum"):
        BatchNormalization(momentum=momentum)


# ---- images ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("largest", [1.0, 90.0])
def test_brightness_times_one(largest):
    """keras-preprocessing#327: brightness_range=(1, 1) stretches every image to 0..255."""
    x = np.random.default_rng(0).uniform(0.1, 1, (2, 4, 4, 3)).astype(np.float32) * largest
    np.testing.assert_array_equal(next(ImageDataGenerator(brightness_range=(1, 1)).flow(x, shuffle=False)), x)


def test_labels_of_shuffled_folders(tmp_path):
    """keras-preprocessing#157: labels of other images. tensorflow#46595: .ipynb_checkpoints is a class."""
    image = pytest.importorskip("PIL.Image")
    for at, name in enumerate(("a", "b", ".ipynb_checkpoints")):
        (tmp_path / name).mkdir()
        for i in range(5):
            image.fromarray(np.full((4, 4, 3), 100 * at + i, np.uint8)).save(tmp_path / name / f"{i}.png")
    (tmp_path / "a" / ".hidden.png").write_bytes(b"no image")
    batches = ImageDataGenerator().flow_from_directory(
        tmp_path, target_size=(4, 4), batch_size=4, class_mode="sparse", seed=3
    )
    assert batches.class_indices == {"a": 0, "b": 1}
    for x, y in (next(batches) for _ in range(6)):  # two epochs
        np.testing.assert_array_equal(x[:, 0, 0, 0] >= 100, y)
    assert image_dataset_from_directory(tmp_path, image_size=(4, 4), verbose=False).class_names == ["a", "b"]
