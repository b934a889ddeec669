"""The learner's files: where they are, what is in them, and what may not be.

Nothing is kept beside them: which function stands in which file is read from the files each time. So they may be
renamed, moved, or put together in one.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from minicnn.course import cut
from minicnn.course.table import STEPS, Part, Step
from minicnn.errors import BrokenFileError, InputError, MissingFileError, unknown_name
from minicnn.files import atomic_write

PARTS: dict[str, Part] = {part.function: part for step in STEPS for part in step.parts}
NAMES: dict[str, Step] = {step.name: step for step in STEPS}
# What a learner's file may import besides what its exercise imports. Enough for arithmetic; nothing that leads to the
# answers, to other processes or out of the time limit.
ALLOWED = {"__future__", "collections", "dataclasses", "functools", "itertools", "math", "numpy", "operator", "typing"}
FORBIDDEN = {"__import__", "breakpoint", "compile", "delattr", "eval", "exec", "exit", "getattr", "globals", "input",
    "locals",
             "open", "quit", "setattr", "vars"}  # fmt: skip


@dataclass(frozen=True)
class Found:
    """A function of the course in a file. written: whether its TODO is gone."""

    part: Part
    path: Path
    line: int
    written: bool


class RefusedError(Exception):
    """The learner's file cannot be graded; the text says why."""


def file_name(step: Step, part: Part) -> str:
    """03_conv2d_forward.py, or 12b_conv2d_dx.py where a step has several parts."""
    letter = "abcdefgh"[step.parts.index(part)] if len(step.parts) > 1 else ""
    return f"{STEPS.index(step) + 1:02}{letter}_{part.function}.py"


def step_of(part: Part) -> Step:
    return next(step for step in STEPS if part in step.parts)


def named(name: str) -> tuple[Step, tuple[Part, ...]]:
    """The step and its parts for the name of a step, a function or a file; or for a step's number."""
    name = Path(name).stem if name.endswith((".py", ".ipynb")) else name
    if name.isdigit() and 1 <= int(name) <= len(STEPS):
        name = STEPS[int(name) - 1].name
    for part in PARTS.values():
        step = step_of(part)
        if name in (part.function, Path(file_name(step, part)).stem):
            return step, (part,)
    if name not in NAMES:
        raise unknown_name("step", name, [*NAMES, *PARTS])
    return NAMES[name], NAMES[name].parts


def read(path: Path) -> str:
    """The Python text of a file; of a notebook, its code cells without the ones that check.

    Raises MissingFileError, BrokenFileError, InputError where it is no such file.
    """
    if path.is_dir():
        raise InputError(path, "this is a folder.", "one file to check.", "a folder.",
                         "name a file in it; `course list` looks at all files of a folder.")  # fmt: skip
    if not path.exists():
        raise MissingFileError(path)
    if path.suffix not in (".py", ".ipynb"):
        raise InputError(path, "this is no Python file.", "a file that ends in .py (or .ipynb).", f"{path.name!r}.",
                         "name the file that `course start` wrote.")  # fmt: skip
    try:
        text = path.read_text(encoding="utf-8-sig")
        return _code_cells(text) if path.suffix == ".ipynb" else text
    except (UnicodeDecodeError, ValueError, KeyError, TypeError) as error:
        raise BrokenFileError(path, "it cannot be read.", "Python text in UTF-8, or a notebook.", f"{error}.",
                              "save it again as UTF-8.") from error  # fmt: skip


def _code_cells(text: str) -> str:
    cells = ["".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    wanted = [cell for cell in cells if "minicnn.course" not in cell]
    lines = "\n\n".join(wanted).splitlines()
    future = [line for line in lines if line.startswith("from __future__")]
    rest = ["" if line.lstrip().startswith(("%", "!")) or line in future else line for line in lines]
    return "\n".join([*dict.fromkeys(future), *rest]) + "\n"


def functions(path: Path) -> list[Found]:
    """The functions of the course in this file, in the course's order; none where it does not parse."""
    try:
        text = read(path)
        tree = ast.parse(text)
    except (InputError, SyntaxError, ValueError, OSError, RecursionError):
        return []
    found = []
    for name, part in PARTS.items():
        node = cut.function_in(tree, name)
        if node is not None:
            source = ast.get_source_segment(text, node) or ""
            found.append(Found(part, path, node.lineno, cut.todo(name) not in source))
    return found


def look(folder: Path) -> dict[str, Found]:
    """All functions of the course in the files of a folder, by name: the written one where there are two."""
    found: dict[str, Found] = {}
    for path in sorted([*folder.glob("*.py"), *folder.glob("*.ipynb")]):
        for one in functions(path):
            if one.part.function not in found or not found[one.part.function].written:
                found[one.part.function] = one
    return found


def write(path: Path, text: str) -> None:
    with atomic_write(path) as file:
        file.write(text.encode("utf-8"))


def begin(step: Step, folder: Path, as_notebook: bool = False) -> Iterator[tuple[Path, bool]]:
    """Write the step's files; yields (path, whether it is new). What is there already stays as it is."""
    number, there = STEPS.index(step) + 1, look(folder)
    for part in step.parts:
        path = folder / file_name(step, part)
        if as_notebook:
            path = path.with_suffix(".ipynb")
        if part.function in there:
            yield there[part.function].path, False
        elif path.exists():
            yield path, False
        else:
            if as_notebook:
                text = json.dumps(cut.notebook(step, part, number, len(STEPS)), indent=1, ensure_ascii=False) + "\n"
            else:
                text = cut.exercise(step, part, number, len(STEPS), path.name)
            write(path, text)
            yield path, True


def aside(path: Path) -> Path:
    """A free name beside the file, for what was in it."""
    n = 1
    while (beside := path.with_name(f"{path.name}.old{'' if n == 1 else n}")).exists():
        n += 1
    return beside


def put_answer(part: Part, folder: Path) -> tuple[Path, Path | None]:
    """The reference's body in the learner's file. Returns (the file, where its old text is kept or None)."""
    there = look(folder).get(part.function)
    path = there.path if there else folder / file_name(step_of(part), part)
    old = path.read_text(encoding="utf-8-sig") if path.exists() else None
    if path.suffix == ".ipynb":
        raise InputError(path, "it is a notebook.", "a .py file, for --write.", "a notebook.",
                         "leave --write out, and copy the answer into the cell.")  # fmt: skip
    step = step_of(part)
    text = cut.exercise(step, part, STEPS.index(step) + 1, len(STEPS), path.name)
    if there is not None and old is not None:
        text = old
    new = cut.with_answer(part, text)
    beside = None
    if old is not None and old != new:
        beside = aside(path)
        write(beside, old)
    write(path, new)
    return path, beside


# ---- what may stand in a file ----------------------------------------------------------------------------------------


def parse(text: str, path: Path) -> ast.Module:
    """The file as a tree. Raises RefusedError, with the line, where it is not Python or empty."""
    if not text.strip():
        raise RefusedError(f"{path.name} is empty. Write the exercise again with `course start`.")
    try:
        return ast.parse(text, filename=str(path))
    except SyntaxError as error:
        line = (error.text or "").rstrip("\n")
        marker = " " * max((error.offset or 1) - 1, 0) + "^"
        shown = f"\n\n    {line}\n    {marker}" if line.strip() else ""
        raise RefusedError(f"Line {error.lineno} is not Python: {error.msg}.{shown}") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise RefusedError(f"{path.name} cannot be read as Python: {error}.") from error


def helpers(part: Part) -> set[tuple[str | None, str]]:
    """(module, name) of what the exercise of this function imports."""
    statements = [node for line in cut.answer(part).imports for node in ast.parse(line).body]
    froms = [node for node in statements if isinstance(node, ast.ImportFrom)]
    return {(node.module, alias.name) for node in froms for alias in node.names}


def leading_to(part: Part) -> set[str]:
    """The functions of the reference that this one may not use: itself, what is made from it, and other exercises."""
    own = {name for _, name in helpers(part)}
    return (set(PARTS) | cut.users(part)) - own


def check_contents(tree: ast.Module) -> None:
    """Raises RefusedError where the file imports an answer, or what could lead to it.

    Allowed is what the exercises of all its functions import, at the top of the file. (That none of them uses what is
    another one's is seen when it is graded.)
    """
    defined = [part for name, part in PARTS.items() if cut.function_in(tree, name) is not None]
    known = {pair for part in defined for pair in helpers(part)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                _check_module(alias.name, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (node.module, alias.name) not in known or node.level or node not in tree.body:
                    _check_module("." * node.level + (node.module or ""), node.lineno, alias.name)
        elif isinstance(node, ast.Name) and node.id in FORBIDDEN:
            raise RefusedError(f"Line {node.lineno} uses {node.id}: an exercise needs arithmetic only.")
        elif isinstance(node, ast.Attribute) and node.attr.startswith("__"):
            raise RefusedError(f"Line {node.lineno} uses {node.attr}: an exercise needs arithmetic only.")
        elif isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load) and _is_numpy(node.value):
            raise RefusedError(f"Line {node.lineno} changes {ast.unparse(node)}: NumPy must stay as it is.")


def _is_numpy(node: ast.expr) -> bool:
    """Whether this is np, numpy, or a part of it (np.linalg)."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return isinstance(node, ast.Name) and node.id in ("np", "numpy")


def _check_module(module: str, line: int, name: str = "") -> None:
    what = f"{name} from {module}" if name else module
    if module.split(".")[0] == "minicnn":
        raise RefusedError(
            f"Line {line} imports {what}: that is the answer, or leads to it. Of minicnn, an exercise may use only "
            "what its own first lines import."
        )
    if module.split(".")[0] not in ALLOWED:
        raise RefusedError(
            f"Line {line} imports {what}: an exercise may import NumPy and {', '.join(sorted(ALLOWED - {'numpy'}))}."
        )
