"""Where the time of training goes, layer by layer.

    with minicnn.profile() as p:
        model.fit(x, y, epochs=1)
    print(p)                    a table: forward and backward time of each layer, and of everything else
    p.rows                      the same, to compute with
    p.save("trace.json")        every single span, for https://ui.perfetto.dev or chrome://tracing

The clocks are in `minicnn/training/profiling.py`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from minicnn import html
from minicnn.arguments import in_words
from minicnn.errors import InputError, visible
from minicnn.files import atomic_write
from minicnn.training import profiling
from minicnn.training.profiling import Recorder, Total, Track

BETWEEN, IDLE, OUTSIDE = "Python in between", "idle threads", "outside minicnn"

HEAD = ["", "calls", "forward", "backward", "together", "share", "GFLOP/s", "GB/s"]
NOTES = {
    "waiting for threads": "one thread was done before the other",
    BETWEEN: "what stands between the stages above",
    IDLE: "only one thread had work",
    OUTSIDE: "your own code in the block",
}


@dataclass(frozen=True)
class Row:
    """What one layer, or one stage of the work, took in all.

    name: the layer's key in its model ("vgg16/block1_conv1"), or the stage's name. kind: the layer's class; "" of a
    stage. calls: how often it ran (of a layer: forward). seconds: summed over all threads; forward and backward: a
    layer's two ways. share: of the time of all threads; the shares of all rows add up to 1.
    flops: 2 for each multiply-accumulate of a matrix product, as if it were computed straight from its definition;
    backward counts dw, and dx where it was asked for. bytes: what must be read and written at the least, each array
    once: forward x, parameters, y; backward dy, x, parameters, dx, gradients; 0 for a mere view, such as Flatten's.
    Both summed over all calls.
    """

    name: str
    kind: str
    calls: int
    seconds: float
    forward: float
    backward: float
    share: float
    flops_forward: int
    flops_backward: int
    bytes: int

    @property
    def flops(self) -> int:
        return self.flops_forward + self.flops_backward

    @property
    def gflops(self) -> float:
        """10^9 operations a second, of one thread: forward and backward together."""
        return self.flops / self.seconds / 1e9 if self.seconds else 0.0


@in_words
class profile:  # noqa: N801 - used like a function
    """A `with` block in which minicnn takes the time of all that it does in this process, in any thread.

    After the block: print it, look at `rows`, or `save` the trace. wall: seconds from its begin to its end. threads:
    the most that a run used. Raises InputError inside another such block. A layer that runs on a GPU is waited for, so
    that its time is its own; the whole is slower meanwhile.
    """

    def __init__(self) -> None:
        self._recorder = Recorder()
        self._begin: float | None = None
        self._end: float | None = None

    def __enter__(self) -> profile:
        if self._begin is not None:
            raise InputError(
                "profile", "this one was used already.", "a new one for each block.", "the same object again.",
                "write `with minicnn.profile() as p:`.",
            )  # fmt: skip
        profiling.start(self._recorder)
        self._track = self._recorder.track()
        self._begin = perf_counter()
        return self

    def __exit__(self, *exception: object) -> None:
        self._end = perf_counter()
        profiling.stop()

    @property
    def wall(self) -> float:
        if self._begin is None or self._end is None:
            raise InputError(
                "profile", "there is nothing to show yet.", "a block that has ended.",
                "a profile that has not begun." if self._begin is None else "one that is still running.",
                "write `with minicnn.profile() as p:`, and look at p after the block.",
            )  # fmt: skip
        return self._end - self._begin

    @property
    def threads(self) -> int:
        return self._recorder.threads

    @property
    def thread_seconds(self) -> float:
        """The time of all threads: the wall time of the block, and that of the other threads while a run had them."""
        return self.wall + max(self._recorder.offered, self._others_busy())

    def _others_busy(self) -> float:
        return sum(track.busy for track in self._recorder.tracks if track is not self._track)

    @property
    def rows(self) -> list[Row]:
        """A row for each layer, in the model's order, then one for each stage. Their times make up `thread_seconds`."""
        totals = self._totals()
        rows = [self._layer_row(totals, key) for key in self._recorder.layers if (key, "forward") in totals
                or (key, "backward") in totals]  # fmt: skip
        stages = {name: total for (name, phase), total in totals.items() if phase == ""}
        runs = [total for (_, phase), total in totals.items() if phase == "run"]
        if runs:
            stages[BETWEEN] = _sum(runs)
        waiting = stages.pop("waiting for threads", None)
        if waiting is not None:
            stages["waiting for threads"] = waiting  # last: it is no work
        rows += [self._row(name, "", total.calls, total.seconds) for name, total in stages.items()]
        idle = self._recorder.offered - self._others_busy()
        outside = self.wall - self._track.busy
        rows += [self._row(name, "", 0, seconds) for name, seconds in ((IDLE, idle), (OUTSIDE, outside)) if seconds > 0]
        return rows

    def _totals(self) -> dict[tuple[Any, str], Total]:
        """The sums of all threads."""
        parts: dict[tuple[Any, str], list[Total]] = {}
        for track in self._recorder.tracks:
            for name, total in track.totals.items():
                parts.setdefault(name, []).append(total)
        return {name: _sum(totals) for name, totals in parts.items()}

    def _layer_row(self, totals: dict[tuple[Any, str], Total], key: int) -> Row:
        name, layer = self._recorder.layers[key]
        forward, backward = (totals.get((key, phase), Total()) for phase in ("forward", "backward"))
        return self._row(
            name, type(layer).__name__, forward.calls, forward.seconds + backward.seconds, forward.seconds,
            backward.seconds, forward.flops, backward.flops, forward.bytes + backward.bytes,
        )  # fmt: skip

    def _row(
        self, name: str, kind: str, calls: int, seconds: float, forward: float = 0.0, backward: float = 0.0,
        flops_forward: int = 0, flops_backward: int = 0, size: int = 0,
    ) -> Row:  # fmt: skip
        share = seconds / self.thread_seconds if self.thread_seconds else 0.0
        return Row(name, kind, calls, seconds, forward, backward, share, flops_forward, flops_backward, size)

    def __str__(self) -> str:
        rows = self.rows
        lines = [HEAD, *self.cells()]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        layers = sum(1 for row in rows if row.kind)
        head, *table, whole = (_line(cells, widths) for cells in lines)
        rule = "-" * max(map(len, (head, *table, whole)))
        table = [*table[:layers], *([rule] if layers else []), *table[layers:]]
        return visible("\n".join([self.headline, head, rule, *table, rule, whole, "", *_notes(rows)]))

    def _repr_html_(self) -> str | None:
        """The table, which notebooks show; None while the block is running."""
        if self._end is None:
            return None
        return html.page(html.title(self.headline), html.table(HEAD, self.cells(), left=1, total=True))

    def cells(self) -> list[list[str]]:
        """The rows as text, under HEAD, and what they make together."""
        rows = self.rows
        whole = ["all", "", "", "", _ms(sum(row.seconds for row in rows)), "100.0%", "", ""]
        return [*map(_cells, rows), whole]

    @property
    def headline(self) -> str:
        text = f"Profile of {self.wall:.3f} s"
        if self.threads > 1:
            text += f" on {self.threads} threads; times are sums over the threads"
        return text + ". Milliseconds:"

    def save(self, path: str | Path) -> None:
        """Write the single spans as a Chrome trace event file: open it at https://ui.perfetto.dev or chrome://tracing.

        One track for each thread; times in microseconds from the block's begin. Of very long runs, it holds the
        first spans of each thread (minicnn.training.profiling.MAX_EVENTS), and says how many it does not.
        """
        self.wall  # noqa: B018 - raises while the block is still running
        tracks = self._recorder.tracks
        names = list(dict.fromkeys(track.thread for track in tracks))  # a later run's threads have the same names
        events: list[dict[str, Any]] = [
            {"ph": "M", "name": "thread_name", "pid": 1, "tid": i, "args": {"name": name}}
            for i, name in enumerate(names)
        ]
        for track in tracks:
            events += self._events(track, names.index(track.thread))
        record = {
            "traceEvents": events, "displayTimeUnit": "ms",
            "otherData": {"made by": "minicnn.profile()", "spans left out": self._recorder.dropped},
        }  # fmt: skip
        with atomic_write(path) as file:
            file.write(json.dumps(record).encode())

    def _events(self, track: Track, thread: int) -> list[dict[str, Any]]:
        begin = self._begin or 0.0
        events = []
        for name, phase, start, seconds in track.events:
            if phase in ("forward", "backward"):
                name, category = f"{self._recorder.layers[name][0]} {phase}", phase
            else:
                category = phase or "stage"
            events.append({"name": name, "cat": category, "ph": "X", "pid": 1, "tid": thread,
                           "ts": round((start - begin) * 1e6, 3), "dur": round(seconds * 1e6, 3)})  # fmt: skip
        return events


def _sum(totals: list[Total]) -> Total:
    whole = Total()
    for total in totals:
        whole.calls += total.calls
        whole.seconds += total.seconds
        whole.flops += total.flops
        whole.bytes += total.bytes
    return whole


def _cells(row: Row) -> list[str]:
    name = f"{row.name} ({row.kind})" if row.kind else row.name
    ways = [_ms(row.forward), _ms(row.backward) if row.backward else ""] if row.kind else ["", ""]
    rates = [f"{row.gflops:.1f}" if row.flops else "", f"{row.bytes / row.seconds / 1e9:.1f}" if row.bytes else ""]
    return [name, f"{row.calls}" if row.calls else "", *ways, _ms(row.seconds), f"{row.share:.1%}", *rates]


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:,.1f}"


def _line(cells: list[str], widths: list[int]) -> str:
    first, *rest = (c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True)))
    return "  ".join([first, *rest]).rstrip()


def _notes(rows: list[Row]) -> list[str]:
    """What the less obvious rows mean, where they are there; and how the rates are counted."""
    stages = {row.name for row in rows if not row.kind}
    notes = [f"{name}: {text}" for name, text in NOTES.items() if name in stages]
    notes.append("GFLOP/s, GB/s: of one thread; products counted as defined, each array read or written once")
    return notes
