"""Where windows fall: padding and strides on one axis, and how much of the image one output sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from minicnn.arguments import in_words
from minicnn.errors import InputError
from minicnn.inspect.figures.drawing import (
    FAINT,
    RIGHT,
    TEXT,
    WRONG,
    check_count,
    check_index,
    counted,
    footnote,
    headline,
    new_figure,
    saved,
)
from minicnn.inspect.figures.maps import _window_of
from minicnn.kernels.geometry import Padding, output_size, pair, resolve_padding

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_PIXELS = 40


@in_words
def padding_figure(
    sizes: Sequence[int] = (5, 6), kernel: int = 3, stride: int = 2, padding: Padding = "same", save: Any = None
) -> Figure:
    """The windows on one axis for images of these sizes: where they start, which cells are added, what is left out.

        padding_figure((5, 6, 7), kernel=3, stride=2, save="padding.png")

    kernel, stride, padding: as of Conv2D. Raises InputError for more than 40 pixels, or where no window fits.
    """
    check_count("kernel", kernel)
    check_count("stride", stride)
    rows = []
    for size in sizes:
        check_count("sizes", size)
        pads = resolve_padding(size, kernel, stride, 1, padding)
        out, (low, high) = output_size(size, kernel, stride, 1, pads)[0], pads[0]
        if out < 1 or size > MAX_PIXELS:
            raise InputError("padding_figure", "this cannot be drawn.", f"{kernel} to {MAX_PIXELS} pixels.", f"{size}.",
                             "choose other sizes.")  # fmt: skip
        rows.append((int(size), int(out), int(low), int(high)))
    left, right = max(row[2] for row in rows), max(size + high for size, _, _, high in rows)
    figure = new_figure(0.42 * (left + right) + 5.2, 1.4 * len(rows) + 1.1)
    ax = figure.add_subplot()
    ax.set(xlim=(-left - 0.3, right + 9.5), ylim=(3.4 * len(rows) - 1.2, -0.6), aspect="equal")
    ax.set_axis_off()
    for k, (size, out, low, high) in enumerate(rows):
        y = 3.4 * k
        for cell in range(-low, size + high):
            inside = 0 <= cell < size
            _cell(ax, cell, y, str(cell) if inside else "0", padding=not inside)
        for window in range(out):  # brackets below, two lanes so that neighbours stay apart
            start, lane = window * stride - low, y + 1.35 + 0.42 * (window % 2)
            ax.plot([start + 0.1, start + kernel - 0.1], [lane, lane], color=(RIGHT, WRONG)[window % 2], linewidth=3.5,
                    solid_capstyle="butt")  # fmt: skip
        dropped = max(0, low + size + high - ((out - 1) * stride + kernel))
        text = f"size {size}: {counted(out, 'window')}; zeros added: {low} on the left, {high} on the right"
        if dropped:
            text += f"\n{counted(dropped, 'cell')} at the end: under no window"
        ax.text(size + high + 0.6, y + 0.5, text, va="center", fontsize=9.5, color=TEXT)
    uneven = any(low != high for _, _, low, high in rows)
    headline(figure, f"Padding {padding}, window {kernel}, stride {stride}")
    footnote(figure, "One axis of an image; hatched: zeros of the padding. Each bar is a window, and gives one output."
             + (" An odd zero goes to the right (and to the bottom), as in Keras." if uneven else ""))  # fmt: skip
    return saved(figure, save)


@in_words
def receptive_field_figure(model: Any, place: int | None = None, save: Any = None) -> Figure:
    """Which pixels one output of the last layer with maps sees, layer by layer, on one axis: its receptive field.

        receptive_field_figure(model, save="receptive_field.png")

    model: a built Sequential that begins with convolutions or poolings, of images at most 40 pixels wide. place: which
    output, None for the middle one. Raises InputError.
    """
    nodes = getattr(model, "nodes", None)
    if not nodes or not getattr(model, "built", False):
        raise InputError("model", "this is no model that has been built.", "a Sequential with an input shape.",
                         f"{type(model).__name__}.", "begin it with Input((28, 28, 1)).")  # fmt: skip
    shape = model.sample_shape
    width, rows = shape[1] if len(shape) == 3 else 0, []
    for i, node in enumerate(nodes):
        window = _window_of(node.layer) if len(shape) == 3 and node.inputs == (i - 1,) else None
        if window is None:  # no maps any more, or a branch
            break
        (_, k), (_, s), (_, d) = (pair(value) for value in window[:3])
        low = resolve_padding(shape[:2], window[0], window[1], window[2], window[3])[1][0]
        shape, before = node.layer.output_shape(shape), shape
        if (k, s, shape[1]) != (1, 1, before[1]):
            rows.append((node.key, shape[1], s, (k - 1) * d, low))
    if not rows or width > MAX_PIXELS:
        raise InputError("receptive_field_figure", "this model cannot be drawn.",
                         f"convolutions or poolings first, on at most {MAX_PIXELS} pixels.",
                         f"{width} pixels, {counted(len(rows), 'such layer')}.",
                         "use a small model that begins with Conv2D.")  # fmt: skip
    place = rows[-1][1] // 2 if place is None else check_index("place", place, rows[-1][1], "output")
    seen = [(place, place)]  # the first and last cell that it depends on, from its own layer down to the image
    for _, _, stride, reach, low in reversed(rows):
        first, last = seen[-1]
        seen.append((first * stride - low, last * stride - low + reach))
    field = seen[-1][1] - seen[-1][0] + 1
    outside = max(0, -seen[-1][0]) + max(0, seen[-1][1] - width + 1)

    figure = new_figure(0.26 * width + 3.6, 0.7 * len(seen) + 1.2)
    ax = figure.add_subplot()
    ax.set(xlim=(-0.2 * width - 3.2, width + 0.5), ylim=(-0.4, 2.6 * len(seen) - 1.2), aspect="equal")
    ax.set_axis_off()
    below: list[float] = []
    names, step = ["image", *(row[0] for row in rows)], 1  # step: how many pixels apart two cells of a row are
    for k, (first, last) in enumerate(reversed(seen)):
        size, y = (width, 0.0) if k == 0 else (rows[k - 1][1], 2.6 * k)
        step *= 1 if k == 0 else rows[k - 1][2]
        first, last = max(first, 0), min(last, size - 1)
        for cell in range(size):
            _cell(ax, step * cell, y, "", seen=first <= cell <= last, width=step)
        text = f"{names[k]}: {last - first + 1}"
        ax.text(-0.6, y + 0.5, text, ha="right", va="center", fontsize=9, color=TEXT, parse_math=False)
        ends = [step * first, step * (last + 1)]
        for end, end_below in zip(ends, below, strict=False):
            ax.plot([end, end_below], [y, y - 1.6], color=FAINT, linewidth=1)
        below = ends
    headline(figure, f"One output of {names[-1]} sees {field}×{field} pixels: its receptive field")
    text = "One axis; blue: what the output in the top row depends on, with the number of cells."
    if outside:
        text += f" In the padding: {counted(outside, 'cell')} more."
    footnote(figure, text)
    return saved(figure, save)


def _cell(
    ax: Axes, x: float, y: float, text: str, padding: bool = False, seen: bool = False, width: float = 1
) -> None:
    from matplotlib.patches import Rectangle

    fill, edge = ("#8fbbee", RIGHT) if seen else ("white", "#b4bbc5")
    hatch = "////" if padding else None
    ax.add_patch(Rectangle((x, y), width, 1, facecolor=fill, edgecolor=edge, linewidth=0.8, hatch=hatch,
                           zorder=2 if seen else 1))  # fmt: skip
    if text:
        ax.text(x + 0.5, y + 0.52, text, ha="center", va="center", fontsize=9, color=FAINT if padding else TEXT)
