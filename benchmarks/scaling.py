"""How the time of a training step grows: with threads, batch size and image size.

    python benchmarks/scaling.py                    the CIFAR-10 network, on all cores
    python benchmarks/scaling.py --device gpu       on the GPU; launch and device time apart
    python benchmarks/scaling.py --ranks 1,2        ranks that mpiexec starts against one fit: scaling_ranks.py
    python benchmarks/scaling.py --quick            only to see that it works: a few seconds

A step of twice as many samples, or pixels, should take twice as long: a straight line, whose R² is printed. And n
threads should be n times as fast as one: what they are not is explained from `minicnn.profile()`, and what would limit
MANY cores is worked out from it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ceilings
import numpy as np
import plots
import scaling_ranks
import workloads
from record import write_record
from timing import in_turn
from worker_minicnn import build
from workloads import Workload

import minicnn
from minicnn.backend import module_for
from minicnn.errors import InputError
from minicnn.training.shards import usable_cores

HERE = Path(__file__).parent
MANY = 16
STEPS = 2  # of each timed run: what fit does once is shared by them
BATCHES, SIZES = (8, 16, 32, 64, 128, 256), (16, 24, 32, 48, 64)

Points = list[dict[str, Any]]


def runner(workload: Workload, device: str) -> Callable[[], Any]:
    """A function that trains STEPS batches of the workload through fit."""
    model = build(workload).to(device)
    x, y = workloads.data(replace(workload, batches=STEPS))
    return lambda: model.fit(x, y, batch_size=workload.batch, verbose=0)


def on_threads(run: Callable[[], Any], threads: int) -> Callable[[], Any]:
    def limited() -> None:
        minicnn.set_num_threads(threads)
        run()

    return limited


def points(name: str, values: list[Any], functions: list[Callable[[], Any]], seconds: float, device: str) -> Points:
    """The times of a step, one for each value; all values in turn."""
    found = in_turn(functions, seconds, device)
    return [
        {name: value, **{key: round(ms / STEPS, 3) for key, ms in times.items()}}
        for value, times in zip(values, found, strict=True)
    ]


def line_fit(points: Points, name: str) -> dict[str, float]:
    """ms = fixed + slope * name by least squares, and R²: 1 where the points lie on the line."""
    x, y = (np.array([point[key] for point in points], float) for key in (name, "ms"))
    slope, fixed = np.polyfit(x, y, 1)
    left = ((y - fixed - slope * x) ** 2).sum()
    return {"fixed_ms": float(fixed), "slope_ms": float(slope), "r2": float(1 - left / ((y - y.mean()) ** 2).sum())}


def table(points: Points, name: str, samples: Callable[[dict[str, Any]], int]) -> str:
    more = [key for key in ("device_ms", "launch_ms") if key in points[0]]
    lines = [f"{name:>12}{'ms a step':>12}{'spread':>20}{'ms a sample':>14}" + "".join(f"{key:>12}" for key in more)]
    for point in points:
        spread = f"{point['fastest']:.1f} - {point['slowest']:.1f}"
        lines.append(
            f"{point[name]:>12}{point['ms']:12.2f}{spread:>20}{point['ms'] / samples(point):14.3f}"
            + "".join(f"{point[key]:12.2f}" for key in more)
        )
    return "\n".join(lines)


def limits(workload: Workload, points: Points, quick: bool) -> dict[str, Any]:
    """What would keep MANY cores from being MANY times as fast: from a profile of one thread, and the thread curve."""
    minicnn.set_num_threads(1)
    run = runner(workload, "cpu")
    run()
    with minicnn.profile() as p:
        for _ in range(1 if quick else 3):
            run()
    steps = STEPS * (1 if quick else 3)
    ms = {row.name: row.seconds / steps * 1e3 for row in p.rows if not row.kind}
    layers = [row for row in p.rows if row.kind]
    products = sum(row.seconds for row in layers if row.flops) / steps * 1e3
    moving = sum(row.seconds for row in layers if not row.flops) / steps * 1e3
    shared = products + moving + ms.pop("optimizer") + ms.pop("loss and metrics")
    serial = {name: round(time, 3) for name, time in ms.items()}
    alone = sum(ms.values())
    model = build(workload)
    copy = ceilings.copy_gbs(points[-1]["threads"], rounds=3)
    gradient_mb = 4 * model.count_params() * MANY / 1e6
    result = {
        "cores": MANY,
        "shared_ms": round(shared, 3), "serial_ms": serial,
        "serial_share": round(alone / (alone + shared), 4),
        "amdahl": round((alone + shared) / (alone + shared / MANY), 2),
        "multiplying_ms": round(products, 3), "moving_ms": round(moving, 3),
        "gradients_mb": round(gradient_mb, 1), "copy_gbs": round(copy, 1), "gradients_ms": round(gradient_mb / copy, 3),
    }  # fmt: skip
    first, last = points[0], points[-1]
    if len(points) > 1:
        result["speed_up"] = round(first["ms"] / last["ms"], 3)
        # Karp and Flatt (1990): the share of the work that acts as if one thread alone did it
        n = last["threads"] / first["threads"]
        result["karp_flatt"] = round((n / result["speed_up"] - 1) / (n - 1), 4)
    return result


def explain(found: dict[str, Any]) -> str:
    serial = ", ".join(f"{name} {ms:.2f}" for name, ms in found["serial_ms"].items())
    lines = [
        f"What one thread alone must do: {found['serial_share']:.1%} of a step ({serial} ms). By Amdahl's law "
        f"{found['cores']} cores would be at most {found['amdahl']:.1f} times as fast as one.",
        f"What they would share: layers that multiply {found['multiplying_ms']:.1f} ms, and layers that only move "
        f"numbers {found['moving_ms']:.1f} ms: these gain no more once the memory is busy.",
        f"The optimizer sums {found['cores']} shares of the gradients, {found['gradients_mb']:.0f} MB a step: "
        f"{found['gradients_ms']:.1f} ms at this machine's {found['copy_gbs']} GB/s, however many cores there are.",
    ]
    if "speed_up" in found:
        text = f"Measured: {found['speed_up']:.2f} times as fast"
        if 0 < found["karp_flatt"] < 1:
            text += (
                f", as if {found['karp_flatt']:.1%} of the work were one thread's alone; waiting, memory and the "
                "cores' own limits are in it"
            )
        lines.append(text + ".")
    return "\n".join(lines)


def picture(record: dict[str, Any], path: str) -> None:
    canvas, axes = plots.figure(11, 3.4, columns=3)
    threads, batches, sizes = record.get("threads_curve"), record["batches"], record["sizes"]
    if threads:
        x, y = [p["threads"] for p in threads], [threads[0]["ms"] / p["ms"] for p in threads]
        axes[0].plot(x, x, color=plots.GREY, lw=0.8, ls=":", label="n times as fast")
        axes[0].plot(x, y, "o-", color=plots.OURS, label="a training step")
        if record.get("gemm_curve"):
            gain = [g / record["gemm_curve"][0] for g in record["gemm_curve"]]
            axes[0].plot(x, gain, "s--", color=plots.PEERS[0], label="the machine's matrix product")
        axes[0].set_xticks(x)
        axes[0].legend(fontsize=8, frameon=False)
    else:
        axes[0].axis("off")
    plots.label(axes[0], "Threads", "threads", "times as fast as one")
    _line(axes[1], batches, "batch", record["batch_line"], "Batch size", "samples")
    _line(axes[2], sizes, "pixels", record["size_line"], "Image size", "pixels of an image")
    plots.save(canvas, path)


def _line(ax: Any, points: Points, name: str, fit: dict[str, float], title: str, x: str) -> None:
    values = [p[name] for p in points]
    ends = np.array([0, max(values)])
    ax.plot(ends, fit["fixed_ms"] + fit["slope_ms"] * ends, color=plots.GREY, lw=0.8)
    for p in points:
        ax.plot([p[name]] * 2, [p["fastest"], p["slowest"]], color=plots.OURS, lw=1)
    ax.plot(values, [p["ms"] for p in points], "o", color=plots.OURS, ms=5)
    ax.set_ylim(bottom=0)
    plots.label(ax, f"{title}: R² = {fit['r2']:.4f}", x, "ms a step")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", default="cifar", choices=["cifar", "small_vgg"])
    parser.add_argument("--threads", type=int, default=usable_cores(), help="the most: 1, 2, … up to it (all cores)")
    parser.add_argument("--seconds", type=float, default=40.0, help="for each of the three curves, about")
    parser.add_argument("--device", choices=["cpu", "gpu"], default="cpu")
    parser.add_argument("--ranks", help="numbers of ranks, such as 1,2; each against one fit on as many cores")
    parser.add_argument("--quick", action="store_true", help="few samples, one round: no times to rely on")
    parser.add_argument("--output", help="the record (results/scaling.json; with --quick none)")
    args = parser.parse_args()
    if args.output is None and not args.quick:
        kind = "_ranks" if args.ranks else "_gpu" if args.device == "gpu" else ""
        args.output = str(HERE / "results" / f"scaling{kind}.json")
    return args


def thread_counts(most: int) -> list[int]:
    """1, 2, … 4, then doubling, and `most` itself."""
    return sorted({n for n in (1, 2, 3, 4, 8, 16, 32, 64) if n < most} | {most})


def main() -> None:
    args = arguments()
    if args.ranks:
        scaling_ranks.main(args)
        return
    try:
        module_for(args.device)
    except InputError as error:
        sys.exit(str(error))
    workload = workloads.get(args.workload, args.quick)
    seconds = 0.0 if args.quick else args.seconds
    print(f"{workload.title}; up to {args.threads} threads, on the {args.device}\n")
    record: dict[str, Any] = {"device": args.device, "workload": args.workload}
    if args.device == "cpu":
        counts, run = thread_counts(args.threads), runner(workload, "cpu")
        curve = points("threads", counts, [on_threads(run, n) for n in counts], seconds, "cpu")
        few = {"rounds": 1, "side": 128} if args.quick else {}
        record["threads_curve"] = curve
        record["gemm_curve"] = [round(ceilings.gemm_gflops(n, **few), 1) for n in counts]
        print(table(curve, "threads", lambda _: workload.batch))
        print("the machine's own matrix product, GFLOP/s: "
              + ", ".join(f"{g} on {n}" for n, g in zip(counts, record["gemm_curve"], strict=True)))  # fmt: skip
        record["limits"] = limits(workload, curve, args.quick)
        print("\n" + explain(record["limits"]) + "\n")
        minicnn.set_num_threads(args.threads)

    batches = list(BATCHES if not args.quick else (1, 2, 3))
    runs = [runner(replace(workload, batch=batch), args.device) for batch in batches]
    record["batches"] = points("batch", batches, runs, seconds, args.device)
    record["batch_line"] = line_fit(record["batches"], "batch")
    print(table(record["batches"], "batch", lambda point: point["batch"]))
    print(f"a straight line with R² = {record['batch_line']['r2']:.4f}, {record['batch_line']['fixed_ms']:.2f} ms + "
          f"{record['batch_line']['slope_ms']:.3f} ms a sample\n")  # fmt: skip

    sizes, batch = SIZES if not args.quick else (8, 12, 16), min(32, workload.batch)
    of_sizes = [replace(workload, shape=(size, size, 3), batch=batch) for size in sizes]
    runs = [runner(sized, args.device) for sized in of_sizes]
    record["sizes"] = points("pixels", [size * size for size in sizes], runs, seconds, args.device)
    record["size_line"] = line_fit(record["sizes"], "pixels")
    print(table(record["sizes"], "pixels", lambda _: batch))
    print(f"a straight line with R² = {record['size_line']['r2']:.4f}: images of {', '.join(map(str, sizes))} pixels "
          f"a side, batch {batch}")  # fmt: skip
    if args.output:
        write_record(args.output, record, threads=args.threads)
        picture(record, args.output)


if __name__ == "__main__":
    main()
