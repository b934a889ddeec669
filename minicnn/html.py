"""The pieces of what notebooks show of a model, history, trace, profile and gradient check.

Notebooks call `_repr_html_` of a cell's last value. All of it is static HTML with inline styles: no script, no style
sheet, nothing loaded. Text takes its colour from the notebook and has no background, so that it can be read in light
and dark themes; where a colour carries meaning, the foreground is set with the background, and a word or a mark says
the same. Names come from the user and are escaped. The same object gives the same HTML.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

LINE, MARK = "#3b82d6", "#d9483b"  # can be told from white and from black
GOOD, BAD, UNSURE = "#1f7a3d", "#c62f22", "#8a5a00"  # under white letters


def page(*parts: str) -> str:
    style = "font-family:sans-serif;font-size:13px;color:inherit;background:none;overflow-x:auto"
    return f'<div style="{style}">{"".join(parts)}</div>'


def title(text: str) -> str:
    return f'<div style="font-weight:bold;padding:2px 0">{escape(text)}</div>'


def line(text: str) -> str:
    return f'<div style="padding:2px 0">{escape(text)}</div>'


def table(
    head: Sequence[str], rows: Sequence[Sequence[str]], left: int, total: bool = False, escaped: bool = False
) -> str:
    """left: how many columns are words. total: the last row is a sum. escaped: the rows are HTML already."""

    def table_row(cells: Sequence[str], tag: str, border: str) -> str:
        sides = ("left" if i < left else "right" for i in range(len(cells)))
        styles = (f"padding:2px 10px;text-align:{side};white-space:nowrap;border:0;{border}" for side in sides)
        made = (f'<{tag} style="{style}">{cell}</{tag}>' for style, cell in zip(styles, cells, strict=True))
        return f"<tr>{''.join(made)}</tr>"

    body = [[cell if escaped else escape(cell) for cell in row] for row in rows]
    last = len(body) - 1 if total else None
    borders = ["border-top:1px solid currentColor" if i == last else "" for i in range(len(body))]
    lines = [table_row(row, "td", border) for row, border in zip(body, borders, strict=True)]
    first = table_row([escape(cell) for cell in head], "th", "border-bottom:1px solid currentColor")
    return (
        '<table style="border-collapse:collapse;font-size:13px;color:inherit;background:none;margin:6px 0">'
        f"<thead>{first}</thead><tbody>{''.join(lines)}</tbody></table>"
    )


def badge(mark: str, text: str, colour: str) -> str:
    return f'<b style="background:{colour};color:#fff;padding:0 6px">{mark} {escape(text)}</b>'


def shape(sizes: Sequence[int] | None) -> str:
    return "×".join(map(str, sizes)) if sizes else "one number"


def number(value: Any) -> str:
    return f"{float(value):.4g}"
