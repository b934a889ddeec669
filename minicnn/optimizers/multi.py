"""Several optimizers for one model: each parameter goes by the one that its name chooses."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from minicnn.backend import Array
from minicnn.errors import InputError
from minicnn.optimizers.base import Arrays, Key, Optimizer, names_of_parameter
from minicnn.registry import Configured


class OptimizerMap(Configured):
    """Patterns of names, and the optimizer for each: `OptimizerMap(Adam(1e-3), {"conv.*/bias": SGD(0.1)})`.

    A pattern is a name such as "dense_1/kernel", or a regular expression for the whole of it; parameters that none fits
    go by default_optimizer. Raises InputError where several fit.
    """

    def __init__(self, default_optimizer: Optimizer, optimizer_map: Mapping[str, Optimizer] | None = None):
        if not isinstance(optimizer_map, (Mapping, type(None))):
            raise InputError(
                "OptimizerMap", "this is no dict.", "{pattern: optimizer}, or None.", f"{optimizer_map!r}.",
                'write {"dense_1/kernel": SGD(0.1)}, for example.',
            )  # fmt: skip
        chosen = dict(optimizer_map or {})
        for name, optimizer in {"default_optimizer": default_optimizer, **chosen}.items():
            if not isinstance(optimizer, Optimizer) or isinstance(optimizer, MultiOptimizer):
                raise InputError(
                    "OptimizerMap", f"{name} is not a single optimizer.", "an optimizer, such as SGD(0.1).",
                    f"{optimizer!r}.", "make an instance of it.",
                )  # fmt: skip
        self.default_optimizer, self.optimizer_map = default_optimizer, chosen

    def __getitem__(self, name: str) -> Optimizer:
        """The optimizer of the parameter of this name."""
        if name in self.optimizer_map:
            return self.optimizer_map[name]
        fitting = [pattern for pattern in self.optimizer_map if re.fullmatch(pattern, name)]
        if len(fitting) > 1:
            raise InputError(
                "OptimizerMap", f"several patterns fit {name}.", "one pattern at most.", f"{', '.join(fitting)}.",
                "make them more exact.",
            )  # fmt: skip
        return self.optimizer_map[fitting[0]] if fitting else self.default_optimizer

    def __setitem__(self, pattern: str, optimizer: Optimizer) -> None:
        """Give the parameters that this pattern fits an optimizer."""
        chosen = {**self.optimizer_map, pattern: optimizer}
        self.optimizer_map = OptimizerMap(self.default_optimizer, chosen).optimizer_map


class MultiOptimizer(Optimizer):
    """Each parameter goes by the optimizer that an OptimizerMap gives its name ("dense_1/kernel", "conv2d_1/bias").

    They share `iterations` and `state`, and each has its own rate, weight decay and clipping: the rate of all cannot be
    set at once.
    """

    def __init__(self, optimizer_map: OptimizerMap, name: str | None = None):
        if not isinstance(optimizer_map, OptimizerMap):
            raise InputError(
                "MultiOptimizer", "this is not an OptimizerMap.",
                'OptimizerMap(Adam(), {"dense_1/kernel": SGD(0.1)}), for example.', f"{optimizer_map!r}.",
                "write minicnn.optimizers.OptimizerMap(default_optimizer, {pattern: optimizer}).",
            )  # fmt: skip
        self.optimizer_map = optimizer_map
        super().__init__(0.0, name=name)
        self.schedule: Any = optimizer_map  # so that no callback sets a rate

    @classmethod
    def _arguments(cls) -> list[str]:
        return ["optimizer_map", "name"]

    @property
    def optimizers(self) -> list[Optimizer]:
        """All inner optimizers, the default one last."""
        inner = [*self.optimizer_map.optimizer_map.values(), self.optimizer_map.default_optimizer]
        return list({id(optimizer): optimizer for optimizer in inner}.values())

    def optimizer_of(self, key: Key) -> Optimizer:
        return self.optimizer_map["/".join(names_of_parameter(key))]

    @property
    def learning_rate(self) -> float:
        """The rate of the default optimizer."""
        return self.optimizer_map.default_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, value: Any) -> None:
        if hasattr(self, "state"):  # else it is the constructor's
            raise InputError(
                "MultiOptimizer", "it has no rate of its own.", "a rate for one of its optimizers.", f"{value!r}.",
                "set that of model.optimizer.optimizers[0], for example; or give them schedules.",
            )  # fmt: skip

    @property
    def iterations(self) -> int:
        return self.optimizer_map.default_optimizer.iterations

    @iterations.setter
    def iterations(self, value: int) -> None:
        for optimizer in self.optimizers:
            optimizer.iterations = value

    def slots_of(self, key: Key | None = None) -> tuple[str, ...]:
        if key is not None:
            return self.optimizer_of(key).slots_of(key)
        return max((optimizer.slots_of() for optimizer in self.optimizers), key=len)

    def new_state(self, key: Key, p: Array) -> list[Array]:
        return self.optimizer_of(key).new_state(key, p)

    def means_of(self, key: Key, arrays: Sequence[Array]) -> dict[str, Array]:
        return self.optimizer_of(key).means_of(key, arrays)

    def state_of(self, key: Key, means: Mapping[str, Array]) -> list[Array]:
        return self.optimizer_of(key).state_of(key, means)

    def apply(self, params: Arrays, grads: dict[Key, list[Array]], workers: Any = None) -> None:
        step = self.iterations
        for optimizer in self.optimizers:
            own = {key: p for key, p in params.items() if self.optimizer_of(key) is optimizer}
            optimizer.state = {key: arrays for key, arrays in self.state.items() if self.optimizer_of(key) is optimizer}
            optimizer.iterations = step
            optimizer.apply(own, {key: grads[key] for key in own}, workers)
            self.state |= optimizer.state
        self.iterations = step + 1

    def _average_of(self, key: Key) -> Array | None:
        return self.state[key][-1] if self.optimizer_of(key).use_ema and key in self.state else None

    def get_config(self) -> dict[str, Any]:
        return Configured.get_config(self)
