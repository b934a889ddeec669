"""Optimizers: trajectories recorded from Keras 3.15, formulas, and that blocks, shards and threads change nothing."""

from __future__ import annotations

import copy
import json
import math

import numpy as np
import pytest
from helpers import random
from keras_object_cases import OPTIMIZERS

from minicnn import optimizers
from minicnn.callbacks import Callback
from minicnn.errors import InputError, UnknownNameError
from minicnn.layers import Dense, Input
from minicnn.models import Sequential, load_model
from minicnn.optimizers import (
    SGD,
    Adam,
    AdamW,
    Lion,
    MultiOptimizer,
    Muon,
    Nadam,
    Optimizer,
    OptimizerMap,
    RMSprop,
    base,
)
from minicnn.optimizers.base import BLOCK
from minicnn.optimizers.muon import orthogonal
from minicnn.schedules import CosineDecay, ExponentialDecay, PiecewiseConstantDecay
from minicnn.training.shards import Workers
from minicnn.utils import set_random_seed

KEYS = [("dense_1", "w"), ("dense_1", "b")]

# Each makes a new optimizer, of the name in KERAS below.
CASES = {
    "sgd": lambda: SGD(0.1),
    "sgd momentum": lambda: SGD(0.1, momentum=0.9),
    "sgd nesterov": lambda: SGD(0.1, momentum=0.9, nesterov=True),
    "sgd weight decay": lambda: SGD(0.1, momentum=0.9, weight_decay=0.05),
    "sgd clipnorm": lambda: SGD(0.1, clipnorm=1.0),
    "sgd clipvalue": lambda: SGD(0.1, clipvalue=0.4),
    "sgd global clipnorm": lambda: SGD(0.1, global_clipnorm=1.0),
    "adam": lambda: Adam(0.1),
    "adam betas": lambda: Adam(0.1, beta_1=0.5, beta_2=0.9, epsilon=0.01),
    "adam weight decay": lambda: Adam(0.1, weight_decay=0.05),
    "adamw": lambda: AdamW(0.1),
    "adamw decay": lambda: AdamW(0.1, weight_decay=0.1, clipnorm=0.5),
    "rmsprop": lambda: RMSprop(0.1),
    "rmsprop momentum": lambda: RMSprop(0.1, rho=0.8, momentum=0.5, epsilon=1e-3),
    "rmsprop centered": lambda: RMSprop(0.1, centered=True, epsilon=1e-3),
    "rmsprop centered momentum": lambda: RMSprop(0.1, centered=True, momentum=0.9, weight_decay=0.01, epsilon=1e-3),
    "sgd exponential": lambda: SGD(ExponentialDecay(0.1, 2, 0.5)),
    "sgd piecewise": lambda: SGD(PiecewiseConstantDecay([1, 4], [0.1, 0.05, 0.01])),
    "adam cosine": lambda: Adam(CosineDecay(0.1, 6, alpha=0.1)),
}

# The parameters, w and then b, after 1, 2, 5 and 8 steps of Keras.
KERAS = {
    "sgd": [
        [0.940896, -2.181859, 0.6059672, 0.285224, -0.7454649],
        [0.7544882, -2.229709, 0.8047054, 0.238622, -0.7574273],
        [0.6911755, -1.7811, 0.7524164, 0.2227939, -0.6452749],
        [0.9382372, -2.1843, 0.6092548, 0.2845593, -0.746075],
    ],
    "sgd momentum": [
        [0.940896, -2.181859, 0.6059672, 0.285224, -0.7454649],
        [0.7012945, -2.393383, 0.9000759, 0.2253236, -0.7983457],
        [-0.2670252, -2.071437, 1.785434, -0.01675632, -0.7178593],
        [-0.07370228, -2.097396, 1.5988, 0.03157442, -0.7243491],
    ],
    "sgd nesterov": [
        [0.8877023, -2.345533, 0.7013377, 0.2719256, -0.7863833],
        [0.4856532, -2.583754, 1.164774, 0.1714133, -0.8459385],
        [-0.4491472, -1.845393, 1.909307, -0.06228679, -0.6613483],
        [-0.02809477, -2.271957, 1.598175, 0.04297632, -0.7679892],
    ],
    "sgd weight decay": [
        [0.935896, -2.17186, 0.6034672, 0.283724, -0.7419649],
        [0.691615, -2.372524, 0.8945586, 0.222405, -0.7911358],
        [-0.2812657, -2.015183, 1.760808, -0.021554, -0.6988455],
        [-0.08454314, -2.012816, 1.549143, 0.02689885, -0.6953427],
    ],
    "sgd clipnorm": [
        [0.9729651, -2.083185, 0.5484707, 0.285224, -0.7454649],
        [0.9055843, -2.100481, 0.6203086, 0.238622, -0.7574273],
        [0.8782867, -1.904015, 0.596979, 0.2227939, -0.6452749],
        [0.971759, -2.083253, 0.5496944, 0.2845593, -0.746075],
    ],
    "sgd clipvalue": [
        [0.96, -2.04, 0.54, 0.285224, -0.74],
        [0.92, -2.08, 0.58, 0.245224, -0.7519625],
        [0.891776, -1.96, 0.5566902, 0.2325563, -0.6498062],
        [0.931776, -2.08, 0.5166902, 0.2845135, -0.7405623],
    ],
    "sgd global clipnorm": [
        [0.9735891, -2.081264, 0.5473518, 0.2933973, -0.7203161],
        [0.9072048, -2.098305, 0.6181273, 0.2768012, -0.7245762],
        [0.880832, -1.906579, 0.5950946, 0.270208, -0.6766449],
        [0.9723955, -2.081451, 0.5485936, 0.2930989, -0.7203628],
    ],
    "adam": [
        [0.9000012, -2.099999, 0.599999, 0.2000028, -0.7999986],
        [0.8088229, -2.18374, 0.6971817, 0.108825, -0.8837392],
        [0.5926937, -2.134194, 0.8930588, -0.1073034, -0.8341936],
        [0.6188821, -2.13028, 0.8673277, -0.08111519, -0.8302799],
    ],
    "adam betas": [
        [0.9050786, -2.098291, 0.5971023, 0.2176287, -0.7934968],
        [0.8047587, -2.168284, 0.6995092, 0.1218996, -0.8600264],
        [0.6540764, -1.982539, 0.7999944, -0.02325119, -0.68039],
        [0.8271294, -2.086641, 0.6580729, 0.1449073, -0.7818757],
    ],
    "adam weight decay": [
        [0.8950012, -2.089999, 0.597499, 0.1985028, -0.7964987],
        [0.7993479, -2.16329, 0.6916942, 0.1063324, -0.8762567],
        [0.5726557, -2.081398, 0.8759015, -0.1100156, -0.813574],
        [0.5901869, -2.0467, 0.8372711, -0.08229557, -0.7977976],
    ],
    "adamw": [
        [0.8996012, -2.099199, 0.599799, 0.1998828, -0.7997186],
        [0.8080631, -2.1821, 0.6967418, 0.108625, -0.8831393],
        [0.5910741, -2.129932, 0.8916752, -0.1075242, -0.8325296],
        [0.6165445, -2.123486, 0.8648885, -0.08121574, -0.8276397],
    ],
    "adamw decay": [
        [0.890003, -2.079998, 0.594998, 0.1970028, -0.7929986],
        [0.7870975, -2.139954, 0.6882061, 0.1038549, -0.8688092],
        [0.5451081, -2.030037, 0.8609533, -0.1117871, -0.7974923],
        [0.5519483, -1.965783, 0.812641, -0.0821173, -0.770436],
    ],
    "rmsprop": [
        [0.6837727, -2.316228, 0.8162276, -0.01622054, -1.016227],
        [0.380948, -2.400742, 1.098408, -0.3190446, -1.100741],
        [0.2908142, -1.856486, 1.055429, -0.4091783, -0.556486],
        [0.5307289, -2.240201, 0.9188337, -0.1692638, -0.9402008],
    ],
    "rmsprop momentum": [
        [0.7779765, -2.223438, 0.7231106, 0.09829941, -0.9209505],
        [0.4519845, -2.398207, 1.036391, -0.2154182, -1.09367],
        [-0.02438298, -1.947791, 1.35552, -0.6798265, -0.6457235],
        [0.3472503, -2.18237, 1.045028, -0.308719, -0.8793193],
    ],
    "rmsprop centered": [
        [0.6718446, -2.332775, 0.8316963, 0.02863944, -1.02472],
        [0.3436036, -2.423722, 1.141873, -0.2922246, -1.113299],
        [0.2218608, -1.871007, 1.120901, -0.4113991, -0.5671455],
        [0.4624153, -2.258018, 0.9835635, -0.1725358, -0.9514657],
    ],
    "rmsprop centered momentum": [
        [0.6708447, -2.330775, 0.8311963, 0.02833945, -1.02402],
        [0.04659295, -2.718889, 1.439068, -0.5367775, -1.403823],
        [-2.054082, -2.58835, 3.213288, -2.48368, -1.267629],
        [-2.656494, -2.697022, 3.645203, -2.981301, -1.372583],
    ],
    "sgd exponential": [
        [0.940896, -2.181859, 0.6059672, 0.285224, -0.7454649],
        [0.8090857, -2.215694, 0.7464964, 0.2522714, -0.7539236],
        [0.7471744, -2.05224, 0.7662873, 0.2367936, -0.71306],
        [0.7906539, -2.098262, 0.7346669, 0.2476635, -0.7245654],
    ],
    "sgd piecewise": [
        [0.940896, -2.181859, 0.6059672, 0.285224, -0.7454649],
        [0.7544882, -2.229709, 0.8047054, 0.238622, -0.7574273],
        [0.7228318, -2.005405, 0.7785609, 0.230708, -0.7013512],
        [0.747538, -2.045725, 0.7642447, 0.2368845, -0.7114312],
    ],
    "adam cosine": [
        [0.9000012, -2.099999, 0.599999, 0.2000028, -0.7999986],
        [0.81432, -2.178692, 0.6913227, 0.1143219, -0.8786906],
        [0.68244, -2.165266, 0.8156663, -0.01755756, -0.8652651],
        [0.6852098, -2.16312, 0.8125429, -0.01478771, -0.8631191],
    ],
}

ids = pytest.mark.parametrize("case", CASES)


def start() -> dict[tuple[str, str], np.ndarray]:
    return dict(zip(KEYS, (np.array([1.0, -2, 0.5], np.float32), np.array([[0.3, -0.7]], np.float32)), strict=True))


def sine_gradients(step: int) -> dict[tuple[str, str], list[np.ndarray]]:
    """What Keras was given, too."""
    arrays = (
        (np.sin(1.7 * np.arange(n) + 0.9 * step + 0.3) * scale).astype(np.float32).reshape(shape)
        for n, scale, shape in ((3, 2.0, (3,)), (2, 0.5, (1, 2)))
    )
    return {key: [array] for key, array in zip(KEYS, arrays, strict=True)}


def check_trajectory(optimizer: Optimizer, expected: list[list[float]]) -> None:
    """Eight steps against the recorded ones. test_negative_controls_training.py uses it, too."""
    params, seen = start(), []
    for step in range(8):
        optimizer.apply(params, sine_gradients(step))
        if step in (0, 1, 4, 7):
            seen.append(np.concatenate([p.ravel() for p in params.values()]))
    # Keras computes Adam's 1 - beta_2**t in float32, with an error of 3e-5 at first: of a step of 0.1 that is 3e-6.
    np.testing.assert_allclose(seen, expected, rtol=1e-5, atol=5e-6)


@ids
def test_trajectories_of_keras(case):
    check_trajectory(CASES[case](), KERAS[case])


def test_every_optimizer_has_a_trajectory():
    known = {cls for cls in vars(optimizers).values() if isinstance(cls, type) and issubclass(cls, Optimizer)}
    recorded = {getattr(optimizers, case.name) for case in OPTIMIZERS.values()}
    assert {type(make()) for make in CASES.values()} | recorded == known - {Optimizer, MultiOptimizer}


# --- Formulas -----------------------------------------------------------------------------------------------


def test_the_old_decay():
    """learning_rate / (1 + decay * step), step counted from 0, as in Keras 1 and 2."""
    optimizer, p = SGD(0.5, decay=0.1), np.array([10.0])
    expected = 10.0
    for step in range(5):
        assert optimizer.learning_rate == pytest.approx(0.5 / (1 + 0.1 * step))
        optimizer.apply({KEYS[0]: p}, {KEYS[0]: [np.array([2.0])]})
        expected -= 0.5 / (1 + 0.1 * step) * 2
    np.testing.assert_allclose(p, [expected])


def test_adam_by_the_paper():
    """Algorithm 1, with the corrected moments written out; they are not written back."""
    optimizer, p, g = Adam(0.01, epsilon=0), random((7,), 1), random((7,), 2)
    expected, m, v = p.copy(), np.zeros(7), np.zeros(7)
    for t in range(1, 6):
        gradient = g * t
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        expected -= 0.01 * (m / (1 - 0.9**t)) / np.sqrt(v / (1 - 0.999**t))
        optimizer.apply({KEYS[0]: p}, {KEYS[0]: [gradient.copy()]})
        np.testing.assert_allclose(p, expected, rtol=1e-12)
        means = optimizer.means_of(KEYS[0], optimizer.state[KEYS[0]])
        np.testing.assert_allclose([means["m"], means["v"]], [m, v], rtol=1e-12)
        sums = optimizer.state_of(KEYS[0], means)
        np.testing.assert_allclose(sums, optimizer.state[KEYS[0]], rtol=1e-12)


@pytest.mark.parametrize("make", [Adam, lambda *args: Adam(*args, amsgrad=True), Nadam])
def test_another_beta_between_two_steps(make):
    """`state` holds sums, whose share in the means is another one then: they are changed for it. Schedules do that."""
    optimizer, p, q = make(0.01), random((7,), 1), random((7,), 1)
    m, v, largest = np.zeros(7), np.zeros(7), np.zeros(7)
    product = 1.0
    for t in range(1, 7):
        g = random((7,), t)
        optimizer.beta_1, optimizer.beta_2 = b1, b2 = 0.9 - 0.05 * t, 0.99 + 0.001 * t
        optimizer.apply({KEYS[0]: p}, {KEYS[0]: [g.copy()]})
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        largest = np.maximum(v, largest)
        if make is Nadam:
            now, then = (b1 * (1 - 0.5 * 0.96**k) for k in (t, t + 1))
            product = np.prod([b1 * (1 - 0.5 * 0.96**k) for k in range(1, t + 1)])
            ahead = then * m / (1 - product * then) + (1 - now) * g / (1 - product)
            q -= 0.01 * ahead / (np.sqrt(v / (1 - b2**t)) + 1e-7)
        else:
            spread = largest if optimizer.amsgrad else v
            q -= 0.01 * np.sqrt(1 - b2**t) / (1 - b1**t) * m / (np.sqrt(spread) + 1e-7)
        np.testing.assert_allclose(p, q, rtol=1e-10)


def test_nadam_goes_on_from_any_step():
    """The product of the weights so far is kept from step to step, and found anew where the count is another one."""
    through, p, q = Nadam(0.01), random((5,), 1), random((5,), 1)
    for t in range(8):
        if t == 4:
            resumed = Nadam(0.01)
            resumed.state, resumed.iterations = {KEYS[0]: [s.copy() for s in through.state[KEYS[0]]]}, 4
            q[...] = p
        through.apply({KEYS[0]: p}, {KEYS[0]: [random((5,), t)]})
        if t >= 4:
            resumed.apply({KEYS[0]: q}, {KEYS[0]: [random((5,), t)]})
            np.testing.assert_array_equal(p, q)
    through.iterations = 4  # back, as NaN's guard does it
    assert through._weights(4) == np.prod([through._weight(k) for k in range(1, 5)])


def test_clipping_leaves_small_gradients_alone():
    for clip in ({"clipnorm": 5.0}, {"clipvalue": 4.0}, {"global_clipnorm": 5.5}):
        p, q = np.zeros(2), np.zeros(1)
        grads = {KEYS[0]: [np.array([3.0, -4.0])], KEYS[1]: [np.array([1.0])]}
        SGD(1.0, **clip).apply({KEYS[0]: p, KEYS[1]: q}, grads)
        np.testing.assert_allclose([*p, *q], [-3, 4, -1], rtol=1e-12)


def test_clipping_by_hand():
    results = {}
    for clip in ({"clipnorm": 1.0}, {"clipvalue": 0.5}, {"global_clipnorm": 1.0}):
        p, q = np.zeros(2), np.zeros(1)
        grads = {KEYS[0]: [np.array([3.0, -4.0])], KEYS[1]: [np.array([12.0])]}
        SGD(1.0, **clip).apply({KEYS[0]: p, KEYS[1]: q}, grads)
        results[next(iter(clip))] = [*-p, *-q]
    np.testing.assert_allclose(results["clipnorm"], [0.6, -0.8, 1.0])  # each array by its own length, 5 and 12
    np.testing.assert_allclose(results["clipvalue"], [0.5, -0.5, 0.5])
    np.testing.assert_allclose(results["global_clipnorm"], [3 / 13, -4 / 13, 12 / 13])  # all by their common one, 13


def test_clipping_sees_the_sum_of_the_shards():
    p = np.zeros(2)
    shares = [np.array([5.0, 0.0]), np.array([-4.0, 0.0]), np.array([-1.0, 0.5])]
    SGD(1.0, clipnorm=1.0).apply({KEYS[0]: p}, {KEYS[0]: shares})
    np.testing.assert_allclose(p, [0, -0.5])


def test_weight_decay_shrinks_before_the_step():
    p = np.array([10.0])
    SGD(0.1, weight_decay=0.5).apply({KEYS[0]: p}, {KEYS[0]: [np.array([1.0])]})
    np.testing.assert_allclose(p, [10 * (1 - 0.1 * 0.5) - 0.1])


# --- Blocks, shards, threads --------------------------------------------------------------------------------


def large(dtype=np.float32) -> dict[tuple[str, str], np.ndarray]:
    """Larger than several blocks, and not a multiple of one; and two small arrays."""
    shapes = ((3 * BLOCK + 17, 1), (5,), (2, 2))
    return {("layer", str(i)): random(shape, i, dtype) for i, shape in enumerate(shapes)}


def trained(optimizer: Optimizer, threads: int | None = None, shares: int = 1, dtype=np.float32):
    params = large(dtype)
    for step in range(3):
        grads = {key: [random(p.shape, 10 * step + i, dtype) for i in range(shares)] for key, p in params.items()}
        if threads is None:
            optimizer.apply(params, grads)
        else:
            with Workers(threads) as workers:
                optimizer.apply(params, grads, workers)
    return params


@ids
def test_blocks_and_threads_give_the_same_bits(case, monkeypatch):
    """One piece, many pieces, many pieces on three threads."""
    blocks = trained(CASES[case]())
    threads = trained(CASES[case](), threads=3)
    monkeypatch.setattr(base, "BLOCK", 1 << 40)
    whole = trained(CASES[case]())
    for key in whole:
        assert whole[key].dtype == np.float32
        np.testing.assert_array_equal(blocks[key], whole[key])
        np.testing.assert_array_equal(threads[key], whole[key])


def test_a_large_parameter_follows_the_plain_formula():
    params, expected = trained(SGD(0.1, momentum=0.9), dtype=np.float64), large(np.float64)
    momentum = dict.fromkeys(expected, 0.0)
    for step in range(3):
        for key, p in expected.items():
            momentum[key] = 0.9 * momentum[key] - 0.1 * random(p.shape, 10 * step)
            expected[key] = p + momentum[key]
    for key in params:
        np.testing.assert_allclose(params[key], expected[key], rtol=1e-12, atol=1e-14)


def test_the_shards_gradients_are_summed():
    whole, shards = large(np.float64), large(np.float64)
    shares = {key: [random(p.shape, 30 + i) for i in range(3)] for key, p in whole.items()}
    Adam().apply(whole, {key: [sum(arrays)] for key, arrays in shares.items()})
    with Workers(2) as workers:
        Adam().apply(shards, shares, workers)
    for key in whole:
        np.testing.assert_allclose(shards[key], whole[key], rtol=1e-12)


@ids
def test_state_is_of_the_parameters_kind(case):
    optimizer = CASES[case]()
    params = start()
    optimizer.apply(params, sine_gradients(0))
    assert optimizer.iterations == 1
    for key, p in params.items():
        assert p.dtype == np.float32
        assert [slot.shape for slot in optimizer.state[key]] == [p.shape] * len(optimizer.slots)
        assert all(slot.dtype == np.float32 for slot in optimizer.state[key])


def test_a_parameter_that_joins_later_starts_with_state_of_zeros():
    optimizer, p, q = Adam(0.1), np.ones(2), np.ones(2)
    optimizer.apply({KEYS[0]: p}, {KEYS[0]: [np.ones(2)]})
    optimizer.apply({KEYS[1]: q}, {KEYS[1]: [np.ones(2)]})
    np.testing.assert_allclose(optimizer.state[KEYS[1]], [[1, 1], [1, 1]])


# --- Configuration ------------------------------------------------------------------------------------------


@ids
def test_config_round_trip(case):
    optimizer = CASES[case]()
    config = json.loads(json.dumps(optimizer.get_config()))
    twin = optimizers.get({"class_name": type(optimizer).__name__, "config": config})
    check_trajectory(twin, KERAS[case])
    assert twin.get_config() == optimizer.get_config()


def test_the_old_decay_survives_its_config():
    optimizer = SGD(0.5, decay=0.1)
    optimizer.iterations = 4
    twin = SGD(**optimizer.get_config())
    assert twin.learning_rate == 0.5 and twin.decay == 0.1


@pytest.mark.parametrize(
    ("name", "kind", "rate"),
    [
        ("sgd", SGD, 0.01),
        ("adam", Adam, 0.001),
        ("adamw", AdamW, 0.001),
        ("rmsprop", RMSprop, 0.001),
        ("Adam", Adam, 0.001),
    ],
)
def test_names_and_default_rates(name, kind, rate):
    optimizer = optimizers.get(name)
    assert type(optimizer) is kind and optimizer.learning_rate == rate


def test_the_rate_can_be_set_and_a_schedule_cannot():
    optimizer = SGD(0.1)
    optimizer.learning_rate = 0.05
    assert optimizer.learning_rate == 0.05 and optimizer.get_config()["learning_rate"] == 0.05
    scheduled = SGD(ExponentialDecay(0.1, 10, 0.5))
    scheduled.iterations = 20
    assert scheduled.learning_rate == pytest.approx(0.025)
    with pytest.raises(InputError, match="follows a schedule"):
        scheduled.learning_rate = 0.1


def test_numbers_of_numpy_are_welcome():
    optimizer = Adam(np.float32(0.25), beta_1=np.float64(0.5), epsilon=0, clipnorm=np.int64(2))
    assert optimizer.learning_rate == 0.25 and optimizer.clipnorm == 2.0
    optimizer.learning_rate = np.float16(0.5)
    assert optimizer.learning_rate == 0.5 and isinstance(optimizer.learning_rate, float)


@pytest.mark.parametrize("make", [lambda: SGD(0.1, momentum=0.9), lambda: Adam(0.1)], ids=["sgd", "adam"])
def test_a_transposed_parameter_is_updated_as_any_other(make):
    rng = np.random.default_rng(0)
    plain, g = rng.standard_normal((3, 4)), rng.standard_normal((3, 4))
    transposed = np.asfortranarray(plain)
    for p in (plain, transposed):
        optimizer = make()
        for _ in range(3):
            optimizer.apply({KEYS[0]: p}, {KEYS[0]: [g.copy()]})
    assert not transposed.flags.c_contiguous
    np.testing.assert_allclose(transposed, plain, rtol=1e-13)  # on a GPU one goes by another kernel


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: optimizers.get("adan"), "did you mean 'adam'"),
        (lambda: Adam(lr=0.1), "unknown name"),
        (lambda: SGD(0.1, clipnrom=1.0), "did you mean 'clipnorm'"),
        (lambda: SGD(-0.1), "learning_rate does not fit"),
        (lambda: SGD(math.nan), "learning_rate does not fit"),
        (lambda: SGD("fast"), "learning_rate does not fit"),
        (lambda: SGD(0.1, momentum=1.5), "momentum does not fit"),
        (lambda: SGD(0.1, momentum="a"), "momentum does not fit"),
        (lambda: SGD(0.1, momentum=None), "momentum does not fit"),
        (lambda: SGD(True), "learning_rate does not fit"),
        (lambda: SGD(0.1, decay=-1), "decay does not fit"),
        (lambda: SGD(ExponentialDecay(0.1, 10, 0.9), decay=1e-3), "does not fit|two rules"),
        (lambda: AdamW(weight_decay=None), "weight_decay does not fit"),
        (lambda: Adam(loss_scale_factor=2.0), "does not fit|not used here"),
        (lambda: Adam(gradient_accumulation_steps=1), "gradient_accumulation_steps does not fit"),
        (lambda: Adam(ema_momentum=1.5), "ema_momentum does not fit"),
        (lambda: Adam(ema_overwrite_frequency=0), "ema_overwrite_frequency does not fit"),
        (lambda: Lion(beta_1=0.0), "beta_1 does not fit"),
        (lambda: SGD(None), "learning_rate does not fit"),
        (lambda: SGD([0.1]), "learning_rate does not fit"),
        (lambda: SGD(nesterov="yes"), "nesterov does not fit"),
        (lambda: Muon(ns_steps=0), "ns_steps does not fit"),
        (lambda: SGD(0.1, clipnorm=-1.0), "clipnorm does not fit"),
        (lambda: SGD(0.1, clipvalue=0), "clipvalue does not fit"),
        (lambda: SGD(0.1, global_clipnorm="1"), "global_clipnorm does not fit"),
        (lambda: AdamW(weight_decay=-0.1), "weight_decay does not fit"),
        (lambda: Adam(beta_1=2), "beta_1 does not fit"),
        (lambda: Adam(beta_2=1.0), "beta_2 does not fit"),
        (lambda: Adam(epsilon=-1e-7), "epsilon does not fit"),
        (lambda: RMSprop(rho=1), "rho does not fit"),
        (lambda: RMSprop(momentum=math.inf), "momentum does not fit"),
    ],
)
def test_what_is_refused(make, problem):
    with pytest.raises(InputError, match=problem) as error:
        make()
    assert isinstance(error.value, UnknownNameError) == ("fit" not in problem)


# --- After construction -------------------------------------------------------------------------------------


def model(seed: int = 0) -> Sequential:
    set_random_seed(seed)
    return Sequential([Input((4,)), Dense(5, activation="tanh"), Dense(3, activation="softmax")])


X, Y = random((24, 4), 1, np.float32), np.arange(24) % 3


def fitted(made: Sequential, optimizer: Optimizer | str, **fit) -> list[float]:
    made.compile(optimizer, "sparse_categorical_crossentropy")
    return made.fit(X, Y, **{"epochs": 2, "batch_size": 8, "shuffle": False, "verbose": 0, **fit}).history["loss"]


def test_an_optimizer_trains_one_model():
    """It brought its moments and its count along into a second one, and said nothing."""
    optimizer, first = Adam(0.1), model()
    both = fitted(first, optimizer) + fitted(first, optimizer)  # the same model, compiled again, goes on
    assert both == pytest.approx(fitted(model(), Adam(0.1), epochs=4))
    with pytest.raises(InputError, match="has trained another model"):
        model().compile(optimizer, "sparse_categorical_crossentropy")
    untrained = SGD(0.1)
    one, other = model(), model()
    one.compile(untrained, "sparse_categorical_crossentropy")
    fitted(other, untrained)
    with pytest.raises(InputError, match="has trained another model"):
        one.fit(X, Y, verbose=0)
    copied = copy.deepcopy(optimizer)  # somebody who means it may
    assert copied.iterations == optimizer.iterations
    model().compile(copied, "sparse_categorical_crossentropy")


def test_the_old_name_of_the_rate_and_the_way_of_keras_to_set_it():
    optimizer = SGD(0.1)
    optimizer.lr = 0.0
    assert optimizer.learning_rate == optimizer.lr == 0.0
    optimizer.learning_rate.assign(0.3)
    assert optimizer.learning_rate == 0.3
    assert optimizer.learning_rate.value == optimizer.learning_rate.numpy() == 0.3
    assert type(copy.deepcopy(optimizer.learning_rate)) is float
    for bad in ("a", None, -1):
        with pytest.raises(InputError, match="learning_rate does not fit"):
            optimizer.lr = bad
        with pytest.raises(InputError, match="learning_rate does not fit"):
            optimizer.learning_rate.assign(bad)


def test_momentum_can_be_switched_on_and_off():
    """ValueError: not enough values to unpack. Keras goes on as an optimizer made with momentum would from then on."""
    p, expected, m = np.array([1.0]), 1.0, 0.0
    optimizer = SGD(0.1)
    for step, momentum in enumerate([0.0, 0.9, 0.9, 0.0, 0.9]):
        optimizer.momentum = momentum
        optimizer.apply({KEYS[0]: p}, {KEYS[0]: [np.array([1.0 + step])]})
        m = momentum * m - 0.1 * (1 + step) if momentum else 0.0
        expected += m if momentum else -0.1 * (1 + step)
        np.testing.assert_allclose(p, [expected])
    other = RMSprop(0.1, momentum=0.5)
    other.apply({KEYS[0]: p}, {KEYS[0]: [np.array([1.0])]})
    momentum = 0.1 / np.sqrt(0.1 + 1e-7)
    other.centered = True  # its array comes between the two
    other.apply({KEYS[0]: p}, {KEYS[0]: [np.array([1.0])]})
    after = dict(zip(other.slots, other.state[KEYS[0]], strict=True))
    assert float(after["v"][0]) == pytest.approx(0.1 + 0.9 * 0.1)
    assert float(after["momentum"][0]) == pytest.approx(0.5 * momentum + 0.1 / np.sqrt(0.19 - 0.1**2 + 1e-7))
    with pytest.raises(InputError, match="momentum does not fit"):
        optimizer.momentum = "a"


def test_arguments_by_position_are_those_of_keras():
    optimizer = SGD(0.1, 0.9, True, 0.004, None, 0.5)
    assert (optimizer.weight_decay, optimizer.decay, optimizer.clipvalue) == (0.004, 0.0, 0.5)
    assert AdamW(0.1, 0.2, 0.8, 0.9, 1e-3, True, 2.0).clipnorm == 2.0
    assert Adam(0.1, 0.8, 0.9, 1e-3, True, 0.3).weight_decay == 0.3


# --- Options --------------------------------------------------------------------------------------------------


def test_accumulated_batches_are_as_one_large_batch():
    small = model()
    fitted(small, SGD(0.1, gradient_accumulation_steps=3), batch_size=8, epochs=2)
    large = model()
    fitted(large, SGD(0.1), batch_size=24, epochs=2)
    for a, b in zip(small.get_weights(), large.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_the_average_takes_the_weights_place_when_fit_ends():
    seen = []

    class Watch(Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(self.model.get_weights())

    made = model()
    fitted(made, SGD(0.1, use_ema=True, ema_momentum=0.5), callbacks=[Watch()])
    average = seen[0]
    for weights in seen[1:]:
        average = [0.5 * a + 0.5 * w for a, w in zip(average, weights, strict=True)]
    for a, b in zip(made.get_weights(), average, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda: SGD(0.1, use_ema=True, gradient_accumulation_steps=2), lambda: Adam(0.1, amsgrad=True),
        lambda: Muon(0.01), lambda: MultiOptimizer(OptimizerMap(Adam(0.1), {"dense_1/.*": SGD(0.2, momentum=0.9)})),
    ],
    ids=["ema and accumulation", "amsgrad", "muon", "several"],
)  # fmt: skip
def test_a_saved_optimizer_goes_on(make, tmp_path):
    made, optimizer = model(), make()
    fitted(made, optimizer, epochs=1)
    made.save(tmp_path / "m.zip")
    loaded = load_model(tmp_path / "m.zip")
    assert loaded.optimizer.iterations == made.optimizer.iterations == 3
    for other in (made, loaded):
        other.fit(X, Y, batch_size=8, shuffle=False, verbose=0)
        other.trace(X[:2], Y[:2])
    for a, b in zip(made.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_weight_decay_can_leave_parameters_alone():
    optimizer = SGD(0.1, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    params = start()
    optimizer.apply(params, {key: [np.zeros_like(p)] for key, p in params.items()})
    np.testing.assert_allclose(params[KEYS[0]], start()[KEYS[0]] * 0.95, rtol=1e-6)
    np.testing.assert_array_equal(params[KEYS[1]], start()[KEYS[1]])
    with pytest.raises(InputError, match="by their names"):
        optimizer.exclude_from_weight_decay(["bias"])


# --- Muon and several optimizers ----------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (27, 16)])
def test_five_steps_bring_all_singular_values_to_about_1(shape):
    g = random(shape, 4)
    u, s, v = np.linalg.svd(g, full_matrices=False)
    found = orthogonal(g)
    assert s.max() / s.min() > 1.5
    np.testing.assert_allclose(np.linalg.svd(found, compute_uv=False), 1, atol=0.35)
    np.testing.assert_allclose(np.diag(u.T @ found @ v.T), np.linalg.svd(found, compute_uv=False)[np.argsort(
        -np.diag(u.T @ found @ v.T)).argsort()], atol=1e-9)  # the same directions  # fmt: skip
    exact = orthogonal(g, 30, 1.5, -0.5, 0.0)  # Newton and Schulz' own numbers, to the end
    np.testing.assert_allclose(exact, u @ v, atol=1e-9)
    np.testing.assert_allclose(orthogonal(1e-8 * g), found, atol=1e-3)  # the size of a gradient says nothing


def test_muon_takes_a_convolution_kernel_as_the_matrix_of_im2col():
    kernel, matrix = random((3, 3, 4, 8), 1), random((3, 3, 4, 8), 1).reshape(36, 8)
    for p in (kernel, matrix):
        Muon(0.1).apply({("conv2d_1", "w"): p}, {("conv2d_1", "w"): [random((36, 8), 2).reshape(p.shape)]})
    np.testing.assert_allclose(kernel.reshape(36, 8), matrix, rtol=1e-12)
    normal = random((3, 3, 4, 8), 1)
    Muon(0.0, normalize=True, weight_decay=None).apply({("c", "w"): normal}, {("c", "w"): [random(normal.shape, 2)]})
    assert np.sqrt((normal**2).sum()) == pytest.approx(np.sqrt(8))


def test_layers_can_be_excluded_from_muon():
    p, q, g = random((4, 3), 1), random((4, 3), 1), random((4, 3), 2)
    Muon(0.1, exclude_layers=["head"]).apply({("head", "w"): p}, {("head", "w"): [g.copy()]})
    AdamW(0.1).apply({("head", "w"): q}, {("head", "w"): [g.copy()]})
    np.testing.assert_allclose(p, q, rtol=1e-12)


def test_each_parameter_goes_by_its_own_optimizer():
    chosen = OptimizerMap(SGD(0.1), {"dense_2/kernel": Adam(0.01), ".*/bias": SGD(6.4, momentum=0.5)})
    params = {(layer, name): random((3,), i) for i, (layer, name) in enumerate(
        [("dense_1", "w"), ("dense_1", "b"), ("dense_2", "w"), ("dense_2", "b")])}  # fmt: skip
    alone = {key: p.copy() for key, p in params.items()}
    rules = [SGD(0.1), SGD(6.4, momentum=0.5), Adam(0.01), SGD(6.4, momentum=0.5)]
    optimizer = MultiOptimizer(chosen)
    for step in range(3):
        grads = {key: random((3,), 10 * step + i) for i, key in enumerate(params)}
        optimizer.apply(params, {key: [g.copy()] for key, g in grads.items()})
        for rule, (key, p) in zip(rules, alone.items(), strict=True):
            rule.apply({key: p}, {key: [grads[key].copy()]})
    for key, p in params.items():
        np.testing.assert_array_equal(p, alone[key])
    assert optimizer.iterations == 3 and optimizer.learning_rate == 0.1
    assert optimizer.slots_of(("dense_2", "w")) == ("m_sum", "v_sum") and optimizer.slots_of(("dense_1", "w")) == ()
    assert [type(rule) for rule in optimizer.optimizers] == [Adam, SGD, SGD]  # as in Keras: the default one last
    assert optimizer.optimizers[-1].learning_rate == 0.1


def test_patterns_are_added_as_items():
    chosen = OptimizerMap(SGD(0.1))
    chosen[".*/bias"] = adam = Adam()
    assert chosen["dense_1/bias"] is adam and chosen["dense_1/kernel"] is chosen.default_optimizer
    with pytest.raises(InputError, match="dense_2 is not a single optimizer"):
        chosen["dense_2"] = "adam"
    assert chosen["dense_2"] is chosen.default_optimizer


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: MultiOptimizer({"a": SGD()}), "not an OptimizerMap"),
        (lambda: OptimizerMap("adam"), "default_optimizer is not a single optimizer"),
        (lambda: OptimizerMap(SGD(), {"a": MultiOptimizer(OptimizerMap(SGD()))}), "a is not a single optimizer"),
        (lambda: OptimizerMap(SGD(), {"a.*": Adam(), ".*b": SGD()})["ab"], "several patterns fit"),
        (lambda: setattr(MultiOptimizer(OptimizerMap(SGD())), "learning_rate", 0.1), "no rate of its own"),
    ],
)
def test_maps_that_cannot_be(make, problem):
    with pytest.raises(InputError, match=problem):
        make()
