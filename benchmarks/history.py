"""What each change for speed has brought: the version before it and the one after it, in turn, on the same machine.

    python benchmarks/history.py                      all changes; about six minutes
    python benchmarks/history.py --only dense,vgg16   those that concern these workloads
    python benchmarks/history.py --quick              only to see that it works

Both versions come out of the git repository, so this needs one; a change whose commit it lacks is left out. A row is
a change and a workload of workloads.py: the medians before and after, their ratio, and how many lines of minicnn the
change has added and removed.
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
    """A commit, or all that came up to it after another; what it does; the workloads that it is for.

    Commits are told by words of their messages: a name (a hash) does not survive when a history is written anew.
    """

    words: str
    title: str
    workloads: tuple[str, ...]
    since: str = ""

    def versions(self) -> tuple[str, str] | None:
        """(before, after) as names of commits; None where the repository lacks one of them."""
        after = commit(self.words)
        before = commit(self.since) if self.since else after and parent(after)
        return (before, after) if before and after else None


CHANGES = [
    Change("GELU in float32 by a tail", "GELU by a float32 tail, in tiles that stay in the cache", ("fast",)),
    Change(
        "The first convolution's columns by taps",
        "first convolution by taps; Winograd cut by its kernel",
        ("cifar", "vgg16"),
    ),
    Change(
        "The nodes and their shapes are put together once",
        "nodes and shapes put together once",
        ("dense", "cifar_forward_1"),
    ),
    Change(
        "fit keeps freed memory for the next step",
        "freed memory stays for the next step",
        ("cifar", "small_vgg", "fast"),
    ),
    Change("A step asks for less: Ctrl-C's handler", "a step asks for less in Python", ("dense",)),
    Change(
        "fit looks for NaN in pieces that stay in the cache",
        "what fit looks at stays in the cache; rows by take",
        ("dense",),
    ),
    Change("Adam in ten passes over memory", "Adam in ten passes", ("dense", "dense_800", "cifar")),
    Change(
        "what follows from them are worked out once",
        "windows worked out once for each shape",
        ("dense", "cifar_forward_1"),
    ),
    Change(
        "Neighbouring layers run as one in training",
        "neighbouring layers run as one in training",
        ("cifar", "small_vgg", "fast"),
    ),
    Change(
        "Prediction keeps what it makes of weights",
        "what prediction makes of weights is kept",
        ("cifar_forward_1", "cifar_forward_256", "vgg16"),
    ),
    Change(
        "it happens in the layout of the tiles",
        "pooling in the layout of Winograd's tiles",
        ("cifar", "cifar_forward_256"),
    ),
    Change(
        "Two threads: larger pieces, a heap for each thread",
        "threads: larger pieces, a heap for each, products shared",
        ("simple", "cifar", "small_vgg", "dense_800", "fast"),
    ),
    Change("Prediction takes pieces of 8 MB", "prediction in pieces of 8 MB", ("cifar_forward_256", "vgg16")),
    Change(
        "A long fit runs its shards in processes",
        "a long fit runs its shards in processes",
        ("cifar", "small_vgg", "fast"),
    ),
    Change(
        "",
        "all together",
        tuple(workloads.names_in_a_row()),
        since="On a last reading: a sequence counts its batches as a generator does",
    ),
]


def git(*command: str) -> bytes:
    """What git prints. Ends the program where there is no repository."""
    done = subprocess.run(["git", "-C", str(HERE.parent), *command], capture_output=True)
    if done.returncode:
        sys.exit(f"{done.stderr.decode().strip()}\nhistory.py needs the git repository, with all of its commits.")
    return done.stdout


def commit(words: str) -> str:
    """The newest commit with these words in its message (any, if there are none); "" where there is none."""
    return git("log", "-1", "--format=%h", "--fixed-strings", f"--grep={words}").decode().strip()


def parent(name: str) -> str:
    """The commit before this one; "" before the first one, or where a shallow clone ends."""
    return (git("log", "-1", "--format=%p", name).decode().split() or [""])[0]


def checked_out(version: str, folder: Path) -> Path:
    """A folder with minicnn as it was at that commit."""
    root = folder / version
    if not root.exists():
        with tarfile.open(fileobj=io.BytesIO(git("archive", version, "--", "minicnn"))) as archive:
            archive.extractall(root, filter="data")
    return root


def lines(before: str, after: str) -> tuple[int, int]:
    """(added, removed) in minicnn."""
    files = git("diff", "--numstat", before, after, "--", "minicnn").splitlines()
    counts = [file.split()[:2] for file in files]
    numbers = [(int(added), int(removed)) for added, removed in counts if added != b"-"]  # "-": not a text
    return sum(added for added, _ in numbers), sum(removed for _, removed in numbers)


def measure(
    change: Change, versions: tuple[str, str], name: str, folder: Path, args: argparse.Namespace
) -> dict[str, Any]:
    """The record of one row: both versions in turn."""
    sides = []
    try:
        for version in versions:
            command = [
                sys.executable, "worker_history.py", name, "--threads", str(args.threads),
                *(["--quick"] if args.quick else []),
            ]  # fmt: skip
            sides.append(Side("minicnn", command, args.threads, {"PYTHONPATH": str(checked_out(version, folder))}))
        for turn in range((1 if args.quick else args.rounds) + WARM_UP):
            for side in sides:
                side.run(count=turn >= WARM_UP)
    finally:
        for side in sides:
            side.close()
    before, after = sides
    turns = sorted(b / a for a, b in zip(before.rounds, after.rounds, strict=True))
    added, removed = (None, None) if change.since else lines(*versions)  # most of what came since is not for speed
    return {
        "change": change.title, "commit": versions[1], "since": versions[0], "workload": name,
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
            names = [name for name in change.workloads if name in only]
            versions = change.versions() if names else None
            if names and not versions:
                print(f"{change.title}: left out, its commit is not in this repository")
            for name in names if versions else ():
                rows.append(measure(change, versions, name, Path(folder), args))
                print(line(rows[-1]), flush=True)
    print(f"{time.perf_counter() - start:.0f} s in all")
    if output:
        write_record(output, {"threads": args.threads, "rounds": args.rounds, "rows": rows})


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("stopped; what was measured until then stands above")
