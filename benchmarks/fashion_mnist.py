"""Train the networks of examples/train_fashion_mnist.py on real data, and record what they reach.

    python benchmarks/fashion_mnist.py --model dense --seeds 0 1 2 3 4
    python benchmarks/fashion_mnist.py --model cnn --seeds 0

Needs the data set: downloaded, or in the folder that MINICNN_DATA names.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from protocol import peak_memory_mb
from record import write_record

import minicnn

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "examples"))
import train_fashion_mnist as example  # noqa: E402


def train(model: str, seed: int) -> dict:
    """One run of the example: accuracy and loss by epoch, and the test accuracy after the last one."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = example.parser.parse_args(["--model", model, "--seed", str(seed), "--output", folder])
        start = time.perf_counter()
        history, loss, accuracy = example.main(arguments)
        seconds = time.perf_counter() - start
    return {
        "seed": seed, "test_accuracy": round(accuracy, 4), "test_loss": round(loss, 4), "seconds": round(seconds),
        **{name: [round(value, 4) for value in values] for name, values in history.history.items()},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["dense", "cnn"], default="dense")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    args = parser.parse_args()
    runs = [train(args.model, seed) for seed in args.seeds]
    accuracies = [run["test_accuracy"] for run in runs]
    results = {
        "dataset": "Fashion-MNIST, 60,000 train, 10,000 test; train images MD5 8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "model": args.model, "epochs": len(runs[0]["loss"]), "threads": minicnn.get_num_threads(),
        "mean_test_accuracy": round(float(np.mean(accuracies)), 4),
        "peak_memory_mb": round(peak_memory_mb()), "runs": runs,
    }  # fmt: skip
    write_record(HERE / "results" / f"fashion_mnist_{args.model}.json", results)


if __name__ == "__main__":
    main()
