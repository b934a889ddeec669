"""Every public constructor of what a model is trained with: Keras' order of arguments, and what each may be.

Each argument is given what people give by mistake. Then either the object works, with finite numbers, or there is an
InputError in three parts: never a raw error, and never a wrong number in silence.
"""

from __future__ import annotations

import importlib
import inspect
import json
import operator
import pkgutil
from pathlib import Path

import numpy as np
import pytest

import minicnn
from minicnn.errors import InputError
from minicnn.layers import ELU, Activation, Context, LeakyReLU, PReLU, ReLU, Softmax
from minicnn.optimizers import SGD, OptimizerMap

SIGNATURES = json.loads((Path(__file__).parent / "fixtures" / "keras_signatures.json").read_text())
PLACES = ("losses", "metrics", "optimizers", "initializers", "regularizers", "constraints", "optimizers.schedules")
BASES = ("Loss", "Metric", "Optimizer", "Initializer", "Regularizer", "Constraint", "LearningRateSchedule")
NEEDED = {  # what has no default
    "ExponentialDecay": (0.1, 10, 0.5), "InverseTimeDecay": (0.1, 10, 0.5), "PolynomialDecay": (0.1, 10),
    "PiecewiseConstantDecay": ([2, 4], [1.0, 0.5, 0.1]), "CosineDecay": (0.1, 10), "CosineDecayRestarts": (0.1, 10),
    "MeanIoU": (3,), "MultiOptimizer": (OptimizerMap(SGD()),), "OptimizerMap": (SGD(),), "Activation": ("relu",),
    "FunctionMetric": (lambda y_true, y_pred: abs(y_true - y_pred),),
}  # fmt: skip
# Arguments of Keras' that are not taken here, each for a reason that docs/keras.md gives.
NOT_HERE = {"input_axes", "output_axes", "from_sorted_ids", "exclude_embeddings"}


def classes() -> dict[str, type]:
    found = {}
    for place in PLACES:
        module = operator.attrgetter(place)(minicnn)
        for name, cls in vars(module).items():
            ours = inspect.isclass(cls) and hasattr(cls, "from_config") and name[0] != "_"
            if ours and name not in (*BASES, "Configured"):
                found.setdefault(f"{place}.{name}", cls)
    return found | {f"layers.{cls.__name__}": cls for cls in (ReLU, LeakyReLU, ELU, Softmax, Activation, PReLU)}


CLASSES = classes()
WRONG = [None, -1, -0.5, 1.5, "a", "", [], [1, "a"], {}, np.nan, np.inf, True, np.zeros((2, 3)), object(), lambda: 0]


def used(obj) -> list[np.ndarray]:
    """What the object does, as arrays of numbers."""
    rng = np.random.default_rng(0)
    p = rng.random((4, 3)) + 0.1
    p, t, n = p / p.sum(axis=1, keepdims=True), np.eye(3)[[0, 2, 1, 1]], np.array([0, 2, 1, 1])
    if isinstance(obj, minicnn.losses.Loss):
        return [np.asarray(obj(n if obj.sparse else t, p))]
    if isinstance(obj, minicnn.metrics.Metric):
        sparse = type(obj).__name__.startswith(("Sparse", "MeanIoU"))
        taken = p.argmax(axis=1) if getattr(obj, "sparse_y_pred", False) else p
        taken, true = (t if getattr(obj, "sparse_y_pred", None) is False else taken), n if sparse else t
        true = t if getattr(obj, "sparse_y_true", True) is False else true
        return [np.asarray(obj(true, taken))]
    if isinstance(obj, minicnn.optimizers.Optimizer):
        params = {("dense_1", "w"): p.copy(), ("dense_1", "b"): p[0].copy()}
        for _ in range(3):
            obj.apply(params, {key: [np.ones_like(a)] for key, a in params.items()})
        return list(params.values())
    if isinstance(obj, minicnn.initializers.Initializer):
        return [obj((3, 3, 2, 4))]
    if isinstance(obj, minicnn.regularizers.Regularizer):
        return [np.asarray(obj(p)), obj.gradient(p)]
    if isinstance(obj, minicnn.constraints.Constraint):
        return [obj(rng.standard_normal((3, 3, 2, 4)))]
    if isinstance(obj, minicnn.schedules.LearningRateSchedule):
        return [np.array([obj(step) for step in (0, 1, 5, 100)])]
    if isinstance(obj, minicnn.layers.Layer):
        ctx = Context(training=True)
        obj.build((3,), rng)
        return [obj.forward(p - 0.3, ctx), obj.backward(t, ctx)]
    return []


@pytest.mark.parametrize("name", CLASSES)
def test_it_works_without_optional_arguments(name):
    obj = CLASSES[name](*NEEDED.get(name.rpartition(".")[2], ()))
    assert all(np.isfinite(array).all() for array in used(obj))
    assert type(obj).from_config(obj.get_config()).get_config() == obj.get_config()


@pytest.mark.parametrize("name", [name for name in CLASSES if name in SIGNATURES])
def test_arguments_by_position_are_those_of_keras(name):
    """Ours may stop earlier, and have others that go by name only."""
    cls = CLASSES[name]
    theirs = [argument for argument, _ in SIGNATURES[name] if argument not in NOT_HERE]
    ours = positional(cls)
    if name == "optimizers.MultiOptimizer":
        theirs.remove("loss_scale_factor")
    assert ours == theirs[: len(ours)]
    by_name = set(cls._arguments())
    assert set(theirs) <= by_name, "an argument of Keras is unknown"


@pytest.mark.parametrize("name", [name for name in CLASSES if name in SIGNATURES])
def test_defaults_are_those_of_keras(name):
    cls, theirs = CLASSES[name], dict(SIGNATURES[name])
    parameters = [p for base in cls.__mro__ if "__init__" in vars(base)
                  for p in inspect.signature(vars(base)["__init__"]).parameters.values()]  # fmt: skip
    ours: dict[str, str] = {}
    for p in parameters:
        if p.default is not p.empty:
            ours.setdefault(p.name, repr(p.default))
    own = {"name", "exclude_layers", *NOT_HERE}  # names are made of the class; an empty tuple for None
    for argument, default in theirs.items():
        if default and argument not in own and argument in ours:
            assert eval(ours[argument]) == eval(default), argument


def positional(cls: type) -> list[str]:
    """The arguments that can go by position; *common stands for those of the base class."""
    names: list[str] = []
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = list(inspect.signature(vars(base)["__init__"]).parameters.values())[1:]
        names += [p.name for p in parameters if p.kind == p.POSITIONAL_OR_KEYWORD and p.name not in names]
        if all(p.kind != p.VAR_POSITIONAL for p in parameters):
            break
    return [name for name in names if name in cls._arguments()]


ARGUMENTS = [
    (name, argument)
    for name, cls in CLASSES.items()
    for argument in cls._arguments()
    if not argument.startswith("muon_")  # a polynomial of one's own may overflow
]


@pytest.mark.parametrize(("name", "argument"), ARGUMENTS, ids=lambda part: part)
def test_each_argument_is_right_or_refused(name, argument):
    cls = CLASSES[name]
    needed = NEEDED.get(name.rpartition(".")[2], ())
    first = dict(zip(positional(cls), needed, strict=False))
    for wrong in WRONG:
        try:
            obj = cls(**{**first, argument: wrong})
            results = used(obj)
        except InputError as found:
            error = found
            results = []
        else:
            error = None
        assert error is None or (error.where and error.problem and error.expected and error.received and error.fix)
        for array in results:
            assert array.dtype.kind in "buif", f"{argument}={wrong!r}: {array.dtype}"
            assert np.isfinite(array).all(), f"{argument}={wrong!r} gives {array}"


def with_data_format() -> dict:
    """Whatever of ours takes data_format, by its name: classes, and functions that a module shows."""
    found = {}
    for module in pkgutil.walk_packages(minicnn.__path__, "minicnn."):
        if module.name.rpartition(".")[2].startswith("_"):
            continue
        for name, thing in vars(importlib.import_module(module.name)).items():
            made_by = getattr(thing, "__init__", None) if inspect.isclass(thing) else thing
            own = inspect.isfunction(made_by) and thing.__module__ == module.name and name[0] != "_"
            if own and "data_format" in inspect.signature(thing).parameters and not name.startswith("check"):
                found[name] = thing
    return found


PIXELS = np.zeros((4, 4, 3))
ALSO_NEEDED = {
    "CenterCrop": (2, 2), "Conv1D": (2, 3), "Conv2D": (2, 3), "Conv2DTranspose": (2, 3), "DepthwiseConv2D": (3,),
    "RandomRotation": (0.1,), "RandomTranslation": (0.1, 0.1), "RandomZoom": (0.1,), "Resizing": (2, 2),
    "SeparableConv2D": (2, 3), "SpatialDropout2D": (0.5,), "array_to_img": (PIXELS,),
    "image_dataset_from_directory": ("nowhere",), "img_to_array": (PIXELS,), "save_img": ("nowhere.png", PIXELS),
}  # fmt: skip


def test_channels_first_is_refused_with_the_transpose_to_write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = with_data_format()
    assert set(ALSO_NEEDED) < set(found) and {"Flatten", "MaxPooling1D", "ImageDataGenerator"} < set(found)
    for name, thing in found.items():
        for value in ("channels_first", "channels_frist", 1, ["channels_last"]):
            with pytest.raises(InputError, match=r"Expected: (.|\n)*Received: (.|\n)*x\.transpose\(0, 2, 3, 1\)"):
                thing(*ALSO_NEEDED.get(name, ()), data_format=value)
    assert not list(tmp_path.iterdir())  # nothing was written
