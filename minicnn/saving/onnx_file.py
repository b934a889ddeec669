"""A network as an ONNX file, which onnxruntime, a browser or a phone can run: IR version 8, operators of set 17.

ONNX has images as (N, C, H, W). So inside of the file the channels come right behind the batch axis, wherever a layer
wants them there: the input is transposed once, and nothing else is. Kernels are turned when they are written; Flatten
leaves the features in another order, which the rows of the next Dense take up.

    RULES     what a layer becomes: a short function for each class, (graph, layer, values that it reads) -> value
    Value     a value in the file, and how its numbers lie compared with minicnn's
    Graph     the nodes and arrays that have been written so far

All of it: https://onnx.ai/onnx/operators. The package onnx puts the bytes together.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import minicnn
from minicnn import layers
from minicnn.activations import Function
from minicnn.backend import to_host
from minicnn.errors import InputError, checked
from minicnn.files import atomic_write, check_target, checked_path
from minicnn.kernels.geometry import Windows, pair
from minicnn.layers.base import Layer, Shape
from minicnn.layers.walk import Nodes, shapes_of

IR_VERSION, OPSET = 8, 17
MAX_BYTES = 2**31 - 2**20  # protobuf writes no file of 2 GiB
_INSTEAD = "build the model without it, or keep it in minicnn's own file: model.save('model.zip')."


def save_onnx(model: Any, nodes: Nodes, filepath: Any, layout: str = "nhwc", overwrite: bool = True) -> None:
    """Write a built model's nodes as an ONNX file that computes what `predict` does. Raises as `Model.to_onnx` does."""
    filepath = checked_path("to_onnx", filepath)
    checked("to_onnx", "layout", layout, ("nhwc", "nchw"), '"nhwc"')
    if not overwrite and Path(filepath).exists():
        raise FileExistsError(f"{filepath} exists already; pass overwrite=True to replace it")
    graph = Graph(channels_first=layout == "nchw" or _want_channels_first(nodes, model.sample_shape))
    entry = graph.unique(model.input.layer.name)
    value = Value(entry, model.sample_shape)
    if layout == "nhwc":
        value = graph.transposed(value, graph.axes_of(value.shape))
    values = [value]
    for node, shape in zip(nodes, shapes_of(nodes, model.sample_shape)[1:], strict=True):
        rule = RULES.get(type(node.layer))
        if rule is None:
            raise InputError(
                node.key, f"there is no rule that writes the layer {type(node.layer).__name__} as ONNX.",
                f"one of {', '.join(sorted(kind.__name__ for kind in RULES))}.", f"{type(node.layer).__name__}.",
                _INSTEAD,
            )  # fmt: skip
        graph.begin(node.key)
        made = rule(graph, node.layer, [values[j + 1] for j in node.inputs])
        assert made.shape == tuple(shape), node.key
        values.append(graph.end(made))
    graph.begin("output")
    value = graph.in_order(values[-1])
    if layout == "nhwc":
        back = (1 + np.argsort(graph.axes_of(value.shape))).tolist()
        value = graph.transposed(value, back)
    check_target(filepath)
    try:
        import onnx
    except ImportError as error:
        raise InputError(
            "to_onnx", "the package onnx is not installed, which puts the file together.", "the package onnx.",
            f"{error}.", 'install it with `python -m pip install onnx`, or minicnn with ".[onnx]".',
        ) from error  # fmt: skip
    written = _proto(onnx, model, graph, entry, value, layout)
    with atomic_write(filepath) as file:
        file.write(written.SerializeToString())


def _proto(onnx: Any, model: Any, graph: Graph, entry: str, value: Value, layout: str) -> Any:
    """The file's content, a ModelProto."""
    size = sum(array.nbytes for array in graph.arrays.values())
    if size > MAX_BYTES:
        raise InputError(
            "to_onnx", "the model is too large for one ONNX file.", f"arrays of at most {MAX_BYTES:,} bytes.",
            f"{size:,} bytes.", "use smaller layers; model.save('model.zip') has no such limit.",
        )  # fmt: skip
    helper, of = onnx.helper, onnx.numpy_helper.from_array

    def info(name: str, shape: Shape) -> Any:
        stored = shape if layout == "nhwc" else [shape[axis - 1] for axis in graph.axes_of(shape)]
        return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", *stored])

    last = value.name
    if last == entry:  # a network of Dropout alone, say
        last = graph.add("Identity", entry)
    nodes = [helper.make_node(n.kind, n.inputs, [n.name], name=n.name, **n.attributes) for n in graph.nodes]
    arrays = [of(array, name) for name, array in graph.arrays.items()]
    made = helper.make_graph(
        nodes, model.name, [info(entry, model.sample_shape)], [info(last, value.shape)], initializer=arrays
    )
    proto = helper.make_model(
        made, ir_version=IR_VERSION, opset_imports=[helper.make_opsetid("", OPSET)],
        producer_name="minicnn", producer_version=minicnn.__version__,
    )  # fmt: skip
    told = {"layout": layout, "class_names": _class_names(model), "image_input": _image_input(model)}
    helper.set_model_props(proto, {name: json.dumps(item) for name, item in told.items() if item is not None})
    return proto


# ---- values and graph ------------------------------------------------------------------------------------------------


class Value(NamedTuple):
    """A value in the file. shape: of a sample, as minicnn has it.

    order: of a flat one, number k in the file is minicnn's number order[k]; None: they lie as in minicnn.
    """

    name: str
    shape: Shape
    order: np.ndarray | None = None


class Node(NamedTuple):
    """kind: the operator. name: of the node, and of what it gives."""

    kind: str
    inputs: list[str]
    name: str
    attributes: dict[str, Any]


class Graph:
    """The nodes and arrays so far. channels_first: whether samples of two or more axes lie so, or as in minicnn."""

    def __init__(self, channels_first: bool):
        self.channels_first = channels_first
        self.nodes: list[Node] = []
        self.arrays: dict[str, np.ndarray] = {}
        self.taken: set[str] = set()
        self.key, self.begun = "", 0

    # -- writing

    def begin(self, key: str) -> None:
        """From here on, nodes belong to the layer of this key."""
        self.key, self.begun = key, len(self.nodes)

    def end(self, value: Value) -> Value:
        """The layer's last node, which gives its output, gets the layer's name."""
        if len(self.nodes) == self.begun:
            return value
        self.nodes[-1] = self.nodes[-1]._replace(name=self.unique(self.key))
        return value._replace(name=self.nodes[-1].name)

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """A node that belongs to the layer; the name of what it gives."""
        self.nodes.append(Node(kind, list(inputs), self.unique(f"{self.key}/{kind}"), attributes))
        return self.nodes[-1].name

    def array(self, name: str, array: Any) -> str:
        """The layer's array of this name; a layer that is used twice has it once."""
        array = np.ascontiguousarray(to_host(array))
        array = array.astype(np.float32) if array.dtype.kind == "f" else array
        wanted = f"{self.key}/{name}"
        if wanted in self.arrays and np.array_equal(self.arrays[wanted], array):
            return wanted
        wanted = self.unique(wanted)
        self.arrays[wanted] = array
        return wanted

    def number(self, value: float) -> str:
        name = repr(float(value))
        self.taken.add(name)
        self.arrays[name] = np.array(value, np.float32)
        return name

    def whole(self, name: str, numbers: Any) -> str:
        return self.array(name, np.array(numbers, np.int64))

    def unique(self, name: str) -> str:
        taken, i = name, 1
        while taken in self.taken:
            i += 1
            taken = f"{name}_{i}"
        self.taken.add(taken)
        return taken

    # -- how the numbers lie

    def axes_of(self, shape: Shape) -> list[int]:
        """For each axis of the stored array behind the batch's, which axis of minicnn's it is."""
        rank = len(shape)
        return [rank, *range(1, rank)] if self.channels_first and rank > 1 else list(range(1, rank + 1))

    def axis(self, shape: Shape, axis: int) -> int:
        """Where an axis of minicnn's array, which may be counted from the end, is in the stored one."""
        axis = axis % (len(shape) + 1)
        return 0 if axis == 0 else 1 + self.axes_of(shape).index(axis)

    def stored_order(self, shape: Shape) -> np.ndarray:
        """Which numbers of a flattened sample of minicnn's lie one behind the other in the stored one."""
        axes = [axis - 1 for axis in self.axes_of(shape)]
        return np.arange(math.prod(shape)).reshape(shape).transpose(axes).ravel()

    def like(self, array: Any, x: Value) -> np.ndarray:
        """An array that minicnn spreads over samples x, so that it spreads over the stored ones."""
        array = to_host(array)
        if x.order is not None and np.size(array) > 1:
            return array[x.order]
        array = np.asarray(array).reshape((1,) * (len(x.shape) - np.ndim(array)) + np.shape(array))
        return array.transpose([axis - 1 for axis in self.axes_of(x.shape)])

    def transposed(self, x: Value, axes: Sequence[int]) -> Value:
        """The axes behind the batch's in another order, given as that of the present ones, counted from 1."""
        if list(axes) == sorted(axes):
            return x
        return x._replace(name=self.add("Transpose", x.name, perm=[0, *axes]))

    def in_order(self, x: Value, wanted: np.ndarray | None = None) -> Value:
        """A flat value whose numbers lie as in minicnn, or in the order `wanted` of minicnn's."""
        if len(x.shape) > 1:
            return x
        now = np.arange(x.shape[0]) if x.order is None else x.order
        wanted = np.arange(x.shape[0]) if wanted is None else wanted
        name = x.name
        if not np.array_equal(now, wanted):
            name = self.add("Gather", x.name, self.whole("order", np.argsort(now)[wanted]), axis=1)
        return Value(name, x.shape)

    def flat(self, x: Value) -> Value:
        if len(x.shape) == 1:
            return x
        order = self.stored_order(x.shape)
        in_order = np.array_equal(order, np.arange(order.size))
        return Value(self.add("Flatten", x.name, axis=1), (order.size,), None if in_order else order)

    def activated(self, layer: Any, x: Value) -> Value:
        """x after the layer's activation."""
        function: Function = layer.activation
        forward = getattr(function.forward, "func", function.forward)  # with options it is a functools.partial
        rule = ACTIVATIONS.get(function.name.split(" ")[0])
        if rule is None or not forward.__module__.startswith("minicnn."):
            raise InputError(
                layer.name, f"there is no rule that writes its activation {function.name!r} as ONNX.",
                f"one of {', '.join(ACTIVATIONS)}.", f"{function!r}.", _INSTEAD,
            )  # fmt: skip
        return x._replace(name=rule(self, x, **getattr(function.forward, "keywords", {})))


def _want_channels_first(nodes: Nodes, shape: Shape) -> bool:
    """Whether any layer that reads more than flat features needs the channels behind the batch axis."""
    shapes = shapes_of(nodes, shape)
    return any(type(n.layer) in OF_IMAGES and len(shapes[n.inputs[0] + 1]) > 1 for n in nodes)


def _class_names(model: Any) -> list[str] | None:
    return None if model.class_names is None else [str(name) for name in model.class_names]


def _image_input(model: Any) -> dict[str, Any] | None:
    from dataclasses import asdict

    return None if model.image_input is None else asdict(model.image_input)


# ---- activations: (graph, value, options) -> the name of what comes out ----------------------------------------------


def _plain(kind: str, **attributes: float) -> Callable[..., str]:
    """An operator that does it all. The options of minicnn's functions are called alike."""
    return lambda g, x, **options: g.add(kind, x.name, **attributes, **options)


def _relu(g: Graph, x: Value, slope: float = 0.0, top: float | None = None, start: float = 0.0) -> str:
    if (slope, top, start) == (0, None, 0):
        return g.add("Relu", x.name)
    if start > 0:
        below = g.add("Mul", g.add("Sub", x.name, g.number(start)), g.number(slope))
        y = g.add("Where", g.add("GreaterOrEqual", x.name, g.number(start)), x.name, below)
    else:
        y = g.add("LeakyRelu", x.name, alpha=slope)
    return y if top is None else g.add("Clip", y, "", g.number(top))


def _gelu(g: Graph, x: Value, approximate: bool = False) -> str:
    """x * Phi(x): an operator of its own only in newer sets."""
    if approximate:
        cube = g.add("Mul", g.add("Mul", x.name, x.name), x.name)
        inner = g.add("Add", x.name, g.add("Mul", cube, g.number(0.044715)))
        phi = g.add("Tanh", g.add("Mul", inner, g.number(math.sqrt(2 / math.pi))))
    else:
        phi = g.add("Erf", g.add("Mul", x.name, g.number(math.sqrt(0.5))))
    return g.add("Mul", g.add("Mul", x.name, g.number(0.5)), g.add("Add", phi, g.number(1)))


def _softmax(kind: str) -> Callable[..., str]:
    def rule(g: Graph, x: Value, axis: tuple[int, ...] = (-1,)) -> str:
        if len(axis) > 1:
            raise InputError(kind, "ONNX has it for one axis only.", "a single axis.", f"axis={axis}.", _INSTEAD)
        return g.add(kind, x.name, axis=g.axis(x.shape, axis[0]))

    return rule


ACTIVATIONS: dict[str, Callable[..., str]] = {
    "linear": lambda g, x: x.name,
    "relu": _relu,
    "leaky_relu": lambda g, x, negative_slope=0.2: g.add("LeakyRelu", x.name, alpha=negative_slope),
    "relu6": lambda g, x: g.add("Clip", x.name, g.number(0), g.number(6)),
    "elu": lambda g, x, alpha=1.0: g.add("Elu", x.name, alpha=alpha),
    "selu": _plain("Selu", alpha=1.6732632423543772, gamma=1.0507009873554805),
    "gelu": _gelu,
    "silu": lambda g, x: g.add("Mul", x.name, g.add("Sigmoid", x.name)),
    "mish": lambda g, x: g.add("Mul", x.name, g.add("Tanh", g.add("Softplus", x.name))),
    "sigmoid": _plain("Sigmoid"),
    "hard_sigmoid": _plain("HardSigmoid", alpha=1 / 6, beta=0.5),
    "tanh": _plain("Tanh"),
    "softsign": _plain("Softsign"),
    "softplus": _plain("Softplus"),
    "exponential": _plain("Exp"),
    "softmax": _softmax("Softmax"),
    "log_softmax": _softmax("LogSoftmax"),
}


# ---- layers: (graph, layer, values that it reads) -> the value that it gives -----------------------------------------


def _weights(g: Graph, layer: Any, w: np.ndarray) -> list[str]:
    """The layer's kernel as it is stored, and its bias."""
    stored = {"kernel": w} | ({"bias": layer.params["b"]} if "b" in layer.params else {})
    return [g.array(name, array) for name, array in stored.items()]


def _windows(x: Value, layer: Any, kernel: Any, strides: Any, dilation: Any = 1) -> tuple[dict[str, Any], Shape]:
    """(The attributes of a convolution or pooling, the size of the image that comes out)."""
    windows = Windows.of((1, *x.shape), kernel, strides, layer.padding, dilation)
    (top, bottom), (left, right) = windows.pads
    at = {"kernel_shape": windows.kernel, "strides": windows.stride, "pads": (top, left, bottom, right)}
    return {name: list(numbers) for name, numbers in at.items()}, windows.out


def _conv2d(g: Graph, layer: Any, x: list[Value]) -> Value:
    at, size = _windows(x[0], layer, layer.kernel_size, layer.strides, layer.dilation_rate)
    weights = _weights(g, layer, to_host(layer.params["w"]).transpose(3, 2, 0, 1))
    y = g.add("Conv", x[0].name, *weights, **at, dilations=list(pair(layer.dilation_rate)), group=layer.groups)
    return g.activated(layer, Value(y, (*size, layer.filters)))


def _conv1d(g: Graph, layer: Any, x: list[Value]) -> Value:
    at, size = _along(x[0], layer.window, *layer.geometry())
    weights = _weights(g, layer, to_host(layer.params["w"]).transpose(2, 1, 0))
    y = g.add("Conv", x[0].name, *weights, **at, dilations=[layer.dilation_rate], group=layer.groups)
    return g.activated(layer, Value(y, (size, layer.filters)))


def _pooling1d(kind: str, **attributes: int) -> Callable[..., Value]:
    def rule(g: Graph, layer: Any, x: list[Value]) -> Value:
        at, size = _along(x[0], *layer.geometry())
        return Value(g.add(kind, x[0].name, **at, **attributes, ceil_mode=0), (size, x[0].shape[-1]))

    return rule


def _along(x: Value, kernel: Any, strides: Any, padding: Any, dilation: Any = 1) -> tuple[dict[str, Any], int]:
    """The attributes of a window that slides over sequences, which are images of height 1; how often it fits."""
    windows = Windows.of((1, 1, *x.shape), kernel, strides, padding, dilation)
    at = {"kernel_shape": windows.kernel[1:], "strides": windows.stride[1:], "pads": windows.pads[1]}
    return {name: list(numbers) for name, numbers in at.items()}, windows.out[1]


def _depthwise(g: Graph, layer: Any, x: list[Value]) -> Value:
    """A convolution with a group for each channel."""
    y, size, channels = _each_channel(g, layer, x[0], "w", bias="b" in layer.params)
    return g.activated(layer, Value(y, (*size, channels)))


def _separable(g: Graph, layer: Any, x: list[Value]) -> Value:
    h, size, _ = _each_channel(g, layer, x[0], "depthwise", bias=False)
    weights = _weights(g, layer, to_host(layer.params["pointwise"]).transpose(3, 2, 0, 1))
    y = g.add("Conv", h, *weights, kernel_shape=[1, 1], group=1)
    return g.activated(layer, Value(y, (*size, layer.filters)))


def _each_channel(g: Graph, layer: Any, x: Value, name: str, bias: bool) -> tuple[str, Shape, int]:
    """(What a depthwise kernel makes of x, the size of its image, its channels)."""
    at, size = _windows(x, layer, layer.kernel_size, layer.strides, layer.dilation_rate)
    w = to_host(layer.params[name])
    kh, kw, c, m = w.shape
    kernel = w.reshape(kh, kw, 1, c * m).transpose(3, 2, 0, 1)
    weights = _weights(g, layer, kernel) if bias else [g.array(name, kernel)]
    return g.add("Conv", x.name, *weights, **at, dilations=list(pair(layer.dilation_rate)), group=c), size, c * m


def _transposed(g: Graph, layer: Any, x: list[Value]) -> Value:
    """The border is cut off; output_padding are the pixels behind it that no window of x begins at."""
    windows = Windows.transposed((1, *x[0].shape), layer.kernel_size, *layer.geometry())
    axes = zip(windows.padded, windows.out, windows.kernel, windows.stride, windows.dilation, strict=True)
    beyond = [size - (n - 1) * s - (k - 1) * d - 1 for size, n, k, s, d in axes]
    (top, bottom), (left, right) = windows.pads
    at: dict[str, Any] = {
        "kernel_shape": windows.kernel, "strides": windows.stride, "dilations": windows.dilation,
        "pads": (top, left, bottom, right), "output_padding": beyond,
    }  # fmt: skip
    weights = _weights(g, layer, to_host(layer.params["w"]).transpose(3, 2, 0, 1))
    at = {name: list(numbers) for name, numbers in at.items()}
    y = g.add("ConvTranspose", x[0].name, *weights, **at, group=1)
    return g.activated(layer, Value(y, (*windows.image, layer.filters)))


def _dense(g: Graph, layer: Any, x: list[Value]) -> Value:
    """On more than flat features it is a convolution whose kernel is a single pixel."""
    w, axes = to_host(layer.params["w"]), len(x[0].shape) - 1
    shape = (*x[0].shape[:-1], layer.units)
    if axes:
        kernel = w.T.reshape(*w.T.shape, *[1] * axes)
        y = g.add("Conv", x[0].name, *_weights(g, layer, kernel), kernel_shape=[1] * axes, group=1)
    else:
        rows = w if x[0].order is None else w[x[0].order]
        y = g.add("Gemm", x[0].name, *_weights(g, layer, rows), alpha=1.0, beta=1.0)
    return g.activated(layer, Value(y, shape))


def _pooling(kind: str, **attributes: int) -> Callable[..., Value]:
    def rule(g: Graph, layer: Any, x: list[Value]) -> Value:
        strides = layer.pool_size if layer.strides is None else layer.strides
        at, size = _windows(x[0], layer, layer.pool_size, strides)
        y = g.add(kind, x[0].name, **at, **attributes, ceil_mode=0)
        return Value(y, (*size, x[0].shape[-1]))

    return rule


def _global_pooling(kind: str) -> Callable[..., Value]:
    def rule(g: Graph, layer: Any, x: list[Value]) -> Value:
        *size, channels = x[0].shape
        y = g.add(kind, x[0].name, axes=list(range(2, 2 + len(size))), keepdims=int(layer.keepdims))
        return Value(y, (*[1] * len(size), channels) if layer.keepdims else (channels,))

    return rule


def _up_sampling(g: Graph, layer: Any, x: list[Value]) -> Value:
    (h, w, c), (sh, sw) = x[0].shape, pair(layer.size)
    how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    if layer.interpolation == "bilinear":
        how = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
    scales = g.array("scales", np.array([1, 1, sh, sw], np.float32))
    return Value(g.add("Resize", x[0].name, "", scales, **how), (h * sh, w * sw, c))


def _resized(g: Graph, layer: Any, x: list[Value]) -> Value:
    """What is cut out of the middle, in another size."""
    h, w, c = x[0].shape
    rows, columns = layer.part(h, w)
    starts, ends, y = [rows.start, columns.start], [rows.stop, columns.stop], x[0].name
    if (starts, ends) != ([0, 0], [h, w]):
        cut = [g.whole("starts", starts), g.whole("ends", ends), g.whole("axes", [2, 3])]
        y = g.add("Slice", y, *cut)
    size = [ends[0] - starts[0], ends[1] - starts[1]]
    if size != [layer.height, layer.width]:
        scales = g.array("scales", np.array([1, 1, layer.height / size[0], layer.width / size[1]], np.float32))
        how = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
        if layer.interpolation == "nearest":
            how |= {"mode": "nearest", "nearest_mode": "round_prefer_ceil"}
        y = g.add("Resize", y, "", scales, **how)
    return Value(y, (layer.height, layer.width, c))


def _zero_padding(g: Graph, layer: Any, x: list[Value]) -> Value:
    (h, w, c), ((top, bottom), (left, right)) = x[0].shape, layer.pads
    pads = g.whole("pads", [0, 0, top, left, 0, 0, bottom, right])
    return Value(g.add("Pad", x[0].name, pads, g.number(0), mode="constant"), (top + h + bottom, left + w + right, c))


def _cropping(g: Graph, layer: Any, x: list[Value]) -> Value:
    (h, w, c), ((top, bottom), (left, right)) = x[0].shape, layer.sides
    cut = [g.whole("starts", [top, left]), g.whole("ends", [h - bottom, w - right]), g.whole("axes", [2, 3])]
    return Value(g.add("Slice", x[0].name, *cut), (h - top - bottom, w - left - right, c))


def _batch_normalization(g: Graph, layer: Any, x: list[Value]) -> Value:
    channels = x[0].shape[-1]
    plain = {"gamma": np.ones(channels), "beta": np.zeros(channels)}
    arrays = plain | {name: to_host(array) for name, array in (layer.params | layer.state).items()}
    order = x[0].order if x[0].order is not None else slice(None)
    names = [g.array(name, arrays[name][order]) for name in ("gamma", "beta", "moving_mean", "moving_variance")]
    return x[0]._replace(name=g.add("BatchNormalization", x[0].name, *names, epsilon=layer.epsilon))


def _normalized(g: Graph, x: str, axes: Sequence[int], epsilon: float) -> str:
    """x with mean 0 and variance 1 over these axes."""
    centred = g.add("Sub", x, g.add("ReduceMean", x, axes=list(axes), keepdims=1))
    variance = g.add("ReduceMean", g.add("Mul", centred, centred), axes=list(axes), keepdims=1)
    return g.add("Div", centred, g.add("Sqrt", g.add("Add", variance, g.number(epsilon))))


def _scaled(g: Graph, layer: Any, x: Value, y: str) -> Value:
    """y times gamma plus beta, as far as the layer has them."""
    for kind, name in (("Mul", "gamma"), ("Add", "beta")):
        if name in layer.params:
            y = g.add(kind, y, g.array(name, g.like(layer.params[name], x)))
    return x._replace(name=y)


def _layer_normalization(g: Graph, layer: Any, x: list[Value]) -> Value:
    rank = len(x[0].shape)
    axes = sorted(g.axis(x[0].shape, axis) for axis in range(rank + 1 - layer.normalized(x[0].shape), rank + 1))
    return _scaled(g, layer, x[0], _normalized(g, x[0].name, axes, layer.epsilon))


def _group_normalization(g: Graph, layer: Any, x: list[Value]) -> Value:
    """The channels of a group lie one behind the other, so its numbers can be seen as one row."""
    value = g.in_order(x[0])
    groups = layer.seen_as(value.shape)[1]
    rows = g.add("Reshape", value.name, g.whole("rows", [0, groups, -1]))
    stored = [value.shape[axis - 1] for axis in g.axes_of(value.shape)]
    y = g.add("Reshape", _normalized(g, rows, [2], layer.epsilon), g.whole("shape", [0, *stored]))
    return _scaled(g, layer, value, y)


def _flatten(g: Graph, layer: Any, x: list[Value]) -> Value:
    return g.flat(x[0])


def _reshape(g: Graph, layer: Any, x: list[Value]) -> Value:
    shape, flat = layer.output_shape(x[0].shape), g.flat(x[0])
    if len(shape) == 1:
        return flat
    stored = [shape[axis - 1] for axis in g.axes_of(shape)]
    flat = g.in_order(flat, g.stored_order(shape))
    return Value(g.add("Reshape", flat.name, g.whole("shape", [0, *stored])), shape)


def _permute(g: Graph, layer: Any, x: list[Value]) -> Value:
    shape = layer.output_shape(x[0].shape)
    axes = [g.axis(x[0].shape, layer.dims[axis - 1]) for axis in g.axes_of(shape)]
    return g.transposed(x[0], axes)._replace(shape=shape)


def _same(g: Graph, layer: Any, x: list[Value]) -> Value:
    """A layer that does nothing but in training."""
    return x[0]


def _activation(g: Graph, layer: Any, x: list[Value]) -> Value:
    return g.activated(layer, x[0])


def _prelu(g: Graph, layer: Any, x: list[Value]) -> Value:
    slope = g.array("alpha", g.like(layer.params["alpha"], x[0]))
    return x[0]._replace(name=g.add("PRelu", x[0].name, slope))


def _normalization(g: Graph, layer: Any, x: list[Value]) -> Value:
    mean, deviation = layer.moments(np.zeros((1, *x[0].shape), np.float32))
    arrays = (("mean", mean), ("deviation", deviation))
    mean, deviation = (g.array(name, g.like(to_host(array)[0], x[0])) for name, array in arrays)
    if layer.invert:
        return x[0]._replace(name=g.add("Add", g.add("Mul", x[0].name, deviation), mean))
    return x[0]._replace(name=g.add("Div", g.add("Sub", x[0].name, mean), deviation))


def _rescaling(g: Graph, layer: Any, x: list[Value]) -> Value:
    y = x[0].name
    for kind, name, neutral in (("Mul", "scale", 1), ("Add", "offset", 0)):
        numbers = np.asarray(getattr(layer, name), np.float32)
        if (numbers != neutral).any():
            y = g.add(kind, y, g.array(name, g.like(numbers, x[0])))
    return x[0]._replace(name=y)


def _merge(kind: str, pairwise: bool = False) -> Callable[..., Value]:
    """An operator that takes all values at once, or one after the other."""

    def rule(g: Graph, layer: Any, x: list[Value]) -> Value:
        shape, same = layer.output_shape([value.shape for value in x]), x[0]
        if any(value.shape != same.shape or not np.array_equal(value.order, same.order) for value in x):  # type: ignore[arg-type]
            x = [g.in_order(value) for value in x]
        names = [value.name for value in x]
        while pairwise and len(names) > 1:
            names[:2] = [g.add(kind, *names[:2])]
        return Value(names[0] if pairwise else g.add(kind, *names), shape, x[0].order)

    return rule


def _concatenate(g: Graph, layer: Any, x: list[Value]) -> Value:
    shape = layer.output_shape([value.shape for value in x])
    y = g.add("Concat", *(value.name for value in x), axis=g.axis(shape, layer.axis))
    if all(value.order is None for value in x):
        return Value(y, shape)
    orders, before = [], 0
    for value in x:
        own = np.arange(value.shape[0]) if value.order is None else value.order
        orders.append(own + before)
        before += value.shape[0]
    return Value(y, shape, np.concatenate(orders))


Rule = Callable[[Graph, Any, list[Value]], Value]

# Those that need the channels behind the batch axis.
OF_IMAGES: dict[type[Layer], Rule] = {
    layers.Conv1D: _conv1d,
    layers.Conv2D: _conv2d,
    layers.Conv2DTranspose: _transposed,
    layers.DepthwiseConv2D: _depthwise,
    layers.SeparableConv2D: _separable,
    layers.Dense: _dense,
    layers.MaxPooling1D: _pooling1d("MaxPool"),
    layers.AveragePooling1D: _pooling1d("AveragePool", count_include_pad=0),
    layers.GlobalAveragePooling1D: _global_pooling("ReduceMean"),
    layers.GlobalMaxPooling1D: _global_pooling("ReduceMax"),
    layers.MaxPooling2D: _pooling("MaxPool"),
    layers.AveragePooling2D: _pooling("AveragePool", count_include_pad=0),
    layers.GlobalAveragePooling2D: _global_pooling("ReduceMean"),
    layers.GlobalMaxPooling2D: _global_pooling("ReduceMax"),
    layers.UpSampling2D: _up_sampling,
    layers.Resizing: _resized,
    layers.CenterCrop: _resized,
    layers.ZeroPadding2D: _zero_padding,
    layers.Cropping2D: _cropping,
    layers.BatchNormalization: _batch_normalization,
    layers.GroupNormalization: _group_normalization,
}
RULES: dict[type[Layer], Rule] = OF_IMAGES | {
    layers.LayerNormalization: _layer_normalization,
    layers.Flatten: _flatten,
    layers.Reshape: _reshape,
    layers.Permute: _permute,
    layers.Dropout: _same,
    layers.SpatialDropout2D: _same,
    layers.GaussianNoise: _same,
    layers.RandomFlip: _same,
    layers.RandomRotation: _same,
    layers.RandomTranslation: _same,
    layers.RandomZoom: _same,
    layers.Normalization: _normalization,
    layers.Activation: _activation,
    layers.ReLU: _activation,
    layers.LeakyReLU: _activation,
    layers.ELU: _activation,
    layers.Softmax: _activation,
    layers.PReLU: _prelu,
    layers.Rescaling: _rescaling,
    layers.Add: _merge("Sum"),
    layers.Average: _merge("Mean"),
    layers.Maximum: _merge("Max"),
    layers.Multiply: _merge("Mul", pairwise=True),
    layers.Subtract: _merge("Sub", pairwise=True),
    layers.Concatenate: _concatenate,
}
