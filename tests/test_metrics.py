"""Metrics: values recorded from Keras 3, shards, names, and the accuracy that fits the loss."""

import numpy as np
import pytest

from minicnn import metrics
from minicnn.errors import UnknownNameError

LABELS = np.array([2, 0, 1, 3])
ONE_HOT = np.eye(4)[LABELS]
PROBABILITIES = np.array(
    [[0.1, 0.2, 0.6, 0.1], [0.3, 0.3, 0.2, 0.2], [0.5, 0.2, 0.2, 0.1], [0.25, 0.25, 0.25, 0.25]], np.float32
)


def result(metric, y_true, y_pred):
    metric.update(y_true, y_pred)
    return metric.result()


@pytest.mark.parametrize("column", [False, True])
def test_categorical_accuracies_equal_keras(column):
    labels = LABELS[:, None] if column else LABELS
    assert result(metrics.CategoricalAccuracy(), ONE_HOT, PROBABILITIES) == 0.5
    assert result(metrics.SparseCategoricalAccuracy(), labels, PROBABILITIES) == 0.5


@pytest.mark.parametrize(("k", "expected"), [(1, 0.75), (2, 1.0), (3, 1.0)])
def test_top_k_counts_ties_as_keras_does(k, expected):
    assert result(metrics.TopKCategoricalAccuracy(k=k), ONE_HOT, PROBABILITIES) == expected
    assert result(metrics.SparseTopKCategoricalAccuracy(k=k), LABELS, PROBABILITIES) == expected
    assert result(metrics.SparseTopKCategoricalAccuracy(k=k), LABELS[:, None], PROBABILITIES) == expected


def test_top_k_against_sorting():
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 20, 300), rng.normal(size=(300, 20))
    best = np.argsort(-scores, axis=1)[:, :5]
    expected = np.mean([label in row for label, row in zip(labels, best, strict=True)])
    assert 0.1 < expected < 0.5
    assert result(metrics.SparseTopKCategoricalAccuracy(), labels.astype(np.uint8), scores) == expected


def test_top_k_never_counts_a_prediction_that_is_not_a_number():
    assert result(metrics.SparseTopKCategoricalAccuracy(k=3), LABELS, np.full((4, 4), np.nan)) == 0.0


def test_binary_accuracy_equals_keras():
    y_true, y_pred = np.array([[1], [0], [1]]), np.array([[0.6], [0.5], [0.2]])
    assert result(metrics.BinaryAccuracy(), y_true, y_pred) == pytest.approx(2 / 3)
    assert result(metrics.BinaryAccuracy(threshold=0.55), y_true[:, 0], y_pred) == pytest.approx(2 / 3)
    assert result(metrics.BinaryAccuracy(threshold=0.1), y_true, y_pred) == pytest.approx(2 / 3)
    several = np.array([[1, 0], [0, 1]]), np.array([[0.6, 0.6], [0.1, 0.9]])
    assert result(metrics.BinaryAccuracy(), *several) == 0.75


def test_errors_equal_keras():
    y_true, y_pred = np.array([[1.0, 2.0], [3.0, 4.0]]), np.zeros((2, 2), np.float32)
    assert result(metrics.MeanSquaredError(), y_true, y_pred) == 7.5
    assert result(metrics.MeanAbsoluteError(), -y_true, y_pred) == 2.5


@pytest.mark.parametrize("metric", [metrics.MeanSquaredError(), metrics.MeanAbsoluteError()])
def test_labels_without_the_last_axis_are_not_broadcast(metric):
    y_pred = np.array([[1.0], [2.0], [4.0]])
    metric.update(np.array([1.0, 2.0, 3.0]), y_pred)
    assert metric.result() == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("metric", "y_true"),
    [
        (metrics.SparseCategoricalAccuracy(), "labels"),
        (metrics.SparseTopKCategoricalAccuracy(k=2), "labels"),
        (metrics.CategoricalAccuracy(), "one_hot"),
        (metrics.TopKCategoricalAccuracy(k=2), "one_hot"),
        (metrics.BinaryAccuracy(threshold=0.3), "one_hot"),
        (metrics.MeanSquaredError(), "one_hot"),
        (metrics.MeanAbsoluteError(), "one_hot"),
    ],
)
def test_shards_of_unequal_size_add_up_to_the_whole(metric, y_true):
    rng = np.random.default_rng(1)
    labels, scores = rng.integers(0, 6, 50), rng.random((50, 6))
    targets = labels if y_true == "labels" else np.eye(6)[labels]
    metric.reset()
    metric.update(targets, scores)
    whole = metric.result()
    assert 0 < whole < 1
    metric.reset()
    sums = [metric.sum(targets[i], scores[i]) for i in (slice(0, 7), slice(7, 31), slice(31, 50))]
    assert metric.count == 0  # sum() counts nothing
    for total, count in zip(sums, (7, 24, 19), strict=True):
        metric.add(total, count)
    assert metric.result() == pytest.approx(whole, rel=1e-12)


def test_samples_with_several_values_are_averaged():
    y_true, y_pred = np.zeros((2, 3, 3, 1)), np.ones((2, 3, 3, 1))
    assert metrics.MeanSquaredError().sum(y_true, y_pred) == 2.0
    labels = np.zeros((2, 5), int)
    scores = np.zeros((2, 5, 4))
    scores[0, :, 0] = 1
    scores[1, :, 1] = 1
    assert metrics.SparseCategoricalAccuracy().sum(labels, scores) == 1.0


def test_state():
    metric = metrics.MeanSquaredError()
    assert metric.result() == 0.0
    metric.update_state(np.array([2.0]), np.array([0.0]))
    assert metric.result() == 4.0 and type(metric.result()) is float
    metric.reset_state()
    assert metric.result() == 0.0


@pytest.mark.parametrize(
    ("loss", "output_shape", "expected"),
    [
        ("sparse_categorical_crossentropy", (None, 10), metrics.SparseCategoricalAccuracy),
        ("categorical_crossentropy", (None, 10), metrics.CategoricalAccuracy),
        ("binary_crossentropy", (None, 1), metrics.BinaryAccuracy),
        ("binary_crossentropy", (None, 5), metrics.BinaryAccuracy),
        ("bce", (None, 5), metrics.BinaryAccuracy),
        ("mse", (None, 1), metrics.BinaryAccuracy),
        ("mean_squared_error", (10,), metrics.CategoricalAccuracy),
        ("SparseCategoricalCrossentropy", (10,), metrics.SparseCategoricalAccuracy),
        (type("SparseCategoricalCrossentropy", (), {}), (10,), metrics.SparseCategoricalAccuracy),
        (type("BinaryCrossentropy", (), {})(), (10,), metrics.BinaryAccuracy),
        (None, (10,), metrics.CategoricalAccuracy),
    ],
)
@pytest.mark.parametrize("name", ["accuracy", "acc"])
def test_accuracy_is_the_one_that_fits_and_keeps_its_name(name, loss, output_shape, expected):
    metric = metrics.get(name, loss, output_shape)
    assert type(metric) is expected and metric.name == name


@pytest.mark.parametrize(
    ("name", "cls", "direction"),
    [
        ("mse", metrics.MeanSquaredError, "min"),
        ("mean_squared_error", metrics.MeanSquaredError, "min"),
        ("mae", metrics.MeanAbsoluteError, "min"),
        ("top_k_categorical_accuracy", metrics.TopKCategoricalAccuracy, "max"),
        ("sparse_top_k_categorical_accuracy", metrics.SparseTopKCategoricalAccuracy, "max"),
        ("binary_accuracy", metrics.BinaryAccuracy, "max"),
    ],
)
def test_names(name, cls, direction):
    metric = metrics.get(name)
    assert type(metric) is cls and metric.name == name and metric.direction == direction


def test_get_takes_instances_classes_and_configs():
    own = metrics.TopKCategoricalAccuracy(k=3, name="top3")
    assert metrics.get(own) is own and own.name == "top3"
    assert metrics.get(metrics.MeanAbsoluteError).name == "mean_absolute_error"
    again = metrics.get({"class_name": "TopKCategoricalAccuracy", "config": own.get_config()})
    assert (again.k, again.name) == (3, "top3")
    assert metrics.BinaryAccuracy(threshold=0.2).get_config() == {"name": "binary_accuracy", "threshold": 0.2}


@pytest.mark.parametrize("identifier", ["acuracy", np.mean, 3, None])
def test_unknown_metrics(identifier):
    with pytest.raises(UnknownNameError, match="one of .* accuracy"):
        metrics.get(identifier)


def test_a_misspelt_metric_is_guessed():
    with pytest.raises(UnknownNameError, match="did you mean 'accuracy'"):
        metrics.get("acuracy")
