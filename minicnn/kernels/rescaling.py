"""Rescaling: y = x * scale + offset, and dx = dy * scale.

scale and offset are numbers, or lists of one number for each channel, the last axis. A list is gone through channel by
channel: numbers that come with a call need no array on the device. Reference implementations: the same names in
`minicnn.kernels.reference`.
"""

from __future__ import annotations

from collections.abc import Sequence

from minicnn.backend import Array, xp_of

Numbers = float | Sequence[float]


def rescaling_forward(x: Array, scale: Numbers, offset: Numbers) -> Array:
    """y = x * scale + offset, of x's shape and dtype."""
    if not isinstance(scale, Sequence) and not isinstance(offset, Sequence):
        return x * scale + offset
    y = xp_of(x).empty(x.shape, x.dtype)
    for c in range(x.shape[-1]):
        y[..., c] = x[..., c] * _of(scale, c) + _of(offset, c)
    return y


def rescaling_backward(dy: Array, scale: Numbers) -> Array:
    """dx = dy * scale."""
    return rescaling_forward(dy, scale, 0.0)


def _of(numbers: Numbers, c: int) -> float:
    """The number of channel c."""
    if not isinstance(numbers, Sequence):
        return numbers
    return numbers[c] if len(numbers) > 1 else numbers[0]
