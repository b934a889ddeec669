"""Kernels that join arrays: against plain loops and central differences, over a grid of shapes, numbers and axes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from helpers import TOLERANCE, assert_adjoint, assert_same, distinct, noncontiguous, numeric_gradient, random, unchanged

from minicnn import kernels
from minicnn.kernels import reference

BATCHES = [  # of arrays that are joined element by element, with the batch axis
    [(2, 3)],
    [(2, 3), (2, 3)],
    [(1, 1), (1, 1), (1, 1)],
    [(2, 3, 4, 2), (2, 3, 4, 2), (2, 3, 4, 2)],
    [(2, 3, 4, 2), (2, 1, 1, 2)],  # one number for a channel
    [(2, 3, 1, 2), (2, 1, 4, 2)],  # both are repeated
    [(3, 1), (3, 5), (3, 5), (3, 1)],
    [(2, 1, 4, 1), (2, 3, 1, 2), (2, 3, 4, 2)],
]
NAMES = ["add", "subtract", "multiply", "average", "maximum"]
CASES = [(name, shapes) for name, shapes in itertools.product(NAMES, BATCHES) if name != "subtract" or len(shapes) == 2]
IDS = [f"{name} {shapes}".replace(" ", "") for name, shapes in CASES]
JOINS = [
    ([(2, 3), (2, 1)], -1),
    ([(2, 3, 4, 2), (2, 3, 4, 1), (2, 3, 4, 5)], -1),
    ([(2, 3, 4, 2), (2, 1, 4, 2)], 1),
    ([(2, 3, 4, 2), (2, 3, 1, 2), (2, 3, 4, 2)], 2),
    ([(1, 2, 2, 1)], 3),
    ([(2, 3, 2), (2, 3, 2)], -2),
]
PADS = [((0, 0), (0, 0)), ((1, 1), (1, 1)), ((2, 0), (0, 3)), ((0, 1), (4, 0))]


def inputs(shapes, dtype=np.float64) -> list[np.ndarray]:
    """No two numbers are equal or close: a maximum has no ties, a product no zero."""
    every = distinct((sum(int(np.prod(shape)) for shape in shapes),), seed=len(shapes))
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1]
    return [part.reshape(shape).astype(dtype) for part, shape in zip(np.split(every, ends), shapes, strict=True)]


def functions(name: str, module, xs: list[np.ndarray]):
    """(forward() -> y, backward(dy) -> dxs) of a module on these arrays."""
    forward, backward = getattr(module, f"{name}_forward"), getattr(module, f"{name}_backward")
    if name == "maximum":
        winner = forward(xs)[1]
        return lambda: forward(xs)[0], lambda dy: backward(dy, winner, [x.shape for x in xs])
    if name == "multiply":
        return lambda: forward(xs), lambda dy: backward(dy, xs)
    return lambda: forward(xs), lambda dy: backward(dy, [x.shape for x in xs])


def check(xs, ours, plain) -> None:
    """Values, gradients, dtype; nothing that came in has changed, and nothing of it is handed out but dy itself."""
    tolerance = TOLERANCE[xs[0].dtype]
    with unchanged(*xs):
        y = ours[0]()
    assert y.dtype == xs[0].dtype and y.flags.c_contiguous and not any(np.shares_memory(y, x) for x in xs)
    assert_same(y, plain[0](), tolerance, "y")
    dy = random(y.shape, seed=9, dtype=xs[0].dtype)
    with unchanged(*xs, dy):
        dxs, expected = ours[1](dy), plain[1](dy)
    assert isinstance(dxs, list) and len(dxs) == len(xs)
    for k, (x, dx, right) in enumerate(zip(xs, dxs, expected, strict=True)):
        assert dx.dtype == x.dtype and dx.shape == x.shape
        assert not any(np.shares_memory(dx, other) for other in xs)
        assert dx is dy or not np.shares_memory(dx, dy) or np.array_equal(dx, dy)
        assert_same(dx, right, tolerance, f"dx[{k}]")
        if x.dtype == np.float64:
            numeric = numeric_gradient(ours[0], x, dy)
            assert np.abs(numeric).max() > 1e-6 or not right.any(), f"dx[{k}]: the check is blind"
            np.testing.assert_allclose(dx, numeric, rtol=1e-6, atol=1e-8, err_msg=f"dx[{k}] (numeric)")


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(("name", "shapes"), CASES, ids=IDS)
def test_element_by_element(name, shapes, dtype):
    xs = inputs(shapes, dtype)
    check(xs, functions(name, kernels, xs), functions(name, reference, xs))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(("shapes", "axis"), JOINS, ids=str)
def test_concatenate(shapes, axis, dtype):
    xs = inputs(shapes, dtype)
    pairs = [
        (lambda m=m: m.concatenate_forward(xs, axis), lambda dy, m=m: m.concatenate_backward(dy, shapes, axis))
        for m in (kernels, reference)
    ]
    check(xs, *pairs)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("pads", PADS, ids=str)
def test_zero_padding2d(pads, dtype):
    x = random((2, 3, 4, 2), dtype=dtype)
    pairs = [
        (lambda m=m: m.zero_padding2d_forward(x, pads), lambda dy, m=m: [m.zero_padding2d_backward(dy, pads)])
        for m in (kernels, reference)
    ]
    check([x], *pairs)
    if dtype == np.float64:
        y = kernels.zero_padding2d_forward(x, pads)
        forward, backward = kernels.zero_padding2d_forward, kernels.zero_padding2d_backward
        assert_adjoint(lambda v: forward(v, pads), lambda d: backward(d, pads), x, y.shape)


@pytest.mark.parametrize("name", NAMES)
def test_arrays_with_gaps_between_their_numbers(name):
    xs = [noncontiguous(x) for x in inputs([(2, 3, 4, 2), (2, 3, 4, 2)])]
    for number, right in zip(functions(name, kernels, xs), functions(name, reference, xs), strict=True):
        arguments = () if number.__code__.co_argcount == 0 else (noncontiguous(random((2, 3, 4, 2), seed=4)),)
        results, expected = number(*arguments), right(*arguments)
        for one, other in zip(results, expected, strict=True):
            assert_same(one, other, 1e-11)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_of_equal_numbers_the_first_receives_the_gradient(dtype):
    xs = [np.array([[1.0, 2.0, 3.0]], dtype), np.array([[1.0, 2.5, 2.0]], dtype), np.array([[1.0, 2.5, 3.0]], dtype)]
    y, winner = kernels.maximum_forward(xs)
    np.testing.assert_array_equal(y, [[1.0, 2.5, 3.0]])
    np.testing.assert_array_equal(winner, [[0, 1, 0]])
    dxs = kernels.maximum_backward(np.array([[5.0, 6.0, 7.0]], dtype), winner, [(1, 3)] * 3)
    np.testing.assert_array_equal(dxs, [[[5, 0, 7]], [[0, 6, 0]], [[0, 0, 0]]])


def test_nan_is_passed_on():
    """A maximum that lost it would hide where a training broke."""
    one, nan = np.ones((1, 2), np.float32), np.array([[np.nan, 0]], np.float32)
    for xs in ([one, nan], [nan, one]):
        assert np.isnan(kernels.maximum_forward(xs)[0][0, 0]) and kernels.maximum_forward(xs)[0][0, 1] == 1


def test_the_gradient_of_a_square_is_that_of_a_product_with_itself():
    x = random((2, 3))
    dy = random((2, 3), seed=1)
    np.testing.assert_allclose(sum(kernels.multiply_backward(dy, [x, x])), 2 * x * dy)


def test_the_largest_of_more_than_127():
    xs = [np.full((1, 2), k, np.float32) for k in range(300)]
    y, winner = kernels.maximum_forward(xs)
    assert y[0, 0] == 299
    assert winner[0, 0] == 299
    dxs = kernels.maximum_backward(np.ones((1, 2), np.float32), winner, [(1, 2)] * 300)
    assert [k for k, dx in enumerate(dxs) if dx.any()] == [299]
    assert kernels.maximum_forward(xs[:128])[1].dtype == np.int8
