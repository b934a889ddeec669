"""The stand-in itself: is it as strict as it says, and has it nothing that CuPy has not?"""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import strict_cupy


@pytest.fixture
def cupy(monkeypatch):
    return strict_cupy.install(monkeypatch)


HOST = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.mark.parametrize(
    "mix",
    [
        lambda x: x + HOST,
        lambda x: HOST + x,
        lambda x: HOST * x,
        lambda x: x @ HOST.T,
        lambda x: HOST - x,
        lambda x: x == HOST,
        lambda x: x.__iadd__(HOST),
        lambda x: HOST.__iadd__(x),
        lambda x: x.__setitem__(0, HOST[0]),
        lambda x: HOST.copy().__setitem__(0, x[0]),
        lambda x: x[np.array([0, 1])],
        lambda x: x[HOST > 1],
        lambda x: x[[0, 1]],
        lambda x: np.asarray(x),
        lambda x: np.exp(x),
        lambda x: np.add(x, x),
        lambda x: np.sum(x),
        lambda x: np.concatenate([x, x]),
        lambda x: np.stack([x]),
        lambda x: np.maximum(HOST, 0, out=x),
        lambda x: x.sum(out=np.zeros(())),
    ],
)
def test_it_does_not_meet_numpy(cupy, mix):
    with pytest.raises((TypeError, ValueError)):
        mix(cupy.asarray(HOST))


@pytest.mark.parametrize(
    "call",
    [
        lambda cupy, x: cupy.exp(HOST),
        lambda cupy, x: cupy.sum(HOST),
        lambda cupy, x: cupy.concatenate([x, HOST]),
        lambda cupy, x: cupy.copyto(x, HOST),
        lambda cupy, x: cupy.where(x > 0, HOST, x),
        lambda cupy, x: cupy.asarray([x, x]),
        lambda cupy, x: cupy.maximum(x, 0, order="C"),
        lambda cupy, x: cupy.maximum(x, 0, where=x > 0),
        lambda cupy, x: cupy.tile(x, 2, 3),
        lambda cupy, x: x.flags.writeable,
        lambda cupy, x: cupy.errstate,
        lambda cupy, x: cupy.random.standard_normal(3),
        lambda cupy, x: cupy.ElementwiseKernel,
        lambda cupy, x: cupy.ones(3).min_scalar_type(),
    ],
)
def test_it_has_no_more_than_cupy(cupy, call):
    with pytest.raises((TypeError, ValueError, AttributeError)):
        call(cupy, cupy.asarray(HOST))


@pytest.mark.parametrize(
    "compute",
    [
        lambda xp, x: x + 1,
        lambda xp, x: 2 - x,
        lambda xp, x: np.float32(2) * x,
        lambda xp, x: x / x.sum(axis=1, keepdims=True),
        lambda xp, x: xp.maximum(x, 2),
        lambda xp, x: xp.concatenate([x, x], axis=1),
        lambda xp, x: xp.stack([x, x]),
        lambda xp, x: xp.where(x > 2, x, 0),
        lambda xp, x: x[:, 1:] @ x[:, 1:].T,
        lambda xp, x: x.reshape(-1).astype(np.float64),
        lambda xp, x: x[xp.asarray([1, 0])],
        lambda xp, x: x.T.copy(),
        lambda xp, x: xp.einsum("ij,kj->ik", x, x),
        lambda xp, x: xp.broadcast_to(x, (2, 2, 3)),
        lambda xp, x: xp.pad(x, ((1, 0), (0, 1))),
        lambda xp, x: xp.take_along_axis(x, x.argmax(axis=1)[:, None], axis=1),
        lambda xp, x: xp.clip(x, 1, 3),
        lambda xp, x: xp.full_like(x, 3.0),
        lambda xp, x: -x,
        lambda xp, x: abs(x - 3),
        lambda xp, x: x.clip(max=2),
        lambda xp, x: xp.reshape(x, (3, 2)),
        lambda xp, x: sum([x, x]),
    ],
)
def test_it_computes_what_numpy_computes(cupy, compute):
    result = compute(cupy, cupy.asarray(HOST))
    assert isinstance(result, cupy.ndarray)
    expected = compute(np, HOST)
    assert result.dtype == expected.dtype
    np.testing.assert_array_equal(result.get(), expected)


def test_reductions_are_arrays_without_axes(cupy):
    x = cupy.asarray(HOST)
    for result in (x.sum(), cupy.max(x), x[0, 0], x.mean(), x.sum() + 1, cupy.sqrt(x.sum())):
        assert isinstance(result, cupy.ndarray) and result.shape == ()


def test_what_waits_for_the_device_is_counted(cupy):
    x = cupy.asarray(HOST)
    assert strict_cupy.log == {"to_device": 1}
    y = (x * 2).sum() + x.max()
    assert strict_cupy.log["sync"] == 0
    assert float(y) == 35 and bool(y > 0) and int(y) == 35 and y.item() == 35 and y.get() == 35
    assert strict_cupy.log["sync"] == 5
    x[x > 2]
    assert strict_cupy.log["sync"] == 6


@pytest.mark.parametrize("key", [7, -3, (0, 5)])
def test_an_index_out_of_range_is_an_error(cupy, key):
    x = cupy.asarray(HOST)
    with pytest.raises(IndexError):
        x[key]
    with pytest.raises(IndexError):
        x[cupy.asarray(key[1] if isinstance(key, tuple) else key).reshape(1)]
    with pytest.raises(IndexError):
        cupy.take(x, cupy.asarray([7]), axis=0)


def test_of_values_for_the_same_place_any_may_stay(cupy):
    kept = set()
    for _ in range(50):
        x = cupy.zeros((3, 2))
        x[cupy.asarray([1, 1, 1])] = cupy.asarray([[1.0], [2.0], [3.0]])
        assert x.get()[[0, 2]].sum() == 0
        kept |= set(x.get()[1])
    assert kept == {1.0, 2.0, 3.0}
    x = cupy.zeros(3)
    x[cupy.asarray([1, 1])] += 1
    assert x.get().tolist() == [0, 1, 0]  # as in NumPy and CuPy: not 2


def test_new_memory_is_poisoned(cupy):
    assert np.isnan(cupy.empty((2, 3), np.float32).get()).all()
    assert np.isnan(cupy.empty_like(cupy.zeros(3)).get()).all()
    assert (cupy.empty(3, np.uint8).get() == 255).all()


def test_a_copy_has_arrived_when_its_stream_was_waited_for(cupy):
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        x = cupy.asarray(HOST)
    assert np.isnan(x.get()).all()
    cupy.cuda.get_current_stream().wait_event(stream.record())
    np.testing.assert_array_equal(x.get(), HOST)


def test_devices_do_not_meet(cupy):
    x = cupy.asarray(HOST)
    with cupy.cuda.Device(1):
        y = cupy.asarray(HOST)
        with pytest.raises(ValueError, match="device 0 was used on device 1"):
            x + y
        assert (y + y).device.id == 1
    assert x.device.id == 0 and (x + x).device.id == 0
    with pytest.raises(strict_cupy.CUDARuntimeError):
        cupy.cuda.Device(2)


def test_memory_can_run_out(cupy):
    with strict_cupy.memory(100), pytest.raises(MemoryError):
        cupy.zeros(26, np.float32)
    assert cupy.zeros(26, np.float32).nbytes == 104


def test_it_promises_only_what_cupy_has():
    cupy = pytest.importorskip("cupy", reason="needs CuPy itself; a GPU is not needed")
    for name in strict_cupy.UFUNCS.split():
        assert isinstance(getattr(cupy, name), cupy.ufunc), name
    assert callable(cupy.add.at)
    for name in strict_cupy.CONSTANTS.split():
        assert hasattr(cupy, name), name
    for name, parameters in strict_cupy.FUNCTIONS.items():
        ours, theirs = strict_cupy._signature(parameters).parameters, inspect.signature(getattr(cupy, name)).parameters
        assert list(ours) == list(theirs), name
        assert [p.kind for p in ours.values()] == [p.kind for p in theirs.values()], name
    methods = [name for name in vars(strict_cupy.ndarray) if not name.startswith("_")]
    assert [name for name in methods if not hasattr(cupy.ndarray, name)] == []
