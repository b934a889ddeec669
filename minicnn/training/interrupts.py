"""Ctrl-C in the middle of a training step waits until the step is done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Interrupts:
    """What Ctrl-C does for the length of a `with` block: it comes at once, but not inside `waiting()`.

        with Interrupts() as interrupts:
            while …:
                with interrupts.waiting():      KeyboardInterrupt is raised at the end of this block
                    …

    So no parameter is ever left half updated, and weights, optimizer and count of steps belong together. A second
    Ctrl-C does not wait. Where the program handles SIGINT in its own way, or this is not the main thread (which alone
    receives it), nothing is changed.
    """

    def __enter__(self) -> Interrupts:
        self.inside, self.came = False, False
        self.before: Any = None  # the handler that this one stands for; None: nothing is changed
        if threading.current_thread() is threading.main_thread():
            before = signal.getsignal(signal.SIGINT)
            outer = getattr(before, "__self__", None)
            waits = isinstance(outer, Interrupts) and not outer.inside  # one that is inside raises it at its own end
            if before is signal.default_int_handler or waits:
                self.before = before
                signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        if self.before is not None and signal.getsignal(signal.SIGINT) == self._note:
            signal.signal(signal.SIGINT, self.before)

    def _note(self, number: int, frame: Any) -> None:
        if self.came or not self.inside:
            signal.default_int_handler(number, frame)
        self.came = True

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """A block that Ctrl-C does not tear apart."""
        self.inside = True
        try:
            yield
        finally:
            self.inside = False
            if self.came:
                self.came = False
                raise KeyboardInterrupt


@contextmanager
def interrupts_wait() -> Iterator[None]:
    """A single block that Ctrl-C does not tear apart: KeyboardInterrupt is raised at its end. See Interrupts."""
    with Interrupts() as interrupts, interrupts.waiting():
        yield
