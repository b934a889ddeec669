"""What an import costs, the public names, and who may import whom."""

from __future__ import annotations

import ast
import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest

import minicnn

ROOT = Path(minicnn.__file__).parent

# From the bottom up. A module may import from its own room and from those before it.
ROOMS = [
    ["errors", "file_kinds"],
    ["arguments"],
    ["ranks"],
    ["backend", "files", "html", "reading"],
    ["kernels"],
    [
        "random",
        "registry",
        "activations",
        "initializers",
        "constraints",
        "regularizers",
        "schedules",
    ],
    ["batches", "layers"],
    ["objective", "losses", "metrics", "optimizers", "preprocessing"],
    ["saving", "utils", "datasets"],
    ["training"],
    ["summary", "callbacks", "gradcheck", "gradcheck_hints"],
    ["inspect"],
    ["models"],
    ["applications"],
    ["sklearn"],
    ["course"],
    ["__main__"],
]

RANK = {name: rank for rank, room in enumerate(ROOMS) for name in room}


def python(code: str) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return result.stdout.strip()


# ---- what an import costs --------------------------------------------------------------------------------------------

HEAVY = ["matplotlib", "PIL", "cupy", "tqdm", "threadpoolctl", "concurrent.futures", "h5py", "urllib.request", "ssl"]


@pytest.mark.parametrize("statement", ["import minicnn", "import minicnn; minicnn.__version__; dir(minicnn)"])
def test_importing_minicnn_imports_no_heavy_library(statement):
    code = f"import sys, numpy; before = set(sys.modules)\n{statement}\n"
    new = python(code + "print(*(set(sys.modules) - before))").split()
    assert "minicnn" in new
    assert [name for name in HEAVY if name in new] == []
    assert [name for name in new if name.startswith("minicnn.")] == []


def test_building_a_model_imports_no_heavy_library():
    code = """
import sys, numpy
before = set(sys.modules)
from minicnn.models import Sequential
from minicnn.layers import Dense, Input
Sequential([Input((3,)), Dense(2)]).compile("adam", "mse")
print(*(set(sys.modules) - before))
"""
    new = python(code).split()
    assert [name for name in HEAVY if name in new] == []


def test_arrays_need_no_image_folders_and_a_trace_needs_no_figures():
    code = """
import sys, numpy
from minicnn.models import Sequential
from minicnn.layers import Dense, Input
model = Sequential([Input((3,)), Dense(2)])
model.compile("sgd", "mse")
x, y = numpy.ones((4, 3)), numpy.ones((4, 2))
model.fit(x, y, verbose=0)
model.evaluate(x, y, verbose=0), model.predict(x, verbose=0), model.trace(x, y)
print(*(name for name in sys.modules if name.startswith("minicnn")))
"""
    loaded = python(code).split()
    assert "minicnn.training.loop" in loaded and "minicnn.inspect.trace" in loaded
    unwanted = ("figures", "folder", "loading", "generator", "iterators", "page", "saving", "gradcheck")
    assert [name for name in loaded if name.split(".")[-1] in unwanted] == []


def test_names_are_reached_from_the_top():
    code = """
import minicnn
print(minicnn.layers.Dense.__name__, minicnn.Sequential.__name__, minicnn.utils.to_categorical([1]).shape,
      minicnn.get_num_threads() > 0, minicnn.callbacks.EarlyStopping.__name__)
"""
    assert python(code) == "Dense Sequential (1, 2) True EarlyStopping"


@pytest.mark.parametrize("name", sorted(minicnn._SUBMODULES | set(minicnn._NAMES)))
def test_every_promised_name_is_there(name):
    assert name in dir(minicnn)
    assert getattr(minicnn, name) is not None


def test_a_name_that_is_not_there():
    with pytest.raises(AttributeError, match="no attribute 'Sequentail'"):
        minicnn.Sequentail  # noqa: B018


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("minicnn.models", "Sequential"),
        ("minicnn.models", "load_model"),
        ("minicnn.layers", "Conv2D"),
        ("minicnn.callbacks", "EarlyStopping"),
        ("minicnn.callbacks", "History"),
        ("minicnn.optimizers", "Adam"),
        ("minicnn.constraints", "maxnorm"),
        ("minicnn.constraints", "max_norm"),
        ("minicnn.regularizers", "L2"),
        ("minicnn.utils", "to_categorical"),
        ("minicnn.utils", "image_dataset_from_directory"),
        ("minicnn.utils", "load_img"),
        ("minicnn.utils", "Sequence"),
        ("minicnn.preprocessing", "image_dataset_from_directory"),
        ("minicnn.preprocessing.image", "ImageDataGenerator"),
        ("minicnn.datasets", "cifar10"),
        ("minicnn.datasets.fashion_mnist", "load_data"),
    ],
)
def test_the_imports_of_keras_scripts(module, name):
    """Each alone in a fresh interpreter would be slow; that no order of imports matters is tested below."""
    assert hasattr(__import__(module, fromlist=[name]), name)


def test_every_module_can_be_the_first_to_be_imported():
    """No circle that only works in one order."""
    modules = sorted({name for name, _, _ in imports() if "inspect" not in name})
    code = f"""
import importlib, sys
for name in {modules!r}:
    for loaded in [m for m in sys.modules if m.split(".")[0] == "minicnn"]:
        del sys.modules[loaded]
    importlib.import_module(name)
print("fine")
"""
    assert python(code) == "fine"


# ---- who may import whom ---------------------------------------------------------------------------------------------


@functools.cache
def imports() -> list[tuple[str, str, bool]]:
    """(importing module, imported module, at its top level) for every import of minicnn inside minicnn."""
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        parts = ["minicnn", *path.relative_to(ROOT).with_suffix("").parts]
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        tree = ast.parse(path.read_text(encoding="utf-8"))
        inside = {id(node) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for node in ast.walk(f)}
        for block in ast.walk(tree):  # imports for type checkers alone are no calls
            if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING":
                block.body = []
        for node in ast.walk(tree):
            top = id(node) not in inside
            if isinstance(node, ast.Import):
                found += [(name, alias.name, top) for alias in node.names if alias.name.split(".")[0] == "minicnn"]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{name}: a relative import"
                module = node.module or ""
                if module.split(".")[0] == "minicnn":
                    found += [(name, target(module, alias.name), top) for alias in node.names]
    return found


def target(module: str, name: str) -> str:
    """The module that `from module import name` loads: module.name where that is a file or folder."""
    path = ROOT.joinpath(*module.split(".")[1:], name)
    return f"{module}.{name}" if path.is_dir() or path.with_suffix(".py").exists() else module


def room(module: str) -> str:
    return module.split(".")[1]


def test_the_scan_sees_imports():
    found = imports()
    assert ("minicnn.training.step", "minicnn.objective", True) in found
    assert ("minicnn.models", "minicnn.training.loop", False) in found
    assert ("minicnn.models", "minicnn.optimizers", True) in found


def test_every_module_has_a_room():
    modules = {path.stem for path in ROOT.glob("*.py")} | {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert modules - {"__init__"} <= set(RANK)


def test_calls_go_downwards_only():
    wrong = [
        f"{importer} imports {imported}"
        for importer, imported, _ in imports()
        if importer != "minicnn" and imported != "minicnn" and RANK[room(importer)] < RANK[room(imported)]
    ]
    assert wrong == []


def test_the_rule_itself_would_catch_a_call_upwards():
    assert RANK["kernels"] < RANK["layers"] < RANK["training"] < RANK["inspect"] < RANK["models"]
    assert RANK["backend"] < RANK["kernels"] and RANK["losses"] < RANK["training"]


def test_there_are_no_circles_among_the_imports():
    """Those inside functions count, too."""
    graph: dict[str, set[str]] = {}
    for importer, imported, _ in imports():
        if imported != "minicnn":
            graph.setdefault(importer, set()).add(imported)
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join((*way, module))
        if module not in done:
            for imported in graph.get(module, ()):
                visit(imported, (*way, module))
            done.add(module)

    for module in list(graph):
        visit(module, ())
    assert len(done) > 20


def test_kernels_know_arrays_only():
    allowed = {"kernels", "backend", "errors"}
    assert {room(imported) for importer, imported, _ in imports() if importer.startswith("minicnn.kernels")} <= allowed
