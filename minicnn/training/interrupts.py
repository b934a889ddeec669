"""Ctrl-C in the middle of a training step waits until the step is done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def interrupts_wait() -> Iterator[None]:
    """A block that Ctrl-C does not tear apart: KeyboardInterrupt is raised at its end.

    So no parameter is ever left half updated, and weights, optimizer and count of steps belong together. A second
    Ctrl-C does not wait. Where the program handles SIGINT in its own way, or this is not the main thread (which alone
    receives it), nothing is changed.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    came = False

    def note(number: int, frame: Any) -> None:
        nonlocal came
        if came:
            signal.default_int_handler(number, frame)
        came = True

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if came:
            raise KeyboardInterrupt
