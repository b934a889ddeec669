"""The command line of the course: python -m minicnn course …"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from minicnn.errors import InputError, visible

EPILOG = """\
commands:
  list                     the steps: name, state, minutes
  start [NAME]             write a step's exercises into this folder (without NAME: the next step's)
  check FILE [--watch]     grade a file; --watch: again whenever it is saved
  hint NAME [1|2|3]        an idea, how to go about it, the outline of the reference
  solution NAME [--write]  the reference; --write: into your file, the old one is kept beside it
  run NAME                 train a network with your functions: toy (30 seconds), fashion-mnist, cifar-10

A NAME is that of a step ("relu"), its number ("4"), a function ("relu_forward") or a file.
"""
ACTIONS = ("list", "start", "check", "hint", "solution", "run")


def add(commands: Any) -> None:
    """Add `course` to the commands of python -m minicnn."""
    parser = commands.add_parser(
        "course",
        help="learn by writing it: sixteen steps from a window to Winograd, graded",
        description="Write a CNN yourself, one function at a time: graded honestly, and run in a real network.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_argument = parser.add_argument
    add_argument("action", nargs="?", default="list", choices=ACTIONS, metavar="COMMAND", help="see below")
    add_argument("name", nargs="?", help="a step, a function, a file or a network")
    add_argument("grade", nargs="?", type=int, choices=(1, 2, 3), help="which hint (default: 1)")
    add_argument("--folder", type=Path, default=Path(), help="where your files are (default: this folder)")
    add_argument("--watch", action="store_true", help="check: again whenever the file is saved")
    add_argument("--write", action="store_true", help="solution: put it into your file")
    add_argument("--notebook", action="store_true", help="start: write notebooks instead of .py files")
    add_argument("--limit", type=float, default=10.0, metavar="SECONDS", help="check: for each stage (default: 10)")
    add_argument("--images", type=int, metavar="N", help="run: how many images to learn from")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """One command. 0, or 1 where a check or a run did not come to a good end."""
    if options.name is None and options.action not in ("list", "start"):
        raise InputError(
            f"course {options.action}", "a name is missing.", "the name of a step, a function, a file or a network.",
            "none.", "`python -m minicnn course list` shows the steps.",
        )  # fmt: skip
    if not options.folder.is_dir():
        raise InputError("--folder", "there is no such folder.", "a folder.", f"{options.folder}.", "make it first.")
    try:
        return {"list": _list, "start": _start, "check": _check, "hint": _hint, "solution": _solution, "run": _run}[
            options.action
        ](options)
    except KeyboardInterrupt:
        print("\nStopped.")
        return 1


def _list(options: argparse.Namespace) -> int:
    from minicnn.course import checking
    from minicnn.course.milestones import MILESTONES
    from minicnn.course.table import STEPS

    states = checking.step_states(options.folder, options.limit)
    width = max(len(name) for name in (*states, *MILESTONES))
    for step in STEPS:
        print(f"{step.name:{width}}  {states[step.name]:13}  {step.minutes:2} min  {step.title}")
    print("\nThen train a network with your own functions: python -m minicnn course run NAME")
    for name, milestone in MILESTONES.items():
        print(f"{name:{width}}  {milestone.title}")
    left = [step for step in STEPS if states[step.name] != "passed"]
    if left:
        begun = states[left[0].name] != "to do"
        print(f"\nNext: python -m minicnn course {_next_command(left[0], options.folder) if begun else 'start'}")
    return 0


def _next_command(step: Any, folder: Path) -> str:
    """Check the first file of the step whose function is not passed. (Which has passed is not asked again here.)"""
    from minicnn.course import checking, files

    there = files.look(folder)
    own = [there[part.function] for part in step.parts if part.function in there]
    waiting = [one for one in own if not one.written] or own
    return f"check {checking.quoted(str(waiting[0].path))}"


def _start(options: argparse.Namespace) -> int:
    from minicnn.course import checking, cut, files, grade
    from minicnn.course.table import STEPS

    if options.name is None:
        there = files.look(options.folder)
        left = [s for s in STEPS if any(p.function not in there or not there[p.function].written for p in s.parts)]
        if not left:
            print("All sixteen steps are written. `python -m minicnn course list` grades them.")
            return 0
        step = left[0]
    else:
        step, _ = files.named(options.name)
    number = STEPS.index(step) + 1
    print(f"Step {number} of {len(STEPS)}: {step.title} (about {step.minutes} minutes)\n\n{_filled(step.why)}")
    paths = []
    for part, (path, new) in zip(step.parts, files.begin(step, options.folder, options.notebook), strict=True):
        print(f"\n{visible(path)}{'' if new else ' (is there already, and stays as it is)'}")
        print(
            "\n".join(
                f"    {line}".rstrip() for line in [_sentence(cut.answer(part).docstring), "", *grade.worked_case(part)]
            )
        )
        paths.append(path)
    if options.notebook:
        print(f"\nOpen {paths[0].name} with Jupyter, write the function, and run its cells.")
        return 0
    first = checking.quoted(visible(paths[0]))
    print(f"\n1. Open {first} in an editor. It has a function without a body; what it shall do stands in it.")
    print("2. Write the body in place of the line that raises NotImplementedError, and save.")
    print(f"3. Grade it:  python -m minicnn course check {first}")
    print(f"   Stuck?     python -m minicnn course hint {step.parts[0].function}")
    return 0


def _sentence(docstring: str) -> str:
    """The first line of a docstring."""
    return docstring.strip().strip('"').split("\n")[0]


def _filled(text: str) -> str:
    import textwrap

    return textwrap.fill(text, 100)


def _check(options: argparse.Namespace) -> int:
    from minicnn.course import checking, files

    path = Path(options.name)
    if not path.exists() and path.suffix not in (".py", ".ipynb"):  # the name of a step or function
        _, parts = files.named(options.name)
        there = files.look(options.folder)
        paths = list(dict.fromkeys(there[p.function].path for p in parts if p.function in there))
        if not paths:
            raise InputError(
                "course check", f"no file here defines {parts[0].function}.", "the path of your file.",
                f"{options.name!r}.", f"python -m minicnn course start {options.name} writes it; "
                "--folder names another folder.",
            )  # fmt: skip
    else:
        paths = [path]
    if options.watch:
        return _watch(paths[0], options.limit)
    results = []
    for one in paths:
        results.append(checking.check_file(one, options.limit))
        if not results[-1]:
            break
    return 0 if all(results) else 1


def _watch(path: Path, limit: float) -> int:
    """Check whenever the file is saved, until it passes."""
    from minicnn.course import checking

    seen: Any = None
    while True:
        now = path.stat().st_mtime_ns if path.exists() else None
        if now != seen or seen is None:
            seen = now
            if checking.check_file(path, limit):
                return 0
            print(f"\nWaiting for {path.name} to be saved (Ctrl-C ends this) …\n", flush=True)
        time.sleep(0.3)


def _hint(options: argparse.Namespace) -> int:
    from minicnn.course import cut, files

    _, parts = files.named(options.name)
    grade = options.grade or 1
    for part in parts:
        if grade == 3:
            print(f"{part.function}, hint 3 of 3: the outline of a solution. Each … is yours to fill in.\n")
            print(f"{cut.skeleton(part)}\n")
        else:
            print(f"{part.function}, hint {grade} of 3:\n{_filled(part.hints[grade - 1])}\n")
    more = f"hint {options.name} {grade + 1}" if grade < 3 else f"solution {options.name}"
    print(f"More: python -m minicnn course {more}")
    return 0


def _solution(options: argparse.Namespace) -> int:
    from minicnn.course import checking, cut, files

    _, parts = files.named(options.name)
    for part in parts:
        where, _ = cut.place(f"{part.module}.{part.function}")
        if not options.write:
            print(f"{part.function}, as it stands in {where}:\n\n{cut.answer(part).whole}")
            continue
        path, old = files.put_answer(part, options.folder)
        kept = f"; what it was before is in {visible(old)}" if old else ""
        print(f"{visible(path)} now has the reference's body of {part.function}{kept}.")
        print(f"Read it, then: python -m minicnn course check {checking.quoted(visible(path))}")
    return 0


def _run(options: argparse.Namespace) -> int:
    from minicnn.course import milestones

    return milestones.run(options.name, options.folder, options.images)
