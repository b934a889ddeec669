"""Penalties on large weights, added to the loss, and their gradients."""

from __future__ import annotations

from typing import Any, ClassVar

from minicnn.backend import Array, xp_of
from minicnn.errors import InputError
from minicnn.registry import Configured, names_of, resolve


class Regularizer(Configured):
    """Base class: implement `penalty(w)` and `gradient(w)`. A call returns the penalty, as in Keras."""

    def __call__(self, w: Array) -> float:
        return self.penalty(w)

    def penalty(self, w: Array) -> float:
        """What is added to the loss: a float64 scalar (on the GPU a 0-d array: nothing waits for it)."""
        raise NotImplementedError(f"{type(self).__name__} must implement penalty(w)")

    def gradient(self, w: Array) -> Array:
        """Derivative of the penalty by w: same shape and dtype as w."""
        raise NotImplementedError(f"{type(self).__name__} must implement gradient(w)")


class L1(Regularizer):
    """l1 * sum(|w|), which pulls small weights to exactly 0. The gradient at 0 is taken as 0."""

    ranges: ClassVar[dict[str, Any]] = {"l1": ("of 0 or more", 0.01)}

    def __init__(self, l1: float | None = 0.01):
        self.l1 = 0.01 if l1 is None else l1

    def penalty(self, w: Array) -> float:
        return self.l1 * abs(w).sum(dtype="float64")

    def gradient(self, w: Array) -> Array:
        return self.l1 * xp_of(w).sign(w)


class L2(Regularizer):
    """l2 * sum(w²): "weight decay". The gradient is 2 * l2 * w."""

    ranges: ClassVar[dict[str, Any]] = {"l2": ("of 0 or more", 0.01)}

    def __init__(self, l2: float | None = 0.01):
        self.l2 = 0.01 if l2 is None else l2

    def penalty(self, w: Array) -> float:
        return self.l2 * xp_of(w).square(w).sum(dtype="float64")

    def gradient(self, w: Array) -> Array:
        return 2 * self.l2 * w


class L1L2(Regularizer):
    """l1 * sum(|w|) + l2 * sum(w²).

    Both factors default to 0, as in Keras; the name "l1_l2" stands for 0.01 each.
    """

    ranges: ClassVar[dict[str, Any]] = {**L1.ranges, **L2.ranges}

    def __init__(self, l1: float | None = 0.0, l2: float | None = 0.0):
        self.l1, self.l2 = 0.0 if l1 is None else l1, 0.0 if l2 is None else l2

    def penalty(self, w: Array) -> float:
        return L1(self.l1).penalty(w) + L2(self.l2).penalty(w)

    def gradient(self, w: Array) -> Array:
        return L1(self.l1).gradient(w) + L2(self.l2).gradient(w)


l1 = L1
l2 = L2
l1_l2 = L1L2


def _both(l1: float = 0.01, l2: float = 0.01) -> L1L2:
    return L1L2(l1, l2)


_KNOWN = names_of(L1, L2) | {"L1L2": L1L2, "l1_l2": _both, "l1l2": _both}


def get(identifier: Any) -> Regularizer | None:
    """The regularizer for a name ("l1", "l2", "l1_l2"), config dict, class or instance. None stays None.

    Raises UnknownNameError, and InputError for a function: a penalty without its gradient cannot be learned from.
    """
    found = resolve("regularizer", identifier, _KNOWN, Regularizer)
    if found is None or isinstance(found, Regularizer):
        return found
    raise InputError(
        "regularizer", "a plain function has no gradient.", 'a name such as "l2", or a Regularizer.', f"{found!r}.",
        "write a class of minicnn.regularizers.Regularizer with penalty(w) and gradient(w).",
    )  # fmt: skip
