"""to_categorical, seeds, and minicnn's own generator."""

import random
import subprocess
import sys

import numpy as np
import pytest

import minicnn.random
from minicnn import utils
from minicnn.errors import InputError
from minicnn.utils import set_random_seed, to_categorical


def test_one_hot_rows():
    y = to_categorical([0, 2, 1])
    assert y.dtype == np.float32
    np.testing.assert_array_equal(y, [[1, 0, 0], [0, 0, 1], [0, 1, 0]])


@pytest.mark.parametrize(
    ("x", "num_classes", "shape"),
    [([[0], [2]], 3, (2, 3)), ([[0, 2]], 3, (1, 2, 3)), ([1], 5, (1, 5)), (1, 3, (3,)), ([], 4, (0, 4))],
)
def test_shapes_are_those_of_keras(x, num_classes, shape):
    assert to_categorical(x, num_classes).shape == shape


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32, bool])
def test_label_dtypes(dtype):
    np.testing.assert_array_equal(to_categorical(np.array([[1], [0]], dtype)), [[0, 1], [1, 0]])


@pytest.mark.parametrize(
    ("x", "num_classes", "words"),
    [
        ([0, 10], 10, "labels from 0 to 9"),
        ([-1, 0], None, "from -1 to 0"),
        ([0.5, 1.0], None, "not whole numbers"),
        ([float("nan")], None, "not whole numbers"),
        (["cat", "dog"], None, "return_inverse"),
        ([], None, "there are no labels"),
    ],
)
def test_labels_that_cannot_be(x, num_classes, words):
    with pytest.raises(InputError, match=words):
        to_categorical(x, num_classes)


def draws():
    ours = [minicnn.random.new_generator().random() for _ in range(2)]
    return [random.random(), np.random.rand(), *ours]


def test_set_random_seed_repeats_all_three_sources():
    set_random_seed(21)
    first = draws()
    set_random_seed(21)
    assert draws() == first
    set_random_seed(22)
    assert all(a != b for a, b in zip(draws(), first, strict=True))
    assert first[2] != first[3]  # generators handed out one after the other differ


@pytest.mark.parametrize("seed", [-1, 2**32, 1.5, "21", None])
def test_impossible_seeds(seed):
    with pytest.raises(InputError, match="whole number"):
        set_random_seed(seed)


def test_own_generator_leaves_numpys_global_state_alone():
    code = (
        "import numpy as np; np.random.seed(1); before = np.random.get_state()[1].copy()\n"
        "import minicnn.random, minicnn.utils\n"
        "minicnn.random.seed(5); minicnn.random.new_generator().random()\n"
        "assert (np.random.get_state()[1] == before).all()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unseeded_generators_differ_between_processes():
    code = "import minicnn.random; print(minicnn.random.new_generator().random())"
    command = [sys.executable, "-c", code]
    first, second = (subprocess.run(command, check=True, capture_output=True).stdout for _ in range(2))
    assert first != second


# ---- normalize, split_dataset ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("axis", "order"), [(-1, 2), (0, 2), (1, 1), (-1, 3), (0, np.inf)])
def test_normalize(axis, order):
    """As NumPy's own norm has it, and Keras for NumPy arrays (which takes the last axis where axis=0 is asked for)."""
    x = np.random.default_rng(0).standard_normal((4, 5))
    x[1] = 0
    norm = np.linalg.norm(x, order, axis, keepdims=True)
    np.testing.assert_allclose(utils.normalize(x, axis, order), x / np.where(norm > 0, norm, 1), rtol=1e-12)
    assert utils.normalize(x.astype("f4"), axis, order).dtype == np.float32
    large = utils.normalize(np.full((2, 3), 3e30, "f4"))  # whose squares are infinite
    np.testing.assert_allclose(large, 3**-0.5, rtol=1e-6)
    np.testing.assert_allclose(utils.normalize([[3, 4]]), [[0.6, 0.8]])


@pytest.mark.parametrize("options", [
    {"x": "a"}, {"x": [[1.0]], "axis": 2}, {"x": [[1.0]], "order": 0}, {"x": [[1.0]], "order": "a"},
])  # fmt: skip
def test_what_cannot_be_normalized(options):
    with pytest.raises(InputError):
        utils.normalize(**options)


@pytest.mark.parametrize(("sizes", "lengths"), [
    ({"left_size": 0.8}, (16, 4)), ({"right_size": 4}, (16, 4)), ({"left_size": 5, "right_size": 0.25}, (5, 5)),
    ({"left_size": 0.2, "right_size": 0.8, "shuffle": True, "seed": 1}, (4, 16)),
])  # fmt: skip
def test_split_dataset(sizes, lengths):
    x, y = np.arange(40).reshape(20, 2), np.arange(20) * 2
    left, right = utils.split_dataset((x, y), **sizes)
    assert isinstance(left, tuple) and (len(left[0]), len(right[0])) == lengths
    for part in (left, right):
        np.testing.assert_array_equal(part[0][:, 0], part[1])  # x and y stay together
    if sum(lengths) == 20:
        assert sorted([*left[1], *right[1]]) == sorted(y)
    again = utils.split_dataset(x, **sizes)
    np.testing.assert_array_equal(again[0], left[0])


@pytest.mark.parametrize(("dataset", "sizes"), [
    (np.zeros(4), {}), (np.zeros(4), {"left_size": 4}), (np.zeros(4), {"left_size": 3, "right_size": 2}),
    (np.zeros(4), {"left_size": -1}), (np.zeros(4), {"left_size": 1.5}), (np.zeros(4), {"left_size": "a"}),
    ((np.zeros(4), np.zeros(3)), {"left_size": 2}), ((x for x in [1]), {"left_size": 1}),
    (np.zeros(4), {"left_size": 2, "preferred_backend": "torch"}),
    (np.zeros(4), {"left_size": 2, "shuffle": True, "seed": -1}),
])  # fmt: skip
def test_what_cannot_be_split(dataset, sizes):
    with pytest.raises(InputError):
        utils.split_dataset(dataset, **sizes)
