"""MNIST and Fashion-MNIST: files of the same names and shapes, told apart by their checksums."""

from __future__ import annotations

import hashlib

import numpy as np

from minicnn.datasets.fetch import Data, DataFile, find, how_to_replace
from minicnn.datasets.idx import read_idx
from minicnn.errors import BrokenFileError

SHAPES = {
    "train-images-idx3-ubyte.gz": (60000, 28, 28),
    "train-labels-idx1-ubyte.gz": (60000,),
    "t10k-images-idx3-ubyte.gz": (10000, 28, 28),
    "t10k-labels-idx1-ubyte.gz": (10000,),
}


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


def load(files: tuple[DataFile, ...]) -> Data:
    """The four arrays of one of the sets, as Keras returns them.

    The checksum is taken of the unpacked bytes: the same images packed by another gzip are as good.
    """
    x_train, y_train, x_test, y_test = (_read(file) for file in files)
    return (x_train, y_train), (x_test, y_test)


def _read(file: DataFile) -> np.ndarray:
    path = find(file)
    digest = hashlib.md5(usedforsecurity=False)
    array = read_idx(path, SHAPES[file.name], digest)
    if digest.hexdigest() != file.content_md5:
        known = {other.content_md5: f"{other.folder}/{other.name}" for other in MNIST + FASHION_MNIST}
        found = known.get(digest.hexdigest(), "unknown data of the right shape")
        raise BrokenFileError(
            str(path),
            f"this is not {file.folder}/{file.name}.",
            f"unpacked bytes with MD5 {file.content_md5}.",
            f"MD5 {digest.hexdigest()}: {found}.",
            how_to_replace(file),
        )
    return array
