"""Models on disk: one file, a zip that NumPy itself can open, without pickle.

    config.json                 architecture, loss, optimizer, class names, image input, random generator; plain JSON
    params/conv2d_1/w.npy       parameters        state/batch_normalization_1/moving_mean.npy       running statistics
    optimizer/conv2d_1/w/m_sum.npy    the optimizer's arrays

A file is written aside and renamed when it is complete: what stood there before is never half overwritten.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from minicnn import activations
from minicnn.backend import move, to_host, xp_of
from minicnn.errors import BrokenFileError, InputError, shortened
from minicnn.files import checked_path, write_zip
from minicnn.layers.base import Shape, checked_shape
from minicnn.layers.network import Network, typed
from minicnn.layers.walk import input_shape_of, shapes_of
from minicnn.metrics import FunctionMetric
from minicnn.preprocessing.image_input import ImageInput
from minicnn.ranks import first_rank_does
from minicnn.reading import check_finite, checked
from minicnn.registry import restored
from minicnn.saving import keras_model, keras_weights, keras_writer, safetensors_file
from minicnn.saving.archive import Archive, open_archive

FORMAT = 1
KERAS_SUFFIXES = (".keras", ".h5", ".hdf5")  # of files that are written for Keras
_FIX = "load the file as it was saved: it has been changed, or is of another kind."


def save_model(model: Any, filepath: Any, overwrite: bool = True) -> None:
    """Write architecture, weights, state, optimizer, class names, image input and random generator into one file.

    `load_model` gives a model with the same predictions, bit for bit, that trains on as this one would. Raises
    InputError for a layer that cannot be written, FileExistsError unless `overwrite`, WriteError (an OSError) where the
    disk refuses. A path that ends in .keras or .h5: see minicnn/saving/keras_writer.py.
    """
    filepath = checked_path("save", filepath)
    first_rank_does(f"the saving of {Path(filepath).name}", lambda: _save_model(model, filepath, overwrite))


def _save_model(model: Any, filepath: str, overwrite: bool) -> None:
    model.require_built("it cannot be saved")
    _check_not_shared(model, {})
    if str(filepath).endswith(KERAS_SUFFIXES):
        noted = {"class_names": _class_names(model), "image_input": _image_input_config(model)}
        keras_writer.save_model(model, filepath, overwrite, noted, keras_model.compile_config(model))
        return
    for layer in model.flat_layers:
        _check_writable(layer)
    config: dict[str, Any] = {"format": FORMAT, "model": model.get_config(), "class_names": _class_names(model)}
    config["image_input"] = _image_input_config(model)
    config["rng"] = model.rng.bit_generator.state
    arrays = weights_by_name(model) | slots_by_name(model)
    if model.optimizer is not None:
        optimizer = model.optimizer
        names = [*model.metric_names, *model.weighted_metric_names]
        metrics = [name if isinstance(name, str) else _name_of_function(metric) or _named(metric)
                   for name, metric in zip(names, model.metrics, strict=True)]  # fmt: skip
        plain = len(model.metric_names)
        config["compile"] = {
            "optimizer": _named(optimizer), "loss": _named(model.loss), "iterations": optimizer.iterations,
            "metrics": metrics[:plain], "weighted_metrics": metrics[plain:],
        }  # fmt: skip
    write_archive(filepath, config, arrays, overwrite)


def _check_not_shared(network: Network, owners: dict[int, str]) -> None:
    """InputError where two networks inside the model share a layer: from their configs two layers would be made."""
    for layer in network.layers:
        owner = owners.setdefault(id(layer), network.name)
        if owner != network.name:
            raise InputError(
                layer.name, "two networks share this layer, and a model file cannot say so.",
                "each layer in one network; that one may be called twice.", f"it is in {owner} and in {network.name}.",
                "write the weights alone with save_weights, and build the model in code.",
            )  # fmt: skip
        if isinstance(layer, Network):
            _check_not_shared(layer, owners)


def save_weights(model: Any, filepath: Any, overwrite: bool = True) -> None:
    """Write parameters and state only; into such a file where the path ends in .safetensors. Raises as save_model."""
    filepath = checked_path("save_weights", filepath)
    model.require_built("it has no weights to save")

    def write() -> None:
        if str(filepath).endswith(safetensors_file.SUFFIX):
            safetensors_file.save_weights(model, filepath, overwrite)
        elif str(filepath).endswith(KERAS_SUFFIXES[1:]):
            keras_writer.save_weights(model, filepath, overwrite)
        else:
            write_archive(filepath, {"format": FORMAT}, weights_by_name(model), overwrite)

    first_rank_does(f"the saving of {Path(filepath).name}", write)


def load_model(filepath: Any, models: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> Any:
    """The model that save_model wrote, or Keras: see minicnn/saving/keras_model.py.

    models: the classes of models by name, which live above this room; `minicnn.models.load_model` passes them.
    custom_objects: the user's own classes of layers, losses, metrics and optimizers by name; no other class but
    minicnn's own can be named by a file. Raises FileNotFoundError, BrokenFileError for a file that is not a whole model
    or holds NaN, UnknownNameError for a class that is neither minicnn's nor in custom_objects. No memory is taken for
    a parameter before its array was found in the file.
    """
    filepath = checked_path("load_model", filepath)
    if keras_weights.is_keras_file(filepath):
        return keras_model.load_model(filepath, models)
    with opened_archive(filepath) as (config, archive):
        if "model" not in config:
            raise BrokenFileError(
                filepath, "this file holds weights, but no model.", "a file written by model.save().",
                "one written by model.save_weights().", "build the model in code, then model.load_weights(file).",
            )  # fmt: skip
        with checked(filepath, "its config.json is not that of a model.", "what model.save() wrote.", _FIX):
            kind = models["Model" if "uses" in config["model"] else "Sequential"]
            model = kind.unbuilt(config["model"], custom_objects)
            model.sample_shape = checked_shape(model.name, config["model"]["input_shape"])
            _check_plan(model, archive, filepath)
            model.build_known()
            _take_double_precision(model, archive)
            _restore(model, config, custom_objects)
        set_weights_by_name(model, archive, filepath)
        set_slots_by_name(model, archive, filepath)
    return model


def load_weights(model: Any, filepath: Any, skip_mismatch: bool = False, by_name: bool = False) -> None:
    """Read parameters and state from a file of save_weights or save_model, or from one of Keras, into a built model.

    by_name: only into the layers that are in the file; others keep what they have. skip_mismatch: leave out, with a
    warning, what does not fit. Files of Keras: see minicnn/saving/keras_weights.py. Raises BrokenFileError, and changes
    nothing, where an array is missing, of another shape, or not finite.
    """
    filepath = checked_path("load_weights", filepath)
    model.require_built("it cannot take weights")
    if keras_weights.is_keras_file(filepath):
        keras_weights.load_weights(model, filepath, skip_mismatch, by_name)
        return
    with _opened_weights(model, filepath) as archive:
        chosen = None
        if by_name or skip_mismatch:
            chosen = _what_fits(model, archive, filepath, by_name, skip_mismatch)
        set_weights_by_name(model, archive, filepath, chosen)


@contextmanager
def _opened_weights(model: Any, filepath: Any) -> Iterator[Any]:
    """The arrays of one of our files, or of a safetensors file, under our names; none is read yet."""
    if safetensors_file.is_safetensors(filepath):
        with safetensors_file.opened(filepath, model) as tensors:
            yield tensors
    else:
        with opened_archive(filepath) as (_, archive):
            yield archive


def _check_plan(model: Network, archive: Archive, filepath: Any) -> None:
    """BrokenFileError unless the file holds what building this model would create, as far as its layers can tell."""
    shapes = shapes_of(model.nodes, model.sample_shape or ())
    for node in model.nodes:
        for name, wanted in node.layer.array_shapes(input_shape_of(node.layer, node.inputs, shapes)).items():
            state = f"state/{node.key}/{name}"
            _check_array(archive, state if state in archive.arrays else f"params/{node.key}/{name}", wanted, filepath)


def _take_double_precision(model: Network, archive: Archive) -> None:
    """A new model has float32 arrays; where the file has all of its parameters in float64, they become so."""
    found = {header.dtype for name, header in archive.arrays.items() if name.startswith("params/")}
    if found != {np.dtype(np.float64)}:
        return
    for layer in model.flat_layers:
        for arrays in (layer.params, layer.state):
            for name, array in arrays.items():
                arrays[name] = array.astype(np.float64)


def _restore(model: Any, config: dict[str, Any], custom_objects: dict[str, Any] | None) -> None:
    """Class names, image input, loss, optimizer and random generator from config.json."""
    names = config["class_names"]
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise TypeError("class_names is no list of names")
    model.class_names = names
    if config.get("image_input") is not None:
        model.image_input = ImageInput(**config["image_input"])
        model.image_input.check_fits(model.sample_shape)
    compiled = config.get("compile")
    if compiled is not None:
        plain = typed(compiled, "metrics", list)
        weighted = typed(compiled, "weighted_metrics", list) if "weighted_metrics" in compiled else []
        entries = (compiled["optimizer"], compiled["loss"], *plain, *weighted)
        own = custom_objects or {}
        optimizer, loss, *metrics = (
            restored(entry, own) if isinstance(entry, dict) and entry["class_name"] in own
            else own.get(entry, entry) if isinstance(entry, str) else entry
            for entry in entries
        )
        model.compile(optimizer, loss, metrics=metrics[: len(plain)], weighted_metrics=metrics[len(plain) :])
        model.optimizer.iterations = typed(compiled, "iterations", int)
        if not 0 <= model.optimizer.iterations < 1 << 53:
            raise ValueError(f"iterations is {model.optimizer.iterations}")
    model.rng = generator_from(config["rng"])


def _name_of_function(metric: Any) -> str | None:
    """A function as a metric goes by its name; whoever loads the model passes it in custom_objects."""
    return metric.function.__name__ if isinstance(metric, FunctionMetric) else None


def weights_by_name(model: Any) -> dict[str, np.ndarray]:
    """Parameters and state on the host: "params/conv2d_1/w", "state/batch_normalization_1/moving_mean", …"""
    arrays = {}
    for key, layer in model.layers_by_key.items():
        for kind, group in (("params", layer.params), ("state", layer.state)):
            for name, array in group.items():
                arrays[f"{kind}/{key}/{name}"] = to_host(array)
    return arrays


def _what_fits(
    model: Any, archive: Archive, filepath: Any, by_name: bool, skip_mismatch: bool
) -> set[str]:
    """The names of the file's arrays that are to be taken; the other layers keep their own."""
    own, theirs = _by_layer(weights_by_name(model)), _by_layer(archive.arrays)
    if by_name and not set(own) & set(theirs):
        raise BrokenFileError(
            filepath, "it has no layer of any name that the model has.", f"some of {', '.join(own)}.",
            f"{', '.join(theirs)}.", "give the layers the names of the file, or leave by_name out.",
        )  # fmt: skip
    chosen: set[str] = set()
    for layer, mine in own.items():
        found = theirs.pop(layer, None if by_name else {})
        if found is None:
            continue
        if skip_mismatch and {k: a.shape for k, a in found.items()} != {k: a.shape for k, a in mine.items()}:
            warnings.warn(f"Left out: {layer}, of which {filepath} has none or one of another size.", stacklevel=5)
        else:
            chosen |= found.keys() | mine.keys()
    if theirs and not by_name:
        warnings.warn(f"Left out: {', '.join(theirs)} in {filepath}, which the model does not have.", stacklevel=5)
    return chosen


def _by_layer(arrays: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Arrays of "params/conv2d_1/w", … by layer: "conv2d_1"."""
    layers: dict[str, dict[str, Any]] = {}
    for name, array in arrays.items():
        if name.startswith(("params/", "state/")):
            layers.setdefault(name.partition("/")[2].rpartition("/")[0], {})[name] = array
    return layers


def _check_array(archive: Archive, name: str, shape: Shape, filepath: Any) -> None:
    """BrokenFileError unless the archive holds an array of floating-point numbers of this name and shape."""
    found = archive.arrays.get(name)
    if found is None or found.shape != shape or found.dtype.kind != "f":
        raise BrokenFileError(
            filepath, f"{name} does not fit the model.", f"an array of shape {shape}, floating-point numbers.",
            "none." if found is None else f"one of shape {found.shape}, {found.dtype}.",
            "load the file into the architecture that it was saved from.",
        )  # fmt: skip


def _finite(archive: Archive, name: str, filepath: Any) -> np.ndarray:
    array = archive.read(name)
    check_finite(filepath, name, array)
    return array


def set_weights_by_name(model: Any, archive: Archive, filepath: Any, chosen: set[str] | None = None) -> None:
    """Fill parameters and state: those that are chosen, or all. BrokenFileError where a name or shape does not fit.

    Everything is read and checked before the first number of the model changes.
    """
    slots = {
        f"{kind}/{key}/{name}": slot
        for key, layer in model.layers_by_key.items()
        for kind, group in (("params", layer.params), ("state", layer.state))
        for name, slot in group.items()
    }
    ours = [name for name in archive.arrays if not name.startswith(("optimizer/", "place/"))]
    wanted = slots if chosen is None else {name: slot for name, slot in slots.items() if name in chosen}
    for name, slot in wanted.items():
        _check_array(archive, name, slot.shape, filepath)
    for name in ours if chosen is None else chosen:
        if name not in wanted:
            raise BrokenFileError(
                filepath, f"{shortened(name)} has no place in the model.", f"the {len(slots)} arrays of this model.",
                "also this one.", "load the file into the architecture that it was saved from.",
            )  # fmt: skip
    arrays = {name: _finite(archive, name, filepath) for name in wanted}
    for name, slot in wanted.items():
        slot[...] = xp_of(slot).asarray(arrays[name], slot.dtype)


def slots_by_name(model: Any) -> dict[str, np.ndarray]:
    """The optimizer's arrays on the host: "optimizer/conv2d_1/w/m_sum", …; none where there is no optimizer."""
    if model.optimizer is None:
        return {}
    return {
        f"optimizer/{layer}/{name}/{slot}": to_host(array)
        for (layer, name), slots in model.optimizer.state.items()
        for slot, array in zip(model.optimizer.slots_of((layer, name)), slots, strict=True)
    }


def set_slots_by_name(model: Any, archive: Archive, filepath: Any) -> None:
    """The optimizer's arrays: all of a parameter, or none where it has not been updated yet.

    Files of before Adam held sums have its means.
    """
    if model.optimizer is None:
        return
    optimizer = model.optimizer
    optimizer.state = {}
    left = {name for name in archive.arrays if name.startswith("optimizer/")}
    for key, layer in model.layers_by_key.items():
        for name, p in layer.params.items():
            slots = optimizer.slots_of((key, name))
            means = [optimizer.sums.get(slot, (slot,))[0] for slot in slots]
            for stored in dict.fromkeys((tuple(slots), tuple(means))):
                names = [f"optimizer/{key}/{name}/{slot}" for slot in stored]
                if left.isdisjoint(names):
                    continue
                for slot in names:
                    _check_array(archive, slot, p.shape, filepath)
                arrays = [move(_finite(archive, slot, filepath).astype(p.dtype), model.device) for slot in names]
                if stored != slots:
                    arrays = optimizer.state_of((key, name), dict(zip(means, arrays, strict=True)))
                optimizer.state[key, name] = arrays
                left.difference_update(names)
    for name in left:
        raise BrokenFileError(
            filepath, f"{shortened(name)} has no place in the model's optimizer.", "an array for each parameter.",
            "also this one.", "load the file as it was saved: it has been changed.",
        )  # fmt: skip


def generator_from(state: dict[str, Any]) -> np.random.Generator:
    """A random generator that goes on from `state`: of NumPy's kinds only those that no state can lead astray."""
    kinds = {"PCG64": np.random.PCG64, "PCG64DXSM": np.random.PCG64DXSM}
    generator = kinds[state["bit_generator"]](0)
    generator.state = state
    return np.random.Generator(generator)


def write_archive(filepath: Any, config: dict[str, Any], arrays: dict[str, np.ndarray], overwrite: bool) -> None:
    """One file with config.json and the arrays. Raises InputError, WriteError, FileExistsError unless overwrite."""
    if not overwrite and Path(filepath).exists():
        raise FileExistsError(f"{filepath} exists already; pass overwrite=True to replace it")
    try:
        text = json.dumps(config, indent=1, default=_plain)
    except TypeError as error:
        raise InputError(
            filepath, "the model's configuration cannot be written.", "numbers, names, and objects with get_config().",
            f"{error}.", "use a class with get_config() in the place of a function, or model.save_weights().",
        ) from error  # fmt: skip
    write_zip(filepath, {"config.json": text, **arrays})


@contextmanager
def opened_archive(filepath: Any) -> Iterator[tuple[dict[str, Any], Archive]]:
    """(config.json, the archive) of a model file; no array is read yet."""
    fix = "save it again: it may have been cut off, or be of another kind."
    with open_archive(filepath, "model file", "model.save() or save_weights()", ("config.json",), fix) as archive:
        config = archive.json("config.json")
        if not isinstance(config, dict) or config.get("format") != FORMAT:
            found = config.get("format") if isinstance(config, dict) else type(config).__name__
            raise BrokenFileError(
                filepath, "this file is in another format.", f"format {FORMAT} of minicnn.",
                f"{shortened(repr(found))}.", "read it with the program and the version that wrote it.",
            )  # fmt: skip
        yield config, archive


def _named(obj: Any) -> dict[str, Any]:
    return {"class_name": type(obj).__name__, "config": obj.get_config()}


def _class_names(model: Any) -> list[str] | None:
    return None if model.class_names is None else [str(name) for name in model.class_names]


def _image_input_config(model: Any) -> dict[str, Any] | None:
    if model.image_input is None:
        return None
    if not isinstance(model.image_input, ImageInput):
        raise InputError(
            "image_input", "this does not say how images are prepared.", "a minicnn.preprocessing.image.ImageInput.",
            f"{model.image_input!r}.", "model.image_input = ImageInput(64, 64), for example.",
        )  # fmt: skip
    model.image_input.check_fits(model.sample_shape)
    return asdict(model.image_input)


def _check_writable(layer: Any) -> None:
    """InputError for a layer that could not be made again from its configuration."""
    try:
        config = layer.get_config()
    except AttributeError as error:
        raise InputError(
            layer.name, "its configuration cannot be read.", "every constructor argument as an attribute of that name.",
            f"AttributeError: {error}.", "store the arguments in __init__, or define get_config().",
        ) from error  # fmt: skip
    for argument in config:
        value = getattr(layer, argument, None)
        if isinstance(value, activations.Function) and not activations.is_known(value):
            raise InputError(
                layer.name, f"its activation {value.name!r} is not one of minicnn's: it could not be loaded again.",
                "an activation that minicnn knows by name.", f"a Function of your own, {value.name!r}.",
                "make it a layer class of your own and load with custom_objects, or use model.save_weights().",
            )  # fmt: skip


def _plain(value: Any) -> Any:
    """NumPy's numbers as Python's, for JSON."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{value!r} of type {type(value).__name__}")
