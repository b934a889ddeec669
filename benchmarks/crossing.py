"""From which batch, and from which image size, is the GPU faster? Each kernel on both devices, in one run.

    python benchmarks/crossing.py                       with all cores against the GPU
    python benchmarks/crossing.py --only conv,relu      some of the kernels, by words of their names
    python benchmarks/crossing.py --quick               only to see that it works: a few seconds

The arrays lie ready on their device. A time goes from Python's call until the result is there, so a GPU's has the time
to launch the kernels in it: that is what makes a GPU slow where there is little to do. The way from host to device and
back is not in it; kernels.py measures it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cases
import plots
from kernels import Machine
from record import write_record
from threadpoolctl import threadpool_limits
from timing import in_turn

from minicnn.errors import InputError
from minicnn.training.shards import Workers, usable_cores

HERE = Path(__file__).parent
SECONDS = 0.6  # for a kernel on one shape, on one device
SIZE, BATCHES = 32, (1, 2, 4, 8, 16, 32, 64, 128, 256)
BATCH, SIZES = 8, (4, 8, 16, 32, 64, 128)
QUICK_SIZE, QUICK_BATCHES, QUICK_BATCH, QUICK_SIZES = 8, (1, 2), 1, (4, 8)

Point = dict[str, Any]


def sweep(
    machines: Sequence[Machine], name: str, shapes: dict[int, tuple[int, int]], only: str, seconds: float
) -> list[Point]:
    """A point for each kernel and each shape (size, batch), under the shape's value of `name`."""
    points = []
    with Workers(machines[0].threads) as workers, threadpool_limits(1, user_api="blas"):
        for value, (size, batch) in shapes.items():
            for case in cases.matching(cases.of_one_shape(size, batch), only):
                cpu, gpu = (in_turn([m.function(case, workers)], seconds, m.device)[0] for m in machines)
                points.append({
                    "kernel": case.kernel, "way": case.way, name: value, "shape": case.shape, "batch": batch,
                    "cpu_ms": round(cpu["ms"], 4), "gpu_ms": round(gpu["ms"], 4),
                    "launch_ms": round(gpu["launch_ms"], 4), "device_ms": round(gpu["device_ms"], 4),
                })  # fmt: skip
    return points


def crossing(points: list[Point], name: str) -> int | None:
    """The smallest measured value of `name` from which on the GPU is always faster; None where it is not at the end."""
    found = None
    for point in sorted(points, key=lambda p: p[name], reverse=True):
        if point["gpu_ms"] >= point["cpu_ms"]:
            break
        found = point[name]
    return found


def by_kernel(points: list[Point]) -> dict[tuple[str, str], list[Point]]:
    """The points of each kernel and way."""
    kernels: dict[tuple[str, str], list[Point]] = {}
    for point in points:
        kernels.setdefault((point["kernel"], point["way"]), []).append(point)
    return kernels


def table(points: list[Point], name: str) -> str:
    """How many times as fast the GPU is: a row for each kernel, a column for each value, then where they cross."""
    values = sorted({point[name] for point in points})
    lines = [f"{name:20}" + "".join(f"{value:>8}" for value in values) + "   the GPU is faster"]
    for (kernel, way), row in by_kernel(points).items():
        value = crossing(row, name)
        where = "nowhere here" if value is None else "everywhere here" if value == values[0] else f"from {value} on"
        times = "".join(f"{point['cpu_ms'] / point['gpu_ms']:7.2f}x" for point in row)
        lines.append(f"{f'{kernel} {way}':20}{times}   {where}")
    return "\n".join(lines)


def picture(swept: dict[str, list[Point]], path: str) -> None:
    """How many times as fast the GPU is, against the batch and against the image size."""
    canvas, axes = plots.figure(12, 4.5, columns=len(swept))
    colors: dict[str, str] = {}
    for ax, (name, points) in zip(axes, swept.items(), strict=True):
        for (kernel, way), row in by_kernel(points).items():
            color = colors.setdefault(kernel, f"C{len(colors)}")
            style = {"forward": "o-", "moments": "o:"}.get(way, "o--")
            ratios = [p["cpu_ms"] / p["gpu_ms"] for p in row]
            ax.plot([p[name] for p in row], ratios, style, color=color, ms=3, lw=1, label=f"{kernel} {way}")
        values = sorted({p[name] for p in points})
        ax.axhline(1, color=plots.GREY, lw=1)
        ax.loglog()
        ax.set_xticks(values, [str(value) for value in values])
        ax.minorticks_off()
        plots.label(ax, "Above the line the GPU is faster", name.replace("_", " "), "CPU time / GPU time")
    axes[-1].legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    plots.save(canvas, path)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=usable_cores(), help="of the CPU; all cores unless given")
    parser.add_argument("--only", default="", help="words of names or groups, comma-separated")
    parser.add_argument("--quick", action="store_true", help="small shapes, one round: no times to rely on")
    parser.add_argument("--output", help="the record (results/crossing.json; with --quick or --only none)")
    args = parser.parse_args()
    if args.output is None and not args.quick and not args.only:
        args.output = str(HERE / "results" / "crossing.json")
    return args


def main() -> None:
    args = arguments()
    try:
        machines = [Machine("cpu", args.threads), Machine("gpu", 1)]
    except InputError as error:
        sys.exit(str(error))
    size, batches, batch, sizes = SIZE, BATCHES, BATCH, SIZES
    if args.quick:
        size, batches, batch, sizes = QUICK_SIZE, QUICK_BATCHES, QUICK_BATCH, QUICK_SIZES
    if not cases.matching(cases.of_one_shape(size, batch), args.only):
        sys.exit(f"no kernel has {args.only!r} in its name; try conv, dense, relu, batchnorm, adam")
    swept = {}
    for name, shapes in {
        "batch": {n: (size, n) for n in batches}, "image_size": {n: (n, batch) for n in sizes},
    }.items():  # fmt: skip
        swept[name] = sweep(machines, name, shapes, args.only, 0 if args.quick else SECONDS)
        of = f"images of {size}×{size}" if name == "batch" else f"batches of {batch}"
        print(f"CPU time / GPU time, {of}, {args.threads} threads\n{table(swept[name], name)}\n")
    if args.output:
        write_record(args.output, swept, threads=args.threads)
        picture(swept, args.output)


if __name__ == "__main__":
    main()
