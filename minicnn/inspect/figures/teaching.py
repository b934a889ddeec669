"""A convolution as a matrix product, drawn with its numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from minicnn.errors import InputError
from minicnn.inspect.figures.drawing import (
    TEXT,
    WRONG,
    check_index,
    colour_bar,
    footnote,
    headline,
    ink_on,
    new_figure,
    number,
    saved,
    signed_map,
)
from minicnn.kernels import im2col
from minicnn.kernels.geometry import IntPair, Padding, Windows
from minicnn.training.data import check_array, check_finite

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

IMAGE = [[1, 0, 2, 1], [0, 3, 1, -1], [2, 1, 0, 2], [1, 0, -2, 1]]
KERNEL = [[1, 0, -1], [2, 0, -2], [1, 0, -1]]  # Sobel: what is brighter on the left
MOST_PIXELS, MOST_ROWS, MOST_COLUMNS = 8, 16, 16
LETTERS = "abcdefghijklmnop"


def im2col_figure(
    image: Any = None,
    kernel: Any = None,
    stride: IntPair = 1,
    padding: Padding = "valid",
    row: int = 0,
    save: Any = None,
) -> Figure:
    """A convolution with all its numbers: window -> row of a matrix -> matrix product -> output.

        im2col_figure(save="im2col.png")        im2col_figure(image, kernel, padding="same", row=5)

    image: (H, W), with its padding at most 8×8; kernel: (KH, KW), of at most 16 numbers; at most 16 windows. None: a
    small example. row: which window is framed and worked out below. Raises InputError for what is too large.
    """
    x = check_array("image", IMAGE if image is None else image)
    w = check_array("kernel", KERNEL if kernel is None else kernel)
    for name, array in (("image", x), ("kernel", w)):
        check_finite(name, array, array.dtype)
        if array.ndim != 2:
            raise InputError(name, "it does not fit.", "a table of numbers, (height, width).", f"shape {array.shape}.",
                             "draw one channel: x[:6, :6, 0].")  # fmt: skip
    windows = Windows.of((1, *x.shape, 1), w.shape, stride, padding)
    (oh, ow), (ph, pw) = windows.out, windows.padded
    if min(oh, ow) < 1:
        raise InputError("image", "the kernel does not fit into it.", f"at least {w.shape[0]}×{w.shape[1]} pixels.",
                         f"{ph}×{pw} with the padding.", 'use a larger image, or padding="same".')  # fmt: skip
    if max(ph, pw) > MOST_PIXELS or oh * ow > MOST_ROWS or w.size > MOST_COLUMNS:
        raise InputError("im2col_figure", "there are too many numbers to be read.",
                         f"at most {MOST_PIXELS}×{MOST_PIXELS} pixels, {MOST_ROWS} windows, {MOST_COLUMNS} weights.",
                         f"{ph}×{pw} pixels, {oh * ow} windows, {w.size} weights.",
                         "draw a corner: image[:5, :5].")  # fmt: skip
    row = check_index("row", row, oh * ow, "window")
    x, w = x.astype(np.float64), w.astype(np.float64)
    cols = im2col(x[None, :, :, None], w.shape, stride, padding)
    y = cols @ w.ravel()
    padded = np.array(windows.pad(x[None, :, :, None]))[0, :, :, 0]

    height = max(ph + 2.4 + w.shape[0], w.size, oh * ow)
    starts = np.cumsum([0, pw + 2.6, w.size + 1.6, 1 + 1.6, 1 + 2.4])
    width = starts[-1] + max(ow, 3)
    figure = new_figure(0.44 * width + 1.5, 0.44 * (height + 1.4) + 1.5)
    ax = figure.add_subplot()
    ax.set(xlim=(-0.9, width + 0.3), ylim=(height + 0.2, -1.5), aspect="equal")
    ax.set_axis_off()
    top = float(max(np.abs(part).max() for part in (x, w, y))) or 1.0
    colours = _Colours(top)

    inside = np.zeros((ph, pw), dtype=bool)
    inside[windows.inside[1:]] = True
    name = f"image {x.shape[0]}×{x.shape[1]}" + ("" if inside.all() else " + padding")
    _table(ax, padded, starts[0], 0, colours, name, ~inside)
    _table(ax, w, starts[0], ph + 2.2, colours, f"kernel {w.shape[0]}×{w.shape[1]}")
    middle = (height - oh * ow) / 2
    _table(ax, cols, starts[1], middle, colours, "a row for each window")
    _table(ax, w.reshape(-1, 1), starts[2], (height - w.size) / 2, colours, "kernel")
    _table(ax, y.reshape(-1, 1), starts[3], middle, colours, "sums")
    place = (height - oh) / 2
    _table(ax, y.reshape(oh, ow), starts[4], place, colours, f"output {oh}×{ow}")
    for k in range(oh * ow):
        strong: dict[str, Any] = {"color": WRONG if k == row else TEXT, "fontweight": "bold" if k == row else "normal"}
        ax.text(starts[1] - 0.3, middle + k + 0.5, LETTERS[k], ha="center", va="center", fontsize=9, **strong)
        strong["color"] = ink_on(colours.of(y[k]))
        ax.text(starts[4] + k % ow + 0.07, place + k // ow + 0.06, LETTERS[k], va="top", fontsize=6, **strong)
    signs = (("im2col\n→", 1, 1.45, 11), ("×", 2, 0.8, 16), ("=", 3, 0.8, 16), ("in rows\n→", 4, 1.2, 11))
    for text, at, gap, size in signs:
        ax.text(starts[at] - gap, height / 2, text, ha="center", va="center", fontsize=size, color=TEXT)
    for j in range(1, w.shape[0]):  # a new row of the kernel
        ax.plot([starts[1] + j * w.shape[1]] * 2, [middle, middle + oh * ow], color=TEXT, linewidth=1.6)
    (sh, sw), (i, j) = windows.stride, divmod(row, ow)
    for rectangle in ((starts[0] + j * sw, i * sh, w.shape[1], w.shape[0]), (starts[1], middle + row, w.size, 1),
                      (starts[3], middle + row, 1, 1), (starts[4] + j, place + i, 1, 1)):  # fmt: skip
        _outline(ax, *rectangle)
    colour_bar(colours.mappable(), ax, "number")
    headline(figure, f"{x.size} pixels become {cols.size} numbers, and the convolution one matrix product")
    products = " ".join(
        f"{'' if n == 0 else '+ '}{number(a)}·{number(b) if b >= 0 else f'({number(b)})'}"
        for n, (a, b) in enumerate(zip(cols[row], w.ravel(), strict=True))
    )
    footnote(figure, f"Framed: window {LETTERS[row]}, output row {i}, column {j}: {products} = {number(y[row])}. "
             "White is 0, blue above, orange below." + ("" if inside.all() else " Hatched: padding."))  # fmt: skip
    return saved(figure, save)


class _Colours:
    """One pale scale for all tables."""

    def __init__(self, top: float):
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import Normalize

        self.scale = ScalarMappable(Normalize(-top, top), signed_map())

    def of(self, value: Any) -> Any:
        return self.scale.to_rgba(value)

    def mappable(self) -> Any:
        self.scale.set_array([])
        return self.scale


def _table(
    ax: Axes, values: np.ndarray, x: float, y: float, colours: _Colours, name: str, hatched: np.ndarray | None = None
) -> None:
    """Numbers in cells of side 1, from (x, y) to the right and downwards, under a name."""
    from matplotlib.patches import Rectangle

    rows, columns = values.shape
    for i, j in np.ndindex(rows, columns):
        fill = colours.of(values[i, j])
        is_padding = hatched is not None and bool(hatched[i, j])
        ax.add_patch(Rectangle((x + j, y + i), 1, 1, facecolor=fill, edgecolor="#b4bbc5", linewidth=0.7,
                               hatch="///" if is_padding else None))  # fmt: skip
        text = number(float(values[i, j]))
        ax.text(x + j + 0.5, y + i + 0.52, text, ha="center", va="center", fontsize=9 if len(text) < 4 else 7,
                color=ink_on(fill))  # fmt: skip
    ax.text(x + columns / 2, y - 0.3, name, ha="center", va="bottom", fontsize=9.5, color=TEXT)


def _outline(ax: Axes, x: float, y: float, width: float, height: float) -> None:
    from matplotlib.patches import Rectangle

    ax.add_patch(Rectangle((x, y), width, height, fill=False, edgecolor=WRONG, linewidth=2.6, zorder=5))
