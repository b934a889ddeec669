"""Pictures: one image with its numbers, a grid of images, predictions beside their probabilities, training curves.

Every function returns a matplotlib Figure and, with save=PATH, writes it there (.png, .pdf, .svg …). No window is
opened and pyplot is not used: nothing to close, and it works where there is no screen.

Images are (H, W), (H, W, 1) or (H, W, 3): whole numbers from 0 to 255, or floats from 0 to 1. Grey ones are shown like
ink on paper, a 0 white, since that is how MNIST and Fashion-MNIST are stored; pass cmap="gray" for photos.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from minicnn.backend import to_host
from minicnn.errors import InputError
from minicnn.saving import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["image_grid", "prediction_grid", "show_image", "training_curves"]

RIGHT, WRONG, OTHER, TEXT, FAINT = "#1f5fbf", "#c62f22", "#c3c9d2", "#25292f", "#8a919c"
DPI = 150
MOST_BARS = 12  # with more classes than this only the likeliest are drawn


# ---- images --------------------------------------------------------------------------------------------------------


def show_image(image: Any, ax: Axes | None = None, cmap: str = "binary", save: Any = None) -> Figure:
    """One image with the pixels' coordinates and, if it is grey, a colour bar of its numbers.

    ax: draw into these axes instead of a new figure. Raises InputError for what is no image.
    """
    picture, top = _as_picture("image", image)
    if ax is None:
        ax = _new_figure(4.6, 3.8).add_subplot()
    figure: Any = ax.figure
    drawn = ax.imshow(picture, cmap=cmap, vmin=0, vmax=top)
    ax.tick_params(colors=FAINT, labelsize=8)
    _frame(ax, FAINT, 0.8)
    if picture.ndim == 2:
        bar = figure.colorbar(drawn, ax=ax, fraction=0.046, pad=0.04)
        bar.outline.set_visible(False)
        bar.ax.tick_params(colors=TEXT, labelsize=8, length=3)
    return _saved(figure, save)


def image_grid(
    images: Any,
    labels: Any,
    class_names: Sequence[str],
    rows: int = 5,
    columns: int = 5,
    cmap: str = "binary",
    save: Any = None,
) -> Figure:
    """The first rows × columns images, each with the name of its class below.

    images: (N, H, W[, C]), labels: (N,) class numbers. Fewer images leave places empty. Raises InputError.
    """
    for name, value in (("rows", rows), ("columns", columns)):
        _check_count(name, value)
    names = _check_names(class_names)
    labels = _check_labels(labels, len(names), len(images))
    shown = min(len(images), rows * columns)
    columns = min(columns, shown)
    rows = -(-shown // columns)
    figure = _new_figure(1.35 * columns, 1.55 * rows)
    for i in range(shown):
        ax = figure.add_subplot(rows, columns, i + 1)
        picture, top = _as_picture(f"images[{i}]", images[i])
        ax.imshow(picture, cmap=cmap, vmin=0, vmax=top)
        _frame(ax, OTHER, 0.8)
        ax.set(xticks=[], yticks=[])
        ax.set_xlabel(_shortened(names[labels[i]], 17), fontsize=9, color=TEXT, labelpad=3, parse_math=False)
    return _saved(figure, save)


def prediction_grid(
    images: Any,
    probabilities: Any,
    labels: Any,
    class_names: Sequence[str],
    columns: int = 3,
    cmap: str = "binary",
    save: Any = None,
) -> Figure:
    """Each image beside the bars of its probabilities, with the title "label 97 % (true label)".

    images: (N, H, W[, C]); probabilities: (N, K), as predict returns them; labels: (N,) class numbers. A right
    prediction is blue with a tick. A wrong one is red with a cross, bold, in a thick frame, and the bar of the true
    class is outlined in blue. With more than 12 classes, the likeliest and the true one are drawn. Raises InputError.
    """
    _check_count("columns", columns)
    names = _check_names(class_names)
    labels = _check_labels(labels, len(names), len(images))
    probabilities = _check_probabilities(probabilities, len(names), len(images))
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)

    # All in inches: every image of the same size, and between it and the bars as much room as the longest name needs.
    names = [_shortened(name, 20) for name in names]
    side, bar_width, title, gap = 1.65, 1.35, 0.3, 0.2
    width = gap + side + 0.15 + 0.068 * max(map(len, names)) + bar_width
    height = title + side + gap / 2
    figure = _new_figure(columns * width + gap, rows * height + gap / 2, arrange=False)
    total_width, total_height = figure.get_size_inches()

    def axes(x: float, y: float, w: float) -> Axes:
        return figure.add_axes((x / total_width, y / total_height, w / total_width, side / total_height))

    for i in range(len(images)):
        row, column = divmod(i, columns)
        x, y = column * width + gap, total_height - (row + 1) * height
        pair = axes(x, y, side), axes(x + width - gap - bar_width, y, bar_width)
        _prediction(*pair, f"images[{i}]", images[i], probabilities[i], labels[i], names, cmap)
    return _saved(figure, save)


def _prediction(
    left: Axes, right: Axes, where: str, image: Any, p: np.ndarray, label: int, names: list[str], cmap: str
) -> None:
    """One pair: the image with its title, and the bars."""
    picture, top = _as_picture(where, image)
    guess = int(p.argmax())
    is_right = guess == label
    colour = RIGHT if is_right else WRONG
    left.imshow(picture, cmap=cmap, vmin=0, vmax=top)
    left.set(xticks=[], yticks=[])
    _frame(left, colour, 1.2 if is_right else 3)
    left.set_title(
        f"{'✓' if is_right else '✗'} {names[guess]} {_percent(p[guess])} ({names[label]})", loc="left", fontsize=9.5,
        color=colour, fontweight="normal" if is_right else "bold", parse_math=False,
    )  # fmt: skip

    shown = np.arange(len(p))
    if len(p) > MOST_BARS:
        shown = np.argsort(-p, kind="stable")[:MOST_BARS]
        if label not in shown:
            shown[-1] = label
    for y, k in enumerate(shown):
        right.barh(y, p[k], height=0.72, color=colour if k == guess else OTHER,
                   edgecolor=RIGHT if k == label and not is_right else "none", linewidth=1.3)  # fmt: skip
        if k in (guess, label):
            right.text(p[k] + 0.03, y, _percent(p[k]), va="center", fontsize=7.5, fontweight="bold",
                       color=colour if k == guess else RIGHT)  # fmt: skip
    right.set(xlim=(0, 1.3), ylim=(len(shown) - 0.4, -0.6), xticks=[])
    right.set_yticks(range(len(shown)), [names[k] for k in shown], fontsize=7.5, parse_math=False)
    right.tick_params(axis="y", length=0, pad=2)
    for k, tick in zip(shown, right.get_yticklabels(), strict=True):
        tick.set_color(RIGHT if k == label else colour if k == guess else FAINT)
        tick.set_fontweight("bold" if k in (guess, label) else "normal")
    for side in ("top", "right", "bottom"):
        right.spines[side].set_visible(False)
    right.spines["left"].set_color(FAINT)


# ---- training ------------------------------------------------------------------------------------------------------


def training_curves(history: Any, classes: int | None = None, save: Any = None) -> Figure:
    """Loss and every metric by epoch, training and validation, with the best epoch of each marked.

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
    figure = _new_figure(4.6 * len(names), 3.5)
    for i, name in enumerate(names):
        ax = figure.add_subplot(1, len(names), i + 1)
        count = len(curves[name])
        at = np.asarray(epochs if len(epochs) == count else range(1, count + 1))
        _curve(ax, name, at, curves[name], curves.get(f"val_{name}"), classes)
    return _saved(figure, save)


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
    ax.tick_params(colors=TEXT, labelsize=9)
    ax.grid(axis="y", color="#e6e9ed", linewidth=0.8)
    ax.set_axisbelow(True)
    for side, spine in ax.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(FAINT)
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


# ---- shared --------------------------------------------------------------------------------------------------------


def _new_figure(width: float, height: float, arrange: bool = True) -> Figure:
    """A white page of so many inches. arrange: let matplotlib find the places of the axes."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08, wspace=0.03, hspace=0.02) if arrange else None
    return Figure(figsize=(width, height), layout=layout, facecolor="white")


def _saved(figure: Figure, save: Any) -> Figure:
    if save is not None:
        known = figure.canvas.get_supported_filetypes()
        kind = Path(save).suffix.lower().lstrip(".")
        if kind not in known:
            raise InputError(
                "save", "this is no kind of picture.",
                "a path that ends in " + ", ".join(f".{k}" for k in sorted(known)) + ".",
                f"{str(save)!r}.", "for example 'figure.png'.",
            )  # fmt: skip
        with atomic_write(save) as file:
            figure.savefig(file, format=kind, dpi=DPI)
    return figure


def _frame(ax: Axes, colour: str, width: float) -> None:
    for spine in ax.spines.values():
        spine.set(color=colour, linewidth=width)


def _percent(p: float) -> str:
    return f"{100 * p:.0f} %"


def _shortened(name: str, length: int) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"


def _as_picture(where: str, image: Any) -> tuple[np.ndarray, float]:
    """(what imshow takes, the number that is full brightness). Raises InputError for what is no image."""
    image = to_host(image)
    expected = "(H, W), (H, W, 1) or (H, W, 3): whole numbers from 0 to 255, or floats from 0 to 1."
    received = f"shape {image.shape}, dtype {image.dtype}"
    if image.ndim == 3 and image.shape[-1] == 1:
        image = image[..., 0]
    if image.size == 0 or not (image.ndim == 2 or image.ndim == 3 and image.shape[-1] == 3):
        fix = "pass one image of one or three channels."
        if image.ndim == 3 and image.shape[0] in (1, 3):
            fix = "the channels come first: use image.transpose(1, 2, 0), not reshape."
        elif image.ndim == 4:
            fix = "this is a batch: take one image of it, images[0]."
        raise InputError(where, "this is not the shape of an image.", expected, f"{received}.", fix)
    if image.dtype.kind not in "buif":
        raise InputError(where, "these are not numbers.", expected, f"{received}.", "convert it first.")
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        raise InputError(where, "not every number is finite.", "no NaN and no infinity.", f"{received}.",
                         "find where they come from (a division by 0, a missing value).")  # fmt: skip
    top = 255.0 if image.dtype.kind in "ui" else 1.0
    low, high = float(image.min()), float(image.max())
    if low < -1e-3 * top or high > 1.001 * top:
        fix = "keep whole numbers between 0 and 255."
        if top == 1 and low >= 0 and high <= 255:
            fix = "divide by 255."
        elif top == 1:
            fix = "show the image as it was before it was standardised."
        raise InputError(where, "numbers out of range.", expected, f"{received}, from {low:.4g} to {high:.4g}.", fix)
    if top == 1:
        image = np.clip(image.astype(np.float32), 0, 1)
    return image, top


def _check_count(name: str, value: Any) -> None:
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < 1:
        raise InputError(name, "it does not fit.", "a whole number of 1 or more.", f"{value!r}.", f"try {name}=3.")


def _check_names(class_names: Any) -> list[str]:
    if isinstance(class_names, str) or not hasattr(class_names, "__len__") or len(class_names) == 0:
        raise InputError("class_names", "this is no list of names.", 'one name for each class, such as ["cat", "dog"].',
                         f"{class_names!r}.", "pass a list of strings.")  # fmt: skip
    return [str(name) for name in class_names]


def _check_labels(labels: Any, classes: int, images: int) -> np.ndarray:
    """labels as (N,) whole numbers below `classes`, one for each image."""
    labels = to_host(labels)
    if images == 0:
        raise InputError("images", "there are none.", "at least one image.", "an empty array.", "check the slice.")
    received = f"shape {labels.shape}, dtype {labels.dtype}"
    if labels.ndim == 2 and labels.shape[1] == 1:  # as CIFAR-10 comes
        labels = labels[:, 0]
    if labels.ndim != 1 or len(labels) != images or labels.dtype.kind not in "ui":
        one_hot = labels.ndim == 2 and len(labels) == images
        raise InputError("labels", "they do not fit the images.", f"a class number for each of the {images} images.",
                         f"{received}.", "these look one-hot: pass labels.argmax(axis=1)." if one_hot else
                         "slice images and labels alike, and pass whole numbers.")  # fmt: skip
    if labels.min() < 0 or labels.max() >= classes:
        raise InputError("labels", "class numbers out of range.",
                         f"0 to {classes - 1}: there are {classes} class names.",
                         f"from {labels.min()} to {labels.max()}.", "count from 0, and name every class.")  # fmt: skip
    return labels


def _check_probabilities(probabilities: Any, classes: int, images: int) -> np.ndarray:
    """probabilities as (N, K) floats from 0 to 1."""
    probabilities = to_host(probabilities)
    if probabilities.shape != (images, classes) or probabilities.dtype.kind != "f":
        raise InputError("probabilities", "they do not fit images and class names.",
                         f"floats of shape ({images}, {classes}): {images} images, {classes} class names.",
                         f"shape {probabilities.shape}, dtype {probabilities.dtype}.",
                         "pass model.predict(images) for the same images, and a name for each output.")  # fmt: skip
    low, high = float(probabilities.min()), float(probabilities.max())
    if not (low >= -1e-3 and high <= 1.001):  # also true for NaN
        raise InputError("probabilities", "these are no probabilities.", "numbers from 0 to 1.",
                         f"from {low:.4g} to {high:.4g}.",
                         "end the model with softmax, or apply it to the logits.")  # fmt: skip
    return probabilities
