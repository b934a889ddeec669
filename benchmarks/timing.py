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


# A kernel that only takes time: on one thread, each turn waits for the one before, some 2 to 4 ns.
SPIN = """
extern "C" __global__ void spin(float* x, int turns) {
    float sum = x[0];
    for (int i = 0; i < turns; i++) sum = sum * 0.5f + 1;
    x[0] = sum;
}
"""
TURNS_A_MS = 500_000


def on_gpu(xp: Any, f: Callable[[], Any]) -> dict[str, float]:
    """Two calls. Of the first: launch_ms until Python had sent it off, ms until it was done.

    Of the second device_ms, by the device's own clock. It is sent off while the device still spins, so that all of its
    kernels wait in line: otherwise the device would wait for Python between them, and the clock would show Python.
    """
    stream, begin, end = xp.cuda.get_current_stream(), xp.cuda.Event(), xp.cuda.Event()
    stream.synchronize()
    start = time.perf_counter()
    f()
    launched = time.perf_counter()
    stream.synchronize()
    done = time.perf_counter()
    turns = min(int(2e3 * (launched - start) * TURNS_A_MS), 2**30)
    spin = xp.RawModule(code=SPIN, options=("-std=c++17",)).get_function("spin")
    spin((1,), (1,), (xp.zeros(1, np.float32), np.int32(turns)))
    begin.record()
    f()
    end.record()
    end.synchronize()
    return {
        "ms": (done - start) * 1e3,
        "device_ms": float(xp.cuda.get_elapsed_time(begin, end)),
        "launch_ms": (launched - start) * 1e3,
    }


def _summary(runs: list[dict[str, float]]) -> dict[str, float]:
    summary = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    times = [run["ms"] for run in runs]
    return {**summary, "fastest": min(times), "slowest": max(times)}
