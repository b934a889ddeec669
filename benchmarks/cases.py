"""What benchmarks/kernels.py measures: each kernel, on the shapes of the documents' layers.

A case makes its own arrays, in whatever dtype and for however many samples, and says what its work is: flops, 2 for
each multiply-accumulate of a matrix product as the definition has it; bytes, each array read or written once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from minicnn import kernels
from minicnn.backend import to_host
from minicnn.errors import InputError
from minicnn.kernels.conv_choice import ALGORITHMS, choose
from minicnn.kernels.geometry import Windows
from minicnn.optimizers import SGD, Adam

Shape = tuple[int, ...]
Run = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    """One kernel on one shape. make(xp, n, dtype): a function without arguments that runs it on n samples.

    group: conv, dense, or memory (what moves numbers rather than multiplying them). way: forward, dw, dx+dw, …
    flops, bytes: of one sample, and `fixed` bytes however many there are (the weights). batch: samples.
    """

    group: str
    kernel: str
    way: str
    shape: str
    batch: int
    make: Callable[[Any, int, Any], Run]
    flops: float
    bytes: float
    fixed: float = 0
    algorithm: str = ""
    conv: Conv | None = None

    @property
    def name(self) -> str:
        return " ".join(filter(None, (self.kernel, self.shape, self.way, self.algorithm)))


def _random(xp: Any, shape: Shape, dtype: Any, seed: int = 0) -> Any:
    """The same numbers, up to rounding, in every dtype and on every device."""
    return xp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype=dtype)


# ---- convolutions ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Conv:
    """A convolution with stride 1 and padding "same" on square images; "auto" and `choose` see this shape."""

    size: int
    c_in: int
    c_out: int
    batch: int
    kernel: int = 3

    def windows(self, n: int) -> Windows:
        return Windows.of((n, self.size, self.size, self.c_in), (self.kernel, self.kernel), 1, "same")

    @property
    def text(self) -> str:
        of_kernel = "" if self.kernel == 3 else f", {self.kernel}×{self.kernel}"
        of_batch = ", 1 image" if self.batch == 1 else ""
        return f"{self.size}×{self.size}×{self.c_in}→{self.c_out}{of_kernel}{of_batch}"


CONVS = [
    # the 3×3 layers of documents B, C2 and E
    Conv(32, 3, 32, 64), Conv(32, 32, 64, 64), Conv(16, 64, 64, 64), Conv(8, 64, 128, 64),
    Conv(64, 3, 32, 32), Conv(32, 64, 64, 32), Conv(16, 64, 128, 32), Conv(16, 128, 128, 32),
    Conv(8, 256, 256, 32), Conv(4, 512, 512, 32), Conv(2, 512, 512, 32),
    # B's again, for one image
    Conv(32, 32, 64, 1), Conv(16, 64, 64, 1), Conv(8, 64, 128, 1),
    # where the algorithms' curves cross: with the channels, and with the size of the kernel
    Conv(32, 8, 8, 32), Conv(32, 16, 16, 32), Conv(32, 32, 32, 32),
    Conv(32, 16, 16, 16, 5), Conv(32, 16, 16, 16, 9), Conv(32, 16, 16, 16, 13), Conv(32, 16, 16, 16, 17),
]  # fmt: skip
SMALL = Conv(8, 3, 4, 2)  # for the naive loops, which take seconds where the others take milliseconds


def convolutions(quick: bool) -> Iterator[Case]:
    for conv in [SMALL] if quick else [*CONVS, SMALL]:
        windows = conv.windows(conv.batch)
        # nobody asks for the images' gradient: of a first layer, dw alone
        for way in ("forward", "dw") if conv.c_in == 3 else ("forward", "dx+dw"):
            for algorithm, ways in ALGORITHMS.items():
                if ways.can(windows) and (algorithm != "loops" or conv is SMALL):
                    yield _convolution(conv, way, algorithm)


def _convolution(conv: Conv, way: str, algorithm: str) -> Case:
    size, k = conv.size, conv.kernel

    def make(xp: Any, n: int, dtype: Any) -> Run:
        x, w = _random(xp, (n, size, size, conv.c_in), dtype), _random(xp, (k, k, conv.c_in, conv.c_out), dtype, 1)
        dy, b = _random(xp, (n, size, size, conv.c_out), dtype, 2), _random(xp, (conv.c_out,), dtype, 3)
        if way == "forward":
            return lambda: kernels.conv2d_forward(x, w, b, 1, "same", algorithm=algorithm)
        need_dx = way != "dw"
        return lambda: kernels.conv2d_backward(dy, x, w, 1, "same", need_dx=need_dx, algorithm=algorithm)

    times = 2 if way == "dx+dw" else 1  # dx is as much work as y was, and dw too
    weights = 4 * k * k * conv.c_in * conv.c_out * times
    moved = 4 * size * size * (conv.c_in * times + conv.c_out)
    flops = 2 * size * size * k * k * conv.c_in * conv.c_out * times
    return Case("conv", "conv2d", way, conv.text, conv.batch, make, flops, moved, weights, algorithm, conv)


def chosen_by_auto(conv: Conv, shards: int) -> str:
    """The algorithm that "auto" takes where the batch is cut into so many shards."""
    n = -(-conv.batch // shards)
    return choose(n, conv.c_in, conv.c_out, conv.windows(n))[0]


# ---- dense -----------------------------------------------------------------------------------------------------------

# inputs, outputs, batch: A, B, C1 and D
DENSES = [(784, 128, 32), (8192, 256, 64), (3072, 1024, 32), (784, 800, 200)]


def dense(quick: bool) -> Iterator[Case]:
    for inputs, outputs, batch in [(20, 10, 4)] if quick else DENSES:
        for way in ("forward", "dx+dw"):
            yield _dense(inputs, outputs, batch, way)


def _dense(inputs: int, outputs: int, batch: int, way: str) -> Case:
    def make(xp: Any, n: int, dtype: Any) -> Run:
        x, w = _random(xp, (n, inputs), dtype), _random(xp, (inputs, outputs), dtype, 1)
        b, dy = _random(xp, (outputs,), dtype, 2), _random(xp, (n, outputs), dtype, 3)
        if way == "forward":
            return lambda: kernels.dense_forward(x, w, b)
        return lambda: kernels.dense_backward(dy, x, w)

    times = 1 if way == "forward" else 2
    return Case(
        "dense", "dense", way, f"{inputs}→{outputs}", batch, make, times * 2 * inputs * outputs,
        4 * (times * inputs + outputs), times * 4 * inputs * outputs,
    )  # fmt: skip


# ---- what moves numbers ----------------------------------------------------------------------------------------------


def memory(quick: bool) -> Iterator[Case]:
    """Pooling, batch norm, dropout, activations, softmax: on the largest maps of B."""
    image, batch = ((8, 8, 4), 4) if quick else ((32, 32, 64), 64)
    yield from _pooling(image, batch)
    yield from _norm(image, batch)
    yield from _dropout(image, batch)
    yield from _activations(image, batch)
    yield from _softmax(10, 4 if quick else 4096)


def _case(kernel: str, way: str, image: Shape, batch: int, arrays: float, make: Callable[..., Run]) -> Case:
    """arrays: how many arrays of the input's size are read and written."""
    shape = "×".join(map(str, image))
    return Case("memory", kernel, way, shape, batch, make, 0, 4 * arrays * math.prod(image))


def _pooling(image: Shape, batch: int) -> Iterator[Case]:
    small = (image[0] // 2, image[1] // 2, image[2])

    def forward(f: Callable[..., Any]) -> Callable[..., Run]:
        def make(xp: Any, n: int, dtype: Any) -> Run:
            x = _random(xp, (n, *image), dtype)
            return lambda: f(x)

        return make

    def max_backward(xp: Any, n: int, dtype: Any) -> Run:
        x, dy = _random(xp, (n, *image), dtype), _random(xp, (n, *small), dtype, 1)
        _, winner = kernels.maxpool2d_forward(x, 2)
        return lambda: kernels.maxpool2d_backward(dy, winner, x.shape, 2)

    def backward(f: Callable[..., Any], dy_shape: Shape) -> Callable[..., Run]:
        def make(xp: Any, n: int, dtype: Any) -> Run:
            dy = _random(xp, (n, *dy_shape), dtype)
            return lambda: f(dy, (n, *image))

        return make

    # y has a quarter of x's numbers; the winners of max pooling are bytes
    with_winners = 1.25 + 1 / 16
    max_forward = forward(lambda x: kernels.maxpool2d_forward(x, 2)[0])
    yield _case("maxpool2d", "forward", image, batch, with_winners, max_forward)
    yield _case("maxpool2d", "backward", image, batch, with_winners, max_backward)
    yield _case("avgpool2d", "forward", image, batch, 1.25, forward(lambda x: kernels.avgpool2d_forward(x, 2)))
    yield _case(
        "avgpool2d", "backward", image, batch, 1.25, backward(lambda dy, s: kernels.avgpool2d_backward(dy, s, 2), small)
    )
    yield _case("global_avgpool2d", "forward", image, batch, 1, forward(kernels.global_avgpool2d_forward))
    yield _case("global_avgpool2d", "backward", image, batch, 1, backward(kernels.global_avgpool2d_backward, image[2:]))


def _norm(image: Shape, batch: int) -> Iterator[Case]:
    def prepare(way: str) -> Callable[..., Run]:
        def make(xp: Any, n: int, dtype: Any) -> Run:
            x, dy = _random(xp, (n, *image), dtype), _random(xp, (n, *image), dtype, 1)
            gamma, beta = _random(xp, image[2:], dtype, 2), _random(xp, image[2:], dtype, 3)
            mean, var, _ = kernels.batchnorm_moments(x)
            return {
                "moments": lambda: kernels.batchnorm_moments(x)[:2],
                "forward": lambda: kernels.batchnorm_forward(x, gamma, beta, mean, var, 1e-3),
                "backward": lambda: kernels.batchnorm_backward(dy, x, gamma, mean, var, 1e-3),
            }[way]

        return make

    # backward reads dy and x for the sums, and again for dx
    for way, arrays in (("moments", 1), ("forward", 2), ("backward", 5)):
        yield _case("batchnorm", way, image, batch, arrays, prepare(way))


def _dropout(image: Shape, batch: int) -> Iterator[Case]:
    def mask(xp: Any, n: int, dtype: Any) -> Run:
        return lambda: kernels.dropout_mask((n, *image), 0.2, 0)

    def forward(xp: Any, n: int, dtype: Any) -> Run:
        x, kept = _random(xp, (n, *image), dtype), xp.asarray(kernels.dropout_mask((n, *image), 0.2, 0))
        return lambda: kernels.dropout_forward(x, kept, 0.2)

    yield _case("dropout", "mask", image, batch, 0.25, mask)
    yield _case("dropout", "forward", image, batch, 2.25, forward)


ACTIVATIONS = {  # name -> (forward, backward, does backward take x instead of y)
    "relu": (kernels.relu_forward, kernels.relu_backward, False),
    "leaky_relu": (
        lambda x: kernels.leaky_relu_forward(x, 0.3), lambda dy, y: kernels.leaky_relu_backward(dy, y, 0.3), False
    ),
    "elu": (kernels.elu_forward, kernels.elu_backward, False),
    "sigmoid": (kernels.sigmoid_forward, kernels.sigmoid_backward, False),
    "tanh": (kernels.tanh_forward, kernels.tanh_backward, False),
    "gelu": (kernels.gelu_forward, kernels.gelu_backward, True),
}  # fmt: skip


def _activations(image: Shape, batch: int) -> Iterator[Case]:
    def prepare(name: str, way: str) -> Callable[..., Run]:
        forward, backward, takes_x = ACTIVATIONS[name]

        def make(xp: Any, n: int, dtype: Any) -> Run:
            x, dy = _random(xp, (n, *image), dtype), _random(xp, (n, *image), dtype, 1)
            if way == "forward":
                return lambda: forward(x)
            kept = x if takes_x else forward(x)
            return lambda: backward(dy, kept)

        return make

    for name in ACTIVATIONS:
        few = max(1, batch // 16) if name == "gelu" else batch  # its error function is slow
        yield _case(name, "forward", image, few, 2, prepare(name, "forward"))
        yield _case(name, "backward", image, few, 3, prepare(name, "backward"))


def _softmax(classes: int, batch: int) -> Iterator[Case]:
    def prepare(kernel: str, way: str) -> Callable[..., Run]:
        def make(xp: Any, n: int, dtype: Any) -> Run:
            x, dy = _random(xp, (n, classes), dtype), _random(xp, (n, classes), dtype, 1)
            y, labels = kernels.softmax_forward(x), xp.asarray(np.arange(n) % classes)
            return {
                "softmax forward": lambda: kernels.softmax_forward(x),
                "softmax backward": lambda: kernels.softmax_backward(dy, y),
                "softmax_cross_entropy forward": lambda: kernels.softmax_cross_entropy_forward(x, labels),
                "softmax_cross_entropy backward": lambda: kernels.softmax_cross_entropy_backward(x, labels),
            }[f"{kernel} {way}"]

        return make

    for kernel in ("softmax", "softmax_cross_entropy"):
        for way, arrays in (("forward", 2), ("backward", 3 if kernel == "softmax" else 2)):
            yield _case(kernel, way, (classes,), batch, arrays, prepare(kernel, way))


# ---- optimizers ------------------------------------------------------------------------------------------------------


def optimizers(quick: bool) -> Iterator[Case]:
    """One step for as many parameters as B has, as training does it: in pieces, shared by the threads."""
    size = 1000 if quick else 2_263_114
    for name, make_optimizer, arrays in (("sgd", SGD, 3), ("adam", Adam, 7)):

        def make(xp: Any, n: int, dtype: Any, make_optimizer: Any = make_optimizer) -> Run:
            optimizer, p, g = make_optimizer(), _random(xp, (n,), dtype), _random(xp, (n,), dtype, 1)
            key = ("layer", "w")

            def step(workers: Any = None) -> Any:
                optimizer.apply({key: p}, {key: [g]}, workers)
                return p

            return step

        # sgd reads p and g and writes p; adam reads and writes m and v as well
        yield Case("optimizer", name, "step", f"{size:,} parameters", size, make, 0, 4 * arrays)


def all_cases(quick: bool, only: str = "") -> list[Case]:
    """All of them; those whose name or group has one of the words in `only` (comma-separated)."""
    return matching([*convolutions(quick), *dense(quick), *memory(quick), *optimizers(quick)], only)


def of_one_shape(size: int, batch: int) -> list[Case]:
    """The kernels of a block of B (convolution 32→64, norm, ReLU, pooling) and of a dense layer, for size×size images.

    The convolution by the algorithm that "auto" takes on the device. The dense layer has 8 inputs for each pixel and
    256 outputs: those of B where size is 32.
    """
    conv, image = Conv(size, 32, 64, batch), (size, size, 64)
    return [
        *(_convolution(conv, way, "auto") for way in ("forward", "dx+dw")),
        *_norm(image, batch),
        *(case for case in _activations(image, batch) if case.kernel == "relu"),
        *(case for case in _pooling(image, batch) if case.kernel == "maxpool2d"),
        *(_dense(8 * size * size, 256, batch, way) for way in ("forward", "dx+dw")),
    ]


def matching(cases: list[Case], only: str) -> list[Case]:
    """Those whose name or group has one of the words in `only` (comma-separated); all where it is empty."""
    words = [word for word in only.split(",") if word]
    return [case for case in cases if not words or any(word in f"{case.group} {case.name}" for word in words)]


def error(case: Case, xp: Any, dtype: Any = np.float32) -> float | None:
    """The largest difference from the same kernel in float64 on the CPU, as a part of the largest number; n = 2.

    The convolutions are all compared with im2col. None where there is nothing to round (a mask).
    """
    n = case.batch if case.group == "optimizer" else 2
    exact = case if case.conv is None else _convolution(case.conv, case.way, "im2col")
    wanted, found = exact.make(np, n, np.float64)(), case.make(xp, n, dtype)()
    pairs = zip(_arrays(wanted), _arrays(found), strict=True)
    errors = [np.abs(to_host(f) - w).max() / max(np.abs(w).max(), 1e-300) for w, f in pairs if w.dtype.kind == "f"]
    return float(max(errors)) if errors else None


def _arrays(result: Any) -> list[Any]:
    return [array for array in (result if isinstance(result, tuple) else (result,)) if array is not None]


def runs_here(case: Case, xp: Any) -> bool:
    """Whether this algorithm can compute on this device at all."""
    try:
        case.make(xp, 1, np.float32)()
    except InputError:
        return False
    return True
