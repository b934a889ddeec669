"""Digits as people draw and photograph them: strokes of a pen on paper, with shadows, at an angle, by a telephone."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

# Points of the strokes, x to the right and y down, in a box of 1 x 1; smooth curves are laid through them.
STROKES = {
    0: [[(0.5, 0.02), (0.15, 0.2), (0.08, 0.6), (0.35, 0.97), (0.7, 0.9), (0.9, 0.5), (0.8, 0.15), (0.5, 0.02)]],
    1: [[(0.45, 0.2), (0.55, 0.02)], [(0.55, 0.02), (0.52, 0.5), (0.48, 0.98)]],
    2: [[(0.12, 0.25), (0.35, 0.03), (0.72, 0.08), (0.8, 0.35), (0.5, 0.65), (0.1, 0.95)], [(0.1, 0.95), (0.9, 0.93)]],
    3: [[(0.15, 0.12), (0.5, 0.0), (0.8, 0.2), (0.42, 0.46)],
        [(0.42, 0.46), (0.85, 0.62), (0.72, 0.93), (0.4, 1.0), (0.1, 0.86)]],
    4: [[(0.6, 0.0), (0.1, 0.62)], [(0.1, 0.62), (0.9, 0.58)], [(0.66, 0.3), (0.62, 1.0)]],
    5: [[(0.85, 0.03), (0.25, 0.05)], [(0.25, 0.05), (0.2, 0.45)],
        [(0.2, 0.45), (0.6, 0.38), (0.86, 0.65), (0.6, 0.96), (0.12, 0.92)]],
    6: [[(0.72, 0.0), (0.35, 0.25), (0.12, 0.65), (0.3, 0.97), (0.65, 0.97), (0.82, 0.72), (0.55, 0.52), (0.2, 0.68)]],
    7: [[(0.1, 0.06), (0.88, 0.04)], [(0.88, 0.04), (0.6, 0.45), (0.4, 1.0)]],
    8: [[(0.78, 0.18), (0.5, 0.0), (0.22, 0.2), (0.5, 0.46), (0.82, 0.75),
         (0.5, 1.0), (0.18, 0.78), (0.5, 0.47), (0.78, 0.18)]],
    9: [[(0.8, 0.22), (0.5, 0.02), (0.2, 0.25), (0.45, 0.5), (0.8, 0.24)], [(0.8, 0.24), (0.74, 0.6), (0.6, 1.0)]],
}  # fmt: skip


def curve(points, steps=24):
    """A smooth line through the points: Catmull-Rom."""
    p = np.array([points[0], *points, points[-1]], float)
    t = np.linspace(0, 1, steps)[:, None]
    parts = []
    for a, b, c, d in zip(p, p[1:], p[2:], p[3:], strict=False):
        parts.append(0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3))
    return np.concatenate(parts)


def ink(digit, size, pen, rng, box=0.5, at=(0.5, 0.5), slant=0.0):
    """How much ink is on each pixel, 0 to 1: an array (height, width). box: of the shorter side; at: its centre."""
    width, height = size
    big = Image.new("L", (2 * width, 2 * height))
    draw, side = ImageDraw.Draw(big), 2 * box * min(size)
    for stroke in STROKES[digit]:
        points = np.array(stroke) + rng.normal(0, 0.015, (len(stroke), 2))
        line = curve(points) - 0.5
        line[:, 0] = 0.7 * line[:, 0] - slant * line[:, 1]
        line = line * side + np.array([at[0] * 2 * width, at[1] * 2 * height])
        radius = pen * side / 2
        draw.line([tuple(point) for point in line], fill=255, width=max(1, round(2 * radius)), joint="curve")
        for x, y in line[::4]:
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    return np.asarray(big.resize(size, Image.Resampling.BOX), float) / 255


def drawing(digit, seed=0, size=(280, 280), pen=0.09, colour=(0, 0, 0), **where):
    """Drawn with a mouse: ink on pure white."""
    rng = np.random.default_rng(seed)
    amount = ink(digit, size, pen, rng, **where)[..., None]
    return Image.fromarray(np.rint(255 * (1 - amount) + amount * np.array(colour)).astype(np.uint8))


def transparent(digit, seed=0, size=(280, 280), pen=0.08):
    """What an HTML canvas saves: black, and transparent where nothing was drawn."""
    amount = ink(digit, size, pen, np.random.default_rng(seed))
    return Image.fromarray(np.dstack([np.zeros((*amount.shape, 3)), 255 * amount]).round().astype(np.uint8))


def photo(digit, seed=0, size=(600, 800), pen=0.05, colour=(35, 40, 90), shadow=0.45, tilt=0.08, **where):
    """A photo of a digit on paper: uneven light, grain, an angle, a little out of focus."""
    rng = np.random.default_rng(seed)
    width, height = size
    amount = ink(digit, size, pen, rng, **where) * 0.9
    y, x = np.mgrid[0:height, 0:width] / max(size)
    angle = rng.uniform(0, 2 * np.pi)
    light = 1 - shadow * (0.5 + 0.5 * np.tanh(4 * ((x - 0.35) * np.cos(angle) + (y - 0.5) * np.sin(angle))))
    coarse = Image.fromarray(rng.normal(0, 1, (height // 8, width // 8)).astype(np.float32))
    grain = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC)) * 2
    paper = np.array([232, 228, 215.0])
    picture = paper * (1 - amount[..., None]) + np.array(colour) * amount[..., None]
    picture = picture * light[..., None] + grain[..., None] + rng.normal(0, 3, picture.shape)
    img = Image.fromarray(np.clip(np.rint(picture), 0, 255).astype(np.uint8))
    corners = np.array([(0, 0), (0, height), (width, height), (width, 0)], float)
    seen = corners * (1 - 2 * tilt) + tilt * np.array(size) + rng.uniform(-tilt, tilt, (4, 2)) * np.array(size) / 2
    img = img.transform(size, Image.Transform.QUAD, seen.ravel().tolist(), Image.Resampling.BICUBIC)
    return img.filter(ImageFilter.GaussianBlur(1.2))


def eight():
    """(name, picture, digit) of eight of them, of many kinds."""
    return [
        ("mouse.png", drawing(3, 1), 3),
        ("thin pen.png", drawing(5, 2, pen=0.03, box=0.6), 5),
        ("in the corner.png", drawing(7, 3, box=0.3, at=(0.25, 0.7), colour=(20, 20, 160)), 7),
        ("canvas.png", transparent(2, 4), 2),
        ("photo.jpg", photo(4, 5), 4),
        ("photo, shadow.jpg", photo(8, 6, shadow=0.6, pen=0.06, at=(0.45, 0.6)), 8),
        ("photo, lying.jpg", photo(0, 7, size=(800, 600), colour=(60, 60, 60), box=0.4), 0),
        ("photo, slanted.jpg", photo(2, 8, pen=0.035, slant=0.25, tilt=0.12), 2),
    ]
