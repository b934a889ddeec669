"""Ten classes of clothes, drawn by code: data to learn on where nothing can be downloaded.

Arrays, dtypes and class names are those of Fashion-MNIST or, with `color=True`, the shapes are those of
CIFAR-10: either's scripts run on it unchanged.

How a garment is drawn. Every image has its own coordinates (u, v), about -1 to 1, u to the right and v
down: the pixel grid shifted, turned, scaled, sheared and mirrored a little. A *shape* is a function of (u,
v) that is negative inside, positive outside, and close to the distance from its edge. Then the union of two
shapes is their minimum, a cut is a maximum with the other's negative, and an edge becomes smooth by letting
the coverage fall from 1 to 0 within a pixel of it. A garment is a list of (shape, tone) that is painted in
order: first the cloth, then its details.

The clothes move, turn and change size from image to image. A dense layer ties a weight to a pixel and has
to learn each place anew; a convolution looks for the same detail everywhere. So a CNN does clearly better
here: after three epochs a dense net with 128 hidden units gets about 79 % right, a CNN with two small
convolutions 91 %.

Only + - * / and square roots of uniform random numbers are used. IEEE 754 fixes these to the last bit, so a
seed gives the same bytes on every machine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minicnn.arguments import in_words
from minicnn.datasets.fashion_mnist import CLASS_NAMES
from minicnn.datasets.fetch import Data, Split
from minicnn.errors import InputError

__all__ = ["CLASS_NAMES", "load_data"]

Garment = list[tuple[np.ndarray, Any]]  # (shape, tone): a tone of 0 is black, of 1 is the full colour
Pick = Callable[[float, float], np.ndarray]  # pick(low, high): one uniform random number per image, (n, 1, 1)


@in_words
def load_data(color: bool = False, n_train: int = 6000, n_test: int = 1000, seed: int = 0) -> Data:
    """((x_train, y_train), (x_test, y_test)), generated; the same seed gives the same bytes.

    Grey: x (n, 28, 28) uint8 and y (n,) uint8, as Fashion-MNIST. color=True: x (n, 32, 32, 3) uint8 and y
    (n, 1) uint8, as CIFAR-10. The classes are equally frequent. Raises InputError for a negative number of
    images.
    """
    for name, n in (("n_train", n_train), ("n_test", n_test)):
        if n < 0:
            problem, fix = "a number of images cannot be negative.", f"pass {name}=1000, for example."
            raise InputError(f"toy.load_data, {name}", problem, "0 or more.", f"{n}.", fix)
    return _split(color, n_train, [seed, 0]), _split(color, n_test, [seed, 1])


# ---------------------------------------------------------------- shapes: negative inside, positive outside


def panel(u, v, top, bottom, half_top, half_bottom):
    """A trapezoid that stands upright around u = 0; its half width goes from half_top to half_bottom."""
    half = half_top + (half_bottom - half_top) * ((v - top) / (bottom - top))
    return np.maximum(np.abs(u) - half, np.maximum(top - v, v - bottom))


def bar(u, v, start, end, radius, radius_end=None):
    """A thick line from start to end, each (u, v); its half thickness goes from radius to radius_end."""
    du, dv = end[0] - start[0], end[1] - start[1]
    u, v = u - start[0], v - start[1]
    along = np.clip((u * du + v * dv) / (du * du + dv * dv), 0, 1)
    u, v = u - along * du, v - along * dv
    return np.sqrt(u * u + v * v) - (radius if radius_end is None else radius + (radius_end - radius) * along)


def ellipse(u, v, centre_u, centre_v, half_width, half_height):
    """An ellipse with its axes along u and v."""
    u, v = (u - centre_u) / half_width, (v - centre_v) / half_height
    return (np.sqrt(u * u + v * v) - 1) * np.minimum(half_width, half_height, dtype=np.float32)


def union(*shapes):
    """Inside any of the shapes."""
    return shapes[0] if len(shapes) == 1 else np.minimum(shapes[0], union(*shapes[1:]))


def cut(shape, hole):
    """Inside shape and not inside hole."""
    return np.maximum(shape, -hole)


# ---------------------------------------------------------------- the ten garments


def _upper(u, v, pick: Pick, arm, bottom, neck_depth):
    """(whole, sleeves, body, hand): a torso with two sleeves. arm: from 0, none, to 1, down to the wrist."""
    half, top = pick(0.36, 0.46), -0.72
    body = panel(u, v, top, bottom, half * 0.95, half * pick(0.9, 1.15))
    shoulder = (half - 0.08, -0.58)
    reach = pick(0.25, 0.5)
    hand = (shoulder[0] + 0.12 + reach * arm, shoulder[1] + 0.1 + (1.1 - 0.4 * reach) * arm)
    sleeves = bar(np.abs(u), v, shoulder, hand, pick(0.13, 0.17), pick(0.09, 0.13))
    neck = ellipse(u, v, 0, top, pick(0.14, 0.24), neck_depth)
    return cut(union(body, sleeves), neck), sleeves, body, hand


def tshirt(u, v, pick: Pick) -> Garment:
    whole, *_ = _upper(u, v, pick, pick(0.1, 0.38), pick(0.5, 0.8), pick(0.08, 0.3))
    return [(whole, 1)]


def trouser(u, v, pick: Pick) -> Garment:
    waist, hem, crotch = pick(0.22, 0.34), pick(0.28, 0.46), pick(-0.5, -0.2)
    outer = panel(u, v, -0.9, 0.9, waist, hem)
    gap = np.maximum(np.abs(u) - 0.02 - (v - crotch) * pick(0.06, 0.14), crotch - v)
    return [(cut(outer, gap), 1), (np.maximum(outer, v + 0.78), 0.6)]


def pullover(u, v, pick: Pick) -> Garment:
    bottom = pick(0.5, 0.75)
    whole, sleeves, body, hand = _upper(u, v, pick, pick(0.75, 1.0), bottom, pick(0.04, 0.14))
    hem = np.maximum(body, bottom - 0.13 - v)
    cuffs = np.maximum(sleeves, hand[1] - 0.06 - v)
    return [(whole, 1), (union(hem, cuffs), pick(0.45, 0.65))]


def dress(u, v, pick: Pick) -> Garment:
    waist = pick(-0.3, 0.05)
    narrow = pick(0.14, 0.22)
    bodice = panel(u, v, -0.6, waist, pick(0.2, 0.32), narrow)
    skirt = panel(u, v, waist - 0.02, pick(0.75, 0.95), narrow, pick(0.32, 0.6))
    straps = bar(np.abs(u), v, (0.13, -0.88), (0.16, -0.55), 0.05)
    return [(union(bodice, skirt, straps), 1), (bar(u, v, (-narrow, waist), (narrow, waist), 0.04), 0.5)]


def coat(u, v, pick: Pick) -> Garment:
    bottom = pick(0.8, 0.95)
    whole, *_ = _upper(u, v, pick, pick(0.75, 1.0), bottom, pick(0.03, 0.08))
    depth = pick(-0.35, -0.1)
    lapels = bar(np.abs(u), v, (0.2, -0.7), (0.02, depth), 0.035)
    front = bar(u, v, (0, depth), (0, bottom), 0.035)
    return [(whole, 1), (union(lapels, front), pick(0.05, 0.3))]


def sandal(u, v, pick: Pick) -> Garment:
    heel, ball = pick(-0.1, 0.4), 0.52
    sole = union(bar(u, v, (-0.7, heel), (0.1, ball), 0.06), bar(u, v, (0.1, ball), (0.75, ball), 0.06))
    block = bar(u, v, (-0.68, heel), (-0.62, ball + 0.02), pick(0.04, 0.12))
    toes = pick(0.3, 0.45)
    arch = cut(ellipse(u, v, toes, ball, 0.3, 0.4), ellipse(u, v, toes, ball, 0.19, 0.27))
    ankle = bar(u, v, (-0.7, heel - pick(0.3, 0.45)), (pick(-0.3, -0.05), heel - 0.15), 0.05)
    back = bar(u, v, (-0.7, heel), (-0.7, heel - 0.35), 0.05)
    strap = bar(u, v, (-0.1, heel - 0.2), (0.25, ball), 0.05)
    return [(union(sole, block, np.maximum(arch, v - ball), ankle, back, strap), 1)]


def shirt(u, v, pick: Pick) -> Garment:
    bottom = pick(0.55, 0.85)
    whole, *_ = _upper(u, v, pick, pick(0.2, 1.0), bottom, pick(0.05, 0.1))
    collar = bar(np.abs(u), v, (0.06, -0.72), (0.2, -0.55), 0.07, 0.03)
    step = pick(0.2, 0.28)
    row = (v + 0.45) - np.floor((v + 0.45) / step) * step - step / 2  # the same button again and again
    buttons = np.maximum(ellipse(u, row, 0, 0, 0.06, 0.06), np.maximum(-0.45 - v, v - bottom + 0.05))
    return [(whole, 1), (collar, 0.55), (buttons, pick(0.05, 0.3))]


def sneaker(u, v, pick: Pick) -> Garment:
    ground, ankle = 0.45, pick(-0.2, 0.0)
    foot = np.maximum(ellipse(u, v, 0.05, ground, 0.8, pick(0.36, 0.46)), v - ground)
    heel = panel(u + 0.42, v, ankle, ground, pick(0.2, 0.26), 0.34)
    sole = bar(u, v, (-0.72, ground), (0.78, ground), pick(0.07, 0.1))
    lace = union(*(bar(u, v, (at, 0.08), (at + 0.16, 0.24), 0.025) for at in (-0.1, 0.1, 0.3)))
    return [(union(foot, heel), pick(0.55, 0.8)), (sole, 1), (lace, 1)]


def bag(u, v, pick: Pick) -> Garment:
    top, half = pick(-0.3, 0.0), pick(0.5, 0.75)
    box = panel(u, v, top, pick(0.5, 0.75), half * pick(0.75, 1.0), half)
    wide, high = half * pick(0.4, 0.7), pick(0.3, 0.55)
    handle = np.abs(ellipse(u, v, 0, top, wide, high)) - 0.05
    flap = bar(u, v, (-half, top + 0.2), (half, top + 0.2), 0.025)
    clasp = ellipse(u, v, 0, top + 0.22, 0.09, 0.09)
    whole = union(box, np.maximum(handle, v - top))
    return [(whole, 1), (np.maximum(flap, box), 0.5), (clasp, pick(0.0, 0.4))]


def boot(u, v, pick: Pick) -> Garment:
    ground = 0.6
    foot = np.maximum(ellipse(u, v, 0.05, ground, 0.7, pick(0.38, 0.5)), v - ground)
    shaft = panel(u + 0.32, v, pick(-0.8, -0.45), ground, pick(0.24, 0.34), 0.32)
    heel = panel(u + 0.48, v, ground - 0.05, ground + pick(0.06, 0.25), 0.17, pick(0.06, 0.16))
    sole = bar(u, v, (-0.6, ground), (0.7, ground), 0.05)
    return [(union(foot, shaft, heel), 1), (sole, 0.5)]


# In the order of CLASS_NAMES.
GARMENTS = (tshirt, trouser, pullover, dress, coat, sandal, shirt, sneaker, bag, boot)


# ---------------------------------------------------------------- from a garment to an image


def _paint(garment, n: int, size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(cover, tone), each (n, size, size) float32: how much of a pixel is cloth, and how bright it is."""

    def pick(low, high):
        return low + (high - low) * rng.random((n, 1, 1), dtype=np.float32)

    at = ((np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1) * 1.12
    scale, shift = pick(0.85, 1.1), 0.22
    x, y = at - pick(-shift, shift), at[:, None] - pick(-shift, shift)
    tan_half = pick(-0.1, 0.1)  # cos and sin of a small angle from the tangent of its half: no cosine needed
    cos, sin = (1 - tan_half * tan_half) / (1 + tan_half * tan_half), 2 * tan_half / (1 + tan_half * tan_half)
    u, v = (x * cos + y * sin) / (scale * pick(0.9, 1.1)), (y * cos - x * sin) / scale
    u = u + pick(-0.1, 0.1) * v
    u = np.where(pick(0, 1) < 0.5, u, -u)

    pixels = scale * (size / 2.24)  # pixels per unit of u and v
    cover, tone = np.zeros((2, n, size, size), np.float32)
    for shape, shade in garment(u, v, pick):
        part = np.clip(0.5 - shape * pixels, 0, 1)
        cover = np.maximum(cover, part)
        tone += part * (shade - tone)

    stripe = u * pick(-4, 4) + v * pick(-4, 4)
    # A woven pattern: a triangle wave of random direction, width and strength.
    stripe = np.abs(stripe - np.floor(stripe) - 0.5) * 2
    return cover, tone * (1 - pick(0, 0.35) * stripe)


def _split(color: bool, n: int, seed: list[int]) -> Split:
    rng = np.random.default_rng(seed)
    size = 32 if color else 28
    labels = rng.permutation(n).astype(np.int64) % 10
    x = np.empty((n, size, size, 3) if color else (n, size, size), np.uint8)
    for label, garment in enumerate(GARMENTS):
        which = np.flatnonzero(labels == label)
        cover, tone = _paint(garment, len(which), size, rng)
        if color:
            cover, tone = cover[..., None], tone[..., None]
        shape = (len(which), 1, 1, 3) if color else (len(which), 1, 1)
        # A bright cloth on a darker ground; in colour, each channel apart.
        cloth = rng.random(shape, dtype=np.float32) * 0.5 + 0.5
        ground = rng.random(shape, dtype=np.float32) * (cloth * 0.6 if color else 0.2)
        image = ground + cover * (cloth * tone - ground)
        noise = rng.random((2, *image.shape), dtype=np.float32)
        image += (noise[0] - 0.5) * 0.2
        image = np.where(noise[1] < 0.03, noise[0], image)  # specks that hide what is behind them
        x[which] = np.floor(np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)
    y = labels.astype(np.uint8)
    return x, (y[:, None] if color else y)
