"""Finding a data set's files: `MINICNN_DATA`, then the user's cache folder, then a download into it.

A download goes to a temporary file in the target folder, is measured and hashed, and only then renamed:
whoever finds the file under its name finds all of it, even with several processes at once. Only https is
spoken.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minicnn.errors import BrokenFileError, InputError
from minicnn.file_kinds import what_is

Split = tuple[np.ndarray, np.ndarray]
Data = tuple[Split, Split]  # ((x_train, y_train), (x_test, y_test))

ATTEMPTS = 3  # rounds over the mirrors
TIMEOUT = 30.0  # seconds without a byte
SLOWEST = 1000  # bytes a second, on average after the first TIMEOUT seconds
STALE = 3600.0  # seconds after which a part of a file is that of a process that was killed
BLOCK = 1 << 18  # bytes
MAX_UNKNOWN = 1 << 36  # bytes of a file whose size only the server knows
_PAUSE = 1.0  # seconds before the second round, doubled before each further one
_SCHEMES = ("https",)  # tests of a server on this machine replace it


NO_DOWNLOAD = "train on images that need no download: `--dataset {}`, or minicnn.datasets.toy in a program of yours."


class DataFile(NamedTuple):
    """A published file. size: bytes, 0 where only the server knows; md5: of the file, or its SHA-256, which is longer;
    content_md5: of what it unpacks to (IDX only).

    otherwise: what to do without it, for an error text.
    """

    folder: str
    name: str
    size: int
    md5: str
    mirrors: tuple[str, ...]
    content_md5: str = ""
    otherwise: str = NO_DOWNLOAD.format("toy")

    @property
    def kind(self) -> str:
        """Which checksum it is."""
        return "SHA-256" if len(self.md5) == 64 else "MD5"

    def hasher(self) -> Any:
        return hashlib.sha256() if self.kind == "SHA-256" else hashlib.md5(usedforsecurity=False)

    def described(self) -> str:
        return (f"{self.size:,} bytes with " if self.size else "a file with ") + f"{self.kind} {self.md5}"


class DownloadError(InputError):
    """A file is not on this machine, and no mirror delivered it."""


class _MirrorError(Exception):
    """One mirror failed. final: asking it again would not help."""

    def __init__(self, reason: str, final: bool):
        super().__init__(reason)
        self.final = final


def cache_dir() -> Path:
    """The platform's folder for files that can be downloaded again; nothing is created."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "minicnn"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "minicnn"
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # The XDG standard says that a relative path is to be ignored.
    return (base if base.is_absolute() else Path.home() / ".cache") / "minicnn"


def places() -> list[Path]:
    """Where files are looked for, in order. Raises InputError where MINICNN_DATA names no folder."""
    given = os.environ.get("MINICNN_DATA")
    if not given:
        return [cache_dir()]
    place = Path(given).expanduser()
    if not place.is_dir():
        raise InputError(
            "MINICNN_DATA",
            "this is a file." if place.exists() else "there is no such folder.",
            "the folder that holds the data sets.",
            f"{given!r}.",
            "correct the variable, or unset it to use the cache folder and downloads.",
        )
    return [place, cache_dir()]


def find(file: DataFile) -> Path:
    """The path of a file, downloaded if need be. Its content is not looked at. Raises DownloadError."""
    for place in places():
        path = place / file.folder / file.name
        if path.exists():
            return path
    return download(file, cache_dir() / file.folder)


def check_md5(path: Path, file: DataFile) -> None:
    """Raises BrokenFileError unless the file at path has the published checksum."""
    if not path.is_file() or (file.size and path.stat().st_size != file.size):
        received = what_is(path)
    else:
        digest = file.hasher()
        with path.open("rb") as stream:
            while block := stream.read(BLOCK):
                digest.update(block)
        if digest.hexdigest() == file.md5:
            return
        received = f"{file.kind} {digest.hexdigest()}."
    raise BrokenFileError(
        str(path),
        f"this is not the published {file.name}.",
        f"{file.described()}.",
        received,
        how_to_replace(file),
    )


def how_to_replace(file: DataFile) -> str:
    """The last line of an error about a wrong file."""
    return f"delete it and run again to download it, or replace it with {file.mirrors[0]} ({file.kind} {file.md5})."


def download(file: DataFile, folder: Path) -> Path:
    """Bring a file into folder and return its path: ATTEMPTS rounds over the mirrors, size and MD5 checked.

    An interrupt or an error leaves nothing behind. Raises DownloadError, which says how to do it by hand.
    """
    import time

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            str(folder),
            "the cache folder cannot be created.",
            "a folder that can be written.",
            f"{error}.",
            "put the files in a folder of your own and set MINICNN_DATA to it.",
        ) from error
    _clear(folder, file.name)
    reasons: dict[str, str] = {}
    mirrors = list(file.mirrors)
    for attempt in range(ATTEMPTS):
        if attempt and mirrors:
            time.sleep(_PAUSE * 2 ** (attempt - 1))
        for address in list(mirrors):
            try:
                return _download_from(address, file, folder / file.name)
            except _MirrorError as failure:
                reasons[address] = str(failure)
                if failure.final:
                    mirrors.remove(address)
    raise DownloadError(
        file.name,
        "the file is not on this machine and could not be downloaded.",
        f"{file.described()}, at {folder / file.name}"
        f" or, with MINICNN_DATA=DIR, at {Path('DIR') / file.folder / file.name}.",
        "; ".join(f"{address}: {reason}" for address, reason in reasons.items()) + f".{_what_is_there()}",
        f"bring {file.mirrors[0]} to that place from a machine with a network; or {file.otherwise}",
    )


def _what_is_there() -> str:
    """What lies in MINICNN_DATA: whoever set it sees at once what was looked at."""
    if not os.environ.get("MINICNN_DATA"):
        return ""
    names = sorted(path.name + os.sep * path.is_dir() for path in places()[0].iterdir())
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return f" In MINICNN_DATA, {places()[0]}, there are: {', '.join(names[:10]) or 'no files'}{more}."


def _clear(folder: Path, name: str) -> None:
    """Remove what processes left behind that were killed in the middle of this file's download."""
    import contextlib
    import time

    for part in folder.glob(f"{name}.*.part"):
        with contextlib.suppress(OSError):
            if time.time() - part.stat().st_mtime > STALE:
                part.unlink()


def _download_from(address: str, file: DataFile, target: Path) -> Path:
    import tempfile

    from tqdm import tqdm

    blocks = _blocks(address, file.size)
    block = next(blocks)  # connects: without an answer there is no temporary file, not even for a moment
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=target.name + ".", suffix=".part")
    digest, size = file.hasher(), 0
    try:
        with (
            os.fdopen(handle, "wb") as out,
            tqdm(
                total=file.size or None, unit="B", unit_scale=True, desc=f"downloading {file.name}", disable=None
            ) as progress,
        ):
            while block:
                out.write(block)
                digest.update(block)
                size += len(block)
                progress.update(len(block))
                block = next(blocks)
        if size < file.size:
            raise _MirrorError(f"stopped after {size:,} of {file.size:,} bytes", final=False)
        if file.size and size > file.size:
            raise _MirrorError(f"sent more than {file.size:,} bytes", final=True)
        if digest.hexdigest() != file.md5:
            raise _MirrorError(f"sent a file with {file.kind} {digest.hexdigest()} instead of {file.md5}", final=True)
        try:
            os.replace(name, target)
        except PermissionError:  # Windows: another process has fetched the same file and is reading it
            if not target.exists():
                raise
        return target
    finally:
        blocks.close()
        Path(name).unlink(missing_ok=True)


def _blocks(address: str, size: int) -> Generator[bytes, None, None]:
    """The body in blocks, then b""; never more than size + 1 bytes. Network errors become _MirrorError.

    size: 0 for what the server says beforehand.
    """
    import http.client
    import time
    import urllib.error
    import urllib.parse
    import urllib.request

    def check_scheme(url: str) -> None:
        if urllib.parse.urlsplit(url).scheme not in _SCHEMES:
            raise _MirrorError(f"leads to {url}, which is not https", final=True)

    class Redirects(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, req, fp, code, msg, headers, newurl):
            check_scheme(newurl)
            return super().redirect_request(req, fp, code, msg, headers, newurl)

    check_scheme(address)
    request = urllib.request.Request(address, headers={"User-Agent": "minicnn"})
    left = size + 1
    try:
        with urllib.request.build_opener(Redirects).open(request, timeout=TIMEOUT) as response:
            length = response.headers.get("Content-Length", str(size))
            if size == 0:
                if not length.isdecimal() or not 0 < int(length) <= MAX_UNKNOWN:
                    raise _MirrorError(f"does not say that it sends 1 to {MAX_UNKNOWN:,} bytes", final=True)
                size, left = int(length), int(length) + 1
            if length != str(size):
                kind = response.headers.get_content_type()
                raise _MirrorError(f"offers {length} bytes of {kind} instead of {size:,}", final=True)
            start = time.monotonic()
            while left and (block := response.read1(min(BLOCK, left))):
                left -= len(block)
                seconds = time.monotonic() - start
                if seconds > TIMEOUT and size - left < SLOWEST * seconds:
                    raise _MirrorError(f"sends less than {SLOWEST:,} bytes a second", final=False)
                yield block
    except urllib.error.HTTPError as error:
        error.close()
        passing = error.code >= 500 or error.code in (408, 425, 429)
        raise _MirrorError(f"answered {error.code} {error.reason}", final=not passing) from error
    except urllib.error.URLError as error:
        raise _MirrorError(str(error.reason), final=False) from error
    except (OSError, http.client.HTTPException) as error:
        raise _MirrorError(f"{type(error).__name__}: {error}", final=False) from error
    yield b""
