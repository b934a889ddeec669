"""Random numbers that every device draws alike: each is worked out from its own place, and none needs the one before.

A counter, mixed until its bits look random, is a random number (splitmix64: G. Steele, D. Lea, C. Flood, "Fast
Splittable Pseudorandom Number Generators", 2014). Two uniform numbers make a normal one (G. Box, M. Muller, 1958):

    sqrt(-2 log u) * cos(2 pi v)        u in (0, 1), v in [0, 1): the upper and the lower 32 bits of the mixed counter

Sample number n of a batch has the counters from n * (numbers of a sample) on, so a batch that is cut into shards gets
the noise of one that is not. Reference implementation: `reference.gaussian_noise`, in whole numbers of Python.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minicnn.backend import Array, xp_of

GOLDEN = 0x9E3779B97F4A7C15  # 2^64 divided by the golden ratio: the step from one counter to the next
MASK = 0xFFFFFFFFFFFFFFFF


def gaussian_noise(x: Array, seed: Any, first: int = 0) -> Array:
    """Standard normal numbers, of the shape and dtype of a batch x (N, …) whose first sample is number `first`.

    seed: a whole number, or on a GPU one that is known only when a step begins (minicnn.training.capture.StepVariable).
    """
    xp, each = xp_of(x), math.prod(x.shape[1:])
    if isinstance(seed, (int, np.integer)):
        start = xp.asarray(np.array([_start(int(seed))], np.uint64))
    else:
        start = seed.words(lambda now: [_start(now)], 1)
    counters = xp.arange(int(first) * each, (int(first) + len(x)) * each, dtype=np.uint64)
    bits = _mixed(counters * np.uint64(GOLDEN) + start)
    u = ((bits >> np.uint64(32)).astype(np.float64) + 0.5) / 2**32
    v = (bits & np.uint64(0xFFFFFFFF)).astype(np.float64) / 2**32
    noise = xp.sqrt(-2 * xp.log(u)) * xp.cos(2 * math.pi * v)
    return noise.astype(x.dtype).reshape(x.shape)


def _mixed(z: Array) -> Array:
    """The finalizer of splitmix64, of an array of uint64, in which products wrap at 2^64."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _start(seed: int) -> int:
    """Where the counters of a seed begin: neighbouring seeds far apart."""
    return int(_mixed(np.array([(seed + 1) * GOLDEN & MASK], np.uint64))[0])
