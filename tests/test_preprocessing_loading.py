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


# ---- pictures that people have ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "name", "fix"),
    [
        (b"", "an empty file", "fetch or save it again"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64), "HEIC", "save it as JPEG"),
        (b"\0\0\0\x1cftypavif" + bytes(64), "AVIF", "save it as JPEG"),
        (b"\0\0\0\x20ftypisom" + bytes(64), "a film", "single pictures"),
        (b"<!DOCTYPE html><title>Sign in</title>", "an HTML page", "in a browser"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing", "save it as PNG"),
        (b"%PDF-1.7", "a PDF document", "save its picture"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a git-LFS pointer", "git lfs pull"),
        (b"\0\5\x16\7\0\2\0\0Mac OS X", "notes about a file", "without the ._"),
        (b"\x89PNG", "the beginning of a PNG image, and no more", "save it again"),
        (b"neither this nor that", "bytes of no known image format", "save it again"),
    ],
)
def test_what_is_no_picture_is_called_by_its_name(tmp_path, content, name, fix):
    (tmp_path / "photo.jpg").write_bytes(content)
    with pytest.raises(BrokenFileError) as caught:
        load_img(tmp_path / "photo.jpg")
    assert name in caught.value.received and fix in caught.value.fix


def test_a_photo_of_too_many_pixels_is_to_be_made_smaller(tmp_path):
    (tmp_path / "big.ppm").write_bytes(b"P6 9248 6936 255\n" + bytes(99))
    with pytest.raises(BrokenFileError) as caught:
        load_img(tmp_path / "big.ppm")
    assert "6,936×9,248 pixels" in caught.value.received and "make it smaller" in caught.value.fix


@pytest.mark.parametrize("ending", ["png", "webp", "gif", "tif"])
@pytest.mark.parametrize("ink", [0, 90])
def test_a_transparent_drawing_lies_on_white(tmp_path, ending, ink):
    x = np.zeros((8, 8, 4), np.uint8)  # what an HTML canvas saves: black, and transparent where nothing was drawn
    x[2:6, 3:5] = ink, ink, ink, 255
    Image.fromarray(x).save(tmp_path / f"ink.{ending}", **({"lossless": True} if ending == "webp" else {}))
    expected = np.where(x[..., 3] == 255, ink, 255)
    for mode in ("grayscale", "rgb"):
        np.testing.assert_array_equal(img_to_array(load_img(tmp_path / f"ink.{ending}", mode))[..., 0], expected)
    assert img_to_array(load_img(tmp_path / f"ink.{ending}", "rgba"))[0, 0, 3] == 0


def test_half_transparent_pixels_are_mixed_with_white(tmp_path):
    Image.fromarray(np.full((2, 2, 4), (100, 0, 0, 51), np.uint8)).save(tmp_path / "x.png")
    np.testing.assert_allclose(img_to_array(load_img(tmp_path / "x.png"))[0, 0], [224, 204, 204], atol=1)


@pytest.mark.parametrize("kind", ["L", "RGB"])
def test_one_transparent_colour(tmp_path, kind):
    img = Image.new(kind, (4, 4), 0)
    img.paste(70 if kind == "L" else (70, 70, 70), (0, 0, 2, 4))
    img.save(tmp_path / "x.png", transparency=0 if kind == "L" else (0, 0, 0))
    np.testing.assert_array_equal(img_to_array(load_img(tmp_path / "x.png"))[0, :, 0], [70, 70, 255, 255])


def test_a_picture_that_is_transparent_all_over_is_taken_as_opaque(tmp_path):
    Image.fromarray(np.dstack([PIXELS, np.zeros((5, 7), np.uint8)])).save(tmp_path / "x.png")
    np.testing.assert_array_equal(img_to_array(load_img(tmp_path / "x.png")), PIXELS)


def test_sixteen_bits_are_rounded(tmp_path):
    """PNG specification, 13.12. Cut instead of rounded, half of the pixels would be one too low."""
    values = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)
    Image.fromarray(values).save(tmp_path / "deep.png")
    x = img_to_array(load_img(tmp_path / "deep.png", "grayscale"))[..., 0]
    np.testing.assert_array_equal(x, np.rint(values * (255 / 65535)))


@pytest.mark.parametrize(("values", "text"), [
    ((np.indices((8, 8)).sum(0) % 2 * 255).astype(np.uint16), "from 0 to 255, become 0 to 1 of 255"),
    (np.linspace(291, 694, 64).astype(np.uint16).reshape(8, 8), "become 1 to 3 of 255: hardly anything"),
    (np.linspace(-np.pi, np.pi, 64).astype(np.float32).reshape(8, 8), "are stretched to 0 to 255"),
    (np.linspace(0, 70_000, 64).astype(np.int32).reshape(8, 8), "are stretched to 0 to 255"),
])  # fmt: skip
def test_numbers_of_which_little_would_be_seen_are_told(tmp_path, values, text):
    Image.fromarray(values).save(tmp_path / "x.tif")
    with pytest.warns(UserWarning, match=text) as caught:
        x = img_to_array(load_img(tmp_path / "x.tif", "grayscale"))
    assert "x.tif" in str(caught[0].message)
    if "stretched" in text:
        assert (x.min(), x.max()) == (0, 255)


@pytest.mark.parametrize("most", [1, 255])
def test_float_images_are_scaled(tmp_path, most):
    values = (RNG.random((8, 8)) * most).astype(np.float32)
    values[0, :2] = 0, most
    Image.fromarray(values).save(tmp_path / "f.tif")
    x = img_to_array(load_img(tmp_path / "f.tif", "grayscale"))[..., 0]
    np.testing.assert_array_equal(x, np.rint(values.astype(np.float64) * (255 / most)))


def test_lab_as_grey(tmp_path):
    from PIL import ImageCms

    rgb = Image.fromarray(np.kron(np.array([[[200, 30, 30], [30, 200, 30]]], np.uint8), np.ones((8, 4, 1), np.uint8)))
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    ImageCms.applyTransform(rgb, ImageCms.buildTransform(srgb, lab, "RGB", "LAB")).save(tmp_path / "lab.tif")
    for mode, kind in (("rgb", "RGB"), ("grayscale", "L")):
        x = img_to_array(load_img(tmp_path / "lab.tif", mode))
        np.testing.assert_allclose(x, img_to_array(rgb.convert(kind)), atol=12)


@pytest.mark.parametrize("ending", ["gif", "png", "webp", "tif"])
def test_of_an_animation_the_first_picture_is_taken_and_that_is_said(tmp_path, ending):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue", "lime")]
    frames[0].save(tmp_path / f"x.{ending}", save_all=True, append_images=frames[1:])
    with pytest.warns(UserWarning, match="of its 3 pictures, the first is taken"):
        x = img_to_array(load_img(tmp_path / f"x.{ending}"))
    np.testing.assert_allclose(x[1, 1], [255, 0, 0], atol=2)
