"""What each kind of layer computes in both passes, and the gradient of each loss: one rule for each question.

A rule is a function of a Case, to which it adds steps. RULES says which rule answers what, by the layer's class.
The arithmetic is that of the kernels, written down once more for a single number: compare `minicnn/kernels`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from minicnn.inspect.activation_rules import POINTWISE
from minicnn.inspect.explanation import (
    NOWHERE,
    Case,
    Index,
    Products,
    Step,
    bare,
    grid,
    index_text,
    number,
    one,
    products,
)
from minicnn.inspect.merge_rules import MERGES
from minicnn.inspect.norm_rules import NORMS
from minicnn.inspect.record import LayerTrace
from minicnn.inspect.shape_rules import SHAPES
from minicnn.kernels.geometry import Pads, pair, resolve_padding

EPSILON = 1e-7  # the losses' guard against log(0)


# ---- windows: convolution and pooling --------------------------------------------------------------------------------


class Windows:
    """Where the windows of a layer lie, on each of the two axes; an axis alone counts as an image of height 1.

    A transposed convolution stamps its windows into y: `size` is that of y, `out` that of x.
    """

    def __init__(self, layer: LayerTrace):
        config = layer.config
        window = config.get("kernel_size") or config["pool_size"]
        stride = window if config["strides"] is None else config["strides"]
        self.size, self.out = _flat(layer.x.shape[1:-1], 1), _flat(layer.y.shape[1:-1], 1)
        if layer.kind == "Conv2DTranspose":
            self.size, self.out = self.out, self.size
        alone = layer.x.ndim == 3
        self.kernel, self.stride, self.dilation = (
            _flat(n, 1) if alone else pair(n) for n in (window, stride, config.get("dilation_rate", 1))
        )
        padding = config["padding"]
        if padding == "causal":
            padding = ((0, 0), ((self.kernel[1] - 1) * self.dilation[1], 0))
        self.pads: Pads = resolve_padding(self.size, self.kernel, self.stride, self.dilation, padding)

    def seen(self, axis: int, out: int) -> list[tuple[int, int]]:
        """(tap, pixel) of the window at `out`, without the padding."""
        start = out * self.stride[axis] - self.pads[axis][0]
        pixels = ((k, start + k * self.dilation[axis]) for k in range(self.kernel[axis]))
        return [(k, pixel) for k, pixel in pixels if 0 <= pixel < self.size[axis]]

    def seen_by(self, axis: int, pixel: int) -> list[tuple[int, int]]:
        """(tap, out) of all windows that see the pixel."""
        starts = ((k, pixel + self.pads[axis][0] - k * self.dilation[axis]) for k in range(self.kernel[axis]))
        stride, out = self.stride[axis], self.out[axis]
        return [(k, start // stride) for k, start in starts if start % stride == 0 and 0 <= start // stride < out]

    def moved(self, axis: int, tap: int) -> list[tuple[int, int]]:
        """(out, pixel): what the tap sees, window after window, without the padding."""
        offset = tap * self.dilation[axis] - self.pads[axis][0]
        pixels = ((out, out * self.stride[axis] + offset) for out in range(self.out[axis]))
        return [(out, pixel) for out, pixel in pixels if 0 <= pixel < self.size[axis]]

    def pairs(self, rows: list[tuple[int, int]], columns: list[tuple[int, int]], *more: Any) -> list[np.ndarray]:
        """All combinations of rows and columns (and of more axes): one array for each of their numbers."""
        r, c = np.array(rows, int).reshape(-1, 2), np.array(columns, int).reshape(-1, 2)
        at = grid(range(len(r)), range(len(c)), *more)
        return [*r[at[:, 0]].T, *c[at[:, 1]].T, *at[:, 2:].T]


def _flat(sizes: Any, height: int) -> tuple[int, int]:
    """(height, n) of n or (n,); a pair as it is."""
    found = tuple(sizes) if isinstance(sizes, (list, tuple)) else (sizes,)
    return (height, *found) if len(found) == 1 else found  # type: ignore[return-value]


def _place(index: Index) -> tuple[int, int, int, int]:
    """(n, row, column, channel) of an index of images, or of a sequence, whose row is 0."""
    n, *rest = index
    return (n, *rest) if len(rest) == 3 else (n, 0, *rest)  # type: ignore[return-value]


def _at(array: np.ndarray, *columns: Any) -> np.ndarray:
    """The indices (n, axes) of these numbers on four axes; on three, the row is left out of those of a sequence."""
    stacked = np.stack(np.broadcast_arrays(*columns), axis=-1)
    return stacked if array.ndim == 4 else np.delete(stacked, 1, axis=-1)


class _Convolution:
    """The products of a convolution, which joins a large image, a small one and a kernel w of both their channels.

    A window of the large image belongs to each pixel of the small one. A convolution makes the small image of the large
    one: x is large, z small. A transposed convolution makes the large one of the small one: x is small, z large.
    large, small: their names and arrays. name: of the kernel. depthwise: w has, for each channel of the large image,
    some of the small one; otherwise the channels of the large image are shared out over groups.
    """

    def __init__(self, layer: LayerTrace, large: str, small: str, name: str = "w", point: bool = False):
        arrays = {"x": layer.x, **layer.kept}
        self.large, self.small, self.name, self.w = large, small, name, layer.params[name]
        self.there, self.here = arrays.get(large), arrays.get(small)
        self.windows, self.point = Windows(layer), point
        self.depthwise = name == "depthwise" or layer.kind.startswith("Depthwise")
        self.ins, self.outs = self.w.shape[-2], self.w.shape[-1] // layer.config.get("groups", 1)

    def _seen(self, axis: int, out: int) -> list[tuple[int, int]]:
        return [(0, out)] if self.point else self.windows.seen(axis, out)

    def gather(self, index: Index) -> Products:
        """What a pixel of the small image is the sum of: the window of the large image, times w."""
        n, oh, ow, o = _place(index)
        seen = [o // self.outs] if self.depthwise else range(o // self.outs * self.ins, (o // self.outs + 1) * self.ins)
        i, h, j, w, c = self.windows.pairs(self._seen(0, oh), self._seen(1, ow), seen)
        assert self.there is not None
        at = _at(self.there, n, h, w, c)
        return products(self.large, self.there, at, self.name, self.w, self._weight(i, j, c, o))

    def spread(self, index: Index) -> Products:
        """What a pixel of the large image is the sum of: the small pixels whose window it lies in, times w."""
        n, h, w, c = _place(index)
        group = c if self.depthwise else c // self.ins
        outs = range(group * self.outs, (group + 1) * self.outs)
        rows, columns = ([(0, h)], [(0, w)]) if self.point else (self.windows.seen_by(0, h), self.windows.seen_by(1, w))
        i, oh, j, ow, o = self.windows.pairs(rows, columns, outs)
        assert self.here is not None
        at = _at(self.here, n, oh, ow, o)
        return products(self.small, self.here, at, self.name, self.w, self._weight(i, j, c, o))

    def met(self, index: Index) -> Products:
        """What the gradient of a weight is the sum of: the pixels of both images that it joins, all over the batch."""
        i, j, a, b = index if len(index) == 4 else (0, *index)
        c, o = (a, a * self.outs + b) if self.depthwise else (b // self.outs * self.ins + a, b)
        assert self.there is not None and self.here is not None
        size = range(len(self.here))
        if self.point:
            n, oh, ow = grid(size, *map(range, _flat(self.here.shape[1:-1], 1))).T
            h, w = oh, ow
        else:
            oh, h, ow, w, n = self.windows.pairs(self.windows.moved(0, i), self.windows.moved(1, j), size)
        order = np.lexsort((ow, oh, n))
        n, oh, h, ow, w = (column[order] for column in (n, oh, h, ow, w))
        large, small = _at(self.there, n, h, w, c), _at(self.here, n, oh, ow, o)
        return products(self.large, self.there, large, self.small, self.here, small)

    def _weight(self, i: Any, j: Any, c: Any, o: Any) -> np.ndarray:
        a, b = (c, o % self.outs) if self.depthwise else (c % self.ins, o)
        taps = (i, j) if self.w.ndim == 4 else (j,)
        return np.stack(np.broadcast_arrays(*taps, a, b), axis=-1)


def _conv_y(case: Case) -> None:
    conv = _Convolution(case.layer, "x", "dz")
    terms = conv.gather(case.index)
    whole, channels = math.prod(conv.windows.kernel), 1 if conv.depthwise else conv.ins
    outside = whole - len(terms) // channels
    if outside:
        case.note(f"{outside} of the window's {whole} pixels lie in the padding, and count as 0.")
    if conv.depthwise:
        case.note("Only one channel of x is in it: a depthwise convolution mixes no channels.")
    elif channels < case.layer.x.shape[-1]:
        case.note(f"Only the {channels} channels of its group are in it.")
    _weighted(case, "the sum of x · w over the window and its channels", terms)


def _conv_dx(case: Case) -> None:
    conv = _Convolution(case.layer, "x", "dz")
    terms = conv.spread(case.index)
    case.formula = "dx = the sum of dz · w over all outputs whose window saw this pixel (col2im)"
    case.sum("dx", "the sum of dz · w", terms)
    case.note(f"{len(terms) // conv.outs} windows saw this pixel, in each of {conv.outs} filters.")
    _tell_dz(case)


def _conv_dw(case: Case) -> None:
    case.formula = "dw = the sum of x · dz over all images and positions: what this weight was multiplied with"
    case.sum("dw", "the sum of x · dz", _Convolution(case.layer, "x", "dz").met(case.index))
    _tell_dz(case)


def _transposed_y(case: Case) -> None:
    conv = _Convolution(case.layer, "dz", "x")
    terms = conv.spread(case.index)
    case.note(f"{len(terms) // conv.outs} pixels of x stamp this one, in each of {conv.outs} channels.")
    _weighted(case, "the sum of x · w over all pixels whose stamp reaches this one, and their channels", terms)


def _transposed_dx(case: Case) -> None:
    conv = _Convolution(case.layer, "dz", "x")
    terms = conv.gather(case.index)
    case.formula = "dx = the sum of dz · w over the stamp of this pixel: a convolution of dz"
    case.sum("dx", "the sum of dz · w", terms)
    cut = math.prod(conv.windows.kernel) - len(terms) // conv.ins
    if cut:
        case.note(f"{cut} of the stamp's {math.prod(conv.windows.kernel)} pixels lie beyond the border, cut off.")
    _tell_dz(case)


def _transposed_dw(case: Case) -> None:
    case.formula = "dw = the sum of dz · x over all images and pixels: each of them has stamped with this weight"
    case.sum("dw", "the sum of dz · x", _Convolution(case.layer, "dz", "x").met(case.index))
    _tell_dz(case)


def _separable_y(case: Case) -> None:
    case.note("h is what the depthwise kernel makes of x, channel by channel; the pointwise kernel mixes the channels.")
    terms = _Convolution(case.layer, "h", "dz", "pointwise", point=True).gather(case.index)
    _weighted(case, "the sum of h · pointwise over the channels of h", terms)


def _separable_h(case: Case) -> None:
    case.formula = "h = the sum of x · depthwise over the window, in one channel of x"
    case.sum("h", "the sum of x · depthwise", _Convolution(case.layer, "x", "dh", "depthwise").gather(case.index))


def _separable_dh(case: Case) -> None:
    case.formula = "dh = the sum of dz · pointwise over all filters: h is the input of a convolution of 1×1"
    conv = _Convolution(case.layer, "h", "dz", "pointwise", point=True)
    case.sum("dh", "the sum of dz · pointwise", conv.spread(case.index))
    _tell_dz(case)


def _separable_dx(case: Case) -> None:
    case.formula = "dx = the sum of dh · depthwise over all windows that saw this pixel"
    case.sum("dx", "the sum of dh · depthwise", _Convolution(case.layer, "x", "dh", "depthwise").spread(case.index))
    case.note(f'dh is the gradient between the two kernels: explain("{case.layer.key}", "dh", …).')


def _separable_ddepthwise(case: Case) -> None:
    case.formula = "ddepthwise = the sum of x · dh over all images and positions"
    case.sum("ddepthwise", "the sum of x · dh", _Convolution(case.layer, "x", "dh", "depthwise").met(case.index))


def _separable_dpointwise(case: Case) -> None:
    case.formula = "dpointwise = the sum of h · dz over all images and pixels"
    conv = _Convolution(case.layer, "h", "dz", "pointwise", point=True)
    case.sum("dpointwise", "the sum of h · dz", conv.met(case.index))
    _tell_dz(case)


def _bias_gradient(case: Case) -> None:
    dz = case.layer.kept["dz"]
    at = grid(*(range(size) for size in dz.shape[:-1]), [case.index[0]])
    case.formula = "db = the sum of dz over all images and positions: the bias is added to each of them"
    case.sum("db", "the sum of dz", products("dz", dz, at, "", 1.0))
    _tell_dz(case)


def _max_y(case: Case) -> None:
    n, oh, ow, c = _place(case.index)
    windows, layer = Windows(case.layer), case.layer
    i, h, j, w = windows.pairs(windows.seen(0, oh), windows.seen(1, ow))
    winner, at = int(layer.kept["winner"][case.index]), _at(layer.x, n, h, w, c)
    wins = i * windows.kernel[1] + j == winner
    case.formula = "y = the largest x of the window; padding never wins"
    case.sum("y", "the winner's x", products("x", layer.x, at, "is the winner", wins))
    values = layer.x[tuple(at.T)]
    if not len(values):
        case.value("y", "a window that lies in the padding alone", -math.inf, "no number at all")
        return
    case.note(f"The winner is number {winner} of the window, counted in rows from 0.")
    largest = values.max()
    if not np.array_equal(values[wins], [largest]):
        case.note(f"This is not the largest: that is {number(float(largest))}.")
        case.steps.append(Step("y", "the largest x of the window", float(largest), worked="max(x)"))
    elif (values == largest).sum() > 1:
        equal = (values == largest).sum()
        case.note(f"{equal} are equally large: the first one wins, and alone receives the gradient.")


def _max_dx(case: Case) -> None:
    n, h, w, c = _place(case.index)
    windows, layer = Windows(case.layer), case.layer
    i, oh, j, ow = windows.pairs(windows.seen_by(0, h), windows.seen_by(1, w))
    at = _at(case.dy, n, oh, ow, c)
    won = layer.kept["winner"][tuple(at.T)] == i * windows.kernel[1] + j
    case.formula = "dx = the sum of dy over the windows that this pixel won"
    case.sum("dx", "the sum of dy where it won", products("dy", case.dy, at, "is the winner", won))
    _tell_windows(case, len(i), f"{int(won.sum())} of them won")


def _average_y(case: Case) -> None:
    n, oh, ow, c = _place(case.index)
    windows, x = Windows(case.layer), case.layer.x
    _, h, _, w = windows.pairs(windows.seen(0, oh), windows.seen(1, ow))
    case.formula = "y = the mean of x over the window; padding is not counted"
    case.sum("y", "the mean of x", products("x", x, _at(x, n, h, w, c), "1 / count", 1 / max(1, len(h))))


def _average_dx(case: Case) -> None:
    n, h, w, c = _place(case.index)
    windows = Windows(case.layer)
    _, oh, _, ow = windows.pairs(windows.seen_by(0, h), windows.seen_by(1, w))
    counts = np.array([len(windows.seen(0, a)) * len(windows.seen(1, b)) for a, b in zip(oh, ow, strict=True)])
    at = _at(case.dy, n, oh, ow, c)
    case.formula = "dx = the sum of dy / count over the windows that saw this pixel"
    case.sum("dx", "the sum of dy / count", products("dy", case.dy, at, "1 / count", 1 / counts))
    _tell_windows(case, len(oh), "each passes on its share")


def _global_y(case: Case) -> None:
    n, c = case.index[0], case.index[-1]
    at = grid([n], *(range(size) for size in case.layer.x.shape[1:-1]), [c])
    case.formula = "y = the mean of x over the whole image, channel by channel"
    case.sum("y", "the mean of x", products("x", case.layer.x, at, "1 / (H · W)", 1 / len(at)))


def _global_dx(case: Case) -> None:
    n, c = case.index[0], case.index[-1]
    pixels = math.prod(case.layer.x.shape[1:-1])
    case.formula = "dx = dy / (H · W): every pixel has the same share in the mean"
    at = (n, *[0] * (case.dy.ndim - 2), c)
    case.sum("dx", "dy / (H · W)", one("dy", at, case.dy[at], "1 / (H · W)", 1 / pixels))


def _tell_windows(case: Case, count: int, more: str) -> None:
    if count:
        case.note(f"{count} {'window' if count == 1 else 'windows'} saw this pixel; {more}.")
    else:
        case.note("No window reaches this pixel: it was dropped in the forward pass, and receives 0.")


# ---- dense, flatten, dropout, rescaling ------------------------------------------------------------------------------


def _dense_y(case: Case) -> None:
    *lead, o = case.index
    x, w = case.layer.x, case.layer.params["w"]
    x_at = grid(*([n] for n in lead), range(x.shape[-1]))
    _weighted(case, "the sum of x · w over all inputs", products("x", x, x_at, "w", w, grid(range(x.shape[-1]), [o])))


def _dense_dx(case: Case) -> None:
    *lead, i = case.index
    dz, w = case.layer.kept["dz"], case.layer.params["w"]
    at = grid(*([n] for n in lead), range(dz.shape[-1]))
    case.formula = "dx = the sum of dz · w over all outputs: each weight passes on what came through it"
    case.sum("dx", "the sum of dz · w", products("dz", dz, at, "w", w, grid([i], range(dz.shape[-1]))))
    _tell_dz(case)


def _dense_dw(case: Case) -> None:
    i, o = case.index
    x, dz = case.layer.x, case.layer.kept["dz"]
    lead = [range(size) for size in x.shape[:-1]]
    case.formula = "dw = the sum of x · dz over the samples: the input and the output that this weight connects"
    case.sum("dw", "the sum of x · dz", products("x", x, grid(*lead, [i]), "dz", dz, grid(*lead, [o])))
    _tell_dz(case)


def _flatten_y(case: Case) -> None:
    n, k = case.index
    shape = case.layer.x.shape[1:]
    at = (n, *(int(v) for v in np.unravel_index(k, shape)))
    case.formula = f"y = x in another shape: place {k} of the row is {index_text(at[1:])} of {shape}"
    case.sum("y", "the same number", one("x", at, case.layer.x[at]))


def _flatten_dx(case: Case) -> None:
    n, *rest = case.index
    at = (n, int(np.ravel_multi_index(rest, case.layer.x.shape[1:])))
    case.formula = f"dx = dy in the shape of x: {index_text(rest)} is place {at[1]} of the row"
    case.sum("dx", "the same number", one("dy", at, case.dy[at]))


def _dropout(case: Case, source: str, array: np.ndarray) -> None:
    case.formula = f"{case.what} = {source} · mask / (1 − rate)"
    if "mask" not in case.layer.kept:
        case.note("Nothing is dropped: in evaluation, or with rate 0, dropout passes everything on.")
        case.sum(case.what, source, one(source, case.index, array[case.index]))
        return
    scale = 1 / (1 - case.config["rate"])
    keep = bool(case.layer.kept["mask"][case.index])
    case.note(f"rate = {case.config['rate']}. This number was {'kept, and scaled up' if keep else 'dropped'}.")
    factor = scale * keep
    case.sum(case.what, f"{source} · mask / (1 − rate)",
             one(source, case.index, array[case.index], "mask / (1 − rate)", factor, case.index))  # fmt: skip


def _dropout_y(case: Case) -> None:
    _dropout(case, "x", case.layer.x)


def _dropout_dx(case: Case) -> None:
    _dropout(case, "dy", case.dy)


def _noise_y(case: Case) -> None:
    case.formula = "y = x + noise"
    parts = [one("x", case.index, case.layer.x[case.index])]
    if "noise" in case.layer.kept:
        parts.append(one("noise", case.index, case.layer.kept["noise"][case.index]))
    else:
        case.note("There is no noise in evaluation.")
    case.sum("y", "x + noise", *parts)


def _noise_dx(case: Case) -> None:
    case.formula = "dx = dy: the noise does not depend on x"
    case.sum("dx", "the same number", one("dy", case.index, case.dy[case.index]))


def _rescaling(case: Case, name: str) -> float:
    """scale or offset: one for all, or that of the channel."""
    numbers = np.broadcast_to(case.config[name], case.layer.x.shape[-1:])
    return float(numbers[case.index[-1]])


def _rescaling_y(case: Case) -> None:
    case.formula = "y = x · scale + offset"
    x = one("x", case.index, case.layer.x[case.index], "scale", _rescaling(case, "scale"))
    case.sum("y", "x · scale + offset", x, one("offset", (), _rescaling(case, "offset")))


def _rescaling_dx(case: Case) -> None:
    case.formula = "dx = dy · scale"
    dy = case.dy[case.index]
    case.sum("dx", "dy · scale", one("dy", case.index, dy, "scale", _rescaling(case, "scale")))


# ---- PReLU -----------------------------------------------------------------------------------------------------------


def _prelu_slope(case: Case) -> tuple[tuple[int, ...], float]:
    """(its place in alpha, the slope) of the number at case.index: places that share one have 1 in alpha's shape."""
    alpha = case.layer.params["alpha"]
    place = tuple(i if size > 1 else 0 for i, size in zip(case.index[1:], alpha.shape, strict=True))
    return place, float(alpha[place])


def _prelu_y(case: Case) -> None:
    (place, slope), x = _prelu_slope(case), float(case.layer.x[case.index])
    case.formula = "y = x above 0, else x · alpha"
    text, factor = ("x", 1.0) if x > 0 else (f"x · alpha{list(place)}", slope)
    case.sum("y", text, one("x", case.index, x, "alpha", factor))


def _prelu_dx(case: Case) -> None:
    (place, slope), x = _prelu_slope(case), float(case.layer.x[case.index])
    case.formula = "dx = dy where x is above 0, else dy · alpha"
    text, factor = ("dy", 1.0) if x > 0 else (f"dy · alpha{list(place)}", slope)
    case.sum("dx", text, one("dy", case.index, case.dy[case.index], "alpha", factor))


def _prelu_dalpha(case: Case) -> None:
    x, shape = case.layer.x, case.layer.params["alpha"].shape
    axes = (range(n) if size == 1 else [i] for i, size, n in zip(case.index, shape, x.shape[1:], strict=True))
    rows = grid(range(len(x)), *axes)
    case.formula = "dalpha = the sum of dy · min(x, 0) over all numbers with this slope"
    case.sum("dalpha", "the sum of dy · min(x, 0)", products("dy", case.dy, rows, "min(x, 0)", np.minimum(x, 0), rows))


# ---- batch normalisation ---------------------------------------------------------------------------------------------


def _norm_y(case: Case) -> None:
    layer, c, eps = case.layer, case.index[-1], case.config["epsilon"]
    rows = grid(*(range(size) for size in layer.x.shape[:-1]), [c])
    gamma, beta = (float(layer.params[p][c]) if p in layer.params else v for p, v in (("gamma", 1.0), ("beta", 0.0)))
    mean, var, spread = float(layer.kept["mean"][c]), float(layer.kept["var"][c]), 0.0
    if layer.kept["of_batch"]:
        x = products("x", layer.x, rows, "1 / count", 1 / len(rows))
        mean = case.sum("mean", f"the mean of x over the {len(rows)} numbers of channel {c} in the batch", x)
        spread = case.steps[-1].size
        away = x.value - mean
        away_of = Products("x − mean", rows, away, "(x − mean) / count", rows, away / len(rows))
        var = case.sum("var", "the mean of (x − mean)²", away_of)
        case.note("Training: mean and variance are those of the whole batch.")
    else:
        case.note("Mean and variance are the moving ones (moving_mean, moving_variance): constants here.")
    a = gamma / math.sqrt(var + eps)
    case.value("scale", "gamma / √(var + epsilon)", a, f"{bare(gamma)} / √({bare(var)} + {eps:g})")
    case.formula = "y = gamma · (x − mean) / √(var + epsilon) + beta"
    x_term, mean_term = one("x", case.index, layer.x[case.index], "scale", a), one("mean", (c,), mean, "−scale", -a)
    case.sum("y", "x · scale − mean · scale + beta", x_term, mean_term, one("beta", (c,), beta))
    case.scale = case.steps[-1].size + abs(a) * spread


def _norm_dx(case: Case) -> None:
    layer, c, eps, dy = case.layer, case.index[-1], case.config["epsilon"], case.dy
    gamma = float(layer.params["gamma"][c]) if "gamma" in layer.params else 1.0
    mean, var, x_hat = float(layer.kept["mean"][c]), float(layer.kept["var"][c]), layer.kept["x_hat"]
    rows = grid(*(range(size) for size in dy.shape[:-1]), [c])
    terms, more = [], 0.0
    if layer.kept["of_batch"]:
        case.formula = "dx = gamma / √(var + epsilon) · (dy − mean of dy − x_hat · mean of dy · x_hat)"
        m1 = case.sum("m1", "the mean of dy over the batch", products("dy", dy, rows, "1 / count", 1 / len(rows)))
        more += case.steps[-1].size
        share = x_hat[tuple(rows.T)].astype(float) / len(rows)
        m2 = case.sum("m2", "the mean of dy · x_hat over the batch", products("dy", dy, rows, "x_hat / count", share))
        here = float(x_hat[case.index])
        apart = abs(float(layer.x[case.index])) + abs(mean)  # the kernel multiplies out x − mean: two large terms
        more += abs(here) * case.steps[-1].size + abs(m2) * apart / math.sqrt(var + eps)
        case.note("Three ways back: directly, through the mean of the batch, and through its variance.")
    else:
        case.formula = "dx = dy · gamma / √(var + epsilon): mean and variance are constants here"
    a = gamma / math.sqrt(var + eps)
    case.value("scale", "gamma / √(var + epsilon)", a, f"{bare(gamma)} / √({bare(var)} + {eps:g})")
    terms.append(one("dy", case.index, dy[case.index], "scale", a))
    if layer.kept["of_batch"]:
        terms += [one("m1", (), m1, "−scale", -a), one("x_hat", case.index, here, "−scale · m2", -a * m2)]
    case.sum("dx", "directly" + (", through the mean, through the variance" if len(terms) > 1 else ""), *terms)
    case.scale = case.steps[-1].size + abs(a) * more


def _norm_dgamma(case: Case) -> None:
    dy, x_hat = case.dy, case.layer.kept["x_hat"]
    rows = grid(*(range(size) for size in dy.shape[:-1]), [case.index[0]])
    case.formula = "dgamma = the sum of dy · x_hat over all images and positions"
    case.sum("dgamma", "the sum of dy · x_hat", products("dy", dy, rows, "x_hat", x_hat, rows))


def _norm_dbeta(case: Case) -> None:
    dy = case.dy
    rows = grid(*(range(size) for size in dy.shape[:-1]), [case.index[0]])
    case.formula = "dbeta = the sum of dy over all images and positions"
    case.sum("dbeta", "the sum of dy", products("dy", dy, rows, "", 1.0))


def moving_statistic(case: Case, name: str) -> None:
    old, kept = case.layer.state[name][case.index], case.layer.kept
    if case.layer.kind == "Normalization":
        case.formula = f"{name} stays: adapt has taken it from the data, and training leaves it as it is"
        case.sum(name, "as it was", one(name, case.index, old))
        return
    if case.layer.kind != "BatchNormalization":
        raise case.refuse("nothing is known about this state.", f"{name} of a layer of class {case.layer.kind}.")
    if not kept["of_batch"]:
        case.formula = f"{name} stays: no statistics are taken in evaluation, or of a frozen layer"
        case.sum(name, "as it was", one(name, case.index, old))
        return
    m, source = case.config["momentum"], {"moving_mean": "mean", "moving_variance": "var"}[name]
    case.formula = f"{name} = momentum · {name} + (1 − momentum) · {source} of the batch"
    new = one(source, case.index, kept[source][case.index], "1 − momentum", 1 - m)
    case.sum(name, "the moving mean", one(name, case.index, old, "momentum", m), new)


# ---- activations -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Activation:
    """The activation of a layer: its name, and ReLU's slope and top or ELU's alpha."""

    name: str
    slope: float = 0.0
    top: float | None = None
    alpha: float = 1.0

    @property
    def known(self) -> bool:
        """Whether there is a rule for it: not for a custom function."""
        return self.name in ("linear", "relu", "elu", "sigmoid", "tanh", "gelu", "softmax", *POINTWISE)


def activation_of(layer: LayerTrace) -> Activation:
    """The activation that the layer is, or has; "linear" where it has none."""
    config, kind = layer.config, layer.kind
    if kind in ("ReLU", "Softmax", "ELU") and (
        config.get("threshold") or config.get("axis", -1) != -1 or config.get("alpha", 0) < 0
    ):
        return Activation(f"{kind} with options")
    if kind == "ReLU":
        return Activation("relu", config["negative_slope"], config["max_value"])
    if kind == "LeakyReLU":
        return Activation("relu", config["negative_slope"])
    if kind == "ELU":
        return Activation("elu", alpha=config["alpha"])
    name = "softmax" if kind == "Softmax" else str(config.get("activation", "linear"))
    special = {"leaky_relu": Activation("relu", 0.2), "relu6": Activation("relu", top=6.0)}
    return special.get(name, Activation(name))


def _activation(case: Case) -> Activation:
    activation = activation_of(case.layer)
    if not activation.known:
        raise case.refuse("nothing is known about this activation.", f"the activation {activation.name!r}.")
    return activation


def _weighted(case: Case, rule: str, products: Products) -> None:
    """z = x · w + b, then the activation: what convolution and dense layers have in common."""
    layer, o = case.layer, case.index[-1]
    parts, bias = [products], layer.params.get("b")
    if bias is not None:
        parts.append(one("b", (o,), bias[o]))
        rule += ", + b"
    if case.what == "z" or case.config["activation"] == "linear":
        case.formula = f"{case.what} = {rule}"
        case.sum(case.what, rule, *parts)
        return
    activation = _activation(case)
    case.formula = f"y = {activation.name}(z),  z = {rule}"
    z = case.sum("z", rule, *parts)
    case.scale = case.steps[-1].size
    _activate(case, activation, "z", z)


def _activation_y(case: Case) -> None:
    activation = _activation(case)
    case.formula = f"y = {activation.name}(x)"
    _activate(case, activation, "x", float(case.layer.x[case.index]))


def _activate(case: Case, activation: Activation, source: str, z: float) -> None:
    """y from z, which is called `source`."""
    name, at = activation.name, case.index
    text, size = bare(z), max(case.scale, abs(z))
    if name in ("linear", "relu"):
        slope = 1.0 if z > 0 or name == "linear" else activation.slope
        if activation.top is not None and z > activation.top:
            worked = f"min({text}, {activation.top:g})"
            case.value("y", f"{source}, but not more than max_value", activation.top, worked)
        else:
            reason = "" if name == "linear" else f": {source} is {'above' if z > 0 else 'not above'} 0"
            case.sum("y", f"{source} · {slope:g}{reason}", one(source, at, z, "slope", slope))
        case.scale = size
    elif name == "softmax":
        _softmax(case, source, z)
        case.scale = abs(case.steps[-1].value) * (1 + 2 * size)
    elif name in POINTWISE:
        rule = POINTWISE[name]
        case.value("y", rule.formula.format(s=source), rule.y(z), rule.worked.format(z=text))
        case.scale = (1 + abs(case.steps[-1].value)) * max(size, 1.0)
    else:
        formula, worked, y = {
            "elu": (f"{source} above 0, else alpha · (exp({source}) − 1)",
                    text if z > 0 else f"{activation.alpha:g} · (exp({text}) − 1)",
                    z if z > 0 else activation.alpha * math.expm1(z)),
            "sigmoid": (f"1 / (1 + exp(−{source}))", f"1 / (1 + exp(−{text}))", 0.5 * (1 + math.tanh(z / 2))),
            "tanh": (f"tanh({source})", f"tanh({text})", math.tanh(z)),
            "gelu": (f"{source} · Φ({source}), Φ being the normal distribution function", f"{text} · Φ({text})",
                     z * _phi(z)),
        }[name]  # fmt: skip
        case.value("y", formula, y, worked)
        case.scale = max(1.0, activation.alpha) * max(size, 1.0)


def _softmax(case: Case, source: str, z: float) -> None:
    """exp(z − max) / sum, with the other numbers of the row as they were recorded."""
    *lead, k = case.index
    row = case.layer.kept["z"][tuple(lead)].astype(float)
    largest = float(row.max())
    e = case.value("exp", f"exp({source} − max), max being the largest {source} of the row, so that nothing overflows",
                   math.exp(z - largest), f"exp({bare(z)} − {bare(largest)})")  # fmt: skip
    each = np.exp(row - largest)
    places = grid(*([n] for n in lead), range(len(row)))
    all_of_them = Products(f"exp({source} − max)", places, each, "", NOWHERE, np.ones(len(row)))
    total = case.sum("sum", f"the sum of exp({source} − max) over the row", all_of_them)
    case.sum("y", "exp / sum", one("exp", case.index, e, "1 / sum", 1 / total))
    if case.is_last and case.t.class_names and k < len(case.t.class_names):
        case.note(f"Class {k} is {case.t.class_names[k]!r}.")


def _phi(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2))


def input_gradient(case: Case) -> None:
    """The gradient with respect to an activation's input; dx of an activation that is a layer of its own."""
    t, layer, at, name = case.t, case.layer, case.index, case.what
    activation, source = _activation(case), "z" if layer.weighted else "x"
    if case.is_last and t.fused:
        case.note(f"The loss and {activation.name} are differentiated as one: from the logits directly.")
        loss_gradient(case)
        return
    dy, y = case.dy, layer.y.astype(float)[at]
    if activation.name == "softmax":
        *lead, k = at
        row = layer.y[tuple(lead)].astype(float)
        case.formula = f"{name}[i] = the sum over j of dy[j] · J[j, i],  J[j, i] = y[j] · (1 if i = j, else 0, − y[i])"
        jacobian = row * ((np.arange(len(row)) == k) - row[k])
        places = grid(*([n] for n in lead), range(len(row)))
        case.sum(name, "the sum of dy[j] · J[j, i]", products("dy", dy, places, "y[j] · ([i = j] − y[i])", jacobian))
        case.scale = case.steps[-1].size + float(abs(dy[tuple(lead)] * row).sum() * row[k])
        return
    z = float(layer.kept["z"][at])
    more = POINTWISE.get(activation.name)
    rule, slope = (more.slope_rule.format(s=source), more.slope(z, y)) if more else {
        "linear": ("1", 1.0),
        "relu": (f"1 where {source} > 0, else {activation.slope:g}", 1.0 if y > 0 else activation.slope),
        "elu": ("1 where y > 0, else y + alpha", 1.0 if y > 0 else y + activation.alpha),
        "sigmoid": ("y · (1 − y)", y * (1 - y)),
        "tanh": ("1 − y²", 1 - y * y),
        "gelu": (f"Φ({source}) + {source} · Φ'({source})",
                 _phi(z) + z * math.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)),
    }[activation.name]  # fmt: skip
    if activation.top is not None:
        rule, slope = f"{rule}, and 0 from max_value on", slope if y < activation.top else 0.0
    case.formula = f"{name} = dy · slope,  the slope of {activation.name} being {rule}"
    case.sum(name, f"dy · ({rule})", one("dy", at, dy[at], "slope", slope, at))
    largest = max(abs(z), abs(y)) if more else abs(z) if activation.name == "gelu" else 0
    case.scale = abs(float(dy[at])) * max(1.0, activation.alpha, largest)


def _tell_dz(case: Case) -> None:
    if case.is_last and case.t.fused:
        case.note("dz is the gradient of the loss and the last activation as one: (p − target) / N.")
    elif case.config["activation"] == "linear":
        case.note("dz is dy: there is no activation in between.")
    else:
        name = case.config["activation"]
        case.note(f'dz is dy through the derivative of {name}: explain("{case.layer.key}", "dz", …).')


# ---- loss ------------------------------------------------------------------------------------------------------------


def loss_gradient(case: Case) -> None:
    """The gradient of the mean loss with respect to the model's output, or to the logits where both are fused."""
    t, at, name = case.t, case.index, case.what
    loss = (t.loss_function or {})["class_name"]
    config = (t.loss_function or {})["config"]
    assert t.y_true is not None
    if config.get("axis", -1) not in (-1, t.y_pred.ndim - 1) or config.get("ignore_class") is not None:
        problem = "only a loss in which all values count, the classes last, is explained."
        raise case.refuse(problem, f"{loss} with {config}.")
    row = t.y_pred[at[:-1]].astype(float)
    # What the values are divided by, and their outputs: the samples, times the positions of each.
    n = 1 if config.get("reduction") == "sum" else t.y_pred.size // row.size
    outputs = n * row.size
    y = float(t.y_pred[at])
    if loss == "SparseCategoricalCrossentropy":
        target = (np.arange(len(row)) == t.y_true[at[:-1]]).astype(float)
    else:
        target = t.y_true[at[:-1]].astype(float)
    smooth = config.get("label_smoothing", 0)
    if smooth:
        case.note(f"The targets are smoothed by {smooth}.")
        target = target * (1 - smooth) + smooth / (2 if loss == "BinaryCrossentropy" else len(row))
    goal = float(target[at[-1]])
    if loss == "MeanSquaredError":
        case.formula = f"{name} = 2 · (y − target) / (N · outputs)"
        share = 2 / outputs
        case.sum(name, "(y − target) · 2 / (N · outputs)", one("y", at, y, "2 / (N · outputs)", share),
                 one("target", at, goal, "−2 / (N · outputs)", -share))  # fmt: skip
    elif loss == "MeanAbsoluteError":
        case.formula = f"{name} = the sign of (y − target), / (N · outputs)"
        sign = one("sign(y − target)", at, np.sign(y - goal), "1 / (N · outputs)", 1 / outputs)
        case.sum(name, "sign / (N · outputs)", sign)
    elif loss in ("SparseCategoricalCrossentropy", "CategoricalCrossentropy") and (t.fused or config["from_logits"]):
        if config["from_logits"]:
            each = np.exp(row - row.max())
            y = case.value("p", "softmax(y)", float(each[at[-1]] / each.sum()), f"exp({bare(y)} − max) / sum")
            case.scale = abs(y) * (1 + float(abs(row).max())) / n
        mass = float(target.sum())
        case.formula = f"{name} = (p − target) / N: too likely, pushed down; too unlikely, pushed up"
        case.sum(name, "(p − target) / N", one("p", at, y, "1 / N" if mass == 1 else "the targets' sum / N", mass / n),
                 one("target", at, goal, "−1 / N", -1 / n))  # fmt: skip
        case.scale = max(case.scale, case.steps[-1].size)
    elif loss == "BinaryCrossentropy" and (t.fused or config["from_logits"]):
        if config["from_logits"]:
            y = case.value("p", "sigmoid(y)", 0.5 * (1 + math.tanh(y / 2)), f"1 / (1 + exp(−{bare(y)}))")
        case.formula = f"{name} = (p − target) / (N · outputs)"
        case.sum(name, "(p − target) / (N · outputs)", one("p", at, y, "1 / (N · outputs)", 1 / outputs),
                 one("target", at, goal, "−1 / (N · outputs)", -1 / outputs))  # fmt: skip
        case.scale = 2 / outputs
    elif loss in ("SparseCategoricalCrossentropy", "CategoricalCrossentropy"):
        _unfused_categorical(case, row, target, n)
    elif loss == "BinaryCrossentropy":
        p = min(max(y, EPSILON), 1 - EPSILON)
        case.formula = f"{name} = (p − target) / (p · (1 − p)) / (N · outputs), and 0 where p was clipped"
        share = (abs(p - y) <= 1e-9) / (p * (1 - p)) / outputs
        partner = "1 / (p · (1 − p) · N · outputs)"
        case.sum(name, "(p − target) · " + partner, one("p", at, p, partner, share),
                 one("target", at, goal, "−" + partner, -share))  # fmt: skip
        case.scale = case.steps[-1].size * (1 + 1 / (1 - p))
    else:
        raise case.refuse("nothing is known about this loss.", f"the loss {loss}.")


def _unfused_categorical(case: Case, row: np.ndarray, target: np.ndarray, n: int) -> None:
    """−target / p, with p = y / sum of y: where the last layer is no softmax and the loss sees probabilities only."""
    at, k = case.index, case.index[-1]
    places = grid(*([m] for m in at[:-1]), range(len(row)))
    total = case.sum("sum", "the sum of y over the row", Products("y", places, row, "", NOWHERE, np.ones(len(row))))
    share = row / total
    clipped = np.clip(share, EPSILON, 1 - EPSILON)
    inside = abs(clipped - share) <= 1e-9
    mass = Products("target", places, target, "", NOWHERE, inside.astype(float))
    m = case.sum("mass", "the sum of the targets whose p was not clipped", mass)
    bounds = f"kept between {EPSILON:g} and 1 − {EPSILON:g}"
    case.formula = f"{case.what} = (mass − target / p) / (sum · N),  p = y / sum, {bounds}"
    factor = 1 / (total * n)
    minus = -float(inside[k]) / clipped[k] * factor
    case.sum(case.what, "(mass − target / p) / (sum · N)", one("mass", (), m, "1 / (sum · N)", factor),
             one("target", at, target[k], "−1 / (p · sum · N)", minus))  # fmt: skip


# ---- which rule answers what -----------------------------------------------------------------------------------------

_ELEMENTWISE: dict[str, Callable[[Case], None]] = {"y": _activation_y, "dx": input_gradient}
RULES: dict[str, dict[str, Callable[[Case], None]]] = {
    **dict.fromkeys(
        ("Conv1D", "Conv2D", "DepthwiseConv2D"), {"y": _conv_y, "dx": _conv_dx, "dw": _conv_dw, "db": _bias_gradient}
    ),
    "Conv2DTranspose": {"y": _transposed_y, "dx": _transposed_dx, "dw": _transposed_dw, "db": _bias_gradient},
    "SeparableConv2D": {
        "y": _separable_y, "h": _separable_h, "dh": _separable_dh, "dx": _separable_dx,
        "ddepthwise": _separable_ddepthwise, "dpointwise": _separable_dpointwise, "db": _bias_gradient,
    },
    "Dense": {"y": _dense_y, "dx": _dense_dx, "dw": _dense_dw, "db": _bias_gradient},
    **dict.fromkeys(("MaxPooling1D", "MaxPooling2D"), {"y": _max_y, "dx": _max_dx}),
    **dict.fromkeys(("AveragePooling1D", "AveragePooling2D"), {"y": _average_y, "dx": _average_dx}),
    **dict.fromkeys(("GlobalAveragePooling1D", "GlobalAveragePooling2D"), {"y": _global_y, "dx": _global_dx}),
    "Flatten": {"y": _flatten_y, "dx": _flatten_dx},
    **dict.fromkeys(("Dropout", "SpatialDropout2D"), {"y": _dropout_y, "dx": _dropout_dx}),
    "GaussianNoise": {"y": _noise_y, "dx": _noise_dx},
    "Rescaling": {"y": _rescaling_y, "dx": _rescaling_dx},
    "BatchNormalization": {"y": _norm_y, "dx": _norm_dx, "dgamma": _norm_dgamma, "dbeta": _norm_dbeta},
    "PReLU": {"y": _prelu_y, "dx": _prelu_dx, "dalpha": _prelu_dalpha},
    **MERGES,
    **NORMS,
    **SHAPES,
    **dict.fromkeys(("Activation", "ReLU", "LeakyReLU", "ELU", "Softmax"), _ELEMENTWISE),
}
