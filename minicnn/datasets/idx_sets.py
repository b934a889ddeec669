"""MNIST and Fashion-MNIST: files of the same names and shapes, told apart by their content.

They are found where people have them: as their authors publish them, unpacked, under the names and in the folders of
torchvision and Kaggle, as Keras' mnist.npz, and as CSV.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from minicnn.arguments import in_words
from minicnn.datasets import fetch
from minicnn.datasets.fetch import Data, DataFile, download, how_to_replace, places
from minicnn.datasets.idx import read_idx
from minicnn.errors import BrokenFileError
from minicnn.ranks import first_rank_first
from minicnn.reading import checked, open_file

SHAPES = {
    "train-images-idx3-ubyte.gz": (60000, 28, 28),
    "train-labels-idx1-ubyte.gz": (60000,),
    "t10k-images-idx3-ubyte.gz": (10000, 28, 28),
    "t10k-labels-idx1-ubyte.gz": (10000,),
}
# Where else a set's files lie: torchvision's folders, and the folder MINICNN_DATA itself.
FOLDERS = {
    "mnist": ("mnist", "MNIST/raw", "MNIST", "raw", ""),
    "fashion-mnist": ("fashion-mnist", "fashion_mnist", "FashionMNIST/raw", "FashionMNIST", "raw", ""),
}
NPZ_KEYS = ("x_train", "y_train", "x_test", "y_test")
MAX_CSV = 400 << 20  # bytes: 70,000 images of 28 x 28 take about 130 MB


def _files(folder: str, mirrors: tuple[str, ...], *published: tuple[int, str, str]) -> tuple[DataFile, ...]:
    """published: (size, MD5 of the .gz file, MD5 of the unpacked bytes), in the order of SHAPES."""
    return tuple(
        DataFile(folder, name, size, md5, tuple(mirror + name for mirror in mirrors), content)
        for name, (size, md5, content) in zip(SHAPES, published, strict=True)
    )


MNIST = _files(
    "mnist",
    (
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://raw.githubusercontent.com/fgnt/mnist/master/",
    ),
    (9912422, "f68b3c2dcbeaaa9fbdd348bbdeb94873", "6bbc9ace898e44ae57da46a324031adb"),
    (28881, "d53e105ee54ea40749a09fcbcd1e9432", "a25bea736e30d166cdddb491f175f624"),
    (1648877, "9fb629c4189551a2d022fa330f9573f3", "2646ac647ad5339dbf082846283269ea"),
    (4542, "ec29112dd5afa0611ce80d1b7f02629c", "27ae3e4e09519cfbb04c329615203637"),
)
FASHION_MNIST = _files(
    "fashion-mnist",
    (
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    ),
    (26421880, "8d4fb7e6c68d591d4c3dfef9ec88bf0d", "f4a8712d7a061bf5bd6d2ca38dc4d50a"),
    (29515, "25c81989df183df01b3e8a0aad5dffbe", "9018921c3c673c538a1fc5bad174d6f9"),
    (4422102, "bef4ecab320f06d8554ea6380940ec79", "8181f5470baa50b63fa0f6fddb340f0a"),
    (5148, "bb300cfdad3c16e7a12a480ee83cd310", "15d484375f8d13e6eb1aabb0c3f46965"),
)
# How many images there are of each class, for training and for the test: what tells the sets apart in any order.
COUNTS = {
    "mnist": ((5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949),
              (980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009)),
    "fashion-mnist": ((6000,) * 10, (1000,) * 10),
}  # fmt: skip


@in_words
def load(files: tuple[DataFile, ...]) -> Data:
    """The four arrays of one of the sets, as Keras returns them.

    The checksum is taken of the unpacked bytes: the same images packed by another gzip are as good.
    """
    return first_rank_first(f"the loading of {files[0].folder}", lambda: _load(files))


def _load(files: tuple[DataFile, ...]) -> Data:
    for place in places():
        if any(True for file in files for _ in _paths(place, file)):
            break
        whole = _of_npz(place, files[0].folder) or _of_csv(place, files[0].folder)
        if whole is not None:
            return whole
    x_train, y_train, x_test, y_test = (_read(file) for file in files)
    return (x_train, y_train), (x_test, y_test)


# ---- IDX -------------------------------------------------------------------------------------------------------------


def _paths(place: Path, file: DataFile) -> Iterator[Path]:
    """Where a file lies in this place, under any of its names."""
    plain = file.name.removesuffix(".gz")
    dotted = plain.replace("-idx", ".idx")
    for folder in FOLDERS[file.folder]:
        for name in (file.name, plain, dotted, f"{dotted}.gz"):
            path = place / folder / name
            path = path / name if path.is_dir() else path  # Kaggle packs a file in a folder of its name
            if path.is_file():
                yield path


def _read(file: DataFile) -> np.ndarray:
    wrong: list[BrokenFileError] = []
    for path in (path for place in places() for path in _paths(place, file)):
        try:
            return _read_one(path, file)
        except BrokenFileError as error:  # perhaps of the other set; another file may be right
            wrong.append(error)
    if wrong:
        raise wrong[0]
    return _read_one(download(file, fetch.cache_dir() / file.folder), file)


def _read_one(path: Path, file: DataFile) -> np.ndarray:
    digest = hashlib.md5(usedforsecurity=False)
    array = read_idx(path, SHAPES[file.name], digest)
    if digest.hexdigest() != file.content_md5:
        known = {other.content_md5: f"{other.folder}/{other.name}" for other in MNIST + FASHION_MNIST}
        found = known.get(digest.hexdigest())
        raise BrokenFileError(
            str(path),
            f"this is not {file.folder}/{file.name}.",
            f"unpacked bytes with MD5 {file.content_md5}.",
            f"MD5 {digest.hexdigest()}: {found or 'unknown data of the right shape'}.",
            how_to_replace(file) if found or path.is_relative_to(fetch.cache_dir()) else
            f"read it by itself: minicnn.datasets.read_idx(path); or replace it with {file.mirrors[0]} "
            f"(MD5 {file.md5}).",
        )  # fmt: skip
    return array


# ---- one file with all four arrays, and two tables -------------------------------------------------------------------


def _of_npz(place: Path, folder: str) -> Data | None:
    """Keras' mnist.npz, or Fashion-MNIST in the same form."""
    from minicnn.saving.archive import open_archive

    for name in (f"{folder}.npz", f"{folder.replace('-', '_')}.npz"):
        for path in (place / name, place / folder / name):
            if path.is_file():
                fix = "fetch it again."
                with open_archive(path, "archive of arrays", "np.savez", (), fix) as archive:
                    if set(archive.arrays) != set(NPZ_KEYS):
                        held = ", ".join(archive.arrays) or "nothing"
                        raise ValueError(f"it holds {held}, not {', '.join(NPZ_KEYS)}")
                    x, y, x_test, y_test = (archive.read(key) for key in NPZ_KEYS)
                return _checked(path, folder, ((x, y), (x_test, y_test)))
    return None


def _of_csv(place: Path, folder: str) -> Data | None:
    """Two tables, NAME_train.csv and NAME_test.csv, as Kaggle has them: label and 784 pixels a line."""
    names = {folder, folder.replace("-", "_"), folder.replace("-", "")}
    for path in (place / inside / f"{name}_train.csv" for name in sorted(names) for inside in ("", folder, name)):
        test = path.with_name(path.name.replace("_train", "_test"))
        if path.is_file() and test.is_file():
            return _checked(path, folder, (read_csv(path), read_csv(test)))
    return None


def _checked(path: Path, folder: str, data: Data) -> Data:
    """BrokenFileError unless this is the set: by the MD5 of its arrays, or else by how many images each class has."""
    published = MNIST if folder == "mnist" else FASHION_MNIST
    arrays, parts = [array for part in data for array in part], zip(data, COUNTS[folder], strict=True)
    shapes = [array.shape for array in arrays]
    if all(a.dtype == np.uint8 and _content_md5(a) == f.content_md5 for a, f in zip(arrays, published, strict=True)):
        return data
    right = shapes == list(SHAPES.values()) and all(a.dtype.kind in "iu" for a in arrays)
    if not right or any(np.bincount(y.ravel(), minlength=10).tolist() != list(counts) for (_, y), counts in parts):
        raise BrokenFileError(
            path, f"this is not the {folder} data set.",
            f"shapes {', '.join(map(str, SHAPES.values()))}, and so many images of each class: {COUNTS[folder][0]}.",
            f"shapes {', '.join(map(str, shapes))}, other images.",
            "read data of your own by themselves: np.load, minicnn.datasets.read_csv or read_idx.",
        )  # fmt: skip
    (x, y), (x_test, y_test) = data
    return (x.astype(np.uint8), y.astype(np.uint8)), (x_test.astype(np.uint8), y_test.astype(np.uint8))


def _content_md5(array: np.ndarray) -> str:
    """The MD5 that the array has as an IDX file."""
    digest = hashlib.md5(struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape), usedforsecurity=False)
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


@in_words
def read_csv(path: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray]:
    """(x (N, side, side) uint8, y (N,) uint8) of a table of square grey images: MNIST as CSV, or one's own.

    A line an image: its class number, then its pixels row by row, from 0 to 255. A first line of names is skipped.
    Raises BrokenFileError, FileNotFoundError.
    """
    fix = "a line is the class number and side × side pixels, all from 0 to 255; np.loadtxt reads other tables."
    problem, expected = "this is no table of images.", "lines of whole numbers with commas between."
    with open_file(path) as stream, checked(path, problem, expected, fix):
        size = os.fstat(stream.fileno()).st_size
        if size > MAX_CSV:
            raise ValueError(f"{size:,} bytes; at most {MAX_CSV:,} are read")
        first = stream.readline(1 << 20)
        header = not first.split(b",")[0].strip().strip(b'"').isdigit()
        if header and not stream.read(1):
            raise ValueError("no lines of numbers")
        stream.seek(0)
        table: Any = np.loadtxt(stream, np.uint8, delimiter=",", skiprows=int(header), ndmin=2)
        side = round((table.shape[1] - 1) ** 0.5)
        if side * side + 1 != table.shape[1] or side < 2:
            hint = "; the class number is missing" if round(table.shape[1] ** 0.5) ** 2 == table.shape[1] else ""
            raise BrokenFileError(path, problem, "a class number and side × side pixels a line.",
                                  f"{table.shape[1]} numbers a line{hint}.", fix)  # fmt: skip
    return np.ascontiguousarray(table[:, 1:]).reshape(-1, side, side), table[:, 0].copy()
