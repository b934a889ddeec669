"""Group normalisation: against plain loops and central differences."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import TOLERANCE, assert_same, check_without_dx, noncontiguous, numeric_gradient, random, unchanged

from minicnn import kernels
from minicnn.kernels import reference

CASES = [
    ((3, 2, 3, 4), 2), ((2, 2, 2, 3), 1), ((2, 3, 2, 3), 3), ((4, 6), 3), ((5, 4), 1), ((1, 1, 1, 4), 2),
    ((0, 2, 4), 2),
]  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(("shape", "groups"), CASES)
def test_against_the_loops(shape, groups, dtype):
    tolerance = TOLERANCE[np.dtype(dtype)]
    gamma, beta = random(shape[-1:], 2, dtype), random(shape[-1:], 3, dtype)
    for x in (random(shape, 1, dtype), noncontiguous(random(shape, 4, dtype) + 3)):
        with unchanged(x, gamma, beta):
            y = kernels.groupnorm_forward(x, gamma, beta, groups, 1e-3)
        assert y.dtype == dtype and y.flags.c_contiguous
        assert_same(y, reference.groupnorm_forward(x, gamma, beta, groups, 1e-3), 10 * tolerance)
        dy = random(shape, 5, dtype)
        with unchanged(x, gamma, dy):
            found = kernels.groupnorm_backward(dy, x, gamma, groups, 1e-3)
        for one, right in zip(found, reference.groupnorm_backward(dy, x, gamma, groups, 1e-3), strict=True):
            assert one.dtype == dtype
            assert_same(one, right, 20 * tolerance)
        check_without_dx(
            lambda need_dx: kernels.groupnorm_backward(dy, x, gamma, groups, 1e-3, need_dx), found  # noqa: B023
        )  # fmt: skip


@pytest.mark.parametrize(("shape", "groups"), CASES[:5])
def test_against_central_differences(shape, groups):
    x, gamma, beta, dy = random(shape, 1), random(shape[-1:], 2), random(shape[-1:], 3), random(shape, 4)
    found = kernels.groupnorm_backward(dy, x, gamma, groups, 1e-3)
    for array, gradient in zip((x, gamma, beta), found, strict=True):
        numeric = numeric_gradient(lambda: kernels.groupnorm_forward(x, gamma, beta, groups, 1e-3), array, dy)
        np.testing.assert_allclose(gradient, numeric, rtol=1e-5, atol=1e-7)
