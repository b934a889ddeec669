"""Where a window falls: strides, dilation, padding and the sizes that follow from them.

One axis at a time. A window of `kernel` taps, `dilation` apart, covers `span = (kernel - 1) * dilation + 1` pixels.
It starts every `stride` pixels on an axis of `size` pixels with `lo` and `hi` pixels of padding, so it fits

    out = (size + lo + hi - span) // stride + 1     times. The pixels that are left over are dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from minicnn.errors import InputError

IntPair: TypeAlias = "int | Sequence[int]"
Pads: TypeAlias = "tuple[tuple[int, int], tuple[int, int]]"  # ((top, bottom), (left, right))
Padding: TypeAlias = "str | int | Sequence[int] | Sequence[Sequence[int]]"


def pair(value: IntPair) -> tuple[int, int]:
    """An int for both axes, or a pair (height, width)."""
    if isinstance(value, Sequence):
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
    if isinstance(padding, str):
        raise InputError(
            "padding",
            "unknown rule.",
            '"valid", "same", a number, (height, width) or ((top, bottom), (left, right)).',
            f"{padding!r}.",
            "choose one of these.",
        )
    height, width = (padding, padding) if isinstance(padding, int) else padding
    return _both_ends(height), _both_ends(width)


def _same(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    out = -(-size // stride)
    total = max((out - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2


def _both_ends(padding: int | Sequence[int]) -> tuple[int, int]:
    lo, hi = (padding, padding) if isinstance(padding, int) else padding
    return int(lo), int(hi)


def output_size(
    size: IntPair, kernel: IntPair, stride: IntPair, dilation: IntPair, pads: Pads
) -> tuple[int, int]:
    """(OH, OW): how often the window fits on each axis; 0 or less where the image is smaller than the window."""
    axes = zip(pair(size), pair(kernel), pair(stride), pair(dilation), pads, strict=True)
    height, width = ((n + lo + hi - (k - 1) * d - 1) // s + 1 for n, k, s, d, (lo, hi) in axes)
    return height, width
