"""Files that are written whole or not at all.

A file is written aside, flushed to the disk and renamed: whatever happens in between (a full disk, a killed process, a
power cut), under its name there is either what stood there before or all of the new.
"""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from minicnn.errors import InputError, WriteError
from minicnn.ranks import together


def checked_path(where: str, path: Any) -> str:
    """The path as a text. InputError unless it is one, and names something. No name holds a NUL character."""
    text = os.fspath(path) if isinstance(path, (str, os.PathLike)) else None
    if not isinstance(text, str) or not text or "\0" in text:
        raise InputError(
            where, "this is no path.", "the name of a file or folder, as a text or a pathlib.Path.", f"{path!r}.",
            'for example "results/model.zip".',
        )  # fmt: skip
    return text


@contextmanager
def atomic_write(filepath: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file to write to, of which there is afterwards either the whole or nothing: see `_atomic_write`.

    Of several ranks, rank 0 writes; the others write into the air, and wait for it. Its error is raised on all.
    """
    filepath = checked_path("the path to write to", filepath)
    with together(f"the writing of {Path(filepath).name}") as group:
        if group.rank > 0:
            yield io.BytesIO()
            return
        with _atomic_write(filepath) as file:
            yield file


@contextmanager
def _atomic_write(filepath: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file to write to, in the target's folder; renamed to `filepath` when the block ends well, else removed.

    A link stays a link: what it points to is replaced. Raises InputError where the folder is missing or `filepath` is
    no ordinary file, WriteError (an OSError) where the disk refuses. A process that is killed in the middle leaves a
    hidden file ".NAME.….part" behind, which may be deleted.
    """
    path = Path(os.path.realpath(filepath))
    check_target(path)
    prefix, aside = f".{path.name}.", None
    try:
        handle, aside = tempfile.mkstemp(dir=path.parent, prefix=prefix, suffix=".part")
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(aside, 0o666 & ~_umask())  # mkstemp's file is for the owner alone; an ordinary one is not
        os.replace(aside, path)
    except BaseException as error:
        if aside is not None:
            with contextlib.suppress(OSError):
                os.unlink(aside)
        if isinstance(error, OSError) and error.errno is not None:
            name = error.filename  # None: of a file that is open, ours
            if name is None or str(name).startswith(str(path.parent / prefix)):
                raise WriteError(path, error) from error
        raise
    _sync_folder(path.parent)


def write_zip(filepath: str | os.PathLike[str], contents: Mapping[str, str | np.ndarray], level: int = 0) -> None:
    """A zip file of texts, under their names, and of arrays, as NAME.npy, as np.savez writes them.

    level: 0 as it is, 1 to 9 deflated. The dates are fixed: equal contents give equal files. Raises what atomic_write
    raises. Unlike np.savez of NumPy 2.0, it leaves no half-written archive open where the disk refuses.
    """
    import zipfile

    kind = zipfile.ZIP_DEFLATED if level else zipfile.ZIP_STORED
    with atomic_write(filepath) as file, zipfile.ZipFile(file, "w", kind, compresslevel=level or None) as archive:

        def info(name: str) -> zipfile.ZipInfo:
            entry = zipfile.ZipInfo(name)
            entry.compress_type = kind
            return entry

        for name, content in contents.items():
            if isinstance(content, str):
                archive.writestr(info(name), content)
                continue
            with archive.open(info(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(content, order="C"), allow_pickle=False)


def make_folder(path: str | os.PathLike[str]) -> None:
    """Make a folder, and those around it, unless it is there. Raises WriteError."""
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise WriteError(path, error) from error


def check_target(filepath: str | os.PathLike[str]) -> None:
    """InputError where no file of this name could be written: there is no such folder, or a folder of this name."""
    path = Path(filepath)
    if not path.parent.is_dir():
        raise InputError(
            path, "its folder does not exist.", f"a folder {path.parent}.", "no such folder.",
            f"create it: Path({str(path.parent)!r}).mkdir(parents=True).",
        )  # fmt: skip
    if path.exists() and not path.is_file():
        raise InputError(
            path, "this is no ordinary file, it cannot be replaced.", "the name of a file.",
            "a folder." if path.is_dir() else "a device, or the like.", "choose another name.",
        )  # fmt: skip


def _sync_folder(folder: Path) -> None:
    """A new name is safe from a power cut only once its folder is on the disk, too."""
    if os.name == "nt":  # folders cannot be opened there
        return
    with contextlib.suppress(OSError):  # some network drives cannot do it; the file itself is written
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
