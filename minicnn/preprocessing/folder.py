"""A folder of images: one folder for each class in it, as `animals/cats/tom.jpg`, or images without classes."""

from __future__ import annotations

import os
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from minicnn import random
from minicnn.arguments import in_words
from minicnn.batches import Epochs, check_seed, to_categorical
from minicnn.errors import BrokenFileError, InputError, visible
from minicnn.preprocessing.loading import (
    CHANNELS,
    INTERPOLATIONS,
    Size,
    check_channels_last,
    check_choice,
    check_size,
    read_image,
)

ENDINGS = (
    ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp",
)  # fmt: skip
# Pictures and films that are not read: that they are left out is worth a warning.
UNREAD = (
    ".ai", ".arw", ".avi", ".avif", ".cr2", ".cr3", ".dng", ".eps", ".heic", ".heif", ".ico", ".jp2", ".jxl", ".mov",
    ".mp4", ".nef", ".pdf", ".psd", ".svg", ".tga",
)  # fmt: skip
# Folders that systems make: of a Mac's zip file, of a network disk, of Windows, of Python.
NO_CLASSES = ("__macosx", "@eadir", "$recycle.bin", "system volume information", "__pycache__")
PARTS = ("train", "training", "test", "testing", "val", "valid", "validation", "dev", "eval")  # of a data set
LABEL_MODES = ("int", "categorical", "binary", None)
SUBSETS = ("training", "validation", "both", None)


@in_words
def image_dataset_from_directory(
    directory: Any,
    labels: Any = "inferred",
    label_mode: str | None = "int",
    class_names: Sequence[str] | None = None,
    color_mode: str = "rgb",
    batch_size: int = 32,
    image_size: int | Size = (256, 256),
    shuffle: bool = True,
    seed: int | None = None,
    validation_split: float | None = None,
    subset: str | None = None,
    interpolation: str = "bilinear",
    follow_links: bool = False,
    crop_to_aspect_ratio: bool = False,
    pad_to_aspect_ratio: bool = False,
    data_format: str | None = None,
    format: str = "tf",
    verbose: bool = True,
) -> Any:
    """The images of a folder in batches, read from disk as they are needed: an `ImageDataset`, or two for
    subset="both".

    labels: "inferred" from the names of the folders, a list of whole numbers in the order of the sorted paths, or None.
    label_mode: y is "int" (N,), "categorical" (N, classes) one-hot, "binary" (N, 1) of 0 and 1, or None: no y.
    class_names: these folders in this order; default all, sorted. image_size: (height, width) of all images, which are
    stretched to it; crop_to_aspect_ratio cuts them instead.
    shuffle: the files once, by seed, and the training images again in every epoch. validation_split: this share, the
    last files of that order, is the subset "validation", the others "training"; the same seed parts them as in Keras.
    pad_to_aspect_ratio, data_format, format: Keras' arguments, at their defaults alone.
    Raises InputError where there is no folder, no class or no image.
    """
    for argument, value, known in (
        ("label_mode", label_mode, LABEL_MODES), ("color_mode", color_mode, CHANNELS), ("subset", subset, SUBSETS),
        ("interpolation", interpolation, INTERPOLATIONS),
    ):  # fmt: skip
        check_choice(argument, value, known)
    check_channels_last(data_format)
    of_keras: list[tuple[str, Any, Any]] = [
        ("pad_to_aspect_ratio", pad_to_aspect_ratio, False), ("format", format, "tf"),
    ]  # fmt: skip
    for argument, given, usual in of_keras:
        if type(given) is not type(usual) or given != usual:
            raise InputError(
                "image_dataset_from_directory", f"minicnn has no {argument} here.", f"{argument}={usual!r}.",
                f"{argument}={given!r}.", "leave it out; crop_to_aspect_ratio=True cuts what does not fit.",
            )  # fmt: skip
    size = check_size("image_size", image_size)
    check_seed(seed)
    _check_split(validation_split, subset, shuffle, seed)
    paths, numbers, names, others = list_folder(directory, labels, class_names, follow_links)
    if numbers is None or label_mode is None:
        numbers = label_mode = None
    if label_mode == "binary" and len(names or ()) != 2:
        raise InputError(
            "label_mode", '"binary" is for two classes.', "two classes.", f"{len(names or ())}: {_some(names or [])}.",
            'use "categorical" or "int".',
        )  # fmt: skip
    if verbose:
        of = "" if numbers is None else f" of {len(names or ())} classes: {_some(names or [])}"
        say(f"Found {len(paths)} images{of}.", others)
    if shuffle:
        # The old generator shuffles as Keras does: the same seed parts the same files.
        seed = int(random.new_generator().integers(10**6)) if seed is None else seed
        order = np.random.RandomState(seed).permutation(len(paths))
        paths = [paths[k] for k in order]
        numbers = None if numbers is None else numbers[order]

    def part(chosen: slice, shuffled: bool) -> ImageDataset:
        y = None if numbers is None else numbers[chosen]
        return ImageDataset(
            paths[chosen], y, names, label_mode, color_mode, size, interpolation, crop_to_aspect_ratio, batch_size,
            shuffled, seed, verbose,
        )  # fmt: skip

    if validation_split is None:
        return part(slice(None), shuffle)
    cut = len(paths) - int(validation_split * len(paths))
    if cut in (0, len(paths)):
        raise InputError(
            "validation_split", "one of the two parts would be empty.", "at least one image in each.",
            f"{len(paths)} images and validation_split={validation_split}.", "use more images, or another share.",
        )  # fmt: skip
    training, validation = part(slice(cut), shuffle), part(slice(cut, None), False)
    return {"training": training, "validation": validation}.get(str(subset), (training, validation))


class ImageDataset(Epochs):
    """Batches of the images in a list of files. Made by `image_dataset_from_directory`; `fit` takes it as x.

    Iterating is one epoch: pairs x (N, H, W, C) float32 from 0 to 255 and y, or x alone where there are no labels.
    `self[i]` is one batch. Files that cannot be read are left out of their batch, and named in a warning at the end of
    the epoch. file_paths, labels: in their order before any shuffle by epochs. class_names: list of str, or None.
    """

    def __init__(
        self, file_paths: Sequence[str], labels: np.ndarray | None, class_names: list[str] | None,
        label_mode: str | None, color_mode: str, image_size: Size, interpolation: str, crop: bool, batch_size: int,
        shuffle: bool, seed: int | None, verbose: bool = True,
    ):  # fmt: skip
        super().__init__(len(file_paths), batch_size, shuffle, seed)
        self.file_paths, self.labels, self.class_names = list(file_paths), labels, class_names
        self.label_mode, self.verbose = label_mode, verbose
        self.image_shape = (*image_size, CHANNELS[color_mode])
        self._reader = ImageReader(color_mode, image_size, interpolation, crop)

    def __getitem__(self, i: int) -> Any:
        return self.run(i, slice(None))

    def run(self, i: int, run: slice) -> Any:
        """Some of the samples of batch i."""
        chosen = self.samples_of(i)[run]
        x, good = self._reader.read([self.file_paths[k] for k in chosen])
        x = x.astype(np.float32)
        return x if self.labels is None else (x, self._encoded(self.labels[chosen[good]]))

    def __iter__(self) -> Iterator[Any]:
        for i in range(len(self)):
            yield self[i]
        self.on_epoch_end()

    def on_epoch_end(self) -> None:
        super().on_epoch_end()
        self._reader.warn(self.n)

    def _encoded(self, labels: np.ndarray) -> np.ndarray:
        if self.label_mode == "categorical":
            return to_categorical(labels, len(self.class_names or ()))
        return labels.astype(np.float32)[:, None] if self.label_mode == "binary" else labels

    def arrays(self, dtype: Any = np.float32) -> Any:
        """All images at once, in the order of file_paths: (x, y), or x alone. dtype: np.uint8 needs a quarter of the
        memory.

        Forgets files that cannot be read, so that file_paths[k] is that of x[k]; names them in a warning.
        """
        start, parts, kept = perf_counter(), [], []
        with _bar(self.n, self.verbose) as advance:
            for first in range(0, self.n, 256):
                paths = self.file_paths[first : first + 256]
                x, good = self._reader.read(paths)
                parts.append(x.astype(dtype, copy=False))
                kept.append(first + good)
                advance(len(paths))
        seconds, chosen = perf_counter() - start, np.concatenate(kept)
        if self.verbose:
            say(f"Read {len(chosen)} images in {seconds:.1f} s ({len(chosen) / max(seconds, 1e-9):.0f} img/s)")
        self._reader.warn(self.n)
        if not len(chosen):
            raise InputError(
                "arrays", "none of the images can be read.", "at least one.", f"{self.n} broken files.",
                "look at the files that the warning names.",
            )  # fmt: skip
        self.file_paths = [self.file_paths[k] for k in chosen]
        self.labels = None if self.labels is None else self.labels[chosen]
        self.n, self._order = len(chosen), None
        x = np.concatenate(parts)
        return x if self.labels is None else (x, self._encoded(self.labels))


class ImageReader:
    """Reads files into one array of uint8, all images of one size; remembers which cannot be read, or not quite."""

    def __init__(self, color_mode: str, size: Size, interpolation: str, keep_aspect_ratio: bool):
        self.color_mode, self.size, self.interpolation = color_mode, size, interpolation
        self.keep_aspect_ratio = keep_aspect_ratio
        self.broken: dict[str, str] = {}  # path: why
        self.notes: dict[str, str] = {}  # path: what is to be said of the picture
        self.told = 0

    def read(self, paths: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """x (N, H, W, C) uint8 of those that can be read, and their positions in `paths`."""
        # Pillow lets go of Python's lock while it decodes, so threads help.
        with ThreadPoolExecutor(max(1, min(8, len(paths)))) as pool:
            read = [(k, image) for k, image in enumerate(pool.map(self._one, paths)) if image is not None]
        x = np.empty((len(read), *self.size, CHANNELS[self.color_mode]), np.uint8)
        for row, (_, image) in enumerate(read):
            x[row] = image
        return x, np.array([k for k, _ in read], np.intp)

    def _one(self, path: str) -> np.ndarray | None:
        if path in self.broken:
            return None
        try:
            img, notes = read_image(path, self.color_mode, self.size, self.interpolation, self.keep_aspect_ratio)
        except (BrokenFileError, OSError) as error:
            self.broken[path] = error.received if isinstance(error, InputError) else f"{error}."
            return None
        if notes:
            self.notes[path] = " ".join(notes)
        return np.asarray(img).reshape(*self.size, -1)

    def warn(self, total: int) -> None:
        """Name the files found broken, or not quite as they should be, since the last time."""
        if len(self.broken) + len(self.notes) > self.told:
            self.told = len(self.broken) + len(self.notes)
            for files, what in (
                (self.broken, "cannot be read as images and were left out"),
                (self.notes, "were read, but"),
            ):
                if files:
                    some = [f"  {path}: {why}" for path, why in list(files.items())[:10]]
                    rest = [f"  and {len(files) - 10} more"] if len(files) > 10 else []
                    head = f"{len(files)} of {total} files {what}:"
                    warnings.warn(visible("\n".join([head, *some, *rest])), stacklevel=3)


# ---- what is in a folder ---------------------------------------------------------------------------------------------


def list_folder(
    directory: Any, labels: Any, class_names: Sequence[str] | None, follow_links: bool
) -> tuple[list[str], np.ndarray | None, list[str] | None, Counter[str]]:
    """The paths of all images in a fixed order, their labels (N,) int32, the names of the classes, and how many files
    of which ending were passed over.
    """
    directory = os.fspath(directory)
    check_folder(directory)
    if isinstance(labels, str) and labels == "inferred":
        names = class_folders(directory, class_names)
        found, others = class_images(directory, names, follow_links)
        paths, sizes = [path for part in found for path in part], [len(part) for part in found]
        numbers: np.ndarray | None = np.repeat(np.arange(len(names), dtype=np.int32), sizes)
        chosen: list[str] | None = names
    else:
        if class_names is not None:
            raise InputError(
                "class_names", "they name the folders of the classes.", 'class_names only with labels="inferred".',
                f"labels={labels!r:.60}.", "leave one of the two out.",
            )  # fmt: skip
        paths, others = scan(directory, follow_links)
        numbers = None if labels is None else _given(labels, len(paths))
        chosen = None if numbers is None else [str(k) for k in range(int(numbers.max(initial=-1)) + 1)]
        _warn_of_unread(directory, others)
    if not paths:
        raise no_images(directory, others)
    return paths, numbers, chosen, others


def class_images(directory: str, names: Sequence[str], follow_links: bool) -> tuple[list[list[str]], Counter[str]]:
    """The images of each class, and how many other files of which ending there are. Warns of a class without images,
    or with none that can be read. Raises InputError where no class has any.
    """
    scanned = [scan(os.path.join(directory, name), follow_links) for name in names]
    found, others = [paths for paths, _ in scanned], sum((other for _, other in scanned), Counter())
    if not any(found):
        raise no_images(directory, others)
    for name, (paths, other) in zip(names, scanned, strict=True):
        if not paths:
            instead = f" ({some_endings(other)})" if other else ""
            warnings.warn(
                visible(f"There are no images in the class folder {name!r} of {directory}{instead}."), stacklevel=5
            )
        elif (why := _all_broken(paths)) is not None:
            warnings.warn(
                visible(f"None of the {len(paths)} images of the class {name!r} can be read: {paths[0]}: {why}"),
                stacklevel=5,
            )
    if len(names) == 1:
        warnings.warn(visible(f"There is only one class, {names[0]!r}: nothing to tell it apart from."), stacklevel=5)
    _warn_of_unread(directory, others)
    return found, others


def _all_broken(paths: Sequence[str]) -> str | None:
    """Why the first of these files cannot be read, if none can; None as soon as one can."""
    first = None
    for path in paths:
        try:
            read_image(path, "rgb", 8, "nearest", False)
            return None
        except (BrokenFileError, OSError) as error:
            first = first or (error.received if isinstance(error, InputError) else f"{error}.")
    return first


def _warn_of_unread(directory: str, others: Counter[str]) -> None:
    unread = Counter({ending: count for ending, count in others.items() if ending in UNREAD})
    if unread:
        warnings.warn(
            visible(f"{directory}: {some_endings(unread)} left out: save them as JPEG or PNG to have them read."),
            stacklevel=5,
        )


def check_folder(directory: str) -> None:
    if os.path.isdir(directory):
        return
    parent = os.path.dirname(os.path.abspath(directory))
    near = f"{parent} is not there either"
    if os.path.isdir(parent):
        near = f"there are {_some(_folders(parent))} in {parent}"
    raise InputError(
        directory, "this folder does not exist." if not os.path.exists(directory) else "this is not a folder.",
        "a folder of images.", f"{directory!r}; {near}.", "check the path; a relative one starts at os.getcwd().",
    )  # fmt: skip


def class_folders(directory: str, class_names: Sequence[str] | None = None) -> list[str]:
    """The names of the folders in `directory`, sorted, or those asked for. Hidden ones are no classes."""
    folders = _folders(directory)
    if not folders:
        loose = len(list_images(directory))
        raise InputError(
            directory, "there are no class folders in it.", "a folder for each class, as cats/tom.jpg.",
            f"{loose} image{'s' * (loose != 1)} and no folders." if loose else "an empty folder.",
            "move the images of each class into a folder of its name; or pass labels=None: images without classes.",
        )  # fmt: skip
    if class_names is None:
        _check_layout(directory, folders)
        return folders
    missing = [name for name in class_names if name not in folders]
    if missing or isinstance(class_names, str) or len(set(class_names)) != len(class_names):
        raise InputError(
            "class_names", "they do not fit the folders.", f"some of {_some(folders)}, each once.", f"{class_names!r}.",
            "write the names as the folders have them.",
        )  # fmt: skip
    return list(class_names)


def _check_layout(directory: str, folders: list[str]) -> None:
    """InputError where the folders can hardly be classes: parts of a data set, or what a zip file was packed in."""
    inside = {name: _folders(os.path.join(directory, name)) for name in folders}
    parts = [name for name in folders if name.lower() in PARTS and inside[name]]
    if len(folders) > 1 and len(parts) == len(folders):
        raise InputError(
            directory, "these folders are parts of a data set, no classes.", "a folder for each class.",
            f"{_some(folders)}; in {parts[0]}: {_some(inside[parts[0]])}.",
            f"read each part by itself: {os.path.join(directory, parts[-1])!r}, and so on; if these are classes, pass "
            "class_names.",
        )  # fmt: skip
    if len(folders) == 1 and inside[folders[0]]:
        one = os.path.join(directory, folders[0])
        if not any(file.lower().endswith(ENDINGS) for file in os.listdir(one)):
            raise InputError(
                directory, "there is one folder in it, and the classes seem to be inside that.",
                "a folder for each class.", f"{folders[0]}, and in it {_some(inside[folders[0]])}.",
                f"pass {one!r}; if it is a class, the only one, pass class_names.",
            )  # fmt: skip


def list_images(directory: str, follow_links: bool = False) -> list[str]:
    """The image files in `directory` and all folders below it, in a fixed order. Hidden ones are left out.

    Links to folders are followed where asked for, each folder once: a link may lead in a circle.
    """
    return scan(directory, follow_links)[0]


def scan(directory: str, follow_links: bool = False) -> tuple[list[str], Counter[str]]:
    """`list_images`, and how many other files, by their endings, in small letters."""
    paths, others, seen = [], Counter[str](), set()
    for root, folders, files in os.walk(directory, followlinks=follow_links, onerror=_cannot_list):
        real = os.path.realpath(root)
        folders[:] = [] if real in seen else sorted(name for name in folders if _is_class(name))
        if real not in seen:
            files = [file for file in files if not file.startswith(".")]
            paths += [(root, file) for file in files if file.lower().endswith(ENDINGS)]
            endings = (os.path.splitext(file)[1].lower() for file in files)
            others.update(ending for ending in endings if ending not in ENDINGS)
        seen.add(real)
    return [os.path.join(root, file) for root, file in sorted(paths)], others


def some_endings(others: Counter[str]) -> str:
    """`3 .heic, 1 without an ending`."""
    return ", ".join(f"{count} {ending or 'without an ending'}" for ending, count in others.most_common(10))


def no_images(directory: str, others: Counter[str]) -> InputError:
    received = f"other files: {some_endings(others)}." if others else "no files."
    unread = [ending for ending in others if ending in UNREAD]
    fix = "check the path, and the endings of the files."
    if unread:
        fix = f"save the {unread[0]} files as JPEG or PNG: open them in an image viewer, and export them."
    return InputError(
        directory, "there are no images in it.", f"files that end in {', '.join(ENDINGS)}.", received, fix
    )  # fmt: skip


def say(text: str, others: Counter[str] | None = None) -> None:
    """Print a line, and what was passed over. Letters that the output does not have are replaced: nothing stops."""
    if others:
        text += f"\nPassed over: {some_endings(others)}."
    print(visible(text))


def _folders(directory: str) -> list[str]:
    return sorted(entry.name for entry in Path(directory).iterdir() if entry.is_dir() and _is_class(entry.name))


def _is_class(name: str) -> bool:
    return not name.startswith(".") and name.lower() not in NO_CLASSES


def _cannot_list(error: OSError) -> None:
    warnings.warn(f"A folder cannot be read and is left out: {error}", stacklevel=5)


def _given(labels: Any, count: int) -> np.ndarray:
    numbers = np.asarray(labels)
    if numbers.shape != (count,) or numbers.dtype.kind not in "iub" or numbers.min(initial=0) < 0:
        raise InputError(
            "labels", "they do not fit the images.", f"a list of {count} whole numbers, one an image, from 0 on.",
            f"{type(labels).__name__} of shape {numbers.shape}, dtype {numbers.dtype}.",
            'pass labels="inferred" where each class has a folder.',
        )  # fmt: skip
    return numbers.astype(np.int32)


def _check_split(share: Any, subset: str | None, shuffle: bool, seed: int | None) -> None:
    if (share is None) != (subset is None):
        raise InputError(
            "subset", "validation_split and subset go together.", "both or neither.",
            f"validation_split={share!r}, subset={subset!r}.", 'for example validation_split=0.25, subset="both".',
        )  # fmt: skip
    if share is not None and (not isinstance(share, float) or not 0 < share < 1):
        raise InputError("validation_split", "it does not fit.", "a share between 0 and 1.", f"{share!r}.", "try 0.25.")
    if subset in ("training", "validation") and shuffle and seed is None:
        raise InputError(
            "seed", "the two parts would overlap.", "a seed, the same one in both calls.", "None.",
            'pass seed=0, for example; or ask for both parts at once: subset="both".',
        )  # fmt: skip


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:10]) or "no folders"
    return f"{shown} and {len(names) - 10} more" if len(names) > 10 else shown


class _bar:  # noqa: N801
    """A bar while files are read: in a terminal only."""

    def __init__(self, total: int, verbose: bool):
        self.total, self.shown = total, verbose and sys.stdout is not None and sys.stdout.isatty()
        self.bar: Any = None

    def __enter__(self) -> Callable[[int], Any]:
        if not self.shown:
            return lambda count: None
        from tqdm.auto import tqdm

        self.bar = tqdm(total=self.total, desc="Reading", unit=" img", file=sys.stdout, leave=False, dynamic_ncols=True)
        return self.bar.update

    def __exit__(self, *exception: object) -> None:
        if self.bar is not None:
            self.bar.close()
