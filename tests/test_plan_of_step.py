"""The plan of a training step is kept from step to step, and made anew when what it is made of has changed."""

import gc
import weakref

import numpy as np
import pytest
from helpers import random

import minicnn
from minicnn.layers import Conv2D, Dense, Dropout, Flatten, Input, MaxPooling2D, ReLU
from minicnn.layers.fused import Fused
from minicnn.layers.walk import PLAIN, Observer
from minicnn.models import Sequential
from minicnn.training.plan import plan_of_step


def network():
    model = Sequential([
        Input((8, 8, 3)), Conv2D(4, 3), ReLU(), MaxPooling2D(2), Dropout(0.2), Flatten(), Dense(3, activation="softmax")
    ])  # fmt: skip
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model


def fused(model):
    return sum(isinstance(node.layer, Fused) for node in plan_of_step(model, PLAIN).nodes)


def test_it_is_kept_from_step_to_step():
    model, x, y = network(), random((6, 8, 8, 3), 1), np.arange(6) % 3
    first = plan_of_step(model, PLAIN)
    model.fit(x, y, batch_size=2, verbose=0)
    assert plan_of_step(model, PLAIN) is first and fused(model) == 1


def freeze(model):
    model.layers[0].trainable = False


def choose_an_algorithm(model):
    model.set_algorithm("shifted")


def another_activation(model):
    model.layers[0].activation = "tanh"


@pytest.mark.parametrize("change", [freeze, choose_an_algorithm, another_activation])
def test_a_changed_layer_is_seen(change):
    model = network()
    assert fused(model) == 1
    change(model)
    assert fused(model) == 0


def test_what_else_it_depends_on():
    model = network()
    first = plan_of_step(model, PLAIN)
    assert not any(isinstance(node.layer, Fused) for node in plan_of_step(model, Observer()).nodes)
    minicnn.set_plan(False)
    try:
        assert fused(model) == 0
    finally:
        minicnn.set_plan(True)
    assert fused(model) == 1 and len(plan_of_step(model, PLAIN).nodes) == len(first.nodes)
    model.pop()
    model.pop()
    assert len(plan_of_step(model, PLAIN).nodes) == len(first.nodes) - 2
    gone = weakref.ref(model)
    del model, first
    gc.collect()
    assert gone() is None
