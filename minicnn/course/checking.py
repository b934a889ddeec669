"""Grade files: start the child, watch its clock, and say in words what it found."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import minicnn
from minicnn.course import cut, files
from minicnn.course.grade import TITLES
from minicnn.course.say import TOO_MUCH_MEMORY
from minicnn.course.table import STEPS, Part
from minicnn.errors import InputError

LIMIT = 10.0  # seconds for a stage; the references take a tenth of one for all five
_CHILD = "import sys, json; sys.path[:] = json.loads(sys.argv[1]); " \
    "from minicnn.course.child import main; main(*sys.argv[2:])"  # fmt: skip


@dataclass
class Verdict:
    """What was found of one function. results: (stage, ok, text, hint). problem: why it went no further, or ""."""

    part: Part
    file: str
    line: int
    results: list[tuple[int, bool, str, str]] = field(default_factory=list)
    problem: str = ""
    printed: str = ""

    @property
    def passed(self) -> bool:
        return not self.problem and len(self.results) == len(TITLES) and all(ok for _, ok, _, _ in self.results)


@dataclass
class Source:
    """What is to be graded: the text of a file (or cell), and which functions of it."""

    file: str
    text: str
    functions: list[str]


def grade_sources(sources: list[Source], limit: float = LIMIT) -> list[Verdict]:
    """A verdict for each function; where one fails, those after it in its file are not looked at."""
    verdicts: list[Verdict] = []
    left = list(sources)
    while left:
        found, done = _run_child(left, limit)
        verdicts += found
        left = left[done:]
    return verdicts


def _run_child(sources: list[Source], limit: float) -> tuple[list[Verdict], int]:
    """(verdicts, how many of the sources are done with): all of them, unless the child ended in one."""
    threads = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    request = {"limit": limit, "files": [vars(s) | {"path": s.file} for s in sources]}
    with tempfile.TemporaryDirectory(prefix="minicnn-course-", ignore_cleanup_errors=True) as folder:
        report, trace, errors = (os.path.join(folder, name) for name in ("report", "trace", "errors"))
        command = [sys.executable, "-I", "-c", _CHILD, json.dumps(_paths()), report, trace]
        with open(errors, "wb") as sink:
            child = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=sink, env={**os.environ, **threads}
            )
            try:
                # The child ends itself in time; this is for one that cannot any more.
                stages = 7 * sum(len(s.functions) for s in sources)
                child.communicate(json.dumps(request).encode("utf-8"), timeout=60 + limit * stages)
            except subprocess.TimeoutExpired:
                pass
            finally:
                child.kill()
                child.wait()
        events = _events(report)
        ended = _how_it_ended(child.returncode, _text(trace), _text(errors), limit)
    verdicts = list(_verdicts(sources, events, ended))
    if child.returncode == 0:
        return verdicts, len(sources)
    return verdicts, max((event["file"] for event in events), default=0) + 1


def _paths() -> list[str]:
    """Where the child finds modules: where this process does, but not in the learner's folder."""
    here, home = Path.cwd().resolve(), Path(minicnn.__file__).resolve().parents[1]
    return [str(home), *(p for p in sys.path if p and Path(p).resolve() not in (here, home))]


def _events(path: str) -> list[dict[str, Any]]:
    events = []
    for line in _text(path).splitlines():
        try:
            events.append(json.loads(line))
        except ValueError:  # the child was ended in the middle of a line
            break
    return events


def _text(path: str) -> str:
    return Path(path).read_text(encoding="utf-8", errors="replace") if os.path.exists(path) else ""


def _how_it_ended(code: int, trace: str, errors: str, limit: float) -> tuple[str, str]:
    """(problem, the trace in which the line is to be found) of a child that did not come to its end."""
    if code == 0:
        return "", ""
    if TOO_MUCH_MEMORY in trace:
        return TOO_MUCH_MEMORY.rstrip("."), trace
    if "Timeout" in trace:
        return f"stopped after {limit:g} seconds: an endless loop, or very slow (--limit 60 waits longer)", trace
    fatal = re.findall(r"Fatal Python error: (.+)", trace)
    last = fatal or errors.strip().splitlines()[-1:] or [f"exit code {code}"]
    return f"the process crashed ({last[0]})", trace


def _verdicts(sources: list[Source], events: list[dict[str, Any]], ended: tuple[str, str]) -> Iterator[Verdict]:
    """From what the child wrote. A file that it never came to has no verdict here: another child will look at it."""
    reached = max((event["file"] for event in events), default=0)
    for number, source in enumerate(sources[: reached + 1]):
        mine = [event for event in events if event["file"] == number]
        verdicts: list[Verdict] = []
        for event in mine:
            if event["event"] == "function":
                verdicts.append(Verdict(files.PARTS[event["name"]], source.file, event["line"]))
            if event["event"] == "refused":
                verdicts.append(_unread(source, event["text"]))
            if event["event"] == "result":
                verdicts[-1].results.append((event["number"], event["ok"], event["text"], event["hint"]))
            if verdicts:
                verdicts[-1].printed += event["printed"]
        problem, trace = ended
        if problem and number == reached:
            verdicts = verdicts or [_unread(source, "")]
            stage = f"Stage {len(verdicts[-1].results) + 1}: " if verdicts[-1].line else "While the file was read: "
            lines = re.findall(rf'File "{re.escape(source.file)}", line (\d+)', trace)
            where = f", in line {lines[0]}" if lines else ""
            verdicts[-1].problem = f"{stage}{problem}{where}."
        yield from verdicts


def _unread(source: Source, problem: str) -> Verdict:
    return Verdict(files.PARTS[source.functions[0]], source.file, 0, problem=problem)


# ---- one file --------------------------------------------------------------------------------------------------------


def source_of(path: Path) -> Source:
    """The file to grade. Raises InputError, or RefusedError with what is wrong in it."""
    text = files.read(path)
    tree = files.parse(text, path)
    names = [name for name in files.PARTS if cut.function_in(tree, name) is not None]
    if not names:
        raise files.RefusedError(
            f"No function of the course is defined in {path.name} (with `def`, at the top of the file). A step's "
            "function must keep its name; `course list` shows the steps, `course start NAME` writes a file."
        )
    return Source(str(path), text, names)


def check_file(path: Path, limit: float = LIMIT) -> bool:
    """Grade a file and print what was found. Returns whether all of it passed."""
    try:
        source = source_of(path)
    except files.RefusedError as refused:
        print(f"{path}: nothing was checked.\n{refused}")
        return False
    verdicts = grade_sources([source], limit)
    for verdict in verdicts:
        print_verdict(verdict)
    passed = len(verdicts) == len(source.functions) and all(v.passed for v in verdicts)
    if passed:
        print_success(source, path.parent)
    return passed


def print_verdict(verdict: Verdict, where: str = "") -> None:
    """The first line says what was run. Then the stages."""
    if verdict.line:
        print(f"{verdict.part.function} of {where or verdict.file}, line {verdict.line}")
    else:
        print(f"{where or verdict.file}: nothing was checked.")
    for number, ok, text, hint in verdict.results:
        if text.startswith("Nothing to"):
            print(f"\n{number}  {TITLES[number]}: {text}")
        elif ok and "\n" not in text:
            print(f"\n{number}  {TITLES[number]}: ok. {text}")
        else:
            print(f"\n{number}  {TITLES[number]}: {'ok' if ok else 'NOT YET'}\n{_indented(text)}")
        if hint:
            print(f"\n   Hint: {hint}")
    if verdict.problem:
        print(f"\n{verdict.problem}")
    if verdict.printed.strip():
        print(f"\nYour code printed:\n{_indented(verdict.printed.rstrip())}")
    if verdict.results and not verdict.passed:
        print(f"\nMore help: python -m minicnn course hint {verdict.part.function}")


def _indented(text: str) -> str:
    return "\n".join(f"   {line}".rstrip() for line in text.splitlines())


def print_success(source: Source, folder: Path | None) -> None:
    """What to look at now: the reference, the framework's kernel, the next step."""
    for name in source.functions:
        part = files.PARTS[name]
        print(f"\n{name} passes all five stages.")
        changes = cut.difference(part, source.text)
        print(
            f"\nThe reference does it so:\n\n{_indented(changes)}"
            if changes
            else "\nIt is the reference, word by word."
        )
        where, kernel = cut.place(part.fast)
        print(f"\nAnd the framework, where it must be fast ({where}):\n\n{_indented(kernel)}")
    following = following_part(files.PARTS[source.functions[-1]], folder)
    print(f"\nNext: {following}")


def following_part(part: Part, folder: Path | None) -> str:
    """The command for what comes next: the first function after this one that is not written."""
    there = files.look(folder) if folder is not None else {}
    order = list(files.PARTS.values())
    for following in order[order.index(part) + 1 :]:
        if following.function not in there:
            return f"python -m minicnn course start {files.step_of(following).name}"
        name = there[following.function].path.name
        if not there[following.function].written:
            return f"write {name}, then: python -m minicnn course check {quoted(name)}"
    return "python -m minicnn course list, or train a network: python -m minicnn course run toy"


def quoted(name: str) -> str:
    return f'"{name}"' if " " in name else name


# ---- a whole folder --------------------------------------------------------------------------------------------------


def states(folder: Path, limit: float = LIMIT) -> dict[str, str]:
    """For each function "to do", "started", "not right yet" or "passed": graded anew, from the files as they are."""
    found = files.look(folder)
    written = [one for one in found.values() if one.written]
    sources = [Source(str(one.path), files.read(one.path), [one.part.function]) for one in written]
    passed = {v.part.function for v in grade_sources(sources, limit) if v.passed}
    answers = {True: "passed", False: "not right yet"}
    return {
        name: "to do" if name not in found else answers[name in passed] if found[name].written else "started"
        for name in files.PARTS
    }


def step_states(folder: Path, limit: float = LIMIT) -> dict[str, str]:
    """The same for each step: of several parts, how many are done."""
    of_parts, summary = states(folder, limit), {}
    for step in STEPS:
        own = [of_parts[part.function] for part in step.parts]
        done = own.count("passed")
        if len(set(own)) == 1:
            summary[step.name] = own[0]
        elif "not right yet" in own:
            summary[step.name] = "not right yet"
        else:
            summary[step.name] = f"{done} of {len(own)} passed" if done else "started"
    return summary


def check_function(function: Any, limit: float = LIMIT) -> None:
    """Grade a function from a notebook's cell (or from an interpreter that remembers its text), and print it."""
    import linecache

    name, code = getattr(function, "__name__", repr(function)), getattr(function, "__code__", None)
    if name not in files.PARTS or code is None:
        raise InputError("check", "this is no function of the course.", f"one of {', '.join(files.PARTS)}.", f"{name}.",
                         "define it under its own name, and pass the function itself.")  # fmt: skip
    lines = linecache.getlines(code.co_filename)
    if not lines:
        raise InputError("check", "the text of this function is not known.", "a function from a notebook's cell.",
                         f"one from {code.co_filename}.", "use `course check FILE`.")  # fmt: skip
    text = "".join("\n" if line.lstrip().startswith(("%", "!")) else line for line in lines)
    source = Source("your cell", text, [name])
    for verdict in grade_sources([source], limit):
        print_verdict(verdict)
        if verdict.passed:
            print_success(source, None)
