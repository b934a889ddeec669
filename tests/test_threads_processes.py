"""Threads and processes: models side by side, calls inside calls, forks, errors from anywhere, and the way out."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

import minicnn
from minicnn import callbacks, utils
from minicnn.layers import BatchNormalization, Conv2D, Dense, Dropout, Flatten, Input, Layer
from minicnn.models import Sequential
from minicnn.training import shards

X = np.random.default_rng(1).random((20, 6, 6, 1), np.float32)
Y = np.arange(20) % 3


@pytest.fixture(autouse=True)
def nothing_stays_behind(monkeypatch):
    """Two shards, however small the work. Afterwards all our threads have ended, and BLAS has its own again."""
    monkeypatch.setattr(shards, "MIN_MACS_PER_SHARD", 1)
    monkeypatch.setattr(shards, "_num_threads", 2)
    utils.set_random_seed(0)
    before = blas_threads()
    yield
    wait_for_the_end_of(lambda: ours())
    assert blas_threads() == before and shards._blas.holders == 0


def ours() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith(("minicnn", "prefetch"))]


def wait_for_the_end_of(threads) -> None:
    deadline = time.monotonic() + 10
    while threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threads() == []


def blas_threads() -> list[int]:
    """The threads of NumPy's BLAS; another test may have loaded SciPy, which brings one of its own."""
    blas = [library for library in threadpool_info() if library["user_api"] == "blas"]
    return [library["num_threads"] for library in blas if "scipy.libs" not in library["filepath"]]


def network(*more: Layer) -> Sequential:
    model = Sequential([
        Input((6, 6, 1)), Conv2D(3, 3, padding="same", activation="relu"), BatchNormalization(), *more, Dropout(0.3),
        Flatten(), Dense(3, activation="softmax"),
    ])  # fmt: skip
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def endless(size: int = 5):
    while True:
        for start in range(0, 20, size):
            yield X[start : start + size], Y[start : start + size]


class Data(utils.PyDataset):
    def __len__(self):
        return 4

    def __getitem__(self, i):
        return X[5 * i : 5 * i + 5], Y[5 * i : 5 * i + 5]


def assert_equal(a: list, b: list) -> None:
    for p, q in zip(a, b, strict=True):
        np.testing.assert_array_equal(p, q)


# ---- side by side ----------------------------------------------------------------------------------------------------


def work_with(model: Sequential, i: int) -> list:
    """Something else for each i; everything that came of it."""
    arguments = [(X, Y), (endless(), None), (Data(), None)][i % 3]
    model.fit(*arguments, batch_size=5, steps_per_epoch=4, epochs=3, verbose=0, validation_data=(X, Y))
    history = model.history.history
    return [*history.values(), *model.get_weights(), model.evaluate(X, Y, verbose=0), model.predict(X, verbose=0)]


def test_models_that_learn_at_once_learn_what_they_do_alone():
    def models():
        utils.set_random_seed(7)
        return [network() for _ in range(6)]

    alone = [work_with(model, i) for i, model in enumerate(models())]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(work_with, models(), range(6)))
    for a, b in zip(alone, together, strict=True):
        assert_equal(a, b)


def test_one_model_predicts_for_several_threads():
    model = network()
    expected = model.predict(X, verbose=0)
    with ThreadPoolExecutor(4) as pool:
        for predicted in pool.map(lambda _: model.predict(X, verbose=0), range(12)):
            np.testing.assert_array_equal(predicted, expected)


def test_blas_gets_its_threads_back_when_the_last_of_two_ends():
    """The second begins inside the first and ends after it."""
    inside, ended = threading.Event(), threading.Event()

    def second():
        begin, end = lambda logs: inside.set(), lambda epoch, logs: ended.wait(10)
        network().fit(X, Y, verbose=0, callbacks=callbacks.LambdaCallback(on_train_begin=begin, on_epoch_end=end))

    def begin_the_other(batch, logs):
        thread.start()
        assert inside.wait(10)

    thread = threading.Thread(target=second)
    with threadpool_limits(2, "blas"):
        wanted = blas_threads()
        network().fit(X, Y, verbose=0, callbacks=callbacks.LambdaCallback(on_epoch_end=begin_the_other))
        ended.set()
        thread.join(10)
        assert blas_threads() == wanted


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_blas_gets_its_threads_back_after_an_error(error):
    def fail(batch, logs):
        raise error

    with threadpool_limits(2, "blas"):
        wanted = blas_threads()
        with pytest.raises(error):
            network().fit(X, Y, verbose=0, callbacks=callbacks.LambdaCallback(on_train_batch_end=fail))
        assert blas_threads() == wanted


# ---- a call inside a call --------------------------------------------------------------------------------------------


def test_fit_evaluate_and_predict_in_a_callback():
    """Another model's training leaves this one's as it is, bit for bit; so do evaluate and predict of this one."""

    class Busy(callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.evaluate(X, Y, verbose=0)
            self.model.predict(Data(), verbose=0)
            self.model.trace(X[:2], Y[:2])

        def on_epoch_end(self, epoch, logs=None):
            other.fit(Data(), epochs=2, verbose=0)
            assert ours(), "the threads of the outer call are still there"

    results = []
    for watch in ([], [Busy()]):
        utils.set_random_seed(3)
        model, other = network(), network()
        history = model.fit(X, Y, batch_size=5, epochs=3, verbose=0, callbacks=watch).history
        results.append([*history.values(), *model.get_weights()])
    assert_equal(*results)


def test_a_callback_that_trains_its_own_model():
    def more(epoch, logs):
        model.fit(X, Y, batch_size=10, verbose=0)

    model = network()
    history = model.fit(X, Y, batch_size=5, epochs=2, verbose=0, callbacks=callbacks.LambdaCallback(on_epoch_end=more))
    assert len(history.history["loss"]) == 2 and model.optimizer.iterations == 2 * (4 + 2)


# ---- errors ----------------------------------------------------------------------------------------------------------


class TroubleError(Exception):
    pass


def make_trouble() -> None:
    raise TroubleError("here")


class Fragile(Layer):
    broken = True

    def forward(self, x, ctx):
        if self.broken and threading.current_thread() is not threading.main_thread():  # a shard in the pool
            make_trouble()
        return x

    def backward(self, dy, ctx):
        return dy


def broken_generator():
    yield from (pair for pair, _ in zip(endless(), range(3), strict=False))
    make_trouble()


class BrokenData(Data):
    def __getitem__(self, i):
        return super().__getitem__(i) if i < 2 else make_trouble()


class BrokenEnd(Data):
    def on_epoch_end(self):
        make_trouble()


def in_a_callback(hook: str):
    trouble = callbacks.LambdaCallback(**{hook: lambda *_: make_trouble()})
    return lambda model: model.fit(X, Y, batch_size=5, verbose=0, validation_data=(X, Y), callbacks=trouble)


@pytest.mark.parametrize(
    "work",
    [
        *(in_a_callback(hook) for hook in callbacks.CallbackList()._listeners if "predict" not in hook),
        lambda model: model.fit(broken_generator(), steps_per_epoch=6, verbose=0),
        lambda model: model.fit(BrokenData(), verbose=0),
        lambda model: model.fit(BrokenEnd(), verbose=0),
        lambda model: model.fit(X, Y, verbose=0, validation_data=BrokenData()),
        lambda model: model.evaluate(broken_generator(), steps=6, verbose=0),
        lambda model: model.predict(BrokenData(), verbose=0),
        lambda model: (setattr(model.layers[2], "broken", True), model.fit(X, Y, verbose=0)),
        lambda model: (setattr(model.layers[2], "broken", True), model.evaluate(X, Y, verbose=0)),
    ],
    ids=[
        *(hook for hook in callbacks.CallbackList()._listeners if "predict" not in hook), "generator", "PyDataset",
        "end of a pass", "validation", "evaluate", "predict", "shard", "shard of evaluate",
    ],
)  # fmt: skip
def test_an_error_reaches_the_caller_and_the_next_fit_works(work):
    model = network(Fragile())
    model.layers[2].broken = False
    with pytest.raises(TroubleError) as caught:
        work(model)
    assert "in make_trouble" in "".join(traceback.format_tb(caught.tb)), "its own traceback"
    caught = None
    wait_for_the_end_of(ours)
    model.layers[2].broken = False
    assert np.isfinite(model.fit(Data(), verbose=0).history["loss"]).all()


def test_shards_do_not_wait_for_one_that_could_not_be_sent_off(monkeypatch):
    """As where the interpreter ends in the middle of a step: the third thread is refused, the second waits for it."""
    with shards.Workers(3) as workers:
        submit, calls = workers.pool.submit, []

        def refuse(*work):
            calls.append(work)
            if len(calls) == 2:
                raise RuntimeError("cannot schedule new futures after interpreter shutdown")
            return submit(*work)

        monkeypatch.setattr(workers.pool, "submit", refuse)
        with pytest.raises(RuntimeError, match="cannot schedule"):
            workers.run(lambda k, all_reduce: all_reduce(np.ones(1)), 3)


# ---- processes -------------------------------------------------------------------------------------------------------

COMMON = f"""
import faulthandler, os, sys, threading, time
faulthandler.dump_traceback_later(40, exit=True)  # a hang says where
import numpy as np
import minicnn
from minicnn import callbacks, utils
from minicnn.layers import *
from minicnn.training import shards
shards.MIN_MACS_PER_SHARD = 1
minicnn.set_num_threads(2)
sys.path.insert(0, {str(Path(__file__).parent)!r})

X = np.random.default_rng(1).random((20, 6, 6, 1), np.float32)
Y = np.arange(20) % 3

def network():
    utils.set_random_seed(0)
    model = minicnn.Sequential([Input((6, 6, 1)), Conv2D(3, 3), BatchNormalization(), Flatten(), Dense(3, "softmax")])
    model.compile("adam", "sparse_categorical_crossentropy")
    return model

def train(queue=None):
    model = network()
    model.fit(((X, Y) for _ in range(9)), steps_per_epoch=3, epochs=3, verbose=0)
    total = float(sum(abs(w).sum(dtype="f8") for w in model.get_weights()))
    if queue is not None:
        queue.put(total)
    return total
"""


def run(tmp_path: Path, code: str) -> subprocess.CompletedProcess:
    script = tmp_path / "script.py"
    script.write_text(COMMON + textwrap.dedent(code))
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    # Into files: a pipe would be kept open by a child of the script that hangs, and with it this test.
    with open(tmp_path / "out", "w+") as out, open(tmp_path / "err", "w+") as err:
        done = subprocess.run([sys.executable, script], env=env, stdout=out, stderr=err, timeout=60)
        texts = [file.seek(0) or file.read() for file in (out, err)]
        return subprocess.CompletedProcess(done.args, done.returncode, *texts)


@pytest.mark.parametrize(
    ("method", "moment"),
    [("fork", "after import"), ("fork", "after fit"), ("fork", "in a callback"), ("fork", "beside a fit"),
     ("spawn", "after fit"), ("spawn", "beside a fit"), ("forkserver", "in a callback")],
)  # fmt: skip
def test_a_child_process_learns_the_same(tmp_path, method, moment):
    if not hasattr(os, "fork") and method != "spawn":
        pytest.skip("this system cannot fork")
    done = run(tmp_path, f"""
        import multiprocessing as mp

        def child():
            context = mp.get_context({method!r})
            queue = context.Queue()
            process = context.Process(target=train, args=(queue,))
            process.start()
            totals.append(queue.get(timeout=20))
            process.join(10)
            assert process.exitcode == 0

        if __name__ == "__main__":
            totals, moment = [], {moment!r}
            if moment == "after import":
                child()
            elif moment == "after fit":
                train()
                child()
            elif moment == "in a callback":
                network().fit(X, Y, verbose=0, callbacks=callbacks.LambdaCallback(on_epoch_end=lambda e, logs: child()))
            else:
                begun, stop = threading.Event(), threading.Event()
                def keep_busy():
                    while not stop.is_set():
                        network_of_thread.fit(X, Y, verbose=0)
                        begun.set()
                network_of_thread = network()
                thread = threading.Thread(target=keep_busy)
                thread.start()
                begun.wait()  # a fork in the middle of an import is more than Python itself can take
                child()
                stop.set()
                thread.join()
            totals.append(train())
            print(*totals)
    """)
    assert done.returncode == 0, done.stderr
    child, parent = done.stdout.split()
    assert child == parent


@pytest.mark.parametrize(
    ("code", "status", "said"),
    [
        ("network().fit(X, Y, verbose=0, callbacks=callbacks.LambdaCallback(on_train_batch_end=lambda b, l: 1 / 0))",
         1, "ZeroDivisionError"),
        ("network().fit(X, Y, verbose=0,\n"
         "              callbacks=callbacks.LambdaCallback(on_train_batch_end=lambda b, l: sys.exit(3)))", 3, ""),
        ("def batches():\n    yield X, Y\n    sys.exit(4)\n"
         "network().fit(batches(), steps_per_epoch=9, verbose=0)", 4, ""),
        ("def batches():\n    yield X, Y\n    threading.Event().wait()\n"
         "network().fit(batches(), steps_per_epoch=9, verbose=0,\n"
         "              callbacks=callbacks.LambdaCallback(on_train_batch_end=lambda b, l: sys.exit(5)))", 5, ""),
        ("def forever():\n    model = network()\n    while True:\n        model.fit(X, Y, verbose=0)\n"
         "threading.excepthook = lambda args: None\n"
         "threading.Thread(target=forever, daemon=True).start()\ntime.sleep(0.3)\nsys.exit(6)", 6, ""),
        ("minicnn.set_num_threads(4)\ndef forever():\n    model = network()\n    while True:\n"
         "        model.fit(X, Y, verbose=0)\nthreading.excepthook = lambda args: None\n"
         "threading.Thread(target=forever, daemon=True).start()\ntime.sleep(0.3)\nsys.exit(7)", 7, ""),
    ],
    ids=["error in a callback", "sys.exit in a callback", "sys.exit in a generator", "a generator that waits for ever",
         "a daemon thread that fits", "a daemon thread that fits with four"],
)  # fmt: skip
def test_nothing_keeps_a_program_from_ending(tmp_path, code, status, said):
    start = time.monotonic()
    done = run(tmp_path, code)
    assert done.returncode == status, done.stderr
    assert said in done.stderr and (said or not done.stderr), done.stderr
    assert time.monotonic() - start < 30, "it took until faulthandler, or nearly"


def test_importing_changes_nothing_outside(tmp_path):
    """No setting of NumPy, no random state, no handler of signals, no variable, no thread, no process."""
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent("""
        import faulthandler, importlib, os, pkgutil, random, signal, sys, threading, warnings
        import numpy as np

        def state():
            handlers = {s: signal.getsignal(s) for s in signal.valid_signals()}
            return {
                "errors": np.geterr(), "printing": repr(np.get_printoptions()), "call": np.geterrcall(),
                "numpy's random": repr(np.random.get_state()), "random": random.getstate(), "signals": handlers,
                "environment": dict(os.environ), "threads": threading.enumerate(), "path": list(sys.path),
                "warnings": list(warnings.filters), "hooks": (sys.excepthook, threading.excepthook, sys.unraisablehook),
                "limit": sys.getrecursionlimit(), "switch": sys.getswitchinterval(), "folder": os.getcwd(),
                "locale": __import__("locale").setlocale(0), "buffer": np.getbufsize(), "alarm": signal.getitimer(0),
            }

        before = state()
        import minicnn
        apart = "minicnn.__main__", "minicnn.sklearn"  # the latter imports scikit-learn, which sets a variable
        names = [m.name for m in pkgutil.walk_packages(minicnn.__path__, "minicnn.") if m.name not in apart]
        for name in names:
            importlib.import_module(name)
        after = state()
        for what in before:
            assert before[what] == after[what], (what, before[what], after[what])
        assert "matplotlib" not in sys.modules and "PIL" not in sys.modules
        print(len(names))
    """))
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, script], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 50


def test_a_fit_changes_nothing_outside():
    np.random.seed(4)
    before = (np.geterr(), repr(np.get_printoptions()), repr(np.random.get_state()), dict(os.environ))
    network().fit(Data(), verbose=0)
    assert before == (np.geterr(), repr(np.get_printoptions()), repr(np.random.get_state()), dict(os.environ))
    assert minicnn.get_num_threads() == 2
