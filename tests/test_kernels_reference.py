"""Every kernel has a reference implementation; those that go another way give what the loops give."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from helpers import random

from minicnn import kernels
from minicnn.kernels import reference
from minicnn.optimizers import SGD, Adam

GEOMETRIES = [(1, "valid", 1), (1, "same", 1), (2, "same", 1), ((2, 1), ((1, 0), (2, 1)), 1), (1, "valid", (2, 1))]


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_convolution_by_matrices_gives_what_the_loops_give(geometry):
    x, w, b = random((2, 5, 6, 2), 1), random((3, 2, 2, 3), 2), random((3,), 3)
    y = reference.conv2d_forward(x, w, b, *geometry)
    np.testing.assert_allclose(reference.conv2d_product(x, w, b, *geometry), y, atol=1e-12)
    np.testing.assert_allclose(reference.conv2d_product(x, w, None, *geometry), y - b, atol=1e-12)
    dy = random(y.shape, 4)
    dx, dw, _ = reference.conv2d_backward(dy, x, w, *geometry)
    np.testing.assert_allclose(reference.conv2d_dw(dy, x, w, *geometry), dw, atol=1e-12)
    np.testing.assert_allclose(reference.conv2d_dx(dy, x.shape, w, *geometry), dx, atol=1e-12)


@pytest.mark.parametrize("padding", ["valid", "same", 1, ((0, 2), (1, 0))])
def test_dx_is_a_convolution_with_the_turned_kernel(padding):
    x, w = random((2, 5, 6, 2), 1), random((3, 2, 2, 3), 2)
    dy = random(reference.conv2d_forward(x, w, None, 1, padding).shape, 4)
    dx, _, _ = reference.conv2d_backward(dy, x, w, 1, padding)
    np.testing.assert_allclose(reference.conv2d_dx_turned(dy, x.shape, w, padding), dx, atol=1e-12)


def test_winograd_gives_two_outputs_of_a_filter_of_three():
    d, g = random((4, 5), 1), random((3, 5), 2)
    right = [(d[i : i + 3] * g).sum(axis=0) for i in (0, 1)]
    np.testing.assert_allclose(reference.winograd_f23(d, g), right, atol=1e-12)


@pytest.mark.parametrize("optimizer", [SGD(0.1), SGD(0.1, momentum=0.9), Adam(0.1)])
def test_the_steps_are_those_of_the_optimizers(optimizer):
    p = random((4,), 1)
    mine, m, v = p.copy(), np.zeros(4), np.zeros(4)
    for t in range(1, 4):
        g = random((4,), t + 1)
        optimizer.apply({("layer", "w"): p}, {("layer", "w"): [g.copy()]})
        if isinstance(optimizer, Adam):
            mine, m, v = reference.adam_step(mine, g, m, v, t, 0.1, 0.9, 0.999, 1e-7)
        elif optimizer.momentum:
            mine, m = reference.momentum_step(mine, g, m, 0.1, 0.9)
        else:
            mine = reference.sgd_step(mine, g, 0.1)
        np.testing.assert_allclose(mine, p, rtol=1e-12)


@pytest.mark.parametrize("name", [name for name in kernels.__all__ if name not in ("dropout_mask", "mask_for")])
def test_every_kernel_has_a_reference_implementation_with_the_same_arguments(name):
    """All but the masks of dropout, which are drawn at random.

    There is no choice of algorithm or memory in it, and it is told no moments that somebody has found before.
    """

    def arguments(function):
        return [(p.name, p.default, p.kind) for p in inspect.signature(function).parameters.values()
                if p.name not in ("algorithm", "out", "moments")]  # fmt: skip

    fast, naive = getattr(kernels, name), getattr(reference, name)
    assert arguments(fast) == arguments(naive)
    assert inspect.getdoc(fast)
    assert inspect.getdoc(naive)
