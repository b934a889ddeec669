"""From a name to an object: what the `get()` functions of initializers, metrics ... share."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

from minicnn.errors import unknown_name


def snake_case(name: str) -> str:
    """`GlorotUniform` -> `glorot_uniform`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def names_of(*classes: type, **aliases: Callable[..., Any]) -> dict[str, Callable[..., Any]]:
    """What `resolve` knows: every class under its own name and in snake_case, and further aliases."""
    known: dict[str, Callable[..., Any]] = {cls.__name__: cls for cls in classes}
    return known | {snake_case(cls.__name__): cls for cls in classes} | aliases


def resolve(kind: str, identifier: Any, known: Mapping[str, Callable[..., Any]]) -> Any:
    """The object that an identifier stands for.

    None stays None; a name or a config dict {"class_name": ..., "config": {...}} is looked up in `known`; a
    class is instantiated; an instance or a function is returned as it is. Raises UnknownNameError otherwise.
    """
    if identifier is None:
        return None
    name, config = identifier, {}
    if isinstance(identifier, dict):
        name, config = identifier.get("class_name"), identifier.get("config", {})
    if isinstance(name, str) and name in known:
        return known[name](**config)
    if inspect.isclass(identifier):
        return identifier()
    if callable(identifier):
        return identifier
    raise unknown_name(kind, name, known)
