"""Networks as scikit-learn's estimators: in a Pipeline, in GridSearchCV, beside its other classifiers.

    from minicnn.sklearn import CNNClassifier

    classifier = CNNClassifier("cnn", image_shape=(8, 8), epochs=15)
    cross_val_score(make_pipeline(MinMaxScaler(), classifier), x, y)

scikit-learn's rules hold: the constructor only stores its arguments, `fit` begins anew and leaves what it found in
attributes that end in an underscore. The network itself is `model_`.
"""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Callable
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np

from minicnn import optimizers, random
from minicnn.applications import ResNet20, SmallVGGNet
from minicnn.errors import InputError, unknown_name
from minicnn.layers import Conv2D, Dense, Flatten, Input, MaxPooling2D
from minicnn.models import Sequential, load_model
from minicnn.utils import to_categorical

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.model_selection import train_test_split
    from sklearn.utils import check_random_state
    from sklearn.utils.class_weight import compute_class_weight
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
except ImportError as error:
    raise ImportError(
        f"minicnn.sklearn needs scikit-learn.\n  Expected: scikit-learn 1.6 or newer.\n  Received: {error}.\n"
        "  What to do: python -m pip install -U scikit-learn"
    ) from error

Shape = tuple[int, ...]


def dense(shape: Shape, outputs: int, activation: str | None = "softmax") -> Sequential:
    """A hidden layer of 100 units, as scikit-learn's MLPClassifier has it."""
    flat = [Flatten()] if len(shape) > 1 else []
    return Sequential([Input(shape), *flat, Dense(100, "relu"), Dense(outputs, activation)])


def cnn(shape: Shape, outputs: int, activation: str | None = "softmax") -> Sequential:
    """Two convolutions, each with a pooling where the images are large enough for it, and a hidden layer."""
    model = Sequential([Input(shape)])
    for filters in (32, 64):
        model.add(Conv2D(filters, 3, padding="same", activation="relu"))
        if min(model.shapes[-1][:2]) > 3:
            model.add(MaxPooling2D(2))
    for layer in (Flatten(), Dense(100, "relu"), Dense(outputs, activation)):
        model.add(layer)
    return model


def _small_vggnet(shape: Shape, outputs: int) -> Sequential:
    height, width, channels = shape
    return SmallVGGNet(width, height, channels, outputs)


def _checked_image_shape(where: str, shape: Any) -> Shape:
    """It as a tuple of ints. Raises InputError unless it is two or three whole numbers above 0."""
    sizes = tuple(shape) if isinstance(shape, tuple | list | np.ndarray) else ()
    whole = all(isinstance(n, Integral) and not isinstance(n, bool) and int(n) > 0 for n in sizes)
    if len(sizes) in (2, 3) and whole:
        return tuple(int(n) for n in sizes)
    raise InputError(
        where, "this is no image_shape.", "(height, width) or (height, width, channels), whole numbers above 0.",
        f"image_shape={shape!r}.", "for example image_shape=(8, 8) for flat rows of 64 grey numbers.",
    )  # fmt: skip


class _Network(BaseEstimator):
    """What both share: samples and weights as scikit-learn has them, and as a network takes them."""

    _presets: dict[str, Callable[..., Any]]
    _activation: str | None = "softmax"  # with which the network must end
    loss: Any
    model: Any
    image_shape: Any
    epochs: int
    batch_size: int
    optimizer: Any
    learning_rate: Any
    validation_split: float
    callbacks: Any
    verbose: Any
    random_state: Any

    # ---- samples

    def _samples(self, X: Any, reset: bool, **target: Any) -> Any:  # noqa: N803 - scikit-learn's name
        """X as (N, *input_shape_); with y=… both. reset: it is what the network will be built for.

        float32, but for flat samples of float64, which scikit-learn computes with as they are.
        """
        shape = tuple(X.shape[1:]) if getattr(X, "ndim", 2) > 2 else None
        flat = shape is None and self.image_shape is None
        dtype = np.float64 if flat and getattr(X, "dtype", None) == np.float64 else np.float32
        X = np.asarray(X).reshape(len(X), math.prod(shape)) if shape else X  # noqa: N806
        X = validate_data(self, X, **target, dtype=dtype, order="C", reset=reset)  # noqa: N806
        X, *y = X if target else (X,)  # noqa: N806
        if reset:
            given = None if self.image_shape is None else _checked_image_shape(type(self).__name__, self.image_shape)
            self.input_shape_ = given or shape or X.shape[1:]
            self.input_shape_ += (1,) if len(self.input_shape_) == 2 else ()
        if math.prod(self.input_shape_) != X.shape[1] or (shape and math.prod(shape) != X.shape[1]):
            raise InputError(
                type(self).__name__, "image_shape does not fit the samples.",
                f"samples of {math.prod(self.input_shape_)} numbers, as image_shape {self.input_shape_} has.",
                f"samples of {X.shape[1]}.", "image_shape is (height, width) or (height, width, channels).",
            )  # fmt: skip
        X = X.reshape(len(X), *self.input_shape_)  # noqa: N806
        return (X, *y) if target else X

    def _weights(self, X: np.ndarray, sample_weight: Any, of_class: Any = None) -> np.ndarray | None:  # noqa: N803
        """One weight a sample, 1 in the mean, so that a weight of 2 is the same as having the sample twice."""
        if sample_weight is None and of_class is None:
            return None
        weights = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        weights = weights if of_class is None else weights * of_class
        if not weights.any():
            raise ValueError("Sample weights must contain at least one non-zero number.")
        return weights * (len(weights) / weights.sum())

    # ---- the network

    def _build(self, outputs: int, dtype: np.dtype) -> None:
        builder = self.model
        if builder is None:
            builder = "cnn" if len(self.input_shape_) == 3 else "dense"
        if isinstance(builder, str):
            if builder not in self._presets:
                raise unknown_name("model", builder, self._presets)
            builder = self._presets[builder]
        elif not callable(builder) or hasattr(builder, "fit"):
            raise InputError(
                type(self).__name__, "model does not fit.",
                f"a name ({', '.join(self._presets)}), or a function (input_shape, outputs) -> network.",
                f"{builder!r:.100}.", "def build(input_shape, outputs): return Sequential([Input(input_shape), …]).",
            )  # fmt: skip
        with random.seeded(check_random_state(self.random_state).randint(2**31 - 1)):
            model = builder(self.input_shape_, outputs)
            if not model.built:
                model.build((None, *self.input_shape_))
        last = getattr(model.flat_layers[-1], "activation", None)
        ends_well = self._activation is None or (last is not None and last.name == self._activation)
        if model.shapes[-1] != (outputs,) or not ends_well:
            activation = ', activation="softmax"' if self._activation else ""
            raise InputError(
                type(self).__name__, "the network that `model` built does not end as it should.",
                f"{outputs} outputs{', as probabilities' if self._activation else ''}.",
                f"outputs of shape {model.shapes[-1]}, from {model.flat_layers[-1]!r}.",
                f"let it end in Dense({outputs}{activation}).",
            )  # fmt: skip
        for layer in model.flat_layers:
            for arrays in (layer.params, layer.state):
                arrays.update({name: array.astype(dtype) for name, array in arrays.items()})
        if model.optimizer is None:
            optimizer = optimizers.get(copy.deepcopy(self.optimizer))
            if self.learning_rate is not None:
                optimizer.learning_rate = self.learning_rate
            model.compile(optimizer, copy.deepcopy(self.loss))
        self.model_ = model
        self.n_iter_ = 0

    def _learn(self, X: np.ndarray, y: np.ndarray, weights: Any, epochs: int, alike: Any = None) -> None:  # noqa: N803
        """Train on. alike: as what share of the samples is held back; of classes, the same share of each."""
        held_back = None
        if self.validation_split:
            parts = [X, y] if weights is None else [X, y, weights]
            split = train_test_split(
                *parts, test_size=self.validation_split, stratify=alike,
                random_state=check_random_state(self.random_state).randint(2**31 - 1),
            )  # fmt: skip
            (X, y, *rest), held_back = split[::2], tuple(split[1::2])  # noqa: N806
            weights = rest[0] if rest else None
        history = self.model_.fit(
            X, y, self.batch_size, epochs, self.verbose, copy.deepcopy(self.callbacks), sample_weight=weights,
            validation_data=held_back,
        )  # fmt: skip
        self.history_ = history.history
        self.n_iter_ += len(history.epoch)

    def _outputs(self, X: Any) -> np.ndarray:  # noqa: N803
        check_is_fitted(self, "model_")
        return self.model_.predict(self._samples(X, reset=False), verbose=0)

    # ---- pickling: in the place of the network stands its own file

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        if "model_" in state:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "model.zip"
                self.model_.save(path)
                parts = (*self.model_.flat_layers, self.model_.optimizer, self.model_.loss, *self.model_.metrics)
                own = {type(p).__name__: type(p) for p in parts if not type(p).__module__.startswith("minicnn.")}
                state["model_"] = path.read_bytes(), own
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        if "model_" in state:
            content, own = state["model_"]
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "model.zip"
                path.write_bytes(content)
                state["model_"] = load_model(path, own)
        super().__setstate__(state)


class CNNClassifier(ClassifierMixin, _Network):
    """A network that tells classes apart, as a classifier of scikit-learn.

    model: "dense" (a hidden layer), "cnn", "small_vggnet", "resnet20", or a function (input_shape, classes) -> network,
    which ends in Dense(classes, activation="softmax"), compiled by it or here; None: "cnn" for images, else "dense".
    image_shape: (height, width) or (height, width, channels) of what comes as flat rows. Images may also come as they
    are, (N, H, W) or (N, H, W, C).
    epochs, batch_size, callbacks, verbose: as in Model.fit. optimizer, learning_rate: None is the optimizer's own.
    class_weight: class -> weight, or "balanced". validation_split: this share of the samples, drawn by chance and the
    same of each class, is held back, for callbacks such as EarlyStopping. random_state: decides every random number.

    Found by fit: model_, classes_, n_features_in_, input_shape_, history_ (by name, a number an epoch), n_iter_.
    """

    _presets = {"dense": dense, "cnn": cnn, "small_vggnet": _small_vggnet, "resnet20": ResNet20}
    loss = "sparse_categorical_crossentropy"

    def __init__(
        self, model=None, *, image_shape=None, epochs=20, batch_size=32, optimizer="adam", learning_rate=None,
        class_weight=None, validation_split=0.0, callbacks=None, verbose=0, random_state=None,
    ):  # fmt: skip
        self.model, self.image_shape = model, image_shape
        self.epochs, self.batch_size = epochs, batch_size
        self.optimizer, self.learning_rate = optimizer, learning_rate
        self.class_weight, self.validation_split = class_weight, validation_split
        self.callbacks, self.verbose, self.random_state = callbacks, verbose, random_state

    def fit(self, X, y, sample_weight=None):  # noqa: N803
        """Train a new network on X (n_samples, n_features), or images, and the labels y (n_samples,). Returns self."""
        return self._fit(X, y, sample_weight, None, self.epochs)

    def partial_fit(self, X, y, classes=None, sample_weight=None):  # noqa: N803
        """One epoch more, on these samples. classes: all labels that there will be, at the first call."""
        first = not hasattr(self, "model_")
        if first and classes is None:
            raise InputError(
                type(self).__name__, "the classes are not known.", "classes=, at the first call of partial_fit.",
                "None.", "pass np.unique(all_labels).",
            )  # fmt: skip
        if isinstance(self.class_weight, str):
            raise InputError(
                type(self).__name__, "class_weight cannot be found from a part of the samples.",
                "a dict, with partial_fit.", f"{self.class_weight!r}.",
                'compute_class_weight("balanced", classes=classes, y=all_labels) gives the numbers.',
            )  # fmt: skip
        return self._fit(X, y, sample_weight, classes if first else self.classes_, 1, first)

    def _fit(self, X, y, sample_weight, classes, epochs, build=True):  # noqa: N803
        X, y = self._samples(X, build, y=y)  # noqa: N806
        check_classification_targets(y)
        if build:
            self.classes_ = np.unique(y if classes is None else classes)
        numbers = np.searchsorted(self.classes_, y).clip(max=len(self.classes_) - 1)
        if (self.classes_[numbers] != y).any():
            raise InputError(
                type(self).__name__, "y has labels that are none of the classes.", f"labels of {self.classes_}.",
                f"{np.setdiff1d(y, self.classes_)}.", "name all classes at the first call of partial_fit.",
            )  # fmt: skip
        of_class = None
        if self.class_weight is not None:
            of_class = compute_class_weight(self.class_weight, classes=self.classes_, y=y)[numbers]
        weights = self._weights(X, sample_weight, of_class)
        counted = self.classes_ if classes is not None else np.unique(y if weights is None else y[weights > 0])
        if len(counted) < 2:
            raise InputError(
                type(self).__name__, "there is nothing to tell apart.", "samples of at least 2 classes.",
                f"1 class, {counted[0]!r}.", "add samples of another class; look at y and sample_weight.",
            )  # fmt: skip
        if build:
            self._build(len(self.classes_), X.dtype)
        target = numbers if self.model_.loss.sparse else to_categorical(numbers, len(self.classes_))
        self._learn(X, target, weights, epochs, numbers)
        return self

    def predict_proba(self, X):  # noqa: N803
        """The probability of each class, (n_samples, n_classes), in the order of classes_."""
        return self._outputs(X)

    def predict(self, X):  # noqa: N803
        """The likeliest label for each sample, (n_samples,)."""
        best = self._outputs(X).argmax(axis=1)
        return self.classes_[best]


class CNNRegressor(RegressorMixin, _Network):
    """A network that predicts numbers, as a regressor of scikit-learn.

    model: "dense", "cnn", or a function (input_shape, outputs) -> network. loss: as in Model.compile. All others as in
    CNNClassifier; y may have several columns. Targets far from 0 or far apart are learned slowly: scale them, by
    TransformedTargetRegressor for example.
    """

    _presets = {"dense": partial(dense, activation=None), "cnn": partial(cnn, activation=None)}
    _activation = None

    def __init__(
        self, model=None, *, image_shape=None, epochs=20, batch_size=32, optimizer="adam", learning_rate=None,
        loss="mse", validation_split=0.0, callbacks=None, verbose=0, random_state=None,
    ):  # fmt: skip
        self.model, self.image_shape = model, image_shape
        self.epochs, self.batch_size = epochs, batch_size
        self.optimizer, self.learning_rate = optimizer, learning_rate
        self.loss, self.validation_split = loss, validation_split
        self.callbacks, self.verbose, self.random_state = callbacks, verbose, random_state

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def fit(self, X, y, sample_weight=None):  # noqa: N803
        """Train a new network on X (n_samples, n_features), or images, and numbers y (n_samples,) or (n_samples, k)."""
        return self._fit(X, y, sample_weight, self.epochs)

    def partial_fit(self, X, y, sample_weight=None):  # noqa: N803
        """One epoch more, on these samples."""
        return self._fit(X, y, sample_weight, 1, not hasattr(self, "model_"))

    def _fit(self, X, y, sample_weight, epochs, build=True):  # noqa: N803
        X, y = self._samples(X, build, y=y, multi_output=True, y_numeric=True)  # noqa: N806
        self._columns = y.ndim > 1
        y = y.reshape(len(y), -1)
        if build:
            self._build(y.shape[1], X.dtype)
        self._learn(X, y, self._weights(X, sample_weight), epochs)
        return self

    def predict(self, X):  # noqa: N803
        """The numbers for each sample, of the shape that y had."""
        y = self._outputs(X)
        return y if self._columns else y[:, 0]
