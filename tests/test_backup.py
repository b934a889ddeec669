"""BackupAndRestore, in one process: what is restored, what is refused. Real kills: tests/test_kills.py."""

from __future__ import annotations

import json

import numpy as np
import pytest

import minicnn
from minicnn.backend import to_host
from minicnn.callbacks import (
    BackupAndRestore,
    Callback,
    CSVLogger,
    EarlyStopping,
    History,
    LambdaCallback,
    LearningRateScheduler,
    ModelCheckpoint,
    ReduceLROnPlateau,
)
from minicnn.errors import BrokenFileError, InputError
from minicnn.layers import BatchNormalization, Dense, Dropout, Input
from minicnn.schedules import CosineDecay

EPOCHS, STEPS = 4, 5


class CrashError(Exception):
    pass


def crash_at(batch: int) -> LambdaCallback:
    """Raises CrashError after so many batches."""
    seen = []

    def count(*_):
        seen.append(1)
        if len(seen) == batch:
            raise CrashError

    return LambdaCallback(on_train_batch_end=count)


def data(samples: int = 8 * STEPS) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    return rng.random((samples, 6)), rng.integers(0, 3, samples)


def network(optimizer=None, units: int = 4, loss: str = "sparse_categorical_crossentropy") -> minicnn.Sequential:
    minicnn.utils.set_random_seed(7)
    layers = [Dense(units, activation="relu"), BatchNormalization(), Dropout(0.3), Dense(3, activation="softmax")]
    model = minicnn.Sequential([Input((6,)), *layers])
    model.compile(optimizer or minicnn.optimizers.Adam(0.02), loss, metrics=["accuracy"])
    return model


def train(model, *callbacks, x=None, y=None, **options) -> History:
    if x is None:
        x, y = data()
    options = {"batch_size": 8, "epochs": EPOCHS, "verbose": 0, "validation_data": data(16)} | options
    return model.fit(x, y, callbacks=list(callbacks), **options)


def crash_and_resume(folder, batch: int, save_freq="epoch", make=network, extra=lambda: [], **options):
    """The model and History of a run that crashed after `batch` batches and was run again."""
    with pytest.raises(CrashError):
        train(make(), BackupAndRestore(folder, save_freq), *extra(), crash_at(batch), **options)
    model = make()
    return model, train(model, BackupAndRestore(folder, save_freq), *extra(), **options)


def assert_same(a: minicnn.Sequential, b: minicnn.Sequential) -> None:
    for one, other in zip(a.get_weights(), b.get_weights(), strict=True):
        assert one.tobytes() == other.tobytes()
    assert a.optimizer.iterations == b.optimizer.iterations
    assert a.rng.bit_generator.state == b.rng.bit_generator.state
    for key, slots in a.optimizer.state.items():
        for one, other in zip(slots, b.optimizer.state[key], strict=True):
            assert to_host(one).tobytes() == to_host(other).tobytes()


OPTIMIZERS = {
    "adam": lambda: minicnn.optimizers.Adam(0.02),
    "momentum": lambda: minicnn.optimizers.SGD(0.05, momentum=0.9, nesterov=True),
    "plain": lambda: minicnn.optimizers.SGD(0.05),
    "schedule": lambda: minicnn.optimizers.RMSprop(CosineDecay(0.02, EPOCHS * STEPS), centered=True),
    "decay": lambda: minicnn.optimizers.SGD(0.05, decay=1e-2),
}


@pytest.mark.cpu  # one such run on the other devices is enough: test_the_other_callbacks_remember
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(("batch", "save_freq"), [(6, "epoch"), (13, "epoch"), (3, 1), (9, 2), (11, 5), (20, 4)])
def test_a_resumed_run_ends_like_one_that_was_never_stopped(tmp_path, optimizer, batch, save_freq):
    def make():
        return network(OPTIMIZERS[optimizer]())

    whole = make()
    expected = train(whole)
    model, history = crash_and_resume(tmp_path / "backup", batch, save_freq, make)
    assert_same(model, whole)
    assert (history.epoch, history.history) == (expected.epoch, expected.history)
    assert model.history is history
    assert not (tmp_path / "backup").exists()  # it ended well


@pytest.mark.parametrize("save_freq", ["epoch", 3])
def test_the_other_callbacks_remember(tmp_path, save_freq):
    def others(folder):
        return [
            CSVLogger(folder / "log.csv"),
            EarlyStopping(patience=3, restore_best_weights=True),
            ReduceLROnPlateau(factor=0.5, patience=1, min_delta=0.5),
            ModelCheckpoint(folder / "best.zip", save_best_only=True),
            ModelCheckpoint(folder / "epoch-{epoch}.zip", save_weights_only=True, save_freq=4),
        ]

    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    whole, wholes = network(), others(tmp_path / "a")
    expected = train(whole, *wholes, epochs=9)
    made = []

    def extra():
        made[:] = others(tmp_path / "b")
        return made

    model, history = crash_and_resume(tmp_path / "backup", 12, save_freq, extra=extra, epochs=9)
    assert_same(model, whole)
    assert history.history == expected.history
    assert len(history.epoch) < 9, "the case should stop early"
    for one, other in zip(wholes, made, strict=True):
        for name in one.state_keys:
            np.testing.assert_equal(getattr(other, name), getattr(one, name))
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "b").iterdir())
    assert "log.csv" in files and "best.zip" in files and "epoch-2.zip" in files
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_every_kind_of_number_and_array_is_remembered_as_it_was(tmp_path):
    things = {
        "numbers": [1, 2.5, True, None, "text", float("inf"), 1e-320, 2**80],
        "single": np.float32(0.1), "double": np.float64(0.1), "whole": np.int64(3), "flag": np.bool_(True),
        "arrays": [np.arange(6, dtype=np.int16).reshape(2, 3).T, np.zeros((0, 3)), {"inner": np.ones((1, 2, 1))}],
    }  # fmt: skip

    class Keeper(Callback):
        state_keys = ("things",)
        things = None

    first, second = Keeper(), Keeper()
    first.things = things
    made = iter([first, second])
    crash_and_resume(tmp_path, 7, extra=lambda: [next(made)])
    np.testing.assert_equal(second.things, things)
    assert second.things["single"].dtype == np.float32 and second.things["single"].shape == ()
    assert second.things["arrays"][0].shape == (3, 2) and second.things["arrays"][1].shape == (0, 3)


def test_a_callback_of_ones_own_is_remembered_by_the_names_it_gives(tmp_path):
    class Sum(Callback):
        state_keys = ("total",)

        def on_train_begin(self, logs=None):
            self.total = 0.0

        def on_epoch_end(self, epoch, logs=None):
            self.total += logs["loss"]

    once, again = Sum(), Sum()
    train(network(), once)
    made = iter([Sum(), again])
    crash_and_resume(tmp_path, 12, extra=lambda: [next(made)])
    assert again.total == once.total > 0


def test_a_scheduler_is_not_called_twice_for_an_epoch(tmp_path):
    """In the middle of an epoch on_epoch_begin has been called already."""

    def halved():
        return [LearningRateScheduler(lambda epoch, rate: rate / 2)]

    whole = network()
    expected = train(whole, *halved())
    model, history = crash_and_resume(tmp_path, 9, 2, extra=halved)
    assert_same(model, whole)
    assert history.history["learning_rate"] == expected.history["learning_rate"] == [0.01, 0.005, 0.0025, 0.00125]


# ---- where batches come from -----------------------------------------------------------------------------------------


def noisy(seed: int):
    """A generator with a random generator of its own."""
    rng = np.random.default_rng(seed)
    while True:
        x = rng.random((8, 6))
        yield x, (x.sum(axis=1) > 3).astype(int)


class Stateful:
    """The same, but it can say its place."""

    def __init__(self):
        self.rng, self.calls = np.random.default_rng(5), 0

    def __iter__(self):
        return self

    def __next__(self):
        self.calls += 1
        x = self.rng.random((8, 6))
        return x, (x.sum(axis=1) > 3).astype(int)

    def state_dict(self):
        return {"rng": self.rng.bit_generator.state}

    def load_state_dict(self, state):
        self.rng.bit_generator.state = state["rng"]


class Batches:
    """Can be iterated again and again, and knows its length."""

    def __len__(self):
        return STEPS

    def __iter__(self):
        x, y = data()
        return iter([(x[i * 8 : i * 8 + 8], y[i * 8 : i * 8 + 8]) for i in range(STEPS)])


@pytest.mark.cpu  # one such run on the other devices is enough: test_the_other_callbacks_remember
@pytest.mark.parametrize("save_freq", ["epoch", 3])
@pytest.mark.parametrize("source", [lambda: noisy(3), Stateful, Batches])
def test_generators_go_on_where_they_were(tmp_path, source, save_freq):
    def fit(model, *callbacks):
        return model.fit(source(), steps_per_epoch=STEPS, epochs=EPOCHS, verbose=0, callbacks=list(callbacks),
                         validation_data=noisy(9), validation_steps=2)  # fmt: skip

    whole, model = network(), network()
    expected = fit(whole)
    with pytest.raises(CrashError):
        fit(network(), BackupAndRestore(tmp_path, save_freq), crash_at(13))
    history = fit(model, BackupAndRestore(tmp_path, save_freq))
    assert_same(model, whole)
    assert history.history == expected.history


def test_an_object_that_knows_its_place_is_not_run_again(tmp_path):
    for source in (Stateful(), Stateful()):
        callbacks = [BackupAndRestore(tmp_path), crash_at(12 if source.calls == 0 and not tmp_path.joinpath(
            "backup.zip").exists() else 99)]  # fmt: skip
        try:
            network().fit(source, steps_per_epoch=STEPS, epochs=3, verbose=0, callbacks=callbacks)
        except CrashError:
            continue
    assert source.calls == STEPS  # the third epoch alone


def test_a_model_that_learns_its_shape_from_the_data(tmp_path):
    def make():
        minicnn.utils.set_random_seed(7)
        model = minicnn.Sequential([Dense(4, activation="relu"), Dense(3, activation="softmax")])
        model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        return model

    def fit(model, *callbacks):
        return model.fit(noisy(3), steps_per_epoch=3, epochs=3, verbose=0, callbacks=list(callbacks))

    whole, model = make(), make()
    fit(whole)
    with pytest.raises(CrashError):
        fit(make(), BackupAndRestore(tmp_path), crash_at(5))
    fit(model, BackupAndRestore(tmp_path))
    assert_same(model, whole)


# ---- what is said, kept and refused ----------------------------------------------------------------------------------


def test_it_says_where_it_goes_on(tmp_path, capsys):
    crash_and_resume(tmp_path / "a", 11, verbose=2)
    assert "resuming at epoch 3\nEpoch 3/4  40 images" in capsys.readouterr().out
    crash_and_resume(tmp_path / "b", 13, 2, verbose=2)
    assert "resuming at epoch 3, after 2 batches of it\nEpoch 3/4  24 images" in capsys.readouterr().out


def test_a_run_that_was_complete_is_not_run_again_but_can_be_prolonged(tmp_path):
    whole, longer = network(), network()
    train(whole, epochs=6)
    first = network()
    train(first, BackupAndRestore(tmp_path, delete_checkpoint=False))
    again = network()
    history = train(again, BackupAndRestore(tmp_path, delete_checkpoint=False))
    assert_same(again, first)
    assert history.epoch == [0, 1, 2, 3]
    train(longer, BackupAndRestore(tmp_path), epochs=6)
    assert_same(longer, whole)


def test_a_run_that_was_stopped_early_stays_stopped(tmp_path):
    def run():
        model = network()
        train(model, EarlyStopping(monitor="loss", min_delta=100), BackupAndRestore(tmp_path, delete_checkpoint=False))
        return model

    first, again = run(), run()
    assert first.history.epoch == [0, 1]
    assert_same(again, first)
    assert again.history.epoch == [0, 1]


def test_a_new_learning_rate_in_the_script_is_taken(tmp_path, capsys):
    """The backup's own only where the script says the same as before: another callback may have lowered it."""

    def run(rate, *callbacks):
        model = network(minicnn.optimizers.SGD(rate))
        train(model, BackupAndRestore(tmp_path / "backup"), *callbacks, verbose=2)
        return model.optimizer.learning_rate

    def lower(epoch, logs):
        lowering.model.optimizer.learning_rate = 0.25

    for resumed, ends in ((0.5, 0.25), (0.01, 0.01)):
        lowering = LambdaCallback(on_epoch_end=lower)
        with pytest.raises(CrashError):
            run(0.5, lowering, crash_at(12))
        capsys.readouterr()
        assert run(resumed) == ends
        assert ("with the new learning rate 0.01" in capsys.readouterr().out) == (resumed == 0.01)


def test_what_killed_writers_left_is_cleared(tmp_path):
    (tmp_path / ".backup.zip.abc.part").write_bytes(b"half")
    train(network(), BackupAndRestore(tmp_path, delete_checkpoint=False))
    assert [path.name for path in tmp_path.iterdir()] == ["backup.zip"]


def test_the_backup_before_the_last_one(tmp_path, capsys):
    whole = network()
    train(whole)
    with pytest.raises(CrashError):
        train(network(), BackupAndRestore(tmp_path, double_checkpoint=True), crash_at(14))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backup.zip", "previous.zip"]
    (tmp_path / "backup.zip").write_bytes((tmp_path / "backup.zip").read_bytes()[:-100])
    model = network()
    train(model, BackupAndRestore(tmp_path, double_checkpoint=True), verbose=2)
    assert_same(model, whole)
    out = capsys.readouterr().out
    assert "resuming at epoch 2" in out and "The backup before it is taken" in out


def test_a_broken_backup_is_told_and_kept(tmp_path):
    (tmp_path / "backup.zip").write_bytes(b"no zip")
    with pytest.raises(BrokenFileError, match="backup.zip"):
        train(network(), BackupAndRestore(tmp_path))
    assert (tmp_path / "backup.zip").read_bytes() == b"no zip"


def test_a_model_file_is_no_backup(tmp_path):
    network().save(tmp_path / "backup.zip")
    with pytest.raises(BrokenFileError, match="not that of a backup"):
        train(network(), BackupAndRestore(tmp_path))


@pytest.mark.cpu  # one such run on the other devices is enough: test_the_other_callbacks_remember
@pytest.mark.parametrize(
    ("other", "options", "what"),
    [
        (lambda: network(units=5), {}, "the layers"),
        (lambda: network("sgd"), {}, "the optimizer"),
        (lambda: network(minicnn.optimizers.Adam(0.02, beta_1=0.8)), {}, "beta_1=0.8"),
        (lambda: network(minicnn.optimizers.Adam(CosineDecay(0.02, 10))), {}, "the optimizer"),
        (lambda: network(loss="mse"), {"y": np.zeros((40, 3)), "x": data()[0]}, "the loss"),
        (network, dict(zip("xy", data(48), strict=True)), "the number of training samples"),
        (network, {"batch_size": 10}, "the batch size"),
        (network, {"steps_per_epoch": 3}, "the batches of an epoch"),
    ],
)
def test_a_backup_of_another_training_is_refused(tmp_path, other, options, what):
    with pytest.raises(CrashError):
        train(network(), BackupAndRestore(tmp_path), crash_at(7))
    kept, model = (tmp_path / "backup.zip").read_bytes(), other()
    before = model.get_weights()
    with pytest.raises(InputError, match="of another training") as caught:
        train(model, BackupAndRestore(tmp_path), validation_data=None, **options)
    assert what in str(caught.value) and "delete this file" in caught.value.fix
    assert (tmp_path / "backup.zip").read_bytes() == kept
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_state_that_cannot_be_written_is_told(tmp_path):
    class Odd(Callback):
        state_keys = ("thing",)
        thing = object()

    with pytest.raises(InputError, match="cannot be written"):
        train(network(), BackupAndRestore(tmp_path), Odd())


@pytest.mark.parametrize("save_freq", [0, -1, 1.5, "batch", None])
def test_a_bad_frequency(tmp_path, save_freq):
    with pytest.raises(InputError, match="BackupAndRestore save_freq"):
        BackupAndRestore(tmp_path, save_freq)


def test_the_backup_is_json_and_arrays(tmp_path):
    stopper = EarlyStopping(patience=9, restore_best_weights=True)
    train(network(), BackupAndRestore(tmp_path, delete_checkpoint=False), stopper)
    with np.load(tmp_path / "backup.zip", allow_pickle=False) as archive:
        config = json.loads(archive["config.json"])
        assert config["place"]["epoch"] == EPOCHS
        assert config["place"]["callbacks"]["EarlyStopping 1"]["best_weights"]
        assert archive["params/dense_1/w"].shape == (6, 4)
        assert all(archive[name].dtype != object for name in archive.files if name != "config.json")
