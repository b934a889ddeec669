"""One image with its numbers, and a grid of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from minicnn.arguments import in_words
from minicnn.inspect.figures.drawing import (
    FAINT,
    OTHER,
    TEXT,
    as_picture,
    check_count,
    check_labels,
    check_names,
    frame,
    new_figure,
    saved,
    shortened,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@in_words
def show_image(image: Any, ax: Axes | None = None, cmap: str = "binary", save: Any = None) -> Figure:
    """One image with the pixels' coordinates and, if it is grey, a colour bar of its numbers.

        show_image(x_train[0], save="image.png")

    ax: draw into these axes instead of a new figure. Raises InputError for what is no image.
    """
    picture, top = as_picture("image", image)
    if ax is None:
        ax = new_figure(4.6, 3.8).add_subplot()
    figure: Any = ax.figure
    drawn = ax.imshow(picture, cmap=cmap, vmin=0, vmax=top)
    ax.tick_params(colors=FAINT, labelsize=8)
    frame(ax, FAINT, 0.8)
    if picture.ndim == 2:
        bar = figure.colorbar(drawn, ax=ax, fraction=0.046, pad=0.04)
        bar.outline.set_visible(False)
        bar.ax.tick_params(colors=TEXT, labelsize=8, length=3)
    return saved(figure, save)


@in_words
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

        image_grid(x_train, y_train, names, save="images.png")

    images: (N, H, W[, C]), labels: (N,) class numbers. Fewer images leave places empty. Raises InputError.
    """
    for name, value in (("rows", rows), ("columns", columns)):
        check_count(name, value)
    names = check_names(class_names)
    labels = check_labels(labels, len(names), len(images))
    shown = min(len(images), rows * columns)
    columns = min(columns, shown)
    rows = -(-shown // columns)
    figure = new_figure(1.35 * columns, 1.55 * rows)
    for i in range(shown):
        ax = figure.add_subplot(rows, columns, i + 1)
        picture, top = as_picture(f"images[{i}]", images[i])
        ax.imshow(picture, cmap=cmap, vmin=0, vmax=top)
        frame(ax, OTHER, 0.8)
        ax.set(xticks=[], yticks=[])
        ax.set_xlabel(shortened(names[labels[i]], 17), fontsize=9, color=TEXT, labelpad=3, parse_math=False)
    return saved(figure, save)
