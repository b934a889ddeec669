"""CIFAR-10: 60,000 colour photos of ten things, 32 x 32.

Read from the binary version, never from the pickled one: a pickle can run any program. A file holds 10,000
records: a byte for the class, then 1,024 bytes each of red, green and blue, row by row.
Source: A. Krizhevsky, "Learning multiple layers of features from tiny images", 2009.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from minicnn.datasets.fetch import Data, DataFile, check_md5, find, how_to_replace, places, what_is
from minicnn.errors import BrokenFileError
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
)
FOLDER = "cifar-10-batches-bin"
BATCHES = tuple(f"data_batch_{i}.bin" for i in range(1, 6)) + ("test_batch.bin",)
RECORD = 1 + 3 * 32 * 32  # bytes
_PER_BATCH = 10_000  # records


def load_data() -> Data:
    """((x_train, y_train), (x_test, y_test)), all uint8: x (50000, 32, 32, 3), y (50000, 1), or 10000.

    Looked for in MINICNN_DATA and in the user's cache folder, as the folder cifar-10-batches-bin or as the
    archive, then downloaded (170 MB). Raises DownloadError, and BrokenFileError for a file that is
    something else.
    """
    unpacked = next((place / FOLDER for place in places() if (place / FOLDER).is_dir()), None)
    if unpacked is not None:
        return _assemble(unpacked, _read_folder(unpacked))
    path = find(ARCHIVE)
    check_md5(path, ARCHIVE)
    return _assemble(path, _read_archive(path))


def _read_folder(folder: Path) -> Iterator[tuple[str, bytes]]:
    for name in BATCHES:
        path = folder / name
        if path.exists() and (not path.is_file() or path.stat().st_size != _PER_BATCH * RECORD):
            raise _broken(
                path, "the file has the wrong size.", f"{_PER_BATCH * RECORD:,} bytes.", what_is(path)
            )
        if path.exists():
            yield name, path.read_bytes()


def _read_archive(path: Path) -> Iterator[tuple[str, bytes]]:
    """The six files inside the archive, read into memory: nothing in an archive can choose where to write."""
    import tarfile

    wanted = {f"{FOLDER}/{name}": name for name in BATCHES}
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
                right = member.isreg() and member.size == _PER_BATCH * RECORD
                stream = archive.extractfile(member) if right else None
                if stream is None:
                    expected = f"a file of {_PER_BATCH * RECORD:,} bytes."
                    received = f"type {member.type!r}, {member.size:,} bytes."
                    raise _broken(path, f"{member.name} in it is no data file.", expected, received)
                seen.add(wanted[member.name])
                yield wanted[member.name], stream.read()


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
