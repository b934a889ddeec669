"""get_file: any published file, brought to the cache folder once, and checked. Keras' name for it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from minicnn.arguments import in_words
from minicnn.datasets.fetch import DataFile, check_md5, download, places
from minicnn.errors import BrokenFileError, InputError, checked
from minicnn.files import checked_path


@in_words
def get_file(
    fname: str | None = None,
    origin: str | None = None,
    untar: bool = False,
    md5_hash: str | None = None,
    file_hash: str | None = None,
    cache_subdir: str = "datasets",
    hash_algorithm: str = "auto",
    extract: bool = False,
    archive_format: str | None = "auto",
    cache_dir: str | os.PathLike[str] | None = None,
    force_download: bool = False,
) -> str:
    """The path of the file at `origin`, which is downloaded where it is not there yet, or not what file_hash says.

    fname: its name here; default as in origin. file_hash: its SHA-256 or MD5, in hexadecimal digits (md5_hash: the same
    by its old name); needed, since what nobody checked may be anything. hash_algorithm: "auto", "sha256" or "md5".
    It lies in cache_dir/cache_subdir; cache_dir: minicnn's own if None, after a look into MINICNN_DATA/cache_subdir.
    force_download: even if it is there. untar, extract, archive_format: refused unless at their defaults: unpack it
    with shutil.unpack_archive(path, folder, filter="data").
    Only https is spoken. Raises InputError, and DownloadError where the file cannot be had.
    """
    file = _described(fname, origin, file_hash or md5_hash, hash_algorithm, cache_subdir)
    if checked("get_file", "untar", untar, bool, False) or checked("get_file", "extract", extract, bool, False):
        raise InputError(
            "get_file", "it does not unpack files.", "untar and extract left out.", f"{untar=}, {extract=}.",
            'shutil.unpack_archive(path, folder, filter="data") does, and lets nothing out of the folder.',
        )  # fmt: skip
    if archive_format not in ("auto", None):
        raise InputError(
            "get_file", "it does not unpack files.", "archive_format left out.", f"{archive_format!r}.", "leave it out."
        )
    wanted = checked("get_file", "force_download", force_download, bool, False)
    known = places() if cache_dir is None else [Path(checked_path("get_file cache_dir", cache_dir))]
    for place in known if not wanted else ():
        path = place / file.folder / file.name
        try:
            if path.is_file():
                check_md5(path, file)
                return str(path)
        except BrokenFileError:
            continue  # an older version: the new one takes its place
    return str(download(file, known[-1] / file.folder))


def _described(fname: Any, origin: Any, file_hash: Any, algorithm: Any, folder: Any) -> DataFile:
    parts = urlsplit(origin) if isinstance(origin, str) else None
    if parts is None or not parts.scheme or not parts.netloc:
        raise InputError(
            "get_file origin", "this is no address.", "the address of the file: https://…", f"{origin!r}.",
            "a file of your own needs no download: pass its path where it is read.",
        )  # fmt: skip
    name = os.path.basename(parts.path) if fname is None else fname
    plain = isinstance(name, str) and name not in ("", ".", "..") and not re.search(r"[\\/\0:]", name)
    if not plain:
        raise InputError(
            "get_file fname", "this is no name of a file.", "a name without slashes, such as weights.h5.", f"{name!r}.",
            "pass fname; folders go into cache_subdir or cache_dir.",
        )  # fmt: skip
    lengths = {"auto": (32, 64), "md5": (32,), "sha256": (64,)}
    if algorithm not in lengths:
        checked("get_file", "hash_algorithm", algorithm, tuple(lengths), "sha256")
    digits = isinstance(file_hash, str) and re.fullmatch("[0-9a-fA-F]+", file_hash)
    if not digits or len(file_hash) not in lengths[algorithm]:
        raise InputError(
            "get_file file_hash",
            "nothing says what the file should be." if file_hash is None else "this is no checksum.",
            "its SHA-256 in 64 hexadecimal digits, or its MD5 in 32.", f"{file_hash!r}.",
            "take it from the page that publishes the file, or from a copy you trust: "
            "hashlib.sha256(open(path, 'rb').read()).hexdigest().",
        )  # fmt: skip
    folder = checked_path("get_file cache_subdir", folder)
    if os.path.isabs(folder) or ".." in Path(folder).parts:
        raise InputError(
            "get_file cache_subdir", "it leads out of the cache folder.", "the name of a folder within it.",
            f"{folder!r}.", "pass cache_dir for a folder elsewhere.",
        )  # fmt: skip
    otherwise = "read a file of your own."
    return DataFile(folder, name, 0, file_hash.lower(), (origin,), otherwise=otherwise)
