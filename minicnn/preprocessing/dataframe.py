"""Images that a table lists: the batches of `ImageDataGenerator.flow_from_dataframe`.

The table is a pandas.DataFrame, or anything else of which `table["column"]` gives the values of a column: a dict of
lists is enough. pandas itself is not needed.
"""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from minicnn.arguments import in_words
from minicnn.batches import to_categorical
from minicnn.errors import InputError, checked, unknown_name, visible
from minicnn.files import checked_path
from minicnn.preprocessing.folder import ImageReader, check_folder, say
from minicnn.preprocessing.iterators import Iterator, check_not_empty, part_of
from minicnn.preprocessing.loading import CHANNELS, INTERPOLATIONS, check_choice, check_size

if TYPE_CHECKING:
    from minicnn.preprocessing.generator import ImageDataGenerator

CLASS_MODES = ("categorical", "binary", "sparse", "raw", "input", None)


@in_words
class DataFrameIterator(Iterator):
    """See `ImageDataGenerator.flow_from_dataframe`.

    class_indices: number by name, and classes: the number of each file, where y is made of names; filenames: as in the
    table; filepaths: whole; samples: how many. Files that cannot be read are left out, and named in a warning.
    """

    def __init__(
        self, dataframe: Any, image_data_generator: ImageDataGenerator, directory: Any = None, x_col: str = "filename",
        y_col: Any = "class", weight_col: str | None = None, target_size: Any = (256, 256), color_mode: str = "rgb",
        classes: Any = None, class_mode: str | None = "categorical", batch_size: int = 32, shuffle: bool = True,
        seed: int | None = None, save_to_dir: Any = None, save_prefix: str = "", save_format: str = "png",
        subset: str | None = None, interpolation: str = "nearest", validate_filenames: bool = True,
        keep_aspect_ratio: bool = False,
    ):  # fmt: skip
        if class_mode == "multi_output":
            raise InputError(
                "class_mode", "a model has one output.", "one of categorical, binary, sparse, raw, input, None.",
                f"{class_mode!r}.", 'class_mode="raw" with a list of columns gives a number for each of them.',
            )  # fmt: skip
        check_choice("class_mode", class_mode, CLASS_MODES)
        check_choice("color_mode", color_mode, CHANNELS)
        check_choice("interpolation", interpolation, INTERPOLATIONS)
        size, folder = check_size("target_size", target_size), ""
        if directory is not None:
            folder = checked_path("directory", directory)
            check_folder(folder)
        names = _texts(dataframe, x_col)
        keep = np.ones(len(names), bool)
        if checked("flow_from_dataframe", "validate_filenames", validate_filenames, bool, True):
            keep = np.array([os.path.isfile(os.path.join(folder, name)) for name in names], bool)
            if not keep.all():
                lost = np.flatnonzero(~keep)
                first = os.path.join(folder, names[lost[0]])
                text = f"{len(lost)} of {len(names)} files do not exist and are left out; the first is {first}."
                warnings.warn(visible(text), stacklevel=5)
        needed = [] if class_mode in ("input", None) else y_col if isinstance(y_col, (list, tuple)) else [y_col]
        for name in [*needed, *([] if weight_col is None else [weight_col])]:
            if len(_column(dataframe, name)) != len(names):
                raise InputError(
                    f"column {name!r}", "the columns have different lengths.", f"{len(names)} rows, as in {x_col!r}.",
                    f"{len(_column(dataframe, name))}.", "give each file a value.",
                )  # fmt: skip
        self.class_mode, self.class_indices, labels = class_mode, {}, None
        if class_mode in ("categorical", "binary", "sparse"):
            labels = _texts(dataframe, y_col)
            known = sorted(set(labels)) if classes is None else [str(name) for name in classes]
            self.class_indices = {name: k for k, name in enumerate(known)}
            keep &= np.array([name in self.class_indices for name in labels], bool)
            if class_mode == "binary" and len(known) != 2:
                raise InputError(
                    "class_mode", '"binary" is for two classes.', "two classes.", f"{len(known)}.",
                    'use "categorical" or "sparse".',
                )  # fmt: skip
        rows = np.flatnonzero(keep)
        share = image_data_generator.validation_split
        chosen = rows[part_of(len(rows), share, subset)]
        check_not_empty(len(chosen), len(rows), share, subset)
        self.filenames = [names[k] for k in chosen]
        self.filepaths = [os.path.join(folder, name) for name in self.filenames]
        self.samples, self.num_classes = len(chosen), len(self.class_indices)
        self.image_shape = (*size, CHANNELS[color_mode])
        if labels is not None:
            self.classes = np.array([self.class_indices[labels[k]] for k in chosen], np.int32)
        self._raw = _numbers(dataframe, y_col)[chosen] if class_mode == "raw" else None
        self._weights = None if weight_col is None else _numbers(dataframe, weight_col)[chosen]
        self._reader = ImageReader(color_mode, size, interpolation, keep_aspect_ratio)
        belonging = f" belonging to {self.num_classes} classes" if self.class_indices else ""
        say(f"Found {self.samples} images{belonging}.")
        args = (batch_size, shuffle, seed, save_to_dir, save_prefix, save_format)
        super().__init__(self.samples, image_data_generator, *args)

    def _load(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x, good = self._reader.read([self.filepaths[k] for k in samples])
        return x, samples[good]

    def _with_targets(self, x: np.ndarray, samples: np.ndarray) -> Any:
        if self.class_mode is None:
            return x
        if self.class_mode == "input":
            y: Any = x.copy()
        elif self._raw is not None:
            y = self._raw[samples]
        else:
            y = self.classes[samples]
            y = to_categorical(y, self.num_classes) if self.class_mode == "categorical" else y
            y = y.astype(np.float32) if self.class_mode == "binary" else y
        return (x, y) if self._weights is None else (x, y, self._weights[samples])

    def on_epoch_end(self) -> None:
        super().on_epoch_end()
        self._reader.warn(self.samples)


def _column(table: Any, name: Any) -> list[Any]:
    try:
        return list(table[name])
    except (KeyError, IndexError, TypeError):
        columns = getattr(table, "columns", table if isinstance(table, dict) else [])
        raise unknown_name("column of the table", name, [str(column) for column in columns]) from None


def _texts(table: Any, name: Any) -> list[str]:
    """A column of names."""
    values = _column(table, name)
    wrong = next((value for value in values if not isinstance(value, (str, os.PathLike))), None)
    if wrong is not None or not values:
        raise InputError(
            f"column {name!r}", "its values are no names.", "a text in each row.",
            "an empty column." if not values else f"{wrong!r}, a {type(wrong).__name__}.",
            'for class numbers write table[col].astype(str), or use class_mode="raw" for numbers as they are.',
        )  # fmt: skip
    return [os.fspath(value) for value in values]


def _numbers(table: Any, name: Any) -> np.ndarray:
    """A column of numbers, (N,), or several, (N, columns)."""
    columns = [_column(table, one) for one in (name if isinstance(name, (list, tuple)) else [name])]
    array = np.array(columns, dtype=object).T
    try:
        array = array.astype(np.float32)
    except (ValueError, TypeError):
        raise InputError(
            f"column {name!r}", "its values are no numbers.", "a number in each row.", f"{columns[0][0]!r}.",
            'for names of classes use class_mode="categorical" or "sparse".',
        ) from None  # fmt: skip
    if not np.isfinite(array).all():
        raise InputError(
            f"column {name!r}", "not every number is finite.", "no NaN: no row without a value.", "NaN or infinity.",
            "leave those rows out, for example with table.dropna().",
        )  # fmt: skip
    return array if isinstance(name, (list, tuple)) else array[:, 0]
