"""VGG16, and how its images are prepared and its answers read.

Source: K. Simonyan, A. Zisserman, "Very deep convolutional networks for large-scale image recognition", ICLR 2015,
configuration D. The weights are those that Keras publishes: converted from the authors' own, trained on ImageNet.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from minicnn.arguments import in_words
from minicnn.datasets.fetch import DataFile, check_md5, find
from minicnn.errors import InputError
from minicnn.layers import Conv2D, Dense, Flatten, GlobalAveragePooling2D, Input, MaxPooling2D
from minicnn.layers.base import Shape
from minicnn.models import Sequential

BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # (kernels, convolutions)
MEAN_BGR = (103.939, 116.779, 123.68)  # of ImageNet's training images, on a scale of 0 to 255

_OTHERWISE = (
    "download it on another machine and pass weights=PATH, or write weights=None to begin with random numbers."
)
_PLACE = "https://storage.googleapis.com/tensorflow/keras-applications/vgg16/"
WHOLE = DataFile(
    "models",
    "vgg16_weights_tf_dim_ordering_tf_kernels.h5",
    553467096,
    "64373286793e3c8b2b4e3219cbf3544b",
    (_PLACE + "vgg16_weights_tf_dim_ordering_tf_kernels.h5",),
    otherwise=_OTHERWISE,
)
NO_TOP = DataFile(
    "models",
    "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5",
    58889256,
    "6d6bbae143d832006294945121d1f1fc",
    (_PLACE + "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5",),
    otherwise=_OTHERWISE,
)
CLASS_INDEX = DataFile(
    "models",
    "imagenet_class_index.json",
    35363,
    "c2c37ea517e94d9795004a39431a14cb",
    ("https://storage.googleapis.com/download.tensorflow.org/data/imagenet_class_index.json",),
    otherwise="the class numbers themselves are probabilities.argsort(axis=1)[:, ::-1].",
)


@in_words
def VGG16(  # noqa: N802
    include_top: bool = True,
    weights: Any = "imagenet",
    input_shape: Shape | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: Any = "softmax",
    name: str = "vgg16",
) -> Sequential:
    """VGG16 with Keras' names of layers, block1_conv1 to predictions; 138 million parameters, 15 without the top.

    include_top: with the three dense layers that answer with `classes` probabilities. weights: "imagenet" downloads
    Keras' file once (528 MB, or 56 MB without the top; h5py is needed); a path reads any file that load_weights can
    read; None keeps random numbers. input_shape: (height, width, channels), at least 32×32; (224, 224, 3) where it is
    not given. pooling, without the top: None for images of features, "avg" or "max" for one number a feature.
    Raises InputError for arguments that do not fit together, DownloadError without a network.
    """
    shape = (224, 224, 3) if input_shape is None else tuple(input_shape)
    _check(include_top, weights, shape, pooling, classes)
    layers: list[Any] = [Input(shape)]
    for block, (filters, convolutions) in enumerate(BLOCKS, 1):
        for i in range(1, convolutions + 1):
            conv = Conv2D(filters, 3, padding="same", activation="relu", name=f"block{block}_conv{i}")
            layers.append(conv)
        layers.append(MaxPooling2D(2, name=f"block{block}_pool"))
    if include_top:
        layers += [Flatten(name="flatten"), *(Dense(4096, activation="relu", name=n) for n in ("fc1", "fc2"))]
        layers.append(Dense(classes, activation=classifier_activation, name="predictions"))
    elif pooling == "avg":
        layers.append(GlobalAveragePooling2D(name="global_average_pooling2d"))
    elif pooling == "max":
        window = (shape[0] // 32, shape[1] // 32)
        layers += [MaxPooling2D(window, name="global_max_pooling2d"), Flatten(name="flatten")]
    model = Sequential(layers, name=name)
    if weights == "imagenet":
        weights = find(WHOLE if include_top else NO_TOP)
        check_md5(weights, WHOLE if include_top else NO_TOP)
    if weights is not None:
        model.load_weights(weights)
    return model


def preprocess_input(x: Any) -> np.ndarray:
    """Images (..., 3), RGB from 0 to 255, as VGG16 was trained on them: BGR, minus ImageNet's mean.

    A new array, float32 or of x's own float type; Keras changes x itself. Raises InputError unless the last axis has
    length 3.
    """
    x = np.asarray(x)
    if x.shape[-1:] != (3,):
        raise InputError(
            "preprocess_input", "these are not colour images.", "an array of shape (..., 3), red first.",
            f"shape {x.shape}.", "repeat a grey channel: np.repeat(x, 3, axis=-1).",
        )  # fmt: skip
    dtype = x.dtype if x.dtype.kind == "f" else np.dtype(np.float32)
    return x[..., ::-1].astype(dtype, order="C") - np.array(MEAN_BGR, dtype)


def decode_predictions(preds: Any, top: int = 5) -> list[list[tuple[str, str, float]]]:
    """For each row of (N, 1000) probabilities the `top` likeliest: (WordNet number, name, probability), best first.

    The names are in a file that is downloaded once (35 KB). Raises InputError, DownloadError.
    """
    preds = np.asarray(preds)
    if preds.ndim != 2 or preds.shape[1] != 1000:
        raise InputError(
            "decode_predictions", "these are not answers of ImageNet's 1000 classes.", "an array of shape (N, 1000).",
            f"shape {preds.shape}.", "pass what VGG16(include_top=True).predict returned.",
        )  # fmt: skip
    path = find(CLASS_INDEX)
    check_md5(path, CLASS_INDEX)
    names = json.loads(path.read_text(encoding="utf-8"))
    best = preds.argsort(axis=1)[:, ::-1][:, :top]
    return [[(*names[str(i)], float(row[i])) for i in order] for row, order in zip(preds, best, strict=True)]


def _check(include_top: bool, weights: Any, shape: Shape, pooling: Any, classes: int) -> None:
    """Everything that does not fit is refused before anything is downloaded or drawn."""
    if len(shape) != 3 or min(shape[:2]) < 32:
        raise InputError(
            "VGG16", "input_shape does not fit.", "(height, width, channels), at least 32×32: five poolings halve it.",
            f"{shape}.", "for example input_shape=(32, 32, 3); enlarge smaller images.",
        )  # fmt: skip
    if pooling not in (None, "avg", "max"):
        raise InputError("VGG16", "pooling does not fit.", 'None, "avg" or "max".', f"{pooling!r}.", 'write "avg".')
    if weights is None:
        return
    if weights != "imagenet":
        if not isinstance(weights, (str, os.PathLike)) or not Path(weights).is_file():
            raise InputError(
                "VGG16", "there are no such weights.", '"imagenet", the path of a file, or None.', f"{weights!r}.",
                'write weights="imagenet", or correct the path.',
            )  # fmt: skip
        return
    wanted, got = "weights for 3 channels", f"input_shape={shape}."
    fix = "repeat the grey channel: np.repeat(x, 3, axis=-1); or weights=None."
    fits = shape[2] == 3
    if fits and include_top and (shape != (224, 224, 3) or classes != 1000):
        wanted = "with include_top=True, images of (224, 224, 3) and 1000 classes"
        got, fits = f"input_shape={shape}, classes={classes}.", False
        fix = "write include_top=False and put a top of your own on it; or weights=None."
    if not fits:
        raise InputError("VGG16", "ImageNet's weights do not fit.", f"{wanted}.", got, fix)
