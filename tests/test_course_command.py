"""The course as a learner meets it: the commands, the files, and a grader that no honest mistake can fool or harm."""

from __future__ import annotations

import json
import linecache
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

import minicnn
from minicnn.__main__ import main
from minicnn.course import check, checking, cut, files
from minicnn.course.say import TOO_MUCH_MEMORY
from minicnn.course.table import STEPS

ROOT = Path(minicnn.__file__).parents[1]
PART = files.PARTS["relu_forward"]
RIGHT = "import numpy as np\n\n\ndef relu_forward(x):\n    return np.maximum(x, 0)\n"


def body(*lines, head="import numpy as np\n"):
    return "\n".join([head, "", "def relu_forward(x):", *(f"    {line}" for line in lines), ""])


# what is wrong -> (the file's text, what is said)
WRONG = {
    "nothing is wrong": (RIGHT, "$"),
    "prints": (body("print('hello', x.shape)", "return np.maximum(x, 0)"), "$"),
    "prints without end": (body("for _ in range(3000):", "    print('x' * 1000)", "return np.maximum(x, 0)"), "$"),
    "syntax": ("def relu_forward(x)\n    return x\n", "Line 1 is not Python: expected ':'.*\\^"),
    "empty": ("", "is empty"),
    "only blanks": ("\n  \n", "is empty"),
    "a null character": ("def relu_forward(x):\n    return '\0'\n", "not Python|cannot be read"),
    "an error": (body("y = x.copy()", "return y[99]"), "Line 6: return y\\[99\\]\nIndexError: index 99"),
    "a name that is missing": (body("return nump.maximum(x, 0)"), "Line 5: .*\nNameError"),
    "an error when it is read": ("1 / 0\n" + RIGHT, "stops in line 1 when it is read: ZeroDivisionError"),
    "a wrong shape": (body("return np.maximum(x, 0).T[:1]"), "y has shape \\(1, 2\\), expected shape \\(2, 2\\)"),
    "no return": (body("np.maximum(x, 0)"), "returns None: is a `return` missing"),
    "a list": (body("return [0]"), "y is list \\[0\\], expected an array"),
    "text": (body("return np.array([['a', 'b'], ['c', 'd']])"), "dtype <U1, expected numbers"),
    "other arguments": ("def relu_forward():\n    return 0\n", "TypeError: relu_forward\\(\\) got an unexpected"),
    "an endless loop": (body("while True:", "    pass"), "Stage 1: stopped after 1.5 seconds: an endless.*line [56]"),
    "an endless loop when it is read": (RIGHT + "while 1:\n    pass\n", "While the file was read: stopped.*line [67]"),
    "sleep by arithmetic": (body("return sum(range(10**11)) * x"), "Stage 1: stopped after.*line 5"),
    "recursion": (body("return relu_forward(x)"), "calls itself without end"),
    "memory": (body("return np.ones((10**6, 10**6))"), "more memory than an exercise may have"),
    "memory that grows": (body("a = [x]", "while True:", "    a = a + a"), "more memory than|stopped after|crashed"),
    "a crash": (body("return np.lib.stride_tricks.as_strided(x, (10**9, 10**3), (10**6, 10**9)).copy()"),
                "crashed|more memory"),
    "sys.exit": (body("raise SystemExit(0)"), "It ended the program"),
    "sys.exit when it is read": ("raise SystemExit(0)\n" + RIGHT, "stops in line 1 when it is read: SystemExit"),
    "KeyboardInterrupt": (body("raise KeyboardInterrupt"), "crashed|KeyboardInterrupt"),
    "quit": (body("quit()"), "Line 5 uses quit"),
    "input": (body("return input()"), "Line 5 uses input"),
    "imports the answer": ("from minicnn.kernels import relu_forward\n", "No function|imports"),
    "imports the answer and wraps it": (
        "from minicnn.kernels import relu_forward as f\n\n\ndef relu_forward(x):\n    return f(x)\n",
        "Line 1 imports relu_forward from minicnn.kernels: that is the answer"),
    "imports the package": (body("return minicnn.kernels.relu_forward(x)", head="import minicnn.kernels"),
                            "Line 1 imports minicnn.kernels: that is the answer"),
    "imports it inside": (body("from minicnn.kernels.reference import relu_forward as f", "return f(x)"),
                          "Line 5 imports relu_forward"),
    "imports all": ("from minicnn.kernels.reference import *\n" + RIGHT, "Line 1 imports \\*"),
    "imports relatively": ("from . import kernels\n" + RIGHT, "Line 1 imports kernels"),
    "imports by name": (body("return __import__('minicnn').kernels.relu_forward(x)"), "Line 5 uses __import__"),
    "importlib": ("import importlib\n" + RIGHT, "Line 1 imports importlib: an exercise may import NumPy"),
    "os": ("import os\n" + RIGHT, "Line 1 imports os"),
    "threads": ("import threading\n" + RIGHT, "Line 1 imports threading"),
    "another framework": ("import torch\n" + RIGHT, "Line 1 imports torch"),
    "eval": (body("return eval('x')"), "Line 5 uses eval"),
    "by the back door": (body("return np.maximum.__class__"), "Line 5 uses __class__"),
    "NumPy changed": ("import numpy as np\n\nnp.abs = lambda x: 0 * x\n" + RIGHT, "Line 3 changes np.abs"),
    "a matrix": (body("return np.maximum(x, 0).view(np.matrix)"), "y is a matrix, expected a plain array"),
    "globals": (body("return globals()"), "Line 5 uses globals"),
    "the name assigned to something else": (RIGHT + "relu_forward = np.abs\n", "not what this file defines"),
    "the name assigned to a class": (RIGHT + "class relu_forward:\n    pass\n", "not what this file defines"),
    "the name deleted": (RIGHT + "del relu_forward\n", "relu_forward is gone"),
    "a decorator": ("import functools\n\n@functools.cache\ndef relu_forward(x):\n    return x\n", "not what this file"),
    "imports what another exercise may": (
        "from minicnn.kernels.reference import conv2d_product as f\n\n\n"
        "def relu_forward(x):\n    return f(x, x)\n\n\ndef conv2d_dx_turned():\n    pass\n",
        "conv2d_product is the answer, or leads to it"),
    "a helper in another function": (
        "from minicnn.kernels.reference import pair\n" + RIGHT + "\n\ndef im2col(x):\n    return pair(x)\n", "$"),
    "a file of several exercises": (
        "from minicnn.kernels.reference import output_size, pair\n" + RIGHT + "\n\ndef output_length(*a, **k):\n"
        "    return output_size(*a, **k)[0]\n\n\ndef im2col(x):\n    return pair(x)\n", "$"),
    "nothing is wrong, after all this": (RIGHT, "$"),
}  # fmt: skip


def test_what_is_said_of_files():
    """All of them graded in one go, as `list` does: what one does must not touch the next."""
    sources = [checking.Source(f"{name}.py", text, ["relu_forward"]) for name, (text, _) in WRONG.items()]
    verdicts = {v.file.removesuffix(".py"): v for v in reversed(checking.grade_sources(sources, limit=1.5))}
    wrong = {}
    for name, (_, said) in WRONG.items():
        verdict = verdicts[name]
        words = "\n".join([verdict.problem, *(f"{text}\n{hint}" for _, ok, text, hint in verdict.results if not ok)])
        as_it_should = verdict.passed if said == "$" else not verdict.passed and re.search(said, words, re.DOTALL)
        if not as_it_should or "Traceback" in words:
            wrong[name] = words
    assert wrong == {}
    assert "hello (2, 2)" in verdicts["prints"].printed
    assert verdicts["prints without end"].printed.count("x") < 20000


@pytest.mark.parametrize("code", ["np.ones(10**8)", "[np.ones(10**5) for _ in range(10**4)]", "time.sleep(0.1)"])
def test_memory_is_limited_where_the_system_does_not(code):
    program = f"""
import sys, time, numpy as np
from minicnn.course.child import limit_memory
limit_memory(sys.stderr, size=10**8, by_the_system=False)
kept = {code}
time.sleep(0.2)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    run = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert (run.returncode, TOO_MUCH_MEMORY in run.stderr) == ((0, False) if "sleep" in code else (1, True))


def test_a_child_that_was_ended_for_its_memory():
    problem, _ = checking._how_it_ended(1, TOO_MUCH_MEMORY, "", 1.0)
    assert problem.startswith("It asked for more memory")


def test_a_file_may_be_moved_renamed_and_hold_several_functions(tmp_path, capsys):
    folder = tmp_path / "a folder with spaces, ümlauts & more"
    folder.mkdir()
    path = folder / "my own (1).py"
    path.write_text(RIGHT + "\n\ndef relu_backward(dy, y):\n    return dy * (y > 0)\n", encoding="utf-8")
    assert main(["course", "check", str(path)]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"relu_forward of {path}, line 4\n")
    assert f"relu_backward of {path}, line 8\n" in said
    for number, title in enumerate(("a worked case", "the reference", "the gradient", "inputs", "plugged in"), start=1):
        assert f"\n{number}  {title}" in said
    assert "the framework's losses" in said
    assert "The reference does it so:" in said and "+++ the reference" in said
    assert "minicnn/kernels/activations.py, line" in said and "@cuda.on_gpu" in said
    assert said.rstrip().endswith("Next: python -m minicnn course start dense")


def test_the_first_function_that_fails_ends_the_check(tmp_path, capsys):
    path = tmp_path / "both.py"
    path.write_text("def relu_forward(x):\n    return x\n\n\ndef relu_backward(dy, y):\n    return dy * (y > 0)\n")
    assert main(["course", "check", str(path)]) == 1
    said = capsys.readouterr().out
    assert "1  a worked case: NOT YET" in said and "Yours is" in said
    assert "relu_backward of" not in said
    assert "course hint relu_forward" in said


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gone.py", "this file does not exist"),
        ("", "this is a folder"),
        ("notes.txt", "this is no Python file"),
        ("latin.py", "it cannot be read"),
        ("broken.ipynb", "it cannot be read"),
    ],
)
def test_files_that_are_none(tmp_path, capsys, name, said):
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "latin.py").write_bytes("# ü\n".encode("latin-1"))
    (tmp_path / "broken.ipynb").write_text("{}")
    assert main(["course", "check", str(tmp_path / name)]) == 2
    assert said in capsys.readouterr().err


def test_a_file_without_a_function_of_the_course(tmp_path, capsys):
    (tmp_path / "other.py").write_text("def relu(x):\n    return x\n")
    assert main(["course", "check", str(tmp_path / "other.py")]) == 1
    said = capsys.readouterr().out
    assert "nothing was checked" in said and "must keep its name" in said


def test_paths_of_windows_go_through(tmp_path):
    """Backslashes, a drive and blanks in the name by which the child knows a file."""
    path = "C:\\Users\\Ada Byron\\course\\04a_relu_forward.py"
    text = body("return 1 / 0 * x")
    (verdict,) = checking.grade_sources([checking.Source(path, text, ["relu_forward"])])
    assert (verdict.file, verdict.line) == (path, 4)
    assert "Line 5: return 1 / 0 * x\nZeroDivisionError" in verdict.results[0][2]
    trace = f'Timeout (0:00:01)!\n  File "{path}", line 7 in relu_forward\n'
    events = [{"file": 0, "event": "file", "printed": ""}]
    ended = checking._how_it_ended(1, trace, "", 1.0)
    (verdict,) = checking._verdicts([checking.Source(path, text, ["relu_forward"])], events, ended)
    assert verdict.problem.endswith("in line 7.")
    for step in STEPS:
        for part in step.parts:
            assert re.fullmatch(r"[a-z0-9_]+\.py", files.file_name(step, part))


# ---- start, list, hint, solution -------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_way_of_a_beginner(folder, capsys):
    """list, start, check, hint, solution, check, start: with nothing but what is printed."""
    assert main(["course"]) == 0
    said = capsys.readouterr().out
    assert [line.split()[0] for line in said.splitlines()[:16]] == [step.name for step in STEPS]
    assert all(re.match(r"[a-z0-9-]+ +to do +\d+ min  ", line) for line in said.splitlines()[:16])
    assert said.rstrip().endswith("Next: python -m minicnn course start")

    assert main(["course", "start"]) == 0
    said = capsys.readouterr().out
    assert "Step 1 of 16" in said and "count = 3" in said
    assert "course check 01_output_length.py" in said
    assert os.listdir() == ["01_output_length.py"]

    assert main(["course", "check", "01_output_length.py"]) == 1
    said = capsys.readouterr().out
    assert said.startswith("output_length of 01_output_length.py, line 14")
    assert re.search(r"not written yet \(line \d+\)\. TODO: write output_length here", said)

    assert main(["course", "hint", "output-size"]) == 0
    assert "course hint output-size 2" in capsys.readouterr().out
    assert main(["course", "hint", "output_length", "3"]) == 0
    said = capsys.readouterr().out
    assert "    while …:\n        start, count = …\n" in said and "course solution output_length" in said

    assert main(["course", "solution", "1"]) == 0
    said = capsys.readouterr().out
    assert "as it stands in minicnn/kernels/reference.py, line" in said and "while start + (kernel - 1)" in said
    before = Path("01_output_length.py").read_text()
    assert main(["course", "solution", "1", "--write"]) == 0
    assert "01_output_length.py.old" in capsys.readouterr().out
    assert Path("01_output_length.py.old").read_text() == before

    assert main(["course", "check", "output-size"]) == 0
    said = capsys.readouterr().out
    assert "word by word" in said and said.rstrip().endswith("Next: python -m minicnn course start padding")
    assert main(["course", "start"]) == 0
    assert "Step 2 of 16" in capsys.readouterr().out
    assert main(["course", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("output-size       passed")
    assert lines[1].startswith("padding           started")
    assert lines[-1] == "Next: python -m minicnn course check 02_same_padding.py"


def test_nothing_that_is_there_is_overwritten(folder, capsys):
    Path("04a_relu_forward.py").write_text(RIGHT)
    assert main(["course", "start", "relu"]) == 0
    said = capsys.readouterr().out
    assert "04a_relu_forward.py (is there already, and stays as it is)" in said
    assert Path("04a_relu_forward.py").read_text() == RIGHT
    for n in ("old", "old2"):
        Path("04a_relu_forward.py").write_text(RIGHT + f"# {n}\n")
        assert main(["course", "solution", "relu_forward", "--write"]) == 0
        assert Path(f"04a_relu_forward.py.{n}").read_text().endswith(f"# {n}\n")


def test_states_come_from_the_files(folder):
    Path("a.py").write_text(RIGHT)
    Path("b.py").write_text("def relu_backward(dy, y):\n    return dy\n")
    Path("c.py").write_text("def output_length(:\n")
    Path("d.py").write_text(cut.exercise(STEPS[8], STEPS[8].parts[0], 9, 16, "d.py"))
    states = checking.states(folder)
    assert states["relu_forward"] == "passed"
    assert states["relu_backward"] == "not right yet"
    assert states["output_length"] == "to do"
    assert states["im2col"] == "started"
    steps = checking.step_states(folder)
    assert (steps["relu"], steps["im2col"], steps["dense"]) == ("not right yet", "started", "to do")
    Path("b.py").unlink()
    assert checking.step_states(folder)["relu"] == "1 of 2 passed"


def test_watch_checks_again_when_the_file_is_saved(folder, capsys, monkeypatch):
    path = Path("relu.py")
    path.write_text("def relu_forward(x):\n    return x\n")

    def save(_):
        path.write_text(RIGHT)
        os.utime(path, ns=(1, 1))

    monkeypatch.setattr("minicnn.course.command.time.sleep", save)
    assert main(["course", "check", "relu.py", "--watch"]) == 0
    said = capsys.readouterr().out
    assert said.count("relu_forward of relu.py") == 2 and "Waiting for relu.py" in said


def test_what_is_missing_or_misspelt_is_said(folder, capsys):
    for arguments, said in (
        (["check"], "a name is missing"),
        (["start", "dropuot"], "did you mean 'dropout'"),
        (["check", "relu"], "no file here defines relu_forward"),
        (["list", "--folder", "nowhere"], "there is no such folder"),
        (["run", "tyo"], "did you mean 'toy'"),
        (["run", "toy", "--images", "3"], "less than one batch"),
    ):
        assert main(["course", *arguments]) == 2
        assert said in capsys.readouterr().err


def test_a_file_of_the_same_name_that_is_no_exercise_stays(folder, capsys):
    Path("01_output_length.py").write_text("# notes\n")
    assert main(["course", "start", "1"]) == 0
    assert Path("01_output_length.py").read_text() == "# notes\n"


# ---- notebooks -------------------------------------------------------------------------------------------------------


def cell(text, name="relu_forward"):
    """A function as a notebook makes it: its text is known to linecache alone."""
    file = f"<ipython-input-{abs(hash(text))}>"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    names = {}
    exec(compile(text, file, "exec"), names)
    return names[name]


def test_a_notebook_is_written_and_checked(folder, capsys):
    assert main(["course", "start", "relu", "--notebook"]) == 0
    assert "Open 04a_relu_forward.ipynb with Jupyter" in capsys.readouterr().out
    notebook = json.loads(Path("04a_relu_forward.ipynb").read_text(encoding="utf-8"))
    text = "".join(notebook["cells"][1]["source"])
    check(cell(text))
    said = capsys.readouterr().out
    assert said.startswith("relu_forward of your cell, line ") and "not written yet" in said
    check(cell(text.replace(cut.stub("relu_forward").rstrip(), "    return x * (x > 0)")))
    assert "passes all five stages" in capsys.readouterr().out

    notebook["cells"][1]["source"] = ["%matplotlib inline\n", RIGHT]
    Path("04a_relu_forward.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    assert main(["course", "check", "04a_relu_forward.ipynb"]) == 0
    assert checking.states(folder)["relu_forward"] == "passed"
    capsys.readouterr()
    assert main(["course", "solution", "relu_forward", "--write"]) == 2
    assert "it is a notebook" in capsys.readouterr().err


def test_check_of_what_is_no_exercise():
    with pytest.raises(ValueError, match="no function of the course"):
        check(np.maximum)
    unknown = types.FunctionType(cell(RIGHT).__code__.replace(co_filename="<nowhere>"), {}, "relu_forward")
    with pytest.raises(ValueError, match="text of this function is not known"):
        check(unknown)


# ---- installed -------------------------------------------------------------------------------------------------------


def test_what_is_installed_has_the_course(tmp_path):
    """What a wheel holds, in a folder with a blank in its name; the learner has files named like standard modules."""
    pytest.importorskip("setuptools", reason="setuptools puts together what is installed: pip install setuptools")
    source, target, learner = tmp_path / "source", tmp_path / "site packages", tmp_path / "learner's folder"
    source.mkdir()
    learner.mkdir()
    for name in ("minicnn", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        os.symlink(ROOT / name, source / name)
    build = [sys.executable, "-c", "import setuptools; setuptools.setup()", "-q", "build_py", "--build-lib", target]
    subprocess.run(build, cwd=source, check=True, capture_output=True)
    for name in ("json.py", "random.py", "numpy.py"):
        (learner / name).write_text("raise ImportError('the wrong one')\n")
    (learner / "mine.py").write_text(RIGHT)
    start = f"import sys; sys.path = [{str(target)!r}] + [p for p in sys.path if p]; " \
        "from minicnn.__main__ import main; sys.exit(main(sys.argv[1:]))"  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    for arguments, said in ((["start", "padding"], "Step 2 of 16"), (["check", "mine.py"], "passes all five stages")):
        run = subprocess.run([sys.executable, "-P" if sys.version_info >= (3, 11) else "-B", "-c", start, "course",
                              *arguments], cwd=learner, env=environment, capture_output=True, text=True)  # fmt: skip
        assert run.returncode == 0, run.stderr
        assert said in run.stdout
    assert (learner / "02_same_padding.py").exists()
