"""What notebooks show of a trace: its tables, and its page in a frame. Their pieces: `minicnn/html.py`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from minicnn import html
from minicnn.errors import InputError
from minicnn.inspect.page.build import page_html
from minicnn.inspect.record import LayerTrace

if TYPE_CHECKING:
    from minicnn.inspect.trace import Trace

MAX_SAMPLES = 6


def trace_html(t: Trace) -> str:
    """What was traced, the predictions, the loss before and after, and a row for each layer."""
    way = "one training step" if t.optimizer is not None else "the forward pass"
    mode = "" if t.training else ", in evaluation mode"
    n = len(t.x)
    lines = [html.line(f"{way}{mode}, on {n} {'sample' if n == 1 else 'samples'} of {html.shape(t.x.shape[1:])}.")]
    if t.loss is not None and t.loss_after is not None and t.optimizer is not None and t.loss_function is not None:
        kind = t.loss_function["class_name"] + (f", of which penalty {html.number(t.penalty)}" if t.penalty else "")
        before, after, optimizer = html.number(t.loss), html.number(t.loss_after), t.optimizer
        rate, step = html.number(optimizer["learning_rate"]), optimizer["iterations"] + 1
        lines.append(html.line(f"Loss {before} before the step, {after} after it, on the same data ({kind})."))
        lines.append(html.line(f"{optimizer['class_name']}, step {step}, learning rate {rate}."))
    return html.page(html.title(t.model_name), *lines, _predictions(t), _layers(t))


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
            f'<iframe title="{escape(self.title)}" sandbox="allow-scripts" '
            f'style="width:100%;height:{self.height}px;border:1px solid rgba(128,128,128,.5)" '
            f'srcdoc="{escape(self.page)}"></iframe>'
        )

    def __repr__(self) -> str:
        return f"<{self.title}: notebooks show it; elsewhere write it with trace.to_html(path)>"


def show(t: Trace, height: int = 720, image: int | None = None) -> Frame:
    """The page about sample `image` (None: that of the largest loss), in a frame.

    Raises InputError for a height below 100, and as page_html does.
    """
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
    for i in range(min(n, MAX_SAMPLES)):
        k = int(y[i].argmax()) if of_classes else 0
        row = [str(i), _class(t, k) if of_classes else _values(y[i])]
        if truth is not None and of_classes:
            row.append(_class(t, int(truth[i] if truth.ndim == 1 else truth[i].argmax())))
        elif truth is not None:
            row.append(_values(truth[i]))
        if of_classes:
            row.append(f"{100 * y[i, k]:.1f} %" if shares else html.number(y[i, k]))
        if t.losses is not None:
            row.append(_values(t.losses[i]))
        rows.append(row)
    more = html.line(f"and {n - MAX_SAMPLES} more samples") if n > MAX_SAMPLES else ""
    return html.table(head, rows, left=2 if truth is None else 3) + more


def _layers(t: Trace) -> str:
    back = t.optimizer is not None
    head = ["Layer", "Type", "Output shape", "Output", "Zeros"]
    head += ["Gradient", "Parameters", "Update / weight"] if back else []
    rows = []
    for layer in t.layers:
        row = [layer.key, layer.kind, html.shape(layer.y.shape), _range(layer.y), _zeros(layer.y)]
        if back:
            count = sum(p.size for p in layer.params.values())
            row += ["" if layer.dy is None else _range(layer.dy), f"{count:,}" if count else "", _step_ratio(layer)]
        rows.append(row)
    notes = ""
    if back:
        last = "; of the last layer, the one before its activation, computed together with the loss" if t.fused else ""
        notes = html.line(f"Gradient: the loss's derivative by the output{last}.")
        notes += html.line("Update / weight: the length of the step over the length of the weights.")
    return html.table(head, rows, left=3) + notes


def _class(t: Trace, k: int) -> str:
    return t.class_names[k] if t.class_names is not None and k < len(t.class_names) else f"class {k}"


def _values(array: Any) -> str:
    """Up to four numbers."""
    flat = np.asarray(array).reshape(-1)
    return ", ".join(map(html.number, flat[:4])) + (" …" if flat.size > 4 else "")


def _range(array: np.ndarray) -> str:
    """The smallest and the largest number, and how many are none."""
    good = array[np.isfinite(array)]
    text = f"{html.number(good.min())} to {html.number(good.max())}" if good.size else ""
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
