"""What the course's first network is worth in Keras itself, on the same files: the yardstick of fashion_mnist.py.

    python benchmarks/keras_fashion_mnist.py --seeds 0 1 2

Needs Keras (with TensorFlow) beside minicnn, and the data set, as fashion_mnist.py does.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from record import write_record

from minicnn.datasets import fashion_mnist


def train(seed: int) -> dict:
    """One run: Flatten, Dense(128, relu), Dense(10, softmax); adam; 5 epochs of shuffled batches of 32."""
    keras.utils.set_random_seed(seed)
    (x_train, y_train), (x_test, y_test) = fashion_mnist.load_data()
    x_train, x_test = (x[..., None].astype(np.float32) / 255 for x in (x_train, x_test))
    model = keras.Sequential([
        keras.Input((28, 28, 1)),
        keras.layers.Flatten(),
        keras.layers.Dense(128, activation="relu"),
        keras.layers.Dense(10, activation="softmax"),
    ])  # fmt: skip
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    start = time.perf_counter()
    history = model.fit(x_train, y_train, batch_size=32, epochs=5, verbose=2)
    seconds = time.perf_counter() - start
    loss, accuracy = model.evaluate(x_test, y_test, verbose=0)
    return {
        "seed": seed, "test_accuracy": round(float(accuracy), 4), "test_loss": round(float(loss), 4),
        "seconds": round(seconds), "accuracy": [round(float(a), 4) for a in history.history["accuracy"]],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    runs = [train(seed) for seed in parser.parse_args().seeds]
    mean = round(float(np.mean([run["test_accuracy"] for run in runs])), 4)
    results = {"keras": keras.__version__, "backend": keras.backend.backend(), "mean_test_accuracy": mean, "runs": runs}
    write_record(Path(__file__).parent / "results" / "keras_fashion_mnist.json", results)


if __name__ == "__main__":
    main()
