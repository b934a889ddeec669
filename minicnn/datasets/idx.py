"""The IDX format of MNIST and its kin: a header with the type and the shape, then the numbers, often gzipped.

Header: two zero bytes, one for the type, one for the number of axes, then each axis as a big-endian uint32.
Source: Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits", section "File formats".
"""

from __future__ import annotations

import os
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from minicnn.arguments import in_words
from minicnn.errors import BrokenFileError
from minicnn.file_kinds import what_is
from minicnn.files import checked_path
from minicnn.reading import GROWTH, MAX_SMALL, checked, fill, open_file

DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
MAX_AXES = 32
FIX = "fetch the file again, or make it again."
OWN = "for data of your own, call minicnn.datasets.read_idx(path); else put the published file in its place."


@in_words
def read_idx(
    path: str | os.PathLike[str], expected_shape: tuple[int, ...] | None = None, digest: Any = None
) -> np.ndarray:
    """The array in an IDX file, gzipped or not, in the machine's byte order.

    expected_shape: refuse any other, before memory for it is taken. digest: a hashlib object that is fed
    the unpacked bytes. EMNIST's images lie on their side: x.transpose(0, 2, 1) turns them upright.
    Raises BrokenFileError for a file that is not IDX, is cut short, damaged, too long, or of another shape;
    FileNotFoundError where there is none.
    """
    import gzip

    path = Path(checked_path("read_idx", path))
    with open_file(path) as raw:
        gzipped, packed = raw.read(2) == b"\x1f\x8b", os.fstat(raw.fileno()).st_size
        raw.seek(0)
        stream: Any = gzip.GzipFile(fileobj=raw) if gzipped else raw
        problem = "the gzip file is damaged or cut short." if gzipped else "the file is damaged."
        with checked(path, problem, "a whole file.", FIX):
            header, shape, dtype = _header(stream, path, gzipped)
            size, most = prod(shape) * dtype.itemsize, max(MAX_SMALL, GROWTH * packed)
            if shape != (expected_shape or shape) or (expected_shape is None and gzipped and size > most):
                if expected_shape is not None:
                    raise BrokenFileError(path, "these are other data.", f"{expected_shape}.", f"{shape}.", OWN)
                expected = f"{len(shape)} axes, at most {most:,} bytes in all."
                raise BrokenFileError(path, "the shape in the header is wrong.", expected, f"{shape}.", FIX)
            if not gzipped and (rest := packed - len(header)) != size:
                problem = "the file is cut short." if rest < size else "the file is too long."
                raise _wrong_length(path, problem, shape, size, f"{rest:,} bytes.")
            array = np.empty(shape, dtype)
            fill(stream, array)
            if stream.read(1):
                raise _wrong_length(path, "the file is too long.", shape, size, "more than that.")
    if digest is not None:
        for part in (header, memoryview(array.reshape(-1).view(np.uint8))):  # type: ignore[arg-type]
            digest.update(part)
    return array.astype(dtype.newbyteorder("="), copy=False)


def _header(stream: Any, path: Path, gzipped: bool) -> tuple[bytes, tuple[int, ...], np.dtype]:
    """The header's bytes, and the shape and the type that they give."""
    start = stream.read(4)
    if len(start) < 4 or start[:2] != b"\0\0" or start[2] not in DTYPES or start[3] > MAX_AXES:
        inside = f" Unpacked, it starts with {start.hex(' ') or 'nothing'}." if gzipped else ""
        expected = "bytes that start with 00 00, a type and the number of axes."
        raise BrokenFileError(path, "this is no IDX file.", expected, what_is(path) + inside, FIX)
    axes = stream.read(4 * start[3])
    if len(axes) < 4 * start[3]:
        expected = f"a header with {start[3]} axes of 4 bytes each."
        raise BrokenFileError(path, "the file is cut short.", expected, f"{len(axes)} bytes.", FIX)
    return start + axes, tuple(int(n) for n in np.frombuffer(axes, ">u4")), np.dtype(DTYPES[start[2]])


def _wrong_length(path: Path, problem: str, shape: tuple[int, ...], size: int, received: str) -> BrokenFileError:
    return BrokenFileError(path, problem, f"{size:,} bytes after the header, for shape {shape}.", received, FIX)
