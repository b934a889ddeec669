"""200 random networks that branch, and ResNet-20: predictions and steps of training are those of Keras 3.15.

Recorded by tests/fixtures/make_keras_graphs.py; other networks live where Keras is installed.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from keras_graphs import (
    CLASSES,
    GRAPHS,
    RATE,
    RESNET,
    SAMPLES,
    SHAPE,
    STEPS,
    Record,
    Step,
    built,
    changes,
    data,
    random_graph,
    resnet20,
    set_weights,
    weights_of,
)

import minicnn
from minicnn import layers
from minicnn.applications import ResNet20
from minicnn.models import Model
from minicnn.optimizers import SGD
from minicnn.training import step as training_step

FIXTURES = Path(__file__).parent / "fixtures"
TOLERANCE = 1e-4
collected = training_step.collected


def recorded(path: Path) -> dict[str, np.ndarray]:
    """The numbers by the network's name."""
    file = np.load(path)
    return dict(zip(file["names"], np.split(file["numbers"], file["ends"][:-1]), strict=True))


def steps_of(
    model: Model, inner: list, seed: int, shape=SHAPE, samples=SAMPLES, classes=CLASSES, number=STEPS, rate=RATE
) -> tuple[Record, np.ndarray]:
    """What make_keras_graphs.py computes with Keras; and by how much each of the changes may differ."""
    x, y = data(seed, shape, samples, classes)
    model.compile(SGD(rate), "sparse_categorical_crossentropy")
    before, first = weights_of(inner), model.predict(x, verbose=0)
    losses = model.fit(x, y, batch_size=samples, epochs=number, shuffle=False, verbose=0).history["loss"]
    after = weights_of(inner)
    moved = [np.linalg.norm(new.astype(np.float64) - old) for old, new in zip(before, after, strict=True)]
    rounded = [2e-6 * np.linalg.norm(old) for old in before]  # float32 has seven digits
    record = Record(first, np.array(losses), model.predict(x, verbose=0), changes(before, after))
    return record, TOLERANCE * np.array(moved) + rounded


def check(record: Record, allowed: np.ndarray, keras: np.ndarray, leave_out: np.ndarray | None = None) -> None:
    """Predictions and losses within 1e-4 of the largest one; each array's change within 1e-4 of its length.

    leave_out: arrays that are not compared, and with them the predictions after the steps.
    """
    ends = np.cumsum([part.size for part in record])
    assert ends[-1] == keras.size
    *parts, moved = np.split(keras, ends[:-1])
    for name, part, right in zip(Record._fields, record, parts, strict=False):
        error = np.abs(np.ravel(part) - right).max() / np.abs(right).max()
        assert error <= TOLERANCE or (name == "last" and leave_out is not None), f"{name}: off by {error:.1e}"
    error = np.abs(record.changes - moved) / allowed
    if leave_out is not None:
        error[leave_out] = 0
    assert error.max() <= 1, f"array {error.argmax()} became another one: {error.max():.1f} times what is allowed"


def graph(seed: int) -> tuple[Model, list]:
    model, inner = built(random_graph(seed), SHAPE, layers, minicnn.Input, Model)
    set_weights(inner, seed)
    return model, inner


def side_by_side(steps: list[Step]) -> set[int]:
    """Layers of which two uses do not follow from one another: either might be computed first."""
    before: list[set[int]] = [set()]  # of each value: the values that it is made of
    for step in steps:
        before.append({*step.reads}.union(*(before[j] for j in step.reads)))
    return {
        steps[i].layer
        for i in range(len(steps)) for k in range(i)
        if steps[i].layer == steps[k].layer and k + 1 not in before[i + 1]
    }  # fmt: skip


def compared(seed: int, keras: np.ndarray) -> bool:
    """Whether also the running statistics could be compared.

    A batch norm that is used side by side moves them twice in the order of the calls; Keras orders by depth.
    """
    steps, (model, inner) = random_graph(seed), graph(seed)
    unordered, numbers = side_by_side(steps), list(dict.fromkeys(step.layer for step in steps))
    left_out = [
        number in unordered and name in layer.state
        for number, layer in zip(numbers, inner, strict=True) for name in (*layer.params, *layer.state)
    ]  # fmt: skip
    check(*steps_of(model, inner, seed), keras, np.array(left_out) if any(left_out) else None)
    return not any(left_out)


@pytest.fixture(scope="module")
def keras() -> dict[str, np.ndarray]:
    return recorded(FIXTURES / "keras_graphs.npz")


@pytest.mark.parametrize("first", range(0, GRAPHS, 20))
def test_twenty_random_networks(first, keras):
    whole = 0
    for seed in range(first, first + 20):
        try:
            whole += compared(seed, keras[str(seed)])
        except AssertionError as error:
            raise AssertionError(f"network {seed}: {error}") from error
    assert whole >= 12


def test_the_networks_are_what_they_should_be():
    """Skips, joins and shared layers in most of them, and at most 12 layers one after the other."""
    every = [random_graph(seed) for seed in range(GRAPHS)]
    depths = []
    for steps in every:
        depth = [0]
        for step in steps:
            depth.append(1 + max(depth[j] for j in step.reads))
        depths.append(max(depth))
    assert min(depths) + 2 >= 5 and max(depths) == 12
    assert sum(len({step.layer for step in steps}) < len(steps) for steps in every) > 100
    assert {"Add", "Subtract", "Multiply", "Average", "Maximum", "Concatenate", "ZeroPadding2D"} < {
        step.kind for steps in every for step in steps
    }


def test_resnet20(keras):
    """Five steps, the arrays' changes within 1e-3; and minicnn.applications has the same network."""
    shape = RESNET["shape"]
    model, inner = built(resnet20(), shape, layers, minicnn.Input, Model)
    set_weights(inner, 0)
    ready = ResNet20(shape, 10, weight_decay=0.0)
    assert [type(layer) for layer in ready.layers] == [type(layer) for layer in model.layers]
    assert [inputs for _, inputs in ready.uses] == [inputs for _, inputs in model.uses]
    ready.set_weights(model.get_weights())
    for one in (model, ready):
        record, allowed = steps_of(one, one.layers, 0, **RESNET)
        check(record, 10 * allowed, keras["resnet20"])


def test_keras_itself(tmp_path):
    """Other networks, live."""
    if importlib.util.find_spec("keras") is None:
        pytest.skip("needs Keras 3: the recorded networks stand in for it")
    script, path = FIXTURES / "make_keras_graphs.py", tmp_path / "graphs.npz"
    subprocess.run([sys.executable, str(script), str(path), "1000", "10"], check=True, capture_output=True)
    for seed, numbers in recorded(path).items():
        compared(int(seed), numbers)


# ---- negative controls: what is wrong is seen ------------------------------------------------------------------------


def the_last_gradient_alone(nodes, contexts, dy, observer=None):
    """The walk with `=` for `+` where two gradients meet."""
    found = {len(nodes) - 1: dy}
    for i in reversed(range(len(nodes))):
        if i in found and contexts[i].need_backward:
            dx = nodes[i].layer.backward(found.pop(i), contexts[i])
            found.update(zip(nodes[i].inputs, dx if nodes[i].layer.merges else (dx,), strict=True))


def a_subtraction_with_the_wrong_sign(self, dy, ctx):
    return [dy, dy]


@pytest.mark.parametrize("bug", ["a gradient is lost", "a sign is wrong", "a shared layer is there twice"])
def test_what_is_wrong_is_seen(bug, keras, monkeypatch):
    if bug == "a gradient is lost":
        monkeypatch.setattr(training_step, "backward", the_last_gradient_alone)
    elif bug == "a sign is wrong":
        monkeypatch.setattr(layers.Subtract, "backward", a_subtraction_with_the_wrong_sign)
    else:
        monkeypatch.setattr(training_step, "collected", of_the_first_use_alone)
    rejected = 0
    for seed in range(40):
        try:
            compared(seed, keras[str(seed)])
        except AssertionError:
            rejected += 1
    assert rejected >= 5


def of_the_first_use_alone(nodes, shards):
    """Forgets what the second use of a layer adds to its gradient."""
    params, grads = collected(nodes, shards)
    for i, node in reversed(list(enumerate(nodes))):
        for name in node.layer.params:
            grads[node.key, name] = [contexts[i].grads[name] for contexts in shards]
    return params, grads
