"""The training step as a CUDA graph: recorded once for each shape of batch, then repeated. See `set_cuda_graph`."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from minicnn.backend import Array, module_for, xp_of
from minicnn.recording import EachStep, Recording
from minicnn.training.profiling import is_running
from minicnn.training.shards import Workers
from minicnn.training.step import gradients, train_step, update

Step = Callable[[Any, Array, Array, Workers], tuple[Any, list[Any]]]

# Plain steps before a recording: they compile the kernels, and create what is created on first use.
WARM_UP = 2
# Shapes of batches that are recorded, each of which keeps memory for a whole step. Most runs have two of them.
MOST_GRAPHS = 4
# Recordings of one shape in a row, none of which was ever repeated, before it is clear that this does not pay.
MOST_IN_VAIN = 4

_wanted = False


def set_cuda_graph(use: bool) -> None:
    """Whether `fit` on a GPU records its step as a CUDA graph and repeats it; it does not, unless you say so.

    It pays where steps are small: a step is some hundred launches, each of which costs Python and CuPy some
    microseconds, whatever the GPU has to do for it. Where the GPU is busy all the time anyway, nothing is gained, and
    each shape of batch takes the memory of a step once more. The kernels and their numbers are the same.
    `python benchmarks/cuda_graph.py` measures both ways: try it before you rely on a gain.

    The first steps of each shape run as ever, then one is recorded. Between the graphs three things remain ordinary
    calls: matrix products (CuPy does not let cuBLAS be recorded), the optimizer's step, and the copying of the batch
    and of the dropout seeds. A layer, loss or metric of your own that makes the host wait, or that needs `ctx.step` or
    `ctx.seed` in Python, cannot be recorded: there is one warning that says why, and steps run as ever. What such code
    draws at random on the host, or counts in global variables, would be repeated unchanged: leave it off there.
    While a profile, `check_finite` or TerminateOnNaN looks into the steps, they run as ever, too.

    For the whole process, all GPUs, from the next `fit` on. Raises InputError where there is no GPU.
    """
    global _wanted
    if use:
        module_for("gpu")
    _wanted = bool(use)


def step_for(model: Any) -> Step:
    """The step for one call of `fit`: `train_step`, or the same by way of CUDA graphs."""
    return GraphedStep() if _wanted and model.device != "cpu" else train_step


class GraphedStep:
    """`train_step` for one call of `fit`, with its graphs: called with the same arguments, it does the same."""

    def __init__(self) -> None:
        self.graphs: dict[tuple, Graph] = {}
        self.seen: dict[tuple, int] = {}
        self.in_vain, self.refused = 0, False

    def __call__(self, model: Any, x: Array, y: Array, workers: Workers) -> tuple[Any, list[Any]]:
        batch = (x.shape, x.dtype, y.shape, y.dtype)
        graph = None if self.refused or is_running() else self._graph(batch, model, x, y, workers)
        return train_step(model, x, y, workers) if graph is None else graph.run(model, x, y)

    def _graph(self, batch: tuple, model: Any, x: Array, y: Array, workers: Workers) -> Graph | None:
        """The graph for such a batch, recorded if there is none that fits; None while, and where, it cannot be had."""
        graph = self.graphs.get(batch)
        if graph is not None and graph.settings == Settings(model):
            self.in_vain = 0
            return graph
        self.seen[batch] = self.seen.get(batch, 0) + 1
        if self.seen[batch] <= WARM_UP or (graph is None and len(self.graphs) == MOST_GRAPHS):
            return None
        try:
            self.graphs.pop(batch, None)  # its memory may be what the new one needs
            self.in_vain += 1
            if self.in_vain > MOST_IN_VAIN:
                raise RuntimeError("something that the step depends on is another one at each step")
            self.graphs[batch] = Graph(model, x, y, workers)
        except Exception as error:
            self.refused = True
            self.graphs.clear()
            warnings.warn(
                f"The training step cannot be recorded as a CUDA graph; it runs as without set_cuda_graph. The cause: "
                f"{type(error).__name__}: {error}", stacklevel=7,
            )  # fmt: skip
        return self.graphs.get(batch)


class Graph:
    """One recorded step. x, y: where its batch must lie. results: the sums of the loss and of each metric.

    settings: what was true of the model when it was recorded, without which it must not be repeated.
    """

    def __init__(self, model: Any, x: Array, y: Array, workers: Workers):
        xp = xp_of(x)
        self.settings = Settings(model)
        self.x, self.y = xp.empty(x.shape, x.dtype), xp.empty(y.shape, y.dtype)
        self.results = xp.empty(1 + len(model.metrics), np.float64)
        self.step = self.seed = 0
        self.recording = Recording(xp)
        later = EachStep(lambda: self.step), EachStep(lambda: self.seed)
        with self.recording:
            shards, loss, metrics = gradients(model, self.x, self.y, workers, *later)
            penalty = model.penalty()
            self.recording.add(lambda: update(model, shards, workers))
            for k, value in enumerate((loss + penalty * len(x), *metrics)):
                if xp_of(value) is not xp:
                    raise TypeError(f"the loss or a metric gave {type(value).__name__}, not an array of the GPU")
                self.results[k] = value

    def run(self, model: Any, x: Array, y: Array) -> tuple[Any, list[Any]]:
        """As train_step, for a batch of the same shape."""
        self.step, self.seed = model.optimizer.iterations, model.new_seed()
        self.x[...], self.y[...] = x, y
        self.recording.run()
        total, *metrics = self.results.copy()  # the next step writes there again
        return total, metrics


class Settings:
    """All numbers, texts and identities of objects that a recorded step depends on. Equal: nothing has changed.

    The model's arrays count by identity: their content may change, they themselves may not be exchanged. Kept, so that
    no other object can get the address of one that is gone.
    """

    def __init__(self, model: Any):
        self.kept: list[Any] = []
        self.found: list[Any] = []
        self._open: set[int] = set()
        parts = (model.loss, model.metrics, model.optimizer)
        for part in (model.flat_layers, *parts[:2]):
            self._look(part)
        # The optimizer is asked anew at each step: only which one it is matters.
        self._identity(parts[2])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Settings) and self.found == other.found

    __hash__ = None  # type: ignore[assignment]

    def _identity(self, thing: Any) -> None:
        self.kept.append(thing)
        self.found.append(id(thing))

    def _look(self, thing: Any) -> None:
        if thing is None or isinstance(thing, (bool, int, float, str, np.generic)):
            self.found += [type(thing), thing]
        elif isinstance(thing, (list, tuple)):
            self.found.append(len(thing))
            for item in thing:
                self._look(item)
        elif isinstance(thing, dict):
            self._look(list(thing.items()))
        else:
            self._identity(thing)
            inside = getattr(thing, "__dict__", None)
            if isinstance(inside, dict) and not isinstance(thing, type) and id(thing) not in self._open:
                self._open.add(id(thing))
                self._look(inside)
