"""What was measured, by which command, on what: one JSON file a run. The benchmarks use it, too.

minicnn is imported where it is used: a benchmark of another framework measures its memory with this, too.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np


def write_record(path: str | Path, results: dict[str, Any], **about: Any) -> None:
    """Write results as JSON, with the command, versions, hardware and date that they belong to."""
    import minicnn
    from minicnn.files import atomic_write

    command = ["python", os.path.relpath(sys.argv[0]).replace(os.sep, "/"), *_without_paths(sys.argv[1:])]
    record = {
        "command": " ".join(command),
        "date": datetime.date.today().isoformat(),
        **about,
        "versions": {"python": platform.python_version(), "numpy": np.__version__, "minicnn": minicnn.__version__},
        "hardware": {"processor": processor(), "cores": os.cpu_count(), "system": platform.system(), **gpu()},
        **results,
    }
    with atomic_write(path) as file:
        file.write((json.dumps(record, indent=1, ensure_ascii=False) + "\n").encode())
    print(f"recorded in {os.path.relpath(path)}")


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


def gpu() -> dict[str, str]:
    """The GPU and what else its times depend on; empty where CuPy was not asked for one, or found none."""
    from minicnn.backend import best_device

    cupy = sys.modules.get("cupy")
    if cupy is None or best_device() == "cpu":
        return {}
    runtime = cupy.cuda.runtime
    cuda, newest = (f"{v // 1000}.{v % 1000 // 10}" for v in (runtime.runtimeGetVersion(), runtime.driverGetVersion()))
    try:
        driver = Path("/sys/module/nvidia/version").read_text().strip()
    except OSError:
        driver = f"one of CUDA {newest}"
    name = runtime.getDeviceProperties(cupy.cuda.Device().id)["name"].decode()
    return {"gpu": name, "driver": driver, "cuda": cuda, "cupy": cupy.__version__}


def peak_memory_mb() -> float:
    """The most memory this process ever held, in MiB; 0 where the system does not say.

    Where a fit has forked processes off it: at least what all of them hold now.
    """
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)
    children = [pid for file in Path("/proc/self/task").glob("*/children") for pid in file.read_text().split()]
    return max(peak, sum(map(_held_mb, ["self", *children]))) if children else peak


def _held_mb(process: str) -> float:
    """What a process holds; of what it shares with others, its part."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
