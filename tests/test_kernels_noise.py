"""Normal noise: made as by whole numbers of Python, distributed as it should be, the same however a batch is cut."""

from __future__ import annotations

import numpy as np
import pytest

from minicnn.kernels import gaussian_noise, reference


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(
    ("shape", "seed", "first"), [((3, 4, 2), 0, 0), ((2, 5), 2**40, 7), ((0, 3), 1, 0), ((4,), 9, 2)]
)
def test_each_number_follows_from_its_place(shape, seed, first, dtype):
    x = np.zeros(shape, dtype)
    noise = gaussian_noise(x, seed, first)
    assert noise.dtype == dtype and noise.flags.c_contiguous
    np.testing.assert_allclose(noise, reference.gaussian_noise(x, seed, first), rtol=1e-6, atol=1e-7)


def test_a_part_of_a_batch_has_the_noise_of_the_batch():
    x = np.zeros((6, 3, 2))
    np.testing.assert_array_equal(gaussian_noise(x[4:], 5, 4), gaussian_noise(x, 5)[4:])


def test_it_is_normally_distributed():
    """Moments, and how many numbers lie within one, two and three standard deviations."""
    noise = np.concatenate([gaussian_noise(np.zeros((100, 1000)), seed).ravel() for seed in range(3)])
    count = noise.size
    for power, moment in ((1, 0), (2, 1), (3, 0), (4, 3)):
        assert abs((noise**power).mean() - moment) < 6 * np.sqrt((noise ** (2 * power)).mean() / count)
    for within, share in ((1, 0.682689), (2, 0.954500), (3, 0.997300)):
        assert abs((np.abs(noise) < within).mean() - share) < 5 * np.sqrt(share * (1 - share) / count)


def test_neighbouring_numbers_and_neighbouring_seeds_have_nothing_in_common():
    one, other = (gaussian_noise(np.zeros((100, 1000)), seed).ravel() for seed in (0, 1))
    for a, b in ((one[1:], one[:-1]), (one, other), (one[1000:], other[:-1000])):
        assert abs(np.corrcoef(a, b)[0, 1]) < 5 / np.sqrt(one.size)
