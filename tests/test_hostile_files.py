"""Files that were made to do harm: each is refused with a reason, before memory is taken and the model changes."""

from __future__ import annotations

import io
import json
import os
import struct
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest

from minicnn.datasets.idx import read_idx
from minicnn.errors import BrokenFileError, InputError, UnknownNameError
from minicnn.inspect.trace import Trace
from minicnn.layers import BatchNormalization, Conv2D, Dense, Flatten, Input
from minicnn.models import Sequential, load_model
from minicnn.saving import archive


def network() -> Sequential:
    model = Sequential([Input((6, 6, 1)), Conv2D(2, 3), BatchNormalization(), Flatten(), Dense(3, "softmax")])
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


@pytest.fixture
def members(tmp_path: Path) -> dict[str, bytes]:
    """The members of a model file, by name."""
    model = network()
    model.fit(np.ones((4, 6, 6, 1)), np.arange(4) % 3, verbose=0)
    model.save(tmp_path / "good")
    with zipfile.ZipFile(tmp_path / "good") as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write(path: Path, members, packing: int = zipfile.ZIP_STORED) -> Path:
    """A zip of (name, content) pairs, or of a dict."""
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", packing) as archive:
        warnings.simplefilter("ignore")  # of double names
        for name, content in members.items() if isinstance(members, dict) else members:
            archive.writestr(name, content)
    return path


def npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def with_config(members: dict[str, bytes], change) -> dict[str, bytes]:
    config = json.loads(members["config.json"])
    change(config)
    return members | {"config.json": json.dumps(config).encode()}


def layer(config, i):
    return config["model"]["layers"][i]["config"]


# ---- model files -----------------------------------------------------------------------------------------------------


def huge_filters(config):
    layer(config, 0)["filters"] = 10**12


def huge_units(config):
    layer(config, 3)["units"] = 10**9


def huge_input(config):
    config["model"]["input_shape"] = [10**6, 10**6, 1]


def wrong_type(config):
    layer(config, 0)["kernel_size"] = {"a": 1}


def repeated_string(config):
    layer(config, 1)["scale"] = 10**12


def an_endless_stack(config):
    config["model"]["layers"] += [{"class_name": "Flatten", "config": {}, "trainable": True}] * 5000


def a_module(config):
    config["model"]["layers"][0]["class_name"] = "base"


def the_base_class(config):
    config["model"]["layers"][0]["class_name"] = "Context"


def a_system_call(config):
    layer(config, 0)["kernel_initializer"] = {"class_name": "os.system", "config": {"command": "true"}}


def an_unknown_argument(config):
    layer(config, 0)["evil"] = 1


def wild_generator(config):
    config["rng"] = {"bit_generator": "MT19937", "state": {"key": [0] * 624, "pos": 10**6}}


def negative_steps(config):
    config["compile"]["iterations"] = -1


def names_that_are_none(config):
    config["class_names"] = ["cat", {"<script>": 1}, "dog"]


CONFIGS = [huge_filters, huge_units, huge_input, wrong_type, an_endless_stack, a_module, the_base_class, a_system_call,
           an_unknown_argument, wild_generator, negative_steps, names_that_are_none]  # fmt: skip


@pytest.mark.parametrize("change", CONFIGS, ids=lambda change: change.__name__)
def test_a_configuration_that_was_changed(tmp_path, members, change):
    path = write(tmp_path / "m", with_config(members, change))
    with pytest.raises((BrokenFileError, UnknownNameError, InputError)) as caught:
        load_model(path)
    assert str(path) in caught.value.where and caught.value.received


def test_a_truth_value_that_is_a_number_makes_no_long_list(tmp_path, members):
    path = write(tmp_path / "m", with_config(members, repeated_string))
    with pytest.raises(InputError, match="batch_normalization_1: scale does not fit"):
        load_model(path)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.array([{"a": 1}], object), "no plain numbers"),
        (np.zeros((3, 3, 1, 2), np.complex64), "no plain numbers"),
        (np.zeros((3, 3, 1, 2), "S4"), "no plain numbers"),
        (np.zeros((3, 3, 1, 2), "f4,f4"), "no plain numbers"),
        (np.zeros((3, 3, 1, 2), np.int64), "floating-point numbers"),
        (np.zeros((3, 3, 2, 1), np.float32), "does not fit"),
        (np.full((3, 3, 1, 2), np.nan, np.float32), r"not finite(.|\n)*nan at \(0, 0, 0, 0\), and 17 more"),
        (np.full((3, 3, 1, 2), np.inf, np.float32), "not finite"),
    ],
    ids=["objects", "complex", "bytes", "records", "integers", "another shape", "NaN", "infinite"],
)
def test_arrays_that_are_no_weights(tmp_path, members, array, reason):
    path = write(tmp_path / "m", members | {"params/conv2d_1/w.npy": npy(array)})
    model = network()
    before = model.get_weights()
    for load in (load_model, model.load_weights):
        with pytest.raises(BrokenFileError, match=reason):
            load(path)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("how", [lambda a: a.astype(">f4"), np.asfortranarray, lambda a: a.astype(np.float64)])
def test_the_same_numbers_in_another_form_are_read(tmp_path, members, how):
    array = np.load(io.BytesIO(members["params/conv2d_1/w.npy"]))
    path = write(tmp_path / "m", members | {"params/conv2d_1/w.npy": npy(how(array))})
    w = load_model(path).layers[0].params["w"]
    np.testing.assert_array_equal(w, array)
    assert w.dtype == np.float32 and w.dtype.isnative and w.flags.c_contiguous


def header(shape: str, descr: str = "<f4") -> bytes:
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text


@pytest.mark.parametrize(
    "content",
    [
        header("(1000000000000,)"), header("(0,)") + b"x", header("(-1,)"), header("(" + "9" * 4000 + ",)"),
        header("(1, " * 5000), header("(" + "1, " * 40 + ")") + bytes(4), header("()", "<f16") + bytes(16),
        b"\x93NUMPY\1\0\xff\xff" + b"(" * 65535, b"", b"\x93NUMPY",
    ],
)  # fmt: skip
def test_headers_that_lie(tmp_path, members, content):
    path = write(tmp_path / "m", members | {"params/conv2d_1/w.npy": content})
    with pytest.raises(BrokenFileError, match=r"params/conv2d_1/w\.npy"):
        load_model(path)


@pytest.mark.parametrize("name", ["../evil.npy", "/etc/evil.npy", "evil.pkl", "params/conv2d_1/w.npy", "x/"])
def test_members_that_do_not_belong(tmp_path, members, name):
    path = write(tmp_path / "m", [*members.items(), (name, members["params/conv2d_1/w.npy"])])
    with pytest.raises(BrokenFileError, match="no place|not belong|twice"):
        load_model(path)
    assert sorted(os.listdir(tmp_path)) == ["good", "m"]


def test_a_bomb(tmp_path, members):
    bomb = header("(25000000,)") + bytes(100_000_000)
    path = write(tmp_path / "m", members | {"optimizer/x.npy": bomb}, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1_000_000
    with pytest.raises(BrokenFileError, match="claim to unpack into"):
        load_model(path)


@pytest.mark.parametrize("packing", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_unusual_packing(tmp_path, members, packing):
    with pytest.raises(BrokenFileError, match="unusual method"):
        load_model(write(tmp_path / "m", members, packing))


def test_what_follows_the_archive_is_refused(tmp_path, members):
    path = write(tmp_path / "m", members)
    with path.open("ab") as file:
        file.write(b"rubbish")
    with pytest.raises(BrokenFileError, match="followed by other bytes"):
        load_model(path)


def test_members_that_overlap(tmp_path):
    """The quoted-overlap bomb: many names in the table, one and the same data."""
    content = write(tmp_path / "m", {"a.npy": npy(np.ones(9))}).read_bytes()
    table, end = content.index(b"PK\1\2"), content.index(b"PK\5\6")
    entry = content[table:end]
    entries = entry + entry.replace(b"a.npy", b"b.npy")
    tail = content[end : end + 8] + struct.pack("<HHLL", 2, 2, len(entries), table) + b"\0\0"
    (tmp_path / "m").write_bytes(content[:table] + entries + tail)
    with pytest.raises(BrokenFileError, match="lies over"):
        Trace.load(tmp_path / "m")


def test_endless_names(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "MAX_DIRECTORY", 1000)
    path = write(tmp_path / "m", {f"{i}.npy": b"" for i in range(100)})
    with pytest.raises(BrokenFileError, match="table of contents of"):
        load_model(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no such pipes")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for read in (load_model, Trace.load, read_idx, network().load_weights):
        with pytest.raises(BrokenFileError, match="no file"):
            read(tmp_path / "pipe")


# ---- JSON ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"[" * 100_000, "levels"),
        (b'{"a":' * 101 + b"1" + b"}" * 101, "levels"),
        (b"1" * 100_000, "digits"),
        (b'{"a": 1, "a": 2}', "twice"),
        (b'"' + b'\\"' * 500_000, "Unterminated"),
        (b"[1, 2", "Expecting"),
        (b'"\xff"', "utf-8"),
        (b" " * (archive.MAX_TEXT + 1), "at most"),
    ],
    ids=["deep", "101 levels", "a long number", "twice", "no end", "cut off", "no text", "too long"],
)
def test_bad_json(text, reason):
    with pytest.raises(ValueError, match=reason):
        archive.parse_json(text)


def test_brackets_inside_of_texts_do_not_count():
    value = {"a": "[" * 500 + '\\"{', "b": [[[1]]]}
    assert archive.parse_json(json.dumps(value).encode()) == value


# ---- traces ----------------------------------------------------------------------------------------------------------


def test_a_trace_that_does_not_agree_with_itself(tmp_path):
    model = network()
    t = model.trace(np.ones((2, 6, 6, 1)), np.array([0, 1]))
    for change in (
        lambda t: setattr(t.layers[0], "kind", "Context"),
        lambda t: setattr(t.layers[0], "y", t.layers[0].y[:1]),
        lambda t: t.layers[0].grads.update(w=np.zeros(3)),
        lambda t: t.layers[0].grads.update(unheard_of=np.zeros(3)),
        lambda t: t.layers[3].config.update(units=10**12),
        lambda t: t.layers[0].updated.clear(),
        lambda t: setattr(t, "class_names", [1, 2]),
        lambda t: setattr(t, "layers", []),
    ):
        model.trace(np.ones((2, 6, 6, 1)), np.array([0, 1])).save(tmp_path / "t")
        bad = Trace.load(tmp_path / "t")
        change(bad)
        bad.save(tmp_path / "bad")
        if bad.layers and bad.layers[0].kind == "Context":  # as a class of the user's own, of which nothing is known
            assert Trace.load(tmp_path / "bad").layers[0].made() is None
            continue
        with pytest.raises(BrokenFileError):
            Trace.load(tmp_path / "bad")
    assert t.layers[0].made() is not None


# ---- images ----------------------------------------------------------------------------------------------------------


def chunk(kind: bytes, content: bytes) -> bytes:
    import zlib

    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def test_images_that_declare_too_much(tmp_path):
    pytest.importorskip("PIL")
    from minicnn.preprocessing.image import load_img

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 1000, 8, 2, 0, 0, 0))
    wide = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IEND", b"")
    webp = b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xfe\x3f\0" * 2
    for content in (wide, wide.replace(b"\0\0\xea\x60", b"\xff\xff\xff\xff"), webp):
        (tmp_path / "x.png").write_bytes(content)
        with pytest.raises(BrokenFileError) as caught:
            load_img(tmp_path / "x.png")
        assert caught.value.where == str(tmp_path / "x.png")


def test_formats_that_start_a_program_are_not_opened(tmp_path):
    pytest.importorskip("PIL")
    from minicnn.preprocessing.image import load_img

    (tmp_path / "x.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(x) print\n")
    with pytest.raises(BrokenFileError, match="no known image format"):
        load_img(tmp_path / "x.png")
