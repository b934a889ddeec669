"""The fast kernels walk over the batch in tiles, in scratch memory that each thread reuses. Neither may show.

The shapes of the other tests fit into one tile; here the tiles are so small that the same shapes need many.
"""

import sys

import numpy as np
import pytest
from helpers import (
    assert_same,
    check_avgpool2d,
    check_batchnorm,
    check_batchnorm_eval,
    check_conv2d,
    check_dropout,
    check_im2col,
    check_maxpool2d,
    distinct,
    random,
    run_shards,
)

from minicnn import backend
from minicnn.kernels import conv, dropout, norm, pool
from minicnn.kernels.im2col import col2im, im2col


@pytest.fixture(params=[1, 100, 300, 1000])
def small_tiles(request, monkeypatch):
    """From one row or image a tile to several images a tile, with a smaller one at the end."""
    monkeypatch.setattr(sys.modules["minicnn.kernels.im2col"], "COLS_BYTES", request.param)
    monkeypatch.setattr(sys.modules["minicnn.kernels.conv_winograd"], "V_BYTES", request.param)
    monkeypatch.setattr(backend.tiles, "__defaults__", (request.param,))
    assert len(list(backend.tiles(np.zeros((5, 300))))) == 5  # the setting has arrived


@pytest.mark.parametrize("channels", [2, 5])  # few: cols are laid out by taps
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_convolution(small_tiles, stride, padding, channels):
    x, w, b = (random(shape, 1, np.float32) for shape in [(5, 7, 5, channels), (3, 3, channels, 3), (3,)])
    check_conv2d(conv.conv2d_forward, conv.conv2d_backward, x, w, b, stride=stride, padding=padding)
    check_im2col(im2col, col2im, x, 3, stride=stride, padding=padding)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_pooling(small_tiles, stride, padding):
    x = distinct((5, 7, 6, 2), 2, np.float32)
    geometry = {"stride": stride, "padding": padding}
    check_maxpool2d(pool.maxpool2d_forward, pool.maxpool2d_backward, x - 100, 2, **geometry)
    check_avgpool2d(pool.avgpool2d_forward, pool.avgpool2d_backward, x, 2, **geometry)


@pytest.mark.parametrize("shape", [(25, 3), (5, 4, 3, 2)])
def test_batch_norm(small_tiles, shape):
    x, gamma, beta = (random(s, 3, np.float32) for s in [shape, shape[-1:], shape[-1:]])
    check_batchnorm(norm.batchnorm_moments, norm.batchnorm_forward, norm.batchnorm_backward, x, gamma, beta)
    check_batchnorm_eval(
        norm.batchnorm_forward, norm.batchnorm_eval_backward, x, gamma, beta, beta + 1, gamma**2
    )


@pytest.mark.parametrize("shape", [(25, 3), (5, 4, 3, 2)])
def test_dropout(small_tiles, shape):
    mask = dropout.dropout_mask(shape, 0.4, seed=1)
    check_dropout(dropout.dropout_forward, dropout.dropout_backward, random(shape, 4, np.float32), mask, 0.4)


def test_scratch_memory_holds_nothing_over():
    """Borders of 0 after borders of -inf, a small image after a large one, float32 after float64."""
    for dtype in np.float64, np.float32:
        for shape in (2, 9, 9, 3), (2, 5, 4, 3), (1, 3, 3, 3), (3, 6, 5, 3):
            x, w, b = random(shape, 5, dtype), random((3, 3, 3, 2), 6, dtype), random((2,), 7, dtype)
            pool.maxpool2d_forward(x, 3, 1, "same")
            check_conv2d(conv.conv2d_forward, conv.conv2d_backward, x, w, b, padding="same")
            check_avgpool2d(pool.avgpool2d_forward, pool.avgpool2d_backward, x, 3, stride=1, padding="same")


def test_threads_do_not_share_scratch_memory():
    xs = [random((4, 12, 12, 3), seed) for seed in range(4)]
    w, gamma = random((3, 3, 3, 3), 8), np.ones(3)

    def step(i, all_reduce=None):
        for _ in range(10):
            y = conv.conv2d_forward(xs[i], w, padding="same")
            mean, var, _ = norm.batchnorm_moments(y)
            z = norm.batchnorm_forward(y, gamma, gamma, mean, var, 1e-3)
            p, winner = pool.maxpool2d_forward(z, 3, 2, "same")
            dz = pool.maxpool2d_backward(p, winner, z.shape, 3, 2, "same")
            dy, *_ = norm.batchnorm_backward(dz, y, gamma, mean, var, 1e-3)
            gradients = conv.conv2d_backward(dy, xs[i], w, padding="same")
        return p, *gradients

    alone = [step(i) for i in range(4)]
    together = run_shards(step, 4)
    for one, other in zip(alone, together, strict=True):
        for expected, actual in zip(one, other, strict=True):
            assert_same(actual, expected, 1e-12)
