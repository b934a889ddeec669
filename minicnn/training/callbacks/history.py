"""What `fit` returns: the losses and metrics of every epoch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import numpy as np

from minicnn import html
from minicnn.training.callbacks.base import Callback, Logs

WIDTH, HEIGHT = 300, 150  # of a curve's plot


class History(Callback):
    """Records every epoch's logs.

    epoch: the epochs' numbers, from 0. history: {"loss": [one value an epoch], "val_loss": [...], ...}.
    params: {"verbose", "epochs", "steps"} of the call of fit.
    """

    state_keys = ("epoch", "history")

    def __init__(self) -> None:
        super().__init__()
        self.epoch: list[int] = []
        self.history: dict[str, list[Any]] = {}

    def on_train_begin(self, logs: Logs = None) -> None:
        self.epoch = []

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        self.epoch.append(epoch)
        for name, value in (logs or {}).items():
            self.history.setdefault(name, []).append(value)
        self.model.history = self

    def _repr_html_(self) -> str:
        """Curves and a table of the epochs, which notebooks show."""
        curves = {str(name): list(values) for name, values in self.history.items()}
        count = max(map(len, curves.values()), default=0)
        if not count:
            return html.page(html.line("No epoch is finished yet."))
        # A History that was trained on twice counts its epochs anew, but keeps all values.
        epochs = [epoch + 1 for epoch in self.epoch] if len(self.epoch) == count else list(range(1, count + 1))
        columns = {name: [None] * (count - len(values)) + values for name, values in curves.items()}
        plots = [
            _plot(name, epochs, values, columns.get(f"val_{name}"))
            for name, values in columns.items()
            if name != "learning_rate" and not (name.startswith("val_") and name[4:] in columns)
        ]
        rows = [[str(epoch), *map(_cell, values)] for epoch, *values in zip(epochs, *columns.values(), strict=True)]
        table = html.table(["epoch", *columns], rows, left=0)
        return html.page(
            f'<div style="display:flex;flex-wrap:wrap;gap:16px">{"".join(plots)}</div>',
            f'<div tabindex="0" style="max-height:300px;overflow:auto">{table}</div>',
        )


# ---- curves, for notebooks -------------------------------------------------------------------------------------------


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
        f'stroke="{html.LINE}" stroke-width="2"',
    )
    drawn = "".join(_curve(values, place, style) for values, style in zip(series, styles, strict=False))
    judged = series[-1]
    at = [i for i, v in enumerate(judged) if math.isfinite(v)]
    note = ""
    if at:
        best = (max if "acc" in name else min)(at, key=lambda i: judged[i])
        x, y = place(best, judged[best])
        drawn += f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="none" stroke="{html.MARK}" stroke-width="1.8"/>'
        note = f"best {html.number(judged[best])}, epoch {epochs[best]}"
    rule = f'<path d="M{left} {bottom + 3}H{right}" stroke="currentColor" stroke-opacity=".5"/>'
    texts = [
        (left, 12, "start", name, ' font-weight="bold"'),
        (right, 12, "end", note, ""),
        (left, HEIGHT - 3, "start", f"epoch {epochs[0]}", ""),
        (right, HEIGHT - 3, "end", str(epochs[-1]) if len(epochs) > 1 else "", ""),
        (WIDTH / 2, HEIGHT - 3, "middle", f"range {html.number(low)} to {html.number(high)}", ""),
    ]
    words = "".join(
        f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" fill="currentColor"{more}>{escape(text)}</text>'
        for x, y, anchor, text, more in texts
    )
    key = "training dashed" + ("" if validation is None else ", validation solid")
    label = escape(f"{name} by epoch: {key}; {note}")
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


def _cell(value: Any) -> str:
    """A value of the logs: a number in four digits, nothing where there is none, else its text."""
    if value is None:
        return ""
    number = _floats([value])[0]
    is_text = math.isnan(number) and not isinstance(value, (float, np.floating))
    return str(value)[:40] if is_text else html.number(number)
