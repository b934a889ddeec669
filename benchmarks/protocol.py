"""How benchmarks/models.py talks to its sides: processes that do a round when told to, and answer with a line of JSON.

    python worker_….py WORKLOAD[,WORKLOAD…] --threads 2 [--variant NAME] [--device gpu] [--quick] [--check]

Each worker defines a class of sides: Side(workload, variant, device, dropout) with round(), check() and versions().
--check: not for the time; prints each workload's first losses, or outputs, without dropout, which must agree.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from typing import Any, Protocol

import workloads
from record import peak_memory_mb

CHECKED_STEPS = 3


class Worked(Protocol):
    """One side of one workload."""

    def round(self) -> dict[str, float]:
        """Do all batches once. On a GPU: wait for it, and return more times, in ms a step (launch_ms, device_ms, …)."""

    def check(self) -> list[float]:
        """The losses of the first CHECKED_STEPS training steps; or numbers of the first batch's outputs."""

    def versions(self) -> dict[str, str]: ...


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("workloads", type=lambda text: text.split(","))
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--variant", default="")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    pin(args.threads)
    return args


def pin(threads: int) -> None:
    """Keep this process on so many cores, where the system can: no library can then use more behind our back."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def work(side: Any, args: argparse.Namespace) -> None:
    """The worker's main program; side: its class."""
    if args.check:
        found = {}
        for name in args.workloads:
            workload = workloads.get(name).checked()
            found[name] = side(workload, args.variant, args.device, dropout=False).check()
        print(json.dumps(found), flush=True)
        return
    (name,) = args.workloads
    workload = workloads.get(name, args.quick)
    serve(side(workload, args.variant, args.device, dropout=True), workload.batches)


def serve(side: Worked, steps: int) -> None:
    """Answer each line of stdin with a round of so many steps; a side with `all_rounds` may do so by itself."""
    rounds, by_itself = Rounds(side, steps), getattr(side, "all_rounds", None)
    if by_itself is None or not by_itself(rounds):
        while rounds.begin():
            rounds.end(side.round())


class Rounds:
    """The rounds that are asked for: begin() waits for the next one, end(more) answers. steps: of each."""

    def __init__(self, side: Worked, steps: int):
        self.side, self.steps, self.start = side, steps, 0.0

    def begin(self) -> bool:
        """Whether there is one more."""
        if not sys.stdin.readline():
            return False
        self.start = time.perf_counter()
        return True

    def end(self, more: dict[str, float]) -> None:
        seconds = time.perf_counter() - self.start
        answer = {
            "ms_per_step": seconds / self.steps * 1e3,
            "more": more,
            "peak_mb": peak_memory_mb(),
            "versions": {"python": platform.python_version(), **self.side.versions()},
        }
        print(json.dumps(answer), flush=True)
