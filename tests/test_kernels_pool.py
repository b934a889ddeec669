import numpy as np
import pytest
from helpers import (
    assert_adjoint,
    assert_same,
    check_avgpool2d,
    check_global_avgpool2d,
    check_maxpool2d,
    distinct,
    noncontiguous,
    random,
    rng,
)

from minicnn.kernels import pool, reference

CASES = [
    ((2, 4, 6, 2), 2, {}),
    ((2, 5, 7, 2), 2, {}),  # the last row and column are dropped
    ((1, 7, 6, 2), 3, {"stride": 2}),  # windows overlap
    ((1, 7, 6, 1), 2, {"stride": 3}),  # gaps between windows
    ((2, 5, 5, 2), 2, {"padding": "same"}),
    ((1, 6, 5, 2), 3, {"padding": "same", "stride": 2}),  # asymmetric one way
    ((1, 6, 7, 2), (3, 2), {"stride": (2, 1), "padding": 1}),
    ((1, 5, 4, 2), (2, 3), {"padding": ((0, 1), (2, 0)), "stride": 1}),
    ((1, 5, 4, 2), (1, 3), {"padding": "same", "stride": (2, 1)}),
    ((1, 5, 6, 2), 2, {"stride": (1, 2)}),  # windows overlap one way only
    ((1, 6, 5, 2), 2, {"stride": (2, 1)}),
    ((1, 3, 5, 3), (3, 5), {}),  # one window, the whole image
    ((2, 3, 3, 2), 1, {}),
    ((1, 5, 4, 1), 1, {"stride": 2}),
]
IDS = [f"{shape}-{size}-{geometry}".replace(" ", "") for shape, size, geometry in CASES]
MAX = pool.maxpool2d_forward, pool.maxpool2d_backward
AVG = pool.avgpool2d_forward, pool.avgpool2d_backward


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(("shape", "size", "geometry"), CASES, ids=IDS)
def test_maxpool2d(shape, size, geometry, dtype):
    x = distinct(shape, 1, dtype)
    check_maxpool2d(*MAX, x, size, **geometry)
    check_maxpool2d(*MAX, noncontiguous(x), size, **geometry)
    check_maxpool2d(*MAX, x - 100, size, **geometry)  # all negative: the border must not win


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(("shape", "size", "geometry"), CASES, ids=IDS)
def test_maxpool2d_with_ties(shape, size, geometry, dtype):
    x = rng(2).integers(-2, 1, shape).astype(dtype)
    check_maxpool2d(*MAX, x, size, **geometry)
    check_maxpool2d(*MAX, np.zeros(shape, dtype), size, **geometry)


@pytest.mark.parametrize(("shape", "size", "geometry"), CASES, ids=IDS)
def test_maxpool2d_without_winners(shape, size, geometry):
    x = distinct(shape, 3, np.float32)
    y, winner = pool.maxpool2d_forward(x, size, **geometry, winners=False)
    assert winner is None
    np.testing.assert_array_equal(y, pool.maxpool2d_forward(x, size, **geometry)[0])


def test_first_maximum_wins_row_by_row():
    x = np.array([[1.0, 5.0, 5.0], [5.0, 5.0, 0.0], [5.0, 1.0, 5.0]]).reshape(1, 3, 3, 1)
    y, winner = pool.maxpool2d_forward(x, 3)
    assert (y.item(), winner.item()) == (5.0, 1)
    dx = pool.maxpool2d_backward(np.array(7.0).reshape(1, 1, 1, 1), winner, x.shape, 3)
    np.testing.assert_array_equal(dx[0, :, :, 0], [[0, 7, 0], [0, 0, 0], [0, 0, 0]])


def test_a_pixel_that_wins_twice_gets_both_gradients():
    x = np.array([0.0, 9.0, 0.0]).reshape(1, 1, 3, 1)
    _, winner = pool.maxpool2d_forward(x, (1, 2), 1)
    dx = pool.maxpool2d_backward(np.array([2.0, 3.0]).reshape(1, 1, 2, 1), winner, x.shape, (1, 2), 1)
    np.testing.assert_array_equal(dx.ravel(), [0, 5, 0])


def test_a_window_of_more_elements_than_a_byte_counts():
    check_maxpool2d(*MAX, distinct((1, 18, 17, 1), 3, np.float32), 17, stride=1)
    x = np.zeros((1, 17, 17, 1))
    x[0, 16, 16, 0] = 1.0
    assert pool.maxpool2d_forward(x, 17)[1].item() == 288


def test_the_stride_is_the_window_unless_given():
    x = distinct((1, 6, 6, 2))
    np.testing.assert_array_equal(
        pool.maxpool2d_forward(x, (2, 3))[0], pool.maxpool2d_forward(x, (2, 3), (2, 3))[0]
    )
    assert pool.avgpool2d_forward(x, (2, 3)).shape == (1, 3, 2, 2)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(("shape", "size", "geometry"), CASES, ids=IDS)
def test_avgpool2d(shape, size, geometry, dtype):
    x = random(shape, 4, dtype)
    check_avgpool2d(*AVG, x, size, **geometry)
    check_avgpool2d(*AVG, noncontiguous(x), size, **geometry)


@pytest.mark.parametrize(("shape", "size", "geometry"), CASES, ids=IDS)
def test_avgpool2d_adjoint(shape, size, geometry):
    x = random(shape, 5)
    assert_adjoint(
        lambda x: pool.avgpool2d_forward(x, size, **geometry),
        lambda dy: pool.avgpool2d_backward(dy, shape, size, **geometry),
        x,
        pool.avgpool2d_forward(x, size, **geometry).shape,
    )


def test_average_does_not_count_the_border():
    y = pool.avgpool2d_forward(np.ones((1, 3, 3, 1)), 3, 1, "same")
    assert_same(y, np.ones((1, 3, 3, 1)), 1e-15)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("shape", [(2, 3, 4, 2), (1, 1, 1, 3), (3, 5, 1, 1)])
def test_global_avgpool2d(shape, dtype):
    kernels = pool.global_avgpool2d_forward, pool.global_avgpool2d_backward
    x = random(shape, 6, dtype)
    check_global_avgpool2d(*kernels, x)
    check_global_avgpool2d(*kernels, noncontiguous(x))
    if dtype == np.float64:
        assert_adjoint(kernels[0], lambda dy: kernels[1](dy, shape), x, (shape[0], shape[3]))


@pytest.mark.cpu
@pytest.mark.parametrize(("shape", "size", "geometry"), CASES[:8], ids=IDS[:8])
def test_the_reference_implementations_pass_the_same_checks(shape, size, geometry):
    shape = (1, *shape[1:3], 1)
    check_maxpool2d(
        reference.maxpool2d_forward, reference.maxpool2d_backward, distinct(shape), size, **geometry
    )
    check_avgpool2d(
        reference.avgpool2d_forward, reference.avgpool2d_backward, random(shape), size, **geometry
    )
    check_global_avgpool2d(
        reference.global_avgpool2d_forward, reference.global_avgpool2d_backward, random((1, 3, 2, 2))
    )
