"""Random networks that branch, in words that minicnn and Keras both understand.

tests/fixtures/make_keras_graphs.py lets Keras compute them and records the numbers; test_graphs_keras.py compares.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

SHAPE, SAMPLES, CLASSES, STEPS = (8, 8, 3), 4, 3, 3
GRAPHS = 200
RATE = 0.1
# Of ResNet-20: the rate is small because float32 alone, with ReLUs that switch, makes other numbers of large steps.
RESNET = {"shape": (16, 16, 3), "samples": 16, "classes": 10, "number": 5, "rate": 0.0005}
JOINS = ("Add", "Average", "Maximum", "Subtract", "Multiply")
OPERATIONS = (
    *3 * ("Conv2D",), "BatchNormalization", "Activation", "MaxPooling2D", "AveragePooling2D", "ZeroPadding2D", *JOINS,
)  # fmt: skip


class Step(NamedTuple):
    """A layer that is called. layer: its number; one that came before is used again. reads: values, 0 is the input."""

    layer: int
    kind: str
    arguments: dict[str, Any]
    reads: tuple[int, ...]


def random_graph(seed: int) -> list[Step]:
    """At most 12 layers one after the other: skips, joins, concatenations, and layers that are used twice."""
    rng = np.random.Generator(np.random.PCG64(seed))
    steps: list[Step] = []
    shapes = [SHAPE]  # of the values
    depths = [0]
    layers: list[tuple[str, dict[str, Any], tuple[int, ...]]] = []  # kind, arguments, shape that it was built for

    def call(number: int, reads: tuple[int, ...], shape: tuple[int, ...]) -> int:
        steps.append(Step(number, *layers[number][:2], reads))
        shapes.append(shape)
        depths.append(1 + max(depths[j] for j in reads))
        return len(shapes) - 1

    def new(kind: str, reads: tuple[int, ...], shape: tuple[int, ...], **arguments: Any) -> int:
        layers.append((kind, arguments, shapes[reads[0]]))
        return call(len(layers) - 1, reads, shape)

    def pick(items: Any) -> Any:
        return items[int(rng.integers(len(items)))]

    for _ in range(int(rng.integers(4, 14))):
        possible = [i for i in range(len(shapes)) if depths[i] <= 8]
        unread = [i for i in possible if not any(i in step.reads for step in steps)]
        x = pick(unread) if unread and rng.random() < 0.7 else pick(possible)
        h, w, c = shapes[x]
        kind = pick(OPERATIONS)
        again = [(k, i) for k, (of, _, made_for) in enumerate(layers) for i in possible
                 if of in ("Conv2D", "BatchNormalization") and made_for[-1] == shapes[i][-1]]  # fmt: skip
        if again and rng.random() < 0.2:
            number, x = pick(again)
            call(number, (x,), (*shapes[x][:2], layers[number][1].get("filters", shapes[x][2])))
        elif kind == "Conv2D":
            filters = pick((c, int(rng.integers(2, 6))))
            activation = pick(("linear", "relu", "tanh"))
            new(kind, (x,), (h, w, filters), filters=filters, kernel_size=pick((1, 3)), padding="same",
                activation=activation, use_bias=bool(rng.random() < 0.7))  # fmt: skip
        elif kind == "BatchNormalization":
            new(kind, (x,), (h, w, c), momentum=0.8)
        elif kind == "Activation":
            new(kind, (x,), (h, w, c), activation=pick(("relu", "tanh", "elu", "sigmoid")))
        elif kind in ("MaxPooling2D", "AveragePooling2D"):
            if h >= 4 and rng.random() < 0.5:
                new(kind, (x,), (h // 2, w // 2, c), pool_size=2)
            else:
                new(kind, (x,), (h, w, c), pool_size=3, strides=1, padding="same")
        elif kind == "ZeroPadding2D":
            new(kind, (x,), (h + 1, w + 2, c), padding=((1, 0), (1, 1)))
        else:
            count = 2 if kind == "Subtract" else int(rng.integers(2, 4))
            fits = [i for i in possible if i != x and shapes[i] == shapes[x]]
            beside = [i for i in possible if i != x and shapes[i][:2] == (h, w)]
            if fits:
                rng.shuffle(fits)
                new(kind, (x, *fits[: count - 1]), (h, w, c))
            elif beside:
                rng.shuffle(beside)
                reads = (x, *beside[: count - 1])
                new("Concatenate", reads, (h, w, sum(shapes[j][2] for j in reads)))
    ends = [i for i in range(1, len(shapes)) if not any(i in step.reads for step in steps)] or [0]
    pooled = [new("GlobalAveragePooling2D", (i,), shapes[i][2:]) for i in ends]
    last = pooled[0]
    if len(pooled) > 1:
        last = new("Concatenate", tuple(pooled), (sum(shapes[i][0] for i in pooled),))
    new("Dense", (last,), (CLASSES,), units=CLASSES, activation="softmax")
    return steps


def resnet20() -> list[Step]:
    """He et al. (2015), section 4.2, layer for layer as minicnn.applications.ResNet20 has it."""
    steps: list[Step] = []

    def call(kind: str, *reads: int, **arguments: Any) -> int:
        steps.append(Step(len(steps), kind, arguments, reads))
        return len(steps)

    def conv(x: int, filters: int, stride: int) -> int:
        y = call("Conv2D", x, filters=filters, kernel_size=3, strides=stride, padding="same", use_bias=False)
        return call("BatchNormalization", y, momentum=0.9, epsilon=1e-5)

    y = call("Activation", conv(0, 16, 1), activation="relu")
    for filters in (16, 32, 64):
        for block in range(3):
            stride = 2 if block == 0 and filters > 16 else 1
            z = call("Activation", conv(y, filters, stride), activation="relu")
            z, short = conv(z, filters, 1), y
            if stride > 1:
                short = call("MaxPooling2D", y, pool_size=1, strides=2)
                short = call("Concatenate", short, call("Rescaling", short, scale=0.0))
            y = call("Activation", call("Add", short, z), activation="relu")
    call("Dense", call("GlobalAveragePooling2D", y), units=10, activation="softmax")
    return steps


def built(steps: list[Step], shape: tuple[int, ...], layers: Any, entry: Any, model: Any) -> tuple[Any, list[Any]]:
    """The model of one of the two frameworks, and its layers in the order of their first calls.

    layers: the module with the layers' classes. entry: Input of it. model: Model of it.
    """
    values, made = [entry(shape)], {}
    for step in steps:
        if step.layer not in made:
            made[step.layer] = getattr(layers, step.kind)(**step.arguments)
        read = [values[j] for j in step.reads]
        values.append(made[step.layer](read if step.kind in (*JOINS, "Concatenate") else read[0]))
    return model(values[0], values[-1]), list(made.values())


def set_weights(layers: list[Any], seed: int) -> None:
    """The same numbers for both: spread as usual, with running variances above 0."""
    rng = np.random.Generator(np.random.PCG64(seed + 10_000))
    for layer in layers:
        arrays = [np.asarray(array) for array in layer.get_weights()]
        new = []
        for k, array in enumerate(arrays):
            numbers = rng.standard_normal(array.shape)
            if array.ndim > 1:
                numbers *= np.sqrt(2 / np.prod(array.shape[:-1]))
            elif type(layer).__name__ == "BatchNormalization":
                numbers = (1 + 0.2 * numbers, 0.2 * numbers, 0.2 * numbers, 0.5 + numbers**2)[k]
            else:
                numbers *= 0.2
            new.append(numbers.astype(np.float32))
        if new:
            layer.set_weights(new)


def data(seed: int, shape: tuple[int, ...], samples: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.Generator(np.random.PCG64(seed + 20_000))
    return rng.standard_normal((samples, *shape)).astype(np.float32), rng.integers(0, classes, samples)


class Record(NamedTuple):
    """first, last: the predictions before and after the steps. losses: of each step. changes: see `changes`."""

    first: np.ndarray
    losses: np.ndarray
    last: np.ndarray
    changes: np.ndarray


def changes(before: list[np.ndarray], after: list[np.ndarray]) -> np.ndarray:
    """What training did to each array, as one number: the change times random numbers."""
    rng = np.random.Generator(np.random.PCG64(1))
    return np.array([
        float(np.vdot(new.astype(np.float64) - old, rng.standard_normal(old.shape)))
        for old, new in zip(before, after, strict=True)
    ])  # fmt: skip


def weights_of(layers: list[Any]) -> list[np.ndarray]:
    return [np.array(array) for layer in layers for array in layer.get_weights()]
