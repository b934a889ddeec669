"""LEARN.md and its chapters: complete, their snippets print what they say, their pictures are what the code draws."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minicnn.course.milestones import MILESTONES
from minicnn.course.table import STEPS

ROOT = Path(__file__).resolve().parents[1]
LEARN = ROOT / "LEARN.md"
CHAPTERS = sorted((ROOT / "docs" / "learn").glob("*.md"))
PICTURES = ROOT / "docs" / "learn" / "pictures"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"}
chapters = pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def run(code: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, cwd=folder, env=ENVIRONMENT,
        encoding="utf-8",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_index_asks_and_answers_as_the_chapters_do():
    sections = re.findall(r"## (\d+\. [^\n]*\?)\n\n([^#]*?)\n\[Read on\]\(([^\n]*)\)\n", read(LEARN), flags=re.DOTALL)
    assert len(sections) == len(CHAPTERS) >= 15
    for (title, answer, link), chapter in zip(sections, CHAPTERS, strict=True):
        text = read(chapter)
        assert ROOT / link == chapter
        assert text.startswith(f"# {title}\n\n**{answer}**\n")
        assert int(title.split(".")[0]) == int(chapter.name[:2])


def test_the_snippet_of_the_index_runs(tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", read(LEARN), flags=re.DOTALL)
    out = run(code, tmp_path)
    assert "conv2d_1" in out and "loss" in out
    assert (tmp_path / "step.html").stat().st_size > 100_000


@chapters
def test_a_chapter_has_all_its_parts(chapter):
    text = read(chapter)
    for part in ("Why it matters: ", "**Read**: ", "**Write it yourself**: "):
        assert text.count(part) == 1, part
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(code.splitlines()) <= 8
    assert text.count("<details>") == text.count("</details>") >= 2
    assert len(re.findall(r"!\[.{30,}\]\(pictures/", text)) == 1  # with a text for those who cannot see it
    assert len(text.splitlines()) <= 70
    after = CHAPTERS.index(chapter) + 1
    if after < len(CHAPTERS):
        title = re.match("# (.*)", read(CHAPTERS[after]))[1]
        assert text.endswith(f"\nNext: [{title}]({CHAPTERS[after].name})\n")


def test_the_chapters_lead_to_every_step_of_the_course():
    named = []
    for chapter in CHAPTERS:
        (exercise,) = re.findall(r"\*\*Write it yourself\*\*: (.*?)\n\n", read(chapter), flags=re.DOTALL)
        ((command, first),) = re.findall(r"`python -m minicnn course (start|run) ([\w-]+)`", exercise)
        names = [first, *re.findall(r"`([\w-]+)`", exercise)]
        if command == "start":
            named += names
        else:
            assert first in MILESTONES
    assert sorted(named) == sorted(step.name for step in STEPS)


@chapters
def test_a_snippet_prints_what_stands_below_it(chapter, tmp_path):
    code, output = re.search(r"```python\n(.*?)```\n\n```text\n(.*?)```", read(chapter), flags=re.DOTALL).groups()
    assert_same_text(run(code, tmp_path), output)


def assert_same_text(received: str, expected: str) -> None:
    """The same words, and numbers that differ by rounding at most."""
    number = r"-?\d+(?:\.\d*)?(?:e[-+]?\d+)?"
    texts = [" ".join(re.sub(number, "#", text.replace(",", "")).split()) for text in (received, expected)]
    assert texts[0] == texts[1]
    numbers = [[float(v) for v in re.findall(number, text.replace(",", ""))] for text in (received, expected)]
    np.testing.assert_allclose(*numbers, rtol=1e-4)


@pytest.mark.parametrize(
    ("received", "expected"), [("1.0 ok", "1.1 ok"), ("1 ok", "1 bad"), ("1 2", "1"), ("-1", "1"), ("1e-3", "1e-4")]
)
def test_the_comparison_of_outputs_notices_differences(received, expected):
    with pytest.raises(AssertionError):
        assert_same_text(received, expected)


@pytest.mark.parametrize("document", [LEARN, *CHAPTERS], ids=lambda path: path.stem)
def test_what_is_linked_and_named_is_there(document):
    text = read(document)
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert links
    assert [link for link in links if not (document.parent / link).exists()] == []
    assert [path for path in re.findall(r"`((?:minicnn|examples)/[\w/.]+)`", text) if not (ROOT / path).exists()] == []
    for names, link in re.findall(r"((?:`\w+`(?:, | and )?)+)\s+in\s+\[[\w.]+\]\(([^)]+\.py)\)", text):
        source = read(document.parent / link)
        assert [name for name in re.findall(r"`(\w+)`", names) if f"def {name}(" not in source] == []


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    script = ROOT / "docs" / "learn" / "draw.py"
    command = [sys.executable, "-W", "error", str(script), "--output", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return folder


def test_every_picture_is_drawn_and_shown(drawn):
    names = sorted(path.name for path in PICTURES.iterdir())
    assert sorted(path.name for path in drawn.iterdir()) == names
    assert sorted(re.findall(r"\(pictures/(\w+\.png)\)", "".join(map(read, CHAPTERS)))) == names


@pytest.mark.parametrize("name", sorted(path.name for path in PICTURES.iterdir()))
def test_a_picture_is_what_the_code_draws(name, drawn):
    """Up to the fonts and the rounding of another machine: seen from afar, no place is another grey."""
    assert difference(drawn / name, PICTURES / name) < 30
    other = PICTURES / ("padding.png" if name != "padding.png" else "adam.png")
    assert difference(other, PICTURES / name) > 45  # so this test can fail


def difference(one: Path, other: Path) -> float:
    """The largest difference of two pictures, 0 to 255, once both are reduced to 48×24 greys."""
    greys = []
    for path in (one, other):
        with Image.open(path) as image:
            greys.append(np.asarray(image.convert("L").resize((48, 24), Image.Resampling.BOX), dtype=float))
    return float(np.abs(greys[0] - greys[1]).max())
