"""Bugs that teaching code has shipped, each written down once, and the proof that our checks reject it.

A check that nothing can fail proves nothing. Every entry runs the check that the fast kernels pass in
test_kernels_*.py twice: with the right kernel, and with the broken one.
"""

from __future__ import annotations

import numpy as np
import pytest
from helpers import (
    check_activation,
    check_batchnorm,
    check_conv2d,
    check_cross_entropy,
    check_dense,
    check_dropout,
    check_im2col,
    check_maxpool2d,
    distinct,
    numeric_gradient,
    random,
    rng,
)

from minicnn.kernels import activations, conv, dense, dropout, norm, pool, reference, softmax
from minicnn.kernels.im2col import col2im, im2col

# --- Pooling ------------------------------------------------------------------------------------------------


def maxpool2d_padded_with_zero(x, pool_size, stride=None, padding="valid", winners=True):
    pads = reference.resolve_padding(x.shape[1:3], pool_size, stride or pool_size, 1, padding)
    padded = np.ascontiguousarray(np.pad(x, ((0, 0), *pads, (0, 0))))
    return pool.maxpool2d_forward(padded, pool_size, stride, "valid", winners)


def maxpool2d_backward_without_padding(dy, winner, input_shape, pool_size, stride=None, padding="valid"):
    """Pixels are counted from the corner of the border, not of the image."""
    (_, kw), (sh, sw) = reference.pair(pool_size), reference.pair(stride or pool_size)
    dx = np.zeros(input_shape, dy.dtype)
    for n, oh, ow, c in np.ndindex(dy.shape):
        i, j = divmod(int(winner[n, oh, ow, c]), kw)
        row, column = oh * sh + i, ow * sw + j
        if row < input_shape[1] and column < input_shape[2]:
            dx[n, row, column, c] += dy[n, oh, ow, c]
    return dx


def check_max_pool_with_ties(kernels):
    check_maxpool2d(*kernels, rng(1).integers(0, 2, (2, 4, 4, 2)).astype(np.float64), 2)


def every_maximum_wins():
    """backward does not look at the winner but compares x with y: `(x == y) * dy`."""
    page = {}

    def forward(x, pool_size, **geometry):
        page["x"] = x
        page["y"], winner = pool.maxpool2d_forward(x, pool_size, **geometry)
        return page["y"], winner

    def backward(dy, winner, input_shape, pool_size, **geometry):
        def spread(values):
            return values.repeat(pool_size, axis=1).repeat(pool_size, axis=2)

        return (page["x"] == spread(page["y"])) * spread(dy)

    return forward, backward


# --- Batch normalisation ------------------------------------------------------------------------------------


def batchnorm_forward_per_pixel(x, gamma, beta, mean, var, eps):
    """`axis=0` for images, too: one mean for each pixel instead of each channel."""
    return gamma * (x - x.mean(0)) / np.sqrt(x.var(0) + eps) + beta


def batchnorm_moments_per_pixel(x, all_reduce=None):
    return x.mean(0), x.var(0), len(x)


def batchnorm_backward_parts(dy, x, gamma, mean, var, eps):
    rows = tuple(range(x.ndim - 1))
    std = np.sqrt(var + eps)
    x_hat = (x - mean) / std
    dx_hat = dy * gamma
    direct, through_mean = dx_hat / std, -dx_hat.mean(rows) / std
    through_variance = -x_hat * (dx_hat * x_hat).mean(rows) / std
    return direct, through_mean, through_variance, (dy * x_hat).sum(rows), dy.sum(rows)


def batchnorm_backward_without_mean(*arguments):
    direct, _, through_variance, dgamma, dbeta = batchnorm_backward_parts(*arguments)
    return direct + through_variance, dgamma, dbeta


def batchnorm_backward_without_variance(*arguments):
    direct, through_mean, _, dgamma, dbeta = batchnorm_backward_parts(*arguments)
    return direct + through_mean, dgamma, dbeta


def check_batchnorm_with(moments=norm.batchnorm_moments, forward=norm.batchnorm_forward, backward=None):
    x, gamma, beta = random((3, 2, 2, 2), 2), random((2,), 3) + 2, random((2,), 4)
    check_batchnorm(moments, forward, backward or norm.batchnorm_backward, x, gamma, beta)


# --- Convolution and dense ----------------------------------------------------------------------------------


def col2im_that_overwrites(cols, input_shape, kernel_size, stride=1, padding="valid", dilation=1):
    """`=` where `+=` belongs: of overlapping windows the last one stays."""
    kh, kw = reference.pair(kernel_size)
    sh, sw = reference.pair(stride)
    pads = reference.resolve_padding(input_shape[1:3], kernel_size, stride, dilation, padding)
    oh, ow = reference.output_size(input_shape[1:3], kernel_size, stride, dilation, pads)
    padded = reference.pad(np.zeros(input_shape), pads)
    cols = cols.reshape(input_shape[0], oh, ow, kh, kw, input_shape[3])
    for i in range(kh):
        for j in range(kw):
            padded[:, i : i + sh * oh : sh, j : j + sw * ow : sw] = cols[:, :, :, i, j]
    return reference.crop(padded, pads, cols.dtype)


def conv2d_backward_unflipped(dy, x, w, stride=1, padding="valid", dilation=1, need_dx=True):
    """dx by a convolution of dy with the kernel, which was not turned round. dw and db are right."""
    _, dw, db = conv.conv2d_backward(dy, x, w, stride, padding, dilation)
    dx = conv.conv2d_forward(dy, np.ascontiguousarray(w.transpose(0, 1, 3, 2)), None, 1, "same")
    return dx, dw, db


def check_conv2d_with(backward):
    check_conv2d(
        conv.conv2d_forward,
        backward,
        random((2, 4, 5, 2), 5),
        random((3, 3, 2, 3), 6),
        random((3,), 7),
        padding="same",
    )


def dense_forward_in_float64(x, w, b=None):
    """np.zeros without a dtype."""
    y = np.zeros((len(x), w.shape[1]))
    y += x @ w
    return y if b is None else y + b


def check_dense_in_float32(forward):
    arrays = (random(shape, 8, np.float32) for shape in [(4, 3), (3, 2), (2,)])
    check_dense(forward, dense.dense_backward, *arrays)


# --- Dropout, activations, softmax --------------------------------------------------------------------------


def check_dropout_with(kernels):
    mask = dropout.dropout_mask((4, 6), 0.5, seed=1)
    check_dropout(*kernels, random((4, 6), 9), mask, 0.5)


def check_same_mean_in_training_and_evaluation(layer):
    """layer(x, training). Evaluation hands x on untouched; training agrees with it on average."""
    x = np.ones((200, 500))
    np.testing.assert_array_equal(layer(x, training=False), x)
    mean = layer(x, training=True).mean()
    assert abs(mean - 1) < 0.02, f"mean {mean} in training, 1 in evaluation"


def inverted_dropout(x, training):
    return dropout.dropout_forward(x, dropout.dropout_mask(x.shape, 0.4, seed=2), 0.4) if training else x


def dropout_scaled_at_test_time_too(x, training):
    return inverted_dropout(x, training) if training else x * (1 - 0.4)


def dropout_scaled_at_neither_time(x, training):
    return x * dropout.dropout_mask(x.shape, 0.4, seed=2) if training else x


def elu_backward_by_precedence(dy, y, alpha=1.0):
    """`y + alpha` lost its brackets."""
    return dy * np.where(y > 0, 1, 0) + dy * np.where(y > 0, 0, y) + alpha


def elu_backward_without_alpha(dy, y, alpha=1.0):
    """Right for alpha = 1 only."""
    return dy * np.where(y > 0, 1, y + 1)


def check_elu_with(backward):
    for alpha in 1.0, 0.5:
        check_activation(activations.elu_forward, backward, "elu", distinct((5, 6)) * 10, alpha)


def relu_backward_in_place(dy, y):
    dy *= y > 0
    return dy


def relu_backward_in_place_in_disguise(dy, y):
    """ascontiguousarray copies only what is not contiguous already."""
    dx = np.ascontiguousarray(dy)
    dx[y <= 0] = 0
    return dx


def relu_backward_in_float64(dy, y):
    return dy * np.where(y > 0, 1.0, 0.0)


def check_relu_with(backward):
    for dtype in np.float64, np.float32:
        check_activation(
            activations.relu_forward, backward, "relu", distinct((5, 6), dtype=dtype) * dtype(10)
        )


def relu_forward_in_place(x):
    return np.maximum(x, 0, out=x)


def softmax_backward_diagonal(dy, y):
    """The slope of the sigmoid, for every output by itself."""
    return dy * y * (1 - y)


def check_softmax_with(backward):
    check_activation(softmax.softmax_forward, backward, "softmax", random((4, 3), 10))


def cross_entropy_backward_divided_by(power):
    """(p - t) / N^power: 0 forgets the mean over the batch, 2 takes it twice."""

    def backward(logits, target):
        right = softmax.softmax_cross_entropy_backward(logits, target)
        return right * len(logits) / len(logits) ** power

    return backward


def softmax_that_overflows(x):
    with np.errstate(all="ignore"):
        return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


def check_cross_entropy_with(backward):
    forward = softmax.softmax_cross_entropy_forward
    check_cross_entropy(forward, backward, random((4, 3), 11), np.array([0, 2, 1, 1]))


def check_softmax_of_large_logits(forward):
    x = random((2, 3), 12) + 1000
    check_activation(forward, softmax.softmax_backward, "softmax", x)


MAXPOOL = pool.maxpool2d_forward, pool.maxpool2d_backward
DROPOUT = dropout.dropout_forward, dropout.dropout_backward
NEGATIVE = -1 - np.abs(distinct((1, 5, 5, 2), 13))

# what is wrong: (check, the right kernel, the broken one, what the check must name)
CONTROLS = {
    "max pool pads with 0": (
        lambda kernel: check_maxpool2d(
            kernel, pool.maxpool2d_backward, NEGATIVE, 3, stride=2, padding="same"
        ),
        pool.maxpool2d_forward,
        maxpool2d_padded_with_zero,
        "^y",
    ),
    "max pool ignores the padding in backward": (
        lambda kernel: check_maxpool2d(pool.maxpool2d_forward, kernel, NEGATIVE, 3, stride=2, padding="same"),
        pool.maxpool2d_backward,
        maxpool2d_backward_without_padding,
        "^dx",
    ),
    "max pool: every tied maximum gets the gradient": (
        check_max_pool_with_ties,
        MAXPOOL,
        every_maximum_wins(),
        "^dx",
    ),
    "batch norm per pixel": (
        lambda kernel: check_batchnorm_with(forward=kernel),
        norm.batchnorm_forward,
        batchnorm_forward_per_pixel,
        "^y",
    ),
    "batch norm with the statistics of each pixel": (
        lambda kernel: check_batchnorm_with(moments=kernel),
        norm.batchnorm_moments,
        batchnorm_moments_per_pixel,
        "^mean",
    ),
    "batch norm backward without the path through the mean": (
        lambda kernel: check_batchnorm_with(backward=kernel),
        norm.batchnorm_backward,
        batchnorm_backward_without_mean,
        "^dx",
    ),
    "batch norm backward without the path through the variance": (
        lambda kernel: check_batchnorm_with(backward=kernel),
        norm.batchnorm_backward,
        batchnorm_backward_without_variance,
        "^dx",
    ),
    "col2im with = for +=": (
        lambda kernel: check_im2col(im2col, kernel, random((1, 4, 4, 2), 14), 3),
        col2im,
        col2im_that_overwrites,
        "^dx",
    ),
    "conv backward with dx wrong and dw right": (
        check_conv2d_with,
        conv.conv2d_backward,
        conv2d_backward_unflipped,
        "^dx",
    ),
    "float64 creeps in forward": (
        check_dense_in_float32,
        dense.dense_forward,
        dense_forward_in_float64,
        "y: dtype float64",
    ),
    "float64 creeps in backward": (
        check_relu_with,
        activations.relu_backward,
        relu_backward_in_float64,
        "dx: dtype float64",
    ),
    "dropout that does not scale": (
        check_dropout_with,
        DROPOUT,
        (lambda x, mask, rate: x * mask, lambda dy, mask, rate: dy * mask),
        "^y",
    ),
    "dropout that scales forward but not backward": (
        check_dropout_with,
        DROPOUT,
        (dropout.dropout_forward, lambda dy, mask, rate: dy * mask),
        "^dx",
    ),
    "dropout scaled at test time too": (
        check_same_mean_in_training_and_evaluation,
        inverted_dropout,
        dropout_scaled_at_test_time_too,
        "not equal",
    ),
    "dropout scaled at neither time": (
        check_same_mean_in_training_and_evaluation,
        inverted_dropout,
        dropout_scaled_at_neither_time,
        "in training",
    ),
    "ELU derivative by operator precedence": (
        check_elu_with,
        activations.elu_backward,
        elu_backward_by_precedence,
        "^dx",
    ),
    "ELU derivative for alpha = 1 only": (
        check_elu_with,
        activations.elu_backward,
        elu_backward_without_alpha,
        "^dx",
    ),
    "upstream gradient changed in place": (
        check_relu_with,
        activations.relu_backward,
        relu_backward_in_place,
        "written to",
    ),
    "upstream gradient changed in place, in disguise": (
        check_relu_with,
        activations.relu_backward,
        relu_backward_in_place_in_disguise,
        "written to",
    ),
    "input changed in place": (
        lambda kernel: check_activation(kernel, activations.relu_backward, "relu", distinct((3, 4))),
        activations.relu_forward,
        relu_forward_in_place,
        "written to",
    ),
    "softmax Jacobian taken as diagonal": (
        check_softmax_with,
        softmax.softmax_backward,
        softmax_backward_diagonal,
        "^dx",
    ),
    "softmax that overflows": (
        check_softmax_of_large_logits,
        softmax.softmax_forward,
        softmax_that_overflows,
        "not finite",
    ),
    "batch mean missing from the loss gradient": (
        check_cross_entropy_with,
        softmax.softmax_cross_entropy_backward,
        cross_entropy_backward_divided_by(0),
        "^dlogits",
    ),
    "batch mean twice in the loss gradient": (
        check_cross_entropy_with,
        softmax.softmax_cross_entropy_backward,
        cross_entropy_backward_divided_by(2),
        "^dlogits",
    ),
}


@pytest.mark.parametrize("bug", CONTROLS)
def test_the_check_accepts_the_right_kernel_and_rejects_the_broken_one(bug):
    check, right, broken, named = CONTROLS[bug]
    check(right)
    with pytest.raises(AssertionError, match=named):
        check(broken)


# --- Why the upstream gradient is random --------------------------------------------------------------------


def batchnorm_in_training(x, gamma, beta):
    mean, var, _ = norm.batchnorm_moments(x)
    return norm.batchnorm_forward(x, gamma, beta, mean, var, 1e-3)


def test_ones_are_blind_for_batch_norm():
    """x_hat sums to 0 in each channel, whatever x is. So the gradient is 0, and so is a broken kernel's."""
    x, gamma, beta = random((4, 3, 2), 15), np.array([1.0, 2.0]), np.zeros(2)
    ones, dy = np.ones(x.shape), random(x.shape, 16)
    mean, var, _ = norm.batchnorm_moments(x)
    broken = batchnorm_backward_without_variance
    numeric = numeric_gradient(lambda: batchnorm_in_training(x, gamma, beta), x, ones)
    assert np.abs(numeric).max() < 1e-8
    assert np.abs(broken(ones, x, gamma, mean, var, 1e-3)[0]).max() < 1e-8  # "agrees"
    numeric = numeric_gradient(lambda: batchnorm_in_training(x, gamma, beta), x, dy)
    assert np.abs(numeric - broken(dy, x, gamma, mean, var, 1e-3)[0]).max() > 0.1


def test_ones_are_blind_for_softmax():
    """Probabilities sum to 1 whatever x is. Even a backward pass that returns only zeros agrees with that."""
    x = random((4, 3), 17)
    numeric = numeric_gradient(lambda: softmax.softmax_forward(x), x, np.ones(x.shape))
    assert np.abs(numeric).max() < 1e-8
    numeric = numeric_gradient(lambda: softmax.softmax_forward(x), x, random(x.shape, 18))
    assert np.abs(numeric).max() > 0.1


def test_our_checks_refuse_an_upstream_gradient_of_ones():
    x = random((4, 3), 19)
    with pytest.raises(AssertionError, match="blind"):
        check_activation(softmax.softmax_forward, softmax.softmax_backward, "softmax", x, dy=np.ones(x.shape))
    with pytest.raises(AssertionError, match="blind"):
        check_batchnorm(
            norm.batchnorm_moments,
            norm.batchnorm_forward,
            norm.batchnorm_backward,
            x,
            np.ones(3),
            np.zeros(3),
            dy=np.ones(x.shape),
        )
