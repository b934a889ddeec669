"""Networks that branch, for the tests: small ones of every kind, and a batch for them."""

from __future__ import annotations

import numpy as np
from helpers import random

import minicnn
from minicnn.backend import to_host
from minicnn.constraints import MaxNorm
from minicnn.layers import (
    Activation,
    Add,
    Average,
    AveragePooling2D,
    BatchNormalization,
    Concatenate,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    GlobalAveragePooling2D,
    Input,
    Maximum,
    MaxPooling2D,
    Multiply,
    Rescaling,
    Subtract,
    UpSampling2D,
    ZeroPadding2D,
)
from minicnn.models import Model, Sequential
from minicnn.regularizers import L2


def residual(shape=(8, 8, 3), classes: int = 3) -> Model:
    """Two residual blocks, the second with a projection; batch norm and dropout where they usually are."""
    x = Input(shape)
    y = Conv2D(4, 3, padding="same", use_bias=False, name="stem")(x)
    for k, filters in enumerate((4, 6)):
        short = y if k == 0 else Conv2D(filters, 1, name="projection")(y)
        z = Activation("relu")(BatchNormalization(momentum=0.8)(Conv2D(filters, 3, padding="same", use_bias=False)(y)))
        z = BatchNormalization(momentum=0.8)(Conv2D(filters, 3, padding="same", use_bias=False)(Dropout(0.3)(z)))
        y = Activation("relu", name=f"block_{k}")(Add()([short, z]))
    return Model(x, Dense(classes, activation="softmax")(GlobalAveragePooling2D()(y)), name="residual")


def inception(shape=(8, 8, 3), classes: int = 3) -> Model:
    """One cell of Szegedy et al. (2014), figure 2(b): four ways, side by side."""
    x = Input(shape)
    ways = [
        Conv2D(2, 1, activation="relu", name="one")(x),
        Conv2D(3, 3, padding="same", activation="relu", name="three")(Conv2D(2, 1, activation="relu")(x)),
        Conv2D(2, 5, padding="same", activation="relu", name="five")(Conv2D(2, 1, activation="relu")(x)),
        Conv2D(2, 1, activation="relu", name="pooled")(MaxPooling2D(3, strides=1, padding="same")(x)),
    ]
    y = MaxPooling2D()(Concatenate(name="cell")(ways))
    return Model(x, Dense(classes, activation="softmax")(Flatten()(y)), name="inception")


def shared(shape=(8, 8, 3), classes: int = 3) -> Model:
    """A convolution, a batch norm and an inner model that are used twice each, and every layer that joins."""
    x = Input(shape)
    y = Conv2D(4, 3, padding="same", use_bias=False, kernel_regularizer=L2(0.01), kernel_constraint=MaxNorm(1.0))(x)
    norm = BatchNormalization(momentum=0.8, name="norm")
    conv = Conv2D(4, 3, padding="same", name="conv", kernel_regularizer=L2(0.1), kernel_constraint=MaxNorm(0.5))
    inner_x = Input((8, 8, 4))
    inner = Model(inner_x, Add()([inner_x, Conv2D(4, 3, padding="same")(Dropout(0.3)(inner_x))]), name="inner")
    a = Activation("relu")(norm(y))
    b = norm(conv(a))
    c = conv(b)
    d = Average()([a, inner(b), inner(c)])
    padded = ZeroPadding2D(((1, 0), (0, 1)))(Conv2D(4, 2)(d))
    e = Concatenate()([padded, x, Maximum()([a, c])])
    gate = Conv2D(11, 1, activation="sigmoid")(AveragePooling2D(8)(e))
    f = GlobalAveragePooling2D()(MaxPooling2D()(Multiply()([e, gate])))
    return Model(x, Dense(classes, activation="softmax")(Subtract()([f, Dense(11)(f)])), name="shared")


def nested(shape=(8, 8, 3), classes: int = 3) -> Model:
    """A Sequential and a Model as layers, one in the other, the first used twice."""
    body = Sequential([Conv2D(3, 3, padding="same", activation="tanh"), BatchNormalization()], name="body")
    entry = Input(shape)
    whole = Model(entry, Concatenate()([body(entry), body(body(entry))]), name="whole")
    x = Input(shape)
    y = Rescaling(0.5)(x)
    return Model(x, Dense(classes, activation="softmax")(Flatten()(whole(y))), name="nested")


def unet(shape=(8, 8, 3), classes: int = 3) -> Model:
    """Ronneberger et al. (2015), two sizes high; its end is a class for the image, as that of the others."""
    x = Input(shape)
    large = Conv2D(4, 3, padding="same", activation="relu", name="large")(x)
    small = Conv2D(6, 3, padding="same", activation="relu", name="small")(MaxPooling2D()(large))
    y = Concatenate(name="up")([UpSampling2D(2)(small), large])
    y = Conv2D(4, 3, padding="same", activation="relu")(y)
    return Model(x, Dense(classes, activation="softmax")(Flatten()(Conv2D(2, 1)(y))), name="unet")


NETWORKS = {"residual": residual, "inception": inception, "unet": unet, "shared": shared, "nested": nested}


def made(name: str, seed: int = 0, optimizer="adam", dtype=np.float32, **compiled) -> Model:
    """A compiled network, the same for the same seed; running statistics that are not those of the beginning."""
    minicnn.utils.set_random_seed(seed)
    model, rng = NETWORKS[name](), np.random.default_rng(seed)
    for layer in model.flat_layers:
        for arrays in (layer.params, layer.state):
            for key, array in arrays.items():
                shaken = to_host(array) + 0.1 * rng.random(array.shape)
                arrays[key] = model.device.xp.asarray(shaken.astype(dtype))
    compiled = {"loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"], **compiled}
    model.compile(optimizer, **compiled)
    return model


def batch(n: int = 12, dtype=np.float32) -> tuple[np.ndarray, np.ndarray]:
    return random((n, 8, 8, 3), seed=5, dtype=dtype), np.arange(n) % 3
