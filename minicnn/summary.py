"""The table of a model's layers that `summary()` prints, in the form of Keras 3."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

from minicnn import html
from minicnn.errors import visible
from minicnn.layers.conv import Conv2D
from minicnn.layers.network import Network


def summary(model: Any, details: bool = False, print_fn: Callable[[str], Any] | None = None) -> None:
    """Print one row for each layer: name and class, output shape, parameters; then the totals.

    details: also the multiply-accumulates of one sample's forward pass, the bytes of the layer's output, and the bytes
    that im2col would make of its input (both float32, one sample), and which algorithm computes a convolution of a
    batch of 32; and how the counts come about. print_fn: takes each line instead of print.
    """
    shapes = model.shapes
    header = ["Layer (type)", "Output Shape", "Param #"]
    if details:
        header += ["MACs", "Output bytes", "im2col bytes", "Convolution by"]
    rows = []
    for layer, shape, out in zip(model.layers, shapes, shapes[1:], strict=False):
        row = [f"{layer.name} ({type(layer).__name__})", f"({', '.join(map(str, (None, *out)))})"]
        row.append(f"{layer.count_params():,}")
        if details:
            row += [f"{layer.macs(shape):,}", f"{4 * math.prod(out):,}", f"{_im2col_bytes(layer, shape):,}"]
            row.append(_algorithm(layer, shape))
        rows.append(row)
    lines = [f'Model: "{model.name}"', *_table(header, rows, _can_print_boxes(print_fn))]
    trainable, total = trainable_params(model), model.count_params()
    for name, count in (("Total", total), ("Trainable", trainable), ("Non-trainable", total - trainable)):
        lines.append(f" {name} params: {count:,} ({_bytes(4 * count)})")
    if details:
        lines.append(" How they are counted (MACs are multiply-accumulates: one product, added to a sum):")
        parts = zip(model.layers, shapes, shapes[1:], strict=False)
        lines += [f"   {_formula(*part)}" for part in parts if part[0].params]
        lines.append(f" MACs of one sample: {model.macs(model.sample_shape):,}")
    for line in lines:
        (print_fn or print)(visible(line))


def summary_html(model: Any) -> str:
    """The table of `summary()` with its totals; of an unbuilt model, the layers alone."""
    head, rows = ["Layer", "Type", "Output shape", "Parameters"], []
    shapes = model.shapes[1:] if model.built else [None] * len(model.layers)
    for layer, shape in zip(model.layers, shapes, strict=True):
        count = f"{layer.count_params():,}" if model.built else "?"
        frozen = "" if layer.trainable else " (frozen)"
        rows.append([layer.name, type(layer).__name__, "?" if shape is None else html.shape(shape), count + frozen])
    if not model.built:
        end = "Not built: give the first layer an input_shape, begin with Input, or show the model some data."
    else:
        total, trainable = model.count_params(), trainable_params(model)
        rows.append(["Total", "", "", f"{total:,}"])
        end = f"{trainable:,} parameters are trained, {total - trainable:,} are not."
        end += f" Input: {html.shape(model.sample_shape)}."
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
        return sum(_im2col_bytes(*pair) for pair in zip(layer.layers, layer.shapes, strict=False))
    return 4 * layer.im2col_size(shape) if isinstance(layer, Conv2D) else 0


def _algorithm(layer: Any, shape: tuple[int, ...]) -> str:
    if not isinstance(layer, Conv2D):
        return ""
    return layer.choice(shape)[0] if layer.algorithm == "auto" else layer.algorithm


def trainable_params(model: Any) -> int:
    """How many numbers training changes by gradient: parameters of layers that are not frozen."""
    return sum(p.size for layer in model.flat_layers if layer.trainable for p in layer.params.values())


def _table(header: list[str], rows: list[list[str]], boxes: bool) -> list[str]:
    widths = [max(len(row[i]) for row in (header, *rows)) + 2 for i in range(len(header))]

    def rule(left: str, middle: str, right: str, line: str) -> str:
        return left + middle.join(line * width for width in widths) + right

    def cells(row: list[str], bar: str) -> str:
        texts = [
            f" {text}".ljust(width) if i < 2 else f"{text} ".rjust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        return bar + bar.join(texts) + bar

    if not boxes:
        line = rule("+", "+", "+", "-")
        return [line, cells(header, "|"), line, *(cells(row, "|") for row in rows), line]
    body = [cells(row, "│") for row in rows]
    between = rule("├", "┼", "┤", "─")
    separated = [line for row in body for line in (row, between)][:-1]
    top = [rule("┏", "┳", "┓", "━"), cells(header, "┃"), rule("┡", "╇", "┩", "━")]
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
