"""The five stages in which a function is graded. The first that fails is the last.

    1  a worked case of small whole numbers, printed in full
    2  the reference implementation on 20 random geometries; the smallest failing one is shown
    3  the gradient check: a random dy, float64, every array
    4  inputs unchanged, dtype kept
    5  plugged in: a small network learns with it, and has the framework's losses to rounding

Where a stage fails, the hint is looked for among the well-known bugs of the table (does the function give, on all
cases, what the reference with that bug gives?), in the patterns of wrong numbers, and in those of the gradient check.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from minicnn.course import cut, plug, say
from minicnn.course.say import TOO_MUCH_MEMORY
from minicnn.course.table import Arguments, Part
from minicnn.errors import InputError
from minicnn.gradcheck import check_function

Function = Callable[..., Any]

TITLES = {
    1: "a worked case",
    2: "the reference on 20 random geometries",
    3: "the gradient check",
    4: "inputs unchanged, dtype kept",
    5: "plugged in",
}
GEOMETRIES = 20


@dataclass(frozen=True)
class Stage:
    """What one stage found. hint: the likely cause where it failed, or ""."""

    number: int
    ok: bool
    text: str
    hint: str = ""

    @property
    def title(self) -> str:
        return TITLES[self.number]


class FailedError(Exception):
    """A stage's text when it fails."""


class BrokenError(FailedError):
    """The function raised an error."""


def grade(part: Part, mine: Function, file: str = "") -> Iterator[Stage]:
    """The stages one after the other, up to the first that fails. file: the learner's, to name lines of it."""
    learner = Learner(part, mine, file)
    stages = {1: _worked_case, 2: _geometries, 3: _gradient, 4: _manners, 5: _plugged_in}
    for number, stage in stages.items():
        before = learner.calls
        with np.errstate(all="ignore"):
            try:
                text, ok = stage(part, learner), True
            except FailedError as failed:
                text, ok = str(failed), False
            if ok and learner.calls == before and not text.startswith("Nothing to"):
                text, ok = "Nothing was checked: the function was never called. Please report this.", False
            hint = "" if ok else find_hint(part, learner, number)
        yield Stage(number, ok, text, hint)
        if not ok:
            return


class Learner:
    """The learner's function: called with copies, its results as a tuple, its errors in words."""

    def __init__(self, part: Part, function: Function, file: str):
        self.part, self.function, self.file, self.calls = part, function, file, 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The result as it came. Raises BrokenError."""
        self.calls += 1
        try:
            return self.function(*args, **kwargs)
        except FailedError:  # a learner's function that calls the framework, where it is plugged in
            raise
        except NotImplementedError as error:
            if cut.MARK in str(error):
                raise BrokenError(
                    f"{self.part.function} is not written yet{_line(error, self.file)}. {error}"
                ) from error
            raise BrokenError(_told(error, self.file)) from error
        except (Exception, SystemExit) as error:
            raise BrokenError(_told(error, self.file)) from error

    def results(self, arguments: Arguments) -> tuple[Any, ...]:
        """Its outputs for copies of these, each an array or number. Raises FailedError where there are not so many."""
        return self.outputs(self(**copied(arguments)))

    def outputs(self, result: Any) -> tuple[Any, ...]:
        names = self.part.outputs
        if result is None:
            raise FailedError(f"{self.part.function} returns None: is a `return` missing?")
        if len(names) == 1:
            result = (result,)
        if not isinstance(result, (tuple, list)) or len(result) != len(names):
            count = f"{len(result)} of them" if isinstance(result, (tuple, list)) else say.shape(result)
            raise FailedError(
                f"{self.part.function} must return {len(names)} results, {', '.join(names)}; it returned {count}."
            )
        for name, value in zip(names, result, strict=True):
            if isinstance(value, np.ndarray) and type(value) is not np.ndarray:
                raise FailedError(f"{name} is a {type(value).__name__}, expected a plain array: np.asarray makes one.")
        return tuple(result)


def copied(arguments: Arguments) -> Arguments:
    return {name: v.copy() if isinstance(v, np.ndarray) else v for name, v in arguments.items()}


def _line(error: BaseException, file: str) -> str:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f" (line {lines[-1]})" if lines else ""


def _told(error: BaseException, file: str) -> str:
    """An error of the learner's code: where, and what."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    where = f"Line {frames[-1].lineno}: {frames[-1].line}\n" if frames and frames[-1].line else ""
    if isinstance(error, RecursionError):
        return f"{where}The function calls itself without end (RecursionError)."
    if isinstance(error, MemoryError):
        return f"{where}{TOO_MUCH_MEMORY} {error}"
    if isinstance(error, SystemExit):
        return f"{where}It ended the program (SystemExit); a function returns its result."
    return f"{where}{type(error).__name__}: {error}"


# ---- comparing -------------------------------------------------------------------------------------------------------


@cache
def reference(part: Part) -> Function:
    return getattr(cut._module(part.module)[0], part.function)


def expected(part: Part, arguments: Arguments) -> tuple[Any, ...]:
    result = reference(part)(**copied(arguments))
    return result if len(part.outputs) > 1 else (result,)


@cache
def drawn(part: Part) -> list[Arguments]:
    """The random geometries, the smallest first."""
    rng = np.random.default_rng(0)
    found = [part.draw(rng) for _ in range(GEOMETRIES)]
    return sorted(found, key=lambda arguments: sum(np.size(v) for v in arguments.values() if v is not None))


def difference(name: str, right: Any, got: Any) -> str:
    """How a result differs, in a sentence; "" where it does not."""
    if isinstance(right, tuple):  # a pair of numbers
        if isinstance(got, (tuple, list)) and len(got) == len(right):
            parts = [difference(f"{name}[{i}]", *pair) for i, pair in enumerate(zip(right, got, strict=True))]
            return " ".join(filter(None, parts))
        return f"{name} is {got!r:.60}, expected {right!r}."
    if np.ndim(right) == 0:
        if np.ndim(got) == 0 and not isinstance(got, (str, bytes)) and _equal_numbers(right, got):
            if isinstance(right, int) and not isinstance(got, (int, np.integer)):
                return f"{name} is {got!r}, a float; expected the whole number {right} (// divides without a rest)."
            return ""
        return f"{name} is {say.shape(got) if np.ndim(got) else repr(got)[:60]}, expected {say.number(right)}."
    if not isinstance(got, np.ndarray):
        return f"{name} is {say.shape(got)}, expected an array of {say.shape(right)}."
    if got.shape != right.shape:
        turned = " It is transposed." if got.ndim > 1 and got.shape == right.shape[::-1] else ""
        return f"{name} has {say.shape(got)}, expected {say.shape(right)}.{turned}"
    if got.dtype.kind not in "fiub":
        return f"{name} has the dtype {got.dtype}, expected numbers."
    wrong = ~_close(right, got)
    if not wrong.any():
        return ""
    index = tuple(int(i) for i in np.argwhere(wrong)[0])
    which = f"{name}[{', '.join(map(str, index))}]"
    return (
        f"{int(wrong.sum())} of {wrong.size} numbers of {name} differ; the first is {which}: "
        f"{say.number(got[index])}, expected {say.number(right[index])}."
    )


def _close(right: np.ndarray, got: np.ndarray) -> np.ndarray:
    scale = np.abs(right[np.isfinite(right)]).max(initial=1.0) if right.dtype.kind == "f" else 1.0
    with np.errstate(all="ignore"):
        return (np.abs(right - got.astype(np.float64)) <= 1e-9 * scale) | (right == got)


def _equal_numbers(right: Any, got: Any) -> bool:
    try:
        return bool(abs(float(got) - float(right)) <= 1e-9 * max(1.0, abs(float(right))))
    except (TypeError, ValueError):
        return False


def differences(part: Part, right: tuple[Any, ...], got: tuple[Any, ...]) -> list[str]:
    found = (difference(*three) for three in zip(part.outputs, right, got, strict=True))
    return [sentence for sentence in found if sentence]


# ---- the stages ------------------------------------------------------------------------------------------------------


def worked_case(part: Part) -> list[str]:
    """Its arguments and results, in full."""
    case = part.case()
    results = [line for name, v in zip(part.outputs, expected(part, case), strict=True) for line in say.array(name, v)]
    return [f"{part.function} of", *(f"    {line}" for line in say.arguments(case)), "is",
            *(f"    {line}" for line in results)]  # fmt: skip


def _worked_case(part: Part, learner: Learner) -> str:
    case = part.case()
    got = learner.results(case)
    wrong = differences(part, expected(part, case), got)
    shown = worked_case(part)
    if wrong:
        yours = [line for name, v in zip(part.outputs, got, strict=True) for line in say.array(name, v)]
        raise FailedError("\n".join([*shown, "Yours is", *(f"    {line}" for line in yours), *wrong]))
    complaint = part.demand(learner)
    if complaint:
        raise FailedError("\n".join([*shown, f"The numbers are right. But {complaint}"]))
    return "\n".join([*shown, "Yours is the same."])


def _geometries(part: Part, learner: Learner) -> str:
    failures: list[tuple[Arguments, list[str]]] = []
    for arguments in drawn(part):
        try:
            wrong = differences(part, expected(part, arguments), learner.results(arguments))
        except FailedError as failed:
            wrong = [str(failed)]
        if wrong:
            failures.append((arguments, wrong))
    if not failures:
        return f"All {len(drawn(part))} give the reference's numbers."
    arguments, wrong = failures[0]
    lines = [f"{len(failures)} of {len(drawn(part))} differ. The smallest of these:", *say.arguments(arguments)]
    right = [(name, v) for name, v in zip(part.outputs, expected(part, arguments), strict=True) if np.ndim(v)]
    lines += ["expected"] * bool(right) + [line for name, v in right for line in say.array(name, v)]
    raise FailedError("\n".join([*lines, *wrong]))


def _gradient(part: Part, learner: Learner) -> str:
    if part.gradient is None:
        return "Nothing to differentiate in this step."
    report = _report(part, learner)
    if not report.ok:
        raise FailedError(str(report))
    return "\n".join(f"{a.name}: {a.compared} numbers, largest error {a.error:.0e}." for a in report.arrays.values())


def _report(part: Part, learner: Learner) -> Any:
    """The gradient check, of the numbers alone: that inputs stay and dtypes are kept is the next stage's business."""

    def tidy(*args: Any, **kwargs: Any) -> Any:
        given = [*args, *kwargs.values()]
        dtype = next(v.dtype for v in given if isinstance(v, np.ndarray) and v.dtype.kind == "f")
        call = [v.copy() if isinstance(v, np.ndarray) else v for v in args]
        result = learner.outputs(learner(*call, **copied(kwargs)))
        cast = [v.astype(dtype) if isinstance(v, np.ndarray) and v.dtype.kind == "f" else v for v in result]
        return tuple(cast) if len(cast) > 1 else cast[0]

    assert part.gradient is not None
    forward, backward, inputs = part.gradient(tidy)
    try:
        return check_function(forward, backward, inputs)
    except InputError as error:
        raise FailedError(str(error)) from error


def _manners(part: Part, learner: Learner) -> str:
    for arguments in (part.case(), *drawn(part)[::5]):
        for dtype in (np.float64, np.float32):
            given = {
                name: v.astype(dtype) if isinstance(v, np.ndarray) and v.dtype.kind == "f" else v
                for name, v in copied(arguments).items()
            }
            before = copied(given)
            result = learner.outputs(learner(**given))
            for name, v in before.items():
                if isinstance(v, np.ndarray) and not np.array_equal(v, given[name], equal_nan=True):
                    raise FailedError(f"The function writes into {name}, which belongs to its caller: work on a new "
                                 f"array (`{name}.copy()`, or an operation that makes one).")  # fmt: skip
            for name, v in zip(part.outputs, result, strict=True):
                if isinstance(v, np.ndarray) and v.dtype.kind == "f" and v.dtype != dtype:
                    raise FailedError(f"{name} is {v.dtype} where the inputs are {np.dtype(dtype)}: keep it, for "
                                 "example np.zeros(shape, dtype=x.dtype).")  # fmt: skip
    return "No input was changed; float32 gives float32."


def _plugged_in(part: Part, learner: Learner) -> str:
    exchange, before = part.plug(learner), learner.calls
    right = framework_losses(exchange.optimizer)
    try:
        with plug.plugged(exchange):
            losses = plug.toy_losses(exchange.optimizer)
    except FailedError:
        raise
    except (InputError, ValueError, TypeError, IndexError) as error:
        raise FailedError(f"The network stopped: {type(error).__name__}: {error}") from error
    if learner.calls == before:
        raise FailedError("Nothing was checked: the network never called the function. Please report this.")
    same = np.allclose(losses, right, rtol=1e-4, atol=0)
    rows = [f"the framework's losses   {_row(right)}", f"with your function       {_row(losses)}"]
    if not same:
        raise FailedError("\n".join([*rows, "They must agree to four digits."]))
    return "\n".join([f"A small network learns clothes with it ({learner.calls - before} calls).", *rows])


def _row(losses: list[float]) -> str:
    return "  ".join(f"{loss:.5f}" for loss in losses)


@cache
def framework_losses(optimizer: str) -> list[float]:
    """What the small network's losses are with the framework's own kernels."""
    return plug.toy_losses(optimizer)


# ---- hints -----------------------------------------------------------------------------------------------------------


def find_hint(part: Part, learner: Learner, stage: int) -> str:
    """The likely cause, or ""."""
    mine = _all_results(part, learner.function)
    right = _all_results(part, reference(part))
    numbers_differ = not _same(part, mine, right)
    if not numbers_differ or all(isinstance(result, str) for result in mine):
        return ""  # they are right (in another stage), or it never returns anything
    for says, wrong in _slips(part):
        if _same(part, mine, wrong) and not _same(part, wrong, right):
            return says
    hint = _pattern(part, mine, right)
    if not hint and part.gradient is not None and stage <= 3:
        try:
            hint = next((f"{a.name}: {a.hint}" for a in _report(part, learner).arrays.values() if a.hint), "")
        except Exception:  # whatever a wrong function does to the check: then there is no hint from it
            hint = ""
    return hint


@cache
def _slips(part: Part) -> list[tuple[str, list[Any]]]:
    found = []
    for slip in part.slips:
        source = cut.with_slip(part, slip)
        if source is not None:
            found.append((slip.says, _all_results(part, cut.compiled(part, source))))
    return found


def _all_results(part: Part, function: Function) -> list[Any]:
    """A tuple of outputs for the worked case and each geometry; "error" where it raises or returns something else."""
    results: list[Any] = []
    for arguments in (part.case(), *drawn(part)):
        try:
            results.append(Learner(part, function, "").results(arguments))
        except FailedError:
            results.append("error")
    return results


def _same(part: Part, a: list[Any], b: list[Any]) -> bool:
    for one, other in zip(a, b, strict=True):
        if isinstance(one, str) or isinstance(other, str):
            if isinstance(one, str) != isinstance(other, str):
                return False
        elif any(_differ(*two) for two in zip(other, one, strict=True)):
            return False
    return True


def _differ(right: Any, got: Any) -> bool:
    if isinstance(right, np.ndarray) and isinstance(got, np.ndarray):
        if right.shape != got.shape or got.dtype.kind not in "fiub":
            return True
        with np.errstate(all="ignore"):
            both_nan = (right != right) & (got != got)
            return not bool((_close(right, got) | both_nan).all())
    return bool(difference("", right, got))


def _pattern(part: Part, mine: list[Any], right: list[Any]) -> str:
    """What all wrong numbers have in common."""
    for i, name in enumerate(part.outputs):
        pairs = [
            (np.asarray(m[i]), np.asarray(r[i])) for m, r in zip(mine, right, strict=True) if not isinstance(m, str)
        ]
        pairs = [(m, r) for m, r in pairs if m.dtype.kind in "fiu" and m.shape == r.shape and r.dtype.kind == "f"]
        if not pairs or all(_close(r, m).all() for m, r in pairs if m.ndim):
            continue
        a, b = (np.concatenate([np.ravel(p[k]).astype(np.float64) for p in pairs]) for k in (0, 1))
        if not np.isfinite(a).all():
            return f"{name} is infinite or not a number (NaN) in places: a division by 0, a log of 0, a large exp?"
        if np.abs(a - b).max() <= 1e-5 * max(1.0, np.abs(b).max()):
            return f"{name} is right to 7 digits only: somewhere it is computed in float32; keep the inputs' dtype."
        if not a.any() and b.any():
            return f"{name} is 0 everywhere."
        factor = float(a @ b / (b @ b)) if b.any() else 0.0
        if factor and np.abs(a - factor * b).max() <= 1e-9 * max(1.0, np.abs(a).max()):
            return (
                f"every number of {name} has the wrong sign."
                if abs(factor + 1) < 1e-9
                else (f"every number of {name} is {factor:.6g} times the right one.")
            )
    return ""
