"""What may be the cause, when the gradient check finds a wrong gradient.

Each function below knows the trace that one well-known bug leaves in the numbers, and returns a sentence, or "" where
the numbers do not fit it. All of them try to explain every number that is wrong, not the worst alone: so a hint that is
given is seldom a coincidence; and where none fits, none is given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

import numpy as np

# How many of the wrong numbers an explanation is tried on, where each one costs two forward passes.
ENOUGH = 30


@dataclass
class Evidence:
    """What the check knows of one wrong gradient.

    gradient: the one that backward returned, in whole. probes: where the array was moved, as (index or ..., direction).
    analytic, numeric: the two derivatives of each probe. wrong: where they differ.
    shares(probe, larger): of the numeric derivative, what each number of y contributes (an array like y); with
    `larger`, from a step a hundred times larger. others: the other arrays of the function by name, which may be changed
    for a while. rates: of the dropouts concerned.
    """

    gradient: np.ndarray
    probes: list[tuple[Any, Any]]
    analytic: np.ndarray
    numeric: np.ndarray
    wrong: np.ndarray
    shares: Callable[..., np.ndarray]
    others: dict[str, np.ndarray]
    rates: list[float]

    @property
    def scale(self) -> float:
        return float(np.abs(self.numeric).max())

    def agrees(self, a: Any, b: Any) -> bool:
        """Whether all numbers of a are those of b, as far as a numeric derivative can tell."""
        a, b = np.asarray(a), np.asarray(b)
        return bool((np.abs(a - b) <= 1e-4 * np.maximum(np.abs(a), np.abs(b)) + 1e-7 * self.scale).all())

    def some_wrong(self) -> list[int]:
        """ENOUGH of the wrong probes, spread evenly."""
        wrong = np.flatnonzero(self.wrong)
        return [int(i) for i in wrong[:: -(-len(wrong) // ENOUGH)]] if len(wrong) else []


def hint(evidence: Evidence) -> str:
    """The likely cause, in one sentence; "" where nothing fits."""
    if not np.isfinite(evidence.analytic).all() or not np.isfinite(evidence.numeric).all() or evidence.scale == 0:
        return ""
    tests = TESTS if evidence.wrong.any() else (rounding,)  # else all were taken for kinks, as noise may be
    return next(filter(None, (test(evidence) for test in tests)), "")


# ---- the tests ------------------------------------------------------------------------------------------------------


def rounding(e: Evidence) -> str:
    """Errors of the size of float32's rounding: small ones in the backward pass, noise in the forward pass."""
    if np.abs(e.analytic - e.numeric).max() < 1e-5 * e.scale and (e.gradient == e.gradient.astype(np.float32)).all():
        return "the errors are those of float32, of 7 digits: the backward pass computes in it; keep the inputs' dtype."
    chosen = e.some_wrong() or list(range(min(ENOUGH, len(e.probes))))  # all may have been taken for kinks
    near, far = (
        np.median([abs(e.analytic[i] - e.shares(e.probes[i], larger=larger).sum()) for i in chosen])
        for larger in (False, True)
    )
    if far < 0.1 * near and far < 0.01 * e.scale:
        return (
            "with larger steps both sides agree: the forward pass rounds to float32, of 7 digits, and the small steps "
            "of this check drown in that; keep the inputs' dtype."
        )
    return ""


def constant_factor(e: Evidence) -> str:
    """All numbers wrong by the same factor."""
    factor = float(e.analytic @ e.numeric / (e.numeric @ e.numeric))
    if factor == 0 or abs(factor - 1) < 1e-3 or not e.agrees(e.analytic, factor * e.numeric):
        return ""
    if abs(factor + 1) < 1e-3:
        return "every number has the wrong sign: a minus, or target - prediction for prediction - target."
    causes = []
    for rate in dict.fromkeys(e.rates):
        if 0 < rate < 1 and abs(factor / (1 - rate) - 1) < 1e-3:
            causes.append("1 - the dropout's rate: the scale 1 / (1 - rate) is missing in the backward pass")
        if 0 < rate < 1 and abs(factor * (1 - rate) - 1) < 1e-3:
            causes.append("1 / (1 - the dropout's rate): that scale is applied twice in the backward pass")
    y = e.shares(e.probes[0])
    n = len(e.gradient) if y.size == 1 else len(y)  # one number is the loss of the whole batch
    if n > 1 and abs(factor / n - 1) < 1e-3:
        causes.append("the batch size: the mean over the batch, a division by N, is missing")
    if n > 1 and abs(factor * n - 1) < 1e-3:
        causes.append("1 / the batch size: the mean over the batch is taken twice, or where a sum belongs")
    cause = ", which is " + "; or ".join(causes) if causes else ": a constant is missing, or one too many"
    return f"every number is {factor:.6g} times the right one{cause}."


def turned(e: Evidence) -> str:
    """The right numbers in the wrong places, or the right gradient of another array, turned round."""
    for name, gradient in _turns(e.gradient):
        if _explains(e, gradient):
            return f"the right numbers are in the wrong places: they would be right with {name}."
    for other, array in e.others.items():
        before = array.copy()
        for name, other_way in _turns(before):
            array[...] = other_way
            same = all(e.agrees(e.shares(e.probes[i]).sum(), e.analytic[i]) for i in e.some_wrong())
            array[...] = before
            if same:
                return f"it would be right if {other} had {name}: the backward pass reads {other} the wrong way round."
    return ""


def one_share(e: Evidence) -> str:
    """A sum of which only one term was kept."""
    chosen = e.some_wrong()
    if len(chosen) < 3:
        return ""
    shares = [e.shares(e.probes[i]) for i in chosen]
    of_images = shares[0].ndim > 2 or e.gradient.ndim == 4  # else an output position is a sample
    for what, split in (("window" if of_images else "sample", _by_position), ("sample", _by_sample)):
        if all(_is_one_share(e, split(s), e.analytic[i]) for s, i in zip(shares, chosen, strict=True)):
            where = "wrong where windows overlap: " if what == "window" else ""
            return f"{where}each number is the share of one {what} alone; the shares must be added, `+=` and not `=`."
    return ""


def moved(e: Evidence) -> str:
    """The right numbers some pixels further: the padding was not cut off, or cut off twice."""
    index = _indices(e)
    if e.gradient.ndim != 4 or index is None:
        return ""
    size = np.array(e.gradient.shape)
    for down, right in product(range(-3, 4), repeat=2):
        there = index + (0, down, right, 0)
        inside = ((there >= 0) & (there < size)).all(axis=1)
        if (e.wrong & inside).sum() >= 5 and e.agrees(e.gradient[tuple(there[inside].T)], e.numeric[inside]):
            return (
                f"the right numbers are there, but moved by ({down}, {right}) pixels: "
                "they are counted with the padding where they should be without it, or the other way round."
            )
    return ""


def at_borders(e: Evidence) -> str:
    """Right inside, wrong along the edges."""
    index = _indices(e)
    if e.gradient.ndim != 4 or index is None or e.wrong.sum() < 3:
        return ""
    # Images have rows and columns in axes 1 and 2, kernels in 0 and 1: there the outer weights meet the padding.
    for what, axes, least in (("pixels", (1, 2), 3), ("weights", (0, 1), 1)):
        places, last = index[:, axes], np.array(e.gradient.shape)[list(axes)] - 1
        from_edge = np.minimum(places, last - places).min(axis=1)
        depth = from_edge[e.wrong].max()
        edges = [places[:, k] == edge for k in (0, 1) for edge in (0, last[k])]
        if (from_edge > depth).sum() >= least and max(e.wrong[edge].mean() for edge in edges if edge.any()) > 0.5:
            return f"the {what} inside are right, only those at the edge are wrong: look at the padding."
    return ""


def where_windows_overlap(e: Evidence) -> str:
    """Right where one output depends on a number, wrong where several do."""
    reached = np.array([np.count_nonzero(_by_position(e.shares(probe))) for probe in e.probes])
    if e.wrong.sum() < 3 or (~e.wrong).sum() < 3 or reached[e.wrong].min() < 2 or reached[~e.wrong].max() > 1:
        return ""
    return "right where one window reaches, wrong where windows overlap: their shares must be added, `+=` and not `=`."


TESTS = (rounding, constant_factor, turned, one_share, moved, at_borders, where_windows_overlap)


# ---- what they need -------------------------------------------------------------------------------------------------


def _indices(e: Evidence) -> np.ndarray | None:
    """The index of each probe, (probes, axes); None where directions were compared, too."""
    indices = [where for where, _ in e.probes if where is not ...]
    return np.array(indices) if len(indices) == len(e.probes) else None


def _turns(array: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """The array turned round in the ways that keep its shape, each with its name."""
    if array.ndim == 4:
        yield "its first two axes reversed (a kernel turned by 180°)", np.flip(array, (0, 1))
        yield "its rows and columns reversed (images turned by 180°)", np.flip(array, (1, 2))
    for first, second in combinations(range(array.ndim), 2):
        if array.shape[first] == array.shape[second]:
            yield f"axes {first} and {second} swapped (transposed)", array.swapaxes(first, second)


def _explains(e: Evidence, gradient: np.ndarray) -> bool:
    """Whether the check would have accepted this gradient."""
    return e.agrees([(gradient[where] * unit).sum() for where, unit in e.probes], e.numeric)


def _by_position(shares: np.ndarray) -> np.ndarray:
    """Shares summed over the channels: one for each output position."""
    return shares.sum(axis=-1).reshape(-1) if shares.ndim > 1 else shares


def _by_sample(shares: np.ndarray) -> np.ndarray:
    return shares.reshape(len(shares), -1).sum(axis=1)


def _is_one_share(e: Evidence, shares: np.ndarray, value: float) -> bool:
    """Whether one of several shares is the whole of the value."""
    several = np.count_nonzero(np.abs(shares) > 1e-6 * e.scale) > 1
    return bool(several) and any(e.agrees(share, value) for share in shares)
