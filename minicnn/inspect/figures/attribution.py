"""Why this answer? Saliency, Grad-CAM and occlusion: which pixels speak for a class, and which against it.

All three ask for the logit, the number that goes into the last softmax (or sigmoid), not for the probability: where a
model is sure, softmax is flat, its gradient nearly 0, and a picture of it would show rounding. With one sigmoid output
z, the logit of class 1 is z and that of class 0 is -z. The model runs in evaluation mode and is not changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from minicnn.arguments import in_words
from minicnn.backend import Array, to_host, xp_of
from minicnn.errors import InputError, unknown_name
from minicnn.inspect.figures.drawing import (
    NEGATIVE,
    OTHER,
    TEXT,
    check_count,
    check_index,
    class_name,
    colour_bar,
    footnote,
    headline,
    ink_on,
    new_figure,
    no_maps,
    number,
    percent,
    positive_map,
    saved,
    scale_for,
    shown_image,
    signed_map,
)
from minicnn.inspect.figures.maps import half_of, strongest
from minicnn.layers.context import Context
from minicnn.layers.network import Network
from minicnn.layers.walk import Node, Observer, backward, forward, new_contexts, unique_keys
from minicnn.training.checks import check_array, check_finite

if TYPE_CHECKING:
    from matplotlib.figure import Figure


# ---- the numbers ---------------------------------------------------------------------------------------------------


def logit_gradient(model: Any, image: Any, target: int | None = None) -> np.ndarray:
    """The derivative of a class's logit by each pixel: (H, W, C), of the model's dtype.

    image: one sample of the model's input. target: the class, None for the predicted one. K. Simonyan, A. Vedaldi,
    A. Zisserman, "Deep inside convolutional networks" (2013), section 3. Raises InputError.
    """
    run = _Run(model, image)
    return run.gradient(run.target(target))


def grad_cam_map(model: Any, image: Any, target: int | None = None, layer: str | None = None) -> tuple[np.ndarray, str]:
    """(map, layer): the evidence for a class on the coarse grid of a layer, (h, w), never negative.

    layer: its name, None for the last one whose output still has places. With its output A and the derivative G of the
    class's logit by A: map = max(0, sum over channels k of A[..., k] * mean of G[..., k]). All 0 means that nothing
    there speaks for the class. R. Selvaraju et al., "Grad-CAM" (2017), section 3. Raises InputError.
    """
    run = _Run(model, image)
    return run.cam(run.target(target), layer)


def occlusion_map(
    model: Any,
    image: Any,
    target: int | None = None,
    patch: int | None = None,
    stride: int | None = None,
    fill: Any = 0.0,
    batch_size: int = 64,
) -> np.ndarray:
    """By how much the logit of a class falls where a square is covered: (H, W), the mean over all squares on a pixel.

    patch: the square's side in pixels, None for a quarter of the image's shorter side. stride: from one square to the
    next, None for a third of the patch; the last squares end at the border. fill: what covers, a number or one for each
    channel. At most batch_size covered images exist at a time. M. Zeiler, R. Fergus, "Visualizing and understanding
    convolutional networks" (2014), section 4.2. Raises InputError.
    """
    run = _Run(model, image)
    return _spread(_falls(run, run.target(target), _patch_size(run, patch), stride, fill, batch_size), run.shape)


Falls = list[tuple[slice, slice, float]]  # a square, and by how much the logit falls when it is covered


def _falls(run: _Run, k: int, patch: int, stride: int | None, fill: Any, batch_size: int) -> Falls:
    """Every square of the image in turn, batch after batch."""
    height, width, channels = run.shape
    stride = max(1, patch // 3) if stride is None else stride
    check_count("stride", stride)
    check_count("batch_size", batch_size)
    if np.shape(fill) not in ((), (channels,)):
        raise InputError("fill", "it does not fit the image.", f"one number, or {channels}: one for each channel.",
                         f"shape {np.shape(fill)}.", "try fill=0.5.")  # fmt: skip
    squares = [(slice(y, y + patch), slice(x, x + patch))
               for y in _starts(height, patch, stride) for x in _starts(width, patch, stride)]  # fmt: skip
    whole = float(run.logit_of(run.logits, k)[0])
    falls: Falls = []
    for start in range(0, len(squares), batch_size):
        some = squares[start : start + batch_size]
        batch = np.repeat(run.image[None], len(some), axis=0)
        for covered, square in zip(batch, some, strict=True):
            covered[square] = fill
        logits = run.logit_of(run.logits_of(batch), k)
        falls += [(*square, whole - float(logit)) for square, logit in zip(some, logits, strict=True)]
    return falls


def _spread(falls: Falls, shape: tuple[int, ...]) -> np.ndarray:
    """(H, W): for each pixel the mean over the squares that lie on it."""
    total, seen = np.zeros(shape[:2]), np.zeros(shape[:2])
    for rows, columns, fall in falls:
        total[rows, columns] += fall
        seen[rows, columns] += 1
    return np.divide(total, seen, out=total, where=seen > 0)


def _starts(size: int, patch: int, stride: int) -> list[int]:
    """Where squares begin on one axis: every stride pixels, and one that ends at the border."""
    starts = list(range(0, size - patch + 1, stride))
    return starts if starts[-1] == size - patch else [*starts, size - patch]


def _patch_size(run: _Run, patch: Any) -> int:
    smaller = min(run.shape[:2])
    if patch is None:
        return max(1, smaller // 4)
    check_count("patch", patch)
    if patch > smaller:
        raise InputError("patch", "the square is larger than the image.", f"at most {smaller} pixels.", f"{patch}.",
                         "try patch=None, a quarter of the image.")  # fmt: skip
    return int(patch)


class _Values(Observer):
    """Keeps every layer's output, and the gradient with respect to it."""

    def __init__(self) -> None:
        super().__init__()
        self.outputs: dict[int, Array] = {}
        self.gradients: dict[int, Array] = {}

    def forward(self, i: int, node: Node, x: Any, ctx: Context) -> Array:
        self.outputs[i] = super().forward(i, node, x, ctx)
        return self.outputs[i]

    def backward(self, i: int, node: Node, dy: Array, ctx: Context) -> Any:
        self.gradients[i] = dy
        return super().backward(i, node, dy, ctx)


class _Run:
    """One image through a model in evaluation mode, with every layer's context and output."""

    def __init__(self, model: Any, image: Any):
        if not isinstance(model, Network):
            raise InputError("model", "this is no model.", "a Sequential.", f"{type(model).__name__}.", "pass a model.")
        model.require_built("it cannot look at an image")
        self.model: Any = model
        self.nodes, self.keys = model.nodes, unique_keys(model.nodes)
        shape = tuple(model.sample_shape or ())
        if len(shape) != 3:
            raise InputError(model.name, "its inputs are no images.", "inputs of shape (H, W, C).", f"{shape}.",
                             "use a model that begins with images, such as Input((28, 28, 1)).")  # fmt: skip
        array = check_array("image", image)
        if array.ndim == 2 and shape[-1] == 1:
            array = array[..., None]
        if array.shape != shape:
            fix = "take one image of the batch: images[0]." if array.shape[1:] == shape else "resize or convert it."
            raise InputError("image", "it does not fit the model.", f"one image of shape {shape}.",
                             f"shape {np.shape(image)}.", fix)  # fmt: skip
        check_finite("image", array[None], model.dtype)
        self.shape = shape
        self.contexts = new_contexts(self.nodes, need_backward=True, input_gradient=True)
        self.values = _Values()
        value = model.as_input(array[None])
        self.image = to_host(value)[0]
        value = forward(self.nodes, self.contexts, value, self.values)
        self.outputs = [self.values.outputs[i] for i in range(len(self.nodes))]
        self.probabilities = to_host(value)[0]
        if value.ndim != 2:
            raise InputError(model.name, "its outputs are no classes.", "an output of shape (N, classes).",
                             f"{tuple(value.shape)}.", "end the model with Dense(classes).")  # fmt: skip
        self.logits = self._logits(value, self.contexts[-1])
        self.activated = "logits" in vars(self.contexts[-1])

    @staticmethod
    def _logits(y: Array, ctx: Context) -> np.ndarray:
        """What went into the last softmax or sigmoid; the output itself where there is none."""
        return to_host(vars(ctx).get("logits", y))

    def logits_of(self, batch: np.ndarray) -> np.ndarray:
        contexts = new_contexts(self.nodes)
        return self._logits(forward(self.nodes, contexts, self.model.as_input(batch)), contexts[-1])

    def logit_of(self, logits: np.ndarray, k: int) -> np.ndarray:
        """(N,) logits of class k."""
        if logits.shape[1] == 1:
            return logits[:, 0] if k == 1 else -logits[:, 0]
        return logits[:, k]

    def target(self, target: Any) -> int:
        """The class asked for, checked; the predicted one for None."""
        row = self.logits[0]
        if target is None:
            return int(row[0] > 0) if len(row) == 1 else int(row.argmax())
        return check_index("target", target, max(2, len(row)), "class")

    def gradient(self, k: int, of: int = -1) -> np.ndarray:
        """The gradient of the logit of class k with respect to the output of node `of`, -1: the image. One sample."""
        one = np.zeros_like(self.logits)
        one[0, k if one.shape[1] > 1 else 0] = 1 if one.shape[1] > 1 or k == 1 else -1
        dy = xp_of(self.outputs[-1]).asarray(one)
        if self.activated:
            self.contexts[-1].dlogits = dy  # as a fused loss does: the backward pass begins before the softmax
        dx = backward(self.nodes, self.contexts, dy, self.values)
        return to_host(dx if of < 0 else self.values.gradients[of])[0]

    def cam(self, k: int, layer: str | None) -> tuple[np.ndarray, str]:
        spatial = [i for i, y in enumerate(self.outputs) if y.ndim == 4 and y.shape[1] * y.shape[2] > 1]
        if layer is not None and layer not in self.keys:
            raise unknown_name("layer", layer, self.keys)
        index = self.keys.index(layer) if layer is not None else spatial[-1] if spatial else -1
        if index not in spatial:
            where = self.model.name if layer is None else layer
            raise no_maps(where, "Grad-CAM", "no layer of this model keeps them." if layer is None else
                          f"its output has shape {tuple(self.outputs[index].shape)}.")  # fmt: skip
        a = to_host(self.outputs[index])[0]
        weights = self.gradient(k, index).mean(axis=(0, 1))
        return np.maximum(a @ weights, 0), self.keys[index]

    def named(self, k: int) -> str:
        return class_name(self.model.class_names, k)

    def answer(self, k: int) -> str:
        """ "Bag (97 %)", or with its logit where the outputs are no probabilities."""
        if not self.activated:
            return f"{self.named(k)} (logit {number(float(self.logit_of(self.logits, k)[0]))})"
        p = self.probabilities
        return f"{self.named(k)} ({percent(p[k] if len(p) > 1 else p[0] if k == 1 else 1 - p[0])})"


# ---- the figures ---------------------------------------------------------------------------------------------------


@in_words
def saliency(model: Any, image: Any, target: int | None = None, cmap: str = "binary", save: Any = None) -> Figure:
    """Which pixels move the logit of a class: its gradient by the image, beside the image.

        saliency(model, x_test[0], save="saliency.png")

    image: one sample of the model's input. target: the class, None for the predicted one. Blue: a larger number there
    raises the logit; orange: lowers it; of a colour image, the channel that moves it most. Raises InputError.
    """
    run = _Run(model, image)
    k = run.target(target)
    values = strongest(run.gradient(k))
    figure = new_figure(8.6, 4.2, compress=True)
    left, middle = figure.subplots(1, 2)
    shown_image(left, run.image, cmap)
    left.set_title("the image", fontsize=9.5, color=TEXT)
    drawn = middle.imshow(values, **_signed(values))
    _bare(middle, "gradient of the logit")
    colour_bar(drawn, middle, "change of the logit for each unit of a pixel")
    size = np.abs(values)
    found = f"No pixel moves the logit of {run.answer(k)}: the gradient is 0 everywhere"
    if size.max() > 0:
        found = f"{run.answer(k)}: half of the gradient lies on {100 * half_of(size):.0f} % of the pixels"
    headline(figure, found)
    footnote(figure, "Blue: more there would raise the logit; orange: lower it; white: no effect. A gradient speaks "
             "of small changes only.")  # fmt: skip
    return saved(figure, save)


@in_words
def grad_cam(
    model: Any, image: Any, target: int | None = None, layer: str | None = None, cmap: str = "binary", save: Any = None
) -> Figure:
    """Where the evidence for a class lies: the image, the coarse grid of numbers, and the grid smoothed over the image.

        grad_cam(model, x_test[0], save="grad_cam.png")        grad_cam(model, image, target=3, layer="conv2d_2")

    image: one sample. target: the class, None for the predicted one. layer: None for the last one with places; see
    grad_cam_map. Where nothing speaks for the class, the figure says so. Raises InputError.
    """
    run = _Run(model, image)
    k = run.target(target)
    values, key = run.cam(k, layer)
    h, w = values.shape
    figure = new_figure(12, 4.3, compress=True)
    axes = figure.subplots(1, 3)
    for ax in (axes[0], axes[2]):
        shown_image(ax, run.image, cmap, 1.0 if ax is axes[0] else 0.55)
    axes[0].set_title("the image", fontsize=9.5, color=TEXT)
    limits = {"cmap": positive_map(), "vmin": 0, "vmax": float(values.max()) or 1.0}
    drawn = axes[1].imshow(values, **limits)
    _bare(axes[1], f"{h}×{w} numbers of {key}")
    if h * w <= 100:
        for y, x in np.ndindex(h, w):
            text = number(float(values[y, x]), 2) if values[y, x] else "0"
            axes[1].text(x, y, text, ha="center", va="center", fontsize=max(5, min(9, 58 / w)),
                         color=ink_on(drawn.to_rgba(values[y, x])))  # fmt: skip
    _bare(axes[2], "the same, smoothed")
    if values.max() > 0:
        height, width, _ = run.shape
        alpha = np.clip(values / values.max(), 0, 1) * 0.85
        rgba = limits["cmap"](0.25 + 0.75 * values / values.max())
        rgba[..., 3] = alpha
        axes[2].imshow(rgba, extent=(-0.5, width - 0.5, height - 0.5, -0.5), interpolation="bilinear")
        y, x = np.unravel_index(int(values.argmax()), values.shape)
        found = f"{run.answer(k)}: the strongest evidence is {_place(y, x, h, w)}"
    else:
        axes[2].text(0.5, 0.5, "no positive evidence", ha="center", va="center", transform=axes[2].transAxes,
                     fontsize=12, fontweight="bold", color=TEXT,
                     bbox={"boxstyle": "round", "facecolor": "white", "edgecolor": OTHER})  # fmt: skip
        found = f"{run.answer(k)}: no positive evidence in {key}; nothing there speaks for this class"
    colour_bar(drawn, axes[1], "evidence, in units of the logit")
    headline(figure, found)
    footnote(figure, f"Only {h}×{w} numbers are known; the smooth picture interpolates between them and is no finer. "
             "White, 0: nothing speaks for the class there.")  # fmt: skip
    return saved(figure, save)


@in_words
def occlusion(
    model: Any,
    image: Any,
    target: int | None = None,
    patch: int | None = None,
    stride: int | None = None,
    fill: Any = 0.0,
    batch_size: int = 64,
    cmap: str = "binary",
    save: Any = None,
) -> Figure:
    """What the model misses when a square is covered: the image with the square, and the fall of the logit by place.

        occlusion(model, x_test[0], save="occlusion.png")        occlusion(model, photo, fill=photo.mean(axis=(0, 1)))

    Arguments and numbers: see occlusion_map. The square that costs most is drawn. Raises InputError.
    """
    run = _Run(model, image)
    k = run.target(target)
    patch = _patch_size(run, patch)
    falls = _falls(run, k, patch, stride, fill, batch_size)
    values = _spread(falls, run.shape)
    rows, across, fall = max(falls, key=lambda one: one[2])
    figure = new_figure(12, 4.3, compress=True)
    axes = figure.subplots(1, 3)
    shown_image(axes[0], run.image, cmap)
    axes[0].set_title("the image", fontsize=9.5, color=TEXT)
    drawn = axes[1].imshow(values, **_signed(values))
    _bare(axes[1], "fall of the logit when covered")
    colour_bar(drawn, axes[1], "logit before − logit after")
    covered = run.image.copy()
    covered[rows, across] = fill
    logits = run.logits_of(covered[None])
    shown_image(axes[2], covered, cmap)
    _square(axes[2], across.start, rows.start, patch)
    guess = int(logits[0, 0] > 0) if logits.shape[1] == 1 else int(logits[0].argmax())
    before = float(run.logit_of(run.logits, k)[0])
    _bare(axes[2], f"covered here: logit {number(before)} → {number(before - fall)}")
    if fall <= 0:
        found = f"{run.answer(k)}: no square matters; covering any of them does not lower the logit"
    elif guess != k and run.target(None) == k:
        found = f"{run.answer(k)}: cover one square of {patch}×{patch} pixels, and the answer is {run.named(guess)}"
    else:
        found = f"{run.answer(k)}: one square of {patch}×{patch} pixels covered lowers the logit by {number(fall, 2)}"
        found += " and the answer stays" if run.target(None) == k else ""
    headline(figure, found)
    footnote(figure, "Blue: the model needs this place for its answer; orange: without it, it would be surer; white: "
             "no effect. A pixel's number is the mean over all squares that cover it.")  # fmt: skip
    return saved(figure, save)


def _signed(values: np.ndarray) -> dict[str, Any]:
    """A symmetric scale, also where all numbers happen to have one sign."""
    top = scale_for(values)["vmax"]
    return {"cmap": signed_map(), "vmin": -top, "vmax": top}


def _bare(ax: Any, text: str) -> None:
    ax.set(xticks=[], yticks=[])
    ax.set_title(text, fontsize=9.5, color=TEXT, parse_math=False)
    for spine in ax.spines.values():
        spine.set(color=OTHER, linewidth=0.8)


def _square(ax: Any, x: int, y: int, side: int) -> None:
    from matplotlib.patches import Rectangle

    style: dict[str, Any] = {"fill": False, "edgecolor": NEGATIVE[1], "hatch": "////", "linewidth": 1.8}
    ax.add_patch(Rectangle((x - 0.5, y - 0.5), side, side, **style))


def _place(y: Any, x: Any, h: int, w: int) -> str:
    """A cell of a grid in words: "at the top left", "in the middle"."""
    row = ("top", "", "bottom")[min(2, 3 * int(y) // h)]
    column = ("left", "", "right")[min(2, 3 * int(x) // w)]
    words = " ".join(word for word in (row, column) if word)
    return f"at the {words}" if words else "in the middle"
