"""fit, evaluate and predict on objects that give batches by number, and on generators that others go on using."""

from __future__ import annotations

import json
import threading
import warnings

import numpy as np
import pytest

from minicnn.callbacks import Callback
from minicnn.errors import InputError
from minicnn.layers import Dense, Flatten, Input
from minicnn.models import Sequential
from minicnn.preprocessing.image import ImageDataGenerator
from minicnn.utils import PyDataset, set_random_seed

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(20, 6)).astype(np.float32), RNG.integers(3, size=20)
IMAGES = RNG.integers(256, size=(20, 6, 6, 3)).astype(np.uint8)


def new_model(shape=(6,)):
    set_random_seed(0)
    model = Sequential([Input(shape), Flatten(), Dense(3, activation="softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


class Slices(PyDataset):
    """Batches of X and Y, in their order; writes down what it is asked."""

    def __init__(self, size=5):
        super().__init__()
        self.size, self.asked, self.ends = size, [], 0

    def __len__(self):
        return len(X) // self.size

    def __getitem__(self, i):
        self.asked.append(i)
        part = slice(i * self.size, (i + 1) * self.size)
        return X[part], Y[part]

    def on_epoch_end(self):
        self.ends += 1


class Duck:
    """No base class, no on_epoch_end, no __iter__."""

    def __len__(self):
        return 4

    def __getitem__(self, i):
        return Slices()[i]


@pytest.mark.parametrize("kind", [Slices, Duck])
def test_the_same_as_the_arrays(kind):
    one, other = new_model(), new_model()
    one.fit(X, Y, batch_size=5, epochs=3, shuffle=False, verbose=0, validation_data=(X, Y))
    history = other.fit(kind(), epochs=3, verbose=0, validation_data=kind())
    for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    for name, values in one.history.history.items():
        np.testing.assert_allclose(history.history[name], values, rtol=1e-6)
    judged = one.evaluate(X, Y, batch_size=5, verbose=0)
    np.testing.assert_allclose(other.evaluate(kind(), verbose=0), judged, rtol=1e-6)
    np.testing.assert_array_equal(other.predict(kind(), verbose=0), one.predict(X, batch_size=5, verbose=0))


def test_passes_end_where_they_end():
    data = Slices()
    new_model().fit(data, epochs=2, verbose=0)
    assert (data.asked, data.ends) == ([0, 1, 2, 3] * 2, 2)


@pytest.mark.parametrize(("steps", "asked", "ends"), [(3, [0, 1, 2, 3, 0, 1], 1), (6, [0, 1, 2, 3] * 3, 3)])
def test_steps_per_epoch_go_on_through_the_passes(steps, asked, ends):
    data = Slices()
    new_model().fit(data, epochs=2, steps_per_epoch=steps, verbose=0)
    assert (data.asked, data.ends) == (asked, ends)


def test_evaluate_begins_at_the_first_batch_each_time():
    data, model = Slices(), new_model()
    for _ in range(2):
        model.evaluate(data, steps=2, verbose=0)
    assert data.asked == [0, 1, 0, 1]


def test_batches_without_targets_are_for_predict():
    flow, model = ImageDataGenerator().flow(IMAGES, batch_size=8, shuffle=False), new_model((6, 6, 3))
    np.testing.assert_array_equal(model.predict(flow, verbose=0), model.predict(IMAGES, batch_size=8, verbose=0))
    with pytest.raises(InputError, match="a batch is not a pair"):
        model.fit(flow, verbose=0)


@pytest.mark.parametrize("data", [Slices(), ImageDataGenerator().flow(IMAGES, Y)])
def test_targets_beside_a_sequence(data):
    with pytest.raises(InputError, match="brings its own targets"):
        new_model().fit(data, Y, verbose=0)


def test_an_empty_sequence():
    with pytest.raises(InputError, match="no batches in it"):
        new_model().fit(Slices(size=100), verbose=0)


def test_an_error_in_a_batch_reaches_the_caller():
    class Broken(Slices):
        def __getitem__(self, i):
            return super().__getitem__(i) if i < 2 else {}["missing"]

    with pytest.raises(KeyError, match="missing"):
        new_model().fit(Broken(), verbose=0)
    assert no_thread_is_left()


class Stop(Callback):
    def __init__(self, batch, how):
        super().__init__()
        self.batch, self.how = batch, how

    def on_train_batch_end(self, batch, logs=None):
        if batch == self.batch:
            self.how(self.model)


def interrupt(model):
    raise KeyboardInterrupt


def test_ctrl_c_leaves_no_thread():
    with pytest.raises(KeyboardInterrupt):
        new_model().fit(Slices(), verbose=0, callbacks=Stop(1, interrupt))
    assert no_thread_is_left()


def test_stopping_in_the_middle_of_an_epoch_leaves_no_thread():
    new_model().fit(Slices(), verbose=0, callbacks=Stop(1, lambda model: setattr(model, "stop_training", True)))
    assert no_thread_is_left()


def no_thread_is_left():
    return all(thread.name != "prefetch" for thread in threading.enumerate())


def test_a_generator_is_not_drawn_from_beyond_what_was_asked():
    drawn = []

    def endless():
        while True:
            drawn.append(len(drawn))
            yield X[:4], Y[:4]

    generator = endless()
    new_model().fit(generator, steps_per_epoch=3, epochs=2, verbose=0, validation_data=generator, validation_steps=2)
    assert len(drawn) == 2 * (3 + 2)
    next(generator)  # nobody is in it
    assert len(drawn) == 11


# ---- memory and generators that somebody else holds, too -------------------------------------------------------------


def refilled(size=5):
    """Batches in one buffer, which is filled anew for each."""
    x, y = np.empty((size, 6), np.float32), np.empty(size, int)
    while True:
        for i in range(0, len(X), size):
            x[:], y[:] = X[i : i + size], Y[i : i + size]
            yield x, y


class Refilled(Slices):
    def __init__(self, **options):
        super().__init__()
        self.workers = options.get("workers", 1)
        self.x, self.y = np.empty((self.size, 6), np.float32), np.empty(self.size, int)

    def __getitem__(self, i):
        self.x[:], self.y[:] = super().__getitem__(i)
        return [self.x, self.y]


@pytest.mark.parametrize("source", [refilled, Refilled, lambda: Refilled(workers=0)])
def test_a_source_may_refill_its_arrays(source):
    def run(data):
        model = new_model()
        losses = model.fit(data, steps_per_epoch=4, epochs=3, verbose=0).history["loss"]
        return [*losses, *model.evaluate(data, steps=4, verbose=0), *model.predict(data, steps=4, verbose=0).ravel()]

    def fresh():
        return ((x.copy(), y.copy()) for x, y in refilled())

    assert run(source()) == run(fresh())


@pytest.mark.parametrize("kind", ["generator", "sequence"])
def test_batches_can_be_made_in_ones_own_thread(kind):
    """Which a database connection asks for, and a random generator from which layers draw, too."""
    threads = set()

    class Here(PyDataset):
        def __len__(self):
            return 4

        def __getitem__(self, i):
            threads.add(threading.current_thread())
            return X[:5], Y[:5]

    data = Here(workers=0) if kind == "sequence" else (Here()[i] for i in iter(int, 1))
    new_model().fit(data, steps_per_epoch=3, epochs=2, verbose=0)
    assert threads == {threading.current_thread()}


class Loader:
    """What a DataLoader is: it can be iterated over again and again."""

    def __len__(self):
        return 4

    def __iter__(self):
        return (Slices()[i] for i in range(4))


class Endless(Loader):
    """As some tf.data.Datasets are."""

    def __len__(self):
        raise TypeError("The dataset is infinite.")


@pytest.mark.parametrize(
    "source",
    [Loader, Endless, lambda: iter(Loader()), lambda: ((x,) for x, _ in Loader()), lambda: (x for x, _ in Loader())],
)
def test_predict_takes_what_fit_takes(source):
    model = new_model()
    np.testing.assert_array_equal(model.predict(source(), steps=4, verbose=0), model.predict(X, 5, verbose=0))


class Unmeasured(PyDataset):
    """Without __len__; Keras calls its num_batches None."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def __getitem__(self, i):
        self.asked.append(i)
        return X[:5], Y[:5]


def test_a_dataset_without_a_length_needs_steps():
    data = Unmeasured()
    new_model().fit(data, steps_per_epoch=3, epochs=2, verbose=0)
    assert data.asked == [0, 1, 2, 3, 4, 5]
    with pytest.raises(InputError, match="how many batches it has"):
        new_model().fit(data, verbose=0)
    data.num_batches = 2
    new_model().fit(data, verbose=0)
    assert data.asked[6:] == [0, 1]


@pytest.mark.parametrize("shuffle", [True, False])
def test_predict_says_so_where_its_order_is_not_that_of_the_labels(shuffle):
    flow = ImageDataGenerator().flow(IMAGES, Y, batch_size=8, shuffle=shuffle, seed=1)
    model = new_model((6, 6, 3))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.predict(flow, verbose=0)
    assert [str(w.message)[:40] for w in caught] == ["The data that predict was given is shuff"] * shuffle


# ---- iterators of images: repeatable, and resumable in the middle of an epoch ----------------------------------------


def flow(seed=7):
    generator = ImageDataGenerator(rotation_range=40, zoom_range=0.3, horizontal_flip=True, rescale=1 / 255)
    return generator.flow(IMAGES, Y, batch_size=6, seed=seed)


def test_fit_sees_what_next_gives():
    one, other, data = new_model((6, 6, 3)), new_model((6, 6, 3)), flow()
    one.fit(flow(), epochs=2, verbose=0)
    for _ in range(2 * len(data)):
        x, y = next(data)
        other.fit(x, y, batch_size=6, shuffle=False, verbose=0)
    for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


class States(Callback):
    def __init__(self, data):
        super().__init__()
        self.data, self.states = data, []

    def on_train_batch_end(self, batch, logs=None):
        self.states.append(json.loads(json.dumps(self.data.state_dict())))


def test_the_place_is_that_of_training_and_a_new_iterator_goes_on_there():
    data, model = flow(), new_model((6, 6, 3))
    states = States(data)
    model.fit(data, epochs=2, verbose=0, callbacks=states)
    places = [(state["epoch"], state["index"]) for state in states.states]
    assert places == [(epoch, index) for epoch in (0, 1) for index in (1, 2, 3, 4)]
    assert data.state_dict()["epoch"] == 2

    again, resumed = flow(), flow(seed=99)
    seen = [next(again) for _ in range(2 * len(again))]
    for k, state in enumerate(states.states[:-1]):
        resumed.load_state_dict(state)
        x, y = next(resumed)
        np.testing.assert_array_equal(x, seen[k + 1][0])
        np.testing.assert_array_equal(y, seen[k + 1][1])


def test_a_place_in_other_data():
    with pytest.raises(InputError, match="belongs to other data"):
        flow().load_state_dict(ImageDataGenerator().flow(IMAGES[:4], Y[:4]).state_dict())
    with pytest.raises(InputError, match="belongs to other data"):
        flow().load_state_dict({"epoch": 1})


class Shuffled(Slices):
    """A sequence with a random order of its own, that cannot say where it is."""

    def __init__(self):
        super().__init__()
        self.rng = np.random.default_rng(3)
        self.order = np.arange(len(X))

    def __getitem__(self, i):
        part = self.order[i * self.size : (i + 1) * self.size]
        return X[part], Y[part]

    def on_epoch_end(self):
        self.rng.shuffle(self.order)


@pytest.mark.parametrize("steps", [None, 3])
@pytest.mark.parametrize("batches", [1, 2, 5, 6])
@pytest.mark.parametrize(("new_data", "shape"), [(flow, (6, 6, 3)), (Shuffled, (6,))])
def test_a_backup_goes_on_in_the_middle_of_an_epoch(tmp_path, new_data, shape, steps, batches):
    from minicnn.callbacks import BackupAndRestore

    whole = new_model(shape)
    whole.fit(new_data(), epochs=3, steps_per_epoch=steps, verbose=0)

    left = iter(range(batches))

    def stop(model):
        raise KeyboardInterrupt

    class StopAfter(Callback):
        def on_train_batch_end(self, batch, logs=None):
            if next(left) == batches - 1:
                stop(self.model)

    def backup():
        return BackupAndRestore(tmp_path / "backup", save_freq=1)

    killed = new_model(shape)
    with pytest.raises(KeyboardInterrupt):
        killed.fit(new_data(), epochs=3, steps_per_epoch=steps, verbose=0, callbacks=[backup(), StopAfter()])
    resumed = new_model(shape)
    resumed.fit(new_data(), epochs=3, steps_per_epoch=steps, verbose=0, callbacks=[backup()])
    for a, b in zip(whole.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
