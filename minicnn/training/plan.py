"""The plan: how a network runs while nobody looks inside. The list of nodes is rewritten, and never a layer.

Neighbours become chains (minicnn/kernels/chain.py): a convolution, before it batch norm or batch norm and ReLU, after
it max pooling and ReLU in any order and dropout; the next convolution may follow, or a last batch norm. Only values
that a single layer reads can disappear inside a chain. A subclass and a layer of the user's own run by themselves, in
training also a frozen layer; so does every layer while somebody observes it (trace, profile, …), and after
`set_plan(False)`.

On a GPU a chain is a convolution or dense layer, max pooling, ReLU and dropout, in training alone
(minicnn/layers/fused_gpu.py).

In evaluation mode, dropout does nothing and is skipped, and a batch norm right after a convolution or a dense layer is
linear, too: the two become one layer. All that is made of weights is kept until one of them changes. Anybody may write
into an array at any time, so they are compared with what they were, number by number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from typing import Any
from weakref import WeakKeyDictionary

from minicnn import activations
from minicnn.arguments import in_words
from minicnn.backend import serves
from minicnn.errors import checked
from minicnn.layers.activation import Activation, ReLU
from minicnn.layers.base import Layer
from minicnn.layers.context import Context
from minicnn.layers.conv import Conv2D
from minicnn.layers.core import Dense, Dropout, SpatialDropout2D
from minicnn.layers.fused import Fused, Part, Predicted, Sources
from minicnn.layers.fused_gpu import GpuChain
from minicnn.layers.normalization import BatchNormalization
from minicnn.layers.pooling import MaxPooling2D
from minicnn.layers.walk import PLAIN, Node, Nodes, Observer, observed
from minicnn.layers.weighted import WeightedLayer

_wanted = True


@in_words
def set_plan(use: bool) -> None:
    """Whether neighbouring layers may run as one, as they do unless you say False; for the whole process.

    The numbers are the same up to rounding. `False` is for who wants to measure the layers themselves, or has changed a
    kernel and wants all layers to use it. Raises InputError for anything but True and False.
    """
    global _wanted
    _wanted = checked("set_plan", "use", use, bool, False)


def is_wanted() -> bool:
    """What `set_plan` said last."""
    return _wanted


@contextmanager
def without_plan() -> Iterator[None]:
    """Inside, every layer runs by itself."""
    global _wanted
    before, _wanted = _wanted, False
    try:
        yield
    finally:
        _wanted = before


# ---- training --------------------------------------------------------------------------------------------------------


def training_plan(nodes: Nodes, see: Observer, device: str) -> Planned:
    """The plan for a step on these nodes, which `see` observes."""
    alone = see is not PLAIN or not _wanted
    return Planned(nodes, {} if alone else _single_readers(nodes), True, device != "cpu")


def plan_of_step(model: Any, see: Observer) -> Planned:
    """The plan for the coming step: that of the last one, if nothing has changed that it was made of.

    A network of small dense layers would pay a thirtieth of its step for a new one. It is made of the nodes and of
    their layers' attributes, both of which count their changes.
    """
    nodes, made_for = model.nodes, (Layer.settings, _wanted, see is PLAIN, model.device)
    kept = _of_steps.get(model)
    if kept is None or kept[0] is not nodes or kept[1] != made_for:
        kept = _of_steps[model] = nodes, made_for, training_plan(nodes, see, model.device)
    return kept[2]


_of_steps: WeakKeyDictionary[Any, tuple[Nodes, tuple[int, bool, bool, str], Planned]] = WeakKeyDictionary()


class Planned:
    """nodes: what is run. stands_for: of each, the places of the network's nodes whose work it does."""

    def __init__(self, nodes: Nodes, readers: dict[int, int], training: bool, on_gpu: bool = False):
        self.nodes: list[Node] = []
        self.stands_for: list[list[int]] = []
        now = {-1: -1}  # where in the plan the value of a node is
        done: set[int] = set()
        for i, node in enumerate(nodes):
            if i not in done:
                find = _chain_on_gpu if on_gpu else _chain_at
                places, layer = find(i, nodes, readers, training)
                done.update(places)
                inputs = tuple(now[j] for j in node.inputs)
                now[places[-1]] = len(self.nodes)
                self.nodes.append(node._replace(layer=layer or node.layer, inputs=inputs))
                self.stands_for.append(places)

    def contexts(self, own: Sequence[Context]) -> list[Context]:
        """For `nodes`, from those of the network's nodes: there the gradients and new running means will be."""
        return [
            node.layer.context([own[k] for k in places]) if isinstance(node.layer, Fused) else own[places[0]]
            for node, places in zip(self.nodes, self.stands_for, strict=True)
        ]


# ---- evaluation and prediction ---------------------------------------------------------------------------------------


def prediction_nodes(model: Any) -> list[Node]:
    """The nodes that compute in evaluation mode what the model's do: those of the last time, if nothing has changed."""
    nodes = model.nodes
    if not _wanted:
        return _without_dropout(nodes)
    if model.device != "cpu" or observed(None) is not PLAIN:
        return plan(nodes)
    kept = _kept.get(model)
    if kept is None or not kept.holds(nodes):
        kept = _kept[model] = Kept(nodes)
    return kept.made


def plan(nodes: Nodes, fold: Callable[[Any, Any], Any] | None = None) -> list[Node]:
    """The nodes that compute in evaluation mode what `nodes` do, up to rounding: fewer layers of the known kinds.

    fold: what makes one layer of a layer and the batch normalisation behind it; `folded`, unless another is given.
    """
    nodes = _without_dropout(nodes)
    readers = Counter(j for node in nodes for j in node.inputs)
    kept: list[Node] = []
    place = {-1: -1}  # where the value of an old node is now
    for i, node in enumerate(nodes):
        layer, inputs = node.layer, tuple(place[j] for j in node.inputs)
        place[i] = len(kept)
        if (
            type(layer) is BatchNormalization and inputs[0] >= 0
            and readers[node.inputs[0]] == 1 and _takes_in(kept[inputs[0]].layer)
        ):  # fmt: skip
            before = kept[inputs[0]]
            both = (fold or folded)(before.layer, layer)
            kept[inputs[0]] = before._replace(layer=both, replaces=before.layer)
            place[i] = inputs[0]
        else:
            kept.append(node._replace(inputs=inputs))
    return kept


def _without_dropout(nodes: Nodes) -> list[Node]:
    """The other nodes; who read what dropout gave reads what it took."""
    kept: list[Node] = []
    place = {-1: -1}
    for i, node in enumerate(nodes):
        inputs = tuple(place[j] for j in node.inputs)
        if type(node.layer) in (Dropout, SpatialDropout2D):
            place[i] = inputs[0]
        else:
            place[i] = len(kept)
            kept.append(node._replace(inputs=inputs))
    return kept


def _takes_in(layer: Any) -> bool:
    """Whether a batch normalisation behind this layer can become a part of it."""
    linear = isinstance(layer, WeightedLayer) and layer.activation is activations.linear
    return type(layer) in (Conv2D, Dense) and linear


def folded(layer: Any, norm: Any) -> Any:
    """One layer for two: norm(x @ w + b) = x @ (w * scale) + (b * scale + shift), for each output."""
    scale, shift = norm.scale_and_shift()
    both = copy(layer)
    b = layer.params.get("b")  # a layer without one has it once a batch norm was folded into it
    params = {"w": layer.params["w"] * scale, "b": shift if b is None else b * scale + shift}
    vars(both)["params"] = params  # not by setting it: that counts as a change, and would cost all others their plans
    return both


class Kept:
    """made: the nodes for prediction that were made of these nodes. sources: what was read for it once and for all."""

    def __init__(self, nodes: Nodes):
        # Another thread may change a weight at any time. So what is read is watched from before it is read: then a
        # change is found, at the latest, by the next `holds`. What is folded is known from a plan without numbers.
        self.settings = Layer.settings
        whole = Counter(id(node.layer) for node in plan(nodes, lambda layer, norm: copy(layer)))
        uses = Counter(id(node.layer) for node in nodes)  # a layer that is used twice may be folded in one place alone
        folded_away = {node.layer for node in nodes if uses[id(node.layer)] > whole[id(node.layer)]}
        read = (Conv2D, Dense, BatchNormalization)
        self.sources = [Sources(layer) for layer in folded_away if type(layer) in read]
        for sources in self.sources:
            sources.watch()
        fewer = plan(nodes)
        self.nodes, self.made = nodes, Planned(fewer, _single_readers(fewer), training=False).nodes

    def holds(self, nodes: Nodes) -> bool:
        """Whether these nodes still give the same."""
        unchanged = self.nodes is nodes and self.settings == Layer.settings and all(map(Sources.same, self.sources))
        return unchanged and all(node.layer.holds() for node in self.made if isinstance(node.layer, Predicted))


_kept: WeakKeyDictionary[Any, Kept] = WeakKeyDictionary()


# ---- where a chain begins and ends -----------------------------------------------------------------------------------


def _single_readers(nodes: Nodes) -> dict[int, int]:
    """For each node whose output is read once: the node that reads it, and nothing else."""
    reads = Counter(j for node in nodes for j in node.inputs)
    return {node.inputs[0]: i for i, node in enumerate(nodes) if len(node.inputs) == 1 == reads[node.inputs[0]]}


def _chain_at(start: int, nodes: Nodes, readers: dict[int, int], training: bool) -> tuple[list[int], Layer | None]:
    """(places, layer): the nodes from `start` on that run as one, and what runs them; [start] and None if alone."""
    places, layers = [], []
    here: int | None = start
    while here is not None and _may_join(nodes[here].layer, training):
        places.append(here)
        layers.append(nodes[here].layer)
        here = readers.get(here)
    parts: list[Part] = []
    last, end = None, 0
    while found := _part(layers, end):
        parts.append(found[0])
        end = found[1]
    if parts and _is_norm(*layers[end : end + 1]):
        last, end = end, end + 1
    if not parts or (training and end == 1):
        return [start], None
    return places[:end], (Fused if training else Predicted)(layers[:end], parts, last)


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
    if layers[conv].activation not in (activations.linear, activations.relu):  # only in evaluation: see _may_join
        return Part(conv, norm, norm_relu), at
    relu = layers[conv].activation is activations.relu or take(_is_relu) is not None
    pool = take(_is_pool)
    relu = relu or take(_is_relu) is not None
    drop = take(_is_dropout) if relu else None  # without ReLU the sign of y would not tell what was dropped
    return Part(conv, norm, norm_relu, pool, relu, drop), at


def _chain_on_gpu(start: int, nodes: Nodes, readers: dict[int, int], training: bool) -> tuple[list[int], Fused | None]:
    """As _chain_at, for a chain of fused_gpu.py."""
    first: Any = nodes[start].layer
    begins = (_is_conv(first) or type(first) is Dense) and _may_join(first, training)
    if not readers or not begins or not serves(first.params["w"]):
        return [start], None
    places, relu, pool = [start], first.activation is activations.relu, None
    while places[-1] in readers:
        layer: Any = nodes[readers[places[-1]]].layer
        if _is_relu(layer) and not relu:
            relu = True
        elif _is_pool(layer) and pool is None and not isinstance(first, Dense):
            pool = len(places)
        else:
            break
        places.append(readers[places[-1]])
    drop = len(places) if relu and places[-1] in readers else None
    if drop is not None:
        behind: Any = nodes[readers[places[-1]]].layer
        if type(behind) is Dropout and behind.noise_shape is None:
            places.append(readers[places[-1]])
        else:
            drop = None
    if not relu:
        return [start], None
    return places, GpuChain([nodes[i].layer for i in places], pool, drop)


def _may_join(layer: Any, training: bool) -> bool:
    """Whether a chain may reach over this layer."""
    if training and not layer.trainable:
        return False
    if training and type(layer) in (Conv2D, Dense) and layer.activation not in (activations.linear, activations.relu):
        return False
    return type(layer) is Dense or any(test(layer) for test in (_is_conv, _is_pool, _is_relu, _is_dropout, _is_norm))


def _is_conv(layer: Any = None) -> bool:
    return type(layer) is Conv2D and layer.groups == 1 and layer.algorithm in ("auto", "im2col", "winograd", "implicit")


def _is_pool(layer: Any = None) -> bool:
    """Not with padding in numbers: a window of padding alone gives -inf, of which ReLU after it would make 0."""
    return type(layer) is MaxPooling2D and layer.padding in ("valid", "same")


def _is_relu(layer: Any = None) -> bool:
    return type(layer) in (Activation, ReLU) and layer.activation is activations.relu


def _is_dropout(layer: Any = None) -> bool:
    return type(layer) in (Dropout, SpatialDropout2D)


def _is_norm(layer: Any = None) -> bool:
    return type(layer) is BatchNormalization
