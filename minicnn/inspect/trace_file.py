"""A trace on disk: one .npz file, without pickle. "trace.json" holds the names and numbers, as JSON in bytes.

The views take a trace at its word, so a loaded one is compared with itself first: types, and all shapes.
"""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any, TypeVar

import numpy as np

from minicnn import constraints, losses, optimizers, regularizers
from minicnn.files import write_zip
from minicnn.inspect.record import Arrays, LayerTrace, StepTrace
from minicnn.layers import BatchNormalization, Dropout, Layer, MaxPooling2D
from minicnn.layers.base import Shape
from minicnn.layers.weighted import ActivatedLayer
from minicnn.saving.archive import open_archive, parse_json

HEADER = "trace.json"
Traced = TypeVar("Traced", bound=StepTrace)
_KINDS: dict[str, Any] = {
    "str": str, "bool": bool, "int": int, "float": (int, float), "np.ndarray": np.ndarray, "Arrays": dict,
    "Values": (np.ndarray, list), "tuple[int, ...]": tuple,
    "dict[str, Any]": dict, "list[str]": list, "list[LayerTrace]": list,
}  # fmt: skip


def save(t: StepTrace, filepath: Any) -> None:
    """Write the trace. Arrays have names like "2/grads/w"."""
    write_zip(filepath, _flatten(t), level=6)


def load(filepath: Any, cls: type[Traced]) -> Traced:
    """The trace that save wrote, bit for bit, of the class `cls`. Raises OSError where it cannot be read, else
    BrokenFileError.
    """
    with open_archive(filepath, "trace", "Trace.save()", (), "trace the model again.") as archive:
        header = parse_json(archive.read(HEADER).tobytes())
        t = _unflatten(cls, header, {name: archive.read(name) for name in archive.arrays if name != HEADER})
        _check_types(t, "the trace")
        for layer in t.layers:
            _check_types(layer, layer.key)
            _check_rules(layer)
        _check_shapes(t)
        if t.optimizer is not None:
            _check_numbers(t.optimizer, iterations=int, learning_rate=(int, float))
            decay = t.optimizer.get("decay", {})
            _check_numbers(decay, **dict.fromkeys(decay, (int, float)))
        for entry, known in ((t.loss_function, losses), (t.optimizer, optimizers)):
            if entry is not None and hasattr(known, entry["class_name"]):
                config = {name: value for name, value in entry["config"].items() if name != "learning_rate"}
                known.get({"class_name": entry["class_name"], "config": config})
        return t


def _check_numbers(entry: dict[str, Any], **kinds: Any) -> None:
    for name, kind in kinds.items():
        if not isinstance(entry[name], kind) or isinstance(entry[name], bool):
            raise TypeError(f"{name} is no number, but {entry[name]!r}")


def _flatten(t: StepTrace) -> Arrays:
    arrays: Arrays = {}

    def strip(obj: Any, prefix: str) -> dict[str, Any]:
        rest: dict[str, Any] = {}
        for f in fields(obj):
            value = getattr(obj, f.name)
            if isinstance(value, np.ndarray):
                arrays[prefix + f.name] = value
            elif str(f.type).startswith("Values") and value is not None:
                arrays.update({f"{prefix}{f.name}/{k}": array for k, array in enumerate(value)})
            elif f.type == "Arrays":
                arrays.update({f"{prefix}{f.name}/{name}": array for name, array in value.items()})
            elif f.name != "layers":
                rest[f.name] = value
        return rest

    header = strip(t, "")
    header["layers"] = [strip(layer, f"{i}/") for i, layer in enumerate(t.layers)]
    arrays[HEADER] = np.frombuffer(json.dumps(header, default=_plain).encode(), np.uint8)
    return arrays


def _plain(value: Any) -> Any:
    """NumPy's numbers as Python's; of the user's own objects the name, which is all that a view shows."""
    return value.item() if isinstance(value, np.generic) else repr(value)


def _unflatten(cls: type[Traced], header: dict[str, Any], arrays: Arrays) -> Traced:
    entries = header.pop("layers")
    for name, array in arrays.items():
        place, _, rest = name.partition("/")
        group, _, inner = rest.partition("/")
        if inner:
            entries[int(place)].setdefault(group, {})[inner] = array
        elif rest:
            entries[int(place)][group] = array
        else:
            header[name] = array
    for entry in entries:
        entry["inputs"] = tuple(entry["inputs"])
        for name in ("x", "dx"):  # of a merging layer
            if isinstance(entry.get(name), dict):
                entry[name] = [entry[name][str(k)] for k in range(len(entry[name]))]
    return cls(layers=[LayerTrace(**entry) for entry in entries], **header)


# ---- is it a trace? --------------------------------------------------------------------------------------------------


def _check_types(obj: Any, where: str) -> None:
    """TypeError where a field does not hold what its annotation says."""
    for f in fields(obj):
        name, value = str(f.type), getattr(obj, f.name)
        if value is None and name.endswith("| None"):
            continue
        kind = _KINDS[name.removesuffix(" | None")]
        inside: dict[str, Any] = {"Arrays": np.ndarray, "Values": np.ndarray, "list[str]": str}
        part = inside.get(name.removesuffix(" | None"), object)
        right = isinstance(value, kind)
        if right and isinstance(value, (dict, list)):
            right = all(isinstance(item, part) for item in (value.values() if isinstance(value, dict) else value))
        if not right:
            raise TypeError(f"{f.name} of {where} is of type {type(value).__name__}, not {name}")


def _check_rules(layer: LayerTrace) -> None:
    """TypeError, KeyError or ValueError where a regularizer or constraint is not what its get_config would say."""
    for ending, rules in (("_regularizer", regularizers), ("_constraint", constraints)):
        for name, entry in layer.config.items():
            if not name.endswith(ending) or entry is None or isinstance(entry, str):  # a text: of the user's own
                continue
            if not isinstance(entry["class_name"], str) or not isinstance(entry["config"], dict):
                raise TypeError(f"{name} of {layer.key} is {entry!r}")
            if hasattr(rules, entry["class_name"]) and rules.get(entry).get_config().keys() != entry["config"].keys():
                raise ValueError(f"{name} of {layer.key} is {entry!r}")


def _check_shapes(t: StepTrace) -> None:
    """ValueError where an array does not have the shape that another one asks for."""
    n, shapes = len(t.x), [t.x.shape]
    if not t.layers or n == 0:
        raise ValueError("a trace of nothing")
    for layer in t.layers:
        if not layer.inputs or not all(type(j) is int and -1 <= j < len(shapes) - 1 for j in layer.inputs):
            raise ValueError(f"{layer.key} reads {layer.inputs}")
        several = isinstance(layer.x, list)
        xs, dxs = (layer.x, layer.dx) if several else ([layer.x], [layer.dx])
        for x, j in zip(xs, layer.inputs, strict=True):
            _same(layer.key, "x", x.shape, shapes[j + 1])
        made, samples = layer.made(), [x.shape[1:] for x in xs]
        if made is not None and made.merges != several:
            raise ValueError(f"{layer.key} reads {len(xs)} values")
        sample: Any = samples if several else samples[0]
        if made is not None:
            _same(layer.key, "y", layer.y.shape, (n, *made.output_shape(sample)))
            for name, shape in made.array_shapes(sample).items():
                array = layer.state[name] if name in layer.state else layer.params[name]
                _same(layer.key, name, array.shape, shape)
            missing = _between(made, layer, t.training) - layer.kept.keys()
            if missing:
                raise ValueError(f"{sorted(missing)} of {layer.key} are missing")
        pairs = [("dx", dx, x) for dx, x in zip(dxs or [None] * len(xs), xs, strict=True)]
        for name, given, like in (("dy", layer.dy, layer.y), *pairs):
            if given is not None:
                _same(layer.key, name, given.shape, like.shape)
        for name in ("z", "dz", "mask", "winner", "x_hat"):
            if name in layer.kept:
                _same(layer.key, name, layer.kept[name].shape, layer.y.shape)
        for group in (layer.grads, layer.applied, layer.updated, layer.slots, layer.slots_after):
            for name, array in group.items():
                _same(layer.key, name, array.shape, layer.params[name.partition("/")[0]].shape)
        _same_names(layer.key, "updated", layer.updated, layer.params if t.optimizer is not None else {})
        _same_names(layer.key, "slots_after", layer.slots_after, layer.slots)
        for name, array in layer.state_after.items():
            _same(layer.key, name, array.shape, layer.state[name].shape)
        shapes.append(layer.y.shape)
    _same("the trace", "y_pred", t.y_pred.shape, shapes[-1])
    for name, given in (("y_true", t.y_true), ("losses", t.losses)):
        if given is not None:
            _same("the trace", name, given.shape[:1], (n,))


def _between(made: Layer, layer: LayerTrace, training: bool) -> set[str]:
    """What must be in `kept`: see LayerTrace."""
    if isinstance(made, ActivatedLayer):
        more = {"relu": {"mask"}, "softmax": {"max", "exp", "sum"}}.get(made.activation.name, set())
        return {"z", *more} | ({"dz"} if layer.dy is not None else set())
    if isinstance(made, BatchNormalization):
        return {"mean", "var", "x_hat", "of_batch"}
    masked = isinstance(made, Dropout) and training and made.rate > 0
    return {"winner"} if isinstance(made, MaxPooling2D) else {"mask"} if masked else set()


def _same_names(where: str, group: str, found: Arrays, wanted: Arrays) -> None:
    if found.keys() != wanted.keys():
        raise ValueError(f"{group} of {where} holds {sorted(found)} instead of {sorted(wanted)}")


def _same(where: str, name: str, found: Shape, wanted: Shape) -> None:
    if found != wanted:
        raise ValueError(f"{name} of {where} has shape {found} instead of {wanted}")
