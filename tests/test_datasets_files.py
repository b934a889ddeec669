"""The readers: IDX, MNIST against Fashion-MNIST, CIFAR-10; then the real files where they are at hand."""

from __future__ import annotations

import gzip
import hashlib
import io
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest

from minicnn import datasets
from minicnn.datasets import cifar10, fashion_mnist, fetch, idx_sets, mnist
from minicnn.datasets.idx import DTYPES, read_idx
from minicnn.errors import BrokenFileError


def idx_bytes(array: np.ndarray, code: int = 0x08) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape) + array.tobytes()


ARRAY = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("code", DTYPES)
def test_read_idx(tmp_path: Path, code, pack):
    values = ARRAY.astype(DTYPES[code])
    (tmp_path / "x").write_bytes(pack(idx_bytes(values, code)))
    digest = hashlib.md5()
    read = read_idx(tmp_path / "x", (2, 3, 4), digest)
    assert read.dtype == values.dtype.newbyteorder("=") and read.dtype.isnative
    np.testing.assert_array_equal(read, values)
    assert digest.hexdigest() == hashlib.md5(idx_bytes(values, code)).hexdigest()


WHOLE = idx_bytes(ARRAY)
ZIPPED = gzip.compress(WHOLE, mtime=0)
DAMAGED = ZIPPED[:-8] + bytes([ZIPPED[-8] ^ 1]) + ZIPPED[-7:]  # one bit of the stored checksum


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "no IDX file.*an empty file"),
        (b"<html>not found</html>", "no IDX file.*an HTML page of 22 bytes"),
        (gzip.compress(b"<html>not found</html>", mtime=0), "no IDX file.*a gzip file of .* starts with 3c 68 74 6d"),
        (b"\0\0\x07\1" + bytes(8), "no IDX file"),
        (b"\0\1\x08\1" + bytes(8), "no IDX file"),
        (b"\0\0\x08\xff" + bytes(2000), "no IDX file"),
        (WHOLE[:10], "cut short.*3 axes of 4 bytes"),
        (WHOLE[:-1], "cut short.*24 bytes after the header.*23 bytes"),
        (gzip.compress(WHOLE[:-1], mtime=0), "cut short.*23 of 24 bytes"),
        (WHOLE + b"\0", "too long"),
        (gzip.compress(WHOLE + bytes(100), mtime=0), "too long"),
        (ZIPPED[:-9], "damaged or cut short"),
        (ZIPPED[:15], "damaged or cut short"),
        (DAMAGED, "damaged or cut short"),
        (struct.pack(">BBBB3I", 0, 0, 8, 3, 1 << 20, 1 << 20, 1 << 20), "cut short.*1048576"),
        (
            gzip.compress(struct.pack(">BBBB3I", 0, 0, 8, 3, 512, 512, 512), mtime=0),
            "shape in the header.*at most 67,108,864",
        ),
    ],
)
def test_broken_idx_is_named(tmp_path: Path, content, text):
    path = tmp_path / "broken.gz"
    path.write_bytes(content)
    with pytest.raises(BrokenFileError, match=f"(?s){text}") as error:
        read_idx(path)
    assert error.value.where == str(path)


def test_other_shape_is_refused_before_it_is_read(tmp_path: Path):
    (tmp_path / "x").write_bytes(struct.pack(">BBBB2I", 0, 0, 8, 2, 40000, 40000))
    with pytest.raises(BrokenFileError, match=r"(?s)\(2, 3, 4\).*\(40000, 40000\)"):
        read_idx(tmp_path / "x", (2, 3, 4))


def test_no_idx_file(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        read_idx(tmp_path / "nothing")
    with pytest.raises(BrokenFileError, match="a folder"):
        read_idx(tmp_path)


def test_addresses_are_https():
    for file in (*idx_sets.MNIST, *idx_sets.FASHION_MNIST, cifar10.ARCHIVE):
        assert len(file.mirrors) >= 2
        assert all(m.startswith("https://") and m.endswith(file.name) for m in file.mirrors)


@pytest.fixture
def small_cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """The six files with 20 records each instead of 10,000, and tmp_path as MINICNN_DATA."""
    monkeypatch.setattr(cifar10, "_PER_BATCH", 20)
    monkeypatch.setattr(fetch, "cache_dir", lambda: tmp_path / "cache")
    monkeypatch.setenv("MINICNN_DATA", str(tmp_path))
    files = {}
    for i, name in enumerate(cifar10.BATCHES):
        records = np.random.default_rng(i).integers(0, 256, (20, cifar10.RECORD)).astype(np.uint8)
        records[:, 0] = np.random.default_rng(i).permutation(20) % 10
        files[name] = records.tobytes()
    return files


def write_folder(root: Path, files: dict[str, bytes]) -> Path:
    (root / cifar10.FOLDER).mkdir()
    for name, content in files.items():
        (root / cifar10.FOLDER / name).write_bytes(content)
    return root / cifar10.FOLDER


def write_archive(root: Path, monkeypatch: pytest.MonkeyPatch, members: list[tuple[tarfile.TarInfo, bytes]]):
    """A tar file whose size and MD5 are taken for the published ones."""
    path = root / cifar10.ARCHIVE.name
    with tarfile.open(path, "w:gz") as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    content = path.read_bytes()
    expected = cifar10.ARCHIVE._replace(size=len(content), md5=hashlib.md5(content).hexdigest())
    monkeypatch.setattr(cifar10, "ARCHIVE", expected)
    return path


def member(name: str, content: bytes, **attributes) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in attributes.items():
        setattr(info, key, value)
    return info, content


def test_cifar_folder_and_archive_agree(small_cifar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    members = [member(f"{cifar10.FOLDER}/{name}", content) for name, content in small_cifar.items()]
    extra = [member("../outside", b"x"), member(f"{cifar10.FOLDER}/readme.html", b"x" * 999)]
    write_archive(tmp_path, monkeypatch, [*extra, *reversed(members)])
    (x, y), (x_test, y_test) = cifar10.load_data()
    assert x.shape == (100, 32, 32, 3) and y.shape == (100, 1)
    assert x_test.shape == (20, 32, 32, 3) and y_test.shape == (20, 1)
    assert x.flags.c_contiguous and x_test.flags.c_contiguous
    record = np.frombuffer(small_cifar["data_batch_2.bin"], np.uint8)[3 * cifar10.RECORD :]
    assert y[23, 0] == record[0]
    assert (
        x[23, 5, 7].tolist()
        == record[[1 + 5 * 32 + 7, 1 + 1024 + 5 * 32 + 7, 1 + 2048 + 5 * 32 + 7]].tolist()
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        cifar10.ARCHIVE.name
    ]  # nothing was unpacked to disk

    write_folder(tmp_path, small_cifar)
    (x2, y2), (x2_test, y2_test) = cifar10.load_data()
    for a, b in ((x, x2), (y, y2), (x_test, x2_test), (y_test, y2_test)):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "attributes",
    [
        {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd", "size": 0},
        {"type": tarfile.LNKTYPE, "linkname": "elsewhere", "size": 0},
        {"type": tarfile.DIRTYPE, "size": 0},
        {"size": 100},
    ],
)
def test_cifar_archive_with_a_wrong_member(
    small_cifar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attributes
):
    members = [member(f"{cifar10.FOLDER}/{name}", content) for name, content in small_cifar.items()]
    members[2] = member(*(members[2][0].name, members[2][1]), **attributes)
    path = write_archive(tmp_path, monkeypatch, members)
    with pytest.raises(BrokenFileError, match=r"data_batch_3.bin in it is no data file") as error:
        cifar10.load_data()
    assert error.value.where == str(path)


def test_cifar_archive_cut_short_or_other(small_cifar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    members = [member(f"{cifar10.FOLDER}/{name}", content) for name, content in small_cifar.items()]
    path = write_archive(tmp_path, monkeypatch, members)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BrokenFileError, match="not the published"):
        cifar10.load_data()
    with pytest.raises(BrokenFileError, match="damaged or cut short"):
        list(cifar10._read_archive(path))
    path.write_text("<html>moved</html>")
    with pytest.raises(BrokenFileError, match="an HTML page"):
        cifar10.load_data()


def test_cifar_folder_broken(small_cifar, tmp_path: Path):
    folder = write_folder(tmp_path, small_cifar)
    last = folder / "test_batch.bin"
    whole = last.read_bytes()

    last.unlink()
    with pytest.raises(BrokenFileError, match=r"not complete.*\n.*\n.*all but test_batch.bin"):
        cifar10.load_data()
    last.write_bytes(whole[:-1])
    with pytest.raises(BrokenFileError, match=f"wrong size.*\n.*{len(whole):,}.*\n.*{len(whole) - 1:,}"):
        cifar10.load_data()
    for label in (11, (whole[0] + 1) % 10):
        last.write_bytes(bytes([label]) + whole[1:])
        with pytest.raises(BrokenFileError, match="labels are not those of CIFAR-10"):
            cifar10.load_data()


REAL = [
    ("mnist", mnist, (28, 28), (), 60000, [5, 0, 4, 1, 9]),
    ("fashion_mnist", fashion_mnist, (28, 28), (), 60000, [9, 0, 0, 3, 0]),
    ("cifar10", cifar10, (32, 32, 3), (1,), 50000, None),
]


@pytest.mark.parametrize(("name", "module", "image", "label", "count", "first"), REAL)
def test_real_data(data_dir: Path, monkeypatch, name, module, image, label, count, first):
    monkeypatch.setenv("MINICNN_DATA", str(data_dir))
    (x_train, y_train), (x_test, y_test), class_names = datasets.load(name)
    assert x_train.shape == (count, *image) and y_train.shape == (count, *label)
    assert x_test.shape == (10000, *image) and y_test.shape == (10000, *label)
    assert {a.dtype for a in (x_train, y_train, x_test, y_test)} == {np.dtype(np.uint8)}
    assert class_names == module.CLASS_NAMES and len(set(class_names)) == 10
    assert set(np.unique(y_train)) == set(range(10))
    if first:
        assert y_train[:5].tolist() == first
    if name == "cifar10":  # the means of red, green and blue that many scripts carry as constants
        np.testing.assert_allclose(x_train.mean((0, 1, 2)) / 255, [0.4914, 0.4822, 0.4465], atol=1e-4)


def test_mnist_in_the_place_of_fashion_mnist(data_dir: Path, tmp_path: Path, monkeypatch):
    """The two sets have files of the same names and shapes: only the content tells."""
    name = "train-labels-idx1-ubyte.gz"
    monkeypatch.setenv("MINICNN_DATA", str(data_dir))
    file = next(f for f in idx_sets.FASHION_MNIST if f.name == name)
    assert len(idx_sets._read(file)) == 60000

    (tmp_path / "fashion-mnist").mkdir()
    wrong = tmp_path / "fashion-mnist" / name
    wrong.write_bytes((data_dir / "mnist" / name).read_bytes())
    monkeypatch.setenv("MINICNN_DATA", str(tmp_path))
    with pytest.raises(BrokenFileError, match=f"(?s)not fashion-mnist/{name}.*: mnist/{name}") as error:
        idx_sets._read(file)
    assert error.value.where == str(wrong) and file.md5 in error.value.fix

    labels = np.random.default_rng(0).integers(0, 10, 60000).astype(np.uint8)
    wrong.write_bytes(gzip.compress(idx_bytes(labels), 1, mtime=0))
    with pytest.raises(BrokenFileError, match="unknown data of the right shape"):
        idx_sets._read(file)
