"""Models on disk: one file, a zip that NumPy itself can open, without pickle.

    config.json                 architecture, loss, optimizer, class names, random generator; plain JSON
    params/conv2d_1/w.npy       parameters        state/batch_normalization_1/moving_mean.npy       running statistics
    optimizer/conv2d_1/w/m.npy  the optimizer's arrays

A file is written aside and renamed when it is complete: what stood there before is never half overwritten.
"""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from minicnn import activations
from minicnn.backend import move, to_host, xp_of
from minicnn.errors import BrokenFileError, InputError, UnknownNameError, unknown_name
from minicnn.files import atomic_write

FORMAT = 1


def save_model(model: Any, filepath: Any, overwrite: bool = True) -> None:
    """Write architecture, weights, state, optimizer, class names and random generator into one file.

    `load_model` gives a model with the same predictions, bit for bit, that trains on as this one would. Raises
    InputError for a layer that cannot be written, FileExistsError unless `overwrite`, WriteError (an OSError) where the
    disk refuses.
    """
    model.require_built("it cannot be saved")
    for layer in model.flat_layers:
        _check_writable(layer)
    names = None if model.class_names is None else [str(name) for name in model.class_names]
    config: dict[str, Any] = {"format": FORMAT, "model": model.get_config(), "class_names": names}
    config["rng"] = model.rng.bit_generator.state
    arrays = weights_by_name(model) | slots_by_name(model)
    if model.optimizer is not None:
        optimizer = model.optimizer
        config["compile"] = {
            "optimizer": _named(optimizer), "loss": _named(model.loss), "iterations": optimizer.iterations,
            "metrics": [name if isinstance(name, str) else _named(metric)
                        for name, metric in zip(model.metric_names, model.metrics, strict=True)],
        }  # fmt: skip
    write_archive(filepath, config, arrays, overwrite)


def save_weights(model: Any, filepath: Any, overwrite: bool = True) -> None:
    """Write parameters and state only. Raises as save_model does."""
    model.require_built("it has no weights to save")
    write_archive(filepath, {"format": FORMAT}, weights_by_name(model), overwrite)


def load_model(filepath: Any, custom_objects: dict[str, Any] | None = None) -> Any:
    """The model that save_model wrote.

    custom_objects: the user's own classes of layers, losses, metrics and optimizers by name. Raises FileNotFoundError,
    BrokenFileError for a file that is not a whole model, UnknownNameError for a class that is neither minicnn's nor in
    custom_objects.
    """
    from minicnn import keras_files

    if keras_files.is_keras_file(filepath):
        raise BrokenFileError(
            filepath, "this is a file of Keras.", "a file written by model.save() of minicnn.",
            "Keras' format, of which only the weights can be read.",
            "build the same network in code, then model.load_weights(file).",
        )  # fmt: skip
    config, arrays = read_archive(filepath)
    if "model" not in config:
        raise BrokenFileError(
            filepath, "this file holds weights, but no model.", "a file written by model.save().",
            "one written by model.save_weights().", "build the model in code, then model.load_weights(file).",
        )  # fmt: skip
    try:
        model = model_from_config(config["model"], custom_objects)
        model.class_names = config["class_names"]
        compiled = config.get("compile")
        if compiled is not None:
            optimizer, loss, *metrics = (
                _restored(entry, custom_objects)
                for entry in (compiled["optimizer"], compiled["loss"], *compiled["metrics"])
            )
            model.compile(optimizer, loss, metrics)
            model.optimizer.iterations = compiled["iterations"]
        model.rng = generator_from(config["rng"])
    except (KeyError, TypeError, AttributeError) as error:
        raise BrokenFileError(
            filepath, "its config.json is not that of a model.", "what model.save() wrote.",
            f"{type(error).__name__}: {error}.", "save the model again.",
        ) from error  # fmt: skip
    set_weights_by_name(model, arrays, filepath)
    set_slots_by_name(model, arrays)
    return model


def load_weights(model: Any, filepath: Any, by_name: bool = False, skip_mismatch: bool = False) -> None:
    """Read parameters and state from a file of save_weights or save_model, or from one of Keras, into a built model.

    by_name: only into the layers that are in the file; others keep what they have. skip_mismatch: leave out, with a
    warning, what does not fit. Files of Keras: see minicnn.keras_files. Raises BrokenFileError, and changes nothing,
    where an array is missing or of another shape.
    """
    from minicnn import keras_files

    model.require_built("it cannot take weights")
    if keras_files.is_keras_file(filepath):
        keras_files.load_weights(model, filepath, by_name, skip_mismatch)
        return
    _, arrays = read_archive(filepath)
    if by_name or skip_mismatch:
        arrays = _what_fits(model, arrays, filepath, by_name, skip_mismatch)
    set_weights_by_name(model, arrays, filepath)


def model_from_config(config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> Any:
    """A new Sequential from what its get_config returned, built where its input shape is known."""
    from minicnn import layers
    from minicnn.models import Sequential

    known = {name: getattr(layers, name) for name in layers.__all__} | (custom_objects or {})
    model = Sequential(name=config["name"])
    for entry in config["layers"]:
        if entry["class_name"] == "Sequential":
            layer = model_from_config(entry["config"], custom_objects)
        elif entry["class_name"] in known:
            layer = known[entry["class_name"]].from_config(entry["config"])
        else:
            raise unknown_name("layer class (pass your own as custom_objects)", entry["class_name"], known)
        model.add(layer)
        if not isinstance(layer, Sequential):  # an inner model's layers have had their own flags already
            layer.trainable = entry["trainable"]
    if config["input_shape"] is not None:
        model.build(tuple(config["input_shape"]))
    return model


def weights_by_name(model: Any) -> dict[str, np.ndarray]:
    """Parameters and state on the host: "params/conv2d_1/w", "state/batch_normalization_1/moving_mean", …"""
    arrays = {}
    for key, layer in zip(model.layer_keys, model.flat_layers, strict=True):
        for kind, group in (("params", layer.params), ("state", layer.state)):
            for name, array in group.items():
                arrays[f"{kind}/{key}/{name}"] = to_host(array)
    return arrays


def _what_fits(
    model: Any, arrays: dict[str, np.ndarray], filepath: Any, by_name: bool, skip_mismatch: bool
) -> dict[str, np.ndarray]:
    """The file's arrays, with the model's own in the places of those layers that are to keep them."""
    own, theirs = _by_layer(weights_by_name(model)), _by_layer(arrays)
    if by_name and not set(own) & set(theirs):
        raise BrokenFileError(
            filepath, "it has no layer of any name that the model has.", f"some of {', '.join(own)}.",
            f"{', '.join(theirs)}.", "give the layers the names of the file, or leave by_name out.",
        )  # fmt: skip
    chosen = {}
    for layer, mine in own.items():
        found = theirs.pop(layer, mine if by_name else {})
        if {k: a.shape for k, a in found.items()} != {k: a.shape for k, a in mine.items()} and skip_mismatch:
            warnings.warn(f"Left out: {layer}, of which {filepath} has none or one of another size.", stacklevel=4)
            found = mine
        chosen.update(found)
    if theirs and not by_name:
        warnings.warn(f"Left out: {', '.join(theirs)} in {filepath}, which the model does not have.", stacklevel=4)
    return chosen


def _by_layer(arrays: dict[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """Arrays of "params/conv2d_1/w", … by layer: "conv2d_1"."""
    layers: dict[str, dict[str, np.ndarray]] = {}
    for name, array in arrays.items():
        if name.startswith(("params/", "state/")):
            layers.setdefault(name.partition("/")[2].rpartition("/")[0], {})[name] = array
    return layers


def set_weights_by_name(model: Any, arrays: dict[str, np.ndarray], filepath: Any) -> None:
    """Copy arrays into the model. Raises BrokenFileError, and changes nothing, where one is missing or too many."""
    wanted = weights_by_name(model)
    for name, array in wanted.items():
        found = arrays.get(name)
        if found is None or found.shape != array.shape:
            raise BrokenFileError(
                filepath, f"{name} does not fit the model.", f"an array of shape {array.shape}.",
                "none." if found is None else f"one of shape {found.shape}.",
                "load the file into the architecture that it was saved from.",
            )  # fmt: skip
    for name, array in arrays.items():
        if name not in wanted and not name.startswith("optimizer/"):
            raise BrokenFileError(
                filepath, f"{name} has no place in the model.", f"the {len(wanted)} arrays of this model.",
                f"also one of shape {array.shape}.", "load the file into the architecture that it was saved from.",
            )  # fmt: skip
    for key, layer in zip(model.layer_keys, model.flat_layers, strict=True):
        for kind, group in (("params", layer.params), ("state", layer.state)):
            for name, slot in group.items():
                slot[...] = xp_of(slot).asarray(arrays[f"{kind}/{key}/{name}"])


def slots_by_name(model: Any) -> dict[str, np.ndarray]:
    """The optimizer's arrays on the host: "optimizer/conv2d_1/w/m", …; none where there is no optimizer."""
    if model.optimizer is None:
        return {}
    return {
        f"optimizer/{layer}/{name}/{slot}": to_host(array)
        for (layer, name), slots in model.optimizer.state.items()
        for slot, array in zip(model.optimizer.slots, slots, strict=True)
    }


def set_slots_by_name(model: Any, arrays: dict[str, np.ndarray]) -> None:
    """Give the optimizer its arrays, those that fit; it begins anew with parameters that have none."""
    if model.optimizer is None:
        return
    model.optimizer.state = {}
    for key, layer in zip(model.layer_keys, model.flat_layers, strict=True):
        for name, p in layer.params.items():
            slots = [arrays.get(f"optimizer/{key}/{name}/{slot}") for slot in model.optimizer.slots]
            if all(slot is not None and slot.shape == p.shape for slot in slots):
                model.optimizer.state[key, name] = [move(slot, model.device) for slot in slots]


def generator_from(state: dict[str, Any]) -> np.random.Generator:
    """A random generator that goes on from `state`. Raises KeyError for a kind that NumPy does not have."""
    generator = np.random.Generator(getattr(np.random, _bit_generator(state))())
    generator.bit_generator.state = state
    return generator


def write_archive(filepath: Any, config: dict[str, Any], arrays: dict[str, np.ndarray], overwrite: bool) -> None:
    """One file with config.json and the arrays. Raises InputError, WriteError, FileExistsError unless overwrite."""
    import zipfile

    if not overwrite and Path(filepath).exists():
        raise FileExistsError(f"{filepath} exists already; pass overwrite=True to replace it")
    try:
        text = json.dumps(config, indent=1, ensure_ascii=False, default=_plain)
    except TypeError as error:
        raise InputError(
            filepath, "the model's configuration cannot be written.", "numbers, names, and objects with get_config().",
            f"{error}.", "use a class with get_config() in the place of a function, or model.save_weights().",
        ) from error  # fmt: skip
    with atomic_write(filepath) as file, zipfile.ZipFile(file, "w") as archive:
        # A fixed date: equal models give equal files.
        archive.writestr(zipfile.ZipInfo("config.json"), text)
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(name + ".npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)


def read_archive(filepath: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What write_archive wrote: config and arrays. Raises FileNotFoundError, BrokenFileError."""
    import zipfile
    import zlib

    try:
        with zipfile.ZipFile(filepath) as archive:
            config = json.loads(archive.read("config.json"))
            arrays = {
                name.removesuffix(".npy"): np.lib.format.read_array(
                    io.BytesIO(archive.read(name)), allow_pickle=False
                )
                for name in archive.namelist()
                if name.endswith(".npy")
            }
    except FileNotFoundError:
        raise
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, KeyError, ValueError, EOFError) as error:
        raise BrokenFileError(
            filepath, "this is not a whole model file.", "a file that model.save() or save_weights() wrote.",
            f"{type(error).__name__}: {error}", "save it again: it may have been cut off, or be of another kind.",
        ) from error  # fmt: skip
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        found = config.get("format") if isinstance(config, dict) else type(config).__name__
        raise BrokenFileError(
            filepath, "this file is in another format.", f"format {FORMAT} of minicnn.", f"{found!r}.",
            "read it with the program and the version that wrote it.",
        )  # fmt: skip
    return config, arrays


def _named(obj: Any) -> dict[str, Any]:
    return {"class_name": type(obj).__name__, "config": obj.get_config()}


def _restored(entry: Any, custom_objects: dict[str, Any] | None) -> Any:
    """A name or config as it is; an object where its class is the user's own."""
    if isinstance(entry, dict) and entry["class_name"] in (custom_objects or {}):
        return (custom_objects or {})[entry["class_name"]](**entry["config"])
    return entry


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
        if isinstance(value, activations.Function) and not _known(value):
            raise InputError(
                layer.name, f"its activation {value.name!r} is not one of minicnn's: it could not be loaded again.",
                "an activation that minicnn knows by name.", f"a Function of your own, {value.name!r}.",
                "make it a layer class of your own and load with custom_objects, or use model.save_weights().",
            )  # fmt: skip


def _known(activation: activations.Function) -> bool:
    try:
        return activations.get(activation.name) is activation
    except UnknownNameError:
        return False


def _plain(value: Any) -> Any:
    """NumPy's numbers as Python's, for JSON."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{value!r} of type {type(value).__name__}")


def _bit_generator(state: dict[str, Any]) -> str:
    name = state["bit_generator"]
    if name not in ("PCG64", "PCG64DXSM", "SFC64", "Philox", "MT19937"):
        raise KeyError(name)
    return name
