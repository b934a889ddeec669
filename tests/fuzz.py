"""A fuzzer for everything that minicnn reads: damaged files end in success or in an error of minicnn's own.

    python tests/fuzz.py --count 10000 --seed 0 --record benchmarks/results/fuzz.json
    python tests/fuzz.py --seed 0 --only 1234          one case again, with its traceback

Each case is a valid small file of some kind, damaged (tests/damage.py), and read in a worker process that may use
SECONDS of processor time and MEBIBYTES more than before, may start nothing, connect to nothing and write nothing. A
fault is any other end: another error, a crash, a hang, too much memory. Case number and seed are all it depends on.
Needs Linux or macOS; on macOS the memory is not limited.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1])]

import damage  # noqa: E402

from minicnn import utils  # noqa: E402
from minicnn.datasets import cifar10  # noqa: E402
from minicnn.datasets.idx import read_idx  # noqa: E402
from minicnn.errors import BrokenFileError, InputError  # noqa: E402
from minicnn.inspect.trace import Trace  # noqa: E402
from minicnn.layers import BatchNormalization, Conv2D, Dense, Dropout, Flatten, Input, MaxPooling2D  # noqa: E402
from minicnn.models import Sequential, load_model  # noqa: E402
from minicnn.preprocessing.image import load_img  # noqa: E402
from minicnn.reading import checked  # noqa: E402
from minicnn.saving import keras_weights  # noqa: E402
from minicnn.saving.archive import parse_json  # noqa: E402
from minicnn.saving.safetensors_file import named_arrays  # noqa: E402

SECONDS, MEBIBYTES = 2, 512
GIVE_UP = 60  # seconds on the clock, after which a worker is killed: it may be in code that hears no alarm
FIXTURES = Path(__file__).parent / "fixtures"
FORBIDDEN = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "pickle.find_class",
             "socket.connect", "os.remove", "os.rename", "os.mkdir", "os.symlink", "os.link"}  # fmt: skip


# ---- the corpus: (file, how to damage it, how to read it) ------------------------------------------------------------


def network() -> Sequential:
    inner = Sequential([Conv2D(2, 3, activation="relu", kernel_regularizer="l2"), MaxPooling2D()], name="inner")
    model = Sequential([Input((8, 8, 1)), inner, BatchNormalization(), Flatten(), Dropout(0.2),
                        Dense(3, activation="softmax", kernel_constraint="max_norm")], name="net")  # fmt: skip
    model.class_names = ["cat", "dog", "panda"]
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def keras_network() -> Sequential:
    """That of tests/fixtures/make_keras_files.py."""
    deep = Sequential([Conv2D(3, 1), BatchNormalization()], name="deep")
    conv = Conv2D(5, 3, activation="relu", trainable=False)
    inner = [Input((4, 4, 4)), conv, BatchNormalization(scale=False), deep]
    return Sequential([Input((8, 8, 3)), Conv2D(4, 3, padding="same", activation="relu", name="first"),
                       BatchNormalization(), MaxPooling2D(), Dropout(0.2), Sequential(inner, name="inner"), Flatten(),
                       Dense(3, activation="softmax", name="last")])  # fmt: skip


Case = tuple[bytes, list[Callable[[Random, bytes], bytes]], Callable[[Path], Any]]


def make_corpus(folder: Path) -> dict[str, Case]:
    """A valid file of each kind."""
    from PIL import Image

    from minicnn.callbacks import BackupAndRestore

    utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    model, fresh = network(), network()
    x, y = rng.random((4, 8, 8, 1), np.float32), np.arange(4) % 3
    model.fit(x, y, verbose=0, callbacks=[BackupAndRestore(folder / "backup", delete_checkpoint=False)])
    model.save(folder / "model")
    model.save_weights(folder / "weights")
    model.trace(x, y).save(folder / "trace")

    def backup(path: Path) -> None:
        (folder / "again").mkdir(exist_ok=True)
        os.replace(path, folder / "again" / "backup.zip")
        with contextlib.redirect_stdout(io.StringIO()):
            network().fit(x, y, verbose=0, epochs=0, callbacks=[BackupAndRestore(folder / "again")])

    zips = [damage.zip_member, damage.zip_member, damage.zip_member, damage.zip_table, damage.blind]
    corpus: dict[str, Case] = {
        "model": ((folder / "model").read_bytes(), zips, load_model),
        "weights": ((folder / "weights").read_bytes(), zips, fresh.load_weights),
        "trace": ((folder / "trace").read_bytes(), zips, _look_into_trace),
        "backup": ((folder / "backup" / "backup.zip").read_bytes(), zips, backup),
        "json": (b'{"a": [1, 2.5, "three", null, {"b": [[]]}], "c": -1e5}', [damage.json_value, damage.blind], _json),
    }
    array = rng.integers(0, 256, (5, 6, 7), np.uint8)
    idx = b"\0\0\x08\x03" + np.array(array.shape, ">u4").tobytes() + array.tobytes()
    corpus["idx"] = (idx, [damage.idx, damage.blind], read_idx)
    packed = [damage.gzipped(damage.idx), damage.gzipped(damage.blind), damage.blind]
    corpus["idx.gz"] = (gzip.compress(idx, mtime=0), packed, read_idx)
    packed = [damage.gzipped(damage.tar), damage.gzipped(damage.tar), damage.gzipped(damage.blind), damage.blind]
    corpus["cifar"] = (_cifar(rng), packed, lambda path: list(cifar10._read_archive(path)))
    picture = Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8))
    for kind in ("png", "jpeg", "gif", "bmp", "tiff", "webp", "ppm"):
        out = io.BytesIO()
        picture.save(out, kind)
        known = [getattr(damage, kind)] if kind in ("png", "jpeg") else [damage.put_size, damage.flip]
        corpus[kind] = (out.getvalue(), [*known, damage.blind], load_img)
    table = {name: array for name, (_, array) in named_arrays(fresh).items()}
    corpus["safetensors"] = (_safetensors(table), [damage.safetensors, damage.blind], fresh.load_weights)
    theirs = keras_network()
    for name, ways in (("keras_net.h5", [damage.put_size, damage.flip, damage.blind]),
                       ("keras_net.weights.h5", [damage.put_size, damage.flip, damage.blind]),
                       ("keras_net.keras", zips)):  # fmt: skip
        corpus[name] = ((FIXTURES / name).read_bytes(), ways, lambda path: keras_weights.load_weights(theirs, path))
    for name in ("keras_net_whole.h5", "keras_net.keras"):
        ways = zips if name.endswith("keras") else [damage.put_size, damage.flip, damage.blind]
        corpus[f"model {name}"] = ((FIXTURES / name).read_bytes(), ways, load_model)
    return corpus


def _safetensors(arrays: dict[str, np.ndarray]) -> bytes:
    """As the library would write it."""
    rows, at = {}, 0
    for name, array in arrays.items():
        rows[name] = {"dtype": "F32", "shape": array.shape, "data_offsets": [at, at := at + array.nbytes]}
    table = json.dumps(rows).encode()
    return len(table).to_bytes(8, "little") + table + b"".join(array.tobytes() for array in arrays.values())


def _cifar(rng: np.random.Generator) -> bytes:
    cifar10._PER_BATCH = 2
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name in ("readme.html", *cifar10.BATCHES):
            info = tarfile.TarInfo(f"{cifar10.FOLDER}/{name}")
            info.size = 2 * cifar10.RECORD
            archive.addfile(info, io.BytesIO(rng.bytes(info.size)))
    return gzip.compress(out.getvalue(), mtime=0)


def _look_into_trace(path: Path) -> None:
    """What can be loaded can be looked at: the tables, and some explanations."""
    t = Trace.load(path)
    t._repr_html_()
    for layer in t.layers:
        for what in ("y", "dx", "dw", "update"):
            with contextlib.suppress(InputError):
                str(t.explain(layer.key, what, (0,) * (layer.params["w"].ndim if what in ("dw", "update") and "w" in
                                                       layer.params else layer.x.ndim)))  # fmt: skip


def _json(path: Path) -> Any:
    with checked(path, "this is no JSON.", "JSON.", "write it again."):
        return parse_json(path.read_bytes())


def damaged(corpus: dict[str, Case], seed: int, number: int) -> tuple[str, str, bytes]:
    """(kind, name of the damage, the file) of a case."""
    rng = Random(f"{seed}/{number}")
    kind = rng.choice(sorted(corpus))
    content, ways, _ = corpus[kind]
    way = rng.choice(ways)
    return kind, getattr(way, "__name__", "damage"), way(rng, content)


def misbehaving() -> dict[str, Callable[[Path], Any]]:
    """Readers that must be found out, all but the last two; for the tests of the fuzzer itself."""

    def hang(path: Path) -> None:
        while True:
            pass

    def refuse(path: object) -> None:
        raise BrokenFileError(path, "It is broken.", "A whole one.", "Half of it.", "Give up.")

    return {
        "takes memory": lambda path: bytearray(2 * MEBIBYTES << 20),
        "hangs": hang,
        "runs a program": lambda path: subprocess.run(["true"]),
        "writes elsewhere": lambda path: path.with_name("evil").write_text("x"),
        "deletes": lambda path: path.unlink(),
        "dies": lambda path: os.abort(),
        "divides by 0": lambda path: 1 // 0,
        "names no file": lambda path: refuse("somewhere"),
        "refuses": refuse,
        "reads": lambda path: path.read_bytes(),
    }


# ---- the worker ------------------------------------------------------------------------------------------------------


class TooSlow(BaseException):
    """The processor time is used up. Not an Exception: no reader must take it for one of its own."""


class Broke(BaseException):
    """Something happened that no file may bring about."""


def work(seed: int, badly: bool) -> None:
    """Read case numbers, answer each with a line of JSON. badly: the cases are those of misbehaving()."""
    watching = False

    def watch(event: str, arguments: Any) -> None:
        if watching and (event in FORBIDDEN or (event == "open" and _writes(arguments))):
            raise Broke(f"{event} {arguments!r}")

    def alarm(*_: Any) -> None:
        raise TooSlow

    warnings.simplefilter("ignore")
    sys.addaudithook(watch)
    signal.signal(signal.SIGPROF, alarm)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        target = folder / "damaged"
        if badly:
            corpus: dict[str, Case] = {kind: (b"x", [damage.flip], read) for kind, read in misbehaving().items()}
        else:
            corpus = make_corpus(folder)
            _read_undamaged(corpus, target)
        print("ready", flush=True)
        for line in sys.stdin:
            kind, way, content = damaged(corpus, seed, int(line))
            if badly:
                kind = list(corpus)[int(line)]
            target.write_bytes(content)
            limit_memory(MEBIBYTES << 20)
            # A backup's reader writes a folder of its own; Keras' files are walked through by another process first.
            start, watching = time.process_time(), kind != "backup" and "keras" not in kind
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            try:
                corpus[kind][2](target)
                answer = {"end": "read"}
            except BaseException as error:
                answer = {"end": "refused"} if _allowed(error, target) else {"end": "fault", "error": repr(error)[:500],
                          "trace": traceback.format_exc()}  # fmt: skip
                if isinstance(error, KeyboardInterrupt):
                    raise
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
                watching = False
                limit_memory(None)
            answer |= {"kind": kind, "damage": way, "seconds": round(time.process_time() - start, 3)}
            print(json.dumps(answer), flush=True)


def _read_undamaged(corpus: dict[str, Case], target: Path) -> None:
    """They must be fine; and what their readers import is imported before the memory is limited."""
    for kind, (content, _, read) in corpus.items():
        target.write_bytes(content)
        try:
            read(target)
        except Exception as error:
            raise SystemExit(f"the undamaged {kind} cannot be read: {error}") from error


def _writes(arguments: Any) -> bool:
    mode, flags = arguments[1], arguments[2]
    return bool(set(mode or "") & set("wax+")) or bool((flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


def _allowed(error: BaseException, target: Path) -> bool:
    """Whether it is an error of ours, about this file, and not about a lack of memory."""
    if not isinstance(error, InputError):
        return False
    named = str(target) in error.where or "backup.zip" in error.where
    return named and not isinstance(error.__cause__, (MemoryError, RecursionError))


def limit_memory(more: int | None) -> None:
    """Let this process have so many bytes more than now; None: as many as it likes."""
    import resource

    if not sys.platform.startswith("linux"):
        return
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    most = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (most if more is None else now + more, most))


# ---- the driver ------------------------------------------------------------------------------------------------------


class Worker:
    """A process that reads damaged files; a new one takes its place when it dies."""

    def __init__(self, seed: int, badly: bool = False):
        environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "0"}
        root = str(Path(__file__).resolve().parents[1])
        environment["PYTHONPATH"] = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--worker", "--seed", str(seed), *["--badly"] * badly],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        if not self.process.stdout.readline():
            raise SystemExit("the worker does not start; try --worker")

    def ask(self, number: int) -> dict[str, Any] | None:
        """The worker's answer; None if it died, or had to be killed."""
        assert self.process.stdin is not None and self.process.stdout is not None
        killer = threading.Timer(GIVE_UP, self.process.kill)
        killer.start()
        try:
            self.process.stdin.write(f"{number}\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            killer.cancel()
        return json.loads(line) if line else None

    def end(self) -> int:
        for stream in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                stream.close()  # type: ignore[union-attr]
        return self.process.wait()


def run(count: int, seed: int, first: int = 0, badly: bool = False) -> Iterator[dict[str, Any]]:
    """The answers to `count` cases. A worker's death is one, too."""
    worker = Worker(seed, badly)
    try:
        for number in range(first, first + count):
            answer = worker.ask(number)
            if answer is None:
                code = worker.end()
                answer = {"end": "fault", "error": f"the process ended with {code}", "kind": "?", "damage": "?",
                          "seconds": 0.0}  # fmt: skip
                worker = Worker(seed, badly)
            yield answer | {"number": number}
    finally:
        worker.end()


def summary(answers: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts by kind of file and end, and all faults."""
    kinds: dict[str, Counter[str]] = {}
    for answer in answers:
        kinds.setdefault(answer["kind"], Counter())[answer["end"]] += 1
    slowest = max(answers, key=lambda answer: answer["seconds"])
    return {
        "cases": len(answers),
        "ends": dict(Counter(answer["end"] for answer in answers)),
        "by_kind": {kind: dict(sorted(counts.items())) for kind, counts in sorted(kinds.items())},
        "slowest": {key: slowest[key] for key in ("number", "kind", "damage", "seconds")},
        "faults": [a for a in answers if a["end"] == "fault"],
    }


def shown(answers: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    """All answers; faults are printed as they come."""
    result = []
    for answer in answers:
        result.append(answer)
        if answer["end"] == "fault":
            print(f"case {answer['number']}: {answer['kind']}, {answer['damage']}: {answer['error']}", flush=True)
            print("    " + "\n    ".join(answer.get("trace", "").splitlines()[-7:]), flush=True)
        if len(result) % 1000 == 0:
            print(f"{len(result)} cases, {sum(a['end'] == 'fault' for a in result)} faults", flush=True)
    return result


def again(seed: int, number: int) -> None:
    """One case in this very process, without limits."""
    with tempfile.TemporaryDirectory() as name:
        corpus = make_corpus(Path(name))
        kind, way, content = damaged(corpus, seed, number)
        print(f"case {number}: {kind}, {way}, {len(content):,} bytes")
        target = Path(name) / "damaged"
        target.write_bytes(content)
        corpus[kind][2](target)
        print("read")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="the first case")
    parser.add_argument("--only", type=int, help="this case alone, here")
    parser.add_argument("--jobs", type=int, default=1, help="workers at a time")
    parser.add_argument("--record", help="write the result there")
    parser.add_argument("--badly", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.seed, options.badly)
        return 0
    if options.only is not None:
        again(options.seed, options.only)
        return 0
    share = -(-options.count // options.jobs)
    starts = range(options.first, options.first + options.count, share)
    with ThreadPoolExecutor(options.jobs) as pool:  # the threads only wait for their workers
        parts = list(pool.map(lambda first: shown(run(share, options.seed, first)), starts))
    answers = [answer for part in parts for answer in part]
    result = summary(answers)
    print(json.dumps(result | {"faults": len(result["faults"])}, indent=1))
    if options.record:
        sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
        from record import write_record

        write_record(options.record, result, limits={"processor_seconds": SECONDS, "mebibytes": MEBIBYTES})
    return 1 if result["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
