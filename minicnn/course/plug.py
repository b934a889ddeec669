"""The learner's function in the place of a kernel of the framework.

A function of the framework is known under many names: modules import it, layers and tables hold it. So it is not
replaced in any of these: its code is exchanged, in place, for a few bytes that call the learner's function, and put
back afterwards. Below stand, for each function of the course, which kernel's place it takes, and how its arguments
become those of the kernel: the one list to look at when a kernel gets another name or signature.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from minicnn.training.plan import without_plan

Function = Callable[..., Any]


class Plug(NamedTuple):
    """target: the kernel, as module.function or module.Class.method. make(original): what is called in its place.

    optimizer: the one that the toy network must be trained with for the kernel to be used.
    """

    target: str
    make: Callable[[Function], Function]
    optimizer: str = "sgd"


CALLS: dict[str, Function] = {}  # what the exchanged functions call now


def find(path: str) -> types.FunctionType:
    """The function of this path, inside of its decorators."""
    names = path.split(".")
    for split in range(len(names) - 1, 0, -1):
        name = ".".join(names[:split])
        try:
            thing: Any = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not name.startswith(error.name):
                raise
            continue
        for attribute in names[split:]:
            thing = getattr(thing, attribute)
        return inspect.unwrap(thing)
    raise LookupError(path)


@contextmanager
def plugged(*plugs: Plug) -> Iterator[None]:
    """Inside the block the framework computes with these, in every layer. Later ones of a target wrap earlier ones."""
    undo: list[Callable[[], None]] = []
    try:
        for plug in plugs:
            undo.append(_exchange(plug))
        _forget()
        with without_plan():  # chains of layers have a kernel of their own
            yield
    finally:
        for put_back in reversed(undo):
            put_back()
        _forget()


def _exchange(plug: Plug) -> Callable[[], None]:
    function, key = find(plug.target), f"{plug.target} {len(CALLS)}"
    code, defaults, keyword_defaults = function.__code__, function.__defaults__, function.__kwdefaults__
    original = types.FunctionType(code, function.__globals__, function.__name__, defaults, function.__closure__)
    original.__kwdefaults__ = keyword_defaults
    CALLS[key] = plug.make(original)
    names: dict[str, Any] = {}
    exec(  # a function without variables of its own surroundings: its code fits into any other such function
        "def call(*args, **kwargs):\n"
        "    from minicnn.course.plug import CALLS\n"
        f"    return CALLS[{key!r}](*args, **kwargs)\n",
        names,
    )
    function.__code__, function.__defaults__, function.__kwdefaults__ = names["call"].__code__, None, None

    def put_back() -> None:
        function.__code__, function.__defaults__, function.__kwdefaults__ = code, defaults, keyword_defaults
        del CALLS[key]

    return put_back


def _forget() -> None:
    """Empty the framework's memories (functools.cache): what they hold was computed by the other kernels."""
    for name, module in list(sys.modules.items()):
        if name.startswith("minicnn.") and module is not None:
            for thing in list(vars(module).values()):
                holders = vars(thing).values() if isinstance(thing, type) else [thing]
                for holder in holders:
                    if hasattr(holder, "cache_clear"):
                        holder.cache_clear()


# ---- windows ---------------------------------------------------------------------------------------------------------


def output_length(mine: Function) -> Plug:
    def make(_: Function) -> Function:
        def output_size(size, kernel, stride, dilation, pads):
            axes = zip(*(_pair(v) for v in (size, kernel, stride, dilation)), pads, strict=True)
            rows, columns = (mine(n, k, s, d, lo, hi) for n, k, s, d, (lo, hi) in axes)
            return rows, columns

        return output_size

    return Plug("minicnn.kernels.geometry.output_size", make)


def same_padding(mine: Function) -> Plug:
    def make(original: Function) -> Function:
        def resolve_padding(size, kernel, stride, dilation, padding):
            if padding != "same":
                return original(size, kernel, stride, dilation, padding)
            rows, columns = (mine(*axis) for axis in zip(*map(_pair, (size, kernel, stride, dilation)), strict=True))
            return rows, columns

        return resolve_padding

    return Plug("minicnn.kernels.geometry.resolve_padding", make)


# ---- convolution -----------------------------------------------------------------------------------------------------


def conv2d_forward(mine: Function) -> Plug:
    """For both of them: in loops and as a product."""

    def make(_: Function) -> Function:
        def forward(x, w, b=None, stride=1, padding="valid", dilation=1, algorithm="auto"):
            return mine(x, w, b, stride, padding, dilation)

        return forward

    return Plug("minicnn.kernels.conv.conv2d_forward", make)


def im2col(mine: Function) -> Plug:
    def make(original: Function) -> Function:
        def forward(x, w, b=None, stride=1, padding="valid", dilation=1, algorithm="auto"):
            cols = mine(x, w.shape[:2], stride, padding, dilation)
            y = (cols @ w.reshape(-1, w.shape[3])).reshape(original(x, w, b, stride, padding, dilation).shape)
            return y if b is None else y + b

        return forward

    return Plug("minicnn.kernels.conv.conv2d_forward", make)


def _conv2d_backward(change: Callable[..., tuple[Any, Any]]) -> Plug:
    """change(dx, dw, dy, x, w, stride, padding, dilation) -> (dx, dw)."""

    def make(original: Function) -> Function:
        def backward(dy, x, w, stride=1, padding="valid", dilation=1, need_dx=True, algorithm="auto"):
            dx, dw, db = original(dy, x, w, stride, padding, dilation, need_dx, algorithm)
            dx, dw = change(dx, dw, dy, x, w, stride, padding, dilation)
            return dx, dw, db

        return backward

    return Plug("minicnn.kernels.conv.conv2d_backward", make)


def conv2d_dw(mine: Function) -> Plug:
    return _conv2d_backward(lambda dx, dw, dy, x, w, *geometry: (dx, mine(dy, x, w, *geometry)))


def conv2d_dx(mine: Function) -> Plug:
    def change(dx, dw, dy, x, w, *geometry):
        return None if dx is None else mine(dy, x.shape, w, *geometry), dw

    return _conv2d_backward(change)


def col2im(mine: Function) -> Plug:
    def change(dx, dw, dy, x, w, *geometry):
        dcols = dy.reshape(-1, w.shape[3]) @ w.reshape(-1, w.shape[3]).T
        return None if dx is None else mine(dcols, x.shape, w.shape[:2], *geometry), dw

    return _conv2d_backward(change)


def conv2d_dx_turned(mine: Function) -> Plug:
    def change(dx, dw, dy, x, w, stride, padding, dilation):
        simple = dx is not None and _pair(stride) == _pair(dilation) == (1, 1)
        return (mine(dy, x.shape, w, padding) if simple else dx), dw

    return _conv2d_backward(change)


def winograd_f23(mine: Function) -> Plug:
    """Along the rows of the image, for each row of the filter and each channel; then the sum over these."""

    def make(original: Function) -> Function:
        def forward(x, w, b=None, stride=1, padding="valid", dilation=1, algorithm="auto"):
            y = original(x, w, b, stride, padding, dilation)
            if w.shape[:2] != (3, 3) or _pair(stride) != (1, 1) or _pair(dilation) != (1, 1):
                return y
            (n, oh, ow, _), pairs = y.shape, -(-y.shape[2] // 2)
            padded = _padded(x, w, padding, extra=1)
            taps = [
                [padded[:, kh : kh + oh, k : k + 2 * pairs : 2][..., : padded.shape[3]] for kh in range(3)]
                for k in range(4)
            ]
            d = np.stack([np.stack(rows, axis=3) for rows in taps])[..., None]  # (4, N, OH, pairs, 3, C, 1)
            both = mine(d, w.transpose(1, 0, 2, 3)).sum(axis=(4, 5))  # (2, N, OH, pairs, F)
            y = np.moveaxis(both, 0, 3).reshape(n, oh, 2 * pairs, -1)[:, :, :ow]
            return np.ascontiguousarray(y) if b is None else y + b

        return forward

    return Plug("minicnn.kernels.conv.conv2d_forward", make)


def _padded(x: np.ndarray, w: np.ndarray, padding: Any, extra: int) -> np.ndarray:
    """x with its padding, and `extra` more columns on the right."""
    from minicnn.kernels.geometry import resolve_padding

    rows, (left, right) = resolve_padding(x.shape[1:3], w.shape[:2], 1, 1, padding)
    return np.pad(x, ((0, 0), rows, (left, right + extra), (0, 0)))


# ---- the other layers ------------------------------------------------------------------------------------------------


def relu_forward(mine: Function) -> Plug:
    def make(_: Function) -> Function:
        return lambda x, out=None: _into(out, mine(x))

    return Plug("minicnn.kernels.activations.relu_forward", make)


def relu_backward(mine: Function) -> Plug:
    return Plug("minicnn.kernels.activations.relu_backward", lambda _: mine)


def dense_forward(mine: Function) -> Plug:
    return Plug("minicnn.kernels.dense.dense_forward", lambda _: mine)


def dense_backward(mine: Function) -> Plug:
    return Plug("minicnn.kernels.dense.dense_backward", lambda _: mine)


def softmax_forward(mine: Function) -> Plug:
    return Plug("minicnn.kernels.softmax.softmax_forward", lambda _: mine)


def softmax_backward(mine: Function) -> Plug:
    """The toy network's loss does without it; so here it is the gradient of the loss, the long way round."""

    def make(original: Function) -> Function:
        def backward(logits, target, batch_size=None, p=None):
            from minicnn.kernels.softmax import softmax_forward

            p = softmax_forward(logits) if p is None else p
            t = target if target.ndim == 2 else np.eye(logits.shape[1], dtype=p.dtype)[target]
            dp = -t / np.maximum(p, 1e-30) / (batch_size or len(logits))
            return mine(dp.astype(p.dtype), p)

        return backward

    return Plug("minicnn.kernels.softmax.softmax_cross_entropy_backward", make)


def softmax_cross_entropy_forward(mine: Function) -> Plug:
    return Plug("minicnn.kernels.softmax.softmax_cross_entropy_forward", lambda _: mine)


def softmax_cross_entropy_backward(mine: Function) -> Plug:
    return Plug("minicnn.kernels.softmax.softmax_cross_entropy_backward", lambda _: mine)


def maxpool2d_forward(mine: Function) -> Plug:
    def make(_: Function) -> Function:
        def forward(x, pool_size, stride=None, padding="valid", winners=True):
            return mine(x, pool_size, stride, padding)

        return forward

    return Plug("minicnn.kernels.pool.maxpool2d_forward", make)


def maxpool2d_backward(mine: Function) -> Plug:
    return Plug("minicnn.kernels.pool.maxpool2d_backward", lambda _: mine)


def dropout_forward(mine: Function) -> Plug:
    return Plug("minicnn.kernels.dropout.dropout_forward", lambda _: mine)


def dropout_backward(mine: Function) -> Plug:
    return Plug("minicnn.kernels.dropout.dropout_backward", lambda _: mine)


def batchnorm_moments(mine: Function) -> Plug:
    return Plug("minicnn.kernels.norm.batchnorm_moments", lambda _: lambda x, all_reduce=None: mine(x))


def batchnorm_forward(mine: Function) -> Plug:
    def make(_: Function) -> Function:
        return lambda x, gamma, beta, mean, var, eps, out=None: _into(out, mine(x, gamma, beta, mean, var, eps))

    return Plug("minicnn.kernels.norm.batchnorm_forward", make)


def batchnorm_backward(mine: Function) -> Plug:
    def make(_: Function) -> Function:
        return lambda dy, x, gamma, mean, var, eps, all_reduce=None, need_dx=True: mine(dy, x, gamma, mean, var, eps)

    return Plug("minicnn.kernels.norm.batchnorm_backward", make)


# ---- optimizers ------------------------------------------------------------------------------------------------------


def sgd_step(mine: Function) -> Plug:
    def make(_: Function) -> Function:
        def update(self, p, g, slots, lr):
            p[...] = mine(p, g, lr)

        return update

    return Plug("minicnn.optimizers.SGD.update", make, "sgd")


def momentum_step(mine: Function) -> Plug:
    def make(original: Function) -> Function:
        def update(self, p, g, slots, lr):
            if not self.momentum:
                original(self, p, g, slots, lr)
                return
            p[...], slots[0][...] = mine(p, g, slots[0], lr, self.momentum)

        return update

    return Plug("minicnn.optimizers.SGD.update", make, "momentum")


def adam_step(mine: Function) -> Plug:
    def make(_: Function) -> Function:
        def update(self, p, g, slots, lr):
            m, v = slots
            p[...], m[...], v[...] = mine(p, g, m, v, self.iterations, lr, self.beta_1, self.beta_2, self.epsilon)

        return update

    return Plug("minicnn.optimizers.Adam.update", make, "adam")


# ---- the toy network -------------------------------------------------------------------------------------------------


def toy_losses(optimizer: str) -> list[float]:
    """The losses of a small network that learns 24 images of clothes for three epochs, all kinds of layers in it.

    Starts minicnn's random numbers afresh, so that two runs differ by their kernels alone.
    """
    from minicnn import random
    from minicnn.datasets import toy
    from minicnn.layers import BatchNormalization, Conv2D, Dense, Dropout, Flatten, Input, MaxPooling2D, ReLU
    from minicnn.models import Sequential
    from minicnn.optimizers import SGD, Adam

    random.seed(0)
    (x, y), _ = toy.load_data(n_train=24, n_test=0)
    x = x[:, ::3, ::3, None].astype(np.float32) / 255
    model = Sequential([
        Input(x.shape[1:]), Conv2D(2, 3, padding="same"), BatchNormalization(), ReLU(), MaxPooling2D(2),
        Conv2D(3, 3), ReLU(), Flatten(), Dropout(0.25), Dense(10, activation="softmax"),
    ])  # fmt: skip
    rules = {"sgd": SGD(0.1), "momentum": SGD(0.02, momentum=0.9), "adam": Adam(0.01)}
    model.compile(rules[optimizer], "sparse_categorical_crossentropy")
    return model.fit(x, y, batch_size=8, epochs=3, verbose=0).history["loss"]


def _into(out: np.ndarray | None, result: np.ndarray) -> np.ndarray:
    if out is None:
        return result
    out[...] = result
    return out


def _pair(v: Any) -> tuple[int, int]:
    return (v, v) if np.ndim(v) == 0 else (int(v[0]), int(v[1]))
