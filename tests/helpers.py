"""What the kernel tests share: comparing arrays, the numeric gradient, one check for every kind of kernel.

A check takes the kernel as an argument. The same function therefore serves three purposes: the fast kernels
must pass it, the reference implementations must pass it, and the broken kernels of test_negative_controls.py must not.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from minicnn.kernels import reference

TOLERANCE = {np.dtype(np.float64): 1e-11, np.dtype(np.float32): 1e-5}
Shape = tuple[int, ...]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def random(shape: Shape, seed: int = 0, dtype=np.float64) -> np.ndarray:
    """Standard normal numbers."""
    return rng(seed).standard_normal(shape).astype(dtype)


def distinct(shape: Shape, seed: int = 0, dtype=np.float64) -> np.ndarray:
    """Negative and positive numbers, all at least 0.01 apart and 0.005 from 0: no kink lies inside a step."""
    size = int(np.prod(shape))
    return ((rng(seed).permutation(size) - size // 2 + 0.5) * 0.01).reshape(shape).astype(dtype)


def noncontiguous(x: np.ndarray) -> np.ndarray:
    """The same numbers, every second cell of a larger array filled with NaN."""
    large = np.full([2 * size for size in x.shape], np.nan, dtype=x.dtype)
    view = large[tuple(slice(None, None, 2) for _ in x.shape)]
    view[...] = x
    return view


def assert_same(actual, expected, rtol: float = 1e-11, name: str = "array") -> None:
    """Same shape, and no difference above rtol times the largest number that was expected."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, f"{name}: shape {actual.shape}, expected {expected.shape}"
    if not actual.size:
        return
    assert np.isfinite(actual).all(), f"{name}: not finite"
    error = np.abs(actual.astype(np.float64) - expected.astype(np.float64))
    worst = np.unravel_index(error.argmax(), error.shape)
    scale = np.abs(expected).max()
    assert error[worst] <= rtol * scale, (
        f"{name}: off by {error[worst] / (scale or 1):.1e} (allowed {rtol:.0e}) "
        f"at {tuple(map(int, worst))}: {actual[worst]!r}, expected {expected[worst]!r}"
    )


@contextmanager
def unchanged(*arrays: np.ndarray) -> Iterator[None]:
    """Inside, the arrays are read-only; whoever writes to them anyway, or tries to, fails."""
    before = [array.copy() for array in arrays]
    flags = [array.flags.writeable for array in arrays]
    for array in arrays:
        array.flags.writeable = False
    try:
        yield
    except ValueError as error:
        if "read-only" in str(error):
            raise AssertionError("an input was written to") from error
        raise
    finally:
        for array, flag in zip(arrays, flags, strict=True):
            array.flags.writeable = flag
    for array, copy in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(array, copy, err_msg="an input was changed")


def assert_well_made(name: str, result: np.ndarray, dtype, *inputs: np.ndarray) -> None:
    """Kernels return fresh C-contiguous arrays of their input's dtype. `inputs`: what must not be shared."""
    assert result.dtype == dtype, f"{name}: dtype {result.dtype}, expected {dtype}"
    assert result.flags.c_contiguous, f"{name}: not C-contiguous"
    for array in inputs:
        assert not np.may_share_memory(result, array), (
            f"{name}: shares memory with an input or with another call's result"
        )


def numeric_gradient(f: Callable[[], np.ndarray], x: np.ndarray, dy: np.ndarray, step=1e-5) -> np.ndarray:
    """Central differences of <dy, f()> by each element of x, which f reads."""
    gradient = np.zeros(x.shape)
    for index in np.ndindex(x.shape):
        value = x[index]
        x[index] = value + step
        above = f()
        x[index] = value - step
        below = f()
        x[index] = value
        gradient[index] = np.sum(dy * (above - below)) / (2 * step)
    return gradient


def assert_adjoint(forward: Callable, backward: Callable, x: np.ndarray, y_shape: Shape) -> None:
    """<dy, A x> = <A^T dy, x> for a linear map: what makes a backward pass the right one, in one line."""
    dy = random(y_shape, seed=77)
    left, right = np.vdot(dy, forward(x)), np.vdot(backward(dy), x)
    assert abs(left) > 1e-3, "adjoint: both sides are 0, the check is blind"
    assert abs(left - right) <= 1e-11 * np.linalg.norm(dy) * np.linalg.norm(x), f"adjoint: {left} != {right}"


def check_kernel(
    inputs: dict[str, np.ndarray],
    forward: Callable,
    backward: Callable,
    expected_forward: Callable,
    expected_backward: Callable,
    dy: np.ndarray | None = None,
) -> None:
    """A kernel against its reference implementation and, in float64, against the numeric gradient.

    forward(*inputs) -> y; backward(dy, y, *inputs) -> one gradient for each input, in the same order.
    """
    arrays = list(inputs.values())
    dtype = arrays[0].dtype
    tolerance = TOLERANCE[dtype]
    with unchanged(*arrays):
        y = forward(*arrays)
        again = forward(*arrays)
        expected_y = expected_forward(*arrays)
    assert_same(y, expected_y, tolerance, "y")
    assert_well_made("y", y, dtype, again, *arrays)

    if dy is None:
        dy = random(y.shape, seed=99, dtype=dtype)
    if not arrays[0].flags.c_contiguous:
        dy = noncontiguous(dy)
    with unchanged(dy, y, *arrays):
        gradients = backward(dy, y, *arrays)
        more = backward(dy, y, *arrays)
        expected_gradients = expected_backward(dy, expected_y, *arrays)
    assert len(gradients) == len(expected_gradients) == len(arrays)
    for name, x, gradient, expected in zip(inputs, arrays, gradients, expected_gradients, strict=True):
        if dtype == np.float64:
            numeric = numeric_gradient(lambda: forward(*arrays), x, dy)
            assert np.abs(numeric).max() > 1e-3, f"d{name}: the numeric gradient is 0, the check is blind"
            assert_same(gradient, numeric, 1e-6, f"d{name} (numeric)")
        assert_same(gradient, expected, tolerance, f"d{name} (reference)")
        assert_well_made(f"d{name}", gradient, dtype, dy, y, *more, *arrays)


def check_without_dx(backward: Callable, full: tuple) -> None:
    """need_dx=False: no dx, and the other gradients bit for bit the same."""
    dx, *others = backward(need_dx=False)
    assert dx is None, "dx was computed although nobody needs it"
    for gradient, expected in zip(others, full[1:], strict=True):
        np.testing.assert_array_equal(gradient, expected)


# --- One check a kernel -------------------------------------------------------------------------------------


def check_conv2d(forward: Callable, backward: Callable, x, w, b, **geometry) -> None:
    check_kernel(
        {"x": x, "w": w, "b": b},
        lambda x, w, b: forward(x, w, b, **geometry),
        lambda dy, y, x, w, b: backward(dy, x, w, **geometry),
        lambda x, w, b: reference.conv2d_forward(x, w, b, **geometry),
        lambda dy, y, x, w, b: reference.conv2d_backward(dy, x, w, **geometry),
    )


def check_im2col(im2col: Callable, col2im: Callable, x, kernel_size, **geometry) -> None:
    check_kernel(
        {"x": x},
        lambda x: im2col(x, kernel_size, **geometry),
        lambda dy, y, x: (col2im(dy, x.shape, kernel_size, **geometry),),
        lambda x: reference.im2col(x, kernel_size, **geometry),
        lambda dy, y, x: (reference.col2im(dy, x.shape, kernel_size, **geometry),),
    )


def check_maxpool2d(forward: Callable, backward: Callable, x, pool_size, **geometry) -> None:
    """Also where elements are equal: there the reference says who wins, and the numeric gradient says nothing."""
    with unchanged(x):
        y, winner = forward(x, pool_size, **geometry)
    expected_y, expected_winner = reference.maxpool2d_forward(x, pool_size, **geometry)
    assert_same(y, expected_y, 0, "y")
    np.testing.assert_array_equal(winner, expected_winner, err_msg="winner")
    dy = random(y.shape, seed=99, dtype=x.dtype)
    with unchanged(dy, winner):
        dx = backward(dy, winner, x.shape, pool_size, **geometry)
    expected_dx = reference.maxpool2d_backward(dy, expected_winner, x.shape, pool_size, **geometry)
    assert_same(dx, expected_dx, TOLERANCE[x.dtype], "dx")
    if len(np.unique(x)) < x.size:
        return
    check_kernel(
        {"x": x},
        lambda x: forward(x, pool_size, **geometry)[0],
        lambda dy, y, x: (backward(dy, winner, x.shape, pool_size, **geometry),),
        lambda x: expected_y,
        lambda dy, y, x: (reference.maxpool2d_backward(dy, expected_winner, x.shape, pool_size, **geometry),),
    )


def check_avgpool2d(forward: Callable, backward: Callable, x, pool_size, **geometry) -> None:
    check_kernel(
        {"x": x},
        lambda x: forward(x, pool_size, **geometry),
        lambda dy, y, x: (backward(dy, x.shape, pool_size, **geometry),),
        lambda x: reference.avgpool2d_forward(x, pool_size, **geometry),
        lambda dy, y, x: (reference.avgpool2d_backward(dy, x.shape, pool_size, **geometry),),
    )


def check_global_avgpool2d(forward: Callable, backward: Callable, x) -> None:
    check_kernel(
        {"x": x},
        forward,
        lambda dy, y, x: (backward(dy, x.shape),),
        reference.global_avgpool2d_forward,
        lambda dy, y, x: (reference.global_avgpool2d_backward(dy, x.shape),),
    )


def check_dense(forward: Callable, backward: Callable, x, w, b) -> None:
    check_kernel(
        {"x": x, "w": w, "b": b},
        forward,
        lambda dy, y, x, w, b: backward(dy, x, w),
        reference.dense_forward,
        lambda dy, y, x, w, b: reference.dense_backward(dy, x, w),
    )


def check_batchnorm(
    moments: Callable, forward: Callable, backward: Callable, x, gamma, beta, eps=1e-3, dy=None
) -> None:
    """The three kernels together are the layer in training: mean and variance are those of x."""

    def layer(kernel_moments, kernel_forward):
        def apply(x, gamma, beta):
            mean, var, _ = kernel_moments(x)
            return kernel_forward(x, gamma, beta, mean, var, eps)

        return apply

    def layer_backward(kernel_moments, kernel_backward):
        def apply(dy, y, x, gamma, beta):
            mean, var, _ = kernel_moments(x)
            return kernel_backward(dy, x, gamma, mean, var, eps)

        return apply

    for name, actual, expected in zip(
        ("mean", "var", "count"), moments(x), reference.batchnorm_moments(x), strict=True
    ):
        assert_same(actual, expected, TOLERANCE[x.dtype], name)
    check_kernel(
        {"x": x, "gamma": gamma, "beta": beta},
        layer(moments, forward),
        layer_backward(moments, backward),
        layer(reference.batchnorm_moments, reference.batchnorm_forward),
        layer_backward(reference.batchnorm_moments, reference.batchnorm_backward),
        dy,
    )


def check_batchnorm_eval(forward: Callable, backward: Callable, x, gamma, beta, mean, var, eps=1e-3) -> None:
    """Mean and variance are constants."""
    check_kernel(
        {"x": x, "gamma": gamma, "beta": beta},
        lambda x, gamma, beta: forward(x, gamma, beta, mean, var, eps),
        lambda dy, y, x, gamma, beta: backward(dy, x, gamma, mean, var, eps),
        lambda x, gamma, beta: reference.batchnorm_forward(x, gamma, beta, mean, var, eps),
        lambda dy, y, x, gamma, beta: reference.batchnorm_eval_backward(dy, x, gamma, mean, var, eps),
    )


def check_dropout(forward: Callable, backward: Callable, x, mask, rate) -> None:
    mask.flags.writeable = False
    check_kernel(
        {"x": x},
        lambda x: forward(x, mask, rate),
        lambda dy, y, x: (backward(dy, mask, rate),),
        lambda x: reference.dropout_forward(x, mask, rate),
        lambda dy, y, x: (reference.dropout_backward(dy, mask, rate),),
    )


def check_activation(forward: Callable, backward: Callable, name: str, x, *arguments, dy=None) -> None:
    """name: of the reference implementation. GELU, SiLU and Mish read x in backward, the others y."""

    def from_page(kernel_backward):
        return lambda dy, y, x: (kernel_backward(dy, x if name in ("gelu", "silu", "mish") else y, *arguments),)

    check_kernel(
        {"x": x},
        lambda x: forward(x, *arguments),
        from_page(backward),
        lambda x: getattr(reference, f"{name}_forward")(x, *arguments),
        from_page(getattr(reference, f"{name}_backward")),
        dy,
    )


def check_cross_entropy(forward: Callable, backward: Callable, logits, target) -> None:
    """The backward kernel is that of the mean loss: it is checked as the gradient of forward(...).mean()."""
    tolerance = TOLERANCE[logits.dtype]
    with unchanged(logits, target):
        loss = forward(logits, target)
        dlogits = backward(logits, target)
    assert_same(loss, reference.softmax_cross_entropy_forward(logits, target), tolerance, "loss")
    assert_well_made("loss", loss, logits.dtype, logits, target)
    assert_same(dlogits, reference.softmax_cross_entropy_backward(logits, target), tolerance, "dlogits")
    assert_well_made("dlogits", dlogits, logits.dtype, logits, target)
    if logits.dtype == np.float64:
        mean = np.full(len(logits), 1 / len(logits))
        numeric = numeric_gradient(lambda: forward(logits, target), logits, mean)
        assert np.abs(numeric).max() > 1e-3, "dlogits: the numeric gradient is 0, the check is blind"
        assert_same(dlogits, numeric, 1e-6, "dlogits (numeric)")


# --- Several shards at once ---------------------------------------------------------------------------------


def run_shards(work: Callable[[int, Callable], object], count: int) -> list:
    """work(i, all_reduce), one thread a shard; all_reduce waits for the others and adds up in order."""
    parts: list = [None] * count
    results: list = [None] * count
    errors: list[BaseException] = []
    barrier = threading.Barrier(count, timeout=30)

    def shard(i: int) -> None:
        def all_reduce(partial):
            parts[i] = partial.copy()
            barrier.wait()
            total = sum(parts[1:], parts[0])
            barrier.wait()
            return total

        try:
            results[i] = work(i, all_reduce)
        except BaseException as error:  # handed on below; the others must not wait for this shard
            errors.append(error)
            barrier.abort()

    threads = [threading.Thread(target=shard, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise next((e for e in errors if not isinstance(e, threading.BrokenBarrierError)), errors[0])
    return results
