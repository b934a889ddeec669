"""What a model says about images: right and wrong answers, the confident mistakes, who is taken for whom."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from minicnn.arguments import in_words
from minicnn.backend import to_host
from minicnn.inspect.figures.drawing import (
    FAINT,
    NEGATIVE,
    OTHER,
    RIGHT,
    TEXT,
    WRONG,
    as_picture,
    check_count,
    check_labels,
    check_names,
    check_probabilities,
    colour_bar,
    counted,
    frame,
    ink_on,
    new_figure,
    percent,
    positive_map,
    saved,
    shortened,
    title,
)
from minicnn.objective import numbers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_BARS = 12  # with more classes than this only the likeliest are drawn
MOST_NUMBERS = 20  # with more classes than this a confusion matrix has no room for numbers


@in_words
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

        prediction_grid(x_test[:9], model.predict(x_test[:9]), y_test[:9], names, save="predictions.png")

    images: (N, H, W[, C]); probabilities: (N, K), as predict returns them; labels: (N,) class numbers. A right
    prediction is blue with a tick. A wrong one is red with a cross, bold, in a thick frame, and the bar of the true
    class is outlined in blue. With more than 12 classes, the likeliest and the true one are drawn. Raises InputError.
    """
    check_count("columns", columns)
    names = check_names(class_names)
    labels = check_labels(labels, len(names), len(images))
    probabilities = check_probabilities(probabilities, len(names), len(images))
    return saved(_pairs(images, probabilities, labels, names, columns, cmap), save)


@in_words
def misclassified(
    images: Any,
    probabilities: Any,
    labels: Any,
    class_names: Sequence[str],
    count: int = 12,
    columns: int = 3,
    cmap: str = "binary",
    save: Any = None,
) -> Figure:
    """The wrong answers, the most confident first, each image beside its probabilities.

        misclassified(x_test, model.predict(x_test), y_test, names, save="misclassified.png")

    Arguments as for prediction_grid, of all images; the first `count` mistakes are drawn. Raises InputError.
    """
    check_count("columns", columns)
    check_count("count", count)
    names = check_names(class_names)
    labels = check_labels(labels, len(names), len(images))
    p = check_probabilities(probabilities, len(names), len(images))
    guesses = p.argmax(axis=1)
    wrong = np.flatnonzero(guesses != labels)
    if len(wrong) == 0:
        figure = new_figure(5, 1.2)
        figure.text(0.5, 0.5, f"✓ All {counted(len(p), 'image')} are recognised: there are no mistakes to show.",
                    ha="center", va="center", color=RIGHT, fontsize=11)  # fmt: skip
        return saved(figure, save)
    wrong = wrong[np.argsort(-p[wrong, guesses[wrong]], kind="stable")]
    shown = wrong[:count]
    finding = f"{len(wrong):,} of {counted(len(p), 'image')} wrong ({100 * len(wrong) / len(p):.1f} %)"
    finding += "; the most confident mistakes" if len(shown) < len(wrong) else ", the most confident first"
    shown_images = [to_host(images[i]) for i in shown]
    return saved(_pairs(shown_images, p[shown], labels[shown], names, columns, cmap, finding), save)


@in_words
def confusion_matrix(
    labels: Any,
    predictions: Any,
    class_names: Sequence[str] | None = None,
    worst: int = 3,
    ax: Axes | None = None,
    save: Any = None,
) -> Figure:
    """How often each class was taken for each other one, with the `worst` pairs in words.

        confusion_matrix(y_test, model.predict(x_test), names, save="confusion.png")

    labels: (N,) class numbers. predictions: (N, K) probabilities, or (N,) class numbers. A row is a true class, a
    column an answer. Numbers are counts, colours their share of the row: right answers blue, wrong ones orange on a
    scale of their own, so that rare mistakes are seen. Raises InputError.
    """
    labels, predictions = (to_host(numbers(*pair)) for pair in (("labels", labels), ("predictions", predictions)))
    check_count("worst", worst)
    if predictions.ndim == 2 and predictions.shape[1] > 1:
        classes = predictions.shape[1]
        guesses = check_probabilities(predictions, classes, len(predictions)).argmax(axis=1)
    else:
        guesses = predictions
        classes = 1 + int(max(np.max(guesses, initial=0), np.max(labels, initial=0)))
    names = check_names([str(k) for k in range(classes)] if class_names is None else class_names)
    labels = check_labels(labels, len(names), len(predictions))
    guesses = check_labels(guesses, len(names), len(labels), "predictions")
    classes = len(names)
    counts = np.zeros((classes, classes), int)
    np.add.at(counts, (labels, guesses), 1)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)

    side = max(4.2, 0.52 * min(classes, MOST_NUMBERS) + 0.6)
    gap = 0.17 if ax is not None else 1.0 / side
    if ax is None:
        ax = new_figure(side + 4.2, side + 1.6).add_subplot()
    figure: Any = ax.figure
    diagonal = np.eye(classes, dtype=bool)
    missed = np.where(diagonal, np.nan, share)
    top = float(np.nanmax(missed, initial=0)) or 1.0
    right = ax.imshow(np.where(diagonal, share, np.nan), cmap=positive_map(), vmin=0, vmax=1)
    wrong = ax.imshow(missed, cmap=positive_map(NEGATIVE[::-1]), vmin=0, vmax=top)
    if classes <= MOST_NUMBERS:
        for i, j in np.argwhere(counts):
            drawn = right if i == j else wrong
            ax.text(j, i, f"{counts[i, j]:,}", ha="center", va="center", fontsize=8.5,
                    color=ink_on(drawn.to_rgba(share[i, j])), fontweight="bold" if i == j else "normal")  # fmt: skip
    pairs = [(i, j) for i, j in np.argwhere(~diagonal & (counts > 0))]
    pairs.sort(key=lambda pair: (-counts[pair], -share[pair]))
    for i, j in pairs[:worst]:
        ax.add_patch(_cell(j, i))
    short = [shortened(name, 16) for name in names]
    style: dict[str, Any] = {"fontsize": max(2.5, min(8.5, 200 / classes)), "parse_math": False}
    ax.set_xticks(range(classes), short, rotation=40, ha="right", rotation_mode="anchor", **style)
    ax.set_yticks(range(classes), short, **style)
    ax.tick_params(length=0, colors=TEXT)
    frame(ax, OTHER, 0.8)
    correct = int(counts[diagonal].sum())
    words = [f"Most often: {names[i]} taken for {names[j]}, {counts[i, j]:,} of {counts[i].sum():,}" if k == 0 else
             f"then {names[i]} for {names[j]}, {counts[i, j]:,} of {counts[i].sum():,}"
             for k, (i, j) in enumerate(pairs[:worst])]  # fmt: skip
    ax.set_xlabel("answer", color=TEXT)
    ax.set_ylabel("true class", color=TEXT)
    title(ax, f"{correct:,} of {len(labels):,} right ({100 * correct / len(labels):.1f} %)\n"
          + ("\n".join(words) if words else "No mistakes."), 10)  # fmt: skip
    colour_bar(right, ax, "right, share of the true class")
    colour_bar(wrong, ax, "wrong, share of the true class", at=gap)
    return saved(figure, save)


def _cell(x: int, y: int) -> Any:
    """A frame around one cell of an image."""
    from matplotlib.patches import Rectangle

    return Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, edgecolor=WRONG, linewidth=2, clip_on=False)


def _pairs(
    images: Any, p: np.ndarray, labels: np.ndarray, names: list[str], columns: int, cmap: str, finding: str = ""
) -> Figure:
    """Image and bars, image and bars, …, under the finding."""
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)

    # All in inches: every image of the same size, and between it and the bars as much room as the longest name needs.
    names = [shortened(name, 20) for name in names]
    side, bar_width, caption, gap = 1.65, 1.35, 0.3, 0.2
    width = gap + side + 0.15 + 0.068 * max(map(len, names)) + bar_width
    height = caption + side + gap / 2
    figure = new_figure(columns * width + gap, rows * height + gap / 2 + (0.4 if finding else 0), arrange=False)
    total_width, total_height = figure.get_size_inches()
    top = total_height
    if finding:
        top -= 0.4
        figure.text(gap / total_width, 1 - 0.3 / total_height, finding, fontsize=12, fontweight="bold", color=TEXT,
                    parse_math=False)  # fmt: skip

    def axes(x: float, y: float, w: float) -> Axes:
        return figure.add_axes((x / total_width, y / total_height, w / total_width, side / total_height))

    for i in range(len(images)):
        row, column = divmod(i, columns)
        x, y = column * width + gap, top - (row + 1) * height
        pair = axes(x, y, side), axes(x + width - gap - bar_width, y, bar_width)
        _prediction(*pair, f"images[{i}]", images[i], p[i], labels[i], names, cmap)
    return figure


def _prediction(
    left: Axes, right: Axes, where: str, image: Any, p: np.ndarray, label: int, names: list[str], cmap: str
) -> None:
    """One pair: the image with its title, and the bars."""
    picture, top = as_picture(where, image)
    guess = int(p.argmax())
    is_right = guess == label
    colour = RIGHT if is_right else WRONG
    left.imshow(picture, cmap=cmap, vmin=0, vmax=top)
    left.set(xticks=[], yticks=[])
    frame(left, colour, 1.2 if is_right else 3)
    left.set_title(
        f"{'✓' if is_right else '✗'} {names[guess]} {percent(p[guess])} ({names[label]})", loc="left", fontsize=9.5,
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
            right.text(p[k] + 0.03, y, percent(p[k]), va="center", fontsize=7.5, fontweight="bold",
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
