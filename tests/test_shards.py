"""Threads: shards agree with one piece, an error reaches the caller, and nobody is left waiting."""

from __future__ import annotations

import threading
import time
import traceback

import numpy as np
import pytest
from helpers import random
from threadpoolctl import threadpool_info

import minicnn
from minicnn import backend, callbacks, utils
from minicnn.errors import InputError
from minicnn.layers import (
    Activation,
    AveragePooling2D,
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
from minicnn.training import shards


@pytest.fixture(autouse=True)
def three_threads(monkeypatch):
    """Three shards, however small the work; afterwards no thread of ours is alive and BLAS has its threads again."""
    utils.set_random_seed(0)
    monkeypatch.setattr(shards, "MIN_MACS_PER_SHARD", 1)
    before = blas_threads()
    minicnn.set_num_threads(3)
    yield
    minicnn.set_num_threads(None)
    deadline = time.monotonic() + 10
    while ours() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert ours() == []
    assert blas_threads() == before


def ours() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("minicnn")]


def blas_threads() -> list[int]:
    """The threads of NumPy's BLAS; another test may have loaded SciPy, which brings one of its own."""
    blas = [library for library in threadpool_info() if library["user_api"] == "blas"]
    return [library["num_threads"] for library in blas if "scipy.libs" not in library["filepath"]]


def network() -> Sequential:
    return Sequential(
        [
            Input((8, 8, 2)),
            Conv2D(4, 3, padding="same"),
            Activation("relu"),
            MaxPooling2D(),
            Dropout(0.3),
            BatchNormalization(),
            Conv2D(3, 3, activation="tanh", kernel_regularizer="l2"),
            AveragePooling2D(),
            Flatten(),
            Dense(6, activation="relu"),
            Dropout(0.3),
            BatchNormalization(),
            Dense(3, activation="softmax"),
        ]
    )


def batch(n: int = 20) -> tuple[np.ndarray, np.ndarray]:
    return random((n, 8, 8, 2), seed=5, dtype=np.float32), np.arange(n) % 3


def trained(threads: int, dtype=np.float64, n: int = 20, batch_size: int = 10) -> tuple[Sequential, dict]:
    """A network after two epochs; float64 tells rounding from mistakes. Batches of 10 make shards of 3, 3 and 4."""
    utils.set_random_seed(4)
    minicnn.set_num_threads(threads)
    model = network()
    for layer in model.flat_layers:
        for arrays in (layer.params, layer.state):
            arrays.update({name: array.astype(dtype) for name, array in arrays.items()})
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model, model.fit(*batch(n), batch_size=batch_size, epochs=2, verbose=0).history


# ---- the same results ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [2, 3, 5])
def test_shards_agree_with_one_piece_to_rounding(threads):
    (one, history), (several, other) = trained(1), trained(threads)
    for name in history:
        np.testing.assert_allclose(history[name], other[name], rtol=1e-10, err_msg=name)
    for a, b in zip(one.get_weights(), several.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9)
    x, y = batch()
    np.testing.assert_allclose(one.predict(x, verbose=0), several.predict(x, verbose=0), rtol=1e-7)
    np.testing.assert_allclose(one.evaluate(x, y, verbose=0), several.evaluate(x, y, verbose=0), rtol=1e-7)


def test_a_last_batch_smaller_than_the_number_of_threads():
    with pytest.warns(UserWarning, match="a single sample"):
        (one, history), (several, other) = trained(1, n=11), trained(3, n=11)  # batches of 10 and 1
    np.testing.assert_allclose(history["loss"], other["loss"], rtol=1e-10)
    for a, b in zip(one.get_weights(), several.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-8)


def test_the_same_number_of_threads_gives_the_same_bits():
    (a, _), (b, _) = trained(3, np.float32), trained(3, np.float32)
    for p, q in zip(a.get_weights(), b.get_weights(), strict=True):
        np.testing.assert_array_equal(p, q)


@pytest.mark.parametrize("threads", [1, 2])
def test_batch_norm_statistics_are_those_of_the_whole_batch_and_move_once(threads):
    minicnn.set_num_threads(threads)
    model = Sequential([Input((5,)), BatchNormalization(momentum=0.5), Dense(3, activation="softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    x = random((9, 5), dtype=np.float32)
    model.fit(x, np.arange(9) % 3, batch_size=9, verbose=0)
    _, _, mean, variance, *_ = model.get_weights()
    np.testing.assert_allclose(mean, 0.5 * x.mean(axis=0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(variance, 0.5 + 0.5 * x.var(axis=0), rtol=1e-5)


def test_a_batch_really_is_cut(monkeypatch):
    sizes = []
    forward = Dense.forward
    monkeypatch.setattr(Dense, "forward", lambda self, x, ctx: (sizes.append(len(x)), forward(self, x, ctx))[1])
    model = Sequential([Input((5,)), Dense(3)])
    model.compile("sgd", "mse")
    model.fit(random((10, 5)), random((10, 3)), batch_size=10, verbose=0)
    assert sorted(sizes) == [3, 3, 4]


@pytest.mark.parametrize(("batch", "pieces"), [(32, 1), (256, 1), (257, 3)])
def test_a_small_batch_for_many_weights_stays_in_one_piece(batch, pieces):
    dense = Sequential([Input((1000,)), Dense(500), Dense(3)])
    workers = shards.Workers.for_model(dense, batch)
    assert (workers.threads, workers.shards, workers.blas_threads) == (3, pieces, 1)
    convolution = Sequential([Input((14, 14, 4)), Conv2D(64, 3), Conv2D(16, 3), Flatten(), Dense(300)])
    workers = shards.Workers.for_model(convolution, batch)
    assert convolution.count_params() > shards.MIN_PARAMS_TO_SHARE and workers.shards == 3 and workers.blas_threads == 1


def test_in_one_piece_the_threads_share_the_products(monkeypatch):
    """A dense network in one piece: each product of its step is cut, none of its numbers is another one."""
    cut = []
    monkeypatch.setattr(shards, "_matmul", lambda a, b, out: cut.append(out.shape) or np.matmul(a, b, out=out))
    monkeypatch.setattr(shards, "MIN_PARAMS_TO_SHARE", 1)
    results = []
    for threads in (1, 3):
        minicnn.set_num_threads(threads)
        utils.set_random_seed(3)
        model = Sequential([Input((7,)), Dense(5, "tanh"), Dense(2)])
        for layer in model.flat_layers:
            layer.params.update({name: array.astype(float) for name, array in layer.params.items()})
        model.compile("sgd", "mse")
        model.fit(random((4, 7)), random((4, 2)), batch_size=4, verbose=0)
        results.append([*model.get_weights(), model.predict(random((4, 7)), batch_size=4, verbose=0)])
    for one, three in zip(*results, strict=True):
        np.testing.assert_allclose(one, three, rtol=1e-12, atol=1e-14)
    # Of y, dw and dx two of three parts go to others: the columns of a wide result, the rows of a high one.
    assert set(cut) == {(4, 2), (2, 5), (3, 5), (1, 2), (2, 2)}


@pytest.mark.parametrize(
    "shapes", [((5, 4), (4, 9)), ((9, 4), (4, 5)), ((1, 4), (4, 2)), ((2, 4), (4, 1)), ((0, 4), (4, 3))]
)
@pytest.mark.parametrize("given", [False, True])
def test_a_shared_product_is_the_product(shapes, given):
    a, b = (random(shape, seed) for seed, shape in enumerate(shapes))
    out = np.full((2 * len(a), b.shape[1]), np.nan)[::2] if given else None
    with shards.Workers(3, 1) as workers:
        (y,) = workers.run(lambda k, all_reduce: backend.matmul(a, b, out), 1)
        (stacked,) = workers.run(lambda k, all_reduce: backend.matmul(a[None], b), 1)
    assert backend.shared.matmul is None and (y is out or not given)
    np.testing.assert_allclose(y, a @ b, rtol=1e-14)
    np.testing.assert_allclose(stacked[0], a @ b, rtol=1e-14)


def test_an_error_in_a_shared_product_reaches_the_caller(monkeypatch):
    def fails(a, b, out):
        raise MemoryError("no room")

    monkeypatch.setattr(shards, "_matmul", fails)
    with shards.Workers(2, 1) as workers, pytest.raises(MemoryError, match="no room"):
        workers.run(lambda k, all_reduce: backend.matmul(np.ones((4, 4)), np.ones((4, 4))), 1)
    assert backend.shared.matmul is None


# ---- cutting ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("samples", "parts"), [(10, 3), (3, 3), (2, 3), (1, 4), (7, 1)])
def test_split_gives_every_sample_to_one_shard(samples, parts):
    cut = shards.split(samples, parts)
    lengths = [s.stop - s.start for s in cut]
    assert [i for s in cut for i in range(s.start, s.stop)] == list(range(samples))
    assert len(cut) == min(samples, parts) and min(lengths) >= 1 and max(lengths) - min(lengths) <= 1


def test_small_work_stays_in_one_piece(monkeypatch):
    monkeypatch.setattr(shards, "MIN_MACS_PER_SHARD", 1000)
    assert shards.shards_for(samples=32, macs_per_sample=10) == 1
    assert shards.shards_for(samples=32, macs_per_sample=70) == 2
    assert shards.shards_for(samples=32, macs_per_sample=10**6) == 3
    assert shards.shards_for(samples=1, macs_per_sample=10**9) == 1
    assert shards.shards_for(samples=32, macs_per_sample=0) == 1


def test_small_work_starts_no_thread(monkeypatch):
    monkeypatch.setattr(shards, "MIN_MACS_PER_SHARD", 4_000_000)
    alive = []
    look = callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: alive.extend(ours()))
    model = network()
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(*batch(), callbacks=[look], verbose=0)
    assert alive == []


@pytest.mark.parametrize("n", [0, -1, 1.5, "2", True, [2]])
def test_numbers_of_threads_that_cannot_be(n):
    with pytest.raises(InputError, match="set_num_threads"):
        minicnn.set_num_threads(n)
    assert minicnn.get_num_threads() == 3


def test_a_number_of_threads_of_numpy():
    minicnn.set_num_threads(np.int64(2))
    assert minicnn.get_num_threads() == 2


def test_by_default_all_usable_cores_work():
    minicnn.set_num_threads(None)
    assert minicnn.get_num_threads() == shards.usable_cores() >= 1


# ---- all_reduce ------------------------------------------------------------------------------------------------------


def test_all_reduce_gives_everybody_the_same_sum_round_after_round():
    def work(k, all_reduce):
        return [all_reduce(np.array([k + 1.0, 10.0 * i])) for i in range(50)]

    with shards.Workers(3) as workers:
        results = workers.run(work, 3)
    for totals in results:
        np.testing.assert_array_equal(totals, [[6.0, 30.0 * i] for i in range(50)])


def test_one_worker_gets_no_all_reduce():
    with shards.Workers(1) as workers:
        assert workers.run(lambda k, all_reduce: (k, all_reduce), 1) == [(0, None)]


# ---- errors ----------------------------------------------------------------------------------------------------------


class TroubleError(Exception):
    pass


class Fragile(Layer):
    """Raises in the shard that holds sample `at`, in the forward or backward pass."""

    def __init__(self, at: int, on_the_way_back: bool, **layer):
        super().__init__(**layer)
        self.at, self.on_the_way_back, self.broken = at, on_the_way_back, True

    def trouble(self, ctx, n):
        if self.broken and ctx.first <= self.at < ctx.first + n:
            raise TroubleError(f"sample {self.at}")

    def forward(self, x, ctx):
        if not self.on_the_way_back:
            self.trouble(ctx, len(x))
        return x

    def backward(self, dy, ctx):
        self.trouble(ctx, len(dy))
        return dy


@pytest.mark.parametrize("at", [0, 5, 9], ids=["first shard", "second shard", "third shard"])
@pytest.mark.parametrize("on_the_way_back", [False, True])
def test_an_error_in_one_shard_reaches_the_caller(at, on_the_way_back):
    fragile = Fragile(at, on_the_way_back)
    model = Sequential([Input((5,)), Dense(4), BatchNormalization(), fragile, BatchNormalization(), Dense(3)])
    model.compile("sgd", "mse")
    x, y = random((10, 5)), random((10, 3))
    before = model.get_weights()
    with pytest.raises(TroubleError, match=f"sample {at}") as caught:
        model.fit(x, y, batch_size=10, verbose=0)
    assert "raise TroubleError" in "".join(traceback.format_tb(caught.tb))
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert ours() == []
    fragile.broken = False
    assert np.isfinite(model.fit(x, y, batch_size=10, verbose=0).history["loss"][0])


def test_an_error_while_evaluating_and_predicting():
    model = Sequential([Input((5,)), Fragile(5, False), Dense(3)])
    model.compile("sgd", "mse")
    x = random((10, 5))
    for work in (lambda: model.evaluate(x, random((10, 3)), verbose=0), lambda: model.predict(x, verbose=0)):
        model.layers[0].forward = lambda x, ctx: 1 / 0
        with pytest.raises(ZeroDivisionError):
            work()


@pytest.mark.parametrize("hook", ["on_train_begin", "on_train_batch_end", "on_epoch_end"])
def test_an_interrupt_in_a_callback_ends_the_threads(hook):
    def interrupt(*_):
        raise KeyboardInterrupt

    model = network()
    model.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(KeyboardInterrupt):
        model.fit(*batch(), callbacks=[callbacks.LambdaCallback(**{hook: interrupt})], verbose=0)
    assert ours() == []
    model.fit(*batch(), verbose=0)


# ---- BLAS and other threads ------------------------------------------------------------------------------------------


def test_blas_has_one_thread_while_shards_run():
    seen = []
    model = network()
    model.compile("sgd", "sparse_categorical_crossentropy")
    look = callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.extend(blas_threads()))
    model.fit(*batch(), callbacks=[look], verbose=0)
    assert set(seen) == {1}


def test_two_models_train_at_once_as_they_do_alone():
    def train(model: Sequential) -> list[np.ndarray]:
        model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        model.fit(*batch(), batch_size=10, epochs=3, verbose=0)
        return model.get_weights()

    def models() -> list[Sequential]:
        utils.set_random_seed(9)
        return [network(), network()]

    alone = [train(model) for model in models()]
    together: list = [None, None]

    def work(i: int, model: Sequential) -> None:
        together[i] = train(model)

    threads = [threading.Thread(target=work, args=(i, model)) for i, model in enumerate(models())]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for one, other in zip(alone, together, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)
