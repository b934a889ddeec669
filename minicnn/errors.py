"""Errors in three parts: what was expected, what came, what to do about it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Something the user passed does not fit. Names the place, and says how to mend it.

    where: the layer, argument or file concerned; problem: one clause; expected, received, fix: one sentence each.
    """

    def __init__(self, where: object, problem: str, expected: str, received: str, fix: str):
        self.where, self.problem = str(where), problem
        self.expected, self.received, self.fix = expected, received, fix
        super().__init__(
            f"{where}: {problem}\n  Expected: {expected}\n  Received: {received}\n  What to do: {fix}"
        )

    def __reduce__(self):
        return type(self), (self.where, self.problem, self.expected, self.received, self.fix)


class BrokenFileError(InputError):
    """A file is there, but it is not what it should be. `where` is its path."""


class UnknownNameError(InputError):
    """A name that stands for nothing here: a loss, an optimizer, a layer, an argument."""


def unknown_name(kind: str, name: object, known: Iterable[str]) -> UnknownNameError:
    """The error for an unknown name, with the nearest known one as the suggestion."""
    known = sorted(known)
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    fix = f"did you mean {near[0]!r}?" if near else "use one of the names above."
    return UnknownNameError(kind, "unknown name.", "one of " + ", ".join(known) + ".", f"{name!r}.", fix)
