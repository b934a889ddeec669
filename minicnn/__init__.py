"""minicnn: convolutional neural networks in plain NumPy arrays, written to be read.

Start with `minicnn.models.Sequential` and `minicnn.layers`; ARCHITECTURE.md shows the way through the source.
Submodules are imported when they are first used, so `import minicnn` costs little more than `import numpy`.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

__version__ = "0.1.0"

_SUBMODULES = {
    "activations", "applications", "backend", "callbacks", "constraints", "datasets", "errors", "gradcheck",
    "initializers", "inspect", "kernels", "layers", "losses", "metrics", "models", "optimizers", "preprocessing",
    "regularizers", "schedules", "sklearn", "utils",
}  # fmt: skip
_NAMES = {
    "Model": "minicnn.models",
    "Sequential": "minicnn.models",
    "Input": "minicnn.layers",
    "load_model": "minicnn.models",
    "profile": "minicnn.inspect.profile",
    "device": "minicnn.backend",
    "keep_memory": "minicnn.training.allocator",
    "set_tf32": "minicnn.backend",
    "set_cuda_graph": "minicnn.training.graph",
    "set_plan": "minicnn.training.plan",
    "set_processes": "minicnn.training.processes",
    "set_num_threads": "minicnn.training.shards",
    "get_num_threads": "minicnn.training.shards",
    "set_group": "minicnn.ranks",
    "get_group": "minicnn.ranks",
}
__all__ = [*sorted(_NAMES), *sorted(_SUBMODULES)]


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f"minicnn.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    raise AttributeError(f"module 'minicnn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({"__doc__", "__version__", *_SUBMODULES, *_NAMES})


# Started by mpiexec or srun, maybe together with other ranks (see minicnn/ranks.py).
_LAUNCHED = {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS"}
if not _LAUNCHED.isdisjoint(os.environ):
    importlib.import_module("minicnn.training.distributed").join()
