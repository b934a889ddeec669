"""The one walk: who reads what, when a value goes, where gradients meet, and broken walks that our checks reject."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
from branching import NETWORKS, batch, made
from helpers import random

from minicnn.errors import InputError
from minicnn.gradcheck import check_layer
from minicnn.layers import Activation, Add, BatchNormalization, Context, Dense, Input, Layer, Multiply, walk
from minicnn.layers.walk import Node, Observer
from minicnn.models import Model, Sequential
from minicnn.training import inference
from minicnn.training.shards import Workers
from minicnn.training.step import gradients


class Plus(Layer):
    """y = x + number, in a new array."""

    def __init__(self, number=0.0, **layer):
        super().__init__(**layer)
        self.number = number

    def forward(self, x, ctx):
        return x + self.number

    def backward(self, dy, ctx):
        return dy * 1


def nodes_of(*parts) -> list[Node]:
    """(layer, inputs) -> nodes."""
    return [Node(layer, tuple(inputs), f"n{i}") for i, (layer, inputs) in enumerate(parts)]


def diamond() -> list[Node]:
    """0: x + 1; 1: 0 + 10; 2: 0 + 100; 3: the sum of 1, 2, 0 and x."""
    return nodes_of((Plus(1), [-1]), (Plus(10), [0]), (Plus(100), [0]), (Add(), [1, 2, 0, -1]))


# ---- forward ---------------------------------------------------------------------------------------------------------


def test_every_layer_reads_what_its_node_says():
    nodes = diamond()
    y = walk.forward(nodes, walk.new_contexts(nodes), np.full((2, 1), 0.5))
    np.testing.assert_array_equal(y, np.full((2, 1), 11.5 + 101.5 + 1.5 + 0.5))


def test_a_value_goes_when_its_last_reader_is_done():
    """Of a chain no more than two values are there at any time; a skip connection is kept until it is added."""
    alive, living = [], []

    class Watched(Plus):
        def forward(self, x, ctx):
            living.append([name for name, value in alive if value() is not None])
            y = x + self.number
            alive.append((self.name, weakref.ref(y)))
            return y

    a, b, c, d, e = (Watched(name=name) for name in "abcde")
    nodes = nodes_of((a, [-1]), (b, [0]), (c, [1]), (Add(), [2, 0]), (d, [3]), (e, [4]))
    walk.forward(nodes, walk.new_contexts(nodes), np.ones((2, 3)))
    assert living == [[], ["a"], ["a", "b"], [], ["d"]]


def test_the_networks_input_goes_too():
    seen = []

    class Last(Plus):
        def forward(self, x, ctx):
            seen.append(first())
            return x

    nodes = nodes_of((Plus(1), [-1]), (Plus(1), [0]), (Last(), [1]))

    def start():
        x = np.ones((2, 2))
        nonlocal first
        first = weakref.ref(x)
        return x

    first = None
    x = [start()]
    walk.forward(nodes, walk.new_contexts(nodes), x.pop())
    assert seen == [None]


def test_helpers_of_the_walk():
    nodes = diamond()
    assert walk.last_readers(nodes) == {-1: 3, 0: 3, 1: 3, 2: 3}
    assert walk.unique_keys([nodes[0], nodes[0], nodes[1], nodes[0]]) == ["n0", "n0 (2)", "n1", "n0 (3)"]
    assert walk.shapes_of(nodes, (4,)) == [(4,)] * 5
    part = walk.part_up_to(nodes, 2)
    assert [(node.key, node.inputs) for node in part] == [("n0", (-1,)), ("n2", (0,))]
    assert [node.inputs for node in walk.chain([Plus(), Plus()])] == [(-1,), (0,)]


# ---- backward --------------------------------------------------------------------------------------------------------


def test_gradients_of_a_value_are_added():
    nodes = diamond()
    contexts = walk.new_contexts(nodes, need_backward=True, input_gradient=True)
    walk.forward(nodes, contexts, np.ones((2, 1)))
    dy = np.full((2, 1), 3.0)
    np.testing.assert_array_equal(walk.backward(nodes, contexts, dy), np.full((2, 1), 12.0))
    np.testing.assert_array_equal(dy, np.full((2, 1), 3.0), "the gradient that came in was changed")


def test_a_value_that_one_layer_reads_twice():
    nodes = nodes_of((Multiply(), [-1, -1, -1]))
    contexts = walk.new_contexts(nodes, need_backward=True, input_gradient=True)
    x = random((3, 2))
    np.testing.assert_allclose(walk.forward(nodes, contexts, x), x**3)
    np.testing.assert_allclose(walk.backward(nodes, contexts, np.ones((3, 2))), 3 * x**2)


def test_the_order_and_the_places_that_an_observer_sees():
    events = []

    class Notes(Observer):
        def forward(self, i, node, x, ctx):
            events.append(("forward", i, node.key, len(x) if isinstance(x, list) else 1))
            return super().forward(i, node, x, ctx)

        def backward(self, i, node, dy, ctx):
            dx = super().backward(i, node, dy, ctx)
            events.append(("backward", i, node.key, len(dx) if isinstance(dx, list) else 1))
            return dx

    nodes = diamond()
    contexts = walk.new_contexts(nodes, need_backward=True, input_gradient=True)
    walk.forward(nodes, contexts, np.ones((2, 1)), Notes(Notes()))
    walk.backward(nodes, contexts, np.ones((2, 1)), Notes())
    forward = [("forward", i, f"n{i}", n) for i, n in enumerate((1, 1, 1, 4))]
    backward = [("backward", i, f"n{i}", n) for i, n in enumerate((1, 1, 1, 4))]
    assert events == [pair for pair in forward for _ in (1, 2)] + backward[::-1]


def test_an_observer_around_every_walk_of_the_process():
    calls = []

    class Counts(Observer):
        def forward(self, i, node, x, ctx):
            calls.append(node.key)
            return super().forward(i, node, x, ctx)

    model, (x, _) = made("residual"), batch()
    walk.observe_all(Counts)
    try:
        model(x)
    finally:
        walk.observe_all(None)
    assert calls == [node.key for node in model.nodes]
    model(x)
    assert len(calls) == len(model.nodes)


def test_only_what_learns_is_gone_back_through():
    """One branch is frozen, and begins at the input: nobody asks its layers for a gradient."""
    x = Input((4,))
    frozen = Dense(4, trainable=False, name="a")(Dense(4, trainable=False, name="b")(x))
    learns = Dense(4, name="c")(x)
    model = Model(x, Dense(2, name="e")(Add(name="d")([frozen, learns])))
    model.compile("sgd", "mse")
    seen = {}

    class Asked(Observer):
        def backward(self, i, node, dy, ctx):
            seen[node.key] = ctx.need_dx
            return super().backward(i, node, dy, ctx)

    shards, _, _ = gradients(model, random((3, 4)), random((3, 2)), Workers(1), 0, 0, observer=Asked())
    assert seen == {"e": True, "d": True, "c": False}
    assert [sorted(ctx.grads) for ctx in shards[0]] == [[], [], ["b", "w"], [], ["b", "w"]]


def test_a_frozen_layer_between_two_that_learn_is_gone_through():
    x = Input((4,))
    y = Dense(4, name="a")(x)
    z = Dense(4, trainable=False, name="b")(y)
    model = Model(x, Add()([y, z]))
    model.compile("sgd", "mse")
    inputs, targets = random((3, 4), dtype=np.float32), random((3, 4), 1, np.float32)
    shards, _, _ = gradients(model, inputs, targets, Workers(1), 0, 0)
    dy = 2 / 12 * (model(inputs) - targets)
    right = inputs.T @ (dy + dy @ model.get_layer("b").params["w"].T)
    np.testing.assert_allclose(shards[0][0].grads["w"], right, rtol=1e-5, atol=1e-6)


# ---- a layer that is used twice --------------------------------------------------------------------------------------


def test_batch_norm_that_is_used_twice_moves_its_statistics_twice():
    norm, x = BatchNormalization(momentum=0.9), Input((3,))
    model = Model(x, norm(Activation("tanh")(norm(x))))
    values = random((8, 3), dtype=np.float32)
    model(values, training=True)
    mean, variance = values.mean(0), values.var(0)
    second = np.tanh((values - mean) / np.sqrt(variance + 1e-3))
    gamma, beta, moving_mean, moving_variance = norm.get_weights()
    np.testing.assert_allclose(moving_mean, 0.9 * 0.1 * mean + 0.1 * second.mean(0), atol=1e-6)
    right = 0.9 * (0.9 + 0.1 * variance) + 0.1 * second.var(0)
    np.testing.assert_allclose(moving_variance, right, rtol=1e-5)


def test_a_layer_that_is_used_twice_has_the_sum_of_both_gradients():
    """Against the same network with two layers of the same weights."""
    one, x = Dense(3, activation="tanh"), Input((3,))
    twice = Model(x, one(one(x)))
    apart = Sequential([Input((3,)), Dense(3, activation="tanh"), Dense(3, activation="tanh")])
    apart.set_weights(twice.get_weights() * 2)
    for model in (twice, apart):
        model.compile("sgd", "mse")
    x, y = random((5, 3), dtype=np.float32), random((5, 3), 1, np.float32)
    one, two = (gradients(model, x, y, Workers(1), 0, 0)[0][0] for model in (twice, apart))
    for name in ("w", "b"):
        for a, b in zip(one, two, strict=True):  # each use writes into a context of its own
            np.testing.assert_array_equal(a.grads[name], b.grads[name])
    before = twice.get_weights()
    twice.compile("sgd", "mse")
    twice.fit(x, y, verbose=0)
    for name, w, new in zip(("w", "b"), before, twice.get_weights(), strict=True):
        np.testing.assert_allclose(w - new, 0.01 * (two[0].grads[name] + two[1].grads[name]), atol=1e-6)


# ---- negative controls: wrong walks, which our checks reject ---------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_the_gradients_of_whole_networks(name):
    check_layer(NETWORKS[name](), (8, 8, 3), max_elements=4).assert_ok()


def network() -> Model:
    x = Input((3,))
    y = Dense(4, activation="tanh")(x)
    z = Dense(4, activation="tanh")(y)
    return Model(x, Add()([Multiply()([y, z]), y, z]))


def test_the_small_network_is_right():
    check_layer(network(), (3,)).assert_ok()


def backward_with(join):
    """The walk's backward, with another way to bring two gradients together."""

    def backward(nodes, contexts, dy, observer=None):
        found = {len(nodes) - 1: dy}
        for i in reversed(range(len(nodes))):
            if i not in found or not contexts[i].need_backward:
                continue
            dx = nodes[i].layer.backward(found.pop(i), contexts[i])
            for j, part in zip(nodes[i].inputs, dx if nodes[i].layer.merges else (dx,), strict=True):
                if part is not None:
                    join(found, j, part)
        return found.get(-1)

    return backward


def the_last_one_alone(found, j, part):
    found[j] = part


def added_in_place(found, j, part):
    if j in found:
        found[j] += part
    else:
        found[j] = part


def the_sum(found, j, part):
    found[j] = found[j] + part if j in found else part


@pytest.mark.parametrize("join", [the_last_one_alone, added_in_place, the_sum])
def test_where_two_gradients_meet(join, monkeypatch):
    """`=` for `+` loses a gradient; `+=` changes the dy that Add has given to several of its inputs."""
    monkeypatch.setattr(walk, "backward", backward_with(join))
    report = check_layer(network(), (3,))
    assert report.ok == (join is the_sum)


class Doubling(Layer):
    """y = 2 x. Its backward pass doubles dy in place: it belongs to others, too."""

    def forward(self, x, ctx):
        return 2 * x

    def backward(self, dy, ctx):
        dy *= 2
        return dy


def test_a_branch_that_changes_the_shared_gradient_in_place():
    def branches(layer):
        x = Input((3,))
        y = Dense(4)(x)
        return Model(x, Add()([Activation("tanh")(y), layer(y), y]))

    check_layer(branches(Activation("linear")), (3,)).assert_ok()
    assert not check_layer(branches(Doubling()), (3,)).ok


def freed_after_the_first_reader(nodes, contexts, x, observer=None):
    """A value's memory is used again as soon as one layer has read it."""
    values = {-1: x}
    for i, node in enumerate(nodes):
        inputs = [values[j] for j in node.inputs]
        values[i] = node.layer.forward(inputs if node.layer.merges else inputs[0], contexts[i])
        for j in node.inputs:
            if j >= 0:
                values[j] = np.full_like(values[j], 7.0)
    return values[len(nodes) - 1]


def test_a_value_that_is_freed_too_early(monkeypatch):
    monkeypatch.setattr(walk, "forward", freed_after_the_first_reader)
    assert not check_layer(network(), (3,)).ok


@pytest.mark.parametrize("careless", [False, True], ids=["readers are counted", "readers are not counted"])
def test_in_place_only_where_a_value_has_one_reader(careless, monkeypatch):
    """Activation("relu") may write over its input; here the sum reads that input, too."""
    if careless:
        monkeypatch.setattr(inference.Counter, "__getitem__", lambda self, key: 1)
    x = Input((6,))
    y = Dense(6)(x)
    model = Model(x, Add()([Activation("relu")(y), y]))
    values = random((9, 6), dtype=np.float32)
    same = np.allclose(model.predict(values, verbose=0), model(values), atol=1e-6)
    assert same == (not careless)


def test_a_context_says_what_nobody_wrote():
    with pytest.raises(AttributeError, match="nobody has written 'x'"):
        Context().x  # noqa: B018


def test_only_whole_networks_can_be_walked():
    with pytest.raises(InputError, match="the output does not depend on the input"):
        Model(Input((3,)), Dense(3)(Input((3,))))
