"""Is a backward pass right? The check, for kernels, layers and whole models.

A function y = f(x) has a derivative J: a small change v of x changes y by J v. The backward pass receives dy, the
gradient of the loss with respect to y, and must return dx = J^T dy. One equation says what is right, for every v and
every dy:

    <dy, J v>  =  <J^T dy, v>  =  <dx, v>

The left side needs no backward pass: J v is (f(x + h v) - f(x - h v)) / 2h for a small h. Taking for v one element
after the other checks every element of dx. Where there are too many, random directions v check them all at once.

    print(check_layer(Conv2D(4, 3, padding="same", activation="relu"), (6, 5, 3)))

- dy is random. With a dy of ones, errors that cancel in the sum go unseen; and behind batch normalisation or a softmax,
  whose outputs have a fixed sum, the gradient is then exactly 0, so that a backward pass that returns 0 would pass.
  A check that compares nothing but zeros is refused (GradientCheckError).
- All is computed in float64. In float32, rounding leaves f(x + h) - f(x - h) too few correct digits to judge by.
- The relative error |analytic - numeric| / max(|analytic|, |numeric|) of a right backward pass is 1e-10 to 1e-6. From
  1e-2 on it is a bug; in between, look closer. Numbers below 1/1000 of the array's largest drown in rounding: their
  error is measured by that instead.
- At a kink (a ReLU at 0, a maximum that another pixel takes over) there is no derivative. If one lies inside the step,
  the numeric value mixes the slopes of both sides: then smaller steps are tried. Elements for which that does not help
  are counted, said and left out.
- Where the wrong numbers show the pattern of a well-known bug, the report names it (minicnn/gradcheck_hints.py).

The arrays passed in are never changed: everything runs on copies. Once, it also runs in float32, where all results must
be float32; and no pass may write to its inputs or to dy.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from types import EllipsisType
from typing import Any, NamedTuple

import numpy as np

from minicnn import gradcheck_hints, html
from minicnn.arguments import in_words
from minicnn.backend import Array, Device, current_device, move, to_host, xp_of
from minicnn.errors import InputError, visible
from minicnn.layers.base import Layer, Shape
from minicnn.layers.context import Context
from minicnn.layers.core import Dropout
from minicnn.layers.network import Network
from minicnn.layers.walk import Node, backward, forward, new_contexts
from minicnn.objective import Loss, loss_gradient, prepare_targets, sample_losses
from minicnn.training.checks import check_array, check_samples, check_targets

STEP = 1e-5
TOLERANCE = 1e-5


class GradientCheckError(InputError):
    """The check would prove nothing, or cannot be made."""


@dataclass(frozen=True)
class ArrayReport:
    """How one gradient compares. The values are those of the worst element; index is None for a random direction.

    hint: the likely cause where it is wrong and the numbers show a known pattern (minicnn.gradcheck_hints), else "".
    """

    name: str
    shape: Shape
    compared: int
    kinks: int = 0
    error: float = 0.0
    index: Shape | None = None
    analytic: float = 0.0
    numeric: float = 0.0
    verdict: str = "ok"  # or "WRONG", "kinks" (too few elements are left), "zero" (nothing depends on this array)
    hint: str = ""

    @property
    def ok(self) -> bool:
        return self.verdict in ("ok", "zero")


@dataclass
class Report:
    """What a check found.

    arrays: a report for each gradient by its name (dx, dw, db, …). problems: what else is wrong, in sentences.
    """

    title: str
    tolerance: float
    arrays: dict[str, ArrayReport] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems and all(array.ok for array in self.arrays.values())

    def assert_ok(self) -> None:
        """AssertionError, with the whole report, unless everything is right."""
        if not self.ok:
            raise AssertionError(str(self))

    def __str__(self) -> str:
        rows = self.rows
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        parts = [f"Gradient check of {self.title}", *(lines if self.arrays else []), *self.notes, self.verdict]
        return visible("\n".join(parts))

    def _repr_html_(self) -> str:
        """The same as a table, which notebooks show."""
        head, *rows = self.rows
        cells = [[*map(escape, row[:-1]), _verdict(row[-1])] for row in rows]
        table = html.table(head, cells, left=2, escaped=True) if rows else ""
        badge = html.badge("✓", self.verdict, html.GOOD) if self.ok else html.badge("✗", self.verdict, html.BAD)
        title = html.title(f"Gradient check of {self.title}")
        return html.page(title, table, *map(html.line, self.notes), f"<div>{badge}</div>")

    @property
    def rows(self) -> list[tuple[str, ...]]:
        """The table: its head, then a row for each gradient, the verdict last."""
        head = ("gradient", "shape", "compared", "kinks", "worst error", "at", "analytic", "numeric", "verdict")
        return [head, *map(_row, self.arrays.values())]

    @property
    def notes(self) -> list[str]:
        """What is to be said beside the table, in sentences."""
        notes = [f"! {problem}" for problem in self.problems]
        for array in self.arrays.values():
            if array.hint:
                notes.append(f"{array.name}: {array.hint}")
            if array.kinks:
                notes.append(
                    f"{array.name}: {array.kinks} left out: a kink (a ReLU, a maximum that changes) is in the step."
                )
            if array.verdict == "zero":
                notes.append(f"{array.name}: 0 on both sides: the result does not depend on it, nothing is proved.")
        return notes

    @property
    def verdict(self) -> str:
        """All of it in one sentence."""
        if self.ok:
            return f"OK: every gradient agrees within {self.tolerance:.0e}."
        wrong = [array.name for array in self.arrays.values() if not array.ok]
        return "NOT OK" + (f": {', '.join(wrong)} (allowed: {self.tolerance:.0e})." if wrong else ".")


def _verdict(word: str) -> str:
    if word == "ok":
        return html.badge("✓", word, html.GOOD)
    return html.badge("✗", word, html.BAD) if word == "WRONG" else html.badge("?", word, html.UNSURE)


def _row(a: ArrayReport) -> tuple[str, ...]:
    at = "a direction" if a.index is None else str(a.index)
    numbers = (f"{a.error:.1e}", at, f"{a.analytic:+.6e}", f"{a.numeric:+.6e}") if a.compared else ("", "", "", "")
    return (a.name, str(a.shape), str(a.compared), str(a.kinks), *numbers, a.verdict)


# ---- the four checks ----------------------------------------------------------------------------------------------


@in_words
def check_function(
    forward: Callable[..., Array],
    backward: Callable[..., Any],
    inputs: dict[str, Any],
    dy: Array | None = None,
    seed: int = 0,
    max_elements: int = 200,
    step: float = STEP,
    tolerance: float = TOLERANCE,
) -> Report:
    """Check a kernel: y = forward(**inputs), and backward(dy, **inputs) -> the gradients.

    inputs: arrays by argument name, of any float dtype; others (class numbers, masks, None) are passed on as they are.
    backward returns {input name: gradient}, or a tuple with one gradient for each float array in their order; an input
    whose gradient is missing or None is taken as a constant. dy: random unless given. Of larger arrays, `max_elements`
    elements drawn by `seed` are compared. Raises GradientCheckError where the numeric gradient of an array is 0.
    """

    def prepare(dtype: Any) -> _Pass:
        values = {name: v.astype(dtype) if _is_float(v) else v for name, v in inputs.items()}
        arrays = {name: v for name, v in values.items() if _is_float(v)}

        def gradients(dy: Array) -> dict[str, Any]:
            result = backward(dy, **values)
            if not isinstance(result, dict):
                result = result if isinstance(result, (tuple, list)) else (result,)
                if len(result) != len(arrays):
                    raise GradientCheckError(
                        "check_function", "backward returns another number of gradients.",
                        f"{len(arrays)}: one for each of {', '.join(arrays)} (None for a constant).", f"{len(result)}.",
                        "return a dict {input name: gradient}, or wrap backward in a lambda.",
                    )  # fmt: skip
                result = dict(zip(arrays, result, strict=True))
            return {name: gradient for name, gradient in result.items() if gradient is not None}

        return _Pass(arrays, lambda: forward(**values), gradients)

    title = f"{getattr(forward, '__name__', type(forward).__name__)}: {_how(dy)}"
    rates = [inputs["rate"]] if isinstance(inputs.get("rate"), float) else []
    return _check(title, prepare, _elements(max_elements), dy, seed, step, tolerance, rates)


@in_words
def check_loss(
    loss: Any,
    y_true: Any,
    y_pred: Any,
    seed: int = 0,
    max_elements: int = 200,
    step: float = STEP,
    tolerance: float = TOLERANCE,
) -> Report:
    """Check a loss of your own: whether gradient is the derivative of the mean of its values.

    loss: a minicnn.losses.Loss. y_true, y_pred: a small batch as the loss takes them.
    """
    y_true, y_pred = check_array("y_true", y_true), check_array("y_pred", y_pred)
    if not isinstance(loss, Loss):
        raise GradientCheckError(
            "check_loss", "this is no loss.", "an instance of a subclass of minicnn.losses.Loss.", f"{loss!r}.",
            "write the class with values and gradient, and pass an instance of it.",
        )  # fmt: skip

    def forward(y_pred: Array) -> Array:
        return loss.per_sample(prepare_targets(loss, y_true, y_pred), y_pred)

    def backward(dy: Array, y_pred: Array) -> Array:
        gradient = loss.gradient(prepare_targets(loss, y_true, y_pred), y_pred)
        return gradient * (len(y_pred) * dy.reshape(-1, *[1] * (y_pred.ndim - 1))).astype(y_pred.dtype)

    forward.__name__ = type(loss).__name__
    dy = np.full(len(y_pred), 1 / len(y_pred)) if loss.whole_batch else None
    floats = y_pred if y_pred.dtype.kind == "f" else y_pred.astype(np.float64)
    return check_function(forward, backward, {"y_pred": floats}, dy, seed, max_elements, step, tolerance)


@in_words
def check_layer(
    layer: Layer,
    x: Any,
    training: bool = True,
    dy: Array | None = None,
    seed: int = 0,
    max_elements: int = 200,
    step: float = STEP,
    tolerance: float = TOLERANCE,
) -> Report:
    """Check a layer, or a Sequential as one layer: dx, and the gradient of each parameter.

    x: a batch (N, …), or the shape of one sample, of which four are then drawn; for a merging layer a list of batches
    or of shapes: check_layer(Add(), [(4, 5, 3), (4, 5, 3)]). An unbuilt layer is built, as a copy.
    Parameters and state that are all one number (gamma of ones, a bias of zeros) would hide errors: in the copy, random
    numbers are added to them. Random layers draw the same numbers each time. Else as check_function.
    """
    rng, home = np.random.default_rng(seed), _home(layer)
    inputs = list(x) if layer.merges else [x]
    inputs = [move(rng.standard_normal((4, *i)) if isinstance(i, (tuple, list)) else i, home) for i in inputs]
    names = [f"x[{k}]" for k in range(len(inputs))] if layer.merges else ["x"]
    shapes = [i.shape[1:] for i in inputs]

    def prepare(dtype: Any) -> _Pass:
        copied = _copy(layer, shapes if layer.merges else shapes[0], dtype, seed)
        values, ctx = [i.astype(dtype) for i in inputs], Context()

        def run() -> Array:
            nonlocal ctx
            ctx = Context(training, seed=seed)
            return copied.forward(values if layer.merges else values[0], ctx)

        def gradients(dy: Array) -> dict[str, Any]:
            dx = copied.backward(dy, ctx)
            dxs = dx if layer.merges else [dx]
            inside = (ctx.nodes, ctx.contexts) if isinstance(copied, Network) else ([Node(copied, (-1,), "")], [ctx])
            return {**dict(zip(names, dxs, strict=True)), **_collect(*inside)}

        return _Pass({**dict(zip(names, values, strict=True)), **_parameters(copied)}, run, gradients)

    title = f"{layer.name} ({type(layer).__name__}, in {_mode(training)}): {_how(dy)}"
    with home:
        return _check(title, prepare, _elements(max_elements), dy, seed, step, tolerance, _rates(layer))


@in_words
def check_model(
    model: Any,
    x: Array,
    y: Array,
    training: bool = True,
    seed: int = 0,
    directions: int = 4,
    elements: int = 4,
    step: float = STEP,
    tolerance: float = TOLERANCE,
) -> Report:
    """Check a compiled model as it is trained: the gradient of the mean loss (and penalties).

    x (N, …), y: a small batch. Each array is moved along `directions` random directions of length 1, which reach all
    its numbers at once, and in `elements` single numbers. An array on which the loss does not depend (a bias right
    before batch normalisation, which takes it away again) is said, not compared; GradientCheckError if all are so.
    """
    x, y = check_array("x", x), check_array("y", y)
    if model.loss is None:
        raise GradientCheckError(
            "check_model", "the model has no loss.", "a compiled model.", "one that was not compiled.",
            "call model.compile(optimizer, loss) first.",
        )  # fmt: skip

    def prepare(dtype: Any) -> _Pass:
        copied = _copy(model, x.shape[1:], dtype, seed)
        check_samples("x", x, copied.sample_shape, copied.layers[0].name)
        check_targets(model.loss, y, copied.shapes[-1])
        nodes, values = copied.nodes, copied.as_input(x).astype(dtype)
        contexts, y_true, y_pred = [], None, None

        def run() -> Array:
            nonlocal contexts, y_true, y_pred
            contexts = new_contexts(nodes, training, True, seed=seed)
            y_pred = forward(nodes, contexts, values)
            y_true = prepare_targets(model.loss, y, y_pred)
            return sample_losses(model.loss, y_true, y_pred, contexts[-1]) + float(copied.penalty())

        def gradients(_: Array) -> dict[str, Any]:
            backward(nodes, contexts, loss_gradient(model.loss, y_true, y_pred, contexts[-1]))
            found = _collect(nodes, contexts, trained=True)
            for key, leaf in _leaves(copied).items():
                for name, regularizer in leaf.regularizers.items():
                    if regularizer is not None and f"{key}{name}" in found:
                        found[f"{key}{name}"] = found[f"{key}{name}"] + regularizer.gradient(leaf.params[name])
            return found

        return _Pass(_parameters(copied, trained=True), run, gradients)

    def probes(array: Array, rng: np.random.Generator) -> Iterator[_Probe]:
        for _ in range(directions):
            v = rng.standard_normal(array.shape)
            yield ..., xp_of(array).asarray(v / np.linalg.norm(v))
        yield from _elements(elements)(array, rng)

    mean = np.full(len(x), 1 / len(x))  # the loss of the batch is the mean: so much does each sample's loss count
    title = f"{model.name} (in {_mode(training)}, {type(model.loss).__name__}): random directions in float64"
    with model.device:
        return _check(title, prepare, probes, mean, seed, step, tolerance, _rates(model), zero_is_said=True)


# ---- the comparison -----------------------------------------------------------------------------------------------

# Where an array is moved, and by which array (or number) of length 1: (index, 1.0), or (..., direction).
_Probe = tuple[Shape | EllipsisType, Any]


class _Pair(NamedTuple):
    """The two derivatives by one probe."""

    where: Shape | EllipsisType
    unit: Any
    analytic: float
    numeric: float
    kink: bool
    wrong: bool


@dataclass
class _Pass:
    """What is checked, in one dtype. forward() reads `arrays`, which the check moves in place."""

    arrays: dict[str, Array]
    forward: Callable[[], Array]
    backward: Callable[[Array], dict[str, Any]]


def _check(
    title: str,
    prepare: Callable[[Any], _Pass],
    probes: Callable[[Array, np.random.Generator], Iterator[_Probe]],
    dy: Array | None,
    seed: int,
    step: float,
    tolerance: float,
    rates: list[float],
    zero_is_said: bool = False,
) -> Report:
    report = Report(title, tolerance)
    rng, problems = np.random.default_rng([seed, 1]), []
    for dtype in (np.float32, np.float64):
        run = prepare(dtype)
        before = {name: array.copy() for name, array in run.arrays.items()}
        first = run.forward().copy()
        report.problems = [f"forward writes to {name}, its caller's array." for name in _differing(run.arrays, before)]
        if report.problems:
            return report  # such a function cannot be asked twice
        y = run.forward()
        _require_repeatable(title, first, y)
        dy = xp_of(y).asarray(rng.standard_normal(y.shape) if dy is None else dy)
        if dy.shape != y.shape:
            raise GradientCheckError(title, "dy does not fit.", f"shape {y.shape}.", f"{dy.shape}.", "leave it out.")
        upstream = dy.astype(dtype)
        gradients = run.backward(upstream)
        now, old = {**run.arrays, "dy": upstream, "y": y}, {**before, "dy": dy.astype(dtype), "y": first}
        problems += [f"backward writes to {name}, which is not its own." for name in _differing(now, old)]
        problems += _misfits(run.arrays, y, gradients, np.dtype(dtype))
        for name, array in run.arrays.items():
            array[...] = before[name]
    report.problems = list(dict.fromkeys(problems))
    for name, array in run.arrays.items():
        gradient = gradients.get(name)
        if gradient is not None and gradient.shape == array.shape:
            result, pairs = _compare(_d(name), array, gradient, run.forward, dy, probes(array, rng), step, tolerance)
            if result.verdict == "zero" and not zero_is_said:
                raise _blind(title, result)
            if not result.ok and pairs:
                others = {other: a for other, a in run.arrays.items() if other != name}
                result = replace(result, hint=_hint(array, gradient, pairs, run.forward, dy, step, others, rates))
            report.arrays[_d(name)] = result
    if not report.arrays and not report.problems:
        raise GradientCheckError(
            title, "there is nothing to compare.", "an array with a gradient.", "none.",
            "pass float arrays, and see that backward returns their gradients and that a layer is trainable.",
        )  # fmt: skip
    if report.arrays and all(array.verdict == "zero" for array in report.arrays.values()):
        raise _blind(title, next(iter(report.arrays.values())))
    return report


def _compare(
    name: str,
    array: Array,
    gradient: Array,
    forward: Callable[[], Array],
    dy: Array,
    probes: Iterator[_Probe],
    step: float,
    tolerance: float,
) -> tuple[ArrayReport, list[_Pair]]:
    """The gradient of one array against central differences, probe by probe."""
    y = forward().copy()
    chosen, analytic, numeric, seen = list(probes), [], [], 0.0
    for where, unit in chosen:
        change = _slope(forward, array, where, unit, step)
        analytic.append(float((gradient[where] * unit).sum()))
        numeric.append(float((dy * change).sum()))
        # A dy that is orthogonal to all changes of y sees none; and what is less than rounding is no change.
        if _length(change) > 1e-13 / step * _length(y):
            seen = max(seen, abs(numeric[-1]) / (_length(dy) * _length(change)))
    shape, n = tuple(array.shape), len(chosen)
    if seen < 1e-6 and not max(map(abs, analytic), default=0) > 1e-6 * _length(dy) * _length(y):
        return ArrayReport(name, shape, 0, verdict="zero"), []

    floor = max(map(abs, numeric)) / 1000
    kinks, worst, pairs = 0, ArrayReport(name, shape, n, error=-1.0), []
    for (where, unit), a, b in zip(chosen, analytic, numeric, strict=True):
        kink = False
        for h in (step, step / 10, step / 100):  # a smaller step may end before the kink
            if kink:
                b = float((dy * _slope(forward, array, where, unit, h)).sum())
            error = abs(a - b) / (max(abs(a), abs(b), floor) or 1.0)
            error = error if np.isfinite(error) else np.inf
            kink = error > tolerance and is_kink(abs(a - b), forward, dy, array, where, unit, h)
            if not kink:
                break
        kinks += kink
        pairs.append(_Pair(where, unit, a, b, kink, error > tolerance and not kink))
        if not kink and error > worst.error:
            worst = ArrayReport(name, shape, n, 0, error, None if where is ... else where, a, b)
    verdict = "WRONG" if worst.error > tolerance else "kinks" if 2 * kinks > n else "ok"
    compared = ArrayReport(
        name, shape, n - kinks, kinks, max(worst.error, 0.0), worst.index, worst.analytic, worst.numeric, verdict
    )
    return compared, pairs


def _hint(
    array: Array,
    gradient: Array,
    pairs: list[_Pair],
    forward: Callable[[], Array],
    dy: Array,
    step: float,
    others: dict[str, Array],
    rates: list[float],
) -> str:
    """The likely cause of a wrong gradient, or of one that seems to be all kinks."""
    pairs = [pair for pair in pairs if not pair.kink] if any(pair.wrong for pair in pairs) else pairs

    def shares(probe: _Probe, larger: bool = False) -> np.ndarray:
        where, unit = probe
        unit = xp_of(array).asarray(unit) if where is ... else unit
        return to_host(dy * _slope(forward, array, where, unit, step * 100 if larger else step))

    return gradcheck_hints.hint(
        gradcheck_hints.Evidence(
            gradient=to_host(gradient),
            probes=[(pair.where, pair.unit if pair.where is not ... else to_host(pair.unit)) for pair in pairs],
            analytic=np.array([pair.analytic for pair in pairs]),
            numeric=np.array([pair.numeric for pair in pairs]),
            wrong=np.array([pair.wrong for pair in pairs]),
            shares=shares,
            others={name: to_host(other) for name, other in others.items()},
            rates=rates,
        )
    )


def is_kink(
    difference: float, forward: Callable[[], Array], dy: Array, array: Array, where: Any, unit: Any, step: float
) -> bool:
    """Whether a kink inside the step explains the difference of the two gradients.

    Where f is smooth, half the step gives the same central difference, and slopes ahead and behind that differ half as
    much. A kink at a distance t < h breaks one of the two by at least a third of the error that it makes.
    """
    y = forward().copy()

    def slopes(h: float) -> tuple[float, float]:
        ahead = dy * (moved(forward, array, where, h * unit) - y)
        behind = dy * (y - moved(forward, array, where, -h * unit))
        return float(ahead.sum()) / h, float(behind.sum()) / h

    (ahead, behind), (near_ahead, near_behind) = slopes(step), slopes(step / 2)
    centre = abs((ahead + behind) - (near_ahead + near_behind)) / 2
    bend = abs((ahead - behind) - 2 * (near_ahead - near_behind)) / 2
    return max(centre, bend) > 0.1 * difference


def _slope(forward: Callable[[], Array], array: Array, where: Any, unit: Any, step: float) -> Array:
    """J v by central differences: how fast y changes with array[where]."""
    return (moved(forward, array, where, step * unit) - moved(forward, array, where, -step * unit)) / (2 * step)


def moved(forward: Callable[[], Array], array: Array, where: Any, move: Any) -> Array:
    """forward() with array[where] moved. A copy: a layer may return its input, which moves back."""
    before = array[where].copy()
    array[where] = before + move
    y = forward().copy()
    array[where] = before
    return y


def _elements(count: int) -> Callable[[Array, np.random.Generator], Iterator[_Probe]]:
    """Every element of an array, or `count` of them drawn at random where there are more."""

    def probes(array: Array, rng: np.random.Generator) -> Iterator[_Probe]:
        flat = range(array.size) if array.size <= count else np.sort(rng.choice(array.size, count, replace=False))
        for i in flat:
            yield tuple(map(int, np.unravel_index(i, array.shape))), 1.0

    return probes


def _blind(title: str, array: ArrayReport) -> GradientCheckError:
    return GradientCheckError(
        title,
        f"the numeric gradient {array.name} is 0 everywhere: a backward pass that returns zeros would pass.",
        "a dy and inputs for which the gradient is not 0.",
        f"0 for all of {array.name}, of shape {array.shape}.",
        "use a random dy (with ones it is exactly 0 behind batch normalisation and softmax, whose outputs have a fixed "
        "sum), inputs that do not leave every ReLU at 0, and no bias right before batch normalisation.",
    )


def _require_repeatable(title: str, y: Array, again: Array) -> None:
    if not bool(xp_of(y).isfinite(y).all()):
        raise GradientCheckError(title, "y is not finite.", "numbers.", "NaN or infinity.", "check the inputs.")
    if not bool((y == again).all()):
        raise GradientCheckError(
            title, "two forward passes on the same inputs differ.", "the same y each time.", "two different ones.",
            "draw random numbers from a fixed seed (in a layer: ctx.seed), and do not change the inputs.",
        )  # fmt: skip


def _misfits(arrays: dict[str, Array], y: Array, gradients: dict[str, Any], dtype: np.dtype) -> list[str]:
    """What is wrong with the results' kinds: a missing gradient, a shape, a dtype."""
    problems = [f"y is {y.dtype} where all inputs are {dtype}."] if y.dtype != dtype else []
    for name, gradient in gradients.items():
        if name not in arrays:
            problems.append(f"there is a gradient {_d(name)}, but no float array {name}.")
        elif gradient is None:
            problems.append(f"the gradient {_d(name)} is missing.")
        elif gradient.shape != arrays[name].shape:
            mirrored = ": transposed?" if gradient.shape == arrays[name].shape[::-1] else "."
            problems.append(f"{_d(name)} has shape {gradient.shape}, but {name} has {arrays[name].shape}{mirrored}")
        elif gradient.dtype != dtype:
            problems.append(f"{_d(name)} is {gradient.dtype} where all inputs are {dtype}.")
    return problems


def _differing(now: dict[str, Array], before: dict[str, Array]) -> list[str]:
    return [name for name, array in now.items() if not bool((array == before[name]).all())]


# ---- layers -------------------------------------------------------------------------------------------------------


def _copy(layer: Any, input_shape: Any, dtype: Any, seed: int) -> Any:
    """A built copy in `dtype`. To arrays of one number throughout 0…0.5 is added: so variances stay positive."""
    copied, rng = copy.deepcopy(layer), np.random.default_rng(seed)
    if not copied.built:
        copied.output_shape(input_shape)  # refuses a shape that does not fit
        copied.build_once(input_shape, rng)
    for leaf in _leaves(copied).values():
        for arrays in (leaf.params, leaf.state):
            for name, array in arrays.items():
                shift = rng.uniform(0, 0.5, array.shape) if (array == array.reshape(-1)[:1]).all() else 0
                arrays[name] = move((array + xp_of(array).asarray(shift)).astype(dtype), _home(layer))
    return copied


def _home(layer: Any) -> Device:
    """Where the check computes: that of a model, else the current device."""
    return layer.device if isinstance(layer, Network) else current_device()


def _leaves(layer: Any) -> dict[str, Layer]:
    """The layers that hold arrays, by the prefix of their arrays' names: "" for one layer, "dense_1/" in a model."""
    if not isinstance(layer, Network):
        return {"": layer}
    return {f"{key}/": leaf for key, leaf in layer.layers_by_key.items()}


def _parameters(layer: Any, trained: bool = False) -> dict[str, Array]:
    """All parameters, or those that are trained, by name."""
    return {
        f"{key}{name}": array
        for key, leaf in _leaves(layer).items()
        for name, array in leaf.params.items()
        if leaf.trainable or not trained
    }


def _collect(nodes: Sequence[Node], contexts: Sequence[Context], trained: bool = False) -> dict[str, Any]:
    """The gradients in the contexts, by the names of _parameters; None where one is missing that training needs.

    A layer that is used twice has the sum of both.
    """
    found: dict[str, Any] = {}
    keys: dict[int, str] = {}
    for node, ctx in zip(nodes, contexts, strict=True):
        key = keys.setdefault(id(node.layer), node.key)
        for name in node.layer.params:
            if not (node.layer.trainable or (name in ctx.grads and not trained)):
                continue
            whole, gradient = f"{key}/{name}" if key else name, ctx.grads.get(name)
            both = whole in found and found[whole] is not None and gradient is not None
            found[whole] = found[whole] + gradient if both else gradient
    return found


def _rates(layer: Any) -> list[float]:
    """Those of the dropouts inside."""
    return [leaf.rate for leaf in _leaves(layer).values() if isinstance(leaf, Dropout)]


def _is_float(value: Any) -> bool:
    return hasattr(value, "dtype") and value.dtype.kind == "f"


def _length(array: Array) -> float:
    return float((array * array).sum()) ** 0.5


def _how(dy: Array | None) -> str:
    return "central differences in float64, " + ("random dy" if dy is None else "dy as given")


def _mode(training: bool) -> str:
    return "training" if training else "evaluation"


def _d(name: str) -> str:
    """The name of an array's gradient: x -> dx, dense_1/w -> dense_1/dw."""
    prefix, slash, last = name.rpartition("/")
    return f"{prefix}{slash}d{last}"
