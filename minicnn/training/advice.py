"""Warnings of `fit`: training goes on, but not as its author is likely to want it."""

from __future__ import annotations

import math
import warnings
from typing import Any

from minicnn.layers.normalization import BatchNormalization
from minicnn.layers.walk import shapes_of


def warn_that_it_is_lost(model: Any, loss: float, epoch: int, stacklevel: int) -> None:
    """A UserWarning: the loss of an epoch (counted from 0) is NaN or infinite."""
    warnings.warn(
        f"The loss is {loss} in epoch {epoch + 1}: training has diverged, and what {model.name} had learned is likely "
        "to be lost. Most often the learning rate is too large "
        f"(it is {model.optimizer.learning_rate:g}; try a tenth), or the inputs are not scaled to about -1 to 1. "
        "fit(..., check_finite=True) stops before the first step that is not finite and names the layer in which it "
        "began; with callbacks.TerminateOnNaN() training ends there.",
        stacklevel=stacklevel,
    )


def warn_of_a_single_sample(model: Any, batches: Any, stacklevel: int) -> bool:
    """A UserWarning where a batch of one sample leaves a batch normalisation a single number for each channel.

    Says the likely cause. Returns whether it warned.
    """
    name = _normalises_single_numbers(model)
    if name is None:
        return False
    size, samples = batches.batch_size, batches.n
    if size == 1:
        cause = "The batch_size is 1: 16 or more gives it something to compare"
    elif size is not None and samples is not None and samples % size == 1:
        cause = (
            f"The last batch holds the one sample that is left of {samples} in batches of {size}: take another "
            f"batch_size, or {samples - 1} samples"
        )
    else:
        cause = "What is x gave this batch: let it give larger ones, or leave out a last one that is too small"
    warnings.warn(
        f"{name} normalises a batch of a single sample, so it finds one number for each channel: less its mean, that "
        "is 0, whatever it was. Nothing before it is learned from such a batch, and the running variance shrinks. "
        f"{cause}.",
        stacklevel=stacklevel,
    )
    return True


def _normalises_single_numbers(model: Any) -> str | None:
    """The first batch normalisation that learns and sees a single row of channels in each sample: no image, or 1×1."""
    for node, shape in zip(model.nodes, shapes_of(model.nodes, model.sample_shape)[1:], strict=True):
        if isinstance(node.layer, BatchNormalization) and node.layer.trainable and math.prod(shape[:-1]) == 1:
            return node.layer.name
    return None
