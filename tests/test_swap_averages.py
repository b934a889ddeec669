"""SwapEMAWeights: the numbers of Keras 3.15 (TensorFlow) on the same data; and all is in its place again at the end."""

from __future__ import annotations

import numpy as np
import pytest

import minicnn
from minicnn.callbacks import BackupAndRestore, Callback, EarlyStopping, ModelCheckpoint, SwapEMAWeights
from minicnn.errors import InputError
from minicnn.layers import Dense, Input
from minicnn.optimizers import SGD, MultiOptimizer, OptimizerMap

RNG = np.random.default_rng(0)
X = RNG.random((20, 5)).astype("f4")
Y = RNG.integers(0, 3, 20)
W0 = RNG.standard_normal((5, 3)).astype("f4")
KERAS = {"loss": [1.299304, 1.200692, 1.159552], "val_loss": [1.169695, 1.119934, 1.0867]}
BIAS = [0.316685, -0.156914, -0.159771]


def net(optimizer=None) -> minicnn.Sequential:
    model = minicnn.Sequential([Input((5,)), Dense(3, activation="softmax")])
    model.set_weights([W0, np.zeros(3, "f4")])
    averaged = SGD(0.5, use_ema=True, ema_momentum=0.6)
    model.compile(averaged if optimizer is None else optimizer, "sparse_categorical_crossentropy")
    return model


def fit(model, *callbacks, epochs=3, **options):
    return model.fit(X, Y, 8, epochs, 0, list(callbacks), validation_data=(X, Y), shuffle=False, **options).history


@pytest.mark.parametrize("swap_on_epoch", [False, True])
def test_the_numbers_of_keras(swap_on_epoch):
    model = net()
    history = fit(model, SwapEMAWeights(swap_on_epoch))
    for name, expected in KERAS.items():
        np.testing.assert_allclose(history[name], expected, rtol=1e-5)
    np.testing.assert_allclose(model.layers[0].params["b"], BIAS, atol=2e-6)
    again = model.evaluate(X, Y, verbose=0, callbacks=SwapEMAWeights())
    assert again == pytest.approx(KERAS["val_loss"][-1], rel=1e-5)


class Bias(Callback):
    def __init__(self):
        super().__init__()
        self.seen = []

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append(self.model.get_weights()[1])


def test_a_checkpoint_behind_it_saves_the_averages(tmp_path):
    plain, averages = Bias(), Bias()
    model = net()
    fit(model, plain, SwapEMAWeights(swap_on_epoch=True), averages, ModelCheckpoint(tmp_path / "{epoch}.zip"))
    assert not np.allclose(plain.seen[1], averages.seen[1])
    saved = minicnn.load_model(tmp_path / "3.zip")
    np.testing.assert_array_equal(saved.get_weights()[1], averages.seen[2])
    np.testing.assert_array_equal(saved.get_weights()[1], model.get_weights()[1])
    assert saved.evaluate(X, Y, verbose=0) == pytest.approx(KERAS["val_loss"][-1], rel=1e-5)


def test_training_that_stops_early_ends_with_the_averages():
    """Keras brings them in after the last of all epochs only; then the raw weights would come back."""
    model, seen = net(), Bias()
    fit(model, SwapEMAWeights(swap_on_epoch=True), seen, EarlyStopping("loss", patience=0, mode="max"), epochs=9)
    assert len(seen.seen) == 2
    np.testing.assert_array_equal(model.get_weights()[1], seen.seen[-1])
    assert not model.optimizer.swapped


def test_validating_with_averages_changes_nothing_of_the_training():
    one, two = net(), net()
    fit(one, SwapEMAWeights())
    fit(two)
    np.testing.assert_array_equal(one.get_weights()[0], two.get_weights()[0])
    before = one.predict(X, verbose=0)
    one.predict(X, verbose=0, callbacks=SwapEMAWeights())
    np.testing.assert_array_equal(one.predict(X, verbose=0), before)


def test_a_resumed_run_is_the_same(tmp_path):
    class Stop(Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    whole, model = net(), net()
    fit(whole, SwapEMAWeights(swap_on_epoch=True))
    with pytest.raises(KeyboardInterrupt):
        fit(model, Stop(), SwapEMAWeights(swap_on_epoch=True), BackupAndRestore(tmp_path))
    again = net()
    fit(again, SwapEMAWeights(swap_on_epoch=True), BackupAndRestore(tmp_path))
    np.testing.assert_array_equal(again.get_weights()[0], whole.get_weights()[0])


def test_with_several_optimizers_those_with_averages_have_them():
    inner = OptimizerMap(SGD(0.5), {".*/bias": SGD(0.5, use_ema=True, ema_momentum=0.6)})
    model, seen = net(MultiOptimizer(inner)), Bias()
    before = Bias()
    fit(model, before, SwapEMAWeights(swap_on_epoch=True), seen)
    assert not np.allclose(before.seen[0], seen.seen[0])
    np.testing.assert_array_equal(model.get_weights()[1], seen.seen[-1])


@pytest.mark.parametrize("work", [
    lambda: fit(net(SGD(0.1)), SwapEMAWeights()),
    lambda: fit(net(MultiOptimizer(OptimizerMap(SGD(0.1)))), SwapEMAWeights()),
    lambda: minicnn.Sequential([Input((5,)), Dense(3)]).predict(X, callbacks=SwapEMAWeights()),
])  # fmt: skip
def test_without_averages_it_is_refused(work):
    with pytest.raises(InputError, match="no averages"):
        work()
