"""A training that is killed with SIGKILL, and begun again, ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the trainings are forked from a process that has imported minicnn")
def test_twenty_kills_leave_no_trace(tmp_path):
    """At random moments of training and of saving: benchmarks/faults.py, which compares all files byte for byte."""
    command = [sys.executable, str(ROOT / "benchmarks" / "faults.py"), "--kills", "20", "--seed", "1", "--no-record"]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr + done.stdout
    results = json.loads(done.stdout)
    assert results["different"] == []
    assert sum(results["kills_by_moment"].values()) == 20
    assert all(results["kills_by_case"].values()), "every case should be killed"
    assert sum(results["kills_by_moment"][moment] for moment in ("write", "flush", "rename", "renamed")) >= 5
    assert results["files_compared"] == 8  # final.zip, history.json, log.csv, best.zip, four checkpoints
