"""Sums of very many numbers keep the digits of float32: its own sum, one number after another, does not."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import random

from minicnn import kernels
from minicnn.kernels.sums import RUN, column_sums, column_sums_of_products

MANY = 1 << 18


def close(found, expected, tolerance=5e-6):
    np.testing.assert_allclose(np.asarray(found, np.float64), expected, rtol=tolerance)


def one_after_another(rows):
    total = np.zeros(rows.shape[1], rows.dtype)
    for row in rows:
        total += row
    return total


@pytest.mark.parametrize("count", [0, 1, RUN, RUN + 1, 3 * RUN + 7])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_columns(count, dtype):
    a, b = random((count, 3), 1, dtype), random((count, 3), 2, dtype)
    tolerance = 1e-3 if dtype == np.float32 else 1e-11
    for found, expected in ((column_sums(a), a.sum(axis=0)), (column_sums_of_products(a, b), (a * b).sum(axis=0))):
        assert found.shape == (3,)
        np.testing.assert_allclose(found, expected, atol=tolerance)


def test_a_sum_one_after_another_would_be_wrong():
    rows = np.full((MANY, 2), 0.1, np.float32)
    right = MANY * float(rows[0, 0])
    with pytest.raises(AssertionError):
        close(one_after_another(rows), right)
    close(column_sums(rows), right)
    close(column_sums_of_products(rows, np.ones_like(rows)), right)


def test_the_bias_gradients():
    dy, x = np.full((MANY, 2), 0.1, np.float32), np.ones((MANY, 1), np.float32)
    right = MANY * float(dy[0, 0])
    close(kernels.dense_backward(dy, x, np.ones((1, 2), np.float32))[2], right)
    images = dy.reshape(4, 256, -1, 2), x.reshape(4, 256, -1, 1)
    close(kernels.conv2d_backward(*images, np.ones((1, 1, 1, 2), np.float32))[2], right)


def test_batch_normalisation():
    """A mean within four standard deviations of 0 is not taken off before the squares are summed."""
    x = (random((MANY, 2), 1) + 3).astype(np.float32)
    mean, var, count = kernels.batchnorm_moments(x)
    assert count == MANY
    close(mean, x.mean(axis=0, dtype=np.float64))
    close(var, x.var(axis=0, dtype=np.float64), 1e-5)
    one = np.ones(2, np.float32)
    _, dgamma, dbeta = kernels.batchnorm_backward(x, x, one, mean, var, 1e-3)
    wide = x.astype(np.float64)
    x_hat = (wide - mean) / np.sqrt(var.astype(np.float64) + 1e-3)
    close(dbeta, wide.sum(axis=0))
    close(dgamma, (wide * x_hat).sum(axis=0), 2e-5)


@pytest.mark.parametrize("shape", [(1, 1024, 1024, 3), (2, 3, 100_000, 1), (1, 100_000, 3, 2)])
def test_global_average_pooling(shape):
    x = np.full(shape, 0.1, np.float32)
    close(kernels.global_avgpool2d_forward(x), x[0, 0, 0, 0], 1e-6)


def test_average_pooling_over_a_large_window():
    x = np.full((1, 300, 300, 2), 0.1, np.float32)
    y = kernels.avgpool2d_forward(x, 300)
    assert y.dtype == np.float32
    close(y, x[0, 0, 0, 0], 1e-6)
