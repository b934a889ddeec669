"""Weights as safetensors: out by the library, in after a check of every rule, and those of PyTorch converted."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from branching import NETWORKS, made

from minicnn import utils
from minicnn.applications import VGG16
from minicnn.errors import BrokenFileError, InputError
from minicnn.layers import BatchNormalization, Conv2D, Dense, Flatten, Input, MaxPooling2D, ReLU
from minicnn.models import Sequential, load_model
from minicnn.saving import safetensors_file

NEEDS = 'needs safetensors: python -m pip install ".[test]"'
RNG = np.random.default_rng(0)
BITS = {"F64": "f8", "F32": "f4", "F16": "f2", "BF16": "u2", "I64": "i8", "U8": "u1", "BOOL": "?"}


@pytest.fixture(autouse=True)
def seeded():
    utils.set_random_seed(0)


def network() -> Sequential:
    return Sequential([
        Input((6, 5, 2)), Conv2D(4, 3, padding="same", name="look"), BatchNormalization(name="even"), MaxPooling2D(2),
        Flatten(), Dense(3, use_bias=False, name="last"),
    ])  # fmt: skip


def packed(rows: dict, data: bytes = b"", length: int | None = None) -> bytes:
    """A file of this table and these numbers, whatever they are."""
    table = rows if isinstance(rows, bytes) else json.dumps(rows).encode()
    return (len(table) if length is None else length).to_bytes(8, "little") + table + data


def file_of(arrays: dict[str, np.ndarray], path: Path, kind: str = "F32", **notes: str) -> Path:
    """A file of arrays, as the library writes it."""
    rows, parts, at = {"__metadata__": notes} if notes else {}, [], 0
    for name, array in arrays.items():
        own = "I64" if array.dtype == np.int64 else kind
        part = array.tobytes() if own == "I64" else np.asarray(array, BITS[own]).tobytes()
        rows[name] = {"dtype": own, "shape": list(array.shape), "data_offsets": [at, at + len(part)]}
        parts.append(part)
        at += len(part)
    path.write_bytes(packed(rows, b"".join(parts)))
    return path


def of_model(model) -> dict[str, np.ndarray]:
    return {name: array for name, (_, array) in safetensors_file.named_arrays(model).items()}


# ---- out and in ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_out_and_in_again(name, tmp_path):
    library = pytest.importorskip("safetensors.numpy", reason=NEEDS)
    model, other = made(name, seed=1), made(name, seed=2)
    path = tmp_path / "net.safetensors"
    model.save_weights(path)
    told = library.load_file(path)
    assert set(told) == set(of_model(model))
    for key, array in of_model(model).items():
        np.testing.assert_array_equal(told[key], array)
    other.load_weights(path)
    for one, two in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    with pytest.raises(FileExistsError):
        model.save_weights(path, overwrite=False)


def test_an_array_in_fortrans_order_is_not_mixed_up(tmp_path):
    library = pytest.importorskip("safetensors.numpy", reason=NEEDS)
    model = network()
    w = model.get_layer("last").params["w"]
    model.get_layer("last").params["w"] = np.asfortranarray(w)
    model.save_weights(tmp_path / "net.safetensors")
    np.testing.assert_array_equal(library.load_file(tmp_path / "net.safetensors")["last/kernel"], w)


def test_names_are_those_of_keras(tmp_path):
    assert list(of_model(network())) == [
        "look/kernel", "look/bias", "even/gamma", "even/beta", "even/moving_mean", "even/moving_variance",
        "last/kernel",
    ]  # fmt: skip


@pytest.mark.parametrize(("kind", "off"), [("F64", 0), ("F32", 0), ("F16", 1e-3), ("BF16", 1e-2)])
def test_numbers_of_other_widths(kind, off, tmp_path):
    model, other = network(), network()
    arrays = of_model(model)
    if kind == "BF16":
        arrays = {name: (array.view(np.uint32) >> 16).astype(np.uint16) for name, array in arrays.items()}
    other.load_weights(file_of(arrays, tmp_path / "weights", kind, format="pt"))
    for one, two in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(two, one, rtol=off)


def test_by_name_and_what_fits(tmp_path):
    model, other = network(), network()
    arrays = of_model(model)
    some = {name: array for name, array in arrays.items() if name.startswith("look")}
    before = other.get_layer("last").get_weights()[0]
    other.load_weights(file_of(some, tmp_path / "some"), by_name=True)
    np.testing.assert_array_equal(other.get_layer("look").get_weights()[0], arrays["look/kernel"])
    np.testing.assert_array_equal(other.get_layer("last").get_weights()[0], before)
    arrays["last/kernel"] = np.zeros((7, 3), "f")
    path = file_of(arrays, tmp_path / "other")
    with pytest.raises(BrokenFileError, match=r"(?s)last/w does not fit.*\(24, 3\).*\(7, 3\)"):
        other.load_weights(path)
    with pytest.warns(UserWarning, match="Left out: last"):
        other.load_weights(path, skip_mismatch=True)


def test_without_the_library(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    with pytest.raises(InputError, match=r"(?s)safetensors is not installed.*pip install safetensors"):
        network().save_weights(tmp_path / "net.safetensors")
    network().load_weights(file_of(of_model(network()), tmp_path / "net.safetensors"))  # which needs none


def test_weights_are_no_model(tmp_path):
    with pytest.raises(BrokenFileError, match=r"(?s)a safetensors file.*build the network in code"):
        load_model(file_of(of_model(network()), tmp_path / "net.safetensors"))


# ---- state dicts of PyTorch ------------------------------------------------------------------------------------------


def as_torch(model: Sequential, names: list[str]) -> dict[str, np.ndarray]:
    """The state dict of the same network in PyTorch, whose modules with weights have these names."""
    theirs = {"w": "weight", "b": "bias", "gamma": "weight", "beta": "bias", "moving_mean": "running_mean",
              "moving_variance": "running_var"}  # fmt: skip
    found: dict[str, np.ndarray] = {}
    images = None
    inner = [layer for layer in model.layers if layer.params]
    for layer, shape in zip(model.layers, model.shapes, strict=False):
        images = shape if isinstance(layer, Flatten) else images
        if layer not in inner:
            continue
        for name, array in (*layer.params.items(), *layer.state.items()):
            if array.ndim == 4:
                array = array.transpose(3, 2, 0, 1)
            elif array.ndim == 2 and images is not None:  # rows: height, width, channels -> channels first
                array, images = array.reshape(*images, -1).transpose(3, 2, 0, 1).reshape(array.shape[1], -1), None
            elif array.ndim == 2:
                array = array.T
            found[f"{names[inner.index(layer)]}.{theirs[name]}"] = np.ascontiguousarray(array)
        if layer.state:
            found[f"{names[inner.index(layer)]}.num_batches_tracked"] = np.array(7)
    return dict(sorted(found.items()))  # the library sorts by name: features.10 before features.2


def small_vgg(batch_norm: bool) -> tuple[Sequential, list[str]]:
    """A network and torchvision's names for its layers: twelve convolutions, so that numbers have two digits."""
    layers, names, at = [Input((8, 8, 3))], [], 0
    for i in range(12):
        layers.append(Conv2D(4 + i % 3, 3, padding="same", activation=None if batch_norm else "relu"))
        names.append(f"features.{at}")
        if batch_norm:
            layers.append(BatchNormalization())
            names.append(f"features.{at + 1}")
        at += 3 if batch_norm else 2
        if i == 5:
            layers.append(MaxPooling2D(2))
            at += 1
    layers += [Flatten(), Dense(5, "relu"), Dense(4, "relu"), Dense(3, "softmax")]
    return Sequential(layers), [*names, "classifier.0", "classifier.3", "classifier.6"]


@pytest.mark.parametrize("batch_norm", [False, True])
def test_a_state_dict_of_torchvision(batch_norm, tmp_path):
    (model, names), (other, _) = small_vgg(batch_norm), small_vgg(batch_norm)
    for layer in model.layers:
        layer.set_weights([array + RNG.random(array.shape) / 10 for array in layer.get_weights()])
    other.load_weights(file_of(as_torch(model, names), tmp_path / "vgg.safetensors", format="pt"))
    for one, two in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_vgg16_without_its_top(tmp_path):
    """The names and shapes of torchvision's file, as its features end; the classifier is left out when asked for."""
    numbers = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
    model = VGG16(include_top=False, weights=None, input_shape=(32, 32, 3))
    layers = [layer for layer in model.layers if layer.params]
    zeros = {}
    for number, layer in zip(numbers, layers, strict=True):
        kh, kw, c, filters = layer.params["w"].shape
        zeros[f"features.{number}.weight"] = np.zeros((filters, c, kh, kw), np.float16)
        zeros[f"features.{number}.bias"] = np.full(filters, number, np.float16)
    zeros = dict(sorted(zeros.items()))
    model.load_weights(file_of(zeros, tmp_path / "features.safetensors", "F16"))
    assert [float(layer.params["b"][0]) for layer in layers] == list(numbers)
    zeros["classifier.0.weight"], zeros["classifier.0.bias"] = np.zeros((2, 3), "f"), np.zeros(2, "f")
    path = file_of(zeros, tmp_path / "whole.safetensors", "F16")
    with pytest.raises(BrokenFileError, match="classifier.0/weight has no place in the model"):
        model.load_weights(path)
    with pytest.warns(UserWarning, match="Left out: classifier.0"):
        model.load_weights(path, skip_mismatch=True)


def test_torch_itself(tmp_path):
    torch = pytest.importorskip("torch", reason="needs PyTorch")
    save = pytest.importorskip("safetensors.torch", reason=NEEDS).save_file
    nn = torch.nn
    theirs = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4, eps=1e-3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(24, 5), nn.ReLU(), nn.Linear(5, 3),
    )  # fmt: skip
    for array in theirs.state_dict().values():
        if array.is_floating_point():
            array.copy_(torch.from_numpy(RNG.random(array.shape, np.float32) + 0.1))
    save(theirs.state_dict(), tmp_path / "torch.safetensors")
    ours = Sequential([
        Input((6, 4, 2)), Conv2D(4, 3, padding="same"), BatchNormalization(), ReLU(), MaxPooling2D(2), Flatten(),
        Dense(5, "relu"), Dense(3),
    ])  # fmt: skip
    ours.load_weights(tmp_path / "torch.safetensors")
    x = RNG.random((3, 6, 4, 2), np.float32)
    with torch.no_grad():
        wanted = theirs.eval()(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()
    np.testing.assert_allclose(ours.predict(x, verbose=0), wanted, rtol=1e-4)


def test_names_that_are_no_layers(tmp_path):
    path = file_of({"encoder.in_proj_weight": np.zeros((2, 2), "f"), "a.weight": np.zeros((2, 2), "f")}, tmp_path / "x")
    with pytest.raises(BrokenFileError, match=r"encoder.in_proj_weight is no array of a layer that is known"):
        network().load_weights(path)


# ---- hostile files ---------------------------------------------------------------------------------------------------

ROW = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


def rows(**changed) -> dict:
    return {"last/kernel": ROW | changed}


HOSTILE = {
    "longer than the file": (packed(rows(), bytes(24), 1 << 62), "a table of"),
    "longer than is read": (packed(b"{" + b" " * (9 << 20) + b"}"), "a table of"),
    "empty": (packed(b""), "a table of 0 bytes|does not begin with a bracket"),
    "a space before it": (packed(b" " + json.dumps(rows()).encode(), bytes(24)), "does not begin with a bracket"),
    "a list": (packed(b"[]      "), "does not begin with a bracket"),
    "no JSON": (packed(b"{nothing}"), "JSONDecodeError"),
    "no UTF-8": (packed(b'{"\xff\xfe": 1}'), "UnicodeDecodeError"),
    "a name twice": (packed(b'{"a": {}, "a": {}}'), "stands twice"),
    "too deep": (packed(b'{"a":' * 500 + b"1" + b"}" * 500), "more than 100 levels"),
    "notes that are no texts": (packed({"__metadata__": {"a": 1}}), "are not texts"),
    "no dtype": (packed({"a": {"shape": [1], "data_offsets": [0, 4]}}, bytes(4)), "is not described by dtype"),
    "something more": (packed(rows(pickle="os.system"), bytes(24)), "is not described by dtype"),
    "an unknown dtype": (packed(rows(dtype="F2"), bytes(24)), "unknown dtype 'F2'"),
    "a list as dtype": (packed(rows(dtype=["F32"]), bytes(24)), "unknown dtype"),
    "a negative size": (packed(rows(shape=[-2, -3]), bytes(24)), "not whole numbers"),
    "a truth value as size": (packed(rows(shape=[True, 6]), bytes(24)), "not whole numbers"),
    "a fraction": (packed(rows(shape=[2.0, 3]), bytes(24)), "not whole numbers"),
    "sizes that overflow": (packed(rows(shape=[1 << 62, 1 << 62, 4]), bytes(24)), "but declares"),
    "100 axes": (packed(rows(shape=[1] * 100), bytes(24)), "100 axes"),
    "one offset": (packed(rows(data_offsets=[0]), bytes(24)), "1 data_offsets"),
    "offsets turned round": (packed(rows(data_offsets=[24, 0]), bytes(24)), "but declares"),
    "more bytes than numbers": (packed(rows(data_offsets=[0, 28]), bytes(28)), "but declares"),
    "a gap before": (packed(rows(data_offsets=[8, 32]), bytes(32)), "does not begin where"),
    "one over the other": (packed({"a": ROW, "b": ROW}, bytes(24)), "does not begin where"),
    "bytes after the end": (packed(rows(), bytes(30)), "end at byte"),
    "cut off": (packed(rows(), bytes(20)), "end at byte"),
    "a web page": (b"<!DOCTYPE html><html>", "HTML page"),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\n", "git-LFS"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_with_a_reason(name, tmp_path):
    content, reason = HOSTILE[name]
    path = tmp_path / "hostile.safetensors"
    path.write_bytes(content)
    model = network()
    before = model.get_weights()
    with pytest.raises(BrokenFileError, match=reason) as caught:
        model.load_weights(path)
    assert str(path) in caught.value.where and caught.value.expected and caught.value.fix
    for one, two in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_flipped_bit_before_the_numbers_is_refused_and_one_in_them_changes_that_number_alone(tmp_path):
    model, path = network(), tmp_path / "net.safetensors"
    whole = file_of(of_model(model), path).read_bytes()
    weights = model.get_weights()
    start = 8 + int.from_bytes(whole[:8], "little")
    for place in range(start):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        with pytest.raises(BrokenFileError):
            model.load_weights(path)
    assert all(map(np.array_equal, model.get_weights(), weights))
    path.write_bytes(whole[: start + 4] + bytes([whole[start + 4] ^ 1]) + whole[start + 5 :])
    model.load_weights(path)
    changed = [one != two for one, two in zip(model.get_weights(), weights, strict=True)]
    assert sum(int(places.sum()) for places in changed) == 1


def test_nan_and_whole_numbers_are_refused(tmp_path):
    arrays = of_model(network())
    arrays["even/beta"] = np.full(4, np.nan, np.float32)
    with pytest.raises(BrokenFileError, match="even/beta is not finite"):
        network().load_weights(file_of(arrays, tmp_path / "nan.safetensors"))
    arrays["even/beta"] = np.zeros(4, np.int64)
    with pytest.raises(BrokenFileError, match=r"(?s)even/beta does not fit.*floating-point"):
        network().load_weights(file_of(arrays, tmp_path / "whole.safetensors"))


@pytest.mark.parametrize("length", [0x280, 0x8B1F, 0x0AFF, 0x10000])
def test_a_table_whose_length_looks_like_another_format(length, tmp_path):
    """Of a pickle, gzip, JPEG XL, an icon: the first bytes are only a number."""
    model = network()
    path = file_of(of_model(model), tmp_path / "net")
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    path.write_bytes(packed(content[8:end] + b" " * (length - end + 8), content[end:]))
    network().load_weights(path)
