"""Dense, and the layers that only move or scale numbers: Input, Flatten, Dropout, Rescaling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from minicnn.arguments import in_words
from minicnn.backend import Array
from minicnn.errors import InputError, checked, checked_number
from minicnn.kernels import (
    dense_backward,
    dense_forward,
    dropout_backward,
    dropout_forward,
    gaussian_noise,
    mask_for,
    rescaling_backward,
    rescaling_forward,
)
from minicnn.kernels.dropout import shared_mask_for
from minicnn.layers.base import Layer, Shape, not_built
from minicnn.layers.checks import checked_format, count, fraction, image_shape
from minicnn.layers.context import Context
from minicnn.layers.symbolic import SymbolicTensor
from minicnn.layers.weighted import WeightedLayer


class InputLayer(Layer):
    """Where a network begins: the shape of one sample; it computes nothing. Made by `Input`, whose arguments it has."""

    def __init__(
        self,
        shape: Shape | None = None,
        batch_size: int | None = None,
        dtype: str | None = None,
        sparse: bool | None = None,
        ragged: bool | None = None,
        batch_shape: Sequence[int | None] | None = None,
        name: str | None = None,
    ):
        whole = isinstance(batch_shape, (list, tuple)) and len(batch_shape) > 1 and batch_size is None
        if (shape is None) == (batch_shape is None) or (batch_shape is not None and not whole):
            raise InputError(
                "Input", "the shape is not clear.", "shape, or batch_shape, which has the batch axis, too.",
                f"shape={shape!r}, batch_size={batch_size!r}, batch_shape={batch_shape!r}.",
                "for example Input((28, 28, 1)).",
            )  # fmt: skip
        if batch_shape is not None:
            batch_size, *sizes = batch_shape
            shape = tuple(sizes)  # type: ignore[arg-type]
        super().__init__(name=name, input_shape=shape)
        batch_size = checked(self.name, "batch_size", batch_size, [1], 32)
        self.batch_shape = batch_size, *(self.input_shape or ())
        self.dtype = not_built(self, "dtype", dtype, (None, "float32"))
        self.sparse = not_built(self, "sparse", sparse, (None, False))
        self.ragged = not_built(self, "ragged", ragged, (None, False))

    def get_config(self) -> dict[str, Any]:
        """As in Keras: batch_shape says what shape and batch_size have said."""
        said = {name: getattr(self, name) for name in ("dtype", "sparse", "ragged", "name")}
        return {"batch_shape": list(self.batch_shape), **said}

    def forward(self, x: Array, ctx: Context) -> Array:
        return x

    def backward(self, dy: Array, ctx: Context) -> Array | None:
        return dy


@in_words
def Input(  # noqa: N802 - Keras' name
    shape: Shape | None = None,
    batch_size: int | None = None,
    dtype: str | None = None,
    sparse: bool | None = None,
    ragged: bool | None = None,
    batch_shape: Sequence[int | None] | None = None,
    name: str | None = None,
) -> SymbolicTensor:
    """The symbolic value with which a network begins: samples of this shape, without the batch axis.

    `Sequential([Input((28, 28, 1)), …])`, or `x = Input((28, 28, 1)); y = Flatten()(x); …; Model(x, y)`.
    batch_shape: instead of shape, with the batch axis: (None, 28, 28, 1). batch_size: no more than a note to the
    reader, as in Keras: batches may have any size. dtype, sparse, ragged: Keras', of which only the neutral values are
    taken. Raises InputError for anything but whole numbers above 0.
    """
    layer = InputLayer(shape, batch_size, dtype, sparse, ragged, batch_shape, name)
    return SymbolicTensor(layer, (), layer.input_shape or ())


class Dense(WeightedLayer):
    """Every output is a weighted sum of all inputs, plus a bias: (N, in) -> (N, units).

    Parameters: w (in, units) and b (units,). Kernel: `minicnn.kernels.dense_forward` and `dense_backward`; reference
    implementation: `minicnn.kernels.reference.dense_forward`. Further axes are kept, as in Keras: put Flatten before
    for images. Further arguments (kernel_initializer, kernel_constraint, …): see WeightedLayer.
    """

    def __init__(
        self,
        units: int,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: None = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        **layer,
    ):
        super().__init__(
            activation, use_bias, kernel_initializer, bias_initializer, kernel_regularizer, bias_regularizer,
            activity_regularizer, kernel_constraint, bias_constraint, **layer,
        )  # fmt: skip
        self.units = count(self, "units", units)

    def array_shapes(self, input_shape: Shape) -> dict[str, Shape]:
        return self.with_bias(self.units, w=(input_shape[-1], self.units))

    def output_shape(self, input_shape: Shape) -> Shape:
        if not input_shape:
            raise InputError(
                self.name, "Dense needs features.", "samples of shape (features,), so arrays of shape (N, features).",
                "a single number for each sample.",
                "for a single sample: x[None, :]; for N samples of one number each: x[:, None].",
            )  # fmt: skip
        return (*input_shape[:-1], self.units)

    def forward(self, x: Array, ctx: Context) -> Array:
        ctx.x = x
        return self.activated(lambda b: dense_forward(x, self.params["w"], b), ctx)

    def backward(self, dy: Array, ctx: Context) -> Array | None:
        dz = self.deactivate(dy, ctx)
        dx, dw, db = dense_backward(dz, ctx.x, self.params["w"], need_dx=ctx.need_dx)
        self.graded(ctx, db, w=dw)
        return dx

    def macs(self, input_shape: Shape) -> int:
        return math.prod(input_shape) * self.units


class Flatten(Layer):
    """(N, H, W, C) -> (N, H*W*C): the same numbers in the same order, in one row a sample."""

    def __init__(self, data_format: str | None = None, **layer):
        super().__init__(**layer)
        self.data_format = checked_format(self.name, data_format)

    def output_shape(self, input_shape: Shape) -> Shape:
        return (math.prod(input_shape),)

    def forward(self, x: Array, ctx: Context) -> Array:
        ctx.shape = x.shape
        return x.reshape(len(x), -1)

    def backward(self, dy: Array, ctx: Context) -> Array | None:
        return dy.reshape(ctx.shape)


class _Dropping(Layer):
    """What the layers that drop numbers share. noise_shape: see Dropout."""

    rate: float
    noise_shape: tuple[int | None, ...] | None
    seed: int | None

    def output_shape(self, input_shape: Shape) -> Shape:
        noise, whole = self.noise_shape or (), (None, *input_shape)
        known = all(n in (None, 1, size) for n, size in zip(noise, whole, strict=False))
        if noise and not (known and len(noise) == len(whole)):
            raise InputError(
                self.name, "noise_shape does not fit the samples.",
                f"for each of the axes {whole}, the first being that of the batch: 1, None, or its size.",
                f"noise_shape={noise}.", f"for example noise_shape={(*whole[:1], *[1] * (len(whole) - 2), None)}.",
            )  # fmt: skip
        return input_shape

    def forward(self, x: Array, ctx: Context) -> Array:
        if not ctx.training or self.rate == 0:
            return x
        ctx.mask = self.mask(x, ctx)
        return dropout_forward(x, ctx.mask, self.rate)

    def mask(self, x: Array, ctx: Context, start: int = 0) -> Array:
        """Which numbers are kept of x, whose first sample is number `start` of the shard."""
        # A seed of the layer's own is mixed with the step's: with it alone, every step would drop the same numbers.
        seed = ctx.seed if self.seed is None else self.seed + ctx.step
        if self.noise_shape is None:
            return mask_for(x, self.rate, seed, ctx.first + start)
        shared = tuple(axis for axis, size in enumerate(self.noise_shape) if size == 1)
        return shared_mask_for(x, self.rate, seed, ctx.first + start, shared)

    def backward(self, dy: Array, ctx: Context) -> Array | None:
        return dropout_backward(dy, ctx.mask, self.rate) if "mask" in vars(ctx) else dy


class Dropout(_Dropping):
    """In training, sets each number to 0 with probability `rate` and scales the others by 1 / (1 - rate).

    Does nothing in evaluation. `seed`: fixes the masks; None draws them from the model's generator. noise_shape: the
    shape of the mask, with the batch axis, where several numbers are dropped together: 1 for an axis along which all
    are, else None or the axis' size; (None, 1, 1, None) drops whole channels of images, as SpatialDropout2D does.
    Raises InputError where it does not fit the samples.
    Kernel: `minicnn.kernels.dropout_forward`; reference implementation: `minicnn.kernels.reference.dropout_forward`.
    """

    def __init__(
        self, rate: float, noise_shape: Sequence[int | None] | None = None, seed: int | None = None, **layer
    ):
        super().__init__(**layer)
        self.rate = fraction(self, "rate", rate)
        self.noise_shape = self._checked_shape(noise_shape)
        self.seed = checked(self.name, "seed", seed, [0], 7)

    def _checked_shape(self, shape: Any) -> tuple[int | None, ...] | None:
        if shape is None:
            return None
        sizes = tuple(shape) if isinstance(shape, (list, tuple)) else (-1,)
        whole = [n for n in sizes if n is not None]
        if sizes[:1] not in ((None,), (1,)) or not all(type(n) is int and n > 0 for n in whole):
            raise InputError(
                self.name, "noise_shape does not fit.",
                "None, or the sizes of the mask: 1 or None for each axis, the batch axis first.", f"{shape!r}.",
                "for example noise_shape=(None, 1, 1, None), which drops whole channels of images.",
            )  # fmt: skip
        return sizes


class SpatialDropout2D(_Dropping):
    """Dropout of whole channels of images: all pixels of a channel are kept or dropped together (Tompson et al. 2015).

    Neighbouring pixels say nearly the same, so dropping single ones takes little away. Arguments as those of Dropout.
    """

    noise_shape = (None, 1, 1, None)

    def __init__(
        self, rate: float, data_format: str | None = None, seed: int | None = None, name: str | None = None, **layer
    ):
        super().__init__(name=name, **layer)
        self.rate, self.data_format = fraction(self, "rate", rate), checked_format(self.name, data_format)
        self.seed = checked(self.name, "seed", seed, [0], 7)

    def output_shape(self, input_shape: Shape) -> Shape:
        image_shape(self, input_shape)
        return input_shape


class GaussianNoise(Layer):
    """In training, adds a normal number of standard deviation `stddev` to each number: the network learns to bear it.

    Does nothing in evaluation; the gradient passes as it is. stddev: from 0 to 1. seed: fixes the noise, which differs
    from step to step all the same; None draws it from the model's generator. Kernel: `minicnn.kernels.gaussian_noise`;
    reference implementation: `minicnn.kernels.reference.gaussian_noise`.
    """

    def __init__(self, stddev: float, seed: int | None = None, **layer):
        super().__init__(**layer)
        self.stddev = checked_number(self.name, "stddev", stddev, "from 0 to 1", 0.1)
        self.seed = checked(self.name, "seed", seed, [0], 7)

    def forward(self, x: Array, ctx: Context) -> Array:
        if not ctx.training or self.stddev == 0:
            return x
        noise = gaussian_noise(x, ctx.seed if self.seed is None else self.seed + ctx.step, ctx.first)
        noise *= x.dtype.type(self.stddev)
        if ctx.trace:
            ctx.noise = noise.copy()
        noise += x
        return noise

    def backward(self, dy: Array, ctx: Context) -> Array | None:
        return dy


class Rescaling(Layer):
    """y = x * scale + offset: `Rescaling(1/255)` turns pixels 0…255 into 0…1 inside the model.

    scale, offset: a number, or a list of one for each channel. Kernel: `minicnn.kernels.rescaling_forward`. Raises
    InputError where they are no numbers, or their count is not that of the channels.
    """

    def __init__(self, scale: float | Sequence[float], offset: float | Sequence[float] = 0.0, **layer):
        super().__init__(**layer)
        self.scale, self.offset = self._numbers("scale", scale), self._numbers("offset", offset)

    def _numbers(self, argument: str, value: Any) -> Any:
        """A float, or a list of floats."""
        value = value.item() if getattr(value, "ndim", None) == 0 else value
        if (isinstance(value, (list, tuple)) or getattr(value, "ndim", 0) == 1) and len(value):
            return [self._numbers(argument, one) for one in value]
        example = "1/255, or [1/255, 1/255, 1/128], one for each channel"
        return checked_number(self.name, argument, value, "that is finite", example)

    def output_shape(self, input_shape: Shape) -> Shape:
        for argument, value in (("scale", self.scale), ("offset", self.offset)):
            channels = input_shape[-1] if input_shape else 1
            if isinstance(value, list) and len(value) not in (1, channels):
                raise InputError(
                    self.name, f"{argument} does not fit the samples.",
                    f"a number, or {channels} of them, one for each channel of {input_shape}.",
                    f"{len(value)} numbers.", "give as many numbers as there are channels.",
                )  # fmt: skip
        return input_shape

    def forward(self, x: Array, ctx: Context) -> Array:
        return rescaling_forward(x, self.scale, self.offset)

    def backward(self, dy: Array, ctx: Context) -> Array | None:
        return rescaling_backward(dy, self.scale)
