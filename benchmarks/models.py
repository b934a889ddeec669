"""Time the documents' networks, training and forward, against PyTorch and TensorFlow.

    python benchmarks/models.py                                  minicnn alone
    python benchmarks/models.py --peers torch,tensorflow         and the peers, where they are installed
    python benchmarks/models.py --peers torch --torch-python /path/to/python     a peer of another environment
    python benchmarks/models.py --quick                          only to see that it works: a few seconds

Each side runs in a process of its own. The sides take turns, round by round, so that a machine whose speed drifts slows
all of them alike. A ratio is that of the medians: our time to that of the fastest peer, each in its fastest variant.
On a GPU, float32 and TF32 are compared apart.
What a round of each side is stands at the top of worker_minicnn.py, worker_torch.py and worker_tensorflow.py.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import ceilings
import plots
import workloads
from record import fastest, write_record
from workloads import WORKLOADS, Workload

from minicnn.backend import module_for
from minicnn.errors import InputError
from minicnn.training.shards import usable_cores

HERE = Path(__file__).parent
WARM_UP = 2  # rounds that are not counted
REST = 0.1  # seconds before each: the threads of a side that was at work just now look out for more for a while
FIRST, LATER, OUTPUTS = 2e-4, 1e-2, 1e-4  # how far losses and outputs may be apart: see `differences`


# What `fit` sets for itself, for a peer: freed memory stays with the process (see minicnn/training/allocator.py).
KEPT = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40), "MALLOC_TOP_PAD_": str(128 << 20)}


class Side:
    """One process that runs rounds when it is told to."""

    def __init__(self, name: str, command: list[str], threads: int, env: dict[str, str] | None = None):
        self.name, self.rounds, self.more = name, [], {}
        self.peak_mb, self.versions = 0.0, {}
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - shown where the process fails
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True,
            env=pinned(threads) | (KEPT if name.endswith("kept") else {}) | (env or {}), cwd=HERE,
        )  # fmt: skip

    def run(self, count: bool = True) -> None:
        """One round, or a warm-up that is not counted."""
        time.sleep(REST)
        try:
            self.process.stdin.write("go\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended: so does its output
        line = self.process.stdout.readline()
        if not line:
            self.errors.seek(0)
            sys.exit(f"{self.errors.read()}\n{self.name} ended without an answer; its message stands above.")
        answer = json.loads(line)
        if count:
            self.rounds.append(answer["ms_per_step"])
            for name, value in answer["more"].items():
                self.more.setdefault(name, []).append(value)
        self.peak_mb, self.versions = answer["peak_mb"], answer["versions"]

    def close(self) -> None:
        """Let the process go: it has answered, or nobody waits for its answer any more."""
        self.process.kill()
        self.process.communicate()
        self.errors.close()

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    def result(self) -> dict[str, Any]:
        more = {name: round(statistics.median(values), 3) for name, values in self.more.items()}
        return {
            "ms_per_step": round(self.median, 3), "fastest": round(min(self.rounds), 3),
            "slowest": round(max(self.rounds), 3), "rounds": len(self.rounds),
            "peak_memory_mb": round(self.peak_mb), "versions": self.versions, **more,
        }  # fmt: skip


def pinned(threads: int) -> dict[str, str]:
    """The environment in which every library may use so many threads; which of them work is the side's own business."""
    return os.environ | {f"{name}_NUM_THREADS": str(threads) for name in ("OMP", "OPENBLAS", "MKL")}


def variants(framework: str, workload: Workload, device: str) -> list[str]:
    """The ways in which a side may do it: the fastest counts. Those with tf32, on a GPU, count among themselves.

    kept: with the setting of memory that `fit` makes for minicnn.
    """
    precisions = ["", "tf32"] if device == "gpu" else [""]
    if framework == "minicnn":
        return precisions
    if framework == "tensorflow":
        ways = ["step", "fit"] if "through fit" in workload.title else ["step"]
    elif any(op.kind == "conv" for op in workload.ops):
        ways = ["nchw", "channels_last"]
    else:
        ways = ["nchw"] if device == "gpu" else ["nchw", "flushed"]
    if device == "cpu":
        return ways + [f"{way} kept" for way in ways]
    return ways if framework == "tensorflow" else [f"{way} {p}".strip() for p in precisions for way in ways]


class Benchmark:
    """What the command line asked for."""

    def __init__(self, args: argparse.Namespace):
        self.args = args
        self.peers = [peer for peer in args.peers.split(",") if peer]
        given = {"torch": args.torch_python, "tensorflow": args.tensorflow_python}
        self.pythons = {name: python or args.peer_python for name, python in given.items()}
        self.pythons["minicnn"] = sys.executable

    def command(self, framework: str, names: str, threads: int, variant: str = "", *flags: str) -> list[str]:
        return [
            self.pythons[framework], f"worker_{framework}.py", names, "--threads", str(threads), "--variant", variant,
            "--device", self.args.device, *(["--quick"] if self.args.quick else []), *flags,
        ]  # fmt: skip

    def check(self, names: list[str], threads: int) -> str:
        """Compare the first losses of all sides. Ends the program where they differ: the times would mean nothing."""
        found = {}
        for framework in ("minicnn", *self.peers):
            command = self.command(framework, ",".join(names), threads, "", "--check")
            done = subprocess.run(command, capture_output=True, text=True, cwd=HERE, env=pinned(threads))
            if done.returncode:
                sys.exit(f"{done.stderr}\n{framework} could not run; its message stands above.")
            found[framework] = json.loads(done.stdout.splitlines()[-1])
        for name in names:
            for peer in self.peers:
                wrong = differences(WORKLOADS[name], found["minicnn"][name], found[peer][name])
                if wrong:
                    sys.exit(f"{name}: minicnn and {peer} do not compute the same: {wrong}")
        return f"{', '.join(found)} agree on the first losses and outputs, without dropout"

    def measure(self, name: str, threads: int, rounds: int) -> dict[str, Any]:
        """All sides of one workload, in turn. Prints their times and returns the record."""
        workload = workloads.get(name, self.args.quick)
        sides: list[Side] = []
        try:
            for framework in ("minicnn", *self.peers):
                for variant in variants(framework, workload, self.args.device):
                    command = self.command(framework, name, threads, variant)
                    sides.append(Side(f"{framework} {variant}".strip(), command, threads))
            for turn in range(rounds + WARM_UP):
                for side in sides:
                    side.run(count=turn >= WARM_UP)
        finally:  # also where one failed, or someone pressed Ctrl-C
            for side in sides:
                side.close()
        result = compared(sides, workload, threads, self.args.device)
        print(f"\n{workload.title}, {threads} thread{'s' if threads > 1 else ''}")
        for side in sides:
            spread = f"{min(side.rounds):.2f}-{max(side.rounds):.2f}"
            print(f"  {side.name:22} {side.median:9.2f} ms a step ({spread}), peak {side.peak_mb:.0f} MiB")
            if side.more:
                print("  " + ", ".join(f"{name} {statistics.median(v):.3f}" for name, v in side.more.items()))
        return result


def differences(workload: Workload, ours: list[float], theirs: list[float]) -> str:
    """What is wrong with the numbers of two sides; "" if nothing is.

    The first loss, and outputs, must agree to rounding. After it, rounding grows from step to step.
    """
    if len(ours) != len(theirs):
        return f"{len(ours)} and {len(theirs)} numbers"
    whole = abs(theirs[0]) if workload.mode == "train" else max(map(abs, theirs))
    for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        allowed = OUTPUTS if workload.mode == "forward" else FIRST if i == 0 else LATER
        if not abs(a - b) <= allowed * whole:
            return f"number {i + 1} is {a:.6g} and {b:.6g}"
    return ""


def compared(sides: list[Side], workload: Workload, threads: int, device: str) -> dict[str, Any]:
    """The record of one workload: each side's times, and the ratios to the peers; those of TF32 under "tf32"."""
    result: dict[str, Any] = {
        "title": workload.title, "threads": threads, "batch": workload.batch, "mode": workload.mode,
        "goal": workload.goal_on(device), "sides": {side.name: side.result() for side in sides},
    }  # fmt: skip
    exact = [side for side in sides if not side.name.endswith("tf32")]
    if len(exact) > 1:
        result |= ratios(exact)
        rounded = [side for side in sides if side.name.endswith("tf32")]
        if len(rounded) > 1:
            result["tf32"] = ratios(rounded)
    return result


def ratios(sides: list[Side]) -> dict[str, Any]:
    """Of the first side, ours, to the others."""
    ours, best = sides[0], min(sides[1:], key=lambda side: side.median)
    turns = sorted(a / b for a, b in zip(ours.rounds, best.rounds, strict=True))
    found: dict[str, Any] = {
        "fastest_peer": best.name, "ratio": round(ours.median / best.median, 3),
        "ratio_by_round": {"lowest": round(turns[0], 3), "highest": round(turns[-1], 3)},
        "ratios": {side.name: round(ours.median / side.median, 3) for side in sides[1:]},
    }  # fmt: skip
    if best.peak_mb:
        found["memory_ratios"] = {side.name: round(ours.peak_mb / side.peak_mb, 3) for side in sides[1:]}
    return found


def gain_of_threads(ours: dict[int, float], quick: bool) -> dict[str, Any]:
    """How much faster all threads are than one: of our step, and of the machine's own matrix product and copy."""
    one, many = min(ours), max(ours)
    machine = {threads: ceilings.measure(threads, quick) for threads in (one, many)}
    gain = {
        "threads": many,
        "minicnn": round(ours[one] / ours[many], 3),
        "gemm": round(machine[many]["gemm_gflops"] / machine[one]["gemm_gflops"], 3),
        "copy": round(machine[many]["copy_gbs"] / machine[one]["copy_gbs"], 3),
        "ceilings": list(machine.values()),
    }
    print(
        f"\n{many} threads are {gain['minicnn']:.2f} times as fast as {one} in a training step; the machine's own "
        f"matrix product {gain['gemm']:.2f} times, its copy {gain['copy']:.2f} times."
    )
    return gain


def table(results: dict[str, Any]) -> str:
    """Ours, the fastest variant of each peer, the ratio to the faster peer, and the goal; TF32 in rows of its own."""
    peers = list(dict.fromkeys(side.split()[0] for r in results.values() for side in list(r["sides"])[1:]))
    peers = [peer for peer in peers if peer != "minicnn"]
    head = f"{'ms a step':46} {'minicnn':>10}" + "".join(f"{p:>12}" for p in peers)
    lines = [head + (f"{'ratio':>8}{'goal':>7}" if peers else "")]
    missed = False
    for result in results.values():
        for precision in ("", "tf32"):
            ours = fastest(result, "minicnn", precision)
            if ours is None:
                continue
            cells = f"{'   the same in TF32' if precision else result['title'][:46]:46} {ours:10.2f}"
            for peer in peers:
                ms = fastest(result, peer, precision)
                cells += f"{'':12}" if ms is None else f"{ms:12.2f}"
            ratio = (result.get("tf32", {}) if precision else result).get("ratio")
            if ratio is not None:
                above = not precision and result["goal"] is not None and ratio > result["goal"]
                missed = missed or above
                goal = "" if precision or result["goal"] is None else f"{result['goal']:.2f}"
                cells += f"{ratio:8.2f}{goal:>7}{'  *' if above else ''}"
            lines.append(cells)
    return "\n".join([*lines, *(["* above the goal"] if missed else [])])


def picture(results: dict[str, Any], path: str) -> None:
    """Bars: the time of each side as a part of the faster peer's, or in ms where there is no peer."""
    canvas, ax = plots.figure(7.5, 0.8 + 0.62 * len(results))
    names = list(dict.fromkeys(side.split()[0] for r in results.values() for side in r["sides"]))
    peers = names[1:]
    height = 0.8 / len(names)
    for row, result in enumerate(results.values()):
        times = {name: fastest(result, name) for name in names}
        best = min((times[peer] for peer in peers if times[peer] is not None), default=1.0)
        for k, name in enumerate(names):
            ms = times[name]
            if ms is None:
                continue
            y = row + (k - (len(names) - 1) / 2) * height
            ax.barh(y, ms / best, height * 0.9, color=plots.OURS if k == 0 else plots.PEERS[k - 1],
                    label=name if row == 0 else None)  # fmt: skip
            ax.text(ms / best, y, f" {ms:.3g} ms", va="center", fontsize=7, color=plots.GREY)
        if peers and result["goal"] is not None:
            ax.plot([result["goal"]] * 2, [row - 0.45, row + 0.45], color=plots.GOAL, lw=1.2,
                    label="goal" if row == 0 else None)  # fmt: skip
    ax.set_yticks(range(len(results)), [result["title"].replace(", ", ",\n", 1) for result in results.values()])
    ax.invert_yaxis()
    ax.margins(x=0.12)
    plots.label(ax, "Time of a step; shorter is better", "of the faster peer's time" if peers else "ms")
    if peers:
        ax.axvline(1, color=plots.GREY, lw=0.6, ls=":")
        ax.legend(fontsize=8, frameon=False, ncols=4, loc="lower center", bbox_to_anchor=(0.4, 1.06))
    plots.save(canvas, path)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", default="", help="torch, tensorflow, torch,tensorflow, or nothing")
    parser.add_argument("--peer-python", default=sys.executable, help="the Python that has the peers installed")
    parser.add_argument("--torch-python", help="the one that has PyTorch, if that is another")
    parser.add_argument("--tensorflow-python", help="the one that has TensorFlow, if that is another")
    parser.add_argument("--workloads", help="comma-separated (those of the device)")
    parser.add_argument("--threads", type=int, default=usable_cores(), help="for every side (all cores)")
    parser.add_argument("--one-thread", default="cifar", help="workloads to be measured on one thread, too")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--no-check", action="store_true", help="do not compare the first losses")
    parser.add_argument("--device", choices=["cpu", "gpu"], default="cpu")
    parser.add_argument("--quick", action="store_true", help="few samples, one round: no times to rely on")
    parser.add_argument("--output", help="the record (results/models.json; with --quick none)")
    args = parser.parse_args()
    args.workloads = args.workloads or ",".join(workloads.names_on(args.device))
    for name in [*args.workloads.split(","), *filter(None, args.one_thread.split(","))]:
        if name not in WORKLOADS:
            parser.error(f"no workload {name!r}; there are {', '.join(WORKLOADS)}")
    for peer in filter(None, args.peers.split(",")):
        if peer not in ("torch", "tensorflow"):
            parser.error(f"no peer {peer!r}; there are torch and tensorflow")
    if args.output is None and not args.quick:
        suffix = "" if args.device == "cpu" else "_gpu"
        args.output = str(HERE / "results" / f"models{suffix}.json")
    return args


def main() -> None:
    args = arguments()
    try:
        module_for(args.device)
    except InputError as error:
        sys.exit(str(error))
    start = time.perf_counter()
    names, rounds = args.workloads.split(","), 1 if args.quick else args.rounds
    one_thread = [name for name in args.one_thread.split(",") if name in names and args.threads > 1]
    benchmark = Benchmark(args)
    print(f"{args.threads} threads for every side; {rounds} rounds; on the {args.device}")
    record: dict[str, Any] = {"seed": 0, "device": args.device, "rounds": rounds}
    if benchmark.peers and not args.no_check:
        record["checked"] = benchmark.check(names, args.threads)
        print(record["checked"])
    record["workloads"] = results = {}
    record["one_thread"] = alone = {}
    try:
        for name in names:
            results[name] = benchmark.measure(name, args.threads, rounds)
        if args.device == "cpu":
            for name in one_thread:
                alone[name] = benchmark.measure(name, 1, rounds)
            if alone:
                name, first = next(iter(alone.items()))
                ours = {r["threads"]: r["sides"]["minicnn"]["ms_per_step"] for r in (first, results[name])}
                record["gain_of_threads"] = gain_of_threads(ours, args.quick)
    finally:  # what was measured stays, where a later side fails or someone presses Ctrl-C
        if results:
            print(f"\n{table(results)}\n{time.perf_counter() - start:.0f} s in all")
        if results and args.output:
            write_record(args.output, record)
            picture(results, args.output)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("stopped; what was measured until then stands above")
