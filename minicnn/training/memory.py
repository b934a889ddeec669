"""How much memory a training step will need, and how much there is: better told before than killed in the middle.

A step needs the parameters, a gradient of each for every shard, the optimizer's arrays, and for each sample of the
batch what the layers keep for the backward pass. The last is measured on two samples, so it holds for any layer.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minicnn.errors import InputError
from minicnn.layers.context import Context
from minicnn.layers.fused import Fused
from minicnn.layers.walk import PLAIN, forward, new_contexts
from minicnn.training.plan import training_plan

SCRATCH = 4 << 20  # about what the kernels reuse, for each thread


class StepMemory(NamedTuple):
    """Bytes of one training step.

    activations: of one sample, kept for the backward pass, and the largest gradients at one time.
    parameters: with the layers' state; gradients: of all shards; slots: the optimizer's arrays.
    """

    parameters: int
    gradients: int
    slots: int
    activations: int
    scratch: int

    def total(self, batch_size: int) -> int:
        return self.parameters + self.new(batch_size)

    def new(self, batch_size: int) -> int:
        """What is not there yet before the first step."""
        return self.gradients + self.slots + self.scratch + batch_size * self.activations


def estimate(model: Any, shards: int = 1) -> StepMemory:
    """The memory of one training step of a built and compiled model, on a batch that is cut into so many shards."""
    learned = sum(p.nbytes for layer in model.flat_layers if layer.trainable for p in layer.params.values())
    held = sum(a.nbytes for layer in model.flat_layers for a in (*layer.params.values(), *layer.state.values()))
    return StepMemory(
        parameters=held,
        gradients=learned * shards,
        slots=learned * len(model.optimizer.slots_of()),
        activations=_kept_by_a_sample(model) + _largest_gradients(model),
        scratch=SCRATCH * shards,
    )


def check_step_fits(model: Any, batch_size: int, shards: int) -> None:
    """InputError where a step on so many samples needs more memory than there is. Says what would fit.

    Looks closely only where a rough count comes near to it. On a GPU, and where the system does not tell, it passes.
    """
    free = available()
    if free is None or model.device != "cpu" or not model.built:
        return
    outputs = sum(math.prod(shape) for shape in model.node_shapes) * model.dtype.itemsize
    if 4 * outputs * batch_size + 8 * model.count_params() * model.dtype.itemsize < free / 2:
        return
    if outputs > free:
        raise _too_large(f"more than {_size(outputs)} for a single sample", free, "use smaller images or fewer units.")
    need = estimate(model, shards)
    if need.new(batch_size) <= free:
        return
    fits = (free - need.new(0)) // max(1, need.activations)
    if fits >= 1:
        fix = f"batch_size={fits} would fit."
    elif need.slots:
        fix = "use a smaller model, or SGD, which keeps no arrays of its own."
    else:
        fix = "use a smaller model."
    if any(getattr(layer, "algorithm", None) == "fft" for layer in model.flat_layers):
        fix += ' The algorithm "fft" needs more than this besides: algorithm="im2col" does not.'
    raise _too_large(
        f"about {_size(need.new(batch_size))} more: {_size(batch_size * need.activations)} for what the layers keep of "
        f"{batch_size} samples, {_size(need.gradients)} for gradients, {_size(need.slots)} for the optimizer",
        free, fix,
    )  # fmt: skip


def available() -> int | None:
    """Bytes that this process may still take without swapping, within its limits; None where nobody says."""
    found = [value for value in (_of_the_system(), _of_the_group(Path("/sys/fs/cgroup"))) if value is not None]
    return min(found, default=None)


def _of_the_system() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows, macOS
        return None


def _of_the_group(root: Path) -> int | None:
    """What is left of the limit of a container (Linux control groups, version 2 or 1)."""
    files = (
        ("memory.max", "memory.current", "memory.stat", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
    )
    for limit, usage, stat, cache in files:
        try:
            most, used = (root / limit).read_text().strip(), int((root / usage).read_text())
            pairs = (line.split() for line in (root / stat).read_text().splitlines())
            freed = int(dict(pairs).get(cache, 0))  # copies of files, given up when somebody needs the memory
        except (OSError, ValueError):
            continue
        if most != "max" and int(most) < 1 << 60:  # without a limit, version 1 shows a huge number
            return max(0, int(most) - used + freed)
    return None


def _kept_by_a_sample(model: Any) -> int:
    """Bytes that the layers' contexts hold for one sample, each array counted once: from runs over two and four."""
    two, four = _kept_by(model, 2), _kept_by(model, 4)
    return max(0, four - two) // 2


def _kept_by(model: Any, samples: int) -> int:
    plan = training_plan(model.nodes, PLAIN, model.device)
    contexts = plan.contexts(new_contexts(model.nodes, training=True, need_backward=True))
    y = forward(plan.nodes, contexts, np.zeros((samples, *model.sample_shape), model.dtype))
    arrays = {id(array): array for array in _arrays([y, [vars(ctx) for ctx in contexts]])}
    return sum(array.nbytes for array in arrays.values())


def _arrays(value: Any) -> Iterator[np.ndarray]:
    """Those that own the memory of all arrays in `value`."""
    if isinstance(value, np.ndarray):
        yield _owner(value)
    elif isinstance(value, (list, tuple, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _arrays(item)
    elif isinstance(value, Context):
        yield from _arrays(vars(value))


def _owner(array: np.ndarray) -> np.ndarray:
    """The array that owns the memory that this one looks at."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def _largest_gradients(model: Any) -> int:
    """Bytes of the gradients that one sample has at one time, where they are most.

    At a node those are dy, dz and dx, and what waits for the nodes before it: other ways of a network that branches.
    Layers that run as one have whole gradients only at the values which they save.
    """
    plan, shapes = training_plan(model.nodes, PLAIN, model.device), model.node_shapes
    ends = {-1: -1} | {i: places[-1] for i, places in enumerate(plan.stands_for)}
    sizes = {i: math.prod(shapes[j + 1]) for i, j in ends.items()}  # of the value i of the plan, and of its gradient
    most, waiting = 0, {len(plan.nodes) - 1}
    for i, node in reversed(list(enumerate(plan.nodes))):
        waiting.discard(i)
        dx = sum(sizes[j] for j in node.inputs)
        here = 2 * sizes[i] + dx
        if isinstance(node.layer, Fused):
            saved = [dx, *(math.prod(shapes[plan.stands_for[i][place] + 1]) for place in node.layer.saves)]
            here = sizes[i] + max(a + b for a, b in pairwise(saved))
        most = max(most, here + sum(sizes[j] for j in waiting))
        waiting |= set(node.inputs)
    return most * model.dtype.itemsize


def _too_large(need: str, free: int, fix: str) -> InputError:
    return InputError("fit", "a training step does not fit into memory.", f"{need}.", f"{_size(free)} are free.", fix)


def _size(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
