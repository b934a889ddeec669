"""How training goes: curves by epoch; and from a trace how gradients, steps and activations look in each layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from minicnn.arguments import in_words
from minicnn.errors import InputError
from minicnn.inspect.figures.drawing import (
    FAINT,
    OTHER,
    RIGHT,
    TEXT,
    WRONG,
    check_trace,
    clean,
    counted,
    footnote,
    headline,
    new_figure,
    number,
    saved,
    title,
)
from minicnn.inspect.trace import LayerTrace, Trace

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SLOW, FAST = 1e-4, 1e-2  # a step that moves a kernel by this share of its size: hardly at all, too far


@in_words
def training_curves(history: Any, classes: int | None = None, save: Any = None) -> Figure:
    """Loss and every metric by epoch, training and validation, with the best epoch of each marked.

        training_curves(model.fit(x, y, epochs=5, validation_split=0.2), save="curves.png")

    history: what fit returned, or a dict of lists such as {"loss": [...], "val_loss": [...]}. classes: their number,
    for the line of pure guessing in the plot of the accuracy; None takes it from the model that was trained. The best
    is that of the validation, where there is one. Raises InputError for an empty history.
    """
    curves = history if isinstance(history, Mapping) else getattr(history, "history", None)
    names = [name for name in curves or () if not name.startswith("val_") and name != "learning_rate"]
    if not isinstance(curves, Mapping) or not names or not all(len(curves[name]) for name in names):
        raise InputError(
            "training_curves", "there is nothing to draw.",
            'the History that fit returned, or a dict such as {"loss": [0.9, 0.5]}.',
            f"{type(history).__name__} without a finished epoch.", "train for one epoch or more.",
        )  # fmt: skip
    if classes is None:
        classes = _classes_of(getattr(history, "model", None))
    epochs = [epoch + 1 for epoch in getattr(history, "epoch", ())]
    figure = new_figure(4.6 * len(names), 3.5)
    for i, name in enumerate(names):
        ax = figure.add_subplot(1, len(names), i + 1)
        count = len(curves[name])
        at = np.asarray(epochs if len(epochs) == count else range(1, count + 1))
        _curve(ax, name, at, curves[name], curves.get(f"val_{name}"), classes)
    if "val_loss" in curves and any(v < t for v, t in zip(curves["val_loss"], curves["loss"], strict=False)):
        footnote(figure, "Why validation is below training: the training loss is a mean over the epoch, during which "
                 "the model was still worse, and it is measured with dropout if there is any; validation comes after "
                 "the epoch, without dropout.")  # fmt: skip
    return saved(figure, save)


def _curve(ax: Axes, name: str, at: np.ndarray, train: Any, validation: Any, classes: int | None) -> None:
    """One plot: a measure by epoch."""
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    is_share = "acc" in name
    marks: dict[str, Any] = {"marker": "o", "markersize": 3.5} if len(at) <= 30 else {}
    ax.plot(at, train, color=FAINT, linestyle="--", linewidth=1.6, label="training", **marks)
    judged = np.asarray(train if validation is None else validation, dtype=float)
    if validation is not None:
        ax.plot(at, judged, color=RIGHT, linewidth=2, label="validation", **marks)
    title = "not a finite number"
    if np.isfinite(judged).any():
        best = int(np.nanargmax(judged) if is_share else np.nanargmin(judged))
        ax.plot(at[best], judged[best], "o", markersize=10, markerfacecolor="none", markeredgewidth=1.6,
                markeredgecolor=WRONG, label="best epoch", zorder=5)  # fmt: skip
        value = f"{100 * judged[best]:.1f} %" if is_share else f"{judged[best]:.4g}"
        title = f"best: {value} in epoch {at[best]}"
    if is_share and classes:
        _guessing(ax, 1 / classes, min(np.nanmin(train), np.nanmin(judged)))
    ax.set_title(name.replace("_", " "), loc="left", fontsize=12, color=TEXT, fontweight="bold")
    ax.set_title(title, loc="right", fontsize=9, color=WRONG)
    ax.set_xlabel("epoch", color=TEXT)
    ax.set_xlim(at[0] - 0.5, at[-1] + 0.5) if len(at) < 3 else ax.margins(x=0.04)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    if is_share:
        ax.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    clean(ax)
    ax.legend(fontsize=9, labelcolor=TEXT, edgecolor="none", framealpha=0.85)


def _guessing(ax: Axes, chance: float, lowest: float) -> None:
    """The accuracy of pure guessing: a line; far below, where it would press the curves flat, only its name."""
    style: dict[str, Any] = {"color": TEXT, "linestyle": ":", "linewidth": 1.2}
    if lowest < chance + 0.4:
        ax.axhline(chance, label=f"guessing: {100 * chance:.3g} %", **style)
    else:
        ax.plot([], [], label=f"guessing: {100 * chance:.3g} %, far below", **style)


def _classes_of(model: Any) -> int | None:
    """How many classes a trained model tells apart; None where that is unknown."""
    if model is None or not getattr(model, "built", False):
        return None
    outputs = model.shapes[-1]
    return max(2, outputs[0]) if len(outputs) == 1 else None


# ---- one step: from a trace ----------------------------------------------------------------------------------------


@in_words
def gradient_flow(t: Trace, ax: Axes | None = None, save: Any = None) -> Figure:
    """The size of the gradient in each layer: does the signal of the loss reach the first one?

        gradient_flow(model.trace(x, y), save="gradient_flow.png")

    Root mean squares on a logarithmic scale: dL/dx where it leaves each layer backwards, dL/dw of each kernel. Raises
    InputError for a trace without y.
    """
    check_trace(t, backward=True)
    names = [r.key for r in t.layers]
    signal = np.array([_rms(r.dx) for r in t.layers])
    kernels = np.array([_rms(r.grads["w"]) if "w" in r.grads else np.nan for r in t.layers])
    if ax is None:
        ax = new_figure(max(6.0, 0.55 * len(names) + 2), 4.4).add_subplot()
    figure: Any = ax.figure
    _log_dots(ax, names, [("dL/dx, handed to the layer before", signal, "s--", FAINT),
                          ("dL/dw, the kernels' gradients", kernels, "o-", RIGHT)])  # fmt: skip
    ax.set_ylabel("root mean square (log scale)", color=TEXT, fontsize=9)
    title(ax, _flow_in_words(names, kernels), 10.5)
    return saved(figure, save)


def _flow_in_words(names: list[str], kernels: np.ndarray) -> str:
    """What the plot says: the first kernel's gradient compared with the last one's."""
    at = np.flatnonzero(~np.isnan(kernels))
    if len(at) == 0:
        return "No layer has a kernel"
    if not np.isfinite(kernels[at]).all():
        return f"The gradient of {names[at[~np.isfinite(kernels[at])][-1]]} is not finite"
    if (kernels[at] == 0).any():
        return f"No gradient reaches {names[at[kernels[at] == 0][-1]]}: it cannot learn"
    first, last = at[0], at[-1]
    ratio = kernels[first] / kernels[last]
    size = f"{number(ratio, 2)} times" if first != last else "the only"
    what = f"dL/dw of {names[first]}, the first, is {size} that of {names[last]}, the last"
    if first == last:
        return f"One layer with a kernel, {names[first]}: its dL/dw is {number(kernels[first], 2)}"
    return ("The gradient vanishes: " if ratio < 1e-3 else "The gradient explodes: " if ratio > 1e3 else
            "The gradient arrives: ") + what  # fmt: skip


@in_words
def update_ratios(t: Trace, ax: Axes | None = None, save: Any = None) -> Figure:
    """By which share of its size the step moves each array of weights: between 1e-4 and 1e-2 is healthy.

        update_ratios(model.trace(x, y), save="update_ratios.png")

    ‖w_after − w‖ / ‖w‖ of every w and gamma of the layers that learn, on a logarithmic scale. Raises InputError for a
    trace without y, or where nothing learns.
    """
    check_trace(t, backward=True)
    names, ratios = [], []
    for r in t.layers:
        for name in ("w", "gamma"):
            if name in r.applied and _rms(r.params[name]) > 0:
                names.append(r.key if name == "w" else f"{r.key} {name}")
                ratios.append(_rms(r.updated[name] - r.params[name]) / _rms(r.params[name]))
    if not names:
        raise InputError("update_ratios", "nothing to draw.", "a trainable layer with a kernel that is not all 0.",
                         f"{len(t.layers)} layers without one.", "set trainable = True for a layer.")  # fmt: skip
    values = np.array(ratios)
    if ax is None:
        ax = new_figure(max(6.0, 0.55 * len(names) + 2), 4.4).add_subplot()
    figure: Any = ax.figure
    outside = (values > FAST) | (values < SLOW)
    inside = np.where(outside, np.nan, values)
    ax.axhspan(SLOW, FAST, color="#e8f0fb", zorder=0, label="healthy: 1e−4 to 1e−2")
    ax.axhline(1e-3, color=FAINT, linestyle=":", linewidth=1.2, label="rule of thumb: 1e−3")
    curves = [("this step", inside, "o", RIGHT), ("this step, outside", np.where(outside, values, np.nan), "X", WRONG)]
    _log_dots(ax, names, [curve for curve in curves if not np.isnan(curve[1]).all()], numbers=True)
    bottom, top = ax.get_ylim()
    ax.set_ylim(min(bottom, 5e-5), max(top, 2e-2))
    ax.set_ylabel("‖w after − w‖ / ‖w‖ (log scale)", color=TEXT, fontsize=9)
    if not np.isfinite(values).all():
        found = f"The step makes {names[np.flatnonzero(~np.isfinite(values))[0]]} infinite or NaN"
    elif values.max() > FAST:
        found = f"{names[values.argmax()]} moves by {number(values.max(), 2)} of its size in one step, too far: "
        found += "lower the learning rate"
    elif values.min() == 0:
        found = f"{names[values.argmin()]} does not move: no gradient reaches it"
    elif values.min() < SLOW:
        found = f"{names[values.argmin()]} moves by {number(values.min(), 2)} of its size in one step, hardly at all: "
        found += "raise the learning rate"
    else:
        found = (f"{counted(len(names), 'array moves', 'arrays move')} by {number(values.min(), 2)} to "
                 f"{number(values.max(), 2)} of their size in one step: healthy")  # fmt: skip
    title(ax, found, 10.5)
    return saved(figure, save)


@in_words
def activation_histograms(traces: Trace | Mapping[str, Trace], save: Any = None) -> Figure:
    """How the activations are spread in each layer; for several traces, such as of several initialisations, a row each.

        activation_histograms({"zeros": t1, "he_normal": t2}, save="activations.png")

    Each plot: the numbers y of one layer with an activation (softmax excepted), with their standard deviation and the
    share of exact zeros. Of several traces, the layers of each share one scale. Raises InputError.
    """
    rows = dict(traces) if isinstance(traces, Mapping) else {"": traces}
    if not rows:
        raise InputError("activation_histograms", "there are no traces.", "one trace or more.", "an empty dict.",
                         'pass {"glorot": model.trace(x, y)}.')  # fmt: skip
    chosen = {name: [r for r in check_trace(t).layers if _is_activated(r)] for name, t in rows.items()}
    columns = max(map(len, chosen.values()))
    if columns == 0:
        raise InputError("activation_histograms", "there is nothing to draw.", "a layer with an activation.",
                         "models without one.", "trace a model with Dense or Conv2D layers.")  # fmt: skip
    figure = new_figure(max(7.0, 1.75 * columns + 0.6), 1.75 * len(rows) + 1.1)
    axes = figure.subplots(len(rows), columns, squeeze=False)
    words = []
    for row, (name, records) in zip(axes, chosen.items(), strict=True):
        finite = [r.y[np.isfinite(r.y)] for r in records]
        together = _limits(finite)
        for k, ax in enumerate(row):
            if k >= len(records):
                ax.set_visible(False)
                continue
            _histogram(ax, records[k], together if name else _limits(finite[k : k + 1]))
        if name:
            row[0].set_ylabel(name, fontsize=10, fontweight="bold", color=TEXT, parse_math=False)
        words.append(f"{name}: {_spread_in_words(records)}" if name else _spread_in_words(records).capitalize())
    headline(figure, "\n".join(words))
    footnote(figure, "x: numbers of the layer's output, y: how many, each plot to its own tallest bar. σ: "
             "standard deviation; orange: exact zeros, cut off where higher, their share is above.")  # fmt: skip
    return saved(figure, save)


def _is_activated(r: LayerTrace) -> bool:
    return "z" in r.kept and "max" not in r.kept  # a softmax keeps its maximum


def _limits(values: list[np.ndarray]) -> tuple[float, float]:
    """From the smallest to the largest, without the rarest thousandth on each side."""
    low = min((float(np.quantile(v, 0.001)) for v in values if v.size), default=0.0)
    high = max((float(np.quantile(v, 0.999)) for v in values if v.size), default=0.0)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _histogram(ax: Axes, r: LayerTrace, limits: tuple[float, float]) -> None:
    y = r.y[np.isfinite(r.y)]
    zero = float(np.mean(r.y == 0))
    counts, edges = np.histogram(np.clip(y[y != 0], *limits), bins=40, range=limits)
    top = float(counts.max(initial=0)) or 1.0
    width = edges[1] - edges[0]
    ax.bar(edges[:-1], counts / top, width=width, align="edge", color=RIGHT, alpha=0.85, linewidth=0)
    if zero:
        ax.bar(0, min(1.0, zero * len(y.ravel()) / top), width=1.6 * width, color="#e6752b", linewidth=0)
    ax.axvline(0, color=FAINT, linestyle=":", linewidth=1)
    ax.set(yticks=[], ylim=(0, 1.12), xlim=(limits[0] - 2 * width, limits[1] + 2 * width))
    ax.tick_params(colors=TEXT, labelsize=7.5)
    for side, spine in ax.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(FAINT)
    share = f", {100 * zero:.0f} % zeros" if zero > 0.005 else ""
    finite = "" if y.size == r.y.size else ", not all finite!"
    spread = number(float(y.std()) if y.size else np.nan, 2)
    ax.set_title(f"{r.key}\nσ {spread}{share}{finite}", fontsize=8.5, color=TEXT, parse_math=False)


def _spread_in_words(records: list[LayerTrace]) -> str:
    """From the first to the last layer: does the signal die out, grow, or stay?"""
    if not records:
        return "no layer with an activation"
    spread = [float(r.y.std(dtype=np.float64)) for r in records]
    if not np.isfinite(spread).all():
        return "some activations are not finite"
    if spread[0] == 0:
        return f"all outputs of {records[0].key} are equal: nothing can be learned from them"
    ratio = spread[-1] / spread[0]
    verdict = "dies out" if ratio < 0.1 else "fades" if ratio < 0.5 else "grows" if ratio > 2 else "is kept"
    change = f"σ {number(spread[0], 2)} → {number(spread[-1], 2)}"
    return f"the signal {verdict}, {change} over {counted(len(records), 'layer')}"


def _rms(values: Any) -> float:
    """Root mean square, summed in float64; NaN where there is no array."""
    arrays = values if isinstance(values, list) else [values]  # of a merging layer's dx: of all parts
    if any(array is None for array in arrays):
        return float("nan")
    return float(np.sqrt(np.mean(np.concatenate([np.square(a, dtype=np.float64).ravel() for a in arrays]))))


def _log_dots(ax: Axes, names: list[str], curves: list[Any], numbers: bool = False) -> None:
    """One dot a layer and curve on a logarithmic axis; exact zeros stand at the bottom, and say so."""
    everything = np.concatenate([values for _, values, _, _ in curves])
    positive = everything[np.isfinite(everything) & (everything > 0)]
    floor = 10 ** np.floor(np.log10(positive.min()) - 0.5) if positive.size else 1e-6
    ax.set_yscale("log")
    for label, values, style, colour in curves:
        at = np.flatnonzero(np.isfinite(values))
        ax.plot(at, np.maximum(values[at], floor), style, color=colour, label=label, linewidth=1.4, markersize=6.5,
                markeredgecolor="white")  # fmt: skip
        for k in at:
            if values[k] == 0:
                ax.annotate("0", (k, floor), xytext=(0, 7), textcoords="offset points", ha="center", color=WRONG,
                            fontsize=9, fontweight="bold")  # fmt: skip
            elif numbers:
                ax.annotate(number(values[k], 2), (k, values[k]), xytext=(0, 8), textcoords="offset points",
                            ha="center", fontsize=8, color=colour)  # fmt: skip
    ax.set_xticks(range(len(names)), names, rotation=35, ha="right", rotation_mode="anchor", parse_math=False)
    ax.set_xlim(-0.6, len(names) - 0.4)
    clean(ax)
    ax.spines["bottom"].set_color(OTHER)
    ax.legend(fontsize=8.5, labelcolor=TEXT, edgecolor="none", framealpha=0.85)
