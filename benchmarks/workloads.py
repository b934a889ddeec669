"""What benchmarks/models.py measures: the documents' networks, on random numbers of their shapes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Workload:
    """A training step: batch size, image shape, and how many batches one timed round takes."""

    title: str
    batch: int
    shape: tuple[int, int, int]
    batches: int


WORKLOADS = {
    "dense": Workload("dense net, Fashion-MNIST shapes, Adam, batch 32, through fit", 32, (28, 28, 1), 200),
    "cifar": Workload("CIFAR-10 CNN, Adam, batch 64, through fit", 64, (32, 32, 3), 4),
}


def data(workload: Workload) -> tuple[np.ndarray, np.ndarray]:
    """The same random images (float32, 0…1) and class numbers for every side."""
    rng = np.random.default_rng(0)
    samples = workload.batch * workload.batches
    x = rng.random((samples, *workload.shape), dtype=np.float32)
    return x, rng.integers(0, 10, samples)
