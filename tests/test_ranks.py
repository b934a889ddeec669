"""Several ranks train one model: on a strict communicator that stands in for MPI. The real one: test_ranks_mpi.py."""

from __future__ import annotations

import copy
import ctypes
import pickle
import sys
import threading
import time

import numpy as np
import pytest
import strict_cupy
import strict_ranks
from helpers import random
from strict_ranks import all_well, run

import minicnn
from minicnn import callbacks
from minicnn.errors import InputError
from minicnn.layers import (
    BatchNormalization,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    Input,
    MaxPooling2D,
    SpatialDropout2D,
)
from minicnn.models import Sequential
from minicnn.preprocessing.image import ImageDataGenerator
from minicnn.ranks import Group, first_rank_does, get_group, together
from minicnn.training import distributed, shards

RANKS = [1, 2, 3, 5]
LOCK = threading.Lock()  # the ranks are threads here, and the seed is the process's


@pytest.fixture(autouse=True)
def one_thread_for_each_rank():
    minicnn.set_num_threads(1)
    yield
    minicnn.set_num_threads(None)


def network(seed: int = 3, dtype: type = np.float64, regularizer: str | None = "l2") -> Sequential:
    """Everything in it depends on the whole batch, or on the sample's number: batch norm, dropout, a regularizer."""
    with LOCK:
        minicnn.utils.set_random_seed(seed)
        model = Sequential(
            [
                Input((8, 8, 2)), Conv2D(4, 3, activation="relu", kernel_regularizer=regularizer), BatchNormalization(),
                MaxPooling2D(), SpatialDropout2D(0.2), Flatten(), Dense(6, activation="relu"), Dropout(0.3),
                BatchNormalization(), Dense(3, activation="softmax"),
            ]
        )  # fmt: skip
    for layer in model.flat_layers:  # float64 tells rounding from mistakes
        for arrays in (layer.params, layer.state):
            arrays.update({name: array.astype(dtype) for name, array in arrays.items()})
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def data(n: int = 21) -> tuple[np.ndarray, np.ndarray]:
    """Batches of 10, 10 and 1."""
    return random((n, 8, 8, 2), seed=5, dtype=np.float32), np.arange(n) % 3


def results(model: Sequential, history: dict, *more: object) -> tuple:
    return history, [w.copy() for w in model.get_weights()], *more


def same(a: object, b: object, rtol: float = 1e-9, atol: float = 1e-12) -> None:
    if isinstance(a, dict):
        assert list(a) == list(b)
        a, b = list(a.values()), list(b.values())
    if isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            same(one, other, rtol, atol)
    else:
        np.testing.assert_allclose(b, a, rtol=rtol, atol=atol)


# ---- the same training -----------------------------------------------------------------------------------------------


def with_arrays() -> tuple:
    model, (x, y) = network(), data()
    weights = np.linspace(0.2, 2, len(x))
    history = model.fit(
        x, y, batch_size=10, epochs=2, verbose=0, sample_weight=weights, validation_data=(x[:7], y[:7])
    ).history
    return results(model, history, model.evaluate(x, y, batch_size=8, verbose=0), model.predict(x, 8, verbose=0))


def with_augmentation() -> tuple:
    model, (x, y) = network(), data()
    flow = ImageDataGenerator(rotation_range=20, width_shift_range=0.2, horizontal_flip=True).flow(
        x, y, batch_size=10, shuffle=True, seed=get_group().rank  # the seed of rank 0 counts
    )
    return results(model, model.fit(flow, epochs=2, verbose=0).history)


def with_a_generator() -> tuple:
    model, (x, y) = network(), data()

    def batches():
        while True:
            for k in range(0, len(x), 10):
                yield x[k : k + 10], y[k : k + 10], np.linspace(1, 2, len(x[k : k + 10]))

    return results(model, model.fit(batches(), steps_per_epoch=3, epochs=2, verbose=0).history)


def with_a_dataset_of_ones_own() -> tuple:
    class Data(minicnn.utils.PyDataset):
        def __len__(self):
            return 3

        def __getitem__(self, i):
            x, y = data()
            return x[10 * i : 10 * i + 10], y[10 * i : 10 * i + 10]

    model = network()
    history = model.fit(Data(), epochs=2, verbose=0, validation_data=Data()).history
    return results(model, history, model.predict(Data(), verbose=0))


def with_single_steps() -> tuple:
    model, (x, y) = network(seed=3 + get_group().rank), data()  # the weights of rank 0 count
    losses = [model.train_on_batch(x[k : k + 3], y[k : k + 3]) for k in range(0, 12, 3)]
    return results(model, {"losses": losses}, model.test_on_batch(x, y), model.predict_on_batch(x[:2]))


def with_ignored_classes() -> tuple:
    model, (x, y) = network(), data()
    model.compile("sgd", minicnn.losses.SparseCategoricalCrossentropy(ignore_class=2))
    return results(model, model.fit(x, y, batch_size=10, verbose=0).history, model.evaluate(x, y, verbose=0))


def with_a_loss_of_the_whole_batch() -> tuple:
    model, (x, y) = network(), data()
    model.compile("sgd", minicnn.losses.Dice(axis=None))
    y = np.eye(3, dtype=np.float32)[y]
    return results(model, model.fit(x, y, batch_size=10, verbose=0).history, model.evaluate(x, y, verbose=0))


SCRIPTS = [
    with_arrays, with_augmentation, with_a_generator, with_a_dataset_of_ones_own, with_single_steps,
    with_ignored_classes, with_a_loss_of_the_whole_batch,
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*single sample")
@pytest.mark.parametrize("script", SCRIPTS)
def test_any_number_of_ranks_trains_the_same(script):
    alone = script()
    for size in RANKS:
        ranks = all_well(run(size, script))
        same(alone, ranks[0])
        for other in ranks[1:]:
            same(ranks[0], other, rtol=0)  # the same bits everywhere


@pytest.mark.filterwarnings("ignore:.*(cannot be read|single sample)")
@pytest.mark.parametrize("way", ["generator", "dataset"])
def test_a_folder_of_images_some_of_which_cannot_be_read(way, tmp_path):
    """Each rank reads its run of a batch, of which there may be nothing left; nor of a whole batch."""
    for k in range(12):
        folder = tmp_path / "ab"[k % 2]
        folder.mkdir(exist_ok=True)
        image = np.random.default_rng(k).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        minicnn.utils.save_img(folder / f"{k:02}.png", image, scale=False)
    for name in ("a/02.png", "a/04.png", "b/11.png", "b/09.png"):
        (tmp_path / name).write_bytes(b"no image")

    def script():
        with LOCK:
            minicnn.utils.set_random_seed(1)
            model = Sequential([Input((8, 8, 3)), Conv2D(2, 3), BatchNormalization(), Flatten(), Dense(1, "sigmoid")])
        model.compile("sgd", "binary_crossentropy")
        if way == "generator":
            generator = ImageDataGenerator(rescale=1 / 255, horizontal_flip=True, rotation_range=20)
            batches = generator.flow_from_directory(
                tmp_path, (8, 8), class_mode="binary", batch_size=2, shuffle=False, seed=1
            )
        else:
            batches = minicnn.utils.image_dataset_from_directory(
                tmp_path, label_mode="binary", image_size=(8, 8), batch_size=2, shuffle=False
            )
        history = model.fit(batches, epochs=2, verbose=0).history
        return results(model, history, model.evaluate(batches, verbose=0), model.predict(batches, verbose=0))

    alone = script()
    assert len(alone[3]) == 8
    for size in (2, 3):
        for rank in all_well(run(size, script)):
            same(alone, rank, rtol=1e-4, atol=1e-5)  # in float32


@pytest.mark.filterwarnings("ignore:.*single sample")
def test_ranks_hold_the_bits_that_as_many_threads_would(monkeypatch):
    """Both cut the batch at the same places, and sum in the same order (but for a regularizer's gradient)."""
    monkeypatch.setattr(shards, "MIN_MACS_PER_SHARD", 1)

    def script():
        model, (x, y) = network(dtype=np.float32, regularizer=None), data()
        return results(model, model.fit(x, y, batch_size=10, epochs=2, verbose=0).history)

    ranks = all_well(run(3, script))
    minicnn.set_num_threads(3)
    same(script(), ranks[0], rtol=0)


def test_ranks_of_several_threads(monkeypatch):
    monkeypatch.setattr(shards, "MIN_MACS_PER_SHARD", 1)

    def script():
        model, (x, y) = network(), data(20)
        return results(model, model.fit(x, y, batch_size=10, verbose=0).history)

    alone = script()
    minicnn.set_num_threads(2)
    for rank in all_well(run(3, script)):
        same(alone, rank)


def test_a_step_is_four_collectives_for_a_network_without_batch_norm():
    """The meeting, the sums of loss and metrics, and the gradients, which are large enough to be cut in pieces."""

    def script():
        model = Sequential([Input((50,)), Dense(400), Dense(2)])
        model.compile("sgd", "mse")
        x, y = random((8, 50)), random((8, 2))
        for _ in range(2):
            model.train_on_batch(x, y)
        before = len(world.journal)
        model.train_on_batch(x, y)
        return model.count_params(), world.journal[before:]

    world = strict_ranks.World(2)
    params, calls = all_well(run(2, script, world))[0]
    gradients = [(name, size) for name, dtype, size in calls if dtype == "float32"]
    assert gradients == [("alltoall", 4 * params), ("allgather", 2 * params)]
    assert [name for name, dtype, _ in calls if dtype == "float64"] == ["allgather"] * 4  # begin, meet, sums, end


# ---- decided once, told to all ---------------------------------------------------------------------------------------


def test_rank_0_decides():
    """Callbacks that look at the rank, or the clock, would else come to different decisions."""

    class Stop(callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.optimizer.learning_rate = 0.5 / (1 + get_group().rank)
            if get_group().rank == 0 and batch == 1:
                self.model.stop_training = True

    def script():
        model, (x, y) = network(), data(20)
        history = model.fit(x, y, batch_size=4, epochs=5, verbose=0, callbacks=[Stop()])
        return len(history.epoch), model.optimizer.iterations, float(model.optimizer.learning_rate)

    assert all_well(run(3, script)) == [(1, 2, 0.5)] * 3


def test_early_stopping_and_the_learning_rate_are_the_same_everywhere(tmp_path):
    def script():
        model, (x, y) = network(), data(20)
        stop = callbacks.EarlyStopping(monitor="loss", patience=1, min_delta=10, restore_best_weights=True)
        slower = callbacks.ReduceLROnPlateau(monitor="loss", patience=1, min_delta=10)
        history = model.fit(x, y, batch_size=10, epochs=9, verbose=0, callbacks=[slower, stop])
        return results(model, history.history, stop.best_epoch, float(model.optimizer.learning_rate))

    alone = script()
    for rank in all_well(run(3, script)):
        same(alone, rank)


def nan_in_one_sample(finite: bool):
    def script():
        model, (x, y) = network(), data(20)

        class Poison(callbacks.Callback):
            def on_train_batch_begin(self, batch, logs=None):
                if batch == 1:
                    weights = self.model.layers[0].params["w"]
                    weights[...] = 1e200  # infinite once squared

        before = model.fit(x, y, batch_size=10, verbose=0, check_finite=finite,
                           callbacks=[Poison(), *([] if finite else [callbacks.TerminateOnNaN()])])  # fmt: skip
        return model.optimizer.iterations, before.history["loss"]

    return script


def test_the_nan_guard_stops_all_ranks_at_the_same_step(capsys):
    with np.errstate(all="ignore"):
        assert [steps for steps, _ in all_well(run(3, nan_in_one_sample(finite=False)))] == [1, 1, 1]
        errors = run(3, nan_in_one_sample(finite=True))
    assert {type(error).__name__ for error in errors} == {"NotFiniteError"}
    assert len({str(error) for error in errors}) == 1


def test_nan_in_the_part_of_one_rank_is_told_to_all():
    class Divide(minicnn.layers.Layer):
        """Infinite for the sample whose first number is 7."""

        def forward(self, x, ctx):
            ctx.factor = np.where(x[:, :1] == 7, np.inf, 1.0)
            return x * ctx.factor

        def backward(self, dy, ctx):
            return dy * ctx.factor

    def script():
        x, y = random((9, 4), dtype=np.float32), random((9, 2), dtype=np.float32)
        x[5, 0] = 7  # of the second of three ranks
        model = Sequential([Input((4,)), Divide(name="divide"), Dense(2)])
        model.compile("sgd", "mse")
        model.fit(x, y, batch_size=9, shuffle=False, verbose=0, check_finite=True)

    errors = run(3, script)
    assert [(type(error).__name__, error.where) for error in errors] == [("NotFiniteError", "divide")] * 3
    assert "(2, 0)" in str(errors[0])  # the third sample of rank 1


# ---- once for all ----------------------------------------------------------------------------------------------------


def test_rank_0_saves_and_the_others_wait_for_it(tmp_path):
    written = []

    def script():
        model, (x, y) = network(), data(20)
        rank = get_group().rank
        log = callbacks.CSVLogger(tmp_path / "log.csv")
        best = callbacks.ModelCheckpoint(tmp_path / "best-{epoch}.zip", monitor="loss", save_best_only=True)
        model.fit(x, y, batch_size=10, epochs=2, verbose=0, callbacks=[log, best])
        model.save(tmp_path / "model.zip", overwrite=False)
        first_rank_does("a list", lambda: written.append(rank))
        return minicnn.load_model(tmp_path / "model.zip").predict(x, verbose=0)

    predictions = all_well(run(3, script))
    same(predictions[0], predictions[2], rtol=0)
    assert written == [0]
    assert {path.name for path in tmp_path.iterdir()} >= {"log.csv", "model.zip"}
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".part"]
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 3


def test_an_error_of_rank_0_is_raised_on_all(tmp_path):
    def script():
        network().save(tmp_path / "nowhere" / "model.zip")

    errors = run(3, script)
    assert all(isinstance(error, InputError) for error in errors)
    assert str(errors[1]).startswith("rank 0: ") and "its folder does not exist" in str(errors[2])

    (tmp_path / "there.zip").touch()
    errors = run(2, lambda: network().save(tmp_path / "there.zip", overwrite=False))
    assert all(isinstance(error, FileExistsError) for error in errors)


@pytest.mark.parametrize("where", ["data", "callback", "layer", "metric"])
def test_an_error_of_one_rank_ends_all(where):
    def script():
        rank, (x, y) = get_group().rank, data(20)

        class Callback(callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                if where == "callback" and rank == 1 and batch == 1:
                    raise KeyError("of the callback")

        class Layer(minicnn.layers.Layer):
            def forward(self, x, ctx):
                if where == "layer" and rank == 1:
                    raise KeyError("of the layer")
                return x

            def backward(self, dy, ctx):
                return dy

        def metric(y_true, y_pred):
            if where == "metric" and rank == 1:
                raise KeyError("of the metric")
            return np.zeros(len(y_pred))

        def batches():
            for k in range(0, 20, 5):
                if where == "data" and rank == 1 and k == 10:
                    raise KeyError("of the data")
                yield x[k : k + 5], y[k : k + 5]

        model = Sequential([Input((8, 8, 2)), Layer(), BatchNormalization(), Flatten(), Dense(3, activation="softmax")])
        model.compile("sgd", "sparse_categorical_crossentropy", metrics=[metric])
        model.fit(batches(), steps_per_epoch=4, verbose=0, callbacks=[Callback()])

    errors = run(3, script)
    assert all(isinstance(error, Exception) for error in errors)
    if where in ("data", "callback"):  # told: the others raise it, too
        assert all(isinstance(error, KeyError) and f"of the {where}" in str(error) for error in errors)
        assert "rank 1: " in str(errors[0]) and "rank 1: " not in str(errors[1])
    else:  # in the middle of a step: nobody could go on
        assert all(isinstance(error, strict_ranks.AbortedError) for error in errors)


def test_a_backup_is_resumed_by_another_number_of_ranks(tmp_path):
    class Kill(callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if self.model.optimizer.iterations == 3:
                raise KeyboardInterrupt

    def script(folder, *more):
        def train():
            model, (x, y) = network(), data(20)
            flow = ImageDataGenerator(width_shift_range=0.2).flow(x, y, batch_size=8, shuffle=True, seed=1)
            backup = callbacks.BackupAndRestore(folder, save_freq=1)
            stop = callbacks.EarlyStopping(monitor="loss", restore_best_weights=True, patience=9)
            history = model.fit(flow, epochs=2, verbose=0, callbacks=[stop, *more, backup])
            return results(model, history.history, stop.best_epoch)

        return train

    whole = script(tmp_path / "a")()
    for begun, resumed in ((2, 3), (1, 2), (3, 1)):
        folder = tmp_path / f"{begun}{resumed}"
        killed = run(begun, script(folder, Kill()))
        assert all(isinstance(error, KeyboardInterrupt) for error in killed)
        assert (folder / "backup.zip").exists()
        for rank in all_well(run(resumed, script(folder))):
            same(whole, rank)
        assert not folder.exists()


# ---- waiting ---------------------------------------------------------------------------------------------------------


def test_who_waits_says_for_whom(monkeypatch):
    monkeypatch.setattr(distributed, "PATIENCE", 0.3)
    monkeypatch.setattr(distributed, "ANSWER", 0.2)
    said = []

    def script():
        group = get_group()
        group.meet("the beginning")
        if group.rank == 1:
            time.sleep(0.9)
        group.meet("step 812")
        time.sleep(0.1 * group.rank)
        group.meet("the end")

    all_well(run(4, script, say=said.append))
    assert said and all(text.startswith("rank 0 has waited ") for text in said)  # the first of those who wait
    assert all(text.endswith("s: rank 1 has not arrived at step 812") for text in said)


def test_a_rank_that_has_ended_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(distributed, "ANSWER", 0.2)
    said = []

    def script():
        group = get_group()
        group.meet("the beginning")
        if group.rank == 1:
            return group._tell(distributed.BYE)  # what a process does at its end
        return group.meet("step 3")

    first, _, third = run(3, script, say=said.append)
    assert isinstance(first, strict_ranks.AbortedError) and isinstance(third, strict_ranks.AbortedError)
    assert "waits at step 3, but rank 1 has come to its end" in said[0]


# ---- GPUs ------------------------------------------------------------------------------------------------------------


class FakeNccl:
    """CuPy's NCCL, for ranks that are threads: as strict about the calls. sums: how many there were."""

    NCCL_FLOAT32, NCCL_FLOAT64, NCCL_SUM, available = 7, 8, 0, True

    def __init__(self, size: int):
        self.sums, self.barrier, self.own = 0, threading.Barrier(size), [None] * size
        nccl = self

        class NcclCommunicator:
            def __init__(self, count, number, rank):
                assert (count, len(number), number[:3]) == (size, 128, (1, 2, 3))
                self.rank = rank

            def allReduce(self, source, target, count, kind, op, stream):  # noqa: N802
                assert op == nccl.NCCL_SUM and isinstance(stream, int)
                number = {nccl.NCCL_FLOAT32: ctypes.c_float, nccl.NCCL_FLOAT64: ctypes.c_double}[kind]
                nccl.own[self.rank] = np.frombuffer((number * count).from_address(source), number)
                nccl.barrier.wait(60)
                total = sum(nccl.own)
                nccl.barrier.wait(60)
                np.frombuffer((number * count).from_address(target), number)[:] = total
                nccl.sums += self.rank == 0

        self.NcclCommunicator = NcclCommunicator

    def get_unique_id(self):
        return tuple(range(1, 129))


@pytest.mark.parametrize("way", ["nccl", "host"])
def test_ranks_on_gpus(way, monkeypatch):
    """On the stand-in for CuPy, which has two: each its own and NCCL, or both the same and by way of the host."""
    nccl = FakeNccl(2)
    cupy = strict_cupy.install(monkeypatch, own_kernels=False)
    cupy.cuda.nccl = nccl
    monkeypatch.setitem(sys.modules, "cupy.cuda", cupy.cuda)

    def script():
        model, (x, y) = network(), data()
        model.to(f"gpu:{get_group().rank}" if way == "nccl" else "gpu")
        history = model.fit(x, y, batch_size=10, epochs=2, verbose=0).history
        return results(model, history, model.evaluate(x, y, verbose=0), model.predict(x, verbose=0))

    with pytest.warns(UserWarning, match="single sample"):
        alone, ranks = script(), all_well(run(2, script))
    for rank in ranks:
        same(alone, rank)
    assert (nccl.sums > 0) == (way == "nccl")


def test_each_rank_of_a_machine_takes_a_gpu_of_its_own(monkeypatch):
    strict_cupy.install(monkeypatch)
    monkeypatch.setattr(minicnn.backend, "_default_gpu", 0)
    names = []
    for rank in range(4):
        minicnn.backend.set_default_gpu(rank)
        names.append(str(minicnn.device("gpu")))
    assert names == ["gpu", "gpu:1", "gpu", "gpu:1"]  # the stand-in has two
    assert minicnn.device("gpu:0") == "gpu"


# ---- what does not fit is named --------------------------------------------------------------------------------------


def other_model():
    rank, (x, y) = get_group().rank, data(20)
    model = Sequential([Input((8, 8, 2)), Flatten(), Dense(3 + rank, activation="softmax", name="last")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(x, y, verbose=0)


def other_length():
    model, (x, y) = network(), data(20 + get_group().rank)
    model.fit(x, y, verbose=0)


def other_order():
    model, (x, y) = network(), data(20)
    order = np.random.default_rng(get_group().rank).permutation(20)
    model.fit(x[order], y[order], verbose=0)


def other_epochs():
    model, (x, y) = network(), data(20)
    model.fit(x, y, verbose=0, epochs=1 + get_group().rank)


def other_batches():
    model, (x, y) = network(), data(20)
    n = 6 + get_group().rank
    model.fit(((x[:n], y[:n]) for _ in range(9)), steps_per_epoch=2, verbose=0)


def other_weights():
    class Change(callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.layers[-1].params["b"][0] += get_group().rank

    model, (x, y) = network(), data(20)
    model.fit(x, y, verbose=0, callbacks=[Change()])


def other_way():
    model, (x, y) = network(), data(20)
    if get_group().rank == 0:
        model.save("never.zip")
    else:
        model.evaluate(x, y, verbose=0)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (other_model, "what differs: the layers"), (other_length, "what differs: the number of training samples"),
        (other_order, "what differs: the data"), (other_epochs, "what differs: epochs"),
        (other_batches, "rank 0: 6 samples, rank 1: 7 samples"), (other_weights, "have become different in epoch 1"),
        (other_way, "rank 0: the saving of never.zip, rank 1: evaluate, with 20 samples"),
    ],
)  # fmt: skip
def test_ranks_that_do_not_fit_together(script, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    errors = run(2, script)
    assert all(isinstance(error, InputError) and said in str(error) for error in errors), errors


def test_a_rank_that_speaks_in_another_thread_is_told_so():
    def script():
        found = []
        group = get_group()

        def elsewhere():
            with pytest.raises(InputError, match="only one thread of a rank"):
                group.meet("somewhere")
            found.append(True)

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        return found

    assert all_well(run(2, script)) == [[True], [True]]


# ---- the stand-in itself ---------------------------------------------------------------------------------------------


def test_the_stand_in_refuses_what_mpi_would_not_survive(monkeypatch):
    def shapes():
        get_group().all_reduce(np.ones(2 + get_group().rank))

    def order():
        group, array = get_group(), np.ones(2)
        group.broadcast(array) if group.rank else group.gather(array)

    def pickles():
        get_group().data.allreduce(1)

    def alone():
        if get_group().rank == 0:
            get_group().barrier()

    for script in (shapes, order, pickles):
        kinds = {type(error) for error in run(2, script)}  # Aborted: who came when it was over
        assert strict_ranks.BrokenError in kinds <= {strict_ranks.BrokenError, strict_ranks.AbortedError}, script
    monkeypatch.setattr(strict_ranks, "TIMEOUT", 0.2)
    assert isinstance(run(2, alone)[0], strict_ranks.BrokenError)


def test_a_group_of_one_is_told_nothing_and_waits_for_nobody():
    group = get_group()
    assert type(group) is Group and (group.rank, group.size) == (0, 1)
    array = np.ones(3)
    assert group.all_reduce(array) is array and group.broadcast(array) is array and group.gather(array) == [array]
    group.barrier()
    with pytest.raises(KeyError), together("nothing"):
        raise KeyError("as ever")
    with pytest.raises(InputError, match="no group"):
        minicnn.set_group("all")


def test_a_model_that_ranks_have_trained_can_be_traced_copied_and_pickled():
    """Its history knows the group, which is no part of it."""

    def script():
        model, (x, y) = network(), data(20)
        model.fit(x, y, batch_size=10, verbose=0)
        again = pickle.loads(pickle.dumps(model)) if get_group().rank == 0 else copy.deepcopy(model)
        return model.trace(x[:4], y[:4]).loss, again.predict(x, verbose=0)

    one, other = all_well(run(2, script))
    same(one, other, rtol=0)
