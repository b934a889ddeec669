"""Write the README's results from the recorded runs in benchmarks/results/.

    python benchmarks/report.py            rewrites the section between the two markers
    python benchmarks/report.py --check    fails where the section is not what the records say
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
BEGIN, END = "<!-- results: begin -->\n", "<!-- results: end -->\n"


def load(name: str) -> dict[str, Any]:
    return json.loads((HERE / "results" / f"{name}.json").read_text(encoding="utf-8"))


def section() -> str:
    """The two tables, from the records alone."""
    dense, cnn, keras, models, imports = (
        load(name)
        for name in ("fashion_mnist_dense", "fashion_mnist_cnn", "keras_fashion_mnist", "models", "import_time")
    )
    lines = [
        f"| Fashion-MNIST, test accuracy | published | Keras {keras['keras']}, same files | minicnn | time, minicnn |",
        "|---|---|---|---|---|",
        f"| dense 128, 5 epochs of batches of 32 | 0.879 (one run) | {_spread(keras)} | {_spread(dense)} "
        f"| {_mean_seconds(dense)} |",
        f"| small CNN, {cnn['epochs']} epochs | – | – | {_accuracy(cnn)} | {_mean_seconds(cnn)} |",
        "",
        f"Measured on {cnn['hardware']['processor']}, {cnn['threads']} threads, "
        f"NumPy {cnn['versions']['numpy']}; the time is that of the whole example, pictures included. Published: the "
        "course's own run.",
        "",
        "| a training step, through `fit` | minicnn | PyTorch, bare loop | time, ratio | memory, ratio |",
        "|---|---|---|---|---|",
    ]
    rows = (
        ("dense", "torch nchw", "dense 128, batch 32; PyTorch as it comes"),
        ("dense", "torch flushed", "the same; PyTorch with denormal numbers flushed to 0"),
        ("cifar", "torch nchw", "CIFAR-10 CNN (2.26 M parameters), batch 64; PyTorch as it comes"),
        ("cifar", "torch channels_last", "the same; PyTorch with channels last"),
    )
    for name, side, title in rows:
        run = models["workloads"][name]
        ours, theirs = run["sides"]["minicnn"], run["sides"][side]
        lines.append(
            f"| {title} | {ours['ms_per_step']:.2f} ms | {theirs['ms_per_step']:.2f} ms | {run['ratios'][side]:.2f} "
            f"| {ours['peak_memory_mb'] / theirs['peak_memory_mb']:.2f} |"
        )
    sides = models["workloads"]["cifar"]["sides"].values()
    torch = next(side["versions"]["torch"] for side in sides if "torch" in side["versions"])
    lines += [
        "",
        f"{models['hardware']['processor']}, {models['workloads']['cifar']['threads']} threads, both sides in turn, "
        f"medians; PyTorch {torch}. Below 1 is faster, or smaller, than PyTorch. The running means in Adam fade into "
        "denormal numbers, slow to compute with, where a unit is dead; minicnn rounds them to 0, PyTorch only if told "
        "to.",
        "",
        f"`import minicnn` takes {imports['ratio_to_numpy']['minicnn']:.2f} times as long as "
        f"`import numpy`, with all of its layers and models {imports['ratio_to_numpy']['minicnn.models']:.2f} times.",
    ]
    return "\n".join(lines) + "\n"


def _spread(record: dict[str, Any]) -> str:
    accuracies = [run["test_accuracy"] for run in record["runs"]]
    mean, runs = record["mean_test_accuracy"], len(accuracies)
    return f"{mean:.3f} ({min(accuracies):.3f} to {max(accuracies):.3f}, {runs} seeds)"


def _accuracy(record: dict[str, Any]) -> str:
    seeds = ", ".join(str(run["seed"]) for run in record["runs"])
    return f"{record['mean_test_accuracy']:.3f} (seed {seeds})"


def _mean_seconds(record: dict[str, Any]) -> str:
    seconds = sum(run["seconds"] for run in record["runs"]) / len(record["runs"])
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def main() -> None:
    text = README.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    fresh = before + BEGIN + section() + END + after
    if "--check" in sys.argv:
        if fresh != text:
            sys.exit("README.md is stale: run python benchmarks/report.py")
        return
    README.write_text(fresh, encoding="utf-8")


if __name__ == "__main__":
    main()
