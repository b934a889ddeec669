"""Where a window falls: strides, dilation, padding and the sizes that follow from them.

One axis at a time. A window of `kernel` taps, `dilation` apart, covers `span = (kernel - 1) * dilation + 1` pixels.
It starts every `stride` pixels on an axis of `size` pixels with `lo` and `hi` pixels of padding, so it fits

    out = (size + lo + hi - span) // stride + 1     times. The pixels that are left over are dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any, TypeAlias

from minicnn.errors import InputError

IntPair: TypeAlias = "int | Sequence[int]"
Pads: TypeAlias = "tuple[tuple[int, int], tuple[int, int]]"  # ((top, bottom), (left, right))
Padding: TypeAlias = "str | int | Sequence[int] | Sequence[Sequence[int]]"


def pair(value: IntPair) -> tuple[int, int]:
    """An int for both axes, or a pair (height, width)."""
    if type(value) is int:
        return value, value
    if isinstance(value, (tuple, list, Sequence)):  # Sequence last: an abstract class takes ten times as long to ask
        height, width = value
        return int(height), int(width)
    return int(value), int(value)


def resolve_padding(
    size: IntPair, kernel: IntPair, stride: IntPair, dilation: IntPair, padding: Padding
) -> Pads:
    """Padding in pixels, ((top, bottom), (left, right)), for an image of `size` (H, W).

    "valid": none. "same": as much as makes out = ceil(size / stride); an odd pixel goes to the bottom and the
    right, as in TensorFlow and Keras (PyTorch pads both sides alike). Numbers: p, (p_h, p_w) or all four.
    """
    if padding == "valid":
        return (0, 0), (0, 0)
    if padding == "same":
        axes = zip(pair(size), pair(kernel), pair(stride), pair(dilation), strict=True)
        top_bottom, left_right = (_same(*axis) for axis in axes)
        return top_bottom, left_right
    height, width = _two(padding, padding)
    (top, bottom), (left, right) = _two(height, padding), _two(width, padding)
    pads = top, bottom, left, right
    if not all(isinstance(n, Integral) and int(n) >= 0 for n in pads):
        raise _unknown_padding(padding)
    return (int(top), int(bottom)), (int(left), int(right))


def _same(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    out = -(-size // stride)
    total = max((out - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2


def _two(value: Any, padding: Padding) -> Any:
    """The two parts of a pair; a number counts for both."""
    if isinstance(value, Integral):
        return value, value
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 2:
        return value
    raise _unknown_padding(padding)


def _unknown_padding(padding: Padding) -> InputError:
    return InputError(
        "padding",
        "unknown rule.",
        '"valid", "same", or pixels: a number of 0 or more, (height, width) or ((top, bottom), (left, right)).',
        f"{padding!r}.",
        "choose one of these.",
    )


def output_size(
    size: IntPair, kernel: IntPair, stride: IntPair, dilation: IntPair, pads: Pads
) -> tuple[int, int]:
    """(OH, OW): how often the window fits on each axis; 0 or less where the image is smaller than the window."""
    axes = zip(pair(size), pair(kernel), pair(stride), pair(dilation), pads, strict=True)
    height, width = ((n + lo + hi - (k - 1) * d - 1) // s + 1 for n, k, s, d, (lo, hi) in axes)
    return height, width
