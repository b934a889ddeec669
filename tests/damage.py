"""Ways to damage a file, for the fuzzer (tests/fuzz.py): blind ones, and ones that know the format.

Those that know it set checksums and sizes right again: otherwise the first check would end it, and no later one be met.
Each is a function (rng, bytes) -> bytes, rng being a random.Random.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import struct
import tarfile
import zipfile
import zlib
from random import Random
from typing import Any

SIZES = [0, 1, 2, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 40, (1 << 63) - 1, (1 << 64) - 1]
VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 3, 10**12, 10**30, -(10**18), 1e308, float("nan"), float("inf"), 0.5, "", "x" * 5000,
    "relu", "os.system", "__import__('os')", "\ud800", "\0", "../../evil", [], {}, [1] * 50, [10**9, 10**9], [[]],
    {"class_name": "Layer", "config": {}}, {"class_name": "system", "config": {"command": "true"}}, {"__array__": "x"},
]  # fmt: skip
NAMES = ["../evil.npy", "/evil.npy", "C:\\evil.npy", "a" * 3000 + ".npy", "evil\0.npy", "evil.pkl", "config.json",
         "params/x/w.npy", "optimizer/x.npy", "\u202egnp.npy", ""]  # fmt: skip


# ---- blind -----------------------------------------------------------------------------------------------------------


def flip(rng: Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8, 64])):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def put_size(rng: Random, data: bytes) -> bytes:
    """A number that looks like a size, somewhere."""
    width, order = rng.choice([1, 2, 4, 8]), rng.choice(["little", "big"])
    value = (rng.choice(SIZES) & ((1 << 8 * width) - 1)).to_bytes(width, order)
    at = rng.randrange(len(data))
    return data[:at] + value + data[at + width :]


def cut(rng: Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data))]


def insert(rng: Random, data: bytes) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.randbytes(rng.choice([1, 4, 100, 5000])) + data[at:]


def take_out(rng: Random, data: bytes) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + data[at + rng.choice([1, 4, 100, 1000]) :]


def repeat(rng: Random, data: bytes) -> bytes:
    at, length = rng.randrange(len(data)), rng.choice([4, 50, 500])
    return data[:at] + data[at : at + length] * rng.choice([2, 20]) + data[at + length :]


def append(rng: Random, data: bytes) -> bytes:
    return data + rng.choice([b"\0" * 100, rng.randbytes(30), data])


def blank(rng: Random, data: bytes) -> bytes:
    at, length = rng.randrange(len(data)), rng.choice([8, 100, 1000])
    return data[:at] + bytes([rng.choice([0, 255])]) * len(data[at : at + length]) + data[at + length :]


BLIND = [flip, flip, put_size, put_size, cut, insert, take_out, repeat, append, blank]


def blind(rng: Random, data: bytes) -> bytes:
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        data = rng.choice(BLIND)(rng, data) if data else data
    return data


# ---- JSON ------------------------------------------------------------------------------------------------------------


def json_value(rng: Random, data: bytes) -> bytes:
    """Another value, a lost or a new name, somewhere in the tree; or text that a parser chokes on."""
    if rng.random() < 0.1:
        return rng.choice([
            b"[" * 100_000, b'{"a":' * 5000, b"1" * 100_000, b'{"format": 1, "format": 1}', b'"' + b'\\"' * 100_000,
            b"NaN", b"\xff\xfe{}", b"-" * 1000, b'{"a": 1e999999999}', b"[" + b"[]," * 50_000 + b"[]]",
        ])  # fmt: skip
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError):  # it has been damaged before
        return blind(rng, data)
    places: list[tuple[Any, Any]] = []
    stack = [tree]
    while stack:
        node = stack.pop()
        for key in node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
            places.append((node, key))
            stack.append(node[key])
    for _ in range(rng.choice([1, 1, 2, 5])):
        node, key = rng.choice(places)
        action = rng.random()
        if action < 0.7 and (isinstance(node, dict) or key < len(node)):
            node[key] = rng.choice(VALUES)
        elif action < 0.85 and isinstance(node, dict):
            node.pop(key, None)
        elif isinstance(node, dict):
            node[rng.choice(["unheard_of", "__class__", "self", "name"])] = rng.choice(VALUES)
        else:
            node.extend([rng.choice(VALUES)] * rng.choice([1, 3000]))
    return json.dumps(tree).encode()


def safetensors(rng: Random, data: bytes) -> bytes:
    """Its table changed; the length that stands before it is right, as a rule."""
    end = 8 + int.from_bytes(data[:8], "little")
    table = json_value(rng, data[8:end])
    length = len(table) if rng.random() < 0.9 else rng.choice(SIZES)
    return length.to_bytes(8, "little") + table + data[end:]


# ---- zip and npy -----------------------------------------------------------------------------------------------------


def npy(rng: Random, data: bytes) -> bytes:
    """Another header, with the length set right, or other numbers."""
    length = int.from_bytes(data[8:10], "little")
    header, numbers = data[10 : 10 + length].rstrip().decode(), data[10 + length :]
    action = rng.random()
    if action < 0.2:
        return data[:10] + data[10 : 10 + length] + rng.choice([b"\xff" * len(numbers), numbers[:-1], numbers * 2, b""])
    if action < 0.5:
        sizes = (rng.choice([0, 1, 2, 3, 10**6, 10**12, 10**25, -1]) for _ in range(rng.choice([0, 1, 2, 40])))
        shape = "".join(f"{size}, " for size in sizes)
        header = re.sub(r"'shape': \([^)]*\)", f"'shape': ({shape})", header)
    elif action < 0.7:
        kinds = ["|O", ">f4", "<f8", "<i8", "|V1000000000", "<U1000000000", "<c16", "|b1", "<M8[ns]", "f4,f4"]
        kind = rng.choice(kinds)
        header = re.sub(r"'descr': '[^']*'", f"'descr': '{kind}'", header)
    elif action < 0.8:
        header = header.replace("False", "True")
    else:
        header = rng.choice(["(" * 5000, "{}", "[" * 9000, "-" * 9000, "__import__('os').system('true')", header * 3])
    text = header.encode() + b" " * rng.randrange(60) + b"\n"
    version = rng.choice([b"\1\0", b"\1\0", b"\2\0", b"\x09\0"])
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text + numbers


def zip_member(rng: Random, data: bytes) -> bytes:
    """Some members changed, renamed, doubled, lost, packed or blown up; the checksums are right."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    for _ in range(rng.choice([1, 1, 2])):
        at = rng.randrange(len(members))
        if rng.random() < 0.4:  # the texts are few, and matter most
            at = next((i for i, (name, _) in enumerate(members) if "json" in name), at)
        name, content = members[at]
        action = rng.random()
        if action < 0.75:
            members[at] = (name, _content(rng, name, content))
        elif action < 0.8:
            members[at] = (rng.choice(NAMES), content)
        elif action < 0.9:
            members.append((rng.choice([name, rng.choice(NAMES)]), content))
        elif len(members) > 1:
            del members[at]
    out, packing = io.BytesIO(), rng.choice([0, 0, 0, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    with zipfile.ZipFile(out, "w", packing) as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content, compress_type=packing)
        if rng.random() < 0.03:  # a bomb: 100 MB of zeros
            with archive.open(zipfile.ZipInfo(members[0][0] + ".npy"), "w") as member:
                archive.compression = zipfile.ZIP_DEFLATED
                member.write(bytes(100 << 20))
    return out.getvalue()


def _content(rng: Random, name: str, content: bytes) -> bytes:
    if name.endswith(".json") and content:
        return json_value(rng, content)
    if name == "trace.json.npy":
        length = 10 + int.from_bytes(content[8:10], "little")
        text = json_value(rng, content[length:])
        header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({len(text)},), }}\n".encode()
        return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + text
    if name.endswith(".npy") and rng.random() < 0.8:
        return npy(rng, content)
    return blind(rng, content)


def zip_table(rng: Random, data: bytes) -> bytes:
    """A field in the table of contents, or in the record at its end."""
    start = data.rfind(b"PK\5\6")
    if start < 0 or rng.random() < 0.7:
        start = rng.choice([m.start() for m in re.finditer(b"PK\1\2", data)])
    at, width = start + rng.randrange(4, 44, 2), rng.choice([2, 4])
    value = (rng.choice(SIZES) & ((1 << 8 * width) - 1)).to_bytes(width, "little")
    return data[:at] + value + data[at + width :]


# ---- others ----------------------------------------------------------------------------------------------------------


def idx(rng: Random, data: bytes) -> bytes:
    """Another type, number of axes or size in the header."""
    if rng.random() < 0.4:
        at = rng.randrange(4)
        return data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
    at = 4 + 4 * rng.randrange(3)
    return data[:at] + struct.pack(">I", rng.choice(SIZES) & 0xFFFFFFFF) + data[at + 4 :]


def gzipped(inner: Any) -> Any:
    """Another damage below gzip, packed again."""

    def damage(rng: Random, data: bytes) -> bytes:
        content = inner(rng, gzip.decompress(data))
        if rng.random() < 0.02:
            content += bytes(100 << 20)
        return gzip.compress(content, rng.choice([1, 9]), mtime=0)

    return damage


def tar(rng: Random, data: bytes) -> bytes:
    """A member with another name, size, kind or link."""
    out = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(data)) as old, tarfile.open(fileobj=out, mode="w") as new:
        members = [(info, old.extractfile(info).read()) for info in old if info.isreg()]  # type: ignore[union-attr]
        info, content = rng.choice(members)
        action = rng.randrange(5)
        if action == 0:
            info.name = rng.choice(["../evil", "/evil", "a" * 5000, "\u202e", members[0][0].name])
        elif action == 1:
            info.type = rng.choice([b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"x", b"g", b"L", b"S", b"?"])
            info.linkname = rng.choice(["/etc/passwd", "../..", ""])
        elif action == 2:
            info.size = rng.choice([0, 1, 512, len(content) - 1, len(content) + 1, 1 << 33, (1 << 62)])
        elif action == 3:
            name = rng.choice(["path", "size", "mtime", "GNU.sparse.map", "x"])
            info.pax_headers = {name: rng.choice(["-1", "9" * 5000, "a=b\n"])}
        else:
            members.append((info, content))
        for info, content in members:
            new.addfile(info, io.BytesIO(content) if info.size == len(content) else None)
            if info.size != len(content):
                out.write(content + bytes(-len(content) % 512))
    return out.getvalue()


def png(rng: Random, data: bytes) -> bytes:
    """A chunk changed, its checksum right; often the header's sizes."""
    chunks, at = [], 8
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    i = rng.choice([0, rng.randrange(len(chunks))])
    kind, content = chunks[i]
    if i == 0 and rng.random() < 0.6:
        at = rng.choice([0, 4])
        size = struct.pack(">I", rng.choice([0, 1, 100, 9000, 70000, 1 << 20, 1 << 31, (1 << 32) - 1]))
        content = content[:at] + size + content[at + 4 :]
    elif rng.random() < 0.3:
        extra = rng.choice([b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf", b"PLTE"])
        chunks.insert(i + 1, (extra, zlib.compress(bytes(10 << 20))))
    else:
        content = blind(rng, content)
    chunks[i] = (rng.choice([kind, kind, kind, b"IDAT", b"fdAT", b"acTL"]), content)
    return data[:8] + b"".join(
        struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks
    )


def jpeg(rng: Random, data: bytes) -> bytes:
    """Other sizes or components in the frame header, or another segment length."""
    frame = next(m.start() for m in re.finditer(b"\xff[\xc0-\xc2]", data))
    if rng.random() < 0.5:
        at, value = frame + rng.choice([5, 7]), struct.pack(">H", rng.choice([0, 1, 1000, 9000, 65500, 65535]))
    else:
        at, value = rng.choice([m.start() for m in re.finditer(b"\xff[\xc0-\xfe]", data)]) + 2, rng.randbytes(2)
    return data[:at] + value + data[at + len(value) :]
