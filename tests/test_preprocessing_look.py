"""What training images look like, pictures that look different, and how they are made alike."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import own_digits
import pytest
from PIL import Image

import minicnn
from minicnn.datasets import cifar10, fashion_mnist, mnist
from minicnn.errors import InputError
from minicnn.layers import Conv2D, Dense, Flatten, Input, MaxPooling2D
from minicnn.preprocessing.image import ImageInput, Look
from minicnn.preprocessing.look import background, box_of, centre_of_mass, differences, level, surface
from minicnn.preprocessing.prepare import _connected, _largest, _otsu

MNIST = Look(background=0.0, lighter=True, fill=20 / 28, density=0.35, by_mass=True, aspect=1.0)


def mnist_like(n=200, seed=0):
    """Light blobs on black, 20 pixels long, their centre of mass in the middle of 28 x 28."""
    rng, x = np.random.default_rng(seed), np.zeros((n, 28, 28), np.uint8)
    for image in x:
        width = rng.integers(4, 12)
        image[4:24, 14 - width // 2 : 14 + width - width // 2] = 255
        heavy = rng.integers(4, 14)
        image[heavy : heavy + 5, 9:19] = 255
        row, column = (round(14 - at) for at in centre_of_mass(image.astype(float)))
        image[:] = np.roll(image, (row, column), (0, 1))
    return x


def file_of(img, kind="PNG"):
    stream = io.BytesIO()
    img.save(stream, kind)
    stream.seek(0)
    return stream


def both(image_input, img):
    """(the doubts of a picture, the image that the suited input makes of it)."""
    return image_input.doubts(file_of(img)), image_input.suited(file_of(img)).load(file_of(img))


# ---- what is learned -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(28, 28), (28, 28, 1)])
def test_what_is_learned_of_light_things_on_black(shape):
    look = ImageInput(28, 28, "grayscale").learn(mnist_like().reshape(-1, *shape), aspect=1.0).look
    assert (look.background, look.lighter, look.by_mass, look.aspect) == (0, True, True, 1)
    assert abs(look.fill - 20 / 28) < 0.01


def test_what_is_learned_of_dark_things_on_white_in_colour():
    x = np.repeat(255 - mnist_like()[..., None], 3, axis=-1)
    x[:, 10:20, 12:16, 0] = 90
    look = ImageInput(28, 28).learn(x).look
    assert look.background == 255 and not look.lighter and look.aspect is None


def test_photographs_have_no_one_background():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (100, 1, 1, 3)) + rng.normal(0, 20, (100, 8, 8, 3))
    assert ImageInput(8, 8).learn(np.clip(x, 0, 255)).look is None
    assert ImageInput(8, 8).learn(np.zeros((5, 8, 8, 3))).look is None  # nothing on them
    assert ImageInput(8, 8).doubts("not even looked for") == {}


@pytest.mark.parametrize("x", [np.zeros((8, 8)), np.zeros((0, 8, 8)), np.array([["a"]])])
def test_what_can_teach_nothing(x):
    with pytest.raises(InputError, match="these are no images"):
        ImageInput(8, 8).learn(x)


def test_it_is_saved_with_the_model(tmp_path):
    model = minicnn.Sequential([Input((28, 28, 1)), Flatten(), Dense(2)])
    model.image_input = ImageInput(28, 28, "grayscale", invert=True, contrast=True, center=True, look=MNIST)
    model.save(tmp_path / "m.zip")
    assert minicnn.load_model(tmp_path / "m.zip").image_input == model.image_input


@pytest.mark.parametrize(("arguments", "text"), [
    ({"contrast": True}, "does not know what the training images look like"),
    ({"center": True}, "does not know what the training images look like"),
    ({"invert": 1}, "invert"),
    ({"look": "dark"}, "look"),
    ({"look": {"background": -1, "lighter": True, "fill": 0.5, "density": 1, "by_mass": True}}, "from 0 to 255"),
    ({"look": {"background": 0, "lighter": True, "fill": np.nan, "density": 1, "by_mass": True}}, "a fill and"),
    ({"look": {"background": 0, "lighter": True, "fill": 0.5, "density": 0, "by_mass": True}}, "a density above 0"),
    ({"look": {**dataclasses.asdict(MNIST), "aspect": 0}}, "an aspect above 0"),
])  # fmt: skip
def test_arguments(arguments, text):
    with pytest.raises(InputError, match=text):
        ImageInput(28, 28, **arguments)


# ---- what is noticed, and mended -------------------------------------------------------------------------------------


def test_a_training_image_has_no_doubts():
    for image in mnist_like(50, seed=1):
        assert differences(image[..., None], MNIST, (28, 28)) == {}


def test_dark_ink_on_white_is_noticed_and_inverted():
    doubts, x = both(ImageInput(28, 28, "grayscale", look=MNIST), Image.fromarray(255 - mnist_like(1)[0]))
    assert list(doubts) == ["invert"]
    assert "darker things on a background of 255 of 255; the training images had lighter ones on 0" in doubts["invert"]
    np.testing.assert_allclose(x[..., 0] * 255, mnist_like(1)[0], atol=1e-3)


def test_invert_alone_is_255_minus_x():
    x = np.random.default_rng(0).integers(0, 256, (6, 5, 3)).astype(np.uint8)
    loaded = ImageInput(6, 5, invert=True).load(file_of(Image.fromarray(x)))
    np.testing.assert_allclose(loaded, (255.0 - x) / 255, rtol=1e-6)


def test_light_on_dark_with_a_model_of_dark_on_light():
    look = dataclasses.replace(MNIST, background=255.0, lighter=False)
    doubts, x = both(ImageInput(28, 28, "grayscale", look=look), Image.fromarray(mnist_like(1)[0]))
    assert list(doubts) == ["invert"] and x[0, 0, 0] == 1


def test_mnists_recipe():
    """The box is 20 pixels long, and the centre of mass in the middle, wherever the digit was drawn and how large."""
    for box, at in ((0.3, (0.3, 0.7)), (0.6, (0.5, 0.4)), (0.9, (0.5, 0.5))):
        drawn = own_digits.drawing(7, box=box, at=at)
        x = ImageInput(28, 28, "grayscale", look=MNIST, invert=True, center=True).load(file_of(drawn))[..., 0]
        top, bottom, left, right = box_of(x > 0.1)
        assert 19 <= max(bottom - top, right - left) <= 21
        np.testing.assert_allclose(centre_of_mass(x), (14, 14), atol=0.6)
        assert x[0].max() == x[-1].max() == x[:, 0].max() == 0 and x.max() > 0.8


def test_a_box_in_the_middle_where_that_is_how_things_were_centred():
    look = dataclasses.replace(MNIST, by_mass=False)
    image_input = ImageInput(28, 28, "grayscale", look=look, invert=True, center=True)
    x = image_input.load(file_of(own_digits.drawing(7)))[..., 0]
    top, bottom, left, right = box_of(x > 0.1)
    np.testing.assert_allclose(((top + bottom) / 2, (left + right) / 2), (14, 14), atol=1)
    assert abs(centre_of_mass(x)[0] - 14) > 1  # a 7 has its weight above


def test_a_shadow_on_paper_goes():
    image_input = ImageInput(28, 28, "grayscale", look=MNIST)
    photo = own_digits.photo(8, 6, shadow=0.6, pen=0.06)
    doubts, x = both(image_input, photo)
    assert list(doubts) == ["invert", "contrast", "center"]
    assert (x > 0.1).mean() < 0.35 and x.max() > 0.8 and level(255 * x[..., 0]) == 0
    inverted = ImageInput(28, 28, "grayscale", look=MNIST, invert=True).load(file_of(photo))
    assert inverted.mean() > 0.2  # what it was like before


def test_a_thin_pen_is_noticed():
    doubts, x = both(ImageInput(28, 28, "grayscale", look=MNIST), own_digits.drawing(5, 2, pen=0.03, box=0.72))
    assert "lines are thin" in doubts["center"] and x.max() > 0.8


def test_a_picture_that_would_be_squeezed():
    wide = Image.fromarray(np.pad(mnist_like(1)[0], ((0, 0), (8, 8))))
    look = dataclasses.replace(MNIST, fill=0.7)
    doubts = ImageInput(28, 28, "grayscale", look=look).doubts(file_of(wide))
    assert "44×28" in doubts["keep_aspect_ratio"] or "center" in doubts
    cut = ImageInput(28, 28, "grayscale", keep_aspect_ratio=True).load(file_of(wide))
    np.testing.assert_allclose(cut[..., 0] * 255, mnist_like(1)[0], atol=1e-3)


def test_a_sheet_on_a_table_is_looked_into():
    photo = own_digits.photo(3, 1, shadow=0.2, tilt=0.02)
    table = Image.new("RGB", (750, 1000), (60, 45, 35))
    table.paste(photo.rotate(3, expand=False, fillcolor=(60, 45, 35)), (70, 100))
    doubts, x = both(ImageInput(28, 28, "grayscale", look=MNIST), table)
    assert list(doubts)[0] == "center" and "a sheet" in doubts["center"] and "invert" in doubts
    assert 0.03 < (x > 0.5).mean() < 0.3 and box_of(x[..., 0] > 0.3)[0] > 1  # a digit, not the sheet


def test_a_shirt_on_black_is_no_sheet():
    look = Look(background=0.0, lighter=True, fill=0.95, density=0.7, by_mass=False, aspect=1.0)
    img = Image.new("L", (100, 100))
    img.paste(220, (5, 3, 95, 97))
    assert ImageInput(28, 28, "grayscale", look=look).doubts(file_of(img)) == {}


def test_dark_trousers_on_white_are_no_sheet():
    look = Look(background=27.0, lighter=True, fill=1.0, density=0.3, by_mass=False, aspect=1.0)
    img = Image.new("L", (300, 300), 255)
    img.paste(40, (85, 40, 140, 270))
    img.paste(40, (160, 40, 215, 270))
    doubts, x = both(ImageInput(28, 28, "grayscale", look=look), img)
    assert "invert" in doubts and "a sheet" not in doubts.get("center", "")
    assert (x > 0.5).mean() > 0.2  # the legs, not the gap between them


def test_the_lines_of_the_paper_are_no_ink():
    photo = np.array(own_digits.photo(8, 5, shadow=0.2, tilt=0.02)).astype(float)
    photo[::40] *= 0.65
    photo[1::40] *= 0.65
    _, x = both(ImageInput(28, 28, "grayscale", look=MNIST), Image.fromarray(photo.astype(np.uint8)))
    top, bottom, left, right = box_of(x[..., 0] > 0.3)
    assert bottom - top >= 17 and right - left < 17 and x[0].max() == 0


def test_an_empty_picture_stays_empty():
    doubts, x = both(ImageInput(28, 28, "grayscale", look=MNIST, center=True), Image.new("L", (50, 70), 255))
    assert "invert" not in doubts and np.isfinite(x).all() and x.shape == (28, 28, 1)
    for kind in ("L", "RGB", "RGBA"):
        for size in ((1, 1), (2, 300), (4000, 3)):
            for switches in ({"contrast": True}, {"center": True}, {"invert": True, "contrast": True, "center": True}):
                image_input = ImageInput(28, 28, "rgb", look=MNIST, **switches)
                assert np.isfinite(image_input.load(file_of(Image.new(kind, size, 7 if kind == "L" else None)))).all()


def test_colours_stay_colours():
    look = Look(background=255.0, lighter=False, fill=0.8, density=0.8, by_mass=False)
    img = Image.new("RGB", (300, 300), (250, 250, 250))
    img.paste((200, 30, 30), (20, 30, 120, 130))
    x = ImageInput(32, 32, look=look, contrast=True, center=True).load(file_of(img))
    red, green, blue = x[16, 16]
    assert red > green + 0.5 and red > blue + 0.5 and (x[0] == 1).all()


# ---- the measures ----------------------------------------------------------------------------------------------------


def test_the_light_is_found_behind_the_thing():
    rows, columns = np.mgrid[-1:1:60j, -1:1:80j]
    light = 150 + 40 * rows - 30 * columns + 20 * rows * columns
    gray = light.copy()
    gray[20:45, 30:40] = 10
    np.testing.assert_allclose(surface(gray), light, atol=2)
    np.testing.assert_allclose(background(gray), light, atol=2)
    gray[:] = 90
    gray[5:55, 5:75] = 200  # most of the picture: the edge is what counts
    assert (background(gray) == 90).all()


def test_otsu_parts_two_heaps():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(0, 1, 5000), rng.normal(10, 1, 300)])
    assert 2.5 < _otsu(values) < 7.5


def test_connected_parts():
    mask = np.zeros((12, 12), bool)
    mask[2:6, 2:6] = mask[6, 6] = mask[7, 7] = True  # touching at a corner counts
    mask[10, 2] = True
    mask[:, 11] = True
    labels, sizes = _connected(mask)
    assert sorted(sizes[1:]) == [1, 12, 18] and labels[2, 2] == labels[7, 7] != labels[10, 2]
    kept = _largest(mask)
    assert kept[2:6, 2:6].all() and not kept[:, 11].any()  # what comes in from the edge is no thing


# ---- real data -------------------------------------------------------------------------------------------------------


def trained(layers, x, y, epochs):
    minicnn.utils.set_random_seed(0)
    model = minicnn.Sequential([Input((28, 28, 1)), *layers, Dense(10, activation="softmax")])
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(x[..., None] / np.float32(255), y, 100, epochs, verbose=0)
    return model


def test_eight_digits_of_ones_own(data_dir, monkeypatch):
    """Drawn and photographed on white paper. As they are, every answer is wrong or luck, and very sure."""
    monkeypatch.setenv("MINICNN_DATA", str(data_dir))
    (x, y), _ = mnist.load_data()
    image_input = ImageInput(28, 28, "grayscale").learn(x, aspect=1.0)
    assert (image_input.look.background, image_input.look.by_mass) == (0, True)
    x, y = x[:12000], y[:12000]
    dense = trained([Flatten(), Dense(400, activation="relu")], x, y, 4)
    conv = [Conv2D(16, 5, strides=2, activation="relu"), Conv2D(32, 3, activation="relu"), MaxPooling2D(2), Flatten()]
    cnn = trained([*conv, Dense(64, activation="relu")], x, y, 3)
    digits = np.array([digit for _, _, digit in own_digits.eight()])
    pictures = [file_of(img) for _, img, _ in own_digits.eight()]
    for picture in pictures:
        assert {"invert"} <= set(image_input.doubts(picture))
        picture.seek(0)

    def right(model, how):
        images = np.stack([how(picture) for picture in pictures])
        for picture in pictures:
            picture.seek(0)
        return (model.predict(images, verbose=0).argmax(axis=1) == digits).sum()

    def prepared(picture):
        suited = image_input.suited(picture)
        picture.seek(0)
        return suited.load(picture)

    assert right(dense, image_input.load) <= 3
    assert right(dense, prepared) >= 7
    assert right(cnn, prepared) == 8


def test_real_images_are_seldom_doubted(data_dir, monkeypatch):
    monkeypatch.setenv("MINICNN_DATA", str(data_dir))
    for module, by_mass in ((mnist, True), (fashion_mnist, False)):
        (x, _), (x_test, _) = module.load_data()
        look = ImageInput(28, 28, "grayscale").learn(x, aspect=1.0).look
        assert look.by_mass == by_mass and look.lighter and look.background < 1
        assert sum(bool(differences(image[..., None], look, (28, 28))) for image in x_test[:200]) < 12
    (x, _), _ = cifar10.load_data()
    assert ImageInput(32, 32).learn(x).look is None
