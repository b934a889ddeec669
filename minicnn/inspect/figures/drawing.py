"""What all figures share: the page, the colours, how numbers are written, and what is said of bad input.

Colour: zero is white. Numbers of both signs go from orange (negative) over white to blue (positive), with symmetric
limits; numbers without negative ones go from white to blue. Orange and blue can be told apart by the colour-blind.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from minicnn.backend import to_host
from minicnn.errors import InputError, visible
from minicnn.files import atomic_write, checked_path
from minicnn.inspect.trace import LayerTrace, Trace

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RIGHT, WRONG, OTHER, TEXT, FAINT = "#1f5fbf", "#c62f22", "#c3c9d2", "#25292f", "#8a919c"
NEGATIVE = ["#7f2a00", "#c2510c", "#f0a868"]  # from far below 0 to just below it
POSITIVE = ["#8fbbee", "#1f5fbf", "#08306b"]  # from just above 0 upwards
DPI = 150


def new_figure(width: float, height: float, arrange: bool = True, compress: bool = False) -> Figure:
    """A white page of so many inches. arrange: let matplotlib find the places of the axes; compress: side by side."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    places: dict[str, Any] = {"w_pad": 0.08, "h_pad": 0.08, "wspace": 0.03, "hspace": 0.02, "compress": compress}
    layout = ConstrainedLayoutEngine(**places) if arrange else None
    return Figure(figsize=(width, height), layout=layout, facecolor="white")


def saved(figure: Figure, save: Any) -> Figure:
    if save is not None:
        known = figure.canvas.get_supported_filetypes()
        kind = Path(checked_path("save", save)).suffix.lower().lstrip(".")
        if kind not in known:
            raise InputError(
                "save", "this is no kind of picture.",
                "a path that ends in " + ", ".join(f".{k}" for k in sorted(known)) + ".",
                f"{str(save)!r}.", "for example 'figure.png'.",
            )  # fmt: skip
        with atomic_write(save) as file:
            figure.savefig(file, format=kind, dpi=DPI)
    return figure


def frame(ax: Axes, colour: str, width: float) -> None:
    for spine in ax.spines.values():
        spine.set(color=colour, linewidth=width)


def percent(p: float) -> str:
    return f"{100 * p:.0f} %"


def shortened(name: str, length: int) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"


def as_picture(where: str, image: Any) -> tuple[np.ndarray, float]:
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


def check_count(name: str, value: Any) -> None:
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < 1:
        raise InputError(name, "it does not fit.", "a whole number of 1 or more.", f"{value!r}.", f"try {name}=3.")


def check_names(class_names: Any) -> list[str]:
    if isinstance(class_names, str) or not hasattr(class_names, "__len__") or len(class_names) == 0:
        raise InputError("class_names", "this is no list of names.", 'one name for each class, such as ["cat", "dog"].',
                         f"{class_names!r}.", "pass a list of strings.")  # fmt: skip
    return [drawable(name) for name in class_names]


def drawable(name: Any) -> str:
    """A name that matplotlib can draw: one from an old zip file may have bytes that are no letters."""
    return visible(str(name).encode("utf-8", "replace").decode())


def check_labels(labels: Any, classes: int, images: int, where: str = "labels") -> np.ndarray:
    """labels as (N,) whole numbers below `classes`, one for each image."""
    labels = to_host(labels)
    if images == 0:
        raise InputError("images", "there are none.", "at least one image.", "an empty array.", "check the slice.")
    received = f"shape {labels.shape}, dtype {labels.dtype}"
    if labels.ndim == 2 and labels.shape[1] == 1:  # as CIFAR-10 comes
        labels = labels[:, 0]
    if labels.ndim != 1 or len(labels) != images or labels.dtype.kind not in "ui":
        one_hot = labels.ndim == 2 and len(labels) == images
        raise InputError(where, "they do not fit the images.", f"a class number for each of the {images} images.",
                         f"{received}.", f"these look one-hot: pass {where}.argmax(axis=1)." if one_hot else
                         f"slice images and {where} alike, and pass whole numbers.")  # fmt: skip
    if labels.min() < 0 or labels.max() >= classes:
        raise InputError(where, "class numbers out of range.",
                         f"0 to {classes - 1}: there are {classes} class names.",
                         f"from {labels.min()} to {labels.max()}.", "count from 0, and name every class.")  # fmt: skip
    return labels


def check_probabilities(probabilities: Any, classes: int, images: int) -> np.ndarray:
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


# ---- words ---------------------------------------------------------------------------------------------------------


def headline(figure: Figure, text: str) -> None:
    """The finding, bold, over the whole figure."""
    width = float(figure.get_size_inches()[0])
    figure.suptitle(_wrapped(text, width, 14), x=0.01, ha="left", fontsize=12, fontweight="bold", color=TEXT,
                    parse_math=False)  # fmt: skip


def footnote(figure: Figure, text: str) -> None:
    """How to read the figure, below it."""
    width = float(figure.get_size_inches()[0])
    figure.supxlabel(_wrapped(text, width, 9), x=0.01, ha="left", fontsize=9, color=TEXT, parse_math=False)


def title(ax: Axes, text: str, size: float = 12, width: float | None = None) -> None:
    """The finding, bold, over one axes of `width` inches (its figure's, if None)."""
    inches = float(ax.figure.get_size_inches()[0]) - 1 if width is None else width  # type: ignore[union-attr]
    ax.set_title(_wrapped(text, inches, 1.15 * size), loc="left", fontsize=size, fontweight="bold", color=TEXT,
                 parse_math=False)  # fmt: skip


def _wrapped(text: str, inches: float, size: float) -> str:
    """Lines that fit, for letters of about half the font's size."""
    length = max(24, int(inches * 72 / (0.53 * size)))
    return "\n".join(line for part in text.split("\n") for line in textwrap.wrap(part, length) or [""])


def number(value: float, digits: int = 3) -> str:
    """A number as it is written in a figure: a few digits, and a true minus sign."""
    return f"{value:.{digits}g}".replace("e-0", "e-").replace("e+0", "e").replace("-", "−")


def counted(count: int, thing: str, things: str | None = None) -> str:
    """ "1 filter", "3 filters"."""
    return f"{count:,} {thing if count == 1 else things or thing + 's'}"


# ---- colours -------------------------------------------------------------------------------------------------------


def signed_map() -> Any:
    """Orange below 0, white at 0, blue above."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("signed", [*NEGATIVE, "#ffffff", *POSITIVE], N=257)


def positive_map(colours: list[str] = POSITIVE) -> Any:
    """White at 0, then ever darker."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("positive", ["#ffffff", *colours], N=257)


def scale_for(values: np.ndarray) -> dict[str, Any]:
    """The colour map and limits for imshow: symmetric about 0, or from 0 up where nothing is negative."""
    finite = values[np.isfinite(values)]
    top = float(np.abs(finite).max(initial=0)) or 1.0
    if finite.min(initial=0) < 0:
        return {"cmap": signed_map(), "vmin": -top, "vmax": top}
    return {"cmap": positive_map(), "vmin": 0.0, "vmax": top}


def colour_bar(drawn: Any, ax: Axes, label: str, at: float = 0.0) -> None:
    """The legend of an image's numbers, right of it and as high; `at`: further right by this share of its width."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    (x0, x1), (y0, y1) = ax.get_xlim(), ax.get_ylim()
    unit = min(1.0, abs(y1 - y0) / abs(x1 - x0))
    place = ax.inset_axes((1 + at + 0.035 * unit, 0, 0.045 * unit, 1))
    bar = place.figure.colorbar(drawn, cax=place, format=FuncFormatter(lambda v, _: number(v)), ticks=MaxNLocator(6))
    bar.outline.set(edgecolor=OTHER, linewidth=0.8)
    bar.ax.tick_params(colors=TEXT, labelsize=8, length=3)
    bar.set_label(label, fontsize=8.5, color=TEXT, parse_math=False)


def ink_on(colour: Any) -> str:
    """Black or white, whichever can be read on this colour."""
    r, g, b = colour[:3]
    return "#ffffff" if 0.299 * r + 0.587 * g + 0.114 * b < 0.55 else TEXT


def clean(ax: Axes) -> None:
    """Only the left and the bottom line, and a faint grid."""
    ax.tick_params(colors=TEXT, labelsize=9)
    ax.grid(axis="y", color="#e6e9ed", linewidth=0.8)
    ax.set_axisbelow(True)
    for side, spine in ax.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(FAINT)


def shown_image(ax: Axes, image: np.ndarray, cmap: str, alpha: float = 1.0) -> None:
    """An input of a model, (H, W, C), as a picture: stretched to 0…1 where its numbers are in another range."""
    picture = image[..., 0] if image.shape[-1] == 1 else image
    if picture.ndim == 3 and picture.shape[-1] != 3:
        picture = picture.mean(axis=-1)
    low, high = float(picture.min()), float(picture.max())
    if low < 0 or high > 1:
        picture = (picture - low) / ((high - low) or 1)
    ax.imshow(picture, cmap=cmap, vmin=0, vmax=1, alpha=alpha)
    ax.set(xticks=[], yticks=[])
    frame(ax, OTHER, 0.8)


# ---- traces --------------------------------------------------------------------------------------------------------


def check_trace(t: Any, backward: bool = False) -> Trace:
    """t, if it is a Trace, and if asked for, one with gradients."""
    if not isinstance(t, Trace):
        raise InputError("trace", "this is no trace.", "what model.trace(x, y) returned, or Trace.load(file).",
                         f"{type(t).__name__}.", "t = model.trace(x, y), for a few images and labels.")  # fmt: skip
    if backward and t.loss is None:
        raise InputError("trace", "it holds no gradients: only the forward pass was recorded.", "a trace with targets.",
                         "one without y.", "pass the labels too: model.trace(x, y).")  # fmt: skip
    return t


def check_sample(t: Trace, sample: Any) -> int:
    return check_index("sample", sample, len(t.x), "image of the traced batch")


def check_index(name: str, value: Any, count: int, what: str) -> int:
    """`value` as an index below `count`."""
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or not 0 <= value < count:
        raise InputError(name, f"there is no such {what}.", f"a whole number from 0 to {count - 1}.", f"{value!r}.",
                         f"try {name}=0.")  # fmt: skip
    return int(value)


def spatial_layer(t: Trace, layer: str | None, wanted: str) -> LayerTrace:
    """The layer of this name, or the first convolution; InputError where it has no maps."""
    if layer is None:
        found = [r for r in t.layers if r.y.ndim == 4 and r.kind == "Conv2D"] or [r for r in t.layers if r.y.ndim == 4]
        if not found:
            raise no_maps(t.model_name, wanted, "no layer of this model has them.")
        return found[0]
    record = t[layer]
    if record.y.ndim != 4:
        raise no_maps(layer, wanted, f"its output has shape {record.y.shape}.")
    return record


def no_maps(where: str, wanted: str, received: str) -> InputError:
    return InputError(where, f"there are no maps for {wanted}.", "a layer with output (N, H, W, C), such as Conv2D.",
                      received, "name a layer before Flatten, or use a model with convolutions.")  # fmt: skip


def class_name(names: Any, k: int) -> str:
    """The name of class k, or its number."""
    return drawable(names[k]) if names is not None and k < len(names) else f"class {k}"
