"""One's own pictures and folders through the examples: nothing is lost, nothing strange is learned without a word."""

from __future__ import annotations

import ast
import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import own_digits
import pytest
from PIL import Image
from test_examples import ROOT, assert_pictures, run

import minicnn
from minicnn.errors import InputError
from minicnn.layers import Dense, Flatten, Input
from minicnn.models import load_model
from minicnn.preprocessing.folder import list_images
from minicnn.preprocessing.image import ImageInput

sys.path.insert(0, str(ROOT / "examples"))


def fill(folder, names=("cats", "dogs"), count=8, ending="png", size=(12, 10)):
    """Class folders of noisy pictures of one colour a class."""
    rng = np.random.default_rng(0)
    for k, name in enumerate(names):
        place = os.path.join(folder, os.fsdecode(name))
        os.makedirs(place, exist_ok=True)
        for i in range(count):
            pixels = rng.integers(0, 120, (*size, 3)) + np.array([[0, 60, 120], [120, 60, 0]][k % 2])
            Image.fromarray(pixels.astype(np.uint8)).save(os.path.join(place, f"{i}.{ending}"))
    return Path(folder)


def train_images(tmp_path, folder, *flags, **options):
    pytest.importorskip("sklearn", reason="the table of precision and recall needs scikit-learn")
    flags = ("--model", "simple", "--size", 8, "--epochs", 1, "--output", "out", *flags)
    return run(tmp_path, "train_images.py", folder, *flags, **options)


# ---- nothing after training can lose the model -----------------------------------------------------------------------


@pytest.mark.parametrize(("example", "flags"), [
    ("train_mnist", ["--dataset", "toy", "--limit", "60", "--epochs", "1"]),
    ("train_fashion_mnist", ["--dataset", "toy", "--limit", "60", "--epochs", "1"]),
    ("train_cifar10", ["--dataset", "toy_color", "--limit", "32", "--epochs", "1"]),
    ("transfer_cifar10", ["--quick", "--limit", "60"]),
    ("train_images", ["folder", "--model", "simple", "--size", "8", "--epochs", "1"]),
])  # fmt: skip
def test_the_model_is_saved_before_anything_is_judged_or_drawn(tmp_path, monkeypatch, example, flags):
    """A full disk, a font, a report that fails: hours of training are not lost to it."""
    if example == "train_images":
        pytest.importorskip("sklearn", reason="the table of precision and recall needs scikit-learn")
    monkeypatch.chdir(tmp_path)
    fill("folder")
    module = importlib.import_module(example)
    if example == "transfer_cifar10":
        monkeypatch.setattr(module, "EPOCHS", dict.fromkeys(module.EPOCHS, 1))
        monkeypatch.setattr(module, "picture", fails)
    else:
        monkeypatch.setattr(minicnn.Sequential, "evaluate", fails)
    for name in ("prediction_grid", "training_curves", "misclassified", "confusion_matrix"):
        if hasattr(module, name):
            monkeypatch.setattr(module, name, fails)
    data = minicnn.datasets.load("toy_color" if "cifar10" in example else "toy")
    small = tuple((x[:200], y[:200]) for x, y in data[:2])
    monkeypatch.setattr(minicnn.datasets, "load", lambda name: (*small, data[2]))
    with pytest.raises(RuntimeError, match="the disk is full"):
        module.main(module.parser.parse_args([*flags, "--output", "out"]))
    model = load_model("out/model.zip")
    assert model.class_names and model.image_input is not None


def fails(*args, **kwargs):
    raise RuntimeError("the disk is full")


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux only")
def test_class_names_that_are_no_letters(tmp_path):
    """As old zip files leave them: trained, drawn, named."""
    fill(tmp_path / "d", (b"caf\xe9", "tea $x_1$"))
    out = train_images(tmp_path, "d", PYTHONIOENCODING="utf-8:surrogateescape")
    assert "Test accuracy" in out
    assert_pictures(tmp_path / "out", "predictions.png", "confusion_matrix.png", "training_curves.png")
    run(tmp_path, "predict.py", "out/model.zip", "d/tea $x_1$/0.png", PYTHONIOENCODING="utf-8")


@pytest.mark.parametrize("encoding", ["cp1252", "cp932", "ascii"])
def test_names_that_the_output_cannot_show(tmp_path, encoding):
    pytest.importorskip("sklearn", reason="the table of precision and recall needs scikit-learn")
    fill(tmp_path / "d", ("cats \U0001f431", "żółw 日本"))
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding, "MPLBACKEND": "Agg"}
    for command in (
        ["train_images.py", "d", "--model", "simple", "--size", "8", "--epochs", "1", "--output", "aus \U0001f431"],
        ["predict.py", "aus \U0001f431/model.zip", "d/żółw 日本/0.png", "d/missing 日本.png", "--output", "p 日本"],
    ):
        command = [sys.executable, str(ROOT / "examples" / command[0]), *command[1:]]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, timeout=300)
        assert b"Traceback" not in done.stderr, done.stderr
    assert (tmp_path / "p 日本" / "0.png").exists()


@pytest.mark.parametrize("script", sorted(p.name for p in (ROOT / "examples").glob("*.py")))
def test_the_help_can_be_printed_anywhere(script):
    source = (ROOT / "examples" / script).read_text(encoding="utf-8")
    if "argparse" not in source:
        pytest.skip("no flags")
    doc = source.split('"""')[1] + " ".join(re.findall(r'help="([^"]*)"', source))
    for encoding in ("cp1252", "cp932", "ascii"):
        doc.encode(encoding)


@pytest.mark.parametrize("script", sorted(p.name for p in (ROOT / "examples").glob("*.py")))
def test_what_an_example_prints_can_be_printed_anywhere(script):
    """Its own words are ASCII; names, which may be anything, are printed after say_everything()."""
    tree = ast.parse((ROOT / "examples" / script).read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    printed = [call for call in calls if getattr(call.func, "id", "") == "print"]
    words = [part.value for call in printed for part in ast.walk(call) if isinstance(part, ast.Constant)]
    assert all(word.isascii() for word in words if isinstance(word, str))


# ---- what is strange is said before training -------------------------------------------------------------------------


@pytest.mark.parametrize(("names", "parts", "text"), [
    (("cats",), (), "nothing to tell apart"),
    (("cats", "dogs"), ("train", "test"), "parts of a data set"),
    (("cats", "dogs"), ("archive",), "the classes seem to be inside"),
])  # fmt: skip
def test_folders_that_are_no_classes_stop_it(tmp_path, names, parts, text):
    for part in parts or [""]:
        fill(tmp_path / "d" / part, names)
    assert text in train_images(tmp_path, "d", fails=True)
    assert not (tmp_path / "out").exists()


def test_a_class_without_a_readable_picture_stops_it(tmp_path):
    fill(tmp_path / "d")
    (tmp_path / "d" / "empty").mkdir()
    fill(tmp_path / "d", ("broken",))
    for path in (tmp_path / "d" / "broken").iterdir():
        path.write_text("<html>moved</html>")
    said = train_images(tmp_path, "d", fails=True)
    assert "None of the 8 images of the class 'broken' can be read" in said
    assert "There are no images in the class folder 'empty'" in said
    assert re.search(r"broken 0, cats \d, dogs \d, empty 0", said)


def test_copies_across_the_split_are_told_first(tmp_path):
    fill(tmp_path / "d")
    for name in ("cats", "dogs"):
        for i in range(8):
            shutil.copy(tmp_path / "d" / name / f"{i}.png", tmp_path / "d" / name / f"copy {i}.png")
    out = train_images(tmp_path, "d")
    assert "WARNING  train/validation overlap" in out and out.index("overlap") < out.index("Epoch 1/1")


def test_data_without_faults_say_so(tmp_path):
    fill(tmp_path / "d", count=40)
    assert "Diagnosis: nothing unusual" in train_images(tmp_path, "d")


# ---- five folders as people have them --------------------------------------------------------------------------------


def phone_photos(folder):
    """Turned by EXIF, large, one HEIC, one picture of a chat that is a .jfif, one film."""
    for k, name in enumerate(("dal", "roti")):
        (folder / name).mkdir(parents=True)
        for i in range(6):
            exif = Image.Exif()
            exif[274] = (1, 3, 6, 8)[i % 4]
            own_digits.photo(k + 2 * (i % 2), seed=i, size=(300, 400)).save(
                folder / name / f"IMG_{i}.JPG", format="JPEG", exif=exif
            )
        (folder / name / "IMG_9.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
        own_digits.photo(k, seed=9, size=(300, 400)).save(folder / name / "chat.jfif", format="JPEG")
    (folder / "dal" / "film.MOV").write_bytes(b"\0\0\0\x14ftypqt  ")
    return 14, "2 .heic", "1 .mov"


def scans(folder):
    """Grey, 16 bits, one bit, CMYK, several pages."""
    for k, name in enumerate(("forms", "letters")):
        (folder / name).mkdir(parents=True)
        page = own_digits.drawing(k + 3, size=(200, 280))
        page.convert("L").save(folder / name / "grey.tif")
        page.convert("1").save(folder / name / "fax.tif", compression="group4")
        page.convert("CMYK").save(folder / name / "print.jpg")
        Image.fromarray(np.asarray(page.convert("L")).astype(np.uint16) * 257).save(folder / name / "deep.png")
        page.save(folder / name / "pages.tif", save_all=True, append_images=[page])
        page.convert("P").save(folder / name / "palette.gif")
        (folder / name / "scan.pdf").write_bytes(b"%PDF-1.4")
    return 12, "2 .pdf", "of its 2 pictures, the first is taken"


def screenshots(folder):
    """Transparent, with names in other scripts and spaces; a web page that was saved as a picture."""
    for k, name in enumerate(("кнопки", "меню")):
        (folder / name).mkdir(parents=True)
        for i in range(6):
            own_digits.transparent(k + i % 3, seed=i).save(folder / name / f"Снимок экрана {i}.png")
        (folder / name / "download.png").write_text("<!DOCTYPE html><title>Sign in</title>")
    return 14, "an HTML page", "files cannot be read as images"


def macs_zip(folder):
    """A wrapper's inside, with what macOS adds."""
    fill(folder, ("cats", "dogs"), 6)
    for name in ("cats", "dogs"):
        (folder / "__MACOSX" / name).mkdir(parents=True)
        for i in range(6):
            (folder / "__MACOSX" / name / f"._{i}.png").write_bytes(b"\0\5\x16\7" + bytes(80))
            (folder / name / f"._{i}.png").write_bytes(b"\0\5\x16\7" + bytes(80))
        (folder / name / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    return 12, "of 2 classes: cats, dogs", "Read 9 images"


def mixed_endings(folder):
    """Every ending; some lie about what they hold; notes among them; a link that leads nowhere; an animation."""
    for k, name in enumerate(("left", "right")):
        (folder / name).mkdir(parents=True)
        for i, (ending, kind) in enumerate((("jpe", "JPEG"), ("pgm", "PPM"), ("pnm", "PPM"), ("webp", "WEBP"),
                                            ("jpg", "PNG"), ("png", "JPEG"), ("bmp", "BMP"))):  # fmt: skip
            picture = own_digits.drawing(k + i, seed=i, size=(60, 60))
            (picture.convert("L") if ending == "pgm" else picture).save(folder / name / f"{i}.{ending}", format=kind)
        frames = [Image.new("RGB", (9, 9), colour) for colour in ("red", "blue")]
        frames[0].save(folder / name / "dance.gif", save_all=True, append_images=frames[1:])
        (folder / name / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
        (folder / name / "notes.txt").write_text("left and right")
        (folder / name / "empty.jpg").write_bytes(b"")
    return 18, "2 .db, 2 .txt", "an empty file"


@pytest.mark.parametrize("kind", [phone_photos, scans, screenshots, macs_zip, mixed_endings])
def test_a_folder_as_people_have_it(tmp_path, kind):
    """What is found is counted, what is not read is named, and the rest is learned and then named."""
    pytest.importorskip("sklearn", reason="the table of precision and recall needs scikit-learn")
    count, *texts = kind(tmp_path / "data")
    command = [sys.executable, str(ROOT / "examples" / "train_images.py"), "data", "--model", "simple", "--size", "12"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run([*command, "--epochs", "1", "--output", "out"], cwd=tmp_path, env=env, capture_output=True,
                          encoding="utf-8", timeout=300)  # fmt: skip
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert f"Found {count} images of 2 classes" in said
    for text in texts:
        assert text in said, said
    model = load_model(tmp_path / "out" / "model.zip")
    assert len(model.class_names) == 2
    pictures = list_images(str(tmp_path / "data" / model.class_names[0]))
    assert np.isfinite(model.image_input.load(pictures[0 if "download" not in pictures[0] else 1])).all()


# ---- predict.py ------------------------------------------------------------------------------------------------------


@pytest.fixture
def digit_model(tmp_path):
    """A model that has seen light things on black, of drawn digits, and is right about them."""
    rng = np.random.default_rng(0)
    x, y = [], np.tile(np.arange(10), 12)
    for digit in y:
        pen, slant = rng.uniform(0.1, 0.16), rng.uniform(0, 0.2)
        drawn = 255 * own_digits.ink(int(digit), (56, 56), pen, rng, box=0.71, slant=slant)
        x.append(np.asarray(Image.fromarray(drawn.astype(np.uint8)).resize((28, 28), Image.Resampling.BOX)))
    x = np.stack(x)
    minicnn.utils.set_random_seed(0)
    model = minicnn.Sequential([Input((784,)), Dense(64, activation="relu"), Dense(10, activation="softmax")])
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(x.reshape(-1, 784) / np.float32(255), y, epochs=40, verbose=0)
    model.class_names = [str(k) for k in range(10)]
    model.image_input = ImageInput(28, 28, "grayscale").learn(x, aspect=1.0)
    model.save(tmp_path / "model.zip")
    return tmp_path / "model.zip"


def test_predict_says_that_a_picture_looks_different_and_prepares_it(tmp_path, digit_model):
    own_digits.drawing(3, 1, pen=0.13).save(tmp_path / "three.png")
    own_digits.transparent(7, 4, pen=0.12).save(tmp_path / "canvas.png")
    own_digits.photo(2, 5, pen=0.1, shadow=0.5).save(tmp_path / "photo.jpg")
    files = ("three.png", "canvas.png", "photo.jpg")
    out = run(tmp_path, "predict.py", digit_model, *files)
    assert out.count("careful: darker things on a background") == 3 and out.count(": --invert") == 3
    assert out.count("do not trust this answer; --prepare") == 3
    assert "--contrast" in out.split("photo.jpg")[1]
    out = run(tmp_path, "predict.py", digit_model, *files, "--prepare", "--top", 1, "--output", "p")
    assert re.findall(r"^    (\d): [\d.]+ %$", out, re.MULTILINE) == ["3", "7", "2"]
    assert "careful" not in out and out.count("done: ") >= 6
    assert_pictures(tmp_path / "p", "three.png", "canvas.png", "photo.png")
    by_hand = ("--invert", "--center", "--keep-aspect-ratio", "--top", 1)
    out = run(tmp_path, "predict.py", digit_model, "three.png", *by_hand)
    assert "careful" not in out and re.search(r"^    3: ", out, re.MULTILINE)


def test_predict_says_the_size_that_the_model_has(tmp_path):
    model = minicnn.Sequential([Input((28, 28, 1)), Flatten(), Dense(2, activation="softmax")])
    model.class_names = ["a", "b"]
    model.save(tmp_path / "m.zip")
    said = run(tmp_path, "predict.py", "m.zip", "x.png", fails=True)
    assert "ImageInput(28, 28, 'grayscale')" in said


def test_predict_needs_to_know_the_look_to_center(tmp_path):
    model = minicnn.Sequential([Input((8, 8, 3)), Flatten(), Dense(2, activation="softmax")])
    model.class_names, model.image_input = ["a", "b"], ImageInput(8, 8)
    model.save(tmp_path / "m.zip")
    assert "what the training images look like" in run(tmp_path, "predict.py", "m.zip", "x.png", "--center", fails=True)


@pytest.mark.parametrize(("flags", "size"), [
    (["--dataset", "toy"], (28, 28, 1)), (["--dataset", "toy_color", "--model", "cnn"], (32, 32, 3)),
    (["--dataset", "toy", "--no-normalize"], (28, 28, 1)),
])  # fmt: skip
def test_the_first_lesson_leaves_a_model_that_predict_takes(tmp_path, monkeypatch, flags, size):
    import predict
    import train_fashion_mnist

    monkeypatch.chdir(tmp_path)
    for name in ("prediction_grid", "training_curves", "image_grid", "show_image"):
        monkeypatch.setattr(train_fashion_mnist, name, lambda *args, **kwargs: None)
    train_fashion_mnist.main(train_fashion_mnist.parser.parse_args([*flags, "--limit", "100", "--epochs", "1"]))
    model = load_model("output/fashion_mnist/model.zip")
    assert model.image_input.shape == size
    x = minicnn.datasets.load("toy" if size[2] == 1 else "toy_color")[1][0][0]
    Image.fromarray(x).save("one.png")
    scale = 1 if "--no-normalize" in flags else 255
    np.testing.assert_allclose(model.image_input.load("one.png"), x.reshape(size) / scale, rtol=1e-6)
    assert predict.main(predict.parser.parse_args(["output/fashion_mnist/model.zip", "one.png"])) == 0


# ---- augmentation.py -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(4000, 1), (50, 50)])
def test_a_picture_on_which_there_is_nothing_to_see(tmp_path, size):
    Image.new("RGB", size, "teal").save(tmp_path / "x.png")
    assert "there is little to see" in run(tmp_path, "augmentation.py", "--data", "x.png", fails=True)


def test_the_examples_do_not_import_the_benchmarks():
    for path in (ROOT / "examples").glob("*.py"):
        text = path.read_text(encoding="utf-8").replace("The benchmarks use it", "")
        assert "benchmarks" not in text.replace('"benchmarks" / "results"', ""), path.name  # records may be read


def test_a_journal_refuses_other_settings():
    from journal import Journal

    with pytest.raises(InputError, match="other settings"):
        Journal({"a": 1}).load_state_dict({"settings": {"a": 2}})
