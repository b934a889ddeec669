"""How benchmarks/models.py talks to its sides: a line in starts a round, a line of JSON out tells its time."""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Callable


def serve(round_of_steps: Callable[[], int], versions: dict[str, str]) -> None:
    """Answer each line of stdin with a round. round_of_steps does the work and returns how many steps it was."""
    for _ in sys.stdin:
        start = time.perf_counter()
        steps = round_of_steps()
        seconds = time.perf_counter() - start
        answer = {
            "ms_per_step": seconds / steps * 1e3,
            "peak_mb": peak_memory_mb(),
            "versions": {"python": platform.python_version(), **versions},
        }
        print(json.dumps(answer), flush=True)


def peak_memory_mb() -> float:
    """The most memory this process ever held, in MiB; 0 where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)
