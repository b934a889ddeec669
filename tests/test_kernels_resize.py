"""Larger images, the largest number of an image, rescaling: against plain loops and central differences."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import TOLERANCE, assert_adjoint, assert_same, distinct, noncontiguous, numeric_gradient, random, unchanged

from minicnn import kernels
from minicnn.kernels import reference

SHAPES = [(2, 3, 4, 2), (1, 1, 1, 1), (2, 1, 3, 1), (1, 4, 1, 3), (0, 2, 3, 2)]
SIZES = [(1, 1), (2, 2), (3, 1), (2, 5)]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", SHAPES)
def test_upsampling(shape, size, interpolation, dtype):
    x, tolerance = random(shape, 1, dtype), TOLERANCE[np.dtype(dtype)]
    for given in (x, noncontiguous(x)):
        with unchanged(given):
            y = kernels.upsampling2d_forward(given, size, interpolation)
        assert y.dtype == dtype and y.flags.c_contiguous and not np.shares_memory(y, given)
        assert_same(y, reference.upsampling2d_forward(x, size, interpolation), tolerance)
    dy = random(y.shape, 2, dtype)
    for given in (dy, noncontiguous(dy)):
        with unchanged(given):
            dx = kernels.upsampling2d_backward(given, size, interpolation)
        assert dx.dtype == dtype and dx.flags.c_contiguous
        assert_same(dx, reference.upsampling2d_backward(dy, size, interpolation), tolerance)
    if dtype == np.float64 and len(x):
        assert_adjoint(
            lambda x: kernels.upsampling2d_forward(x, size, interpolation),
            lambda dy: kernels.upsampling2d_backward(dy, size, interpolation), x, y.shape,
        )  # fmt: skip
        numeric = numeric_gradient(lambda: kernels.upsampling2d_forward(x, size, interpolation), x, dy)
        np.testing.assert_allclose(dx, numeric, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("size", [2, 3])
def test_bilinear_keeps_straight_lines_inside(size):
    """A slope stays a slope, but for half a pixel at the border."""
    x = np.arange(5.0).reshape(1, 5, 1, 1)
    y = kernels.upsampling2d_forward(x, (size, 1), "bilinear")[0, :, 0, 0]
    np.testing.assert_allclose(np.diff(y)[size:-size], 1 / size)
    assert y[0] == 0 and y[-1] == 4


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_largest_number(shape, dtype):
    for x in (distinct(shape, 1, dtype), np.zeros(shape, dtype), noncontiguous(distinct(shape, 2, dtype))):
        y = kernels.global_maxpool2d_forward(x)
        np.testing.assert_array_equal(y, reference.global_maxpool2d_forward(x))
        dy = random(y.shape, 3, dtype)
        with unchanged(x, y, dy):
            dx = kernels.global_maxpool2d_backward(dy, x, y)
        assert dx.dtype == dtype
        assert_same(dx, reference.global_maxpool2d_backward(dy, x, y), TOLERANCE[np.dtype(dtype)])


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(("scale", "offset"), [(2.0, 1.0), ([2.0, -1.0], 0.5), (3.0, [1.0, 0.0]), ([4.0], [1.0, 2.0])])
def test_rescaling(scale, offset, dtype):
    x, tolerance = random((3, 2, 2), 1, dtype), TOLERANCE[np.dtype(dtype)]
    y, dx = kernels.rescaling_forward(x, scale, offset), kernels.rescaling_backward(x, scale)
    assert y.dtype == dx.dtype == dtype
    assert_same(y, reference.rescaling_forward(x, scale, offset), tolerance)
    assert_same(dx, reference.rescaling_backward(x, scale), tolerance)
