"""Write the results in README.md and four pages of docs/ from the recorded runs in benchmarks/results/.

    python benchmarks/report.py            rewrites the section between the two markers of each document
    python benchmarks/report.py --check    fails where a section is not what the records say
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import mean, median
from typing import Any

import plots
from record import fastest
from workloads import WORKLOADS

HERE = Path(__file__).parent
BEGIN, END = "<!-- results: begin -->\n", "<!-- results: end -->\n"


def load(name: str) -> dict[str, Any]:
    return json.loads((HERE / "results" / f"{name}.json").read_text(encoding="utf-8"))


def sections() -> dict[str, list[str]]:
    """The lines between the markers of each document, from the records alone."""
    imports = load("import_time")["ratio_to_numpy"]
    return {
        "README.md": _accuracies(),
        "docs/speed.md": [
            *_speed(load("models")),
            "",
            f"`import minicnn` takes {imports['minicnn']:.2f} times as long as `import numpy`, with all of its layers "
            f"and models {imports['minicnn.models']:.2f} times.",
            *_history(),
        ],
        "docs/cifar10-94.md": [*_ladder(), *_fast_step(load("models")), "", *_five_steps(load("five_steps"))],
        "docs/keras.md": _keras_cases(load("keras_cases")),
        "docs/long-runs.md": [_long_runs(load("faults"), load("soak"))],
    }


# Recorded runs of the examples: the files' names in results/, what they measure, and what others measured with the same
# recipe: the document that it comes from (one run each), and Keras 3.15 on the files that the records were made with.
RUNS = [
    ("cifar10,cifar10_[0-9]", "CIFAR-10 CNN, 25 epochs", "test_accuracy", "0.830", "0.823 (seed 21)"),
    ("cifar10_augment,cifar10_augment_[0-9]", "the same, images mirrored and shifted", "test_accuracy", "–", "–"),
    ("cifar10_resnet20", "CIFAR-10, ResNet-20, 15 epochs, mirrored and shifted", "test_accuracy", "–", "–"),
    ("cifar10_fast_[0-9]", "CIFAR-10, fast network, 8 epochs, six views", "test_accuracy", "–", "–"),
    ("ladder_muon_*", "CIFAR-10, fast network, 20,000 images seen once", "test_accuracy", "–", "–"),
    ("cifar10_limit", "CIFAR-10 CNN, 10,000 images, 3 epochs", "test_accuracy", "–", "–"),
    ("mnist", "MNIST, 800 units, stops by itself (validation accuracy)", "val_accuracy_of_best", "0.979", "–"),
    ("animals_simple_*", "Animals, two hidden layers", "test_accuracy", "0.61", "0.596 (0.592 to 0.599, 2 seeds)"),
    ("animals_smallvgg_*", "Animals, SmallVGGNet", "test_accuracy", "0.78", "–"),
]


def _accuracies() -> list[str]:
    """The first table: what the networks reach."""
    dense, cnn, keras = load("fashion_mnist_dense"), load("fashion_mnist_cnn"), load("keras_fashion_mnist")
    lines = [
        f"| test accuracy | published (one run) | Keras {keras['keras']}, same files | minicnn | time, minicnn |",
        "|---|---|---|---|---|",
        f"| Fashion-MNIST, dense 128, 5 epochs | 0.879 | {_spread(keras)} | {_spread(dense)} "
        f"| {_mean_seconds(dense)} |",
        f"| Fashion-MNIST, small CNN, {cnn['epochs']} epochs | – | – | {_spread(cnn)} | {_mean_seconds(cnn)} |",
    ]
    records = [dense, cnn]
    for name, title, figure, published, theirs in RUNS:
        runs = _runs(name)
        if runs:
            alone = figure == "test_accuracy" and len(runs) == 1
            reached = _accuracy_of(runs, figure) + (_last_epochs(runs[0]) if alone else "")
            lines.append(f"| {title} | {published} | {theirs} | {reached} | {_mean_seconds({'runs': runs})} |")
            records += runs
    for run in _runs("transfer_*"):
        for count, frozen, scratch in zip(run["images_per_class"], run["frozen"], run["from_scratch"], strict=True):
            lines.append(
                f"| Transfer from {run['source']}, {count} images of each new class | – | – | {frozen:.3f}; without "
                f"transfer {scratch:.3f} | {_mean_seconds({'runs': [run]})} |"
            )
        records.append(run)
    processors = sorted({record["hardware"]["processor"] for record in records})
    threads = sorted({record["threads"] for record in records})
    versions = sorted({record["versions"]["numpy"] for record in records})
    return [
        *lines,
        "",
        f"Measured on {' and '.join(processors)}, {' or '.join(map(str, threads))} threads, NumPy "
        f"{' and '.join(versions)}, some of them while the machine was busy with other work. The time is that of one "
        "run, the median epoch counted for all; of a transfer, that of the first training. Animals: each run keeps "
        "another quarter of the 3,000 photos for the test.",
    ]


def _keras_cases(record: dict[str, Any]) -> list[str]:
    """What became of the cases in Keras' own tests, area by area."""
    lines = ["| area | cases | apply | pass | on purpose | fail | missing | inside |", "|---|" + "---:|" * 7]
    for title, n in [*record["areas"].items(), ("**all**", record["sum"])]:
        told = (n["cases"], n["apply"], n["pass"], n["purpose"], n["fail"], n["missing"], n["internals"] + n["skipped"])
        lines.append(f"| {title} | " + " | ".join(map(str, told)) + " |")
    return [*lines, "", f"Keras {record['keras']['keras']}, {record['date']}."]


RUNGS = [  # of examples/cifar10_fast.py: one epoch of 20,000 images, batches of 500
    ("plain", "SGD that looks ahead, label smoothing, images mirrored and shifted"),
    ("whitening", "the first kernels are the patterns of which photos consist, and stay so"),
    ("dirac", "the other kernels begin by handing their input on"),
    ("muon", "each step of a kernel is made orthogonal"),
]


def _runs(pattern: str) -> list[dict[str, Any]]:
    """The records with these names; of several patterns, with a comma between."""
    paths = (path for name in pattern.split(",") for path in sorted((HERE / "results").glob(f"{name}.json")))
    return [load(path.stem) for path in paths]


def _ladder() -> list[str]:
    """What each idea brings, at the same price; then the whole runs."""
    lines = ["| rung | the idea | test accuracy, 20,000 images seen once | time |", "|---|---|---|---|"]
    for rung, idea in RUNGS:
        runs = _runs(f"ladder_{rung}_*")
        lines.append(f"| `{rung}` | {idea} | {_accuracy_of(runs, 'test_plain')} | {_mean_seconds({'runs': runs})} |")
    whole = _runs("cifar10_fast_[0-9]")
    lines += ["", "| `--full --views` | photos alone | and mirror images | six views | time | memory |"]
    lines += ["|---|---|---|---|---|---|"]
    for run in whole:
        lines.append(
            f"| seed {run['seed']} | {run['test_plain']:.4f} | {run['test_mirror']:.4f} | {run['test_views']:.4f} "
            f"| {_mean_seconds({'runs': [run]})} | {run['peak_memory_mb'] / 1024:.1f} GiB |"
        )
    means = (mean(run[key] for run in whole) for key in ("test_plain", "test_mirror", "test_views"))
    lines.append("| mean | " + " | ".join(f"{m:.4f}" for m in means) + " | | |")
    records = [*whole, *(run for rung, _ in RUNGS for run in _runs(f"ladder_{rung}_*"))]
    processors = sorted({record["hardware"]["processor"] for record in records})
    threads = sorted({record["threads"] for record in records})
    return [
        *lines,
        "",
        f"{' and '.join(processors)}, {' or '.join(map(str, threads))} of 2 cores, while the machine was busy with "
        "other work.",
    ]


def _fast_step(models: dict[str, Any]) -> list[str]:
    """A step of the same network in all frameworks."""
    run = models["workloads"].get("fast")
    if run is None:
        return []
    sides = (("minicnn", "minicnn"), ("torch", "PyTorch"), ("tensorflow", "TensorFlow"))
    times = ((title, fastest(run, side)) for side, title in sides)
    told = ", ".join(f"{title} {ms:.0f} ms" for title, ms in times if ms is not None)
    return [
        "",
        f"A training step of {run['batch']} images on {run['threads']} threads, each framework in its fastest setting: "
        f"{told} ({models['hardware']['processor']}).",
    ]


def _five_steps(record: dict[str, Any]) -> list[str]:
    """The same five steps in PyTorch."""
    lines = [f"| pooling | loss here minus loss in PyTorch {record['torch']}, steps 1 to 5 | weights afterwards |"]
    lines += ["|---|---|---|"]
    for run in record["runs"]:
        losses = ", ".join(f"{difference:.1e}" for difference in run["loss_differences"])
        lines.append(f"| {run['pooling']} | {losses} | {run['largest_difference_of_parameters']:.1e} |")
    return lines


def _accuracy_of(runs: list[dict[str, Any]], figure: str) -> str:
    found = [{**run, "test_accuracy": run[figure]} for run in runs]
    return _spread({"runs": found, "mean_test_accuracy": mean(run[figure] for run in runs)})


def _speed(models: dict[str, Any]) -> list[str]:
    """Time of a step beside the peers, of all workloads that were recorded, and the goal for the ratio."""
    runs = models["workloads"]
    lines = [
        "| milliseconds a step | minicnn | PyTorch | TensorFlow | ratio to the faster | goal |",
        "|---|---|---|---|---|---|",
    ]
    for name, workload in WORKLOADS.items():
        if name in runs:
            ours, *peers = (fastest(runs[name], side) for side in ("minicnn", "torch", "tensorflow"))
            theirs = [ms for ms in peers if ms is not None]
            ratio = f"{ours / min(theirs):.2f}" if theirs else "–"
            cells = ("–" if ms is None else f"{ms:.2f}" for ms in (ours, *peers))
            lines.append(f"| {workload.title} | {' | '.join(cells)} | {ratio} | {workload.goal:.2f} |")
    whole = runs["cifar"]
    versions = {k: v for side in whole["sides"].values() for k, v in side["versions"].items()}
    names = (("torch", "PyTorch"), ("tensorflow", "TensorFlow"), ("keras", "Keras"), ("numpy", "NumPy"))
    kept = "; both: freed memory kept" if any(name.endswith("kept") for name in whole["sides"]) else ""
    our_memory = whole["sides"]["minicnn"]["peak_memory_mb"]
    memory = min(s["peak_memory_mb"] for name, s in whole["sides"].items() if name.startswith("torch"))
    lines += [
        "",
        f"{models['hardware']['processor']}, {whole['threads']} threads for every side, in turn, medians; "
        + ", ".join(f"{title} {versions[name]}" for name, title in names if name in versions)
        + ". minicnn through `fit` and `predict`, the peers in bare loops, each in the fastest of its variants "
        f"(PyTorch: memory layout, denormal numbers flushed to 0{kept}). Training B, minicnn's processes take at most "
        f"{our_memory} MiB, {our_memory / memory:.2f} times what PyTorch's takes.",
    ]
    gain = models.get("gain_of_threads")
    if gain:
        lines[-1] += (
            f" {gain['threads']} threads train B {gain['minicnn']:.2f} times as fast as one; the machine's own matrix "
            f"product gains {gain['gemm']:.2f} times."
        )
    return lines


def _history() -> list[str]:
    """What each change for speed has brought, where that was recorded."""
    if not (HERE / "results" / "history.json").exists():
        return []
    record = load("history")
    lines = [
        "",
        "What each change has brought, the version before it and the one after it in turn "
        f"(`python benchmarks/history.py`, {record['hardware']['processor']}, {record['threads']} threads, medians):",
        "",
        "| change | workload | before | after | ratio | lines of minicnn |",
        "|---|---|---|---|---|---|",
    ]
    for row in record["rows"]:
        count = "" if row["added"] is None else f"+{row['added']} −{row['removed']}"
        times = f"{row['before_ms']:.2f} ms | {row['after_ms']:.2f} ms | {row['ratio']:.2f}"
        lines.append(f"| {row['change']} | {WORKLOADS[row['workload']].title} | {times} | {count} |")
    return lines


def _long_runs(faults: dict[str, Any], soak: dict[str, Any]) -> str:
    """What became of the trainings that were killed, and of the long one."""
    saves = sum(faults["kills_by_moment"][moment] for moment in ("write", "flush", "rename", "renamed"))
    same = "none" if not faults["different"] else str(len(faults["different"]))
    settled, last = soak["usage"][1], soak["usage"][-1]
    return (
        f"Long runs: {faults['trainings']} trainings were killed {faults['kills']} times, {saves} times in the middle "
        f"of a save, and resumed; of the files that they left, {same} differs from those of a training that was never "
        f"killed. In {soak['steps']:,} steps with validation, callbacks and augmentation, memory went from "
        f"{settled['memory_mb']:.0f} to {last['memory_mb']:.0f} MiB after the first {settled['step']:,}; threads "
        f"({settled['threads']} and {last['threads']}) and open files ({settled['files']} and {last['files']}) stayed."
    )


def _spread(record: dict[str, Any]) -> str:
    accuracies = [run["test_accuracy"] for run in record["runs"]]
    if len(accuracies) == 1:
        return f"{accuracies[0]:.3f} (seed {record['runs'][0]['seed']})"
    average, runs = record["mean_test_accuracy"], len(accuracies)
    return f"{average:.3f} ({min(accuracies):.3f} to {max(accuracies):.3f}, {runs} seeds)"


def _last_epochs(run: dict[str, Any], count: int = 5) -> str:
    """What a long run reached in its last epochs: the accuracy after the last one alone is partly luck."""
    last = run["val_accuracy"][-count:]
    if run["epochs"] < 2 * count:
        return ""
    return f"; last {count} epochs: {min(last):.3f} to {max(last):.3f}, mean {sum(last) / count:.3f}"


def _mean_seconds(record: dict[str, Any]) -> str:
    """Of a run whose epochs were timed, the median epoch counts for all: some runs were stopped and went on later."""
    timed = [run.get("seconds_per_epoch", [run["seconds"]]) for run in record["runs"]]
    times = [median(seconds) * len(seconds) for seconds in timed]
    seconds = sum(times) / len(times)
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def draw() -> None:
    """Accuracy against minutes on CIFAR-10, in results/cifar10.png: each recorded run, epoch by epoch."""
    canvas, ax = plots.figure(7, 4)
    grey, brown, orange = plots.PEERS[::-1]
    curves = [
        ("cifar10,cifar10_[0-9]", "the documents' CNN", grey),
        ("cifar10_augment,cifar10_augment_[0-9]", "the same, mirrored and shifted", brown),
        ("cifar10_resnet20", "ResNet-20", orange), ("cifar10_fast_[0-9]", "fast network, 8 epochs", plots.OURS),
    ]  # fmt: skip
    for pattern, title, color in curves:
        for i, run in enumerate(_runs(pattern)):
            minutes = [median(run["seconds_per_epoch"]) * epoch / 60 for epoch in range(1, run["epochs"] + 1)]
            ax.plot(minutes, run["val_accuracy"], color=color, marker=".", label="" if i else title)
    for i, (rung, _) in enumerate(RUNGS):
        runs = _runs(f"ladder_{rung}_*")
        x, y = mean(run["seconds"] / 60 for run in runs), mean(run["test_plain"] for run in runs)
        ax.plot(x, y, "D", color=plots.GOAL, markersize=4, label="" if i else "20,000 images seen once, rung by rung")
        ax.annotate(rung, (x, y), (5, -3), textcoords="offset points", fontsize=7)
    ax.set_xscale("log")
    ax.set_xlim(1, 200)
    ax.set_xticks([1, 2, 5, 10, 20, 50, 100, 200], ["1", "2", "5", "10", "20", "50", "100", "200"])
    ax.minorticks_off()
    ax.grid(axis="y", linewidth=0.4)
    ax.legend(fontsize=8, frameon=False, loc="lower right")
    plots.label(ax, "CIFAR-10: test accuracy by time, on one core (the fastest full run: two)", "minutes", "accuracy")
    plots.save(canvas, HERE / "results" / "cifar10.json")


def main() -> None:
    if "--check" not in sys.argv:
        draw()
    for name, lines in sections().items():
        path = HERE.parent / name
        text = path.read_text(encoding="utf-8")
        before, rest = text.split(BEGIN)
        _, after = rest.split(END)
        fresh = before + BEGIN + "\n".join(lines) + "\n" + END + after
        if "--check" not in sys.argv:
            path.write_text(fresh, encoding="utf-8")
        elif fresh != text:
            sys.exit(f"{name} is stale: run python benchmarks/report.py")


if __name__ == "__main__":
    main()
