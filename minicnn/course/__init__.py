"""Learn by writing it: a course whose exercises are cut out of this framework's source, and graded.

    python -m minicnn course list          the steps, and how far you are
    python -m minicnn course start         write the next exercise into this folder
    python -m minicnn course check FILE    grade it

In a notebook: `from minicnn.course import check`, then `check(relu_forward)`. For teachers: docs/teaching.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["check"]


def check(function: Callable[..., Any]) -> None:
    """Grade a function of the course that was written in a notebook's cell, and print what was found."""
    from minicnn.course.checking import check_function

    check_function(function)
