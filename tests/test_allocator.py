"""Memory that lives from step to step: kept inside fit, given back after it, and only where it is ours to decide."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import minicnn
from minicnn.layers import Conv2D, Dense, Flatten, Input
from minicnn.training import allocator

ROOT = Path(__file__).resolve().parents[1]
glibc = pytest.mark.skipif(allocator._glibc() is None, reason="Linux with glibc, its options not set from outside")


class Library:
    """Takes down what it is told."""

    def __init__(self):
        self.options, self.trims = {}, 0

    def mallopt(self, option, value):
        self.options[option] = value

    def malloc_trim(self, pad):
        self.trims += 1


@pytest.fixture
def library(monkeypatch):
    library = Library()
    monkeypatch.setattr(allocator, "_glibc", lambda: library)
    return library


def test_it_is_set_and_undone(library):
    with minicnn.keep_memory():
        assert library.options == allocator.KEPT and not library.trims
    assert library.options == allocator.USUAL | allocator.KEPT | allocator.USUAL and library.trims == 1


def test_only_the_last_user_undoes_it(library):
    ready, go = threading.Barrier(2), threading.Event()

    def other():
        with minicnn.keep_memory():
            ready.wait()
            go.wait()

    thread = threading.Thread(target=other)
    thread.start()
    with minicnn.keep_memory():
        ready.wait()
    assert library.options == allocator.KEPT and not library.trims
    go.set()
    thread.join()
    assert library.options[allocator.MMAP_MAX] > 0 and library.trims == 1


def test_an_error_undoes_it_too(library):
    with pytest.raises(ValueError, match="lost"), minicnn.keep_memory():
        raise ValueError("lost")
    assert library.options[allocator.MMAP_MAX] > 0 and library.trims == 1


def test_fit_keeps_it_and_callbacks_see_it_kept(library):
    seen = []

    class Look(minicnn.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append((dict(library.options), library.trims))

    model = minicnn.Sequential([Input((4, 4, 1)), Conv2D(2, 3), Flatten(), Dense(2, activation="softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(np.zeros((4, 4, 4, 1), "float32"), np.zeros(4, int), epochs=2, verbose=0, callbacks=[Look()])
    assert seen == [(allocator.KEPT, 0)] * 2 and library.trims == 1


@pytest.mark.parametrize(("name", "value"), [("MALLOC_ARENA_MAX", "2"), ("GLIBC_TUNABLES", "glibc.malloc.check=0")])
def test_what_the_environment_says_holds(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    assert allocator._glibc.__wrapped__() is None


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(allocator.platform, "libc_ver", lambda: ("", ""))
    assert allocator._glibc.__wrapped__() is None
    monkeypatch.setattr(allocator, "_glibc", lambda: None)
    with minicnn.keep_memory():
        pass


@glibc
def test_pages_are_not_cleared_anew_and_come_back_at_the_end():
    """In a process of its own: 8 arrays of 8 MB, 10 times. Each is 2,000 pages of 4 KiB."""
    script = """if True:
    import resource, numpy as np, minicnn
    def faults(kept=lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt):
        before = kept()
        for _ in range(10):
            arrays = [np.ones(2_000_000, "float32") for _ in range(8)]
            del arrays
        return kept() - before
    def resident():
        return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
    with minicnn.keep_memory():
        faults()
        kept, held = faults(), resident()
    returned = held - resident()
    print(kept, faults(), returned)
    """
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    kept, usual, returned = map(int, told.stdout.split())
    assert kept < 1000 < usual and returned > 50e6
