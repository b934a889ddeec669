"""The CUDA sources of minicnn/kernels/cuda, run on any machine that has a C++ compiler.

`RawModule` has the face of `cupy.RawModule`. It compiles the same text as C++ (cuda_on_cpu.h says what becomes of
threads) and runs it over NumPy arrays, or over those of the strict stand-in for CuPy. It is stricter than a GPU: an
index outside of an array, an argument of another size than the kernel's, and a barrier that not all threads reach are
errors.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import re
import shutil
import subprocess
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

HEADER = Path(__file__).with_name("cuda_on_cpu.h")
COMPILER = shutil.which("g++") or shutil.which("clang++")
NEEDS_COMPILER = "needs a C++ compiler (g++ or clang++) to run the CUDA sources on the CPU"
_one_at_a_time = threading.Lock()  # blockIdx and threadIdx are global variables
_order = threading.local()


class LaunchError(AssertionError):
    """What a kernel did wrong; a real GPU might not have said so."""


@contextmanager
def backwards():
    """Inside, threads run in the opposite order. Where results depend on the order, one thread disturbs another."""
    _order.backwards = True
    try:
        yield
    finally:
        _order.backwards = False


class RawModule:
    def __init__(self, *, code: str, options: tuple[str, ...] = ()):
        self.code, self.options = code, options

    def get_function(self, name: str) -> RawKernel:
        return RawKernel(_library(self.code), name, "__syncthreads" in _body(self.code, name))


class RawKernel:
    def __init__(self, library: ctypes.CDLL, name: str, synchronised: bool):
        self.name, self.synchronised = name, synchronised
        self.launch, self.sizes_of = getattr(library, f"launch_{name}"), getattr(library, f"sizes_{name}")
        self.launch.restype = ctypes.c_char_p

    def __call__(self, grid: tuple, block: tuple, args: tuple, *, shared_mem: int = 0) -> None:
        shape = [*grid, *(1,) * (3 - len(grid)), *block, *(1,) * (3 - len(block))]
        if min(shape) < 1 or np.prod(shape[3:]) > 1024 or max(shape[1:3]) > 65535:
            raise LaunchError(f"{self.name}: CUDA_ERROR_INVALID_VALUE: grid {grid}, block {block}")
        sizes = (ctypes.c_int * 64)()
        count = self.sizes_of(sizes)
        if count != len(args):
            raise LaunchError(f"{self.name} takes {count} arguments, not {len(args)}")
        values = [self._argument(k, arg, size) for k, (arg, size) in enumerate(zip(args, sizes[:count], strict=True))]
        pointers = (ctypes.c_void_p * count)(*(value.ctypes.data for value in values))
        with _one_at_a_time:
            order = getattr(_order, "backwards", False)
            problem = self.launch(pointers, (ctypes.c_uint * 6)(*map(int, shape)), self.synchronised, order)
        if problem:
            raise LaunchError(f"{self.name}: {problem.decode()}")

    def _argument(self, k: int, arg: Any, size: int) -> np.ndarray:
        """The bytes of an argument: of a number itself, of an array its address and size."""
        wrong = LaunchError(f"{self.name}: argument {k} is {type(arg).__name__} of {getattr(arg, 'dtype', '?')}")
        if size > 0:
            if not isinstance(arg, np.generic) or arg.itemsize != size:
                raise wrong
            return np.asarray(arg)
        if arg is None:  # a null pointer
            return np.zeros(2, np.int64)
        array = getattr(arg, "_host", arg)
        if not isinstance(array, np.ndarray) or -size not in (array.itemsize, 4 * array.itemsize):  # numbers, or Packs
            raise wrong
        if not array.flags.c_contiguous:
            raise LaunchError(f"{self.name}: argument {k} is not contiguous: the kernel would read other numbers")
        if array.ctypes.data % -size:
            raise LaunchError(f"{self.name}: CUDA_ERROR_MISALIGNED_ADDRESS: argument {k}")
        return np.array([array.ctypes.data, array.nbytes], np.int64)


def _body(code: str, name: str) -> str:
    """The kernel's own text, and that of the functions before it which it may call, or these."""
    start = re.search(rf"__global__ void {name}\(", code)
    assert start, f"no kernel {name}"
    text = code[start.start() : code.find("\n}\n", start.start())]
    helpers = re.findall(r"__device__ [\w ]+?(\w+)\(", code[: start.start()])
    for helper in reversed(helpers):  # each is written down before those that call it
        if re.search(rf"\b{helper}\(", text):
            begin = code.index(f" {helper}(")
            text += code[begin : code.index("\n}\n", begin)]
    return text


@functools.cache
def _folder() -> Path:
    folder = tempfile.TemporaryDirectory(prefix="cuda_on_cpu_")
    _folder.keep = folder  # deleted when Python ends
    return Path(folder.name)


@functools.cache
def _library(code: str) -> ctypes.CDLL:
    """The text as C++, compiled and loaded."""
    kernels = re.findall(r"__global__ void (\w+)\(", code)
    code = re.sub(r"(\w(?:[\w ]*\w)?)\* (?:__restrict__ )?(\w+)", r"Checked<\1> \2", code)
    doors = "".join(
        f'extern "C" const char* launch_{k}(void** at, const unsigned* g, bool s, bool b) '
        f"{{ return launch({k}, at, g, s, b); }}\n"
        f'extern "C" int sizes_{k}(int* sizes) {{ return sizes_of({k}, sizes); }}\n'
        for k in kernels
    )
    path = _folder() / hashlib.sha256(code.encode()).hexdigest()[:16]
    path.with_suffix(".cpp").write_text(f'#include "{HEADER}"\n{code}\n{doors}', encoding="utf-8")
    result = subprocess.run(
        [COMPILER, "-std=c++17", "-O1", "-ffp-contract=off", "-shared", "-fPIC", "-o", path.with_suffix(".so"),
         path.with_suffix(".cpp")], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return ctypes.CDLL(str(path.with_suffix(".so")))
