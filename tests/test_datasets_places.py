"""Data sets where people have them: unpacked, under the names of torchvision, Keras and Kaggle, as npz and CSV."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest

from minicnn import datasets
from minicnn.datasets import cifar10, fashion_mnist, fetch, idx_sets, mnist
from minicnn.datasets.cifar_pickle import read_batch
from minicnn.errors import BrokenFileError, InputError

SIZES = (30, 10)


def idx_bytes(array):
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def small(tmp_path, monkeypatch):
    """MNIST and Fashion-MNIST of few images; tmp_path / "data" as MINICNN_DATA, no network. Returns MNIST's arrays."""
    sets = {}
    shapes = [shape for n in SIZES for shape in ((n, 28, 28), (n,))]
    monkeypatch.setattr(idx_sets, "SHAPES", dict(zip(idx_sets.SHAPES, shapes, strict=True)))
    for seed, (name, published) in enumerate((("MNIST", idx_sets.MNIST), ("FASHION_MNIST", idx_sets.FASHION_MNIST))):
        rng = np.random.default_rng(seed)
        arrays = [a for n in SIZES for a in (rng.integers(0, 256, (n, 28, 28)), rng.permutation(np.arange(n) % 10))]
        if seed:  # the two sets have other counts
            arrays[1][:2] = arrays[3][:2] = 0
        arrays = [a.astype(np.uint8) for a in arrays]
        files = [f._replace(content_md5=hashlib.md5(idx_bytes(a)).hexdigest())
                 for f, a in zip(published, arrays, strict=True)]  # fmt: skip
        monkeypatch.setattr(idx_sets, name, tuple(files))
        counts = tuple(tuple(np.bincount(arrays[k], minlength=10).tolist()) for k in (1, 3))
        monkeypatch.setitem(idx_sets.COUNTS, published[0].folder, counts)
        sets[published[0].folder] = arrays
    data = tmp_path / "data"
    data.mkdir()
    monkeypatch.setenv("MINICNN_DATA", str(data))
    monkeypatch.setattr(fetch, "cache_dir", lambda: tmp_path / "cache")

    def no_network(address, size):
        raise fetch._MirrorError("no network", final=True)
        yield b""

    monkeypatch.setattr(fetch, "_blocks", no_network)
    return sets


def write(root, arrays, folder="", name=lambda n: n, pack=bytes):
    for published, array in zip(idx_sets.SHAPES, arrays, strict=True):
        path = root / folder / name(published.removesuffix(".gz"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pack(idx_bytes(array)))


def check(data, arrays):
    for ours, theirs in zip((a for part in data for a in part), arrays, strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == np.uint8


LAYOUTS = {
    "as published": {"folder": "mnist", "name": lambda n: n + ".gz", "pack": gzip.compress},
    "unpacked": {"folder": "mnist"},
    "unpacked, but still called .gz": {"folder": "mnist", "name": lambda n: n + ".gz"},
    "torchvision": {"folder": "MNIST/raw"},
    "Kaggle's names": {"folder": "mnist", "name": lambda n: n.replace("-idx", ".idx")},
    "Kaggle's folders": {"name": lambda n: f"{n}/{n}"},
    "the folder itself": {},
    "the folder itself, packed": {"name": lambda n: n + ".gz", "pack": gzip.compress},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_idx_files_in_other_peoples_places(small, tmp_path, layout):
    write(tmp_path / "data", small["mnist"], **LAYOUTS[layout])
    check(mnist.load_data(), small["mnist"])


@pytest.mark.parametrize("folder", ["fashion-mnist", "FashionMNIST/raw", "fashion_mnist"])
def test_both_sets_side_by_side(small, tmp_path, folder):
    write(tmp_path / "data", small["mnist"], "MNIST/raw")
    write(tmp_path / "data", small["fashion-mnist"], folder)
    check(mnist.load_data(), small["mnist"])
    check(fashion_mnist.load_data(), small["fashion-mnist"])


def test_the_other_set_in_the_folder_itself_is_told(small, tmp_path):
    write(tmp_path / "data", small["fashion-mnist"])
    with pytest.raises(BrokenFileError, match="(?s)this is not mnist/train-images.*: fashion-mnist/train-images"):
        mnist.load_data()


def test_a_tilde(small, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setenv("MINICNN_DATA", os.path.join("~", "data"))
    write(tmp_path / "data", small["mnist"], "mnist")
    check(mnist.load_data(), small["mnist"])


def test_a_file_as_minicnn_data(tmp_path, monkeypatch):
    (tmp_path / "mnist.npz").write_bytes(b"")
    monkeypatch.setenv("MINICNN_DATA", str(tmp_path / "mnist.npz"))
    with pytest.raises(InputError, match="this is a file"):
        mnist.load_data()


def test_what_lies_there_is_said_where_nothing_is_found(small, tmp_path):
    (tmp_path / "data" / "photos").mkdir()
    with pytest.raises(datasets.DownloadError, match=r"In MINICNN_DATA, .*data, there are: photos/"):
        mnist.load_data()


@pytest.mark.parametrize("place", ["mnist.npz", "mnist/mnist.npz"])
def test_keras_npz(small, tmp_path, place):
    path = tmp_path / "data" / place
    path.parent.mkdir(exist_ok=True)
    np.savez_compressed(path, **dict(zip(idx_sets.NPZ_KEYS, small["mnist"], strict=True)))
    check(mnist.load_data(), small["mnist"])


@pytest.mark.parametrize(("arrays", "text"), [
    ({"x": np.zeros(3)}, "it holds x, not x_train"),
    (dict(zip(idx_sets.NPZ_KEYS, (np.zeros((4, 28, 28), np.uint8), np.zeros(4, np.uint8)) * 2, strict=True)),
     "not the mnist data set"),
])  # fmt: skip
def test_an_npz_of_something_else(small, tmp_path, arrays, text):
    np.savez(tmp_path / "data" / "mnist.npz", **arrays)
    with pytest.raises(BrokenFileError, match=text):
        mnist.load_data()


def csv(x, y, header):
    names = "label," + ",".join(f"pixel{i}" for i in range(784)) + "\n" if header else ""
    rows = np.column_stack([y, x.reshape(len(x), -1)])
    return names + "".join(",".join(map(str, row)) + "\n" for row in rows)


@pytest.mark.parametrize("header", [False, True])
@pytest.mark.parametrize("shuffled", [False, True])
def test_csv(small, tmp_path, header, shuffled):
    x, y, x_test, y_test = small["mnist"]
    order = np.random.default_rng(0).permutation(len(x)) if shuffled else np.arange(len(x))
    (tmp_path / "data" / "mnist_train.csv").write_text(csv(x[order], y[order], header))
    (tmp_path / "data" / "mnist_test.csv").write_text(csv(x_test, y_test, header))
    check(mnist.load_data(), (x[order], y[order], x_test, y_test))


def test_fashion_csv_under_kaggles_name(small, tmp_path):
    x, y, x_test, y_test = small["fashion-mnist"]
    (tmp_path / "data" / "fashion-mnist_train.csv").write_text(csv(x, y, True))
    (tmp_path / "data" / "fashion-mnist_test.csv").write_text(csv(x_test, y_test, True))
    check(fashion_mnist.load_data(), small["fashion-mnist"])


def test_csv_of_ones_own(tmp_path):
    (tmp_path / "x.csv").write_text("label,a,b,c,d\n3,0,1,2,255\n")
    x, y = datasets.read_csv(tmp_path / "x.csv")
    assert x.tolist() == [[[0, 1], [2, 255]]] and y.tolist() == [3] and x.dtype == y.dtype == np.uint8


@pytest.mark.parametrize(("text", "part"), [
    ("1,0,1,2,256\n", "256"), ("1,0,1,2\n", "4 numbers a line; the class number is missing"), ("1,2\n", "2 numbers"),
    ("1,0,1,2,3\n1,2,3\n", "columns"), ("1,0,cat,2,3\n", "cat"), ("<html>", "no lines"), ("", "no lines"),
])  # fmt: skip
def test_a_table_of_something_else(tmp_path, text, part):
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(BrokenFileError, match=part):
        datasets.read_csv(tmp_path / "x.csv")


def test_ones_own_idx_files_are_not_called_broken(small, tmp_path):
    write(tmp_path / "data", [np.zeros((9, 28, 28), np.uint8), *small["mnist"][1:]], "mnist")
    with pytest.raises(BrokenFileError, match=r"these are other data.(?s:.*)\(9, 28, 28\)") as error:
        mnist.load_data()
    assert "read_idx" in error.value.fix and "delete" not in error.value.fix
    write(tmp_path / "data", [np.zeros((30, 28, 28), np.uint8), *small["mnist"][1:]], "mnist")
    with pytest.raises(BrokenFileError, match="unknown data of the right shape") as error:
        mnist.load_data()
    assert "read_idx" in error.value.fix and "delete" not in error.value.fix
    assert datasets.read_idx(tmp_path / "data" / "mnist" / "train-images-idx3-ubyte").shape == (30, 28, 28)


# ---- CIFAR-10 --------------------------------------------------------------------------------------------------------


def batches(n=20):
    """(pixels, labels) of the six files, by their names in the Python version."""
    made = {}
    for i, name in enumerate(cifar10.BATCHES):
        rng = np.random.default_rng(i)
        made[name.removesuffix(".bin")] = (
            rng.integers(0, 256, (n, 3072)).astype(np.uint8), (rng.permutation(n) % 10).tolist()
        )  # fmt: skip
    return made


def as_python_2_wrote_it(pixels, labels):
    """A batch as cPickle of Python 2 wrote the published ones: its instructions, one by one."""

    def text(value):
        return b"U" + bytes([len(value)]) + value

    numbers = b"".join(b"K" + bytes([k]) for k in labels)
    n = struct.pack("<H", len(labels))
    content = pixels.tobytes()
    return (
        b"\x80\x02}q\x01(" + text(b"batch_label") + b"q\x02" + text(b"training batch 1 of 5") + b"q\x03"
        + text(b"labels") + b"q\x04]q\x05(" + numbers + b"e"
        + text(b"data") + b"q\x06cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85"
        + text(b"b") + b"\x87Rq\t(K\x01M" + n + b"M\x00\x0c\x86cnumpy\ndtype\nq\n" + text(b"u1")
        + b"K\x00K\x01\x87Rq\x0b(K\x03" + text(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T"
        + struct.pack("<I", len(content)) + content + b"tb"
        + text(b"filenames") + b"q\x0c]q\r(" + text(b"leptodactylus_pentadactylus_s_000004.png") + b"q\x0eeu."
    )  # fmt: skip


PICKLED = {
    "Python 2": as_python_2_wrote_it,
    **{f"protocol {p}": lambda x, y, p=p: pickle.dumps({b"data": x, b"labels": y, b"filenames": [b"a"]}, p)
       for p in (2, 3, 4, 5)},
    "names as text": lambda x, y: pickle.dumps({"labels": y, "data": x}, 4),
}  # fmt: skip


@pytest.mark.parametrize("kind", PICKLED)
def test_a_batch_of_the_python_version(kind):
    pixels, labels = batches()["data_batch_2"]
    x, y = read_batch(PICKLED[kind](pixels, labels))
    np.testing.assert_array_equal(x, pixels)
    assert y.tolist() == labels


class Malice:
    def __reduce__(self):
        return os.system, ("touch /nonexistent/malice",)


@pytest.mark.parametrize("content", [
    b"", b"\x80\x02", b"\x80\x04.", b"not a pickle", b"N.", b"}.", b"]\x94h\x00a.", b"(" * 99 + b".", b"}(]Nu.",
    pickle.dumps(Malice()), pickle.dumps(Malice(), 2), b"cos\nsystem\n(S'true'\ntR.",
    b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
    b"cbuiltins\neval\n.", b"K\x01" * 300_000 + b".", b"\x8e" + b"\xff" * 8, b"b", b"R", b"e", b"u.",
    pickle.dumps({"data": np.zeros((2, 3072)), "labels": [1, 2]}),
    pickle.dumps({"data": np.zeros((2, 100), np.uint8), "labels": [1, 2]}),
    pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [1]}),
    pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [1, 2.5]}),
    pickle.dumps({"data": np.zeros((2, 3072), object), "labels": [1, 2]}),
    pickle.dumps({"labels": [1]}), pickle.dumps([1, 2]),
])  # fmt: skip
def test_any_other_pickle_is_refused_and_nothing_is_run(content, monkeypatch):
    ran = []
    monkeypatch.setattr(os, "system", ran.append)
    with pytest.raises(ValueError):  # noqa: PT011
        read_batch(content)
    assert not ran


def test_damaged_batches_are_refused_or_read_but_never_run():
    whole = as_python_2_wrote_it(*batches(3)["data_batch_1"])
    rng = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(whole)
        for at in rng.integers(0, 200, 3):
            damaged[at] = rng.integers(256)
        with contextlib.suppress(ValueError):
            read_batch(bytes(damaged[: rng.integers(len(whole))] if rng.random() < 0.3 else damaged))


@pytest.fixture
def small_cifar(tmp_path, monkeypatch):
    monkeypatch.setattr(cifar10, "_PER_BATCH", 20)
    monkeypatch.setattr(fetch, "cache_dir", lambda: tmp_path / "cache")
    monkeypatch.setenv("MINICNN_DATA", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    return batches()


@pytest.mark.parametrize("python", [False, True])
@pytest.mark.parametrize(
    "folder", ["own name", "", "cifar-10", "cifar10/own name", "cifar-10-batches-py-target/own name"]
)
def test_cifar_in_other_peoples_places(small_cifar, tmp_path, python, folder):
    own = cifar10.PYTHON_FOLDER if python else cifar10.FOLDER
    place = tmp_path / "data" / folder.replace("own name", own)
    place.mkdir(parents=True, exist_ok=True)
    for name, (pixels, labels) in small_cifar.items():
        binary = np.column_stack([np.array(labels, np.uint8), pixels]).tobytes()
        (place / (name if python else f"{name}.bin")).write_bytes(
            as_python_2_wrote_it(pixels, labels) if python else binary
        )
    (x, y), (x_test, y_test) = cifar10.load_data()
    pixels, labels = small_cifar["data_batch_2"]
    np.testing.assert_array_equal(y[20:40, 0], labels)
    np.testing.assert_array_equal(x[20:40], pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(y_test[:, 0], small_cifar["test_batch"][1])
    assert x_test.shape == (20, 32, 32, 3)


def test_the_python_archive(small_cifar, tmp_path, monkeypatch):
    path = tmp_path / "data" / cifar10.PYTHON_ARCHIVE.name
    with tarfile.open(path, "w:gz") as archive:
        for name, (pixels, labels) in small_cifar.items():
            (tmp_path / name).write_bytes(as_python_2_wrote_it(pixels, labels))
            archive.add(tmp_path / name, f"{cifar10.PYTHON_FOLDER}/{name}")
    with pytest.raises(BrokenFileError, match="not the published cifar-10-python"):
        cifar10.load_data()
    content = path.read_bytes()
    known = cifar10.PYTHON_ARCHIVE._replace(size=len(content), md5=hashlib.md5(content).hexdigest())
    monkeypatch.setattr(cifar10, "PYTHON_ARCHIVE", known)
    np.testing.assert_array_equal(cifar10.load_data()[0][1][:20, 0], small_cifar["data_batch_1"][1])


def test_a_python_batch_of_something_else_is_named(small_cifar, tmp_path):
    place = tmp_path / "data" / cifar10.PYTHON_FOLDER
    place.mkdir()
    (place / "data_batch_1").write_bytes(pickle.dumps(Malice()))
    with pytest.raises(BrokenFileError, match="(?s)no batch of CIFAR-10.*system") as error:
        cifar10.load_data()
    assert error.value.where == str(place / "data_batch_1")


# ---- the real ones ---------------------------------------------------------------------------------------------------


def test_real_mnist_unpacked_and_as_npz(data_dir: Path, tmp_path, monkeypatch):
    monkeypatch.setenv("MINICNN_DATA", str(data_dir))
    data = mnist.load_data()
    arrays = [a for part in data for a in part]
    monkeypatch.setattr(fetch, "cache_dir", lambda: tmp_path / "cache")
    monkeypatch.setenv("MINICNN_DATA", str(tmp_path))
    np.savez(tmp_path / "mnist.npz", **dict(zip(idx_sets.NPZ_KEYS, arrays, strict=True)))
    check(mnist.load_data(), arrays)
    write(tmp_path, arrays, "MNIST/raw")
    check(mnist.load_data(), arrays)
    for k, name in ((0, "mnist"), (1, "mnist")):
        assert tuple(np.bincount(arrays[2 * k + 1]).tolist()) == idx_sets.COUNTS[name][k]
