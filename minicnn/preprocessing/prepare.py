"""A picture made like those that a model was trained on: background, contrast, and the thing in its middle.

For MNIST this is MNIST's own recipe: the digit brought to a box of 20 x 20 without squeezing it, and laid into 28 x 28
so that its centre of mass is in the middle. Source: Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten
digits".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from minicnn.preprocessing.loading import centred_box
from minicnn.preprocessing.look import Look, background, box_of, centre_of_mass, grey, level

if TYPE_CHECKING:
    from PIL.Image import Image

WORK = 400  # pixels of the longer side that the work is done on: no model sees more
SPECK = 0.02  # of the largest thing: what is smaller is dirt


def shrunk(img: Image, side: int = WORK) -> Image:
    """The picture, at most `side` pixels long, smoothed."""
    from PIL.Image import Resampling

    if max(img.size) <= side:
        return img
    scale = side / max(img.size)
    return img.resize([max(1, round(scale * n)) for n in img.size], Resampling.BOX)


def flattened(x: np.ndarray, look: Look) -> np.ndarray:
    """x (H, W, C) with an even background of the look's brightness, and the thing on it in full contrast.

    Light on paper is a factor, so contrast is measured in shares of what is left to white, or to black.
    """
    sign = 1 if look.lighter else -1
    away = np.stack([_contrast(channel, sign) for channel in np.moveaxis(x, -1, 0)], axis=-1)
    strength = away.mean(axis=-1)
    cut = _otsu(strength)
    full = float(np.quantile(strength[strength > cut], 0.75)) if (strength > cut).any() else 1.0
    away = np.clip((away - cut / 2) / max(full - cut / 2, 1e-6), 0, 1)
    room = 255 - look.background if look.lighter else look.background
    return look.background + sign * room * away


def _contrast(channel: np.ndarray, sign: int) -> np.ndarray:
    light = np.clip(background(channel), 0, 255)
    room = 255 - light if sign > 0 else light
    return sign * (channel - light) / np.maximum(room, 32)


def _otsu(values: np.ndarray) -> float:
    """The threshold that parts the values best in two. Source: N. Otsu, "A threshold selection method from gray-level
    histograms", 1979.
    """
    counts, edges = np.histogram(values, 128)
    middles = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1].astype(float)
    above = counts.sum() - below
    sums = np.cumsum(counts * middles)
    means = sums[:-1] / np.maximum(below, 1), (sums[-1] - sums[:-1]) / np.maximum(above, 1)
    return float(middles[:-1][np.argmax(below * above * (means[0] - means[1]) ** 2)])


def centred(x: np.ndarray, look: Look, size: tuple[int, int]) -> np.ndarray:
    """The thing on x (H, W, C), cut out and laid in the middle of an image (height, width, C) as the look has it."""
    sign = 1 if look.lighter else -1
    here = level(grey(x))
    thing = np.clip(sign * (grey(x) - here), 0, None)
    mask = _largest(thing > max(thing.max() / 2, 16))  # the lines on paper are fainter than what is written on it
    box = box_of(mask)
    y = np.full((*size, x.shape[-1]), look.background)
    if box is None:
        return y
    top, bottom, left, right = box
    part = x[top:bottom, left:right] - here
    part = part * _near(mask)[top:bottom, left:right, None]
    scale = min(look.fill * size[0] / (bottom - top), look.fill * size[1] / (right - left))
    height, width = (max(1, round(scale * side)) for side in part.shape[:2])
    small = np.stack([_resized(channel, (width, height)) for channel in np.moveaxis(part, -1, 0)], axis=-1)
    fainter = float(np.abs(part).max()) / max(float(np.abs(small).max()), 1e-6)
    small *= min(2.0, fainter)  # a thin pen's line is a fraction of a pixel now
    middle = centre_of_mass(np.clip(sign * grey(small), 0, None)) if look.by_mass else (height / 2, width / 2)
    i, j = (round(side / 2 - at) for side, at in zip(size, middle, strict=True))
    above, before = max(0, -i), max(0, -j)  # what does not fit in is cut off
    inside = small[above : size[0] - i, before : size[1] - j]
    y[i + above : i + above + inside.shape[0], j + before : j + before + inside.shape[1]] += inside
    return np.clip(y, 0, 255)


def fitted(x: np.ndarray, size: tuple[int, int], interpolation: str, keep_aspect_ratio: bool) -> np.ndarray:
    """x (H, W, C) brought to (height, width), as load_img does it with a file."""
    from PIL import Image

    box = centred_box((x.shape[1], x.shape[0]), size[::-1]) if keep_aspect_ratio else None
    how = getattr(Image.Resampling, interpolation.upper())
    channels = [Image.fromarray(channel.astype(np.float32)) for channel in np.moveaxis(x, -1, 0)]
    return np.stack([np.asarray(img.resize(size[::-1], how, box=box)) for img in channels], axis=-1)


def _resized(channel: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    from PIL import Image

    img = Image.fromarray(channel.astype(np.float32))
    return np.asarray(img.resize(size, Image.Resampling.BOX), np.float64)


def _near(mask: np.ndarray) -> np.ndarray:
    """The mask and the pixels beside it, where the thing's edge fades."""
    from PIL import Image, ImageFilter

    img = Image.fromarray(mask.astype(np.uint8) * 255)
    return np.asarray(img.filter(ImageFilter.MaxFilter(5)), np.float64) / 255


def _largest(mask: np.ndarray) -> np.ndarray:
    """The mask without specks, and without what comes in from the edge, as the end of the paper does."""
    labels, sizes = _connected(mask)
    if len(sizes) == 1:
        return mask
    edge = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    inner = np.setdiff1d(np.arange(1, len(sizes)), edge)
    candidates = inner if len(inner) and sizes[inner].max() > 0.1 * sizes[1:].max() else np.arange(1, len(sizes))
    return np.isin(labels, [k for k in candidates if sizes[k] > SPECK * sizes[candidates].max()])


def _connected(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The number of each pixel's connected part (H, W), 0 outside, and how many pixels each number has."""
    labels = np.zeros(mask.shape, np.intp)
    count = 0
    for start in zip(*np.nonzero(mask), strict=True):
        if labels[start]:
            continue
        count += 1
        labels[start], todo = count, [start]
        while todo:
            i, j = todo.pop()
            for r in range(max(0, i - 1), min(mask.shape[0], i + 2)):
                for c in range(max(0, j - 1), min(mask.shape[1], j + 2)):
                    if mask[r, c] and not labels[r, c]:
                        labels[r, c] = count
                        todo.append((r, c))
    return labels, np.bincount(labels.ravel(), minlength=count + 1)
