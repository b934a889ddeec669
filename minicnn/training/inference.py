"""The way forward alone: what evaluation and prediction leave out of a training step.

    - Dropout does nothing: it is skipped.
    - A batch normalisation right after a convolution or a dense layer is linear, too: the two become one layer.
    - Nobody will read the pages again: a result may take the place of the numbers that it was made of.
    - The samples do not depend on each other: a large batch goes through in pieces that stay in the cache, up to the
      first dense layer. Its parameters are many, and reading them is its work: they meet a group of pieces at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import copy
from typing import Any

from minicnn import activations
from minicnn.backend import Array, xp_of
from minicnn.layers.base import Context, Layer
from minicnn.layers.conv import Conv2D
from minicnn.layers.core import Dense, Dropout, Input
from minicnn.layers.normalization import BatchNormalization
from minicnn.layers.weighted import WeightedLayer
from minicnn.training.profiling import watched

# What the largest activation of a piece may take. Smaller pieces would stay in a nearer cache, but every layer has work
# to do that does not depend on their size.
PIECE_BYTES = 1 << 22
# And of a group of pieces, that meets the dense layers together.
GROUP_BYTES = 1 << 26


def plan(layers: Sequence[Layer]) -> list[Layer]:
    """The layers that compute in evaluation mode what `layers` do, up to rounding: fewer of them."""
    kept: list[Layer] = []
    for layer in layers:
        if type(layer) in (Dropout, Input):
            continue
        before = kept[-1] if kept else None
        linear = isinstance(before, WeightedLayer) and before.activation is activations.linear
        if type(layer) is BatchNormalization and type(before) in (Conv2D, Dense) and linear:
            kept[-1] = folded(before, layer)
        else:
            kept.append(layer)
    return kept


def folded(layer: Any, norm: BatchNormalization) -> Layer:
    """One layer for two: norm(x @ w + b) = x @ (w * scale) + (b * scale + shift), for each output."""
    scale, shift = norm.scale_and_shift()
    both = copy(layer)
    both.stands_for = layer  # a profile counts its time there
    both.params = {"w": layer.params["w"] * scale, "b": shift}
    if layer.use_bias:
        both.params["b"] = layer.params["b"] * scale + shift
    return both


def pieces(samples: slice, sample_bytes: int, most: int) -> list[slice]:
    """`samples` in pieces whose largest activation takes `most` bytes; sample_bytes: that of one, 0 for one piece."""
    step = max(1, most // sample_bytes if sample_bytes else samples.stop - samples.start)
    return [slice(start, min(start + step, samples.stop)) for start in range(samples.start, samples.stop, step)]


def cut_at_dense(layers: list[Layer]) -> tuple[list[Layer], list[Layer]]:
    """The layers before the first dense one, and those from it on."""
    cut = next((i for i, layer in enumerate(layers) if type(layer) is Dense), len(layers))
    return layers[:cut], layers[cut:]


def largest_activation(model: Any) -> int:
    """How many numbers the largest of a sample's activations has."""
    inner = [largest_activation(layer) for layer in model.layers if hasattr(layer, "layers")]
    return max(*(math.prod(shape) for shape in model.shapes), *inner)


def infer(layers: Sequence[Layer], x: Array) -> tuple[Array, Context]:
    """The output of a plan's layers for x, which is left as it is; and the last layer's page."""
    ours, ctx = False, Context(need_backward=False)
    for layer in watched(layers):
        ctx = Context(need_backward=False, overwrite=ours)
        y = layer.forward(x, ctx)
        ours = ours or not xp_of(x).may_share_memory(x, y)  # Flatten, for one, only looks at x in another way
        x = y
    return x, ctx
