"""Processes of a fit: the bits of threads, whatever happens meanwhile; and nothing of them is left behind."""

from __future__ import annotations

import gc
import os
import select
import signal
import subprocess
import sys
import textwrap
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import branching
import numpy as np
import pytest

import minicnn
from minicnn import callbacks, losses, metrics, optimizers, utils
from minicnn.activations import Function
from minicnn.errors import InputError
from minicnn.layers import (
    Activation,
    BatchNormalization,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    Input,
    Layer,
    MaxPooling2D,
)
from minicnn.models import Sequential
from minicnn.training import pipes, processes, shards
from minicnn.training.processes import Processes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux alone")

N = 66  # at a batch of 8: steps of 4 and 4 samples, and one of 1 and 1
X = np.random.default_rng(1).random((N, 6, 6, 1), np.float32)
Y = np.arange(N) % 3


@pytest.fixture(autouse=True)
def two_shards(monkeypatch):
    """Two shards, however small the work, and forks, however few the steps; afterwards no child is left."""
    monkeypatch.setattr(shards, "MIN_MACS_PER_SHARD", 1)
    monkeypatch.setattr(processes, "MIN_STEPS", 2)
    minicnn.set_num_threads(2)
    yield
    minicnn.set_num_threads(None)
    minicnn.set_processes(True)
    assert children() == []


def children() -> list[int]:
    """The processes that this thread has started, and that have not been waited for."""
    return [int(pid) for pid in Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()]


def network(*more: Layer, dtype: str = "float32") -> Sequential:
    model = Sequential([
        Input((6, 6, 1)), Conv2D(3, 3, padding="same", activation="relu"), MaxPooling2D(), BatchNormalization(), *more,
        Dropout(0.3), Flatten(), Dense(4, kernel_regularizer="l2"), BatchNormalization(),
        Dense(3, activation="softmax"),
    ])  # fmt: skip
    return compiled(model)


def compiled(model, loss="sparse_categorical_crossentropy", **options):
    model.compile(optimizers.Adam(0.01), loss, **{"metrics": ["accuracy"], **options})
    return model


class Forks(callbacks.Callback):
    """What it sees at the end of each batch: how many children there are."""

    def __init__(self):
        super().__init__()
        self.seen: list[int] = []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(len(children()))


def trained(make, use: bool, *, x=X, y=Y, calls=(), epochs=2, fit=None):
    """(history, weights, children seen) of a fit in processes, or in threads."""
    minicnn.set_processes(use)
    minicnn.set_plan(True)
    utils.set_random_seed(0)
    model, forks = make(), Forks()
    history = model.fit(
        x, y, batch_size=8, epochs=epochs, verbose=0, callbacks=[forks, *(call(model) for call in calls)], **(fit or {})
    )
    return history.history, model.get_weights(), forks.seen


def assert_same_bits(make, forked: bool = True, **options):
    history, weights, seen = trained(make, True, **options)
    expected, right, none = trained(make, False, **options)
    assert history == expected
    for a, b in zip(weights, right, strict=True):
        np.testing.assert_array_equal(a, b, strict=True)
    assert not any(none) and any(seen) == forked
    return seen


def test_the_bits_of_threads():
    assert set(assert_same_bits(network)) == {1}


def test_more_than_two():
    minicnn.set_num_threads(4)
    assert max(assert_same_bits(network)) == 3


@pytest.mark.parametrize("name", branching.NETWORKS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_networks_that_branch(name, dtype):
    x, y = branching.batch(34, dtype)
    loss = {"loss": "mse", "metrics": []} if name == "unet" else {}
    y = np.random.default_rng(0).random((34, *branching.made(name).output_shape[1:])) if name == "unet" else y
    assert_same_bits(lambda: branching.made(name, dtype=dtype, **loss), x=x, y=y)


@pytest.mark.parametrize("fit", [
    {"sample_weight": np.linspace(0, 2, N)},
    {"class_weight": {0: 1.0, 1: 2.0, 2: 0.5}},
    {"validation_split": 0.2},
    {"validation_data": (X[:9], Y[:9]), "shuffle": False},
    {"steps_per_epoch": 3},
])  # fmt: skip
def test_what_fit_can_be_told(fit):
    assert_same_bits(network, fit=fit)


def test_metrics_that_count_and_that_are_arrays():
    names = ["accuracy", metrics.SparseTopKCategoricalAccuracy(2), metrics.MeanIoU(3, sparse_y_pred=False)]
    weights = {"sample_weight": np.linspace(0, 1, N)}
    assert_same_bits(lambda: compiled(network(), metrics=names, weighted_metrics=["accuracy"]), fit=weights)


def test_one_hot_targets_and_another_optimizer():
    def make():
        model, loss = network(), losses.CategoricalCrossentropy(label_smoothing=0.1)
        model.compile(optimizers.SGD(0.05, momentum=0.9, clipnorm=1.0, use_ema=True), loss)
        return model

    assert_same_bits(make, y=utils.to_categorical(Y, 3))


def doubled(x):
    return 2 * x


DOUBLED = Function("doubled", doubled, lambda dy, y: 2 * dy)


class At(callbacks.Callback):
    """Does something before the n-th batch."""

    def __init__(self, model, n, do):
        super().__init__()
        self.n, self.do, self.steps = n, lambda: do(model), 0

    def on_train_batch_begin(self, batch, logs=None):
        self.steps += 1
        if self.steps == self.n:
            self.do()


def new_array(model):
    model.layers[0].params["w"] = model.layers[0].params["w"] * 0.5


def written_into(model):
    model.layers[0].params["w"][...] *= 0.5
    model.layers[2].state["moving_mean"][...] += 1 if "moving_mean" in model.layers[2].state else 0


def another_loss(model):
    model.compile("sgd", losses.SparseCategoricalCrossentropy(ignore_class=1), metrics=["accuracy"])


def converted(how):
    def do(model):
        model.layers[5].params["w"] = how(model.layers[5].params["w"])

    return do


def test_a_list_of_the_loss_that_is_changed_in_place():
    def make():
        return compiled(network(), losses.CategoricalFocalCrossentropy(alpha=[0.2, 0.3, 0.5]), metrics=[])

    def change(model):
        model.loss.alpha[0] = 0.9

    assert_same_bits(make, y=utils.to_categorical(Y, 3), calls=[lambda model: At(model, 5, change)])


@pytest.mark.parametrize("do", [
    new_array,
    written_into,
    another_loss,
    lambda model: setattr(model.layers[0], "trainable", False),
    lambda model: setattr(model.layers[2], "trainable", False),
    lambda model: setattr(model.layers[3], "rate", 0.6),
    lambda model: setattr(model.optimizer, "learning_rate", 0.1),
    lambda model: setattr(model.loss, "ignore_class", 1),
    lambda model: model.set_weights([w * 0.9 for w in model.get_weights()]),
    lambda model: minicnn.set_plan(False),
    converted(np.asfortranarray),
    converted(np.float64),
    lambda model: setattr(model.layers[-1], "activation", DOUBLED),
], ids=[
    "new array", "written into", "another loss", "frozen", "frozen batch norm", "dropout", "learning rate", "loss",
    "weights", "no plan", "Fortran's order", "float64", "own activation",
])  # fmt: skip
def test_what_a_callback_changes_holds_from_the_next_step_on(do):
    try:
        assert_same_bits(network, calls=[lambda model: At(model, 5, do)])
    finally:
        minicnn.set_plan(True)


def test_a_batch_that_is_larger_than_the_first():
    def batches():
        for n in (4, 8, 6, 16, 2, 12, 8, 8):
            yield X[:n], Y[:n]

    def history(use):
        minicnn.set_processes(use)
        utils.set_random_seed(0)
        model, forks = network(), Forks()
        found = model.fit(batches(), steps_per_epoch=8, verbose=0, callbacks=[forks]).history
        return found, [w.tolist() for w in model.get_weights()], forks.seen

    assert history(True)[:2] == history(False)[:2]
    assert 1 in history(True)[2]


def test_changes_at_every_step_are_left_to_threads():
    class Restless(callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            self.model.layers[3].rate = 0.1 + batch / 100

    seen = assert_same_bits(network, calls=[lambda model: Restless()], epochs=3)
    assert seen[0] == 1 and set(seen[-9:]) == {0}


class Own(Layer):
    def forward(self, x, ctx):
        return x

    def backward(self, dy, ctx):
        return dy


class OwnMetric(metrics.SparseCategoricalAccuracy):
    pass


def with_own_method():
    model = network()
    model.layers[0].backward = model.layers[0].backward
    return model


@pytest.mark.parametrize("make", [
    lambda: network(Own()),
    lambda: network(Activation(DOUBLED)),
    with_own_method,
    lambda: compiled(network(), metrics=[OwnMetric()]),
    lambda: compiled(network(), metrics=[lambda y_true, y_pred: y_pred[:, 0]]),
], ids=["layer", "activation", "method", "metric", "function"])  # fmt: skip
def test_code_of_ones_own_runs_in_this_process(make):
    assert_same_bits(make, forked=False)


def test_what_is_observed_runs_in_threads():
    with minicnn.profile():
        assert set(trained(network, True)[2]) == {0}
    assert set(trained(network, True, fit={"check_finite": True})[2]) == {0}


def test_nan_ends_the_fit_as_ever():
    def losses_of(use):
        calls = [lambda model: At(model, 5, lambda model: written(model, np.nan)), lambda _: callbacks.TerminateOnNaN()]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return trained(network, use, calls=calls)

    def written(model, value):
        model.layers[0].params["w"][0] = value

    (history, weights, seen), (expected, right, _) = losses_of(True), losses_of(False)
    assert seen[0] == 1 and str(history) == str(expected)
    for a, b in zip(weights, right, strict=True):
        np.testing.assert_array_equal(a, b)


def test_dense_networks_stay_with_threads():
    def make():
        return compiled(Sequential([Input((6, 6, 1)), Flatten(), Dense(9, "relu"), Dense(3, activation="softmax")]))

    assert_same_bits(make, forked=False)


def test_a_short_fit_forks_nothing(monkeypatch):
    monkeypatch.setattr(processes, "MIN_STEPS", 20)
    assert set(trained(network, True)[2]) == {0}


def test_a_process_that_is_killed_costs_nothing_but_time(monkeypatch):
    monkeypatch.setattr(pipes, "LOOK", 0.01)
    expected = trained(network, False)
    kill = [lambda model: At(model, 4, lambda _: os.kill(children()[0], signal.SIGKILL))]
    with pytest.warns(RuntimeWarning, match=r"killed by signal 9.*goes on in threads"):
        found = trained(network, True, calls=kill)
    assert found[0] == expected[0] and all(map(np.array_equal, found[1], expected[1]))
    assert found[2][:2] == [1, 1] and found[2][-1] == 0


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_other_signals_are_the_affair_of_this_process(kind):
    came = []
    before = signal.signal(kind, lambda number, frame: came.append(os.getpid()))

    def send(model):
        for pid in (os.getpid(), *children()):
            os.kill(pid, kind)

    try:
        assert trained(network, True, calls=[lambda model: At(model, 4, send)])[2][-1] == 1
    finally:
        signal.signal(kind, before)
    assert came == [os.getpid()]


def test_a_process_that_does_not_answer(monkeypatch):
    monkeypatch.setattr(pipes, "LOOK", 0.01)
    monkeypatch.setattr(processes, "PATIENCE", 0.3)

    def stop(model):
        os.kill(children()[0], signal.SIGSTOP)

    with pytest.warns(RuntimeWarning, match="has not answered"):
        found = trained(network, True, calls=[lambda model: At(model, 4, stop)])
    assert found[0] == trained(network, False)[0]


def test_no_fork_to_be_had(monkeypatch):
    def refuse():
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", refuse)
    with pytest.warns(RuntimeWarning, match="could not be started"):
        found = trained(network, True)
    assert found[0] == trained(network, False)[0]


def test_no_file_to_be_had(monkeypatch):
    pipe, opened = os.pipe, []

    def few():
        if len(opened) == 12:
            raise OSError(24, "Too many open files")
        opened.extend(pipe())
        return tuple(opened[-2:])

    monkeypatch.setattr(os, "pipe", few)
    with pytest.warns(RuntimeWarning, match="could not be started"):
        found = trained(network, True)
    assert found[0] == trained(network, False)[0]
    assert not any(Path(f"/proc/self/fd/{end}").exists() for end in opened)


def test_nobody_waits_for_a_file_that_a_process_has_inherited():
    reader, writer = os.pipe()
    ends = []

    def close(model):
        os.close(writer)
        assert children()
        ends.append(select.select([reader], [], [], 10)[0] and os.read(reader, 1))

    trained(network, True, calls=[lambda model: At(model, 4, close)])
    os.close(reader)
    assert ends == [b""]


def test_shared_memory_is_given_back_at_once():
    def shared():
        return Path("/proc/self/maps").read_text().count("/dev/zero")

    before = shared()
    gc.disable()
    try:
        trained(network, True)
        assert shared() == before
    finally:
        gc.enable()


def test_a_number_that_is_another_process_now_is_not_killed():
    others = subprocess.Popen([sys.executable, "-c", "import subprocess; p = subprocess.Popen(['sleep', '60']);"
                               "print(p.pid, flush=True); p.wait()"], stdout=subprocess.PIPE, text=True)  # fmt: skip
    pid = int(others.stdout.readline())
    there = Processes(network(), 2)
    there.pids = [pid]  # as if ours had been waited for by somebody else
    there.close()
    os.kill(pid, 0)
    assert others.poll() is None and there.pids == []
    os.kill(pid, signal.SIGKILL)
    others.wait()
    others.stdout.close()


@pytest.mark.parametrize("shard", [0, 1])
def test_an_error_in_a_shard_is_raised_as_ever(shard, monkeypatch):
    monkeypatch.setattr(pipes, "LOOK", 0.01)
    y = Y.astype(np.float32)
    original = losses.SparseCategoricalCrossentropy.per_sample

    def per_sample(self, y_true, y_pred, *more):
        if 7 in y_true:
            raise InputError("the loss", "7 came.", "none.", "7.", "leave it out.")
        return original(self, y_true, y_pred, *more)

    monkeypatch.setattr(losses.SparseCategoricalCrossentropy, "per_sample", per_sample)

    def spoil(model):
        y[24 + 4 * shard] = 7

    calls = [lambda model: At(model, 2, spoil)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        with pytest.raises(InputError, match="7 came"):
            trained(lambda: compiled(network(), metrics=[]), True, y=y, calls=calls, fit={"shuffle": False})


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C does what it does in a terminal: who starts the tests in the background has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_comes_after_the_step_and_ends_them(ctrl_c):
    def press(model):
        os.kill(os.getpid(), signal.SIGINT)

    model = None

    def make():
        nonlocal model
        model = network()
        return model

    with pytest.raises(KeyboardInterrupt):
        trained(make, True, calls=[lambda m: At(m, 4, press)])
    assert children() == [] and model.optimizer.iterations == 3


def test_they_end_with_a_parent_that_is_killed(tmp_path):
    script = textwrap.dedent("""
        import os, sys, time
        import numpy as np
        import minicnn
        from minicnn import callbacks
        from minicnn.layers import Conv2D, Dense, Flatten, Input
        from minicnn.models import Sequential
        from minicnn.training import shards

        shards.MIN_MACS_PER_SHARD = 1
        minicnn.set_num_threads(2)
        model = Sequential([Input((6, 6, 1)), Conv2D(2, 3), Flatten(), Dense(1)])
        model.compile("sgd", "mse")

        class Tell(callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                if batch == 3:
                    print(open(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read().strip(), flush=True)
                    time.sleep(60)

        model.fit(np.zeros((320, 6, 6, 1)), np.zeros(320), batch_size=8, callbacks=[Tell()], verbose=0)
    """)
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    child = int(process.stdout.readline())
    process.kill()
    process.wait()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and Path(f"/proc/{child}").exists():
        state = Path(f"/proc/{child}/stat").read_text().rsplit(")", 1)[1].split()[0]
        if state == "Z":  # ended, and nobody waits for it: its new parent's affair
            break
        time.sleep(0.02)
    else:
        assert not Path(f"/proc/{child}").exists()
    process.stdout.close()


def test_nothing_is_printed_or_written_twice(tmp_path, capfd):
    with open(tmp_path / "log.txt", "w", encoding="utf-8") as file:
        file.write("once")
        sys.stdout.write("once")  # both are in a buffer when the fork comes
        trained(network, True)
    assert (tmp_path / "log.txt").read_text() == "once"
    assert capfd.readouterr().out.count("once") == 1


def test_references_to_parameters_stay_good():
    model = network()
    w = model.layers[0].params["w"]
    before = w.copy()
    minicnn.set_processes(True)
    seen = []
    see = callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(w.copy()))
    model.fit(X, Y, batch_size=8, verbose=0, callbacks=[see])
    assert model.layers[0].params["w"] is w and not np.array_equal(before, w)
    assert all(not np.array_equal(a, b) for a, b in zip(seen, seen[1:], strict=False))


def test_set_processes_takes_a_truth_value():
    with pytest.raises(InputError, match="set_processes"):
        minicnn.set_processes("no")


def test_who_gets_processes():
    model = network()
    assert isinstance(Processes.for_fit(model, 2, 100, 1), Processes)
    assert Processes.for_fit(model, 1, 100, 1) is None  # a single shard
    assert Processes.for_fit(model, 2, 100, 2) is None  # several ranks


def test_a_long_text_goes_through_a_pipe():
    pipe = pipes.Pipe(lambda waited: None)
    text = "ä" * 300_000  # more than a pipe holds
    pid = os.fork()
    if pid == 0:
        pipe.send(text)
        os._exit(0)
    assert pipe.receive() == text
    os.waitpid(pid, 0)
    pipe.close()
