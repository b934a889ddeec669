"""What a layer has learned and what it sees: filters, feature maps, gradient maps, the patches that excite a filter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from minicnn.arguments import in_words
from minicnn.backend import to_host
from minicnn.errors import InputError
from minicnn.inspect.figures.drawing import (
    FAINT,
    OTHER,
    TEXT,
    WRONG,
    check_count,
    check_labels,
    check_names,
    check_sample,
    check_trace,
    colour_bar,
    counted,
    footnote,
    headline,
    new_figure,
    no_maps,
    number,
    saved,
    scale_for,
    shortened,
    shown_image,
    spatial_layer,
    title,
)
from minicnn.inspect.trace import Trace
from minicnn.kernels.geometry import pair, resolve_padding
from minicnn.layers.activation import ReLU
from minicnn.layers.base import Layer
from minicnn.layers.conv import Conv2D
from minicnn.layers.core import Dropout, Rescaling
from minicnn.layers.merge import ELEMENTWISE, Concatenate, ZeroPadding2D
from minicnn.layers.network import Network
from minicnn.layers.normalization import BatchNormalization
from minicnn.layers.pooling import AveragePooling2D, MaxPooling2D
from minicnn.layers.walk import forward, new_contexts, part_up_to, shapes_of, unique_keys
from minicnn.layers.weighted import ActivatedLayer
from minicnn.training.checks import check_array, check_input

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_MAPS = 64
MOST_CHANNELS = 16  # input channels of a filter that are drawn


# ---- filters and maps ----------------------------------------------------------------------------------------------


@in_words
def filters(source: Any, layer: str | None = None, ax: Axes | None = None, save: Any = None) -> Figure:
    """The weights of a convolution on one common scale: white is 0; faint filters are framed.

        filters(model, save="filters.png")        filters(t, "conv2d_2")

    source: a model or a Trace. layer: its name, None for the first convolution. With one input channel each filter is a
    tile; with more, a column is a filter and a row an input channel, of which at most 16 are drawn. A filter is faint
    when its norm is below 5 % of the largest one. Raises InputError where there is no convolution.
    """
    key, w = _kernel(source, layer)
    kh, kw, channels, count = w.shape
    shown = w[..., :MOST_CHANNELS, :MOST_MAPS]
    norms = np.sqrt(np.square(w, dtype=np.float64).sum(axis=(0, 1, 2)))
    faint = np.flatnonzero(norms[:MOST_MAPS] <= 0.05 * norms.max())
    if channels == 1:
        tiles = shown[:, :, 0].transpose(2, 0, 1)
        grid, columns = _in_rows(tiles)
        places = [(int(k) % columns, int(k) // columns, 1) for k in faint]
        labels = [f"{r * columns} to {min(count, MOST_MAPS, (r + 1) * columns) - 1}" for r in range(len(grid))]
    else:
        grid = shown.transpose(2, 3, 0, 1)
        columns = grid.shape[1]
        places = [(int(k), 0, len(grid)) for k in faint]
        labels = ["red", "green", "blue"] if channels == 3 else [f"in {c}" for c in range(len(grid))]
    if ax is None:
        cell = 0.62 if channels == 1 else 0.42
        ax = new_figure(
            max(5.5, cell * columns + 2), max(2.2, cell * len(grid) * kh / kw + (1.1 if channels == 1 else 1.5))
        ).add_subplot()
    figure: Any = ax.figure
    drawn = _mosaic(ax, grid, w, labels)
    for x, y, height in places:
        _framed(ax, x, y, height, grid.shape[2:])
    if channels > 1:
        ax.set_xticks((np.arange(columns) + 0.5) * kw - 0.5, [str(k) for k in range(columns)], fontsize=7)
        ax.set_xlabel("filter", fontsize=8.5, color=TEXT)
    colour_bar(drawn, ax, "weight (− marks cells below 0)" if max(kh, kw) <= 7 else "weight")
    found = f"{key}: {counted(count, 'filter')} of {kh}×{kw}×{channels}"
    found += f", weights {number(w.min(), 2)} to {number(w.max(), 2)}"
    if count > MOST_MAPS or channels > MOST_CHANNELS:
        found += f"; drawn: {counted(shown.shape[3], 'filter')}, {counted(shown.shape[2], 'input channel')}"
    found += (
        f"\n{_these(faint, 'filter')} nearly 0 (framed)"
        if len(faint)
        else "\nevery filter has weights well away from 0"
    )
    title(ax, found, 10)
    return saved(figure, save)


@in_words
def feature_maps(
    t: Trace, layer: str | None = None, sample: int = 0, cmap: str = "binary", ax: Axes | None = None, save: Any = None
) -> Figure:
    """What a layer makes of one image, a map for each channel, on one common scale: white is 0; dead maps are framed.

        feature_maps(model.trace(x), "conv2d_1", sample=3, save="maps.png")

    layer: its name, None for the first convolution. sample: which image of the traced batch. A map is dead when it is 0
    everywhere, for every image of the batch (thick frame); silent when it is so for this image alone (dashed frame). At
    most 64 maps are drawn. ax: draw the maps there, without the image. Raises InputError.
    """
    check_trace(t)
    sample = check_sample(t, sample)
    record = spatial_layer(t, layer, "feature maps")
    maps = record.y[sample].transpose(2, 0, 1)[:MOST_MAPS]
    dead = np.flatnonzero((record.y == 0).all(axis=(0, 1, 2))[:MOST_MAPS])
    silent = np.setdiff1d(np.flatnonzero((maps == 0).all(axis=(1, 2))), dead)
    count = record.y.shape[-1]
    found = [f"{record.key} sees the image in {counted(count, 'way')}"]
    if maps.max() > 0:
        found.append(f"map {maps.max(axis=(1, 2)).argmax()} answers most strongly")
    images = counted(len(t.x), "traced image")
    if len(dead):
        found.append(f"{_these(dead, 'map')} dead: 0 for {'the' if len(t.x) == 1 else 'all'} {images}")
    if len(silent):
        found.append(f"{_these(silent, 'map')} silent for this image")
    note = (
        f"In the corner of each map: its channel{f'; the first {MOST_MAPS} of {count}' if count > MOST_MAPS else ''}. "
        f"Thick frame: dead, 0 everywhere for {'the' if len(t.x) == 1 else 'all'} {images}. Dashed frame: silent, "
        "0 for this one."
    )
    return saved(_maps(t, sample, maps, (dead, silent), "; ".join(found), note, record.key, cmap, ax), save)


@in_words
def gradient_maps(
    t: Trace, layer: str | None = None, sample: int = 0, cmap: str = "binary", ax: Axes | None = None, save: Any = None
) -> Figure:
    """Where the loss pulls: dL/dx of the image, and the size of dL/dy in each layer with maps; or one layer's channels.

        gradient_maps(model.trace(x, y), save="gradients.png")        gradient_maps(t, "conv2d_1", sample=3)

    layer None: the image, dL/dx (of colours, the largest), and for each layer the root mean square of dL/dy over its
    channels; every map on a scale of its own, with numbers. layer: its dL/dy, a map for each channel, on one common
    scale; ax: draw those there. Raises InputError for a trace without y.
    """
    check_trace(t, backward=True)
    sample = check_sample(t, sample)
    if layer is not None:
        record = spatial_layer(t, layer, "gradients")
        assert record.dy is not None
        maps = record.dy[sample].transpose(2, 0, 1)[:MOST_MAPS]
        none = np.flatnonzero((record.dy == 0).all(axis=(0, 1, 2))[:MOST_MAPS])
        here = np.setdiff1d(np.flatnonzero((maps == 0).all(axis=(1, 2))), none)
        found = f"{record.key}: where larger outputs would raise the loss (blue) or lower it (orange)"
        note = (
            f"dL/dy of each channel; L is the mean loss of {counted(len(t.x), 'traced image')}. Thick frame: no "
            "gradient for any of them; dashed frame: none for this one."
        )
        return saved(_maps(t, sample, maps, (none, here), found, note, f"dL/dy of {record.key}", cmap, ax), save)
    records = [r for r in t.layers if r.y.ndim == 4 and r.kind not in ("Dropout", "Rescaling", "Activation")]
    dx = t.dx
    if t.x.ndim != 4 or dx is None:
        raise no_maps(t.model_name, "gradients", f"the inputs have shape {t.x.shape}.")
    columns = min(4, 2 + len(records))
    rows = -(-(2 + len(records)) // columns)
    figure = new_figure(3.1 * columns, 2.75 * rows + 1.0, compress=True)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    shown_image(axes[0], t.x[sample], cmap)
    panels = [("dL/dx\nof the image", strongest(dx[sample]))]
    for r in records:
        if r.dy is not None:
            name = f"{shortened(r.key, 26)}\n{r.y.shape[1]}×{r.y.shape[2]}"
            panels.append((name, np.sqrt(np.square(r.dy[sample]).mean(axis=-1))))
    axes[0].set_title(f"image {sample} of the batch", fontsize=9, color=TEXT)
    for ax, (name, values) in zip(axes[1:], panels, strict=False):
        drawn = ax.imshow(values, **scale_for(values))
        ax.set(xticks=[], yticks=[])
        ax.set_title(name, fontsize=9, color=TEXT, parse_math=False)
        for spine in ax.spines.values():
            spine.set_color(OTHER)
        colour_bar(drawn, ax, "")
    for ax in axes[1 + len(panels) :]:
        ax.set_visible(False)
    size = np.abs(panels[0][1])
    found = "No gradient reaches the image: the loss does not depend on it"
    if size.max() > 0:
        found = f"Half of the gradient that reaches the image lies on {100 * half_of(size):.0f} % of its pixels"
    headline(figure, found)
    footnote(figure, "dL/dx: blue pixels raise the loss when they grow, orange ones lower it. The others: root mean "
             "square of dL/dy over the channels, never negative. L is the mean loss of "
             f"{counted(len(t.x), 'traced image')}.")  # fmt: skip
    return saved(figure, save)


def strongest(values: np.ndarray) -> np.ndarray:
    """(H, W, C) -> (H, W): of each pixel the number that is farthest from 0, with its sign."""
    at = np.abs(values).argmax(axis=-1)[..., None]
    return np.take_along_axis(values, at, axis=-1)[..., 0]


def half_of(size: np.ndarray) -> float:
    """The smallest share of the pixels that holds half of the sum of `size`."""
    ordered = np.sort(size.ravel().astype(np.float64))[::-1]
    return float((1 + np.searchsorted(np.cumsum(ordered), ordered.sum() / 2)) / ordered.size)


def _kernel(source: Any, layer: str | None) -> tuple[str, np.ndarray]:
    """(name, w) of a convolution of a model or trace."""
    if isinstance(source, Trace):
        where, found = source.model_name, {r.key: r.params for r in source.layers}
    elif isinstance(source, Network):
        source.require_built("it has no filters")
        where = source.name
        found = {key: one.params for key, one in source.layers_by_key.items()}
    else:
        raise InputError("filters", "this has no filters.", "a model or a Trace.", f"{type(source).__name__}.",
                         "pass the model.")  # fmt: skip
    kernels = {key: to_host(params["w"]) for key, params in found.items() if "w" in params and params["w"].ndim == 4}
    if not kernels or layer is not None and layer not in kernels:
        raise InputError(where if layer is None else layer, "there are no filters.",
                         "a convolution" + (f": {', '.join(kernels)}." if kernels else "."),
                         "a model without one." if layer is None else f"{layer!r}.",
                         "name one of these." if kernels else "use a model with Conv2D.")  # fmt: skip
    key = next(iter(kernels)) if layer is None else layer
    return key, kernels[key]


def _maps(
    t: Trace,
    sample: int,
    maps: np.ndarray,
    framed: tuple[np.ndarray, np.ndarray],
    found: str,
    note: str,
    label: str,
    cmap: str,
    ax: Axes | None,
) -> Figure:
    """The image, and a tile for each channel; framed: the numbers of those in thick and in dashed frames."""
    grid, columns = _in_rows(maps)
    with_image = ax is None
    if ax is None:
        rows, side = len(grid), 0.92
        width, height = side * columns + 3.6, max(2.6, (side + 0.02) * rows) + 1.2
        figure = new_figure(width, height)
        left, ax = figure.subplots(1, 2, width_ratios=[2, side * columns + 0.5])
        if t.x.ndim == 4:
            shown_image(left, t.x[sample], cmap)
            left.set_title(f"image {sample} of the batch", fontsize=9, color=TEXT)
        else:
            left.set_visible(False)
        headline(figure, found)
        footnote(figure, note)
    figure = ax.figure  # type: ignore[assignment]
    drawn = _mosaic(ax, grid, maps, numbers=len(maps))
    for k in framed[0]:
        _framed(ax, k % columns, k // columns, 1, maps.shape[1:])
    for k in framed[1]:
        _framed(ax, k % columns, k // columns, 1, maps.shape[1:], dashed=True)
    if not with_image:
        title(ax, found, 9)
    colour_bar(drawn, ax, label)
    return figure


def _in_rows(tiles: np.ndarray) -> tuple[np.ndarray, int]:
    """(K, h, w) -> ((rows, columns, h, w), columns), nearly square, the places that are left over NaN."""
    count, h, w = tiles.shape
    columns = min(count, max(4, int(np.ceil(np.sqrt(1.7 * count)))))
    rows = -(-count // columns)
    grid = np.full((rows * columns, h, w), np.nan)
    grid[:count] = tiles
    return grid.reshape(rows, columns, h, w), columns


def _mosaic(ax: Axes, grid: np.ndarray, values: np.ndarray, labels: list[str] | None = None, numbers: int = 0) -> Any:
    """Tiles (rows, columns, h, w) side by side on the scale of `values`, divided by lines."""
    rows, columns, h, w = grid.shape
    ax.set_facecolor("#eef0f3")
    drawn = ax.imshow(grid.transpose(0, 2, 1, 3).reshape(rows * h, columns * w), **scale_for(values))
    small = max(h, w) <= 7 and grid.size <= 6000
    ax.hlines(np.arange(rows + 1) * h - 0.5, -0.5, columns * w - 0.5, color="#9aa3af", linewidth=2)
    ax.vlines(np.arange(columns + 1) * w - 0.5, -0.5, rows * h - 0.5, color="#9aa3af", linewidth=2)
    if small:
        flat = grid.transpose(0, 2, 1, 3).reshape(rows * h, columns * w)
        y, x = np.nonzero(flat < -0.02 * np.nanmax(np.abs(values)))
        inches = float(ax.figure.get_size_inches()[0]) * 72 / (columns * w)  # type: ignore[union-attr]
        ax.scatter(x, y, marker="_", s=(0.32 * min(inches, 24)) ** 2, color=TEXT, linewidths=0.9, alpha=0.75)
    for k in range(numbers):
        box = {"boxstyle": "square,pad=0.12", "facecolor": "white", "edgecolor": "none", "alpha": 0.8}
        ax.text((k % columns + 0.04) * w - 0.5, (k // columns + 0.04) * h - 0.5, str(k), fontsize=6.5, color=TEXT,
                va="top", ha="left", bbox=box)  # fmt: skip
    ax.set(xticks=[], yticks=[], xlim=(-0.5, columns * w - 0.5), ylim=(rows * h - 0.5, -0.5))
    if labels:
        ax.set_yticks((np.arange(rows) + 0.5) * h - 0.5, labels, fontsize=7.5)
    ax.tick_params(length=0, colors=TEXT)
    for spine in ax.spines.values():
        spine.set_visible(False)
    return drawn


def _framed(ax: Axes, x: int, y: int, rows: int, tile: Sequence[int], dashed: bool = False) -> None:
    """A red frame around tile (x, y), over `rows` tiles."""
    from matplotlib.patches import Rectangle

    h, w = tile
    style: dict[str, Any] = {"linestyle": (0, (2, 1.5)), "linewidth": 1.4} if dashed else {"linewidth": 2.8}
    style |= {"fill": False, "edgecolor": WRONG, "zorder": 5, "clip_on": False}
    ax.add_patch(Rectangle((x * w - 0.5, y * h - 0.5), w, rows * h, **style))


def _these(indices: np.ndarray, thing: str) -> str:
    """ "map 3 is", "maps 3, 5 and 9 are"; with many, how many."""
    if len(indices) > 6:
        return f"{len(indices)} {thing}s are"
    names = [str(k) for k in indices]
    return f"{thing} {names[0]} is" if len(names) == 1 else f"{thing}s {', '.join(names[:-1])} and {names[-1]} are"


# ---- most-activating patches ---------------------------------------------------------------------------------------


def top_activations(
    model: Any, images: Any, layer: str | None = None, count: int = 8, batch_size: int = 64
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where each channel of a layer is excited most: (values, images, places), with at most one place of an image.

    images: (N, H, W, C), walked through in batches, in evaluation mode. values: (channels, count), the largest first;
    images: (channels, count), which image; places: (channels, count, 2), row and column in the layer's output. Of equal
    values the earlier image counts, and in it the first place. With fewer images, count is their number.
    """
    x, index = _ready(model, images, layer)
    check_count("count", count)
    check_count("batch_size", batch_size)
    nodes = part_up_to(model.nodes, index)
    count = min(count, len(x))
    best: tuple[np.ndarray, ...] = ()
    for start in range(0, len(x), batch_size):
        y = to_host(forward(nodes, new_contexts(nodes), model.as_input(x[start : start + batch_size])))
        n, _, width, channels = y.shape
        flat = y.reshape(n, -1, channels)
        at = flat.argmax(axis=1)
        found = np.take_along_axis(flat, at[:, None], axis=1)[:, 0], np.arange(start, start + n)[:, None] + 0 * at, at
        best = tuple(np.concatenate(pair) for pair in zip(best, found, strict=True)) if best else found
        order = np.argsort(-best[0], axis=0, kind="stable")[:count]
        best = tuple(np.take_along_axis(part, order, axis=0) for part in best)
    values, which, at = (part.T for part in best)
    return values, which, np.stack([at // width, at % width], axis=-1)


@in_words
def top_patches(
    model: Any,
    images: Any,
    layer: str | None = None,
    channels: Sequence[int] | None = None,
    count: int = 8,
    labels: Any = None,
    class_names: Sequence[str] | None = None,
    batch_size: int = 64,
    cmap: str = "binary",
    save: Any = None,
) -> Figure:
    """The pieces of images that excite each filter most: what it looks for.

        top_patches(model, x_test, "conv2d_2", labels=y_test, class_names=names, save="patches.png")

    images: (N, H, W, C) as the model takes them, walked through in batches. layer: its name, None for the last
    convolution. channels: which filters, None for the eight with the largest outputs. A patch is the receptive
    field of the output, at most one of an image; hatched: outside of it. labels and class_names: also says which class
    the patches come from. Raises InputError.
    """
    if labels is not None:
        class_names = check_names(class_names)
        labels = check_labels(labels, len(class_names), len(images))
    x, index = _ready(model, images, layer)
    field = _Field.of(model, index)
    values, which, places = top_activations(model, x, layer, count, batch_size)
    if channels is None:
        strength = values.max(axis=1)
        channels = sorted(np.argsort(-strength, kind="stable")[:8].tolist())
    for k in channels:
        if not isinstance(k, (int, np.integer)) or not 0 <= k < len(values):
            raise InputError("channels", "there is no such filter.", f"numbers from 0 to {len(values) - 1}.", f"{k!r}.",
                             "try channels=[0, 1, 2].")  # fmt: skip
    if len(channels) == 0:
        raise InputError("channels", "there are none.", "at least one number.", "an empty list.", "try channels=[0].")
    count = values.shape[1]
    # In inches, so that the many small axes need no search for their places.
    side, left, right, head = 0.9, 0.5, 1.75 if labels is not None else 0.2, 0.62
    width, height = left + 1.06 * side * count + right, head + 1.24 * side * len(channels) + 0.4
    figure = new_figure(max(width, 6.5), height, arrange=False)
    width = float(figure.get_size_inches()[0])
    keen = []
    for i, k in enumerate(channels):
        bottom = 1 - (head + 1.24 * side * (i + 1) - 0.06) / height
        lefts = [(left + 1.06 * side * j) / width for j in range(count)]
        row = [figure.add_axes((x0, bottom, side / width, side / height)) for x0 in lefts]
        for ax, value, image, place in zip(row, values[k], which[k], places[k], strict=True):
            _patch(ax, x[image], field.slices(place), field.size, cmap)
            ax.set_title(f"{number(value, 3)}", fontsize=8, color=TEXT, pad=2)
        row[0].set_ylabel(f"filter {k}", fontsize=9.5, fontweight="bold", color=TEXT)
        if labels is not None and class_names is not None:
            classes, counts = np.unique(labels[which[k]], return_counts=True)
            top = int(counts.argmax())
            keen.append((int(counts[top]), int(k), class_names[classes[top]]))
            row[-1].annotate(f"{counts[top]} of {count}:\n{shortened(class_names[classes[top]], 17)}", (1.12, 0.5),
                             xycoords="axes fraction", va="center", fontsize=9, color=TEXT, parse_math=False,
                             annotation_clip=False)  # fmt: skip
    key = unique_keys(model.nodes)[index]
    found = f"What excites {key} most, of {counted(len(x), 'image')}"
    if keen:
        most, k, name = max(keen, key=lambda item: (item[0], -item[1]))
        found += f": filter {k} is keenest on {name} ({most} of {count})"
    headline(figure, found)
    footnote(figure, f"Each patch is what one output of the layer sees, {field.size[0]}×{field.size[1]} pixels, with "
             "the output above it. Hatched: outside of the image.")  # fmt: skip
    return saved(figure, save)


def _ready(model: Any, images: Any, layer: str | None) -> tuple[np.ndarray, int]:
    """The images as the model takes them, and the place of the layer among the model's nodes."""
    model.require_built("nothing excites it")
    x = check_input(model, check_array("images", images), "images")
    keys = unique_keys(model.nodes)
    convolutions = [i for i, node in enumerate(model.nodes) if type(node.layer) is Conv2D]
    if layer is None and convolutions:
        return x, convolutions[-1]
    if layer not in keys:
        raise InputError(model.name if layer is None else "layer", "there is no such layer with maps.",
                         f"one of {', '.join(keys[i] for i in convolutions)}." if convolutions else "a convolution.",
                         "a model without one." if layer is None else f"{layer!r}.",
                         "name one of them." if convolutions else "use a model with Conv2D.")  # fmt: skip
    return x, keys.index(layer)


class _Field:
    """The receptive field: output (i, j) of a layer sees pixels first + step * i … + size - 1 on each axis."""

    def __init__(self, step: list[int], size: list[int], first: list[int]):
        self.step, self.size, self.first = step, size, first

    @classmethod
    def of(cls, model: Any, index: int) -> _Field:
        """Of the output of node `index`."""
        nodes = part_up_to(model.nodes, index)
        shapes = shapes_of(nodes, model.sample_shape)
        fields = [cls([1, 1], [1, 1], [0, 0])]
        for node in nodes:
            seen = [fields[j + 1] for j in node.inputs]
            if isinstance(node.layer, (Concatenate, *ELEMENTWISE)):
                fields.append(cls._union(seen))
            else:
                fields.append(seen[0]._through(node.layer, shapes[node.inputs[0] + 1]))
        return fields[-1]

    @classmethod
    def _union(cls, fields: list[_Field]) -> _Field:
        """What outputs see that are made of several values of one size: all that one of those sees."""
        first = [min(field.first[axis] for field in fields) for axis in (0, 1)]
        ends = [max(field.first[axis] + field.size[axis] for field in fields) for axis in (0, 1)]
        return cls(fields[0].step, [end - start for end, start in zip(ends, first, strict=True)], first)

    def _through(self, layer: Layer, shape: tuple[int, ...]) -> _Field:
        """The field of the layer's outputs, where this is that of its inputs, which have `shape`."""
        window = _window_of(layer)
        if window is None:
            raise InputError(layer.name, "its outputs have no place in the image.",
                             "a layer before Flatten: convolution, pooling, activation, normalisation.",
                             f"{type(layer).__name__}.", "name a convolution.")  # fmt: skip
        kernel, stride, dilation, padding = window
        pads = resolve_padding(shape[:2], kernel, stride, dilation, padding)
        after = _Field([*self.step], [*self.size], [*self.first])
        for axis in (0, 1):
            k, s, d = pair(kernel)[axis], pair(stride)[axis], pair(dilation)[axis]
            after.first[axis] -= pads[axis][0] * self.step[axis]
            after.size[axis] += (k - 1) * d * self.step[axis]
            after.step[axis] *= s
        return after

    def slices(self, place: np.ndarray) -> list[tuple[int, int]]:
        """(start, stop) on each axis; may lie outside of the image."""
        starts = [first + step * int(i) for first, step, i in zip(self.first, self.step, place, strict=True)]
        return [(start, start + size) for start, size in zip(starts, self.size, strict=True)]


def _window_of(layer: Layer) -> tuple[Any, Any, Any, Any] | None:
    """(kernel, stride, dilation, padding) of what an output sees; None where outputs have no place."""
    if type(layer).__name__.endswith("1D"):  # no images
        return None
    if isinstance(layer, Conv2D):
        return layer.kernel_size, layer.strides, layer.dilation_rate, layer.padding
    if isinstance(layer, (MaxPooling2D, AveragePooling2D)):
        return layer.pool_size, layer.strides or layer.pool_size, 1, layer.padding
    if isinstance(layer, ZeroPadding2D):
        return 1, 1, 1, layer.pads
    if isinstance(layer, (Dropout, Rescaling, BatchNormalization, ReLU)):
        return 1, 1, 1, "valid"
    return (1, 1, 1, "valid") if isinstance(layer, ActivatedLayer) and not layer.params else None


def _patch(ax: Axes, image: np.ndarray, where: list[tuple[int, int]], size: list[int], cmap: str) -> None:
    """A piece of an image; what lies outside of it is hatched."""
    from matplotlib.patches import Rectangle

    shown_image(ax, image, cmap)
    (top, bottom), (left, right) = where
    style: dict[str, Any] = {"facecolor": "#f4f5f7", "edgecolor": OTHER, "hatch": "////", "linewidth": 0, "zorder": -1}
    ax.add_patch(Rectangle((left - 0.5, top - 0.5), size[1], size[0], **style))
    ax.set(xlim=(left - 0.5, right - 0.5), ylim=(bottom - 0.5, top - 0.5))
    for spine in ax.spines.values():
        spine.set_color(FAINT)
