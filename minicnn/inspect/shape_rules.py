"""What the layers that move numbers compute, and the largest number of an image: one rule for each question.

The arithmetic is that of the kernels, written down once more for a single number: compare `minicnn/kernels`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minicnn.inspect.explanation import Case, Index, grid, one, products
from minicnn.kernels.geometry import pair
from minicnn.kernels.prepare import shares_of
from minicnn.kernels.warp import taps_of


def _moved(case: Case, name: str, rule: str, at: Index) -> None:
    """The number that lies elsewhere in x, or in dy."""
    array = case.layer.x if name == "x" else case.dy
    case.formula = f"{case.what} = {rule}"
    case.sum(case.what, "the same number", one(name, at, array[at]))


def _reshape(case: Case, name: str) -> None:
    array = case.layer.x if name == "x" else case.dy
    shape = (case.layer.y if name == "x" else case.layer.x).shape[1:]  # type: ignore[union-attr]
    place = int(np.ravel_multi_index(case.index[1:], shape))
    at = (case.index[0], *(int(n) for n in np.unravel_index(place, array.shape[1:])))
    _moved(case, name, f"{name} in another shape: both are number {place} of the sample", at)


def _permute(case: Case, name: str) -> None:
    dims, (n, *rest) = list(case.config["dims"]), case.index
    if name == "x":
        at = (n, *(rest[dims.index(axis)] for axis in range(1, len(dims) + 1)))
    else:
        at = (n, *(rest[axis - 1] for axis in dims))
    _moved(case, name, f"{name} with its axes exchanged", at)


def _cropping_y(case: Case) -> None:
    n, i, j, c = case.index
    made: Any = case.layer.made()
    (top, _), (left, _) = made.sides
    _moved(case, "x", "x without its border", (n, i + top, j + left, c))


def _cropping_dx(case: Case) -> None:
    n, i, j, c = case.index
    made: Any = case.layer.made()
    (top, _), (left, _) = made.sides
    at = (n, i - top, j - left, c)
    if all(0 <= k < size for k, size in zip(at[1:3], case.dy.shape[1:3], strict=True)):
        _moved(case, "dy", "dy, with zeros where x was cut off", at)
    else:
        case.formula = "dx = dy, with zeros where x was cut off"
        case.value("dx", "this pixel was cut off: it changed nothing", 0.0, "0")


def _weights(case: Case, axis: int) -> np.ndarray:
    """(new pixels, old pixels): how much of each old pixel is in each new one, along the height or the width."""
    scale, length = pair(case.config["size"])[axis], case.layer.x.shape[axis + 1]
    new = np.arange(scale * length)
    if case.config["interpolation"] == "nearest":
        return (new[:, None] // scale == np.arange(length)).astype(float)
    place = (new + 0.5) / scale - 0.5
    left = np.floor(place).astype(int)
    weights = np.zeros((len(new), length))
    np.add.at(weights, (new, np.clip(left, 0, length - 1)), 1 - (place - left))
    np.add.at(weights, (new, np.clip(left + 1, 0, length - 1)), place - left)
    return weights


def _upsampling(case: Case, name: str) -> None:
    n, i, j, c = case.index
    array, back = (case.layer.x, False) if name == "x" else (case.dy, True)
    rows, columns = (weights.T if back else weights for weights in (_weights(case, 0), _weights(case, 1)))
    shares = np.outer(rows[i], columns[j])
    at = np.argwhere(shares)
    places = np.column_stack([np.full(len(at), n), at, np.full(len(at), c)])
    case.formula = (
        "dx = the sum of dy over the pixels that were made of this one, each times its share"
        if back
        else "y = the sum of the pixels around it, each times its share"
    )
    case.sum(case.what, f"the sum of {name} · share", products(name, array, places, "share", shares[tuple(at.T)]))


def _largest_y(case: Case) -> None:
    n, c = case.index[0], case.index[-1]
    at = grid([n], *(range(size) for size in case.layer.x.shape[1:-1]), [c])
    values = case.layer.x[n, ..., c].ravel()
    case.formula = "y = the largest x of the image, channel by channel"
    wins = np.arange(len(values)) == int(values.argmax())
    case.sum("y", "the winner's x", products("x", case.layer.x, at, "is the winner", wins))


def _largest_dx(case: Case) -> None:
    n, c = case.index[0], case.index[-1]
    image = case.layer.x[n, ..., c]
    equal = int((image == image.max()).sum())
    wins = bool(case.layer.x[case.index] == image.max())
    at = (n, *[0] * (case.dy.ndim - 2), c)
    case.formula = "dx = dy for the largest pixel, 0 for the others"
    case.sum("dx", "dy where it won", one("dy", at, case.dy[at], "its share", wins / equal))
    if equal > 1:
        case.note(f"{equal} are equally large: they share the gradient.")


def _resized(case: Case, name: str) -> None:
    n, i, j, c = case.index
    made: Any = case.layer.made()
    parts, sizes = made.part(*case.layer.x.shape[1:3]), (made.height, made.width)
    lengths = [part.stop - part.start for part in parts]
    shares = [shares_of(old, new, made.interpolation) for old, new in zip(lengths, sizes, strict=True)]
    top, left = parts[0].start, parts[1].start
    if name == "x":
        weights, array, at = np.outer(shares[0][i], shares[1][j]), case.layer.x, (top, left)
        case.formula = "y = the sum of the pixels around it, each times its share"
    else:
        inside = 0 <= i - top < shares[0].shape[1] and 0 <= j - left < shares[1].shape[1]
        rows, columns = (shares[0][:, i - top], shares[1][:, j - left]) if inside else (np.zeros(1), np.zeros(1))
        weights, array, at = np.outer(rows, columns), case.dy, (0, 0)
        case.formula = "dx = the sum of dy over the pixels that were made of this one, each times its share"
        if not inside:
            case.note("This pixel was cut off: it changed nothing.")
    found = np.argwhere(weights)
    places = np.column_stack([np.full(len(found), n), found + at, np.full(len(found), c)])
    case.sum(case.what, f"the sum of {name} · share", products(name, array, places, "share", weights[tuple(found.T)]))


def _standardized(case: Case, name: str) -> None:
    made: Any = case.layer.made()
    made.state = case.layer.state
    array = case.layer.x if name == "x" else case.dy
    mean, deviation = (float(np.broadcast_to(a, array.shape)[case.index]) for a in made.moments(array.astype(float)))
    factor = deviation if made.invert else 1 / deviation
    text = "deviation" if made.invert else "1 / deviation"
    case.note(f"The deviation is √variance = {deviation:.6g}, the mean {mean:.6g}.")
    parts = [one(name, case.index, array[case.index], text, factor)]
    if name == "x":
        parts.append(one("mean", (), mean, "" if made.invert else "−1 / deviation", 1.0 if made.invert else -factor))
    case.formula = f"{case.what} = {name} · {text}" + (" + the mean's share" if name == "x" else "")
    case.sum(case.what, case.formula.partition("= ")[2], *parts)


def _flipped(case: Case, name: str) -> None:
    n, i, j, c = case.index
    rows, columns = case.layer.kept.get("flipped", np.zeros((n + 1, 2), bool))[n]
    _, h, w, _ = case.layer.x.shape
    said = {True: "in reverse", False: "as they are"}
    case.note(f"Image {n}: its rows are {said[bool(rows)]}, its columns {said[bool(columns)]}.")
    _moved(case, name, f"{name}, mirrored or not", (n, h - 1 - i if rows else i, w - 1 - j if columns else j, c))


def _warped(case: Case, name: str) -> None:
    n, i, j, c = case.index
    config, (_, h, w, _) = case.config, case.layer.x.shape
    if "matrices" not in case.layer.kept:
        return _moved(case, name, f"{name}: in evaluation this layer does nothing", case.index)
    taps = taps_of(case.layer.kept["matrices"][n : n + 1], (h, w), config["fill_mode"], config["interpolation"])
    rows, columns, shares = (np.stack(arrays)[:, 0] for arrays in zip(*taps, strict=True))  # (taps, H, W) each
    if name == "x":
        places = np.stack([rows[:, i, j], columns[:, i, j]], axis=1)
        weights, array = shares[:, i, j], case.layer.x
        case.formula = "y = the sum of the pixels around the place that it comes from, each times its share"
        inside = ((places >= 0) & (places < (h, w))).all(axis=1)
        outside = float(weights[~inside].sum())
        places, weights = places[inside], weights[inside]
    else:
        found = np.argwhere((rows == i) & (columns == j) & (shares != 0))
        places, weights, array, outside = found[:, 1:], shares[tuple(found.T)], case.dy, 0.0
        case.formula = "dx = the sum of dy over the pixels that were made of this one, each times its share"
    index = np.column_stack([np.full(len(places), n), places, np.full(len(places), c)]).astype(int)
    parts = [products(name, array, index, "share", weights)]
    if outside:
        parts.append(one("fill_value", (), config["fill_value"], "share outside of the image", outside))
    case.sum(case.what, f"the sum of {name} · share", *parts)
    return None


SHAPES: dict[str, dict[str, Callable[[Case], None]]] = {
    **dict.fromkeys(
        ("CenterCrop", "Resizing"), {"y": lambda case: _resized(case, "x"), "dx": lambda case: _resized(case, "dy")}
    ),
    "Normalization": {"y": lambda case: _standardized(case, "x"), "dx": lambda case: _standardized(case, "dy")},
    "RandomFlip": {"y": lambda case: _flipped(case, "x"), "dx": lambda case: _flipped(case, "dy")},
    **dict.fromkeys(
        ("RandomRotation", "RandomTranslation", "RandomZoom"),
        {"y": lambda case: _warped(case, "x"), "dx": lambda case: _warped(case, "dy")},
    ),
    "Reshape": {"y": lambda case: _reshape(case, "x"), "dx": lambda case: _reshape(case, "dy")},
    "Permute": {"y": lambda case: _permute(case, "x"), "dx": lambda case: _permute(case, "dy")},
    "Cropping2D": {"y": _cropping_y, "dx": _cropping_dx},
    "UpSampling2D": {"y": lambda case: _upsampling(case, "x"), "dx": lambda case: _upsampling(case, "dy")},
    **dict.fromkeys(("GlobalMaxPooling1D", "GlobalMaxPooling2D"), {"y": _largest_y, "dx": _largest_dx}),
}
