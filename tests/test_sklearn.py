"""CNNClassifier and CNNRegressor are estimators as scikit-learn's own: its checks, its tools, and pickling."""

from __future__ import annotations

import os
import pickle
import pickletools
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from minicnn.callbacks import EarlyStopping
from minicnn.errors import InputError
from minicnn.layers import Dense, Input, Layer
from minicnn.models import Sequential
from minicnn.training.shards import get_num_threads

pytest.importorskip("sklearn", reason='needs scikit-learn: python -m pip install ".[test]"')

from sklearn.base import clone  # noqa: E402
from sklearn.calibration import CalibratedClassifierCV  # noqa: E402
from sklearn.compose import TransformedTargetRegressor  # noqa: E402
from sklearn.datasets import load_digits  # noqa: E402
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import MinMaxScaler, StandardScaler  # noqa: E402
from sklearn.utils.estimator_checks import check_estimator  # noqa: E402

from minicnn.sklearn import CNNClassifier, CNNRegressor  # noqa: E402

RNG = np.random.default_rng(0)
BLOBS = np.concatenate([RNG.normal(-1, 0.5, (30, 3)), RNG.normal(1, 0.5, (30, 3))])
NAMES = np.array(["no"] * 30 + ["yes"] * 30)


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    return train_test_split(x, y, test_size=0.3, random_state=0, stratify=y)


# ---- scikit-learn's own checks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", [CNNClassifier(), CNNRegressor()], ids=lambda e: type(e).__name__)
def test_check_estimator(estimator):
    """None may fail; those are skipped that need pandas or another array library."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = check_estimator(estimator, on_fail=None, on_skip=None)
    failed = {r["check_name"]: r["exception"] for r in results if r["status"] not in ("passed", "skipped")}
    assert failed == {} and sum(r["status"] == "passed" for r in results) >= 55
    skipped = [r["check_name"] for r in results if r["status"] == "skipped"]
    assert len(skipped) <= 3, skipped


def test_a_weight_of_two_is_the_sample_twice():
    weights = RNG.integers(0, 3, len(BLOBS))
    make = CNNClassifier(batch_size=200, epochs=5, random_state=0)
    one = clone(make).fit(BLOBS, NAMES, weights).predict_proba(BLOBS)
    other = clone(make).fit(BLOBS.repeat(weights, axis=0), NAMES.repeat(weights)).predict_proba(BLOBS)
    np.testing.assert_allclose(one, other, rtol=1e-9)
    unweighted = clone(make).fit(BLOBS, NAMES).predict_proba(BLOBS)
    assert np.abs(one - unweighted).max() > 1e-4


# ---- digits, and scikit-learn's tools --------------------------------------------------------------------------------


def test_digits_calibrated_in_a_pipeline(digits):
    x, x_test, y, y_test = digits
    network = CNNClassifier(image_shape=(8, 8), epochs=12, learning_rate=2e-3, random_state=0)
    pipeline = make_pipeline(MinMaxScaler(), CalibratedClassifierCV(network, cv=3, ensemble=False))
    assert pipeline.fit(x, y).score(x_test, y_test) >= 0.97
    p = pipeline.predict_proba(x_test)
    assert p.shape == (len(x_test), 10) and np.allclose(p.sum(axis=1), 1)


def test_grid_search_and_cross_validation(digits):
    x, y = digits[0][:300] / 16, digits[2][:300]
    search = GridSearchCV(CNNClassifier("dense", random_state=0), {"epochs": [1, 15]}, cv=2).fit(x, y)
    assert search.best_params_ == {"epochs": 15} and search.best_estimator_.n_iter_ == 15
    scores = cross_val_score(CNNClassifier("dense", random_state=0), x, y, cv=3)
    assert scores.shape == (3,) and scores.min() > 0.8


def test_two_processes(tmp_path, monkeypatch):
    """joblib's processes give the same numbers, and each keeps to its share of the cores."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    script = """
import numpy as np
from joblib import Parallel, delayed
from sklearn.model_selection import cross_val_score
from minicnn import get_num_threads
from minicnn.sklearn import CNNClassifier
if __name__ == "__main__":
    rng = np.random.default_rng(0)
    x, y = np.concatenate([rng.normal(-1, 1, (30, 3)), rng.normal(1, 1, (30, 3))]), np.arange(60) // 30
    alone, both = (cross_val_score(CNNClassifier(random_state=0), x, y, cv=2, n_jobs=n) for n in (1, 2))
    assert (alone == both).all()
    print(*Parallel(n_jobs=2)(delayed(get_num_threads)() for _ in range(2)))
"""
    path = tmp_path / "two.py"
    path.write_text(script)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, path], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    threads = [int(word) for word in done.stdout.split()]
    assert threads == [max(1, get_num_threads() // 2)] * 2


def test_threads_that_openmp_was_told(monkeypatch):
    cores = get_num_threads()
    for told, threads in {"1": 1, "100000": cores, "": cores, "many": cores, "0": 1}.items():
        monkeypatch.setenv("OMP_NUM_THREADS", told)
        assert get_num_threads() == threads


# ---- images, builders, arguments -------------------------------------------------------------------------------------


def test_images_as_they_are_and_as_rows():
    x = RNG.random((20, 6, 6, 2)).astype("f")
    y = (x.mean(axis=(1, 2, 3)) > 0.5).astype(int)
    one = CNNClassifier(epochs=2, random_state=0).fit(x, y)
    rows = x.reshape(20, -1)
    two = CNNClassifier(epochs=2, random_state=0, image_shape=(6, 6, 2)).fit(rows, y)
    assert one.n_features_in_ == two.n_features_in_ == 72 and one.input_shape_ == (6, 6, 2)
    np.testing.assert_array_equal(one.predict_proba(x), two.predict_proba(rows))
    np.testing.assert_array_equal(one.predict_proba(rows), two.predict_proba(x))
    assert CNNClassifier(epochs=1).fit(x[..., 0], y).input_shape_ == (6, 6, 1)
    assert one.model_.dtype == np.float32


def build(input_shape, outputs):
    return Sequential([Input(input_shape), Dense(4, "tanh"), Dense(outputs, "softmax")])


def built_and_compiled(input_shape, outputs):
    model = build(input_shape, outputs)
    model.compile("rmsprop", "categorical_crossentropy")
    return model


@pytest.mark.parametrize("builder", [build, built_and_compiled, "dense"])
def test_builders(builder):
    made = CNNClassifier(builder, epochs=60, random_state=0).fit(BLOBS, NAMES)
    assert made.score(BLOBS, NAMES) > 0.9 and list(made.classes_) == ["no", "yes"]
    assert made.n_iter_ == len(made.history_["loss"]) == 60
    if builder is built_and_compiled:
        assert type(made.model_.optimizer).__name__ == "RMSprop"


def test_other_random_numbers_are_left_alone():
    from minicnn import random

    random.seed(3)
    expected = [random.new_generator().random() for _ in range(2)]
    random.seed(3)
    found = [random.new_generator().random()]
    CNNClassifier(epochs=1, random_state=0).fit(BLOBS, NAMES)
    assert [*found, random.new_generator().random()] == expected


def test_early_stopping_on_samples_that_are_held_back():
    stopping = EarlyStopping("val_loss", patience=1, min_delta=10.0)
    made = CNNClassifier(epochs=30, callbacks=[stopping], validation_split=0.25, random_state=0).fit(
        BLOBS, NAMES, np.ones(len(BLOBS))
    )
    assert made.n_iter_ == 2 and "val_loss" in made.history_
    assert stopping.stopped_epoch == 0, "the callback of the constructor is copied"


def test_class_weight_by_name_and_by_number():
    y = np.where(np.arange(60) < 54, "many", "few")
    counts = [
        (CNNClassifier(epochs=5, class_weight=w, random_state=0).fit(RNG.normal(size=(60, 3)), y).predict(BLOBS)
         == "few").sum()
        for w in (None, "balanced", {"few": 100.0})
    ]  # fmt: skip
    assert counts[0] < counts[1] <= counts[2]


def test_partial_fit_goes_on():
    made = CNNClassifier(random_state=0)
    with pytest.raises(InputError, match="the classes are not known"):
        made.partial_fit(BLOBS, NAMES)
    for _ in range(40):
        made.partial_fit(BLOBS, NAMES, classes=["maybe", "no", "yes"])
    assert made.score(BLOBS, NAMES) > 0.9 and made.predict_proba(BLOBS).shape == (60, 3) and made.n_iter_ == 40
    with pytest.raises(InputError, match=r"(?s)none of the classes.*\['perhaps'\]"):
        made.partial_fit(BLOBS[:1], ["perhaps"])
    with pytest.raises(InputError, match="class_weight cannot be found"):
        CNNClassifier(class_weight="balanced").partial_fit(BLOBS, NAMES, ["no", "yes"])
    numbers = CNNRegressor(random_state=0)
    for _ in range(60):
        numbers.partial_fit(BLOBS, BLOBS[:, 0])
    assert numbers.score(BLOBS, BLOBS[:, 0]) > 0.8


def test_a_regressor_of_several_numbers_and_of_images():
    y = np.stack([BLOBS.sum(axis=1), BLOBS[:, 0]], axis=1)
    made = CNNRegressor(epochs=80, random_state=0, loss="mae").fit(BLOBS, y)
    assert made.predict(BLOBS).shape == (60, 2) and made.score(BLOBS, y) > 0.8
    x = RNG.random((40, 6, 6))
    assert CNNRegressor("cnn", epochs=2).fit(x, x.mean(axis=(1, 2))).predict(x[:3]).shape == (3,)
    far = TransformedTargetRegressor(CNNRegressor(epochs=80, random_state=0), transformer=StandardScaler())
    assert far.fit(BLOBS, 1000 + 500 * BLOBS[:, 0]).score(BLOBS, 1000 + 500 * BLOBS[:, 0]) > 0.8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "desne"}, r"(?s)unknown name.*did you mean 'dense'"),
        ({"model": 3}, "model does not fit"),
        ({"model": Sequential([Dense(2)])}, "model does not fit"),
        ({"model": lambda shape, n: Sequential([Input(shape), Dense(n)])}, "does not end as it should"),
        ({"model": lambda shape, n: Sequential([Input(shape), Dense(7, "softmax")])}, "does not end as it should"),
        ({"image_shape": (2, 2)}, "image_shape does not fit"),
        ({"optimizer": "adma"}, "did you mean 'adam'"),
        ({"epochs": -1}, "epochs"),
    ],
)
def test_what_does_not_fit(arguments, message):
    with pytest.raises(InputError, match=message):
        CNNClassifier(**arguments).fit(BLOBS, NAMES)


def test_one_class_is_too_few():
    with pytest.raises(InputError, match=r"(?s)at least 2 classes.*1 class, .*yes"):
        CNNClassifier().fit(BLOBS[30:], NAMES[30:])


# ---- pickling --------------------------------------------------------------------------------------------------------


class Halved(Layer):
    def forward(self, x, ctx):
        return x / 2

    def backward(self, dy, ctx):
        return dy / 2


def with_own_layer(input_shape, outputs):
    return Sequential([Input(input_shape), Halved(), Dense(outputs, "softmax")])


@pytest.mark.parametrize("builder", [None, with_own_layer])
@pytest.mark.parametrize("double", [False, True])
def test_pickled_by_the_save_format(builder, double):
    """The network is there as its own file; it goes on learning where it stopped, bit for bit."""
    x = BLOBS if double else BLOBS.astype("f")
    made = CNNClassifier(builder, epochs=2, random_state=0).fit(x, NAMES)
    content = pickle.dumps(made)
    named = {op[1] for op in pickletools.genops(content) if isinstance(op[1], str)}
    assert not {name for name in named if name.startswith(("minicnn.layers", "minicnn.models", "minicnn.optimizers"))}
    again = pickle.loads(content)
    assert again.model_.dtype == made.model_.dtype == x.dtype
    np.testing.assert_array_equal(again.predict_proba(x), made.predict_proba(x))
    np.testing.assert_array_equal(
        again.partial_fit(x, NAMES).predict_proba(x), made.partial_fit(x, NAMES).predict_proba(x)
    )


def test_a_clone_and_a_copy_that_was_not_trained():
    made = CNNClassifier(build, image_shape=None, epochs=3, batch_size=7, random_state=1).fit(BLOBS, NAMES)
    fresh = clone(made)
    assert fresh.get_params() == made.get_params() and not hasattr(fresh, "model_")
    assert pickle.loads(pickle.dumps(fresh)).get_params() == fresh.get_params()


def test_without_scikit_learn():
    code = "import sys; sys.modules['sklearn'] = sys.modules['sklearn.base'] = None\nimport minicnn.sklearn"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode != 0 and "What to do: python -m pip install -U scikit-learn" in done.stderr


@pytest.mark.parametrize("made", [CNNClassifier, CNNRegressor])
@pytest.mark.parametrize("shape", [
    "8x8", 3, (3,), (), (1, 1, 3, 1), (1.0, 3.0), (-1, -3), (0, 3), (1, "3"), (None, 3), (True, 3), {1, 3},
    float("nan"),
], ids=str)  # fmt: skip
def test_what_is_no_image_shape_is_refused_in_words(made, shape):
    y = np.arange(len(BLOBS)) % 2
    with pytest.raises(InputError, match="this is no image_shape"):
        made("dense", image_shape=shape, epochs=1).fit(BLOBS, y)


@pytest.mark.parametrize("shape", [(1, 3), [1, 3], np.array([1, 3]), (1, 1, 3), (np.int64(1), 3)], ids=repr)
def test_every_form_of_an_image_shape(shape):
    network = CNNClassifier("dense", image_shape=shape, epochs=1, random_state=0).fit(BLOBS, NAMES)
    assert network.predict(BLOBS).shape == NAMES.shape
