"""Train the networks of examples/train_fashion_mnist.py on real data, and record what they reach.

    python benchmarks/fashion_mnist.py --model dense --seeds 0 1 2 3 4
    python benchmarks/fashion_mnist.py --model cnn --seeds 0
    python benchmarks/fashion_mnist.py --model cnn --seeds 0 1 2 --device both     the same on CPU and GPU, compared

Needs the data set: downloaded, or in the folder that MINICNN_DATA names.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from record import peak_memory_mb, write_record

import minicnn
from minicnn.backend import module_for
from minicnn.errors import InputError
from minicnn.files import make_folder

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "examples"))
import train_fashion_mnist as example  # noqa: E402


def train(model: str, seed: int, device: str) -> dict:
    """One run of the example: accuracy and loss by epoch, and the test accuracy after the last one."""
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--model", model, "--seed", str(seed), "--device", device, "--output", folder]
        start = time.perf_counter()
        history, loss, accuracy = example.main(example.parser.parse_args(flags))
        seconds = time.perf_counter() - start
    return {
        "seed": seed, "test_accuracy": round(accuracy, 4), "test_loss": round(loss, 4), "seconds": round(seconds),
        **{name: [round(value, 4) for value in values] for name, values in history.history.items()},
    }  # fmt: skip


def within_noise(a: list[float], b: list[float]) -> tuple[bool, float, float]:
    """(whether two lists of accuracies may have the same mean, the difference of the means, what is allowed).

    Allowed are three standard errors of that difference. An accuracy is taken to vary by 0.0025 at least, the standard
    error of 0.93 on 10,000 test images: three equal ones do not prove that there is no spread.
    """
    spread = max([0.0025, *(float(np.std(values, ddof=1)) for values in (a, b) if len(values) > 1)])
    allowed = 3 * spread * math.sqrt(1 / len(a) + 1 / len(b))
    difference = float(np.mean(b) - np.mean(a))
    return abs(difference) <= allowed, difference, allowed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["dense", "cnn"], default="dense")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--device", choices=["cpu", "gpu", "both"], default="cpu")
    parser.add_argument("--output", type=Path, default=HERE / "results", help="folder for the record")
    args = parser.parse_args()
    devices = ["cpu", "gpu"] if args.device == "both" else [args.device]
    module_for(devices[-1])  # what is missing is better missed before the CPU has worked for an hour
    make_folder(args.output)
    reached = {}
    for device in devices:
        runs = [train(args.model, seed, device) for seed in args.seeds]
        reached[device] = [run["test_accuracy"] for run in runs]
        results = {
            "dataset": "Fashion-MNIST, 60,000 train, 10,000 test; train images MD5 8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "model": args.model, "device": device, "epochs": len(runs[0]["loss"]),
            "threads": minicnn.get_num_threads(), "mean_test_accuracy": round(float(np.mean(reached[device])), 4),
            "peak_memory_mb": round(peak_memory_mb()), "runs": runs,
        }  # fmt: skip
        suffix = "" if device == "cpu" else "_gpu"
        write_record(args.output / f"fashion_mnist_{args.model}{suffix}.json", results)
    if len(reached) == 2:
        same, difference, allowed = within_noise(reached["cpu"], reached["gpu"])
        print(f"accuracy on the GPU minus that on the CPU: {difference:+.4f}; within the seeds' noise: {allowed:.4f}")
        if not same:
            sys.exit("The two devices do not reach the same accuracy.")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
