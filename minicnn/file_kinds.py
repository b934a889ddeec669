"""What a file is, told by its first bytes: so that an error can call it by name, and say what to do with it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

HEAD = 512  # bytes that are looked at
AS_JPEG = "save it as JPEG or PNG: open it in an image viewer, and export it."
OF_PYTORCH = "load it in PyTorch, and hand the arrays over: layer.set_weights([w, b])."


class Kind(NamedTuple):
    """name: with its article, "a zip file". fix: what to do with it where something else was wanted, or ""."""

    name: str
    fix: str = ""


SAFETENSORS = Kind("a safetensors file", "it holds weights: build the network in code, then model.load_weights(file).")

# (where the bytes stand, the bytes, what they tell)
SIGNATURES = (
    (0, b"version https://git-lfs", Kind("a git-LFS pointer, which stands for the file", "fetch it: git lfs pull")),
    (0, b"\x1f\x8b", Kind("a gzip file")),
    (0, b"PK\3\4", Kind("a zip file")),
    (0, b"PK\5\6", Kind("an empty zip file")),
    (0, b"Rar!", Kind("a RAR archive", "unpack it first.")),
    (0, b"7z\xbc\xaf\x27\x1c", Kind("a 7z archive", "unpack it first.")),
    (257, b"ustar", Kind("a tar archive", "unpack it first.")),
    (0, b"\x89PNG", Kind("a PNG image")),
    (0, b"\xff\xd8\xff", Kind("a JPEG image")),
    (0, b"GIF8", Kind("a GIF image")),
    (0, b"II*\0", Kind("a TIFF image")),
    (0, b"MM\0*", Kind("a TIFF image")),
    (8, b"WEBP", Kind("a WebP image")),
    (4, b"ftypavif", Kind("an AVIF image", AS_JPEG)),
    (4, b"ftypavis", Kind("an AVIF image", AS_JPEG)),
    *((4, b"ftyp" + brand, Kind("a HEIC image, as an iPhone makes them", AS_JPEG))
      for brand in (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")),
    (4, b"JXL \r\n\x87\n", Kind("a JPEG XL image", AS_JPEG)),
    (0, b"\xff\x0a", Kind("a JPEG XL image", AS_JPEG)),
    (4, b"jP  \r\n\x87\n", Kind("a JPEG 2000 image", AS_JPEG)),
    (0, b"8BPS", Kind("a Photoshop file", AS_JPEG)),
    (0, b"\0\0\1\0", Kind("an icon (ICO)", AS_JPEG)),
    (4, b"ftyp", Kind("a film (MP4 or the like)", "save single pictures of it as JPEG.")),
    (8, b"AVI ", Kind("a film (AVI)", "save single pictures of it as JPEG.")),
    (0, b"\x1aE\xdf\xa3", Kind("a film (Matroska or WebM)", "save single pictures of it as JPEG.")),
    (0, b"%PDF", Kind("a PDF document", "save its picture as PNG.")),
    (0, b"\x89HDF\r\n\x1a\n", Kind("an HDF5 file")),
    (0, b"\x93NUMPY", Kind("a NumPy array (.npy)", "read it with np.load.")),
    (4, b"TFL3", Kind("a TensorFlow Lite model", "use the Keras model that it was made from.")),
    (0, b"\0\5\x16\7", Kind("a Mac's notes about a file (its name begins with ._)", "use the file without the ._")),
    *((0, bytes((0x80, protocol)), Kind("a pickle, which can run any program when it is read: it is not opened",
                                        "read it only if you trust it, in a program of your own."))
      for protocol in (2, 3, 4, 5)),
)  # fmt: skip


def kind_of(head: bytes) -> Kind | None:
    """What a file is whose first HEAD bytes these are, or None where they tell nothing."""
    if not head:
        return Kind("an empty file", "fetch or save it again.")
    if head[4:9] == b"\0\0\0\0{":  # behind the length of its table, of which any bytes may stand before
        return SAFETENSORS
    for at, signature, kind in SIGNATURES:
        if head[at:].startswith(signature):
            inside = head[30:] if kind.name == "a zip file" else b""  # where the name of its first file stands
            if b"/data.pkl" in inside or b"/.data/" in inside or b"/version" in inside[:64]:
                return Kind("a PyTorch file", OF_PYTORCH)
            return kind
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(b"<svg") or (text.startswith(b"<?xml") and b"<svg" in text):
        return Kind("an SVG drawing", "save it as PNG.")
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<body", b"<script")):
        return Kind("an HTML page", "open it in a browser: it may ask to sign in, or say that the file has moved.")
    if text.startswith((b"{", b"[{")):
        return Kind("JSON text")
    if b"ir_version" in head or (head[:1] == b"\x08" and any(w in head for w in (b"pytorch", b"onnx", b"tf2onnx"))):
        return Kind("an ONNX model", "use the model that it was made from.")
    return None


def kind_at(path: str | os.PathLike[str]) -> Kind | None:
    """What lies at a path, or None where its bytes tell nothing. Raises OSError."""
    path = Path(path)
    if path.is_dir():
        if (path / "saved_model.pb").exists():
            return Kind("a TensorFlow SavedModel folder", "save the model in Keras again: model.save('model.keras').")
        return Kind("a folder")
    with path.open("rb") as stream:
        return kind_of(stream.read(HEAD))


def what_is(path: str | os.PathLike[str]) -> str:
    """What lies at a path, in a few words for an error text: `an HTML page of 1,204 bytes.` Raises OSError."""
    path, kind = Path(path), kind_at(path)
    if path.is_dir() or (kind is not None and path.stat().st_size == 0):
        return f"{kind.name}." if kind else "a folder."
    size = f"{path.stat().st_size:,} bytes"
    if kind is not None:
        return f"{kind.name}, {size}." if "," in kind.name else f"{kind.name} of {size}."
    with path.open("rb") as stream:
        return f"{size}, which start with {stream.read(4).hex(' ')}."
