"""Losses: per sample, their gradient by central differences, exact from logits, and values recorded from Keras 3.15."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import assert_same, numeric_gradient, random, unchanged

from minicnn import losses
from minicnn.errors import InputError, UnknownNameError
from minicnn.gradcheck import check_loss as check_own_loss
from minicnn.gradcheck import check_model
from minicnn.layers import Activation, Context, Conv2D, Dense, Input
from minicnn.losses import (
    BinaryCrossentropy,
    BinaryFocalCrossentropy,
    CategoricalCrossentropy,
    CategoricalFocalCrossentropy,
    Dice,
    Huber,
    KLDivergence,
    Loss,
    MeanAbsoluteError,
    MeanSquaredError,
    SparseCategoricalCrossentropy,
)
from minicnn.models import Sequential
from minicnn.objective import loss_gradient, prepare_targets, sample_losses
from minicnn.optimizers import SGD
from minicnn.training.checks import check_targets
from minicnn.training.shards import get_num_threads, set_num_threads
from minicnn.utils import set_random_seed


def softmax(z):
    p = np.exp(z - z.max(axis=-1, keepdims=True))
    return p / p.sum(axis=-1, keepdims=True)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


LABELS = np.array([0, 2, 1, 1])
ONE_HOT = np.eye(3)[LABELS]
SOFT = np.array([[0.7, 0.2, 0.1], [0, 0, 1], [0.3, 0.3, 0.4], [0.5, 0.25, 0.25]])
YES_NO = np.array([[1.0, 0], [0, 0], [1, 1], [0, 1]])
Z, ZB = random((4, 3), 1), random((4, 2), 2)
IMAGES = (2, 3, 2, 4)  # a loss may also judge a whole map of outputs
PIXELS = np.eye(4)[np.arange(12).reshape(IMAGES[:3]) % 4]

# The loss, targets, predictions.
CASES = {
    "mse": (MeanSquaredError(), random((4, 2), 3), ZB),
    "mse of images": (MeanSquaredError(), random(IMAGES, 4), random(IMAGES, 5)),
    "mae": (MeanAbsoluteError(), random((4, 2), 3), ZB),
    "mae of images": (MeanAbsoluteError(), random(IMAGES, 4), random(IMAGES, 5)),
    "cce": (CategoricalCrossentropy(), ONE_HOT, softmax(Z)),
    "cce of soft targets": (CategoricalCrossentropy(), SOFT, softmax(Z)),
    "cce smoothed": (CategoricalCrossentropy(label_smoothing=0.2), ONE_HOT, softmax(Z)),
    "cce, sums not 1": (CategoricalCrossentropy(), SOFT, softmax(Z) * np.array([[0.5], [1], [2], [3]])),
    "cce from logits": (CategoricalCrossentropy(from_logits=True), ONE_HOT, Z),
    "cce from logits smoothed": (CategoricalCrossentropy(from_logits=True, label_smoothing=0.1), SOFT, Z),
    "scce": (SparseCategoricalCrossentropy(), LABELS, softmax(Z)),
    "scce from logits": (SparseCategoricalCrossentropy(from_logits=True), LABELS, Z),
    "bce": (BinaryCrossentropy(), YES_NO, sigmoid(ZB)),
    "bce smoothed": (BinaryCrossentropy(label_smoothing=0.2), YES_NO, sigmoid(ZB)),
    "bce from logits": (BinaryCrossentropy(from_logits=True), YES_NO, ZB),
    "bce from logits smoothed": (BinaryCrossentropy(from_logits=True, label_smoothing=0.2), YES_NO, ZB),
    "cce of pixels": (CategoricalCrossentropy(), PIXELS, softmax(random(IMAGES, 5))),
    "cce of pixels from logits": (CategoricalCrossentropy(from_logits=True), PIXELS, random(IMAGES, 5)),
    "cce, classes first": (CategoricalCrossentropy(axis=1), softmax(random((2, 2, 3))).swapaxes(1, 2),
                           softmax(random((2, 2, 3), 5)).swapaxes(1, 2)),
    "scce of pixels": (SparseCategoricalCrossentropy(), PIXELS.argmax(-1), softmax(random(IMAGES, 5))),
    "scce ignores": (SparseCategoricalCrossentropy(ignore_class=1), PIXELS.argmax(-1), softmax(random(IMAGES, 5))),
    "huber": (Huber(0.7), random((4, 2), 3), ZB),
    "kl": (KLDivergence(), SOFT, softmax(Z)),
    "dice": (Dice(), np.eye(3)[LABELS], sigmoid(Z)),
    "dice of images": (Dice(axis=(1, 2, 3)), PIXELS, sigmoid(random(IMAGES, 5))),
    "binary focal": (BinaryFocalCrossentropy(True, 0.3, 1.5), YES_NO, sigmoid(ZB)),
    "binary focal from logits": (BinaryFocalCrossentropy(from_logits=True, label_smoothing=0.1), YES_NO, ZB),
    "categorical focal": (CategoricalFocalCrossentropy([0.2, 0.5, 0.3], 1.5), SOFT, softmax(Z)),
    "categorical focal from logits": (CategoricalFocalCrossentropy(0.4, from_logits=True), ONE_HOT, Z),
}  # fmt: skip
ids = pytest.mark.parametrize("case", CASES)


def check_loss(loss: Loss, y_true: np.ndarray, y_pred: np.ndarray) -> None:
    """gradient() is the derivative of the mean of per_sample(). test_negative_controls_training.py uses it, too."""
    y_pred = y_pred.copy()
    with unchanged(y_true, y_pred):
        per_sample = loss.per_sample(y_true, y_pred)
        gradient = loss.gradient(y_true, y_pred)
    assert per_sample.shape == (len(y_pred),)
    mean = np.full(len(y_pred), 1 / len(y_pred))
    numeric = numeric_gradient(lambda: loss.per_sample(y_true, y_pred), y_pred, mean)
    assert np.abs(numeric).max() > 1e-3, "dy_pred: the numeric gradient is 0, the check is blind"
    assert_same(gradient, numeric, 1e-6, "dy_pred")


# --- Gradients ----------------------------------------------------------------------------------------------


@ids
def test_gradient(case):
    check_loss(*CASES[case])


@ids
def test_float32_stays_float32(case):
    loss, y_true, y_pred = CASES[case]
    y_pred = y_pred.astype(np.float32)
    y_true = prepare_targets(loss, y_true, y_pred)
    for result in (loss.per_sample(y_true, y_pred), loss.gradient(y_true, y_pred)):
        assert result.dtype == np.float32
    assert_same(loss.gradient(y_true, y_pred), loss.gradient(*CASES[case][1:]), 1e-5)


@ids
def test_a_shard_divides_by_the_size_of_the_whole_batch(case):
    """The mean comes in once: the shards' gradients, side by side, are those of the whole batch."""
    loss, y_true, y_pred = CASES[case]
    if loss.whole_batch:
        pytest.skip("no mean over samples: it is never cut into shards")
    n = len(y_pred)
    parts = [slice(0, 1), slice(1, n)]
    shards = [loss.gradient(y_true[s], y_pred[s], batch_size=n) for s in parts]
    assert_same(np.concatenate(shards), loss.gradient(y_true, y_pred))
    assert_same(loss.gradient(y_true, y_pred, batch_size=2 * n), loss.gradient(y_true, y_pred) / 2)
    assert_same(np.concatenate([loss.per_sample(y_true[s], y_pred[s]) for s in parts]), loss.per_sample(y_true, y_pred))


@ids
def test_calling_a_loss_gives_the_mean(case):
    loss, y_true, y_pred = CASES[case]
    assert loss(y_true.tolist(), y_pred.tolist()) == pytest.approx(sample_losses(loss, y_true, y_pred).mean())


@pytest.mark.parametrize("n", [1, 2, 5])
def test_the_mean_is_taken_once(n):
    """By hand: 1/N over the samples and 1/K over the outputs, and nothing more."""
    y_true, y_pred = np.zeros((n, 2)), np.full((n, 2), 3.0)
    np.testing.assert_allclose(MeanSquaredError().gradient(y_true, y_pred), np.full((n, 2), 2 * 3 / (2 * n)))
    np.testing.assert_allclose(MeanAbsoluteError().gradient(y_true, y_pred), np.full((n, 2), 1 / (2 * n)))


def test_the_sign_of_mae():
    """A prediction that is too large has a positive gradient: the step makes it smaller."""
    gradient = MeanAbsoluteError().gradient(np.array([[1.0, 1.0, 1.0]]), np.array([[2.0, 0.0, 1.0]]))
    np.testing.assert_allclose(gradient, [[1 / 3, -1 / 3, 0]])


# --- Fused with the last layer ------------------------------------------------------------------------------

FUSED = {
    "cce": ("softmax", CategoricalCrossentropy(), SOFT),
    "cce smoothed": ("softmax", CategoricalCrossentropy(label_smoothing=0.1), ONE_HOT),
    "scce": ("softmax", SparseCategoricalCrossentropy(), LABELS),
    "bce": ("sigmoid", BinaryCrossentropy(), np.eye(3)[[0, 1, 2, 2]]),
    "bce smoothed": ("sigmoid", BinaryCrossentropy(label_smoothing=0.1), ONE_HOT),
}


@pytest.mark.parametrize("case", FUSED)
def test_fused_equals_unfused(case):
    """The last layer's page carries the logits: loss and gradient are the same with it and without it."""
    activation, loss, target = FUSED[case]
    layer, x = Dense(3, activation=activation), random((4, 5), 6)
    layer.build((5,), np.random.default_rng(1))
    layer.params = {name: array.astype(np.float64) for name, array in layer.params.items()}
    results = []
    for fused in (True, False):
        ctx = Context(training=True)
        p = layer.forward(x, ctx)
        page = ctx if fused else None
        per_sample = loss.per_sample(target, p, page)
        dx = layer.backward(loss_gradient(loss, target, p, page, batch_size=7), ctx)
        assert ("dlogits" in vars(ctx)) == fused
        results.append((per_sample, dx, ctx.grads["w"], ctx.grads["b"]))
    for one, other in zip(*results, strict=True):
        assert_same(one, other, 1e-10)


@pytest.mark.parametrize("case", FUSED)
def test_logits_of_1000(case):
    """Probabilities are 0 and 1 there, their logarithm infinite: fused, loss and gradient are still exact."""
    activation, loss, target = FUSED[case]
    z = np.array([[1000.0, -1000, 0], [-1000, 0, 1000], [1000, -1000, 0], [0, 1000, -1000]])
    layer, ctx = Activation(activation), Context(training=True)
    p = layer.forward(z, ctx)
    per_sample = loss.per_sample(target, p, ctx)
    dz = layer.backward(loss_gradient(loss, target, p, ctx), ctx)
    t = prepare_targets(loss, target, p) if not loss.sparse else np.eye(3)[target]
    t = loss.label_smoothing / (2 if activation == "sigmoid" else 3) + t * (1 - loss.label_smoothing)
    if activation == "softmax":  # the largest logit leads by 1000: log(sum of exp) is that logit
        exact = -(t * (z - z.max(axis=1, keepdims=True))).sum(axis=1)
    else:
        exact = (np.maximum(z, 0) - z * t + np.where(z == 0, np.log(2), 0)).mean(axis=1)
    np.testing.assert_allclose(per_sample, exact, atol=1e-12)
    outputs = 4 if activation == "softmax" else 12
    np.testing.assert_allclose(dz, (p - t) / outputs, atol=1e-15)
    assert np.abs(dz).max() > 0.05


class TenTimes(SparseCategoricalCrossentropy):
    def per_sample(self, y_true, y_pred, ctx=None):
        return 10 * super().per_sample(y_true, y_pred, ctx)

    def gradient(self, y_true, y_pred, ctx=None, batch_size=None):
        return 10 * super().gradient(y_true, y_pred, ctx, batch_size)


class Brier(CategoricalCrossentropy):
    """Has its own gradient by y_pred, and never looks at the logits."""

    def per_sample(self, y_true, y_pred, ctx=None):
        return ((y_pred - y_true) ** 2).sum(axis=-1)

    def gradient(self, y_true, y_pred, ctx=None, batch_size=None):
        return 2 * (y_pred - y_true) / (batch_size or len(y_pred))


@pytest.mark.parametrize(("loss", "y"), [(TenTimes(), LABELS), (Brier(), ONE_HOT)], ids=["ten times", "own"])
def test_the_gradient_of_a_subclass_is_the_one_that_counts(loss, y):
    set_random_seed(0)
    model = Sequential([Input((5,)), Dense(4, activation="tanh"), Dense(3, activation="softmax")])
    model.compile("sgd", loss)
    check_model(model, random((4, 5), 6), y).assert_ok()
    x, before = random((4, 5), 6), model.get_weights()
    trace = model.trace(x, y)
    model.fit(x, y, verbose=0, shuffle=False)
    step = 0.01 * trace["dense_1"].grads["w"]
    np.testing.assert_allclose(model.get_weights()[0], before[0] - step, atol=1e-7)
    assert np.abs(step).max() > 1e-4


def test_wrong_probabilities_of_exactly_0_give_a_finite_loss_as_in_keras():
    """Without logits there is only the guard against log(0)."""
    p = np.array([[1, 0, 0], [1, 0, 0]], np.float32)
    per_sample = CategoricalCrossentropy().per_sample(ONE_HOT[:2], p)
    np.testing.assert_allclose(per_sample, [1.192093e-07, 16.1181], rtol=1e-5)
    per_sample = SparseCategoricalCrossentropy().per_sample(LABELS[:2], p)
    np.testing.assert_allclose(per_sample, [1.192093e-07, 16.1181], rtol=1e-5)
    per_sample = BinaryCrossentropy().per_sample(YES_NO[:1], np.zeros((1, 2), np.float32))
    np.testing.assert_allclose(per_sample, [8.059048], rtol=1e-5)
    assert np.isfinite(CategoricalCrossentropy().gradient(ONE_HOT[:2], p)).all()
    assert np.isfinite(BinaryCrossentropy().gradient(YES_NO[:1], np.zeros((1, 2), np.float32))).all()


# --- One loss, said in several ways -------------------------------------------------------------------------


@pytest.mark.parametrize("from_logits", [False, True])
def test_sparse_equals_categorical(from_logits):
    y_pred = Z if from_logits else softmax(Z)
    sparse, dense = SparseCategoricalCrossentropy(from_logits), CategoricalCrossentropy(from_logits)
    assert_same(sparse.per_sample(LABELS, y_pred), dense.per_sample(ONE_HOT, y_pred))
    assert_same(sparse.gradient(LABELS, y_pred), dense.gradient(ONE_HOT, y_pred))


@pytest.mark.parametrize(
    ("kind", "target", "z", "activation"),
    [(CategoricalCrossentropy, SOFT, Z, softmax), (BinaryCrossentropy, YES_NO, ZB, sigmoid)],
)
def test_from_logits_equals_from_probabilities(kind, target, z, activation):
    for smoothing in (0.0, 0.3):
        from_logits = kind(from_logits=True, label_smoothing=smoothing).per_sample(target, z)
        assert_same(from_logits, kind(label_smoothing=smoothing).per_sample(target, activation(z)), 1e-10)


def test_label_smoothing_spreads_the_target():
    smooth = CategoricalCrossentropy(label_smoothing=0.3).per_sample(ONE_HOT, softmax(Z))
    by_hand = CategoricalCrossentropy().per_sample(ONE_HOT * 0.7 + 0.1, softmax(Z))
    assert_same(smooth, by_hand)
    smooth = BinaryCrossentropy(label_smoothing=0.3).per_sample(YES_NO, sigmoid(ZB))
    assert_same(smooth, BinaryCrossentropy().per_sample(YES_NO * 0.7 + 0.15, sigmoid(ZB)))


# --- Values of Keras ----------------------------------------------------------------------------------------


def sine(shape, frequency, phase, scale):
    i = np.arange(int(np.prod(shape)))
    return (np.sin(frequency * i + phase) * scale).reshape(shape).astype(np.float32)


ZK, ZBK = sine((4, 3), 1.7, 0.3, 3), sine((4, 2), 2.3, 0.1, 4)
KERAS_CASES = {
    "cce": (CategoricalCrossentropy(), ONE_HOT, softmax(ZK)),
    "cce smooth": (CategoricalCrossentropy(label_smoothing=0.1), ONE_HOT, softmax(ZK)),
    "cce soft": (CategoricalCrossentropy(), SOFT, softmax(ZK)),
    "cce logits": (CategoricalCrossentropy(from_logits=True), ONE_HOT, ZK),
    "cce logits smooth": (CategoricalCrossentropy(from_logits=True, label_smoothing=0.2), ONE_HOT, ZK),
    "cce unnormalised": (CategoricalCrossentropy(), ONE_HOT, softmax(ZK) * 2),
    "scce": (SparseCategoricalCrossentropy(), LABELS, softmax(ZK)),
    "scce logits": (SparseCategoricalCrossentropy(from_logits=True), LABELS, ZK),
    "bce": (BinaryCrossentropy(), YES_NO, sigmoid(ZBK)),
    "bce smooth": (BinaryCrossentropy(label_smoothing=0.1), YES_NO, sigmoid(ZBK)),
    "bce logits": (BinaryCrossentropy(from_logits=True), YES_NO, ZBK),
    "mse": (MeanSquaredError(), YES_NO, ZBK),
    "mae": (MeanAbsoluteError(), YES_NO, ZBK),
}

# The loss of each sample, and the gradient of the mean by the predictions.
KERAS = {
    "cce": (
        [1.999993, 0.9390693, 4.012818, 4.097662],
        [-1.59725, 0.25, 0.25, 0.25, 0.25, -0.3894, 0.25, -13.5756, 0.25, 0.25, -14.7999, 0.25],
    ),
    "cce smooth": (
        [2.021151, 1.060432, 3.931942, 3.871945],
        [-1.4741, 0.240234, -0.482399, -1.00185, 0.236165, -0.346773, -1.95279, -12.6539, 0.24148, 0.23191,
         -13.7965, 0.234058],
    ),
    "cce soft": (
        [1.879333, 0.9390693, 2.885854, 1.574132],
        [-1.04308, 0.191403, -1.9472, 0.25, 0.25, -0.3894, -19.5751, -3.89769, 0.147765, -0.0213453, -3.51246,
         0.130433],
    ),
    "cce logits": (
        [1.999993, 0.9390694, 4.012818, 4.097663],
        [-0.216166, 0.213321, 0.00284453, 0.0016642, 0.150588, -0.152252, 0.000945769, -0.245479, 0.244534,
         0.115167, -0.245847, 0.13068],
    ),
    "cce logits smooth": (
        [2.042309, 1.181795, 3.851064, 3.646227],
        [-0.182833, 0.196655, -0.0138221, -0.0150025, 0.133921, -0.118919, -0.0157209, -0.212146, 0.227867,
         0.0985003, -0.212514, 0.114014],
    ),
    "cce unnormalised": (
        [1.999993, 0.9390693, 4.012818, 4.097662],
        [-0.798625, 0.125, 0.125, 0.125, 0.125, -0.1947, 0.125, -6.78781, 0.125, 0.125, -7.39993, 0.125],
    ),
    "scce": (
        [1.999993, 0.9390693, 4.012818, 4.097662],
        [-1.59725, 0.25, 0.25, 0.25, 0.25, -0.3894, 0.25, -13.5756, 0.25, 0.25, -14.7999, 0.25],
    ),
    "scce logits": (
        [1.999993, 0.9390694, 4.012818, 4.097663],
        [-0.216166, 0.213321, 0.00284453, 0.0016642, 0.150588, -0.152252, 0.000945769, -0.245479, 0.244534,
         0.115167, -0.245847, 0.13068],
    ),
    "bce": (
        [1.640031, 1.35792, 1.901373, 2.969366],
        [-0.208846, 1.98842, 0.12729, 1.85566, -0.200982, -3.48477, 6.22683, -0.952163],
    ),
    "bce smooth": (
        [1.582468, 1.392213, 1.831535, 2.824923],
        [-0.182836, 1.88233, -0.226458, 1.75618, -0.174401, -3.30405, 5.90911, -0.89736],
    ),
    "bce logits": (
        [1.640031, 1.35792, 1.901373, 2.969366],
        [-0.0501841, 0.117142, 0.00224895, 0.11658, -0.0472567, -0.120516, 0.122491, -0.10859],
    ),
    "mse": (
        [3.830405, 11.45182, 9.333782, 11.73354],
        [-0.150167, 0.675463, -0.999923, 0.656987, -0.125546, -1.07283, 0.972008, -0.722422],
    ),
    "mae": (
        [1.65126, 3.31382, 2.396748, 3.388859],
        [-0.125, 0.125, -0.125, 0.125, -0.125, -0.125, 0.125, -0.125],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", KERAS)
def test_values_of_keras(case):
    loss, y_true, y_pred = KERAS_CASES[case]
    per_sample, gradient = KERAS[case]
    y_true = prepare_targets(loss, y_true, y_pred)
    np.testing.assert_allclose(loss.per_sample(y_true, y_pred), per_sample, rtol=5e-6)
    np.testing.assert_allclose(loss.gradient(y_true, y_pred).ravel(), gradient, rtol=2e-5, atol=1e-6)


# --- By name, and what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("mse", MeanSquaredError),
        ("mean_squared_error", MeanSquaredError),
        ("mae", MeanAbsoluteError),
        ("mean_absolute_error", MeanAbsoluteError),
        ("categorical_crossentropy", CategoricalCrossentropy),
        ("sparse_categorical_crossentropy", SparseCategoricalCrossentropy),
        ("binary_crossentropy", BinaryCrossentropy),
        ("BinaryCrossentropy", BinaryCrossentropy),
    ],
)
def test_names(name, kind):
    assert type(losses.get(name)) is kind


@ids
def test_config_round_trip(case):
    loss, y_true, y_pred = CASES[case]
    twin = losses.get({"class_name": type(loss).__name__, "config": loss.get_config()})
    assert twin(y_true, y_pred) == loss(y_true, y_pred)


def test_an_unknown_name_offers_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean 'categorical_crossentropy'"):
        losses.get("categorical_crosentropy")


@pytest.mark.parametrize(
    ("loss", "y", "output_shape", "problem"),
    [
        (SparseCategoricalCrossentropy(), ONE_HOT, (3,), "one-hot rows"),
        (SparseCategoricalCrossentropy(), LABELS, (2,), "from 0 to 2"),
        (SparseCategoricalCrossentropy(), LABELS - 1, (3,), "from -1 to 1"),
        (SparseCategoricalCrossentropy(), LABELS + 0.5, (3,), "dtype float64"),
        (CategoricalCrossentropy(), LABELS, (3,), "class numbers of shape"),
        (CategoricalCrossentropy(), np.ones((4, 1)), (1,), "always 1"),
        (MeanSquaredError(), YES_NO, (3,), "not that of the model's output"),
    ],
)
def test_targets_that_do_not_fit_are_said(loss, y, output_shape, problem):
    with pytest.raises(InputError, match=problem):
        check_targets(loss, y, output_shape)


@ids
def test_targets_that_fit_pass(case):
    loss, y_true, y_pred = CASES[case]
    check_targets(loss, y_true, y_pred.shape[1:])


# --- Positions, weights, reductions in training --------------------------------------------------------------


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("from_logits", [False, True])
def test_the_loss_of_pixels_is_their_mean(sparse, from_logits):
    """It was the sum over the pixels, in fit and in evaluate; the loss object alone had the mean. Numbers: Keras."""
    x = np.random.default_rng(0).random((4, 8, 8, 1)).astype("f")
    y = (x <= 0.5).astype(int) if sparse else np.concatenate([x > 0.5, x <= 0.5], -1).astype("f")
    activation = None if from_logits else "softmax"
    model = Sequential([Input((8, 8, 1)), Conv2D(2, 1, activation=activation, kernel_initializer="zeros")])
    loss = (SparseCategoricalCrossentropy if sparse else CategoricalCrossentropy)(from_logits=from_logits)
    model.compile(SGD(0.1), loss, metrics=["accuracy"])
    assert model.evaluate(x, y, verbose=0)[0] == pytest.approx(np.log(2), rel=1e-6)
    assert model.trace(x, y).loss == pytest.approx(np.log(2), rel=1e-6)
    model.fit(x, y, batch_size=4, verbose=0, shuffle=False)
    np.testing.assert_allclose(model.get_weights()[1], [0.0046875, -0.0046875], rtol=1e-5)


def trained(loss, y, **fit):
    set_random_seed(0)
    model = Sequential([Input((5,)), Dense(4, activation="tanh"), Dense(3, activation="softmax")])
    model.compile(SGD(0.1), loss)
    history = model.fit(random((4, 5), 6), y, batch_size=4, shuffle=False, verbose=0, epochs=2, **fit)
    return model.get_weights(), history.history["loss"], model.evaluate(random((4, 5), 6), y, verbose=0)


def test_the_sum_is_trained_as_four_times_the_mean_of_four():
    class Quadruple(CategoricalCrossentropy):
        def per_sample(self, y_true, y_pred, ctx=None):
            return 4 * super().per_sample(y_true, y_pred, ctx)

        def gradient(self, y_true, y_pred, ctx=None, batch_size=None):
            return 4 * super().gradient(y_true, y_pred, ctx, batch_size)

    one, other = (trained(loss, ONE_HOT) for loss in (CategoricalCrossentropy(reduction="sum"), Quadruple()))
    for a, b in zip([*one[0], *one[1:]], [*other[0], *other[1:]], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_a_class_that_is_ignored_teaches_nothing():
    ignored = np.array([7, 2, 1, 7])
    weights, losses_, _ = trained(SparseCategoricalCrossentropy(ignore_class=7), ignored)
    known = np.array([1, 2])
    set_random_seed(0)
    model = Sequential([Input((5,)), Dense(4, activation="tanh"), Dense(3, activation="softmax")])
    model.compile(SGD(0.1), SparseCategoricalCrossentropy())
    history = model.fit(random((4, 5), 6)[known], ignored[known], shuffle=False, verbose=0, epochs=2)
    np.testing.assert_allclose(losses_, history.history["loss"], rtol=1e-5)
    for one, other in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    assert SparseCategoricalCrossentropy(ignore_class=7)(np.array([7, 7]), softmax(Z[:2])) == 0


def test_dice_of_a_batch_is_never_cut_into_shards():
    x, y = random((256, 8, 8, 3), 1).astype("f"), (random((256, 8, 8, 1), 2) > 0).astype("f")
    results = []
    for threads in (1, 2):
        set_random_seed(0)
        layers = [Conv2D(8, 3, padding="same"), Conv2D(1, 3, padding="same", activation="sigmoid")]
        model = Sequential([Input((8, 8, 3)), *layers])
        model.compile(SGD(0.1), Dice())
        before = get_num_threads()
        set_num_threads(threads)
        try:
            model.fit(x, y, batch_size=256, verbose=0, shuffle=False)
            results.append([*model.get_weights(), model.evaluate(x, y, batch_size=256, verbose=0)])
        finally:
            set_num_threads(before)
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    assert results[0][-1] == pytest.approx(Dice()(y, model.predict(x, verbose=0)), rel=1e-5)


def test_a_plain_function_is_refused_with_the_way_out():
    def my_loss(y_true, y_pred):
        return (y_true - y_pred) ** 2

    with pytest.raises(InputError, match=r"class MyLoss\(minicnn.losses.Loss\)[\s\S]*check_loss"):
        losses.get(my_loss)
    with pytest.raises(InputError, match="no gradient"):
        losses.get(lambda a, b: a)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: MeanSquaredError()(None, Z), "y_true: these are no numbers"),
        (lambda: MeanSquaredError()("a", Z), "y_true: these are no numbers"),
        (lambda: MeanSquaredError()(Z, [["a"]]), "y_pred: these are no numbers"),
        (lambda: MeanSquaredError()(Z[:2], Z), "do not fit the predictions"),
        (lambda: SparseCategoricalCrossentropy()(ONE_HOT, softmax(Z)), "do not fit the predictions"),
        (lambda: MeanSquaredError()(Z, Z, sample_weight=[1.0, 2.0]), "not one for each sample"),
        (lambda: MeanSquaredError()(Z, Z, sample_weight="a"), "sample_weight: these are no numbers"),
        (lambda: Dice()(Z, Z, sample_weight=np.ones(4)), "axis="),
        (lambda: trained(CategoricalCrossentropy(reduction=None), ONE_HOT), "not reduced"),
    ],
)
def test_calls_that_cannot_be(call, text):
    with pytest.raises(InputError, match=text):
        call()


def test_one_hot_with_binary_crossentropy_over_softmax_is_warned_of():
    """"accuracy" was 0.9 where 9 % of the classes were right, and nothing said why."""
    with pytest.warns(UserWarning, match="makes one choice of all"):
        trained(BinaryCrossentropy(), ONE_HOT)


@ids
def test_check_loss_passes(case):
    check_own_loss(*CASES[case]).assert_ok()


def test_check_loss_finds_a_wrong_gradient():
    """A negative control: the 2 of the square was forgotten."""

    class Forgotten(Loss):
        def values(self, y_true, y_pred, ctx=None):
            return ((y_pred - y_true) ** 2).mean(axis=-1)

        def gradient(self, y_true, y_pred, ctx=None, batch_size=None):
            return (y_pred - y_true) / ((batch_size or len(y_pred)) * y_pred.shape[-1])

    report = check_own_loss(Forgotten(), YES_NO, ZB)
    assert not report.ok and "Forgotten" in str(report)
    with pytest.raises(InputError, match="this is no loss"):
        check_own_loss("mse", YES_NO, ZB)


class Matrix(np.ndarray):
    """As np.matrix, which warns where it is made: always two axes."""

    def reshape(self, *shape, **options):
        return super().reshape(*shape, **options)[..., None]


@pytest.mark.parametrize(
    ("y", "text"),
    [
        (LABELS[:, None].view(Matrix), None), (LABELS.astype(object), None), (LABELS[:, None].astype(object), None),
        (np.array(["cat", "dog", "cat", "cow"], dtype=object), "np.unique"), (np.array([0, None, 1, 1]), "missing"),
        (np.ma.masked_equal(LABELS, 2), "masked"), (np.ma.masked_equal(LABELS, 7), None),
    ],
)  # fmt: skip
def test_labels_as_people_have_them(y, text):
    """np.matrix ended in a raw ValueError; of a column of a table the advice was to stack images of one size."""
    if text is None:
        weights, found, _ = trained(SparseCategoricalCrossentropy(), y)
        assert found == trained(SparseCategoricalCrossentropy(), LABELS)[1]
    else:
        with pytest.raises(InputError, match=text):
            trained(SparseCategoricalCrossentropy(), y)


@pytest.mark.parametrize("name", [n for n in losses.__all__ if n.islower() and n != "get"])
def test_each_loss_is_a_function_too(name):
    function = getattr(losses, name)
    kind = function.loss
    y_pred, y_true = softmax(Z), LABELS if kind.sparse else ONE_HOT
    values, loss = function(y_true, y_pred), losses.get(function)
    assert type(loss) is kind and type(losses.get(name)) is kind
    assert np.mean(values) == pytest.approx(loss(y_true, y_pred))
    assert np.shape(values) == (() if kind is Dice else (4,))
    if kind is CategoricalCrossentropy:
        smooth = function(y_true, Z, from_logits=True, label_smoothing=0.1)
        assert np.mean(smooth) == pytest.approx(kind(True, 0.1)(y_true, Z))
        assert trained(function, y_true)[1] == trained(kind(), y_true)[1]
