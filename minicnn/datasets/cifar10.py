"""CIFAR-10: 60,000 colour photos of ten things, 32 x 32.

There is a binary version, which is downloaded: a file holds 10,000 records: a byte for the class, then 1,024
bytes each of red, green and blue, row by row. And a Python version of pickles, which can run any program: where
it is there already, cifar_pickle.py reads it, which cannot.
Source: A. Krizhevsky, "Learning multiple layers of features from tiny images", 2009.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from minicnn.arguments import in_words
from minicnn.datasets.cifar_pickle import read_batch
from minicnn.datasets.fetch import NO_DOWNLOAD, Data, DataFile, check_md5, find, how_to_replace, places
from minicnn.errors import BrokenFileError
from minicnn.file_kinds import what_is
from minicnn.ranks import first_rank_first
from minicnn.reading import check_growth, checked, open_file

CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

ARCHIVE = DataFile(
    "",
    "cifar-10-binary.tar.gz",
    170052171,
    "c32a1d4ab5d03f1284b67883e8d87530",
    (
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        "https://cave.cs.toronto.edu/kriz/cifar-10-binary.tar.gz",
        "https://storage.googleapis.com/s4tf-hosted-binaries/datasets/CIFAR10/cifar-10-binary.tar.gz",
    ),
    otherwise=NO_DOWNLOAD.format("toy_color"),
)
PYTHON_ARCHIVE = ARCHIVE._replace(
    name="cifar-10-python.tar.gz", size=170498071, md5="c58f30108f718f92721af3b95e74349a"
)
FOLDER, PYTHON_FOLDER = "cifar-10-batches-bin", "cifar-10-batches-py"
BATCHES = tuple(f"data_batch_{i}.bin" for i in range(1, 6)) + ("test_batch.bin",)
RECORD = 1 + 3 * 32 * 32  # bytes
_PER_BATCH = 10_000  # records
_MAX_PICKLE = 64 << 20  # bytes
# Where the folder or the archive lies, in MINICNN_DATA: also in a folder of its own, or in Keras' one.
_AROUND = ("", "cifar-10", "cifar10", "CIFAR10", "cifar-10-batches-py-target")


@in_words
def load_data() -> Data:
    """((x_train, y_train), (x_test, y_test)), all uint8: x (50000, 32, 32, 3), y (50000, 1), or 10000.

    Looked for in MINICNN_DATA and in the user's cache folder, as the folder cifar-10-batches-bin or
    cifar-10-batches-py (or the folder itself), or as one of the two archives, then downloaded (170 MB). Raises
    DownloadError, and BrokenFileError for a file that is something else.
    """
    return first_rank_first("the loading of CIFAR-10", _load)


def _load() -> Data:
    for folder in _folders():
        for names in (BATCHES, [name.removesuffix(".bin") for name in BATCHES]):
            if any((folder / name).is_file() for name in names):
                return _assemble(folder, _read_folder(folder, python=names is not BATCHES))
    around = [place / inside for place in places() for inside in _AROUND]
    python = next((path / PYTHON_ARCHIVE.name for path in around if (path / PYTHON_ARCHIVE.name).is_file()), None)
    binary = next((path / ARCHIVE.name for path in around if (path / ARCHIVE.name).is_file()), None)
    if binary is None and python is not None:
        check_md5(python, PYTHON_ARCHIVE)
        return _assemble(python, _read_archive(python, python=True))
    path = binary or find(ARCHIVE)
    check_md5(path, ARCHIVE)
    return _assemble(path, _read_archive(path))


def _folders() -> Iterator[Path]:
    """Where the six files may lie: in a folder of the right name anywhere, or in MINICNN_DATA itself."""
    for place in places():
        for inside in _AROUND:
            for name in (FOLDER, PYTHON_FOLDER, ""):
                yield place / inside / name


def _read_folder(folder: Path, python: bool = False) -> Iterator[tuple[str, bytes]]:
    for name in BATCHES:
        path = folder / (name.removesuffix(".bin") if python else name)
        if not path.exists():
            continue
        size = path.stat().st_size if path.is_file() else -1
        if not (0 < size <= _MAX_PICKLE if python else size == _PER_BATCH * RECORD):
            raise _broken(
                path, "the file has the wrong size.", f"{_PER_BATCH * RECORD:,} bytes.", what_is(path)
            )
        yield name, _records(path, path.read_bytes()) if python else path.read_bytes()


def _records(path: Path, pickled: bytes) -> bytes:
    """A batch of the Python version, as the binary one has it."""
    with checked(path, "this is no batch of CIFAR-10.", "a batch of the Python version.", how_to_replace(ARCHIVE)):
        pixels, labels = read_batch(pickled)
        if len(pixels) != _PER_BATCH:
            raise ValueError(f"{len(pixels):,} images, not {_PER_BATCH:,}")
        return np.column_stack([labels, pixels]).tobytes()


def _read_archive(path: Path, python: bool = False) -> Iterator[tuple[str, bytes]]:
    """The six files inside the archive, read into memory: nothing in an archive can choose where to write."""
    import tarfile

    folder, ending = (PYTHON_FOLDER, ".bin") if python else (FOLDER, "")
    wanted = {f"{folder}/{name.removesuffix(ending)}": name for name in BATCHES}
    seen: set[str] = set()
    unpacked, fix = 0, how_to_replace(ARCHIVE)
    with open_file(path) as raw, checked(path, "the archive is damaged or cut short.", "a whole archive.", fix):
        packed = os.fstat(raw.fileno()).st_size
        with tarfile.open(fileobj=raw, mode="r|gz") as archive:
            for member in archive:
                unpacked += member.size
                check_growth(packed, unpacked)
                if member.name not in wanted:
                    continue
                if wanted[member.name] in seen:
                    raise ValueError(f"{member.name} is in it twice")
                size_fits = member.size <= _MAX_PICKLE if python else member.size == _PER_BATCH * RECORD
                stream = archive.extractfile(member) if member.isreg() and size_fits else None
                if stream is None:
                    expected = f"a file of {_PER_BATCH * RECORD:,} bytes."
                    received = f"type {member.type!r}, {member.size:,} bytes."
                    raise _broken(path, f"{member.name} in it is no data file.", expected, received)
                seen.add(wanted[member.name])
                yield wanted[member.name], _records(path, stream.read()) if python else stream.read()


def _assemble(source: Path, batches: Iterator[tuple[str, bytes]]) -> Data:
    """The arrays from the batches, which come in any order; channels last. Checks that nothing is missing."""
    images = np.empty((len(BATCHES), _PER_BATCH, 32, 32, 3), np.uint8)
    labels = np.empty((len(BATCHES), _PER_BATCH), np.uint8)
    missing = set(BATCHES)
    for name, data in batches:
        records = np.frombuffer(data, np.uint8).reshape(_PER_BATCH, RECORD)
        i = BATCHES.index(name)
        labels[i] = records[:, 0]
        images[i] = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        missing.discard(name)
    if missing:
        raise _broken(
            source,
            "the data set is not complete.",
            "these files: " + ", ".join(BATCHES) + ".",
            "all but " + ", ".join(sorted(missing)) + ".",
        )
    for part, each in ((labels[:-1], (len(BATCHES) - 1) * _PER_BATCH // 10), (labels[-1], _PER_BATCH // 10)):
        counts = np.bincount(part.ravel())
        if counts.tolist() != [each] * 10:
            expected = f"{each:,} images of each class from 0 to 9."
            received = f"{counts[:10].tolist()} of these, {counts[10:].sum()} of other classes."
            raise _broken(source, "the labels are not those of CIFAR-10.", expected, received)
    train, test = images[:-1].reshape(-1, 32, 32, 3), images[-1]
    return (train, labels[:-1].reshape(-1, 1)), (test, labels[-1].reshape(-1, 1))


def _broken(path: Path, problem: str, expected: str, received: str) -> BrokenFileError:
    return BrokenFileError(str(path), problem, expected, received, how_to_replace(ARCHIVE))
