"""Reading HDF5 files that may come from anywhere.

HDF5 is a small file system in a file: groups, data sets, and links that may lead out of the file. What is read here is
plain: data sets of floating-point numbers in one piece, reached without links, of a shape that the caller has approved.
h5py, the package that can do it, is imported when it is needed.
"""

from __future__ import annotations

import io
import os
import zipfile
import zlib
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from minicnn.errors import BrokenFileError, InputError
from minicnn.reading import open_file
from minicnn.saving.archive import open_zip

FIRST_BYTES = b"\x89HDF\r\n\x1a\n"
MAX_NAMES = 100_000
_AGAIN = "save or download it again: it may have been cut off, or be of another kind."
# What h5py and zipfile raise for bytes that make no sense.
_BROKEN = (
    OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError, EOFError, OverflowError,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip


def holds_hdf5(filepath: Any, member: str) -> bool:
    """Whether a file is HDF5, or a zip with this member in it. Raises OSError where it cannot be opened."""
    head = _head(filepath)
    if head[:2] != b"PK":
        return head == FIRST_BYTES
    with open_file(filepath) as stream:
        try:
            return member in open_zip(stream).namelist()
        except (zipfile.BadZipFile, ValueError, NotImplementedError):
            return False


@contextmanager
def opened(filepath: Any, member: str) -> Iterator[File]:
    """The HDF5 file, or the one that a zip has under the name `member`.

    What is raised inside the block for a file that makes no sense becomes a BrokenFileError. InputError without h5py.
    """
    try:
        import h5py
    except ImportError as error:
        raise InputError(
            "load_weights", "h5py is not installed, without which Keras' files cannot be read.", "the package h5py.",
            f"{error}.", 'install it with `python -m pip install h5py`, or minicnn with ".[keras]".',
        ) from error  # fmt: skip
    try:
        source = filepath if _head(filepath) == FIRST_BYTES else _from_zip(filepath, member)
        _probe(filepath, source)
        with h5py.File(source, "r") as root:
            yield File(filepath, root)
    except InputError:
        raise
    except _BROKEN as error:
        raise BrokenFileError(
            filepath, "this is not a whole file of weights.", "a file that Keras wrote.",
            f"{type(error).__name__}: {error}", _AGAIN,
        ) from error  # fmt: skip


class File:
    """An open file. root: its outermost group. size: in bytes."""

    def __init__(self, filepath: Any, root: Any):
        self.filepath, self.root, self.size = filepath, root, os.stat(filepath).st_size
        self._heads: list[int] = []  # where the file says what a group or data set is
        self._taken: list[tuple[int, int, int]] = []  # (begin, end, head) of the numbers that were read, in order
        self._native: bool | None = None  # the byte order of the first ones

    def child(self, group: Any, path: str) -> Any:
        """What a path inside a group leads to; every step of it must lie in this very file."""
        import h5py

        for step in path.split("/"):
            if not isinstance(group, h5py.Group) or step not in group:
                raise self.broken("something is missing in it.", f"{path!r} in it.", "nothing there.")
            link = group.get(step, getlink=True)
            if not isinstance(link, h5py.HardLink):
                raise self.broken(
                    f"{step!r} in it is a link to elsewhere.", "weights in the file itself.", f"{type(link).__name__}.",
                    "do not trust this file; get it from where it was published.",
                )  # fmt: skip
            group = group[step]
        return group

    def names(self, group: Any, attribute: str) -> list[str]:
        """A list of names beside a group; a long one is in parts: layer_names0, layer_names1, …"""
        parts = [attribute] if attribute in group.attrs else []
        while not parts or parts[0] != attribute:
            part = f"{attribute}{len(parts)}"
            if part not in group.attrs:
                break
            parts.append(part)
        if not parts:
            raise self.broken(
                "this is an HDF5 file, but not of Keras' weights.", f"a list of {attribute}.",
                f"{listed(group)} in {group.name}.", "pass a file of model.save_weights().",
            )  # fmt: skip
        names: list[str] = []
        for part in parts:
            shape = group.attrs.get_id(part).shape
            if len(shape) != 1 or len(names) + shape[0] > MAX_NAMES:
                raise self.broken(f"its {part} is no list of names.", "the names in one row.", f"shape {shape}.")
            names += [n.decode() if isinstance(n, bytes) else str(n) for n in group.attrs[part]]
        return names

    def read(self, data: Any, path: str) -> np.ndarray:
        """The numbers of a data set, whose shape must have been found right before. path: for error texts."""
        import h5py

        problem = (
            "a group" if not isinstance(data, h5py.Dataset)
            else f"numbers of type {data.dtype}" if data.dtype.kind != "f" and not _is_count(data)
            else f"a form of {data.dtype} that no processor has" if not _is_usual(data)
            else "numbers in another file" if data.external or data.is_virtual
            else "numbers in compressed pieces" if data.chunks is not None
            else None
        )  # fmt: skip
        if problem:
            raise self.broken(
                f"{path} in it cannot be read.", "floating-point numbers, in one piece, in this file.", f"{problem}.",
                "save it with Keras again, or rewrite it with `h5repack -l CONTI`.",
            )  # fmt: skip
        self._check_place(data, path)
        array = np.empty(data.shape, data.dtype.newbyteorder("="))
        if array.size:
            data.read_direct(array)
        return array

    def _check_place(self, data: Any, path: str) -> None:
        """Old HDF5 has no checksums. A flipped bit in an address, or in the byte order, is told by the others."""
        import h5py

        if self._native is None:
            self.root.visititems(lambda _, item: self._heads.append(h5py.h5o.get_info(item.id).addr))
            self._heads.sort()
            self._native = data.dtype.isnative
        offset, head = data.id.get_offset(), h5py.h5o.get_info(data.id).addr
        begin, end = (0, 0) if offset is None else (offset, offset + data.id.get_storage_size())
        i, k = bisect_left(self._heads, begin), bisect_left(self._taken, (begin, end, head))
        neighbours = [taken for taken in self._taken[max(0, k - 1) : k + 1] if taken[2] != head]
        shared = any(begin < other_end and other_begin < end for other_begin, other_end, _ in neighbours)
        shared = shared or any(head < end for head in self._heads[i : i + 1])
        problem = (
            "numbers where other things lie" if begin < end and shared
            else "numbers in another byte order than those before" if data.dtype.isnative != self._native
            else None
        )  # fmt: skip
        if problem:
            raise self.broken(f"the description of {path} in it is damaged.", "a file that Keras wrote.", f"{problem}.")
        if begin < end:
            self._taken.insert(k, (begin, end, head))

    def broken(self, problem: str, expected: str, received: str, fix: str = _AGAIN) -> BrokenFileError:
        return BrokenFileError(self.filepath, problem, expected, received, fix)


def _is_usual(data: Any) -> bool:
    """Whether its numbers are made as NumPy would write them: a flipped bit can move the exponent, for one."""
    import h5py

    return bool(data.id.get_type().equal(h5py.h5t.py_create(data.dtype)))


def _is_count(data: Any) -> bool:
    """Whether it is a single whole number: how many numbers a Normalization of Keras has seen."""
    return data.shape == () and data.dtype.kind in "iu"


def listed(names: Iterable[Any], most: int = 20) -> str:
    """The first names, for an error text."""
    names = list(names)
    return (", ".join(map(str, names[:most])) or "none") + (f" and {len(names) - most} more" if names[most:] else "")


def _head(filepath: Any) -> bytes:
    with open_file(filepath) as file:
        return file.read(len(FIRST_BYTES))


def _probe(filepath: Any, source: Any) -> None:
    """BrokenFileError where another process that walks through the file dies or does not come to an end."""
    import subprocess
    import sys

    data = source.getvalue() if isinstance(source, io.BytesIO) else None
    path = "-" if data is not None else os.path.abspath(os.fspath(filepath))
    folder = Path(__file__).parents[2]
    command = [sys.executable, "-c", "from minicnn.saving.hdf5_probe import main; main()", path]
    # It shall find the same h5py.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(folder for folder in sys.path if folder)}
    try:
        end = subprocess.run(command, input=data, cwd=folder, env=environment, capture_output=True, timeout=120)
        failed = end.returncode != 0
    except subprocess.TimeoutExpired:
        failed = True
    if failed:
        raise BrokenFileError(
            filepath, "the HDF5 library cannot read this file.", "a file that Keras wrote.",
            "bytes that it crashes on, or goes round in circles.", _AGAIN,
        )  # fmt: skip


def _from_zip(filepath: Any, member: str) -> io.BytesIO:
    with open_file(filepath) as stream:
        archive = open_zip(stream)
        info = archive.getinfo(member)
        if info.compress_type != zipfile.ZIP_STORED or info.file_size > Path(filepath).stat().st_size:
            raise BrokenFileError(
                filepath, f"{member} in it is compressed.", "an archive that stores it as it is, as Keras does.",
                f"{info.file_size:,} bytes packed into {info.compress_size:,}.",
                f"unpack the archive and load {member} itself.",
            )  # fmt: skip
        return io.BytesIO(archive.read(info))
