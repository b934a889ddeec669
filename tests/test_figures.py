"""Figures: what is drawn, what is written, and what bad input is told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from minicnn.errors import InputError
from minicnn.inspect import image_grid, prediction_grid, show_image, training_curves
from minicnn.inspect.figures import FAINT, RIGHT, WRONG

ROOT = Path(__file__).resolve().parents[1]
NAMES = ["T-shirt/top", "Trouser", "Bag"]
CURVES = {
    "loss": [0.9, 0.5, 0.3, 0.2],
    "accuracy": [0.5, 0.7, 0.85, 0.95],
    "val_loss": [0.8, 0.6, 0.55, 0.7],
    "val_accuracy": [0.6, 0.71, 0.82, 0.8],
}


def some_images(n=4, shape=(8, 8), dtype=np.uint8):
    x = np.random.default_rng(0).integers(0, 256, (n, *shape)).astype(np.uint8)
    return x if dtype == np.uint8 else (x / 255).astype(dtype)


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB"))


def texts(figure):
    from matplotlib.text import Text

    return [text.get_text() for text in figure.findobj(Text)]


# ---- images ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(8, 8), (8, 6, 1), (8, 8, 3)])
def test_show_image_of_every_kind(tmp_path, shape, dtype):
    image = some_images(1, shape, dtype)[0]
    figure = show_image(image, save=tmp_path / "image.png")
    assert pixels(tmp_path / "image.png").std() > 10
    assert len(figure.axes) == (1 if shape[-1] == 3 else 2)  # the second is the colour bar; colours have none
    drawn = figure.axes[0].images[0]
    np.testing.assert_allclose(drawn.get_array(), image.reshape(shape[:2] if shape[-1] != 3 else shape))
    if shape[-1] != 3:
        assert drawn.get_clim() == (0, 255 if dtype == np.uint8 else 1)


def test_show_image_into_given_axes():
    from matplotlib.figure import Figure

    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert show_image(some_images(1)[0], ax=right) is figure
    assert right.images
    assert not left.images


def test_image_grid_shows_the_first_ones_with_their_names(tmp_path):
    images, labels = some_images(30), np.arange(30) % 3
    figure = image_grid(images, labels, NAMES, rows=2, columns=3, save=tmp_path / "grid.png")
    assert [ax.get_xlabel() for ax in figure.axes] == NAMES * 2
    for i, ax in enumerate(figure.axes):
        np.testing.assert_array_equal(ax.images[0].get_array(), images[i])
    assert pixels(tmp_path / "grid.png").std() > 10


def test_image_grid_of_fewer_images_than_places():
    assert len(image_grid(some_images(4), [0, 1, 2, 0], NAMES).axes) == 4


def test_names_are_text_and_not_mathematics():
    figure = image_grid(some_images(2), [0, 1], ["a $ and $", "Кроссовки"], 1, 2)
    figure.canvas.draw()
    assert [ax.xaxis.label.get_parse_math() for ax in figure.axes] == [False, False]


# ---- predictions -----------------------------------------------------------------------------------------------------


def right_and_wrong(save=None):
    p = np.array([[0.97, 0.02, 0.01], [0.1, 0.3, 0.6]], np.float32)
    return prediction_grid(some_images(2), p, [0, 1], NAMES, save=save)


def test_prediction_grid_tells_right_from_wrong_in_colour_and_in_form(tmp_path):
    figure = right_and_wrong(tmp_path / "p.png")
    right, _, wrong, _ = figure.axes
    assert right.get_title(loc="left") == "✓ T-shirt/top 97 % (T-shirt/top)"
    assert wrong.get_title(loc="left") == "✗ Bag 60 % (Trouser)"
    titles = right._left_title, wrong._left_title
    assert [to_hex(title.get_color()) for title in titles] == [RIGHT, WRONG]
    assert [title.get_fontweight() for title in titles] == ["normal", "bold"]
    assert wrong.spines["top"].get_linewidth() > right.spines["top"].get_linewidth()
    assert pixels(tmp_path / "p.png").std() > 10


def test_prediction_grid_draws_every_probability():
    bars = right_and_wrong().axes[3]
    np.testing.assert_allclose([bar.get_width() for bar in bars.patches], [0.1, 0.3, 0.6], rtol=1e-6)
    assert [tick.get_text() for tick in bars.get_yticklabels()] == NAMES
    assert to_hex(bars.patches[2].get_facecolor()) == WRONG
    assert to_hex(bars.patches[1].get_edgecolor()) == RIGHT  # the true class


def test_prediction_grid_of_many_classes_draws_the_likeliest_and_the_true_one():
    rng = np.random.default_rng(1)
    p = rng.dirichlet(np.ones(100), 1)
    least = int(p.argmin())
    bars = prediction_grid(some_images(1), p, [least], [str(i) for i in range(100)]).axes[1]
    shown = [int(tick.get_text()) for tick in bars.get_yticklabels()]
    assert shown == [*np.argsort(-p[0])[:11], least]


def test_prediction_grid_of_colour_images_with_a_column_of_labels():
    p = np.full((3, 3), 1 / 3)
    figure = prediction_grid(some_images(3, (8, 8, 3)), p, np.array([[0], [1], [2]]), NAMES, columns=2)
    assert len(figure.axes) == 6


def test_long_names_are_shortened():
    figure = prediction_grid(some_images(1), np.array([[0.9, 0.1]]), [0], ["x" * 50, "y"])
    assert max(map(len, texts(figure))) < 70


# ---- training curves -------------------------------------------------------------------------------------------------


def lines(ax):
    return {line.get_label(): line for line in ax.lines}


def test_training_curves_mark_the_best_epoch_of_the_validation(tmp_path):
    loss, accuracy = training_curves(CURVES, save=tmp_path / "c.png").axes
    assert lines(loss)["best epoch"].get_xydata().tolist() == [[3, 0.55]]
    assert lines(accuracy)["best epoch"].get_xydata().tolist() == [[3, 0.82]]
    assert loss.get_title(loc="right") == "best: 0.55 in epoch 3"
    assert accuracy.get_title(loc="right") == "best: 82.0 % in epoch 3"
    assert lines(loss)["training"].get_ydata().tolist() == CURVES["loss"]
    assert lines(loss)["validation"].get_ydata().tolist() == CURVES["val_loss"]
    assert to_hex(lines(loss)["training"].get_color()) == FAINT
    assert pixels(tmp_path / "c.png").std() > 10


def test_training_curves_without_validation_take_the_best_of_training():
    (ax,) = training_curves({"loss": [3.0, 1.0, 2.0]}).axes
    assert "validation" not in lines(ax)
    assert lines(ax)["best epoch"].get_xydata().tolist() == [[2, 1.0]]


@pytest.mark.parametrize(("lowest", "label"), [(0.3, "guessing: 10 %"), (0.8, "guessing: 10 %, far below")])
def test_the_line_of_guessing(lowest, label):
    ax = training_curves({"accuracy": [lowest, 0.9]}, classes=10).axes[0]
    assert label in lines(ax)
    if "below" not in label:
        assert list(lines(ax)[label].get_ydata()) == [0.1, 0.1]


def test_classes_and_epochs_come_from_the_history():
    model = SimpleNamespace(built=True, shapes=[(28, 28, 1), (4,)])
    history = SimpleNamespace(history={"accuracy": [0.2, 0.3]}, epoch=[5, 6], model=model)
    ax = training_curves(history).axes[0]
    assert "guessing: 25 %" in lines(ax)
    assert lines(ax)["training"].get_xdata().tolist() == [6, 7]


def test_training_curves_of_a_real_history():
    from minicnn.layers import Dense
    from minicnn.models import Sequential

    model = Sequential([Dense(3, activation="softmax", input_shape=(5,))])
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    x, y = np.random.default_rng(0).random((20, 5)), np.arange(20) % 3
    history = model.fit(x, y, epochs=2, validation_split=0.2, verbose=0)
    loss, accuracy = training_curves(history).axes
    assert lines(loss)["training"].get_ydata().tolist() == history.history["loss"]
    assert lines(accuracy)["validation"].get_ydata().tolist() == history.history["val_accuracy"]
    assert any(label.startswith("guessing: 33.3 %") for label in lines(accuracy))


def test_a_learning_rate_is_no_curve_and_nan_has_no_best():
    (ax,) = training_curves({"loss": [np.nan, np.nan], "learning_rate": [0.1, 0.01]}).axes
    assert ax.get_title(loc="right") == "not a finite number"
    assert "best epoch" not in lines(ax)


# ---- files and errors ------------------------------------------------------------------------------------------------


def test_pyplot_is_not_used(tmp_path):
    code = (
        "import sys, numpy as np; from minicnn.inspect import show_image\n"
        "assert 'matplotlib' not in sys.modules\n"
        "show_image(np.eye(4), save=sys.argv[1])\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "eye.svg")], check=True, cwd=ROOT)
    assert (tmp_path / "eye.svg").read_text().rstrip().endswith("</svg>")


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    show_image(np.eye(4), save=path)
    before = path.read_bytes()

    def half(figure, file, **options):
        file.write(b"half a picture")
        raise OSError("full")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", half)
    with pytest.raises(OSError, match="full"):
        show_image(np.ones((4, 4)), save=path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


EYE = np.eye(4)
NAN = np.full((4, 4), np.nan)


@pytest.mark.parametrize(
    ("image", "hint"),
    [
        (np.zeros((3, 8, 8)), r"transpose\(1, 2, 0\), not reshape"),
        (np.zeros((2, 8, 8, 1)), r"images\[0\]"),
        (np.zeros((8, 8, 2)), "one or three channels"),
        (np.zeros((0, 8)), "not the shape of an image"),
        (EYE * 255, "divide by 255"),
        (EYE - 2, "before it was standardised"),
        (EYE.astype(int) * 300, "between 0 and 255"),
        (NAN, "not every number is finite"),
        (np.full((4, 4), "a"), "these are not numbers"),
    ],
)
def test_what_is_no_image(image, hint):
    with pytest.raises(InputError, match=hint):
        show_image(image)


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        ({"labels": [0, 1, 2]}, "a class number for each of the 2 images"),
        ({"labels": np.eye(3)[:2]}, r"labels.argmax\(axis=1\)"),
        ({"labels": [0, 3]}, "from 0 to 3"),
        ({"labels": [-1, 0]}, "from -1 to 0"),
        ({"labels": [0.0, 1.0]}, "whole numbers"),
        ({"probabilities": np.full((3, 3), 0.3)}, r"shape \(2, 3\)"),
        ({"probabilities": np.array([0.5, 0.5])}, r"shape \(2, 3\)"),
        ({"probabilities": np.full((2, 3), 7.0)}, "softmax"),
        ({"probabilities": np.full((2, 3), np.nan)}, "softmax"),
        ({"class_names": ["a", "b"]}, "2 class names"),
        ({"class_names": "abc"}, "list of strings"),
        ({"images": np.zeros((0, 8, 8))}, "there are none"),
        ({"images": np.zeros((2, 3, 8, 8))}, r"images\[0\].*\n.*\n.*\n.*transpose"),
        ({"columns": 0}, "1 or more"),
    ],
)
def test_predictions_that_do_not_fit(change, hint):
    good = {"images": some_images(2), "probabilities": np.full((2, 3), 1 / 3), "labels": [0, 1], "class_names": NAMES}
    with pytest.raises(InputError, match=hint):
        prediction_grid(**{**good, **change})


@pytest.mark.parametrize("change", [{"rows": 0}, {"columns": 1.5}, {"labels": [5, 5]}])
def test_a_grid_that_does_not_fit(change):
    with pytest.raises(InputError):
        image_grid(**{"images": some_images(2), "labels": [0, 1], "class_names": NAMES, **change})


@pytest.mark.parametrize("history", [{}, {"loss": []}, {"val_loss": [1.0]}, None, SimpleNamespace(history={})])
def test_a_history_without_epochs(history):
    with pytest.raises(InputError, match="nothing to draw"):
        training_curves(history)


@pytest.mark.parametrize(
    ("path", "hint"), [("a.xyz", r"\.png"), ("a", r"\.png"), ("missing/a.png", "folder does not exist")]
)
def test_a_path_that_cannot_be(tmp_path, path, hint):
    with pytest.raises(InputError, match=hint):
        show_image(EYE, save=tmp_path / path)
    assert not list(tmp_path.iterdir())
