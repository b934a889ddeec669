"""What notebooks show: the HTML of models, histories, traces, gradient checks; and the guided tour, cell by cell."""

from __future__ import annotations

import copy
import html
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minicnn import gradcheck
from minicnn.callbacks import History
from minicnn.errors import InputError
from minicnn.inspect.notebook import Frame
from minicnn.inspect.trace import Trace
from minicnn.layers import BatchNormalization, Conv2D, Dense, Flatten, Input, MaxPooling2D
from minicnn.models import Sequential
from minicnn.utils import set_random_seed

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "examples" / "inside_a_cnn.ipynb"
HOSTILE = "<img src=x onerror=alert(1)>\"'&<script>alert(2)<!--"
ATTRIBUTES = {
    "style", "colspan", "tabindex", "role", "aria-label", "width", "height", "viewbox", "font-size",
    "font-family", "font-weight", "text-anchor", "d", "x", "y", "cx", "cy", "r", "fill", "stroke",
    "stroke-width", "stroke-opacity", "stroke-dasharray", "stroke-linecap",
}  # fmt: skip
VOID = {"br", "img", "meta", "circle", "path"}


class Page(HTMLParser):
    """The tags, attributes, texts and tables of a piece of HTML; fails where a tag is not closed."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data

    def handle_comment(self, data):
        raise AssertionError(f"a comment: {data!r}")

    @property
    def text(self) -> str:
        return " ".join(self.words)


def shown(value) -> Page:
    """What a notebook shows of it. It is static, and the same each time."""
    text = value._repr_html_()
    assert value._repr_html_() == text
    page = Page(text)
    assert page.tags <= {"div", "table", "thead", "tbody", "tr", "td", "th", "b", "p", "svg", "path", "circle", "text"}
    for _, name, value in page.attributes:
        assert name in ATTRIBUTES
        if name == "style":
            assert "url(" not in value
            # Letters of a fixed colour need a ground of a fixed colour, and the other way round: themes differ.
            colour, ground = (re.search(rf"(?:^|;){what}:([^;]+)", value) for what in ("color", "background"))
            fixed = [m is not None and m[1] not in ("inherit", "none") for m in (colour, ground)]
            assert fixed[0] == fixed[1], value
    return page


def small_model(name="small", layer_name="features", class_names=("cat", "dog", "cow")) -> Sequential:
    set_random_seed(1)
    model = Sequential(
        [
            Input((6, 6, 2)),
            Conv2D(4, 3, activation="relu", name=layer_name),
            BatchNormalization(),
            MaxPooling2D(2),
            Flatten(),
            Dense(3, activation="softmax"),
        ],
        name=name,
    )
    model.class_names = list(class_names)
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def data(n=8):
    rng = np.random.default_rng(2)
    return rng.standard_normal((n, 6, 6, 2)).astype("float32"), np.arange(n) % 3


# ---- models ----------------------------------------------------------------------------------------------------------


def test_a_model_shows_its_summary():
    model = small_model()
    model.layers[0].trainable = False
    (table,), lines = shown(model).tables, []
    model.summary(print_fn=lines.append)
    assert table[0] == ["Layer", "Type", "Output shape", "Parameters"]
    assert table[1] == ["features", "Conv2D", "4×4×4", "76 (frozen)"]
    assert table[5] == ["dense_1", "Dense", "3", "51"]
    assert table[-1] == ["Total", "", "", "143"]
    text = shown(model).text
    for name, words in (("Trainable", "{} parameters are trained"), ("Non-trainable", "{} are not")):
        (count,) = (re.search(r"[\d,]+", line)[0] for line in lines if line.startswith(f" {name} params"))
        assert words.format(count) in text
    assert "Input: 6×6×2" in text


def test_an_unbuilt_model_says_so():
    page = shown(Sequential([Conv2D(4, 3)]))
    assert page.tables[0][1][1:] == ["Conv2D", "?", "?"]
    assert "Not built" in page.text
    assert "Not built" in shown(Sequential()).text


def test_an_inner_model_is_one_row():
    model = Sequential([Input((6, 6, 2)), Sequential([Conv2D(4, 3), Flatten()], name="inner"), Dense(2)])
    assert shown(model).tables[0][1] == ["inner", "Sequential", "64", "76"]


# ---- histories -------------------------------------------------------------------------------------------------------


def history(epochs=3, **curves) -> History:
    made = History()
    made.epoch, made.history = list(range(epochs)), curves
    return made


def test_a_history_shows_its_epochs_and_curves():
    page = shown(history(loss=[3.0, 2.0, 1.5], val_loss=[2.0, 1.25, 1.75], accuracy=[0.1, 0.5, 0.75]))
    assert page.tables == [
        [
            ["epoch", "loss", "val_loss", "accuracy"],
            ["1", "3", "2", "0.1"],
            ["2", "2", "1.25", "0.5"],
            ["3", "1.5", "1.75", "0.75"],
        ]
    ]
    labels = [value for tag, name, value in page.attributes if (tag, name) == ("svg", "aria-label")]
    assert labels == [
        "loss by epoch: training dashed, validation solid; best 1.25, epoch 2",
        "accuracy by epoch: training dashed; best 0.75, epoch 3",
    ]
    curves = [value for tag, name, value in page.attributes if (tag, name) == ("path", "d") and "L" in value]
    assert len(curves) == 3
    heights = [float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", curves[0])]
    assert heights == sorted(heights) and heights[0] < heights[-1]  # a falling loss: y counts downwards


def test_the_history_of_a_fit():
    model, (x, y) = small_model(), data()
    result = model.fit(x, y, epochs=2, validation_data=(x, y), verbose=0)
    (table,) = shown(result).tables
    for row, values in zip(table[1:], zip(*result.history.values(), strict=True), strict=True):
        assert row[1:] == [f"{value:.4g}" for value in values]


def test_histories_that_are_not_smooth():
    assert "No epoch" in shown(History()).text
    page = shown(history(loss=[float("nan"), 1.0, float("inf")], note=["a", None, 2]))
    assert [row[1:] for row in page.tables[0][1:]] == [["nan", "a"], ["1", ""], ["inf", "2"]]
    assert "NaN" not in "".join(value for _, name, value in page.attributes if name in ("d", "cx", "cy"))
    assert "nan" not in "".join(value for _, name, value in page.attributes if name in ("d", "cx", "cy"))
    shown(history(1, loss=[1.0]))
    shown(history(1, loss=[float("nan")]))
    twice = shown(history(1, loss=[3.0, 2.0], later=[5.0]))  # the second fit of one History object
    assert twice.tables[0][1:] == [["1", "3", ""], ["2", "2", "5"]]


# ---- traces ----------------------------------------------------------------------------------------------------------


def test_a_trace_shows_its_step():
    model, (x, y) = small_model(), data()
    t = model.trace(x, y)
    page = shown(t)
    samples, layers = page.tables
    assert "one training step, on 8 samples of 6×6×2." in page.text
    assert f"Loss {t.loss:.4g} before the step, {t.loss_after:.4g} after it" in page.text
    assert "SGD, step 1, learning rate 0.01." in page.text
    assert samples[0] == ["sample", "prediction", "truth", "probability", "loss"]
    for i, row in enumerate(samples[1:]):
        k = t.y_pred[i].argmax()
        names = model.class_names
        assert row == [str(i), names[k], names[y[i]], f"{100 * t.y_pred[i, k]:.1f} %", f"{t.losses[i]:.4g}"]
    assert "and 2 more samples" in page.text
    assert t.fused and "of the last layer, the one before its activation" in page.text
    assert [row[:3] for row in layers[1:]] == [[r.key, r.kind, "×".join(map(str, r.y.shape))] for r in t.layers]
    first = t.layers[0]
    assert layers[1][3] == f"{first.y.min():.4g} to {first.y.max():.4g}"
    assert layers[1][4] == f"{100 * (first.y == 0).sum() / first.y.size:.1f} %"
    assert layers[1][5] == f"{first.dy.min():.4g} to {first.dy.max():.4g}"
    assert layers[1][6] == "76"
    step = np.concatenate([(first.updated[p] - first.params[p]).ravel() for p in "wb"])
    size = np.concatenate([first.params[p].ravel() for p in "wb"])
    assert float(layers[1][7]) == pytest.approx(np.linalg.norm(step) / np.linalg.norm(size), rel=0.06)
    assert layers[3][6:] == ["", ""]  # a pooling learns nothing


def test_a_loaded_trace_shows_the_same(tmp_path):
    x, y = data()
    t = small_model().trace(x, y)
    t.save(tmp_path / "t.npz")
    assert Trace.load(tmp_path / "t.npz")._repr_html_() == t._repr_html_()


def test_a_trace_of_the_way_forward_alone():
    page = shown(small_model().trace(data(1)[0], training=False))
    assert "the forward pass, in evaluation mode, on 1 sample of 6×6×2." in page.text
    assert page.tables[0][0] == ["sample", "prediction", "probability"]
    assert page.tables[1][0] == ["Layer", "Type", "Output shape", "Output", "Zeros"]
    assert "Loss" not in page.text


def test_a_trace_of_a_regression():
    model = Sequential([Input((3,)), Dense(2)])
    model.compile("adam", "mse")
    t = model.trace(np.ones((2, 3)), np.array([[1.0, 2.0], [3.0, 4.0]]))
    samples = shown(t).tables[0]
    assert samples[0] == ["sample", "prediction", "truth", "loss"]
    assert samples[2][2] == "3, 4"


def test_numbers_that_are_none_are_counted():
    model, (x, y) = small_model(), data()
    model.layers[0].params["b"][0] = np.nan
    layers = shown(model.trace(x, y)).tables[1]
    assert re.search(r"; \d+ NaN or infinite$", layers[2][3])


# ---- gradient checks -------------------------------------------------------------------------------------------------


class Wrong(Dense):
    def backward(self, dy, ctx):
        dx = super().backward(dy, ctx)
        ctx.grads["w"] = 2 * ctx.grads["w"]
        return dx


@pytest.mark.parametrize("kind", [Dense, Wrong])
def test_a_gradient_check_shows_its_table(kind):
    report = gradcheck.check_layer(kind(3, name=kind.__name__), (4,))
    page = shown(report)
    (table,) = page.tables
    assert [row[:-1] for row in table] == [list(row[:-1]) for row in report.rows]
    marks = {"ok": "✓ ok", "WRONG": "✗ WRONG"}
    assert [row[-1] for row in table[1:]] == [marks[array.verdict] for array in report.arrays.values()]
    assert report.ok == (kind is Dense)
    assert report.verdict in page.text
    for line in (report.title, *report.notes):
        assert line in page.text
    assert str(report).splitlines()[-1] == report.verdict


def test_a_gradient_check_without_a_table():
    report = gradcheck.Report("nothing", 1e-5, problems=["forward writes to x, its caller's array."])
    page = shown(report)
    assert page.tables == []
    assert "! forward writes to x" in page.text and "✗ NOT OK" in page.text


# ---- hostile names ---------------------------------------------------------------------------------------------------


def hostile_things():
    name = HOSTILE.replace("/", "")
    model, (x, y) = small_model(name, name, [HOSTILE] * 3), data()
    kind = type(HOSTILE, (Dense,), {})
    model.add(kind(3, activation="softmax", name="own"))
    report = gradcheck.check_function(
        lambda **inputs: 2 * inputs[HOSTILE], lambda dy, **_: {HOSTILE: 3 * dy}, {HOSTILE: np.ones(3)}
    )
    report.title += HOSTILE
    report.problems.append(HOSTILE)
    t = model.trace(x, y)
    return {
        "model": model,
        "unbuilt": Sequential([Conv2D(1, 1, name=name)]),
        "history": history(2, **{HOSTILE: [1.0, 2.0], "val_" + HOSTILE: [2.0, 3.0], "text": [HOSTILE, HOSTILE]}),
        "trace": t,
        "report": report,
        "explanation": t.explain(name, "y", (0, 0, 0, 0)),
    }


@pytest.mark.parametrize("name", ["model", "unbuilt", "history", "trace", "report", "explanation"])
def test_names_stay_inert(name):
    page = shown(hostile_things()[name])  # it fails for tags, handlers and comments that are not its own
    assert "onerror=alert(1)" in page.text  # as a text


def test_the_page_would_notice_what_it_looks_for():
    class Thing:
        def __init__(self, text):
            self._repr_html_ = lambda: text

    for text in (
        "<script>1</script>",
        "<div onclick='x'></div>",
        "<div><b></div>",
        "<div>",
        "<!-- x -->",
        '<div style="background:white"></div>',
        '<div style="color:black"></div>',
    ):
        with pytest.raises((AssertionError, IndexError)):
            shown(Thing(text))
    shown(Thing('<div style="color:#fff;background:#000">1 &lt; 2</div>'))


# ---- the page in a frame ---------------------------------------------------------------------------------------------


def test_show_embeds_the_page_in_a_sandbox():
    from minicnn.inspect.page.build import page_html

    model, (x, y) = small_model(HOSTILE, class_names=[HOSTILE] * 3), data(2)
    t = model.trace(x, y)
    frame = t.show(height=500, image=1)
    page = Page(frame._repr_html_())
    assert page.tags == {"iframe"}
    attributes = {name: value for _, name, value in page.attributes}
    assert set(attributes) == {"title", "sandbox", "style", "srcdoc"}
    assert attributes["sandbox"] == "allow-scripts"  # and not allow-same-origin
    assert "height:500px" in attributes["style"]
    assert attributes["srcdoc"] == page_html(t, 1)
    assert "to_html" in repr(frame) and len(repr(frame)) < 300


@pytest.mark.parametrize("height", [0, 99, -1, 500.0, "500", True, None])
def test_show_refuses_heights(height):
    t = small_model().trace(data(1)[0])
    with pytest.raises(InputError, match="height"):
        t.show(height=height)


def test_a_frame_escapes():
    text = Frame('"><script>', '<p title="a">&amp;</p>"></iframe><script>', 100)._repr_html_()
    assert "<script" not in text and text.count("<") == 2
    assert html.unescape(re.search(r'srcdoc="([^"]*)"', text)[1]) == '<p title="a">&amp;</p>"></iframe><script>'


# ---- the guided tour -------------------------------------------------------------------------------------------------


def cells():
    return json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]


def test_the_notebook_is_a_notebook_with_its_outputs():
    text = NOTEBOOK.read_text(encoding="utf-8")
    notebook = json.loads(text)
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids) and all(re.fullmatch(r"[a-z0-9-]{1,64}", i) for i in ids)
    count = 0
    for cell in notebook["cells"]:
        keys = {"cell_type", "id", "metadata", "source"}
        if cell["cell_type"] == "code":
            count += 1
            assert cell["execution_count"] == count
            assert cell["outputs"] or cell["id"] == "setup"
            keys |= {"outputs", "execution_count"}
        else:
            assert cell["cell_type"] == "markdown"
        assert set(cell) == keys
        assert all(line.endswith("\n") for line in cell["source"][:-1]) and "".join(cell["source"]).strip()
    assert text == json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"  # as Jupyter writes it


def test_every_text_of_the_notebook_is_followed_by_something_to_see():
    kinds = [cell["cell_type"] for cell in cells()]
    assert kinds[0] == kinds[-1] == "markdown"
    assert ("markdown", "markdown") not in set(zip(kinds, kinds[1:], strict=False))


RUN = """
import json, sys
sys.path[:0] = ["tests", "docs"]
from test_notebook import run_cells
json.dump(run_cells(), open(sys.argv[1], "w"))
"""


def run_cells() -> dict[str, Any]:
    """The notebook run anew, and what its last text suggests to try: of each cell what a notebook would show."""
    import stored

    namespace: dict[str, Any] = {}
    notebook = stored.executed(namespace)
    outputs = {cell["id"]: cell["outputs"] for cell in notebook["cells"] if cell["cell_type"] == "code"}
    for question in suggestions():
        _, value = stored.execute(question, namespace)
        outputs[question] = [{"output_type": "execute_result", "data": stored.shown(value)}]
    return outputs


def suggestions() -> list[str]:
    """What the last text tells the reader to try."""
    return re.findall(r"`(t\.explain.*?)`", "".join(cells()[-1]["source"]))


def part(outputs: list[dict[str, Any]], kind: str) -> str:
    """The text, the HTML or the picture among the outputs of a cell."""
    found = ""
    for output in outputs:
        if output["output_type"] == "stream" and kind == "text/plain":
            found += "".join(output["text"])
        found += "".join(output.get("data", {}).get(kind, ""))
    return found


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    path = tmp_path_factory.mktemp("tour") / "outputs.json"
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", RUN, str(path)], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    return json.loads(path.read_text())


def test_every_cell_of_the_notebook_shows_something(outputs):
    assert [name for name, shown_of_it in outputs.items() if not shown_of_it] == ["setup"]
    for shown_of_it in outputs.values():
        picture, text = part(shown_of_it, "image/png"), part(shown_of_it, "text/html")
        assert not picture or len(picture) > 2000
        assert not text or Page(text).words  # well-formed


def test_the_notebook_says_what_its_text_promises(outputs):
    texts = {name: part(shown_of_it, "text/plain") for name, shown_of_it in outputs.items()}
    pages = {name: part(shown_of_it, "text/html") for name, shown_of_it in outputs.items()}
    before, after = map(float, re.search(r"pictures: ([\d.]+) -> ([\d.]+)", texts["update-effect"]).groups())
    assert after < before
    accuracies = [float(row[-1]) for row in Page(pages["train"]).tables[0][1:]]
    assert accuracies[-1] > 0.6 and "History" in texts["train"]
    by_hand = re.fullmatch(r"by hand ([\d.]+), recorded ([\d.]+)\n", texts["conv-by-hand"])
    assert float(by_hand[1]) == pytest.approx(float(by_hand[2]), abs=1e-5) and float(by_hand[1]) > 0
    for name in ("im2col", "backward-start"):
        assert float(re.search(r"largest difference.*: (\S+)", texts[name])[1]) < 1e-5
    explained = ["conv", "backward-start", "dw", "dx", "update", *suggestions()]
    assert len(explained) > 6
    for name in explained:
        assert "✓" in pages[name] and "✗" not in pages[name]
    assert "✗" not in pages["check"]
    verdicts = {row[0]: row[-1] for row in Page(pages["check-broken"]).tables[0]}
    assert verdicts == {"gradient": "verdict", "dx": "✓ ok", "dw": "✗ WRONG", "db": "✓ ok"}
    assert "ERROR" in texts["diagnose"]
    assert "to_html" in texts["page"]


def test_the_stored_outputs_are_those_of_the_cells(outputs):
    """What GitHub shows is what the code says today; else: python docs/stored.py."""
    stored = {cell["id"]: cell["outputs"] for cell in cells() if cell["cell_type"] == "code"}
    for name, shown_of_it in stored.items():
        for kind in ("text/plain", "text/html"):
            assert_alike(part(outputs[name], kind), part(shown_of_it, kind), name)
        assert bool(part(outputs[name], "image/png")) == bool(part(shown_of_it, "image/png"))


def assert_alike(received: str, expected: str, where: str = "") -> None:
    """The same words; numbers may differ by what another machine's rounding makes of a training."""
    number = r"[-+−]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?"
    visible = [re.sub(r"<[^>]*>", " ", text) for text in (received, expected)]
    words = [" ".join(re.sub(number, "#", text).replace("-", "").split()).replace(" ,", ",") for text in visible]
    assert words[0] == words[1], where
    numbers = [[float(v.replace("−", "-").replace(",", "")) for v in re.findall(number, text)] for text in visible]
    np.testing.assert_allclose(*numbers, rtol=0.1, atol=0.02, err_msg=where)


@pytest.mark.parametrize("other", ["loss 0.5 of four", "loss 0.7 of", "loss 0.5 0.5 of", "loss"])
def test_the_comparison_notices_differences(other):
    assert_alike("<b>loss</b>  0.501 of", "loss 0.5 of")
    with pytest.raises(AssertionError):
        assert_alike(other, "loss 0.5 of")


def test_the_notebook_in_jupyter():
    nbclient = pytest.importorskip(
        "nbclient", reason="runs the tour in Jupyter's own kernel, where nbclient is installed"
    )
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel", reason="runs the tour in Jupyter's own kernel, where ipykernel is installed")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    nbclient.NotebookClient(copy.deepcopy(notebook), timeout=300, kernel_name="python3").execute(cwd=str(ROOT))
