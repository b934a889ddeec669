"""Calls whose arguments do not fit: a misspelt name, one that is missing. They are said in three parts, too.

Python's own TypeError says what is wrong, but neither what there is instead nor where it would be right. Public
functions and constructors are called through `in_words`; it costs nothing where the arguments fit.
"""

from __future__ import annotations

import functools
import inspect
from types import FunctionType
from typing import Any, TypeVar

from minicnn.errors import InputError, unknown_name

T = TypeVar("T")


def in_words(thing: T) -> T:
    """A function that raises InputError instead of TypeError where it is called with arguments that it does not have.

    Of a class: its constructor and its public methods are made so. A TypeError from within stays what it is.
    """
    if isinstance(thing, type):
        for name, method in list(vars(thing).items()):
            public = name == "__init__" or not name.startswith("_")
            if public and isinstance(method, FunctionType) and not hasattr(method, "__wrapped__"):
                setattr(thing, name, in_words(method))
        return thing
    function: Any = thing

    @functools.wraps(function)
    def call(*given: Any, **named: Any) -> Any:
        try:
            return function(*given, **named)
        except TypeError:
            error = misfit(function, given, named)
            if error is None:
                raise
        raise error

    return call  # type: ignore[return-value]


def misfit(function: Any, given: tuple[Any, ...], named: dict[str, Any]) -> InputError | None:
    """What is wrong with the call function(*given, **named), or None where its arguments fit."""
    signature = inspect.signature(function)
    try:
        signature.bind(*given, **named)
        return None
    except TypeError as error:
        reason = str(error)
    parameters = list(signature.parameters.values())
    where = function.__name__
    if parameters and parameters[0].name == "self" and given:
        kind = type(given[0])
        of_class = where == "__init__" and hasattr(kind, "_arguments")
        where = kind.__name__ if where in ("__init__", "__call__") else f"{kind.__name__}.{where}"
        parameters, given = parameters[1:], given[1:]
        names = kind._arguments() if of_class else []
    else:
        names = []
    names = names or [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    by_place = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    unknown = next((name for name in named if name not in names), None)
    if unknown is not None:
        return unknown_name(f"argument of {where}", unknown, names)
    call = f"{where}({', '.join(_shown(p) for p in parameters)})"
    if len(given) > len(by_place) and all(p.kind != p.VAR_POSITIONAL for p in parameters):
        return InputError(
            where, "there are too many arguments.", f"{len(by_place)} without a name: {call}.", f"{len(given)}.",
            "pass the last ones by their names, or leave them out.",
        )  # fmt: skip
    twice = next((p.name for p in by_place[: len(given)] if p.name in named), None)
    if twice is not None:
        return InputError(
            where, f"{twice} was given twice.", f"each argument once: {call}.", "one by its place and one by its name.",
            "leave out one of them.",
        )  # fmt: skip
    missing = [p.name for p in by_place[len(given) :] if p.default is p.empty and p.name not in named]
    if not missing:
        return InputError(where, "its arguments do not fit.", f"{call}.", f"{reason}.", "change the call.")
    return InputError(
        where, f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing.", f"{call}.",
        "nothing for it." if len(missing) == 1 else "nothing for them.",
        f"write {where.split('.')[-1]}({', '.join(f'{name}=…' for name in missing)}).",
    )  # fmt: skip


def _shown(parameter: inspect.Parameter) -> str:
    """A parameter as it stands in its function, without its type."""
    stars = "*" if parameter.kind is parameter.VAR_POSITIONAL else "**" * (parameter.kind is parameter.VAR_KEYWORD)
    return stars + parameter.name + ("" if parameter.default is parameter.empty else f"={parameter.default!r}")
