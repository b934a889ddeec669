"""The gradient check's hints: each names the bug that it was made for, and stays silent about the others."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import random
from test_losses import ONE_HOT
from test_negative_controls import (
    batchnorm_backward_without_mean,
    batchnorm_backward_without_variance,
    col2im_that_overwrites,
    conv2d_backward_unflipped,
    cross_entropy_backward_divided_by,
    elu_backward_by_precedence,
    maxpool2d_backward_without_padding,
    softmax_backward_diagonal,
)
from test_negative_controls_training import (
    ConvWithWrongDx,
    DenseWithWrongDw,
    DropoutWithANewMaskBackward,
    DropoutWithoutScaleBackward,
    MaxPoolingToTheFirstPixel,
    WrongSignedMeanAbsoluteError,
    with_mean,
)

from minicnn import kernels
from minicnn.gradcheck import check_function, check_layer, check_model
from minicnn.layers import AveragePooling2D, Conv2D, Dense, Dropout, Input
from minicnn.losses import MeanSquaredError
from minicnn.models import Sequential
from minicnn.utils import set_random_seed

IMAGES = random((2, 6, 7, 3), 1)


def sine(x):
    return np.sin(x)


def tanh(x):
    return np.tanh(x)


def unturned(dy, x, w):
    return conv2d_backward_unflipped(dy, x, w, 1, "same")[:2]


def of_loss(loss, y_pred=None):
    y_pred = random((4, 3), 1) if y_pred is None else y_pred
    target = ONE_HOT
    return check_function(
        lambda y_pred: np.array([loss.per_sample(target, y_pred).mean()]),
        lambda dy, y_pred: loss.gradient(target, y_pred) * dy,
        {"y_pred": y_pred},
    )


def conv_layer(kind, **config):
    return check_layer(kind(4, 3, **config), IMAGES)


# --- The bugs, and a word of the hint that names each -------------------------------------------------------


class NegatedDense(Dense):
    def backward(self, dy, ctx):
        return -super().backward(dy, ctx)


class DropoutScaledTwice(Dropout):
    def backward(self, dy, ctx):
        return super().backward(dy, ctx) / (1 - self.rate)


class DenseThatTakesTheMean(Dense):
    """The mean over the batch belongs to the loss."""

    def backward(self, dy, ctx):
        dx = super().backward(dy, ctx)
        ctx.grads["w"] /= len(dy)
        return dx


class DenseOfTheLastSample(Dense):
    """dw = in a loop over the samples."""

    def backward(self, dy, ctx):
        dx = super().backward(dy, ctx)
        ctx.grads["w"] = np.outer(ctx.x[-1], dy[-1])
        return dx


class DenseTransposed(Dense):
    def backward(self, dy, ctx):
        dx = super().backward(dy, ctx)
        ctx.grads["w"] = np.ascontiguousarray(ctx.grads["w"].T)
        return dx


class DenseThroughItsTranspose(Dense):
    """dx = dy @ w; units and inputs happen to be as many."""

    def backward(self, dy, ctx):
        super().backward(dy, ctx)
        return dy @ self.params["w"]


class ConvWithTurnedDw(Conv2D):
    def backward(self, dy, ctx):
        dx = super().backward(dy, ctx)
        ctx.grads["w"] = np.ascontiguousarray(ctx.grads["w"][::-1, ::-1])
        return dx


class AveragePoolingThatCountsThePadding(AveragePooling2D):
    """The forward pass divides by the pixels in the window, the backward pass by all cells."""

    def backward(self, dy, ctx):
        grown = np.ones((1, *dy.shape[1:3], 1))
        pixels = kernels.avgpool2d_backward(grown, (1, *IMAGES.shape[1:3], 1), 3, 1, "same")
        assert pixels.sum() == pytest.approx(grown.size)
        full = np.zeros_like(super().backward(dy, ctx))
        padded = np.pad(dy, ((0, 0), (1, 1), (1, 1), (0, 0)))
        for i in range(3):
            for j in range(3):
                full += padded[:, i : i + full.shape[1], j : j + full.shape[2]] / 9
        return full.astype(dy.dtype)


def conv_with_edges(dy, x, w):
    """The border is padded with copies of the edge instead of 0 where dw is computed."""
    dx, _, _ = kernels.conv2d_backward(dy, x, w, 1, "same")
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    return dx, kernels.conv2d_backward(dy, padded, w, 1, "valid")[1]


def of_conv(backward, shape=(3, 3, 3, 4)):
    return check_function(
        lambda x, w: kernels.conv2d_forward(x, w, None, 1, "same"), backward, {"x": IMAGES, "w": random(shape, 2)}
    )


def of_im2col(col2im, size, stride):
    geometry = {"kernel_size": size, "stride": stride}
    return check_function(
        lambda x: kernels.im2col(x, **geometry), lambda dy, x: col2im(dy, x.shape, **geometry), {"x": IMAGES}
    )


def averaged(cols, shape, **geometry):
    windows = kernels.col2im(np.ones_like(cols), shape, **geometry)
    return kernels.col2im(cols, shape, **geometry) / np.maximum(windows, 1)


def maxpool_that_overwrites(dy, winner, shape):
    """dx[winner] = dy, where several windows of 3×3 may have the same winner."""
    dx = np.zeros(shape, dy.dtype)
    for n, h, w, c in np.ndindex(dy.shape):
        i, j = divmod(int(winner[n, h, w, c]), 3)
        dx[n, h + i, w + j, c] = dy[n, h, w, c]
    return dx


def of_maxpool(backward, size, stride, padding):
    def forward(x):
        return kernels.maxpool2d_forward(x, size, stride, padding)[0]

    def gradient(dy, x):
        winner = kernels.maxpool2d_forward(x, size, stride, padding)[1]
        return backward(dy, winner, x.shape)

    return check_function(forward, gradient, {"x": IMAGES})


def tanh_in_float32(x):
    return np.tanh(x.astype(np.float32)).astype(x.dtype)


def tanh_backward_in_float32(dy, x):
    y = np.tanh(x.astype(np.float32))
    return kernels.tanh_backward(dy.astype(np.float32), y).astype(dy.dtype)


def of_cross_entropy(backward):
    labels = np.array([0, 2, 1, 1])
    return check_function(
        lambda logits: kernels.softmax_cross_entropy_forward(logits, labels).mean(keepdims=True),
        lambda dy, logits: backward(logits, labels) * dy,
        {"logits": random((4, 3), 3)},
    )


def of_dropout_kernel():
    mask = kernels.dropout_mask((5, 6), 0.3, seed=1)
    inputs = {"x": random((5, 6), 4), "mask": mask, "rate": 0.3}
    return check_function(kernels.dropout_forward, lambda dy, x, mask, rate: dy * mask, inputs)


def of_model(*layers, loss="mse"):
    set_random_seed(2)
    model = Sequential([Input((5,)), *layers, Dense(3, activation="softmax", name="last")])
    model.compile("sgd", loss)
    return check_model(model, random((4, 5), 5), ONE_HOT)


HINTS = {
    "batch mean missing, MSE": (
        lambda: of_loss(with_mean(MeanSquaredError, 0)), "dy_pred", "a division by N, is missing",
    ),
    "batch mean twice, MSE": (lambda: of_loss(with_mean(MeanSquaredError, 2)), "dy_pred", "is taken twice"),
    "batch mean missing, cross-entropy": (
        lambda: of_cross_entropy(cross_entropy_backward_divided_by(0)), "dlogits", "a division by N, is missing",
    ),
    "batch mean twice, cross-entropy": (
        lambda: of_cross_entropy(cross_entropy_backward_divided_by(2)), "dlogits", "is taken twice",
    ),
    "batch mean twice, in a model": (
        lambda: of_model(Dense(4), loss=with_mean(MeanSquaredError, 2)), "dense_1/dw", "is taken twice",
    ),
    "a layer that takes the mean": (
        lambda: check_layer(DenseThatTakesTheMean(3), (5,)), "dw", "is taken twice",
    ),
    "dropout not scaled back": (
        lambda: check_layer(DropoutWithoutScaleBackward(0.4), (5, 3)), "dx", "(1 - rate) is missing",
    ),
    "dropout not scaled back, kernel": (of_dropout_kernel, "dx", "(1 - rate) is missing"),
    "dropout not scaled back, in a model": (
        lambda: of_model(Dense(8), DropoutWithoutScaleBackward(0.4)), "dense_1/dw", "(1 - rate) is missing",
    ),
    "dropout scaled twice": (lambda: check_layer(DropoutScaledTwice(0.4), (5, 3)), "dx", "is applied twice"),
    "sign, MAE": (lambda: of_loss(WrongSignedMeanAbsoluteError()), "dy_pred", "wrong sign"),
    "sign, dx of a layer": (lambda: check_layer(NegatedDense(3), (5,)), "dx", "wrong sign"),
    "another constant": (
        lambda: check_function(lambda x: x * x, lambda dy, x: dy * x, {"x": random((3, 4))}), "dx", "is 0.5 times",
    ),
    "average pooling counts the padding": (
        lambda: check_layer(AveragePoolingThatCountsThePadding(3, 1, "same"), IMAGES), "dx", "pixels inside are right",
    ),
    "another padding for dw": (lambda: of_conv(conv_with_edges), "dw", "weights inside are right"),
    "max pooling ignores the padding": (
        lambda: of_maxpool(
            lambda dy, winner, shape: maxpool2d_backward_without_padding(dy, winner, shape, 3, 2, "same"), 3, 2, "same"
        ), "dx", "counted with the padding",
    ),
    "col2im overwrites, stride 1": (lambda: of_im2col(col2im_that_overwrites, 3, 1), "dx", "overlap: each"),
    "col2im overwrites, stride 2": (lambda: of_im2col(col2im_that_overwrites, 3, 2), "dx", "overlap: each"),
    "shares averaged": (lambda: of_im2col(averaged, 3, 2), "dx", "where windows overlap: their"),
    "max pooling overwrites": (lambda: of_maxpool(maxpool_that_overwrites, 3, 1, "valid"), "dx", "overlap: each"),
    "only the last sample": (lambda: check_layer(DenseOfTheLastSample(3), (5,)), "dw", "of one sample alone"),
    "kernel not turned": (lambda: of_conv(unturned), "dx", "if w had its first two axes"),
    "kernel not turned, layer": (
        lambda: conv_layer(ConvWithWrongDx, padding="same"), "dx", "if w had its first two axes",
    ),
    "dw turned": (lambda: conv_layer(ConvWithTurnedDw), "dw", "right with its first two axes reversed"),
    "dw transposed": (lambda: check_layer(DenseTransposed(5), (5,)), "dw", "right with axes 0 and 1 swapped"),
    "dx through the transpose": (
        lambda: check_layer(DenseThroughItsTranspose(5), (5,)), "dx", "if w had axes 0 and 1 swapped",
    ),
    "float32 in the backward pass": (
        lambda: check_function(
            tanh, tanh_backward_in_float32, {"x": random((3, 4))}, tolerance=1e-9
        ), "dx", "the backward pass computes in it",
    ),
    "float32 in the forward pass": (
        lambda: check_function(
            tanh_in_float32, lambda dy, x: kernels.tanh_backward(dy, np.tanh(x)), {"x": random((3, 4))}
        ), "dx", "the forward pass rounds to float32",
    ),
}  # fmt: skip


@pytest.mark.parametrize("bug", HINTS)
def test_the_hint_names_the_bug(bug):
    run, name, said = HINTS[bug]
    report = run()
    assert not report.arrays[name].ok
    assert said in report.arrays[name].hint, report.arrays[name].hint
    others = {words for _, _, words in HINTS.values() if words not in said and said not in words}
    assert [words for words in others if words in report.arrays[name].hint] == []
    assert f"{name}: {report.arrays[name].hint}" in str(report).splitlines()
    assert all(not array.hint for array in report.arrays.values() if array.ok)


# --- Bugs of other kinds: no hint ---------------------------------------------------------------------------


def of_batchnorm(backward):
    def forward(x, gamma):
        mean, var, _ = kernels.batchnorm_moments(x)
        return kernels.batchnorm_forward(x, gamma, gamma * 0, mean, var, 1e-3)

    def gradients(dy, x, gamma):
        mean, var, _ = kernels.batchnorm_moments(x)
        return backward(dy, x, gamma, mean, var, 1e-3)[:2]

    return check_function(forward, gradients, {"x": IMAGES, "gamma": random((3,), 6) + 2})


def one_wrong(dy, x):
    dx = dy * np.cos(x)
    dx[0, 0, 0, 0] *= 1.1
    return dx


OTHERS = {
    "batch norm without the path through the mean": lambda: of_batchnorm(batchnorm_backward_without_mean),
    "batch norm without the path through the variance": lambda: of_batchnorm(batchnorm_backward_without_variance),
    "softmax Jacobian taken as diagonal": lambda: check_function(
        kernels.softmax_forward, lambda dy, x: softmax_backward_diagonal(dy, kernels.softmax_forward(x)), {"x": IMAGES}
    ),
    "ELU by precedence": lambda: check_function(
        kernels.elu_forward, lambda dy, x: elu_backward_by_precedence(dy, kernels.elu_forward(x)), {"x": IMAGES}
    ),
    "another dropout mask": lambda: check_layer(DropoutWithANewMaskBackward(0.5), (5, 3)),
    "max pooling to the first pixel": lambda: check_layer(MaxPoolingToTheFirstPixel(), (6, 6, 3)),
    "the activation's derivative is missing": lambda: check_layer(DenseWithWrongDw(3, activation="tanh"), (4,)),
    "one number": lambda: check_function(sine, one_wrong, {"x": IMAGES}),
    "a gradient of zeros": lambda: check_function(sine, lambda dy, x: 0 * dy, {"x": IMAGES}),
    "NaN": lambda: check_function(sine, lambda dy, x: np.nan * dy, {"x": IMAGES}),
    "nothing but kinks": lambda: check_function(
        kernels.relu_forward, lambda dy, x: kernels.relu_backward(dy, x), {"x": np.array([0.0, 0.0, 0.0, 1.0])}
    ),
}


@pytest.mark.parametrize("bug", OTHERS)
def test_no_hint_where_none_fits(bug):
    report = OTHERS[bug]()
    wrong = [array for array in report.arrays.values() if not array.ok]
    assert wrong
    assert [array.hint for array in wrong if array.hint] == []


def test_what_was_moved_for_a_hint_is_put_back():
    """The kernel is turned for a while; dw is compared after dx, with the kernel as it was."""
    report = of_conv(unturned)
    assert report.arrays["dx"].hint and report.arrays["dw"].ok


def test_a_transposed_gradient_of_another_shape():
    report = check_layer(DenseTransposed(3), (5,))
    assert report.problems == ["dw has shape (3, 5), but w has (5, 3): transposed?"]
