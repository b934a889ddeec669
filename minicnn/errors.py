"""Errors in three parts: what was expected, what came, what to do about it."""

from __future__ import annotations

import errno
import math
import os
import sys
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any

# What a terminal or a file in an old encoding may lack, and what to read in its place.
_PLAIN = {
    "×": "x", "·": "*", "−": "-", "–": "-", "…": "...", "≈": "~", "≤": "<=", "≥": ">=", "→": "->",
    "∂": "d", "√": "sqrt",
}  # fmt: skip


def visible(text: object) -> str:
    """A text for the terminal or the file to which Python prints.

    Characters that would steer a terminal, such as escape sequences, become visible escapes; those that its encoding
    does not have are replaced: nothing that is printed may end a program.
    """
    shown = "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in str(text))
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        shown.encode(encoding)
        return shown
    except UnicodeEncodeError:
        replaced = "".join(_PLAIN.get(c, c) if not _has(encoding, c) else c for c in shown)
        return replaced.encode(encoding, "replace").decode(encoding)
    except LookupError:  # an encoding of the user's own making
        return shown


def _has(encoding: str, character: str) -> bool:
    try:
        character.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


class InputError(ValueError):
    """Something the user passed does not fit. Names the place, and says how to mend it.

    where: the layer, argument or file concerned; problem: one clause; expected, received, fix: one sentence each.
    """

    def __init__(self, where: object, problem: str, expected: str, received: str, fix: str):
        self.where, self.problem = str(where), problem
        self.expected, self.received, self.fix = expected, received, fix
        super().__init__(
            visible(f"{where}: {problem}\n  Expected: {expected}\n  Received: {received}\n  What to do: {fix}")
        )

    def __reduce__(self):
        return type(self), (self.where, self.problem, self.expected, self.received, self.fix)


class NotFiniteError(InputError):
    """NaN or infinity appeared while a model was learning. `where` is the layer, or "the loss".

    array: what was not finite, "dx" for example. direction: "forward", "backward" or "update". epoch, batch: counted
    from 0.
    """

    def __init__(
        self, where: object, problem: str, expected: str, received: str, fix: str,
        array: str = "", direction: str = "forward", epoch: int = 0, batch: int = 0,
    ):  # fmt: skip
        super().__init__(where, problem, expected, received, fix)
        self.array, self.direction, self.epoch, self.batch = array, direction, epoch, batch

    def __reduce__(self):
        kind, arguments = super().__reduce__()
        return kind, (*arguments, self.array, self.direction, self.epoch, self.batch)


class NotBuiltError(InputError, AttributeError):
    """A layer that does not know its input yet was asked for one of its arrays. An AttributeError, too, as in Keras."""

    def __init__(self, where: object, array: str):
        super().__init__(
            where, f"it has no {array} yet.", "a layer that knows the shape of its input.", "one that was not built.",
            "call it on a batch, or put it into a model that begins with Input(shape).",
        )  # fmt: skip
        self.array = array

    def __reduce__(self):
        return type(self), (self.where, self.array)


class BrokenFileError(InputError):
    """A file is there, but it is not what it should be. `where` is its path."""


class MissingFileError(InputError, FileNotFoundError):
    """There is no file of this name. `where` is its path. A FileNotFoundError, too, with its errno and filename."""

    def __init__(self, where: object):
        super().__init__(
            where, "this file does not exist.", "the path of a file.", "a name that nothing has.",
            f"look for a slip in the name; relative paths start at {os.getcwd()}.",
        )  # fmt: skip
        self.errno, self.filename = errno.ENOENT, str(where)

    def __str__(self) -> str:  # not OSError's
        return str(self.args[0])

    def __reduce__(self):
        return type(self), (self.where,)


class WriteError(InputError, OSError):
    """The system refused to write a file: the disk is full, the folder read-only, … `where` is its path.

    An OSError, too: errno and filename are those that the system gave.
    """

    def __init__(self, where: object, error: OSError):
        received = f"{error.strerror or error} ({type(error).__name__}, error {error.errno})."
        super().__init__(
            where, "it could not be written; what was there before is unchanged.",
            "a disk with room, and a folder that may be written to.", received,
            _REMEDIES.get(error.errno or 0, "look at the disk and the folder, or write somewhere else."),
        )  # fmt: skip
        self.error, self.errno, self.filename = error, error.errno, str(where)

    def __str__(self) -> str:  # not OSError's
        return str(self.args[0])

    def __reduce__(self):
        return type(self), (self.where, self.error)


_REMEDIES = {
    errno.ENOSPC: "make room on the disk, or write to another one.",
    errno.EDQUOT: "make room in your quota, or write to another disk.",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f), or write a smaller model.",
    errno.EROFS: "this file system can only be read; write to another folder.",
    errno.EACCES: "choose a folder in which you may write, or change its permissions.",
    errno.EPERM: "choose a folder in which you may write, or change its permissions.",
    errno.ENOENT: "its folder has gone; create it again.",
}


class UnknownNameError(InputError):
    """A name that stands for nothing here: a loss, an optimizer, a layer, an argument."""


def unknown_name(kind: str, name: object, known: Iterable[str]) -> UnknownNameError:
    """The error for an unknown name, with the nearest known one as the suggestion."""
    known = sorted(known)
    near = _nearest(str(name).lower(), {k.lower(): k for k in known})
    fix = f"did you mean {near!r}?" if near else "use one of the names above."
    return UnknownNameError(kind, "unknown name.", "one of " + ", ".join(known) + ".", f"{name!r}.", fix)


def _nearest(name: str, known: dict[str, str]) -> str | None:
    """The known name whose initials these are ("lr"), that is spelt nearly so, or that begins like this."""
    import difflib  # only where something went wrong

    initials = [k for k in known if name == "".join(word[:1] for word in k.split("_"))]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    longer = [k for k in known if name and k.startswith(name)]
    return next((known[k] for k in (*initials, *near, *longer)), None)


_RANGES = {
    "above 0": lambda v: 0 < v < math.inf,
    "of 1 or more": lambda v: 1 <= v < math.inf,
    "of 0 or more": lambda v: 0 <= v < math.inf,
    "from 0 to 1": lambda v: 0 <= v <= 1,
    "above 0, up to 1": lambda v: 0 < v <= 1,
    "from 0 up to, but not including, 1": lambda v: 0 <= v < 1,
    "that is finite": math.isfinite,
}


def checked_number(where: str, argument: str, value: Any, wanted: str, example: object) -> float:
    """`value` as a float; InputError unless it is a number as `wanted`, which is one of _RANGES, says."""
    if not isinstance(value, Real) or isinstance(value, bool) or not _RANGES[wanted](value):
        raise _does_not_fit(where, argument, value, f"a number {wanted}.", example)
    return float(value)


def checked_whole(where: str, argument: str, value: Any, least: int | None, example: object) -> int:
    """`value` as an int; InputError unless it is a whole number, of at least `least`."""
    if not isinstance(value, Integral) or isinstance(value, bool) or (least is not None and int(value) < least):
        expected = "a whole number." if least is None else f"a whole number, {least} or more."
        raise _does_not_fit(where, argument, value, expected, example)
    return int(value)


def checked(where: str, argument: str, value: Any, wanted: Any, example: object) -> Any:
    """`value` as `wanted` says; else InputError.

    wanted: a range of checked_number; int, or the least whole number; "axes", one or several; bool; str; or a tuple of
    the choices. A list [wanted] also takes None.
    """
    if isinstance(wanted, list):
        return None if value is None else checked(where, argument, value, wanted[0], example)
    if isinstance(wanted, tuple):
        if isinstance(value, (str, type(None))) and value in wanted:
            return value
        raise unknown_name(f"{argument} of {where}", value, [str(choice) for choice in wanted])
    if wanted == "axes":
        if isinstance(value, (list, tuple)) and value:
            return type(value)(checked_whole(where, argument, axis, None, example) for axis in value)
        return checked_whole(where, argument, value, None, example)
    if wanted is bool:
        known = type(value).__name__ in ("bool", "bool_") or (isinstance(value, Integral) and value in (0, 1))
        if not known:
            raise _does_not_fit(where, argument, value, "True or False.", example)
        return bool(value)
    if wanted is str:
        if not isinstance(value, str):
            raise _does_not_fit(where, argument, value, "a text.", example)
        return value
    if wanted is int or isinstance(wanted, int):
        return checked_whole(where, argument, value, wanted if isinstance(wanted, int) else None, example)
    return checked_number(where, argument, value, wanted, example)


def check_callable(where: str, function: Any, call: str, *arguments: Any, **named: Any) -> None:
    """InputError unless this is a function that can be called so. `call`: the call as text."""
    import inspect  # only where a function was passed

    try:
        inspect.signature(function).bind(*arguments, **named)
    except TypeError:
        raise InputError(
            where, "this function cannot be called.", f"a function that can be called as {call}.", f"{function!r}.",
            "give it these arguments.",
        ) from None  # fmt: skip
    except ValueError:  # a function of C, which does not say
        return


def _does_not_fit(where: str, argument: str, value: Any, expected: str, example: object) -> InputError:
    return InputError(
        where, f"{argument} does not fit.", expected, f"{value!r}.", f"for example {argument}={example}."
    )


def shortened(text: str, length: int = 300) -> str:
    """What a file says may be long; an error shows its beginning."""
    return text if len(text) <= length else text[: length - 1] + "…"
