"""Whatever the disk does: the file that was there stays whole, and the error says what and where."""

from __future__ import annotations

import errno
import gc
import io
import os
import pickle
import shutil
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import minicnn
from minicnn.callbacks import BackupAndRestore, CSVLogger, ModelCheckpoint
from minicnn.errors import InputError, WriteError
from minicnn.files import atomic_write, make_folder
from minicnn.inspect import image_grid
from minicnn.inspect.figures import architecture
from minicnn.layers import Dense, Flatten, Input
from minicnn.preprocessing.image import save_img

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
from record import write_record  # noqa: E402


def network() -> minicnn.Sequential:
    minicnn.utils.set_random_seed(0)
    layers = [Flatten(), Dense(40, activation="relu"), Dense(3, activation="softmax")]
    model = minicnn.Sequential([Input((8, 8, 1)), *layers])
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


def data():
    return np.random.default_rng(0).random((6, 8, 8, 1)), np.arange(6) % 3


def fit_with(callback) -> None:
    network().fit(*data(), verbose=0, callbacks=callback)


WRITERS: dict[str, Callable[[Path], object]] = {
    "model": lambda path: network().save(path),
    "weights": lambda path: network().save_weights(path),
    "checkpoint": lambda path: fit_with(ModelCheckpoint(path)),
    "csv": lambda path: fit_with(CSVLogger(path)),
    "trace": lambda path: network().trace(*data()).save(path),
    "page": lambda path: network().trace(*data()).to_html(path),
    "figure": lambda path: image_grid(data()[0], data()[1], ["a", "b", "c"], rows=1, columns=2, save=path),
    "drawing": lambda path: architecture(network(), save=path),
    "picture": lambda path: save_img(path, data()[0][0]),
    "record": lambda path: write_record(path, {"numbers": list(range(3000))}),
}
ENDINGS = {"figure": ".png", "drawing": ".svg", "picture": ".png"}
every_writer = pytest.mark.parametrize("kind", WRITERS)


def target(folder: Path, kind: str) -> Path:
    return folder / f"file{ENDINGS.get(kind, '.out')}"


def failing_at(n: int, error: OSError):
    """os.fdopen, whose files take n bytes and then raise `error`."""

    class File(io.FileIO):
        room = n

        def write(self, content):
            if len(content) > self.room:
                super().write(bytes(content)[: self.room])
                self.room = 0
                raise error
            self.room -= len(content)
            return super().write(content)

    return lambda handle, mode: io.BufferedWriter(File(handle, mode))


@every_writer
@pytest.mark.parametrize("room", [0, 100])
def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch, kind, room):
    path = target(tmp_path, kind)
    path.write_bytes(b"what was there")
    monkeypatch.setattr(os, "fdopen", failing_at(room, OSError(errno.ENOSPC, "No space left on device")))
    if kind == "csv":  # a short file
        monkeypatch.setattr(os, "fdopen", failing_at(0, OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(WriteError) as caught:
        WRITERS[kind](path)
    if kind != "csv":  # which is emptied at the beginning of training
        assert path.read_bytes() == b"what was there"
    assert os.listdir(tmp_path) == [path.name]
    error = caught.value
    assert isinstance(error, OSError) and isinstance(error, InputError)
    assert error.errno == errno.ENOSPC and error.filename == str(path)
    assert str(path) in str(error) and "No space left on device" in str(error) and "make room" in error.fix


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs a limit on the size of files")
@every_writer
def test_the_systems_own_refusal(tmp_path, kind, monkeypatch):
    """Not imitated: the system itself stops the file after 20 bytes. Nothing is left to fail at its end, later."""
    import resource

    later: list = []
    monkeypatch.setattr(sys, "unraisablehook", later.append)

    path = target(tmp_path, kind)
    WRITERS[kind](path)
    whole = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, limits[1]))
    try:
        with pytest.raises(WriteError, match="File too large"):
            WRITERS[kind](path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    gc.collect()
    assert later == []
    if kind == "csv":
        assert path.read_bytes() == b""  # begun anew, and the first row was refused
    else:
        assert path.read_bytes() == whole
    assert os.listdir(tmp_path) == [path.name]


@every_writer
def test_a_folder_that_is_none(tmp_path, kind):
    (tmp_path / "file").write_bytes(b"x")
    path = target(tmp_path / "file", kind)
    with pytest.raises((InputError, OSError)) as caught:
        WRITERS[kind](path)
    assert str(tmp_path / "file") in str(caught.value)
    assert (tmp_path / "file").read_bytes() == b"x"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder in which nobody may write")
@every_writer
def test_a_folder_in_which_nobody_may_write(kind):
    path = target(Path("/proc"), kind)
    with pytest.raises(WriteError, match="could not be written") as caught:
        WRITERS[kind](path)
    assert caught.value.filename == str(path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_device_is_not_replaced():
    with pytest.raises(InputError, match="no ordinary file"):
        network().save("/dev/full")
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)


def test_a_folder_that_goes_away_in_training(tmp_path):
    """The model is still there, and the error says which file."""

    class Gone(ModelCheckpoint):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                shutil.rmtree(tmp_path / "b")
            super().on_epoch_end(epoch, logs)

    model = network()
    callbacks = [Gone(tmp_path / "m.zip"), BackupAndRestore(tmp_path / "b")]
    with pytest.raises(InputError, match="its folder does not exist") as caught:
        model.fit(*data(), epochs=3, verbose=0, callbacks=callbacks)
    assert "backup.zip" in str(caught.value)
    assert model.optimizer.iterations == 2 and (tmp_path / "m.zip").exists()


def test_a_failed_backup_leaves_the_last_one(tmp_path, monkeypatch):
    model, seen = network(), []

    def full(self):
        seen.append(1)
        if len(seen) == 3:
            monkeypatch.setattr(os, "fdopen", failing_at(500, OSError(errno.ENOSPC, "No space left on device")))
        save(self)

    save = BackupAndRestore._save
    monkeypatch.setattr(BackupAndRestore, "_save", full)
    with pytest.raises(WriteError, match=r"backup\.zip"):
        model.fit(*data(), epochs=5, verbose=0, callbacks=BackupAndRestore(tmp_path))
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["backup.zip"]
    whole, again = network(), network()
    expected = whole.fit(*data(), epochs=5, verbose=0)
    history = again.fit(*data(), epochs=5, verbose=0, callbacks=BackupAndRestore(tmp_path))
    assert history.history == expected.history


def test_a_failed_row_leaves_the_rows_before(tmp_path, monkeypatch):
    path, write, rows = tmp_path / "log.csv", CSVLogger._write, []

    def full(self):
        rows.append(1)
        if len(rows) == 4:
            monkeypatch.setattr(os, "fdopen", failing_at(3, OSError(errno.ENOSPC, "No space left on device")))
        write(self)

    monkeypatch.setattr(CSVLogger, "_write", full)
    with pytest.raises(WriteError):
        network().fit(*data(), epochs=5, verbose=0, callbacks=CSVLogger(path))
    lines = path.read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["epoch", "0", "1"]


# ---- atomic_write itself ---------------------------------------------------------------------------------------------


def test_it_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """Content, then name, then the folder that holds the name."""
    calls, fsync, replace = [], os.fsync, os.replace

    def watched_fsync(handle):
        calls.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "content")
        fsync(handle)

    def watched_replace(source, target):
        calls.append("name")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "replace", watched_replace)
    network().save(tmp_path / "m")
    assert calls == ["content", "name", "folder"] if os.name != "nt" else ["content", "name"]


@pytest.mark.parametrize("call", ["fsync", "replace", "chmod"])
def test_every_call_may_fail(tmp_path, monkeypatch, call):
    path = tmp_path / "m"
    path.write_bytes(b"old")

    def refuse(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(WriteError, match="Input/output error"):
        network().save(path)
    monkeypatch.undo()
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["m"]


def test_a_drive_that_cannot_flush_folders_will_do(tmp_path, monkeypatch):
    fsync = os.fsync

    def only_files(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", only_files)
    network().save(tmp_path / "m")
    assert minicnn.load_model(tmp_path / "m").count_params() == network().count_params()


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    link = tmp_path / "latest.zip"
    try:
        link.symlink_to(tmp_path / "real" / "m.zip")
    except OSError:
        pytest.skip("links cannot be made here")
    network().save(link)
    assert link.is_symlink() and (tmp_path / "real" / "m.zip").is_file()
    assert os.listdir(tmp_path / "real") == ["m.zip"]


def test_errors_of_other_files_are_not_renamed(tmp_path):
    """What is read while a file is written may fail, too."""

    def write():
        with atomic_write(tmp_path / "m") as file:
            file.write((tmp_path / "missing").read_bytes())

    with pytest.raises(FileNotFoundError) as caught:
        write()
    assert not isinstance(caught.value, WriteError) and "missing" in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_the_error_survives_pickling(tmp_path):
    error = WriteError(tmp_path, OSError(errno.ENOSPC, "No space left on device"))
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error) and again.errno == errno.ENOSPC and type(again) is WriteError


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(WriteError, match="could not be written"):
        make_folder(tmp_path / "file" / "sub")
    with pytest.raises(WriteError):
        network().fit(*data(), verbose=0, callbacks=BackupAndRestore(tmp_path / "file"))
