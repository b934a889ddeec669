import numpy as np
import pytest
from helpers import assert_same, check_dropout, noncontiguous, random

from minicnn.kernels import reference
from minicnn.kernels.dropout import dropout_backward, dropout_forward, dropout_mask

SHAPES = [(4, 7), (1, 5), (3, 4, 5, 2), (6, 1)]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("rate", [0.2, 0.5])
@pytest.mark.parametrize("shape", SHAPES)
def test_dropout(shape, rate, dtype):
    x = random(shape, 1, dtype)
    mask = dropout_mask(shape, rate, seed=1)
    assert mask.any()
    check_dropout(dropout_forward, dropout_backward, x, mask, rate)
    check_dropout(dropout_forward, dropout_backward, noncontiguous(x), mask, rate)
    if dtype == np.float64:
        check_dropout(reference.dropout_forward, reference.dropout_backward, x, mask, rate)


@pytest.mark.cpu
@pytest.mark.parametrize("shape", SHAPES)
def test_mask_is_boolean_and_contiguous(shape):
    mask = dropout_mask(shape, 0.5, seed=2)
    assert mask.dtype == bool
    assert mask.shape == shape
    assert mask.flags.c_contiguous


@pytest.mark.cpu
@pytest.mark.parametrize("rate", [0.1, 0.25, 0.5, 0.9])
def test_the_rate_is_kept(rate):
    """200 000 numbers: the share that is kept lies within five standard deviations of 1 - rate."""
    mask = dropout_mask((200, 1000), rate, seed=3)
    deviation = np.sqrt(rate * (1 - rate) / mask.size)
    assert abs(mask.mean() - (1 - rate)) < 5 * deviation
    per_sample = np.sqrt(rate * (1 - rate) / 1000)
    assert np.abs(mask.mean(axis=1) - (1 - rate)).max() < 6 * per_sample
    per_feature = np.sqrt(rate * (1 - rate) / 200)
    assert np.abs(mask.mean(axis=0) - (1 - rate)).max() < 6 * per_feature


@pytest.mark.cpu
def test_neighbours_are_independent():
    mask = dropout_mask((400, 500), 0.5, seed=4)
    for distance in 1, 2, 3, 4, 8, 500:
        flat = mask.ravel()
        agree = (flat[:-distance] == flat[distance:]).mean()
        assert abs(agree - 0.5) < 5 * 0.5 / np.sqrt(flat.size)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_rate_0_keeps_everything(dtype):
    mask = dropout_mask((5, 100), 0.0, seed=5)
    assert mask.all()
    x = random((5, 100), 6, dtype)
    np.testing.assert_array_equal(dropout_forward(x, mask, 0.0), x)
    np.testing.assert_array_equal(dropout_backward(x, mask, 0.0), x)


@pytest.mark.cpu
@pytest.mark.parametrize("sample_shape", [(3,), (4,), (101,), (5, 6, 2), (1,)])
@pytest.mark.parametrize("rate", [0.3, 0.5])
def test_a_samples_mask_depends_on_the_seed_and_its_index_only(sample_shape, rate):
    whole = dropout_mask((8, *sample_shape), rate, seed=6)
    for start, stop in [(0, 4), (4, 8), (3, 4), (7, 8), (1, 6)]:
        part = dropout_mask((stop - start, *sample_shape), rate, seed=6, first=start)
        np.testing.assert_array_equal(part, whole[start:stop])


@pytest.mark.cpu
def test_same_seed_same_mask_and_other_seed_other_mask():
    masks = [dropout_mask((4, 200), 0.5, seed=seed) for seed in (7, 7, 8, 2**40 + 7)]
    np.testing.assert_array_equal(masks[0], masks[1])
    for other in masks[2:]:
        assert 0.4 < (masks[0] == other).mean() < 0.6


@pytest.mark.cpu
def test_samples_differ_within_a_batch():
    mask = dropout_mask((6, 200), 0.5, seed=9)
    for i in range(6):
        for j in range(i):
            assert 0.3 < (mask[i] == mask[j]).mean() < 0.7


@pytest.mark.cpu
def test_seeds_in_a_row_do_not_repeat_each_others_samples():
    """Steps count their seeds up: sample 1 of one step must not be sample 0 of the next."""
    first, second = (dropout_mask((6, 200), 0.5, seed=seed) for seed in (10, 11))
    for i in range(6):
        for j in range(6):
            assert 0.3 < (first[i] == second[j]).mean() < 0.7


@pytest.mark.parametrize("rate", [0.2, 0.5, 0.8])
def test_the_expectation_is_preserved(rate):
    x = np.ones((400, 500))
    y = dropout_forward(x, dropout_mask(x.shape, rate, seed=12), rate)
    assert abs(y.mean() - 1) < 5 * np.sqrt(rate / (1 - rate) / x.size)
    assert_same(y.max(), 1 / (1 - rate), 1e-12)
