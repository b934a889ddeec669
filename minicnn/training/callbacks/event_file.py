"""TensorBoard's event files, written by hand: records with checksums, and in each of them an event as a protobuf.

    record   length (uint64) | crc of it (uint32) | event | crc of that (uint32)        all little-endian
    event    fields, one after the other: (number << 3 | kind), then the value; kind 0 is a varint, 1 a float64, 5 a
             float32, and 2 a length and so many bytes: a text, an inner message, or packed numbers

Sources: tensorflow/core/lib/io/record_writer.h and record_reader.h (the record, the masked crc), core/util/event.proto,
core/framework/summary.proto and graph.proto (the numbers of the fields), protobuf's "Encoding" page (the kinds). Only
what is written here is described; nothing is read.
"""

from __future__ import annotations

import io
import os
import struct
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minicnn.errors import WriteError
from minicnn.files import make_folder

# ---- records ---------------------------------------------------------------------------------------------------------

_POLYNOMIAL = 0x82F63B78  # of CRC-32C (Castagnoli), the bits turned round


def _table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (_POLYNOMIAL if byte & 1 else 0)
        table.append(byte)
    return table


_TABLE = _table()


def crc32c(data: bytes) -> int:
    """The checksum CRC-32C: 0xE3069283 for b"123456789"."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def masked(crc: int) -> int:
    """Turned and shifted, so that the checksum of data that holds checksums is not always the same."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return b"".join([length, struct.pack("<I", masked(crc32c(length))), data, struct.pack("<I", masked(crc32c(data)))])


# ---- protobuf --------------------------------------------------------------------------------------------------------


def varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; the eighth says whether more follow. Negative ones as 64 bits."""
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def whole(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def double(field: int, value: float) -> bytes:
    return varint(field << 3 | 1) + struct.pack("<d", value)


def single(field: int, value: float) -> bytes:
    return varint(field << 3 | 5) + np.float32(value).tobytes()


def inner(field: int, content: bytes | str) -> bytes:
    """A text, bytes or a message."""
    content = content.encode("utf-8", "replace") if isinstance(content, str) else content
    return varint(field << 3 | 2) + varint(len(content)) + content


# ---- what a summary holds --------------------------------------------------------------------------------------------


def scalar(tag: str, value: float) -> bytes:
    """Summary.Value: tag 1, simple_value 2 (float32)."""
    return inner(1, tag) + single(2, value)


def histogram(tag: str, numbers: np.ndarray) -> bytes:
    """Summary.Value with histo 5: min, max, num, sum, sum_squares, bucket_limit, bucket; 30 buckets of one width.

    NaN and infinity have no place on its axis and are left out.
    """
    numbers = np.asarray(numbers, np.float64).reshape(-1)
    numbers = numbers[np.isfinite(numbers)]
    counts, edges = np.histogram(numbers, bins=30) if numbers.size else (np.zeros(1), np.array([0.0, 1.0]))
    facts = [numbers.min(initial=edges[-1]), numbers.max(initial=edges[0]), numbers.size, numbers.sum(),
             (numbers**2).sum()]  # fmt: skip
    content = b"".join(double(field, float(fact)) for field, fact in enumerate(facts, start=1))
    content += inner(6, edges[1:].astype("<f8").tobytes()) + inner(7, counts.astype("<f8").tobytes())
    return inner(1, tag) + inner(5, content)


def image(tag: str, pixels: np.ndarray) -> bytes:
    """Summary.Value with image 4: height, width, colorspace, the picture as PNG. pixels: (H, W, 1 or 3), uint8."""
    from PIL import Image  # only where pictures are wanted

    height, width, channels = pixels.shape
    png = io.BytesIO()
    Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save(png, "PNG")
    return inner(1, tag) + inner(4, whole(1, height) + whole(2, width) + whole(3, channels) + inner(4, png.getvalue()))


def graph(nodes: Iterable[tuple[str, str, Sequence[str]]]) -> bytes:
    """GraphDef: a node for each (name, kind, names of those that it reads)."""
    return b"".join(
        inner(1, inner(1, name) + inner(2, kind) + b"".join(inner(3, source) for source in sources))
        for name, kind, sources in nodes
    )


# ---- the file --------------------------------------------------------------------------------------------------------


class EventFile:
    """A new event file in `folder`, which is made where it is missing. TensorBoard reads it while it grows.

    It is open only while an event is added. Of a process that was killed the last record may be cut off, which readers
    leave out. Raises WriteError.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        make_folder(folder)
        begun, number = time.time(), 0
        while True:  # two files of one second, in one folder
            self.path = Path(folder) / f"events.out.tfevents.{int(begun):010d}.minicnn.{os.getpid()}.{number}"
            try:
                self.path.open("xb").close()
                break
            except FileExistsError:
                number += 1
            except OSError as error:
                raise WriteError(self.path, error) from error
        self._event(inner(3, "brain.Event:2"))  # which makes it an event file

    def write(self, step: int, values: Iterable[bytes]) -> None:
        """Scalars, histograms and images of one step."""
        self._event(whole(2, step) + inner(5, b"".join(inner(1, value) for value in values)))

    def write_graph(self, content: bytes) -> None:
        self._event(inner(4, content))

    def _event(self, content: bytes) -> None:
        try:
            with self.path.open("ab") as file:
                file.write(record(double(1, time.time()) + content))
        except OSError as error:
            raise WriteError(self.path, error) from error


def as_pixels(values: Any) -> np.ndarray:
    """Numbers as grey or colours, (H, W, channels) uint8: the smallest black, the largest white."""
    values = np.nan_to_num(np.asarray(values, np.float64))
    low, high = values.min(), values.max()
    return np.round((values - low) / ((high - low) or 1.0) * 255).astype(np.uint8)
