"""Where a window falls: strides, dilation, padding and the sizes that follow from them.

One axis at a time. A window of `kernel` taps, `dilation` apart, covers `span = (kernel - 1) * dilation + 1` pixels.
It starts every `stride` pixels on an axis of `size` pixels with `lo` and `hi` pixels of padding, so it fits

    out = (size + lo + hi - span) // stride + 1     times. The pixels that are left over are dropped.

`Windows` holds these numbers for both axes of one convolution or pooling, and finds the pixels that they mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from numbers import Integral
from typing import Any, TypeAlias

from minicnn.backend import Array, scratch, xp_of
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


def transposed_size(
    size: IntPair, kernel: IntPair, stride: IntPair, dilation: IntPair, padding: Padding, extra: IntPair | None
) -> tuple[int, int]:
    """(OH, OW): how large an image is in which the window fits `size` (H, W) times.

    With a stride several are: the `extra` (output_padding) pixels say which one, counted as in Keras from
    (size - 1) * stride + span, or + span % 2 where the padding is "same". None takes size * stride for "same", and for
    "valid" the smallest in which the strides fit, too.
    """
    extras = (None, None) if extra is None else pair(extra)
    height, width = (
        _transposed(n, (k - 1) * d + 1, s, padding == "same", more)
        for n, k, s, d, more in zip(pair(size), pair(kernel), pair(stride), pair(dilation), extras, strict=True)
    )
    return height, width


def _transposed(size: int, span: int, stride: int, same: bool, extra: int | None) -> int:
    if extra is None:
        return size * stride if same else (size - 1) * stride + max(span, stride)
    return (size - 1) * stride + (span % 2 if same else span) + extra


@dataclass(frozen=True)
class Windows:
    """The windows of one convolution or pooling: everything about it but the numbers."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    pads: Pads
    image: tuple[int, int]  # (H, W)
    out: tuple[int, int]  # (OH, OW)

    @classmethod
    def of(
        cls, shape: tuple[int, ...], kernel: IntPair, stride: IntPair | None, padding: Padding, dilation: IntPair = 1
    ) -> Windows:
        """The windows of `kernel` over images of `shape` (N, H, W, C). `stride` None means the kernel's size."""
        given = (shape[1], shape[2]), kernel, kernel if stride is None else stride, padding, dilation
        try:
            return _windows(*given)
        except TypeError:  # lists, which cannot be looked up
            return _windows.__wrapped__(*given)

    @classmethod
    def transposed(
        cls, shape: tuple[int, ...], kernel: IntPair, stride: IntPair, padding: Padding, dilation: IntPair,
        extra: IntPair | None,
    ) -> Windows:  # fmt: skip
        """The windows for which the small image of `shape` (N, H, W, C) is the output: of a transposed convolution."""
        image = transposed_size(shape[1:3], kernel, stride, dilation, padding, extra)
        return cls.of((shape[0], *image, shape[3]), kernel, stride, padding, dilation)

    @cached_property
    def padded(self) -> tuple[int, int]:
        """(H, W) of the image with its padding."""
        (h, w), ((top, bottom), (left, right)) = self.image, self.pads
        return h + top + bottom, w + left + right

    @cached_property
    def pointwise(self) -> bool:
        """Whether the windows are the pixels themselves, one by one: of 1×1, without stride and padding."""
        return self.kernel == self.stride == (1, 1) and self.padded == self.image

    @cached_property
    def inside(self) -> tuple[slice, slice, slice]:
        """Where in the padded images (N, H, W, C) the images themselves lie."""
        (h, w), ((top, _), (left, _)) = self.image, self.pads
        return slice(None), slice(top, top + h), slice(left, left + w)

    def tap(self, i: int, j: int) -> tuple[slice, slice, slice]:
        """Where in the padded images (N, H, W, C) the element (i, j) of every window lies."""
        (sh, sw), (dh, dw), (oh, ow) = self.stride, self.dilation, self.out
        i, j = i * dh, j * dw
        return slice(None), slice(i, i + (oh - 1) * sh + 1, sh), slice(j, j + (ow - 1) * sw + 1, sw)

    @cached_property
    def taps(self) -> list[tuple[slice, slice, slice]]:
        """Where the first, second, … element of every window lies, in the order (kh, kw)."""
        kh, kw = self.kernel
        return [self.tap(i, j) for i in range(kh) for j in range(kw)]

    @cached_property
    def overlap(self) -> bool:
        """Whether some pixels are seen by several windows."""
        return self.stride[0] < self.kernel[0] or self.stride[1] < self.kernel[1]

    @cached_property
    def partition(self) -> bool:
        """Whether each pixel of the padded images is seen by exactly one window."""
        (oh, ow), (kh, kw) = self.out, self.kernel
        return self.stride == self.kernel and (oh * kh, ow * kw) == self.padded

    def reverse(self) -> Windows | None:
        """The windows of the backward pass, over dy: dx is the convolution of dy with the kernel turned by 180 degrees.

        None where it is not: with a stride, or with a border wider than the kernel reaches.
        """
        (kh, kw), (dh, dw), ((top, bottom), (left, right)) = self.kernel, self.dilation, self.pads
        span_h, span_w = (kh - 1) * dh, (kw - 1) * dw
        if self.stride != (1, 1) or max(top, bottom) > span_h or max(left, right) > span_w:
            return None
        pads = ((span_h - top, span_h - bottom), (span_w - left, span_w - right))
        return Windows(self.kernel, self.stride, self.dilation, pads, self.out, self.image)

    def pad(self, x: Array, fill: float = 0.0) -> Array:
        """x with its padding in scratch memory; x itself where there is none."""
        if self.padded == self.image:
            return x
        xp = xp_of(x)
        n, _, _, c = x.shape
        padded = scratch(xp, "padded", (n, *self.padded, c), x.dtype)
        padded.fill(fill)
        padded[self.inside] = x
        return padded

    def view(self, padded: Array) -> Array:
        """(N, OH, OW, KH, KW, C): all windows as a view, nothing copied; overlapping ones share memory."""
        n, _, _, c = padded.shape
        bn, bh, bw, bc = padded.strides
        (sh, sw), (dh, dw) = self.stride, self.dilation
        return xp_of(padded).lib.stride_tricks.as_strided(
            padded, (n, *self.out, *self.kernel, c), (bn, bh * sh, bw * sw, bh * dh, bw * dw, bc)
        )


@lru_cache(maxsize=1024)  # they are asked for at each batch, and are the same for each
def _windows(image: tuple[int, int], kernel: IntPair, stride: IntPair, padding: Padding, dilation: IntPair) -> Windows:
    pads = resolve_padding(image, kernel, stride, dilation, padding)
    out = output_size(image, kernel, stride, dilation, pads)
    return Windows(pair(kernel), pair(stride), pair(dilation), pads, image, out)
