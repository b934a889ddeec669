"""Reading files that anybody may have made: nothing that a file says is believed before it is checked.

What all readers share. They compare the sizes that a file declares with the bytes that are there, before they take
memory; they run, import and unpickle nothing, and write nothing to the disk. Whatever is wrong with a file ends in a
BrokenFileError, which names the file, the place in it, and the reason.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np

from minicnn.errors import BrokenFileError, InputError, MissingFileError, shortened
from minicnn.file_kinds import HEAD, kind_at, kind_of
from minicnn.files import checked_path

MAX_PIXELS = 50_000_000
# Packed files may grow by this factor, small ones up to MAX_SMALL bytes: numbers hardly shrink, unless they are zeros.
GROWTH, MAX_SMALL = 20, 64 << 20
# Of the formats that Pillow knows: others are rare, and one of them (EPS) starts a program.
IMAGE_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
BLOCK = 1 << 20  # bytes


@contextmanager
def checked(path: Any, problem: str, expected: str, fix: str) -> Iterator[None]:
    """Inside, whatever the content of a file brings about becomes BrokenFileError, and InputErrors name the file.

    Errors of the disk (OSError with a number) stay what they are, and so does MemoryError.
    """
    try:
        yield
    except InputError as error:
        if str(path) in error.where:
            raise
        where = f"{path}, {error.where}"
        raise type(error)(where, error.problem, error.expected, error.received, error.fix) from error
    except MemoryError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        kind = "" if type(error) is ValueError else f"{type(error).__name__}: "  # most of those are raised here
        received = f"{kind}{shortened(str(error)).rstrip('.')}."
        raise BrokenFileError(path, problem, expected, received, fix) from error


def open_file(path: Any) -> BinaryIO:
    """A file to read. Raises MissingFileError (a FileNotFoundError), OSError where the system refuses to open it,
    BrokenFileError for a folder, a device or a pipe, and InputError for what is no path.
    """
    path = checked_path("the path to read from", path)
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        raise MissingFileError(path) from None
    if not stat.S_ISREG(mode):
        kind = kind_at(path) if stat.S_ISDIR(mode) else None
        raise BrokenFileError(
            path, "this is no file.", "a file.", f"{kind.name if kind else 'a device or a pipe'}.",
            (kind.fix if kind else "") or "pass the path of a file.",
        )  # fmt: skip
    return open(path, "rb")


def check_growth(packed: int, unpacked: int) -> None:
    """ValueError where a packed file claims to hold far more than such a file could: a decompression bomb."""
    if unpacked > max(MAX_SMALL, GROWTH * packed):
        raise ValueError(f"{packed:,} bytes that claim to unpack into {unpacked:,}")


def fill(stream: Any, array: np.ndarray) -> None:
    """Read the bytes of a C-contiguous array, block by block. Raises EOFError where the stream ends before."""
    view, at = memoryview(array.reshape(-1).view(np.uint8)), 0  # type: ignore[arg-type]
    while at < len(view):
        block = stream.read(min(BLOCK, len(view) - at))
        if not block:
            raise EOFError(f"the data end after {at:,} of {len(view):,} bytes")
        view[at : at + len(block)] = block
        at += len(block)


def check_finite(path: Any, name: str, array: np.ndarray) -> None:
    """BrokenFileError where a number in weights, the array of this name in the file, is NaN or infinite."""
    wrong = np.flatnonzero(~np.isfinite(array))
    if wrong.size:
        at = tuple(int(i) for i in np.unravel_index(wrong[0], array.shape))
        raise BrokenFileError(
            path, f"{name} is not finite.", "numbers.", f"{array[at]} at {at}, and {wrong.size - 1} more such places.",
            "load an earlier file: the training had gone wrong when this one was saved, or the file was changed.",
        )  # fmt: skip


# ---- images ----------------------------------------------------------------------------------------------------------


@contextmanager
def open_image(path: Any) -> Iterator[Any]:
    """A decoded Pillow image of at most MAX_PIXELS, from a path or an open file, inside `checked`.

    Raises BrokenFileError, FileNotFoundError and the like.
    """
    from PIL import Image, UnidentifiedImageError

    source = contextlib.nullcontext(path) if hasattr(path, "read") else open_file(path)
    name = getattr(path, "name", "the image") if hasattr(path, "read") else path
    problem = "this cannot be read as an image."
    expected = "a whole PNG, JPEG, BMP, GIF, TIFF, WebP or PPM file."
    fix = "open it in an image viewer; save it again, or leave it out."
    with source as stream, checked(name, problem, expected, fix):
        start = stream.tell()
        head = stream.read(HEAD)
        stream.seek(start)
        _check_pixels(name, *_webp_size(head))
        try:
            image = Image.open(stream, formats=IMAGE_FORMATS)
        except UnidentifiedImageError:
            kind = kind_of(head)
            if kind is None:
                raise ValueError("bytes of no known image format") from None
            cut = kind.name.endswith("image") and not kind.fix  # a format that is read: the rest of it is missing
            received = f"the beginning of {kind.name}, and no more" if cut else kind.name
            raise BrokenFileError(name, problem, expected, f"{received}.", kind.fix or fix) from None
        _check_pixels(name, *image.size)
        image.load()
        yield image


def _check_pixels(name: Any, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise BrokenFileError(
            name, "this cannot be read as an image.", f"at most {MAX_PIXELS:,} pixels.",
            f"{height:,}×{width:,} pixels.", "make it smaller: halve its sides in an image viewer.",
        )  # fmt: skip


def _webp_size(head: bytes) -> tuple[int, int]:
    """(width, height) of a WebP file by its first bytes, (0, 0) of any other: Pillow takes the memory already when it
    opens one.

    Source: RFC 9649, sections 2.5 to 2.7.
    """
    if head[:4] != b"RIFF" or head[8:12] != b"WEBP":
        return 0, 0
    if head[12:16] == b"VP8X":
        return int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:30], "little") + 1
    if head[12:16] == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return int.from_bytes(head[26:28], "little") & 0x3FFF, int.from_bytes(head[28:30], "little") & 0x3FFF
