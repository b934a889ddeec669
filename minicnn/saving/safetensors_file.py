"""Weights as safetensors, the format in which most networks are published: a table in JSON, then the numbers.

    8 bytes        how long the table is
    the table      {"conv2d_1/kernel": {"dtype": "F32", "shape": [3, 3, 1, 32], "data_offsets": [0, 1152]}, …}
    the numbers    of one array after the other, without a gap

Written by the safetensors library; read here, after every rule of the format was checked. Our names are "layer/kernel",
with Keras' layouts. State dicts of PyTorch ("features.0.weight"), as torchvision's VGG16 has them, are converted.
Source: https://huggingface.co/docs/safetensors, "Format".
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from minicnn.backend import to_host
from minicnn.errors import BrokenFileError, InputError, shortened
from minicnn.file_kinds import HEAD, SAFETENSORS, kind_of
from minicnn.files import atomic_write
from minicnn.layers import (
    BatchNormalization,
    Conv1D,
    Conv2D,
    Conv2DTranspose,
    Dense,
    GroupNormalization,
    LayerNormalization,
)
from minicnn.layers.base import Layer, Shape
from minicnn.reading import checked, fill, open_file
from minicnn.saving.archive import MAX_AXES, MAX_TEXT, parse_json
from minicnn.saving.keras_layout import orders_of_channels_first
from minicnn.saving.keras_weights import KERAS_NAMES

SUFFIX = ".safetensors"
# What a number takes, in bytes, and what we read it as.
DTYPES = {
    "F64": (8, "<f8"), "F32": (4, "<f4"), "F16": (2, "<f2"), "BF16": (2, "<u2"), "BOOL": (1, "?"), "U8": (1, "u1"),
    "I8": (1, "i1"), "U16": (2, "<u2"), "I16": (2, "<i2"), "U32": (4, "<u4"), "I32": (4, "<i4"), "U64": (8, "<u8"),
    "I64": (8, "<i8"), "F8_E4M3": (1, "u1"), "F8_E5M2": (1, "u1"),
}  # fmt: skip
_FIX = "save or download it again: it may have been cut off, or be of another kind."


def save_weights(model: Any, filepath: Any, overwrite: bool = True) -> None:
    """Write parameters and state of a built model. InputError without the library, FileExistsError, WriteError."""
    try:
        from safetensors.numpy import save
    except ImportError as error:
        raise InputError(
            "save_weights", "the package safetensors is not installed, which writes such files.",
            "the package safetensors.", f"{error}.",
            'install it with `python -m pip install safetensors`, or minicnn with ".[safetensors]".',
        ) from error  # fmt: skip
    if not overwrite and Path(filepath).exists():
        raise FileExistsError(f"{filepath} exists already; pass overwrite=True to replace it")
    # The library takes the bytes as they lie: those of an array in Fortran's order would be mixed up.
    arrays = {name: np.ascontiguousarray(to_host(array)) for name, (_, array) in named_arrays(model).items()}
    content = save(arrays, {"format": "minicnn"})
    with atomic_write(filepath) as file:
        file.write(content)


def named_arrays(model: Any) -> dict[str, tuple[str, Any]]:
    """ "conv2d_1/kernel" -> (minicnn's own name, "params/conv2d_1/w", the array)."""
    found = {}
    for key, layer in model.layers_by_key.items():
        for kind, group in (("params", layer.params), ("state", layer.state)):
            for name, array in group.items():
                shown = f"{key}/{KERAS_NAMES.get(name, name)}"
                found[shown if shown not in found else f"{key}/{name}"] = f"{kind}/{key}/{name}", array
    return found


def is_safetensors(filepath: Any) -> bool:
    """Whether a file is one of these, by its first bytes, or is called so. Raises OSError."""
    with open_file(filepath) as stream:
        return kind_of(stream.read(HEAD)) is SAFETENSORS or str(filepath).endswith(SUFFIX)


@contextmanager
def opened(filepath: Any, model: Any) -> Iterator[Tensors]:
    """The arrays of a file under the names that they have in the model."""
    expected = "a file that safetensors wrote."
    with open_file(filepath) as stream, checked(filepath, "this is not a whole safetensors file.", expected, _FIX):
        found = kind_of(stream.read(HEAD))
        if found is not None and found is not SAFETENSORS:
            raise BrokenFileError(
                filepath, "this is no safetensors file.", expected, f"{found.name}.", found.fix or _FIX
            )
        yield Tensors(filepath, stream, model)


class Entry(NamedTuple):
    """A row of the table. begin, end: where its numbers are in the file."""

    kind: str
    shape: Shape
    begin: int
    end: int


class Stored(NamedTuple):
    """An array as the model would have it. axes, order: how it is turned, and its rows rearranged, for that."""

    entry: Entry
    shape: Shape
    axes: tuple[int, ...] | None = None
    order: np.ndarray | None = None

    @property
    def dtype(self) -> np.dtype:
        kind = self.entry.kind
        return np.dtype(np.float32 if kind == "BF16" else np.int8 if kind.startswith("F8") else DTYPES[kind][1])


class Tensors:
    """As archive.Archive: nothing but the table has been read. arrays: minicnn's own names of arrays -> Stored."""

    def __init__(self, filepath: Any, stream: BinaryIO, model: Any):
        self.filepath, self._stream = filepath, stream
        table, ours = read_table(stream), named_arrays(model)
        if not set(ours) & set(table) and any(_TORCH.fullmatch(name) for name in table):
            self.arrays = self._of_torch(table, model)
            return
        self.arrays = {
            ours[name][0] if name in ours else f"params/{name}": Stored(entry, entry.shape)
            for name, entry in table.items()
        }

    def read(self, name: str) -> np.ndarray:
        """The array of this name, C-contiguous."""
        entry, _, axes, order = self.arrays[name]
        array = np.empty(entry.shape, DTYPES[entry.kind][1])
        self._stream.seek(entry.begin)
        fill(self._stream, array)
        if entry.kind == "BF16":  # the upper half of a float32
            array = (array.astype(np.uint32) << 16).view(np.float32)
        array = array if axes is None else array.transpose(axes)
        return np.ascontiguousarray(array if order is None else array[order])

    def broken(self, problem: str, expected: str, received: str, fix: str) -> BrokenFileError:
        return BrokenFileError(self.filepath, problem, expected, received, fix)

    def _of_torch(self, table: dict[str, Entry], model: Any) -> dict[str, Stored]:
        """Those of a state dict: the n-th layer with weights there is the n-th here."""
        theirs: dict[str, dict[str, Entry]] = {}
        for name, entry in table.items():
            match = _TORCH.fullmatch(name)
            if match is None:
                raise self.broken(
                    f"{shortened(name)} is no array of a layer that is known.",
                    f"names that end in {', '.join(_TORCH_NAMES)}.", f"{shortened(name)}.",
                    "hand the arrays over in code: layer.set_weights([w, b]).",
                )  # fmt: skip
            if match[2] != "num_batches_tracked":
                theirs.setdefault(match[1] or "", {})[match[2]] = entry
        order = sorted(theirs, key=_place)
        ours = [(key, layer) for key, layer in model.layers_by_key.items() if layer.params or layer.state]
        rows = orders_of_channels_first(self, model)
        found: dict[str, Stored] = {}
        for i, group in enumerate(order):
            key, layer = ours[i] if i < len(ours) else (group, None)
            for theirs_name, entry in theirs[group].items():
                kind, name = _our_name(layer, theirs_name)
                axes = {4: (2, 3, 1, 0), 3: (2, 1, 0), 2: (1, 0)}.get(len(entry.shape))
                shape = entry.shape if axes is None else tuple(entry.shape[axis] for axis in axes)
                found[f"{kind}/{key}/{name}"] = Stored(entry, shape, axes, rows.get((key, name)))
        return found


# ---- the table -------------------------------------------------------------------------------------------------------


def read_table(stream: BinaryIO) -> dict[str, Entry]:
    """The table of a file by name, after a check of all rules. Else ValueError."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    start = 8 + int.from_bytes(stream.read(8), "little")
    if size < 10 or start > size or start - 8 > MAX_TEXT:
        raise ValueError(f"a table of {start - 8:,} bytes in a file of {size:,}; at most {MAX_TEXT:,} are read")
    text = stream.read(start - 8)
    if text[:1] != b"{":
        raise ValueError("its table does not begin with a bracket")
    table = parse_json(text)
    notes = table.pop("__metadata__", {})
    if not isinstance(notes, dict) or not all(isinstance(note, str) for note in notes.values()):
        raise ValueError("its __metadata__ are not texts")
    entries = {name: _entry(name, row, start) for name, row in table.items()}
    end = start
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != end:
            raise ValueError(f"{shortened(name)!r} does not begin where the array before it ends")
        end = entry.end
    if end != size:
        raise ValueError(f"the arrays end at byte {end:,} of {size:,}")
    return entries


def _entry(name: str, row: Any, start: int) -> Entry:
    if not isinstance(row, dict) or set(row) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{shortened(name)!r} is not described by dtype, shape and data_offsets")
    kind, shape, offsets = row["dtype"], row["shape"], row["data_offsets"]
    if not isinstance(kind, str) or kind not in DTYPES:
        raise ValueError(f"{shortened(name)!r} is of the unknown dtype {shortened(repr(kind), 40)}")
    for numbers in (shape, offsets):
        if not isinstance(numbers, list) or not all(type(n) is int and 0 <= n < 1 << 63 for n in numbers):
            raise ValueError(f"{shortened(name)!r} has a shape or data_offsets that are not whole numbers")
    if len(shape) > MAX_AXES or len(offsets) != 2:
        raise ValueError(f"{shortened(name)!r} has {len(shape)} axes and {len(offsets)} data_offsets")
    if math.prod(shape) * DTYPES[kind][0] != offsets[1] - offsets[0]:
        raise ValueError(f"{shortened(name)!r} has {offsets[1] - offsets[0]:,} bytes, but declares {shape} of {kind}")
    return Entry(kind, tuple(shape), start + offsets[0], start + offsets[1])


# ---- state dicts of PyTorch ------------------------------------------------------------------------------------------

_TORCH_NAMES = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
_TORCH = re.compile(rf"(?:(.+)\.)?({'|'.join(_TORCH_NAMES)})")


def _place(group: str) -> tuple[bool, list[tuple[bool, int, str]]]:
    """Layers go by their numbers, as numbers; torchvision's classifier comes after the features."""
    parts = group.split(".")
    return parts[0] == "classifier", [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]


def _our_name(layer: Layer | None, name: str) -> tuple[str, str]:
    """("params", "w") for "weight" of a convolution, and so on."""
    if name.startswith("running"):
        return "state", {"running_mean": "moving_mean", "running_var": "moving_variance"}[name]
    weight, bias = "weight", "bias"
    if isinstance(layer, (Dense, Conv1D, Conv2D, Conv2DTranspose)):
        weight, bias = "w", "b"
    elif isinstance(layer, (BatchNormalization, LayerNormalization, GroupNormalization)):
        weight, bias = "gamma", "beta"
    return "params", weight if name == "weight" else bias
