"""Ctrl-C in fit: it reaches the caller, and leaves a model that has learned from whole steps."""

from __future__ import annotations

import os
import re
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import minicnn
from minicnn.callbacks import BackupAndRestore, LambdaCallback, ModelCheckpoint
from minicnn.layers import BatchNormalization, Dense, Dropout, Input
from minicnn.models import load_model
from minicnn.training.interrupts import interrupts_wait
from minicnn.training.shards import Workers

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def ctrl_c_counts():
    """Whoever starts the tests in the background of a shell starts them with Ctrl-C ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    return rng.random((40, 6)), rng.integers(0, 3, 40)


class Adam(minicnn.optimizers.Adam):
    """Presses Ctrl-C in the middle of its step number `at`, when some parameters are new and others old."""

    at = pieces = 0

    def update(self, p, g, slots, lr):
        super().update(p, g, slots, lr)
        self.pieces += self.iterations == self.at
        if self.iterations == self.at and self.pieces == 2:  # of six parameter arrays or more
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.001)


def network(at: int = 0) -> minicnn.Sequential:
    minicnn.utils.set_random_seed(7)
    layers = [Dense(4, activation="relu"), BatchNormalization(), Dropout(0.3), Dense(3, activation="softmax")]
    model = minicnn.Sequential([Input((6,)), *layers])
    optimizer = Adam(0.02)
    optimizer.at = at
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def fit(model, **options):
    return model.fit(*data(), **({"batch_size": 8, "epochs": 4, "verbose": 0} | options))


def after(steps: int) -> minicnn.Sequential:
    """The model after so many steps, without any interrupt."""
    model = network()

    def stop(*_):
        model.stop_training = model.optimizer.iterations == steps

    fit(model, callbacks=LambdaCallback(on_train_batch_end=stop))
    return model


def assert_same(a, b):
    for one, other in zip(a.get_weights(), b.get_weights(), strict=True):
        assert one.tobytes() == other.tobytes()
    for key, slots in a.optimizer.state.items():
        assert [s.tobytes() for s in slots] == [s.tobytes() for s in b.optimizer.state[key]]


@pytest.mark.parametrize("step", [1, 2, 5, 6, 13, 20])
def test_ctrl_c_in_the_middle_of_an_update_waits_for_its_end(step):
    model, threads = network(step), threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        fit(model)
    assert model.optimizer.iterations == step
    assert_same(model, after(step))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert threading.active_count() == threads


def test_with_threads(monkeypatch):
    """The update is shared by two threads, and Ctrl-C comes from the second one."""
    monkeypatch.setattr(Workers, "for_model", classmethod(lambda cls, model, size: cls(2, 1)))
    model, threads = network(7), threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        fit(model)
    assert model.optimizer.iterations == 7
    assert_same(model, after(7))
    assert threading.active_count() == threads


def test_training_goes_on_afterwards_as_if_it_had_been_stopped():
    model = network(7)
    with pytest.raises(KeyboardInterrupt):
        fit(model)
    other = after(7)
    for m in (model, other):
        m.rng = np.random.default_rng(3)
        fit(m, epochs=1)
    assert_same(model, other)


def test_the_last_checkpoint_is_whole_and_a_backup_goes_on_from_it(tmp_path):
    whole = network()
    expected = fit(whole)
    callbacks = [BackupAndRestore(tmp_path / "b"), ModelCheckpoint(tmp_path / "m.zip", save_weights_only=True)]
    with pytest.raises(KeyboardInterrupt):
        fit(network(13), callbacks=callbacks)
    checkpoint = network()
    checkpoint.load_weights(tmp_path / "m.zip")
    for one, other in zip(checkpoint.get_weights(), after(10).get_weights(), strict=True):
        assert one.tobytes() == other.tobytes()
    model = network()
    assert fit(model, callbacks=BackupAndRestore(tmp_path / "b")).history == expected.history
    assert_same(model, whole)


def test_an_interrupt_in_the_middle_of_saving_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    path, write_array, calls = tmp_path / "m.zip", np.lib.format.write_array, []

    def write(*arguments, **options):
        calls.append(1)
        if len(calls) > 10:  # the second save; there are eight arrays
            signal.raise_signal(signal.SIGINT)
        write_array(*arguments, **options)

    monkeypatch.setattr(np.lib.format, "write_array", write)
    model = network()
    with pytest.raises(KeyboardInterrupt):
        fit(model, callbacks=ModelCheckpoint(path, save_weights_only=True))
    monkeypatch.undo()
    checkpoint = network()
    checkpoint.load_weights(path)
    for one, other in zip(checkpoint.get_weights(), after(5).get_weights(), strict=True):
        assert one.tobytes() == other.tobytes()
    assert model.optimizer.iterations == 10
    assert os.listdir(tmp_path) == ["m.zip"]


def test_the_second_ctrl_c_does_not_wait():
    done = []

    def step():
        with interrupts_wait():
            signal.raise_signal(signal.SIGINT)
            done.append(1)
            signal.raise_signal(signal.SIGINT)
            done.append(2)

    with pytest.raises(KeyboardInterrupt):
        step()
    assert done == [1]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_own_handler_is_left_alone():
    seen = []

    def own(*_):
        seen.append(1)

    before = signal.signal(signal.SIGINT, own)
    try:
        with interrupts_wait():
            assert signal.getsignal(signal.SIGINT) is own
        fit(network(3))
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == [1]


def test_fit_in_another_thread_changes_no_handler():
    model = network()
    thread = threading.Thread(target=fit, args=(model,))
    thread.start()
    thread.join()
    assert model.optimizer.iterations == 20


SCRIPT = """
import os, signal, sys, threading
import numpy as np
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path.insert(0, {tests!r})
from test_interrupts import after, assert_same, data, network
import minicnn
model = network()
x, y = (np.repeat(a, 250, axis=0) for a in data())
try:
    model.fit(x, y, batch_size=100, epochs=1000, verbose=1)
except KeyboardInterrupt:
    print("caught", threading.active_count(), len(model.history.epoch))
steps = model.optimizer.iterations
again = network()
def stop(*_):
    again.stop_training = again.optimizer.iterations == steps
again.fit(x, y, batch_size=100, epochs=1000, verbose=0, callbacks=minicnn.callbacks.LambdaCallback(
    on_train_batch_end=stop))
assert_same(model, again)
print("same", steps)
"""


@pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal")
def test_ctrl_c_in_a_terminal(tmp_path):
    """The bar is closed, no thread is left, what was learned stays. The key is pressed where a user would press it."""
    import fcntl
    import pty
    import termios

    main, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(tests=str(ROOT / "tests"))], stdin=terminal, stdout=terminal,
        stderr=terminal, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, start_new_session=True,
    )  # fmt: skip
    os.close(terminal)
    text = b""
    try:
        while b"Epoch 3/" not in text:
            text += os.read(main, 4096)
        process.send_signal(signal.SIGINT)
        while True:
            try:
                more = os.read(main, 4096)
            except OSError:  # the other end is closed
                break
            if not more:
                break
            text += more
    finally:
        process.kill()
        os.close(main)
    assert process.wait() in (0, -signal.SIGKILL)
    shown = text.decode()
    assert "Traceback" not in shown, shown
    caught = re.search(r"(\s)caught (\d+) (\d+)\r\n", shown)
    assert caught, shown
    assert "Epoch 2/1000 |" in shown, "there was no bar"
    assert caught[2] == "1" and int(caught[3]) >= 2
    assert re.search(r"same \d+", shown), shown


def test_a_model_saved_after_an_interrupt_is_like_any_other(tmp_path):
    model = network(7)
    with pytest.raises(KeyboardInterrupt):
        fit(model)
    model.save(tmp_path / "m.zip")
    loaded = load_model(tmp_path / "m.zip", {"Adam": minicnn.optimizers.Adam})
    assert loaded.optimizer.iterations == 7
    np.testing.assert_array_equal(loaded.predict(data()[0]), model.predict(data()[0]))
