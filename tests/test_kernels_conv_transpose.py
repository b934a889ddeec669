"""Transposed convolution: against plain loops and central differences, and as Conv2D the other way round."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import assert_adjoint, assert_same, check_kernel, check_without_dx, noncontiguous, random

from minicnn.kernels import conv2d_forward, conv2d_transpose_backward, conv2d_transpose_forward, reference

# x shape, (KH, KW), how the window moves
CASES = [
    ((2, 3, 4, 2), (3, 3), {}),
    ((1, 3, 2, 2), (3, 2), {"stride": 2}),
    ((2, 2, 3, 1), (2, 2), {"stride": 3}),  # the stamps lie apart
    ((1, 2, 3, 3), (3, 3), {"stride": (3, 2), "output_padding": (2, 0)}),
    ((2, 3, 3, 2), (3, 3), {"padding": "same"}),
    ((1, 3, 4, 2), (2, 4), {"padding": "same"}),
    ((1, 3, 2, 2), (3, 3), {"padding": "same", "stride": 2}),
    ((1, 3, 2, 1), (5, 1), {"padding": "same", "stride": (2, 3), "output_padding": (0, 2)}),
    ((1, 2, 2, 2), (2, 2), {"padding": "same", "stride": 2, "output_padding": 1}),
    ((1, 3, 4, 2), (3, 2), {"dilation": (1, 2)}),
    ((1, 4, 3, 2), (3, 3), {"dilation": 2, "padding": "same"}),
    ((3, 1, 2, 2), (1, 1), {}),
    ((1, 1, 1, 1), (3, 3), {"padding": "same"}),
]
IDS = [f"{shape}-{kernel}-{geometry}".replace(" ", "") for shape, kernel, geometry in CASES]
FILTERS = 3


def arrays(shape, kernel, dtype=np.float64):
    return random(shape, 1, dtype), random((*kernel, FILTERS, shape[-1]), 2, dtype), random((FILTERS,), 3, dtype)


def check(forward, backward, x, w, b, **geometry):
    check_kernel(
        {"x": x, "w": w, "b": b},
        lambda x, w, b: forward(x, w, b, **geometry),
        lambda dy, y, x, w, b: backward(dy, x, w, **geometry),
        lambda x, w, b: reference.conv2d_transpose_forward(x, w, b, **geometry),
        lambda dy, y, x, w, b: reference.conv2d_transpose_backward(dy, x, w, **geometry),
    )


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(("shape", "kernel", "geometry"), CASES, ids=IDS)
def test_conv2d_transpose(shape, kernel, geometry, dtype):
    check(conv2d_transpose_forward, conv2d_transpose_backward, *arrays(shape, kernel, dtype), **geometry)


@pytest.mark.parametrize(("shape", "kernel", "geometry"), CASES, ids=IDS)
def test_noncontiguous_arrays_and_no_dx(shape, kernel, geometry):
    x, w, b = (noncontiguous(a) for a in arrays(shape, kernel))
    check(conv2d_transpose_forward, conv2d_transpose_backward, x, w, b, **geometry)
    dy = random(conv2d_transpose_forward(x, w, b, **geometry).shape, 4)
    full = conv2d_transpose_backward(dy, x, w, **geometry)
    check_without_dx(lambda need_dx: conv2d_transpose_backward(dy, x, w, **geometry, need_dx=need_dx), full)


@pytest.mark.cpu
@pytest.mark.parametrize(("shape", "kernel", "geometry"), CASES[:7], ids=IDS[:7])
def test_the_reference_implementation_passes_the_same_check(shape, kernel, geometry):
    x, w, b = arrays((1, *shape[1:3], 1), kernel)
    check(
        reference.conv2d_transpose_forward, reference.conv2d_transpose_backward, x, w[..., :2, :].copy(), b[:2].copy(),
        **geometry,
    )  # fmt: skip


@pytest.mark.parametrize(("shape", "kernel", "geometry"), CASES, ids=IDS)
def test_it_is_the_transpose_of_a_convolution(shape, kernel, geometry):
    """<conv(z), x> = <z, transposed(x)> for all z and x, with the same kernel: that is what the name means."""
    x, w, _ = arrays(shape, kernel)
    z_shape = conv2d_transpose_forward(x, w, **geometry).shape
    moves = {name: value for name, value in geometry.items() if name != "output_padding"}
    assert_adjoint(
        lambda x: conv2d_transpose_forward(x, w, **geometry), lambda z: conv2d_forward(z, w, **moves), x, z_shape
    )


def test_an_example_to_do_by_hand():
    x = np.array([[1.0, 2.0]]).reshape(1, 1, 2, 1)
    w = np.array([[1.0, 10.0, 100.0]]).reshape(1, 3, 1, 1)
    y = conv2d_transpose_forward(x, w, np.array([5.0]), (1, 2))  # 1·w begins at 0, 2·w at 2
    np.testing.assert_array_equal(y.ravel(), [6, 15, 107, 25, 205])
    same = conv2d_transpose_forward(x, w, None, (1, 2), "same")
    np.testing.assert_array_equal(same.ravel(), [1, 10, 102, 20])
    dx, dw, db = conv2d_transpose_backward(np.ones_like(y), x, w, (1, 2))
    np.testing.assert_array_equal(dx.ravel(), [111, 111])
    np.testing.assert_array_equal(dw.ravel(), [3, 3, 3])
    np.testing.assert_array_equal(db, [5])


def assigned(x, w, b, stride=1, padding="valid", dilation=1, output_padding=None):
    """A famous bug: stamps that overlap replace each other, `=` in place of `+=`."""
    y = np.zeros_like(conv2d_transpose_forward(x, w, b, stride, padding, dilation, output_padding))
    for i in range(x.shape[1]):
        for j in range(x.shape[2]):
            stamp = np.einsum("nc,ijfc->nijf", x[:, i, j], w)
            y[:, i * stride : i * stride + len(w), j * stride : j * stride + w.shape[1]] = stamp
    return y + b


def turned(x, w, b, **geometry):
    """Another one: the kernel turned by 180 degrees, as if a convolution of x were asked for."""
    return conv2d_transpose_forward(x, w[::-1, ::-1], b, **geometry)


@pytest.mark.cpu
@pytest.mark.parametrize("broken", [assigned, turned])
def test_famous_bugs_are_found(broken):
    with pytest.raises(AssertionError, match="y: off by"):
        check(broken, conv2d_transpose_backward, *arrays((1, 3, 3, 2), (3, 3)), stride=2)


def test_stamps_that_do_not_overlap():
    """Only there the bug above cannot be seen: so the check above uses a stride below the kernel."""
    x, w, b = arrays((1, 3, 3, 2), (2, 2))
    assert_same(conv2d_transpose_forward(x, w, b, stride=2), assigned(x, w, b, stride=2), 1e-12)
