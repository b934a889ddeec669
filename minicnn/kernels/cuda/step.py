"""The optimizer's step for all parameters in one launch: step.cu."""

from __future__ import annotations

from typing import Any

import numpy as np

from minicnn.backend import Array, xp_of
from minicnn.kernels.cuda.launch import kernel_for

CHUNK = 1024  # numbers of a block, see step.cu
MAX_TABLES = 64

# (CuPy, device, addresses and sizes) -> the table there, and its number of blocks
_tables: dict[tuple[Any, int, tuple[int, ...]], tuple[Array, int]] = {}


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

    Gradients are new arrays in every step, but mostly at addresses where some step before had them: then the table is
    there already.
    """
    first = parameters[0][0]
    facts = tuple([fact for arrays in parameters for fact in (*[a.data.ptr for a in arrays], arrays[0].size)])
    key = xp_of(first), first.device.id, facts
    known = _tables.get(key)
    if known is None:
        rows, blocks = [], 0
        for arrays in parameters:
            addresses = [a.data.ptr for a in arrays] + [0] * (4 - len(arrays))
            rows.append([*addresses, arrays[0].size, blocks])
            blocks += -(-arrays[0].size // CHUNK)
        if len(_tables) >= MAX_TABLES:
            _tables.clear()
        known = _tables[key] = xp_of(first).asarray(np.array(rows, np.uint64)), blocks
    return known
