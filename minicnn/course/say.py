"""Arrays in words that fit on a screen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

TOO_MUCH_MEMORY = "It asked for more memory than an exercise may have."
MANY = 48  # numbers that are shown; of larger arrays only the shape is


def number(value: Any) -> str:
    """Up to five digits, no needless zeros."""
    if isinstance(value, (bool, np.bool_)):
        return str(bool(value))
    return f"{value:.5g}" if isinstance(value, (float, np.floating)) else str(value)


def array(name: str, value: Any) -> list[str]:
    """The lines that show one argument or result, whole if it is small."""
    if isinstance(value, np.ndarray) and value.ndim == 4 and name in ("w", "dw"):
        return filters(name, value)
    if isinstance(value, np.ndarray) and value.ndim:
        head = f"{name} {_shape(value.shape)}"
        if value.size > MANY or value.size == 0:
            return [f"{head}: {value.size} numbers"]
        return [head + ":", *(f"    {line}" for line in _grids(value))]
    if isinstance(value, np.generic):
        value = value.item()
    return [f"{name} = {number(value) if isinstance(value, float) else repr(value)}"]


def arguments(values: dict[str, Any]) -> list[str]:
    """All of them; those that are no arrays together in one line."""
    lines = [line for name, v in values.items() if isinstance(v, np.ndarray) for line in array(name, v)]
    rest = ", ".join(array(name, v)[0] for name, v in values.items() if not isinstance(v, np.ndarray))
    return [*lines, rest] if rest else lines


def _grids(value: np.ndarray) -> Iterator[str]:
    """Rows and columns; of images a grid for each channel of each."""
    if value.ndim <= 2:
        yield from _grid(np.atleast_2d(value))
    elif value.ndim == 4:  # images (N, H, W, C)
        for n in range(value.shape[0]):
            for c in range(value.shape[3]):
                if value.shape[0] * value.shape[3] > 1:
                    yield f"[{n}, :, :, {c}]"
                yield from _grid(value[n, :, :, c])
    else:
        for i, part in enumerate(value):
            yield f"[{i}]"
            yield from _grids(part)


def filters(name: str, value: np.ndarray) -> list[str]:
    """(KH, KW, C, F): a grid for each channel of each filter."""
    if value.size > MANY:
        return array(name, value)
    lines = [f"{name} {_shape(value.shape)}:"]
    for f in range(value.shape[3]):
        for c in range(value.shape[2]):
            if value.shape[2] * value.shape[3] > 1:
                lines.append(f"    [:, :, {c}, {f}]")
            lines += [f"    {line}" for line in _grid(value[:, :, c, f])]
    return lines


def _grid(value: np.ndarray) -> list[str]:
    cells = [[number(v) for v in row] for row in value]
    width = max((len(cell) for row in cells for cell in row), default=0)
    return ["  ".join(cell.rjust(width) for cell in row) for row in cells]


def _shape(shape: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"


def shape(value: Any) -> str:
    """What came back, in two words: "shape (2, 3)", "None", "a list"."""
    if isinstance(value, np.ndarray):
        return f"shape {_shape(value.shape)}"
    return "None" if value is None else f"{type(value).__name__} {value!r:.60}"
