"""Weights that Keras wrote: the same answers here, every misfit named, nothing changed unless all fits, no way out."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from minicnn import utils
from minicnn.errors import BrokenFileError, InputError
from minicnn.layers import BatchNormalization, Conv2D, Dense, Dropout, Flatten, Input, MaxPooling2D
from minicnn.models import Sequential
from minicnn.saving import hdf5, keras_weights

h5py = pytest.importorskip("h5py", reason='Keras\' files are read with h5py: python -m pip install ".[keras]"')

FIXTURES = Path(__file__).parent / "fixtures"
FORMATS = [".h5", "_whole.h5", ".weights.h5", ".keras"]


@pytest.fixture(autouse=True)
def seeded():
    utils.set_random_seed(0)


def network(inner_names: tuple[str | None, str | None] = (None, None), last: int = 3) -> Sequential:
    """That of fixtures/make_keras_files.py. Its files were written with the inner convolution frozen."""
    deep = Sequential([Conv2D(3, 1), BatchNormalization()], name="deep")
    conv, norm = inner_names
    inner = Sequential(
        [
            Input((4, 4, 4)),
            Conv2D(5, 3, activation="relu", name=conv, trainable=False),
            BatchNormalization(scale=False, name=norm),
            deep,
        ],
        name="inner",
    )
    return Sequential(
        [
            Input((8, 8, 3)),
            Conv2D(4, 3, padding="same", activation="relu", name="first"),
            BatchNormalization(),
            MaxPooling2D(),
            Dropout(0.2),
            inner,
            Flatten(),
            Dense(last, activation="softmax", name="last"),
        ]
    )


def check_answers(model: Sequential, folder: Path = FIXTURES) -> None:
    recorded = np.load(folder / "keras_net.npz")
    y = recorded["y"]
    assert y.std() > 0.05, "answers that hardly differ would show nothing"
    np.testing.assert_allclose(model.predict(recorded["x"], verbose=0), y, atol=1e-6)


def check_refused(model: Sequential, path: Path, text: str, **how) -> str:
    """BrokenFileError with this text in it, and not a bit of the model has changed."""
    before = model.get_weights()
    with pytest.raises(BrokenFileError, match=text) as caught:
        model.load_weights(path, **how)
    for p, q in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(p, q)
    return str(caught.value)


# ---- Keras' answers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", FORMATS)
def test_recorded_files_give_keras_answers(suffix):
    model = network()
    model.load_weights(FIXTURES / f"keras_net{suffix}")
    check_answers(model)


def test_keras_itself(tmp_path):
    """The same live, with other weights."""
    if importlib.util.find_spec("keras") is None:
        pytest.skip("needs Keras 3: the recorded files stand in for it")
    script = FIXTURES / "make_keras_files.py"
    subprocess.run([sys.executable, str(script), str(tmp_path), "7"], check=True, capture_output=True)
    for suffix in FORMATS:
        model = network()
        model.load_weights(tmp_path / f"keras_net{suffix}")
        check_answers(model, tmp_path)


@pytest.mark.parametrize("suffix", FORMATS)
def test_each_array_goes_where_it_belongs(suffix):
    """Also those that the answers hardly show."""
    model, other = network(), network()
    model.load_weights(FIXTURES / f"keras_net{suffix}")
    other.load_weights(FIXTURES / "keras_net.h5")
    for p, q in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(p, q)
    norm = model.layers[1]
    with h5py.File(FIXTURES / "keras_net.weights.h5") as file:
        for i, array in enumerate(norm.get_weights()):
            np.testing.assert_array_equal(array, file[f"layers/batch_normalization/vars/{i}"][()])
        np.testing.assert_array_equal(model.get_layer("last").params["w"], file["layers/dense/vars/0"][()])


def test_what_was_frozen_may_be_frozen_otherwise_here():
    """An older file lists the frozen arrays last. Names tell where they belong, or their order does."""
    free = network()
    free.trainable = True
    check_refused(free, FIXTURES / "keras_net.h5", "does not fit")
    named = network(inner_names=("conv2d_1", "batch_normalization_1"))
    deep = named.get_layer("inner").get_layer("deep")
    deep.layers[0].name, deep.layers[1].name = "conv2d", "batch_normalization"
    named.trainable = True
    named.load_weights(FIXTURES / "keras_net.h5")
    check_answers(named)


def older(path: Path, layers: dict[str, list[tuple[str, np.ndarray]]], attribute: str = "layer_names") -> Path:
    """An older file by hand, as Keras 1 and 2 wrote them: names as bytes."""
    with h5py.File(path, "w") as file:
        file.attrs[attribute] = [name.encode() for name in layers]
        for name, weights in layers.items():
            group = file.create_group(name)
            group.attrs["weight_names"] = np.array([n.encode() for n, _ in weights], dtype="S")
            for weight, array in weights:
                group[weight] = array
    return path


def arrays(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.normal(0, 1, shape).astype(np.float32) for shape in shapes]


def test_the_oldest_names(tmp_path):
    """The published VGG16 file has names of Keras 1, which do not tell what is a kernel: block1_conv1_W_1:0."""
    w1, b1, w2, b2 = arrays((3, 3, 2, 4), (4,), (3, 3, 4, 5), (5,))
    layers = {
        "input_1": [],
        "block1_conv1": [("block1_conv1_W_1:0", w1), ("block1_conv1_b_1:0", b1)],
        "block1_conv2": [("block1_conv2_W_1:0", w2), ("block1_conv2_b_1:0", b2)],
        "block1_pool": [],
    }
    model = Sequential([Input((8, 8, 2)), Conv2D(4, 3, name="block1_conv1"), Conv2D(5, 3), MaxPooling2D()])
    model.load_weights(older(tmp_path / "vgg.h5", layers))
    for p, q in zip(model.get_weights(), (w1, b1, w2, b2), strict=True):
        np.testing.assert_array_equal(p, q)
    model = Sequential([Input((8, 8, 2)), Conv2D(4, 3, name="block1_conv1"), Conv2D(5, 3, name="mine")])
    mine = model.layers[1].get_weights()
    model.load_weights(tmp_path / "vgg.h5", by_name=True)
    np.testing.assert_array_equal(model.layers[0].params["w"], w1)
    np.testing.assert_array_equal(model.layers[1].params["w"], mine[0])


def test_a_long_list_of_names_in_parts(tmp_path):
    w, b = arrays((4, 2), (2,))
    path = older(tmp_path / "m.h5", {"d": [("d/kernel:0", w), ("d/bias:0", b)]}, "layer_names0")
    with h5py.File(path, "a") as file:
        file.attrs["layer_names1"] = [b"e"]
        file.create_group("e").attrs["weight_names"] = np.array([], "S1")
    model = Sequential([Input((4,)), Dense(2)])
    model.load_weights(path)
    np.testing.assert_array_equal(model.layers[0].params["w"], w)


@pytest.mark.parametrize("frozen", ["nothing", "all"])
def test_an_inner_model_of_an_older_file_in_either_order(tmp_path, frozen):
    """Learned arrays first, then the running ones; layer by layer where all was frozen."""
    w, gamma, beta, mean, var, v = arrays((2, 3), (3,), (3,), (3,), (3,), (3, 3))
    moving = [("bn/moving_mean:0", mean), ("bn/moving_variance:0", var)]
    weights = [("d1/kernel:0", w), ("bn/gamma:0", gamma), ("bn/beta:0", beta), ("d2/kernel:0", v)]
    weights = weights[:3] + moving + weights[3:] if frozen == "all" else weights + moving
    path = older(tmp_path / "m.h5", {"inner": weights})
    for frozen_here in (False, True):
        inner = Sequential([Dense(3, use_bias=False), BatchNormalization(), Dense(3, use_bias=False)])
        model = Sequential([Input((2,)), inner])
        inner.trainable = not frozen_here
        model.load_weights(path)
        for p, q in zip(model.get_weights(), (w, gamma, beta, mean, var, v), strict=True):
            np.testing.assert_array_equal(p, q)


def test_half_precision_and_double_are_read_too(tmp_path):
    w, b = arrays((4, 2), (2,))
    weights = [("d/kernel:0", w.astype(">f2")), ("d/bias:0", b.astype(">f8"))]
    model = Sequential([Input((4,)), Dense(2)])
    model.load_weights(older(tmp_path / "m.h5", {"d": weights}))
    assert [p.dtype for p in model.get_weights()] == [np.float32] * 2
    np.testing.assert_array_equal(model.layers[0].params["w"], w.astype(np.float16))
    np.testing.assert_array_equal(model.layers[0].params["b"], b)
    weights[0] = ("d/kernel:0", w.astype("<f2"))
    check_refused(model, older(tmp_path / "mixed.h5", {"d": weights}), "in another byte order than those before")


# ---- by name, and what does not fit ----------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", FORMATS)
def test_by_name_takes_the_layers_that_both_have(suffix):
    source, other = network(), network()
    source.load_weights(FIXTURES / f"keras_net{suffix}")
    model = Sequential(
        [Input((8, 8, 3)), Conv2D(4, 3, name="first"), Flatten(), Dense(7, name="mine"), Dense(7, name="other")]
    )
    mine = model.get_layer("mine").get_weights()
    model.load_weights(FIXTURES / f"keras_net{suffix}", by_name=True)
    np.testing.assert_array_equal(model.layers[0].params["w"], source.layers[0].params["w"])
    np.testing.assert_array_equal(model.get_layer("mine").params["w"], mine[0])
    other.load_weights(FIXTURES / f"keras_net{suffix}", by_name=True)
    np.testing.assert_array_equal(other.get_layer("inner").get_weights()[0], source.get_layer("inner").get_weights()[0])


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_layer_of_another_size_is_named(suffix):
    text = check_refused(network(last=10), FIXTURES / f"keras_net{suffix}", "last does not fit: its w")
    assert "(12, 10)" in text and "(12, 3)" in text and "skip_mismatch=True" in text


@pytest.mark.parametrize("how", [{}, {"by_name": True}])
@pytest.mark.parametrize("suffix", FORMATS)
def test_skip_mismatch_leaves_it_out_and_says_so(suffix, how):
    model, source = network(last=10), network()
    source.load_weights(FIXTURES / f"keras_net{suffix}")
    mine = model.get_layer("last").get_weights()
    with pytest.warns(UserWarning, match="Left out: .*last does not fit") as warned:
        model.load_weights(FIXTURES / f"keras_net{suffix}", skip_mismatch=True, **how)
    assert warned[0].filename == __file__
    for p, q in zip(model.get_layer("last").get_weights(), mine, strict=True):
        np.testing.assert_array_equal(p, q)
    np.testing.assert_array_equal(model.layers[0].params["w"], source.layers[0].params["w"])


@pytest.mark.parametrize("suffix", FORMATS)
def test_names_that_nothing_has(suffix):
    model = Sequential([Input((8, 8, 3)), Conv2D(4, 3, name="mine")])
    text = check_refused(model, FIXTURES / f"keras_net{suffix}", "no layer of any name", by_name=True)
    assert "mine" in text and "first" in text


@pytest.mark.parametrize("suffix", FORMATS)
def test_too_few_or_too_many_layers(suffix):
    path = FIXTURES / f"keras_net{suffix}"
    fewer, more = network(), network()
    fewer.pop()
    more.add(Dense(3, name="extra"))
    old = not suffix.startswith((".weights", ".keras"))
    text = check_refused(fewer, path, "another number of layers" if old else "dense has no place in the model")
    assert "last" in text or not old
    text = check_refused(more, path, "another number of layers" if old else "extra does not fit: the file has no such")
    assert "extra" in text


def test_other_layers_in_the_place(tmp_path):
    w, b = arrays((2, 2), (2,))
    path = older(tmp_path / "m.h5", {"d": [("d/gamma:0", b), ("d/kernel:0", w)]})
    check_refused(Sequential([Input((2,)), Dense(2)]), path, "its w has another shape")
    path = older(tmp_path / "n.h5", {"d": [("d/kernel:0", w), ("d/gamma:0", b)]})
    text = check_refused(Sequential([Input((2,)), Dense(2)]), path, "something else in its place")
    assert "a bias." in text and "d/gamma:0" in text
    text = check_refused(Sequential([Input((2,)), Dense(2, use_bias=False)]), path, "another number of arrays")
    assert "1: dense_1/w." in text and "2: d/kernel:0, d/gamma:0." in text


def test_inner_models_of_several_classes(tmp_path):
    """Keras numbers each class on its own: then only names tell the order."""
    with h5py.File(tmp_path / "m.weights.h5", "w") as file:
        for i, (kind, name) in enumerate((("functional", "one"), ("sequential", "two"), ("sequential_1", "three"))):
            file[f"layers/{kind}/layers/dense/vars/0"] = np.full((2, 2), i, np.float32)
            file.require_group(f"layers/{kind}/vars").attrs["name"] = name

    def model(*names):
        return Sequential([Input((2,)), *(Sequential([Dense(2, use_bias=False)], name=name) for name in names)])

    named = model("two", "one", "three")
    named.load_weights(tmp_path / "m.weights.h5")
    assert [p.max() for p in named.get_weights()] == [1, 0, 2]
    check_refused(model("a", "b", "c"), tmp_path / "m.weights.h5", "order of its inner models cannot be told")


def test_many_layers_of_a_class_are_taken_by_number(tmp_path):
    """dense_10 comes after dense_9, although not in the alphabet."""
    with h5py.File(tmp_path / "m.weights.h5", "w") as file:
        for i in range(12):
            file[f"layers/dense{f'_{i}' if i else ''}/vars/0"] = np.full((2, 2), i, np.float32)
    model = Sequential([Input((2,)), *(Dense(2, use_bias=False) for _ in range(12))])
    model.load_weights(tmp_path / "m.weights.h5")
    assert [p.max() for p in model.get_weights()] == list(range(12))
    check_refused(model, tmp_path / "m.weights.h5", "does not tell the names", by_name=True)


# ---- minicnn's own files, by name ------------------------------------------------------------------------------------


def test_own_files_by_name_and_with_misfits(tmp_path):
    source = network()
    source.save_weights(tmp_path / "w")
    model = network(last=10)
    check_refused(model, tmp_path / "w", "params/last/w does not fit", by_name=True)
    mine = model.get_layer("last").get_weights()
    with pytest.warns(UserWarning, match="Left out: last"):
        model.load_weights(tmp_path / "w", by_name=True, skip_mismatch=True)
    np.testing.assert_array_equal(model.get_layer("last").params["w"], mine[0])
    np.testing.assert_array_equal(model.get_weights()[0], source.get_weights()[0])
    np.testing.assert_array_equal(model.get_layer("inner").get_weights()[3], source.get_layer("inner").get_weights()[3])

    new = Sequential([Input((8, 8, 3)), Conv2D(4, 3, name="first"), Flatten(), Dense(2, name="mine")])
    kept = new.get_layer("mine").get_weights()
    new.load_weights(tmp_path / "w", by_name=True)
    np.testing.assert_array_equal(new.get_weights()[0], source.get_weights()[0])
    np.testing.assert_array_equal(new.get_layer("mine").params["w"], kept[0])
    check_refused(new, tmp_path / "w", "does not fit the model")
    with pytest.warns(UserWarning, match="which the model does not have|Left out: mine") as warned:
        new.load_weights(tmp_path / "w", skip_mismatch=True)
    assert len(warned) == 2
    stranger = Sequential([Input((2,)), Dense(2, name="stranger")])
    check_refused(stranger, tmp_path / "w", "no layer of any name", by_name=True)


# ---- files that are not what they should be --------------------------------------------------------------------------


def small() -> Sequential:
    return Sequential([Input((4,)), Dense(2, use_bias=False)])


def hostile(path: Path, make) -> Path:
    """An older file for small(), whose only data set `make(group)` creates under the name k."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"d"]
        group = file.create_group("d")
        group.attrs["weight_names"] = [b"k"]
        make(group)
    return path


def external(group):
    group.create_dataset("k", (4, 2), "f4", external=[("/etc/hostname", 0, 32)])


def virtual(group):
    layout = h5py.VirtualLayout((4, 2), "f4")
    layout[...] = h5py.VirtualSource("/etc/hostname", "x", (4, 2))
    group.create_virtual_dataset("k", layout)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda g: g.__setitem__("k", h5py.ExternalLink("/etc/passwd", "/x")), "ExternalLink"),
        (lambda g: g.__setitem__("k", h5py.SoftLink("/d")), "SoftLink"),
        (external, "another file"),
        (virtual, "another file"),
        (lambda g: g.create_dataset("k", (4, 2), h5py.string_dtype()), "type object"),
        (lambda g: g.create_dataset("k", (4, 2), h5py.vlen_dtype(np.float32)), "type object"),
        (lambda g: g.create_dataset("k", (4, 2), "i4"), "type int32"),
        (lambda g: g.create_dataset("k", (4, 2), "f4", chunks=(4, 2), compression="gzip"), "compressed"),
        (lambda g: g.create_dataset("k", (2**40, 2**20), "f4"), "another shape"),
        (lambda g: g.create_group("k"), "not a whole file"),
        (lambda g: None, "something is missing"),
    ],
    ids=["external link", "soft link", "external data", "virtual", "strings", "ragged", "integers", "compressed",
         "a million terabytes", "group", "nothing"],
)  # fmt: skip
def test_only_plain_numbers_in_this_file_are_read(tmp_path, make, text):
    check_refused(small(), hostile(tmp_path / "m.h5", make), text)


def test_a_link_on_the_way_is_refused_too(tmp_path):
    with h5py.File(tmp_path / "m.weights.h5", "w") as file:
        file["elsewhere/vars/0"] = np.zeros((4, 2), np.float32)
        file.create_group("layers")["dense"] = h5py.SoftLink("/elsewhere")
    check_refused(small(), tmp_path / "m.weights.h5", "link to elsewhere")


def test_a_group_inside_itself(tmp_path):
    with h5py.File(tmp_path / "m.weights.h5", "w") as file:
        file["layers/dense/vars/0"] = np.zeros((4, 2), np.float32)
        file["layers/round/layers"] = file["layers"]
    check_refused(small(), tmp_path / "m.weights.h5", "not a whole file|no place")


def test_too_many_names(tmp_path, monkeypatch):
    monkeypatch.setattr("minicnn.saving.hdf5.MAX_NAMES", 1)
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.attrs["layer_names"] = [b"a", b"b"]
    check_refused(small(), tmp_path / "m.h5", "no list of names")


@pytest.mark.parametrize("suffix", FORMATS)
def test_no_part_of_a_file_is_taken_for_the_whole(suffix, tmp_path):
    whole = (FIXTURES / f"keras_net{suffix}").read_bytes()
    path = tmp_path / "cut.h5"
    for size in (8, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        check_refused(network(), path, "not a whole")


@pytest.mark.parametrize("suffix", FORMATS)
def test_flipped_bytes_give_an_error_that_explains_or_nothing(suffix, tmp_path):
    """Some hit a number, which nobody can tell. No other kind of error, and no model half loaded."""
    whole = bytearray((FIXTURES / f"keras_net{suffix}").read_bytes())
    rng = np.random.default_rng(0)
    refused = 0
    for place in rng.integers(8, len(whole), 20):
        broken = bytearray(whole)
        broken[place] ^= 0xFF
        (tmp_path / "m").write_bytes(broken)
        model = network()
        before = model.get_weights()
        try:
            model.load_weights(tmp_path / "m")
        except BrokenFileError:
            refused += 1
            assert all(map(np.array_equal, before, model.get_weights()))
    assert refused > 0


def test_a_flipped_bit_in_what_says_how_numbers_are_written_gives_no_others(tmp_path, monkeypatch):
    """HDF5 of this kind has no checksums; mantissas of another length, and others' numbers, were taken in silence."""
    monkeypatch.setattr(hdf5, "_probe", lambda *_: None)  # of which none of these files needs the protection
    model, path = network(), tmp_path / "net.h5"
    whole = (FIXTURES / "keras_net.h5").read_bytes()
    model.load_weights(FIXTURES / "keras_net.h5")
    weights = model.get_weights()
    with h5py.File(FIXTURES / "keras_net.h5") as file:
        data = file["batch_normalization_2/sequential/batch_normalization_2/beta"]
        head, numbers = h5py.h5o.get_info(data.id).addr, data.id.get_offset()
    address = whole.index(numbers.to_bytes(8, "little"), head)
    places = [(head + k, bit) for k in range(56, 92) for bit in range(8)]
    refused = 0
    for place, bit in [*places, *((address, bit) for bit in range(6))]:  # where others' numbers lie, too
        broken = bytearray(whole)
        broken[place] ^= 1 << bit
        path.write_bytes(broken)
        try:
            model.load_weights(path)
        except BrokenFileError:
            refused += 1
        assert all(map(np.array_equal, model.get_weights(), weights)), (place - head, bit)
    assert refused > 100


def test_an_archive_that_unpacks_to_more_than_it_is(tmp_path):
    with zipfile.ZipFile(tmp_path / "m.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.weights.h5", b"\0" * 1_000_000)
    check_refused(small(), tmp_path / "m.keras", "is compressed")


def test_an_hdf5_file_of_something_else(tmp_path):
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file["measurements"] = np.zeros(3)
    assert "measurements" in check_refused(small(), tmp_path / "m.h5", "not of Keras' weights")


def test_without_h5py(monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(InputError, match="pip install h5py"):
        network().load_weights(FIXTURES / "keras_net.h5")


def test_no_file_and_no_shape():
    with pytest.raises(FileNotFoundError):
        network().load_weights(FIXTURES / "missing.h5")
    with pytest.raises(InputError, match="has not been built"):
        Sequential([Dense(2)]).load_weights(FIXTURES / "keras_net.h5")


def test_the_files_first_bytes_decide_not_its_name(tmp_path):
    network().save_weights(tmp_path / "own")
    os.replace(tmp_path / "own", tmp_path / "own.h5")
    assert not keras_weights.is_keras_file(tmp_path / "own.h5")
    network().load_weights(tmp_path / "own.h5")
    shutil.copy(FIXTURES / "keras_net.h5", tmp_path / "keras.minicnn")
    assert keras_weights.is_keras_file(tmp_path / "keras.minicnn")
    network().load_weights(tmp_path / "keras.minicnn")


def test_what_the_hdf5_library_dies_or_hangs_on_is_refused(tmp_path, monkeypatch):
    """A process of its own meets it first; here that process is told to end as such a one does."""
    from minicnn.saving import hdf5

    path = shutil.copy(FIXTURES / "keras_net.h5", tmp_path / "net.h5")
    run, ends = subprocess.run, []

    def killed(command, **options):
        ends.append(run([command[0], "-c", "import os; os.abort()"], **options))
        return ends[-1]

    monkeypatch.setattr(subprocess, "run", killed)
    before = network().get_weights()
    model = network()
    model.set_weights(before)
    with pytest.raises(BrokenFileError, match="the HDF5 library cannot read this file"):
        model.load_weights(path)
    assert ends[0].returncode != 0
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    monkeypatch.undo()
    hdf5._probe(path, path)
