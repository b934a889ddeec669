"""Names may be any text: in HTML and SVG they are never markup, in a terminal they steer nothing."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import numpy as np
import pytest

from minicnn.errors import InputError, visible
from minicnn.inspect.diagnose import Diagnosis, Finding
from minicnn.inspect.page.build import page_html
from minicnn.layers import Conv2D, Dense, Flatten
from minicnn.models import Sequential

NAMES = {
    "script": "<script>alert(1)</script>", "end of script": "</script></style></title><svg onload=alert(1)>",
    "quotes": "\"' onmouseover=alert(1) x=\"'`", "comment": "--><!-- <![CDATA[ ]]> <?php",
    "template": "@DATA@ ${1} {{1}} %s", "separators": "a\u2028b\u2029c\x85d",
    "right to left": "\u202eabc\u2066\u200f", "entities": "&lt;b&gt;&#60;b&#62;&amp;",
    "long": "x<" * 90, "NUL": "a\0b", "terminal": "\x1b[2J\x1b]0;title\x07\r\b", "surrogate": "\ud800", "empty": "",
}  # fmt: skip


class Parts(HTMLParser):
    """The tags with the names of their attributes, and what is inside of scripts and styles."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, tuple(name for name, _ in attrs)))

    def handle_comment(self, data):
        self.tags.append(("a comment", (data,)))

    def handle_data(self, data):
        self.texts.append(data)


def made(name: str):
    """(model, trace, history) with this name wherever a name can be."""
    own = name.replace("/", "|")
    try:
        model = Sequential([Conv2D(2, 3, name=own), Flatten(), Dense(2, activation="softmax")], name=name)
    except InputError:  # layers' names are parts of names in files: no control characters there
        model = Sequential([Conv2D(2, 3, name="c"), Flatten(), Dense(2, activation="softmax")], name=name)
    model.build((None, 5, 5, 1))
    model.class_names = [name, "b"]
    model.compile("adam", "sparse_categorical_crossentropy")
    x, y = np.random.default_rng(0).random((2, 5, 5, 1)), np.array([0, 1])
    history = model.fit(x, y, verbose=0)
    history.history[name or "x"] = [1.0]
    return model, model.trace(x, y), history


@pytest.fixture(scope="module")
def harmless():
    return made("harmless")


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
def test_html_has_the_same_elements_whatever_the_names(harmless, name):
    for thing, plain in zip(made(name), harmless, strict=True):
        parts = Parts(thing._repr_html_())
        assert parts.tags == Parts(plain._repr_html_()).tags
        assert not any(attribute.startswith("on") for _, attributes in parts.tags for attribute in attributes)


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
def test_the_page_has_the_same_elements_and_script_whatever_the_names(harmless, name, tmp_path):
    t = made(name)[1]
    page, plain = page_html(t), page_html(harmless[1])
    assert Parts(page).tags == Parts(plain).tags
    script, other = (text.rsplit("<script>", 1)[1] for text in (page, plain))
    assert script == other
    data = page.split('id="data">', 1)[1].split("</script>", 1)[0]
    assert "<" not in data and "\u2028" not in data
    t.to_html(tmp_path / "page.html")
    assert (tmp_path / "page.html").stat().st_size > 10_000


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
def test_the_svg_has_the_same_elements_whatever_the_names(harmless, name):
    from minicnn.inspect.figures.svg import architecture

    tags = [[(e.tag, *sorted(e.attrib)) for e in ET.fromstring(architecture(model)).iter()]
            for model in (made(name)[0], harmless[0])]  # fmt: skip
    assert tags[0] == tags[1]


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
def test_a_terminal_is_not_steered(name, capsys):
    model = made(name)[0]
    model.summary()
    model.class_names = None
    print(InputError(f"/tmp/{name}", name, name, name, name))
    print(Finding(name, "error", name, 1.0, name, name, name), Diagnosis(name))
    out = capsys.readouterr().out
    assert all(c.isprintable() or c == "\n" for c in out)


def test_visible():
    assert visible("Größe 3×3, 日本\n") == "Größe 3×3, 日本\n"
    assert visible("\x1b[2J\r\u202e\0\ud800") == r"\x1b[2J\r\u202e\x00\ud800"


@pytest.mark.parametrize("name", ["a/b", "a\0b", "\x1b[2J", "\ud800", "x" * 201, ""])
def test_names_that_no_layer_can_have(name):
    with pytest.raises(InputError, match="cannot have this name"):
        Sequential([Dense(2, name=name)])
