"""One image from a file and back, and files that are none."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from minicnn.errors import BrokenFileError, InputError, UnknownNameError
from minicnn.preprocessing.image import array_to_img, img_to_array, load_img, save_img

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(256, size=(5, 7, 3)).astype(np.uint8)


@pytest.fixture
def picture(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def test_a_file_becomes_an_array(picture):
    for path in (picture, str(picture), io.BytesIO(picture.read_bytes())):
        x = img_to_array(load_img(path))
        assert x.dtype == np.float32
        np.testing.assert_array_equal(x, PIXELS)


@pytest.mark.parametrize(("mode", "channels"), [("grayscale", 1), ("rgb", 3), ("rgba", 4)])
@pytest.mark.parametrize("stored", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_every_kind_of_file_in_every_colour_mode(tmp_path, stored, mode, channels):
    grey = np.tile(np.array([0, 255], np.uint8), (4, 3))
    img = Image.fromarray(grey.astype(np.uint16) * 257) if stored == "I;16" else Image.fromarray(grey).convert(stored)
    path = tmp_path / ("picture.tif" if stored == "CMYK" else "picture.png")
    img.save(path)
    x = img_to_array(load_img(path, color_mode=mode))
    assert x.shape == (4, 6, channels)
    for k in range(min(channels, 3)):
        np.testing.assert_array_equal(x[:, :, k], grey)
    if channels == 4:
        assert (x[:, :, 3] == 255).all()


def test_a_palette_with_a_transparent_colour(tmp_path):
    img = Image.fromarray(PIXELS).convert("P")
    img.save(tmp_path / "p.png", transparency=bytes([0] * 4 + [255] * 252))
    assert img_to_array(load_img(tmp_path / "p.png")).shape == (5, 7, 3)
    assert img_to_array(load_img(tmp_path / "p.png", "rgba")).shape == (5, 7, 4)


def test_sixteen_bits_are_scaled_not_cut_off(tmp_path):
    values = np.linspace(0, 65535, 12).astype(np.uint16).reshape(3, 4)
    Image.fromarray(values).save(tmp_path / "deep.png")
    x = img_to_array(load_img(tmp_path / "deep.png", "grayscale"))[:, :, 0]
    np.testing.assert_allclose(x, values / 257, atol=1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_are_turned_upright(tmp_path, orientation):
    """The eight ways in which a camera can lie; see EXIF, tag 274."""
    upright = np.kron(np.array([[0, 90, 180], [255, 30, 130]], np.uint8), np.ones((16, 16), np.uint8))
    lying = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.T,
        6: np.rot90(upright, 1), 7: upright[::-1, ::-1].T, 8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(np.ascontiguousarray(lying)).save(tmp_path / "photo.jpg", quality=100, exif=exif)
    x = img_to_array(load_img(tmp_path / "photo.jpg", "grayscale"))[:, :, 0]
    assert x.shape == upright.shape
    np.testing.assert_allclose(x, upright, atol=3)


def test_sizes(picture):
    assert img_to_array(load_img(picture, target_size=(10, 20))).shape == (10, 20, 3)
    assert img_to_array(load_img(picture, target_size=3)).shape == (3, 3, 3)
    doubled = img_to_array(load_img(picture, target_size=(10, 14)))
    np.testing.assert_array_equal(doubled, PIXELS.repeat(2, axis=0).repeat(2, axis=1))  # "nearest"
    part = img_to_array(load_img(picture, target_size=(5, 5), keep_aspect_ratio=True))
    np.testing.assert_array_equal(part, PIXELS[:, 1:6])


def test_one_pixel(tmp_path):
    Image.new("RGB", (1, 1), (1, 2, 3)).save(tmp_path / "one.png")
    np.testing.assert_array_equal(img_to_array(load_img(tmp_path / "one.png")), [[[1, 2, 3]]])
    assert img_to_array(load_img(tmp_path / "one.png", target_size=(8, 8), interpolation="bicubic")).shape == (8, 8, 3)


@pytest.mark.parametrize("kind", ["text", "empty", "truncated PNG", "truncated JPEG", "zeros"])
def test_files_that_are_no_whole_image(tmp_path, kind):
    content = {"text": b"I am not a picture.", "empty": b"", "zeros": bytes(2000)}.get(kind)
    if content is None:
        whole = io.BytesIO()
        Image.fromarray(RNG.integers(256, size=(40, 40, 3)).astype(np.uint8)).save(whole, format=kind.split()[1])
        content = whole.getvalue()[: len(whole.getvalue()) // 2]
    path = tmp_path / "broken.jpg"
    path.write_bytes(content)
    with pytest.raises(BrokenFileError, match="cannot be read as an image") as caught:
        load_img(path)
    assert caught.value.where == str(path)


def test_no_file_and_a_folder(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_img(tmp_path / "missing.png")
    with pytest.raises(InputError, match="this is a folder"):
        load_img(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"color_mode": "greyscale"}, "did you mean 'grayscale'"),
        ({"interpolation": "bilinaer"}, "did you mean 'bilinear'"),
        ({"target_size": (0, 4)}, "two whole numbers of 1 or more"),
        ({"target_size": (32, 32, 3)}, "two whole numbers of 1 or more"),
        ({"target_size": "32"}, "two whole numbers of 1 or more"),
    ],
)
def test_arguments(picture, arguments, text):
    with pytest.raises(InputError, match=text):
        load_img(picture, **arguments)


def test_there_and_back(tmp_path):
    for x in (PIXELS, PIXELS[:, :, :1], np.dstack([PIXELS, PIXELS[:, :, :1]])):
        save_img(tmp_path / "x.png", x, scale=False)
        mode = {1: "grayscale", 3: "rgb", 4: "rgba"}[x.shape[2]]
        np.testing.assert_array_equal(img_to_array(load_img(tmp_path / "x.png", mode)), x)


def test_scaling_stretches():
    x = np.array([[-1.0, 0.0, 3.0]])[..., None]
    np.testing.assert_array_equal(np.asarray(array_to_img(x)), [[0, 64, 255]])
    np.testing.assert_array_equal(np.asarray(array_to_img(np.full((2, 2), 7.0))), np.zeros((2, 2)))
    np.testing.assert_array_equal(np.asarray(array_to_img([[[-5.0], [300.0]]], scale=False)), [[0, 255]])


def test_jpeg_drops_transparency_and_says_so(tmp_path):
    with pytest.warns(UserWarning, match="no transparency"):
        save_img(tmp_path / "x.jpg", np.zeros((4, 4, 4)))
    assert load_img(tmp_path / "x.jpg").mode == "RGB"


def test_saving_needs_a_known_format(tmp_path):
    with pytest.raises(InputError, match="the file format is not known"):
        save_img(tmp_path / "x", PIXELS)
    with pytest.raises(UnknownNameError):
        save_img(tmp_path / "x.pgn", PIXELS)
    with pytest.raises(InputError, match="one image of a batch"):
        array_to_img(PIXELS[None])
    with pytest.raises(InputError, match="channels last"):
        img_to_array(PIXELS, data_format="channels_first")
