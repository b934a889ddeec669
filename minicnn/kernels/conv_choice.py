"""The algorithms for convolution, and which of them is the fastest for a shape."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from minicnn.backend import Array, serves, xp_of
from minicnn.errors import InputError, unknown_name
from minicnn.kernels import conv_fft, conv_im2col, conv_implicit, conv_shifted, conv_winograd, reference
from minicnn.kernels.geometry import Windows
from minicnn.kernels.im2col import COLS_BYTES


class Algorithm(NamedTuple):
    """A way to compute a convolution and its gradients, and which windows it can compute.

    kernel: the same for a batch that comes a few images at a time (w, b, windows, keep); see `InPieces`.
    only: "cpu" or "gpu", where it computes nowhere else.
    """

    forward: Callable[[Array, Array, Array | None, Windows], Array]  # (x, w, b, windows) -> y
    backward: Callable[[Array, Array, Array, Windows, bool], tuple[Array | None, Array]]  # (dy, x, w, …) -> (dx, dw)
    can: Callable[[Windows], bool] = lambda windows: True
    kernel: Callable[..., Any] | None = None
    only: str = ""

    def in_pieces(self, w: Array, b: Array | None, windows: Windows, keep: bool = False) -> Any:
        return InPieces(self, w, b, windows) if self.kernel is None else self.kernel(w, b, windows, keep=keep)


class InPieces:
    """A convolution for a batch that comes a few images at a time, by an algorithm that prepares nothing of w.

    b: (C_out,), or a map of biases (OH, OW, C_out). step: how many images at a time fit into the cache.
    """

    def __init__(self, algorithm: Algorithm, w: Array, b: Array | None, windows: Windows):
        self.algorithm, self.w, self.b, self.windows = algorithm, w, b, windows
        taps, c_out = w.size // w.shape[3], w.shape[3]
        self.step = max(1, max(COLS_BYTES, w.nbytes) // (math.prod(windows.out) * max(taps, c_out) * w.itemsize))
        self.dw: Array | None = None

    def forward(self, x: Array, y: Array) -> Array:
        """Write y (N, OH, OW, C_out), and return it."""
        if self.b is None or self.b.ndim == 1:
            y[...] = self.algorithm.forward(x, self.w, self.b, self.windows)
        else:
            np.add(self.algorithm.forward(x, self.w, None, self.windows), self.b, out=y)
        return y

    def backward(self, dy: Array, x: Array, dx: Array | None) -> None:
        """Write dx, where it is asked for, and add to dw."""
        own, dw = self.algorithm.backward(dy, x, self.w, self.windows, dx is not None)
        if dx is not None:
            dx[...] = own
        self.dw = dw if self.dw is None else self.dw + dw

    def gradient(self) -> Array:
        """dw, of all that went through `backward`."""
        return self.dw

    def can_pool(self, pool: Windows) -> bool:
        """Whether it would do the pooling behind it, too."""
        return False


def _loops_forward(x: Array, w: Array, b: Array | None, windows: Windows) -> Array:
    return reference.conv2d_forward(x, w, b, windows.stride, windows.pads, windows.dilation)


def _loops_backward(
    dy: Array, x: Array, w: Array, windows: Windows, need_dx: bool
) -> tuple[Array | None, Array]:
    return reference.conv2d_backward(dy, x, w, windows.stride, windows.pads, windows.dilation, need_dx)[:2]


ALGORITHMS = {
    "im2col": Algorithm(conv_im2col.forward, conv_im2col.backward),
    "shifted": Algorithm(conv_shifted.forward, conv_shifted.backward),
    "winograd": Algorithm(
        conv_winograd.forward, conv_winograd.backward, conv_winograd.can, conv_winograd.Kernel
    ),
    "fft": Algorithm(conv_fft.forward, conv_fft.backward),
    "implicit": Algorithm(conv_implicit.forward, conv_implicit.backward, only="gpu"),
    "loops": Algorithm(_loops_forward, _loops_backward, only="cpu"),
}


def check_algorithm(name: str) -> str:
    """`name` itself; UnknownNameError unless it is "auto" or the name of an algorithm."""
    if not isinstance(name, str) or (name != "auto" and name not in ALGORITHMS):
        raise unknown_name("convolution algorithm", name, ["auto", *ALGORITHMS])
    return name


def check_can(name: str, windows: Windows, where: str = "conv2d") -> None:
    """InputError unless the algorithm `name` computes convolutions with these windows."""
    if check_algorithm(name) != "auto" and not ALGORITHMS[name].can(windows):
        raise InputError(
            where, f"the algorithm {name!r} cannot compute this convolution.", conv_winograd.LIMITS,
            f"kernel {windows.kernel}, stride {windows.stride}, dilation {windows.dilation}, padding {windows.pads}.",
            'use algorithm="auto", which picks one that can.',
        )  # fmt: skip


def check_here(name: str, x: Array) -> None:
    """InputError unless the algorithm `name` computes where x is."""
    only = ALGORITHMS[name].only
    if only == "cpu" and xp_of(x) is not np:
        raise InputError(
            "conv2d", f"the algorithm {name!r} runs in plain Python.", "an array on the CPU.", "one on the GPU.",
            'use algorithm="im2col" there.',
        )  # fmt: skip
    if only == "gpu" and not serves(x):
        where = "the CPU" if xp_of(x) is np else "another GPU, or of half precision"
        raise InputError(
            "conv2d", f"the algorithm {name!r} is a kernel for NVIDIA's GPUs.",
            "an array of float32 or float64 on such a GPU.", f"{x.dtype} on {where}.",
            'use algorithm="im2col" here, model.set_algorithm("auto") for all layers, or model.to("gpu") first.',
        )  # fmt: skip


def algorithm_for(name: str, x: Array, c_out: int, windows: Windows, kept: bool = False) -> Algorithm:
    """The algorithm of this name, for an input x (N, H, W, C_in). Raises InputError where it cannot do this.

    kept: see `choose`.
    """
    if name == "auto":
        return ALGORITHMS[choose(len(x), x.shape[3], c_out, windows, kept)[0] if xp_of(x) is np else "im2col"]
    check_can(name, windows)
    check_here(name, x)
    return ALGORITHMS[name]


# Winograd's method pays from so many channels on, both in and out: below, its transforms cost more than it saves.
WINOGRAD_CHANNELS = 16
# And from so many tiles on: the kernel must be transformed, too, however few images there are.
WINOGRAD_TILES = 64
# With a transformed kernel that is kept from so few; from the second number on where it takes more than so many bytes.
KEPT_TILES, MANY_KEPT_TILES, KEPT_BYTES = 4, 16, 1 << 21
# The Fourier transform pays from so many elements of a kernel on.
FFT_TAPS = 169


def choose(n: int, c_in: int, c_out: int, windows: Windows, kept: bool = False) -> tuple[str, str]:
    """(algorithm, reason): the fastest on a CPU for n images of c_in channels, and why.

    kept: Winograd's transform of the kernel is there already, so that it only has to be read.
    The limits are where the curves cross in `benchmarks/kernels.py`.
    """
    kh, kw = windows.kernel
    channels = f"{c_in} channels in, {c_out} out"
    if not conv_winograd.can(windows):
        if windows.stride == (1, 1) and kh * kw >= FFT_TAPS and min(c_in, c_out) >= 16:
            return "fft", f"a kernel of {kh}×{kw}: by way of the frequencies the cost does not depend on its size"
        return "im2col", "Winograd's method is for kernels of 3×3 with stride 1, the frequencies are for large ones"
    if min(c_in, c_out) < WINOGRAD_CHANNELS:
        return "im2col", f"{channels}: below {WINOGRAD_CHANNELS}, Winograd's transforms cost more than they save"
    tiles = n * conv_winograd.tile_count(windows)
    if tiles < (_tiles_of_kept(c_in * c_out, windows) if kept else WINOGRAD_TILES):
        return "im2col", f"only {tiles} tiles in the batch: Winograd's transform of the kernel would cost too much"
    return "winograd", f"3×3, stride 1, {channels}, {tiles} tiles: a quarter of the multiplications"


def _tiles_of_kept(channels: int, windows: Windows) -> int:
    """From how many tiles on Winograd pays with a transformed kernel that only has to be read."""
    in_cache = (conv_winograd.tile_size(windows) + 2) ** 2 * channels * 4 <= KEPT_BYTES
    return KEPT_TILES if in_cache else MANY_KEPT_TILES
