"""Downloads, against a server on this machine. Plain http is let in by replacing a private constant."""

from __future__ import annotations

import hashlib
import http.client
import http.server
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from minicnn import utils
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


# ---- servers that mean harm, processes that die ----------------------------------------------------------------------


def endless(handler):
    """Chunks without end, until the client goes."""
    handler.protocol_version = "HTTP/1.1"
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
    except OSError:
        handler.close_connection = True


def slowly(pause: float, count: int, whole: bool = True):
    """`count` pieces with pauses between them; then the rest, or silence."""

    def reply(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(CONTENT)))
        handler.end_headers()
        try:
            for i in range(count):
                handler.wfile.write(CONTENT[i : i + 1])
                handler.wfile.flush()
                time.sleep(pause)
            if whole:
                handler.wfile.write(CONTENT[count:])
        except OSError:
            handler.close_connection = True

    return reply


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (endless, "sent more than"),
        (sends(CONTENT, declared=len(CONTENT) - 1), "offers"),
        (sends(CONTENT, declared=10**15), "offers"),
        (sends(CONTENT, declared=-5), "offers -5"),
        (slowly(1, 1), "timed out"),
        (slowly(0.02, 40), "less than 1,000 bytes a second"),
    ],
    ids=["endless", "says too little", "says too much", "says nonsense", "falls silent", "drips"],
)
def test_servers_that_lie_or_dawdle(server: Server, tmp_path: Path, monkeypatch, bad, reason):
    monkeypatch.setattr(fetch, "TIMEOUT", 0.15)
    monkeypatch.setattr(fetch, "ATTEMPTS", 1)
    server.replies["/a"] = [bad]
    with pytest.raises(DownloadError, match=reason):
        fetch.download(data_file(server, "/a"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_redirects_in_a_circle_end(server: Server, tmp_path: Path):
    server.replies = {"/a": [answers(302, Location=server.address + "/b")],
                      "/b": [answers(302, Location=server.address + "/a")]}  # fmt: skip
    with pytest.raises(DownloadError, match="answered 302"):
        fetch.download(data_file(server, "/a"), tmp_path)
    assert len(server.asked) < 20 and list(tmp_path.iterdir()) == []


def test_https_never_falls_back_to_http(server: Server, tmp_path: Path, monkeypatch):
    """The server's https is played by http: what is tested is where a redirect may lead."""

    class Connection(http.client.HTTPConnection):
        def __init__(self, *args, context=None, check_hostname=None, **options):
            super().__init__(*args, **options)

    monkeypatch.setattr(http.client, "HTTPSConnection", Connection)
    monkeypatch.setattr(fetch, "_SCHEMES", ("https",))
    secure = server.address.replace("http:", "https:")
    file = data_file(server, "/a")._replace(mirrors=(secure + "/a",))
    server.replies = {"/a": [answers(302, Location=server.address + "/b")], "/b": [sends(CONTENT)]}
    with pytest.raises(DownloadError, match="leads to http:.*not https"):
        fetch.download(file, tmp_path)
    assert server.asked == ["/a"] and list(tmp_path.iterdir()) == []
    server.replies["/a"] = [answers(302, Location=secure + "/b")]
    assert fetch.download(file, tmp_path).read_bytes() == CONTENT


def test_a_proxy_is_asked_unless_no_proxy_names_the_server(server: Server, tmp_path: Path, monkeypatch):
    for variable in ("NO_PROXY", "no_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("http_proxy", server.address)
    file = data_file(server)._replace(mirrors=("http://data.invalid/file.gz",))
    server.replies["http://data.invalid/file.gz"] = [sends(CONTENT)]
    assert fetch.download(file, tmp_path).read_bytes() == CONTENT
    assert server.asked == ["http://data.invalid/file.gz"]
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server.replies["/a"] = [sends(CONTENT)]
    fetch.download(data_file(server, "/a"), tmp_path / "again")
    assert server.asked[1:] == ["/a"]


PROGRAM = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background processes ignore it
import sys
from minicnn import utils
from minicnn.datasets import fetch
fetch._SCHEMES, fetch._PAUSE = ("http",), 0.01
file = fetch.DataFile("set", "file.gz", int(sys.argv[2]), sys.argv[3], (sys.argv[1],))
print(fetch.download(file, fetch.Path(sys.argv[4])), flush=True)
"""


def start(server: Server, folder: Path) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "no_proxy": "127.0.0.1"}
    command = [sys.executable, "-c", PROGRAM, server.address + "/a", str(len(CONTENT)), MD5, str(folder)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


@pytest.mark.skipif(os.name == "nt", reason="Windows has other signals")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT] if os.name != "nt" else [])
def test_killed_in_the_middle_and_started_again(server: Server, tmp_path: Path, number):
    server.replies["/a"] = [slowly(20, 1), sends(CONTENT)]
    process = start(server, tmp_path)
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size for path in tmp_path.glob("*.part")) and time.monotonic() < deadline:
        if process.poll() is None and list(tmp_path.glob("*.part")):
            break
        time.sleep(0.01)
    time.sleep(0.5)  # the file is there a moment before whoever clears it away
    process.send_signal(number)
    process.communicate()
    left = list(tmp_path.iterdir())
    assert [path.suffix for path in left] == ([".part"] if number == signal.SIGKILL else [])
    for path in left:
        os.utime(path, (1e9, 1e9))  # as if it had been long ago
    assert fetch.download(data_file(server, "/a"), tmp_path).read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["file.gz"]


def test_what_another_process_is_writing_is_left_alone(server: Server, tmp_path: Path):
    (tmp_path / "file.gz.abc.part").write_bytes(b"new")
    server.replies["/a"] = [sends(CONTENT)]
    fetch.download(data_file(server, "/a"), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file.gz", "file.gz.abc.part"]


def test_two_processes_at_once(server: Server, tmp_path: Path):
    server.replies["/a"] = [slowly(0.02, 5)]
    processes = [start(server, tmp_path) for _ in range(2)]
    assert [process.communicate()[0].strip() for process in processes] == [str(tmp_path / "file.gz")] * 2
    assert [path.name for path in tmp_path.iterdir()] == ["file.gz"]
    assert (tmp_path / "file.gz").read_bytes() == CONTENT


# ---- get_file --------------------------------------------------------------------------------------------------------

SHA = hashlib.sha256(CONTENT).hexdigest()


@pytest.mark.parametrize("digest", [SHA, MD5.upper()])
def test_get_file_downloads_once_and_checks(server, tmp_path, digest):
    server.replies["/sets/data.bin"] = [sends(CONTENT)]
    options = {"origin": server.address + "/sets/data.bin?v=1", "file_hash": digest, "cache_dir": tmp_path}
    server.replies["/sets/data.bin?v=1"] = server.replies["/sets/data.bin"]
    path = utils.get_file(**options)
    assert Path(path) == tmp_path / "datasets" / "data.bin"
    assert Path(path).read_bytes() == CONTENT
    assert utils.get_file(**options) == path
    assert len(server.asked) == 1
    utils.get_file(**options, force_download=True)
    Path(path).write_bytes(b"another version")
    assert Path(utils.get_file(**options)).read_bytes() == CONTENT
    assert len(server.asked) == 3
    other = utils.get_file("other.bin", options["origin"], md5_hash=MD5, cache_subdir="a/b", cache_dir=tmp_path)
    assert Path(other) == tmp_path / "a" / "b" / "other.bin"


@pytest.mark.parametrize("reply", [sends(CONTENT[:-1]), sends(CONTENT + b"!"), sends_without_length(CONTENT),
                                   sends(CONTENT, len(CONTENT) - 5), answers(404)])  # fmt: skip
def test_get_file_leaves_nothing_of_what_is_wrong(server, tmp_path, reply):
    server.replies["/data.bin"] = [reply]
    with pytest.raises(DownloadError):
        utils.get_file(origin=server.address + "/data.bin", file_hash=SHA, cache_dir=tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize(("options", "part"), [
    ({}, "nothing says what the file should be"), ({"file_hash": "abc"}, "no checksum"),
    ({"file_hash": MD5, "hash_algorithm": "sha256"}, "no checksum"), ({"file_hash": SHA, "extract": True}, "unpack"),
    ({"file_hash": SHA, "untar": True}, "unpack"), ({"file_hash": SHA, "fname": "../x"}, "no name of a file"),
    ({"file_hash": SHA, "cache_subdir": "../.."}, "leads out"),
    ({"file_hash": SHA, "origin": "data.bin"}, "no address"),
    ({"file_hash": SHA, "origin": None}, "no address"), ({"file_hash": SHA, "hash_algorithm": "crc"}, "hash_algorithm"),
])  # fmt: skip
def test_get_file_refuses_before_anything_is_asked(server, tmp_path, options, part):
    with pytest.raises(InputError, match=part):
        utils.get_file(**{"origin": server.address + "/data.bin", "cache_dir": tmp_path, **options})
    assert server.asked == []


def test_get_file_speaks_https_only(tmp_path):
    with pytest.raises(DownloadError, match="not https"):
        utils.get_file(origin="http://localhost/data.bin", file_hash=SHA, cache_dir=tmp_path)
