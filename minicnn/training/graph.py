"""The training step by CUDA graphs: captured once for each shape of batch, then replayed. See `set_cuda_graph`.

What is captured is `gradients`, and that the layers get their new running means; the rest of `update` follows after it
as an ordinary call, as in `train_step`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from operator import is_
from types import SimpleNamespace
from typing import Any

import numpy as np

from minicnn.activations import Function
from minicnn.arguments import in_words
from minicnn.backend import Array, module_for, xp_of
from minicnn.constraints import Constraint
from minicnn.initializers import Initializer
from minicnn.layers.walk import apply_state
from minicnn.regularizers import Regularizer
from minicnn.training.capture import Capture, StepVariable, products_for
from minicnn.training.profiling import is_running
from minicnn.training.shards import Workers
from minicnn.training.step import gradients, train_step, update, with_penalty

Step = Callable[..., tuple[Any, list[Any]]]  # as train_step

# Plain steps before a capture: they compile the kernels, and create what is created on first use.
WARM_UP = 2
# Shapes of batches that are captured, each of which keeps memory for a whole step. Most runs have two of them.
MAX_GRAPHS = 4
# Captures of one shape in a row, none of which was ever replayed, before it is clear that this does not pay.
MAX_IN_VAIN = 4

_wanted = False


@in_words
def set_cuda_graph(use: bool) -> None:
    """Whether `fit` on a GPU captures its step as CUDA graphs and replays them; it does not, unless you say so.

    It pays where steps are small: a step is some hundred launches, each of which costs Python and CuPy some
    microseconds, whatever the GPU has to do for it. Where the GPU is busy all the time anyway, nothing is gained, and
    each shape of batch takes the memory of a step once more. The kernels and their numbers are the same.
    `python benchmarks/cuda_graph.py` measures both ways: try it before you rely on a gain.

    The first steps of each shape run as ever, then one is captured. Two things remain ordinary calls: the optimizer's
    step, and the copying of the batch and of the dropout seeds; and products of more than two axes, which cut the graph
    in two. A layer, loss or metric of your own that makes the host wait, or that needs `ctx.step` or
    `ctx.seed` in Python, cannot be captured: there is one warning that says why, and steps run as ever. What such code
    draws at random on the host, or counts in global variables, would be repeated unchanged: leave it off there.
    While a profile, `check_finite` or TerminateOnNaN looks into the steps, they run as ever, too; and where several
    processes train together.

    For the whole process, all GPUs, from the next `fit` on. Raises InputError where there is no GPU.
    """
    global _wanted
    if use:
        module_for("gpu")
    _wanted = bool(use)


def step_for(model: Any, workers: Workers) -> Step:
    """The step for one call of `fit`: `train_step`, or the same by way of CUDA graphs."""
    return GraphedStep() if _wanted and model.device != "cpu" and workers.group.size == 1 else train_step


class GraphedStep:
    """`train_step` for one call of `fit`, with its graphs: called with the same arguments, it does the same."""

    def __init__(self) -> None:
        self.graphs: dict[tuple, Graph] = {}
        self.seen: dict[tuple, int] = {}
        self.in_vain, self.refused = 0, False

    def __call__(
        self, model: Any, x: Array, y: Array, workers: Workers, sample_weight: Array | None = None
    ) -> tuple[Any, list[Any]]:
        if sample_weight is not None:  # one more array that would have to lie in the graph's place: they are rare
            return train_step(model, x, y, workers, sample_weight)
        batch = (x.shape, x.dtype, y.shape, y.dtype)
        graph = None if self.refused or is_running() else self._graph(batch, model, x, y, workers)
        return train_step(model, x, y, workers) if graph is None else graph.run(model, x, y, workers)

    def _graph(self, batch: tuple, model: Any, x: Array, y: Array, workers: Workers) -> Graph | None:
        """The graph for such a batch, captured if there is none that fits; None while, and where, it cannot be had."""
        graph = self.graphs.get(batch)
        if graph is not None and graph.fits(model):
            self.in_vain = 0
            return graph
        self.seen[batch] = self.seen.get(batch, 0) + 1
        if self.seen[batch] <= WARM_UP or (graph is None and len(self.graphs) == MAX_GRAPHS):
            return None
        try:
            self.graphs.pop(batch, None)  # its memory may be what the new one needs
            self.in_vain += 1
            if self.in_vain > MAX_IN_VAIN:
                raise RuntimeError("something that the step depends on is another one at each step")
            self.graphs[batch] = Graph(model, x, y, workers)
        except Exception as error:
            self.refused = True
            self.graphs.clear()
            warnings.warn(
                f"The training step cannot be captured as a CUDA graph; it runs as without set_cuda_graph. The cause: "
                f"{type(error).__name__}: {error}", stacklevel=8,
            )  # fmt: skip
        return self.graphs.get(batch)


class Graph:
    """The captured gradients. x, y: where a batch must lie. results: the sums of the loss and of each metric.

    settings: what was true of the model when it was captured, without which it must not be replayed.
    """

    def __init__(self, model: Any, x: Array, y: Array, workers: Workers):
        xp = xp_of(x)
        self.shards: Any = []  # stands first: what lies in the capture's memory goes before the capture does
        self.settings = Settings(model)
        self.x, self.y = x.copy(), y.copy()
        self.results = xp.empty(1 + len(model.metrics), np.float64)
        self.now = now = SimpleNamespace(step=0, seed=0)
        self.capture = Capture(xp, products_for(xp))
        later = StepVariable(self.capture, lambda: now.step), StepVariable(self.capture, lambda: now.seed)
        with self.capture:
            self.shards, loss, metrics = gradients(model, self.x, self.y, workers, *later)
            apply_state(model.nodes, self.shards[0])
            for ctx in self.shards[0]:
                ctx.state.clear()  # nothing is left for `update` to copy
            for k, value in enumerate((loss, *metrics)):
                if xp_of(value) is not xp:
                    raise TypeError(f"the loss or a metric gave {type(value).__name__}, not an array of the GPU")
                self.results[k] = value

    def fits(self, model: Any) -> bool:
        """Whether it may be replayed: whether nothing that it depends on has changed."""
        if self.settings.untouched(model):
            return True
        now = Settings(model)
        if self.settings != now:
            return False
        self.settings = now  # exchanged for what is equal
        return True

    def run(self, model: Any, x: Array, y: Array, workers: Workers) -> tuple[Any, list[Any]]:
        """As train_step, for a batch of the same shape."""
        self.now.step, self.now.seed = model.optimizer.iterations, model.new_seed()
        self.x[...], self.y[...] = x, y
        self.capture.replay()
        loss, *metrics = self.results.copy()  # the next step writes there again
        penalty = update(model, self.shards, workers)
        return with_penalty(loss, penalty, len(x)), metrics


class Settings:
    """All numbers, texts and identities of objects that captured gradients depend on. Equal: nothing has changed.

    The model's arrays count by identity: their content may change, they themselves may not be exchanged. Saved, so that
    no other object can get the address of one that is gone. Of what only acts in `update` or when a model is built,
    nothing is compared.

    To look at all of them at each step would take longer than the step's launches. So each list and dictionary is saved
    with the very objects that it held (`held`): as long as it holds these, there is nothing to look at.
    """

    def __init__(self, model: Any):
        self.saved: list[Any] = []
        self.found: list[Any] = []
        self.held: list[tuple[Any, tuple[Any, ...]]] = []
        self.roots = model.nodes, model.loss, model.metrics
        self._open: set[int] = set()
        for node in model.nodes:
            self.found.append(node.inputs)
            self._look(node.layer)
        self._look(model.loss)
        self._look(model.metrics)

    def untouched(self, model: Any) -> bool:
        """Whether every list and dictionary holds the objects that it held: quick, and false also for equal ones."""
        return all(map(is_, self.roots, (model.nodes, model.loss, model.metrics))) and all(
            len(thing) == len(held) and all(map(is_, thing.values() if isinstance(thing, dict) else thing, held))
            for thing, held in self.held
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Settings) and self.found == other.found

    __hash__ = None  # type: ignore[assignment]

    def _look(self, thing: Any) -> None:
        if thing is None or isinstance(thing, (bool, int, float, str, np.generic)):
            self.found += [type(thing), thing]
        elif isinstance(thing, (list, tuple)):
            self.found.append(len(thing))
            if isinstance(thing, list):
                self.held.append((thing, tuple(thing)))
            for item in thing:
                self._look(item)
        elif isinstance(thing, dict):
            self.found.append(len(thing))
            self.held.append((thing, tuple(thing.values())))
            for pair in thing.items():
                self._look(pair)
        elif not isinstance(thing, (Initializer, Regularizer, Constraint)):
            self.saved.append(thing)
            self.found.append(id(thing))
            inside = getattr(thing, "__dict__", None)
            frozen = isinstance(thing, (type, Function)) or id(thing) in self._open
            if isinstance(inside, dict) and not frozen:
                self._open.add(id(thing))
                self._look(inside)
