"""Pipes: how the processes of a fit wait for each other. What they say: `minicnn/training/processes.py`.

Who waits looks again and again for a short time, since most waits end within microseconds, and to be woken from sleep
costs more; then it sleeps, and now and then looks whether the others are still there.
"""

from __future__ import annotations

import os
import select
import struct
from collections.abc import Callable
from time import perf_counter

SPIN = 2e-4  # seconds of looking again and again
LOOK = 0.5  # seconds of sleep between two looks at the others


class LostError(Exception):
    """Another process has ended or does not answer. The text goes on after "a process"."""


class Pipe:
    """Bytes from one process to another. Opened before a fork, so both have both ends; neither end ever blocks.

    look: called now and then with the seconds for which one has waited in vain. It raises LostError when there is
    nobody left to wait for. The time for which this process was stopped (Ctrl-Z) does not count.
    """

    def __init__(self, look: Callable[[float], None]):
        self.reader, self.writer = os.pipe()
        self.look = look
        for end in (self.reader, self.writer):
            os.set_blocking(end, False)

    def close(self) -> None:
        for end in (self.reader, self.writer):
            os.close(end)

    def ring(self) -> None:
        """A byte, which says that one is there."""
        self._write(b".")

    def send(self, text: str) -> None:
        """A text. Raises LostError."""
        data = text.encode()
        self._write(struct.pack("<I", len(data)) + data)

    def receive(self) -> str:
        """A text. Raises LostError."""
        (length,) = struct.unpack("<I", self.read(4))
        return self.read(length).decode()

    def read(self, n: int) -> bytes:
        """n bytes. Raises LostError."""
        data, start, waited = b"", perf_counter(), 0.0
        while len(data) < n:
            try:
                some = os.read(self.reader, n - len(data))
            except BlockingIOError:
                if perf_counter() - start > SPIN:
                    waited = self._sleep(self.reader, select.POLLIN, waited)
                continue
            if not some:
                raise LostError("has ended")  # all who could write have closed their end
            data += some
        return data

    def _write(self, data: bytes) -> None:
        waited = 0.0
        while data:
            try:
                data = data[os.write(self.writer, data) :]
            except BlockingIOError:  # full: the other one has not read it yet
                waited = self._sleep(self.writer, select.POLLOUT, waited)

    def _sleep(self, end: int, event: int, waited: float) -> float:
        """Until something can be read there, or written; or LOOK seconds have gone. How long one has waited by then."""
        poll = select.poll()
        poll.register(end, event)
        if poll.poll(LOOK * 1000):
            return waited
        self.look(waited + LOOK)
        return waited + LOOK
