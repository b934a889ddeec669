"""Networks as Keras describes them, in its spellings of versions 1, 2 and 3, made of the layers of minicnn.

A file holds the network's configuration as JSON: .keras in its config.json, a whole-model .h5 in the attribute
model_config. Only the classes of LAYERS are made of it, nothing in a file is run, and a key that would change the
numbers is honoured or refused: what is in NEUTRAL must have a value that stands there, what is in IGNORED changes none.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from typing import Any

from minicnn import activations, constraints, initializers, layers, regularizers
from minicnn.errors import BrokenFileError, InputError
from minicnn.layers.base import Layer, Shape
from minicnn.reading import open_file
from minicnn.saving.archive import MAX_TEXT, open_zip, parse_json
from minicnn.saving.hdf5 import File

MAX_LAYERS = 1000

# Keras' class -> ours. The same names, but for those of Keras 1 and the short ones.
LAYERS = {
    name: name
    for name in (
        "Activation", "Add", "Average", "AveragePooling1D", "AveragePooling2D", "BatchNormalization", "CenterCrop",
        "Concatenate", "Conv1D", "Conv2D", "Conv2DTranspose", "Cropping2D", "Dense", "DepthwiseConv2D", "Dropout",
        "ELU", "Flatten", "GaussianNoise", "GlobalAveragePooling1D", "GlobalAveragePooling2D", "GlobalMaxPooling1D",
        "GlobalMaxPooling2D", "GroupNormalization", "LayerNormalization", "LeakyReLU", "MaxPooling1D", "MaxPooling2D",
        "Maximum", "Multiply", "Normalization", "PReLU", "Permute", "RandomFlip", "RandomRotation",
        "RandomTranslation", "RandomZoom", "ReLU", "Rescaling", "Reshape", "Resizing", "SeparableConv2D", "Softmax",
        "SpatialDropout2D", "Subtract", "UpSampling2D", "ZeroPadding2D",
    )
} | {
    "AvgPool1D": "AveragePooling1D", "AvgPool2D": "AveragePooling2D", "Convolution1D": "Conv1D",
    "Convolution2D": "Conv2D", "Convolution2DTranspose": "Conv2DTranspose", "GlobalAvgPool1D": "GlobalAveragePooling1D",
    "GlobalAvgPool2D": "GlobalAveragePooling2D", "GlobalMaxPool1D": "GlobalMaxPooling1D",
    "GlobalMaxPool2D": "GlobalMaxPooling2D", "MaxPool1D": "MaxPooling1D", "MaxPool2D": "MaxPooling2D",
    "SeparableConvolution2D": "SeparableConv2D",
}  # fmt: skip
NETWORKS = ("Functional", "Model", "Sequential")

# Keras 1's and 2's names for arguments. (class, name) where other classes mean something else by it.
RENAMED = {
    "nb_filter": "filters", "border_mode": "padding", "subsample": "strides", "atrous_rate": "dilation_rate",
    "W_regularizer": "kernel_regularizer", "b_regularizer": "bias_regularizer", "W_constraint": "kernel_constraint",
    "b_constraint": "bias_constraint", "bias": "use_bias", "output_dim": "units", "p": "rate",
    ("LeakyReLU", "alpha"): "negative_slope",
}  # fmt: skip
# Keys that change no number here: how the weights began, which version wrote it, what Keras builds and traces.
IGNORED = {
    "W_initializer", "b_initializer", "batch_input_shape", "batch_shape", "batch_size", "beta_init", "build_config",
    "compile_config", "data_format", "dim_ordering", "dtype", "gamma_init", "init", "input_dim", "input_dtype",
    "input_shape", "input_spec", "lora_alpha", "lora_rank", "optional", "ragged", "sparse", "use_legacy_config",
    "renorm_momentum", "supports_masking", "input_length", "name", "trainable",
}  # fmt: skip
# Keys that change nothing where they have one of these values; others the layer must know, or they are refused.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "activity_regularizer": (None,), "adjustment": (None,), "fused": (None, True, False), "groups": (1,), "mode": (0,),
    "noise_shape": (None,), "quantization_config": (None,), "renorm": (False,), "renorm_clipping": (None, {}),
    "rms_scaling": (False,), "virtual_batch_size": (None,),
}  # fmt: skip


@dataclass
class Built:
    """A network of minicnn that was made of a configuration.

    parts: Keras' class, its name, and the layer made of it, or the Built of an inner network, in the order of the file;
    None for what needs no layer here, such as InputLayer.
    """

    model: Any
    parts: list[tuple[str, str, Layer | Built | None]] = field(default_factory=list)


@dataclass
class Description:
    """A network's configuration, looked at once as a whole. channels_first: of its images; the model takes the last.

    flatten_first: whether Flatten brings the channels to the end itself. budget: the file has no more numbers than
    these, so that no memory is taken for what it does not hold.
    """

    filepath: Any
    config: dict[str, Any]
    channels_first: bool = False
    flatten_first: bool = False
    theano: bool = False
    budget: int = 1 << 60

    def __post_init__(self) -> None:
        formats = set()
        for kind, config in self.walk(self.config["config"]):
            given = {"th": "channels_first", "tf": "channels_last"}.get(config.get("dim_ordering", ""))
            given = config.get("data_format", given)
            if kind == "Flatten":
                self.flatten_first |= given == "channels_first"
            elif kind in LAYERS and given is not None:
                formats.add(given)
            if config.get("dim_ordering") == "th" and kind.startswith("Conv"):
                raise self.refused(
                    config.get("name"), 'dim_ordering="th" of Keras 1 does not tell whether its kernels are turned.',
                    "a file of Keras 2 or 3.", "dim_ordering='th'.", "save the model with Keras 2 again.",
                )  # fmt: skip
        if len(formats) > 1:
            raise self.refused(
                "data_format", "the file mixes channels_first and channels_last.", "one of them in all layers.",
                f"{', '.join(sorted(map(str, formats)))}.", "save a network with one data_format.",
            )  # fmt: skip
        self.channels_first = formats == {"channels_first"}

    def refused(self, name: Any, problem: str, expected: str, received: str, fix: str) -> BrokenFileError:
        return BrokenFileError(f"{self.filepath}, {name}", problem, expected, received, fix)

    def walk(self, config: Any) -> Iterator[tuple[str, dict[str, Any]]]:
        """(class, configuration) of all layers, those of inner networks in their places."""
        for entry in entries_of(config):
            if entry["class_name"] in NETWORKS:
                yield from self.walk(entry["config"])
            else:
                yield entry["class_name"], entry["config"]


def entries_of(config: Any) -> list[dict[str, Any]]:
    """The layers of a network's configuration: in a list, or under "layers". Else ValueError, TypeError."""
    entries = config["layers"] if isinstance(config, dict) else config
    if not isinstance(entries, list) or len(entries) > MAX_LAYERS:
        raise ValueError(f"its layers are no list of at most {MAX_LAYERS:,}")
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("class_name"), str):
            raise TypeError("a layer without a class_name")
        if not isinstance(entry.get("config"), (dict, list)):
            raise TypeError(f"a {entry['class_name']} without a config")
        if entry["class_name"] not in NETWORKS and not isinstance(entry["config"], dict):
            raise TypeError(f"the config of a {entry['class_name']} is no object")
    return entries


def described(file: File) -> Description | None:
    """The configuration of the network whose weights a file has, or None where it has none."""
    config = _config(file, "model_config", "config.json")
    if not isinstance(config, dict) or config.get("class_name") not in NETWORKS:
        return None
    return Description(file.filepath, config, theano=_attribute(file, "backend") == "theano")


def compile_config(file: File, described: Description) -> Any:
    """What Keras was told in compile, or None."""
    return described.config.get("compile_config") or _config(file, "training_config", None)


def noted(file: File) -> dict[str, Any]:
    """What minicnn wrote of itself: class names and image input. {} in a file that Keras wrote."""
    found = _config(file, "minicnn", None) or (read_member(file.filepath, "metadata.json") or {}).get("minicnn", {})
    if not isinstance(found, dict):
        raise TypeError("what minicnn noted is no object")
    return found


def _config(file: File, attribute: str, member: str | None) -> Any:
    text = _attribute(file, attribute)
    if text is not None:
        return parse_json(text.encode())
    return None if member is None else read_member(file.filepath, member)


def read_member(filepath: Any, member: str) -> Any:
    """A JSON text of a .keras archive; None where there is none."""
    with open_file(filepath) as stream:
        if stream.read(2) != b"PK":
            return None
        archive = open_zip(stream)
        if member not in archive.namelist():
            return None
        info = archive.getinfo(member)
        if info.file_size > MAX_TEXT:
            raise ValueError(f"{member} is {info.file_size:,} bytes long; at most {MAX_TEXT:,} are read")
        return parse_json(archive.read(info))


def _attribute(file: File, name: str) -> str | None:
    """A text beside the outermost group, or beside the weights."""
    for root in (file.root, file.root.get("model_weights")):
        value = None if root is None else root.attrs.get(name)
        if isinstance(value, (bytes, str)):
            return value.decode() if isinstance(value, bytes) else value
    return None


# ---- a network -------------------------------------------------------------------------------------------------------


def build(file: Description, models: dict[str, Any], entry: dict[str, Any], shape: Shape | None = None) -> Built:
    """The network of {"class_name", "config"}. shape: of a sample, where it stands inside of another network.

    Raises BrokenFileError where it has something that minicnn has not, with the layer's name.
    """
    config, kind = entry["config"], entry["class_name"]
    entries = entries_of(config)
    name = config.get("name") if isinstance(config, dict) else None
    shape = shape or _input_shape(file, config, entries)
    if kind == "Sequential" or not any("inbound_nodes" in e for e in entries):
        return _build_chain(file, models, entries, name, shape)
    return _build_graph(file, models, config, entries, name, shape)


def _build_chain(file: Description, models: Any, entries: list[Any], name: Any, shape: Shape) -> Built:
    start = layers.Input(shape, name=_input_name(entries))
    built = Built(models["Sequential"]([start], name=_text(name)))
    for entry in entries:
        made = _part(file, models, entry, [shape])
        config = entry["config"] if isinstance(entry["config"], dict) else {}
        built.parts.append((entry["class_name"], str(config.get("name", "")), made))
        if made is not None:
            layer = made.model if isinstance(made, Built) else made
            built.model.add(layer)
            shape = tuple(layer.output_shape(shape))
    return built


def _build_graph(file: Description, models: Any, config: Any, entries: list[Any], name: Any, shape: Shape) -> Built:
    """A network of layers that say what they read; where each reads the one before, a Sequential."""
    first, last = _single(file, config, "input_layers"), _single(file, config, "output_layers")
    calls = _in_order(file, entries, first)
    chained = [first, *((_entry_name(entry), 0) for entry, _, _ in calls)]
    if chained[-1] == last and [reads for _, _, reads in calls] == [[value] for value in chained[:-1]]:
        inputs = [entry for entry in entries if entry["class_name"] == "InputLayer"]
        return _build_chain(file, models, [*inputs, *(entry for entry, _, _ in calls)], name, shape)
    start = layers.Input(shape, name=_input_name(entries))
    values: dict[tuple[str, int], Any] = {first: start}
    made: dict[str, Layer | Built | None] = {first[0]: None}
    for entry, i, reads in calls:
        inputs, key = [values[value] for value in reads], _entry_name(entry)
        if key not in made:
            made[key] = _part(file, models, entry, [tuple(value.shape[1:]) for value in inputs])
        part = made[key]
        layer: Any = part.model if isinstance(part, Built) else part
        merges = getattr(layer, "merges", False)
        values[key, i] = inputs[0] if layer is None else layer(inputs if merges else inputs[0])
    if last not in values:
        raise ValueError(f"the output is {last[0]}, which is not computed")
    parts = [(e["class_name"], _entry_name(e), made.get(_entry_name(e))) for e in entries]
    return Built(models["Model"](start, values[last], name=_text(name)), parts)


def _in_order(file: Description, entries: list[Any], first: tuple[str, int]) -> list[tuple[Any, int, list[Any]]]:
    """(layer, which of its calls, the values that it reads) for all calls, each after those that it reads."""
    waiting = [(e, i, _reads(file, e, i)) for e in entries for i in range(len(e.get("inbound_nodes") or []))]
    done, order = {first}, []
    while waiting:
        ready = [call for call in waiting if done.issuperset(call[2])]
        if not ready:
            missing = sorted({value[0] for call in waiting for value in call[2]} - {value[0] for value in done})
            raise ValueError(f"read, but never computed, or in a circle: {', '.join(missing[:5])}")
        order += ready
        done |= {(_entry_name(entry), i) for entry, i, _ in ready}
        waiting = [call for call in waiting if call not in ready]
    return order


def _entry_name(entry: dict[str, Any]) -> str:
    name = entry.get("name") or (entry["config"].get("name") if isinstance(entry["config"], dict) else None)
    if not isinstance(name, str):
        raise TypeError(f"a {entry['class_name']} without a name")
    return name


def _input_name(entries: list[dict[str, Any]]) -> str | None:
    """The name of the network's InputLayer; None where there is none."""
    return next((_text(e["config"].get("name")) for e in entries if e["class_name"] == "InputLayer"), None)


def _text(name: Any) -> str | None:
    return name if isinstance(name, str) and name else None


def _single(file: Description, config: dict[str, Any], which: str) -> tuple[str, int]:
    """The one input or output: ["input_1", 0, 0], or a list of one such."""
    found = config[which]
    found = found if found and isinstance(found[0], list) else [found]
    if len(found) != 1:
        raise file.refused(
            which, "the network has several inputs or outputs.", "one input and one output.",
            f"{', '.join(str(f[0]) for f in found)}.", "save a model of one way through it.",
        )  # fmt: skip
    return str(found[0][0]), int(found[0][1])


def _reads(file: Description, entry: dict[str, Any], i: int) -> list[tuple[str, int]]:
    """(layer, which of its calls) for each value that call i of a layer reads. Keras 1 and 2: lists, 3: objects."""
    node = entry["inbound_nodes"][i]
    if isinstance(node, dict):
        options, found = node.get("kwargs") or {}, []
        todo = list(reversed(node["args"]))
        while todo:
            item = todo.pop()
            if isinstance(item, list):
                todo += reversed(item)
            elif isinstance(item, dict) and item.get("class_name") == "__keras_tensor__":
                found.append(item["config"]["keras_history"])
            else:
                raise ValueError(f"{_entry_name(entry)} reads {item!r}")
    else:
        found = [node] if node and isinstance(node[0], str) else node
        options = {name: value for ref in found if len(ref) > 3 for name, value in ref[3].items()}
    for name, value in options.items():
        if value not in (None, False):
            raise file.refused(
                _entry_name(entry), f"it is called with {name}.", "a layer that is called with its input alone.",
                f"{name}={value!r}.", "build the network in code, then model.load_weights(file).",
            )  # fmt: skip
    return [(str(ref[0]), int(ref[1])) for ref in found]


def _input_shape(file: Description, config: Any, entries: list[Any]) -> Shape:
    """Of one sample, channels last."""
    first = entries[0]["config"] if entries else {}
    inner = isinstance(first, list) or (isinstance(first, dict) and "layers" in first)
    if entries and inner and entries[0]["class_name"] in NETWORKS:
        return _input_shape(file, first, entries_of(first))
    shape = first.get("batch_shape") or first.get("batch_input_shape")
    if shape is None and isinstance(config, dict):
        shape = config.get("build_input_shape")
    if shape is None and first.get("input_dim") is not None:
        shape = [None, first["input_dim"]]
    if not isinstance(shape, list) or len(shape) < 2:
        raise file.refused(
            "the network", "the file does not say the shape of its input.", "batch_shape in the first layer.", "none.",
            "build the network in code, then model.load_weights(file).",
        )  # fmt: skip
    sizes = shape[1:]
    if not all(isinstance(n, int) and n > 0 for n in sizes):
        raise file.refused(
            "the network", "its input has no fixed size.", "height, width and channels as numbers.", f"{tuple(sizes)}.",
            "build the network in code for the size that you need, then model.load_weights(file).",
        )  # fmt: skip
    return tuple([*sizes[1:], sizes[0]] if file.channels_first and len(sizes) == 3 else sizes)


# ---- a layer ---------------------------------------------------------------------------------------------------------


def _part(file: Description, models: Any, entry: dict[str, Any], shapes: list[Shape]) -> Layer | Built | None:
    kind, config = entry["class_name"], entry["config"]
    if kind == "InputLayer":
        return None
    if kind in NETWORKS:
        return build(file, models, entry, shapes[0])
    layer = translated(file, kind, config, shapes[0])
    wanted = layer.array_shapes(shapes if len(shapes) > 1 else shapes[0])  # type: ignore[arg-type]
    file.budget -= sum(prod(size) for size in wanted.values())
    if file.budget < 0:
        raise file.refused(
            config.get("name"), "the network has more parameters than the file has bytes for.",
            "a file that holds all its weights.", "a smaller one.",
            "save or download it again: it was cut off, or changed.",
        )  # fmt: skip
    return layer


def translated(file: Description, kind: str, config: dict[str, Any], shape: Shape | None) -> Layer:
    """The layer of minicnn for one of Keras. shape: of a sample of its input, channels last; None: unknown."""
    name = config.get("name")
    cls = layers.named(LAYERS[kind]) if kind in LAYERS else None
    if cls is None:
        raise file.refused(
            name, f"minicnn has no layer {kind}.", f"one of {', '.join(sorted(LAYERS))}.", f"{kind}.",
            "build the network in code, with a layer of your own for it, then model.load_weights(file)."
            if kind != "Lambda" else "a Lambda holds program code, which is never run; write the layer in code.",
        )  # fmt: skip
    taken = set(cls._arguments()) - {"input_shape", "algorithm", "data_format", "renorm_momentum"}
    arguments: dict[str, Any] = {}
    for key, value in config.items():
        key = RENAMED.get((kind, key), RENAMED.get(key, key))  # type: ignore[call-overload]
        if key == "dtype":
            _check_dtype(file, name, value)
        elif key in ("nb_row", "nb_col"):
            arguments["kernel_size"] = (config["nb_row"], config["nb_col"])
        elif key == "axis":
            arguments |= _axis(file, name, kind, value, shape)
        elif not (key == "groups" and key in taken) and any(value == n for n in NEUTRAL.get(key, ())):
            continue
        elif key in taken and key not in ("name", "trainable"):
            arguments[key] = _value(file, name, key, value)
        elif key not in IGNORED and not key.endswith("_initializer"):
            raise _unsupported(file, name, key, value)
    _check_format(file, name, kind, arguments, shape)
    try:
        layer = cls(name=name, **arguments)
    except InputError as error:
        raise BrokenFileError(
            f"{file.filepath}, {name}", error.problem, error.expected, error.received, error.fix
        ) from error
    if config.get("trainable") is False:
        layer.trainable = False
    return layer


def _unsupported(file: Description, name: Any, key: str, value: Any) -> BrokenFileError:
    expected = f"{key}={NEUTRAL[key][0]!r}" if key in NEUTRAL else "the arguments that minicnn knows"
    return file.refused(
        name, f"minicnn has no {key} here.", f"{expected}.", f"{key}={value!r}."[:200],
        "build the network in code, then model.load_weights(file).",
    )  # fmt: skip


def _check_dtype(file: Description, name: Any, value: Any) -> None:
    policy = value.get("config", {}).get("name") if isinstance(value, dict) else value
    if policy in (None, "float32"):
        return
    if policy not in ("mixed_float16", "mixed_bfloat16", "float64"):
        raise _unsupported(file, name, "dtype", policy)
    warnings.warn(f"{file.filepath}: {name} was computed in {policy} by Keras; here it is float32.", stacklevel=2)


def _axis(file: Description, name: Any, kind: str, value: Any, shape: Shape | None) -> dict[str, Any]:
    """The axis of channels must be what it is here: the last one."""
    axis = value[0] if isinstance(value, list) and len(value) == 1 else value
    if shape is None:
        return {}
    last = 1 if file.channels_first and len(shape) == 3 else len(shape)
    allowed = (last,) if file.channels_first and len(shape) == 3 else (last, -1)
    if axis in allowed:
        return {}
    if kind in ("Concatenate", "Softmax") and not file.channels_first and isinstance(axis, int):
        return {"axis": axis}
    if kind == "Softmax" and not file.channels_first and isinstance(axis, list):
        return {"axis": axis}
    if kind == "Normalization" and not file.channels_first:
        return {"axis": value or None}
    if kind == "LayerNormalization" and not file.channels_first:
        return {"axis": axis}
    raise _unsupported(file, name, "axis", value)


def _check_format(file: Description, name: Any, kind: str, arguments: dict[str, Any], shape: Shape | None) -> None:
    """What reads the last axis, and what Theano pads otherwise, cannot be taken over."""
    softmax = kind == "Softmax" or getattr(arguments.get("activation"), "name", None) == "softmax"
    if file.channels_first and shape is not None and len(shape) == 3 and (kind == "Dense" or softmax):
        raise file.refused(
            name, f"{kind} works along the width here.", "layers that work along the channels.",
            "data_format='channels_first'.", "build the network in code, then model.load_weights(file).",
        )  # fmt: skip
    if file.channels_first and kind in ("Permute", "Reshape"):
        raise file.refused(
            name, f"{kind} moves axes that are others here.", "a network of channels_last.",
            "data_format='channels_first'.", "build the network in code, then model.load_weights(file).",
        )  # fmt: skip
    sizes = [*_pair(arguments.get("kernel_size", arguments.get("pool_size", 1)))]
    steps = _pair(arguments.get("strides") or arguments.get("pool_size", 1))
    if file.theano and arguments.get("padding") == "same" and (any(n % 2 == 0 for n in sizes) or max(steps) > 1):
        raise file.refused(
            name, 'padding="same" of Theano has another border where windows are even or strides above 1.',
            'padding="valid", or odd windows and strides of 1.', f"windows {tuple(sizes)}, strides {tuple(steps)}.",
            "build the network in code, with padding as pairs of numbers, then model.load_weights(file).",
        )  # fmt: skip


def _pair(value: Any) -> tuple[Any, Any]:
    return (value[0], value[-1]) if isinstance(value, (tuple, list)) else (value, value)


def _value(file: Description, name: Any, key: str, value: Any) -> Any:
    """An argument as minicnn takes it."""
    if key == "activation":
        return _activation(file, name, value)
    if key.endswith("_initializer"):
        return _initializer(key, value)
    if key.endswith("_regularizer"):
        return _regularizer(file, name, key, value)
    if key.endswith("_constraint"):
        return _constraint(file, name, key, value)
    if key == "seed":
        return value if isinstance(value, int) and 0 <= value < 2**32 else None
    if key in ("negative_slope", "alpha", "max_value") and isinstance(value, dict):  # a NumPy number of Keras 2
        value = value.get("config", value).get("value")
    if isinstance(value, list):
        return tuple(tuple(v) if isinstance(v, list) else v for v in value)
    return value


def _activation(file: Description, name: Any, value: Any) -> Any:
    if isinstance(value, dict):
        config = value.get("config")
        value = config if isinstance(config, str) else value.get("class_name")
    try:
        return activations.get(value)
    except InputError as error:
        raise file.refused(
            name, f"minicnn has no activation {value!r}.", error.expected, f"{value!r}.",
            "build the network in code, with a layer of your own for it, then model.load_weights(file).",
        ) from error  # fmt: skip


def _initializer(key: str, value: Any) -> Any:
    """The one of this name, or our own: it decides nothing, since the weights come from the file."""
    kind, config = (value.get("class_name"), value.get("config")) if isinstance(value, dict) else (value, {})
    config = {k: v for k, v in (config or {}).items() if v is not None and k not in ("dtype", "seed")}
    try:
        return initializers.get({"class_name": kind, "config": config})
    except (InputError, TypeError, ValueError):
        return "zeros" if key in ("bias_initializer", "beta_initializer", "moving_mean_initializer") else "ones"


def _regularizer(file: Description, name: Any, key: str, value: Any) -> Any:
    if value is None:
        return None
    kind = value.get("class_name", value.get("name")) if isinstance(value, dict) else value
    config = value.get("config", value) if isinstance(value, dict) else {}
    if kind in ("L1", "L2", "L1L2", "L1L2Regularizer", "WeightRegularizer"):
        rates = {k: float(config[k]) for k in ("l1", "l2") if config.get(k) is not None}
        return regularizers.L1L2(**rates)
    raise _unsupported(file, name, key, value)


def _constraint(file: Description, name: Any, key: str, value: Any) -> Any:
    if value is None:
        return None
    kind = value.get("class_name", value.get("name")) if isinstance(value, dict) else value
    config = value.get("config", value) if isinstance(value, dict) else {}
    if kind not in ("MaxNorm", "NonNeg", "UnitNorm"):
        raise _unsupported(file, name, key, value)
    config = {"max_value": config.get("m"), **config}  # m in Keras 1
    taken = {"MaxNorm": ("max_value", "axis"), "UnitNorm": ("axis",)}.get(kind, ())
    known = {k: _value(file, name, k, config[k]) for k in taken if config.get(k) is not None}
    return getattr(constraints, kind)(**known)
