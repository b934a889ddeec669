"""clone_model: the same network once more, with layers and weights of its own; or with some layers exchanged."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

from minicnn.arguments import in_words
from minicnn.errors import InputError, check_callable
from minicnn.layers.base import Layer
from minicnn.layers.core import Input
from minicnn.layers.network import Chain, Network
from minicnn.layers.symbolic import SymbolicTensor


@in_words
def clone_model(
    model: Network,
    input_tensors: Any = None,
    clone_function: Callable[[Layer], Layer] | None = None,
    call_function: Callable[..., SymbolicTensor] | None = None,
    recursive: bool = False,
) -> Any:
    """A new model of the same architecture and names, compiled alike, whose weights are drawn anew.

    input_tensors: a symbolic value on which to build it, else a new Input. clone_function(layer) gives the layer that
    takes a layer's place, itself for example; default: one of the same configuration. call_function(layer, x) calls
    that layer, and may put others behind it; not for a Sequential. recursive: clone_function is asked for the layers of
    inner models, too, instead of for these as a whole. Raises InputError.
    """
    if not isinstance(model, Network):
        raise InputError(
            "clone_model", "this is no model.", "a Sequential or a Model.", f"{type(model).__name__}.",
            "pass the model; a layer is copied by type(layer).from_config(layer.get_config()).",
        )  # fmt: skip
    if clone_function is not None:
        check_callable("clone_model clone_function", clone_function, "f(layer)", None)
    if call_function is not None:
        check_callable("clone_model call_function", call_function, "f(layer, x)", None, None)
    own = {type(layer).__name__: type(layer) for layer in model.flat_layers}

    def clone(layer: Layer) -> Layer:
        if isinstance(layer, Network) and (recursive or clone_function is None):
            calls = None if isinstance(layer, Chain) else call_function
            return clone_model(layer, None, clone_function, calls if recursive else None, recursive)
        made = type(layer)._restored(layer.get_config(), own) if clone_function is None else clone_function(layer)
        if not isinstance(made, Layer):
            raise InputError(
                "clone_model clone_function", "it gave no layer.", "a layer for each layer.",
                f"{type(made).__name__} for {layer.name}.", "return the layer itself where it is to stay.",
            )  # fmt: skip
        return made

    def call(layer: Layer, x: Any) -> SymbolicTensor:
        y = layer(x) if call_function is None else call_function(layer, x)
        if not isinstance(y, SymbolicTensor):
            raise InputError(
                "clone_model call_function", "it gave no symbolic value.", "what layer(x) returns.",
                f"{type(y).__name__} for {layer.name}.", "end it with return layer(x).",
            )  # fmt: skip
        return y

    copies = {id(layer): clone(layer) for layer in model.layers}  # a layer that is used twice stays one
    x = _first(model, input_tensors)
    if isinstance(model, Chain):
        if call_function is not None:
            raise InputError(
                "clone_model call_function", "the layers of a Sequential are not called one by one.",
                "a Model, built by calling layers.", f"{type(model).__name__} {model.name}.",
                "use clone_function, or write x = Input(shape), y = layer(x), …, Model(x, y).",
            )  # fmt: skip
        new: Any = type(model)([*([] if x is None else [x]), *copies.values()], name=model.name)
    else:
        values = [x]
        for layer, inputs in model.uses:
            read = [values[j + 1] for j in inputs]
            values.append(call(copies[id(layer)], read if layer.merges else read[0]))
        new = type(model)(values[0], values[-1], name=model.name)
    for note in ("class_names", "image_input"):
        if hasattr(model, note):
            setattr(new, note, getattr(model, note))
    _compile_alike(new, model)
    return new


def _compile_alike(new: Any, model: Any) -> None:
    """With an optimizer of its own, which has made no step, and metrics of its own."""
    if getattr(model, "compiled", False):
        optimizer = type(model.optimizer).from_config(model.optimizer.get_config())
        metrics, weighted = deepcopy((model.metric_names, model.weighted_metric_names))
        new.compile(optimizer, deepcopy(model.loss), metrics=metrics, weighted_metrics=weighted)


def _first(model: Network, given: Any) -> SymbolicTensor | None:
    """The value that the clone begins with; None for a Sequential that does not know its input yet."""
    if given is None:
        return None if model.sample_shape is None else Input(model.sample_shape)
    values = list(given) if isinstance(given, (list, tuple)) else [given]
    if len(values) != 1 or not isinstance(values[0], SymbolicTensor):
        raise InputError(
            "clone_model input_tensors", "a model has one input.", "a symbolic value, as Input(shape) gives it.",
            f"{given!r}.", "leave it out for a new Input of the same shape.",
        )  # fmt: skip
    return Input(values[0].sample_shape) if isinstance(model, Chain) else values[0]
