"""The training step as a CUDA graph: it computes what the plain step computes, bit for bit, or says that it cannot.

Run on the strict stand-in for CuPy, which captures and repeats as CUDA does (strict_graph.py); on a real GPU with
pytest --device gpu, where numbers may differ by rounding.
"""

from __future__ import annotations

import gc
import itertools
import re
import sys
import warnings
import weakref

import branching
import numpy as np
import pytest
import strict_graph
from cuda_on_cpu import COMPILER, NEEDS_COMPILER
from helpers import rng

import minicnn
from minicnn import backend
from minicnn.callbacks import Callback
from minicnn.errors import InputError
from minicnn.layers import (
    Activation,
    BatchNormalization,
    CenterCrop,
    Conv1D,
    Conv2D,
    Conv2DTranspose,
    Cropping2D,
    Dense,
    DepthwiseConv2D,
    Dropout,
    Flatten,
    GaussianNoise,
    GlobalAveragePooling2D,
    GlobalMaxPooling2D,
    GroupNormalization,
    Input,
    Layer,
    LayerNormalization,
    MaxPooling1D,
    MaxPooling2D,
    Normalization,
    Permute,
    PReLU,
    RandomFlip,
    RandomRotation,
    RandomTranslation,
    RandomZoom,
    Rescaling,
    Reshape,
    Resizing,
    SeparableConv2D,
    SpatialDropout2D,
    UpSampling2D,
)
from minicnn.models import Sequential
from minicnn.optimizers import SGD, Adam, AdamW, Nadam, RMSprop
from minicnn.schedules import ExponentialDecay
from minicnn.training import graph, step
from minicnn.training.capture import Capture, StepVariable, products_for


@pytest.fixture
def cupy(device_of_test):
    """CuPy: the stand-in, or with --device gpu the real one."""
    if device_of_test == "strict" and COMPILER is None:
        pytest.skip(NEEDS_COMPILER)
    yield sys.modules["cupy"]
    graph._wanted = False


@pytest.fixture
def stand_in(cupy, device_of_test):
    if device_of_test != "strict":
        pytest.skip("needs the stand-in for CuPy")
    return cupy


@pytest.fixture
def repeated(cupy, monkeypatch):
    """How often a recorded step was repeated, and how many were captured."""
    products_for(cupy)  # tries itself out once, by a capture
    counts, run, begin = {"steps": 0, "captures": 0}, Capture.replay, Capture.__enter__

    def counted(self):
        counts["steps"] += 1
        run(self)

    def counted_begin(self):
        counts["captures"] += 1
        return begin(self)

    monkeypatch.setattr(Capture, "replay", counted)
    monkeypatch.setattr(Capture, "__enter__", counted_begin)
    return counts


X = rng().integers(0, 256, (16, 6, 6, 2)).astype(np.uint8)
Y = np.arange(16) % 5


def body() -> list:
    return [Rescaling(1 / 255), Conv2D(4, 3, padding="same", activation="relu"), BatchNormalization(), MaxPooling2D(2),
            Dropout(0.3), Conv2D(3, 3, strides=2, kernel_regularizer="l2"), Flatten()]  # fmt: skip


CASES = {
    "adam and a schedule": lambda: (body(), Adam(ExponentialDecay(0.01, 3, 0.7))),
    "adamw, clipped": lambda: (body(), AdamW(0.01, clipnorm=0.1)),
    "sgd with momentum, clipped together": lambda: (body(), SGD(0.1, momentum=0.9, nesterov=True, global_clipnorm=0.2)),
    "rmsprop, clipped by value": lambda: (body(), RMSprop(0.01, momentum=0.5, clipvalue=0.01)),
    "nadam, which has no kernel": lambda: (body(), Nadam(0.01)),
    "a dropout with its own seed": lambda: ([Flatten(), Dropout(0.5, seed=3), Dense(6, activation="gelu")], "adam"),
    "frozen layers": lambda: (
        [Conv2D(3, 3, trainable=False), BatchNormalization(trainable=False), BatchNormalization(), Flatten()], "adam"
    ),
    "normalisations of samples": lambda: (
        [Rescaling([0.1, 0.2]), Conv2D(4, 3), GroupNormalization(2), LayerNormalization(), PReLU(), Flatten()], "adam"
    ),
    "channels dropped, larger images": lambda: (
        [Cropping2D(1), UpSampling2D((2, 1), interpolation="bilinear"), SpatialDropout2D(0.4), Permute((2, 1, 3)),
         Reshape((4, -1, 4)), GlobalMaxPooling2D()], SGD(0.1),
    ),
    "convolutions of other kinds": lambda: (
        [Conv2DTranspose(3, 3, strides=2, activation="relu"), Conv2DTranspose(4, 3), Conv2D(4, 3, groups=2),
         DepthwiseConv2D(3, depth_multiplier=2), SeparableConv2D(3, 3, activation="tanh"), Flatten()], "adam"
    ),
    "noise, then sequences": lambda: (
        [GaussianNoise(0.3), GaussianNoise(0.2, seed=2), Reshape((-1, 4)), Conv1D(3, 3, padding="causal"),
         BatchNormalization(), MaxPooling1D(2), Flatten()], "adam"
    ),
    "prepared images": lambda: (
        [Normalization(), RandomFlip(), Resizing(8, 5), CenterCrop(6, 4), Conv2D(3, 3), Flatten()], "adam"
    ),
    "turned images": lambda: (
        [RandomRotation(0.2), RandomTranslation(0.2, 0.1, "constant"), RandomZoom(0.3, seed=2), Flatten()], "adam"
    ),
    "pooling of all": lambda: ([Conv2D(3, 3, activation="tanh"), Activation("elu"), GlobalAveragePooling2D()], "adam"),
}  # fmt: skip


def model_of(case: str, **compile_arguments) -> Sequential:
    minicnn.utils.set_random_seed(0)
    with minicnn.device("gpu"):
        layers, optimizer = CASES[case]()
        model = Sequential([Input((6, 6, 2)), *layers, Dense(5, activation="softmax", kernel_constraint="max_norm")])
        arguments = {"loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"], **compile_arguments}
        model.compile(optimizer, **arguments)
    return model


def trained(model: Sequential, with_graph: bool, epochs: int = 5, **fit) -> list[np.ndarray]:
    """Everything that training leaves behind: 16 samples in batches of 6, the last of 4."""
    minicnn.set_cuda_graph(with_graph)
    history = model.fit(X, Y, batch_size=6, epochs=epochs, verbose=0, **fit).history
    minicnn.set_cuda_graph(False)
    state = [slot.get() for slots in model.optimizer.state.values() for slot in slots]
    return [*(np.array(history[name]) for name in sorted(history)), *model.get_weights(), *state]


def same(a: list[np.ndarray], b: list[np.ndarray]) -> None:
    for one, other in zip(a, b, strict=True):
        if hasattr(sys.modules["cupy"], "show_config"):  # a real GPU
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
        else:
            np.testing.assert_array_equal(one, other)


# ---- it is the same step ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_with_the_graph_as_without(cupy, repeated, case):
    plain = trained(model_of(case), False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same(trained(model_of(case), True), plain)
    # 10 batches of 6, of which 2 to warm up; 5 of 4, likewise.
    assert repeated == {"steps": 8 + 3, "captures": 2}


@pytest.mark.parametrize("name", ["residual", "shared"])
def test_networks_that_branch(cupy, repeated, name):
    """Gradients that meet, and layers that are used twice, are captured as they are."""
    x, y, results = *branching.batch(12), []
    for with_graph in (False, True):
        with minicnn.device("gpu"):
            model = branching.made(name, optimizer=SGD(0.1, momentum=0.9))
        minicnn.set_cuda_graph(with_graph)
        losses = model.fit(x, y, batch_size=4, epochs=2, verbose=0).history["loss"]
        results.append([np.array(losses), *model.get_weights()])
    same(*results)
    assert repeated["steps"] == 6 - 2


@pytest.mark.parametrize("algorithm", ["im2col", "winograd", "shifted"])
def test_each_way_to_compute_a_convolution(cupy, repeated, algorithm):
    results = []
    for with_graph in (False, True):
        model = model_of("adam and a schedule")
        model.set_algorithm(algorithm)
        results.append(trained(model, with_graph, epochs=2))
    same(*results)
    assert repeated["steps"] == 2


@pytest.mark.filterwarnings("ignore:BinaryCrossentropy judges")
def test_other_losses_and_metrics(cupy, repeated):
    targets = np.eye(5, dtype=np.float32)[Y]
    for loss in ("mse", "categorical_crossentropy", "binary_crossentropy"):
        results = []
        for with_graph in (False, True):
            model = model_of("pooling of all", loss=loss, metrics=["accuracy", "mae"])
            minicnn.set_cuda_graph(with_graph)
            history = model.fit(X, targets, batch_size=8, epochs=3, verbose=0).history
            results.append([*map(np.array, history.values()), *model.get_weights()])
        same(*results)
    assert repeated["steps"] == 3 * 4


def test_two_models_in_turn(cupy, repeated):
    """Each call of fit captures anew: graphs hold memory, which is given back after it."""
    results = []
    for with_graph in (False, True):
        one, other = model_of("adam and a schedule"), model_of("adamw, clipped")
        for _ in range(2):
            last = [*trained(one, with_graph, epochs=2), *trained(other, with_graph, epochs=2)]
        results.append(last)
    same(*results)
    assert repeated["steps"] == 2 * 2 * 2


@pytest.fixture
def without_collector():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def test_a_capture_ends_with_its_fit(cupy, monkeypatch, without_collector):
    """At once, and not when Python's collector of cycles comes by: its memory is as much as a step takes."""
    made = []

    class Noted(Capture):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            made.append(weakref.ref(self))

    monkeypatch.setattr(graph, "Capture", Noted)
    trained(model_of("adam and a schedule"), True)
    assert len(made) == 2 and not any(capture() for capture in made)


@pytest.mark.skipif("not config.getoption('--device') == 'gpu'", reason="needs CuPy itself, which has memory to lose")
def test_the_memory_of_a_graph_is_given_back(cupy, without_collector):
    model, used = model_of("adam and a schedule"), []
    for _ in range(4):
        trained(model, True)
        free, total = cupy.cuda.runtime.memGetInfo()
        used.append(total - free)
    assert used[-1] == used[1]


def test_what_comes_back_is_not_overwritten_by_the_next_step(cupy):
    model, take = model_of("adam and a schedule"), graph.GraphedStep()
    x, y = (cupy.asarray(a[:6]) for a in (X, Y))
    with minicnn.training.shards.Workers(1) as workers:
        for _ in range(4):
            loss, (right,) = take(model, x, y, workers)
        first = float(loss), float(right)
        take(model, x, y, workers)
    assert (float(loss), float(right)) == first and len(take.graphs) == 1


def test_nothing_waits_for_the_gpu(stand_in):
    import strict_cupy

    counts = []
    for with_graph in (False, True):
        model = model_of("adam and a schedule")
        minicnn.set_cuda_graph(with_graph)
        strict_cupy.log.clear()
        model.fit(X, Y, batch_size=6, epochs=4, verbose=0)
        counts.append(strict_cupy.log["sync"])
    assert counts[0] == counts[1]


# ---- what happens between the steps ----------------------------------------------------------------------------------


class After(Callback):
    """Does something to the model once so many batches were learned from."""

    def __init__(self, batches: int, change):
        super().__init__()
        self.left, self.change = batches, change

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if self.left == 0:
            self.change(self.model)


def new_array(model):
    layer = model.flat_layers[1]
    layer.params["w"] = layer.params["w"] * 0.5


def new_optimizer(model):
    model.compile(SGD(0.1), model.loss, metrics=model.metrics)


CHANGES = {
    "weights": (lambda model: model.set_weights([w * 0.5 for w in model.get_weights()]), 2),
    "the learning rate": (lambda model: setattr(model.optimizer, "learning_rate", 0.2), 2),
    "an array": (new_array, 4),
    "the optimizer": (new_optimizer, 2),
    "a frozen layer": (lambda model: setattr(model.flat_layers[1], "trainable", False), 4),
    "how convolutions are computed": (lambda model: model.set_algorithm("winograd"), 4),
    "a layer's number": (lambda model: setattr(model.flat_layers[4], "rate", 0.6), 4),
    "a regularizer's number": (lambda model: setattr(model.flat_layers[5].kernel_regularizer, "l2", 0.3), 2),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_between_two_steps_counts(cupy, repeated, what):
    change, captures = CHANGES[what]
    results = []
    for with_graph in (False, True):
        model = model_of("adamw, clipped")
        model.optimizer.learning_rate = 0.02
        results.append(trained(model, with_graph, epochs=5, callbacks=[After(10, change)]))
    same(*results)
    assert repeated["captures"] == captures


# ---- what cannot be captured -----------------------------------------------------------------------------------------


class Mine(Layer):
    """Passes on what `use` makes of it."""

    def __init__(self, use, **layer):
        super().__init__(**layer)
        self.use, self.calls = use, 0

    def forward(self, x, ctx):
        return self.use(self, x, ctx)

    def backward(self, dy, ctx):
        return dy


def count_and_scale(layer, x, ctx):
    layer.calls += 1
    return x * (1 + layer.calls / 10)


REFUSED = {
    "waits": (lambda layer, x, ctx: x * float(x.max() > 0), "capturing"),
    "waits for all": (lambda layer, x, ctx: (sys.modules["cupy"].cuda.Device().synchronize(), x)[1], "capturing"),
    "copies": (lambda layer, x, ctx: x * sys.modules["cupy"].asarray(np.full(1, 0.5, np.float32)), "from the host"),
    "asks for the step": (lambda layer, x, ctx: x * (1.0 + 0.1 * (ctx.step % 2)), "from step to step"),
    "draws on the host": (lambda layer, x, ctx: x + float(np.random.default_rng(ctx.seed).random()), "StepVar|step"),
    "calls cuBLAS": (lambda layer, x, ctx: x @ sys.modules["cupy"].eye(x.shape[-1], dtype=x.dtype), "cuBLAS"),
    "counts": (count_and_scale, "another one at each step"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_captured_runs_as_ever(cupy, kind):
    use, reason = REFUSED[kind]
    results = []
    for with_graph in (False, True):
        minicnn.utils.set_random_seed(0)
        with minicnn.device("gpu"):
            model = Sequential([Input((6, 6, 2)), Flatten(), Dropout(0.2), Dense(4), Mine(use), BatchNormalization(),
                                Dense(5, activation="softmax")])  # fmt: skip
            model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            results.append(trained(model, with_graph, epochs=4))
        assert len(caught) == with_graph
    same(*results)
    assert re.search(f"cannot be captured as a CUDA graph.*({reason})", str(caught[0].message))
    assert caught[0].filename == __file__
    assert backend.capture.matmul is None


def test_a_full_memory_is_no_reason_to_stop(stand_in, monkeypatch):
    import strict_cupy

    def full(self):
        raise strict_cupy.OutOfMemoryError("Out of memory")

    plain = trained(model_of("adam and a schedule"), False)
    monkeypatch.setattr(Capture, "_begin", full)
    with pytest.warns(UserWarning, match="OutOfMemoryError"):
        same(trained(model_of("adam and a schedule"), True), plain)


def test_an_interrupt_leaves_nothing_open(cupy, monkeypatch):
    def interrupt(self, layer, ctx):
        if backend.capture.matmul is not None:
            raise KeyboardInterrupt
        return layer

    monkeypatch.setattr(Rescaling, "forward", interrupt)
    model = model_of("adam and a schedule")
    with pytest.raises(KeyboardInterrupt):
        trained(model, True)
    assert backend.capture.matmul is None
    assert cupy.asarray(X).get().sum() == X.sum()


def test_a_profile_sees_the_layers(cupy, repeated):
    model = model_of("adam and a schedule")
    minicnn.set_cuda_graph(True)
    with minicnn.profile() as profile:
        model.fit(X, Y, batch_size=6, epochs=4, verbose=0)
    assert repeated["steps"] == 0 and "conv2d" in str(profile)


@pytest.mark.parametrize("look", [int, float, bool, str, hash, lambda n: n == 1, lambda n: n % 2, lambda n: 2 * n,
                                  lambda n: [0, 1][n], lambda n: n < 3])  # fmt: skip
@pytest.mark.cpu
def test_a_number_of_later_cannot_be_looked_at(look):
    number = 3 + StepVariable(None, lambda: 4) + 5
    assert number.now() == 12
    with pytest.raises(TypeError):
        look(number)


# ---- without a GPU ---------------------------------------------------------------------------------------------------


@pytest.mark.cpu
def test_it_needs_a_gpu(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(InputError, match="CuPy is not installed"):
        minicnn.set_cuda_graph(True)
    minicnn.set_cuda_graph(False)


def test_it_is_off_and_says_nothing_to_the_cpu(cupy, repeated):
    trained(model_of("pooling of all"), False)
    model = model_of("pooling of all").to("cpu")
    minicnn.set_cuda_graph(True)
    model.fit(X, Y, batch_size=6, epochs=3, verbose=0)
    assert repeated["captures"] == 0


# ---- would these tests notice? ---------------------------------------------------------------------------------------


def noticed(case: str) -> bool:
    """Whether the graph's numbers are others than the plain step's, or there can be no such graph.

    A graph that reads memory which is anybody's may give the right numbers by chance: the stand-in refuses it.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numbers that are wrong may become NaN
        warnings.filterwarnings("error", "The training step cannot be captured")
        plain = trained(model_of(case), False)
        try:
            ours = trained(model_of(case), True)
        except (strict_graph.CaptureError, UserWarning):
            return True
    return any(not np.array_equal(a, b, equal_nan=True) for a, b in zip(plain, ours, strict=True))


def test_a_seed_that_is_baked_in_is_noticed(stand_in, monkeypatch):
    monkeypatch.setattr(StepVariable, "words", lambda self, f, count: f(self.now()))
    assert noticed("adam and a schedule")


def test_a_learning_rate_that_is_baked_in_is_noticed(stand_in, monkeypatch):
    case = "a rule without a kernel, and a schedule"
    monkeypatch.setitem(CASES, case, lambda: ([Flatten()], Nadam(ExponentialDecay(0.01, 3, 0.7))))
    assert not noticed(case)

    def with_update(model, x, y, workers, *later):
        result = step.gradients(model, x, y, workers, *later)
        step.update(model, result[0], workers)
        return result

    monkeypatch.setattr(graph, "gradients", with_update)
    monkeypatch.setattr(graph, "update", lambda *_: 0)
    assert noticed(case)


def test_a_graph_of_memory_that_is_gone_is_noticed(stand_in, monkeypatch):
    """The arrays that were captured are exchanged behind the graph's back: numbers alone would tell only by chance."""
    replay = Capture.replay

    def exchanged(self):
        for layer in model.flat_layers:
            layer.params.update({name: p.copy() for name, p in layer.params.items()})
        replay(self)

    monkeypatch.setattr(graph.Settings, "__eq__", lambda self, other: True)
    monkeypatch.setattr(graph.Settings, "_look", lambda self, thing: None)  # nor does it hold on to anything
    monkeypatch.setattr(Capture, "replay", exchanged)
    model = model_of("pooling of all")
    with pytest.raises(strict_graph.CaptureError, match="memory was freed"):
        trained(model, True)


def test_a_product_that_is_not_repeated_is_noticed(stand_in, monkeypatch):
    add, calls = Capture.host_call, itertools.count()
    monkeypatch.setattr(Capture, "host_call", lambda self, part: add(self, part if next(calls) != 3 else int))
    assert noticed("adam and a schedule")


def test_new_arrays_for_the_running_mean_are_noticed(stand_in, monkeypatch, repeated):
    """With state.update(new), as it stood there before, a plain step between two graphs would exchange the arrays."""
    forward = BatchNormalization.forward

    def exchange(self, x, ctx):
        y = forward(self, x, ctx)
        self.state.update(ctx.state)
        return y

    monkeypatch.setattr(BatchNormalization, "forward", exchange)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trained(model_of("adam and a schedule"), True)
    assert repeated != {"steps": 11, "captures": 2}


def test_temporaries_of_the_common_pool_are_noticed(stand_in, monkeypatch):
    monkeypatch.setattr(stand_in.cuda, "using_allocator", lambda malloc: strict_graph.using_allocator(None))
    with pytest.raises(strict_graph.CaptureError, match="memory was freed"):
        trained(model_of("adam and a schedule"), True)


def test_settings_that_nobody_compares_are_noticed(stand_in, monkeypatch):
    monkeypatch.setattr(graph.Settings, "__eq__", lambda self, other: True)
    change, _ = CHANGES["a layer's number"]
    results = [trained(model_of("adamw, clipped"), with_graph, callbacks=[After(10, change)], epochs=6)
               for with_graph in (False, True)]  # fmt: skip
    assert any(not np.array_equal(a, b) for a, b in zip(*results, strict=True))


# ---- the stand-in's graphs -------------------------------------------------------------------------------------------


@pytest.fixture
def stream(stand_in):
    return stand_in.cuda.Stream(non_blocking=True)


def test_a_graph_repeats_and_computes_nothing_before(stand_in, stream):
    x, y, pool = stand_in.asarray(np.arange(4.0)), stand_in.zeros(4), stand_in.cuda.MemoryPool()
    with stream, stand_in.cuda.using_allocator(pool.malloc):
        stream.begin_capture()
        doubled = x * 2
        y += doubled[1:3].sum()
        part = y.reshape(2, 2)[0]
        part[...] = part + 1
        captured = stream.end_capture()
    assert y.get().tolist() == [0, 0, 0, 0]
    captured.launch()
    assert y.get().tolist() == [7, 7, 6, 6]
    x[...] = x + 1
    captured.launch()
    assert y.get().tolist() == [7 + 10 + 1] * 2 + [16] * 2


@pytest.mark.parametrize("wrong", [
    lambda cupy, x: x.get(), lambda cupy, x: float(x[0]), lambda cupy, x: bool(x[0] > 1), lambda cupy, x: x[x > 1],
    lambda cupy, x: cupy.cuda.Device().synchronize(), lambda cupy, x: x.set(np.zeros(4)),
    lambda cupy, x: cupy.cuda.get_current_stream().synchronize(),
])  # fmt: skip
def test_what_waits_ends_a_capture(stand_in, stream, wrong):
    x = stand_in.asarray(np.arange(4.0))
    with stream:
        stream.begin_capture()
        with pytest.raises(strict_graph.CaptureError, match="capturing"):
            wrong(stand_in, x)
        with pytest.raises(strict_graph.CaptureError, match="Invalidated"):
            stream.end_capture()
    assert x.get().tolist() == [0, 1, 2, 3]


def test_cublas_and_the_common_stream_are_not_captured(stand_in, stream):
    x = stand_in.ones((2, 2))
    with stream:
        stream.begin_capture()
        with pytest.raises(NotImplementedError, match="cuBLAS"):
            x @ x
    with pytest.raises(strict_graph.CaptureError, match="non-blocking"):
        stand_in.cuda.Stream.null.begin_capture()


def test_a_copy_from_the_host_is_lost(stand_in, stream):
    y = stand_in.zeros(2)
    with stream:
        stream.begin_capture()
        x = stand_in.asarray(np.ones(2))
        y[...] = x
        captured = stream.end_capture()
    captured.launch()
    assert np.isnan(x.get()).all() and np.isnan(y.get()).all()


@pytest.mark.parametrize("keep", ["nothing", "the pool"])
def test_memory_must_be_kept(stand_in, stream, keep):
    pool, y = stand_in.cuda.MemoryPool(), stand_in.zeros(2)
    with stream, stand_in.cuda.using_allocator(pool.malloc):
        stream.begin_capture()
        y += y + 1
        captured = stream.end_capture()
    captured.launch()
    assert y.get().tolist() == [1, 1]
    if keep == "nothing":
        del pool
        gc.collect()
        with pytest.raises(strict_graph.CaptureError, match="memory was freed"):
            captured.launch()
    else:
        captured.launch()
        assert y.get().tolist() == [3, 3] and pool is not None


# ---- products in the graph -------------------------------------------------------------------------------------------


def test_settings_are_looked_at_again_only_where_something_was_exchanged(cupy):
    model = model_of("adamw, clipped")
    settings = graph.Settings(model)
    assert settings.untouched(model)
    layer = model.flat_layers[1]
    layer.kernel_size = list(layer.kernel_size) if isinstance(layer.kernel_size, tuple) else (3, 3)
    assert not settings.untouched(model)
    fresh = graph.Settings(model)
    layer.params["w"] = layer.params["w"] * 0.5
    assert fresh.untouched(model) is False and fresh != graph.Settings(model)


@pytest.mark.skipif("not config.getoption('--device') == 'gpu'", reason="needs CuPy itself, and cuBLAS")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_products_are_captured_too(cupy, dtype):
    """Matrices as they lie and transposed; a graph of one part computes them again, with what the arrays hold then."""
    a, b = (cupy.asarray(rng(k).standard_normal(shape).astype(dtype)) for k, shape in ((1, (4, 3)), (2, (3, 5))))
    products, found = products_for(cupy), []
    assert products is not None
    capture = Capture(cupy, products)
    pairs = [(a, b), (b.T, a.T), (a.T, a), (b, b.T)]
    with capture:
        for x, y in pairs:
            found.append(backend.matmul(x, y))
    a *= 2
    capture.replay()
    assert len(capture.parts) == 1
    for (x, y), z in zip(pairs, found, strict=True):
        np.testing.assert_allclose(z.get(), x.get() @ y.get(), rtol=1e-5)
    assert not products.matmul(a[None], b, cupy.empty((1, 4, 5), dtype))  # three axes
    assert not products.matmul(a[:, ::2], b[:2], cupy.empty((4, 5), dtype))  # not in one row
