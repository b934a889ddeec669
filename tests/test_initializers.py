"""Initializers: distributions, fans, seeds, names."""

import inspect
import math

import numpy as np
import pytest

from minicnn import initializers
from minicnn.errors import InputError, UnknownNameError
from minicnn.layers import Context, Conv2D


def config_dict(obj):
    return {"class_name": type(obj).__name__, "config": obj.get_config()}


def rng():
    return np.random.default_rng(3)


@pytest.mark.parametrize(
    ("shape", "fans"),
    [((), (1, 1)), ((7,), (7, 7)), ((9, 5), (9, 5)), ((3, 3, 16, 64), (144, 576)), ((5, 1, 2, 3), (10, 15))],
)
def test_fans(shape, fans):
    assert initializers.compute_fans(shape) == fans


@pytest.mark.parametrize(
    ("name", "variance", "bound"),
    [
        ("glorot_uniform", 2 / (144 + 576), math.sqrt(6 / (144 + 576))),
        ("glorot_normal", 2 / (144 + 576), 2 * math.sqrt(2 / (144 + 576)) / 0.87962566),
        ("he_uniform", 2 / 144, math.sqrt(6 / 144)),
        ("he_normal", 2 / 144, 2 * math.sqrt(2 / 144) / 0.87962566),
        ("lecun_uniform", 1 / 144, math.sqrt(3 / 144)),
        ("lecun_normal", 1 / 144, 2 * math.sqrt(1 / 144) / 0.87962566),
    ],
)
def test_variance_and_bound_of_scaled_initializers(name, variance, bound):
    # 9,216 values: the sample variance has a relative standard error below 1.5 %.
    w = initializers.get(name)((3, 3, 16, 64), rng(), np.float64)
    assert w.shape == (3, 3, 16, 64)
    assert abs(w.mean()) < 4 * math.sqrt(variance / w.size)
    assert w.var() == pytest.approx(variance, rel=0.06)
    assert 0.99 * bound < np.abs(w).max() <= bound


def test_untruncated_normal_reaches_beyond_two_deviations():
    w = initializers.VarianceScaling(1.0, "fan_out", "untruncated_normal")((100, 100), rng())
    assert w.std() == pytest.approx(0.1, rel=0.05)
    assert np.abs(w).max() > 0.3


def test_truncated_normal_draws_again_and_keeps_the_mean():
    w = initializers.TruncatedNormal(mean=1.0, stddev=0.5)((10000,), rng())
    assert np.abs(w - 1).max() <= 1.0
    assert w.std() == pytest.approx(0.5 * 0.8796, rel=0.03)
    assert np.unique(w).size > 9990  # drawn again, not clipped to the bound


def test_random_normal_and_uniform_defaults_are_those_of_keras():
    assert initializers.RandomNormal()((10000,), rng()).std() == pytest.approx(0.05, rel=0.05)
    u = initializers.RandomUniform()((10000,), rng())
    assert -0.05 <= u.min() < -0.049 and 0.049 < u.max() <= 0.05


def test_constants():
    np.testing.assert_array_equal(initializers.Zeros()((2, 3), rng()), np.zeros((2, 3)))
    np.testing.assert_array_equal(initializers.Ones()((2, 3), rng()), np.ones((2, 3)))
    np.testing.assert_array_equal(initializers.Constant(0.25)((4,), rng()), np.full(4, 0.25))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["zeros", "ones", "constant", "random_normal", "he_uniform", "he_normal"])
def test_dtype_is_kept(name, dtype):
    assert initializers.get(name)((3, 2), rng(), dtype).dtype == dtype


def test_float32_and_float64_start_equal():
    init = initializers.get("glorot_uniform")
    np.testing.assert_array_equal(init((8, 8), rng()), init((8, 8), rng(), np.float64).astype(np.float32))


def test_seed_of_its_own_repeats_whatever_the_generator():
    init = initializers.GlorotUniform(seed=5)
    other = np.random.default_rng(99)
    np.testing.assert_array_equal(init((4, 4), rng()), init((4, 4), other))
    assert not np.array_equal(init((4, 4)), initializers.GlorotUniform(seed=6)((4, 4)))


def test_without_a_seed_the_generator_decides_and_moves_on():
    init, generator = initializers.GlorotUniform(), rng()
    first, second = init((4, 4), generator), init((4, 4), generator)
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(first, init((4, 4), rng()))


@pytest.mark.parametrize("name", ["HeNormal", "he_normal", initializers.HeNormal, initializers.HeNormal(1)])
def test_get_accepts_names_classes_and_instances(name):
    assert isinstance(initializers.get(name), initializers.HeNormal)


@pytest.mark.parametrize(
    "init",
    [
        initializers.Constant(3.0),
        initializers.Zeros(),
        initializers.RandomNormal(1.0, 2.0, seed=4),
        initializers.RandomUniform(-1.0, 2.0, seed=4),
        initializers.TruncatedNormal(1.0, 2.0, seed=4),
        initializers.VarianceScaling(2.0, "fan_out", "uniform", seed=4),
        initializers.LecunNormal(seed=4),
    ],
)
def test_config_round_trip(init):
    again = initializers.get(config_dict(init))
    assert type(again) is type(init)
    assert list(inspect.signature(type(init)).parameters) == list(init.get_config())
    np.testing.assert_array_equal(again((5, 4)), init((5, 4)))


def test_get_wraps_a_keras_style_function():
    init = initializers.get(lambda shape, dtype=None: np.full(shape, 2, dtype))
    w = init((2, 2), rng(), np.float32)
    assert w.dtype == np.float32 and (w == 2).all()


def test_a_function_cannot_be_saved():
    with pytest.raises(InputError, match="cannot be saved"):
        initializers.get(np.ones).get_config()


def test_none_and_unknown_names():
    assert initializers.get(None) is None
    with pytest.raises(UnknownNameError, match="did you mean 'glorot_uniform'"):
        initializers.get("glorot_unifrom")
    with pytest.raises(UnknownNameError, match="fan_avg"):
        initializers.VarianceScaling(mode="fan")
    with pytest.raises(InputError, match="scale does not fit"):
        initializers.VarianceScaling(scale=0)


# --- Orthogonal, Identity, Dirac ------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (3, 3, 2, 8), (5, 5)])
def test_orthogonal_keeps_lengths(shape):
    w = initializers.Orthogonal(gain=2.0, seed=1)(shape, dtype=np.float64)
    m = w.reshape(-1, shape[-1])
    m = m if len(m) >= shape[-1] else m.T
    np.testing.assert_allclose(m.T @ m, 4 * np.eye(m.shape[1]), atol=1e-12)
    with pytest.raises(InputError, match="no matrix"):
        initializers.get("orthogonal")((3,))


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("outputs", [2, 4, 6])
def test_identity_and_dirac_hand_the_input_on(size, outputs):
    x = np.random.default_rng(0).standard_normal((2, 5, 5, 4)).astype(np.float32)
    for name in ("identity", "dirac"):
        layer = Conv2D(outputs, size, padding="same", use_bias=False, kernel_initializer=name)
        layer.build((5, 5, 4), rng())
        y = layer.forward(x, Context())
        expected = np.concatenate([x, np.zeros_like(x)], axis=-1)[..., :outputs]
        np.testing.assert_allclose(y, expected, atol=1e-6)
    np.testing.assert_array_equal(initializers.Identity(3.0)((3, 2)), 3 * np.eye(3, 2))


def test_dirac_draws_the_rest():
    rest = initializers.VarianceScaling(1 / 3, "fan_in", "uniform", seed=1)
    init = initializers.Dirac(rest)
    w = init((3, 3, 2, 50))
    np.testing.assert_array_equal(w[..., :2], initializers.Identity()((3, 3, 2, 2)))
    bound = 1 / math.sqrt(18)
    assert 0.95 * bound < np.abs(w[..., 2:]).max() <= bound
    again = initializers.Dirac.from_config(init.get_config())
    np.testing.assert_array_equal(again((3, 3, 2, 50)), w)


@pytest.mark.parametrize(
    "make",
    [
        lambda: initializers.RandomNormal(stddev=-1), lambda: initializers.RandomNormal(mean=None),
        lambda: initializers.RandomUniform("a"), lambda: initializers.HeNormal(seed="a"),
        lambda: initializers.HeNormal(seed=-1), lambda: initializers.Constant(None), lambda: initializers.Constant("a"),
        lambda: initializers.Constant([1.0, 2.0])((3, 3)), lambda: initializers.VarianceScaling(scale=None),
        lambda: initializers.VarianceScaling(mode=None), lambda: initializers.VarianceScaling(distribution="n"),
        lambda: initializers.Orthogonal(gain="a"), lambda: initializers.Dirac("nothing"),
        lambda: initializers.get(lambda shape, dtype=None: np.zeros(2))((3, 3)),
        lambda: initializers.get(lambda shape, dtype=None: "a")((3, 3)), lambda: initializers.Zeros()(None),
        lambda: initializers.Zeros()((-1, 2)), lambda: initializers.Zeros()("a"),
    ],
)  # fmt: skip
def test_what_is_refused(make):
    with pytest.raises(InputError):
        make()


@pytest.mark.parametrize("name", ["Identity", "Orthogonal"])
def test_keras_other_names_of_two_classes(name):
    cls = getattr(initializers, f"{name}Initializer")
    assert cls is getattr(initializers, name)
    assert type(initializers.get(f"{name}Initializer")) is cls


def test_keras_other_name_of_the_truncated_normal():
    one, other = (initializers.VarianceScaling(distribution=name, seed=2) for name in ("normal", "truncated_normal"))
    np.testing.assert_array_equal(one((4, 4)), other((4, 4)))
