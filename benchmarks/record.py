"""One file a recorded run: what was measured, by which command, on what."""

from __future__ import annotations

import datetime
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np

import minicnn
from minicnn.files import atomic_write


def write_record(path: str | Path, results: dict[str, Any], **about: Any) -> None:
    """Write results as JSON, with the command, versions, hardware and date that they belong to."""
    command = ["python", os.path.relpath(sys.argv[0]).replace(os.sep, "/"), *_without_paths(sys.argv[1:])]
    record = {
        "command": " ".join(command),
        "date": datetime.date.today().isoformat(),
        **about,
        "versions": {"python": platform.python_version(), "numpy": np.__version__, "minicnn": minicnn.__version__},
        "hardware": {"processor": processor(), "cores": os.cpu_count(), "system": platform.system()},
        **results,
    }
    with atomic_write(path) as file:
        file.write((json.dumps(record, indent=1, ensure_ascii=False) + "\n").encode())
    print(f"recorded in {os.path.relpath(path)}")


def fastest(result: dict[str, Any], framework: str, precision: str = "") -> float | None:
    """ms a step of a framework's fastest variant in a workload's record of models.py, in float32 or in TF32.

    None where it was not measured.
    """
    times = [
        side["ms_per_step"] for name, side in result["sides"].items()
        if name.split()[0] == framework and name.endswith("tf32") == bool(precision)
    ]  # fmt: skip
    return min(times, default=None)


def _without_paths(arguments: list[str]) -> list[str]:
    """Arguments with absolute paths shortened to their last part: a record names no one's folders."""
    return [Path(a).name if os.path.isabs(a) else a for a in arguments]


def processor() -> str:
    """The processor's name, as well as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
