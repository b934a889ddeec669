"""The benchmarks' pictures: small, and without any window."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

OURS, PEERS, GOAL, GREY = "#1565c0", ("#ef8e3b", "#8d6e63", "#b0b0b0"), "#c62828", "#777777"


def figure(width: float, height: float, columns: int = 1, rows: int = 1) -> tuple[Figure, Any]:
    """A new figure of so many inches, and its axes, without the lines above and to the right."""
    canvas = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(canvas)
    axes = canvas.subplots(rows, columns, squeeze=False)
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=8)
    return canvas, axes[0, 0] if rows == columns == 1 else axes.ravel()


def save(canvas: Figure, record: str | Path) -> None:
    """Beside the record, under its name."""
    path = Path(record).with_suffix(".png")
    canvas.savefig(path, dpi=100)
    print(f"picture in {os.path.relpath(path)}")


def label(ax: Axes, title: str, x: str, y: str = "") -> None:
    ax.set_title(title, fontsize=10, loc="left")
    ax.set_xlabel(x, fontsize=9)
    ax.set_ylabel(y, fontsize=9)
