"""A program of its own: walks through an HDF5 file before minicnn/saving/hdf5.py does, to crash or hang here.

The HDF5 library is written in C. A damaged file can bring it down, or send it round in circles: no exception, nothing
that a reader could catch. What it survives here, within a limit of time and memory, it will survive again.

    python -m minicnn.saving.hdf5_probe FILE        or, with the file's bytes on standard input, - for FILE
"""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator
from typing import Any

SECONDS, MEBIBYTES = 2, 400  # of processor time; more than the program itself and twice the file
MAX_NODES, MAX_DEPTH, MAX_BYTES = 100_000, 50, 1 << 20


@contextlib.contextmanager
def tolerant() -> Iterator[None]:
    """Errors are left to the reader, who meets them again; but what takes too much memory here must not go there."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        if "allocat" in str(error):  # so says the library
            raise MemoryError from error


def walk(node: Any, seen: set[Any], depth: int = 0) -> None:
    """Look at all attributes, groups and small data sets."""
    import h5py

    with tolerant():
        key = h5py.h5o.get_info(node.id).addr
        if key in seen or depth > MAX_DEPTH or len(seen) > MAX_NODES:
            return
        seen.add(key)
    for name in _names(node.attrs):
        with tolerant():
            node.attrs[name]
    if isinstance(node, h5py.Dataset):
        with tolerant():
            plain = node.dtype.kind == "f" and not node.external and not node.is_virtual and node.chunks is None
            if plain and node.nbytes <= MAX_BYTES:
                node[()]
        return
    for name in _names(node):
        with tolerant():
            if isinstance(node.get(name, getlink=True), h5py.HardLink):
                walk(node[name], seen, depth + 1)


def _names(collection: Any) -> list[str]:
    with tolerant():
        return list(collection)
    return []


def _limit(size: int) -> None:
    with contextlib.suppress(ImportError, ValueError, OSError):  # Windows has no such limits
        import resource
        import time

        seconds = int(time.process_time()) + SECONDS + size // 100_000_000
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
        with open("/proc/self/statm", encoding="ascii") as file:
            now = int(file.read().split()[0]) * resource.getpagesize()
        most = now + (MEBIBYTES << 20) + 2 * size
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def main() -> None:
    """Ends with 0 if the library survives."""
    import os

    import h5py

    data = sys.stdin.buffer.read() if sys.argv[1] == "-" else b""
    _limit(len(data) or os.path.getsize(sys.argv[1]))
    with tolerant(), h5py.File(io.BytesIO(data) if data else sys.argv[1], "r") as root:
        walk(root, set())
    os._exit(0)  # without the library's own end, in which damaged objects are met once more


if __name__ == "__main__":
    main()
