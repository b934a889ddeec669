"""The clocks of `minicnn.profile()`: where a step, a run and the threads say what they are doing.

    with stage("waiting for threads"): …        counts the time of the block under this name
    Clock                                       observes every walk: each layer's forward and backward, loss, optimizer
    for x, y in each("data", batches): …        counts the time until the next batch is there
    with run("fit", model, threads): …          one call of fit, evaluate or predict

While no profile is running, each of these is one look at `_recorder`, and nothing else. While one is, spans of time
nest: what is inside another span counts as its own, and no more as the outer one's. So the times of all spans add up to
the time that the threads were at work. Each thread writes on a track of its own: no lock in the way of a step.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from time import perf_counter
from typing import Any

import numpy as np

from minicnn.backend import Array, xp_of
from minicnn.errors import InputError
from minicnn.layers.base import Layer
from minicnn.layers.context import Context
from minicnn.layers.walk import Node, Observer, observe_all

POOL_NAME = "minicnn"  # how the threads of a run are named: minicnn_0, minicnn_1, …
MAX_EVENTS = 200_000  # single spans that are kept for the exported trace; beyond them only the sums go on

_NOTHING: AbstractContextManager[None] = nullcontext()
_recorder: Recorder | None = None


class Total:
    """What all spans of one name add up to. seconds: without the spans inside them. flops, bytes: by phase as well."""

    def __init__(self) -> None:
        self.calls, self.seconds, self.flops, self.bytes = 0, 0.0, 0, 0


class Track:
    """The spans of one thread. events: (name, phase, start, seconds) of each. open: those that have not ended.

    busy: the seconds that lie in any span.
    """

    def __init__(self, thread: str):
        self.thread, self.busy = thread, 0.0
        self.totals: dict[tuple[Any, str], Total] = {}
        self.events: list[tuple[Any, str, float, float]] = []
        self.open: list[Span] = []


class Recorder:
    """All tracks of one profile. Its spans are named by a stage's name, or by a layer's id: see `layers`."""

    def __init__(self) -> None:
        self.tracks: list[Track] = []
        self.layers: dict[int, tuple[str, Layer]] = {}  # id -> key in its model; and the layer, or its id might go
        self.offered = 0.0  # seconds of the threads beside the calling one, while runs had them
        self.dropped = 0
        self.threads = 1
        self._macs: dict[tuple[int, Any], int] = {}
        self._local, self._lock = threading.local(), threading.Lock()

    def track(self) -> Track:
        """This thread's."""
        track = getattr(self._local, "track", None)
        if track is None:
            track = self._local.track = Track(threading.current_thread().name)
            with self._lock:
                self.tracks.append(track)
        return track

    def key(self, node: Node) -> int:
        """The name of this node's spans: what a plan has made counts for the model's layer that it replaces."""
        layer = node.replaces or node.layer
        if id(layer) not in self.layers:
            with self._lock:
                self.layers.setdefault(id(layer), (node.key, layer))
        return id(layer)

    def macs(self, node: Node, input_shape: Any) -> int:
        key = self.key(node), input_shape
        if key not in self._macs:
            self._macs[key] = node.layer.macs(input_shape)
        return self._macs[key]


class Span:
    """A `with` block whose time is counted under a name. calls, flops, bytes: what the block adds to those sums."""

    def __init__(self, recorder: Recorder, name: Any, phase: str = "", calls: int = 1):
        self.recorder, self.name, self.phase, self.calls = recorder, name, phase, calls
        self.inner = self.seconds = 0.0
        self.flops = self.bytes = 0

    def __enter__(self) -> Span:
        self.track = self.recorder.track()
        self.track.open.append(self)
        self.start = perf_counter()
        return self

    def __exit__(self, *exception: object) -> None:
        self.seconds = perf_counter() - self.start
        track = self.track
        track.open.pop()
        if track.open:
            track.open[-1].inner += self.seconds
        else:
            track.busy += self.seconds
        total = track.totals.setdefault((self.name, self.phase), Total())
        total.calls += self.calls
        total.seconds += self.seconds - self.inner
        total.flops += self.flops
        total.bytes += self.bytes
        if len(track.events) < MAX_EVENTS:
            track.events.append((self.name, self.phase, self.start, self.seconds))
        else:
            self.recorder.dropped += 1


class Clock(Observer):
    """Times what stands inside it: each layer forward and backward, the loss, the optimizer's step."""

    def __init__(self, recorder: Recorder, inner: Observer):
        super().__init__(inner)
        self.recorder = recorder

    def forward(self, i: int, node: Node, x: Any, ctx: Context) -> Array:
        layer, shape = node.layer, _sample_shape(x)
        with Span(self.recorder, self.recorder.key(node), "forward") as span:
            y = super().forward(i, node, x, ctx)
            _wait_for(y)
            span.flops = 2 * len(y) * self.recorder.macs(node, shape)
            parts = x if layer.merges else [x]
            if layer.merges or not _is_view(x, y):
                span.bytes = sum(part.nbytes for part in parts) + y.nbytes + _param_bytes(layer)
        ctx.profiled_shape = shape  # for the backward pass
        ctx.profiled_bytes = sum(part.nbytes for part in parts)
        return y

    def backward(self, i: int, node: Node, dy: Array, ctx: Context) -> Any:
        with Span(self.recorder, self.recorder.key(node), "backward") as span:
            dx = super().backward(i, node, dy, ctx)
            parts = dx if node.layer.merges else [dx]
            for part in parts:
                _wait_for(dy if part is None else part)
            shape = vars(ctx).get("profiled_shape")
            if shape is None:  # the profile began between the two passes
                return dx
            products = 2 if ctx.need_dx else 1  # dw, and where it is asked for dx: each as much work as y was
            span.flops = products * 2 * len(dy) * self.recorder.macs(node, shape)
            if not all(_is_view(dy, part) for part in parts):
                span.bytes = dy.nbytes + (1 + ctx.need_dx) * ctx.profiled_bytes + 2 * _param_bytes(node.layer)
        return dx

    def loss(self, compute: Callable[[], Any]) -> Any:
        with Span(self.recorder, "loss and metrics"):
            return super().loss(compute)

    def update(self, grads: Any, compute: Callable[[], Any]) -> Any:
        with Span(self.recorder, "optimizer"):
            return super().update(grads, compute)


def _param_bytes(layer: Layer) -> int:
    return sum(p.nbytes for p in layer.params.values())


def _sample_shape(x: Any) -> Any:
    """Of one sample: a shape; of a merging layer's inputs a list of them."""
    return tuple(part.shape[1:] for part in x) if isinstance(x, list) else x.shape[1:]


def stage(name: str) -> AbstractContextManager[Any]:
    """A `with` block whose time counts as `name`."""
    recorder = _recorder
    return _NOTHING if recorder is None else Span(recorder, name)


def each(name: str, items: Iterable[Any]) -> Iterable[Any]:
    """The items; the time until each of them is there counts as `name`."""
    recorder = _recorder
    return items if recorder is None else _each(recorder, name, items)


def _each(recorder: Recorder, name: str, items: Iterable[Any]) -> Iterator[Any]:
    iterator, end = iter(items), object()
    while True:
        with Span(recorder, name):
            item = next(iterator, end)
        if item is end:
            return
        yield item


def run(name: str, model: Any, threads: int) -> AbstractContextManager[Any]:
    """One call of fit, evaluate or predict, which may use so many threads."""
    recorder = _recorder
    return _NOTHING if recorder is None else _Run(recorder, name, model, threads)


class _Run(Span):
    """The span of a run: its own time is what Python needs between the stages."""

    def __init__(self, recorder: Recorder, name: str, model: Any, threads: int):
        super().__init__(recorder, name, "run")
        self.threads = threads
        for key, layer in model.layers_by_key.items():
            recorder.layers[id(layer)] = key, layer

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)
        if not any(isinstance(span, _Run) for span in self.track.open):  # inside a fit, that one's threads count
            self.recorder.offered += (self.threads - 1) * self.seconds
            self.recorder.threads = max(self.recorder.threads, self.threads)


def carried(f: Callable[..., Any]) -> Callable[..., Any]:
    """f, as other threads shall run it: what it does there counts under the name that counts here and now."""
    recorder = _recorder
    if recorder is None or not recorder.track().open:
        return f
    here = recorder.track().open[-1]

    def g(*args: Any) -> Any:
        with Span(recorder, here.name, here.phase, calls=0):
            return f(*args)

    return g


def _is_view(a: Array, b: Array | None) -> bool:
    """Whether b is only another look at a, as Flatten gives it: then nothing was read or written.

    A layer that wrote its result over a returns a itself: that was work.
    """
    return b is not None and b is not a and _owner(a) is _owner(b)


def _owner(a: Array) -> Array:
    base = getattr(a, "base", None)
    return a if base is None else base


def _wait_for(y: Array) -> None:
    """A GPU works while Python goes on: without waiting, a layer's time would be counted as that of another one."""
    xp = xp_of(y)
    if xp is not np:
        xp.cuda.get_current_stream().synchronize()


def is_running() -> bool:
    """Whether a profile is being made."""
    return _recorder is not None


def start(recorder: Recorder) -> None:
    """Let every thread write on this recorder. Raises InputError while another one is at work."""
    global _recorder
    if _recorder is not None:
        raise InputError(
            "profile", "another profile is running.", "one at a time in a process.", "a second one inside the first.",
            "leave the first `with minicnn.profile()` block before.",
        )  # fmt: skip
    _recorder = recorder
    observe_all(lambda inner: Clock(recorder, inner))


def stop() -> None:
    global _recorder
    _recorder = None
    observe_all(None)
