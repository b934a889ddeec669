"""One image: from a file to an array, and back."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from minicnn.arguments import in_words
from minicnn.errors import InputError, unknown_name
from minicnn.files import atomic_write
from minicnn.reading import open_image

if TYPE_CHECKING:
    from PIL.Image import Image

CHANNELS = {"grayscale": 1, "rgb": 3, "rgba": 4}
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
Size = tuple[int, int]


@in_words
def load_img(
    path: Any,
    color_mode: str = "rgb",
    target_size: int | Size | None = None,
    interpolation: str = "nearest",
    keep_aspect_ratio: bool = False,
) -> Image:
    """The image in a file, as a Pillow image. `img_to_array` makes an array of it.

    path: a file's name, or an open binary file. color_mode: "rgb", "grayscale" or "rgba": what a pixel becomes. What is
    transparent is laid on white where "rgba" was not asked for, as viewers show it (Keras drops the transparency).
    target_size: (height, width), or one number for both; None leaves the size. interpolation: "nearest", "bilinear",
    "bicubic", "box", "hamming" or "lanczos"; a smaller picture is smoothed, other than by TensorFlow's resize, so that
    image_dataset_from_directory gives slightly other pixels than Keras'. keep_aspect_ratio: cut the largest centred
    part of the right shape out first, so that nothing is squeezed.
    A photo that the camera marked as turned (EXIF) is turned upright; Keras leaves it lying. Of an animation the first
    picture is taken. 16 bits are scaled to 8; see `to_8_bits` for other numbers. Where that may not be what was meant,
    a warning says so.
    Raises FileNotFoundError, BrokenFileError for a file that is no whole image, and InputError.
    """
    img, notes = read_image(path, color_mode, target_size, interpolation, keep_aspect_ratio)
    for note in notes:
        warnings.warn(f"{getattr(path, 'name', path)}: {note}", stacklevel=3)
    return img


def read_image(
    path: Any, color_mode: str, target_size: int | Size | None, interpolation: str, keep_aspect_ratio: bool
) -> tuple[Image, list[str]]:
    """`load_img`, which see, and what is to be said of the picture."""
    from PIL import Image, ImageOps

    check_choice("color_mode", color_mode, CHANNELS)
    check_choice("interpolation", interpolation, INTERPOLATIONS)
    size = None if target_size is None else check_size("target_size", target_size)
    name = getattr(path, "name", "the image") if hasattr(path, "read") else os.fspath(path)
    if isinstance(name, str) and not hasattr(path, "read") and os.path.isdir(name):
        raise InputError(
            name, "this is a folder.", "an image file.", "a folder.",
            "name a file in it; image_dataset_from_directory reads whole folders.",
        )  # fmt: skip
    with open_image(path) as file:
        frames = getattr(file, "n_frames", 1) if file.format in ("GIF", "PNG", "WEBP", "TIFF") else 1
        notes = [] if frames == 1 else [f"of its {frames} pictures, the first is taken."]
        img, note = _in_mode(ImageOps.exif_transpose(file), color_mode)
        notes += [note] if note else []
    if size is not None and img.size != size[::-1]:
        box = centred_box(img.size, size[::-1]) if keep_aspect_ratio else None
        img = img.resize(size[::-1], getattr(Image.Resampling, interpolation.upper()), box=box)
    return img, notes


def _in_mode(img: Image, color_mode: str) -> tuple[Image, str]:
    """The image decoded and with the channels wanted, 8 bits each; and what is to be said of that, or ""."""
    from PIL import Image

    note = ""
    if img.mode.startswith("I") or img.mode == "F":  # Pillow would cut off what is above 255
        pixels, note = to_8_bits(np.asarray(img))
        img = Image.fromarray(pixels)
    if img.mode in ("P", "PA", "La", "RGBa") or "transparency" in img.info:  # a palette may have transparent entries
        img = img.convert("RGBA")
    if img.mode in ("LAB", "HSV"):  # from which Pillow knows no direct way to grey
        img = img.convert("RGB")
    if img.mode in ("LA", "RGBA") and color_mode != "rgba":
        img = _on_white(img)
    return img.convert({"grayscale": "L", "rgb": "RGB", "rgba": "RGBA"}[color_mode]), note


def _on_white(img: Image) -> Image:
    """A transparent picture as viewers show it. One of which nothing would be seen is taken as if it were opaque."""
    from PIL import Image

    lowest, highest = img.getchannel("A").getextrema()
    if lowest == 255 or highest == 0:
        return img
    white = Image.new("RGBA", img.size, "white")
    white.alpha_composite(img.convert("RGBA"))
    return white


def to_8_bits(x: np.ndarray) -> tuple[np.ndarray, str]:
    """Pixels (H, W) of more than 8 bits as uint8, rounded, and what is to be said of that, or "".

    Whole numbers from 0 to 65535 become 0 to 255. Floats are taken as 0 to 1 where none is outside, else as 0 to 255.
    All others are stretched: the smallest becomes 0, the largest 255. Source: PNG specification, section 13.12.
    """
    values = np.asarray(x, np.float64)
    values = np.where(np.isfinite(values), values, 0)
    low, high = float(values.min()), float(values.max())
    most = (1 if high <= 1 else 255) if x.dtype.kind == "f" else 65535
    of = f"its numbers, from {low:.6g} to {high:.6g},"
    if low < 0 or high > most:
        scale = 255 / (high - low) if high > low else 0
        return np.rint((values - low) * scale).astype(np.uint8), f"{of} are stretched to 0 to 255."
    y = np.rint(values * (255 / most)).astype(np.uint8)
    steps = int(y.max()) - int(y.min())
    faint = low < high and steps < 8
    return y, f"{of} become {y.min()} to {y.max()} of 255: hardly anything is to be seen on it." if faint else ""


def centred_box(size: Size, wanted: Size) -> tuple[int, int, int, int]:
    """The largest box (left, top, right, bottom) inside an image of `size` with the proportions wanted."""
    (width, height), (w, h) = size, wanted
    box_width, box_height = max(1, min(width, height * w // h)), max(1, min(height, width * h // w))
    left, top = (width - box_width) // 2, (height - box_height) // 2
    return left, top, left + box_width, top + box_height


@in_words
def img_to_array(img: Any, data_format: str | None = None, dtype: Any = np.float32) -> np.ndarray:
    """A Pillow image as an array (height, width, channels) of numbers from 0 to 255; a grey one has 1 channel."""
    check_channels_last(data_format)
    x = np.array(img, dtype=np.float32 if dtype is None else dtype)
    if x.ndim == 2:
        x = x[:, :, None]
    if x.ndim != 3:
        raise InputError(
            "img_to_array", "this is not one image.", "a Pillow image.", f"something of shape {x.shape}.",
            "pass what load_img returned.",
        )  # fmt: skip
    return x


@in_words
def array_to_img(x: Any, data_format: str | None = None, scale: bool = True, dtype: Any = None) -> Image:
    """An array (height, width, channels) with 1, 3 or 4 channels as a Pillow image.

    scale: stretch the values so that the smallest becomes 0 and the largest 255, as Keras does, whatever they mean.
    Pass scale=False for numbers that are 0 to 255 already; others are clipped.
    """
    from PIL import Image

    check_channels_last(data_format)
    x = np.asarray(x, np.float32 if dtype is None else dtype)
    if x.ndim == 2:
        x = x[:, :, None]
    if x.ndim != 3 or x.shape[2] not in CHANNELS.values() or x.size == 0:
        raise InputError(
            "array_to_img", "this is not one image.", "an array (height, width, channels) with 1, 3 or 4 channels.",
            f"shape {x.shape}.", "pass one image of a batch: x[0].",
        )  # fmt: skip
    if scale:
        x = x - x.min()
        x = x * (255 / x.max()) if x.max() > 0 else x
    x = np.rint(np.clip(x, 0, 255)).astype(np.uint8)
    return Image.fromarray(x[:, :, 0] if x.shape[2] == 1 else x)


@in_words
def save_img(
    path: Any, x: Any, data_format: str | None = None, file_format: str | None = None, scale: bool = True, **kwargs: Any
) -> None:
    """Write an array (height, width, channels) to an image file, whose ending chooses the format. scale:
    `array_to_img`.

    file_format: "png", "jpeg", …; needed where `path` is an open file. kwargs: for Pillow's save, such as quality=90.
    Raises WriteError (an OSError) where the disk refuses.
    """
    if file_format is None and isinstance(path, (str, Path)):
        file_format = Path(path).suffix[1:]
    if not file_format:
        raise InputError(
            "save_img", "the file format is not known.", "a file name with an ending, or file_format.", f"{path!r}.",
            'for example "picture.png".',
        )  # fmt: skip
    file_format = pillow_format(file_format)
    img = array_to_img(x, data_format, scale)
    if file_format == "JPEG" and img.mode == "RGBA":
        warnings.warn("JPEG has no transparency: it is dropped.", stacklevel=3)
        img = img.convert("RGB")
    if not isinstance(path, (str, os.PathLike)):
        img.save(path, format=file_format, **kwargs)
        return
    with atomic_write(path) as file:
        img.save(file, format=file_format, **kwargs)


def pillow_format(name: str) -> str:
    """Pillow's name of a file format: "jpg" -> "JPEG". Raises UnknownNameError."""
    from PIL import Image

    Image.init()
    known = {ending[1:]: kind for ending, kind in Image.registered_extensions().items() if kind in Image.SAVE}
    check_choice("file_format", name.lower(), known)
    return known[name.lower()]


# ---- arguments -------------------------------------------------------------------------------------------------------


def check_choice(argument: str, value: Any, known: Any) -> None:
    """UnknownNameError unless `value` is one of `known`."""
    if value not in list(known):
        raise unknown_name(argument, value, map(str, known))


def check_size(argument: str, size: Any) -> Size:
    """`size` as (height, width)."""
    pair = (size, size) if hasattr(size, "__index__") else size
    if (
        not isinstance(pair, (tuple, list))
        or len(pair) != 2
        or any(not hasattr(side, "__index__") or isinstance(side, bool) or side < 1 for side in pair)
    ):
        raise InputError(
            argument, "this is no size.", "(height, width): two whole numbers of 1 or more.", f"{size!r}.",
            f"for example {argument}=(64, 64).",
        )  # fmt: skip
    return int(pair[0]), int(pair[1])


def check_channels_last(data_format: str | None) -> None:
    """minicnn knows one order of the axes."""
    if data_format not in (None, "channels_last"):
        raise InputError(
            "data_format", "minicnn keeps the channels last.", 'None or "channels_last".', f"{data_format!r}.",
            "leave it out; x.transpose(0, 2, 3, 1) moves the channels of a batch to the end, x.transpose(1, 2, 0) "
            "those of one image.",
        )  # fmt: skip
