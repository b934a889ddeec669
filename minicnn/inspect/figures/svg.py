"""The architecture of a model as a small SVG: a box for each layer, with its output drawn to scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minicnn.arguments import in_words
from minicnn.errors import InputError
from minicnn.files import atomic_write, checked_path
from minicnn.inspect.figures.drawing import FAINT, OTHER, TEXT, counted, shortened
from minicnn.layers.network import Network

ROW, GAP, TOP, LEFT, WIDTH, BOX = 54, 18, 64, 150, 640, 466
GREY = "#4d5560"
FILLS = {
    "Conv2D": "#dbe8fa", "Dense": "#fde5cf", "MaxPooling2D": "#e3f1e6", "AveragePooling2D": "#e3f1e6",
    "GlobalAveragePooling2D": "#e3f1e6", "BatchNormalization": "#efe6f8", "Sequential": "#f7e3ea", "Model": "#f7e3ea",
}  # fmt: skip


@in_words
def architecture(model: Any, save: Any = None) -> str:
    """The layers from the input to the classes as an SVG text: name, kind, output shape, parameters.

        architecture(model, save="architecture.svg")

    A network that branches: what a layer reads besides, or instead of, the layer above it comes along the right side.
    On the left each output is drawn: an image as a block as high and wide as its pixels, as deep as its channels (on a
    logarithmic scale), a vector as a bar. save: a path that ends in .svg. Raises InputError for an unbuilt model.
    """
    if not isinstance(model, Network):
        raise InputError("architecture", "this is no model.", "a Sequential.", f"{type(model).__name__}.",
                         "pass a model.")  # fmt: skip
    if save is not None and Path(checked_path("save", save)).suffix.lower() != ".svg":
        raise InputError("save", "this figure is an SVG.", "a path that ends in .svg.", f"{str(save)!r}.",
                         "for example 'architecture.svg'.")  # fmt: skip
    shapes = model.shapes
    rows: list[tuple[str, str, str, Sequence[int], int]] = [("input", "", "", shapes[0], 0)]
    ways = []  # (row, row that reads it) for all that are no neighbours
    seen: set[int] = set()
    for i, ((layer, inputs), output) in enumerate(zip(model.uses, shapes[1:], strict=True)):
        again = id(layer) in seen
        says = "the same weights once more" if again else _says(layer)
        rows.append((layer.name, type(layer).__name__, says, output, 0 if again else layer.count_params()))
        seen.add(id(layer))
        ways += [(j + 1, i + 1) for j in inputs if j != i - 1]
    lanes = _lanes(ways)
    width = WIDTH + 14 * (max(lanes.values(), default=-1) + 1)
    names = getattr(model, "class_names", None)
    height = TOP + len(rows) * (ROW + GAP) + (34 if names else 12)
    total = model.count_params()
    side = max((max(s[:2]) for s in shapes if len(s) == 3), default=1)
    longest = max((s[0] for s in shapes if len(s) == 1), default=1)
    heading = f"{shortened(model.name, 30)}: {counted(len(seen), 'layer')}, {counted(total, 'parameter')}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="Helvetica, Arial, sans-serif" role="img">',
        f"<title>{_safe(f'Architecture of {model.name}')}</title>",
        f'<rect width="{width}" height="{height}" fill="white"/>',
        _text(20, 30, heading, 16, TEXT, True),
        _text(20, 48, _heaviest(rows, total), 12, GREY),
    ]
    for i, (name, kind, says, shape, count) in enumerate(rows):
        y = TOP + i * (ROW + GAP)
        middle = LEFT + BOX / 2
        if i and i - 2 in model.uses[i - 1][1]:
            arrow = f"M{middle} {y - GAP + 1}V{y - 3}m-4 -5l4 5l4 -5"
            parts.append(f'<path d="{arrow}" fill="none" stroke="{FAINT}" stroke-width="1.4"/>')
        parts += _block(shape, 74, y + ROW / 2, side, longest)
        fill = FILLS.get(kind, "#f1f3f6")
        parts.append(f'<rect x="{LEFT}" y="{y}" width="{BOX}" height="{ROW}" rx="6" fill="{fill}" stroke="{OTHER}"/>')
        parts.append(_text(LEFT + 14, y + 23, shortened(name, 26), 14, TEXT, True))
        about = f"{kind}: {says}" if says and i else kind or "one sample"
        parts.append(_text(LEFT + 14, y + 41, shortened(about, 56), 12, GREY))
        parts.append(_text(LEFT + BOX - 14, y + 23, _size(shape), 14, TEXT, True, "end"))
        words = counted(count, "parameter") if count else "no parameters" if i else ""
        parts.append(_text(LEFT + BOX - 14, y + 41, words, 12, GREY, False, "end"))
    for (start, end), lane in lanes.items():
        right, x = LEFT + BOX, LEFT + BOX + 14 * (lane + 1)
        y0, y1 = (TOP + row * (ROW + GAP) + ROW / 2 + shift for row, shift in ((start, 10), (end, -10)))
        way = f"M{right} {y0}H{x - 5}q5 0 5 5V{y1 - 5}q0 5 -5 5H{right + 3}m5 -4l-5 4l5 4"
        parts.append(f'<path d="{way}" fill="none" stroke="{GREY}" stroke-width="1.4"/>')
    if names:
        words = shortened(f"{counted(len(names), 'class', 'classes')}: " + ", ".join(map(str, names)), 104)
        parts.append(_text(20, height - 18, words, 12, TEXT))
    svg = "\n".join([*parts, "</svg>", ""])
    if save is not None:
        with atomic_write(save) as file:
            file.write(svg.encode())
    return svg


def _lanes(ways: list[tuple[int, int]]) -> dict[tuple[int, int], int]:
    """How far to the right each way runs: short ones inside, and no two on one line where they would meet."""
    lanes: dict[tuple[int, int], int] = {}
    for way in sorted(set(ways), key=lambda way: (way[1] - way[0], way)):
        taken = {lane for other, lane in lanes.items() if other[0] < way[1] and way[0] < other[1]}
        lanes[way] = next(lane for lane in range(len(taken) + 1) if lane not in taken)
    return lanes


def _heaviest(rows: list[Any], total: int) -> str:
    """Where the parameters are."""
    name, *_, count = max(rows, key=lambda row: row[-1])
    return f"{100 * count / total:.0f} % of the parameters are in {shortened(name, 30)}" if total else "no parameters"


def _says(layer: Any) -> str:
    """What about a layer the reader wants to know beside its shape."""
    config = vars(layer)
    words = []
    if "kernel_size" in config:
        words.append(f"{_by(layer.kernel_size)} window")
    if "pool_size" in config:
        words.append(f"{_by(layer.pool_size)} window")
    if config.get("strides") not in (None, 1, (1, 1)):
        words.append(f"stride {_by(layer.strides)}")
    if isinstance(config.get("padding"), str) and config["padding"] != "valid":
        words.append(f"padding {layer.padding}")
    if "rate" in config:
        words.append(f"drops {100 * layer.rate:g} % in training")
    name = getattr(config.get("activation"), "name", "linear")
    if name != "linear":
        words.append(name)
    if not layer.trainable:
        words.append("frozen")
    return ", ".join(words)


def _by(value: Any) -> str:
    return "×".join(map(str, value)) if isinstance(value, (tuple, list)) else f"{value}×{value}"


def _size(shape: Sequence[int]) -> str:
    return " × ".join(f"{n:,}" for n in shape)


def _block(shape: Sequence[int], x: float, y: float, side: int, longest: int) -> list[str]:
    """An output drawn around (x, y): an image as a block, a vector as an upright bar."""
    stroke = 'stroke="#5b6b80" stroke-width="1" stroke-linejoin="round"'
    if len(shape) != 3:
        tall = max(4.0, 44 * math.log1p(math.prod(shape)) / math.log1p(max(longest, math.prod(shape))))
        return [f'<rect x="{x - 4:.1f}" y="{y - tall / 2:.1f}" width="8" height="{tall:.1f}" fill="#fde5cf" {stroke}/>']
    h, w, channels = shape
    height, width = (max(3.0, 34 * n / side) for n in (h, w))
    depth = 2 + 7 * math.log2(max(1, channels))
    dx, dy = 0.8 * depth, 0.28 * depth
    left, top = x - (width + dx) / 2, y - (height - dy) / 2
    away, back = f"l{dx:.1f} {-dy:.1f}", f"l{-dx:.1f} {dy:.1f}"
    faces = [
        ("#dbe8fa", f"M{left:.1f} {top:.1f}{away}h{width:.1f}{back}z"),
        ("#8fb4e3", f"M{left + width:.1f} {top:.1f}{away}v{height:.1f}{back}z"),
        ("#b9d3f3", f"M{left:.1f} {top:.1f}h{width:.1f}v{height:.1f}h{-width:.1f}z"),
    ]
    return [f'<path d="{path}" fill="{fill}" {stroke}/>' for fill, path in faces]


def _text(x: float, y: float, text: str, size: int, colour: str, bold: bool = False, anchor: str = "start") -> str:
    weight = ' font-weight="bold"' if bold else ""
    style = f'font-size="{size}" fill="{colour}" text-anchor="{anchor}"{weight}'
    return f'<text x="{x}" y="{y}" {style}>{_safe(text)}</text>'


def _safe(text: str) -> str:
    """Text that stays text: no markup, and none of the characters that XML forbids."""
    legal = "".join(c if c in "\t\n" or c >= " " and not 0xD800 <= ord(c) <= 0xDFFF and ord(c) not in (0xFFFE, 0xFFFF)
                    else "\ufffd" for c in text)  # fmt: skip
    return legal.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
