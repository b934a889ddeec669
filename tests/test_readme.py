"""What the README, ARCHITECTURE and the pages in docs say is so: snippets run, figures are those of the records."""

import configparser
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENTS = ["README.md", "ARCHITECTURE.md", *(f"docs/{path.name}" for path in sorted(ROOT.glob("docs/*.md")))]


def snippets(document: str) -> list[str]:
    text = (ROOT / document).read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


CASES = [
    pytest.param(document, i, id=f"{document}-{i}")
    for document in DOCUMENTS
    for i in range(len(snippets(document)))
]


@pytest.mark.parametrize(("document", "i"), CASES)
def test_snippet_runs_as_it_stands(document, i, tmp_path):
    code = snippets(document)[i]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True, text=True, cwd=tmp_path, env=environment, encoding="utf-8",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    if document != "docs/teaching.md":  # its snippet is an entry of a table
        assert done.stdout.strip(), "a snippet that prints nothing shows nothing"


def test_readme_begins_with_the_two_commands():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    begin = lines.index("```")
    assert begin <= 3
    assert lines[begin + 1 : begin + 4] == [
        "python -m pip install . && python examples/quickstart.py",
        'python -m pip install ".[test]" && python -m pytest -n auto',
        "```",
    ]


def test_figures_are_those_of_the_records():
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "report.py"), "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_the_readme_is_short():
    before, _ = (ROOT / "README.md").read_text(encoding="utf-8").split("\n## Results\n")
    assert len(before.splitlines()) <= 120


@pytest.mark.parametrize("document", DOCUMENTS)
def test_what_is_linked_is_there(document):
    path = ROOT / document
    text = path.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    named = re.findall(r"`((?:minicnn|examples|benchmarks|tests|docs)/[\w/.]+\.(?:py|png|md))`", text)
    commands = re.findall(r"(?:python|notebook) ((?:examples|benchmarks|docs)/[\w/]+\.(?:py|ipynb))", text)
    assert links or named or commands or document not in DOCUMENTS[:2]
    missing = [link for link in links if not (path.parent / link).exists()]
    assert not missing + [name for name in {*named, *commands} if not (ROOT / name).exists()]


def test_every_page_can_be_reached_from_the_readme():
    seen, to_read = set(), [ROOT / "README.md"]
    while to_read:
        path = to_read.pop()
        seen.add(path)
        for link in re.findall(r"\]\(([^)#:]+\.md)\)", path.read_text(encoding="utf-8")):
            page = (path.parent / link).resolve()
            if page not in seen:
                to_read.append(page)
    assert {path.resolve() for path in ROOT.glob("docs/**/*.md")} <= seen


def test_every_command_of_pip_names_an_extra_that_is_there():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    extras = set(setup["options.extras_require"])
    for document in DOCUMENTS:
        text = (ROOT / document).read_text(encoding="utf-8")
        assert set(re.findall(r'"\.\[(\w+)\]"', text)) <= extras


def test_every_example_is_in_the_table():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    scripts = [path.name for path in (ROOT / "examples").glob("*.py") if "__main__" in path.read_text(encoding="utf-8")]
    assert len(scripts) >= 12
    assert [name for name in scripts if f"`python examples/{name}" not in text] == []


def test_architecture_gives_the_lines_of_its_files():
    """To a tenth: what is said to be short stays short, or the page is written again."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    named = re.findall(r"`(?:minicnn/)?([\w/]+\.py)` \((\d+) lines\)", text)
    assert len(named) >= 9 and named[0][0] == "kernels/reference.py" and named[1][0] == "kernels/conv_im2col.py"
    for name, lines in named:
        found = len((ROOT / "minicnn" / name).read_text(encoding="utf-8").splitlines())
        assert abs(found - int(lines)) <= 0.1 * found, f"{name} has {found} lines, ARCHITECTURE says {lines}"
