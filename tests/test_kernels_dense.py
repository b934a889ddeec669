import numpy as np
import pytest
from helpers import assert_adjoint, assert_same, check_dense, check_without_dx, noncontiguous, random

from minicnn.kernels import reference
from minicnn.kernels.dense import dense_backward, dense_forward

SHAPES = [((4, 5), 3), ((1, 7), 2), ((3, 1), 1), ((2, 3, 4), 5), ((2, 2, 3, 2), 3)]


def arrays(shape, outputs, dtype=np.float64):
    return random(shape, 1, dtype), random((shape[-1], outputs), 2, dtype), random((outputs,), 3, dtype)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(("shape", "outputs"), SHAPES)
def test_dense(shape, outputs, dtype):
    x, w, b = arrays(shape, outputs, dtype)
    check_dense(dense_forward, dense_backward, x, w, b)
    check_dense(dense_forward, dense_backward, noncontiguous(x), noncontiguous(w), b)


@pytest.mark.parametrize(("shape", "outputs"), SHAPES)
def test_adjoint_in_the_input_and_in_the_weights(shape, outputs):
    x, w, _ = arrays(shape, outputs)
    y_shape = (*shape[:-1], outputs)
    assert_adjoint(lambda x: dense_forward(x, w), lambda dy: dense_backward(dy, x, w)[0], x, y_shape)
    assert_adjoint(lambda w: dense_forward(x, w), lambda dy: dense_backward(dy, x, w)[1], w, y_shape)


@pytest.mark.parametrize(("shape", "outputs"), SHAPES)
def test_need_dx_false(shape, outputs):
    x, w, _ = arrays(shape, outputs, np.float32)
    dy = random((*shape[:-1], outputs), 4, np.float32)
    check_without_dx(lambda need_dx: dense_backward(dy, x, w, need_dx=need_dx), dense_backward(dy, x, w))


def test_without_a_bias():
    x, w, b = arrays((3, 4), 2)
    assert_same(dense_forward(x, w), dense_forward(x, w, 0 * b), 0)


@pytest.mark.cpu
def test_the_reference_implementation_passes_the_same_check():
    for shape, outputs in SHAPES:
        check_dense(reference.dense_forward, reference.dense_backward, *arrays(shape, outputs))
