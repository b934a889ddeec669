"""Time training steps of the documents' networks against PyTorch, and record the ratios.

    python benchmarks/models.py                         minicnn alone
    python benchmarks/models.py --peers torch           and PyTorch, where it is installed
    python benchmarks/models.py --peers torch --peer-python /path/to/python     PyTorch of another environment

Each side runs in a process of its own. The sides take turns, round by round, so that a machine whose speed drifts slows
all of them alike. The ratio is that of the medians; PyTorch counts with the fastest of its variants: two memory layouts
for the convolutional network, and for the dense one without and with denormal numbers flushed to 0.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from record import write_record
from workloads import WORKLOADS

HERE = Path(__file__).parent


class Side:
    """One process that runs rounds when it is told to."""

    def __init__(self, name: str, command: list[str], threads: int):
        count = str(threads)
        pinned = {"OMP_NUM_THREADS": count, "OPENBLAS_NUM_THREADS": count, "MKL_NUM_THREADS": count}
        # Here each side may use all its threads; which of them work at a time is the side's own business.
        environment = os.environ | pinned
        self.name, self.rounds, self.peak_mb, self.versions = name, [], 0.0, {}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=HERE
        )

    def run(self, count: bool = True) -> None:
        """One round, or a warm-up that is not counted."""
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.name} ended without an answer; its message stands above.")
        answer = json.loads(line)
        if count:
            self.rounds.append(answer["ms_per_step"])
        self.peak_mb, self.versions = answer["peak_mb"], answer["versions"]

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    def result(self) -> dict:
        return {
            "ms_per_step": round(self.median, 3), "fastest": round(min(self.rounds), 3),
            "slowest": round(max(self.rounds), 3), "rounds": len(self.rounds),
            "peak_memory_mb": round(self.peak_mb), "versions": self.versions,
        }  # fmt: skip


def measure(workload: str, peers: list[str], python: str, threads: int, rounds: int) -> dict:
    """All sides of one workload, in turn. Prints a table and returns the record."""
    sides = [Side("minicnn", [sys.executable, "worker_minicnn.py", workload, str(threads)], threads)]
    if "torch" in peers:
        for layout in ("nchw", "channels_last") if workload == "cifar" else ("nchw", "flushed"):
            sides.append(Side(f"torch {layout}", [python, "worker_torch.py", workload, str(threads), layout], threads))
    for turn in range(rounds + 2):
        for side in sides:
            side.run(count=turn >= 2)
    for side in sides:
        side.close()
    print(f"\n{WORKLOADS[workload].title}, {threads} threads")
    for side in sides:
        spread = f"{min(side.rounds):.2f}-{max(side.rounds):.2f}"
        print(f"  {side.name:22} {side.median:9.2f} ms a step ({spread}), peak {side.peak_mb:.0f} MiB")
    result = {"threads": threads, "sides": {side.name: side.result() for side in sides}}
    if len(sides) > 1:
        ours, best = sides[0], min(sides[1:], key=lambda side: side.median)
        result["ratio_to_torch"] = round(ours.median / best.median, 3)
        result["ratios"] = {side.name: round(ours.median / side.median, 3) for side in sides[1:]}
        result["memory_ratio_to_torch"] = round(ours.peak_mb / min(side.peak_mb for side in sides[1:]), 3)
        print(f"  ratios {result['ratios']}; memory {result['memory_ratio_to_torch']}")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", default="", help="torch, or nothing")
    parser.add_argument("--peer-python", default=sys.executable, help="the Python that has the peers installed")
    parser.add_argument("--workloads", default=",".join(WORKLOADS), help="comma-separated")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="for every side")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--output", default=str(HERE / "results" / "models.json"))
    args = parser.parse_args()
    peers = [peer for peer in args.peers.split(",") if peer]
    results = {
        name: measure(name, peers, args.peer_python, args.threads, args.rounds) for name in args.workloads.split(",")
    }
    write_record(args.output, {"workloads": results}, seed=0)


if __name__ == "__main__":
    main()
