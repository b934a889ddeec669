"""Rebuild what stands in the repository for a first look: the notebook with its outputs, and three pages of a step.

    python docs/stored.py [--output DIR]        without --output: in their places

The tests build both anew and compare.
"""

from __future__ import annotations

import argparse
import ast
import base64
import contextlib
import io
import json
import re
from pathlib import Path
from typing import Any

from PIL import Image

import minicnn
from minicnn.datasets import toy
from minicnn.layers import BatchNormalization, Conv2D, Dense, Dropout, Flatten, Input, MaxPooling2D, ReLU

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "examples" / "inside_a_cnn.ipynb"
PAGES = ROOT / "docs" / "pages"


# ---- three pages ---------------------------------------------------------------------------------------------------


def pages() -> dict[str, minicnn.inspect.trace.Trace]:
    """Three steps, by the name of their page, on drawings of 14×14 pixels: small files."""
    (x, y), _ = toy.load_data(n_train=1000, n_test=0)
    x = x.reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4))[..., None]  # the mean of each 2×2 pixels
    result = {}
    for name, scale, rule in (
        ("cnn", 255, minicnn.optimizers.Adam(0.005)),
        ("batch_norm", 255, minicnn.optimizers.Adam(0.005)),
        ("broken", 1, minicnn.optimizers.SGD(0.1)),  # pixels of 0 to 255 and large steps: the ReLUs die
    ):
        minicnn.utils.set_random_seed(0)
        model = minicnn.Sequential([Input((14, 14, 1)), *_layers(name)], name=name)
        model.class_names = list(toy.CLASS_NAMES)
        model.compile(rule, "sparse_categorical_crossentropy", metrics=["accuracy"])
        model.fit(x / scale, y, epochs=4, verbose=0)
        result[name] = model.trace(x[:8] / scale, y[:8])
    return result


def _layers(name: str) -> list[minicnn.layers.Layer]:
    if name == "batch_norm":
        first = [Conv2D(4, 3, padding="same", use_bias=False), BatchNormalization(), ReLU(), MaxPooling2D(2)]
    else:
        first = [Conv2D(4, 3, padding="same", activation="relu"), MaxPooling2D(2)]
    second = [Conv2D(8, 3, padding="same", activation="relu"), MaxPooling2D(2)]
    return [*first, *second, Flatten(), Dropout(0.25), Dense(10, activation="softmax")]


# ---- the notebook --------------------------------------------------------------------------------------------------


def executed(namespace: dict[str, Any]) -> dict[str, Any]:
    """The notebook with the outputs of its cells, run in this namespace from top to bottom.

    On one thread: two add in another order, and after some training a ReLU may be at 0 that was not.
    """
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    count = 0
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            count += 1
            minicnn.set_num_threads(1)
            printed, value = execute("".join(cell["source"]), namespace)
            minicnn.set_num_threads(None)
            cell["execution_count"], cell["outputs"] = count, []
            if printed:
                cell["outputs"].append({"name": "stdout", "output_type": "stream", "text": _lines(printed)})
            if value is not None:
                cell["outputs"].append({
                    "data": shown(value), "execution_count": count, "metadata": {}, "output_type": "execute_result",
                })  # fmt: skip
    return notebook


def execute(source: str, namespace: dict[str, Any]) -> tuple[str, Any]:
    """Run a cell's Python, without the notebook's own commands: what it prints, and the value of its last line."""
    code = "".join("\n" if line.startswith("%") else line for line in source.splitlines(keepends=True))
    tree = ast.parse(code)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed, value = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, "cell", "exec"), namespace)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), "cell", "eval"), namespace)
    return printed.getvalue(), value


def shown(value: Any) -> dict[str, Any]:
    """What Jupyter shows of a value. Of a page in a frame the text alone: it would be the whole page."""
    if type(value).__name__ == "Figure":
        file = io.BytesIO()
        value.savefig(file, format="png", dpi=75)
        with Image.open(file) as image:
            small = image.convert("RGB").quantize(64, dither=Image.Dither.NONE)
        file = io.BytesIO()
        small.save(file, format="png", optimize=True)
        width, height = (int(n) for n in value.get_size_inches() * 75)
        return {"image/png": base64.b64encode(file.getvalue()).decode(), "text/plain": [f"<Figure {width}×{height}>"]}
    data: dict[str, Any] = {"text/plain": _lines(re.sub(" object at 0x[0-9a-f]+", "", repr(value)))}
    if hasattr(value, "_repr_html_") and type(value).__name__ != "Frame":
        data = {"text/html": _lines(value._repr_html_()), **data}
    return data


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Rebuild the stored notebook and pages.")
    parser.add_argument("--output", type=Path, help="write notebook and pages there instead")
    output = parser.parse_args().output
    notebook = NOTEBOOK if output is None else output / NOTEBOOK.name
    folder = PAGES if output is None else output
    folder.mkdir(parents=True, exist_ok=True)
    notebook.write_text(json.dumps(executed({}), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for name, trace in pages().items():
        trace.to_html(folder / f"{name}.html")


if __name__ == "__main__":
    main()
