"""A strict stand-in for CuPy, over NumPy: what runs on it without a complaint has a good chance on a real GPU.

`install(monkeypatch)` puts it where `import cupy` finds it. It has what CuPy 14 has and minicnn may want, with CuPy's
arguments (test_strict_cupy.py compares them with those of CuPy where that is installed). It is stricter than CuPy
where CuPy is silent:

- its array is no numpy.ndarray, and refuses to meet one: in arithmetic, as an index, in a NumPy function;
- what CuPy computes without a word is an IndexError here: an index that is out of range;
- x[i] = v with an i that names a place twice: which v stays is drawn by lot;
- new memory holds NaN, and so does a copy in flight, until its stream was waited for;
- arrays of two devices do not meet;
- CUDA graphs: see strict_graph.py;
- `log` counts what makes the host wait ("sync": float(x), x.get(), a boolean mask), what travels ("to_device"), and
  what is computed ("launch").
"""

from __future__ import annotations

import inspect
import itertools
import sys
import threading
import types
from collections import Counter
from contextlib import contextmanager
from typing import Any

import cuda_on_cpu
import numpy as np
import strict_graph

log: Counter[str] = Counter()
device_count = 2
largest_allocation: int | None = None  # bytes; beyond it there is an OutOfMemoryError
_lot = np.random.default_rng(0)
_here = threading.local()  # the current device and stream of this thread


# ---- the array -------------------------------------------------------------------------------------------------------


class Flags:
    """Without `writeable`, which CuPy does not have."""

    def __init__(self, array: np.ndarray):
        self.c_contiguous, self.f_contiguous = array.flags.c_contiguous, array.flags.f_contiguous
        self.owndata = array.base is None


class ndarray:  # noqa: N801
    """An array "on the device": holds a NumPy array that nobody outside may see."""

    __slots__ = ("__weakref__", "_host", "_memory", "device")
    __array_priority__ = 100
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, shape, dtype=float, memptr=None, strides=None, order="C"):
        assert memptr is None and strides is None, "the stand-in has no pointers"
        self._host, self.device = _new(shape, dtype, order), _current_device()
        self._memory = strict_graph.Memory.of(self._host)

    dtype = property(lambda self: self._host.dtype)
    shape = property(lambda self: self._host.shape)
    ndim = property(lambda self: self._host.ndim)
    size = property(lambda self: self._host.size)
    nbytes = property(lambda self: self._host.nbytes)
    itemsize = property(lambda self: self._host.itemsize)
    strides = property(lambda self: self._host.strides)
    flags = property(lambda self: Flags(self._host))
    data = property(lambda self: types.SimpleNamespace(ptr=self._host.ctypes.data))
    T = property(lambda self: _wrap(self._host.T, self.device))

    # ---- nothing of this goes by itself to the host ----

    def __array__(self, dtype=None, copy=None):
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. "
            "Please use `.get()` to construct a NumPy array explicitly."
        )

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        # CuPy would take over. Here only NumPy's scalars may stand on the left: np.float32(2) * x.
        if method == "__call__" and not kwargs and any(isinstance(x, np.generic) for x in inputs):
            return _apply(ufunc.__name__, ufunc, inputs, {})
        raise TypeError(f"numpy.{ufunc.__name__} was called with a CuPy array: call cupy.{ufunc.__name__}")

    def __array_function__(self, function, types, args, kwargs):
        raise TypeError(f"numpy.{function.__name__} was called with a CuPy array: call cupy.{function.__name__}")

    # ---- what makes the host wait ----

    def get(self, stream=None, order="C", out=None, blocking=True):
        _wait()
        return self._host.copy(order)

    def item(self):
        _wait()
        return self._host.item()

    def tolist(self):
        _wait()
        return self._host.tolist()

    def __float__(self):
        _wait()
        return float(self._host)

    def __int__(self):
        _wait()
        return int(self._host)

    def __index__(self):
        _wait()
        return self._host.__index__()

    def __bool__(self):
        _wait()
        return bool(self._host)

    def __repr__(self):
        _wait()
        return repr(self._host)

    def __reduce__(self):
        _wait()
        return _unpickled, (self._host,)

    def nonzero(self):
        _wait()
        return tuple(_wrap(i, self.device) for i in self._host.nonzero())

    # ---- indices ----

    def __len__(self):
        return len(self._host)

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __getitem__(self, key):
        return _derived(self, lambda host, index: host[index], _key(key), of=key)

    def __setitem__(self, key, value):
        if isinstance(value, np.ndarray):
            raise TypeError("a NumPy array was assigned to a part of a CuPy array")
        graph = _capture()
        host_key, value, sent = _key(key), _host(value), value
        if graph is not None:
            graph.use(self, key, sent)
            host = self._host
            graph.operations.append(lambda: _put(host, host_key, value))
        else:
            _put(self._host, host_key, value)

    # ---- methods ----

    def astype(self, dtype, order="K", casting=None, subok=None, copy=True):
        return _derived(self, lambda host: host.astype(dtype, order=order, casting=casting or "unsafe", copy=copy))

    def copy(self, order="C"):
        return _derived(self, lambda host: host.copy(order))

    def conj(self):
        return _apply("conj", np.conjugate, (self,), {})

    def fill(self, value):
        self[...] = value

    def set(self, arr, stream=None):
        if not isinstance(arr, np.ndarray):
            raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
        if arr.dtype != self.dtype or arr.shape != self.shape:
            raise ValueError(f"{arr.dtype} {arr.shape} cannot be set to {self.dtype} {self.shape}")
        log["to_device"] += 1
        if (graph := _capture()) is not None:
            graph.refuse("a copy from the host")
        self._host[...] = arr

    def view(self, dtype=None, type=None):
        return _wrap(self._host.view() if dtype is None else self._host.view(dtype), self.device)

    def reshape(self, *shape, order="C", copy=None):
        return _derived(self, lambda host: host.reshape(*shape, order=order))

    def transpose(self, *axes):
        return _wrap(self._host.transpose(*axes), self.device)

    def ravel(self, order="C"):
        return _derived(self, lambda host: host.ravel(order))

    def flatten(self, order="C"):
        return _derived(self, lambda host: host.flatten(order))

    def squeeze(self, axis=None):
        return _wrap(self._host.squeeze(axis), self.device)

    def swapaxes(self, axis1, axis2):
        return _wrap(self._host.swapaxes(axis1, axis2), self.device)

    def clip(self, min=None, max=None, out=None):
        return _apply("clip", np.ndarray.clip, (self, min, max), {"out": out})

    def dot(self, b, out=None):
        return _apply("dot", np.dot, (self, b), {"out": out})

    def take(self, indices, axis=None, out=None):
        return _apply("take", np.take, (self, indices), {"axis": axis, "out": out})

    def repeat(self, repeats, axis=None):
        return _apply("repeat", np.repeat, (self, repeats), {"axis": axis})

    def sum(self, axis=None, dtype=None, out=None, keepdims=False):
        return _apply("sum", np.sum, (self,), {"axis": axis, "dtype": dtype, "out": out, "keepdims": keepdims})

    def prod(self, axis=None, dtype=None, out=None, keepdims=False):
        return _apply("prod", np.prod, (self,), {"axis": axis, "dtype": dtype, "out": out, "keepdims": keepdims})

    def mean(self, axis=None, dtype=None, out=None, keepdims=False):
        return _apply("mean", np.mean, (self,), {"axis": axis, "dtype": dtype, "out": out, "keepdims": keepdims})

    def var(self, axis=None, dtype=None, out=None, ddof=0, keepdims=False):
        return _apply("var", np.var, (self,), {"axis": axis, "dtype": dtype, "out": out, "ddof": ddof,
                                               "keepdims": keepdims})  # fmt: skip

    def std(self, axis=None, dtype=None, out=None, ddof=0, keepdims=False):
        return _apply("std", np.std, (self,), {"axis": axis, "dtype": dtype, "out": out, "ddof": ddof,
                                               "keepdims": keepdims})  # fmt: skip

    def max(self, axis=None, out=None, keepdims=False):
        return _apply("max", np.max, (self,), {"axis": axis, "out": out, "keepdims": keepdims})

    def min(self, axis=None, out=None, keepdims=False):
        return _apply("min", np.min, (self,), {"axis": axis, "out": out, "keepdims": keepdims})

    def argmax(self, axis=None, out=None, dtype=None, keepdims=False):
        return _apply("argmax", np.argmax, (self,), {"axis": axis, "out": out, "keepdims": keepdims})

    def argmin(self, axis=None, out=None, dtype=None, keepdims=False):
        return _apply("argmin", np.argmin, (self,), {"axis": axis, "out": out, "keepdims": keepdims})

    def any(self, axis=None, out=None, keepdims=False):
        return _apply("any", np.any, (self,), {"axis": axis, "out": out, "keepdims": keepdims})

    def all(self, axis=None, out=None, keepdims=False):
        return _apply("all", np.all, (self,), {"axis": axis, "out": out, "keepdims": keepdims})


def _put(host: np.ndarray, key: Any, value: Any) -> None:
    if not any(isinstance(k, np.ndarray) for k in (key if isinstance(key, tuple) else (key,))):
        host[key] = value
        return
    places = np.arange(host.size).reshape(host.shape)[key]
    values = np.broadcast_to(value, places.shape).ravel()
    order = _lot.permutation(places.size)  # of several values for one place any may be the last
    host[np.unravel_index(places.ravel()[order], host.shape)] = values[order]


def _operator(name: str, ufunc: np.ufunc):
    def forward(self, other):
        return _apply(name, ufunc, (self, other), {})

    def reflected(self, other):
        return _apply(name, ufunc, (other, self), {})

    def in_place(self, other):
        return _apply(name, ufunc, (self, other), {"out": self})

    return forward, reflected, in_place


for _name, _ufunc in {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "truediv": np.true_divide, "floordiv": np.floor_divide,
    "mod": np.remainder, "pow": np.power, "matmul": np.matmul, "and": np.bitwise_and, "or": np.bitwise_or,
    "xor": np.bitwise_xor, "lshift": np.left_shift, "rshift": np.right_shift,
}.items():  # fmt: skip
    for _prefix, _method in zip(("", "r", "i"), _operator(_name, _ufunc), strict=True):
        setattr(ndarray, f"__{_prefix}{_name}__", _method)
for _name, _ufunc in {
    "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal, "eq": np.equal, "ne": np.not_equal,
}.items():  # fmt: skip
    setattr(ndarray, f"__{_name}__", _operator(_name, _ufunc)[0])
for _name, _ufunc in {"neg": np.negative, "pos": np.positive, "abs": np.absolute, "invert": np.invert}.items():
    setattr(ndarray, f"__{_name}__", (lambda n, u: lambda self: _apply(n, u, (self,), {}))(_name, _ufunc))


# ---- from the outside to the inside and back -------------------------------------------------------------------------


def _new(shape, dtype, order="C") -> np.ndarray:
    """Memory that nobody has written to: NaN, or the largest number."""
    array = np.empty(shape, dtype, order)
    if largest_allocation is not None and array.nbytes > largest_allocation:
        raise OutOfMemoryError(f"Out of memory allocating {array.nbytes:,} bytes")
    strict_graph.poison(array)
    if (graph := _capture()) is not None:
        graph.own.append(array)
    return array


def _wrap(result: Any, device: Device | None = None) -> Any:
    """What NumPy returned, as CuPy would: arrays, 0-d ones where NumPy returns scalars."""
    if isinstance(result, (np.ndarray, np.generic)):
        array = ndarray.__new__(ndarray)
        array._host, array.device = np.asarray(result), device or _current_device()
        array._memory = strict_graph.Memory.of(array._host)
        if largest_allocation is not None and array._host.base is None and array.nbytes > largest_allocation:
            raise OutOfMemoryError(f"Out of memory allocating {array.nbytes:,} bytes")
        return array
    if isinstance(result, (tuple, list)):
        return type(result)(_wrap(item, device) for item in result)
    return result


def _unpickled(array: np.ndarray) -> ndarray:
    return _wrap(array.copy())


def _host(value: Any) -> Any:
    """What NumPy may compute with. A NumPy array among CuPy's is refused, a NumPy scalar is not."""
    if isinstance(value, ndarray):
        if value.device != _current_device():
            raise ValueError(f"an array of device {value.device.id} was used on device {_current_device().id}")
        return value._host
    if isinstance(value, np.ndarray):
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    if isinstance(value, (list, tuple)):
        return type(value)(_host(item) for item in value)
    return value


def _key(key: Any) -> Any:
    """An index for the NumPy array inside. CuPy raises no IndexError for arrays of numbers; here NumPy does."""
    parts = key if isinstance(key, tuple) else (key,)
    if any(isinstance(part, (list, np.ndarray)) for part in parts):
        raise TypeError("an index from the host: it would be copied to the device each time")
    for part in parts:
        if isinstance(part, ndarray) and part.dtype.kind == "b":
            _wait()
    return _host(key)


def _apply(name: str, function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The NumPy function on what is inside; the result, or `out`, outside."""
    log["launch"] += 1
    out = kwargs.get("out")
    if out is None:
        kwargs.pop("out", None)
    elif not isinstance(out, ndarray):
        raise TypeError(f"cupy.{name}: out must be a CuPy array")
    host_args, host_kwargs = tuple(map(_host, args)), {key: _host(value) for key, value in kwargs.items()}
    if (graph := _capture()) is None:
        result = function(*host_args, **host_kwargs)
        return out if out is not None else _wrap(result)
    result = graph.compute(name, function, host_args, host_kwargs, None if out is None else out._host)
    made = out if out is not None else _wrap(result)
    graph.use(*args, *kwargs.values(), made)
    return made


def _derived(array: ndarray, function: Any, *args: Any, of: Any = None) -> Any:
    """function(the NumPy array inside, *args): a view, or an array of its own."""
    if (graph := _capture()) is None:
        return _wrap(np.asarray(function(array._host, *args)), array.device)
    made = _wrap(graph.compute("", lambda *hosts: np.asarray(function(*hosts)), (array._host, *args), {}, None))
    graph.use(array, of, made)
    return made


def _capture() -> strict_graph.Graph | None:
    """The graph that the current stream captures, if it does."""
    return cuda.get_current_stream()._graph


def _wait() -> None:
    """Whoever calls this waits for the device."""
    log["sync"] += 1
    if (graph := _capture()) is not None:
        graph.refuse("the host waits for the device")


# ---- the module ------------------------------------------------------------------------------------------------------

UFUNCS = """
abs absolute add arctan arctan2 bitwise_and bitwise_or bitwise_xor ceil copysign cos cosh deg2rad divide equal exp
exp2 expm1 fabs floor floor_divide fmax fmin fmod greater greater_equal hypot invert isfinite isinf isnan less
less_equal log log10 log1p log2 logaddexp logical_and logical_not logical_or logical_xor maximum minimum mod multiply
negative not_equal positive power reciprocal remainder rint sign signbit sin sinh sqrt square subtract tan tanh
true_divide trunc
"""

# Their arguments in CuPy 14. Not all that CuPy has; nothing that it has not.
FUNCTIONS = {
    "all": "a, axis=None, out=None, keepdims=False",
    "allclose": "a, b, rtol=1e-05, atol=1e-08, equal_nan=False",
    "amax": "a, axis=None, out=None, keepdims=False",
    "amin": "a, axis=None, out=None, keepdims=False",
    "any": "a, axis=None, out=None, keepdims=False",
    "arange": "start, stop=None, step=1, dtype=None",
    "argmax": "a, axis=None, dtype=None, out=None, keepdims=False",
    "argmin": "a, axis=None, dtype=None, out=None, keepdims=False",
    "argsort": "a, axis=-1, kind=None",
    "array_equal": "a1, a2, equal_nan=False",
    "bincount": "x, weights=None, minlength=None",
    "broadcast_to": "array, shape",
    "clip": "a, a_min, a_max, out=None",
    "concatenate": "tup, axis=0, out=None, *, dtype=None, casting='same_kind'",
    "copyto": "dst, src, casting='same_kind', where=None",
    "count_nonzero": "a, axis=None",
    "cumsum": "a, axis=None, dtype=None, out=None",
    "dot": "a, b, out=None",
    "empty": "shape, dtype=float, order='C'",
    "empty_like": "prototype, dtype=None, order='K', subok=None, shape=None",
    "expand_dims": "a, axis",
    "eye": "N, M=None, k=0, dtype=float, order='C'",
    "flip": "a, axis=None",
    "full": "shape, fill_value, dtype=None, order='C'",
    "full_like": "a, fill_value, dtype=None, order='K', subok=None, shape=None",
    "linspace": "start, stop, num=50, endpoint=True, retstep=False, dtype=None, axis=0",
    "max": "a, axis=None, out=None, keepdims=False",
    "may_share_memory": "a, b, max_work=None",
    "mean": "a, axis=None, dtype=None, out=None, keepdims=False",
    "min": "a, axis=None, out=None, keepdims=False",
    "moveaxis": "a, source, destination",
    "ones": "shape, dtype=float, order='C'",
    "ones_like": "a, dtype=None, order='K', subok=None, shape=None",
    "outer": "a, b, out=None",
    "pad": "array, pad_width, mode='constant', **kwargs",
    "polyval": "p, x",
    "prod": "a, axis=None, dtype=None, out=None, keepdims=False",
    "ravel": "a, order='C'",
    "repeat": "a, repeats, axis=None",
    "reshape": "a, newshape, order='C', *, copy=None",
    "roll": "a, shift, axis=None",
    "searchsorted": "a, v, side='left', sorter=None",
    "shares_memory": "a, b, max_work=None",
    "sort": "a, axis=-1, kind=None",
    "split": "ary, indices_or_sections, axis=0",
    "squeeze": "a, axis=None",
    "stack": "tup, axis=0, out=None, *, dtype=None, casting='same_kind'",
    "std": "a, axis=None, dtype=None, out=None, ddof=0, keepdims=False",
    "sum": "a, axis=None, dtype=None, out=None, keepdims=False",
    "swapaxes": "a, axis1, axis2",
    "take": "a, indices, axis=None, out=None",
    "take_along_axis": "a, indices, axis",
    "tensordot": "a, b, axes=2",
    "tile": "A, reps",
    "transpose": "a, axes=None",
    "var": "a, axis=None, dtype=None, out=None, ddof=0, keepdims=False",
    "vdot": "a, b",
    "where": "condition, x=None, y=None",
    "zeros": "shape, dtype=float, order='C'",
    "zeros_like": "a, dtype=None, order='K', subok=None, shape=None",
}  # fmt: skip
# Whose arguments NumPy takes by position only, or under other names.
_POSITIONAL = """
arange bincount concatenate dot may_share_memory reshape shares_memory split vdot where
"""
_BY_NAME = ("axis", "dtype", "casting", "weights", "minlength", "order")
CONSTANTS = """
dtype float16 float32 float64 int8 int16 int32 int64 uint8 uint16 uint32 uint64 bool_ newaxis inf nan pi
"""


def _signature(parameters: str) -> inspect.Signature:
    scope: dict[str, Any] = {}
    exec(f"def f({parameters}): pass", scope)
    return inspect.signature(scope["f"])


def _ufunc_of(name: str):
    function = getattr(np, name)

    def ufunc(*args, out=None, dtype=None, **wrong):
        if wrong:  # no `order`, no `where`
            raise TypeError(f"Wrong arguments {wrong}")
        return _apply(name, function, args, {"out": out, **({} if dtype is None else {"dtype": dtype})})

    ufunc.__name__ = name
    if name == "add":
        ufunc.at = lambda a, indices, b: _apply("add.at", _add_at, (indices, b), {"out": a})
    return ufunc


def _add_at(indices, b, out):
    np.add.at(out, indices, b)
    return out


def _function_of(name: str, signature: inspect.Signature):
    function = getattr(np, name)
    reads_arrays = name not in ("arange", "empty", "eye", "full", "linspace", "ones", "zeros")

    def cupy_function(*args, **kwargs):
        bound = signature.bind(*args, **kwargs)
        given = dict(bound.arguments)
        extra = given.pop("kwargs", {})
        if name == "empty":
            return _wrap(_new(given["shape"], given.get("dtype", float), given.get("order", "C")))
        if name == "empty_like":
            like = _host(given.pop("prototype"))
            shape = given.get("shape") or like.shape
            return _wrap(_new(shape, given.get("dtype") or like.dtype))
        if reads_arrays:
            _require_arrays(name, given)
        if name == "where" and len(given) == 1:
            _wait()
        if name in ("allclose", "array_equal"):
            return _wrap(np.asarray(function(*(_host(v) for v in given.values()))))
        out = given.pop("out", None)
        if name in _POSITIONAL.split():
            positional = [given.pop(key) for key in list(given) if key not in _BY_NAME]
        else:
            positional = [given.pop(key) for key in itertools.islice(list(given), 1)]
        if name in ("may_share_memory", "shares_memory"):
            return function(*map(_host, positional))
        given = {key: value for key, value in given.items() if value is not None or key == "axis"}
        return _apply(name, function, positional, {**given, **extra, **({} if out is None else {"out": out})})

    cupy_function.__name__, cupy_function.__signature__ = name, signature
    return cupy_function


def _require_arrays(name: str, given: dict[str, Any]) -> None:
    """CuPy's functions do not take lists and NumPy arrays for arrays."""
    first = next(iter(given.values()))
    arrays = first if name in ("concatenate", "stack") else (first,)
    if not all(isinstance(array, ndarray) for array in arrays) and name != "where":
        raise TypeError(f"cupy.{name} was called with {[type(a).__name__ for a in arrays]}, not with a CuPy array")


def matmul(a, b, /, out=None):
    return _apply("matmul", np.matmul, (a, b), {"out": out})


def einsum(*operands, out=None, optimize=False):
    return _apply("einsum", np.einsum, operands, {"out": out, "optimize": optimize})


def asarray(a, dtype=None, order=None, *, copy=None, blocking=False):
    return array(a, dtype, bool(copy), order or "K")


def array(obj, dtype=None, copy=True, order="K", subok=False, ndmin=0, *, blocking=False):
    if isinstance(obj, ndarray):
        if not copy and (dtype is None or obj.dtype == dtype) and (order in "KA" or obj.flags.c_contiguous):
            return obj
        _host(obj)  # of this device?
        log["launch"] += 1
        return _derived(obj, lambda host: np.array(host, dtype, order=order, ndmin=ndmin))
    log["to_device"] += 1
    host = np.array(obj, dtype, order=order, ndmin=ndmin)  # refuses lists of CuPy arrays
    if host.dtype.kind not in "?biufc":
        raise ValueError(f"Unsupported dtype {host.dtype}")
    stream = cuda.get_current_stream()
    if strict_graph.pinned_allocator is not None:
        strict_graph.pinned_allocator(host.nbytes)
    if stream._graph is not None:  # at each launch: from memory that has long been somebody else's
        lost = np.empty_like(host)
        strict_graph.poison(lost)
        made = _wrap(stream._graph.compute("", np.copy, (lost,), {}, None))
        stream._graph.use(made)
        return made
    if stream is Stream.null or host.ndim == 0:
        return _wrap(host)
    there = _wrap(_new(host.shape, host.dtype))
    stream._in_flight.append((there._host, host))
    return there


def ascontiguousarray(a, dtype=None):
    return array(a, dtype, False, "C")


def asnumpy(a, stream=None, order="C", out=None, *, blocking=True):
    return a.get(order=order) if isinstance(a, ndarray) else np.asarray(a)


def get_array_module(*args):
    return sys.modules["cupy"] if any(isinstance(arg, ndarray) for arg in args) else np


def rfft2(a, s=None, axes=(-2, -1), norm=None):
    return _apply("fft.rfft2", np.fft.rfft2, (a,), {"s": s, "axes": axes, "norm": norm})


def irfft2(a, s=None, axes=(-2, -1), norm=None):
    return _apply("fft.irfft2", np.fft.irfft2, (a,), {"s": s, "axes": axes, "norm": norm})


def _as_strided(x, shape=None, strides=None):
    return _wrap(np.lib.stride_tricks.as_strided(_host(x), shape, strides), x.device)


# ---- devices, streams, memory ----------------------------------------------------------------------------------------


class CUDARuntimeError(RuntimeError):
    pass


class OutOfMemoryError(MemoryError):
    pass


class Device:
    def __init__(self, device=None):
        self.id = _current_device().id if device is None else int(device)
        if not 0 <= self.id < device_count:
            raise CUDARuntimeError("cudaErrorInvalidDevice: invalid device ordinal")

    def __eq__(self, other):
        return isinstance(other, Device) and self.id == other.id

    __hash__ = None  # type: ignore[assignment]

    def use(self):
        _here.device = self

    def __enter__(self):
        self._outer = [*getattr(self, "_outer", []), _current_device()]
        self.use()
        return self

    def __exit__(self, *exception):
        self._outer.pop().use()

    def __repr__(self):
        return f"<CUDA Device {self.id}>"

    def synchronize(self):
        _wait()


def _current_device() -> Device:
    if not hasattr(_here, "device"):
        _here.device = Device(0)
    return _here.device


_streams = itertools.count(1)


class Stream:
    null: Stream

    def __init__(self, null=False, non_blocking=False, ptds=False, priority=None):
        self._in_flight: list[tuple[np.ndarray, np.ndarray]] = []  # (where to, what)
        self._outer: list[Stream] = []
        self._graph: strict_graph.Graph | None = None  # while it captures
        self._non_blocking = non_blocking
        self.ptr = 0 if null else next(_streams)

    def __enter__(self):
        self._outer.append(cuda.get_current_stream())
        _here.stream = self
        return self

    def __exit__(self, *exception):
        _here.stream = self._outer.pop()

    def use(self):
        _here.stream = self
        return self

    def begin_capture(self, mode=None):
        if not self._non_blocking or self._graph is not None:
            raise strict_graph.CaptureError("cudaErrorStreamCaptureUnsupported: only a non-blocking stream captures")
        self._graph = strict_graph.Graph()

    def end_capture(self):
        graph, self._graph = self._graph, None
        if graph is None or graph.broken:
            raise strict_graph.CaptureError("cudaErrorStreamCaptureInvalidated: there is nothing to end")
        return graph

    def record(self, event=None):
        event = event or Event()
        event._copies = list(self._in_flight)
        return event

    def wait_event(self, event):
        event._arrive()

    def synchronize(self):
        _wait()
        self.record()._arrive()


Stream.null = Stream(null=True)


class Event:
    def __init__(self, block=False, disable_timing=False, interprocess=False):
        self._copies: list[tuple[np.ndarray, np.ndarray]] = []

    def record(self, stream=None):
        (stream or cuda.get_current_stream()).record(self)

    def synchronize(self):
        _wait()
        self._arrive()

    def _arrive(self):
        for target, source in self._copies:
            target[...] = source


cuda = types.SimpleNamespace(
    Device=Device, Stream=Stream, Event=Event,
    get_current_stream=lambda: getattr(_here, "stream", Stream.null),
    runtime=types.SimpleNamespace(
        CUDARuntimeError=CUDARuntimeError, getDeviceCount=lambda: device_count, getDevice=lambda: _current_device().id,
        memGetInfo=lambda: (1 << 20, 1 << 30), deviceSynchronize=lambda: _wait(),
        is_hip=False, runtimeGetVersion=lambda: 13000, driverGetVersion=lambda: 13020,
        getDeviceProperties=lambda number: {"name": b"a stand-in"},
    ),
    memory=types.SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
    is_available=lambda: device_count > 0, MemoryPool=strict_graph.MemoryPool,
    using_allocator=strict_graph.using_allocator,
    set_pinned_memory_allocator=strict_graph.set_pinned_memory_allocator,
)  # fmt: skip


class RawModule(cuda_on_cpu.RawModule):
    """Its kernels are captured like everything else: with their numbers as they are, arrays by their place."""

    def get_function(self, name: str) -> Any:
        kernel = super().get_function(name)

        def start(grid, block, args, **options):
            log["launch"] += 1
            if (graph := _capture()) is None:
                return kernel(grid, block, args, **options)
            graph.use(*args)
            hosts = tuple(arg._host if isinstance(arg, ndarray) else arg for arg in args)
            return graph.operations.append(lambda: kernel(grid, block, hosts, **options))

        return start


def module(own_kernels: bool = True) -> types.ModuleType:
    """The module that `import cupy` is to find. What is not named here raises AttributeError."""
    cupy = types.ModuleType("cupy")
    contents: dict[str, Any] = {name: getattr(np, name) for name in CONSTANTS.split()}
    contents |= {name: _ufunc_of(name) for name in UFUNCS.split()}
    contents |= {name: _function_of(name, _signature(text)) for name, text in FUNCTIONS.items()}
    for thing in (ndarray, matmul, einsum, asarray, array, ascontiguousarray, asnumpy, get_array_module):
        contents[thing.__name__] = thing
    contents["fft"] = types.SimpleNamespace(rfft2=rfft2, irfft2=irfft2)
    contents["lib"] = types.SimpleNamespace(stride_tricks=types.SimpleNamespace(as_strided=_as_strided))
    # Our CUDA kernels run here too, as C++. Without a compiler this is a GPU of AMD's, which they do not serve.
    own_kernels = own_kernels and cuda_on_cpu.COMPILER is not None
    cupy.RawModule = RawModule
    cupy.get_default_pinned_memory_pool = strict_graph.get_default_pinned_memory_pool
    contents["cuda"] = types.SimpleNamespace(**vars(cuda))
    contents["cuda"].runtime = types.SimpleNamespace(**{**vars(cuda.runtime), "is_hip": not own_kernels})
    vars(cupy).update(contents, is_available=cuda.is_available, __version__="strict")
    return cupy


def install(monkeypatch: Any, own_kernels: bool = True) -> types.ModuleType:
    """Let `import cupy` find the stand-in until the test ends; counts begin at 0.

    own_kernels: False leaves everything to array operations, as on a GPU that our CUDA kernels cannot serve.
    """
    cupy = module(own_kernels)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setattr(strict_graph, "pinned_allocator", None)
    log.clear()
    return cupy


@contextmanager
def memory(limit: int):
    """Inside, no array may take more than `limit` bytes."""
    global largest_allocation
    largest_allocation = limit
    try:
        yield
    finally:
        largest_allocation = None
