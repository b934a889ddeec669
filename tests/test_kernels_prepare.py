"""What prepares images: another size, another scale, mirrored; against plain loops and central differences."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import TOLERANCE, assert_adjoint, assert_same, check_kernel, noncontiguous, random, unchanged

from minicnn import kernels
from minicnn.kernels import reference
from minicnn.kernels.warp import FILL_MODES, affine_matrices

SIZES = [((2, 3, 4, 2), (5, 7)), ((1, 5, 6, 1), (2, 3)), ((2, 4, 3, 3), (4, 3)), ((1, 1, 1, 2), (3, 2)),
         ((1, 7, 2, 1), (1, 1)), ((0, 3, 2, 1), (2, 2))]  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
@pytest.mark.parametrize(("shape", "size"), SIZES)
def test_resizing(shape, size, interpolation, dtype):
    x, tolerance = random(shape, 1, dtype), TOLERANCE[np.dtype(dtype)]
    dy = random((shape[0], *size, shape[3]), 2, dtype)
    for given, back in ((x, dy), (noncontiguous(x), noncontiguous(dy))):
        with unchanged(given, back):
            y = kernels.resize2d_forward(given, size, interpolation)
            dx = kernels.resize2d_backward(back, shape[1:3], interpolation)
        assert y.dtype == dx.dtype == dtype and y.flags.c_contiguous and dx.flags.c_contiguous
        assert_same(y, reference.resize2d_forward(x, size, interpolation), tolerance)
        assert_same(dx, reference.resize2d_backward(dy, shape[1:3], interpolation), tolerance)
    if dtype == np.float64 and shape[0]:
        assert_adjoint(
            lambda x: kernels.resize2d_forward(x, size, interpolation),
            lambda dy: kernels.resize2d_backward(dy, shape[1:3], interpolation), x, y.shape,
        )  # fmt: skip


@pytest.mark.parametrize("factor", [(2, 3), (1, 4)])
@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
def test_whole_factors_are_those_of_upsampling(factor, interpolation):
    x = random((2, 3, 4, 2), 1)
    size = (3 * factor[0], 4 * factor[1])
    wanted = kernels.upsampling2d_forward(x, factor, interpolation)
    assert_same(kernels.resize2d_forward(x, size, interpolation), wanted, 1e-12)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("spread", [(1, 1, 1, 2), (1, 1, 1, 1), (1, 3, 4, 1)])
def test_standardize(spread, dtype):
    x, mean, deviation = random((2, 3, 4, 2), 1, dtype), random(spread, 2, dtype), 1 + random(spread, 3, dtype) ** 2
    check_kernel(
        {"x": x},
        lambda x: kernels.standardize_forward(x, mean, deviation),
        lambda dy, y, x: (kernels.standardize_backward(dy, deviation),),
        lambda x: reference.standardize_forward(x, mean, deviation),
        lambda dy, y, x: (reference.standardize_backward(dy, deviation),),
    )


def test_flips():
    x = random((4, 3, 5, 2), 1)
    flipped = np.array([[False, False], [True, False], [False, True], [True, True]])
    y = kernels.flip2d(x, flipped)
    np.testing.assert_array_equal(y, reference.flip2d(x, flipped))
    np.testing.assert_array_equal(kernels.flip2d(y, flipped), x)
    np.testing.assert_array_equal(y[3], x[3, ::-1, ::-1])


WARPS = {
    "nothing": {}, "turn": {"theta": 40}, "shift": {"tx": 1.3, "ty": -2.6}, "smaller": {"zx": 1.7, "zy": 2.2},
    "larger": {"zx": 0.4, "zy": 0.7}, "far": {"tx": 11.25, "ty": -9.5},
}  # fmt: skip


@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
@pytest.mark.parametrize("fill_mode", FILL_MODES)
@pytest.mark.parametrize("size", [(5, 4), (1, 6), (3, 3)])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_warps(size, fill_mode, interpolation, dtype):
    x = random((len(WARPS), *size, 2), 1, dtype)
    matrices = np.concatenate([affine_matrices(size, **how) for how in WARPS.values()])
    check_kernel(
        {"x": x},
        lambda x: kernels.warp2d_forward(x, matrices, fill_mode, 0.5, interpolation),
        lambda dy, y, x: (kernels.warp2d_backward(dy, matrices, fill_mode, interpolation),),
        lambda x: reference.warp2d_forward(x, matrices, fill_mode, 0.5, interpolation),
        lambda dy, y, x: (reference.warp2d_backward(dy, matrices, fill_mode, interpolation),),
    )
    np.testing.assert_array_equal(kernels.warp2d_forward(x, matrices, fill_mode, 0.5, interpolation)[0], x[0])


@pytest.mark.parametrize(
    ("fill_mode", "row"),
    [
        ("nearest", "aaaaabcdddddd"), ("constant", "####abcd#####"), ("reflect", "dcbaabcddcbaa"),
        ("wrap", "abcdabcdabcda"),
    ],
)  # fmt: skip
def test_what_lies_outside(fill_mode, row):
    x = np.array([1.0, 2, 3, 4]).reshape(1, 1, 4, 1)
    shifts = affine_matrices((1, 4), tx=np.arange(-4, 9))
    seen = kernels.warp2d_forward(np.repeat(x, 13, axis=0), shifts, fill_mode, 0.0)[:, 0, 0, 0]
    assert "".join("#abcd"[int(number)] for number in seen) == row


def test_a_place_between_two_copies_of_the_image():
    x = np.array([1.0, 2, 3, 4]).reshape(1, 1, 4, 1)
    cases = (-0.25, "wrap", 4), (3.25, "wrap", 1), (-0.25, "constant", 0.75), (3.5, "constant", 2)
    for at, fill_mode, value in cases:
        assert kernels.warp2d_forward(x, affine_matrices((1, 4), tx=at), fill_mode)[0, 0, 0, 0] == value
