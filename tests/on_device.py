"""Tests that were written with NumPy arrays, run on another device: what the fixture `device_of_test` does to them.

Whatever of minicnn such a test calls with NumPy arrays is called with arrays of the device instead, and what comes back
is fetched: kernels (held as functions, in modules, tuples, lists, dicts and partials, or as parameters), layers (their
parameters and the context with them), losses, metrics, optimizers, constraints and regularizers. Calls that have arrays
of the device already, those inside a model, are left alone.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import strict_cupy

from minicnn.constraints import Constraint
from minicnn.errors import InputError
from minicnn.layers import Context, Layer
from minicnn.losses import Loss
from minicnn.metrics import Metric
from minicnn.optimizers import Optimizer
from minicnn.regularizers import Regularizer

METHODS = {
    Layer: ("forward", "backward"),
    Loss: ("per_sample", "gradient"),
    Metric: ("values", "sum"),
    Constraint: ("__call__",),
    Regularizer: ("penalty", "gradient"),
    Optimizer: ("apply",),
}


def move_calls(module: types.ModuleType, parameters: dict[str, Any], monkeypatch: Any) -> None:
    """Until the test ends, calls of minicnn with NumPy arrays compute on the device.

    module: the test's own; parameters: those of its pytest.mark.parametrize.
    """
    for names, change in ((vars(module), monkeypatch.setattr), (parameters, monkeypatch.setitem)):
        owner = module if names is vars(module) else parameters
        for name, value in list(names.items()):
            if isinstance(value, types.ModuleType) and _has_kernels(value.__name__):
                for inner, kernel in list(vars(value).items()):
                    if not inner.startswith("_") and _moved(kernel) is not kernel:
                        monkeypatch.setattr(value, inner, _moved(kernel))
            elif not name.startswith("__") and _moved(value) is not value:
                change(owner, name, _moved(value))
    for base, methods in METHODS.items():
        for cls in (base, *_subclasses(base)):
            for method in methods:
                if method in vars(cls) and cls.__module__.startswith("minicnn."):
                    monkeypatch.setattr(cls, method, _method(vars(cls)[method]))


_ON_THE_HOST = ("minicnn.kernels.reference", "minicnn.kernels.geometry")
_OVERWRITES = ("bias_relu",)  # their first array


def _has_kernels(name: str) -> bool:
    own = name == "minicnn.kernels" or name.startswith("minicnn.kernels.")
    return own and name not in _ON_THE_HOST and ".cuda" not in name


def _moved(value: Any) -> Any:
    """A kernel, or what holds kernels, on the device; anything else itself."""
    if isinstance(value, types.FunctionType):
        there = _has_kernels(value.__module__) and not inspect.isgeneratorfunction(inspect.unwrap(value))
        return _kernel(value) if there and not hasattr(value, "on_device") else value
    if isinstance(value, functools.partial):
        function = _moved(value.func)
        return value if function is value.func else functools.partial(function, *value.args, **value.keywords)
    if isinstance(value, dict):
        moved = {key: _moved(item) for key, item in value.items()}
        return moved if any(moved[key] is not value[key] for key in value) else value
    if isinstance(value, (list, tuple)):
        items = [_moved(item) for item in value]
        if all(a is b for a, b in zip(items, value, strict=True)):
            return value
        return value._make(items) if hasattr(value, "_make") else type(value)(items)  # a NamedTuple
    return value


def _subclasses(cls: type) -> Iterator[type]:
    for sub in cls.__subclasses__():
        yield sub
        yield from _subclasses(sub)


def _kernel(kernel: Any) -> Any:
    """The kernel on the device. What the tests check of its NumPy arrays is checked there."""
    calls = itertools.count()

    @functools.wraps(kernel)
    def on_device(*args: Any, **kwargs: Any) -> Any:
        if any(map(_is_there, (*args, *kwargs.values()))) or not _has_arrays((list(args), kwargs)):
            return kernel(*args, **kwargs)
        sent, options = _send(list(args)), _send(kwargs)
        if kernel.__name__ in _OVERWRITES:
            kernel(*sent, **options)
            _copy_back(args[0], sent[0])
            return args[0]
        if next(calls) > 5:  # the many calls of a numeric gradient
            return _fetch(kernel(*sent, **options))
        arrays = [arg for arg in (*sent, *options.values()) if _is_there(arg)]
        before = [array.get() for array in arrays]
        try:
            result = kernel(*sent, **options)
        except InputError:
            strict_cupy.log["refused"] += 1  # that it refuses is what such a test may be about
            raise
        for array, old in zip(arrays, before, strict=True):
            np.testing.assert_array_equal(array.get(), old, err_msg="an input was changed")
        for part in result if isinstance(result, tuple) else (result,):
            assert not (arrays and isinstance(part, np.ndarray)), "a NumPy array came back from the device"
            if _is_there(part):
                assert part.flags.c_contiguous, "the result is not C-contiguous"
                assert not any(_cupy().may_share_memory(part, array) for array in arrays), "it shares an input's memory"
        return _fetch(result)

    on_device.on_device = True  # type: ignore[attr-defined]
    return on_device


def _method(method: Any) -> Any:
    """The method on the device, where its arrays are NumPy's."""

    @functools.wraps(method)
    def on_device(self: Any, *args: Any, **kwargs: Any) -> Any:
        if any(map(_is_there, args)) or not any(map(_has_arrays, args)):
            return method(self, *args, **kwargs)
        sent = _send(list(args))
        with _arrays_there(self, args):
            result = method(self, *sent, **kwargs)
        for arg, there in zip(args, sent, strict=True):
            _copy_back(arg, there)
        return _fetch(result)

    return on_device


def _cupy() -> Any:
    return sys.modules["cupy"]


def _is_there(value: Any) -> bool:
    return isinstance(value, _cupy().ndarray)


def _has_arrays(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_has_arrays, value.values()))
    return isinstance(value, np.ndarray) or (isinstance(value, (list, tuple)) and any(map(_has_arrays, value)))


def _send(value: Any) -> Any:
    """The same on the device: arrays, also those in lists and dicts. An array with gaps has gaps there, too."""
    if isinstance(value, dict):
        return {key: _send(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_send(item) for item in value]
    if not isinstance(value, np.ndarray):
        return value
    cupy = _cupy()
    if value.flags.c_contiguous or 0 in value.shape:
        return cupy.asarray(value)
    gaps = cupy.zeros([2 * size for size in value.shape], value.dtype)
    view = gaps[tuple(slice(None, None, 2) for _ in value.shape)]
    view[...] = cupy.asarray(value)
    return view


def _fetch(value: Any) -> Any:
    """The same on the host. NumPy has numbers where CuPy has arrays without axes."""
    if isinstance(value, dict):
        return {key: _fetch(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_fetch(item) for item in value)
    return value.get()[()] if _is_there(value) else value


def _copy_back(value: Any, there: Any) -> None:
    """What was changed there (an optimizer changes its arrays) is changed here."""
    if isinstance(value, dict):
        for key in value:
            _copy_back(value[key], there[key])
    elif isinstance(value, list):
        for item, other in zip(value, there, strict=False):  # clipping adds the shares up
            _copy_back(item, other)
    elif isinstance(value, np.ndarray) and not np.array_equal(value, there.get(), equal_nan=True):
        value[...] = there.get()


@contextmanager
def _arrays_there(owner: Any, args: tuple[Any, ...]) -> Iterator[None]:
    """Inside, the arrays that a layer, an optimizer and the contexts hold are on the device."""
    kept = [arrays for layer in getattr(owner, "flat_layers", [owner]) if isinstance(layer, Layer)
            for arrays in (layer.params, layer.state)]  # fmt: skip
    originals = [dict(arrays) for arrays in kept]
    changing = [vars(ctx) for arg in args if isinstance(arg, Context) for ctx in (arg, *vars(arg).get("contexts", []))]
    if isinstance(owner, Optimizer):
        changing.append(owner.state)
    for arrays in (*kept, *changing):
        arrays.update(_send(dict(arrays)))
    try:
        yield
    finally:
        for arrays, before in zip(kept, originals, strict=True):
            arrays.update(before)
        for arrays in changing:
            arrays.update(_fetch(dict(arrays)))
