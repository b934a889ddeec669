"""How weights begin: callables `(shape, rng, dtype) -> array`.

Values are always drawn in float64 on the host and cast afterwards, so that float32, float64, CPU and GPU runs
start from equal weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from minicnn import random
from minicnn.errors import InputError, check_callable, checked
from minicnn.registry import Configured, names_of, resolve

# Standard deviation of a standard normal that is cut off at -2 and 2.
TRUNCATED_STDDEV = 0.87962566103423978


class Initializer(Configured):
    """Base class. Subclasses implement `draw`.

    seed: an integer gives the initializer a generator of its own, and the same values at every call
    (as in Keras).
    """

    ranges: ClassVar[dict[str, Any]] = {"seed": ([0], 1)}

    def __init__(self, seed: int | None = None):
        self.seed = seed

    def __call__(
        self, shape: Sequence[int], rng: np.random.Generator | None = None, dtype: Any = np.float32
    ) -> np.ndarray:
        """An array of this shape and dtype. rng is used when the initializer has no seed of its own."""
        for size in shape if isinstance(shape, (list, tuple)) else [shape]:
            checked(type(self).__name__, "a size in shape", size, 0, 3)
        if self.seed is not None:
            rng = np.random.default_rng(self.seed)
        return self.draw(tuple(shape), rng or random.new_generator()).astype(dtype)

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        """The values, in float64."""
        raise NotImplementedError(f"{type(self).__name__} must implement draw(shape, rng)")


class Constant(Initializer):
    """Every weight is `value`, or a number of it where that is an array that spreads over the weights."""

    def __init__(self, value: Any = 0.0):
        super().__init__()
        try:
            array = np.asarray(value)
            known = array.dtype.kind in "buif" and array.size > 0 and bool(np.isfinite(array).all())
        except ValueError:
            known = False
        if not known:
            raise InputError("Constant", "value does not fit.", "a number, or an array.", f"{value!r}.", "value=0.1.")
        self.value = value

    def draw(self, shape, rng):
        try:
            return np.full(shape, self.value, np.float64)
        except ValueError:
            raise InputError(
                "Constant", "its array does not spread over the weights.", f"a number, or an array of shape {shape}.",
                f"one of shape {np.shape(self.value)}.", "give it the shape of the weights.",
            ) from None  # fmt: skip


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

    ranges: ClassVar[dict[str, Any]] = {
        **Initializer.ranges,
        "mean": ("that is finite", 0.0),
        "stddev": ("of 0 or more", 0.05),
    }

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

    ranges: ClassVar[dict[str, Any]] = {
        **Initializer.ranges,
        "minval": ("that is finite", -0.05),
        "maxval": ("that is finite", 0.05),
    }

    def __init__(self, minval: float = -0.05, maxval: float = 0.05, seed: int | None = None):
        super().__init__(seed)
        self.minval, self.maxval = minval, maxval
        if self.minval > self.maxval:
            raise InputError(
                "RandomUniform", "the bounds are the wrong way round.", "minval, and a maxval that is not below it.",
                f"minval={minval}, maxval={maxval}.", "exchange them.",
            )  # fmt: skip

    def draw(self, shape, rng):
        return rng.uniform(self.minval, self.maxval, shape)


class VarianceScaling(Initializer):
    """Weights of variance scale / n, where n is the number of inputs, of outputs, or their average.

    mode: "fan_in", "fan_out" or "fan_avg". distribution: "truncated_normal" (corrected, so that the variance
    after truncation is right; also "normal"), "untruncated_normal" or "uniform" (over ±sqrt(3 * scale / n)).
    """

    ranges: ClassVar[dict[str, Any]] = {
        **Initializer.ranges,
        "scale": ("above 0", 2.0),
        "mode": (("fan_in", "fan_out", "fan_avg"), "fan_in"),
        "distribution": (("truncated_normal", "normal", "untruncated_normal", "uniform"), "uniform"),
    }

    def __init__(
        self,
        scale: float = 1.0,
        mode: str = "fan_in",
        distribution: str = "truncated_normal",
        seed: int | None = None,
    ):
        super().__init__(seed)
        self.scale, self.mode, self.distribution = scale, mode, distribution

    def draw(self, shape, rng):
        fan_in, fan_out = compute_fans(shape)
        n = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[self.mode]
        stddev = math.sqrt(self.scale / max(1.0, n))
        if self.distribution in ("truncated_normal", "normal"):
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


class Orthogonal(Initializer):
    """An orthogonal matrix times `gain`: it turns what it is multiplied by, and keeps its length.

    Of a convolution kernel (KH, KW, C_in, C_out) the matrix (KH*KW*C_in, C_out). A. Saxe et al., "Exact Solutions to
    the Nonlinear Dynamics of Learning" (2014), section 3.
    """

    ranges: ClassVar[dict[str, Any]] = {**Initializer.ranges, "gain": ("that is finite", 1.0)}

    def __init__(self, gain: float = 1.0, seed: int | None = None):
        super().__init__(seed)
        self.gain = gain

    def draw(self, shape, rng):
        _need_matrix("Orthogonal", shape)
        rows, columns = math.prod(shape[:-1]), shape[-1]
        q, r = np.linalg.qr(rng.standard_normal((max(rows, columns), min(rows, columns))))
        q *= np.sign(np.diag(r))  # so that all such matrices are equally likely. F. Mezzadri (2007)
        return self.gain * (q.T if rows < columns else q).reshape(shape)


class Identity(Initializer):
    """Output i is input i times `gain`: the unit matrix, or in the middle of a convolution kernel (padding="same")."""

    ranges: ClassVar[dict[str, Any]] = {"gain": ("that is finite", 1.0)}

    def __init__(self, gain: float = 1.0):
        super().__init__()
        self.gain = gain

    def draw(self, shape, rng):
        _need_matrix("Identity", shape)
        w = np.zeros(shape)
        middle = tuple((n - 1) // 2 for n in shape[:-2])
        w[middle] = self.gain * np.eye(*shape[-2:])
        return w


class Dirac(Initializer):
    """Identity for as many outputs as there are inputs; those beyond are drawn by `rest`, and are 0 if it is None.

    A deep net of such layers begins by handing its input on. S. Zagoruyko, N. Komodakis, "DiracNets" (2017).
    """

    def __init__(self, rest: Any = None, seed: int | None = None):
        super().__init__(seed)
        self.rest = get(rest)

    def draw(self, shape, rng):
        w = Identity().draw(shape, rng)
        inputs = shape[-2]
        if self.rest is not None and shape[-1] > inputs:
            w[..., inputs:] = self.rest(shape, rng, np.float64)[..., inputs:]
        return w


class _FromFunction(Initializer):
    """A function of the user's, called as in Keras: `f(shape, dtype=dtype)`."""

    def __init__(self, function: Callable[..., Any]):
        super().__init__()
        check_callable("initializer", function, "f(shape, dtype=dtype)", (1,), dtype=None)
        self.function = function

    def draw(self, shape, rng):
        made = np.asarray(self.function(shape, dtype=np.float64))
        if made.shape != shape or made.dtype.kind not in "buif":
            raise InputError(
                "initializer", "the function does not give the weights.", f"an array of numbers of shape {shape}.",
                f"one of shape {made.shape}, {made.dtype}.", "let f(shape, dtype=None) return np.zeros(shape), say.",
            )  # fmt: skip
        return made.astype(np.float64)

    def get_config(self) -> dict[str, Any]:
        raise InputError(
            f"initializer {getattr(self.function, '__name__', self.function)}",
            problem="a function cannot be saved.",
            expected="a name, or an instance of a class with get_config().",
            received=f"{self.function!r}.",
            fix="use one of minicnn's initializers, or write a subclass of Initializer.",
        )


def _need_matrix(where: str, shape: tuple[int, ...]) -> None:
    if len(shape) < 2:
        raise InputError(
            where, "weights in a row are no matrix.", "a kernel: (in, out) or (KH, KW, C_in, C_out).",
            f"shape {shape}.", "use it as kernel_initializer; for a bias take zeros.",
        )  # fmt: skip


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


# Keras' other names for the same classes.
IdentityInitializer = Identity
OrthogonalInitializer = Orthogonal

_KNOWN = names_of(
    Zeros, Ones, Constant, RandomNormal, RandomUniform, TruncatedNormal, VarianceScaling,
    GlorotUniform, GlorotNormal, HeUniform, HeNormal, LecunUniform, LecunNormal, Orthogonal, Identity, Dirac,
    zero=Zeros, one=Ones, normal=RandomNormal, uniform=RandomUniform, IdentityInitializer=Identity,
    OrthogonalInitializer=Orthogonal,
)  # fmt: skip


def get(identifier: Any) -> Initializer | None:
    """The initializer for a name ("he_normal", "HeNormal"), config dict, class, instance or function.

    A function is called as in Keras, `f(shape, dtype=dtype)`. None stays None.
    """
    found = resolve("initializer", identifier, _KNOWN, Initializer)
    if found is None or isinstance(found, Initializer):
        return found
    return _FromFunction(found)
