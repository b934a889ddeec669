"""From a name to an object and back: the `get()` functions, and the configurations that files hold."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from minicnn.activations import Function
from minicnn.arguments import in_words
from minicnn.errors import InputError, checked, shortened, unknown_name

if TYPE_CHECKING:
    from typing import Self  # since Python 3.11

# minicnn's own classes by name. Nothing else can be reached by a name in a file, but for what the user passes as
# custom_objects. Several of one name are a loss and a metric.
_OWN: dict[str, list[type[Configured]]] = {}


def check_config(where: str, config: Any) -> None:
    """InputError unless config is what a get_config returns: a dict whose keys are names of arguments."""
    if not isinstance(config, dict) or not all(isinstance(name, str) for name in config):
        raise InputError(
            where, "this is no configuration.", "a dict of the constructor's arguments, by name.",
            f"{shortened(repr(config))}.", "pass what get_config() returns.",
        )  # fmt: skip


class Configured:
    """Base of layers, losses, metrics, optimizers, initializers … : all that a file can describe.

    The constructor stores its arguments under their own names. get_config finds them there by its signature, so that
    neither method has to be written in a class. ranges: argument -> (what it must be, an example), as
    minicnn.errors.checked takes them; checked whenever the attribute is set. A constructor raises InputError for
    arguments that it does not have.
    """

    ranges: ClassVar[Mapping[str, tuple[Any, Any]]] = {}

    @in_words
    def __init__(self) -> None: ...

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__init__" in vars(cls):
            cls.__init__ = in_words(cls.__init__)  # type: ignore[method-assign]
        if cls.__module__.startswith("minicnn.") and not cls.__name__.startswith("_"):
            _OWN.setdefault(cls.__name__, []).append(cls)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.ranges:
            wanted, example = self.ranges[name]
            value = checked(type(self).__name__, name, value, wanted, example)
        super().__setattr__(name, value)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments as JSON can hold them: `type(self).from_config` makes an equal object of them."""
        return {name: serialize(getattr(self, name)) for name in self._arguments()}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Mapping[str, type] | None = None) -> Self:
        """A new object from what get_config returned. custom_objects: classes of your own, by name, within it.

        Raises InputError where it is no dict, or the constructor does not take what is in it.
        """
        check_config(cls.__name__, config)
        return cls(**{name: restored(value, custom_objects) for name, value in config.items()})

    @classmethod
    def _restored(cls, config: dict[str, Any], custom_objects: Mapping[str, type] | None) -> Any:
        """from_config for `restored`; a class that overrides it need not know custom_objects."""
        if "custom_objects" in inspect.signature(cls.from_config).parameters:
            return cls.from_config(config, custom_objects)
        return cls.from_config(config)

    @classmethod
    def _arguments(cls) -> list[str]:
        """The names of the constructor's arguments; where it ends in **, those of the base class's as well."""
        names: list[str] = []
        for base in cls.__mro__:
            if base is not object and "__init__" in vars(base):
                parameters = list(inspect.signature(vars(base)["__init__"]).parameters.values())[1:]
                named = [p for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
                names += [p.name for p in named if p.name not in names]
                if all(p.kind != p.VAR_KEYWORD for p in parameters):
                    break
        return names

    def _refuse(self, unknown: Mapping[str, Any]) -> None:
        """UnknownNameError for the first of these arguments, which nobody in the line of base classes has taken."""
        for argument in unknown:
            raise unknown_name(f"argument of {type(self).__name__}", argument, self._arguments())


def serialize(value: Any) -> Any:
    """A value as JSON can hold it: objects as {"class_name", "config"}, activations by name."""
    if isinstance(value, Function):
        return value.name
    if hasattr(value, "get_config") and not isinstance(value, type):
        return {"class_name": type(value).__name__, "config": value.get_config()}
    if isinstance(value, dict):
        return {name: serialize(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [serialize(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value


def restored(value: Any, custom_objects: Mapping[str, type] | None = None) -> Any:
    """What `serialize` was given, made again: minicnn's own classes and those in custom_objects, and no others.

    Other names are left as they are, for the `get()` of the argument: aliases, and those of a loss and a metric alike.
    Raises UnknownNameError for the name of a class that is neither.
    """
    if isinstance(value, list):
        return [restored(item, custom_objects) for item in value]
    if not isinstance(value, dict):
        return value
    name, config = value.get("class_name"), value.get("config")
    if not (isinstance(name, str) and isinstance(config, dict)):
        return {key: restored(item, custom_objects) for key, item in value.items()}
    if custom_objects and name in custom_objects:
        return _made(custom_objects[name], config, custom_objects)
    own = _OWN.get(name, [])
    if len(own) == 1:
        return _made(own[0], config, custom_objects)
    if not own and name[:1].isupper():
        raise unknown_name("class (pass your own as custom_objects)", name, [*_OWN, *(custom_objects or ())])
    return value


def _made(cls: Any, config: dict[str, Any], custom_objects: Mapping[str, type] | None) -> Any:
    return cls._restored(config, custom_objects) if issubclass(cls, Configured) else cls(**config)


def snake_case(name: str) -> str:
    """`GlorotUniform` -> `glorot_uniform`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def names_of(*classes: type, **aliases: Callable[..., Any]) -> dict[str, Callable[..., Any]]:
    """What `resolve` knows: every class under its own name and in snake_case, and further aliases."""
    known: dict[str, Callable[..., Any]] = {cls.__name__: cls for cls in classes}
    return known | {snake_case(cls.__name__): cls for cls in classes} | aliases


def resolve(kind: str, identifier: Any, known: Mapping[str, Callable[..., Any]], base: type) -> Any:
    """The object that an identifier stands for.

    None stays None; a name or a config dict {"class_name": ..., "config": {...}} is looked up in `known`; a class is
    instantiated; an instance of `base` or a function is returned as it is. Raises UnknownNameError otherwise, also for
    objects of minicnn that are of another kind.
    """
    if identifier is None or isinstance(identifier, base):
        return identifier
    name, config = identifier, {}
    if isinstance(identifier, dict):
        name, config = identifier.get("class_name"), identifier.get("config", {})
    if isinstance(name, str) and name in known:
        made = known[name]
        if hasattr(made, "from_config"):
            return made.from_config(config)
        check_config(name, config)
        return in_words(made)(**config)
    if inspect.isclass(identifier) and not (issubclass(identifier, Configured) and not issubclass(identifier, base)):
        return identifier()
    if callable(identifier) and not inspect.isclass(identifier) and not isinstance(identifier, Configured):
        return identifier
    raise unknown_name(kind, name, known)
