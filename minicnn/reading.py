"""Reading files that anybody may have made: nothing that a file says is believed before it is checked.

What all readers share. They compare the sizes that a file declares with the bytes that are there, before they take
memory; they run, import and unpickle nothing, and write nothing to the disk. Whatever is wrong with a file ends in a
BrokenFileError, which names the file, the place in it, and the reason.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np

from minicnn.errors import BrokenFileError, InputError, MissingFileError
from minicnn.file_kinds import HEAD, kind_of

if TYPE_CHECKING:
    import zipfile

MOST_TEXT = 8 << 20  # bytes of JSON
MOST_DEPTH = 100  # brackets inside brackets
MOST_DIGITS = 40  # of a whole number: the state of a random generator has 39
MOST_DIRECTORY = 4 << 20  # bytes of an archive's table of contents, some 40,000 names
MOST_AXES = 32
MOST_PIXELS = 50_000_000
# Packed files may grow by this factor, small ones up to MOST_SMALL bytes: numbers hardly shrink, unless they are zeros.
GROWTH, MOST_SMALL = 20, 64 << 20
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


def shortened(text: str, length: int = 300) -> str:
    """What a file says may be long; an error shows its beginning."""
    return text if len(text) <= length else text[: length - 1] + "…"


def open_file(path: Any) -> BinaryIO:
    """A file to read. Raises MissingFileError (a FileNotFoundError), OSError where the system refuses to open it, and
    BrokenFileError for a folder, a device or a pipe.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        raise MissingFileError(path) from None
    if not stat.S_ISREG(mode):
        raise BrokenFileError(
            path, "this is no file.", "a file.", "a folder, a device or a pipe.", "pass the path of a file."
        )
    return open(path, "rb")


def check_growth(packed: int, unpacked: int) -> None:
    """ValueError where a packed file claims to hold far more than such a file could: a decompression bomb."""
    if unpacked > max(MOST_SMALL, GROWTH * packed):
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


# ---- JSON ------------------------------------------------------------------------------------------------------------


def parse_json(text: bytes) -> Any:
    """JSON in UTF-8, of MOST_TEXT bytes and MOST_DEPTH levels at most, each name once in an object. Else ValueError."""
    if len(text) > MOST_TEXT:
        raise ValueError(f"{len(text):,} bytes of JSON; at most {MOST_TEXT:,} are read")
    outside = np.frombuffer(re.sub(rb'"(?:[^"\\]|\\.)*(?:"|\\?\Z)', b"", text, flags=re.DOTALL), np.uint8)
    step = np.isin(outside, list(b"[{")).astype(np.int32) - np.isin(outside, list(b"]}"))
    if outside.size and np.cumsum(step, dtype=np.int32).max() > MOST_DEPTH:
        raise ValueError(f"JSON of more than {MOST_DEPTH} levels")
    return json.loads(text.decode(), object_pairs_hook=_named_once, parse_int=_whole_number)


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{shortened(twice)!r} stands twice in one object")
    return result


def _whole_number(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"a number of {len(digits):,} digits")
    return int(digits)


# ---- archives of arrays ----------------------------------------------------------------------------------------------


class Header(NamedTuple):
    """What stands before the numbers in a .npy member; offset: how many bytes that takes."""

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool
    offset: int


_NPY = re.compile(
    rb"\{'descr': '([<>|][biuf][1248])', 'fortran_order': (True|False), "
    rb"'shape': \((\d{1,15}(?:, \d{1,15})*)?,?\), \}[ \n]*"
)


class Archive:
    """A zip file of arrays (.npy) and texts, as np.savez and minicnn write it; opened by `open_archive`.

    arrays: name without .npy -> Header. Nothing but these headers has been read when an Archive is there: compare them
    with what is wanted, then read. Names are never used as paths.
    """

    def __init__(self, stream: BinaryIO, texts: tuple[str, ...]):
        import zipfile

        self._zip = open_zip(stream)
        size = os.fstat(stream.fileno()).st_size
        self._members: dict[str, zipfile.ZipInfo] = {}
        self.arrays: dict[str, Header] = {}
        end = 0  # of the member before
        for info in sorted(self._zip.infolist(), key=lambda info: info.header_offset):
            name = info.filename
            if name in self._members:
                raise ValueError(f"{shortened(name)!r} is in the archive twice")
            if not name.endswith(".npy") and name not in texts:
                raise ValueError(f"{shortened(name)!r} does not belong in such a file")
            if info.flag_bits & 0x61 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"{shortened(name)!r} is encrypted, or packed by an unusual method")
            if info.compress_type == zipfile.ZIP_STORED and info.file_size != info.compress_size:
                raise ValueError(f"{shortened(name)!r} is not packed, but has two sizes")
            if info.header_offset < end:
                raise ValueError(f"{shortened(name)!r} lies over the member before it")
            end = info.header_offset + 30 + len(name) + info.compress_size
            self._members[name] = info
        check_growth(size, sum(info.file_size for info in self._members.values()))
        for name in self._members:
            if name.endswith(".npy"):
                self.arrays[name.removesuffix(".npy")] = self._header(name)

    def _header(self, name: str) -> Header:
        info = self._members[name]
        with self._zip.open(info) as member:
            start = member.read(8)
            width = 2 if start[6:7] == b"\x01" else 4
            if start[:6] != b"\x93NUMPY" or start[6:] not in (b"\x01\0", b"\x02\0", b"\x03\0"):
                raise ValueError(f"{shortened(name)!r} is no .npy file")
            length = int.from_bytes(member.read(width), "little")
            text = member.read(min(length, 10_000))
        match = _NPY.fullmatch(text)
        if match is None:
            raise ValueError(f"{shortened(name)!r} holds no plain numbers: {shortened(repr(text.rstrip()), 100)}")
        shape = tuple(int(n) for n in (match[3] or b"").split(b",") if n)
        header = Header(shape, np.dtype(match[1].decode()), match[2] == b"True", 8 + width + length)
        if len(shape) > MOST_AXES or header.offset + prod(shape) * header.dtype.itemsize != info.file_size:
            declared = f"{shape} of {header.dtype}"
            raise ValueError(f"{shortened(name)!r} has {info.file_size:,} bytes, but declares {declared}")
        return header

    def read(self, name: str) -> np.ndarray:
        """The array of this name, C-contiguous and in the machine's byte order."""
        header = self.arrays[name]
        array = np.empty(header.shape[::-1] if header.fortran else header.shape, header.dtype)
        with self._zip.open(self._members[name + ".npy"]) as member:
            member.read(header.offset)
            fill(member, array)
            member.read(1)  # the end: here zipfile compares the checksum
        native = header.dtype.newbyteorder("=")
        return np.ascontiguousarray(array.T if header.fortran else array, native).reshape(header.shape)

    def json(self, name: str) -> Any:
        """The JSON text of this name."""
        info = self._members.get(name)
        if info is None:
            raise ValueError(f"there is no {name} in it")
        if info.file_size > MOST_TEXT:
            raise ValueError(f"{name} is {info.file_size:,} bytes long; at most {MOST_TEXT:,} are read")
        return parse_json(self._zip.read(info))


@contextmanager
def open_archive(path: Any, kind: str, writer: str, texts: tuple[str, ...], fix: str) -> Iterator[Archive]:
    """The Archive in a file, inside `checked`. kind, writer: of the file, in words. texts: its members but arrays."""
    with open_file(path) as stream, checked(path, f"this is not a whole {kind}.", f"a file that {writer} wrote.", fix):
        yield Archive(stream, texts)


def open_zip(stream: BinaryIO) -> zipfile.ZipFile:
    """A zip file, after a look at its last bytes: the table of contents must end there, and be small.

    zipfile would read a table of any length, and accept rubbish after it. Raises ValueError, BadZipFile.
    """
    import zipfile

    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, size - 98))
    tail = stream.read()
    if tail[-22:-18] != b"PK\5\6" or tail[-2:] != b"\0\0":
        raise ValueError("no table of contents at its end: cut off, followed by other bytes, or no zip file")
    length = int.from_bytes(tail[-10:-6], "little")
    if tail[-42:-38] == b"PK\6\7":  # the table of large archives: its entry stands before, and counts
        if tail[:4] != b"PK\6\6":
            raise ValueError("its table of contents is not where it should be")
        length = int.from_bytes(tail[40:48], "little")
    if length > min(MOST_DIRECTORY, size):
        raise ValueError(f"a table of contents of {length:,} bytes; at most {MOST_DIRECTORY:,} are read")
    return zipfile.ZipFile(stream)


# ---- images ----------------------------------------------------------------------------------------------------------


@contextmanager
def open_image(path: Any) -> Iterator[Any]:
    """A decoded Pillow image of at most MOST_PIXELS, from a path or an open file, inside `checked`.

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
    if width * height > MOST_PIXELS:
        raise BrokenFileError(
            name, "this cannot be read as an image.", f"at most {MOST_PIXELS:,} pixels.",
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
