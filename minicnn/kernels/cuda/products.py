"""Matrix products as a CUDA graph can hold them: cuBLAS called directly.

CuPy refuses to call cuBLAS while a stream captures. cuBLAS itself lets its calls be captured, if it need not take
memory on the way: so it has a handle of its own here, and memory to work with (cuBLAS documentation, "CUDA Graphs
Support").
"""

from __future__ import annotations

import ctypes
import os
from typing import Any

import numpy as np

from minicnn.backend import Array

WORKSPACE_BYTES = 32 << 20  # as NVIDIA advises for its Hopper GPUs; older ones need 4 MiB

_TYPES = {np.dtype(np.float32): 0, np.dtype(np.float64): 1}  # CUDA_R_32F, CUDA_R_64F
_COMPUTE_32F, _COMPUTE_64F, _COMPUTE_32F_FAST_TF32 = 68, 70, 77
_AS_IT_LIES, _TRANSPOSED, _ANY_ALGORITHM = 0, 1, -1


class Products:
    """cuBLAS for one stream. Raises OSError where there is no such library, RuntimeError where it refuses."""

    def __init__(self, cupy: Any, stream: Any):
        cupy.cuda.get_cublas_handle()  # CuPy finds and loads the library, wherever it is
        version = cupy.cuda.runtime.runtimeGetVersion() // 1000
        self.library = ctypes.CDLL(f"cublas64_{version}.dll" if os.name == "nt" else f"libcublas.so.{version}")
        self.linear_algebra = cupy._core._routines_linalg  # knows what set_tf32 has chosen
        self.handle = ctypes.c_void_p()
        self._call("cublasCreate_v2", ctypes.byref(self.handle))
        self._call("cublasSetStream_v2", self.handle, ctypes.c_void_p(stream.ptr))
        if hasattr(self.library, "cublasSetWorkspace_v2"):  # after the stream, which sets it back
            self.workspace = cupy.empty(WORKSPACE_BYTES, np.uint8)
            there = ctypes.c_void_p(self.workspace.data.ptr), ctypes.c_size_t(WORKSPACE_BYTES)
            self._call("cublasSetWorkspace_v2", self.handle, *there)

    def __del__(self) -> None:
        if getattr(self, "handle", None):
            self.library.cublasDestroy_v2(self.handle)

    def matmul(self, a: Array, b: Array, out: Array) -> bool:
        """Start out = a @ b and return True; False where these are not two matrices that lie in one row in memory.

        For cuBLAS matrices lie column by column. To it, ours are their own transposes: out.T = b.T @ a.T.
        """
        if not (a.dtype == b.dtype == out.dtype and out.dtype in _TYPES and a.ndim == b.ndim == out.ndim == 2):
            return False
        if not out.flags.c_contiguous or 0 in a.shape + b.shape:
            return False
        left, right = _layout(b), _layout(a)
        if left is None or right is None:
            return False
        (rows, inner), columns = a.shape, b.shape[1]
        factor = ctypes.c_double if out.dtype == np.float64 else ctypes.c_float
        one, zero, kind = ctypes.byref(factor(1)), ctypes.byref(factor(0)), _TYPES[out.dtype]
        self._call(
            "cublasGemmEx", self.handle, left[0], right[0], columns, rows, inner, one,
            ctypes.c_void_p(b.data.ptr), kind, left[1], ctypes.c_void_p(a.data.ptr), kind, right[1], zero,
            ctypes.c_void_p(out.data.ptr), kind, columns, self._precision(out.dtype), _ANY_ALGORITHM,
        )  # fmt: skip
        return True

    def _precision(self, dtype: np.dtype) -> int:
        if dtype == np.float64:
            return _COMPUTE_64F
        chosen = self.linear_algebra.get_compute_type(np.float32)
        return _COMPUTE_32F_FAST_TF32 if chosen == self.linear_algebra.COMPUTE_TYPE_TF32 else _COMPUTE_32F

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self.library, name)(*arguments)
        if status:
            raise RuntimeError(f"{name} returns status {status}")


def _layout(matrix: Array) -> tuple[int, int] | None:
    """(how cuBLAS must take it, from one of its columns to the next); None where neither axis lies in one row."""
    if matrix.flags.c_contiguous:
        return _AS_IT_LIES, matrix.shape[1]
    return (_TRANSPOSED, matrix.shape[0]) if matrix.flags.f_contiguous else None
