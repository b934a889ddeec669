"""to_categorical, seeds, and minicnn's own generator."""

import random
import subprocess
import sys

import numpy as np
import pytest

import minicnn.random
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
