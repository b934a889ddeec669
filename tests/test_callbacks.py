"""Callbacks, driven as `fit` drives them, on a model that only keeps what it is told."""

import csv
import math

import numpy as np
import pytest

from minicnn import callbacks
from minicnn.callbacks import (
    BackupAndRestore,
    CallbackList,
    CSVLogger,
    EarlyStopping,
    History,
    LambdaCallback,
    LearningRateScheduler,
    ModelCheckpoint,
    ReduceLROnPlateau,
    TerminateOnNaN,
)
from minicnn.errors import InputError, UnknownNameError
from minicnn.schedules import ExponentialDecay
from minicnn.training.callbacks.base import HOOKS


class FakeOptimizer:
    learning_rate = 0.1


class FakeModel:
    """Its only weight is the number of epochs it was trained for."""

    def __init__(self):
        self.weights, self.saved, self.stop_training = [np.zeros(1)], [], False
        self.optimizer = FakeOptimizer()

    def get_weights(self):
        return [w.copy() for w in self.weights]

    def set_weights(self, weights):
        self.weights = weights

    def save(self, path):
        self.saved.append(("model", path))

    def save_weights(self, path):
        self.saved.append(("weights", path))


def fit(callback, values, name="val_loss", model=None, batches=0, **others):
    """Run epochs whose logs hold these values, until a callback stops: (model, history, epochs run)."""
    model, history = model or FakeModel(), History()
    each = CallbackList([*(callback if isinstance(callback, list) else [callback]), history], model=model)
    model.stop_training = False
    each.call("on_train_begin")
    for epoch, value in enumerate(values):
        each.call("on_epoch_begin", epoch)
        for batch in range(batches):
            each.call("on_train_batch_begin", batch)
            each.call("on_train_batch_end", batch, {"loss": 1.0})
        model.weights = [np.array([epoch + 1.0])]
        each.call("on_epoch_end", epoch, {"loss": 0.5, name: value, **others})
        if model.stop_training:
            break
    each.call("on_train_end")
    return model, history, len(history.epoch)


# --- CallbackList and the base class


def test_all_hooks_reach_a_callback_with_their_arguments():
    seen = []

    class Spy(callbacks.Callback):
        pass

    def recorder(hook):
        return lambda self, *args: seen.append((hook, args))

    for hook in (name for name in vars(callbacks.Callback) if name.startswith("on_")):
        setattr(Spy, hook, recorder(hook))
    model = FakeModel()
    each = CallbackList(Spy(), model=model, epochs=3, steps=2, verbose=0)
    assert each.callbacks[0].model is model
    assert each.callbacks[0].params == {"epochs": 3, "steps": 2, "verbose": 0}
    for hook in HOOKS:
        which = (4,) if "epoch" in hook or "batch" in hook else ()
        each.call(hook, *which, {"loss": 1.0})
        assert seen.pop() == (hook, (*which, {"loss": 1.0}))
        each.call(hook, *which)
        assert seen.pop() == (hook, (*which, {}))  # as in Keras: never None
    assert len(HOOKS) == 16 and seen == []


def test_batch_hooks_of_old_style_are_called_in_training_only():
    seen = []
    spy = LambdaCallback(on_batch_begin=lambda b, logs: seen.append(b), on_batch_end=lambda b, logs: seen.append(-b))
    each = CallbackList([spy])
    each.call("on_train_batch_begin", 7)
    each.call("on_train_batch_end", 7)
    each.call("on_test_batch_end", 9)
    assert seen == [7, -7]


def test_whether_batch_logs_are_needed():
    assert not CallbackList([History(), EarlyStopping()]).listens("on_train_batch_end")
    assert CallbackList([TerminateOnNaN()]).listens("on_train_batch_end")
    assert CallbackList([LambdaCallback(on_train_batch_end=print)]).listens("on_train_batch_end")


def test_callbacks_share_their_logs_in_order():
    _, history, _ = fit([ReduceLROnPlateau()], [1.0, 0.9])
    assert history.history["learning_rate"] == [0.1, 0.1]


@pytest.mark.parametrize(("wrong", "fix"), [(EarlyStopping, "EarlyStopping\\(...\\)"), (print, "LambdaCallback")])
def test_things_that_are_no_callbacks(wrong, fix):
    with pytest.raises(InputError, match=fix):
        CallbackList([wrong])


def test_history():
    model, history, _ = fit([], [3.0, 2.0], accuracy=0.5)
    assert history.epoch == [0, 1]
    assert history.history == {"loss": [0.5, 0.5], "val_loss": [3.0, 2.0], "accuracy": [0.5, 0.5]}
    assert model.history is history


def test_lambda_callback_rejects_unknown_hooks():
    with pytest.raises(UnknownNameError, match="did you mean 'on_epoch_end'"):
        LambdaCallback(on_epoch_ends=print)


# --- EarlyStopping: the stops were compared with Keras 3.15


@pytest.mark.parametrize(
    ("arguments", "values", "epochs", "stopped", "best_epoch"),
    [
        ({"patience": 2}, [5, 4, 3, 3.5, 3.2, 1], 5, 4, 2),
        ({"patience": 0}, [5, 4, 4.5, 1], 3, 2, 1),
        ({"patience": 0}, [5, 6], 2, 1, 0),
        ({"patience": 1}, [5, 4, 3], 3, 0, 2),
        ({"patience": 2, "min_delta": 0.5}, [5, 4.8, 4.6, 1], 3, 2, 0),
        ({"patience": 2, "min_delta": -0.5}, [5, 4.8, 4.6, 1], 3, 2, 0),
        ({"patience": 1, "start_from_epoch": 3}, [5, 6, 7, 8, 7, 9, 9], 6, 5, 4),
        ({"patience": 2, "baseline": 2.0}, [5, 4, 3, 2.5, 2.4, 1], 6, 0, 5),
        ({"patience": 2, "baseline": 2.0}, [5, 4, 3, 3.5, 1], 4, 3, 2),
        ({"patience": 2, "baseline": 2.0}, [5, 1.5, 3, 4, 1], 4, 3, 1),
        ({"patience": 2, "mode": "max"}, [5, 6, 5, 5, 9], 4, 3, 1),
        ({"patience": 2, "monitor": "val_accuracy"}, [0.5, 0.6, 0.5, 0.6, 0.9], 4, 3, 1),
        ({"patience": 1, "monitor": "val_loss"}, [math.nan, 3.0, math.nan, 2.0], 3, 2, 1),
    ],
)
def test_early_stopping(arguments, values, epochs, stopped, best_epoch):
    stopping = EarlyStopping(**arguments)
    model, _, ran = fit(stopping, values, name=arguments.get("monitor", "val_loss"))
    assert (ran, stopping.stopped_epoch, stopping.best_epoch) == (epochs, stopped, best_epoch)
    assert stopping.best == values[best_epoch]
    assert model.stop_training == (stopped > 0)
    assert model.weights[0] == ran  # nothing restored unless asked for


@pytest.mark.parametrize(
    ("values", "restored"),
    [([5, 3, 4, 6], 2), ([5, 3, 4], 2), ([5, 4, 3], 3), ([math.nan, math.nan, math.nan], 1)],
)
def test_best_weights_come_back_stopped_early_or_not(values, restored):
    model, _, _ = fit(EarlyStopping(patience=2, restore_best_weights=True), values)
    assert model.weights[0] == restored


def test_early_stopping_tells_what_it_does(capsys):
    fit(EarlyStopping(patience=1, restore_best_weights=True, verbose=1), [2, 3])
    assert capsys.readouterr().out == "Epoch 2: early stopping\nRestoring the weights of the best epoch: 1.\n"


def test_early_stopping_can_be_used_again():
    stopping = EarlyStopping(patience=1, restore_best_weights=True)
    fit(stopping, [1, 2, 3])
    model, _, ran = fit(stopping, [9, 8, 7])
    assert ran == 3 and stopping.stopped_epoch == 0 and stopping.best == 7 and model.weights[0] == 3


@pytest.mark.parametrize("monitor", ["val_acc", "val_mse", "mean_absolute_error", "top_k_categorical_accuracy"])
def test_direction_is_told_from_the_name(monitor):
    callback = EarlyStopping(monitor)
    up = monitor.endswith(("acc", "accuracy"))
    assert callback.improves(2.0, 1.0) == up and callback.improves(1.0, 2.0) != up


def test_direction_is_asked_from_the_models_metrics():
    class Metric:
        name, direction = "speed", "max"

    model = FakeModel()
    model.metrics = [Metric()]
    stopping = EarlyStopping("val_speed", patience=1)
    assert fit(stopping, [1, 2, 3], name="val_speed", model=model)[2] == 3
    with pytest.raises(InputError, match='mode="max"'):
        fit(EarlyStopping("val_speed"), [1, 2], name="val_speed")


@pytest.mark.parametrize(
    "callback", [EarlyStopping, ReduceLROnPlateau, lambda m: ModelCheckpoint("f", m, save_best_only=True)]
)
def test_unknown_monitor_names_what_there_is(callback):
    with pytest.raises(UnknownNameError, match="(?s)loss, val_acc.*did you mean 'val_acc'"):
        fit(callback("val_accc"), [0.5], name="val_acc")
    with pytest.raises(InputError, match="pass validation_data or validation_split"):
        fit(callback("val_loss"), [0.5], name="accuracy")


def test_unknown_mode():
    with pytest.raises(UnknownNameError, match="auto, max, min"):
        EarlyStopping(mode="maximum")


# --- ModelCheckpoint


def test_checkpoint_every_epoch_needs_no_monitor(tmp_path):
    path = tmp_path / "new" / "{epoch:02d}-{accuracy:.2f}.keras"
    model, _, _ = fit(ModelCheckpoint(path), [0.5, 0.625], name="accuracy")
    folder = tmp_path / "new"
    assert folder.is_dir()
    assert model.saved == [("model", str(folder / "01-0.50.keras")), ("model", str(folder / "02-0.62.keras"))]


def test_checkpoint_of_the_best_only(tmp_path, capsys):
    checkpoint = ModelCheckpoint(tmp_path / "{epoch}", save_best_only=True, save_weights_only=True, verbose=1)
    model, _, _ = fit(checkpoint, [3, 4, math.nan, 2, 2])
    assert model.saved == [("weights", str(tmp_path / "1")), ("weights", str(tmp_path / "4"))]
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("Epoch 1: val_loss improved from None to 3.00000, saved ")
    assert out[1] == "Epoch 2: val_loss did not improve from 3.0"
    assert len(out) == 5


def test_checkpoint_from_a_threshold(tmp_path):
    checkpoint = ModelCheckpoint(tmp_path / "{epoch}", "val_accuracy", save_best_only=True, initial_value_threshold=0.7)
    model, _, _ = fit(checkpoint, [0.6, 0.7, 0.8], name="val_accuracy")
    assert model.saved == [("model", str(tmp_path / "3"))]


def test_checkpoint_every_so_many_batches_counts_on_over_epochs(tmp_path):
    model, _, _ = fit(ModelCheckpoint(tmp_path / "{epoch}-{batch}-{loss}", save_freq=4), [1, 1, 1], batches=3)
    assert [path.rsplit("/", 1)[-1].rsplit("\\", 1)[-1] for _, path in model.saved] == ["2-1-1.0", "3-2-1.0"]


@pytest.mark.parametrize("pattern", ["{val_los:.2f}.keras", "{}.keras"])
def test_checkpoint_with_a_name_that_is_not_known(tmp_path, pattern):
    with pytest.raises(InputError, match="names among epoch, loss, val_loss"):
        fit(ModelCheckpoint(tmp_path / pattern), [1.0])


def test_checkpoint_begins_anew_with_another_model_and_goes_on_with_the_same(tmp_path):
    save = ModelCheckpoint(tmp_path / "{epoch}.zip", save_best_only=True)
    first, _, _ = fit(save, [0.5])
    second, _, _ = fit(save, [0.75])  # the next fold: not better than the first, but the best of its own
    fit(save, [0.8, 0.6], model=second)
    assert [len(first.saved), len(second.saved)] == [1, 2]


@pytest.mark.parametrize(
    "arguments", [{"save_best_only": True}, {"filepath": "{val_loss}.zip"}, {"filepath": "{epoch}-{val_loss:.2f}.zip"}]
)
def test_checkpoint_in_the_middle_of_an_epoch_knows_no_validation(tmp_path, arguments):
    with pytest.raises(InputError, match="no val_ numbers in the middle of an epoch"):
        ModelCheckpoint(**{"filepath": "best.zip", "save_freq": 4, **arguments})
    ModelCheckpoint("best.zip", save_best_only=True, save_freq=4, monitor="loss")
    ModelCheckpoint("{batch}.zip", save_freq=4)


@pytest.mark.parametrize("save_freq", ["batch", 0, -1, 1.5])
def test_checkpoint_with_an_impossible_frequency(save_freq):
    with pytest.raises(InputError, match="save_freq"):
        ModelCheckpoint("f", save_freq=save_freq)


# --- CSVLogger


def rows(path, separator=","):
    with open(path, newline="") as file:
        return list(csv.reader(file, delimiter=separator))


def test_csv_logger(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("something old\n")
    fit(CSVLogger(path, separator=";"), [0.25, 0.125])
    assert rows(path, ";") == [["epoch", "loss", "val_loss"], ["0", "0.5", "0.25"], ["1", "0.5", "0.125"]]


def test_csv_logger_appends_without_a_second_heading(tmp_path):
    path = tmp_path / "log.csv"
    for value in (0.25, 0.125):
        fit(CSVLogger(path, append=True), [value])
    assert rows(path) == [["epoch", "loss", "val_loss"], ["0", "0.5", "0.25"], ["0", "0.5", "0.125"]]


def test_csv_logger_puts_each_number_under_its_own_name(tmp_path):
    """Also where the file that it goes on in has other columns, or was written by hand."""
    path = tmp_path / "log.csv"
    fit(CSVLogger(path), [0.25])
    fit([LearningRateScheduler(lambda epoch: 0.5), CSVLogger(path, append=True)], [0.125], accuracy=0.75)
    assert list(csv.DictReader(path.read_text().splitlines())) == [
        {"epoch": "0", "loss": "0.5", "val_loss": "0.25", "accuracy": "NA", "learning_rate": "NA"},
        {"epoch": "0", "loss": "0.5", "val_loss": "0.125", "accuracy": "0.75", "learning_rate": "0.5"},
    ]
    path.write_text("epoch,loss\n0,0.75", encoding="utf-8-sig")  # as a spreadsheet leaves it: a mark, no last newline
    fit(CSVLogger(path, append=True), [0.25])
    assert rows(path) == [["epoch", "loss", "val_loss"], ["0", "0.75", "NA"], ["0", "0.5", "0.25"]]


@pytest.mark.parametrize("content", [b"epoch;loss\n0;1\n", b"dear diary\n", b"\xff\xfe\x00"])
def test_csv_logger_appends_to_nothing_but_its_like(tmp_path, content):
    path = tmp_path / "log.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match="no table of epochs"):
        fit(CSVLogger(path, append=True), [1])
    assert path.read_bytes() == content


def test_csv_logger_with_an_impossible_separator(tmp_path):
    with pytest.raises(InputError, match="cannot separate"):
        CSVLogger(tmp_path / "log.csv", separator=", ")


@pytest.mark.parametrize("path", ["", None, 3])
@pytest.mark.parametrize("kind", [CSVLogger, ModelCheckpoint, BackupAndRestore])
def test_a_path_that_names_nothing(kind, path):
    with pytest.raises(InputError, match="this is no path"):
        kind(path)


# --- learning rates


def test_learning_rate_scheduler(capsys):
    scheduler = LearningRateScheduler(lambda epoch, lr: lr if epoch < 1 else lr * 0.5, verbose=1)
    model, history, _ = fit(scheduler, [1, 1, 1])
    assert history.history["learning_rate"] == [0.1, 0.05, 0.025]
    assert capsys.readouterr().out.splitlines()[1] == "Epoch 2: learning rate 0.05"


@pytest.mark.parametrize("schedule", [lambda epoch: 0.1 * 0.5**epoch, ExponentialDecay(0.1, 1, 0.5)])
def test_learning_rate_scheduler_of_the_epoch_alone(schedule):
    _, history, _ = fit(LearningRateScheduler(schedule), [1, 1, 1])
    assert history.history["learning_rate"] == pytest.approx([0.1, 0.05, 0.025])


def test_learning_rate_scheduler_of_a_function_that_tells_no_signature():
    model, _, _ = fit(LearningRateScheduler(max), [1, 1, 1])  # of epoch and rate
    assert model.optimizer.learning_rate == 2.0


def test_learning_rate_scheduler_does_not_hide_errors_of_the_schedule():
    with pytest.raises(TypeError, match="unsupported operand"):
        fit(LearningRateScheduler(lambda epoch, lr: lr + "x"), [1])


@pytest.mark.parametrize("result", [None, "0.1", math.nan, True])
def test_learning_rate_scheduler_wants_a_number(result):
    with pytest.raises(InputError, match="finite number"):
        fit(LearningRateScheduler(lambda epoch, lr: result), [1])


@pytest.mark.parametrize(
    ("arguments", "values", "rates"),
    [
        ({"patience": 2}, [1, 1, 1, 1, 1, 1], [0.1, 0.1, 0.1, 0.01, 0.01, 0.001]),
        ({"patience": 1, "factor": 0.5, "min_lr": 0.04}, [1, 1, 1, 1], [0.1, 0.1, 0.05, 0.04]),
        ({"patience": 1, "factor": 0.5, "cooldown": 2}, [1, 1, 1, 1, 1], [0.1, 0.1, 0.05, 0.05, 0.025]),
        ({"patience": 1, "factor": 0.5, "min_delta": 0.2}, [1, 0.9, 0.7, 0.7], [0.1, 0.1, 0.05, 0.05]),
        ({"patience": 1, "factor": 0.5, "mode": "max"}, [1, 2, 1, 3], [0.1, 0.1, 0.1, 0.05]),
    ],
)
def test_reduce_on_plateau(arguments, values, rates):
    """The rates were compared with Keras 3.15."""
    _, history, _ = fit(ReduceLROnPlateau(**arguments), values)
    assert history.history["learning_rate"] == pytest.approx(rates)


def test_reduce_on_plateau_says_so_and_checks_its_factor(capsys):
    fit(ReduceLROnPlateau(patience=1, factor=0.5, verbose=1), [1, 1])
    assert capsys.readouterr().out == "Epoch 2: learning rate reduced to 0.05\n"
    with pytest.raises(InputError, match="factor < 1"):
        ReduceLROnPlateau(factor=1.0)


# --- TerminateOnNaN


@pytest.mark.parametrize("loss", [math.nan, math.inf, np.float32("nan")])
def test_terminate_on_nan(loss, capsys):
    model = FakeModel()
    each = CallbackList([TerminateOnNaN()], model=model)
    each.call("on_train_batch_end", 0, {"loss": 1.0})
    each.call("on_train_batch_end", 1, {})
    assert not model.stop_training
    each.call("on_train_batch_end", 2, {"loss": loss})
    assert model.stop_training
    assert capsys.readouterr().out.startswith("Batch 2: the loss is")
