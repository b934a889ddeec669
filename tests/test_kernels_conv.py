import numpy as np
import pytest
from helpers import assert_adjoint, assert_same, check_conv2d, check_without_dx, noncontiguous, random

from minicnn.kernels import reference
from minicnn.kernels.conv import conv2d_backward, conv2d_forward

# x shape, (KH, KW), how the window moves
CASES = [
    ((2, 5, 5, 2), (3, 3), {}),
    ((1, 4, 5, 1), (3, 3), {"padding": "same"}),
    ((2, 6, 6, 2), (3, 3), {"padding": "same", "stride": 2}),  # one cell at the bottom and the right only
    ((1, 5, 6, 2), (3, 3), {"padding": "same", "stride": 2}),  # symmetric one way, not the other
    ((1, 7, 5, 2), (4, 2), {"padding": "same", "stride": (3, 2)}),
    ((1, 5, 5, 1), (2, 2), {"padding": "same"}),  # even window: asymmetric with stride 1, too
    ((1, 6, 7, 2), (3, 3), {"padding": 1, "stride": 2}),
    ((2, 6, 5, 1), (2, 3), {"stride": 3}),  # window smaller than the stride, rows dropped
    ((1, 8, 7, 2), (3, 2), {"stride": (2, 3)}),
    ((1, 5, 6, 2), (3, 3), {"stride": (1, 2), "padding": "same"}),
    ((1, 6, 5, 1), (3, 3), {"stride": (2, 1)}),
    ((1, 4, 5, 2), (3, 3), {"padding": (2, 1)}),
    ((1, 4, 4, 2), (2, 3), {"padding": ((0, 2), (1, 0))}),
    ((1, 5, 4, 1), (2, 2), {"padding": ((2, 3), (0, 4)), "stride": 2}),  # border wider than the window
    ((1, 3, 3, 2), (2, 2), {"padding": 3}),  # the same with stride 1
    ((1, 7, 6, 1), (3, 3), {"dilation": 2}),
    ((1, 7, 6, 2), (3, 2), {"dilation": (2, 3), "padding": "same"}),
    ((1, 8, 7, 1), (2, 3), {"dilation": 2, "padding": "same", "stride": 2}),
    ((3, 4, 3, 3), (1, 1), {}),
    ((2, 5, 4, 2), (1, 1), {"stride": 2}),
    ((1, 3, 3, 2), (1, 1), {"padding": 1}),
    ((2, 3, 4, 2), (3, 4), {}),  # the window is the image
    ((1, 1, 6, 2), (1, 3), {"padding": "same"}),
    ((1, 2, 2, 1), (3, 3), {"padding": "same"}),  # window larger than the image
]
IDS = [f"{shape}-{kernel}-{geometry}".replace(" ", "") for shape, kernel, geometry in CASES]
FILTERS = 3


def arrays(shape, kernel, dtype=np.float64):
    w_shape = (*kernel, shape[-1], FILTERS)
    return random(shape, 1, dtype), random(w_shape, 2, dtype), random((FILTERS,), 3, dtype)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(("shape", "kernel", "geometry"), CASES, ids=IDS)
def test_conv2d(shape, kernel, geometry, dtype):
    check_conv2d(conv2d_forward, conv2d_backward, *arrays(shape, kernel, dtype), **geometry)


@pytest.mark.cpu
@pytest.mark.parametrize(("shape", "kernel", "geometry"), CASES[:8], ids=IDS[:8])
def test_the_reference_implementation_passes_the_same_check(shape, kernel, geometry):
    x, w, b = arrays((1, *shape[1:3], 1), kernel)
    check_conv2d(
        reference.conv2d_forward, reference.conv2d_backward, x, w[..., :2].copy(), b[:2].copy(), **geometry
    )


@pytest.mark.parametrize(("shape", "kernel", "geometry"), CASES, ids=IDS)
def test_noncontiguous_arrays(shape, kernel, geometry):
    x, w, b = (noncontiguous(a) for a in arrays(shape, kernel))
    check_conv2d(conv2d_forward, conv2d_backward, x, w, b, **geometry)


@pytest.mark.parametrize(("shape", "kernel", "geometry"), CASES, ids=IDS)
def test_adjoint_in_the_image_and_in_the_kernel(shape, kernel, geometry):
    x, w, _ = arrays(shape, kernel)
    y_shape = conv2d_forward(x, w, **geometry).shape
    assert_adjoint(
        lambda x: conv2d_forward(x, w, **geometry),
        lambda dy: conv2d_backward(dy, x, w, **geometry)[0],
        x,
        y_shape,
    )
    assert_adjoint(
        lambda w: conv2d_forward(x, w, **geometry),
        lambda dy: conv2d_backward(dy, x, w, **geometry)[1],
        w,
        y_shape,
    )


@pytest.mark.parametrize(("shape", "kernel", "geometry"), CASES, ids=IDS)
def test_need_dx_false(shape, kernel, geometry):
    x, w, b = arrays(shape, kernel, np.float32)
    dy = random(conv2d_forward(x, w, b, **geometry).shape, 4, np.float32)
    full = conv2d_backward(dy, x, w, **geometry)
    check_without_dx(lambda need_dx: conv2d_backward(dy, x, w, **geometry, need_dx=need_dx), full)


def test_without_a_bias():
    x, w, b = arrays((2, 5, 4, 2), (3, 3))
    assert_same(conv2d_forward(x, w), conv2d_forward(x, w, 0 * b), 0)


def test_a_batch_is_its_images_one_by_one():
    x, w, b = arrays((4, 6, 5, 2), (3, 3))
    y = conv2d_forward(x, w, b, 2, "same")
    for i in range(4):
        assert_same(y[i : i + 1], conv2d_forward(x[i : i + 1], w, b, 2, "same"), 1e-13)


def test_an_example_to_do_by_hand():
    x = np.arange(9.0).reshape(1, 3, 3, 1)
    w = np.array([[1.0, 2.0], [3.0, 4.0]]).reshape(2, 2, 1, 1)
    y = conv2d_forward(x, w, np.array([100.0]))
    # top left: 0*1 + 1*2 + 3*3 + 4*4 = 27
    np.testing.assert_array_equal(y[0, :, :, 0], [[127, 137], [157, 167]])
    dx, dw, db = conv2d_backward(np.ones_like(y), x, w)
    np.testing.assert_array_equal(dx[0, :, :, 0], [[1, 3, 2], [4, 10, 6], [3, 7, 4]])
    np.testing.assert_array_equal(dw[:, :, 0, 0], [[8, 12], [20, 24]])
    np.testing.assert_array_equal(db, [4])
