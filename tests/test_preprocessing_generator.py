"""ImageDataGenerator: the warp and its reference implementation, what is drawn, repeatability, normalisation."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from minicnn.errors import InputError
from minicnn.kernels.warp import FILL_MODES, affine_matrices, affine_warp, affine_warp_naive
from minicnn.preprocessing.image import ImageDataGenerator
from minicnn.preprocessing.statistics import channel_deviations, channel_means, zca_matrix
from minicnn.preprocessing.transforms import brightened
from minicnn.utils import set_random_seed

RNG = np.random.default_rng(0)
X = RNG.integers(256, size=(10, 8, 6, 3)).astype(np.uint8)
Y = np.arange(10)
ALL = {
    "rotation_range": 40, "width_shift_range": 0.2, "height_shift_range": 0.2, "shear_range": 15, "zoom_range": 0.3,
    "channel_shift_range": 20.0, "brightness_range": (0.5, 1.5), "horizontal_flip": True, "vertical_flip": True,
}  # fmt: skip


# ---- the warp --------------------------------------------------------------------------------------------------------


def random_matrices(n, size):
    return affine_matrices(
        size, RNG.uniform(-180, 180, n), RNG.uniform(-9, 9, n), RNG.uniform(-9, 9, n), RNG.uniform(-60, 60, n),
        RNG.uniform(0.3, 3, n), RNG.uniform(0.3, 3, n), RNG.random(n) < 0.5, RNG.random(n) < 0.5,
    )  # fmt: skip


@pytest.mark.parametrize("size", [(7, 9), (1, 6), (5, 1), (1, 1), (2, 3)])
@pytest.mark.parametrize("fill_mode", FILL_MODES)
def test_the_warp_and_its_reference_implementation_agree(size, fill_mode):
    x = RNG.normal(size=(6, *size, 3))
    matrices = random_matrices(6, size)
    y = affine_warp(x, matrices, fill_mode, cval=0.5)
    np.testing.assert_allclose(y, affine_warp_naive(x, matrices, fill_mode, cval=0.5), atol=1e-10)
    assert y.flags.c_contiguous and y.dtype == x.dtype


def test_more_images_than_a_tile_holds(monkeypatch):
    x, matrices = RNG.normal(size=(7, 6, 5, 2)), random_matrices(7, (6, 5))
    whole = affine_warp(x, matrices)
    monkeypatch.setattr("minicnn.kernels.warp.TILE_PIXELS", 70)  # two images and a bit
    np.testing.assert_array_equal(affine_warp(x, matrices), whole)


def test_the_image_itself_to_the_bit():
    x = RNG.normal(size=(3, 5, 4, 3)).astype(np.float32)
    for fill_mode in FILL_MODES:
        np.testing.assert_array_equal(affine_warp(x, affine_matrices((5, 4), [0, 0, 0]), fill_mode), x)


@pytest.mark.parametrize(("fill_mode", "row"), [
    ("nearest", [0, 0, 0, 0, 1]), ("constant", [9, 9, 9, 0, 1]), ("reflect", [2, 1, 0, 0, 1]),
])  # fmt: skip
def test_what_comes_from_outside(fill_mode, row):
    x = np.arange(5.0).reshape(1, 1, 5, 1)
    y = affine_warp(x, affine_matrices((1, 5), tx=-3), fill_mode, cval=9)
    np.testing.assert_array_equal(y.ravel(), row)


def test_directions():
    """A dot at (1, 2) of 5 rows and 7 columns."""
    dot = np.zeros((5, 7, 1))
    dot[1, 2] = 1

    def goes_to(**parameters):
        moved = ImageDataGenerator(fill_mode="constant").apply_transform(dot, parameters)
        return tuple(int(k) for k in np.argwhere(moved[..., 0] > 0.5)[0])

    assert goes_to(tx=1) == (1, 1)  # to the left
    assert goes_to(ty=1) == (0, 2)  # up
    assert goes_to(theta=90) == (3, 2)  # against the clock, around the middle (2, 3)
    assert goes_to(flip_horizontal=True) == (1, 4)
    assert goes_to(flip_vertical=True) == (3, 2)
    assert goes_to(zx=0.5) == (1, 1)  # twice as far from the middle column


def test_shifts_go_where_their_names_say():
    x = np.tile(np.arange(20.0)[:, None, None], (1, 20, 1))  # every row of one grey
    for k in range(5):
        np.testing.assert_allclose(ImageDataGenerator(width_shift_range=0.3).random_transform(x, seed=k), x, atol=1e-9)
        assert not np.allclose(ImageDataGenerator(height_shift_range=0.3).random_transform(x, seed=k), x)


# ---- what is drawn ---------------------------------------------------------------------------------------------------


def test_draws_fill_their_ranges():
    draw = ImageDataGenerator(**ALL).draw(4000, (20, 10, 3), np.random.default_rng(1))
    ranges = {
        "theta": (-40, 40), "tx": (-2, 2), "ty": (-4, 4), "shear": (-15, 15), "zx": (0.7, 1.3), "zy": (0.7, 1.3),
        "channel_shift_intensity": (-20, 20), "brightness": (0.5, 1.5),
    }  # fmt: skip
    for name, (low, high) in ranges.items():
        values, margin = draw[name], (high - low) / 100
        assert low <= values.min() < low + margin and high - margin < values.max() <= high, name
    for name in ("flip_horizontal", "flip_vertical"):
        assert 0.45 < draw[name].mean() < 0.55
    assert not np.array_equal(draw["zx"], draw["zy"])


@pytest.mark.parametrize(("extent", "values"), [
    (3, {-2, -1, 0, 1, 2}), ([1, 4], {-4, -1, 1, 4}), ([0.5, 0.25], {-5, -2.5, 2.5, 5}), (1, {0}),
])  # fmt: skip
def test_shifts_by_steps(extent, values):
    draw = ImageDataGenerator(width_shift_range=extent).draw(300, (20, 10, 3), np.random.default_rng(1))
    assert set(draw["tx"].tolist()) == values


def test_nothing_asked_for_is_nothing_done():
    np.testing.assert_array_equal(ImageDataGenerator().random_transform(X[0]), X[0])
    x, y = next(ImageDataGenerator().flow(X, Y, shuffle=False))
    np.testing.assert_array_equal(x, X)
    assert x.dtype == np.float32


def test_single_images_are_repeatable_and_stay_as_they_are():
    generator, before = ImageDataGenerator(**ALL), X[0].copy()
    np.testing.assert_array_equal(generator.random_transform(X[0], seed=3), generator.random_transform(X[0], seed=3))
    assert not np.array_equal(generator.random_transform(X[0]), generator.random_transform(X[0]))
    np.testing.assert_array_equal(X[0], before)
    parameters = generator.get_random_transform(X[0].shape, seed=3)
    np.testing.assert_array_equal(
        generator.apply_transform(X[0], parameters), generator.random_transform(X[0], seed=3)
    )  # fmt: skip


def test_brightness_of_pictures_from_0_to_1_and_of_other_numbers():
    x = np.array([0.0, 0.25, 1.0]).reshape(1, 1, 3, 1)
    np.testing.assert_allclose(brightened(x, 2.0).ravel(), [0, 0.5, 1])
    np.testing.assert_allclose(brightened(x * 200, 2.0).ravel(), [0, 100, 255])
    np.testing.assert_allclose(brightened(x * 4 - 2, 0.5).ravel(), [-2, -1.5, 0])


# ---- batches ---------------------------------------------------------------------------------------------------------


def batches(flow, count):
    return [next(flow) for _ in range(count)]


def same(ours, theirs):
    return all(np.array_equal(a, c) and np.array_equal(b, d) for (a, b), (c, d) in zip(ours, theirs, strict=True))


def test_a_seed_repeats_everything_and_another_one_nothing():
    def flow(seed):
        return ImageDataGenerator(**ALL).flow(X, Y, batch_size=4, seed=seed)

    assert same(batches(flow(1), 7), batches(flow(1), 7))
    assert not same(batches(flow(1), 7), batches(flow(2), 7))
    set_random_seed(5)
    first = batches(flow(None), 3)
    set_random_seed(5)
    assert same(first, batches(flow(None), 3))


def test_a_batch_does_not_depend_on_what_was_asked_before():
    flow, other = (ImageDataGenerator(**ALL).flow(X, Y, batch_size=4, seed=1) for _ in range(2))
    assert same([flow[2], flow[0], flow[1]], [other[k] for k in (2, 0, 1)])
    assert same([flow[0], flow[1], flow[2]], batches(other, 3))
    flow.on_epoch_end()
    assert same([flow[0]], [next(other)])


def test_every_epoch_has_every_image_once():
    flow = ImageDataGenerator().flow(X, Y, batch_size=4, seed=0)
    assert len(flow) == 3
    orders = [np.concatenate([y for _, y in batches(flow, 3)]).tolist() for _ in range(3)]
    assert all(sorted(order) == list(range(10)) for order in orders)
    assert orders[0] != orders[1] != orders[2]
    for x, y in batches(flow, 3):
        np.testing.assert_array_equal(x, X[y])


def test_images_of_one_batch_differ_and_so_do_epochs():
    same_image = np.repeat(X[:1], 4, axis=0)
    flow = ImageDataGenerator(**ALL).flow(same_image, batch_size=4, shuffle=False)
    one, other = next(flow), next(flow)
    images = [*one, *other]
    assert len({image.tobytes() for image in images}) == 8


def test_subsets():
    generator = ImageDataGenerator(validation_split=0.3)
    validation = generator.flow(X, Y, subset="validation", shuffle=False)
    training = generator.flow(X, Y, subset="training", shuffle=False)
    assert next(validation)[1].tolist() == [0, 1, 2]
    assert next(training)[1].tolist() == [3, 4, 5, 6, 7, 8, 9]


@pytest.mark.parametrize("ending", ["png", "jpeg", "jpg"])
def test_batches_are_saved_to_look_at(tmp_path, ending):
    flow = ImageDataGenerator(horizontal_flip=True).flow(
        X, Y, batch_size=4, seed=0, save_to_dir=tmp_path / "new", save_prefix="aug", save_format=ending
    )
    x, y = next(flow)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(f"aug_{k}_0.{ending}" for k in y)
    if ending == "png":
        for image, k in zip(x, y, strict=True):
            np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "new" / f"aug_{k}_0.png")), image)


def test_saved_pictures_of_normalised_images_can_be_seen(tmp_path):
    next(ImageDataGenerator(rescale=1 / 255).flow(X, Y, save_to_dir=tmp_path))
    assert all(np.asarray(Image.open(path)).max() == 255 for path in tmp_path.iterdir())


# ---- normalisation ---------------------------------------------------------------------------------------------------


def test_samplewise():
    generator = ImageDataGenerator(samplewise_std_normalization=True)
    assert generator.samplewise_center
    x = generator.standardize(X)
    np.testing.assert_allclose(x.mean(axis=(1, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(x.std(axis=(1, 2, 3)), 1, atol=1e-5)
    np.testing.assert_allclose(generator.standardize(X[3]), x[3])


def test_featurewise():
    generator = ImageDataGenerator(featurewise_std_normalization=True, rescale=1 / 255)
    generator.fit(X)
    x, _ = next(generator.flow(X, Y, batch_size=10))
    np.testing.assert_allclose(x.mean(axis=(0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(x.std(axis=(0, 1, 2)), 1, atol=1e-4)
    np.testing.assert_allclose(generator.mean.ravel(), X.mean(axis=(0, 1, 2)) / 255, rtol=1e-5)


def test_preprocessing_function_comes_before_rescale():
    generator = ImageDataGenerator(preprocessing_function=lambda image: 255 - image, rescale=1 / 255)
    np.testing.assert_allclose(generator.standardize(X), 1 - X / 255, atol=1e-6)
    with pytest.raises(InputError, match="it changes the shape"):
        ImageDataGenerator(preprocessing_function=lambda image: image[:2]).standardize(X)


def test_what_needs_fit_says_so():
    for argument in ("featurewise_center", "featurewise_std_normalization", "zca_whitening"):
        with pytest.raises(InputError, match="has not seen any training images"):
            ImageDataGenerator(**{argument: True}).standardize(X)


def blocks_of(x, size):
    return lambda: (x[k : k + size] for k in range(0, len(x), size))


def test_statistics_in_blocks():
    x = RNG.normal(3, 2, size=(50, 4, 5, 3))
    mean = channel_means(blocks_of(x, 7))
    np.testing.assert_allclose(mean.ravel(), x.mean(axis=(0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(channel_deviations(blocks_of(x, 7), mean).ravel(), x.std(axis=(0, 1, 2)), rtol=1e-5)


@pytest.mark.parametrize("images", [200, 20])  # more, and fewer, than the 48 numbers of an image
@pytest.mark.parametrize("epsilon", [1e-6, 5.0])
def test_whitening_against_the_singular_values(images, epsilon):
    """Keras' formula: X = V S Uᵀ whole, W = U diag(√n / (s + ε)) Uᵀ."""
    x = RNG.normal(size=(images, 4, 4, 3)).cumsum(axis=1).cumsum(axis=2)
    mean = x.mean(axis=(0, 1, 2))
    u, s, _ = np.linalg.svd((x - mean).reshape(images, -1).T, full_matrices=False)
    expected = (u * (np.sqrt(images) / (s + epsilon))) @ u.T
    w = zca_matrix(blocks_of(x, 33), mean, epsilon)
    np.testing.assert_allclose(w, expected, atol=1e-4 * np.abs(expected).max())


def test_white_means_uncorrelated():
    x = RNG.normal(size=(400, 3, 3, 2)).cumsum(axis=1).cumsum(axis=2).astype(np.float32)
    generator = ImageDataGenerator(zca_whitening=True)
    generator.fit(x)
    flat = generator.standardize(x).reshape(400, -1).astype(np.float64)
    np.testing.assert_allclose(flat.T @ flat / 400, np.eye(18), atol=1e-3)


def test_fit_on_augmented_images_is_repeatable():
    def fitted(seed):
        generator = ImageDataGenerator(featurewise_std_normalization=True, **ALL)
        generator.fit(X, augment=True, rounds=3, seed=seed)
        return generator.mean

    np.testing.assert_array_equal(fitted(1), fitted(1))
    assert not np.array_equal(fitted(1), fitted(2))


# ---- what does not fit -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"rotation_range": -5}, "rotation_range"),
        ({"rotation_range": "30"}, "rotation_range"),
        ({"width_shift_range": -0.1}, "width_shift_range"),
        ({"height_shift_range": []}, "height_shift_range"),
        ({"zoom_range": 1.0}, "zoom_range"),
        ({"zoom_range": (1.2, 0.8)}, "zoom_range"),
        ({"zoom_range": (1, 2, 3)}, "zoom_range"),
        ({"brightness_range": 0.5}, "brightness_range"),
        ({"fill_mode": "reflct"}, "did you mean 'reflect'"),
        ({"validation_split": 1.0}, "validation_split"),
        ({"rescale": "1/255"}, "rescale"),
        ({"data_format": "channels_first"}, "channels last"),
    ],
)
def test_arguments(arguments, text):
    with pytest.raises(InputError, match=text):
        ImageDataGenerator(**arguments)


@pytest.mark.parametrize(
    ("x", "y", "arguments", "text"),
    [
        (X[..., 0], Y, {}, "give grey images their channel"),
        (X[:0], Y[:0], {}, "x are no images"),
        (X, Y[:9], {}, "x and y have different lengths"),
        (X, Y, {"subset": "training"}, "the generator knows of no parts"),
        (X, Y, {"subset": "test"}, "subset: unknown name"),
        (X, Y, {"batch_size": 2.5}, "batch_size"),
        (X, Y, {"save_to_dir": ".", "save_format": "pgn"}, "did you mean"),
    ],
)
def test_flow_of_what_does_not_fit(x, y, arguments, text):
    with pytest.raises(InputError, match=text):
        ImageDataGenerator().flow(x, y, **arguments)


def test_one_image_is_no_batch():
    with pytest.raises(InputError, match="this is not one image"):
        ImageDataGenerator().random_transform(X)
    with pytest.raises(InputError, match="these are not images"):
        ImageDataGenerator().fit(X[0])
