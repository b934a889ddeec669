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

from minicnn.datasets.fetch import what_is
from minicnn.errors import BrokenFileError

DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
MOST_AXES = 32
MOST_BYTES = 1 << 31  # a header that declares more is taken for a broken one


def read_idx(
    path: str | os.PathLike[str], expected_shape: tuple[int, ...] | None = None, digest: Any = None
) -> np.ndarray:
    """The array in an IDX file, gzipped or not, in the machine's byte order.

    expected_shape: refuse any other, before memory for it is taken. digest: a hashlib object that is fed
    the unpacked bytes. Raises BrokenFileError for a file that is not IDX, is cut short, damaged, too long,
    or of another shape; FileNotFoundError where there is none.
    """
    import gzip
    import zlib

    path = Path(path)
    fix = "delete the file and fetch it again."
    if path.is_dir():
        raise BrokenFileError(str(path), "this is no IDX file.", "an IDX file.", "a folder.", fix)
    with path.open("rb") as raw:
        gzipped = raw.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path, "rb") if gzipped else path.open("rb") as stream:
            header = stream.read(4)
            if len(header) < 4 or header[:2] != b"\0\0" or header[2] not in DTYPES or header[3] > MOST_AXES:
                inside = f" Unpacked, it starts with {header.hex(' ') or 'nothing'}." if gzipped else ""
                expected = "bytes that start with 00 00, a type and the number of axes."
                raise BrokenFileError(
                    str(path), "this is no IDX file.", expected, what_is(path) + inside, fix
                )
            axes = stream.read(4 * header[3])
            shape = tuple(int(n) for n in np.frombuffer(axes[: len(axes) // 4 * 4], ">u4"))
            dtype = np.dtype(DTYPES[header[2]])
            size = prod(shape) * dtype.itemsize
            if len(shape) != header[3] or shape != (expected_shape or shape) or size > MOST_BYTES:
                expected = f"{expected_shape or f'{header[3]} axes, at most {MOST_BYTES:,} bytes'}."
                problem = "the shape in the header is wrong."
                raise BrokenFileError(str(path), problem, expected, f"{shape}.", fix)
            array = np.empty(shape, dtype)
            view = memoryview(array.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
            count = stream.readinto(view) if array.size else 0
            if count < array.nbytes or stream.read(1):
                received = f"{count:,} bytes." if count < array.nbytes else "more than that."
                problem = "the file is cut short." if count < array.nbytes else "the file is too long."
                expected = f"{array.nbytes:,} bytes after the header, for shape {shape}."
                raise BrokenFileError(str(path), problem, expected, received, fix)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise BrokenFileError(
            str(path),
            "the gzip file is damaged or cut short.",
            "a whole gzip file.",
            f"{what_is(path)} Unpacking it stops with: {error}",
            fix,
        ) from error
    if digest is not None:
        for part in (header, axes, view):
            digest.update(part)
    return array.astype(dtype.newbyteorder("="), copy=False)
