"""TensorBoard's event files: read back by a reader of its own, which shares nothing with the writer but the format."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import minicnn
from minicnn.callbacks import BackupAndRestore, ModelCheckpoint, TensorBoard
from minicnn.errors import InputError, WriteError
from minicnn.layers import Add, Conv2D, Dense, Flatten, Input
from minicnn.models import Model, Sequential
from minicnn.training.callbacks.event_file import EventFile, crc32c, histogram, masked

RNG = np.random.default_rng(0)
X = RNG.random((12, 6, 6, 1)).astype("f")
Y = np.arange(12) % 3


def net() -> Sequential:
    model = Sequential([
        Input((6, 6, 1)), Conv2D(4, 3, name="conv"), Flatten(), Dense(3, activation="softmax", name="head"),
    ])  # fmt: skip
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


# ---- the reader ------------------------------------------------------------------------------------------------------


def crc_bit_by_bit(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def fields(data: bytes) -> list[tuple[int, object]]:
    """(number, value) of each field of a message: ints, floats, or bytes."""
    found, at = [], 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        number, kind = divmod(varint(), 8)
        if kind == 0:
            value = varint()
        else:
            size = {1: 8, 5: 4}.get(kind) or varint()
            value, at = data[at : at + size], at + size
            assert len(value) == size
            value = struct.unpack({1: "<d", 5: "<f"}[kind], value)[0] if kind in (1, 5) else value
        found.append((number, value))
    return found


def events(folder: Path) -> list[dict[int, object]]:
    """The events of all files of a folder; checks both checksums of each record."""
    found = []
    for path in sorted(folder.iterdir()):
        assert "tfevents" in path.name
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack("<Q", data[at : at + 8])
            parts = data[at : at + 8], data[at + 12 : at + 12 + length]
            ends = at + 8, at + 12 + length
            for part, end in zip(parts, ends, strict=True):
                crc = crc_bit_by_bit(part)
                rotated = (crc >> 15) | (crc << 17) & 0xFFFFFFFF
                assert struct.unpack("<I", data[end : end + 4])[0] == (rotated + 0xA282EAD8) % 2**32
            found.append(dict(fields(parts[1])))
            at += 16 + length
        assert found and dict(found[0])[3] == b"brain.Event:2"
    return found


def values(folder: Path) -> dict[str, list[tuple[int, dict[int, object]]]]:
    """tag -> [(step, the fields of the value), …]"""
    found: dict[str, list] = {}
    for event in events(folder):
        for _, value in fields(event.get(5, b"")):
            content = dict(fields(value))
            found.setdefault(content[1].decode(), []).append((event.get(2, 0), content))
    return found


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    return {tag: [(step, v[2]) for step, v in found] for tag, found in values(folder).items() if 2 in found[0][1]}


# ---- the format ------------------------------------------------------------------------------------------------------


def test_the_checksum_has_the_published_values():
    """RFC 3720, B.4, and the check value of the catalogue of CRCs."""
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E
    assert masked(0xE3069283) == ((0xE3069283 >> 15 | 0xE3069283 << 17) + 0xA282EAD8) % 2**32


def test_a_histogram_says_what_the_numbers_are():
    numbers = RNG.standard_normal(1000)
    content = dict(fields(dict(fields(histogram("a", np.append(numbers, [np.nan, np.inf]))))[5]))
    np.testing.assert_allclose(
        [content[k] for k in range(1, 6)], [numbers.min(), numbers.max(), 1000, numbers.sum(), (numbers**2).sum()]
    )
    limits, counts = (np.frombuffer(content[k], "<f8") for k in (6, 7))
    assert counts.sum() == 1000 and len(limits) == len(counts) and limits[-1] >= numbers.max()
    for limit, count in zip(limits, counts.cumsum(), strict=True):
        assert abs((numbers <= limit).sum() - count) <= 1  # a number on the edge itself
    for odd in (np.zeros(5), np.array([]), np.full(3, np.nan)):
        assert dict(fields(dict(fields(histogram("a", odd)))[5]))[3] == np.isfinite(odd).sum()


def test_two_files_of_one_moment_have_two_names(tmp_path):
    files = [EventFile(tmp_path) for _ in range(3)]
    assert len({file.path for file in files}) == 3


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "logs").write_text("a file")
    with pytest.raises(WriteError):
        net().fit(X, Y, callbacks=TensorBoard(tmp_path / "logs"), verbose=0)


# ---- the callback ----------------------------------------------------------------------------------------------------


def test_scalars_of_epochs(tmp_path):
    model = net()
    history = model.fit(X, Y, 4, 3, 0, TensorBoard(tmp_path), validation_data=(X, Y)).history
    train, held_back = scalars(tmp_path / "train"), scalars(tmp_path / "validation")
    assert set(train) == {"epoch_loss", "epoch_accuracy", "epoch_learning_rate"}
    for name, found in (("loss", train["epoch_loss"]), ("val_loss", held_back["epoch_loss"]),
                        ("accuracy", train["epoch_accuracy"])):  # fmt: skip
        assert [step for step, _ in found] == [0, 1, 2]
        np.testing.assert_allclose([value for _, value in found], history[name], rtol=1e-6)
    assert [step for step, _ in held_back["evaluation_loss_vs_iterations"]] == [3, 6, 9]
    np.testing.assert_allclose([v for _, v in train["epoch_learning_rate"]], [0.001] * 3, rtol=1e-6)


@pytest.mark.parametrize(("update_freq", "steps"), [("batch", [1, 2, 3, 4, 5, 6]), (2, [2, 4, 6])])
def test_scalars_of_batches(tmp_path, update_freq, steps):
    net().fit(X, Y, 4, 2, 0, TensorBoard(tmp_path, update_freq=update_freq, write_steps_per_second=True))
    train = scalars(tmp_path / "train")
    assert [step for step, _ in train["batch_loss"]] == steps
    assert all(speed > 0 for _, speed in train["epoch_steps_per_second"])
    assert [step for step, speed in train["batch_steps_per_second"] if speed > 0] == steps


def test_histograms_and_images(tmp_path):
    model = net()
    model.fit(X, Y, 4, 3, 0, TensorBoard(tmp_path, histogram_freq=2, write_images=True))
    found = values(tmp_path / "train")
    assert [step for step, _ in found["conv/kernel/histogram"]] == [0, 2]
    last = dict(fields(found["head/bias/histogram"][-1][1][5]))
    np.testing.assert_allclose(last[4], model.layers[2].params["b"].sum(), rtol=1e-6, atol=1e-9)
    assert {f"conv/kernel/image/{i}" for i in range(4)} < set(found)
    picture = dict(fields(found["conv/kernel/image/2"][-1][1][4]))
    pixels = np.asarray(Image.open(io.BytesIO(picture[4])))
    w = model.layers[0].params["w"][:, :, 0, 2]
    assert pixels.shape == (picture[1], picture[2]) == (3, 3)
    np.testing.assert_allclose(pixels / 255, (w - w.min()) / (w.max() - w.min()), atol=0.6 / 255)


def test_the_graph(tmp_path):
    x = Input((4,))
    shared = Dense(4, name="shared")
    model = Model(x, Add(name="sum")([shared(shared(x)), x]))
    model.compile("sgd", "mse")
    rows = RNG.random((3, 4))
    model.fit(rows, rows, callbacks=TensorBoard(tmp_path), verbose=0)
    content = next(event[4] for event in events(tmp_path / "train") if 4 in event)
    nodes = [fields(node) for _, node in fields(content)]
    named = {dict(node)[1].decode(): [v.decode() for k, v in node if k == 3] for node in nodes}
    assert named == {
        "input": [], "shared": ["input"], "shared_again2": ["shared"], "sum": ["shared_again2", "input"]
    }  # fmt: skip
    net().fit(X, Y, callbacks=TensorBoard(tmp_path / "none", write_graph=False), verbose=0)
    assert not any(4 in event for event in events(tmp_path / "none" / "train"))


def test_evaluate_alone_writes_too(tmp_path):
    model = net()
    loss = model.evaluate(X, Y, verbose=0, callbacks=TensorBoard(tmp_path))[0]
    assert scalars(tmp_path / "validation")["evaluation_loss_vs_iterations"] == [(0, pytest.approx(loss))]


def test_a_resumed_run_counts_batches_on(tmp_path):
    class Stop(minicnn.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if self.model.optimizer.iterations == 4:
                raise KeyboardInterrupt

    def run(*extra):
        board = TensorBoard(tmp_path / "logs", update_freq="batch")
        backup = BackupAndRestore(tmp_path / "backup", save_freq=1)
        net().fit(X, Y, 4, 2, 0, [board, backup, *extra], shuffle=False)

    with pytest.raises(KeyboardInterrupt):
        run(Stop())
    run()
    assert [step for step, _ in scalars(tmp_path / "logs" / "train")["batch_loss"]] == [1, 2, 3, 4, 4, 5, 6]


@pytest.mark.parametrize("options", [
    {"histogram_freq": -1}, {"histogram_freq": "a"}, {"update_freq": 0}, {"update_freq": "often"}, {"write_images": 3},
    {"profile_batch": 2}, {"embeddings_freq": 1}, {"embeddings_metadata": {"a": "b"}}, {"log_dir": None},
])  # fmt: skip
def test_what_does_not_fit_is_refused(options):
    with pytest.raises(InputError, match=next(iter(options))):
        TensorBoard(**options)


def test_tensorboard_itself_reads_it(tmp_path):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="needs tensorboard: the reader above stands in"
    )
    history = net().fit(X, Y, 4, 2, 0, [
        TensorBoard(tmp_path / "logs", histogram_freq=1, write_images=True), ModelCheckpoint(tmp_path / "m.zip"),
    ], validation_data=(X, Y)).history  # fmt: skip
    read = accumulator.EventAccumulator(str(tmp_path / "logs" / "train"))
    read.Reload()
    tags = read.Tags()
    assert "conv/kernel/histogram" in tags["histograms"] and "conv/kernel/image/0" in tags["images"] and tags["graph"]
    np.testing.assert_allclose([e.value for e in read.Scalars("epoch_loss")], history["loss"], rtol=1e-6)
    assert read.Histograms("head/kernel/histogram")[0].histogram_value.num == 3 * 4 * 16
    assert len(read.Graph().node) == 4


def test_tensorflow_reads_it(tmp_path):
    event_pb2 = pytest.importorskip("tensorflow.core.util.event_pb2", reason="needs TensorFlow")
    import tensorflow as tf

    net().fit(X, Y, 4, 1, 0, TensorBoard(tmp_path, histogram_freq=1, write_images=True))
    (path,) = (tmp_path / "train").iterdir()
    tags = set()
    for found in tf.data.TFRecordDataset(str(path)):
        event = event_pb2.Event.FromString(found.numpy())
        tags |= {value.tag for value in event.summary.value}
    assert {"epoch_loss", "conv/kernel/histogram", "conv/kernel/image/0"} < tags
