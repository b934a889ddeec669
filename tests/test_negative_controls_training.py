"""Bugs of training code, each written down once, and the proof that our checks reject it.

As in test_negative_controls.py: every entry runs one check twice, with the right object and with the broken one.
"""

from __future__ import annotations

import numpy as np
import pytest
from helpers import random
from test_losses import ONE_HOT, check_loss, softmax
from test_optimizers import KERAS, check_trajectory

from minicnn.gradcheck import GradientCheckError, check_layer, check_model
from minicnn.kernels import dropout_forward, dropout_mask
from minicnn.layers import (
    ELU,
    BatchNormalization,
    Context,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    Input,
    MaxPooling2D,
    ReLU,
    Softmax,
)
from minicnn.losses import CategoricalCrossentropy, MeanAbsoluteError, MeanSquaredError
from minicnn.models import Sequential
from minicnn.optimizers import SGD, Adam
from minicnn.training.data import ArrayBatches
from minicnn.utils import set_random_seed

# --- Losses -------------------------------------------------------------------------------------------------


class WrongSignedMeanAbsoluteError(MeanAbsoluteError):
    def gradient(self, y_true, y_pred, ctx=None, batch_size=None):
        return -super().gradient(y_true, y_pred, ctx, batch_size)


def with_mean(kind, times):
    """The loss `kind`, whose gradient takes the mean over the batch `times` times instead of once."""

    class Broken(kind):
        def gradient(self, y_true, y_pred, ctx=None, batch_size=None):
            n = batch_size or len(y_pred)
            return super().gradient(y_true, y_pred, ctx, batch_size) * n / n**times

    return Broken()


def check_regression(loss):
    check_loss(loss, random((4, 3), 1), random((4, 3), 2))


def check_classification(loss):
    check_loss(loss, ONE_HOT, softmax(random((4, 3), 3)))


def check_model_with(loss):
    """The loss inside a model, fused with its softmax."""
    set_random_seed(1)
    model = Sequential([Input((5,)), Dense(4, activation="tanh"), Dense(3, activation="softmax")])
    model.compile("sgd", loss)
    check_model(model, random((4, 5), 4), ONE_HOT).assert_ok()


# --- Optimizers ---------------------------------------------------------------------------------------------


class AdamThatWritesTheCorrectedMomentBack(Adam):
    def update(self, p, g, slots, lr):
        m, v = slots
        t = self.iterations
        m += (g - m) * (1 - self.beta_1)
        v += (g * g - v) * (1 - self.beta_2)
        m /= 1 - self.beta_1**t
        v /= 1 - self.beta_2**t
        p -= lr * m / (np.sqrt(v) + self.epsilon)


class AdamWithoutCorrection(Adam):
    def update(self, p, g, slots, lr):
        m, v = slots
        m += (g - m) * (1 - self.beta_1)
        v += (g * g - v) * (1 - self.beta_2)
        p -= lr * m / (np.sqrt(v) + self.epsilon)


class SgdThatKeepsTheFirstShardOnly(SGD):
    def apply(self, params, grads, workers=None):
        super().apply(params, {key: shares[:1] for key, shares in grads.items()}, workers)


def check_adam(optimizer):
    check_trajectory(optimizer, KERAS["adam"])


def check_two_shards(optimizer):
    """Two halves of a gradient count as the whole."""
    p = np.zeros(3)
    optimizer.apply({("layer", "w"): p}, {("layer", "w"): [np.ones(3), 2 * np.ones(3)]})
    np.testing.assert_allclose(p, -0.3 * np.ones(3))


# --- Batches ------------------------------------------------------------------------------------------------


class ShufflesBatchesOnly(ArrayBatches):
    """The batches come in another order, but the same samples meet for ever."""

    def __iter__(self):
        for k in self.rng.permutation(len(self)):
            chosen = slice(k * self.batch_size, min((k + 1) * self.batch_size, self.samples))
            yield self.arrays[0][chosen], self.arrays[1][chosen]


class ShufflesOnce(ArrayBatches):
    """The samples are shuffled, in the same way in every epoch."""

    def __iter__(self):
        self.rng = np.random.default_rng(0)
        return super().__iter__()


class ShufflesWithoutTheLabels(ArrayBatches):
    def __iter__(self):
        order = self.rng.permutation(len(self.arrays[0]))
        for start in range(0, self.samples, self.batch_size):
            batch = slice(start, start + self.batch_size)
            yield self.arrays[0][order[batch]], self.arrays[1][batch]


class DrawsWithReplacement(ArrayBatches):
    def __iter__(self):
        for _ in range(len(self)):
            chosen = self.rng.integers(0, len(self.arrays[0]), self.batch_size)
            yield self.arrays[0][chosen], self.arrays[1][chosen]


def check_shuffling(kind):
    """Every epoch shows each sample once, with its own label; and which samples meet in a batch changes."""
    x, y = np.arange(24), np.arange(24) * 10
    batches = kind(x, y, batch_size=4, shuffle=True, rng=np.random.default_rng(7))
    companies = []
    for _ in range(3):
        epoch = list(batches)
        for x_batch, y_batch in epoch:
            np.testing.assert_array_equal(y_batch, x_batch * 10, err_msg="labels of other samples")
        seen = np.sort(np.concatenate([x_batch for x_batch, _ in epoch]))
        np.testing.assert_array_equal(seen, x, err_msg="not each sample once")
        companies.append({frozenset(x_batch.tolist()) for x_batch, _ in epoch})
    in_order = {frozenset(range(start, start + 4)) for start in range(0, 24, 4)}
    assert companies[0] != in_order, "the same samples meet as without shuffling"
    assert companies[0] != companies[1] != companies[2], "the same samples meet in every epoch"


def test_without_shuffling_the_order_stays():
    batches = list(ArrayBatches(np.arange(10), np.arange(10), 4))
    assert [x.tolist() for x, _ in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


# --- Layers -------------------------------------------------------------------------------------------------


class ReluInFloat64(ReLU):
    """An array of float64 constants is enough to make everything after it float64."""

    def forward(self, x, ctx):
        return super().forward(x, ctx) * np.ones(1)


class DenseWithGradientInFloat64(Dense):
    def backward(self, dy, ctx):
        dx = super().backward(dy, ctx)
        ctx.grads["b"] = ctx.grads["b"].astype(np.float64)
        return dx


class ReluThatWritesIntoDy(ReLU):
    def backward(self, dy, ctx):
        dy *= ctx.saved > 0
        return dy


class ReluThatWritesIntoItsInput(ReLU):
    def forward(self, x, ctx):
        ctx.saved = np.maximum(x, 0, out=x)
        return x


class BatchNormalizationThatReusesItsInput(BatchNormalization):
    """The backward pass needs x, but centres it in place first: the layer before has lost its output."""

    def backward(self, dy, ctx):
        dx = super().backward(dy, ctx)
        ctx.x -= ctx.mean
        return dx


class ConvWithWrongDx(Conv2D):
    """The kernel is not turned by 180 degrees: dw and db are right, and so a first layer alone would learn."""

    def backward(self, dy, ctx):
        super().backward(dy, ctx)
        grads, w = ctx.grads, self.params["w"]
        self.params["w"] = np.ascontiguousarray(w[::-1, ::-1])
        dx = super().backward(dy, ctx)
        self.params["w"], ctx.grads = w, grads
        return dx


class DenseWithWrongDw(Dense):
    """The activation's derivative is missing from dw and db, but not from dx."""

    def backward(self, dy, ctx):
        dx = super().backward(dy, ctx)
        ctx.grads = {"w": ctx.x.T @ dy, "b": dy.sum(axis=0)}
        return dx


class BatchNormalizationWithConstantStatistics(BatchNormalization):
    """The paths through mean and variance are missing."""

    def backward(self, dy, ctx):
        ctx.of_batch = False
        return super().backward(dy, ctx)


class DropoutWithoutScaleBackward(Dropout):
    def backward(self, dy, ctx):
        return dy * ctx.mask


class DropoutWithANewMaskBackward(Dropout):
    def backward(self, dy, ctx):
        return dropout_forward(dy, dropout_mask(dy.shape, self.rate, ctx.seed + 1), self.rate)


class MaxPoolingToTheFirstPixel(MaxPooling2D):
    def backward(self, dy, ctx):
        ctx.winner = np.zeros_like(ctx.winner)
        return super().backward(dy, ctx)


class SoftmaxWithDiagonalJacobian(Softmax):
    def backward(self, dy, ctx):
        return dy * ctx.saved * (1 - ctx.saved)


class EluByPrecedence(ELU):
    def backward(self, dy, ctx):
        return np.where(ctx.saved > 0, dy, dy * ctx.saved + self.alpha)


def gradients(**arguments):
    """Checks a layer's gradients in training."""
    x = arguments.pop("x", (4, 5, 2))

    def check(kind):
        check_layer(kind(**arguments), x).assert_ok()

    return check


class DropoutAtTestTimeToo(Dropout):
    def forward(self, x, ctx):
        ctx.training = True
        return super().forward(x, ctx)


class DropoutScaledAtTestTimeToo(Dropout):
    def forward(self, x, ctx):
        y = super().forward(x, ctx)
        return y if ctx.training else y * (1 - self.rate)


class DropoutWithoutScale(Dropout):
    def forward(self, x, ctx):
        y = super().forward(x, ctx)
        return y * (1 - self.rate) if ctx.training else y


def check_dropout_layer(kind):
    """In evaluation nothing happens; in training the expected value is the same."""
    layer, x = kind(0.25), np.ones((200, 100))
    np.testing.assert_array_equal(layer.forward(x, Context(False, seed=1)), x, err_msg="in evaluation")
    y = layer.forward(x, Context(True, seed=1))
    assert abs((y == 0).mean() - 0.25) < 0.02, "in training: another share is dropped"
    assert abs(y.mean() - 1) < 0.02, "in training: another mean"


class BatchNormalizationOfTheBatchAtTestTime(BatchNormalization):
    def forward(self, x, ctx):
        ctx.training = True
        return super().forward(x, ctx)


def check_one_sample_does_not_depend_on_the_others(kind):
    """In evaluation."""
    layer, x = kind(), random((5, 3), 5)
    layer.build((3,), np.random.default_rng(0))
    whole = layer.forward(x, Context(False))
    np.testing.assert_allclose(layer.forward(x[:1], Context(False)), whole[:1], err_msg="alone")


# --- Inside a model -----------------------------------------------------------------------------------------


def check_model_of(kind):
    """The layer between others: a wrong dx spoils the gradients of all layers before it."""
    set_random_seed(1)
    model = Sequential(
        [Input((6, 6, 2)), Conv2D(3, 3, activation="tanh"), kind(4, 3), Flatten(), Dense(3, activation="softmax")]
    )
    model.compile("sgd", "categorical_crossentropy")
    check_model(model, random((4, 6, 6, 2), 6), ONE_HOT).assert_ok()


# The check, what is right, what is broken, and what the check then says.
CONTROLS = {
    "MAE gradient with the wrong sign": (
        check_regression,
        MeanAbsoluteError(),
        WrongSignedMeanAbsoluteError(),
        "dy_pred",
    ),
    "batch mean missing, MSE": (check_regression, MeanSquaredError(), with_mean(MeanSquaredError, 0), "dy_pred"),
    "batch mean twice, MSE": (check_regression, MeanSquaredError(), with_mean(MeanSquaredError, 2), "dy_pred"),
    "batch mean missing, cross-entropy": (
        check_classification,
        CategoricalCrossentropy(),
        with_mean(CategoricalCrossentropy, 0),
        "dy_pred",
    ),
    "batch mean twice, in a model": (
        check_model_with,
        MeanSquaredError(),
        with_mean(MeanSquaredError, 2),
        "NOT OK: dense_1/dw, dense_1/db, dense_2/dw, dense_2/db",
    ),
    "Adam that writes the corrected moment back": (
        check_adam,
        Adam(0.1),
        AdamThatWritesTheCorrectedMomentBack(0.1),
        "Not equal",
    ),
    "Adam without correction": (check_adam, Adam(0.1), AdamWithoutCorrection(0.1), "Not equal"),
    "only the first shard's gradient": (check_two_shards, SGD(0.1), SgdThatKeepsTheFirstShardOnly(0.1), "Not equal"),
    "batches shuffled, but not samples": (check_shuffling, ArrayBatches, ShufflesBatchesOnly, "as without shuffling"),
    "shuffled once for all epochs": (check_shuffling, ArrayBatches, ShufflesOnce, "in every epoch"),
    "samples shuffled, but not labels": (check_shuffling, ArrayBatches, ShufflesWithoutTheLabels, "labels of other"),
    "drawn with replacement": (check_shuffling, ArrayBatches, DrawsWithReplacement, "each sample once"),
    "float64 in the output": (gradients(), ReLU, ReluInFloat64, "y is float64 where all inputs are float32"),
    "float64 in a gradient": (gradients(units=3, x=(4,)), Dense, DenseWithGradientInFloat64, "db is float64"),
    "dy changed in place": (gradients(), ReLU, ReluThatWritesIntoDy, "backward writes to dy"),
    "x changed in place": (gradients(), ReLU, ReluThatWritesIntoItsInput, "forward writes to x"),
    "x changed in place in the backward pass": (
        gradients(),
        BatchNormalization,
        BatchNormalizationThatReusesItsInput,
        "backward writes to x",
    ),
    "dx wrong and dw right": (gradients(filters=2, kernel_size=3), Conv2D, ConvWithWrongDx, "NOT OK: dx "),
    "dx wrong and dw right, in a model": (check_model_of, Conv2D, ConvWithWrongDx, "NOT OK: conv2d_1/dw, conv2d_1/db "),
    "dw wrong and dx right": (
        gradients(units=3, activation="tanh", x=(4,)),
        Dense,
        DenseWithWrongDw,
        "NOT OK: dw, db ",
    ),
    "batch norm without mean and variance": (
        gradients(),
        BatchNormalization,
        BatchNormalizationWithConstantStatistics,
        "NOT OK: dx ",
    ),
    "batch statistics in evaluation": (
        check_one_sample_does_not_depend_on_the_others,
        BatchNormalization,
        BatchNormalizationOfTheBatchAtTestTime,
        "alone",
    ),
    "dropout active at test time": (check_dropout_layer, Dropout, DropoutAtTestTimeToo, "in evaluation"),
    "dropout scaled at test time too": (check_dropout_layer, Dropout, DropoutScaledAtTestTimeToo, "in evaluation"),
    "dropout never scaled": (check_dropout_layer, Dropout, DropoutWithoutScale, "another mean"),
    "dropout not scaled backward": (gradients(rate=0.5), Dropout, DropoutWithoutScaleBackward, "NOT OK: dx "),
    "another dropout mask backward": (gradients(rate=0.5), Dropout, DropoutWithANewMaskBackward, "NOT OK: dx "),
    "max pooling to the first pixel": (gradients(), MaxPooling2D, MaxPoolingToTheFirstPixel, "NOT OK: dx "),
    "softmax Jacobian taken as diagonal": (gradients(), Softmax, SoftmaxWithDiagonalJacobian, "NOT OK: dx "),
    "ELU derivative by operator precedence": (gradients(alpha=0.5), ELU, EluByPrecedence, "NOT OK: dx "),
}


@pytest.mark.parametrize("bug", CONTROLS)
def test_the_check_accepts_what_is_right_and_rejects_what_is_broken(bug):
    check, right, broken, said = CONTROLS[bug]
    check(right)
    with pytest.raises(AssertionError, match=said):
        check(broken)


class BatchNormalizationThatReturnsZeros(BatchNormalization):
    def backward(self, dy, ctx):
        return super().backward(dy, ctx) * 0


@pytest.mark.parametrize("kind", [BatchNormalization, BatchNormalizationThatReturnsZeros])
def test_a_check_that_both_would_pass_is_refused(kind):
    """With a dy of ones the right dx is 0, too: that comparison would prove nothing."""
    with pytest.raises(GradientCheckError, match="random dy"):
        check_layer(kind(), (3,), dy=np.ones((4, 3)))
    assert check_layer(kind(), (3,)).ok == (kind is BatchNormalization)
