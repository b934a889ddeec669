"""A model as a file that Keras 3 opens.

    .keras        a zip of config.json, metadata.json and model.weights.h5
    .h5           the older form: the same configuration as an attribute, and the arrays of each layer in a group
    .weights.h5   the arrays alone, as in a .keras file

What Keras has no place for (class names, image input) stands under "minicnn", at which it does not look. Of the
optimizer the configuration is written, not its arrays: Keras begins them anew.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minicnn import activations, constraints, initializers, regularizers
from minicnn.backend import to_host
from minicnn.errors import InputError
from minicnn.files import atomic_write
from minicnn.layers.base import Layer
from minicnn.layers.network import Chain, Network
from minicnn.layers.weighted import BiasedLayer
from minicnn.registry import serialize, snake_case
from minicnn.saving.keras_config import LAYERS
from minicnn.saving.keras_layout import in_keras_order
from minicnn.saving.keras_weights import frozen_layers, slots_of

_OURS_ONLY = ("algorithm", "input_shape", "data_format")
MAX_ATTRIBUTE = 60_000  # bytes of an attribute, a little below HDF5's limit
_NO_KERAS = "save it as minicnn's own file: model.save('model.zip')."


def save_model(model: Network, filepath: Any, overwrite: bool, noted: dict[str, Any], told: Any) -> None:
    """Write the file. noted: what minicnn alone reads. told: what compile was told, as Keras writes it, or None.

    Raises InputError for a layer or an argument that Keras does not have, and where h5py is missing.
    """
    _check_free(filepath, overwrite)
    if not str(filepath).endswith(".keras"):
        content = _hdf5(lambda root: _write_older(root, model, noted, told))
        with atomic_write(filepath) as file:
            file.write(content.getbuffer())
        return
    config = _network(model) | {"compile_config": told}
    weights = _hdf5(lambda root: _write_layers(root, model))
    texts = {"metadata.json": {"keras_version": "3.0.0", "minicnn": noted}, "config.json": config}
    with atomic_write(filepath) as file, zipfile.ZipFile(file, "w") as archive:
        for name, text in texts.items():
            archive.writestr(zipfile.ZipInfo(name), json.dumps(text))
        archive.writestr(zipfile.ZipInfo("model.weights.h5"), weights.getbuffer())


def save_weights(model: Network, filepath: Any, overwrite: bool) -> None:
    """Write the arrays alone, for load_weights of Keras 3. Raises InputError as save_model does."""
    _check_free(filepath, overwrite)
    write = _write_layers if str(filepath).endswith(".weights.h5") else _write_arrays
    content = _hdf5(lambda root: write(root, model))
    with atomic_write(filepath) as file:
        file.write(content.getbuffer())


def _check_free(filepath: Any, overwrite: bool) -> None:
    if not overwrite and Path(filepath).exists():
        raise FileExistsError(f"{filepath} exists already; pass overwrite=True to replace it")


def _hdf5(write: Callable[[Any], None]) -> io.BytesIO:
    """An HDF5 file in memory, in which `write` has put something. InputError without h5py."""
    try:
        import h5py
    except ImportError as error:
        raise InputError(
            "save", "h5py is not installed, without which Keras' files cannot be written.", "the package h5py.",
            f"{error}.", 'install it with `python -m pip install h5py`; or save under a name that ends in ".zip".',
        ) from error  # fmt: skip
    content = io.BytesIO()
    with h5py.File(content, "w") as root:
        write(root)
    return content


# ---- the layers as Keras counts them ---------------------------------------------------------------------------------


class Part(NamedTuple):
    """A layer of Keras. layer: whose arrays it has, or None. entry: its configuration."""

    layer: Layer | None
    entry: dict[str, Any]

    @property
    def name(self) -> str:
        return self.entry["config"]["name"]


def _uses(network: Network) -> list[tuple[Part, tuple[int, ...]]]:
    """network.uses in Keras' layers: before a convolution with borders of its own stands a ZeroPadding2D."""
    parts: dict[int, list[Part]] = {}
    uses: list[tuple[Part, tuple[int, ...]]] = []
    ends: list[int] = []  # of each use of ours, the last one here
    for layer, inputs in network.uses:
        read = tuple(-1 if j < 0 else ends[j] for j in inputs)
        for part in parts.setdefault(id(layer), _parts(layer)):
            uses.append((part, read))
            read = (len(uses) - 1,)
        ends.append(len(uses) - 1)
    return uses


def _write_layers(group: Any, network: Network) -> None:
    """The arrays of a network: layers/<class>_<number>/vars/0, …, numbered by class in Keras' order."""
    group.create_group("vars").attrs["name"] = network.name
    counts: dict[str, int] = {}
    inside = group.create_group("layers")
    for part in in_keras_order(_uses(network)):
        kind = snake_case(part.entry["class_name"])
        number = counts[kind] = counts.get(kind, -1) + 1
        child = inside.create_group(f"{kind}_{number}" if number else kind)
        if isinstance(part.layer, Network):
            _write_layers(child, part.layer)
            continue
        own = child.create_group("vars")
        own.attrs["name"] = part.name
        arrays = [] if part.layer is None else [*part.layer.params.values(), *part.layer.state.values()]
        for i, array in enumerate(arrays):
            own[str(i)] = to_host(array)


def _write_older(root: Any, model: Network, noted: dict[str, Any], told: Any) -> None:
    """A whole model in the older form."""
    if told is not None:
        told = {"optimizer_config": told["optimizer"], "loss_weights": None, **told}
    for name, config in (("model_config", _network(model)), ("training_config", told), ("minicnn", noted)):
        if config is not None:
            root.attrs[name] = json.dumps(config).encode()
    root.attrs["backend"], root.attrs["keras_version"] = b"tensorflow", b"3.0.0"
    _write_arrays(root.create_group("model_weights"), model)


def _write_arrays(weights: Any, model: Network) -> None:
    """The older form: arrays under the names of layer and array, in the order of the attributes that list them."""
    weights.attrs["backend"], weights.attrs["keras_version"] = b"tensorflow", b"3.0.0"
    parts = in_keras_order(_uses(model))
    _list_names(weights, "layer_names", [part.name for part in parts])
    for part in parts:
        group = weights.create_group(part.name)
        slots = [] if part.layer is None else slots_of(part.layer)
        frozen = set() if part.layer is None else frozen_layers(part.layer)
        slots.sort(key=lambda slot: not slot.learned or slot.layer in frozen)  # what learns first
        names = [f"{slot.layer}/{slot.keras_name}" for slot in slots]
        _list_names(group, "weight_names", names)
        for name, slot in zip(names, slots, strict=True):
            group[name] = to_host(slot.array)


def _list_names(group: Any, attribute: str, names: list[str]) -> None:
    """An attribute of names; in several parts where it would be longer than HDF5 allows."""
    encoded = np.array([name.encode() for name in names], dtype="S") if names else np.zeros(0, "S1")
    parts = np.array_split(encoded, max(1, -(-encoded.nbytes // MAX_ATTRIBUTE)))
    for i, part in enumerate(parts):
        group.attrs[attribute if len(parts) == 1 else f"{attribute}{i}"] = part


# ---- the configuration -----------------------------------------------------------------------------------------------


def _object(module: str, kind: str, config: Any) -> dict[str, Any]:
    return {"module": module, "class_name": kind, "config": config, "registered_name": None}


def _network(network: Network) -> dict[str, Any]:
    shape = [None, *network.shapes[0]]
    config: dict[str, Any] = {"name": network.name, "trainable": True}
    if isinstance(network, Chain):
        start = _input(network.input_name or "input_layer", shape)
        config["layers"] = [start, *(part.entry for part, _ in _uses(network))]
        config["build_input_shape"] = shape
        return _object("keras", "Sequential", config) | {"build_config": {"input_shape": shape}}
    config |= _graph(network, shape)
    return _object("keras.src.models.functional", "Functional", config) | {"build_config": {"input_shape": None}}


def _input(name: str, shape: list[Any]) -> dict[str, Any]:
    return _object("keras.layers", "InputLayer", {"batch_shape": shape, "dtype": "float32", "name": name})


def _graph(network: Network, shape: list[Any]) -> dict[str, Any]:
    """Layers, and what each of their calls reads."""
    uses = _uses(network)
    taken = {part.name for part, _ in uses}
    wanted = network.input_name or "input_layer"
    start = next(name for i in range(len(taken) + 1) if (name := f"{wanted}{f'_{i}' if i else ''}") not in taken)
    entries = [_input(start, shape) | {"name": start, "inbound_nodes": []}]
    calls: dict[str, list[Any]] = {name: [] for name in taken}
    shapes = iter(network.shapes[1:])
    values = [_tensor(start, 0, shape)]  # the input, and what each use gives
    for part, inputs in uses:
        tensors = [values[j + 1] for j in inputs]
        merges = getattr(part.layer, "merges", False)
        calls[part.name].append({"args": [tensors] if merges else tensors, "kwargs": {}})
        shape = [None] * 4 if part.layer is None else [None, *next(shapes)]
        values.append(_tensor(part.name, len(calls[part.name]) - 1, shape))
    entries += [p.entry | {"name": p.name, "inbound_nodes": calls[p.name]} for p in in_keras_order(uses)]
    return {"layers": entries, "input_layers": [start, 0, 0], "output_layers": values[-1]["config"]["keras_history"]}


def _tensor(name: str, call: int, shape: list[Any]) -> dict[str, Any]:
    """A symbolic value of Keras: what call number `call` of a layer gives."""
    config = {"shape": shape, "dtype": "float32", "keras_history": [name, call, 0]}
    return {"class_name": "__keras_tensor__", "config": config}


def _parts(layer: Layer) -> list[Part]:
    if isinstance(layer, Network):
        return [Part(layer, _network(layer))]
    kind = type(layer).__name__
    if LAYERS.get(kind) != kind or not type(layer).__module__.startswith("minicnn."):
        raise InputError(
            layer.name, f"Keras has no layer {kind}.", f"one of {', '.join(sorted(set(LAYERS.values())))}.", f"{kind}.",
            _NO_KERAS,
        )  # fmt: skip
    config = {"name": layer.name, "trainable": layer.trainable, "dtype": "float32"}
    for name, given in layer.get_config().items():
        if name not in (*_OURS_ONLY, *config):
            config[name] = _value(layer, name, given if kind == "Normalization" else getattr(layer, name))
    if isinstance(layer, BiasedLayer) and not isinstance(config.get("padding", "valid"), str):
        border = {"name": f"{layer.name}_padding", "padding": config["padding"]}
        config["padding"] = "valid"
        padding = Part(None, _object("keras.layers", "ZeroPadding2D", border))
        return [padding, Part(layer, _object("keras.layers", kind, config))]
    return [Part(layer, _object("keras.layers", kind, config))]


def _value(layer: Layer, name: str, value: Any) -> Any:
    """An argument as Keras' configuration has it."""
    if isinstance(value, activations.Function):
        if not activations.is_known(value):
            raise InputError(
                layer.name, f"its activation {value.name!r} has options, or is none of minicnn's.",
                "an activation that has a name in Keras.", f"{value!r}.", _NO_KERAS,
            )  # fmt: skip
        return value.name
    for module in (initializers, regularizers, constraints):
        if hasattr(value, "get_config") and type(value).__module__ == module.__name__:
            return _object(f"keras.{module.__name__.split('.')[-1]}", type(value).__name__, value.get_config())
    if name.endswith("_initializer"):  # of the user's own; the weights are there already
        return None
    if callable(value) or hasattr(value, "get_config"):
        raise InputError(
            layer.name, f"its {name} is none of minicnn's: Keras could not make it again.", "one of minicnn's.",
            f"{value!r}.", _NO_KERAS,
        )  # fmt: skip
    value = serialize(value)
    return value.tolist() if isinstance(value, np.ndarray) else value
