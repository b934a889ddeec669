"""Exercises are cut out of the installed source, and so are their answers: there is no second copy of anything.

What stays of a function is its signature and its docstring; its body becomes one TODO. The imports that it needs, and
the helpers of its own module that it calls, are found by looking at which names it uses.
"""

from __future__ import annotations
import __future__

import ast
import builtins
import difflib
import importlib
import inspect
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from minicnn.course.table import Part, Slip, Step

MARK = "TODO"


def todo(function: str) -> str:
    """What an unwritten function says when it is called."""
    return f"{MARK}: write {function} here, in place of this line."


@dataclass(frozen=True)
class Cut:
    """A function in its parts. All are text, with the indentation of the source.

    imports: the statements that the function needs. helpers: (name, what it does) of those from its own module.
    """

    signature: str
    docstring: str
    body: str
    imports: tuple[str, ...]
    helpers: tuple[tuple[str, str], ...]

    @property
    def whole(self) -> str:
        return self.signature + self.docstring + self.body


@cache
def _module(name: str) -> tuple[Any, str, ast.Module]:
    module = importlib.import_module(name)
    source = inspect.getsource(module)
    return module, source, ast.parse(source)


def function_in(tree: ast.Module, name: str) -> ast.FunctionDef | None:
    """The function of this name at the top of the file; the last one, where there are several."""
    found = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    return found[-1] if found else None


@cache
def cut(module: str, function: str) -> Cut:
    """The function of this module, in its parts. Raises LookupError where there is none."""
    _, source, tree = _module(module)
    node = function_in(tree, function)
    if node is None:
        raise LookupError(f"there is no function {function} in {module}: mend minicnn/course/table.py")
    lines = source.splitlines(keepends=True)
    has_docstring = ast.get_docstring(node, clean=False) is not None
    first = node.body[1] if has_docstring else node.body[0]
    begin = node.body[0].lineno - 1
    after = (node.body[0].end_lineno or begin) if has_docstring else begin
    body_start = after if has_docstring else first.lineno - 1
    imports, helpers = _needs(module, node)
    return Cut(
        "".join(lines[node.lineno - 1 : begin]),
        "".join(lines[begin:after]),
        "".join(lines[body_start : node.end_lineno]),
        imports,
        helpers,
    )


def answer(part: Part) -> Cut:
    return cut(part.module, part.function)


def _needs(module_name: str, node: ast.FunctionDef) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    module, _, tree = _module(module_name)
    used = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)} - set(dir(builtins))
    imports, own = ["from __future__ import annotations"], []
    for statement in tree.body:
        if isinstance(statement, (ast.Import, ast.ImportFrom)):
            names = [a for a in statement.names if (a.asname or a.name) in used]
            if names and getattr(statement, "module", "") != "__future__":
                kept = ast.Import(names) if isinstance(statement, ast.Import) else ast.ImportFrom(
                    statement.module, names, statement.level
                )  # fmt: skip
                imports.append(ast.unparse(kept))
        else:
            targets = getattr(statement, "targets", [getattr(statement, "target", None)])
            defined = [getattr(statement, "name", None), *(getattr(t, "id", None) for t in targets)]
            own += [name for name in defined if name in used and name != node.name]
    if own:
        imports.append(f"from {module_name} import {', '.join(sorted(own))}")
    described = [(name, _described(name, getattr(module, name))) for name in sorted(own)]
    return tuple(imports), tuple((name, text) for name, text in described if text)


@cache
def users(part: Part) -> frozenset[str]:
    """The functions of its module that call this one, or one that does: with any of them, it would be easy."""
    _, _, tree = _module(part.module)
    calls = {node.name: {n.id for n in ast.walk(node) if isinstance(n, ast.Name)} for node in tree.body
             if isinstance(node, ast.FunctionDef)}  # fmt: skip
    found, before = {part.function}, set[str]()
    while found != before:
        before = set(found)
        found |= {name for name, used in calls.items() if used & found}
    return frozenset(found)


def _described(name: str, thing: Any) -> str:
    """A helper's signature without annotations, and the first sentence of its docstring; "" for what is no function."""
    if not inspect.isfunction(thing):
        return ""
    parameters = [p.replace(annotation=p.empty) for p in inspect.signature(thing).parameters.values()]
    plain = inspect.Signature(parameters)
    sentence = (inspect.getdoc(thing) or "").split("\n\n")[0].replace("\n", " ")
    return f"{name}{plain}: {sentence}"


# ---- the learner's file ----------------------------------------------------------------------------------------------


def exercise(step: Step, part: Part, number: int, total: int, file: str) -> str:
    """The text of the learner's file."""
    return f'"""{_header(step, number, total)}\n\n{_task(part, file)}\n"""\n\n{_code(part)}'


def _header(step: Step, number: int, total: int) -> str:
    return f"Step {number} of {total}: {step.title}.\n\n{textwrap.fill(step.why, 116)}"


def _task(part: Part, file: str) -> str:
    quoted = f'"{file}"' if " " in file else file
    return (
        f"Write the body of {part.function} below, in place of the line that raises NotImplementedError. Then:\n\n"
        f"    python -m minicnn course check {quoted}"
    )


def _code(part: Part) -> str:
    piece = answer(part)
    helpers = [line for _, text in piece.helpers for line in _comment(text)]
    known = ["# Already written for you:", *helpers, ""] if helpers else []
    # The future import first, then a blank line, as formatters have it.
    head = [piece.imports[0], "", *piece.imports[1:], "", *known, ""] if len(piece.imports) > 1 else [
        piece.imports[0], "", *known, ""
    ]  # fmt: skip
    return "\n".join(head) + f"\n{piece.signature}{piece.docstring}{stub(part.function)}"


def stub(function: str) -> str:
    return f'    raise NotImplementedError("{todo(function)}")\n'


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, 116, initial_indent="#   ", subsequent_indent="#       ")


def notebook(step: Step, part: Part, number: int, total: int) -> dict[str, Any]:
    """The same as a notebook, in the nbformat 4 form: text, the function, the check."""
    text = (
        f"# {step.title}\n\n{_header(step, number, total)}\n\nWrite the body of `{part.function}`, and run both cells."
    )
    check = f"from minicnn.course import check\n\ncheck({part.function})"

    def cell(kind: str, source: str, identity: str) -> dict[str, Any]:
        code: dict[str, Any] = {"execution_count": None, "outputs": []} if kind == "code" else {}
        return {"cell_type": kind, "id": identity, "metadata": {}, "source": source.splitlines(keepends=True), **code}

    return {
        "cells": [cell("markdown", text, "task"), cell("code", _code(part).rstrip(), "function"),
                  cell("code", check, "check")],
        "metadata": {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
                     "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }  # fmt: skip


def with_answer(part: Part, text: str) -> str:
    """The learner's text with the reference's body in the place of the learner's, and the imports that it needs."""
    tree, piece = ast.parse(text), answer(part)
    node = function_in(tree, part.function)
    lines = text.splitlines(keepends=True)
    if node is None:
        return text.rstrip("\n") + f"\n\n\n{piece.whole}"
    first = node.body[1] if ast.get_docstring(node) is not None and len(node.body) > 1 else node.body[0]
    begin = (node.body[0].end_lineno or 0) if ast.get_docstring(node) is not None else first.lineno - 1
    changed = "".join(lines[:begin]) + piece.body + "".join(lines[node.end_lineno :])
    present = set(changed.splitlines())
    missing = [line for line in piece.imports if line not in present]
    return _after_docstring(changed, missing) if missing else changed


def _after_docstring(text: str, imports: list[str]) -> str:
    tree, lines = ast.parse(text), text.splitlines(keepends=True)
    at = 0
    for node in tree.body:
        opening = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if not (opening or isinstance(node, ast.ImportFrom) and node.module == "__future__"):
            break
        at = node.end_lineno or at
    future = [line for line in imports if "__future__" in line]
    return "".join(
        [*lines[:at], *(f"{line}\n" for line in [*future, *(i for i in imports if i not in future)]), *lines[at:]]
    )


# ---- after success, and before ---------------------------------------------------------------------------------------


def difference(part: Part, mine: str) -> str:
    """What the reference does in another way than the learner's body, as a diff; "" where they are equal."""
    node = function_in(ast.parse(mine), part.function)
    if node is None:
        return ""
    lines = mine.splitlines()
    start = (node.body[0].end_lineno or 0) if ast.get_docstring(node) is not None else node.body[0].lineno - 1
    yours = textwrap.dedent("\n".join(lines[start : node.end_lineno])).strip("\n").splitlines()
    reference = textwrap.dedent(answer(part).body).strip("\n").splitlines()
    changes = difflib.unified_diff(yours, reference, "yours", "the reference", n=99, lineterm="")
    return "\n".join(line for line in changes if not line.startswith("@@"))


def place(path: str) -> tuple[str, str]:
    """(where, source) of the function that is known by this path: "minicnn/kernels/pool.py, line 20"."""
    from minicnn.course.plug import find

    function = find(path)
    lines, first = inspect.getsourcelines(function)
    return f"{function.__module__.replace('.', '/')}.py, line {first}", textwrap.dedent("".join(lines))


def skeleton(part: Part) -> str:
    """The reference's body with the right-hand sides left out: the third hint."""
    body = ast.parse(answer(part).whole).body[0]
    assert isinstance(body, ast.FunctionDef)
    statements = body.body[1:] if ast.get_docstring(body) is not None else body.body
    return "\n".join(_bare(statements, "    "))


def _target(node: ast.expr) -> str:
    """Without the brackets round several."""
    return ", ".join(map(ast.unparse, node.elts)) if isinstance(node, ast.Tuple) else ast.unparse(node)


def _bare(statements: list[Any], indent: str) -> Iterator[str]:
    for node in statements:
        if isinstance(node, ast.Assign):
            yield f"{indent}{' = '.join(map(_target, node.targets))} = …"
        elif isinstance(node, (ast.AugAssign, ast.AnnAssign)):
            sign = "+=" if isinstance(node, ast.AugAssign) else "="
            yield f"{indent}{ast.unparse(node.target)} {sign} …"
        elif isinstance(node, ast.Return):
            yield f"{indent}return …"
        elif isinstance(node, ast.For):
            yield f"{indent}for {_target(node.target)} in {ast.unparse(node.iter)}:"
            yield from _bare(node.body, indent + "    ")
        elif isinstance(node, (ast.While, ast.If)):
            yield f"{indent}{'while' if isinstance(node, ast.While) else 'if'} …:"
            yield from _bare(node.body, indent + "    ")
            if node.orelse:
                yield f"{indent}else:"
                yield from _bare(node.orelse, indent + "    ")
        else:
            yield f"{indent}…"


# ---- slips -----------------------------------------------------------------------------------------------------------


def with_slip(part: Part, slip: Slip) -> str | None:
    """The source of the function with this bug in it; None where the source has no such text any more."""
    piece = answer(part)
    if slip.old not in piece.body:
        return None
    return piece.signature + piece.docstring + piece.body.replace(slip.old, slip.new, 1)


def compiled(part: Part, source: str) -> Callable[..., Any]:
    """A function from its source, among the names of its module."""
    module, _, _ = _module(part.module)
    names = dict(vars(module))
    flags = __future__.annotations.compiler_flag  # types in signatures are not looked at
    exec(compile(source, f"<{part.function} with a slip>", "exec", dont_inherit=True, flags=flags), names)
    return names[part.function]
