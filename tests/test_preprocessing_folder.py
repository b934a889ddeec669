"""A folder of images: order, classes, parts, labels, and what else lies in folders."""

from __future__ import annotations

import os
import warnings

import numpy as np
import pytest
from PIL import Image

from minicnn.errors import InputError
from minicnn.layers import Dense, Flatten, Input
from minicnn.models import Sequential
from minicnn.preprocessing.image import ImageDataGenerator, image_dataset_from_directory

CLASSES = {"cats": 6, "dogs": 5, "żółw": 4}


def write(path, value, size=(4, 6)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path)


@pytest.fixture
def folder(tmp_path):
    """Each image is of one grey: 10 × its number, + its class. One class has a folder inside."""
    for k, (name, count) in enumerate(CLASSES.items()):
        for i in range(count):
            inside = "more/" if (name, i) == ("dogs", 4) else ""
            write(tmp_path / "data" / name / f"{inside}ein bild {i}.png", 10 * i + k)
    write(tmp_path / "data" / ".hidden" / "x.png", 0)
    write(tmp_path / "data" / "cats" / "._resource.png", 0)
    (tmp_path / "data" / "cats" / "notes.txt").write_text("no image")
    return tmp_path / "data"


def read(folder, **arguments):
    return image_dataset_from_directory(folder, image_size=(3, 3), verbose=False, **arguments)


def test_classes_and_order(folder, capsys):
    data = image_dataset_from_directory(folder, image_size=(3, 3), shuffle=False)
    assert capsys.readouterr().out == "Found 15 images of 3 classes: cats, dogs, żółw.\nPassed over: 1 .txt.\n"
    assert data.class_names == list(CLASSES)
    assert data.file_paths == sorted(data.file_paths, key=lambda path: (os.path.dirname(path), path))
    x, y = data.arrays()
    assert x.shape == (15, 3, 3, 3) and x.dtype == np.float32 and y.dtype == np.int32
    np.testing.assert_array_equal(y, np.repeat([0, 1, 2], list(CLASSES.values())))
    np.testing.assert_array_equal(x[:, 0, 0, 0] % 10, y)
    np.testing.assert_array_equal(x[:6, 2, 2, 1], 10 * np.arange(6))
    assert "Read 15 images in" in capsys.readouterr().out
    assert data.arrays(np.uint8)[0].dtype == np.uint8


def test_batches_by_iterating_and_by_number(folder):
    data = read(folder, batch_size=4, shuffle=False)
    assert len(data) == 4
    assert [len(x) for x, _ in data] == [4, 4, 4, 3]
    for i, (x, y) in enumerate(data):
        np.testing.assert_array_equal(x, data[i][0])
        np.testing.assert_array_equal(y, data[i][1])
        np.testing.assert_array_equal(x[:, 0, 0, 0] % 10, y)
    np.testing.assert_array_equal(data[-1][0], data[3][0])
    with pytest.raises(IndexError):
        data[4]


def test_every_epoch_has_all_images_in_another_order(folder):
    data = read(folder, seed=5)
    epochs = [next(iter([batch for batch in data])) for _ in range(3)]  # noqa: C416
    orders = [x[:, 0, 0, 0].tolist() for x, _ in epochs]
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(orders[2])
    assert orders[0] != orders[1] != orders[2] != orders[0]
    for x, y in epochs:
        np.testing.assert_array_equal(x[:, 0, 0, 0] % 10, y)
    again = read(folder, seed=5)
    assert [next(iter([b for b in again]))[0][:, 0, 0, 0].tolist() for _ in range(3)] == orders  # noqa: C416


def test_labels(folder):
    _, y = read(folder, label_mode="categorical", shuffle=False).arrays()
    assert y.shape == (15, 3) and y.dtype == np.float32
    np.testing.assert_array_equal(y.argmax(axis=1), np.repeat([0, 1, 2], list(CLASSES.values())))
    _, y = read(folder, label_mode="binary", class_names=["dogs", "cats"], shuffle=False).arrays()
    np.testing.assert_array_equal(y, [[0.0]] * 5 + [[1.0]] * 6)
    assert read(folder, label_mode=None).arrays().shape == (15, 3, 3, 3)
    assert read(folder, labels=None, color_mode="grayscale").arrays().shape == (15, 3, 3, 1)
    _, y = read(folder, labels=list(range(15)), shuffle=False).arrays()
    np.testing.assert_array_equal(y, range(15))


def test_the_parts_are_keras_own(folder):
    """Keras shuffles the sorted paths with RandomState(seed); the last share is for validation."""
    everything = read(folder, shuffle=False).file_paths
    expected = np.random.RandomState(3).permutation(15)
    training, validation = read(folder, seed=3, validation_split=0.25, subset="both")
    assert training.file_paths == [everything[k] for k in expected[:12]]
    assert validation.file_paths == [everything[k] for k in expected[12:]]
    assert read(folder, seed=3, validation_split=0.25, subset="training").file_paths == training.file_paths
    x, y = validation[0]
    np.testing.assert_array_equal(x, validation.arrays()[0])  # its order is that of file_paths, in every epoch
    np.testing.assert_array_equal(x[:, 0, 0, 0] % 10, y)


def test_a_model_learns_from_it(folder):
    training, validation = read(folder, seed=0, validation_split=0.25, subset="both", batch_size=4)
    model = Sequential([Input((3, 3, 3)), Flatten(), Dense(3, activation="softmax")])
    model.compile("adam", "sparse_categorical_crossentropy")
    history = model.fit(training, validation_data=validation, epochs=2, verbose=0)
    assert len(history.history["val_loss"]) == 2
    assert model.predict(validation, verbose=0).shape == (3, 3)


def broken_files(folder):
    (folder / "cats" / "a text.jpg").write_text("not a picture")
    whole = (folder / "dogs" / "ein bild 0.png").read_bytes()
    (folder / "dogs" / "cut.png").write_bytes(whole[: len(whole) // 2])


def test_broken_files_are_left_out_and_named(folder):
    broken_files(folder)
    data = read(folder, batch_size=4, shuffle=False)
    with pytest.warns(UserWarning, match="2 of 17 files cannot be read as images and were left out") as caught:
        sizes = [len(x) for x, _ in data]
    assert sum(sizes) == 15
    assert "a text.jpg: bytes of no known image format" in str(caught[0].message)
    assert "cut.png" in str(caught[0].message)
    with warnings.catch_warnings():  # once is enough
        warnings.simplefilter("error")
        assert sum(len(x) for x, _ in data) == 15

    data = read(folder, shuffle=False)
    with pytest.warns(UserWarning, match="2 of 17 files"):
        x, y = data.arrays()
    assert len(x) == len(y) == len(data.file_paths) == 15
    np.testing.assert_array_equal(x[:, 0, 0, 0] % 10, y)


def test_a_batch_of_broken_files_only_does_not_stop_training(folder):
    broken_files(folder)
    data = read(folder, batch_size=1, seed=0)
    model = Sequential([Input((3, 3, 3)), Flatten(), Dense(3, activation="softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.warns(UserWarning, match="2 of 17 files"):
        model.fit(data, verbose=0)
    assert model.optimizer.iterations == 15


def test_nothing_but_broken_files(tmp_path):
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats" / "x.png").write_text("x")
    (tmp_path / "dogs").mkdir()
    write(tmp_path / "dogs" / "x.png", 0)
    (tmp_path / "dogs" / "x.png").write_bytes(b"")
    with pytest.warns(UserWarning, match="None of the 1 images of the class '(cats|dogs)' can be read"):
        data = read(tmp_path)
    with pytest.warns(UserWarning, match="2 of 2 files"), pytest.raises(InputError, match="none of the images"):
        data.arrays()


def test_links_in_a_circle(folder):
    os.symlink(folder / "cats", folder / "cats" / "again", target_is_directory=True)
    os.symlink(folder / "dogs" / "more", folder / "żółw" / "linked", target_is_directory=True)
    assert len(read(folder).file_paths) == 15
    assert len(read(folder, follow_links=True).file_paths) == 16


def test_a_class_without_images_is_named(folder):
    (folder / "empty").mkdir()
    with pytest.warns(UserWarning, match="no images in the class folder 'empty'"):
        assert read(folder).class_names == ["cats", "dogs", "empty", "żółw"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"label_mode": "one-hot"}, "label_mode: unknown name"),
        ({"label_mode": "binary"}, '"binary" is for two classes'),
        ({"class_names": ["cats", "birds"]}, "they do not fit the folders"),
        ({"labels": [1, 2]}, "they do not fit the images"),
        ({"labels": None, "class_names": ["cats"]}, "only with labels"),
        ({"validation_split": 0.2}, "go together"),
        ({"subset": "training"}, "go together"),
        ({"validation_split": 0.2, "subset": "training"}, "the two parts would overlap"),
        ({"validation_split": 20, "subset": "both"}, "a share between 0 and 1"),
        ({"validation_split": 0.01, "subset": "both"}, "one of the two parts would be empty"),
        ({"batch_size": 0}, "a whole number of 1 or more"),
        ({"seed": -1}, "seed"),
    ],
)
def test_arguments(folder, arguments, text):
    with pytest.raises(InputError, match=text):
        read(folder, **arguments)


@pytest.mark.parametrize("reader", [read, lambda folder: ImageDataGenerator().flow_from_directory(folder)])
def test_folders_that_do_not_fit(tmp_path, reader):
    with pytest.raises(InputError, match="does not exist"):
        reader(tmp_path / "missing")
    with pytest.raises(InputError, match="no class folders in it(.|\n)*an empty folder"):
        reader(tmp_path)
    write(tmp_path / "loose.png", 0)
    with pytest.raises(InputError, match="this is not a folder"):
        reader(tmp_path / "loose.png")
    with pytest.raises(InputError, match="1 image and no folders"):
        reader(tmp_path)
    (tmp_path / "cats").mkdir()
    with pytest.raises(InputError, match="there are no images in it"):
        reader(tmp_path)


# ---- flow_from_directory ---------------------------------------------------------------------------------------------


def flow(folder, generator=None, **arguments):
    return (generator or ImageDataGenerator()).flow_from_directory(folder, target_size=(3, 3), **arguments)


def test_flow_from_directory(folder, capsys):
    data = flow(folder, shuffle=False, batch_size=6)
    assert capsys.readouterr().out == "Found 15 images belonging to 3 classes.\nPassed over: 1 .txt.\n"
    assert data.class_indices == {"cats": 0, "dogs": 1, "żółw": 2}
    assert (data.samples, data.num_classes, data.image_shape) == (15, 3, (3, 3, 3))
    assert data.filenames[0] == os.path.join("cats", "ein bild 0.png")
    batches = [next(data) for _ in range(3)]
    x, y = (np.concatenate(part) for part in zip(*batches, strict=True))
    assert y.shape == (15, 3)
    np.testing.assert_array_equal(y.argmax(axis=1), data.classes)
    np.testing.assert_array_equal(x[:, 1, 1, 0] % 10, data.classes)


@pytest.mark.parametrize("mode", ["sparse", "binary", "input", None])
def test_class_modes(folder, mode):
    data = flow(folder, class_mode=mode, classes=["cats", "dogs"], shuffle=False)
    batch = next(data)
    if mode is None:
        assert batch.shape == (11, 3, 3, 3)
    elif mode == "input":
        np.testing.assert_array_equal(batch[0], batch[1])
    else:
        np.testing.assert_array_equal(batch[1], data.classes)


def test_the_share_for_validation_is_that_of_every_class(folder):
    generator = ImageDataGenerator(validation_split=0.4)
    validation, training = flow(folder, generator, subset="validation"), flow(folder, generator, subset="training")
    assert np.bincount(validation.classes).tolist() == [2, 2, 1]
    assert np.bincount(training.classes).tolist() == [4, 3, 3]
    assert not set(validation.filepaths) & set(training.filepaths)


def test_broken_files_in_flow_from_directory(folder):
    broken_files(folder)
    data = flow(folder, class_mode="sparse", shuffle=False, batch_size=100)
    with pytest.warns(UserWarning, match="2 of 17 files"):
        x, y = next(data)
    np.testing.assert_array_equal(x[:, 0, 0, 0] % 10, y)
    assert len(x) == 15


def test_class_mode_arguments(folder):
    with pytest.raises(InputError, match="class_mode: unknown name"):
        flow(folder, class_mode="int")
    with pytest.raises(InputError, match='"binary" is for two classes'):
        flow(folder, class_mode="binary")
    with pytest.raises(InputError, match="knows of no parts"):
        flow(folder, subset="training")


# ---- folders as people have them -------------------------------------------------------------------------------------


@pytest.fixture(params=["dataset", "generator"])
def listed(request):
    """What is found in a folder: class names and paths, by either reader."""

    def found(folder, **arguments):
        if request.param == "dataset":
            data = image_dataset_from_directory(folder, image_size=(3, 3), **arguments)
            return data.class_names, data.file_paths
        if "class_names" in arguments:
            arguments["classes"] = arguments.pop("class_names")
        data = flow(folder, **arguments)
        return data.class_names, data.filepaths

    return found


def test_every_ending_of_a_readable_picture_counts(tmp_path, listed):
    for i, (ending, kind) in enumerate({
        "jfif": "JPEG", "jpe": "JPEG", "JPG": "JPEG", "pgm": "PPM", "pbm": "PPM", "pnm": "PPM", "ppm": "PPM",
        "webp": "WEBP", "tif": "TIFF", "bmp": "BMP", "gif": "GIF",
    }.items()):  # fmt: skip
        (tmp_path / f"s{i % 2}").mkdir(exist_ok=True)
        mode = {"pgm": "L", "pbm": "1"}.get(ending, "RGB")
        Image.new(mode, (4, 4)).save(tmp_path / f"s{i % 2}" / f"1.{ending}", format=kind)
    assert len(listed(tmp_path)[1]) == 11


def test_what_was_passed_over_is_counted_by_ending(tmp_path, listed, capsys):
    for name in ("cats", "dogs"):
        write(tmp_path / name / "0.png", 0)
        (tmp_path / name / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    for name in ("notes.txt", "list.txt", "README"):
        (tmp_path / "cats" / name).write_text("no image")
    with pytest.warns(UserWarning, match=r"2 \.heic left out: save them as JPEG or PNG"):
        listed(tmp_path)
    assert "Passed over: 2 .heic, 2 .txt, 1 without an ending." in capsys.readouterr().out


def test_a_folder_of_heic_only_says_so(tmp_path, listed):
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats" / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.raises(InputError, match=r"(?s)there are no images.*other files: 1 \.heic.*save the \.heic files"):
        listed(tmp_path)


def test_folders_that_systems_make_are_no_classes(tmp_path, listed):
    for name in ("cats", "dogs", "__MACOSX/cats", "@eaDir/x", "cats/__MACOSX"):
        write(tmp_path / name / "0.png", 0)
    (tmp_path / "__MACOSX" / "cats" / "._0.png").write_bytes(b"\0\5\x16\7")
    names, paths = listed(tmp_path)
    assert (names, len(paths)) == (["cats", "dogs"], 2)


@pytest.mark.parametrize("parts", [("train", "test"), ("Train", "Valid", "test")])
def test_parts_of_a_data_set_are_no_classes(tmp_path, listed, parts):
    for part in parts:
        for name in ("cats", "dogs"):
            write(tmp_path / part / name / "0.png", 0)
    with pytest.raises(InputError, match=r"(?s)parts of a data set, no classes.*cats, dogs.*read each part by itself"):
        listed(tmp_path)
    assert listed(tmp_path, class_names=sorted(parts))[0] == sorted(parts)  # who means it, says it


def test_train_and_plane_may_be_classes(tmp_path, listed):
    for name in ("train", "test"):  # without folders inside
        write(tmp_path / name / "0.png", 0)
    assert listed(tmp_path)[0] == ["test", "train"]


def test_the_folder_that_a_zip_was_packed_in(tmp_path, listed):
    for name in ("cats", "dogs"):
        write(tmp_path / "archive" / name / "0.png", 0)
    with pytest.raises(InputError, match=r"(?s)one folder in it.*archive, and in it cats, dogs.*pass .*archive") as e:
        listed(tmp_path)
    assert repr(str(tmp_path / "archive")) in e.value.fix
    assert listed(tmp_path / "archive")[0] == ["cats", "dogs"]


def test_one_class_only_is_said(tmp_path, listed):
    write(tmp_path / "cats" / "0.png", 0)
    with pytest.warns(UserWarning, match="only one class, 'cats': nothing to tell it apart from"):
        listed(tmp_path)


def test_a_class_of_broken_files_is_said_before_training(tmp_path, listed):
    write(tmp_path / "cats" / "0.png", 0)
    (tmp_path / "dogs").mkdir()
    for i in range(3):
        (tmp_path / "dogs" / f"{i}.jpg").write_text("<html>not found</html>")
    with pytest.warns(UserWarning, match="None of the 3 images of the class 'dogs' can be read: .*an HTML page"):
        listed(tmp_path)


def test_a_small_class_may_have_no_part_in_the_validation(tmp_path):
    for name, count in (("cat", 20), ("dog", 20), ("panda", 3)):
        for i in range(count):
            write(tmp_path / name / f"{i}.png", 0)
    generator = ImageDataGenerator(validation_split=0.25)
    parts = [flow(tmp_path, generator, subset=subset) for subset in ("validation", "training")]
    assert [part.samples for part in parts] == [10, 33]  # as Keras has it
    assert np.bincount(parts[0].classes, minlength=3).tolist() == [5, 5, 0]


def test_only_an_empty_whole_is_an_error(tmp_path):
    for name in ("cat", "dog"):
        write(tmp_path / name / "0.png", 0)
    with pytest.raises(InputError, match="the validation part would be empty"):
        flow(tmp_path, ImageDataGenerator(validation_split=0.25), subset="validation")


def test_names_that_the_output_cannot_show_stop_nothing(tmp_path):
    import subprocess
    import sys

    for name in ("cats \U0001f431", "日本", "żółw"):
        write(tmp_path / name / "0.png", 0)
    program = (
        "import sys; from minicnn.preprocessing.image import ImageDataGenerator, image_dataset_from_directory as f\n"
        "f(sys.argv[1], image_size=(8, 8)).arrays(); ImageDataGenerator().flow_from_directory(sys.argv[1])"
    )
    for encoding in ("cp1252", "cp932", "ascii"):
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONIOENCODING": encoding}
        done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], env=env, capture_output=True)
        assert done.returncode == 0, done.stderr
        assert b"Found 3 images of 3 classes: cats ?" in done.stdout


def test_a_link_that_leads_nowhere_is_one_line(folder):
    os.symlink(folder / "gone.png", folder / "cats" / "link.png")
    data = read(folder)
    with pytest.warns(UserWarning, match="1 of 16 files") as caught:
        data.arrays()
    assert str(caught[0].message).count("link.png") == 1 and len(str(caught[0].message).splitlines()) == 2


def test_pictures_that_are_not_quite_what_their_files_hold_are_named(folder):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(folder / "cats" / "dance.gif", save_all=True, append_images=frames[1:])
    with pytest.warns(UserWarning, match=r"(?s)1 of 16 files were read, but:.*dance.gif: of its 2 pictures, the first"):
        assert len(read(folder).arrays()[0]) == 16


@pytest.mark.parametrize("labels", [np.repeat(np.arange(10), 10), np.repeat(np.arange(10), 10)[:, None],
                                    np.eye(10)[np.repeat(np.arange(10), 10)], np.repeat([*"bcaz"], 25)])  # fmt: skip
def test_sorted_labels_are_not_parted(labels):
    """Keras raises a ValueError; parted, training would have the classes 2 to 9, and validation 0 and 1."""
    x, generator = np.zeros((100, 4, 4, 1)), ImageDataGenerator(validation_split=0.2)
    for subset in ("training", "validation"):
        with pytest.raises(InputError, match="y is sorted"):
            generator.flow(x, labels, subset=subset)
    order = np.random.default_rng(0).permutation(100)
    assert len(generator.flow(x[order], labels[order], subset="training").y) == 80


@pytest.mark.parametrize("targets", [np.arange(100), np.linspace(0, 1, 100), np.zeros(100), np.zeros((100, 3, 2))])
def test_targets_that_are_no_classes_are_parted(targets):
    generator = ImageDataGenerator(validation_split=0.2)
    assert len(generator.flow(np.zeros((100, 4, 4, 1)), targets, subset="validation").y) == 20


def test_what_keras_takes_is_taken_at_its_default_alone(folder):
    assert read(folder, pad_to_aspect_ratio=False, data_format="channels_last", format="tf").class_names
    with pytest.raises(InputError, match=r"x\.transpose\(0, 2, 3, 1\)"):
        read(folder, data_format="channels_first")
    with pytest.raises(InputError, match="no pad_to_aspect_ratio here"):
        read(folder, pad_to_aspect_ratio=True)
    for format in ("grain", None, np.ones(2)):
        with pytest.raises(InputError, match="no format here"):
            read(folder, format=format)
