"""What the layers compute in which branches meet, and the border of zeros: one rule for each question.

x of such a layer is the list of its inputs, x0, x1, …, and dx the list of the gradients with respect to them: "dx0",
"dx1". An axis of length 1 is repeated, as the kernels do (minicnn/kernels/merge.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from minicnn.inspect.explanation import Case, Index, grid, one, place_text, products
from minicnn.kernels.geometry import Pads


def _read_at(array: np.ndarray, index: Index) -> Index:
    """Where an input is read for an element of the output: 0 along the axes on which it is repeated."""
    return tuple(0 if size == 1 else n for n, size in zip(index, array.shape, strict=True))


def _reached(array: np.ndarray, index: Index, whole: Index) -> np.ndarray:
    """The elements of an output of this shape that read an element of an input: several where it is repeated."""
    sizes = zip(index, array.shape, whole, strict=True)
    return grid(*(range(out) if size == 1 < out else [n] for n, size, out in sizes))


def _joined(case: Case, rule: str, factors: Any) -> None:
    """y = the sum of the inputs, each times its factor."""
    case.formula = f"y = {rule}"
    places = [(k, x, _read_at(x, case.index)) for k, x in enumerate(case.layer.x)]
    parts = (one(f"x{k}", at, x[at], *factors(k)) for k, x, at in places)
    case.sum("y", rule, *parts)
    _tell_inputs(case)


def _handed_back(case: Case, rule: str, partner: str, factor: Any) -> None:
    """dx of one input: dy times a factor, summed over the elements of y that read it."""
    k, dy = int(case.what[2:]), case.dy
    x = case.layer.x[k]
    at = _reached(x, case.index, dy.shape)
    case.formula = f"{case.what} = {rule}"
    case.sum(case.what, rule, products("dy", dy, at, partner, factor(k, at)))
    if len(at) > 1:
        case.note(f"This input is repeated {len(at)} times, so its gradient is the sum over all of them.")


def _add_y(case: Case) -> None:
    _joined(case, "the sum of the inputs", lambda k: ())


def _add_dx(case: Case) -> None:
    _handed_back(case, "dy: each term of a sum receives the whole gradient", "", lambda k, at: 1.0)


def _subtract_y(case: Case) -> None:
    _joined(case, "x0 − x1", lambda k: ("−1", -1.0) if k else ())


def _subtract_dx(case: Case) -> None:
    rule = "dy" if case.what == "dx0" else "−dy"
    _handed_back(case, rule, "" if case.what == "dx0" else "−1", lambda k, at: -1.0 if k else 1.0)


def _mean_y(case: Case) -> None:
    n = len(case.layer.x)
    _joined(case, f"the mean of the {n} inputs", lambda k: (f"1 / {n}", 1 / n))


def _mean_dx(case: Case) -> None:
    n = len(case.layer.x)
    _handed_back(case, f"dy / {n}: equal shares", f"1 / {n}", lambda k, at: 1 / n)


def _product_y(case: Case) -> None:
    first, *others = [(x, _read_at(x, case.index)) for x in case.layer.x]
    case.formula = "y = the product of the inputs"
    value = float(math.prod(float(x[at]) for x, at in others))
    names = [place_text(f"x{k}", at) for k, (_, at) in enumerate(others, start=1)]
    case.sum("y", "x0 times the others", one("x0", first[1], first[0][first[1]], " · ".join(names) or "1", value))
    _tell_inputs(case)


def _product_dx(case: Case) -> None:
    xs = case.layer.x

    def others(k: int, at: np.ndarray) -> np.ndarray:
        places = [tuple(row) for row in at]
        rest = [x for i, x in enumerate(xs) if i != k]
        return np.array([math.prod(float(x[_read_at(x, place)]) for x in rest) for place in places])

    _handed_back(case, "dy times the other inputs", "product of the others", others)


def _largest_y(case: Case) -> None:
    won = int(case.layer.kept["winner"][case.index])
    case.formula = "y = the largest of the inputs"
    places = [(k, x, _read_at(x, case.index)) for k, x in enumerate(case.layer.x)]
    case.sum("y", "the winner", *(one(f"x{k}", at, x[at], "is the winner", float(k == won)) for k, x, at in places))
    _tell_inputs(case)


def _largest_dx(case: Case) -> None:
    winner = case.layer.kept["winner"]
    rule = "dy where this input was the largest, else 0"
    _handed_back(case, rule, "is the winner", lambda k, at: (winner[tuple(at.T)] == k).astype(float))


def _concatenate_axis(case: Case) -> int:
    return int(case.config["axis"]) % case.layer.y.ndim


def _concatenate_y(case: Case) -> None:
    axis = _concatenate_axis(case)
    k, place = 0, case.index[axis]
    while place >= case.layer.x[k].shape[axis]:
        place -= case.layer.x[k].shape[axis]
        k += 1
    at = (*case.index[:axis], place, *case.index[axis + 1 :])
    case.formula = "y = the inputs, one behind the other"
    case.sum("y", "the same number", one(f"x{k}", at, case.layer.x[k][at]))
    case.note(f"Place {case.index[axis]} of axis {axis} is place {place} of input {k}.")
    _tell_inputs(case)


def _concatenate_dx(case: Case) -> None:
    axis, k = _concatenate_axis(case), int(case.what[2:])
    start = sum(x.shape[axis] for x in case.layer.x[:k])
    at = (*case.index[:axis], case.index[axis] + start, *case.index[axis + 1 :])
    case.formula = f"{case.what} = the part of dy that came from this input"
    case.sum(case.what, "the same number", one("dy", at, case.dy[at]))


def _tell_inputs(case: Case) -> None:
    names = [f"x{k} is {'the input' if i < 0 else case.t.layers[i].key}" for k, i in enumerate(case.layer.inputs)]
    case.note(f"{', '.join(names)}.")


def _padding_y(case: Case) -> None:
    n, i, j, c = case.index
    (top, _), (left, _) = _pads(case)
    at = (n, i - top, j - left, c)
    inside = all(0 <= k < size for k, size in zip(at[1:3], case.layer.x.shape[1:3], strict=True))
    case.formula = "y = x, with zeros around it"
    if inside:
        case.sum("y", "the same number", one("x", at, case.layer.x[at]))
    else:
        case.value("y", "a zero of the border", 0.0, "0")


def _padding_dx(case: Case) -> None:
    n, i, j, c = case.index
    (top, _), (left, _) = _pads(case)
    at = (n, i + top, j + left, c)
    case.formula = "dx = dy without the border"
    case.sum("dx", "the same number", one("dy", at, case.dy[at]))


def _pads(case: Case) -> Pads:
    made: Any = case.layer.made()
    return made.pads


MERGES: dict[str, dict[str, Callable[[Case], None]]] = {
    "Add": {"y": _add_y, "dx": _add_dx},
    "Subtract": {"y": _subtract_y, "dx": _subtract_dx},
    "Multiply": {"y": _product_y, "dx": _product_dx},
    "Average": {"y": _mean_y, "dx": _mean_dx},
    "Maximum": {"y": _largest_y, "dx": _largest_dx},
    "Concatenate": {"y": _concatenate_y, "dx": _concatenate_dx},
    "ZeroPadding2D": {"y": _padding_y, "dx": _padding_dx},
}
