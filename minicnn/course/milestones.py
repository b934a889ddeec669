"""The milestones: a real network, trained with the learner's own functions in the place of the framework's kernels."""

from __future__ import annotations

import contextlib
import textwrap
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minicnn.callbacks import Callback
from minicnn.course import checking, cut, files, plug
from minicnn.errors import InputError, unknown_name

BATCH = 16  # few images a step: functions that are plain loops still make many steps

# Of functions that do the same, the one on the right is used where the learner has it; "": the one on the left never is
# (F(2, 3) along rows, in NumPy, takes more memory than it saves products).
LEFT_OUT = {
    "conv2d_forward": "conv2d_product",
    "im2col": "conv2d_product",
    "col2im": "conv2d_dx",
    "conv2d_dx": "conv2d_dx_turned",
    "softmax_backward": "softmax_cross_entropy_backward",
    "winograd_f23": "",
    "sgd_step": "adam_step",
    "momentum_step": "adam_step",
}


@dataclass(frozen=True)
class Milestone:
    """load() -> ((x, y), (x_test, y_test)). seconds: it stops then, wherever it is; None: after the epochs.

    For functions that are plain loops, small images, few filters and a stride make a network that learns in time.
    """

    title: str
    load: Callable[[], Any]
    epochs: int
    seconds: float | None = None
    shrink: int = 1  # so many pixels by so many become one, their mean
    filters: tuple[int, int] = (8, 16)
    stride: int = 1  # of the first convolution
    rate: float = 0.002  # Adam's


def _toy() -> Any:
    from minicnn.datasets import toy

    return toy.load_data()


def _fashion_mnist() -> Any:
    from minicnn.datasets import fashion_mnist

    return fashion_mnist.load_data()


def _cifar10() -> Any:
    from minicnn.datasets import cifar10

    return cifar10.load_data()


MILESTONES = {
    "toy": Milestone(
        "ten kinds of clothes, drawn by code; at most 30 seconds, nothing to download",
        _toy, 20, seconds=30.0, shrink=2, filters=(6, 12), stride=2, rate=0.01,
    ),
    "fashion-mnist": Milestone("60,000 photographs of clothes (a download of 30 MB)", _fashion_mnist, 1),
    "cifar-10": Milestone("50,000 colour photographs (a download of 170 MB)", _cifar10, 1),
}


def run(name: str, folder: Path, images: int | None = None, seconds: float | None = None) -> int:
    """Train, and print how well it works and where the time went. Returns 1 where a function is not right yet."""
    if name not in MILESTONES:
        raise unknown_name("network to run", name, MILESTONES)
    if images is not None and images < BATCH:
        raise InputError(
            "--images", "that is less than one batch.", f"{BATCH} or more.", f"{images}.", "for example 1000."
        )
    milestone = MILESTONES[name]
    states = checking.states(folder)
    broken = [function for function, state in states.items() if state == "not right yet"]
    if broken:
        print(f"Not right yet: {', '.join(broken)}. Mend it first: python -m minicnn course check {broken[0]}")
        return 1
    mine = _load([function for function, state in states.items() if state == "passed"], folder)
    used = {f: call for f, call in mine.items() if LEFT_OUT.get(f) is None or (LEFT_OUT[f] and LEFT_OUT[f] not in mine)}
    if not used:
        print(
            "None of your functions has passed yet, so there is nothing to run. Begin: python -m minicnn course start"
        )
        return 1
    theirs = [function for function in files.PARTS if function not in mine and function not in LEFT_OUT]
    print(_wrapped("Yours", mine))
    print(_wrapped("The framework's", theirs or ["everything else"]))
    data = _data(milestone, images)
    times: dict[str, float] = dict.fromkeys(used, 0.0)
    _train(milestone, data, used, times, seconds or milestone.seconds)
    return 0


def _wrapped(title: str, names: Iterable[str]) -> str:
    return textwrap.fill(", ".join(names), 110, initial_indent=f"{title + ':':17}", subsequent_indent=" " * 17)


def _load(functions: list[str], folder: Path) -> dict[str, Any]:
    """The learner's functions, each knowing the others: one that imports im2col gets the learner's."""
    found, loaded, modules = files.look(folder), {}, []
    for function in functions:
        path = found[function].path
        names: dict[str, Any] = {"__name__": f"exercise_{function}"}
        exec(compile(files.read(path), str(path), "exec", dont_inherit=True), names)
        loaded[function] = names[function]
        modules.append(names)
    for names in modules:
        names.update({function: call for function, call in loaded.items() if function in names})
    return loaded


def _data(milestone: Milestone, images: int | None) -> Any:
    (x, y), (x_test, y_test) = milestone.load()
    s = milestone.shrink

    def prepared(a: np.ndarray, labels: np.ndarray, count: int | None) -> tuple[np.ndarray, np.ndarray]:
        a = a[:count].reshape(-1, a.shape[1] // s, s, a.shape[2] // s, s, a.shape[3] if a.ndim == 4 else 1)
        return a.mean(axis=(2, 4), dtype=np.float32) / 255, labels.reshape(-1)[:count]

    return prepared(x, y, images), prepared(x_test, y_test, 500)


class _Stop(Callback):
    """Ends the training when the time is over; says how it goes."""

    def __init__(self, seconds: float | None, samples: int):
        super().__init__()
        self.seconds, self.samples, self.begin = seconds, samples, time.perf_counter()
        self.batches, self.said = 0, 0.0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.batches += 1
        passed = time.perf_counter() - self.begin
        if passed > self.said:
            self.said = passed + 5
            scores = "  ".join(f"{name} {value:.3f}" for name, value in (logs or {}).items())
            each = passed / self.batches
            left = (
                "" if self.seconds else f"   about {each * (self.samples / BATCH - batch - 1):.0f} s more in this epoch"
            )
            print(f"  {passed:5.0f} s  {self.batches:5} batches  {scores}{left}", flush=True)
        if self.seconds is not None and passed > self.seconds:
            self.model.stop_training = True
            raise _TimeIsOverError


class _TimeIsOverError(Exception):
    pass


def _train(
    milestone: Milestone, data: Any, used: dict[str, Any], times: dict[str, float], seconds: float | None
) -> None:
    from minicnn.layers import BatchNormalization, Conv2D, Dense, Dropout, Flatten, Input, MaxPooling2D, ReLU
    from minicnn.models import Sequential
    from minicnn.training.shards import get_num_threads, set_num_threads

    (x, y), (x_test, y_test) = data
    first, second = milestone.filters
    plugs = [files.PARTS[name].plug(_timed(name, call, times)) for name, call in used.items()]
    threads = get_num_threads()
    set_num_threads(1)  # so that the times are those of one function after the other
    begin = time.perf_counter()
    try:
        with plug.plugged(*plugs):
            model = Sequential([
                Input(x.shape[1:]), Conv2D(first, 3, strides=milestone.stride, padding="same"),
                BatchNormalization(momentum=0.9), ReLU(), Conv2D(second, 3, padding="same"), ReLU(), MaxPooling2D(2),
                Flatten(), Dropout(0.25), Dense(10, activation="softmax"),
            ])  # fmt: skip
            model.compile(_optimizer(milestone, used), "sparse_categorical_crossentropy", metrics=["accuracy"])
            print(f"\nLearning from {len(x)} images of {x.shape[1]}×{x.shape[2]}:")
            watch = _Stop(seconds, len(x))
            with contextlib.suppress(_TimeIsOverError):
                model.fit(x, y, batch_size=BATCH, epochs=milestone.epochs, verbose=0, callbacks=[watch])
            spent = time.perf_counter() - begin
            in_training = dict(times)
            right = (model.predict(x_test, verbose=0).argmax(axis=1) == y_test).mean()
    finally:
        set_num_threads(threads)
    print(f"\nAfter {watch.batches} batches ({spent:.0f} s): {right:.1%} right of {len(x_test)} images it never saw")
    print("(guessing gives 10 %).\n\nWhere the time went:")
    for name, taken in sorted(in_training.items(), key=lambda item: -item[1]):
        where, _ = cut.place(files.PARTS[name].fast)
        print(f"  {name:32} {taken / spent:5.0%}   the fast one: {where}")
    print(f"  {'everything else':32} {max(0.0, 1 - sum(in_training.values()) / spent):5.0%}")


def _optimizer(milestone: Milestone, used: Iterable[str]) -> Any:
    """The one of which the learner has written the step; Adam, if none."""
    from minicnn.optimizers import SGD, Adam

    if "momentum_step" in used:
        return SGD(0.05, momentum=0.9)
    return SGD(0.1) if "sgd_step" in used else Adam(milestone.rate)


def _timed(name: str, call: Any, times: dict[str, float]) -> Any:
    def timed(*args: Any, **kwargs: Any) -> Any:
        begin = time.perf_counter()
        try:
            return call(*args, **kwargs)
        except Exception as error:
            raise InputError(
                name, "your function stopped in the middle of the training.", "a result.",
                f"{type(error).__name__}: {error}", f"look at python -m minicnn course check {name}.",
            ) from error  # fmt: skip
        finally:
            times[name] += time.perf_counter() - begin

    return timed
