"""What benchmarks/models.py measures: the documents' networks, described once, built by each side with its own layers.

All sides begin with the same weights and see the same numbers, so that their losses can be compared (`--no-check`
leaves that out). Random images do: the time of a step does not depend on what is in the pictures.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Op:
    """One layer. size: filters of conv, units of dense, rate of drop, side of pool. The others need none.

    average: of all pixels. kernel, stride, padding, bias: of conv (bias also of dense). inner: what a residual block
    adds to its input; where that has a stride, the shortcut takes every second pixel, and zeros for the new channels.
    """

    kind: str  # conv, dense, act, pool (the maximum), norm (of the batch), drop, flatten, average, residual
    size: float = 0
    activation: str | None = None
    max_norm: float | None = None
    kernel: int = 3
    stride: int = 1
    padding: str = "same"
    bias: bool = True
    inner: tuple[Op, ...] = ()

    @property
    def width(self) -> int:
        return int(self.size)


def _act(name: str) -> Op:
    return Op("act", activation=name)


POOL, NORM, FLATTEN, RELU = Op("pool", 2), Op("norm"), Op("flatten"), _act("relu")


def _cifar() -> tuple[Op, ...]:
    """The activation is a layer of its own, and the dropout stands before the batch norm, as in the article."""
    ops = [Op("conv", 32), RELU]
    for filters, pool in ((64, True), (64, True), (128, False)):
        ops += [Op("drop", 0.2), NORM, Op("conv", filters), RELU, *([POOL] if pool else [])]
    ops += [Op("drop", 0.2), NORM, FLATTEN, Op("drop", 0.2)]
    for units in (256, 128):
        ops += [Op("dense", units, max_norm=3), RELU, Op("drop", 0.2), NORM]
    return (*ops, Op("dense", 10))


def _small_vgg(classes: int) -> tuple[Op, ...]:
    ops: list[Op] = []
    for filters, times in ((32, 1), (64, 2), (128, 3)):
        ops += [Op("conv", filters), RELU, NORM] * times + [POOL, Op("drop", 0.25)]
    return (*ops, FLATTEN, Op("dense", 512), RELU, NORM, Op("drop", 0.5), Op("dense", classes))


def _vgg16() -> tuple[Op, ...]:
    ops: list[Op] = []
    for filters, times in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        ops += [Op("conv", filters, "relu")] * times + [POOL]
    return tuple(ops)


def _resnet20() -> tuple[Op, ...]:
    """minicnn.applications.ResNet20, without weight decay."""

    def conv(filters: int, stride: int = 1) -> Op:
        return Op("conv", filters, stride=stride, bias=False)

    ops = [conv(16), NORM, RELU]
    for filters in (16, 32, 64):
        for block in range(3):
            stride = 2 if block == 0 and filters > 16 else 1
            inner = (conv(filters, stride), NORM, RELU, conv(filters), NORM)
            ops += [Op("residual", filters, stride=stride, inner=inner), RELU]
    return (*ops, Op("average"), Op("dense", 10))


def _fast() -> tuple[Op, ...]:
    """The network of examples/cifar10_fast.py."""
    gelu = _act("gelu")
    ops = [Op("conv", 24, "gelu", kernel=2, padding="valid")]
    for filters in (64, 256, 256):
        conv = Op("conv", filters, bias=False)
        ops += [conv, POOL, NORM, gelu, conv, NORM, gelu]
    return (*ops, Op("pool", 3), FLATTEN, Op("dense", 10, bias=False))


@dataclass(frozen=True)
class Workload:
    """A network and what is done with it.

    mode: "train" (forward, loss, backward, update) or "forward" (in evaluation mode). batches: how many a timed round
    takes. classes: a softmax over them comes last; None: the network ends with its last op. goal, gpu_goal: the largest
    ratio of our time to the fastest peer's that we want to see. Without a goal, a CPU leaves the workload out.
    """

    title: str
    ops: tuple[Op, ...]
    shape: tuple[int, ...]
    classes: int | None
    mode: str
    batch: int
    batches: int
    goal: float | None
    optimizer: str = "adam"
    gpu_goal: float | None = None

    def goal_on(self, device: str) -> float | None:
        return self.goal if device == "cpu" else self.gpu_goal

    def quick(self) -> Workload:
        """Only to see that everything works."""
        return replace(self, batch=min(self.batch, 4), batches=2)

    def checked(self) -> Workload:
        """To compare losses. Too few samples would not do: batch norm then makes much of the last digit's rounding."""
        return replace(self, batch=min(self.batch, 32), batches=2)


SHAPE, CIFAR = (32, 32, 3), _cifar()
WORKLOADS = {
    "dense": Workload(
        "A: dense 128, train, batch 32, through fit",
        (FLATTEN, Op("dense", 128, "relu"), Op("dense", 10)), (28, 28, 1), 10, "train", 32, 200, 0.75,
    ),
    "cifar": Workload("B: CIFAR-10 CNN, train, batch 64", CIFAR, SHAPE, 10, "train", 64, 8, 0.55, gpu_goal=1.0),
    "cifar_512": Workload(
        "B: CIFAR-10 CNN, train, batch 512", CIFAR, SHAPE, 10, "train", 512, 2, goal=None, gpu_goal=1.30
    ),
    "cifar_forward_256": Workload("B: CIFAR-10 CNN, forward, batch 256", CIFAR, SHAPE, 10, "forward", 256, 2, 0.68),
    "cifar_forward_1": Workload("B: CIFAR-10 CNN, forward, batch 1", CIFAR, SHAPE, 10, "forward", 1, 60, 0.70),
    "simple": Workload(
        "C1: simple NN, train, batch 32",
        (Op("dense", 1024, "sigmoid"), Op("dense", 512, "sigmoid"), Op("dense", 3)),
        (3072,), 3, "train", 32, 40, 0.85, "sgd",
    ),
    "small_vgg": Workload(
        "C2: SmallVGGNet 64×64, train, batch 32", _small_vgg(3), (64, 64, 3), 3, "train", 32, 6, 0.68, "sgd", 1.0
    ),
    "dense_800": Workload(
        "D: dense 800, train, batch 200",
        (Op("dense", 800, "relu"), Op("dense", 10)), (784,), 10, "train", 200, 40, 0.95,
    ),
    "vgg16": Workload("E: VGG16 without top, 32×32, forward, batch 32", _vgg16(), SHAPE, None, "forward", 32, 3, 0.60),
    "resnet20": Workload("F: ResNet-20, train, batch 128", _resnet20(), SHAPE, 10, "train", 128, 4, 0.80, "sgd", 1.0),
    "fast": Workload(
        "G: fast CIFAR-10 network, train, batch 500", _fast(), SHAPE, 10, "train", 500, 2, 0.80, "sgd", 1.0
    ),
}  # fmt: skip


def names_on(device: str) -> list[str]:
    """The workloads that are measured on "cpu" or "gpu"."""
    return [name for name, workload in WORKLOADS.items() if device == "gpu" or workload.goal is not None]


def names_in_a_row() -> list[str]:
    """Those measured on the CPU whose layers follow one another: what every version of minicnn can build."""
    return [name for name in names_on("cpu") if all(op.kind != "residual" for op in WORKLOADS[name].ops)]


def get(name: str, quick: bool = False) -> Workload:
    return WORKLOADS[name].quick() if quick else WORKLOADS[name]


def data(workload: Workload) -> tuple[np.ndarray, np.ndarray]:
    """The same random images (float32, 0…1) and class numbers for every side."""
    rng = np.random.default_rng(0)
    samples = workload.batch * workload.batches
    x = rng.random((samples, *workload.shape), dtype=np.float32)
    return x, rng.integers(0, workload.classes or 1, samples)


def weights(workload: Workload) -> Iterator[np.ndarray]:
    """The first kernel of each conv and dense, in order, as minicnn and Keras hold them; biases are 0.

    Uniform, of variance 1/fan_in before sigmoid and 2/fan_in else, so that the numbers neither fade nor grow.
    """
    yield from _weights(workload.ops, workload.shape, np.random.default_rng(1))


def _weights(ops: tuple[Op, ...], shape: tuple[int, ...], rng: np.random.Generator) -> Iterator[np.ndarray]:
    for op in ops:
        yield from _weights(op.inner, shape, rng)
        if op.kind in ("conv", "dense"):
            kernel = (op.kernel, op.kernel, shape[-1], op.width) if op.kind == "conv" else (shape[-1], op.width)
            gain = 1 if op.activation == "sigmoid" else 2
            limit = math.sqrt(3 * gain / math.prod(kernel[:-1]))
            yield rng.uniform(-limit, limit, kernel).astype(np.float32)
        shape = output_shape(op, shape)


def output_shape(op: Op, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a sample, channels last, after `op`."""
    if op.kind == "pool":
        return (shape[0] // op.width, shape[1] // op.width, shape[2])
    if op.kind == "flatten":
        return (math.prod(shape),)
    if op.kind == "average":
        return shape[-1:]
    if op.kind in ("conv", "residual"):
        lost = op.kernel - 1 if op.padding == "valid" else 0
        return (*(-(-(n - lost) // op.stride) for n in shape[:2]), op.width)
    return (*shape[:-1], op.width) if op.kind == "dense" else shape
