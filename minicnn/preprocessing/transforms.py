"""What is drawn at random for a batch of images, and how it is done to them.

A draw is a dict of arrays (N,), one number for each image, under Keras' names: theta, tx, ty, shear, zx, zy,
flip_horizontal, flip_vertical, channel_shift_intensity, brightness. The last two are None where nobody asked for them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minicnn.kernels.warp import affine_matrices, affine_warp, floats_of

Draw = dict[str, Any]
NOTHING = {"theta": 0, "tx": 0, "ty": 0, "shear": 0, "zx": 1, "zy": 1, "flip_horizontal": False, "flip_vertical": False}


def draw_shifts(extent: Any, length: int, n: int, rng: np.random.Generator) -> np.ndarray:
    """n shifts in pixels of images that are `length` pixels long.

    extent: a float f below 1 for -f to f of the length, one from 1 on for -f to f pixels, a whole number k for -(k-1)
    to k-1 whole pixels, or a list, of which one is taken, to either side. The numbers in a list, too, are shares if all
    are below 1.
    """
    if isinstance(extent, (int, np.integer)):
        extent = list(range(extent)) or [0]
    if np.ndim(extent):
        shifts = rng.choice(np.asarray(extent, np.float64), n) * rng.choice([-1, 1], n)
    else:
        shifts = rng.uniform(-extent, extent, n)
    return shifts * length if np.max(extent) < 1 else shifts


def transformed(x: np.ndarray, draw: Draw, fill_mode: str, cval: float) -> np.ndarray:
    """x (N, H, W, C) after the draw: floats, and not x itself."""
    p = {**NOTHING, **{name: value for name, value in draw.items() if value is not None}}
    if all(np.all(p[name] == NOTHING[name]) for name in ("theta", "tx", "ty", "shear", "zx", "zy")):
        x = _flipped(x, p["flip_horizontal"], p["flip_vertical"])
    else:  # the flips ride along in the matrix
        x = affine_warp(x, affine_matrices(x.shape[1:3], **{name: p[name] for name in NOTHING}), fill_mode, cval)
    if draw.get("channel_shift_intensity") is not None:
        x = channels_shifted(x, draw["channel_shift_intensity"])
    return x if draw.get("brightness") is None else brightened(x, draw["brightness"])


def _flipped(x: np.ndarray, horizontal: Any, vertical: Any) -> np.ndarray:
    y = x.astype(floats_of(x))
    sideways, upside_down = (np.broadcast_to(np.asarray(flag, bool), len(x)) for flag in (horizontal, vertical))
    y[sideways] = y[sideways, :, ::-1]
    y[upside_down] = y[upside_down, ::-1]
    return y


def channels_shifted(x: np.ndarray, intensity: Any) -> np.ndarray:
    """Each image plus its intensity, a number or (N,), clipped to the range that the image had."""
    low, high = _range(x)
    return np.clip(x + _each(intensity, x), low, high)


def brightened(x: np.ndarray, factor: Any) -> np.ndarray:
    """Each image times its factor, a number or (N,): 0 is black, 1 the image itself; what is too bright is cut off.

    White is 255, or 1 in images whose values are all 0 to 1. An image with values that no picture has (below 0, above
    255) is taken as one whose smallest value is black and whose largest is white. Keras also rounds to whole numbers.
    """
    low, high = _range(x)
    picture = (low >= 0) & (high <= 255)
    black = np.where(picture, 0, low).astype(x.dtype)
    white = np.where(picture, np.where(high > 1, 255, 1), high).astype(x.dtype)
    return np.clip((x - black) * _each(factor, x) + black, black, white)


def _range(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return x.min(axis=(1, 2, 3), keepdims=True), x.max(axis=(1, 2, 3), keepdims=True)


def _each(value: Any, x: np.ndarray) -> np.ndarray:
    """One number an image, in a shape that meets x (N, H, W, C)."""
    return np.asarray(value, x.dtype).reshape(-1, 1, 1, 1)
