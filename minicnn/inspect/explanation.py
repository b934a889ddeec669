"""What an explanation is made of, how it is put together step by step, and how it is shown.

Term: one product. Products: many of them, in columns. Step: their sum, or a formula with the numbers filled in.
Explanation: the steps that lead to one number. Case: a question while the rules (rules.py, update_rules.py) answer it.
"""

from __future__ import annotations

import html
import math
import re
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from minicnn.errors import InputError, visible
from minicnn.inspect.record import LayerTrace

if TYPE_CHECKING:
    from minicnn.inspect.trace import Trace

Index = tuple[int, ...]

MAX_TERMS = 16  # a longer sum is shown by its largest terms, of which there are
LARGEST = 12
NOWHERE = np.zeros((1, 0), int)  # the index of a plain number


@dataclass(frozen=True)
class Term:
    """One product: the number `source`[index] = value times its partner, `partner`[partner_index] = factor.

    partner is "" where a number enters the sum as it is.
    """

    source: str
    index: Index
    value: float
    partner: str
    partner_index: Index
    factor: float

    @property
    def product(self) -> float:
        return self.value * self.factor


@dataclass(frozen=True, eq=False)
class Products:
    """Terms of one kind, in columns, since a sum may have a million of them.

    value, factor: (n,). index, partner_index: (n, axes), or the shape of an array of which each element is one term.
    """

    source: str
    index: Any
    value: np.ndarray
    partner: str
    partner_index: Any
    factor: np.ndarray

    def __len__(self) -> int:
        return len(self.value)

    @property
    def product(self) -> np.ndarray:
        return self.value * self.factor

    def term(self, i: int) -> Term:
        at, partner_at = _place(self.index, i), _place(self.partner_index, i)
        return Term(self.source, at, float(self.value[i]), self.partner, partner_at, float(self.factor[i]))


@dataclass(frozen=True, eq=False)
class Step:
    """One number on the way. products: what it is the sum of; or, without any, `worked`: the formula in numbers."""

    name: str
    formula: str
    value: float
    products: tuple[Products, ...] = ()
    worked: str = ""

    @property
    def terms(self) -> list[Term]:
        return [part.term(i) for part in self.products for i in range(len(part))]

    @property
    def size(self) -> float:
        """The sum of the products' sizes: what rounding is measured by."""
        return float(sum(np.abs(part.product).sum() for part in self.products)) or abs(self.value)


@dataclass(frozen=True, eq=False)
class Explanation:
    """Why a number is what it is. print(e) shows the sum, e.terms has all of it.

    title: the number's name. formula: the general rule. steps: in order, the last one gives the number.
    recorded: the number in the trace, of this dtype. scale: the size of what was added up on the way, which rounding is
    measured by. note: what is particular here, in sentences, one a line.
    """

    title: str
    formula: str
    steps: list[Step]
    recorded: float
    scale: float
    dtype: str
    note: str = ""

    @property
    def terms(self) -> list[Term]:
        """All terms of all steps, in order."""
        return [term for step in self.steps for term in step.terms]

    @property
    def total(self) -> float:
        """The number as computed here, in float64."""
        return self.steps[-1].value

    @property
    def difference(self) -> float:
        return self.total - self.recorded

    @property
    def allowed(self) -> float:
        """What rounding can explain: the dtype's epsilon times the scale, growing with the root of the sums' length."""
        info = np.finfo(self.dtype)
        length = sum(len(part) for step in self.steps for part in step.products)
        return float(info.eps) * (4 + math.sqrt(length)) * self.scale + float(info.tiny)

    @property
    def ok(self) -> bool:
        """Whether the difference is rounding. Two NaN, or two equal infinities, agree."""
        if math.isfinite(self.total) and math.isfinite(self.recorded):
            return abs(self.difference) <= self.allowed
        return self.total == self.recorded or (math.isnan(self.total) and math.isnan(self.recorded))

    @property
    def verdict(self) -> str:
        if self.total == self.recorded:
            return "exactly equal"
        if self.ok:
            return f"rounding of {self.dtype} (up to {self.allowed:.1e})"
        return f"NOT rounding, which allows {self.allowed:.1e}: the trace or the kernel is wrong"

    def __str__(self) -> str:
        lines = [f"{self.title} = {number(self.recorded)}", f"  {self.formula}"]
        for step in self.steps:
            lines += ["", *_step_lines(step)]
        lines += [
            "",
            f"  computed here in float64  {self.total:+.9g}",
            f"  recorded ({self.dtype})".ljust(28) + f"{self.recorded:+.9g}",
            f"  difference                {self.difference:+.1e}  {self.verdict}",
        ]
        for note in self.note.splitlines():
            lines += ["", *textwrap.wrap(note, 100, initial_indent="  ", subsequent_indent="  ")]
        return visible("\n".join(lines))

    def _repr_html_(self) -> str:
        cell = 'style="padding:1px 10px;text-align:{};border:0;white-space:nowrap"'
        right, left = cell.format("right"), cell.format("left")
        rows = []
        for step in self.steps:
            head = f"<b>{_safe(step.name)}</b> = {_safe(step.formula)}"
            rows.append(f'<tr><td colspan="7" style="padding:10px 10px 2px;text-align:left;border:0">{head}</td></tr>')
            if not step.products:
                worked = f"<td colspan=\"6\" {left}>{_safe(step.worked)}</td>"
                rows.append(f"<tr>{worked}<td {right}>{number(step.value)}</td></tr>")
                continue
            for row in rows_of(step):
                cells = (f"<td {right if k in (1, 4, 6) else left}>{_safe(text)}</td>" for k, text in enumerate(row))
                rows.append(f"<tr>{''.join(cells)}</tr>")
            if sum(map(len, step.products)) != 1:
                rows.append(
                    f'<tr style="border-top:1px solid currentColor"><td colspan="6" {left}>sum</td>'
                    f"<td {right}><b>{number(step.value)}</b></td></tr>"
                )
        colour, mark = ("#1f7a3d", "✓") if self.ok else ("#c62f22", "✗")
        end = (
            f"computed here in float64 {self.total:+.9g}, recorded {self.recorded:+.9g}, "
            f"difference {self.difference:+.1e}"
        )
        note = "".join(f'<p style="margin:6px 0">{_safe(line)}</p>' for line in self.note.splitlines())
        return (
            '<div style="font-family:sans-serif;font-size:13px;color:inherit;overflow-x:auto">'
            f'<p style="margin:0"><b>{_safe(self.title)} = {number(self.recorded)}</b></p>'
            f'<p style="margin:0;opacity:.75">{_safe(self.formula)}</p>'
            '<table style="border-collapse:collapse;font-family:monospace;color:inherit;background:none">'
            f'{"".join(rows)}</table><p style="margin:8px 0 0">{end}: '
            f'<b style="background:{colour};color:#fff;padding:0 6px">{mark} {_safe(self.verdict)}</b></p>{note}</div>'
        )


# ---- a layer that is used more than once -----------------------------------------------------------------------------


def base_key(layer: LayerTrace) -> str:
    """The layer's name in the model: that of "dense_1 (2)", its second use, is dense_1."""
    return re.sub(r" \(\d+\)$", "", layer.key)


def uses(t: Trace, layer: LayerTrace) -> list[LayerTrace]:
    """The records of the layer's uses, which share its parameters: their gradients are added up."""
    return [other for other in t.layers if base_key(other) == base_key(layer) and other.config == layer.config]


# ---- one question ----------------------------------------------------------------------------------------------------


class Case:
    """One question while it is being answered: a rule adds steps, a formula, notes, and the scale of what it added."""

    def __init__(self, t: Trace, layer: LayerTrace, what: str, index: Index):
        self.t, self.layer, self.what, self.index = t, layer, what, index
        self.config = layer.config
        self.steps: list[Step] = []
        self.formula, self.notes, self.scale = "", [], 0.0  # type: str, list[str], float

    @property
    def is_last(self) -> bool:
        return self.layer is self.t.layers[-1]

    @property
    def dy(self) -> np.ndarray:
        """The gradient with respect to the layer's output."""
        assert self.layer.dy is not None  # what needs it is offered only where there is a backward pass
        return self.layer.dy

    def sum(self, name: str, formula: str, *products: Products) -> float:
        """A step that is a sum of products."""
        value = float(sum(part.product.sum() for part in products))
        self.steps.append(Step(name, formula, value, products))
        return value

    def value(self, name: str, formula: str, value: float, worked: str) -> float:
        """A step that is not."""
        self.steps.append(Step(name, formula, value, worked=worked))
        return value

    def note(self, text: str) -> None:
        self.notes.append(text)

    def refuse(self, problem: str, received: str) -> InputError:
        return InputError(
            f"{self.layer.key}.{self.what}", problem, "what minicnn itself knows the formula of.", received,
            "look at the arrays of the trace instead: t[layer].x, .y, .dy, .dx, .kept.",
        )  # fmt: skip


def products(
    source: str, array: np.ndarray, index: np.ndarray, partner: str, other: Any, partner_index: Any = None
) -> Products:
    """array[index] times other[partner_index]; without partner_index, other is the factor itself, of all or of each."""
    value = array[tuple(index.T)].astype(np.float64)
    if partner_index is None:
        factor = np.broadcast_to(np.asarray(other, np.float64), value.shape)
        return Products(source, index, value, partner, NOWHERE, factor)
    return Products(source, index, value, partner, partner_index, other[tuple(partner_index.T)].astype(np.float64))


def one(source: str, index: Index, value: float, partner: str = "", factor: float = 1.0, at: Index = ()) -> Products:
    """A single term."""
    return Products(source, np.array([index], int), np.array([float(value)]), partner, np.array([at], int),
                    np.array([float(factor)]))  # fmt: skip


def grid(*axes: Any) -> np.ndarray:
    """All combinations, (n, axes)."""
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes)).astype(int)


# ---- text ------------------------------------------------------------------------------------------------------------


def _place(index: Any, i: int) -> Index:
    """The i-th index of a column of indices, or of all places of a shape."""
    if isinstance(index, tuple):
        return tuple(int(n) for n in np.unravel_index(i, index))
    return tuple(int(n) for n in index[i if len(index) > 1 else 0])


def index_text(index: Any) -> str:
    return f"({', '.join(map(str, index))}{',' if len(index) == 1 else ''})"


def place_text(name: str, index: Index) -> str:
    return f"{name}[{', '.join(map(str, index))}]" if index else name


def number(value: float) -> str:
    return f"{value + 0.0:+.6g}"  # -0.0 + 0.0 is 0.0


def bare(value: float) -> str:
    """A number inside a formula: a sign only where it is negative, and then in brackets."""
    return f"{value + 0.0:.6g}" if value >= 0 else f"({value:.6g})"


def _safe(text: str) -> str:
    return html.escape(text)


def rows_of(step: Step) -> list[tuple[str, ...]]:
    """The terms of a step as cells: source, value, ×, partner, value, =, product; the rest of a long sum in one row."""
    products = np.concatenate([part.product for part in step.products])
    starts = np.cumsum([0, *(len(part) for part in step.products)])
    chosen = np.arange(len(products))
    rows: list[tuple[str, ...]] = []
    if len(products) > MAX_TERMS:
        chosen = np.argsort(-np.abs(products), kind="stable")[:LARGEST]
    for i in chosen:
        k = int(np.searchsorted(starts, i, side="right")) - 1
        term = step.products[k].term(int(i - starts[k]))
        partner = ("", "", "")
        if term.partner:
            partner = ("×", place_text(term.partner, term.partner_index), number(term.factor))
        rows.append((place_text(term.source, term.index), number(term.value), *partner, "=", number(term.product)))
    if len(chosen) < len(products):
        others = float(np.delete(products, chosen).sum())
        rest = len(products) - len(chosen)
        rows.append((f"and {rest} smaller {'term' if rest == 1 else 'terms'}", "", "", "", "", "=", number(others)))
    return rows


def _step_lines(step: Step) -> list[str]:
    """A step as lines of text, in columns."""
    head = f"  {step.name} = {step.formula}"
    if not step.products:
        return [head, f"      {step.worked} = {number(step.value)}"]
    count = sum(len(part) for part in step.products)
    rows = rows_of(step)
    if not rows:
        return [f"{head}: there are no terms", "      sum = +0"]
    if count > 1:
        rows.append(("sum", "", "", "", "", "=", number(step.value)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    right = (1, 4, 6)
    lines = [
        "  ".join(row[k].rjust(w) if k in right else row[k].ljust(w) for k, w in enumerate(widths) if w)
        for row in rows
    ]
    if count > MAX_TERMS:
        head += f"  ({count} terms, the largest first)"
    return [head, *(f"      {line}" for line in lines)]
