"""Optimizers, with Keras' names: `optimizers.Adam(0.001)`, or "adam" in compile. Schedules of the rate: `.schedules`.

How a step is made, and shared by the threads, is in base.py; the rules, a few lines each, are in rules.py.
"""

from __future__ import annotations

from minicnn.optimizers import schedules
from minicnn.optimizers.base import Optimizer
from minicnn.optimizers.multi import MultiOptimizer, OptimizerMap
from minicnn.optimizers.muon import Muon
from minicnn.optimizers.rules import SGD, Adagrad, Adam, AdamW, Lion, Nadam, RMSprop
from minicnn.registry import names_of, resolve

__all__ = [
    "SGD", "Adagrad", "Adam", "AdamW", "Lion", "MultiOptimizer", "Muon", "Nadam", "Optimizer", "OptimizerMap",
    "RMSprop", "get", "schedules",
]  # fmt: skip

_KNOWN = names_of(
    SGD, Adam, AdamW, RMSprop, Adagrad, Nadam, Lion, Muon, MultiOptimizer, sgd=SGD, adamw=AdamW, rmsprop=RMSprop
)


def get(identifier: str | dict | Optimizer) -> Optimizer:
    """The optimizer for a name ("adam", "sgd", …), a config or an instance. Raises UnknownNameError."""
    if isinstance(identifier, Optimizer):
        return identifier
    name = identifier if isinstance(identifier, (str, dict)) else repr(identifier)
    return resolve("optimizer", name, _KNOWN, Optimizer)
