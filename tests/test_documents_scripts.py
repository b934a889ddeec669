"""Keras scripts like those of the tutorials, in tests/documents/, run here when only their imports change.

Each is a Keras 3 script of our own writing that makes the calls of its document. `keras` in its imports becomes
`minicnn`; the data sets are small ones drawn by code. Where Keras is installed, the scripts run as they stand as well.
"""

from __future__ import annotations

import functools
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import minicnn
from minicnn.datasets import toy

SCRIPTS = Path(__file__).parent / "documents"
SETS = ("mnist", "fashion_mnist", "cifar10")


def swapped(script: str) -> str:
    """The script with `keras` replaced in its imports, and nowhere else."""
    script = re.sub(r"^import keras$", "import minicnn as keras", script, flags=re.MULTILINE)
    return re.sub(r"^from (tensorflow\.)?keras\b", "from minicnn", script, flags=re.MULTILINE)


@functools.cache
def small_sets() -> dict[str, Any]:
    """300 training and 100 test images for each data set, as load_data returns them."""
    grey, colour = toy.load_data(), toy.load_data(color=True)
    return {
        name: tuple((x[:count], y[:count]) for (x, y), count in zip(data, (300, 100), strict=True))
        for name, data in (("mnist", grey), ("fashion_mnist", grey), ("cifar10", colour))
    }


@pytest.fixture
def play(tmp_path, monkeypatch):
    """Runs a script of tests/documents with minicnn, in an empty folder; returns what it defined."""
    data = small_sets()
    for name in SETS:
        monkeypatch.setattr(getattr(minicnn.datasets, name), "load_data", lambda name=name: data[name])
    monkeypatch.chdir(tmp_path)

    def run(name: str, *argv: Any) -> dict[str, Any]:
        path = tmp_path / f"swapped_{name}"
        path.write_text(swapped((SCRIPTS / name).read_text(encoding="utf-8")), encoding="utf-8")
        monkeypatch.setattr(sys, "argv", [name, *map(str, argv)])
        return runpy.run_path(str(path))

    return run


@pytest.fixture(scope="module")
def animals(tmp_path_factory) -> Path:
    """A folder with a folder of 24 pictures for each of three classes: stripes down, stripes across, and blots."""
    root, rng = tmp_path_factory.mktemp("animals"), np.random.default_rng(0)
    for name in ("cats", "dogs", "panda"):
        (root / name).mkdir()
        for i in range(24):
            image = rng.integers(0, 60, (40, 50, 3))
            if name == "cats":
                image[:, ::5] += 180
            elif name == "dogs":
                image[::5] += 180
            else:
                image[8:28, 10:30] += 180
            Image.fromarray(image.astype(np.uint8)).save(root / name / f"{name}_{i:05}.png")
    return root


def test_only_imports_are_swapped():
    script = "import keras\nfrom keras.layers import Dense\nfrom tensorflow.keras import utils\nkeras.Sequential()\n"
    assert swapped(script).splitlines() == [
        "import minicnn as keras", "from minicnn.layers import Dense", "from minicnn import utils", "keras.Sequential()"
    ]  # fmt: skip
    for path in SCRIPTS.glob("*.py"):
        assert not re.search(r"^(import|from) .*keras", swapped(path.read_text()).replace("as keras", ""), re.MULTILINE)
        assert "minicnn" not in path.read_text()


def test_every_script_is_run_by_a_test():
    here = Path(__file__).read_text(encoding="utf-8")
    for path in SCRIPTS.glob("*.py"):
        assert f'play("{path.name}"' in here, path.name


def test_celsius(play):
    found = play("celsius.py")
    assert abs(found["answer"] - 212) < 3
    assert found["losses"][-1] < 20 < found["losses"][0]
    assert found["weight"].shape == (1, 1)


def test_fashion_mnist(play):
    found = play("fashion_mnist.py")
    assert found["predictions"].shape == (32, 10)
    assert found["single"].shape == (1, 10)
    np.testing.assert_allclose(found["predictions"].sum(axis=1), 1, rtol=1e-5)
    assert found["accuracy"] > 0.5


def test_cifar10(play, tmp_path):
    found = play("cifar10.py")
    assert found["parameters"] == 2264458
    assert found["history"].epoch == [0, 1]
    assert set(found["history"].history) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert found["history"].history["loss"][1] < found["history"].history["loss"][0]
    assert found["difference"] == 0
    norms = np.linalg.norm(found["model"].get_layer("dense_1").get_weights()[0], axis=0)
    assert norms.max() <= 3 + 1e-5


@pytest.mark.parametrize(("kind", "epochs", "floor"), [("simple", 12, 0.6), ("smallvgg", 2, 0)])
def test_animals(play, animals, kind, epochs, floor, capsys):
    pytest.importorskip("sklearn", reason="the report needs scikit-learn")
    found = play("animals_train.py", animals, kind, epochs)
    assert found["accuracy"] >= floor
    assert all(len(values) == epochs and np.isfinite(values).all() for values in found["curves"].values())
    assert "precision" in capsys.readouterr().out
    size, flatten = (32, 1) if kind == "simple" else (64, 0)
    told = play("animals_predict.py", animals / "cats" / "cats_00003.png", size, size, flatten)
    assert re.fullmatch(r"(cats|dogs|panda): \d+\.\d\d%", told["text"])
    assert abs(told["total"] - 1) < 1e-5
    if floor:
        assert told["text"].startswith("cats")


def test_mnist(play):
    found = play("mnist.py")
    stopping, values = found["early_stopping"], found["history"].history["val_accuracy"]
    assert len(values) == 25 or stopping.stopped_epoch == len(values) - 1 >= 2
    assert stopping.best == max(values) > 0.3
    assert found["score"][1] > 0.3


def test_augmentation(play, tmp_path):
    found = play("augmentation.py")
    for name, batch in found["pictures"].items():
        assert batch.shape == (9, 32, 32, 3)
        assert np.abs(batch - found["x_train"][:9]).max() > 0.05, f"{name}: nothing happened"
        assert len(list((tmp_path / "augmented").glob(f"{name}*.png"))) == 9
    assert abs(found["mean"]) < 1e-4
    assert abs(found["std"] - 1) < 1e-3
    assert found["finite"]
    assert found["history"].history["loss"][-1] < found["history"].history["loss"][0]


def test_transfer(play):
    found = play("transfer.py")
    assert found["parameters"] == 14714688
    for a, b in zip(found["before"], found["after"], strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.isfinite(found["history"].history["loss"]).all()


# ---- the same scripts, as they stand, with Keras ---------------------------------------------------------------------

DRIVER = """
import sys, warnings, runpy
import numpy as np, keras
warnings.simplefilter("ignore")
sets = np.load(sys.argv[1])
for name in ("mnist", "fashion_mnist", "cifar10"):
    data = tuple((sets[f"{name}_x{k}"], sets[f"{name}_y{k}"]) for k in (0, 1))
    getattr(keras.datasets, name).load_data = lambda data=data: data
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0])
"""


@pytest.mark.parametrize("script", sorted(path.name for path in SCRIPTS.glob("*.py")))
def test_the_scripts_are_true_keras_scripts(script, animals, tmp_path):
    pytest.importorskip("keras", reason="needs Keras with TensorFlow")
    arrays = {f"{name}_{kind}{k}": array for name, data in small_sets().items() for k, pair in enumerate(data)
              for kind, array in zip("xy", pair, strict=True)}  # fmt: skip
    np.savez(tmp_path / "sets.npz", **arrays)

    def run(name: str, *argv: Any) -> None:
        command = [sys.executable, "-c", DRIVER, tmp_path / "sets.npz", SCRIPTS / name, *argv]
        env = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run([str(part) for part in command], cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]

    if script.startswith("animals"):
        pytest.importorskip("sklearn", reason="the report needs scikit-learn")
        for kind, size, flatten in (("simple", 32, 1), ("smallvgg", 64, 0)):
            run("animals_train.py", animals, kind, 1)
            assert json.loads((tmp_path / "names.json").read_text()) == ["cats", "dogs", "panda"]
            run("animals_predict.py", animals / "cats" / "cats_00003.png", size, size, flatten)
    else:
        run(script)
