"""What layers check before any work is done, and the sentences that they say then."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

from minicnn.errors import InputError, checked_number
from minicnn.kernels.geometry import IntPair, Padding, output_size, pair, resolve_padding
from minicnn.layers.base import Layer, Shape


def positive(layer: Layer, argument: str, value: Any, least: int = 1) -> Any:
    """`value`, an int or a pair of ints, all of them at least `least`; else InputError."""
    numbers = value if isinstance(value, Sequence) and len(value) == 2 else (value,)
    allowed = "above 0" if least else "of 0 or more"
    _whole(layer, argument, value, numbers, f"a whole number {allowed}, or a pair of them.", least)
    return tuple(map(int, value)) if isinstance(value, Sequence) else int(value)


def count(layer: Layer, argument: str, value: Any) -> int:
    """`value`, a single int of at least 1; else InputError."""
    _whole(layer, argument, value, (value,), "a whole number above 0.")
    return int(value)


def _whole(
    layer: Layer, argument: str, value: Any, numbers: Sequence[Any], expected: str, least: int = 1
) -> None:
    """The callers make ints of them: a uint8 from a label is a whole number, too, but products with it wrap at 256."""
    if not all(isinstance(n, Integral) and not isinstance(n, bool) and int(n) >= least for n in numbers):
        raise InputError(
            layer.name, f"{argument} does not fit.", expected, f"{value!r}.", f"for example {argument}={2 * least + 1}."
        )


def fraction(layer: Layer, argument: str, value: float) -> float:
    """`value` in [0, 1); else InputError."""
    return checked_number(layer.name, argument, value, "from 0 up to, but not including, 1", "0.2, which means 20 %")


def image_shape(layer: Layer, shape: Shape) -> None:
    """InputError unless `shape` is (height, width, channels)."""
    if len(shape) == 3:
        return
    fix = {
        1: "put this layer before Flatten, or give the first layer input_shape=(height, width, channels).",
        2: "add the axis that is missing: x[..., None] makes (N, H, W, 1) of grey images (N, H, W), and x[None] makes "
        "(1, H, W, C) of a single image.",
        4: f"leave the number of images out of the shape: Input({tuple(shape[1:])}).",
    }.get(len(shape), "give images as (N, height, width, channels).")
    raise InputError(
        layer.name,
        f"{type(layer).__name__} needs images.",
        "samples of shape (height, width, channels).",
        f"samples of shape {shape}.",
        fix,
    )


def sequence_shape(layer: Layer, shape: Shape) -> None:
    """InputError unless `shape` is (steps, channels)."""
    if len(shape) == 2:
        return
    fix = "add the channel axis: x[..., None] makes (N, steps, 1) of (N, steps)."
    if len(shape) == 3:
        fix = f"for images use {type(layer).__name__.replace('1D', '2D')}; Reshape makes sequences of them."
    raise InputError(
        layer.name, f"{type(layer).__name__} needs sequences.", "samples of shape (steps, channels).",
        f"samples of shape {shape}.", fix,
    )  # fmt: skip


def single(layer: Layer, argument: str, value: Any) -> int:
    """`value`, an int of at least 1, or a sequence of one, as Keras writes it; else InputError."""
    return count(layer, argument, value[0] if isinstance(value, (list, tuple)) and len(value) == 1 else value)


def window_output(
    layer: Layer,
    shape: Shape,
    window: IntPair,
    stride: IntPair,
    padding: Padding,
    dilation: IntPair = 1,
) -> tuple[int, int]:
    """(OH, OW) of a window that slides over images of `shape`; InputError where it does not fit even once."""
    pads = resolve_padding(shape[:2], window, stride, dilation, padding)
    out = output_size(shape[:2], window, stride, dilation, pads)
    if min(out) < 1:
        kh, kw = ((k - 1) * d + 1 for k, d in zip(pair(window), pair(dilation), strict=True))
        spaced = "" if pair(dilation) == (1, 1) else f" with dilation {dilation}"
        if type(layer).__name__.endswith("1D"):
            raise InputError(
                layer.name, "the sequence has become too short.",
                f"a sequence of at least {kw} steps, the length of the window{spaced} (padding={padding!r}).",
                f"{shape[1]} steps.",
                'use longer sequences, fewer pooling layers, a smaller window, or padding="same".',
            )  # fmt: skip
        raise InputError(
            layer.name,
            "the image has become too small.",
            f"an image of at least {kh}×{kw} pixels, the size of the window{spaced} (padding={padding!r}).",
            f"{shape[0]}×{shape[1]} pixels.",
            'use larger images, fewer pooling layers, a smaller window, or padding="same".',
        )
    return out


def four_sides(layer: Layer, argument: str, value: Any) -> tuple[tuple[int, int], tuple[int, int]]:
    """((top, bottom), (left, right)) of p, (p_height, p_width) or all four; InputError for anything else."""
    sides = _two(value)
    numbers = [n for side in sides for n in _two(side)]
    whole = all(isinstance(n, Integral) and not isinstance(n, bool) and int(n) >= 0 for n in numbers)
    if len(numbers) != 4 or not whole:
        raise InputError(
            layer.name, f"{argument} does not fit.",
            "p, (p_height, p_width) or ((top, bottom), (left, right)), whole numbers of 0 or more.",
            f"{value!r}.", f"for example {argument}=1.",
        )  # fmt: skip
    top, bottom, left, right = (int(n) for n in numbers)
    return (top, bottom), (left, right)


def _two(value: Any) -> Sequence[Any]:
    """A number twice, or what was given as a pair."""
    return value if isinstance(value, (list, tuple)) else (value, value)


def checked_padding(layer: Layer, padding: Any) -> Padding:
    """`padding`, a name in small letters; InputError for an unknown rule."""
    padding = padding.lower() if isinstance(padding, str) else padding
    padding = padding.tolist() if hasattr(padding, "tolist") else padding
    try:
        resolve_padding(1, 1, 1, 1, padding)
    except InputError as error:
        raise InputError(
            layer.name, "padding does not fit.", error.expected, error.received, 'for example padding="same".'
        ) from None
    return padding


def checked_format(where: str, data_format: Any) -> Any:
    """data_format as Keras knows it: None or "channels_last"; InputError for everything else."""
    if data_format is None or (isinstance(data_format, str) and data_format.lower() == "channels_last"):
        return data_format and "channels_last"
    raise InputError(
        where, "data_format does not fit.", '"channels_last", or None, which is the same.', f"{data_format!r}.",
        "leave it out; x.transpose(0, 2, 3, 1) brings the channels of (N, C, H, W) to the end, x.transpose(0, 2, 1) "
        "those of (N, C, T).",
    )  # fmt: skip
