"""minicnn's own source of randomness: one host generator, from which every other one is spawned.

NumPy's global state (`np.random.seed`) is neither read nor changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np

_root: np.random.Generator | None = None  # made at first use, from the system's entropy unless seeded
_inside: ContextVar[np.random.Generator | None] = ContextVar("_inside", default=None)  # of `seeded`


def seed(n: int) -> None:
    """Start again from n: the generators handed out afterwards are the same ones in every run."""
    global _root
    _root = np.random.default_rng(n)


@contextmanager
def seeded(n: int) -> Iterator[None]:
    """Inside, in this thread, the generators handed out are those after seed(n); outside they go on as if without."""
    token = _inside.set(np.random.default_rng(n))
    try:
        yield
    finally:
        _inside.reset(token)


def new_generator() -> np.random.Generator:
    """A fresh generator, independent of all those handed out before."""
    global _root
    inside = _inside.get()
    if inside is not None:
        return inside.spawn(1)[0]
    if _root is None:
        _root = np.random.default_rng()
    return _root.spawn(1)[0]
