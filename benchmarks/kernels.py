"""Time every kernel, and every algorithm of the convolution, on the shapes of the documents' layers.

    python benchmarks/kernels.py                        all of them, on all cores
    python benchmarks/kernels.py --threads 1            on one
    python benchmarks/kernels.py --only conv            some of them, by words of their names: --only relu,adam
    python benchmarks/kernels.py --device gpu           on the GPU; transfers, launch and device time apart
    python benchmarks/kernels.py --quick                only to see that it works: a second or two

What each is measured by: the machine's own matrix product (GFLOP/s) and copy (GB/s), taken in the same run. The batch
is cut into one shard for each thread, as training does it, and BLAS is held to one thread meanwhile.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cases
import ceilings
import numpy as np
import plots
from cases import SMALL, Case
from record import write_record
from threadpoolctl import threadpool_limits
from timing import in_turn, on_gpu

from minicnn.backend import module_for
from minicnn.errors import InputError
from minicnn.training.shards import Workers, split, usable_cores

HERE = Path(__file__).parent
PRODUCTS = ("conv", "dense")  # the groups whose work is multiplying; the others move numbers
SECONDS = 0.6  # for a kernel on a shape, all its algorithms together


class Machine:
    """Where the kernels run: the device, and with how many threads."""

    def __init__(self, device: str, threads: int):
        self.device, self.xp = device, module_for(device)
        self.threads = threads if device == "cpu" else 1
        self.pool = ThreadPoolExecutor(self.threads)

    def function(self, case: Case, workers: Workers) -> Callable[[], Any]:
        """What runs the case once, on the whole batch, with all threads."""
        if case.group == "optimizer":
            step = case.make(self.xp, case.batch, np.float32)
            return lambda: step(workers)
        shards = split(case.batch, self.threads)
        runs = [case.make(self.xp, shard.stop - shard.start, np.float32) for shard in shards]
        if len(runs) == 1:
            return runs[0]
        return lambda: [future.result() for future in [self.pool.submit(run) for run in runs]]

    def ceilings(self, quick: bool) -> dict[str, Any]:
        if self.device == "cpu":
            return ceilings.measure(self.threads, quick)
        return gpu_ceilings(self.xp, quick)


def gpu_ceilings(xp: Any, quick: bool) -> dict[str, Any]:
    """The GPU's own product (float32, as cuBLAS does it), its copy, and the way between host and device."""
    side, size = (128, 1 << 16) if quick else (4096, 256 << 20)
    a, b = (xp.asarray(np.random.default_rng(0).random((side, side), dtype=np.float32)) for _ in range(2))
    host = np.ones(size // 4, np.float32)
    source = xp.asarray(host)
    product = min(on_gpu(xp, lambda: xp.matmul(a, b))["device_ms"] for _ in range(4))
    copy = min(on_gpu(xp, source.copy)["device_ms"] for _ in range(4))
    up = min(on_gpu(xp, lambda: xp.asarray(host))["ms"] for _ in range(4))
    down = min(on_gpu(xp, source.get)["ms"] for _ in range(4))
    return {
        "threads": 1, "gemm_gflops": round(2 * side**3 / product / 1e6, 1),
        "copy_gbs": round(2 * host.nbytes / copy / 1e6, 1),
        "to_device_gbs": round(host.nbytes / up / 1e6, 1), "to_host_gbs": round(host.nbytes / down / 1e6, 1),
    }  # fmt: skip


def measure(machine: Machine, chosen: list[Case], quick: bool) -> list[dict[str, Any]]:
    """A row for each case. Those that differ in the algorithm alone take turns."""
    groups: dict[tuple[str, str, str], list[Case]] = {}
    for case in chosen:
        if cases.runs_here(case, machine.xp):
            groups.setdefault((case.kernel, case.shape, case.way), []).append(case)
    rows = []
    with Workers(machine.threads) as workers, threadpool_limits(1, user_api="blas"):
        for together in groups.values():
            functions = [machine.function(case, workers) for case in together]
            times = in_turn(functions, 0 if quick else SECONDS, machine.device)
            for case, time_of in zip(together, times, strict=True):
                rows.append(row(case, time_of, cases.error(case, machine.xp)))
                if case.conv is not None:
                    on_cpu = machine.device == "cpu"
                    rows[-1]["auto"] = cases.chosen_by_auto(case.conv, machine.threads) if on_cpu else "im2col"
                print(line(rows[-1]), flush=True)
    return rows


def row(case: Case, times: dict[str, float], error: float | None) -> dict[str, Any]:
    """The record of one case; flops and bytes of the whole batch."""
    flops, moved = case.flops * case.batch, case.bytes * case.batch + case.fixed
    ms = times.get("device_ms", times["ms"])
    return {
        "group": case.group, "kernel": case.kernel, "algorithm": case.algorithm, "way": case.way, "shape": case.shape,
        "batch": case.batch, **{name: round(value, 4) for name, value in times.items()},
        "gflop": round(flops / 1e9, 6), "mb": round(moved / 1e6, 4),
        "gflops": round(flops / ms / 1e6, 2), "gbs": round(moved / ms / 1e6, 2),
        "error": None if error is None else float(f"{error:.1e}"),
    }  # fmt: skip


def add_shares(rows: list[dict[str, Any]], ceiling: dict[str, Any]) -> None:
    """What part of the machine's matrix product and of its copy each row reached, and how far from the floor it is.

    The floor is the time that the operations need at the product's rate, or the bytes at the copy's: the longer one.
    """
    for r in rows:
        r["share_of_gemm"] = round(r["gflops"] / ceiling["gemm_gflops"], 3)
        r["share_of_copy"] = round(r["gbs"] / ceiling["copy_gbs"], 3)
        floor = max(r["gflop"] * 1e3 / ceiling["gemm_gflops"], r["mb"] / ceiling["copy_gbs"])
        r["times_floor"] = round(r.get("device_ms", r["ms"]) / floor, 2)


def floor_table(rows: list[dict[str, Any]], farthest: int = 8) -> str:
    """The kernels that are farthest from their floor; of a convolution its fastest algorithm."""
    best: dict[str, dict[str, Any]] = {}
    for r in rows:
        if r["times_floor"] < best.get(name_of(r), {"times_floor": float("inf")})["times_floor"]:
            best[name_of(r)] = r
    worst = sorted(best.values(), key=lambda r: -r["times_floor"])[:farthest]
    within = sum(r["times_floor"] <= 3 for r in best.values())
    lines = [f"{within} of {len(best)} within 3 times the floor: operations / GFLOP/s or MB / GB/s. Farthest:"]
    return "\n".join(lines + [f"{name_of(r)[:42]:42} {r['algorithm']:9}{r['times_floor']:9.1f}" for r in worst])


def name_of(r: dict[str, Any]) -> str:
    return f"{r['kernel']} {r['shape']} {r['way']}"


def line(r: dict[str, Any]) -> str:
    error = "" if r["error"] is None else f"{r['error']:.0e}"
    rate = f"{r['gflops']:9.1f}" if r["group"] in PRODUCTS else f"{'':9}"
    launch = f"{r['launch_ms']:8.3f}" if "launch_ms" in r else ""
    ms = r.get("device_ms", r["ms"])
    return f"{name_of(r)[:42]:42} {r['algorithm']:9}{ms:9.3f}{launch}{rate}{r['mb']:9.2f}{r['gbs']:8.1f}{error:>8}"


def head(device: str) -> str:
    launch = f"{'launch':>8}" if device == "gpu" else ""
    rates = f"{'GFLOP/s':>9}{'MB':>9}{'GB/s':>8}{'error':>8}"
    return f"{'kernel, one sample, way':42} {'algorithm':9}{'ms':>9}{launch}{rates}"


def compare_algorithms(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each convolution: every algorithm's time as a part of im2col's, the fastest, and what "auto" takes."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for r in rows:
        if r["group"] == "conv":
            groups.setdefault(name_of(r), []).append(r)
    found = []
    for name, together in groups.items():
        ms = {r["algorithm"]: r.get("device_ms", r["ms"]) for r in together}
        auto = together[0]["auto"]
        found.append({
            "name": name, "fastest": min(ms, key=lambda algorithm: ms[algorithm]), "auto": auto,
            "auto_over_fastest": round(ms[auto] / min(ms.values()), 3) if auto in ms else None,
            "of_im2col": {algorithm: round(time / ms["im2col"], 3) for algorithm, time in ms.items()},
        })  # fmt: skip
    return found


def algorithm_table(compared: list[dict[str, Any]]) -> str:
    names = list(dict.fromkeys(a for c in compared for a in c["of_im2col"]))
    lines = [f"{'time, im2col = 1':42}" + "".join(f"{name:>10}" for name in names) + "   auto takes"]
    for c in compared:
        times = "".join(f"{c['of_im2col'][a]:10.2f}" if a in c["of_im2col"] else f"{'':10}" for a in names)
        note = ""
        if c["auto_over_fastest"] is not None and c["auto_over_fastest"] > 1.05:
            note = f"; {c['fastest']} is {c['auto_over_fastest']:.2f} times as fast"
        lines.append(f"{c['name'][:42]:42}{times}   {c['auto']}{note}")
    return "\n".join(lines)


COLORS = {
    "im2col": "#1565c0", "shifted": "#2e7d32", "winograd": "#c62828", "fft": "#ef8e3b", "implicit": "#6a1b9a",
    "loops": "#b0b0b0",
}  # fmt: skip
MARKS = {"forward": "o", "dw": "s", "dx+dw": "D"}


def picture(
    rows: list[dict[str, Any]], compared: list[dict[str, Any]], ceiling: dict[str, Any], path: str
) -> None:
    """The roofline of what multiplies, the algorithms of each convolution, and the copy rate of what moves numbers."""
    canvas, (roof, algorithms, moving) = plots.figure(15, 0.16 * max(30, len(compared)), columns=3)
    large = [c for c in compared if SMALL.text not in c["name"]]
    if large:  # the small convolution is there for the naive loops: it would squeeze the others' scales
        rows, compared = [r for r in rows if r["shape"] != SMALL.text], large
    _roofline(roof, [r for r in rows if r["group"] in PRODUCTS and r["algorithm"] != "loops"], ceiling)
    labels: set[str] = set()
    for y, c in enumerate(compared):
        for name, time_of in c["of_im2col"].items():
            if name != "loops":
                algorithms.plot(time_of, y, "o", color=COLORS[name], ms=4, label=None if name in labels else name)
                labels.add(name)
        if c["auto"] in c["of_im2col"]:
            algorithms.plot(c["of_im2col"][c["auto"]], y, "o", color="black", ms=7, mfc="none", mew=0.7,
                            label=None if y else '"auto" takes')  # fmt: skip
    algorithms.set_yticks(range(len(compared)), [c["name"].removeprefix("conv2d ") for c in compared], fontsize=6)
    algorithms.invert_yaxis()
    algorithms.set_xscale("log")
    plots.label(algorithms, "Algorithms of a convolution", "time, im2col = 1 (shorter is better)")
    if labels:
        algorithms.legend(fontsize=8, frameon=False)
    others = [r for r in rows if r["group"] not in PRODUCTS]
    moving.barh(range(len(others)), [r["gbs"] for r in others], color=plots.OURS, height=0.7)
    moving.set_yticks(range(len(others)), [f"{r['kernel']} {r['way']}" for r in others], fontsize=7)
    moving.invert_yaxis()
    moving.axvline(ceiling["copy_gbs"], color=plots.GREY, lw=1)
    plots.label(moving, "What moves numbers; the line: a plain copy", "GB/s")
    plots.save(canvas, path)


def _roofline(ax: Any, products: list[dict[str, Any]], ceiling: dict[str, Any]) -> None:
    peak, copy = ceiling["gemm_gflops"], ceiling["copy_gbs"]
    intensity = np.geomspace(0.5, 2000, 200)
    ax.loglog(intensity, np.minimum(peak, intensity * copy), color=plots.GREY, lw=1)
    labels: set[str] = set()
    for r in products:
        name = r["algorithm"] or r["kernel"]
        ax.plot(r["gflop"] * 1e3 / r["mb"], r["gflops"], MARKS[r["way"]], color=COLORS.get(r["algorithm"], "black"),
                ms=4, alpha=0.75, label=None if name in labels else name)  # fmt: skip
        labels.add(name)
    plots.label(ax, f"Roofline: {peak:.0f} GFLOP/s, {copy:.0f} GB/s", "operations for each byte", "GFLOP/s")
    if products:
        ax.legend(fontsize=8, frameon=False, loc="lower right", title="○ forward, □ dw, ◇ dx and dw",
                  title_fontsize=7)  # fmt: skip


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=usable_cores(), help="all cores unless given")
    parser.add_argument("--only", default="", help="words of names or groups, comma-separated")
    parser.add_argument("--device", choices=["cpu", "gpu"], default="cpu")
    parser.add_argument("--quick", action="store_true", help="small shapes, one round: no times to rely on")
    parser.add_argument("--output", help="the record (results/kernels.json; with --quick or --only none)")
    args = parser.parse_args()
    if args.output is None and not args.quick and not args.only:
        suffix = ("" if args.device == "cpu" else "_gpu") + ("_one_thread" if args.threads == 1 else "")
        args.output = str(HERE / "results" / f"kernels{suffix}.json")
    return args


def main() -> None:
    args = arguments()
    try:
        machine = Machine(args.device, args.threads)
    except InputError as error:
        sys.exit(str(error))
    chosen = cases.all_cases(args.quick, args.only)
    if not chosen:
        sys.exit(f"no kernel has {args.only!r} in its name; try conv, dense, relu, batchnorm, adam")
    start = time.perf_counter()
    before = machine.ceilings(args.quick)
    print(f"{args.device}, {machine.threads} threads: the machine's own matrix product {before['gemm_gflops']} "
          f"GFLOP/s, its copy {before['copy_gbs']} GB/s\n{head(args.device)}")  # fmt: skip
    rows = measure(machine, chosen, args.quick)
    after = machine.ceilings(args.quick)
    ceiling = {name: max(before[name], after[name]) for name in before}  # a ceiling is what was reached once
    add_shares(rows, ceiling)
    compared = compare_algorithms(rows)
    if compared:
        print("\n" + algorithm_table(compared))
    print("\n" + floor_table(rows))
    print(f"\nceilings: {ceiling}; {time.perf_counter() - start:.0f} s in all")
    if args.output:
        record = {"device": args.device, "ceilings": ceiling, "algorithms": compared, "rows": rows}
        write_record(args.output, record, threads=machine.threads)
        picture(rows, compared, ceiling, args.output)


if __name__ == "__main__":
    main()
