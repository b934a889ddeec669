"""Which array module an array belongs to, and the way to and from the host.

The array decides: a kernel asks `xp = xp_of(x)` and computes with whatever it was given. There is no global
switch, so a CPU run and a GPU run live in one process and can be compared.
"""

from __future__ import annotations

import sys
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = Any  # numpy.ndarray or cupy.ndarray


def xp_of(x: Array) -> Any:
    """The array module of x: `cupy` for a CuPy array, `numpy` for everything else."""
    if type(x) is np.ndarray:
        return np
    cupy = sys.modules.get("cupy")  # whoever holds a CuPy array has imported CuPy already
    return cupy if cupy is not None and isinstance(x, cupy.ndarray) else np
