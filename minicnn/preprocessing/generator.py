"""ImageDataGenerator: more training images than there are, by turning, moving and colouring them at random."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from numbers import Real
from typing import Any

import numpy as np

from minicnn import random
from minicnn.arguments import in_words
from minicnn.errors import InputError
from minicnn.kernels.warp import FILL_MODES
from minicnn.preprocessing.dataframe import DataFrameIterator
from minicnn.preprocessing.iterators import DirectoryIterator, NumpyArrayIterator
from minicnn.preprocessing.loading import Size, check_channels_last, check_choice
from minicnn.preprocessing.statistics import channel_deviations, channel_means, zca_matrix
from minicnn.preprocessing.transforms import Draw, draw_shifts, transformed

BLOCK = 256  # images that fit looks at together


@in_words
class ImageDataGenerator:
    """Batches of images, each changed at random, then normalised. The arguments of Keras' generator, in the same units.

        generator = ImageDataGenerator(rotation_range=30, width_shift_range=0.1, horizontal_flip=True)
        model.fit(generator.flow(x_train, y_train, batch_size=32), epochs=10)

    Changes, drawn anew for every image: rotation_range: up to so many degrees, either way. width_shift_range
    (sideways), height_shift_range (up and down): see `draw_shifts`. shear_range: degrees. zoom_range: z for 1-z to 1+z,
    or (from, to), of the width and the height seen: below 1 things grow. channel_shift_range: all channels, up or down
    by so much. brightness_range: (from, to), a factor. horizontal_flip, vertical_flip: every second image. fill_mode,
    cval: what comes from outside the image: `affine_warp`.
    Then, in this order: preprocessing_function(image) -> image of the same shape; rescale, a factor; samplewise_center,
    samplewise_std_normalization: each image less its own mean, by its own deviation; featurewise_center,
    featurewise_std_normalization: by those of the training images, for each channel; zca_whitening with zca_epsilon.
    The deviations and the whitening include the centering. What is learned from training images needs `fit` first.
    validation_split: the share, at the beginning, of subset="validation".

    Keras mixes up its two shifts (its width_shift_range moves images up and down) and turns images that are not square
    around a wrong point; here they do what their names say.
    """

    def __init__(
        self, featurewise_center: bool = False, samplewise_center: bool = False,
        featurewise_std_normalization: bool = False, samplewise_std_normalization: bool = False,
        zca_whitening: bool = False, zca_epsilon: float = 1e-6, rotation_range: float = 0, width_shift_range: Any = 0.0,
        height_shift_range: Any = 0.0, brightness_range: Any = None, shear_range: float = 0.0, zoom_range: Any = 0.0,
        channel_shift_range: float = 0.0, fill_mode: str = "nearest", cval: float = 0.0, horizontal_flip: bool = False,
        vertical_flip: bool = False, rescale: float | None = None,
        preprocessing_function: Callable[[np.ndarray], Any] | None = None, data_format: str | None = None,
        validation_split: float = 0.0,
    ):  # fmt: skip
        check_channels_last(data_format)
        check_choice("fill_mode", fill_mode, FILL_MODES)
        numbers = {
            "rotation_range": rotation_range, "shear_range": shear_range, "channel_shift_range": channel_shift_range,
            "zca_epsilon": zca_epsilon,
        }  # fmt: skip
        for name, value in numbers.items():
            _check(name, value, _is_number(value) and value >= 0, "a number of 0 or more")
        for name, value in (("width_shift_range", width_shift_range), ("height_shift_range", height_shift_range)):
            fits = np.size(value) > 0 and all(_is_number(v) and (v >= 0 or np.ndim(value)) for v in np.ravel(value))
            _check(name, value, fits and np.ndim(value) < 2, "a number of 0 or more, or a list of numbers")
        if _is_number(zoom_range):
            zoom_range = (1 - zoom_range, 1 + zoom_range)
        fits = _is_range(zoom_range) and zoom_range[0] > 0
        _check("zoom_range", zoom_range, fits, "a number below 1, or (from, to), both above 0")
        if brightness_range is not None:
            fits = _is_range(brightness_range) and brightness_range[0] >= 0
            _check("brightness_range", brightness_range, fits, "(from, to), both 0 or more")
        _check("validation_split", validation_split, _is_number(validation_split) and 0 <= validation_split < 1,
               "a share from 0 to below 1")  # fmt: skip
        _check("rescale", rescale, rescale is None or _is_number(rescale), "a number such as 1/255, or None")
        self.featurewise_center = featurewise_center or featurewise_std_normalization or zca_whitening
        self.featurewise_std_normalization = featurewise_std_normalization and not zca_whitening
        self.samplewise_center = samplewise_center or samplewise_std_normalization
        self.samplewise_std_normalization = samplewise_std_normalization
        self.zca_whitening, self.zca_epsilon = zca_whitening, zca_epsilon
        self.rotation_range, self.shear_range, self.zoom_range = rotation_range, shear_range, tuple(zoom_range)
        self.width_shift_range, self.height_shift_range = width_shift_range, height_shift_range
        self.brightness_range, self.channel_shift_range = brightness_range, channel_shift_range
        self.horizontal_flip, self.vertical_flip = horizontal_flip, vertical_flip
        self.fill_mode, self.cval, self.rescale = fill_mode, cval, rescale
        self.preprocessing_function, self.validation_split = preprocessing_function, validation_split
        self.mean: np.ndarray | None = None
        self.std: np.ndarray | None = None
        self.zca_whitening_matrix: np.ndarray | None = None
        self._rng = random.new_generator()  # for single images; batches bring their own

    # ---- batches --------------------------------------------------------------------------------------------------

    def flow(
        self, x: Any, y: Any = None, batch_size: int = 32, shuffle: bool = True, seed: int | None = None,
        save_to_dir: Any = None, save_prefix: str = "", save_format: str = "png", subset: str | None = None,
    ) -> NumpyArrayIterator:  # fmt: skip
        """Batches (x, y) without end from images (N, H, W, C) and their targets, or of x alone. `fit` takes it as x.

        seed: the same one gives the same batches. save_to_dir: write every image there as well, to look at, as
        PREFIX_SAMPLE_EPOCH.png. subset: "training" or "validation", of a generator with validation_split.
        """
        return NumpyArrayIterator(
            x, y, self, batch_size, shuffle, seed, save_to_dir, save_prefix, save_format, subset
        )  # fmt: skip

    def flow_from_directory(
        self, directory: Any, target_size: int | Size = (256, 256), color_mode: str = "rgb", classes: Any = None,
        class_mode: str | None = "categorical", batch_size: int = 32, shuffle: bool = True, seed: int | None = None,
        save_to_dir: Any = None, save_prefix: str = "", save_format: str = "png", follow_links: bool = False,
        subset: str | None = None, interpolation: str = "nearest", keep_aspect_ratio: bool = False,
    ) -> DirectoryIterator:  # fmt: skip
        """Batches (x, y) without end from a folder with a folder of images for each class. `fit` takes it as x.

        target_size: (height, width) of all images. classes: names of folders, in the order of their numbers; default
        all, sorted. class_mode: y is "categorical" one-hot, "sparse" class numbers, "binary" 0 or 1, "input" x itself,
        or None: x alone. The rest as in `flow` and `load_img`.
        """
        return DirectoryIterator(
            directory, self, target_size, color_mode, classes, class_mode, batch_size, shuffle, seed, save_to_dir,
            save_prefix, save_format, follow_links, subset, interpolation, keep_aspect_ratio,
        )  # fmt: skip

    def flow_from_dataframe(
        self, dataframe: Any, directory: Any = None, x_col: str = "filename", y_col: Any = "class",
        weight_col: str | None = None, target_size: int | Size = (256, 256), color_mode: str = "rgb",
        classes: Any = None, class_mode: str | None = "categorical", batch_size: int = 32, shuffle: bool = True,
        seed: int | None = None, save_to_dir: Any = None, save_prefix: str = "", save_format: str = "png",
        subset: str | None = None, interpolation: str = "nearest", validate_filenames: bool = True,
        keep_aspect_ratio: bool = False,
    ) -> DataFrameIterator:  # fmt: skip
        """Batches (x, y) without end of the images that a table lists, such as a pandas.DataFrame or a dict of lists.

        x_col: the column of file names, in `directory` or whole paths. y_col: that of the classes' names; those in
        `classes` only, if given. class_mode: as in `flow_from_directory`; or "raw": y_col is a column of numbers, or a
        list of such. weight_col: a column of sample weights; batches are then (x, y, weights). validate_filenames:
        rows whose file is not there are left out, with a warning. Raises InputError.
        """
        return DataFrameIterator(
            dataframe, self, directory, x_col, y_col, weight_col, target_size, color_mode, classes, class_mode,
            batch_size, shuffle, seed, save_to_dir, save_prefix, save_format, subset, interpolation, validate_filenames,
            keep_aspect_ratio,
        )  # fmt: skip

    # ---- changes at random ----------------------------------------------------------------------------------------

    def draw(self, n: int, img_shape: tuple[int, ...], rng: np.random.Generator) -> Draw:
        """What is to be done to n images (H, W, C), drawn for all at once: arrays (n,) by name."""

        def uniform(extent: float) -> np.ndarray:
            return rng.uniform(-extent, extent, n)

        bright = self.brightness_range
        zooms = rng.uniform(self.zoom_range[0], self.zoom_range[1], (2, n))
        return {
            "theta": uniform(self.rotation_range),
            "tx": draw_shifts(self.width_shift_range, img_shape[1], n, rng),
            "ty": draw_shifts(self.height_shift_range, img_shape[0], n, rng),
            "shear": uniform(self.shear_range),
            "zx": zooms[0],
            "zy": zooms[1],
            "flip_horizontal": (rng.random(n) < 0.5) & self.horizontal_flip,
            "flip_vertical": (rng.random(n) < 0.5) & self.vertical_flip,
            "channel_shift_intensity": uniform(self.channel_shift_range) if self.channel_shift_range else None,
            "brightness": None if bright is None else rng.uniform(bright[0], bright[1], n),
        }

    def augmented(
        self, x: np.ndarray, rng: np.random.Generator, n: int | None = None, chosen: Any = slice(None)
    ) -> np.ndarray:
        """Images x (N, H, W, C), each changed at random, as floats.

        n, chosen: where x are only some of n images, and which: they change as they would among the others.
        """
        draw = self.draw(len(x) if n is None else n, x.shape[1:], rng)
        own = {name: None if value is None else value[chosen] for name, value in draw.items()}
        return transformed(x, own, self.fill_mode, self.cval)

    def get_random_transform(self, img_shape: tuple[int, ...], seed: int | None = None) -> dict[str, Any]:
        """What may be done to one image (H, W, C): a dict for apply_transform."""
        draw = self.draw(1, img_shape, self._rng if seed is None else np.random.default_rng(seed))
        return {name: None if value is None else value[0].item() for name, value in draw.items()}

    def apply_transform(self, x: Any, transform_parameters: dict[str, Any]) -> np.ndarray:
        """One image (H, W, C) changed as the dict says; what is missing in it is left as it is.

        theta, shear: degrees. tx, ty: pixels to the left and up. zx, zy: how much of the width and height is seen.
        flip_horizontal, flip_vertical: bool. channel_shift_intensity; brightness, a factor.
        """
        return transformed(_one_image(x)[None], transform_parameters, self.fill_mode, self.cval)[0]

    def random_transform(self, x: Any, seed: int | None = None) -> np.ndarray:
        """One image (H, W, C) changed at random."""
        x = _one_image(x)
        return self.apply_transform(x, self.get_random_transform(x.shape, seed))

    # ---- normalisation --------------------------------------------------------------------------------------------

    def standardize(self, x: Any) -> np.ndarray:
        """Normalised images: x (H, W, C), or a batch of them. x itself stays as it is; Keras overwrites it."""
        x = np.array(x, dtype=np.float32)
        if x.ndim == 3:
            return self._standardize(x[None])[0]
        return self._standardize(_batch("standardize", x))

    def _standardize(self, x: np.ndarray) -> np.ndarray:
        """x (N, H, W, C) float32, which may be overwritten."""
        if self.preprocessing_function is not None:
            x = self._preprocessed(x)
        if self.rescale:
            x *= np.float32(self.rescale)
        if self.samplewise_center:
            x -= x.mean(axis=(1, 2, 3), keepdims=True, dtype=np.float64).astype(np.float32)
        if self.samplewise_std_normalization:
            x /= x.std(axis=(1, 2, 3), keepdims=True) + np.float32(1e-6)
        if self.featurewise_center:
            x -= self._fitted(self.mean)
        if self.featurewise_std_normalization:
            x /= self._fitted(self.std) + np.float32(1e-6)
        if self.zca_whitening:
            x = (x.reshape(len(x), -1) @ self._fitted(self.zca_whitening_matrix)).reshape(x.shape)
        return x

    def _preprocessed(self, x: np.ndarray) -> np.ndarray:
        assert self.preprocessing_function is not None
        images = [np.asarray(self.preprocessing_function(image), np.float32) for image in x]
        for image in images:
            if image.shape != x.shape[1:]:
                raise InputError(
                    "preprocessing_function", "it changes the shape.", f"an image of shape {x.shape[1:]}.",
                    f"one of shape {image.shape}.", "resize with target_size or image_size instead.",
                )  # fmt: skip
        return np.stack(images)

    def _fitted(self, learned: np.ndarray | None) -> np.ndarray:
        if learned is None:
            raise InputError(
                "ImageDataGenerator", "it has not seen any training images.",
                "fit(x_train) first: the means of featurewise_center and the matrix of zca_whitening come from there.",
                "a generator that was not fitted.", "call generator.fit(x_train).",
            )  # fmt: skip
        return learned

    def fit(self, x: Any, augment: bool = False, rounds: int = 1, seed: int | None = None) -> None:
        """Learn means, deviations and the whitening matrix from images (N, H, W, C), as far as they are asked for.

        augment: from images changed at random, each of them `rounds` times; seed repeats the changes. rescale is
        applied before, as later to the batches; preprocessing_function, as in Keras, is not.
        """
        x = _batch("fit", np.asarray(x))
        _check("rounds", rounds, _is_number(rounds) and rounds >= 1, "a whole number of 1 or more")
        start = int(self._rng.integers(2**63)) if seed is None else seed

        def blocks() -> Iterator[np.ndarray]:
            for turn in range(rounds if augment else 1):
                for k in range(0, len(x), BLOCK):
                    block = x[k : k + BLOCK].astype(np.float32)
                    if self.rescale:
                        block *= np.float32(self.rescale)
                    yield self.augmented(block, np.random.default_rng([start, turn, k])) if augment else block

        if self.featurewise_center:
            self.mean = channel_means(blocks)
        if self.featurewise_std_normalization:
            self.std = channel_deviations(blocks, self._fitted(self.mean))
        if self.zca_whitening:
            self.zca_whitening_matrix = zca_matrix(blocks, self._fitted(self.mean), self.zca_epsilon)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _is_range(value: Any) -> bool:
    fits = isinstance(value, (tuple, list, np.ndarray)) and len(value) == 2 and all(map(_is_number, value))
    return fits and value[0] <= value[1]


def _check(name: str, value: Any, fits: bool, expected: str) -> None:
    if not fits:
        raise InputError(
            f"ImageDataGenerator, {name}", "it does not fit.", f"{expected}.", f"{value!r}.", "see its description."
        )


def _one_image(x: Any) -> np.ndarray:
    """x as an array of numbers (H, W, C)."""
    x = np.asarray(x)
    if x.ndim != 3 or x.dtype.kind not in "buif":
        raise InputError(
            "ImageDataGenerator", "this is not one image.", "an array (height, width, channels).",
            f"{x.dtype}, shape {x.shape}.", "pass one image of a batch: x[0]; flow takes a batch.",
        )  # fmt: skip
    return x


def _batch(where: str, x: np.ndarray) -> np.ndarray:
    if x.ndim != 4 or x.dtype.kind not in "buif" or x.size == 0:
        raise InputError(
            f"ImageDataGenerator.{where}", "these are not images.", "an array (N, height, width, channels).",
            f"{x.dtype}, shape {x.shape}.",
            "give grey images their channel: x[..., None]." if x.ndim == 3 else "load the images first.",
        )  # fmt: skip
    return x
