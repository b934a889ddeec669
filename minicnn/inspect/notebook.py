"""What notebooks show of a model, history, trace, profile and gradient check, and the page of a trace in a frame.

Notebooks call `_repr_html_` of a cell's last value; those methods end here. All of it is static HTML with inline
styles: no script, no style sheet, nothing loaded. Text takes its colour from the notebook and has no background, so
that it can be read in light and dark themes; where a colour carries meaning, the foreground is set with the background,
and a word or a mark says the same. Names come from the user and are escaped. The same object gives the same HTML.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from minicnn.errors import InputError
from minicnn.inspect.profile import HEAD, profile
from minicnn.summary import trainable_params

if TYPE_CHECKING:
    from minicnn.gradcheck import Report
    from minicnn.inspect.trace import LayerTrace, Trace
    from minicnn.models import Sequential
    from minicnn.training.history import History

LINE, MARK = "#3b82d6", "#d9483b"  # can be told from white and from black
GOOD, BAD, UNSURE = "#1f7a3d", "#c62f22", "#8a5a00"  # under white letters
MOST_SAMPLES = 6
WIDTH, HEIGHT = 300, 150  # of a curve's plot


def model_html(model: Sequential) -> str:
    """The table of `summary()` with its totals; of an unbuilt model, the layers alone."""
    head, rows = ["Layer", "Type", "Output shape", "Parameters"], []
    shapes = model.shapes[1:] if model.built else [None] * len(model.layers)
    for layer, shape in zip(model.layers, shapes, strict=True):
        count = f"{layer.count_params():,}" if model.built else "?"
        frozen = "" if layer.trainable else " (frozen)"
        rows.append([layer.name, type(layer).__name__, "?" if shape is None else _shape(shape), count + frozen])
    if not model.built:
        end = "Not built: give the first layer an input_shape, begin with Input, or show the model some data."
    else:
        total, trainable = model.count_params(), trainable_params(model)
        rows.append(["Total", "", "", f"{total:,}"])
        end = (
            f"{trainable:,} parameters are trained, {total - trainable:,} are not. Input: {_shape(model.input_shape)}."
        )
    return _page(_title(model.name), _table(head, rows, left=3, total=model.built), _line(end))


def history_html(history: History) -> str:
    """A small plot of each measure, training and validation, and a table of the epochs."""
    curves = {str(name): list(values) for name, values in history.history.items()}
    count = max(map(len, curves.values()), default=0)
    if not count:
        return _page(_line("No epoch is finished yet."))
    # A History that was trained on twice counts its epochs anew, but keeps all values.
    epochs = [epoch + 1 for epoch in history.epoch] if len(history.epoch) == count else list(range(1, count + 1))
    columns = {name: [None] * (count - len(values)) + values for name, values in curves.items()}
    plots = [
        _plot(name, epochs, values, columns.get(f"val_{name}"))
        for name, values in columns.items()
        if name != "learning_rate" and not (name.startswith("val_") and name[4:] in columns)
    ]
    rows = [[str(epoch), *map(_cell, values)] for epoch, *values in zip(epochs, *columns.values(), strict=True)]
    table = _table(["epoch", *columns], rows, left=0)
    return _page(
        f'<div style="display:flex;flex-wrap:wrap;gap:16px">{"".join(plots)}</div>',
        f'<div tabindex="0" style="max-height:300px;overflow:auto">{table}</div>',
    )


def profile_html(p: profile) -> str:
    """The table that print(p) shows."""
    return _page(_title(p.headline), _table(HEAD, p.cells(), left=1, total=True))


def trace_html(t: Trace) -> str:
    """What was traced, the predictions, the loss before and after, and a row for each layer."""
    way = "one training step" if t.optimizer is not None else "the way forward"
    mode = "" if t.training else ", in evaluation mode"
    n = len(t.x)
    lines = [_line(f"{way}{mode}, on {n} {'sample' if n == 1 else 'samples'} of {_shape(t.x.shape[1:])}.")]
    if t.loss is not None and t.loss_after is not None and t.optimizer is not None and t.loss_function is not None:
        kind = t.loss_function["class_name"] + (f", of which penalty {_number(t.penalty)}" if t.penalty else "")
        before, after, optimizer = _number(t.loss), _number(t.loss_after), t.optimizer
        rate, step = _number(optimizer["learning_rate"]), optimizer["iterations"] + 1
        lines.append(_line(f"Loss {before} before the step, {after} after it, on the same data ({kind})."))
        lines.append(_line(f"{optimizer['class_name']}, step {step}, learning rate {rate}."))
    return _page(_title(t.model_name), *lines, _predictions(t), _layers(t))


def report_html(report: Report) -> str:
    """The table of a gradient check, with its verdicts and notes."""
    head, *rows = report.rows
    cells = [[*map(html.escape, row[:-1]), _verdict(row[-1])] for row in rows]
    table = _table(head, cells, left=2, escaped=True) if rows else ""
    badge = _badge("✓", report.verdict, GOOD) if report.ok else _badge("✗", report.verdict, BAD)
    return _page(_title(f"Gradient check of {report.title}"), table, *map(_line, report.notes), f"<div>{badge}</div>")


@dataclass(frozen=True)
class Frame:
    """A page inside a notebook: its script runs, but it can reach neither the notebook nor the network.

    page: the HTML. height: in pixels, 100 or more.
    """

    title: str
    page: str
    height: int

    def _repr_html_(self) -> str:
        # Without allow-same-origin the page has an origin of its own, and so no access to the notebook around it.
        return (
            f'<iframe title="{html.escape(self.title)}" sandbox="allow-scripts" '
            f'style="width:100%;height:{self.height}px;border:1px solid rgba(128,128,128,.5)" '
            f'srcdoc="{html.escape(self.page)}"></iframe>'
        )

    def __repr__(self) -> str:
        return f"<{self.title}: notebooks show it; elsewhere write it with trace.to_html(path)>"


def show(t: Trace, height: int = 720, image: int = 0) -> Frame:
    """The page about sample `image`. Raises InputError for a height below 100, and as page_html does."""
    from minicnn.inspect.page.build import page_html

    if isinstance(height, bool) or not isinstance(height, (int, np.integer)) or height < 100:
        raise InputError(
            "show", "the height does not fit.", "a whole number of pixels, 100 or more.", f"height={height!r}.",
            "for example t.show(height=720).",
        )  # fmt: skip
    return Frame(f"{t.model_name}: inside one step", page_html(t, image), int(height))


# ---- a trace's tables ------------------------------------------------------------------------------------------------


def _predictions(t: Trace) -> str:
    """The first samples, with what the model says of them."""
    n, y, truth = len(t.x), t.y_pred, t.y_true
    kind = "" if t.loss_function is None else t.loss_function["class_name"]
    shares = y.ndim == 2 and y.shape[1] > 1 and bool(np.all(y >= 0) and np.allclose(y.sum(axis=1), 1, atol=1e-3))
    of_classes = y.ndim == 2 and y.shape[1] > 1 and (shares or "CategoricalCrossentropy" in kind)
    head = ["sample", "prediction"] + ([] if truth is None else ["truth"])
    head += (["probability" if shares else "output"] if of_classes else []) + ([] if t.losses is None else ["loss"])
    rows = []
    for i in range(min(n, MOST_SAMPLES)):
        k = int(y[i].argmax()) if of_classes else 0
        row = [str(i), _class(t, k) if of_classes else _values(y[i])]
        if truth is not None and of_classes:
            row.append(_class(t, int(truth[i] if truth.ndim == 1 else truth[i].argmax())))
        elif truth is not None:
            row.append(_values(truth[i]))
        if of_classes:
            row.append(f"{100 * y[i, k]:.1f} %" if shares else _number(y[i, k]))
        if t.losses is not None:
            row.append(_values(t.losses[i]))
        rows.append(row)
    more = _line(f"and {n - MOST_SAMPLES} more samples") if n > MOST_SAMPLES else ""
    return _table(head, rows, left=2 if truth is None else 3) + more


def _layers(t: Trace) -> str:
    back = t.optimizer is not None
    head = ["Layer", "Type", "Output shape", "Output", "Zeros"]
    head += ["Gradient", "Parameters", "Update / weight"] if back else []
    rows = []
    for layer in t.layers:
        row = [layer.key, layer.kind, _shape(layer.y.shape), _range(layer.y), _zeros(layer.y)]
        if back:
            count = sum(p.size for p in layer.params.values())
            row += ["" if layer.dy is None else _range(layer.dy), f"{count:,}" if count else "", _step_ratio(layer)]
        rows.append(row)
    notes = ""
    if back:
        last = "; of the last layer, the one before its activation, computed together with the loss" if t.fused else ""
        notes = _line(f"Gradient: the loss's derivative by the output{last}.")
        notes += _line("Update / weight: the length of the step over the length of the weights.")
    return _table(head, rows, left=3) + notes


def _class(t: Trace, k: int) -> str:
    return t.class_names[k] if t.class_names is not None and k < len(t.class_names) else f"class {k}"


def _values(array: Any) -> str:
    """Up to four numbers."""
    flat = np.asarray(array).reshape(-1)
    return ", ".join(map(_number, flat[:4])) + (" …" if flat.size > 4 else "")


def _range(array: np.ndarray) -> str:
    """The smallest and the largest number, and how many are none."""
    good = array[np.isfinite(array)]
    text = f"{_number(good.min())} to {_number(good.max())}" if good.size else ""
    bad = array.size - good.size
    return "; ".join(part for part in (text, f"{bad} NaN or infinite" if bad else "") if part)


def _zeros(array: np.ndarray) -> str:
    return f"{100 * float(np.mean(array == 0)):.1f} %" if array.size else ""


def _step_ratio(layer: LayerTrace) -> str:
    if not layer.applied or not layer.updated:
        return ""
    old = {name: layer.params[name].astype(float) for name in layer.applied}
    step = math.sqrt(sum(float(np.square(layer.updated[name] - p).sum()) for name, p in old.items()))
    size = math.sqrt(sum(float(np.square(p).sum()) for p in old.values()))
    return f"{step / size:.1e}" if size else ""


# ---- curves ----------------------------------------------------------------------------------------------------------


def _plot(name: str, epochs: Sequence[int], train: Sequence[Any], validation: Sequence[Any] | None) -> str:
    """One measure by epoch: training dashed, validation solid, the best epoch in a ring. SVG."""
    series = [_floats(train)] + ([] if validation is None else [_floats(validation)])
    found = [v for values in series for v in values if math.isfinite(v)]
    if not found:
        return ""
    low, high = min(found), max(found)
    left, right, top, bottom = 8, WIDTH - 8, 26, HEIGHT - 18

    def place(i: int, value: float) -> tuple[float, float]:
        across = i / (len(epochs) - 1) if len(epochs) > 1 else 0.5
        up = (value - low) / (high - low) if high > low else 0.5
        return left + (right - left) * across, bottom - (bottom - top) * up

    styles = (
        'stroke="currentColor" stroke-opacity=".7" stroke-dasharray="5 3" stroke-width="1.6"',
        f'stroke="{LINE}" stroke-width="2"',
    )
    drawn = "".join(_curve(values, place, style) for values, style in zip(series, styles, strict=False))
    judged = series[-1]
    at = [i for i, v in enumerate(judged) if math.isfinite(v)]
    note = ""
    if at:
        best = (max if "acc" in name else min)(at, key=lambda i: judged[i])
        x, y = place(best, judged[best])
        drawn += f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="none" stroke="{MARK}" stroke-width="1.8"/>'
        note = f"best {_number(judged[best])}, epoch {epochs[best]}"
    rule = f'<path d="M{left} {bottom + 3}H{right}" stroke="currentColor" stroke-opacity=".5"/>'
    texts = [
        (left, 12, "start", name, ' font-weight="bold"'),
        (right, 12, "end", note, ""),
        (left, HEIGHT - 3, "start", f"epoch {epochs[0]}", ""),
        (right, HEIGHT - 3, "end", str(epochs[-1]) if len(epochs) > 1 else "", ""),
        (WIDTH / 2, HEIGHT - 3, "middle", f"range {_number(low)} to {_number(high)}", ""),
    ]
    words = "".join(
        f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" fill="currentColor"{more}>{html.escape(text)}</text>'
        for x, y, anchor, text, more in texts
    )
    key = "training dashed" + ("" if validation is None else ", validation solid")
    label = html.escape(f"{name} by epoch: {key}; {note}")
    svg = (
        f'<svg role="img" aria-label="{label}" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'font-size="11" font-family="sans-serif" style="color:inherit;background:none">{drawn}{rule}{words}</svg>'
    )
    return f'<div>{svg}<div style="font-size:11px;opacity:.8;padding-left:8px">{key}</div></div>'


def _curve(values: Sequence[float], place: Any, style: str) -> str:
    """A line through the finite values, broken where there is none; a dot for one that stands alone."""
    points, pen = [], "M"
    for i, value in enumerate(values):
        if math.isfinite(value):
            x, y = place(i, value)
            points.append(f"{pen}{x:.1f} {y:.1f}" + ("h.01" if pen == "M" else ""))
        pen = "L" if math.isfinite(value) else "M"
    return f'<path d="{"".join(points)}" fill="none" stroke-linecap="round" {style}/>' if points else ""


def _floats(values: Iterable[Any]) -> list[float]:
    """As numbers; what is none becomes NaN."""
    result = []
    for value in values:
        try:
            result.append(float(value))
        except (TypeError, ValueError):
            result.append(math.nan)
    return result


# ---- pieces ----------------------------------------------------------------------------------------------------------


def _page(*parts: str) -> str:
    style = "font-family:sans-serif;font-size:13px;color:inherit;background:none;overflow-x:auto"
    return f'<div style="{style}">{"".join(parts)}</div>'


def _title(text: str) -> str:
    return f'<div style="font-weight:bold;padding:2px 0">{html.escape(text)}</div>'


def _line(text: str) -> str:
    return f'<div style="padding:2px 0">{html.escape(text)}</div>'


def _table(
    head: Sequence[str], rows: Sequence[Sequence[str]], left: int, total: bool = False, escaped: bool = False
) -> str:
    """left: how many columns are words. total: the last row is a sum. escaped: the rows are HTML already."""

    def line(cells: Sequence[str], tag: str, border: str) -> str:
        sides = ("left" if i < left else "right" for i in range(len(cells)))
        styles = (f"padding:2px 10px;text-align:{side};white-space:nowrap;border:0;{border}" for side in sides)
        made = (f'<{tag} style="{style}">{cell}</{tag}>' for style, cell in zip(styles, cells, strict=True))
        return f"<tr>{''.join(made)}</tr>"

    body = [[cell if escaped else html.escape(cell) for cell in row] for row in rows]
    last = len(body) - 1 if total else None
    lines = [line(row, "td", "border-top:1px solid currentColor" if i == last else "") for i, row in enumerate(body)]
    first = line([html.escape(cell) for cell in head], "th", "border-bottom:1px solid currentColor")
    return (
        '<table style="border-collapse:collapse;font-size:13px;color:inherit;background:none;margin:6px 0">'
        f"<thead>{first}</thead><tbody>{''.join(lines)}</tbody></table>"
    )


def _verdict(word: str) -> str:
    if word == "ok":
        return _badge("✓", word, GOOD)
    return _badge("✗", word, BAD) if word == "WRONG" else _badge("?", word, UNSURE)


def _badge(mark: str, text: str, colour: str) -> str:
    return f'<b style="background:{colour};color:#fff;padding:0 6px">{mark} {html.escape(text)}</b>'


def _shape(shape: Sequence[int] | None) -> str:
    return "×".join(map(str, shape)) if shape else "one number"


def _number(value: Any) -> str:
    return f"{float(value):.4g}"


def _cell(value: Any) -> str:
    """A value of the logs: a number in four digits, nothing where there is none, else its text."""
    if value is None:
        return ""
    number = _floats([value])[0]
    return str(value)[:40] if math.isnan(number) and not isinstance(value, (float, np.floating)) else _number(number)
