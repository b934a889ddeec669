"""The thread that makes batches ahead: order, bounds, errors, endings."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import traceback
from contextlib import closing

import pytest

from minicnn.training.prefetch import prefetched


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def test_all_items_in_their_order():
    assert list(prefetched(range(100))) == list(range(100))
    assert list(prefetched([])) == []
    assert threads() == []


def test_never_more_than_so_many_ahead_of_those_asked_for():
    made, gate = [], threading.Event()

    def items():
        for i in range(10):
            made.append(i)
            if len(made) == 3:
                gate.set()
            yield i

    with closing(prefetched(items(), ahead=2)) as batches:
        assert next(batches) == 0
        assert gate.wait(5)  # 0 is taken; 1 and 2 are made without being asked for
        for count in range(1, 6):
            assert next(batches) == count
            assert len(made) <= count + 1 + 2
    assert len(made) <= 8


def test_an_error_comes_in_its_place_with_its_own_traceback():
    def items():
        yield 1
        yield broken_division(0)

    batches = prefetched(items())
    assert next(batches) == 1
    with pytest.raises(ZeroDivisionError) as caught:
        next(batches)
    assert "broken_division" in "".join(traceback.format_tb(caught.value.__traceback__))
    assert threads() == []


def broken_division(zero):
    return 1 / zero


def test_closing_ends_the_thread_and_leaves_the_rest_to_others():
    source = iter(range(1000))
    with closing(prefetched(source)) as batches:
        assert next(batches) == 0
    assert threads() == []
    assert next(source) <= 4  # 0, two ahead, and one in the making at most


def test_dropping_it_ends_the_thread():
    batches = prefetched(iter(range(1000)))
    next(batches)
    assert len(threads()) == 1
    del batches
    assert threads() == []


def test_a_source_that_waits_for_ever_keeps_no_program_from_ending():
    code = """
import threading
from minicnn.training.prefetch import prefetched

def items():
    yield 1
    threading.Event().wait()

batches = prefetched(items())
print(next(batches))
"""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("1\n", 0)
