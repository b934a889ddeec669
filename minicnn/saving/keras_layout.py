"""How the numbers of Keras' files lie, where that is not as here.

Theano           its convolution turns the kernel by 180 degrees; TensorFlow's, and ours, does not
channels_first   images are (C, H, W), so Flatten puts the features in another order: the rows of the Dense behind it,
                 and the numbers of a batch normalisation between them, are brought into ours
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minicnn.layers import (
    ELU,
    Activation,
    BatchNormalization,
    Conv2D,
    Conv2DTranspose,
    Dense,
    Dropout,
    Flatten,
    GaussianNoise,
    LeakyReLU,
    ReLU,
    Softmax,
)
from minicnn.layers.base import Layer
from minicnn.layers.network import Network
from minicnn.layers.walk import input_shape_of, shapes_of
from minicnn.saving.hdf5 import File

# Layers to which no feature has a place.
_EACH_BY_ITSELF = (Activation, Dropout, ELU, GaussianNoise, LeakyReLU, ReLU, Softmax)


class Layout:
    """convolutions: whose kernels are to be turned. orders: (layer's key, array's name) -> the order of its rows."""

    def __init__(self, convolutions: set[str], orders: dict[tuple[str, str], np.ndarray]):
        self.convolutions, self.orders = convolutions, orders

    @classmethod
    def of(cls, file: File, described: Any, network: Network) -> Layout:
        """That of a file: of its configuration, and of the attribute `backend` beside the weights."""
        backend = file.root.get("model_weights", file.root).attrs.get("backend", b"")
        theano = backend in (b"theano", "theano")
        layers = network.layers_by_key.items()
        convolutions = {key for key, layer in layers if theano and isinstance(layer, (Conv2D, Conv2DTranspose))}
        reordered = described is not None and described.channels_first and not described.flatten_first
        return cls(convolutions, orders_of_channels_first(file, network) if reordered else {})

    def turned(self, layer: str, name: str, array: np.ndarray) -> np.ndarray:
        """An array of the file as it is here."""
        if layer in self.convolutions and array.ndim > 1:
            return array[::-1, ::-1] if array.ndim == 4 else array[::-1]
        order = self.orders.get((layer, name))
        return array if order is None else array[order]


def keras_order(network: Network) -> list[Layer]:
    """The layers of a network in the order in which Keras counts them."""
    return in_keras_order(network.uses)


def in_keras_order(uses: Sequence[tuple[Any, tuple[int, ...]]]) -> list[Any]:
    """The layers of a graph, each once: (layer, the uses that it reads; -1: the input), in topological order.

    The longest way to the output comes first; layers of one length as a search finds them that goes from the output to
    the input, along the first input of each layer first (keras/src/ops/function.py, map_graph).
    """
    layers = {id(layer): layer for layer, _ in uses}
    met: dict[int, int] = {}  # of each layer, when the search met it
    finished: list[int] = []
    visited, stack = {-1}, [(len(uses) - 1, False)]
    while stack:
        i, leaving = stack.pop()
        if leaving:
            finished.append(i)
        elif i not in visited:
            visited.add(i)
            layer, inputs = uses[i]
            met.setdefault(id(layer), len(met))
            stack += [(i, True), *((j, False) for j in reversed(inputs))]
    depth_of_use: dict[int, int] = {}
    depths: dict[int, int] = {}
    for i in reversed(finished):
        layer, inputs = uses[i]
        depth = depths[id(layer)] = max(depth_of_use.get(i, 0), depths.get(id(layer), 0))
        for j in inputs:
            depth_of_use[j] = max(depth + 1, depth_of_use.get(j, 0))
    return [layers[key] for key in sorted(layers, key=lambda key: (-depths[key], met[key]))]


def orders_of_channels_first(file: Any, network: Network) -> dict[tuple[str, str], np.ndarray]:
    """(layer's key, array's name) -> the order of its rows, where the numbers were learned with channels first.

    file: whose `broken` makes the error for a network in which that cannot be told.
    """
    orders: dict[tuple[str, str], np.ndarray] = {}
    shapes = shapes_of(network.nodes, network.shapes[0])
    pending: list[np.ndarray | None] = []  # for each node: in which order the file has the features that come out of it
    for node in network.nodes:
        layer, shape = node.layer, input_shape_of(node.layer, node.inputs, shapes)
        order = None if node.inputs[0] < 0 else pending[node.inputs[0]]
        if isinstance(layer, Flatten) and len(shape) == 3:
            height, width, channels = shape
            order = np.arange(channels * height * width).reshape(channels, height, width).transpose(1, 2, 0).ravel()
        elif order is not None and isinstance(layer, Dense):
            orders[node.key, "w"], order = order, None
        elif order is not None and isinstance(layer, BatchNormalization):
            orders |= {(node.key, name): order for name in (*layer.params, *layer.state)}
        elif any(i >= 0 and pending[i] is not None for i in node.inputs) and not isinstance(layer, _EACH_BY_ITSELF):
            raise file.broken(
                f"what {node.key} reads was flattened with the channels first.", "a Dense layer after Flatten.",
                f"a {type(layer).__name__}.", "save the network with channels_last.",
            )  # fmt: skip
        pending.append(order)
    if pending and pending[-1] is not None:
        raise file.broken(
            "its outputs are flattened with the channels first.", "a Dense layer after Flatten.", "none.",
            "save the network with channels_last.",
        )  # fmt: skip
    return orders
