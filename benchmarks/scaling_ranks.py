"""`python benchmarks/scaling.py --ranks 1,2`: several ranks against as many cores of one fit, and a forecast.

Each number of ranks k is run twice on this machine: as k ranks of one thread, and as one `fit` on k cores. They take
turns, each in processes of its own. What goes over the network in a step is counted, and timed by itself. From
that, and from what a network can do, a model says what 2 to 64 machines would gain.

    a step of k ranks = compute / k + fixed + messages(k)                       fixed: what a batch of 0 would take
    messages(k)       = small * (overhead + latency * log2 k)                   meetings, sums, batch normalisation
                        + 2 (k - 1) * (latency + bytes / (k * bandwidth))       the gradients: Alltoall, Allgather
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import workloads
from record import write_record
from worker_minicnn import build

import minicnn
from minicnn.layers import BatchNormalization
from minicnn.ranks import get_group

HERE = Path(__file__).parent
# (seconds that a message takes, bytes a second), as their makers and usual measurements have them.
NETWORKS = {
    "Ethernet, 1 Gbit/s": (40e-6, 0.117e9),
    "Ethernet, 10 Gbit/s": (25e-6, 1.17e9),
    "InfiniBand, 100 Gbit/s": (2e-6, 12e9),
}
RANKS = (2, 4, 8, 16, 32, 64)


# ---- what a rank does ------------------------------------------------------------------------------------------------


def work(name: str, threads: int, quick: bool) -> None:
    """One side: prints its figures as JSON (rank 0, if there are several)."""
    minicnn.set_num_threads(threads)
    workload, group, steps = workloads.get(name, quick), get_group(), 2 if quick else 6
    epochs = 1 if quick else 10  # a long fit, as one usually is
    model = build(workload)
    x, y = workloads.data(replace(workload, batches=steps))
    times = []
    for _ in range(2 if quick else 4):
        start = time.perf_counter()
        model.fit(x, y, batch_size=workload.batch, epochs=epochs, verbose=0)
        times.append((time.perf_counter() - start) / steps / epochs * 1e3)
    few = []
    for _ in range(2 if quick else 5):
        start = time.perf_counter()
        model.fit(x[: 2 * steps], y[: 2 * steps], batch_size=2, verbose=0)
        few.append((time.perf_counter() - start) / steps * 1e3)
    whole, small = statistics.median(times[1:]), statistics.median(few[1:])
    fixed = max(0.0, small - 2 * (whole - small) / max(workload.batch - 2, 1))  # of the line through both
    gradients = np.ones(sum(p.size for layer in model.flat_layers for p in layer.params.values()), np.float32)
    norms = sum(isinstance(layer, BatchNormalization) for layer in model.flat_layers)
    found: dict[str, Any] = {"ms": times[1:], "fixed_ms": round(fixed, 3), "batch": workload.batch}
    found |= {"bytes": gradients.nbytes, "norms": norms}
    if group.size > 1:
        found["gradients_ms"] = clocked(lambda: group.all_reduce(gradients), 2 if quick else 20)
        found["meeting_ms"] = clocked(lambda: group.meet("a figure"), 5 if quick else 200)
    print(json.dumps(found))


def clocked(f: Any, times: int) -> float:
    """The median, in ms, after a meeting of all ranks."""
    found = []
    for _ in range(times):
        get_group().barrier()
        start = time.perf_counter()
        f()
        found.append((time.perf_counter() - start) * 1e3)
    return statistics.median(found)


# ---- the comparison --------------------------------------------------------------------------------------------------


def side(name: str, ranks: int, threads: int, quick: bool) -> dict[str, Any]:
    mpiexec = shutil.which("mpiexec", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if ranks > 1 and mpiexec is None:
        sys.exit('mpiexec is not there. What to do: python -m pip install "minicnn[mpi]"')
    start = [str(mpiexec), "--bind-to", "none", "-n", str(ranks)] if ranks > 1 else []
    worker = [sys.executable, str(HERE / "scaling_ranks.py"), "--workload", name, "--threads", str(threads)]
    done = subprocess.run([*start, *worker, *["--quick"] * quick], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr + done.stdout)
    return json.loads(done.stdout.splitlines()[-1])


def compare(name: str, counts: list[int], quick: bool, rounds: int) -> list[dict[str, Any]]:
    """For each number of ranks: ms a step of so many, and of one fit on so many cores; the median of all rounds."""
    sides = {(k, 1): [] for k in counts} | {(1, k): [] for k in counts}
    for _ in range(1 if quick else rounds):
        for (ranks, threads), found in sides.items():
            found.append(side(name, ranks, threads, quick))
    ms = {key: statistics.median(t for one in found for t in one["ms"]) for key, found in sides.items()}
    points = []
    for k in counts:
        last = sides[k, 1][-1]
        point = {"ranks": k, "ms": round(ms[k, 1], 2), "threads_ms": round(ms[1, k], 2), "bytes": last["bytes"],
                 "batch": last["batch"], "norms": last["norms"], "fixed_ms": sides[1, k][-1]["fixed_ms"]}  # fmt: skip
        point["efficiency"] = round(ms[1, k] / ms[k, 1], 3)
        if k > 1:
            for what in ("gradients_ms", "meeting_ms"):
                point[what] = round(statistics.median(one[what] for one in sides[k, 1]), 3)
        points.append(point)
    return points


def forecast(compute: float, fixed: float, bytes_: int, norms: int, overhead: float) -> dict[str, list[float]]:
    """By network: how many times as fast as one machine each number of RANKS is, by the model above. Times in s."""
    small = 4 + 3 * norms  # a meeting, the sums, two looks ahead; three sums of each batch normalisation
    result = {}
    for name, (latency, bandwidth) in NETWORKS.items():
        result[name] = []
        for k in RANKS:
            messages = small * (overhead + latency * math.log2(k))
            messages += 2 * (k - 1) * (latency + bytes_ / (k * bandwidth))
            result[name].append(round((compute + fixed) / (compute / k + fixed + messages), 2))
    return result


def main(args: argparse.Namespace) -> None:
    """What `scaling.py --ranks` does."""
    counts = sorted({int(k) for k in args.ranks.split(",")})
    points = compare(args.workload, counts, args.quick, rounds=3)
    print(f"{'ranks':>6}{'ms a step':>12}{'one fit':>12}{'efficiency':>12}{'all-reduce':>14}{'a meeting':>12}")
    for p in points:
        more = f"{p['gradients_ms']:11.2f} ms{p['meeting_ms']:9.3f} ms" if "meeting_ms" in p else ""
        print(f"{p['ranks']:>6}{p['ms']:12.2f}{p['threads_ms']:12.2f}{p['efficiency']:12.3f}{more}")
    first, last = points[0], points[-1]
    one = first["threads_ms"] if first["ranks"] == 1 else first["threads_ms"] * first["ranks"]
    fixed = min(first["fixed_ms"], one)
    overhead = last.get("meeting_ms", 0.05) / 1e3
    table = forecast((one - fixed) / 1e3, fixed / 1e3, first["bytes"], first["norms"], overhead)
    what = f"{first['bytes'] / 1e6:.1f} MB of gradients, batch {first['batch']}"
    print(f"\nForecast for {what}: how many times as fast as one thread")
    print(f"{'ranks':>24}" + "".join(f"{k:>8}" for k in RANKS))
    for name, gains in table.items():
        print(f"{name:>24}" + "".join(f"{gain:8.1f}" for gain in gains))
    if args.output:
        write_record(args.output, {"workload": args.workload, "points": points, "forecast": table}, threads=counts[-1])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", default="cifar")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    work(options.workload, options.threads, options.quick)
