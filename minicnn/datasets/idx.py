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
from minicnn.reading import GROWTH, MOST_SMALL, checked, fill, open_file

DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
MOST_AXES = 32


def read_idx(
    path: str | os.PathLike[str], expected_shape: tuple[int, ...] | None = None, digest: Any = None
) -> np.ndarray:
    """The array in an IDX file, gzipped or not, in the machine's byte order.

    expected_shape: refuse any other, before memory for it is taken. digest: a hashlib object that is fed
    the unpacked bytes. Raises BrokenFileError for a file that is not IDX, is cut short, damaged, too long,
    or of another shape; FileNotFoundError where there is none.
    """
    import gzip

    path = Path(path)
    fix = "delete the file and fetch it again."
    with open_file(path) as raw:
        gzipped, packed = raw.read(2) == b"\x1f\x8b", os.fstat(raw.fileno()).st_size
        raw.seek(0)
        stream: Any = gzip.GzipFile(fileobj=raw) if gzipped else raw
        problem = "the gzip file is damaged or cut short." if gzipped else "the file is damaged."
        with checked(path, problem, "a whole file.", fix):
            header = stream.read(4)
            if len(header) < 4 or header[:2] != b"\0\0" or header[2] not in DTYPES or header[3] > MOST_AXES:
                inside = f" Unpacked, it starts with {header.hex(' ') or 'nothing'}." if gzipped else ""
                expected = "bytes that start with 00 00, a type and the number of axes."
                raise BrokenFileError(path, "this is no IDX file.", expected, what_is(path) + inside, fix)
            axes = stream.read(4 * header[3])
            shape = tuple(int(n) for n in np.frombuffer(axes[: len(axes) // 4 * 4], ">u4"))
            dtype = np.dtype(DTYPES[header[2]])
            size = prod(shape) * dtype.itemsize
            most = max(MOST_SMALL, GROWTH * packed) if gzipped else packed
            wrong = len(shape) != header[3] or shape != (expected_shape or shape)
            if wrong or (expected_shape is None and gzipped and size > most):
                expected = f"{expected_shape or f'{header[3]} axes, at most {most:,} bytes in all'}."
                raise BrokenFileError(path, "the shape in the header is wrong.", expected, f"{shape}.", fix)
            start = len(header) + len(axes)
            if not gzipped and start + size != packed:
                problem = "the file is cut short." if start + size > packed else "the file is too long."
                expected = f"{size:,} bytes after the header, for shape {shape}."
                raise BrokenFileError(path, problem, expected, f"{packed - start:,} bytes.", fix)
            array = np.empty(shape, dtype)
            fill(stream, array)
            if stream.read(1):
                expected = f"{size:,} bytes after the header, for shape {shape}."
                raise BrokenFileError(path, "the file is too long.", expected, "more than that.", fix)
    if digest is not None:
        for part in (header, axes, memoryview(array.reshape(-1).view(np.uint8))):  # type: ignore[arg-type]
            digest.update(part)
    return array.astype(dtype.newbyteorder("="), copy=False)
