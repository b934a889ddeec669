"""model.to_onnx: three other programs read the file and agree with `predict`; what cannot be written is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from branching import NETWORKS, made
from onnx_networks import random_network, shaken
from test_examples import run

from minicnn import applications, layers, utils
from minicnn.activations import Function, relu
from minicnn.errors import InputError
from minicnn.layers import BatchNormalization, Conv2D, Dense, Dropout, Flatten, Input, Layer, MaxPooling2D
from minicnn.models import Model, Sequential
from minicnn.preprocessing.image import ImageInput
from minicnn.saving import onnx_file

TOLERANCE = 1e-5
NEEDS = 'needs onnx and onnxruntime: python -m pip install ".[test]"'


@pytest.fixture(autouse=True)
def seeded():
    utils.set_random_seed(0)


@pytest.fixture(scope="module")
def onnx():
    return pytest.importorskip("onnx", reason=NEEDS)


@pytest.fixture(scope="module")
def runtime():
    return pytest.importorskip("onnxruntime", reason=NEEDS)


def numbers(model: Model, seed: int = 0, samples: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((samples, *model.sample_shape)).astype(np.float32)


def first(x: np.ndarray) -> np.ndarray:
    """The channels behind the batch axis."""
    return np.moveaxis(x, -1, 1) if x.ndim > 2 else x


def last(x: np.ndarray) -> np.ndarray:
    return np.moveaxis(x, 1, -1) if x.ndim > 2 else x


def ran(runtime, path: Path, x: np.ndarray) -> np.ndarray:
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def off(y: np.ndarray, wanted: np.ndarray) -> float:
    assert y.shape == wanted.shape and y.dtype == np.float32
    return float(np.abs(y - wanted).max() / max(1, np.abs(wanted).max()))


def transposes(model: Model, graph) -> int:
    """How many the file has besides those that the network itself asks for."""
    asked = sum(type(node.layer) is layers.Permute for node in model.nodes)
    return sum(node.op_type == "Transpose" for node in graph.node) - asked


def check(onnx, runtime, model: Model, path: Path, layout="nhwc", fold=True, reference=True, samples=3):
    """The file of a model, which onnx's checker, its reference and onnxruntime have approved of."""
    model.to_onnx(path, layout, fold)
    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    x = numbers(model, samples=samples)
    wanted = model.predict(x, verbose=0)
    inside, outside = (first, last) if layout == "nchw" else (np.asarray, np.asarray)
    answers = [ran(runtime, path, inside(x))]
    padded = (a.ints for n in proto.graph.node if n.op_type == "MaxPool" for a in n.attribute if a.name == "pads")
    if reference and not any(map(any, padded)):  # of a padded MaxPool onnx's reference makes another size
        from onnx.reference import ReferenceEvaluator

        answers += ReferenceEvaluator(proto).run(None, {proto.graph.input[0].name: inside(x)})
    assert max(off(outside(y), wanted) for y in answers) <= TOLERANCE
    most = 0 if layout == "nchw" else 1 + (wanted.ndim > 2)  # images that come out are turned back
    assert transposes(model, proto.graph) <= most
    return proto


# ---- networks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", range(0, 200, 20))
def test_twenty_random_networks(onnx, runtime, start, tmp_path):
    for seed in range(start, start + 20):
        layout, fold = ("nhwc", "nchw")[seed % 2], seed % 3 > 0
        try:
            check(onnx, runtime, random_network(seed), tmp_path / "net.onnx", layout, fold)
        except Exception as error:
            raise AssertionError(f"network {seed}, {layout}, folded {fold}: {error}") from error


def test_every_layer_has_a_rule_and_is_in_the_random_networks():
    drawn = {type(layer) for seed in range(200) for layer in random_network(seed).flat_layers}
    assert drawn == set(onnx_file.RULES)
    known = {layers.named(name) for name in layers.__all__} - {None, layers.Layer, layers.InputLayer}
    assert known == set(onnx_file.RULES)


@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
@pytest.mark.parametrize(
    "options",
    [
        {"padding": "same", "strides": 2}, {"padding": "causal", "dilation_rate": 2}, {"groups": 2},
        {"padding": "causal", "strides": 2, "groups": 2}, {"dilation_rate": 2, "activation": "relu"},
    ],
)  # fmt: skip
@pytest.mark.parametrize("before", [[], [layers.Permute((2, 1)), layers.Reshape((9, 4))]], ids=["first", "turned"])
def test_sequences(onnx, runtime, layout, options, before, tmp_path):
    flat = [layers.MaxPooling1D(2, padding="same"), layers.BatchNormalization(), Flatten(), Dense(3)]
    for after in ([], flat):
        chain = [Input((9, 4)), *(type(one).from_config(one.get_config()) for one in (*before, *after))]
        chain.insert(1 + len(before), layers.Conv1D(6, 3, **options))
        check(onnx, runtime, shaken(Sequential(chain), 1), tmp_path / "net.onnx", layout, reference=False)


@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
def test_softmax_over_one_axis_or_none(onnx, runtime, layout, tmp_path):
    for layer in (layers.Softmax(1), layers.Softmax([2]), layers.Softmax()):
        check(onnx, runtime, Sequential([Input((4, 3, 2)), layer]), tmp_path / "net.onnx", layout, reference=False)
    with pytest.raises(InputError, match="one axis only"):
        Sequential([Input((4, 3, 2)), layers.Softmax((1, 2))]).to_onnx(tmp_path / "net.onnx", layout)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("fold", [True, False])
def test_networks_that_branch(onnx, runtime, name, fold, tmp_path):
    check(onnx, runtime, made(name), tmp_path / "net.onnx", fold=fold, reference=False)


def test_the_networks_of_the_documents(onnx, runtime, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "examples"))
    import train_cifar10
    import train_images

    networks = {
        "Fashion-MNIST": Sequential([Input((28, 28)), Flatten(), Dense(128, "relu"), Dense(10, "softmax")]),
        "MNIST": Sequential([Input((784,)), Dense(800, "relu"), Dense(10, "softmax")]),
        "CIFAR-10": train_cifar10.network(),
        "animals": applications.SmallVGGNet(64, 64, 3, 3),
        "animals, dense": train_images.simple(32, 3),
    }
    for name, model in networks.items():
        proto = check(onnx, runtime, shaken(model, 1), tmp_path / "net.onnx", reference=False)
        images = any(isinstance(layer, Conv2D) for layer in model.layers)
        assert transposes(model, proto.graph) == images, name


# ---- what is in the file ---------------------------------------------------------------------------------------------


def small() -> Sequential:
    return shaken(Sequential([
        Input((6, 5, 3), name="pixels"),
        Conv2D(4, 3, strides=2, padding="same", name="look"), BatchNormalization(epsilon=0.01, name="even"),
        layers.ReLU(name="cut"), MaxPooling2D(2, padding="same"), BatchNormalization(), Dropout(0.5),
        Flatten(), Dense(3, activation="softmax", name="answer"),
    ], name="small"), 0)  # fmt: skip


def attributes(node) -> dict:
    return {a.name: list(a.ints) or a.f or a.i for a in node.attribute}


def test_names_shapes_and_versions(onnx, tmp_path):
    small().to_onnx(tmp_path / "net.onnx", fold_batch_norm=False)
    proto = onnx.load(tmp_path / "net.onnx")
    graph = proto.graph
    assert (proto.ir_version, proto.opset_import[0].version, proto.producer_name) == (8, 17, "minicnn")
    assert graph.name == "small"
    names = [node.name for node in graph.node]
    assert [n for n in names if "/" not in n] == [
        "look", "even", "cut", "max_pooling2d_1", "batch_normalization_1", "flatten_1", "answer",
    ]  # fmt: skip
    assert len(set(names)) == len(names)
    sizes = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim]
             for v in (*graph.input, *graph.output)}  # fmt: skip
    assert sizes == {"pixels": ["N", 6, 5, 3], "answer": ["N", 3]}
    assert {"look/kernel", "look/bias", "even/moving_mean", "answer/kernel"} <= {a.name for a in graph.initializer}
    look, even = (next(node for node in graph.node if node.name == name) for name in ("look", "even"))
    assert attributes(look)["pads"] == [0, 1, 1, 1] and not any(a.name == "auto_pad" for a in look.attribute)
    assert attributes(even)["epsilon"] == pytest.approx(0.01)
    assert not any("Dropout" in node.op_type for node in graph.node)


def test_batch_norm_is_folded_where_it_can_be(onnx, tmp_path):
    small().to_onnx(tmp_path / "net.onnx")
    kinds = [node.op_type for node in onnx.load(tmp_path / "net.onnx").graph.node]
    assert kinds.count("BatchNormalization") == 1 and kinds[:3] == ["Transpose", "Conv", "Relu"]


def test_any_number_of_samples(runtime, tmp_path):
    model = small()
    model.to_onnx(tmp_path / "net.onnx")
    for samples in (1, 2, 7):
        x = numbers(model, samples=samples)
        assert off(ran(runtime, tmp_path / "net.onnx", x), model.predict(x, verbose=0)) <= TOLERANCE


def test_images_come_out_as_they_go_in(onnx, runtime, tmp_path):
    x = Input((8, 6, 3))
    y = layers.UpSampling2D(2, interpolation="bilinear")(Conv2D(4, 3, padding="same")(MaxPooling2D(2)(x)))
    model = Model(x, Dense(2, "softmax")(layers.Concatenate()([x, y])))
    check(onnx, runtime, model, tmp_path / "net.onnx", "nhwc", reference=False)
    proto = check(onnx, runtime, model, tmp_path / "net.onnx", "nchw", reference=False)
    assert [d.dim_value for d in proto.graph.output[0].type.tensor_type.shape.dim][1:] == [2, 8, 6]


def test_a_layer_that_is_used_twice_is_written_once(onnx, tmp_path):
    x, same = Input((5,)), Dense(5)
    Model(x, same(same(x))).to_onnx(tmp_path / "net.onnx")
    graph = onnx.load(tmp_path / "net.onnx").graph
    assert [a.name for a in graph.initializer] == ["dense_1/kernel", "dense_1/bias"]
    assert [node.name for node in graph.node] == ["dense_1", "dense_1_2"]


def test_weights_of_double_precision_become_float32(onnx, runtime, tmp_path):
    check(onnx, runtime, made("residual", dtype=np.float64), tmp_path / "net.onnx", reference=False)


def test_class_names_and_image_input_are_metadata(onnx, tmp_path):
    model = small()
    model.class_names, model.image_input = ["cat", "dög", "🐼"], ImageInput(6, 5)
    model.to_onnx(tmp_path / "net.onnx", layout="nchw")
    told = {p.key: json.loads(p.value) for p in onnx.load(tmp_path / "net.onnx").metadata_props}
    assert told["class_names"] == ["cat", "dög", "🐼"] and told["layout"] == "nchw"
    assert told["image_input"]["height"] == 6 and told["image_input"]["rescale"] == 1 / 255


def test_a_check_that_fails(onnx, runtime, tmp_path, monkeypatch):
    """Rows that are not reordered, pixels that are padded on the wrong side, and another epsilon are all found."""
    model = small()
    flat, windows = onnx_file.Graph.flat, onnx_file._windows
    unordered = lambda g, x: flat(g, x)._replace(order=None)  # noqa: E731
    elsewhere = lambda *a: (windows(*a)[0] | {"pads": [1, 1, 0, 1]}, windows(*a)[1])  # noqa: E731
    for where, name, wrong in ((onnx_file.Graph, "flat", unordered), (onnx_file, "_windows", elsewhere)):
        with monkeypatch.context() as patch:
            patch.setattr(where, name, wrong)
            with pytest.raises(Exception, match="assert|shape|inference|Inference"):
                check(onnx, runtime, model, tmp_path / "net.onnx", fold=False, reference=False)
    other = small()
    other.get_layer("even").epsilon = 0.02
    other.to_onnx(tmp_path / "net.onnx")
    x = numbers(model)
    assert off(ran(runtime, tmp_path / "net.onnx", x), model.predict(x, verbose=0)) > TOLERANCE


# ---- what cannot be written ------------------------------------------------------------------------------------------


class Twice(layers.Layer):
    def forward(self, x, ctx):
        return 2 * x


def test_refused_by_name_and_nothing_is_overwritten(onnx, tmp_path, monkeypatch):
    path = tmp_path / "net.onnx"
    path.write_text("before")
    own = Function("relu", lambda x: x, lambda dy, y: dy)
    cases = {
        r"(?s)own: there is no rule that writes the layer Twice .*Received: Twice\.": [Twice(name="own")],
        r"(?s)d: there is no rule that writes its activation 'relu'": [Dense(2, own, name="d")],
        r"(?s)a: there is no rule that writes its activation 'kink'": [
            layers.Activation(Function("kink", relu.forward, relu.backward), name="a")
        ],
    }
    for message, inside in cases.items():
        with pytest.raises(InputError, match=message):
            Sequential([Input((3,)), *inside]).to_onnx(path)
    model = small()
    with pytest.raises(InputError, match="layout"):
        model.to_onnx(path, layout="NHWC")
    with pytest.raises(FileExistsError):
        model.to_onnx(path, overwrite=False)
    with pytest.raises(InputError, match="has not been built"):
        Sequential([Dense(2)]).to_onnx(path)
    with pytest.raises(InputError, match="its folder does not exist"):
        model.to_onnx(tmp_path / "nowhere" / "net.onnx")
    monkeypatch.setattr(onnx_file, "MAX_BYTES", 100)
    with pytest.raises(InputError, match="too large for one ONNX file"):
        model.to_onnx(path)
    assert path.read_text() == "before"


def test_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(InputError, match=r"(?s)onnx is not installed.*pip install onnx"):
        small().to_onnx(tmp_path / "net.onnx")


def test_the_users_own_mistake_is_told_before_the_missing_package(tmp_path, monkeypatch):
    class Doubled(Layer):
        def forward(self, x, ctx):
            return 2 * x

    monkeypatch.setitem(sys.modules, "onnx", None)
    for model, path, options, told in [
        (small(), 3, {}, "this is no path"), (small(), tmp_path / "no" / "net.onnx", {}, "folder does not exist"),
        (small(), tmp_path, {}, "no ordinary file"), (small(), "net.onnx", {"layout": "nhcw"}, "layout"),
        (Sequential([Input((4,)), Doubled()]), "net.onnx", {}, "no rule"),
    ]:  # fmt: skip
        with pytest.raises(InputError, match=told):
            model.to_onnx(path, **options)


# ---- the example -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
def test_the_example_answers_as_minicnn_does(onnx, runtime, layout, tmp_path):
    from PIL import Image

    model = small()
    model.class_names, model.image_input = ["cat", "dog", "owl"], ImageInput(6, 5, keep_aspect_ratio=True)
    model.to_onnx(tmp_path / "net.onnx", layout=layout)
    rng = np.random.default_rng(0)
    names = []
    for i, size in enumerate([(5, 6), (40, 30), (20, 20)]):
        names.append(f"{i}.png")
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(tmp_path / names[-1])
    out = run(tmp_path, "predict_onnx.py", "net.onnx", *names, "--top", 1)
    for name in names:
        p = model.predict(model.image_input.load(tmp_path / name)[None], verbose=0)[0]
        assert f"{name}\n    {model.class_names[p.argmax()]}: {100 * p.max():.2f} %" in out
    code = (Path(__file__).parents[1] / "examples" / "predict_onnx.py").read_text(encoding="utf-8")
    assert "import minicnn" not in code.split('"""')[2]


def test_the_example_says_what_is_missing(onnx, runtime, tmp_path):
    small().to_onnx(tmp_path / "net.onnx")
    said = run(tmp_path, "predict_onnx.py", "net.onnx", "x.png", fails=True)
    assert "does not tell its class_names and image_input" in said
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    assert "no ONNX file" in run(tmp_path, "predict_onnx.py", "broken.onnx", "x.png", fails=True)
