"""The pages that stand in the repository for a first look: what the code makes today, and right to the last number."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs" / "pages"
NAMES = ("cnn", "batch_norm", "broken")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
BUILD = """
import sys
sys.path.insert(0, "docs")
import stored
for name, trace in stored.pages().items():
    trace.to_html(f"{sys.argv[1]}/{name}.html")
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"}
    command = [sys.executable, "-W", "error", "-c", BUILD, str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def parts(path: Path) -> tuple[str, dict[str, Any]]:
    """The page without its numbers, and the numbers."""
    before, data, after = re.split(r'(?<=id="data">)(.*?)(?=</script>)', path.read_text("utf-8"), maxsplit=1)
    return before + after, json.loads(data)


def test_there_are_these_pages_and_they_are_small():
    assert sorted(path.stem for path in PAGES.glob("*.html")) == sorted(NAMES)
    assert all(path.stat().st_size < 500_000 for path in PAGES.glob("*.html"))


@pytest.mark.parametrize("name", NAMES)
def test_a_stored_page_is_the_one_that_is_made_today(built, name):
    """To the byte in style and script; in its numbers as far as the rounding of another machine lets them be.

    Where this fails, the page was changed: python docs/stored.py.
    """
    (stored, old), (fresh, new) = parts(PAGES / f"{name}.html"), parts(built / f"{name}.html")
    assert stored == fresh
    assert old.keys() == new.keys()
    assert [layer["kind"] for layer in old["layers"]] == [layer["kind"] for layer in new["layers"]]
    for what in ("model", "training", "classes", "batch", "level"):
        assert old[what] == new[what]
    assert old["loss"] == pytest.approx(new["loss"], rel=0.05)


def test_the_pages_show_what_they_are_there_for():
    """The step helps; the batch has eight images; the broken one has dead ReLUs, and guesses."""
    pages = {name: parts(PAGES / f"{name}.html")[1] for name in NAMES}
    for page in pages.values():
        assert page["batch"] == 8 and page["training"] and page["loss_after"] < page["loss"]
    assert any(layer["kind"] == "BatchNormalization" for layer in pages["batch_norm"]["layers"])
    assert pages["broken"]["loss"] == pytest.approx(2.303, abs=0.02) and pages["cnn"]["loss"] < 1.5


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
@pytest.mark.parametrize("name", NAMES)
def test_a_stored_page_finds_no_wrong_number_in_itself(name, tmp_path):
    command = [
        str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}", "--dump-dom",
        "--virtual-time-budget=20000", (PAGES / f"{name}.html").as_uri() + "#selftest",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=120)
    title = re.search(r"<title>(.*?)</title>", done.stdout)
    assert title and re.fullmatch(r"selftest: ok \d+ checks", title[1]), title and title[1]
