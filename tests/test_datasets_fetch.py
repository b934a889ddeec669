"""Downloads, against a server on this machine. Plain http is let in by replacing a private constant."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from minicnn.datasets import fetch
from minicnn.datasets.fetch import DataFile, DownloadError
from minicnn.errors import BrokenFileError, InputError

CONTENT = bytes(range(256)) * 3000  # several blocks
MD5 = hashlib.md5(CONTENT).hexdigest()


class Server:
    """Answers each path with the next of its replies; the last one is repeated. Counts the requests."""

    def __init__(self) -> None:
        self.replies: dict[str, list[Callable[[http.server.BaseHTTPRequestHandler], None]]] = {}
        self.asked: list[str] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                replies = outer.replies[self.path]
                (replies.pop(0) if len(replies) > 1 else replies[0])(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.httpd.server_address[1]}"
        threading.Thread(target=self.httpd.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(fetch, "_SCHEMES", ("http", "https"))
    monkeypatch.setattr(fetch, "_PAUSE", 0.001)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = Server()
    yield server
    server.httpd.shutdown()
    server.httpd.server_close()


def sends(body: bytes, declared: int | None = None, content_type: str = "application/gzip"):
    def reply(handler):
        handler.send_response(200)
        handler.send_header("Content-Type", content_type)
        handler.send_header("Content-Length", str(len(body) if declared is None else declared))
        handler.end_headers()
        handler.wfile.write(body)

    return reply


def sends_without_length(body: bytes):
    def reply(handler):
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(body)

    return reply


def answers(status: int, **headers: str):
    def reply(handler):
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return reply


def data_file(server: Server, *paths: str) -> DataFile:
    return DataFile("set", "file.gz", len(CONTENT), MD5, tuple(server.address + path for path in paths))


def test_right_file(server: Server, tmp_path: Path):
    server.replies["/a"] = [sends(CONTENT)]
    path = fetch.download(data_file(server, "/a"), tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / "file.gz" and path.read_bytes() == CONTENT
    assert [p.name for p in path.parent.iterdir()] == ["file.gz"]


@pytest.mark.parametrize(
    ("bad", "times", "reason"),
    [
        (answers(404), 1, "answered 404"),
        (answers(500), 3, "answered 500"),
        (sends(CONTENT[:-1] + b"?"), 1, "sent a file with MD5"),
        (sends(CONTENT[:-5], declared=len(CONTENT)), 3, "stopped after|IncompleteRead"),
        (sends_without_length(CONTENT[:-5]), 3, "stopped after"),
        (sends_without_length(CONTENT * 2), 1, "sent more than"),
        (sends(b"<html>Log in</html>", content_type="text/html"), 1, "offers 19 bytes of text/html"),
    ],
)
def test_bad_answers_leave_nothing_and_are_named(server: Server, tmp_path: Path, bad, times, reason):
    server.replies["/a"] = [bad]
    with pytest.raises(DownloadError, match=reason):
        fetch.download(data_file(server, "/a"), tmp_path)
    assert server.asked == ["/a"] * times  # what cannot get better is not asked again
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bad", [answers(404), answers(500), sends(CONTENT[::-1]), sends(CONTENT[:9])])
def test_next_mirror(server: Server, tmp_path: Path, bad):
    server.replies = {"/a": [bad], "/b": [sends(CONTENT)]}
    assert fetch.download(data_file(server, "/a", "/b"), tmp_path).read_bytes() == CONTENT
    assert server.asked == ["/a", "/b"]


def test_passing_error_is_tried_again(server: Server, tmp_path: Path):
    server.replies["/a"] = [answers(500), sends(CONTENT[:9], declared=len(CONTENT)), sends(CONTENT)]
    assert fetch.download(data_file(server, "/a"), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, OSError("No space left on device")])
def test_interrupt_leaves_nothing(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interrupt):
    server.replies["/a"] = [sends(CONTENT)]
    seen = []

    def replace(source, target):
        seen.extend(p.suffix for p in tmp_path.iterdir())
        raise interrupt

    monkeypatch.setattr(fetch.os, "replace", replace)
    with pytest.raises(interrupt if isinstance(interrupt, type) else type(interrupt)):
        fetch.download(data_file(server, "/a"), tmp_path)
    assert seen == [".part"] and list(tmp_path.iterdir()) == []


def test_http_is_refused(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fetch, "_SCHEMES", ("https",))
    with pytest.raises(DownloadError, match="not https"):
        fetch.download(data_file(server, "/a"), tmp_path)
    assert server.asked == []


def test_redirects(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    server.replies = {"/a": [answers(302, Location=server.address + "/b")], "/b": [sends(CONTENT)]}
    assert fetch.download(data_file(server, "/a"), tmp_path).read_bytes() == CONTENT
    server.asked.clear()
    server.replies["/a"] = [answers(302, Location="ftp://127.0.0.1/file.gz")]
    with pytest.raises(DownloadError, match="leads to ftp:.*not https"):
        fetch.download(data_file(server, "/a"), tmp_path)
    assert server.asked == ["/a"]


def test_two_at_once(server: Server, tmp_path: Path):
    server.replies["/a"] = [sends(CONTENT)]
    file, results = data_file(server, "/a"), []
    threads = [
        threading.Thread(target=lambda: results.append(fetch.download(file, tmp_path))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [tmp_path / "file.gz"] * 4 and results[0].read_bytes() == CONTENT
    assert len(list(tmp_path.iterdir())) == 1


def test_offline_error_says_all_that_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def offline(*_):
        raise OSError("Network is unreachable")

    monkeypatch.setattr("socket.create_connection", offline)
    monkeypatch.setattr("socket.getaddrinfo", offline)
    monkeypatch.setattr(fetch, "_PAUSE", 0)
    for variable in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    file = DataFile(
        "set", "file.gz", 1234, MD5, ("https://one.invalid/file.gz", "https://two.invalid/file.gz")
    )
    with pytest.raises(DownloadError) as error:
        fetch.download(file, tmp_path)
    text = str(error.value)
    for part in ("file.gz", *file.mirrors, MD5, "1,234", str(tmp_path / "file.gz"), "MINICNN_DATA",
                 "--dataset toy", "Network is unreachable"):  # fmt: skip
        assert part in text
    assert list(tmp_path.iterdir()) == []


def test_cache_folder_that_cannot_be_made(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    file = DataFile("set", "file.gz", 1, MD5, ("https://one.invalid/",))
    with pytest.raises(InputError, match="MINICNN_DATA"):
        fetch.download(file, tmp_path / "file" / "below")


def test_order_of_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    given, cache = tmp_path / "given", tmp_path / "cache"
    monkeypatch.setattr(fetch, "cache_dir", lambda: cache)
    monkeypatch.setattr(fetch, "download", lambda file, folder: folder / "downloaded")
    monkeypatch.setenv("MINICNN_DATA", str(given))
    file = DataFile("set", "file.gz", 1, MD5, ())
    with pytest.raises(InputError, match="no such folder"):
        fetch.find(file)
    (given / "set").mkdir(parents=True)
    (cache / "set").mkdir(parents=True)
    assert fetch.find(file) == cache / "set" / "downloaded"
    (cache / "set" / "file.gz").touch()
    assert fetch.find(file) == cache / "set" / "file.gz"
    (given / "set" / "file.gz").touch()
    assert fetch.find(file) == given / "set" / "file.gz"


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {"XDG_CACHE_HOME": "/somewhere"}, "/somewhere/minicnn"),
        ("linux", {"XDG_CACHE_HOME": "relative"}, "/home/me/.cache/minicnn"),
        ("linux", {}, "/home/me/.cache/minicnn"),
        ("darwin", {"XDG_CACHE_HOME": "/somewhere"}, "/home/me/Library/Caches/minicnn"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/minicnn"),
        ("win32", {}, "/home/me/AppData/Local/minicnn"),
    ],
)
def test_cache_folder(monkeypatch: pytest.MonkeyPatch, platform, variables, expected):
    if fetch.sys.platform == "win32" and platform == "linux":
        pytest.skip("on Windows a path without a drive is relative")
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(fetch.Path, "home", lambda: Path("/home/me"))
    monkeypatch.setattr(fetch.sys, "platform", platform)
    assert fetch.cache_dir() == Path(expected)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "an empty file"),
        (b"\n<!DOCTYPE html><title>Sign in", "an HTML page of 30 bytes"),
        (b"\x1f\x8b\x08", "a gzip file of 3 bytes"),
        (b"PK\x03\x04", "a zip file"),
        (b"\x89PNG\r\n", "a PNG image"),
        (b"\x00\x01\x02\x03\x04", "5 bytes, which start with 00 01 02 03"),
    ],
)
def test_what_is(tmp_path: Path, content, text):
    (tmp_path / "x").write_bytes(content)
    assert text in fetch.what_is(tmp_path / "x")
    assert fetch.what_is(tmp_path) == "a folder."


def test_check_md5(tmp_path: Path):
    path, file = tmp_path / "x", DataFile("", "x", len(CONTENT), MD5, ("https://one.invalid/x",))
    path.write_bytes(CONTENT)
    fetch.check_md5(path, file)
    for wrong in (CONTENT[:-1], CONTENT[:-1] + b"?"):
        path.write_bytes(wrong)
        with pytest.raises(BrokenFileError, match=MD5) as error:
            fetch.check_md5(path, file)
        assert error.value.where == str(path)
