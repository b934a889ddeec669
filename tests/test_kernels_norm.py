import numpy as np
import pytest
from helpers import (
    assert_same,
    check_batchnorm,
    check_batchnorm_eval,
    check_without_dx,
    noncontiguous,
    random,
    rng,
    run_shards,
)

from minicnn.kernels import norm, reference

SHAPES = [(6, 3), (2, 1), (5, 4, 3, 2), (1, 3, 5, 4), (3, 1, 1, 2), (2, 3, 2, 1)]
TRAINING = norm.batchnorm_moments, norm.batchnorm_forward, norm.batchnorm_backward
EVALUATION = norm.batchnorm_forward, norm.batchnorm_eval_backward


def arrays(shape, dtype=np.float64):
    """x with another mean and scale in each channel, gamma, beta."""
    channels = shape[-1]
    x = random(shape, 1) * (1 + np.arange(channels)) + 3 * np.arange(channels) - 1
    return x.astype(dtype), random((channels,), 2, dtype) + dtype(2), random((channels,), 3, dtype)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("shape", SHAPES)
def test_batchnorm_in_training(shape, dtype):
    x, gamma, beta = arrays(shape, dtype)
    check_batchnorm(*TRAINING, x, gamma, beta, eps=0.1)
    check_batchnorm(*TRAINING, noncontiguous(x), gamma, beta, eps=0.1)


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape != (2, 1)])
def test_batchnorm_in_training_with_keras_epsilon(shape):
    """Not for two rows: they become -1 and 1 whatever x is, and dx is of the size of eps."""
    check_batchnorm(*TRAINING, *arrays(shape), eps=1e-3)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("shape", SHAPES)
def test_batchnorm_in_evaluation(shape, dtype):
    x, gamma, beta = arrays(shape, dtype)
    mean, var = random((shape[-1],), 4, dtype), np.abs(random((shape[-1],), 5, dtype)) + dtype(0.5)
    check_batchnorm_eval(*EVALUATION, x, gamma, beta, mean, var)
    check_batchnorm_eval(*EVALUATION, noncontiguous(x), gamma, beta, mean, var)


@pytest.mark.parametrize("shape", SHAPES)
def test_need_dx_false(shape):
    x, gamma, beta = arrays(shape, np.float32)
    mean, var, _ = norm.batchnorm_moments(x)
    dy = random(shape, 6, np.float32)
    for kernel in norm.batchnorm_backward, norm.batchnorm_eval_backward:
        arguments = dy, x, gamma, mean, var, 1e-3
        check_without_dx(lambda need_dx: kernel(*arguments, need_dx=need_dx), kernel(*arguments))  # noqa: B023


@pytest.mark.parametrize("shape", [(50, 3), (4, 5, 6, 3)])
def test_each_channel_becomes_mean_0_and_variance_1(shape):
    x = arrays(shape)[0]
    mean, var, count = norm.batchnorm_moments(x)
    y = norm.batchnorm_forward(x, np.ones(3), np.zeros(3), mean, var, 0.0)
    axes = tuple(range(len(shape) - 1))
    np.testing.assert_allclose(y.mean(axes), 0, atol=1e-12)
    np.testing.assert_allclose(y.var(axes), 1, rtol=1e-12)
    assert count == x.size // 3


@pytest.mark.parametrize("shape", [(4096, 3), (8, 16, 16, 3)])
def test_large_mean_small_variance_in_float32(shape):
    """The textbook formula mean(x^2) - mean(x)^2 has no digit right here: 1e8 - 1e8."""
    x = (1e4 + rng(7).standard_normal(shape)).astype(np.float32)
    exact, axes = x.astype(np.float64), tuple(range(len(shape) - 1))
    for shards in 1, 2:
        parts = np.array_split(x, shards)
        for mean, var, count in run_shards(lambda i, add: norm.batchnorm_moments(parts[i], add), shards):  # noqa: B023
            assert count == x.size // 3
            assert mean.dtype == var.dtype == np.float32
            np.testing.assert_allclose(mean, exact.mean(axes), rtol=1e-7)
            np.testing.assert_allclose(var, exact.var(axes), rtol=1e-5)

    gamma, beta = np.float32([1, 2, 3]), np.float32([0, 1, 2])
    mean, var, _ = norm.batchnorm_moments(x)
    spacing = float(np.spacing(np.float32(1e4)))  # what float32 cannot tell apart near 1e4: 0.001
    y = norm.batchnorm_forward(x, gamma, beta, mean, var, 1e-3)
    x_hat = (exact - exact.mean(axes)) / np.sqrt(exact.var(axes) + 1e-3)
    assert np.abs(y - (gamma * x_hat + beta)).max() < 3 * 3 * spacing

    dy = random(shape, 8, np.float32)
    dx, dgamma, dbeta = norm.batchnorm_backward(dy, x, gamma, mean, var, 1e-3)
    m = dy.astype(np.float64)
    expected = gamma / np.sqrt(exact.var(axes) + 1e-3) * (m - m.mean(axes) - x_hat * (m * x_hat).mean(axes))
    assert_same(dx, expected, 1e-3, "dx")
    assert_same(dgamma, (m * x_hat).sum(axes), 1e-3, "dgamma")
    assert_same(dbeta, m.sum(axes), 1e-4, "dbeta")


@pytest.mark.parametrize("times", [0, 3, 5, 30])
def test_a_mean_some_standard_deviations_from_0(times):
    """With and without the pass that takes the mean off first; in one channel only, too."""
    x = (rng(7).standard_normal((16, 16, 16, 3)) + [times, 0, -times / 2]).astype(np.float32)
    dy = random(x.shape, 8, np.float32)
    exact, m, axes = x.astype(np.float64), dy.astype(np.float64), (0, 1, 2)
    mean, var, _ = norm.batchnorm_moments(x)
    np.testing.assert_allclose(mean, exact.mean(axes), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(var, exact.var(axes), rtol=1e-5)
    x_hat = (exact - exact.mean(axes)) / np.sqrt(exact.var(axes) + 1e-3)
    _, dgamma, _ = norm.batchnorm_backward(dy, x, np.ones(3, np.float32), mean, var, 1e-3)
    assert_same(dgamma, (m * x_hat).sum(axes), 1e-4, "dgamma")


@pytest.mark.parametrize("shape", [(4096, 3), (64, 8, 8, 3)])
def test_a_first_sample_unlike_the_others(shape):
    """No sample may stand in for the mean of all: a feature that is 0 once, a black image in front."""
    x = (1e4 + rng(7).standard_normal(shape)).astype(np.float32)
    x[0] = 0
    exact, axes = x.astype(np.float64), tuple(range(len(shape) - 1))
    mean, var, _ = norm.batchnorm_moments(x)
    np.testing.assert_allclose(mean, exact.mean(axes), rtol=1e-6)
    np.testing.assert_allclose(var, exact.var(axes), rtol=1e-4)


def test_a_constant_channel_has_variance_0_and_stays_finite():
    x = np.full((4, 3, 3, 2), 12345.678, dtype=np.float32)
    mean, var, _ = norm.batchnorm_moments(x)
    assert (var >= 0).all()
    np.testing.assert_allclose(var, 0, atol=1e-6)
    y = norm.batchnorm_forward(x, np.ones(2, np.float32), np.zeros(2, np.float32), mean, var, 1e-3)
    assert np.isfinite(y).all()


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_statistics_of_a_training_step(shape, dtype):
    x, mean, var = random(shape, 1, dtype), random(shape[-1:], 2, dtype), random(shape[-1:], 3, dtype) ** 2
    names = ["mean", "variance", "moving_mean", "moving_variance"]
    found, expected = norm.batchnorm_statistics(x, mean, var, 0.9), reference.batchnorm_statistics(x, mean, var, 0.9)
    for name, a, b in zip(names, found, expected, strict=True):
        assert a.dtype == dtype
        assert_same(a, b, 1e-6 if dtype == np.float32 else 1e-13, name)
    if len(x) == 1:
        return
    halves = run_shards(lambda i, add: norm.batchnorm_statistics(np.array_split(x, 2)[i], mean, var, 0.9, add), 2)
    for name, a, b in zip(names, halves[0], expected, strict=True):
        assert_same(a, b, 1e-6 if dtype == np.float32 else 1e-13, name)


@pytest.mark.parametrize("shape", [(9, 3), (7, 2, 3, 2)])
@pytest.mark.parametrize("shards", [2, 3])
def test_shards_together_are_the_whole_batch(shape, shards):
    check_shards(norm, shape, shards)


@pytest.mark.cpu
@pytest.mark.parametrize("shape", [(9, 3), (7, 2, 3, 2)])
def test_shards_together_are_the_whole_batch_in_the_reference(shape):
    check_shards(reference, shape, 3)


def check_shards(kernels, shape, shards):
    x, gamma, _ = arrays(shape)
    dy = random(shape, 9)
    whole_moments = kernels.batchnorm_moments(x)
    whole = kernels.batchnorm_backward(dy, x, gamma, *whole_moments[:2], 1e-3)
    xs, dys = np.array_split(x, shards), np.array_split(dy, shards)

    def shard(i, all_reduce):
        mean, var, count = kernels.batchnorm_moments(xs[i], all_reduce)
        return (mean, var, count), kernels.batchnorm_backward(
            dys[i], xs[i], gamma, mean, var, 1e-3, all_reduce=all_reduce
        )

    results = run_shards(shard, shards)
    for moments, _ in results:
        for name, actual, expected in zip(("mean", "var", "count"), moments, whole_moments, strict=True):
            assert_same(actual, expected, 1e-12, name)
    gradients = [gradient for _, gradient in results]
    assert_same(np.concatenate([g[0] for g in gradients]), whole[0], 1e-11, "dx")
    assert_same(sum(g[1] for g in gradients), whole[1], 1e-11, "dgamma")  # gradients of shards are added up
    assert_same(sum(g[2] for g in gradients), whole[2], 1e-11, "dbeta")


def test_a_shard_that_needs_no_dx_still_takes_part():
    """Otherwise the others would wait for it for ever."""
    x, gamma, _ = arrays((6, 2))
    mean, var, _ = norm.batchnorm_moments(x)

    def shard(i, all_reduce):
        part = slice(3 * i, 3 * i + 3)
        return norm.batchnorm_backward(
            x[part], x[part], gamma, mean, var, 1e-3, all_reduce=all_reduce, need_dx=bool(i)
        )

    (no_dx, *_), (dx, *_) = run_shards(shard, 2)
    assert no_dx is None
    assert_same(dx, norm.batchnorm_backward(x, x, gamma, mean, var, 1e-3)[0][3:], 1e-11, "dx")


@pytest.mark.cpu
@pytest.mark.parametrize("shape", SHAPES)
def test_the_reference_implementations_pass_the_same_checks(shape):
    x, gamma, beta = arrays(shape)
    check_batchnorm(
        reference.batchnorm_moments,
        reference.batchnorm_forward,
        reference.batchnorm_backward,
        x,
        gamma,
        beta,
        0.1,
    )
    check_batchnorm_eval(
        reference.batchnorm_forward, reference.batchnorm_eval_backward, x, gamma, beta, beta + 1, gamma**2
    )
