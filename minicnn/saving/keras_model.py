"""Whole models that Keras wrote: the network of the file's configuration, its weights, and what compile was told.

What the file says of training is taken over where minicnn knows it: optimizer, loss and metrics. The optimizer begins
anew; its moments stay in the file.
"""

from __future__ import annotations

import warnings
from typing import Any

from minicnn import losses, optimizers, schedules
from minicnn.errors import BrokenFileError, InputError
from minicnn.preprocessing.image_input import ImageInput
from minicnn.reading import checked
from minicnn.saving import keras_config, keras_weights
from minicnn.saving.hdf5 import opened

_NO_DECAY = ("decay", 0.0)  # of SGD, an argument that Keras 3 does not have
_FIX = "save it with Keras again: it may have been changed."


def load_model(filepath: Any, models: dict[str, Any]) -> Any:
    """The model in a .keras file or a whole-model .h5. models: as in minicnn.saving.load_model.

    The model takes images with the channels last, also where Keras had them first. Raises BrokenFileError for a file
    without a configuration, a layer or an argument that minicnn does not have, and weights that do not fit.
    """
    with opened(filepath, keras_weights.IN_ARCHIVE) as file:
        described = keras_config.described(file)
        if described is None:
            raise BrokenFileError(
                filepath, "this file of Keras holds weights, but no network.", "a file of model.save() of Keras.",
                "one without a configuration.", "build the network in code, then model.load_weights(file).",
            )  # fmt: skip
        described.budget = file.size // 2  # numbers of 16 bits
        with checked(filepath, "its configuration is not that of a network.", "what Keras wrote.", _FIX):
            built = keras_config.build(described, models, described.config)
            told = keras_config.compile_config(file, described)
            own = keras_config.noted(file)
        keras_weights.load_built(file, described, built)
    model = built.model
    if described.channels_first:
        warnings.warn(
            f"{filepath} was made for images with the channels first; this model takes them last: "
            "x.transpose(0, 2, 3, 1).", stacklevel=5,
        )  # fmt: skip
    try:
        _compile(model, told)
    except (InputError, TypeError, ValueError, KeyError, AttributeError) as error:
        warnings.warn(
            f"{filepath}: the model is not compiled, since minicnn does not know all that Keras was told: "
            f"{str(error).splitlines()[0]}", stacklevel=5,
        )  # fmt: skip
    with checked(filepath, "what minicnn noted in it makes no sense.", "what model.save() wrote.", _FIX):
        names = own.get("class_names")
        if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            raise TypeError("class_names is no list of names")
        model.class_names = names
        if own.get("image_input") is not None:
            model.image_input = ImageInput(**own["image_input"])
    return model


def compile_config(model: Any) -> dict[str, Any] | None:
    """What compile was told, as Keras writes it; None where the model is not compiled, or Keras would not know it."""
    if model.optimizer is None:
        return None
    names, plain = [*model.metric_names, *model.weighted_metric_names], len(model.metric_names)
    metrics = [name if isinstance(name, str) else _object("metrics", metric)
               for name, metric in zip(names, model.metrics, strict=True)]  # fmt: skip
    told = {"optimizer": _object("optimizers", model.optimizer), "loss": _object("losses", model.loss)}
    if None in (*told.values(), *metrics):
        return None
    return {**told, "metrics": metrics[:plain], "weighted_metrics": metrics[plain:]}


def _object(module: str, value: Any) -> dict[str, Any] | None:
    """{"module", "class_name", "config"} of one of minicnn's objects whose class Keras has, too; else None."""
    if not type(value).__module__.startswith(f"minicnn.{module}") or not hasattr(value, "get_config"):
        return None
    config = {name: item for name, item in value.get_config().items() if item is not None and (name, item) != _NO_DECAY}
    rate = config.get("learning_rate")
    if isinstance(rate, dict):
        config["learning_rate"] = {"module": "keras.optimizers.schedules", "registered_name": None, **rate}
    plain = all(isinstance(item, (str, int, float)) for name, item in config.items() if name != "learning_rate")
    if not plain or type(value).__name__.startswith("Function") or {"decay", "normalize"} & set(config):
        return None
    return {"module": f"keras.{module}", "class_name": type(value).__name__, "config": config, "registered_name": None}


def _compile(model: Any, told: Any) -> None:
    """Compile as Keras was told. Raises InputError and the like where something of it is unknown here."""
    if not told or told.get("loss") is None:
        return
    for name in ("loss_weights", "sample_weight_mode"):
        if told.get(name):
            raise ValueError(f"{name}={told[name]!r}")
    model.compile(
        _optimizer(told.get("optimizer") or told["optimizer_config"]),
        losses.get(_simple(told["loss"])),
        metrics=[_metric(metric) for metric in _flat(told.get("metrics") or [])],
        weighted_metrics=[_metric(metric) for metric in _flat(told.get("weighted_metrics") or [])],
    )


def _flat(value: Any) -> list[Any]:
    if isinstance(value, list):
        return [item for inner in value for item in _flat(inner)]
    return [] if value is None else [value]


def _simple(value: Any) -> Any:
    """A name, or {"class_name", "config"} without the keys that say nothing and without those at their defaults."""
    value = value[0] if isinstance(value, list) and len(value) == 1 else value
    if not isinstance(value, dict):
        return value
    config: Any = value.get("config") or {}
    if isinstance(config, str):  # a function
        return config
    neutral: dict[str, Any] = {
        "dtype": "float32", "fn": config.get("fn"), "name": config.get("name"), "axis": -1,
        "reduction": config.get("reduction") if config.get("reduction") in ("auto", "sum_over_batch_size") else None,
    }  # fmt: skip
    kept = {k: v for k, v in config.items() if v is not None and v != neutral.get(k, ...)}
    return {"class_name": value["class_name"], "config": {k: v for k, v in kept.items() if not isinstance(v, dict)}}


def _metric(value: Any) -> Any:
    if isinstance(value, dict) and value.get("class_name") in ("MeanMetricWrapper", "CompileMetrics"):
        value = value["config"]["fn"]
    return _simple(value)


def _optimizer(value: Any) -> Any:
    """An optimizer of Keras' configuration. What is switched off is left out; what minicnn has not is an error."""
    if isinstance(value, str):
        return optimizers.get(value)
    kind, config = value["class_name"].removeprefix("Custom>"), dict(value["config"])
    cls = getattr(optimizers, kind, None)
    if cls is None:
        raise ValueError(f"the optimizer {kind}")
    rate = config.pop("learning_rate", config.pop("lr", None))
    if isinstance(rate, dict):
        schedule = getattr(schedules, rate["class_name"])
        rate = schedule(**{k: v for k, v in rate["config"].items() if k in schedule._arguments()})
    off: tuple[Any, ...] = (None, False, 0, 0.0, {})
    known = {k: v for k, v in config.items() if k in cls._arguments() and v is not None}
    ignored = ("name", "ema_momentum", "is_legacy_optimizer", "jit_compile", "ema_overwrite_frequency")
    for name, other in config.items():
        if name not in known and name not in ignored and other not in off:
            raise ValueError(f"{name}={other!r} of {kind}")
    return cls(**known) if rate is None else cls(rate, **known)
