"""What is checked before any work is done, and the sentences that are said then; and the warnings of `fit`.

Do the arrays, the model, the loss and its output fit together? The formulas are elsewhere: here is only what is said.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np

from minicnn.backend import to_host, xp_of
from minicnn.batches import Epochs
from minicnn.errors import InputError
from minicnn.layers.base import Layer
from minicnn.layers.normalization import BatchNormalization
from minicnn.layers.weighted import ActivatedLayer
from minicnn.losses import BinaryCrossentropy, CategoricalCrossentropy
from minicnn.objective import Loss, weights_of_batch

PIECE = 1 << 18  # numbers that are looked at together: what is noted of them stays in the cache
_NO_PROBABILITIES = ("linear", "relu", "leaky_relu", "elu", "gelu", "tanh")


def check_targets(loss: Loss, y: np.ndarray, output_shape: tuple[int, ...], name: str = "y") -> None:
    """Before training: do these targets fit this loss and this output? Raises InputError, and says what was found."""
    if loss.reduction in ("none", None):
        raise InputError(
            "loss", "its values are not reduced to one number.", 'a reduction, such as "sum_over_batch_size".',
            f"{type(loss).__name__}(reduction={loss.reduction!r}).", "leave reduction out for training.",
        )  # fmt: skip
    if loss.sparse:
        _check_class_numbers(loss, y, output_shape, name)
    else:
        _check_arrays(loss, y, output_shape, name)


def warn_unless_probabilities(loss: Loss, layers: Sequence[Layer], stacklevel: int) -> None:
    """A UserWarning where a cross-entropy takes for probabilities what the last activation does not make."""
    last, kind, wanted = layers[-1] if layers else None, type(loss).__name__, getattr(loss, "activation", None)
    name = last.activation.name if isinstance(last, ActivatedLayer) else None
    if last is None or wanted is None or getattr(loss, "from_logits", False):
        return
    if name in _NO_PROBABILITIES:
        warnings.warn(
            f"{kind} takes probabilities, but the outputs of {last.name} are none: its activation is {name!r}. Give it "
            f'activation="{wanted}", or compile with loss=minicnn.losses.{kind}(from_logits=True).',
            stacklevel=stacklevel,
        )
    elif name == "softmax" and getattr(last, "units", getattr(last, "filters", 0)) == 1:
        warnings.warn(
            f"the softmax of {last.name} has one output, which is always 1: nothing can be learned. For two classes "
            'use activation="sigmoid" and loss="binary_crossentropy"; for K of them K units.',
            stacklevel=stacklevel,
        )
    elif name == "softmax" and isinstance(loss, BinaryCrossentropy):
        warnings.warn(
            f"{kind} judges each output of {last.name} alone, but its softmax makes one choice of all of them: "
            '"accuracy" then counts outputs, and is high where most are 0. For one class among several use '
            'loss="categorical_crossentropy"; for several at once activation="sigmoid".',
            stacklevel=stacklevel,
        )


def warn_of_hidden_weights(layers: Sequence[Layer], stacklevel: int) -> None:
    """A UserWarning where a layer of the user's own holds others with weights: training does not see them."""
    known = {id(p) for layer in layers for p in layer.params.values()}
    for layer in layers:
        lists = [value if isinstance(value, (list, tuple)) else [value] for value in vars(layer).values()]
        held = [item for items in lists for item in items if isinstance(item, Layer)]
        inner = [one for item in held for one in getattr(item, "flat_layers", [item])]
        hidden = [one.name for one in inner if one.trainable and any(id(p) not in known for p in one.params.values())]
        if hidden:
            warnings.warn(
                f"{layer.name} holds layers with weights of their own, which do not learn: {', '.join(hidden)}. Join "
                "layers by calling them: x = Input(shape), y = Add()([x, layer(x)]), and Model(x, y), which may be a "
                "layer of another model; or set their trainable = False.",
                stacklevel=stacklevel,
            )


def check_array(name: str, array: Any) -> np.ndarray:
    """`array` as a NumPy array of numbers with at least one sample; else InputError. Nothing is copied needlessly."""
    if xp_of(array) is not np:
        array = to_host(array)
    try:
        masked = isinstance(array, np.ma.MaskedArray) and bool(np.ma.getmaskarray(array).any())
        array = np.asarray(array)  # a matrix, too, becomes an array: its product is another one
    except ValueError:
        raise _ragged(name, f"a {type(array).__name__} of items that differ in shape") from None
    if masked:
        raise InputError(
            name, "some of its numbers are masked.", "an array without missing numbers.", "a masked array.",
            f"leave those samples out, or fill them: {name}.filled(0).",
        )  # fmt: skip
    if array.dtype == object and array.ndim > 0:
        array = _of_objects(name, array)
    if array.dtype.kind not in "buif":
        fix = "convert them to numbers first."
        if array.dtype.kind in "US" and array.ndim == 0:
            fix = "of a picture's file: minicnn.preprocessing.image.img_to_array(load_img(path)) has its pixels."
        elif array.dtype.kind in "US":
            fix = f"number the classes: names, numbers = np.unique({name}, return_inverse=True)."
        received = f"dtype {array.dtype}, shape {array.shape}"
        if array.ndim == 0 and array.dtype == object:
            received = "None" if array.item() is None else f"an object of type {type(array.item()).__name__}"
        raise InputError(name, "these are not numbers.", "an array of numbers.", f"{received}.", fix)
    if array.ndim == 0:
        raise InputError(
            name, "this is a single number.", "an array of samples.", f"{array.item()!r}.",
            f"put it into a list: [{array.item()!r}].",
        )  # fmt: skip
    if array.size == 0:
        raise InputError(
            name, "there is nothing in it.", "at least one sample.", f"an array of shape {array.shape}.",
            "check how the data was loaded or sliced.",
        )  # fmt: skip
    return array


def _of_objects(name: str, array: np.ndarray) -> np.ndarray:
    """Numbers or names kept as Python's objects (a column of a table) as an array of such; else InputError."""
    try:
        plain = np.asarray(array.tolist())
    except ValueError:
        plain = array
    if plain.dtype.kind in "buifUS" and plain.shape[: array.ndim] == array.shape:
        return plain
    if any(item is None for item in array.flat):
        raise InputError(
            name, "something is missing in it.", "numbers only.", "an array of objects, some of them None.",
            "leave those samples out, or fill the gaps.",
        )  # fmt: skip
    raise _ragged(name, f"an object array of shape {array.shape}")


def _ragged(name: str, received: str) -> InputError:
    return InputError(
        name, "its items do not make one array of numbers.", "items of one shape.", f"{received}.",
        "give all images the same height, width and channels, then np.stack(images).",
    )  # fmt: skip


def check_input(model: Any, x: np.ndarray, name: str) -> np.ndarray:
    """x as the model takes it, after a look at every number. See as_samples."""
    _check_layers(model)
    check_finite(name, x, model.dtype)
    return as_samples(model, x, name)


def _check_layers(model: Any) -> None:
    if not model.layers:
        raise InputError(
            model.name, "the model has no layers.", "at least one layer.", "an empty Sequential.", "add layers first."
        )


def as_samples(model: Any, x: np.ndarray, name: str = "x") -> np.ndarray:
    """x in the shape that the model takes. Builds a model that did not know its input shape.

    A last axis of length 1 may be missing or be too many, as in Keras: (N, 28, 28) fits a model of (28, 28, 1). Raises
    InputError where x does not fit.
    """
    _check_layers(model)
    if not model.built:
        model.build_once(x.shape[1:] or (1,))
    sample, wanted = x.shape[1:], model.sample_shape
    if (*sample, 1) == wanted:
        x = x[..., None]
    elif sample == (*wanted, 1):
        x = x[..., 0]
    check_samples(name, x, wanted, model.layers[0].name)
    return x


def check_samples(name: str, x: np.ndarray, input_shape: tuple[int, ...], layer: str) -> None:
    """Does x fit the model's first layer? Raises InputError, with the nearest mend."""
    if x.shape[1:] == tuple(input_shape):
        return
    shape, fix = x.shape[1:], "change the data, or the first layer's input_shape."
    if x.shape == tuple(input_shape) or (*x.shape, 1) == tuple(input_shape):
        fix = f"a single sample is a batch of one: {name}[None, ...]."
    elif len(shape) == 3 and (*shape[1:], shape[0]) == tuple(input_shape):
        fix = (
            f"the channels come first in these images. Use {name}.transpose(0, 2, 3, 1), not reshape, "
            "which would tear the pictures apart."
        )
    elif len(input_shape) == 1 and np.prod(shape, dtype=int) == input_shape[0]:
        fix = f"flatten each sample: {name}.reshape(len({name}), -1), or begin the model with Flatten."
    elif len(shape) == 1 and shape[0] == np.prod(input_shape, dtype=int):
        fix = f"give each sample its shape back: {name}.reshape(-1, {', '.join(map(str, input_shape))})."
    elif len(shape) == 3 and shape[:2] == tuple(input_shape[:2]) and (shape[2], *input_shape[2:]) == (3, 1):
        fix = f"make the images grey: {name}.mean(axis=3, keepdims=True); or give the model input_shape={shape}."
    elif len(shape) == len(input_shape) == 3 and shape[2] == input_shape[2]:
        fix = f"resize the images to {input_shape[0]}×{input_shape[1]} pixels (height×width), or change input_shape."
    raise InputError(
        name, f"the samples do not fit layer {layer}.", f"shape (N, {', '.join(map(str, input_shape))}).",
        f"shape {x.shape}.", fix,
    )  # fmt: skip


def check_finite(name: str, x: np.ndarray, dtype: np.dtype) -> None:
    """InputError where x holds NaN or infinity, or what becomes infinity in `dtype`; walks through it in pieces."""
    if x.dtype.kind != "f":
        return
    step, largest = max(1, PIECE // max(1, x[:1].size)), np.finfo(dtype).max
    for start in range(0, len(x), step):
        part = x[start : start + step]
        fits = np.isfinite(part) if x.dtype.itemsize <= dtype.itemsize else np.abs(part) <= largest
        if not fits.all():
            index = tuple(int(i) for i in np.argwhere(~fits)[0])
            index = (index[0] + start, *index[1:])
            if np.isfinite(x[index]):
                raise InputError(
                    name, f"a number is too large for {dtype}, in which the model computes.",
                    f"numbers up to {largest:.1e}.", f"{x[index]} at index {index}.",
                    "scale the data, for example to numbers between 0 and 1.",
                )  # fmt: skip
            raise InputError(
                name, "not every number is finite.", "no NaN and no infinity.", f"{x[index]} at index {index}.",
                "find where it comes from (a division by 0, a missing value) before training.",
            )  # fmt: skip


def same_length(x: np.ndarray, y: np.ndarray, x_name: str, y_name: str) -> None:
    if len(x) != len(y):
        raise InputError(
            y_name, f"{x_name} and {y_name} have different lengths.", f"one target for each of the {len(x)} samples.",
            f"{len(y)} targets.", "check that both were sliced or shuffled alike.",
        )  # fmt: skip


def checked_weights(model: Any, y: np.ndarray, sample_weight: Any, class_weight: Any) -> np.ndarray | None:
    """How much each sample counts, float64; None where all count the same. As in Keras.

    sample_weight: (N,), or one for each position of the output. class_weight: class number -> weight, 1 for others.
    Raises InputError where they do not fit.
    """
    if class_weight is not None:
        if sample_weight is not None:
            raise InputError(
                "class_weight", "both kinds of weights were given.", "class_weight or sample_weight.", "both.",
                "multiply them yourself: sample_weight=weights * np.array([class_weight[k] for k in y]).",
            )  # fmt: skip
        return _weights_of_classes(model, y, class_weight)
    if sample_weight is None:
        return None
    weights = np.asarray(check_array("sample_weight", sample_weight), np.float64)
    same_length(y, weights, "y", "sample_weight")
    check_finite("sample_weight", weights, weights.dtype)
    weights_of_batch(model.loss, y, weights, model.shapes[-1])
    return weights


def _weights_of_classes(model: Any, y: np.ndarray, class_weight: Any) -> np.ndarray:
    fix = "for example class_weight={0: 1.0, 1: 5.0}: each sample of class 1 counts five times as much."
    pairs = class_weight.items() if isinstance(class_weight, dict) else ()
    numbers = all(isinstance(k, Integral) and isinstance(w, Real) and math.isfinite(w) for k, w in pairs)
    if not isinstance(class_weight, dict) or not numbers:
        raise InputError(
            "class_weight", "it does not fit.", "a dict of class numbers and weights.", f"{class_weight!r}.", fix
        )
    if any(w < 0 for w in class_weight.values()):
        raise InputError(
            "class_weight", "a weight is below 0: the model would learn to miss that class.", "weights of 0 or more.",
            f"{class_weight!r}.", "0 leaves a class out; to count it less than others, a number below 1.",
        )  # fmt: skip
    classes = model.shapes[-1][-1] if model.shapes[-1] else 1
    unknown = [k for k in class_weight if not 0 <= k < classes and k != getattr(model.loss, "ignore_class", None)]
    if classes > 1 and unknown:
        raise InputError(
            "class_weight", "there is no such class.", f"class numbers 0…{classes - 1}, for {classes} outputs.",
            f"a weight for class {unknown[0]}.", "number the classes from 0.",
        )  # fmt: skip
    one_hot = not model.loss.sparse and y.ndim == 2 and y.shape[1] > 1
    labels = y.argmax(axis=1) if one_hot else y.reshape(len(y), -1)
    if not one_hot and labels.shape[1] != 1:
        raise InputError(
            "class_weight", "a sample has more than one class.", "one class for each sample.",
            f"targets of shape {y.shape}.", "pass sample_weight: one weight for each position.",
        )  # fmt: skip
    labels = labels.reshape(-1)
    classes, ignored = _class_count(model, y) or math.inf, getattr(model.loss, "ignore_class", None)
    unknown = [k for k in class_weight if not 0 <= k < classes and k != ignored]
    if unknown or (labels != np.floor(labels)).any():
        count = "0, 1, 2, …" if classes == math.inf else f"0 to {classes - 1}"
        raise InputError(
            "class_weight", "its keys and the classes do not fit together.", f"whole class numbers: {count}.",
            f"weights for {', '.join(map(str, class_weight))}; targets from {labels.min():g} to {labels.max():g}.",
            "pass the numbers that y has; for targets that are no classes, sample_weight.",
        )  # fmt: skip
    return np.array([float(class_weight.get(int(k), 1.0)) for k in labels])


def _class_count(model: Any, y: np.ndarray) -> int | None:
    """How many classes the targets can have; None where the loss does not tell."""
    if model.loss.sparse:
        return model.shapes[-1][model.loss.axis]
    if y.ndim == 2 and y.shape[1] > 1:
        return y.shape[1]
    return 2 if getattr(model.loss, "activation", None) == "sigmoid" else None


def check_frequency(validation_freq: Any) -> Callable[[int], bool]:
    """Whether an epoch, counted from 1, is validated: every n-th one, or those of a list. Else InputError."""
    if isinstance(validation_freq, (list, tuple, set)):
        return {whole("validation_freq", epoch) for epoch in validation_freq}.__contains__
    every = whole("validation_freq", validation_freq)
    return lambda epoch: epoch % every == 0


def whole(name: str, value: Any, least: int = 1) -> int:
    if not hasattr(value, "__index__") or isinstance(value, bool) or value.__index__() < least:
        raise InputError(
            name, "it does not fit.", f"a whole number of {least} or more.", f"{value!r}.", f"for example {name}=10."
        )
    return int(value)


def require_compiled(model: Any, what: str) -> None:
    if model.loss is None:
        raise InputError(
            model.name, f"{what} was called before compile.", "a model that knows its optimizer and its loss.",
            "a model that was not compiled.",
            'first call model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"]).',
        )  # fmt: skip


def warn_that_it_is_lost(model: Any, loss: float, epoch: int, stacklevel: int) -> None:
    """A UserWarning: the loss of an epoch (counted from 0) is NaN or infinite."""
    warnings.warn(
        f"The loss is {loss} in epoch {epoch + 1}: training has diverged, and what {model.name} had learned is likely "
        "to be lost. Most often the learning rate is too large "
        f"(it is {model.optimizer.learning_rate:g}; try a tenth), or the inputs are not scaled to about -1 to 1. "
        "fit(..., check_finite=True) stops before the first step that is not finite and names the layer in which it "
        "began; with callbacks.TerminateOnNaN() training ends there.",
        stacklevel=stacklevel,
    )


def warn_of_a_single_sample(model: Any, batches: Any, stacklevel: int) -> bool:
    """A UserWarning where a batch of one sample leaves a batch normalisation a single number for each channel.

    Says the likely cause. Returns whether it warned.
    """
    name = _normalises_single_numbers(model)
    if name is None:
        return False
    size, samples = batches.batch_size, batches.n
    if size == 1:
        cause = "The batch_size is 1: 16 or more gives it something to compare"
    elif samples == 1:
        cause = "There is one sample only: 16 or more give it something to compare"
    elif size is not None and samples is not None and samples % size == 1:
        cause = (
            f"The last batch holds the one sample that is left of {samples} in batches of {size}: take another "
            f"batch_size, or {samples - 1} samples"
        )
    else:
        cause = "What is x gave this batch: let it give larger ones, or leave out a last one that is too small"
    warnings.warn(
        f"{name} normalises a batch of a single sample, so it finds one number for each channel: less its mean, that "
        "is 0, whatever it was. Nothing before it is learned from such a batch, and the running variance shrinks. "
        f"{cause}.",
        stacklevel=stacklevel,
    )
    return True


def _normalises_single_numbers(model: Any) -> str | None:
    """The first batch normalisation that learns and sees a single row of channels in each sample: no image, or 1×1."""
    for node, shape in zip(model.nodes, model.node_shapes[1:], strict=True):
        if isinstance(node.layer, BatchNormalization) and node.layer.trainable and math.prod(shape[:-1]) == 1:
            return node.layer.name
    return None


def warn_of_another_order(x: Any) -> None:
    """A UserWarning where the outputs will not stand in the order of the labels that x tells."""
    if isinstance(x, Epochs) and x.shuffle:
        warnings.warn(
            "The data that predict was given is shuffled: its outputs are in the order of the batches, not in that of "
            "the files, of `classes` or of `labels`. Make it with shuffle=False to compare them.",
            stacklevel=6,
        )


# ---- targets ---------------------------------------------------------------------------------------------------------


def _check_class_numbers(loss: Loss, y: np.ndarray, output_shape: tuple[int, ...], name: str) -> None:
    positions, outputs, kind = loss.positions(output_shape), _classes(loss, output_shape), type(loss).__name__
    if positions and y.size == len(y):
        raise InputError(
            "the model's output", f"{kind} needs one row of classes for each sample.", "shape (N, classes).",
            f"shape {_batch_of(output_shape)}.", "put Flatten() or GlobalAveragePooling2D() before the last Dense; "
            f"or give a class for each position, targets of shape {_batch_of(positions)}.",
        )  # fmt: skip
    wanted = f"integers 0…{outputs - 1} of shape {_batch_of(positions)}."
    fits = _without_ones(y.shape[1:]) == _without_ones(positions)
    if _is_one_hot(y) if not positions else (not fits and y.shape[1:] == (*positions, outputs)):
        use_other = 'use loss="categorical_crossentropy", or ' if y.shape[-1] == outputs else ""
        raise InputError(
            name, f"{kind} takes class numbers.", wanted,
            f"one-hot rows of shape {y.shape}.",
            f"{use_other}pass {name}.argmax(axis={-1 if positions else 1}) as the targets.",
        )  # fmt: skip
    if not fits or (y.dtype.kind == "f" and not np.all(np.mod(y, 1) == 0)):
        fix = "number the classes from 0."
        if y.size == len(y):
            fix += ' For numbers that are measured, not counted, use loss="mse".'
        raise InputError(
            name, f"{kind} takes class numbers.", wanted,
            f"an array of shape {y.shape} and dtype {y.dtype}{_example(y)}.", fix,
        )  # fmt: skip
    ignored = getattr(loss, "ignore_class", None)
    y = y if ignored is None else y[y != ignored]
    if y.size == 0:
        return
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= outputs:
        raise InputError(
            name, "labels are out of range.", f"class numbers 0…{outputs - 1}, for {outputs} outputs.",
            f"labels from {low} to {high}.",
            f"number the classes from 0, or give the last layer {high + 1} units."
            if low >= 0 else "number the classes from 0.",
        )  # fmt: skip


def _check_arrays(loss: Loss, y: np.ndarray, output_shape: tuple[int, ...], name: str) -> None:
    outputs, kind = _classes(loss, output_shape), type(loss).__name__
    categorical, of_probabilities = isinstance(loss, CategoricalCrossentropy), hasattr(loss, "from_logits")
    if _without_ones(y.shape[1:]) != _without_ones(output_shape):
        classes = y.size == len(y) and y.dtype.kind in "bui"
        fix = f"pass targets of shape {_batch_of(output_shape)}, or change the model's last layer."
        if len(output_shape) > len(y.shape[1:]) + (y.ndim == 1):
            fix = "put Flatten() or GlobalAveragePooling2D() before the last Dense."
        elif of_probabilities and classes:
            fix = (
                'use loss="sparse_categorical_crossentropy", or minicnn.utils.to_categorical('
                f"{name}, {outputs}) for the targets."
            )
        elif _is_one_hot(y) and outputs == 1:
            fix = (
                f'for {y.shape[1]} classes use Dense({y.shape[1]}, activation="softmax") and '
                f'loss="categorical_crossentropy"; for two classes and one output, {name}.argmax(axis=1).'
            )
        elif y.ndim == 2 and len(output_shape) == 1:
            fix = f"give the last layer {y.shape[1]} units, or change the targets."
        raise InputError(
            name,
            f"{kind} takes one-hot rows." if categorical and classes
            else "the targets' shape is not that of the model's output.",
            f"an array of shape {_batch_of(output_shape)}.", f"{_found(y)} of shape {y.shape}.", fix,
        )  # fmt: skip
    if categorical and outputs == 1:
        raise InputError(
            name, "a softmax over a single output is always 1: nothing can be learned.",
            "two or more classes.", "1 output.",
            'use Dense(1, activation="sigmoid") with loss="binary_crossentropy".',
        )  # fmt: skip
    low, high = y.min(), y.max()
    if of_probabilities and (low < 0 or high > 1):
        raise InputError(
            name, f"{kind} takes targets between 0 and 1.", "0 for no, 1 for yes, or a probability.",
            f"numbers from {low} to {high}.",
            "turn class numbers into 0 and 1; for measured quantities use loss=\"mse\".",
        )  # fmt: skip


def _classes(loss: Loss, output_shape: tuple[int, ...]) -> int:
    """How many outputs there are for each position."""
    return math.prod(output_shape) // max(1, math.prod(loss.positions(output_shape)))


def _batch_of(shape: tuple[int, ...]) -> str:
    return f"(N, {', '.join(map(str, shape))})" if shape else "(N,)"


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)


def _found(y: np.ndarray) -> str:
    if _is_one_hot(y):
        return "one-hot rows"
    return "class numbers" if y.size == len(y) and y.dtype.kind in "bui" else "an array"


def _is_one_hot(y: np.ndarray) -> bool:
    head = y[:1000]
    return y.ndim == 2 and y.shape[1] > 1 and bool(np.all((head == 0) | (head == 1)) and np.all(head.sum(axis=1) == 1))


def _example(y: np.ndarray) -> str:
    return f", for example {y.reshape(-1)[:3].tolist()}" if y.size else ""
