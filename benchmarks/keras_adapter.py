"""What stands in Keras' own tests where Keras was: minicnn. A plugin of pytest, for keras_cases.py.

keras_cases.py exchanges a test file's imports of Keras for `stand_in`, which gives minicnn's class of the same name.
What minicnn does not have is a `Missing`: using it ends the case. The arrays that tests compute with (`ops`, `backend`)
and their comparisons (`testing`) stay Keras', on its NumPy backend.

Exception classes are compared, their sentences are not. A case that ran no line of minicnn does not count as passed.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import json
import os
import re
import signal
import sys
import types
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

import minicnn
from minicnn.errors import InputError, UnknownNameError

SECONDS = 60  # for one case
HERE = str(Path(minicnn.__file__).parent)

# ---- Keras without what it does not need here ------------------------------------------------------------------------


class _Pretended(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Keras' NumPy backend imports jax for convolutions, which no case needs of it: where it is missing, a mock."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if name.split(".")[0] == "jax" else None

    def create_module(self, spec: Any) -> Any:
        module = mock.MagicMock(name=spec.name)
        module.__name__, module.__path__, module.__version__ = spec.name, [], "0.9.0"
        return module

    def exec_module(self, module: Any) -> None:
        pass


os.environ["KERAS_BACKEND"] = "numpy"
sys.meta_path.append(_Pretended())
from keras.src import backend, testing  # noqa: E402
from keras_layers import adapt_layers, run_layer_test  # noqa: E402

# ---- names -----------------------------------------------------------------------------------------------------------

# Keras' modules, and where minicnn has what is in them. The longest beginning counts.
FAMILIES = {
    "activations": "minicnn.activations", "applications": "minicnn.applications", "callbacks": "minicnn.callbacks",
    "constraints": "minicnn.constraints", "initializers": "minicnn.initializers", "layers": "minicnn.layers",
    "losses": "minicnn.losses", "metrics": "minicnn.metrics", "models": "minicnn.models",
    "optimizers": "minicnn.optimizers", "optimizers.schedules": "minicnn.schedules",
    "regularizers": "minicnn.regularizers", "utils": "minicnn.utils", "": "minicnn",
}  # fmt: skip
# What stays Keras': the tests' tools.
TOOLS = (
    "backend", "dtype_policies", "ops", "random", "testing", "tree", "utils.file_utils", "utils.io_utils",
    "utils.module_utils",
)  # fmt: skip


class NotInMinicnn(BaseException):
    """Something that minicnn does not have was used. No Exception: a test's assertRaises must not catch it."""


class _NotHere:
    """The base class of a test's class that derives from something minicnn does not have."""

    _name = ""

    def __init__(self, *args: Any, **kwargs: Any):
        raise used(self._name)


class Missing:
    """Something minicnn does not have. Outside of a case, in a table of parameters, it may be called and passed on."""

    def __init__(self, name: Any):
        if "_name" in vars(self):  # as the base class's constructor of a test's class
            raise used(self._name)
        self._name = name

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Missing(f"{self._name}.{name}")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if Running.case is None:
            return Missing(self._name)
        raise used(self._name)

    def __mro_entries__(self, bases: Any) -> tuple[type, ...]:
        return (type("NotHere", (_NotHere,), {"_name": self._name}),)

    def __iter__(self) -> Any:
        raise used(self._name)

    def __instancecheck__(self, other: Any) -> bool:
        raise used(self._name)


class Running:
    """The case that runs now: its name, what it used that minicnn does not have, and whether minicnn did anything."""

    case: str | None = None
    used: list[str] = []
    reached = False


def used(name: str) -> NotInMinicnn:
    Running.used.append(name)
    return NotInMinicnn(name)


class Module:
    """Stands for one of Keras' modules."""

    def __init__(self, path: str, there: Any):
        self._path, self._there = path, there

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return stand_in(self._path, name)


def stand_in(path: str, name: str | None = None) -> Any:
    """minicnn's object for `from keras.src.PATH import NAME`; without a name: for the module."""
    path = re.sub(r"^keras\.?(src\.?)?", "", path)
    whole = ".".join(part for part in (path, name) if part)
    if whole in EXTRA:
        return EXTRA[whole]
    if any(whole == tool or whole.startswith(f"{tool}.") for tool in TOOLS):
        return _keras(whole)
    if name is None:
        return Module(path, _keras(path))
    family = max((f for f in FAMILIES if not f or path == f or path.startswith(f"{f}.")), key=len)
    ours = importlib.import_module(FAMILIES[family])
    if not isinstance(getattr(ours, name, None), (type(None), types.ModuleType)):
        return getattr(ours, name)
    there = _keras(whole)
    return Module(whole, there) if isinstance(there, types.ModuleType) else Missing(whole)


def _keras(path: str) -> Any:
    """The object of this path in Keras, or None."""
    for start in ("keras.src", "keras"):
        full = f"{start}.{path}" if path else start
        try:
            return importlib.import_module(full)
        except ImportError:
            module, _, name = full.rpartition(".")
            try:
                return getattr(importlib.import_module(module), name)
            except (ImportError, AttributeError):
                continue
    return None


# ---- the tests' tools, where Keras' own know too much of Keras -------------------------------------------------------


class _Backend:
    """Keras' NumPy backend, by another name: tests leave out for "numpy" whatever needs gradients."""

    @staticmethod
    def backend() -> str:
        return "minicnn"

    def __getattr__(self, name: str) -> Any:
        return getattr(backend, name)


class TestCase(testing.TestCase):
    """Keras' comparisons. Of errors only the class counts."""

    __test__ = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.__test__ = True

    def assertRaisesRegex(  # noqa: N802
        self, expected_exception: Any, expected_regex: Any, *args: Any, **kwargs: Any
    ) -> Any:
        return self.assertRaises(expected_exception, *args, **kwargs)  # noqa: PT027

    def run_class_serialization_test(self, instance: Any, custom_objects: Any = None) -> Any:
        """get_config goes through JSON, and from_config makes an equal object of it."""
        config = instance.get_config()
        again = type(instance).from_config(json.loads(json.dumps(config)))
        assert json.dumps(again.get_config()) == json.dumps(config)
        assert dir(again) == dir(instance)
        return again

    run_layer_test = run_layer_test


class _Testing:
    TestCase = TestCase

    def __getattr__(self, name: str) -> Any:
        return getattr(testing, name)


class ExampleModel(minicnn.Sequential):
    """The model of most cases of trainer_test.py."""

    def __init__(self, units: int):
        super().__init__([minicnn.layers.Dense(units, use_bias=False, kernel_initializer="ones")])


class Trainer(_NotHere):
    """The half of a model in trainer_test.py; the other half is a layer with call()."""

    _name = "a model with call()"


def input_of_any_batch(shape: Any = None, batch_size: int | None = None, **named: Any) -> Any:
    """Input without batch_size: in Keras, too, another number of samples may come."""
    return minicnn.Input(shape, **named)


OWN: dict[str, Any] = {}  # the tests' own classes, by name


def register(package: str = "Custom", name: str | None = None) -> Any:
    """A decorator in place of register_keras_serializable; minicnn takes these classes as custom_objects."""

    def remember(thing: Any) -> Any:
        OWN[name or thing.__name__] = thing
        return thing

    return remember


def load_model(path: Any, custom_objects: Any = None, **named: Any) -> Any:
    return minicnn.load_model(path, {**OWN, **(custom_objects or {})}, **named)


EXTRA: dict[str, Any] = {
    "backend": _Backend(), "testing": _Testing(), "testing.test_case": _Testing(),
    "adapter.tf_data": Missing("layers within tf.data"), "adapter.grain": Missing("layers within grain"),
    "trainers.data_adapters.py_dataset_adapter.PyDataset": minicnn.utils.PyDataset,
    "adapter.ExampleModel": ExampleModel, "adapter.Trainer": Trainer,
    "Input": input_of_any_batch, "layers.Input": input_of_any_batch,
    "layers.core.input_layer.Input": input_of_any_batch,
    "models.Functional": minicnn.Model, "models.functional.Functional": minicnn.Model, "Functional": minicnn.Model,
}  # fmt: skip
for module in ("saving", "saving.saving_lib", "saving.saving_api", "legacy.saving.legacy_h5_format", "models"):
    EXTRA |= {
        f"{module}.load_model": load_model, f"{module}.load_model_from_hdf5": load_model,
        f"{module}.save_model": minicnn.Model.save, f"{module}.save_model_to_hdf5": minicnn.Model.save,
        f"{module}.save_weights": minicnn.Model.save_weights, f"{module}.load_weights": minicnn.Model.load_weights,
        f"{module}.register_keras_serializable": register,
    }  # fmt: skip
EXTRA["saving.object_registration.register_keras_serializable"] = register


def skip_if_backend(*args: Any, **kwargs: Any) -> Any:
    """Of the conftest of Keras' tests: nothing is left out here."""
    return lambda case: case


# ---- optimizers: Keras' steps on variables ---------------------------------------------------------------------------


def _apply_gradients(self: Any, pairs: Any) -> None:
    """optimizer.apply_gradients([(gradient, variable), …]) as a step on minicnn's dictionary of parameters."""
    pairs = list(pairs)
    for _, variable in pairs:
        if all(variable is not known for known in _variables(self)):
            _variables(self).append(variable)
    keys = {id(v): _key(k, v) for k, v in enumerate(_variables(self))}
    params = {keys[id(v)]: np.array(v.value, v.dtype) for _, v in pairs}
    grads = {keys[id(v)]: [np.array(g, v.dtype)] for g, v in pairs}
    self.apply(params, grads)
    for _, variable in pairs:
        variable.assign(params[keys[id(variable)]])


def _key(number: int, variable: Any) -> tuple[str, str]:
    """The layer and name of "dense_1/kernel"; variables of no layer are numbered."""
    layer, _, name = variable.path.rpartition("/")
    return layer or f"variable_{number}", name or variable.name


def _variables(optimizer: Any) -> list[Any]:
    return vars(optimizer).setdefault("_variables_of_the_test", [])


def _clip_gradients(self: Any, gradients: Any) -> list[Any]:
    grads: Any = {("variable", str(k)): [np.array(g)] for k, g in enumerate(gradients)}
    self._clip(grads)
    return [shares[0] for shares in grads.values()]


def _apply(apply: Any) -> Any:
    """Keras' apply(gradients, variables), beside minicnn's."""

    def call(self: Any, params: Any, grads: Any, workers: Any = None) -> None:
        if isinstance(params, dict):
            apply(self, params, grads, workers)
        else:
            _apply_gradients(self, zip(params, grads, strict=True))

    return call


def adapt_optimizers() -> None:
    """Keras' methods for minicnn's optimizers: the numbers are minicnn's."""
    from minicnn.optimizers import MultiOptimizer, Optimizer

    made: Any = Optimizer
    by_names = made.exclude_from_weight_decay

    def exclude(self: Any, var_list: Any = None, var_names: Any = None) -> None:
        known = len(_variables(self))
        _variables(self).extend(var_list or [])
        chosen = [f"^variable_{known + k}/" for k in range(len(var_list or []))]
        by_names(self, var_names=[*(var_names or []), *chosen])

    for kind in (Optimizer, MultiOptimizer):
        kind.apply = _apply(kind.apply)  # type: ignore[method-assign]
    made.apply_gradients, made._clip_gradients = _apply_gradients, _clip_gradients
    made.build = lambda self, variables: _variables(self).extend(variables)
    made.exclude_from_weight_decay = exclude


# ---- pytest ----------------------------------------------------------------------------------------------------------

CASES: list[dict[str, str]] = []

def pytest_configure(config: Any) -> None:
    adapt_optimizers()
    adapt_layers()
    config.addinivalue_line("markers", "requires_trainable_backend: all cases run here")


def _saw(frame: Any, event: str, arg: Any) -> None:
    if frame.f_code.co_filename.startswith(HERE):
        Running.reached = True
        sys.setprofile(None)


def _too_long(*args: Any) -> None:
    raise TimeoutError(f"more than {SECONDS} s")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item: Any) -> Any:
    Running.case, Running.used, Running.reached = item.nodeid, [], False
    backend.set_image_data_format("channels_last")  # cases that end before their end leave it changed
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(SECONDS)
    sys.setprofile(_saw)
    yield
    sys.setprofile(None)
    signal.alarm(0)
    Running.case = None


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: Any, call: Any) -> Any:
    report = (yield).get_result()
    if call.when == "call" or (call.when == "setup" and not report.passed):
        kind, reason = _judged(report, call.excinfo.value if call.excinfo else None)
        file, _, case = item.nodeid.partition("::")
        CASES.append({"file": file, "case": case, "kind": kind, "reason": reason})


# What minicnn refuses wherever it occurs: what the InputError says, and what the case therefore needs.
REFUSED = (
    (r"minicnn has no dtype here", "dtypes"),
    (r"minicnn has no (\w+) here", r"\1"),
    (r"compile: (\w+) cannot be had", r"\1 of compile"),
    (r"inputs and outputs are missing", "a model with call()"),
    (r"build takes the shape of one sample and a generator", "a layer with call()"),
    (r"Keras has no layer", "a layer of one's own in a file of Keras"),
    (r"a model has one input and one output", "several inputs or outputs"),
    (r"inputs is no symbolic value.*Received: (list|dict)", "several inputs or outputs"),
    (r"no loss was given", "a model without a loss"),
    (r"loss_scale_factor is not used here", "loss_scale_factor"),
    (r"a symbolic value has no numbers yet", "operations on symbolic values"),
    (r"input_shape does not fit.*Received: \(\)", "samples of a single number"),
    (r"this is not the shape of a batch.*Received: .*, None", "sizes that are not known beforehand"),
    (r"input_shape does not fit.*Received: \(.*None", "sizes that are not known beforehand"),
    (r"(CenterCrop|Resizing|Random\w+) needs images.*samples of shape \(\d+, \d+\)", r"\1 of a single image"),
    (r"the channels are the last axis", "channels_first"),
    (r"data_format does not fit.*Received: 'channels_first'", "channels_first"),
    (r"split_dataset: the parts are arrays", "preferred_backend of split_dataset"),
)


def _judged(report: Any, error: Any) -> tuple[str, str]:
    """What a case's end says without knowing the case: pass, missing, internals, skipped or fail; and why."""
    if report.skipped:
        return "skipped", str(report.longrepr[-1] if isinstance(report.longrepr, tuple) else report.longrepr)[:120]
    if Running.used:
        return "missing", Running.used[0]
    if error is None:
        return ("pass", "") if Running.reached else ("internals", "does not reach anything of minicnn's")
    if isinstance(error, InputError):
        for pattern, needed in REFUSED:
            found = re.search(pattern, str(error), re.DOTALL)
            if found:
                return ("internals" if needed == "dtypes" else "missing"), found.expand(needed)
    if isinstance(error, UnknownNameError):
        return "missing", f"{error.received.rstrip('.')[:60]}, {error.where}"
    if isinstance(error, NotImplementedError):
        for method, needed in (("forward", "a layer with call()"), ("values", "a loss with call()")):
            if f"must define {method}" in str(error):
                return "missing", needed
    if isinstance(error, AttributeError) and error.name:
        kind = error.obj if isinstance(error.obj, type) else type(error.obj)
        ours = any(base.__module__.split(".")[0] == "minicnn" for base in kind.__mro__)
        if ours:
            return ("internals" if error.name.startswith("_") else "missing"), f"{kind.__name__}.{error.name}"
    return "fail", " ".join(f"{type(error).__name__}: {error}".split())[:200]


def pytest_sessionfinish(session: Any) -> None:
    Path(os.environ["KERAS_CASES"]).write_text(json.dumps(CASES))
