"""Write the README's results from the recorded runs in benchmarks/results/.

    python benchmarks/report.py            rewrites the section between the two markers
    python benchmarks/report.py --check    fails where the section is not what the records say
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from workloads import WORKLOADS

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
        *_speed(models),
        "",
        f"`import minicnn` takes {imports['ratio_to_numpy']['minicnn']:.2f} times as long as "
        f"`import numpy`, with all of its layers and models {imports['ratio_to_numpy']['minicnn.models']:.2f} times.",
    ]
    return "\n".join(lines) + "\n"


def _speed(models: dict[str, Any]) -> list[str]:
    """Time of a step beside the peers, of all workloads that were recorded, and the goal for the ratio."""
    runs = models["workloads"]
    lines = [
        "| milliseconds a step (letters: see benchmarks/workloads.py) | minicnn | PyTorch | TensorFlow | ratio to the "
        "faster | goal |",
        "|---|---|---|---|---|---|",
    ]
    for name, workload in WORKLOADS.items():
        if name in runs:
            ours, *peers = (_fastest(runs[name], side) for side in ("minicnn", "torch", "tensorflow"))
            theirs = [ms for ms in peers if ms is not None]
            ratio = f"{ours / min(theirs):.2f}" if theirs else "–"
            cells = ("–" if ms is None else f"{ms:.2f}" for ms in (ours, *peers))
            lines.append(f"| {workload.title} | {' | '.join(cells)} | {ratio} | {workload.goal:.2f} |")
    whole = runs["cifar"]
    versions = {k: v for side in whole["sides"].values() for k, v in side["versions"].items()}
    names = (("torch", "PyTorch"), ("tensorflow", "TensorFlow"), ("keras", "Keras"), ("numpy", "NumPy"))
    our_memory = whole["sides"]["minicnn"]["peak_memory_mb"]
    memory = min(s["peak_memory_mb"] for name, s in whole["sides"].items() if name.startswith("torch"))
    lines += [
        "",
        f"{models['hardware']['processor']}, {whole['threads']} threads for every side, in turn, medians; "
        + ", ".join(f"{title} {versions[name]}" for name, title in names if name in versions)
        + ". minicnn through `fit` and `predict`, the peers in bare loops, each in the fastest of its variants "
        "(PyTorch: memory layout, denormal numbers flushed to 0). Training B, minicnn's process takes at most "
        f"{our_memory} MiB, {our_memory / memory:.2f} times what PyTorch's takes.",
    ]
    gain = models.get("gain_of_threads")
    if gain:
        lines[-1] += (
            f" {gain['threads']} threads train B {gain['minicnn']:.2f} times as fast as one; the machine's own matrix "
            f"product gains {gain['gemm']:.2f} times."
        )
    return lines


def _fastest(run: dict[str, Any], framework: str) -> float | None:
    """Milliseconds of this framework's fastest variant; None where it was not measured."""
    return min((s["ms_per_step"] for name, s in run["sides"].items() if name.split()[0] == framework), default=None)


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
