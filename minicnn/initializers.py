"""How weights begin: callables `(shape, rng, dtype) -> array`.

Values are always drawn in float64 on the host and cast afterwards, so that float32, float64, CPU and GPU runs
start from equal weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minicnn import random
from minicnn.errors import InputError, unknown_name
from minicnn.registry import Configured, names_of, resolve

# Standard deviation of a standard normal that is cut off at -2 and 2.
TRUNCATED_STDDEV = 0.87962566103423978


class Initializer(Configured):
    """Base class. Subclasses implement `draw`.

    seed: an integer gives the initializer a generator of its own, and the same values at every call
    (as in Keras).
    """

    def __init__(self, seed: int | None = None):
        self.seed = seed

    def __call__(
        self, shape: Sequence[int], rng: np.random.Generator | None = None, dtype: Any = np.float32
    ) -> np.ndarray:
        """An array of this shape and dtype. rng is used when the initializer has no seed of its own."""
        if self.seed is not None:
            rng = np.random.default_rng(self.seed)
        return self.draw(tuple(shape), rng or random.new_generator()).astype(dtype)

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        """The values, in float64."""
        raise NotImplementedError(f"{type(self).__name__} must implement draw(shape, rng)")


class Constant(Initializer):
    """Every weight is `value`."""

    def __init__(self, value: float = 0.0):
        super().__init__()
        self.value = value

    def draw(self, shape, rng):
        return np.full(shape, self.value, np.float64)


class Zeros(Initializer):
    """Every weight is 0: the default of biases."""

    def __init__(self):
        super().__init__()

    def draw(self, shape, rng):
        return np.zeros(shape)


class Ones(Initializer):
    """Every weight is 1."""

    def __init__(self):
        super().__init__()

    def draw(self, shape, rng):
        return np.ones(shape)


class RandomNormal(Initializer):
    """Normal distribution."""

    def __init__(self, mean: float = 0.0, stddev: float = 0.05, seed: int | None = None):
        super().__init__(seed)
        self.mean, self.stddev = mean, stddev

    def draw(self, shape, rng):
        return rng.normal(self.mean, self.stddev, shape)


class TruncatedNormal(RandomNormal):
    """Normal distribution; values more than two standard deviations from the mean are drawn again."""

    def draw(self, shape, rng):
        return self.mean + self.stddev * _truncated_normal(shape, rng)


class RandomUniform(Initializer):
    """Uniform distribution over [minval, maxval)."""

    def __init__(self, minval: float = -0.05, maxval: float = 0.05, seed: int | None = None):
        super().__init__(seed)
        self.minval, self.maxval = minval, maxval

    def draw(self, shape, rng):
        return rng.uniform(self.minval, self.maxval, shape)


class VarianceScaling(Initializer):
    """Weights of variance scale / n, where n is the number of inputs, of outputs, or their average.

    mode: "fan_in", "fan_out" or "fan_avg". distribution: "truncated_normal" (corrected, so that the variance
    after truncation is right), "untruncated_normal" or "uniform" (over ±sqrt(3 * scale / n)).
    """

    def __init__(
        self,
        scale: float = 1.0,
        mode: str = "fan_in",
        distribution: str = "truncated_normal",
        seed: int | None = None,
    ):
        if not scale > 0:
            raise InputError(
                "VarianceScaling",
                problem="the scale is not positive.",
                expected="scale > 0.",
                received=f"scale={scale}.",
                fix="pass a positive number, such as 1 or 2.",
            )
        if mode not in ("fan_in", "fan_out", "fan_avg"):
            raise unknown_name("VarianceScaling mode", mode, ("fan_in", "fan_out", "fan_avg"))
        distributions = ("truncated_normal", "untruncated_normal", "uniform")
        if distribution not in distributions:
            raise unknown_name("VarianceScaling distribution", distribution, distributions)
        super().__init__(seed)
        self.scale, self.mode, self.distribution = scale, mode, distribution

    def draw(self, shape, rng):
        fan_in, fan_out = compute_fans(shape)
        n = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[self.mode]
        stddev = math.sqrt(self.scale / max(1.0, n))
        if self.distribution == "truncated_normal":
            return stddev / TRUNCATED_STDDEV * _truncated_normal(shape, rng)
        if self.distribution == "untruncated_normal":
            return rng.normal(0.0, stddev, shape)
        limit = math.sqrt(3.0) * stddev
        return rng.uniform(-limit, limit, shape)


class _NamedScaling(VarianceScaling):
    """A VarianceScaling whose three settings have a name of their own."""

    settings: tuple[float, str, str]

    def __init__(self, seed: int | None = None):
        super().__init__(*self.settings, seed=seed)


class GlorotUniform(_NamedScaling):
    """Uniform, variance 2 / (fan_in + fan_out): the default of kernels. Glorot and Bengio 2010, eq. 16."""

    settings = (1.0, "fan_avg", "uniform")


class GlorotNormal(_NamedScaling):
    """Truncated normal, variance 2 / (fan_in + fan_out). Glorot and Bengio 2010, eq. 12."""

    settings = (1.0, "fan_avg", "truncated_normal")


class HeUniform(_NamedScaling):
    """Uniform, variance 2 / fan_in: for layers followed by ReLU. He et al. 2015, section 2.2."""

    settings = (2.0, "fan_in", "uniform")


class HeNormal(_NamedScaling):
    """Truncated normal, variance 2 / fan_in: for layers followed by ReLU. He et al. 2015, section 2.2."""

    settings = (2.0, "fan_in", "truncated_normal")


class LecunUniform(_NamedScaling):
    """Uniform, variance 1 / fan_in. LeCun et al. 1998, "Efficient BackProp", section 4.6."""

    settings = (1.0, "fan_in", "uniform")


class LecunNormal(_NamedScaling):
    """Truncated normal, variance 1 / fan_in. LeCun et al. 1998, "Efficient BackProp", section 4.6."""

    settings = (1.0, "fan_in", "truncated_normal")


class _FromFunction(Initializer):
    """A function of the user's, called as in Keras: `f(shape, dtype=dtype)`."""

    def __init__(self, function: Callable[..., Any]):
        super().__init__()
        self.function = function

    def draw(self, shape, rng):
        return np.asarray(self.function(shape, dtype=np.float64), np.float64)

    def get_config(self):
        raise InputError(
            f"initializer {getattr(self.function, '__name__', self.function)}",
            problem="a function cannot be saved.",
            expected="a name, or an instance of a class with get_config().",
            received=f"{self.function!r}.",
            fix="use one of minicnn's initializers, or write a subclass of Initializer.",
        )


def compute_fans(shape: Sequence[int]) -> tuple[int, int]:
    """(fan_in, fan_out): how many inputs feed one output unit, and how many outputs one input unit feeds.

    Dense kernels are (in, out); convolution kernels (KH, KW, C_in, C_out) count the window too.
    """
    if len(shape) < 2:
        return (shape[0], shape[0]) if len(shape) else (1, 1)
    window = math.prod(shape[:-2])
    return window * shape[-2], window * shape[-1]


def _truncated_normal(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Standard normal values; those outside [-2, 2] are drawn again until none is left."""
    x = rng.standard_normal(math.prod(shape))
    outside = np.flatnonzero(np.abs(x) > 2)
    while outside.size:
        x[outside] = rng.standard_normal(outside.size)
        outside = outside[np.abs(x[outside]) > 2]
    return x.reshape(shape)


_KNOWN = names_of(
    Zeros, Ones, Constant, RandomNormal, RandomUniform, TruncatedNormal, VarianceScaling,
    GlorotUniform, GlorotNormal, HeUniform, HeNormal, LecunUniform, LecunNormal,
    zero=Zeros, one=Ones, normal=RandomNormal, uniform=RandomUniform,
)  # fmt: skip


def get(identifier: Any) -> Initializer | None:
    """The initializer for a name ("he_normal", "HeNormal"), config dict, class, instance or function.

    A function is called as in Keras, `f(shape, dtype=dtype)`. None stays None.
    """
    found = resolve("initializer", identifier, _KNOWN, Initializer)
    if found is None or isinstance(found, Initializer):
        return found
    return _FromFunction(found)
