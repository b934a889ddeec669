"""Which array module computes, and the scratch memory of the CPU kernels."""

from __future__ import annotations

import builtins
import sys
import threading
import types

import numpy as np
import pytest

from minicnn import backend
from minicnn.errors import InputError


def test_the_cpu_is_numpy():
    assert backend.module_for("cpu") is np
    assert backend.xp_of(np.zeros(2)) is np
    assert backend.xp_of([1, 2]) is np and backend.xp_of(3.0) is np


def test_an_unknown_device():
    with pytest.raises(InputError) as caught:
        backend.module_for("cuda")
    assert '"cpu", "gpu", "gpu:1"' in caught.value.expected and "'cuda'" in caught.value.received


def test_the_gpu_without_cupy_names_what_to_install(monkeypatch):
    real_import = builtins.__import__

    def no_cupy(name, *arguments, **options):
        if name == "cupy":
            raise ModuleNotFoundError("No module named 'cupy'")
        return real_import(name, *arguments, **options)

    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    monkeypatch.setattr(builtins, "__import__", no_cupy)
    with pytest.raises(InputError) as caught:
        backend.module_for("gpu")
    error = caught.value
    assert error.where == "device" and "CuPy is not installed" in error.problem
    assert "minicnn[gpu]" in error.fix and "minicnn[gpu12]" in error.fix and "No module named" in error.received


class CuPyArray:
    """What a CuPy array looks like from here."""

    def __init__(self, values):
        self.values = np.asarray(values)

    def get(self):
        return self.values


def fake_cupy(device_count) -> types.ModuleType:
    cupy = types.ModuleType("cupy")
    cupy.ndarray = CuPyArray
    cupy.cuda = types.SimpleNamespace(runtime=types.SimpleNamespace(getDeviceCount=device_count))
    return cupy


def test_the_gpu_without_a_driver(monkeypatch):
    def no_driver():
        raise RuntimeError("cudaErrorNoDevice")

    monkeypatch.setitem(sys.modules, "cupy", fake_cupy(no_driver))
    with pytest.raises(InputError) as caught:
        backend.module_for("gpu")
    assert "no usable GPU" in caught.value.problem
    assert "cudaErrorNoDevice" in caught.value.received and "nvidia-smi" in caught.value.fix


def test_the_array_decides(monkeypatch):
    cupy = fake_cupy(lambda: 1)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    array = CuPyArray([1, 2])
    assert backend.module_for("gpu") is cupy
    assert backend.xp_of(array) is cupy and backend.xp_of(np.zeros(2)) is np


def test_to_host():
    x = np.arange(3)
    assert backend.to_host(x) is x
    np.testing.assert_array_equal(backend.to_host(CuPyArray([1, 2])), [1, 2])
    assert isinstance(backend.to_host([1, 2]), np.ndarray)


# ---- scratch and tiles -----------------------------------------------------------------------------------------------


def test_scratch_is_reused_by_name_and_dtype():
    a = backend.scratch(np, "test", (4, 5), np.float32)
    assert a.shape == (4, 5) and a.dtype == np.float32 and a.flags.c_contiguous
    assert np.shares_memory(a, backend.scratch(np, "test", (2, 3), np.float32))
    assert not np.shares_memory(a, backend.scratch(np, "test", (4, 5), np.float64))
    assert not np.shares_memory(a, backend.scratch(np, "other test", (4, 5), np.float32))
    assert backend.scratch(np, "test", (40, 50), np.float32).shape == (40, 50)  # grows


def test_scratch_is_never_shared_between_threads():
    mine = backend.scratch(np, "threads", (100,), np.float64)
    others = []

    def ask():
        others.append(backend.scratch(np, "threads", (100,), np.float64))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    arrays = [mine, *others]
    assert len(arrays) == 4
    for i, a in enumerate(arrays):
        assert not any(np.shares_memory(a, b) for b in arrays[i + 1 :])


@pytest.mark.parametrize(
    ("samples", "bytes_each", "tile", "longest"), [(10, 100, 300, 3), (10, 100, 10, 1), (5, 8, 10**6, 5)]
)
def test_tiles_cover_every_sample_once(samples, bytes_each, tile, longest):
    x = np.zeros((samples, bytes_each), np.uint8)
    cut = list(backend.tiles(x, tile))
    assert [i for s in cut for i in range(s.start, s.stop)] == list(range(samples))
    assert max(s.stop - s.start for s in cut) == longest


def test_tiles_of_nothing():
    assert list(backend.tiles(np.zeros((0, 3)))) == []
