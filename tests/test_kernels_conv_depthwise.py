"""Depthwise and grouped convolutions: against plain loops and central differences."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import assert_same, check_kernel, check_without_dx, noncontiguous, random

from minicnn.kernels import (
    conv2d_forward,
    depthwise_conv2d_backward,
    depthwise_conv2d_forward,
    grouped_conv2d_backward,
    grouped_conv2d_forward,
    reference,
)

# x shape, (KH, KW), how the window moves
CASES = [
    ((2, 4, 5, 4), (3, 3), {}),
    ((1, 4, 3, 2), (2, 3), {"padding": "same"}),
    ((2, 5, 4, 2), (3, 2), {"padding": "same", "stride": 2}),
    ((1, 5, 6, 4), (2, 2), {"stride": (3, 1)}),
    ((1, 4, 4, 2), (2, 2), {"padding": ((2, 0), (1, 3)), "stride": (1, 2)}),
    ((1, 5, 4, 2), (2, 3), {"dilation": (3, 1), "padding": 1}),
    ((3, 2, 3, 2), (1, 1), {}),
    ((1, 2, 2, 2), (3, 3), {"padding": "same"}),  # the window is larger than the image
]
IDS = [f"{shape}-{kernel}-{geometry}".replace(" ", "") for shape, kernel, geometry in CASES]
OPTIONS = [("depthwise", 1), ("depthwise", 3), ("grouped", 1), ("grouped", 2)]  # the multiplier, or the groups
KERNELS = {
    "depthwise": (depthwise_conv2d_forward, depthwise_conv2d_backward),
    "grouped": (grouped_conv2d_forward, grouped_conv2d_backward),
}
REFERENCES = {
    "depthwise": (reference.depthwise_conv2d_forward, reference.depthwise_conv2d_backward),
    "grouped": (reference.grouped_conv2d_forward, reference.grouped_conv2d_backward),
}


def arrays(kind, option, shape, kernel, dtype=np.float64):
    c = shape[-1]
    w_shape = (*kernel, c, option) if kind == "depthwise" else (*kernel, c // option, 4)
    outputs = c * option if kind == "depthwise" else 4
    return random(shape, 1, dtype), random(w_shape, 2, dtype), random((outputs,), 3, dtype)


def check(kind, option, forward, backward, x, w, b, **geometry):
    geometry |= {"groups": option} if kind == "grouped" else {}
    expected_forward, expected_backward = REFERENCES[kind]
    check_kernel(
        {"x": x, "w": w, "b": b},
        lambda x, w, b: forward(x, w, b, **geometry),
        lambda dy, y, x, w, b: backward(dy, x, w, **geometry),
        lambda x, w, b: expected_forward(x, w, b, **geometry),
        lambda dy, y, x, w, b: expected_backward(dy, x, w, **geometry),
    )
    dy = random(forward(x, w, b, **geometry).shape, 4, x.dtype)
    full = backward(dy, x, w, **geometry)
    check_without_dx(lambda need_dx: backward(dy, x, w, **geometry, need_dx=need_dx), full)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(("shape", "kernel", "geometry"), CASES, ids=IDS)
@pytest.mark.parametrize(("kind", "option"), OPTIONS)
def test_they_are_what_the_loops_say(kind, option, shape, kernel, geometry, dtype):
    x, w, b = arrays(kind, option, shape, kernel, dtype)
    check(kind, option, *KERNELS[kind], x, w, b, **geometry)
    if dtype == np.float32:
        check(kind, option, *KERNELS[kind], *map(noncontiguous, (x, w, b)), **geometry)


@pytest.mark.cpu
@pytest.mark.parametrize(("shape", "kernel", "geometry"), CASES[2:5], ids=IDS[2:5])
@pytest.mark.parametrize(("kind", "option"), OPTIONS)
def test_the_reference_implementation_passes_the_same_check(kind, option, shape, kernel, geometry):
    check(kind, option, *REFERENCES[kind], *arrays(kind, option, (1, *shape[1:3], 2), kernel), **geometry)


@pytest.mark.parametrize(("shape", "kernel", "geometry"), CASES, ids=IDS)
def test_one_group_is_a_convolution(shape, kernel, geometry):
    x, w, b = arrays("grouped", 1, shape, kernel)
    assert_same(grouped_conv2d_forward(x, w, b, 1, **geometry), conv2d_forward(x, w, b, **geometry), 1e-12)


@pytest.mark.parametrize("multiplier", [1, 3])
def test_depthwise_is_a_group_for_each_channel(multiplier):
    x, w, b = arrays("depthwise", multiplier, (2, 5, 4, 3), (3, 2))
    grouped = grouped_conv2d_forward(x, w.reshape(3, 2, 1, -1), b, 3)
    assert_same(depthwise_conv2d_forward(x, w, b), grouped, 1e-12)


def test_other_algorithms_compute_groups_as_well():
    x, w, b = arrays("grouped", 2, (2, 6, 6, 4), (3, 3))
    y = grouped_conv2d_forward(x, w, b, 2)
    dy = random(y.shape, 5)
    for algorithm in ("winograd", "shifted", "fft", "auto"):
        assert_same(grouped_conv2d_forward(x, w, b, 2, algorithm=algorithm), y, 1e-10)
        found = grouped_conv2d_backward(dy, x, w, 2, algorithm=algorithm)
        for one, other in zip(found, grouped_conv2d_backward(dy, x, w, 2), strict=True):
            assert_same(one, other, 1e-10)


def test_many_images_are_summed_in_pieces():
    """More than fit into one tile; the sum over their pixels stays exact in float32."""
    x, w = np.ones((64, 40, 40, 8), np.float32), np.ones((1, 1, 8, 1), np.float32)
    y = depthwise_conv2d_forward(x, w)
    dx, dw, db = depthwise_conv2d_backward(np.full_like(y, 0.1), x, w)
    np.testing.assert_allclose(dw.ravel(), 64 * 1600 * np.float64(np.float32(0.1)), rtol=1e-6)
    np.testing.assert_allclose(db, dw.ravel(), rtol=1e-6)
    np.testing.assert_array_equal(dx, np.float32(0.1))


def mixed(x, w, b, **geometry):
    """A famous bug: the channels of y stand kernel by kernel, not channel by channel."""
    y = depthwise_conv2d_forward(x, w, None, **geometry)
    return np.ascontiguousarray(y.reshape(*y.shape[:3], *w.shape[2:]).swapaxes(3, 4)).reshape(y.shape) + b


def summed(x, w, b, **geometry):
    """Another one: all channels are added up, as in Conv2D."""
    y = depthwise_conv2d_forward(x, w, None, **geometry)
    return np.repeat(y.sum(axis=-1, keepdims=True), y.shape[-1], axis=-1) + b


@pytest.mark.cpu
@pytest.mark.parametrize("broken", [mixed, summed])
def test_famous_bugs_are_found(broken):
    with pytest.raises(AssertionError, match="y: off by"):
        check("depthwise", 3, broken, depthwise_conv2d_backward, *arrays("depthwise", 3, (1, 4, 4, 2), (2, 2)))
