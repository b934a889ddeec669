"""Layers that prepare images inside of the network: Resizing, CenterCrop, Normalization, RandomFlip and its like.

In the network, what prepares the images is saved with it, and new images go through the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any, ClassVar

import numpy as np

from minicnn import kernels
from minicnn.backend import Array, to_host, xp_of
from minicnn.batches import PyDataset
from minicnn.errors import InputError, checked
from minicnn.kernels.warp import FILL_MODES, affine_matrices
from minicnn.layers.base import Context, Layer, Shape, not_built
from minicnn.layers.checks import checked_format, count, image_shape


class _Resized(Layer):
    """Cuts a part out of the middle of each image, and makes it height × width pixels large."""

    height: int
    width: int
    interpolation: str

    def part(self, h: int, w: int) -> tuple[slice, slice]:
        """Which rows and columns are used of an image of h × w pixels."""
        raise NotImplementedError(f"{type(self).__name__} must define part(h, w)")

    def output_shape(self, input_shape: Shape) -> Shape:
        image_shape(self, input_shape)
        return self.height, self.width, input_shape[-1]

    def forward(self, x: Array, ctx: Context) -> Array:
        ctx.shape = x.shape
        rows, columns = self.part(*x.shape[1:3])
        return kernels.resize2d_forward(x[:, rows, columns], (self.height, self.width), self.interpolation)

    def backward(self, dy: Array, ctx: Context) -> Array | None:
        if not ctx.need_dx:
            return None
        rows, columns = self.part(*ctx.shape[1:3])
        dx = xp_of(dy).zeros(ctx.shape, dy.dtype)
        size = rows.stop - rows.start, columns.stop - columns.start
        dx[:, rows, columns] = kernels.resize2d_backward(dy, size, self.interpolation)
        return dx


def largest_part(h: int, w: int, height: int, width: int) -> tuple[slice, slice]:
    """The largest part in the middle of h × w pixels that has the sides' ratio of height × width, as Keras rounds."""
    rows = max(min(h, int(float(w * height) / width)), 1)
    columns = max(min(w, int(float(h * width) / height)), 1)
    top, left = int((h - rows) / 2), int((w - columns) / 2)
    return slice(top, top + rows), slice(left, left + columns)


class Resizing(_Resized):
    """Images of height × width pixels, whatever size they had: (N, H, W, C) -> (N, height, width, C).

    interpolation: "bilinear" (the mean of the pixels around a place, by their nearness; smaller images are not smoothed
    first) or "nearest". crop_to_aspect_ratio: cuts off what would be squeezed, from both ends. Kernel:
    `minicnn.kernels.resize2d_forward`; reference implementation: `minicnn.kernels.reference.resize2d_forward`.
    """

    def __init__(
        self,
        height: int,
        width: int,
        interpolation: str = "bilinear",
        crop_to_aspect_ratio: bool = False,
        pad_to_aspect_ratio: bool = False,
        fill_mode: str = "constant",
        fill_value: float = 0.0,
        antialias: bool = False,
        data_format: str | None = None,
        **layer,
    ):
        super().__init__(**layer)
        self.height, self.width = count(self, "height", height), count(self, "width", width)
        self.interpolation = checked(
            self.name, "interpolation", interpolation, ("nearest", "bilinear"), '"bilinear"'
        )
        self.crop_to_aspect_ratio = checked(self.name, "crop_to_aspect_ratio", crop_to_aspect_ratio, bool, True)
        fix = "leave it out, and put ZeroPadding2D before this layer."
        self.pad_to_aspect_ratio = not_built(self, "pad_to_aspect_ratio", pad_to_aspect_ratio, (False,), fix)
        self.fill_mode = not_built(self, "fill_mode", fill_mode, ("constant",), fix)
        self.fill_value = not_built(self, "fill_value", fill_value, (0.0, 0), fix)
        fix = "leave it out, and put AveragePooling2D before this layer."
        self.antialias = not_built(self, "antialias", antialias, (False,), fix)
        self.data_format = checked_format(self.name, data_format)

    def part(self, h: int, w: int) -> tuple[slice, slice]:
        return largest_part(h, w, self.height, self.width) if self.crop_to_aspect_ratio else (slice(0, h), slice(0, w))


class CenterCrop(_Resized):
    """The middle of each image, height × width pixels: (N, H, W, C) -> (N, height, width, C).

    Images that are smaller are enlarged: then it is Resizing with crop_to_aspect_ratio, as in Keras.
    """

    interpolation = "bilinear"

    def __init__(self, height: int, width: int, data_format: str | None = None, **layer):
        super().__init__(**layer)
        self.height, self.width = count(self, "height", height), count(self, "width", width)
        self.data_format = checked_format(self.name, data_format)

    def part(self, h: int, w: int) -> tuple[slice, slice]:
        if h < self.height or w < self.width:
            return largest_part(h, w, self.height, self.width)
        top, left = (h - self.height) // 2, (w - self.width) // 2
        return slice(top, top + self.height), slice(left, left + self.width)


class Normalization(Layer):
    """y = (x - mean) / sqrt(variance), with mean and variance of the training data: `adapt` takes them, once.

        layer = Normalization()
        layer.adapt(x_train)

    axis: along which there is a mean for each place, -1 for one a channel; None for a single one. mean, variance: the
    numbers themselves, instead of adapt. invert: undoes it, y = x * sqrt(variance) + mean. State: mean, variance and
    count, which training leaves as they are. Before adapt they are 0, 1 and 0. Raises InputError where they do not fit.
    Kernel: `minicnn.kernels.standardize_forward`; reference implementation: `reference.standardize_forward`.
    """

    def __init__(
        self,
        axis: int | Sequence[int] | None = -1,
        mean: Any = None,
        variance: Any = None,
        invert: bool = False,
        **layer,
    ):
        super().__init__(**layer)
        self.axis = checked(self.name, "axis", axis, ["axes"], -1)
        self.invert = checked(self.name, "invert", invert, bool, True)
        self.input_mean, self.input_variance = self._numbers("mean", mean), self._numbers("variance", variance)
        given = self.input_mean is not None
        if np.shape(self.input_mean) != np.shape(self.input_variance) or given != (self.input_variance is not None):
            raise InputError(
                self.name, "mean and variance do not belong together.", "both, of one shape; or neither, and adapt.",
                f"mean={mean!r}, variance={variance!r}.", "for example mean=0.5, variance=0.1.",
            )  # fmt: skip

    def _numbers(self, argument: str, value: Any) -> Any:
        """A float or (nested) list of floats; None stays None."""
        try:
            array = None if value is None else np.asarray(to_host(value) if hasattr(value, "shape") else value)
            known = array is None or (array.dtype.kind in "uif" and array.size and np.isfinite(array).all())
        except (TypeError, ValueError):
            known = False
        if not known or (argument == "variance" and array is not None and (array < 0).any()):
            what = "numbers of 0 or more" if argument == "variance" else "finite numbers"
            raise InputError(
                self.name, f"{argument} does not fit.", f"{what}: one, or one for each place of axis.", f"{value!r}.",
                f"for example {argument}=0.5.",
            )  # fmt: skip
        return None if array is None else array.astype(float).tolist()

    def kept(self, input_shape: Shape) -> tuple[int, ...]:
        """The axes of a batch, counted from 0, along which each place has a mean of its own."""
        axis: Any = self.axis
        given = [] if axis is None else [axis] if isinstance(axis, int) else list(axis)
        rank = len(input_shape) + 1
        found = sorted({n + rank if n < 0 else n for n in given})
        if len(found) != len(given) or not all(0 < n < rank for n in found):
            raise InputError(
                self.name, "axis does not fit the samples.", f"different axes from 1 to {rank - 1}, or None.",
                f"axis={axis!r}.", "axis 0 is the batch's; -1 gives each channel a mean.",
            )  # fmt: skip
        return tuple(found)

    def output_shape(self, input_shape: Shape) -> Shape:
        shape = tuple(input_shape[n - 1] for n in self.kept(input_shape))
        try:
            np.broadcast_to(0 if self.input_mean is None else self.input_mean, shape)
        except ValueError:
            raise InputError(
                self.name, "mean does not fit the samples.", f"a number, or an array of shape {shape}.",
                f"one of shape {np.shape(self.input_mean)}.", "give one mean and one variance for each place of axis.",
            ) from None  # fmt: skip
        return input_shape

    def array_shapes(self, input_shape: Shape) -> dict[str, Shape]:
        if self.input_mean is not None:
            return {}
        shape = tuple(input_shape[n - 1] for n in self.kept(input_shape))
        return {"mean": shape, "variance": shape, "count": ()}

    def check_built(self, shape: Any) -> None:
        places = {name: array.shape for name, array in self.state.items()}
        if places and places != self.array_shapes(shape):
            raise InputError(
                self.name, "the layer was built for another shape.",
                f"samples for a mean of shape {places['mean']} along axis={self.axis!r}.", f"samples of shape {shape}.",
                "make a new Normalization for them.",
            )  # fmt: skip

    def build(self, input_shape: Shape, rng: np.random.Generator) -> None:
        first = {"mean": np.zeros, "variance": np.ones, "count": np.zeros}
        self.state = {name: first[name](shape, np.float32) for name, shape in self.array_shapes(input_shape).items()}

    def adapt(self, data: Any) -> None:
        """Take mean and variance of `data`: an array of samples, or batches, x or (x, y): an iterable or PyDataset.

        Builds the layer for these samples. Raises InputError where they do not fit, or are not alike.
        """
        if self.input_mean is not None:
            raise InputError(
                self.name, "it has a mean and a variance already.", "a layer without these arguments.",
                f"mean={self.input_mean!r}.", "leave out mean= and variance=.",
            )  # fmt: skip
        total, mean, squares = 0, np.zeros(()), np.zeros(())
        sample: Any = None
        for batch in [data] if hasattr(data, "shape") else _batches(self, data):
            x = np.asarray(to_host(batch), np.float64)
            if not x.size or x.ndim < 2 or not np.isfinite(x).all():
                raise InputError(
                    self.name, "this cannot be adapted to.", "samples of finite numbers, the batch axis first.",
                    f"an array of shape {x.shape}.", "pass x_train, say, as fit takes it.",
                )  # fmt: skip
            if sample is None:
                sample = x.shape[1:]
                self.output_shape(sample)
                self.check_built(sample)
            places = self.array_shapes(sample)["mean"]
            if x.ndim != 1 + len(sample) or self.array_shapes(x.shape[1:])["mean"] != places:
                raise InputError(
                    self.name, "the batches are not alike.", f"samples of shape {sample}, as in the first batch.",
                    f"samples of shape {x.shape[1:]}.", "give all batches one shape.",
                )  # fmt: skip
            axes = tuple(n for n in range(x.ndim) if n not in self.kept(sample))
            n = x.size // math.prod(places)
            own = x.mean(axis=axes)
            away = own - mean  # T. Chan, G. Golub, R. LeVeque (1983)
            squares = squares + x.var(axis=axes) * n + away**2 * total * n / (total + n)
            mean, total = mean + away * n / (total + n), total + n
        if not total:
            problem = "there is nothing to adapt to."
            raise InputError(self.name, problem, "at least one batch.", "none.", "pass x_train, say.")
        self.build_once(sample, np.random.default_rng())
        for name, value in (("mean", mean), ("variance", squares / total), ("count", total)):
            slot = self.state[name]
            slot[...] = xp_of(slot).asarray(value, slot.dtype)

    @property
    def mean(self) -> Array | None:
        """The mean, in a shape that spreads over a batch: (1, 1, 1, C) for images. None before the layer is built."""
        return self._spread(self.input_mean, "mean")

    @property
    def variance(self) -> Array | None:
        """The variance, as `mean`."""
        return self._spread(self.input_variance, "variance")

    def _spread(self, given: Any, name: str) -> Array | None:
        if not self.built:
            return None
        return self._placed(self.state[name] if given is None else np.float32(given), (1, *self.built_for))

    def _placed(self, numbers: Array, shape: Shape) -> Array:
        """One number for each place of axis, in a shape that spreads over a batch of `shape`."""
        kept = self.kept(shape[1:])
        whole = xp_of(numbers).broadcast_to(numbers, tuple(shape[n] for n in kept))
        return whole.reshape([size if n in kept else 1 for n, size in enumerate(shape)])

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments: mean and variance as they were given, not as adapt has found them."""
        return super().get_config() | {"mean": self.input_mean, "variance": self.input_variance}

    def moments(self, x: Array) -> tuple[Array, Array]:
        """(mean, standard deviation), of shapes that spread over x; no deviation is below 1e-7."""
        xp = xp_of(x)
        pair = self.input_mean, self.input_variance
        if self.input_mean is None:
            pair = self.state["mean"], self.state["variance"]
        mean, variance = (self._placed(xp.asarray(numbers, x.dtype), x.shape) for numbers in pair)
        return mean, xp.maximum(xp.sqrt(variance), x.dtype.type(1e-7))

    def forward(self, x: Array, ctx: Context) -> Array:
        mean, deviation = self.moments(x)
        if self.invert:
            return x * deviation + mean
        return kernels.standardize_forward(x, mean, deviation)

    def backward(self, dy: Array, ctx: Context) -> Array | None:
        _, deviation = self.moments(dy)
        return dy * deviation if self.invert else kernels.standardize_backward(dy, deviation)


def _batches(layer: Layer, data: Any) -> Iterable[Any]:
    """The x of all batches; of a PyDataset, whose iterators may never end, those of one pass."""
    if not isinstance(data, (Iterable, PyDataset)) or isinstance(data, (str, dict)):
        raise InputError(
            layer.name, "this cannot be adapted to.", "an array, or batches of them.", f"{data!r}.",
            "pass x_train, say.",
        )  # fmt: skip
    for batch in map(data.__getitem__, range(len(data))) if isinstance(data, PyDataset) else data:
        yield batch[0] if isinstance(batch, tuple) else batch


class RandomFlip(Layer):
    """In training, mirrors each image or leaves it, by the toss of a coin: what stands in it stays what it is.

    mode: "horizontal" (left and right change places), "vertical", or "horizontal_and_vertical", each with a coin of its
    own. Does nothing in evaluation. seed: fixes the coins, which differ from step to step all the same. Kernel:
    `minicnn.kernels.flip2d`; reference implementation: `minicnn.kernels.reference.flip2d`.
    """

    augments = True
    modes: ClassVar[tuple[str, ...]] = ("horizontal", "vertical", "horizontal_and_vertical")

    def __init__(
        self, mode: str = "horizontal_and_vertical", seed: int | None = None, data_format: str | None = None, **layer
    ):
        super().__init__(**layer)
        self.mode = checked(self.name, "mode", mode, self.modes, '"horizontal"')
        self.seed = checked(self.name, "seed", seed, [0], 7)
        self.data_format = checked_format(self.name, data_format)

    def output_shape(self, input_shape: Shape) -> Shape:
        image_shape(self, input_shape)
        return input_shape

    def forward(self, x: Array, ctx: Context) -> Array:
        if not ctx.training:
            return x
        seed = ctx.seed if self.seed is None else self.seed + ctx.step
        coins = kernels.gaussian_noise(xp_of(x).zeros((len(x), 2), np.float32), seed, ctx.first) > 0
        if self.mode != "horizontal_and_vertical":
            coins[:, 0 if self.mode == "horizontal" else 1] = False
        ctx.flipped = coins
        return kernels.flip2d(x, coins)

    def backward(self, dy: Array, ctx: Context) -> Array | None:
        return kernels.flip2d(dy, ctx.flipped) if "flipped" in vars(ctx) else dy


class _Warped(Layer):
    """In training, looks each image up through a matrix that is drawn for it; in evaluation does nothing."""

    augments = True
    draws: ClassVar[int]  # uniform numbers for each image

    def _set_look_up(self, fill_mode: str, interpolation: str, seed: Any, fill_value: float, format: Any) -> None:
        self.fill_mode = checked(self.name, "fill_mode", fill_mode, FILL_MODES, '"reflect"')
        self.interpolation = checked(self.name, "interpolation", interpolation, ("nearest", "bilinear"), '"bilinear"')
        self.seed = checked(self.name, "seed", seed, [0], 7)
        self.fill_value = checked(self.name, "fill_value", fill_value, "that is finite", 0.0)
        self.data_format = checked_format(self.name, format)

    def matrices(self, size: tuple[int, int], drawn: Array) -> Array:
        """(N, 2, 3), for images of this height and width, from what was drawn: (N, draws) between 0 and 1."""
        raise NotImplementedError(f"{type(self).__name__} must define matrices(size, drawn)")

    def output_shape(self, input_shape: Shape) -> Shape:
        image_shape(self, input_shape)
        return input_shape

    def forward(self, x: Array, ctx: Context) -> Array:
        if not ctx.training:
            return x
        seed = ctx.seed if self.seed is None else self.seed + ctx.step
        # Of two normal numbers a and b, exp(-(a² + b²) / 2) is uniform (G. Box, M. Muller, 1958).
        normal = kernels.gaussian_noise(xp_of(x).zeros((len(x), self.draws, 2), np.float64), seed, ctx.first)
        drawn = xp_of(x).exp(-(normal**2).sum(axis=2) / 2)
        ctx.matrices = self.matrices(x.shape[1:3], drawn)
        return kernels.warp2d_forward(x, ctx.matrices, self.fill_mode, self.fill_value, self.interpolation)

    def backward(self, dy: Array, ctx: Context) -> Array | None:
        if "matrices" not in vars(ctx):
            return dy
        return kernels.warp2d_backward(dy, ctx.matrices, self.fill_mode, self.interpolation) if ctx.need_dx else None


def _factor(layer: Layer, argument: str, factor: Any, above: float = -2) -> float | list[float]:
    """A number, or two of them, as floats; InputError unless they are from -1 to 1, and above `above`."""
    several = isinstance(factor, (tuple, list))
    ends: list[Any] = list(factor) if several else [factor]
    known = all(isinstance(end, Real) and not isinstance(end, bool) and -1 <= float(end) <= 1 for end in ends)
    if not known or len(ends) != 1 + several or min(ends) <= above:
        least = "from -1 to 1" if above < -1 else "above -1, up to 1"
        raise InputError(
            layer.name, f"{argument} does not fit.", f"a number {least}, or two of them, the least and the most.",
            f"{factor!r}.", f"for example {argument}=0.1, which means (-0.1, 0.1).",
        )  # fmt: skip
    return list(map(float, ends)) if several else float(factor)


def _between(factor: Any, drawn: Array) -> Array:
    """Numbers between the two of the factor, or between its opposite and itself, from numbers between 0 and 1."""
    least, most = sorted(factor if isinstance(factor, (tuple, list)) else (-factor, factor))
    return least + (most - least) * drawn


class RandomRotation(_Warped):
    """In training, turns each image about its middle, by an angle between two bounds: (N, H, W, C) stays that.

    factor: the bounds as parts of a full turn; 0.1 means (-0.1, 0.1), from -36 to 36 degrees. Above 0 it turns counter
    clockwise. fill_mode: what lies outside the image: "reflect" d c b a|a b c d|d c b a, "wrap" b c d|a b c d|a b c,
    "nearest" a a a a|a b c d|d d d d, or "constant", fill_value. interpolation: "bilinear" or "nearest". seed: fixes
    the angles, which differ from step to step all the same. Does nothing in evaluation. Kernel:
    `minicnn.kernels.warp2d_forward`; reference implementation: `minicnn.kernels.reference.warp2d_forward`.
    """

    draws = 1

    def __init__(
        self,
        factor: float | Sequence[float],
        fill_mode: str = "reflect",
        interpolation: str = "bilinear",
        seed: int | None = None,
        fill_value: float = 0.0,
        data_format: str | None = None,
        **layer,
    ):
        super().__init__(**layer)
        self.factor = _factor(self, "factor", factor)
        self._set_look_up(fill_mode, interpolation, seed, fill_value, data_format)

    def matrices(self, size: tuple[int, int], drawn: Array) -> Array:
        return affine_matrices(size, theta=360 * _between(self.factor, drawn[:, 0]))


class RandomTranslation(_Warped):
    """In training, shifts each image, down and to the right by lengths between bounds: (N, H, W, C) stays that.

    height_factor, width_factor: the bounds as parts of the height and the width; 0.1 means (-0.1, 0.1). Above 0 it is
    down, and to the right. The other arguments are those of RandomRotation.
    """

    draws = 2

    def __init__(
        self,
        height_factor: float | Sequence[float],
        width_factor: float | Sequence[float],
        fill_mode: str = "reflect",
        interpolation: str = "bilinear",
        seed: int | None = None,
        fill_value: float = 0.0,
        data_format: str | None = None,
        **layer,
    ):
        super().__init__(**layer)
        self.height_factor = _factor(self, "height_factor", height_factor)
        self.width_factor = _factor(self, "width_factor", width_factor)
        self._set_look_up(fill_mode, interpolation, seed, fill_value, data_format)

    def matrices(self, size: tuple[int, int], drawn: Array) -> Array:
        down, right = _between(self.height_factor, drawn[:, 0]), _between(self.width_factor, drawn[:, 1])
        return affine_matrices(size, tx=-right * size[1], ty=-down * size[0])


class RandomZoom(_Warped):
    """In training, makes what stands in each image smaller or larger, about its middle: (N, H, W, C) stays that.

    height_factor: how much more of the height is seen, between these bounds; 0.2 means (-0.2, 0.2). Above 0 things
    become smaller, below 0 larger. width_factor: the same of the width; None: as the height, so that nothing is bent.
    The other arguments are those of RandomRotation.
    """

    draws = 2

    def __init__(
        self,
        height_factor: float | Sequence[float],
        width_factor: float | Sequence[float] | None = None,
        fill_mode: str = "reflect",
        interpolation: str = "bilinear",
        seed: int | None = None,
        fill_value: float = 0.0,
        data_format: str | None = None,
        **layer,
    ):
        super().__init__(**layer)
        self.height_factor = _factor(self, "height_factor", height_factor, above=-1)
        self.width_factor = None if width_factor is None else _factor(self, "width_factor", width_factor, above=-1)
        self._set_look_up(fill_mode, interpolation, seed, fill_value, data_format)

    def matrices(self, size: tuple[int, int], drawn: Array) -> Array:
        height = 1 + _between(self.height_factor, drawn[:, 0])
        width = height if self.width_factor is None else 1 + _between(self.width_factor, drawn[:, 1])
        return affine_matrices(size, zx=width, zy=height)
