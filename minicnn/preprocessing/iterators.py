"""The batches of an ImageDataGenerator, from arrays or from a folder."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from minicnn.arguments import in_words
from minicnn.batches import Epochs, to_categorical
from minicnn.errors import InputError
from minicnn.preprocessing.folder import ImageReader, check_folder, class_folders, class_images, say
from minicnn.preprocessing.loading import CHANNELS, INTERPOLATIONS, check_choice, check_size, pillow_format, save_img

if TYPE_CHECKING:
    from minicnn.preprocessing.generator import ImageDataGenerator

SUBSETS = ("training", "validation", None)
CLASS_MODES = ("categorical", "binary", "sparse", "input", None)


@in_words
class Iterator(Epochs):
    """Batches without end: `for x, y in iterator` goes on for ever, `len(iterator)` batches an epoch.

    Both uses give the same batches: next(iterator), which moves on by itself, and iterator[i] with on_epoch_end(), as
    `fit` uses it. state_dict() tells the place, load_state_dict() goes there.
    """

    def __init__(
        self, n: int, generator: ImageDataGenerator, batch_size: int, shuffle: bool, seed: int | None,
        save_to_dir: Any, save_prefix: str, save_format: str,
    ):  # fmt: skip
        super().__init__(n, batch_size, shuffle, seed)
        self.image_data_generator = generator
        self.save_to_dir, self.save_prefix, self.save_format = save_to_dir, save_prefix, save_format
        if save_to_dir is not None:
            pillow_format(save_format)
            os.makedirs(save_to_dir, exist_ok=True)

    def __iter__(self) -> Iterator:
        return self

    def __next__(self) -> Any:
        if self.index >= len(self):
            self.on_epoch_end()
        batch = self[self.index]
        self.index += 1
        if self.index == len(self):
            self.on_epoch_end()
        return batch

    def __getitem__(self, i: int) -> Any:
        return self.run(i, slice(None))

    def run(self, i: int, run: slice) -> Any:
        """Some of the samples of batch i: what becomes of each does not depend on which others there are."""
        whole = self.samples_of(i)
        x, samples = self._load(whole[run])
        chosen = np.flatnonzero(np.isin(whole, samples))
        x = self.image_data_generator.augmented(x, self.random_of(i), len(whole), chosen).astype(np.float32, copy=False)
        x = self.image_data_generator._standardize(x) if len(x) else x
        if self.save_to_dir is not None:
            self._save(x, samples)
        return self._with_targets(x, samples)

    def _load(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """x (N, H, W, C) of numbers, and which samples they are: those that can be read."""
        raise NotImplementedError(f"{type(self).__name__} must define _load(samples)")

    def _with_targets(self, x: np.ndarray, samples: np.ndarray) -> Any:
        """The batch: (x, y), or x."""
        raise NotImplementedError(f"{type(self).__name__} must define _with_targets(x, samples)")

    def _save(self, x: np.ndarray, samples: np.ndarray) -> None:
        for image, k in zip(x, samples, strict=True):
            name = f"{self.save_prefix}_{k}_{self.epoch}.{self.save_format}"
            # Pictures with values from 0 to 255 as they are; others are stretched until one can see them.
            stretch = bool(image.min() < 0 or image.max() <= 1 or image.max() > 255)
            save_img(os.path.join(self.save_to_dir, name), image, scale=stretch)


@in_words
class NumpyArrayIterator(Iterator):
    """See `ImageDataGenerator.flow`. x stays as it is, uint8 for example; a batch is float32."""

    def __init__(
        self, x: Any, y: Any, image_data_generator: ImageDataGenerator, batch_size: int = 32, shuffle: bool = False,
        seed: int | None = None, save_to_dir: Any = None, save_prefix: str = "", save_format: str = "png",
        subset: str | None = None,
    ):  # fmt: skip
        x, y = np.asarray(x), None if y is None else np.asarray(y)
        if x.ndim != 4 or x.dtype.kind not in "buif" or len(x) == 0:
            raise InputError(
                "flow", "x are no images.", "an array (N, height, width, channels).", f"{x.dtype}, shape {x.shape}.",
                "give grey images their channel: x[..., None]." if x.ndim == 3 else "load the images first.",
            )  # fmt: skip
        if y is not None and (y.ndim == 0 or len(y) != len(x)):
            raise InputError(
                "flow", "x and y have different lengths.", f"one target for each of the {len(x)} images.",
                f"y of shape {y.shape}.", "check that both were sliced or shuffled alike.",
            )  # fmt: skip
        share = image_data_generator.validation_split
        part = part_of(len(x), share, subset)
        check_not_empty(len(x[part]), len(x), share, subset)
        if subset is not None and y is not None:
            _check_classes(y, share)
        self.x, self.y = x[part], None if y is None else y[part]
        args = (batch_size, shuffle, seed, save_to_dir, save_prefix, save_format)
        super().__init__(len(self.x), image_data_generator, *args)

    def _load(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.x[samples], samples

    def _with_targets(self, x: np.ndarray, samples: np.ndarray) -> Any:
        return x if self.y is None else (x, self.y[samples])


@in_words
class DirectoryIterator(Iterator):
    """See `ImageDataGenerator.flow_from_directory`.

    class_indices: number by name; classes: the number of each file; filenames: in the folder; filepaths: whole;
    samples: how many. Files that cannot be read are left out, and named in a warning at the end of the epoch.
    """

    def __init__(
        self, directory: Any, image_data_generator: ImageDataGenerator, target_size: Any = (256, 256),
        color_mode: str = "rgb", classes: Any = None, class_mode: str | None = "categorical", batch_size: int = 32,
        shuffle: bool = True, seed: int | None = None, save_to_dir: Any = None, save_prefix: str = "",
        save_format: str = "png", follow_links: bool = False, subset: str | None = None,
        interpolation: str = "nearest", keep_aspect_ratio: bool = False,
    ):  # fmt: skip
        check_choice("class_mode", class_mode, CLASS_MODES)
        check_choice("color_mode", color_mode, CHANNELS)
        check_choice("interpolation", interpolation, INTERPOLATIONS)
        size = check_size("target_size", target_size)
        directory = os.fspath(directory)
        check_folder(directory)
        names = class_folders(directory, classes)
        found, others = class_images(directory, names, follow_links)
        share = image_data_generator.validation_split
        total = sum(len(paths) for paths in found)
        found = [paths[part_of(len(paths), share, subset)] for paths in found]  # the share of every class
        self.filepaths = [path for paths in found for path in paths]
        check_not_empty(len(self.filepaths), total, share, subset)
        self.filenames = [os.path.relpath(path, directory) for path in self.filepaths]
        self.classes = np.repeat(np.arange(len(names), dtype=np.int32), [len(paths) for paths in found])
        self.class_indices = {name: k for k, name in enumerate(names)}
        self.class_names, self.num_classes, self.samples = names, len(names), len(self.filepaths)
        self.class_mode, self.image_shape = class_mode, (*size, CHANNELS[color_mode])
        if class_mode == "binary" and len(names) != 2:
            raise InputError(
                "class_mode", '"binary" is for two classes.', "two class folders.", f"{len(names)}.",
                'use "categorical" or "sparse".',
            )  # fmt: skip
        self._reader = ImageReader(color_mode, size, interpolation, keep_aspect_ratio)
        say(f"Found {self.samples} images belonging to {self.num_classes} classes.", others)
        args = (batch_size, shuffle, seed, save_to_dir, save_prefix, save_format)
        super().__init__(self.samples, image_data_generator, *args)

    def _load(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x, good = self._reader.read([self.filepaths[k] for k in samples])
        return x, samples[good]

    def _with_targets(self, x: np.ndarray, samples: np.ndarray) -> Any:
        if self.class_mode is None:
            return x
        if self.class_mode == "input":
            return x, x.copy()
        y = self.classes[samples]
        if self.class_mode == "categorical":
            return x, to_categorical(y, self.num_classes)
        return x, y if self.class_mode == "sparse" else y.astype(np.float32)

    def on_epoch_end(self) -> None:
        super().on_epoch_end()
        self._reader.warn(self.samples)


def part_of(n: int, share: float, subset: str | None) -> slice:
    """Of n samples: the first `share` for "validation", the others for "training", all for None."""
    check_choice("subset", subset, SUBSETS)
    if subset is None:
        return slice(None)
    if not share:
        raise InputError(
            "subset", "the generator knows of no parts.", "a generator with validation_split.", f"{subset!r}.",
            "make it with ImageDataGenerator(validation_split=0.25), for example.",
        )  # fmt: skip
    cut = int(n * share)
    return slice(cut) if subset == "validation" else slice(cut, None)


def check_not_empty(chosen: int, n: int, share: float, subset: str | None) -> None:
    if not chosen:
        raise InputError(
            "subset", f"the {subset} part would be empty.", "at least one image.",
            f"{n} images and validation_split={share}.", "use more images, or another share.",
        )  # fmt: skip


def _check_classes(y: np.ndarray, share: float) -> None:
    """InputError where y is sorted, so that the two parts have different classes. Keras raises a ValueError, too."""
    classes = y.argmax(axis=1) if y.ndim == 2 and y.shape[1] > 1 and y.dtype.kind in "biuf" else y.reshape(len(y), -1)
    if classes.ndim == 2:
        if classes.shape[1] != 1 or classes.dtype.kind not in "biufSU":
            return  # no class numbers
        classes = classes[:, 0]
    cut, kinds = int(len(y) * share), np.unique(classes)
    in_blocks = np.count_nonzero(classes[1:] != classes[:-1]) == len(kinds) - 1  # all of a class stand together
    if len(kinds) < len(y) and in_blocks and not np.array_equal(np.unique(classes[:cut]), np.unique(classes[cut:])):
        raise InputError(
            "subset", "y is sorted, so the two parts have different classes.", "each class in both parts.",
            f"for training {np.unique(classes[cut:]).tolist()}, for validation {np.unique(classes[:cut]).tolist()}.",
            "shuffle first: order = np.random.default_rng(0).permutation(len(x)), then x[order], y[order].",
        )  # fmt: skip
