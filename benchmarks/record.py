"""The records of the benchmarks: they are written as those of the examples are, by examples/measurements.py."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1] / "examples"))
from measurements import peak_memory_mb, processor, write_record  # noqa: E402

__all__ = ["fastest", "peak_memory_mb", "processor", "write_record"]


def fastest(result: dict[str, Any], framework: str, precision: str = "") -> float | None:
    """ms a step of a framework's fastest variant in a workload's record of models.py, in float32 or in TF32.

    None where it was not measured.
    """
    times = [
        side["ms_per_step"] for name, side in result["sides"].items()
        if name.split()[0] == framework and name.endswith("tf32") == bool(precision)
    ]  # fmt: skip
    return min(times, default=None)
