"""Taking the time of functions, in turn, on the CPU or on a GPU."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minicnn.backend import module_for

LEAST, MOST = 3, 25  # rounds


def in_turn(functions: Sequence[Callable[[], Any]], seconds: float, device: str = "cpu") -> list[dict[str, float]]:
    """Times of each function, in ms: {"ms": median, "fastest", "slowest"}; on a GPU device and launch time, too.

    They take turns, so that a machine whose speed drifts slows all of them alike; as many rounds as fit into `seconds`,
    after one that does not count.
    """
    xp = module_for(device)
    once = [_once(xp, f) for f in functions]
    whole = sum(run["ms"] for run in once) / 1e3
    rounds = min(MOST, max(LEAST, int(seconds / max(whole, 1e-9)))) if seconds else 1
    runs: list[list[dict[str, float]]] = [[] for _ in functions]
    for _ in range(rounds):
        for f, found in zip(functions, runs, strict=True):
            found.append(_once(xp, f))
    return [_summary(found) for found in runs]


def _once(xp: Any, f: Callable[[], Any]) -> dict[str, float]:
    if xp is np:
        start = time.perf_counter()
        f()
        return {"ms": (time.perf_counter() - start) * 1e3}
    return on_gpu(xp, f)


def on_gpu(xp: Any, f: Callable[[], Any]) -> dict[str, float]:
    """One call: device_ms by the device's own clock, launch_ms until Python had sent it off, ms until it was done."""
    begin, end = xp.cuda.Event(), xp.cuda.Event()
    xp.cuda.get_current_stream().synchronize()
    start = time.perf_counter()
    begin.record()
    f()
    end.record()
    launched = time.perf_counter()
    end.synchronize()
    done = time.perf_counter()
    return {
        "ms": (done - start) * 1e3,
        "device_ms": float(xp.cuda.get_elapsed_time(begin, end)),
        "launch_ms": (launched - start) * 1e3,
    }


def _summary(runs: list[dict[str, float]]) -> dict[str, float]:
    summary = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    times = [run["ms"] for run in runs]
    return {**summary, "fastest": min(times), "slowest": max(times)}
