import numpy as np
import pytest
from helpers import assert_same, check_activation, check_cross_entropy, noncontiguous, random, rng

from minicnn.kernels import reference, softmax

CROSS_ENTROPY = softmax.softmax_cross_entropy_forward, softmax.softmax_cross_entropy_backward


def one_hot(labels, classes, dtype=np.float64):
    return np.eye(classes, dtype=dtype)[labels]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("shape", [(4, 5), (1, 3), (2, 3, 4), (2, 2, 3, 2)])
def test_softmax(shape, dtype):
    x = random(shape, 1, dtype) * dtype(2)
    check_activation(softmax.softmax_forward, softmax.softmax_backward, "softmax", x)
    check_activation(softmax.softmax_forward, softmax.softmax_backward, "softmax", noncontiguous(x))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("shape", [(4, 5), (1, 3), (2, 3, 4)])
def test_log_softmax(shape, dtype):
    x = random(shape, 2, dtype)
    tolerance = 1e-13 if dtype == np.float64 else 1e-6
    for logits in x, noncontiguous(x):
        y = softmax.log_softmax(logits)
        assert y.dtype == dtype
        assert y.flags.c_contiguous
        assert_same(y, reference.log_softmax(x), tolerance)
        assert_same(np.exp(y), softmax.softmax_forward(x), tolerance)


def targets(kind, samples, classes, dtype):
    labels = rng(3).integers(0, classes, samples)
    if kind == "labels":
        return labels
    if kind == "one-hot":
        return one_hot(labels, classes, dtype)
    distribution = rng(4).random((samples, classes))
    return (distribution / distribution.sum(axis=1, keepdims=True)).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("kind", ["labels", "one-hot", "distribution"])
@pytest.mark.parametrize("shape", [(4, 5), (1, 3), (7, 2)])
def test_softmax_cross_entropy(shape, kind, dtype):
    logits = random(shape, 5, dtype) * dtype(2)
    target = targets(kind, *shape, dtype)
    check_cross_entropy(*CROSS_ENTROPY, logits, target)
    check_cross_entropy(*CROSS_ENTROPY, noncontiguous(logits), target)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
def test_integer_labels_equal_one_hot(dtype):
    logits, labels = random((6, 4), 6), np.array([0, 3, 1, 1, 2, 3], dtype)
    for kernel in CROSS_ENTROPY:
        np.testing.assert_allclose(kernel(logits, labels), kernel(logits, one_hot(labels, 4)), rtol=1e-15)


@pytest.mark.parametrize("kind", ["labels", "one-hot", "distribution"])
def test_float32_logits_stay_float32(kind):
    """Whatever the targets are: float64 distributions must not creep in."""
    logits = random((4, 5), 7, np.float32)
    target = targets(kind, 4, 5, np.float64)
    for kernel in CROSS_ENTROPY:
        assert kernel(logits, target).dtype == np.float32


def test_fused_equals_unfused():
    logits, target = random((5, 4), 8), targets("distribution", 5, 4, np.float64)
    p = softmax.softmax_forward(logits)
    assert_same(softmax.softmax_cross_entropy_forward(logits, target), -(target * np.log(p)).sum(1), 1e-13)
    dp = -target / p / len(logits)
    assert_same(
        softmax.softmax_cross_entropy_backward(logits, target), softmax.softmax_backward(dp, p), 1e-13
    )


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("kind", ["labels", "one-hot", "distribution"])
def test_logits_of_a_thousand(kind, dtype):
    logits = np.array([[1000, -1000, 0], [-1000, -1000, -1000], [1000, 1000, 1000], [-1000, 0, 1000]], dtype)
    target = targets(kind, 4, 3, dtype)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        y = softmax.softmax_forward(logits)
        log_y = softmax.log_softmax(logits)
        loss = softmax.softmax_cross_entropy_forward(logits, target)
        dlogits = softmax.softmax_cross_entropy_backward(logits, target)
    tolerance = 1e-14 if dtype == np.float64 else 1e-6
    assert_same(y, reference.softmax_forward(logits), tolerance)
    assert_same(log_y, reference.log_softmax(logits), tolerance)
    assert_same(loss, reference.softmax_cross_entropy_forward(logits, target), tolerance)
    assert_same(dlogits, reference.softmax_cross_entropy_backward(logits, target), tolerance)
    assert loss.max() > 100  # a wrong prediction, and sure of it: no cap, no inf


def test_a_shard_divides_by_the_whole_batch():
    logits, labels = random((6, 4), 9), np.array([0, 3, 1, 1, 2, 3])
    whole = softmax.softmax_cross_entropy_backward(logits, labels)
    shards = [
        softmax.softmax_cross_entropy_backward(logits[part], labels[part], batch_size=6)
        for part in (slice(0, 4), slice(4, 6))
    ]
    np.testing.assert_allclose(np.concatenate(shards), whole, rtol=1e-14)


@pytest.mark.cpu
def test_the_reference_implementations_pass_the_same_checks():
    check_activation(reference.softmax_forward, reference.softmax_backward, "softmax", random((3, 4)))
    for kind in "labels", "one-hot", "distribution":
        check_cross_entropy(
            reference.softmax_cross_entropy_forward,
            reference.softmax_cross_entropy_backward,
            random((3, 4)),
            targets(kind, 3, 4, np.float64),
        )


@pytest.mark.parametrize("total", [0.5, 3.0])
def test_targets_that_do_not_sum_to_one(total):
    """The derivative is p times the sum of t, minus t."""
    logits = random((4, 5), 1)
    target = np.abs(random((4, 5), 2))
    target *= total / target.sum(axis=1, keepdims=True)
    dlogits = softmax.softmax_cross_entropy_backward(logits, target)
    assert_same(dlogits, reference.softmax_cross_entropy_backward(logits, target), 1e-12)
    assert_same(dlogits, (softmax.softmax_forward(logits) * total - target) / 4, 1e-12)
