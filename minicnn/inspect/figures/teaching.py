"""Convolutions drawn with their numbers: each way through one, as a matrix product, and Winograd's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from minicnn.arguments import in_words
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
from minicnn.kernels import conv2d_backward, conv2d_forward, im2col
from minicnn.kernels.conv_winograd import MATRICES
from minicnn.kernels.geometry import IntPair, Padding, Windows, pair
from minicnn.training.checks import check_array, check_finite

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

IMAGE = [[1, 0, 2, 1], [0, 3, 1, -1], [2, 1, 0, 2], [1, 0, -2, 1]]
KERNEL = [[1, 0, -1], [2, 0, -2], [1, 0, -1]]  # Sobel: what is brighter on the left
MAX_PIXELS, MAX_ROWS, MAX_COLUMNS = 8, 16, 16
LETTERS = "abcdefghijklmnop"
PIXELS = [[1, 2, 0, 1, 3], [0, 1, 2, 1, 0], [2, 0, 1, 3, 1], [1, 1, 0, 2, 2], [0, 3, 1, 0, 1]]
WEIGHTS = [[1, 2, 0], [0, 1, -1], [3, 0, -2]]
SIGNALS = [[1, -1, 0], [2, 0, 1], [0, 3, -2]]
HEADLINES = {
    "y": "The output y[{i}, {j}]: one window of the image times the kernel, summed",
    "dw": "The gradient of the weight w[{i}, {j}]: what it met in the image, times what came of it",
    "dx": "The gradient of the pixel x[{i}, {j}]: a convolution of dy with the kernel turned by 180°",
}


@in_words
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
    x = _checked("image", IMAGE if image is None else image)
    w = _checked("kernel", KERNEL if kernel is None else kernel)
    windows = Windows.of((1, *x.shape, 1), w.shape, stride, padding)
    (oh, ow), (ph, pw) = windows.out, windows.padded
    if min(oh, ow) < 1:
        raise InputError("image", "the kernel does not fit into it.", f"at least {w.shape[0]}×{w.shape[1]} pixels.",
                         f"{ph}×{pw} with the padding.", 'use a larger image, or padding="same".')  # fmt: skip
    if max(ph, pw) > MAX_PIXELS or oh * ow > MAX_ROWS or w.size > MAX_COLUMNS:
        raise InputError("im2col_figure", "there are too many numbers to be read.",
                         f"at most {MAX_PIXELS}×{MAX_PIXELS} pixels, {MAX_ROWS} windows, {MAX_COLUMNS} weights.",
                         f"{ph}×{pw} pixels, {oh * ow} windows, {w.size} weights.",
                         "draw a corner: image[:5, :5].")  # fmt: skip
    row = check_index("row", row, oh * ow, "window")
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
    footnote(figure, f"Framed: window {LETTERS[row]}, output row {i}, column {j}: "
             f"{_sum_in_words(cols[row], w)} = {number(y[row])}. White is 0, blue above, orange "
             "below." + ("" if inside.all() else " Hatched: padding."))  # fmt: skip
    return saved(figure, save)


@in_words
def convolution_figure(
    which: str = "y", at: IntPair = 0, image: Any = None, kernel: Any = None, dy: Any = None, save: Any = None
) -> Figure:
    """One number of a convolution as the sum of products that makes it: stride 1, no padding, one channel.

        convolution_figure("dx", at=(2, 1), save="dx.png")

    which: "y", an output: a window of the image times the kernel. "dw", the gradient of a weight: that part of the
    image which the weight meets, times dy. "dx", the gradient of a pixel: a window of dy, with zeros around it, times
    the kernel turned by 180°. at: (row, column) of the number. image (H, W) of at most 6×6 pixels, kernel (KH, KW) of
    at most 3×3, dy of the output's shape; None: a small example. Raises InputError.
    """
    if which not in ("y", "dw", "dx"):
        raise InputError("which", "unknown.", '"y", "dw" or "dx".', f"{which!r}.", 'try convolution_figure("dw").')
    x = _checked("image", PIXELS if image is None else image)
    w = _checked("kernel", WEIGHTS if kernel is None else kernel)
    if max(x.shape) > 6 or max(w.shape) > 3 or w.shape[0] > x.shape[0] or w.shape[1] > x.shape[1]:
        raise InputError("convolution_figure", "there are too many numbers to be read, or the kernel does not fit.",
                         "an image of at most 6×6, a kernel of at most 3×3 and no larger than the image.",
                         f"{x.shape[0]}×{x.shape[1]} and {w.shape[0]}×{w.shape[1]}.",
                         "draw a corner: image[:5, :5].")  # fmt: skip
    x4, w4 = x[None, :, :, None], w[:, :, None, None]
    y = conv2d_forward(x4, w4)[0, :, :, 0]
    if dy is None:
        dy = np.resize(SIGNALS, y.shape)
    dy = _checked("dy", dy)
    if dy.shape != y.shape:
        raise InputError("dy", "it does not fit the output.", f"shape {y.shape}.", f"shape {dy.shape}.",
                         "dy has one number for each output.")  # fmt: skip
    dx, dw, _ = conv2d_backward(dy[None, :, :, None], x4, w4)
    assert dx is not None
    results = {"y": y, "dw": dw[:, :, 0, 0], "dx": dx[0, :, :, 0]}
    (kh, kw), result = w.shape, results[which]
    i, j = (check_index("at", place, size, "place") for place, size in zip(pair(at), result.shape, strict=True))
    zeros = None
    if which == "dx":  # a pixel i is seen by the outputs i - kh + 1 … i
        border = ((kh - 1, kh - 1), (kw - 1, kw - 1))
        read, by = np.pad(dy, border), w[::-1, ::-1]
        zeros = np.pad(np.zeros(dy.shape, bool), border, constant_values=True)
        names = "dy, zeros around it", "kernel, turned by 180°"
    else:
        read, by = x, w if which == "y" else dy
        names = "image", "kernel" if which == "y" else "dy"
    window = read[i : i + by.shape[0], j : j + by.shape[1]]
    products = window * by + 0.0  # no −0

    turned = which == "dx"
    height = max(read.shape[0], result.shape[0], by.shape[0] + (kh + 2.0 if turned else 0))
    starts = np.cumsum([0, read.shape[1] + 1.6, by.shape[1] + 1.6, by.shape[1] + 2.2])
    width = starts[-1] + result.shape[1]
    figure = new_figure(0.5 * width + 1.5, 0.5 * (height + 1.4) + 1.4)
    ax = figure.add_subplot()
    ax.set(xlim=(-0.3, width + 0.3), ylim=(height + 0.2, -1.2), aspect="equal")
    ax.set_axis_off()
    top = float(max(np.abs(part).max() for part in (read, by, products, result))) or 1.0
    colours = _Colours(top)

    def middle(table: np.ndarray) -> float:
        return (height - table.shape[0]) / 2

    place = height - by.shape[0] if turned else middle(by)
    _table(ax, read, starts[0], middle(read), colours, names[0], zeros)
    _table(ax, by, starts[1], place, colours, names[1])
    _table(ax, products, starts[2], place, colours, "products")
    _table(ax, result, starts[3], middle(result), colours, which)
    if turned:  # letters follow the weights through the turn
        _table(ax, w, starts[1], 0, colours, "kernel")
        _letters(ax, w.shape, starts[1], 0, 1)
        _letters(ax, w.shape, starts[1], place, -1)
        ax.text(starts[1] + kw / 2, kh + 0.6, "↻", ha="center", va="center", fontsize=17, color=TEXT)
    for text, k, gap in (("×", 1, 0.8), ("=", 2, 0.8), ("sum\n→", 3, 1.1)):
        ax.text(starts[k] - gap, place + by.shape[0] / 2, text, ha="center", va="center", fontsize=13, color=TEXT)
    _outline(ax, starts[0] + j, middle(read) + i, by.shape[1], by.shape[0])
    _outline(ax, starts[3] + j, middle(result) + i, 1, 1)
    headline(figure, HEADLINES[which].format(i=i, j=j))
    footnote(figure, f"{which}[{i}, {j}] = {_sum_in_words(window, by)} = {number(result[i, j])}. "
             "White is 0, blue above, orange below." + (" Hatched: zeros." if turned else ""))  # fmt: skip
    return saved(figure, save)


@in_words
def winograd_figure(d: Any = None, g: Any = None, save: Any = None) -> Figure:
    """Winograd's F(2, 3): two outputs of a kernel of three weights from four products instead of six.

        winograd_figure([1, 2, 0, 3], [1, 2, 3], save="winograd.png")

    d: four pixels. g: three weights. Source: conv_winograd.py. Raises InputError for other counts.
    """
    d = _checked("d", [[2, 1, 3, 0]] if d is None else np.reshape(d, (1, -1)))[0]
    g = _checked("g", [[1, 2, -1]] if g is None else np.reshape(g, (1, -1)))[0]
    for name, values, count in (("d", d, 4), ("g", g, 3)):
        if len(values) != count:
            raise InputError(name, "it does not fit.", f"{count} numbers.", f"{len(values)} numbers.",
                             "pass four pixels and three weights.")  # fmt: skip
    at, from_g, from_d = (np.array(matrix, np.float64) for matrix in MATRICES[2])
    v, u = from_d @ d, from_g @ g
    products = u * v + 0.0  # no −0
    y = at @ products
    figure = new_figure(10.2, 5.3)
    ax = figure.add_subplot()
    ax.set(xlim=(-0.5, 18.3), ylim=(10.1, -1.2), aspect="equal")
    ax.set_axis_off()
    colours = _Colours(float(max(np.abs(part).max() for part in (d, g, u, v, products, y))) or 1.0)
    tables = ((d, 0.7, 0, "pixels d"), (g, 0.7, 5.9, "kernel g"), (v, 6.4, 0, "Bᵀ d"), (u, 6.4, 5.4, "G g"),
              (products, 9.6, 2.7, "products"), (y, 16.4, 3.7, "y"))  # fmt: skip
    for values, left, upper, name in tables:
        _table(ax, values.reshape(-1, 1), left, upper, colours, name)
    for left, upper, texts in (
        (0.3, 0, ("d0", "d1", "d2", "d3")),
        (0.3, 5.9, ("g0", "g1", "g2")),
        (6.1, 0, ("d0 − d2", "d1 + d2", "d2 − d1", "d1 − d3")),
        (6.1, 5.4, ("g0", "(g0 + g1 + g2) / 2", "(g0 − g1 + g2) / 2", "g2")),
        (9.3, 2.7, ("m0", "m1", "m2", "m3")),
        (16.1, 3.7, ("y0 = m0 + m1 + m2", "y1 = m1 − m2 − m3")),
    ):
        for k, text in enumerate(texts):
            ax.text(left, upper + k + 0.52, text, ha="right", va="center", fontsize=9, color=TEXT)
    ax.text(8.1, 4.7, "×", ha="center", va="center", fontsize=16, color=TEXT)
    ax.text(11.4, 4.7, "→", ha="center", va="center", fontsize=16, color=TEXT)
    _outline(ax, 9.6, 2.7, 1, 4)
    headline(figure, "Two outputs from four products instead of six")
    direct = [f"y{k} = {_sum_in_words(d[k : k + 3], g)} = {number(float(d[k : k + 3] @ g))}" for k in (0, 1)]
    footnote(figure, f"Directly, with six products: {direct[0]}; {direct[1]}. Adding is cheap, and what depends on the "
             "kernel alone is computed once for the whole image. Framed: the only products of pixels with weights.")
    return saved(figure, save)


def _checked(name: str, table: Any) -> np.ndarray:
    """A table of finite numbers, in float64."""
    array = check_array(name, table)
    check_finite(name, array, array.dtype)
    if array.ndim != 2:
        raise InputError(name, "it does not fit.", "a table of numbers, (height, width).", f"shape {array.shape}.",
                         "draw one channel: x[:6, :6, 0].")  # fmt: skip
    return array.astype(np.float64)


def _sum_in_words(window: np.ndarray, by: np.ndarray) -> str:
    """ "1·2 + 3·(−1)": the products of two tables, row by row."""
    pairs = zip(window.ravel(), by.ravel(), strict=True)
    return " + ".join(f"{number(a)}·{number(b) if b >= 0 else f'({number(b)})'}" for a, b in pairs)


def _letters(ax: Axes, shape: tuple[int, ...], x: float, y: float, direction: int) -> None:
    """a, b, c … in the corners of a table's cells, in reading order or (direction -1) backwards."""
    for k, (i, j) in enumerate(list(np.ndindex(*shape))[::direction]):
        ax.text(x + j + 0.08, y + i + 0.06, LETTERS[k], va="top", fontsize=7, color=WRONG)


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
