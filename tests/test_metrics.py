"""Metrics: values recorded from Keras 3, shards, names, and the accuracy that fits the loss."""

import numpy as np
import pytest

from minicnn import losses, metrics
from minicnn.errors import InputError, UnknownNameError
from minicnn.layers import Dense, Input
from minicnn.models import Sequential, load_model
from minicnn.optimizers import SGD
from minicnn.utils import set_random_seed

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
    assert metrics.BinaryAccuracy(threshold=0.2).get_config() == {
        "name": "binary_accuracy", "dtype": None, "threshold": 0.2,
    }  # fmt: skip


@pytest.mark.parametrize("identifier", ["acuracy", 3, None])
def test_unknown_metrics(identifier):
    with pytest.raises(UnknownNameError, match="one of .* accuracy"):
        metrics.get(identifier)


def test_a_misspelt_metric_is_guessed():
    with pytest.raises(UnknownNameError, match="did you mean 'accuracy'"):
        metrics.get("acuracy")


# --- In training ----------------------------------------------------------------------------------------------


def mean_of_largest(y_true, y_pred):
    return y_pred.max(axis=-1)


def fitted(metrics_, loss="categorical_crossentropy", activation="softmax", **fit):
    set_random_seed(0)
    model = Sequential([Input((4,)), Dense(6, activation="tanh"), Dense(3, activation=activation)])
    model.compile(SGD(0.1), loss, metrics=metrics_)
    history = model.fit(X, ONE_OF_3, batch_size=16, shuffle=False, verbose=0, validation_data=(X, ONE_OF_3), **fit)
    return model, history.history


X = np.random.default_rng(1).normal(size=(48, 4)).astype(np.float32)
ONE_OF_3 = np.eye(3, dtype=np.float32)[np.arange(48) % 3]


def test_all_metrics_in_fit_and_evaluate():
    made = [
        metrics.AUC(), metrics.Precision(), metrics.Recall(top_k=1), metrics.F1Score("macro"), "bce", mean_of_largest,
        metrics.MeanIoU(3, sparse_y_true=False, sparse_y_pred=False), metrics.RootMeanSquaredError(),
        metrics.CategoricalCrossentropy(),
    ]  # fmt: skip
    model, history = fitted(made)
    names = ["auc", "precision", "recall", "f1_score", "bce", "mean_of_largest", "mean_io_u",
             "root_mean_squared_error", "categorical_crossentropy"]  # fmt: skip
    assert list(history) == ["loss", *names, "val_loss", *(f"val_{name}" for name in names)]
    y_pred = model.predict(X, verbose=0)
    for metric, name in zip(made, names, strict=True):
        own = metrics.get(metric)
        own.reset()
        assert history[f"val_{name}"][0] == pytest.approx(own(ONE_OF_3, y_pred), rel=1e-6)
    assert history["val_mean_of_largest"][0] == pytest.approx(y_pred.max(axis=-1).mean(), rel=1e-6)
    assert history["val_categorical_crossentropy"][0] == pytest.approx(history["val_loss"][0], rel=1e-6)


def test_two_metrics_of_one_name_are_numbered_as_in_keras():
    """The second one's number was lost."""
    two = [metrics.BinaryAccuracy(threshold=0.1), metrics.BinaryAccuracy(threshold=0.6), "accuracy", "accuracy"]
    model, history = fitted(two)
    names = ["binary_accuracy", "binary_accuracy_1", "accuracy", "accuracy_1"]
    assert [metric.name for metric in model.metrics] == names
    assert history["binary_accuracy"] != history["binary_accuracy_1"]
    with pytest.raises(InputError, match="one name"):
        fitted([two[0], two[0]])
    with pytest.raises(InputError, match="none called loss"):
        fitted([metrics.AUC(name="loss")])
    with pytest.raises(InputError, match="several numbers"):
        fitted([metrics.F1Score()])


@pytest.mark.parametrize("outputs", [1, 3])
def test_accuracy_of_logits_has_the_threshold_0(outputs):
    """It compared logits with 0.5: half of what was right was counted wrong."""
    same = Dense(outputs, use_bias=False, kernel_initializer=lambda shape, dtype: np.eye(outputs))
    model = Sequential([Input((outputs,)), same])
    model.compile("sgd", losses.BinaryCrossentropy(from_logits=True), metrics=["accuracy"])
    x = np.array([[0.2], [-0.1], [0.4], [-2.0]]).repeat(outputs, axis=1)
    assert model.evaluate(x, (x > 0).astype(int), verbose=0)[1] == 1.0


def test_a_function_is_saved_by_its_name(tmp_path):
    model, _ = fitted([mean_of_largest, "accuracy"])
    model.save(tmp_path / "m.zip")
    again = load_model(tmp_path / "m.zip", custom_objects={"mean_of_largest": mean_of_largest})
    assert again.evaluate(X, ONE_OF_3, verbose=0) == pytest.approx(model.evaluate(X, ONE_OF_3, verbose=0))
    with pytest.raises(UnknownNameError, match="mean_of_largest"):
        load_model(tmp_path / "m.zip")


def test_a_function_that_gives_one_number():
    metric = metrics.get(lambda y_true, y_pred: abs(y_true - y_pred).mean())
    assert metric([[1.0], [2.0]], [[0.0], [0.0]]) == 1.5
    assert metric([[0.0]], [[6.0]]) == pytest.approx((1.5 * 2 + 6) / 3)  # samples count, not batches


@pytest.mark.parametrize(
    "call",
    [
        lambda: metrics.MeanSquaredError()(None, [1.0]), lambda: metrics.MeanSquaredError()([1.0], "a"),
        lambda: metrics.MeanSquaredError()([1.0, 2.0], [1.0]), lambda: metrics.BinaryAccuracy()([[1, 0]], [[0.1]]),
        lambda: metrics.MeanSquaredError()([1.0], [1.0], sample_weight=[1.0, 2.0]),
        lambda: metrics.MeanSquaredError()([1.0], [1.0], sample_weight="a"),
        lambda: metrics.AUC()([1, 0], [[0.1, 0.2]] * 2),
        lambda: metrics.Precision()([1, 0], [[0.1, 0.2]] * 2), lambda: metrics.F1Score()([1, 0], [0.1, 0.2]),
        lambda: metrics.MeanIoU(2)([0, 1], [[0.2, 0.8]] * 2),
        lambda: metrics.CategoricalCrossentropy()([1, 0], [[0.2, 0.8]] * 2),
        lambda: metrics.get(lambda a, b: "a")([1.0], [1.0]),
        lambda: metrics.get(lambda a, b: b[:1])([1.0, 2.0], [1.0, 2.0]),
        lambda: metrics.BinaryAccuracy(threshold="a"), lambda: metrics.BinaryAccuracy("x", 0.3), lambda: metrics.AUC(1),
        lambda: metrics.AUC(curve="roc"), lambda: metrics.AUC(thresholds="a"),
        lambda: metrics.AUC(thresholds=[0.1, None]), lambda: metrics.AUC(label_weights="a"),
        lambda: metrics.Precision(thresholds=[2.0]), lambda: metrics.Recall("a"),
        lambda: metrics.Precision(top_k=0), lambda: metrics.F1Score("mean"), lambda: metrics.F1Score(threshold=0),
        lambda: metrics.MeanIoU(0), lambda: metrics.MeanIoU(None), lambda: metrics.TopKCategoricalAccuracy(k=None),
        lambda: metrics.TopKCategoricalAccuracy(k=-1), lambda: metrics.MeanSquaredError(3),
        lambda: metrics.MeanSquaredError(dtype="int8"),
    ],
)  # fmt: skip
def test_what_cannot_be(call):
    with pytest.raises(InputError):
        call()


def test_a_class_that_is_ignored_does_not_count():
    """Keras' metric counts its positions as 0 where there are no weights, and leaves them out where there are."""
    metric = metrics.SparseCategoricalCrossentropy(ignore_class=0)
    plain = metrics.SparseCategoricalCrossentropy()
    known = LABELS != 0
    assert metric(LABELS, PROBABILITIES) == pytest.approx(plain(LABELS[known], PROBABILITIES[known]))


def test_the_area_under_numbers_beyond_0_to_1_takes_them_as_0_and_1():
    """As Keras 3.15 does; without it the curve ended before all were taken, and the area was too small."""
    true, scores = np.array([0, 1, 0, 1, 1]), np.array([-2.0, 3.0, 1.5, 0.5, 0.25])
    assert metrics.AUC()(true, scores) == metrics.AUC()(true, scores.clip(0, 1))
    assert metrics.AUC(curve="PR")(true, scores) == metrics.AUC(curve="PR")(true, scores.clip(0, 1))


@pytest.mark.parametrize("kind", [metrics.Precision, metrics.Recall])
def test_a_class_that_the_predictions_do_not_have(kind):
    """Of predictions (N,), class_id=2 was sample number 2."""
    for shape in ((5,), (5, 2)):
        with pytest.raises(InputError, match="no class of the predictions"):
            kind(class_id=2)(np.ones(shape), np.ones(shape))
    assert kind(class_id=2)(np.ones((5, 3)), np.ones((5, 3))) == 1


@pytest.mark.parametrize("weight", [3, 3.0, np.float32(3), np.array(3), np.array(3.0)])
def test_a_single_weight_is_that_of_all_samples(weight):
    metric = metrics.Precision()
    metric.update_state([1, 0], [0.9, 0.8], sample_weight=weight)
    metric.update_state([1, 1], [0.9, 0.8])
    assert metric.result() == pytest.approx((3 + 2) / (6 + 2))


def test_thresholds_say_how_many_they_are():
    """As in Keras 3.15: num_thresholds is then not looked at, and may be None."""
    metric = metrics.AUC(thresholds=[0.6, 0.3], num_thresholds=None)
    assert metric.num_thresholds == 4 and metric.thresholds == [0.3, 0.6]
    assert metric([0, 1, 1, 0, 1], [0.1, 0.4, 0.35, 0.8, 0.9]) == pytest.approx(0.5833333)  # Keras 3.15.1
    assert metrics.AUC.from_config(metric.get_config()).get_config() == metric.get_config()
    with pytest.raises(InputError, match="num_thresholds"):
        metrics.AUC(num_thresholds=None)


WEIGHED = {  # a metric, the predictions' shape, and what weights may have besides (4,) and (4, 1)
    "one number": (metrics.BinaryAccuracy, (4,), []),
    "a column": (metrics.BinaryAccuracy, (4, 1), [(4, 1, 1)]),
    "two questions": (metrics.BinaryAccuracy, (4, 2), [(4, 2), (4, 1, 1), (4, 2, 1)]),
    "positions": (metrics.BinaryAccuracy, (4, 3, 2), [(4, 3), (4, 1, 1), (4, 3, 2)]),
    "one-hot": (metrics.CategoricalAccuracy, (4, 2), []),
    "an error": (metrics.MeanSquaredError, (4, 2), [(4, 2), (4, 1, 1), (4, 2, 1)]),
    "precision": (metrics.Precision, (4, 2), [(4, 2), (4, 1, 1), (4, 2, 1)]),
    "area": (metrics.AUC, (4, 2), [(4, 2), (4, 1, 1), (4, 2, 1)]),
    "F1": (metrics.F1Score, (4, 2), [(4, 2), (4, 1, 1), (4, 2, 1)]),
    "IoU": (lambda: metrics.MeanIoU(2), (4, 3), [(4, 3), (4, 1, 1)]),
}


@pytest.mark.parametrize("name", WEIGHED)
def test_weights_of_any_shape_count_or_are_refused(name):
    """Weights (4, 2) of values (4,) were a raw ValueError, and those of values (4, 1) a wrong number."""
    make, shape, also = WEIGHED[name]
    true, found = np.random.default_rng(0).integers(0, 2, (2, *shape)).astype(float)
    for weights in ((4,), (4, 1), (4, 2), (4, 3), (4, 1, 1), (4, 3, 2), (1, 2), (1,), (2,), (2, 1), (4, 2, 1)):
        given = np.ones(weights)
        if weights in [(4,), (4, 1), *also]:
            assert make()(true, found, given) == pytest.approx(make()(true, found))
            continue
        with pytest.raises(InputError, match="sample_weight"):
            make()(true, found, given)
