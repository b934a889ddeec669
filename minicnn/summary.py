"""The table of a model's layers that `summary()` prints, in the form of Keras 3."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Callable
from itertools import zip_longest
from typing import Any

from minicnn import html
from minicnn.errors import visible
from minicnn.layers.conv import Conv2D
from minicnn.layers.core import InputLayer
from minicnn.layers.network import Chain, Network
from minicnn.layers.walk import input_shape_of


def summary(
    model: Any, details: bool = False, print_fn: Callable[[str], Any] | None = None, line_length: int = 0
) -> None:
    """Print one row for each layer: name and class, output shape, parameters; then the totals.

    A Model begins with a row for its input; where it branches, a column tells what each layer reads: "conv2d_1[0][0]"
    is the output of conv2d_1 where it is called first, "conv2d_1[1][0]" where it is called again. details: also the
    multiply-accumulates of one sample's forward pass, the bytes of the layer's output, and the bytes that im2col would
    make of its input (both float32, one sample; of all places where it is used), and which algorithm computes a
    convolution of a batch of 32; and how the counts come about. print_fn: takes each line instead of print.
    line_length: how wide the table is at least.
    """
    shapes, uses = model.shapes, model.uses
    read = [input_shape_of(layer, inputs, shapes) for layer, inputs in uses]
    places: dict[int, list[int]] = {}  # of each layer: the uses
    for i, (layer, _) in enumerate(uses):
        places.setdefault(id(layer), []).append(i)
    header = ["Layer (type)", "Output Shape", "Param #"]
    if details:
        header += ["MACs", "Output bytes", "im2col bytes", "Convolution by"]
    rows, connected = [], _connections(model)
    if not isinstance(model, Chain):
        rows.append([f"{_input_name(model)} (InputLayer)", _shape(shapes[0]), "0"])
        if details:
            rows[0] += ["0", f"{4 * math.prod(shapes[0]):,}", "0", ""]
    for layer in model.layers:
        used = places[id(layer)]
        row = [f"{layer.name} ({type(layer).__name__})", _shape(shapes[used[0] + 1]), f"{layer.count_params():,}"]
        if details:
            row.append(f"{sum(layer.macs(read[i]) for i in used):,}")
            row.append(f"{sum(4 * math.prod(shapes[i + 1]) for i in used):,}")
            row.append(f"{sum(_im2col_bytes(layer, read[i]) for i in used):,}")
            row.append(_algorithm(layer, read[used[0]]))
        rows.append(row)
    if connected is not None:
        header.append("Connected to")
        rows = [[*row, text] for row, text in zip(rows, connected, strict=True)]
    lines = [f'Model: "{model.name}"', *_table(header, rows, _can_print_boxes(print_fn), line_length)]
    trainable, total = trainable_params(model), model.count_params()
    for name, count in (("Total", total), ("Trainable", trainable), ("Non-trainable", total - trainable)):
        lines.append(f" {name} params: {count:,} ({_bytes(4 * count)})")
    if details:
        lines.append(" How they are counted (MACs are multiply-accumulates: one product, added to a sum):")
        for layer in model.layers:
            used = places[id(layer)]
            if layer.params:
                times = f", in each of {len(used)} places" if len(used) > 1 else ""
                lines.append(f"   {_formula(layer, read[used[0]], shapes[used[0] + 1])}{times}")
        lines.append(f" MACs of one sample: {model.macs(model.sample_shape):,}")
    for line in lines:
        (print_fn or print)(visible(line))


def _connections(model: Any) -> list[str] | None:
    """What the input and each layer read, the terms on lines of their own; None where the layers are a chain."""
    uses = model.uses
    if all(inputs == (i - 1,) for i, (_, inputs) in enumerate(uses)) and len(model.layers) == len(uses):
        return None
    calls: Counter[int] = Counter()
    texts: dict[int, list[str]] = {}
    names = [f"{_input_name(model)}[0][0]"]
    for layer, inputs in uses:
        texts.setdefault(id(layer), []).extend(names[j + 1] for j in inputs)
        names.append(f"{layer.name}[{calls[id(layer)]}][0]")
        calls[id(layer)] += 1
    return ["-", *(",\n".join(texts[id(layer)]) for layer in model.layers)]


def _input_name(model: Any) -> str:
    layer = model.input.layer
    return layer.name if isinstance(layer, InputLayer) else "input_layer"  # a model may begin in the middle of another


def _shape(shape: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, (None, *shape)))})"


def summary_html(model: Any) -> str:
    """The table of `summary()` with its totals; of an unbuilt model, the layers alone."""
    head, rows = ["Layer", "Type", "Output shape", "Parameters"], []
    connected = _connections(model) if model.built else None
    shapes = {id(layer): model.shapes[i + 1] for i, (layer, _) in enumerate(model.uses)} if model.built else {}
    for k, layer in enumerate(model.layers):
        count = f"{layer.count_params():,}" if model.built else "?"
        frozen = "" if layer.trainable else " (frozen)"
        shape = html.shape(shapes[id(layer)]) if model.built else "?"
        rows.append([layer.name, type(layer).__name__, shape, count + frozen])
        if connected is not None:
            rows[-1].append(connected[k + 1].replace("\n", " "))
    if not model.built:
        end = "Not built: give the first layer an input_shape, begin with Input, or show the model some data."
    else:
        total, trainable = model.count_params(), trainable_params(model)
        rows.append(["Total", "", "", f"{total:,}"])
        end = f"{trainable:,} parameters are trained, {total - trainable:,} are not."
        end += f" Input: {html.shape(model.sample_shape)}."
    if connected is not None:
        head.append("Connected to")
        rows[-1].append("")
    return html.page(html.title(model.name), html.table(head, rows, left=3, total=model.built), html.line(end))


def _formula(layer: Any, shape: tuple[int, ...], out: tuple[int, ...]) -> str:
    """ "conv2d_1: 3·3·1·16 + 16 = 160 parameters; 28·28 · 3·3·1·16 = 112,896 MACs": a number for each array, and a
    product with each weight at each place of the output."""
    arrays = [*layer.params.values(), *layer.state.values()]
    terms = ["·".join(map(str, array.shape)) or "1" for array in arrays]
    line = f"{layer.name}: {' + '.join(terms)} = {layer.count_params():,} parameters"
    macs, weights, places = layer.macs(shape), layer.params.get("w"), math.prod(out[:-1])
    if weights is not None and macs == weights.size * places:
        line += f"; {'·'.join(map(str, out[:-1]))}{' · ' if out[:-1] else ''}{terms[0]} = {macs:,} MACs"
    return line


def _im2col_bytes(layer: Any, shape: tuple[int, ...]) -> int:
    """What im2col makes of one sample, in float32; of an inner model, all its layers together."""
    if isinstance(layer, Network):
        shapes = layer.shapes
        return sum(_im2col_bytes(inner, input_shape_of(inner, read, shapes)) for inner, read in layer.uses)
    return 4 * layer.im2col_size(shape) if isinstance(layer, Conv2D) else 0


def _algorithm(layer: Any, shape: tuple[int, ...]) -> str:
    if not isinstance(layer, Conv2D):
        return ""
    return layer.choice(shape)[0] if layer.algorithm == "auto" else layer.algorithm


def trainable_params(model: Any) -> int:
    """How many numbers training changes by gradient: parameters of layers that are not frozen."""
    return sum(p.size for layer in model.flat_layers if layer.trainable for p in layer.params.values())


def _table(header: list[str], rows: list[list[str]], boxes: bool, line_length: int = 0) -> list[str]:
    """The lines of a table. A text may have several lines; Param # and what follows stand on the right."""
    split = [[text.split("\n") for text in row] for row in (header, *rows)]
    widths = [max(len(line) for row in split for line in row[i]) + 2 for i in range(len(header))]
    widths[0] += max(0, line_length - sum(widths) - len(widths) - 1)
    left = {0, 1, *(i for i, name in enumerate(header) if name == "Connected to")}

    def rule(left: str, middle: str, right: str, line: str) -> str:
        return left + middle.join(line * width for width in widths) + right

    def cells(row: list[list[str]], bar: str) -> list[str]:
        lines = []
        for parts in zip_longest(*row, fillvalue=""):
            texts = [
                f" {text}".ljust(width) if i in left else f"{text} ".rjust(width)
                for i, (text, width) in enumerate(zip(parts, widths, strict=True))
            ]
            lines.append(bar + bar.join(texts) + bar)
        return lines

    head, *body = split
    if not boxes:
        line = rule("+", "+", "+", "-")
        return [line, *cells(head, "|"), line, *(text for row in body for text in cells(row, "|")), line]
    between = rule("├", "┼", "┤", "─")
    separated = [line for row in body for line in (*cells(row, "│"), between)][:-1]
    top = [rule("┏", "┳", "┓", "━"), *cells(head, "┃"), rule("┡", "╇", "┩", "━")]
    return [*top, *separated, rule("└", "┴", "┘", "─")]


def _can_print_boxes(print_fn: Callable[[str], Any] | None) -> bool:
    if print_fn is not None:
        return True
    try:
        "┏│".encode(getattr(sys.stdout, "encoding", None) or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def _bytes(count: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1024 or unit == "GB":
            break
        count /= 1024
    return f"{count:.2f} {unit}"
