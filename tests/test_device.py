"""Devices: where models live, what an error says, and that training on a device is training on the CPU.

Run on the strict stand-in for CuPy; the tests that need no second GPU run on a real one, too: pytest --device gpu.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import threading
import types
from pathlib import Path

import numpy as np
import pytest
import strict_cupy
from helpers import rng

import minicnn
from minicnn import backend
from minicnn.callbacks import EarlyStopping
from minicnn.errors import InputError
from minicnn.layers import (
    BatchNormalization,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    Input,
    MaxPooling2D,
    Rescaling,
)
from minicnn.models import Sequential, load_model
from minicnn.training.transfer import on_device


@pytest.fixture
def cupy(device_of_test):
    """CuPy: the stand-in, or with --device gpu the real one."""
    if device_of_test == "cpu":
        pytest.skip("compares the CPU with another device")
    return sys.modules["cupy"]


@pytest.fixture
def stand_in(device_of_test):
    """For tests that need two GPUs, a full memory or a count of what travels: these only the stand-in has."""
    if device_of_test != "strict":
        pytest.skip("needs the stand-in for CuPy")
    return sys.modules["cupy"]


def cnn() -> Sequential:
    """Every kind of layer that computes differently in training, a penalty and a constraint."""
    minicnn.utils.set_random_seed(0)
    model = Sequential(
        [
            Input((28, 28, 1)),
            Rescaling(1 / 255),
            Conv2D(4, 3, padding="same", activation="relu"),
            BatchNormalization(),
            MaxPooling2D(2),
            Dropout(0.3),
            Conv2D(4, 3, strides=2, kernel_regularizer="l2"),
            Flatten(),
            Dense(10, activation="softmax", kernel_constraint="max_norm"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


@functools.cache
def images(n: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Pictures of bytes, and labels that can be told from them."""
    y = np.arange(n) % 10
    return (rng().integers(0, 90, (n, 28, 28, 1)) + 16 * y[:, None, None, None]).astype(np.uint8), y


def arrays(model: Sequential) -> list:
    own = [a for layer in model.flat_layers for a in (*layer.params.values(), *layer.state.values())]
    return own + [slot for slots in model.optimizer.state.values() for slot in slots]


# ---- where models live -----------------------------------------------------------------------------------------------


def test_inside_a_device_new_models_live_there(stand_in):
    with minicnn.device("gpu:1") as here:
        model = cnn()
        with minicnn.device("cpu"):
            other = cnn()
        third = cnn()
    assert here == "gpu:1" == model.device == third.device and other.device == "cpu"
    assert {a.device.id for a in arrays(model)} == {1}
    assert all(isinstance(a, np.ndarray) for a in arrays(other))
    assert cnn().device == "cpu" and backend.current_device() == "cpu"


def test_a_device_is_left_also_by_an_error(stand_in):
    with pytest.raises(ZeroDivisionError), minicnn.device("gpu:1"):
        1 / 0  # noqa: B018
    assert backend.current_device() == "cpu" and stand_in.cuda.Device().id == 0


def test_each_thread_has_its_own_device(cupy):
    found, inside, seen = [], threading.Event(), threading.Event()

    def work():
        with minicnn.device("gpu"):
            inside.set()
            seen.wait(10)
            found.append(Sequential([Dense(2)]).device)

    thread = threading.Thread(target=work)
    thread.start()
    inside.wait(10)
    found.append(Sequential([Dense(2)]).device)
    seen.set()
    thread.join()
    assert found == ["cpu", "gpu"]


def test_to_moves_everything_and_nothing_is_lost(stand_in):
    model, (x, y) = cnn(), images(16)
    model.fit(x, y, batch_size=8, verbose=0)
    before = [np.array(a) for a in arrays(model)]
    assert model.to("gpu") is model and model.device == "gpu"
    assert all(isinstance(a, stand_in.ndarray) and a.device.id == 0 for a in arrays(model))
    model.to("gpu:1")
    assert {a.device.id for a in arrays(model)} == {1}
    model.to("cpu")
    for array, old in zip(arrays(model), before, strict=True):
        np.testing.assert_array_equal(array, old)
    assert model.to("auto").device == "gpu"


def test_an_inner_model_moves_with_the_outer_one(cupy):
    inner = Sequential([Dense(3, input_shape=(4,))], name="inner")
    with minicnn.device("gpu"):
        outer = Sequential([inner, Dense(2)])
    assert inner.device == "gpu" and isinstance(inner.layers[0].params["w"], cupy.ndarray)
    outer.to("cpu")
    assert inner.device == "cpu" and isinstance(inner.layers[0].params["w"], np.ndarray)


@pytest.mark.parametrize("call", ["fit", "evaluate", "predict"])
def test_each_call_can_name_the_device(stand_in, call):
    model, (x, y) = cnn(), images(8)
    getattr(model, call)(x, *([] if call == "predict" else [y]), verbose=0, device="gpu:1")
    assert model.device == "gpu:1" and isinstance(model.predict(x, verbose=0), np.ndarray)


def test_a_file_does_not_remember_the_device(stand_in, tmp_path):
    model, (x, y) = cnn().to("gpu"), images(16)
    model.fit(x, y, batch_size=8, verbose=0)
    model.save(tmp_path / "model.zip")
    again = load_model(tmp_path / "model.zip")
    assert again.device == "cpu"
    with minicnn.device("gpu:1"):
        there = load_model(tmp_path / "model.zip")
    assert {a.device.id for a in arrays(there)} == {1} and len(arrays(there)) == len(arrays(model))
    for trained in (model, again, there):
        trained.fit(x, y, batch_size=8, shuffle=False, verbose=0)
    for a, b, c in zip(model.get_weights(), again.get_weights(), there.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(a, c, rtol=1e-4, atol=1e-6)


# ---- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpu:2", "gpu:17"])
def test_a_gpu_that_is_not_there(stand_in, name):
    with pytest.raises(InputError) as caught:
        minicnn.device(name)
    assert "finds 2" in caught.value.expected and name in caught.value.received and "count from 0" in caught.value.fix


@pytest.mark.parametrize("name", ["cuda", "gpu:", "gpu:x", "gpu:-1", "cpu:0", "GPU", 0, None])
def test_names_that_are_no_device(cupy, name):
    with pytest.raises(InputError, match="unknown device"):
        minicnn.device(name)


def test_no_gpu_at_all(stand_in, monkeypatch):
    monkeypatch.setattr(strict_cupy, "device_count", 0)
    with pytest.raises(InputError, match="finds no usable GPU"):
        cnn().to("gpu")
    assert minicnn.device("auto") == "cpu"


def test_a_step_without_memory_names_the_batch_size(stand_in):
    model, (x, y) = cnn().to("gpu"), images(64)
    with strict_cupy.memory(500_000), pytest.raises(InputError) as caught:
        model.fit(x, y, batch_size=64, verbose=0)
    error = caught.value
    assert error.problem == "the memory of the GPU is full." and "batch_size=64" in error.expected
    assert "Out of memory allocating" in error.received and "Free: 1 MB of 1074 MB" in error.received
    assert "halve batch_size" in error.fix and isinstance(error.__cause__, MemoryError)
    model.fit(x, y, batch_size=64, verbose=0)  # and nothing is broken


def test_a_model_without_memory(stand_in):
    with strict_cupy.memory(1000), pytest.raises(InputError, match="room for the weights of the model"):
        cnn().to("gpu")


def test_a_memory_error_of_the_host_stays_one(cupy):
    with pytest.raises(MemoryError), backend.explained_memory("this", "that"):
        raise MemoryError("of the host")


# ---- what travels, and who waits -------------------------------------------------------------------------------------


def test_bytes_travel_as_bytes(cupy):
    seen = []

    class Recording(Rescaling):
        def forward(self, x, ctx):
            seen.append(x.dtype)
            return super().forward(x, ctx)

    batches = list(on_device([(np.zeros((2, 3), np.uint8), np.zeros(2, np.int64))], minicnn.device("gpu")))
    assert [array.dtype for array in batches[0]] == [np.uint8, np.int64]
    model = Sequential([Input((3,)), Recording(1 / 255), Dense(1)])
    model.compile("sgd", "mse")
    model.fit(np.full((4, 3), 255, np.uint8), np.zeros(4), verbose=0, device="gpu")
    assert seen == [np.float32]


def test_every_batch_arrives_whole_and_in_order(cupy):
    host = [(np.full((2, 3), k, np.float32), np.full(2, k)) for k in range(5)]
    for k, (x, y) in enumerate(on_device(iter(host), minicnn.device("gpu"))):
        assert isinstance(x, cupy.ndarray)
        np.testing.assert_array_equal(x.get(), host[k][0])
        np.testing.assert_array_equal(y.get(), host[k][1])
    assert k == 4
    assert list(on_device([], minicnn.device("gpu"))) == []


def test_the_next_batch_is_on_its_way_while_a_step_computes(cupy):
    taken = []

    def batches():
        for k in range(4):
            taken.append(k)
            yield (np.zeros(1),)

    coming = on_device(batches(), minicnn.device("gpu"))
    next(coming)
    assert taken == [0, 1]
    next(coming)
    assert taken == [0, 1, 2]


def test_on_the_cpu_batches_pass_untouched():
    batches = [(np.zeros(2), np.ones(2)), (np.zeros(1), np.ones(1))]
    assert all(a is b for a, b in zip(on_device(iter(batches), minicnn.device("cpu")), batches, strict=True))


def test_no_step_waits_for_the_device(stand_in):
    """One look at loss and metrics an epoch, however many steps: nothing else goes from the device to the host."""
    x, y = images(80)
    waits = []
    for batch_size in (40, 8):
        model = cnn().to("gpu")
        model.optimizer.clipnorm = model.optimizer.global_clipnorm = 1.0
        strict_cupy.log.clear()
        model.fit(x, y, batch_size=batch_size, epochs=2, verbose=0, validation_data=(x, y))
        waits.append(strict_cupy.log["sync"])
    assert waits[0] == waits[1] <= 10


# ---- the same training ----------------------------------------------------------------------------------------------


def losses(model: Sequential, steps: int) -> list[float]:
    """The loss of each step: epochs of one batch each, with shuffling and dropout."""
    x, y = images(32)
    found = []
    for _ in range(steps // 2):
        model.fit(x, y, batch_size=16, verbose=0, callbacks=[_Losses(found)])
    return found


class _Losses(minicnn.callbacks.Callback):
    def __init__(self, found: list[float]):
        super().__init__()
        self.found, self.before = found, 0.0

    def on_train_batch_end(self, batch, logs=None):
        self.found.append(logs["loss"] * (batch + 1) - self.before * batch)
        self.before = logs["loss"]


def test_both_devices_start_equal_and_learn_the_same(cupy):
    """The losses of the first 20 steps agree to 1e-4: weights, shuffles and dropout come from the host."""
    on_cpu, on_gpu = cnn(), cnn().to("gpu")
    for a, b in zip(on_cpu.get_weights(), on_gpu.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    expected, found = losses(on_cpu, 20), losses(on_gpu, 20)
    assert len(expected) == 20 and expected[-1] < expected[0] - 0.1
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    for a, b in zip(on_cpu.get_weights(), on_gpu.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-3)


def test_a_gpu_takes_the_batch_in_one_piece(cupy, monkeypatch):
    """However much work it is: there are no threads to share it, and no sample may be forgotten."""
    from minicnn.training import shards

    monkeypatch.setattr(shards, "MIN_MACS_PER_SHARD", 1)
    monkeypatch.setattr(shards, "MIN_PARAMS_TO_SHARE", 1)
    monkeypatch.setattr(shards, "get_num_threads", lambda: 2)
    (x, y), on_cpu, on_gpu = images(32), cnn(), cnn().to("gpu")
    assert shards.Workers.for_model(on_cpu, 32).shards == 2 and shards.Workers.for_model(on_gpu, 32).shards == 1
    np.testing.assert_allclose(on_gpu.predict(x, verbose=0), on_cpu.predict(x, verbose=0), rtol=1e-4, atol=1e-6)
    for model in (on_cpu, on_gpu):
        model.fit(x, y, batch_size=16, verbose=0)
    np.testing.assert_allclose(on_gpu.evaluate(x, y, verbose=0), on_cpu.evaluate(x, y, verbose=0), rtol=1e-4)


def test_callbacks_work_on_a_device(cupy):
    model, (x, y) = cnn().to("gpu"), images(32)
    stopping = EarlyStopping("loss", patience=0, restore_best_weights=True)
    history = model.fit(x, y, epochs=3, verbose=0, callbacks=[stopping])
    assert model.device == "gpu" and all(isinstance(value, float) for value in history.history["loss"])


def test_a_gpu_array_may_be_given(cupy):
    model, (x, y) = cnn().to("gpu"), images(8)
    expected = model.predict(x, verbose=0)
    np.testing.assert_array_equal(model.predict(cupy.asarray(x), verbose=0), expected)
    assert isinstance(model(x), cupy.ndarray)
    assert model.evaluate(cupy.asarray(x), cupy.asarray(y), verbose=0) == model.evaluate(x, y, verbose=0)


def test_what_a_kernel_keeps_for_later_is_kept_for_each_gpu(stand_in):
    """Winograd's matrices are made once: for every device of their own."""
    x, w = np.ones((1, 6, 6, 2), np.float32), np.ones((3, 3, 2, 3), np.float32)
    for name in ("cpu", "gpu", "gpu:1"):
        with minicnn.device(name) as here:
            xp = here.xp
            y = minicnn.kernels.conv2d_forward(xp.asarray(x), xp.asarray(w), algorithm="winograd")
        np.testing.assert_allclose(backend.to_host(y), 18, rtol=1e-5)


def test_looking_inside_a_model_on_the_gpu(cupy):
    model, (x, y) = cnn().to("gpu"), images(32)
    model.fit(x, y, verbose=0)
    before = model.get_weights()
    t = model.trace(x[:2], y[:2])
    assert t.loss > 0 and isinstance(t.layers[1].grads["w"], np.ndarray)
    minicnn.gradcheck.check_model(model, x[:3] / 255, y[:3], elements=1, directions=1).assert_ok()
    assert "accuracy" in model.evaluate(x, y, verbose=0, return_dict=True)
    model.summary(print_fn=lambda line: None)
    assert model.device == "gpu"
    for a, b in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_wrong_gradient_is_found_on_the_gpu(cupy):
    class OneWrong(Dense):
        def backward(self, dy, ctx):
            dx = super().backward(dy, ctx)
            ctx.grads["w"] *= 1.5
            return dx

    with minicnn.device("gpu"):
        report = minicnn.gradcheck.check_layer(OneWrong(2), (3,))
    assert not report.arrays["dw"].ok and report.arrays["dx"].ok and report.arrays["dw"].hint


# ---- TF32 ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def compute_types(cupy, monkeypatch):
    """What CuPy was told about its matrix products, and the compute capability that its GPU says it has."""
    told = {"capability": "90"}
    products = types.SimpleNamespace(COMPUTE_TYPE_TF32=7, COMPUTE_TYPE_DEFAULT=1)
    products.set_compute_type = lambda dtype, value: told.update(set=(dtype, value))
    monkeypatch.setattr(cupy, "_core", types.SimpleNamespace(_routines_linalg=products), raising=False)
    capability = property(lambda self: told["capability"])
    monkeypatch.setattr(strict_cupy.Device, "compute_capability", capability, raising=False)
    return told


@pytest.mark.cpu
def test_tf32_is_switched_on_and_off(compute_types):
    minicnn.set_tf32(True)
    assert compute_types["set"] == (np.float32, 7)
    minicnn.set_tf32(False)
    assert compute_types["set"] == (np.float32, 1)


@pytest.mark.cpu
def test_tf32_needs_a_gpu_that_has_it(compute_types):
    compute_types["capability"] = "75"
    with pytest.raises(InputError) as caught:
        minicnn.set_tf32(True)
    assert "8.0 or higher" in caught.value.expected and caught.value.received == "7.5." and "set" not in compute_types


@pytest.mark.cpu
def test_tf32_without_a_gpu(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(InputError, match="CuPy is not installed"):
        minicnn.set_tf32(True)
    minicnn.set_tf32(False)  # it is off
    monkeypatch.delitem(sys.modules, "cupy")
    minicnn.set_tf32(False)
    monkeypatch.setattr(strict_cupy, "device_count", 0)
    strict_cupy.install(monkeypatch)
    minicnn.set_tf32(False)  # CuPy is there, and no GPU


@pytest.mark.cpu
def test_tests_that_were_asked_to_run_on_a_gpu_fail_where_there_is_none(tmp_path):
    """They would be skipped one and all, and the run would look like a success."""
    (tmp_path / "cupy.py").write_text("raise ImportError('no GPU here')")
    tests = Path(__file__).with_name("test_kernels_dense.py")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(tests.parents[1])])}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--device", "gpu", str(tests)]
    result = subprocess.run(command, env=environment, cwd=tests.parents[1], capture_output=True, text=True, check=False)
    assert result.returncode != 0 and "no GPU here" in result.stdout + result.stderr
