"""The process in which a learner's functions run: fresh, with limits, told what to do on its standard input.

What it finds goes, line by line, to a file of its parent's; what the learner's code prints is caught and cut off. This
keeps honest mistakes from hiding or harming anything (endless loops, endless output, too much memory, sys.exit). It is
no prison: whoever wants to run hostile code safely needs another machine.
"""

from __future__ import annotations

import ast
import contextlib
import faulthandler
import io
import json
import linecache
import os
import sys
import threading
import time
import tracemalloc
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from minicnn.course.say import TOO_MUCH_MEMORY

MEMORY = 4 << 30  # bytes that a function may have
PRINTED = 2000  # characters of what the learner's code prints


class _Caught(io.TextIOBase):
    """Keeps the first characters of what is written, and forgets the rest."""

    def __init__(self) -> None:
        self.text, self.more = "", False

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        room = PRINTED - len(self.text)
        self.text += text[:room]
        self.more = self.more or len(text) > room
        return len(text)

    def taken(self) -> str:
        text, self.text = self.text + (" …" if self.more else ""), ""
        return text


def main(report_path: str, trace_path: str) -> None:
    """Grade what the request on standard input asks for: {"files": [{path, text, functions}], "limit": seconds}."""
    request = json.loads(sys.stdin.buffer.read().decode("utf-8"))
    caught = _Caught()
    with open(report_path, "w", encoding="utf-8") as report, open(trace_path, "w", encoding="utf-8") as trace:
        from minicnn.course import files, grade  # before the limits: this is not the learner's memory or time

        grade.framework_losses("sgd")
        limit_memory(trace)
        faulthandler.enable(trace)  # where it was, should the process crash
        sys.stdout = sys.stderr = caught  # type: ignore[assignment]
        clock = _Clock(request["limit"], trace)
        for number, file in enumerate(request["files"]):

            def tell(event: str, _number: int = number, **what: Any) -> None:
                report.write(json.dumps({"file": _number, "event": event, **what, "printed": caught.taken()}) + "\n")
                report.flush()

            tell("file")
            clock.start()
            try:
                _grade_file(file, grade, files, clock, tell)
            except files.RefusedError as refused:
                tell("refused", text=str(refused))
            except Exception as error:  # else the parent would know nothing but an exit code
                tell("refused", text=f"The grader itself failed, please report this: {type(error).__name__}: {error}")
            clock.stop()


class _Clock:
    """Ends the process where a stage takes too long, and writes down where it was."""

    def __init__(self, seconds: float, trace: TextIO):
        self.seconds, self.trace = seconds, trace

    def start(self) -> None:
        faulthandler.dump_traceback_later(self.seconds, exit=True, file=self.trace)

    def stop(self) -> None:
        faulthandler.cancel_dump_traceback_later()


def limit_memory(trace: TextIO, size: int = MEMORY, by_the_system: bool = sys.platform == "linux") -> None:
    """Linux refuses what goes beyond `size`, which is a MemoryError. Elsewhere a thread looks, and ends the process."""
    if by_the_system:
        import resource

        with contextlib.suppress(ValueError, OSError):  # a lower limit is set already
            resource.setrlimit(resource.RLIMIT_AS, (size, resource.getrlimit(resource.RLIMIT_AS)[1]))
        return
    tracemalloc.start()  # NumPy tells it of its arrays

    def watch() -> None:
        while tracemalloc.get_traced_memory()[0] < size:
            time.sleep(0.02)
        trace.write(TOO_MUCH_MEMORY)
        trace.flush()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _grade_file(file: dict[str, Any], grade: Any, files: Any, clock: _Clock, tell: Any) -> None:
    path, text = file["path"], file["text"]
    tree = files.parse(text, Path(path))
    parts = [files.PARTS[name] for name in file["functions"]]
    files.check_contents(tree)
    module = _loaded(text, tree, path, files.RefusedError)
    for part in parts:
        function: Any = getattr(module, part.function, None)
        _require_own(function, part.function, path, files.RefusedError)
        tell("function", name=part.function, line=function.__code__.co_firstlineno)
        clock.start()
        with _without(module, files.leading_to(part)):
            for stage in grade.grade(part, function, path):
                tell("result", number=stage.number, ok=stage.ok, text=stage.text, hint=stage.hint)
                if not stage.ok:
                    return
                clock.start()


@contextlib.contextmanager
def _without(module: types.ModuleType, answers: set[str]) -> Iterator[None]:
    """In a file of several functions, one must not use what only another one's exercise may import."""
    names = vars(module)
    imported = {name: value for name, value in names.items() if isinstance(value, types.FunctionType)
                and value.__module__.startswith("minicnn.") and value.__name__ in answers}  # fmt: skip
    names.update({name: _forbidden(value.__name__) for name, value in imported.items()})
    yield
    names.update(imported)


def _forbidden(name: str) -> Callable[..., Any]:
    def answer(*_: Any, **__: Any) -> Any:
        raise ValueError(f"{name} is the answer, or leads to it: the exercise of this function does not import it")

    return answer


def _loaded(text: str, tree: ast.Module, path: str, refused: type[Exception]) -> types.ModuleType:
    """The learner's file as a module. What it does when it is read counts as a mistake of it."""
    linecache.cache[path] = (len(text), None, text.splitlines(keepends=True), path)
    module = types.ModuleType("exercise")
    try:
        exec(compile(tree, path, "exec", dont_inherit=True), vars(module))
    except (Exception, SystemExit) as error:
        frame = error.__traceback__
        line = None
        while frame is not None:
            line = frame.tb_lineno if frame.tb_frame.f_code.co_filename == path else line
            frame = frame.tb_next
        raise refused(f"The file stops in line {line} when it is read: {type(error).__name__}: {error}") from error
    return module


def _require_own(function: Any, name: str, path: str, refused: type[Exception]) -> None:
    """The graded function must be the one that is written in the file."""
    if function is None:
        raise refused(f"{name} is gone after the file was read: do not delete or rename it.")
    code: Any = getattr(function, "__code__", None)
    if type(function) is types.FunctionType and code.co_filename == path and code.co_name == name:
        return
    where = f" (it comes from {code.co_filename})" if code is not None and code.co_filename != path else ""
    raise refused(f"{name} is not what this file defines{where}: write its body, and assign nothing else to its name.")
