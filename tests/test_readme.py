"""What the README and ARCHITECTURE say is so: their snippets run, their figures are those of the recorded runs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def snippets(document: str) -> list[str]:
    text = (ROOT / document).read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


CASES = [
    pytest.param(document, i, id=f"{document}-{i}")
    for document in ("README.md", "ARCHITECTURE.md")
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


@pytest.mark.parametrize("document", ["README.md", "ARCHITECTURE.md"])
def test_what_is_linked_is_there(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#]+)\)", text)
    named = re.findall(r"`((?:minicnn|examples|benchmarks|tests)/[\w/.]+\.(?:py|png|md))`", text)
    commands = re.findall(r"python ((?:examples|benchmarks)/\w+\.py)", text)
    assert links or named
    missing = [path for path in {*links, *named, *commands} if not (ROOT / path).exists()]
    assert not missing
