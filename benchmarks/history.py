"""What each change for speed has brought: the version before it and the one after it, in turn, on the same machine.

    python benchmarks/history.py                      all changes; about six minutes
    python benchmarks/history.py --only dense,vgg16   those that concern these workloads
    python benchmarks/history.py --quick              only to see that it works

Both versions come out of the git repository, so this needs one. A row is a change and a workload of workloads.py: the
medians before and after, their ratio, and how many lines of minicnn the change has added and removed.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import workloads
from models import WARM_UP, Side
from record import write_record
from workloads import WORKLOADS

from minicnn.training.shards import usable_cores

HERE = Path(__file__).parent


class Change(NamedTuple):
    """A commit, or all that came after `since` up to it; what it does; the workloads that it is for."""

    commit: str
    title: str
    workloads: tuple[str, ...]
    since: str = ""

    @property
    def before(self) -> str:
        return self.since or f"{self.commit}^"


CHANGES = [
    Change("2f69a67", "GELU by a float32 tail, in tiles that stay in the cache", ("fast",)),
    Change("5394064", "first convolution by taps; Winograd cut by its kernel", ("cifar", "vgg16")),
    Change("ec7612e", "nodes and shapes put together once", ("dense", "cifar_forward_1")),
    Change("246a98e", "freed memory stays for the next step", ("cifar", "small_vgg", "fast")),
    Change("f9baf84", "a step asks for less in Python", ("dense",)),
    Change("5027a8e", "what fit looks at stays in the cache; rows by take", ("dense",)),
    Change("276cf5b", "Adam in ten passes", ("dense", "dense_800", "cifar")),
    Change("ac36e4c", "windows worked out once for each shape", ("dense", "cifar_forward_1")),
    Change("4d861d9", "neighbouring layers run as one in training", ("cifar", "small_vgg", "fast")),
    Change("49bc04e", "what prediction makes of weights is kept", ("cifar_forward_1", "cifar_forward_256", "vgg16")),
    Change("ce81805", "pooling in the layout of Winograd's tiles", ("cifar", "cifar_forward_256")),
    Change("HEAD", "all together", tuple(workloads.names_in_a_row()), since="d249bac"),
]


def git(*command: str) -> bytes:
    """What git prints. Ends the program where there is no repository, or no such commit."""
    done = subprocess.run(["git", "-C", str(HERE.parent), *command], capture_output=True)
    if done.returncode:
        sys.exit(f"{done.stderr.decode().strip()}\nhistory.py needs the git repository, with all of its commits.")
    return done.stdout


def checked_out(commit: str, folder: Path) -> Path:
    """A folder with minicnn as it was at that commit."""
    root = folder / git("rev-parse", "--short", commit).decode().strip()
    if not root.exists():
        with tarfile.open(fileobj=io.BytesIO(git("archive", commit, "--", "minicnn"))) as archive:
            archive.extractall(root, filter="data")
    return root


def lines(change: Change) -> tuple[int, int]:
    """(added, removed) in minicnn."""
    files = git("diff", "--numstat", change.before, change.commit, "--", "minicnn").splitlines()
    counts = [file.split()[:2] for file in files]
    numbers = [(int(added), int(removed)) for added, removed in counts if added != b"-"]  # "-": not a text
    return sum(added for added, _ in numbers), sum(removed for _, removed in numbers)


def measure(change: Change, name: str, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """The record of one row: both versions in turn."""
    sides = []
    try:
        for commit in (change.before, change.commit):
            command = [
                sys.executable, "worker_history.py", name, "--threads", str(args.threads),
                *(["--quick"] if args.quick else []),
            ]  # fmt: skip
            sides.append(Side("minicnn", command, args.threads, {"PYTHONPATH": str(checked_out(commit, folder))}))
        for turn in range((1 if args.quick else args.rounds) + WARM_UP):
            for side in sides:
                side.run(count=turn >= WARM_UP)
    finally:
        for side in sides:
            side.close()
    before, after = sides
    turns = sorted(b / a for a, b in zip(before.rounds, after.rounds, strict=True))
    added, removed = (None, None) if change.since else lines(change)  # most of what came since is not for speed
    return {
        "change": change.title, "commit": change.commit, "since": change.before, "workload": name,
        "added": added, "removed": removed, "before_ms": round(before.median, 3), "after_ms": round(after.median, 3),
        "ratio": round(after.median / before.median, 3), "ratio_by_round": [round(turns[0], 3), round(turns[-1], 3)],
    }  # fmt: skip


def line(row: dict[str, Any]) -> str:
    count = "" if row["added"] is None else f"  +{row['added']} -{row['removed']}"
    times = f"{row['before_ms']:9.2f} {row['after_ms']:9.2f} {row['ratio']:6.2f}"
    return f"{row['change']:58} {row['workload']:18} {times}{count}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="comma-separated workloads (all)")
    parser.add_argument("--threads", type=int, default=usable_cores(), help="(all cores)")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="few samples, one round: no times to rely on")
    parser.add_argument("--output", help="the record (results/history.json; with --quick none)")
    args = parser.parse_args()
    only = args.only.split(",") if args.only else list(WORKLOADS)
    for name in only:
        if name not in WORKLOADS:
            parser.error(f"no workload {name!r}; there are {', '.join(WORKLOADS)}")
    output = args.output or (None if args.quick else str(HERE / "results" / "history.json"))
    start, rows = time.perf_counter(), []
    print(f"{'':58} {'workload':18} {'before':>9} {'after':>9} {'ratio':>6}  lines")
    with tempfile.TemporaryDirectory() as folder:
        for change in CHANGES:
            for name in change.workloads:
                if name in only:
                    rows.append(measure(change, name, Path(folder), args))
                    print(line(rows[-1]), flush=True)
    print(f"{time.perf_counter() - start:.0f} s in all")
    if output:
        write_record(output, {"threads": args.threads, "rounds": args.rounds, "rows": rows})


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("stopped; what was measured until then stands above")
