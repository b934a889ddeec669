"""Time `import minicnn` against `import numpy`, each in fresh processes, in turn, and record the ratio.

    python benchmarks/import_time.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from pathlib import Path

from record import write_record

ROUNDS = 21
CODE = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"


def seconds(module: str) -> float:
    """How long a fresh interpreter takes for this import."""
    done = subprocess.run([sys.executable, "-c", CODE.format(module)], capture_output=True, text=True, check=True)
    return float(done.stdout)


def main() -> None:
    modules = ("numpy", "minicnn", "minicnn.models")
    times: dict[str, list[float]] = {module: [] for module in modules}
    for turn in range(ROUNDS + 2):
        for module in modules:
            took = seconds(module)
            if turn >= 2:  # the first rounds fill the disk cache
                times[module].append(took)
    medians = {module: statistics.median(values) for module, values in times.items()}
    results = {
        "milliseconds": {module: round(value * 1e3, 1) for module, value in medians.items()},
        "ratio_to_numpy": {module: round(medians[module] / medians["numpy"], 3) for module in modules[1:]},
        "rounds": ROUNDS,
    }
    print(results)
    write_record(Path(__file__).parent / "results" / "import_time.json", results)


if __name__ == "__main__":
    main()
