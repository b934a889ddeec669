"""minicnn.profile(): the sums are right by a clock that the test itself turns, and explain all of the time."""

from __future__ import annotations

import json

import numpy as np
import pytest
import strict_cupy

import minicnn
from minicnn.errors import InputError
from minicnn.inspect import profile as profile_module
from minicnn.inspect.profile import BETWEEN, IDLE, OUTSIDE
from minicnn.layers import Activation, BatchNormalization, Conv2D, Dense, Dropout, Flatten, Layer, MaxPooling2D
from minicnn.layers.walk import Observer, observed
from minicnn.training import profiling, shards


class Clock:
    """Stands still unless the test turns it."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    for module in (profiling, profile_module):
        monkeypatch.setattr(module, "perf_counter", clock)
    return clock


@pytest.fixture
def threads(request, monkeypatch):
    """So many threads, even for the tests' small models."""
    monkeypatch.setattr(shards, "MIN_MACS_PER_SHARD", 1)
    monkeypatch.setattr(shards, "_num_threads", request.param)
    return request.param


class Slow(Layer):
    """y = s x. Its forward takes 3 seconds of the clock, its backward 5."""

    def __init__(self, clock, **layer):
        super().__init__(**layer)
        self.clock = clock

    def build(self, input_shape, rng):
        self.params["s"] = np.ones(input_shape[-1], np.float32)

    def forward(self, x, ctx):
        self.clock.now += 3
        ctx.x = x
        return x * self.params["s"]

    def backward(self, dy, ctx):
        self.clock.now += 5
        ctx.grads["s"] = (dy * ctx.x).sum(axis=0)
        return dy * self.params["s"]


class Sleepy(minicnn.callbacks.Callback):
    """Takes 7 seconds after each epoch, and lets the model judge two samples in them."""

    def __init__(self, clock):
        super().__init__()
        self.clock = clock

    def on_epoch_end(self, epoch, logs=None):
        self.clock.now += 7
        self.model.evaluate(np.ones((2, 4)), np.zeros((2, 3)), verbose=0)


def slow_model(clock):
    model = minicnn.Sequential([Slow(clock, name="slow", input_shape=(4,)), Dense(3)])
    model.compile("sgd", "mse")
    return model


def by_name(p):
    return {row.name: row for row in p.rows}


def test_sums_are_those_of_the_clock(clock):
    model = slow_model(clock)
    with minicnn.profile() as p:
        clock.now += 0.5
        model.fit(np.ones((6, 4)), np.zeros((6, 3)), batch_size=2, epochs=2, callbacks=[Sleepy(clock)], verbose=0)
        clock.now += 1.5
    rows = by_name(p)
    slow = rows["slow"]
    assert (slow.kind, slow.calls) == ("Slow", 2 * 3 + 2)  # 3 steps an epoch, and once in the callback
    assert (slow.forward, slow.backward, slow.seconds) == (8 * 3, 6 * 5, 54)
    assert rows["callbacks"].seconds == 2 * 7  # what evaluate takes inside is the layers'
    assert rows[OUTSIDE].seconds == 2.0
    assert p.wall == p.thread_seconds == 54 + 14 + 2
    assert sum(row.seconds for row in p.rows) == p.wall
    assert sum(row.share for row in p.rows) == pytest.approx(1)
    assert rows["data"].calls == 2 * (3 + 1) + 2 * 2  # each time once more than there are batches: the end is asked for
    assert rows["optimizer"].calls == 6
    assert rows["loss and metrics"].calls == 6 + 2


def test_operations_and_bytes(clock):
    first, second = Dense(5, name="first", input_shape=(4,)), Dense(3, name="second")
    model = minicnn.Sequential([first, second, Flatten(name="view")])
    model.compile("sgd", "mse")
    with minicnn.profile() as p:
        model.fit(np.ones((6, 4)), np.zeros((6, 3)), batch_size=6, verbose=0)
    rows = by_name(p)
    assert (rows["first"].flops_forward, rows["second"].flops_forward) == (2 * 6 * 4 * 5, 2 * 6 * 5 * 3)
    assert rows["first"].flops_backward == 2 * 6 * 4 * 5  # dw only: nobody asks for the first layer's dx
    assert rows["second"].flops_backward == 2 * 2 * 6 * 5 * 3
    x, y, params = 6 * 5, 6 * 3, 5 * 3 + 3
    assert rows["second"].bytes == 4 * ((x + y + params) + (y + 2 * x + 2 * params))
    assert rows["view"].bytes == rows["view"].flops == 0
    assert rows["second"].gflops == 0.0  # the clock stands still: no rate rather than a division by 0


def test_in_place_is_work_too():
    model = minicnn.Sequential([Dense(5, input_shape=(4,)), Activation("relu", name="relu"), Flatten(name="view")])
    with minicnn.profile() as p:
        model.predict(np.ones((6, 4)), verbose=0)  # where relu may write over what it read
    rows = by_name(p)
    assert rows["relu"].bytes == 4 * 2 * 6 * 5
    assert rows["view"].bytes == 0


def test_layers_made_for_prediction_count_as_the_models_own():
    """They live for one call only: what is known of one must not be taken for the next one's."""
    with minicnn.profile() as p:
        for units in (3, 7, 11):
            model = minicnn.Sequential([Dense(units, name=f"of_{units}", input_shape=(4,)), BatchNormalization()])
            model.predict(np.ones((6, 4)), verbose=0)
    assert [row.flops for row in p.rows if row.kind == "Dense"] == [2 * 6 * 4 * units for units in (3, 7, 11)]


def image_model():
    minicnn.utils.set_random_seed(0)
    body = minicnn.Sequential(
        [Conv2D(4, 3, padding="same", input_shape=(8, 8, 2)), BatchNormalization(), MaxPooling2D(2)], name="body"
    )
    model = minicnn.Sequential([Conv2D(2, 3, padding="same", activation="relu", input_shape=(8, 8, 3)), body,
                                Dropout(0.2), Flatten(), Dense(3, activation="softmax")])  # fmt: skip
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    rng = np.random.default_rng(0)
    return model, rng.random((20, 8, 8, 3), dtype=np.float32), rng.integers(0, 3, 20)


@pytest.mark.parametrize("threads", [1, 2], indirect=True)
def test_everything_is_explained(threads, tmp_path):
    model, x, y = image_model()
    with minicnn.profile() as p:
        model.fit(x, y, batch_size=10, epochs=2, validation_data=(x, y), verbose=0)
        model.evaluate(x, y, verbose=0)
        model.predict(x, verbose=0)
    assert p.threads == threads
    assert sum(row.seconds for row in p.rows) == pytest.approx(p.thread_seconds, rel=0.05)
    assert p.wall <= p.thread_seconds <= p.wall * threads * 1.05
    names = [row.name for row in p.rows]
    assert names[:7] == list(model.layers_by_key)
    assert {"data", "loss and metrics", "optimizer", "callbacks", BETWEEN, OUTSIDE} <= set(names)
    assert ("waiting for threads" in names) == (threads > 1)
    rows = by_name(p)
    # 2 epochs of 2 steps, each epoch validated on 10 + 10, evaluate and predict in one batch: once for each thread
    assert rows["body/conv2d_1"].calls == threads * (4 + 4 + 1 + 1)
    samples = 2 * 20 + 2 * 20 + 20 + 20
    assert rows["body/conv2d_1"].flops_forward == 2 * samples * 8 * 8 * 9 * 2 * 4
    assert rows["body/conv2d_1"].flops_backward == 2 * 2 * (2 * 20) * 8 * 8 * 9 * 2 * 4
    assert all(row.seconds >= 0 and row.bytes >= 0 for row in p.rows)
    assert ("sums over the threads" in str(p)) == (threads > 1)
    p.save(tmp_path / "trace.json")
    check_trace(tmp_path / "trace.json", threads)


def check_trace(path, threads):
    record = json.loads(path.read_text(encoding="utf-8"))
    events = record["traceEvents"]
    tracks = {e["tid"]: e["args"]["name"] for e in events if e["ph"] == "M"}
    spans = [e for e in events if e["ph"] == "X"]
    assert len(tracks) == threads == len({e["tid"] for e in spans})
    assert {"body/conv2d_1 forward", "body/conv2d_1 backward", "optimizer", "fit"} <= {e["name"] for e in spans}
    for track in tracks:
        ends = []
        for e in sorted((e for e in spans if e["tid"] == track), key=lambda e: (e["ts"], -e["dur"])):
            assert e["ts"] >= 0 and e["dur"] >= 0
            while ends and ends[-1] <= e["ts"] + 1e-2:
                ends.pop()
            assert not ends or e["ts"] + e["dur"] <= ends[-1] + 1e-2, "they lie inside each other or apart"
            ends.append(e["ts"] + e["dur"])


@pytest.mark.parametrize("threads", [1, 2], indirect=True)
def test_watching_changes_no_number(threads):
    weights = []
    for watched in (False, True):
        model, x, y = image_model()
        if watched:
            with minicnn.profile():
                model.fit(x, y, batch_size=10, verbose=0)
        else:
            model.fit(x, y, batch_size=10, verbose=0)
        weights.append(model.get_weights())
    for plain, profiled in zip(*weights, strict=True):
        np.testing.assert_array_equal(plain, profiled)


def test_without_a_profile_nothing_is_wrapped():
    layers = [Dense(2)]
    observer = Observer()
    assert observed(observer) is observer
    assert profiling.each("data", layers) is layers
    assert profiling.stage("a") is profiling.stage("b")


def test_the_table():
    model, x, y = image_model()
    with minicnn.profile() as p:
        model.fit(x, y, batch_size=10, verbose=0)
    lines = str(p).splitlines()
    assert lines[0].startswith("Profile of ") and lines[1].split() == [
        "calls", "forward", "backward", "together", "share", "GFLOP/s", "GB/s"
    ]  # fmt: skip
    assert any(line.startswith("body/conv2d_1 (Conv2D)") for line in lines)
    assert next(line for line in lines if line.startswith("all ")).split()[-1] == "100.0%"
    assert max(map(len, lines)) <= 120


def test_notebooks_show_the_table():
    model, x, y = image_model()
    model.layers[-1].name = "<b>"
    with minicnn.profile() as p:
        assert p._repr_html_() is None
        model.predict(x, verbose=0)
    page = p._repr_html_()
    assert "body/conv2d_1 (Conv2D)" in page and "100.0%" in page
    assert "&lt;b&gt; (Dense)" in page and "<b>" not in page


def test_a_block_that_breaks_ends_the_profile():
    model, x, _ = image_model()
    with pytest.raises(ZeroDivisionError), minicnn.profile() as p:
        1 // int(model.predict(x, verbose=0).min())  # no probability of three reaches 1
    assert by_name(p)["dense_1"].calls > 0
    assert profiling._recorder is None


def test_misuse():
    with minicnn.profile() as p, pytest.raises(InputError, match="another profile is running"):
        minicnn.profile().__enter__()
    with pytest.raises(InputError, match="used already"):
        p.__enter__()
    with pytest.raises(InputError, match="that has not begun"):
        print(minicnn.profile())
    with minicnn.profile() as running, pytest.raises(InputError, match="still running"):
        running.save("trace.json")


def test_a_profile_of_nothing():
    with minicnn.profile() as p:
        pass
    assert [row.name for row in p.rows] in ([OUTSIDE], [])
    assert "idle" not in str(p) and IDLE not in by_name(p)


def test_a_long_run_keeps_its_sums_and_its_first_spans(monkeypatch, tmp_path):
    monkeypatch.setattr(profiling, "MAX_EVENTS", 5)
    model, x, y = image_model()
    with minicnn.profile() as p:
        model.fit(x, y, batch_size=2, verbose=0)
    assert by_name(p)["dense_1"].calls == 10
    p.save(tmp_path / "trace.json")
    record = json.loads((tmp_path / "trace.json").read_text())
    assert len([e for e in record["traceEvents"] if e["ph"] == "X"]) == 5
    assert record["otherData"]["spans left out"] > 10 * 2 * 7 - 5


def test_layers_on_a_gpu_are_waited_for(monkeypatch):
    strict_cupy.install(monkeypatch)
    model, x, y = image_model()
    model.to("gpu")
    model.fit(x, y, batch_size=10, verbose=0)
    before = strict_cupy.log["sync"]
    with minicnn.profile() as p:
        model.fit(x, y, batch_size=10, verbose=0)
    rows = by_name(p)
    assert rows["body/conv2d_1"].calls == 2
    assert strict_cupy.log["sync"] - before >= 2 * 2 * 7  # 2 steps, 2 ways, 7 layers
