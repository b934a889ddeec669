"""What the walk through the page is about: one image, and one weight from its gradient to the check of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from minicnn import kernels
from minicnn.inspect.page.checks import MAX_STORY_MACS, Place, costs
from minicnn.inspect.record import LayerTrace
from minicnn.inspect.rules import Windows

if TYPE_CHECKING:
    from minicnn.inspect.trace import Trace

CANDIDATES = 400  # the weights of the largest gradients, among which one is chosen


def image_of(t: Trace) -> int:
    """The image that the network gets most wrong: that of the largest loss; 0 where there are no targets."""
    return 0 if t.losses is None else int(np.argmax(t.losses.reshape(len(t.x), -1).mean(axis=1)))


def weight_of(t: Trace, image: int) -> Place | None:
    """The weight that the walk follows; None where there is no gradient.

    It is one of the first layer with weights whose gradient check does not take too long. Its gradient is large, in the
    batch and in this image, its step is seen in the first four digits, and all its numbers have four.
    """
    cost = costs(t)
    for i, layer in enumerate(t.layers):
        affordable = cost[i]
        plain = layer.kind in ("Conv2D", "Dense") and layer.config.get("groups", 1) == 1
        if plain and layer.applied and affordable is not None and affordable <= MAX_STORY_MACS:
            return i, "w", _tellable(layer, image)
    return None


def _tellable(layer: LayerTrace, image: int) -> int:
    grad, before, after = (group["w"].reshape(-1).astype(float) for group in (layer.grads, layer.params, layer.updated))
    share = np.abs(_share(layer, image).reshape(-1).astype(float))
    some = np.argsort(-np.abs(grad), kind="stable")[:CANDIDATES]
    seen = np.abs(after - before)[some] >= 0.005 * np.abs(before)[some]  # five in the fourth digit
    largest = max(float(share.max()), 1e-300), max(float(np.abs(grad).max()), 1e-300)
    written = [all(map(_four_digits, (grad[i], before[i], after[i]))) for i in some]
    score = np.minimum(share[some] / largest[0], np.abs(grad)[some] / largest[1]) + seen + np.array(written)
    return int(some[int(np.argmax(np.nan_to_num(score)))])


def _four_digits(value: float) -> bool:
    """Whether the page writes the number with four digits: not 0.14, and not a power of ten."""
    return abs(value) >= 1e-3 and len(f"{abs(value):.4g}".replace(".", "").strip("0")) == 4


def _share(layer: LayerTrace, image: int) -> np.ndarray:
    """What one image gives to the gradient of w."""
    x, dz, w = layer.x[image : image + 1], layer.kept["dz"][image : image + 1], layer.params["w"]
    if layer.kind != "Conv2D":
        return x.reshape(-1, x.shape[-1]).T @ dz.reshape(-1, dz.shape[-1])
    windows = Windows(layer)
    return kernels.conv2d_backward(dz, x, w, windows.stride, windows.pads, windows.dilation, need_dx=False)[1]
