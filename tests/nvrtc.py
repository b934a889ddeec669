"""NVIDIA's compiler for CUDA as a library, NVRTC, where it is installed: it needs no GPU.

CuPy uses the same one. `pip install nvidia-cuda-nvrtc` brings it without CUDA.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
from pathlib import Path

NEEDS_NVRTC = "needs NVRTC, NVIDIA's compiler (pip install nvidia-cuda-nvrtc)"


def _folders() -> list[Path]:
    package = importlib.util.find_spec("nvidia")
    places = [Path(place) for place in (package.submodule_search_locations or [] if package else [])]
    return [*places, *sorted(Path("/usr/local").glob("cuda*"), reverse=True)]


@functools.cache
def library() -> ctypes.CDLL | None:
    """NVRTC; None where it is not installed."""
    for folder in _folders():
        for path in sorted(folder.glob("**/libnvrtc.so.*"), reverse=True):
            for builtins in path.parent.glob("libnvrtc-builtins.so.*.*"):
                ctypes.CDLL(str(builtins), ctypes.RTLD_GLOBAL)
            return ctypes.CDLL(str(path))
    return None


def compiled(code: str, architecture: str, what: str) -> tuple[str, str]:
    """("PTX" or "CUBIN" of the source as text, what the compiler said). The options are those of CuPy and launch.py."""
    nvrtc, program = library(), ctypes.c_void_p()
    options = ["-std=c++17", "-ftz=true", "--device-as-default-execution-space", f"-arch={architecture}",
               "--ptxas-options=-v"]  # fmt: skip
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), code.encode(), b"minicnn.cu", 0, None, None)
    given = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    failed = nvrtc.nvrtcCompileProgram(program, len(options), given)
    said = _text(nvrtc, program, "ProgramLog")
    assert not failed, said
    text = _text(nvrtc, program, what)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return text, said


def _text(nvrtc: ctypes.CDLL, program: ctypes.c_void_p, what: str) -> str:
    size = ctypes.c_size_t()
    getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    text = ctypes.create_string_buffer(size.value)
    getattr(nvrtc, f"nvrtcGet{what}")(program, text)
    return text.raw.decode("latin-1").rstrip("\0")
