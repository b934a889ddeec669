"""Archives of arrays and JSON, read with care: a zip of .npy members, which NumPy could open, too.

What a file declares is compared with the bytes that are there before memory is taken; see `minicnn/reading.py`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np

from minicnn.errors import BrokenFileError, shortened
from minicnn.file_kinds import HEAD, kind_of
from minicnn.reading import check_growth, checked, fill, open_file

if TYPE_CHECKING:
    import zipfile

MAX_TEXT = 8 << 20  # bytes of JSON
MAX_DEPTH = 100  # brackets inside brackets
MAX_DIGITS = 40  # of a whole number: the state of a random generator has 39
MAX_DIRECTORY = 4 << 20  # bytes of an archive's table of contents, some 40,000 names
MAX_AXES = 32


def parse_json(text: bytes) -> Any:
    """JSON in UTF-8, of MAX_TEXT bytes and MAX_DEPTH levels at most, each name once in an object. Else ValueError."""
    if len(text) > MAX_TEXT:
        raise ValueError(f"{len(text):,} bytes of JSON; at most {MAX_TEXT:,} are read")
    outside = np.frombuffer(re.sub(rb'"(?:[^"\\]|\\.)*(?:"|\\?\Z)', b"", text, flags=re.DOTALL), np.uint8)
    step = np.isin(outside, list(b"[{")).astype(np.int32) - np.isin(outside, list(b"]}"))
    if outside.size and np.cumsum(step, dtype=np.int32).max() > MAX_DEPTH:
        raise ValueError(f"JSON of more than {MAX_DEPTH} levels")
    return json.loads(text.decode(), object_pairs_hook=_named_once, parse_int=_whole_number)


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{shortened(twice)!r} stands twice in one object")
    return result


def _whole_number(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
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
        if len(shape) > MAX_AXES or header.offset + prod(shape) * header.dtype.itemsize != info.file_size:
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
        if info.file_size > MAX_TEXT:
            raise ValueError(f"{name} is {info.file_size:,} bytes long; at most {MAX_TEXT:,} are read")
        return parse_json(self._zip.read(info))


@contextmanager
def open_archive(path: Any, kind: str, writer: str, texts: tuple[str, ...], fix: str) -> Iterator[Archive]:
    """The Archive in a file, inside `checked`. kind, writer: of the file, in words. texts: its members but arrays."""
    expected = f"a file that {writer} wrote."
    with open_file(path) as stream, checked(path, f"this is not a whole {kind}.", expected, fix):
        found = kind_of(stream.read(HEAD))
        if found is not None and found.name != "a zip file":
            raise BrokenFileError(path, f"this is no {kind}.", expected, f"{found.name}.", found.fix or fix)
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
    if length > min(MAX_DIRECTORY, size):
        raise ValueError(f"a table of contents of {length:,} bytes; at most {MAX_DIRECTORY:,} are read")
    return zipfile.ZipFile(stream)
