"""What the machine itself can do with so many threads: its matrix product and its copy. A roofline's yardsticks."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

SIDE = 1024  # of the square matrices: large enough to reach the full rate, small enough for 30 ms
COPIED = 64 << 20  # bytes: far more than the caches hold


def best_seconds(f: Callable[[], object], rounds: int) -> float:
    """The shortest of several rounds, after one that does not count: a ceiling is what was reached once."""
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        f()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def _on_all(threads: int, f: Callable[[int], object]) -> Callable[[], object]:
    """A function that runs f(0), …, f(threads - 1) side by side. NumPy lets go of Python's lock while it computes."""
    pool = ThreadPoolExecutor(threads)
    return lambda: list(pool.map(f, range(threads)))


def gemm_gflops(threads: int, rounds: int = 12, side: int = SIDE) -> float:
    """10^9 operations a second of float32 matrix products: the better of BLAS' own threads and one BLAS thread each."""
    rng = np.random.default_rng(0)
    a, b = (rng.random((threads, side, side), dtype=np.float32) for _ in range(2))
    out = np.empty_like(a)
    work = 2 * side**3
    with threadpool_limits(threads, user_api="blas"):
        together = work / best_seconds(lambda: np.matmul(a[0], b[0], out=out[0]), rounds)
    with threadpool_limits(1, user_api="blas"):
        apart = threads * work / best_seconds(_on_all(threads, lambda k: np.matmul(a[k], b[k], out=out[k])), rounds)
    return max(together, apart) / 1e9


def copy_gbs(threads: int, rounds: int = 12, size: int = COPIED) -> float:
    """10^9 bytes a second, read and written, of copies that do not fit into the caches."""
    source = np.ones((threads, size // threads // 4), np.float32)
    target = np.zeros_like(source)
    seconds = best_seconds(_on_all(threads, lambda k: np.copyto(target[k], source[k])), rounds)
    return 2 * source.nbytes / seconds / 1e9


def measure(threads: int, quick: bool = False) -> dict[str, Any]:
    """Both ceilings, of the CPU with so many threads."""
    few: dict[str, int] = {"rounds": 1} if quick else {}
    small = {"side": 128} if quick else {}
    return {
        "threads": threads,
        "gemm_gflops": round(gemm_gflops(threads, **few, **small), 1),
        "copy_gbs": round(copy_gbs(threads, **few), 1),
    }
