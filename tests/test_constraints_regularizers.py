"""Constraints and regularizers, against Keras 3's values and the numeric gradient."""

import numpy as np
import pytest

from minicnn import constraints, regularizers
from minicnn.errors import InputError, UnknownNameError


def config_dict(obj):
    return {"class_name": type(obj).__name__, "config": obj.get_config()}


W = np.arange(1, 7, dtype=np.float32).reshape(2, 3) / 2


def test_max_norm_equals_keras():
    keras = [[0.4850712716579437, 0.7427813410758972, 0.8944271802902222],
             [1.940285086631775, 1.8569533824920654, 1.7888543605804443]]  # fmt: skip
    np.testing.assert_allclose(constraints.MaxNorm(2)(W), keras, rtol=1e-6)


def test_unit_norm_equals_keras():
    keras = [[0.24253563582897186, 0.3713906705379486, 0.4472135901451111],
             [0.9701425433158875, 0.9284766912460327, 0.8944271802902222]]  # fmt: skip
    np.testing.assert_allclose(constraints.UnitNorm()(W), keras, rtol=1e-6)


def test_max_norm_leaves_short_vectors_and_zeros_alone(device_of_test):
    w = np.array([[0.3, 0.0], [0.4, 0.0]])
    np.testing.assert_allclose(constraints.MaxNorm(1)(w), w, rtol=1e-6)
    if device_of_test == "cpu":  # on a GPU one would have to wait for the answer
        assert constraints.MaxNorm(1)(w) is w
    np.testing.assert_allclose(constraints.MaxNorm(0.4)(w), w * 0.8, rtol=1e-6)  # only the first is too long


def test_norms_along_axes_that_are_not_there():
    with pytest.raises(InputError, match="an axis is not there"):
        constraints.MaxNorm(1, axis=(0, 1, 2))(W)


def test_max_norm_of_conv_filters():
    w = np.random.default_rng(0).normal(size=(3, 3, 4, 5))
    out = constraints.MaxNorm(1.5, axis=[0, 1, 2])(w)
    norms = np.sqrt((w**2).sum((0, 1, 2)))
    assert (norms > 1.5).all()
    np.testing.assert_allclose(np.sqrt((out**2).sum((0, 1, 2))), np.full(5, 1.5), rtol=1e-6)


@pytest.mark.parametrize("name", ["max_norm", "maxnorm", "MaxNorm", "non_neg", "NonNeg", "unit_norm"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_constraints_return_new_arrays_of_the_same_dtype(name, dtype):
    w = -W.astype(dtype)
    before = w.copy()
    out = constraints.get(name)(w)
    assert out.dtype == dtype and out.shape == w.shape and not np.shares_memory(out, w)
    np.testing.assert_array_equal(w, before)


def test_non_neg():
    np.testing.assert_array_equal(constraints.NonNeg()(np.array([-1.0, 0.0, 2.0])), [0, 0, 2])


def test_constraint_aliases_and_config():
    assert constraints.maxnorm is constraints.max_norm is constraints.MaxNorm
    assert constraints.maxnorm(3).max_value == 3
    again = constraints.get(config_dict(constraints.MaxNorm(3, axis=[0, 1, 2])))
    assert again.get_config() == {"max_value": 3, "axis": [0, 1, 2]}
    assert constraints.get(None) is None
    with pytest.raises(UnknownNameError, match="did you mean 'max_norm'"):
        constraints.get("max_nrom")


@pytest.mark.parametrize(
    ("reg", "expected"),
    [
        (regularizers.L1(0.1), 0.1 * 10.5),
        (regularizers.L2(0.2), 0.2 * 22.75),
        (regularizers.L1L2(0.1, 0.2), 0.1 * 10.5 + 0.2 * 22.75),
    ],
)
def test_penalty(reg, expected):
    signs = np.array([[1, -1, 1], [-1, 1, -1]], np.float32)
    for w in (W, W * signs):
        assert isinstance(reg.penalty(w), float)
        assert reg.penalty(w) == pytest.approx(expected, rel=1e-12)
        assert reg(w) == reg.penalty(w)


@pytest.mark.parametrize("reg", [regularizers.L1(0.3), regularizers.L2(0.3), regularizers.L1L2(0.3, 0.7)])
def test_gradient_equals_central_differences(reg):
    w = np.random.default_rng(1).normal(size=(4, 3))
    numeric, h = np.empty_like(w), 1e-6
    for i in np.ndindex(w.shape):
        up, down = w.copy(), w.copy()
        up[i] += h
        down[i] -= h
        numeric[i] = (reg.penalty(up) - reg.penalty(down)) / (2 * h)
    assert np.abs(numeric).min() > 0.01
    np.testing.assert_allclose(reg.gradient(w), numeric, rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["l1", "l2", "l1_l2"])
def test_gradient_keeps_the_dtype(name, dtype):
    assert regularizers.get(name).gradient(W.astype(dtype)).dtype == dtype


def test_regularizer_defaults_names_and_config():
    assert regularizers.get("l1").l1 == 0.01 and regularizers.get("L2").l2 == 0.01
    assert regularizers.get("l1_l2").get_config() == {"l1": 0.01, "l2": 0.01}
    assert regularizers.L1L2(l2=0.1).get_config() == {"l1": 0.0, "l2": 0.1}
    assert regularizers.get(config_dict(regularizers.L1L2(0.0, 0.5))).get_config() == {"l1": 0.0, "l2": 0.5}
    assert regularizers.l2(0.5).l2 == 0.5
    assert regularizers.get(None) is None
    with pytest.raises(UnknownNameError, match="l1_l2"):
        regularizers.get("l3")


@pytest.mark.parametrize("factor", [-0.1, float("nan"), float("inf")])
def test_impossible_factors(factor):
    with pytest.raises(InputError, match="l2 does not fit"):
        regularizers.L2(factor)


@pytest.mark.parametrize(
    "make",
    [
        lambda: constraints.MaxNorm(-1), lambda: constraints.MaxNorm(None), lambda: constraints.MaxNorm("2"),
        lambda: constraints.MaxNorm(2, axis=None), lambda: constraints.MaxNorm(2, axis="a"),
        lambda: constraints.MaxNorm(2, axis=[0, 0.5]), lambda: constraints.UnitNorm(axis=[]),
        lambda: constraints.MinMaxNorm(rate=2), lambda: constraints.MinMaxNorm(min_value=-1),
        lambda: regularizers.L1("a"), lambda: regularizers.L2(np.nan), lambda: regularizers.L1L2(l2=-1),
        lambda: regularizers.get(lambda w: (w * w).sum()), lambda: regularizers.L2([0.1]),
    ],
)  # fmt: skip
def test_what_is_refused(make):
    with pytest.raises(InputError):
        make()


def test_none_is_the_default_of_keras():
    assert regularizers.L1(None).l1 == 0.01 and regularizers.L2(None).l2 == 0.01
    assert regularizers.L1L2(None, None).get_config() == {"l1": 0.0, "l2": 0.0}
    assert regularizers.get("l1l2").get_config() == {"l1": 0.01, "l2": 0.01}
