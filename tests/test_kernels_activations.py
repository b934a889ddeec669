import math

import numpy as np
import pytest
from helpers import assert_same, check_activation, distinct, noncontiguous, random

from minicnn import kernels
from minicnn.kernels import reference

KERNELS = [
    ("relu", ()),
    ("leaky_relu", (0.3,)),
    ("leaky_relu", (0.0,)),
    ("elu", ()),
    ("elu", (0.5,)),
    ("elu", (1.7,)),
    ("sigmoid", ()),
    ("tanh", ()),
    ("gelu", ()),
    ("gelu", (True,)),
    *((name, ()) for name in (
        "silu", "mish", "softplus", "softsign", "selu", "relu6", "hard_sigmoid", "exponential",
    )),
]
FROM_X = ("gelu", "silu", "mish")  # whose backward kernels read x
IDS = [f"{name}{arguments}" for name, arguments in KERNELS]


def pair_of(module, name):
    return getattr(module, f"{name}_forward"), getattr(module, f"{name}_backward")


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("shape", [(5, 7), (2, 3, 4, 2), (1, 6), (2, 4, 3)])
@pytest.mark.parametrize(("name", "arguments"), KERNELS, ids=IDS)
def test_activation(name, arguments, shape, dtype):
    x = distinct(shape, 1, dtype) * dtype(20)
    check_activation(*pair_of(kernels, name), name, x, *arguments)
    check_activation(*pair_of(kernels, name), name, noncontiguous(x), *arguments)


@pytest.mark.cpu
@pytest.mark.parametrize(("name", "arguments"), KERNELS, ids=IDS)
def test_the_reference_implementation_passes_the_same_check(name, arguments):
    check_activation(*pair_of(reference, name), name, distinct((5, 7)) * 20, *arguments)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(("name", "arguments"), KERNELS, ids=IDS)
def test_far_out_nothing_overflows(name, arguments, dtype):
    x = np.array([-1000, -100, -30, 0, 30, 100, 1000], dtype)
    if name == "exponential":
        x = x[:5]
    forward, backward = pair_of(kernels, name)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        y = forward(x, *arguments)
        dx = backward(np.ones_like(x), x if name in FROM_X else y, *arguments)
    naive_forward, naive_backward = pair_of(reference, name)
    expected = naive_forward(x, *arguments)
    tolerance = {np.float64: 1e-15, np.float32: 1e-6}[dtype] * (30 if name == "silu" else 1)  # of 30 times a sigmoid
    assert_same(y, expected, tolerance, "y")
    assert_same(
        dx, naive_backward(np.ones_like(x), x if name in FROM_X else expected, *arguments), tolerance, "dx"
    )


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "elu"])
def test_the_slope_at_the_kink(name):
    """At 0: relu 0, leaky relu its negative slope, elu alpha."""
    arguments = {"relu": (), "leaky_relu": (0.3,), "elu": (0.5,)}[name]
    zero, two = np.zeros((1, 1)), np.full((1, 1), 2.0)
    forward, backward = pair_of(kernels, name)
    expected = 2 * {"relu": 0.0, "leaky_relu": 0.3, "elu": 0.5}[name]
    assert backward(two, forward(zero, *arguments), *arguments).item() == expected


def test_gelu_is_as_exact_as_the_error_function():
    x = np.concatenate([np.linspace(-9, 9, 4001), [-40.0, -1e-300, 0.0, 1e-300, 40.0]])
    erf = np.array([math.erf(v / math.sqrt(2)) for v in x])
    np.testing.assert_allclose(kernels.gelu_forward(x), 0.5 * x * (1 + erf), rtol=0, atol=2e-15 * 9)
    middle = np.abs(x) < 2
    relative = np.abs(kernels.gelu_forward(x) - 0.5 * x * (1 + erf))[middle] / np.abs(x[middle]).clip(
        1e-300
    )
    assert relative.max() < 1e-15


def test_gelu_in_float32_is_wrong_by_less_than_a_millionth():
    x = np.concatenate([np.linspace(-13, 13, 40_001), [-1e30, -40, -0.0, 0, 1e-30, 40, 1e30]]).astype(np.float32)
    phi = np.array([0.5 * math.erfc(-float(v) / math.sqrt(2)) for v in x])
    density = np.exp(-0.5 * np.minimum(np.abs(x.astype(float)), 50) ** 2) / math.sqrt(2 * math.pi)
    y, slope = kernels.gelu_with_slope(x)
    assert y.dtype == slope.dtype == np.float32
    np.testing.assert_allclose(y, x * phi, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(slope, phi + x * density, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(y, kernels.gelu_forward(x))
    np.testing.assert_array_equal(slope, kernels.gelu_backward(np.ones_like(x), x))


@pytest.mark.parametrize("approximate", [False, True])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_gelu_and_its_slope_at_once(dtype, approximate):
    x = random((3, 5, 2), 1, dtype) * dtype(3)
    found, expected = kernels.gelu_with_slope(x, approximate), reference.gelu_with_slope(x, approximate)
    for a, b in zip(found, expected, strict=True):
        assert_same(a, b, 1e-6 if dtype == np.float32 else 1e-14)
    assert np.isnan(kernels.gelu_with_slope(np.full(2, np.nan, dtype), approximate)).all()


def test_approximate_gelu_is_near_the_exact_one_but_not_it():
    x = random((100,), 3)
    difference = np.abs(kernels.gelu_forward(x) - kernels.gelu_forward(x, approximate=True)).max()
    assert 1e-5 < difference < 1e-3


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("shape", [(5, 7), (2, 3, 4, 2), (1, 6)])
def test_bias_and_relu_together(shape, dtype):
    z, b = random(shape, 1, dtype), random(shape[-1:], 2, dtype)
    before = b.copy()
    expected = reference.bias_relu(z, b)
    y = kernels.bias_relu(z, b)
    assert_same(y, expected, 1e-6 if dtype is np.float32 else 1e-12)
    assert np.shares_memory(y, z) and y.dtype == dtype
    np.testing.assert_array_equal(b, before)
