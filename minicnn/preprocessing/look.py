"""What the images that a model learned from look like, and in what another picture differs from them.

A network that has seen light ink on black is as sure of dark ink on white paper, and wrong. So the look of the training
images is kept with the model: how bright the background is, whether things on it are lighter or darker, how much of the
image they fill, and around what they are centred. A picture that differs can be noticed, and prepared: `prepare.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from minicnn.arguments import in_words
from minicnn.errors import InputError

EVEN = 25.0  # a background is one where its brightness differs by less than so much from image to image
LARGE = 64.0  # of 255: a difference that nobody overlooks
GRAIN = 6.0  # what pixels of one brightness differ by, in photos
# A difference in size or place, in shares of the side, that a network has not seen: where things are centred by their
# mass they are brought to one size exactly, as in MNIST; else not so exactly.
NEAR_BY_MASS, NEAR_BY_BOX = 0.07, 0.13
SAMPLES = 2000  # images that are looked at


@in_words
@dataclass(frozen=True)
class Look:
    """The look of images with one background, in shares of the side and levels from 0 to 255.

    background: its brightness. lighter: things are lighter than it. fill: the share of the image's longer side that a
    thing takes. density: the share of the box around it that it covers: strokes little, clothes much. by_mass: things
    are centred by their mass, as in MNIST, not by that box. aspect: width / height of the pictures before they were
    brought to one size, or None where that is not known. Raises InputError.
    """

    background: float
    lighter: bool
    fill: float
    density: float
    by_mass: bool
    aspect: float | None = None

    def __post_init__(self) -> None:
        numbers = [self.background, self.fill, self.density, *([] if self.aspect is None else [self.aspect])]
        fits = all(isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) for v in numbers)
        shares = fits and 0 < self.fill <= 1 and 0 < self.density <= 1
        if not shares or not 0 <= self.background <= 255 or any(v <= 0 for v in numbers[3:]):
            raise InputError(
                "look", "it does not fit.",
                "a background from 0 to 255, a fill and a density above 0 up to 1, an aspect above 0.",
                f"{self.background!r:.20}, {self.fill!r:.20}, {self.density!r:.20}, {self.aspect!r:.20}.",
                "let ImageInput.learn find it.",
            )  # fmt: skip


def look_of(x: Any, aspect: float | None = None) -> Look | None:
    """The Look of images x (N, H, W) or (N, H, W, C), numbers from 0 to 255; None where they have no one background:
    photographs, for example.
    """
    x = np.asarray(x)
    x = grey(x[:: max(1, len(x) // SAMPLES)])
    levels = np.array([level(image) for image in x])
    ranges = np.ptp(x.reshape(len(x), -1), axis=1)
    if not len(x) or levels.std() > EVEN or np.median(ranges) < LARGE:
        return None
    background = float(levels.mean())
    differs = x - background
    lighter = float((differs**3).mean()) > 0
    fills, densities, masses, boxes = [], [], [], []
    for thing in np.clip(differs if lighter else -differs, 0, None):
        mask = thing > thing.max() / 4
        box = box_of(mask)
        if box is not None:
            top, bottom, left, right = box
            densities.append(mask[top:bottom, left:right].mean())
            fills.append(max((bottom - top) / x.shape[1], (right - left) / x.shape[2]))
            boxes.append(((top + bottom) / 2, (left + right) / 2))
            masses.append(centre_of_mass(thing))
    by_mass = float(np.std(masses, axis=0).sum()) < float(np.std(boxes, axis=0).sum())
    return Look(background, lighter, float(np.median(fills)), float(np.median(densities)), by_mass, aspect)


def differences(x: np.ndarray, look: Look, size: tuple[int, int]) -> dict[str, str]:
    """In what a picture x (H, W, C), 0 to 255, differs from the look: what `prepare` can do about it, and why.

    size: (height, width) to which it will be brought.
    """
    found = {}
    inside = sheet(x, look)
    if inside is not x:
        x = inside
        found["center"] = "there is a sheet on it, and what counts is on the sheet"
    gray = grey(x)
    here = level(gray)
    light = background(gray)
    rest = gray - light
    if (float((rest**3).mean()) > 0) != look.lighter and np.ptp(gray) > 16:
        kind, other = ("lighter", "darker") if look.lighter else ("darker", "lighter")
        found["invert"] = (
            f"{other} things on a background of {here:.0f} of 255; the training images had {kind} ones on "
            f"{look.background:.0f}"
        )
        gray, light, rest, here = 255 - gray, 255 - light, -rest, 255 - here
    uneven = float(np.ptp(light))
    if abs(here - look.background) > LARGE / 2 or uneven > LARGE / 2:
        found["contrast"] = f"its background is not even, or far from the training images' {look.background:.0f} of 255"
    thing = np.clip(rest if look.lighter else -rest, 0, None)
    box = box_of(thing > max(thing.max() / 3, 16))
    if box is not None:
        top, bottom, left, right = box
        fill = max((bottom - top) / gray.shape[0], (right - left) / gray.shape[1])
        middle = centre_of_mass(thing) if look.by_mass else ((top + bottom) / 2, (left + right) / 2)
        off = max(abs(at / side - 0.5) for at, side in zip(middle, gray.shape, strict=True))
        near = NEAR_BY_MASS if look.by_mass else NEAR_BY_BOX
        if "center" not in found and (abs(fill - look.fill) > near or off > near):
            found["center"] = (
                f"what is on it fills {fill:.0%} of its side, {off:.0%} off the middle; the training images: "
                f"{look.fill:.0%}, in the middle"
            )
        elif "center" not in found and _peak_left(thing, size) < 0.75:
            found["center"] = f"its lines are thin, and would be faint on {size[0]}×{size[1]} pixels"
    aspect = gray.shape[1] / gray.shape[0]
    if look.aspect is not None and "center" not in found and abs(math.log(aspect / look.aspect)) > 0.1:
        found["keep_aspect_ratio"] = f"it is {gray.shape[1]}×{gray.shape[0]}, and would be squeezed"
    return found


def sheet(x: np.ndarray, look: Look) -> np.ndarray:
    """The inside of a sheet of paper that lies on a table; x (H, W, C) itself where none is seen.

    A sheet is lighter than the table: dark trousers on white paper are none. It is large, and covers the box around
    it far more than the strokes that the model knows. Where the model knows clothes, or the like, a large bright
    thing is one of those.
    """
    if look.density > 0.5:
        return x
    gray = grey(x)
    away = np.clip(gray - background(gray), 0, None)
    mask = away > max(away.max() / 3, 16)
    box = box_of(mask)
    if box is None:
        return x
    top, bottom, left, right = box
    height, width = bottom - top, right - left
    large = height > 0.4 * gray.shape[0] and width > 0.4 * gray.shape[1]
    if not large or mask[top:bottom, left:right].mean() < look.density + 0.3:
        return x
    edge = round(0.1 * min(height, width))  # its sides may be slanted
    return x[top + edge : bottom - edge, left + edge : right - edge]


def _peak_left(thing: np.ndarray, size: tuple[int, int]) -> float:
    """How much of its brightness the thing (H, W) has still where the picture is small: means of whole blocks."""
    rows, columns = max(1, thing.shape[0] // size[0]), max(1, thing.shape[1] // size[1])
    whole = thing[: thing.shape[0] // rows * rows, : thing.shape[1] // columns * columns]
    blocks = whole.reshape(whole.shape[0] // rows, rows, -1, columns).mean(axis=(1, 3))
    before, after = (float(np.quantile(v[v > v.max() / 4], 0.75)) if v.any() else 1.0 for v in (thing, blocks))
    return after / before


# ---- measures of one image -------------------------------------------------------------------------------------------


def grey(x: np.ndarray) -> np.ndarray:
    """Images (…, H, W, C) or grey ones (N, H, W) as floats (…, H, W); of 4 channels, the first 3 are colours."""
    x = np.asarray(x, np.float64)
    return x[..., :3].mean(axis=-1) if x.shape[-1] in (1, 3, 4) else x


def level(gray: np.ndarray) -> float:
    """The brightness of the outermost lines: what most of an image's edge shows is its background."""
    return float(np.median(_edge(gray)))


def _edge(gray: np.ndarray) -> np.ndarray:
    return np.concatenate([gray[0], gray[-1], gray[:, 0], gray[:, -1]])


def background(gray: np.ndarray) -> np.ndarray:
    """The background of (H, W), behind the thing, too: of one brightness where half of the edge is, else `surface`."""
    here = level(gray)
    even = np.mean(np.abs(_edge(gray) - here) <= GRAIN) >= 0.5
    return np.full(gray.shape, here) if even else surface(gray)


def surface(gray: np.ndarray, order: int = 3, rounds: int = 6) -> np.ndarray:
    """The light on the background of (H, W): a smooth surface through the pixels that are no thing.

    A polynomial of x and y, fitted first to the edge of the image, where most of the background is, then again and
    again to all pixels that are not far from it: those are the thing.
    """
    rows, columns = (np.linspace(-1, 1, side) for side in gray.shape)
    step = max(1, min(gray.shape) // 60)
    terms = [(i, j) for i in range(order + 1) for j in range(order + 1 - i)]

    def powers(r: np.ndarray, c: np.ndarray) -> np.ndarray:
        return np.stack([np.multiply.outer(r**i, c**j) for i, j in terms], axis=-1)

    a, b = powers(rows[::step], columns[::step]).reshape(-1, len(terms)), gray[::step, ::step].ravel()
    chosen = (np.maximum.outer(np.abs(rows[::step]), np.abs(columns[::step])) > 0.85).ravel()
    weights = np.zeros(len(terms))
    for i in range(rounds):
        used = [k for k, term in enumerate(terms) if sum(term) <= (order if i else 1)]  # a plane first
        weights[:] = 0
        weights[used] = np.linalg.lstsq(a[chosen][:, used], b[chosen], rcond=None)[0]
        away = np.abs(a @ weights - b)
        chosen = away <= max(2.5 * float(np.median(away[chosen])), 4.0)
        if chosen.sum() < 2 * len(terms):
            return np.full(gray.shape, level(gray))
    return powers(rows, columns) @ weights


def box_of(mask: np.ndarray) -> tuple[int, int, int, int] | None:
    """(top, bottom, left, right) of what is True in (H, W), the ends excluded; None where nothing is."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return (int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1) if len(rows) else None


def centre_of_mass(weights: np.ndarray) -> tuple[float, float]:
    """(row, column) around which weights (H, W) are balanced, in pixels from the upper left corner."""
    total = float(weights.sum()) or 1.0
    rows, columns = (np.arange(side) + 0.5 for side in weights.shape)
    return float(weights.sum(axis=1) @ rows) / total, float(weights.sum(axis=0) @ columns) / total
