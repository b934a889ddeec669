"""Are the tests awake? Change one operator, constant or comparison at a time, and see whether a test fails.

    python tests/mutation.py --count 300 --seed 0 --jobs 2 --record benchmarks/results/mutation.json

Each mutant lives in a copy of the package; the user's files are never touched. A mutant that every test lets pass is a
survivor: either a test is missing, or the change makes no difference (EQUIVALENT below says which, and why).
R. DeMillo, R. Lipton, F. Sayward, "Hints on Test Data Selection" (1978).
"""

from __future__ import annotations

import argparse
import ast
import copy
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]

# What is mutated -> the tests that are nearest to it. The survivors of those face MORE.
TARGETS = {
    "minicnn/kernels/conv_winograd.py": ["test_kernels_conv_algorithms.py"],
    "minicnn/kernels/conv_shifted.py": ["test_kernels_conv_algorithms.py"],
    "minicnn/kernels/conv_fft.py": ["test_kernels_conv_algorithms.py"],
    "minicnn/kernels/conv_choice.py": ["test_kernels_conv_algorithms.py"],
    "minicnn/kernels/conv_im2col.py": ["test_kernels_conv.py", "test_kernels_tiles.py"],
    "minicnn/kernels/conv.py": ["test_kernels_conv.py"],
    "minicnn/kernels/im2col.py": ["test_kernels_geometry_im2col.py", "test_kernels_conv.py", "test_kernels_tiles.py"],
    "minicnn/kernels/geometry.py": ["test_kernels_geometry_im2col.py"],
    "minicnn/kernels/pool.py": ["test_kernels_pool.py", "test_kernels_tiles.py"],
    "minicnn/kernels/norm.py": ["test_kernels_norm.py", "test_kernels_tiles.py"],
    "minicnn/kernels/dense.py": ["test_kernels_dense.py"],
    "minicnn/kernels/dropout.py": ["test_kernels_dropout.py"],
    "minicnn/kernels/activations.py": ["test_kernels_activations.py"],
    "minicnn/kernels/softmax.py": ["test_kernels_softmax.py"],
    "minicnn/layers/activation.py": ["test_layers.py"],
    "minicnn/layers/base.py": ["test_layers.py"],
    "minicnn/layers/checks.py": ["test_layers.py"],
    "minicnn/layers/conv.py": ["test_layers.py"],
    "minicnn/layers/core.py": ["test_layers.py"],
    "minicnn/layers/normalization.py": ["test_layers.py"],
    "minicnn/layers/pooling.py": ["test_layers.py"],
    "minicnn/layers/weighted.py": ["test_layers.py"],
    "minicnn/losses.py": ["test_losses.py"],
    "minicnn/optimizers.py": ["test_optimizers.py"],
}
MORE = [
    "test_layers.py", "test_models.py", "test_fit.py", "test_shards.py", "test_inference.py", "test_bad_input.py",
    "test_saving.py", "test_summary.py", "test_gradcheck.py", "test_losses.py", "test_optimizers.py", "test_trace.py",
    "test_cuda_kernels.py", "test_negative_controls.py", "test_negative_controls_training.py", "test_freezing.py",
    *sorted(path.name for path in ROOT.glob("tests/test_kernels_*.py")),
]  # fmt: skip

# Constants that only say how the work is cut into pieces: any value gives the same numbers.
SPEED_ONLY = {
    "COLS_BYTES", "V_BYTES", "TILE_BYTES", "BLOCK", "SMALL_PRODUCT", "COLUMNS", "WINOGRAD_CHANNELS", "WINOGRAD_TILES",
    "FFT_TAPS", "FEW_CHANNELS", "RUN", "MAX_TERMS",
}  # fmt: skip
# Calls whose other arguments are only examples for an error message, or only guard against our own mistakes.
ONLY_WORDS = {"_optional", "_number", "checked_number", "zip"}
# A change that begins so -> why it makes no difference to the numbers. Some stand for all changes of a statement.
EQUIVALENT = {
    "rows = max(1, max(COLS_BYTES": "how many rows are in a tile",
    "step = max(1, min(n, rows": "how many images are in a tile",
    "band = oh if step > 1": "how many rows of an image are in a tile",
    "fit = max(1, v_bytes": "how many tiles are in a piece",
    "step, band = (max(1, min(n, fit": "how many tiles are in a piece",
    "for place, v in _input_tiles": "how many tiles are in a piece",
    "for (images, _), v in _input_tiles": "how many tiles are in a piece",
    "return min((2, 4), key=": "both tiles give the same numbers",
    "for factor in (2, 3, 5)": "any size that is large enough will do for the transform",
    "step = min(BLOCK": "how many numbers are in a piece",
    "zeros = xp_of(x).zeros(x.shape[1:]": "zeros of any shape that fits",
    "sample = x.reshape(count, c)[": "any guess of the mean will do",
    "if bool((mean * mean <= 16 * var": "whether the mean is taken off first: both ways give the same sums",
    "if xp_of(x) is not np or n * matrix.size": "whether long rows are cut",
    "rows, sums = (int(totals[0, 0])": "all columns of totals[0] are equal",
    "count, own_mean = (int(totals[0, 0]), mean)  ->  count, own_mean = (int(totals[0, 1])":
        "all columns of totals[0] are equal",
    "if rest == 1": "any size that is large enough will do for the transform",
    "able = ALGORITHMS": "whether an algorithm can do it does not depend on the number of images",
    "head = y[:1000]": "how many targets an error message looks at",
    "elif y.ndim == 2 and len(output_shape) == 1": "which advice an error gives",
    "return 'class numbers' if": "the words of an error",
    "mass = (target * inside).sum(axis=-1, keepdims=True)  ->  mass = (target * inside).sum(axis=+1":
        "the arrays have two axes",
    "if self.iterations % FLUSH_EVERY": "when numbers of 1e-38 become 0",
}

SWAPS: dict[type, type] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.LShift: ast.RShift,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip


class Mutant(NamedTuple):
    """One change. before, after: the line's expression. source: the whole file with the change."""

    file: str
    line: int
    before: str
    after: str
    source: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.change}"

    @property
    def change(self) -> str:
        return f"{self.before}  ->  {self.after}"


def mutants(file: str) -> list[Mutant]:
    """All mutants of a file."""
    source = (ROOT / file).read_text(encoding="utf-8")
    found = []
    for index, _ in enumerate(_changes(ast.parse(source))):
        tree = ast.parse(source)
        statement, change = next(c for i, c in enumerate(_changes(tree)) if i == index)
        before = ast.unparse(_head(statement))
        change()
        after = ast.unparse(_head(statement))
        mutant = Mutant(file, statement.lineno, before, after, ast.unparse(tree))
        if "reshape(" in before and "-2" in after and "-2" not in before:
            continue  # reshape takes any negative number for -1
        if before != after and not mutant.change.startswith(tuple(EQUIVALENT)):
            found.append(mutant)
    return found


def _head(statement: ast.AST) -> ast.AST:
    """The statement without the block that it opens."""
    head = copy.deepcopy(statement)
    if hasattr(head, "body") and isinstance(head.body, list):
        head.body = [ast.Expr(ast.Constant(...))]
        for other in ("orelse", "finalbody", "handlers"):
            if hasattr(head, other):
                setattr(head, other, [])
    return head


def _changes(tree: ast.AST) -> Iterator[tuple[ast.stmt, object]]:
    """(statement, function that makes the change) for every place that can be changed."""
    for statement in ast.walk(tree):
        if not isinstance(statement, ast.stmt) or _is_left_alone(statement):
            continue
        for node in _own_nodes(statement):
            yield from ((statement, change) for change in _changes_of(node))


def _is_left_alone(statement: ast.stmt) -> bool:
    """Error messages, type hints and constants for speed are not what is tested here."""
    if isinstance(statement, (ast.Raise, ast.Import, ast.ImportFrom, ast.ClassDef)):
        return True
    if isinstance(statement, (ast.Assign, ast.AnnAssign)):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        return any(isinstance(t, ast.Name) and t.id in SPEED_ONLY | {"Array", "Tile", "AllReduce"} for t in targets)
    return isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING"


def _own_nodes(statement: ast.stmt) -> Iterator[ast.AST]:
    """The nodes of a statement, but not of the statements inside it, its type hints and texts."""
    stack: list[ast.AST] = [statement]
    while stack:
        node = stack.pop()
        yield node
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns", "decorator_list", "type_params"):
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST) and not isinstance(child, (ast.stmt, ast.JoinedStr)):
                    if isinstance(child, ast.Call) and _name(child.func).endswith(("Error", "unknown_name")):
                        continue
                    in_words = isinstance(node, ast.Call) and _name(node.func) in ONLY_WORDS
                    if in_words and isinstance(child, ast.Constant):
                        continue
                    if isinstance(child, ast.keyword) and child.arg in ("strict", "copy"):
                        continue
                    stack.append(child)


def _name(function: ast.AST) -> str:
    return ast.unparse(function).rpartition(".")[2]


def _changes_of(node: ast.AST) -> Iterator[object]:
    def setter(name: str, value: object) -> object:
        return lambda: setattr(node, name, value)

    if isinstance(node, (ast.BinOp, ast.BoolOp, ast.AugAssign)) and type(node.op) in SWAPS:
        yield setter("op", SWAPS[type(node.op)]())
    elif isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
        yield setter("ops", [SWAPS[type(node.ops[0])](), *node.ops[1:]])
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield setter("op", ast.UAdd())
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield setter("operand", ast.UnaryOp(ast.Not(), node.operand))
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield setter("value", not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        yield setter("value", node.value + 1 if isinstance(node.value, int) else node.value * 1.5 + 0.1)


def survives(mutant: Mutant, tree: Path) -> bool:
    """Whether the tests pass although the mutant is in place; `tree` is a copy of the project."""
    path = tree / mutant.file
    original = path.read_text(encoding="utf-8")
    path.write_text(mutant.source, encoding="utf-8")
    try:
        near = TARGETS[mutant.file]
        return _pass(tree, near) and _pass(tree, [name for name in MORE if name not in near])
    finally:
        path.write_text(original, encoding="utf-8")


def _pass(tree: Path, tests: list[str]) -> bool:
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--device", "cpu",
               *(f"tests/{t}" for t in tests)]  # fmt: skip
    try:
        done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, timeout=600)
    except subprocess.TimeoutExpired:
        return False  # a mutant that hangs is noticed, too
    return done.returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=300, help="how many mutants, drawn from all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", default="", help="mutate only files whose name contains this")
    parser.add_argument("--again", help="a record: try only its survivors, after tests or EQUIVALENT were added to")
    parser.add_argument("--record", help="write what was measured to a JSON file")
    args = parser.parse_args()

    everything = [mutant for file in TARGETS if args.only in file for mutant in mutants(file)]
    chosen = random.Random(args.seed).sample(everything, min(args.count, len(everything)))
    tried = len(chosen)
    if args.again:
        earlier = json.loads(Path(args.again).read_text(encoding="utf-8"))
        survivors = {tuple(text.split(":", 2)[::2]) for text in earlier["survivors"]}
        chosen = [mutant for mutant in everything if (mutant.file, f" {mutant.change}") in survivors]
        tried = earlier["tried"] - (len(survivors) - len(chosen))  # the others are known to make no difference now
    print(f"{len(everything)} mutants are possible, {len(chosen)} are tried.", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        trees: SimpleQueue[Path] = SimpleQueue()
        for k in range(args.jobs):
            tree = Path(folder) / str(k)
            for part in ("minicnn", "tests", "setup.cfg", "pyproject.toml", "examples", "benchmarks", "docs",
                         "README.md", "LEARN.md"):
                source = ROOT / part
                (shutil.copytree if source.is_dir() else shutil.copy)(source, _made(tree) / part)
            trees.put(tree)
        if not _pass(Path(folder) / "0", MORE):
            raise SystemExit("error: the tests fail already without a mutant; mend that first.")

        done: list[Mutant] = []

        def judge(mutant: Mutant) -> bool:
            tree = trees.get()
            try:
                alive = survives(mutant, tree)
            finally:
                trees.put(tree)
            done.append(mutant)
            if alive:
                print(f"{len(done)}: survived  {mutant}", flush=True)
            return alive

        with ThreadPoolExecutor(args.jobs) as pool:
            alive = [mutant for mutant, lives in zip(chosen, pool.map(judge, chosen), strict=True) if lives]
    print(f"{len(alive)} of {tried} mutants survived: {len(alive) / max(1, tried):.1%}")
    if args.record:
        sys.path.insert(0, str(ROOT / "benchmarks"))
        from record import write_record

        write_record(args.record, {
            "seed": args.seed, "possible": len(everything), "tried": tried, "survived": len(alive),
            "survivors": [str(mutant) for mutant in alive],
        })  # fmt: skip


def _made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


if __name__ == "__main__":
    main()
