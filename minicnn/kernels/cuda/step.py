"""The optimizer's step for all parameters in one launch: step.cu."""

from __future__ import annotations

from typing import Any

import numpy as np

from minicnn.backend import Array, xp_of
from minicnn.kernels.cuda.launch import kernel_for

CHUNK = 1024  # numbers of a block, see step.cu

# (CuPy, device) -> the last table, here and there
_tables: dict[tuple[Any, int], tuple[np.ndarray, Array]] = {}


def fused_step(rule: str, parameters: list[list[Array]], numbers: tuple[float, ...]) -> None:
    """One step of `rule` ("sgd", "adam", "rmsprop", "adagrad" or "lion", see step.cu) in place.

    parameters: of each its arrays p, g and slots, C-contiguous, of one size and dtype. numbers: the rule's arguments.
    """
    first = parameters[0][0]
    table, blocks = _table(parameters)
    kernel = kernel_for(xp_of(first), "step", rule, first.dtype, max(p.size for p, *_ in parameters))
    kernel((blocks,), (256,), table, len(parameters), *numbers)


def _table(parameters: list[list[Array]]) -> tuple[Array, int]:
    """(the table of step.cu on the device, how many blocks it describes).

    From step to step the addresses mostly stay the same: then the table is there already.
    """
    rows, blocks = [], 0
    for arrays in parameters:
        addresses = [a.data.ptr for a in arrays] + [0] * (4 - len(arrays))
        rows.append([*addresses, arrays[0].size, blocks])
        blocks += -(-arrays[0].size // CHUNK)
    host, first = np.array(rows, np.uint64), parameters[0][0]
    key = xp_of(first), first.device.id
    known = _tables.get(key)
    if known is None or not np.array_equal(known[0], host):
        known = _tables[key] = host, xp_of(first).asarray(host)
    return known[1], blocks
