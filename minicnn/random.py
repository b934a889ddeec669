"""minicnn's own source of randomness: one host generator, from which every other one is spawned.

NumPy's global state (`np.random.seed`) is neither read nor changed.
"""

from __future__ import annotations

import numpy as np

_root: np.random.Generator | None = None  # made at first use, from the system's entropy unless seeded


def seed(n: int) -> None:
    """Start again from n: the generators handed out afterwards are the same ones in every run."""
    global _root
    _root = np.random.default_rng(n)


def new_generator() -> np.random.Generator:
    """A fresh generator, independent of all those handed out before."""
    global _root
    if _root is None:
        _root = np.random.default_rng()
    return _root.spawn(1)[0]
