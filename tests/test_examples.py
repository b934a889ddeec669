"""The examples, run as a reader runs them: a process of their own, in an empty folder, without a network."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import strict_cupy
from PIL import Image

from minicnn.datasets import fashion_mnist, toy
from minicnn.errors import InputError
from minicnn.models import load_model

ROOT = Path(__file__).resolve().parents[1]


def run(folder, script, *flags, fails=False, traceback=False, **env):
    """What the script says: its output, or, where it shall fail, its errors, without a traceback."""
    command = [sys.executable, str(ROOT / "examples" / script), *map(str, flags)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", **env}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, encoding="utf-8", timeout=300)
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    if fails:
        assert ("Traceback" in done.stderr) == traceback
    return done.stderr if fails else done.stdout


def assert_pictures(folder, *names):
    for name in names:
        image = np.asarray(Image.open(folder / name).convert("L"), dtype=float)
        assert image.std() > 10, f"{name} is blank"


def test_augmentation(tmp_path):
    out = run(tmp_path, "augmentation.py", "--side", 4)
    folder, names = tmp_path / "output" / "augmentation", ("changes", "fill_modes", "standardised", "whitened")
    assert_pictures(folder, *(f"{name}.png" for name in names))
    assert out.count("Written: ") == 4


@pytest.mark.parametrize("flags", [("--data", "missing.jpg"), ("--side", 1), ("--data", ".")])
def test_augmentation_of_what_is_not_there(tmp_path, flags):
    assert "error: " in run(tmp_path, "augmentation.py", *flags, fails=True)


def test_celsius(tmp_path):
    out = run(tmp_path, "celsius.py")
    fahrenheit = float(re.search(r"100 C are ([\d.]+) F", out)[1])
    w, b = map(float, re.search(r"F = ([\d.]+) C \+ ([\d.]+)", out).groups())
    assert abs(fahrenheit - 212) < 2
    assert abs(w - 1.8) < 0.05
    assert abs(b - 32) < 5


def test_segment(tmp_path):
    out = run(tmp_path, "segment.py", "--images", 160, "--epochs", 4)
    folder = tmp_path / "output" / "segment"
    assert_pictures(folder, "masks.png")
    model = load_model(folder / "model.zip")
    assert model.output_shape == (None, 32, 32, 4) and model.class_names == ["background", "disc", "square", "triangle"]
    right, empty = map(float, re.search(r"pixels ([\d.]+)% are right.* right in ([\d.]+)%", out).groups())
    assert 50 < empty < 80 and right > 45, "it is 96.4 with all images and epochs"


@pytest.mark.skipif(importlib.util.find_spec("cupy") is not None, reason="CuPy is installed")
@pytest.mark.parametrize("script", ["celsius.py", "quickstart.py", "gallery.py"])
def test_a_gpu_that_is_not_there_is_said_in_three_parts(tmp_path, script):
    said = run(tmp_path, script, "--device", "gpu", fails=True)
    assert "CuPy is not installed" in said and "pip install" in said


def test_by_hand(tmp_path):
    """A showpiece: short, without a class, learns, and computes the gradients of the framework."""
    source = (ROOT / "examples" / "by_hand.py").read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 110
    assert not any(isinstance(node, ast.ClassDef) for node in ast.walk(ast.parse(source)))
    out = run(tmp_path, "by_hand.py", OPENBLAS_NUM_THREADS="1")  # where other work is done beside it, more wait
    accuracies = re.findall(r"test accuracy ([\d.]+)%", out)
    assert len(accuracies) == 3 and float(accuracies[-1]) > 90  # it is 93.5
    assert float(re.search(r"largest difference of a gradient: (\S+)", out)[1]) < 1e-5


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("] += cols", "] = cols"),  # a pixel's gradient from one window alone
        (" / len(x)  #", "  #"),  # the mean forgotten
        ("dy * (y > 0)", "dy * 1"),  # ReLU forgotten
        ("four.argmax(", "four.argmin("),  # the gradient goes to a loser
        ("(probabilities - ", "(1 - "),  # the derivative of another loss
    ],
)
def test_by_hand_notices_the_famous_mistakes(tmp_path, right, wrong):
    source = (ROOT / "examples" / "by_hand.py").read_text(encoding="utf-8")
    source = source.replace("range(3) for b in", "range(0) for b in")  # untrained: the gradients alone
    assert source.count(right) == 1
    for text, fails in ((source, False), (source.replace(right, wrong), True)):
        (tmp_path / "by_hand.py").write_text(text, encoding="utf-8")
        assert ("AssertionError" in run(tmp_path, tmp_path / "by_hand.py", fails=fails, traceback=fails)) == fails


def test_quickstart(tmp_path):
    out = run(tmp_path, "quickstart.py")
    folder = tmp_path / "output" / "quickstart"
    assert_pictures(folder, "training_curves.png", "predictions.png")
    for name in ("training_curves.png", "predictions.png", "model.zip", "step.html"):
        assert f"Written: {Path('output/quickstart') / name}" in out
    picture = Path(ROOT, "examples", "pictures", "predictions.png")
    assert " %" in run(tmp_path, "predict.py", folder / "model.zip", picture, "--prepare")
    *_, after = out.partition("\nNext:\n")
    assert str(Path("output/quickstart/step.html")) in after and "LEARN.md" in after
    for path in re.findall(r"examples/[\w.]+", after):
        assert (ROOT / path).exists()
    assert "[notebook]" in after and len(after.splitlines()) <= 8
    assert float(re.search(r"it recognises ([\d.]+)%", out)[1]) >= 92  # it is 96
    rows = re.findall(r"^ +\d+ +(.+?) +#+ +\d+% +(.+?)(?: +<-- wrong)?$", out, re.MULTILINE)
    assert len(rows) >= 10
    assert {name for row in rows for name in row} <= set(fashion_mnist.CLASS_NAMES)
    model = load_model(folder / "model.zip")
    assert model.class_names == list(fashion_mnist.CLASS_NAMES)
    # The page shows a step that makes sense: of a wrong picture, in training, and better afterwards.
    _, (x, y) = toy.load_data()
    x = x[..., None] / np.float32(255)
    wrong = next(i for i in range(9, len(x)) if model.predict(x[i : i + 1], verbose=0).argmax() != y[i])
    t = model.trace(x[[wrong, *range(7)]], y[[wrong, *range(7)]])
    assert t.training and t.loss_after < 0.9 * t.loss and t.y_pred[0].argmax() != y[wrong]
    assert (folder / "step.html").stat().st_size > 100_000


LESSON = ("image.png", "images.png", "training_curves.png", "predictions.png")


def accuracy_of(out):
    accuracy, loss = re.fullmatch(r"Test accuracy: (\d\.\d{4}) \(loss (\d+\.\d{4})\)", out.splitlines()[-1]).groups()
    assert float(loss) > 0
    return float(accuracy)


@pytest.mark.parametrize("flags", [("--model", "dense"), ("--model", "cnn", "--batch-size", 16)])
def test_fashion_mnist_lesson(tmp_path, flags):
    out = run(tmp_path, "train_fashion_mnist.py", *flags, "--dataset", "toy", "--limit", 600, "--epochs", 1)
    folder = tmp_path / "output" / "fashion_mnist"
    assert_pictures(folder, *LESSON)
    assert "predict: (32, 28, 28, 1) -> (32, 10)" in out
    assert re.search(r"One image: \(1, 10\) -> .+ \d+%, in truth (.+)", out)[1] in fashion_mnist.CLASS_NAMES
    assert accuracy_of(out) > 0.2  # guessing: 0.1
    model = load_model(folder / "model.zip")
    assert model.class_names == list(fashion_mnist.CLASS_NAMES)


def test_fashion_mnist_lesson_with_every_flag(tmp_path):
    names = "Футболка,Брюки,Свитер,Платье,Пальто,Сандалии,Рубашка,Кроссовки,Сумка,Ботинки"
    out = run(
        tmp_path, "train_fashion_mnist.py", "--model", "dense", "--dataset", "toy_color", "--limit", 300, "--epochs", 2,
        "--batch-size", 50, "--hidden", 20, "--layers", 2, "--no-normalize", "--threads", 1, "--device", "auto",
        "--seed", 3, "--class-names", names, "--output", "out/mine",
    )  # fmt: skip
    assert "Epoch 2/2" in out
    assert "300 images" in out
    assert re.search(r"in truth (.+)", out)[1] in names.split(",")
    assert 0 <= accuracy_of(out) <= 1
    assert_pictures(tmp_path / "out" / "mine", *LESSON)
    model = load_model(tmp_path / "out" / "mine" / "model.zip")
    assert model.class_names == names.split(",")
    assert model.shapes == [(32, 32, 3), (3072,), (20,), (20,), (10,)]


def test_names_that_the_terminal_cannot_show_cost_nothing(tmp_path):
    flags = ("--dataset", "toy", "--limit", 100, "--epochs", 1, "--class-names", ",".join("АБВГДЕЖЗИК"))
    out = run(tmp_path, "train_fashion_mnist.py", *flags, PYTHONIOENCODING="ascii")
    assert "in truth ?" in out
    assert load_model(tmp_path / "output" / "fashion_mnist" / "model.zip").class_names == list("АБВГДЕЖЗИК")


def test_the_same_seed_gives_the_same_numbers(tmp_path):
    flags = ("--dataset", "toy", "--limit", 300, "--epochs", 1, "--seed")
    first, again, other = (run(tmp_path, "train_fashion_mnist.py", *flags, seed).splitlines()[-1] for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_a_run_that_ended_early_goes_on(tmp_path):
    flags = ("--dataset", "toy", "--limit", 300, "--output")
    whole = run(tmp_path, "train_fashion_mnist.py", *flags, "whole", "--epochs", 2)
    run(tmp_path, "train_fashion_mnist.py", *flags, "parts", "--epochs", 1)
    parts = run(tmp_path, "train_fashion_mnist.py", *flags, "parts", "--epochs", 2, "--resume")
    assert "resuming at epoch 2" in parts and "Epoch 1/2" not in parts
    assert parts.splitlines()[-1] == whole.splitlines()[-1]
    anew = run(tmp_path, "train_fashion_mnist.py", *flags, "parts", "--epochs", 1)
    assert "Epoch 1/1" in anew


@pytest.mark.parametrize(
    ("flags", "hint"),
    [
        (["--dataset", "toi"], "did you mean 'toy'?"),
        (["--model", "resnet"], "invalid choice"),
        (["--epochs", "many"], "invalid int value"),
        (["--epochs", "-1"], "epochs"),
        (["--batch-size", "-1"], "batch_size"),
        (["--limit", "0"], "at least 1 image"),
        (["--hidden", "0"], "units"),
        (["--threads", "0"], "threads"),
        (["--seed", "-1"], "seed"),
        (["--class-names", "a,b"], "10 classes, but these are 2 names"),
        (["--device", "tpu"], "invalid choice"),
        (["--colour"], "unrecognized arguments"),
    ],
)
def test_bad_flags_are_told_readably(tmp_path, flags, hint):
    dataset = [] if "--dataset" in flags else ["--dataset", "toy"]
    assert hint in run(tmp_path, "train_fashion_mnist.py", *dataset, *flags, fails=True)


@pytest.mark.parametrize("script", ["train_cifar10", "cifar10_fast", "transfer_cifar10"])
def test_grey_images_for_a_network_of_photos_are_refused_by_name(tmp_path, script):
    """README.md, and the error without a network, said --dataset toy; of which the fast network made a raw error."""
    assert "'toy_color'" in run(tmp_path, f"{script}.py", "--dataset", "toy", fails=True)


@pytest.mark.parametrize(
    ("script", "file", "instead"),
    [("train_fashion_mnist", "train-images-idx3-ubyte.gz", "toy"), ("train_cifar10", "cifar-10-binary", "toy_color")],
)
def test_missing_data_names_the_way_out(tmp_path, script, file, instead):
    """No mirror can be reached through this proxy, and the cache is empty."""
    home = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "LOCALAPPDATA", "USERPROFILE"), str(tmp_path))
    proxy = dict.fromkeys(("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"), "http://127.0.0.1:9")
    proxy |= {"no_proxy": "", "NO_PROXY": ""}
    error = run(tmp_path, f"{script}.py", fails=True, MINICNN_DATA="", **home, **proxy)
    assert file in error and f"`--dataset {instead}`" in error


def test_dense_net_on_real_photos(tmp_path, data_dir):
    out = run(tmp_path, "train_fashion_mnist.py", "--limit", 6000, "--epochs", 2, MINICNN_DATA=str(data_dir))
    assert accuracy_of(out) > 0.74  # it is about 0.8
    assert_pictures(tmp_path / "output" / "fashion_mnist", *LESSON)


def test_cpu_vs_gpu_without_a_gpu(tmp_path):
    """One thread against two: apart from rounding the same, and the picture."""
    out = run(tmp_path, "cpu_vs_gpu.py", "--device", "cpu", "--steps", 6, "--batch-size", 24)
    rows = re.findall(r"^ +(\d+) +([\d.]+) +([\d.]+) +([\d.e+-]+)$", out, re.MULTILINE)
    assert [int(step) for step, *_ in rows] == [1, 2, 5, 6]
    for _, one, two, apart in rows:
        assert abs(float(one) - float(two)) < 1e-3 * float(one) and 0 < float(apart) < 0.01
    assert "float32 rounds after every addition" in out
    assert_pictures(tmp_path / "output" / "cpu_vs_gpu", "divergence.png")


LAYERS = ["conv1", "norm1", "pool1", "conv2", "norm2", "pool2", "dropout", "flatten", "dense"]


@pytest.fixture
def cpu_vs_gpu(tmp_path, monkeypatch, capsys):
    """What cpu_vs_gpu.py prints, given more flags. It finds its standing record in this test's folder."""
    monkeypatch.syspath_prepend(ROOT / "examples")
    example = importlib.import_module("cpu_vs_gpu")
    monkeypatch.setattr(example, "RECORD", tmp_path / "standing.json")

    def printed(*flags):
        flags = [*flags, "--steps", "2", "--batch-size", "2", "--output", tmp_path]
        example.main(example.parser.parse_args([str(flag) for flag in flags]))
        return capsys.readouterr().out

    return printed


def a_record(**changes):
    layers = [{"layer": name, "cpu_ms": 2.0, "gpu_ms": 0.5} for name in LAYERS]
    hardware = {"gpu": "a made-up GPU"}
    return {"date": "2020-02-29", "batch": 3, "shape": [28, 28, 1], "layers": layers, "hardware": hardware, **changes}


@pytest.mark.parametrize("named", [True, False])
def test_without_a_gpu_the_recorded_times_of_one_stand_beside_this_cpus(tmp_path, cpu_vs_gpu, named):
    path = tmp_path / ("mine.json" if named else "standing.json")
    path.write_text(json.dumps(a_record()), encoding="utf-8")
    out = cpu_vs_gpu("--device", "cpu", *(["--record", path] if named else []))
    rows = re.findall(r"^(\w+) +([\d.]+) ms +([\d.]+) ms +[\d.]+x$", out, re.MULTILINE)
    assert [name for name, *_ in rows] == [*LAYERS, "together"] and "one batch of 3" in out
    assert [gpu for *_, gpu in rows] == ["0.50"] * 9 + ["4.50"]
    assert "GPU: recorded on 2020-02-29 on another machine, a made-up GPU. CPU: this one, now." in out


def test_without_a_record_it_says_so(tmp_path, cpu_vs_gpu):
    out = cpu_vs_gpu("--device", "cpu")
    assert "No GPU's times are recorded yet." in out and "speed-up" not in out
    (tmp_path / "standing.json").write_text(json.dumps(a_record(shape=[32, 32, 3])), encoding="utf-8")
    out = cpu_vs_gpu("--device", "cpu")
    assert "of other images (32 x 32 x 3): not shown" in out and "speed-up" not in out


@pytest.mark.parametrize("text", [None, "{", "[]", json.dumps(a_record(layers=[{"layer": "conv1"}]))])
def test_a_record_that_cannot_be_read(tmp_path, cpu_vs_gpu, text):
    path = tmp_path / "mine.json"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="no times of a GPU can be read") as error:
        cpu_vs_gpu("--device", "cpu", "--record", path)
    assert "mine.json" in str(error.value)


def test_cpu_vs_gpu_says_what_is_missing(tmp_path):
    (tmp_path / "cupy.py").write_text("raise ImportError('libnvrtc is not here')")
    message = run(tmp_path, "cpu_vs_gpu.py", "--device", "gpu", fails=True, PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
    assert "CuPy cannot be imported" in message and "libnvrtc is not here" in message


def test_cpu_vs_gpu_on_the_stand_in(tmp_path, monkeypatch, cpu_vs_gpu):
    """What it does where there is a GPU: both devices, the table of the layers, and a record that can be shown."""
    strict_cupy.install(monkeypatch)
    out = cpu_vs_gpu("--device", "gpu", "--record", tmp_path / "standing.json")
    table = re.findall(r"^(\w+) +[\d.]+ ms +[\d.]+ ms +[\d.]+x$", out, re.MULTILINE)
    assert table[:2] == ["conv1", "norm1"] and table[-1] == "together" and len(table) == 10
    assert "loss, CPU" in out and "loss, GPU" in out
    assert_pictures(tmp_path, "divergence.png")
    hardware = json.loads((tmp_path / "standing.json").read_text(encoding="utf-8"))["hardware"]
    assert hardware["gpu"] == "a stand-in" and hardware["cuda"] == "13.0" and {"driver", "cupy"} <= set(hardware)
    assert "on another machine, a stand-in." in cpu_vs_gpu("--device", "cpu")
