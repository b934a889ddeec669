"""Our CUDA kernels, run on the CPU: the same sources and launchers, through the strict stand-in for CuPy.

The checks are those that the NumPy kernels must pass. The negative controls break the sources on purpose.
"""

from __future__ import annotations

import ctypes
import functools
import inspect
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import cuda_on_cpu
import numpy as np
import nvrtc
import pytest
import strict_cupy
from helpers import (
    assert_same,
    check_activation,
    check_batchnorm,
    check_batchnorm_eval,
    check_conv2d,
    check_cross_entropy,
    check_im2col,
    check_maxpool2d,
    distinct,
    noncontiguous,
    random,
    rng,
)

from minicnn import kernels, optimizers
from minicnn.constraints import MaxNorm, constrain
from minicnn.kernels import cuda, reference
from minicnn.kernels.cuda import convolution, launch, norm, step
from minicnn.kernels.sums import column_sums
from minicnn.layers import Conv2D, Dense
from minicnn.layers.base import Context

needs_compiler = pytest.mark.skipif(cuda_on_cpu.COMPILER is None, reason=cuda_on_cpu.NEEDS_COMPILER)


@pytest.fixture
def cupy(monkeypatch):
    return strict_cupy.install(monkeypatch)


def on_gpu(kernel):
    """The kernel for NumPy arrays: they are sent there, and must be unchanged afterwards; the results come back."""

    def fetch(result):
        if isinstance(result, tuple):
            return tuple(map(fetch, result))
        return result.get() if isinstance(result, strict_cupy.ndarray) else result

    def call(*args, **kwargs):
        xp = sys.modules["cupy"]
        there = [xp.asarray(np.ascontiguousarray(a)) if isinstance(a, np.ndarray) else a for a in args]
        result = fetch(kernel(*there, **kwargs))
        for mine, a in zip(there, args, strict=True):
            if isinstance(a, np.ndarray):
                np.testing.assert_array_equal(mine.get(), a, err_msg="an input was changed")
        return result

    return call


# ---- against the reference implementations and the numeric gradient --------------------------------------------------

# Odd sizes, not square; strides that do not divide; asymmetric padding, also with stride 2; dilation; a batch of one;
# 4 and 8 channels travel as Packs of four.
WINDOWS = [
    ((2, 5, 7, 3), (3, 3), {}),
    ((1, 4, 5, 1), (3, 3), {"padding": "same"}),
    ((1, 5, 6, 4), (3, 3), {"padding": "same", "stride": 2}),
    ((2, 6, 7, 2), (3, 2), {"padding": 1, "stride": (2, 3)}),
    ((1, 6, 5, 8), (2, 3), {"stride": 3}),
    ((1, 5, 4, 1), (2, 2), {"padding": ((2, 3), (0, 4)), "stride": 2}),
    ((1, 8, 7, 4), (2, 3), {"dilation": 2, "padding": "same", "stride": 2}),
    ((3, 3, 3, 2), (1, 1), {"padding": 1}),
    ((1, 2, 2, 1), (3, 3), {"padding": "same"}),
]
IDS = [f"{shape}-{kernel}-{geometry}".replace(" ", "") for shape, kernel, geometry in WINDOWS]
DTYPES = [np.float32, np.float64]


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "size", "geometry"), WINDOWS, ids=IDS)
def test_im2col_and_col2im(cupy, shape, size, geometry, dtype):
    x = random(shape, 1, dtype)
    check_im2col(on_gpu(kernels.im2col), on_gpu(kernels.col2im), x, size, **geometry)


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "size", "geometry"), WINDOWS[:7], ids=IDS[:7])
def test_convolution(cupy, shape, size, geometry, dtype):
    x, w, b = random(shape, 1, dtype), random((*size, shape[3], 3), 2, dtype), random((3,), 3, dtype)
    check_conv2d(on_gpu(kernels.conv2d_forward), on_gpu(kernels.conv2d_backward), x, w, b, **geometry)


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "size", "geometry"),
    [
        ((2, 5, 7, 3), 2, {}),
        ((1, 7, 6, 4), 3, {"stride": 2}),
        ((2, 6, 9, 2), (2, 3), {}),  # windows side by side, which cover all
        ((1, 7, 8, 2), 2, {"stride": 3, "padding": ((1, 0), (0, 2))}),  # and with pixels between them
        ((1, 6, 5, 2), 3, {"padding": "same", "stride": 2}),
        ((1, 5, 4, 1), (2, 3), {"padding": ((0, 1), (2, 0)), "stride": 1}),
        ((1, 18, 17, 1), 17, {"stride": 1}),  # 289 places in a window: more than a byte can name
        ((1, 18, 17, 4), 17, {"stride": 1}),  # of four channels at once
        ((2, 6, 7, 8), 3, {"stride": 2}),
        ((1, 5, 7, 4), 2, {"padding": "same"}),
    ],
)
def test_max_pooling(cupy, shape, size, geometry, dtype):
    pool = on_gpu(kernels.maxpool2d_forward), on_gpu(kernels.maxpool2d_backward)
    if size != 17:
        check_maxpool2d(*pool, distinct(shape, 1, dtype) - 100, size, **geometry)  # negative: the border must not win
    check_maxpool2d(*pool, rng(2).integers(-2, 1, shape).astype(dtype), size, **geometry)  # ties
    y, winner = pool[0](distinct(shape, 1, dtype), size, winners=False, **geometry)
    assert winner is None and np.isfinite(y).all()


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(6, 3), (3, 5, 3, 2), (1, 3, 3, 5), (2, 1, 1, 33)])
def test_batch_normalisation(cupy, shape, dtype):
    x = (random(shape, 1) * (1 + np.arange(shape[-1])) + 3 * np.arange(shape[-1]) - 1).astype(dtype)
    gamma, beta = random(shape[-1:], 2, dtype) + dtype(2), random(shape[-1:], 3, dtype)
    mean, var = random(shape[-1:], 4, dtype), np.abs(random(shape[-1:], 5, dtype)) + dtype(0.5)
    moments, forward = on_gpu(kernels.batchnorm_moments), on_gpu(kernels.batchnorm_forward)
    if dtype == np.float32 or x.size < 60:
        check_batchnorm(moments, forward, on_gpu(kernels.batchnorm_backward), x, gamma, beta, eps=0.1)
    check_batchnorm_eval(forward, on_gpu(kernels.batchnorm_eval_backward), x, gamma, beta, mean, var)


@needs_compiler
@pytest.mark.parametrize("channels", [3, 40])
def test_moments_of_a_long_column_lose_no_digits(cupy, channels):
    """Several blocks a column, and a mean that is 10,000 standard deviations from 0."""
    x = (random((3000, channels), 1) + 1e4).astype(np.float32)
    mean, var, count = on_gpu(kernels.batchnorm_moments)(x)
    assert count == 3000
    np.testing.assert_allclose(mean, x.mean(axis=0, dtype=np.float64), rtol=1e-7)
    np.testing.assert_allclose(var, x.var(axis=0, dtype=np.float64), rtol=1e-4)


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES)
def test_relu(cupy, dtype):
    x = distinct((3, 5, 7, 2), 1, dtype)
    check_activation(on_gpu(kernels.relu_forward), on_gpu(kernels.relu_backward), "relu", x)
    assert np.isnan(on_gpu(kernels.relu_forward)(np.full(3, np.nan, dtype))).all()


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(4, 5), (1, 3), (2, 200)])
def test_softmax_and_cross_entropy(cupy, shape, dtype):
    z = random(shape, 1, dtype) * dtype(2)
    labels = rng(3).integers(0, shape[1], len(z))
    soft = rng(4).dirichlet(np.ones(shape[1]), shape[0]).astype(dtype)
    kernels_on_cpu = kernels.softmax_cross_entropy_forward, kernels.softmax_cross_entropy_backward
    cross_entropy = [on_gpu(kernel) for kernel in kernels_on_cpu]
    for logits in (z, z * dtype(0) + dtype(1000)) if shape[1] < 100 else ():
        check_cross_entropy(*cross_entropy, logits, labels)
        check_cross_entropy(*cross_entropy, logits, soft)
    assert_same(on_gpu(kernels.softmax_forward)(z), kernels.softmax_forward(z), 1e-6, "p")
    for kernel, mine in zip(cross_entropy, kernels_on_cpu, strict=True):
        assert_same(kernel(z, 2 * soft), mine(z, 2 * soft), 1e-5, "targets that do not sum to 1")
    assert_same(cross_entropy[1](z, labels, 64), kernels.softmax_cross_entropy_backward(z, labels, 64), 1e-5, "dz")


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(3, 5, 7, 1), (2, 8), (15, 1), (40, 333)])
@pytest.mark.parametrize(("rate", "seed", "first"), [(0.3, 0, 0), (0.5, 2**40 + 7, 12)])
def test_dropout_drops_what_the_cpu_drops(cupy, shape, rate, seed, first, dtype):
    """Bit for bit, in both directions, without a mask in memory; also beyond the first word of each thread."""
    x = random(shape, 1, dtype)
    mask = kernels.dropout_mask(shape, rate, seed, first)
    there = kernels.mask_for(cupy.asarray(x), rate, seed, first)
    assert isinstance(there, cuda.Mask) and 0 < mask.mean() < 1
    for kernel in kernels.dropout_forward, kernels.dropout_backward:
        np.testing.assert_array_equal(kernel(cupy.asarray(x), there, rate).get(), kernel(x, mask, rate))


@needs_compiler
def test_bias_and_relu_are_one_pass(cupy, monkeypatch):
    launches = []
    raw_call = cuda_on_cpu.RawKernel.__call__
    monkeypatch.setattr(
        cuda_on_cpu.RawKernel, "__call__", lambda self, *args: (launches.append(self.name), raw_call(self, *args))[1]
    )
    x, layers = random((2, 5, 6, 3), 1, np.float32), []
    for module in np, cupy:
        for layer in Conv2D(4, 3, activation="relu"), Dense(7, activation="relu"):
            layer.build(x.shape[1:], rng(1))
            layer.params = {name: module.asarray(p - np.float32(0.1)) for name, p in layer.params.items()}
            ctx = Context(training=True)
            y = layer.forward(module.asarray(x), ctx)
            layer.backward(y, ctx)
            layers.append([y, *ctx.grads.values()])
    assert launches.count("bias_relu") == 2 and "relu_forward" not in launches
    for expected, found in zip(layers[:2], layers[2:], strict=True):
        for a, b in zip(expected, found, strict=True):
            assert_same(b.get(), a, 1e-6)
    z, b = random((3, 4), 1), random((4,), 2)
    np.testing.assert_array_equal(kernels.bias_relu(z.copy(), b), np.maximum(z + b, 0))


# ---- the optimizers --------------------------------------------------------------------------------------------------

RULES = [
    ("SGD", {}),
    ("SGD", {"momentum": 0.9, "weight_decay": 0.01}),
    ("SGD", {"momentum": 0.9, "nesterov": True}),
    ("Adam", {}),
    ("Adam", {"beta_1": 0.5, "clipnorm": 0.1}),
    ("AdamW", {}),
    ("RMSprop", {}),
    ("RMSprop", {"momentum": 0.9, "weight_decay": 0.01, "epsilon": 1e-3}),
    ("Adagrad", {"weight_decay": 0.01}),
    ("Lion", {"beta_1": 0.8, "weight_decay": 0.01}),
]


def steps(xp, name, arguments, dtype, count=4):
    """Three parameters, one of them larger than a block's share, after some steps; and the optimizer."""
    optimizer = getattr(optimizers, name)(0.1, **arguments)
    params = {("layer", str(k)): xp.asarray(random(s, k, dtype)) for k, s in enumerate([(3, 5), (7,), (1500,)])}
    for turn in range(count):
        grads = {key: [xp.asarray(random(p.shape, 10 * turn + k, dtype))] for k, (key, p) in enumerate(params.items())}
        optimizer.apply(params, grads)
    return list(params.values()), optimizer


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "arguments"), RULES)
def test_a_step_for_all_parameters_in_one_launch(cupy, name, arguments, dtype, monkeypatch):
    launches = []
    raw_call = cuda_on_cpu.RawKernel.__call__
    monkeypatch.setattr(
        cuda_on_cpu.RawKernel, "__call__", lambda self, *args: (launches.append(self.name), raw_call(self, *args))[1]
    )
    (found, there), (expected, here) = steps(cupy, name, arguments, dtype), steps(np, name, arguments, dtype)
    assert launches == [name.lower().removesuffix("w")] * 4
    for p, q in zip(found, expected, strict=True):
        assert_same(p.get(), q, 1e-6 if dtype == np.float32 else 1e-13, "p")
    for key, slots in here.state.items():
        for p, q in zip(there.state[key], slots, strict=True):
            assert_same(p.get(), q, 1e-6 if dtype == np.float32 else 1e-13, "slot")


@needs_compiler
def test_gradients_at_other_addresses_make_another_table(cupy):
    """And at the same ones the same: nothing is sent to the device then. Few tables are kept."""
    p, there = cupy.zeros(3, np.float32), [cupy.asarray(np.full(3, k, np.float32)) for k in range(step.MAX_TABLES + 5)]
    optimizer, sent = optimizers.SGD(1.0), []
    for k in (1, 2, 1, 2, *range(len(there))):
        before = p.get()
        tables = dict(step._tables)
        optimizer.apply({("a", "w"): p}, {("a", "w"): [there[k]]})
        sent.append(step._tables != tables)
        np.testing.assert_array_equal(p.get(), before - k)
        assert len(step._tables) <= step.MAX_TABLES
    assert sent[2:4] == [False, False] and sent[-1]


@needs_compiler
def test_a_constraint_changes_the_weights_where_they_are(cupy):
    """A subclass says itself what it does, and weights that have gaps in memory take the long way."""

    class Halved(MaxNorm):
        def __call__(self, w):
            return w * 0.5

    w = random((30, 8), 1, np.float32)
    for rule, expected in (MaxNorm(0.5), MaxNorm(0.5)(w)), (Halved(0.5), w / 2), (lambda w: w + 1, w + 1):
        there = cupy.asarray(w)
        constrain(there, rule)
        assert_same(there.get(), expected, 1e-6)
        wide = cupy.zeros((30, 16), np.float32)
        wide[:, ::2] = cupy.asarray(w)
        constrain(wide[:, ::2], rule)
        assert_same(wide[:, ::2].get(), expected, 1e-6)
        assert not wide[:, 1::2].get().any()


@needs_compiler
def test_a_rule_of_ones_own_is_not_replaced(cupy):
    class Backwards(optimizers.SGD):
        def update(self, p, g, slots, lr):
            p += lr * g

    optimizer, p = Backwards(1.0), cupy.asarray(np.zeros(3))
    optimizer.apply({("a", "w"): p}, {("a", "w"): [cupy.asarray(np.ones(3))]})
    np.testing.assert_array_equal(p.get(), np.ones(3))


# ---- numbers of any type ---------------------------------------------------------------------------------------------

FILES = ["windows", "convolution", "elementwise", "norm", "softmax", "step"]


@needs_compiler
@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("file", FILES)
def test_every_argument_is_cast_to_what_its_kernel_reads(file, dtype, small):
    """By the compiler's own account of the arguments' sizes."""
    text = launch.source(file, dtype, small)
    names = re.findall(r"__global__ void (\w+)", text)
    assert names
    for name in names:
        arrays, numbers = launch._head(text, name, np.dtype(dtype), small)
        sizes = (ctypes.c_int * 64)()
        count = cuda_on_cpu.RawModule(code=text).get_function(name).sizes_of(sizes)
        assert [-1] * arrays + [np.dtype(number).itemsize for number in numbers] == [
            max(size, -1) for size in sizes[:count]
        ]


@needs_compiler
@pytest.mark.parametrize("number", [np.float64, np.float32, np.float16])
def test_numbers_of_numpy_are_as_good_as_pythons(cupy, number):
    """A float64 of 8 bytes, passed on to a kernel that reads 4, would be another number."""
    x, whole = cupy.asarray(random((4, 3, 3, 2), 1, np.float32)), np.int64
    one, labels = cupy.asarray(np.ones(2, np.float32)), cupy.asarray(np.array([0, 1, 1, 0]))
    moments, rows = kernels.batchnorm_moments(x)[:2], x.reshape(4, 18)
    mask = kernels.mask_for(x, number(0.25), whole(3), whole(2))
    assert mask == kernels.mask_for(x, 0.25, 3, 2)
    cases = [
        lambda real, count: kernels.dropout_forward(x, mask, real(0.25)),
        lambda real, count: kernels.batchnorm_forward(x, one, one, *moments, real(0.25)),
        lambda real, count: kernels.batchnorm_backward(x, x, one, *moments, real(0.25)),
        lambda real, count: kernels.softmax_cross_entropy_backward(rows, labels, count(8)),
        lambda real, count: kernels.softmax_cross_entropy_backward(rows, labels, real(8)),
        lambda real, count: kernels.im2col(x, (count(2), count(3)), count(1), count(1), count(1)),
        lambda real, count: kernels.col2im(cupy.zeros((36, 2), np.float32), (count(4), 3, 3, count(2)), count(1)),
        lambda real, count: kernels.maxpool2d_forward(x, count(2), (count(1), count(1))),
        lambda real, count: kernels.gelu_forward(x, bool(count(1))),
        lambda real, count: stepped(cupy, optimizers.SGD(real(0.5), momentum=real(0.25), weight_decay=real(0.5))),
        lambda real, count: stepped(cupy, optimizers.Adam(real(0.5), real(0.25), real(0.5), real(0.125))),
    ]  # fmt: skip
    for case in cases:
        found, expected = case(number, whole), case(float, int)
        for a, b in zip(*((r if isinstance(r, tuple) else (r,)) for r in (found, expected)), strict=True):
            np.testing.assert_array_equal(a.get(), b.get())


def stepped(xp, optimizer):
    p = xp.asarray(np.arange(1, 4, dtype=np.float32))
    for _ in range(2):
        optimizer.apply({("layer", "w"): p}, {("layer", "w"): [xp.asarray(np.ones(3, np.float32))]})
    return p


@needs_compiler
def test_numbers_that_were_cast_are_not_taken_for_others(cupy):
    """A kernel remembers what it cast, some of it, and not what it refused."""
    x = np.abs(random((8, 3), 1, np.float32))
    there = cupy.asarray(x)
    for size in [*range(1, launch.MAX_CAST + 20), 3, 24]:
        y = cupy.zeros(24, np.float32)
        kernel = launch.kernel_for(cupy, "elementwise", "relu_forward", np.float32, 3)
        kernel.for_each(min(size, 24), y, there)
        kernel((1,), (24,), y, there, min(size, 24) if size % 2 else np.int64(min(size, 24)))
        np.testing.assert_array_equal(y.get()[:size], x.ravel()[:size])
        assert not y.get()[size:].any()
        kernel((1,), (1,), y, there, -size)
        assert len(kernel._cast) <= launch.MAX_CAST
    y = kernels.batchnorm_forward(there, *[there[0]] * 4, np.asarray(0.5))  # an array without axes cannot be looked up
    np.testing.assert_array_equal(y.get(), kernels.batchnorm_forward(there, *[there[0]] * 4, 0.5).get())
    for _ in range(2):
        with pytest.raises(OverflowError):
            kernel((1,), (1,), None, None, 2**31)
        with pytest.raises(ValueError, match="zip"):
            kernel((1,), (1,), y, there)


@needs_compiler
def test_a_number_that_is_too_large_is_refused(cupy):
    with pytest.raises(OverflowError):
        launch.kernel_for(cupy, "elementwise", "relu_forward", np.float32, 3)((1,), (1,), None, None, 2**31)


# ---- the decorator ---------------------------------------------------------------------------------------------------


def with_variants() -> dict[str, Any]:
    modules = [module for name, module in sys.modules.items() if name.startswith("minicnn.kernels.")]
    found = {f"{f.__module__}.{name}": f for module in modules for name, f in vars(module).items()
             if hasattr(f, "variant")}  # fmt: skip
    return {name: f for name, f in found.items() if not name.startswith("minicnn.kernels.cuda")}


def test_a_variant_takes_what_its_kernel_takes():
    """A decorator that a merge left above the wrong function would compute another thing on the GPU alone."""
    assert len(with_variants()) >= 22
    for name, kernel in with_variants().items():
        parameters = [
            [(p.name, p.default) for p in inspect.signature(f).parameters.values()] for f in (kernel, kernel.variant)
        ]
        assert parameters[0] == parameters[1], name


# ---- the launchers ---------------------------------------------------------------------------------------------------


def test_where_our_kernels_cannot_serve_array_operations_do(monkeypatch):
    """AMD's GPUs, half precision, and machines without a compiler for these tests."""
    cupy = strict_cupy.install(monkeypatch, own_kernels=False)
    x = cupy.asarray(random((2, 5, 6, 3), 1, np.float32))
    assert not cuda.serves(x) and not cuda.serves(x.get())
    monkeypatch.setattr(cupy, "RawModule", None)
    for name, arguments in {"im2col": (3,), "maxpool2d_forward": (2,), "relu_forward": ()}.items():
        found, expected = getattr(kernels, name)(x, *arguments), getattr(kernels, name)(x.get(), *arguments)
        found, expected = (found, expected) if name != "maxpool2d_forward" else (found[0], expected[0])
        np.testing.assert_array_equal(found.get(), expected)


@needs_compiler
def test_half_precision_is_left_to_array_operations(cupy):
    assert cuda.serves(cupy.empty(3, np.float32)) and not cuda.serves(cupy.empty(3, np.float16))


@needs_compiler
@pytest.mark.parametrize(("channels", "dtype", "width"), [(8, "f4", 4), (4, "f4", 4), (6, "f4", 1), (8, "f8", 1)])
def test_four_channels_travel_at_once_where_they_can(cupy, channels, dtype, width, monkeypatch):
    seen = []
    module = cupy.RawModule
    monkeypatch.setattr(cupy, "RawModule", lambda *, code, options: (seen.append(code), module(code=code))[1])
    x = cupy.zeros((1, 4, 4, channels), dtype)
    for name in "im2col", "bias and relu", "norm":
        PACKED[name](x)
    assert len(seen) == 3 and all(f"#define WIDTH {width}\n" in code for code in seen)


def packed_norm(x, out=None):
    vectors = [x[0, 0, 0] * x[0, 0, 0] + k for k in range(4)]
    y = kernels.batchnorm_forward(x, *vectors, 0.5, out=out)
    statistics = kernels.batchnorm_statistics(x, *vectors[:2], 0.75)
    return y, *statistics, *kernels.batchnorm_backward(y, x, vectors[2], *vectors[:2], 0.5)


def packed_pool(x, size):
    y, winner = kernels.maxpool2d_forward(x, size, 2)
    return y, winner, kernels.maxpool2d_backward(y, winner, x.shape, size, 2)


# What carries Packs: function of an array (N, H, W, C) -> results.
PACKED = {
    "im2col": lambda x: (kernels.im2col(x, 3), kernels.col2im(x.reshape(-1, x.shape[-1]), x.shape, 1)),
    "pooling": lambda x: packed_pool(x, 3),
    "pooling, windows apart": lambda x: packed_pool(x, 2),
    "relu": lambda x: (kernels.relu_forward(x), kernels.relu_backward(x, x)),
    "bias and relu": lambda x: (kernels.bias_relu(x + 0, x[0, 0, 0]), x),
    "gelu": kernels.gelu_with_slope,
    "dropout": lambda x: (kernels.dropout_forward(x, kernels.mask_for(x, 0.5, 1, 3), 0.5),),
    "norm": packed_norm,
    "max norm": lambda x: (MaxNorm(2)(x.reshape(-1, x.shape[-1])),),
    "sums": lambda x: (column_sums(x.reshape(-1, x.shape[-1])),),
}  # fmt: skip


@needs_compiler
@pytest.mark.parametrize("shape", [(2, 4, 4, 4), (1, 1, 1, 4), (3, 5, 3, 36), (1, 3, 5, 5), (3, 1, 1, 1)])
@pytest.mark.parametrize("compute", PACKED.values(), ids=PACKED)
def test_memory_that_begins_anywhere(cupy, compute, shape):
    """A part of an array need not begin at 16 bytes. The same numbers come out, sums to the last bit."""
    if min(shape[1:3]) < 3 and compute in [PACKED["im2col"], PACKED["pooling"], PACKED["pooling, windows apart"]]:
        shape = (2, 3, 4, shape[3])
    flat = random((1 + int(np.prod(shape)),), 1, np.float32)
    expected = compute(cupy.asarray(flat[1:].reshape(shape)))
    for a, b in zip(compute(cupy.asarray(flat)[1:].reshape(shape)), expected, strict=True):
        np.testing.assert_array_equal(a.get(), b.get())
    for a, b in zip(compute(flat[1:].reshape(shape)), expected, strict=True):
        assert_same(b.get(), a, 1e-5)


@needs_compiler
def test_results_in_place_that_begin_anywhere(cupy):
    flat = random((1 + 3 * 8,), 1, np.float32)
    x, b = flat[1:].reshape(3, 8), flat[:8]
    there = [cupy.asarray(flat)[1:].reshape(3, 8) for _ in range(4)]
    vector = cupy.asarray(b * b)
    assert kernels.relu_forward(there[0], out=there[0]) is there[0]
    kernels.bias_relu(there[1], vector)
    cuda.bias_relu_dropout(there[2], None, kernels.mask_for(there[2], 0.5, 1), 0.5)
    kernels.batchnorm_forward(there[3], *[vector] * 4, 0.5, out=there[3])
    expected = [np.maximum(x, 0), np.maximum(x + b * b, 0),
                np.maximum(x, 0) * kernels.dropout_mask(x.shape, 0.5, 1) * np.float32(2),
                kernels.batchnorm_forward(x, *[b * b] * 4, 0.5)]  # fmt: skip
    for found, wanted in zip(there, expected, strict=True):
        assert_same(found.get(), wanted, 1e-6)


@needs_compiler
@pytest.mark.parametrize("compute", PACKED.values(), ids=PACKED)
def test_a_pack_at_a_wrong_place_is_noticed(cupy, compute, monkeypatch):
    """What the tests above rely on: a GPU would refuse such an address, too."""
    monkeypatch.setattr(launch, "PACK_BYTES", 4)
    monkeypatch.setattr("minicnn.kernels.cuda.norm.PACK_BYTES", 4)
    x = cupy.asarray(random((1 + 3 * 3 * 3 * 4,), 1, np.float32))[1:].reshape(3, 3, 3, 4)
    with pytest.raises(cuda_on_cpu.LaunchError, match="MISALIGNED"):
        compute(x)


@needs_compiler
def test_arrays_in_any_order(cupy):
    x = noncontiguous(random((2, 5, 4, 3), 1))
    there = cupy.asarray(np.ascontiguousarray(x.transpose(3, 1, 2, 0))).transpose(3, 1, 2, 0)
    assert not there.flags.c_contiguous
    np.testing.assert_array_equal(kernels.im2col(there, 3).get(), kernels.im2col(np.ascontiguousarray(x), 3))
    np.testing.assert_array_equal(kernels.relu_forward(there).get(), kernels.relu_forward(np.ascontiguousarray(x)))


@needs_compiler
def test_arrays_of_two_dtypes(cupy):
    """float64 images in a float32 model: a kernel that took float32 numbers for float64 ones would compute nonsense."""
    x, vector = cupy.asarray(random((4, 5), 1)), cupy.asarray(np.arange(1, 6, dtype=np.float32))
    y = kernels.batchnorm_forward(x, vector, vector, vector, vector, 1e-3)
    host = x.get(), *[vector.get()] * 4, 1e-3
    assert_same(y.get(), kernels.batchnorm_forward(*host), 1e-6)
    half = kernels.batchnorm_backward(x.astype(np.float32), x, vector, vector, vector, 1e-3)
    for a, b in zip(half, kernels.batchnorm_backward(host[0].astype(np.float32), *host[:2], *host[3:]), strict=True):
        assert_same(a.get(), b, 1e-5)
    np.testing.assert_array_equal(kernels.relu_backward(x, x.astype(np.float32)).get(), np.maximum(host[0], 0))
    assert_same(kernels.bias_relu(x + 0, vector).get(), np.maximum(host[0] + host[1], 0), 1e-12)
    p, g = cupy.zeros(5, np.float32), x[0]
    optimizers.SGD(1.0).apply({("a", "w"): p}, {("a", "w"): [g]})
    assert_same(p.get(), -g.get(), 1e-6)


@needs_compiler
def test_large_arrays_are_counted_in_64_bits(cupy, monkeypatch):
    """The same numbers with the longer Index, which such arrays need."""
    x = cupy.asarray(random((2, 5, 4, 3), 1))
    expected = kernels.im2col(x, 3).get()
    built = launch._built
    monkeypatch.setattr(launch, "_built", lambda xp, f, n, d, small, *rest: built(xp, f, n, d, False, *rest))
    assert launch.kernel_for(cupy, "windows", "im2col", x.dtype, 7).head[1].count(np.int64) == 1
    np.testing.assert_array_equal(kernels.im2col(x, 3).get(), expected)


@needs_compiler
@pytest.mark.parametrize("limit", ["MAX_PARTIAL", "MAX_ARRIVALS"])
def test_sums_that_need_more_than_the_workspace(cupy, limit, monkeypatch):
    x = cupy.asarray(random((700, 36), 1, np.float32))
    expected = column_sums(x).get()
    monkeypatch.setattr(norm, limit, 1)
    np.testing.assert_array_equal(column_sums(x).get(), expected)
    kept = cuda.workspace(cupy)
    assert all(a is b for a, b in zip(kept, cuda.workspace(cupy, 1, 1), strict=True))
    assert not kept[1].get().any()


@needs_compiler
def test_a_kernel_is_compiled_once(cupy, monkeypatch):
    made = []
    module = cupy.RawModule
    monkeypatch.setattr(cupy, "RawModule", lambda **given: (made.append(1), module(**given))[1])
    for _ in range(3):
        kernels.relu_forward(cupy.zeros(3, np.float32))
        kernels.relu_backward(cupy.zeros(3, np.float32), cupy.zeros(3, np.float32))
    assert len(made) == 1
    kernels.relu_forward(cupy.zeros(3, np.float64))
    assert len(made) == 2


@needs_compiler
def test_empty_arrays_start_nothing(cupy):
    assert kernels.relu_forward(cupy.zeros((0, 3), np.float32)).shape == (0, 3)
    assert kernels.im2col(cupy.zeros((0, 4, 4, 2), np.float32), 2).shape == (0, 8)


@needs_compiler
def test_the_order_of_the_threads_changes_nothing(cupy):
    """No thread disturbs another, and every sum has its own fixed order."""
    x, z = (cupy.asarray(random(shape, 1, np.float32)) for shape in ((2, 9, 8, 5), (6, 30)))
    labels = cupy.asarray(np.arange(6))

    def everything():
        y, winner = kernels.maxpool2d_forward(x, 3, 2)
        cols = kernels.im2col(x, 3)
        mean, var, _ = kernels.batchnorm_moments(x)
        dropped = kernels.dropout_forward(x, kernels.mask_for(x, 0.5, 1), 0.5)
        return [
            y, winner, kernels.maxpool2d_backward(y, winner, x.shape, 3, 2), cols, kernels.col2im(cols, x.shape, 3),
            mean, var, *kernels.batchnorm_backward(x, x, mean, mean, var, 1e-3), dropped, kernels.softmax_forward(z),
            kernels.softmax_cross_entropy_forward(z, labels), kernels.softmax_cross_entropy_backward(z, labels),
        ]  # fmt: skip

    forwards = everything()
    with cuda_on_cpu.backwards():
        for a, b in zip(forwards, everything(), strict=True):
            np.testing.assert_array_equal(a.get(), b.get())


# ---- negative controls: what is wrong must not pass ------------------------------------------------------------------


# Two and three channels go one by one, four and eight as Packs.


def conv_check():
    kernel = on_gpu(kernels.im2col), on_gpu(kernels.col2im)
    for channels in 2, 4:
        check_im2col(*kernel, random((1, 5, 6, channels), 1, np.float32), 3, padding=1, stride=2)


def pool_check():
    kernel = on_gpu(kernels.maxpool2d_forward), on_gpu(kernels.maxpool2d_backward)
    for channels in 2, 4:
        check_maxpool2d(*kernel, rng(2).integers(-2, 1, (1, 5, 6, channels)).astype(np.float32), 3, stride=2)


def norm_check():
    kernel = [on_gpu(k) for k in (kernels.batchnorm_moments, kernels.batchnorm_forward, kernels.batchnorm_backward)]
    for channels in 2, 4:
        x = random((5, 4, 3, channels), 1, np.float32)
        check_batchnorm(*kernel, x, x[0, 0, 0] + 2, x[0, 0, 1], eps=0.1)


def sums_check():
    """Several blocks a column, and rows that are left over."""
    for columns in 35, 36:
        check_sums(columns)


def check_sums(columns):
    x = random((700, columns), 1, np.float32)
    assert_same(on_gpu(column_sums)(x), x.sum(axis=0, dtype=np.float64), 1e-5)
    mean, var = random((columns,), 2, np.float32), random((columns,), 3, np.float32)
    arguments = x, mean, var, 0.75
    for found, expected in zip(on_gpu(kernels.batchnorm_statistics)(*arguments),
                               kernels.batchnorm_statistics(*arguments), strict=True):  # fmt: skip
        assert_same(found, expected, 1e-5)
    one = np.ones(columns, np.float32)
    moments = kernels.batchnorm_moments(x)[:2]
    for found, expected in zip(on_gpu(kernels.batchnorm_backward)(x, x + mean, one, *moments, 1e-3),
                               kernels.batchnorm_backward(x, x + mean, one, *moments, 1e-3), strict=True):  # fmt: skip
        assert_same(found, expected, 1e-4)
    dz, db = on_gpu(cuda.relu_backward_sums)(x, x - mean, 2.0)
    assert_same(dz, 2 * x * (x > mean), 1e-7)
    assert_same(db, dz.sum(axis=0, dtype=np.float64), 1e-5)
    assert_same(on_gpu(MaxNorm(26))(x), MaxNorm(26)(x), 1e-5)  # longer than some of the columns
    y = on_gpu(kernels.batchnorm_forward)(x, one, mean, *moments, 1e-3)
    assert_same(y, kernels.batchnorm_forward(x, one, mean, *moments, 1e-3), 1e-5)


def chain_check():
    """Convolution's bias, ReLU and dropout in one kernel; samples of words and of a part of one."""
    xp = sys.modules["cupy"]
    for channels in 7, 8:
        z, b = random((3, 5, 3, channels), 1, np.float32), random((channels,), 2, np.float32)
        there = xp.asarray(z)
        mask, dropped = kernels.mask_for(there, 0.5, 1, 3), kernels.dropout_mask(z.shape, 0.5, 1, 3)
        y = cuda.bias_relu_dropout(there, xp.asarray(b), mask, 0.5)
        np.testing.assert_array_equal(y.get(), np.maximum(z + b, 0) * dropped * np.float32(2))


def softmax_check():
    z, soft = random((3, 5), 1, np.float32), rng(1).random((3, 5)).astype(np.float32)
    for kernel in kernels.softmax_cross_entropy_forward, kernels.softmax_cross_entropy_backward:
        assert_same(on_gpu(kernel)(z, soft), kernel(z, soft), 1e-5)


def dropout_check():
    for numbers in 4201, 4204:
        x = random((3, numbers), 1, np.float32)
        there = sys.modules["cupy"].asarray(x)
        found = kernels.dropout_forward(there, kernels.mask_for(there, 0.5, 1, 3), 0.5).get()
        np.testing.assert_array_equal(found, kernels.dropout_forward(x, kernels.dropout_mask(x.shape, 0.5, 1, 3), 0.5))


def adam_check():
    (found, _), (expected, _) = (steps(xp, "Adam", {}, np.float32) for xp in (sys.modules["cupy"], np))
    for p, q in zip(found, expected, strict=True):
        assert_same(p.get(), q, 1e-6, "p")


BROKEN = [
    ("one thread too many", "i < (count)", "i <= (count)", conv_check),
    ("a row too many", "h < H &&", "h <= H &&", conv_check),
    ("= instead of +=", "add(sum, cols", "sum = (cols", conv_check),
    ("padding not subtracted", "h = oh * SH - TOP", "h = oh * SH", conv_check),
    ("the last of equal maxima wins", "v > best.at[k]) where", "v >= best.at[k]) where", pool_check),
    ("every window pays", "if (place.at[k] == kh * KW + kw) sum", "sum", pool_check),
    ("a barrier too few: moments", "    __syncthreads();  // all threads of the block have written\n", "", norm_check),
    ("the last block but one adds up", "== gridDim.y - 1;", "== gridDim.y - 2;", sums_check),
    ("arrivals not set back", "if (last) arrivals[blockIdx.x] = 0;", "", sums_check),
    ("a sum not read before the next is written", "    __syncthreads();  // all sums have been read\n", "", sums_check),
    ("the variance of means left out", "squares_b + delta * delta * (n * n_b / total)", "squares_b", norm_check),
    ("a block's distance from the mean left out", " + partial[k * ALL + column] * distance * distance", "", sums_check),
    ("a block's count left out", "sum += partial[k * ALL + column] * (", "sum += (", sums_check),
    ("the last block's moments left out", "k < BLOCKS; k += PARTS) {", "k < BLOCKS - 1; k += PARTS) {", sums_check),
    ("four rows counted as one", "count += 4", "count += 1", sums_check),
    ("fewer lines for Packs", "blockIdx.y * LINES + MY_LINE", "blockIdx.y * PARTS + MY_LINE", sums_check),
    ("half of the lines left out", "k < half;", "k < half - 1;", sums_check),
    ("a Pack's numbers in one column", "threadIdx.x % PACKS * WIDTH + j", "threadIdx.x % PACKS * WIDTH", sums_check),
    ("a word for a Pack taken for four", "(4 / WIDTH)", "4", dropout_check),
    ("one row of four left out", "i < 4; i++)", "i < 3; i++)", sums_check),
    ("one row of four taken twice", "r += 4 * STEP)", "r += 3 * STEP)", sums_check),
    ("no path through the mean", "gradient.row[i].at[j] - mean_dy.at[j] -", "gradient.row[i].at[j] -", norm_check),
    ("a barrier too few: softmax", "    __syncthreads();  // nobody", "    // nobody", softmax_check),
    ("targets that sum to 1 taken for granted", "/ sum * mass - target", "/ sum - target", softmax_check),
    ("the stride of another grid", "(u64)blockDim.x * gridDim.x,", "(u64)blockDim.x,", dropout_check),
    ("a sample's last word runs over", "&& p < PER_SAMPLE", "", dropout_check),
    ("a chunk's end forgotten", "part.begin + CHUNK < table[k * 6 + 4] ? part.begin + CHUNK : table[k * 6 + 4]",
     "table[k * 6 + 4]", adam_check),
    ("a moment not written back", "        part.a[i] = m;\n        part.b", "        part.b", adam_check),
]  # fmt: skip


@needs_compiler
@pytest.mark.parametrize(("text", "broken", "check"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN])
def test_a_broken_kernel_is_caught(cupy, text, broken, check, monkeypatch):
    whole, changed = launch.source, []

    def source(*args):
        code = whole(*args)
        changed.append(code.count(text))
        return code.replace(text, broken)

    monkeypatch.setattr(launch, "source", source)
    with pytest.raises(AssertionError):
        check()
    assert sum(changed) > 0, "the text to be broken is not there: this control proves nothing"


# ---- mutants: each kernel emptied, or off by one ---------------------------------------------------------------------


def relu_check():
    for channels in 2, 4:
        x, b = distinct((3, 5, channels), 1, np.float32), random((channels,), 2, np.float32)
        check_activation(on_gpu(kernels.relu_forward), on_gpu(kernels.relu_backward), "relu", x)
        z = sys.modules["cupy"].asarray(x)
        assert_same(kernels.bias_relu(z, sys.modules["cupy"].asarray(b)).get(), np.maximum(x + b, 0), 1e-6)


def gelu_check():
    for channels in 2, 4:
        x = distinct((3, 5, channels), 1, np.float32)
        for found, expected in zip(on_gpu(kernels.gelu_with_slope)(x), reference.gelu_with_slope(x), strict=True):
            assert_same(found, expected, 1e-5)


def probabilities_check():
    z, labels = random((3, 200), 1, np.float32) * np.float32(3), np.array([0, 199, 7])
    assert_same(on_gpu(kernels.softmax_forward)(z), kernels.softmax_forward(z), 1e-5)
    for kernel in kernels.softmax_cross_entropy_forward, kernels.softmax_cross_entropy_backward:
        assert_same(on_gpu(kernel)(z, labels), kernel(z, labels), 1e-5)


def rules_check(name):
    (found, _), (expected, _) = (steps(xp, name, {}, np.float32) for xp in (sys.modules["cupy"], np))
    for p, q in zip(found, expected, strict=True):
        assert_same(p.get(), q, 1e-6, "p")


def apart_check():
    for channels in 2, 4:
        x = distinct((1, 5, 6, channels), 1, np.float32)
        check_maxpool2d(on_gpu(kernels.maxpool2d_forward), on_gpu(kernels.maxpool2d_backward), x, 2)


# More pixels and channels than a block has rows and columns; sums that are no multiple of DEPTH, and of several shares;
# windows that overlap, with a border, and such that leave pixels out.
IMPLICIT = [
    ((1, 9, 8, 5), (3, 3), 66, {"padding": "same"}),
    ((2, 6, 7, 3), (3, 2), 5, {"padding": ((2, 0), (1, 3)), "stride": (2, 3), "dilation": (1, 2)}),
    ((2, 6, 7, 3), (1, 2), 5, {"stride": (3, 2)}),
]


def implicit_check(dtype=np.float32):
    shares, convolution.PIXELS_A_SHARE = convolution.PIXELS_A_SHARE, 20
    try:
        for shape, size, c_out, geometry in IMPLICIT:
            x, w, b = random(shape, 1, dtype), random((*size, shape[3], c_out), 2, dtype), random((c_out,), 3, dtype)
            if geometry.get("stride") == (3, 2):
                x[:, 1] = np.inf  # what no window sees must not become 0 * inf
            for bias in b, None:
                y = on_gpu(kernels.conv2d_forward)(x, w, bias, **geometry, algorithm="implicit")
                assert_same(y, kernels.conv2d_forward(x, w, bias, **geometry), 1e-5)
            dy = random(y.shape, 4, dtype)
            found = on_gpu(kernels.conv2d_backward)(dy, x, w, **geometry, algorithm="implicit")
            for a, b in zip(found, kernels.conv2d_backward(dy, x, w, **geometry), strict=True):
                assert_same(a, b, 1e-5)
            dy[0, 0, 0, 0] = np.inf  # nor may what came from no window
            dx = on_gpu(kernels.conv2d_backward)(dy, x, w, **geometry, algorithm="implicit")[0]
            with np.errstate(all="ignore"):
                expected = kernels.conv2d_backward(dy, x, w, **geometry)[0]
            np.testing.assert_array_equal(np.isfinite(dx), np.isfinite(expected))
    finally:
        convolution.PIXELS_A_SHARE = shares


CHECKS = {
    **dict.fromkeys(["im2col", "col2im"], conv_check),
    **dict.fromkeys(["conv_forward", "conv_input_gradient", "conv_kernel_gradient"], implicit_check),
    **dict.fromkeys(["maxpool_forward", "maxpool_backward"], pool_check),
    "maxpool_backward_apart": apart_check,
    **dict.fromkeys(["relu_forward", "relu_backward", "bias_relu"], relu_check),
    "gelu": gelu_check,
    "dropout": dropout_check,
    "bias_relu_dropout": chain_check,
    **dict.fromkeys(["moments", "batchnorm_forward", "gradients", "batchnorm_backward", "column_sums",
                     "relu_backward_sums", "column_lengths", "shortened"], sums_check),
    **dict.fromkeys(["softmax_forward", "softmax_cross_entropy"], probabilities_check),
    **{rule.lower(): functools.partial(rules_check, rule) for rule in ("SGD", "Adam", "RMSprop", "Adagrad", "Lion")},
}  # fmt: skip
# Text in a kernel -> what makes it do one number, row, thread or term less.
LESS = {
    ", count) {": ", count - 1) {",
    "c, ROWS, C)": "c, ROWS - 1, C)", "r < ROWS; r += step": "r + 1 < ROWS; r += step",
    "k < K;": "k < K - 1;", "i < part.end;": "i + 1 < part.end;", "kh < KH;": "kh < KH - 1;",
    "kw < KW;": "kw < KW - 1;", "), PIXELS,": "), PIXELS - 1,", "), ROWS,": "), ROWS - 1,",
}  # fmt: skip


def kernel_texts() -> dict[str, str]:
    """Name -> text, from its head to its last bracket, of each kernel of each file."""
    texts = "".join(path.read_text(encoding="ascii") for path in sorted(launch.HERE.glob("*.cu")))
    found = re.findall(r"__global__ void \w+\(.*?\n}\n", texts, re.DOTALL)
    return {text.split("(")[0].split()[-1]: text for text in found}


def mutants() -> list[Any]:
    """Of each kernel two, or three: all of LESS would take as long as the other tests of this file."""
    cases = []
    for name, text in kernel_texts().items():
        opening = text.index(") {\n") + 3
        old, new = next(pair for pair in LESS.items() if pair[0] in text)
        found = {"emptied": text[:opening] + " return;" + text[opening:], f"{old} -> {new}": text.replace(old, new)}
        if "IN_PACK" in text:
            less = re.sub(r"IN_PACK\((\w)\)", r"for (int \1 = 0; \1 < (WIDTH == 1 ? 1 : WIDTH - 1); \1++)", text)
            found["a Pack's last number forgotten"] = less
        cases += [pytest.param(name, text, mutant, id=f"{name}: {what}") for what, mutant in found.items()]
    return cases


@needs_compiler
def test_every_kernel_has_mutants_and_passes_its_check(cupy):
    assert set(kernel_texts()) == set(CHECKS)
    assert len(mutants()) == 2 * len(CHECKS) + sum("IN_PACK" in text for text in kernel_texts().values())
    for check in set(CHECKS.values()):
        check()


@needs_compiler
@pytest.mark.parametrize(("name", "text", "mutant"), mutants())
def test_a_mutant_is_caught(cupy, name, text, mutant, monkeypatch):
    whole, changed = launch.source, []

    def source(*args):
        code = whole(*args)
        changed.append(text in code)
        return code.replace(text, mutant)

    monkeypatch.setattr(launch, "source", source)
    with pytest.raises(AssertionError) as caught:
        CHECKS[name]()
    assert any(changed) and ": error: " not in str(caught.value), "the mutant was not even compiled"


# Of what the three products share, and of how they find their numbers.
IN_PRODUCTS = [
    ("d < DEPTH; d++", "d < DEPTH - 1; d++"),
    ("k < end; k += DEPTH", "k < end; k += DEPTH + 1"),
    ("__syncthreads();  // all threads of the block have written", ""),
    ("__syncthreads();  // all have read", "// "),
    ("first_row + my_row<Left>(i)", "blockIdx.y * SIDE + my_row<Left>(i)"),
    ("right.row(first_column + ", "right.row("),
    ("n < COLUMNS) result", "n < COLUMNS - 1) result"),
    ("bias ? bias[n] : Real(0)", "Real(0)"),
    ("tap < KH * KW ? tap / KW * DH : -NOWHERE", "tap / KW * DH"),
    ("tap < KH * KW ? tap / KW * DH : NOWHERE", "tap / KW * DH"),
    ("m < PIXELS ? oh * SH - TOP", "true ? oh * SH - TOP"),
    ("m < PIXELS ? h + TOP", "true ? h + TOP"),
    ("m / W / H * OH * OW", "m / W / H * H * W"),
    ("oh * SH == h && ", ""),
    ("ow * SW == w && ", ""),
    ("0 <= h && h < H && 0 <= w && w < W", "h < H && 0 <= w && w < W"),
    ("i < ROWS ? i * COLUMNS : -1", "i * COLUMNS"),
    ("k < COLUMNS ? k : -1", "k"),
    ("c < C ? (int)c * C_OUT : -1", "(int)c * C_OUT"),
    ("k < TAPS * C_OUT ? ", "true ? "),
    ("begin = blockIdx.z * SHARE", "begin = 0"),
    ("write(partial, blockIdx.z * ROWS * C_OUT", "write(partial, 0"),
]


@needs_compiler
@pytest.mark.parametrize(("old", "new"), IN_PRODUCTS, ids=[f"{old} -> {new}" for old, new in IN_PRODUCTS])
def test_a_mutant_of_the_products_is_caught(cupy, old, new, monkeypatch):
    whole = launch.source
    assert whole("convolution", np.float32).count(old) == 1
    monkeypatch.setattr(launch, "source", lambda *args: whole(*args).replace(old, new))
    with pytest.raises(AssertionError) as caught:
        implicit_check()
    assert ": error: " not in str(caught.value), "the mutant was not even compiled"


@needs_compiler
@pytest.mark.parametrize("check", [implicit_check, sums_check])
def test_sums_do_not_depend_on_the_order_of_the_threads(cupy, check):
    with cuda_on_cpu.backwards():
        check()


@needs_compiler
def test_products_of_the_longer_numbers(cupy):
    implicit_check(np.float64)


@needs_compiler
def test_a_convolution_without_images_starts_nothing(cupy):
    x, w = cupy.zeros((0, 5, 4, 2), np.float32), cupy.asarray(random((3, 3, 2, 7), 1, np.float32))
    y = kernels.conv2d_forward(x, w, algorithm="implicit")
    dx, dw, _ = kernels.conv2d_backward(y, x, w, algorithm="implicit")
    assert y.shape == (0, 3, 2, 7) and dx.shape == x.shape
    np.testing.assert_array_equal(dw.get(), np.zeros(w.shape))


# ---- the harness itself ----------------------------------------------------------------------------------------------

TOY = """
extern "C" __global__ void copy(float* __restrict__ y, const float* __restrict__ x, int n, int off) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = x[i + off];
}
extern "C" __global__ void race(float* __restrict__ y) { y[0] = threadIdx.x; }
extern "C" __global__ void torn(float* __restrict__ y) { if (threadIdx.x > 0) __syncthreads(); y[threadIdx.x] = 1; }
extern "C" __global__ void reversed(float* __restrict__ y, int n) {
    __shared__ float part[64];
    part[threadIdx.x] = y[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = part[n - 1 - threadIdx.x];
}
"""


def toy(name):
    return cuda_on_cpu.RawModule(code=TOY).get_function(name)


@needs_compiler
def test_the_harness_runs_blocks_and_threads():
    x, y = np.arange(10, dtype=np.float32), np.zeros(10, np.float32)
    toy("copy")((3,), (4,), (y, x, np.int32(10), np.int32(0)))
    np.testing.assert_array_equal(y, x)
    toy("reversed")((1,), (10,), (y, np.int32(10)))
    np.testing.assert_array_equal(y, x[::-1])


@needs_compiler
@pytest.mark.parametrize(
    ("name", "grid", "block", "arguments", "message"),
    [
        ("copy", (3,), (4,), ("y", "x", np.int32(10), np.int32(1)), r"index 10 of an array of 10 \(block 2, 0, thr"),
        ("copy", (3,), (4,), ("y", "x", np.int32(10), np.int32(-1)), "index -1 of an array of 10"),
        ("copy", (3,), (4,), ("y", "x", np.int64(10), np.int32(0)), "argument 2 is int64"),
        ("copy", (3,), (4,), ("y", "x", 10, np.int32(0)), "argument 2 is int"),
        ("copy", (3,), (4,), ("y", "wrong", np.int32(10), np.int32(0)), "argument 1 is ndarray of float64"),
        ("copy", (3,), (4,), ("y", "torn", np.int32(5), np.int32(0)), "argument 1 is not contiguous"),
        ("copy", (3,), (4,), ("y", "x", np.int32(10)), "takes 4 arguments, not 3"),
        ("copy", (0,), (4,), ("y", "x", np.int32(10), np.int32(0)), "INVALID_VALUE"),
        ("copy", (1,), (2048,), ("y", "x", np.int32(10), np.int32(0)), "INVALID_VALUE"),
        ("torn", (1,), (4,), ("y",), "some threads end while others wait"),
    ],
)
def test_the_harness_refuses(name, grid, block, arguments, message):
    arrays = {"y": np.zeros(10, np.float32), "x": np.zeros(10, np.float32), "wrong": np.zeros(10)}
    arrays["torn"] = np.zeros(10, np.float32)[::2]
    given = tuple(arrays[a] if isinstance(a, str) else a for a in arguments)
    with pytest.raises(cuda_on_cpu.LaunchError, match=message):
        toy(name)(grid, block, given)


@needs_compiler
def test_the_other_order_shows_who_disturbs_whom():
    y = np.zeros(1, np.float32)
    toy("race")((1,), (8,), (y,))
    forwards = y[0]
    with cuda_on_cpu.backwards():
        toy("race")((1,), (8,), (y,))
    assert (forwards, y[0]) == (7, 0)


# ---- the real compiler, where there is one ---------------------------------------------------------------------------

NVCC = shutil.which("nvcc") or next((str(p) for p in Path("/usr/local").glob("cuda*/bin/nvcc")), None)


@pytest.mark.skipif(NVCC is None, reason="needs nvcc, NVIDIA's compiler")
@pytest.mark.parametrize("file", FILES)
def test_nvidias_compiler_takes_the_sources(file, tmp_path):
    path = tmp_path / f"{file}.cu"
    path.write_text(launch.source(file, np.float32, pack=True), encoding="utf-8")
    command = [NVCC, "-std=c++17", "-ptx", "-Werror", "all-warnings", "-o", path.with_suffix(".ptx"), path]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


needs_nvrtc = pytest.mark.skipif(nvrtc.library() is None, reason=nvrtc.NEEDS_NVRTC)


@needs_nvrtc
@pytest.mark.parametrize("architecture", ["sm_75", "sm_90", "sm_120"])
@pytest.mark.parametrize("file", FILES)
def test_nvrtc_has_nothing_to_say(file, architecture):
    """No warning, and registers for everything: what spills over goes to memory."""
    for variant in {}, {"pack": True}, {"pack": True, "winner": np.uint16, "small": False}:
        said = nvrtc.compiled(launch.source(file, np.float32, **variant), architecture, "CUBIN")[1]
        assert set(re.findall(r"(\d+) bytes spill", said)) == {"0"}
        lines = [line for line in said.splitlines() if line.strip()]
        assert all(re.match(r"ptxas info|ptxas  |\s*\d+ bytes", line) for line in lines), said


def packs_in_ptx(code: str) -> dict[str, list[int]]:
    """Of each kernel how many arrays of Packs it reads and writes at least, and loads and stores of four numbers."""
    ptx, found = nvrtc.compiled(code, "sm_90", "PTX")[0], {}
    for name, head in re.findall(r"__global__ void (\w+)\((.*?)\)", code, re.DOTALL):
        body = ptx[ptx.index(f".entry {name}(") :].split(".entry ")[1]
        reads, writes = head.count("const Pack*"), head.count("Pack*") - head.count("const Pack*")
        loads, stores = (len(re.findall(rf"\b{what}\.global\S*\.v4\.[fb]32", body)) for what in ("ld", "st"))
        found[name] = [reads, writes, loads, stores]
    return found


@needs_nvrtc
@pytest.mark.parametrize("file", ["elementwise", "norm", "windows"])
def test_four_numbers_are_one_instruction(file):
    """In the text that NVIDIA's compiler makes; and not with a Pack of which the compiler knows less."""
    code = launch.source(file, np.float32, pack=True)
    for name, (reads, writes, loads, stores) in packs_in_ptx(code).items():
        assert loads >= reads and stores >= writes and reads + writes > 0, name
    for other in launch.source(file, np.float32), code.replace("alignas(WIDTH * sizeof(Real)) Pack", "Pack"):
        assert not any(loads + stores for *_, loads, stores in packs_in_ptx(other).values())


@needs_nvrtc
@pytest.mark.parametrize("rows", [4, 1])
def test_four_rows_are_on_the_way(rows):
    """Their loads follow each other: no arithmetic waits for the first before the last has begun."""
    code = launch.source("norm", np.float32, pack=True).replace("i < 4; i++", f"i < {rows}; i++")
    ptx = nvrtc.compiled(code.replace("4 * STEP", f"{rows} * STEP"), "sm_90", "PTX")[0]
    arrays = {"column_sums": 1, "column_lengths": 1, "shortened": 1, "batchnorm_forward": 1,
              "relu_backward_sums": 2, "gradients": 2, "batchnorm_backward": 2}  # fmt: skip
    for name, count in arrays.items():
        body = ptx[ptx.index(f".entry {name}(") :].split(".entry ")[1]
        pieces = re.split(r"\b(?:add|sub|mul|fma)\.\S*f32", body)
        at_once = max(len(re.findall(r"ld\.global\S*\.v4", piece)) for piece in pieces)
        assert (at_once >= 4 * count) == (rows == 4), name


def test_the_sources_stand_alone():
    """NVRTC has no headers of the host; CuPy writes the text down in the encoding of the machine."""
    for path in launch.HERE.glob("*.cu"):
        assert "#include" not in path.read_text(encoding="ascii")
    assert {path.stem for path in launch.HERE.glob("*.cu")} == {"common", *FILES}
