"""What is shown while a model works: one bar for an epoch, counting images, and one line after it."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from time import perf_counter
from typing import Any

from minicnn.errors import InputError, visible
from minicnn.training.interrupts import interrupts_wait

Logs = Mapping[str, Any]

REDRAW_SECONDS = 0.1  # the bar is drawn at most this often: a step must not pay for being watched


class ProgressBar:
    """Progress of one epoch of `fit`, or of `evaluate` or `predict`.

    total_images, steps: how many images and batches will come; None if unknown. epoch: counted from 0, as in
    callbacks, and shown from 1. label: shown instead of "Epoch 1/5". verbose, as in Keras: 0 nothing; 1 or
    "auto" a bar and then one line; 2 that line only. A bar needs a terminal or a notebook. done: images and batches
    that an earlier run has had; they are counted, but not in the rate.
    """

    def __init__(
        self,
        total_images: int | None = None,
        steps: int | None = None,
        epoch: int = 0,
        epochs: int = 1,
        verbose: str | int = "auto",
        label: str | None = None,
        done: tuple[int, int] = (0, 0),
    ):
        check_verbose(verbose)
        self.label = label or f"Epoch {epoch + 1}/{epochs}"
        self.steps = steps
        self.images, self.batches = done
        self._first = self.images
        self._shown = verbose != 0
        self._bar: Any = None
        if verbose in ("auto", 1) and (_in_notebook() or _is_terminal(sys.stdout)):
            self._bar = self._open_bar(total_images)
        self._start = self._now = perf_counter()
        self._next_draw = math.inf if self._bar is None else self._start

    def _open_bar(self, total_images: int | None) -> Any:
        from tqdm.auto import tqdm

        # The least important comes last: a narrow terminal cuts it off.
        known, unknown = "{desc} |{bar}| {n_fmt}/{total_fmt} img{postfix}", "{desc} {n_fmt} img{postfix}"
        bar_format = unknown if total_images is None else known
        class Bar(tqdm):
            monitor_interval = 0  # no thread that looks after bars that are not drawn: these are

        return Bar(total=total_images, desc=self.label, file=sys.stdout, dynamic_ncols=True, bar_format=bar_format)

    def _rate(self) -> float:
        return (self.images - self._first) / max(self._now - self._start, 1e-9)

    def update(self, images: int, logs: Logs | Callable[[], Logs] | None = None) -> None:
        """Count one batch of so many images.

        logs: name -> value, or a function that returns that; looked at only when the bar is drawn, at most
        ten times a second.
        """
        self.images += images
        self.batches += 1
        self._now = perf_counter()
        if self._now >= self._next_draw:
            self._next_draw = self._now + REDRAW_SECONDS
            self._draw(logs() if callable(logs) else logs)

    def _draw(self, logs: Logs | None) -> None:
        bar = self._bar
        items = [*_items(logs), f"{self._rate():.0f} img/s"]
        if bar.total is not None and self.images > self._first:
            items.append(bar.format_interval(max(0, bar.total - self.images) / self._rate()) + " left")
        items.append(f"batch {self.batches}/{self.steps}" if self.steps else f"batch {self.batches}")
        bar.n = self.images
        bar.set_postfix_str(" ".join(items), refresh=False)
        bar.refresh()

    def finish(self, logs: Logs | None = None) -> None:
        """Put one line in the place of the bar: time and rate of the batches, all final values."""
        shown = self._shown
        if self._bar is not None:
            self._bar.leave = False
        self.close()
        if shown:
            seconds, rate = self._now - self._start, self._rate()
            speed = f"{self.images - self._first} images in {seconds:.1f} s ({rate:.0f} img/s)"
            print(visible("  ".join([self.label, speed, *_items(logs)])), flush=True)

    def close(self) -> None:
        """End the bar where it is, and say nothing more. May be called more than once."""
        self._shown = False
        self._next_draw = math.inf
        if self._bar is not None:
            self._bar.close()
            self._bar = None


@contextmanager
def progress_bar(*arguments: Any, **options: Any) -> Iterator[ProgressBar]:
    """A ProgressBar that is closed whatever ends the block; also Ctrl-C while it is being drawn."""
    bar = None
    try:
        with interrupts_wait():
            bar = ProgressBar(*arguments, **options)
        yield bar
    finally:
        if bar is not None:
            bar.close()


def check_verbose(verbose: Any) -> None:
    """InputError unless it is one of those that ProgressBar knows."""
    if verbose not in ("auto", 0, 1, 2):
        raise InputError(
            "verbose",
            problem="this is no verbosity.",
            expected='"auto", 0 (silent), 1 (a bar) or 2 (one line an epoch).',
            received=f"{verbose!r}.",
            fix='leave it at "auto".',
        )


def _items(logs: Logs | None) -> list[str]:
    return [f"{visible(name)} {_number(value)}" for name, value in (logs or {}).items()]


def _number(value: Any) -> str:
    """Four decimals, or four digits where those would show next to nothing."""
    value = float(value)
    return f"{value:.4f}" if value == 0 or abs(value) >= 1e-3 else f"{value:.4e}"


def _is_terminal(stream: Any) -> bool:
    """Whether a bar can be drawn there. A terminal said to be 0 columns wide would show nothing of it."""
    if stream is None or not stream.isatty():
        return False
    try:
        return os.get_terminal_size(stream.fileno()).columns > 0
    except OSError:  # no real file behind it, as in some editors' consoles
        return True


def _in_notebook() -> bool:
    """Whether this is a Jupyter or Colab kernel: then IPython is loaded already."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return shell is not None and "IPKernelApp" in shell.config
