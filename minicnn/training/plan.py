"""The plan: how a network runs while nobody looks inside. The list of nodes is rewritten, and never a layer.

In training, neighbours become chains (minicnn/kernels/chain.py): a convolution, before it batch norm or batch norm and
ReLU, after it max pooling and ReLU in any order and dropout; the next convolution may follow, or a last batch norm.

On a GPU a chain is a convolution or dense layer, max pooling, ReLU and dropout (minicnn/layers/fused_gpu.py).

Only values that a single layer reads can disappear inside a chain. A frozen layer, a subclass and a layer of the user's
own run by themselves; so does every layer while somebody observes it (trace, profile, …), and after `set_plan(False)`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from minicnn import activations
from minicnn.arguments import in_words
from minicnn.backend import serves
from minicnn.errors import checked
from minicnn.layers.activation import Activation, ReLU
from minicnn.layers.context import Context
from minicnn.layers.conv import Conv2D
from minicnn.layers.core import Dense, Dropout, SpatialDropout2D
from minicnn.layers.fused import Fused, Part
from minicnn.layers.fused_gpu import GpuChain
from minicnn.layers.normalization import BatchNormalization
from minicnn.layers.pooling import MaxPooling2D
from minicnn.layers.walk import PLAIN, Node, Nodes, Observer

_wanted = True


@in_words
def set_plan(use: bool) -> None:
    """Whether neighbouring layers may run as one, as they do unless you say False; for the whole process.

    The numbers are the same up to rounding. `False` is for who wants to measure the layers themselves, or has changed a
    kernel and wants all layers to use it. Raises InputError for anything but True and False.
    """
    global _wanted
    _wanted = checked("set_plan", "use", use, bool, False)


@contextmanager
def without_plan() -> Iterator[None]:
    """Inside, every layer runs by itself."""
    global _wanted
    before, _wanted = _wanted, False
    try:
        yield
    finally:
        _wanted = before


class TrainingPlan:
    """nodes: what a training step runs. stands_for: of each, the places of the network's nodes whose work it does."""

    def __init__(self, nodes: Nodes, readers: dict[int, int], on_gpu: bool = False):
        self.nodes: list[Node] = []
        self.stands_for: list[list[int]] = []
        now = {-1: -1}  # where in the plan the value of a node is
        done: set[int] = set()
        for i, node in enumerate(nodes):
            if i not in done:
                places, fused = (_chain_on_gpu if on_gpu else _chain_at)(i, nodes, readers)
                done.update(places)
                inputs = tuple(now[j] for j in node.inputs)
                now[places[-1]] = len(self.nodes)
                self.nodes.append(Node(fused or node.layer, inputs, node.key))
                self.stands_for.append(places)

    def contexts(self, own: Sequence[Context]) -> list[Context]:
        """For `nodes`, from those of the network's nodes: there the gradients and new running means will be."""
        return [
            node.layer.context([own[k] for k in places]) if isinstance(node.layer, Fused) else own[places[0]]
            for node, places in zip(self.nodes, self.stands_for, strict=True)
        ]


def training_plan(nodes: Nodes, see: Observer, device: str) -> TrainingPlan:
    """The plan for one step, which `see` observes. It costs microseconds, so it is made anew and never out of date."""
    alone = see is not PLAIN or not _wanted
    return TrainingPlan(nodes, {} if alone else _single_readers(nodes), device != "cpu")


def _single_readers(nodes: Nodes) -> dict[int, int]:
    """For each node whose output is read once: the node that reads it, and nothing else."""
    reads = Counter(j for node in nodes for j in node.inputs)
    return {node.inputs[0]: i for i, node in enumerate(nodes) if len(node.inputs) == 1 == reads[node.inputs[0]]}


def _chain_at(start: int, nodes: Nodes, readers: dict[int, int]) -> tuple[list[int], Fused | None]:
    """(places, layer): the nodes from `start` on that run as one, and what runs them; [start] and None if alone."""
    places = [start]
    while any(test(nodes[places[-1]].layer) for test in _TESTS) and places[-1] in readers:
        places.append(readers[places[-1]])
    layers = [nodes[i].layer for i in places]
    parts: list[Part] = []
    last, end = None, 0
    while found := _part(layers, end):
        parts.append(found[0])
        end = found[1]
    if parts and _is_norm(*layers[end : end + 1]):
        last, end = end, end + 1
    if not parts or end == 1:
        return [start], None
    return places[:end], Fused(layers[:end], parts, last)


def _part(layers: Sequence[Any], start: int) -> tuple[Part, int] | None:
    """The chain that begins at this place, and the place behind it; None where none begins."""
    at = start

    def take(test: Callable[..., bool]) -> int | None:
        nonlocal at
        if not test(*layers[at : at + 1]):
            return None
        at += 1
        return at - 1

    norm = take(_is_norm)
    norm_relu = norm is not None and take(_is_relu) is not None
    conv = take(_is_conv)
    if conv is None:
        return None
    relu = layers[conv].activation is activations.relu or take(_is_relu) is not None
    pool = take(_is_pool)
    relu = relu or take(_is_relu) is not None
    drop = take(_is_dropout) if relu else None  # without ReLU the sign of y would not tell what was dropped
    return Part(conv, norm, norm_relu, pool, relu, drop), at


def _chain_on_gpu(start: int, nodes: Nodes, readers: dict[int, int]) -> tuple[list[int], Fused | None]:
    """As _chain_at, for a chain of fused_gpu.py."""
    first = nodes[start].layer
    if not readers or not (_is_conv(first) or _is_dense(first)) or not serves(first.params["w"]):
        return [start], None
    places, relu, pool = [start], first.activation is activations.relu, None
    while places[-1] in readers:
        layer = nodes[readers[places[-1]]].layer
        if _is_relu(layer) and not relu:
            relu = True
        elif _is_pool(layer) and pool is None and not isinstance(first, Dense):
            pool = len(places)
        else:
            break
        places.append(readers[places[-1]])
    drop = len(places) if relu and places[-1] in readers else None
    if drop is not None:
        behind = readers[places[-1]]
        if type(nodes[behind].layer) is Dropout and nodes[behind].layer.noise_shape is None:
            places.append(behind)
        else:
            drop = None
    if not relu:
        return [start], None
    return places, GpuChain([nodes[i].layer for i in places], pool, drop)


def _is_conv(layer: Any = None) -> bool:
    linear_or_relu = type(layer) is Conv2D and layer.activation in (activations.linear, activations.relu)
    fast = linear_or_relu and layer.groups == 1 and layer.algorithm in ("auto", "im2col", "winograd")
    return fast and layer.trainable


def _is_dense(layer: Any) -> bool:
    return type(layer) is Dense and layer.trainable and layer.activation in (activations.linear, activations.relu)


def _is_pool(layer: Any = None) -> bool:
    """Not with padding in numbers: a window of padding alone gives -inf, of which ReLU after it would make 0."""
    return type(layer) is MaxPooling2D and layer.padding in ("valid", "same")


def _is_relu(layer: Any = None) -> bool:
    return type(layer) in (Activation, ReLU) and layer.activation is activations.relu


def _is_dropout(layer: Any = None) -> bool:
    return type(layer) in (Dropout, SpatialDropout2D)


def _is_norm(layer: Any = None) -> bool:
    return type(layer) is BatchNormalization and layer.trainable


_TESTS = _is_conv, _is_pool, _is_relu, _is_dropout, _is_norm
