"""Does the model compute what the file's configuration says? What differs, in sentences."""

from __future__ import annotations

from difflib import SequenceMatcher
from math import isclose
from typing import Any

from minicnn.errors import InputError
from minicnn.layers import ELU, Activation, Dropout, GaussianNoise, LeakyReLU, ReLU, Softmax
from minicnn.layers.base import Layer
from minicnn.layers.network import Network
from minicnn.layers.weighted import ActivatedLayer
from minicnn.saving.keras_config import Description, translated
from minicnn.saving.keras_layout import keras_order

# Arguments that do not change what a trained layer computes, and those that the arrays' shapes tell.
_NO_MATTER = ("name", "trainable", "input_shape", "algorithm", "momentum", "seed", "filters", "units", "activation")

Step = tuple[str, str, dict[str, Any]]  # class, the layer's name, what it computes with


def differences(described: Description, model: Any) -> list[str]:
    """A sentence for each difference between the file's layers and the model's, in their order.

    An activation counts as a layer of its own: Conv2D(…, activation="relu") is Conv2D(…), Activation("relu").
    """
    theirs, ours = _of_file(described), _of_model(model)
    found: list[str] = []
    where = f"{described.filepath}: the file says"
    kinds = [step[0] for step in theirs], [step[0] for step in ours]
    for what, i, j, k, end in SequenceMatcher(None, *kinds, autojunk=False).get_opcodes():
        if what == "equal":
            for (kind, _, one), (_, name, other) in zip(theirs[i:j], ours[k:end], strict=True):
                found += [
                    f"{where} {argument}={value!r}, {name} ({kind}) has {other[argument]!r}."
                    for argument, value in one.items()
                    if not _equal(value, other.get(argument, value))
                ]
            continue
        said = ", ".join(f"{kind} ({name})" for kind, name, _ in theirs[i:j]) or "nothing"
        has = ", ".join(f"{kind} ({name})" for kind, name, _ in ours[k:end]) or "nothing"
        found.append(f"{where} {said} where the model has {has}.")
    return found


def _of_file(described: Description) -> list[Step]:
    steps: list[Step] = []
    for kind, config in described.walk(described.config["config"]):
        if kind == "InputLayer":
            continue
        try:
            steps += _steps(translated(described, kind, config, None))
        except InputError:  # a layer that minicnn does not have
            steps.append((kind, str(config.get("name")), {}))
    return steps


def _of_model(network: Network) -> list[Step]:
    """In the order in which Keras counts the layers."""
    return [
        step
        for layer in keras_order(network)
        for step in (_of_model(layer) if isinstance(layer, Network) else _steps(layer))
    ]


def _steps(layer: Layer) -> list[Step]:
    kind, config = type(layer).__name__, layer.get_config()
    if isinstance(layer, (Dropout, GaussianNoise)):
        return []
    activation: list[Step] = []
    if isinstance(layer, ActivatedLayer):
        name, options = layer.activation.name, {}
        if name in ("relu", "leaky_relu"):
            slope = 0.2 if name == "leaky_relu" else 0.0
            options = {"negative_slope": slope, "max_value": None, "threshold": 0.0}
            name = "relu"
        elif name == "elu":
            options = {"alpha": 1.0}
        options |= {key: config[key] for key in options if key in config}
        if name != "linear":
            activation = [(f"activation {name}", layer.name, options)]
        if isinstance(layer, (Activation, ELU, LeakyReLU, ReLU, Softmax)):
            return activation
    wanted = {
        key: value
        for key, value in config.items()
        if key not in _NO_MATTER and not key.endswith(("_initializer", "_regularizer", "_constraint"))
    }
    border: list[Step] = []
    if isinstance(wanted.get("padding"), list) and kind != "ZeroPadding2D":
        border = [("ZeroPadding2D", layer.name, {"padding": wanted["padding"]})]
        wanted["padding"] = "valid"
    if "pool_size" in wanted and wanted["strides"] is None:
        wanted["strides"] = wanted["pool_size"]
    return [*border, (kind, layer.name, wanted), *activation]


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return isclose(one, other, rel_tol=1e-6)  # the file may hold what a float32 was
    if isinstance(one, (list, tuple)) != isinstance(other, (list, tuple)):  # 3 means (3, 3)
        one, other = (v if isinstance(v, (list, tuple)) else [v, v] for v in (one, other))
    return (list(one) == list(other)) if isinstance(one, (list, tuple)) else one == other
