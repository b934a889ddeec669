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
PATIENCE = 60.0  # seconds after which a process that says nothing is taken for lost


class LostError(Exception):
    """Another process has ended or does not answer. The text goes on after "a process"."""


class Pipe:
    """Bytes from one process to another. Opened before a fork, so both have both ends; neither end ever blocks.

    look: called while one waits for long; it raises LostError when there is nobody left to wait for.
    """

    def __init__(self, look: Callable[[], None]):
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

    def receive(self, patience: float = PATIENCE) -> str:
        """A text. Raises LostError where none comes for so many seconds."""
        (length,) = struct.unpack("<I", self.read(4, patience))
        return self.read(length, patience).decode()

    def read(self, n: int, patience: float = PATIENCE) -> bytes:
        """n bytes. Raises LostError."""
        data, start = b"", perf_counter()
        while len(data) < n:
            try:
                data += os.read(self.reader, n - len(data))
            except BlockingIOError:
                waited = perf_counter() - start
                if waited > patience:
                    raise LostError(f"has not answered for {patience:.0f} seconds") from None
                if waited > SPIN:
                    self._sleep(self.reader, select.POLLIN)
        return data

    def _write(self, data: bytes) -> None:
        while data:
            try:
                data = data[os.write(self.writer, data) :]
            except BlockingIOError:  # full: the other one has not read it yet
                self._sleep(self.writer, select.POLLOUT)

    def _sleep(self, end: int, event: int) -> None:
        """Until something can be read there, or written; or LOOK seconds have gone."""
        poll = select.poll()
        poll.register(end, event)
        if not poll.poll(LOOK * 1000):
            self.look()
