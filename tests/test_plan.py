"""Chains of layers give the numbers of their layers, one by one: forward, backward, for every parameter."""

import gc
import sys
import threading
import weakref

import numpy as np
import pytest
from helpers import random, run_shards

import minicnn
from minicnn.backend import scratch
from minicnn.callbacks import Callback
from minicnn.errors import InputError
from minicnn.kernels import chain, conv_winograd, maxpool2d_backward, maxpool2d_forward, relu_backward, relu_forward
from minicnn.kernels.geometry import Windows
from minicnn.layers import (
    Activation,
    Add,
    BatchNormalization,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    GlobalAveragePooling2D,
    Input,
    MaxPooling2D,
    ReLU,
    SpatialDropout2D,
    fused,
    normalization,
)
from minicnn.layers.fused import Fused
from minicnn.layers.walk import PLAIN, Observer, backward, forward, new_contexts
from minicnn.models import Model, Sequential
from minicnn.training import inference, plan
from minicnn.training.plan import training_plan, without_plan


def names(model):
    """What a training step runs: the classes of the layers, those of a chain in brackets."""
    found = []
    for node in training_plan(model.nodes, PLAIN, "cpu").nodes:
        kinds = [type(layer).__name__ for layer in getattr(node.layer, "layers", [node.layer])]
        found.append(" ".join(kinds) if not isinstance(node.layer, Fused) else f"[{' '.join(kinds)}]")
    return found


def random_network(seed):
    """Up to 12 layers of the kinds that chains consist of, and some others; odd sizes, strides, even windows."""
    rng = np.random.Generator(np.random.PCG64(seed))

    def pick(*items):
        return items[int(rng.integers(len(items)))]

    def rarely():
        return rng.random() < 0.1

    def conv():
        return Conv2D(
            pick(1, 3, 16, 20), pick(1, 2, 3, 3, 3, (2, 5)), strides=pick(1, 1, 1, 2, (1, 2)),
            padding=pick("same", "same", "valid"), activation="tanh" if rarely() else pick(None, None, "relu"),
            use_bias=not rarely(), trainable=not rarely(), algorithm="shifted" if rarely() else pick("auto", "im2col"),
        )  # fmt: skip

    def pool():
        return MaxPooling2D(pick(2, 3, (1, 2)), strides=pick(None, 1, 2), padding=pick("same", "valid"))

    def norm():
        return BatchNormalization(center=not rarely(), scale=not rarely(), momentum=0.8, trainable=not rarely())

    def dropout():
        return pick(Dropout(pick(0, 0.3, 0.5)), Dropout(0.4, noise_shape=(1, None, None, None), seed=3),
                    SpatialDropout2D(0.4), Dropout(0.25, seed=2))  # fmt: skip

    def relu():
        return Activation("elu") if rarely() else pick(Activation("relu"), ReLU())

    values = [Input((int(rng.integers(8, 16)), int(rng.integers(8, 16)), pick(1, 3, 16)))]
    y = values[0]
    order = 3 * pick([conv, pool, relu, dropout, norm, relu], [conv, relu, pool, dropout, norm])
    for kind in order[int(rng.integers(6)) :]:
        layer = pick(conv, pool, norm, dropout, relu)() if rarely() else kind()
        if kind is not conv and rng.random() < 0.3:
            continue
        try:
            y = layer(y)
        except InputError:  # the image has become too small
            continue
        fitting = [value for value in values if value.shape == y.shape]
        if fitting and rarely():
            y = Add()([y, pick(*fitting)])
        values.append(y)
    return Model(values[0], Dense(3)(pick(Flatten(), GlobalAveragePooling2D())(y)))


def in_float64(model, seed):
    rng = np.random.Generator(np.random.PCG64(seed))
    for layer in model.flat_layers:
        for arrays in (layer.params, layer.state):
            for name, array in arrays.items():
                arrays[name] = array + 0.3 * rng.standard_normal(array.shape)
        if "moving_variance" in layer.state:
            layer.state["moving_variance"] = layer.state["moving_variance"] ** 2 + 0.1
    return model


def one_pass(model, x, dy, shards=1, step=2, seed=5):
    """(y, dx, the sums of all gradients, new running means) of a forward and a backward pass in training."""
    edges = [k * len(x) // shards for k in range(shards + 1)]

    def work(k, all_reduce):
        part = slice(edges[k], edges[k + 1])
        own = new_contexts(model.nodes, True, True, step, seed, part.start, all_reduce, input_gradient=True)
        planned = training_plan(model.nodes, PLAIN, "cpu")
        contexts = planned.contexts(own)
        y = forward(planned.nodes, contexts, x[part])
        return y, backward(planned.nodes, contexts, dy[part]), own

    results = run_shards(work, shards) if shards > 1 else [work(0, None)]
    grads = [
        {name: sum(own[i].grads[name] for _, _, own in results) for name in results[0][2][i].grads}
        for i in range(len(model.nodes))
    ]
    y, dx = (np.concatenate([result[k] for result in results]) for k in (0, 1))
    return y, dx, grads, [ctx.state for ctx in results[0][2]]


def assert_same(actual, expected, compare):
    for k in (0, 1):
        compare(actual[k], expected[k])
    for k in (2, 3):
        for own, other in zip(actual[k], expected[k], strict=True):
            assert own.keys() == other.keys()
            for name in own:
                compare(own[name], other[name])
                assert own[name].dtype == other[name].dtype


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9 * (1 + np.abs(b).max(initial=0)))


@pytest.mark.parametrize("first", range(0, 200, 20))
def test_twenty_random_networks(first):
    in_chains = 0
    for seed in range(first, first + 20):
        model = in_float64(random_network(seed), seed)
        samples, shards = (1, 2, 5, 7)[seed % 4], 1 + seed % 3
        x, dy = random((samples, *model.sample_shape), seed), random((samples, 3), seed + 1)
        before = x.copy()
        actual = one_pass(model, x, dy, min(shards, samples))
        with without_plan():
            assert_same(actual, one_pass(model, x, dy, min(shards, samples)), close)
        predicted = [model.predict(x, verbose=0) for _ in range(2)]
        with without_plan():
            close(predicted, [model.predict(x, verbose=0)] * 2)
        np.testing.assert_array_equal(x, before)
        in_chains += sum(len(name.split()) for name in names(model) if name[0] == "[")
    assert in_chains >= 30


def example(**first):
    return [
        Conv2D(20, 3, padding="same", **first), ReLU(), MaxPooling2D(2), Dropout(0.5), BatchNormalization(),
        Conv2D(16, 3, padding="same", activation="relu"), Dropout(0.25), BatchNormalization(), ReLU(), Conv2D(3, 2),
        MaxPooling2D(3, 1, "same"), BatchNormalization(), Flatten(), Dense(3),
    ]  # fmt: skip


@pytest.mark.parametrize("step", [1, 2, 3, 100])
@pytest.mark.parametrize("shards", [1, 2, 3])
def test_the_size_of_the_pieces_changes_nothing(step, shards, monkeypatch):
    pieces = chain._pieces
    monkeypatch.setattr(chain, "_pieces", lambda x, _: pieces(x, step))
    model = in_float64(Sequential([Input((9, 7, 2)), *example()]), 1)
    x, dy = random((5, 9, 7, 2), 1), random((5, 3), 2)
    actual = one_pass(model, x, dy, shards)
    with without_plan():
        assert_same(actual, one_pass(model, x, dy, shards), close)


def test_equal_maxima_and_zeros_are_exact():
    """Whole numbers, so that every sum is exact: many windows hold several equal maxima, many numbers are 0."""
    model = Sequential([
        Input((8, 8, 1)), Conv2D(2, 2, padding="same"), MaxPooling2D(3, 2), ReLU(), Dropout(0.5),
        Conv2D(2, 3, activation="relu"), Flatten(), Dense(3),
    ])  # fmt: skip
    rng = np.random.Generator(np.random.PCG64(1))
    for layer in model.flat_layers:
        layer.params = {name: rng.integers(-1, 2, p.shape).astype(np.float64) for name, p in layer.params.items()}
    x, dy = rng.integers(-1, 2, (6, 8, 8, 1)).astype(float), rng.integers(-2, 3, (6, 3)).astype(float)
    actual = one_pass(model, x, dy)
    with without_plan():
        expected = one_pass(model, x, dy)
    assert_same(actual, expected, np.testing.assert_array_equal)
    assert np.abs(expected[1]).max() > 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("geometry", [(2, None, "valid"), (3, 2, "same"), ((2, 3), (1, 2), "valid")])
def test_pooling_before_relu_gives_the_same_bits(dtype, geometry):
    """Also where all of a window is negative, or 0, and where several maxima are equal."""
    x = np.round(random((3, 7, 8, 4), 1), 1).astype(dtype) - dtype(0.3)
    pooled, winner = maxpool2d_forward(relu_forward(x), *geometry)
    first, own = maxpool2d_forward(x, *geometry)
    y = relu_forward(first)
    np.testing.assert_array_equal(y, pooled)
    dy = random(y.shape, 2).astype(dtype)
    expected = relu_backward(maxpool2d_backward(dy, winner, x.shape, *geometry), relu_forward(x))
    np.testing.assert_array_equal(maxpool2d_backward(relu_backward(dy, y), own, x.shape, *geometry), expected)


@pytest.mark.parametrize("m", [2, 4])
@pytest.mark.parametrize("size", [(8, 8), (6, 10), (14, 4), (2, 2)])
def test_pooling_in_tiles_gives_the_same_bits(m, size):
    """The first two of the images are 0, so all four numbers of each of their windows are equal."""
    x = random((3, *size, 5), 1, np.float32)
    x[:2] = 0
    w, b = random((3, 3, 5, 6), 2, np.float32), random((6,), 3, np.float32)
    kernel = conv_winograd.Kernel(w, b, Windows.of(x.shape, (3, 3), 1, "same"), m, keep=True)
    z = kernel.forward(x, np.empty((3, *size, 6), np.float32))
    expected, winners = maxpool2d_forward(z, 2)
    assert kernel.can_pool(Windows.of(z.shape, 2, None, "valid"))
    winner = np.empty_like(winners)
    np.testing.assert_array_equal(kernel.forward(x, np.empty_like(expected), True, winner), expected)
    np.testing.assert_array_equal(winner, winners)
    np.testing.assert_array_equal(kernel.forward(x, np.empty_like(expected), True), expected)
    dy, (dx, other) = random(expected.shape, 4, np.float32), np.empty((2, *x.shape), np.float32)
    kernel.backward(dy, x, dx, winner)
    plain = conv_winograd.Kernel(w, None, kernel.windows, m, keep=True)
    plain.backward(maxpool2d_backward(dy, winners, z.shape, 2), x, other)
    np.testing.assert_array_equal(dx, other)
    np.testing.assert_array_equal(kernel.gradient(), plain.gradient())


@pytest.mark.parametrize("pool", [(3, 2, "valid"), (2, 1, "valid"), ((1, 2), None, "valid"), (2, None, 1)])
def test_other_windows_are_not_pooled_in_tiles(pool):
    kernel = conv_winograd.Kernel(random((3, 3, 5, 6), 2), None, Windows.of((1, 8, 8, 5), (3, 3), 1, "same"))
    assert not kernel.can_pool(Windows.of((1, 8, 8, 6), *pool))
    assert not kernel.can_pool(Windows.of((1, 9, 9, 6), 2, None, "valid"))


def test_what_becomes_a_chain():
    assert names(Sequential([Input((9, 9, 2)), *example()])) == [
        "[Conv2D ReLU MaxPooling2D Dropout BatchNormalization Conv2D Dropout BatchNormalization ReLU Conv2D "
        "MaxPooling2D BatchNormalization]", "Flatten", "Dense",
    ]  # fmt: skip
    assert names(Sequential([Input((9, 9, 2)), Conv2D(2, 3), Dropout(0.5), ReLU()])) == ["Conv2D", "Dropout", "ReLU"]
    assert names(Sequential([Input((9, 9, 2)), Conv2D(2, 3, activation="tanh"), ReLU()])) == ["Conv2D", "ReLU"]
    assert names(Sequential([Input((9, 9, 2)), BatchNormalization(), ReLU()])) == ["BatchNormalization", "ReLU"]


def test_a_value_that_is_read_twice_stays():
    x = Input((8, 8, 4))
    y = Conv2D(4, 3, padding="same")(x)
    z = ReLU()(BatchNormalization()(y))
    z = BatchNormalization()(Conv2D(4, 3, padding="same")(z))
    model = Model(x, ReLU()(Add()([y, z])))
    assert names(model) == ["Conv2D", "[BatchNormalization ReLU Conv2D BatchNormalization]", "Add", "ReLU"]


def test_what_runs_by_itself():
    class Own(Conv2D):
        pass

    shape = Input((9, 9, 2))
    frozen = Conv2D(2, 3, trainable=False)
    for layers in ([Own(2, 3), ReLU()], [frozen, ReLU()], [Conv2D(2, 3, algorithm="shifted"), ReLU()],
                   [Conv2D(2, 3), MaxPooling2D(2, padding=1)], [Conv2D(2, 3, activation="relu")]):  # fmt: skip
        model = Sequential([shape, *layers])
        assert names(model) == [type(layer).__name__ for layer in layers]
    model = Sequential([shape, Conv2D(2, 3), BatchNormalization()])
    assert len(names(model)) == 1
    model.layers[1].trainable = False
    assert len(names(model)) == 2


def compiled():
    minicnn.utils.set_random_seed(3)
    model = Sequential([Input((9, 9, 2)), *example()])
    model.compile("sgd", "mse")
    return model


def test_fit_learns_the_same_with_and_without():
    x, y = random((12, 9, 9, 2), 1, np.float32), random((12, 3), 2, np.float32)
    histories, weights = [], []
    for use in (True, False):
        minicnn.set_plan(use)
        try:
            model = compiled()
            histories.append(model.fit(x, y, batch_size=6, epochs=3, verbose=0, shuffle=False).history["loss"])
            weights.append(model.get_weights())
        finally:
            minicnn.set_plan(True)
    np.testing.assert_allclose(*histories, rtol=1e-4)
    for a, b in zip(*weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_the_plan_can_be_switched_off_and_whoever_looks_sees_the_layers(monkeypatch):
    ran, forward_of_all = [], Fused.forward
    monkeypatch.setattr(Fused, "forward", lambda self, x, ctx: (ran.append(1), forward_of_all(self, x, ctx))[1])
    x, y = random((4, 9, 9, 2), 1, np.float32), random((4, 3), 2, np.float32)

    def runs(act):
        ran.clear()
        act(compiled())
        return len(ran)

    assert runs(lambda model: model.train_on_batch(x, y)) == 1
    assert runs(lambda model: model.trace(x, y)) == 0
    assert runs(lambda model: model.fit(x, y, verbose=0, check_finite=True)) == 0
    with minicnn.profile():
        assert runs(lambda model: model.train_on_batch(x, y)) == 0
    minicnn.set_plan(False)
    try:
        assert runs(lambda model: model.train_on_batch(x, y)) == 0
    finally:
        minicnn.set_plan(True)
    model = compiled()
    assert all(isinstance(node.layer, Fused) is False for node in training_plan(model.nodes, Observer(), "cpu").nodes)
    assert all(isinstance(node.layer, Fused) is False for node in training_plan(model.nodes, PLAIN, "gpu").nodes)


def test_set_plan_takes_a_truth_value():
    with pytest.raises(InputError, match="set_plan"):
        minicnn.set_plan("no")


def test_only_input_and_output_of_a_chain_are_kept():
    """Of 4 samples: of each chain its input and output, and a byte for each pooled number."""
    model = Sequential([Input((16, 16, 2)), Conv2D(8, 3, padding="same"), ReLU(), MaxPooling2D(2), Dropout(0.5),
                        BatchNormalization(), Conv2D(8, 3, padding="same"), ReLU(), BatchNormalization()])  # fmt: skip
    planned = training_plan(model.nodes, PLAIN, "cpu")
    own = new_contexts(model.nodes, True, True)
    contexts = planned.contexts(own)
    forward(planned.nodes, contexts, random((4, 16, 16, 2), 1, np.float32))
    sizes = [(x.nbytes, y.nbytes, 0 if winner is None else winner.nbytes) for _, x, y, winner, *_ in contexts[0].saved]
    assert sizes == [(4 * 512 * 4, 4 * 512 * 4, 4 * 512), (4 * 512 * 4, 4 * 512 * 4, 0)]
    assert sorted({name for ctx in own for name in vars(ctx)} & {"mask", "y", "winner", "saved", "shape"}) == []


# Each of these faults must be found by the comparison with the layers.
@pytest.mark.parametrize("fault", ["mask of the first piece", "no factor in dw", "moments of the last piece"])
def test_the_comparison_finds_faults(fault, monkeypatch):
    model = in_float64(Sequential([Input((9, 7, 2)), *example()]), 1)
    x, dy = random((5, 9, 7, 2), 1), random((5, 3), 2)
    pieces = chain._pieces
    monkeypatch.setattr(chain, "_pieces", lambda x, _: pieces(x, 2))
    if fault == "mask of the first piece":
        monkeypatch.setattr(Dropout, "mask", lambda self, y, ctx, start=0, real=Dropout.mask: real(self, y, ctx))
    elif fault == "no factor in dw":

        def halved(*arguments, real=fused.chain_backward):
            dx, dw, *rest = real(*arguments)
            return dx, dw / 2, *rest

        monkeypatch.setattr(fused, "chain_backward", halved)
    else:
        monkeypatch.setattr(chain, "joined_moments", lambda parts: parts[-1][1:])
    actual = one_pass(model, x, dy)
    with without_plan(), pytest.raises(AssertionError):
        assert_same(actual, one_pass(model, x, dy), close)


# ---- prediction: what was made of weights is kept, and never out of date ---------------------------------------------


def predictor():
    return in_float64(Sequential([
        Input((12, 12, 16)), Conv2D(16, 3, padding="same"), BatchNormalization(), ReLU(), BatchNormalization(),
        Conv2D(20, 3, padding="same", activation="relu"), MaxPooling2D(2), BatchNormalization(), ReLU(),
        Conv2D(16, 3, padding="same", activation="sigmoid"), Dropout(0.5), BatchNormalization(), Flatten(), Dense(4),
        BatchNormalization(),
    ]), 1)  # fmt: skip


def changes():
    """Every way in which an array or a layer can become another one, as (name, function of the model)."""
    def negative(array):
        array *= -1

    def swapped(array):
        array[...] = array[..., ::-1].copy()

    def bit(array):
        array.flat[-1] = np.nextafter(array.flat[-1], 9)

    for how in (negative, swapped):
        for k, layer in enumerate(predictor().layers):
            for name in (*layer.params, *layer.state):
                if name == "moving_variance" and how is negative:
                    continue
                yield f"{how.__name__} {k} {name}", lambda model, k=k, name=name, how=how: how(
                    {**model.layers[k].params, **model.layers[k].state}[name]
                )
    yield "a bit", lambda model: bit(model.layers[4].params["w"])
    yield "a view", lambda model: model.weights[0].reshape(-1)[:5].fill(0)
    yield "set_weights", lambda model: model.set_weights([2 * array for array in model.get_weights()])
    yield "another array", lambda model: model.layers[0].params.update(w=2 * model.layers[0].params["w"])
    yield "activation", lambda model: setattr(model.layers[4], "activation", "tanh")
    yield "epsilon", lambda model: setattr(model.layers[1], "epsilon", 0.5)
    yield "a layer less", lambda model: model.pop()
    yield "training", lambda model: (model.compile("sgd", "mse"), model.train_on_batch(
        random((4, 12, 12, 16), 3), random((4, 4), 4)))  # fmt: skip


@pytest.mark.parametrize(("name", "change"), list(changes()), ids=[name for name, _ in changes()])
def test_a_change_is_noticed(name, change):
    model, x = predictor(), random((3, 12, 12, 16), 1)
    before = model.predict(x, verbose=0)
    change(model)
    after = model.predict(x, verbose=0)
    with without_plan():
        close(after, model.predict(x, verbose=0))
    if "b" not in name.split():  # a bias before a batch norm, for one
        assert name == "a bit" or after.shape != before.shape or np.abs(after - before).max() > 1e-6


def compared(model, x):
    """The predictions for x, which are those of the layers one by one."""
    actual = model.predict(x, batch_size=len(x), verbose=0)
    with without_plan():
        close(actual, model.predict(x, batch_size=len(x), verbose=0))
    return actual


@pytest.mark.parametrize("before", [[], [BatchNormalization]], ids=["a chain", "a batch norm before it"])
@pytest.mark.parametrize("after", [[], [BatchNormalization]], ids=["", "folded"])
def test_a_bias_that_comes_later_is_noticed(before, after):
    norms = [[norm() for norm in some] for some in (before, after)]
    conv = Conv2D(16, 3, padding="same", use_bias=False)
    model = in_float64(Sequential([Input((4, 4, 16)), *norms[0], conv, *norms[1]]), 1)
    first = compared(model, random((5, 4, 4, 16), 1))
    conv.params["b"] = np.ones(16)
    second = compared(model, random((5, 4, 4, 16), 1))
    assert np.abs(first - second).max() > 1e-3
    del conv.params["b"]
    close(compared(model, random((5, 4, 4, 16), 1)), first)


class Doubles(Callback):
    """Doubles an array after each batch."""

    def __init__(self, array):
        super().__init__()
        self.array = array

    def double(self, batch, logs=None):
        self.array *= 2

    on_predict_batch_end = on_test_batch_end = double


def places():
    model = predictor()
    return [(k, name) for k, layer in enumerate(model.layers) for name in (*layer.params, *layer.state)]


@pytest.mark.parametrize(("k", "name"), places())
def test_a_callback_changes_a_weight_between_two_batches(k, name):
    x, y, model = random((6, 12, 12, 16), 1), random((6, 4), 2), predictor()
    model.compile("sgd", "mse")
    weights = model.get_weights()

    def results():
        found = []
        for run in ("predict", "evaluate"):
            model.set_weights(weights)
            array = {**model.layers[k].params, **model.layers[k].state}[name]
            data = (x,) if run == "predict" else (x, y)
            found.append(getattr(model, run)(*data, batch_size=2, verbose=0, callbacks=[Doubles(array)]))
        return found

    actual = results()
    with without_plan():
        for a, b in zip(actual, results(), strict=True):
            close(a, b)


@pytest.mark.parametrize("name", ["w", "b"])
def test_what_was_made_of_a_weight_before_another_algorithm_needed_it(name):
    """Few images take im2col, more of them Winograd, which reads the weights again: the map of biases is old then."""
    model = in_float64(Sequential([Input((4, 4, 16)), BatchNormalization(), Conv2D(16, 3, padding="same")]), 1)
    x = random((16, 4, 4, 16), 1)
    planned = inference.Plan(model)
    inference.infer(planned.front, x[:2])
    model.layers[1].params[name] *= 2
    inference.infer(planned.front, x)
    for n in (2, 16):
        compared(model, x[:n])


def test_without_a_change_nothing_is_made_again(monkeypatch):
    made, make = [], plan.Kept
    monkeypatch.setattr(plan, "Kept", lambda nodes: (made.append(1), make(nodes))[1])
    model, x = predictor(), random((3, 12, 12, 16), 1)
    expected = model.predict(x, verbose=0)
    kernels = conv_winograd.Kernel.__init__
    monkeypatch.setattr(conv_winograd.Kernel, "__init__", lambda *args, **kw: (made.append(2), kernels(*args, **kw))[1])
    for _ in range(3):
        np.testing.assert_array_equal(model.predict(x, verbose=0), expected)
    assert made == [1]


def test_models_that_take_turns_keep_their_plans():
    """A batch norm that is folded away is no change of a layer: it would cost every other model its plan."""
    models = [Sequential([Input((6,)), Dense(4), BatchNormalization(), Dense(2)]) for _ in range(3)]
    made = [plan.prediction_nodes(model) for model in models]
    for _ in range(2):
        for model, nodes in zip(models, made, strict=True):
            model.predict(random((2, 6), 1), verbose=0)
            assert plan.prediction_nodes(model) is nodes


def test_what_is_kept_goes_with_the_model():
    model = predictor()
    model.predict(random((1, 12, 12, 16), 1), verbose=0)
    assert model in plan._kept
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_prediction_reads_batch_norms_as_parts_of_convolutions():
    """Before the second convolution as a map of biases; where ReLU stands between them, as the input is read."""
    model = predictor()
    model.predict(random((2, 12, 12, 16), 1), verbose=0)
    chains = [node.layer for node in plan.prediction_nodes(model) if isinstance(node.layer, fused.Predicted)]
    made = [chain.made[k] for chain in chains for k in chain.made]
    assert [(norm is None, b.ndim) for _, norm, _, b in made] == [(True, 1), (True, 3), (False, 1)]
    assert all(type(conv).__name__ == "Kernel" for chain in chains for conv in chain.convs.values())


def test_a_large_map_of_biases_is_not_made(monkeypatch):
    monkeypatch.setattr(fused, "MAP_BYTES", 0)
    model, x = predictor(), random((2, 12, 12, 16), 1)
    predicted = model.predict(x, verbose=0)
    with without_plan():
        close(predicted, model.predict(x, verbose=0))


def test_threads_do_not_share_the_memory_of_a_piece():
    found = []
    threads = [threading.Thread(target=lambda: found.append(scratch(np, "n", (3,), np.float32))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not np.shares_memory(*found)


def scaled(layer, in_place):
    """Half of every array of a layer: in it, or another one in its place."""
    for arrays in (layer.params, layer.state):
        for name in arrays:
            if in_place:
                arrays[name] *= 0.5
            else:
                arrays[name] = arrays[name] * 0.5


class EachLine:
    """Calls `do` once, when the `at`-th line of the modules runs in this thread, as another thread may at any time."""

    def __init__(self, modules, at, do):
        self.files, self.at, self.do, self.seen = {module.__file__ for module in modules}, at, do, 0

    def __call__(self, frame, event, argument):
        if frame.f_code.co_filename not in self.files:
            return None
        if event == "line":
            self.seen += 1
            if self.seen == self.at:
                self.do()
        return self

    def __enter__(self):
        self.before = sys.gettrace()
        sys.settrace(self)
        return self

    def __exit__(self, *exception):
        sys.settrace(self.before)


@pytest.mark.parametrize("in_place", [True, False], ids=["in place", "exchanged"])
def test_a_weight_that_changes_while_a_plan_is_being_made(in_place):
    """At no line of that: what was read before must not be taken, later, for what was made of the new numbers."""
    x, modules = random((2, 6, 6, 16), 1), (plan, fused, normalization)
    model = in_float64(Sequential([
        Input((6, 6, 16)), Conv2D(16, 3, padding="same"), BatchNormalization(), ReLU(), BatchNormalization(),
        Conv2D(16, 3, padding="same", activation="relu"), Flatten(), Dense(4), BatchNormalization(),
    ]), 1)  # fmt: skip
    weights, lines = model.get_weights(), 0

    def change():
        for layer in model.layers:
            scaled(layer, in_place)

    while True:
        model.set_weights(weights)
        plan._kept.pop(model, None)
        lines += 1
        planned = EachLine(modules, lines, change)
        with planned:
            inference.infer(plan.prediction_nodes(model), x)
        if planned.seen < lines:
            break
        compared(model, x)
    assert lines > 100


class Halving(minicnn.utils.PyDataset):
    """Batches of x; when one is asked for, the layers' weights are halved. workers=0: at once, not by a thread."""

    def __init__(self, x, layers, in_place):
        super().__init__(workers=0)
        self.x, self.layers, self.in_place = x, layers, in_place

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        for layer in self.layers:
            scaled(layer, self.in_place)
        return self.x[i], np.zeros((len(self.x[i]), 4))


@pytest.mark.parametrize("in_place", [True, False], ids=["in place", "exchanged"])
@pytest.mark.parametrize("kind", ["PyDataset", "generator"])
@pytest.mark.parametrize("run", ["predict", "evaluate"])
def test_data_that_change_the_weights_between_two_batches(run, kind, in_place):
    """A batch norm that was folded for the first batch stayed as it was; the other layers took the new numbers."""
    x, model = random((4, 3, 12, 12, 16), 1), predictor()
    model.compile("sgd", "mse")
    weights = model.get_weights()

    def result():
        model.set_weights(weights)
        made = Halving(x, model.layers, in_place)
        if kind == "PyDataset":
            return getattr(model, run)(made, verbose=0)
        return getattr(model, run)((made[i] for i in range(len(x))), steps=len(x), verbose=0)

    actual = result()
    with without_plan():
        close(actual, result())


def test_an_attribute_that_is_deleted_is_a_change():
    """The plan that had been made with it stayed, and predicted as if nothing had happened."""
    model, x = predictor(), random((3, 12, 12, 16), 1)
    model.predict(x, verbose=0)
    del model.layers[1].epsilon
    with pytest.raises(AttributeError, match="epsilon"):
        model.predict(x, verbose=0)
