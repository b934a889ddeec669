import itertools

import numpy as np
import pytest
from helpers import assert_adjoint, assert_same, check_im2col, noncontiguous, random

from minicnn.errors import InputError
from minicnn.kernels import geometry, reference
from minicnn.kernels.im2col import col2im, im2col

SIZES = [(5, 5), (6, 6), (7, 4), (1, 9)]
WINDOWS = [(1, 1), (2, 2), (3, 3), (3, 1), (2, 5), (4, 3)]
PADDINGS = ["valid", "same", 0, 1, (1, 2), ((0, 1), (2, 0))]


@pytest.mark.cpu
def test_pair_repeats_one_number_and_keeps_two():
    assert geometry.pair(3) == (3, 3)
    assert geometry.pair((2, 5)) == (2, 5)
    assert geometry.pair([2, 5]) == (2, 5)


@pytest.mark.cpu
def test_padding_and_output_size_agree_with_counting_windows():
    cases = itertools.product(SIZES, WINDOWS, [1, 2, 3, (2, 1)], [1, 2], PADDINGS)
    for size, kernel, stride, dilation, padding in cases:
        pads = geometry.resolve_padding(size, kernel, stride, dilation, padding)
        assert pads == reference.resolve_padding(size, kernel, stride, dilation, padding)
        counted = reference.output_size(size, kernel, stride, dilation, pads)
        if min(counted) > 0:
            assert geometry.output_size(size, kernel, stride, dilation, pads) == counted


@pytest.mark.cpu
@pytest.mark.parametrize(
    ("size", "kernel", "stride", "dilation", "expected"),
    [
        (5, 3, 1, 1, ((1, 1), (1, 1))),
        (6, 3, 2, 1, ((0, 1), (0, 1))),  # the odd cell goes to the bottom and the right
        (5, 3, 2, 1, ((1, 1), (1, 1))),
        (224, 7, 2, 1, ((2, 3), (2, 3))),
        (6, 2, 1, 1, ((0, 1), (0, 1))),
        (6, 1, 3, 1, ((0, 0), (0, 0))),  # a window smaller than the stride needs none
        (5, 3, 1, 2, ((2, 2), (2, 2))),
        ((6, 5), (3, 4), (2, 1), 1, ((0, 1), (1, 2))),
    ],
)
def test_same_padding_is_tensorflows(size, kernel, stride, dilation, expected):
    assert geometry.resolve_padding(size, kernel, stride, dilation, "same") == expected
    assert reference.resolve_padding(size, kernel, stride, dilation, "same") == expected


@pytest.mark.cpu
def test_same_padding_gives_size_over_stride_rounded_up():
    for size, kernel, stride in itertools.product(range(1, 12), range(1, 6), range(1, 5)):
        pads = geometry.resolve_padding(size, kernel, stride, 1, "same")
        assert geometry.output_size(size, kernel, stride, 1, pads) == (-(-size // stride),) * 2


@pytest.mark.cpu
def test_unknown_padding_is_an_error():
    with pytest.raises(InputError, match="full"):
        geometry.resolve_padding(5, 3, 1, 1, "full")


# x shape, window, and how it moves
CASES = [
    ((2, 5, 5, 2), 3, {}),
    ((1, 6, 4, 1), 3, {"padding": "same", "stride": 2}),
    ((2, 7, 6, 2), (2, 3), {"stride": (2, 3)}),  # last row dropped
    ((1, 5, 6, 3), (3, 2), {"padding": ((0, 2), (1, 0)), "stride": (1, 2)}),
    ((1, 7, 7, 1), 3, {"dilation": 2, "padding": "same"}),
    ((1, 8, 7, 2), (2, 3), {"dilation": (3, 2), "stride": 2, "padding": 1}),
    ((2, 5, 4, 2), 1, {"stride": 2}),
    ((2, 3, 4, 3), 1, {}),
    ((1, 3, 4, 2), (3, 4), {}),  # one position
    ((1, 2, 2, 1), 4, {"padding": 2}),
]
IDS = [f"{shape}-{kernel}-{moves}".replace(" ", "") for shape, kernel, moves in CASES]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(("shape", "kernel", "moves"), CASES, ids=IDS)
def test_im2col_and_col2im(shape, kernel, moves, dtype):
    x = random(shape, seed=1, dtype=dtype)
    check_im2col(im2col, col2im, x, kernel, **moves)
    check_im2col(im2col, col2im, noncontiguous(x), kernel, **moves)


@pytest.mark.parametrize(("shape", "kernel", "moves"), CASES, ids=IDS)
def test_col2im_is_the_adjoint_of_im2col(shape, kernel, moves):
    x = random(shape, seed=2)
    assert_adjoint(
        lambda x: im2col(x, kernel, **moves),
        lambda dy: col2im(dy, shape, kernel, **moves),
        x,
        im2col(x, kernel, **moves).shape,
    )


@pytest.mark.cpu
def test_the_reference_implementations_pass_the_same_check():
    for shape, kernel, moves in CASES[:5]:
        check_im2col(reference.im2col, reference.col2im, random(shape), kernel, **moves)


def test_col2im_counts_the_windows_over_each_pixel():
    ones = np.ones((4, 9))  # a 3x3 window at 2x2 positions of a 4x4 image
    counts = col2im(ones, (1, 4, 4, 1), 3)[0, :, :, 0]
    np.testing.assert_array_equal(counts, [[1, 2, 2, 1], [2, 4, 4, 2], [2, 4, 4, 2], [1, 2, 2, 1]])


def test_convolution_is_one_matrix_product():
    x, w = random((2, 5, 6, 3), 3), random((3, 2, 3, 4), 4)
    y = im2col(x, (3, 2), 2, "same") @ w.reshape(-1, 4)
    assert_same(y.reshape(2, 3, 3, 4), reference.conv2d_forward(x, w, None, 2, "same"), 1e-12)


def test_integer_images_are_taken_as_they_are():
    x = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    cols = im2col(x, 2, 2)
    assert cols.dtype == np.uint8
    np.testing.assert_array_equal(cols, reference.im2col(x, 2, 2))
