"""The one walk over a network: forward over its nodes, and backward over the same list reversed.

A network is a list of nodes in topological order. A node is a layer and the earlier values that it reads: value i is
the output of node i, value -1 the network's input. In a chain, node i reads value i - 1.

    forward:    values[i] = layer_i(values[j] for each j that it reads)
    backward:   the gradient with respect to value j is the sum over all nodes that read it (the chain rule for a value
                that is used more than once), so it is complete when their turn is over: the order is reversed

Whoever wants to look at every layer, or to change how it is called, is an `Observer` of these two loops: the profile's
clocks, the search for NaN, traces, attribution.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from minicnn.backend import Array
from minicnn.layers.base import Layer, Shape
from minicnn.layers.context import Context

Value = Any  # an array; the list of a merging layer's inputs


class Node(NamedTuple):
    """layer: what computes. inputs: the nodes whose outputs it reads; -1 is the network's input.

    key: a name for the layer, unique in the whole model: "conv2d_1", "vgg16/block1_conv1". A layer that is used twice,
    or by two inner networks, has two nodes of one key. replaces: the model's layer for which a plan made this one, if
    it did.
    """

    layer: Layer
    inputs: tuple[int, ...]
    key: str
    replaces: Layer | None = None


Nodes = Sequence[Node]


def chain(layers: Iterable[Layer]) -> list[Node]:
    """The nodes of layers that follow one another."""
    return [Node(layer, (i - 1,), layer.name) for i, layer in enumerate(layers)]


class Observer:
    """Stands around each layer of a walk. This one calls the layer, and another one inside it, and nothing else.

    forward, backward: around a node's layer; i is its place in the list. loss: around the loss of a shard; `compute`
    gives (losses of the samples, metrics, gradient with respect to the prediction). update: around the optimizer; grads
    as it takes them: (layer's key, parameter's name) -> those of the shards, of which the first becomes their sum.
    Shards call it from several threads.
    """

    def __init__(self, inner: Observer | None = None):
        self.inner = inner

    def forward(self, i: int, node: Node, x: Value, ctx: Context) -> Array:
        return node.layer.forward(x, ctx) if self.inner is None else self.inner.forward(i, node, x, ctx)

    def backward(self, i: int, node: Node, dy: Array, ctx: Context) -> Value:
        return node.layer.backward(dy, ctx) if self.inner is None else self.inner.backward(i, node, dy, ctx)

    def loss(self, compute: Callable[[], Any]) -> Any:
        return compute() if self.inner is None else self.inner.loss(compute)

    def update(self, grads: dict[tuple[str, str], list[Array]], compute: Callable[[], Any]) -> Any:
        return compute() if self.inner is None else self.inner.update(grads, compute)


PLAIN = Observer()
_everywhere: Callable[[Observer], Observer] | None = None


def observe_all(make: Callable[[Observer], Observer] | None) -> None:
    """From now on every walk of this process goes through make(its own observer); None: no more."""
    global _everywhere
    _everywhere = make


def observed(observer: Observer | None) -> Observer:
    """The observer of a walk: the one given, with what observes everything around it."""
    own = PLAIN if observer is None else observer
    return own if _everywhere is None else _everywhere(own)


def forward(nodes: Nodes, contexts: Sequence[Context], x: Array, observer: Observer | None = None) -> Array:
    """The output of the last node. Every layer writes on its own context what its backward pass will need."""
    see, last = observed(observer), last_readers(nodes)
    values: dict[int, Value] = {-1: x}
    for i, node in enumerate(nodes):
        inputs = [values[j] for j in node.inputs]
        for j in node.inputs:
            if last[j] == i:  # nobody reads it any more: its memory may go as soon as the layer is done
                values.pop(j, None)
        x = inputs if node.layer.merges else inputs.pop()
        del inputs
        values[i] = x = see.forward(i, node, x, contexts[i])
    return x


def backward(
    nodes: Nodes, contexts: Sequence[Context], dy: Array, observer: Observer | None = None
) -> Array | None:
    """The gradient with respect to the network's input, where it was asked for, from dy, that of the output.

    The parameters' gradients appear in the contexts. Nodes before which nothing learns are left out.
    """
    see = observed(observer)
    gradients: dict[int, Array] = {len(nodes) - 1: dy}
    for i in reversed(range(len(nodes))):
        dy_i = gradients.pop(i, None)
        if dy_i is None or not contexts[i].need_backward:
            continue
        dx = see.backward(i, nodes[i], dy_i, contexts[i])
        for j, part in zip(nodes[i].inputs, dx if nodes[i].layer.merges else (dx,), strict=True):
            if part is not None:
                gradients[j] = gradients[j] + part if j in gradients else part  # never +=: others may hold the array
    return gradients.get(-1)


def apply_state(nodes: Nodes, contexts: Sequence[Context]) -> None:
    """Give the layers the new running statistics that the forward pass has written into their contexts."""
    for node, ctx in zip(nodes, contexts, strict=True):
        for name, new in ctx.state.items():
            node.layer.state[name][...] = new


def last_readers(nodes: Nodes) -> dict[int, int]:
    """For each value that is read, the last node that reads it."""
    return {j: i for i, node in enumerate(nodes) for j in node.inputs}


def new_contexts(
    nodes: Nodes, training: bool | None = False, need_backward: bool = False, step: int = 0, seed: int = 0,
    first: int = 0, all_reduce: Any = None, input_gradient: bool = False,
) -> list[Context]:  # fmt: skip
    """An empty context for each node.

    A layer is asked for dx only if something before it learns, or if the gradient with respect to the network's input
    is asked for (input_gradient); a node takes part in the backward pass if it or something before it learns.
    training: None where each layer's `augments` decides.
    """
    asked = {-1: input_gradient}  # of each value: whether the gradient with respect to it is needed
    states: dict[int, dict[str, Array]] = {}  # one for each layer: where it is used twice, the second use goes on
    contexts = []
    for i, node in enumerate(nodes):
        need_dx = any(asked[j] for j in node.inputs)
        asked[i] = need_dx or (node.layer.trainable and bool(node.layer.params))
        mode = node.layer.augments if training is None else training
        contexts.append(Context(mode, need_backward and asked[i], need_dx, step, seed + i, first, all_reduce))
        contexts[i].state = states.setdefault(id(node.layer), contexts[i].state)
    return contexts


def part_up_to(nodes: Nodes, last: int) -> list[Node]:
    """The nodes that node `last` is made of, and itself at the end: a network that ends there."""
    needed = {last}
    for i in range(last, -1, -1):
        if i in needed:
            needed.update(nodes[i].inputs)
    place = {-1: -1} | {i: k for k, i in enumerate(sorted(needed - {-1}))}
    return [nodes[i]._replace(inputs=tuple(place[j] for j in nodes[i].inputs)) for i in sorted(needed - {-1})]


def unique_keys(nodes: Nodes) -> list[str]:
    """A name for each node: its key; "dense_1 (2)" where the layer is used for the second time."""
    counts: Counter[str] = Counter()
    names = []
    for node in nodes:
        counts[node.key] += 1
        names.append(node.key if counts[node.key] == 1 else f"{node.key} ({counts[node.key]})")
    return names


def shapes_of(nodes: Nodes, sample_shape: Shape) -> list[Shape]:
    """The shape of a sample at the network's input and after each node: that of value j is at j + 1."""
    shapes = [tuple(sample_shape)]
    for node in nodes:
        shapes.append(node.layer.output_shape(input_shape_of(node.layer, node.inputs, shapes)))
    return shapes


def input_shape_of(layer: Layer, inputs: Sequence[int], shapes: Sequence[Shape]) -> Any:
    """What a layer's build, output_shape and macs take: a shape; of a merging layer the list of its inputs' shapes."""
    read = [shapes[j + 1] for j in inputs]
    return read if layer.merges else read[0]
